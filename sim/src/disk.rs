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

use crate::draw::Draw;
use bytes::Bytes;
use remote_network_core::id::{Digest, Lsn};
use remote_network_core::node::Journal as Restored;
use remote_network_core::port::{BlobAnswer, BlobFailed, BlobInfo, BlobRequest};
use remote_network_core::store::{StoreOp, StoredRecord, Subject};
use remote_network_core::transfer::tree::{PIECE_VALUE_BYTES, PieceHasher};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

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

/// The journal as it is on the platters.
pub struct Journal {
    id: u64,
    records: BTreeMap<u64, StoredRecord>,
    by_subject: BTreeMap<Subject, Vec<u64>>,
    next: u64,
    durable: Lsn,
}

impl Journal {
    /// An empty journal with the id it will always have.
    pub fn new(id: u64) -> Self {
        let (records, by_subject) = (BTreeMap::new(), BTreeMap::new());
        Self { id, records, by_subject, next: 0, durable: Lsn(0) }
    }

    /// Applies one batch.
    pub fn apply(&mut self, lsn: Lsn, ops: Vec<StoreOp>) {
        for op in ops {
            match op {
                StoreOp::Append { subject, record } => self.append(lsn, subject, record),
                StoreOp::Replace { subject, record } => {
                    self.forget(&subject);
                    self.append(lsn, subject, record);
                }
                StoreOp::Forget { subject } => self.forget(&subject),
            }
        }
        self.durable = self.durable.max(lsn);
    }

    fn append(&mut self, lsn: Lsn, subject: Subject, record: Bytes) {
        let place = self.next;
        self.next += 1;
        // The record must not keep a larger buffer alive that it was cut from.
        let record = Bytes::copy_from_slice(&record);
        self.by_subject.entry(subject.clone()).or_default().push(place);
        self.records.insert(place, StoredRecord { lsn, subject, record });
    }

    fn forget(&mut self, subject: &Subject) {
        for place in self.by_subject.remove(subject).unwrap_or_default() {
            self.records.remove(&place);
        }
    }

    /// Everything durable: what a core is restored from.
    pub fn restore(&self) -> Restored {
        Restored { id: self.id, last: self.durable, records: self.records.values().cloned().collect() }
    }

    /// Records kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The last durable batch.
    pub fn durable(&self) -> Lsn {
        self.durable
    }
}

enum Object {
    Whole { bytes: Bytes, info: BlobInfo, damaged: bool },
    Partial { info: BlobInfo, pieces: BTreeMap<u32, Bytes> },
}

/// The content-addressed objects of one host.
#[derive(Default)]
pub struct Blobs {
    objects: BTreeMap<Digest, Object>,
    bytes: u64,
    bytes_max: u64,
}

impl Blobs {
    /// An empty store for so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { objects: BTreeMap::new(), bytes: 0, bytes_max }
    }

    /// Puts a whole object there, as an engine or an importing user does.
    pub fn put(&mut self, bytes: Bytes) -> Result<(Digest, BlobInfo), BlobFailed> {
        let digest = Digest::of(&bytes);
        if let Some(Object::Whole { info, damaged: false, .. }) = self.objects.get(&digest) {
            return Ok((digest, info.clone()));
        }
        self.drop_object(&digest);
        self.take(bytes.len() as u64)?;
        let info = describe(&bytes);
        self.objects.insert(digest, Object::Whole { bytes, info: info.clone(), damaged: false });
        Ok((digest, info))
    }

    /// The bytes of a whole, undamaged object.
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        match self.objects.get(digest) {
            Some(Object::Whole { bytes, damaged: false, .. }) => Some(bytes.clone()),
            Some(Object::Whole { .. } | Object::Partial { .. }) | None => None,
        }
    }

    /// Bytes kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Changes how many bytes fit; what is there stays.
    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Damages the `nth` whole object (counted around), as a rotting disk does; reading it fails from now on.
    pub fn damage(&mut self, nth: u64) -> Option<Digest> {
        let whole = self.objects.iter_mut().filter_map(|(d, o)| match o {
            Object::Whole { damaged, .. } => Some((d, damaged)),
            Object::Partial { .. } => None,
        });
        let mut whole: Vec<_> = whole.collect();
        let len = whole.len() as u64;
        let (digest, damaged) = whole.get_mut((nth % len.max(1)) as usize)?;
        **damaged = true;
        Some(**digest)
    }

    /// A crash: unsealed pieces survive by a coin each.
    pub fn crash(&mut self, draw: &mut Draw) {
        for object in self.objects.values_mut() {
            if let Object::Partial { pieces, .. } = object {
                pieces.retain(|_, bytes| {
                    let kept = draw.chance_ppm(500_000);
                    if !kept {
                        self.bytes -= bytes.len() as u64;
                    }
                    kept
                });
            }
        }
    }

    /// Does what a core asks.
    pub fn answer(&mut self, request: BlobRequest) -> Result<BlobAnswer, BlobFailed> {
        match request {
            BlobRequest::Open { digest } => match self.objects.get(&digest) {
                Some(Object::Whole { info, damaged: false, .. }) => Ok(BlobAnswer::Info(info.clone())),
                Some(Object::Whole { .. }) => Err(BlobFailed::Corrupt),
                Some(Object::Partial { .. }) | None => Err(BlobFailed::NotFound),
            },
            BlobRequest::Read { digest, offset, len } => self.read(&digest, offset, len),
            BlobRequest::Create { digest, info } => self.create(digest, info),
            BlobRequest::Write { digest, piece, bytes } => self.write(&digest, piece, &bytes),
            BlobRequest::Seal { digest } => self.seal(&digest),
            BlobRequest::Remove { digest } => {
                self.drop_object(&digest);
                Ok(BlobAnswer::Removed)
            }
        }
    }

    fn take(&mut self, bytes: u64) -> Result<(), BlobFailed> {
        if self.bytes.saturating_add(bytes) > self.bytes_max {
            return Err(BlobFailed::Full);
        }
        self.bytes += bytes;
        Ok(())
    }

    fn drop_object(&mut self, digest: &Digest) {
        self.bytes -= match self.objects.remove(digest) {
            Some(Object::Whole { bytes, .. }) => bytes.len() as u64,
            Some(Object::Partial { pieces, .. }) => pieces.values().map(|p| p.len() as u64).sum(),
            None => 0,
        };
    }

    fn read(&self, digest: &Digest, offset: u64, len: u32) -> Result<BlobAnswer, BlobFailed> {
        match self.objects.get(digest) {
            Some(Object::Whole { damaged: true, .. }) => Err(BlobFailed::Corrupt),
            Some(Object::Whole { bytes, .. }) => {
                let end = offset.saturating_add(u64::from(len));
                if end > bytes.len() as u64 {
                    return Err(BlobFailed::Io(format!("{offset}+{len} is beyond the end {}", bytes.len())));
                }
                Ok(BlobAnswer::Bytes(bytes.slice(offset as usize..end as usize)))
            }
            Some(Object::Partial { .. }) | None => Err(BlobFailed::NotFound),
        }
    }

    fn create(&mut self, digest: Digest, info: BlobInfo) -> Result<BlobAnswer, BlobFailed> {
        match self.objects.get(&digest) {
            Some(Object::Whole { info, damaged: false, .. }) => return Ok(BlobAnswer::Info(info.clone())),
            Some(Object::Partial { info: known, pieces }) if *known == info => {
                return Ok(BlobAnswer::Partial { have: bits(&info, pieces) });
            }
            Some(_) => self.drop_object(&digest),
            None => {}
        }
        let room = self.bytes_max.saturating_sub(self.bytes);
        if info.len > room {
            return Err(BlobFailed::Full);
        }
        let have = bits(&info, &BTreeMap::new());
        self.objects.insert(digest, Object::Partial { info, pieces: BTreeMap::new() });
        Ok(BlobAnswer::Partial { have })
    }

    fn write(&mut self, digest: &Digest, piece: u32, parts: &[Bytes]) -> Result<BlobAnswer, BlobFailed> {
        let len: u64 = parts.iter().map(|p| p.len() as u64).sum();
        match self.objects.get(digest) {
            Some(Object::Partial { pieces, .. }) if !pieces.contains_key(&piece) => self.take(len)?,
            Some(Object::Partial { .. } | Object::Whole { .. }) => return Ok(BlobAnswer::Written),
            None => return Err(BlobFailed::NotFound),
        }
        if let Some(Object::Partial { pieces, .. }) = self.objects.get_mut(digest) {
            pieces.insert(piece, Bytes::from(parts.concat()));
        }
        Ok(BlobAnswer::Written)
    }

    fn seal(&mut self, digest: &Digest) -> Result<BlobAnswer, BlobFailed> {
        let Some(Object::Partial { pieces, .. }) = self.objects.get(digest) else {
            return match self.objects.get(digest) {
                Some(_) => Ok(BlobAnswer::Sealed),
                None => Err(BlobFailed::NotFound),
            };
        };
        let bytes = match pieces.len() {
            1 => pieces.values().next().cloned().unwrap_or_default(),
            _ => Bytes::from(pieces.values().map(|p| &p[..]).collect::<Vec<_>>().concat()),
        };
        // The store checks what it makes whole: an object that is not what its name says never gets in.
        if Digest::of(&bytes) != *digest {
            self.drop_object(digest);
            return Err(BlobFailed::Corrupt);
        }
        let info = describe(&bytes);
        self.objects.insert(*digest, Object::Whole { bytes, info, damaged: false });
        Ok(BlobAnswer::Sealed)
    }
}

fn bits(info: &BlobInfo, pieces: &BTreeMap<u32, Bytes>) -> Vec<u8> {
    let count = info.pieces.len() / PIECE_VALUE_BYTES;
    let mut have = vec![0u8; count.div_ceil(8)];
    for piece in pieces.keys() {
        if let Some(byte) = have.get_mut(*piece as usize / 8) {
            *byte |= 1 << (piece % 8);
        }
    }
    have
}

/// A host's disk.
pub struct Disk {
    /// How good it is.
    pub spec: DiskSpec,
    /// The objects.
    pub blobs: Blobs,
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
    pub fn new(spec: DiskSpec, mut draw: Draw) -> Self {
        Self {
            spec,
            blobs: Blobs::new(spec.blob_bytes_max),
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
        self.blobs = Blobs::new(self.spec.blob_bytes_max);
    }
}

/// Length and pieces of an object, as the core's tree cuts it.
pub fn describe(bytes: &[u8]) -> BlobInfo {
    let mut hasher = PieceHasher::new();
    hasher.update(bytes);
    hasher.finish().1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use remote_network_core::store::Room;

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
        Disk::new(spec, Draw::new(5))
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
            let mut disk = Disk::new(DiskSpec::default(), Draw::new(seed));
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

    #[test]
    fn a_full_or_rotting_disk_says_so() {
        let mut blobs = Blobs::new(1000);
        let (digest, info) = blobs.put(Bytes::from(vec![1; 600])).unwrap();
        assert_eq!(blobs.put(Bytes::from(vec![2; 600])), Err(BlobFailed::Full));
        assert_eq!(
            blobs
                .answer(BlobRequest::Create { digest: Digest([9; 32]), info: BlobInfo { len: 401, ..info } }),
            Err(BlobFailed::Full)
        );
        assert_eq!(blobs.damage(17), Some(digest));
        assert_eq!(blobs.answer(BlobRequest::Open { digest }), Err(BlobFailed::Corrupt));
        assert_eq!(blobs.answer(BlobRequest::Remove { digest }), Ok(BlobAnswer::Removed));
        assert_eq!(blobs.answer(BlobRequest::Open { digest }), Err(BlobFailed::NotFound));
        assert_eq!(blobs.bytes(), 0);
    }
}
