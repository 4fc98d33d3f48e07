//! One object on its way here: the store on one side, the sources on the other.
//!
//! ```text
//! to look → looking → to start → [removing] → no list → creating → open → sealing → end
//! ```
//! The lanes to the sources ([`super::lane`]) live beside these steps. A first request asks for the piece list and a share
//! of the pieces at once; reading stops behind the list until the store has said what it has of the object. If it has
//! nothing, reading goes on; if it has pieces from before a restart, the stream is given up and another asks for what is
//! missing only. Then further lanes open, to other sources and beside the first. A lane that fails gives its share back; only
//! when a source has no other lane is it the source that failed.
//!
//! Under a claim (see [`super`]) what the store has spares the writing and not the fetching: the steps are the same, and an
//! object that is here whole goes straight to *open* and ends without sealing.

use super::incoming::{Incoming, Taken};
use super::lane::{Lane, SHARE_PIECES_MIN, State, Stream, held_max, lanes_max, share_of};
use super::missing::Missing;
use super::sources::{Choice, Sources};
use super::{FetchError, Key, Output, Shared, SourceFault};
use crate::id::{Digest, OpId, PublicKey};
use crate::limits::{FETCH_LANES_PER_PEER, FETCH_OPEN_TIMEOUT, FETCH_READ_BYTES_MAX, FETCH_STALL_AFTER};
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

/// One object.
#[derive(Debug)]
pub(super) struct Object {
    key: Key,
    pub(super) step: Step,
    pub(super) sources: Sources,
    info: Option<BlobInfo>,
    /// Pieces to be fetched.
    missing: Missing,
    /// Those of them that no lane asks for.
    unasked: Missing,
    /// Pieces the store lacks.
    unwritten: Missing,
    /// Under a claim: pieces that the requester has not shown yet.
    unproven: Option<Missing>,
    /// Under a claim: the object is in the store.
    whole: bool,
    writes: BTreeMap<OpId, u64>,
    written_bytes: u64,
    repairs: u32,
    lanes: Vec<Lane>,
    /// All sources failed; they are asked again then.
    pause: Option<Instant>,
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
            unasked: Missing::all(0),
            unwritten: Missing::all(0),
            unproven,
            whole: false,
            writes: BTreeMap::new(),
            written_bytes: 0,
            repairs: 0,
            lanes: Vec::new(),
            pause: None,
        }
    }

    /// Another source; asked at once when all others are pausing, or when one more is of use.
    pub(super) fn add_source(
        &mut self,
        cx: &mut FetchCx<'_>,
        sh: &mut Shared,
        peer: PublicKey,
        t: Option<Ticket>,
        under: Option<Digest>,
    ) {
        if self.sources.add(peer, t, under) && (self.pause.take().is_some() || !self.lanes.is_empty()) {
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
        self.unasked = self.missing.clone();
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
            self.drop_lanes(cx, sh);
            return Some(Ok(()));
        }
        self.unasked = self.missing.clone();
        for stream in self.lanes.iter().filter_map(Lane::stream) {
            stream.share.iter().for_each(|piece| {
                self.unasked.remove(piece);
            });
        }
        self.pull_all(cx, sh);
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

    /// Turns to the sources as far as they are needed: to the next one when none is asked, to more of them when that is of use.
    fn connect(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) -> Option<End> {
        if self.missing.left() == 0 || self.pause.is_some() {
            return None;
        }
        if !self.lanes.is_empty() {
            self.widen(cx, sh);
            return None;
        }
        match self.sources.choose(cx.rng) {
            Choice::Ask(source) => self.open(cx, sh, source),
            Choice::Pause(pause) => self.pause = Some(cx.now + pause),
            Choice::Nobody => {
                return Some(Err(FetchError::NoSource(std::mem::take(&mut self.sources).faults())));
            }
        }
        None
    }

    /// Opens lanes beside those there are, while there is enough to ask for: to sources that have none, else to those that
    /// have brought us here.
    fn widen(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) {
        while self.step == Step::Open && self.lanes.len() < lanes_max(self.key.1) {
            // Those being opened will ask for a share each.
            let opening = self.lanes.iter().filter(|lane| lane.stream().is_none()).count();
            let spoken_for = u32::try_from(opening).unwrap_or(u32::MAX).saturating_mul(SHARE_PIECES_MIN);
            if self.unasked.left().saturating_sub(spoken_for) < SHARE_PIECES_MIN {
                return;
            }
            let room = |peer: &PublicKey| sh.lanes_to(peer) < FETCH_LANES_PER_PEER;
            let beside = |lane: &&Lane| {
                lane.stream().is_some()
                    && self.sources.is_wide(lane.source)
                    && self.sources.peer(lane.source).is_some_and(|peer| room(&peer))
            };
            let beside = self.lanes.iter().find(beside).map(|lane| lane.source);
            let Some(source) = self.sources.choose_untried(cx.rng, room).or(beside) else { return };
            self.open(cx, sh, source);
        }
    }

    fn open(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, source: usize) {
        let Some(peer) = self.sources.peer(source) else { return };
        let op = sh.issue(self.key);
        cx.emit(Output::Open { op, peer });
        sh.lane_begins(peer);
        self.lanes.push(Lane { source, state: State::Opening { op, until: cx.now + FETCH_OPEN_TIMEOUT } });
    }

    /// The next pieces to ask for. They are asked for from now on.
    fn next_share(&mut self) -> PieceRanges {
        let count = share_of(self.unasked.left()) as usize;
        let share = PieceRanges::of(self.unasked.iter().take(count));
        share.iter().for_each(|piece| {
            self.unasked.remove(piece);
        });
        share
    }

    /// The stream is open: asks for a share of what is missing.
    pub(super) fn opened(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, op: OpId, key: StreamKey) {
        let Some(at) = self.lanes.iter().position(|lane| lane.opens_by(op)) else { return };
        let share = self.next_share();
        let list = self.info.is_none();
        if share.is_empty() && !list {
            // The other lanes were quicker.
            cx.emit(Output::Stream { stream: key, op: StreamOp::Reset });
            self.lose_lane(sh, at);
            return;
        }
        let guessed = self.step != Step::Open;
        let Some(lane) = self.lanes.get_mut(at) else { return };
        sh.streams.insert(key, self.key);
        let ticket = self.sources.ticket(lane.source);
        let under = self.sources.under(lane.source);
        let request = Fetch { digest: self.key.0, under, ticket, list, want: share.clone() };
        cx.emit(Output::Stream {
            stream: key,
            op: StreamOp::Send { bytes: request.to_frame().encode().into() },
        });
        lane.state = State::Up(Box::new(Stream {
            key,
            incoming: Incoming::new(list, share.clone()),
            share,
            guessed,
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
        let at = self.lanes.iter().position(|lane| lane.opens_by(op))?;
        self.fault(cx, sh, at, SourceFault::Unreachable(why))
    }

    /// Something happened on a stream.
    pub(super) fn stream(
        &mut self,
        cx: &mut FetchCx<'_>,
        sh: &mut Shared,
        key: StreamKey,
        event: StreamEvent,
    ) -> Option<End> {
        let at = self.lanes.iter().position(|lane| lane.is_on(key))?;
        match event {
            StreamEvent::Sent => {
                let stream = self.lanes.get_mut(at).and_then(Lane::stream_mut)?;
                if std::mem::replace(&mut stream.sending, false) {
                    stream.stall_at = None;
                    cx.emit(Output::Stream { stream: key, op: StreamOp::Finish });
                    self.pull(cx, sh, at);
                }
                None
            }
            StreamEvent::Bytes(bytes) => self.bytes(cx, sh, at, bytes),
            StreamEvent::End => self.fault(cx, sh, at, SourceFault::Short),
            StreamEvent::Gone => {
                sh.streams.remove(&key);
                self.fault(cx, sh, at, SourceFault::Lost)
            }
        }
    }

    fn bytes(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, at: usize, bytes: Bytes) -> Option<End> {
        let stream = self.lanes.get_mut(at).and_then(Lane::stream_mut)?;
        let asked = stream.asked.take();
        if bytes.is_empty() || asked.is_none_or(|max| bytes.len() > max) {
            // Not what was asked for: the fault is on this side of the stream, the source is only lost.
            return self.fault(cx, sh, at, SourceFault::Lost);
        }
        stream.bytes_since += bytes.len();
        if stream.bytes_since >= STALL_BYTES_MIN {
            stream.bytes_since = 0;
            stream.stall_at = None;
        }
        match stream.incoming.take(self.key.1, bytes) {
            Err(fault) => return self.fault(cx, sh, at, fault),
            Ok(Taken::More) => {}
            Ok(Taken::List(pieces)) => {
                let info = BlobInfo { len: self.key.1, pieces };
                if !verify_info(&self.key.0, &info) {
                    return self.fault(cx, sh, at, SourceFault::WrongList);
                }
                self.info = Some(info);
                self.create(cx, sh);
            }
            Ok(Taken::Piece(piece, bytes)) => self.write(cx, sh, piece, bytes),
        }
        if self.whole && self.missing.left() == 0 {
            self.drop_lanes(cx, sh);
            return Some(Ok(()));
        }
        self.pull(cx, sh, at);
        // The last piece may be one that only had to be shown: then no write is left whose end would seal.
        self.seal_when_whole(cx, sh);
        None
    }

    fn write(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, piece: u32, bytes: Bytes) {
        if !self.missing.remove(piece) {
            return;
        }
        self.unasked.remove(piece);
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

    /// Asks each lane for its next bytes, if there is room for them.
    fn pull_all(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) {
        // Backwards, because a lane that is answered leaves its place, and its successor stands at the end.
        for at in (0..self.lanes.len()).rev() {
            self.pull(cx, sh, at);
        }
    }

    /// Asks for the next bytes of a lane, if there is room for them.
    fn pull(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, at: usize) {
        let held = self.writes.len() + self.lanes.iter().filter(|lane| lane.holds_a_piece()).count();
        let Some(stream) = self.lanes.get_mut(at).and_then(Lane::stream_mut) else { return };
        if stream.asked.is_some() || stream.sending {
            return;
        }
        if stream.incoming.wanted() == 0 {
            let room = held < held_max(self.key.1);
            let Some(info) = self.info.as_ref().filter(|_| room && self.step == Step::Open) else {
                // Waiting for the store is no stall of the source.
                stream.stall_at = None;
                return;
            };
            if !stream.incoming.begin(info) {
                return self.answered(cx, sh, at);
            }
            stream.stall_at = None;
            stream.bytes_since = 0;
        }
        let max = stream.incoming.wanted().min(FETCH_READ_BYTES_MAX);
        stream.asked = Some(max);
        stream.stall_at = stream.stall_at.or(Some(cx.now + FETCH_STALL_AFTER));
        cx.emit(Output::Stream { stream: stream.key, op: StreamOp::Read { max } });
    }

    /// The source gave all that was asked for: it is asked for the next share.
    fn answered(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, at: usize) {
        let Some(lane) = self.lose_lane(sh, at) else { return };
        if let Some(stream) = lane.stream() {
            sh.streams.remove(&stream.key);
            cx.emit(Output::Stream { stream: stream.key, op: StreamOp::Release });
        }
        if self.unasked.left() > 0 {
            self.open(cx, sh, lane.source);
            self.widen(cx, sh);
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
                | BlobAnswer::Removed
                | BlobAnswer::Missing(_),
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
                    self.unasked.remove(piece);
                }
            }
        }
        // What was asked for before this was known holds pieces that are here: ask the same source for others.
        let guess = self.lanes.iter().position(|lane| lane.stream().is_some_and(|s| s.guessed));
        if self.missing.left() < before
            && let Some(source) = guess.and_then(|at| self.drop_lane(cx, sh, at))
            && self.missing.left() > 0
        {
            self.open(cx, sh, source);
        }
        self.pull_all(cx, sh);
        if !self.lanes.is_empty() {
            self.widen(cx, sh);
        }
        self.seal_when_whole(cx, sh);
        None
    }

    fn written(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, op: OpId) -> Option<End> {
        self.written_bytes += self.writes.remove(&op).unwrap_or(0);
        let (digest, len, _) = self.key;
        cx.emit(Output::Progress { digest, len, done: self.written_bytes });
        self.pull_all(cx, sh);
        if !self.lanes.is_empty() {
            self.widen(cx, sh);
        }
        self.seal_when_whole(cx, sh);
        None
    }

    fn seal_when_whole(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) {
        if self.step == Step::Open && !self.whole && self.missing.left() == 0 && self.writes.is_empty() {
            self.drop_lanes(cx, sh);
            self.step = Step::Sealing(sh.blob(cx, self.key, BlobRequest::Seal { digest: self.key.0 }));
        }
    }

    /// What is on disk is damaged: away with it and once more from the start.
    fn repair(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, why: BlobFailed) -> Option<End> {
        if self.repairs >= REPAIRS_MAX {
            return Some(Err(FetchError::Store(why)));
        }
        self.repairs += 1;
        self.drop_lanes(cx, sh);
        self.unwritten = Missing::all(piece_count(self.key.1));
        self.missing = self.unwritten.clone();
        self.unasked = self.missing.clone();
        self.written_bytes = 0;
        self.step = Step::Removing(sh.blob(cx, self.key, BlobRequest::Remove { digest: self.key.0 }));
        None
    }

    /// A lane failed. Others go on from the pieces that are here.
    fn fault(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, at: usize, fault: SourceFault) -> Option<End> {
        let source = self.drop_lane(cx, sh, at)?;
        let peer = self.sources.peer(source)?;
        if !fault.is_final() && self.lanes.iter().any(|lane| lane.source == source) {
            // The source still gives. It will not have so many streams, or the others will soon say the same.
            self.sources.narrow(source);
            return self.connect(cx, sh);
        }
        if self.sources.failed(source, fault.clone()) {
            cx.emit(Output::Lied { peer, digest: self.key.0, fault });
        }
        // Whoever lied is asked over no other stream either.
        while let Some(at) = self.lanes.iter().position(|lane| self.sources.is_banned(lane.source)) {
            self.drop_lane(cx, sh, at);
        }
        self.connect(cx, sh)
    }

    /// Gives all lanes up, whatever their state.
    pub(super) fn drop_lanes(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) {
        self.pause = None;
        while !self.lanes.is_empty() {
            self.drop_lane(cx, sh, 0);
        }
    }

    /// Gives a lane up, whatever its state, and its share back. Tells whose it was.
    fn drop_lane(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared, at: usize) -> Option<usize> {
        let lane = self.lose_lane(sh, at)?;
        match lane.state {
            State::Opening { op, .. } => sh.abandon(op),
            State::Up(stream) => {
                // Not there any more when the stream itself is gone.
                if sh.streams.remove(&stream.key).is_some() {
                    cx.emit(Output::Stream { stream: stream.key, op: StreamOp::Reset });
                }
                for piece in stream.share.iter().filter(|piece| self.missing.contains(*piece)) {
                    self.unasked.insert(piece);
                }
            }
        }
        Some(lane.source)
    }

    fn lose_lane(&mut self, sh: &mut Shared, at: usize) -> Option<Lane> {
        let lane = (at < self.lanes.len()).then(|| self.lanes.remove(at))?;
        if let Some(peer) = self.sources.peer(lane.source) {
            sh.lane_ends(&peer);
        }
        Some(lane)
    }

    /// Time passed.
    pub(super) fn timeout(&mut self, cx: &mut FetchCx<'_>, sh: &mut Shared) -> Option<End> {
        if self.pause.is_some_and(|at| at <= cx.now) {
            self.pause = None;
            return self.connect(cx, sh);
        }
        let now = cx.now;
        let due = |lane: &Lane| lane.deadline().is_some_and(|d| d.at <= now);
        // What opens anew is due later, so this ends.
        while let Some(at) = self.lanes.iter().position(due) {
            if let Some(end) = self.fault(cx, sh, at, SourceFault::Stalled) {
                return Some(end);
            }
        }
        None
    }

    /// When it wants to be woken.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let lanes = self.lanes.iter().filter_map(Lane::deadline);
        let pause = self.pause.map(|at| Deadline::new(at, "sources are asked again"));
        lanes.chain(pause).reduce(|a, b| if b.at < a.at { b } else { a })
    }

    /// Bytes held in memory, for the bound that tests check.
    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        let streams = self.lanes.iter().filter_map(Lane::stream);
        self.writes.values().sum::<u64>() + streams.map(|s| s.incoming.held() as u64).sum::<u64>()
    }
}
