//! What two peers tell each other to punch: four frames on the control stream of their relayed connection, which is
//! encrypted end to end, so that no relay can read, forge or move them.
//!
//! | frame | body |
//! |---|---|
//! | `0x38` connect | `a` list of candidates (compact), best first; `b` behaviour; `n` nonce 8 B; `t` attempt; `y` 1: takes part in birthday probing |
//! | `0x39` answer | `a`, `b`, `n`, `y` alike; the nonce is that of the connect |
//! | `0x3a` sync | `n` |
//! | `0x3b` decline | `n`; `w` seconds after which to ask again |

use crate::codec::{DecodeError, Dict, Frame, Value, compact_addr, parse_compact_addr};
use crate::path::behaviour::Behaviour;
use crate::time::Duration;
use std::net::SocketAddr;

/// Frame kind of a connect.
pub const KIND_CONNECT: u8 = 0x38;
/// Frame kind of its answer.
pub const KIND_ANSWER: u8 = 0x39;
/// Frame kind of a sync.
pub const KIND_SYNC: u8 = 0x3a;
/// Frame kind of a decline.
pub const KIND_DECLINE: u8 = 0x3b;
/// Candidates told and probed: a host of two families, a few interfaces and a mapped port has eight.
pub const CANDIDATES_MAX: usize = 16;
/// Longest wait that a decline may ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(600);
/// Bytes of any body: 16 candidates of 21 bytes and a behaviour are below 600, and room for newer keys.
const BODY_BYTES_MAX: usize = 1_024;

/// Names an attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Nonce(pub [u8; 8]);

/// What one side has to be reached by.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Offer {
    /// Where it may be, best first; at most [`CANDIDATES_MAX`].
    pub candidates: Vec<SocketAddr>,
    /// What its NAT does.
    pub behaviour: Behaviour,
    /// Whether it takes part in birthday probing.
    pub birthday: bool,
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Let us try. The sender times the answer.
    Connect {
        /// Names the attempt.
        nonce: Nonce,
        /// Which attempt in a row, from 1.
        attempt: u32,
        /// The sender's offer.
        offer: Offer,
    },
    /// Yes.
    Answer {
        /// That of the connect.
        nonce: Nonce,
        /// The sender's offer.
        offer: Offer,
    },
    /// Fire at once; the sender fires when this has arrived.
    Sync {
        /// That of the connect.
        nonce: Nonce,
    },
    /// Not now.
    Decline {
        /// That of the connect.
        nonce: Nonce,
        /// When to ask again.
        wait: Duration,
    },
}

impl Message {
    /// The frame on the wire.
    pub fn to_frame(&self) -> Frame {
        let with = |nonce: &Nonce| Dict::new().with("n", &nonce.0[..]);
        match self {
            Message::Connect { nonce, attempt, offer } => {
                Frame::new(KIND_CONNECT, &offer.put(with(nonce)).with("t", *attempt))
            }
            Message::Answer { nonce, offer } => Frame::new(KIND_ANSWER, &offer.put(with(nonce))),
            Message::Sync { nonce } => Frame::new(KIND_SYNC, &with(nonce)),
            Message::Decline { nonce, wait } => {
                Frame::new(KIND_DECLINE, &with(nonce).with("w", wait.as_secs()))
            }
        }
    }

    /// Reads a frame of the four kinds.
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        if !(KIND_CONNECT..=KIND_DECLINE).contains(&frame.kind) {
            return Err(DecodeError::Unknown { what: "frame kind", number: frame.kind.into() });
        }
        let d = Dict::decode(&frame.body, BODY_BYTES_MAX)?;
        let nonce = Nonce(d.array("n")?);
        Ok(match frame.kind {
            KIND_CONNECT => {
                let attempt = d.u32("t")?;
                if attempt == 0 {
                    return Err(DecodeError::invalid("t", "attempts count from 1"));
                }
                Message::Connect { nonce, attempt, offer: Offer::take(&d)? }
            }
            KIND_ANSWER => Message::Answer { nonce, offer: Offer::take(&d)? },
            KIND_SYNC => Message::Sync { nonce },
            _ => {
                let wait = Duration::from_secs(d.u64("w")?);
                if wait > WAIT_MAX {
                    return Err(DecodeError::invalid("w", "longer than ten minutes"));
                }
                Message::Decline { nonce, wait }
            }
        })
    }
}

impl Offer {
    /// Whether two offers give the same chances: the same candidates in any order, behind a like NAT.
    pub fn is_like(&self, other: &Offer) -> bool {
        let sorted = |offer: &Offer| {
            let mut candidates = offer.candidates.clone();
            candidates.sort();
            candidates
        };
        self.behaviour.is_like(&other.behaviour) && sorted(self) == sorted(other)
    }

    fn put(&self, d: Dict) -> Dict {
        let candidates = self.candidates.iter().take(CANDIDATES_MAX).map(|a| Value::Bytes(compact_addr(*a)));
        d.with("a", candidates.collect::<Vec<_>>())
            .with("b", self.behaviour.to_dict())
            .with("y", u64::from(self.birthday))
    }

    fn take(d: &Dict) -> Result<Self, DecodeError> {
        let candidates: Option<Vec<SocketAddr>> =
            d.list("a", CANDIDATES_MAX)?.iter().map(|v| v.as_bytes().and_then(parse_compact_addr)).collect();
        Ok(Self {
            candidates: candidates.ok_or_else(|| DecodeError::invalid("a", "not compact addresses"))?,
            behaviour: Behaviour::from_dict(d.dict("b")?)?,
            birthday: d.flag("y")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FrameReader;
    use proptest::prelude::*;

    fn over_the_wire(message: &Message) -> Result<Message, DecodeError> {
        let mut reader = FrameReader::default();
        reader.push(&message.to_frame().encode());
        Message::from_frame(&reader.next_frame().unwrap().unwrap())
    }

    fn arb_message() -> impl Strategy<Value = Message> {
        let v4 = (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from);
        let v6 = (any::<[u8; 15]>(), any::<u16>()).prop_map(|(rest, port)| {
            let mut ip = [0x20; 16];
            ip[1..].copy_from_slice(&rest);
            SocketAddr::from((ip, port))
        });
        let candidates = prop::collection::vec(prop_oneof![v4, v6], 0..=CANDIDATES_MAX);
        (0..4u8, any::<[u8; 8]>(), 1..=u32::MAX, candidates, any::<bool>(), 0..=600u64).prop_map(
            |(kind, nonce, attempt, candidates, birthday, secs)| {
                let nonce = Nonce(nonce);
                let behaviour = Behaviour { open: birthday, ..Behaviour::default() };
                let offer = Offer { candidates, behaviour, birthday };
                match kind {
                    0 => Message::Connect { nonce, attempt, offer },
                    1 => Message::Answer { nonce, offer },
                    2 => Message::Sync { nonce },
                    _ => Message::Decline { nonce, wait: Duration::from_secs(secs) },
                }
            },
        )
    }

    fn connect() -> Dict {
        let offer = Offer { candidates: vec![([203, 0, 113, 7], 9).into()], ..Offer::default() };
        let message = Message::Connect { nonce: Nonce([1; 8]), attempt: 1, offer };
        Dict::decode(&message.to_frame().body, BODY_BYTES_MAX).unwrap()
    }

    #[test]
    fn newer_keys_are_ignored_and_nonsense_is_refused() {
        let read = |d: Dict| Message::from_frame(&Frame::new(KIND_CONNECT, &d));
        assert!(read(connect().with("zz", "newer")).is_ok());
        let without = |key: &[u8]| {
            let mut d = connect();
            d.0.remove(key);
            d
        };
        for key in [b"a", b"b", b"n", b"t", b"y"] {
            assert!(read(without(key)).is_err(), "{key:?}");
        }
        let many = |n| Value::List(vec![Value::Bytes(vec![1; 6]); n]);
        assert!(read(connect().with("a", many(CANDIDATES_MAX))).is_ok());
        assert!(read(connect().with("a", many(CANDIDATES_MAX + 1))).is_err());
        assert!(read(connect().with("a", vec![Value::Bytes(vec![1; 7])])).is_err());
        assert!(read(connect().with("t", 0u64)).is_err());
        assert!(read(connect().with("y", 2u64)).is_err());
        assert!(read(connect().with("zz", &[0; BODY_BYTES_MAX][..])).is_err());
        let far = Dict::new().with("n", &[1; 8][..]).with("w", 601u64);
        assert!(Message::from_frame(&Frame::new(KIND_DECLINE, &far)).is_err());
        assert!(Message::from_frame(&Frame::new(0x37, &connect())).is_err());
    }

    proptest! {
        #[test]
        fn every_message_comes_out_of_the_wire_as_it_went_in(message in arb_message()) {
            prop_assert_eq!(over_the_wire(&message), Ok(message));
        }

        #[test]
        fn hostile_bytes_never_panic_and_what_is_read_is_written_the_same(
            message in arb_message(),
            body in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<usize>(),
            with in any::<u8>(),
        ) {
            for kind in KIND_CONNECT - 1..=KIND_DECLINE + 1 {
                let _ = Message::from_frame(&Frame { kind, body: body.clone() });
            }
            let mut frame = message.to_frame();
            let at = at % frame.body.len();
            frame.body[at] = with;
            if let Ok(read) = Message::from_frame(&frame) {
                let again = Message::from_frame(&read.to_frame());
                prop_assert_eq!(again, Ok(read));
            }
        }
    }
}
