//! The answer on one stream, as it arrives: head, piece list, pieces.
//!
//! It says how many bytes it wants next and is given no more, so no byte is ever without its place.

use super::SourceFault;
use crate::port::BlobInfo;
use crate::transfer::message::{Answer, FrameIntake, PieceRanges, Pieces};
use crate::transfer::tree::{BLOCK_BYTES, PieceCheck, PieceState, list_len};
use bytes::{Bytes, BytesMut};

#[derive(Debug)]
enum Part {
    Frame(FrameIntake),
    List { gathered: BytesMut, whole: usize },
    Between,
    Piece(Box<Piece>),
}

/// A piece that arrives. Its bytes are joined as they come: the store gets them in one stretch, the memory of the datagrams
/// is free again at once, and they are hashed in whole blocks while the processor still has them at hand.
#[derive(Debug)]
struct Piece {
    number: u32,
    whole: usize,
    bytes: BytesMut,
    /// So many of the bytes went through the check.
    checked: usize,
    check: PieceCheck,
}

impl Piece {
    fn take(&mut self, bytes: &[u8]) -> PieceState {
        self.bytes.extend_from_slice(bytes);
        let len = self.bytes.len();
        let end = if len >= self.whole { len } else { len - len % BLOCK_BYTES };
        let block = self.bytes.get(self.checked..end).unwrap_or_default();
        self.checked = end;
        if block.is_empty() { PieceState::Wanted(self.check.left()) } else { self.check.update(block) }
    }
}

/// One answer, being read.
#[derive(Debug)]
pub(super) struct Incoming {
    part: Part,
    with_list: bool,
    pieces: Pieces,
}

/// What the bytes made whole.
#[derive(Debug)]
pub(super) enum Taken {
    /// Nothing yet, or nothing to look at.
    More,
    /// The piece list, not verified.
    List(Bytes),
    /// A piece, verified.
    Piece(u32, Bytes),
}

impl Incoming {
    /// The answer to a request for these pieces.
    pub(super) fn new(with_list: bool, want: PieceRanges) -> Self {
        Self { part: Part::Frame(FrameIntake::default()), with_list, pieces: want.into_iter() }
    }

    /// Bytes wanted now; 0 between pieces.
    pub(super) fn wanted(&self) -> usize {
        match &self.part {
            Part::Frame(intake) => intake.wanted(),
            Part::List { gathered, whole } => whole.saturating_sub(gathered.len()),
            Part::Between => 0,
            Part::Piece(piece) => piece.whole.saturating_sub(piece.bytes.len()),
        }
    }

    /// Between pieces: begins the next one. False when there is none.
    pub(super) fn begin(&mut self, info: &BlobInfo) -> bool {
        let next = self.pieces.next().and_then(|piece| Some((piece, PieceCheck::new(info, piece)?)));
        let Some((number, check)) = next else { return false };
        let whole = usize::try_from(check.left()).unwrap_or(usize::MAX);
        let bytes = BytesMut::with_capacity(whole);
        self.part = Part::Piece(Box::new(Piece { number, whole, bytes, checked: 0, check }));
        true
    }

    /// Takes the next bytes of the answer about an object of `len` bytes: at least one, at most
    /// [`Incoming::wanted`].
    pub(super) fn take(&mut self, len: u64, bytes: Bytes) -> Result<Taken, SourceFault> {
        match &mut self.part {
            Part::Frame(intake) => match intake.push(&bytes).map_err(SourceFault::Malformed)? {
                None => {}
                Some(Answer::Refused(r)) => return Err(SourceFault::Refused(r.code, r.reason)),
                Some(Answer::Head(head)) if head.len != len => {
                    return Err(SourceFault::WrongLength { said: head.len });
                }
                Some(Answer::Head(_)) if self.with_list => {
                    let whole = list_len(len);
                    self.part = Part::List { gathered: BytesMut::with_capacity(whole), whole };
                }
                Some(Answer::Head(_)) => self.part = Part::Between,
            },
            Part::List { gathered, whole } => {
                gathered.extend_from_slice(&bytes);
                if gathered.len() >= *whole {
                    let list = std::mem::take(gathered).freeze();
                    self.part = Part::Between;
                    return Ok(Taken::List(list));
                }
            }
            Part::Between => return Err(SourceFault::Lost),
            Part::Piece(piece) => match piece.take(&bytes) {
                PieceState::Wanted(_) => {}
                PieceState::Wrong => return Err(SourceFault::WrongPiece { piece: piece.number }),
                PieceState::Right => {
                    let taken = Taken::Piece(piece.number, std::mem::take(&mut piece.bytes).freeze());
                    self.part = Part::Between;
                    return Ok(taken);
                }
            },
        }
        Ok(Taken::More)
    }

    /// Whether a piece was begun and is not whole.
    pub(super) fn is_within_a_piece(&self) -> bool {
        matches!(self.part, Part::Piece(_))
    }

    /// Bytes of the piece that arrives.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        match &self.part {
            Part::Piece(piece) => piece.bytes.len(),
            Part::Frame(_) | Part::List { .. } | Part::Between => 0,
        }
    }
}
