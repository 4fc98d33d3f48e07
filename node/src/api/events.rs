//! The event socket: notices as they happen, numbered, resumable, honest about gaps.
//!
//! A client asks for a ticket (with its token), opens the socket and sends its first message within five seconds:
//! `{"ticket": "…", "resume": {"epoch": "…", "after": 17}, "topics": ["peers", "runs"]}`; the last two are optional. It
//! gets `{"type": "hello", "epoch", "next"}`, then `{"type": "notice", "seq", "event", …}` and, where it was too slow
//! or away too long, `{"type": "gap", "from", "to"}`: it must then ask for the state anew. Another epoch means that the
//! node has restarted; numbers of the old one mean nothing, and the gap starts at 1.
//!
//! A slow client is never buffered for: the ring of the [`super::core_handle`] is the only memory, and a message that
//! cannot be written within ten seconds ends the socket.

use super::auth::Refusal;
use super::core_handle::{NoticeItem, Notices, Numbered, Told};
use super::dto::{NoticeDto, PullDto, Topic};
use super::error::ApiError;
use super::node::Nothing;
use super::routes::Json;
use super::sessions::no_random;
use super::state::ApiState;
use axum::Json as Answer;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// Largest message of a client.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Bytes that may wait for a slow socket.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// Within this the first message must come.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Within this every message must be taken.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// A ping every so often; the pong, or anything else, must come before the next but one.
const PING_EVERY: Duration = Duration::from_secs(20);

/// Close code: the ticket is wrong, used or too old.
const BAD_TICKET: u16 = 4401;
/// Close code: a message that is not what it must be.
const BAD_MESSAGE: u16 = 4400;
/// Close code: the client neither reads nor answers.
const TOO_SLOW: u16 = 4408;
/// Close code (RFC 6455): the node ends.
const GOING_AWAY: u16 = 1001;
/// Close code (RFC 6455): try later.
const TRY_LATER: u16 = 1013;

/// A ticket.
#[derive(Serialize)]
pub struct TicketDto {
    ticket: String,
    life_ms: u64,
}

/// `POST /events/ticket`
pub async fn ticket(
    State(state): State<ApiState>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<(StatusCode, Answer<TicketDto>), ApiError> {
    let ticket = state.gatekeeper.issue_ticket(Instant::now()).map_err(|e| no_random(&e))?;
    let life_ms = u64::try_from(super::auth::TICKET_LIFE.as_millis()).unwrap_or(u64::MAX);
    Ok((StatusCode::CREATED, Answer(TicketDto { ticket: ticket.reveal().to_owned(), life_ms })))
}

/// `GET /events`: becomes a WebSocket. The guard has seen its `Origin` already.
pub async fn socket(
    State(state): State<ApiState>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|e| {
        ApiError::new(
            StatusCode::UPGRADE_REQUIRED,
            "websocket_needed",
            e.body_text(),
            "open this address as a WebSocket and send a ticket from POST /api/v1/events/ticket as first message",
        )
    })?;
    let permit = state.sockets.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "too many event sockets are open",
            "close other tabs of this page",
        )
    })?;
    Ok(upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .max_write_buffer_size(WRITE_BYTES_MAX)
        .on_upgrade(move |socket| serve(state, socket, permit)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hello {
    ticket: String,
    resume: Option<Resume>,
    topics: Option<BTreeSet<Topic>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {
    epoch: String,
    after: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ToClient {
    Hello {
        epoch: String,
        next: u64,
    },
    Notice {
        seq: u64,
        #[serde(flatten)]
        notice: NoticeDto,
    },
    Gap {
        from: u64,
        to: u64,
    },
}

/// Why a socket ends: its close code and words.
struct End(u16, &'static str);

async fn serve(state: ApiState, mut socket: WebSocket, _held: OwnedSemaphorePermit) {
    let End(code, reason) = match converse(&state, &mut socket).await {
        Ok(()) => return,
        Err(end) => end,
    };
    let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
    // Whether the other side still hears it changes nothing.
    let _ = tokio::time::timeout(Duration::from_secs(1), socket.send(close)).await;
}

/// `Ok` when the client has left.
async fn converse(state: &ApiState, socket: &mut WebSocket) -> Result<(), End> {
    let Some(hello) = hello(state, socket).await? else { return Ok(()) };
    let epoch = format!("{:016x}", state.core.epoch());
    let next = state.core.next_seq();
    let latest = next.saturating_sub(1);
    let (after, restarted) = match &hello.resume {
        None => (latest, false),
        Some(resume) if resume.epoch == epoch => (resume.after, false),
        Some(_) => (latest, true),
    };
    // Subscribed before the greeting: what happens from `next` on is told.
    let subscribed = state.core.notices_after(after);
    let notices = subscribed.map_err(|e| match e {
        super::core_handle::HandleError::Stopped => End(GOING_AWAY, "the node has stopped"),
        super::core_handle::HandleError::Busy | super::core_handle::HandleError::Timeout(_) => {
            End(TRY_LATER, "too many subscribers")
        }
    })?;
    send(socket, &ToClient::Hello { epoch, next }).await?;
    if restarted {
        send(socket, &ToClient::Gap { from: 1, to: latest }).await?;
    }
    tell(state, socket, notices, hello.topics.as_ref()).await
}

async fn hello(state: &ApiState, socket: &mut WebSocket) -> Result<Option<Hello>, End> {
    let first = tokio::time::timeout(HELLO_WITHIN, socket.recv()).await;
    let text = match first {
        Err(_) => return Err(End(BAD_TICKET, "no ticket came")),
        Ok(None | Some(Err(_) | Ok(Message::Close(_)))) => return Ok(None),
        Ok(Some(Ok(Message::Text(text)))) => text,
        Ok(Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_)))) => {
            return Err(End(BAD_MESSAGE, "the first message must be a ticket in JSON"));
        }
    };
    let hello: Hello = serde_json::from_str(&text)
        .map_err(|_| End(BAD_MESSAGE, "the first message must be a ticket in JSON"))?;
    match state.gatekeeper.use_ticket(&hello.ticket, Instant::now()) {
        Ok(()) => Ok(Some(hello)),
        Err(Refusal::Wrong) => Err(End(BAD_TICKET, "the ticket is wrong, used or too old")),
        Err(Refusal::TooMany) => Err(End(BAD_TICKET, "too many wrong tickets")),
    }
}

async fn tell(
    state: &ApiState,
    socket: &mut WebSocket,
    mut notices: Notices,
    topics: Option<&BTreeSet<Topic>>,
) -> Result<(), End> {
    let mut ending = state.ending.clone();
    let mut ping = tokio::time::interval(PING_EVERY);
    let mut unanswered = 0_u8;
    loop {
        tokio::select! {
            item = notices.next() => match item {
                Some(NoticeItem::Notice(n)) if topics.is_none_or(|t| t.contains(&topic(&n.notice))) => {
                    send(socket, &notice(&n)).await?;
                }
                Some(NoticeItem::Notice(_)) => {}
                Some(NoticeItem::Gap { from, to }) => send(socket, &ToClient::Gap { from, to }).await?,
                None => return Err(End(GOING_AWAY, "the node has stopped")),
            },
            message = socket.recv() => match message {
                None | Some(Err(_) | Ok(Message::Close(_))) => return Ok(()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => unanswered = 0,
                Some(Ok(Message::Text(_) | Message::Binary(_))) => {
                    return Err(End(BAD_MESSAGE, "nothing is to be said after the ticket"));
                }
            },
            _ = ping.tick() => {
                if unanswered >= 2 {
                    return Err(End(TOO_SLOW, "no answer to pings"));
                }
                unanswered += 1;
                write(socket, Message::Ping(Default::default())).await?;
            }
            () = ending.come() => return Err(End(GOING_AWAY, "the server ends")),
        }
    }
}

const fn topic(told: &Told) -> Topic {
    match told {
        Told::Core(notice) => Topic::of(notice),
        Told::Pull(_) => Topic::Docker,
    }
}

fn notice(n: &Numbered) -> ToClient {
    let notice = match &n.notice {
        Told::Core(notice) => NoticeDto::from(notice),
        Told::Pull(progress) => NoticeDto::Pull(PullDto::from(progress)),
    };
    ToClient::Notice { seq: n.seq, notice }
}

async fn send(socket: &mut WebSocket, message: &ToClient) -> Result<(), End> {
    let text = serde_json::to_string(message).map_err(|_| End(1011, "a notice could not be written"))?;
    write(socket, Message::text(text)).await
}

async fn write(socket: &mut WebSocket, message: Message) -> Result<(), End> {
    match tokio::time::timeout(WRITE_WITHIN, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End(TOO_SLOW, "the client does not read")),
    }
}
