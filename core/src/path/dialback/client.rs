//! Asking to be dialled back, and what follows from what comes.
//!
//! A node behind a NAT asks two things, once per network. **What is let in**: a datagram from another port of an IP address
//! that we write to gets through only if the filter does not look at ports. **How long a mapping lives**: a socket of its own
//! learns its mapping by one STUN request, is left alone for 30 s, then another one for 60 s, then 120 s; each time a datagram
//! to the mapping shows whether it is still there. It comes from the very address that the STUN request went to, so that
//! every filter lets it in as long as the mapping lives. The steps double because keep-alives at half of the lifetime are
//! wanted, not the lifetime to the second.
//!
//! **Silence proves little**: a server may be old, busy, or gone, and datagrams get lost. So with every question comes a
//! control question, for a datagram after the same wait from the server's own port to our main socket, whose mapping
//! the connection keeps alive. Silence counts only when the control arrived, and is believed when it came twice. Where
//! neither comes twice, the server is not asked any more; the next one is.
//!
//! **Lies.** To make us believe in a short life a server sends nothing, and costs us some keep-alives. To make us believe in a
//! long one it must keep the mapping alive: many NATs count packets from outside as use. Whatever else comes in on the
//! socket that is to be left alone therefore ends the attempt, and proves nothing. What dies between the NAT and us (a short
//! TTL, a wrong checksum) we never see; so a lifetime that was told is believed no longer than until a way falls silent
//! ([`crate::path::paths`]).

use super::{DialBack, Nonce, RESTING_FIRST, RESTING_NUMBERS, WAIT_MAX};
use crate::id::ConnId;
use crate::machine::{Cx, Machine};
use crate::place::{SocketEvent, SocketId, SocketRequest};
use crate::time::{Deadline, Duration, Instant};
use std::net::SocketAddr;

/// Servers known; one is asked at a time.
pub const SERVERS_MAX: usize = 8;
/// The first step; the shortest lifetime that is common.
pub const IDLE_FIRST: Duration = Duration::from_secs(30);
/// What is asked for may be late by so much and two round trips.
pub const GRACE: Duration = Duration::from_secs(3);
/// Before each question: connections of a new network come one after the other, and nothing here is urgent.
pub const SETTLE: Duration = Duration::from_secs(2);
/// A socket and two answers of STUN must be there within this time; STUN gives up after 15.5 s.
pub const PREPARED_WITHIN: Duration = Duration::from_secs(20);
/// As often as this a thing must be so before it is believed, if it was shown by silence.
pub const BELIEVED_AFTER: u32 = 2;
/// No round trip is longer, whatever was measured while it was disturbed.
const RTT_MAX: Duration = Duration::from_secs(3);

/// What can happen to the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A public node is connected over UDP, by our main socket.
    Server {
        /// The connection.
        conn: ConnId,
        /// Where our packets to it go.
        addr: SocketAddr,
        /// The round trip.
        rtt: Duration,
    },
    /// It is not any more.
    Gone(ConnId),
    /// Whether there is a NAT between us and others.
    Behind(bool),
    /// A server of STUN sees one of our sockets there.
    Mapped {
        /// The server.
        by: SocketAddr,
        /// Which of our sockets asked.
        socket: SocketId,
        /// What it saw.
        mapped: SocketAddr,
    },
    /// A server of STUN did not answer.
    Unanswered {
        /// The server.
        by: SocketAddr,
        /// Which of our sockets asked.
        socket: SocketId,
    },
    /// A socket of ours was opened, or failed.
    Socket(SocketEvent),
    /// A datagram of a dial-back came.
    Arrived {
        /// On which socket.
        socket: SocketId,
        /// From where.
        from: SocketAddr,
        /// What it brings back.
        nonce: Nonce,
    },
    /// Something else came in on a socket of ours.
    Disturbed(SocketId),
    /// Whatever was known was of another NAT.
    NetworkChanged,
}

/// What the client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Open or close a socket.
    Socket(SocketRequest),
    /// Ask this server of STUN from this socket.
    Stun {
        /// From which socket.
        socket: SocketId,
        /// Whom.
        to: SocketAddr,
    },
    /// Say this to the peer of a connection.
    Ask {
        /// The connection.
        conn: ConnId,
        /// What.
        request: DialBack,
    },
    /// Whether packets come in from another port of an IP address that we write to.
    Filter {
        /// They do.
        arrived: bool,
    },
    /// A mapping was left alone.
    Idled {
        /// For so long.
        idle: Duration,
        /// It was still there.
        alive: bool,
    },
    /// A datagram counts for nothing, and why.
    Refused(&'static str),
}

/// What is to be learnt next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Topic {
    /// Whether the filter looks at ports.
    #[default]
    Filter,
    /// Whether a mapping lives for so long.
    Idle(Duration),
    /// Nothing.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Server {
    conn: ConnId,
    addr: SocketAddr,
    rtt: Duration,
    /// Nothing came of asking it.
    deaf: bool,
}

/// One question to one server.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    server: Server,
    stage: Stage,
    /// When this stage is over.
    until: Instant,
    /// The socket that is left alone, while it is open.
    resting: Option<SocketId>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Where does the server see our main socket?
    OwnPort,
    /// A further socket is being opened.
    Opening { own: u16 },
    /// Where does the server see it?
    FreshPort { own: u16 },
    /// Asked; both datagrams may come from `due` on.
    Waiting { due: Instant, test: Nonce, control: Nonce, control_came: bool },
}

/// The client. See the module.
#[derive(Clone, Debug, Default)]
pub struct Client {
    servers: Vec<Server>,
    behind: bool,
    topic: Topic,
    /// Attempts on this topic in a row in which only the control came, and nothing did.
    silences: u32,
    blanks: u32,
    begin: Option<Instant>,
    attempt: Option<Attempt>,
    /// What the last question waited for: it may still come.
    spent: Option<[Nonce; 2]>,
    turn: u16,
}

impl Client {
    /// Servers known.
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Whether everything is known that can be.
    pub fn is_done(&self) -> bool {
        self.topic == Topic::Nothing
    }

    fn server(&mut self, cx: &mut Cx<'_, Output>, server: Server) {
        let Some(known) = self.servers.iter_mut().find(|s| s.conn == server.conn) else {
            if self.servers.len() < SERVERS_MAX {
                self.servers.push(server);
            }
            return;
        };
        if known.addr == server.addr {
            known.rtt = server.rtt;
        } else {
            *known = server;
            self.leave(cx, server.conn);
        }
    }

    /// Nothing is expected of this connection any more; what was asked of it proves nothing.
    fn leave(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId) {
        if self.attempt.is_some_and(|a| a.server.conn == conn) {
            self.end(cx);
        }
    }

    /// Ends the attempt, if there is one, without a conclusion.
    fn end(&mut self, cx: &mut Cx<'_, Output>) {
        let Some(attempt) = self.attempt.take() else { return };
        if let Some(socket) = attempt.resting {
            cx.emit(Output::Socket(SocketRequest::Close(socket)));
        }
        if let Stage::Waiting { test, control, .. } = attempt.stage {
            self.spent = Some([test, control]);
        }
    }

    fn network_changed(&mut self, cx: &mut Cx<'_, Output>) {
        self.end(cx);
        self.begin = None;
        self.topic = Topic::Filter;
        (self.silences, self.blanks) = (0, 0);
        self.servers.iter_mut().for_each(|s| s.deaf = false);
    }

    /// Plans the next attempt, or drops it, by what is known now.
    fn plan(&mut self, cx: &mut Cx<'_, Output>) {
        let wanted = self.behind && !self.is_done() && self.servers.iter().any(|s| !s.deaf);
        if !wanted {
            self.begin = None;
        } else if self.attempt.is_none() && self.begin.is_none() {
            self.begin = Some(cx.now + SETTLE);
        }
    }

    fn start(&mut self, cx: &mut Cx<'_, Output>) {
        self.begin = None;
        let Some(server) = self.servers.iter().find(|s| !s.deaf).copied() else { return };
        let until = cx.now + PREPARED_WITHIN;
        self.attempt = Some(Attempt { server, stage: Stage::OwnPort, until, resting: None });
        cx.emit(Output::Stun { socket: SocketId::MAIN, to: server.addr });
    }

    fn mapped(&mut self, cx: &mut Cx<'_, Output>, by: SocketAddr, socket: SocketId, port: u16) {
        let Some(attempt) = self.attempt.as_mut().filter(|a| a.server.addr == canonical(by)) else { return };
        match attempt.stage {
            Stage::OwnPort if socket == SocketId::MAIN && self.topic == Topic::Filter => {
                self.ask(cx, port, port)
            }
            Stage::OwnPort if socket == SocketId::MAIN => {
                let resting = SocketId(RESTING_FIRST + self.turn);
                self.turn = (self.turn + 1) % RESTING_NUMBERS;
                attempt.stage = Stage::Opening { own: port };
                attempt.resting = Some(resting);
                cx.emit(Output::Socket(SocketRequest::Open(resting)));
            }
            Stage::FreshPort { own } if attempt.resting == Some(socket) => self.ask(cx, own, port),
            Stage::OwnPort | Stage::Opening { .. } | Stage::FreshPort { .. } | Stage::Waiting { .. } => {}
        }
    }

    fn socket(&mut self, cx: &mut Cx<'_, Output>, event: &SocketEvent) {
        let (SocketEvent::Opened(socket, _) | SocketEvent::Failed(socket, _)) = event;
        let Some(attempt) = self.attempt.as_mut().filter(|a| a.resting == Some(*socket)) else { return };
        match (event, attempt.stage) {
            (SocketEvent::Opened(..), Stage::Opening { own }) => {
                attempt.stage = Stage::FreshPort { own };
                cx.emit(Output::Stun { socket: *socket, to: attempt.server.addr });
            }
            (SocketEvent::Opened(..), _) => {}
            (SocketEvent::Failed(..), _) => {
                attempt.resting = None;
                self.blank(cx);
            }
        }
    }

    /// Asks for the datagram whose coming is the answer, and for its control.
    fn ask(&mut self, cx: &mut Cx<'_, Output>, own: u16, tested: u16) {
        let wait = match self.topic {
            Topic::Idle(idle) => idle,
            Topic::Filter | Topic::Nothing => Duration::ZERO,
        };
        let Some(attempt) = &mut self.attempt else { return };
        let (test, control) = (Nonce(cx.rng.bytes()), Nonce(cx.rng.bytes()));
        let due = cx.now + wait;
        attempt.stage = Stage::Waiting { due, test, control, control_came: false };
        attempt.until = due + GRACE + attempt.server.rtt * 2;
        let conn = attempt.server.conn;
        let elsewhere = self.topic == Topic::Filter;
        let request = DialBack { nonce: test, port: tested, wait, elsewhere };
        cx.emit(Output::Ask { conn, request });
        // Behind the other: if the server has room for one only, it is not the control.
        let request = DialBack { nonce: control, port: own, wait, elsewhere: false };
        cx.emit(Output::Ask { conn, request });
    }

    fn arrived(&mut self, cx: &mut Cx<'_, Output>, socket: SocketId, from: SocketAddr, nonce: Nonce) {
        if self.spent.is_some_and(|spent| spent.contains(&nonce)) {
            return;
        }
        let unasked = Output::Refused("dialback-unasked");
        let Some(attempt) = &mut self.attempt else { return cx.emit(unasked) };
        let Stage::Waiting { due, test, control, control_came } = &mut attempt.stage else {
            return cx.emit(unasked);
        };
        let (from, server) = (canonical(from), attempt.server.addr);
        if *due > cx.now {
            cx.emit(Output::Refused("dialback-early"));
            return self.disturbed(cx, socket);
        }
        let elsewhere = from.ip() == server.ip() && from.port() != server.port();
        let right = if self.topic == Topic::Filter { elsewhere } else { from == server };
        if nonce == *test && right && socket == attempt.resting.unwrap_or(SocketId::MAIN) {
            self.conclude(cx, true);
        } else if nonce == *control && from == server && socket == SocketId::MAIN {
            *control_came = true;
        } else {
            cx.emit(unasked);
        }
    }

    /// The mapping that was to be left alone was not. An answer of STUN that comes twice does no harm.
    fn disturbed(&mut self, cx: &mut Cx<'_, Output>, socket: SocketId) {
        let Topic::Idle(idle) = self.topic else { return };
        let spoils = |a: &Attempt| match a.stage {
            Stage::Waiting { due, .. } => {
                let late = GRACE + a.server.rtt * 2;
                a.resting == Some(socket) && cx.now < due && due.since(cx.now) + late < idle
            }
            Stage::OwnPort | Stage::Opening { .. } | Stage::FreshPort { .. } => false,
        };
        if self.attempt.as_ref().is_some_and(spoils) {
            cx.emit(Output::Refused("dialback-disturbed"));
            self.blank(cx);
        }
    }

    /// The topic is settled.
    fn conclude(&mut self, cx: &mut Cx<'_, Output>, heard: bool) {
        self.end(cx);
        (self.silences, self.blanks) = (0, 0);
        self.topic = match self.topic {
            Topic::Filter => {
                cx.emit(Output::Filter { arrived: heard });
                Topic::Idle(IDLE_FIRST)
            }
            Topic::Idle(idle) => {
                cx.emit(Output::Idled { idle, alive: heard });
                if heard && idle * 2 <= WAIT_MAX { Topic::Idle(idle * 2) } else { Topic::Nothing }
            }
            Topic::Nothing => Topic::Nothing,
        };
    }

    /// The control came and nothing else.
    fn silence(&mut self, cx: &mut Cx<'_, Output>) {
        self.end(cx);
        self.silences += 1;
        if self.silences >= BELIEVED_AFTER {
            self.conclude(cx, false);
        }
    }

    /// Nothing came, or nothing could be asked.
    fn blank(&mut self, cx: &mut Cx<'_, Output>) {
        let Some(conn) = self.attempt.map(|a| a.server.conn) else { return };
        self.end(cx);
        self.blanks += 1;
        if self.blanks >= BELIEVED_AFTER {
            (self.silences, self.blanks) = (0, 0);
            self.servers.iter_mut().filter(|s| s.conn == conn).for_each(|s| s.deaf = true);
        }
    }
}

impl Machine for Client {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Server { conn, addr, rtt } => {
                let rtt = rtt.min(RTT_MAX);
                self.server(cx, Server { conn, addr: canonical(addr), rtt, deaf: false });
            }
            Input::Gone(conn) => {
                self.servers.retain(|s| s.conn != conn);
                self.leave(cx, conn);
            }
            Input::Behind(behind) => {
                self.behind = behind;
                if !behind {
                    self.end(cx);
                }
            }
            Input::Mapped { by, socket, mapped } => self.mapped(cx, by, socket, mapped.port()),
            Input::Unanswered { by, socket } => {
                let ours = |a: &Attempt| {
                    let asked = match a.stage {
                        Stage::OwnPort => Some(SocketId::MAIN),
                        Stage::FreshPort { .. } => a.resting,
                        Stage::Opening { .. } | Stage::Waiting { .. } => None,
                    };
                    a.server.addr == canonical(by) && asked == Some(socket)
                };
                if self.attempt.as_ref().is_some_and(ours) {
                    self.blank(cx);
                }
            }
            Input::Socket(event) => self.socket(cx, &event),
            Input::Arrived { socket, from, nonce } => self.arrived(cx, socket, from, nonce),
            Input::Disturbed(socket) => self.disturbed(cx, socket),
            Input::NetworkChanged => self.network_changed(cx),
        }
        self.plan(cx);
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        if self.begin.is_some_and(|at| at <= cx.now) {
            self.start(cx);
        }
        if let Some(attempt) = self.attempt.filter(|a| a.until <= cx.now) {
            match attempt.stage {
                Stage::Waiting { control_came: true, .. } => self.silence(cx),
                Stage::Waiting { .. } | Stage::OwnPort | Stage::Opening { .. } | Stage::FreshPort { .. } => {
                    self.blank(cx)
                }
            }
            self.plan(cx);
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let begin = self.begin.map(|at| Deadline::new(at, "ask to be dialled back"));
        let over = self.attempt.map(|a| Deadline::new(a.until, "not dialled back"));
        Deadline::earlier(begin, over)
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
