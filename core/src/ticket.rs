//! A requester's word that a peer may fetch an object.
//!
//! The executor of one task holds what the executor of the next one needs, and the two may never have met. The requester,
//! whose data it is, signs a ticket for the consumer: this object, to this key, until then. The holder knows whose output
//! the object is and lets the bearer have it. A ticket cannot be passed on (the consumer's key is proven by TLS), nor
//! turned to another object, and runs out by itself.
//!
//! Form: canonical bencode `{c: consumer key, d: digest, e: expiry in unix seconds, r: requester key, s: signature}`; the
//! signature is over `rn/ticket/v1`, a zero byte and the same dictionary without `s`. No other keys: they would widen or
//! narrow what a ticket allows, and an old holder would not know.

use crate::codec::{DecodeError, Dict};
use crate::id::{Digest, Keypair, PublicKey, Signature};
use crate::time::UnixTime;

const DOMAIN: &str = "rn/ticket/v1";

/// Most bytes of an encoded ticket; a real one has about 190.
pub const TICKET_BYTES_MAX: usize = 256;

/// A ticket whose signature holds: it is made by signing or read from bytes that were verified.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket {
    object: Digest,
    consumer: PublicKey,
    requester: PublicKey,
    expires_secs: u64,
    signature: Signature,
}

fn body(object: &Digest, consumer: &PublicKey, requester: &PublicKey, expires_secs: u64) -> Dict {
    Dict::new().with("c", consumer).with("d", object).with("e", expires_secs).with("r", requester)
}

fn signed_bytes(body: &Dict) -> Vec<u8> {
    [DOMAIN.as_bytes(), &[0], &body.encode()].concat()
}

impl Ticket {
    /// `requester` lets `consumer` fetch `object` until `expires` (whole seconds).
    pub fn sign(requester: &Keypair, object: Digest, consumer: PublicKey, expires: UnixTime) -> Self {
        // Bencode integers are signed here: an expiry past their range is as good as the end of it.
        let expires_secs = expires.as_secs().min(i64::MAX as u64);
        let signature =
            requester.sign(&signed_bytes(&body(&object, &consumer, &requester.public(), expires_secs)));
        Self { object, consumer, requester: requester.public(), expires_secs, signature }
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        body(&self.object, &self.consumer, &self.requester, self.expires_secs)
            .with("s", &self.signature)
            .encode()
    }

    /// Reads and verifies a ticket.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let d = Dict::decode(bytes, TICKET_BYTES_MAX)?;
        if d.0.len() != 5 {
            return Err(DecodeError::Bencode("a ticket has five keys".into()));
        }
        let (object, consumer, requester) = (d.digest("d")?, d.key("c")?, d.key("r")?);
        let (expires_secs, signature) = (d.u64("e")?, d.signature("s")?);
        if !requester.verify(&signed_bytes(&body(&object, &consumer, &requester, expires_secs)), &signature) {
            return Err(DecodeError::invalid("s", "the signature does not hold"));
        }
        Ok(Self { object, consumer, requester, expires_secs, signature })
    }

    /// Whether `consumer` may show it for `object` at `wall`.
    pub fn allows(&self, object: &Digest, consumer: &PublicKey, wall: UnixTime) -> bool {
        self.object == *object && self.consumer == *consumer && wall.as_secs() < self.expires_secs
    }

    /// Who signed it.
    pub fn requester(&self) -> &PublicKey {
        &self.requester
    }

    /// The object it is for.
    pub fn object(&self) -> &Digest {
        &self.object
    }

    /// Who may show it.
    pub fn consumer(&self) -> &PublicKey {
        &self.consumer
    }

    /// When it runs out.
    pub fn expires(&self) -> UnixTime {
        UnixTime::from_secs(self.expires_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u8) -> Keypair {
        Keypair::from_seed(&[n; 32])
    }

    fn ticket() -> Ticket {
        Ticket::sign(&key(1), Digest::of(b"x"), key(2).public(), UnixTime::from_secs(1_000))
    }

    #[test]
    fn a_ticket_survives_the_wire_and_is_small() {
        let bytes = ticket().encode();
        assert!(bytes.len() <= TICKET_BYTES_MAX);
        assert_eq!(Ticket::decode(&bytes), Ok(ticket()));
        let forever =
            Ticket::sign(&key(1), Digest::of(b"x"), key(2).public(), UnixTime::from_millis(u64::MAX));
        assert!(forever.encode().len() <= TICKET_BYTES_MAX);
        assert_eq!(Ticket::decode(&forever.encode()), Ok(forever));
    }

    #[test]
    fn a_ticket_is_for_one_object_one_consumer_and_a_time() {
        let (t, x, c) = (ticket(), Digest::of(b"x"), key(2).public());
        assert!(t.allows(&x, &c, UnixTime::from_secs(999)));
        assert!(!t.allows(&x, &c, UnixTime::from_secs(1_000)), "expired at its second");
        assert!(!t.allows(&Digest::of(b"y"), &c, UnixTime::from_secs(0)));
        assert!(!t.allows(&x, &key(3).public(), UnixTime::from_secs(0)));
    }

    #[test]
    fn no_changed_byte_makes_another_ticket() {
        let bytes = ticket().encode();
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            assert!(Ticket::decode(&changed).is_err(), "byte {i}");
        }
        let more = Dict::decode(&bytes, 1_000).unwrap().with("x", 1u64).encode();
        assert!(Ticket::decode(&more).is_err());
        assert!(Ticket::decode(&[bytes.as_slice(), b"e"].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Ticket::decode(&bytes).is_err());
        }
    }
}
