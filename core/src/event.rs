//! All that can come in. A driver or the simulator turns whatever happens into one of these.

use crate::command::Command;
use crate::id::{CommandId, Lsn, OpId, PublicKey};
use crate::place::{SocketEvent, SocketId, TunnelEvent};
use crate::port::{BlobAnswer, BlobFailed, DhtEvent, EngineReport};
use bytes::BytesMut;
use std::net::{IpAddr, SocketAddr};

/// A UDP datagram that arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// The socket of ours on which it arrived.
    pub socket: SocketId,
    /// Who sent it, as the socket says.
    pub from: SocketAddr,
    /// The local address it was sent to, where the socket tells.
    pub to: Option<IpAddr>,
    /// The ECN codepoint (two bits), where the socket tells.
    pub ecn: Option<u8>,
    /// Its payload.
    pub payload: BytesMut,
}

/// Everything the core may learn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A datagram arrived.
    Datagram(Datagram),
    /// Datagrams arrived together. They are handled in their order at one time, and what follows from them is settled
    /// once: at full speed hundreds come at a time, and streams are read in large pieces instead of packet by packet.
    Datagrams(Vec<Datagram>),
    /// The addresses at which this machine has the main socket: what it is bound to, at the start; the addresses of the
    /// machine's interfaces with its port, as soon as they are known and whenever they change.
    LocalAddrs(Vec<SocketAddr>),
    /// A socket was opened, or failed.
    Socket(SocketEvent),
    /// A tunnel tells.
    Tunnel(TunnelEvent),
    /// The addresses at which a router forwards to our socket on request (UPnP-IGD, NAT-PMP, PCP), whenever they change.
    Mapped(Vec<SocketAddr>),
    /// A peer of ours is on the same link (mDNS), it says.
    Nearby {
        /// Who.
        key: PublicKey,
        /// Where.
        addr: SocketAddr,
    },
    /// The journal is durable up to and including this batch.
    Persisted {
        /// The last durable batch.
        up_to: Lsn,
    },
    /// The journal failed. The node stops at once and says so; nothing more is acknowledged.
    PersistFailed {
        /// The store's words.
        why: String,
    },
    /// The DHT tells.
    Dht(DhtEvent),
    /// The object store answers.
    Blob {
        /// The request.
        op: OpId,
        /// Its answer.
        result: Result<BlobAnswer, BlobFailed>,
    },
    /// The engine tells.
    Engine(EngineReport),
    /// The application (CLI, API, embedder) wants something.
    Command {
        /// Answered once with this id.
        id: CommandId,
        /// What.
        command: Command,
    },
}
