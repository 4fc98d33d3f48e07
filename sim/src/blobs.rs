//! The content-addressed objects of one host, as the product's store keeps them: whole ones, and partial ones that are
//! being written piece by piece.
//!
//! Objects that a formula makes are kept as the formula ([`crate::depot`]): a whole one once it is proven, a piece once its
//! bytes are the formula's. A piece with other bytes is kept as it came, to fail as it would fail.

use crate::depot::{Depot, Formula};
use crate::draw::Draw;
use bytes::Bytes;
use remote_network_core::few::Few;
use remote_network_core::id::Digest;
use remote_network_core::port::{BlobAnswer, BlobFailed, BlobInfo, BlobRequest};
use remote_network_core::transfer::tree::{PIECE_VALUE_BYTES, PieceHasher, piece_len};
use std::collections::BTreeMap;

/// Where an object's bytes are.
enum Content {
    Held(Bytes),
    Formula(Formula),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Content::Held(bytes) => bytes.len() as u64,
            Content::Formula(formula) => formula.len,
        }
    }

    /// Bytes of it; both ends lie within.
    fn bytes(&self, offset: u64, end: u64) -> Bytes {
        match self {
            Content::Held(bytes) => bytes.slice(offset as usize..end as usize),
            Content::Formula(formula) => formula.bytes(offset, end),
        }
    }
}

enum Object {
    Whole { content: Content, info: BlobInfo, damaged: bool },
    Partial { info: BlobInfo, pieces: BTreeMap<u32, Content> },
}

/// The content-addressed objects of one host.
#[derive(Default)]
pub struct Blobs {
    objects: Few<Digest, Object>,
    bytes: u64,
    bytes_max: u64,
    depot: Depot,
}

impl Blobs {
    /// An empty store for so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self::with_depot(bytes_max, Depot::default())
    }

    /// An empty store for so many bytes in a world that knows these formulas.
    pub fn with_depot(bytes_max: u64, depot: Depot) -> Self {
        Self { objects: Few::new(), bytes: 0, bytes_max, depot }
    }

    /// Puts a whole object there, as an engine or an importing user does.
    pub fn put(&mut self, bytes: Bytes) -> Result<(Digest, BlobInfo), BlobFailed> {
        let (digest, info) = describe_stream([bytes.clone()]);
        let content = self.content(&digest, || bytes);
        self.insert(digest, content, info)
    }

    /// Puts the object of a formula there, which takes no room in memory, though it does on the disk.
    pub fn put_formula(&mut self, formula: Formula) -> Result<(Digest, BlobInfo), BlobFailed> {
        let (digest, info) = self.depot.learn(formula);
        self.insert(digest, Content::Formula(formula), info)
    }

    fn insert(
        &mut self,
        digest: Digest,
        content: Content,
        info: BlobInfo,
    ) -> Result<(Digest, BlobInfo), BlobFailed> {
        if !self.holds(&digest) {
            self.drop_object(&digest);
            self.take(content.len())?;
            self.objects.insert(digest, Object::Whole { content, info: info.clone(), damaged: false });
        }
        Ok((digest, info))
    }

    fn content(&self, digest: &Digest, bytes: impl FnOnce() -> Bytes) -> Content {
        match self.depot.formula(digest) {
            Some(formula) => Content::Formula(formula),
            None => Content::Held(bytes()),
        }
    }

    /// Whether an object is there, whole and undamaged.
    pub fn holds(&self, digest: &Digest) -> bool {
        matches!(self.objects.get(digest), Some(Object::Whole { damaged: false, .. }))
    }

    /// The bytes of a whole, undamaged object.
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        match self.objects.get(digest) {
            Some(Object::Whole { content, damaged: false, .. }) => Some(content.bytes(0, content.len())),
            Some(Object::Whole { .. } | Object::Partial { .. }) | None => None,
        }
    }

    /// Bytes kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Changes how many bytes fit; what is there stays.
    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Damages the `nth` whole object (counted around), as a rotting disk does; reading it fails from now on.
    pub fn damage(&mut self, nth: u64) -> Option<Digest> {
        let whole = self.objects.iter_mut().filter_map(|(d, o)| match o {
            Object::Whole { damaged, .. } => Some((d, damaged)),
            Object::Partial { .. } => None,
        });
        let mut whole: Vec<_> = whole.collect();
        let len = whole.len() as u64;
        let (digest, damaged) = whole.get_mut((nth % len.max(1)) as usize)?;
        **damaged = true;
        Some(**digest)
    }

    /// A crash: unsealed pieces survive by a coin each.
    pub fn crash(&mut self, draw: &mut Draw) {
        for object in self.objects.values_mut() {
            if let Object::Partial { pieces, .. } = object {
                pieces.retain(|_, bytes| {
                    let kept = draw.chance_ppm(500_000);
                    if !kept {
                        self.bytes -= bytes.len();
                    }
                    kept
                });
            }
        }
    }

    /// Does what a core asks.
    pub fn answer(&mut self, request: BlobRequest) -> Result<BlobAnswer, BlobFailed> {
        match request {
            BlobRequest::Open { digest } => match self.objects.get(&digest) {
                Some(Object::Whole { info, damaged: false, .. }) => Ok(BlobAnswer::Info(info.clone())),
                Some(Object::Whole { .. }) => Err(BlobFailed::Corrupt),
                Some(Object::Partial { .. }) | None => Err(BlobFailed::NotFound),
            },
            BlobRequest::Read { digest, offset, len } => self.read(&digest, offset, len),
            BlobRequest::Create { digest, info } => self.create(digest, info),
            BlobRequest::Write { digest, piece, bytes } => self.write(&digest, piece, bytes),
            BlobRequest::Seal { digest } => self.seal(&digest),
            BlobRequest::Put { digest, bytes } => match self.put(bytes)? {
                (found, _) if found == digest => Ok(BlobAnswer::Sealed),
                _ => Err(BlobFailed::Corrupt),
            },
            BlobRequest::Remove { digest } => {
                self.drop_object(&digest);
                Ok(BlobAnswer::Removed)
            }
            BlobRequest::Missing { objects } => {
                let there = |(d, len): &(Digest, u64)| match self.objects.get(d) {
                    Some(Object::Whole { info, damaged: false, .. }) => info.len == *len,
                    Some(Object::Whole { .. } | Object::Partial { .. }) | None => false,
                };
                let missing = objects.iter().filter(|o| !there(o)).map(|(d, _)| *d);
                Ok(BlobAnswer::Missing(missing.collect()))
            }
        }
    }

    fn take(&mut self, bytes: u64) -> Result<(), BlobFailed> {
        if self.bytes.saturating_add(bytes) > self.bytes_max {
            return Err(BlobFailed::Full);
        }
        self.bytes += bytes;
        Ok(())
    }

    fn drop_object(&mut self, digest: &Digest) {
        self.bytes -= match self.objects.remove(digest) {
            Some(Object::Whole { content, .. }) => content.len(),
            Some(Object::Partial { pieces, .. }) => pieces.values().map(Content::len).sum(),
            None => 0,
        };
    }

    fn read(&self, digest: &Digest, offset: u64, len: u32) -> Result<BlobAnswer, BlobFailed> {
        match self.objects.get(digest) {
            Some(Object::Whole { damaged: true, .. }) => Err(BlobFailed::Corrupt),
            Some(Object::Whole { content, .. }) => {
                let end = offset.saturating_add(u64::from(len));
                if end > content.len() {
                    let why = format!("{offset}+{len} is beyond the end {}", content.len());
                    return Err(BlobFailed::Io(why));
                }
                Ok(BlobAnswer::Bytes(content.bytes(offset, end)))
            }
            Some(Object::Partial { .. }) | None => Err(BlobFailed::NotFound),
        }
    }

    fn create(&mut self, digest: Digest, info: BlobInfo) -> Result<BlobAnswer, BlobFailed> {
        match self.objects.get(&digest) {
            Some(Object::Whole { info, damaged: false, .. }) => return Ok(BlobAnswer::Info(info.clone())),
            Some(Object::Partial { info: known, pieces }) if *known == info => {
                return Ok(BlobAnswer::Partial { have: bits(&info, pieces) });
            }
            Some(_) => self.drop_object(&digest),
            None => {}
        }
        let room = self.bytes_max.saturating_sub(self.bytes);
        if info.len > room {
            return Err(BlobFailed::Full);
        }
        let have = bits(&info, &BTreeMap::new());
        self.objects.insert(digest, Object::Partial { info, pieces: BTreeMap::new() });
        Ok(BlobAnswer::Partial { have })
    }

    fn write(&mut self, digest: &Digest, piece: u32, bytes: Bytes) -> Result<BlobAnswer, BlobFailed> {
        let len = bytes.len() as u64;
        match self.objects.get(digest) {
            Some(Object::Partial { pieces, .. }) if !pieces.contains_key(&piece) => self.take(len)?,
            Some(Object::Partial { .. } | Object::Whole { .. }) => return Ok(BlobAnswer::Written),
            None => return Err(BlobFailed::NotFound),
        }
        let kept = self.piece(digest, piece, bytes);
        if let Some(Object::Partial { pieces, .. }) = self.objects.get_mut(digest) {
            pieces.insert(piece, kept);
        }
        Ok(BlobAnswer::Written)
    }

    /// How a piece is kept: as a part of its object's formula, if that is what its bytes are.
    fn piece(&self, digest: &Digest, piece: u32, bytes: Bytes) -> Content {
        let len = bytes.len() as u64;
        let formula = self.depot.formula(digest).and_then(|whole| {
            let part = whole.part(u64::from(piece) * piece_len(whole.len), len);
            (part.bytes(0, len) == bytes).then_some(part)
        });
        formula.map_or_else(|| Content::Held(bytes), Content::Formula)
    }

    fn seal(&mut self, digest: &Digest) -> Result<BlobAnswer, BlobFailed> {
        let Some(Object::Partial { pieces, .. }) = self.objects.get(digest) else {
            return match self.objects.get(digest) {
                Some(_) => Ok(BlobAnswer::Sealed),
                None => Err(BlobFailed::NotFound),
            };
        };
        // The store checks what it makes whole: an object that is not what its name says never gets in.
        let (proven, info) = describe_stream(pieces.values().map(|p| p.bytes(0, p.len())));
        if proven != *digest {
            self.drop_object(digest);
            return Err(BlobFailed::Corrupt);
        }
        let content = self.content(digest, || match pieces.len() {
            1 => pieces.values().next().map(|p| p.bytes(0, p.len())).unwrap_or_default(),
            _ => Bytes::from(pieces.values().map(|p| p.bytes(0, p.len())).collect::<Vec<_>>().concat()),
        });
        self.objects.insert(*digest, Object::Whole { content, info, damaged: false });
        Ok(BlobAnswer::Sealed)
    }
}

fn bits(info: &BlobInfo, pieces: &BTreeMap<u32, Content>) -> Vec<u8> {
    let count = info.pieces.len() / PIECE_VALUE_BYTES;
    let mut have = vec![0u8; count.div_ceil(8)];
    for piece in pieces.keys() {
        if let Some(byte) = have.get_mut(*piece as usize / 8) {
            *byte |= 1 << (piece % 8);
        }
    }
    have
}

/// Length and pieces of an object, as the core's tree cuts it.
pub fn describe(bytes: &[u8]) -> BlobInfo {
    let mut hasher = PieceHasher::new();
    hasher.update(bytes);
    hasher.finish().1
}

/// Digest, length and pieces of an object that comes in parts.
pub fn describe_stream(parts: impl IntoIterator<Item = Bytes>) -> (Digest, BlobInfo) {
    let mut hasher = PieceHasher::new();
    parts.into_iter().for_each(|part| hasher.update(&part));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use remote_network_core::transfer::tree::piece_len;

    #[test]
    fn a_full_or_rotting_store_says_so() {
        let mut blobs = Blobs::new(1000);
        let (digest, info) = blobs.put(Bytes::from(vec![1; 600])).unwrap();
        assert_eq!(blobs.put(Bytes::from(vec![2; 600])), Err(BlobFailed::Full));
        assert_eq!(
            blobs
                .answer(BlobRequest::Create { digest: Digest([9; 32]), info: BlobInfo { len: 401, ..info } }),
            Err(BlobFailed::Full)
        );
        assert_eq!(blobs.damage(17), Some(digest));
        assert_eq!(blobs.answer(BlobRequest::Open { digest }), Err(BlobFailed::Corrupt));
        assert_eq!(blobs.answer(BlobRequest::Remove { digest }), Ok(BlobAnswer::Removed));
        assert_eq!(blobs.answer(BlobRequest::Open { digest }), Err(BlobFailed::NotFound));
        assert_eq!(blobs.bytes(), 0);
    }
    /// Fetches an object the way a core does: create, write, seal.
    fn fetch(
        blobs: &mut Blobs,
        digest: Digest,
        info: BlobInfo,
        bytes: &Bytes,
    ) -> Result<BlobAnswer, BlobFailed> {
        let size = usize::try_from(piece_len(info.len)).unwrap();
        blobs.answer(BlobRequest::Create { digest, info })?;
        for (n, piece) in bytes.chunks(size).enumerate() {
            let bytes = Bytes::copy_from_slice(piece);
            blobs.answer(BlobRequest::Write { digest, piece: n as u32, bytes })?;
        }
        blobs.answer(BlobRequest::Seal { digest })
    }

    #[test]
    fn a_store_that_knows_the_formula_answers_like_one_that_holds_the_bytes() {
        let depot = Depot::default();
        let formula = Formula { key: [4; 32], from: 0, len: 700_000 };
        let mut source = Blobs::with_depot(1 << 30, depot.clone());
        let (digest, info) = source.put_formula(formula).unwrap();
        let mut knowing = Blobs::with_depot(1 << 30, depot);
        let mut plain = Blobs::new(1 << 30);
        for blobs in [&mut knowing, &mut plain] {
            assert_eq!(fetch(blobs, digest, info.clone(), &formula.all()), Ok(BlobAnswer::Sealed));
        }
        let read = |b: &mut Blobs| {
            let part = BlobRequest::Read { digest, offset: 262_143, len: 70_000 };
            (b.answer(BlobRequest::Open { digest }), b.answer(part), b.get(&digest), b.bytes())
        };
        assert_eq!(read(&mut source), read(&mut plain));
        assert_eq!(read(&mut knowing), read(&mut plain));
    }

    #[test]
    fn knowing_a_formula_does_not_make_wrong_bytes_right() {
        let depot = Depot::default();
        let formula = Formula { key: [4; 32], from: 0, len: 300_000 };
        let (digest, info) = depot.learn(formula);
        let mut blobs = Blobs::with_depot(1 << 30, depot);
        let mut wrong = formula.all().to_vec();
        wrong[299_999] ^= 1;
        assert_eq!(fetch(&mut blobs, digest, info, &Bytes::from(wrong)), Err(BlobFailed::Corrupt));
        assert!(!blobs.holds(&digest));
        assert_eq!(blobs.bytes(), 0);
    }
}
