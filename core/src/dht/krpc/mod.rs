//! A node of the Mainline DHT of our own: BEP 5, 32, 42, 43 and 44 as one machine without I/O.
//!
//! The `mainline` crate is a good client of the public DHT, but it has a thread, a socket, a clock and a random source
//! of its own, speaks IPv4 only, answers only a part of the implementations, and its private networks die with their
//! seeds (docs/PROTOCOL.md, measured). This node is told datagrams and time and says datagrams, so the same code runs in
//! the simulator by the thousand, in private networks, over IPv6 and on the socket that QUIC uses.
//!
//! | file | decides |
//! |---|---|
//! | [`bencode`], [`message`] | which bytes are a message; lenient about the envelope, strict about what is acted upon |
//! | [`node_id`] | which id an address may have (BEP 42) |
//! | [`table`] | who is known, who is told to others, who makes room |
//! | [`call`] | which answer belongs to which query, and when one is given up |
//! | [`walk`] | whom to ask next on the way to a target, and when that is over |
//! | [`operation`], [`client`] | what becomes of a request of the core: one answer |
//! | [`token`], [`stored`], [`source`], [`server`] | what others may store, read and ask, and how much |
//! | [`votes`], [`presence`] | where others see us, and whether they reach us |
//! | [`handover`] | which values are brought to nodes that came closer to their keys |
//! | [`family`] | when to join, to refresh, to ping, to change the id |
//! | [`saved`] | what outlives a restart |
//!
//! **Joining.** Any node can be a bootstrap: whoever asks us is pinged and enters the table when it answers. A network
//! begins with two nodes that know each other's address; when the first ones die the others know each other, and a node
//! that comes back with an empty table and one address fills it again.
//!
//! **Trust.** Nothing that arrives is believed: answers must carry the random id of a query and come from where it went,
//! values their owner's signature, stores a token. What is refused is counted ([`Output::Refused`]), what is kept is
//! bounded by a named limit in the file that keeps it.
//!
//! An address has one form here: IPv4 dressed as IPv6 is undressed on its way in, so a driver with one dual-stack socket
//! dresses destinations again.

pub mod bencode;
pub mod call;
pub mod client;
pub mod family;
pub mod handover;
pub mod interface;
pub mod message;
pub mod node_id;
pub mod operation;
pub mod presence;
pub mod saved;
pub mod server;
pub mod source;
pub mod stored;
pub mod table;
pub mod token;
pub mod votes;
pub mod walk;

use crate::codec::DecodeError;
use crate::dht::endpoint::usable;
use crate::id::{DhtId, OpId};
use crate::machine::{Cx, Machine};
use crate::port::{DhtEvent, DhtFailed, DhtRequest};
use crate::rng::Rng;
use crate::time::{Deadline, Duration, Instant};
use call::PINGS_MAX;
use client::{Client, Effect, Moment, Start, Us};
use family::Family;
use handover::Handover;
pub use interface::{Config, Input, Output, Presence};
use message::{Body, DATAGRAM_MAX, Message, NodeAddr, Query, Reply};
use operation::{Found, Operation};
use presence::Reachability;
use saved::{SAVED_MAX, Saved};
use server::{Asked, Outcome, Server};
use source::Source;
use std::net::SocketAddr;
use walk::{Purpose, Quest};

/// Bootstrap addresses kept; many of them are many queries.
pub const SEEDS_MAX: usize = 16;
/// Nodes a walk begins with.
const START_NODES: usize = 16;
/// How often stores and accounts are swept.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The DHT node.
#[derive(Debug)]
pub struct Krpc {
    config: Config,
    started: bool,
    families: [Family; 2],
    client: Client,
    server: Server,
    handover: Handover,
    reachability: Reachability,
    sweep_at: Option<Instant>,
    health: Option<(u32, bool)>,
}

impl Krpc {
    /// A node before its start, that knows nobody.
    pub fn new(mut config: Config) -> Self {
        config.bootstrap.truncate(SEEDS_MAX);
        let reachability = Reachability::new(config.presence, config.private_networks);
        Self {
            started: false,
            families: [Family::new(false), Family::new(true)],
            client: Client::default(),
            server: Server::new(config.private_networks),
            handover: Handover::new(config.private_networks),
            config,
            reachability,
            sweep_at: None,
            health: None,
        }
    }

    /// Takes back what [`Krpc::saved`] gave, before the start.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let saved = Saved::decode(bytes)?;
        let private = self.config.private_networks;
        for ((family, id), nodes) in self.families.iter_mut().zip(saved.ids).zip(saved.nodes) {
            let nodes = nodes.into_iter().filter(|n| usable(n.addr, private)).collect();
            family.restore(id, nodes);
        }
        self.reachability.set(saved.reachable);
        Ok(())
    }

    /// The table, to be kept between runs.
    pub fn saved(&self) -> Vec<u8> {
        let ids = self.families.each_ref().map(|f| *f.table.own());
        let nodes = self.families.each_ref().map(|f| {
            let known = f.table.closest(f.table.own(), SAVED_MAX);
            // A run that never got through must not forget what the one before knew.
            if known.is_empty() { f.remembered.clone() } else { known }
        });
        Saved { ids, nodes, reachable: self.reachability.is_proven() }.encode()
    }

    /// Nodes in the tables of both families.
    pub fn table_len(&self) -> usize {
        self.families.iter().map(|f| f.table.len()).sum()
    }

    /// The table of one family.
    pub fn table(&self, ipv6: bool) -> &table::Table {
        &self.families[usize::from(ipv6)].table
    }

    /// Where most others see us in IPv4 and in IPv6, and how many say so.
    pub fn observed(&self) -> [Option<(SocketAddr, u32)>; 2] {
        self.families.each_ref().map(Family::observed)
    }

    /// Values and peers kept for others.
    pub fn kept(&self) -> (usize, usize) {
        (self.server.values.len(), self.server.peers.len())
    }

    /// Whether a value lies here under this target.
    pub fn holds(&self, target: &DhtId) -> bool {
        self.server.values.holds(target)
    }

    /// Operations and queries under way.
    pub fn under_way(&self) -> (usize, usize) {
        (self.client.ops(), self.client.calls().len())
    }

    /// Whether a value is being handed over.
    pub fn hands_over(&self) -> bool {
        self.client.hands_over()
    }

    /// Whether queries say that we are read-only (BEP 43).
    pub fn read_only(&self) -> bool {
        self.reachability.read_only()
    }

    /// Memory of this node, counted from what it holds.
    pub fn memory_bytes(&self) -> usize {
        let families: usize = self.families.iter().map(Family::heap_bytes).sum();
        let config = self.config.bootstrap.capacity() * size_of::<SocketAddr>();
        let asking = self.client.heap_bytes() + self.reachability.heap_bytes();
        let keeping = self.server.heap_bytes() + self.handover.heap_bytes();
        size_of::<Self>() + families + config + asking + keeping
    }

    fn us(&self) -> Us {
        let known = |f: &Family| !f.table.is_empty();
        Us {
            ids: self.families.each_ref().map(|f| *f.table.own()),
            read_only: self.reachability.read_only(),
            both_families: self.families.iter().all(known),
            private_networks: self.config.private_networks,
        }
    }

    /// Lets the client do something, and carries out what comes of it until it rests.
    fn with_client(&mut self, cx: &mut Cx<'_, Output>, f: impl FnOnce(&mut Client, &mut Moment<'_>)) {
        let us = self.us();
        let mut moment = Moment { now: cx.now, rng: &mut *cx.rng, us, effects: Vec::new() };
        f(&mut self.client, &mut moment);
        let mut walked = false;
        let mut doubted = Vec::new();
        for effect in moment.effects {
            match effect {
                Effect::Send(to, bytes) => {
                    self.reachability.wrote(cx.now, to);
                    cx.emit(Output::Datagram { to, bytes });
                }
                Effect::Event(event) => cx.emit(Output::Event(event)),
                Effect::Silent(addr) => {
                    let table = &mut self.families[usize::from(addr.is_ipv6())].table;
                    table.failed(addr);
                    if table.len() <= table::K {
                        doubted.push(addr);
                    }
                }
                Effect::Walked { purpose, ipv6 } => {
                    self.families[usize::from(ipv6)].walked(cx.now, purpose);
                    walked = true;
                }
                Effect::HandedOver => self.handover.ended(cx.now),
                Effect::Refused(why) => cx.emit(Output::Refused(why)),
            }
        }
        if walked {
            self.upkeep(cx);
        }
        if !doubted.is_empty() {
            self.doubt(cx, doubted);
        }
    }

    /// While we know few, each counts: who kept silent once is asked again at once, so that the death of all others is
    /// told a few seconds after the first sign of it.
    fn doubt(&mut self, cx: &mut Cx<'_, Output>, silent: Vec<SocketAddr>) {
        for addr in silent {
            if self.families[usize::from(addr.is_ipv6())].table.doubts(addr) {
                self.ping(cx, addr);
            }
        }
        self.tell_health(cx);
    }

    /// What is due for the tables themselves.
    fn upkeep(&mut self, cx: &mut Cx<'_, Output>) {
        for at in 0..self.families.len() {
            let seeds = self.config.bootstrap.iter().any(|a| usize::from(a.is_ipv6()) == at);
            let chores = self.families[at].chores(cx.now, cx.rng, seeds);
            if let Some((target, purpose)) = chores.walk {
                let mut start = self.start(at == 1, &target);
                if purpose == Purpose::Own {
                    start.seeds = self.seeds(at == 1);
                }
                let mut began = false;
                self.with_client(cx, |c, m| began = c.explore(m, target, purpose, start));
                if !began {
                    self.families[at].walked(cx.now, purpose);
                }
            }
            for node in chores.pings {
                self.ping(cx, node.addr);
            }
        }
        self.tell_health(cx);
    }

    fn tell_health(&mut self, cx: &mut Cx<'_, Output>) {
        let table_len = self.table_len() as u32;
        let health = (table_len, table_len > 0);
        if self.health != Some(health) {
            self.health = Some(health);
            cx.emit(Output::Event(DhtEvent::Health { table_len, reachable: health.1 }));
        }
    }

    fn ping(&mut self, cx: &mut Cx<'_, Output>, addr: SocketAddr) {
        if self.client.calls().pings() < PINGS_MAX && !self.client.calls().asks(addr) {
            self.with_client(cx, |c, m| c.ping(m, addr));
        }
    }

    /// Where a walk in one family begins: the closest we know; with few of them also those of the last run, and the
    /// bootstrap addresses.
    fn start(&self, ipv6: bool, target: &DhtId) -> Start {
        let family = &self.families[usize::from(ipv6)];
        let mut known = family.table.closest(target, START_NODES);
        let mut seeds = Vec::new();
        if known.len() < table::K {
            known.extend(family.remembered.iter().take(START_NODES));
            seeds = self.seeds(ipv6);
        }
        Start { ipv6, known, seeds }
    }

    /// The bootstrap addresses of one family. They also belong to every visit of our neighbourhood: one of them may have
    /// come back knowing nobody.
    fn seeds(&self, ipv6: bool) -> Vec<SocketAddr> {
        let private = self.config.private_networks;
        let fits = |a: &&SocketAddr| a.is_ipv6() == ipv6 && usable(**a, private);
        self.config.bootstrap.iter().filter(fits).copied().collect()
    }

    fn request(&mut self, cx: &mut Cx<'_, Output>, op: OpId, request: DhtRequest) {
        if request == DhtRequest::Cancel {
            return self.with_client(cx, |c, m| c.cancel(m, op));
        }
        if self.client.has(op) {
            return cx.emit(Output::Refused("krpc-op-repeated"));
        }
        if !self.started {
            let result = Err(DhtFailed::Offline);
            return cx.emit(Output::Event(DhtEvent::Done { op, result }));
        }
        let (target, _) = operation::way(&request);
        self.renew_own_copy(cx.now, &request);
        let starts = [false, true].map(|ipv6| self.start(ipv6, &target));
        let now = cx.now;
        // Lent to the client for a look at our own shelves; nothing in there comes back to it.
        let server = std::mem::take(&mut self.server);
        self.with_client(cx, |c, m| {
            let own = |o: &mut Operation, rng: &mut Rng| from_own_shelf(&server, now, o, rng);
            c.begin(m, op, request, own, starts);
        });
        self.server = server;
    }

    /// Walks never come to ourselves, so a copy that we hold of what we put is renewed here. While we know fewer than
    /// should hold it we are one of those ourselves, and bring it on when others come.
    fn renew_own_copy(&mut self, now: Instant, request: &DhtRequest) {
        let (v, mutable, cas) = match request {
            DhtRequest::PutMutable { item, cas } => {
                let (key, seq, signature) = (*item.key.as_bytes(), item.seq, item.signature);
                let signed = message::Signed { key, seq, signature, salt: &item.salt };
                (operation::bencoded(&item.value), Some(signed), *cas)
            }
            DhtRequest::PutImmutable { value } => (operation::bencoded(value), None, None),
            DhtRequest::Announce { .. }
            | DhtRequest::GetPeers { .. }
            | DhtRequest::GetMutable { .. }
            | DhtRequest::GetImmutable { .. }
            | DhtRequest::Cancel => return,
        };
        let put = message::Put { token: &[], v: &v, mutable, cas, age: None };
        if self.table_len() >= table::K && !self.server.values.holds(&put.target()) {
            return;
        }
        // Refused when ours is newer: the holders will say so as well, and the operation ends with that.
        let _refused = self.server.values.put(now, self.families[0].table.own(), Source::Others, &put);
    }

    /// Brings the value whose turn it is to those who should hold it.
    fn hand_over(&mut self, cx: &mut Cx<'_, Output>) {
        if self.client.hands_over() {
            return;
        }
        let item = self.handover.next(cx.now).and_then(|key| self.server.values.item(cx.now, &key));
        let Some((item, age)) = item else { return };
        let target = crate::dht::item::target(&item.key, &item.salt);
        let starts = [false, true].map(|ipv6| self.start(ipv6, &target));
        self.with_client(cx, |c, m| c.hand_over(m, item, age, starts));
    }

    fn datagram(&mut self, cx: &mut Cx<'_, Output>, from: SocketAddr, bytes: &[u8]) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if !self.started || !usable(from, self.config.private_networks) {
            return cx.emit(Output::Refused("krpc-source"));
        }
        if bytes.len() > DATAGRAM_MAX {
            return cx.emit(Output::Refused("krpc-too-long"));
        }
        let Some(message) = message::read(bytes) else {
            return cx.emit(Output::Refused("krpc-malformed"));
        };
        match message.body {
            Body::Query(_) | Body::Broken(_) => self.asked(cx, from, bytes.len(), &message),
            Body::Reply(reply) => self.replied(cx, from, &message, &reply),
            Body::Error(code) => match self.client.take_call(from, message.tid) {
                Some(call) => self.with_client(cx, |c, m| c.refused(m, call, code)),
                None => cx.emit(Output::Refused("krpc-unasked")),
            },
        }
    }

    fn replied(
        &mut self,
        cx: &mut Cx<'_, Output>,
        from: SocketAddr,
        message: &Message<'_>,
        reply: &Reply<'_>,
    ) {
        let Some(call) = self.client.take_call(from, message.tid) else {
            return cx.emit(Output::Refused("krpc-unasked"));
        };
        let node = NodeAddr { id: reply.id, addr: from };
        let at = usize::from(from.is_ipv6());
        self.server.sources.verified(cx.now, Source::of(from));
        let crowds = self.crowds(&node);
        let family = &mut self.families[at];
        if !crowds && !message.read_only {
            let entered = family.table.answered(cx.now, node);
            if entered {
                let keys = self.server.values.signed();
                self.handover.met(cx.now, cx.rng, node, &family.table, keys);
            }
        }
        let vote = message.ip.filter(|a| a.is_ipv6() == from.is_ipv6());
        let vote = vote.filter(|a| usable(*a, self.config.private_networks));
        let moved = vote.is_some_and(|addr| family.seen_at(cx.now, cx.rng, from, addr));
        if let Some((addr, votes)) = family.newly_observed() {
            cx.emit(Output::Observed { addr, votes });
        }
        if moved {
            self.client.forget_own_walks(at == 1);
        }
        self.with_client(cx, |c, m| c.answered(m, call, reply));
        if moved {
            self.upkeep(cx);
        }
    }

    fn asked(&mut self, cx: &mut Cx<'_, Output>, from: SocketAddr, len: usize, message: &Message<'_>) {
        self.reachability.asked_by(cx.now, from);
        if !self.reachability.answers() {
            return cx.emit(Output::Refused("krpc-read-only"));
        }
        if !self.server.sources.query(cx.now, Source::of(from), len) {
            return cx.emit(Output::Refused("krpc-rate"));
        }
        let outcome = match message.body {
            Body::Query(query) => {
                let asked = Asked { from, tid: message.tid, query };
                let [four, six] = &self.families;
                self.server.answer(cx.now, cx.rng, &asked, [&four.table, &six.table])
            }
            Body::Broken(code) => self.server.error(cx.now, from, message.tid, code),
            Body::Reply(_) | Body::Error(_) => Outcome::default(),
        };
        if let Some(bytes) = outcome.reply {
            self.reachability.wrote(cx.now, from);
            cx.emit(Output::Datagram { to: from, bytes });
        }
        if let Some(why) = outcome.refused {
            cx.emit(Output::Refused(why));
        }
        if let Some(key) = outcome.laid {
            let table = &self.families[usize::from(from.is_ipv6())].table;
            self.handover.stored(cx.now, cx.rng, &key, table);
        }
        if let Body::Query(query) = message.body
            && !message.read_only
        {
            self.meet(cx, from, &query, outcome.unproven);
        }
    }

    /// Whether the public address of `node` has its place in the table already. All of a private network may be behind one.
    fn crowds(&self, node: &NodeAddr) -> bool {
        !self.config.private_networks && self.families[usize::from(node.addr.is_ipv6())].table.crowds(node)
    }

    /// Whoever asks us may be worth knowing; a ping shows whether it is really there.
    fn meet(&mut self, cx: &mut Cx<'_, Output>, from: SocketAddr, query: &Query<'_>, unproven: bool) {
        let node = NodeAddr { id: query.id, addr: from };
        let family = &self.families[usize::from(from.is_ipv6())];
        let wanted = unproven || (!self.crowds(&node) && family.table.has_room_for(&node));
        if wanted && self.server.sources.may_ping(cx.now, Source::of(from)) {
            self.ping(cx, from);
        }
    }

    /// Walks home from addresses to join by that are news, and from nowhere else: if all that we know are of one hand,
    /// one honest address must be enough to get out of it. With few nodes known, joining does that anyway.
    fn greet(&mut self, cx: &mut Cx<'_, Output>) {
        for ipv6 in [false, true] {
            let table = &self.families[usize::from(ipv6)].table;
            let private = self.config.private_networks;
            let news = |a: &&SocketAddr| {
                a.is_ipv6() == ipv6 && usable(**a, private) && table.good().all(|n| n.addr != **a)
            };
            let seeds: Vec<SocketAddr> = self.config.bootstrap.iter().filter(news).copied().collect();
            if table.len() < table::K || seeds.is_empty() {
                continue;
            }
            let own = *table.own();
            let start = Start { ipv6, known: Vec::new(), seeds };
            self.with_client(cx, |c, m| {
                c.explore(m, own, Purpose::Own, start);
            });
        }
    }

    fn begin(&mut self, cx: &mut Cx<'_, Output>) {
        if self.started {
            return;
        }
        self.started = true;
        self.server.tokens = token::Tokens::new(cx.rng.bytes());
        for family in &mut self.families {
            family.begin(cx.now, cx.rng);
        }
        self.sweep_at = Some(cx.now + cx.rng.jitter(SWEEP_EVERY, 20));
        self.upkeep(cx);
    }
}

/// What we hold ourselves answers as well: in a network of two, the other one may have stored it here.
fn from_own_shelf(server: &Server, now: Instant, operation: &mut Operation, rng: &mut Rng) -> Found {
    let (target, _) = operation.way();
    match operation.wants() {
        Some(Quest::Peers) => {
            let mut addrs = server.peers.sample(now, &target, false, rng);
            addrs.extend(server.peers.sample(now, &target, true, rng));
            operation.peers(addrs.into_iter())
        }
        Some(Quest::Value) => {
            let held = server.values.get(now, &target, None);
            let salt = operation.slot().map(|(_, salt)| salt.clone()).unwrap_or_default();
            match (held.mutable, held.v) {
                (Some((key, signature, seq)), Some(v)) => {
                    Found { enough: false, ..operation.value(&salt, key, seq, signature, v) }
                }
                (None, Some(v)) => operation.immutable(v),
                (Some(_) | None, _) => Found::default(),
            }
        }
        Some(Quest::Nodes) | None => Found::default(),
    }
}

impl Machine for Krpc {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Start => self.begin(cx),
            Input::Datagram { from, bytes } => self.datagram(cx, from, &bytes),
            Input::Request { op, request } => self.request(cx, op, request),
            Input::Bootstrap(mut addrs) => {
                addrs.truncate(SEEDS_MAX);
                self.config.bootstrap = addrs;
                if self.started {
                    self.greet(cx);
                    self.families.iter_mut().for_each(|f| f.look_around(cx.now));
                    self.upkeep(cx);
                }
            }
            Input::Reachable(yes) => self.reachability.set(yes),
            Input::NetworkChanged => {
                self.reachability.set(false);
                if self.started {
                    self.families.iter_mut().for_each(|f| f.network_changed(cx.now));
                    self.upkeep(cx);
                }
            }
            Input::Save => cx.emit(Output::Table(self.saved())),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        if !self.started {
            return;
        }
        self.with_client(cx, |c, m| c.timeout(m));
        if self.sweep_at.is_some_and(|at| at <= cx.now) {
            self.server.expire(cx.now);
            self.handover.forget(|key| self.server.values.holds(key));
            self.sweep_at = Some(cx.now + cx.rng.jitter(SWEEP_EVERY, 20));
        }
        if self.families.iter().any(|f| f.is_due(cx.now)) {
            self.upkeep(cx);
        }
        self.hand_over(cx);
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let sweep = self.sweep_at.map(|at| Deadline::new(at, "krpc-sweep"));
        let own = self
            .families
            .iter()
            .filter_map(Family::deadline)
            .fold(sweep, |a, b| Deadline::earlier(a, Some(b)));
        // One at a time: the next begins when the one under way has ended.
        let handover = self.handover.deadline().filter(|_| !self.client.hands_over());
        Deadline::earlier(Deadline::earlier(own, handover), self.client.calls().deadline())
    }
}

#[cfg(test)]
mod tests;
