//! What a connection does as time passes: suspicion, keep-alive, probes that are due, wishes to punch.

use super::known::{
    ANSWER_WAIT, ANXIOUS_FOR, CANDIDATE_EVERY, FAILING_KEPT, FULL_EVERY, FULL_PINGS, Known, NAMED_RETRY,
    RETRY_MAX, RETRY_MAX_ANXIOUS, RETRY_MIN, SILENT_REST, State, UNUSED_KEPT, doubled,
};
use super::line::Line;
use super::{Env, Output};
use crate::machine::Cx;
use crate::path::budget::Class;
use crate::path::choice::SAMPLES_MIN;
use crate::place::Place;
use crate::time::{Deadline, Duration, Instant};

/// Shortest time in which a suspected place must answer.
const SUSPICION_MIN: Duration = Duration::from_millis(300);
/// Pings in that time: where a fifth of all datagrams is lost each way, all of them are lost in one of 160 suspicions.
const SUSPICION_PINGS: u32 = 5;
/// What the peer does starts suspicions at most so often.
const SUSPICION_EVERY: Duration = Duration::from_millis(300);
/// Pause between pings of a place that has not answered the last one while nothing is being sent, and while a place is new.
const IDLE_EVERY: Duration = Duration::from_secs(1);
/// So many of them in a row unanswered, and an idle place in use has failed. Of probes of which a fifth is lost each way this
/// many are lost together once in thousands of hours.
const IDLE_PINGS: u8 = 16;
/// The same for a spare place, whose loss costs nothing.
const SPARE_PINGS: u8 = 6;
/// Wishes to punch: never more often …
const WANT_EVERY: Duration = Duration::from_secs(5);
/// … and in vain, after a pause that doubles up to this.
const WANT_EVERY_MAX: Duration = Duration::from_secs(300);
const WANT_JITTER_PERCENT: u32 = 20;

/// The place in use is asked whether it still answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    pub(super) since: Instant,
    until: Instant,
    every: Duration,
    /// When the next ping goes.
    next: Option<Instant>,
    left: u32,
    /// QUIC waits for an answer.
    pub(super) stuck: bool,
    /// The peer has left the place, or is not answered there: what arrives from it says nothing about what we send.
    doubted: bool,
}

impl Line {
    /// When something is due next.
    pub(super) fn due(&self) -> Option<Deadline> {
        let suspicion = self.suspicion.map(|s| s.next.map_or(s.until, |next| next.min(s.until)));
        let probe = self.places.iter().filter_map(|k| k.at).min();
        [
            (suspicion, "suspicion of a path"),
            (probe, "path probe"),
            (self.want_at, "punch again"),
            (self.reconsider_at, "choice of path"),
        ]
        .into_iter()
        .filter_map(|(at, reason)| Some(Deadline::new(at?, reason)))
        .min_by_key(|d| d.at)
    }

    /// Does all that is due.
    pub(super) fn run_due(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env) {
        self.run_suspicion(cx, env);
        self.rest_proven(cx.now, env);
        while let Some(at) = self.places.iter().position(|k| k.at.is_some_and(|at| at <= cx.now)) {
            self.places[at].at = None;
            match self.places[at].state {
                State::Candidate { .. } => self.due_candidate(cx, env, at),
                State::Answering => self.due_answering(cx, env, at),
                State::Proven => self.due_proven(cx, env, at),
                State::Failing { .. } => self.due_failing(cx, env, at),
            }
            self.rest_proven(cx.now, env);
        }
        if self.reconsider_at.is_some_and(|at| at <= cx.now) {
            self.reconsider_at = None;
            self.consider(cx, env);
            self.rest_proven(cx.now, env);
        }
        if self.want_at.is_some_and(|at| at <= cx.now) {
            self.want(cx);
        }
    }

    // ── suspicion ──

    /// QUIC is not answered.
    pub(super) fn on_silent(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env) {
        let Some(at) = self.used() else { return };
        match self.places[at].place {
            Place::Direct { .. } if self.places[at].is_proven_direct() => self.suspect(cx, env, true),
            Place::Direct { .. } => self.consider(cx, env),
            Place::Relayed { .. } | Place::Tunnel(_) => {
                // What the transport waits for may have been sent to the place before.
                if self.switched_at.is_some_and(|s| cx.now.since(s) < SUSPICION_MIN) {
                    return;
                }
                self.places[at].silent_at = Some(cx.now);
                // One that fell silent a moment ago is no better: to go to and fro between the two gives neither the time to answer.
                let rested = |k: &Known| k.silent_at.is_none_or(|at| cx.now.since(at) >= SILENT_REST);
                if let Some(other) = self.fallback(cx.now, env).filter(|at| rested(&self.places[*at])) {
                    self.switch(cx, env, other, true);
                }
            }
        }
    }

    /// Asks the direct place in use whether it still answers, and the spare ones whether they do. `stuck`: because QUIC is not
    /// answered; otherwise because of what the peer does.
    pub(super) fn suspect(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, stuck: bool) {
        let Some(used) = self.used().filter(|at| self.places[*at].is_proven_direct()) else { return };
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.stuck |= stuck;
            suspicion.doubted |= !stuck;
            return;
        }
        let lately = self.suspected_at.is_some_and(|at| cx.now.since(at) < SUSPICION_EVERY);
        if lately && !stuck {
            return;
        }
        self.suspected_at = Some(cx.now);
        let window = (self.longest_rtt(used) * 3).max(SUSPICION_MIN);
        let every = window / SUSPICION_PINGS;
        self.suspicion = Some(Suspicion {
            since: cx.now,
            until: cx.now + window,
            every,
            next: Some(cx.now + every),
            left: SUSPICION_PINGS - 1,
            stuck,
            doubted: !stuck,
        });
        let proven: Vec<usize> =
            (0..self.places.len()).filter(|at| self.places[*at].is_proven_direct()).collect();
        for at in proven {
            self.ping(cx, env, at, false, None);
        }
    }

    /// A queue in front of one of them is in front of both.
    pub(super) fn longest_rtt(&self, at: usize) -> Duration {
        self.places[at].rtt.unwrap_or_default().max(self.rtt)
    }

    fn run_suspicion(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env) {
        let Some(mut suspicion) = self.suspicion else { return };
        if suspicion.until <= cx.now {
            return self.fail_used(cx, env, "fell silent");
        }
        if suspicion.next.is_some_and(|next| next <= cx.now) {
            suspicion.left -= 1;
            suspicion.next = (suspicion.left > 0).then_some(cx.now + suspicion.every);
            self.suspicion = Some(suspicion);
            if let Some(at) = self.used() {
                self.ping(cx, env, at, false, None);
            }
        }
    }

    /// Packets came from where they came from before.
    pub(super) fn on_traffic(&mut self, cx: &mut Cx<'_, Output>, _: &mut Env) {
        self.heard_at = cx.now;
        let Some(at) = self.index(&self.from) else { return };
        let is_used = self.is_used(at);
        let known = &mut self.places[at];
        known.silent_at = None;
        let back = is_used && matches!(known.state, State::Failing { .. });
        if known.state == State::Proven || back {
            known.state = State::Proven;
            known.unanswered = 0;
            known.proven_at = cx.now;
        }
        if is_used && let Some(suspicion) = &mut self.suspicion {
            suspicion.stuck = false;
            self.suspicion.take_if(|s| !s.doubted);
        }
        if back {
            self.clear_lost(cx);
        }
    }

    // ── probes that are due ──

    pub(super) fn due_candidate(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, at: usize) {
        let known = &self.places[at];
        let (place, named) = (known.place, known.named.is_some());
        match known.state {
            State::Candidate { left } if left > 0 => {
                let left = left - 1;
                self.places[at].state = State::Candidate { left };
                self.ping(cx, env, at, false, Some(Class::Ordinary));
                let wait = if left > 0 { CANDIDATE_EVERY } else { ANSWER_WAIT };
                self.places[at].at = Some(cx.now + wait);
            }
            State::Candidate { .. } | State::Answering | State::Proven | State::Failing { .. } if named => {
                if known.unanswered == 2 {
                    self.note(cx, place, "no answer");
                }
                self.ping(cx, env, at, false, Some(Class::Ordinary));
                let known = &mut self.places[at];
                known.at = Some(cx.now + doubled(NAMED_RETRY.0, known.unanswered, NAMED_RETRY.1));
            }
            State::Candidate { .. } | State::Answering | State::Proven | State::Failing { .. } => {
                self.places.remove(at);
                self.note(cx, place, "no answer");
            }
        }
    }

    /// It answers small pings: does it carry packets?
    pub(super) fn due_answering(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, at: usize) {
        if self.places[at].unanswered >= FULL_PINGS {
            return self.give_up(cx, at, "answers, but carries no 1,200 bytes");
        }
        self.ping(cx, env, at, true, None);
        let known = &mut self.places[at];
        let first = FULL_EVERY.max(known.rtt.unwrap_or_default() * 2);
        known.at = Some(cx.now + doubled(first, known.unanswered.saturating_sub(1), ANSWER_WAIT));
    }

    pub(super) fn due_failing(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, at: usize) {
        let State::Failing { since, .. } = self.places[at].state else { return };
        let used = self.is_used(at);
        if !used && cx.now.since(since) >= FAILING_KEPT {
            return self.give_up(cx, at, "silent for ten minutes");
        }
        self.places[at].state = State::Failing { since, pongs: 0 };
        let class = self.account(at);
        let sent = self.ping(cx, env, at, false, class);
        let known = &mut self.places[at];
        // What the budget refused counts for the pause as well.
        let tries = known.unanswered.saturating_sub(u8::from(sent));
        let anxious = used && cx.now.since(since) < ANXIOUS_FOR;
        known.at =
            Some(cx.now + doubled(RETRY_MIN, tries, if anxious { RETRY_MAX_ANXIOUS } else { RETRY_MAX }));
    }

    /// An address is not worth more probes, unless the node names it.
    fn give_up(&mut self, cx: &mut Cx<'_, Output>, at: usize, why: &'static str) {
        let place = self.places[at].place;
        if self.places[at].named.is_some() {
            let known = &mut self.places[at];
            known.state = State::Candidate { left: 0 };
            known.at = Some(cx.now + NAMED_RETRY.1);
        } else {
            self.places.remove(at);
        }
        self.note(cx, place, why);
    }

    // ── places that are proven ──

    /// The best direct place beside the one in use: it is kept warm.
    pub(super) fn spare(&self) -> Option<usize> {
        let others =
            (0..self.places.len()).filter(|at| self.places[*at].is_proven_direct() && !self.is_used(*at));
        others.min_by_key(|at| self.measured(*at).map_or(i64::MAX, |m| m.cost()))
    }

    /// Says when each proven direct place is due. It follows from what is known of them, so it may be said at any time.
    pub(super) fn rest_proven(&mut self, now: Instant, env: &Env) {
        let spare = self.spare();
        let pause = |rtt: Option<Duration>| IDLE_EVERY.max(rtt.unwrap_or_default() * 3 / 2);
        for at in 0..self.places.len() {
            let used = self.is_used(at);
            let known = &self.places[at];
            if !known.is_proven_direct() {
                continue;
            }
            let pinged = known.pinged_at.unwrap_or(known.proven_at);
            let compared = (used || spare == Some(at)) && spare.is_some() && known.samples < SAMPLES_MIN;
            let asked = known.unanswered > 0 && self.suspicion.is_none();
            let when = if compared || asked {
                known.pinged_at.map_or(now, |pinged| pinged + pause(known.rtt))
            } else if used {
                pinged.max(self.heard_at) + env.every()
            } else if spare == Some(at) {
                pinged + env.every()
            } else {
                known.proven_at + UNUSED_KEPT
            };
            self.places[at].at = Some(when);
        }
    }

    fn due_proven(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, at: usize) {
        let used = self.is_used(at);
        let known = &self.places[at];
        let (place, unanswered) = (known.place, known.unanswered);
        if !place.is_direct() {
            return;
        }
        if used && unanswered >= IDLE_PINGS {
            self.fail_used(cx, env, "fell silent");
        } else if used || self.spare() == Some(at) {
            if !used && unanswered >= SPARE_PINGS {
                env.distrust = true;
                self.places[at].fail(cx.now);
                self.note(cx, place, "fell silent");
            } else {
                self.ping(cx, env, at, false, None);
            }
        } else {
            self.places.remove(at);
            self.note(cx, place, "works, but others are better");
        }
    }

    // ── punching ──

    /// Whether a direct way is missing and there is somebody through whom it can be arranged.
    fn wants_punch(&self) -> bool {
        matches!(self.selected, Some(Place::Relayed { .. }))
    }

    /// There is reason to try at once.
    pub(super) fn want_soon(&mut self, now: Instant) {
        self.wants = 0;
        self.want_at = None;
        self.want_or_not(now);
    }

    /// The place in use changed.
    pub(super) fn want_or_not(&mut self, now: Instant) {
        if !self.wants_punch() {
            (self.wants, self.want_at) = (0, None);
        } else if self.want_at.is_none() {
            self.want_at = Some(self.wanted_at.map_or(now, |last| now.max(last + WANT_EVERY)));
        }
    }

    fn want(&mut self, cx: &mut Cx<'_, Output>) {
        self.wants = self.wants.saturating_add(1);
        self.wanted_at = Some(cx.now);
        let pause = doubled(WANT_EVERY, self.wants, WANT_EVERY_MAX);
        self.want_at = Some(cx.now + cx.rng.jitter(pause, WANT_JITTER_PERCENT));
        cx.emit(Output::WantPunch(self.conn));
    }
}
