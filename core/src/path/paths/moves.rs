//! What a connection does about what it learns: a place is proven, fails, is named or gone, the peer moves.

use super::known::{ANSWER_WAIT, FULL_EVERY, State, TRIGGER_EVERY};
use super::line::{AMPLIFICATION_MAX, Line};
use super::{Env, NAMED_MAX, Output};
use crate::dht::endpoint::{Scope, scope};
use crate::machine::Cx;
use crate::path::budget::Class;
use crate::path::choice::{SAMPLES_MIN, Tier};
use crate::place::Place;
use crate::time::{Duration, Instant};

/// Between direct places that work the better one is taken at most this often.
const SWITCH_EVERY: Duration = Duration::from_secs(5);

impl Line {
    // ── proof ──

    /// The punch room wants a probe there.
    pub(super) fn probe_at(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, place: Place, class: Class) {
        if place.addr().is_none_or(|addr| scope(addr) == Scope::Never) {
            return cx.emit(Output::Refused("probe of an unusable address"));
        }
        let Some(at) = self.learn(cx.now, place, State::Candidate { left: 0 }) else {
            return cx.emit(Output::Refused("more places than a connection may have"));
        };
        let known = &self.places[at];
        let lately = known.pinged_at.is_some_and(|p| cx.now.since(p) < TRIGGER_EVERY);
        match known.state {
            State::Candidate { .. } => {
                self.ping(cx, env, at, false, Some(class));
                let known = &mut self.places[at];
                if known.pinged_at.is_none() && known.named.is_none() {
                    self.places.remove(at);
                } else if known.state == (State::Candidate { left: 0 }) && known.named.is_none() {
                    known.at = Some(cx.now + ANSWER_WAIT);
                }
            }
            State::Failing { .. } => {
                self.ping(cx, env, at, false, Some(class));
            }
            State::Proven if !lately => {
                self.ping(cx, env, at, false, None);
            }
            State::Proven | State::Answering => (),
        }
    }

    /// A pong from where its ping went.
    pub(super) fn on_pong(
        &mut self,
        cx: &mut Cx<'_, Output>,
        env: &mut Env,
        at: usize,
        rtt: Duration,
        full: bool,
    ) {
        let used = self.is_used(at);
        self.places[at].measured(cx.now, rtt);
        match self.places[at].state {
            State::Candidate { .. } | State::Answering if full => self.prove(cx, env, at),
            State::Candidate { .. } => {
                self.places[at].state = State::Answering;
                self.due_answering(cx, env, at);
            }
            State::Answering => (),
            State::Proven => {
                let stuck = self.suspicion.is_some_and(|s| s.stuck);
                if used {
                    self.suspicion = None;
                }
                if used && stuck {
                    self.switch(cx, env, at, true);
                }
                self.consider(cx, env);
            }
            State::Failing { .. } if used => self.prove(cx, env, at),
            State::Failing { pongs, .. } if pongs > 0 && full => self.prove(cx, env, at),
            State::Failing { since, pongs } => {
                self.places[at].state = State::Failing { since, pongs: pongs.saturating_add(1) };
                self.ping(cx, env, at, true, None);
                self.places[at].at = Some(cx.now + FULL_EVERY.max(rtt * 3));
            }
        }
    }

    fn prove(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, at: usize) {
        let used = self.is_used(at);
        let known = &mut self.places[at];
        known.state = State::Proven;
        known.unanswered = 0;
        let (place, rtt) = (known.place, known.rtt.unwrap_or_default());
        cx.emit(Output::Validated { conn: self.conn, place, rtt });
        self.note(cx, place, "works");
        if used {
            return self.switch(cx, env, at, true);
        }
        // The peer sends from here, and the place we use has not answered since: it had the time.
        let left = self.suspicion.filter(|_| self.from == place).is_some_and(|s| {
            let used = self.used().map_or(Duration::ZERO, |at| self.longest_rtt(at));
            cx.now.since(s.since) >= used * 3 / 2
        });
        if left {
            self.fail_used(cx, env, "the peer left it");
        } else {
            self.consider(cx, env);
        }
    }

    // ── choice ──

    /// The best place to use. `held`: those count, too, that failed lately.
    fn best(&self, now: Instant, env: &Env, held: bool) -> Option<usize> {
        let counts = |at: &usize| {
            let known = &self.places[*at];
            known.is_usable(now) && (held || self.is_used(*at) || known.held_until <= now)
        };
        (0..self.places.len()).filter(counts).min_by_key(|at| self.rank(env, *at))
    }

    fn rank(&self, env: &Env, at: usize) -> (Tier, i64) {
        let known = &self.places[at];
        let named = known.named.map_or(i64::from(u8::MAX), i64::from);
        (Self::tier(env, &known.place), self.measured(at).map_or(named, |m| m.cost()))
    }

    /// What to use when the place in use does not work: where the peer sends from, else the best, else the relay that has
    /// been silent for longest.
    pub(super) fn fallback(&self, now: Instant, env: &Env) -> Option<usize> {
        let other = |at: &usize| !self.is_used(*at);
        let peers = self.index(&self.from).filter(other).filter(|at| self.places[*at].is_usable(now));
        let best = || self.best(now, env, false).or_else(|| self.best(now, env, true)).filter(other);
        let silent = || {
            let relayed = |at: &usize| other(at) && !self.places[*at].place.is_direct();
            (0..self.places.len()).filter(relayed).min_by_key(|at| self.places[*at].silent_at)
        };
        peers.or_else(best).or_else(silent)
    }

    /// Takes a better place if there is one.
    pub(super) fn consider(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env) {
        let now = cx.now;
        let Some(used) = self.used().filter(|at| self.places[*at].is_usable(now)) else {
            return self.recover(cx, env);
        };
        let held = self.places.iter().filter(|k| k.is_proven_direct() && k.held_until > now);
        let held = held.map(|k| k.held_until).min();
        let Some(best) = self.best(now, env, false) else { return };
        let (tier, in_use) = (self.rank(env, best).0, self.rank(env, used).0);
        if best == used {
            self.reconsider_at = held.filter(|_| in_use != Tier::Direct);
        } else if tier < in_use {
            let stuck = self.suspicion.is_some_and(|s| s.stuck);
            self.switch(cx, env, best, stuck);
        } else if self.is_worth_a_change(best, used) {
            let free = self.switched_at.map_or(now, |at| at + SWITCH_EVERY);
            if free > now {
                self.reconsider_at = Some(free);
            } else {
                self.switch(cx, env, best, false);
            }
        }
    }

    fn is_worth_a_change(&self, best: usize, used: usize) -> bool {
        let known = |at: usize| self.places[at].samples >= SAMPLES_MIN;
        let beats = match (self.measured(best), self.measured(used)) {
            (Some(best), Some(used)) => best.beats(&used),
            (None, _) | (_, None) => false,
        };
        known(best) && known(used) && beats
    }

    /// The place in use does not work, or there is none.
    fn recover(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env) {
        let best = self.best(cx.now, env, false).or_else(|| self.best(cx.now, env, true));
        match best.or_else(|| self.fallback(cx.now, env).filter(|_| self.selected.is_none())) {
            Some(at) => self.switch(cx, env, at, true),
            None if self.selected.is_none() => self.lose(cx),
            None => (),
        }
    }

    /// The direct place in use has not answered.
    pub(super) fn fail_used(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, why: &'static str) {
        let Some(used) = self.used() else { return };
        let suspicion = self.suspicion.take();
        // The others were asked at the same time.
        let asked = |k: &super::known::Known| {
            suspicion.is_some_and(|s| k.pinged_at.is_some_and(|p| p >= s.since) && k.proven_at < s.since)
        };
        let failed: Vec<usize> = (0..self.places.len())
            .filter(|at| *at == used || (self.places[*at].is_proven_direct() && asked(&self.places[*at])))
            .collect();
        for at in failed {
            env.distrust |= self.places[at].is_proven_direct();
            self.places[at].fail(cx.now);
            let place = self.places[at].place;
            self.note(cx, place, if at == used { why } else { "fell silent" });
        }
        match self.fallback(cx.now, env) {
            Some(at) => self.switch(cx, env, at, true),
            None => self.lose(cx),
        }
        self.want_soon(cx.now);
    }

    // ── what the world does ──

    /// The peer's packets come from elsewhere.
    pub(super) fn on_moved(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, place: Place, bytes: usize) {
        self.from = place;
        self.heard_at = cx.now;
        if self.selected == Some(place) {
            return self.on_traffic(cx, env);
        }
        if place.is_direct() {
            self.check(cx, env, place, AMPLIFICATION_MAX * bytes);
        } else if let Some(at) = self.learn(cx.now, place, State::Proven) {
            self.places[at].silent_at = None;
        }
        let used = self.used().filter(|at| self.places[*at].is_usable(cx.now));
        match used {
            Some(at) if self.places[at].place.is_direct() => self.suspect(cx, env, false),
            Some(_) => (),
            None => {
                if let Some(at) = self.index(&place).filter(|at| self.places[*at].is_usable(cx.now)) {
                    self.switch(cx, env, at, true);
                }
            }
        }
    }

    /// The node names all further places that it knows.
    pub(super) fn on_places(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, places: &[Place]) {
        let places = &places[..places.len().min(NAMED_MAX)];
        let stays =
            |k: &super::known::Known| k.named.is_none() || k.is_proven_direct() || places.contains(&k.place);
        self.places.retain(stays);
        self.places.iter_mut().for_each(|k| k.named = None);
        for (order, place) in places.iter().enumerate() {
            let usable = place.addr().is_none_or(|addr| scope(addr) != Scope::Never);
            let state = if place.is_direct() { State::Candidate { left: 0 } } else { State::Proven };
            let Some(at) = Some(*place).filter(|_| usable).and_then(|p| self.learn(cx.now, p, state)) else {
                cx.emit(Output::Refused("more places than a connection may have, or an unusable one"));
                continue;
            };
            let known = &mut self.places[at];
            known.named.get_or_insert(order as u8);
            if matches!(known.state, State::Candidate { .. }) && known.at.is_none() {
                known.at = Some(cx.now);
            }
        }
        self.after_removal(cx, env);
    }

    /// Places are gone.
    pub(super) fn remove_places(
        &mut self,
        cx: &mut Cx<'_, Output>,
        env: &mut Env,
        is_gone: &impl Fn(Place) -> bool,
    ) {
        let gone: Vec<Place> = self.places.iter().map(|k| k.place).filter(|p| is_gone(*p)).collect();
        if gone.is_empty() {
            return;
        }
        self.places.retain(|k| !is_gone(k.place));
        gone.into_iter().for_each(|place| self.note(cx, place, "gone"));
        self.after_removal(cx, env);
    }

    fn after_removal(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env) {
        if self.used().is_none() {
            (self.selected, self.suspicion) = (None, None);
        }
        self.consider(cx, env);
    }

    /// Our own addresses changed: every direct place must be proven anew, and the peer should hear from where we are.
    pub(super) fn on_network_changed(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env) {
        let now = cx.now;
        for at in 0..self.places.len() {
            let used = self.is_used(at);
            let known = &mut self.places[at];
            known.silent_at = None;
            match known.state {
                State::Proven if known.place.is_direct() && !used => {
                    known.state = State::Failing { since: now, pongs: 0 };
                    (known.unanswered, known.at) = (0, Some(now));
                }
                State::Failing { .. } => (known.unanswered, known.at) = (0, Some(now)),
                State::Candidate { .. } | State::Answering | State::Proven => (),
            }
        }
        if let Some(used) = self.used().filter(|at| self.places[*at].is_proven_direct()) {
            self.suspicion = None;
            self.suspect(cx, env, true);
            let place = self.places[used].place;
            cx.emit(Output::Use { conn: self.conn, place, nudge: true, downgrade: false });
        }
        self.want_soon(now);
    }

    pub(super) fn on_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
    }
}
