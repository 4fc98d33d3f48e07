//! Where a peer is, by the word of a relay.
//!
//! Before many packets are aimed at the address that a peer claims, somebody else should have seen the peer there: else any peer
//! could point us at a victim. The relay between both sees both. It tells only when it is asked by the one whom it tells of, so
//! that nobody learns where a peer is by dialling it.
//!
//! | frame | body | from |
//! |---|---|---|
//! | `0x3d` tell | `p` peer id: tell that peer where you see me | an end |
//! | `0x3e` at | `a` IP address (4 or 16 bytes), `p` peer id: that peer's packets come from there | the relay |

use crate::codec::{DecodeError, Dict, Frame};
use crate::id::PeerId;
use crate::meter::Meter;
use crate::time::Duration;
use std::net::IpAddr;

/// Frame kind of the request.
pub const KIND_TELL: u8 = 0x3d;
/// Frame kind of what is told.
pub const KIND_AT: u8 = 0x3e;
/// Tells of one end in a minute, and ends remembered for that: more than a relay has sessions.
const PER_MINUTE: (usize, usize) = (60, 2_048);
/// Bytes of either body, with room for newer keys.
const BODY_BYTES_MAX: usize = 256;

/// Counts the tells of each end.
pub const fn meter() -> Meter {
    Meter::new(PER_MINUTE.0, Duration::from_secs(60), PER_MINUTE.1)
}

/// Tell this peer where you see me.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tell {
    /// Whom to tell.
    pub peer: PeerId,
}

/// That peer's packets come from this address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At {
    /// Who.
    pub peer: PeerId,
    /// Where.
    pub ip: IpAddr,
}

impl Tell {
    /// The frame on the wire.
    pub fn to_frame(&self) -> Frame {
        Frame::new(KIND_TELL, &Dict::new().with("p", &self.peer.0[..]))
    }

    /// Reads a frame of kind [`KIND_TELL`].
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        Ok(Self { peer: PeerId(frame.dict(KIND_TELL, BODY_BYTES_MAX)?.array("p")?) })
    }
}

impl At {
    /// The frame on the wire.
    pub fn to_frame(&self) -> Frame {
        let ip = match self.ip.to_canonical() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        Frame::new(KIND_AT, &Dict::new().with("a", &ip[..]).with("p", &self.peer.0[..]))
    }

    /// Reads a frame of kind [`KIND_AT`].
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        let d = frame.dict(KIND_AT, BODY_BYTES_MAX)?;
        let bytes = d.bytes("a", 16)?;
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        let ip = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
        let ip = ip.map_err(|_| DecodeError::invalid("a", "neither 4 nor 16 bytes"))?;
        if ip != ip.to_canonical() {
            return Err(DecodeError::invalid("a", "IPv4 dressed as IPv6"));
        }
        Ok(Self { peer: PeerId(d.array("p")?), ip })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_come_out_of_the_wire_as_they_went_in_and_nothing_else_does() {
        let peer = PeerId([7; 20]);
        let tell = Tell { peer };
        assert_eq!(Tell::from_frame(&tell.to_frame()), Ok(tell));
        assert!(At::from_frame(&tell.to_frame()).is_err());
        for ip in ["203.0.113.7", "2001:db8::7"] {
            let at = At { peer, ip: ip.parse().unwrap() };
            assert_eq!(At::from_frame(&at.to_frame()), Ok(at));
        }
        let dressed: std::net::Ipv6Addr = "::ffff:203.0.113.7".parse().unwrap();
        for bytes in [vec![1; 3], vec![1; 5], vec![], dressed.octets().to_vec()] {
            let d = Dict::new().with("a", &bytes[..]).with("p", &peer.0[..]);
            assert!(At::from_frame(&Frame::new(KIND_AT, &d)).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..100)) {
            for kind in [KIND_TELL, KIND_AT] {
                let frame = Frame { kind, body: body.clone() };
                let _ = (Tell::from_frame(&frame), At::from_frame(&frame));
            }
        }
    }
}
