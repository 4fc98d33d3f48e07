//! What can be wrong with a run of a world: the words of the checkers.

use remote_network_core::id::{CommandId, Digest, Lsn, OpId, PublicKey, RunId};
use std::net::SocketAddr;
use thiserror::Error;

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
    /// One fence was given to two peers.
    #[error("fence {fence} of task {task} of {run:?} was given to two peers")]
    FenceReused {
        /// The run.
        run: RunId,
        /// The task.
        task: String,
        /// The fence.
        fence: u32,
    },
    /// A committed task's receipt is missing, does not verify offline, or speaks of something else.
    #[error("the receipt of task {task} of {run:?} is worth nothing: {why}")]
    BadReceipt {
        /// The run.
        run: RunId,
        /// The task.
        task: String,
        /// What is wrong with it.
        why: String,
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
