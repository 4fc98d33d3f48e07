//! How often each peer asked lately.
//!
//! A sliding window: of one peer so many requests are heard in any stretch of so much time, whenever it begins. Peers are
//! told apart by their keys, so that a new connection is no new allowance. Memory is bounded: so many peers are remembered as
//! asked within the window, and when there are more, those who come later are not heard.

use crate::id::PublicKey;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};

/// Who asked when. See the module.
#[derive(Clone, Debug)]
pub struct Meter {
    per_peer_max: usize,
    window: Duration,
    peers_max: usize,
    asked: BTreeMap<PublicKey, VecDeque<Instant>>,
}

impl Meter {
    /// Hears `per_peer_max` requests of a peer in a `window`, and remembers `peers_max` peers.
    pub const fn new(per_peer_max: usize, window: Duration, peers_max: usize) -> Self {
        Self { per_peer_max, window, peers_max, asked: BTreeMap::new() }
    }

    /// `peer` asks: whether it is heard.
    pub fn hears(&mut self, now: Instant, peer: &PublicKey) -> bool {
        let window = self.window;
        if !self.asked.contains_key(peer) && self.asked.len() >= self.peers_max {
            self.asked.retain(|_, asked| asked.back().is_some_and(|at| *at + window > now));
            if self.asked.len() >= self.peers_max {
                return false;
            }
        }
        let asked = self.asked.entry(*peer).or_default();
        while asked.front().is_some_and(|at| *at + window <= now) {
            asked.pop_front();
        }
        let heard = asked.len() < self.per_peer_max;
        if heard {
            asked.push_back(now);
        }
        heard
    }

    /// Peers remembered.
    pub fn peers(&self) -> usize {
        self.asked.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Keypair;

    const WINDOW: Duration = Duration::from_secs(60);

    fn key(n: u32) -> PublicKey {
        Keypair::from_seed(&crate::rng::derive_seed(&[0; 32], &n.to_string())).public()
    }

    #[test]
    fn so_many_requests_of_a_peer_are_heard_in_any_window() {
        let mut meter = Meter::new(60, WINDOW, 256);
        let at = |s| Instant::ZERO + Duration::from_secs(s);
        let mut heard = |now, n| (0..100).filter(|_| meter.hears(now, &key(n))).count();
        assert_eq!(heard(at(50), 1), 60);
        assert_eq!(heard(at(60), 1), 0, "no window begins anew");
        assert_eq!(heard(at(60), 2), 60, "each peer has its own");
        assert_eq!(heard(at(110), 1), 60);
    }

    #[test]
    fn peers_are_bounded_and_make_room_when_they_are_silent() {
        let mut meter = Meter::new(60, WINDOW, 256);
        for n in 0..256 {
            assert!(meter.hears(Instant::ZERO, &key(n)));
        }
        assert!(!meter.hears(Instant::ZERO, &key(9_999)));
        assert!(meter.hears(Instant::ZERO, &key(0)), "those who are known are still heard");
        assert!(meter.hears(Instant::ZERO + WINDOW, &key(9_999)));
        assert_eq!(meter.peers(), 1);
    }
}
