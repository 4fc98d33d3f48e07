//! The DHT for people and scripts: items, announcements and how it is.
//!
//! Requests go to the DHT's port beside the core (`crate::ports::dht::DhtHandle`). Mutable items are signed here with
//! the node's key, or were signed by whoever asks with a key of theirs, which then never leaves them. The node's key
//! without a salt is the place of its own record, so there nothing else can be put.

use super::error::ApiError;
use super::routes::{Json, parse_id};
use super::state::ApiState;
use crate::ports::dht::{DhtHandle, DhtStatus, Found};
use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use bytes::Bytes;
use remote_network_core::command::{Command, Reply};
use remote_network_core::dht::item::{self, ItemError, SALT_MAX, SEQ_MAX, VALUE_MAX};
use remote_network_core::id::{DhtId, Keypair, PublicKey, Signature};
use remote_network_core::port::{AnnouncePort, DhtDone, DhtFailed, DhtRequest, GetMode, MutableItem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What the API needs for the DHT.
#[derive(Clone)]
pub struct ApiDht {
    /// The way to the port.
    pub handle: DhtHandle,
    /// The node's key, which signs what is put without another one.
    pub keypair: Keypair,
}

impl ApiDht {
    /// Carries out one operation; its failure becomes an API error.
    async fn run(&self, request: DhtRequest) -> Result<(DhtDone, Found), ApiError> {
        let found = self.handle.run(request).await;
        match found.result {
            Ok(done) => Ok((done, found)),
            Err(why) => Err(why.into()),
        }
    }

    /// The newest version of an item.
    async fn newest(&self, key: PublicKey, salt: &Bytes) -> Result<(DhtDone, Option<MutableItem>), ApiError> {
        let request = DhtRequest::GetMutable { key, salt: salt.clone(), mode: GetMode::MostRecent };
        let (done, mut found) = self.run(request).await?;
        found.items.retain(|item| item::verify(item).is_ok() && item.key == key && item.salt == *salt);
        Ok((done, found.items.into_iter().max_by_key(|item| item.seq)))
    }
}

impl From<DhtFailed> for ApiError {
    fn from(why: DhtFailed) -> Self {
        let (status, code, hint) = match why {
            DhtFailed::Offline => {
                (StatusCode::SERVICE_UNAVAILABLE, "dht_offline", "`dht_mode` says which DHT this node is in")
            }
            DhtFailed::NoNodes => (
                StatusCode::SERVICE_UNAVAILABLE,
                "dht_no_nodes",
                "check `dht_bootstrap` and that UDP is not blocked; GET /api/v1/dht/status shows the table",
            ),
            DhtFailed::Timeout => (StatusCode::GATEWAY_TIMEOUT, "dht_timeout", "try again"),
            DhtFailed::Cas => (
                StatusCode::CONFLICT,
                "dht_cas",
                "read the item, and put again on top of the version that is there",
            ),
            DhtFailed::SeqTooOld => {
                (StatusCode::CONFLICT, "dht_seq_too_old", "put with a higher `seq` than the stored one")
            }
            DhtFailed::TooBig => (StatusCode::PAYLOAD_TOO_LARGE, "dht_too_big", "996 bytes, and 64 of salt"),
            DhtFailed::BadSignature => {
                (StatusCode::BAD_REQUEST, "dht_bad_signature", "sign the bytes that BEP 44 names")
            }
            DhtFailed::Cancelled => (StatusCode::SERVICE_UNAVAILABLE, "dht_cancelled", "try again"),
        };
        Self::new(status, code, why.to_string(), hint)
    }
}

impl From<ItemError> for ApiError {
    fn from(e: ItemError) -> Self {
        match e {
            ItemError::Salt | ItemError::Value => DhtFailed::TooBig.into(),
            ItemError::Seq => Self::bad_request("seq", e.to_string(), "a number from 0 to 2^63-1"),
            ItemError::Signature => DhtFailed::BadSignature.into(),
        }
    }
}

const KEY_HINT: &str = "a public key (key_…)";
const HASH_HINT: &str = "40 hex digits";

/// An item that was found.
#[derive(Serialize)]
pub struct ItemDto {
    target: String,
    /// The value in hex.
    value: String,
    /// The value as text, if it is such.
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    salt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    responded: u32,
}

impl ItemDto {
    fn of(target: DhtId, value: &[u8], responded: u32) -> Self {
        let text = std::str::from_utf8(value).ok().map(str::to_owned);
        let value = hex(value);
        Self {
            target: target.to_string(),
            value,
            text,
            key: None,
            salt: None,
            seq: None,
            signature: None,
            responded,
        }
    }
}

/// Which item: the hash of an immutable one, or key and salt of a mutable one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    target: Option<String>,
    key: Option<String>,
    #[serde(default)]
    salt: String,
}

/// `POST /dht/get`
pub async fn get(
    State(state): State<ApiState>,
    Json(request): Json<Get>,
) -> Result<Answer<ItemDto>, ApiError> {
    let nothing = |responded: u32| {
        let message = format!("no such item: {responded} DHT nodes were asked");
        ApiError::not_found(message, "it may have expired; its owner must put it again every hour or two")
    };
    match (&request.target, &request.key) {
        (Some(target), None) if request.salt.is_empty() => {
            let target: DhtId = parse_id("target", target, HASH_HINT)?;
            let (done, found) = state.dht.run(DhtRequest::GetImmutable { target }).await?;
            let value = found.value.filter(|value| item::immutable_target(value) == target);
            let value = value.ok_or_else(|| nothing(done.responded))?;
            Ok(Answer(ItemDto::of(target, &value, done.responded)))
        }
        (None, Some(key)) => {
            let key: PublicKey = parse_id("key", key, KEY_HINT)?;
            let salt = salt(&request.salt)?;
            let (done, item) = state.dht.newest(key, &salt).await?;
            let item = item.ok_or_else(|| nothing(done.responded))?;
            Ok(Answer(ItemDto {
                key: Some(key.to_string()),
                salt: Some(request.salt).filter(|s| !s.is_empty()),
                seq: Some(item.seq),
                signature: Some(hex(&item.signature.0)),
                ..ItemDto::of(item::target(&key, &salt), &item.value, done.responded)
            }))
        }
        _ => Err(ApiError::bad_request(
            "body",
            "an item is named by `target`, or by `key` and perhaps `salt`",
            "name one of them",
        )),
    }
}

/// What to store. Nothing but a value: an immutable item. With a salt: a mutable one under the node's key. With key,
/// `seq` and signature: one that is signed already.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    value: String,
    salt: Option<String>,
    seq: Option<u64>,
    cas: Option<u64>,
    key: Option<String>,
    signature: Option<String>,
}

/// What became of it.
#[derive(Serialize)]
pub struct PutDto {
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    stored: u32,
    responded: u32,
}

/// `POST /dht/put`
pub async fn put(
    State(state): State<ApiState>,
    Json(request): Json<Put>,
) -> Result<Answer<PutDto>, ApiError> {
    let value = unhex("value", &request.value)?;
    if value.len() > VALUE_MAX {
        return Err(DhtFailed::TooBig.into());
    }
    let Put { salt: None, seq: None, cas: None, key: None, signature: None, .. } = &request else {
        return put_mutable(&state.dht, &request, value).await;
    };
    let target = item::immutable_target(&value);
    let (done, _) = state.dht.run(DhtRequest::PutImmutable { value }).await?;
    let (stored, responded) = (done.stored, done.responded);
    Ok(Answer(PutDto { target: target.to_string(), key: None, seq: None, stored, responded }))
}

async fn put_mutable(dht: &ApiDht, request: &Put, value: Bytes) -> Result<Answer<PutDto>, ApiError> {
    let salt = salt(request.salt.as_deref().unwrap_or_default())?;
    let item = match (&request.key, &request.signature, request.seq) {
        (Some(key), Some(signature), Some(seq)) => {
            let key: PublicKey = parse_id("key", key, KEY_HINT)?;
            let signature = unhex("signature", signature)?;
            let signature = <[u8; 64]>::try_from(&signature[..])
                .map_err(|_| ApiError::bad_request("signature", "not 64 bytes", "128 hex digits"))?;
            let item = MutableItem { key, salt, seq, value, signature: Signature(signature) };
            item::verify(&item)?;
            item
        }
        (None, None, seq) => {
            if salt.is_empty() {
                return Err(ApiError::bad_request(
                    "salt",
                    "without a salt this is the place of the node's own record",
                    "choose a salt, or sign with a key of your own",
                ));
            }
            let seq = match seq {
                Some(seq) => seq,
                None => match dht.newest(dht.keypair.public(), &salt).await?.1 {
                    Some(newest) => newest.seq.saturating_add(1),
                    None => 1,
                },
            };
            item::sign(&dht.keypair, &salt, seq, value)?
        }
        _ => {
            return Err(ApiError::bad_request(
                "key",
                "an item signed elsewhere comes with `key`, `seq` and `signature`",
                "send all three, or none of `key` and `signature`",
            ));
        }
    };
    if request.cas.is_some_and(|cas| cas > SEQ_MAX) {
        return Err(ApiError::bad_request("cas", "no `seq` is that high", "a number from 0 to 2^63-1"));
    }
    let (target, key, seq) = (item::target(&item.key, &item.salt), item.key, item.seq);
    let (done, _) = dht.run(DhtRequest::PutMutable { item, cas: request.cas }).await?;
    Ok(Answer(PutDto {
        target: target.to_string(),
        key: Some(key.to_string()),
        seq: Some(seq),
        stored: done.stored,
        responded: done.responded,
    }))
}

/// What to announce, and under which port if not QUIC's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announce {
    info_hash: String,
    port: Option<u16>,
}

/// What became of it.
#[derive(Serialize)]
pub struct AnnounceDto {
    info_hash: String,
    stored: u32,
    responded: u32,
}

/// `POST /dht/announce`
pub async fn announce(
    State(state): State<ApiState>,
    Json(request): Json<Announce>,
) -> Result<Answer<AnnounceDto>, ApiError> {
    let topic: DhtId = parse_id("info_hash", &request.info_hash, HASH_HINT)?;
    let port = match request.port {
        Some(0) => return Err(ApiError::bad_request("port", "no port", "a number from 1 to 65535")),
        Some(port) => AnnouncePort::Explicit(port),
        None if state.dht.handle.status().await.shared_socket => AnnouncePort::Implied,
        None => match state.ask(Command::Status).await? {
            Reply::Status(view) => {
                AnnouncePort::Explicit(view.local_addrs.first().map_or(0, SocketAddr::port))
            }
            other => return Err(ApiError::unexpected(&other)),
        },
    };
    let (done, _) = state.dht.run(DhtRequest::Announce { topic, port }).await?;
    let (stored, responded) = (done.stored, done.responded);
    Ok(Answer(AnnounceDto { info_hash: topic.to_string(), stored, responded }))
}

/// Whose peers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeersOf {
    info_hash: String,
}

/// Who announced.
#[derive(Serialize)]
pub struct PeersDto {
    info_hash: String,
    peers: Vec<String>,
    responded: u32,
}

/// `POST /dht/peers`
pub async fn peers(
    State(state): State<ApiState>,
    Json(request): Json<PeersOf>,
) -> Result<Answer<PeersDto>, ApiError> {
    let topic: DhtId = parse_id("info_hash", &request.info_hash, HASH_HINT)?;
    let (done, found) = state.dht.run(DhtRequest::GetPeers { topic }).await?;
    let mut peers = found.peers;
    peers.sort_unstable();
    let peers = peers.iter().map(ToString::to_string).collect();
    Ok(Answer(PeersDto { info_hash: topic.to_string(), peers, responded: done.responded }))
}

/// How the DHT is.
#[derive(Serialize)]
pub struct DhtStatusDto {
    backend: &'static str,
    local: Option<String>,
    shared_socket: bool,
    families: Vec<FamilyDto>,
    read_only: Option<bool>,
    kept_values: Option<usize>,
    kept_peers: Option<usize>,
    operations: usize,
    operations_waiting: usize,
    refused: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct FamilyDto {
    family: &'static str,
    id: String,
    nodes: usize,
    observed: Option<ObservedDto>,
}

#[derive(Serialize)]
struct ObservedDto {
    addr: String,
    votes: u32,
}

/// `GET /dht/status`
pub async fn status(State(state): State<ApiState>) -> Result<Answer<DhtStatusDto>, ApiError> {
    let DhtStatus { backend, local, shared_socket, families, read_only, kept, operations, refused } =
        state.dht.handle.status().await;
    let families = families.into_iter().map(|f| FamilyDto {
        family: if f.ipv6 { "ipv6" } else { "ipv4" },
        id: f.id.to_string(),
        nodes: f.nodes,
        observed: f.observed.map(|(addr, votes)| ObservedDto { addr: addr.to_string(), votes }),
    });
    Ok(Answer(DhtStatusDto {
        backend,
        local: local.map(|a| a.to_string()),
        shared_socket,
        families: families.collect(),
        read_only,
        kept_values: kept.map(|(values, _)| values),
        kept_peers: kept.map(|(_, peers)| peers),
        operations: operations.0,
        operations_waiting: operations.1,
        refused,
    }))
}

fn salt(text: &str) -> Result<Bytes, ApiError> {
    if text.len() > SALT_MAX {
        return Err(ApiError::bad_request("salt", "longer than 64 bytes", "choose a shorter one"));
    }
    Ok(Bytes::copy_from_slice(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(place: &str, text: &str) -> Result<Bytes, ApiError> {
    let wrong =
        || ApiError::bad_request(place, "not a whole number of hex bytes", "two hex digits for each byte");
    let digit = |c: u8| char::from(c).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|[a, b]| u8::try_from(digit(*a)? << 4 | digit(*b)?).ok()).collect();
    bytes.filter(|_| rest.is_empty()).map(Bytes::from).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_their_hex_form_and_what_is_none_is_refused() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex("value", &hex(&bytes)).unwrap(), bytes);
        assert_eq!(unhex("value", "").unwrap(), Bytes::new());
        for wrong in ["a", "0g", "é0", "0x00"] {
            assert!(unhex("value", wrong).is_err(), "{wrong}");
        }
    }
}
