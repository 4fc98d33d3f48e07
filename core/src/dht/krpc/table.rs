//! The routing table of one address family: who we know, k = 8 for every length of shared prefix (BEP 5).
//!
//! Only nodes that answered us enter; being named by others is not enough, and neither is asking us (the asker is
//! pinged first). A good node answered within a quarter of an hour; one that failed twice in a row is bad and makes
//! room for whoever comes. A full bucket keeps its old nodes, because who has been there long stays long, and remembers
//! a few spares. Of two candidates the one whose id fits its address (BEP 42) is preferred. In the public DHT one address
//! has one entry, so that one machine cannot be a whole neighbourhood.
//!
//! Ten thousand of these live in one simulator, so buckets exist only where there are nodes.

use super::message::NodeAddr;
use super::node_id::{distance, fits, shared_bits};
use crate::dht::endpoint::{Scope, scope};
use crate::id::DhtId;
use crate::time::{Duration, Instant};
use std::net::SocketAddr;

/// Nodes of a bucket, and in an answer.
pub const K: usize = 8;
/// Spares of a bucket.
pub const SPARES_MAX: usize = 4;
/// A node that answered within this time is good.
pub const GOOD_FOR: Duration = Duration::from_secs(15 * 60);
/// Queries in a row without an answer that make a node bad.
pub const FAILS_MAX: u8 = 2;

/// A known node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Who and where.
    pub node: NodeAddr,
    /// When it last answered.
    pub answered: Instant,
    /// Queries without an answer since.
    pub fails: u8,
}

impl Entry {
    fn is_bad(&self) -> bool {
        self.fails >= FAILS_MAX
    }
}

#[derive(Clone, Debug, Default)]
struct Bucket {
    live: Vec<Entry>,
    spares: Vec<Entry>,
    /// When a lookup last went there.
    walked: Option<Instant>,
}

/// The table.
#[derive(Clone, Debug)]
pub struct Table {
    own: DhtId,
    /// By the number of leading bits shared with `own`.
    buckets: Vec<Bucket>,
}

impl Table {
    /// An empty table around `own`.
    pub fn new(own: DhtId) -> Self {
        Self { own, buckets: Vec::new() }
    }

    /// Whose table it is.
    pub fn own(&self) -> &DhtId {
        &self.own
    }

    /// Nodes in it, bad ones not counted.
    pub fn len(&self) -> usize {
        self.entries().filter(|e| !e.is_bad()).count()
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All nodes, farthest buckets first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flat_map(|b| b.live.iter())
    }

    /// The nodes that are told to others.
    pub fn good(&self) -> impl Iterator<Item = &NodeAddr> {
        self.entries().filter(|e| !e.is_bad()).map(|e| &e.node)
    }

    /// Bytes on the heap, by capacity.
    pub fn heap_bytes(&self) -> usize {
        let entries: usize = self.buckets.iter().map(|b| b.live.capacity() + b.spares.capacity()).sum();
        self.buckets.capacity() * size_of::<Bucket>() + entries * size_of::<Entry>()
    }

    /// `node` answered us just now. True: it entered the table.
    pub fn answered(&mut self, now: Instant, node: NodeAddr) -> bool {
        if node.id == self.own {
            return false;
        }
        self.forget_former(&node);
        let own = self.own;
        let bucket = self.bucket_mut(&node.id);
        if let Some(entry) = bucket.live.iter_mut().find(|e| e.node.id == node.id) {
            if entry.node.addr == node.addr {
                (entry.answered, entry.fails) = (now, 0);
            } else if entry.is_bad() {
                *entry = Entry { node, answered: now, fails: 0 };
                return true;
            }
            return false;
        }
        bucket.spares.retain(|e| e.node.id != node.id);
        let entry = Entry { node, answered: now, fails: 0 };
        if bucket.live.len() < K {
            bucket.live.reserve_exact(usize::from(bucket.live.len() == bucket.live.capacity()) * 2);
            bucket.live.push(entry);
            return true;
        }
        if let Some(at) = Self::replaceable(bucket, &node) {
            bucket.live[at] = entry;
            return true;
        }
        if shared_bits(&own, &node.id) < 160 {
            if bucket.spares.len() == SPARES_MAX {
                bucket.spares.remove(0);
            }
            bucket.spares.push(entry);
        }
        false
    }

    /// Whom a newcomer may replace in a full bucket.
    fn replaceable(bucket: &Bucket, new: &NodeAddr) -> Option<usize> {
        let bad = bucket.live.iter().position(Entry::is_bad);
        let misfit = || bucket.live.iter().position(|e| !fits(&e.node.id, e.node.addr));
        bad.or_else(|| if fits(&new.id, new.addr) { misfit() } else { None })
    }

    /// A node that has a new id is no longer what it was; another public node at its address is not believed until the
    /// old one fails.
    fn forget_former(&mut self, node: &NodeAddr) {
        for bucket in &mut self.buckets {
            bucket.live.retain(|e| e.node.addr != node.addr || e.node.id == node.id);
        }
    }

    /// Whether another node of the same public address is in the table: in the public DHT it is enough.
    pub fn crowds(&self, node: &NodeAddr) -> bool {
        scope(node.addr) == Scope::Public
            && self
                .entries()
                .any(|e| e.node.addr.ip() == node.addr.ip() && e.node.addr != node.addr && !e.is_bad())
    }

    /// `addr` did not answer.
    pub fn failed(&mut self, addr: SocketAddr) {
        for bucket in &mut self.buckets {
            let Some(at) = bucket.live.iter().position(|e| e.node.addr == addr) else { continue };
            let entry = &mut bucket.live[at];
            entry.fails = entry.fails.saturating_add(1);
            if entry.is_bad()
                && let Some(spare) = bucket.spares.pop()
            {
                bucket.live[at] = spare;
            }
        }
    }

    /// Whether the node at `addr` did not answer once, and is not given up yet.
    pub fn doubts(&self, addr: SocketAddr) -> bool {
        self.entries().any(|e| e.node.addr == addr && e.fails > 0 && !e.is_bad())
    }

    /// Whether a node with this id would be of use: its bucket has room or somebody to replace.
    pub fn has_room_for(&self, node: &NodeAddr) -> bool {
        if node.id == self.own {
            return false;
        }
        let Some(bucket) = self.buckets.get(shared_bits(&self.own, &node.id)) else { return true };
        let known = bucket.live.iter().chain(&bucket.spares).any(|e| e.node.id == node.id);
        !known && (bucket.live.len() < K || Self::replaceable(bucket, node).is_some())
    }

    /// Whether the node at `addr` answered us lately: what shows that it receives there.
    pub fn knows(&self, now: Instant, id: &DhtId, addr: SocketAddr) -> bool {
        self.buckets
            .get(shared_bits(&self.own, id))
            .is_some_and(|b| b.live.iter().any(|e| e.node.addr == addr && now.since(e.answered) < GOOD_FOR))
    }

    /// The `count` nodes closest to `target`, closest first. Bad ones are never told.
    pub fn closest(&self, target: &DhtId, count: usize) -> Vec<NodeAddr> {
        let mut all: Vec<([u8; 20], NodeAddr)> = Vec::with_capacity(K * self.buckets.len().min(20));
        all.extend(self.entries().filter(|e| !e.is_bad()).map(|e| (distance(&e.node.id, target), e.node)));
        if all.len() > count && count > 0 {
            all.select_nth_unstable_by(count - 1, |a, b| a.0.cmp(&b.0));
            all.truncate(count);
        }
        all.sort_unstable_by_key(|(distance, _)| *distance);
        all.into_iter().map(|(_, n)| n).collect()
    }

    /// Up to `count` nodes that have not answered for longest, but longer than `than`: whom to ping. Bad ones come last, so
    /// that the many dead do not keep those from being asked who may be dead as well, but they do come: after an outage
    /// of our own they are all we know.
    pub fn stalest(&self, now: Instant, than: Duration, count: usize) -> Vec<NodeAddr> {
        let mut stale: Vec<&Entry> = self.entries().filter(|e| now.since(e.answered) >= than).collect();
        stale.sort_by_key(|e| (e.is_bad(), e.answered, e.node.id));
        stale.iter().take(count).map(|e| e.node).collect()
    }

    /// A walk goes into this bucket.
    pub fn walked(&mut self, now: Instant, bits: usize) {
        if let Some(bucket) = self.buckets.get_mut(bits) {
            bucket.walked = Some(now);
        }
    }

    /// A walk to our own id has met everybody from the eighth closest on.
    pub fn neighbourhood_walked(&mut self, now: Instant) {
        let closest = self.closest(&self.own, K);
        let from = closest.last().map_or(0, |n| shared_bits(&self.own, &n.id));
        self.buckets.iter_mut().skip(from).for_each(|b| b.walked = Some(now));
    }

    /// The bucket that nobody walked to for longest, but at least for `every`.
    pub fn bucket_to_refresh(&self, now: Instant, every: Duration) -> Option<usize> {
        let walked = self.buckets.iter().enumerate().filter_map(|(bits, b)| Some((b.walked?, bits)));
        walked.filter(|(at, _)| now.since(*at) >= every).min().map(|(_, bits)| bits)
    }

    /// A bucket less than half full that no walk has visited yet. The others fill by themselves, and are visited in time.
    pub fn unvisited(&self) -> Option<usize> {
        self.buckets.iter().position(|b| b.walked.is_none() && b.live.len() < K / 2)
    }

    /// The same nodes around another id of ours.
    pub fn around(&self, own: DhtId) -> Table {
        let mut table = Table::new(own);
        for entry in self.entries().filter(|e| !e.is_bad()) {
            table.answered(entry.answered, entry.node);
        }
        table
    }

    fn bucket_mut(&mut self, id: &DhtId) -> &mut Bucket {
        let bits = shared_bits(&self.own, id);
        if self.buckets.len() <= bits {
            self.buckets.resize_with(bits + 1, Bucket::default);
        }
        &mut self.buckets[bits]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(first: u8, last: u8) -> NodeAddr {
        let mut id = [0; 20];
        (id[0], id[19]) = (first, last);
        NodeAddr { id: DhtId(id), addr: ([10, 0, first, last], 1_000).into() }
    }

    fn at(s: u64) -> Instant {
        Instant::from_millis(s * 1_000)
    }

    fn full() -> Table {
        let mut t = Table::new(DhtId([0; 20]));
        (0..K as u8 + 2).for_each(|n| assert!(t.answered(at(u64::from(n)), node(0x80, n)) == (n < K as u8)));
        t
    }

    #[test]
    fn a_full_bucket_keeps_its_old_nodes_until_one_fails_twice() {
        let mut t = full();
        assert_eq!(t.len(), K);
        assert!(t.entries().all(|e| e.node != node(0x80, 8)));
        assert!(!t.has_room_for(&node(0x80, 77)), "full of good nodes");
        t.failed(node(0x80, 3).addr);
        assert!(t.entries().any(|e| e.node == node(0x80, 3)), "once is forgiven");
        t.failed(node(0x80, 3).addr);
        assert!(t.entries().all(|e| e.node != node(0x80, 3)));
        assert!(t.entries().any(|e| e.node == node(0x80, 9)), "the latest spare took its place");
    }

    #[test]
    fn a_bad_node_without_spare_is_not_told_to_others() {
        let mut t = Table::new(DhtId([0; 20]));
        t.answered(at(0), node(0x80, 1));
        t.failed(node(0x80, 1).addr);
        t.failed(node(0x80, 1).addr);
        assert!(t.closest(&DhtId([0x80; 20]), 8).is_empty() && t.is_empty());
        t.answered(at(9), node(0x80, 1));
        assert_eq!(t.len(), 1, "it is back");
    }

    #[test]
    fn the_dead_are_asked_last_whether_they_live() {
        let mut t = Table::new(DhtId([0; 20]));
        (1..=4).for_each(|n| assert!(t.answered(at(u64::from(n)), node(0x80, n))));
        for n in [1, 2] {
            (0..FAILS_MAX).for_each(|_| t.failed(node(0x80, n).addr));
        }
        let asked = |t: &Table, count| t.stalest(at(900), GOOD_FOR / 2, count);
        assert_eq!(asked(&t, 2), [node(0x80, 3), node(0x80, 4)]);
        assert_eq!(asked(&t, 9), [3, 4, 1, 2].map(|n| node(0x80, n)));
    }

    #[test]
    fn an_id_cannot_be_taken_over_by_another_address() {
        let mut t = full();
        let mut thief = node(0x80, 1);
        thief.addr = ([10, 9, 9, 9], 1).into();
        t.answered(at(50), thief);
        assert!(t.entries().all(|e| e.node.addr != thief.addr));
    }

    #[test]
    fn a_node_that_changed_its_id_is_known_once() {
        let mut t = full();
        let moved = NodeAddr { id: node(0x40, 1).id, addr: node(0x80, 1).addr };
        t.answered(at(50), moved);
        assert_eq!(t.entries().filter(|e| e.node.addr == moved.addr).count(), 1);
    }

    #[test]
    fn the_closest_come_first_in_order_and_are_no_more_than_asked_for() {
        let mut t = full();
        (1..=5).for_each(|n| assert!(t.answered(at(60), node(0x01, n))));
        let found = t.closest(&node(0x01, 4).id, 6);
        assert_eq!(found.len(), 6);
        let sorted = found.is_sorted_by_key(|n| distance(&n.id, &node(0x01, 4).id));
        assert!(sorted && found[0] == node(0x01, 4));
    }

    #[test]
    fn public_nodes_whose_id_fits_replace_those_whose_id_does_not() {
        let mut rng = crate::rng::Rng::from_seed([1; 32]);
        let own = DhtId([0; 20]);
        let mut t = Table::new(own);
        let misfit = |n: u8| {
            let mut id = [0xff; 20];
            id[18] = n;
            NodeAddr { id: DhtId(id), addr: ([203, 0, 113, n], 1).into() }
        };
        (0..8).for_each(|n| assert!(t.answered(at(1), misfit(n))));
        let fitting = (1..=255u8)
            .map(|n| {
                let addr: SocketAddr = ([198, 51, 100, n], 1).into();
                NodeAddr { id: super::super::node_id::for_address(addr.ip(), &mut rng), addr }
            })
            .find(|n| shared_bits(&own, &n.id) == 0)
            .unwrap();
        assert!(t.has_room_for(&fitting));
        t.answered(at(2), fitting);
        assert!(t.entries().any(|e| e.node == fitting));
        assert!(t.crowds(&NodeAddr { id: DhtId([3; 20]), addr: SocketAddr::new(fitting.addr.ip(), 9) }));
    }

    #[test]
    fn a_table_moved_to_another_id_keeps_its_nodes() {
        let t = full().around(DhtId([0xff; 20]));
        assert_eq!(t.len(), 8);
    }

    #[test]
    fn the_table_is_bounded_whatever_answers() {
        let mut t = Table::new(DhtId([0; 20]));
        let mut rng = crate::rng::Rng::from_seed([3; 32]);
        for n in 0..20_000u32 {
            let id = super::super::node_id::random(&mut rng);
            t.answered(at(1), NodeAddr { id, addr: (std::net::Ipv4Addr::from(0x0a00_0000 + n), 1).into() });
        }
        assert!(t.len() <= 160 && t.heap_bytes() < 20_000, "{} nodes, {} bytes", t.len(), t.heap_bytes());
    }
}
