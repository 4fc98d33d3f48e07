//! Bencode as strangers send it: read without copying, bounded, lenient about form.
//!
//! Our own bytes are canonical and are read by [`crate::codec`]. What arrives in a KRPC datagram was written by a dozen
//! implementations, and some sort no keys or pad their numbers; refusing those would cut us off from part of the
//! network for nothing, because the envelope is neither signed nor hashed. So the envelope is read leniently here, and
//! what *is* hashed and signed (the `v` of BEP 44) must pass [`is_canonical`].
//!
//! [`scan`] walks the whole datagram once and proves it well formed within [`DEPTH_MAX`]; after that the views
//! ([`Item`], [`Dict`]) only point into it. Nothing is allocated, so a datagram cannot make us allocate.

/// Deepest nesting: a KRPC message has three levels, a stored `v` a few of its own.
pub const DEPTH_MAX: u32 = 10;
/// Digits of the longest number: a sign and 2^63.
const DIGITS_MAX: usize = 20;

/// One value, pointing into the datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item<'a> {
    /// An integer.
    Int(i64),
    /// A byte string.
    Bytes(&'a [u8]),
    /// The inside of a list.
    List(List<'a>),
    /// The inside of a dictionary.
    Dict(Dict<'a>),
}

/// The inside of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct List<'a>(&'a [u8]);

/// The inside of a dictionary, its keys in any order; of a repeated key the first counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dict<'a>(&'a [u8]);

/// The length of the value that `bytes` begins with; `None` if it is malformed, cut off, or too deep.
pub fn scan(bytes: &[u8], depth: u32) -> Option<usize> {
    match bytes.first()? {
        b'i' => read_int(bytes).map(|(_, len)| len),
        b'0'..=b'9' => read_bytes(bytes).map(|(_, len)| len),
        open @ (b'l' | b'd') => {
            let depth = depth.checked_sub(1)?;
            let mut at = 1;
            loop {
                let rest = bytes.get(at..)?;
                if rest.first()? == &b'e' {
                    return Some(at + 1);
                }
                if *open == b'd' {
                    at += read_bytes(rest)?.1;
                }
                at += scan(bytes.get(at..)?, depth)?;
            }
        }
        _ => None,
    }
}

/// Reads a datagram that is one dictionary and nothing else.
pub fn dict(bytes: &[u8]) -> Option<Dict<'_>> {
    match item(bytes)? {
        Item::Dict(d) => Some(d),
        Item::Int(_) | Item::Bytes(_) | Item::List(_) => None,
    }
}

/// Reads bytes that are one value and nothing else.
pub fn item(bytes: &[u8]) -> Option<Item<'_>> {
    (scan(bytes, DEPTH_MAX)? == bytes.len()).then(|| view(bytes)).flatten()
}

/// A view of a value whose extent is known to be exactly `bytes`.
fn view(bytes: &[u8]) -> Option<Item<'_>> {
    match bytes.first()? {
        b'i' => read_int(bytes).map(|(n, _)| Item::Int(n)),
        b'l' => Some(Item::List(List(bytes.get(1..bytes.len() - 1)?))),
        b'd' => Some(Item::Dict(Dict(bytes.get(1..bytes.len() - 1)?))),
        _ => read_bytes(bytes).map(|(b, _)| Item::Bytes(b)),
    }
}

/// `i<digits>e`, read as leniently as anybody writes it: leading zeros and `-0` pass.
fn read_int(bytes: &[u8]) -> Option<(i64, usize)> {
    let body = bytes.get(1..bytes.len().min(DIGITS_MAX + 3))?;
    let end = body.iter().position(|b| *b == b'e')?;
    let digits = body.get(..end)?;
    if digits.first() == Some(&b'+') {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((number, end + 2))
}

/// `<length>:<bytes>`. The length is bounded by what is there.
fn read_bytes(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let head = bytes.get(..bytes.len().min(6))?;
    let colon = head.iter().position(|b| *b == b':')?;
    let digits = head.get(..colon)?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let len: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let end = (colon + 1).checked_add(len)?;
    Some((bytes.get(colon + 1..end)?, end))
}

/// Whether `bytes` are one value in the only form BEP 44 may store: sorted keys without repetition, no leading zeros, no
/// `-0`, nothing after the end. Two spellings of a value would have two targets.
pub fn is_canonical(bytes: &[u8]) -> bool {
    canonical_len(bytes, DEPTH_MAX) == Some(bytes.len())
}

fn canonical_len(bytes: &[u8], depth: u32) -> Option<usize> {
    match bytes.first()? {
        b'i' => {
            let (number, len) = read_int(bytes)?;
            (bytes.get(..len)? == format!("i{number}e").as_bytes()).then_some(len)
        }
        b'0'..=b'9' => canonical_string(bytes).map(|(_, len)| len),
        open @ (b'l' | b'd') => {
            let depth = depth.checked_sub(1)?;
            let mut at = 1;
            let mut last: Option<&[u8]> = None;
            loop {
                let rest = bytes.get(at..)?;
                if rest.first()? == &b'e' {
                    return Some(at + 1);
                }
                if *open == b'd' {
                    let (key, len) = canonical_string(rest)?;
                    if last.is_some_and(|l| l >= key) {
                        return None;
                    }
                    last = Some(key);
                    at += len;
                }
                at += canonical_len(bytes.get(at..)?, depth)?;
            }
        }
        _ => None,
    }
}

fn canonical_string(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (content, len) = read_bytes(bytes)?;
    let padded = bytes.first() == Some(&b'0') && bytes.get(1) != Some(&b':');
    (!padded).then_some((content, len))
}

impl<'a> Item<'a> {
    /// The bytes, if it is a byte string.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Item::Bytes(b) => Some(b),
            Item::Int(_) | Item::List(_) | Item::Dict(_) => None,
        }
    }

    /// The number, if it is one.
    pub fn int(self) -> Option<i64> {
        match self {
            Item::Int(n) => Some(n),
            Item::Bytes(_) | Item::List(_) | Item::Dict(_) => None,
        }
    }
}

impl<'a> List<'a> {
    /// The values, in order.
    pub fn items(self) -> impl Iterator<Item = Item<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let len = scan(rest, DEPTH_MAX)?;
            let (one, more) = rest.split_at_checked(len)?;
            rest = more;
            view(one)
        })
    }
}

impl<'a> Dict<'a> {
    /// The value under `key`, as its own bytes.
    pub fn raw(self, key: &[u8]) -> Option<&'a [u8]> {
        let mut rest = self.0;
        while !rest.is_empty() {
            let (name, len) = read_bytes(rest)?;
            rest = rest.get(len..)?;
            let (value, more) = rest.split_at_checked(scan(rest, DEPTH_MAX)?)?;
            if name == key {
                return Some(value);
            }
            rest = more;
        }
        None
    }

    /// The value under `key`.
    pub fn get(self, key: &[u8]) -> Option<Item<'a>> {
        view(self.raw(key)?)
    }

    /// The byte string under `key`.
    pub fn bytes(self, key: &[u8]) -> Option<&'a [u8]> {
        self.get(key)?.bytes()
    }

    /// The byte string of exactly `N` bytes under `key`.
    pub fn array<const N: usize>(self, key: &[u8]) -> Option<[u8; N]> {
        self.bytes(key)?.try_into().ok()
    }

    /// The number under `key`.
    pub fn int(self, key: &[u8]) -> Option<i64> {
        self.get(key)?.int()
    }

    /// The dictionary under `key`.
    pub fn dict(self, key: &[u8]) -> Option<Dict<'a>> {
        match self.get(key)? {
            Item::Dict(d) => Some(d),
            Item::Int(_) | Item::Bytes(_) | Item::List(_) => None,
        }
    }

    /// The list under `key`.
    pub fn list(self, key: &[u8]) -> Option<List<'a>> {
        match self.get(key)? {
            Item::List(l) => Some(l),
            Item::Int(_) | Item::Bytes(_) | Item::Dict(_) => None,
        }
    }
}

/// Writes bencode in the order in which it is told. Whoever writes a dictionary names its keys in order; the tests read
/// every kind of message back as canonical.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A writer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// A dictionary begins.
    pub fn open_dict(&mut self) -> &mut Self {
        self.0.push(b'd');
        self
    }

    /// A list begins.
    pub fn open_list(&mut self) -> &mut Self {
        self.0.push(b'l');
        self
    }

    /// The innermost list or dictionary ends.
    pub fn close(&mut self) -> &mut Self {
        self.0.push(b'e');
        self
    }

    /// A byte string; also a key.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.decimal(bytes.len() as u64);
        self.0.push(b':');
        self.0.extend_from_slice(bytes);
        self
    }

    /// A number.
    pub fn int(&mut self, number: u64) -> &mut Self {
        self.0.push(b'i');
        self.decimal(number);
        self.0.push(b'e');
        self
    }

    /// A value that is bencode already.
    pub fn raw(&mut self, bencode: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bencode);
        self
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    fn decimal(&mut self, mut number: u64) {
        let at = self.0.len();
        loop {
            self.0.push(b'0' + (number % 10) as u8);
            number /= 10;
            if number == 0 {
                break;
            }
        }
        if let Some(digits) = self.0.get_mut(at..) {
            digits.reverse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Value;
    use proptest::prelude::*;

    #[test]
    fn the_envelope_may_be_unsorted_padded_and_repeated() {
        let d = dict(b"d1:yi-0e1:ai007e1:a1:xe").unwrap();
        assert_eq!((d.int(b"y"), d.int(b"a"), d.get(b"b")), (Some(0), Some(7), None));
    }

    #[test]
    fn what_is_no_bencode_is_not_read() {
        let long = [b"i".as_slice(), &[b'1'; 40], b"e"].concat();
        for bad in [
            b"".as_slice(),
            b"d",
            b"i",
            b"ie",
            b"i-e",
            b"i+1e",
            b"i1",
            b"5:abc",
            b":",
            b"1",
            b"d1:ae",
            b"di1ei2ee",
            b"lee",
            b"x",
            b"-1:a",
            b"99999999999999999999:a",
            &long,
            b"i9223372036854775808e",
        ] {
            assert_eq!(item(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn nesting_is_bounded_and_costs_no_stack() {
        let deep = |n: usize| [vec![b'l'; n], vec![b'e'; n]].concat();
        assert!(item(&deep(DEPTH_MAX as usize)).is_some());
        assert!(item(&deep(DEPTH_MAX as usize + 1)).is_none());
        assert!(item(&deep(60_000)).is_none());
    }

    #[test]
    fn only_one_spelling_of_a_value_may_be_stored() {
        for good in [b"i0e".as_slice(), b"i-5e", b"0:", b"12:Hello World!", b"d1:ai1e1:b0:e", b"lli1eee"] {
            assert!(is_canonical(good), "{}", String::from_utf8_lossy(good));
        }
        for bad in
            [b"i00e".as_slice(), b"i-0e", b"01:a", b"d1:bi1e1:ai1ee", b"d1:ai1e1:ai1ee", b"i1ei2e", b"00:"]
        {
            assert!(!is_canonical(bad), "{}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(d) = dict(&bytes) {
                let _ = (d.raw(b"a"), d.list(b"b").map(|l| l.items().count()));
            }
            is_canonical(&bytes);
        }

        #[test]
        fn canonical_means_what_our_own_codec_means(text in "[dlie0-9:a-]{0,12}") {
            let ours = Value::decode(text.as_bytes(), 100).is_ok();
            prop_assert_eq!(is_canonical(text.as_bytes()), ours, "{}", text);
        }
    }
}
