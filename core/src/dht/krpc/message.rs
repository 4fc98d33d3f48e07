//! KRPC messages: what the datagrams of the DHT say (BEP 5, 32, 42, 43, 44).
//!
//! The envelope (`t`, `y`, `q`, `v`, `ip`, `ro`) is read leniently: any transaction id up to [`TID_MAX`] bytes is echoed
//! as it came (libtorrent uses two bytes, `mainline` four), unknown keys are passed over, a missing or odd `v` is
//! nobody's business. What we act upon is strict: ids are 20 bytes, ports are not zero, numbers are in range, and the
//! stored `v` must be canonical. A `put` needs no `target` (BEP 44 sends none; we derive it, and send it, because
//! `mainline` servers insist on it).

use super::bencode::{self, Dict, Item, Writer};
use crate::codec::{compact_addr, parse_compact_addr};
use crate::dht::item::SEQ_MAX;
use crate::id::{DhtId, Signature};
use std::net::SocketAddr;

/// Largest datagram read.
pub const DATAGRAM_MAX: usize = 2_048;
/// Longest transaction id echoed.
pub const TID_MAX: usize = 32;
/// Longest token read; ours have eight bytes.
pub const TOKEN_MAX: usize = 64;
/// Nodes read from one reply: `mainline` sends 20.
pub const NODES_READ_MAX: usize = 32;
/// Peers read from one reply.
pub const PEERS_READ_MAX: usize = 128;
/// Our client version: exactly four bytes, or `mainline` drops the message.
pub const VERSION: &[u8; 4] = b"RN\x00\x01";

/// Another node, as tables and replies name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeAddr {
    /// Its id.
    pub id: DhtId,
    /// Where it is.
    pub addr: SocketAddr,
}

/// A message, pointing into its datagram.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Ties a reply to its query.
    pub tid: &'a [u8],
    /// Where the sender sees us (BEP 42).
    pub ip: Option<SocketAddr>,
    /// The sender answers no queries and belongs in no table (BEP 43).
    pub read_only: bool,
    /// What it says.
    pub body: Body<'a>,
}

/// What a message says.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// Somebody asks.
    Query(Query<'a>),
    /// Somebody answers.
    Reply(Reply<'a>),
    /// Somebody refuses.
    Error(i64),
    /// A query that cannot be answered but with this error.
    Broken(ErrorCode),
}

/// A query.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Who asks.
    pub id: DhtId,
    /// Wants IPv4 nodes, wants IPv6 nodes (BEP 32); `None`: those of the family it came by.
    pub want: Option<(bool, bool)>,
    /// What.
    pub ask: Ask<'a>,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// Are you there?
    Ping,
    /// Who is close to this id? Also an unknown method that carries a target.
    FindNode(DhtId),
    /// Who announced under this info-hash?
    GetPeers(DhtId),
    /// I am a peer of this info-hash.
    Announce {
        /// Which.
        topic: DhtId,
        /// The port; `None`: the one this comes from.
        port: Option<u16>,
        /// From our `get_peers` reply.
        token: &'a [u8],
    },
    /// What is stored here?
    Get {
        /// Where.
        target: DhtId,
        /// Only above this version.
        newer_than: Option<u64>,
    },
    /// Store this.
    Put(Put<'a>),
}

/// A `put`.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// From our `get` reply.
    pub token: &'a [u8],
    /// The value, bencoded.
    pub v: &'a [u8],
    /// What makes it mutable.
    pub mutable: Option<Signed<'a>>,
    /// Version expected here.
    pub cas: Option<u64>,
    /// Seconds since its owner put it, from whoever brings it on: a key of ours, that others pass over.
    pub age: Option<u64>,
}

/// The signed part of a mutable item, not yet believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signed<'a> {
    /// The owner's key.
    pub key: [u8; 32],
    /// Version.
    pub seq: u64,
    /// By the owner.
    pub signature: Signature,
    /// Empty means none.
    pub salt: &'a [u8],
}

/// A reply.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// Who answers.
    pub id: DhtId,
    r: Dict<'a>,
}

/// The errors of BEP 5 and BEP 44.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    /// 202: it cannot be stored here.
    Server,
    /// 203: malformed, or a bad token.
    Protocol,
    /// 204: no such method.
    Method,
    /// 205: the value is too big.
    TooBig,
    /// 206: the signature does not hold.
    Signature,
    /// 207: the salt is too big.
    SaltTooBig,
    /// 301: another version is stored than expected.
    Cas,
    /// 302: a newer version is stored.
    SeqTooOld,
}

impl ErrorCode {
    /// The number on the wire.
    pub const fn number(self) -> u64 {
        match self {
            ErrorCode::Server => 202,
            ErrorCode::Protocol => 203,
            ErrorCode::Method => 204,
            ErrorCode::TooBig => 205,
            ErrorCode::Signature => 206,
            ErrorCode::SaltTooBig => 207,
            ErrorCode::Cas => 301,
            ErrorCode::SeqTooOld => 302,
        }
    }

    /// The words on the wire, and the name under which it is counted.
    pub const fn words(self) -> &'static str {
        match self {
            ErrorCode::Server => "krpc-cannot-store",
            ErrorCode::Protocol => "krpc-protocol",
            ErrorCode::Method => "krpc-method-unknown",
            ErrorCode::TooBig => "krpc-value-too-big",
            ErrorCode::Signature => "krpc-bad-signature",
            ErrorCode::SaltTooBig => "krpc-salt-too-big",
            ErrorCode::Cas => "krpc-cas-mismatch",
            ErrorCode::SeqTooOld => "krpc-seq-too-old",
        }
    }
}

/// Reads a datagram; `None` when there is not even an envelope to answer to.
pub fn read(datagram: &[u8]) -> Option<Message<'_>> {
    if datagram.len() > DATAGRAM_MAX {
        return None;
    }
    let d = bencode::dict(datagram)?;
    let tid = d.bytes(b"t").filter(|t| t.len() <= TID_MAX)?;
    let body = match d.bytes(b"y")? {
        b"q" => match read_query(d) {
            Ok(query) => Body::Query(query),
            Err(code) => Body::Broken(code),
        },
        b"r" => {
            let r = d.dict(b"r")?;
            Body::Reply(Reply { id: DhtId(r.array(b"id")?), r })
        }
        b"e" => Body::Error(d.list(b"e")?.items().next()?.int()?),
        _ => return None,
    };
    let ip = d.bytes(b"ip").and_then(parse_compact_addr);
    Some(Message { tid, ip, read_only: d.int(b"ro") == Some(1), body })
}

fn read_query(d: Dict<'_>) -> Result<Query<'_>, ErrorCode> {
    let a = d.dict(b"a").ok_or(ErrorCode::Protocol)?;
    let id = a.array(b"id").map(DhtId).ok_or(ErrorCode::Protocol)?;
    let want = a.list(b"want").map(|list| {
        let has = |family: &[u8]| list.items().any(|i| i.bytes() == Some(family));
        (has(b"n4"), has(b"n6"))
    });
    let target = |key: &[u8]| a.array(key).map(DhtId).ok_or(ErrorCode::Protocol);
    let ask = match d.bytes(b"q").ok_or(ErrorCode::Protocol)? {
        b"ping" => Ask::Ping,
        b"find_node" => Ask::FindNode(target(b"target")?),
        b"get_peers" => Ask::GetPeers(target(b"info_hash")?),
        b"announce_peer" => Ask::Announce {
            topic: target(b"info_hash")?,
            port: read_announced_port(a)?,
            token: a.bytes(b"token").ok_or(ErrorCode::Protocol)?,
        },
        b"get" => Ask::Get { target: target(b"target")?, newer_than: a.int(b"seq").and_then(version) },
        b"put" => Ask::Put(read_put(a)?),
        // As libtorrent does: methods to come that walk towards a target still find their way through us.
        _ => match a.array(b"target").or_else(|| a.array(b"info_hash")) {
            Some(target) => Ask::FindNode(DhtId(target)),
            None => return Err(ErrorCode::Method),
        },
    };
    Ok(Query { id, want, ask })
}

fn read_announced_port(a: Dict<'_>) -> Result<Option<u16>, ErrorCode> {
    if a.int(b"implied_port").is_some_and(|n| n != 0) {
        return Ok(None);
    }
    let port = a.int(b"port").and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
    port.map(Some).ok_or(ErrorCode::Protocol)
}

fn version(n: i64) -> Option<u64> {
    u64::try_from(n).ok()
}

fn read_put(a: Dict<'_>) -> Result<Put<'_>, ErrorCode> {
    let token = a.bytes(b"token").ok_or(ErrorCode::Protocol)?;
    let v = a.raw(b"v").filter(|v| bencode::is_canonical(v)).ok_or(ErrorCode::Protocol)?;
    let mutable = match a.get(b"k") {
        None => None,
        Some(_) => Some(Signed {
            key: a.array(b"k").ok_or(ErrorCode::Protocol)?,
            seq: a.int(b"seq").and_then(version).ok_or(ErrorCode::Protocol)?,
            signature: Signature(a.array(b"sig").ok_or(ErrorCode::Signature)?),
            salt: match a.get(b"salt") {
                None => &[],
                Some(salt) => salt.bytes().ok_or(ErrorCode::Protocol)?,
            },
        }),
    };
    let cas = match a.get(b"cas") {
        None => None,
        Some(n) => Some(n.int().and_then(version).ok_or(ErrorCode::Protocol)?),
    };
    let age = a.int(b"age").and_then(version);
    Ok(Put { token, v, mutable, cas, age })
}

impl<'a> Reply<'a> {
    /// What a `put` or `announce_peer` there must carry.
    pub fn token(&self) -> Option<&'a [u8]> {
        self.r.bytes(b"token").filter(|t| t.len() <= TOKEN_MAX)
    }

    /// Nodes it names, of both families, at most [`NODES_READ_MAX`] of each.
    pub fn nodes(&self) -> impl Iterator<Item = NodeAddr> + use<'a> {
        let of = |key: &[u8], len: usize| self.r.bytes(key).unwrap_or_default().chunks_exact(len);
        of(b"nodes", 26).take(NODES_READ_MAX).chain(of(b"nodes6", 38).take(NODES_READ_MAX)).filter_map(|c| {
            let (id, addr) = c.split_first_chunk::<20>()?;
            Some(NodeAddr { id: DhtId(*id), addr: parse_compact_addr(addr)? })
        })
    }

    /// Peers it names, at most [`PEERS_READ_MAX`].
    pub fn peers(&self) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let list = self.r.list(b"values");
        let items = list.into_iter().flat_map(|l| l.items().take(PEERS_READ_MAX));
        items.filter_map(|i| parse_compact_addr(i.bytes()?))
    }

    /// The stored value it holds, bencoded; of a mutable item as well.
    pub fn raw_value(&self) -> Option<&'a [u8]> {
        self.r.raw(b"v")
    }

    /// The mutable item it holds, under the salt that was asked for.
    pub fn signed(&self, salt: &'a [u8]) -> Option<(Signed<'a>, &'a [u8])> {
        let signed = Signed {
            key: self.r.array(b"k")?,
            seq: version(self.r.int(b"seq")?)?,
            signature: Signature(self.r.array(b"sig")?),
            salt,
        };
        Some((signed, self.r.raw(b"v")?))
    }
}

/// The content of `v` when it is a byte string, which is all that our own items are.
pub fn string_content(v: &[u8]) -> Option<&[u8]> {
    bencode::item(v).and_then(Item::bytes)
}

/// The bytes that a mutable item's signature is over, for any bencoded `v` (see [`crate::dht::item`]).
pub fn signed_bytes(salt: &[u8], seq: u64, v: &[u8]) -> Vec<u8> {
    let mut w = Writer::with_capacity(v.len() + salt.len() + 48);
    if !salt.is_empty() {
        w.bytes(b"salt").bytes(salt);
    }
    w.bytes(b"seq").int(seq).bytes(b"v").raw(v);
    w.finish()
}

/// A query of ours.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Our id in the family it goes by.
    pub id: DhtId,
    /// Whether we are read-only.
    pub read_only: bool,
    /// Whether nodes of both families are of use.
    pub want_both: bool,
    /// What.
    pub ask: Ask<'a>,
}

/// Writes a query under a transaction id.
pub fn write_query(tid: u32, out: &Outgoing<'_>) -> Vec<u8> {
    let mut w = Writer::with_capacity(160);
    w.open_dict().bytes(b"a").open_dict();
    let method: &[u8] = match &out.ask {
        Ask::Ping => {
            w.bytes(b"id").bytes(&out.id.0);
            b"ping"
        }
        Ask::FindNode(target) => {
            w.bytes(b"id").bytes(&out.id.0).bytes(b"target").bytes(&target.0);
            write_want(&mut w, out.want_both);
            b"find_node"
        }
        Ask::GetPeers(topic) => {
            w.bytes(b"id").bytes(&out.id.0).bytes(b"info_hash").bytes(&topic.0);
            write_want(&mut w, out.want_both);
            b"get_peers"
        }
        Ask::Announce { topic, port, token } => {
            w.bytes(b"id").bytes(&out.id.0);
            w.bytes(b"implied_port").int(u64::from(port.is_none()));
            w.bytes(b"info_hash").bytes(&topic.0);
            // With an implied port the number is not looked at, but some want to see one.
            w.bytes(b"port").int(u64::from(port.unwrap_or(1))).bytes(b"token").bytes(token);
            b"announce_peer"
        }
        Ask::Get { target, newer_than } => {
            w.bytes(b"id").bytes(&out.id.0);
            if let Some(seq) = newer_than {
                w.bytes(b"seq").int(*seq);
            }
            w.bytes(b"target").bytes(&target.0);
            write_want(&mut w, out.want_both);
            b"get"
        }
        Ask::Put(put) => {
            write_put(&mut w, &out.id, put);
            b"put"
        }
    };
    w.close().bytes(b"q").bytes(method);
    if out.read_only {
        w.bytes(b"ro").int(1);
    }
    w.bytes(b"t").bytes(&tid.to_be_bytes()).bytes(b"v").bytes(VERSION).bytes(b"y").bytes(b"q").close();
    w.finish()
}

fn write_want(w: &mut Writer, both: bool) {
    if both {
        w.bytes(b"want").open_list().bytes(b"n4").bytes(b"n6").close();
    }
}

fn write_put(w: &mut Writer, id: &DhtId, put: &Put<'_>) {
    if let Some(age) = put.age {
        w.bytes(b"age").int(age);
    }
    if let Some(cas) = put.cas {
        w.bytes(b"cas").int(cas);
    }
    w.bytes(b"id").bytes(&id.0);
    if let Some(s) = &put.mutable {
        w.bytes(b"k").bytes(&s.key);
        if !s.salt.is_empty() {
            w.bytes(b"salt").bytes(s.salt);
        }
        w.bytes(b"seq").int(s.seq).bytes(b"sig").bytes(&s.signature.0);
    }
    w.bytes(b"target").bytes(&put.target().0).bytes(b"token").bytes(put.token).bytes(b"v").raw(put.v);
}

impl Put<'_> {
    /// Where it is stored: SHA-1 of key and salt, or of the bencoded value.
    pub fn target(&self) -> DhtId {
        use sha1::{Digest as _, Sha1};
        let hash = match &self.mutable {
            Some(s) => Sha1::new().chain_update(s.key).chain_update(s.salt),
            None => Sha1::new().chain_update(self.v),
        };
        DhtId(hash.finalize().into())
    }
}

/// What a stored value says of itself in a reply.
#[derive(Clone, Debug, Default)]
pub struct Held<'a> {
    /// Key, signature and version of a mutable item.
    pub mutable: Option<([u8; 32], Signature, u64)>,
    /// The value; `None` when the asker has one as new.
    pub v: Option<&'a [u8]>,
}

/// A reply of ours: what it could say. [`Answer::fit`] leaves out what does not fit.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// Our id.
    pub id: DhtId,
    /// Where we see the asker.
    pub ip: SocketAddr,
    /// The query's.
    pub tid: &'a [u8],
    /// Close IPv4 nodes, closest first.
    pub nodes4: Vec<NodeAddr>,
    /// Close IPv6 nodes, closest first.
    pub nodes6: Vec<NodeAddr>,
    /// Lets the asker store.
    pub token: Option<[u8; 8]>,
    /// Announced peers.
    pub peers: Vec<SocketAddr>,
    /// A stored value.
    pub held: Held<'a>,
}

impl<'a> Answer<'a> {
    /// An answer that says only that we are here.
    pub fn new(id: DhtId, ip: SocketAddr, tid: &'a [u8]) -> Self {
        let held = Held::default();
        Self { id, ip, tid, nodes4: vec![], nodes6: vec![], token: None, peers: vec![], held }
    }

    /// The bytes, at most `budget`: far nodes go first, then peers, and at last the value. `None` if nothing fits.
    pub fn fit(mut self, budget: usize) -> Option<Vec<u8>> {
        loop {
            let bytes = self.write();
            let Some(over) = bytes.len().checked_sub(budget).filter(|o| *o > 0) else { return Some(bytes) };
            if !self.nodes6.is_empty() {
                self.nodes6.truncate(self.nodes6.len().saturating_sub(over.div_ceil(38)));
            } else if !self.nodes4.is_empty() {
                self.nodes4.truncate(self.nodes4.len().saturating_sub(over.div_ceil(26)));
            } else if !self.peers.is_empty() {
                self.peers.truncate(self.peers.len().saturating_sub(over.div_ceil(20)));
            } else if self.held.v.is_some() || self.held.mutable.is_some() {
                self.held = Held::default();
            } else if self.token.is_some() {
                self.token = None;
            } else {
                return None;
            }
        }
    }

    fn write(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(400);
        w.open_dict().bytes(b"ip").bytes(&compact_addr(self.ip)).bytes(b"r").open_dict();
        w.bytes(b"id").bytes(&self.id.0);
        if let Some((key, ..)) = &self.held.mutable
            && self.held.v.is_some()
        {
            w.bytes(b"k").bytes(key);
        }
        for (key, nodes) in [(b"nodes".as_slice(), &self.nodes4), (b"nodes6", &self.nodes6)] {
            if !nodes.is_empty() {
                w.bytes(key).bytes(&compact_nodes(nodes));
            }
        }
        if let Some((_, signature, seq)) = &self.held.mutable {
            w.bytes(b"seq").int(*seq);
            if self.held.v.is_some() {
                w.bytes(b"sig").bytes(&signature.0);
            }
        }
        if let Some(token) = &self.token {
            w.bytes(b"token").bytes(token);
        }
        if let Some(v) = self.held.v {
            w.bytes(b"v").raw(v);
        }
        if !self.peers.is_empty() {
            w.bytes(b"values").open_list();
            for peer in &self.peers {
                w.bytes(&compact_addr(*peer));
            }
            w.close();
        }
        w.close().bytes(b"t").bytes(self.tid).bytes(b"v").bytes(VERSION).bytes(b"y").bytes(b"r").close();
        w.finish()
    }
}

/// Nodes in compact form: 26 bytes each, or 38.
pub fn compact_nodes(nodes: &[NodeAddr]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nodes.len() * 38);
    for node in nodes {
        out.extend_from_slice(&node.id.0);
        out.extend_from_slice(&compact_addr(node.addr));
    }
    out
}

/// Writes an error.
pub fn write_error(tid: &[u8], code: ErrorCode) -> Vec<u8> {
    let mut w = Writer::with_capacity(80);
    w.open_dict().bytes(b"e").open_list().int(code.number()).bytes(code.words().as_bytes()).close();
    w.bytes(b"t").bytes(tid).bytes(b"v").bytes(VERSION).bytes(b"y").bytes(b"e").close();
    w.finish()
}

/// Whether a version is one that BEP 44 allows.
pub const fn seq_allowed(seq: u64) -> bool {
    seq <= SEQ_MAX
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
