//! Agreeing with the peer: CONNECT, ANSWER, SYNC, and how attempts and rounds begin and end.

use super::firing::Firing;
use super::message::{Message, Nonce, Offer};
use super::plan::{exact, plan};
use super::{
    ACTIVE_MAX, ATTEMPTS_PER_ROUND, How, Output, Phase, PunchResult, Puncher, ROUND, Round, Session,
};
use crate::codec::Frame;
use crate::dht::record::NatType;
use crate::id::ConnId;
use crate::machine::Cx;
use crate::path::punch::plan::Plan;
use crate::place::{Place, SocketId};
use crate::time::{Duration, Instant};
use std::net::SocketAddr;

/// An answer is waited for three round trips, within these bounds: the slowest paths have 1.5 s.
const ANSWER_MIN: Duration = Duration::from_secs(1);
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// A responder's round outlives its last attempt by this much, in which the initiator may begin another.
const GRACE: Duration = Duration::from_secs(1);
/// A further attempt needs so much of the round.
const ATTEMPT_MIN: Duration = Duration::from_millis(1_500);
/// Who is busy asks to come again after this.
const BUSY_WAIT: Duration = Duration::from_secs(10);

impl Puncher {
    fn offer(&self, now: Instant) -> Option<Offer> {
        let own = self.own.clone()?;
        let birthday = self.has_birthday() && self.ledger.has_birthday(now);
        Some(Offer { birthday, ..own })
    }

    /// Whether birthday probing may begin: it is allowed, and none is under way.
    fn has_birthday(&self) -> bool {
        let under_way = |s: &Session| matches!(&s.phase, Phase::Firing(f) if f.is_birthday());
        self.birthday_allowed && !self.sessions.values().any(under_way)
    }

    /// Another connection of the same peer punches.
    fn is_doubled(&self, conn: ConnId) -> bool {
        let Some(session) = self.sessions.get(&conn) else { return false };
        self.sessions.iter().any(|(c, s)| *c != conn && s.peer == session.peer && s.is_active())
    }

    /// Begins a round of our own.
    pub(super) fn begin(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId) {
        if self.is_doubled(conn) {
            if let Some(session) = self.sessions.get_mut(&conn) {
                session.due = Some(cx.now + ROUND);
            }
            return;
        }
        // A round that the peer began and that is only waited for ends with ours.
        if self.sessions.get(&conn).is_some_and(|s| s.round.is_some()) {
            self.fail(cx, conn);
        }
        self.call(cx, conn, None);
    }

    /// Sends CONNECT: the first of a round, or the next of `round`.
    fn call(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, round: Option<Box<Round>>) {
        let Some(mine) = self.offer(cx.now) else { return };
        let Some(peer) = self.sessions.get(&conn).map(|s| s.peer) else { return };
        if let Err(free) = self.ledger.spend(cx.now, &peer) {
            if let Some(session) = self.sessions.get_mut(&conn) {
                session.round = round;
                session.due = Some(free);
            }
            return self.fail(cx, conn);
        }
        let nonce = Nonce(cx.rng.bytes());
        let attempt = self.ledger.tries(&peer);
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let (started, nth) = round.as_ref().map_or((cx.now, 1), |r| (r.started, r.nth + 1));
        cx.emit(Output::Send {
            conn,
            frame: Message::Connect { nonce, attempt, offer: mine.clone() }.to_frame(),
        });
        session.due = None;
        session.round = Some(Box::new(Round {
            ours: true,
            nonce,
            attempt,
            nth,
            started,
            ends: started + ROUND,
            mine,
            theirs: round.and_then(|r| r.theirs),
            plan: Plan::default(),
            fired: false,
            silent: false,
            trouble: "the other side did not answer",
        }));
        session.phase = Phase::Called { at: cx.now, until: cx.now + patience(session.rtt) };
    }

    /// The peer says something.
    pub(super) fn frame(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, frame: &Frame) {
        if !self.sessions.contains_key(&conn) {
            return cx.emit(Output::Refused("a punch on a connection that never was relayed"));
        }
        match Message::from_frame(frame) {
            Ok(Message::Connect { nonce, attempt, offer }) => self.connect(cx, conn, nonce, attempt, offer),
            Ok(Message::Answer { nonce, offer }) => self.answer(cx, conn, nonce, offer),
            Ok(Message::Sync { nonce }) => self.sync(cx, conn, nonce),
            Ok(Message::Decline { nonce, wait }) => self.declined(cx, conn, nonce, wait),
            Err(_) => cx.emit(Output::Refused("a malformed punch")),
        }
    }

    fn decline(&self, cx: &mut Cx<'_, Output>, conn: ConnId, nonce: Nonce, wait: Duration) {
        let wait = Duration::from_secs(wait.as_secs() + 1);
        cx.emit(Output::Send { conn, frame: Message::Decline { nonce, wait }.to_frame() });
        cx.emit(Output::Refused("a punch beyond the limits"));
    }

    fn connect(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, nonce: Nonce, attempt: u32, theirs: Offer) {
        let (Some(mine), Some(session)) = (self.offer(cx.now), self.sessions.get(&conn)) else {
            return self.decline(cx, conn, nonce, BUSY_WAIT);
        };
        let peer = session.peer;
        match (&session.phase, &session.round) {
            // Both began: the lower nonce yields, and equal ones to whose turn it is.
            (Phase::Called { .. }, Some(round))
                if (round.nonce, session.initiator) > (nonce, !session.initiator) =>
            {
                return cx.emit(Output::Refused("both began to punch, and ours goes on"));
            }
            (Phase::Armed { .. } | Phase::Firing(_), Some(round)) if round.ours => {
                return self.decline(cx, conn, nonce, BUSY_WAIT);
            }
            (
                Phase::Idle
                | Phase::Called { .. }
                | Phase::Answered { .. }
                | Phase::Armed { .. }
                | Phase::Firing(_),
                _,
            ) => {}
        }
        let full = !session.is_active() && self.active() >= ACTIVE_MAX;
        if full || self.is_doubled(conn) {
            return self.decline(cx, conn, nonce, BUSY_WAIT);
        }
        if let Err(free) = self.ledger.spend(cx.now, &peer) {
            return self.decline(cx, conn, nonce, free.since(cx.now));
        }
        self.ledger.offered(&peer, &theirs);
        self.join(cx, conn, nonce, attempt, mine, theirs);
    }

    /// Serves the peer's attempt: of the round that is known, or of a new one.
    fn join(
        &mut self,
        cx: &mut Cx<'_, Output>,
        conn: ConnId,
        nonce: Nonce,
        attempt: u32,
        mine: Offer,
        theirs: Offer,
    ) {
        self.cease(cx, conn);
        let known = self.sessions.get(&conn).and_then(|s| s.round.as_ref());
        let goes_on = known.is_some_and(|r| !r.ours && attempt > r.attempt && cx.now < r.ends);
        if known.is_some_and(|r| !r.ours) && !goes_on {
            self.fail(cx, conn);
        }
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        // What the peer begins is a try as good as ours: our own waits for its end.
        session.due = None;
        let before = session.round.take().filter(|_| goes_on);
        let started = before.as_ref().map_or(cx.now, |r| r.started);
        cx.emit(Output::Send { conn, frame: Message::Answer { nonce, offer: mine.clone() }.to_frame() });
        let reachable = theirs.behaviour.is_reachable();
        session.round = Some(Box::new(Round {
            ours: false,
            nonce,
            attempt,
            nth: before.as_ref().map_or(1, |r| r.nth + 1),
            started,
            ends: started + ROUND + GRACE,
            mine,
            theirs: Some(theirs),
            plan: Plan::default(),
            fired: false,
            silent: before.map_or(session.direct, |r| r.silent),
            trouble: "the other side did not go on",
        }));
        session.phase = Phase::Answered { until: cx.now + patience(session.rtt) };
        if reachable && attempt == 1 {
            self.greet(cx, conn);
        }
    }

    fn answer(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, nonce: Nonce, theirs: Offer) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let (Phase::Called { at, .. }, Some(round)) = (&session.phase, &mut session.round) else {
            return cx.emit(Output::Refused("an ANSWER without a CONNECT"));
        };
        if round.nonce != nonce {
            return cx.emit(Output::Refused("an ANSWER to another CONNECT"));
        }
        let rtt = cx.now.since(*at);
        let reachable = theirs.behaviour.is_reachable() && round.attempt == 1;
        self.ledger.offered(&session.peer, &theirs);
        round.theirs = Some(theirs);
        round.trouble = "no packet came through";
        cx.emit(Output::Send { conn, frame: Message::Sync { nonce }.to_frame() });
        session.phase = Phase::Armed { fire: cx.now + rtt / 2 };
        if reachable {
            self.greet(cx, conn);
        }
        if rtt / 2 == Duration::ZERO {
            self.fire(cx, conn);
        }
    }

    fn sync(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, nonce: Nonce) {
        let session = self.sessions.get(&conn);
        let answered = session.is_some_and(|s| {
            matches!(s.phase, Phase::Answered { .. }) && s.round.as_ref().is_some_and(|r| r.nonce == nonce)
        });
        if !answered {
            return cx.emit(Output::Refused("a SYNC without an ANSWER"));
        }
        self.fire(cx, conn);
    }

    fn declined(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, nonce: Nonce, wait: Duration) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let (Phase::Called { .. }, Some(round)) = (&session.phase, &mut session.round) else {
            return cx.emit(Output::Refused("a DECLINE without a CONNECT"));
        };
        if round.nonce != nonce {
            return cx.emit(Output::Refused("a DECLINE of another CONNECT"));
        }
        round.trouble = "the other side declined";
        session.due = Some(cx.now + cx.rng.jitter(wait.max(BUSY_WAIT), 10));
        session.phase = Phase::Idle;
        self.fail(cx, conn);
    }

    /// Both fire.
    pub(super) fn fire(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId) {
        let has_birthday = self.has_birthday();
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let Some(round) = &mut session.round else { return };
        let Some(theirs) = &round.theirs else { return };
        round.plan = plan(&round.mine, theirs, round.attempt, round.ours, &session.seen);
        round.fired = true;
        round.trouble = if round.plan.hopeless {
            "both NATs give every destination another port, which cannot be foretold"
        } else {
            "no packet came through"
        };
        if round.plan.birthday.is_some() && !(has_birthday && self.ledger.spend_birthday(cx.now)) {
            round.plan.birthday = None;
        }
        let exact = exact(&round.mine, theirs, &session.seen);
        let firing = Firing::new(cx.now, cx.rng, &round.plan, exact, session.rtt, round.ends);
        session.phase = Phase::Firing(Box::new(firing));
        self.shoot(cx, conn);
    }

    /// Writes once to a peer that can simply be written to, before both fire.
    fn greet(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId) {
        let Some(session) = self.sessions.get(&conn) else { return };
        let Some((mine, theirs)) = session.round.as_ref().and_then(|r| Some((&r.mine, r.theirs.as_ref()?)))
        else {
            return;
        };
        for to in exact(mine, theirs, &session.seen) {
            self.probe(cx, conn, SocketId::MAIN, to);
        }
    }

    /// The attempt under way has come to nothing.
    pub(super) fn attempt_over(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, trouble: &'static str) {
        self.cease(cx, conn);
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let Some(round) = &mut session.round else { return };
        if !round.fired {
            round.trouble = trouble;
        }
        let again = round.nth < ATTEMPTS_PER_ROUND
            && !round.plan.hopeless
            && round.plan.birthday.is_none()
            && cx.now + ATTEMPT_MIN <= round.ends;
        if !again {
            return self.fail(cx, conn);
        }
        // Who was asked waits whether it is asked again.
        if round.ours {
            let round = session.round.take();
            self.call(cx, conn, round);
        }
    }

    /// Ends what the attempt under way does.
    fn cease(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        session.phase = Phase::Idle;
        let kept = session.kept;
        self.close_sockets(cx, conn, kept);
    }

    /// The round has come to nothing. A time to begin again that is already set stays: something has changed.
    pub(super) fn fail(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId) {
        self.cease(cx, conn);
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let Some(round) = session.round.take() else { return };
        let rest = self.ledger.failed(&session.peer);
        if session.initiator && session.due.is_none() && !session.direct {
            session.due = Some(cx.now + cx.rng.jitter(rest, 20));
        }
        if !round.silent {
            let result = PunchResult::Failed(round.trouble);
            self.report(cx, conn, &round, result);
        }
    }

    /// A path was validated.
    pub(super) fn direct(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, place: Place) {
        let Place::Direct { socket, addr } = place else { return };
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        session.direct = true;
        session.due = None;
        let peer = session.peer;
        let round = session.round.take();
        let owned = self.sockets.get(&socket) == Some(&conn);
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if owned {
            session.kept = Some(socket);
        }
        self.cease(cx, conn);
        let Some(round) = round else { return };
        self.ledger.punched(&peer);
        if !round.silent {
            let how = how(&round, socket, addr);
            let after = cx.now.since(round.started);
            self.report(cx, conn, &round, PunchResult::Punched { attempt: round.attempt, after, how });
        }
    }

    fn report(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, round: &Round, result: PunchResult) {
        let Some(Session { peer, .. }) = self.sessions.get(&conn) else { return };
        let ours = round.mine.behaviour.nat_type();
        let theirs = round.theirs.as_ref().map_or(NatType::Unknown, |t| t.behaviour.nat_type());
        let punched_at = match result {
            PunchResult::Punched { attempt, .. } => Some(attempt),
            PunchResult::Failed(_) => None,
        };
        self.ledger.count((ours, theirs), punched_at);
        cx.emit(Output::Outcome { conn, peer: *peer, ours, theirs, result });
    }
}

fn patience(rtt: Duration) -> Duration {
    rtt.saturating_mul(3).clamp(ANSWER_MIN, ANSWER_MAX)
}

/// By which of the means of a round a path must have been found.
fn how(round: &Round, socket: SocketId, addr: SocketAddr) -> How {
    let told = round.theirs.as_ref().is_some_and(|t| t.candidates.contains(&addr));
    let guessed = |ips: &[SocketAddr]| ips.iter().any(|to| to.ip() == addr.ip());
    if !round.fired {
        return How::Direct;
    }
    match &round.plan.birthday {
        Some((_, ips)) if socket != SocketId::MAIN || (!told && guessed(ips)) => return How::Birthday,
        Some(_) | None => {}
    }
    if round.plan.foretold || (!told && round.plan.window.contains(&addr)) {
        return How::Predicted;
    }
    How::Simultaneous
}
