//! The command line's way to the running node: its own API over loopback, with the token of the data directory.

use super::Failure;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use remote_network_core::problem::Problem;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The file that names the address of the running node's API.
pub const ADDRESS_FILE: &str = "api-address";
/// The file with the token of the running node's API (mode 0600).
pub const TOKEN_FILE: &str = "api-token";

/// A client of the node whose data directory is given.
pub struct Client {
    addr: SocketAddr,
    token: String,
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|e: std::convert::Infallible| match e {}).boxed_unsync()
}

impl Client {
    /// Reads where the node is and with which token one may talk to it.
    pub fn of(data_dir: &Path) -> Result<Self, Failure> {
        let read = |name: &str| -> Result<String, Failure> {
            let path: PathBuf = data_dir.join(name);
            std::fs::read_to_string(&path)
                .map(|s| s.trim().to_owned())
                .map_err(|_| Failure::not_running(data_dir))
        };
        let addr = read(ADDRESS_FILE)?.parse().map_err(|_| Failure::not_running(data_dir))?;
        Ok(Self { addr, token: read(TOKEN_FILE)? })
    }

    /// Where the API is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Body,
    ) -> Result<Response<Incoming>, Failure> {
        let response = self.send_for(method, path, content_type, body).await?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    /// The response, whatever it says.
    async fn send_for(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Body,
    ) -> Result<Response<Incoming>, Failure> {
        let stream = TcpStream::connect(self.addr).await.map_err(|_| Failure::gone(self.addr))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| Failure::node(format!("the node's API does not answer: {e}")))?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("host", self.addr.to_string())
            .header("authorization", format!("Bearer {}", self.token));
        if let Some(kind) = content_type {
            request = request.header("content-type", kind);
        }
        let request = request.body(body).map_err(|e| Failure::usage(e.to_string()))?;
        sender
            .send_request(request)
            .await
            .map_err(|e| Failure::node(format!("the node's API broke off: {e}")))
    }

    async fn json(response: Response<Incoming>) -> Result<Value, Failure> {
        let bytes = collect(response).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|e| Failure::node(format!("the node answered no JSON: {e}")))
    }

    /// `GET` of a JSON resource.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        Self::json(self.send(Method::GET, path, None, whole("")).await?).await
    }

    /// `POST` of a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let response =
            self.send(Method::POST, path, Some("application/json"), whole(body.to_string())).await?;
        Self::json(response).await
    }

    /// `POST` that looks for something; `None`: there is no such thing.
    pub async fn find(&self, path: &str, body: &Value) -> Result<Option<Value>, Failure> {
        let body = whole(body.to_string());
        match self.send_for(Method::POST, path, Some("application/json"), body).await? {
            response if response.status() == StatusCode::NOT_FOUND => Ok(None),
            response if response.status().is_success() => Ok(Some(Self::json(response).await?)),
            response => Err(refusal(response).await),
        }
    }

    /// `POST` of a JSON document as it is written: the order of its keys may have a meaning.
    pub async fn post_text(&self, path: &str, body: String) -> Result<Value, Failure> {
        Self::json(self.send(Method::POST, path, Some("application/json"), whole(body)).await?).await
    }

    /// `POST` that is answered by lines of JSON, each told as it comes.
    pub async fn post_lines(
        &self,
        path: &str,
        body: &Value,
        mut tell: impl FnMut(Value),
    ) -> Result<(), Failure> {
        let body = whole(body.to_string());
        let mut response = self.send(Method::POST, path, Some("application/json"), body).await?;
        let mut rest: Vec<u8> = Vec::new();
        while let Some(frame) = response.frame().await {
            let frame = frame.map_err(|e| Failure::node(format!("the node's API broke off: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let value = serde_json::from_slice(&line)
                    .map_err(|e| Failure::node(format!("the node answered no JSON: {e}")))?;
                tell(value);
            }
        }
        Ok(())
    }

    /// `PUT` of a resource as JSON.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let body = whole(body.to_string());
        Self::json(self.send(Method::PUT, path, Some("application/json"), body).await?).await
    }

    /// `PATCH` of a resource with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let body = whole(body.to_string());
        Self::json(self.send(Method::PATCH, path, Some("application/json"), body).await?).await
    }

    /// `DELETE` of a resource.
    pub async fn delete(&self, path: &str) -> Result<Value, Failure> {
        Self::json(self.send(Method::DELETE, path, None, whole("")).await?).await
    }

    /// Streams an object into the node's store; `{"digest", "len"}`.
    pub async fn upload<R>(&self, reader: R) -> Result<Value, Failure>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        self.upload_to("/objects", reader).await
    }

    /// Streams bytes to a resource.
    pub async fn upload_to<R>(&self, path: &str, reader: R) -> Result<Value, Failure>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let body = StreamBody::new(frames(reader)).boxed_unsync();
        let response = self.send(Method::POST, path, Some("application/octet-stream"), body).await?;
        Self::json(response).await
    }

    /// Streams a resource to `out`; returns its length.
    pub async fn download<W: AsyncWrite + Unpin>(&self, path: &str, out: &mut W) -> Result<u64, Failure> {
        let mut response = self.send(Method::GET, path, None, whole("")).await?;
        let mut total = 0;
        while let Some(frame) = response.frame().await {
            let frame = frame.map_err(|e| Failure::node(format!("the download broke off: {e}")))?;
            if let Ok(data) = frame.into_data() {
                out.write_all(&data).await.map_err(|e| Failure::work(format!("cannot write: {e}")))?;
                total += data.len() as u64;
            }
        }
        out.flush().await.map_err(|e| Failure::work(format!("cannot write: {e}")))?;
        Ok(total)
    }
}

fn frames<R: AsyncRead + Send + Unpin + 'static>(
    reader: R,
) -> impl smol::stream::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send {
    smol::stream::unfold((reader, false), |(mut reader, ended)| async move {
        if ended {
            return None;
        }
        let mut buf = vec![0; 256 * 1024];
        match reader.read(&mut buf).await {
            Ok(0) => None,
            Ok(n) => {
                buf.truncate(n);
                Some((Ok(Frame::data(Bytes::from(buf))), (reader, false)))
            }
            Err(e) => Some((Err(e), (reader, true))),
        }
    })
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|e| Failure::node(format!("the node's API broke off: {e}")))?;
    Ok(body.to_bytes())
}

/// Turns an error of the API into one for people: what, where, how to mend it.
async fn refusal(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let bytes = collect(response).await.unwrap_or_default();
    let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let error = &value["error"];
    let mut message = error["message"].as_str().unwrap_or("the node refused").to_owned();
    let problems = error["problems"].as_array().map_or(&[][..], Vec::as_slice);
    if !problems.is_empty() {
        message = format!("the workflow has {} problem(s):", problems.len());
    }
    for p in problems {
        let place = p["place"].as_str().unwrap_or_default();
        let at = match (p["line"].as_u64(), p["column"].as_u64()) {
            (Some(line), Some(column)) => format!("{line}:{column}: "),
            _ => String::new(),
        };
        message.push_str(&format!("\n  {at}{place}: {}", p["reason"].as_str().unwrap_or_default()));
    }
    if let (Some(place), true) = (error["where"].as_str(), problems.is_empty()) {
        message.push_str(&format!(" (at {place})"));
    }
    let hint = error["hint"].as_str().filter(|h| !h.is_empty() && problems.is_empty()).map(str::to_owned);
    let failure = if status == StatusCode::UNAUTHORIZED {
        Failure::node(
            "the node does not accept this data directory's token; was it restarted by another user?",
        )
    } else {
        Failure::node(message)
    };
    let problem = |p: &Value| Problem {
        place: p["place"].as_str().unwrap_or_default().to_owned(),
        reason: p["reason"].as_str().unwrap_or_default().to_owned(),
    };
    let failure = Failure { problems: problems.iter().map(problem).collect(), ..failure };
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}
