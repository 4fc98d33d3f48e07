//! Bytes ↔ valid types. Nothing else parses.
//!
//! Everything on the wire, in the journal and under a signature is canonical bencode (sorted keys, no leading zeros,
//! nothing after the end), read with [`bendy`]. It is written here: a map is sorted and its values are within the depth limit, which
//! leaves an encoder nothing to refuse, and `bendy`'s allocates for each item ten times; a test holds both against each other. A [`Dict`] is read once into a sorted map of raw values with a depth and
//! size limit; unknown keys are kept there, so that a newer peer's fields neither fail nor get lost where they matter.

use crate::id::{Digest, IdError, PublicKey, Signature};
use bendy::decoding::{Decoder, Object};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use thiserror::Error;

/// Deepest nesting anything of ours has.
pub const DEPTH_MAX: usize = 8;

/// The bytes are at fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// More bytes than this kind of thing may have.
    #[error("{got} bytes, at most {max} allowed")]
    TooLong {
        /// Bytes there were.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Not canonical bencode.
    #[error("not canonical bencode: {0}")]
    Bencode(String),
    /// A key that must be there is not.
    #[error("key `{0}` is missing")]
    Missing(&'static str),
    /// A value that is not what the key promises.
    #[error("key `{key}`: {why}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A version or kind nobody here speaks.
    #[error("unknown {what} {number}")]
    Unknown {
        /// Of what.
        what: &'static str,
        /// Its number.
        number: u64,
    },
}

impl DecodeError {
    /// A value under `key` is wrong because of `why`.
    pub fn invalid(key: &'static str, why: impl Into<String>) -> Self {
        DecodeError::Invalid { key, why: why.into() }
    }
}

impl From<bendy::decoding::Error> for DecodeError {
    fn from(e: bendy::decoding::Error) -> Self {
        DecodeError::Bencode(e.to_string())
    }
}

/// A value of canonical bencode, as it is built and as it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// An integer.
    Int(i64),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// A dictionary.
    Dict(Dict),
}

/// A dictionary of canonical bencode: built with `set…`, read with `take…`/`get…`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dict(pub BTreeMap<Vec<u8>, Value>);

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
    }
}
impl From<u32> for Value {
    fn from(n: u32) -> Self {
        Value::Int(i64::from(n))
    }
}
impl From<&[u8]> for Value {
    fn from(b: &[u8]) -> Self {
        Value::Bytes(b.to_vec())
    }
}
impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Value::Bytes(s.as_bytes().to_vec())
    }
}
impl From<Dict> for Value {
    fn from(d: Dict) -> Self {
        Value::Dict(d)
    }
}
impl From<Vec<Value>> for Value {
    fn from(l: Vec<Value>) -> Self {
        Value::List(l)
    }
}
impl From<&Digest> for Value {
    fn from(d: &Digest) -> Self {
        Value::Bytes(d.0.to_vec())
    }
}
impl From<&PublicKey> for Value {
    fn from(k: &PublicKey) -> Self {
        Value::Bytes(k.as_bytes().to_vec())
    }
}
impl From<&Signature> for Value {
    fn from(s: &Signature) -> Self {
        Value::Bytes(s.0.to_vec())
    }
}

impl Value {
    /// Appends the canonical bytes.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Int(n) => {
                out.push(b'i');
                write_number(*n, out);
                out.push(b'e');
            }
            Value::Bytes(bytes) => write_bytes(bytes, out),
            Value::List(items) => {
                out.push(b'l');
                items.iter().for_each(|item| item.write(out));
                out.push(b'e');
            }
            Value::Dict(dict) => dict.write(out),
        }
    }
}

impl Dict {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'd');
        for (key, value) in &self.0 {
            write_bytes(key, out);
            value.write(out);
        }
        out.push(b'e');
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_number(bytes.len() as i64, out);
    out.push(b':');
    out.extend_from_slice(bytes);
}

fn write_number(n: i64, out: &mut Vec<u8>) {
    // A vector takes whatever is written.
    let _always = write!(out, "{n}");
}

fn read_value(object: Object<'_, '_>, depth: usize) -> Result<Value, DecodeError> {
    if depth == 0 {
        return Err(DecodeError::Bencode("nested too deeply".into()));
    }
    match object {
        Object::Integer(text) => text
            .parse()
            .map(Value::Int)
            .map_err(|_| DecodeError::Bencode(format!("integer out of range: {text}"))),
        Object::Bytes(b) => Ok(Value::Bytes(b.to_vec())),
        Object::List(mut list) => {
            let mut items = Vec::new();
            while let Some(o) = list.next_object()? {
                items.push(read_value(o, depth - 1)?);
            }
            Ok(Value::List(items))
        }
        Object::Dict(mut dict) => {
            let mut map = BTreeMap::new();
            while let Some((k, o)) = dict.next_pair()? {
                map.insert(k.to_vec(), read_value(o, depth - 1)?);
            }
            Ok(Value::Dict(Dict(map)))
        }
    }
}

impl Value {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Reads exactly one canonical value of at most `max` bytes and nothing after it.
    pub fn decode(bytes: &[u8], max: usize) -> Result<Value, DecodeError> {
        if bytes.len() > max {
            return Err(DecodeError::TooLong { got: bytes.len(), max });
        }
        let mut decoder = Decoder::new(bytes).with_max_depth(DEPTH_MAX + 1);
        let value = match decoder.next_object()? {
            Some(o) => read_value(o, DEPTH_MAX)?,
            None => return Err(DecodeError::Bencode("empty".into())),
        };
        // The decoder stops after one value; re-encoding proves that nothing follows and that the form is canonical.
        if value.encode() != bytes {
            return Err(DecodeError::Bencode("bytes after the end, or not canonical".into()));
        }
        Ok(value)
    }

    /// The integer, if it is one and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Int(n) => u64::try_from(*n).ok(),
            Value::Bytes(_) | Value::List(_) | Value::Dict(_) => None,
        }
    }

    /// The bytes, if it is a byte string.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bytes(b) => Some(b),
            Value::Int(_) | Value::List(_) | Value::Dict(_) => None,
        }
    }
}

impl Dict {
    /// An empty dictionary.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key`.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.0.insert(key.as_bytes().to_vec(), value.into());
        self
    }

    /// Sets `key` when there is a value.
    #[must_use]
    pub fn with_some(self, key: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(v) => self.with(key, v),
            None => self,
        }
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Reads exactly one canonical dictionary of at most `max` bytes.
    pub fn decode(bytes: &[u8], max: usize) -> Result<Dict, DecodeError> {
        match Value::decode(bytes, max)? {
            Value::Dict(d) => Ok(d),
            Value::Int(_) | Value::Bytes(_) | Value::List(_) => {
                Err(DecodeError::Bencode("not a dictionary".into()))
            }
        }
    }

    /// The value under `key`.
    pub fn get(&self, key: &'static str) -> Option<&Value> {
        self.0.get(key.as_bytes())
    }

    /// The value under `key`, which must be there.
    pub fn need(&self, key: &'static str) -> Result<&Value, DecodeError> {
        self.get(key).ok_or(DecodeError::Missing(key))
    }

    /// A non-negative integer.
    pub fn u64(&self, key: &'static str) -> Result<u64, DecodeError> {
        self.need(key)?.as_u64().ok_or_else(|| DecodeError::invalid(key, "not a non-negative integer"))
    }

    /// A non-negative integer, `None` when absent.
    pub fn u64_opt(&self, key: &'static str) -> Result<Option<u64>, DecodeError> {
        self.get(key).map(|_| self.u64(key)).transpose()
    }

    /// Yes (1) or no (0). Nothing else: a second spelling of yes would mean the same under another digest.
    pub fn flag(&self, key: &'static str) -> Result<bool, DecodeError> {
        match self.u64(key)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::invalid(key, "neither 0 nor 1")),
        }
    }

    /// A non-negative integer of at most 32 bits.
    pub fn u32(&self, key: &'static str) -> Result<u32, DecodeError> {
        u32::try_from(self.u64(key)?).map_err(|_| DecodeError::invalid(key, "larger than 32 bits"))
    }

    /// A byte string of at most `max` bytes.
    pub fn bytes(&self, key: &'static str, max: usize) -> Result<&[u8], DecodeError> {
        let b = self.need(key)?.as_bytes().ok_or_else(|| DecodeError::invalid(key, "not a byte string"))?;
        if b.len() > max {
            return Err(DecodeError::invalid(key, format!("{} bytes, at most {max} allowed", b.len())));
        }
        Ok(b)
    }

    /// A byte string of exactly `N` bytes.
    pub fn array<const N: usize>(&self, key: &'static str) -> Result<[u8; N], DecodeError> {
        let b = self.bytes(key, N)?;
        b.try_into().map_err(|_| DecodeError::invalid(key, format!("{} bytes, expected {N}", b.len())))
    }

    /// A UTF-8 text of at most `max` bytes without control characters.
    pub fn text(&self, key: &'static str, max: usize) -> Result<String, DecodeError> {
        let s =
            std::str::from_utf8(self.bytes(key, max)?).map_err(|_| DecodeError::invalid(key, "not UTF-8"))?;
        if s.chars().any(char::is_control) {
            return Err(DecodeError::invalid(key, "control characters"));
        }
        Ok(s.to_owned())
    }

    /// A list of at most `max` items.
    pub fn list(&self, key: &'static str, max: usize) -> Result<&[Value], DecodeError> {
        match self.need(key)? {
            Value::List(items) if items.len() <= max => Ok(items),
            Value::List(items) => {
                Err(DecodeError::invalid(key, format!("{} items, at most {max} allowed", items.len())))
            }
            Value::Int(_) | Value::Bytes(_) | Value::Dict(_) => Err(DecodeError::invalid(key, "not a list")),
        }
    }

    /// A nested dictionary.
    pub fn dict(&self, key: &'static str) -> Result<&Dict, DecodeError> {
        match self.need(key)? {
            Value::Dict(d) => Ok(d),
            Value::Int(_) | Value::Bytes(_) | Value::List(_) => {
                Err(DecodeError::invalid(key, "not a dictionary"))
            }
        }
    }

    /// A digest.
    pub fn digest(&self, key: &'static str) -> Result<Digest, DecodeError> {
        Ok(Digest(self.array(key)?))
    }

    /// A usable public key.
    pub fn key(&self, key: &'static str) -> Result<PublicKey, DecodeError> {
        PublicKey::from_slice(self.bytes(key, 32)?)
            .map_err(|e: IdError| DecodeError::invalid(key, e.to_string()))
    }

    /// A signature.
    pub fn signature(&self, key: &'static str) -> Result<Signature, DecodeError> {
        Ok(Signature(self.array(key)?))
    }
}

/// A socket address in compact form (BEP 5, BEP 32): 4 or 16 bytes of address, 2 bytes of port, big-endian.
pub fn compact_addr(addr: SocketAddr) -> Vec<u8> {
    let mut out = match addr.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    out.extend_from_slice(&addr.port().to_be_bytes());
    out
}

/// Reads a compact address; `None` for any other length, and for IPv4 dressed as IPv6 in 16 bytes: an address has one
/// form, or what is read and written again would not be what was signed.
pub fn parse_compact_addr(bytes: &[u8]) -> Option<SocketAddr> {
    match bytes.len() {
        6 => {
            let ip: [u8; 4] = bytes[..4].try_into().ok()?;
            Some(SocketAddr::new(Ipv4Addr::from(ip).into(), u16::from_be_bytes([bytes[4], bytes[5]])))
        }
        18 => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..16]).ok()?);
            if ip.to_ipv4_mapped().is_some() {
                return None;
            }
            Some(SocketAddr::new(ip.into(), u16::from_be_bytes([bytes[16], bytes[17]])))
        }
        _ => None,
    }
}

/// Largest body of a frame on a control stream, in bytes.
pub const FRAME_BODY_MAX: usize = 128 * 1024;

/// A frame of a control stream or the head of a transfer stream: `length: u32 BE` (of kind and body), `kind: u8`, `body`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Which message the body is; the numbers are allotted in docs/PROTOCOL.md.
    pub kind: u8,
    /// Canonical bencode.
    pub body: Vec<u8>,
}

impl Frame {
    /// A frame around a dictionary.
    pub fn new(kind: u8, body: &Dict) -> Self {
        Self { kind, body: body.encode() }
    }

    /// The body of a frame of this kind, at most `max` bytes of it.
    pub fn dict(&self, kind: u8, max: usize) -> Result<Dict, DecodeError> {
        if self.kind != kind {
            return Err(DecodeError::Unknown { what: "frame kind", number: self.kind.into() });
        }
        Dict::decode(&self.body, max)
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(5 + self.body.len());
        let len = u32::try_from(self.body.len() + 1).unwrap_or(u32::MAX);
        out.extend_from_slice(&len.to_be_bytes());
        out.push(self.kind);
        out.extend_from_slice(&self.body);
        out
    }
}

/// Cuts a byte stream into frames. Holds at most one incomplete frame.
#[derive(Clone, Debug, Default)]
pub struct FrameReader {
    buffered: Vec<u8>,
}

impl FrameReader {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffered.extend_from_slice(bytes);
    }

    /// Bytes waiting.
    pub fn buffered(&self) -> usize {
        self.buffered.len()
    }

    /// The next whole frame; `Ok(None)` when more bytes are needed. After an error the stream is useless.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        let Some(head) = self.buffered.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*head) as usize;
        if len == 0 || len > FRAME_BODY_MAX + 1 {
            return Err(DecodeError::TooLong { got: len, max: FRAME_BODY_MAX + 1 });
        }
        if self.buffered.len() < 4 + len {
            return Ok(None);
        }
        let frame = Frame { kind: self.buffered[4], body: self.buffered[5..4 + len].to_vec() };
        self.buffered.drain(..4 + len);
        if self.buffered.is_empty() {
            self.buffered = Vec::new();
        }
        Ok(Some(frame))
    }

    /// What was buffered behind the last frame: the raw bytes that follow a head on a transfer stream.
    pub fn into_rest(self) -> Vec<u8> {
        self.buffered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bendy::encoding::{AsString, SingleItemEncoder, ToBencode};
    use proptest::prelude::*;

    // What we write, as `bendy` writes it.
    impl ToBencode for Value {
        const MAX_DEPTH: usize = DEPTH_MAX;
        fn encode(&self, e: SingleItemEncoder<'_>) -> Result<(), bendy::encoding::Error> {
            match self {
                Value::Int(n) => e.emit_int(*n),
                Value::Bytes(b) => e.emit(&AsString(b)),
                Value::List(items) => e.emit_list(|l| items.iter().try_for_each(|i| l.emit(i))),
                Value::Dict(d) => e.emit(d),
            }
        }
    }

    impl ToBencode for Dict {
        const MAX_DEPTH: usize = DEPTH_MAX;
        fn encode(&self, e: SingleItemEncoder<'_>) -> Result<(), bendy::encoding::Error> {
            e.emit_dict(|mut d| self.0.iter().try_for_each(|(k, v)| d.emit_pair(k, v)))
        }
    }

    fn arb_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::Int),
            prop::collection::vec(any::<u8>(), 0..120).prop_map(Value::Bytes),
        ];
        let key = || prop::collection::vec(any::<u8>(), 0..12);
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
                prop::collection::btree_map(key(), inner, 0..6).prop_map(|map| Value::Dict(Dict(map))),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_we_write_is_what_bendy_writes_and_is_read_again(value in arb_value()) {
            let bytes = value.encode();
            prop_assert_eq!(&value.to_bencode().unwrap(), &bytes);
            prop_assert_eq!(Value::decode(&bytes, bytes.len()), Ok(value));
        }
    }

    #[test]
    fn a_flag_has_one_spelling() {
        let dict = |n: u64| Dict::new().with("x", n);
        assert_eq!((dict(0).flag("x"), dict(1).flag("x")), (Ok(false), Ok(true)));
        // Found by fuzzing: a service that reads standard input "nine quintillion times" had the id of one that does not.
        assert!(dict(2).flag("x").is_err() && dict(i64::MAX as u64).flag("x").is_err());
        assert_eq!(Dict::new().flag("x"), Err(DecodeError::Missing("x")));
    }

    #[test]
    fn a_compact_address_has_one_form() {
        for addr in ["127.0.0.1:1", "[2001:db8::7]:65535", "0.0.0.0:0"] {
            let addr: SocketAddr = addr.parse().unwrap();
            assert_eq!(parse_compact_addr(&compact_addr(addr)), Some(addr));
        }
        // Found by fuzzing: 18 bytes that were written again as 6.
        let mapped: SocketAddr = "[::ffff:255.57.0.0]:0".parse().unwrap();
        assert_eq!(compact_addr(mapped), [255, 57, 0, 0, 0, 0]);
        let IpAddr::V6(ip) = mapped.ip() else { panic!("written as IPv6") };
        assert_eq!(parse_compact_addr(&[&ip.octets()[..], &[0, 0]].concat()), None);
    }
}
