//! Where packets go and come from, beneath the connections.
//!
//! A connection belongs to a peer; which place its packets take at the moment is decided by the room [`crate::path`] and
//! may change at any time. There are three kinds: an address on a UDP socket of ours; a peer behind a relay, named by the
//! connection to that relay (its packets are DATAGRAM frames of that connection); and a tunnel, a byte stream that the
//! outside keeps for us where UDP does not get through.

use crate::id::{ConnId, PeerId};
use bytes::Bytes;
use std::fmt;
use std::net::SocketAddr;

/// A UDP socket of ours. Number 0 is the node's own, which exists as long as the node; others are asked for and given back
/// ([`SocketRequest`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SocketId(pub u16);

impl SocketId {
    /// The node's own socket.
    pub const MAIN: SocketId = SocketId(0);
}

/// A tunnel: packets in a stream. Those we open have even numbers, those the outside accepted odd ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TunnelId(pub u64);

/// Where packets of a connection go to, or came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// An address, over a socket of ours.
    Direct {
        /// Which of our sockets.
        socket: SocketId,
        /// The other side.
        addr: SocketAddr,
    },
    /// A peer behind a relay.
    Relayed {
        /// The connection to the relay.
        relay: ConnId,
        /// Whom the relay passes packets to and from. The relay says so; TLS proves it.
        peer: PeerId,
    },
    /// A stream to a relay, where UDP does not get through.
    Tunnel(TunnelId),
}

impl Place {
    /// An address over the node's own socket.
    pub const fn direct(addr: SocketAddr) -> Self {
        Place::Direct { socket: SocketId::MAIN, addr }
    }

    /// The address, when there is one.
    pub const fn addr(&self) -> Option<SocketAddr> {
        match self {
            Place::Direct { addr, .. } => Some(*addr),
            Place::Relayed { .. } | Place::Tunnel(_) => None,
        }
    }

    /// Whether packets go from here to the peer without anybody between who is paid or asked for it.
    pub const fn is_direct(&self) -> bool {
        matches!(self, Place::Direct { .. })
    }
}

impl From<SocketAddr> for Place {
    fn from(addr: SocketAddr) -> Self {
        Place::direct(addr)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Direct { socket: SocketId::MAIN, addr } => write!(f, "{addr}"),
            Place::Direct { socket, addr } => write!(f, "{addr} by socket {}", socket.0),
            Place::Relayed { relay, .. } => write!(f, "relayed by connection {}", relay.0),
            Place::Tunnel(id) => write!(f, "tunnel {}", id.0),
        }
    }
}

/// What the core asks of the driver about sockets. Answered by [`SocketEvent`], `Close` by nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketRequest {
    /// Bind one more UDP socket, on a port that the system chooses, with the address family and options of the main one.
    Open(SocketId),
    /// Close it; what is on its way in is dropped.
    Close(SocketId),
}

/// What a driver answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SocketEvent {
    /// It is bound there.
    Opened(SocketId, SocketAddr),
    /// It could not be opened, or broke.
    Failed(SocketId, String),
}

/// What the core asks of the port for tunnels. Every `Open` is answered by `Opened` or `Closed`; whatever is open ends with
/// one `Closed`, also when the core closes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TunnelRequest {
    /// Connect to the relay at this TCP address.
    Open {
        /// Ours: an even number.
        tunnel: TunnelId,
        /// Where.
        to: SocketAddr,
    },
    /// Send packets, in order. Answered by [`TunnelEvent::Sent`].
    Send {
        /// Which.
        tunnel: TunnelId,
        /// Whole QUIC packets.
        packets: Vec<Bytes>,
    },
    /// Close it.
    Close(TunnelId),
}

/// What the port for tunnels tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TunnelEvent {
    /// It stands.
    Opened(TunnelId),
    /// Somebody opened one to us; its number is odd.
    Accepted {
        /// Which.
        tunnel: TunnelId,
        /// From where.
        from: SocketAddr,
    },
    /// Packets arrived.
    Received {
        /// On which.
        tunnel: TunnelId,
        /// Whole QUIC packets, in order.
        packets: Vec<Bytes>,
    },
    /// So many bytes of what was sent have left: the credit of the sender.
    Sent {
        /// On which.
        tunnel: TunnelId,
        /// Bytes.
        bytes: u64,
    },
    /// It is gone, or never came.
    Closed {
        /// Which.
        tunnel: TunnelId,
        /// Why: words for people.
        why: String,
    },
}
