//! Names of things: keys, peers, digests, runs, jobs, and numbers that tie a request to its answer.
//!
//! Every id is a type of its own, parsed once. A [`PeerId`] is only a name: authorisation and equality use the whole
//! [`PublicKey`] (SPEC 1.1), so that a SHA-1 collision gains nothing.

use ed25519_dalek::{Signer as _, VerifyingKey};
use sha1::{Digest as _, Sha1};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;
use zeroize::Zeroizing;

/// Why a text or bytes are not the id they were taken for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdError {
    /// Wrong number of bytes.
    #[error("expected {expected} bytes, got {got}")]
    Length {
        /// Bytes there should be.
        expected: usize,
        /// Bytes there were.
        got: usize,
    },
    /// Wrong number of hex digits.
    #[error("expected {expected} hex digits, got {got}")]
    Digits {
        /// Digits there should be.
        expected: usize,
        /// Characters there were.
        got: usize,
    },
    /// A character outside the alphabet.
    #[error("not {alphabet}: {what}")]
    Alphabet {
        /// The alphabet that was expected.
        alphabet: &'static str,
        /// What the decoder says.
        what: String,
    },
    /// The text does not start as it must.
    #[error("a public key is written `key_` followed by base58 (or a peer id as 40 hex digits)")]
    Prefix,
    /// The 32 bytes are no point of the curve, or one of small order.
    #[error("not a usable Ed25519 public key (no curve point, or of low order)")]
    WeakKey,
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $n:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $n]);

        impl $name {
            /// From a slice of exactly the right length.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
                Ok(Self(bytes.try_into().map_err(|_| IdError::Length { expected: $n, got: bytes.len() })?))
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $n] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "("))?;
                write_hex(f, &self.0[..4])?;
                f.write_str("…)")
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                let mut out = [0u8; $n];
                parse_hex(s, &mut out)?;
                Ok(Self(out))
            }
        }
    };
}

bytes_id!(
    /// SHA-1 of a node's 32-byte public key; 40 hex digits. Also the BEP 44 target of the node's record.
    PeerId, 20
);
bytes_id!(
    /// BLAKE3 digest of an object's bytes, or of a domain string and canonical bytes; 64 hex digits.
    Digest, 32
);
bytes_id!(
    /// A run, chosen at random by the client that submits it: its idempotency key.
    RunId, 16
);
bytes_id!(
    /// A job at an executor: derived from requester key, run, task and fence, so that a duplicate dispatch is the same job.
    JobId, 16
);
bytes_id!(
    /// A DHT node id or info-hash (BEP 5), or a BEP 44 target.
    DhtId, 20
);
bytes_id!(
    /// An Ed25519 signature.
    Signature, 64
);

impl Digest {
    /// The BLAKE3 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The BLAKE3 digest of a domain string, a zero byte and the parts in order. Every signed or derived thing has a
    /// domain of its own, so that bytes of one kind never pass for another.
    pub fn in_domain(domain: &str, parts: &[&[u8]]) -> Self {
        let mut h = blake3::Hasher::new();
        h.update(domain.as_bytes());
        h.update(&[0]);
        for p in parts {
            h.update(p);
        }
        Self(*h.finalize().as_bytes())
    }
}

/// An Ed25519 public key that is a point of the curve and not of low order. Text form: `key_` + base58.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From 32 bytes; refuses what is no usable key.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
        let raw: [u8; 32] =
            bytes.try_into().map_err(|_| IdError::Length { expected: 32, got: bytes.len() })?;
        match VerifyingKey::from_bytes(&raw) {
            Ok(k) if !k.is_weak() => Ok(Self(raw)),
            _ => Err(IdError::WeakKey),
        }
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// SHA-1 of the key.
    pub fn peer_id(&self) -> PeerId {
        PeerId(Sha1::digest(self.0).into())
    }

    /// Whether `signature` over `message` was made by this key (strict verification: no malleable or small-order forms).
    pub fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|k| {
            k.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
        })
    }
}

/// Known keys are found by bytes that nobody has checked yet.
impl std::borrow::Borrow<[u8; 32]> for PublicKey {
    fn borrow(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key_{}", bs58::encode(self.0).into_string())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = bs58::encode(self.0).into_string();
        write!(f, "key_{}…", &text[..8.min(text.len())])
    }
}

impl FromStr for PublicKey {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let body = s.strip_prefix("key_").ok_or(IdError::Prefix)?;
        if body.len() > 64 {
            return Err(IdError::Length { expected: 32, got: body.len() });
        }
        let raw = bs58::decode(body)
            .into_vec()
            .map_err(|e| IdError::Alphabet { alphabet: "base58", what: e.to_string() })?;
        Self::from_slice(&raw)
    }
}

/// The two ways a user names a peer: its key or its peer id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerName {
    /// By public key.
    Key(PublicKey),
    /// By peer id; resolved among known peers.
    Id(PeerId),
}

impl FromStr for PeerName {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        if s.starts_with("key_") {
            s.parse().map(PeerName::Key)
        } else {
            s.parse().map(PeerName::Id).map_err(|_| IdError::Prefix)
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerName::Key(k) => k.fmt(f),
            PeerName::Id(i) => i.fmt(f),
        }
    }
}

/// The node's own key pair. The secret comes in from outside, is zeroed when dropped and never printed.
#[derive(Clone)]
pub struct Keypair {
    /// In one place, however many machines of a node sign: it is 200 bytes, and a secret.
    signing: Arc<ed25519_dalek::SigningKey>,
    public: PublicKey,
}

impl Keypair {
    /// From the 32-byte secret seed (RFC 8032).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let signing = ed25519_dalek::SigningKey::from_bytes(seed);
        let public = PublicKey(signing.verifying_key().to_bytes());
        Self { signing: Arc::new(signing), public }
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The 32-byte secret seed, for the transport's TLS key and for export.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.signing.to_bytes())
    }

    /// Signs `message` (deterministic, RFC 8032).
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.signing.sign(message).to_bytes())
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keypair({:?})", self.public)
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub u64);
    };
}

number_id!(
    /// A request of the core to a port (DHT, store, engine); answered exactly once with the same number.
    OpId
);
/// Issues [`OpId`]s of one room: the room's number in the top byte, a counter below, so that the node can route an
/// answer to the machine that asked.
#[derive(Clone, Debug)]
pub struct OpIds {
    next: u64,
}

impl OpIds {
    /// Ids of the room with this number.
    pub const fn new(room: u8) -> Self {
        Self { next: (room as u64) << 56 }
    }

    /// A fresh id.
    pub fn issue(&mut self) -> OpId {
        self.next += 1;
        OpId(self.next)
    }
}

impl OpId {
    /// The number of the room that issued it.
    pub const fn room(self) -> u8 {
        (self.0 >> 56) as u8
    }
}

number_id!(
    /// A request of the application to the core; answered exactly once with the same number.
    CommandId
);
number_id!(
    /// A position in the journal. Strictly increasing over the life of a data directory.
    Lsn
);
number_id!(
    /// A connection. Never reused within the life of a node.
    ConnId
);
number_id!(
    /// A stream of a connection (QUIC stream id).
    StreamId
);

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

fn parse_hex(s: &str, out: &mut [u8]) -> Result<(), IdError> {
    if s.len() != out.len() * 2 {
        return Err(IdError::Digits { expected: out.len() * 2, got: s.len() });
    }
    let digits = s.as_bytes();
    for (i, byte) in out.iter_mut().enumerate() {
        let hi = hex_digit(digits[2 * i]);
        let lo = hex_digit(digits[2 * i + 1]);
        match (hi, lo) {
            (Some(h), Some(l)) => *byte = h << 4 | l,
            _ => {
                return Err(IdError::Alphabet {
                    alphabet: "hex digits",
                    what: format!("at position {}", 2 * i),
                });
            }
        }
    }
    Ok(())
}

const fn hex_digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_form_and_names_its_peer() {
        let k = Keypair::from_seed(&[7; 32]).public();
        assert_eq!(k.to_string().parse::<PublicKey>(), Ok(k));
        assert_eq!(k.peer_id().to_string().len(), 40);
        assert_eq!(k.to_string().parse::<PeerName>(), Ok(PeerName::Key(k)));
        assert_eq!(k.peer_id().to_string().parse::<PeerName>(), Ok(PeerName::Id(k.peer_id())));
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_reason() {
        assert_eq!("abc".parse::<PeerName>(), Err(IdError::Prefix));
        assert_eq!("key_".parse::<PublicKey>(), Err(IdError::Length { expected: 32, got: 0 }));
        let words = "12".parse::<Digest>().map_err(|e| e.to_string());
        assert_eq!(words, Err("expected 64 hex digits, got 2".to_owned()));
        assert!(matches!("key_0OIl".parse::<PublicKey>(), Err(IdError::Alphabet { .. })));
        assert!(matches!(" key_1".parse::<PublicKey>(), Err(IdError::Prefix)));
        let low_order = format!("key_{}", bs58::encode([0u8; 32]).into_string());
        assert_eq!(low_order.parse::<PublicKey>(), Err(IdError::WeakKey));
        let identity = {
            let mut b = [0u8; 32];
            b[0] = 1;
            b
        };
        assert_eq!(PublicKey::from_slice(&identity), Err(IdError::WeakKey));
    }

    #[test]
    fn a_signature_holds_for_its_key_and_message_only() {
        let a = Keypair::from_seed(&[1; 32]);
        let b = Keypair::from_seed(&[2; 32]);
        let s = a.sign(b"order");
        assert!(a.public().verify(b"order", &s));
        assert!(!a.public().verify(b"Order", &s));
        assert!(!b.public().verify(b"order", &s));
    }
}
