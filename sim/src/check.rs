//! The checkers: what must hold of every run, seen from outside the cores.
//!
//! They watch every action at the border of every core and know what no core can know: who really is at an address,
//! what every result must be, what was promised to whom before a crash. A violation is data; it stops nothing, so that
//! a run shows all that is wrong with it.

use crate::expect::Expected;
use crate::net::HostId;
use remote_network_core::action::Action;
use remote_network_core::command::{
    Notice, PeerState, PeerView, Reply, RunState, RunView, TaskState, TaskView,
};
use remote_network_core::id::{CommandId, Digest, Lsn, OpId, PublicKey, RunId};
use remote_network_core::port::{DhtRequest, EngineRequest, MutableItem};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use thiserror::Error;

/// Requests to ports that one core may have outstanding: the sum of what its limits allow, with room for the journal's
/// batches of a busy instant.
pub const OUTSTANDING_MAX: usize = 4_096;

/// Violations kept; a broken run repeats itself.
pub const FOUND_MAX: usize = 1_000;

/// Something that must never be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    /// A core refused what its own journal holds.
    #[error("the core cannot be restored from its own journal: {0}")]
    Unrecoverable(String),
    /// A core stopped without anybody's fault.
    #[error("the core stopped by itself: {0}")]
    Stopped(String),
    /// A timer runs out again and again without time passing.
    #[error("busy loop: woken again and again without time passing ({0})")]
    BusyLoop(&'static str),
    /// A command was answered twice, or never given.
    #[error("{0:?} was answered although nothing was outstanding")]
    AnsweredTwice(CommandId),
    /// A core came to rest with commands unanswered.
    #[error("{0} command(s) were never answered")]
    Unanswered(usize),
    /// A journal batch does not come after the last one.
    #[error("journal batch {got:?} after {last:?}")]
    LsnWentBack {
        /// The last one.
        last: Lsn,
        /// This one.
        got: Lsn,
    },
    /// A request number was used twice in one life.
    #[error("{0:?} was used twice")]
    OpReused(OpId),
    /// More requests outstanding than any limit allows.
    #[error("{0} requests outstanding")]
    TooMuchOutstanding(usize),
    /// A connection's peer is not who lives at the other end.
    #[error("a connection from {addr} is taken for {claimed:?}, but {actual:?} lives there")]
    Impostor {
        /// Where.
        addr: SocketAddr,
        /// Who the core says it is.
        claimed: PublicKey,
        /// Who it is.
        actual: PublicKey,
    },
    /// A published version went back, or changed under the same number.
    #[error("version {got} published after {last}, or with other content")]
    SeqWentBack {
        /// The highest before.
        last: u64,
        /// This one.
        got: u64,
    },
    /// An item was published with another's key or a wrong signature.
    #[error("an item was published that its own key did not sign")]
    ForgedItem,
    /// A task was committed twice.
    #[error("task {task} of {run:?} was committed with fence {first} and with fence {second}")]
    DoubledCommit {
        /// The run.
        run: RunId,
        /// The task.
        task: String,
        /// The first commit's fence.
        first: u32,
        /// The other's.
        second: u32,
    },
    /// A committed output is not what the program gives.
    #[error("task {task} of {run:?} was committed with a wrong output")]
    WrongOutput {
        /// The run.
        run: RunId,
        /// The task.
        task: String,
    },
    /// A kept result is not what the workflow gives.
    #[error("run {run:?} succeeded with a wrong or missing result at {sink}")]
    WrongResult {
        /// The run.
        run: RunId,
        /// The sink.
        sink: String,
    },
    /// A run that was over is not over any more, or otherwise.
    #[error("run {run:?} was {was} and is {now}")]
    EndChanged {
        /// The run.
        run: RunId,
        /// Before.
        was: &'static str,
        /// Now.
        now: &'static str,
    },
    /// A run that was acknowledged is not known any more.
    #[error("run {0:?} was acknowledged and is gone")]
    LostRun(RunId),
    /// A run is still not over although all faults are.
    #[error("run {run:?} is still {state} at the end of the liveness phase")]
    UnsettledRun {
        /// The run.
        run: RunId,
        /// Its state.
        state: &'static str,
    },
    /// A fetch was said to be done and the object is not there, or another one is.
    #[error("object {0:?} was said to be fetched, and is not there")]
    WrongTransfer(Digest),
    /// A run failed although nothing gave it a reason to.
    #[error("run {run:?} failed although nothing went wrong: {why}")]
    RunFailed {
        /// The run.
        run: RunId,
        /// Its requester's words.
        why: String,
    },
    /// Something did not come to rest although all faults are over.
    #[error("not at rest at the end of the liveness phase: {0}")]
    Restless(String),
}

/// A violation, when and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// World time.
    pub at_ns: u64,
    /// The host.
    pub host: HostId,
    /// What.
    pub violation: Violation,
}

struct Watch {
    key: PublicKey,
    last_lsn: Lsn,
    ops: BTreeMap<u8, u64>,
    published: BTreeMap<Vec<u8>, (u64, Digest)>,
}

/// A run as its requester was told.
struct RunBook {
    host: HostId,
    expected: Expected,
    acknowledged: bool,
    seen: bool,
    end: Option<RunState>,
    state: RunState,
    committed: BTreeMap<String, u32>,
}

/// The checkers.
#[derive(Default)]
pub struct Checks {
    watches: Vec<Watch>,
    runs: BTreeMap<RunId, RunBook>,
    /// Hosts whose identity the scenario has granted to others.
    pub granted: BTreeSet<PublicKey>,
    found: Vec<Found>,
    outstanding_most: usize,
}

impl Checks {
    /// What was found.
    pub fn violations(&self) -> &[Found] {
        &self.found
    }

    /// The most requests any core ever had outstanding.
    pub fn outstanding_most(&self) -> usize {
        self.outstanding_most
    }

    /// Notes a violation.
    pub fn found(&mut self, at_ns: u64, host: HostId, violation: Violation) {
        if self.found.len() < FOUND_MAX {
            self.found.push(Found { at_ns, host, violation });
        }
    }

    /// A host exists.
    pub fn meet(&mut self, _host: HostId, key: PublicKey) {
        let watch = Watch { key, last_lsn: Lsn(0), ops: BTreeMap::new(), published: BTreeMap::new() };
        self.watches.push(watch);
    }

    /// A host begins a life with a journal that ends there.
    pub fn begins(&mut self, host: HostId, journal: Lsn) {
        if let Some(watch) = self.watches.get_mut(host as usize) {
            watch.ops.clear();
            watch.last_lsn = journal;
        }
    }

    /// A host lost its disk, and with it what it promised.
    pub fn forgets(&mut self, host: HostId) {
        if let Some(watch) = self.watches.get_mut(host as usize) {
            watch.published.clear();
        }
        self.runs.retain(|_, run| run.host != host);
    }

    /// A core has so many requests outstanding.
    pub fn outstanding(&mut self, at_ns: u64, host: HostId, count: usize) {
        if count > OUTSTANDING_MAX && self.outstanding_most <= OUTSTANDING_MAX {
            self.found(at_ns, host, Violation::TooMuchOutstanding(count));
        }
        self.outstanding_most = self.outstanding_most.max(count);
    }

    /// A core asked for something. `host_at` says who lives at an address.
    pub fn action(
        &mut self,
        at_ns: u64,
        host: HostId,
        action: &Action,
        host_at: impl Fn(SocketAddr) -> Option<HostId>,
    ) {
        match action {
            Action::Persist { lsn, .. } => {
                let Some(watch) = self.watches.get_mut(host as usize) else { return };
                let last = std::mem::replace(&mut watch.last_lsn, *lsn);
                if *lsn <= last {
                    self.found(at_ns, host, Violation::LsnWentBack { last, got: *lsn });
                }
            }
            Action::Dht { request: DhtRequest::Cancel, .. } => {}
            Action::Dht { op, request } => {
                self.op(at_ns, host, *op);
                if let DhtRequest::PutMutable { item, .. } = request {
                    self.publishes(at_ns, host, item);
                }
            }
            Action::Blob { op, .. } => self.op(at_ns, host, *op),
            Action::Engine { request: EngineRequest::Start(_) | EngineRequest::Stop { .. }, .. } => {}
            Action::Reply { reply, .. } => self.reply(at_ns, host, reply, host_at),
            Action::Notify(Notice::Peer(view)) => self.peer(at_ns, host, view, &host_at),
            Action::Notify(Notice::Task { run, task }) => self.task(at_ns, host, *run, task),
            Action::Notify(Notice::Run(view)) => self.run(at_ns, host, view, false),
            Action::Notify(Notice::Published { .. } | Notice::Transfer { .. }) => {}
            Action::Stopped { .. } => {}
        }
    }

    /// Numbers of one room are issued upwards, so the last one says whether one came twice.
    fn op(&mut self, at_ns: u64, host: HostId, op: OpId) {
        let Some(watch) = self.watches.get_mut(host as usize) else { return };
        let last = watch.ops.insert(op.room(), op.0);
        if last.is_some_and(|last| op.0 <= last) {
            self.found(at_ns, host, Violation::OpReused(op));
        }
    }

    fn publishes(&mut self, at_ns: u64, host: HostId, item: &MutableItem) {
        let Some(watch) = self.watches.get_mut(host as usize) else { return };
        if item.key != watch.key {
            return self.found(at_ns, host, Violation::ForgedItem);
        }
        let value = Digest::of(&item.value);
        let last = watch.published.insert(item.salt.to_vec(), (item.seq, value));
        if let Some((last, before)) = last
            && (item.seq < last || item.seq == last && value != before)
        {
            self.found(at_ns, host, Violation::SeqWentBack { last, got: item.seq });
        }
    }

    fn reply(
        &mut self,
        at_ns: u64,
        host: HostId,
        reply: &Reply,
        host_at: impl Fn(SocketAddr) -> Option<HostId>,
    ) {
        match reply {
            Reply::Peer(view) => self.peer(at_ns, host, view, &host_at),
            Reply::Peers(views) => views.iter().for_each(|v| self.peer(at_ns, host, v, &host_at)),
            Reply::Run(view) => self.run(at_ns, host, view, true),
            Reply::Runs(views) => views.iter().for_each(|v| self.run(at_ns, host, v, false)),
            Reply::Submitted(run) => {
                if let Some(book) = self.runs.get_mut(run) {
                    book.acknowledged = true;
                }
            }
            Reply::Done
            | Reply::Status(_)
            | Reply::Services(_)
            | Reply::Ticket(_)
            | Reply::Planned(_)
            | Reply::Error(_) => {}
        }
    }

    fn peer(
        &mut self,
        at_ns: u64,
        host: HostId,
        view: &PeerView,
        host_at: &impl Fn(SocketAddr) -> Option<HostId>,
    ) {
        let connected = match view.state {
            PeerState::Connected | PeerState::Idle | PeerState::Stale => true,
            PeerState::Connecting | PeerState::Closed => false,
        };
        let Some(addr) = view.addr.filter(|_| connected) else { return };
        let actual = host_at(addr).and_then(|h| self.watches.get(h as usize)).map(|w| w.key);
        if let Some(actual) = actual.filter(|a| *a != view.key)
            && !self.granted.contains(&view.key)
        {
            self.found(at_ns, host, Violation::Impostor { addr, claimed: view.key, actual });
        }
    }

    // ------------------------------------------------------------------------------- runs

    /// A run will be submitted at `host`, and must come to this.
    pub fn expects(&mut self, run: RunId, host: HostId, expected: Expected) {
        let book = RunBook {
            host,
            expected,
            acknowledged: false,
            seen: false,
            end: None,
            state: RunState::Validating,
            committed: BTreeMap::new(),
        };
        self.runs.entry(run).or_insert(book);
    }

    fn run(&mut self, at_ns: u64, host: HostId, view: &RunView, whole: bool) {
        let Some(book) = self.runs.get_mut(&view.run).filter(|b| b.host == host) else { return };
        book.seen = true;
        book.state = view.state;
        let was = book.end;
        if view.state.is_terminal() {
            book.end.get_or_insert(view.state);
        }
        let mut found = Vec::new();
        if let Some(was) = was.filter(|was| *was != view.state) {
            let (was, now) = (was.as_str(), view.state.as_str());
            found.push(Violation::EndChanged { run: view.run, was, now });
        }
        if whole && view.state == RunState::Succeeded {
            for (sink, digests) in &book.expected.sinks {
                let got: BTreeSet<Digest> =
                    view.results.iter().filter(|r| r.sink == *sink).map(|r| r.digest).collect();
                if got != digests.iter().copied().collect() {
                    found.push(Violation::WrongResult { run: view.run, sink: sink.clone() });
                }
            }
        }
        found.into_iter().for_each(|v| self.found(at_ns, host, v));
        for task in &view.tasks {
            self.task(at_ns, host, view.run, task);
        }
    }

    fn task(&mut self, at_ns: u64, host: HostId, run: RunId, task: &TaskView) {
        if task.state != TaskState::Committed {
            return;
        }
        let Some(book) = self.runs.get_mut(&run).filter(|b| b.host == host) else { return };
        let first = *book.committed.entry(task.id.clone()).or_insert(task.fence);
        let wrong = task.outputs.iter().any(|(port, digest, _)| {
            book.expected.outputs.get(&(task.id.clone(), port.clone())).is_some_and(|right| right != digest)
        });
        if first != task.fence {
            let (task, second) = (task.id.clone(), task.fence);
            self.found(at_ns, host, Violation::DoubledCommit { run, task, first, second });
        }
        if wrong {
            self.found(at_ns, host, Violation::WrongOutput { run, task: task.id.clone() });
        }
    }

    /// Runs that were acknowledged and are not known to be over, with their hosts.
    pub fn unsettled(&self) -> impl Iterator<Item = (RunId, HostId)> + '_ {
        self.runs
            .iter()
            .filter(|(_, b)| b.acknowledged && !b.end.is_some_and(RunState::is_terminal))
            .map(|(run, b)| (*run, b.host))
    }

    /// Runs acknowledged, over, and well over.
    pub fn run_counts(&self) -> (u64, u64, u64) {
        let count = |f: &dyn Fn(&RunBook) -> bool| self.runs.values().filter(|b| f(b)).count() as u64;
        (
            count(&|b| b.acknowledged),
            count(&|b| b.end.is_some()),
            count(&|b| b.end == Some(RunState::Succeeded)),
        )
    }

    /// A host says that it does not know a run.
    pub fn unknown_run(&mut self, at_ns: u64, host: HostId, run: RunId) {
        if self.runs.get(&run).is_some_and(|b| b.host == host && b.acknowledged) {
            self.found(at_ns, host, Violation::LostRun(run));
            self.runs.remove(&run);
        }
    }

    /// The liveness phase is over: whatever is not settled never will be.
    pub fn close(&mut self, at_ns: u64) {
        let late: Vec<(RunId, HostId, RunState)> =
            self.unsettled().filter_map(|(r, h)| Some((r, h, self.runs.get(&r)?.state))).collect();
        for (run, host, state) in late {
            self.found(at_ns, host, Violation::UnsettledRun { run, state: state.as_str() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use remote_network_core::id::{Keypair, Signature};
    use remote_network_core::port::Port;
    use remote_network_core::time::UnixTime;

    fn key(n: u8) -> PublicKey {
        Keypair::from_seed(&[n; 32]).public()
    }

    fn checks() -> Checks {
        let mut c = Checks::default();
        c.meet(0, key(0));
        c.meet(1, key(1));
        c
    }

    fn see(c: &mut Checks, action: Action) {
        c.action(0, 0, &action, |addr| (addr.port() == 1).then_some(1));
    }

    fn only(c: &Checks) -> &Violation {
        assert_eq!(c.violations().len(), 1, "{:?}", c.violations());
        &c.violations()[0].violation
    }

    #[test]
    fn a_journal_that_goes_back_is_seen() {
        let mut c = checks();
        for lsn in [1, 2, 2] {
            see(&mut c, Action::Persist { lsn: Lsn(lsn), ops: Vec::new() });
        }
        assert_eq!(only(&c), &Violation::LsnWentBack { last: Lsn(2), got: Lsn(2) });
    }

    #[test]
    fn a_version_that_goes_back_is_seen_also_across_restarts() {
        let mut c = checks();
        let put = |seq, value: &'static [u8], op| Action::Dht {
            op: OpId(op),
            request: DhtRequest::PutMutable {
                item: MutableItem {
                    key: key(0),
                    salt: Bytes::new(),
                    seq,
                    value: Bytes::from_static(value),
                    signature: Signature([0; 64]),
                },
                cas: None,
            },
        };
        see(&mut c, put(5, b"a", 1));
        see(&mut c, put(5, b"a", 2));
        assert!(c.violations().is_empty());
        c.begins(0, Lsn(0));
        see(&mut c, put(4, b"a", 1));
        assert_eq!(only(&c), &Violation::SeqWentBack { last: 5, got: 4 });
    }

    fn peer(claimed: PublicKey, port: u16) -> Action {
        Action::Notify(Notice::Peer(Box::new(PeerView {
            key: claimed,
            peer_id: claimed.peer_id(),
            state: PeerState::Connected,
            since: UnixTime::default(),
            addr: Some(SocketAddr::from(([45, 0, 0, 1], port))),
            rtt_us: None,
            bytes: (0, 0),
            seen: (UnixTime::default(), UnixTime::default()),
            source: "",
            trouble: None,
            services: 0,
        })))
    }

    #[test]
    fn a_connection_to_somebody_else_is_seen() {
        let mut c = checks();
        see(&mut c, peer(key(1), 1));
        see(&mut c, peer(key(7), 2));
        assert!(c.violations().is_empty(), "the right one, and one at an address nobody has");
        see(&mut c, peer(key(0), 1));
        assert!(matches!(only(&c), Violation::Impostor { .. }));
    }

    fn run_view(state: RunState, digest: Option<Digest>, fence: u32) -> RunView {
        let task = TaskView {
            id: "t".into(),
            state: TaskState::Committed,
            why: None,
            since: UnixTime::default(),
            service: String::new(),
            peer: None,
            job: None,
            fence,
            exit: None,
            usage: None,
            outputs: digest.iter().map(|d| (Port::Stdout, *d, 1)).collect(),
            receipt: None,
            commit: None,
        };
        let result = digest.map(|digest| remote_network_core::command::ResultView {
            sink: "out".into(),
            from: ("t".into(), Port::Stdout),
            digest,
            len: 1,
            fetched: 1,
        });
        RunView {
            run: RunId([1; 16]),
            name: String::new(),
            state,
            submitted: UnixTime::default(),
            ended: None,
            why: None,
            tasks: vec![task],
            results: result.into_iter().collect(),
            progress: (0, 1),
        }
    }

    fn with_run() -> Checks {
        let mut c = checks();
        let right = Digest([1; 32]);
        c.expects(
            RunId([1; 16]),
            0,
            Expected {
                outputs: BTreeMap::from([(("t".into(), Port::Stdout), right)]),
                sinks: BTreeMap::from([("out".into(), vec![right])]),
            },
        );
        see(&mut c, Action::Reply { id: CommandId(1), reply: Reply::Submitted(RunId([1; 16])) });
        c
    }

    fn show(c: &mut Checks, view: RunView) {
        see(c, Action::Reply { id: CommandId(2), reply: Reply::Run(Box::new(view)) });
    }

    #[test]
    fn a_right_run_passes_and_every_wrong_one_is_seen() {
        let mut c = with_run();
        assert_eq!(c.unsettled().count(), 1);
        show(&mut c, run_view(RunState::Succeeded, Some(Digest([1; 32])), 1));
        assert_eq!((c.violations().len(), c.unsettled().count(), c.run_counts()), (0, 0, (1, 1, 1)));
        show(&mut c, run_view(RunState::Succeeded, Some(Digest([1; 32])), 2));
        assert!(matches!(only(&c), Violation::DoubledCommit { first: 1, second: 2, .. }));

        let mut c = with_run();
        show(&mut c, run_view(RunState::Succeeded, Some(Digest([2; 32])), 1));
        let kinds: Vec<_> = c.violations().iter().map(|f| f.violation.clone()).collect();
        assert!(
            matches!(kinds[..], [Violation::WrongResult { .. }, Violation::WrongOutput { .. }]),
            "{kinds:?}"
        );

        let mut c = with_run();
        show(&mut c, run_view(RunState::Failed, None, 1));
        show(&mut c, run_view(RunState::Running, None, 1));
        assert!(matches!(only(&c), Violation::EndChanged { was: "failed", now: "running", .. }));
    }

    #[test]
    fn a_lost_and_an_endless_run_are_seen() {
        let mut c = with_run();
        c.unknown_run(5, 0, RunId([1; 16]));
        assert!(matches!(only(&c), Violation::LostRun(_)));
        let mut c = with_run();
        show(&mut c, run_view(RunState::Running, None, 1));
        c.close(9);
        assert!(matches!(only(&c), Violation::UnsettledRun { state: "running", .. }));
    }
}
