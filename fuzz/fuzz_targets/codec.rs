//! Canonical bencode: whatever is accepted has exactly one form, and that form is the one that came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remote_network_core::codec::{Dict, Value, compact_addr, parse_compact_addr};

const MAX: usize = 4_096;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = Value::decode(bytes, MAX) {
        assert!(bytes.len() <= MAX);
        assert_eq!(value.encode(), bytes);
        assert_eq!(Value::decode(&value.encode(), MAX), Ok(value.clone()));
        // The same bytes are a dictionary if and only if the value is one.
        assert_eq!(Dict::decode(bytes, MAX).is_ok(), matches!(value, Value::Dict(_)));
    } else {
        assert!(Dict::decode(bytes, MAX).is_err());
    }
    if let Some(addr) = parse_compact_addr(bytes) {
        assert_eq!(compact_addr(addr), bytes);
    }
});
