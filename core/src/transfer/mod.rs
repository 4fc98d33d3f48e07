//! Moving sealed, content-addressed objects from peer to peer (SPEC 7.6, staged edges).
//!
//! A task's outputs are sealed objects named by their BLAKE3 digest; its inputs are fetched from whoever holds them.
//! Nobody has to be trusted with content: every piece is checked against the digest while it arrives ([`tree`]), written
//! to the store, and what is written survives a lost connection, a lying source and a restart. Who may fetch what is
//! said by grants and by [`crate::ticket`]s of the requester, so that executors serve one another without knowing each other.
//!
//! **One stream, one request.** The consumer opens a bidirectional stream, sends one frame, finishes, and reads the
//! answer ([`message`]). It asks for an object of many pieces in shares, over several streams at once and of several sources:
//!
//! ```text
//! consumer → holder   Fetch{digest, under?, ticket?, list?, want: ranges of pieces}   end
//! holder → consumer   Head{len}  [piece list]  bytes of the wanted pieces     end
//!                  or Refused{code, reason}                                   end
//! ```
//!
//! **Two machines**, [`fetch`] and [`serve`], speak to streams and the store through the vocabulary below. Bytes move by
//! credit alone: a machine asks for bytes when it has room for them, and hands over bytes one batch at a time. Not asking
//! is what holds a sender back, down to its disk; nothing is queued beyond the limits.
//!
//! | | holds at most |
//! |---|---|
//! | one fetch | `FETCH_PIECES_HELD_MAX` pieces (those the store has not confirmed and those that arrive), and the piece list |
//! | one serve | `SERVE_READ_AHEAD_BYTES`, reads under way included, and the piece list |
//!
//! **Stream vocabulary.** A stream is a machine's from the moment it is told of it until the machine emits
//! [`StreamOp::Release`] or [`StreamOp::Reset`], or is told [`StreamEvent::Gone`]; after that neither says another word about
//! it, and a word that crosses on the way is ignored.

pub mod fetch;
pub mod message;
pub mod serve;
pub mod tree;
pub mod trees;

#[cfg(test)]
mod tests;

use crate::id::{ConnId, StreamId};
use bytes::Bytes;

/// A stream of a connection. Never reused within the life of a node, as its connection is not.
pub type StreamKey = (ConnId, StreamId);

/// What a machine asks of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamOp {
    /// Up to `max` bytes, as soon as there are any. Answered exactly once, maybe much later, by [`StreamEvent::Bytes`],
    /// `End` or `Gone`. At most one is outstanding per stream.
    Read {
        /// At most so many; never 0.
        max: usize,
    },
    /// Write all of this. Answered exactly once by [`StreamEvent::Sent`] when the transport has taken the last byte, or by
    /// `Gone`. At most one is outstanding per stream.
    Send {
        /// The bytes; never empty.
        bytes: Bytes,
    },
    /// Nothing more will be written.
    Finish,
    /// The machine is done with the stream; what was written and finished still gets there.
    Release,
    /// The machine abandons both directions.
    Reset,
}

/// What happened on a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamEvent {
    /// Bytes that were asked for: at least one, at most `max`.
    Bytes(Bytes),
    /// The peer finished; all its bytes were read. Answers a read.
    End,
    /// The transport took the last write whole.
    Sent,
    /// The stream or its connection is gone. May come at any time, asked for or not.
    Gone,
}
