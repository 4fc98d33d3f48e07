//! The node and its peers.

use super::dto::{PeerDto, StatusDto};
use super::error::ApiError;
use super::routes::{Json, Segments, parse_id};
use super::state::ApiState;
use axum::Json as Answer;
use axum::extract::State;
use remote_network_core::command::{Command, Reply};
use remote_network_core::id::{PeerName, PublicKey};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

const PEER_HINT: &str = "a peer is named by its public key (key_…) or its peer id (40 hex digits)";

/// A request whose body says nothing. It is JSON all the same, which a foreign form cannot send.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// An answer that says nothing but that it is done.
#[derive(Serialize)]
pub struct Done {
    done: bool,
}

impl Done {
    /// Reads the core's `Done`.
    pub fn of(reply: &Reply) -> Result<Answer<Self>, ApiError> {
        match reply {
            Reply::Done => Ok(Answer(Self { done: true })),
            other => Err(ApiError::unexpected(other)),
        }
    }
}

/// `GET /status`
pub async fn status(State(state): State<ApiState>) -> Result<Answer<StatusDto>, ApiError> {
    match state.ask(Command::Status).await? {
        Reply::Status(view) => Ok(Answer(StatusDto::from(view.as_ref()))),
        other => Err(ApiError::unexpected(&other)),
    }
}

/// `POST /shutdown`
pub async fn shutdown(
    State(state): State<ApiState>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Answer<Done>, ApiError> {
    Done::of(&state.ask(Command::Shutdown).await?)
}

/// All known peers.
#[derive(Serialize)]
pub struct Peers {
    peers: Vec<PeerDto>,
}

/// `GET /peers`
pub async fn peers(State(state): State<ApiState>) -> Result<Answer<Peers>, ApiError> {
    match state.ask(Command::Peers).await? {
        Reply::Peers(views) => Ok(Answer(Peers { peers: views.iter().map(PeerDto::from).collect() })),
        other => Err(ApiError::unexpected(&other)),
    }
}

/// `GET /peers/{peer}`
pub async fn peer(
    State(state): State<ApiState>,
    Segments(name): Segments<String>,
) -> Result<Answer<PeerDto>, ApiError> {
    let name: PeerName = parse_id("path", &name, PEER_HINT)?;
    one_peer(&state.ask(Command::Peer(name)).await?)
}

/// Whom to connect to, and where if that is known.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    peer: String,
    addr: Option<String>,
}

/// `POST /peers/connect`: answered once connected.
pub async fn connect(
    State(state): State<ApiState>,
    Json(request): Json<Connect>,
) -> Result<Answer<PeerDto>, ApiError> {
    let peer: PeerName = parse_id("peer", &request.peer, PEER_HINT)?;
    let addr: Option<SocketAddr> = match &request.addr {
        Some(text) => {
            Some(parse_id("addr", text, "an address is written 192.0.2.1:30906 or [2001:db8::1]:30906")?)
        }
        None => None,
    };
    one_peer(&state.ask(Command::Connect { peer, addr }).await?)
}

/// Whom to block, or to block no more.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    peer: String,
    blocked: bool,
}

/// `POST /peers/block`: answered once it is journaled.
pub async fn block(
    State(state): State<ApiState>,
    Json(request): Json<Block>,
) -> Result<Answer<Done>, ApiError> {
    let key = key_of(&state, &request.peer).await?;
    Done::of(&state.ask(Command::Block { key, blocked: request.blocked }).await?)
}

/// The key of a peer that is named in a body. A peer id is only a name: what counts is the key of the known peer behind it.
pub async fn key_of(state: &ApiState, name: &str) -> Result<PublicKey, ApiError> {
    match parse_id("peer", name, PEER_HINT)? {
        PeerName::Key(key) => Ok(key),
        name @ PeerName::Id(_) => match state.ask(Command::Peer(name)).await? {
            Reply::Peer(view) => Ok(view.key),
            other => Err(ApiError::unexpected(&other)),
        },
    }
}

fn one_peer(reply: &Reply) -> Result<Answer<PeerDto>, ApiError> {
    match reply {
        Reply::Peer(view) => Ok(Answer(PeerDto::from(view.as_ref()))),
        other => Err(ApiError::unexpected(other)),
    }
}
