//! Connection ids that say which connection they are of.
//!
//! A packet may come from a place nobody expected (the peer moved, its NAT forgot, a relay carries it now); its
//! destination connection id still says to which connection it belongs. The ids are ours to choose: half of one is random, the other
//! half is the connection's number behind a mask made of the random half and a secret. No table is kept, and who reads two ids
//! of a connection on the wire does not see that they belong together. The mask is not cryptography: whoever breaks it links
//! paths, and gains nothing else, because QUIC authenticates the packet.

use crate::id::ConnId;
use crate::rng::Rng;
use quinn_proto::{ConnectionId, ConnectionIdGenerator};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Length of the connection ids issued here.
const CID_BYTES: usize = 8;

/// Makes connection ids and reads them again. Shared with quinn-proto's endpoint, which asks for ids while it serves the
/// connection that [`Cids::serving`] named.
pub(super) struct Cids {
    rng: Mutex<Rng>,
    secret: u64,
    serving: AtomicU32,
}

impl Cids {
    pub(super) fn new(mut rng: Rng) -> Arc<Self> {
        let secret = rng.next_u64();
        Arc::new(Self { rng: Mutex::new(rng), secret, serving: AtomicU32::new(0) })
    }

    /// Ids asked for from now on are this connection's.
    pub(super) fn serving(&self, conn: ConnId) {
        self.serving.store(conn.0 as u32, Ordering::Relaxed);
    }

    /// The connection of which a packet says it is, by its low 32 bits; of those alive no two share them.
    pub(super) fn connection_of(&self, packet: &[u8]) -> Option<u32> {
        let first = *packet.first()?;
        let cid = if first & 0x80 == 0 {
            packet.get(1..1 + CID_BYTES)?
        } else {
            // A long header: version, then the length of the destination id.
            (*packet.get(5)? == CID_BYTES as u8).then(|| packet.get(6..6 + CID_BYTES))??
        };
        let (random, masked) = cid.split_at(4);
        let masked = u32::from_be_bytes(masked.try_into().ok()?);
        Some(masked ^ self.mask(u32::from_be_bytes(random.try_into().ok()?)))
    }

    /// A connection id of `len` random bytes, for a peer that has given none yet.
    pub(super) fn random(&self, len: usize) -> ConnectionId {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [0u8; 20];
        loop {
            rng.fill(&mut bytes[..len]);
            if !looks_like_krpc(&bytes) {
                return ConnectionId::new(&bytes[..len]);
            }
        }
    }

    fn issue(&self) -> ConnectionId {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let random: [u8; 4] = rng.bytes();
            if !looks_like_krpc(&random) {
                let masked = self.serving.load(Ordering::Relaxed) ^ self.mask(u32::from_be_bytes(random));
                let mut bytes = [0; CID_BYTES];
                bytes[..4].copy_from_slice(&random);
                bytes[4..].copy_from_slice(&masked.to_be_bytes());
                return ConnectionId::new(&bytes);
            }
        }
    }

    /// SplitMix64's finalizer.
    fn mask(&self, random: u32) -> u32 {
        let mut z = self.secret ^ u64::from(random).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}

/// `d1:` and `d2:` start KRPC messages: a short-header packet must not look like one on a shared socket.
fn looks_like_krpc(cid: &[u8]) -> bool {
    cid[1] == b':' && matches!(cid[0], b'1' | b'2')
}

/// What the endpoint holds.
pub(super) struct Issuer(pub(super) Arc<Cids>);

impl ConnectionIdGenerator for Issuer {
    fn generate_cid(&mut self) -> ConnectionId {
        self.0.issue()
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cids() -> Arc<Cids> {
        Cids::new(Rng::from_seed([7; 32]))
    }

    #[test]
    fn a_packet_says_of_which_connection_it_is_in_either_header() {
        let cids = cids();
        for conn in [0, 1, 77, u32::MAX] {
            cids.serving(ConnId(conn.into()));
            let cid = cids.issue();
            let short = [&[0x40], &cid[..], &[9; 20]].concat();
            let long = [&[0xe0, 0, 0, 0, 1, 8], &cid[..], &[9; 20]].concat();
            assert_eq!(cids.connection_of(&short), Some(conn));
            assert_eq!(cids.connection_of(&long), Some(conn));
            assert_eq!(cids.connection_of(&short[..8]), None);
            assert_eq!(cids.connection_of(&long[..13]), None);
        }
        assert_eq!(cids.connection_of(&[]), None);
        assert_eq!(cids.connection_of(&[0xc0, 0, 0, 0, 1, 20, 1, 2]), None, "a client's own choice");
    }

    #[test]
    fn two_ids_of_one_connection_share_nothing_to_the_eye() {
        let cids = cids();
        cids.serving(ConnId(5));
        let (a, b) = (cids.issue(), cids.issue());
        assert!(a[..4] != b[..4] && a[4..] != b[4..]);
    }
}
