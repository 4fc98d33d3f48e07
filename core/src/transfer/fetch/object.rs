//! One object on its way here: the store on one side, one source at a time on the other.
//!
//! ```text
//! to look → looking → to start → [removing] → no list → creating → open → sealing → end
//! ```
//! The link to a source lives beside these steps. A first request asks for the piece list and all pieces at once; reading
//! stops behind the list until the store has said what it has of the object. If it has nothing, reading goes on; if it
//! has pieces from before a restart, the stream is given up and another asks for the rest only.
//!
//! Under a claim (see [`super`]) what the store has spares the writing and not the fetching: the steps are the same, and an
//! object that is here whole goes straight to *open* and ends without sealing.

use super::incoming::{Incoming, Taken};
use super::missing::Missing;
use super::sources::{Choice, Sources};
use super::{FetchError, Key, Output, Shared, SourceFault};
use crate::id::{OpId, PublicKey};
use crate::limits::{FETCH_OPEN_TIMEOUT, FETCH_READ_BYTES_MAX, FETCH_STALL_AFTER, FETCH_WRITES_PENDING_MAX};
use crate::machine::Cx;
use crate::port::{BlobAnswer, BlobFailed, BlobInfo, BlobRequest};
use crate::ticket::Ticket;
use crate::time::{Deadline, Instant};
use crate::transfer::message::{Fetch, PieceRanges};
use crate::transfer::tree::{piece_count, piece_range, short_list, verify_info};
use crate::transfer::{StreamEvent, StreamKey, StreamOp};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Fewer bytes than this in [`FETCH_STALL_AFTER`] count as none: a source that drips must not hold a place for ever.
const STALL_BYTES_MIN: usize = 4 * 1024;
/// Times a damaged object is thrown away and fetched anew.
const REPAIRS_MAX: u32 = 1;

type FetchCx<'a> = Cx<'a, Output>;

/// How it ended.
pub(super) type End = Result<(), FetchError>;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    ToLook,
    Looking(OpId),
    ToStart { damaged: bool },
    Removing(OpId),
    NoList,
    Creating(OpId),
    Open,
    Sealing(OpId),
}

#[derive(Debug)]
enum Link {
    None,
    Pause(Instant),
    Opening { op: OpId, source: usize, until: Instant },
    Up(Box<Stream>),
}

#[derive(Debug)]
struct Stream {
    key: StreamKey,
    source: usize,
    incoming: Incoming,
    /// The pieces asked for before the store said what it has.
    guessed: bool,
    /// The request is on its way out.
    sending: bool,
    asked: Option<usize>,
    stall_at: Option<Instant>,
    bytes_since: usize,
}

/// One object.
#[derive(Debug)]
pub(super) struct Object {
    key: Key,
    pub(super) step: Step,
    pub(super) sources: Sources,
    info: Option<BlobInfo>,
    /// Pieces to be fetched.
    missing: Missing,
    /// Pieces the store lacks.
    unwritten: Missing,
    /// Under a claim: pieces that the requester has not shown yet.
    unproven: Option<Missing>,
    /// Under a claim: the object is in the store.
    whole: bool,
    writes: BTreeMap<OpId, u64>,
    written_bytes: u64,
    repairs: u32,
    link: Link,
}

impl Object {
    /// An object that somebody wants.
    /// `unproven`: what the same claim had still to show when it failed.
    pub(super) fn new(key: Key, unproven: Option<Missing>) -> Self {
        let unproven = key.2.map(|_| unproven.unwrap_or_else(|| Missing::all(piece_count(key.1))));
        Self {
            key,
            step: Step::ToLook,
            sources: Sources::default(),
            info: None,
            missing: Missing::all(0),
            unwritten: Missing::all(0),
            unproven,
            whole: false,
            writes: BTreeMap::new(),
            written_bytes: 0,
            repairs: 0,
            link: Link::None,
        }
    }

    /// Another source; asked at once when all others are pausing.
    pub(super) fn add_source(
        &mut self,
        cx: &mut FetchCx<'_>,
        sh: &mut Shared,
        peer: PublicKey,
        t: Option<Ticket>,
    ) {
        if self.sources.add(peer, t) && matches!(self.link, Link::Pause(_)) {
            self.link = Link::None;
            // A source that was never tried is there, so this cannot be the end.
            let _end = self.connect(cx, sh);
        }
    }

    /// Looks whether the store has it.
    pub(super) fn look(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) {
        self.step = Step::Looking(sh.blob(cx, self.key, BlobRequest::Open { digest: self.key.0 }));
    }

    /// Its turn has come.
    pub(super) fn start(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) -> Option<End> {
        self.unwritten = Missing::all(piece_count(self.key.1));
        self.missing = self.unwritten.clone();
        if self.whole {
            return self.prove(cx, sh);
        }
        if self.step == (Step::ToStart { damaged: true }) {
            self.step = Step::Removing(sh.blob(cx, self.key, BlobRequest::Remove { digest: self.key.0 }));
            return None;
        }
        self.create_or_connect(cx, sh)
    }

    /// The object is here, and its requester has to show that it was given it.
    fn prove(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) -> Option<End> {
        self.whole = true;
        self.step = Step::Open;
        self.unwritten = Missing::all(0);
        self.missing = self.unproven.clone().unwrap_or_else(|| Missing::all(0));
        if self.missing.left() == 0 {
            self.drop_link(cx, sh);
            return Some(Ok(()));
        }
        self.pull(cx, sh);
        self.connect(cx, sh)
    }

    /// Whether it may write to the store: not when the object is there and only a right to it is to be shown.
    pub(super) fn writes(&self) -> bool {
        !self.whole
    }

    /// What a claim that failed had still to show.
    pub(super) fn unproven(&mut self) -> Option<Missing> {
        self.unproven.take()
    }

    fn create_or_connect(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) -> Option<End> {
        let (digest, len, _) = self.key;
        self.step = Step::NoList;
        if self.info.is_none()
            && let Some(pieces) = short_list(&digest, len)
        {
            let info = BlobInfo { len, pieces };
            if !verify_info(&digest, &info) {
                return Some(Err(FetchError::NoSuchObject));
            }
            self.info = Some(info);
        }
        self.create(cx, sh);
        self.connect(cx, sh)
    }

    fn create(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) {
        if let Some(info) = self.info.clone() {
            let digest = self.key.0;
            self.step = Step::Creating(sh.blob(cx, self.key, BlobRequest::Create { digest, info }));
        }
    }

    /// Turns to the next source when one is needed and none is there.
    fn connect(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) -> Option<End> {
        if self.missing.left() == 0 || !matches!(self.link, Link::None) {
            return None;
        }
        match self.sources.choose(cx.rng) {
            Choice::Ask(source) => self.open(cx, sh, source),
            Choice::Pause(pause) => self.link = Link::Pause(cx.now + pause),
            Choice::Nobody => {
                return Some(Err(FetchError::NoSource(std::mem::take(&mut self.sources).faults())));
            }
        }
        None
    }

    fn open(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, source: usize) {
        let Some(peer) = self.sources.peer(source) else { return };
        let op = sh.issue(self.key);
        cx.emit(Output::Open { op, peer });
        self.link = Link::Opening { op, source, until: cx.now + FETCH_OPEN_TIMEOUT };
    }

    /// The stream is open: asks for what is missing.
    pub(super) fn opened(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, op: OpId, key: StreamKey) {
        let Link::Opening { op: expected, source, .. } = self.link else { return };
        if op != expected {
            return;
        }
        sh.streams.insert(key, self.key);
        let want = PieceRanges::of(self.missing.iter());
        let list = self.info.is_none();
        let ticket = self.sources.ticket(source);
        let request = Fetch { digest: self.key.0, ticket, list, want: want.clone() };
        cx.emit(Output::Stream {
            stream: key,
            op: StreamOp::Send { bytes: request.to_frame().encode().into() },
        });
        self.link = Link::Up(Box::new(Stream {
            key,
            source,
            incoming: Incoming::new(list, want),
            guessed: self.step != Step::Open,
            sending: true,
            asked: None,
            stall_at: Some(cx.now + FETCH_STALL_AFTER),
            bytes_since: 0,
        }));
    }

    /// The stream could not be opened.
    pub(super) fn open_failed(
        &mut self,
        cx: &mut FetchCx<'_>,
        sh: &mut Shared,
        op: OpId,
        why: String,
    ) -> Option<End> {
        match self.link {
            Link::Opening { op: expected, .. } if op == expected => {
                self.fault(cx, sh, SourceFault::Unreachable(why))
            }
            Link::Opening { .. } | Link::None | Link::Pause(_) | Link::Up(_) => None,
        }
    }

    /// Something happened on the stream.
    pub(super) fn stream(
        &mut self,
        cx: &mut FetchCx<'_>,
        sh: &mut Shared,
        event: StreamEvent,
    ) -> Option<End> {
        let Link::Up(stream) = &mut self.link else { return None };
        match event {
            StreamEvent::Sent => {
                if std::mem::replace(&mut stream.sending, false) {
                    stream.stall_at = None;
                    cx.emit(Output::Stream { stream: stream.key, op: StreamOp::Finish });
                    self.pull(cx, sh);
                }
                None
            }
            StreamEvent::Bytes(bytes) => self.bytes(cx, sh, bytes),
            StreamEvent::End => self.fault(cx, sh, SourceFault::Short),
            StreamEvent::Gone => {
                sh.streams.remove(&stream.key);
                self.fault(cx, sh, SourceFault::Lost)
            }
        }
    }

    fn bytes(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, bytes: Bytes) -> Option<End> {
        let Link::Up(stream) = &mut self.link else { return None };
        let asked = stream.asked.take();
        if bytes.is_empty() || asked.is_none_or(|max| bytes.len() > max) {
            // Not what was asked for: the fault is on this side of the stream, the source is only lost.
            return self.fault(cx, sh, SourceFault::Lost);
        }
        stream.bytes_since += bytes.len();
        if stream.bytes_since >= STALL_BYTES_MIN {
            stream.bytes_since = 0;
            stream.stall_at = None;
        }
        match stream.incoming.take(self.key.1, bytes) {
            Err(fault) => return self.fault(cx, sh, fault),
            Ok(Taken::More) => {}
            Ok(Taken::List(pieces)) => {
                let info = BlobInfo { len: self.key.1, pieces };
                if !verify_info(&self.key.0, &info) {
                    return self.fault(cx, sh, SourceFault::WrongList);
                }
                self.info = Some(info);
                self.create(cx, sh);
            }
            Ok(Taken::Piece(piece, bytes)) => self.write(cx, sh, piece, bytes),
        }
        if self.whole && self.missing.left() == 0 {
            self.drop_link(cx, sh);
            return Some(Ok(()));
        }
        self.pull(cx, sh);
        None
    }

    fn write(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, piece: u32, bytes: Vec<Bytes>) {
        if !self.missing.remove(piece) {
            return;
        }
        self.sources.progressed();
        if let Some(unproven) = &mut self.unproven {
            unproven.remove(piece);
        }
        if self.unwritten.remove(piece) {
            let digest = self.key.0;
            let op = sh.blob(cx, self.key, BlobRequest::Write { digest, piece, bytes });
            let range = piece_range(self.key.1, piece);
            self.writes.insert(op, range.end - range.start);
        }
    }

    /// Asks for the next bytes, if there is room for them.
    fn pull(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) {
        let Link::Up(stream) = &mut self.link else { return };
        if stream.asked.is_some() || stream.sending {
            return;
        }
        if stream.incoming.wanted() == 0 {
            let room = self.writes.len() < FETCH_WRITES_PENDING_MAX;
            let Some(info) = self.info.as_ref().filter(|_| room && self.step == Step::Open) else {
                // Waiting for the store is no stall of the source.
                stream.stall_at = None;
                return;
            };
            if !stream.incoming.begin(info) {
                return self.answered(cx, sh);
            }
            stream.stall_at = None;
            stream.bytes_since = 0;
        }
        let max = stream.incoming.wanted().min(FETCH_READ_BYTES_MAX);
        stream.asked = Some(max);
        stream.stall_at = stream.stall_at.or(Some(cx.now + FETCH_STALL_AFTER));
        cx.emit(Output::Stream { stream: stream.key, op: StreamOp::Read { max } });
    }

    /// The source gave all that was asked for. More holes than a request has room for are asked for in the next.
    fn answered(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) {
        let Link::Up(stream) = std::mem::replace(&mut self.link, Link::None) else { return };
        sh.streams.remove(&stream.key);
        cx.emit(Output::Stream { stream: stream.key, op: StreamOp::Release });
        if self.missing.left() > 0 {
            self.open(cx, sh, stream.source);
        }
    }

    /// The store answers.
    pub(super) fn blob(
        &mut self,
        cx: &mut FetchCx<'_>,
        sh: &mut Shared,
        op: OpId,
        result: Result<BlobAnswer, BlobFailed>,
    ) -> Option<End> {
        match (&self.step, result) {
            (Step::Looking(o), result) if *o == op => self.looked(result),
            (Step::Removing(o), Ok(BlobAnswer::Removed) | Err(BlobFailed::NotFound)) if *o == op => {
                self.create_or_connect(cx, sh)
            }
            (Step::Creating(o), Ok(BlobAnswer::Partial { have })) if *o == op => self.created(cx, sh, &have),
            (Step::Creating(o), Ok(BlobAnswer::Info(info))) if *o == op => match self.unproven {
                Some(_) => self.prove(cx, sh),
                None => Some(self.has_len(&info)),
            },
            (Step::Sealing(o), Ok(BlobAnswer::Sealed)) if *o == op => Some(Ok(())),
            (Step::Creating(o), Err(BlobFailed::Corrupt)) if *o == op => {
                self.repair(cx, sh, BlobFailed::Corrupt)
            }
            (Step::Sealing(o), Err(e @ (BlobFailed::Corrupt | BlobFailed::NotFound))) if *o == op => {
                self.repair(cx, sh, e)
            }
            (_, Ok(BlobAnswer::Written)) if self.writes.contains_key(&op) => self.written(cx, sh, op),
            (_, Err(e)) => Some(Err(FetchError::Store(e))),
            (_, Ok(_)) => {
                Some(Err(FetchError::Store(BlobFailed::Io("an answer to another question".into()))))
            }
        }
    }

    fn looked(&mut self, result: Result<BlobAnswer, BlobFailed>) -> Option<End> {
        let damaged = match result {
            Ok(BlobAnswer::Info(info)) if self.unproven.is_none() => return Some(self.has_len(&info)),
            // What the requester says of another object's length is none of its business to learn.
            Ok(BlobAnswer::Info(info)) => {
                self.whole = info.len == self.key.1;
                self.info = self.whole.then_some(info);
                false
            }
            Err(BlobFailed::NotFound) => false,
            Err(BlobFailed::Corrupt) => true,
            Err(e @ (BlobFailed::Full | BlobFailed::Io(_))) => return Some(Err(FetchError::Store(e))),
            Ok(
                BlobAnswer::Bytes(_)
                | BlobAnswer::Partial { .. }
                | BlobAnswer::Written
                | BlobAnswer::Sealed
                | BlobAnswer::Removed,
            ) => {
                return Some(Err(FetchError::Store(BlobFailed::Io("an answer to another question".into()))));
            }
        };
        self.step = Step::ToStart { damaged };
        None
    }

    fn has_len(&self, info: &BlobInfo) -> End {
        match info.len == self.key.1 {
            true => Ok(()),
            false => Err(FetchError::WrongLength { actual: info.len }),
        }
    }

    fn created(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, have: &[u8]) -> Option<End> {
        self.step = Step::Open;
        let before = self.missing.left();
        for piece in 0..piece_count(self.key.1) {
            let there = have.get(piece as usize / 8).is_some_and(|byte| byte >> (piece % 8) & 1 == 1);
            let proven = !self.unproven.as_ref().is_some_and(|u| u.contains(piece));
            if there && self.unwritten.remove(piece) {
                let range = piece_range(self.key.1, piece);
                self.written_bytes += range.end - range.start;
                if proven {
                    self.missing.remove(piece);
                }
            }
        }
        // What was asked for before this was known holds pieces that are here: ask the same source for the others.
        if self.missing.left() < before
            && let Link::Up(stream) = &self.link
            && stream.guessed
        {
            let source = stream.source;
            self.drop_link(cx, sh);
            if self.missing.left() > 0 {
                self.open(cx, sh, source);
            }
        }
        self.pull(cx, sh);
        self.seal_when_whole(cx, sh);
        None
    }

    fn written(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, op: OpId) -> Option<End> {
        self.written_bytes += self.writes.remove(&op).unwrap_or(0);
        let (digest, len, _) = self.key;
        cx.emit(Output::Progress { digest, len, done: self.written_bytes });
        self.pull(cx, sh);
        self.seal_when_whole(cx, sh);
        None
    }

    fn seal_when_whole(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) {
        if self.step == Step::Open && !self.whole && self.missing.left() == 0 && self.writes.is_empty() {
            self.drop_link(cx, sh);
            self.step = Step::Sealing(sh.blob(cx, self.key, BlobRequest::Seal { digest: self.key.0 }));
        }
    }

    /// What is on disk is damaged: away with it and once more from the start.
    fn repair(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, why: BlobFailed) -> Option<End> {
        if self.repairs >= REPAIRS_MAX {
            return Some(Err(FetchError::Store(why)));
        }
        self.repairs += 1;
        self.drop_link(cx, sh);
        self.unwritten = Missing::all(piece_count(self.key.1));
        self.missing = self.unwritten.clone();
        self.written_bytes = 0;
        self.step = Step::Removing(sh.blob(cx, self.key, BlobRequest::Remove { digest: self.key.0 }));
        None
    }

    /// The source failed: the next one goes on from the pieces that are here.
    fn fault(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, fault: SourceFault) -> Option<End> {
        let source = match &self.link {
            Link::Opening { source, .. } => *source,
            Link::Up(stream) => stream.source,
            Link::None | Link::Pause(_) => return None,
        };
        self.drop_link(cx, sh);
        if self.sources.failed(source, fault.clone())
            && let Some(peer) = self.sources.peer(source)
        {
            cx.emit(Output::Lied { peer, digest: self.key.0, fault });
        }
        self.connect(cx, sh)
    }

    /// Gives the link up, whatever its state.
    pub(super) fn drop_link(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) {
        match std::mem::replace(&mut self.link, Link::None) {
            Link::None | Link::Pause(_) => {}
            Link::Opening { op, .. } => sh.abandon(op),
            Link::Up(stream) => {
                // Not there any more when the stream itself is gone.
                if sh.streams.remove(&stream.key).is_some() {
                    cx.emit(Output::Stream { stream: stream.key, op: StreamOp::Reset });
                }
            }
        }
    }

    /// Time passed.
    pub(super) fn timeout(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) -> Option<End> {
        self.deadline().filter(|d| d.at <= cx.now)?;
        match &self.link {
            Link::None => None,
            Link::Pause(_) => {
                self.link = Link::None;
                self.connect(cx, sh)
            }
            Link::Opening { .. } | Link::Up(_) => self.fault(cx, sh, SourceFault::Stalled),
        }
    }

    /// When it wants to be woken.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        match &self.link {
            Link::None => None,
            Link::Pause(at) => Some(Deadline::new(*at, "sources are asked again")),
            Link::Opening { until, .. } => Some(Deadline::new(*until, "stream to a source")),
            Link::Up(stream) => stream.stall_at.map(|at| Deadline::new(at, "bytes of a source")),
        }
    }

    /// Bytes held in memory, for the bound that tests check.
    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        let arriving = match &self.link {
            Link::Up(stream) => stream.incoming.held() as u64,
            Link::None | Link::Pause(_) | Link::Opening { .. } => 0,
        };
        self.writes.values().sum::<u64>() + arriving
    }
}
