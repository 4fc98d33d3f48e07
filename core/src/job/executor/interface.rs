//! What the executor is told, and what it asks for.

use crate::codec::Frame;
use crate::id::{Digest, JobId, Keypair, PublicKey};
use crate::job::held::Held;
use crate::job::message::Message;
use crate::port::{EngineReport, EngineRequest};
use crate::service::Service;
use crate::service::policy::Policy;
use crate::store::StoreOp;
use bytes::Bytes;
use std::collections::BTreeMap;

/// The requester that has yet to show its right to an object, by the sources of its order.
pub type Claim = Option<PublicKey>;

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
    /// After [`super::Executor::restore`] and the first [`Input::Services`], once: takes up whatever was outstanding.
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
        /// Whether its leaves are here as well.
        tree: bool,
        /// Whether it was brought here now (and may go with the job), or was here before.
        new: bool,
    },
    /// A wanted object could not be fetched now.
    FetchFailed {
        /// Which.
        digest: Digest,
        /// On whose right.
        claim: Claim,
        /// Whether it was wanted with its leaves.
        tree: bool,
        /// Why.
        why: String,
        /// Whether another try is of no use.
        hopeless: bool,
    },
    /// The engine tells.
    Engine(EngineReport),
    /// The owner's policy from now on; jobs that were admitted go on.
    Policy(Box<Policy>),
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
        /// Whether it is a manifest whose leaves are wanted as well.
        tree: bool,
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
    /// A job that needs no engine has ended: to be heard as if one had said so, once its outputs are known to be there.
    Ended(EngineReport),
    /// Whatever engines have of other jobs goes.
    Sweep {
        /// Jobs that go on.
        keep: Vec<JobId>,
    },
    /// Serve this object to `requester` and to whoever shows its ticket. Idempotent.
    Grant {
        /// Which.
        digest: Digest,
        /// Whose it is.
        requester: PublicKey,
        /// Whether its files are as well: it was left as a directory.
        tree: bool,
    },
    /// The opposite, whatever it was left as.
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

/// What an executor's journal folds to; for checkers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Durable<'a> {
    /// Jobs held, but for light ones.
    pub held: BTreeMap<&'a JobId, &'a Held>,
    /// Jobs that must never start again, and whose they were.
    pub tombstones: &'a BTreeMap<JobId, PublicKey>,
    /// Number of the last receipt, and the digest that the next one names as the one before it.
    pub chain: (u64, Digest),
}
