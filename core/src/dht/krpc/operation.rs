//! One operation of the core: a walk in each address family, perhaps stores after it, and one answer.

use super::message::{Ask, ErrorCode, Put, Reply, Signed, signed_bytes, string_content};
use super::walk::{Holder, Quest};
use crate::dht::item::{self, ItemError};
use crate::id::{DhtId, PublicKey, Signature};
use crate::port::{AnnouncePort, DhtDone, DhtFailed, DhtRequest, GetMode, MutableItem};
use crate::time::Duration;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Different peers passed on for one search; more is a flood.
pub const PEERS_FOUND_MAX: usize = 1_024;

/// What a reply brought.
#[derive(Debug, Default)]
pub struct Found {
    /// Peers not seen before.
    pub peers: Vec<SocketAddr>,
    /// A version newer than all before.
    pub item: Option<MutableItem>,
    /// The immutable value.
    pub value: Option<Bytes>,
    /// The operation has all it wanted.
    pub enough: bool,
    /// Something was not believed.
    pub refused: Option<&'static str>,
}

/// An operation under way.
#[derive(Clone, Debug)]
pub struct Operation {
    request: DhtRequest,
    /// The item's value as it is stored: bencoded.
    v: Vec<u8>,
    /// Only those who lack this version are told.
    sparing: bool,
    /// Seconds since its owner put the item.
    age: Option<u64>,
    newest: Option<u64>,
    seen: BTreeSet<SocketAddr>,
    responded: u32,
    stored: u32,
    refusals: [u32; 4],
    holders: Vec<Holder>,
    /// Walks that have not ended.
    pub walks: usize,
    /// Stores that have not been answered.
    pub storing: usize,
}

impl Operation {
    /// An operation, if its request makes sense.
    pub fn new(request: DhtRequest) -> Result<Self, DhtFailed> {
        let mut v = Vec::new();
        match &request {
            DhtRequest::PutMutable { item, cas } => {
                item::verify(item).map_err(|e| match e {
                    ItemError::Salt | ItemError::Value => DhtFailed::TooBig,
                    ItemError::Seq | ItemError::Signature => DhtFailed::BadSignature,
                })?;
                if cas.is_some_and(|c| c > item::SEQ_MAX) {
                    return Err(DhtFailed::Cas);
                }
                v = bencoded(&item.value);
            }
            DhtRequest::PutImmutable { value } if value.len() > item::VALUE_MAX => {
                return Err(DhtFailed::TooBig);
            }
            DhtRequest::PutImmutable { value } => v = bencoded(value),
            DhtRequest::GetMutable { salt, .. } if salt.len() > item::SALT_MAX => {
                return Err(DhtFailed::TooBig);
            }
            DhtRequest::Cancel => return Err(DhtFailed::Cancelled),
            DhtRequest::GetMutable { .. }
            | DhtRequest::GetImmutable { .. }
            | DhtRequest::Announce { .. }
            | DhtRequest::GetPeers { .. } => {}
        }
        Ok(Self::begun(request, v))
    }

    /// Brings `item`, which was believed when it came and put `age` ago, to those who should have it and do not.
    pub fn handover(item: MutableItem, age: Duration) -> Self {
        let v = bencoded(&item.value);
        let age = Some(age.as_secs());
        Self { sparing: true, age, ..Self::begun(DhtRequest::PutMutable { item, cas: None }, v) }
    }

    fn begun(request: DhtRequest, v: Vec<u8>) -> Self {
        Self {
            request,
            v,
            sparing: false,
            age: None,
            newest: None,
            seen: BTreeSet::new(),
            responded: 0,
            stored: 0,
            refusals: [0; 4],
            holders: Vec::new(),
            walks: 0,
            storing: 0,
        }
    }

    /// Where it leads, and what is asked on the way.
    pub fn way(&self) -> (DhtId, Quest) {
        way(&self.request)
    }

    /// Whether it wants peers or values from our own shelves as well.
    pub fn wants(&self) -> Option<Quest> {
        match &self.request {
            DhtRequest::GetPeers { .. } => Some(Quest::Peers),
            DhtRequest::GetMutable { .. } | DhtRequest::GetImmutable { .. } => Some(Quest::Value),
            DhtRequest::Announce { .. }
            | DhtRequest::PutMutable { .. }
            | DhtRequest::PutImmutable { .. }
            | DhtRequest::Cancel => None,
        }
    }

    /// Whether nobody had what it looks for, so far.
    pub fn found_nothing(&self) -> bool {
        self.newest.is_none() && self.seen.is_empty()
    }

    /// Somebody on the way answered.
    pub fn reply(&mut self, reply: &Reply<'_>, usable: impl Fn(SocketAddr) -> bool) -> Found {
        match &self.request {
            DhtRequest::GetPeers { .. } => self.peers(reply.peers().filter(|a| usable(*a))),
            DhtRequest::GetMutable { salt, .. } => {
                let salt = salt.clone();
                let bound = reply.signed(&[]).map(|(s, v)| (s.key, s.seq, s.signature, v));
                bound
                    .map(|(key, seq, signature, v)| self.value(&salt, key, seq, signature, v))
                    .unwrap_or_default()
            }
            DhtRequest::PutMutable { item, .. } => {
                let newer =
                    |s: &Signed<'_>| s.key == *item.key.as_bytes() && self.newest.is_none_or(|n| s.seq > n);
                let believed = reply.signed(&[]).filter(|(s, v)| {
                    newer(s) && item.key.verify(&signed_bytes(&item.salt, s.seq, v), &s.signature)
                });
                if let Some((s, _)) = believed {
                    self.newest = Some(s.seq);
                }
                Found::default()
            }
            DhtRequest::GetImmutable { .. } => {
                reply.raw_value().map(|v| self.immutable(v)).unwrap_or_default()
            }
            DhtRequest::Announce { .. } | DhtRequest::PutImmutable { .. } | DhtRequest::Cancel => {
                Found::default()
            }
        }
    }

    /// An immutable value, from others or from our own shelf. Its hash is its name, so one is enough; it has no
    /// version, and counts as the first.
    pub fn immutable(&mut self, v: &[u8]) -> Found {
        let DhtRequest::GetImmutable { target } = &self.request else { return Found::default() };
        match string_content(v).filter(|content| item::immutable_target(content) == *target) {
            Some(content) => {
                self.newest = Some(0);
                Found { value: Some(Bytes::copy_from_slice(content)), enough: true, ..Found::default() }
            }
            None => Found { refused: Some("krpc-forged-value"), ..Found::default() },
        }
    }

    /// Peers, from others or from our own shelf.
    pub fn peers(&mut self, addrs: impl Iterator<Item = SocketAddr>) -> Found {
        let fresh = addrs.filter(|a| self.seen.len() < PEERS_FOUND_MAX && self.seen.insert(*a));
        Found { peers: fresh.collect(), ..Found::default() }
    }

    /// A value, from others or from our own shelf. Believed only with its owner's signature.
    pub fn value(&mut self, salt: &Bytes, key: [u8; 32], seq: u64, signature: Signature, v: &[u8]) -> Found {
        let DhtRequest::GetMutable { key: wanted, mode, .. } = &self.request else { return Found::default() };
        if self.newest.is_some_and(|n| seq <= n) {
            // What we hold ourselves may be old; a second one who says the same settles it.
            return Found { enough: *mode == GetMode::First && self.newest == Some(seq), ..Found::default() };
        }
        let content = string_content(v).filter(|_| key == *wanted.as_bytes());
        let Some(content) = content else {
            return Found { refused: Some("krpc-foreign-value"), ..Found::default() };
        };
        let value = Bytes::copy_from_slice(content);
        let item = MutableItem { key: *wanted, salt: salt.clone(), seq, value, signature };
        if item::verify(&item).is_err() {
            return Found { refused: Some("krpc-forged-value"), ..Found::default() };
        }
        self.newest = Some(seq);
        Found { item: Some(item), enough: *mode == GetMode::First, ..Found::default() }
    }

    /// The key and salt a `GetMutable` asks for.
    pub fn slot(&self) -> Option<(&PublicKey, &Bytes)> {
        match &self.request {
            DhtRequest::GetMutable { key, salt, .. } => Some((key, salt)),
            DhtRequest::Announce { .. }
            | DhtRequest::GetPeers { .. }
            | DhtRequest::PutMutable { .. }
            | DhtRequest::PutImmutable { .. }
            | DhtRequest::GetImmutable { .. }
            | DhtRequest::Cancel => None,
        }
    }

    /// A walk has ended. When it was the last: where to store, or the end.
    pub fn walked(&mut self, responded: u32, holders: Vec<Holder>) -> Option<Result<Vec<Holder>, DhtFailed>> {
        self.responded += responded;
        self.holders.extend(holders);
        self.walks = self.walks.saturating_sub(1);
        (self.walks == 0).then(|| self.holders_or_end())
    }

    fn holders_or_end(&mut self) -> Result<Vec<Holder>, DhtFailed> {
        let holders = std::mem::take(&mut self.holders);
        match &self.request {
            DhtRequest::GetPeers { .. }
            | DhtRequest::GetMutable { .. }
            | DhtRequest::GetImmutable { .. }
            | DhtRequest::Cancel => Ok(Vec::new()),
            DhtRequest::PutMutable { item, cas } => {
                if self.newest.is_some_and(|n| n > item.seq) {
                    return Err(DhtFailed::SeqTooOld);
                }
                if cas.is_some() && self.newest.is_some() && self.newest != *cas {
                    return Err(DhtFailed::Cas);
                }
                Ok(holders)
            }
            DhtRequest::Announce { .. } | DhtRequest::PutImmutable { .. } => Ok(holders),
        }
    }

    /// What a holder is told.
    pub fn store<'a>(&'a self, token: &'a [u8], holds: Option<u64>) -> Option<Ask<'a>> {
        match &self.request {
            DhtRequest::Announce { topic, port } => {
                let port = match port {
                    AnnouncePort::Implied => None,
                    AnnouncePort::Explicit(port) => Some(*port),
                };
                Some(Ask::Announce { topic: *topic, port, token })
            }
            DhtRequest::PutMutable { item, .. } if self.sparing && holds.is_some_and(|h| h >= item.seq) => {
                None
            }
            DhtRequest::PutMutable { item, cas } => {
                let (key, seq, signature) = (*item.key.as_bytes(), item.seq, item.signature);
                let signed = Signed { key, seq, signature, salt: &item.salt };
                // BEP 44: no `cas` for whoever holds nothing.
                Some(Ask::Put(Put {
                    token,
                    v: &self.v,
                    mutable: Some(signed),
                    cas: cas.filter(|_| holds.is_some()),
                    age: self.age,
                }))
            }
            DhtRequest::PutImmutable { .. } => {
                Some(Ask::Put(Put { token, v: &self.v, mutable: None, cas: None, age: None }))
            }
            DhtRequest::GetPeers { .. }
            | DhtRequest::GetMutable { .. }
            | DhtRequest::GetImmutable { .. }
            | DhtRequest::Cancel => None,
        }
    }

    /// A holder has it.
    pub fn stored(&mut self) {
        self.stored += 1;
    }

    /// A holder refused.
    pub fn refused(&mut self, code: i64) {
        let number = |c: ErrorCode| c.number() as i64;
        let at = match code {
            c if c == number(ErrorCode::Cas) => 0,
            c if c == number(ErrorCode::SeqTooOld) => 1,
            c if c == number(ErrorCode::TooBig) || c == number(ErrorCode::SaltTooBig) => 2,
            c if c == number(ErrorCode::Signature) => 3,
            _ => return,
        };
        self.refusals[at] += 1;
    }

    /// How it ended, when no walk and no store is open.
    pub fn result(&self) -> Result<DhtDone, DhtFailed> {
        let newest_seq = match &self.request {
            DhtRequest::PutMutable { item, .. } => self.newest.max(Some(item.seq)),
            DhtRequest::GetMutable { .. } => self.newest,
            DhtRequest::Announce { .. }
            | DhtRequest::GetPeers { .. }
            | DhtRequest::PutImmutable { .. }
            | DhtRequest::GetImmutable { .. }
            | DhtRequest::Cancel => None,
        };
        let done = DhtDone { stored: self.stored, responded: self.responded, newest_seq };
        if self.wants().is_some() {
            let nothing = self.responded == 0 && self.found_nothing();
            return if nothing { Err(DhtFailed::NoNodes) } else { Ok(done) };
        }
        let [cas, old, big, signature] = self.refusals;
        // A majority that holds another version has spoken, also when a few that held nothing took ours.
        if cas.max(old) > self.stored {
            return Err(if cas >= old { DhtFailed::Cas } else { DhtFailed::SeqTooOld });
        }
        match () {
            () if self.stored > 0 => Ok(done),
            () if big > 0 => Err(DhtFailed::TooBig),
            () if signature > 0 => Err(DhtFailed::BadSignature),
            () if self.responded == 0 => Err(DhtFailed::NoNodes),
            () => Err(DhtFailed::Timeout),
        }
    }
}

/// Where a request leads, and what is asked on the way.
pub fn way(request: &DhtRequest) -> (DhtId, Quest) {
    match request {
        DhtRequest::Announce { topic, .. } | DhtRequest::GetPeers { topic } => (*topic, Quest::Peers),
        DhtRequest::PutMutable { item, .. } => (item::target(&item.key, &item.salt), Quest::Value),
        DhtRequest::GetMutable { key, salt, .. } => (item::target(key, salt), Quest::Value),
        DhtRequest::PutImmutable { value } => (item::immutable_target(value), Quest::Value),
        DhtRequest::GetImmutable { target } => (*target, Quest::Value),
        DhtRequest::Cancel => (DhtId([0; 20]), Quest::Nodes),
    }
}

/// A value as BEP 44 stores it: a bencoded byte string.
pub fn bencoded(value: &[u8]) -> Vec<u8> {
    let mut v = format!("{}:", value.len()).into_bytes();
    v.extend_from_slice(value);
    v
}
