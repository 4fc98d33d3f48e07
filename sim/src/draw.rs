//! The world's own dice: many small, cheap, independent streams.
//!
//! Every host and every part of the world draws from a stream of its own, derived by label from the run's seed, so
//! that dropping a host or a fault from a plan (shrinking) does not shift the draws of the others. A stream is eight
//! bytes (SplitMix64, Steele et al. 2014): integers only, the same on every platform. Nothing secret comes from here;
//! the cores get their own seeds.

/// A stream of draws.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Draw(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A fixed scrambling of two numbers: a draw without a state, for things that must be the same whenever they are asked.
pub const fn scramble(a: u64, b: u64) -> u64 {
    mix(mix(a.wrapping_add(GOLDEN)) ^ b.wrapping_mul(GOLDEN))
}

impl Draw {
    /// The stream of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed.wrapping_add(GOLDEN)))
    }

    /// A stream of its own for the purpose `label` and the thing `index`.
    pub fn derive(seed: u64, label: &str, index: u64) -> Self {
        let mut state = scramble(seed, index);
        for byte in label.bytes() {
            state = scramble(state, u64::from(byte));
        }
        Self(state)
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A uniform number in `0..bound`, 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A uniform number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low.saturating_add(self.below(high.saturating_sub(low).saturating_add(1)))
    }

    /// True `per_million` times in a million. Draws nothing when the answer is certain.
    pub fn chance_ppm(&mut self, per_million: u32) -> bool {
        match per_million {
            0 => false,
            1_000_000.. => true,
            p => self.below(1_000_000) < u64::from(p),
        }
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    /// 32 random bytes: the seed of a core.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut out = [0; 32];
        for chunk in out.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes());
        }
        out
    }
}

/// A distribution by its quantiles: `(per mille, value)` in rising order, straight lines between. Integers only, so
/// that a draw is the same on every platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quantiles(pub &'static [(u32, u64)]);

impl Quantiles {
    /// The value at `per_mille`.
    pub fn at(&self, per_mille: u32) -> u64 {
        let mut below = match self.0.first() {
            Some(first) => *first,
            None => return 0,
        };
        for &(q, value) in self.0 {
            if q >= per_mille {
                let (span, step) = (u64::from(q - below.0), u64::from(per_mille.saturating_sub(below.0)));
                let rise = (value.saturating_sub(below.1) * step).checked_div(span);
                return rise.map_or(value, |rise| below.1 + rise);
            }
            below = (q, value);
        }
        below.1
    }

    /// A draw.
    pub fn draw(&self, draw: &mut Draw) -> u64 {
        self.at(draw.below(1000) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_labels_draw_equally_and_others_differently() {
        let a: Vec<u64> = (0..4).map(|_| Draw::derive(1, "net", 7).next_u64()).collect();
        assert!(a.windows(2).all(|w| w[0] == w[1]));
        assert_ne!(Draw::derive(1, "net", 7), Draw::derive(1, "net", 8));
        assert_ne!(Draw::derive(1, "net", 7), Draw::derive(1, "dht", 7));
        assert_ne!(Draw::derive(1, "net", 7), Draw::derive(2, "net", 7));
    }

    #[test]
    fn a_chance_comes_as_often_as_it_says() {
        let mut d = Draw::new(3);
        let hits = (0..100_000).filter(|_| d.chance_ppm(20_000)).count();
        assert!((1_800..2_200).contains(&hits), "{hits} of 100,000 at 2 %");
        assert!(!d.chance_ppm(0) && d.chance_ppm(1_000_000));
    }

    #[test]
    fn quantiles_are_met_and_joined_by_straight_lines() {
        let q = Quantiles(&[(0, 100), (500, 200), (1000, 1200)]);
        assert_eq!((q.at(0), q.at(250), q.at(500), q.at(750), q.at(1000)), (100, 150, 200, 700, 1200));
        let mut d = Draw::new(9);
        let mut draws: Vec<u64> = (0..10_001).map(|_| q.draw(&mut d)).collect();
        draws.sort_unstable();
        assert!((190..210).contains(&draws[5_000]), "median {}", draws[5_000]);
    }
}
