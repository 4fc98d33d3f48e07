//! Asking those who are connected where somebody is.
//!
//! The DHT is where a key's address is found, and who sits around a key there can keep its record from everybody. But
//! somebody whom we know has mostly met the peer, or was told of it. So when a *wanted* peer has no record, its seeker
//! asks each of its connected peers once, and who knows an address answers.
//!
//! | frame | body |
//! |---|---|
//! | `0x04` seek | `k` public key of who is sought |
//! | `0x05` seen | `a` address (compact) where it may be, `k` public key of who was sought |
//!
//! Both are hearsay and commit to nothing. Who is asked does not ask on, so a seek costs each peer of the seeker one
//! frame; who knows nothing, or nothing to tell this asker, says nothing. What is told follows the rules of known peers
//! ([`super::book::Book::where_is`]). What becomes of an answer is the cascade's business: TLS proves who is there.

use crate::codec::{DecodeError, Dict, Frame, compact_addr, parse_compact_addr};
use crate::id::PublicKey;
use crate::meter::Meter;
use crate::time::Duration;
use std::net::SocketAddr;

/// Frame kind of a seek.
pub const KIND_SEEK: u8 = 0x04;
/// Frame kind of its answer.
pub const KIND_SEEN: u8 = 0x05;
/// Seeks of one asker heard in one [`WINDOW`].
pub const SEEKS_PER_ASKER: usize = 60;
/// The window.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Askers remembered, more than a node has connections; when all asked within the window, further ones are not heard.
pub const ASKERS_MAX: usize = 256;
/// Bytes of either body: below 80, and room for newer keys.
const BODY_BYTES_MAX: usize = 512;

/// Where is this peer?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seek {
    /// Who is sought.
    pub key: PublicKey,
}

/// It may be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Who was sought.
    pub key: PublicKey,
    /// Where it may be.
    pub addr: SocketAddr,
}

impl Seek {
    /// The frame on the wire.
    pub fn to_frame(&self) -> Frame {
        Frame::new(KIND_SEEK, &Dict::new().with("k", &self.key))
    }

    /// Reads a frame of kind [`KIND_SEEK`].
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        Ok(Self { key: frame.dict(KIND_SEEK, BODY_BYTES_MAX)?.key("k")? })
    }
}

impl Seen {
    /// The frame on the wire.
    pub fn to_frame(&self) -> Frame {
        let addr = compact_addr(self.addr);
        Frame::new(KIND_SEEN, &Dict::new().with("a", &addr[..]).with("k", &self.key))
    }

    /// Reads a frame of kind [`KIND_SEEN`].
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        let d = frame.dict(KIND_SEEN, BODY_BYTES_MAX)?;
        let addr = parse_compact_addr(d.bytes("a", 18)?);
        let addr = addr.ok_or_else(|| DecodeError::invalid("a", "not a compact address"))?;
        Ok(Self { key: d.key("k")?, addr })
    }
}

/// Counts the seeks of each asker.
pub const fn meter() -> Meter {
    Meter::new(SEEKS_PER_ASKER, WINDOW, ASKERS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FrameReader;
    use crate::id::Keypair;
    use proptest::prelude::*;

    fn key(n: u32) -> PublicKey {
        Keypair::from_seed(&crate::rng::derive_seed(&[0; 32], &n.to_string())).public()
    }

    fn over_the_wire(frame: &Frame) -> Frame {
        let mut reader = FrameReader::default();
        reader.push(&frame.encode());
        reader.next_frame().unwrap().unwrap()
    }

    #[test]
    fn both_messages_come_out_of_the_wire_as_they_went_in() {
        let seek = Seek { key: key(1) };
        let frame = over_the_wire(&seek.to_frame());
        assert_eq!((Seek::from_frame(&frame), Seen::from_frame(&frame).is_err()), (Ok(seek), true));
        for addr in ["203.0.113.7:30906", "[2001:db8::7]:1"] {
            let seen = Seen { key: key(1), addr: addr.parse().unwrap() };
            let frame = over_the_wire(&seen.to_frame());
            assert_eq!((Seen::from_frame(&frame), Seek::from_frame(&frame).is_err()), (Ok(seen), true));
        }
    }

    #[test]
    fn what_is_no_key_or_no_address_is_not_read_and_newer_keys_are_ignored() {
        let seek = |d: Dict| Seek::from_frame(&Frame::new(KIND_SEEK, &d));
        let seen = |d: Dict| Seen::from_frame(&Frame::new(KIND_SEEN, &d));
        let good = Dict::new().with("a", &[203, 0, 113, 7, 0, 9][..]).with("k", &key(1));
        assert!(seen(good.clone().with("zz", "newer")).is_ok());
        assert!(seek(Dict::new()).is_err());
        let no_key = (0..=255).map(|n| [n; 32]).find(|b| PublicKey::from_slice(b).is_err()).unwrap();
        assert!(seek(Dict::new().with("k", &no_key[..])).is_err());
        assert!(seek(Dict::new().with("k", &key(1).as_bytes()[..31])).is_err());
        assert!(seen(Dict::new().with("k", &key(1))).is_err());
        for len in [0, 5, 7, 17, 19] {
            let bad = Dict::new().with("a", &vec![1; len][..]).with("k", &key(1));
            assert!(seen(bad).is_err(), "{len} bytes");
        }
        let fat = good.with("zz", &[0; BODY_BYTES_MAX][..]);
        assert!(seen(fat).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_and_what_is_read_is_written_the_same(
            body in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<usize>(),
            with in any::<u8>(),
        ) {
            for kind in [KIND_SEEK, KIND_SEEN] {
                let frame = Frame { kind, body: body.clone() };
                let _ = (Seek::from_frame(&frame), Seen::from_frame(&frame));
            }
            let seen = Seen { key: key(1), addr: ([203, 0, 113, 7], 9).into() };
            let mut frame = seen.to_frame();
            let at = at % frame.body.len();
            frame.body[at] = with;
            if let Ok(read) = Seen::from_frame(&frame) {
                prop_assert_eq!(read.to_frame(), frame);
            }
        }
    }
}
