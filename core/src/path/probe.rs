//! Probes: small authenticated datagrams that prove an address before packets go there.
//!
//! QUIC believes that its peer sits at one stable address, so it never asks whether the peer receives at the address that
//! packets really go to. Without that question whoever forges a source address, or names somebody else's in a hint, turns a
//! transfer on its victim. A probe asks it: a *ping* carries a random nonce, and only who received it there can send the *pong*.
//!
//! Probes travel on the socket of QUIC, because a NAT keeps its mapping for that socket only. They are told apart by their
//! first byte: QUIC's second bit is always set, STUN begins with 0x00 or 0x01.
//!
//! | offset | length | ping | pong |
//! |---|---|---|---|
//! | 0 | 1 | 0x32 | 0x32 |
//! | 1 | 1 | 0x01 | 0x02 |
//! | 2 | 8 | tag | tag |
//! | 10 | 8 | nonce | nonce of the ping |
//! | 18 | 4 | count, big-endian | length of the address, 6 or 18; the address begins at 19 |
//! | 22 | 1 | flags | address |
//! | 23 | 25 | zeros | address, then zeros |
//! | 48 | 16 | MAC | MAC |
//!
//! A *full* ping has 1,200 bytes: zeros up to offset 1,184, then the MAC. It proves that the address carries the packets that
//! QUIC sends from the start. A pong is always 64 bytes and thus never more than what it answers, so nothing is amplified.
//!
//! Both ends have a secret of the connection (a TLS exporter). Each direction has its own key and tag, by which end has the lower
//! public key: a probe that is thrown back at its sender is nobody's. The tag names the connection without an address, since the
//! address is what is in question. The count goes up with each ping of a connection, so that a recorded ping cannot be played
//! again to make this node talk to somebody: see [`Replays`].

use crate::codec::{compact_addr, parse_compact_addr};
use crate::id::PublicKey;
use crate::rng::derive_seed;
use bytes::Bytes;
use std::fmt;
use std::net::SocketAddr;
use thiserror::Error;

/// The first byte of every probe.
pub const FIRST_BYTE: u8 = 0x32;
/// Bytes of a pong and of an ordinary ping.
pub const PROBE_BYTES: usize = 64;
/// Bytes of a full ping: what QUIC sends from the start, and every address must carry.
pub const FULL_BYTES: usize = 1_200;

const KIND_PING: u8 = 0x01;
const KIND_PONG: u8 = 0x02;
const MAC_BYTES: usize = 16;
const TAG_AT: usize = 2;
const NONCE_AT: usize = 10;
const BODY_AT: usize = 18;
const FLAGS_AT: usize = 22;
const ADDR_AT: usize = 19;

/// Of a ping: its sender uses this address and is not answered. Who is asked so asks back, because perhaps only its answers are lost.
pub const FLAG_SILENT: u8 = 0x01;

/// Names a connection and a direction of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tag(pub [u8; 8]);

/// What a probe says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Are you there?
    Ping {
        /// Random: nobody can answer without having received it.
        nonce: [u8; 8],
        /// The number of this ping among those of its sender on this connection.
        count: u32,
        /// [`FLAG_SILENT`] or nothing. Others are ignored.
        flags: u8,
        /// Whether it has 1,200 bytes.
        full: bool,
    },
    /// I am.
    Pong {
        /// That of the ping.
        nonce: [u8; 8],
        /// Where the ping came from, as the peer sees it.
        observed: SocketAddr,
    },
}

/// What is wrong with a datagram that begins like a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ProbeFault {
    /// Neither 64 nor 1,200 bytes, or another first byte.
    #[error("malformed probe")]
    Malformed,
    /// The MAC is not of this key.
    #[error("forged probe")]
    Forged,
}

impl ProbeFault {
    /// The word under which it is counted.
    pub const fn reason(self) -> &'static str {
        match self {
            ProbeFault::Malformed => "malformed probe",
            ProbeFault::Forged => "forged probe",
        }
    }
}

/// The keys of one end of a connection.
#[derive(Clone, PartialEq, Eq)]
pub struct ProbeKeys {
    send: Key,
    receive: Key,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    tag: Tag,
    mac: [u8; 32],
}

impl fmt::Debug for ProbeKeys {
    /// The keys are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeKeys").field("receive", &self.receive.tag).finish_non_exhaustive()
    }
}

impl Key {
    fn derive(secret: &[u8; 32], sender: &str) -> Self {
        let named = derive_seed(secret, &format!("path probe tag {sender}"));
        let mut tag = [0; 8];
        tag.copy_from_slice(&named[..8]);
        Self { tag: Tag(tag), mac: derive_seed(secret, &format!("path probe mac {sender}")) }
    }

    fn mac_of(&self, covered: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&blake3::keyed_hash(&self.mac, covered).as_bytes()[..MAC_BYTES]);
        mac
    }
}

impl ProbeKeys {
    /// The keys of `us` for the connection with `peer` whose secret this is.
    pub fn derive(secret: &[u8; 32], us: &PublicKey, peer: &PublicKey) -> Self {
        let (lower, higher) = (Key::derive(secret, "lower"), Key::derive(secret, "higher"));
        if us <= peer { Self { send: lower, receive: higher } } else { Self { send: higher, receive: lower } }
    }

    /// The tag of probes that arrive on this connection.
    pub const fn tag(&self) -> Tag {
        self.receive.tag
    }

    /// The datagram.
    pub fn seal(&self, probe: &Probe) -> Bytes {
        let mut out = vec![0; probe.len()];
        out[0] = FIRST_BYTE;
        out[TAG_AT..NONCE_AT].copy_from_slice(&self.send.tag.0);
        match probe {
            Probe::Ping { nonce, count, flags, full: _ } => {
                out[1] = KIND_PING;
                out[NONCE_AT..BODY_AT].copy_from_slice(nonce);
                out[BODY_AT..FLAGS_AT].copy_from_slice(&count.to_be_bytes());
                out[FLAGS_AT] = *flags;
            }
            Probe::Pong { nonce, observed } => {
                out[1] = KIND_PONG;
                out[NONCE_AT..BODY_AT].copy_from_slice(nonce);
                let addr = compact_addr(*observed);
                out[BODY_AT] = addr.len() as u8;
                out[ADDR_AT..ADDR_AT + addr.len()].copy_from_slice(&addr);
            }
        }
        let covered = out.len() - MAC_BYTES;
        let mac = self.send.mac_of(&out[..covered]);
        out[covered..].copy_from_slice(&mac);
        out.into()
    }

    /// Reads a datagram whose [`Tag`] is ours.
    pub fn open(&self, bytes: &[u8]) -> Result<Probe, ProbeFault> {
        if tag_of(bytes) != Some(self.receive.tag) {
            return Err(ProbeFault::Malformed);
        }
        let (covered, mac) = bytes.split_at(bytes.len() - MAC_BYTES);
        if !equal(&self.receive.mac_of(covered), mac) {
            return Err(ProbeFault::Forged);
        }
        read(covered, bytes.len() == FULL_BYTES).ok_or(ProbeFault::Malformed)
    }
}

impl Probe {
    const fn len(&self) -> usize {
        match self {
            Probe::Ping { full: true, .. } => FULL_BYTES,
            Probe::Ping { full: false, .. } | Probe::Pong { .. } => PROBE_BYTES,
        }
    }
}

/// The tag of a datagram, if it may be a probe at all.
pub fn tag_of(bytes: &[u8]) -> Option<Tag> {
    let sized = bytes.len() == PROBE_BYTES || bytes.len() == FULL_BYTES;
    if !sized || bytes[0] != FIRST_BYTE {
        return None;
    }
    bytes[TAG_AT..NONCE_AT].try_into().ok().map(Tag)
}

/// In constant time: how much of a forged MAC is right must not be measurable. `blake3::Hash` compares so.
fn equal(ours: &[u8; MAC_BYTES], theirs: &[u8]) -> bool {
    let padded = |mac: &[u8]| {
        let mut hash = [0; 32];
        hash.get_mut(..mac.len()).map(|room| room.copy_from_slice(mac))?;
        Some(blake3::Hash::from_bytes(hash))
    };
    theirs.len() == MAC_BYTES && padded(ours) == padded(theirs)
}

/// Reads what the MAC covers. Zeros must be zeros: a probe has one form.
fn read(covered: &[u8], full: bool) -> Option<Probe> {
    let nonce = covered.get(NONCE_AT..BODY_AT)?.try_into().ok()?;
    let (probe, rest) = match *covered.get(1)? {
        KIND_PING => {
            let count = u32::from_be_bytes(covered.get(BODY_AT..FLAGS_AT)?.try_into().ok()?);
            (Probe::Ping { nonce, count, flags: *covered.get(FLAGS_AT)?, full }, FLAGS_AT + 1)
        }
        KIND_PONG if !full => {
            let end = ADDR_AT + usize::from(*covered.get(BODY_AT)?);
            let observed = parse_compact_addr(covered.get(ADDR_AT..end)?)?;
            (Probe::Pong { nonce, observed }, end)
        }
        _ => return None,
    };
    covered.get(rest..)?.iter().all(|b| *b == 0).then_some(probe)
}

/// Which counts of the peer's pings were seen, the highest and the [`Replays::WINDOW`] below it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replays {
    highest: u32,
    seen: u128,
}

impl Replays {
    /// Pings that may overtake each other: those of one connection go over several ways of different length.
    pub const WINDOW: u32 = u128::BITS;

    /// Whether this count is new. It is not a second time.
    pub fn is_new(&mut self, count: u32) -> bool {
        if self.seen == 0 || count > self.highest {
            let ahead = count.saturating_sub(self.highest);
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = count;
            return true;
        }
        let behind = self.highest - count;
        let Some(bit) = 1u128.checked_shl(behind) else { return false };
        let new = self.seen & bit == 0;
        self.seen |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Keypair;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn pair(secret: u8) -> (ProbeKeys, ProbeKeys) {
        let (a, b) = (Keypair::from_seed(&[1; 32]).public(), Keypair::from_seed(&[2; 32]).public());
        (ProbeKeys::derive(&[secret; 32], &a, &b), ProbeKeys::derive(&[secret; 32], &b, &a))
    }

    fn ping(full: bool) -> Probe {
        Probe::Ping { nonce: *b"01234567", count: 7, flags: 0, full }
    }

    fn pong(addr: &str) -> Probe {
        Probe::Pong { nonce: *b"01234567", observed: addr.parse().unwrap() }
    }

    fn arb_probe() -> impl Strategy<Value = Probe> {
        let addr = prop_oneof![
            any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
            any::<([u16; 8], u16)>()
                .prop_map(|(mut ip, port)| {
                    ip[0] |= 0x2000;
                    SocketAddr::from((ip, port))
                })
                .boxed(),
        ];
        prop_oneof![
            any::<([u8; 8], u32, u8, bool)>().prop_map(|(nonce, count, flags, full)| Probe::Ping {
                nonce,
                count,
                flags,
                full
            }),
            (any::<[u8; 8]>(), addr).prop_map(|(nonce, observed)| Probe::Pong { nonce, observed }),
        ]
    }

    #[test]
    fn a_pong_is_never_more_than_its_ping() {
        let (a, b) = pair(9);
        assert_eq!(a.seal(&ping(false)).len(), PROBE_BYTES);
        assert_eq!(a.seal(&ping(true)).len(), FULL_BYTES);
        for addr in ["203.0.113.7:9", "[2001:db8::7]:9"] {
            assert_eq!(b.seal(&pong(addr)).len(), PROBE_BYTES);
        }
    }

    #[test]
    fn no_probe_looks_like_quic_or_stun() {
        let first = pair(9).0.seal(&ping(false))[0];
        assert_eq!(first & 0xc0, 0, "both of QUIC's top bits are clear");
        assert!(first > 0x03, "no STUN");
    }

    #[test]
    fn a_probe_that_is_thrown_back_is_nobodys() {
        let (a, b) = pair(9);
        let bytes = a.seal(&ping(false));
        assert_eq!(b.open(&bytes), Ok(ping(false)));
        assert_eq!(a.open(&bytes), Err(ProbeFault::Malformed));
        let mut bytes = bytes.to_vec();
        bytes[TAG_AT..NONCE_AT].copy_from_slice(&a.tag().0);
        assert_eq!(a.open(&bytes), Err(ProbeFault::Forged), "with the right tag it has the wrong key");
    }

    #[test]
    fn a_probe_of_another_connection_is_forged() {
        let mut bytes = pair(8).0.seal(&ping(false)).to_vec();
        let b = pair(9).1;
        bytes[TAG_AT..NONCE_AT].copy_from_slice(&b.tag().0);
        assert_eq!(b.open(&bytes), Err(ProbeFault::Forged));
    }

    #[test]
    fn the_secrets_are_not_printed() {
        let (a, _) = pair(9);
        let words = format!("{a:?}");
        assert!(!words.contains(&format!("{:?}", a.send.mac)) && !words.contains("mac"), "{words}");
    }

    #[test]
    fn a_count_is_new_once_and_an_old_one_never() {
        let mut replays = Replays::default();
        for count in [0, 5, 3, 200, 199, 200 - Replays::WINDOW + 1] {
            assert!(replays.is_new(count), "{count}");
            assert!(!replays.is_new(count), "{count} again");
        }
        assert!(!replays.is_new(200 - Replays::WINDOW));
        assert!(replays.is_new(u32::MAX) && !replays.is_new(u32::MAX) && !replays.is_new(200));
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened_at_the_other_end(probe in arb_probe()) {
            let (a, b) = pair(9);
            let bytes = a.seal(&probe);
            prop_assert_eq!(tag_of(&bytes), Some(b.tag()));
            prop_assert_eq!(b.open(&bytes), Ok(probe));
        }

        #[test]
        fn a_changed_byte_is_found(probe in arb_probe(), at in any::<usize>(), flip in 1..=255u8) {
            let (a, b) = pair(9);
            let mut bytes = a.seal(&probe).to_vec();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert!(b.open(&bytes).is_err());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1_300), sized in 0..3u8) {
            let mut bytes = bytes;
            if sized > 0 {
                bytes.resize(if sized == 1 { PROBE_BYTES } else { FULL_BYTES }, 0);
                bytes[0] = FIRST_BYTE;
            }
            prop_assert!(pair(9).1.open(&bytes).is_err());
        }

        #[test]
        fn what_the_peer_seals_wrongly_is_refused_and_what_is_read_has_one_form(
            mut covered in prop::collection::vec(0..40u8, 48),
            kind in 0..4u8,
            zeros in 19..48usize,
        ) {
            covered[1] = kind;
            covered[zeros..].fill(0);
            covered[0] = FIRST_BYTE;
            let (a, b) = pair(9);
            covered[TAG_AT..NONCE_AT].copy_from_slice(&b.tag().0);
            let mac = a.send.mac_of(&covered);
            covered.extend(mac);
            if let Ok(probe) = b.open(&covered) {
                prop_assert_eq!(&a.seal(&probe)[..], &covered[..]);
            }
        }

        #[test]
        fn every_count_passes_once_in_any_order(counts in prop::collection::vec(0..300u32, 0..200)) {
            let mut replays = Replays::default();
            let mut passed = BTreeSet::new();
            for count in counts {
                if replays.is_new(count) {
                    prop_assert!(passed.insert(count));
                }
            }
        }
    }
}
