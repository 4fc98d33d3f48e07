//! Watching a node closely: `lab sample` asks its API about one peer every few milliseconds over one connection, which
//! the command line could not do, and prints each answer as a line with the time it came.

use crate::netns::{LabError, Netns, end};
use crate::product::PeerSeen;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes of an answer at the most.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Runs inside a namespace: `sample ADDR PEER EVERY_MS`, with the token on standard input, until nobody listens.
pub fn run(args: &[String]) -> Result<bool, LabError> {
    let [addr, peer, every_ms] = args else { return Err(LabError::strange("sample ADDR PEER EVERY_MS")) };
    let every =
        Duration::from_millis(every_ms.parse().map_err(|_| LabError::strange("EVERY_MS is a number"))?);
    let mut token = String::new();
    std::io::stdin().lock().read_line(&mut token)?;
    let request = format!(
        "GET /api/v1/peers/{peer} HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer {}\r\n\r\n",
        token.trim()
    );
    let mut connection: Option<BufReader<TcpStream>> = None;
    let mut next = Instant::now();
    let mut out = std::io::stdout().lock();
    loop {
        let asked = match connection.take() {
            Some(open) => Ok(open),
            None => TcpStream::connect(addr).map(BufReader::new).map_err(LabError::from),
        };
        if let Ok((answer, open)) = asked.and_then(|mut open| Ok((ask(&mut open, &request)?, open))) {
            connection = Some(open);
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let line = json!({"at_us": u64::try_from(at.as_micros()).unwrap_or(u64::MAX), "peer": answer});
            if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                return Ok(true);
            }
        }
        next += every;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        // What was missed is not made up for.
        next = next.max(Instant::now());
    }
}

/// One request and its answer.
fn ask(open: &mut BufReader<TcpStream>, request: &str) -> Result<Value, LabError> {
    open.get_mut().write_all(request.as_bytes())?;
    let mut len = 0;
    loop {
        let mut line = String::new();
        if open.read_line(&mut line)? == 0 {
            return Err(LabError::strange("the API closed the connection"));
        }
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(n) = line.strip_prefix("content-length:") {
            len = n.trim().parse().unwrap_or(0);
        }
    }
    if len == 0 || len > ANSWER_BYTES_MAX {
        return Err(LabError::strange("an answer without a length"));
    }
    let mut body = vec![0; len];
    open.read_exact(&mut body)?;
    serde_json::from_slice(&body).map_err(|e| LabError::strange(e.to_string()))
}

/// One look.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When, in microseconds since 1970.
    pub at_us: u64,
    /// What was seen.
    pub peer: PeerSeen,
}

/// The lab's end of a sampler.
pub struct Watch {
    child: Child,
    samples: Receiver<Sample>,
}

impl Watch {
    /// Starts one.
    pub fn start(
        netns: &Netns,
        api: &str,
        token: &str,
        peer: &str,
        every: Duration,
    ) -> Result<Self, LabError> {
        let mut child = netns
            .command(std::env::current_exe()?)
            .args(["sample", api, peer, &every.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(LabError::strange("a sampler without pipes"));
        };
        writeln!(stdin, "{token}")?;
        let (send, samples) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
                let sample = Sample {
                    at_us: value["at_us"].as_u64().unwrap_or(0),
                    peer: PeerSeen::of(&value["peer"]),
                };
                if send.send(sample).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, samples })
    }

    /// The next look, if it comes before `deadline`.
    pub fn next(&self, deadline: Instant) -> Result<Option<Sample>, LabError> {
        match self.samples.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(sample) => Ok(Some(sample)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(LabError::strange("a sampler ended")),
        }
    }

    /// Looks until `wanted` is seen; `None` when `limit` passes first.
    pub fn until(
        &self,
        limit: Duration,
        mut wanted: impl FnMut(&Sample) -> bool,
    ) -> Result<Option<Sample>, LabError> {
        let deadline = Instant::now() + limit;
        while let Some(sample) = self.next(deadline)? {
            if wanted(&sample) {
                return Ok(Some(sample));
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Ok(None)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
