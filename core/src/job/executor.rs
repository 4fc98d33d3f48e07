//! The executor: does the jobs of others, and this node's own.
//!
//! ```text
//! admitted → staging → starting → running → sealed → retained → (released)
//!      └──────────┴──────────┴─────── stopping ────────┘ (tombstone)
//! ```
//! An order is journaled before it is accepted, a receipt before it is offered, and a job that was cancelled or released
//! leaves a tombstone, so that a late copy of its order starts nothing. Between an engine's exit and the seal nothing can
//! intervene: draining and hashing are the engine's part, and its word comes when all outputs are durable.
//!
//! **Inputs.** An order names its inputs by digest, and a digest is a name that anybody may know. What is in the store counts for
//! a job only when its requester has a right to it here: the node's own jobs have, a job that started with it or left it gives
//! its requester one, and so does a ticket of this node. Everybody else's input is a [`Claim`]: it is fetched from the sources
//! of the order, even if it is here, and their holders look at the requester's ticket.
//!
//! Leases: a requester is silent when it is away, and work goes on (jobs are pure; a second copy elsewhere does no harm).
//! After [`ORPHAN_AFTER`] unfinished jobs are stopped; sealed results wait until [`RETENTION`] is over.
//!
//! **Pledges** (see [`crate::job::quorum`]): the result of a job that is to be pledged is offered as a hash until its requester wants to
//! see it. Whether it does is not remembered over a restart: then the pledge is said again.
//!
//! **Light jobs** (see [`crate::job::carried`]) go the same way, but nothing of them is journaled until one turns out to be none, and a
//! result that was answered is forgotten at once. Their receipts have numbers of the chain that were set aside before.
//!
//! After a restart, what was admitted is staged, what ran is run again, what was sealed is offered again.

mod chain;
mod guard;
mod interface;
mod light;
mod orders;
mod results;
mod staging;
mod tombstones;

pub use interface::{Claim, Durable, ExecutorConfig, Input, Output};
pub use staging::{GIVING_MAX, STAGE_AGAIN, STAGE_TRIES_MAX};

use super::held::{Held, JobRecord};
use super::message::{JobState, Message};
use crate::codec::DecodeError;
use crate::few::Few;
use crate::id::{Digest, JobId, PublicKey};
use crate::limits::HEARTBEAT_EVERY;
use crate::machine::{Cx, Machine};
use crate::port::{EngineOutput, layout_of};
use crate::service::Service;
use crate::store::{Room, StoreOp, StoredRecord, Subject};
use crate::time::{Deadline, Duration, Instant, UnixTime};
use bytes::Bytes;
use chain::Chain;
use guard::Guard;
use staging::{Want, WantKey};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tombstones::Tombstones;

/// Time a guest has to end by itself (SPEC 7.9).
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// After this an engine that says nothing about a stopped job is taken to have stopped it.
pub const STOP_WAIT_MAX: Duration = Duration::from_secs(30);
/// Silence of a requester after which its unfinished jobs are stopped.
pub const ORPHAN_AFTER: Duration = Duration::from_secs(900);
/// How long a sealed result is kept for a requester that does not release it.
pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// First pause before an unanswered result is offered again; doubles up to [`OFFER_MAX`].
pub const OFFER_MIN: Duration = Duration::from_secs(1);
/// Longest pause between offers.
pub const OFFER_MAX: Duration = Duration::from_secs(30);

/// Soft side of a requester.
#[derive(Clone, Debug)]
struct Peer {
    up: bool,
    heard: Instant,
    heartbeat_at: Instant,
}

/// Soft side of a job.
#[derive(Clone, Debug)]
struct Soft {
    /// Inputs not yet here; `None` before staging.
    staging: Option<BTreeSet<WantKey>>,
    fetched: BTreeSet<Digest>,
    guest_runs: bool,
    stop_by: Option<Instant>,
    offer_at: Option<Instant>,
    offer_wait: Duration,
    /// Whether its requester wants to see what was pledged.
    revealed: bool,
    /// When a sealed result is dropped.
    expires: Option<Instant>,
    /// What a light job carries: its inputs, then its outputs. Of a light job nothing is journaled.
    carried: Option<Vec<Bytes>>,
}

/// Does jobs.
#[derive(Clone, Debug)]
pub struct Executor {
    config: ExecutorConfig,
    me: PublicKey,
    services: Vec<(Digest, Service)>,
    held: BTreeMap<JobId, Held>,
    soft: BTreeMap<JobId, Soft>,
    queue: VecDeque<JobId>,
    /// The queue of those that give a dataset.
    giving: VecDeque<JobId>,
    tombstones: Tombstones,
    chain: Chain,
    peers: Few<PublicKey, Peer>,
    wants: BTreeMap<WantKey, Want>,
    guard: Guard,
    refused: u64,
}

impl Executor {
    /// Folds the records of [`Room::Job`]; others are skipped. Follow with [`Input::Services`] and [`Input::Started`]. The
    /// error names the record.
    pub fn restore(config: ExecutorConfig, records: &[StoredRecord]) -> Result<Self, (u64, DecodeError)> {
        let me = config.keypair.public();
        let mut x = Self {
            config,
            me,
            services: Vec::new(),
            held: BTreeMap::new(),
            soft: BTreeMap::new(),
            queue: VecDeque::new(),
            giving: VecDeque::new(),
            tombstones: Tombstones::default(),
            chain: Chain::default(),
            peers: Few::new(),
            wants: BTreeMap::new(),
            guard: Guard::default(),
            refused: 0,
        };
        for r in records.iter().filter(|r| r.subject.room == Room::Job) {
            let (record, at) = JobRecord::decode(&r.record).map_err(|e| (r.lsn.0, e))?;
            if x.chain.evolve(&record) {
                continue;
            }
            let job = JobId::from_slice(&r.subject.key)
                .map_err(|e| (r.lsn.0, DecodeError::invalid("job", e.to_string())))?;
            x.evolve(job, record, at);
        }
        x.chain.restored();
        Ok(x)
    }

    fn evolve(&mut self, job: JobId, record: JobRecord, at: UnixTime) {
        match record {
            JobRecord::Tombstone { requester } => {
                self.held.remove(&job);
                self.tombstones.insert(job, requester);
            }
            record @ (JobRecord::Chain { .. } | JobRecord::Numbers { .. }) => {
                self.chain.evolve(&record);
            }
            record @ JobRecord::Admitted { .. } => {
                if let Some(held) = Held::admit(record, at) {
                    let queue = if held.gives_data() { &mut self.giving } else { &mut self.queue };
                    queue.push_back(job);
                    self.held.insert(job, held);
                }
            }
            record @ (JobRecord::Starting { .. }
            | JobRecord::Stopping
            | JobRecord::Sealed { .. }
            | JobRecord::Acked) => {
                if let Some(h) = self.held.get_mut(&job) {
                    h.evolve(&record, at);
                }
            }
        }
    }

    /// Journals a fact and makes it so.
    fn record(&mut self, cx: &mut Cx<'_, Output>, job: JobId, record: JobRecord) {
        if light::keeps_to_itself(&record) && self.is_light(&job) {
            return self.evolve(job, record, cx.wall);
        }
        let bytes = Bytes::from(record.encode(cx.wall));
        let op = match record {
            JobRecord::Chain { .. } => {
                StoreOp::Replace { subject: Subject::new(Room::Job, chain::CHAIN_KEY), record: bytes }
            }
            JobRecord::Numbers { .. } => {
                StoreOp::Replace { subject: Subject::new(Room::Job, chain::NUMBERS_KEY), record: bytes }
            }
            JobRecord::Tombstone { .. } => {
                StoreOp::Replace { subject: Subject::new(Room::Job, &job.0), record: bytes }
            }
            JobRecord::Admitted { .. }
            | JobRecord::Starting { .. }
            | JobRecord::Stopping
            | JobRecord::Sealed { .. }
            | JobRecord::Acked => StoreOp::Append { subject: Subject::new(Room::Job, &job.0), record: bytes },
        };
        cx.emit(Output::Persist(op));
        self.evolve(job, record, cx.wall);
    }

    /// Jobs held, for status and checkers.
    pub fn held(&self) -> &BTreeMap<JobId, Held> {
        &self.held
    }

    /// Whether a held job needs `digest` in the local store.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.held.values().any(|h| h.objects().any(|d| d == *digest))
    }

    /// Directories that held jobs need in the local store: of those that have them whole, or of those that still wait for them.
    pub fn trees(&self, whole: bool) -> BTreeSet<Digest> {
        self.held.values().filter(|h| h.has_trees() == whole).flat_map(Held::trees).collect()
    }

    /// Those of the objects a job has left that are directories.
    pub fn trees_left(&self, job: &JobId, outputs: &[EngineOutput]) -> BTreeSet<Digest> {
        let Some(held) = self.held.get(job) else { return BTreeSet::new() };
        let tree = |o: &&EngineOutput| layout_of(&held.order.paths, &o.port).is_tree();
        outputs.iter().filter(tree).map(|o| o.digest).collect()
    }

    /// Messages that made no sense from their sender.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Everything that must survive a restart: jobs, tombstones, and the head of the chain.
    pub fn durable(&self) -> Durable<'_> {
        let held = self.held.iter().filter(|(job, _)| !self.is_light(job)).collect();
        Durable { held, tombstones: self.tombstones.all(), chain: self.chain.durable() }
    }

    /// State of a job, as told to its requester.
    pub fn state(&self, job: &JobId) -> Option<JobState> {
        let (held, soft) = (self.held.get(job)?, self.soft.get(job)?);
        let staging = soft.staging.is_some();
        Some(match (&held.receipt, &held.started) {
            (Some(_), _) if held.acked => JobState::Retained,
            (Some(_), _) => JobState::Sealed,
            (None, _) if held.stopping => JobState::Stopping,
            (None, Some(_)) if soft.guest_runs => JobState::Running,
            (None, Some(_)) => JobState::Starting,
            (None, None) if staging => JobState::Staging,
            (None, None) => JobState::Admitted,
        })
    }

    /// Like [`Executor::state`], with orphans told apart: for this node's own views.
    pub fn local_state(&self, job: &JobId, now: Instant) -> Option<JobState> {
        let state = self.state(job)?;
        let requester = self.held.get(job)?.requester();
        let away = self.peers.get(&requester).is_none_or(|p| !p.up && now >= p.heard + ORPHAN_AFTER);
        Some(if away { JobState::Orphaned } else { state })
    }

    fn send(&self, cx: &mut Cx<'_, Output>, peer: PublicKey, message: &Message) {
        if self.peers.get(&peer).is_some_and(|p| p.up) {
            cx.emit(Output::Send { peer, frame: message.to_frame() });
        }
    }

    fn soft(&self, held: &Held, now: Instant, wall: UnixTime) -> Soft {
        let sealed = held.receipt.as_ref().map(|r| r.ended);
        Soft {
            staging: None,
            fetched: BTreeSet::new(),
            guest_runs: false,
            stop_by: None,
            offer_at: sealed.filter(|_| !held.acked).map(|_| now + OFFER_MIN),
            offer_wait: OFFER_MIN,
            revealed: false,
            carried: None,
            expires: sealed.map(|at| now + RETENTION.saturating_sub(wall.since(at))),
        }
    }

    fn meet(&mut self, peer: PublicKey, now: Instant) -> &mut Peer {
        let unheard = || Peer { up: false, heard: now, heartbeat_at: now + HEARTBEAT_EVERY };
        self.peers.get_or_insert_with(peer, unheard)
    }

    fn start(&mut self, cx: &mut Cx<'_, Output>) {
        let jobs: Vec<JobId> = self.held.keys().copied().collect();
        let mut keep = Vec::new();
        for job in jobs {
            let Some(held) = self.held.get(&job) else { continue };
            let requester = held.requester();
            let soft = self.soft(held, cx.now, cx.wall);
            let (sealed, stopping, started) = (held.receipt.is_some(), held.stopping, held.started.is_some());
            self.soft.insert(job, soft);
            self.meet(requester, cx.now);
            if sealed {
                self.grant(cx, &job);
            } else if stopping {
                // What an engine still has of it goes with the sweep.
                self.drop_job(cx, &job);
            } else if started {
                self.run(cx, &job);
                keep.push(job);
            }
        }
        cx.emit(Output::Sweep { keep });
        let waits = |j: &JobId| self.held.get(j).is_some_and(|h| h.started.is_none() && h.receipt.is_none());
        let (queue, giving) = (self.queue.iter(), self.giving.iter());
        let (queue, giving) = (queue.filter(|j| waits(j)).copied(), giving.filter(|j| waits(j)).copied());
        (self.queue, self.giving) = (queue.collect(), giving.collect());
        self.fill(cx);
    }

    fn inventory(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey) {
        let of_peer = self.held.iter().filter(|(_, h)| h.requester() == peer);
        let jobs = of_peer.filter_map(|(j, _)| Some((*j, self.state(j)?))).collect();
        let message = Message::Inventory { incarnation: self.config.incarnation, jobs };
        self.send(cx, peer, &message);
    }

    /// Whether jobs of this peer are held here.
    pub fn has_jobs_of(&self, peer: &PublicKey) -> bool {
        self.held.values().any(|h| h.requester() == *peer)
    }

    fn requester_is_up(&self, job: &JobId) -> bool {
        self.held.get(job).and_then(|h| self.peers.get(&h.requester())).is_some_and(|p| p.up)
    }

    fn unsealed_of(&self, peer: &PublicKey) -> Vec<JobId> {
        let of_peer = self.held.iter().filter(|(_, h)| h.requester() == *peer && unsealed(h));
        of_peer.map(|(j, _)| *j).collect()
    }
}

/// Whether a job still works towards its receipt.
fn unsealed(held: &Held) -> bool {
    held.receipt.is_none() && !held.stopping
}

impl Machine for Executor {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Started => self.start(cx),
            Input::Services(services) => {
                self.services = services.into_iter().map(|s| (s.id(), s)).collect();
            }
            Input::PeerUp(peer) => {
                let now = cx.now;
                let p = self.meet(peer, now);
                *p = Peer { up: true, heard: now, heartbeat_at: now + HEARTBEAT_EVERY };
                self.inventory(cx, peer);
                let sealed = |h: &Held| h.requester() == peer && h.receipt.is_some() && !h.acked;
                let jobs: Vec<JobId> = self.held.iter().filter(|(_, h)| sealed(h)).map(|(j, _)| *j).collect();
                for job in jobs {
                    if let Some(soft) = self.soft.get_mut(&job) {
                        soft.offer_wait = OFFER_MIN;
                    }
                    self.offer(cx, &job);
                }
            }
            Input::PeerDown(peer) => {
                if self.has_jobs_of(&peer) {
                    self.meet(peer, cx.now).up = false;
                } else {
                    self.peers.remove(&peer);
                }
            }
            Input::Message { peer, message } => self.order(cx, peer, *message),
            Input::Fetched { digest, claim, tree, new } => self.fetched(cx, (digest, claim, tree), new),
            Input::FetchFailed { digest, claim, tree, why, hopeless } => {
                self.fetch_failed(cx, (digest, claim, tree), &why, hopeless);
            }
            Input::Engine(report) => self.engine(cx, report),
            Input::Blocked(peer) => {
                for job in self.unsealed_of(&peer) {
                    self.end(cx, &job);
                }
            }
            Input::Policy(policy) => self.set_policy(cx, *policy),
            Input::OutputsGone(job) => self.outputs_gone(cx, &job),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        let now = cx.now;
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.peer_timeout(cx, peer);
        }
        for job in self.soft.keys().copied().collect::<Vec<_>>() {
            let Some(soft) = self.soft.get_mut(&job) else { continue };
            if soft.stop_by.is_some_and(|at| at <= now) {
                self.stopped(cx, &job);
            } else if soft.expires.is_some_and(|at| at <= now) {
                if self.is_light(&job) {
                    self.forget_light(&job);
                } else {
                    self.drop_job(cx, &job);
                }
            } else if soft.offer_at.is_some_and(|at| at <= now) && self.requester_is_up(&job) {
                self.offer(cx, &job);
            }
        }
        for ((digest, claim, tree), w) in &mut self.wants {
            if w.again.is_some_and(|at| at <= now) {
                w.again = None;
                let (digest, claim, tree, len) = (*digest, *claim, *tree, w.len);
                cx.emit(Output::Want { digest, len, claim, tree, sources: w.sources.clone() });
            }
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let mut next = None;
        for held in self.held.values() {
            let Some(p) = self.peers.get(&held.requester()) else { continue };
            if p.up {
                next = Deadline::earlier(next, Some(Deadline::new(p.heartbeat_at, "heartbeat")));
            }
            if unsealed(held) {
                next = Deadline::earlier(next, Some(Deadline::new(p.heard + ORPHAN_AFTER, "orphan")));
            }
        }
        for (job, soft) in &self.soft {
            let offer = soft
                .offer_at
                .filter(|_| self.requester_is_up(job))
                .map(|at| Deadline::new(at, "offer again"));
            let stop = soft.stop_by.map(|at| Deadline::new(at, "stop: give up"));
            let expiry = soft.expires.map(|at| Deadline::new(at, "retention"));
            next = [offer, stop, expiry].into_iter().fold(next, Deadline::earlier);
        }
        let wants = self.wants.values().map(|w| w.again.map(|at| Deadline::new(at, "fetch again")));
        wants.fold(next, Deadline::earlier)
    }
}

#[cfg(test)]
mod tests;
