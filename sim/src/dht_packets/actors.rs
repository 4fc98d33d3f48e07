//! Those whom the product's nodes meet and who are not of their kind: other implementations, and the malicious.
//!
//! Actors answer and do little more. Each joins by a walk of the simplest sort, asks everybody it is told of up to a
//! number, so that honest nodes ping it and take it into their tables.

use remote_network_core::dht::krpc::message::{
    Answer, Ask, Body, ErrorCode, NodeAddr, Outgoing, Put, Query, read, write_error, write_query,
};
use remote_network_core::dht::krpc::node_id::distance;
use remote_network_core::id::{DhtId, Signature};
use remote_network_core::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What an actor acts with.
pub struct Post<'a> {
    /// Its own address.
    pub us: SocketAddr,
    /// Its dice.
    pub rng: &'a mut Rng,
    /// What it sends.
    pub out: Vec<(SocketAddr, Vec<u8>)>,
}

/// Somebody who is told datagrams and sends some.
pub trait Actor {
    /// Its time has come.
    fn start(&mut self, post: &mut Post<'_>);
    /// A datagram came.
    fn datagram(&mut self, post: &mut Post<'_>, from: SocketAddr, bytes: &[u8]);
}

/// Nodes that one actor asks while it joins.
const JOIN_ASKS_MAX: usize = 60;
/// Nodes an actor remembers.
const KNOWN_MAX: usize = 400;

/// Making oneself known.
struct Joining {
    id: DhtId,
    toward: DhtId,
    asked: BTreeSet<SocketAddr>,
}

impl Joining {
    fn new(id: DhtId, toward: DhtId) -> Self {
        Self { id, toward, asked: BTreeSet::new() }
    }

    fn ask(&mut self, post: &mut Post<'_>, to: SocketAddr) {
        if to != post.us && self.asked.len() < JOIN_ASKS_MAX && self.asked.insert(to) {
            let ask = Ask::FindNode(self.toward);
            let out = Outgoing { id: self.id, read_only: false, want_both: false, ask };
            post.out.push((to, write_query(post.rng.next_u64() as u32, &out)));
        }
    }
}

/// How another implementation differs.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// Nodes in its replies.
    pub k: usize,
    /// Whether it knows BEP 44.
    pub stores_values: bool,
    /// Whether its replies say where it sees the asker (BEP 42).
    pub tells_ip: bool,
    /// Whether it answers only queries whose transaction id has four bytes, as `mainline` does.
    pub four_byte_ids_only: bool,
    /// Whether its own transaction ids have two bytes, as libtorrent's do.
    pub two_byte_ids: bool,
}

impl Dialect {
    /// As `mainline` 8 speaks.
    pub const MAINLINE: Self =
        Self { k: 20, stores_values: true, tells_ip: true, four_byte_ids_only: true, two_byte_ids: false };
    /// As libtorrent 2 speaks.
    pub const LIBTORRENT: Self =
        Self { k: 8, stores_values: true, tells_ip: true, four_byte_ids_only: false, two_byte_ids: true };
    /// BEP 5 and nothing else.
    pub const OLD: Self =
        Self { k: 8, stores_values: false, tells_ip: false, four_byte_ids_only: false, two_byte_ids: true };
}

/// A value and what makes it mutable.
type Kept = (Option<([u8; 32], Signature, u64)>, Vec<u8>);

/// An honest node of another implementation.
pub struct Other {
    dialect: Dialect,
    joining: Joining,
    bootstrap: Vec<SocketAddr>,
    known: Vec<NodeAddr>,
    values: BTreeMap<DhtId, Kept>,
    peers: BTreeMap<DhtId, BTreeSet<SocketAddr>>,
}

impl Other {
    /// A node with this id that joins by these addresses.
    pub fn new(dialect: Dialect, id: DhtId, bootstrap: Vec<SocketAddr>) -> Self {
        let (known, values, peers) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { dialect, joining: Joining::new(id, id), bootstrap, known, values, peers }
    }

    fn learn(&mut self, node: NodeAddr) {
        if self.known.len() < KNOWN_MAX && self.known.iter().all(|n| n.addr != node.addr) {
            self.known.push(node);
        }
    }

    fn closest(&self, target: &DhtId) -> Vec<NodeAddr> {
        let mut all = self.known.clone();
        all.sort_by_key(|n| distance(&n.id, target));
        all.truncate(self.dialect.k);
        all
    }

    fn keep(&mut self, put: &Put<'_>) -> Result<(), ErrorCode> {
        let mutable = put.mutable.map(|s| (s.key, s.signature, s.seq));
        let stored = self.values.get(&put.target()).and_then(|(m, _)| m.map(|m| m.2));
        if stored > mutable.map(|m| m.2) {
            return Err(ErrorCode::SeqTooOld);
        }
        self.values.insert(put.target(), (mutable, put.v.to_vec()));
        Ok(())
    }

    fn answer(&mut self, from: SocketAddr, tid: &[u8], query: &Query<'_>) -> Vec<u8> {
        let mut answer = Answer::new(self.joining.id, from, tid);
        let none = (None, Vec::new());
        let mut held = None;
        match &query.ask {
            Ask::Get { .. } | Ask::Put(_) if !self.dialect.stores_values => {
                return write_error(tid, ErrorCode::Method);
            }
            Ask::Ping => {}
            Ask::FindNode(target) => answer.nodes4 = self.closest(target),
            Ask::GetPeers(topic) => {
                answer.nodes4 = self.closest(topic);
                answer.token = Some(*b"anytoken");
                answer.peers = self.peers.get(topic).into_iter().flatten().copied().take(50).collect();
            }
            Ask::Announce { topic, port, .. } => {
                let addr = SocketAddr::new(from.ip(), port.unwrap_or(from.port()));
                self.peers.entry(*topic).or_default().insert(addr);
            }
            Ask::Get { target, .. } => {
                answer.nodes4 = self.closest(target);
                answer.token = Some(*b"anytoken");
                held = self.values.get(target);
            }
            Ask::Put(put) => {
                if let Err(code) = self.keep(put) {
                    return write_error(tid, code);
                }
            }
        }
        let (mutable, v) = held.unwrap_or(&none);
        (answer.held.mutable, answer.held.v) = (*mutable, held.map(|_| v.as_slice()));
        let bytes = answer.fit(1_400).unwrap_or_default();
        if self.dialect.tells_ip { bytes } else { without_ip(bytes) }
    }
}

/// A reply without its `ip`, which is its first key: `d`, then 12 bytes for IPv4.
fn without_ip(bytes: Vec<u8>) -> Vec<u8> {
    match bytes.strip_prefix(b"d2:ip6:") {
        Some(rest) => [b"d", rest.get(6..).unwrap_or_default()].concat(),
        None => bytes,
    }
}

impl Actor for Other {
    fn start(&mut self, post: &mut Post<'_>) {
        for to in self.bootstrap.clone() {
            self.joining.ask(post, to);
        }
        self.shorten(post);
    }

    fn datagram(&mut self, post: &mut Post<'_>, from: SocketAddr, bytes: &[u8]) {
        let Some(message) = read(bytes) else { return };
        match message.body {
            Body::Query(query) => {
                if self.dialect.four_byte_ids_only && message.tid.len() != 4 {
                    return;
                }
                if !message.read_only {
                    self.learn(NodeAddr { id: query.id, addr: from });
                }
                let bytes = self.answer(from, message.tid, &query);
                post.out.push((from, bytes));
            }
            Body::Reply(reply) => {
                self.learn(NodeAddr { id: reply.id, addr: from });
                reply.nodes().for_each(|n| self.joining.ask(post, n.addr));
                self.shorten(post);
            }
            Body::Error(_) | Body::Broken(_) => {}
        }
    }
}

impl Other {
    /// Queries with transaction ids of two bytes, for those who write such.
    fn shorten(&self, post: &mut Post<'_>) {
        if !self.dialect.two_byte_ids {
            return;
        }
        for (_, bytes) in &mut post.out {
            let at = bytes.windows(7).position(|w| w.starts_with(b"1:t4:"));
            if let Some(at) = at {
                bytes.splice(at + 3..at + 9, [b'2', b':', b'a', b'b']);
            }
        }
    }
}

/// What a malicious node does.
#[derive(Clone, Debug, Default)]
pub struct Malice {
    /// It names these, whatever it is asked for.
    pub friends: Vec<NodeAddr>,
    /// It names this address under ids close to whatever it is asked for, and says it sees everybody there.
    pub victim: Option<SocketAddr>,
    /// It tells values: forged, foreign, and the oldest it ever got. Otherwise it says that there are none.
    pub lies_about_values: bool,
    /// Its tokens are worth nothing: it refuses what is stored with them. Otherwise it says yes and forgets.
    pub refuses_tokens: bool,
}

/// A malicious node.
pub struct Malicious {
    malice: Malice,
    joining: Joining,
    bootstrap: Vec<SocketAddr>,
    oldest: BTreeMap<DhtId, Kept>,
    told: u64,
}

impl Malicious {
    /// A node with this id that makes itself known to those close to `toward`.
    pub fn new(malice: Malice, id: DhtId, toward: DhtId, bootstrap: Vec<SocketAddr>) -> Self {
        let oldest = BTreeMap::new();
        Self { malice, joining: Joining::new(id, toward), bootstrap, oldest, told: 0 }
    }

    fn named(&mut self, target: &DhtId, rng: &mut Rng) -> Vec<NodeAddr> {
        let mut named = self.malice.friends.clone();
        named.sort_by_key(|n| distance(&n.id, target));
        named.truncate(if self.malice.victim.is_some() { 4 } else { 8 });
        for _ in 0..4 {
            let mut id = *target;
            id.0[16..].copy_from_slice(&rng.bytes::<4>());
            named.extend(self.malice.victim.map(|addr| NodeAddr { id, addr }));
        }
        named
    }

    fn lie(&mut self, target: &DhtId) -> Option<Kept> {
        let (mutable, v) = self.oldest.get(target)?.clone();
        let (key, signature, seq) = mutable?;
        self.told += 1;
        Some(match self.told % 3 {
            0 => (Some((key, signature, seq + 1_000_000)), v),
            1 => (Some(([9; 32], signature, seq + 1_000_000)), v),
            _ => (Some((key, signature, seq)), v),
        })
    }

    fn answer(&mut self, post: &mut Post<'_>, from: SocketAddr, tid: &[u8], query: &Query<'_>) -> Vec<u8> {
        let seen_at = self.malice.victim.unwrap_or(from);
        let mut answer = Answer::new(self.joining.id, seen_at, tid);
        let mut lie = None;
        match &query.ask {
            Ask::Ping => {}
            Ask::FindNode(target) => answer.nodes4 = self.named(target, post.rng),
            Ask::GetPeers(target) | Ask::Get { target, .. } => {
                answer.nodes4 = self.named(target, post.rng);
                answer.token = Some(*b"nonsense");
                lie = self.lie(target).filter(|_| self.malice.lies_about_values);
            }
            Ask::Announce { .. } | Ask::Put(_) if self.malice.refuses_tokens => {
                return write_error(tid, ErrorCode::Protocol);
            }
            Ask::Announce { .. } => {}
            Ask::Put(put) => {
                let mutable = put.mutable.map(|s| (s.key, s.signature, s.seq));
                self.oldest.entry(put.target()).or_insert_with(|| (mutable, put.v.to_vec()));
            }
        }
        let lie = lie.as_ref();
        (answer.held.mutable, answer.held.v) = (lie.and_then(|l| l.0), lie.map(|l| l.1.as_slice()));
        answer.fit(1_400).unwrap_or_default()
    }
}

impl Actor for Malicious {
    fn start(&mut self, post: &mut Post<'_>) {
        for to in self.bootstrap.clone() {
            self.joining.ask(post, to);
        }
    }

    fn datagram(&mut self, post: &mut Post<'_>, from: SocketAddr, bytes: &[u8]) {
        let Some(message) = read(bytes) else { return };
        match message.body {
            Body::Query(query) => {
                let bytes = self.answer(post, from, message.tid, &query);
                post.out.push((from, bytes));
            }
            Body::Reply(reply) => reply.nodes().for_each(|n| self.joining.ask(post, n.addr)),
            Body::Error(_) | Body::Broken(_) => {}
        }
    }
}
