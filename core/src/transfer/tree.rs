//! An object as a row of pieces whose hashes make up its digest.
//!
//! BLAKE3 is a tree: the digest of an object is the root over the **chaining values** of its subtrees. Cut at a power
//! of two, every piece is a complete subtree (the last one may be shorter), so the list of the pieces' chaining values,
//! 32 bytes each, can be checked against the digest before a byte of content arrives, and each piece can be checked
//! against its own value alone. A liar is caught after one piece and not after the whole object, pieces may come from
//! several sources, and what is on disk after a crash can be trusted piece by piece. Nothing but the plain BLAKE3
//! digest has to be known beforehand.
//!
//! | object | pieces |
//! |---|---|
//! | no bytes | no piece, an empty list |
//! | at most one piece | one piece; its value is **the digest itself** (a root is hashed with a flag that a subtree has not) |
//! | more | [`piece_count`] pieces of [`piece_len`] bytes, the last one shorter; values are non-root chaining values |
//!
//! [`PieceHasher`] makes the list while a stream is imported, without knowing its length: it hashes pieces of
//! [`PIECE_BYTES_MIN`] and, when there would be more than [`PIECES_MAX`], merges them in pairs and goes on with pieces of
//! twice the length. Stores and engines use it as well.

use crate::id::Digest;
use crate::limits::{OBJECT_BYTES_MAX, PIECE_BYTES_MIN, PIECES_MAX};
use crate::port::BlobInfo;
use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use bytes::Bytes;
use std::ops::Range;

/// Bytes of one entry of a piece list.
pub const PIECE_VALUE_BYTES: usize = 32;

/// Small inputs are gathered to this size before they are hashed: BLAKE3 hashes 16 chunks of 1 KiB at once where the
/// processor can, and a datagram's worth at a time would use none of that.
pub(super) const BLOCK_BYTES: usize = 16 * 1024;

/// How objects are cut. The product has one way; tests have a smaller one with the same arithmetic.
#[derive(Clone, Copy, Debug)]
struct Cut {
    piece_bytes_min: u64,
    pieces_max: u64,
}

const CUT: Cut = Cut { piece_bytes_min: PIECE_BYTES_MIN, pieces_max: PIECES_MAX };

impl Cut {
    fn piece_len(self, len: u64) -> u64 {
        len.div_ceil(self.pieces_max).next_power_of_two().max(self.piece_bytes_min)
    }
}

/// Length of the pieces of an object of `len` bytes; the last piece may be shorter. A power of two.
pub fn piece_len(len: u64) -> u64 {
    CUT.piece_len(len.min(OBJECT_BYTES_MAX))
}

/// Number of pieces of an object of `len` bytes: at most [`PIECES_MAX`], 0 for an empty object.
pub fn piece_count(len: u64) -> u32 {
    // At most PIECES_MAX by the choice of `piece_len`; lengths over OBJECT_BYTES_MAX are refused before they get here.
    u32::try_from(len.div_ceil(piece_len(len))).unwrap_or(u32::MAX)
}

/// Where piece `piece` of an object of `len` bytes lies; empty for a piece there is not.
pub fn piece_range(len: u64, piece: u32) -> Range<u64> {
    let size = piece_len(len);
    let start = u64::from(piece).saturating_mul(size).min(len);
    start..start.saturating_add(size).min(len)
}

/// Length in bytes of the piece list of an object of `len` bytes.
pub fn list_len(len: u64) -> usize {
    piece_count(len) as usize * PIECE_VALUE_BYTES
}

/// The piece list of an object of at most one piece, which its digest alone gives; `None` for longer ones.
pub fn short_list(digest: &Digest, len: u64) -> Option<Bytes> {
    match piece_count(len) {
        0 => Some(Bytes::new()),
        1 => Some(Bytes::copy_from_slice(digest.as_bytes())),
        _ => None,
    }
}

/// The digest of an object of `len` bytes with these piece values; `None` when the list has the wrong length or the
/// object would be too long.
pub fn root_of(len: u64, pieces: &[u8]) -> Option<Digest> {
    if len > OBJECT_BYTES_MAX {
        return None;
    }
    root_with(CUT, len, pieces)
}

fn root_with(cut: Cut, len: u64, pieces: &[u8]) -> Option<Digest> {
    let size = cut.piece_len(len);
    let (values, rest) = pieces.as_chunks::<PIECE_VALUE_BYTES>();
    if !rest.is_empty() || values.len() as u64 != len.div_ceil(size) {
        return None;
    }
    match values {
        [] => Some(Digest::of(&[])),
        [only] => Some(Digest(*only)),
        [_, _, ..] => {
            let left = left_subtree_len(len);
            let (l, r) = values.split_at_checked(usize::try_from(left / size).ok()?)?;
            let l = subtree(size, left, l)?;
            let r = subtree(size, len - left, r)?;
            Some(Digest(*merge_subtrees_root(&l, &r, Mode::Hash).as_bytes()))
        }
    }
}

/// The chaining value of a subtree of `len` bytes. Recursion is as deep as the tree over [`PIECES_MAX`] leaves: 16.
fn subtree(size: u64, len: u64, values: &[[u8; PIECE_VALUE_BYTES]]) -> Option<ChainingValue> {
    if len <= size {
        return values.first().copied();
    }
    let left = left_subtree_len(len);
    let (l, r) = values.split_at_checked(usize::try_from(left / size).ok()?)?;
    Some(merge_subtrees_non_root(&subtree(size, left, l)?, &subtree(size, len - left, r)?, Mode::Hash))
}

/// Whether `info` can be the length and the piece list of the object `digest`.
///
/// The values are proven, and so is the length up to the last piece: how long that one is, only its bytes can prove,
/// since nothing but they enters the hash. [`PieceCheck`] does: a last piece of another length is never right.
pub fn verify_info(digest: &Digest, info: &BlobInfo) -> bool {
    root_of(info.len, &info.pieces).is_some_and(|root| root == *digest)
}

/// Makes digest, length and piece list of a stream of unknown length, in memory that does not grow with it but for the
/// list itself.
#[derive(Clone, Debug)]
pub struct PieceHasher {
    cut: Cut,
    size: u64,
    /// Values of the pieces that are whole and known not to be the only one.
    done: Vec<ChainingValue>,
    /// The piece being filled. It stays open when it is full, because it may prove to be the last.
    current: Hasher,
    gathered: Vec<u8>,
    /// Bytes of the current piece, the gathered ones included.
    filled: u64,
}

impl Default for PieceHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl PieceHasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::with(CUT)
    }

    fn with(cut: Cut) -> Self {
        let size = cut.piece_bytes_min;
        Self { cut, size, done: Vec::new(), current: Hasher::new(), gathered: Vec::new(), filled: 0 }
    }

    /// Bytes seen.
    pub fn len(&self) -> u64 {
        self.done.len() as u64 * self.size + self.filled
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next bytes of the stream.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == self.size {
                self.begin_piece();
            }
            let room = usize::try_from(self.size - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            gather(&mut self.current, &mut self.gathered, now);
            self.filled += now.len() as u64;
            bytes = later;
        }
    }

    /// Closes the full piece, which now is known to have a successor, and starts that.
    fn begin_piece(&mut self) {
        self.current.update(&self.gathered);
        self.gathered.clear();
        self.done.push(self.current.finalize_non_root());
        if self.done.len() as u64 == self.cut.pieces_max {
            self.done = self
                .done
                .chunks_exact(2)
                .map(|pair| merge_subtrees_non_root(&pair[0], &pair[1], Mode::Hash))
                .collect();
            self.size *= 2;
        }
        self.current = Hasher::new();
        self.current.set_input_offset(self.done.len() as u64 * self.size);
        self.filled = 0;
    }

    /// The digest of all that was seen, and its length and piece list.
    pub fn finish(mut self) -> (Digest, BlobInfo) {
        self.current.update(&self.gathered);
        let len = self.len();
        if self.done.is_empty() {
            let digest = Digest(*self.current.finalize().as_bytes());
            let pieces = if len == 0 { Bytes::new() } else { Bytes::copy_from_slice(digest.as_bytes()) };
            return (digest, BlobInfo { len, pieces });
        }
        self.done.push(self.current.finalize_non_root());
        let pieces = self.done.concat();
        let digest = root_with(self.cut, len, &pieces);
        debug_assert!(digest.is_some(), "the hasher cuts as `piece_len` says");
        (digest.unwrap_or(Digest([0; 32])), BlobInfo { len, pieces: pieces.into() })
    }
}

/// Hashes `bytes` in whole blocks of [`BLOCK_BYTES`] counted from the piece's start; what is left over waits in
/// `gathered`. A block that starts elsewhere would cut BLAKE3's subtrees askew, and its chunks would be hashed one by one.
fn gather(hasher: &mut Hasher, gathered: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes;
    if !gathered.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - gathered.len()));
        gathered.extend_from_slice(now);
        rest = later;
        if gathered.len() < BLOCK_BYTES {
            return;
        }
        hasher.update(gathered);
        gathered.clear();
    }
    let (blocks, left_over) = rest.split_at(rest.len() - rest.len() % BLOCK_BYTES);
    hasher.update(blocks);
    gathered.extend_from_slice(left_over);
}

/// Checks one piece while its bytes arrive, in whatever portions, without joining them.
#[derive(Clone, Debug)]
pub struct PieceCheck {
    hasher: Hasher,
    gathered: Vec<u8>,
    left: u64,
    is_root: bool,
    expected: ChainingValue,
}

/// What has become of a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PieceState {
    /// So many bytes are still to come.
    Wanted(u64),
    /// All bytes came and are right.
    Right,
    /// They are not the piece's bytes, or more of them than it has.
    Wrong,
}

impl PieceCheck {
    /// A check of piece `piece` of the object with this verified length and list; `None` when there is no such piece.
    pub fn new(info: &BlobInfo, piece: u32) -> Option<Self> {
        let (values, _) = info.pieces.as_chunks::<PIECE_VALUE_BYTES>();
        let expected = *values.get(piece as usize)?;
        let range = piece_range(info.len, piece);
        let left = range.end - range.start;
        if left == 0 || info.len > OBJECT_BYTES_MAX {
            return None;
        }
        let mut hasher = Hasher::new();
        if piece > 0 {
            hasher.set_input_offset(range.start);
        }
        Some(Self { hasher, gathered: Vec::new(), left, is_root: piece_count(info.len) == 1, expected })
    }

    /// Bytes still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next bytes. What comes after `Right` or `Wrong` is `Wrong`.
    pub fn update(&mut self, bytes: &[u8]) -> PieceState {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else { return PieceState::Wrong };
        let was_done = self.left == 0;
        self.left = left;
        if was_done {
            return PieceState::Wrong;
        }
        gather(&mut self.hasher, &mut self.gathered, bytes);
        if self.left > 0 {
            return PieceState::Wanted(self.left);
        }
        self.hasher.update(&self.gathered);
        let value = match self.is_root {
            true => *self.hasher.finalize().as_bytes(),
            false => self.hasher.finalize_non_root(),
        };
        if value == self.expected { PieceState::Right } else { PieceState::Wrong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const P: usize = PIECE_BYTES_MIN as usize;
    /// A cut small enough to see objects of many pieces, and pieces that double.
    const SMALL: Cut = Cut { piece_bytes_min: 1024, pieces_max: 8 };

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| ((i / 7) ^ (i.wrapping_mul(2_654_435_761) >> 13)) as u8).collect()
    }

    fn boundary_lengths() -> Vec<usize> {
        let mut lens = vec![0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3072, 5 * 1024 + 3];
        for pieces in 1..=9 {
            lens.extend([pieces * P - 1, pieces * P, pieces * P + 1]);
        }
        lens.push(5 * P + P / 2 + 1);
        lens
    }

    #[test]
    fn every_object_has_its_plain_blake3_digest() {
        for len in boundary_lengths() {
            let bytes = content(len);
            let mut hasher = PieceHasher::new();
            bytes.chunks(60_001).for_each(|part| hasher.update(part));
            let (digest, info) = hasher.finish();
            assert_eq!(digest, Digest::of(&bytes), "{len} bytes");
            assert_eq!(info.len, len as u64);
            assert_eq!(info.pieces.len(), list_len(info.len), "{len} bytes");
            assert!(verify_info(&digest, &info), "{len} bytes");
        }
    }

    #[test]
    fn an_empty_object_has_no_piece_and_a_short_one_is_its_own_list() {
        let (digest, info) = PieceHasher::new().finish();
        assert_eq!((piece_count(0), info.pieces.len()), (0, 0));
        assert_eq!(short_list(&digest, 0), Some(Bytes::new()));
        let mut hasher = PieceHasher::new();
        hasher.update(&content(P));
        let (digest, info) = hasher.finish();
        assert_eq!(short_list(&digest, info.len), Some(info.pieces.clone()));
        assert_eq!(&info.pieces[..], digest.as_bytes());
        assert_eq!(short_list(&digest, P as u64 + 1), None);
    }

    #[test]
    fn pieces_cover_the_object_and_stay_within_the_limits() {
        for len in
            [0, 1, P as u64, P as u64 + 1, 1 << 34, (1 << 34) + 1, (1 << 39) + 12_345, OBJECT_BYTES_MAX]
        {
            let count = piece_count(len);
            assert!(u64::from(count) <= PIECES_MAX, "{len}");
            assert!(piece_len(len).is_power_of_two() && piece_len(len) <= 16 << 20);
            let covered: u64 = (0..count)
                .map(|p| piece_range(len, p))
                .map(|r| {
                    assert!(!r.is_empty());
                    r.end - r.start
                })
                .sum();
            assert_eq!(covered, len);
            assert!(piece_range(len, count).is_empty());
        }
        assert_eq!(piece_len(1 << 34), PIECE_BYTES_MIN);
        assert_eq!(piece_len((1 << 34) + 1), 2 * PIECE_BYTES_MIN);
    }

    #[test]
    fn a_list_of_the_wrong_length_or_content_is_no_list() {
        let bytes = content(3 * P);
        let mut hasher = PieceHasher::new();
        hasher.update(&bytes);
        let (digest, info) = hasher.finish();
        let list = info.pieces.to_vec();
        assert_eq!(root_of(info.len, &list[..64]), None);
        assert_eq!(root_of(info.len, &list[..95]), None);
        assert_eq!(root_of(info.len + 1, &list), None);
        assert_eq!(root_of(u64::MAX, &list), None);
        for i in 0..list.len() {
            let mut wrong = list.clone();
            wrong[i] ^= 1;
            assert_ne!(root_of(info.len, &wrong), Some(digest));
        }
    }

    #[test]
    fn a_wrong_length_that_the_list_cannot_show_makes_the_last_piece_wrong() {
        let bytes = content(2 * P + 777);
        let mut hasher = PieceHasher::new();
        hasher.update(&bytes);
        let (digest, info) = hasher.finish();
        for len in [info.len - 1, info.len + 1] {
            let lie = BlobInfo { len, pieces: info.pieces.clone() };
            assert!(verify_info(&digest, &lie));
            let mut check = PieceCheck::new(&lie, 2).unwrap();
            let last: Vec<u8> =
                bytes[2 * P..].iter().copied().chain([0]).take(check.left() as usize).collect();
            assert_eq!(check.update(&last), PieceState::Wrong);
        }
    }

    #[test]
    fn a_piece_is_right_only_with_its_own_bytes_in_their_order() {
        let bytes = content(2 * P + 777);
        let mut hasher = PieceHasher::new();
        hasher.update(&bytes);
        let (_, info) = hasher.finish();
        for piece in 0..3u32 {
            let range = piece_range(info.len, piece);
            let own = &bytes[range.start as usize..range.end as usize];
            let mut check = PieceCheck::new(&info, piece).unwrap();
            assert_eq!(check.update(&own[..5]), PieceState::Wanted(own.len() as u64 - 5));
            assert_eq!(check.update(&own[5..]), PieceState::Right);
            assert_eq!(check.update(b"x"), PieceState::Wrong);
            let mut flipped = own.to_vec();
            flipped[own.len() / 2] ^= 0x80;
            assert_eq!(PieceCheck::new(&info, piece).unwrap().update(&flipped), PieceState::Wrong);
            let long: Vec<u8> = own.iter().copied().chain([0]).collect();
            assert_eq!(PieceCheck::new(&info, piece).unwrap().update(&long), PieceState::Wrong);
        }
        assert!(PieceCheck::new(&info, 3).is_none());
        assert_eq!(PieceCheck::new(&info, 0).unwrap().update(&bytes[P..2 * P]), PieceState::Wrong);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pieces_double_without_the_digest_noticing(len in 0usize..70_000, step in 1usize..5_000) {
            let bytes = content(len);
            let mut hasher = PieceHasher::with(SMALL);
            bytes.chunks(step).for_each(|part| hasher.update(part));
            let (digest, info) = hasher.finish();
            prop_assert_eq!(digest, Digest::of(&bytes));
            prop_assert_eq!(info.pieces.len() as u64 / 32, info.len.div_ceil(SMALL.piece_len(info.len)));
            prop_assert!(info.pieces.len() as u64 / 32 <= SMALL.pieces_max);
            prop_assert_eq!(root_with(SMALL, info.len, &info.pieces), Some(digest));
        }

        #[test]
        fn no_list_from_outside_panics(len in any::<u64>(), list in proptest::collection::vec(any::<u8>(), 0..300)) {
            let pieces = root_of(len, &list);
            prop_assert!(pieces.is_none() || list.len() == list_len(len));
            let info = BlobInfo { len, pieces: list.into() };
            if let Some(mut check) = PieceCheck::new(&BlobInfo { len: len.min(OBJECT_BYTES_MAX), ..info }, 1) {
                check.update(&[0; 100]);
            }
        }
    }
}
