//! A fast keyed folding of bytes into 128 bits, for the trace and for the null session's packet tags.
//!
//! Each 16 bytes cost two multiplications of 64 bits whose halves are joined, several gigabytes a second; a
//! cryptographic hash would cost a quarter of the simulation. It resists nobody who knows the key. It changes with every
//! bit and is the same in every process and on every platform.

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xa076_1d64_78bd_642f;

/// The state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fold {
    a: u64,
    b: u64,
}

const fn multiply(x: u64, y: u64) -> u64 {
    let wide = x as u128 * y as u128;
    (wide as u64) ^ (wide >> 64) as u64
}

impl Default for Fold {
    fn default() -> Self {
        Self { a: K0, b: K1 }
    }
}

impl Fold {
    /// A folding with a key of its own.
    pub const fn keyed(key: [u64; 2]) -> Self {
        Self { a: key[0] ^ K0, b: key[1] ^ K1 }
    }

    /// Folds in two words.
    pub fn words(&mut self, x: u64, y: u64) {
        // `| 1` keeps a zero factor from swallowing the state.
        let a = multiply(self.a ^ x, (K0 ^ y) | 1).wrapping_add(self.b);
        self.b = multiply(self.b ^ y, (K1 ^ x) | 1) ^ self.a.rotate_left(23);
        self.a = a;
    }

    /// Folds in bytes and their length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<16>();
        for chunk in chunks {
            let wide = u128::from_le_bytes(*chunk);
            self.words(wide as u64, (wide >> 64) as u64);
        }
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        let wide = u128::from_le_bytes(last);
        self.words(wide as u64 ^ (bytes.len() as u64).wrapping_mul(K1), (wide >> 64) as u64);
    }

    /// The folded value.
    pub fn value(&self) -> u128 {
        let mut end = *self;
        end.words(K1, K0);
        end.words(K0, K1);
        u128::from(end.a) << 64 | u128::from(end.b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_changed_bit_or_byte_of_length_changes_the_value(
            bytes in proptest::collection::vec(any::<u8>(), 1..100), at in any::<prop::sample::Index>(), bit in 0..8u8,
        ) {
            let value = |bytes: &[u8]| {
                let mut f = Fold::keyed([1, 2]);
                f.bytes(bytes);
                f.value()
            };
            let mut changed = bytes.clone();
            changed[at.index(bytes.len())] ^= 1 << bit;
            prop_assert_ne!(value(&bytes), value(&changed));
            let mut longer = bytes.clone();
            longer.push(0);
            prop_assert_ne!(value(&bytes), value(&longer));
            let mut other = Fold::keyed([1, 3]);
            other.bytes(&bytes);
            prop_assert_ne!(value(&bytes), other.value());
        }
    }
}
