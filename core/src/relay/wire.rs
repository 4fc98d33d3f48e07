//! Relayed packets: the header of a DATAGRAM frame that carries one.
//!
//! ```text
//! kind: u8 ‖ peer: 20 bytes ‖ [id: u16 ‖ index and count: u8] ‖ bytes of the packet
//! ```
//!
//! | kind | between | peer is | what follows |
//! |---|---|---|---|
//! | `0x30` | peer → relay | who shall get it | a whole packet |
//! | `0x31` | relay → peer | who sent it | a whole packet |
//! | `0x32` | peer → relay | who shall get it | fragment header, a piece |
//! | `0x33` | relay → peer | who sent it | fragment header, a piece |
//!
//! The direction is in the kind, so two relays can use each other on one connection. Both headers of a kind have the same
//! length: a relay rewrites one into the other.
//!
//! **Why fragments.** QUIC needs packets of 1,200 bytes. A connection whose packets have 1,200 bytes carries 1,162 in a
//! datagram, and its MTU discovery takes some round trips, or ends there on narrow paths. A stream would carry them too, and
//! would hold up all that follow a lost one. So a packet that does not fit is cut into 2 to [`FRAGMENTS_MAX`] pieces, by the
//! sender or, when only the receiver's path is narrow, by the relay. A fragment's datagram has at most
//! [`FRAGMENT_DATAGRAM_MAX`] bytes, which every QUIC connection carries: fragments never have to be cut again.
//!
//! A fragment's id tells the packets of one sender apart. Those that the relay cuts have the highest bit set, so that they
//! never meet the sender's own. A packet put together of wrong pieces harms nobody: QUIC does not believe it.

use crate::id::PeerId;
use crate::time::{Duration, Instant};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use thiserror::Error;

/// Longest packet that can be relayed, in bytes: the largest that the transport takes (docs/PROTOCOL.md, section 3).
pub const PACKET_BYTES_MAX: usize = 6_500;
/// Pieces of one packet.
pub const FRAGMENTS_MAX: usize = 8;
/// Longest datagram with a fragment, header included: below the 1,162 bytes that the narrowest connection carries, with room
/// for longer connection ids and further tunnels in the future; seven of them hold the longest packet.
pub const FRAGMENT_DATAGRAM_MAX: usize = 1_100;
/// Bytes before a whole packet.
pub const WHOLE_HEADER_BYTES: usize = 21;
/// Bytes before a piece.
pub const FRAGMENT_HEADER_BYTES: usize = 24;
/// Longest datagram of this protocol.
pub const DATAGRAM_BYTES_MAX: usize = WHOLE_HEADER_BYTES + PACKET_BYTES_MAX;
/// How long the pieces of a packet wait for each other. They leave together, so what is later than this was lost.
pub const REASSEMBLY_TIME: Duration = Duration::from_secs(1);
/// Incomplete packets of one connection; the oldest goes first.
pub const PARTIALS_MAX: usize = 64;
/// Incomplete packets of one sender: a quarter, so that who sends pieces without end drives out its own.
pub const PARTIALS_PER_PEER_MAX: usize = 16;
/// Bytes of all incomplete packets of one connection.
pub const PARTIAL_BYTES_MAX: usize = 128 * 1024;

const KIND_BASE: u8 = 0x30;
const KIND_MASK: u8 = 0xfc;
const KIND_FROM: u8 = 0x01;
const KIND_FRAGMENT: u8 = 0x02;
/// Set in the ids of fragments that a relay has cut.
const CUT_BY_RELAY: u16 = 0x8000;

/// The bytes of a datagram are at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum WireError {
    /// Shorter than its header, or nothing behind it.
    #[error("shorter than its header, or empty")]
    Short,
    /// Not of this protocol.
    #[error("kind {0:#04x} is not a relayed packet")]
    Kind(u8),
    /// Index and count say nothing that can be, or the piece is longer than a piece may be.
    #[error("not a fragment")]
    Fragment,
    /// Longer than a packet may be.
    #[error("{0} bytes, at most {PACKET_BYTES_MAX} allowed")]
    TooLong(usize),
}

/// Which way a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To the relay; the header names who shall get it.
    To,
    /// From the relay; the header names who sent it.
    From,
}

/// What follows the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// A whole packet.
    Whole,
    /// A piece of one.
    Fragment {
        /// Which packet of the sender.
        id: u16,
        /// Which piece, from 0.
        index: u8,
        /// Of how many: 2 to [`FRAGMENTS_MAX`].
        count: u8,
    },
}

/// The header of a relayed packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Which way.
    pub direction: Direction,
    /// Who shall get it, or who sent it.
    pub peer: PeerId,
    /// What follows.
    pub part: Part,
}

impl Header {
    /// Bytes of this header.
    pub const fn bytes(&self) -> usize {
        match self.part {
            Part::Whole => WHOLE_HEADER_BYTES,
            Part::Fragment { .. } => FRAGMENT_HEADER_BYTES,
        }
    }

    /// Reads the header of a datagram; what it carries begins after [`Header::bytes`] and is never empty.
    pub fn parse(datagram: &[u8]) -> Result<Self, WireError> {
        let kind = *datagram.first().ok_or(WireError::Short)?;
        if kind & KIND_MASK != KIND_BASE {
            return Err(WireError::Kind(kind));
        }
        let peer = PeerId(*datagram.get(1..).and_then(|d| d.first_chunk()).ok_or(WireError::Short)?);
        let direction = if kind & KIND_FROM == 0 { Direction::To } else { Direction::From };
        if kind & KIND_FRAGMENT == 0 {
            return match datagram.len() {
                ..=WHOLE_HEADER_BYTES => Err(WireError::Short),
                len if len > DATAGRAM_BYTES_MAX => Err(WireError::TooLong(len - WHOLE_HEADER_BYTES)),
                _ => Ok(Self { direction, peer, part: Part::Whole }),
            };
        }
        if datagram.len() <= FRAGMENT_HEADER_BYTES {
            return Err(WireError::Short);
        }
        let [hi, lo, place] = *datagram[WHOLE_HEADER_BYTES..].first_chunk().ok_or(WireError::Short)?;
        let (index, count) = (place >> 4, place & 0x0f);
        let sound = (2..=FRAGMENTS_MAX).contains(&usize::from(count)) && index < count;
        if !sound || datagram.len() > FRAGMENT_DATAGRAM_MAX {
            return Err(WireError::Fragment);
        }
        Ok(Self { direction, peer, part: Part::Fragment { id: u16::from_be_bytes([hi, lo]), index, count } })
    }

    /// Appends the header.
    pub fn write(&self, out: &mut BytesMut) {
        let from = match self.direction {
            Direction::To => 0,
            Direction::From => KIND_FROM,
        };
        let fragment = match self.part {
            Part::Whole => 0,
            Part::Fragment { .. } => KIND_FRAGMENT,
        };
        out.put_u8(KIND_BASE | from | fragment);
        out.put_slice(self.peer.as_bytes());
        if let Part::Fragment { id, index, count } = self.part {
            out.put_u16(id);
            out.put_u8(index << 4 | count);
        }
    }

    /// A datagram: the header and what it carries.
    pub fn datagram(&self, carried: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(self.bytes() + carried.len());
        self.write(&mut out);
        out.put_slice(carried);
        out.freeze()
    }
}

/// Who cuts packets: numbers of different cutters never meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cutter {
    /// An end of the relayed connection.
    Peer,
    /// The relay.
    Relay,
}

/// Makes datagrams of packets, cutting those that do not fit. One for each connection.
#[derive(Clone, Debug)]
pub struct Fragmenter {
    cutter: Cutter,
    next: u16,
}

impl Fragmenter {
    /// For an end of relayed connections, or for a relay.
    pub const fn new(cutter: Cutter) -> Self {
        Self { cutter, next: 0 }
    }

    /// The datagrams that carry `packet` where a datagram has at most `datagram_max` bytes. Fails when the packet is empty,
    /// longer than [`PACKET_BYTES_MAX`], or does not even fit in [`FRAGMENTS_MAX`] pieces.
    pub fn split<'a>(
        &mut self,
        direction: Direction,
        peer: PeerId,
        packet: &'a [u8],
        datagram_max: usize,
    ) -> Result<Pieces<'a>, WireError> {
        let len = packet.len();
        if len == 0 {
            return Err(WireError::Short);
        }
        if len > PACKET_BYTES_MAX {
            return Err(WireError::TooLong(len));
        }
        if WHOLE_HEADER_BYTES + len <= datagram_max {
            return Ok(Pieces { direction, peer, id: 0, rest: packet, index: 0, count: 1 });
        }
        let piece_max = datagram_max.min(FRAGMENT_DATAGRAM_MAX).saturating_sub(FRAGMENT_HEADER_BYTES);
        // At least two: a packet may miss being whole by less than its pieces' headers are longer.
        let count = len.checked_div(piece_max).map_or(usize::MAX, |_| len.div_ceil(piece_max).max(2));
        let count = u8::try_from(count).ok().filter(|n| usize::from(*n) <= FRAGMENTS_MAX.min(len));
        let count = count.ok_or(WireError::TooLong(len))?;
        let id = self.next
            | match self.cutter {
                Cutter::Peer => 0,
                Cutter::Relay => CUT_BY_RELAY,
            };
        self.next = self.next.wrapping_add(1) & !CUT_BY_RELAY;
        Ok(Pieces { direction, peer, id, rest: packet, index: 0, count })
    }
}

/// The datagrams of one packet, in order.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    direction: Direction,
    peer: PeerId,
    id: u16,
    rest: &'a [u8],
    index: u8,
    count: u8,
}

impl Iterator for Pieces<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let left = usize::from(self.count.checked_sub(self.index)?);
        if left == 0 {
            return None;
        }
        let (piece, rest) = self.rest.split_at_checked(self.rest.len().div_ceil(left))?;
        let part = match self.count {
            1 => Part::Whole,
            count => Part::Fragment { id: self.id, index: self.index, count },
        };
        self.rest = rest;
        self.index += 1;
        Some(Header { direction: self.direction, peer: self.peer, part }.datagram(piece))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::from(self.count.saturating_sub(self.index));
        (left, Some(left))
    }
}

impl ExactSizeIterator for Pieces<'_> {}

/// A packet of which pieces are missing.
#[derive(Clone, Debug)]
struct Partial {
    key: (PeerId, u16),
    until: Instant,
    count: u8,
    pieces: [Bytes; FRAGMENTS_MAX],
    bytes: usize,
}

/// Puts packets together again. One for each connection to a relay.
///
/// What it holds is bounded in packets, in bytes and in time. Pieces are copied: one that is a slice would keep the whole
/// buffer that it was received in.
#[derive(Clone, Debug, Default)]
pub struct Reassembler {
    /// In the order in which they began, which is that of their ends.
    partials: BTreeMap<u64, Partial>,
    index: BTreeMap<(PeerId, u16), u64>,
    begun: u64,
    bytes: usize,
    dropped: u64,
}

impl Reassembler {
    /// Takes a datagram's part: the packet, when it is whole now.
    pub fn push(&mut self, now: Instant, header: &Header, carried: Bytes) -> Option<Bytes> {
        let Part::Fragment { id, index, count } = header.part else { return Some(carried) };
        self.expire(now);
        let place = usize::from(index);
        if !(2..=FRAGMENTS_MAX).contains(&usize::from(count)) || index >= count || carried.is_empty() {
            return None;
        }
        let key = (header.peer, id);
        let serial = self.of(now, key, place, count);
        let partial = self.partials.get_mut(&serial)?;
        partial.pieces[place] = Bytes::copy_from_slice(&carried);
        partial.bytes += carried.len();
        self.bytes += carried.len();
        if partial.bytes > PACKET_BYTES_MAX {
            self.drop_partial(serial);
            return None;
        }
        if partial.pieces.iter().filter(|p| !p.is_empty()).count() < usize::from(count) {
            self.make_room(key.0);
            return None;
        }
        let whole = self.take(serial)?;
        let mut packet = BytesMut::with_capacity(whole.bytes);
        whole.pieces.iter().for_each(|p| packet.put_slice(p));
        Some(packet.freeze())
    }

    /// The packet that a piece belongs to. One that has the piece already, or was cut otherwise, is an older one whose number
    /// came round again.
    fn of(&mut self, now: Instant, key: (PeerId, u16), place: usize, count: u8) -> u64 {
        if let Some(serial) = self.index.get(&key).copied() {
            let same =
                self.partials.get(&serial).is_some_and(|p| p.count == count && p.pieces[place].is_empty());
            if same {
                return serial;
            }
            self.drop_partial(serial);
        }
        self.begun += 1;
        let until = now + REASSEMBLY_TIME;
        let partial = Partial { key, until, count, pieces: Default::default(), bytes: 0 };
        self.partials.insert(self.begun, partial);
        self.index.insert(key, self.begun);
        self.begun
    }

    fn make_room(&mut self, peer: PeerId) {
        let of_peer = self.index.range((peer, 0)..=(peer, u16::MAX));
        if of_peer.clone().count() > PARTIALS_PER_PEER_MAX
            && let Some(oldest) = of_peer.map(|(_, serial)| *serial).min()
        {
            self.drop_partial(oldest);
        }
        while (self.partials.len() > PARTIALS_MAX || self.bytes > PARTIAL_BYTES_MAX)
            && let Some(oldest) = self.partials.keys().next().copied()
        {
            self.drop_partial(oldest);
        }
    }

    /// Drops what has waited too long.
    pub fn expire(&mut self, now: Instant) {
        while let Some((serial, partial)) = self.partials.first_key_value()
            && partial.until <= now
        {
            let serial = *serial;
            self.drop_partial(serial);
        }
    }

    /// When the oldest incomplete packet will have waited too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.partials.first_key_value().map(|(_, partial)| partial.until)
    }

    fn take(&mut self, serial: u64) -> Option<Partial> {
        let partial = self.partials.remove(&serial)?;
        self.index.remove(&partial.key);
        self.bytes -= partial.bytes;
        Some(partial)
    }

    fn drop_partial(&mut self, serial: u64) {
        if self.take(serial).is_some() {
            self.dropped += 1;
        }
    }

    /// Incomplete packets, and their bytes.
    pub fn held(&self) -> (usize, usize) {
        (self.partials.len(), self.bytes)
    }

    /// Packets given up since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests;
