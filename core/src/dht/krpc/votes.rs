//! Where other nodes see us: the `ip` of their replies (BEP 42).
//!
//! One node can lie, so each has one vote, its latest, and an address needs [`VOTES_MIN`] different voters and more than
//! half of them. The address alone decides about our id; address and port are told to the node as an observation (ports
//! that differ from voter to voter are the mark of a symmetric NAT).

use super::source::Source;
use std::net::{IpAddr, SocketAddr};

/// Voters remembered of one family.
pub const VOTERS_MAX: usize = 16;
/// Voters that must agree.
pub const VOTES_MIN: usize = 3;

/// The votes of one address family.
#[derive(Clone, Debug, Default)]
pub struct Votes {
    votes: Vec<(Source, SocketAddr)>,
}

impl Votes {
    /// `by` sees us at `addr`. False: it said so before.
    pub fn vote(&mut self, by: SocketAddr, addr: SocketAddr) -> bool {
        let by = Source::of(by);
        if let Some(at) = self.votes.iter().position(|(voter, _)| *voter == by) {
            if self.votes.get(at).is_some_and(|(_, a)| *a == addr) {
                return false;
            }
            self.votes.remove(at);
        } else if self.votes.len() == VOTERS_MAX {
            self.votes.remove(0);
        }
        self.votes.reserve_exact(1);
        self.votes.push((by, addr));
        true
    }

    /// The address most see us at, if that is a majority.
    pub fn ip(&self) -> Option<IpAddr> {
        self.winner(|a| a.ip()).map(|(ip, _)| ip)
    }

    /// The address and port most see us at, if that is a majority, and how many they are.
    pub fn addr(&self) -> Option<(SocketAddr, u32)> {
        self.winner(|a| a)
    }

    /// Nobody's word counts any more.
    pub fn clear(&mut self) {
        self.votes = Vec::new();
    }

    /// Bytes on the heap, by capacity.
    pub fn heap_bytes(&self) -> usize {
        self.votes.capacity() * size_of::<(Source, SocketAddr)>()
    }

    fn winner<T: PartialEq + Copy>(&self, of: impl Fn(SocketAddr) -> T) -> Option<(T, u32)> {
        self.votes.iter().find_map(|(_, addr)| {
            let count = self.votes.iter().filter(|(_, a)| of(*a) == of(*addr)).count();
            let wins = count >= VOTES_MIN && 2 * count > self.votes.len();
            wins.then_some((of(*addr), count as u32))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8, port: u16) -> SocketAddr {
        ([203, 0, 113, n], port).into()
    }

    #[test]
    fn three_voters_and_a_majority_decide() {
        let mut v = Votes::default();
        (1..=2).for_each(|n| assert!(v.vote(addr(n, 1), addr(99, 7))));
        assert_eq!(v.ip(), None);
        v.vote(addr(2, 5), addr(99, 7));
        assert_eq!(v.ip(), None, "another port is no other voter");
        v.vote(addr(3, 1), addr(99, 8));
        assert_eq!(
            (v.ip(), v.addr()),
            (Some(addr(99, 0).ip()), None),
            "they agree on the address, not on the port"
        );
        (10..=12).for_each(|n| assert!(v.vote(addr(n, 1), addr(66, 6))));
        assert_eq!(v.ip(), None, "half against half");
        v.vote(addr(4, 1), addr(99, 7));
        assert_eq!(v.ip(), Some(addr(99, 0).ip()));
    }

    #[test]
    fn votes_are_bounded_and_a_voter_may_change_its_mind() {
        let mut v = Votes::default();
        (0..200).for_each(|n| assert!(v.vote(addr(n, 1), addr(99, 7))));
        assert_eq!(v.votes.len(), VOTERS_MAX);
        (190..200).for_each(|n| assert!(v.vote(addr(n, 1), addr(66, 7))));
        assert_eq!(v.addr(), Some((addr(66, 7), 10)));
    }
}
