//! Punching holes: two peers behind NATs that talk through a relay find a direct path.
//!
//! A NAT lets a packet in when it looks like the answer to one that went out. So both peers must write to each other, each to
//! the address where the other will appear, at about the same moment. The relayed connection is there to agree on where and
//! when, as in DCUtR (libp2p):
//!
//! ```text
//! initiator                    responder
//!    CONNECT {candidates, NAT} ──▶         ┐ one round trip,
//!    ◀── ANSWER {candidates, NAT}          ┘ timed
//!    SYNC ──▶
//!    after half a round trip: fire         on SYNC: fire
//! ```
//!
//! To fire is to send probes to all of the other's candidates at [`FIRE_AT`], until one is answered or the attempt is over. The
//! probes are made, authenticated and answered elsewhere (the room of paths); this machine says when, from which socket and
//! to whom, and is told what became of it. Where ports depend on the destination, they are foretold or guessed (`plan.rs` has
//! the table and the arithmetic).
//!
//! **Rounds.** A round is up to [`ATTEMPTS_PER_ROUND`] attempts within [`ROUND`]; 97 % of what works works at the first
//! (arXiv 2510.27500). The initiator begins one as soon as the connection runs relayed, then rests 30 s doubling to 30 min;
//! whose addresses or NAT change begins one at once. If both begin, the lower nonce yields. A peer that is asked serves
//! within the same limits ([`ledger`]), and declines beyond them, saying when to come again.
//!
//! **Birthday probing.** Who is behind the hard NAT opens [`SOCKETS`] sockets and writes once from each to the easy side,
//! which opens as many ports of its NAT; the easy side writes to [`GUESSES_MAX`] different ports of the hard side's address, at most
//! [`PROBES_PER_SECOND`]. Of 64,512 ports with 256 open, 577 guesses hit with 90 %, 1,148 with 99 %, 1,715 with 99.9 %
//! (hypergeometric). The socket that is hit stays open, for the path is that socket; the others are closed.
//!
//! Nobody but the peer of an authenticated connection can make this machine do anything, and what a peer can make it do is
//! bounded by [`ledger`] and `plan.rs`.

mod firing;
pub mod ledger;
pub mod message;
mod plan;
mod rounds;
#[cfg(test)]
mod tests;

use crate::codec::Frame;
use crate::dht::record::NatType;
use crate::id::{ConnId, PublicKey};
use crate::machine::{Cx, Machine};
use crate::path::behaviour::Behaviour;
use crate::place::{Place, SocketEvent, SocketId, SocketRequest};
use crate::time::{Deadline, Duration, Instant};
use firing::Firing;
use ledger::Ledger;
use message::{CANDIDATES_MAX, Nonce, Offer};
use plan::Plan;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// When each candidate is written to, counted from the moment of firing: close together at first, since both sides' clocks
/// differ by half a round trip's jitter, then in case of loss.
pub const FIRE_AT: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(30),
    Duration::from_millis(60),
    Duration::from_millis(120),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1_000),
    Duration::from_millis(2_000),
];
/// An attempt is over so long after firing.
pub const ATTEMPT: Duration = Duration::from_millis(2_500);
/// A round is over so long after its first CONNECT (SPEC 4.4).
pub const ROUND: Duration = Duration::from_secs(10);
/// Attempts in a round.
pub const ATTEMPTS_PER_ROUND: u32 = 3;
/// Rounds that this side begins at the same time; others wait.
pub const STARTS_MAX: usize = 8;
/// Rounds under way, those of others included; beyond it peers are declined.
pub const ACTIVE_MAX: usize = 16;
/// Connections watched: more than a node has.
pub const SESSIONS_MAX: usize = 512;
/// IP addresses remembered at which others have seen a peer.
pub const SEEN_MAX: usize = 4;
/// Sockets of a birthday round.
pub const SOCKETS: usize = 256;
/// Ports guessed in a birthday round: what 9 s allow.
pub const GUESSES_MAX: usize = 1_800;
/// Probes a second, beside those to candidates.
pub const PROBES_PER_SECOND: usize = 200;
/// The first number of sockets this machine asks for; those below are for others.
pub const SOCKET_FIRST: u16 = 1_024;

/// What can happen to the puncher.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// This connection runs relayed, and a direct path is wanted. Told before any frame of it, and again whenever a direct
    /// path was lost.
    Relayed {
        /// Which.
        conn: ConnId,
        /// Whose, proven by TLS.
        peer: PublicKey,
        /// Whether it is ours to begin; exactly one side of a connection is told so.
        initiator: bool,
        /// Its round trip.
        rtt: Duration,
    },
    /// A path of this connection was validated.
    Direct {
        /// Which.
        conn: ConnId,
        /// The path.
        place: Place,
    },
    /// This connection is gone.
    Down(ConnId),
    /// A peer says something: a frame of the kinds `0x38` to `0x3b`.
    Frame {
        /// On which connection.
        conn: ConnId,
        /// What.
        frame: Frame,
    },
    /// Where we are, best first, and what our NAT does.
    Own {
        /// Our candidates; of more than [`CANDIDATES_MAX`] the first.
        candidates: Vec<SocketAddr>,
        /// Our NAT.
        behaviour: Behaviour,
    },
    /// Somebody else than the peer (its relay, or we ourselves) has seen its packets come from this address.
    Seen {
        /// On which connection the peer is.
        conn: ConnId,
        /// Where it was seen.
        ip: IpAddr,
    },
    /// What became of a socket.
    Socket(SocketEvent),
    /// The round trip of a connection was measured anew.
    Rtt {
        /// Which.
        conn: ConnId,
        /// The round trip.
        rtt: Duration,
    },
    /// Whether birthday probing may be done. It may, until told otherwise.
    Enabled {
        /// Whether.
        birthday: bool,
    },
}

/// What the puncher asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Say this to the peer, on the control stream.
    Send {
        /// On which connection.
        conn: ConnId,
        /// What.
        frame: Frame,
    },
    /// Send one probe.
    Probe {
        /// For which connection.
        conn: ConnId,
        /// From which socket.
        socket: SocketId,
        /// Where to.
        to: SocketAddr,
        /// Whether somebody else than the peer has seen it at that IP address, or it is this very machine.
        confirmed: bool,
    },
    /// Open or close a socket.
    Socket(SocketRequest),
    /// A round is over.
    Outcome {
        /// Of which connection.
        conn: ConnId,
        /// With whom.
        peer: PublicKey,
        /// Our NAT.
        ours: NatType,
        /// Theirs, as they say.
        theirs: NatType,
        /// What came of it.
        result: PunchResult,
    },
    /// Something a peer said was not followed.
    Refused(&'static str),
}

/// How a round ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PunchResult {
    /// There is a direct path.
    Punched {
        /// At which attempt in a row, from 1.
        attempt: u32,
        /// How long after the round began.
        after: Duration,
        /// By which means.
        how: How,
    },
    /// There is none; why, for people.
    Failed(&'static str),
}

/// By which means a path was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum How {
    /// Before both fired: one side could simply be written to.
    Direct,
    /// Both wrote at the same moment.
    Simultaneous,
    /// To a foretold port.
    Predicted,
    /// To a guessed port.
    Birthday,
}

/// Where an attempt stands.
#[derive(Clone, Debug)]
enum Phase {
    /// None is under way.
    Idle,
    /// CONNECT is sent.
    Called { at: Instant, until: Instant },
    /// ANSWER is sent; SYNC comes next.
    Answered { until: Instant },
    /// SYNC is sent.
    Armed { fire: Instant },
    /// Probes leave.
    Firing(Box<Firing>),
}

/// Attempts that belong together.
#[derive(Clone, Debug)]
struct Round {
    /// Whether we began it.
    ours: bool,
    nonce: Nonce,
    /// Attempt in a row, and in this round.
    attempt: u32,
    nth: u32,
    started: Instant,
    ends: Instant,
    mine: Offer,
    theirs: Option<Offer>,
    plan: Plan,
    fired: bool,
    /// A path was there before; the round is for the other side's sake and is not reported.
    silent: bool,
    /// What went wrong last.
    trouble: &'static str,
}

/// A connection that runs, or once ran, relayed.
#[derive(Clone, Debug)]
struct Session {
    peer: PublicKey,
    initiator: bool,
    rtt: Duration,
    seen: Vec<IpAddr>,
    direct: bool,
    phase: Phase,
    round: Option<Box<Round>>,
    /// When to begin a round of our own.
    due: Option<Instant>,
    /// The socket that a path of this connection is on, when it is not the main one.
    kept: Option<SocketId>,
}

impl Session {
    const fn is_active(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }

    /// When something happens without anybody saying anything, apart from beginning a round.
    fn deadline(&self) -> Option<Deadline> {
        match &self.phase {
            Phase::Idle => {
                self.round.as_ref().map(|r| Deadline::new(r.ends, "no further attempt of the peer"))
            }
            Phase::Called { until, .. } => Some(Deadline::new(*until, "no answer to CONNECT")),
            Phase::Answered { until } => Some(Deadline::new(*until, "no SYNC")),
            Phase::Armed { fire } => Some(Deadline::new(*fire, "fire")),
            Phase::Firing(firing) => Some(Deadline::new(firing.next(), "probe")),
        }
    }
}

/// The puncher.
#[derive(Clone, Debug)]
pub struct Puncher {
    sessions: BTreeMap<ConnId, Session>,
    ledger: Ledger,
    own: Option<Offer>,
    birthday_allowed: bool,
    /// Sockets that were asked for, and for which connection.
    sockets: BTreeMap<SocketId, ConnId>,
    next_socket: u16,
}

impl Default for Puncher {
    fn default() -> Self {
        Self {
            sessions: BTreeMap::new(),
            ledger: Ledger::default(),
            own: None,
            birthday_allowed: true,
            sockets: BTreeMap::new(),
            next_socket: SOCKET_FIRST,
        }
    }
}

impl Puncher {
    /// For each pair of our NAT and theirs: rounds tried, punched, and punched at the first attempt.
    pub fn outcomes(&self) -> Vec<(NatType, NatType, u32, u32, u32)> {
        self.ledger.counts()
    }

    /// Connections watched.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Rounds under way.
    pub fn active(&self) -> usize {
        self.sessions.values().filter(|s| s.is_active()).count()
    }

    /// Sockets open or asked for.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    fn relayed(
        &mut self,
        cx: &mut Cx<'_, Output>,
        conn: ConnId,
        peer: PublicKey,
        initiator: bool,
        rtt: Duration,
    ) {
        if self.sessions.get(&conn).is_some_and(|s| s.peer != peer) {
            self.down(cx, conn);
        }
        if let Some(session) = self.sessions.get_mut(&conn) {
            (session.initiator, session.rtt) = (initiator, rtt);
            if !session.direct {
                return;
            }
            session.direct = false;
            session.due = initiator.then_some(cx.now);
            // The path is lost, and with it what its socket was kept for.
            if let Some(socket) = session.kept.take() {
                self.close_socket(cx, socket);
            }
            return;
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return cx.emit(Output::Refused("too many relayed connections to punch"));
        }
        let session = Session {
            peer,
            initiator,
            rtt,
            seen: Vec::new(),
            direct: false,
            phase: Phase::Idle,
            round: None,
            due: initiator.then_some(cx.now),
            kept: None,
        };
        self.sessions.insert(conn, session);
    }

    fn down(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId) {
        if self.sessions.remove(&conn).is_some() {
            self.close_sockets(cx, conn, None);
        }
    }

    fn own(&mut self, cx: &mut Cx<'_, Output>, mut candidates: Vec<SocketAddr>, behaviour: Behaviour) {
        candidates.truncate(CANDIDATES_MAX);
        let canonical = |a: &SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        let candidates: Vec<SocketAddr> = candidates.iter().map(canonical).collect();
        let new = Offer { candidates, behaviour, birthday: false };
        let same = self.own.as_ref().is_some_and(|own| own.is_like(&new));
        let first = self.own.is_none();
        self.own = Some(new);
        if same || first {
            return;
        }
        self.ledger.own_changed();
        for session in self.sessions.values_mut().filter(|s| !s.direct) {
            session.due = Some(cx.now);
        }
    }

    fn seen(&mut self, conn: ConnId, ip: IpAddr) {
        let ip = ip.to_canonical();
        if let Some(session) = self.sessions.get_mut(&conn)
            && !session.seen.contains(&ip)
        {
            if session.seen.len() >= SEEN_MAX {
                session.seen.remove(0);
            }
            session.seen.push(ip);
        }
    }

    /// Begins the rounds that are due, as far as there is room.
    fn pump(&mut self, cx: &mut Cx<'_, Output>) {
        while let Some(conn) = self.ready(cx.now) {
            self.begin(cx, conn);
        }
    }

    /// Whether a round may begin for this session once it is due.
    fn waits(&self, session: &Session) -> bool {
        !session.direct && !session.is_active() && self.own.is_some()
    }

    fn ready(&self, now: Instant) -> Option<ConnId> {
        if self.active() >= STARTS_MAX {
            return None;
        }
        let due = |s: &Session| self.waits(s) && s.due.is_some_and(|at| at <= now);
        self.sessions.iter().find(|(_, s)| due(s)).map(|(conn, _)| *conn)
    }

    fn session_due(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let now = cx.now;
        match &session.phase {
            Phase::Idle => {
                if session.round.as_ref().is_some_and(|r| r.ends <= now) {
                    self.fail(cx, conn);
                }
            }
            Phase::Called { until, .. } if *until <= now => {
                self.attempt_over(cx, conn, "the other side did not answer");
            }
            Phase::Answered { until } if *until <= now => {
                self.attempt_over(cx, conn, "the other side did not go on");
            }
            Phase::Armed { fire } if *fire <= now => self.fire(cx, conn),
            Phase::Firing(_) => self.shoot(cx, conn),
            Phase::Called { .. } | Phase::Answered { .. } | Phase::Armed { .. } => {}
        }
    }
}

impl Machine for Puncher {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Relayed { conn, peer, initiator, rtt } => self.relayed(cx, conn, peer, initiator, rtt),
            Input::Direct { conn, place } => self.direct(cx, conn, place),
            Input::Down(conn) => self.down(cx, conn),
            Input::Frame { conn, frame } => self.frame(cx, conn, &frame),
            Input::Own { candidates, behaviour } => self.own(cx, candidates, behaviour),
            Input::Seen { conn, ip } => self.seen(conn, ip),
            Input::Socket(SocketEvent::Opened(socket, _)) => self.socket_opened(cx, socket),
            Input::Socket(SocketEvent::Failed(socket, _)) => self.socket_failed(socket),
            Input::Rtt { conn, rtt } => {
                if let Some(session) = self.sessions.get_mut(&conn) {
                    session.rtt = rtt;
                }
            }
            Input::Enabled { birthday } => {
                self.birthday_allowed = birthday;
                if !birthday {
                    self.stop_birthdays(cx);
                }
            }
        }
        self.pump(cx);
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        let due = |s: &Session| s.deadline().is_some_and(|d| d.at <= cx.now);
        let due: Vec<ConnId> = self.sessions.iter().filter(|(_, s)| due(s)).map(|(conn, _)| *conn).collect();
        for conn in due {
            self.session_due(cx, conn);
        }
        self.pump(cx);
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let starts = self.active() < STARTS_MAX;
        let begin = |s: &Session| {
            let due = s.due.filter(|_| starts && self.waits(s));
            due.map(|at| Deadline::new(at, "punch"))
        };
        let each = self.sessions.values().map(|s| Deadline::earlier(s.deadline(), begin(s)));
        each.fold(None, Deadline::earlier)
    }
}
