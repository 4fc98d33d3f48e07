//! Values move to nodes that come closer to their keys (Kademlia, section 2.5).
//!
//! BEP 44 leaves it to the owner to store anew, hourly. In an old network that is enough. In a young one it is not: who
//! starts together with thirty others and publishes at once knows three of them, so the value lies at these three, and
//! half a minute later everybody looks for it at eight others (seen in a network of thirty processes). So whoever holds
//! a signed value brings it on itself, by the lookup and store that a put is, but only to those who lack it:
//!
//! * when a node enters our table that is among the eight closest to the key, if we are one of the [`RESPONSIBLE`]
//!   closest, so that not all eight holders run, or if eight others are closer and the value lies here by mistake;
//! * when a value comes while we know it to lie here by mistake (but for networks so small that everybody holds
//!   everything), or met such a node within [`NEWS_FOR`]: whoever sent it may not have met it.
//!
//! A node enters the table by answering, and a store needs a token that only a walk brings, so nobody can point this at
//! a victim. Only nodes whose ids fit their addresses (BEP 42) count, so that nobody invents newcomers, or three who are
//! closest and bring nothing on; and an address that answers under another id is news again after [`PAUSE_MIN`] only.
//! It is slow on purpose: one walk at a time, [`WALK_EVERY`] between two, and for one key a pause that
//! doubles from [`PAUSE_MIN`] to [`PAUSE_MAX`]; a stranger's put costs the network a few walks and no more. A handover
//! says how old the value is (`age`, seconds, in its `put`; others pass the key over), so a value whose owner is gone
//! ends everywhere [`super::stored::VALUE_LIFE`] after its owner put it, however often it moved.

use super::message::NodeAddr;
use super::node_id::{distance, fits};
use super::table::{K, Table};
use super::walk::WIDTH_MAX;
use crate::id::DhtId;
use crate::rng::Rng;
use crate::time::{Deadline, Duration, Instant};
use std::collections::{BTreeMap, VecDeque};

/// So many of those closest to a key bring its value to a newcomer: three, since one or two may be gone.
pub const RESPONSIBLE: usize = 3;
/// Newcomers that come within this time are served together.
pub const GATHER: Duration = Duration::from_secs(2);
/// Between the end of one handover and the next.
pub const WALK_EVERY: Duration = Duration::from_secs(1);
/// Pause of one key after its first handover; it doubles.
pub const PAUSE_MIN: Duration = Duration::from_secs(10);
/// Longest pause of one key.
pub const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);
/// A node is news for so long to those who put here.
pub const NEWS_FOR: Duration = Duration::from_secs(60);
/// Newcomers remembered.
pub const NEWS_MAX: usize = 32;

/// When one key had and has its turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    due: Option<Instant>,
    rests_until: Instant,
    pause: Duration,
}

/// Which values should be brought to whom, and when.
#[derive(Clone, Debug, Default)]
pub struct Handover {
    /// A private network: ids are free there, and all count.
    neighbours: bool,
    /// Only of keys whose values we hold: bounded as these are.
    turns: BTreeMap<DhtId, Turn>,
    news: VecDeque<(Instant, NodeAddr)>,
    walks_from: Option<Instant>,
}

impl Handover {
    /// Nothing to hand over yet; `neighbours` says whether the network is private.
    pub fn new(neighbours: bool) -> Self {
        Self { neighbours, ..Self::default() }
    }

    /// `node` has just entered `table`; `keys` are those of the signed values we hold.
    pub fn met<'a>(
        &mut self,
        now: Instant,
        rng: &mut Rng,
        node: NodeAddr,
        table: &Table,
        keys: impl Iterator<Item = &'a DhtId>,
    ) {
        let turned = |(at, n): &(Instant, NodeAddr)| {
            n.addr == node.addr && n.id != node.id && now.since(*at) < PAUSE_MIN
        };
        if !self.counts(&node) || self.news.iter().any(turned) {
            return;
        }
        self.news.retain(|(at, n)| now.since(*at) < NEWS_FOR && n.addr != node.addr);
        if self.news.len() == NEWS_MAX {
            self.news.pop_front();
        }
        self.news.push_back((now, node));
        for key in keys {
            if self.is_near(table, key, &node) && self.place(table, key, Some(&node)) != Place::OneOfEight {
                self.schedule(now, rng, key);
            }
        }
    }

    /// A version that is new here was put, at a node with this table.
    pub fn stored(&mut self, now: Instant, rng: &mut Rng, key: &DhtId, table: &Table) {
        let news = || {
            let fresh = self.news.iter().filter(|(at, _)| now.since(*at) < NEWS_FOR);
            fresh.map(|(_, n)| n).any(|n| self.is_near(table, key, n))
        };
        let moves = match self.place(table, key, None) {
            Place::Misplaced => table.len() >= WIDTH_MAX || news(),
            Place::Responsible => news(),
            Place::OneOfEight => false,
        };
        if moves {
            self.schedule(now, rng, key);
        }
    }

    fn schedule(&mut self, now: Instant, rng: &mut Rng, key: &DhtId) {
        let fresh = Turn { due: None, rests_until: now, pause: PAUSE_MIN };
        let turn = self.turns.entry(*key).or_insert(fresh);
        if turn.due.is_none() {
            turn.due = Some((now + rng.jitter(GATHER, 50)).max(turn.rests_until));
        }
    }

    fn place(&self, table: &Table, key: &DhtId, newcomer: Option<&NodeAddr>) -> Place {
        match self.closer(table, key, &distance(table.own(), key), newcomer) {
            0..RESPONSIBLE => Place::Responsible,
            RESPONSIBLE..K => Place::OneOfEight,
            _ => Place::Misplaced,
        }
    }

    /// Whether `node` is among the eight closest to `key` that we know.
    fn is_near(&self, table: &Table, key: &DhtId, node: &NodeAddr) -> bool {
        self.closer(table, key, &distance(&node.id, key), None) < K
    }

    /// How many good nodes but `without` are closer to `key` than `than`, as far as it matters.
    fn closer(&self, table: &Table, key: &DhtId, than: &[u8; 20], without: Option<&NodeAddr>) -> usize {
        let is = |n: &NodeAddr| without != Some(n) && distance(&n.id, key) < *than && self.counts(n);
        table.good().filter(|n| is(n)).take(K).count()
    }

    fn counts(&self, node: &NodeAddr) -> bool {
        self.neighbours || fits(&node.id, node.addr)
    }

    /// The key whose turn it is; it rests afterwards.
    pub fn next(&mut self, now: Instant) -> Option<DhtId> {
        if self.deadline().is_none_or(|d| d.at > now) {
            return None;
        }
        let due = self.turns.iter().filter_map(|(key, t)| Some((t.due?, *key)));
        let (_, key) = due.min()?;
        let turn = self.turns.get_mut(&key)?;
        *turn = Turn { due: None, rests_until: now + turn.pause, pause: (turn.pause * 2).min(PAUSE_MAX) };
        self.walks_from = Some(now + WALK_EVERY);
        Some(key)
    }

    /// A handover has ended.
    pub fn ended(&mut self, now: Instant) {
        self.walks_from = Some(now + WALK_EVERY);
    }

    /// When the next key has its turn.
    pub fn deadline(&self) -> Option<Deadline> {
        let due = self.turns.values().filter_map(|t| t.due).min()?;
        Some(Deadline::new(self.walks_from.map_or(due, |from| from.max(due)), "krpc-handover"))
    }

    /// Forgets keys whose values we no longer hold.
    pub fn forget(&mut self, holds: impl Fn(&DhtId) -> bool) {
        self.turns.retain(|key, _| holds(key));
    }

    /// Bytes on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        self.turns.len() * (size_of::<(DhtId, Turn)>() + 16)
            + self.news.capacity() * size_of::<(Instant, NodeAddr)>()
    }
}

/// Where we stand among those who should hold a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Responsible,
    OneOfEight,
    Misplaced,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn node(n: u8) -> NodeAddr {
        NodeAddr { id: DhtId([n; 20]), addr: ([10, 0, 0, n], 1).into() }
    }

    /// The table of node `own`, that knows these; the key is zero, so that the numbers are the distances.
    fn table(own: u8, known: &[u8]) -> Table {
        let mut table = Table::new(DhtId([own; 20]));
        known.iter().for_each(|n| assert!(table.answered(at(0), node(*n))));
        table
    }

    const KEY: DhtId = DhtId([0; 20]);

    fn is_told(own: u8, known: &[u8], newcomer: u8) -> bool {
        let (mut h, mut rng) = (Handover::default(), Rng::from_seed([1; 32]));
        let table = table(own, &[known, &[newcomer]].concat());
        h.met(at(0), &mut rng, node(newcomer), &table, [KEY].iter());
        h.deadline().is_some()
    }

    #[test]
    fn the_three_closest_serve_a_newcomer_and_whoever_holds_by_mistake() {
        let others = [10, 20, 30, 40, 50, 60, 70];
        assert!(is_told(5, &others, 100), "the closest, and the newcomer is the eighth");
        assert!(is_told(25, &others, 1), "the third");
        assert!(!is_told(35, &others, 1), "the fourth leaves it to the others");
        assert!(is_told(250, &[10, 20, 30, 40, 50, 60, 130, 140], 1), "held by mistake");
        assert!(!is_told(5, &[10, 20, 30, 40, 50, 60, 70, 80], 100), "the ninth has no claim");
    }

    #[test]
    fn a_value_that_comes_moves_on_only_from_where_it_should_not_be_or_when_there_is_news() {
        let (mut h, mut rng) = (Handover::default(), Rng::from_seed([1; 32]));
        let near = table(5, &[10, 20, 30]);
        h.stored(at(0), &mut rng, &KEY, &near);
        assert_eq!(h.deadline(), None);
        h.stored(at(0), &mut rng, &DhtId([1; 20]), &table(200, &[11, 12, 13, 14, 15, 16, 17, 18]));
        assert_eq!(h.deadline(), None, "everybody holds everything");
        let many: Vec<u8> = (11..19).chain(130..138).chain(224..228).collect();
        h.stored(at(0), &mut rng, &DhtId([1; 20]), &table(200, &many));
        assert!(h.deadline().is_some());
        let mut h = Handover::default();
        h.met(at(0), &mut rng, node(20), &near, [].iter());
        h.stored(at(59_999), &mut rng, &KEY, &near);
        assert!(h.deadline().is_some());
        let mut h = Handover::default();
        h.met(at(0), &mut rng, node(20), &near, [].iter());
        h.stored(at(60_000), &mut rng, &KEY, &near);
        assert_eq!(h.deadline(), None, "no news any more");
    }

    /// A public address under an id that does not fit it.
    fn misfit(n: u8) -> NodeAddr {
        NodeAddr { id: DhtId([n; 20]), addr: ([203, 0, n, 113], 1).into() }
    }

    #[test]
    fn those_whose_ids_do_not_fit_are_no_newcomers_and_nobody_waits_for_them() {
        for neighbours in [false, true] {
            let (mut h, mut rng) = (Handover::new(neighbours), Rng::from_seed([1; 32]));
            let mut table = table(5, &[10, 20]);
            (1..=3).for_each(|n| assert!(table.answered(at(0), misfit(n))));
            h.met(at(0), &mut rng, misfit(3), &table, [KEY].iter());
            assert_eq!(h.deadline().is_some(), neighbours);
            let mut h = Handover::new(neighbours);
            h.met(at(0), &mut rng, node(20), &table, [KEY].iter());
            assert_eq!(h.deadline().is_some(), !neighbours, "three closer ones that count would see to it");
        }
    }

    #[test]
    fn an_address_that_changes_its_id_again_and_again_is_news_once_in_a_while() {
        let (mut h, mut rng) = (Handover::default(), Rng::from_seed([1; 32]));
        let table = table(5, &[10]);
        let mut met = |ms, id| {
            h.met(at(ms), &mut rng, NodeAddr { id: DhtId([id; 20]), ..node(10) }, &table, [KEY].iter());
            h.next(at(ms + 3_000)).is_some()
        };
        assert!(met(0, 10));
        assert!((1..9).all(|n| !met(u64::from(n) * 1_000, n)));
        assert!(met(10_000, 9));
        assert!((11..20).all(|n| !met(u64::from(n) * 1_000, n)));
    }

    #[test]
    fn one_walk_a_second_and_a_growing_pause_for_a_key() {
        let (mut h, mut rng) = (Handover::default(), Rng::from_seed([1; 32]));
        let keys = [KEY, DhtId([1; 20])];
        let table = table(5, &[10]);
        h.met(at(0), &mut rng, node(10), &table, keys.iter());
        let first = h.deadline().unwrap().at;
        assert!((1_000..=3_000).contains(&first.as_millis()));
        assert_eq!(h.next(first - Duration::from_nanos(1)), None);
        assert!(h.next(at(3_000)).is_some());
        h.ended(at(3_500));
        assert_eq!(h.deadline().unwrap().at, at(4_500));
        assert!(h.next(at(4_500)).is_some() && h.deadline().is_none());
        let mut walks = Vec::new();
        for ms in (5_000..7_200_000).step_by(500) {
            h.met(at(ms), &mut rng, node(10), &table, [KEY].iter());
            walks.extend(h.next(at(ms)));
        }
        assert!((10..=16).contains(&walks.len()), "{} in two hours of permanent change", walks.len());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut h, mut rng) = (Handover::default(), Rng::from_seed([1; 32]));
        let table = table(5, &[10]);
        (0..=255).for_each(|n| h.met(at(0), &mut rng, node(n), &table, [KEY].iter()));
        assert!(h.news.len() == NEWS_MAX && h.turns.len() == 1);
        h.forget(|_| false);
        assert_eq!((h.deadline(), h.turns.len()), (None, 0));
    }
}
