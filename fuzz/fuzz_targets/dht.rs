//! What the DHT holds: node records, which strangers sign with keys of their own, and the items around them. A record
//! that is read keeps its limits, means the same when it is written again, and names no address outside its scope; an
//! item's signature holds for exactly what was signed.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use remote_network_core::codec::Dict;
use remote_network_core::dht::endpoint::{Scope, scope};
use remote_network_core::dht::item::{SALT_MAX, SEQ_MAX, VALUE_MAX, sign, signing_bytes, verify};
use remote_network_core::dht::record::{ATTACHMENTS_MAX, ENDPOINTS_MAX, NodeRecord, RECORD_MAX};
use remote_network_core::time::UnixTime;
use remote_network_fuzz::keys::keypair;

fn record(bytes: &[u8]) {
    let Ok(record) = NodeRecord::decode(bytes) else { return };
    let c = &record.content;
    assert!(c.public.len() <= 2 * ENDPOINTS_MAX && c.private.len() <= 2 * ENDPOINTS_MAX);
    assert!(c.public.iter().all(|a| scope(*a) == Scope::Public));
    assert!(c.private.iter().all(|a| matches!(scope(*a), Scope::Private | Scope::Loopback)));
    assert!(c.attachments.len() <= ATTACHMENTS_MAX);
    let written = record.encode();
    assert!(written.len() <= RECORD_MAX);
    assert_eq!(NodeRecord::decode(&written).as_ref(), Ok(&record));
    // Believed at most from shortly before its issue to its end, and nowhere between by half.
    let at_issue = NodeRecord::read(bytes, record.issued).is_ok();
    assert_eq!(at_issue, record.expires() > record.issued);
    assert!(NodeRecord::read(bytes, record.expires()).is_err());
}

fn item(dict: &Dict) -> Option<()> {
    let salt = dict.get("salt")?.as_bytes()?;
    let value = dict.get("val")?.as_bytes()?;
    let seq = dict.get("seq")?.as_u64()?;
    let fits = salt.len() <= SALT_MAX && value.len() <= VALUE_MAX && seq <= SEQ_MAX;
    let item = sign(&keypair(0), salt, seq, Bytes::copy_from_slice(value));
    assert_eq!(item.is_ok(), fits);
    let item = item.ok()?;
    assert_eq!(verify(&item), Ok(()));
    // A salt that looks like the rest of the message must not be able to stand for another message.
    let mut moved = item.clone();
    moved.salt = Bytes::new();
    moved.value = [salt, value].concat().into();
    if !salt.is_empty() {
        assert_ne!(signing_bytes(&moved.salt, seq, &moved.value), signing_bytes(salt, seq, value));
        assert!(verify(&moved).is_err());
    }
    let mut other = item;
    other.seq = other.seq.wrapping_add(1);
    assert!(verify(&other).is_err());
    Some(())
}

fuzz_target!(|bytes: &[u8]| {
    record(bytes);
    let _ = NodeRecord::read(bytes, UnixTime::from_secs(1_700_000_000));
    if let Ok(dict) = Dict::decode(bytes, 4_096) {
        item(&dict);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    remote_network_fuzz::mutate::bencode(data, size, max_size, seed, 0)
});
