//! The trace: one number that says whether two runs were the same run.
//!
//! Everything that crosses the border of a core (datagrams in and out, events, actions, restarts) is folded into a
//! 128-bit state as (time, host, kind, bytes). The folding is a keyed multiply, several gigabytes a second, because a
//! cryptographic hash would cost a quarter of the simulation. It is not meant to resist anybody; it is meant to change
//! when a single bit changes, and to be the same in every process and on every platform.

use std::fmt;

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xa076_1d64_78bd_642f;

/// What is folded into the trace. The numbers are part of the hash: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A datagram left a host.
    Sent = 1,
    /// A datagram reached a host.
    Received = 2,
    /// A core was woken by its timer.
    Timer = 3,
    /// A port answered.
    Answer = 4,
    /// A core asked for something.
    Action = 5,
    /// A host started, with what its disk gave back.
    Started = 6,
    /// A host went down.
    Down = 7,
    /// A command was given.
    Command = 8,
}

/// The running hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trace {
    a: u64,
    b: u64,
    steps: u64,
}

/// A finished hash, shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceHash(pub u128);

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

const fn fold(x: u64, y: u64) -> u64 {
    let wide = x as u128 * y as u128;
    (wide as u64) ^ (wide >> 64) as u64
}

impl Default for Trace {
    fn default() -> Self {
        Self { a: K0, b: K1, steps: 0 }
    }
}

impl Trace {
    /// Folds in one step.
    pub fn step(&mut self, now_ns: u64, host: u32, kind: Kind, bytes: &[u8]) {
        self.steps += 1;
        self.word(now_ns, u64::from(host) << 8 | kind as u64);
        self.bytes(bytes);
    }

    /// Folds in bytes and their length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<16>();
        for chunk in chunks {
            let wide = u128::from_le_bytes(*chunk);
            self.word(wide as u64, (wide >> 64) as u64);
        }
        let (x, y) = rest.split_at(rest.len().min(8));
        self.word(le(x) ^ (bytes.len() as u64).wrapping_mul(K1), le(y));
    }

    fn word(&mut self, x: u64, y: u64) {
        // `| 1` keeps a zero factor from swallowing the state.
        let a = fold(self.a ^ x, (K0 ^ y) | 1).wrapping_add(self.b);
        self.b = fold(self.b ^ y, (K1 ^ x) | 1) ^ self.a.rotate_left(23);
        self.a = a;
    }

    /// Steps folded in.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The hash so far.
    pub fn hash(&self) -> TraceHash {
        let mut end = *self;
        end.word(self.steps, K0);
        end.word(K1, self.steps);
        TraceHash(u128::from(end.a) << 64 | u128::from(end.b))
    }
}

fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Lets anything that can be written be folded in without building a string.
impl fmt::Write for Trace {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.bytes(s.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_is_the_same_everywhere() {
        let mut t = Trace::default();
        t.step(1_000, 7, Kind::Sent, b"a datagram of some length");
        t.step(2_000, 8, Kind::Received, b"");
        // A change of this number makes all recorded traces useless: it must be meant.
        assert_eq!(t.hash().to_string(), PINNED);
    }

    const PINNED: &str = "";

    proptest! {
        #[test]
        fn one_changed_bit_changes_the_hash(
            bytes in proptest::collection::vec(any::<u8>(), 1..100), at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            let (mut one, mut other) = (Trace::default(), Trace::default());
            one.step(5, 1, Kind::Sent, &bytes);
            let mut changed = bytes.clone();
            changed[at.index(bytes.len())] ^= 1 << bit;
            other.step(5, 1, Kind::Sent, &changed);
            prop_assert_ne!(one.hash(), other.hash());
        }

        #[test]
        fn where_bytes_are_cut_matters(bytes in proptest::collection::vec(any::<u8>(), 2..60), at in any::<prop::sample::Index>()) {
            let cut = 1 + at.index(bytes.len() - 1);
            let (mut one, mut other) = (Trace::default(), Trace::default());
            one.step(5, 1, Kind::Sent, &bytes);
            other.step(5, 1, Kind::Sent, &bytes[..cut]);
            other.bytes(&bytes[cut..]);
            prop_assert_ne!(one.hash(), other.hash());
        }
    }
}
