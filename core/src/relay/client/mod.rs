//! The client: which relays a private node can be reached through.
//!
//! It holds two reservations, an *active* one and a warm *standby*, and both stand in the node's record, so that a dialler who
//! finds one dead tries the other. When the active relay is lost, or only suspected, the standby takes its place at once: it
//! needs no packet for that. Relays are measured before they are chosen, up to [`PARALLEL_MAX`] at once: those who answer first are the
//! near ones, so little is waited ([`GRACE`]) for the rest.
//!
//! A better relay is no reason to hurry. Every change of relay changes the record and the paths of all connections, so another relay takes
//! over only when it has been a fifth better at every look for half an hour, with measurements that are fresh. The user's
//! preferred relay needs no evidence while it is healthy.
//!
//! A relay that fails is left alone for a second, then two, four … up to ten minutes; one that refuses, as long as the reason lasts.
//! One that has forgotten a reservation is asked for it again.
//!
//! **How to drive it.** [`Output::Connect`] is answered by [`Input::PeerUp`], at once when the peer is connected already, or by
//! [`Input::Failed`]. A connection is the client's until [`Output::Release`]; what the node does with it then is its own
//! business. Frames that [`Message::is_from_relay`] names go to [`Input::Frame`].

mod candidate;
mod choice;
mod frames;

use super::message::{Message, SessionId};
use crate::codec::Frame;
use crate::dht::record::Attachment;
use crate::id::{ConnId, PeerId, PublicKey};
use crate::machine::{Cx, Machine};
use crate::time::{Deadline, Duration, Instant};
pub use candidate::{
    BACKOFF_MAX, BACKOFF_MIN, RELIABILITY_AT_FIRST, RELIABILITY_HEALTHY, RTT_FRESH, RelayView,
};
use candidate::{Held, Phase, Relay};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Relays known: more than anybody measures. Those that failed most make room for new ones.
pub const CANDIDATES_MAX: usize = 64;
/// Relays connected to or measured at once, beside those reserved at.
pub const PARALLEL_MAX: usize = 5;
/// After the first relay is connected, how long others may take to be chosen from as well. Who is not there then is farther away.
pub const GRACE: Duration = Duration::from_millis(50);
/// A connection must stand by then, or another relay is tried.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A relay must answer a frame by then.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How often relays are compared.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often others than those in use are measured: so that each look has fresh evidence of the likely ones.
pub const MEASURE_EVERY: Duration = Duration::from_secs(600);
/// Relays measured in such a round.
pub const MEASURED_MAX: usize = 3;
/// For so long another relay must have been better before it takes over (SPEC 4.5).
pub const EVIDENCE_TIME: Duration = Duration::from_secs(1_800);
/// So much better, in percent (SPEC 4.5).
pub const BETTER_PERCENT: u64 = 20;
/// How long a full relay is left alone.
pub const FULL_PAUSE: Duration = Duration::from_secs(600);
/// How long one that is busy or about to close is.
pub const BUSY_PAUSE: Duration = Duration::from_secs(60);
/// How long one that does not want this node, or is no relay, is. Also the longest pause that a relay may ask for.
pub const UNWANTED_PAUSE: Duration = Duration::from_secs(3_600);
/// A relay that forgets a reservation twice within this time has failed.
pub const FORGETFUL: Duration = Duration::from_secs(10);
/// A reservation is renewed at half of its lifetime, but neither more often than this …
const RENEW_MIN: Duration = Duration::from_secs(30);
/// … nor more seldom than this.
const RENEW_MAX: Duration = Duration::from_secs(6 * 3_600);

/// What can happen to the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A peer says that it is a relay, in its record or its identity.
    Candidate {
        /// Who.
        key: PublicKey,
        /// Where.
        addr: SocketAddr,
        /// Micro-units per GiB.
        price: u32,
    },
    /// It says so no more.
    CandidateGone {
        /// Who.
        key: PublicKey,
    },
    /// The user prefers this relay.
    Prefer(Option<PublicKey>),
    /// The node is private and wants to be reached through relays, or not.
    Want(bool),
    /// A peer is connected and identified.
    PeerUp {
        /// Its connection.
        conn: ConnId,
        /// Who.
        key: PublicKey,
        /// Round-trip time of the connection.
        rtt: Duration,
    },
    /// Its connection is gone.
    PeerDown {
        /// Which.
        conn: ConnId,
        /// Whose.
        key: PublicKey,
    },
    /// A round-trip time of a relay's connection, every few seconds.
    Rtt {
        /// Whose.
        key: PublicKey,
        /// How long.
        rtt: Duration,
    },
    /// Packets to a relay stay unanswered.
    Suspect {
        /// Which.
        key: PublicKey,
    },
    /// A relay says something.
    Frame {
        /// On which connection.
        conn: ConnId,
        /// What.
        frame: Frame,
    },
    /// It cannot be connected to.
    Failed {
        /// Which.
        key: PublicKey,
        /// Words for people.
        why: String,
    },
}

/// A reservation that stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// At which relay.
    pub relay: PublicKey,
    /// Over which connection.
    pub conn: ConnId,
    /// Its number.
    pub session: SessionId,
    /// Where the relay is.
    pub addr: SocketAddr,
    /// Where the relay sees this node.
    pub observed: SocketAddr,
}

/// What the client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Connect to a relay.
    Connect {
        /// Which.
        key: PublicKey,
        /// Where.
        addr: SocketAddr,
    },
    /// The client does not need this connection any more.
    Release {
        /// To whom.
        key: PublicKey,
        /// Which.
        conn: ConnId,
    },
    /// Say this on the control stream.
    Send {
        /// Of which connection.
        conn: ConnId,
        /// What.
        frame: Frame,
    },
    /// This reservation is the active one now.
    Active(Reservation),
    /// This one is the standby now.
    Standby(Reservation),
    /// There is no active one any more.
    Lost,
    /// What the node's record should say, best first.
    Attachments(Vec<Attachment>),
    /// What happened and why: words for people.
    Explain(String),
    /// Something was refused; for the node's counters.
    Refused(&'static str),
}

/// The machine of a relay's client.
#[derive(Debug)]
pub struct Client {
    me: PeerId,
    preferred: Option<PublicKey>,
    wanted: bool,
    relays: BTreeMap<PublicKey, Relay>,
    active: Option<PublicKey>,
    standby: Option<PublicKey>,
    /// Is to become the active one when its reservation stands.
    successor: Option<PublicKey>,
    /// When it is chosen among those that are connected.
    choose_at: Option<Instant>,
    look_at: Option<Instant>,
    measure_at: Option<Instant>,
    /// When a relay that is left alone may be tried.
    retry_at: Option<Instant>,
    published: Vec<Attachment>,
}

impl Client {
    /// The client of this node.
    pub fn new(me: &PublicKey) -> Self {
        Self {
            me: me.peer_id(),
            preferred: None,
            wanted: false,
            relays: BTreeMap::new(),
            active: None,
            standby: None,
            successor: None,
            choose_at: None,
            look_at: None,
            measure_at: None,
            retry_at: None,
            published: Vec::new(),
        }
    }

    /// The active reservation.
    pub fn active(&self) -> Option<Reservation> {
        self.active.and_then(|key| self.reservation(&key))
    }

    /// The standby.
    pub fn standby(&self) -> Option<Reservation> {
        self.standby.and_then(|key| self.reservation(&key))
    }

    /// Whether this relay may be reserved at.
    pub fn knows(&self, key: &PublicKey) -> bool {
        self.relays.contains_key(key)
    }

    /// Where this relay is.
    pub fn addr(&self, key: &PublicKey) -> Option<SocketAddr> {
        self.relays.get(key).map(|r| r.addr)
    }

    /// All relays known, for people.
    pub fn relays(&self) -> impl Iterator<Item = RelayView> {
        self.relays.iter().map(|(key, r)| RelayView {
            key: *key,
            addr: r.addr,
            role: match Some(*key) {
                k if k == self.active => Some("active"),
                k if k == self.standby => Some("standby"),
                _ => None,
            },
            state: r.phase.as_str(),
            rtt: r.rtt,
            reliability_ppm: r.reliability,
            price: r.price,
            load: r.load,
            cost_us: r.cost_us(),
        })
    }

    fn reservation(&self, key: &PublicKey) -> Option<Reservation> {
        let relay = self.relays.get(key)?;
        let held = relay.held()?;
        Some(Reservation {
            relay: *key,
            conn: relay.conn?,
            session: held.session,
            addr: relay.addr,
            observed: held.observed,
        })
    }

    fn by_conn(&self, conn: ConnId) -> Option<PublicKey> {
        self.relays.iter().find(|(_, r)| r.conn == Some(conn)).map(|(key, _)| *key)
    }

    fn say(&self, cx: &mut Cx<'_, Output>, key: &PublicKey, message: &Message) {
        if let Some(conn) = self.relays.get(key).and_then(|r| r.conn) {
            cx.emit(Output::Send { conn, frame: message.to_frame() });
        }
    }

    fn candidate(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey, addr: SocketAddr, price: u32) {
        if key.peer_id() == self.me {
            return;
        }
        if let Some(relay) = self.relays.get_mut(&key) {
            (relay.price, relay.gone) = (price, false);
            // Where it is reserved at, it is.
            if relay.phase == Phase::Idle {
                relay.addr = addr;
            }
            return;
        }
        if self.relays.len() >= CANDIDATES_MAX {
            let worst = self.relays.iter().filter(|(_, r)| r.phase == Phase::Idle);
            let worst = worst.max_by_key(|(_, r)| (r.gone, r.failures, r.cost_us().unwrap_or(0), r.order));
            let Some((worst, _)) = worst.filter(|(key, r)| r.failures > 0 && Some(**key) != self.preferred)
            else {
                return cx.emit(Output::Refused("relay-candidates-full"));
            };
            let worst = *worst;
            self.relays.remove(&worst);
        }
        let order = cx.rng.next_u64();
        self.relays.insert(key, Relay::new(addr, price, order, cx.now));
    }

    fn candidate_gone(&mut self, key: &PublicKey) {
        if let Some(relay) = self.relays.get_mut(key) {
            relay.gone = true;
        }
        self.forget_gone();
    }

    fn forget_gone(&mut self) {
        self.relays.retain(|_, r| !r.gone || r.phase != Phase::Idle);
    }

    fn want(&mut self, cx: &mut Cx<'_, Output>, wanted: bool) {
        if self.wanted && !wanted {
            (self.active, self.standby, self.successor) = (None, None, None);
            (self.choose_at, self.look_at, self.measure_at) = (None, None, None);
            let keys: Vec<PublicKey> = self.relays.keys().copied().collect();
            keys.iter().for_each(|key| self.leave(cx, key));
        }
        self.wanted = wanted;
    }

    /// Gives back what there is of this relay.
    fn leave(&mut self, cx: &mut Cx<'_, Output>, key: &PublicKey) {
        match self.relays.get(key).map(|r| &r.phase) {
            Some(Phase::Held(_) | Phase::Registering { .. }) => self.say(cx, key, &Message::Unregister),
            Some(Phase::Idle | Phase::Connecting { .. } | Phase::Measuring { .. }) | None => {}
        }
        self.release(cx, key);
    }

    fn release(&mut self, cx: &mut Cx<'_, Output>, key: &PublicKey) {
        let Some(relay) = self.relays.get_mut(key) else { return };
        relay.phase = Phase::Idle;
        if let Some(conn) = relay.conn.take() {
            cx.emit(Output::Release { key: *key, conn });
        }
    }

    fn peer_up(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, key: PublicKey, rtt: Duration) {
        let Some(relay) = self.relays.get_mut(&key) else { return };
        relay.sample(cx.now, rtt);
        match relay.phase {
            Phase::Idle => return,
            Phase::Connecting { .. } => {}
            // What was agreed on the old connection is void.
            Phase::Measuring { .. } | Phase::Registering { .. } | Phase::Held(_) => {
                if relay.conn == Some(conn) {
                    return;
                }
            }
        }
        relay.conn = Some(conn);
        relay.phase = Phase::Measuring { until: cx.now + ANSWER_TIMEOUT };
        self.drop_role(cx, &key, "connected anew");
        self.say(cx, &key, &Message::Ask);
        if self.choose_at.is_none() {
            self.choose_at = Some(cx.now + GRACE);
        }
    }

    fn peer_down(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, key: &PublicKey) {
        let Some(relay) = self.relays.get_mut(key).filter(|r| r.conn == Some(conn)) else { return };
        relay.conn = None;
        self.fail(cx, key, "its connection is gone");
    }

    fn suspect(&mut self, cx: &mut Cx<'_, Output>, key: &PublicKey) {
        let Some(held) = self.relays.get_mut(key).and_then(Relay::held_mut) else { return };
        if held.suspect.is_some() {
            return;
        }
        held.suspect = Some(cx.now + ANSWER_TIMEOUT);
        self.say(cx, key, &Message::Ask);
        let standby = self.standby.filter(|s| self.relays.get(s).is_some_and(|r| !r.is_suspect()));
        if self.active == Some(*key) && standby.is_some() {
            self.swap(cx, "the active relay is silent");
        }
    }

    /// The standby becomes active and the active the standby.
    fn swap(&mut self, cx: &mut Cx<'_, Output>, why: &str) {
        std::mem::swap(&mut self.active, &mut self.standby);
        self.tell_active(cx, why);
        if let Some(standby) = self.standby() {
            cx.emit(Output::Standby(standby));
        }
    }

    fn tell_active(&self, cx: &mut Cx<'_, Output>, why: &str) {
        if let Some(active) = self.active() {
            cx.emit(Output::Active(active));
            cx.emit(Output::Explain(format!("{why}; relay {} is active", active.relay)));
        }
    }

    /// The relay is neither active nor standby any more. A standby takes the place of the active one.
    fn drop_role(&mut self, cx: &mut Cx<'_, Output>, key: &PublicKey, why: &str) {
        if self.standby == Some(*key) {
            self.standby = None;
            cx.emit(Output::Explain(format!("relay {key} is standby no more: {why}")));
        }
        if self.active != Some(*key) {
            return;
        }
        self.active = self.standby.take();
        let words = format!("relay {key} is lost: {why}");
        if self.active.is_some() {
            self.tell_active(cx, &words);
        } else {
            cx.emit(Output::Lost);
            cx.emit(Output::Explain(words));
        }
    }

    fn end(&mut self, cx: &mut Cx<'_, Output>, key: &PublicKey, why: &str) {
        self.drop_role(cx, key, why);
        if self.successor == Some(*key) {
            self.successor = None;
        }
        self.release(cx, key);
    }

    fn fail(&mut self, cx: &mut Cx<'_, Output>, key: &PublicKey, why: &str) {
        if let Some(relay) = self.relays.get_mut(key) {
            relay.fail(cx.now, cx.rng);
            relay.better_since = None;
            cx.emit(Output::Explain(format!("relay {key} failed: {why}")));
        }
        self.end(cx, key, why);
    }

    fn pause(&mut self, cx: &mut Cx<'_, Output>, key: &PublicKey, time: Duration, why: &str) {
        if let Some(relay) = self.relays.get_mut(key) {
            relay.pause(cx.now, cx.rng, time);
            relay.better_since = None;
        }
        self.end(cx, key, why);
    }

    /// Tells what the record should say, when that changes.
    fn publish(&mut self, cx: &mut Cx<'_, Output>) {
        let both = [self.active(), self.standby()];
        let attachment = |r: Reservation| Attachment { relay: r.relay, session: r.session, addr: r.addr };
        let attachments: Vec<Attachment> = both.into_iter().flatten().map(attachment).collect();
        if attachments != self.published {
            self.published.clone_from(&attachments);
            cx.emit(Output::Attachments(attachments));
        }
    }

    /// What a relay had to do by now.
    fn overdue(&mut self, cx: &mut Cx<'_, Output>, key: &PublicKey) {
        let Some(relay) = self.relays.get_mut(key) else { return };
        match &mut relay.phase {
            Phase::Idle => {}
            Phase::Connecting { .. } => self.fail(cx, key, "no connection in time"),
            Phase::Measuring { .. } => self.fail(cx, key, "it does not say how full it is"),
            Phase::Registering { .. } => self.fail(cx, key, "no answer to the registration"),
            Phase::Held(held) if held.suspect.is_some_and(|at| at <= cx.now) => {
                self.fail(cx, key, "it stays silent");
            }
            Phase::Held(held) if held.renewing.is_some_and(|at| at <= cx.now) => {
                self.fail(cx, key, "no answer to the renewal");
            }
            Phase::Held(held) if held.renewing.is_none() && held.renew_at <= cx.now => {
                held.renewing = Some(cx.now + ANSWER_TIMEOUT);
                self.say(cx, key, &Message::Register);
            }
            Phase::Held(_) => {}
        }
    }

    /// What follows from any input.
    fn settle(&mut self, cx: &mut Cx<'_, Output>) {
        if self.wanted {
            self.prefer(cx);
            self.choose(cx);
            self.release_measured(cx);
            self.connect_more(cx);
        }
        self.forget_gone();
        self.publish(cx);
        self.set_retry(cx.now);
    }
}

impl Machine for Client {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Candidate { key, addr, price } => self.candidate(cx, key, addr, price),
            Input::CandidateGone { key } => self.candidate_gone(&key),
            Input::Prefer(preferred) => self.preferred = preferred,
            Input::Want(wanted) => self.want(cx, wanted),
            Input::PeerUp { conn, key, rtt } => self.peer_up(cx, conn, key, rtt),
            Input::PeerDown { conn, key } => self.peer_down(cx, conn, &key),
            Input::Rtt { key, rtt } => {
                if let Some(relay) = self.relays.get_mut(&key) {
                    relay.sample(cx.now, rtt);
                }
            }
            Input::Suspect { key } => self.suspect(cx, &key),
            Input::Frame { conn, frame } => self.frame(cx, conn, &frame),
            Input::Failed { key, why } => {
                if matches!(self.relays.get(&key).map(|r| r.phase), Some(Phase::Connecting { .. })) {
                    self.fail(cx, &key, &why);
                }
            }
        }
        self.settle(cx);
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        if self.poll_timeout().is_none_or(|d| d.at > cx.now) {
            return;
        }
        let is_due = |r: &Relay| r.phase.deadline().is_some_and(|at| at <= cx.now);
        let due: Vec<PublicKey> =
            self.relays.iter().filter(|(_, r)| is_due(r)).map(|(key, _)| *key).collect();
        due.iter().for_each(|key| self.overdue(cx, key));
        self.look(cx);
        self.settle(cx);
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let phases = self.relays.values().filter_map(|r| r.phase.deadline());
        let phases = phases.min().map(|at| Deadline::new(at, "relay answers"));
        [
            phases,
            self.choose_at.map(|at| Deadline::new(at, "relay choice")),
            self.look_at.map(|at| Deadline::new(at, "relay comparison")),
            self.measure_at.map(|at| Deadline::new(at, "relay measurement")),
            self.retry_at.map(|at| Deadline::new(at, "relay retry")),
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }
}

#[cfg(test)]
mod tests;
