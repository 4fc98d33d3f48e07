//! BEP 44 mutable items: what is signed, where it is stored, and what is believed.
//!
//! The signature covers `[4:salt<len>:<salt>]3:seqi<seq>e1:v<bencoded v>`: the bencoded pairs of the `put` message, in
//! order, without the dictionary around them (not the shorthand "seq + v" one reads in places). An empty salt is no
//! salt. Our `v` is always a bencoded **byte string**, because that is all the `mainline` crate carries.
//!
//! Nothing that comes back from the DHT is believed before [`verify`] has seen it: backends hold no key and are not
//! trusted.

use crate::id::{DhtId, Keypair, PublicKey};
use crate::port::MutableItem;
use bytes::Bytes;
use sha1::{Digest as _, Sha1};
use thiserror::Error;

/// Largest value in bytes. BEP 44 allows 1000 bytes of *bencoded* `v`; the string's own `996:` takes four of them, and
/// libtorrent rejects 997 (measured, docs/PROTOCOL.md).
pub const VALUE_MAX: usize = 996;
/// Longest salt in bytes (BEP 44).
pub const SALT_MAX: usize = 64;
/// Highest sequence number: BEP 44 stores it as a signed 64-bit integer and others refuse negative ones.
pub const SEQ_MAX: u64 = i64::MAX as u64;

/// Why an item is not one, or not its key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum ItemError {
    /// The salt is too long.
    #[error("salt longer than {SALT_MAX} bytes")]
    Salt,
    /// The value is too large.
    #[error("value larger than {VALUE_MAX} bytes")]
    Value,
    /// The sequence number is out of range.
    #[error("sequence number above 2^63-1")]
    Seq,
    /// The signature is not the key's over these bytes.
    #[error("the signature does not hold")]
    Signature,
}

/// The bytes that are signed.
pub fn signing_bytes(salt: &[u8], seq: u64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(salt.len() + value.len() + 48);
    if !salt.is_empty() {
        out.extend_from_slice(format!("4:salt{}:", salt.len()).as_bytes());
        out.extend_from_slice(salt);
    }
    out.extend_from_slice(format!("3:seqi{seq}e1:v{}:", value.len()).as_bytes());
    out.extend_from_slice(value);
    out
}

/// Makes and signs an item.
pub fn sign(keypair: &Keypair, salt: &[u8], seq: u64, value: Bytes) -> Result<MutableItem, ItemError> {
    check_sizes(salt, seq, &value)?;
    let signature = keypair.sign(&signing_bytes(salt, seq, &value));
    Ok(MutableItem { key: keypair.public(), salt: Bytes::copy_from_slice(salt), seq, value, signature })
}

/// Whether an item keeps the limits and its signature holds (strict: no malleable or small-order forms).
pub fn verify(item: &MutableItem) -> Result<(), ItemError> {
    check_sizes(&item.salt, item.seq, &item.value)?;
    if item.key.verify(&signing_bytes(&item.salt, item.seq, &item.value), &item.signature) {
        Ok(())
    } else {
        Err(ItemError::Signature)
    }
}

/// Where a mutable item is stored: SHA-1 of the key and the salt.
pub fn target(key: &PublicKey, salt: &[u8]) -> DhtId {
    DhtId(Sha1::new().chain_update(key.as_bytes()).chain_update(salt).finalize().into())
}

/// Where an immutable item is stored: SHA-1 of the bencoded byte string.
pub fn immutable_target(value: &[u8]) -> DhtId {
    let head = format!("{}:", value.len());
    DhtId(Sha1::new().chain_update(head.as_bytes()).chain_update(value).finalize().into())
}

fn check_sizes(salt: &[u8], seq: u64, value: &[u8]) -> Result<(), ItemError> {
    if salt.len() > SALT_MAX {
        return Err(ItemError::Salt);
    }
    if value.len() > VALUE_MAX {
        return Err(ItemError::Value);
    }
    if seq > SEQ_MAX {
        return Err(ItemError::Seq);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Signature;
    use proptest::prelude::*;

    const HELLO: &[u8] = b"Hello World!";
    const BEP_SIGNATURE: &str = "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff\
         1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01";
    const BEP_SIGNATURE_SALTED: &str = "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d\
         df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08";

    fn bep_key() -> PublicKey {
        let raw: crate::id::Digest =
            "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548".parse().unwrap();
        PublicKey::from_slice(&raw.0).unwrap()
    }

    fn bep_item(salt: &'static [u8], signature: &str) -> MutableItem {
        let signature: Signature = signature.parse().unwrap();
        MutableItem { key: bep_key(), salt: Bytes::from_static(salt), seq: 1, value: HELLO.into(), signature }
    }

    #[test]
    fn the_signed_bytes_are_those_of_bep_44() {
        assert_eq!(signing_bytes(b"", 1, HELLO), b"3:seqi1e1:v12:Hello World!");
        assert_eq!(signing_bytes(b"foobar", 1, HELLO), b"4:salt6:foobar3:seqi1e1:v12:Hello World!");
    }

    #[test]
    fn the_vectors_of_bep_44_verify() {
        assert_eq!(verify(&bep_item(b"", BEP_SIGNATURE)), Ok(()));
        assert_eq!(verify(&bep_item(b"foobar", BEP_SIGNATURE_SALTED)), Ok(()));
        assert_eq!(verify(&bep_item(b"foobar", BEP_SIGNATURE)), Err(ItemError::Signature));
    }

    #[test]
    fn the_targets_are_those_of_bep_44() {
        let hex = |t: DhtId| t.to_string();
        assert_eq!(hex(target(&bep_key(), b"")), "4a533d47ec9c7d95b1ad75f576cffc641853b750");
        assert_eq!(hex(target(&bep_key(), b"foobar")), "411eba73b6f087ca51a3795d9c8c938d365e32c1");
        assert_eq!(hex(immutable_target(HELLO)), "e5f96f6f38320f0f33959cb4d3d656452117aadb");
    }

    #[test]
    fn without_salt_the_target_is_the_peer_id() {
        let key = Keypair::from_seed(&[3; 32]).public();
        assert_eq!(target(&key, b"").0, key.peer_id().0);
    }

    #[test]
    fn what_breaks_a_limit_is_neither_signed_nor_believed() {
        let k = Keypair::from_seed(&[1; 32]);
        assert!(sign(&k, &[0; 64], SEQ_MAX, vec![0; 996].into()).is_ok());
        assert_eq!(sign(&k, b"", 1, vec![0; 997].into()), Err(ItemError::Value));
        assert_eq!(sign(&k, &[0; 65], 1, Bytes::new()), Err(ItemError::Salt));
        assert_eq!(sign(&k, b"", SEQ_MAX + 1, Bytes::new()), Err(ItemError::Seq));
    }

    proptest! {
        #[test]
        fn a_signature_holds_for_exactly_what_was_signed(
            salt in prop::collection::vec(any::<u8>(), 0..=64),
            seq in 0..SEQ_MAX,
            value in prop::collection::vec(any::<u8>(), 0..=996),
            bit in 0usize..512,
        ) {
            let item = sign(&Keypair::from_seed(&[9; 32]), &salt, seq, value.into()).unwrap();
            prop_assert_eq!(verify(&item), Ok(()));
            let mut forged = item.clone();
            forged.seq += 1;
            prop_assert_eq!(verify(&forged), Err(ItemError::Signature));
            let mut forged = item.clone();
            forged.signature.0[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(verify(&forged), Err(ItemError::Signature));
            let mut forged = item;
            forged.key = Keypair::from_seed(&[8; 32]).public();
            prop_assert_eq!(verify(&forged), Err(ItemError::Signature));
        }
    }
}
