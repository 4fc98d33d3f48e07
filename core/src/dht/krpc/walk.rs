//! An iterative lookup: from whom we know towards whoever is closest to a target (BEP 5).
//!
//! At most [`ALPHA`] queries are awaited at a time. Who has not answered after the short timeout no longer holds the walk up
//! but may still answer; the walk ends when the eight closest of those that count have answered. Only while very few
//! answer (a network of three, a single bootstrap) are the slow ones waited for.
//!
//! The nodes named on the way are the words of strangers: candidates are bounded, two of one public address at the most,
//! and the number of queries of one walk has an end, so that a liar who always knows somebody closer wastes seconds only.

use super::message::NodeAddr;
use super::node_id::{distance, fits};
use super::table::K;
use crate::dht::endpoint::{Scope, scope};
use crate::id::{DhtId, OpId};
use std::net::SocketAddr;

/// Queries awaited at a time.
pub const ALPHA: usize = 4;
/// Candidates kept.
pub const CANDIDATES_MAX: usize = 64;
/// Queries of one walk.
pub const QUERIES_MAX: usize = 96;
/// Candidates of one public address.
pub const PER_ADDRESS_MAX: usize = 2;
/// Holders beside the closest, if some of those have ids that do not fit their address (BEP 42).
pub const HOLDERS_EXTRA: usize = 4;

/// Whom a walk serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// An operation.
    Op(OpId),
    /// Our own neighbourhood.
    Own,
    /// One bucket of the table.
    Bucket,
}

/// What a walk asks for on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quest {
    /// Nodes only.
    Nodes,
    /// Peers, and the right to announce.
    Peers,
    /// A value, and the right to put one.
    Value,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    New,
    Asked,
    /// The first short timeout has passed; asked again.
    Slow,
    /// The second as well.
    Late,
    Answered,
    Failed,
}

#[derive(Clone, Debug)]
struct Candidate {
    /// Unknown for a bootstrap address until it answers.
    id: Option<DhtId>,
    addr: SocketAddr,
    state: State,
    token: Option<Box<[u8]>>,
    holds: bool,
}

/// Somebody who may store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Where.
    pub addr: SocketAddr,
    /// The right to.
    pub token: Box<[u8]>,
    /// Whether a value was there already.
    pub holds: bool,
}

/// A lookup on its way.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Towards this id.
    pub target: DhtId,
    /// Through the IPv6 DHT.
    pub ipv6: bool,
    /// For whom.
    pub purpose: Purpose,
    /// What it asks.
    pub quest: Quest,
    candidates: Vec<Candidate>,
    queries: usize,
    responded: u32,
}

impl Walk {
    /// A walk that starts at `known` nodes and at `seeds` whose ids are not known.
    pub fn new(
        (target, ipv6): (DhtId, bool),
        purpose: Purpose,
        quest: Quest,
        known: Vec<NodeAddr>,
        seeds: Vec<SocketAddr>,
    ) -> Self {
        let mut walk =
            Self { target, ipv6, purpose, quest, candidates: Vec::new(), queries: 0, responded: 0 };
        known.into_iter().for_each(|n| walk.add(Some(n.id), n.addr));
        seeds.into_iter().for_each(|addr| walk.add(None, addr));
        walk
    }

    /// Whether there is anybody to ask.
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// Nodes that answered.
    pub fn responded(&self) -> u32 {
        self.responded
    }

    /// Somebody names a node. The caller has checked that its address may be used.
    pub fn hear_of(&mut self, node: NodeAddr) {
        self.add(Some(node.id), node.addr);
    }

    fn add(&mut self, id: Option<DhtId>, addr: SocketAddr) {
        if self.candidates.iter().any(|c| c.addr == addr || (id.is_some() && c.id == id)) {
            return;
        }
        let same_ip = |c: &&Candidate| c.addr.ip() == addr.ip();
        if scope(addr) == Scope::Public && self.candidates.iter().filter(same_ip).count() >= PER_ADDRESS_MAX {
            return;
        }
        let at = self.place(id);
        if at < CANDIDATES_MAX {
            let state = State::New;
            self.candidates.insert(at, Candidate { id, addr, state, token: None, holds: false });
            self.candidates.truncate(CANDIDATES_MAX);
        }
    }

    /// Where a candidate belongs: by distance, unknown ids last.
    fn place(&self, id: Option<DhtId>) -> usize {
        let key = |id: Option<DhtId>| id.map(|id| distance(&id, &self.target));
        match key(id) {
            None => self.candidates.len(),
            Some(d) => self.candidates.partition_point(|c| key(c.id).is_some_and(|other| other < d)),
        }
    }

    /// The next node to ask now, if any.
    pub fn next_to_ask(&mut self) -> Option<SocketAddr> {
        if self.queries >= QUERIES_MAX {
            return None;
        }
        let awaited = self.candidates.iter().filter(|c| c.state == State::Asked).count();
        if awaited >= ALPHA {
            return None;
        }
        let found = self.counting_mut().find(|c| c.state == State::New)?;
        found.state = State::Asked;
        let addr = found.addr;
        self.queries += 1;
        Some(addr)
    }

    /// The candidates that decide: the closest, without those that keep silent.
    fn counting_mut(&mut self) -> impl Iterator<Item = &mut Candidate> {
        self.candidates
            .iter_mut()
            .filter(|c| matches!(c.state, State::New | State::Asked | State::Answered))
            .take(K)
    }

    /// Whether nothing more is to come.
    pub fn is_done(&self) -> bool {
        let decides = |c: &&Candidate| matches!(c.state, State::New | State::Asked | State::Answered);
        let exhausted = self.queries >= QUERIES_MAX;
        let open = self.candidates.iter().filter(decides).take(K).any(|c| match c.state {
            State::New => !exhausted,
            State::Asked => true,
            State::Slow | State::Late | State::Answered | State::Failed => false,
        });
        let answered = self.candidates.iter().filter(|c| c.state == State::Answered).count();
        let awaited = self.candidates.iter().any(|c| match c.state {
            State::Slow => answered < K,
            State::Late => answered == 0,
            State::New | State::Asked | State::Answered | State::Failed => false,
        });
        !open && !awaited
    }

    /// `node` answered, perhaps with a token, perhaps holding a value.
    pub fn answered(&mut self, node: NodeAddr, token: Option<&[u8]>, holds: bool) {
        if let Some(at) = self.candidates.iter().position(|c| c.addr == node.addr) {
            if self.candidates.get(at).is_some_and(|c| c.state == State::Answered) {
                return;
            }
            self.candidates.remove(at);
        }
        self.candidates.retain(|c| c.id != Some(node.id));
        self.responded += 1;
        let candidate = Candidate {
            id: Some(node.id),
            addr: node.addr,
            state: State::Answered,
            token: token.map(Into::into),
            holds,
        };
        let at = self.place(candidate.id);
        self.candidates.insert(at, candidate);
        self.candidates.truncate(CANDIDATES_MAX);
    }

    /// `addr` has not answered within the short timeout, for the `tries`th time. True: ask it once more.
    pub fn slow(&mut self, addr: SocketAddr, tries: u8) -> bool {
        let Some(at) = self.candidates.iter().position(|c| c.addr == addr) else { return false };
        let Some(candidate) = self.candidates.get_mut(at) else { return false };
        candidate.state = if tries == 1 { State::Slow } else { State::Late };
        tries == 1 && at < 2 * K
    }

    /// `addr` did not answer, or refused.
    pub fn failed(&mut self, addr: SocketAddr) {
        if let Some(c) = self.candidates.iter_mut().find(|c| c.addr == addr) {
            c.state = State::Failed;
        }
    }

    /// Where to store: the closest that gave a token, and a few more with fitting ids if some of those have none.
    pub fn holders(&self) -> Vec<Holder> {
        let mut able = self.candidates.iter().filter(|c| c.state == State::Answered && c.token.is_some());
        let fitting = |c: &&Candidate| c.id.is_some_and(|id| fits(&id, c.addr));
        let mut chosen: Vec<&Candidate> = able.by_ref().take(K).collect();
        let misfits = chosen.iter().filter(|c| !fitting(c)).count();
        chosen.extend(able.filter(fitting).take(misfits.min(HOLDERS_EXTRA)));
        let holder = |c: &Candidate| Some(Holder { addr: c.addr, token: c.token.clone()?, holds: c.holds });
        chosen.into_iter().filter_map(holder).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeAddr {
        NodeAddr { id: DhtId([n; 20]), addr: ([10, 0, 0, n], 1).into() }
    }

    fn walk(known: &[u8]) -> Walk {
        let known = known.iter().map(|n| node(*n)).collect();
        Walk::new((DhtId([0; 20]), false), Purpose::Own, Quest::Value, known, vec![])
    }

    fn ask_all(w: &mut Walk) -> Vec<SocketAddr> {
        std::iter::from_fn(|| w.next_to_ask()).collect()
    }

    #[test]
    fn the_closest_are_asked_first_and_four_at_a_time() {
        let mut w = walk(&[9, 3, 7, 1, 5, 2]);
        assert_eq!(ask_all(&mut w), [1, 2, 3, 5].map(|n| node(n).addr));
        w.answered(node(3), Some(b"t"), false);
        assert_eq!(ask_all(&mut w), [node(7).addr]);
        assert!(!w.is_done());
    }

    #[test]
    fn it_ends_when_the_eight_closest_have_answered() {
        let mut w = walk(&(1..=20).collect::<Vec<_>>());
        while let Some(addr) = w.next_to_ask() {
            let n = match addr {
                SocketAddr::V4(a) => a.ip().octets()[3],
                SocketAddr::V6(_) => panic!("IPv4 only"),
            };
            w.answered(node(n), Some(b"t"), false);
        }
        assert!(w.is_done());
        assert_eq!((w.responded(), w.holders().len()), (8, 8));
    }

    #[test]
    fn the_silent_do_not_hold_it_up_but_a_lonely_bootstrap_is_waited_for() {
        let mut w = walk(&(1..=12).collect::<Vec<_>>());
        let first = ask_all(&mut w);
        assert!(w.slow(first[0], 1), "close to the target: asked once more");
        assert_eq!(ask_all(&mut w).len(), 1, "somebody else in its place");
        let mut lonely =
            Walk::new((DhtId([0; 20]), false), Purpose::Own, Quest::Nodes, vec![], vec![node(1).addr]);
        let addr = lonely.next_to_ask().unwrap();
        assert!(lonely.slow(addr, 1) && !lonely.slow(addr, 2) && !lonely.is_done());
        lonely.failed(addr);
        assert!(lonely.is_done());
    }

    #[test]
    fn a_liar_who_always_knows_somebody_closer_comes_to_an_end() {
        let mut w = walk(&[255]);
        let mut asked = 0u32;
        while !w.is_done() {
            let addr = w.next_to_ask().unwrap();
            asked += 1;
            let mut id = [0; 20];
            id[..4].copy_from_slice(&(1_000_000 - asked).to_be_bytes());
            w.answered(NodeAddr { id: DhtId(id), addr }, None, false);
            id[..4].copy_from_slice(&(1_000_000 - asked - 1).to_be_bytes());
            let addr = (std::net::Ipv4Addr::from(0x0a00_0000 + asked), 7).into();
            w.hear_of(NodeAddr { id: DhtId(id), addr });
        }
        assert_eq!(asked as usize, QUERIES_MAX);
        assert!(w.candidates.len() <= CANDIDATES_MAX);
    }

    #[test]
    fn one_public_address_cannot_be_the_whole_neighbourhood() {
        let mut w = walk(&[]);
        for n in 1..100u8 {
            w.hear_of(NodeAddr { id: DhtId([n; 20]), addr: ([203, 0, 113, 7], u16::from(n)).into() });
        }
        assert_eq!(w.candidates.len(), PER_ADDRESS_MAX);
    }

    #[test]
    fn misfits_among_the_holders_are_made_up_for() {
        let mut w = walk(&[]);
        for n in 1..=8u8 {
            w.answered(
                NodeAddr { id: DhtId([n; 20]), addr: ([203, 0, 113, n], 1).into() },
                Some(b"t"),
                false,
            );
        }
        (20..30).for_each(|n| w.answered(node(n), Some(b"t"), false));
        assert_eq!(w.holders().len(), K + HOLDERS_EXTRA);
    }
}
