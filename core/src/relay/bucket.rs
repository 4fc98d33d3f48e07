//! A token bucket: so many a second, and so many at once.

use crate::time::{Duration, Instant};

/// Tokens are held in parts of a billion, so that no rate is rounded: one token a second comes as one part a nanosecond.
const PARTS: i128 = 1_000_000_000;

/// Fills with `rate` tokens a second up to `burst`. Rate 0 is without limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    rate: u64,
    burst: u64,
    parts: i128,
    at: Instant,
}

impl Bucket {
    /// Full.
    pub(super) fn new(rate: u64, burst: u64, now: Instant) -> Self {
        Self { rate, burst, parts: i128::from(burst) * PARTS, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let nanos = now.since(self.at).as_nanos();
        let filled = i128::try_from(nanos).unwrap_or(i128::MAX).saturating_mul(self.rate.into());
        self.parts = self.parts.saturating_add(filled).min(i128::from(self.burst) * PARTS);
        self.at = self.at.max(now);
    }

    /// Takes `n` tokens if they are there.
    pub(super) fn take(&mut self, now: Instant, n: u64) -> bool {
        let there = self.has(now, n);
        if there {
            self.spend(n);
        }
        there
    }

    /// Whether `n` tokens are there.
    pub(super) fn has(&mut self, now: Instant, n: u64) -> bool {
        self.fill(now);
        self.rate == 0 || self.parts >= i128::from(n) * PARTS
    }

    /// Takes `n` tokens even if they are not there: what is owed must be filled first.
    pub(super) fn spend(&mut self, n: u64) {
        if self.rate > 0 {
            self.parts -= i128::from(n) * PARTS;
        }
    }

    /// When `n` tokens will be there; `now` when they are.
    pub(super) fn ready(&mut self, now: Instant, n: u64) -> Instant {
        if self.has(now, n) {
            return now;
        }
        let missing = i128::from(n) * PARTS - self.parts;
        let nanos = missing.unsigned_abs().div_ceil(u128::from(self.rate.max(1)));
        now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn it_gives_its_burst_and_then_its_rate_to_the_nanosecond() {
        let mut bucket = Bucket::new(1_000, 10, at(0));
        assert!(bucket.take(at(0), 10) && !bucket.take(at(0), 1));
        assert_eq!(bucket.ready(at(0), 1), at(1));
        assert!(!bucket.take(at(1) - Duration::from_nanos(1), 1) && bucket.take(at(1), 1));
        assert!(bucket.take(at(1_000), 10) && !bucket.take(at(1_000), 1), "no more than the burst is saved");
    }

    #[test]
    fn what_is_owed_is_filled_first_and_rate_zero_is_without_limit() {
        let mut bucket = Bucket::new(1_000, 10, at(0));
        bucket.spend(20);
        assert_eq!(bucket.ready(at(0), 1), at(11));
        let mut free = Bucket::new(0, 0, at(0));
        assert!((0..1_000).all(|_| free.take(at(0), u64::MAX)));
    }
}
