//! Search: the answer is a stream of lines of JSON, what is found as it is found, and everything at the end.
//!
//! A client that leaves ends nothing but its own listening: a search is over within 45 s anyway, and what it finds serves the next.

use super::core_handle::{HandleError, NoticeItem, Notices, Told};
use super::dto::{HitDto, SearchLine};
use super::error::ApiError;
use super::routes::Json;
use super::state::ApiState;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode, header};
use bytes::Bytes;
use remote_network_core::command::{Command, Notice, Reply, ServiceCommand};
use remote_network_core::service::search::Query;
use remote_network_core::service::valid_name;
use serde::Deserialize;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lines that wait for a client that reads slowly.
const LINES_BETWEEN: usize = 16;

/// Names of searches within this process.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What to look for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchDto {
    query: String,
    #[serde(default)]
    kind: Option<String>,
}

type Asked = Pin<Box<dyn Future<Output = Result<Reply, HandleError>> + Send>>;

/// `POST /search`
pub async fn search(
    State(state): State<ApiState>,
    Json(wanted): Json<SearchDto>,
) -> Result<Response<Body>, ApiError> {
    if wanted.kind.as_deref().is_some_and(|k| !valid_name(k)) {
        return Err(ApiError::bad_request("kind", "this is no kind of service", "`wasm`, for example"));
    }
    let query = Query::new(&wanted.query, wanted.kind.as_deref())
        .map_err(|why| ApiError::bad_request("query", why, "use fewer or shorter words"))?;
    let tag = NEXT.fetch_add(1, Ordering::Relaxed);
    // Subscribed before the question, so that nothing is missed.
    let notices = state.core.notices()?;
    let core = state.core.clone();
    let asked: Asked =
        Box::pin(async move { core.command(Command::Service(ServiceCommand::Search { tag, query })).await });
    let mut going = Going { notices, asked, tag, ended: None };
    // What is refused at once is refused as everything else is.
    let first = match going.next().await {
        Next::Ended(Ok(Reply::Error(e))) => return Err(e.into()),
        Next::Ended(Err(e)) => return Err(e.into()),
        first => first,
    };
    let (to_socket, lines) = async_channel::bounded::<Result<Bytes, std::io::Error>>(LINES_BETWEEN);
    tokio::spawn(async move {
        let mut item = first;
        loop {
            let (line, over) = match &item {
                Next::Found(hits) => {
                    (SearchLine::Found { hits: hits.iter().map(HitDto::from).collect() }, false)
                }
                Next::Ended(Ok(Reply::Found(found))) => (SearchLine::from(&**found), true),
                Next::Ended(Ok(Reply::Error(e))) => (SearchLine::Failed { why: e.to_string() }, true),
                Next::Ended(Err(e)) => (SearchLine::Failed { why: e.to_string() }, true),
                Next::Ended(Ok(_)) => (SearchLine::Failed { why: "another answer came".to_owned() }, true),
            };
            let mut text = serde_json::to_vec(&line).unwrap_or_default();
            text.push(b'\n');
            if to_socket.send(Ok(text.into())).await.is_err() || over {
                return;
            }
            item = going.next().await;
        }
    });
    Response::builder()
        .status(StatusCode::OK)
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(Body::from_stream(lines))
        .map_err(|e| {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", e.to_string(), "please report this")
        })
}

enum Next {
    Found(Vec<remote_network_core::service::search::Hit>),
    Ended(Result<Reply, HandleError>),
}

/// A search under way.
struct Going {
    notices: Notices,
    asked: Asked,
    tag: u64,
    ended: Option<Result<Reply, HandleError>>,
}

impl Going {
    /// What is found next, or the end. Hits that were told before the answer come before it, also when both came in one moment.
    async fn next(&mut self) -> Next {
        loop {
            let item = if let Some(ended) = self.ended.take() {
                match smol::future::poll_once(self.notices.next()).await.flatten() {
                    Some(item) => {
                        self.ended = Some(ended);
                        item
                    }
                    None => return Next::Ended(ended),
                }
            } else {
                tokio::select! {
                    biased;
                    item = self.notices.next() => match item {
                        Some(item) => item,
                        None => return Next::Ended(Err(HandleError::Stopped)),
                    },
                    reply = &mut self.asked => {
                        self.ended = Some(reply);
                        continue;
                    }
                }
            };
            // What a gap hides is in the answer at the end.
            if let NoticeItem::Notice(n) = item
                && let Told::Core(Notice::Found { tag, hits }) = &n.notice
                && *tag == self.tag
            {
                return Next::Found(hits.clone());
            }
        }
    }
}
