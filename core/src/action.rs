//! All that can be asked for. Datagrams leave by `Node::poll_transmit`; everything else is one of these.

use crate::command::{Notice, Reply};
use crate::id::{CommandId, JobId, Lsn, OpId};
use crate::place::{SocketRequest, TunnelRequest};
use crate::port::{BlobRequest, DhtRequest, EngineRequest};
use crate::relay::server::Account;
use crate::store::StoreOp;

/// Everything the core may ask for, and what answers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Write these operations in one atomic batch; answered by `Event::Persisted` once it (and all before it) is durable.
    Persist {
        /// The batch's number; batches come in order.
        lsn: Lsn,
        /// What to write.
        ops: Vec<StoreOp>,
    },
    /// Ask the DHT; answered by exactly one `DhtEvent::Done` with the same op.
    Dht {
        /// The operation.
        op: OpId,
        /// What.
        request: DhtRequest,
    },
    /// Ask the object store; answered by exactly one `Event::Blob` with the same op.
    Blob {
        /// The operation.
        op: OpId,
        /// What.
        request: BlobRequest,
    },
    /// Ask the engine; answered by `Event::Engine`.
    Engine {
        /// The job.
        job: JobId,
        /// What.
        request: EngineRequest,
    },
    /// Once after a start, behind the starts of jobs that go on: whatever an engine still has of other jobs of this node
    /// goes. Not answered.
    Sweep {
        /// Jobs that go on.
        keep: Vec<JobId>,
    },
    /// Open or close a socket. A driver does this itself; a sink gets to see it, but has nothing to do.
    Socket(SocketRequest),
    /// Ask the port for tunnels.
    Tunnel(TunnelRequest),
    /// Write to the books of the relay what a session cost.
    Account(Box<Account>),
    /// The answer to a command, exactly once.
    Reply {
        /// The command.
        id: CommandId,
        /// The answer.
        reply: Reply,
    },
    /// Something an observer may want to see. May be dropped by a slow observer; nothing depends on it.
    Notify(Notice),
    /// The node has come to rest after `Command::Shutdown` or cannot go on; the driver ends.
    Stopped {
        /// `None` after an orderly shutdown, else what broke.
        fault: Option<String>,
    },
}

/// Where a driver hands the actions of a core: the ports of a real node, or memory in tests.
///
/// Must not block: ports are threads or runtimes of their own behind channels whose bounds are above the core's own
/// limits ([`crate::limits`]), so a full channel is a bug and is reported as the port's failure.
pub trait ActionSink {
    /// Takes one action. Its answer arrives as an event.
    fn submit(&mut self, action: Action);
}
