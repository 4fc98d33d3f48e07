//! The node and its peers.

use super::dto::{PeerDto, StatusDto};
use super::error::ApiError;
use super::routes::{Json, Segments, parse_id};
use super::state::ApiState;
use axum::Json as Answer;
use axum::extract::State;
use remote_network_core::command::{Command, Reply};
use remote_network_core::id::PeerName;
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
    let key = match parse_id("peer", &request.peer, PEER_HINT)? {
        PeerName::Key(key) => key,
        // A peer id is only a name: what is blocked is the key of the known peer behind it.
        name @ PeerName::Id(_) => match state.ask(Command::Peer(name)).await? {
            Reply::Peer(view) => view.key,
            other => return Err(ApiError::unexpected(&other)),
        },
    };
    Done::of(&state.ask(Command::Block { key, blocked: request.blocked }).await?)
}

fn one_peer(reply: &Reply) -> Result<Answer<PeerDto>, ApiError> {
    match reply {
        Reply::Peer(view) => Ok(Answer(PeerDto::from(view.as_ref()))),
        other => Err(ApiError::unexpected(other)),
    }
}
