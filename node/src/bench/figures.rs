//! Percentiles of what was measured.

use std::time::Duration;

/// Durations, to be asked for their percentiles.
#[derive(Clone, Debug, Default)]
pub struct Sample(Vec<u64>);

impl Sample {
    /// Adds one.
    pub fn add(&mut self, took: Duration) {
        self.0.push(micros(took));
    }

    /// The smallest microseconds that `percent` of all are not above; `None` without any.
    pub fn percentile_us(&self, percent: usize) -> Option<u64> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }
}

/// Whole microseconds.
pub fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        assert_eq!(Sample::default().percentile_us(50), None);
        let mut sample = Sample::default();
        for n in (1..=200).rev() {
            sample.add(Duration::from_micros(n));
        }
        assert_eq!((sample.percentile_us(50), sample.percentile_us(99)), (Some(100), Some(198)));
        assert_eq!((sample.percentile_us(0), sample.percentile_us(100)), (Some(1), Some(200)));
    }
}
