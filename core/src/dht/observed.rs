//! Where others see us: votes for our own address.
//!
//! Every peer we meet says from which address our packets came. One peer can lie, so an address counts only if at least
//! half of those who spoke (per family) say the same; with one peer that is this peer, because a network of two has no
//! more. Each peer has one vote per family, its latest. Keys are free, so what is believed is counted by where the voters
//! are: a hundred keys at one address (of IPv6: in one /64) are one voter, who says what the last of them said.

use super::endpoint::Packed;
use crate::id::PublicKey;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Voters remembered; more would not change a majority any more. The oldest vote goes first.
pub const VOTERS_MAX: usize = 64;
/// Room is made for so many more at once.
const VOTERS_GROWTH: usize = 8;
/// Addresses believed per family: the majority, or two halves.
pub const BELIEVED_MAX: usize = 2;

#[derive(Clone, Copy, Debug)]
struct Vote {
    by: PublicKey,
    /// Where the voter is; nowhere when it is the node itself.
    from: Option<IpAddr>,
    addr: Packed,
    is_v6: bool,
}

/// The votes, the oldest first. Few enough to look through.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    votes: Vec<Vote>,
}

impl Observed {
    /// `by`, whose packets come from `from`, sees us at `addr`.
    pub fn vote(&mut self, by: PublicKey, from: Option<IpAddr>, addr: SocketAddr) {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let vote = Vote { by, from: from.map(customer), addr: addr.into(), is_v6: addr.is_ipv6() };
        self.votes.retain(|v| (v.is_v6, v.by) != (vote.is_v6, by));
        if self.votes.len() >= VOTERS_MAX {
            self.votes.remove(self.dispensable());
        }
        if self.votes.len() == self.votes.capacity() {
            self.votes.reserve_exact(VOTERS_GROWTH);
        }
        self.votes.push(vote);
    }

    /// The oldest vote of whoever has the most: many keys at one place must not push out what others said.
    fn dispensable(&self) -> usize {
        let of = |v: &Vote| self.votes.iter().filter(|other| other.from == v.from).count();
        let most = self.votes.iter().map(of).max();
        self.votes.iter().position(|v| Some(of(v)) == most).unwrap_or(0)
    }

    /// Nobody's word counts any more: the node's own network changed.
    pub fn clear(&mut self) {
        self.votes.clear();
    }

    /// All addresses and how many peers say so, most first.
    pub fn counted(&self) -> Vec<(SocketAddr, u32)> {
        self.counted_without(None)
    }

    /// The same, without the word of one voter: a node that looks at itself counts others only.
    pub fn counted_without(&self, voter: Option<&PublicKey>) -> Vec<(SocketAddr, u32)> {
        let mut count: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        for vote in &self.votes {
            if voter != Some(&vote.by) {
                *count.entry(vote.addr.into()).or_default() += 1;
            }
        }
        let mut out: Vec<_> = count.into_iter().collect();
        out.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        out
    }

    /// The addresses that count, most voted first.
    pub fn believed(&self) -> Vec<SocketAddr> {
        let of_family = |v6: bool| {
            let mut heard: Vec<(Option<IpAddr>, SocketAddr)> = Vec::new();
            for vote in self.votes.iter().rev().filter(|v| v.is_v6 == v6) {
                if !heard.iter().any(|(from, _)| *from == vote.from) {
                    heard.push((vote.from, vote.addr.into()));
                }
            }
            let mut count: BTreeMap<SocketAddr, usize> = BTreeMap::new();
            heard.iter().for_each(|(_, addr)| *count.entry(*addr).or_default() += 1);
            let mut family: Vec<_> = count.into_iter().collect();
            family.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
            family.into_iter().filter(move |(_, n)| n * 2 >= heard.len()).map(|(a, _)| a).take(BELIEVED_MAX)
        };
        of_family(false).chain(of_family(true)).collect()
    }
}

/// What counts as one voter's place: an IPv4 address, or the /64 of an IPv6 address.
fn customer(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Keypair;

    fn key(n: u8) -> PublicKey {
        Keypair::from_seed(&[n; 32]).public()
    }

    fn addr(port: u16) -> SocketAddr {
        ([203, 0, 113, 7], port).into()
    }

    fn at(n: u8) -> Option<IpAddr> {
        Some([198, 51, 100, n].into())
    }

    #[test]
    fn many_keys_at_one_place_are_one_voter_and_push_nobody_out() {
        let mut o = Observed::default();
        o.vote(key(1), at(1), addr(1));
        o.vote(key(2), at(2), addr(1));
        for n in 3..200 {
            o.vote(key(n), at(3), addr(666));
        }
        assert_eq!(o.votes.len(), VOTERS_MAX);
        assert_eq!(o.believed(), [addr(1)]);
        let v6 = |text: &str| text.parse::<IpAddr>().ok();
        let mut o = Observed::default();
        o.vote(key(1), v6("2001:db8:1::1"), addr(1));
        o.vote(key(2), v6("2001:db8:2::1"), addr(1));
        for n in 3..9 {
            o.vote(key(n), v6(&format!("2001:db8:3::{n}")), addr(666));
        }
        assert_eq!(o.believed(), [addr(1)]);
    }

    #[test]
    fn a_single_peer_is_believed_and_a_single_liar_is_not() {
        let mut o = Observed::default();
        o.vote(key(1), at(1), addr(1));
        assert_eq!(o.believed(), [addr(1)]);
        o.vote(key(2), at(2), addr(1));
        o.vote(key(3), at(3), addr(666));
        assert_eq!(o.believed(), [addr(1)]);
        assert_eq!(o.counted(), [(addr(1), 2), (addr(666), 1)]);
    }

    #[test]
    fn a_peer_has_one_vote_per_family_its_latest() {
        let mut o = Observed::default();
        for port in 1..100 {
            o.vote(key(1), at(1), addr(port));
        }
        let v6 = "[2001:db8::1]:9".parse().unwrap();
        o.vote(key(1), at(1), v6);
        assert_eq!(o.believed(), [addr(99), v6]);
    }

    #[test]
    fn votes_are_bounded_and_the_oldest_goes() {
        let mut o = Observed::default();
        for n in 0..=VOTERS_MAX as u8 {
            o.vote(key(n + 1), at(n), addr(u16::from(n) + 1));
        }
        assert_eq!(o.votes.len(), VOTERS_MAX);
        assert!(o.counted().iter().all(|(a, _)| *a != addr(1)));
    }
}
