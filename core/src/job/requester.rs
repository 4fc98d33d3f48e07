//! The requester: drives this node's runs from submission to their end.
//!
//! Each step is a decision on durable state ([`Run`], folded from the journal) and soft state (who is connected, when
//! something was last heard). What is decided becomes a record first; the message that relies on it is emitted after, and the
//! gate holds it until the record is durable. `advance` looks at a run and does whatever is due, and is harmless when
//! nothing is: after a restart the same function derives again what was outstanding.
//!
//! A step costs what has happened, not what there is: what a run's records say is kept as an `index::Index`, who waits for
//! what as a `sched::Sched`, open attempts and wanted objects with their deadlines as `live::Lives` and `wants::Wants`.
//!
//! Tasks that are small are ordered light: they travel whole ([`crate::job::carried`]).
//!
//! Leases: an executor that is silent for [`SUSPECT_AFTER`](crate::limits::SUSPECT_AFTER) or disconnected is suspect, after [`LOST_AFTER`](crate::limits::LOST_AFTER) lost. A lost
//! attempt stays open: the task may be ordered elsewhere under the next fence, and whichever receipt comes first wins. A task
//! with an open attempt does not fail for want of an executor; the attempt is given up after [`LOST_KEPT_MAX`].
//!
//! A task may be asked of several executors at once, of whom enough must agree ([`crate::job::quorum`]): then it has several open
//! attempts, and what each shows is kept until the decision, which is one record.

mod advance;
mod answer;
mod follow;
mod halt;
mod index;
mod light;
mod live;
mod place;
mod quorum;
mod sched;
mod view;
mod wants;

use super::message::Message;
use super::run::{Run, RunRecord};
use super::validate::{Findings, check};
use super::workflow::Workflow;
use crate::codec::{DecodeError, Frame};
use crate::command::{CommandError, Reply, RunState};
use crate::dht::record::MachineSummary;
use crate::few::Few;
use crate::id::{CommandId, Digest, JobId, Keypair, PublicKey, RunId};
use crate::limits::{RUN_TASKS_ACTIVE_MAX, RUN_TASKS_KEPT_MAX, RUNS_ACTIVE_MAX, RUNS_KEPT_MAX};
use crate::machine::{Cx, Machine};
use crate::port::Target;
use crate::service::Service;
use crate::service::offers::{Home, Offerings};
use crate::store::{Room, StoreOp, StoredRecord, Subject};
use crate::time::{Deadline, Duration, Instant};
use bytes::Bytes;
use follow::Absent;
use index::{Held, Index, held_by, source_digests, trees_of};
use live::{Live, Lives, Silence};
use sched::Sched;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wants::Wants;

/// How long a run waits for named peers to show their catalogues: longer than it takes to notice that a connection leads
/// nowhere (30 s), to wait for the next attempt at the peer (another 30 s) and to find and reach it. A run that was
/// accepted must not fail because a peer has just restarted.
pub const VALIDATING_MAX: Duration = Duration::from_secs(120);
/// How long a task waits for any of its executors to be there and take it.
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a preferred executor that is not connected is waited for before the next one is taken.
pub const PREFERENCE_GRACE: Duration = Duration::from_secs(5);
/// How long a lost attempt may still win: executors keep results no longer, and stop unfinished jobs much sooner.
pub const LOST_KEPT_MAX: Duration = super::executor::RETENTION;
/// How often a missing peer is asked for again.
pub const NEED_AGAIN: Duration = Duration::from_secs(10);
/// First pause before an unanswered order or cancel is sent again; doubles up to [`RESEND_MAX`].
pub const RESEND_MIN: Duration = Duration::from_secs(1);
/// Longest pause between repetitions.
pub const RESEND_MAX: Duration = Duration::from_secs(30);
/// Longest wait for executors to confirm a cancel: their grace of 10 s, a lost lease, and room for repetitions.
pub const CANCEL_WAIT_MAX: Duration = Duration::from_secs(60);
/// Attempts that machines or the network may spoil before a task fails.
pub const INFRA_RETRIES: usize = 10;
/// First pause after such an attempt when no other executor is fresh; doubles up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest pause between attempts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Open attempts at one executor: well below what it admits of one requester, enough to keep it busy.
pub const ATTEMPTS_PER_PEER_MAX: usize = 64;
/// How long a program may run beyond a tenth more than its time limit before its executor is not believed to stop it any
/// more: a stop takes 10 s of grace, and the news of it a heartbeat or two.
pub const EXECUTION_GRACE: Duration = Duration::from_secs(30);
/// How long an executor may take to gather inputs, beside the time that their bytes take: room for rounds of attempts at
/// sources that come and go, and for what an engine fetches itself.
pub const STAGING_MAX: Duration = Duration::from_secs(30 * 60);
/// Slower than this is no progress: an executor says that it gathers inputs, not how far it has come.
pub const STAGING_BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// Standard error up to this size is fetched with the results, so that logs outlive the executor's memory of them.
pub const LOG_BYTES_MAX: u64 = 1 << 20;
/// How long the end of a run waits for logs; results are waited for, logs are not worth it.
pub const LOGS_WAIT_MAX: Duration = Duration::from_secs(30);
/// Attempts to fetch one result before the run fails.
pub const FETCH_TRIES_MAX: u32 = 10;

/// What can happen to the requester.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// After [`Requester::restore`], once: takes up whatever was outstanding.
    Started,
    /// The user submits a run.
    Submit {
        /// Answered with this id.
        id: CommandId,
        /// Chosen by the client.
        run: RunId,
        /// What.
        workflow: Box<Workflow>,
    },
    /// The user cancels a run.
    Cancel {
        /// Answered with this id.
        id: CommandId,
        /// Which.
        run: RunId,
    },
    /// The user pauses a run, or lets it go on.
    Pause {
        /// Answered with this id.
        id: CommandId,
        /// Which.
        run: RunId,
        /// Whether it is paused from now on.
        paused: bool,
    },
    /// A catalogue changed; `None`: it is forgotten. The node's own is among them, under its own key.
    Offers {
        /// Whose.
        peer: PublicKey,
        /// What it offers us.
        services: Option<Arc<[Service]>>,
    },
    /// What a peer says of its machine, before the catalogue that this came with.
    Machine {
        /// Whose.
        peer: PublicKey,
        /// What it has, if it says so.
        machine: Option<Box<MachineSummary>>,
    },
    /// A peer's control stream is up. The node itself is a peer that is up from the start.
    PeerUp(PublicKey),
    /// It is gone.
    PeerDown(PublicKey),
    /// A dial failed: words for people.
    Unreachable {
        /// Whom.
        peer: PublicKey,
        /// Why.
        why: String,
    },
    /// A message from an executor.
    Message {
        /// Proven by TLS.
        peer: PublicKey,
        /// What it says.
        message: Box<Message>,
    },
    /// So many verified bytes of a wanted object are here.
    Progress {
        /// Which.
        digest: Digest,
        /// Bytes.
        done: u64,
    },
    /// A wanted object is here, whole and durable.
    Fetched(Digest),
    /// A wanted object could not be fetched now.
    FetchFailed {
        /// Which.
        digest: Digest,
        /// Why.
        why: String,
    },
    /// A small object of the local store, as it was asked for.
    Read {
        /// Which.
        digest: Digest,
        /// Its bytes.
        bytes: Bytes,
    },
    /// A small object of the local store cannot be read.
    Unread {
        /// Which.
        digest: Digest,
        /// Why.
        why: String,
    },
}

/// What the requester can ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Journal this; later outputs rely on it.
    Persist(StoreOp),
    /// Send this on the peer's control stream, or hand it to this node's own executor.
    Send {
        /// Whom to.
        peer: PublicKey,
        /// What.
        frame: Frame,
    },
    /// Connect to this peer if it can be found.
    NeedPeer(PublicKey),
    /// Bring this object here; answered by exactly one `Fetched` or `FetchFailed`.
    Want {
        /// Which.
        digest: Digest,
        /// Its length.
        len: u64,
        /// Whether it is a manifest whose leaves are wanted as well.
        tree: bool,
        /// Who has it, with a ticket if one is needed. The requester needs none: it was granted the object when it was sealed.
        sources: Vec<(PublicKey, Option<Bytes>)>,
    },
    /// Put this small object into the local store; answered by exactly one `Fetched` or `FetchFailed`.
    Keep {
        /// Which.
        digest: Digest,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Tell this small object of the local store; answered by exactly one `Read` or `Unread`.
    Read {
        /// Which.
        digest: Digest,
        /// Its length.
        len: u32,
    },
    /// No run needs this object any more: remove it, unless something else in this node does.
    Remove {
        /// Which.
        digest: Digest,
    },
    /// Serve this object to whoever shows a ticket of this requester. Idempotent.
    Grant {
        /// Which.
        digest: Digest,
        /// Whose tickets are good: this node's.
        requester: PublicKey,
    },
    /// The opposite.
    Revoke {
        /// Which.
        digest: Digest,
        /// Whose tickets are no longer good.
        requester: PublicKey,
    },
    /// A run changed; see [`Requester::view`].
    RunChanged(RunId),
    /// A task changed; see [`Requester::task_view`].
    TaskChanged {
        /// Of this run.
        run: RunId,
        /// Its index in the plan.
        task: usize,
    },
    /// Executors of a task have said different things; see [`Requester::task_view`].
    Disagreement {
        /// Of this run.
        run: RunId,
        /// Its index in the plan.
        task: usize,
    },
    /// The answer to a command.
    Reply {
        /// The command.
        id: CommandId,
        /// The answer.
        reply: Box<Reply>,
    },
}

/// Soft side of a peer.
#[derive(Clone, Debug, Default)]
struct Peer {
    up: bool,
    /// When it was last asked for.
    needed: Option<Instant>,
    busy_until: Option<Instant>,
    trouble: Option<String>,
}

/// Soft side of an active run.
#[derive(Clone, Debug)]
struct Soft {
    since: Instant,
    /// When its tasks were last looked at for placing: what was due by then has been considered.
    placed: Instant,
    findings: Findings,
    index: Index,
    sched: Sched,
    absent: Absent,
    /// Committed tasks that may have become of no use to anybody.
    spent: BTreeSet<usize>,
    /// When its end stops waiting for logs.
    logs_until: Option<Instant>,
    /// When it must have ended.
    deadline: Option<Instant>,
    /// Its small sources, as far as they were read: they travel with light orders.
    read: BTreeMap<Digest, Bytes>,
    /// Those that are being read: tasks that take them wait for that.
    reading: BTreeSet<Digest>,
    /// What light jobs left behind and jobs that are not light take as objects of the local store.
    kept: BTreeSet<Digest>,
}

/// Drives this node's runs.
#[derive(Clone, Debug)]
pub struct Requester {
    keypair: Keypair,
    me: PublicKey,
    runs: BTreeMap<RunId, Run>,
    soft: BTreeMap<RunId, Soft>,
    /// Jobs of active runs.
    jobs: BTreeMap<JobId, (RunId, usize, u32)>,
    lives: Lives,
    peers: Few<PublicKey, Peer>,
    wants: Wants,
    /// Objects that runs need in the local store.
    held: Held,
    /// Objects of active runs that others may fetch.
    granted: Held,
    offers: Offerings,
    refused: u64,
    work: u64,
    /// When timers were last looked at: what was due then has been done.
    looked: Instant,
}

impl Requester {
    /// Folds the records of [`Room::Run`]; others are skipped. Follow with [`Input::Started`]. The error names the record.
    pub fn restore(keypair: Keypair, records: &[StoredRecord]) -> Result<Self, (u64, DecodeError)> {
        let mut runs: BTreeMap<RunId, Run> = BTreeMap::new();
        for r in records.iter().filter(|r| r.subject.room == Room::Run) {
            let fail = |e| (r.lsn.0, e);
            let id = RunId::from_slice(&r.subject.key)
                .map_err(|e| fail(DecodeError::invalid("run", e.to_string())))?;
            let (record, at) = RunRecord::decode(&r.record).map_err(fail)?;
            let begins = matches!(record, RunRecord::Submitted { .. } | RunRecord::Planned { .. });
            if !begins && !runs.contains_key(&id) {
                // Without what was submitted nothing could ever become of it, nor could anybody be told what it was.
                return Err(fail(DecodeError::invalid("k", "a run that begins in the middle")));
            }
            runs.entry(id).or_insert_with(|| Run::new(id)).evolve(record, at);
        }
        let mut held = Held::default();
        runs.values().for_each(|run| held.add(held_by(run)));
        Ok(Self {
            me: keypair.public(),
            keypair,
            runs,
            soft: BTreeMap::new(),
            jobs: BTreeMap::new(),
            lives: Lives::default(),
            peers: Few::new(),
            wants: Wants::default(),
            held,
            granted: Held::default(),
            offers: Offerings::default(),
            refused: 0,
            work: 0,
            looked: Instant::ZERO,
        })
    }

    /// Says which machine code runs on this node, which may be asked to run its own services; at first none does.
    #[must_use]
    pub fn with_native(mut self, native: Option<Target>) -> Self {
        self.offers.set_home(Home { me: self.me, native });
        self
    }

    /// A run's durable state.
    pub fn run(&self, run: &RunId) -> Option<&Run> {
        self.runs.get(run)
    }

    /// All runs' durable state, for checkers.
    pub fn runs(&self) -> &BTreeMap<RunId, Run> {
        &self.runs
    }

    /// Runs not yet at their end.
    pub fn active(&self) -> usize {
        self.soft.len()
    }

    /// Messages that made no sense from their sender: forged receipts, jobs of others.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Looks at tasks, edges, runs and executors so far, for checkers: what a run costs beside its records and messages.
    pub fn work(&self) -> u64 {
        self.work
    }

    /// Whether any run of this node needs `digest` in the local store: as a source, or as a kept result.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.wants.get(digest).is_some() || self.held.contains(digest)
    }

    /// Whether this object is wanted as a directory.
    pub fn wants_tree(&self, digest: &Digest) -> bool {
        self.wants.get(digest).is_some_and(|w| w.tree)
    }

    /// Directories that runs of this node need in the local store.
    pub fn trees(&self) -> BTreeSet<Digest> {
        self.runs.values().flat_map(trees_of).collect()
    }

    /// Journals a fact and makes it so.
    fn record(&mut self, cx: &mut Cx<'_, Output>, id: RunId, record: RunRecord) {
        let bytes = Bytes::from(record.encode(cx.wall));
        cx.emit(Output::Persist(StoreOp::Append { subject: Subject::new(Room::Run, &id.0), record: bytes }));
        let task = match &record {
            RunRecord::Attempt { task, .. }
            | RunRecord::Accepted { task, .. }
            | RunRecord::Pledged { task, .. }
            | RunRecord::Closed { task, .. }
            | RunRecord::Committed { task, .. }
            | RunRecord::TaskFailed { task, .. }
            | RunRecord::Skipped { task, .. } => Some(*task),
            RunRecord::Submitted { .. }
            | RunRecord::Planned { .. }
            | RunRecord::CancelRequested
            | RunRecord::DeadlinePassed
            | RunRecord::Paused
            | RunRecord::Resumed
            | RunRecord::Ended { .. } => None,
        };
        self.evolve(cx, id, task, record);
        cx.emit(match task {
            Some(task) => Output::TaskChanged { run: id, task },
            None => Output::RunChanged(id),
        });
    }

    fn grant_sources(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        let digests = self.runs.get(&id).map(source_digests).unwrap_or_default();
        self.granted.add(digests.iter().copied());
        for digest in digests {
            cx.emit(Output::Grant { digest, requester: self.me });
        }
    }

    fn send(&self, cx: &mut Cx<'_, Output>, peer: PublicKey, message: &Message) {
        if self.is_up(&peer) {
            cx.emit(Output::Send { peer, frame: message.to_frame() });
        }
    }

    fn is_up(&self, peer: &PublicKey) -> bool {
        self.peers.get(peer).is_some_and(|p| p.up)
    }

    fn need(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey) {
        let p = self.peers.get_or_insert_with(peer, Peer::default);
        let again = p.needed.is_none_or(|at| cx.now >= at + NEED_AGAIN);
        if !p.up && again {
            p.needed = Some(cx.now);
            cx.emit(Output::NeedPeer(peer));
        }
    }

    fn submit(&mut self, cx: &mut Cx<'_, Output>, id: CommandId, run: RunId, workflow: Workflow) {
        let reply = self.accept(cx, run, workflow);
        cx.emit(Output::Reply { id, reply: Box::new(reply) });
        self.advance(cx, run);
    }

    fn accept(&mut self, cx: &mut Cx<'_, Output>, run: RunId, workflow: Workflow) -> Reply {
        if let Some(known) = self.runs.get(&run) {
            let same = known.workflow == super::plan::workflow_digest(&workflow);
            return if same { Reply::Submitted(run) } else { Reply::Error(CommandError::RunConflict(run)) };
        }
        if self.soft.len() >= RUNS_ACTIVE_MAX {
            return Reply::Error(CommandError::Limit("runs that have not ended"));
        }
        let tasks = |r: &Run| r.pending.as_ref().map_or(r.tasks.len(), |w| w.nodes.len());
        let active = self.soft.keys().filter_map(|id| self.runs.get(id)).map(tasks).sum::<usize>();
        if active + workflow.nodes.len() > RUN_TASKS_ACTIVE_MAX {
            return Reply::Error(CommandError::Limit("tasks of runs that have not ended"));
        }
        match check(&workflow, &self.offers) {
            Ok(plan) => self.record(cx, run, RunRecord::Planned { plan }),
            Err(f) if f.curable() => self.record(cx, run, RunRecord::Submitted { workflow }),
            Err(f) => return Reply::Error(CommandError::Invalid(f.problems)),
        }
        self.activate(cx, run);
        Reply::Submitted(run)
    }

    /// Gives an active run its soft side.
    fn activate(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        let mut soft = Soft {
            since: cx.now,
            placed: Instant::ZERO,
            findings: Findings::default(),
            index: Index::build(run),
            sched: Sched::new(run.tasks.len()),
            absent: Absent::default(),
            spent: BTreeSet::new(),
            logs_until: None,
            deadline: halt::deadline_of(run, cx.now, cx.wall),
            read: BTreeMap::new(),
            reading: BTreeSet::new(),
            kept: BTreeSet::new(),
        };
        soft.index.ready().iter().for_each(|task| soft.sched.look_at(*task));
        for (task, t) in run.tasks.iter().enumerate() {
            for a in &t.attempts {
                self.jobs.insert(a.job, (id, task, a.order.fence));
            }
            for a in t.watched() {
                let live = Live {
                    silence: Silence::Suspect,
                    resend_at: Some(cx.now + RESEND_MIN),
                    up: self.is_up(&a.peer()),
                    pledged: a.pledge.map(|_| cx.now),
                    ..Live::new(id, task, a.order.fence, a.peer(), cx.now)
                };
                self.lives.insert(a.job, live);
            }
        }
        let (tasks, wanting) = (run.tasks.len(), run.stopping.is_none());
        self.soft.insert(id, soft);
        self.grant_sources(cx, id);
        self.read_sources(cx, id);
        if wanting {
            (0..tasks).for_each(|task| self.want_of(id, task));
        }
    }

    fn start(&mut self, cx: &mut Cx<'_, Output>) {
        let active: Vec<RunId> = self.runs.values().filter(|r| r.ended.is_none()).map(|r| r.id).collect();
        for id in active {
            if !self.soft.contains_key(&id) {
                self.activate(cx, id);
                self.advance(cx, id);
            }
        }
    }

    fn peer_up(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey) {
        let p = self.peers.get_or_insert_with(peer, Peer::default);
        *p = Peer { up: true, ..Peer::default() };
        for job in self.lives_at(&peer) {
            self.lives.change(&job, |l| {
                l.up = true;
                // Its inventory is on the way and will say what needs no repetition.
                l.resend_at = Some(cx.now + RESEND_MIN);
                l.resend_wait = RESEND_MIN;
            });
        }
        for soft in self.soft.values_mut() {
            for task in soft.index.ready() {
                if soft.sched.task(*task).is_some_and(|t| t.idle_since.is_some()) {
                    soft.sched.look_at(*task);
                }
            }
        }
        self.advance_all(cx);
    }

    fn peer_down(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey) {
        if let Some(p) = self.peers.get_mut(&peer) {
            p.up = false;
            // Anybody may come and go: only who has something to be remembered for is.
            if p.busy_until.is_none_or(|at| at <= cx.now) {
                self.peers.remove(&peer);
            }
        }
        for job in self.lives_at(&peer) {
            let suspected = self.lives.change(&job, |l| {
                l.up = false;
                let fresh = l.silence == Silence::None;
                if fresh {
                    l.silence = Silence::Suspect;
                }
                fresh.then_some((l.run, l.task))
            });
            if let Some((run, task)) = suspected.flatten() {
                cx.emit(Output::TaskChanged { run, task });
            }
        }
        self.advance_all(cx);
    }

    fn lives_at(&self, peer: &PublicKey) -> Vec<JobId> {
        self.lives.iter().filter(|(_, l)| l.peer == *peer).map(|(job, _)| *job).collect()
    }

    fn advance_all(&mut self, cx: &mut Cx<'_, Output>) {
        for id in self.soft.keys().copied().collect::<Vec<_>>() {
            self.advance(cx, id);
        }
    }

    /// Ended runs beyond [`RUNS_KEPT_MAX`], or with more than [`RUN_TASKS_KEPT_MAX`] tasks together, are forgotten, oldest first.
    fn prune(&mut self, cx: &mut Cx<'_, Output>) {
        let ended = self.runs.values().filter_map(|r| Some((r.ended.as_ref()?.2, r.id, r.tasks.len())));
        let mut ended: Vec<(crate::time::UnixTime, RunId, usize)> = ended.collect();
        ended.sort();
        let (mut runs, mut tasks) = (ended.len(), ended.iter().map(|(.., n)| n).sum::<usize>());
        for (_, id, count) in ended {
            if runs <= RUNS_KEPT_MAX && tasks <= RUN_TASKS_KEPT_MAX {
                return;
            }
            (runs, tasks) = (runs - 1, tasks - count);
            if let Some(run) = self.runs.remove(&id) {
                self.held.remove(held_by(&run));
            }
            cx.emit(Output::Persist(StoreOp::Forget { subject: Subject::new(Room::Run, &id.0) }));
        }
    }

    fn fetched(&mut self, cx: &mut Cx<'_, Output>, digest: &Digest) {
        if self.wants.fetched(digest) {
            self.noted(cx, digest);
        }
    }

    fn fetch_failed(&mut self, cx: &mut Cx<'_, Output>, digest: &Digest, why: String) {
        if self.wants.failed(digest, cx.now, why) {
            self.noted(cx, digest);
        }
    }
}

/// `first` doubled `times`, at most `max`.
fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first.saturating_mul(1u32.checked_shl(times).unwrap_or(u32::MAX)).min(max)
}

impl Machine for Requester {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Started => self.start(cx),
            Input::Submit { id, run, workflow } => self.submit(cx, id, run, *workflow),
            Input::Cancel { id, run } => self.cancel(cx, id, run),
            Input::Pause { id, run, paused } => self.pause(cx, id, run, paused),
            Input::Offers { peer, services } => {
                self.offers.set(peer, services);
                let waiting = self.runs.values().filter(|r| r.state() == RunState::Validating).map(|r| r.id);
                for id in waiting.collect::<Vec<_>>() {
                    self.advance(cx, id);
                }
            }
            Input::Machine { peer, machine } => self.offers.set_machine(peer, machine),
            Input::PeerUp(peer) => self.peer_up(cx, peer),
            Input::PeerDown(peer) => self.peer_down(cx, peer),
            Input::Unreachable { peer, why } => {
                if let Some(p) = self.peers.get_mut(&peer) {
                    p.trouble = Some(why);
                }
            }
            Input::Message { peer, message } => self.answer(cx, peer, *message),
            Input::Progress { digest, done } => self.wants.progress(&digest, done),
            Input::Fetched(digest) => self.fetched(cx, &digest),
            Input::FetchFailed { digest, why } => self.fetch_failed(cx, &digest, why),
            Input::Read { digest, bytes } => self.read(cx, digest, &bytes),
            Input::Unread { digest, why } => self.unread(cx, digest, &why),
        }
        self.settle(cx);
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        let mut touched: BTreeSet<RunId> = BTreeSet::new();
        for job in self.lives.due(cx.now) {
            touched.extend(self.live_timeout(cx, &job));
        }
        let due = |id: &RunId| self.run_deadline(id).is_some_and(|d| d.at <= cx.now);
        touched.extend(self.soft.keys().copied().filter(due).collect::<Vec<_>>());
        for id in touched {
            self.advance(cx, id);
        }
        self.settle(cx);
        self.looked = cx.now;
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let runs = self.soft.keys().map(|id| self.run_deadline(id));
        runs.chain([self.lives.deadline(), self.wants.deadline()]).fold(None, Deadline::earlier)
    }
}

#[cfg(test)]
mod tests;
