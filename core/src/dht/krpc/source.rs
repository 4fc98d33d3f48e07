//! Who may ask how much: the account of every address that sends us queries.
//!
//! UDP lets anybody write anybody's address on an envelope. A node that answers more than it was asked becomes a weapon
//! against the address on it, and one that answers without end can be kept busy by one machine. So every source (an
//! IPv4 address, a /64 of IPv6; address and port where private networks share one) has two buckets:
//!
//! * **queries**: [`BURST`] at once, then [`QUERIES_PER_SECOND`];
//! * **bytes**, while the source has not shown that it receives what we send: [`AMPLIFICATION`] bytes for every byte it
//!   sent, and [`ALLOWANCE_BYTES`], refilled with [`ALLOWANCE_PER_SECOND`]. Over any time `T` an unverified source is
//!   thus sent at most `3 × received + 1,232 + 100 T` bytes, the ping that asks whether it is there included. The
//!   allowance lets a stranger's first `get` carry home one value: 700 bytes do not fit into three times a query, and
//!   whoever is read-only (BEP 43) has no way to show that it receives. `find_node` and `get_peers` fit without it.
//!
//! A source has shown it by answering a query of ours or by bringing a token back, for ten minutes. Sources beyond
//! [`SOURCES_MAX`] share one account, so a flood of forged addresses exhausts that and not our memory.

use crate::dht::endpoint::{Scope, scope};
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Queries of one source at once. libtorrent bans an address after 50 in ten seconds.
pub const BURST: u32 = 50;
/// Queries of one source in the long run.
pub const QUERIES_PER_SECOND: u32 = 10;
/// Bytes that may answer each byte of an unverified source.
pub const AMPLIFICATION: usize = 3;
/// Bytes an unverified source may get beyond: one whole reply.
pub const ALLOWANCE_BYTES: usize = 1_232;
/// How fast that comes back.
pub const ALLOWANCE_PER_SECOND: usize = 100;
/// A ping of ours, at most.
pub const PING_BYTES: usize = 80;
/// Accounts kept, about 100 bytes each.
pub const SOURCES_MAX: usize = 1_024;
/// How long a source that has shown itself is believed.
pub const VERIFIED_FOR: Duration = Duration::from_secs(600);

/// Whom an address stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Source {
    /// One IPv4 address.
    V4(u32),
    /// A /64 of IPv6, which one machine may have all for itself.
    V6(u64),
    /// Address and port, where one address is a whole network.
    Exact(SocketAddr),
    /// Everybody who found no account of their own.
    Others,
}

impl Source {
    /// The source of an address.
    pub fn of(addr: SocketAddr) -> Self {
        if scope(addr) != Scope::Public {
            return Source::Exact(addr);
        }
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => Source::V4(ip.to_bits()),
            IpAddr::V6(ip) => Source::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Account {
    at: Instant,
    /// Thousandths of a query.
    queries: u32,
    bytes: u32,
    verified_until: Instant,
}

impl Account {
    const FULL: u32 = BURST * 1_000;

    fn fresh(now: Instant) -> Self {
        Self { at: now, queries: Self::FULL, bytes: ALLOWANCE_BYTES as u32, verified_until: Instant::ZERO }
    }

    /// Brings both buckets up to `now`, in whole milliseconds so that looking often loses nothing.
    fn refill(&mut self, now: Instant) {
        let ms = now.as_millis().saturating_sub(self.at.as_millis()).min(3_600_000) as u32;
        self.queries = self.queries.saturating_add(ms.saturating_mul(QUERIES_PER_SECOND)).min(Self::FULL);
        // Whole bytes only; what is left over stays in `at`.
        let per_byte = 1_000 / ALLOWANCE_PER_SECOND as u32;
        let bytes = ms / per_byte;
        let room = (ALLOWANCE_BYTES as u32).saturating_sub(self.bytes.min(ALLOWANCE_BYTES as u32));
        self.bytes = self.bytes.saturating_add(bytes.min(room));
        self.at = now;
    }

    /// Whether it says no more than a fresh one would.
    fn is_idle(&self, now: Instant) -> bool {
        let mut then = *self;
        then.refill(now);
        then.queries == Self::FULL && then.bytes >= ALLOWANCE_BYTES as u32 && self.verified_until <= now
    }
}

/// The accounts.
#[derive(Clone, Debug)]
pub struct Sources {
    accounts: BTreeMap<Source, Account>,
    /// Times [`BURST`] and [`QUERIES_PER_SECOND`] that a source may ask.
    pub generosity: u32,
}

impl Default for Sources {
    fn default() -> Self {
        Self { accounts: BTreeMap::new(), generosity: 1 }
    }
}

impl Sources {
    /// A query of `len` bytes came from `source`. False: it had too many.
    pub fn query(&mut self, now: Instant, source: Source, len: usize) -> bool {
        let price = 1_000 / self.generosity.clamp(1, 1_000);
        let account = self.account(now, source);
        account.refill(now);
        account.bytes = account.bytes.saturating_add((len * AMPLIFICATION) as u32).min(u32::MAX / 2);
        let Some(left) = account.queries.checked_sub(price) else { return false };
        account.queries = left;
        true
    }

    /// Bytes that may be sent to `source` now; `None`: as many as a reply has, it has shown itself.
    pub fn budget(&self, now: Instant, source: Source) -> Option<usize> {
        let account = self.accounts.get(&self.key(source));
        match account {
            Some(a) if a.verified_until > now => None,
            Some(a) => Some(a.bytes as usize),
            None => Some(ALLOWANCE_BYTES),
        }
    }

    /// So many bytes go to `source`.
    pub fn sent(&mut self, source: Source, len: usize) {
        let key = self.key(source);
        if let Some(account) = self.accounts.get_mut(&key) {
            account.bytes = account.bytes.saturating_sub(len as u32);
        }
    }

    /// Whether a ping may be sent to a stranger who asked, which is an answer as well. If so, it is charged.
    pub fn may_ping(&mut self, now: Instant, source: Source) -> bool {
        let may = self.budget(now, source).is_none_or(|b| b >= PING_BYTES);
        if may {
            self.sent(source, PING_BYTES);
        }
        may
    }

    /// `source` has shown that it receives what we send. Only of interest for those who asked something.
    pub fn verified(&mut self, now: Instant, source: Source) {
        if let Some(account) = self.accounts.get_mut(&source) {
            account.verified_until = now + VERIFIED_FOR;
        }
    }

    /// Forgets accounts that say nothing any more.
    pub fn prune(&mut self, now: Instant) {
        self.accounts.retain(|_, a| !a.is_idle(now));
    }

    /// Accounts kept.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    fn key(&self, source: Source) -> Source {
        if self.accounts.contains_key(&source) { source } else { Source::Others }
    }

    fn account(&mut self, now: Instant, source: Source) -> &mut Account {
        let full = self.accounts.len() >= SOURCES_MAX && !self.accounts.contains_key(&source);
        if full {
            self.prune(now);
        }
        let key = if self.accounts.len() >= SOURCES_MAX { self.key(source) } else { source };
        self.accounts.entry(key).or_insert_with(|| Account::fresh(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn source(n: u32) -> Source {
        Source::V4(n)
    }

    #[test]
    fn a_source_has_a_burst_and_then_ten_queries_a_second() {
        let mut s = Sources::default();
        let granted = (0..200).filter(|_| s.query(at(0), source(1), 100)).count();
        assert_eq!(granted, BURST as usize);
        assert!(s.query(at(0), source(2), 100), "others are not concerned");
        let granted = (0..10_000).filter(|ms| s.query(at(*ms), source(1), 100)).count();
        assert!((99..=100).contains(&granted), "{granted}");
    }

    #[test]
    fn an_unverified_source_gets_three_times_what_it_sent_and_one_reply() {
        let mut s = Sources::default();
        let (mut received, mut sent) = (0, 0);
        for ms in (0..100_000).step_by(500) {
            if s.query(at(ms), source(1), 90) {
                received += 90;
                let budget = s.budget(at(ms), source(1)).unwrap().min(1_024);
                s.sent(source(1), budget);
                sent += budget;
            }
        }
        let most = AMPLIFICATION * received + ALLOWANCE_BYTES + ALLOWANCE_PER_SECOND * 100;
        assert!(sent <= most, "{sent} > {most}");
        assert!(sent * 10 > most * 9, "and it does get that: {sent} of {most}");
        s.verified(at(100_000), source(1));
        assert_eq!(s.budget(at(100_001), source(1)), None);
        assert!(s.budget(at(100_000) + VERIFIED_FOR, source(1)).is_some());
    }

    #[test]
    fn a_flood_of_forged_sources_shares_one_account() {
        let mut s = Sources::default();
        let granted = (0..100_000).filter(|n| s.query(at(0), source(*n), 100)).count();
        assert!(s.len() <= SOURCES_MAX + 1);
        assert!(granted <= SOURCES_MAX + BURST as usize);
        s.prune(at(60_000_000));
        assert!(s.is_empty(), "accounts without a message in them are forgotten");
    }

    #[test]
    fn machines_behind_one_private_address_are_told_apart_and_public_ones_are_not() {
        let of = |a: &str| Source::of(a.parse().unwrap());
        assert_ne!(of("127.0.0.1:1"), of("127.0.0.1:2"));
        assert_eq!(of("203.0.113.1:1"), of("203.0.113.1:2"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::2]:1"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
    }
}
