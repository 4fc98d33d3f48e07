//! Who gets a session.
//!
//! Sessions are few and strangers are many, so what one of them can take is bounded in all directions: sessions in all and
//! of each kind, sessions and bytes of one address (an IPv6 site counts as one), sessions made in a second. Neither
//! reservations nor visitors can take the last quarter of the sessions from each other: reservations that nobody can visit
//! would be worth as little as a relay that nobody is reserved at.

use super::Config;
use super::session::Kind;
use crate::id::PublicKey;
use crate::relay::bucket::Bucket;
use crate::relay::message::Why;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Peers that the operator does not want.
pub const BLOCKED_MAX: usize = 4_096;
/// Peers sent away for a while that are remembered; the one that may come back first goes first.
pub const AWAY_MAX: usize = 256;
/// A burst is what a rate gives in a quarter of a second: more than a round trip, so that a window that begins does not
/// lose what the rate would allow.
const BURST_OF_SECOND: u64 = 4;
/// Smallest burst in bytes: a first window of QUIC and some more.
const BURST_BYTES_MIN: u64 = 64 * 1024;

/// A bucket for bytes.
pub(super) fn byte_bucket(rate: u64, now: Instant) -> Bucket {
    Bucket::new(rate, (rate / BURST_OF_SECOND).max(BURST_BYTES_MIN), now)
}

/// What counts as one address: an IPv4 address, or the /64 of an IPv6 address.
fn site(addr: SocketAddr) -> IpAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[derive(Debug)]
struct Site {
    sessions: usize,
    bucket: Bucket,
}

/// What was given out, and to whom nothing is.
#[derive(Debug)]
pub(super) struct Admission {
    reserved: usize,
    visitors: usize,
    sites: BTreeMap<IpAddr, Site>,
    made: Bucket,
    blocked: BTreeSet<PublicKey>,
    away: BTreeMap<PublicKey, Instant>,
}

impl Admission {
    pub(super) fn new(config: &Config) -> Self {
        let made =
            Bucket::new(config.accepts_per_second.into(), config.accepts_at_once.into(), Instant::ZERO);
        Self {
            reserved: 0,
            visitors: 0,
            sites: BTreeMap::new(),
            made,
            blocked: BTreeSet::new(),
            away: BTreeMap::new(),
        }
    }

    /// Sessions of a kind.
    pub(super) fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Reserved => self.reserved,
            Kind::Visitor => self.visitors,
        }
    }

    fn count_mut(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Reserved => &mut self.reserved,
            Kind::Visitor => &mut self.visitors,
        }
    }

    /// Sessions in all.
    pub(super) fn sessions(&self) -> usize {
        self.reserved + self.visitors
    }

    fn room(&self, config: &Config, kind: Kind) -> Result<(), Why> {
        if self.count(kind) >= config.sessions_max - config.sessions_max / 4 {
            Err(Why::Full)
        } else {
            Ok(())
        }
    }

    /// Takes a place for a session, if there is one.
    pub(super) fn admit(
        &mut self,
        config: &Config,
        now: Instant,
        peer: &PublicKey,
        addr: SocketAddr,
        kind: Kind,
    ) -> Result<(), Why> {
        self.wanted(now, peer)?;
        self.room(config, kind)?;
        if self.sessions() >= config.sessions_max {
            return Err(Why::Full);
        }
        let site = site(addr);
        if self.sites.get(&site).is_some_and(|s| s.sessions >= config.sessions_per_address_max) {
            return Err(Why::Address);
        }
        if !self.made.take(now, 1) {
            return Err(Why::Busy);
        }
        self.enter(config, now, site);
        *self.count_mut(kind) += 1;
        Ok(())
    }

    /// A visitor wants a reservation.
    pub(super) fn promote(&mut self, config: &Config, now: Instant, peer: &PublicKey) -> Result<(), Why> {
        self.wanted(now, peer)?;
        self.room(config, Kind::Reserved)?;
        self.visitors = self.visitors.saturating_sub(1);
        self.reserved += 1;
        Ok(())
    }

    /// A session has ended.
    pub(super) fn release(&mut self, addr: SocketAddr, kind: Kind) {
        let count = self.count_mut(kind);
        *count = count.saturating_sub(1);
        self.exit(site(addr));
    }

    /// The holder of a session has moved. It keeps its place, even where the new address has its share.
    pub(super) fn moved(&mut self, config: &Config, now: Instant, from: SocketAddr, to: SocketAddr) {
        self.exit(site(from));
        self.enter(config, now, site(to));
    }

    fn enter(&mut self, config: &Config, now: Instant, site: IpAddr) {
        let new = || Site { sessions: 0, bucket: byte_bucket(config.address_rate, now) };
        self.sites.entry(site).or_insert_with(new).sessions += 1;
    }

    fn exit(&mut self, site: IpAddr) {
        if let Some(s) = self.sites.get_mut(&site) {
            s.sessions -= 1;
            if s.sessions == 0 {
                self.sites.remove(&site);
            }
        }
    }

    /// Whether so many more bytes of this address are within its rate.
    pub(super) fn passes(&mut self, now: Instant, addr: SocketAddr, bytes: u64) -> bool {
        self.sites.get_mut(&site(addr)).is_none_or(|s| s.bucket.take(now, bytes))
    }

    fn wanted(&mut self, now: Instant, peer: &PublicKey) -> Result<(), Why> {
        if self.blocked.contains(peer) {
            return Err(Why::Blocked);
        }
        match self.away.get(peer) {
            Some(until) if *until > now => Err(Why::Busy),
            Some(_) => {
                self.away.remove(peer);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Gives the peer no session for a while.
    pub(super) fn send_away(&mut self, now: Instant, peer: PublicKey, time: Duration) {
        if self.away.len() >= AWAY_MAX
            && let Some(first) = self.away.iter().min_by_key(|(_, until)| **until).map(|(k, _)| *k)
        {
            self.away.remove(&first);
        }
        self.away.insert(peer, now + time);
    }

    /// Gives the peer no session any more, or again; whether there was room to remember it.
    pub(super) fn block(&mut self, peer: PublicKey, blocked: bool) -> bool {
        if !blocked {
            self.blocked.remove(&peer);
            return true;
        }
        let room = self.blocked.len() < BLOCKED_MAX || self.blocked.contains(&peer);
        if room {
            self.blocked.insert(peer);
        }
        room
    }

    /// Peers that the operator does not want.
    pub(super) fn blocked(&self) -> impl Iterator<Item = &PublicKey> {
        self.blocked.iter()
    }
}
