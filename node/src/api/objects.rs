//! Objects: bytes into the store and out of it, never held whole.
//!
//! The store blocks and HTTP does not, so each transfer is two ends of a small channel: back-pressure reaches from the
//! disk to the socket and the other way.

use super::blobs::{BlobError, OpenBlob};
use super::error::ApiError;
use super::guard::{OBJECT_CSP, only};
use super::node::Done;
use super::routes::{Segments, is_too_long, parse_id};
use super::state::ApiState;
use axum::Json as Answer;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use remote_network_core::command::Command;
use remote_network_core::id::Digest;
use serde::Serialize;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Pieces between socket and disk.
const PIECES_BETWEEN: usize = 4;
/// Bytes of one piece read for a download.
const READ_BYTES: usize = 256 << 10;
/// An upload without a byte for this long ends.
const UPLOAD_IDLE: Duration = Duration::from_secs(30);
/// A download whose client takes nothing for this long ends, for it holds a thread.
const DOWNLOAD_IDLE: Duration = Duration::from_secs(60);

/// An object in the store.
#[derive(Serialize)]
pub struct ObjectDto {
    digest: String,
    len: u64,
}

/// `DELETE /objects/{digest}`: the user needs it no more. It goes as soon as no service, run or job needs it.
pub async fn let_go(
    State(state): State<ApiState>,
    Segments(digest): Segments<String>,
) -> Result<Answer<Done>, ApiError> {
    let digest = parse_id("path", &digest, "a digest is 64 hex digits")?;
    Done::of(&state.ask(Command::Keep { digest, kept: false }).await?)
}

/// `POST /objects`: the body becomes a durable object, kept until the user lets go of it. With `?kept=false` it is for something
/// else to keep, such as a directory that is about to be made of it.
pub async fn upload(
    State(state): State<ApiState>,
    request: Request,
) -> Result<(StatusCode, Answer<ObjectDto>), ApiError> {
    let kept = request.uri().query() != Some("kept=false");
    let (to_disk, from_socket) = async_channel::bounded(PIECES_BETWEEN);
    let too_long = Arc::new(AtomicBool::new(false));
    let pump = pump(request.into_body(), to_disk, too_long.clone());
    let blobs = state.blobs.clone();
    let import = on_store_thread(&state, move || {
        blobs.import(&mut PieceReader { pieces: from_socket, piece: Bytes::new(), ended: false })
    });
    let (imported, ()) = tokio::join!(import, pump);
    match imported? {
        Ok(object) => {
            // The bytes may have been here for a job that ends just now: only what is kept stays.
            if kept {
                let keep = Command::Keep { digest: object.digest, kept };
                let Answer(_) = Done::of(&state.ask(keep).await?)?;
            }
            let dto = ObjectDto { digest: object.digest.to_string(), len: object.len };
            Ok((StatusCode::CREATED, Answer(dto)))
        }
        Err(BlobError::Io(_)) if too_long.load(Ordering::Relaxed) => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "the object is too large",
            "split it into several objects",
        )),
        Err(BlobError::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(ApiError::bad_request("body", "the upload ended early or stood still", "send it again"))
        }
        Err(e) => Err(e.into()),
    }
}

/// From the socket into the channel. The channel's last word is `None` only when the body came whole.
async fn pump(mut body: Body, to_disk: async_channel::Sender<Option<Bytes>>, too_long: Arc<AtomicBool>) {
    loop {
        let piece = match tokio::time::timeout(UPLOAD_IDLE, body.frame()).await {
            Ok(None) => None,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) => Some(bytes),
                Err(_trailers) => continue,
            },
            Ok(Some(Err(e))) => {
                too_long.store(is_too_long(&e), Ordering::Relaxed);
                return;
            }
            Err(_) => return,
        };
        let ended = piece.is_none();
        if to_disk.send(piece).await.is_err() || ended {
            return;
        }
    }
}

/// The disk's end of an upload: a channel closed before its last word is an error, so that nothing cut short is kept.
struct PieceReader {
    pieces: async_channel::Receiver<Option<Bytes>>,
    piece: Bytes,
    ended: bool,
}

impl Read for PieceReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.pieces.recv_blocking() {
                Ok(Some(piece)) => self.piece = piece,
                Ok(None) => self.ended = true,
                Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let n = buf.len().min(self.piece.len());
        let piece = self.piece.split_to(n);
        buf.get_mut(..n).unwrap_or_default().copy_from_slice(&piece);
        Ok(n)
    }
}

/// Runs a blocking call of the store on a thread for that; at most so many at once.
pub async fn on_store_thread<T: Send + 'static>(
    state: &ApiState,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let busy = || {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "too many transfers at once",
            "try again when others have ended",
        )
    };
    let permit = state.store_threads.clone().try_acquire_owned().map_err(|_| busy())?;
    let joined = tokio::task::spawn_blocking(move || {
        let _held = permit;
        call()
    });
    joined.await.map_err(|_| busy())
}

/// Streams an object as an attachment, or the range that is asked for.
pub async fn download(
    state: &ApiState,
    digest: Digest,
    file_name: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let blobs = state.blobs.clone();
    let open = on_store_thread(state, move || blobs.open(&digest)).await??;
    let etag = format!("\"{digest}\"");
    let wanted = match only(headers, &header::IF_RANGE) {
        Ok(Some(tag)) if tag != etag => Wanted::Whole,
        _ => wanted(only(headers, &header::RANGE).ok().flatten(), open.len),
    };
    let (status, from, len) = match wanted {
        Wanted::Whole => (StatusCode::OK, 0, open.len),
        Wanted::Part { from, len } => (StatusCode::PARTIAL_CONTENT, from, len),
        Wanted::Nothing => return Err(range_error(open.len)),
    };
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, len)
        .header(header::CONTENT_DISPOSITION, attachment(file_name))
        .header(header::CONTENT_SECURITY_POLICY, OBJECT_CSP)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, etag);
    if status == StatusCode::PARTIAL_CONTENT {
        let last = (from + len).saturating_sub(1);
        response = response.header(header::CONTENT_RANGE, format!("bytes {from}-{last}/{}", open.len));
    }
    let body = Body::from_stream(stream(state, open, from, len)?);
    response.body(body).map_err(|e| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", e.to_string(), "please report this")
    })
}

fn range_error(len: u64) -> ApiError {
    ApiError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "bad_range",
        format!("the object has {len} bytes and none in that range"),
        "ask for `bytes=FROM-TO` within it",
    )
    .at("Range")
}

/// Reads `len` bytes from `from` on into the channel whose other end is the body. A reader that leaves ends it.
fn stream(
    state: &ApiState,
    open: OpenBlob,
    from: u64,
    len: u64,
) -> Result<async_channel::Receiver<io::Result<Bytes>>, ApiError> {
    let (to_socket, body) = async_channel::bounded(PIECES_BETWEEN);
    let permit = state.store_threads.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "too many transfers at once",
            "try again when others have ended",
        )
    })?;
    tokio::task::spawn_blocking(move || {
        let _held = permit;
        if let Err(e) = copy(open, from, len, &to_socket) {
            // With a full channel the body ends short instead, which is told apart from a whole one all the same.
            let _ = to_socket.try_send(Err(e));
        }
    });
    Ok(body)
}

fn copy(
    mut open: OpenBlob,
    from: u64,
    mut left: u64,
    to_socket: &async_channel::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    open.reader.seek(SeekFrom::Start(from))?;
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(READ_BYTES);
        let mut piece = vec![0; n];
        open.reader.read_exact(&mut piece)?;
        left -= n as u64;
        let send = async { to_socket.send(Ok(piece.into())).await.is_ok() };
        let too_slow = async {
            smol::Timer::after(DOWNLOAD_IDLE).await;
            false
        };
        if !smol::block_on(smol::future::or(send, too_slow)) {
            // The body ends short of its `Content-Length`, which its client sees as a broken download.
            return Ok(());
        }
    }
    Ok(())
}

/// What part of an object a `Range` header wants (RFC 9110 §14.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Whole,
    Part { from: u64, len: u64 },
    Nothing,
}

/// One range is served; several, or what cannot be read, count as none, as the RFC allows.
fn wanted(range: Option<&str>, len: u64) -> Wanted {
    let Some(spec) = range.and_then(|r| r.trim().strip_prefix("bytes=")) else { return Wanted::Whole };
    let Some((first, last)) = spec.split_once('-') else { return Wanted::Whole };
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    match (first.is_empty(), last.is_empty()) {
        (true, true) => Wanted::Whole,
        (true, false) => match number(last) {
            None => Wanted::Whole,
            Some(0) => Wanted::Nothing,
            Some(_) if len == 0 => Wanted::Nothing,
            Some(n) => Wanted::Part { from: len.saturating_sub(n), len: n.min(len) },
        },
        (false, open_end) => {
            let last = if open_end { Some(u64::MAX) } else { number(last) };
            match (number(first), last) {
                (Some(first), Some(last)) if first > last => Wanted::Whole,
                (Some(first), Some(_)) if first >= len => Wanted::Nothing,
                (Some(first), Some(last)) => Wanted::Part { from: first, len: last.min(len - 1) - first + 1 },
                _ => Wanted::Whole,
            }
        }
    }
}

/// A file name of plain characters, so that no name of a stranger's making reaches a header or a disk.
pub fn attachment(name: &str) -> HeaderValue {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.trim_start_matches('.').chars().take(120).map(plain).collect();
    HeaderValue::from_str(&format!("attachment; filename=\"{name}\""))
        .unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_rfc() {
        let part = |from, len| Wanted::Part { from, len };
        for (range, expected) in [
            (None, Wanted::Whole),
            (Some("bytes=0-0"), part(0, 1)),
            (Some("bytes=2-5"), part(2, 4)),
            (Some("bytes=7-"), part(7, 3)),
            (Some("bytes=7-999"), part(7, 3)),
            (Some("bytes=-4"), part(6, 4)),
            (Some("bytes=-99"), part(0, 10)),
            (Some("bytes=10-"), Wanted::Nothing),
            (Some("bytes=-0"), Wanted::Nothing),
            (Some("bytes=5-2"), Wanted::Whole),
            (Some("bytes=0-1,3-4"), Wanted::Whole),
            (Some("bytes=+1-2"), Wanted::Whole),
            (Some("bytes=-"), Wanted::Whole),
            (Some("lines=1-2"), Wanted::Whole),
            (Some("bytes=0-18446744073709551615"), part(0, 10)),
            (Some("bytes=99999999999999999999-"), Wanted::Whole),
        ] {
            assert_eq!(wanted(range, 10), expected, "{range:?}");
        }
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Nothing);
        assert_eq!(wanted(Some("bytes=-1"), 0), Wanted::Nothing);
    }

    #[test]
    fn a_file_name_cannot_break_out_of_its_header() {
        let name = attachment("../a\"b\r\nSet-Cookie: x/ü");
        assert_eq!(name, "attachment; filename=\"_a_b__Set-Cookie__x__\"");
    }
}
