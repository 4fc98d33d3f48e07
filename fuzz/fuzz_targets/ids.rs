//! Texts that name things: what parses is written back as the same thing, and keys that parse are usable ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remote_network_core::id::{DhtId, Digest, JobId, PeerId, PeerName, PublicKey, RunId, Signature};
use std::fmt::Display;
use std::str::FromStr;

fn round_trip<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(id) = text.parse::<T>() {
        let written = id.to_string();
        assert!(written.parse::<T>().is_ok_and(|again| again == id), "{text:?} became {written:?}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = PublicKey::from_slice(bytes) {
        assert_eq!(key.as_bytes()[..], *bytes);
        round_trip::<PublicKey>(&key.to_string());
        // A key accepted here must be safe to verify with, whatever the signature.
        assert!(!key.verify(b"message", &Signature([0; 64])));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    round_trip::<PublicKey>(text);
    round_trip::<PeerName>(text);
    round_trip::<PeerId>(text);
    round_trip::<DhtId>(text);
    round_trip::<Digest>(text);
    round_trip::<RunId>(text);
    round_trip::<JobId>(text);
});
