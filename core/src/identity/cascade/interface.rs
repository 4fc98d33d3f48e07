//! What the cascade is told and what it asks for.

use super::CONNECT_TIMEOUT;
use crate::dht::lookup::LookupFailed;
use crate::dht::record::NodeRecord;
use crate::id::{CommandId, PublicKey};
use crate::identity::exchange::PeerFault;
use crate::transport::{CloseReason, DialError};
use std::fmt;
use std::net::SocketAddr;
use thiserror::Error;

/// What the cascade is told at its start.
#[derive(Clone, Debug)]
pub struct CascadeConfig {
    /// Who we are.
    pub own: PublicKey,
    /// Connected peers beyond which nobody unwanted is dialled.
    pub max_peers: usize,
    /// Connected peers below which known ones are dialled.
    pub min_peers: usize,
    /// Loopback and private ranges may be dialled.
    pub private_networks: bool,
}

/// A dial; answered once by [`Input::Dialled`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct DialId(pub u64);

/// How a peer may be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// At an address.
    Addr(SocketAddr),
    /// Through a relay where it holds a session.
    Relay {
        /// The relay.
        relay: PublicKey,
        /// Where the relay is.
        addr: SocketAddr,
    },
}

impl Way {
    /// The address that is dialled when nothing is connected yet: the peer's or its relay's.
    pub const fn addr(&self) -> SocketAddr {
        match self {
            Way::Addr(addr) | Way::Relay { addr, .. } => *addr,
        }
    }
}

impl From<SocketAddr> for Way {
    fn from(addr: SocketAddr) -> Self {
        Way::Addr(addr)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Addr(addr) => write!(f, "{addr}"),
            Way::Relay { addr, .. } => write!(f, "through the relay at {addr}"),
        }
    }
}

/// Why a dial came to nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DialFailed {
    /// It could not start.
    #[error(transparent)]
    NotStarted(#[from] DialError),
    /// The connection ended before the peer was identified.
    #[error(transparent)]
    Closed(#[from] CloseReason),
    /// The peer broke the identity exchange.
    #[error("the peer {0}")]
    Fault(#[from] PeerFault),
    /// Another peer is there.
    #[error("another peer answered there")]
    OtherPeer,
    /// Nothing was heard of the dial any more.
    #[error("no answer")]
    NoAnswer,
    /// The relay could not be reached.
    #[error("the relay cannot be reached: {0}")]
    Relay(String),
    /// Neither by its address nor in a tunnel.
    #[error("{udp}; over TCP: {tcp}")]
    Both {
        /// What became of the dial over UDP.
        udp: String,
        /// And over TCP.
        tcp: String,
    },
    /// The relay knows the peer no more.
    #[error("the peer has no session at the relay")]
    NoSession,
}

/// Why a peer was not reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConnectFailed {
    /// It is this node.
    Own,
    /// The user blocks it.
    Blocked,
    /// Too many connects wait.
    Busy,
    /// Everything was tried.
    Unreachable {
        /// What the DHT said when there was no record.
        lookup: Option<LookupFailed>,
        /// Each way in order, and why it failed.
        tried: Vec<(Way, DialFailed)>,
        /// Connected peers that were asked where it is.
        asked: usize,
        /// The time for a command was over before everything was tried.
        timed_out: bool,
    },
}

impl fmt::Display for ConnectFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectFailed::Own => f.write_str("that is this node"),
            ConnectFailed::Blocked => f.write_str("it is blocked here"),
            ConnectFailed::Busy => f.write_str("too many connects wait already"),
            ConnectFailed::Unreachable { lookup, tried, asked, timed_out } => {
                let mut words: Vec<String> = lookup.iter().map(ToString::to_string).collect();
                match asked {
                    0 => {}
                    1 => words.push("one connected peer was asked".into()),
                    n => words.push(format!("{n} connected peers were asked")),
                }
                words.extend(tried.iter().map(|(way, why)| format!("{way}: {why}")));
                if *timed_out {
                    words.push(format!("not finished within {} s", CONNECT_TIMEOUT.as_secs()));
                }
                if words.is_empty() {
                    words.push(
                        "its record holds no address and no relay that may be dialled from here".into(),
                    );
                }
                f.write_str(&words.join("; "))
            }
        }
    }
}

impl std::error::Error for ConnectFailed {}

/// What can happen to the cascade.
#[derive(Clone, Debug)]
pub enum Input {
    /// The node is up.
    Start,
    /// A peer was learnt of, or spoken of again; perhaps it is at `addr`.
    Learnt {
        /// Who.
        key: PublicKey,
        /// Where somebody says it is.
        addr: Option<SocketAddr>,
    },
    /// A peer announces itself on the same link: its address may be a private one.
    Nearby {
        /// Who, it says.
        key: PublicKey,
        /// Where.
        addr: SocketAddr,
    },
    /// Somebody of our topic may be there.
    Hint(SocketAddr),
    /// A lookup ended. Those nobody here asked for are ignored.
    Found {
        /// Whose.
        key: PublicKey,
        /// The record, believed, or why there is none.
        result: Result<Box<NodeRecord>, LookupFailed>,
    },
    /// A dial ended: who was identified there, or why nobody.
    Dialled {
        /// Which.
        dial: DialId,
        /// How.
        result: Result<PublicKey, DialFailed>,
    },
    /// A peer is connected and identified, by whosever dial.
    Connected {
        /// Who.
        key: PublicKey,
        /// Where its packets come from, unless through a relay.
        addr: Option<SocketAddr>,
    },
    /// A peer is connected no more.
    Disconnected(PublicKey),
    /// A peer that was connected has peers enough and ended the connection, after `Disconnected`.
    SentAway(PublicKey),
    /// The user or a job wants a peer. Answered by one `ConnectDone`.
    Connect {
        /// The command.
        id: CommandId,
        /// Whom.
        key: PublicKey,
        /// Where to try first.
        addr: Option<SocketAddr>,
    },
    /// A connected peer says where `key` may be: hearsay, taken from those who were asked, once from each.
    Seen {
        /// Who says it.
        by: PublicKey,
        /// Who is there.
        key: PublicKey,
        /// Where.
        addr: SocketAddr,
    },
    /// The user blocks this peer: nothing is tried any more.
    Blocked(PublicKey),
    /// The addresses that are ours: never dialled, and their public IPs tell who is a neighbour.
    OwnAddrs(Vec<SocketAddr>),
}

/// What the cascade asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Fetch a record; answer with `Found`.
    Lookup(PublicKey),
    /// The cached record of this peer led nowhere.
    Invalidate(PublicKey),
    /// Ask a connected peer where `key` is; its answer, if any, is `Seen`.
    Seek {
        /// Whom to ask.
        of: PublicKey,
        /// Who is sought.
        key: PublicKey,
    },
    /// Dial; answer with `Dialled`, and `Connected` when it succeeds.
    Dial {
        /// Comes back with the answer.
        dial: DialId,
        /// Whom; `None`: whoever is there.
        peer: Option<PublicKey>,
        /// Where.
        way: Way,
    },
    /// The answer to a `Connect`, exactly once.
    ConnectDone {
        /// The command.
        id: CommandId,
        /// Whom.
        key: PublicKey,
        /// Connected, or everything that failed.
        result: Result<(), ConnectFailed>,
    },
    /// There is room for peers: say so many known ones, which are not connected, with `Learnt`.
    WantPeers(usize),
    /// Something was not taken.
    Refused(&'static str),
}
