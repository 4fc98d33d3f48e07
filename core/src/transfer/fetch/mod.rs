//! All fetches of this node.
//!
//! Somebody (a job that needs its input, a run that collects its results) wants an object of known digest and length
//! from one of several sources. Wants of the same object are one fetch. Every want is first looked up in the store, so an
//! object that is here never waits behind one that is not; then at most `FETCHES_ACTIVE_MAX` objects are under way and the
//! rest wait in order. What was written stays, also after a cancel, a failure or a crash, and the next fetch goes on from
//! there; the store forgets it when it needs the room.
//!
//! | fault of a source | consequence |
//! |---|---|
//! | malformed answer, list that is not the digest's, wrong piece, end before the last piece | it lied: never asked again for this object, [`Output::Lied`] |
//! | another length than expected | never asked again for this length; who is wrong, it or the want, is open |
//! | refused: no such object for you, no such piece | never asked again with this ticket |
//! | unreachable, lost, busy, fewer than 4 KiB in 15 s | the next source; again in the next round, after a pause |
//!
//! **Whose right.** A digest is a name that anybody may know, so an object that happens to be in the store is no answer to a
//! requester that was never given it. Such a want is a [`Claim`]: its bytes must all come from the sources of that very
//! requester, whose holders look at its tickets, before the object counts as here. Pieces that the store has are checked and
//! not written again. What a claim has shown is remembered over its failures, within this process; pieces from before a
//! restart may be anybody's.
//!
//! A fetch ends with [`Output::Fetched`] once the store has sealed the object, or with [`Output::FetchFailed`] and every
//! reason. It keeps nothing in the journal: whoever wants an object wants it again after a restart.

mod incoming;
mod lane;
mod missing;
mod object;
mod sources;

use super::{StreamEvent, StreamKey, StreamOp};
use crate::codec::DecodeError;
use crate::few::Few;
use crate::id::{Digest, JobId, OpId, OpIds, PublicKey, RunId};
use crate::limits::{
    FETCH_LOOKUPS_MAX, FETCH_WAITERS_MAX, FETCHES_ACTIVE_MAX, FETCHES_WAITING_MAX, OBJECT_BYTES_MAX,
};
use crate::machine::{Cx, Machine};
use crate::port::{BlobAnswer, BlobFailed, BlobRequest};
use crate::ticket::Ticket;
use crate::time::Deadline;
use crate::transfer::message::RefusedCode;
use missing::Missing;
use object::{End, Object, Step};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use thiserror::Error;

/// Openings given up whose answers are remembered until they come; the node answers each, so this is never reached.
const ABANDONED_MAX: usize = 1_024;

/// Unfinished claims remembered; the first in order of digest are forgotten. At most 8 KiB each.
const PROVEN_MAX: usize = 64;

/// On whose right an object is wanted: this node's own (`None`), for which the store is enough, or that of a requester which
/// has yet to show that it was given the object.
pub type Claim = Option<PublicKey>;

/// An object and its length, and on whose right it is wanted. A want with a wrong length is a fetch of its own, which
/// fails alone.
type Key = (Digest, u64, Claim);

/// Who waits for an object: a job or a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Waiter(pub [u8; 16]);

impl From<JobId> for Waiter {
    fn from(id: JobId) -> Self {
        Self(id.0)
    }
}

impl From<RunId> for Waiter {
    fn from(id: RunId) -> Self {
        Self(id.0)
    }
}

/// What has become of one attempt at a source.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SourceFault {
    /// No connection or no stream.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The stream or its connection broke.
    #[error("connection lost")]
    Lost,
    /// It sent next to nothing for too long.
    #[error("stalled")]
    Stalled,
    /// It gives nothing.
    #[error("refused: {1}")]
    Refused(RefusedCode, String),
    /// Its answer is none.
    #[error("malformed answer: {0}")]
    Malformed(DecodeError),
    /// The object it has under the digest is of another length.
    #[error("says the object has {said} bytes")]
    WrongLength {
        /// The length it says.
        said: u64,
    },
    /// Its piece list is not the digest's.
    #[error("sent a piece list that is not the object's")]
    WrongList,
    /// A piece is not the object's.
    #[error("sent a piece {piece} that is not the object's")]
    WrongPiece {
        /// Which.
        piece: u32,
    },
    /// It finished before the last piece wanted.
    #[error("ended before the last piece")]
    Short,
}

impl SourceFault {
    /// Whether no honest peer does this.
    pub fn is_lie(&self) -> bool {
        match self {
            SourceFault::Malformed(_)
            | SourceFault::WrongList
            | SourceFault::WrongPiece { .. }
            | SourceFault::Short => true,
            SourceFault::Unreachable(_)
            | SourceFault::Lost
            | SourceFault::Stalled
            | SourceFault::Refused(..)
            | SourceFault::WrongLength { .. } => false,
        }
    }

    /// Whether asking this peer again is of no use.
    fn is_final(&self) -> bool {
        self.is_lie() || matches!(self, SourceFault::WrongLength { .. })
    }

    /// Whether asking it again with the same ticket is of no use. Who may have what a holder has does not change by asking
    /// once more; how busy it is does.
    fn is_final_for_ticket(&self) -> bool {
        match self {
            SourceFault::Refused(RefusedCode::Unavailable | RefusedCode::Range, _) => true,
            SourceFault::Refused(RefusedCode::Busy | RefusedCode::Store | RefusedCode::Other(_), _)
            | SourceFault::Unreachable(_)
            | SourceFault::Lost
            | SourceFault::Stalled => false,
            SourceFault::Malformed(_)
            | SourceFault::WrongLength { .. }
            | SourceFault::WrongList
            | SourceFault::WrongPiece { .. }
            | SourceFault::Short => true,
        }
    }
}

/// Why an object could not be fetched.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FetchError {
    /// All sources failed; the last fault of each.
    #[error("no source gave it: {}", .0.iter().map(|(k, f)| format!("{k}: {f}")).collect::<Vec<_>>().join("; "))]
    NoSource(Vec<(PublicKey, SourceFault)>),
    /// Our own store failed.
    #[error("{0}")]
    Store(BlobFailed),
    /// The object is here, and of another length.
    #[error("the object has {actual} bytes")]
    WrongLength {
        /// Its length.
        actual: u64,
    },
    /// No object of that length has that digest.
    #[error("no object of that length has that digest")]
    NoSuchObject,
    /// Longer than any object may be.
    #[error("longer than any object may be")]
    TooLong,
    /// Too many wants.
    #[error("too many objects are waited for")]
    Full,
}

impl FetchError {
    /// Whether another try with the same sources must end in the same way.
    pub fn is_final(&self) -> bool {
        match self {
            FetchError::NoSource(faults) => faults.iter().all(|(_, f)| f.is_final_for_ticket()),
            FetchError::WrongLength { .. } | FetchError::NoSuchObject | FetchError::TooLong => true,
            FetchError::Store(_) | FetchError::Full => false,
        }
    }
}

/// What can happen to the fetches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Somebody wants an object. Wanting it again adds the sources that are new.
    Want {
        /// Which.
        digest: Digest,
        /// Its length, known from the order or the receipt.
        len: u64,
        /// On whose right.
        claim: Claim,
        /// The directory that they have it under, if it is a file of one.
        under: Option<Digest>,
        /// Who has it, and what to show them.
        sources: Vec<(PublicKey, Option<Ticket>)>,
        /// Who waits.
        waiter: Waiter,
    },
    /// The waiter wants it no more. Nothing is told of it; the fetch ends when nobody is left.
    Cancel {
        /// Which.
        digest: Digest,
        /// Who.
        waiter: Waiter,
    },
    /// Answers [`Output::Open`].
    Opened {
        /// The request.
        op: OpId,
        /// The stream, ours from now on.
        stream: StreamKey,
    },
    /// Answers [`Output::Open`]: the peer cannot be reached or takes no stream.
    OpenFailed {
        /// The request.
        op: OpId,
        /// Why, for people.
        why: String,
    },
    /// Something happened on a stream we opened.
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

/// What the fetches ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Open a stream to this peer, dialling it first if need be. Answered exactly once by [`Input::Opened`] or
    /// [`Input::OpenFailed`]; a stream that opens too late is reset at once.
    Open {
        /// The request.
        op: OpId,
        /// To whom.
        peer: PublicKey,
    },
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
    /// So much of an object is written. Once a piece at most.
    Progress {
        /// Which.
        digest: Digest,
        /// Its length.
        len: u64,
        /// Bytes written, those from before a restart included.
        done: u64,
    },
    /// The object is whole and durable in the store.
    Fetched {
        /// Which.
        digest: Digest,
        /// Its length.
        len: u64,
        /// On whose right.
        claim: Claim,
        /// All who waited.
        waiters: Vec<Waiter>,
    },
    /// The object could not be fetched.
    FetchFailed {
        /// Which.
        digest: Digest,
        /// The length that was wanted.
        len: u64,
        /// On whose right.
        claim: Claim,
        /// All who waited.
        waiters: Vec<Waiter>,
        /// Why.
        why: FetchError,
    },
    /// A peer did what no honest peer does: evidence for its score.
    Lied {
        /// Who.
        peer: PublicKey,
        /// About which object.
        digest: Digest,
        /// How.
        fault: SourceFault,
    },
}

/// What all objects share: ids, and whose answer is whose.
#[derive(Debug)]
struct Shared {
    ids: OpIds,
    ops: Few<OpId, Key>,
    streams: Few<StreamKey, Key>,
    abandoned: BTreeSet<OpId>,
    /// Streams to each peer, those that are being opened included.
    lanes: Few<PublicKey, usize>,
}

impl Shared {
    fn lanes_to(&self, peer: &PublicKey) -> usize {
        self.lanes.get(peer).copied().unwrap_or(0)
    }

    fn lane_begins(&mut self, peer: PublicKey) {
        *self.lanes.get_or_insert_with(peer, || 0) += 1;
    }

    fn lane_ends(&mut self, peer: &PublicKey) {
        if let Some(count) = self.lanes.get_mut(peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.lanes.remove(peer);
            }
        }
    }

    fn issue(&mut self, key: Key) -> OpId {
        let op = self.ids.issue();
        self.ops.insert(op, key);
        op
    }

    fn blob(&mut self, cx: &mut Cx<'_, Output>, key: Key, request: BlobRequest) -> OpId {
        let op = self.issue(key);
        cx.emit(Output::Blob { op, request });
        op
    }

    /// An opening is of no use any more; its stream will be reset.
    fn abandon(&mut self, op: OpId) {
        self.ops.remove(&op);
        self.abandoned.insert(op);
        if self.abandoned.len() > ABANDONED_MAX {
            self.abandoned.pop_first();
        }
    }
}

#[derive(Debug)]
struct Entry {
    waiters: BTreeSet<Waiter>,
    object: Object,
}

/// The machine of all fetches.
#[derive(Debug)]
pub struct Fetcher {
    shared: Shared,
    /// Boxed, because a node of the map holds eleven.
    entries: BTreeMap<Key, Box<Entry>>,
    to_look: VecDeque<Key>,
    looking: usize,
    to_start: VecDeque<Key>,
    active: BTreeSet<Key>,
    /// Pieces that claims which failed have not shown yet.
    unproven: BTreeMap<Key, Missing>,
}

impl Fetcher {
    /// No fetches; requests are numbered in the room with this number.
    pub fn new(room: u8) -> Self {
        Self {
            shared: Shared {
                ids: OpIds::new(room),
                ops: Few::new(),
                streams: Few::new(),
                abandoned: BTreeSet::new(),
                lanes: Few::new(),
            },
            entries: BTreeMap::new(),
            to_look: VecDeque::new(),
            looking: 0,
            to_start: VecDeque::new(),
            active: BTreeSet::new(),
            unproven: BTreeMap::new(),
        }
    }

    /// Objects under way.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// Objects wanted and not yet under way.
    pub fn waiting(&self) -> usize {
        self.entries.len() - self.active.len()
    }

    fn want(
        &mut self,
        cx: &mut Cx<'_, Output>,
        key: Key,
        under: Option<Digest>,
        sources: Vec<(PublicKey, Option<Ticket>)>,
        waiter: Waiter,
    ) {
        let known = self.entries.get(&key);
        let why = if key.1 > OBJECT_BYTES_MAX {
            Some(FetchError::TooLong)
        } else if known.is_none() && self.waiting() >= FETCHES_WAITING_MAX
            || known.is_some_and(|e| e.waiters.len() >= FETCH_WAITERS_MAX && !e.waiters.contains(&waiter))
        {
            Some(FetchError::Full)
        } else {
            None
        };
        if let Some(why) = why {
            let (digest, len, claim) = key;
            cx.emit(Output::FetchFailed { digest, len, claim, waiters: vec![waiter], why });
            return;
        }
        let entry = self.entries.entry(key).or_insert_with(|| {
            self.to_look.push_back(key);
            let unproven = self.unproven.remove(&key);
            Box::new(Entry { waiters: BTreeSet::new(), object: Object::new(key, unproven) })
        });
        entry.waiters.insert(waiter);
        for (peer, ticket) in sources {
            entry.object.add_source(cx, &mut self.shared, peer, ticket, under);
        }
        self.advance(cx);
    }

    fn cancel(&mut self, cx: &mut Cx<'_, Output>, digest: Digest, waiter: Waiter) {
        let mut orphans = Vec::new();
        let of_it = self.entries.range_mut((digest, 0, None)..).take_while(|(key, _)| key.0 == digest);
        for (key, entry) in of_it {
            if entry.waiters.remove(&waiter) && entry.waiters.is_empty() {
                orphans.push(*key);
            }
        }
        for key in orphans {
            self.remove(cx, key);
        }
        self.advance(cx);
    }

    /// Forgets an object and whatever it still asked for.
    fn remove(&mut self, cx: &mut Cx<'_, Output>, key: Key) -> Option<Box<Entry>> {
        let mut entry = self.entries.remove(&key)?;
        if self.entries.is_empty() {
            // A map keeps its root when the last entry goes.
            self.entries = BTreeMap::new();
        }
        entry.object.drop_lanes(cx, &mut self.shared);
        self.shared.ops.retain(|_, owner| *owner != key);
        match entry.object.step {
            Step::ToLook => self.to_look.retain(|k| *k != key),
            Step::Looking(_) => self.looking -= 1,
            Step::ToStart { .. } if !self.active.contains(&key) => self.to_start.retain(|k| *k != key),
            Step::ToStart { .. }
            | Step::Removing(_)
            | Step::NoList
            | Step::Creating(_)
            | Step::Open
            | Step::Sealing(_) => {}
        }
        self.active.remove(&key);
        Some(entry)
    }

    fn end(&mut self, cx: &mut Cx<'_, Output>, key: Key, end: End) {
        let Some(mut entry) = self.remove(cx, key) else { return };
        let (digest, len, claim) = key;
        let waiters = entry.waiters.into_iter().collect();
        if let (Err(_), Some(unproven)) = (&end, entry.object.unproven()) {
            self.unproven.insert(key, unproven);
            if self.unproven.len() > PROVEN_MAX {
                self.unproven.pop_first();
            }
        }
        cx.emit(match end {
            Ok(()) => Output::Fetched { digest, len, claim, waiters },
            Err(why) => Output::FetchFailed { digest, len, claim, waiters, why },
        });
    }

    /// Lets something happen to an object, and lets others take its place if that was its end.
    fn touch(
        &mut self,
        cx: &mut Cx<'_, Output>,
        key: Key,
        what: impl FnOnce(&mut Object, &mut Cx<'_, Output>, &mut Shared) -> Option<End>,
    ) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if let Some(end) = what(&mut entry.object, cx, &mut self.shared) {
            self.end(cx, key, end);
        }
        self.advance(cx);
    }

    /// Looks up and starts what waits, as far as the limits go.
    fn advance(&mut self, cx: &mut Cx<'_, Output>) {
        while self.looking < FETCH_LOOKUPS_MAX
            && let Some(key) = self.to_look.pop_front()
        {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.object.look(cx, &mut self.shared);
                self.looking += 1;
            }
        }
        while self.active.len() < FETCHES_ACTIVE_MAX {
            // Two lengths of one digest, or two claims, would write one partial object.
            let writes = |k: &Key| self.entries.get(k).is_some_and(|e| e.object.writes());
            let taken = |k: &Key| writes(k) && self.active.iter().any(|a| a.0 == k.0 && writes(a));
            let free = self.to_start.iter().position(|k| !taken(k));
            let Some(key) = free.and_then(|i| self.to_start.remove(i)) else { return };
            self.active.insert(key);
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if let Some(end) = entry.object.start(cx, &mut self.shared) {
                self.end(cx, key, end);
            }
        }
    }

    fn blob(&mut self, cx: &mut Cx<'_, Output>, op: OpId, result: Result<BlobAnswer, BlobFailed>) {
        let Some(key) = self.shared.ops.remove(&op) else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let looked = entry.object.step == Step::Looking(op);
        let end = entry.object.blob(cx, &mut self.shared, op, result);
        match end {
            // `remove` counts a lookup that ends the fetch.
            Some(end) => self.end(cx, key, end),
            None if looked => {
                self.looking -= 1;
                self.to_start.push_back(key);
            }
            None => {}
        }
        self.advance(cx);
    }

    /// Bytes held in memory by each object under way.
    #[cfg(test)]
    pub(super) fn held(&self) -> impl Iterator<Item = u64> {
        self.active.iter().filter_map(|key| self.entries.get(key)).map(|entry| entry.object.held())
    }
}

impl Machine for Fetcher {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Want { digest, len, claim, under, sources, waiter } => {
                self.want(cx, (digest, len, claim), under, sources, waiter);
            }
            Input::Cancel { digest, waiter } => self.cancel(cx, digest, waiter),
            Input::Opened { op, stream } => match self.shared.ops.remove(&op) {
                Some(key) => self.touch(cx, key, |o, cx, sh| {
                    o.opened(cx, sh, op, stream);
                    None
                }),
                None if self.shared.abandoned.remove(&op) => {
                    cx.emit(Output::Stream { stream, op: StreamOp::Reset });
                }
                None => {}
            },
            Input::OpenFailed { op, why } => {
                self.shared.abandoned.remove(&op);
                if let Some(key) = self.shared.ops.remove(&op) {
                    self.touch(cx, key, |o, cx, sh| o.open_failed(cx, sh, op, why));
                }
            }
            Input::Stream { stream, event } => {
                if let Some(key) = self.shared.streams.get(&stream).copied() {
                    self.touch(cx, key, |o, cx, sh| o.stream(cx, sh, stream, event));
                }
            }
            Input::Blob { op, result } => self.blob(cx, op, result),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        let due: Vec<Key> = self.active.iter().copied().collect();
        for key in due {
            self.touch(cx, key, |o, cx, sh| o.timeout(cx, sh));
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let objects = self.active.iter().filter_map(|key| self.entries.get(key));
        objects.filter_map(|entry| entry.object.deadline()).reduce(|a, b| if b.at < a.at { b } else { a })
    }
}
