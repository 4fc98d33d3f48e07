//! What this node keeps for others: values (BEP 44) and announced peers (BEP 5).
//!
//! Everything here was brought by strangers and expires by itself: values two hours after their owner put them last
//! (whoever only brings one on says how old it is), peers after 45 minutes. Every shelf is bounded, and so is what one source may lay on it, so that one machine cannot
//! push out everybody else. When a shelf is full, what is expired goes first, then what lies farthest from our own id:
//! others are closer to that and hold it too.

use super::message::{ErrorCode, Held, Put, seq_allowed, signed_bytes, string_content};
use super::node_id::distance;
use super::source::Source;
use crate::dht::item::SALT_MAX;
use crate::id::{DhtId, PublicKey, Signature};
use crate::port::MutableItem;
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Values kept: at most 1 MB together.
pub const VALUES_MAX: usize = 1_024;
/// Values of one source, once the shelf is half full: until then a source that brings others' values on, as
/// [`super::handover`] does, takes nobody's place.
pub const VALUES_PER_SOURCE_MAX: usize = 64;
/// Largest bencoded value (BEP 44).
pub const V_MAX: usize = 1_000;
/// Values expire after this long without being put again (BEP 44).
pub const VALUE_LIFE: Duration = Duration::from_secs(2 * 3600);
/// A value is not brought on in the last minutes of its life.
pub const VALUE_OLD_FOR: Duration = Duration::from_secs(5 * 60);
/// Info-hashes kept.
pub const TOPICS_MAX: usize = 1_024;
/// Peers kept of one info-hash, as libtorrent does.
pub const PEERS_PER_TOPIC_MAX: usize = 500;
/// Peers kept in all: about 50 bytes each.
pub const PEERS_MAX: usize = 20_000;
/// Peers of one source under one info-hash: machines behind one address, and no crowd of invented ports.
pub const PEERS_PER_SOURCE_MAX: usize = 8;
/// Peers expire after this long without being announced again.
pub const PEER_LIFE: Duration = Duration::from_secs(45 * 60);
/// Peers in one answer.
pub const PEERS_TOLD_MAX: usize = 50;

#[derive(Clone, Debug)]
struct Value {
    mutable: Option<Box<Owned>>,
    v: Box<[u8]>,
    by: Source,
    expires: Instant,
}

/// What makes a value mutable.
#[derive(Clone, Debug)]
struct Owned {
    key: PublicKey,
    signature: Signature,
    seq: u64,
    /// Not told to those who ask, but needed for storing the value elsewhere.
    salt: Box<[u8]>,
}

/// What became of a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Laid {
    /// It is a version that was not here.
    New,
    /// It was here and lives longer.
    Again,
}

/// The stored values.
#[derive(Clone, Debug)]
pub struct Values {
    values: BTreeMap<DhtId, Value>,
    /// Values of one source, once half of the shelf is full.
    pub per_source_max: usize,
}

impl Default for Values {
    fn default() -> Self {
        Self { values: BTreeMap::new(), per_source_max: VALUES_PER_SOURCE_MAX }
    }
}

impl Values {
    /// What lies at `target`, for somebody who has version `newer_than`.
    pub fn get(&self, now: Instant, target: &DhtId, newer_than: Option<u64>) -> Held<'_> {
        let Some(value) = self.values.get(target).filter(|v| v.expires > now) else { return Held::default() };
        match &value.mutable {
            Some(o) => {
                let newer = newer_than.is_none_or(|n| o.seq > n);
                Held { mutable: Some((*o.key.as_bytes(), o.signature, o.seq)), v: newer.then_some(&*value.v) }
            }
            None => Held { mutable: None, v: Some(&value.v) },
        }
    }

    /// Lays a value down under the rules of BEP 44. The token has been checked; nothing else has.
    pub fn put(&mut self, now: Instant, own: &DhtId, by: Source, put: &Put<'_>) -> Result<Laid, ErrorCode> {
        if put.v.len() > V_MAX {
            return Err(ErrorCode::TooBig);
        }
        let life = VALUE_LIFE.saturating_sub(Duration::from_secs(put.age.unwrap_or(0)));
        if life.is_zero() {
            return Err(ErrorCode::Server);
        }
        let (target, expires) = (put.target(), now + life);
        let old = self.values.get(&target).filter(|v| v.expires > now);
        let mut mutable = None;
        if let Some(s) = &put.mutable {
            if s.salt.len() > SALT_MAX {
                return Err(ErrorCode::SaltTooBig);
            }
            if !seq_allowed(s.seq) {
                return Err(ErrorCode::Protocol);
            }
            if let Some(held) = old.and_then(|o| o.mutable.as_ref()) {
                if put.cas.is_some_and(|cas| cas != held.seq) {
                    return Err(ErrorCode::Cas);
                }
                let same = old.is_some_and(|o| *o.v == *put.v) && held.signature == s.signature;
                if s.seq < held.seq || (s.seq == held.seq && !same) {
                    return Err(ErrorCode::SeqTooOld);
                }
                if same {
                    return self.refresh(expires, &target);
                }
            }
            let key = PublicKey::from_slice(&s.key).map_err(|_| ErrorCode::Signature)?;
            if !key.verify(&signed_bytes(s.salt, s.seq, put.v), &s.signature) {
                return Err(ErrorCode::Signature);
            }
            let salt = s.salt.into();
            mutable = Some(Box::new(Owned { key, signature: s.signature, seq: s.seq, salt }));
        } else if old.is_some() {
            return self.refresh(expires, &target);
        }
        self.make_room(now, own, by, &target)?;
        let value = Value { mutable, v: put.v.into(), by, expires };
        self.values.insert(target, value);
        Ok(Laid::New)
    }

    fn refresh(&mut self, expires: Instant, target: &DhtId) -> Result<Laid, ErrorCode> {
        if let Some(value) = self.values.get_mut(target) {
            value.expires = value.expires.max(expires);
        }
        Ok(Laid::Again)
    }

    fn make_room(&mut self, now: Instant, own: &DhtId, by: Source, target: &DhtId) -> Result<(), ErrorCode> {
        if self.values.contains_key(target) {
            return Ok(());
        }
        if self.values.len() >= VALUES_MAX {
            self.expire(now);
        }
        let of_source = || self.values.values().filter(|v| v.by == by).count();
        if self.values.len() >= VALUES_MAX / 2 && of_source() >= self.per_source_max {
            return Err(ErrorCode::Server);
        }
        if self.values.len() >= VALUES_MAX {
            let far = self.values.keys().max_by_key(|t| distance(t, own)).copied();
            match far {
                Some(far) if distance(&far, own) > distance(target, own) => drop(self.values.remove(&far)),
                _ => return Err(ErrorCode::Server),
            }
        }
        Ok(())
    }

    /// The signed value at `target`, as it can be stored elsewhere, and its age: if it is a byte string, as all records
    /// are, and has some life left.
    pub fn item(&self, now: Instant, target: &DhtId) -> Option<(MutableItem, Duration)> {
        let value = self.values.get(target).filter(|v| v.expires > now + VALUE_OLD_FOR)?;
        let owned = value.mutable.as_deref()?;
        let item = MutableItem {
            key: owned.key,
            salt: Bytes::copy_from_slice(&owned.salt),
            seq: owned.seq,
            value: Bytes::copy_from_slice(string_content(&value.v)?),
            signature: owned.signature,
        };
        Some((item, VALUE_LIFE.saturating_sub(value.expires.since(now))))
    }

    /// Where signed values lie.
    pub fn signed(&self) -> impl Iterator<Item = &DhtId> {
        self.values.iter().filter(|(_, v)| v.mutable.is_some()).map(|(target, _)| target)
    }

    /// Whether something lies at `target`.
    pub fn holds(&self, target: &DhtId) -> bool {
        self.values.contains_key(target)
    }

    /// Forgets what is expired.
    pub fn expire(&mut self, now: Instant) {
        self.values.retain(|_, v| v.expires > now);
    }

    /// Values kept.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Bytes on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        let one = size_of::<(DhtId, Value)>();
        self.values
            .values()
            .map(|v| v.v.len() + one + v.mutable.as_ref().map_or(0, |o| size_of::<Owned>() + o.salt.len()))
            .sum()
    }
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    addr: SocketAddr,
    expires: Instant,
}

/// The announced peers.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    topics: BTreeMap<DhtId, Vec<Peer>>,
    count: usize,
}

impl Peers {
    /// `addr` is a peer of `topic`. The token has been checked.
    pub fn announce(&mut self, now: Instant, topic: &DhtId, addr: SocketAddr) -> Result<(), ErrorCode> {
        let full = self.count >= PEERS_MAX
            || (self.topics.len() >= TOPICS_MAX && !self.topics.contains_key(topic))
            || self.topics.get(topic).is_some_and(|t| t.len() >= PEERS_PER_TOPIC_MAX);
        if full {
            self.expire(now);
        }
        let expires = now + PEER_LIFE;
        if let Some(known) = self.topics.get_mut(topic).and_then(|t| t.iter_mut().find(|p| p.addr == addr)) {
            known.expires = expires;
            return Ok(());
        }
        if self.count >= PEERS_MAX || (self.topics.len() >= TOPICS_MAX && !self.topics.contains_key(topic)) {
            return Err(ErrorCode::Server);
        }
        let peers = self.topics.entry(*topic).or_default();
        let by = |p: &Peer| Source::of(SocketAddr::new(p.addr.ip(), 1));
        let source = Source::of(SocketAddr::new(addr.ip(), 1));
        let shared = matches!(source, Source::Exact(_));
        let of_source = peers.iter().filter(|p| by(p) == source).count();
        if peers.len() >= PEERS_PER_TOPIC_MAX || (!shared && of_source >= PEERS_PER_SOURCE_MAX) {
            return Err(ErrorCode::Server);
        }
        peers.push(Peer { addr, expires });
        self.count += 1;
        Ok(())
    }

    /// Up to [`PEERS_TOLD_MAX`] peers of `topic` in one family, at random.
    pub fn sample(&self, now: Instant, topic: &DhtId, ipv6: bool, rng: &mut Rng) -> Vec<SocketAddr> {
        let Some(peers) = self.topics.get(topic) else { return Vec::new() };
        let alive = |p: &&Peer| p.expires > now && p.addr.is_ipv6() == ipv6;
        let mut found: Vec<SocketAddr> = peers.iter().filter(alive).map(|p| p.addr).collect();
        if found.len() > PEERS_TOLD_MAX {
            for at in 0..PEERS_TOLD_MAX {
                let other = at + rng.below((found.len() - at) as u64) as usize;
                found.swap(at, other);
            }
            found.truncate(PEERS_TOLD_MAX);
        }
        found
    }

    /// Forgets what is expired.
    pub fn expire(&mut self, now: Instant) {
        self.topics.retain(|_, peers| {
            peers.retain(|p| p.expires > now);
            !peers.is_empty()
        });
        self.count = self.topics.values().map(Vec::len).sum();
    }

    /// Peers kept.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        self.topics.values().map(|t| 64 + t.capacity() * size_of::<Peer>()).sum()
    }
}

#[cfg(test)]
#[path = "stored_tests.rs"]
mod tests;
