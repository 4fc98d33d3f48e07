//! Small objects between the requester and the store, whole: outputs of light jobs that must be objects after all, and sources that
//! light orders carry.
//!
//! What is to be kept waits at the gate behind everything that was decided before, removals above all, and the store writes in
//! that order: an object that is put again while it is being given up is there in the end.

use super::Node;
use super::wiring::Inside;
use crate::action::Action;
use crate::id::{Digest, OpId, OpIds};
use crate::job::requester;
use crate::port::{BlobAnswer, BlobFailed, BlobRequest};
use crate::transport::Transport;
use bytes::Bytes;
use std::collections::BTreeMap;

/// What the store was asked for.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Put(Digest),
    Read(Digest),
}

/// Questions that the store has not answered. Bounded by the objects that the requester asks for at once, and by the sources of
/// its active runs.
#[derive(Debug)]
pub(super) struct Keeping {
    ids: OpIds,
    asked: BTreeMap<OpId, Asked>,
}

impl Keeping {
    /// Nothing is asked; questions are numbered in the room with this number.
    pub(super) fn new(room: u8) -> Self {
        Self { ids: OpIds::new(room), asked: BTreeMap::new() }
    }

    fn ask(&mut self, asked: Asked) -> OpId {
        let op = self.ids.issue();
        self.asked.insert(op, asked);
        op
    }
}

impl<T: Transport> Node<T> {
    pub(super) fn keep_small(&mut self, digest: Digest, bytes: Bytes) {
        let op = self.keeping.ask(Asked::Put(digest));
        self.hold(Action::Blob { op, request: BlobRequest::Put { digest, bytes } });
    }

    pub(super) fn read_small(&mut self, digest: Digest, len: u32) {
        let op = self.keeping.ask(Asked::Read(digest));
        // Reading commits nothing: it need not wait for the journal.
        self.actions.push_back(Action::Blob { op, request: BlobRequest::Read { digest, offset: 0, len } });
    }

    /// The store answers one of these questions.
    pub(super) fn small_answered(&mut self, op: OpId, result: Result<BlobAnswer, BlobFailed>) {
        let input = match (self.keeping.asked.remove(&op), result) {
            (Some(Asked::Put(digest)), Ok(_)) => requester::Input::Fetched(digest),
            (Some(Asked::Put(digest)), Err(e)) => {
                requester::Input::FetchFailed { digest, why: e.to_string() }
            }
            (Some(Asked::Read(digest)), Ok(BlobAnswer::Bytes(bytes))) => {
                requester::Input::Read { digest, bytes }
            }
            (Some(Asked::Read(digest)), result) => {
                let why =
                    result.err().map_or_else(|| "no answer to this question".to_owned(), |e| e.to_string());
                requester::Input::Unread { digest, why }
            }
            (None, _) => return self.refuse("store-answer-unknown"),
        };
        self.inbox.push_back(Inside::Requester(input));
    }
}
