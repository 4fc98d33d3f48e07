//! Sending the probes of an attempt, each at its time, and the sockets of birthday probing.

use super::plan::{Plan, PortWalk, Role};
use super::{
    ATTEMPT, FIRE_AT, GUESSES_MAX, Output, PROBES_PER_SECOND, Phase, Puncher, SOCKET_FIRST, SOCKETS,
};
use crate::dht::endpoint::{Scope, scope};
use crate::id::ConnId;
use crate::machine::Cx;
use crate::place::{SocketId, SocketRequest};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};

/// Many probes leave in portions, so often …
const TICK: Duration = Duration::from_millis(50);
/// … so many.
const PER_TICK: usize = PROBES_PER_SECOND / 20;
/// A window is written to so often: the other side's ports may open later than ours.
const WINDOW_PASSES: usize = 3;
/// Guessing begins when writing to candidates should have worked: after a round trip, within these bounds.
const GUESS_AFTER_MIN: Duration = Duration::from_millis(300);
const GUESS_AFTER_MAX: Duration = Duration::from_millis(1_000);
/// Guessing is over so long after firing.
const GUESS_FOR: Duration = Duration::from_millis(9_500);
/// Every open port is written from once more after this time: a probe may be lost, and short-lived mappings last 30 s.
const REPEAT_AFTER: Duration = Duration::from_secs(5);

/// The many probes beside those to candidates.
#[derive(Clone, Debug)]
enum Spray {
    /// To foretold ports.
    Window { targets: Vec<SocketAddr>, sent: usize },
    /// To guessed ports of this address.
    Guess { ip: IpAddr, walk: PortWalk, sent: usize },
    /// From many sockets.
    Open { targets: Vec<SocketAddr>, asked: usize, open: Vec<SocketId>, repeat: Instant, repeated: usize },
}

/// An attempt while probes leave.
#[derive(Clone, Debug)]
pub(super) struct Firing {
    started: Instant,
    exact: Vec<SocketAddr>,
    shots: usize,
    spray: Option<(Instant, Spray)>,
    ends: Instant,
}

impl Firing {
    /// Begins now; ends in time for `round_ends`.
    pub fn new(
        now: Instant,
        rng: &mut Rng,
        plan: &Plan,
        exact: Vec<SocketAddr>,
        rtt: Duration,
        round_ends: Instant,
    ) -> Self {
        let guess_at = now + rtt.clamp(GUESS_AFTER_MIN, GUESS_AFTER_MAX);
        let spray = match &plan.birthday {
            Some((Role::Opener, targets)) => {
                let repeat = guess_at + REPEAT_AFTER;
                let targets = targets.clone();
                Some((guess_at, Spray::Open { targets, asked: 0, open: Vec::new(), repeat, repeated: 0 }))
            }
            Some((Role::Guesser, targets)) => targets
                .first()
                .map(|addr| (guess_at, Spray::Guess { ip: addr.ip(), walk: PortWalk::new(rng), sent: 0 })),
            None if plan.window.is_empty() => None,
            None => Some((now, Spray::Window { targets: plan.window.clone(), sent: 0 })),
        };
        let lasts = if plan.birthday.is_some() { GUESS_FOR } else { ATTEMPT };
        Self { started: now, exact, shots: 0, spray, ends: round_ends.min(now + lasts) }
    }

    /// Whether this is birthday probing.
    pub fn is_birthday(&self) -> bool {
        matches!(self.spray, Some((_, Spray::Guess { .. } | Spray::Open { .. })))
    }

    /// When something is to be done.
    pub fn next(&self) -> Instant {
        let shot = FIRE_AT.get(self.shots).map(|after| self.started + *after);
        let spray = self.spray.as_ref().map(|(at, _)| *at);
        [shot, spray].into_iter().flatten().fold(self.ends, Instant::min)
    }

    /// What is to be sent now, from the main socket or from others; and how many sockets to open.
    fn take(&mut self, now: Instant) -> (Vec<(SocketId, SocketAddr)>, usize) {
        let mut probes = Vec::new();
        let mut to_open = 0;
        while FIRE_AT.get(self.shots).is_some_and(|after| self.started + *after <= now) {
            self.shots += 1;
            probes.extend(self.exact.iter().map(|to| (SocketId::MAIN, *to)));
        }
        let Some((at, spray)) = &mut self.spray else { return (probes, 0) };
        if *at > now {
            return (probes, 0);
        }
        *at = now + TICK;
        let done = match spray {
            Spray::Window { targets, sent } => {
                let all = targets.len() * WINDOW_PASSES;
                let portion = PER_TICK.min(all - *sent);
                let next = (*sent..*sent + portion).map(|n| targets[n % targets.len()]);
                probes.extend(next.map(|to| (SocketId::MAIN, to)));
                *sent += portion;
                *sent >= all
            }
            Spray::Guess { ip, walk, sent } => {
                let portion = PER_TICK.min(GUESSES_MAX - *sent);
                probes.extend((0..portion).map(|_| (SocketId::MAIN, SocketAddr::new(*ip, walk.next()))));
                *sent += portion;
                *sent >= GUESSES_MAX
            }
            Spray::Open { targets, asked, open, repeat, repeated } => {
                let portion = PER_TICK / targets.len().max(1);
                to_open = portion.min(SOCKETS - *asked);
                *asked += to_open;
                if *asked >= SOCKETS && *repeat > now {
                    *at = *repeat;
                } else if *asked >= SOCKETS {
                    let again = open.iter().skip(*repeated).take(portion);
                    probes.extend(again.flat_map(|socket| targets.iter().map(|to| (*socket, *to))));
                    *repeated += portion;
                }
                *asked >= SOCKETS && *repeated >= open.len() && *repeat <= now
            }
        };
        if done {
            // The kind of the spray is remembered by its sockets and the end; what is over only waits.
            *at = self.ends;
        }
        (probes, to_open)
    }
}

impl Puncher {
    /// Sends what is due of an attempt, and ends it when its time is over.
    pub(super) fn shoot(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let Phase::Firing(firing) = &mut session.phase else { return };
        if firing.ends <= cx.now {
            return self.attempt_over(cx, conn, "no packet came through");
        }
        let (probes, to_open) = firing.take(cx.now);
        for (socket, to) in probes {
            self.probe(cx, conn, socket, to);
        }
        for _ in 0..to_open {
            self.open_socket(cx, conn);
        }
    }

    /// Sends one probe, if its target's budget has room.
    pub(super) fn probe(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, socket: SocketId, to: SocketAddr) {
        let seen = self.sessions.get(&conn).is_some_and(|s| s.seen.contains(&to.ip()));
        let confirmed = seen || scope(to) == Scope::Loopback;
        if confirmed || self.ledger.may_probe(cx.now, to.ip()) {
            cx.emit(Output::Probe { conn, socket, to, confirmed });
        }
    }

    fn open_socket(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId) {
        let numbers = usize::from(u16::MAX - SOCKET_FIRST);
        for _ in 0..numbers {
            let socket = SocketId(self.next_socket);
            self.next_socket = self.next_socket.checked_add(1).unwrap_or(SOCKET_FIRST);
            if let Entry::Vacant(free) = self.sockets.entry(socket) {
                free.insert(conn);
                return cx.emit(Output::Socket(SocketRequest::Open(socket)));
            }
        }
    }

    /// A socket is there: it writes at once.
    pub(super) fn socket_opened(&mut self, cx: &mut Cx<'_, Output>, socket: SocketId) {
        let Some(conn) = self.sockets.get(&socket).copied() else { return };
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let Phase::Firing(firing) = &mut session.phase else { return };
        let Some((_, Spray::Open { targets, open, .. })) = &mut firing.spray else { return };
        if open.len() >= SOCKETS || open.contains(&socket) {
            return;
        }
        open.push(socket);
        for to in targets.clone() {
            self.probe(cx, conn, socket, to);
        }
    }

    /// A socket is not there, or no more.
    pub(super) fn socket_failed(&mut self, socket: SocketId) {
        let Some(conn) = self.sockets.remove(&socket) else { return };
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        session.kept = session.kept.filter(|kept| *kept != socket);
        if let Phase::Firing(firing) = &mut session.phase
            && let Some((_, Spray::Open { open, .. })) = &mut firing.spray
        {
            open.retain(|s| *s != socket);
        }
    }

    /// Closes one socket.
    pub(super) fn close_socket(&mut self, cx: &mut Cx<'_, Output>, socket: SocketId) {
        if self.sockets.remove(&socket).is_some() {
            cx.emit(Output::Socket(SocketRequest::Close(socket)));
        }
    }

    /// Closes the sockets of a connection but one.
    pub(super) fn close_sockets(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, but: Option<SocketId>) {
        let of_conn = self.sockets.iter().filter(|(socket, c)| **c == conn && Some(**socket) != but);
        for socket in of_conn.map(|(socket, _)| *socket).collect::<Vec<_>>() {
            self.close_socket(cx, socket);
        }
    }

    /// Birthday probing is not wanted any more: what is under way goes on without it.
    pub(super) fn stop_birthdays(&mut self, cx: &mut Cx<'_, Output>) {
        let mut stopped = Vec::new();
        for (conn, session) in &mut self.sessions {
            if let Phase::Firing(firing) = &mut session.phase
                && firing.is_birthday()
            {
                firing.spray = None;
                stopped.push((*conn, session.kept));
            }
        }
        for (conn, kept) in stopped {
            self.close_sockets(cx, conn, kept);
        }
    }
}
