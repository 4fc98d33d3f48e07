//! Serving objects to peers.
//!
//! A peer opened a transfer stream and its first frame asks for pieces of an object. It gets them when the object is its
//! own by a grant ([`Input::Grant`]), or when it shows a ticket signed by somebody whose object it is. Otherwise it is told
//! "no such object for you here", in the same words and as fast whether the object is unknown, another's, or here but not in
//! the store any more for a stranger: a digest cannot be probed for.
//!
//! Bytes are read from the store ahead of the stream, up to `SERVE_READ_AHEAD_BYTES` per serve with several reads under way,
//! and handed to the stream in portions of 64 KiB, one at a time: the next when the transport has taken the last. That
//! makes it fair by construction: no serve has more than one portion before the transport, and each is asked in its turn.
//! A consumer that takes not one portion in `SERVE_STALL_AFTER` is abandoned.
//!
//! A file of a directory ([`crate::manifest`]) is served to whoever may have the directory, when the request names both and the
//! manifest has it. A file that is not in it is refused in the same words as any other. What a job has left as a file gives no
//! right to what it names, whatever its bytes are.
//!
//! A grant that is taken back ends no serve under way. When several jobs of one requester have made the same object, take
//! the grant back with the last of them.

mod grants;
mod lists;
mod outgoing;

use super::message::{Fetch, RefusedCode};
use super::tree::piece_count;
use super::{StreamEvent, StreamKey, StreamOp};
use crate::codec::{DecodeError, Frame};
use crate::few::Few;
use crate::id::{Digest, OpId, OpIds, PublicKey};
use crate::limits::{REFUSALS_MAX, SERVES_MAX, SERVES_PER_PEER_MAX};
use crate::machine::{Cx, Machine};
use crate::port::{BlobAnswer, BlobFailed, BlobRequest};
use crate::store::{StoreOp, StoredRecord};
use crate::time::Deadline;
use grants::Grants;
pub use grants::Reason;
use lists::{Lists, Named};
use outgoing::{Phase, Serve, Slot};

/// What can happen to the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// The object is this requester's: the output of one of its jobs, or our own.
    Grant {
        /// Which.
        digest: Digest,
        /// Whose.
        requester: PublicKey,
        /// Why.
        reason: Reason,
    },
    /// It is that no more, for this reason.
    Revoke {
        /// Which.
        digest: Digest,
        /// Whose.
        requester: PublicKey,
        /// Why it was.
        reason: Reason,
    },
    /// A peer opened a transfer stream, and this is its first frame. The stream is the machine's from now on; there is no
    /// standing read on it.
    Request {
        /// The stream.
        stream: StreamKey,
        /// Who, proven by TLS.
        peer: PublicKey,
        /// What it says.
        frame: Frame,
    },
    /// Something happened on a stream that a peer opened.
    Stream {
        /// Which.
        stream: StreamKey,
        /// What.
        event: StreamEvent,
    },
    /// The store answers.
    Blob {
        /// The request.
        op: OpId,
        /// Its answer.
        result: Result<BlobAnswer, BlobFailed>,
    },
}

/// What the server asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Write this to the journal.
    Persist(StoreOp),
    /// Do this on a stream.
    Stream {
        /// Which.
        stream: StreamKey,
        /// What.
        op: StreamOp,
    },
    /// Ask the store; answered exactly once by [`Input::Blob`].
    Blob {
        /// The request.
        op: OpId,
        /// What.
        request: BlobRequest,
    },
    /// There is no room for this grant: the object cannot be fetched from here.
    GrantFull {
        /// Which.
        digest: Digest,
        /// Whose.
        requester: PublicKey,
    },
    /// All that was asked for was handed to the transport.
    Served {
        /// To whom.
        peer: PublicKey,
        /// Of which object.
        digest: Digest,
        /// Bytes of content.
        bytes: u64,
    },
    /// A peer broke the protocol: evidence for its score.
    Fault {
        /// Who.
        peer: PublicKey,
        /// How.
        why: DecodeError,
    },
}

/// What was counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Requests that were served to the end.
    pub served: u64,
    /// Bytes of content handed to the transport.
    pub bytes: u64,
    /// Requests for what is not here or not the peer's.
    pub unavailable: u64,
    /// Requests over the limits.
    pub busy: u64,
    /// Requests that broke the protocol.
    pub malformed: u64,
    /// Serves that ended early: the consumer went or stalled.
    pub abandoned: u64,
    /// Serves that our own store broke.
    pub store_failed: u64,
}

/// The machine that serves objects.
#[derive(Debug)]
pub struct Server {
    ids: OpIds,
    grants: Grants,
    serves: Few<StreamKey, Serve>,
    ops: Few<OpId, StreamKey>,
    lists: Lists,
    refusals: usize,
    counts: Counts,
}

/// How a serve ended.
enum End {
    Done,
    Abandoned,
    StoreFailed,
}

impl Server {
    /// Grants as they are durable (records of other rooms are passed over); requests are numbered in `room`.
    pub fn restore(room: u8, records: &[StoredRecord]) -> Result<Self, DecodeError> {
        Ok(Self {
            ids: OpIds::new(room),
            grants: Grants::restore(records)?,
            serves: Few::new(),
            ops: Few::new(),
            lists: Lists::default(),
            refusals: 0,
            counts: Counts::default(),
        })
    }

    /// What was counted since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Objects being served.
    pub fn serving(&self) -> usize {
        self.serves.len() - self.refusals
    }

    /// Objects granted to anybody.
    pub fn granted(&self) -> usize {
        self.grants.len()
    }

    /// Whether `requester` may fetch `digest` from here without a ticket.
    pub fn is_granted(&self, digest: &Digest, requester: &PublicKey) -> bool {
        self.grants.allows(digest, requester)
    }

    /// Whether `requester` may fetch `digest` from here for this reason, whatever others there are.
    pub fn is_granted_for(&self, digest: &Digest, requester: &PublicKey, reason: Reason) -> bool {
        self.grants.has(digest, requester, reason)
    }

    /// What `requester` may fetch from here for this reason.
    pub fn granted_for(&self, requester: &PublicKey, reason: Reason) -> impl Iterator<Item = Digest> {
        self.grants.of(requester, reason)
    }

    fn request(&mut self, cx: &mut Cx<'_, Output>, stream: StreamKey, peer: PublicKey, frame: &Frame) {
        if self.serves.contains_key(&stream) {
            return;
        }
        let fetch = match Fetch::from_frame(frame) {
            Ok(fetch) => fetch,
            Err(why) => {
                self.counts.malformed += 1;
                cx.emit(Output::Stream { stream, op: StreamOp::Reset });
                return cx.emit(Output::Fault { peer, why });
            }
        };
        // Limits come first: they depend on nothing the peer should not know.
        let with_peer =
            self.serves.values().filter(|s| s.peer == peer && !matches!(s.phase, Phase::Refusing)).count();
        // A further stream for an object under way leaves room for those who have none.
        let serving = |s: &Serve| !matches!(s.phase, Phase::Refusing);
        let beside = self.serves.values().any(|s| serving(s) && s.peer == peer && s.digest == fetch.digest);
        let room = if beside { SERVES_MAX / 2 } else { SERVES_MAX };
        if self.serving() >= room || with_peer >= SERVES_PER_PEER_MAX {
            self.counts.busy += 1;
            return self.refuse_new(cx, stream, peer, fetch, RefusedCode::Busy);
        }
        let given = fetch.under.unwrap_or(fetch.digest);
        let granted = |to: &PublicKey| match fetch.under {
            Some(directory) => self.grants.allows_files(&directory, to),
            None => self.grants.allows(&given, to),
        };
        let own = granted(&peer);
        let by_ticket =
            fetch.ticket.as_ref().is_some_and(|t| t.allows(&given, &peer, cx.wall) && granted(t.requester()));
        let refused = match (own || by_ticket, fetch.under) {
            (false, _) => Some(RefusedCode::Unavailable),
            (true, None) => None,
            (true, Some(under)) => match self.lists.ask(cx, &mut self.ids, under, &fetch.digest, stream) {
                Named::Yes => None,
                Named::No => Some(RefusedCode::Unavailable),
                Named::Busy => Some(RefusedCode::Busy),
                Named::Later => {
                    self.serves.insert(stream, Serve::new(peer, fetch, Phase::Listing(under)));
                    return cx.emit(Output::Stream { stream, op: StreamOp::Read { max: 1 } });
                }
            },
        };
        if let Some(code) = refused {
            match code {
                RefusedCode::Busy => self.counts.busy += 1,
                RefusedCode::Unavailable
                | RefusedCode::Range
                | RefusedCode::Store
                | RefusedCode::Other(_) => {
                    self.counts.unavailable += 1;
                }
            }
            return self.refuse_new(cx, stream, peer, fetch, code);
        }
        let op = self.open(cx, stream, fetch.digest);
        self.serves.insert(stream, Serve::new(peer, fetch, Phase::Opening(op)));
        // The end of the request, or the news that the consumer went.
        cx.emit(Output::Stream { stream, op: StreamOp::Read { max: 1 } });
    }

    fn open(&mut self, cx: &mut Cx<'_, Output>, stream: StreamKey, digest: Digest) -> OpId {
        let op = self.ids.issue();
        self.ops.insert(op, stream);
        cx.emit(Output::Blob { op, request: BlobRequest::Open { digest } });
        op
    }

    /// What a directory has is known now, or will not be: the answer to those who wait for it.
    fn listed(&mut self, cx: &mut Cx<'_, Output>, waiting: Vec<StreamKey>) {
        for stream in waiting {
            let Some(serve) = self.serves.get(&stream) else { continue };
            let (digest, under) = match serve.phase {
                Phase::Listing(under) => (serve.digest, under),
                Phase::Opening(_) | Phase::Streaming | Phase::Refusing => continue,
            };
            if !self.lists.is_named(&under, &digest) {
                self.refuse(cx, stream, RefusedCode::Unavailable);
                continue;
            }
            let op = self.open(cx, stream, digest);
            if let Some(serve) = self.serves.get_mut(&stream) {
                serve.phase = Phase::Opening(op);
            }
        }
    }

    fn refuse_new(
        &mut self,
        cx: &mut Cx<'_, Output>,
        stream: StreamKey,
        peer: PublicKey,
        fetch: Fetch,
        code: RefusedCode,
    ) {
        if self.refusals >= REFUSALS_MAX {
            return cx.emit(Output::Stream { stream, op: StreamOp::Reset });
        }
        self.refusals += 1;
        let mut serve = Serve::new(peer, fetch, Phase::Refusing);
        serve.refuse(cx, stream, code);
        self.serves.insert(stream, serve);
        cx.emit(Output::Stream { stream, op: StreamOp::Read { max: 1 } });
    }

    fn stream(&mut self, cx: &mut Cx<'_, Output>, stream: StreamKey, event: StreamEvent) {
        let Some(serve) = self.serves.get_mut(&stream) else { return };
        match event {
            StreamEvent::Sent => {
                if let Some((bytes, content)) = serve.sending.take() {
                    serve.stall_at = None;
                    serve.held = serve.held.saturating_sub(bytes);
                    if content {
                        serve.sent_content += bytes;
                        self.counts.bytes += bytes;
                    }
                    self.pump(cx, stream);
                }
            }
            StreamEvent::End => {}
            StreamEvent::Bytes(_) => {
                self.counts.malformed += 1;
                let why = DecodeError::Bencode("bytes behind the request".into());
                cx.emit(Output::Fault { peer: serve.peer, why });
                self.end(cx, stream, End::Abandoned);
            }
            StreamEvent::Gone => {
                self.counts.abandoned += 1;
                self.forget(stream);
            }
        }
    }

    fn blob(&mut self, cx: &mut Cx<'_, Output>, op: OpId, result: Result<BlobAnswer, BlobFailed>) {
        if let Some(waiting) = self.lists.answered(cx, &mut self.ids, op, &result) {
            return self.listed(cx, waiting);
        }
        let Some(stream) = self.ops.remove(&op) else { return };
        let Some(serve) = self.serves.get_mut(&stream) else { return };
        if matches!(serve.phase, Phase::Opening(o) if o == op) {
            match result {
                Ok(BlobAnswer::Info(info)) if serve.want_end <= piece_count(info.len) => serve.begin(info),
                Ok(BlobAnswer::Info(_)) => self.refuse(cx, stream, RefusedCode::Range),
                Err(BlobFailed::NotFound) => self.refuse(cx, stream, RefusedCode::Unavailable),
                Ok(
                    BlobAnswer::Bytes(_)
                    | BlobAnswer::Partial { .. }
                    | BlobAnswer::Written
                    | BlobAnswer::Sealed
                    | BlobAnswer::Removed
                    | BlobAnswer::Missing(_),
                )
                | Err(BlobFailed::Full | BlobFailed::Corrupt | BlobFailed::Io(_)) => {
                    self.refuse(cx, stream, RefusedCode::Store);
                }
            }
        } else if !serve.filled(op, result) {
            // Only a reset says that it is not the object that ends here.
            return self.end(cx, stream, End::StoreFailed);
        }
        self.pump(cx, stream);
    }

    fn refuse(&mut self, cx: &mut Cx<'_, Output>, stream: StreamKey, code: RefusedCode) {
        match code {
            RefusedCode::Unavailable => self.counts.unavailable += 1,
            RefusedCode::Busy => self.counts.busy += 1,
            RefusedCode::Range => self.counts.malformed += 1,
            RefusedCode::Store | RefusedCode::Other(_) => self.counts.store_failed += 1,
        }
        if let Some(serve) = self.serves.get_mut(&stream) {
            serve.phase = Phase::Refusing;
            serve.refuse(cx, stream, code);
            self.refusals += 1;
        }
    }

    /// Reads ahead and sends, as far as the credits go.
    fn pump(&mut self, cx: &mut Cx<'_, Output>, stream: StreamKey) {
        let Some(serve) = self.serves.get_mut(&stream) else { return };
        while let Some(range) = serve.next_read() {
            let (offset, bytes) = (range.start, range.end - range.start);
            let op = self.ids.issue();
            self.ops.insert(op, stream);
            serve.slots.push_back(Slot::Reading { op, bytes });
            serve.held += bytes;
            let len = u32::try_from(bytes).unwrap_or(u32::MAX);
            cx.emit(Output::Blob { op, request: BlobRequest::Read { digest: serve.digest, offset, len } });
        }
        serve.send(cx, stream);
        if serve.is_done() {
            self.end(cx, stream, End::Done);
        }
    }

    fn end(&mut self, cx: &mut Cx<'_, Output>, stream: StreamKey, end: End) {
        let Some(serve) = self.forget(stream) else { return };
        match end {
            End::Done => {
                cx.emit(Output::Stream { stream, op: StreamOp::Finish });
                cx.emit(Output::Stream { stream, op: StreamOp::Release });
                if !matches!(serve.phase, Phase::Refusing) {
                    self.counts.served += 1;
                    let (peer, digest) = (serve.peer, serve.digest);
                    cx.emit(Output::Served { peer, digest, bytes: serve.sent_content });
                }
            }
            End::Abandoned => {
                self.counts.abandoned += 1;
                cx.emit(Output::Stream { stream, op: StreamOp::Reset });
            }
            End::StoreFailed => {
                self.counts.store_failed += 1;
                cx.emit(Output::Stream { stream, op: StreamOp::Reset });
            }
        }
    }

    fn forget(&mut self, stream: StreamKey) -> Option<Serve> {
        let serve = self.serves.remove(&stream)?;
        match serve.phase {
            Phase::Refusing => self.refusals -= 1,
            Phase::Opening(op) => {
                self.ops.remove(&op);
            }
            Phase::Listing(_) | Phase::Streaming => {}
        }
        for slot in &serve.slots {
            match slot {
                Slot::Reading { op, .. } => {
                    self.ops.remove(op);
                }
                Slot::Ready { .. } => {}
            }
        }
        Some(serve)
    }

    /// The most bytes any serve holds.
    #[cfg(test)]
    pub(super) fn held_max(&self) -> u64 {
        self.serves.values().map(|s| s.held).max().unwrap_or(0)
    }

    /// Requests to the store not yet answered.
    #[cfg(test)]
    pub(super) fn ops_outstanding(&self) -> usize {
        self.ops.len() + self.lists.ops_outstanding()
    }
}

impl Machine for Server {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Grant { digest, requester, reason } => {
                match self.grants.grant(digest, requester, reason) {
                    Ok(Some(op)) => cx.emit(Output::Persist(op)),
                    Ok(None) => {}
                    Err(()) => cx.emit(Output::GrantFull { digest, requester }),
                }
            }
            Input::Revoke { digest, requester, reason } => {
                if let Some(op) = self.grants.revoke(&digest, &requester, reason) {
                    cx.emit(Output::Persist(op));
                }
            }
            Input::Request { stream, peer, frame } => self.request(cx, stream, peer, &frame),
            Input::Stream { stream, event } => self.stream(cx, stream, event),
            Input::Blob { op, result } => self.blob(cx, op, result),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        let due = |s: &Serve| s.stall_at.is_some_and(|at| at <= cx.now);
        let stalled: Vec<StreamKey> = self.serves.iter().filter(|(_, s)| due(s)).map(|(k, _)| *k).collect();
        for stream in stalled {
            self.end(cx, stream, End::Abandoned);
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let first = self.serves.values().filter_map(|s| s.stall_at).min()?;
        Some(Deadline::new(first, "a consumer takes bytes"))
    }
}
