//! STUN (RFC 8489): asking "from which address do my packets come?", and answering it.
//!
//! Only the Binding method, over UDP, without authentication: that is all it takes to learn a reflexive address. Requests
//! leave from the very socket that QUIC uses, since it is that socket's mapping which matters, and answers come back among
//! QUIC's packets; [`is_stun`] tells them apart (a STUN message begins with two zero bits and carries the magic cookie;
//! where QUIC greases its fixed bit, the cookie alone decides, wrongly once in 2^32).
//!
//! **What an answer proves.** Nothing about who sent it: anybody on the way can forge one, anybody off the way must guess 96
//! bits. So a response counts only with the identifier of an outstanding request and from the address asked, and even then
//! it is one observer's word ([`super::behaviour`]).
//!
//! **What an answer costs.** A server answers whoever seems to ask, so an answer must not be worth a forged question: the
//! smallest request has [`HEADER_BYTES`] = 20 bytes and its answer 40 (IPv4: header, XOR-MAPPED-ADDRESS 12, FINGERPRINT 8)
//! or 52 (IPv6); an error has 40 and 2 for each unknown attribute, padded to 4, which cost the asker 4 each. No answer
//! reaches three times its request.

use crate::machine::{Cx, Machine};
use crate::place::SocketId;
use crate::rng::Rng;
use crate::time::{Deadline, Duration, Instant};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use thiserror::Error;

/// A header: type, length, cookie, transaction.
pub const HEADER_BYTES: usize = 20;
/// Longest message read: RFC 8489 section 6.1 bounds requests to what every IPv4 path carries.
pub const MESSAGE_BYTES_MAX: usize = 548;
/// Most bytes of an answer over those of its request.
pub const AMPLIFICATION_MAX: usize = 3;
/// Transactions outstanding: a round of a few servers on each of a few sockets.
pub const TRANSACTIONS_MAX: usize = 64;
/// First retransmission (RFC 8489 section 6.2.1: RTO of 500 ms, then doubling).
pub const RTO: Duration = Duration::from_millis(500);
/// Requests sent per transaction. RFC 8489's default is 7 (39.5 s); who does not answer 5 (given up after 15.5 s) is asked
/// again by whoever still wants to know.
pub const SENDS_MAX: u32 = 5;
/// Unknown attributes named in an error.
const UNKNOWN_MAX: usize = 8;

const COOKIE: u32 = 0x2112_a442;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;

const MAPPED_ADDRESS: u16 = 0x0001;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FINGERPRINT: u16 = 0x8028;
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// Attributes below this must be understood (RFC 8489 section 14).
const OPTIONAL_FROM: u16 = 0x8000;
/// Those of authentication, which a server without it passes over: USERNAME, MESSAGE-INTEGRITY, REALM, NONCE,
/// MESSAGE-INTEGRITY-SHA256, PASSWORD-ALGORITHM, USERHASH.
const OF_AUTHENTICATION: [u16; 7] = [0x0006, 0x0008, 0x0014, 0x0015, 0x001c, 0x001d, 0x001e];

/// The bytes are no STUN message that this room understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum StunError {
    /// Too short, too long, no cookie, or a length that is not the message's.
    #[error("not a STUN message")]
    Header,
    /// An attribute ends beyond the message.
    #[error("an attribute ends beyond the message")]
    Attribute,
    /// The check sum is wrong or not the last attribute.
    #[error("the fingerprint is wrong")]
    Fingerprint,
    /// An address of no known family, or of the wrong length.
    #[error("not an address")]
    Address,
    /// Another method, an indication, or a class that does not belong here.
    #[error("not the Binding message expected")]
    Kind,
    /// A success that says no address, or has attributes that must be understood and are not.
    #[error("a response without a usable address")]
    Unusable,
}

/// The identifier of a request: 96 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TransactionId(pub [u8; 12]);

/// What a response says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Response {
    /// The request came from here.
    Mapped(SocketAddr),
    /// The server refuses, with this code.
    Refused(u16),
}

/// Whether a datagram is a STUN message: two zero bits, the cookie, and a length that is its own.
pub fn is_stun(datagram: &[u8]) -> bool {
    header(datagram).is_ok()
}

fn header(bytes: &[u8]) -> Result<(u16, TransactionId), StunError> {
    let (Some(head), true) = (bytes.first_chunk::<HEADER_BYTES>(), bytes.len() <= MESSAGE_BYTES_MAX) else {
        return Err(StunError::Header);
    };
    let kind = u16::from_be_bytes([head[0], head[1]]);
    let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let cookie = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    if kind & 0xc000 != 0 || cookie != COOKIE || len % 4 != 0 || HEADER_BYTES + len != bytes.len() {
        return Err(StunError::Header);
    }
    let mut id = [0; 12];
    id.copy_from_slice(&head[8..]);
    Ok((kind, TransactionId(id)))
}

/// Calls `each` for every attribute; checks the fingerprint, which can only be the last.
fn attributes<'a>(bytes: &'a [u8], mut each: impl FnMut(u16, &'a [u8])) -> Result<(), StunError> {
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        let head = bytes.get(at..at + 4).ok_or(StunError::Attribute)?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = bytes.get(at + 4..at + 4 + len).ok_or(StunError::Attribute)?;
        let next = at + 4 + len.next_multiple_of(4);
        if next > bytes.len() {
            return Err(StunError::Attribute);
        }
        if kind == FINGERPRINT {
            let told = <[u8; 4]>::try_from(value).map_err(|_| StunError::Fingerprint)?;
            if next != bytes.len() || u32::from_be_bytes(told) != fingerprint(&bytes[..at]) {
                return Err(StunError::Fingerprint);
            }
        } else {
            each(kind, value);
        }
        at = next;
    }
    Ok(())
}

/// CRC-32 (ISO 3309, as in Ethernet) of the message up to the attribute, changed so that it is no other protocol's.
fn fingerprint(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc ^ FINGERPRINT_XOR
}

fn message(kind: u16, id: TransactionId) -> Vec<u8> {
    let mut out = Vec::with_capacity(52);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&COOKIE.to_be_bytes());
    out.extend_from_slice(&id.0);
    out
}

fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    set_length(out, 0);
}

/// The header tells the length of what follows it, the fingerprint included when it is computed.
fn set_length(out: &mut [u8], more: usize) {
    let len = u16::try_from(out.len() - HEADER_BYTES + more).unwrap_or(u16::MAX);
    out[2..4].copy_from_slice(&len.to_be_bytes());
}

fn put_fingerprint(out: &mut Vec<u8>) {
    set_length(out, 8);
    let crc = fingerprint(out);
    put(out, FINGERPRINT, &crc.to_be_bytes());
}

/// A port and an address under the cookie and the transaction: NATs that rewrite addresses inside packets do not find it.
fn xored(addr: SocketAddr, id: TransactionId) -> SocketAddr {
    let port = addr.port() ^ (COOKIE >> 16) as u16;
    let ip = match addr.ip() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip) ^ COOKIE)),
        IpAddr::V6(ip) => {
            let mut mask = [0; 16];
            mask[..4].copy_from_slice(&COOKIE.to_be_bytes());
            mask[4..].copy_from_slice(&id.0);
            IpAddr::V6(Ipv6Addr::from(u128::from(ip) ^ u128::from_be_bytes(mask)))
        }
    };
    SocketAddr::new(ip, port)
}

fn write_addr(addr: SocketAddr) -> Vec<u8> {
    let mut out = vec![0, if addr.is_ipv4() { 1 } else { 2 }];
    out.extend_from_slice(&addr.port().to_be_bytes());
    match addr.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out
}

fn read_addr(value: &[u8]) -> Result<SocketAddr, StunError> {
    let &[_, family, high, low, ref ip @ ..] = value else { return Err(StunError::Address) };
    let ip = match family {
        1 => IpAddr::from(<[u8; 4]>::try_from(ip).map_err(|_| StunError::Address)?),
        2 => IpAddr::from(<[u8; 16]>::try_from(ip).map_err(|_| StunError::Address)?),
        _ => return Err(StunError::Address),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes([high, low])))
}

/// Whether a STUN message is a request: somebody asks us.
pub fn is_request(datagram: &[u8]) -> bool {
    matches!(datagram, [first, second, ..] if first & 0x01 == 0 && second & 0x10 == 0)
}

/// A Binding request.
pub fn request(id: TransactionId) -> Vec<u8> {
    message(BINDING_REQUEST, id)
}

/// A Binding success for who asked from `from`, with a fingerprint.
pub fn success(id: TransactionId, from: SocketAddr) -> Vec<u8> {
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    let mut out = message(BINDING_SUCCESS, id);
    put(&mut out, XOR_MAPPED_ADDRESS, &write_addr(xored(from, id)));
    put_fingerprint(&mut out);
    out
}

/// What a server says to a datagram from `from`: the address, or error 420 for a request with attributes that must be
/// understood and are not. Nothing to anything else.
pub fn answer(datagram: &[u8], from: SocketAddr) -> Result<Vec<u8>, StunError> {
    let (kind, id) = header(datagram)?;
    if kind != BINDING_REQUEST {
        return Err(StunError::Kind);
    }
    let mut unknown = Vec::new();
    attributes(datagram, |kind, _| {
        let known = kind >= OPTIONAL_FROM || OF_AUTHENTICATION.contains(&kind);
        if !known && !unknown.contains(&kind) && unknown.len() < UNKNOWN_MAX {
            unknown.push(kind);
        }
    })?;
    if unknown.is_empty() {
        return Ok(success(id, from));
    }
    let mut out = message(BINDING_ERROR, id);
    put(&mut out, ERROR_CODE, &[0, 0, 4, 20]);
    let named: Vec<u8> = unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect();
    put(&mut out, UNKNOWN_ATTRIBUTES, &named);
    put_fingerprint(&mut out);
    Ok(out)
}

/// Reads a response. MAPPED-ADDRESS counts where XOR-MAPPED-ADDRESS is missing, as servers before RFC 5389 answer.
pub fn response(datagram: &[u8]) -> Result<(TransactionId, Response), StunError> {
    let (kind, id) = header(datagram)?;
    let (mut xor, mut plain, mut code, mut foreign) = (None, None, None, false);
    attributes(datagram, |kind, value| match kind {
        XOR_MAPPED_ADDRESS => xor = xor.or(Some(value)),
        MAPPED_ADDRESS => plain = plain.or(Some(value)),
        ERROR_CODE => code = code.or(Some(value)),
        UNKNOWN_ATTRIBUTES => {}
        _ => foreign |= kind < OPTIONAL_FROM && !OF_AUTHENTICATION.contains(&kind),
    })?;
    match kind {
        BINDING_SUCCESS if foreign => Err(StunError::Unusable),
        BINDING_SUCCESS => {
            let mapped = match (xor, plain) {
                (Some(value), _) => xored(read_addr(value)?, id),
                (None, Some(value)) => read_addr(value)?,
                (None, None) => return Err(StunError::Unusable),
            };
            let mapped = SocketAddr::new(mapped.ip().to_canonical(), mapped.port());
            Ok((id, Response::Mapped(mapped)))
        }
        BINDING_ERROR => match code {
            Some([_, _, class, number, ..]) => {
                Ok((id, Response::Refused(u16::from(class & 7) * 100 + u16::from(number % 100))))
            }
            Some(_) | None => Err(StunError::Unusable),
        },
        _ => Err(StunError::Kind),
    }
}

/// What can happen to the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Ask this server from this socket.
    Ask {
        /// From which socket.
        socket: SocketId,
        /// Whom.
        to: SocketAddr,
    },
    /// A STUN message arrived that is no request.
    Received {
        /// On which socket.
        socket: SocketId,
        /// From where.
        from: SocketAddr,
        /// The datagram.
        datagram: Vec<u8>,
    },
    /// The machine's own network changed: answers to what was asked before say nothing any more.
    NetworkChanged,
}

/// What the client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this datagram.
    Send {
        /// From which socket.
        socket: SocketId,
        /// Where to.
        to: SocketAddr,
        /// The request.
        datagram: Vec<u8>,
    },
    /// A server has seen our packets come from there.
    Mapped {
        /// The server.
        by: SocketAddr,
        /// From which socket we asked.
        socket: SocketId,
        /// What it saw.
        mapped: SocketAddr,
    },
    /// A server did not answer, or refused.
    Failed {
        /// The server.
        by: SocketAddr,
        /// From which socket we asked.
        socket: SocketId,
    },
    /// A datagram was dropped, and why.
    Refused(&'static str),
}

#[derive(Clone, Copy, Debug)]
struct Transaction {
    socket: SocketId,
    to: SocketAddr,
    sends: u32,
    due: Instant,
}

/// The client: asks, asks again, and believes only answers to what it asked.
#[derive(Clone, Debug, Default)]
pub struct StunClient {
    outstanding: BTreeMap<TransactionId, Transaction>,
}

impl StunClient {
    /// Transactions outstanding.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    fn ask(&mut self, cx: &mut Cx<'_, Output>, socket: SocketId, to: SocketAddr) {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        if self.outstanding.values().any(|t| (t.socket, t.to) == (socket, to)) {
            return;
        }
        if self.outstanding.len() >= TRANSACTIONS_MAX {
            return cx.emit(Output::Refused("too many STUN requests"));
        }
        let id = random_id(cx.rng);
        cx.emit(Output::Send { socket, to, datagram: request(id) });
        self.outstanding.insert(id, Transaction { socket, to, sends: 1, due: cx.now + RTO });
    }

    fn received(&mut self, cx: &mut Cx<'_, Output>, socket: SocketId, from: SocketAddr, datagram: &[u8]) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let Ok((id, response)) = response(datagram) else {
            return cx.emit(Output::Refused("not a STUN response"));
        };
        if self.outstanding.get(&id).is_none_or(|t| (t.socket, t.to) != (socket, from)) {
            return cx.emit(Output::Refused("a STUN response nobody asked for"));
        }
        self.outstanding.remove(&id);
        match response {
            Response::Mapped(mapped) => cx.emit(Output::Mapped { by: from, socket, mapped }),
            Response::Refused(_) => cx.emit(Output::Failed { by: from, socket }),
        }
    }
}

fn random_id(rng: &mut Rng) -> TransactionId {
    TransactionId(rng.bytes())
}

impl Machine for StunClient {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Ask { socket, to } => self.ask(cx, socket, to),
            Input::Received { socket, from, datagram } => self.received(cx, socket, from, &datagram),
            Input::NetworkChanged => self.outstanding.clear(),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        let due = self.outstanding.iter().filter(|(_, t)| t.due <= cx.now);
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            let Some(t) = self.outstanding.get_mut(&id) else { continue };
            let (socket, to) = (t.socket, t.to);
            if t.sends >= SENDS_MAX {
                self.outstanding.remove(&id);
                cx.emit(Output::Failed { by: to, socket });
                continue;
            }
            t.due = cx.now + RTO.saturating_mul(1 << t.sends);
            t.sends += 1;
            cx.emit(Output::Send { socket, to, datagram: request(id) });
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        self.outstanding.values().map(|t| t.due).min().map(|at| Deadline::new(at, "ask STUN server again"))
    }
}

#[cfg(test)]
mod tests;
