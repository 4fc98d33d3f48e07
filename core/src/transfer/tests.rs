//! Fetcher and servers joined by pipes of memory: everything that can happen happens in an order drawn at random, bytes
//! arrive in portions drawn at random, and the bounds are looked at after every step.

use super::fetch::{self, FetchError, Fetcher, SourceFault, Waiter};
use super::message::RefusedCode;
use super::serve::{self, Server};
use super::ticket::Ticket;
use super::tree::{PieceHasher, piece_count, piece_range};
use super::{StreamEvent, StreamKey, StreamOp};
use crate::codec::Frame;
use crate::id::{ConnId, Digest, Keypair, OpId, PublicKey, StreamId};
use crate::limits::*;
use crate::machine::{Cx, Machine};
use crate::port::{BlobAnswer, BlobFailed, BlobInfo, BlobRequest};
use crate::rng::Rng;
use crate::store::{Room, StoreOp, StoredRecord};
use crate::time::{Duration, Instant, UnixTime};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

const PIECE: u64 = PIECE_BYTES_MIN;
const WALL: UnixTime = UnixTime::from_secs(1_700_000_000);

fn key(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

fn content(seed: u64, len: u64) -> Vec<u8> {
    let mut out = vec![0; len as usize];
    Rng::derive(&[seed as u8; 32], "content").fill(&mut out);
    out
}

fn describe(bytes: &[u8]) -> (Digest, BlobInfo) {
    let mut hasher = PieceHasher::new();
    hasher.update(bytes);
    hasher.finish()
}

fn waiter(n: u8) -> Waiter {
    Waiter([n; 16])
}

/// A store of memory: whole objects, partial ones, and failures on demand.
#[derive(Default)]
struct Store {
    whole: BTreeMap<Digest, (Bytes, BlobInfo)>,
    partial: BTreeMap<Digest, (BlobInfo, BTreeMap<u32, Vec<u8>>)>,
    /// The next request that matches fails so.
    fail: Vec<(fn(&BlobRequest) -> bool, BlobFailed)>,
    writes: u64,
}

impl Store {
    fn put(&mut self, bytes: &[u8]) -> (Digest, u64) {
        let (digest, info) = describe(bytes);
        self.whole.insert(digest, (Bytes::copy_from_slice(bytes), info));
        (digest, bytes.len() as u64)
    }

    fn answer(&mut self, request: BlobRequest) -> Result<BlobAnswer, BlobFailed> {
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
                let joined = bytes.concat();
                assert_eq!(joined.len() as u64, range.end - range.start);
                assert!(pieces.insert(piece, joined).is_none(), "piece {piece} written twice");
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
            BlobRequest::Remove { digest } => {
                self.whole.remove(&digest);
                self.partial.remove(&digest);
                Ok(BlobAnswer::Removed)
            }
        }
    }
}

struct Holder {
    key: PublicKey,
    server: Server,
    store: Store,
    pending: Vec<(OpId, Result<BlobAnswer, BlobFailed>)>,
    reachable: bool,
    /// The answer of each stream ends behind so many bytes.
    cut: Option<usize>,
    /// Takes nothing from its consumers' reads and sends nothing more behind so many bytes.
    silent_after: Option<usize>,
}

#[derive(Default)]
struct Half {
    bytes: VecDeque<u8>,
    passed: usize,
    finished: bool,
    sending: Option<Bytes>,
    read: Option<usize>,
    released: bool,
}

struct Pipe {
    holder: usize,
    accepted: bool,
    /// From the consumer, and to it.
    up: Half,
    down: Half,
}

/// A consumer, holders, and the pipes between them.
struct World {
    me: Keypair,
    rng: Rng,
    now: Instant,
    fetcher: Fetcher,
    store: Store,
    pending: Vec<(OpId, Result<BlobAnswer, BlobFailed>)>,
    opening: Vec<(OpId, PublicKey)>,
    holders: Vec<Holder>,
    pipes: BTreeMap<StreamKey, Pipe>,
    next_stream: u64,
    /// Said by the fetcher: ends and lies.
    said: Vec<fetch::Output>,
    served: Vec<serve::Output>,
    journal: Vec<StoreOp>,
    opened: usize,
    /// Most bytes a pipe takes before it is read.
    window: usize,
    /// One in so many steps a connection is lost; 0: none.
    losses: u64,
}

impl World {
    fn new(seed: u8) -> Self {
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

    fn holder(&mut self) -> usize {
        self.holders.push(Holder {
            key: key(self.holders.len() as u8 + 1).public(),
            server: Server::restore(8, &[]).unwrap(),
            store: Store::default(),
            pending: Vec::new(),
            reachable: true,
            cut: None,
            silent_after: None,
        });
        self.holders.len() - 1
    }

    /// A holder that has the object and may give it to the consumer.
    fn holder_with(&mut self, bytes: &[u8]) -> usize {
        let h = self.holder();
        let (digest, _) = self.holders[h].store.put(bytes);
        let requester = self.me.public();
        self.tell_holder(h, serve::Input::Grant { digest, requester });
        h
    }

    fn want(&mut self, digest: Digest, len: u64, from: &[usize]) {
        let sources = from.iter().map(|h| (self.holders[*h].key, None)).collect();
        self.tell(fetch::Input::Want { digest, len, sources, waiter: waiter(1) });
    }

    fn tell(&mut self, input: fetch::Input) {
        let mut out = Vec::new();
        self.fetcher.handle(&mut Cx::new(self.now, WALL, &mut self.rng, &mut out), input);
        self.do_fetch(out);
    }

    fn do_fetch(&mut self, out: Vec<fetch::Output>) {
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
            assert!(held <= FETCH_WRITES_PENDING_MAX as u64 * PIECE, "a fetch holds {held} bytes");
        }
        assert!(self.fetcher.active() <= FETCHES_ACTIVE_MAX);
    }

    fn tell_holder(&mut self, h: usize, input: serve::Input) {
        let mut out = Vec::new();
        self.holders[h].server.handle(&mut Cx::new(self.now, WALL, &mut self.rng, &mut out), input);
        self.do_serve(h, out);
    }

    fn do_serve(&mut self, h: usize, out: Vec<serve::Output>) {
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
    fn lose(&mut self, stream: StreamKey, by_consumer: bool) {
        let Some(pipe) = self.pipes.remove(&stream) else { return };
        if by_consumer && pipe.accepted && !pipe.down.released {
            self.tell_holder(pipe.holder, serve::Input::Stream { stream, event: StreamEvent::Gone });
        }
        if !by_consumer {
            self.tell(fetch::Input::Stream { stream, event: StreamEvent::Gone });
        }
    }

    fn break_connection(&mut self, stream: StreamKey) {
        let Some(pipe) = self.pipes.remove(&stream) else { return };
        let event = StreamEvent::Gone;
        if pipe.accepted && !pipe.down.released {
            self.tell_holder(pipe.holder, serve::Input::Stream { stream, event: event.clone() });
        }
        self.tell(fetch::Input::Stream { stream, event });
    }

    /// One thing that can happen, chosen at random; false when nothing can.
    fn step(&mut self) -> bool {
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

    fn answer_open(&mut self) -> bool {
        let Some((op, peer)) = pick(&mut self.rng, &mut self.opening) else { return false };
        let holder = self.holders.iter().position(|h| h.key == peer && h.reachable);
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

    fn move_pipe(&mut self, stream: StreamKey) -> bool {
        let Some(pipe) = self.pipes.get_mut(&stream) else { return false };
        let holder = pipe.holder;
        // The node takes the first frame of a stream that a peer opened.
        if !pipe.accepted {
            let mut reader = crate::codec::FrameReader::default();
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
    fn settle(&mut self) {
        for _ in 0..2_000_000 {
            if self.step() {
                continue;
            }
            let deadlines = self.holders.iter().filter_map(|h| h.server.poll_timeout());
            let Some(next) = deadlines.chain(self.fetcher.poll_timeout()).map(|d| d.at).min() else { return };
            self.now = self.now.max(next);
            let mut out = Vec::new();
            self.fetcher.handle_timeout(&mut Cx::new(self.now, WALL, &mut self.rng, &mut out));
            self.do_fetch(out);
            for h in 0..self.holders.len() {
                let mut out = Vec::new();
                self.holders[h].server.handle_timeout(&mut Cx::new(self.now, WALL, &mut self.rng, &mut out));
                self.do_serve(h, out);
            }
        }
        panic!("does not come to rest");
    }

    /// The consumer's process dies and starts again.
    fn crash(&mut self) {
        self.fetcher = Fetcher::new(9);
        self.pending.clear();
        self.opening.clear();
        for stream in self.pipes.keys().copied().collect::<Vec<_>>() {
            self.lose(stream, true);
        }
    }

    fn fetched(&self, digest: Digest) -> bool {
        self.said.iter().any(|s| matches!(s, fetch::Output::Fetched { digest: d, .. } if *d == digest))
    }

    fn failure(&self) -> Option<&FetchError> {
        self.said.iter().find_map(|s| match s {
            fetch::Output::FetchFailed { why, .. } => Some(why),
            _ => None,
        })
    }

    fn lies(&self) -> Vec<(PublicKey, SourceFault)> {
        let lied = |s: &fetch::Output| match s {
            fetch::Output::Lied { peer, fault, .. } => Some((*peer, fault.clone())),
            _ => None,
        };
        self.said.iter().filter_map(lied).collect()
    }

    fn assert_has(&self, bytes: &[u8]) {
        let (digest, info) = describe(bytes);
        assert!(self.fetched(digest), "{:?}", self.said);
        let (stored, stored_info) = &self.store.whole[&digest];
        assert!(stored == bytes);
        assert_eq!(*stored_info, info);
    }
}

fn pick<T>(rng: &mut Rng, list: &mut Vec<T>) -> Option<T> {
    (!list.is_empty()).then(|| list.swap_remove(rng.below(list.len() as u64) as usize))
}

/// What the owner of `out` does; it reads from `inn`.
fn half_op(out: &mut Half, inn: &mut Half, op: StreamOp) {
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
enum Move {
    Writer(StreamEvent),
    Reader(StreamEvent),
    Nobody,
}

/// One movement of bytes, if there can be one.
fn half_moves(
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

#[test]
fn objects_of_every_size_arrive_whole() {
    for (seed, len) in
        [0, 1, 1_024, 1_025, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 5, 9 * PIECE - 1]
            .into_iter()
            .zip(0u8..)
            .map(|(len, seed)| (seed, len))
    {
        let mut w = World::new(seed);
        let bytes = content(u64::from(seed), len);
        let h = w.holder_with(&bytes);
        let (digest, _) = describe(&bytes);
        w.want(digest, len, &[h]);
        w.settle();
        w.assert_has(&bytes);
        assert_eq!(w.opened, usize::from(len > 0), "one stream does it; an empty object needs none");
        assert_eq!(w.holders[h].server.serving() + w.holders[h].server.ops_outstanding(), 0);
        assert_eq!(w.store.writes, u64::from(piece_count(len)));
    }
}

#[test]
fn an_object_that_is_here_is_not_fetched() {
    let mut w = World::new(1);
    let bytes = content(1, 3 * PIECE);
    let (digest, len) = w.store.put(&bytes);
    let h = w.holder_with(&bytes);
    w.want(digest, len, &[h]);
    w.settle();
    w.assert_has(&bytes);
    assert_eq!(w.opened, 0);
}

#[test]
fn lost_connections_cost_no_piece_that_was_written() {
    for seed in 0..8 {
        let mut w = World::new(seed);
        let bytes = content(7, 12 * PIECE + 77);
        let (digest, info) = describe(&bytes);
        let from = [w.holder_with(&bytes), w.holder_with(&bytes)];
        w.losses = 150;
        w.window = 40_000;
        w.want(digest, info.len, &from);
        w.settle();
        if !w.fetched(digest) {
            // Five rounds in vain are possible under such losses; the next want goes on from the pieces that are here.
            assert!(matches!(w.failure(), Some(FetchError::NoSource(_))));
            w.losses = 0;
            w.want(digest, info.len, &from);
            w.settle();
        }
        w.assert_has(&bytes);
        assert!(w.opened > 1, "something was lost");
        assert_eq!(w.store.writes, 13, "every piece was written once");
        assert_eq!(w.lies(), [], "a lost connection is no lie");
    }
}

#[test]
fn a_crash_after_every_piece_resumes_from_it() {
    let bytes = content(3, 6 * PIECE + 1);
    let (digest, info) = describe(&bytes);
    for pieces in 0..=7 {
        let mut w = World::new(pieces);
        let h = w.holder_with(&bytes);
        w.want(digest, info.len, &[h]);
        while w.store.writes < u64::from(pieces) {
            assert!(w.step());
        }
        w.crash();
        w.want(digest, info.len, &[h]);
        w.settle();
        w.assert_has(&bytes);
        assert_eq!(w.store.writes, 7, "crash at {pieces}: no piece was fetched twice");
    }
}

/// A lie in what a holder's store says of an object: its list, its content or its length.
fn liar(w: &mut World, bytes: &[u8], lie: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>, &mut u64)) -> usize {
    let h = w.holder_with(bytes);
    let (digest, info) = describe(bytes);
    let (mut content, mut list, mut len) = (bytes.to_vec(), info.pieces.to_vec(), info.len);
    lie(&mut content, &mut list, &mut len);
    w.holders[h].store.whole.insert(digest, (content.into(), BlobInfo { len, pieces: list.into() }));
    h
}

#[test]
fn a_lying_source_is_banned_and_an_honest_one_goes_on() {
    type Lie = fn(&mut Vec<u8>, &mut Vec<u8>, &mut u64);
    let cases: [(Lie, Option<SourceFault>); 5] = [
        (|_, list, _| list[40] ^= 1, Some(SourceFault::WrongList)),
        (|c, _, _| c[0] ^= 1, Some(SourceFault::WrongPiece { piece: 0 })),
        (|c, _, _| c[4 * PIECE as usize] ^= 1, Some(SourceFault::WrongPiece { piece: 4 })),
        (|c, _, _| c.rotate_left(1_024), Some(SourceFault::WrongPiece { piece: 0 })),
        (|_, _, len| *len -= 1, None),
    ];
    let bytes = content(5, 4 * PIECE + 9);
    let (digest, info) = describe(&bytes);
    for (seed, (lie, expected)) in (0u8..).zip(cases) {
        let mut w = World::new(seed);
        let bad = liar(&mut w, &bytes, lie);
        w.want(digest, info.len, &[bad]);
        while w.lies().is_empty() && w.failure().is_none() && w.step() {}
        let good = w.holder_with(&bytes);
        w.said.retain(|s| matches!(s, fetch::Output::Lied { .. }));
        w.want(digest, info.len, &[bad, good]);
        w.settle();
        w.assert_has(&bytes);
        let bad_key = w.holders[bad].key;
        let lies = w.lies();
        assert!(lies.iter().all(|l| Some(l) == expected.clone().map(|f| (bad_key, f)).as_ref()), "{lies:?}");
        assert_eq!(lies.is_empty(), expected.is_none(), "another length may be the want's fault");
        assert_eq!(w.store.writes, 5);
    }
}

#[test]
fn an_answer_that_ends_early_is_a_lie_and_all_liars_are_named() {
    for cut in [0, 3, 20, 100, PIECE as usize + 500] {
        let mut w = World::new(cut as u8);
        let bytes = content(5, 3 * PIECE);
        let (digest, info) = describe(&bytes);
        let from = [w.holder_with(&bytes), w.holder_with(&bytes)];
        from.iter().for_each(|h| w.holders[*h].cut = Some(cut));
        w.want(digest, info.len, &from);
        w.settle();
        let Some(FetchError::NoSource(faults)) = w.failure() else { panic!("{:?}", w.said) };
        assert_eq!(faults.len(), 2);
        assert!(faults.iter().all(|(_, f)| *f == SourceFault::Short), "{faults:?}");
        assert_eq!(w.lies().len(), 2);
    }
}

#[test]
fn a_silent_source_stalls_for_fifteen_seconds_and_no_longer() {
    let mut w = World::new(4);
    let bytes = content(5, 3 * PIECE);
    let (digest, info) = describe(&bytes);
    let silent = w.holder_with(&bytes);
    w.holders[silent].silent_after = Some(1_000);
    w.want(digest, info.len, &[silent]);
    while w.step() {}
    let good = w.holder_with(&bytes);
    w.want(digest, info.len, &[good]);
    w.settle();
    w.assert_has(&bytes);
    assert!(w.now >= Instant::ZERO + FETCH_STALL_AFTER && w.now < Instant::ZERO + FETCH_STALL_AFTER * 3);
    assert_eq!(w.holders[silent].server.serving(), 0, "the reset was heard");
}

#[test]
fn unreachable_and_refusing_sources_are_tried_in_rounds_and_then_all_are_named() {
    let mut w = World::new(4);
    let bytes = content(5, PIECE);
    let (digest, info) = describe(&bytes);
    let (gone, without) = (w.holder(), w.holder());
    w.holders[gone].reachable = false;
    w.want(digest, info.len, &[gone, without]);
    w.settle();
    let Some(FetchError::NoSource(faults)) = w.failure() else { panic!("{:?}", w.said) };
    let refused = SourceFault::Refused(RefusedCode::Unavailable, RefusedCode::Unavailable.reason().into());
    assert_eq!(faults[0].1, SourceFault::Unreachable("no path".into()));
    assert_eq!(faults[1].1, refused);
    assert_eq!(w.opened, FETCH_ROUNDS_MAX as usize);
    assert!(w.now > Instant::from_millis(3_000) && w.now < Instant::from_millis(60_000), "{:?}", w.now);
    assert_eq!(w.lies(), []);
}

#[test]
fn a_failing_store_here_ends_the_fetch_with_its_words_or_is_mended() {
    let bytes = content(5, 3 * PIECE);
    let (digest, info) = describe(&bytes);
    let is_open = |r: &BlobRequest| matches!(r, BlobRequest::Open { .. });
    let is_create = |r: &BlobRequest| matches!(r, BlobRequest::Create { .. });
    let is_write = |r: &BlobRequest| matches!(r, BlobRequest::Write { .. });
    let is_seal = |r: &BlobRequest| matches!(r, BlobRequest::Seal { .. });
    type Matches = fn(&BlobRequest) -> bool;
    let cases: [(Matches, BlobFailed, bool); 7] = [
        (is_open, BlobFailed::Corrupt, true),
        (is_open, BlobFailed::Io("x".into()), false),
        (is_create, BlobFailed::Full, false),
        (is_create, BlobFailed::Corrupt, true),
        (is_write, BlobFailed::Full, false),
        (is_write, BlobFailed::NotFound, false),
        (is_seal, BlobFailed::Corrupt, true),
    ];
    for (matches, failed, mended) in cases {
        let mut w = World::new(1);
        let h = w.holder_with(&bytes);
        w.store.fail.push((matches, failed.clone()));
        w.want(digest, info.len, &[h]);
        w.settle();
        assert_eq!(w.fetched(digest), mended, "{failed:?}: {:?}", w.said);
        if !mended {
            assert_eq!(w.failure(), Some(&FetchError::Store(failed)));
        }
        assert_eq!((w.fetcher.active(), w.holders[h].server.serving()), (0, 0));
    }
}

#[test]
fn a_failing_store_there_is_no_lie() {
    let bytes = content(5, 3 * PIECE);
    let (digest, info) = describe(&bytes);
    for failed in [BlobFailed::NotFound, BlobFailed::Corrupt, BlobFailed::Io("x".into())] {
        for matches in
            [(|r: &BlobRequest| matches!(r, BlobRequest::Open { .. })) as fn(&BlobRequest) -> bool, |r| {
                matches!(r, BlobRequest::Read { .. })
            }]
        {
            let mut w = World::new(2);
            let h = w.holder_with(&bytes);
            w.holders[h].store.fail.push((matches, failed.clone()));
            w.want(digest, info.len, &[h]);
            w.settle();
            w.assert_has(&bytes);
            assert_eq!(w.lies(), []);
            let counts = w.holders[h].server.counts();
            assert_eq!(counts.store_failed + counts.unavailable, 1);
        }
    }
}

#[test]
fn a_ticket_of_the_requester_opens_what_a_stranger_may_not_have() {
    let bytes = content(5, 2 * PIECE);
    let (digest, info) = describe(&bytes);
    let (requester, other) = (key(50), key(51));
    let later = WALL.plus(Duration::from_secs(60));
    let me = key(100).public();
    let cases = [
        (None, false),
        (Some(Ticket::sign(&requester, digest, me, later)), true),
        (Some(Ticket::sign(&requester, digest, me, WALL)), false),
        (Some(Ticket::sign(&requester, digest, other.public(), later)), false),
        (Some(Ticket::sign(&requester, Digest::of(b"other"), me, later)), false),
        (Some(Ticket::sign(&other, digest, me, later)), false),
    ];
    for (ticket, allowed) in cases {
        let mut w = World::new(3);
        let h = w.holder();
        w.holders[h].store.put(&bytes);
        w.tell_holder(h, serve::Input::Grant { digest, requester: requester.public() });
        let sources = vec![(w.holders[h].key, ticket)];
        w.tell(fetch::Input::Want { digest, len: info.len, sources, waiter: waiter(1) });
        w.settle();
        assert_eq!(w.fetched(digest), allowed);
        assert_eq!(w.holders[h].server.counts().unavailable > 0, !allowed);
    }
}

#[test]
fn what_a_stranger_hears_does_not_tell_whether_the_object_is_here() {
    let bytes = content(5, 100);
    let mut heard = Vec::new();
    for here in [false, true] {
        let mut w = World::new(3);
        let h = w.holder();
        if here {
            w.holders[h].store.put(&bytes);
            w.tell_holder(h, serve::Input::Grant { digest: Digest::of(&bytes), requester: key(50).public() });
        }
        w.want(Digest::of(&bytes), 100, &[h]);
        w.settle();
        heard.push((w.failure().cloned(), w.opened, w.now));
    }
    assert_eq!(heard[0], heard[1]);
}

#[test]
fn many_objects_from_many_sources_arrive_within_the_limits() {
    for seed in 0..3 {
        let mut w = World::new(seed);
        w.losses = 3_000;
        let objects: Vec<Vec<u8>> =
            (0..40).map(|i| content(i, [0, 1, 3_000, PIECE, 3 * PIECE + i][i as usize % 5])).collect();
        let holders: Vec<usize> = (0..5).map(|_| w.holder()).collect();
        for (i, bytes) in objects.iter().enumerate() {
            let from = [holders[i % 5], holders[(i + 1) % 5], holders[(i + 3) % 5]];
            for h in from {
                let (digest, _) = w.holders[h].store.put(bytes);
                w.tell_holder(h, serve::Input::Grant { digest, requester: key(100).public() });
            }
            w.want(Digest::of(bytes), bytes.len() as u64, &from);
        }
        w.settle();
        objects.iter().for_each(|bytes| w.assert_has(bytes));
        assert_eq!(w.fetcher.active() + w.fetcher.waiting(), 0);
        assert!(w.holders.iter().all(|h| h.server.serving() + h.server.ops_outstanding() == 0));
    }
}

#[test]
fn grants_survive_a_restart_as_they_were() {
    let mut w = World::new(1);
    let h = w.holder();
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let [x, y] = [key(50).public(), key(51).public()];
    for input in [
        serve::Input::Grant { digest: a, requester: x },
        serve::Input::Grant { digest: a, requester: y },
        serve::Input::Grant { digest: a, requester: y },
        serve::Input::Grant { digest: b, requester: x },
        serve::Input::Revoke { digest: a, requester: x },
        serve::Input::Revoke { digest: b, requester: x },
        serve::Input::Revoke { digest: b, requester: y },
    ] {
        w.tell_holder(h, input);
        let server = Server::restore(8, &fold(&w.journal)).unwrap();
        for (d, k) in [(a, x), (a, y), (b, x), (b, y)] {
            assert_eq!(server.is_granted(&d, &k), w.holders[h].server.is_granted(&d, &k));
        }
    }
    assert_eq!(w.journal.len(), 5, "what changes nothing is not journaled");
    assert!(w.holders[h].server.is_granted(&a, &y) && !w.holders[h].server.is_granted(&a, &x));
}

/// The journal as a store folds it.
fn fold(ops: &[StoreOp]) -> Vec<StoredRecord> {
    let mut records: Vec<StoredRecord> = Vec::new();
    for op in ops {
        match op {
            StoreOp::Append { .. } => {}
            StoreOp::Replace { subject, .. } | StoreOp::Forget { subject } => {
                records.retain(|r| r.subject != *subject);
            }
        }
        match op {
            StoreOp::Append { subject, record } | StoreOp::Replace { subject, record } => {
                assert_eq!(subject.room, Room::Grant);
                let (subject, record) = (subject.clone(), record.clone());
                records.push(StoredRecord { lsn: Default::default(), subject, record });
            }
            StoreOp::Forget { .. } => {}
        }
    }
    records
}

mod alone;
