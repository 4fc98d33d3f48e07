//! What is said on a transfer stream: one request, one answer, then raw bytes.
//!
//! | kind | frame | body |
//! |---|---|---|
//! | `0x20` | [`Fetch`] | `{d: digest, l?: 1, t?: ticket, u?: digest of the directory, w: ranges}` |
//! | `0x21` | [`Head`] | `{n: length of the object}` |
//! | `0x22` | [`Refused`] | `{c: code, r: reason}` |
//!
//! Behind a head come, unframed: the piece list when `l` was set (32 bytes a piece, [`super::tree::list_len`]), then the
//! bytes of the wanted pieces in order, then the end of the stream. All lengths follow from the length of the object, so the
//! reader knows at every moment how many bytes it wants next ([`FrameIntake`] does the same for the head itself), and asks
//! for no more: nothing is ever read that has no place to go.
//!
//! Unknown keys are ignored, so that a newer peer may say more.

use crate::codec::{DecodeError, Dict, Frame, FrameReader};
use crate::id::Digest;
use crate::limits::{FETCH_RANGES_MAX, OBJECT_BYTES_MAX, PIECES_MAX};
use crate::ticket::{TICKET_BYTES_MAX, Ticket};
use std::ops::Range;

/// Kind of a [`Fetch`] frame.
pub const KIND_FETCH: u8 = 0x20;
/// Kind of a [`Head`] frame.
pub const KIND_HEAD: u8 = 0x21;
/// Kind of a [`Refused`] frame.
pub const KIND_REFUSED: u8 = 0x22;

/// Largest body of an answer's frame, in bytes.
const ANSWER_BODY_MAX: usize = 1_024;
/// Largest body of a request, in bytes.
const FETCH_BODY_MAX: usize = RANGE_BYTES * FETCH_RANGES_MAX + TICKET_BYTES_MAX + 256;
/// A range on the wire: first piece and number of pieces, both u32 big-endian.
const RANGE_BYTES: usize = 8;
/// Longest reason of a refusal in bytes.
const REASON_MAX: usize = 200;

fn expect_kind(frame: &Frame, kind: u8) -> Result<(), DecodeError> {
    if frame.kind == kind {
        return Ok(());
    }
    Err(DecodeError::Unknown { what: "frame kind", number: u64::from(frame.kind) })
}

/// Pieces wanted: ascending ranges with gaps between them, none empty, at most [`FETCH_RANGES_MAX`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PieceRanges(Vec<Range<u32>>);

impl PieceRanges {
    /// The first ranges of the ascending `pieces`, as many as a request may have.
    pub fn of(pieces: impl IntoIterator<Item = u32>) -> Self {
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for piece in pieces {
            let count = ranges.len();
            match ranges.last_mut() {
                Some(last) if last.end == piece => last.end += 1,
                Some(_) | None if count == FETCH_RANGES_MAX => break,
                Some(_) | None => ranges.push(piece..piece.saturating_add(1)),
            }
        }
        Self(ranges)
    }

    /// The pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(Range::clone)
    }

    /// Whether no piece is wanted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges in order.
    pub fn ranges(&self) -> &[Range<u32>] {
        &self.0
    }

    /// One past the last piece.
    pub fn end(&self) -> u32 {
        self.0.last().map_or(0, |r| r.end)
    }

    fn encode(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|r| [r.start.to_be_bytes(), (r.end - r.start).to_be_bytes()])
            .flatten()
            .collect()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bad = |why: &str| DecodeError::invalid("w", why);
        let (pairs, rest) = bytes.as_chunks::<RANGE_BYTES>();
        if !rest.is_empty() {
            return Err(bad("not a whole number of ranges"));
        }
        let mut ranges: Vec<Range<u32>> = Vec::with_capacity(pairs.len());
        for &[a, b, c, d, e, f, g, h] in pairs {
            let (start, count) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
            let end = start.checked_add(count).filter(|end| u64::from(*end) <= PIECES_MAX);
            let end = end.ok_or_else(|| bad("beyond the last piece there can be"))?;
            if count == 0 || ranges.last().is_some_and(|last| start <= last.end) {
                return Err(bad("ranges must be ascending, apart and not empty"));
            }
            ranges.push(start..end);
        }
        Ok(Self(ranges))
    }
}

/// The pieces of [`PieceRanges`] one after the other.
pub type Pieces = std::iter::Flatten<std::vec::IntoIter<Range<u32>>>;

impl IntoIterator for PieceRanges {
    type Item = u32;
    type IntoIter = Pieces;
    fn into_iter(self) -> Pieces {
        self.0.into_iter().flatten()
    }
}

/// A consumer wants pieces of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// Which object.
    pub digest: Digest,
    /// The directory that it is a file of: who may have that may have it.
    pub under: Option<Digest>,
    /// The requester's word, unless the consumer is the requester.
    pub ticket: Option<Ticket>,
    /// Whether the piece list is wanted before the pieces.
    pub list: bool,
    /// Which pieces; none: only the head and the list.
    pub want: PieceRanges,
}

impl Fetch {
    /// The frame.
    pub fn to_frame(&self) -> Frame {
        let d = Dict::new()
            .with("d", &self.digest)
            .with_some("l", self.list.then_some(1u64))
            .with_some("t", self.ticket.as_ref().map(|t| crate::codec::Value::Bytes(t.encode())))
            .with_some("u", self.under.as_ref())
            .with("w", self.want.encode().as_slice());
        Frame::new(KIND_FETCH, &d)
    }

    /// Reads the frame.
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        expect_kind(frame, KIND_FETCH)?;
        let d = Dict::decode(&frame.body, FETCH_BODY_MAX)?;
        let list = match d.u64_opt("l")? {
            None => false,
            Some(1) => true,
            Some(n) => return Err(DecodeError::Unknown { what: "list form", number: n }),
        };
        let ticket = d.get("t").map(|_| Ticket::decode(d.bytes("t", TICKET_BYTES_MAX)?)).transpose()?;
        let want = PieceRanges::decode(d.bytes("w", RANGE_BYTES * FETCH_RANGES_MAX)?)?;
        let under = d.get("u").map(|_| d.digest("u")).transpose()?;
        Ok(Self { digest: d.digest("d")?, under, ticket, list, want })
    }
}

/// Why a holder does not give an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RefusedCode {
    /// It is not here, or not for this peer: which of the two is nobody's business.
    Unavailable,
    /// Too much is being served. Later, perhaps.
    Busy,
    /// Pieces were wanted that the object has not.
    Range,
    /// The holder's store failed.
    Store,
    /// A code of a newer peer.
    Other(u64),
}

impl RefusedCode {
    /// The number on the wire.
    pub fn number(self) -> u64 {
        match self {
            RefusedCode::Unavailable => 1,
            RefusedCode::Busy => 2,
            RefusedCode::Range => 3,
            RefusedCode::Store => 4,
            RefusedCode::Other(n) => n,
        }
    }

    fn from_number(n: u64) -> Self {
        match n {
            1 => RefusedCode::Unavailable,
            2 => RefusedCode::Busy,
            3 => RefusedCode::Range,
            4 => RefusedCode::Store,
            n => RefusedCode::Other(n),
        }
    }

    /// The words that go with it. They depend on nothing but the code, so that they tell no more than it does.
    pub fn reason(self) -> &'static str {
        match self {
            RefusedCode::Unavailable => "no such object for you here",
            RefusedCode::Busy => "busy, try later",
            RefusedCode::Range => "the object has no such piece",
            RefusedCode::Store => "the store failed",
            RefusedCode::Other(_) => "refused",
        }
    }
}

/// A holder does not give the object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Why.
    pub code: RefusedCode,
    /// Why, for people: at most 200 bytes, no control characters.
    pub reason: String,
}

impl Refused {
    /// A refusal in our words.
    pub fn new(code: RefusedCode) -> Self {
        Self { code, reason: code.reason().into() }
    }

    /// The frame.
    pub fn to_frame(&self) -> Frame {
        Frame::new(KIND_REFUSED, &Dict::new().with("c", self.code.number()).with("r", self.reason.as_str()))
    }
}

/// What a holder answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// List and pieces follow.
    Head(Head),
    /// Nothing follows.
    Refused(Refused),
}

/// An object of this length follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Length of the whole object in bytes.
    pub len: u64,
}

impl Head {
    /// The frame.
    pub fn to_frame(self) -> Frame {
        Frame::new(KIND_HEAD, &Dict::new().with("n", self.len))
    }
}

impl Answer {
    /// Reads a holder's frame.
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        let d = Dict::decode(&frame.body, ANSWER_BODY_MAX)?;
        match frame.kind {
            KIND_HEAD => match d.u64("n")? {
                len if len <= OBJECT_BYTES_MAX => Ok(Answer::Head(Head { len })),
                len => Err(DecodeError::invalid("n", format!("{len} bytes are more than an object has"))),
            },
            KIND_REFUSED => {
                let code = RefusedCode::from_number(d.u64("c")?);
                Ok(Answer::Refused(Refused { code, reason: d.text("r", REASON_MAX)? }))
            }
            kind => Err(DecodeError::Unknown { what: "frame kind", number: u64::from(kind) }),
        }
    }
}

/// Takes in the frame of an answer and not one byte more: says how many bytes it wants next.
#[derive(Clone, Debug, Default)]
pub struct FrameIntake {
    reader: FrameReader,
    head: Vec<u8>,
    taken: usize,
}

impl FrameIntake {
    /// Bytes that still belong to the frame, as far as is known; never 0 before the frame is whole.
    pub fn wanted(&self) -> usize {
        match self.head.first_chunk::<4>() {
            None => 4 - self.head.len(),
            Some(len) => (4 + u32::from_be_bytes(*len) as usize).saturating_sub(self.taken).max(1),
        }
    }

    /// Takes at most [`FrameIntake::wanted`] bytes; the answer once it is whole.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Answer>, DecodeError> {
        if self.head.len() < 4 {
            self.head.extend_from_slice(bytes);
        }
        self.taken += bytes.len();
        if let Some(len) = self.head.first_chunk::<4>() {
            let got = u32::from_be_bytes(*len) as usize;
            if got > ANSWER_BODY_MAX + 1 {
                return Err(DecodeError::TooLong { got, max: ANSWER_BODY_MAX + 1 });
            }
        }
        self.reader.push(bytes);
        self.reader.next_frame()?.map(|frame| Answer::from_frame(&frame)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Keypair;
    use crate::time::UnixTime;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    fn through_the_wire(frame: &Frame) -> Frame {
        let mut reader = FrameReader::default();
        reader.push(&frame.encode());
        reader.next_frame().unwrap().unwrap()
    }

    fn fetch(pieces: impl IntoIterator<Item = u32>) -> Fetch {
        let (r, c) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]).public());
        let digest = Digest::of(b"x");
        let ticket = Some(Ticket::sign(&r, digest, c, UnixTime::from_secs(9)));
        Fetch { digest, under: None, ticket, list: true, want: PieceRanges::of(pieces) }
    }

    #[test]
    fn messages_survive_the_wire() {
        for f in [
            fetch([]),
            fetch(0..7),
            fetch((0..5_000).map(|p| p * 2)),
            Fetch { ticket: None, list: false, ..fetch([3]) },
            Fetch { under: Some(Digest::of(b"directory")), ..fetch([3]) },
        ] {
            assert!(f.to_frame().body.len() <= FETCH_BODY_MAX);
            assert_eq!(Fetch::from_frame(&through_the_wire(&f.to_frame())), Ok(f));
        }
        let head = Head { len: OBJECT_BYTES_MAX };
        assert_eq!(Answer::from_frame(&through_the_wire(&head.to_frame())), Ok(Answer::Head(head)));
        for n in 0..6 {
            let refused = Refused::new(RefusedCode::from_number(n));
            assert_eq!(refused.code.number(), n);
            let back = Answer::from_frame(&through_the_wire(&refused.to_frame()));
            assert_eq!(back, Ok(Answer::Refused(refused)));
        }
    }

    #[test]
    fn a_request_with_too_many_holes_asks_for_the_first_of_them() {
        let f = fetch((0..5_000).map(|p| p * 2));
        assert_eq!(f.want.ranges().len(), FETCH_RANGES_MAX);
        assert_eq!(f.want.end(), 2 * FETCH_RANGES_MAX as u32 - 1);
    }

    #[test]
    fn ranges_out_of_order_touching_empty_or_too_far_are_refused() {
        let enc = |ranges: &[(u32, u32)]| -> Vec<u8> {
            ranges.iter().flat_map(|(s, n)| [s.to_be_bytes(), n.to_be_bytes()]).flatten().collect()
        };
        for bad in [
            enc(&[(5, 1), (3, 1)]),
            enc(&[(3, 2), (5, 1)]),
            enc(&[(3, 2), (4, 1)]),
            enc(&[(3, 0)]),
            enc(&[(65_536, 1)]),
            enc(&[(1, u32::MAX)]),
            enc(&[(3, 1)])[..7].to_vec(),
            enc(&(0..1_025).map(|n| (2 * n, 1)).collect::<Vec<_>>()),
        ] {
            let frame =
                Frame::new(KIND_FETCH, &Dict::new().with("d", &Digest::of(b"x")).with("w", bad.as_slice()));
            assert!(Fetch::from_frame(&frame).is_err());
        }
    }

    #[test]
    fn an_object_longer_than_any_and_a_frame_of_another_kind_are_refused() {
        assert!(Answer::from_frame(&Head { len: OBJECT_BYTES_MAX + 1 }.to_frame()).is_err());
        assert!(Answer::from_frame(&fetch([1]).to_frame()).is_err());
        assert!(Fetch::from_frame(&Head { len: 1 }.to_frame()).is_err());
    }

    #[test]
    fn the_intake_takes_the_frame_and_not_one_byte_more() {
        let mut wire = Head { len: 77 }.to_frame().encode();
        let frame_len = wire.len();
        wire.extend_from_slice(b"content");
        let (mut intake, mut at) = (FrameIntake::default(), 0);
        let answer = loop {
            let take = intake.wanted().min(3);
            assert!(take > 0);
            let got = intake.push(&wire[at..at + take]).unwrap();
            at += take;
            if let Some(answer) = got {
                break answer;
            }
        };
        assert_eq!((answer, at), (Answer::Head(Head { len: 77 }), frame_len));
        assert!(FrameIntake::default().push(&[0, 1, 0, 0]).is_err(), "64 KiB of head");
        assert!(FrameIntake::default().push(&[0, 0, 0, 0]).is_err(), "an empty frame");
    }

    proptest! {
        #[test]
        fn ranges_survive_the_wire(pieces in btree_set(0u32..65_536, 0..200)) {
            let want = PieceRanges::of(pieces.iter().copied());
            prop_assert_eq!(want.iter().collect::<Vec<_>>(), pieces.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(PieceRanges::decode(&want.encode()), Ok(want));
        }

        #[test]
        fn no_bytes_panic(kind in 0x1fu8..0x24, body in vec(any::<u8>(), 0..200), wire in vec(any::<u8>(), 0..40)) {
            let frame = Frame { kind, body };
            let _ = (Fetch::from_frame(&frame), Answer::from_frame(&frame));
            let mut intake = FrameIntake::default();
            for b in wire {
                prop_assert!(intake.wanted() > 0);
                if intake.push(&[b]).is_err() {
                    break;
                }
            }
        }
    }
}
