//! The chain of receipts: each has a number, and names the one before it.
//!
//! No number is used twice. The number of a receipt that is journaled is journaled with it; those of light jobs, of which nothing is
//! journaled, are set aside [`NUMBERS`] at a time before the first of them is used. A crash skips what was set aside, and as
//! nobody knows any more what was signed with it, the next receipt names none before it: a new stretch of the chain begins.

use crate::id::Digest;
use crate::job::held::JobRecord;

/// Under which the last receipt is journaled.
pub(super) const CHAIN_KEY: &[u8] = b"chain";
/// Under which the numbers set aside are.
pub(super) const NUMBERS_KEY: &[u8] = b"numbers";
/// Numbers set aside at once: what one record in so many jobs costs is nothing beside them.
pub(super) const NUMBERS: u64 = 256;

const NONE: Digest = Digest([0; 32]);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    last: u64,
    previous: Digest,
    /// The last one that a record of its own has.
    recorded: (u64, Digest),
    /// Numbers up to this one may have been used without another record.
    aside: u64,
}

impl Default for Chain {
    fn default() -> Self {
        Self { last: 0, previous: NONE, recorded: (0, NONE), aside: 0 }
    }
}

impl Chain {
    /// Number of the next receipt, and the digest of the one before it.
    pub(super) fn next(&self) -> (u64, Digest) {
        (self.last + 1, self.previous)
    }

    /// What must be journaled before the next number is used without a record of its own.
    pub(super) fn set_aside(&self) -> Option<JobRecord> {
        (self.last >= self.aside).then(|| JobRecord::Numbers { upto: self.last + NUMBERS })
    }

    /// A receipt was signed.
    pub(super) fn used(&mut self, seq: u64, digest: Digest) {
        (self.last, self.previous) = (seq, digest);
    }

    /// Applies a record, if it is one of the chain.
    pub(super) fn evolve(&mut self, record: &JobRecord) -> bool {
        match record {
            JobRecord::Chain { seq, digest } => {
                self.recorded = (*seq, *digest);
                self.used(*seq, *digest);
            }
            JobRecord::Numbers { upto } => self.aside = *upto,
            JobRecord::Admitted { .. }
            | JobRecord::Starting { .. }
            | JobRecord::Stopping
            | JobRecord::Sealed { .. }
            | JobRecord::Acked
            | JobRecord::Tombstone { .. } => return false,
        }
        true
    }

    /// After all records: whatever was set aside counts as used.
    pub(super) fn restored(&mut self) {
        (self.last, self.previous) = self.durable();
    }

    /// Where a restart would go on.
    pub(super) fn durable(&self) -> (u64, Digest) {
        if self.aside > self.recorded.0 { (self.aside, NONE) } else { self.recorded }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_used_twice_whatever_a_crash_forgets() {
        let mut chain = Chain::default();
        let record = chain.set_aside().unwrap();
        assert_eq!(record, JobRecord::Numbers { upto: NUMBERS });
        chain.evolve(&record);
        for seq in 1..=NUMBERS {
            assert_eq!(chain.next().0, seq);
            let mut again = Chain::default();
            again.evolve(&record);
            again.restored();
            assert_eq!(again.next(), (NUMBERS + 1, NONE), "a crash before the next record");
            assert_eq!(chain.set_aside(), None);
            chain.used(seq, Digest([1; 32]));
        }
        assert_eq!(chain.set_aside(), Some(JobRecord::Numbers { upto: 2 * NUMBERS }));
    }

    #[test]
    fn a_receipt_of_a_journaled_job_has_its_record_and_is_named_by_the_next() {
        let mut chain = Chain::default();
        chain.evolve(&JobRecord::Chain { seq: 1, digest: Digest([1; 32]) });
        assert_eq!((chain.next(), chain.durable()), ((2, Digest([1; 32])), (1, Digest([1; 32]))));
        chain.evolve(&JobRecord::Numbers { upto: 257 });
        chain.evolve(&JobRecord::Chain { seq: 2, digest: Digest([2; 32]) });
        assert_eq!(chain.next(), (3, Digest([2; 32])));
        assert_eq!(chain.durable(), (257, NONE), "light receipts may have followed");
        chain.restored();
        assert_eq!((chain.next(), chain.durable()), ((258, NONE), (257, NONE)));
    }
}
