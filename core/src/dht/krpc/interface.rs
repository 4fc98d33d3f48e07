//! What the DHT node is told, and what it asks for.

use crate::id::OpId;
use crate::port::{DhtEvent, DhtRequest};
use bytes::Bytes;
use std::net::SocketAddr;

/// Whether others may put the node into their tables (BEP 43).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Read-only until somebody whom we never wrote to has reached us, or the node says that it is reachable. In private
    /// networks open from the start: with everybody read-only nobody would ever be asked.
    Auto,
    /// Reachable: its operator says so.
    Open,
    /// Asks, answers nobody.
    ReadOnly,
}

/// What the node is told at its making.
#[derive(Clone, Debug)]
pub struct Config {
    /// A network of its own nodes only. Loopback and private addresses may be used, all nodes may be of one network or
    /// address, and each may ask and store more than a stranger among millions.
    pub private_networks: bool,
    /// Whether others may know it.
    pub presence: Presence,
    /// Addresses to join by; more may come later. Any node will do.
    pub bootstrap: Vec<SocketAddr>,
}

/// What can happen.
#[derive(Clone, Debug)]
pub enum Input {
    /// The socket is bound: join.
    Start,
    /// A datagram arrived.
    Datagram {
        /// From there.
        from: SocketAddr,
        /// Its payload.
        bytes: Bytes,
    },
    /// The core asks. Answered by exactly one [`DhtEvent::Done`]; a `Cancel` by the end of what it cancels.
    Request {
        /// The operation.
        op: OpId,
        /// What.
        request: DhtRequest,
    },
    /// Names were resolved, perhaps anew: these are the addresses to join by.
    Bootstrap(Vec<SocketAddr>),
    /// Whether others can reach us, as the node found out by other means.
    Reachable(bool),
    /// The network changed: what others saw of us counts no more.
    NetworkChanged,
    /// Asks for the table; answered by [`Output::Table`].
    Save,
}

/// What the node asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send a datagram.
    Datagram {
        /// To there.
        to: SocketAddr,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// Tell the core.
    Event(DhtEvent),
    /// The table, for [`super::Krpc::restore`].
    Table(Vec<u8>),
    /// Most others see us at this address.
    Observed {
        /// Where.
        addr: SocketAddr,
        /// How many say so.
        votes: u32,
    },
    /// Something was refused, by its reason.
    Refused(&'static str),
}
