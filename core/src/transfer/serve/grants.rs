//! Who may fetch which object from here.
//!
//! A grant says: this object is that requester's. The outputs of a job are its requester's, objects that were put in here
//! are our own. A requester may fetch what is its, and may let others by a ticket.
//!
//! Journal: one subject per digest. A record is `{v: 1, r: [requester keys]}`; a grant appends a record with one key, a
//! revocation replaces all by one record with the keys that are left or forgets the subject, so each change is one
//! operation and whole. Recovery is the union of a subject's records.

use crate::codec::{DecodeError, Dict, Value};
use crate::id::{Digest, PublicKey};
use crate::limits::{GRANT_REQUESTERS_MAX, GRANTS_MAX};
use crate::store::{Room, StoreOp, StoredRecord, Subject};
use std::collections::{BTreeMap, BTreeSet};

/// A record of so many keys at the most.
const RECORD_BYTES_MAX: usize = 64 + GRANT_REQUESTERS_MAX * 40;

/// All grants.
#[derive(Debug, Default)]
pub(super) struct Grants {
    of: BTreeMap<Digest, BTreeSet<PublicKey>>,
}

fn record<'a>(keys: impl Iterator<Item = &'a PublicKey>) -> bytes::Bytes {
    Dict::new().with("v", 1u64).with("r", keys.map(Value::from).collect::<Vec<_>>()).encode().into()
}

impl Grants {
    /// The fold over what is durable; records of other rooms are passed over.
    pub(super) fn restore(records: &[StoredRecord]) -> Result<Self, DecodeError> {
        let mut grants = Self::default();
        for stored in records.iter().filter(|r| r.subject.room == Room::Grant) {
            let digest = Digest::from_slice(&stored.subject.key)
                .map_err(|e| DecodeError::invalid("subject", e.to_string()))?;
            let d = Dict::decode(&stored.record, RECORD_BYTES_MAX)?;
            match d.u64("v")? {
                1 => {}
                number => return Err(DecodeError::Unknown { what: "version of a grant", number }),
            }
            for key in d.list("r", GRANT_REQUESTERS_MAX)? {
                let key = key.as_bytes().ok_or_else(|| DecodeError::invalid("r", "not a key"))?;
                let key = PublicKey::from_slice(key).map_err(|e| DecodeError::invalid("r", e.to_string()))?;
                grants.of.entry(digest).or_default().insert(key);
            }
        }
        Ok(grants)
    }

    /// Grants; the operation that makes it durable, `Ok(None)` when it was granted already, `Err` when there is no room.
    pub(super) fn grant(&mut self, digest: Digest, requester: PublicKey) -> Result<Option<StoreOp>, ()> {
        if self.allows(&digest, &requester) {
            return Ok(None);
        }
        let full = match self.of.get(&digest) {
            Some(requesters) => requesters.len() >= GRANT_REQUESTERS_MAX,
            None => self.of.len() >= GRANTS_MAX,
        };
        if full {
            return Err(());
        }
        self.of.entry(digest).or_default().insert(requester);
        let subject = Subject::new(Room::Grant, digest.as_bytes());
        Ok(Some(StoreOp::Append { subject, record: record([requester].iter()) }))
    }

    /// Takes a grant back; the operation that makes it durable, if there was one.
    pub(super) fn revoke(&mut self, digest: &Digest, requester: &PublicKey) -> Option<StoreOp> {
        let requesters = self.of.get_mut(digest)?;
        if !requesters.remove(requester) {
            return None;
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
        self.of.get(digest).is_some_and(|requesters| requesters.contains(requester))
    }

    /// Objects granted to anybody.
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }
}
