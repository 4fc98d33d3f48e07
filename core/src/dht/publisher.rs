//! Keeping the node's own record in the DHT.
//!
//! **Versions.** A version number (`seq`) that was ever published must never be used for other content, and never go
//! back: readers and stores refuse both. So `seq` is journaled before the put leaves, and because a journal may be an
//! old backup, the first thing after a start is to read the DHT (the whole lookup) and to go above whatever is found
//! there under our own signature. A number without our signature is nobody's: a store that claims 2^63 cannot exhaust
//! ours. `seq = max(last + 1, Unix milliseconds)`, so that even a node that lost everything goes above itself.
//!
//! **When.** At once on a change, but not within [`CHANGE_GAP`] of the put before (a flapping relay costs one put in
//! five seconds); else every 30 min ± 10 % with the *same* `seq` and bytes, to keep it alive (stores expire after
//! about 2 h). A record that has less than a quarter of its validity left is issued anew, which is new content and so
//! a new `seq`. A put counts when one node stored it: the smallest network has no more, and the next keep-alive mends
//! the rest. Failures back off from 5 s to 5 min with jitter.
//!
//! **Who.** Public nodes and relays publish once they know an address; private ones once a relay session exists,
//! because until then nobody could use what they say. In a private or offline network
//! (`publish_private`) they publish the addresses their peers observe. A record once published is always replaced,
//! also by one with less in it.

use super::item::{self, SEQ_MAX};
use super::record::{NodeRecord, NodeType, RecordContent, VALIDITY};
use super::scheduler::RequestFailed;
use crate::codec::{DecodeError, Dict};
use crate::id::Keypair;
use crate::machine::{Cx, Machine};
use crate::port::{DhtDone, DhtFailed, DhtRequest, GetMode, MutableItem};
use crate::store::{Room, StoreOp, Subject};
use crate::time::{Deadline, Duration, Instant, UnixTime};
use bytes::Bytes;

/// Keep-alive of the record (SPEC 2.4), ± 10 %.
pub const REPUBLISH_EVERY: Duration = Duration::from_secs(30 * 60);
/// Least time between two puts because of changes.
pub const CHANGE_GAP: Duration = Duration::from_secs(5);
/// First back-off after a failure, doubled each time.
pub const BACKOFF_MIN: Duration = Duration::from_secs(5);
/// Longest back-off.
pub const BACKOFF_MAX: Duration = Duration::from_secs(300);

const VERSION: u64 = 1;

/// What can happen to the publisher.
#[derive(Clone, Debug)]
pub enum Input {
    /// What the record should say from now on.
    Content(Box<RecordContent>),
    /// A value came for the read.
    Value(MutableItem),
    /// The request under way ended.
    Done(Result<DhtDone, RequestFailed>),
}

/// What the publisher asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Journal the next `seq`; the put after it depends on this.
    Persist(StoreOp),
    /// Ask the DHT. At most one request is under way; it is answered by `Done`.
    Request(DhtRequest),
    /// The record is stored.
    Published {
        /// Its version.
        seq: u64,
        /// By so many nodes.
        stored: u32,
    },
    /// Something was not believed.
    Refused(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum UnderWay {
    Nothing,
    Read,
    Put,
}

/// A signed version of the record.
#[derive(Clone, Debug)]
struct Signed {
    item: MutableItem,
    content: RecordContent,
    renew_at: UnixTime,
}

/// Keeps the node's record published.
#[derive(Debug)]
pub struct Publisher {
    keypair: Keypair,
    publish_private: bool,
    every: Duration,
    content: Option<RecordContent>,
    last_seq: u64,
    read_done: bool,
    signed: Option<Signed>,
    under_way: UnderWay,
    next: Option<Instant>,
    last_put: Option<Instant>,
    failures: u32,
    stored: Option<(u64, UnixTime)>,
}

impl Publisher {
    /// A publisher that has published nothing yet. `publish_private`: private nodes publish without a relay session.
    pub fn new(keypair: Keypair, publish_private: bool) -> Self {
        Self {
            keypair,
            publish_private,
            every: REPUBLISH_EVERY,
            content: None,
            last_seq: 0,
            read_done: false,
            signed: None,
            under_way: UnderWay::Nothing,
            next: None,
            last_put: None,
            failures: 0,
            stored: None,
        }
    }

    /// Stores the record again this often, ± 10 %, instead of every [`REPUBLISH_EVERY`].
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Takes back what the journal says of [`Room::Publisher`].
    pub fn restore(&mut self, record: &[u8]) -> Result<(), DecodeError> {
        let d = Dict::decode(record, 256)?;
        match d.u64("v")? {
            VERSION => self.last_seq = self.last_seq.max(d.u64("seq")?),
            number => return Err(DecodeError::Unknown { what: "publisher record version", number }),
        }
        Ok(())
    }

    /// `seq` of the record as last stored in the DHT, and when.
    pub fn stored(&self) -> Option<(u64, UnixTime)> {
        self.stored
    }

    /// What the record waits for while it is not stored: words for people.
    pub fn waiting(&self) -> Option<&'static str> {
        match &self.content {
            None => Some("the node to know what to say"),
            Some(c) if !self.publishable(c) => Some(match c.node_type {
                NodeType::Public => "an address: none is configured, and no peer has observed one yet",
                NodeType::Private if self.publish_private => "an address: no peer has observed one yet",
                NodeType::Private => "a relay session: private nodes publish only once they can be reached",
            }),
            Some(_) if self.stored.is_some() => None,
            Some(_) if self.failures > 0 => Some("the DHT: no node has answered yet; trying again"),
            Some(_) => Some("the DHT's answer"),
        }
    }

    fn publishable(&self, c: &RecordContent) -> bool {
        let has_address = !c.public.is_empty() || !c.private.is_empty();
        self.signed.is_some()
            || !c.attachments.is_empty()
            || match c.node_type {
                NodeType::Public => has_address,
                NodeType::Private => self.publish_private && has_address,
            }
    }

    fn set_content(&mut self, cx: &mut Cx<'_, Output>, content: RecordContent) {
        if self.content.as_ref() == Some(&content) {
            return;
        }
        self.content = Some(content);
        self.failures = 0;
        self.schedule_change(cx);
    }

    /// Plans the next put at once, or when the gap since the last one has passed.
    fn schedule_change(&mut self, cx: &mut Cx<'_, Output>) {
        if self.under_way != UnderWay::Nothing || !self.content.as_ref().is_some_and(|c| self.publishable(c))
        {
            return;
        }
        let gap_over = self.last_put.map_or(cx.now, |at| at + CHANGE_GAP);
        self.next = Some(gap_over.max(cx.now));
        self.act_if_due(cx);
    }

    fn act_if_due(&mut self, cx: &mut Cx<'_, Output>) {
        if self.under_way != UnderWay::Nothing || self.next.is_none_or(|at| at > cx.now) {
            return;
        }
        self.next = None;
        if self.read_done {
            self.put(cx);
        } else {
            self.under_way = UnderWay::Read;
            let key = self.keypair.public();
            let salt = Bytes::new();
            cx.emit(Output::Request(DhtRequest::GetMutable { key, salt, mode: GetMode::MostRecent }));
        }
    }

    fn put(&mut self, cx: &mut Cx<'_, Output>) {
        let Some(content) = self.content.clone() else { return };
        let same = self.signed.as_ref().filter(|s| s.content == content && s.renew_at > cx.wall);
        let item = match same {
            Some(signed) => signed.item.clone(),
            None => {
                let seq = self.last_seq.saturating_add(1).max(cx.wall.as_millis()).min(SEQ_MAX);
                let record = NodeRecord::issue(content.clone(), cx.wall);
                let Ok(item) = item::sign(&self.keypair, b"", seq, record.encode()) else {
                    // Records are at most 700 bytes, without salt, and seq is capped: there is nothing to refuse.
                    debug_assert!(false, "a record of ours cannot be signed");
                    return;
                };
                self.last_seq = seq;
                let renew_at = record.issued.plus(VALIDITY / 4 * 3);
                self.signed = Some(Signed { item: item.clone(), content, renew_at });
                let record = Dict::new().with("seq", seq).with("v", VERSION).encode().into();
                cx.emit(Output::Persist(StoreOp::Replace {
                    subject: Subject::new(Room::Publisher, b""),
                    record,
                }));
                item
            }
        };
        self.under_way = UnderWay::Put;
        self.last_put = Some(cx.now);
        cx.emit(Output::Request(DhtRequest::PutMutable { item, cas: None }));
    }

    fn value(&mut self, cx: &mut Cx<'_, Output>, found: &MutableItem) {
        if self.under_way != UnderWay::Read {
            return;
        }
        if found.key == self.keypair.public() && found.salt.is_empty() && item::verify(found).is_ok() {
            self.last_seq = self.last_seq.max(found.seq);
        } else {
            cx.emit(Output::Refused("forged-own-record"));
        }
    }

    fn done(&mut self, cx: &mut Cx<'_, Output>, result: Result<DhtDone, RequestFailed>) {
        match std::mem::replace(&mut self.under_way, UnderWay::Nothing) {
            UnderWay::Nothing => {}
            UnderWay::Read => match result {
                Ok(_) => {
                    self.read_done = true;
                    self.failures = 0;
                    self.schedule_change(cx);
                }
                Err(_) => self.back_off(cx),
            },
            UnderWay::Put => match result {
                Ok(done) if done.stored > 0 => self.stored_by(cx, done.stored),
                Ok(_) => self.back_off(cx),
                Err(e) => {
                    if matches!(e, RequestFailed::Dht(DhtFailed::SeqTooOld | DhtFailed::Cas)) {
                        // Another incarnation of this key was here: read again and issue above it.
                        self.read_done = false;
                        if let Some(signed) = &mut self.signed {
                            signed.renew_at = UnixTime::default();
                        }
                    }
                    self.back_off(cx);
                }
            },
        }
    }

    fn stored_by(&mut self, cx: &mut Cx<'_, Output>, stored: u32) {
        self.failures = 0;
        let Some(signed) = &self.signed else { return };
        let seq = signed.item.seq;
        let changed = self.content.as_ref() != Some(&signed.content);
        self.stored = Some((seq, cx.wall));
        cx.emit(Output::Published { seq, stored });
        self.next = Some(cx.now + cx.rng.jitter(self.every, 10));
        if changed {
            self.schedule_change(cx);
        }
    }

    fn back_off(&mut self, cx: &mut Cx<'_, Output>) {
        let delay = BACKOFF_MIN.saturating_mul(1 << self.failures.min(10)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        self.next = Some(cx.now + cx.rng.jitter(delay, 25));
    }
}

impl Machine for Publisher {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Content(content) => self.set_content(cx, *content),
            Input::Value(item) => self.value(cx, &item),
            Input::Done(result) => self.done(cx, result),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        self.act_if_due(cx);
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        if self.under_way != UnderWay::Nothing {
            return None;
        }
        self.next.map(|at| Deadline::new(at, if self.failures > 0 { "publish again" } else { "republish" }))
    }
}

#[cfg(test)]
mod tests;
