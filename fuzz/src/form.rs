//! The law of every dictionary on the wire, under a signature and in the journal: what is understood has one spelling.
//!
//! Unknown keys may be there, so what is read and written again is not byte for byte what came. But every key that is
//! written must have been there with this very value; else two spellings would mean the same, and digests and
//! signatures over them would not.

use remote_network_core::codec::Value;

/// Panics unless everything in `written` is in `read` as well, unchanged.
pub fn assert_within(written: &[u8], read: &[u8]) {
    let decode = |bytes: &[u8]| Value::decode(bytes, bytes.len()).expect("canonical");
    let (written, read) = (decode(written), decode(read));
    assert!(within(&written, &read), "{written:?} was written for {read:?}");
}

/// Whether everything in `written` is in `read` as well, unchanged.
pub fn within(written: &Value, read: &Value) -> bool {
    match (written, read) {
        (Value::Dict(w), Value::Dict(r)) => {
            w.0.iter().all(|(key, value)| r.0.get(key).is_some_and(|other| within(value, other)))
        }
        (Value::List(w), Value::List(r)) => w.len() == r.len() && w.iter().zip(r).all(|(w, r)| within(w, r)),
        // Canonical bencode inside a byte string follows the same law.
        (Value::Bytes(w), Value::Bytes(r)) => {
            w == r
                || match (Value::decode(w, w.len()), Value::decode(r, r.len())) {
                    (Ok(w @ Value::Dict(_)), Ok(r)) => within(&w, &r),
                    _ => false,
                }
        }
        (w, r) => w == r,
    }
}
