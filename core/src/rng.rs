//! The one source of randomness: a seeded, portable generator (ChaCha8) per node.
//!
//! The seed comes in from outside. A machine that needs a stream of its own derives a child by label, so that adding a
//! draw in one machine does not shift the draws of another.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use std::fmt;
use std::time::Duration;

/// A seeded generator. Equal seeds give equal draws on every platform.
///
/// It is a place in a stream: the words around the place are computed when they are drawn. A generator that keeps a
/// buffer of them takes 320 bytes, a node has a dozen, and each draws seldom.
#[derive(Clone)]
pub struct Rng {
    seed: [u8; 32],
    word: u64,
}

impl fmt::Debug for Rng {
    /// The seed is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rng").field("word", &self.word).finish_non_exhaustive()
    }
}

impl Rng {
    /// A generator from a 32-byte seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { seed, word: 0 }
    }

    fn draw<R>(&mut self, f: impl FnOnce(&mut ChaCha8Rng) -> R) -> R {
        let mut stream = ChaCha8Rng::from_seed(self.seed);
        stream.set_word_pos(self.word.into());
        let drawn = f(&mut stream);
        // Nobody lives to draw 2^64 words.
        self.word = stream.get_word_pos() as u64;
        drawn
    }

    /// A generator derived from `seed` for the purpose named by `label`.
    pub fn derive(seed: &[u8; 32], label: &str) -> Self {
        Self::from_seed(derive_seed(seed, label))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.draw(|stream| stream.next_u64())
    }

    /// A uniform number in `0..bound` (`0` when `bound` is 0), by Lemire's multiplication (bias < 2^-32 for small bounds).
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True with probability `per_million` / 1,000,000.
    pub fn chance_ppm(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < u64::from(per_million)
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// Fills `out` with random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        self.draw(|stream| stream.fill_bytes(out));
    }

    /// `base` changed by a uniform factor of 1 ± `percent` / 100.
    pub fn jitter(&mut self, base: Duration, percent: u32) -> Duration {
        let nanos = u64::try_from(base.as_nanos()).unwrap_or(u64::MAX);
        let span = nanos / 100 * u64::from(percent.min(100));
        Duration::from_nanos(nanos - span + self.below(span.saturating_mul(2).saturating_add(1)))
    }
}

/// A 32-byte seed for the purpose named by `label`, derived from `seed` (BLAKE3 key derivation).
pub fn derive_seed(seed: &[u8; 32], label: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(seed);
    hasher.update(b"remote-network seed ");
    hasher.update(label.as_bytes());
    *hasher.finalize().as_bytes()
}
