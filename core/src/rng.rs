//! The one source of randomness: a seeded, portable generator (ChaCha8) per node.
//!
//! The seed comes in from outside. A machine that needs a stream of its own derives a child by label, so that adding a
//! draw in one machine does not shift the draws of another.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use std::time::Duration;

/// A seeded generator. Equal seeds give equal draws on every platform.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// A generator from a 32-byte seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// A generator derived from `seed` for the purpose named by `label`.
    pub fn derive(seed: &[u8; 32], label: &str) -> Self {
        Self::from_seed(derive_seed(seed, label))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
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
        self.0.fill_bytes(&mut out);
        out
    }

    /// Fills `out` with random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
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
