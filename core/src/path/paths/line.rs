//! One connection: its places, its pings under way, which place it uses.

use super::known::{CANDIDATE_EVERY, CANDIDATE_PINGS, Known, State, Tried};
use super::watch::Suspicion;
use super::{Env, FLIGHTS_MAX, Output, PLACES_MAX, TRIED_MAX};
use crate::command::{PathKind, PathView};
use crate::id::ConnId;
use crate::machine::Cx;
use crate::path::budget::{Bucket, Class, Rate};
use crate::path::choice::{Measured, Tier};
use crate::path::probe::{FLAG_SILENT, PROBE_BYTES, Probe, ProbeKeys, Replays, Tag};
use crate::place::Place;
use crate::time::{Duration, Instant, UnixTime};
use bytes::Bytes;

/// Pongs of one connection to places that are proven, so that nobody keeps us busy with pings alone.
const PONGS: Rate = Rate::within(100, Duration::from_secs(1));
/// To an address that has not shown that it receives what we send go at most so many bytes for each that came in its name
/// (RFC 9000, 8.1).
pub(super) const AMPLIFICATION_MAX: usize = 3;
/// A pong that comes later than this is of no use: what it says is long past.
const FLIGHT_KEPT: Duration = Duration::from_secs(10);

/// A ping under way.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    nonce: [u8; 8],
    place: Place,
    sent: Instant,
    full: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) conn: ConnId,
    keys: ProbeKeys,
    replays: Replays,
    count: u32,
    pongs: Bucket,
    pub(super) places: Vec<Known>,
    flights: Vec<Flight>,
    pub(super) selected: Option<Place>,
    /// The last place that was in use: what QUIC has measured.
    last: Place,
    since: UnixTime,
    pub(super) switched_at: Option<Instant>,
    /// Where the peer's packets come from.
    pub(super) from: Place,
    /// QUIC's own round-trip time.
    pub(super) rtt: Duration,
    pub(super) heard_at: Instant,
    pub(super) suspicion: Option<Suspicion>,
    pub(super) suspected_at: Option<Instant>,
    /// When a change that had to wait is looked at again.
    pub(super) reconsider_at: Option<Instant>,
    pub(super) want_at: Option<Instant>,
    pub(super) wanted_at: Option<Instant>,
    pub(super) wants: u8,
    lost: bool,
    tried: Vec<Tried>,
}

impl Line {
    pub(super) fn new(
        conn: ConnId,
        keys: ProbeKeys,
        place: Place,
        rtt: Duration,
        now: Instant,
        wall: UnixTime,
    ) -> Self {
        let mut known = Known::new(place, State::Proven, now);
        known.rtt = Some(rtt);
        Self {
            conn,
            keys,
            replays: Replays::default(),
            count: 0,
            pongs: Bucket::default(),
            places: vec![known],
            flights: Vec::new(),
            selected: Some(place),
            last: place,
            since: wall,
            switched_at: None,
            from: place,
            rtt,
            heard_at: now,
            suspicion: None,
            suspected_at: None,
            reconsider_at: None,
            want_at: None,
            wanted_at: None,
            wants: 0,
            lost: false,
            tried: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env) {
        self.rest_proven(cx.now, env);
        self.want_soon(cx.now);
    }

    pub(super) const fn tag(&self) -> Tag {
        self.keys.tag()
    }

    pub(super) const fn selected(&self) -> Option<Place> {
        self.selected
    }

    pub(super) fn is_tunnelled(&self) -> bool {
        matches!(self.selected, Some(Place::Tunnel(_)))
    }

    pub(super) fn fill(&self) -> (usize, usize, usize) {
        (self.places.len(), self.flights.len(), self.tried.len())
    }

    pub(super) fn view(&self) -> PathView {
        let used = self.selected.and_then(|p| self.index(&p)).map(|i| &self.places[i]);
        let tried = |t: &Tried| {
            let place = match t.ports {
                1 => t.place.to_string(),
                ports => format!("{} and {} more ports", t.place, ports - 1),
            };
            (place, t.outcome.to_owned(), t.at)
        };
        PathView {
            place: used.map_or_else(|| "none".to_owned(), |k| k.place.to_string()),
            kind: match used.map(|k| k.place).filter(|_| !self.lost) {
                None => PathKind::Lost,
                Some(Place::Direct { .. }) => PathKind::Direct,
                Some(Place::Relayed { .. }) => PathKind::Relayed,
                Some(Place::Tunnel(_)) => PathKind::Tunnelled,
            },
            since: self.since,
            rtt: used.map(|_| self.rtt),
            tried: self.tried.iter().map(tried).collect(),
        }
    }

    pub(super) fn index(&self, place: &Place) -> Option<usize> {
        self.places.iter().position(|k| k.place == *place)
    }

    pub(super) fn used(&self) -> Option<usize> {
        self.index(&self.selected?)
    }

    pub(super) fn is_used(&self, at: usize) -> bool {
        self.selected == Some(self.places[at].place)
    }

    /// The place's number, a new one if it is not known. `None` when there is no room: all others are proven.
    pub(super) fn learn(&mut self, now: Instant, place: Place, state: State) -> Option<usize> {
        if let Some(at) = self.index(&place) {
            return Some(at);
        }
        if self.places.len() >= PLACES_MAX {
            let worst = self.worst(state)?;
            self.places.remove(worst);
        }
        if self.places.len() == self.places.capacity() {
            self.places.reserve_exact(1);
        }
        self.places.push(Known::new(place, state, now));
        Some(self.places.len() - 1)
    }

    /// The place that matters least: what is only guessed, then what failed, then where the peer was heard, and of these who has
    /// been silent for longest. One that is
    /// not proven itself never displaces one that is, or a peer could empty its table by naming addresses.
    fn worst(&self, newcomer: State) -> Option<usize> {
        let free = |k: &Known| {
            let kept = [self.selected, Some(self.from)].contains(&Some(k.place)) || k.named.is_some();
            !kept && (k.is_unproven() || newcomer == State::Proven)
        };
        let rank = |k: &Known| match k.state {
            State::Candidate { .. } if !k.heard => (0, k.pinged_at.unwrap_or_default()),
            State::Failing { since, .. } => (1, since),
            State::Candidate { .. } => (2, k.pinged_at.unwrap_or_default()),
            State::Answering => (3, k.proven_at),
            State::Proven if k.place.is_direct() => (4, k.proven_at),
            State::Proven => (5, k.proven_at),
        };
        let free = self.places.iter().enumerate().filter(|(_, k)| free(k));
        free.min_by_key(|(_, k)| rank(k)).map(|(at, _)| at)
    }

    /// Something is known of a place now, for people.
    pub(super) fn note(&mut self, cx: &mut Cx<'_, Output>, place: Place, outcome: &'static str) {
        let ports = match self.tried.iter().position(|t| t.is_like(&place, outcome)) {
            Some(at) => {
                let old = self.tried.remove(at);
                if old.place == place { old.ports } else { old.ports.saturating_add(1) }
            }
            None => 1,
        };
        if self.tried.len() >= TRIED_MAX {
            self.tried.remove(0);
        }
        self.tried.push(Tried { place, ports, outcome, at: cx.wall });
        cx.emit(Output::Changed(self.conn));
    }

    /// Sends a ping. `class` says on whose account when nobody has proven the address.
    pub(super) fn ping(
        &mut self,
        cx: &mut Cx<'_, Output>,
        env: &mut Env,
        at: usize,
        full: bool,
        class: Option<Class>,
    ) -> bool {
        let Place::Direct { socket, addr } = self.places[at].place else { return false };
        if let Some(class) = class
            && !env.budget.take(cx.now, addr, class)
        {
            cx.emit(Output::Refused("probe beyond the budget of its target"));
            return false;
        }
        let nonce = cx.rng.bytes();
        self.count = self.count.wrapping_add(1);
        let silent = self.is_used(at) && self.suspicion.is_some_and(|s| s.stuck);
        let flags = if silent { FLAG_SILENT } else { 0 };
        let probe = Probe::Ping { nonce, count: self.count, flags, full };
        let known = &mut self.places[at];
        known.pinged_at = Some(cx.now);
        known.unanswered = known.unanswered.saturating_add(1);
        let flight = Flight { nonce, place: known.place, sent: cx.now, full };
        self.flights.retain(|f| cx.now.since(f.sent) < FLIGHT_KEPT);
        if self.flights.len() >= FLIGHTS_MAX {
            // Those of the place in use decide whether it is left, and where the peer was heard it will answer. Of hundreds of
            // guessed ports hardly one does, and then it asks itself.
            let matters = |f: &Flight| self.places.iter().any(|k| k.place == f.place && k.matters());
            let used = self.selected;
            let guessed = self.flights.iter().position(|f| Some(f.place) != used && !matters(f));
            let other = || self.flights.iter().position(|f| Some(f.place) != used);
            let oldest = guessed.or_else(other).unwrap_or(0);
            self.flights.remove(oldest);
        }
        self.flights.push(flight);
        cx.emit(Output::Send { socket, to: addr, bytes: self.keys.seal(&probe) });
        true
    }

    /// On whose account a probe of this place goes.
    pub(super) fn account(&self, at: usize) -> Option<Class> {
        match self.places[at].state {
            State::Candidate { .. } | State::Failing { .. } => Some(Class::Ordinary),
            State::Answering | State::Proven => None,
        }
    }

    pub(super) fn on_probe(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, from: Place, bytes: &Bytes) {
        match self.keys.open(bytes) {
            Err(fault) => cx.emit(Output::Refused(fault.reason())),
            Ok(Probe::Ping { nonce, count, flags, full: _ }) => {
                let answered = self.on_ping(cx, env, from, nonce, count, bytes.len());
                // Perhaps only our answers are lost, of which nothing else would tell us.
                if answered && flags & FLAG_SILENT != 0 && self.selected == Some(from) {
                    self.suspect(cx, env, false);
                }
            }
            Ok(Probe::Pong { nonce, observed }) => {
                let Some(at) = self.flights.iter().position(|f| f.nonce == nonce) else {
                    return cx.emit(Output::Refused("pong to no ping"));
                };
                if self.flights[at].place != from {
                    return cx.emit(Output::Refused("pong from elsewhere"));
                }
                let Flight { place, sent, full, .. } = self.flights.remove(at);
                if let Some(at) = self.index(&place) {
                    self.on_pong(cx, env, at, cx.now.since(sent), full);
                    self.on_observed(cx, place, observed);
                }
            }
        }
    }

    fn on_ping(
        &mut self,
        cx: &mut Cx<'_, Output>,
        env: &mut Env,
        from: Place,
        nonce: [u8; 8],
        count: u32,
        bytes: usize,
    ) -> bool {
        if !self.replays.is_new(count) {
            cx.emit(Output::Refused("replayed ping"));
            return false;
        }
        let Place::Direct { socket, addr } = from else { return false };
        let known = self.index(&from);
        let answers = known.is_some_and(|at| self.account(at).is_none());
        let may = if answers {
            self.pongs.take(cx.now, PONGS)
        } else {
            env.budget.take(cx.now, addr, Class::Ordinary)
        };
        if !may {
            cx.emit(Output::Refused("ping beyond the budget of its source"));
            return false;
        }
        let pong = Probe::Pong { nonce, observed: addr };
        cx.emit(Output::Send { socket, to: addr, bytes: self.keys.seal(&pong) });
        if !answers {
            self.check(cx, env, from, (AMPLIFICATION_MAX * bytes).saturating_sub(PROBE_BYTES));
        }
        true
    }

    /// The peer is, or may be, at a place that is not proven: asks there too, with so many bytes at the most. Whoever forges
    /// the source of the peer's packets must not make us send more to a victim than he could himself.
    pub(super) fn check(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, place: Place, bytes_max: usize) {
        let pings = u8::try_from(bytes_max / PROBE_BYTES).unwrap_or(u8::MAX).min(CANDIDATE_PINGS);
        if pings == 0 {
            return;
        }
        let Some(at) = self.learn(cx.now, place, State::Candidate { left: pings }) else {
            return cx.emit(Output::Refused("more places than a connection may have"));
        };
        let known = &mut self.places[at];
        known.heard = true;
        let lately = known.pinged_at.is_some_and(|p| cx.now.since(p) < super::known::TRIGGER_EVERY);
        match known.state {
            State::Candidate { left } => {
                known.state = State::Candidate { left: left.max(pings.min(CANDIDATE_PINGS - 1)) };
                if lately {
                    known.at = Some(cx.now + CANDIDATE_EVERY);
                } else {
                    self.due_candidate(cx, env, at);
                }
            }
            State::Failing { .. } if !lately => {
                known.unanswered = 0;
                self.due_failing(cx, env, at);
            }
            State::Failing { .. } | State::Answering | State::Proven => (),
        }
    }

    fn on_observed(&mut self, cx: &mut Cx<'_, Output>, place: Place, addr: std::net::SocketAddr) {
        let Some(at) = self.index(&place) else { return };
        let known = &mut self.places[at];
        if known.observed != Some(addr) {
            known.observed = Some(addr);
            cx.emit(Output::Observed { conn: self.conn, place, addr });
        }
    }

    /// What a place is in the eyes of the choice.
    pub(super) fn measured(&self, at: usize) -> Option<Measured> {
        let known = &self.places[at];
        known.place.addr().map(|addr| Measured { addr, rtt: known.rtt })
    }

    pub(super) fn tier(env: &Env, place: &Place) -> Tier {
        match place {
            Place::Direct { .. } => Tier::Direct,
            Place::Relayed { relay, .. } if env.tunnelled.contains(relay) => Tier::Tunnelled,
            Place::Relayed { .. } => Tier::Relayed,
            Place::Tunnel(_) => Tier::Tunnelled,
        }
    }

    /// Uses a place from now on.
    pub(super) fn switch(&mut self, cx: &mut Cx<'_, Output>, env: &mut Env, at: usize, nudge: bool) {
        let place = self.places[at].place;
        let downgrade = Self::tier(env, &place) > Self::tier(env, &self.last);
        if self.selected != Some(place) {
            self.since = cx.wall;
            self.switched_at = Some(cx.now);
            // QUIC's own figure is of the place before, and comes close to this one within a few packets.
            self.rtt = self.places[at].rtt.unwrap_or(self.rtt);
        }
        (self.selected, self.last) = (Some(place), place);
        self.clear_lost(cx);
        self.suspicion = None;
        cx.emit(Output::Use { conn: self.conn, place, nudge, downgrade });
        cx.emit(Output::Changed(self.conn));
        self.rest_proven(cx.now, env);
        self.want_or_not(cx.now);
    }

    /// There is no place that works.
    pub(super) fn lose(&mut self, cx: &mut Cx<'_, Output>) {
        if !self.lost {
            self.lost = true;
            self.since = cx.wall;
            cx.emit(Output::Lost(self.conn));
            cx.emit(Output::Changed(self.conn));
        }
        self.want_or_not(cx.now);
    }

    /// The place in use works again.
    pub(super) fn clear_lost(&mut self, cx: &mut Cx<'_, Output>) {
        if std::mem::take(&mut self.lost) {
            self.since = cx.wall;
            cx.emit(Output::Changed(self.conn));
        }
    }
}
