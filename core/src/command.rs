//! What an application asks of the core, what it gets, and what it is told of.
//!
//! These are plain values for people's edges (CLI, API, embedders); JSON is made of them there, never here.

mod agreement;
mod service;

use crate::dht::record::NatType;
use crate::id::{Digest, PeerId, PeerName, PublicKey, RunId};
use crate::job::workflow::Workflow;
use crate::port::{ExitClass, Port, Usage};
use crate::problem::Problem;
use crate::relay::server::{SessionView, Stats};
use crate::service::Service;
use crate::service::search::{Found, Hit};
use crate::time::{Duration, UnixTime};
use bytes::Bytes;
use std::net::SocketAddr;
use thiserror::Error;

pub use agreement::AgreementView;
pub use service::{PolicyView, ServiceCommand};

/// A request of the application. Answered exactly once by a [`Reply`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// How the node is. → [`Reply::Status`]
    Status,
    /// All known peers. → [`Reply::Peers`]
    Peers,
    /// One peer. → [`Reply::Peer`]
    Peer(PeerName),
    /// Connect to a peer by name, at `addr` if given, else wherever the DHT says. → [`Reply::Peer`] once connected
    Connect {
        /// Whom.
        peer: PeerName,
        /// Where, if known.
        addr: Option<SocketAddr>,
    },
    /// Refuse everything of a peer, or take that back: open connections end, new ones are closed right after the handshake.
    /// → [`Reply::Done`] once journaled
    Block {
        /// Whom.
        key: PublicKey,
        /// Whether it is blocked from now on.
        blocked: bool,
    },
    /// Offer a service whose module is in the local store. → [`Reply::Done`] once journaled
    AddService(Box<Service>),
    /// Stop offering a service. → [`Reply::Done`]
    RemoveService(Digest),
    /// Services here and at connected peers. → [`Reply::Services`]
    Services,
    /// What else is asked about services.
    Service(ServiceCommand),
    /// Check a workflow and say what would run where. → [`Reply::Planned`]
    Plan(Box<Workflow>),
    /// Run a workflow. Same run id and same workflow: the existing run. → [`Reply::Submitted`] once journaled
    Submit {
        /// Chosen at random by the client: its idempotency key.
        run: RunId,
        /// What.
        workflow: Box<Workflow>,
    },
    /// All runs, newest first. → [`Reply::Runs`]
    Runs,
    /// One run. → [`Reply::Run`]
    Run(RunId),
    /// Cancel a run. → [`Reply::Done`] once journaled
    Cancel(RunId),
    /// Dispatch nothing more of a run, or let it go on. → [`Reply::Done`] once journaled
    Pause {
        /// Which.
        run: RunId,
        /// Whether it is paused from now on.
        paused: bool,
    },
    /// Keep an object of this node's store for the user, whatever else comes and goes, or let go of it: then it is removed
    /// as soon as no service, run or job needs it. What the user fetches or shares is kept as well. → [`Reply::Done`] once
    /// journaled, and once the object is known to be there
    Keep {
        /// Which.
        digest: Digest,
        /// Whether it is kept from now on.
        kept: bool,
    },
    /// Keep a directory of this node's store, with all its files, for the user. Let go of it as of any object. → [`Reply::Done`]
    /// once journaled, and once all of it is known to be there
    KeepTree {
        /// Its manifest.
        digest: Digest,
        /// Length of the manifest.
        len: u64,
    },
    /// Let a peer fetch an object of this node's store. → [`Reply::Ticket`] once journaled
    Share {
        /// Which.
        digest: Digest,
        /// Who may fetch it.
        consumer: PublicKey,
        /// For how long.
        valid: Duration,
    },
    /// Bring an object of a peer here. → [`Reply::Done`] once it is whole, verified and durable
    Fetch {
        /// Which.
        digest: Digest,
        /// How long it is, in bytes.
        len: u64,
        /// Who has it.
        from: PublicKey,
        /// The permission, as [`Command::Share`] gave it there.
        ticket: Bytes,
    },
    /// How this node relays for others. → [`Reply::Relay`]
    Relay,
    /// End the session of a peer at this relay. → [`Reply::Done`]
    RelayDisconnect(PublicKey),
    /// Finish what is durable, say goodbye, stop. → [`Reply::Done`], then `Action::Stopped`
    Shutdown,
}

/// The answer to a [`Command`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// It is done (and durable, where that means anything).
    Done,
    /// How the node is.
    Status(Box<StatusView>),
    /// Known peers.
    Peers(Vec<PeerView>),
    /// One peer.
    Peer(Box<PeerView>),
    /// Services.
    Services(Vec<ServiceView>),
    /// What would run where, or everything that is wrong.
    Planned(Result<Vec<Placement>, Vec<Problem>>),
    /// The run is journaled (or existed already).
    Submitted(RunId),
    /// Runs.
    Runs(Vec<RunView>),
    /// One run.
    Run(Box<RunView>),
    /// A signed permission to fetch an object, canonical bencode.
    Ticket(Bytes),
    /// What a search came to.
    Found(Box<Found>),
    /// The owner's policy.
    Policy(Box<PolicyView>),
    /// How this node relays.
    Relay(Box<RelayView>),
    /// It cannot be done.
    Error(CommandError),
}

/// Why a command cannot be done. The caller is at fault, or the world.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CommandError {
    /// Nobody by that name is known.
    #[error("no peer {0} is known; name it by its public key (key_…) to look it up")]
    UnknownPeer(PeerName),
    /// The peer could not be reached.
    #[error("peer {peer} cannot be reached: {why}")]
    Unreachable {
        /// Whom.
        peer: PublicKey,
        /// Everything that was tried.
        why: String,
    },
    /// No such run.
    #[error("no run {0}")]
    UnknownRun(RunId),
    /// The run has ended or is being stopped.
    #[error("run {0} is over")]
    RunOver(RunId),
    /// The run id was used for another workflow.
    #[error("run {0} exists already with another workflow")]
    RunConflict(RunId),
    /// No such service.
    #[error("no service {0}")]
    UnknownService(Digest),
    /// No such object in the store, or it was just being removed.
    #[error("no object {0} is here")]
    UnknownObject(Digest),
    /// The workflow is wrong in these places.
    #[error("the workflow has {} problem(s)", .0.len())]
    Invalid(Vec<Problem>),
    /// The object could not be fetched.
    #[error("object {digest} could not be fetched: {why}")]
    Fetch {
        /// Which.
        digest: Digest,
        /// Everything that was tried.
        why: String,
    },
    /// The peer holds no session at this relay.
    #[error("peer {0} has no session at this relay")]
    NoSession(PublicKey),
    /// A node is never its own stranger.
    #[error("a node cannot block itself")]
    BlockSelf,
    /// A limit of this node.
    #[error("limit reached: {0}")]
    Limit(&'static str),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// How the node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusView {
    /// Who.
    pub key: PublicKey,
    /// SHA-1 of the key.
    pub peer_id: PeerId,
    /// Time since start.
    pub uptime: Duration,
    /// Where the socket is bound.
    pub local_addrs: Vec<SocketAddr>,
    /// Our address as peers saw it, with how many of them said so.
    pub observed_addrs: Vec<(SocketAddr, u32)>,
    /// Connected peers.
    pub connected: u32,
    /// Known peers.
    pub known: u32,
    /// Nodes in the DHT's table.
    pub dht_nodes: u32,
    /// Whether the DHT can work.
    pub dht_reachable: bool,
    /// `seq` of our published record, and when it was last stored.
    pub record: Option<(u64, UnixTime)>,
    /// What the record waits for when there is none: words for people.
    pub record_waiting: Option<&'static str>,
    /// Services offered.
    pub services: u32,
    /// Runs not yet at their end.
    pub runs_active: u32,
    /// Jobs not yet released.
    pub jobs_active: u32,
    /// How others reach it.
    pub reach: ReachView,
    /// What was refused since start, by reason: malformed frames, forged records, wrong keys …
    pub refused: Vec<(&'static str, u64)>,
}

/// How others reach a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReachView {
    /// The NAT it is behind, by the familiar name.
    pub nat: NatType,
    /// What is known of it, in RFC 4787 terms: words for people.
    pub nat_words: String,
    /// Addresses at which a router forwards to it on request.
    pub mapped: Vec<SocketAddr>,
    /// Relays that hold a session for it, the active one first.
    pub relays: Vec<RelayUse>,
    /// What it does about relays: words for people.
    pub relay_words: String,
    /// Holes punched, by the pair of NATs.
    pub punches: Vec<PunchCount>,
}

/// A relay that holds a session for a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayUse {
    /// Which.
    pub relay: PublicKey,
    /// Where it is.
    pub addr: SocketAddr,
    /// Whether it is the one others should use.
    pub active: bool,
}

/// What became of holes punched between two kinds of NAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PunchCount {
    /// This node's.
    pub ours: NatType,
    /// The peer's.
    pub theirs: NatType,
    /// Rounds that came to an end.
    pub tried: u32,
    /// Those that ended in a direct path.
    pub punched: u32,
    /// Those that did at the first attempt.
    pub first_try: u32,
}

/// Connection state of a peer (SPEC 3.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PeerState {
    /// A handshake or identity exchange is under way.
    Connecting,
    /// Connected, with work or recent activity.
    Connected,
    /// Connected, nothing to do.
    Idle,
    /// Connected, and about to be closed for idleness.
    Stale,
    /// Not connected.
    Closed,
}

/// A peer as this node knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerView {
    /// Who.
    pub key: PublicKey,
    /// SHA-1 of the key.
    pub peer_id: PeerId,
    /// Connection state.
    pub state: PeerState,
    /// When the state was entered.
    pub since: UnixTime,
    /// Where its packets come from, when connected.
    pub addr: Option<SocketAddr>,
    /// Smoothed round-trip time in microseconds, when connected.
    pub rtt_us: Option<u64>,
    /// Bytes sent to and received from it on the current connection.
    pub bytes: (u64, u64),
    /// First and last time it was seen.
    pub seen: (UnixTime, UnixTime),
    /// How it was learnt of.
    pub source: &'static str,
    /// Why it is not connected or why the last attempt failed: words for people.
    pub trouble: Option<String>,
    /// Services it offers us.
    pub services: u32,
    /// Whether the user blocks it.
    pub blocked: bool,
    /// Which way the packets of its connection take, when that was ever a question.
    pub path: Option<PathView>,
}

/// What kind of way the packets of a connection take.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PathKind {
    /// From socket to socket.
    Direct,
    /// Through a relay.
    Relayed,
    /// In a stream, where UDP does not get through.
    Tunnelled,
    /// None works at the moment.
    Lost,
}

impl PathKind {
    /// The word for people and for the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            PathKind::Direct => "direct",
            PathKind::Relayed => "relayed",
            PathKind::Tunnelled => "tunnelled",
            PathKind::Lost => "lost",
        }
    }
}

/// Which way the packets of a connection take, and what became of the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathView {
    /// The place they go to: words for people. "none" if there is none.
    pub place: String,
    /// Its kind.
    pub kind: PathKind,
    /// Since when.
    pub since: UnixTime,
    /// Smoothed round-trip time, if there is a place.
    pub rtt: Option<Duration>,
    /// What was tried last, at most 8, the latest at the end: the place, what came of it in words for people, when.
    pub tried: Vec<(String, String, UnixTime)>,
}

/// How a node relays for others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RelayView {
    /// Whether it is configured to.
    pub willing: bool,
    /// Whether it is known that others can reach it: only then it does.
    pub proven: bool,
    /// How it is in all.
    pub stats: Stats,
    /// Its sessions.
    pub sessions: Vec<SessionView>,
    /// Peers that its operator does not want.
    pub blocked: Vec<PublicKey>,
}

/// A service and who offers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceView {
    /// Who offers it.
    pub owner: PublicKey,
    /// Whether that is this node.
    pub local: bool,
    /// The service.
    pub service: Service,
}

/// Where a task would run, and why there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The task's node id.
    pub task: String,
    /// The service.
    pub service: Digest,
    /// Its name.
    pub service_name: String,
    /// Peers that may run it, best first.
    pub peers: Vec<PublicKey>,
    /// Why: words for people.
    pub why: String,
}

/// States of a run (SPEC 7.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum RunState {
    Validating,
    Running,
    Paused,
    Cancelling,
    Finalizing,
    Succeeded,
    Failed,
    Cancelled,
}

impl RunState {
    /// Whether it will never change again.
    pub const fn is_terminal(self) -> bool {
        matches!(self, RunState::Succeeded | RunState::Failed | RunState::Cancelled)
    }

    /// The word for people and for the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            RunState::Validating => "validating",
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::Cancelling => "cancelling",
            RunState::Finalizing => "finalizing",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::Cancelled => "cancelled",
        }
    }
}

/// States of a task at its requester (SPEC 7.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum TaskState {
    Blocked,
    Ready,
    Placing,
    Active,
    Committing,
    Committed,
    Backoff,
    Failed,
    Skipped,
    Cancelled,
}

impl TaskState {
    /// The word for people and for the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            TaskState::Blocked => "blocked",
            TaskState::Ready => "ready",
            TaskState::Placing => "placing",
            TaskState::Active => "active",
            TaskState::Committing => "committing",
            TaskState::Committed => "committed",
            TaskState::Backoff => "backoff",
            TaskState::Failed => "failed",
            TaskState::Skipped => "skipped",
            TaskState::Cancelled => "cancelled",
        }
    }
}

/// A run as its requester sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunView {
    /// Which.
    pub run: RunId,
    /// The workflow's name.
    pub name: String,
    /// Its state.
    pub state: RunState,
    /// When it was submitted.
    pub submitted: UnixTime,
    /// When it came to its end.
    pub ended: Option<UnixTime>,
    /// What it waits for, or why it failed: words for people.
    pub why: Option<String>,
    /// Its tasks, in the workflow's order. Empty in lists.
    pub tasks: Vec<TaskView>,
    /// Kept outputs that reached a sink: present and verified locally once the run has succeeded.
    pub results: Vec<ResultView>,
    /// Tasks committed, and in all.
    pub progress: (u32, u32),
    /// Tasks that failed for good.
    pub failed: u32,
    /// Tasks that were skipped.
    pub skipped: u32,
    /// Since when it is paused.
    pub paused: Option<UnixTime>,
    /// When it will be stopped if it has not ended; none while it is paused, or if it may take for ever.
    pub deadline: Option<UnixTime>,
}

/// A task of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskView {
    /// Node id in the workflow.
    pub id: String,
    /// Its state.
    pub state: TaskState,
    /// What it waits for, or why it failed: words for people.
    pub why: Option<String>,
    /// Since when it has been in this state.
    pub since: UnixTime,
    /// Service name.
    pub service: String,
    /// Who runs or ran it.
    pub peer: Option<PublicKey>,
    /// State of the job at its executor, as last heard.
    pub job: Option<&'static str>,
    /// Number of the current or last attempt; starts at 1.
    pub fence: u32,
    /// Exit class and code of the committed or last attempt.
    pub exit: Option<(ExitClass, i32)>,
    /// What it used, from the receipt.
    pub usage: Option<Usage>,
    /// Outputs from the receipt: port, digest, length.
    pub outputs: Vec<(Port, Digest, u64)>,
    /// Order, receipt and commit in one canonical dictionary: the file that `receipt verify` reads.
    pub receipt: Option<Bytes>,
    /// The requester's signed commit of it.
    pub commit: Option<Bytes>,
    /// How far executors agree, of a task that more than one has done or is to do.
    pub agreement: Option<Box<AgreementView>>,
}

/// A kept output of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResultView {
    /// Whether it is a directory: `digest` is that of its manifest.
    pub tree: bool,
    /// The sink's node id.
    pub sink: String,
    /// From which task and port.
    pub from: (String, Port),
    /// What.
    pub digest: Digest,
    /// How long.
    pub len: u64,
    /// Bytes that are here and verified.
    pub fetched: u64,
}

/// Something an observer may want to see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A peer's connection state changed.
    Peer(Box<PeerView>),
    /// A run changed; tasks are not included.
    Run(Box<RunView>),
    /// A task changed.
    Task {
        /// Of this run.
        run: RunId,
        /// How it is now.
        task: Box<TaskView>,
    },
    /// Executors of a task say different things: at least one of them is wrong. The task's agreement has the evidence.
    Disagreement {
        /// Of this run.
        run: RunId,
        /// How it is now.
        task: Box<TaskView>,
    },
    /// Our record was stored in the DHT.
    Published {
        /// Its version.
        seq: u64,
        /// By so many nodes.
        stored: u32,
    },
    /// A search goes on.
    Found {
        /// As its command said.
        tag: u64,
        /// What is new, best first.
        hits: Vec<Hit>,
    },
    /// An object is being fetched.
    Transfer {
        /// Which.
        digest: Digest,
        /// Bytes verified.
        done: u64,
        /// Bytes in all.
        len: u64,
    },
}
