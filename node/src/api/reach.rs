//! How the node is reached and by which way its packets go to a peer, in the words of the API.

use remote_network_core::command::{PathView, PunchCount, ReachView, RelayUse};
use serde::Serialize;

/// How others reach the node; part of `GET /status`.
#[derive(Serialize)]
pub struct ReachDto {
    nat: &'static str,
    nat_words: String,
    mapped: Vec<String>,
    relays: Vec<RelayUseDto>,
    relay_words: String,
    punches: Vec<PunchDto>,
}

#[derive(Serialize)]
struct RelayUseDto {
    relay: String,
    addr: String,
    active: bool,
}

#[derive(Serialize)]
struct PunchDto {
    ours: &'static str,
    theirs: &'static str,
    tried: u32,
    punched: u32,
    first_try: u32,
}

impl From<&ReachView> for ReachDto {
    fn from(v: &ReachView) -> Self {
        Self {
            nat: v.nat.as_str(),
            nat_words: v.nat_words.clone(),
            mapped: v.mapped.iter().map(ToString::to_string).collect(),
            relays: v.relays.iter().map(RelayUseDto::from).collect(),
            relay_words: v.relay_words.clone(),
            punches: v.punches.iter().map(PunchDto::from).collect(),
        }
    }
}

impl From<&RelayUse> for RelayUseDto {
    fn from(v: &RelayUse) -> Self {
        Self { relay: v.relay.to_string(), addr: v.addr.to_string(), active: v.active }
    }
}

impl From<&PunchCount> for PunchDto {
    fn from(v: &PunchCount) -> Self {
        Self {
            ours: v.ours.as_str(),
            theirs: v.theirs.as_str(),
            tried: v.tried,
            punched: v.punched,
            first_try: v.first_try,
        }
    }
}

/// The way to a peer, and what became of the others; part of a peer.
#[derive(Serialize)]
pub struct PathDto {
    place: String,
    kind: &'static str,
    since: u64,
    rtt_us: Option<u64>,
    tried: Vec<TriedDto>,
}

#[derive(Serialize)]
struct TriedDto {
    place: String,
    outcome: String,
    at: u64,
}

impl From<&PathView> for PathDto {
    fn from(v: &PathView) -> Self {
        let tried = v.tried.iter().map(|(place, outcome, at)| TriedDto {
            place: place.clone(),
            outcome: outcome.clone(),
            at: at.as_millis(),
        });
        Self {
            place: v.place.clone(),
            kind: v.kind.as_str(),
            since: v.since.as_millis(),
            rtt_us: v.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            tried: tried.collect(),
        }
    }
}
