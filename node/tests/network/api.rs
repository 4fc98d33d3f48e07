//! A node's API as a stranger's program would use it: HTTP over loopback with the token of the data directory. HTTP/1.0,
//! so that an answer is what comes until the end; written here, so that the product's own client is not its own judge.

use remote_network_node::cli::{ADDRESS_FILE, TOKEN_FILE};
use serde_json::{Value, json};
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// A node answers everything within its own limits, which are shorter.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// Talks to one node.
#[derive(Clone, Debug)]
pub struct Api {
    pub addr: SocketAddr,
    pub token: String,
}

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug)]
pub enum Refused {
    /// The node is gone, or went while it answered.
    Gone(io::Error),
    /// The node said no.
    Status(u16, Value),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Gone(e) => write!(f, "the node does not answer: {e}"),
            Refused::Status(status, body) => write!(f, "{status}: {body}"),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(e: io::Error) -> Self {
        Refused::Gone(e)
    }
}

fn broken(why: impl Into<String>) -> Refused {
    Refused::Gone(io::Error::new(io::ErrorKind::UnexpectedEof, why.into()))
}

impl Api {
    /// The API of the node that runs on this data directory.
    pub fn of(dir: &Path) -> Self {
        let read = |name| std::fs::read_to_string(dir.join(name)).unwrap().trim().to_owned();
        Self { addr: read(ADDRESS_FILE).parse().unwrap(), token: read(TOKEN_FILE) }
    }

    /// One request.
    pub fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
        let head = format!(
            "{method} /api/v1{path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {}\r\n{kind}Content-Length: {}\r\n\r\n",
            self.addr,
            self.token,
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        read_answer(&answer)
    }

    pub fn bytes(&self, path: &str) -> Result<Vec<u8>, Refused> {
        self.request("GET", path, "", b"")
    }

    pub fn get(&self, path: &str) -> Result<Value, Refused> {
        parse(&self.bytes(path)?)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Refused> {
        self.post_text(path, &body.to_string())
    }

    pub fn post_text(&self, path: &str, body: &str) -> Result<Value, Refused> {
        parse(&self.request("POST", path, "application/json", body.as_bytes())?)
    }

    /// Stores an object; returns its digest.
    pub fn upload(&self, bytes: &[u8]) -> Result<Value, Refused> {
        parse(&self.request("POST", "/objects", "application/octet-stream", bytes)?)
    }

    /// Offers a program under a name.
    pub fn offer(&self, name: &str, module: &[u8]) -> Result<Value, Refused> {
        let digest = self.upload(module)?["digest"].clone();
        self.post("/services", &json!({"name": name, "module": digest, "version": "1.0.0"}))
    }

    /// Connects to a peer by its key alone.
    pub fn connect(&self, key: &str) -> Result<Value, Refused> {
        self.post("/peers/connect", &json!({"peer": key}))
    }
}

fn parse(bytes: &[u8]) -> Result<Value, Refused> {
    serde_json::from_slice(bytes).map_err(|e| broken(format!("no JSON: {e}")))
}

fn read_answer(answer: &[u8]) -> Result<Vec<u8>, Refused> {
    let head_end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| broken("no answer"))?;
    let head = String::from_utf8_lossy(&answer[..head_end]).to_lowercase();
    let body = answer[head_end + 4..].to_vec();
    let len = head.lines().find_map(|l| l.strip_prefix("content-length:")).map(|l| l.trim().parse().unwrap());
    if len.is_some_and(|len: usize| len != body.len()) {
        return Err(broken("the answer is cut"));
    }
    let status: u16 = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| broken(&head))?;
    if (200..300).contains(&status) {
        Ok(body)
    } else {
        Err(Refused::Status(status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }
}
