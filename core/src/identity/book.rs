//! The book of peers: who is known, since when, and who to tell others of.
//!
//! No addresses to rely on, no capabilities: the DHT is the source of truth for those; an address is kept as a hint
//! only, for networks where the DHT is out of reach. What others tell is hearsay: it adds peers nobody here knew, and of
//! known ones it moves nothing but `last_seen`. What a peer says of itself on a connection that TLS proved replaces
//! hearsay.
//!
//! The book is bounded. Since anybody can invent keys, peers that were only heard of are evicted before peers that were
//! met, the least recently seen first, and hearsay drives out only what was not seen for an hour: who came first stays.
//! Blocked peers stay too, because forgetting one would unblock it. A full book lets a
//! sixteenth go at once, so that no order of eviction need be kept beside it. What nobody here knows yet is hearsay down
//! to its key: whether the bytes are a key at all is only looked at before the peer enters the book.
//!
//! Every change is journaled, but `last_seen` alone at most once per peer in ten minutes, so that an idle node does not
//! wake its disk. Peers unseen for a day are looked up, sixteen in ten minutes at the most, and forgotten when the DHT
//! has no record of them; a DHT that does not answer forgets nobody.

use super::exchange::{KnownPeerHint, PeerIdentity};
use crate::codec::{DecodeError, Dict, Value, compact_addr, parse_compact_addr};
use crate::dht::endpoint::{Scope, scope, usable};
use crate::dht::record::Role;
use crate::id::{DhtId, PeerName, PublicKey};
use crate::machine::{Cx, Machine};
use crate::store::{Room, StoreOp, StoredRecord, Subject};
use crate::time::{Deadline, Duration, Instant, UnixTime};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Peers unseen for this long are looked up again (SPEC 2.6).
pub const RECHECK_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// After a lookup that the DHT did not answer.
pub const RECHECK_AGAIN_AFTER: Duration = Duration::from_secs(3_600);
/// How often the book is gone through for peers to look up, ± 10 %.
pub const RECHECK_EVERY: Duration = Duration::from_secs(600);
/// Lookups of one going-through.
pub const RECHECKS_MAX: usize = 16;
/// `last_seen` of a peer is journaled at most this often.
pub const SEEN_WRITE_EVERY: Duration = Duration::from_secs(600);
/// Topics remembered of a peer.
pub const PEER_TOPICS_MAX: usize = 8;
/// Hearsay does not take the place of a peer that was seen within this before it.
pub const HEARSAY_AFTER: Duration = Duration::from_secs(3_600);
/// A full book lets this part of it go (one sixteenth), as far as it ranks below the newcomer.
pub const EVICTED_AT_ONCE: usize = 16;

const VERSION: u64 = 1;

/// How a peer was learnt of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Source {
    /// Another peer told.
    Told,
    /// It was met on a connection.
    Met,
    /// The user named it.
    User,
}

impl Source {
    const ALL: [Source; 3] = [Source::Told, Source::Met, Source::User];

    /// The word for people and for the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Source::Told => "told by a peer",
            Source::Met => "met",
            Source::User => "named by the user",
        }
    }
}

/// A known peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownPeer {
    /// Its DHT node id, once met.
    pub dht_id: Option<DhtId>,
    /// Topics it is in, as far as known.
    pub topics: Arc<[DhtId]>,
    /// Its role.
    pub role: Role,
    /// Whether it relays.
    pub is_relay: bool,
    /// When it entered the book.
    pub first_seen: UnixTime,
    /// When it was last seen, by us or by who told.
    pub last_seen: UnixTime,
    /// How it was learnt of; `Met` as soon as it was.
    pub source: Source,
    /// Whether the user blocks it.
    pub blocked: bool,
    /// Where it last was: a hint.
    pub addr: Option<SocketAddr>,
}

/// What a lookup says of a peer's presence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// It has a record.
    Record,
    /// It has none.
    NoRecord,
    /// The DHT did not answer.
    Unknown,
}

/// What can happen to the book.
#[derive(Clone, Debug)]
pub enum Input {
    /// A peer told whom it knows.
    Told(Vec<KnownPeerHint>),
    /// A peer identified itself; its packets come from `addr`, unless through a relay.
    Met {
        /// Who.
        peer: Box<PeerIdentity>,
        /// Where from.
        addr: Option<SocketAddr>,
    },
    /// A connected peer is still there (or has just gone).
    Seen(PublicKey),
    /// The user named a peer.
    Named(PublicKey),
    /// The user blocks or unblocks a peer.
    Block(PublicKey, bool),
    /// A lookup ended. Those nobody here asked for are ignored.
    Looked(PublicKey, Presence),
}

/// What the book asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Journal this.
    Persist(StoreOp),
    /// A peer entered the book that nobody here knew.
    New {
        /// Who.
        key: PublicKey,
        /// Where it may be.
        addr: Option<SocketAddr>,
    },
    /// Look this peer's record up; answer with `Looked`.
    Lookup(PublicKey),
    /// The peer left the book.
    Forgotten(PublicKey),
    /// Something was not taken.
    Refused(&'static str),
}

#[derive(Clone, Debug)]
struct Entry {
    peer: KnownPeer,
    /// `last_seen` as the journal has it.
    written: UnixTime,
    /// Not looked up before this.
    check_after: UnixTime,
}

/// The book.
#[derive(Debug)]
pub struct Book {
    own: PublicKey,
    private_networks: bool,
    known_max: usize,
    /// Boxed: a node of the map has room for eleven, of which a third is empty.
    entries: BTreeMap<PublicKey, Box<Entry>>,
    /// The topics of the last peer that entered: most peers share them, and share this memory.
    topics: Arc<[DhtId]>,
    checking: BTreeSet<PublicKey>,
    next_check: Option<Instant>,
}

impl Book {
    /// An empty book of the node `own` for `known_max` peers; addresses of private ranges count only with
    /// `private_networks`.
    pub fn new(own: PublicKey, private_networks: bool, known_max: usize) -> Self {
        Self {
            own,
            private_networks,
            known_max,
            entries: BTreeMap::new(),
            topics: Arc::default(),
            checking: BTreeSet::new(),
            next_check: None,
        }
    }

    /// Takes back the records of [`Room::KnownPeer`]; others are passed over.
    pub fn restore(
        &mut self,
        now: Instant,
        records: &[StoredRecord],
    ) -> Result<(), (StoredRecord, DecodeError)> {
        for r in records.iter().filter(|r| r.subject.room == Room::KnownPeer) {
            let (key, mut peer) = read_peer(&r.subject.key, &r.record).map_err(|e| (r.clone(), e))?;
            peer.topics = self.shared(&peer.topics);
            let check_after = peer.last_seen.plus(RECHECK_AFTER);
            self.entries.insert(key, Box::new(Entry { written: peer.last_seen, check_after, peer }));
        }
        if !self.entries.is_empty() {
            self.next_check = Some(now + RECHECK_EVERY);
        }
        Ok(())
    }

    /// Peers in the book.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A peer by its key.
    pub fn get(&self, key: &PublicKey) -> Option<&KnownPeer> {
        self.entries.get(key).map(|e| &e.peer)
    }

    /// The key behind a name. A key names itself, known or not.
    pub fn resolve(&self, name: &PeerName) -> Option<PublicKey> {
        match name {
            PeerName::Key(key) => Some(*key),
            // Only people name peers by id, so seldom that hashing every key costs less than an index.
            PeerName::Id(id) => self.entries.keys().find(|k| k.peer_id() == *id).copied(),
        }
    }

    /// Everybody, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&PublicKey, &KnownPeer)> {
        self.entries.iter().map(|(k, e)| (k, &e.peer))
    }

    /// Whether the user blocks this peer.
    pub fn is_blocked(&self, key: &PublicKey) -> bool {
        self.get(key).is_some_and(|p| p.blocked)
    }

    /// The `max` most recently seen peers that are not blocked and that are `wanted`, for dialling.
    pub fn most_recent(
        &self,
        max: usize,
        wanted: impl Fn(&PublicKey) -> bool,
    ) -> Vec<(PublicKey, Option<SocketAddr>)> {
        self.sorted(|k, _| wanted(k), max).into_iter().map(|(k, p)| (k, p.addr)).collect()
    }

    /// The `max` most recently seen relays whose address is known, not blocked.
    pub fn relays(&self, max: usize) -> Vec<(PublicKey, SocketAddr)> {
        let relays = self.sorted(|_, p| p.is_relay && p.addr.is_some(), max);
        relays.into_iter().filter_map(|(k, p)| Some((k, p.addr?))).collect()
    }

    /// What to tell a peer: the `max` most recently seen peers of `topics`, not blocked, without the peer itself.
    pub fn to_share(&self, topics: &[DhtId], with: &PublicKey, max: usize) -> Vec<KnownPeerHint> {
        let shared = |p: &KnownPeer| topics.iter().find(|t| p.topics.contains(t)).copied();
        let chosen = self.sorted(|k, p| k != with && shared(p).is_some(), max);
        let hint = |(key, p): (PublicKey, &KnownPeer)| {
            Some(KnownPeerHint {
                key: *key.as_bytes(),
                topic: shared(p)?,
                role: p.role,
                is_relay: p.is_relay,
                last_seen: p.last_seen,
                addr: p.addr.filter(|a| self.may_tell(*a)),
            })
        };
        chosen.into_iter().filter_map(hint).collect()
    }

    /// Where `sought` may be, as far as `asker` may be told: what a seek is answered with. `link` is where it is connected
    /// to us from, if it is. Told is what known peers are told of: not of the blocked, only of peers of a topic that we
    /// share with both, and only what was seen within a day.
    pub fn where_is(
        &self,
        topics: &[DhtId],
        asker: &PublicKey,
        sought: &PublicKey,
        link: Option<SocketAddr>,
        wall: UnixTime,
    ) -> Option<SocketAddr> {
        let (asking, peer) = (self.get(asker)?, self.get(sought)?);
        let share_a_topic = topics.iter().any(|t| asking.topics.contains(t) && peer.topics.contains(t));
        let fresh = link.is_some() || wall.since(peer.last_seen) < RECHECK_AFTER;
        if asker == sought || peer.blocked || !share_a_topic || !fresh {
            return None;
        }
        link.or(peer.addr).filter(|a| self.may_tell(*a))
    }

    /// Local addresses are nobody else's business, except where the whole network is local.
    fn may_tell(&self, addr: SocketAddr) -> bool {
        self.private_networks || scope(addr) == Scope::Public
    }

    /// Those `wanted` and not blocked, the most recently seen first.
    fn sorted(
        &self,
        wanted: impl Fn(&PublicKey, &KnownPeer) -> bool,
        max: usize,
    ) -> Vec<(PublicKey, &KnownPeer)> {
        let mut all: Vec<_> =
            self.iter().filter(|(k, p)| !p.blocked && wanted(k, p)).map(|(k, p)| (*k, p)).collect();
        let order = |(k, p): &(PublicKey, &KnownPeer)| (Reverse(p.last_seen), *k);
        if all.len() > max {
            all.select_nth_unstable_by_key(max, order);
            all.truncate(max);
        }
        all.sort_unstable_by_key(order);
        all
    }

    fn shared(&mut self, topics: &[DhtId]) -> Arc<[DhtId]> {
        if *self.topics != *topics {
            self.topics = topics.into();
        }
        self.topics.clone()
    }

    fn forget(&mut self, cx: &mut Cx<'_, Output>, key: &PublicKey) {
        if self.entries.remove(key).is_some() {
            self.checking.remove(key);
            cx.emit(Output::Persist(StoreOp::Forget {
                subject: Subject::new(Room::KnownPeer, key.as_bytes()),
            }));
            cx.emit(Output::Forgotten(*key));
        }
    }

    /// Whether there is room for one more that ranks as `newcomer`, or can be made.
    fn has_room(&self, newcomer: (bool, UnixTime)) -> bool {
        self.entries.len() < self.known_max
            || self.entries.values().filter_map(|e| rank(&e.peer)).any(|rank| rank <= newcomer)
    }

    /// Room for one more that ranks as `newcomer`; those who rank lower go, a part of the book at once.
    fn make_room(&mut self, cx: &mut Cx<'_, Output>, newcomer: (bool, UnixTime)) -> bool {
        if self.entries.len() < self.known_max {
            return true;
        }
        let mut lower: Vec<_> = self.iter().filter_map(|(k, p)| Some((rank(p)?, *k))).collect();
        lower.retain(|(rank, _)| *rank <= newcomer);
        lower.sort_unstable();
        // A book that was restored above its bound goes back below it.
        let goes = (self.known_max / EVICTED_AT_ONCE).max(1) + self.entries.len() - self.known_max;
        lower.truncate(goes);
        for (_, key) in &lower {
            self.forget(cx, key);
        }
        self.entries.len() < self.known_max
    }

    /// Puts a peer in that nobody knew, or changes one, and journals what must be.
    fn put(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey, peer: KnownPeer) {
        let before = self.entries.get(&key).map(|e| (e.peer.clone(), e.written));
        let write = match &before {
            None => true,
            Some((old, written)) => {
                let quiet = KnownPeer {
                    last_seen: old.last_seen,
                    addr: old.addr,
                    dht_id: old.dht_id,
                    ..peer.clone()
                };
                quiet != *old
                    || (old.addr.is_none() && peer.addr.is_some())
                    || peer.last_seen.since(*written) >= SEEN_WRITE_EVERY
            }
        };
        let addr = peer.addr;
        let mut known_as = peer.last_seen;
        if write {
            let record = write_peer(&peer).encode().into();
            let subject = Subject::new(Room::KnownPeer, key.as_bytes());
            cx.emit(Output::Persist(StoreOp::Replace { subject, record }));
        } else if let Some((_, written)) = &before {
            known_as = *written;
        }
        let check_after = peer.last_seen.plus(RECHECK_AFTER);
        self.entries.insert(key, Box::new(Entry { written: known_as, check_after, peer }));
        if before.is_none() {
            if self.next_check.is_none() {
                self.next_check = Some(cx.now + cx.rng.jitter(RECHECK_EVERY, 10));
            }
            cx.emit(Output::New { key, addr });
        }
    }

    fn told(&mut self, cx: &mut Cx<'_, Output>, hint: KnownPeerHint) {
        let seen = hint.last_seen.min(cx.wall);
        if let Some((key, old)) = self.entries.get_key_value(&hint.key) {
            if seen > old.peer.last_seen {
                let (key, peer) = (*key, KnownPeer { last_seen: seen, ..old.peer.clone() });
                self.put(cx, key, peer);
            }
            return;
        }
        let ranks = (false, seen.minus(HEARSAY_AFTER));
        if cx.wall.since(seen) >= RECHECK_AFTER || !self.has_room(ranks) {
            return cx.emit(Output::Refused("known-peer-old"));
        }
        let Ok(key) = PublicKey::from_slice(&hint.key) else {
            return cx.emit(Output::Refused("known-peer-key"));
        };
        if key == self.own {
            return;
        }
        self.make_room(cx, ranks);
        let addr = hint.addr.filter(|a| usable(*a, self.private_networks));
        let peer = KnownPeer {
            dht_id: None,
            topics: self.shared(&[hint.topic]),
            role: hint.role,
            is_relay: hint.is_relay,
            first_seen: cx.wall,
            last_seen: seen,
            source: Source::Told,
            blocked: false,
            addr,
        };
        self.put(cx, key, peer);
    }

    fn met(&mut self, cx: &mut Cx<'_, Output>, peer: &PeerIdentity, addr: Option<SocketAddr>) {
        let key = peer.identity.key;
        if key == self.own {
            return;
        }
        let old = self.get(&key).cloned();
        if old.is_none() && !self.make_room(cx, (true, cx.wall)) {
            return cx.emit(Output::Refused("known-peers-full"));
        }
        let topics = &peer.identity.topics;
        let topics = self.shared(topics.get(..PEER_TOPICS_MAX).unwrap_or(topics));
        let known = KnownPeer {
            dht_id: Some(peer.identity.dht_id),
            topics,
            role: peer.identity.role,
            is_relay: peer.identity.is_relay,
            first_seen: old.as_ref().map_or(cx.wall, |o| o.first_seen),
            last_seen: cx.wall,
            source: Source::Met,
            blocked: old.as_ref().is_some_and(|o| o.blocked),
            addr: addr.or(old.as_ref().and_then(|o| o.addr)),
        };
        self.put(cx, key, known);
    }

    fn named(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey, blocked: Option<bool>) {
        if key == self.own {
            return;
        }
        if let Some(old) = self.get(&key) {
            let peer = KnownPeer { blocked: blocked.unwrap_or(old.blocked), ..old.clone() };
            if peer != *old {
                self.put(cx, key, peer);
            }
            return;
        }
        if !self.make_room(cx, (true, cx.wall)) {
            return cx.emit(Output::Refused("known-peers-full"));
        }
        let peer = KnownPeer {
            dht_id: None,
            topics: Arc::default(),
            role: Role::Client,
            is_relay: false,
            first_seen: cx.wall,
            last_seen: cx.wall,
            source: Source::User,
            blocked: blocked.unwrap_or(false),
            addr: None,
        };
        self.put(cx, key, peer);
    }

    fn looked(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey, presence: Presence) {
        if !self.checking.remove(&key) {
            return;
        }
        let Some(e) = self.entries.get_mut(&key) else { return };
        match presence {
            Presence::Record => e.check_after = cx.wall.plus(RECHECK_AFTER),
            Presence::Unknown => e.check_after = cx.wall.plus(RECHECK_AGAIN_AFTER),
            // It may have been seen, or blocked, while the lookup was under way.
            Presence::NoRecord if e.check_after <= cx.wall && !e.peer.blocked => self.forget(cx, &key),
            Presence::NoRecord => {}
        }
    }

    fn check_the_unseen(&mut self, cx: &mut Cx<'_, Output>) {
        self.checking.clear();
        let due = |e: &Entry| !e.peer.blocked && e.check_after <= cx.wall;
        let unseen: Vec<PublicKey> =
            self.entries.iter().filter(|(_, e)| due(e)).map(|(k, _)| *k).take(RECHECKS_MAX).collect();
        for key in unseen {
            self.checking.insert(key);
            cx.emit(Output::Lookup(key));
        }
    }
}

/// Where a peer stands in the order of eviction, first the one to go: heard of before met, then least recently seen.
/// Blocked ones stand nowhere.
fn rank(peer: &KnownPeer) -> Option<(bool, UnixTime)> {
    (!peer.blocked).then_some((peer.source != Source::Told, peer.last_seen))
}

fn write_peer(p: &KnownPeer) -> Dict {
    let topics: Vec<Value> = p.topics.iter().map(|t| Value::from(&t.0[..])).collect();
    Dict::new()
        .with_some("a", p.addr.map(compact_addr).as_deref())
        .with("b", u64::from(p.blocked))
        .with_some("d", p.dht_id.as_ref().map(|d| &d.0[..]))
        .with("f", p.first_seen.as_millis())
        .with("o", p.source as u64)
        .with("r", u64::from(p.is_relay))
        .with("s", p.role.number())
        .with("t", topics)
        .with("v", VERSION)
        .with("w", p.last_seen.as_millis())
}

fn read_peer(key: &[u8], record: &[u8]) -> Result<(PublicKey, KnownPeer), DecodeError> {
    let key = PublicKey::from_slice(key).map_err(|e| DecodeError::invalid("key", e.to_string()))?;
    let d = Dict::decode(record, 1_024)?;
    match d.u64("v")? {
        VERSION => {}
        number => return Err(DecodeError::Unknown { what: "known peer version", number }),
    }
    let number = d.u64("o")?;
    let source = Source::ALL.into_iter().find(|s| *s as u64 == number);
    let topic = |v: &Value| {
        let id = v.as_bytes().and_then(|b| DhtId::from_slice(b).ok());
        id.ok_or_else(|| DecodeError::invalid("t", "not an info-hash"))
    };
    let addr = match d.get("a") {
        Some(_) => parse_compact_addr(d.bytes("a", 18)?),
        None => None,
    };
    let peer = KnownPeer {
        dht_id: d.get("d").map(|_| d.array("d").map(DhtId)).transpose()?,
        topics: d.list("t", PEER_TOPICS_MAX)?.iter().map(topic).collect::<Result<_, _>>()?,
        role: Role::from_number(d.u64("s")?)?,
        is_relay: d.flag("r")?,
        first_seen: UnixTime::from_millis(d.u64("f")?),
        last_seen: UnixTime::from_millis(d.u64("w")?),
        source: source.ok_or(DecodeError::Unknown { what: "source of a known peer", number })?,
        blocked: d.flag("b")?,
        addr,
    };
    Ok((key, peer))
}

impl Machine for Book {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Told(hints) => hints.into_iter().for_each(|h| self.told(cx, h)),
            Input::Met { peer, addr } => self.met(cx, &peer, addr),
            Input::Seen(key) => {
                if let Some(old) = self.get(&key) {
                    let peer = KnownPeer { last_seen: old.last_seen.max(cx.wall), ..old.clone() };
                    self.put(cx, key, peer);
                }
            }
            Input::Named(key) => self.named(cx, key, None),
            Input::Block(key, blocked) => self.named(cx, key, Some(blocked)),
            Input::Looked(key, presence) => self.looked(cx, key, presence),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        if self.next_check.is_some_and(|at| at <= cx.now) {
            self.check_the_unseen(cx);
            let again = !self.entries.is_empty();
            self.next_check = again.then(|| cx.now + cx.rng.jitter(RECHECK_EVERY, 10));
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        self.next_check.map(|at| Deadline::new(at, "check unseen peers"))
    }
}

#[cfg(test)]
mod tests;
