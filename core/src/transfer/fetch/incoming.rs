//! The answer on one stream, as it arrives: head, piece list, pieces.
//!
//! It says how many bytes it wants next and is given no more, so no byte is ever without its place.

use super::SourceFault;
use crate::port::BlobInfo;
use crate::transfer::message::{Answer, FrameIntake, PieceRanges, Pieces};
use crate::transfer::tree::{PieceCheck, PieceState, list_len};
use bytes::{Bytes, BytesMut};

#[derive(Debug)]
enum Part {
    Frame(FrameIntake),
    List { gathered: BytesMut, whole: usize },
    Between,
    Piece { piece: u32, check: PieceCheck, bytes: Vec<Bytes> },
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
    Piece(u32, Vec<Bytes>),
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
            Part::Piece { check, .. } => usize::try_from(check.left()).unwrap_or(usize::MAX),
        }
    }

    /// Between pieces: begins the next one. False when there is none.
    pub(super) fn begin(&mut self, info: &BlobInfo) -> bool {
        let next = self.pieces.next().and_then(|piece| Some((piece, PieceCheck::new(info, piece)?)));
        let Some((piece, check)) = next else { return false };
        self.part = Part::Piece { piece, check, bytes: Vec::new() };
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
            Part::Piece { piece, check, bytes: parts } => {
                let state = check.update(&bytes);
                parts.push(bytes);
                match state {
                    PieceState::Wanted(_) => {}
                    PieceState::Wrong => return Err(SourceFault::WrongPiece { piece: *piece }),
                    PieceState::Right => {
                        let taken = Taken::Piece(*piece, std::mem::take(parts));
                        self.part = Part::Between;
                        return Ok(taken);
                    }
                }
            }
        }
        Ok(Taken::More)
    }

    /// Bytes of the piece that arrives.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        match &self.part {
            Part::Piece { bytes, .. } => bytes.iter().map(Bytes::len).sum(),
            Part::Frame(_) | Part::List { .. } | Part::Between => 0,
        }
    }
}
