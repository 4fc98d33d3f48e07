//! Statements signed by a node's key.
//!
//! A [`Signed`] cannot hold a bad signature: it is made by signing, or read from bytes whose signature was verified.
//! What is signed is the domain string, a zero byte and the exact bytes of the body, so a newer peer's unknown fields stay
//! under the signature and a statement of one kind never passes for another.

use crate::codec::{DecodeError, Dict};
use crate::id::{Digest, Keypair, PublicKey, Signature};
use std::ops::Deref;

/// A thing that somebody answers for.
pub trait Statement: Sized {
    /// Its domain string.
    const DOMAIN: &'static str;
    /// Largest body in bytes.
    const BODY_BYTES_MAX: usize;
    /// Whose signature it needs.
    fn signer(&self) -> &PublicKey;
    /// The body.
    fn to_dict(&self) -> Dict;
    /// Reads the body; unknown keys are allowed.
    fn from_dict(d: &Dict) -> Result<Self, DecodeError>;
}

/// A statement with a signature that holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed<T> {
    value: T,
    body: Vec<u8>,
    signature: Signature,
}

fn message(domain: &str, body: &[u8]) -> Vec<u8> {
    let mut m = Vec::with_capacity(domain.len() + 1 + body.len());
    m.extend_from_slice(domain.as_bytes());
    m.push(0);
    m.extend_from_slice(body);
    m
}

impl<T: Statement> Signed<T> {
    /// Signs `value`. The keypair must be the signer's.
    pub fn sign(value: T, keypair: &Keypair) -> Self {
        debug_assert_eq!(*value.signer(), keypair.public());
        let body = value.to_dict().encode();
        debug_assert!(body.len() <= T::BODY_BYTES_MAX, "{} has {} bytes", T::DOMAIN, body.len());
        let signature = keypair.sign(&message(T::DOMAIN, &body));
        Self { value, body, signature }
    }

    /// The digest others refer to it by: over domain and body, so that it does not depend on the signature.
    pub fn digest(&self) -> Digest {
        Digest::in_domain(T::DOMAIN, &[&self.body])
    }

    /// The bytes on the wire and in files.
    pub fn encode(&self) -> Vec<u8> {
        Dict::new().with("b", self.body.as_slice()).with("s", &self.signature).encode()
    }

    /// Reads and verifies. Exactly two keys: anything else would be unsigned.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let outer = Dict::decode(bytes, T::BODY_BYTES_MAX + 128)?;
        if outer.0.len() != 2 {
            return Err(DecodeError::invalid("s", "a signed statement has a body and a signature, no more"));
        }
        let body = outer.bytes("b", T::BODY_BYTES_MAX)?.to_vec();
        let signature = outer.signature("s")?;
        let value = T::from_dict(&Dict::decode(&body, T::BODY_BYTES_MAX)?)?;
        if !value.signer().verify(&message(T::DOMAIN, &body), &signature) {
            return Err(DecodeError::invalid("s", "the signature does not hold"));
        }
        Ok(Self { value, body, signature })
    }
}

impl<T> Deref for Signed<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}
