//! Errands: a relay asks the DHT for a client whose network lets no UDP through.
//!
//! The DHT is UDP, so such a node could neither tell where it is nor find anybody. A relay where it holds a session puts its
//! record and fetches others' for it. Nothing is trusted for that: a record is signed by its owner, and whatever comes back is
//! verified by who asked, as if it came from the DHT itself. A relay can withhold an answer; so can a node of the DHT.
//!
//! | frame | body | from |
//! |---|---|---|
//! | `0x3f` ask | `k` public key, `m` 1 for the most recent, `o` number of the operation; to put: `c` expected version (BEP 44 `cas`), `g` signature, `s` version, `v` value | the client |
//! | `0x40` answer | `o` number; a value: `g`, `k`, `s`, `v`; the end: `n` nodes that stored, `r` nodes that answered, `t` newest version; a failure: `e` its number | the relay |
//!
//! Values come before the end, which comes once. Items have no salt, and a client puts nothing but its own. Failures are numbered in the
//! order of [`DhtFailed`], from 1.

use crate::codec::{DecodeError, Dict, Frame};
use crate::dht::item::VALUE_MAX;
use crate::id::{OpId, PublicKey};
use crate::meter::Meter;
use crate::port::{DhtDone, DhtEvent, DhtFailed, DhtRequest, GetMode, MutableItem};
use crate::time::Duration;
use bytes::Bytes;

/// Frame kind of what a client asks.
pub const KIND_ASK: u8 = 0x3f;
/// Frame kind of what it is answered.
pub const KIND_ANSWER: u8 = 0x40;
/// Errands of one client under way.
pub const PER_CLIENT_MAX: usize = 8;
/// Errands of all clients under way.
pub const UNDER_WAY_MAX: usize = 256;
/// Errands of one client in a minute, and clients remembered for that.
const PER_MINUTE: (usize, usize) = (60, 1_024);
/// Bytes of either body: a value, its key and signature, and room for newer keys.
const BODY_BYTES_MAX: usize = 2_048;

const FAILURES: [DhtFailed; 8] = [
    DhtFailed::NoNodes,
    DhtFailed::Timeout,
    DhtFailed::Cas,
    DhtFailed::SeqTooOld,
    DhtFailed::TooBig,
    DhtFailed::BadSignature,
    DhtFailed::Offline,
    DhtFailed::Cancelled,
];

/// Counts the errands of each client.
pub const fn meter() -> Meter {
    Meter::new(PER_MINUTE.0, Duration::from_secs(60), PER_MINUTE.1)
}

/// What a client wants of the DHT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The client's number for it.
    pub op: OpId,
    /// A `GetMutable` or `PutMutable` without salt.
    pub request: DhtRequest,
}

/// What the DHT tells a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The client's number.
    pub op: OpId,
    /// What is told.
    pub told: Told,
}

/// A partial result, or the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// An item, not yet believed.
    Value(MutableItem),
    /// The end.
    Done(Result<DhtDone, DhtFailed>),
}

impl Ask {
    /// An errand out of what would go to the DHT; `None` for what relays do not run.
    pub fn new(op: OpId, request: &DhtRequest) -> Option<Self> {
        let salt = match request {
            DhtRequest::GetMutable { salt, .. } => salt,
            DhtRequest::PutMutable { item, .. } => &item.salt,
            DhtRequest::Announce { .. }
            | DhtRequest::GetPeers { .. }
            | DhtRequest::PutImmutable { .. }
            | DhtRequest::GetImmutable { .. }
            | DhtRequest::Cancel => return None,
        };
        salt.is_empty().then(|| Self { op, request: request.clone() })
    }

    /// The frame on the wire.
    pub fn to_frame(&self) -> Frame {
        let d = Dict::new().with("o", self.op.0);
        let d = match &self.request {
            DhtRequest::GetMutable { key, mode, .. } => {
                d.with("k", key).with("m", u64::from(*mode == GetMode::MostRecent))
            }
            DhtRequest::PutMutable { item, cas } => with_item(d, item).with_some("c", *cas),
            DhtRequest::Announce { .. }
            | DhtRequest::GetPeers { .. }
            | DhtRequest::PutImmutable { .. }
            | DhtRequest::GetImmutable { .. }
            | DhtRequest::Cancel => d,
        };
        Frame::new(KIND_ASK, &d)
    }

    /// Reads a frame of kind [`KIND_ASK`].
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        let d = frame.dict(KIND_ASK, BODY_BYTES_MAX)?;
        let request = if d.get("v").is_some() {
            DhtRequest::PutMutable { item: item(&d)?, cas: d.u64_opt("c")? }
        } else {
            let mode = if d.flag("m")? { GetMode::MostRecent } else { GetMode::First };
            DhtRequest::GetMutable { key: d.key("k")?, salt: Bytes::new(), mode }
        };
        Ok(Self { op: OpId(d.u64("o")?), request })
    }

    /// Whether this client may ask that: it puts nothing but its own.
    pub fn is_allowed(&self, client: &PublicKey) -> bool {
        match &self.request {
            DhtRequest::PutMutable { item, .. } => {
                item.key == *client && crate::dht::item::verify(item).is_ok()
            }
            DhtRequest::GetMutable { .. } => true,
            DhtRequest::Announce { .. }
            | DhtRequest::GetPeers { .. }
            | DhtRequest::PutImmutable { .. }
            | DhtRequest::GetImmutable { .. }
            | DhtRequest::Cancel => false,
        }
    }
}

impl Answer {
    /// The frame on the wire.
    pub fn to_frame(&self) -> Frame {
        let d = Dict::new().with("o", self.op.0);
        let d = match &self.told {
            Told::Value(item) => with_item(d, item),
            Told::Done(Ok(done)) => d
                .with("n", u64::from(done.stored))
                .with("r", u64::from(done.responded))
                .with_some("t", done.newest_seq),
            Told::Done(Err(why)) => {
                let number = FAILURES.iter().position(|f| f == why).map_or(0, |n| n as u64 + 1);
                d.with("e", number)
            }
        };
        Frame::new(KIND_ANSWER, &d)
    }

    /// Reads a frame of kind [`KIND_ANSWER`].
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        let d = frame.dict(KIND_ANSWER, BODY_BYTES_MAX)?;
        let told = if d.get("v").is_some() {
            Told::Value(item(&d)?)
        } else if let Some(number) = d.u64_opt("e")? {
            // A newer relay may know of more.
            let why = usize::try_from(number).ok().and_then(|n| FAILURES.get(n.wrapping_sub(1)));
            Told::Done(Err(why.copied().unwrap_or(DhtFailed::Offline)))
        } else {
            let done = DhtDone { stored: d.u32("n")?, responded: d.u32("r")?, newest_seq: d.u64_opt("t")? };
            Told::Done(Ok(done))
        };
        Ok(Self { op: OpId(d.u64("o")?), told })
    }

    /// What it means for who asked.
    pub fn into_event(self) -> DhtEvent {
        match self.told {
            Told::Value(item) => DhtEvent::Value { op: self.op, item },
            Told::Done(result) => DhtEvent::Done { op: self.op, result },
        }
    }
}

fn with_item(d: Dict, item: &MutableItem) -> Dict {
    d.with("k", &item.key).with("g", &item.signature.0[..]).with("s", item.seq).with("v", &item.value[..])
}

fn item(d: &Dict) -> Result<MutableItem, DecodeError> {
    Ok(MutableItem {
        key: d.key("k")?,
        salt: Bytes::new(),
        seq: d.u64("s")?,
        value: Bytes::copy_from_slice(d.bytes("v", VALUE_MAX)?),
        signature: d.signature("g")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{DhtId, Keypair};
    use proptest::prelude::*;

    fn signed(n: u8, value: &'static [u8]) -> MutableItem {
        crate::dht::item::sign(&Keypair::from_seed(&[n; 32]), b"", 7, Bytes::from_static(value)).unwrap()
    }

    #[test]
    fn errands_and_answers_come_out_of_the_wire_as_they_went_in() {
        let key = Keypair::from_seed(&[1; 32]).public();
        let get = |mode| DhtRequest::GetMutable { key, salt: Bytes::new(), mode };
        let put = |cas| DhtRequest::PutMutable { item: signed(1, b"12:hello"), cas };
        for request in [get(GetMode::First), get(GetMode::MostRecent), put(None), put(Some(6))] {
            let ask = Ask::new(OpId(1 << 56 | 3), &request).unwrap();
            assert_eq!(Ask::from_frame(&ask.to_frame()).unwrap(), ask);
        }
        let done = DhtDone { stored: 8, responded: 20, newest_seq: Some(7) };
        let ends = FAILURES.map(|why| Told::Done(Err(why)));
        let ends = ends.into_iter().chain([Told::Done(Ok(done)), Told::Done(Ok(DhtDone::default()))]);
        for told in ends.chain([Told::Value(signed(2, b""))]) {
            let answer = Answer { op: OpId(3), told };
            assert_eq!(Answer::from_frame(&answer.to_frame()).unwrap(), answer);
            assert!(Ask::from_frame(&answer.to_frame()).is_err());
        }
        assert_eq!(Ask::new(OpId(1), &DhtRequest::GetPeers { topic: DhtId([0; 20]) }), None);
        let salted = DhtRequest::GetMutable { key, salt: Bytes::from_static(b"s"), mode: GetMode::First };
        assert_eq!(Ask::new(OpId(1), &salted), None);
    }

    #[test]
    fn a_client_puts_nothing_but_its_own() {
        let key = |n| Keypair::from_seed(&[n; 32]).public();
        let put = |item| Ask::new(OpId(1), &DhtRequest::PutMutable { item, cas: None }).unwrap();
        assert!(put(signed(1, b"x")).is_allowed(&key(1)));
        assert!(!put(signed(1, b"x")).is_allowed(&key(2)));
        let forged = MutableItem { seq: 8, ..signed(1, b"x") };
        assert!(!put(forged).is_allowed(&key(1)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            for kind in [KIND_ASK, KIND_ANSWER] {
                let frame = Frame { kind, body: body.clone() };
                let _ = Ask::from_frame(&frame);
                let _ = Answer::from_frame(&frame);
            }
        }
    }
}
