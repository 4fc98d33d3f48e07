//! Dial-back: a public node sends us a datagram when we ask for one, so that we learn what our NAT lets in and how long
//! its mappings live. Both can only be seen from outside.
//!
//! | who | file |
//! |---|---|
//! | asks, and draws the conclusions | [`client`] |
//! | sends, within bounds | [`server`] |
//!
//! Frame `0x41` dial back, from a private node to a public one to which it is connected over UDP:
//!
//! | key | meaning |
//! |---|---|
//! | `n` | nonce, 8 bytes: comes back in the datagram |
//! | `o` | 1: send from another port than the node's own |
//! | `p` | UDP port to send to, at the IP address from which this connection's packets come |
//! | `w` | seconds to wait before, 0 ..= [`WAIT_MAX`] |
//!
//! The answer is one datagram of [`DATAGRAM_BYTES`], or nothing: the first byte, the version, zeros, the nonce. It needs no
//! key: the nonce has crossed the network only inside the connection, and is acted upon once.

pub mod client;
pub mod server;
#[cfg(test)]
mod tests;

use crate::codec::{DecodeError, Dict, Frame};
use crate::place::SocketId;
use crate::time::Duration;

/// Frame kind of the request.
pub const KIND: u8 = 0x41;
/// First byte of the datagram: no QUIC packet (its two top bits are clear), no probe (0x32), no STUN (0x00, 0x01).
pub const FIRST_BYTE: u8 = 0x33;
/// Bytes of the datagram: few enough to be of no use to who wants others flooded.
pub const DATAGRAM_BYTES: usize = 32;
/// Longest wait that can be asked for: RFC 4787 demands that mappings live two minutes, and nothing is gained beyond.
pub const WAIT_MAX: Duration = Duration::from_secs(120);
/// The socket from which a server sends when it is asked for another port than its own. 1 and 2 are those by which
/// the allocation of ports is looked at.
pub const FURTHER: SocketId = SocketId(3);
/// First number of the sockets whose mappings are left alone, and how many numbers take turns, so that nothing that is said of
/// one can be taken for its successor's. One is open at a time.
const RESTING_FIRST: u16 = 4;
const RESTING_NUMBERS: u16 = 8;

const VERSION: u8 = 1;
/// Bytes of the body: 40 or less, and room for newer keys.
const BODY_BYTES_MAX: usize = 256;

/// What a datagram must bring back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Nonce(pub [u8; 8]);

/// Send me a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DialBack {
    /// What it brings back.
    pub nonce: Nonce,
    /// To this port of the IP address from which this connection's packets come; not 0.
    pub port: u16,
    /// After so long: whole seconds, [`WAIT_MAX`] at the most.
    pub wait: Duration,
    /// From another port than the node's own.
    pub elsewhere: bool,
}

impl DialBack {
    /// The frame on the wire.
    pub fn to_frame(&self) -> Frame {
        let d = Dict::new()
            .with("n", &self.nonce.0[..])
            .with_some("o", self.elsewhere.then_some(1u64))
            .with("p", u64::from(self.port))
            .with("w", self.wait.as_secs());
        Frame::new(KIND, &d)
    }

    /// Reads a frame of kind [`KIND`].
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        let d = frame.dict(KIND, BODY_BYTES_MAX)?;
        let port = u16::try_from(d.u64("p")?).ok().filter(|port| *port > 0);
        let wait = Duration::from_secs(d.u64("w")?);
        if wait > WAIT_MAX {
            return Err(DecodeError::invalid("w", "longer than anybody waits"));
        }
        Ok(Self {
            nonce: Nonce(d.array("n")?),
            port: port.ok_or_else(|| DecodeError::invalid("p", "no UDP port"))?,
            wait,
            elsewhere: d.get("o").is_some() && d.flag("o")?,
        })
    }
}

/// The datagram that brings a nonce back.
pub fn datagram(nonce: Nonce) -> [u8; DATAGRAM_BYTES] {
    let mut out = [0; DATAGRAM_BYTES];
    out[0] = FIRST_BYTE;
    out[1] = VERSION;
    out[DATAGRAM_BYTES - 8..].copy_from_slice(&nonce.0);
    out
}

/// Reads such a datagram.
pub fn parse(bytes: &[u8]) -> Option<Nonce> {
    let nonce = Nonce(*bytes.last_chunk()?);
    (bytes == datagram(nonce)).then_some(nonce)
}

/// Whether this is a socket of one of the two machines here.
pub fn is_ours(socket: SocketId) -> bool {
    socket == FURTHER || is_resting(socket)
}

/// Whether this is a socket whose mapping is left alone: nothing else is to be learnt from it.
pub fn is_resting(socket: SocketId) -> bool {
    (RESTING_FIRST..RESTING_FIRST + RESTING_NUMBERS).contains(&socket.0)
}
