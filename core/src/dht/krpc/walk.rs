//! An iterative lookup: from whom we know towards whoever is closest to a target (BEP 5).
//!
//! At most [`ALPHA`] queries are awaited at a time. Who has not answered after the short timeout no longer holds the walk up
//! but may still answer; the walk ends when the eight closest of those that count have answered. Only while very few
//! answer (a network of three, a single bootstrap) are the slow ones waited for.
//!
//! Eight are too few while a network is young: what was stored when its putter knew three nodes does not lie at the
//! eight that are closest now. So whoever has found nothing asks on, up to [`WIDTH_MAX`], before it says so, and a
//! network in which a put meets no more nodes than that is stored to as a whole. What lies elsewhere moves
//! ([`super::handover`]).
//!
//! The nodes named on the way are the words of strangers, and a few liars must not hide a key:
//!
//! * an id belongs to whoever answers under it first, or to whoever it fits (BEP 42); that it was named with another
//!   address means nothing, so true nodes cannot be shut out by naming their ids elsewhere;
//! * two of one public address and four of one network decide at the most: the closest that are not silent, so neither
//!   inventions nor the dead keep anybody out. In a private network everybody may be neighbours, and all count;
//! * of those nobody has asked yet [`CANDIDATES_MAX`] are kept, the crowds and the farthest go first; who was asked
//!   stays;
//! * the queries of a walk, and those to the silent of one network, have an end, so that a liar who always knows
//!   somebody closer wastes seconds only and turns nobody into a weapon.

use super::call::Origin;
use super::message::NodeAddr;
use super::node_id::{distance, fits};
use super::table::K;
use crate::dht::endpoint::{Scope, scope};
use crate::id::DhtId;
use std::net::{IpAddr, SocketAddr};

/// Queries awaited at a time.
pub const ALPHA: usize = 4;
/// Candidates kept that nobody has asked.
pub const CANDIDATES_MAX: usize = 64;
/// Queries of one walk.
pub const QUERIES_MAX: usize = 96;
/// The closest nodes that are asked before a miss is believed, and the size of a network that holds every value.
pub const WIDTH_MAX: usize = 20;
/// Candidates of one public address that decide.
pub const PER_ADDRESS_MAX: usize = 2;
/// Candidates of one public network that decide: a /24 of IPv4, a /48 of IPv6. Whoever owns one finds in it, by BEP 42, a
/// dozen ids beside any key.
pub const PER_NETWORK_MAX: usize = 4;
/// So many times as many of an address or network may keep silent before nobody else there is asked.
pub const SILENCES_PER_PLACE: usize = 4;

/// Whom a walk serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// An operation.
    Op(Origin),
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
    /// Whether the id is one that its address may have (BEP 42).
    fits: bool,
    token: Option<Box<[u8]>>,
    holds: Option<u64>,
}

impl Candidate {
    fn is_silent(&self) -> bool {
        match self.state {
            State::Slow | State::Late | State::Failed => true,
            State::New | State::Asked | State::Answered => false,
        }
    }
}

/// The places of public addresses and networks among those that decide.
struct Places {
    limited: bool,
    times: usize,
    taken: Vec<SocketAddr>,
}

impl Places {
    fn new(limited: bool, times: usize) -> Self {
        Self { limited, times, taken: Vec::new() }
    }

    /// Takes a place for `addr`, if there is one.
    fn take(&mut self, addr: SocketAddr) -> bool {
        if !self.limited || scope(addr) != Scope::Public {
            return true;
        }
        let of_address = self.taken.iter().filter(|a| a.ip() == addr.ip()).count();
        let of_network = self.taken.iter().filter(|a| network(**a) == network(addr)).count();
        let free = of_address < self.times * PER_ADDRESS_MAX && of_network < self.times * PER_NETWORK_MAX;
        if free {
            self.taken.push(addr);
        }
        free
    }
}

/// Somebody who may store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Where.
    pub addr: SocketAddr,
    /// The right to.
    pub token: Box<[u8]>,
    /// The version that was there already, by its own word.
    pub holds: Option<u64>,
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
    /// So many of the closest decide.
    width: usize,
    /// Everybody may be of one network.
    neighbours: bool,
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
        let mut walk = Self {
            target,
            ipv6,
            purpose,
            quest,
            candidates: Vec::new(),
            width: K,
            neighbours: false,
            queries: 0,
            responded: 0,
        };
        known.into_iter().for_each(|n| walk.add(Some(n.id), n.addr));
        seeds.into_iter().for_each(|addr| walk.add(None, addr));
        walk
    }

    /// Whether it goes through a private network, where one address or network may be all there is.
    #[must_use]
    pub fn among_neighbours(self, neighbours: bool) -> Self {
        Self { neighbours, ..self }
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
        let fits = id.is_none_or(|id| fits(&id, addr));
        let owned =
            |c: &Candidate| c.state == State::Answered && id.is_some() && c.id == id && (c.fits || !fits);
        if self.candidates.iter().any(|c| c.addr == addr || owned(c)) {
            return;
        }
        self.insert(Candidate { id, addr, state: State::New, fits, token: None, holds: None });
        self.make_room();
    }

    /// Where it belongs: by distance, unknown ids last; of one id, whoever it fits first.
    fn insert(&mut self, candidate: Candidate) {
        let key = |c: &Candidate| c.id.map(|id| (distance(&id, &self.target), !c.fits));
        let at = match key(&candidate) {
            None => self.candidates.len(),
            Some(own) => self.candidates.partition_point(|c| key(c).is_some_and(|other| other <= own)),
        };
        self.candidates.insert(at, candidate);
    }

    /// Of too many whom nobody has asked the farthest goes: of a crowd, if there is one.
    fn make_room(&mut self) {
        let is_new = |c: &Candidate| c.state == State::New;
        if self.candidates.iter().filter(|c| is_new(c)).count() <= CANDIDATES_MAX {
            return;
        }
        let mut places = Places::new(!self.neighbours, 1);
        let crowding: Vec<bool> =
            self.candidates.iter().map(|c| !c.is_silent() && !places.take(c.addr)).collect();
        let mut numbered = self.candidates.iter().zip(crowding);
        let crowd = numbered.rposition(|(c, crowds)| crowds && is_new(c));
        if let Some(at) = crowd.or_else(|| self.candidates.iter().rposition(is_new)) {
            self.candidates.remove(at);
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
        let (at, _) = self.counting().find(|(_, c)| c.state == State::New)?;
        let found = self.candidates.get_mut(at)?;
        found.state = State::Asked;
        let addr = found.addr;
        self.queries += 1;
        Some(addr)
    }

    /// The candidates that decide: the closest, without those that keep silent. Where something is stored or read and the
    /// ids of some do not fit their addresses, as many more whose ids do: twenty who chose their ids freely are not all
    /// there is around a key.
    fn counting(&self) -> impl Iterator<Item = (usize, &Candidate)> {
        let (stores, mut all, mut fitting) = (self.quest != Quest::Nodes, 0, 0);
        let mut places = Places::new(!self.neighbours, 1);
        let counts = move |c: &&Candidate| {
            let wanted = !c.is_silent()
                && (all < self.width || (stores && c.fits && fitting < self.width))
                && (c.state != State::New || self.may_ask(c.addr))
                && places.take(c.addr);
            all += usize::from(wanted);
            fitting += usize::from(wanted && c.fits);
            wanted
        };
        self.candidates
            .iter()
            .enumerate()
            .scan(counts, |counts, (at, c)| Some(counts(&c).then_some((at, c))))
            .flatten()
    }

    /// Whether not too many there have kept silent.
    fn may_ask(&self, addr: SocketAddr) -> bool {
        let mut places = Places::new(!self.neighbours, SILENCES_PER_PLACE);
        let near = |c: &&Candidate| c.is_silent() && network(c.addr) == network(addr);
        for silent in self.candidates.iter().filter(near) {
            let _full = places.take(silent.addr);
        }
        places.take(addr)
    }

    /// Nodes heard of so far.
    pub fn met(&self) -> usize {
        self.candidates.len()
    }

    /// Asks the [`WIDTH_MAX`] closest instead of the eight. False: it did so already.
    pub fn widen(&mut self) -> bool {
        let first = self.width < WIDTH_MAX;
        self.width = WIDTH_MAX;
        first
    }

    /// Whether nothing more is to come.
    pub fn is_done(&self) -> bool {
        let exhausted = self.queries >= QUERIES_MAX;
        let open = self.counting().any(|(_, c)| match c.state {
            State::New => !exhausted,
            State::Asked => true,
            State::Slow | State::Late | State::Answered | State::Failed => false,
        });
        let answered = self.counting().filter(|(_, c)| c.state == State::Answered).count();
        let awaited = self.candidates.iter().any(|c| match c.state {
            State::Slow => answered < K,
            State::Late => answered == 0,
            State::New | State::Asked | State::Answered | State::Failed => false,
        });
        !open && !awaited
    }

    /// `node` answered, perhaps with a token, perhaps holding a version. Under an id that another one has answered under
    /// it counts only if the id fits its address and not the other's.
    pub fn answered(&mut self, node: NodeAddr, token: Option<&[u8]>, holds: Option<u64>) {
        let asked = self.candidates.iter().position(|c| c.addr == node.addr);
        let state = asked.and_then(|at| self.candidates.get(at)).map(|c| c.state);
        if state == Some(State::Answered) {
            return;
        }
        let fits = fits(&node.id, node.addr);
        let owner = |c: &&mut Candidate| c.state == State::Answered && c.id == Some(node.id);
        if let Some(owner) = self.candidates.iter_mut().find(owner) {
            if owner.fits || !fits {
                return self.failed(node.addr);
            }
            owner.state = State::Failed;
        }
        if let Some(at) = asked {
            self.candidates.remove(at);
        }
        let named = |c: &Candidate| c.state == State::New && c.id == Some(node.id) && (fits || !c.fits);
        self.candidates.retain(|c| !named(c));
        self.responded += 1;
        self.insert(Candidate {
            id: Some(node.id),
            addr: node.addr,
            state: State::Answered,
            fits,
            token: token.map(Into::into),
            holds,
        });
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

    /// Where to store: the closest that gave a token, and for each of those whose id does not fit its address one more
    /// whose does; in a small network everybody who gave one.
    pub fn holders(&self) -> Vec<Holder> {
        let mut places = Places::new(!self.neighbours, 1);
        let able = |c: &&Candidate| c.state == State::Answered && c.token.is_some() && places.take(c.addr);
        let mut able = self.candidates.iter().filter(able);
        let most = if self.met() <= WIDTH_MAX { WIDTH_MAX } else { K };
        let mut chosen: Vec<&Candidate> = able.by_ref().take(most).collect();
        let misfits = chosen.iter().filter(|c| !c.fits).count();
        chosen.extend(able.filter(|c| c.fits).take(misfits));
        let holder = |c: &Candidate| Some(Holder { addr: c.addr, token: c.token.clone()?, holds: c.holds });
        chosen.into_iter().filter_map(holder).collect()
    }
}

/// The network an address belongs to, as its owner got it.
fn network(addr: SocketAddr) -> (bool, u64) {
    match addr.ip() {
        IpAddr::V4(ip) => (false, u64::from(ip.to_bits() >> 8)),
        IpAddr::V6(ip) => (true, (ip.to_bits() >> 80) as u64),
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
        w.answered(node(3), Some(b"t"), None);
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
            w.answered(node(n), Some(b"t"), None);
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
            w.answered(NodeAddr { id: DhtId(id), addr }, None, None);
            id[..4].copy_from_slice(&(1_000_000 - asked - 1).to_be_bytes());
            let addr = (std::net::Ipv4Addr::from(0x0a00_0000 + asked), 7).into();
            w.hear_of(NodeAddr { id: DhtId(id), addr });
        }
        assert_eq!(asked as usize, QUERIES_MAX);
        assert!(w.candidates.len() <= CANDIDATES_MAX + QUERIES_MAX);
    }

    fn at(id: u8, addr: [u8; 4], port: u16) -> NodeAddr {
        NodeAddr { id: DhtId([id; 20]), addr: (addr, port).into() }
    }

    /// Whoever is asked keeps silent, but for those in `alive`. Whom it asked.
    fn finish(w: &mut Walk, alive: &[NodeAddr]) -> Vec<SocketAddr> {
        let mut asked = Vec::new();
        while !w.is_done() {
            let Some(addr) = w.next_to_ask() else {
                let late = w.candidates.iter().find(|c| matches!(c.state, State::Slow | State::Late));
                let late = late.unwrap().addr;
                w.failed(late);
                continue;
            };
            asked.push(addr);
            match alive.iter().find(|n| n.addr == addr) {
                Some(node) => w.answered(*node, Some(b"t"), None),
                None => drop(w.slow(addr, 1)),
            }
        }
        asked
    }

    fn stores_at(w: &Walk) -> Vec<SocketAddr> {
        w.holders().into_iter().map(|h| h.addr).collect()
    }

    #[test]
    fn one_public_address_and_one_network_do_not_decide_alone() {
        let mut w = walk(&[]);
        let ports: Vec<NodeAddr> = (1..100).map(|n| at(n, [203, 0, 113, 7], u16::from(n))).collect();
        let network: Vec<NodeAddr> = (1..100).map(|n| at(100 + n, [203, 0, 113, n], 1)).collect();
        let other = at(250, [198, 51, 100, 7], 1);
        ports.iter().chain(&network).for_each(|n| w.hear_of(*n));
        w.hear_of(other);
        let asked = finish(&mut w, &[ports, network, vec![other]].concat());
        assert_eq!(asked.iter().filter(|a| a.ip() == asked[0].ip()).count(), PER_ADDRESS_MAX);
        assert_eq!((asked.len(), asked.contains(&other.addr)), (PER_NETWORK_MAX + 1, true));
        assert_eq!(stores_at(&w).len(), PER_NETWORK_MAX + 1);
    }

    #[test]
    fn a_private_network_may_be_all_of_one_network_or_address() {
        let known: Vec<NodeAddr> = (1..30).map(|n| at(n, [203, 0, 113, 7], u16::from(n))).collect();
        let mut w = Walk::new((DhtId([0; 20]), false), Purpose::Own, Quest::Nodes, known.clone(), vec![])
            .among_neighbours(true);
        assert_eq!(finish(&mut w, &known).len(), K);
    }

    #[test]
    fn the_silent_hold_no_place_but_a_network_of_them_is_left_alone() {
        let mut w = walk(&[]);
        let honest = at(50, [203, 0, 113, 200], 1);
        (1..=10).for_each(|n| w.hear_of(at(n, [203, 0, 113, n], 1)));
        w.hear_of(honest);
        assert_eq!(finish(&mut w, &[honest]).len(), 11);
        assert_eq!(stores_at(&w), [honest.addr]);
        let mut w = walk(&[]);
        (1..=60).for_each(|n| w.hear_of(at(n, [203, 0, 113, n], 1)));
        assert_eq!(finish(&mut w, &[]).len(), SILENCES_PER_PLACE * PER_NETWORK_MAX);
        let mut w = walk(&[]);
        (1..=60).for_each(|n| w.hear_of(at(n, [203, 0, 113, 1], u16::from(n))));
        assert_eq!(finish(&mut w, &[]).len(), SILENCES_PER_PLACE * PER_ADDRESS_MAX);
    }

    #[test]
    fn whoever_comes_closer_takes_the_place_of_whom_nobody_asked() {
        let mut w = walk(&[]);
        (100..110).for_each(|n| w.hear_of(at(n, [203, 0, 113, n], 1)));
        let closer = at(1, [203, 0, 113, 1], 1);
        w.hear_of(closer);
        assert_eq!(w.next_to_ask(), Some(closer.addr));
    }

    #[test]
    fn naming_the_true_ids_elsewhere_shuts_nobody_out() {
        let mut w = walk(&[]);
        let true_ones: Vec<NodeAddr> = (1..=8).map(node).collect();
        for n in 1..=8 {
            (0..3).for_each(|liar| w.hear_of(NodeAddr { addr: ([10, 66, liar, n], 1).into(), ..node(n) }));
        }
        true_ones.iter().for_each(|n| w.hear_of(*n));
        finish(&mut w, &true_ones);
        assert_eq!(stores_at(&w), true_ones.iter().map(|n| n.addr).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_answers_away_the_id_of_another() {
        let mut w = walk(&[1, 2]);
        let thief = NodeAddr { addr: node(2).addr, ..node(1) };
        ask_all(&mut w);
        w.answered(node(1), Some(b"t"), None);
        w.answered(thief, Some(b"t"), None);
        assert_eq!((stores_at(&w), w.responded(), w.is_done()), (vec![node(1).addr], 1, true));
        w.hear_of(NodeAddr { addr: node(3).addr, ..node(1) });
        assert_eq!(w.next_to_ask(), None, "the id has an owner");
    }

    #[test]
    fn an_id_belongs_to_whom_it_fits_even_if_another_was_faster() {
        let mut rng = crate::rng::Rng::from_seed([1; 32]);
        let addr: SocketAddr = ([198, 51, 100, 7], 1).into();
        let owner = NodeAddr { id: super::super::node_id::for_address(addr.ip(), &mut rng), addr };
        let thief = NodeAddr { addr: ([203, 0, 113, 1], 1).into(), ..owner };
        let mut w = walk(&[]);
        w.hear_of(thief);
        assert_eq!(w.next_to_ask(), Some(thief.addr));
        w.answered(thief, Some(b"t"), None);
        w.hear_of(owner);
        assert_eq!(w.next_to_ask(), Some(owner.addr));
        w.answered(owner, Some(b"t"), None);
        assert_eq!(stores_at(&w), [owner.addr]);
        let mut w = walk(&[]);
        [owner, thief].iter().for_each(|n| w.hear_of(*n));
        ask_all(&mut w);
        w.answered(owner, Some(b"t"), None);
        w.answered(thief, Some(b"t"), None);
        assert_eq!(stores_at(&w), [owner.addr]);
    }

    #[test]
    fn a_flood_of_names_pushes_out_the_crowd_then_the_farthest_and_never_who_answered() {
        let mut w = walk(&[]);
        let answered = at(255, [10, 0, 0, 255], 1);
        w.hear_of(answered);
        ask_all(&mut w);
        w.answered(answered, Some(b"t"), None);
        let honest: Vec<NodeAddr> = (1..=60).map(|n| at(100 + n, [10, 0, 1, n], 1)).collect();
        honest.iter().for_each(|n| w.hear_of(*n));
        (1..=90).for_each(|n| w.hear_of(at(n, [203, 0, 113, n], 1)));
        let kept = |w: &Walk, n: &NodeAddr| w.candidates.iter().any(|c| c.addr == n.addr);
        assert!(honest.iter().all(|n| kept(&w, n)), "a crowd is no reason to forget others");
        (1..=90).for_each(|n| w.hear_of(at(n, [10, 0, 2, n], 1)));
        assert_eq!(w.candidates.len(), CANDIDATES_MAX + 1);
        assert!(kept(&w, &answered) && !kept(&w, &honest[59]));
    }

    #[test]
    fn those_who_chose_their_ids_do_not_decide_alone() {
        let mut w = walk(&(100..140).collect::<Vec<_>>());
        let sybil = |n: u8| NodeAddr { id: DhtId([n; 20]), addr: ([203, 0, n, 113], 1).into() };
        (1..=20).for_each(|n| w.hear_of(sybil(n)));
        let mut asked = Vec::new();
        while let Some(addr) = w.next_to_ask() {
            let n = (1..=20).map(sybil).chain((100..140).map(node)).find(|n| n.addr == addr).unwrap();
            w.answered(n, Some(b"t"), None);
            asked.push(n.id.0[0]);
        }
        assert!(w.is_done());
        assert_eq!(asked, (1..=8).chain(100..108).collect::<Vec<_>>());
        assert_eq!(w.holders().len(), 16);
    }

    #[test]
    fn misfits_among_the_holders_are_made_up_for() {
        let mut w = walk(&[]);
        for n in 1..=8u8 {
            w.answered(at(n, [203, 0, n, 113], 1), Some(b"t"), None);
        }
        (20..30).for_each(|n| w.answered(node(n), Some(b"t"), None));
        assert_eq!(w.holders().len(), 18, "all of a network as small as that");
        (30..34).for_each(|n| w.answered(node(n), Some(b"t"), None));
        assert_eq!(w.holders().len(), 2 * K);
    }

    #[test]
    fn a_walk_that_is_widened_once_asks_twenty() {
        let mut w = walk(&(1..=30).collect::<Vec<_>>());
        let answer = |w: &mut Walk| {
            while let Some(addr) = w.next_to_ask() {
                let n = (1..=30).find(|n| node(*n).addr == addr).unwrap();
                w.answered(node(n), Some(b"t"), None);
            }
            (w.is_done(), w.responded() as usize)
        };
        assert_eq!(answer(&mut w), (true, K));
        assert!(w.widen() && !w.is_done());
        assert_eq!(answer(&mut w), (true, WIDTH_MAX));
        assert!(!w.widen());
        assert_eq!(w.holders().len(), K, "a large network stores at the closest");
    }
}
