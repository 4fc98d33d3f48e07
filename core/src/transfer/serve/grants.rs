//! Who may fetch which object from here.
//!
//! A grant says: this object is that requester's. The outputs of a job are its requester's, objects that were put in here
//! are our own. A requester may fetch what is its, and may let others by a ticket.
//!
//! An object may be a requester's for several reasons at once ([`Reason`]), and each takes back only what it gave: the end of
//! a run does not undo what the user shared.
//!
//! Journal: one subject per digest. A record is `{v: 2, r: [requester keys], w: [reasons of each, as a sum]}`; a grant appends
//! a record with one key and reason, a revocation replaces all by one record with what is left or forgets the subject, so
//! each change is one operation and whole. Recovery is the union of a subject's records. Version 1 had no reasons: what is
//! left of it goes with the first that is taken back.

use crate::codec::{DecodeError, Dict, Value};
use crate::id::{Digest, PublicKey};
use crate::limits::{GRANT_REQUESTERS_MAX, GRANTS_MAX};
use crate::store::{Room, StoreOp, StoredRecord, Subject};
use std::collections::BTreeMap;

/// A record of so many keys at the most.
const RECORD_BYTES_MAX: usize = 64 + GRANT_REQUESTERS_MAX * 48;

/// Why an object is somebody's. The numbers are stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Reason {
    /// The output of one of its jobs here.
    Job = 1,
    /// A source of one of its runs.
    Run = 2,
    /// The user put it in or shared it.
    User = 4,
    /// The user keeps it, with all files of the directory that it is.
    UserTree = 16,
    /// The output of one of its jobs here, as a directory.
    JobTree = 32,
}

/// The reason of records that named none.
const UNNAMED: u8 = 8;
/// All reasons there are.
const ALL: u8 = 63;

/// All grants, with the sum of their reasons.
#[derive(Debug, Default)]
pub(super) struct Grants {
    of: BTreeMap<Digest, BTreeMap<PublicKey, u8>>,
}

fn record<'a>(grants: impl Iterator<Item = (&'a PublicKey, &'a u8)>) -> bytes::Bytes {
    let (keys, reasons): (Vec<_>, Vec<_>) =
        grants.map(|(key, reasons)| (Value::from(key), Value::from(u64::from(*reasons)))).unzip();
    Dict::new().with("v", 2u64).with("r", keys).with("w", reasons).encode().into()
}

/// Keys of a stored record and the reasons of each.
fn read(record: &[u8]) -> Result<Vec<(PublicKey, u8)>, DecodeError> {
    let d = Dict::decode(record, RECORD_BYTES_MAX)?;
    let key = |v: &Value| {
        let bytes = v.as_bytes().ok_or_else(|| DecodeError::invalid("r", "not a key"))?;
        PublicKey::from_slice(bytes).map_err(|e| DecodeError::invalid("r", e.to_string()))
    };
    let keys = d.list("r", GRANT_REQUESTERS_MAX)?.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    let reasons = match d.u64("v")? {
        1 => vec![UNNAMED; keys.len()],
        2 => {
            let known =
                |v: &Value| v.as_u64().and_then(|n| u8::try_from(n).ok()).filter(|n| *n <= ALL && *n > 0);
            let reason = |v| known(v).ok_or_else(|| DecodeError::invalid("w", "not a sum of reasons"));
            d.list("w", GRANT_REQUESTERS_MAX)?.iter().map(reason).collect::<Result<_, _>>()?
        }
        number => return Err(DecodeError::Unknown { what: "version of a grant", number }),
    };
    if reasons.len() != keys.len() {
        return Err(DecodeError::invalid("w", "one sum for each key"));
    }
    Ok(keys.into_iter().zip(reasons).collect())
}

impl Grants {
    /// The fold over what is durable; records of other rooms are passed over.
    pub(super) fn restore(records: &[StoredRecord]) -> Result<Self, DecodeError> {
        let mut grants = Self::default();
        for stored in records.iter().filter(|r| r.subject.room == Room::Grant) {
            let digest = Digest::from_slice(&stored.subject.key)
                .map_err(|e| DecodeError::invalid("subject", e.to_string()))?;
            for (key, reasons) in read(&stored.record)? {
                *grants.of.entry(digest).or_default().entry(key).or_default() |= reasons;
            }
        }
        Ok(grants)
    }

    /// Grants; the operation that makes it durable, `Ok(None)` when it was granted already, `Err` when there is no room.
    pub(super) fn grant(
        &mut self,
        digest: Digest,
        requester: PublicKey,
        reason: Reason,
    ) -> Result<Option<StoreOp>, ()> {
        let before = self.reasons(&digest, &requester);
        let reason = reason as u8;
        if before & reason != 0 {
            return Ok(None);
        }
        let full = match self.of.get(&digest) {
            Some(requesters) => before == 0 && requesters.len() >= GRANT_REQUESTERS_MAX,
            None => self.of.len() >= GRANTS_MAX,
        };
        if full {
            return Err(());
        }
        *self.of.entry(digest).or_default().entry(requester).or_default() |= reason;
        let subject = Subject::new(Room::Grant, digest.as_bytes());
        Ok(Some(StoreOp::Append { subject, record: record([(&requester, &reason)].into_iter()) }))
    }

    /// Takes a grant back, as far as it was made for this reason; the operation that makes it durable, if there was one.
    pub(super) fn revoke(
        &mut self,
        digest: &Digest,
        requester: &PublicKey,
        reason: Reason,
    ) -> Option<StoreOp> {
        let requesters = self.of.get_mut(digest)?;
        let reasons = requesters.get_mut(requester)?;
        let gone = reason as u8 | UNNAMED;
        if *reasons & gone == 0 {
            return None;
        }
        *reasons &= !gone;
        if *reasons == 0 {
            requesters.remove(requester);
        }
        let subject = Subject::new(Room::Grant, digest.as_bytes());
        if requesters.is_empty() {
            self.of.remove(digest);
            return Some(StoreOp::Forget { subject });
        }
        Some(StoreOp::Replace { subject, record: record(requesters.iter()) })
    }

    /// Whether the object is this requester's.
    pub(super) fn allows(&self, digest: &Digest, requester: &PublicKey) -> bool {
        self.reasons(digest, requester) != 0
    }

    /// Whether the files of a directory are this requester's as well. Not for every reason: what a job has left as a file may
    /// be a list of files of others, written by whoever knows their digests.
    pub(super) fn allows_files(&self, digest: &Digest, requester: &PublicKey) -> bool {
        self.reasons(digest, requester) & !(Reason::Job as u8 | UNNAMED) != 0
    }

    /// Whether the object is this requester's for this reason.
    pub(super) fn has(&self, digest: &Digest, requester: &PublicKey, reason: Reason) -> bool {
        self.reasons(digest, requester) & reason as u8 != 0
    }

    /// What is this requester's for this reason.
    pub(super) fn of(&self, requester: &PublicKey, reason: Reason) -> impl Iterator<Item = Digest> {
        let has =
            move |of: &BTreeMap<PublicKey, u8>| of.get(requester).is_some_and(|r| r & reason as u8 != 0);
        self.of.iter().filter(move |(_, of)| has(of)).map(|(digest, _)| *digest)
    }

    fn reasons(&self, digest: &Digest, requester: &PublicKey) -> u8 {
        self.of.get(digest).and_then(|requesters| requesters.get(requester)).copied().unwrap_or(0)
    }

    /// Objects granted to anybody.
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }
}
