//! A second protocol on the node's socket: KRPC, the DHT's.
//!
//! On one socket the DHT's `ip` votes and `implied_port` speak of the very mapping that QUIC has, its traffic keeps that
//! mapping alive, and a firewall needs one rule. What arrives has to be told apart by its first bytes, and both begin
//! alike: KRPC with `d` (0x64), which has QUIC's fixed bit and looks like a packet with a short header. But the bytes
//! after the first one of such a packet are a connection id that the receiver has issued, and our transport issues none
//! that begins with `1:` or `2:`. KRPC messages are dictionaries whose keys have one letter, or two (`ip`, `ro`), so each
//! begins with `d1:` or `d2:`. That makes the rule exact: nothing that is for QUIC here begins so.

use crate::event::Datagram;

/// Takes what arrives on the node's socket for the DHT. Must not wait; what it cannot take is lost, as datagrams are.
pub type Aside = Box<dyn FnMut(Datagram) + Send>;

/// Whether a datagram is the DHT's and not the node's.
pub fn is_krpc(datagram: &[u8]) -> bool {
    matches!(datagram, [b'd', b'1' | b'2', b':', ..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::krpc::message::{Ask, ErrorCode, Outgoing, write_error, write_query};
    use crate::id::DhtId;

    #[test]
    fn what_the_dht_says_is_the_dht_s() {
        let id = DhtId([0xff; 20]);
        for read_only in [false, true] {
            let query = write_query(7, &Outgoing { id, read_only, want_both: true, ask: Ask::FindNode(id) });
            assert!(is_krpc(&query));
        }
        assert!(is_krpc(&write_error(b"aa", ErrorCode::Protocol)));
        assert!(is_krpc(b"d2:ip6:aaaabb1:rd2:id20:aaaaaaaaaaaaaaaaaaaae1:t2:aa1:y1:re"));
    }

    #[test]
    fn long_headers_short_ones_and_noise_are_quic_s() {
        for first in 0x80..=0xffu8 {
            assert!(!is_krpc(&[first, b'1', b':', 0, 0]));
        }
        assert!(!is_krpc(b"d3:abc") && !is_krpc(b"d1") && !is_krpc(b"") && !is_krpc(b"e1:"));
        assert!(!is_krpc(&[b'd', 0x31, 0x3b]), "a connection id that only begins alike");
    }
}
