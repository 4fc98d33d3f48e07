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
//! After a restart, what was admitted is staged, what ran is run again, what was sealed is offered again.

mod orders;
mod tombstones;

use super::held::{Held, JobRecord};
use super::message::{JobState, Message, Source};
use super::order::Order;
use super::receipt::{DETAIL_BYTES_MAX, Receipt, Verdict, result_digest};
use super::signed::Signed;
use crate::codec::{DecodeError, Frame};
use crate::id::{Digest, JobId, Keypair, PublicKey};
use crate::limits::HEARTBEAT_EVERY;
use crate::machine::{Cx, Machine};
use crate::port::{EngineEvent, EngineExit, EngineJob, EngineReport, EngineRequest, ExitClass, Port, Usage};
use crate::service::Service;
use crate::store::{Room, StoreOp, StoredRecord, Subject};
use crate::ticket::Ticket;
use crate::time::{Deadline, Duration, Instant, UnixTime};
use bytes::Bytes;
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
/// Attempts to fetch an input before the job fails.
pub const STAGE_TRIES_MAX: u32 = 4;
/// First pause between them; doubles.
pub const STAGE_AGAIN: Duration = Duration::from_secs(2);

const CHAIN_KEY: &[u8] = b"chain";

/// The requester that has yet to show its right to an object, by the sources of its order.
pub type Claim = Option<PublicKey>;

/// An object, and on whose right it is wanted.
type WantKey = (Digest, Claim);

/// What an executor is told at its start.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// Who it is.
    pub keypair: Keypair,
    /// Changes when the journal is lost.
    pub incarnation: u64,
    /// Name and version of the engine, for receipts.
    pub engine: String,
    /// Whether jobs of other peers are accepted.
    pub accept_jobs: bool,
    /// Jobs staged or running at once.
    pub running_max: usize,
}

/// What can happen to the executor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// After [`Executor::restore`] and the first [`Input::Services`], once: takes up whatever was outstanding.
    Started,
    /// The services this node offers, with their visibility.
    Services(Vec<Service>),
    /// A peer's control stream is up. The node itself is a peer that is up from the start.
    PeerUp(PublicKey),
    /// It is gone.
    PeerDown(PublicKey),
    /// A message from a requester.
    Message {
        /// Proven by TLS.
        peer: PublicKey,
        /// What it says.
        message: Box<Message>,
    },
    /// A wanted object is here, whole and durable.
    Fetched {
        /// Which.
        digest: Digest,
        /// On whose right.
        claim: Claim,
        /// Whether it was brought here now (and may go with the job), or was here before.
        new: bool,
    },
    /// A wanted object could not be fetched now.
    FetchFailed {
        /// Which.
        digest: Digest,
        /// On whose right.
        claim: Claim,
        /// Why.
        why: String,
        /// Whether another try is of no use.
        hopeless: bool,
    },
    /// The engine tells.
    Engine(EngineReport),
    /// The user blocks this peer: nothing of it runs any more.
    Blocked(PublicKey),
    /// An execution ended, but what it left is not in the store: it is executed again.
    OutputsGone(JobId),
}

/// What the executor can ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Journal this; later outputs rely on it.
    Persist(StoreOp),
    /// Send this on the peer's control stream, or hand it to this node's own requester.
    Send {
        /// Whom to.
        peer: PublicKey,
        /// What.
        frame: Frame,
    },
    /// Bring this object here; answered by exactly one `Fetched` or `FetchFailed`.
    Want {
        /// Which.
        digest: Digest,
        /// Its length.
        len: u64,
        /// Whose right must be shown first; with none, the store is enough.
        claim: Claim,
        /// Who has it, with the requester's ticket.
        sources: Vec<(PublicKey, Option<Bytes>)>,
    },
    /// Ask the engine. Idempotent.
    Engine {
        /// The job.
        job: JobId,
        /// What.
        request: EngineRequest,
    },
    /// Serve this object to `requester` and to whoever shows its ticket. Idempotent.
    Grant {
        /// Which.
        digest: Digest,
        /// Whose it is.
        requester: PublicKey,
    },
    /// The opposite.
    Revoke {
        /// Which.
        digest: Digest,
        /// Whose it was.
        requester: PublicKey,
    },
    /// No job here needs this object any more: remove it, unless something else in this node does.
    Remove {
        /// Which.
        digest: Digest,
    },
}

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
    /// When a sealed result is dropped.
    expires: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Want {
    len: u64,
    sources: Vec<(PublicKey, Option<Bytes>)>,
    tries: u32,
    /// `None` while an answer is awaited.
    again: Option<Instant>,
}

/// What an executor's journal folds to; for checkers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Durable<'a> {
    /// Jobs held.
    pub held: &'a BTreeMap<JobId, Held>,
    /// Jobs that must never start again, and whose they were.
    pub tombstones: &'a BTreeMap<JobId, PublicKey>,
    /// Number and digest of the last receipt.
    pub chain: (u64, Digest),
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
    tombstones: Tombstones,
    chain: (u64, Digest),
    peers: BTreeMap<PublicKey, Peer>,
    wants: BTreeMap<WantKey, Want>,
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
            tombstones: Tombstones::default(),
            chain: (0, Digest([0; 32])),
            peers: BTreeMap::new(),
            wants: BTreeMap::new(),
            refused: 0,
        };
        for r in records.iter().filter(|r| r.subject.room == Room::Job) {
            let (record, at) = JobRecord::decode(&r.record).map_err(|e| (r.lsn.0, e))?;
            if let JobRecord::Chain { seq, digest } = record {
                x.chain = (seq, digest);
                continue;
            }
            let job = JobId::from_slice(&r.subject.key)
                .map_err(|e| (r.lsn.0, DecodeError::invalid("job", e.to_string())))?;
            x.evolve(job, record, at);
        }
        Ok(x)
    }

    fn evolve(&mut self, job: JobId, record: JobRecord, at: UnixTime) {
        match record {
            JobRecord::Tombstone { requester } => {
                self.held.remove(&job);
                self.tombstones.insert(job, requester);
            }
            JobRecord::Chain { seq, digest } => self.chain = (seq, digest),
            record @ JobRecord::Admitted { .. } => {
                if let Some(held) = Held::admit(record, at) {
                    self.held.insert(job, held);
                    self.queue.push_back(job);
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
        let bytes = Bytes::from(record.encode(cx.wall));
        let op = match record {
            JobRecord::Chain { .. } => {
                StoreOp::Replace { subject: Subject::new(Room::Job, CHAIN_KEY), record: bytes }
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

    /// Messages that made no sense from their sender.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Everything that must survive a restart: jobs, tombstones, and the head of the chain.
    pub fn durable(&self) -> Durable<'_> {
        Durable { held: &self.held, tombstones: self.tombstones.all(), chain: self.chain }
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
            expires: sealed.map(|at| now + RETENTION.saturating_sub(wall.since(at))),
        }
    }

    fn meet(&mut self, peer: PublicKey, now: Instant) -> &mut Peer {
        self.peers.entry(peer).or_insert(Peer { up: false, heard: now, heartbeat_at: now + HEARTBEAT_EVERY })
    }

    fn start(&mut self, cx: &mut Cx<'_, Output>) {
        let jobs: Vec<JobId> = self.held.keys().copied().collect();
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
                // The engine died with us: nothing is left to stop.
                self.drop_job(cx, &job);
            } else if started {
                self.run(cx, &job);
            }
        }
        let waits = |j: &JobId| self.held.get(j).is_some_and(|h| h.started.is_none() && h.receipt.is_none());
        self.queue = self.queue.iter().filter(|j| waits(j)).copied().collect();
        self.fill(cx);
    }

    /// Starts staging queued jobs while there are slots.
    fn fill(&mut self, cx: &mut Cx<'_, Output>) {
        let busy = |s: &&Self| {
            let working = |(j, h): &(&JobId, &Held)| {
                let staging = s.soft.get(*j).is_some_and(|x| x.staging.is_some());
                h.receipt.is_none() && (h.started.is_some() || staging)
            };
            s.held.iter().filter(working).count()
        };
        while busy(&&*self) < self.config.running_max.max(1) {
            let Some(job) = self.queue.pop_front() else { return };
            self.stage(cx, &job);
        }
    }

    fn stage(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(held) = self.held.get(job) else { return };
        let requester = held.requester();
        let mut missing = BTreeSet::new();
        for (input, sources) in held.order.inputs.iter().zip(&held.sources) {
            let (digest, len) = (input.digest, input.len);
            let has_right = self.has_right(&requester, &digest, sources, cx.wall);
            let claim = (!has_right).then_some(requester);
            missing.insert((digest, claim));
            if self.wants.contains_key(&(digest, claim)) {
                continue;
            }
            let sources: Vec<_> = sources.iter().map(|s| (s.holder, Some(s.ticket.clone()))).collect();
            let want = Want { len, sources: sources.clone(), tries: 0, again: None };
            self.wants.insert((digest, claim), want);
            cx.emit(Output::Want { digest, len, claim, sources });
        }
        if let Some(soft) = self.soft.get_mut(job) {
            soft.staging = Some(missing);
        }
        self.staged(cx, job);
    }

    /// Whether `requester` may use an object of the store as it is.
    fn has_right(&self, requester: &PublicKey, digest: &Digest, sources: &[Source], wall: UnixTime) -> bool {
        let ours = |s: &Source| {
            Ticket::decode(&s.ticket)
                .is_ok_and(|t| *t.requester() == self.me && t.allows(digest, requester, wall))
        };
        *requester == self.me
            || self.held.values().any(|h| h.requester() == *requester && h.has_shown(digest))
            || sources.iter().any(ours)
    }

    /// All inputs here? Then start.
    fn staged(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(soft) = self.soft.get(job) else { return };
        if soft.staging.as_ref().is_some_and(BTreeSet::is_empty)
            && self.held.get(job).is_some_and(|h| h.started.is_none())
        {
            let fetched = soft.fetched.iter().copied().collect();
            self.record(cx, *job, JobRecord::Starting { fetched });
            self.run(cx, job);
        }
    }

    fn run(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(held) = self.held.get(job) else { return };
        let o: &Order = &held.order;
        let engine_job = EngineJob {
            module: o.module,
            args: o.args.clone(),
            env: o.env.clone(),
            inputs: o.inputs.clone(),
            outputs: o.outputs.clone(),
            limits: o.limits,
            seed: o.seed(),
        };
        cx.emit(Output::Engine { job: *job, request: EngineRequest::Start(engine_job) });
    }

    fn fetched(&mut self, cx: &mut Cx<'_, Output>, want: WantKey, new: bool) {
        if self.wants.remove(&want).is_none() {
            return;
        }
        let (digest, _) = want;
        let mut first = new;
        let waiting: Vec<JobId> = self.waiting_for(&want);
        if waiting.is_empty() && new && !self.holds(&digest) {
            cx.emit(Output::Remove { digest });
        }
        for job in waiting {
            if let Some(soft) = self.soft.get_mut(&job) {
                if let Some(missing) = soft.staging.as_mut() {
                    missing.remove(&want);
                }
                if first {
                    soft.fetched.insert(digest);
                }
            }
            first = false;
            self.staged(cx, &job);
        }
    }

    fn waiting_for(&self, want: &WantKey) -> Vec<JobId> {
        let waits = |s: &Soft| s.staging.as_ref().is_some_and(|m| m.contains(want));
        self.soft.iter().filter(|(_, s)| waits(s)).map(|(j, _)| *j).collect()
    }

    fn fetch_failed(&mut self, cx: &mut Cx<'_, Output>, want: WantKey, why: &str, hopeless: bool) {
        let Some(w) = self.wants.get_mut(&want).filter(|w| w.again.is_none()) else { return };
        w.tries += 1;
        let (tries, digest) = (w.tries, want.0);
        if !hopeless && tries < STAGE_TRIES_MAX && !self.waiting_for(&want).is_empty() {
            let Some(w) = self.wants.get_mut(&want) else { return };
            w.again = Some(cx.now + STAGE_AGAIN * 2u32.pow(tries - 1));
            return;
        }
        self.wants.remove(&want);
        for job in self.waiting_for(&want) {
            let exit = EngineExit {
                class: ExitClass::Infra,
                code: 0,
                detail: format!("input {digest} could not be fetched: {why}"),
                usage: Usage::default(),
                outputs: Vec::new(),
            };
            self.seal(cx, &job, exit);
        }
        self.fill(cx);
    }

    fn engine(&mut self, cx: &mut Cx<'_, Output>, report: EngineReport) {
        let job = report.job;
        let Some(held) = self.held.get(&job).filter(|h| h.started.is_some() && h.receipt.is_none()) else {
            return;
        };
        match report.event {
            EngineEvent::Started => {
                if let Some(soft) = self.soft.get_mut(&job) {
                    soft.guest_runs = true;
                }
            }
            EngineEvent::Exited(_) if held.stopping => self.stopped(cx, &job),
            EngineEvent::Exited(exit) => {
                self.seal(cx, &job, exit);
                self.fill(cx);
            }
        }
    }

    fn outputs_gone(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        match self.held.get(job) {
            Some(h) if h.stopping => self.stopped(cx, job),
            Some(h) if h.started.is_some() && h.receipt.is_none() => {
                if let Some(soft) = self.soft.get_mut(job) {
                    soft.guest_runs = false;
                }
                self.run(cx, job);
            }
            Some(_) | None => {}
        }
    }

    /// Signs and journals the result, then offers it.
    fn seal(&mut self, cx: &mut Cx<'_, Output>, job: &JobId, exit: EngineExit) {
        let Some(held) = self.held.get(job) else { return };
        let order = &held.order;
        let mut outputs = exit.outputs;
        let mut seen: BTreeSet<Port> = BTreeSet::new();
        outputs.retain(|o| order.outputs.contains(&o.port) && seen.insert(o.port.clone()));
        let missing = order.outputs.iter().find(|p| !seen.contains(p));
        let (mut class, mut detail) = (exit.class, exit.detail);
        if class == ExitClass::Success && exit.code != 0 {
            class = ExitClass::User;
        }
        if let (ExitClass::Success, Some(port)) = (class, missing) {
            class = ExitClass::User;
            detail = format!("it ended well but left nothing at {}", super::encoding::port_text(port));
        }
        let receipt = Receipt {
            executor: self.me,
            incarnation: self.config.incarnation,
            seq: self.chain.0 + 1,
            previous: self.chain.1,
            order: order.digest(),
            job: *job,
            engine: self.config.engine.clone(),
            module: order.module,
            class,
            code: exit.code,
            detail: super::message::cut_words(&detail, DETAIL_BYTES_MAX),
            result: result_digest(class, exit.code, &outputs),
            outputs,
            usage: exit.usage,
            started: held.started.as_ref().map_or(held.admitted, |(at, _)| *at),
            ended: cx.wall,
        };
        let receipt = Signed::sign(receipt, &self.config.keypair);
        // The chain first: if a crash comes between the two, a number is skipped, never used twice.
        self.record(cx, *job, JobRecord::Chain { seq: receipt.seq, digest: receipt.digest() });
        self.record(cx, *job, JobRecord::Sealed { receipt: Box::new(receipt) });
        if let Some(soft) = self.soft.get_mut(job) {
            soft.staging = None;
            soft.guest_runs = false;
            soft.expires = Some(cx.now + RETENTION);
        }
        self.grant(cx, job);
        self.offer(cx, job);
    }

    fn grant(&self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(held) = self.held.get(job) else { return };
        for o in held.receipt.iter().flat_map(|r| &r.outputs) {
            cx.emit(Output::Grant { digest: o.digest, requester: held.requester() });
        }
    }

    /// Offers a sealed result and arms the next offer.
    fn offer(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let (Some(held), Some(soft)) = (self.held.get(job), self.soft.get_mut(job)) else { return };
        let Some(receipt) = held.receipt.clone() else { return };
        if !held.acked {
            soft.offer_at = Some(cx.now + soft.offer_wait);
            soft.offer_wait = (soft.offer_wait * 2).min(OFFER_MAX);
        }
        let peer = held.requester();
        self.send(cx, peer, &Message::SealedOffer { receipt: Box::new(receipt) });
    }

    /// A stopped job's engine is silent now: acknowledge and forget.
    fn stopped(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        if let Some(held) = self.held.get(job) {
            let peer = held.requester();
            self.drop_job(cx, job);
            self.send(cx, peer, &Message::CancelAck { job: *job });
            self.fill(cx);
        }
    }

    /// Forgets a job for good: a tombstone stays, grants and objects that no other job needs go.
    fn drop_job(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(held) = self.held.get(job).cloned() else { return };
        let requester = held.requester();
        let brought = self.soft.remove(job).map(|s| s.fetched).unwrap_or_default();
        self.queue.retain(|j| j != job);
        self.bury(cx, *job, requester);
        let outputs: BTreeSet<Digest> =
            held.receipt.iter().flat_map(|r| r.outputs.iter().map(|o| o.digest)).collect();
        for digest in &outputs {
            let other = |h: &Held| {
                h.requester() == requester
                    && h.receipt.iter().flat_map(|r| &r.outputs).any(|o| o.digest == *digest)
            };
            if !self.held.values().any(other) {
                cx.emit(Output::Revoke { digest: *digest, requester });
            }
        }
        let inputs = held.started.into_iter().flat_map(|(_, fetched)| fetched);
        let gone: BTreeSet<Digest> = outputs.into_iter().chain(inputs).chain(brought).collect();
        for digest in gone {
            if !self.holds(&digest) {
                cx.emit(Output::Remove { digest });
            }
        }
        if !self.has_jobs_of(&requester) && self.peers.get(&requester).is_some_and(|p| !p.up) {
            self.peers.remove(&requester);
        }
        let needed: BTreeSet<WantKey> =
            self.soft.values().flat_map(|s| s.staging.iter().flatten()).copied().collect();
        // A request that is under way is answered once; until then it must not be made again.
        self.wants.retain(|want, w| w.again.is_none() || needed.contains(want));
    }

    fn bury(&mut self, cx: &mut Cx<'_, Output>, job: JobId, requester: PublicKey) {
        self.record(cx, job, JobRecord::Tombstone { requester });
        while let Some(oldest) = self.tombstones.too_many(&requester) {
            cx.emit(Output::Persist(StoreOp::Forget { subject: Subject::new(Room::Job, &oldest.0) }));
        }
    }

    fn inventory(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey) {
        let of_peer = self.held.iter().filter(|(_, h)| h.requester() == peer);
        let jobs = of_peer.filter_map(|(j, _)| Some((*j, self.state(j)?))).collect();
        let message = Message::Inventory { incarnation: self.config.incarnation, jobs };
        self.send(cx, peer, &message);
    }

    fn has_jobs_of(&self, peer: &PublicKey) -> bool {
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
            Input::Fetched { digest, claim, new } => self.fetched(cx, (digest, claim), new),
            Input::FetchFailed { digest, claim, why, hopeless } => {
                self.fetch_failed(cx, (digest, claim), &why, hopeless);
            }
            Input::Engine(report) => self.engine(cx, report),
            Input::Blocked(peer) => {
                for job in self.unsealed_of(&peer) {
                    self.end(cx, &job);
                }
            }
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
                self.drop_job(cx, &job);
            } else if soft.offer_at.is_some_and(|at| at <= now) && self.requester_is_up(&job) {
                self.offer(cx, &job);
            }
        }
        for ((digest, claim), w) in &mut self.wants {
            if w.again.is_some_and(|at| at <= now) {
                w.again = None;
                let (digest, claim, len) = (*digest, *claim, w.len);
                cx.emit(Output::Want { digest, len, claim, sources: w.sources.clone() });
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
