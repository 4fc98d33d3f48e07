//! One operation: the core's request as calls of `mainline`, and its outcome in the core's words.

use async_channel::Sender;
use bytes::Bytes;
use mainline::async_dht::AsyncDht;
use mainline::errors::{ConcurrencyError, PutMutableError, PutQueryError};
use mainline::{Id, MutableItem};
use remote_network_core::dht::item::immutable_target;
use remote_network_core::event::Event;
use remote_network_core::id::{DhtId, OpId, PublicKey, Signature};
use remote_network_core::port::{self, AnnouncePort, DhtDone, DhtEvent, DhtFailed, DhtRequest, GetMode};
use smol::stream::StreamExt as _;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Largest value: BEP 44 allows 1000 bytes bencoded, and "996:" takes four.
const VALUE_BYTES_MAX: usize = 996;
/// Largest salt (BEP 44).
const SALT_BYTES_MAX: usize = 64;
/// A put that "timed out" sooner was refused: the crate reports most error replies as a timeout, and a real one takes
/// its two seconds.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
/// Different peers passed on for one search; more is a flood.
const PEERS_MAX: usize = 1_024;

/// What an operation is about. One at a time runs for each.
pub(super) type Target = [u8; 20];

/// The target of a request; `None` for `Cancel`.
pub(super) fn target(request: &DhtRequest) -> Option<Target> {
    match request {
        DhtRequest::Announce { topic, .. } | DhtRequest::GetPeers { topic } => Some(*topic.as_bytes()),
        DhtRequest::PutMutable { item, .. } => Some(item_target(&item.key, &item.salt)),
        DhtRequest::GetMutable { key, salt, .. } => Some(item_target(key, salt)),
        DhtRequest::PutImmutable { value } => Some(*immutable_target(value).as_bytes()),
        DhtRequest::GetImmutable { target } => Some(*target.as_bytes()),
        DhtRequest::Cancel => None,
    }
}

fn item_target(key: &PublicKey, salt: &Bytes) -> Target {
    *MutableItem::target_from_key(key.as_bytes(), some_salt(salt)).as_bytes()
}

/// BEP 44: an empty salt is no salt.
fn some_salt(salt: &Bytes) -> Option<&[u8]> {
    (!salt.is_empty()).then_some(&salt[..])
}

/// Where an operation's events go.
#[derive(Clone)]
pub(super) enum Answers {
    /// To the core.
    Core(Sender<Event>),
    /// To whoever asked beside it.
    Tool(Sender<DhtEvent>),
}

impl Answers {
    /// Nobody listens any more when the driver or the asker is gone; the operation then ends by itself.
    pub(super) async fn tell(&self, event: DhtEvent) {
        match self {
            Answers::Core(events) => drop(events.send(Event::Dht(event)).await),
            Answers::Tool(asker) => drop(asker.try_send(event)),
        }
    }
}

/// An operation on a running backend.
pub(super) struct Operation {
    pub(super) op: OpId,
    pub(super) dht: AsyncDht,
    /// Whether our own node is among those that store and answer.
    pub(super) is_server: bool,
    pub(super) answers: Answers,
}

impl Operation {
    pub(super) async fn run(self, request: DhtRequest) -> Result<DhtDone, DhtFailed> {
        match request {
            DhtRequest::Announce { topic, port } => {
                let port = match port {
                    AnnouncePort::Implied => None,
                    AnnouncePort::Explicit(port) => Some(port),
                };
                let began = Instant::now();
                match self.dht.announce_peer(Id::from(*topic.as_bytes()), port).await {
                    // The crate does not say how many stored it; at least one did.
                    Ok(_) => Ok(DhtDone { stored: 1, responded: 1, newest_seq: None }),
                    Err(e) => Err(put_failed(&e, began.elapsed())),
                }
            }
            DhtRequest::GetPeers { topic } => self.get_peers(Id::from(*topic.as_bytes())).await,
            DhtRequest::PutMutable { item, cas } => self.put(item, cas).await,
            DhtRequest::GetMutable { key, salt, mode } => self.get(key, salt, mode).await,
            DhtRequest::PutImmutable { value } => self.put_immutable(&value).await,
            DhtRequest::GetImmutable { target } => self.get_immutable(target).await,
            DhtRequest::Cancel => Err(DhtFailed::Cancelled),
        }
    }

    async fn tell(&self, event: DhtEvent) {
        self.answers.tell(event).await;
    }

    async fn get_peers(&self, topic: Id) -> Result<DhtDone, DhtFailed> {
        let mut replies = self.dht.get_peers(topic);
        let mut seen = BTreeSet::new();
        let mut responded = 0;
        while let Some(peers) = replies.next().await {
            responded += 1;
            let fresh = peers.into_iter().filter(|peer| seen.len() < PEERS_MAX && seen.insert(*peer));
            let addrs: Vec<SocketAddr> = fresh.map(SocketAddr::V4).collect();
            if !addrs.is_empty() {
                self.tell(DhtEvent::Peers { op: self.op, addrs }).await;
            }
        }
        if responded == 0 && self.dht.to_bootstrap().await.is_empty() {
            return Err(DhtFailed::NoNodes);
        }
        Ok(DhtDone { stored: 0, responded, newest_seq: None })
    }

    async fn put(&self, item: port::MutableItem, cas: Option<u64>) -> Result<DhtDone, DhtFailed> {
        if item.value.len() > VALUE_BYTES_MAX || item.salt.len() > SALT_BYTES_MAX {
            return Err(DhtFailed::TooBig);
        }
        // Numbers of 2^63 and more cannot be in a signed item (BEP 44), nor be expected of one.
        let seq = i64::try_from(item.seq).map_err(|_| DhtFailed::BadSignature)?;
        let cas = cas.map(i64::try_from).transpose().map_err(|_| DhtFailed::Cas)?;
        let signed = MutableItem::new_signed_unchecked(
            *item.key.as_bytes(),
            item.signature.0,
            &item.value,
            seq,
            some_salt(&item.salt),
        );
        // The put uses the nodes of this lookup, so it costs nothing more; whether we are one of them is known only so.
        let ours = match self.is_server {
            true => {
                let own = *self.dht.info().await.id();
                let nearest = self.dht.get_closest_nodes(*signed.target()).await;
                nearest.iter().any(|node| *node.id() == own)
            }
            false => false,
        };
        let began = Instant::now();
        match self.dht.put_mutable(signed, cas).await {
            Ok(outcome) => {
                let stored = outcome.stored_at.saturating_sub(u32::from(ours));
                match stored {
                    // Our own node took it and nobody else.
                    0 => Err(DhtFailed::NoNodes),
                    _ => Ok(DhtDone { stored, responded: stored, newest_seq: Some(item.seq) }),
                }
            }
            Err(PutMutableError::Query(e)) => Err(put_failed(&e, began.elapsed())),
            Err(PutMutableError::Concurrency(e)) => Err(match e {
                ConcurrencyError::ConflictRisk | ConcurrencyError::CasFailed => DhtFailed::Cas,
                ConcurrencyError::NotMostRecent => DhtFailed::SeqTooOld,
            }),
        }
    }

    async fn put_immutable(&self, value: &[u8]) -> Result<DhtDone, DhtFailed> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(DhtFailed::TooBig);
        }
        let began = Instant::now();
        match self.dht.put_immutable(value).await {
            // The crate does not say how many stored it; at least one did.
            Ok(_) => Ok(DhtDone { stored: 1, responded: 1, newest_seq: None }),
            Err(e) => Err(put_failed(&e, began.elapsed())),
        }
    }

    async fn get_immutable(&self, target: DhtId) -> Result<DhtDone, DhtFailed> {
        match self.dht.get_immutable(Id::from(*target.as_bytes())).await {
            Some(value) => {
                let value = Bytes::copy_from_slice(&value);
                self.tell(DhtEvent::Immutable { op: self.op, value }).await;
                Ok(DhtDone { stored: 0, responded: 1, newest_seq: None })
            }
            None if self.dht.to_bootstrap().await.is_empty() => Err(DhtFailed::NoNodes),
            None => Ok(DhtDone::default()),
        }
    }

    async fn get(&self, key: PublicKey, salt: Bytes, mode: GetMode) -> Result<DhtDone, DhtFailed> {
        let mut lookup = self.dht.get_mutable_detailed(key.as_bytes(), some_salt(&salt), None);
        let mut newest: Option<(u64, Bytes)> = None;
        let mut values = 0;
        while let Some(found) = lookup.items.next().await {
            values += 1;
            let Ok(seq) = u64::try_from(found.seq()) else { continue };
            let value = Bytes::copy_from_slice(found.value());
            // Copies of what was passed on already, and older versions, teach the core nothing.
            if newest.as_ref().is_some_and(|best| (seq, &value) <= (best.0, &best.1)) {
                continue;
            }
            newest = Some((seq, value.clone()));
            let signature = Signature(*found.signature());
            let item = port::MutableItem { key, salt: salt.clone(), seq, value, signature };
            self.tell(DhtEvent::Value { op: self.op, item }).await;
            if mode == GetMode::First {
                return Ok(DhtDone { stored: 0, responded: values, newest_seq: Some(seq) });
            }
        }
        let outcome = lookup.outcome.recv().await;
        let responded = outcome.responded().saturating_sub(u32::from(self.is_server));
        if responded == 0 && newest.is_none() {
            return Err(DhtFailed::NoNodes);
        }
        Ok(DhtDone { stored: 0, responded, newest_seq: newest.map(|(seq, _)| seq) })
    }
}

fn put_failed(error: &PutQueryError, took: Duration) -> DhtFailed {
    match error {
        PutQueryError::NoClosestNodes => DhtFailed::NoNodes,
        PutQueryError::ErrorResponse(reply) => match reply.code {
            205 | 207 => DhtFailed::TooBig,
            301 => DhtFailed::Cas,
            302 => DhtFailed::SeqTooOld,
            _ => DhtFailed::BadSignature,
        },
        PutQueryError::Timeout if took < REFUSED_WITHIN => DhtFailed::BadSignature,
        PutQueryError::Timeout => DhtFailed::Timeout,
    }
}
