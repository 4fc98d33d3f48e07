//! One stream of a fetch: a share of the missing pieces, asked of one source.
//!
//! A fetch asks for its pieces in shares, over several streams at once. One stream moves no more than its receive window
//! in a round trip, and a window has to stay small (see `transport/quic.rs`); several streams have several windows, and
//! when there are several sources each gives what it can. A share is an eighth of what nobody was asked for yet, so that
//! few requests are needed, within bounds that keep a slow source from holding up the end.

use super::incoming::Incoming;
use crate::id::OpId;
use crate::limits::FETCH_PIECES_HELD_MAX;
use crate::time::{Deadline, Instant};
use crate::transfer::StreamKey;
use crate::transfer::message::PieceRanges;
use crate::transfer::tree::piece_len;

/// Fewest pieces worth a stream of their own.
pub(super) const SHARE_PIECES_MIN: u32 = 8;
/// Most pieces of one share: 16 MiB, unless pieces are larger.
const SHARE_PIECES_MAX: u32 = 64;
/// One so-manieth of what is left is a share.
const SHARES_OF_THE_REST: u32 = 8;
/// Bytes of pieces held, from which on only half as many pieces may be.
const HELD_BYTES: u64 = 8 << 20;

/// How many of `left` pieces to ask for at once.
pub(super) fn share_of(left: u32) -> u32 {
    if left < 2 * SHARE_PIECES_MIN {
        return left;
    }
    (left / SHARES_OF_THE_REST).clamp(SHARE_PIECES_MIN, SHARE_PIECES_MAX)
}

/// Pieces of an object of `len` bytes that a fetch may hold: those arriving, one on each lane, and those on their way
/// into the store.
pub(super) fn held_max(len: u64) -> usize {
    let few = piece_len(len) * FETCH_PIECES_HELD_MAX as u64 > HELD_BYTES;
    if few { FETCH_PIECES_HELD_MAX / 2 } else { FETCH_PIECES_HELD_MAX }
}

/// Streams of one fetch at once: while a piece arrives on each, as many may be on their way into the store.
pub(super) fn lanes_max(len: u64) -> usize {
    held_max(len) / 2
}

#[derive(Debug)]
pub(super) struct Lane {
    /// Which of the sources.
    pub(super) source: usize,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// The stream is being opened; nothing is asked of it yet.
    Opening { op: OpId, until: Instant },
    /// The share is asked for and arrives.
    Up(Box<Stream>),
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) key: StreamKey,
    pub(super) incoming: Incoming,
    /// The pieces asked for.
    pub(super) share: PieceRanges,
    /// They were asked for before the store said what it has.
    pub(super) guessed: bool,
    /// The request is on its way out.
    pub(super) sending: bool,
    /// Bytes the stream was asked for.
    pub(super) asked: Option<usize>,
    pub(super) stall_at: Option<Instant>,
    pub(super) bytes_since: usize,
}

impl Lane {
    pub(super) fn opens_by(&self, opening: OpId) -> bool {
        matches!(self.state, State::Opening { op, .. } if op == opening)
    }

    pub(super) fn stream(&self) -> Option<&Stream> {
        match &self.state {
            State::Up(stream) => Some(stream),
            State::Opening { .. } => None,
        }
    }

    pub(super) fn stream_mut(&mut self) -> Option<&mut Stream> {
        match &mut self.state {
            State::Up(stream) => Some(stream),
            State::Opening { .. } => None,
        }
    }

    pub(super) fn is_on(&self, key: StreamKey) -> bool {
        self.stream().is_some_and(|s| s.key == key)
    }

    pub(super) fn holds_a_piece(&self) -> bool {
        self.stream().is_some_and(|s| s.incoming.is_within_a_piece())
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        match &self.state {
            State::Opening { until, .. } => Some(Deadline::new(*until, "stream to a source")),
            State::Up(stream) => stream.stall_at.map(|at| Deadline::new(at, "bytes of a source")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{OBJECT_BYTES_MAX, PIECE_BYTES_MIN};

    #[test]
    fn shares_are_large_at_first_small_at_the_end_and_never_a_crumb() {
        let (mut left, mut shares) = (4_096, Vec::new());
        while left > 0 {
            let share = share_of(left);
            shares.push(share);
            left -= share;
        }
        assert_eq!(shares[0], SHARE_PIECES_MAX);
        assert!(shares.is_sorted_by(|a, b| a >= b || *b < 2 * SHARE_PIECES_MIN), "{shares:?}");
        assert!(shares.iter().all(|s| *s >= SHARE_PIECES_MIN), "{shares:?}");
        for few in 0..2 * SHARE_PIECES_MIN {
            assert_eq!(share_of(few), few, "a second request would cost more than it brings");
        }
    }

    #[test]
    fn what_a_fetch_holds_is_bounded_for_objects_of_every_length() {
        for len in [0, 1, PIECE_BYTES_MIN, 1 << 34, (1 << 34) + 1, 1 << 36, (1 << 37) + 1, OBJECT_BYTES_MAX] {
            let bytes = held_max(len) as u64 * piece_len(len);
            assert!(bytes <= HELD_BYTES.max(4 * piece_len(len)), "{len}: {bytes}");
            assert!((2..=4).contains(&lanes_max(len)));
        }
    }
}
