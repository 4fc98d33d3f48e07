//! What the node does as a relay for others.

use super::error::ApiError;
use super::node::{Done, key_of};
use super::objects::on_store_thread;
use super::routes::{Json, Params};
use super::state::ApiState;
use crate::ports::store::{Entry, PAGE_ROWS_MAX, StoreError, Totals};
use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use remote_network_core::command::{Command, RelayView, Reply};
use remote_network_core::relay::server::{DropReason, SessionView, Usage};
use remote_network_core::time::UnixTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// The node as a relay.
#[derive(Serialize)]
pub struct RelayDto {
    willing: bool,
    proven: bool,
    serving: bool,
    closing: bool,
    reserved: usize,
    visitors: usize,
    sessions_max: usize,
    waiting_bytes: usize,
    accepted: u64,
    refused: u64,
    usage: UsageDto,
    sessions: Vec<SessionDto>,
    blocked: Vec<String>,
}

#[derive(Serialize)]
struct UsageDto {
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
    dropped: BTreeMap<&'static str, u64>,
}

impl From<&Usage> for UsageDto {
    fn from(u: &Usage) -> Self {
        let drops = DropReason::ALL.iter().map(|why| (why.as_str(), u.drops(*why)));
        Self {
            packets_in: u.packets_in,
            bytes_in: u.bytes_in,
            packets_out: u.packets_out,
            bytes_out: u.bytes_out,
            dropped: drops.filter(|(_, n)| *n > 0).collect(),
        }
    }
}

#[derive(Serialize)]
struct SessionDto {
    peer: String,
    session: String,
    kind: &'static str,
    addr: String,
    since: u64,
    usage: UsageDto,
    waiting_bytes: usize,
}

impl From<&SessionView> for SessionDto {
    fn from(v: &SessionView) -> Self {
        Self {
            peer: v.peer.to_string(),
            session: hex(&v.session),
            kind: v.kind.as_str(),
            addr: v.addr.to_string(),
            since: v.since.as_millis(),
            usage: UsageDto::from(&v.usage),
            waiting_bytes: v.waiting,
        }
    }
}

impl From<&RelayView> for RelayDto {
    fn from(v: &RelayView) -> Self {
        Self {
            willing: v.willing,
            proven: v.proven,
            serving: v.stats.serving,
            closing: v.stats.closing,
            reserved: v.stats.reserved,
            visitors: v.stats.visitors,
            sessions_max: v.stats.sessions_max,
            waiting_bytes: v.stats.waiting,
            accepted: v.stats.accepted,
            refused: v.stats.refused,
            usage: UsageDto::from(&v.stats.usage),
            sessions: v.sessions.iter().map(SessionDto::from).collect(),
            blocked: v.blocked.iter().map(ToString::to_string).collect(),
        }
    }
}

/// `GET /relay`
pub async fn show(State(state): State<ApiState>) -> Result<Answer<RelayDto>, ApiError> {
    match state.ask(Command::Relay).await? {
        Reply::Relay(view) => Ok(Answer(RelayDto::from(view.as_ref()))),
        other => Err(ApiError::unexpected(&other)),
    }
}

/// Whose session is to end.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disconnect {
    peer: String,
}

/// `POST /relay/disconnect`
pub async fn disconnect(
    State(state): State<ApiState>,
    Json(request): Json<Disconnect>,
) -> Result<Answer<Done>, ApiError> {
    let key = key_of(&state, &request.peer).await?;
    Done::of(&state.ask(Command::RelayDisconnect(key)).await?)
}

/// Which rows of the books: those that end at `since` (milliseconds since 1970) or later and have a number above `after`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    #[serde(default)]
    since: u64,
    #[serde(default)]
    after: u64,
    limit: Option<u32>,
}

/// Rows of the books, and what all sessions cost today and in the thirty days before (days of UTC).
#[derive(Serialize)]
pub struct BooksDto {
    rows: Vec<RowDto>,
    /// `after` of the next page, if there may be one.
    next: Option<u64>,
    today: TotalsDto,
    days_30: TotalsDto,
    /// Rows that could not be written since the start.
    lost: u64,
}

#[derive(Serialize)]
struct RowDto {
    id: u64,
    peer: String,
    session: String,
    kind: &'static str,
    addr: String,
    since: u64,
    from: u64,
    to: u64,
    ended: bool,
    usage: UsageDto,
}

impl From<&Entry> for RowDto {
    fn from(Entry { id, account: a }: &Entry) -> Self {
        Self {
            id: *id,
            peer: a.peer.to_string(),
            session: hex(&a.session),
            kind: a.kind.as_str(),
            addr: a.addr.to_string(),
            since: a.since.as_millis(),
            from: a.from.as_millis(),
            to: a.to.as_millis(),
            ended: a.ended,
            usage: UsageDto::from(&a.usage),
        }
    }
}

#[derive(Serialize)]
struct TotalsDto {
    sessions_ended: u64,
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
    dropped: u64,
}

impl From<Totals> for TotalsDto {
    fn from(t: Totals) -> Self {
        Self {
            sessions_ended: t.sessions,
            packets_in: t.packets_in,
            bytes_in: t.bytes_in,
            packets_out: t.packets_out,
            bytes_out: t.bytes_out,
            dropped: t.dropped,
        }
    }
}

/// `GET /relay/accounts`
pub async fn accounts(
    State(state): State<ApiState>,
    Params(which): Params<Which>,
) -> Result<Answer<BooksDto>, ApiError> {
    let book = state.books.clone();
    let read = move || -> Result<BooksDto, StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::from_millis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let limit = which.limit.unwrap_or(PAGE_ROWS_MAX).min(PAGE_ROWS_MAX);
        let rows = book.rows(UnixTime::from_millis(which.since), which.after, limit)?;
        let full = limit > 0 && rows.len() == limit as usize;
        Ok(BooksDto {
            next: rows.last().map(|last| last.id).filter(|_| full),
            rows: rows.iter().map(RowDto::from).collect(),
            today: book.totals(now, 0)?.into(),
            days_30: book.totals(now, 30)?.into(),
            lost: book.lost(),
        })
    };
    on_store_thread(&state, read).await?.map(Answer).map_err(|e| {
        let hint = "check the disk and the node's log";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "store_failed", e.to_string(), hint)
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
