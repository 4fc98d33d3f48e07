//! A hand inside a namespace: `lab agent` opens sockets there and does what its standard input says, line by line.
//!
//! | line | answer |
//! |---|---|
//! | `bind ADDR` | `ok` with the number of the socket |
//! | `send N ADDR WORD` | `ok`, or `no` with the reason |
//! | `recv N MS` | `got ADDR WORD`, or `nothing` |
//! | `listen ADDR` | `ok`: TCP connections are accepted there |
//! | `connect ADDR MS` | `ok`, or `no` with the reason |

use crate::netns::{LabError, Netns, end};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

/// Runs inside a namespace until its input ends.
pub fn run() -> std::io::Result<()> {
    let mut sockets: Vec<UdpSocket> = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = answer(&mut sockets, &words).unwrap_or_else(|e| format!("no {e}"));
        println!("{answer}");
    }
    Ok(())
}

fn answer(sockets: &mut Vec<UdpSocket>, words: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    let udp = |sockets: &[UdpSocket], n: &str| -> Result<UdpSocket, Box<dyn std::error::Error>> {
        let n: usize = n.parse()?;
        Ok(sockets.get(n).ok_or("no such socket")?.try_clone()?)
    };
    Ok(match words {
        ["bind", addr] => {
            sockets.push(UdpSocket::bind(addr.parse::<SocketAddr>()?)?);
            format!("ok {}", sockets.len() - 1)
        }
        ["send", n, addr, word] => {
            udp(sockets, n)?.send_to(word.as_bytes(), addr.parse::<SocketAddr>()?)?;
            "ok".to_owned()
        }
        ["recv", n, ms] => {
            let socket = udp(sockets, n)?;
            socket.set_read_timeout(Some(Duration::from_millis(ms.parse()?)))?;
            let mut buf = [0; 512];
            match socket.recv_from(&mut buf) {
                Ok((len, from)) => {
                    let word = String::from_utf8_lossy(buf.get(..len).unwrap_or_default()).into_owned();
                    format!("got {from} {word}")
                }
                Err(_) => "nothing".to_owned(),
            }
        }
        ["listen", addr] => {
            let listener = TcpListener::bind(addr.parse::<SocketAddr>()?)?;
            std::thread::spawn(move || listener.incoming().for_each(drop));
            "ok".to_owned()
        }
        ["connect", addr, ms] => {
            TcpStream::connect_timeout(&addr.parse()?, Duration::from_millis(ms.parse()?))?;
            "ok".to_owned()
        }
        _ => "no such command".to_owned(),
    })
}

/// The lab's end of an agent.
pub struct Agent {
    name: String,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts one in a namespace.
    pub fn start(netns: &Netns) -> Result<Self, LabError> {
        let mut child = netns
            .command(std::env::current_exe()?)
            .arg("agent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(LabError::strange("an agent without pipes"));
        };
        Ok(Self { name: netns.name().to_owned(), child, stdin, stdout: BufReader::new(stdout) })
    }

    fn ask(&mut self, line: &str) -> Result<String, LabError> {
        writeln!(self.stdin, "{line}")?;
        let mut answer = String::new();
        self.stdout.read_line(&mut answer)?;
        let answer = answer.trim();
        if answer.is_empty() {
            return Err(LabError::strange(format!("the agent in {} ended at `{line}`", self.name)));
        }
        Ok(answer.to_owned())
    }

    /// Binds a UDP socket; its number.
    pub fn bind(&mut self, addr: SocketAddr) -> Result<usize, LabError> {
        let answer = self.ask(&format!("bind {addr}"))?;
        let n = answer.strip_prefix("ok ").and_then(|n| n.parse().ok());
        n.ok_or_else(|| LabError::strange(format!("bind {addr} in {}: {answer}", self.name)))
    }

    /// Sends a word; that there is no way is an answer as good as silence.
    pub fn send(&mut self, socket: usize, to: SocketAddr, word: &str) -> Result<(), LabError> {
        self.ask(&format!("send {socket} {to} {word}")).map(|_| ())
    }

    /// The next datagram within so many milliseconds.
    pub fn recv(&mut self, socket: usize, ms: u64) -> Result<Option<(SocketAddr, String)>, LabError> {
        let answer = self.ask(&format!("recv {socket} {ms}"))?;
        let Some((from, word)) = answer.strip_prefix("got ").and_then(|a| a.split_once(' ')) else {
            return Ok(None);
        };
        let from = from.parse().map_err(|_| LabError::strange(format!("an agent said {answer}")))?;
        Ok(Some((from, word.to_owned())))
    }

    /// Accepts TCP connections.
    pub fn listen(&mut self, addr: SocketAddr) -> Result<(), LabError> {
        match self.ask(&format!("listen {addr}"))?.as_str() {
            "ok" => Ok(()),
            said => Err(LabError::strange(format!("listen {addr} in {}: {said}", self.name))),
        }
    }

    /// Whether a TCP connection comes about.
    pub fn connect(&mut self, addr: SocketAddr, ms: u64) -> Result<bool, LabError> {
        Ok(self.ask(&format!("connect {addr} {ms}"))? == "ok")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
