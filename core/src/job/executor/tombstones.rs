//! Jobs that must never start (again): the journal's word against late copies of their orders.
//!
//! Anybody who may use a service here can have tombstones written, by cancelling jobs that never were. So there is room for a
//! number of them, in all and of each requester; a requester that needs more pushes out its own oldest, and when all room is
//! taken the requester with the most gives way, so that nobody's flood forgets the jobs of others.

use crate::id::{JobId, PublicKey};
use crate::limits::{TOMBSTONES_MAX, TOMBSTONES_PER_REQUESTER_MAX};
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// All tombstones of an executor.
#[derive(Clone, Debug, Default)]
pub(super) struct Tombstones {
    of: BTreeMap<JobId, PublicKey>,
    /// Jobs of each requester, the oldest first.
    order: BTreeMap<PublicKey, VecDeque<JobId>>,
}

impl Tombstones {
    /// A job is gone for good.
    pub(super) fn insert(&mut self, job: JobId, requester: PublicKey) {
        if self.of.insert(job, requester).is_none() {
            self.order.entry(requester).or_default().push_back(job);
        }
    }

    /// Whether the job must not start.
    pub(super) fn contains(&self, job: &JobId) -> bool {
        self.of.contains_key(job)
    }

    /// All of them, and whose they were.
    pub(super) fn all(&self) -> &BTreeMap<JobId, PublicKey> {
        &self.of
    }

    /// Forgets and returns one that is too many, now that `requester` has one more.
    pub(super) fn too_many(&mut self, requester: &PublicKey) -> Option<JobId> {
        let count = |key: &PublicKey| self.order.get(key).map_or(0, VecDeque::len);
        let from = if count(requester) > TOMBSTONES_PER_REQUESTER_MAX {
            *requester
        } else if self.of.len() > TOMBSTONES_MAX {
            self.order.iter().max_by_key(|(key, jobs)| (jobs.len(), Reverse(**key))).map(|(key, _)| *key)?
        } else {
            return None;
        };
        let jobs = self.order.get_mut(&from)?;
        let oldest = jobs.pop_front()?;
        if jobs.is_empty() {
            self.order.remove(&from);
        }
        self.of.remove(&oldest);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Keypair;

    fn job(requester: u8, n: usize) -> JobId {
        let mut id = [requester; 16];
        id[8..].copy_from_slice(&(n as u64).to_be_bytes());
        JobId(id)
    }

    fn bury(t: &mut Tombstones, requester: u8, n: usize) -> Vec<JobId> {
        let key = Keypair::from_seed(&[requester; 32]).public();
        t.insert(job(requester, n), key);
        std::iter::from_fn(|| t.too_many(&key)).collect()
    }

    #[test]
    fn a_requester_pushes_out_its_own_oldest() {
        let mut t = Tombstones::default();
        assert_eq!(bury(&mut t, 1, 0), []);
        for n in 0..TOMBSTONES_PER_REQUESTER_MAX {
            assert_eq!(bury(&mut t, 2, n), []);
        }
        assert_eq!(bury(&mut t, 2, 0), [], "twice the same is one");
        assert_eq!(bury(&mut t, 2, TOMBSTONES_PER_REQUESTER_MAX), [job(2, 0)]);
        assert!(t.contains(&job(1, 0)) && !t.contains(&job(2, 0)));
    }

    #[test]
    fn when_all_room_is_taken_who_has_most_gives_way() {
        let mut t = Tombstones::default();
        bury(&mut t, 1, 0);
        let many = u8::try_from(TOMBSTONES_MAX / TOMBSTONES_PER_REQUESTER_MAX).unwrap();
        let mut gone = Vec::new();
        for requester in 2..2 + many {
            for n in 0..TOMBSTONES_PER_REQUESTER_MAX {
                gone.extend(bury(&mut t, requester, n));
            }
        }
        assert_eq!((t.all().len(), gone.len()), (TOMBSTONES_MAX, 1));
        assert!(t.contains(&job(1, 0)), "the one of a quiet requester stays");
    }
}
