//! Node ids: distance, and the part of an id that its address dictates (BEP 42).
//!
//! Whoever may choose an id freely can sit beside any target and be its only holder. BEP 42 takes the first 21 bits from
//! a CRC32-C of the node's external address (masked, so that a provider's block of addresses does not yield the whole
//! space) and three random bits. Others with other ids are served all the same; they are second choice in tables, and
//! as holders of what we store. Addresses of private networks mean nothing outside and are exempt.

use crate::dht::endpoint::{Scope, scope};
use crate::id::DhtId;
use crate::rng::Rng;
use std::net::{IpAddr, SocketAddr};

/// The XOR distance of two ids; arrays compare as numbers.
pub fn distance(a: &DhtId, b: &DhtId) -> [u8; 20] {
    std::array::from_fn(|i| a.0[i] ^ b.0[i])
}

/// How many leading bits two ids share: 0 to 160.
pub fn shared_bits(a: &DhtId, b: &DhtId) -> usize {
    let mut bits = 0;
    for byte in distance(a, b) {
        bits += byte.leading_zeros() as usize;
        if byte != 0 {
            break;
        }
    }
    bits
}

/// An id at random.
pub fn random(rng: &mut Rng) -> DhtId {
    DhtId(rng.bytes())
}

/// An id at random that shares exactly `bits` leading bits with `own`: somewhere in that bucket.
pub fn random_in_bucket(own: &DhtId, bits: usize, rng: &mut Rng) -> DhtId {
    let mut id = random(rng);
    for (i, (byte, own)) in id.0.iter_mut().zip(own.0).enumerate() {
        let kept = bits.saturating_sub(8 * i).min(8) as u32;
        let mask = 0xffu8.checked_shl(8 - kept).unwrap_or(0);
        let mask = if kept == 0 { 0 } else { mask };
        *byte = (own & mask) | (*byte & !mask);
        if bits / 8 == i {
            let bit = 0x80 >> (bits % 8);
            *byte = (*byte & !bit) | (!own & bit);
        }
    }
    id
}

/// An id that fits `ip`, the rest at random.
pub fn for_address(ip: IpAddr, rng: &mut Rng) -> DhtId {
    let mut id = random(rng);
    let crc = prefix(ip, id.0[19]).to_be_bytes();
    id.0[0] = crc[0];
    id.0[1] = crc[1];
    id.0[2] = (crc[2] & 0xf8) | (id.0[2] & 0x07);
    id
}

/// Whether `id` may be used at `addr`: it fits, or the address is exempt.
pub fn fits(id: &DhtId, addr: SocketAddr) -> bool {
    match scope(addr) {
        Scope::Private | Scope::Loopback => true,
        Scope::Public | Scope::Never => {
            let crc = prefix(addr.ip(), id.0[19]).to_be_bytes();
            id.0[0] == crc[0] && id.0[1] == crc[1] && (id.0[2] ^ crc[2]) & 0xf8 == 0
        }
    }
}

/// The CRC whose first 21 bits an id at `ip` begins with, for the id's last byte.
fn prefix(ip: IpAddr, last: u8) -> u32 {
    const MASK_4: [u8; 4] = [0x03, 0x0f, 0x3f, 0xff];
    const MASK_6: [u8; 8] = [0x01, 0x03, 0x07, 0x0f, 0x1f, 0x3f, 0x7f, 0xff];
    let r = (last & 0x7) << 5;
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let octets = ip.octets();
            let mut masked: [u8; 4] = std::array::from_fn(|i| octets[i] & MASK_4[i]);
            masked[0] |= r;
            crc32c(&masked)
        }
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let mut masked: [u8; 8] = std::array::from_fn(|i| octets[i] & MASK_6[i]);
            masked[0] |= r;
            crc32c(&masked)
        }
    }
}

/// CRC-32C (Castagnoli), reflected, bit by bit: it sees eight bytes at most.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_vectors_of_bep_42_fit() {
        let vectors = [
            ("124.31.75.21", "5fbfbff10c5d6a4ec8a88e4c6ab4c28b95eee401"),
            ("21.75.31.124", "5a3ce9c14e7a08645677bbd1cfe7d8f956d53256"),
            ("65.23.51.170", "a5d43220bc8f112a3d426c84764f8c2a1150e616"),
            ("84.124.73.14", "1b0321dd1bb1fe518101ceef99462b947a01ff41"),
            ("43.213.53.83", "e56f6cbf5b7c4be0237986d5243b87aa6d51305a"),
        ];
        for (ip, id) in vectors {
            let (addr, id) = (SocketAddr::new(ip.parse().unwrap(), 1), id.parse::<DhtId>().unwrap());
            assert!(fits(&id, addr), "{ip}");
            let mut moved = id;
            moved.0[2] ^= 0x08;
            assert!(!fits(&moved, addr), "bit 21 counts");
            moved.0[2] ^= 0x0c;
            assert!(fits(&moved, addr), "bit 22 does not");
        }
        let v6 = prefix("2001:db8::1".parse().unwrap(), 1);
        assert_eq!(v6, 0x7189_ac24);
    }

    #[test]
    fn private_addresses_are_exempt() {
        for addr in ["10.1.1.1:1", "127.0.0.1:1", "192.168.1.1:1", "169.254.0.1:1", "[::1]:1", "[fd00::1]:1"]
        {
            assert!(fits(&DhtId([7; 20]), addr.parse().unwrap()), "{addr}");
        }
    }

    proptest! {
        #[test]
        fn an_id_made_for_an_address_fits_it(ip: [u8; 4], ip6: [u8; 16], seed: [u8; 32]) {
            let mut rng = Rng::from_seed(seed);
            for ip in [IpAddr::from(ip), IpAddr::from(ip6)] {
                prop_assert!(fits(&for_address(ip, &mut rng), SocketAddr::new(ip, 0)));
            }
        }

        #[test]
        fn an_id_drawn_for_a_bucket_lies_in_it(own: [u8; 20], bits in 0usize..160, seed: [u8; 32]) {
            let own = DhtId(own);
            let id = random_in_bucket(&own, bits, &mut Rng::from_seed(seed));
            prop_assert_eq!(shared_bits(&own, &id), bits);
        }
    }
}
