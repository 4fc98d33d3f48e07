//! How the node is reached, by which way its packets go to a peer, and what it does as a relay for others.

use super::error::ApiError;
use super::node::{Done, key_of};
use super::objects::on_store_thread;
use super::routes::{Json, Params};
use super::state::ApiState;
use crate::ports::store::{Entry, PAGE_ROWS_MAX, StoreError, Totals};
use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use remote_network_core::command::{Command, PathView, PunchCount, ReachView, RelayUse, RelayView, Reply};
use remote_network_core::dht::record::NatType;
use remote_network_core::relay::server::{DropReason, SessionView, Usage};
use remote_network_core::time::UnixTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

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
            nat: nat_name(v.nat),
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
            ours: nat_name(v.ours),
            theirs: nat_name(v.theirs),
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

const fn nat_name(nat: NatType) -> &'static str {
    match nat {
        NatType::Unknown => "unknown",
        NatType::Open => "open",
        NatType::FullCone => "full cone",
        NatType::RestrictedCone => "restricted cone",
        NatType::PortRestrictedCone => "port-restricted cone",
        NatType::Symmetric => "symmetric",
    }
}

/// The node as a relay.
#[derive(Serialize)]
pub struct RelayDto {
    willing: bool,
    proven: bool,
    serving: bool,
    closing: bool,
    reserved: usize,
    visitors: usize,
    sessions_max: usize,
    waiting_bytes: usize,
    accepted: u64,
    refused: u64,
    usage: UsageDto,
    sessions: Vec<SessionDto>,
    blocked: Vec<String>,
}

#[derive(Serialize)]
struct UsageDto {
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
    dropped: BTreeMap<&'static str, u64>,
}

impl From<&Usage> for UsageDto {
    fn from(u: &Usage) -> Self {
        let drops = DropReason::ALL.iter().map(|why| (why.as_str(), u.drops(*why)));
        Self {
            packets_in: u.packets_in,
            bytes_in: u.bytes_in,
            packets_out: u.packets_out,
            bytes_out: u.bytes_out,
            dropped: drops.filter(|(_, n)| *n > 0).collect(),
        }
    }
}

#[derive(Serialize)]
struct SessionDto {
    peer: String,
    session: String,
    kind: &'static str,
    addr: String,
    since: u64,
    usage: UsageDto,
    waiting_bytes: usize,
}

impl From<&SessionView> for SessionDto {
    fn from(v: &SessionView) -> Self {
        Self {
            peer: v.peer.to_string(),
            session: hex(&v.session),
            kind: v.kind.as_str(),
            addr: v.addr.to_string(),
            since: v.since.as_millis(),
            usage: UsageDto::from(&v.usage),
            waiting_bytes: v.waiting,
        }
    }
}

impl From<&RelayView> for RelayDto {
    fn from(v: &RelayView) -> Self {
        Self {
            willing: v.willing,
            proven: v.proven,
            serving: v.stats.serving,
            closing: v.stats.closing,
            reserved: v.stats.reserved,
            visitors: v.stats.visitors,
            sessions_max: v.stats.sessions_max,
            waiting_bytes: v.stats.waiting,
            accepted: v.stats.accepted,
            refused: v.stats.refused,
            usage: UsageDto::from(&v.stats.usage),
            sessions: v.sessions.iter().map(SessionDto::from).collect(),
            blocked: v.blocked.iter().map(ToString::to_string).collect(),
        }
    }
}

/// `GET /relay`
pub async fn show(State(state): State<ApiState>) -> Result<Answer<RelayDto>, ApiError> {
    match state.ask(Command::Relay).await? {
        Reply::Relay(view) => Ok(Answer(RelayDto::from(view.as_ref()))),
        other => Err(ApiError::unexpected(&other)),
    }
}

/// Whose session is to end.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disconnect {
    peer: String,
}

/// `POST /relay/disconnect`
pub async fn disconnect(
    State(state): State<ApiState>,
    Json(request): Json<Disconnect>,
) -> Result<Answer<Done>, ApiError> {
    let key = key_of(&state, &request.peer).await?;
    Done::of(&state.ask(Command::RelayDisconnect(key)).await?)
}

/// Which rows of the books: those that end at `since` (milliseconds since 1970) or later and have a number above `after`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    #[serde(default)]
    since: u64,
    #[serde(default)]
    after: u64,
    limit: Option<u32>,
}

/// Rows of the books, and what all sessions cost today and in the thirty days before (days of UTC).
#[derive(Serialize)]
pub struct BooksDto {
    rows: Vec<RowDto>,
    /// `after` of the next page, if there may be one.
    next: Option<u64>,
    today: TotalsDto,
    days_30: TotalsDto,
    /// Rows that could not be written since the start.
    lost: u64,
}

#[derive(Serialize)]
struct RowDto {
    id: u64,
    peer: String,
    session: String,
    kind: &'static str,
    addr: String,
    since: u64,
    from: u64,
    to: u64,
    ended: bool,
    usage: UsageDto,
}

impl From<&Entry> for RowDto {
    fn from(Entry { id, account: a }: &Entry) -> Self {
        Self {
            id: *id,
            peer: a.peer.to_string(),
            session: hex(&a.session),
            kind: a.kind.as_str(),
            addr: a.addr.to_string(),
            since: a.since.as_millis(),
            from: a.from.as_millis(),
            to: a.to.as_millis(),
            ended: a.ended,
            usage: UsageDto::from(&a.usage),
        }
    }
}

#[derive(Serialize)]
struct TotalsDto {
    sessions_ended: u64,
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
    dropped: u64,
}

impl From<Totals> for TotalsDto {
    fn from(t: Totals) -> Self {
        Self {
            sessions_ended: t.sessions,
            packets_in: t.packets_in,
            bytes_in: t.bytes_in,
            packets_out: t.packets_out,
            bytes_out: t.bytes_out,
            dropped: t.dropped,
        }
    }
}

/// `GET /relay/accounts`
pub async fn accounts(
    State(state): State<ApiState>,
    Params(which): Params<Which>,
) -> Result<Answer<BooksDto>, ApiError> {
    let book = state.books.clone();
    let read = move || -> Result<BooksDto, StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::from_millis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let limit = which.limit.unwrap_or(PAGE_ROWS_MAX).min(PAGE_ROWS_MAX);
        let rows = book.rows(UnixTime::from_millis(which.since), which.after, limit)?;
        let full = limit > 0 && rows.len() == limit as usize;
        Ok(BooksDto {
            next: rows.last().map(|last| last.id).filter(|_| full),
            rows: rows.iter().map(RowDto::from).collect(),
            today: book.totals(now, 0)?.into(),
            days_30: book.totals(now, 30)?.into(),
            lost: book.lost(),
        })
    };
    on_store_thread(&state, read).await?.map(Answer).map_err(|e| {
        let hint = "check the disk and the node's log";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "store_failed", e.to_string(), hint)
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
