//! One answer on its way out: a row of slots, some filled, some still being read from the store.
//!
//! Reads may be answered in any order; the slots keep the order of the stream. What they and the portion before the
//! transport hold is the credit of the serve.

use super::Output;
use crate::id::{Digest, OpId, PublicKey};
use crate::limits::{SERVE_READ_AHEAD_BYTES, SERVE_READ_BYTES, SERVE_STALL_AFTER};
use crate::machine::Cx;
use crate::port::{BlobAnswer, BlobFailed, BlobInfo};
use crate::time::Instant;
use crate::transfer::message::{Fetch, Head, Pieces, Refused, RefusedCode};
use crate::transfer::tree::piece_range;
use crate::transfer::{StreamKey, StreamOp};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes handed to a stream at once.
const PORTION_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) enum Slot {
    Reading { op: OpId, bytes: u64 },
    Ready { bytes: Bytes, content: bool },
}

#[derive(Debug)]
pub(super) enum Phase {
    /// The store is asked what this directory has.
    Listing(Digest),
    /// The store is asked for length and list.
    Opening(OpId),
    /// Head, list and content go out.
    Streaming,
    /// A refusal goes out.
    Refusing,
}

#[derive(Debug)]
pub(super) struct Serve {
    pub(super) peer: PublicKey,
    pub(super) digest: Digest,
    pub(super) phase: Phase,
    list: bool,
    pub(super) want_end: u32,
    pieces: Pieces,
    /// No piece is left to be read.
    all_read: bool,
    len: u64,
    /// What is still to be read of the current piece.
    reading: Range<u64>,
    pub(super) slots: VecDeque<Slot>,
    /// Bytes in slots, reads under way included, and before the transport.
    pub(super) held: u64,
    /// The portion before the transport: its bytes, and whether they are content.
    pub(super) sending: Option<(u64, bool)>,
    pub(super) stall_at: Option<Instant>,
    pub(super) sent_content: u64,
}

impl Serve {
    pub(super) fn new(peer: PublicKey, fetch: Fetch, phase: Phase) -> Self {
        Self {
            peer,
            digest: fetch.digest,
            phase,
            list: fetch.list,
            want_end: fetch.want.end(),
            pieces: fetch.want.into_iter(),
            all_read: false,
            len: 0,
            reading: 0..0,
            slots: VecDeque::new(),
            held: 0,
            sending: None,
            stall_at: None,
            sent_content: 0,
        }
    }

    pub(super) fn ready(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.held += bytes.len() as u64;
            self.slots.push_back(Slot::Ready { bytes, content: false });
        }
    }

    pub(super) fn refuse(&mut self, cx: &mut Cx<'_, Output>, stream: StreamKey, code: RefusedCode) {
        self.ready(Refused::new(code).to_frame().encode().into());
        self.send(cx, stream);
    }

    pub(super) fn begin(&mut self, info: BlobInfo) {
        self.phase = Phase::Streaming;
        self.len = info.len;
        self.ready(Head { len: info.len }.to_frame().encode().into());
        if self.list {
            self.ready(info.pieces);
        }
    }

    /// The next range to read, if there is credit. It lies within one piece, and in order: so does the answer.
    pub(super) fn next_read(&mut self) -> Option<Range<u64>> {
        if !matches!(self.phase, Phase::Streaming) {
            return None;
        }
        if self.reading.is_empty() {
            let Some(piece) = self.pieces.next() else {
                self.all_read = true;
                return None;
            };
            self.reading = piece_range(self.len, piece);
        }
        let start = self.reading.start;
        let end = self.reading.end.min(start + SERVE_READ_BYTES);
        if self.held + (end - start) > SERVE_READ_AHEAD_BYTES {
            return None;
        }
        self.reading.start = end;
        Some(start..end)
    }

    /// A read is answered; false when it failed.
    pub(super) fn filled(&mut self, op: OpId, result: Result<BlobAnswer, BlobFailed>) -> bool {
        let found = self.slots.iter_mut().find_map(|slot| match slot {
            Slot::Reading { op: o, bytes } if *o == op => Some((*bytes, slot)),
            Slot::Reading { .. } | Slot::Ready { .. } => None,
        });
        match (found, result) {
            (Some((expected, slot)), Ok(BlobAnswer::Bytes(bytes))) if bytes.len() as u64 == expected => {
                *slot = Slot::Ready { bytes, content: true };
                true
            }
            (_, _) => false,
        }
    }

    /// Hands the next portion to the stream when the last one was taken.
    pub(super) fn send(&mut self, cx: &mut Cx<'_, Output>, stream: StreamKey) {
        if self.sending.is_some() {
            return;
        }
        let Some(Slot::Ready { bytes, content }) = self.slots.front_mut() else { return };
        let portion = bytes.split_to(bytes.len().min(PORTION_BYTES));
        self.sending = Some((portion.len() as u64, *content));
        if bytes.is_empty() {
            self.slots.pop_front();
        }
        self.stall_at = Some(cx.now + SERVE_STALL_AFTER);
        cx.emit(Output::Stream { stream, op: StreamOp::Send { bytes: portion } });
    }

    pub(super) fn is_done(&self) -> bool {
        match self.phase {
            Phase::Listing(_) | Phase::Opening(_) => false,
            Phase::Streaming => self.all_read && self.slots.is_empty() && self.sending.is_none(),
            Phase::Refusing => self.slots.is_empty() && self.sending.is_none(),
        }
    }
}
