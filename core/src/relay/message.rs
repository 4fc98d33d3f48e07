//! Control frames between a relay and those it serves, on the control stream of their connection.
//!
//! | frame | from | body |
//! |---|---|---|
//! | `0x30` register | client | nothing: who it is, TLS has proven |
//! | `0x31` registered | relay | `a` where the relay sees the client (compact), `b` bytes a second, `f` sessions still free, `k` seconds between keep-alives, `l` seconds until it must be renewed, `s` session (8 bytes) |
//! | `0x32` refused | relay | `c` reason number, `w` words |
//! | `0x33` unregister | client | nothing |
//! | `0x34` going | relay | `b` seconds until it may be asked again, `e` seconds until the session ends |
//! | `0x35` gone | relay | `p` peer id that has no session here |
//! | `0x36` ask | client | nothing |
//! | `0x37` load | relay | `m` sessions at the most, `p` price in micro-units per GiB, `u` sessions used |
//!
//! Times are told as durations: clocks of others are wrong.

use crate::codec::{DecodeError, Dict, Frame, compact_addr, parse_compact_addr};
use crate::id::PeerId;
use crate::time::Duration;
use std::net::SocketAddr;

/// First frame kind of this room.
pub const KIND_FIRST: u8 = 0x30;
/// Last frame kind of this room.
pub const KIND_LAST: u8 = 0x37;
/// Bytes of any body: below 300, and room for newer keys.
pub const BODY_BYTES_MAX: usize = 512;
/// Longest words of a refusal, in bytes.
pub const WORDS_BYTES_MAX: usize = 200;

const REGISTER: u8 = 0x30;
const REGISTERED: u8 = 0x31;
const REFUSED: u8 = 0x32;
const UNREGISTER: u8 = 0x33;
const GOING: u8 = 0x34;
const GONE: u8 = 0x35;
const ASK: u8 = 0x36;
const LOAD: u8 = 0x37;

/// A session at a relay: how its holder is told from an earlier session of the same peer.
pub type SessionId = [u8; 8];

/// Why a relay refuses a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// All sessions are taken.
    Full,
    /// Too many come at once.
    Busy,
    /// The operator does not want this peer.
    Blocked,
    /// The relay shuts down.
    Closing,
    /// Too many sessions from this peer's address.
    Address,
    /// The peer is no relay, or no more.
    NoRelay,
    /// A reason of a newer relay.
    Other(u32),
}

impl Why {
    const KNOWN: [Why; 6] = [Why::Full, Why::Busy, Why::Blocked, Why::Closing, Why::Address, Why::NoRelay];

    /// Its number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Why::Full => 1,
            Why::Busy => 2,
            Why::Blocked => 3,
            Why::Closing => 4,
            Why::Address => 5,
            Why::NoRelay => 6,
            Why::Other(n) => n,
        }
    }

    /// The reason with this number.
    pub fn from_number(n: u32) -> Self {
        Why::KNOWN.into_iter().find(|why| why.number() == n).unwrap_or(Why::Other(n))
    }

    /// Words for people.
    pub const fn words(self) -> &'static str {
        match self {
            Why::Full => "all sessions are taken",
            Why::Busy => "too many come at once",
            Why::Blocked => "blocked by the operator",
            Why::Closing => "shutting down",
            Why::Address => "too many sessions from this address",
            Why::NoRelay => "not a relay",
            Why::Other(_) => "for a reason this version does not know",
        }
    }
}

/// A reservation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registered {
    /// Its number, for the record.
    pub session: SessionId,
    /// Where the relay sees the client.
    pub observed: SocketAddr,
    /// What the relay passes on from the client, in bytes a second; 0 is without limit.
    pub bytes_per_second: u64,
    /// How often the client should be heard of.
    pub keepalive: Duration,
    /// After this long without another register the reservation ends.
    pub lifetime: Duration,
    /// Sessions still free.
    pub free: u32,
}

/// How full a relay is, and what it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Sessions it holds.
    pub used: u32,
    /// Sessions it holds at the most.
    pub max: u32,
    /// Micro-units per GiB; 0 is free.
    pub price: u32,
}

/// A control frame, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Let others reach me through you. Also renews.
    Register,
    /// They can.
    Registered(Registered),
    /// They cannot.
    Refused {
        /// Why.
        why: Why,
        /// The same for people; at most [`WORDS_BYTES_MAX`] bytes.
        words: String,
    },
    /// No more.
    Unregister,
    /// The relay shuts down or sends the client away.
    Going {
        /// So long it still passes on.
        ends_in: Duration,
        /// So long it does not want to be asked again.
        back_in: Duration,
    },
    /// That peer has no session here. Told of the client itself: its own session is gone.
    Gone {
        /// Whom the client wrote to.
        peer: PeerId,
    },
    /// How full are you?
    Ask,
    /// So full.
    Load(Load),
}

impl Message {
    /// Whether frames of this kind are this room's.
    pub const fn is_kind(kind: u8) -> bool {
        KIND_FIRST <= kind && kind <= KIND_LAST
    }

    /// Whether it is the relay who says such things: it goes to the client's machine, otherwise to the server's.
    pub const fn is_from_relay(kind: u8) -> bool {
        matches!(kind, REGISTERED | REFUSED | GOING | GONE | LOAD)
    }

    /// The frame on the wire.
    pub fn to_frame(&self) -> Frame {
        let d = Dict::new();
        match self {
            Message::Register => Frame::new(REGISTER, &d),
            Message::Registered(r) => {
                let addr = compact_addr(r.observed);
                let d = d.with("a", &addr[..]).with("b", r.bytes_per_second).with("f", r.free);
                let d = d.with("k", r.keepalive.as_secs()).with("l", r.lifetime.as_secs());
                Frame::new(REGISTERED, &d.with("s", &r.session[..]))
            }
            Message::Refused { why, words } => {
                Frame::new(REFUSED, &d.with("c", why.number()).with("w", words.as_str()))
            }
            Message::Unregister => Frame::new(UNREGISTER, &d),
            Message::Going { ends_in, back_in } => {
                Frame::new(GOING, &d.with("b", back_in.as_secs()).with("e", ends_in.as_secs()))
            }
            Message::Gone { peer } => Frame::new(GONE, &d.with("p", &peer.0[..])),
            Message::Ask => Frame::new(ASK, &d),
            Message::Load(l) => Frame::new(LOAD, &d.with("m", l.max).with("p", l.price).with("u", l.used)),
        }
    }

    /// Reads a frame.
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        if !Self::is_kind(frame.kind) {
            return Err(DecodeError::Unknown { what: "frame kind", number: frame.kind.into() });
        }
        let d = Dict::decode(&frame.body, BODY_BYTES_MAX)?;
        let secs = |key| Ok::<_, DecodeError>(Duration::from_secs(d.u32(key)?.into()));
        Ok(match frame.kind {
            REGISTER => Message::Register,
            REGISTERED => {
                let addr = parse_compact_addr(d.bytes("a", 18)?);
                Message::Registered(Registered {
                    session: d.array("s")?,
                    observed: addr.ok_or_else(|| DecodeError::invalid("a", "not a compact address"))?,
                    bytes_per_second: d.u64("b")?,
                    keepalive: secs("k")?,
                    lifetime: secs("l")?,
                    free: d.u32("f")?,
                })
            }
            REFUSED => {
                Message::Refused { why: Why::from_number(d.u32("c")?), words: d.text("w", WORDS_BYTES_MAX)? }
            }
            UNREGISTER => Message::Unregister,
            GOING => Message::Going { ends_in: secs("e")?, back_in: secs("b")? },
            GONE => Message::Gone { peer: PeerId(d.array("p")?) },
            ASK => Message::Ask,
            _ => Message::Load(Load { used: d.u32("u")?, max: d.u32("m")?, price: d.u32("p")? }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FrameReader;
    use proptest::prelude::*;

    fn over_the_wire(frame: &Frame) -> Frame {
        let mut reader = FrameReader::default();
        reader.push(&frame.encode());
        reader.next_frame().unwrap().unwrap()
    }

    fn all() -> Vec<Message> {
        let registered = |addr: &str| {
            Message::Registered(Registered {
                session: *b"session8",
                observed: addr.parse().unwrap(),
                bytes_per_second: 12_500_000,
                keepalive: Duration::from_secs(5),
                lifetime: Duration::from_secs(3_600),
                free: 999,
            })
        };
        vec![
            Message::Register,
            registered("203.0.113.7:30906"),
            registered("[2001:db8::7]:1"),
            Message::Refused { why: Why::Full, words: Why::Full.words().to_owned() },
            Message::Refused { why: Why::Other(77), words: String::new() },
            Message::Unregister,
            Message::Going { ends_in: Duration::from_secs(10), back_in: Duration::from_secs(60) },
            Message::Gone { peer: PeerId([7; 20]) },
            Message::Ask,
            Message::Load(Load { used: 1, max: 1_000, price: 5 }),
        ]
    }

    #[test]
    fn every_message_comes_out_of_the_wire_as_it_went_in() {
        for message in all() {
            let frame = over_the_wire(&message.to_frame());
            assert_eq!(Message::from_frame(&frame), Ok(message));
        }
    }

    #[test]
    fn each_kind_is_said_by_one_side() {
        for message in all() {
            let by_relay = match message {
                Message::Register | Message::Unregister | Message::Ask => false,
                Message::Registered(_)
                | Message::Refused { .. }
                | Message::Going { .. }
                | Message::Gone { .. }
                | Message::Load(_) => true,
            };
            assert_eq!(Message::is_from_relay(message.to_frame().kind), by_relay);
        }
        assert!(!Message::is_kind(0x2f) && !Message::is_kind(0x38));
    }

    #[test]
    fn reasons_keep_their_numbers_and_newer_ones_are_read_too() {
        for n in 0..20 {
            assert_eq!(Why::from_number(n).number(), n);
        }
        assert_eq!(Why::from_number(1), Why::Full);
    }

    #[test]
    fn what_is_missing_or_wrong_is_refused_and_newer_keys_are_ignored() {
        for message in all() {
            let frame = message.to_frame();
            let d = Dict::decode(&frame.body, BODY_BYTES_MAX).unwrap();
            let newer = Frame::new(frame.kind, &d.clone().with("zz", "newer"));
            assert_eq!(Message::from_frame(&newer).as_ref(), Ok(&message));
            for key in d.0.keys() {
                let mut without = d.clone();
                without.0.remove(key);
                assert!(Message::from_frame(&Frame::new(frame.kind, &without)).is_err());
            }
            let fat = Frame::new(frame.kind, &d.with("zz", &[0; BODY_BYTES_MAX][..]));
            assert!(Message::from_frame(&fat).is_err());
        }
        let gone = |id: &[u8]| Message::from_frame(&Frame::new(GONE, &Dict::new().with("p", id)));
        assert!(gone(&[0; 19]).is_err() && gone(&[0; 21]).is_err() && gone(&[0; 20]).is_ok());
        assert!(Message::from_frame(&Frame::new(0x38, &Dict::new())).is_err());
        let words = "x".repeat(WORDS_BYTES_MAX + 1);
        let long = Message::Refused { why: Why::Full, words };
        assert!(Message::from_frame(&long.to_frame()).is_err());
        let control = Message::Refused { why: Why::Full, words: "\u{1b}[2J".to_owned() };
        assert!(Message::from_frame(&control.to_frame()).is_err(), "words are shown to people");
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_and_what_is_read_is_written_the_same(
            body in prop::collection::vec(any::<u8>(), 0..100),
            which in 0usize..10,
            at in any::<usize>(),
            with in any::<u8>(),
        ) {
            for kind in KIND_FIRST - 1..=KIND_LAST + 1 {
                let _ = Message::from_frame(&Frame { kind, body: body.clone() });
            }
            let mut frame = all()[which].to_frame();
            let at = at % frame.body.len();
            frame.body[at] = with;
            if let Ok(read) = Message::from_frame(&frame) {
                let written = read.to_frame();
                prop_assert_eq!(Message::from_frame(&written), Ok(read));
            }
        }
    }
}
