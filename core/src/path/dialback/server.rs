//! Dialling back, for others.
//!
//! Whoever is connected may have one small datagram sent to a port of its own, at once or up to two minutes later: never to
//! another IP address than that from which its packets come, so that nobody can point us at a third. Everything is bounded,
//! by peer and in all; what is beyond is counted, and answered with nothing.
//!
//! For a datagram from another port a further socket is opened when it is needed, and closed [`LINGER`] later: what
//! waits in a driver to be sent has left by then.

use super::{DialBack, FURTHER, Nonce};
use crate::id::{ConnId, PublicKey};
use crate::machine::{Cx, Machine};
use crate::meter::Meter;
use crate::place::{SocketEvent, SocketId, SocketRequest};
use crate::time::{Deadline, Duration, Instant};
use std::net::{IpAddr, SocketAddr};

/// Datagrams that wait for their time, of one peer: a question and its control, twice.
pub const WAITING_PER_PEER_MAX: usize = 4;
/// The same of all.
pub const WAITING_MAX: usize = 256;
/// Requests of one peer heard in one [`WINDOW`]: the filter and the first steps of the lifetime, each asked twice.
pub const PER_PEER_MAX: usize = 12;
/// The window.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Peers remembered for that, more than a relay has sessions; when all asked within the window, further ones are not heard.
pub const PEERS_MAX: usize = 2_048;
/// Ports below belong to services of the system, and to nobody's QUIC.
pub const PORT_MIN: u16 = 1_024;
/// The further socket is closed so long after its last use.
pub const LINGER: Duration = Duration::from_secs(2);
/// A socket that is not open by then will not be.
pub const OPENED_WITHIN: Duration = Duration::from_secs(5);

/// What can happen to the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A peer asks.
    Asked {
        /// By this connection.
        conn: ConnId,
        /// Who.
        peer: PublicKey,
        /// From where its packets come.
        ip: IpAddr,
        /// To which socket of ours.
        socket: SocketId,
        /// What.
        request: DialBack,
    },
    /// A connection ended.
    Down(ConnId),
    /// The further socket was opened, or failed.
    Socket(SocketEvent),
}

/// What the server asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this nonce, if the peer of the connection is still at that IP address.
    Send {
        /// The connection.
        conn: ConnId,
        /// From this socket.
        socket: SocketId,
        /// Where to.
        to: SocketAddr,
        /// What.
        nonce: Nonce,
    },
    /// Open or close the further socket.
    Socket(SocketRequest),
    /// A request is not met, and why.
    Refused(&'static str),
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    conn: ConnId,
    peer: PublicKey,
    due: Instant,
    socket: SocketId,
    to: SocketAddr,
    nonce: Nonce,
}

/// The further socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Further {
    #[default]
    Closed,
    /// Asked for; until when it must be there.
    Opening(Instant),
    /// Until when it is kept.
    Open(Instant),
}

/// The server. See the module.
#[derive(Clone, Debug)]
pub struct Server {
    waiting: Vec<Waiting>,
    meter: Meter,
    further: Further,
}

impl Default for Server {
    fn default() -> Self {
        let meter = Meter::new(PER_PEER_MAX, WINDOW, PEERS_MAX);
        Self { waiting: Vec::new(), meter, further: Further::default() }
    }
}

impl Server {
    /// Datagrams that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Peers remembered because they asked lately.
    pub fn peers(&self) -> usize {
        self.meter.peers()
    }

    fn asked(&mut self, cx: &mut Cx<'_, Output>, waiting: Waiting) {
        let of_peer = self.waiting.iter().filter(|w| w.peer == waiting.peer).count();
        if !self.meter.hears(cx.now, &waiting.peer) {
            cx.emit(Output::Refused("dialback-flood"));
        } else if of_peer >= WAITING_PER_PEER_MAX || self.waiting.len() >= WAITING_MAX {
            cx.emit(Output::Refused("dialback-full"));
        } else if waiting.to.port() < PORT_MIN {
            cx.emit(Output::Refused("dialback-port"));
        } else {
            self.waiting.push(waiting);
            self.send_due(cx);
        }
    }

    /// Sends what is due; opens the further socket if that takes it.
    fn send_due(&mut self, cx: &mut Cx<'_, Output>) {
        let mut further = self.further;
        self.waiting.retain(|w| {
            if w.due > cx.now {
                return true;
            }
            if w.socket == FURTHER {
                match further {
                    Further::Open(_) => further = Further::Open(cx.now + LINGER),
                    Further::Opening(_) => return true,
                    Further::Closed => {
                        further = Further::Opening(cx.now + OPENED_WITHIN);
                        cx.emit(Output::Socket(SocketRequest::Open(FURTHER)));
                        return true;
                    }
                }
            }
            cx.emit(Output::Send { conn: w.conn, socket: w.socket, to: w.to, nonce: w.nonce });
            false
        });
        self.further = further;
        if self.waiting.is_empty() {
            self.waiting = Vec::new();
        }
    }

    /// There is no further socket: whatever is due by it is not sent.
    fn no_further(&mut self, cx: &mut Cx<'_, Output>) {
        self.further = Further::Closed;
        let before = self.waiting.len();
        self.waiting.retain(|w| w.socket != FURTHER || w.due > cx.now);
        for _ in self.waiting.len()..before {
            cx.emit(Output::Refused("dialback-socket"));
        }
    }

    fn socket(&mut self, cx: &mut Cx<'_, Output>, event: &SocketEvent) {
        match event {
            SocketEvent::Opened(FURTHER, _) if matches!(self.further, Further::Opening(_)) => {
                self.further = Further::Open(cx.now + LINGER);
                self.send_due(cx);
            }
            SocketEvent::Failed(FURTHER, _) => self.no_further(cx),
            SocketEvent::Opened(..) | SocketEvent::Failed(..) => {}
        }
    }
}

impl Machine for Server {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Asked { conn, peer, ip, socket, request } => {
                let socket = if request.elsewhere { FURTHER } else { socket };
                let (due, to) = (cx.now + request.wait, SocketAddr::new(ip, request.port));
                self.asked(cx, Waiting { conn, peer, due, socket, to, nonce: request.nonce });
            }
            Input::Down(conn) => self.waiting.retain(|w| w.conn != conn),
            Input::Socket(event) => self.socket(cx, &event),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        self.send_due(cx);
        match self.further {
            Further::Opening(until) if until <= cx.now => {
                cx.emit(Output::Socket(SocketRequest::Close(FURTHER)));
                self.no_further(cx);
            }
            Further::Open(until) if until <= cx.now => {
                cx.emit(Output::Socket(SocketRequest::Close(FURTHER)));
                self.further = Further::Closed;
            }
            Further::Closed | Further::Opening(_) | Further::Open(_) => {}
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        // What waits for the socket is woken by it.
        let opening = matches!(self.further, Further::Opening(_));
        let due = self.waiting.iter().filter(|w| !opening || w.socket != FURTHER).map(|w| w.due).min();
        let due = due.map(|at| Deadline::new(at, "dial back"));
        let further = match self.further {
            Further::Closed => None,
            Further::Opening(at) => Some(Deadline::new(at, "no further socket")),
            Further::Open(at) => Some(Deadline::new(at, "close the further socket")),
        };
        Deadline::earlier(due, further)
    }
}
