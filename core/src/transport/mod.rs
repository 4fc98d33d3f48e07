//! The seam between the protocols and QUIC.
//!
//! Protocols above see peers proven by key, connections, and streams with back-pressure. Below it,
//! [`quic`], its set-up (`setup`) and its cryptography ([`crypto`], [`tls`]) are the only files that name `quinn_proto`. A connection belongs to a peer, not to an address.

mod addresses;
mod cids;
pub mod crypto;
mod gate;
pub mod quic;
mod setup;
mod silence;
pub mod tls;

#[cfg(test)]
mod tests;

use crate::event::Datagram;
use crate::id::{ConnId, PublicKey, StreamId};
use crate::place::{Place, SocketId};
use crate::time::Instant;
use bytes::{Bytes, BytesMut};
use std::net::{IpAddr, SocketAddr};
use thiserror::Error;

/// Datagrams to send: `buf[..size]`, cut into segments of `segment_size` (GSO).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// The socket of ours to send from.
    pub socket: SocketId,
    /// Where to.
    pub to: SocketAddr,
    /// Local address to send from, where it matters.
    pub from: Option<IpAddr>,
    /// Total bytes appended to the buffer.
    pub size: usize,
    /// Size of each datagram but the last; `None`: one datagram.
    pub segment_size: Option<usize>,
    /// ECN codepoint to set.
    pub ecn: Option<u8>,
}

/// Packets that a connection wants to send: `buf[..size]`, cut into segments of `segment_size`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Where to.
    pub place: Place,
    /// Local address to send from, where it matters.
    pub from: Option<IpAddr>,
    /// Total bytes appended to the buffer.
    pub size: usize,
    /// Size of each packet but the last; `None`: one packet.
    pub segment_size: Option<usize>,
    /// ECN codepoint to set.
    pub ecn: Option<u8>,
    /// It only asks whether packets of this size get through: not worth any effort to make it so.
    pub probe: bool,
}

impl Outgoing {
    /// The same as datagrams, when they leave by a socket.
    pub fn datagrams(self) -> Option<Transmit> {
        let Self { place, from, size, segment_size, ecn, probe: _ } = self;
        match place {
            Place::Direct { socket, addr } => {
                Some(Transmit { socket, to: addr, from, size, segment_size, ecn })
            }
            Place::Relayed { .. } | Place::Tunnel(_) => None,
        }
    }
}

/// A QUIC packet (or several, coalesced) that arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Where it came from.
    pub place: Place,
    /// The local address it was sent to, where that is known.
    pub to: Option<IpAddr>,
    /// Its ECN codepoint, where that is known.
    pub ecn: Option<u8>,
    /// Its bytes.
    pub payload: BytesMut,
}

impl From<Datagram> for Packet {
    fn from(d: Datagram) -> Self {
        let place = Place::Direct { socket: d.socket, addr: d.from };
        Self { place, to: d.to, ecn: d.ecn, payload: d.payload }
    }
}

/// Why a message could not be sent as a DATAGRAM frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DatagramError {
    /// Larger than what the connection carries now.
    #[error("larger than the {0} bytes that the connection carries")]
    TooLarge(usize),
    /// The peer takes none, or the connection is gone.
    #[error("the peer takes no datagrams")]
    Unsupported,
}

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CloseReason {
    /// We closed it.
    #[error("closed here")]
    Local,
    /// The peer closed it with an application code.
    #[error("closed by the peer with code {code:#x}: {reason}")]
    Peer {
        /// Application code, see [`close_code`].
        code: u64,
        /// The peer's words, cut to 200 bytes, control characters replaced.
        reason: String,
    },
    /// Nothing was heard for the idle timeout, or the handshake got no answer.
    #[error("timed out")]
    TimedOut,
    /// The peer restarted and knows the connection no more (stateless reset).
    #[error("reset by the peer")]
    Reset,
    /// The key on the other side is not the one that was dialled.
    #[error("another peer answered there")]
    WrongPeer,
    /// The handshake or the protocol failed.
    #[error("transport: {0}")]
    Transport(String),
}

/// Application close codes.
pub mod close_code {
    /// Orderly end.
    pub const DONE: u32 = 0x00;
    /// Idle timeout (SPEC 3.4).
    pub const IDLE: u32 = 0x100;
    /// The other of two simultaneous connections was kept.
    pub const DUPLICATE: u32 = 0x101;
    /// The identity exchange failed or took too long.
    pub const IDENTITY: u32 = 0x102;
    /// A message broke the protocol.
    pub const PROTOCOL: u32 = 0x103;
    /// Another peer was found at the address (SPEC 3.5).
    pub const WRONG_PEER: u32 = 0x104;
    /// The peer has peers enough.
    pub const FULL: u32 = 0x105;
    /// The peer is blocked (SPEC 3.6).
    pub const BLOCKED: u32 = 0x106;
    /// The node shuts down.
    pub const SHUTDOWN: u32 = 0x107;
}

/// Why a dial could not even start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DialError {
    /// Too many connections or handshakes.
    #[error("too many connections")]
    Full,
    /// Not an address one can dial.
    #[error("not a usable address")]
    Address,
}

/// Why bytes could not be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum WriteError {
    /// Flow control: wait for `TransportEvent::Writable`.
    #[error("blocked")]
    Blocked,
    /// The peer stopped reading, or stream or connection is gone.
    #[error("gone")]
    Gone,
}

/// Why bytes could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ReadError {
    /// Nothing there: wait for `TransportEvent::Readable`.
    #[error("blocked")]
    Blocked,
    /// The peer reset it, or stream or connection is gone.
    #[error("gone")]
    Gone,
}

/// Bytes of a stream, or its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chunk {
    /// The next bytes in order.
    Bytes(Bytes),
    /// The peer finished the stream; all bytes were read.
    End,
}

/// What the transport tells. Streams are bidirectional.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TransportEvent {
    /// A handshake finished: `peer` is proven.
    Connected {
        /// The connection (issued by `dial`, or new).
        conn: ConnId,
        /// Proven by TLS.
        peer: PublicKey,
        /// Where the peer's packets come from.
        place: Place,
        /// Whether we dialled.
        dialled: bool,
    },
    /// A connection ended, or a dial failed. Said exactly once per connection, also after our own `close`.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// The peer opened a stream.
    Opened {
        /// On this connection.
        conn: ConnId,
        /// The stream.
        stream: StreamId,
    },
    /// A stream may have bytes, an end or an error to read.
    Readable {
        /// On this connection.
        conn: ConnId,
        /// The stream.
        stream: StreamId,
    },
    /// A stream that was blocked may be written again, or its peer has stopped reading.
    Writable {
        /// On this connection.
        conn: ConnId,
        /// The stream.
        stream: StreamId,
    },
    /// `open` may succeed again.
    StreamsAvailable {
        /// On this connection.
        conn: ConnId,
    },
    /// A message arrived in a DATAGRAM frame (RFC 9221): unreliable, unordered.
    Datagram {
        /// On this connection.
        conn: ConnId,
        /// The message.
        bytes: Bytes,
    },
    /// A watched connection sent what asks for an answer, and nothing came for three round trips, at least 300 ms.
    Silent {
        /// Which.
        conn: ConnId,
    },
    /// Packets of the connection come from another place than before, authenticated by QUIC. Said once for each change.
    Moved {
        /// Which.
        conn: ConnId,
        /// From where.
        place: Place,
        /// How many bytes came from there.
        bytes: usize,
    },
}

/// Figures of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConnStats {
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: u64,
    /// Current datagram size limit in bytes.
    pub mtu: u16,
    /// Congestion window in bytes.
    pub cwnd: u64,
    /// Packets declared lost.
    pub lost_packets: u64,
    /// Bytes of UDP payload sent.
    pub bytes_tx: u64,
    /// Bytes of UDP payload received.
    pub bytes_rx: u64,
}

/// A transport that proves peers by key. Pure: driven by datagrams and time.
pub trait Transport {
    /// A packet arrived.
    fn handle(&mut self, now: Instant, packet: impl Into<Packet>);
    /// Time passed.
    fn handle_timeout(&mut self, now: Instant);
    /// When time matters next.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Appends up to `max_datagrams` packets for one place to `buf`.
    fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Outgoing>;
    /// The next thing to tell.
    fn poll(&mut self) -> Option<TransportEvent>;

    /// Starts a connection to `peer` at a place. Ends in `Connected` or `Closed`.
    fn dial(&mut self, now: Instant, peer: &PublicKey, place: impl Into<Place>) -> Result<ConnId, DialError>;
    /// Starts a connection to whoever answers at `addr`; `Connected` tells who it is.
    fn dial_any(&mut self, now: Instant, addr: SocketAddr) -> Result<ConnId, DialError>;
    /// Sends the packets of a connection elsewhere from now on. `nudge`: at once, with one packet past the congestion
    /// window, because what was under way is lost. `worse`: what was learnt of the old place (round trip, window, size of
    /// datagrams) is forgotten, because the new one carries less.
    fn set_place(&mut self, now: Instant, conn: ConnId, place: Place, nudge: bool, worse: bool);
    /// Where the packets of a connection are sent.
    fn place(&self, conn: ConnId) -> Option<Place>;
    /// Tells of silences of this connection from now on, or no more.
    fn watch(&mut self, conn: ConnId, watched: bool);
    /// A secret that both ends of the connection, and nobody else, can calculate (RFC 8446, 7.5).
    fn secret(&self, conn: ConnId, label: &[u8]) -> Option<[u8; 32]>;
    /// Asks the peer for a sign of life, when nothing else does.
    fn ping(&mut self, conn: ConnId);
    /// Sends a message in a DATAGRAM frame. What finds no room in the queue of a connection displaces its oldest.
    fn send_datagram(&mut self, conn: ConnId, message: Bytes) -> Result<(), DatagramError>;
    /// Largest message that [`Transport::send_datagram`] takes now, and bytes free in its queue.
    fn datagram_room(&mut self, conn: ConnId) -> Option<(usize, usize)>;
    /// Closes a connection; `reason` is for people, at most 200 bytes.
    fn close(&mut self, now: Instant, conn: ConnId, code: u32, reason: &str);
    /// Opens a bidirectional stream; `None` while the peer allows no more or the connection is gone.
    fn open(&mut self, conn: ConnId) -> Option<StreamId>;
    /// Writes from the front of `data`, advancing it; returns the bytes taken.
    fn write(&mut self, conn: ConnId, stream: StreamId, data: &mut Bytes) -> Result<usize, WriteError>;
    /// No more will be written.
    fn finish(&mut self, conn: ConnId, stream: StreamId);
    /// Reads no more; what was written and finished still gets there.
    fn stop(&mut self, conn: ConnId, stream: StreamId);
    /// Abandons both directions.
    fn reset(&mut self, conn: ConnId, stream: StreamId);
    /// Reads the next bytes, at most `max`. Reading is what returns flow-control credit.
    fn read(&mut self, conn: ConnId, stream: StreamId, max: usize) -> Result<Chunk, ReadError>;
    /// Reads what is there, at most `max` bytes, joined to one piece of memory of its own; and whether the end was met
    /// behind it, which a transport tells only once.
    fn read_joined(
        &mut self,
        conn: ConnId,
        stream: StreamId,
        max: usize,
    ) -> Result<(Chunk, bool), ReadError> {
        let first = match self.read(conn, stream, max)? {
            Chunk::Bytes(bytes) => bytes,
            Chunk::End => return Ok((Chunk::End, true)),
        };
        let mut left = max.saturating_sub(first.len());
        let mut chunks = vec![first];
        let mut ended = false;
        while left > 0 {
            match self.read(conn, stream, left) {
                Ok(Chunk::Bytes(more)) => {
                    left = left.saturating_sub(more.len());
                    chunks.push(more);
                }
                Ok(Chunk::End) => {
                    ended = true;
                    break;
                }
                // A loss is met again by the next read.
                Err(ReadError::Blocked | ReadError::Gone) => break,
            }
        }
        Ok((Chunk::Bytes(joined(chunks)), ended))
    }
    /// Figures of a connection.
    fn stats(&self, conn: ConnId) -> Option<ConnStats>;
    /// Connections alive, handshakes and those that drain included.
    fn connections(&self) -> usize;
}

/// One piece of memory, of exactly the size of what it holds: a packet's bytes keep the whole receive buffer alive.
fn joined(mut chunks: Vec<Bytes>) -> Bytes {
    if chunks.len() == 1 {
        return chunks.pop().unwrap_or_default();
    }
    let mut all = Vec::with_capacity(chunks.iter().map(Bytes::len).sum());
    chunks.iter().for_each(|chunk| all.extend_from_slice(chunk));
    all.into()
}
