//! Objects that need no room.
//!
//! A thousand machines that send each other objects would hold every object at both ends, gigabytes of bytes that mean
//! nothing. But the objects of a scenario are made by formulas: so many bytes of the keyed BLAKE3 stream of some key. A
//! store that knows the formula of an object keeps the formula, and computes the bytes that are read. The depot is what
//! all stores of a world know in common: which digests have a formula.
//!
//! Nothing becomes easier for a core by it. A store that is being written to holds the bytes it got and hashes them
//! when they are whole; only what has proven to be the very object is then kept as its formula.

use crate::blobs::describe_stream;
use bytes::Bytes;
use remote_network_core::id::Digest;
use remote_network_core::port::BlobInfo;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// `len` bytes of the keyed BLAKE3 stream of `key`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Formula {
    /// The key.
    pub key: [u8; 32],
    /// Where in the stream they begin.
    pub from: u64,
    /// How many bytes.
    pub len: u64,
}

/// Bytes computed at once when a whole object is hashed.
const STEP_BYTES: u64 = 64 * 1024;

impl Formula {
    /// The bytes from `offset` to `end`, cut at the object's end.
    pub fn bytes(&self, offset: u64, end: u64) -> Bytes {
        let end = end.min(self.len);
        let offset = offset.min(end);
        let mut out = vec![0; (end - offset) as usize];
        let mut stream = blake3::Hasher::new_keyed(&self.key).finalize_xof();
        stream.set_position(self.from + offset);
        stream.fill(&mut out);
        Bytes::from(out)
    }

    /// The formula of so many of its bytes, cut at its end.
    pub fn part(&self, offset: u64, len: u64) -> Self {
        let offset = offset.min(self.len);
        Self { key: self.key, from: self.from + offset, len: len.min(self.len - offset) }
    }

    /// All its bytes.
    pub fn all(&self) -> Bytes {
        self.bytes(0, self.len)
    }

    fn describe(&self) -> (Digest, BlobInfo) {
        let steps = (0..self.len).step_by(STEP_BYTES as usize);
        describe_stream(steps.map(|at| self.bytes(at, at + STEP_BYTES)))
    }
}

#[derive(Default)]
struct Known {
    digests: BTreeMap<Formula, Digest>,
    formulas: BTreeMap<Digest, (Formula, BlobInfo)>,
}

/// The formulas that the stores of a world know. Clones know the same.
#[derive(Clone, Default)]
pub struct Depot(Arc<Mutex<Known>>);

impl Depot {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object of a formula, which is known from now on.
    pub fn learn(&self, formula: Formula) -> (Digest, BlobInfo) {
        let mut known = self.known();
        let found = known.digests.get(&formula).copied();
        if let Some((digest, (_, info))) = found.and_then(|d| Some((d, known.formulas.get(&d)?))) {
            return (digest, info.clone());
        }
        let (digest, info) = formula.describe();
        known.digests.insert(formula, digest);
        known.formulas.insert(digest, (formula, info.clone()));
        (digest, info)
    }

    /// The formula of an object, if it is known.
    pub fn formula(&self, digest: &Digest) -> Option<Formula> {
        self.known().formulas.get(digest).map(|(formula, _)| *formula)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::describe;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_part_of_a_formula_is_that_part_of_the_whole(len in 0..200_000u64, a in 0..250_000u64, b in 0..250_000u64) {
            let formula = Formula { key: [7; 32], from: 0, len };
            let all = formula.all();
            prop_assert_eq!(all.len() as u64, len);
            let (from, to) = (a.min(b), a.max(b));
            let cut = |n: u64| n.min(len) as usize;
            prop_assert_eq!(formula.bytes(from, to), all.slice(cut(from)..cut(to)));
            prop_assert_eq!(formula.part(from, to - from).all(), all.slice(cut(from)..cut(to)));
        }
    }

    #[test]
    fn a_formula_is_known_by_the_digest_of_its_bytes() {
        let depot = Depot::default();
        for len in [0, 1, 65_536, 300_000, 1_000_000] {
            let formula = Formula { key: [3; 32], from: 0, len };
            let (digest, info) = depot.learn(formula);
            assert_eq!((digest, &info), (Digest::of(&formula.all()), &describe(&formula.all())));
            assert_eq!(depot.learn(formula), (digest, info));
            assert_eq!(depot.clone().formula(&digest), Some(formula));
        }
        assert_eq!(depot.formula(&Digest([0; 32])), None);
    }
}
