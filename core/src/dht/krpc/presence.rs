//! Whether others can reach us.
//!
//! A node behind a NAT that enters tables is a hole in them: everybody who asks it waits in vain. So until it is proven
//! that others reach us, our queries carry `ro` (BEP 43). The proof: a query from an address we have not written to, or
//! the node's own knowledge. An answer proves nothing, and neither does a query through the hole that our own packet
//! opened, so for that long we remember to whom we wrote.

use super::interface::Presence;
use crate::time::{Duration, Instant};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// A NAT's mapping is forgotten well within this (RFC 4787 asks for two minutes, many have five).
const HOLE_LIFE: Duration = Duration::from_secs(600);
/// Addresses remembered of one such time; with more, nothing is proven until they are forgotten.
pub const WRITTEN_MAX: usize = 2_048;

/// What is known of our reachability.
#[derive(Clone, Debug)]
pub struct Reachability {
    presence: Presence,
    private_networks: bool,
    proven: bool,
    written: [BTreeSet<IpAddr>; 2],
    since: Instant,
}

impl Reachability {
    /// Nothing is known but what the configuration says.
    pub fn new(presence: Presence, private_networks: bool) -> Self {
        let written = [BTreeSet::new(), BTreeSet::new()];
        Self { presence, private_networks, proven: false, written, since: Instant::ZERO }
    }

    /// Whether we say that we are read-only.
    pub fn read_only(&self) -> bool {
        match self.presence {
            Presence::Open => false,
            Presence::ReadOnly => true,
            Presence::Auto => !self.proven && !self.private_networks,
        }
    }

    /// Whether we answer queries at all.
    pub fn answers(&self) -> bool {
        self.presence != Presence::ReadOnly
    }

    /// Whether it has been proven.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// It is known by other means.
    pub fn set(&mut self, proven: bool) {
        self.proven = proven;
        self.written = [BTreeSet::new(), BTreeSet::new()];
    }

    /// We write to `addr`.
    pub fn wrote(&mut self, now: Instant, addr: SocketAddr) {
        if !self.read_only() || self.presence == Presence::ReadOnly {
            return;
        }
        self.rotate(now);
        if self.written[0].len() < WRITTEN_MAX {
            self.written[0].insert(addr.ip());
        }
    }

    /// A query came from `addr`. True: that proves it.
    pub fn asked_by(&mut self, now: Instant, addr: SocketAddr) -> bool {
        if !self.read_only() || self.presence == Presence::ReadOnly {
            return false;
        }
        self.rotate(now);
        // A young memory does not know to whom our predecessor on this port wrote.
        let remembers =
            now >= Instant::ZERO + HOLE_LIFE && self.written.iter().all(|w| w.len() < WRITTEN_MAX);
        if !remembers || self.written.iter().any(|w| w.contains(&addr.ip())) {
            return false;
        }
        self.set(true);
        true
    }

    /// Bytes on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        self.written.iter().map(|w| w.len() * 24).sum()
    }

    fn rotate(&mut self, now: Instant) {
        if now.since(self.since) >= HOLE_LIFE {
            let old = std::mem::take(&mut self.written[0]);
            self.written[1] = if now.since(self.since) >= HOLE_LIFE * 2 { BTreeSet::new() } else { old };
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_millis(s * 1_000)
    }

    fn addr(n: u8) -> SocketAddr {
        ([203, 0, 113, n], 1).into()
    }

    #[test]
    fn only_a_query_from_whom_we_never_wrote_to_proves_it() {
        let mut r = Reachability::new(Presence::Auto, false);
        r.wrote(at(700), addr(1));
        assert!(!r.asked_by(at(710), addr(1)) && r.read_only(), "through our own hole");
        assert!(!r.asked_by(at(1_310), addr(1)), "the hole may still be open");
        assert!(r.asked_by(at(1_311), addr(2)) && !r.read_only());
    }

    #[test]
    fn a_young_node_cannot_know_who_wrote_before_it() {
        let mut r = Reachability::new(Presence::Auto, false);
        assert!(!r.asked_by(at(1), addr(2)));
        assert!(r.asked_by(at(601), addr(2)));
    }

    #[test]
    fn the_operators_word_stands_and_private_networks_are_open() {
        assert!(!Reachability::new(Presence::Open, false).read_only());
        assert!(!Reachability::new(Presence::Auto, true).read_only());
        let mut never = Reachability::new(Presence::ReadOnly, true);
        assert!(!never.asked_by(at(9_999), addr(1)) && never.read_only() && !never.answers());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut r = Reachability::new(Presence::Auto, false);
        for n in 0..10_000u32 {
            r.wrote(at(700), (std::net::Ipv4Addr::from(n), 1).into());
        }
        assert_eq!(r.written[0].len(), WRITTEN_MAX);
        assert!(!r.asked_by(at(701), (std::net::Ipv4Addr::from(9_999), 1).into()));
    }
}
