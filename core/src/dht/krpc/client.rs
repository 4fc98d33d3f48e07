//! Asking others: queries under way, walks, and the operations of the core that they serve.
//!
//! The client knows no table: whoever starts a walk gives it the nodes to begin with, and what it learns of nodes goes
//! out as [`Effect`]s. Every operation ends with exactly one answer, because it lives in one map and is answered where it
//! is taken out of it.

use super::call::{Call, Calls, Due, Origin, Why};
use super::message::{Ask, NodeAddr, Outgoing, Reply, write_query};
use super::node_id::distance;
use super::operation::{Found, Operation};
use super::table::K;
use super::walk::{Holder, Purpose, Quest, WIDTH_MAX, Walk};
use crate::dht::endpoint::usable;
use crate::id::{DhtId, OpId};
use crate::port::{DhtDone, DhtEvent, DhtFailed, DhtRequest, MutableItem};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Operations under way. The core's scheduler has four.
pub const OPS_MAX: usize = 64;
/// Walks under way: two for each operation and for a handover, and our own.
pub const WALKS_MAX: usize = 2 * OPS_MAX + 10;

/// Who we are towards others.
#[derive(Clone, Copy, Debug)]
pub struct Us {
    /// Our ids in the IPv4 and IPv6 DHT.
    pub ids: [DhtId; 2],
    /// Whether we say that we are read-only.
    pub read_only: bool,
    /// Whether nodes of both families are of use.
    pub both_families: bool,
    /// Whether private addresses may be used.
    pub private_networks: bool,
}

/// What comes of it.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send a datagram.
    Send(SocketAddr, Vec<u8>),
    /// Tell the core.
    Event(DhtEvent),
    /// A node did not answer.
    Silent(SocketAddr),
    /// A walk for ourselves has ended.
    Walked {
        /// Its purpose.
        purpose: Purpose,
        /// In which DHT.
        ipv6: bool,
    },
    /// A handover has ended.
    HandedOver,
    /// Something was refused.
    Refused(&'static str),
}

/// What a moment is made of.
pub struct Moment<'a> {
    /// Now.
    pub now: Instant,
    /// The node's generator.
    pub rng: &'a mut Rng,
    /// Who we are.
    pub us: Us,
    /// What comes of it.
    pub effects: Vec<Effect>,
}

/// Where a walk begins.
pub struct Start {
    /// In the IPv6 DHT.
    pub ipv6: bool,
    /// Known nodes, closest first.
    pub known: Vec<NodeAddr>,
    /// Addresses whose nodes we do not know yet.
    pub seeds: Vec<SocketAddr>,
}

/// Queries, walks and operations.
#[derive(Clone, Debug, Default)]
pub struct Client {
    calls: Calls,
    walks: BTreeMap<u32, Walk>,
    ops: BTreeMap<Origin, Operation>,
    /// The right to store, by query, for sending it once more.
    stores: BTreeMap<u32, Holder>,
    walk_ids: u32,
}

impl Client {
    /// Queries under way.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Operations of the core under way.
    pub fn ops(&self) -> usize {
        self.ops.len() - usize::from(self.hands_over())
    }

    /// Walks under way.
    pub fn walks(&self) -> usize {
        self.walks.len()
    }

    /// Bytes on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        self.calls.heap_bytes() + self.walks.len() * 6_000 + self.ops.len() * 2_000
    }

    /// Whether this operation is under way.
    pub fn has(&self, op: OpId) -> bool {
        self.ops.contains_key(&Origin::Core(op))
    }

    /// Whether a handover is under way.
    pub fn hands_over(&self) -> bool {
        self.ops.contains_key(&Origin::Handover)
    }

    /// Begins an operation. `own` looks at our own shelves first, `starts` says where the walks begin.
    pub fn begin(
        &mut self,
        m: &mut Moment<'_>,
        op: OpId,
        request: DhtRequest,
        own: impl FnOnce(&mut Operation, &mut Rng) -> Found,
        starts: [Start; 2],
    ) {
        let op = Origin::Core(op);
        if self.ops() >= OPS_MAX {
            m.effects.push(Effect::Refused("krpc-ops-full"));
            return done(m, op, Err(DhtFailed::Timeout));
        }
        let mut operation = match Operation::new(request) {
            Ok(operation) => operation,
            Err(failed) => return done(m, op, Err(failed)),
        };
        let found = own(&mut operation, m.rng);
        let enough = found.enough;
        tell(m, op, found);
        if enough {
            return done(m, op, operation.result());
        }
        self.set_out(m, op, operation, starts);
    }

    /// Brings a value that we hold to those closer to its key who lack it. One at a time.
    pub fn hand_over(&mut self, m: &mut Moment<'_>, item: MutableItem, age: Duration, starts: [Start; 2]) {
        if !self.hands_over() {
            self.set_out(m, Origin::Handover, Operation::handover(item, age), starts);
        }
    }

    fn set_out(&mut self, m: &mut Moment<'_>, op: Origin, mut operation: Operation, starts: [Start; 2]) {
        let (target, quest) = operation.way();
        let walks: Vec<Walk> = starts
            .into_iter()
            .map(|s| Walk::new((target, s.ipv6), Purpose::Op(op), quest, s.known, s.seeds))
            .map(|w| w.among_neighbours(m.us.private_networks))
            .filter(|w| !w.is_empty())
            .collect();
        operation.walks = walks.len();
        if walks.is_empty() {
            return done(m, op, operation.result());
        }
        self.ops.insert(op, operation);
        for walk in walks {
            self.start(m, walk);
        }
    }

    /// Ends an operation that is under way.
    pub fn cancel(&mut self, m: &mut Moment<'_>, op: OpId) {
        self.end(m, Origin::Core(op), Some(DhtFailed::Cancelled));
    }

    /// Begins a walk for ourselves. False when there is nobody to ask.
    pub fn explore(&mut self, m: &mut Moment<'_>, target: DhtId, purpose: Purpose, start: Start) -> bool {
        let walk = Walk::new((target, start.ipv6), purpose, Quest::Nodes, start.known, start.seeds)
            .among_neighbours(m.us.private_networks);
        if walk.is_empty() {
            return false;
        }
        self.start(m, walk);
        true
    }

    /// Gives up walks for ourselves in one DHT: our id there has changed.
    pub fn forget_own_walks(&mut self, ipv6: bool) {
        self.walks.retain(|_, w| w.ipv6 != ipv6 || matches!(w.purpose, Purpose::Op(_)));
    }

    /// Asks `addr` whether it is there.
    pub fn ping(&mut self, m: &mut Moment<'_>, addr: SocketAddr) {
        if let Some(tid) = self.calls.begin(m.now, m.rng, addr, Why::Ping) {
            send(m, addr, tid, Ask::Ping);
        }
    }

    /// An answer: the query it belongs to.
    pub fn take_call(&mut self, from: SocketAddr, tid: &[u8]) -> Option<(u32, Call)> {
        let call = self.calls.answered(from, tid)?;
        Some((u32::from_be_bytes(tid.try_into().ok()?), call))
    }

    /// The node that was asked answered.
    pub fn answered(&mut self, m: &mut Moment<'_>, (tid, call): (u32, Call), reply: &Reply<'_>) {
        match call.why {
            Why::Ping => {}
            Why::Walk(id) => {
                let Some(walk) = self.walks.get_mut(&id) else { return };
                if m.us.ids.contains(&reply.id) {
                    // Somebody named our own address: our own shelf is no other's.
                    walk.failed(call.to);
                    return self.step(m, id);
                }
                let node = NodeAddr { id: reply.id, addr: call.to };
                walk.answered(node, reply.token(), reply.signed(&[]).map(|(s, _)| s.seq));
                let (ipv6, own) = (walk.ipv6, m.us.ids);
                let fits = |n: &NodeAddr| {
                    n.addr.is_ipv6() == ipv6 && !own.contains(&n.id) && usable(n.addr, m.us.private_networks)
                };
                // One reply decides about one neighbourhood's worth of candidates.
                let mut named: Vec<NodeAddr> = reply.nodes().filter(fits).collect();
                named.sort_by_key(|n| distance(&n.id, &walk.target));
                named.into_iter().take(K).for_each(|n| walk.hear_of(n));
                if let Purpose::Op(op) = walk.purpose {
                    self.brought(m, op, reply);
                }
                self.step(m, id);
            }
            Why::Store(op) => {
                self.stores.remove(&tid);
                self.store_ended(m, op, Operation::stored);
            }
        }
    }

    /// The node that was asked refused.
    pub fn refused(&mut self, m: &mut Moment<'_>, (tid, call): (u32, Call), code: i64) {
        self.failed(m, tid, call, |o| o.refused(code));
    }

    /// A query has failed; what that says of a store is told to its operation.
    fn failed(&mut self, m: &mut Moment<'_>, tid: u32, call: Call, store: impl FnOnce(&mut Operation)) {
        match call.why {
            Why::Ping => {}
            Why::Walk(id) => {
                if let Some(walk) = self.walks.get_mut(&id) {
                    walk.failed(call.to);
                }
                self.step(m, id);
            }
            Why::Store(op) => {
                self.stores.remove(&tid);
                self.store_ended(m, op, store);
            }
        }
    }

    /// Deadlines that have passed.
    pub fn timeout(&mut self, m: &mut Moment<'_>) {
        while let Some(due) = self.calls.due(m.now) {
            match due {
                Due::Slow(tid, call) => self.slow(m, tid, call),
                Due::Lost(tid, call) => self.lost(m, tid, call),
            }
        }
    }

    fn lost(&mut self, m: &mut Moment<'_>, tid: u32, call: Call) {
        m.effects.push(Effect::Silent(call.to));
        self.failed(m, tid, call, |_| ());
    }

    fn slow(&mut self, m: &mut Moment<'_>, tid: u32, call: Call) {
        match call.why {
            Why::Ping => {}
            Why::Walk(id) => {
                let Some(walk) = self.walks.get_mut(&id) else { return };
                if walk.slow(call.to, call.tries) {
                    let ask = ask_of(walk.quest, walk.target);
                    self.calls.again(m.now, tid);
                    send(m, call.to, tid, ask);
                }
                self.step(m, id);
            }
            Why::Store(op) if call.tries == 1 => {
                let ask = self.stores.get(&tid).zip(self.ops.get(&op));
                if let Some(ask) = ask.and_then(|(h, o)| o.store(&h.token, h.holds)) {
                    send(m, call.to, tid, ask);
                }
                self.calls.again(m.now, tid);
            }
            // Twice without an answer: the others have it, and the operation has waited long enough.
            Why::Store(_) => {
                self.calls.remove(tid);
                self.lost(m, tid, call);
            }
        }
    }

    fn start(&mut self, m: &mut Moment<'_>, walk: Walk) {
        if self.walks.len() >= WALKS_MAX {
            m.effects.push(Effect::Refused("krpc-walks-full"));
            return self.walk_ended(m, walk);
        }
        self.walk_ids = self.walk_ids.wrapping_add(1);
        self.walks.insert(self.walk_ids, walk);
        self.step(m, self.walk_ids);
    }

    /// Sends what the walk may send now, and ends it when nothing is to come.
    fn step(&mut self, m: &mut Moment<'_>, id: u32) {
        let Some(walk) = self.walks.get_mut(&id) else { return };
        while let Some(addr) = walk.next_to_ask() {
            match self.calls.begin(m.now, m.rng, addr, Why::Walk(id)) {
                Some(tid) => send(m, addr, tid, ask_of(walk.quest, walk.target)),
                None => walk.failed(addr),
            }
        }
        if walk.is_done() && widens(&self.ops, walk) && walk.widen() {
            return self.step(m, id);
        }
        if walk.is_done()
            && let Some(walk) = self.walks.remove(&id)
        {
            self.walk_ended(m, walk);
        }
    }

    fn walk_ended(&mut self, m: &mut Moment<'_>, walk: Walk) {
        let Purpose::Op(op) = walk.purpose else {
            return m.effects.push(Effect::Walked { purpose: walk.purpose, ipv6: walk.ipv6 });
        };
        let Some(operation) = self.ops.get_mut(&op) else { return };
        match operation.walked(walk.responded(), walk.holders()) {
            None => {}
            Some(Err(failed)) => self.end(m, op, Some(failed)),
            Some(Ok(holders)) => self.store(m, op, holders),
        }
    }

    fn store(&mut self, m: &mut Moment<'_>, op: Origin, holders: Vec<Holder>) {
        let Some(operation) = self.ops.get_mut(&op) else { return };
        for holder in holders {
            let Some(ask) = operation.store(&holder.token, holder.holds) else { continue };
            if let Some(tid) = self.calls.begin(m.now, m.rng, holder.addr, Why::Store(op)) {
                send(m, holder.addr, tid, ask);
                self.stores.insert(tid, holder);
                operation.storing += 1;
            }
        }
        if operation.storing == 0 {
            self.end(m, op, None);
        }
    }

    fn store_ended(&mut self, m: &mut Moment<'_>, op: Origin, how: impl FnOnce(&mut Operation)) {
        let Some(operation) = self.ops.get_mut(&op) else { return };
        how(operation);
        operation.storing = operation.storing.saturating_sub(1);
        if operation.storing == 0 {
            self.end(m, op, None);
        }
    }

    /// What a reply brought to an operation.
    fn brought(&mut self, m: &mut Moment<'_>, op: Origin, reply: &Reply<'_>) {
        let Some(operation) = self.ops.get_mut(&op) else { return };
        let private = m.us.private_networks;
        let found = operation.reply(reply, |a| usable(a, private));
        let enough = found.enough;
        tell(m, op, found);
        if enough {
            self.end(m, op, None);
        }
    }

    /// The one place where an operation that was begun is answered.
    fn end(&mut self, m: &mut Moment<'_>, op: Origin, failed: Option<DhtFailed>) {
        let Some(mut operation) = self.ops.remove(&op) else { return };
        for walk in self.walks.values().filter(|w| w.purpose == Purpose::Op(op)) {
            operation.walked(walk.responded(), Vec::new());
        }
        self.walks.retain(|_, w| w.purpose != Purpose::Op(op));
        done(m, op, failed.map_or_else(|| operation.result(), Err));
    }
}

/// Whether a walk that has ended by the eight closest should ask more: for a value that nobody had, and in a network so
/// small that everybody holds everything.
fn widens(ops: &BTreeMap<Origin, Operation>, walk: &Walk) -> bool {
    let Purpose::Op(op) = walk.purpose else { return false };
    ops.get(&op)
        .is_some_and(|o| if o.wants().is_some() { o.found_nothing() } else { walk.met() <= WIDTH_MAX })
}

fn ask_of(quest: Quest, target: DhtId) -> Ask<'static> {
    match quest {
        Quest::Nodes => Ask::FindNode(target),
        Quest::Peers => Ask::GetPeers(target),
        Quest::Value => Ask::Get { target, newer_than: None },
    }
}

fn send(m: &mut Moment<'_>, to: SocketAddr, tid: u32, ask: Ask<'_>) {
    let us = &m.us;
    let id = us.ids[usize::from(to.is_ipv6())];
    let out = Outgoing { id, read_only: us.read_only, want_both: us.both_families, ask };
    m.effects.push(Effect::Send(to, write_query(tid, &out)));
}

fn tell(m: &mut Moment<'_>, op: Origin, found: Found) {
    m.effects.extend(found.refused.map(Effect::Refused));
    let Origin::Core(op) = op else { return };
    if !found.peers.is_empty() {
        m.effects.push(Effect::Event(DhtEvent::Peers { op, addrs: found.peers }));
    }
    if let Some(item) = found.item {
        m.effects.push(Effect::Event(DhtEvent::Value { op, item }));
    }
    if let Some(value) = found.value {
        m.effects.push(Effect::Event(DhtEvent::Immutable { op, value }));
    }
}

fn done(m: &mut Moment<'_>, op: Origin, result: Result<DhtDone, DhtFailed>) {
    m.effects.push(match op {
        Origin::Core(op) => Effect::Event(DhtEvent::Done { op, result }),
        Origin::Handover => Effect::HandedOver,
    });
}
