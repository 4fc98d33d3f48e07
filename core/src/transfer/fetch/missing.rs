//! Pieces not yet handed to the store: one bit each, 8 KiB for the longest object.

/// The pieces that are missing.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    words: Vec<u64>,
    left: u32,
}

impl Missing {
    /// All of so many pieces.
    pub(super) fn all(count: u32) -> Self {
        let mut words = vec![u64::MAX; count.div_ceil(64) as usize];
        if let Some(last) = words.last_mut().filter(|_| !count.is_multiple_of(64)) {
            *last = (1 << (count % 64)) - 1;
        }
        Self { words, left: count }
    }

    /// True when it was missing until now.
    pub(super) fn remove(&mut self, piece: u32) -> bool {
        let Some(word) = self.words.get_mut(piece as usize / 64) else { return false };
        let bit = 1 << (piece % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        self.left -= u32::from(was);
        was
    }

    /// It is missing again.
    pub(super) fn insert(&mut self, piece: u32) {
        if let Some(word) = self.words.get_mut(piece as usize / 64) {
            let bit = 1 << (piece % 64);
            self.left += u32::from(*word & bit == 0);
            *word |= bit;
        }
    }

    /// Whether it is missing.
    pub(super) fn contains(&self, piece: u32) -> bool {
        self.words.get(piece as usize / 64).is_some_and(|word| word >> (piece % 64) & 1 == 1)
    }

    /// How many.
    pub(super) fn left(&self) -> u32 {
        self.left
    }

    /// They, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().zip(0u32..).flat_map(|(word, i)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(i * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Missing;

    #[test]
    fn pieces_are_missing_until_they_are_removed_once() {
        for count in [0, 1, 63, 64, 65, 128, 200] {
            let mut missing = Missing::all(count);
            assert_eq!(missing.iter().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            for piece in (0..count).step_by(3) {
                assert!(missing.remove(piece));
                assert!(!missing.remove(piece), "only once");
            }
            assert!(!missing.remove(count) && !missing.remove(u32::MAX), "there is no such piece");
            let left: Vec<u32> = (0..count).filter(|p| p % 3 > 0).collect();
            assert_eq!((missing.left() as usize, missing.iter().collect::<Vec<_>>()), (left.len(), left));
            (0..count).step_by(3).for_each(|piece| missing.insert(piece));
            (0..count).step_by(2).for_each(|piece| missing.insert(piece));
            assert_eq!(missing.iter().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            assert_eq!(missing.left(), count);
        }
    }
}
