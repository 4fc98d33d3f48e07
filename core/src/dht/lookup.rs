//! Looking up other nodes' records.
//!
//! Everything that comes back is verified here: signature, key, size, schema, clock, and that it is not older than what
//! was seen before (a replayed old record would send us to an address its owner has left). What fails is counted by its
//! reason and never competes with what holds.
//!
//! A record is believed without asking for 5 min (`metadata_ttl`), that there is none for 30 s. The highest version seen
//! of a key is kept after that, on disk too, as the floor below which nothing is believed. Identical lookups are one
//! lookup. When something fails in a way that shows the record stale, [`Input::Invalidate`] ends its five minutes and
//! makes the next lookup a complete one that compares all stores instead of taking the first answer.
//!
//! A DHT that does not answer takes nothing away: the last version seen is returned if its owner's own validity still
//! covers it and nothing showed it stale.

use super::item;
use super::record::{NodeRecord, RECORD_MAX, RecordError};
use super::scheduler::RequestFailed;
use crate::codec::{DecodeError, Dict};
use crate::few::Few;
use crate::id::{PublicKey, Signature};
use crate::limits::LOOKUPS_WAITING_MAX;
use crate::machine::{Cx, Machine};
use crate::port::{DhtDone, GetMode, MutableItem};
use crate::store::{Room, StoreOp, Subject};
use crate::time::{Deadline, Duration, Instant, UnixTime};
use bytes::Bytes;
use std::collections::BTreeMap;
use thiserror::Error;

/// How long a record is believed without asking (SPEC 2.5 `metadata_ttl`).
pub const RECORD_TTL: Duration = Duration::from_secs(300);
/// How long an absence is believed (SPEC 2.5).
pub const ABSENCE_TTL: Duration = Duration::from_secs(30);
/// Absences remembered.
pub const ABSENCES_MAX: usize = 1_024;

const VERSION: u64 = 1;

/// Why there is no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum LookupFailed {
    /// The DHT holds none.
    #[error("no record in the DHT")]
    NotFound,
    /// The DHT holds only what cannot be believed.
    #[error("only forged, stale or malformed records in the DHT")]
    Refused,
    /// The DHT could not be asked.
    #[error("{0}")]
    Request(#[from] RequestFailed),
}

/// What can happen to the lookups.
#[derive(Clone, Debug)]
pub enum Input {
    /// Somebody wants a record. Followed by one `Found` for this key (one for all who ask while a lookup is under way).
    Lookup(PublicKey),
    /// A value came for a lookup, not yet believed.
    Value(PublicKey, MutableItem),
    /// The request for this key ended.
    Done(PublicKey, Result<DhtDone, RequestFailed>),
    /// Something failed in a way that shows the record of this key stale.
    Invalidate(PublicKey),
}

/// What the lookups ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Keep the newest version of a key (or forget one that fell out of the bounded cache).
    Persist(StoreOp),
    /// Fetch the item of this key; answered by `Done`.
    Request(PublicKey, GetMode),
    /// The answer.
    Found(PublicKey, Result<Box<NodeRecord>, LookupFailed>),
    /// Something was not believed.
    Refused(&'static str),
}

/// The signed bytes of a record; they are read again when somebody asks, which is seldom beside how many are kept.
#[derive(Clone, Debug)]
struct Cached {
    seq: u64,
    value: Box<[u8]>,
    signature: Signature,
    /// Until when the owner stands by it.
    expires: UnixTime,
    /// Until when it is believed without asking.
    fresh_until: UnixTime,
    /// Something showed it stale.
    stale: bool,
    /// For eviction: the least recently confirmed goes first.
    confirmed: UnixTime,
}

impl Cached {
    fn new(item: &MutableItem, record: &NodeRecord, confirmed: UnixTime) -> Self {
        Self {
            seq: item.seq,
            value: item.value[..].into(),
            signature: item.signature,
            expires: record.expires(),
            fresh_until: confirmed.plus(RECORD_TTL),
            stale: false,
            confirmed,
        }
    }

    /// What was decoded before decodes again.
    fn record(&self) -> Option<Box<NodeRecord>> {
        NodeRecord::decode(&self.value).ok().map(Box::new)
    }
}

#[derive(Clone, Debug)]
struct UnderWay {
    mode: GetMode,
    answered: bool,
    confirmed: bool,
    refused: bool,
}

/// Lookups under way, and what earlier ones found.
#[derive(Debug)]
pub struct Lookups {
    cached_max: usize,
    cache: BTreeMap<PublicKey, Cached>,
    absent: BTreeMap<PublicKey, Instant>,
    under_way: Few<PublicKey, UnderWay>,
}

impl Lookups {
    /// Nothing looked up yet; at most `cached_max` records are remembered.
    pub fn new(cached_max: usize) -> Self {
        Self { cached_max, cache: BTreeMap::new(), absent: BTreeMap::new(), under_way: Few::new() }
    }

    /// Takes back one journal record of [`Room::CachedRecord`].
    pub fn restore(&mut self, key: &[u8], record: &[u8]) -> Result<(), DecodeError> {
        let key = PublicKey::from_slice(key).map_err(|e| DecodeError::invalid("key", e.to_string()))?;
        let d = Dict::decode(record, RECORD_MAX + 256)?;
        match d.u64("v")? {
            VERSION => {}
            number => return Err(DecodeError::Unknown { what: "cached record version", number }),
        }
        let item = MutableItem {
            key,
            salt: Bytes::new(),
            seq: d.u64("seq")?,
            value: Bytes::copy_from_slice(d.bytes("val", RECORD_MAX)?),
            signature: Signature(d.array("sig")?),
        };
        let confirmed = UnixTime::from_secs(d.u64("at")?);
        // A cache of another version's records is an empty cache, not a reason to refuse the start.
        let Ok(record) = NodeRecord::decode(&item.value) else { return Ok(()) };
        self.cache.insert(key, Cached::new(&item, &record, confirmed));
        Ok(())
    }

    /// Records cached.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Lookups under way.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// The newest version seen of a key, fresh or not.
    pub fn peek(&self, key: &PublicKey) -> Option<Box<NodeRecord>> {
        self.cache.get(key)?.record()
    }

    fn lookup(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey) {
        if self.under_way.contains_key(&key) {
            return;
        }
        let cached = self.cache.get(&key);
        // A clock that went back must not make a record fresh for longer than its five minutes.
        let fresh = |c: &&Cached| {
            !c.stale
                && cx.wall < c.fresh_until
                && cx.wall.plus(RECORD_TTL) >= c.fresh_until
                && cx.wall < c.expires
        };
        if let Some(record) = cached.filter(fresh).and_then(Cached::record) {
            return cx.emit(Output::Found(key, Ok(record)));
        }
        if self.absent.get(&key).is_some_and(|until| *until > cx.now) {
            return cx.emit(Output::Found(key, Err(LookupFailed::NotFound)));
        }
        if self.under_way.len() >= LOOKUPS_WAITING_MAX {
            return cx.emit(Output::Found(key, Err(RequestFailed::Busy.into())));
        }
        let mode = if cached.is_some_and(|c| c.stale) { GetMode::MostRecent } else { GetMode::First };
        self.under_way.insert(key, UnderWay { mode, answered: false, confirmed: false, refused: false });
        cx.emit(Output::Request(key, mode));
    }

    fn value(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey, item: MutableItem) {
        let Some(lookup) = self.under_way.get_mut(&key) else { return };
        let record = match believe(&key, &item, self.cache.get(&key), cx.wall) {
            Ok(record) => record,
            Err(reason) => {
                lookup.refused = true;
                return cx.emit(Output::Refused(reason));
            }
        };
        lookup.confirmed = true;
        let answer_now = lookup.mode == GetMode::First && !lookup.answered;
        lookup.answered |= answer_now;
        if answer_now {
            cx.emit(Output::Found(key, Ok(Box::new(record.clone()))));
        }
        self.keep(cx, key, &item, &record);
    }

    fn keep(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey, item: &MutableItem, record: &NodeRecord) {
        self.absent.remove(&key);
        let same =
            |c: &Cached| (c.seq, &c.value[..], c.signature) == (item.seq, &item.value[..], item.signature);
        if !self.cache.get(&key).is_some_and(same) {
            let body = Dict::new()
                .with("at", cx.wall.as_secs())
                .with("seq", item.seq)
                .with("sig", &item.signature)
                .with("v", VERSION)
                .with("val", &item.value[..]);
            let subject = Subject::new(Room::CachedRecord, key.as_bytes());
            cx.emit(Output::Persist(StoreOp::Replace { subject, record: body.encode().into() }));
        }
        self.cache.insert(key, Cached::new(item, record, cx.wall));
        while self.cache.len() > self.cached_max {
            let oldest = self.cache.iter().min_by_key(|(_, c)| c.confirmed).map(|(k, _)| *k);
            let Some(k) = oldest else { return };
            self.cache.remove(&k);
            let subject = Subject::new(Room::CachedRecord, k.as_bytes());
            cx.emit(Output::Persist(StoreOp::Forget { subject }));
        }
    }

    fn done(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey, result: Result<DhtDone, RequestFailed>) {
        let Some(lookup) = self.under_way.remove(&key) else { return };
        if lookup.answered {
            return;
        }
        let known = self.cache.get(&key).filter(|c| cx.wall < c.expires);
        let last = known.and_then(|c| Some((c.stale, c.record()?)));
        let answer = match (result, last) {
            (_, Some((_, record))) if lookup.confirmed => Ok(record),
            (Ok(_), _) if lookup.refused => Err(LookupFailed::Refused),
            (Ok(_), _) => Err(LookupFailed::NotFound),
            (Err(_), Some((false, record))) => Ok(record),
            (Err(e), _) => Err(LookupFailed::Request(e)),
        };
        if matches!(answer, Err(LookupFailed::NotFound | LookupFailed::Refused)) {
            self.remember_absence(cx.now, key);
        }
        cx.emit(Output::Found(key, answer));
    }

    fn remember_absence(&mut self, now: Instant, key: PublicKey) {
        self.absent.retain(|_, until| *until > now);
        if self.absent.len() >= ABSENCES_MAX {
            self.absent.pop_first();
        }
        self.absent.insert(key, now + ABSENCE_TTL);
    }

    fn invalidate(&mut self, key: &PublicKey) {
        if let Some(c) = self.cache.get_mut(key) {
            c.stale = true;
        }
    }
}

/// The record in `item`, or the reason why it is not believed.
fn believe(
    key: &PublicKey,
    item: &MutableItem,
    known: Option<&Cached>,
    wall: UnixTime,
) -> Result<NodeRecord, &'static str> {
    if item.key != *key || !item.salt.is_empty() {
        return Err("record-of-another-key");
    }
    if item.value.len() > RECORD_MAX {
        return Err("record-too-large");
    }
    if let Some(known) = known {
        if item.seq < known.seq {
            return Err("record-rollback");
        }
        if item.seq == known.seq && item.value[..] != known.value[..] {
            return Err("record-same-seq-other-value");
        }
    }
    item::verify(item).map_err(|_| "record-forged")?;
    NodeRecord::read(&item.value, wall).map_err(|e| match e {
        RecordError::Decode(_) => "record-malformed",
        RecordError::Future => "record-from-the-future",
        RecordError::Expired => "record-expired",
    })
}

impl Machine for Lookups {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Lookup(key) => self.lookup(cx, key),
            Input::Value(key, item) => self.value(cx, key, item),
            Input::Done(key, result) => self.done(cx, key, result),
            Input::Invalidate(key) => self.invalidate(&key),
        }
    }

    /// The scheduler answers every request, so lookups have no deadline of their own; caches are looked at when asked.
    fn handle_timeout(&mut self, _cx: &mut Cx<'_, Output>) {}

    fn poll_timeout(&self) -> Option<Deadline> {
        None
    }
}

#[cfg(test)]
mod tests;
