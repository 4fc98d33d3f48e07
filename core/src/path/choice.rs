//! Which of several proven ways is the best, and when a better one is worth a change.
//!
//! Tiers come first: a direct way costs nobody else anything and is mostly faster; a relay whose own packets go through a
//! tunnel suffers from TCP's head-of-line blocking. Between direct ways the round-trip time decides, with hysteresis: two
//! equal ways would otherwise take turns, and every change costs a little reordering. Between relayed ways the order decides in
//! which the node names them, since only their relays know better.

use crate::dht::endpoint::{Scope, scope};
use crate::time::Duration;
use std::net::SocketAddr;

/// A challenger must be at least so much faster …
pub const GAIN_MIN: Duration = Duration::from_millis(5);
/// … and faster by so many per cent of the round-trip time in use.
pub const GAIN_MIN_PERCENT: u32 = 20;
/// IPv6 counts as so much faster than it is: no NAT mapping that can be lost.
pub const V6_BONUS: Duration = Duration::from_millis(3);
/// A private or loopback address counts as so much faster than it is: it needs neither the router's hairpin nor its uplink. A
/// private address behind a slow VPN still loses.
pub const LOCAL_BONUS: Duration = Duration::from_millis(10);
/// Measurements of both ways before they are compared: one may be an accident.
pub const SAMPLES_MIN: u8 = 3;

/// Kinds of ways, the better first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// From socket to socket.
    Direct,
    /// Through a relay.
    Relayed,
    /// Through a tunnel, or a relay that is reached by one.
    Tunnelled,
}

/// What a direct way is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    /// The other side.
    pub addr: SocketAddr,
    /// Smoothed round-trip time, if there is one.
    pub rtt: Option<Duration>,
}

/// What is not measured counts as slower than everything that is.
const UNKNOWN_NANOS: i64 = i64::MAX / 4;

fn nanos(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX).min(UNKNOWN_NANOS)
}

impl Measured {
    /// The lower the better: nanoseconds, less the bonus.
    pub fn cost(&self) -> i64 {
        let bonus = match scope(self.addr) {
            Scope::Private | Scope::Loopback => LOCAL_BONUS,
            Scope::Public | Scope::Never if self.addr.is_ipv6() => V6_BONUS,
            Scope::Public | Scope::Never => Duration::ZERO,
        };
        self.rtt.map_or(UNKNOWN_NANOS, nanos) - nanos(bonus)
    }

    /// Whether it is worth a change from the one that is in use.
    pub fn beats(&self, in_use: &Measured) -> bool {
        let Some(rtt) = in_use.rtt else { return false };
        let gain = GAIN_MIN.max(rtt * GAIN_MIN_PERCENT / 100);
        self.rtt.is_some() && self.cost() + nanos(gain) <= in_use.cost()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(addr: &str, rtt_ms: u64) -> Measured {
        Measured { addr: addr.parse().unwrap(), rtt: Some(Duration::from_millis(rtt_ms)) }
    }

    #[test]
    fn a_challenger_needs_five_milliseconds_and_a_fifth() {
        let in_use = way("203.0.113.1:9", 20);
        assert!(way("203.0.113.2:9", 15).beats(&in_use));
        assert!(!way("203.0.113.2:9", 16).beats(&in_use), "only 4 ms");
        let slow = way("203.0.113.1:9", 100);
        assert!(way("203.0.113.2:9", 80).beats(&slow));
        assert!(!way("203.0.113.2:9", 81).beats(&slow), "only 19 %");
    }

    #[test]
    fn six_is_a_little_better_than_four_and_the_local_network_than_both() {
        assert!(way("[2001:db8::1]:9", 18).beats(&way("203.0.113.1:9", 20)));
        assert!(!way("203.0.113.1:9", 18).beats(&way("[2001:db8::1]:9", 20)));
        assert!(way("192.168.1.6:9", 1).beats(&way("203.0.113.1:9", 1)));
        assert!(!way("10.8.0.6:9", 60).beats(&way("203.0.113.1:9", 20)), "a slow VPN is not near");
    }

    #[test]
    fn what_is_not_measured_neither_beats_nor_is_beaten() {
        let unknown = Measured { rtt: None, ..way("203.0.113.1:9", 0) };
        assert!(!unknown.beats(&way("203.0.113.2:9", 900)) && !way("203.0.113.2:9", 1).beats(&unknown));
        assert!(unknown.cost() > way("203.0.113.2:9", 9_000).cost());
    }

    #[test]
    fn two_ways_never_beat_each_other() {
        for (a, b) in (0..60).flat_map(|a| (0..60).map(move |b| (a, b))) {
            let (a, b) = (way("[2001:db8::1]:9", a), way("203.0.113.1:9", b));
            assert!(!(a.beats(&b) && b.beats(&a)));
        }
    }

    #[test]
    fn direct_comes_before_relayed_before_tunnelled() {
        assert!(Tier::Direct < Tier::Relayed && Tier::Relayed < Tier::Tunnelled);
    }
}
