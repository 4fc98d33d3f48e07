//! A host's disk: what a crash leaves of the journal and of the objects.
//!
//! A journal batch is atomic (a database transaction in the product): it becomes durable a virtual while after it was
//! asked for, all of it or nothing. A crash loses the batches that were still on their way; the record torn in the
//! middle is one of them. Whether the batch that was being written at that instant made it is a coin (the crash came
//! *before* or *after* the commit), and in the second case the core comes back to a record it never heard was durable.
//!
//! Objects are content-addressed. Pieces written to an object that is not yet sealed are not durable: after a crash each
//! is there or not. A disk can be full, can damage an object, can fail a write, and, as a planted bug, can lie: say
//! *durable* and forget ([`DiskSpec::lying`]).

use crate::blobs::Blobs;
use crate::depot::Depot;
use crate::draw::Draw;
use bytes::Bytes;
use remote_network_core::id::Lsn;
use remote_network_core::node::Journal as Restored;
use remote_network_core::store::{Room, StoreOp, StoredRecord, Subject};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ops::Range;

const US_NS: u64 = 1_000;

/// How good a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskSpec {
    /// A commit takes at least this …
    pub commit_us: u32,
    /// … and up to this much more.
    pub commit_spread_us: u32,
    /// An object's read or write takes this.
    pub blob_us: u32,
    /// Bytes of objects that fit.
    pub blob_bytes_max: u64,
    /// Commits that fail; the node must stop at once.
    pub fail_ppm: u32,
    /// The planted bug: says *durable* before it is, and forgets at a crash.
    pub lying: bool,
}

impl Default for DiskSpec {
    /// A solid-state disk with a real flush.
    fn default() -> Self {
        Self {
            commit_us: 800,
            commit_spread_us: 1_500,
            blob_us: 120,
            blob_bytes_max: 1 << 34,
            fail_ppm: 0,
            lying: false,
        }
    }
}

/// Bytes in front of a record's key and payload: its room, the length of its key, the length of its payload, its batch.
const HEAD_BYTES: usize = 1 + 1 + 4 + 8;
/// The journal makes room for this part of its length more at once (one sixteenth): a thousand of them lie in one process.
const GROWTH: usize = 16;

/// The journal as it is on the platters: its records one behind the other, in the order in which they were written, and
/// nothing between them. What a thousand machines know of each other lies here a thousand times, so a record costs
/// little more than its bytes; what is forgotten is cut out, which costs less than to remember where it was.
pub struct Journal {
    id: u64,
    log: Vec<u8>,
    len: usize,
    durable: Lsn,
}

/// A record as it lies in the log.
struct Lying<'a> {
    /// Where it begins and ends.
    place: Range<usize>,
    room: u8,
    key: &'a [u8],
    lsn: Lsn,
    record: &'a [u8],
}

/// The record that begins at `at`.
fn record_at(log: &[u8], at: usize) -> Option<Lying<'_>> {
    let (&[room, key_len], rest) = log.get(at..)?.split_first_chunk()?;
    let (record_len, rest) = rest.split_first_chunk()?;
    let (lsn, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(key_len.into())?;
    let record = rest.get(..u32::from_le_bytes(*record_len) as usize)?;
    let place = at..at + HEAD_BYTES + key.len() + record.len();
    Some(Lying { place, room, key, lsn: Lsn(u64::from_le_bytes(*lsn)), record })
}

impl Journal {
    /// An empty journal with the id it will always have.
    pub fn new(id: u64) -> Self {
        Self { id, log: Vec::new(), len: 0, durable: Lsn(0) }
    }

    /// Applies one batch.
    pub fn apply(&mut self, lsn: Lsn, ops: Vec<StoreOp>) {
        for op in ops {
            match op {
                StoreOp::Append { subject, record } => self.append(lsn, &subject, &record),
                StoreOp::Replace { subject, record } => {
                    self.forget(&subject);
                    self.append(lsn, &subject, &record);
                }
                StoreOp::Forget { subject } => self.forget(&subject),
            }
        }
        self.durable = self.durable.max(lsn);
    }

    fn append(&mut self, lsn: Lsn, subject: &Subject, record: &[u8]) {
        let (Ok(key_len), Ok(record_len)) = (u8::try_from(subject.key.len()), u32::try_from(record.len()))
        else {
            debug_assert!(false, "no subject has such a key, and no record is so long");
            return;
        };
        let bytes = HEAD_BYTES + subject.key.len() + record.len();
        if self.log.capacity() - self.log.len() < bytes {
            self.log.reserve_exact(bytes + self.log.len() / GROWTH);
        }
        self.log.extend_from_slice(&[subject.room as u8, key_len]);
        self.log.extend_from_slice(&record_len.to_le_bytes());
        self.log.extend_from_slice(&lsn.0.to_le_bytes());
        self.log.extend_from_slice(&subject.key);
        self.log.extend_from_slice(record);
        self.len += 1;
    }

    fn forget(&mut self, subject: &Subject) {
        let mut at = 0;
        while let Some(lying) = record_at(&self.log, at) {
            let of_subject = (lying.room, lying.key) == (subject.room as u8, &*subject.key);
            let place = lying.place;
            if of_subject {
                self.log.drain(place);
                self.len -= 1;
            } else {
                at = place.end;
            }
        }
    }

    /// Everything durable: what a core is restored from.
    pub fn restore(&self) -> Restored {
        let mut records = Vec::with_capacity(self.len);
        let mut at = 0;
        while let Some(Lying { place, room, key, lsn, record }) = record_at(&self.log, at) {
            at = place.end;
            if let Some(room) = Room::from_number(room) {
                let subject = Subject::new(room, key);
                records.push(StoredRecord { lsn, subject, record: Bytes::copy_from_slice(record) });
            }
        }
        Restored { id: self.id, last: self.durable, records }
    }

    /// Records kept.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The last durable batch.
    pub fn durable(&self) -> Lsn {
        self.durable
    }
}

/// A host's disk.
pub struct Disk {
    /// How good it is.
    pub spec: DiskSpec,
    /// The objects.
    pub blobs: Blobs,
    depot: Depot,
    journal: Journal,
    under_way: VecDeque<(Lsn, Vec<StoreOp>)>,
    /// Batches the lying disk has acknowledged and not written.
    owed: VecDeque<(Lsn, Vec<StoreOp>)>,
    draw: Draw,
    free_ns: u64,
    batches_lost: u64,
    failures: u64,
}

/// What a commit will come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Commit {
    /// Durable then.
    Durable {
        /// When.
        at_ns: u64,
    },
    /// Failed then.
    Failed {
        /// When.
        at_ns: u64,
    },
}

/// Batches a lying disk keeps in memory before it writes the oldest: small enough that honest work goes on, large
/// enough that any crash loses some.
const OWED_MAX: usize = 8;

impl Disk {
    /// An empty disk.
    pub fn new(spec: DiskSpec, mut draw: Draw, depot: Depot) -> Self {
        Self {
            spec,
            blobs: Blobs::with_depot(spec.blob_bytes_max, depot.clone()),
            depot,
            journal: Journal::new(draw.next_u64()),
            under_way: VecDeque::new(),
            owed: VecDeque::new(),
            draw,
            free_ns: 0,
            batches_lost: 0,
            failures: 0,
        }
    }

    /// The journal as a restart would find it.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Batches that crashes have taken.
    pub fn batches_lost(&self) -> u64 {
        self.batches_lost
    }

    /// Commits that failed.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Batches asked for and not yet durable.
    pub fn batches_under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Begins to write a batch. Commits end in the order in which they began, one after the other.
    pub fn begin(&mut self, now_ns: u64, lsn: Lsn, ops: Vec<StoreOp>) -> Commit {
        let spread_us = self.draw.below(u64::from(self.spec.commit_spread_us) + 1);
        let took_ns = (u64::from(self.spec.commit_us) + spread_us) * US_NS;
        // Batches that wait share the next flush (group commit), so that a queue costs one commit, not many.
        let at_ns = (now_ns + took_ns).max(self.free_ns);
        self.free_ns = at_ns;
        if self.draw.chance_ppm(self.spec.fail_ppm) {
            self.failures += 1;
            return Commit::Failed { at_ns };
        }
        self.under_way.push_back((lsn, ops));
        Commit::Durable { at_ns }
    }

    /// The commit of `lsn` has come to its end: true when it was still under way.
    pub fn finish(&mut self, lsn: Lsn) -> bool {
        let mut done = false;
        while self.under_way.front().is_some_and(|(l, _)| *l <= lsn) {
            let Some((l, ops)) = self.under_way.pop_front() else { break };
            done |= l == lsn;
            self.owed.push_back((l, ops));
        }
        let keep = if self.spec.lying { OWED_MAX } else { 0 };
        while self.owed.len() > keep {
            let Some((l, ops)) = self.owed.pop_front() else { break };
            self.journal.apply(l, ops);
        }
        done
    }

    /// The power goes. The batch being written made it or did not; the rest did not.
    pub fn crash(&mut self) {
        if !self.spec.lying
            && self.draw.chance_ppm(500_000)
            && let Some((lsn, ops)) = self.under_way.pop_front()
        {
            self.journal.apply(lsn, ops);
        }
        self.batches_lost += (self.under_way.len() + self.owed.len()) as u64;
        self.under_way.clear();
        self.owed.clear();
        self.free_ns = 0;
        self.blobs.crash(&mut self.draw);
    }

    /// An orderly end: everything asked for is written.
    pub fn flush(&mut self) {
        for (lsn, ops) in self.owed.drain(..).chain(self.under_way.drain(..)) {
            self.journal.apply(lsn, ops);
        }
        self.free_ns = 0;
    }

    /// The disk is gone and an empty one is in its place (amnesia).
    pub fn forget(&mut self) {
        self.under_way.clear();
        self.owed.clear();
        self.journal = Journal::new(self.draw.next_u64());
        self.blobs = Blobs::with_depot(self.spec.blob_bytes_max, self.depot.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subject(n: u8) -> Subject {
        Subject::new(Room::Run, &[n])
    }

    fn op(kind: u8, n: u8, record: u8) -> StoreOp {
        let record = Bytes::from(vec![record]);
        match kind % 3 {
            0 => StoreOp::Append { subject: subject(n), record },
            1 => StoreOp::Replace { subject: subject(n), record },
            _ => StoreOp::Forget { subject: subject(n) },
        }
    }

    fn disk(spec: DiskSpec) -> Disk {
        Disk::new(spec, Draw::new(5), Depot::default())
    }

    proptest! {
        #[test]
        fn the_journal_keeps_what_a_list_of_records_would(ops in proptest::collection::vec((0..3u8, 0..4u8, any::<u8>()), 0..60)) {
            let mut journal = Journal::new(1);
            let mut model: Vec<(Subject, u8)> = Vec::new();
            for (n, (kind, s, record)) in ops.into_iter().enumerate() {
                journal.apply(Lsn(n as u64 + 1), vec![op(kind, s, record)]);
                if kind % 3 != 0 {
                    model.retain(|(m, _)| *m != subject(s));
                }
                if kind % 3 != 2 {
                    model.push((subject(s), record));
                }
            }
            let got: Vec<(Subject, u8)> = journal.restore().records.into_iter().map(|r| (r.subject, r.record[0])).collect();
            prop_assert_eq!(got, model);
        }
    }

    #[test]
    fn a_crash_loses_what_was_under_way_and_nothing_else() {
        let (mut before, mut after) = (0, 0);
        for seed in 0..40 {
            let mut disk = Disk::new(DiskSpec::default(), Draw::new(seed), Depot::default());
            for lsn in 1..=4 {
                disk.begin(0, Lsn(lsn), vec![op(0, 1, lsn as u8)]);
            }
            assert!(disk.finish(Lsn(2)), "the second commit brings the first along");
            assert!(!disk.finish(Lsn(2)), "and comes once");
            disk.crash();
            match disk.journal().durable() {
                Lsn(2) => before += 1,
                Lsn(3) => after += 1,
                other => panic!("{other:?}"),
            }
            assert_eq!(disk.journal().len() as u64, disk.journal().durable().0);
        }
        assert!(before > 5 && after > 5, "crashes before ({before}) and after ({after}) the commit");
    }

    #[test]
    fn commits_end_in_the_order_they_began() {
        let mut disk = disk(DiskSpec::default());
        let ends: Vec<u64> = (1..50)
            .map(|lsn| match disk.begin(lsn * 1000, Lsn(lsn), Vec::new()) {
                Commit::Durable { at_ns } => at_ns,
                Commit::Failed { .. } => panic!("this disk does not fail"),
            })
            .collect();
        assert!(ends.is_sorted());
        assert!(ends[48] < 5_000_000, "waiting batches share a flush: {}", ends[48]);
    }

    #[test]
    fn a_lying_disk_forgets_what_it_acknowledged() {
        let mut disk = disk(DiskSpec { lying: true, ..DiskSpec::default() });
        disk.begin(0, Lsn(1), vec![op(0, 1, 1)]);
        assert!(disk.finish(Lsn(1)));
        disk.crash();
        assert_eq!((disk.journal().len(), disk.batches_lost()), (0, 1));
    }
}
