//! The world of the tests: a consumer, holders, their stores, and the pipes between them.

use crate::codec::FrameReader;
use crate::id::{ConnId, Digest, Keypair, OpId, PublicKey, StreamId};
use crate::limits::{
    FETCH_PIECES_HELD_MAX, FETCHES_ACTIVE_MAX, PIECE_BYTES_MIN, SERVE_READ_AHEAD_BYTES, SERVE_READ_BYTES,
};
use crate::machine::{Cx, Machine};
use crate::port::{BlobAnswer, BlobFailed, BlobInfo, BlobRequest};
use crate::rng::Rng;
use crate::store::StoreOp;
use crate::time::{Instant, UnixTime};
use crate::transfer::fetch::{self, FetchError, Fetcher, SourceFault, Waiter};
use crate::transfer::serve::{self, Server};
use crate::transfer::tree::{PieceHasher, piece_count, piece_range};
use crate::transfer::{StreamEvent, StreamKey, StreamOp};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

pub(super) const PIECE: u64 = PIECE_BYTES_MIN;
pub(super) const WALL: UnixTime = UnixTime::from_secs(1_700_000_000);

pub(super) fn key(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

pub(super) fn content(seed: u64, len: u64) -> Vec<u8> {
    let mut out = vec![0; len as usize];
    Rng::derive(&[seed as u8; 32], "content").fill(&mut out);
    out
}

pub(super) fn describe(bytes: &[u8]) -> (Digest, BlobInfo) {
    let mut hasher = PieceHasher::new();
    hasher.update(bytes);
    hasher.finish()
}

pub(super) fn waiter(n: u8) -> Waiter {
    Waiter([n; 16])
}

/// Which requests to a store.
pub(super) type Matches = fn(&BlobRequest) -> bool;

/// A store of memory: whole objects, partial ones, and failures on demand.
#[derive(Default)]
pub(super) struct Store {
    pub(super) whole: BTreeMap<Digest, (Bytes, BlobInfo)>,
    pub(super) partial: BTreeMap<Digest, (BlobInfo, BTreeMap<u32, Vec<u8>>)>,
    /// The next request that matches fails so.
    pub(super) fail: Vec<(Matches, BlobFailed)>,
    pub(super) writes: u64,
}

impl Store {
    pub(super) fn put(&mut self, bytes: &[u8]) -> (Digest, u64) {
        let (digest, info) = describe(bytes);
        self.whole.insert(digest, (Bytes::copy_from_slice(bytes), info));
        (digest, bytes.len() as u64)
    }

    pub(super) fn answer(&mut self, request: BlobRequest) -> Result<BlobAnswer, BlobFailed> {
        if let Some(i) = self.fail.iter().position(|(matches, _)| matches(&request)) {
            return Err(self.fail.remove(i).1);
        }
        match request {
            BlobRequest::Open { digest } => {
                self.whole.get(&digest).map(|(_, i)| BlobAnswer::Info(i.clone())).ok_or(BlobFailed::NotFound)
            }
            BlobRequest::Read { digest, offset, len } => {
                let (bytes, _) = self.whole.get(&digest).ok_or(BlobFailed::NotFound)?;
                assert!(u64::from(len) <= SERVE_READ_BYTES && len > 0);
                Ok(BlobAnswer::Bytes(bytes.slice(offset as usize..offset as usize + len as usize)))
            }
            BlobRequest::Create { digest, info } => {
                if let Some((_, info)) = self.whole.get(&digest) {
                    return Ok(BlobAnswer::Info(info.clone()));
                }
                let entry = self.partial.entry(digest).or_insert_with(|| (info.clone(), BTreeMap::new()));
                if entry.0 != info {
                    *entry = (info, BTreeMap::new());
                }
                let mut have = vec![0; piece_count(entry.0.len).div_ceil(8) as usize];
                entry.1.keys().for_each(|p| have[*p as usize / 8] |= 1 << (p % 8));
                Ok(BlobAnswer::Partial { have })
            }
            BlobRequest::Write { digest, piece, bytes } => {
                let (info, pieces) = self.partial.get_mut(&digest).ok_or(BlobFailed::NotFound)?;
                let range = piece_range(info.len, piece);
                assert_eq!(bytes.len() as u64, range.end - range.start);
                assert!(pieces.insert(piece, bytes.to_vec()).is_none(), "piece {piece} written twice");
                self.writes += 1;
                Ok(BlobAnswer::Written)
            }
            BlobRequest::Seal { digest } => {
                let (info, pieces) = self.partial.remove(&digest).ok_or(BlobFailed::NotFound)?;
                let joined: Vec<u8> = pieces.into_values().flatten().collect();
                if Digest::of(&joined) != digest {
                    return Err(BlobFailed::Corrupt);
                }
                self.whole.insert(digest, (joined.into(), info));
                Ok(BlobAnswer::Sealed)
            }
            BlobRequest::Put { digest, bytes } => {
                assert_eq!(self.put(&bytes).0, digest);
                Ok(BlobAnswer::Sealed)
            }
            BlobRequest::Remove { digest } => {
                self.whole.remove(&digest);
                self.partial.remove(&digest);
                Ok(BlobAnswer::Removed)
            }
            BlobRequest::Missing { objects } => {
                let there =
                    |(d, len): &(Digest, u64)| self.whole.get(d).is_some_and(|(b, _)| b.len() as u64 == *len);
                let missing = objects.iter().filter(|o| !there(o)).map(|(d, _)| *d);
                Ok(BlobAnswer::Missing(missing.collect()))
            }
        }
    }
}

pub(super) struct Holder {
    pub(super) key: PublicKey,
    pub(super) server: Server,
    pub(super) store: Store,
    pub(super) pending: Vec<(OpId, Result<BlobAnswer, BlobFailed>)>,
    pub(super) reachable: bool,
    /// Streams it takes at once.
    pub(super) streams_max: usize,
    /// The answer of each stream ends behind so many bytes.
    pub(super) cut: Option<usize>,
    /// Takes nothing from its consumers' reads and sends nothing more behind so many bytes.
    pub(super) silent_after: Option<usize>,
}

#[derive(Default)]
pub(super) struct Half {
    pub(super) bytes: VecDeque<u8>,
    pub(super) passed: usize,
    pub(super) finished: bool,
    pub(super) sending: Option<Bytes>,
    pub(super) read: Option<usize>,
    pub(super) released: bool,
}

pub(super) struct Pipe {
    pub(super) holder: usize,
    pub(super) accepted: bool,
    /// From the consumer, and to it.
    pub(super) up: Half,
    pub(super) down: Half,
}

/// A consumer, holders, and the pipes between them.
pub(super) struct World {
    pub(super) me: Keypair,
    pub(super) rng: Rng,
    pub(super) now: Instant,
    pub(super) fetcher: Fetcher,
    pub(super) store: Store,
    pub(super) pending: Vec<(OpId, Result<BlobAnswer, BlobFailed>)>,
    pub(super) opening: Vec<(OpId, PublicKey)>,
    pub(super) holders: Vec<Holder>,
    pub(super) pipes: BTreeMap<StreamKey, Pipe>,
    pub(super) next_stream: u64,
    /// Said by the fetcher: ends and lies.
    pub(super) said: Vec<fetch::Output>,
    pub(super) served: Vec<serve::Output>,
    pub(super) journal: Vec<StoreOp>,
    pub(super) opened: usize,
    /// Most bytes a pipe takes before it is read.
    pub(super) window: usize,
    /// One in so many steps a connection is lost; 0: none.
    pub(super) losses: u64,
}

impl World {
    pub(super) fn new(seed: u8) -> Self {
        Self {
            me: key(100),
            rng: Rng::from_seed([seed; 32]),
            now: Instant::ZERO,
            fetcher: Fetcher::new(9),
            store: Store::default(),
            pending: Vec::new(),
            opening: Vec::new(),
            holders: Vec::new(),
            pipes: BTreeMap::new(),
            next_stream: 0,
            said: Vec::new(),
            served: Vec::new(),
            journal: Vec::new(),
            opened: 0,
            window: 100_000,
            losses: 0,
        }
    }

    pub(super) fn holder(&mut self) -> usize {
        self.holders.push(Holder {
            key: key(self.holders.len() as u8 + 1).public(),
            server: Server::restore(8, &[]).unwrap(),
            store: Store::default(),
            pending: Vec::new(),
            reachable: true,
            streams_max: usize::MAX,
            cut: None,
            silent_after: None,
        });
        self.holders.len() - 1
    }

    /// A holder that has the object and may give it to the consumer.
    pub(super) fn holder_with(&mut self, bytes: &[u8]) -> usize {
        let h = self.holder();
        let (digest, _) = self.holders[h].store.put(bytes);
        let requester = self.me.public();
        self.tell_holder(h, serve::Input::Grant { digest, requester, reason: serve::Reason::Job });
        h
    }

    pub(super) fn want(&mut self, digest: Digest, len: u64, from: &[usize]) {
        let sources = from.iter().map(|h| (self.holders[*h].key, None)).collect();
        self.tell(fetch::Input::Want { digest, len, claim: None, under: None, sources, waiter: waiter(1) });
    }

    /// A want on the right of a requester that has yet to show it.
    pub(super) fn claim(&mut self, digest: Digest, len: u64, requester: u8, from: &[usize]) {
        let sources = from.iter().map(|h| (self.holders[*h].key, None)).collect();
        let claim = Some(key(requester).public());
        self.tell(fetch::Input::Want { digest, len, claim, under: None, sources, waiter: waiter(requester) });
    }

    pub(super) fn tell(&mut self, input: fetch::Input) {
        let mut out = Vec::new();
        self.fetcher.handle(&mut Cx::new(self.now, WALL, &mut self.rng, &mut out), input);
        self.do_fetch(out);
    }

    pub(super) fn do_fetch(&mut self, out: Vec<fetch::Output>) {
        for output in out {
            match output {
                fetch::Output::Open { op, peer } => self.opening.push((op, peer)),
                fetch::Output::Blob { op, request } => {
                    let answer = self.store.answer(request);
                    self.pending.push((op, answer));
                }
                fetch::Output::Stream { stream, op } => match op {
                    StreamOp::Reset => self.lose(stream, true),
                    op => {
                        let pipe = self.pipes.get_mut(&stream).expect("speaks of a stream it has not");
                        half_op(&mut pipe.up, &mut pipe.down, op);
                    }
                },
                fetch::Output::Progress { .. } => {}
                said @ (fetch::Output::Fetched { .. }
                | fetch::Output::FetchFailed { .. }
                | fetch::Output::Lied { .. }) => self.said.push(said),
            }
        }
        for held in self.fetcher.held() {
            assert!(held <= FETCH_PIECES_HELD_MAX as u64 * PIECE, "a fetch holds {held} bytes");
        }
        assert!(self.fetcher.active() <= FETCHES_ACTIVE_MAX);
    }

    pub(super) fn tell_holder(&mut self, h: usize, input: serve::Input) {
        let mut out = Vec::new();
        self.holders[h].server.handle(&mut Cx::new(self.now, WALL, &mut self.rng, &mut out), input);
        self.do_serve(h, out);
    }

    pub(super) fn do_serve(&mut self, h: usize, out: Vec<serve::Output>) {
        for output in out {
            match output {
                serve::Output::Persist(op) => self.journal.push(op),
                serve::Output::Blob { op, request } => {
                    let answer = self.holders[h].store.answer(request);
                    self.holders[h].pending.push((op, answer));
                }
                serve::Output::Stream { stream, op } => match op {
                    StreamOp::Reset => self.lose(stream, false),
                    op => {
                        if let Some(pipe) = self.pipes.get_mut(&stream) {
                            half_op(&mut pipe.down, &mut pipe.up, op);
                        }
                    }
                },
                said @ (serve::Output::GrantFull { .. }
                | serve::Output::Served { .. }
                | serve::Output::Fault { .. }) => self.served.push(said),
            }
        }
        let held = self.holders[h].server.held_max();
        assert!(held <= SERVE_READ_AHEAD_BYTES, "a serve holds {held} bytes");
    }

    /// The stream is gone; the side that did it hears nothing.
    pub(super) fn lose(&mut self, stream: StreamKey, by_consumer: bool) {
        let Some(pipe) = self.pipes.remove(&stream) else { return };
        if by_consumer && pipe.accepted && !pipe.down.released {
            self.tell_holder(pipe.holder, serve::Input::Stream { stream, event: StreamEvent::Gone });
        }
        if !by_consumer {
            self.tell(fetch::Input::Stream { stream, event: StreamEvent::Gone });
        }
    }

    pub(super) fn break_connection(&mut self, stream: StreamKey) {
        let Some(pipe) = self.pipes.remove(&stream) else { return };
        let event = StreamEvent::Gone;
        if pipe.accepted && !pipe.down.released {
            self.tell_holder(pipe.holder, serve::Input::Stream { stream, event: event.clone() });
        }
        self.tell(fetch::Input::Stream { stream, event });
    }

    /// One thing that can happen, chosen at random; false when nothing can.
    pub(super) fn step(&mut self) -> bool {
        let pipes: Vec<StreamKey> = self.pipes.keys().copied().collect();
        if self.losses > 0 && !pipes.is_empty() && self.rng.below(self.losses) == 0 {
            let stream = pipes[self.rng.below(pipes.len() as u64) as usize];
            self.break_connection(stream);
            return true;
        }
        let kinds = 3 + self.holders.len() + pipes.len();
        let first = self.rng.below(kinds as u64) as usize;
        (0..kinds).any(|i| match (first + i) % kinds {
            0 => self.answer_open(),
            1 | 2 => match pick(&mut self.rng, &mut self.pending) {
                Some((op, result)) => {
                    self.tell(fetch::Input::Blob { op, result });
                    true
                }
                None => false,
            },
            n if n < 3 + self.holders.len() => {
                let h = n - 3;
                match pick(&mut self.rng, &mut self.holders[h].pending) {
                    Some((op, result)) => {
                        self.tell_holder(h, serve::Input::Blob { op, result });
                        true
                    }
                    None => false,
                }
            }
            n => self.move_pipe(pipes[n - 3 - self.holders.len()]),
        })
    }

    pub(super) fn answer_open(&mut self) -> bool {
        let Some((op, peer)) = pick(&mut self.rng, &mut self.opening) else { return false };
        let takes = |at: usize, h: &Holder| {
            let streams = self.pipes.values().filter(|pipe| pipe.holder == at && !pipe.up.released).count();
            h.key == peer && h.reachable && streams < h.streams_max
        };
        let holder = self.holders.iter().enumerate().position(|(at, h)| takes(at, h));
        match holder {
            None => self.tell(fetch::Input::OpenFailed { op, why: "no path".into() }),
            Some(holder) => {
                self.opened += 1;
                self.next_stream += 1;
                let stream = (ConnId(holder as u64), StreamId(self.next_stream));
                let pipe = Pipe { holder, accepted: false, up: Half::default(), down: Half::default() };
                self.pipes.insert(stream, pipe);
                self.tell(fetch::Input::Opened { op, stream });
            }
        }
        true
    }

    pub(super) fn move_pipe(&mut self, stream: StreamKey) -> bool {
        let Some(pipe) = self.pipes.get_mut(&stream) else { return false };
        let holder = pipe.holder;
        // The node takes the first frame of a stream that a peer opened.
        if !pipe.accepted {
            let mut reader = FrameReader::default();
            reader.push(&pipe.up.bytes.iter().copied().collect::<Vec<_>>());
            if let Ok(Some(frame)) = reader.next_frame() {
                pipe.up.bytes.clear();
                pipe.accepted = true;
                let peer = self.me.public();
                self.tell_holder(holder, serve::Input::Request { stream, peer, frame });
                return true;
            }
        }
        let (cut, silent) = (self.holders[holder].cut, self.holders[holder].silent_after);
        let pipe = self.pipes.get_mut(&stream).unwrap();
        if let Some(moved) = half_moves(&mut pipe.up, self.window, &mut self.rng, None, None) {
            match moved {
                Move::Writer(event) => self.tell(fetch::Input::Stream { stream, event }),
                Move::Reader(event) => self.tell_holder(holder, serve::Input::Stream { stream, event }),
                Move::Nobody => {}
            }
            return true;
        }
        match half_moves(&mut pipe.down, self.window, &mut self.rng, cut, silent) {
            Some(Move::Writer(event)) => self.tell_holder(holder, serve::Input::Stream { stream, event }),
            Some(Move::Reader(event)) => self.tell(fetch::Input::Stream { stream, event }),
            Some(Move::Nobody) => {}
            None if pipe.up.released && pipe.down.released => {
                self.pipes.remove(&stream);
            }
            None => return false,
        }
        true
    }

    /// Runs until nothing can happen any more, letting time pass when only that helps.
    pub(super) fn settle(&mut self) {
        for _ in 0..2_000_000 {
            if self.step() {
                continue;
            }
            if !self.pass_time() {
                return;
            }
        }
        panic!("does not come to rest");
    }

    /// Lets time pass to the next deadline; false when there is none.
    pub(super) fn pass_time(&mut self) -> bool {
        let deadlines = self.holders.iter().filter_map(|h| h.server.poll_timeout());
        let Some(next) = deadlines.chain(self.fetcher.poll_timeout()).map(|d| d.at).min() else {
            return false;
        };
        self.now = self.now.max(next);
        let mut out = Vec::new();
        self.fetcher.handle_timeout(&mut Cx::new(self.now, WALL, &mut self.rng, &mut out));
        self.do_fetch(out);
        for h in 0..self.holders.len() {
            let mut out = Vec::new();
            self.holders[h].server.handle_timeout(&mut Cx::new(self.now, WALL, &mut self.rng, &mut out));
            self.do_serve(h, out);
        }
        true
    }

    /// The consumer's process dies and starts again.
    pub(super) fn crash(&mut self) {
        self.fetcher = Fetcher::new(9);
        self.pending.clear();
        self.opening.clear();
        for stream in self.pipes.keys().copied().collect::<Vec<_>>() {
            self.lose(stream, true);
        }
    }

    pub(super) fn fetched(&self, digest: Digest) -> bool {
        self.said.iter().any(|s| matches!(s, fetch::Output::Fetched { digest: d, .. } if *d == digest))
    }

    pub(super) fn failure(&self) -> Option<&FetchError> {
        self.said.iter().find_map(|s| match s {
            fetch::Output::FetchFailed { why, .. } => Some(why),
            _ => None,
        })
    }

    pub(super) fn lies(&self) -> Vec<(PublicKey, SourceFault)> {
        let lied = |s: &fetch::Output| match s {
            fetch::Output::Lied { peer, fault, .. } => Some((*peer, fault.clone())),
            _ => None,
        };
        self.said.iter().filter_map(lied).collect()
    }

    pub(super) fn assert_has(&self, bytes: &[u8]) {
        let (digest, info) = describe(bytes);
        assert!(self.fetched(digest), "{:?}", self.said);
        let (stored, stored_info) = &self.store.whole[&digest];
        assert!(stored == bytes);
        assert_eq!(*stored_info, info);
    }
}

pub(super) fn pick<T>(rng: &mut Rng, list: &mut Vec<T>) -> Option<T> {
    (!list.is_empty()).then(|| list.swap_remove(rng.below(list.len() as u64) as usize))
}

/// What the owner of `out` does; it reads from `inn`.
pub(super) fn half_op(out: &mut Half, inn: &mut Half, op: StreamOp) {
    match op {
        StreamOp::Read { max } => {
            assert!(max > 0);
            assert!(inn.read.replace(max).is_none(), "two reads at once");
        }
        StreamOp::Send { bytes } => {
            assert!(!bytes.is_empty() && !out.finished);
            assert!(out.sending.replace(bytes).is_none(), "two sends at once");
        }
        StreamOp::Finish => {
            assert!(out.sending.is_none());
            out.finished = true;
        }
        StreamOp::Release => out.released = true,
        StreamOp::Reset => unreachable!(),
    }
}

/// What a movement of bytes tells, and whom.
pub(super) enum Move {
    Writer(StreamEvent),
    Reader(StreamEvent),
    Nobody,
}

/// One movement of bytes, if there can be one.
pub(super) fn half_moves(
    half: &mut Half,
    window: usize,
    rng: &mut Rng,
    cut: Option<usize>,
    silent: Option<usize>,
) -> Option<Move> {
    if let Some(sending) = &mut half.sending {
        let room = window.saturating_sub(half.bytes.len()).min(sending.len());
        if room > 0 {
            let n = 1 + rng.below(room as u64) as usize;
            half.bytes.extend(sending.split_to(n));
            if !sending.is_empty() {
                return Some(Move::Nobody);
            }
            half.sending = None;
            return Some(Move::Writer(StreamEvent::Sent));
        }
    }
    let max = half.read?;
    let limit = cut.into_iter().chain(silent).min().map_or(usize::MAX, |at| at.saturating_sub(half.passed));
    let available = half.bytes.len().min(max).min(limit);
    if available > 0 {
        let n = 1 + rng.below(available as u64) as usize;
        half.read = None;
        half.passed += n;
        return Some(Move::Reader(StreamEvent::Bytes(half.bytes.drain(..n).collect::<Vec<_>>().into())));
    }
    let ended = cut.is_some_and(|at| half.passed >= at) || half.finished && half.bytes.is_empty();
    if ended && silent.is_none_or(|at| half.passed < at) {
        half.read = None;
        return Some(Move::Reader(StreamEvent::End));
    }
    None
}
