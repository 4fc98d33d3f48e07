//! From a name to a connection: whom to look up and dial, when, and where.
//!
//! For every newly learnt peer the cascade fetches its record, decides at which addresses it can be reached, and dials
//! them in order while there is room below `max_peers`; the peers that peer knows are the next ones. Without bounds
//! that is a storm as soon as ten thousand nodes meet, so at most four lookups and four dials are under way for peers
//! nobody asked for, each starts after a random moment, a peer that cannot be reached is left alone for 10 s, 20 s, 40 s
//! … 30 min and after five failures until somebody speaks of it again, and no network gets more than eight dials a
//! minute ([`super::budget`]). A node that has its peers thinks about no others: the book remembers them, and is asked
//! for some when there is room again.
//!
//! What is **wanted** ([`Input::Connect`], by the user or by a job) goes first and past those bounds, and is answered exactly
//! once, with everything that was tried when it fails. A job that still needs the peer says so again.
//!
//! **Which addresses.** Public ones of the record; private ones first when both sides have the same public address
//! (they are neighbours), last in a network that is private by configuration, else never. Then the address somebody told.
//! When every address of a cached record failed, the record is stale: it is invalidated, and for wanted peers looked up
//! once more before giving up. A wanted peer of which the DHT tells nothing is asked for among the connected peers
//! ([`super::seek`]); what they say is hearsay and keeps to the budget. Addresses without a name (hints of the topic) are dialled to see who is there.

use super::budget::DialBudget;
use crate::dht::endpoint::{Scope, scope, usable};
use crate::dht::lookup::LookupFailed;
use crate::dht::record::{NodeRecord, NodeType};
use crate::few::Few;
use crate::id::{CommandId, PublicKey};
use crate::machine::{Cx, Machine};
use crate::port::DhtFailed;
use crate::time::{Deadline, Duration, Instant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

mod asking;
mod effort;
mod interface;
use effort::{Effort, Stage};
pub use interface::{CascadeConfig, ConnectFailed, DialFailed, DialId, Input, Output, Way};

/// Lookups, and dials, under way at once for peers nobody asked for.
pub const FAN_OUT: usize = 4;
/// The same for wanted peers.
pub const FAN_OUT_WANTED: usize = 16;
/// Peers thought about at once; more are refused until some are done.
pub const EFFORTS_MAX: usize = 2_048;
/// Hints waiting to be dialled.
pub const HINTS_WAITING_MAX: usize = 256;
/// Addresses where nobody of ours was, remembered.
pub const VAIN_ADDRS_MAX: usize = 1_024;
/// Commands waiting for one peer.
pub const CONNECTS_PER_PEER_MAX: usize = 8;
/// A newly learnt peer is looked up within this, at random.
pub const START_WITHIN: Duration = Duration::from_secs(1);
/// First back-off of a peer, doubled each time, ± 25 %.
pub const BACKOFF_MIN: Duration = Duration::from_secs(10);
/// Longest back-off.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1_800);
/// A peer that has peers enough is left alone for this long, ± 25 %.
pub const SENT_AWAY_REST: Duration = Duration::from_secs(300);
/// Attempts before a peer nobody asked for is left until it is learnt of again.
pub const ATTEMPTS_MAX: u32 = 5;
/// A lookup that is not answered within this has failed: the DHT's own ten seconds, and its queue.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(60);
/// A dial that is not answered within this has failed: a handshake and the identity exchange.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// A wanted peer with other ways to try is tried by the next one after this: several round trips across the world. The dial goes
/// on, and if it brings the peer after all, the better.
pub const DIAL_PATIENCE: Duration = Duration::from_secs(4);
/// A command is answered within this.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is seen whether there is room for peers, ± 20 %.
pub const TOP_UP_EVERY: Duration = Duration::from_secs(30);
/// An address where nobody of ours was is not dialled again before this, doubled each time up to an hour.
pub const VAIN_MIN: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Dial {
    key: Option<PublicKey>,
    way: Way,
    wanted: bool,
    deadline: Instant,
}

/// The cascade.
#[derive(Debug)]
pub struct Cascade {
    config: CascadeConfig,
    own_addrs: Vec<SocketAddr>,
    /// And where their packets come from, unless through a relay.
    connected: Few<PublicKey, Option<SocketAddr>>,
    /// Boxed: a node of the map has room for eleven, and seldom holds more than six.
    efforts: BTreeMap<PublicKey, Box<Effort>>,
    /// When each effort wants to be looked at.
    timers: BTreeSet<(Instant, PublicKey)>,
    /// Efforts waiting for a lookup or a dial: wanted ones, others. Entries whose effort moved on are passed over.
    lookup_queues: [VecDeque<PublicKey>; 2],
    dial_queues: [VecDeque<PublicKey>; 2],
    /// Whether it was for a wanted peer, and when it is given up.
    lookups_under_way: Few<PublicKey, (bool, Instant)>,
    dials: Few<DialId, Dial>,
    next_dial: u64,
    hints: VecDeque<SocketAddr>,
    /// Addresses where nobody of ours was: how often, and until when they are left.
    vain: BTreeMap<SocketAddr, (u32, Instant)>,
    budget: DialBudget,
    /// When an address that waits for the budget may be dialled: of wanted peers, of others.
    budget_frees: [Option<Instant>; 2],
    /// Everybody who is not wanted and may be dialled waits for the budget: nobody need be looked at before it frees.
    /// Every input asks, so looking through all who wait each time would cost more than all the rest.
    others_wait: bool,
    top_up: Option<Instant>,
}

const WANTED: usize = 0;
const OTHERS: usize = 1;

impl Cascade {
    /// A cascade that knows nobody.
    pub fn new(config: CascadeConfig) -> Self {
        Self {
            config,
            own_addrs: Vec::new(),
            connected: Few::new(),
            efforts: BTreeMap::new(),
            timers: BTreeSet::new(),
            lookup_queues: Default::default(),
            dial_queues: Default::default(),
            lookups_under_way: Few::new(),
            dials: Few::new(),
            next_dial: 0,
            hints: VecDeque::new(),
            vain: BTreeMap::new(),
            budget: DialBudget::default(),
            budget_frees: [None; 2],
            others_wait: false,
            top_up: None,
        }
    }

    /// Peers thought about.
    pub fn efforts(&self) -> usize {
        self.efforts.len()
    }

    /// Why the last attempt at a peer failed: words for people.
    pub fn trouble(&self, key: &PublicKey) -> Option<String> {
        self.efforts.get(key)?.last_failure.as_ref().map(ToString::to_string)
    }

    fn learnt(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey, addr: Option<SocketAddr>) {
        if key == self.config.own || self.connected.contains_key(&key) {
            return;
        }
        if self.room() == 0 && !self.efforts.contains_key(&key) {
            return;
        }
        if let Some(e) = self.efforts.get_mut(&key) {
            e.hint = addr.or(e.hint);
            if e.stage != (Stage::Resting { until: None, again: false }) {
                return;
            }
        } else if self.make_room(false) {
            self.efforts.insert(key, Box::new(Effort::new(addr)));
        } else {
            return cx.emit(Output::Refused("cascade-full"));
        }
        let start = cx.now + Duration::from_nanos(cx.rng.below(START_WITHIN.as_nanos() as u64));
        self.change(&key, |e| e.stage = Stage::Resting { until: Some(start), again: true });
    }

    /// Room for one more effort; one that rests and is not wanted goes. For a wanted one, another that waits goes too.
    fn make_room(&mut self, wanted: bool) -> bool {
        if self.efforts.len() < EFFORTS_MAX {
            return true;
        }
        let may_go = |e: &Effort| {
            !e.is_wanted()
                && match e.stage {
                    Stage::Resting { .. } => true,
                    Stage::WaitLookup | Stage::WaitDial => wanted,
                    Stage::LookingUp | Stage::Dialling(_) | Stage::Asking { .. } => false,
                }
        };
        let Some(key) = self.efforts.iter().find(|(_, e)| may_go(e)).map(|(k, _)| *k) else { return false };
        self.remove(&key);
        true
    }

    fn remove(&mut self, key: &PublicKey) -> Option<Box<Effort>> {
        let effort = self.efforts.remove(key)?;
        if let Some(at) = effort.timer {
            self.timers.remove(&(at, *key));
        }
        Some(effort)
    }

    /// Changes an effort and keeps its timer and its place in the queues.
    fn change(&mut self, key: &PublicKey, f: impl FnOnce(&mut Effort)) {
        let Some(effort) = self.efforts.get_mut(key) else { return };
        let place = |e: &Effort| (e.stage, if e.is_wanted() { WANTED } else { OTHERS });
        let before = place(effort);
        f(effort);
        let after = place(effort);
        // Also when the place is the same: it may have another address to try.
        self.others_wait &= after != (Stage::WaitDial, OTHERS);
        match after {
            same if same == before => {}
            (Stage::WaitLookup, queue) => self.lookup_queues[queue].push_back(*key),
            (Stage::WaitDial, queue) => self.dial_queues[queue].push_back(*key),
            (Stage::Resting { .. } | Stage::LookingUp | Stage::Dialling(_) | Stage::Asking { .. }, _) => {}
        }
        let timer = effort.wakes_at();
        if timer != effort.timer {
            if let Some(at) = effort.timer {
                self.timers.remove(&(at, *key));
            }
            self.timers.extend(timer.map(|at| (at, *key)));
            effort.timer = timer;
        }
    }

    fn may_dial(&self, addr: SocketAddr) -> bool {
        usable(addr, self.config.private_networks) && !self.own_addrs.contains(&addr)
    }

    fn hint(&mut self, cx: &mut Cx<'_, Output>, addr: SocketAddr) {
        if !usable(addr, self.config.private_networks) {
            return cx.emit(Output::Refused("hint-address"));
        }
        let known = self.own_addrs.contains(&addr)
            || self.connected.values().any(|a| *a == Some(addr))
            || self.dials.values().any(|d| d.way == Way::Addr(addr))
            || self.hints.contains(&addr)
            || self.vain.get(&addr).is_some_and(|(_, until)| *until > cx.now);
        if known || self.room() == 0 {
            return;
        }
        if self.hints.len() >= HINTS_WAITING_MAX {
            return cx.emit(Output::Refused("hint-flood"));
        }
        self.hints.push_back(addr);
        self.others_wait = false;
    }

    fn found(
        &mut self,
        cx: &mut Cx<'_, Output>,
        key: PublicKey,
        result: Result<Box<NodeRecord>, LookupFailed>,
    ) {
        if self.lookups_under_way.remove(&key).is_none() {
            return;
        }
        let Some(e) = self.efforts.get(&key).filter(|e| e.stage == Stage::LookingUp) else {
            return;
        };
        let mut ways = result.as_ref().map_or_else(|_| Vec::new(), |r| self.candidates(&key, r));
        ways.extend(e.hint.map(Way::Addr));
        self.change(&key, |e| e.looked_up(&result, ways));
        self.next_step(cx, key);
    }

    /// Where a record says that its node is and we may dial it, best first. A private node's addresses are those of its NAT:
    /// they answer when somebody inside has just spoken to us, so its relays go first, and a hole is punched from there.
    fn candidates(&self, key: &PublicKey, record: &NodeRecord) -> Vec<Way> {
        let c = &record.content;
        let is_ours =
            |a: &SocketAddr| self.own_addrs.iter().any(|o| scope(*o) == Scope::Public && o.ip() == a.ip());
        let neighbour = c.public.iter().any(is_ours);
        let private = c
            .private
            .iter()
            .filter(|a| self.config.private_networks || (neighbour && scope(**a) == Scope::Private));
        let public = c.public.iter();
        let addrs: Vec<SocketAddr> = if neighbour {
            private.chain(public).copied().collect()
        } else {
            public.chain(private).copied().collect()
        };
        let addrs = addrs.into_iter().filter(|a| !self.own_addrs.contains(a)).map(Way::Addr);
        let relays = c.attachments.iter().filter(|a| {
            a.relay != self.config.own && a.relay != *key && usable(a.addr, self.config.private_networks)
        });
        let relays = relays.map(|a| Way::Relay { relay: a.relay, addr: a.addr });
        match c.node_type {
            NodeType::Private => relays.chain(addrs).collect(),
            NodeType::Public => addrs.chain(relays).collect(),
        }
    }

    /// What an effort does after a lookup or dial: dial the next address, look up, ask, or give up.
    fn next_step(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey) {
        let Some(e) = self.efforts.get(&key) else { return };
        let dialled_in_vain = e.record_failed();
        if !e.to_try.is_empty() {
            self.change(&key, |e| e.stage = Stage::WaitDial);
        } else if e.lookups == 0 {
            self.change(&key, |e| e.stage = Stage::WaitLookup);
        } else {
            if dialled_in_vain {
                cx.emit(Output::Invalidate(key));
            }
            if dialled_in_vain && e.lookups == 1 && e.is_wanted() {
                self.change(&key, |e| e.stage = Stage::WaitLookup);
            } else if !self.ask(cx, key) {
                self.give_up(cx, key);
            }
        }
    }

    fn give_up(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey) {
        let Some(e) = self.efforts.get(&key) else { return };
        let delay = BACKOFF_MIN.saturating_mul(1 << e.failures.min(16)).min(BACKOFF_MAX);
        let until = Some(cx.now + cx.rng.jitter(delay, 25));
        let failure = e.failure(false);
        let mut answered = Vec::new();
        self.change(&key, |e| {
            answered = std::mem::take(&mut e.connects);
            let again = e.failures + 1 < ATTEMPTS_MAX;
            e.rest_after_failure(failure.clone(), Stage::Resting { until, again });
        });
        for (id, _) in answered {
            cx.emit(Output::ConnectDone { id, key, result: Err(failure.clone()) });
        }
    }

    fn dialled(&mut self, cx: &mut Cx<'_, Output>, dial: DialId, result: Result<PublicKey, DialFailed>) {
        let Some(Dial { key, way, .. }) = self.dials.remove(&dial) else { return };
        if let Way::Addr(addr) = way
            && result == Ok(self.config.own)
            && !self.own_addrs.contains(&addr)
            && self.own_addrs.len() < 64
        {
            self.own_addrs.push(addr);
        }
        let Some(key) = key else {
            match result {
                Ok(_) => drop(self.vain.remove(&way.addr())),
                Err(_) => self.remember_vain(cx.now, way.addr()),
            }
            return;
        };
        if self.efforts.get(&key).is_none_or(|e| e.stage != Stage::Dialling(dial)) {
            return;
        }
        match result {
            Ok(k) if k == key => self.reached(cx, key),
            Ok(_) => self.failed(cx, key, way, DialFailed::OtherPeer),
            Err(why) => self.failed(cx, key, way, why),
        }
    }

    fn failed(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey, way: Way, why: DialFailed) {
        self.change(&key, |e| {
            e.to_try.retain(|w| *w != way);
            e.tried.push((way, why));
            e.stage = Stage::Resting { until: None, again: false };
        });
        self.next_step(cx, key);
    }

    fn remember_vain(&mut self, now: Instant, addr: SocketAddr) {
        if self.vain.len() >= VAIN_ADDRS_MAX {
            self.vain.retain(|_, (_, until)| *until > now);
        }
        if self.vain.len() >= VAIN_ADDRS_MAX {
            self.vain.pop_first();
        }
        let times = self.vain.get(&addr).map_or(0, |(n, _)| *n);
        let rest = VAIN_MIN.saturating_mul(1 << times.min(8)).min(Duration::from_secs(3_600));
        self.vain.insert(addr, (times.saturating_add(1), now + rest));
    }

    /// The peer is there: who waited for it is answered.
    fn reached(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey) {
        let Some(effort) = self.remove(&key) else { return };
        for (id, _) in effort.connects {
            cx.emit(Output::ConnectDone { id, key, result: Ok(()) });
        }
    }

    /// Places for peers nobody asked for.
    fn room(&self) -> usize {
        let others = self.dials.values().filter(|d| !d.wanted).count();
        self.config.max_peers.saturating_sub(self.connected.len() + others)
    }

    /// There are peers enough: those that nobody asked for and that were not even begun with are let go.
    fn rest_when_full(&mut self) {
        if self.connected.len() < self.config.max_peers {
            return;
        }
        let unbegun = |e: &Effort| {
            !e.is_wanted()
                && match e.stage {
                    Stage::Resting { again, .. } => again && e.failures == 0,
                    Stage::WaitLookup | Stage::WaitDial => true,
                    Stage::LookingUp | Stage::Dialling(_) | Stage::Asking { .. } => false,
                }
        };
        let go: Vec<PublicKey> = self.efforts.iter().filter(|(_, e)| unbegun(e)).map(|(k, _)| *k).collect();
        for key in go {
            self.remove(&key);
        }
        self.lookup_queues[OTHERS] = VecDeque::new();
        self.dial_queues[OTHERS] = VecDeque::new();
        self.hints = VecDeque::new();
    }

    /// Whether anything is under way or waits for peers nobody asked for.
    fn seeks(&self) -> bool {
        let queued = |q: &[VecDeque<PublicKey>; 2]| !q[OTHERS].is_empty();
        queued(&self.lookup_queues)
            || queued(&self.dial_queues)
            || self.lookups_under_way.values().any(|(wanted, _)| !wanted)
            || self.dials.values().any(|d| !d.wanted)
    }

    /// Dialling a full peer again at once would only be the same again.
    fn sent_away(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey) {
        if self.connected.contains_key(&key) || self.efforts.contains_key(&key) || !self.make_room(false) {
            return;
        }
        let until = Some(cx.now + cx.rng.jitter(SENT_AWAY_REST, 25));
        self.efforts.insert(key, Box::new(Effort::new(None)));
        self.change(&key, |e| e.stage = Stage::Resting { until, again: false });
    }

    fn connect(&mut self, cx: &mut Cx<'_, Output>, id: CommandId, key: PublicKey, addr: Option<SocketAddr>) {
        let refuse =
            |cx: &mut Cx<'_, Output>, why| cx.emit(Output::ConnectDone { id, key, result: Err(why) });
        if key == self.config.own {
            return refuse(cx, ConnectFailed::Own);
        }
        if self.connected.contains_key(&key) {
            return cx.emit(Output::ConnectDone { id, key, result: Ok(()) });
        }
        if !self.efforts.contains_key(&key) {
            if !self.make_room(true) {
                return refuse(cx, ConnectFailed::Busy);
            }
            self.efforts.insert(key, Box::new(Effort::new(None)));
        }
        if self.efforts.get(&key).is_some_and(|e| e.connects.len() >= CONNECTS_PER_PEER_MAX) {
            return refuse(cx, ConnectFailed::Busy);
        }
        let until = cx.now + CONNECT_TIMEOUT;
        // The user's own word is above the rules for strangers' words, but port 0 and multicast are no addresses.
        let addr = addr.filter(|a| scope(*a) != Scope::Never);
        self.change(&key, |e| {
            e.connects.push((id, until));
            e.begin_wanted(addr);
        });
        self.hurry(cx.now, &key);
    }

    /// A dial that was begun when nobody wanted the peer does not hold up those who do.
    fn hurry(&mut self, now: Instant, key: &PublicKey) {
        let Some(effort) = self.efforts.get(key) else { return };
        let others = effort.lookups == 0 || !effort.to_try.is_empty();
        if let Stage::Dialling(dial) = effort.stage
            && others
            && let Some(dial) = self.dials.get_mut(&dial)
        {
            dial.deadline = dial.deadline.min(now + DIAL_PATIENCE);
        }
    }

    fn blocked(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey) {
        let Some(effort) = self.remove(&key) else { return };
        for (id, _) in effort.connects {
            cx.emit(Output::ConnectDone { id, key, result: Err(ConnectFailed::Blocked) });
        }
    }

    fn effort_due(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey) {
        let Some(e) = self.efforts.get(&key) else { return };
        let failure = e.failure(true);
        let mut over = Vec::new();
        self.change(&key, |e| {
            let now = cx.now;
            over = e.connects.extract_if(.., |(_, until)| *until <= now).map(|(id, _)| id).collect();
        });
        for id in over {
            cx.emit(Output::ConnectDone { id, key, result: Err(failure.clone()) });
        }
        match self.efforts.get(&key).map(|e| e.stage) {
            Some(Stage::Resting { until: Some(at), again: true }) if at <= cx.now => {
                self.change(&key, Effort::begin);
            }
            Some(Stage::Resting { until: Some(at), again: false }) if at <= cx.now => {
                self.change(&key, |e| e.stage = Stage::Resting { until: None, again: false });
            }
            Some(Stage::Asking { until }) if until <= cx.now => self.next_step(cx, key),
            Some(
                Stage::Resting { .. }
                | Stage::Asking { .. }
                | Stage::LookingUp
                | Stage::WaitLookup
                | Stage::WaitDial
                | Stage::Dialling(_),
            )
            | None => {}
        }
    }

    /// Starts what may start.
    fn pump(&mut self, cx: &mut Cx<'_, Output>) {
        self.start_lookups(cx, WANTED);
        self.budget_frees[WANTED] = None;
        self.start_dials(cx, WANTED);
        self.start_lookups(cx, OTHERS);
        if !self.others_wait || self.budget_frees[OTHERS].is_some_and(|at| at <= cx.now) {
            self.budget_frees[OTHERS] = None;
            self.start_dials(cx, OTHERS);
        }
    }

    fn slots(&self, under_way: usize, queue: usize) -> usize {
        if queue == WANTED {
            return FAN_OUT_WANTED.saturating_sub(under_way);
        }
        FAN_OUT.saturating_sub(under_way).min(self.room())
    }

    fn start_lookups(&mut self, cx: &mut Cx<'_, Output>, queue: usize) {
        let wanted = queue == WANTED;
        let under_way = self.lookups_under_way.values().filter(|(w, _)| *w == wanted).count();
        let mut slots = self.slots(under_way, queue);
        if !wanted {
            // Every lookup under way may become a dial, for which there must be room as well.
            slots = slots.min(self.room().saturating_sub(under_way));
        }
        while slots > 0 {
            let Some(key) = self.lookup_queues[queue].pop_front() else { return };
            if self.efforts.get(&key).is_none_or(|e| e.stage != Stage::WaitLookup) {
                continue;
            }
            slots -= 1;
            self.change(&key, |e| e.stage = Stage::LookingUp);
            self.lookups_under_way.insert(key, (wanted, cx.now + LOOKUP_TIMEOUT));
            cx.emit(Output::Lookup(key));
        }
    }

    fn start_dials(&mut self, cx: &mut Cx<'_, Output>, queue: usize) {
        let wanted = queue == WANTED;
        loop {
            let under_way = self.dials.values().filter(|d| d.wanted == wanted).count();
            if self.slots(under_way, queue) == 0 {
                return;
            }
            if let Some((key, way)) = self.next_peer_dial(cx.now, queue) {
                let others = self.efforts.get(&key).is_some_and(|e| e.to_try.len() > 1);
                let patience = if wanted && others { DIAL_PATIENCE } else { DIAL_TIMEOUT };
                let dial = self.dial(cx, Some(key), way, wanted, patience);
                self.change(&key, |e| {
                    e.to_try.retain(|w| *w != way);
                    e.stage = Stage::Dialling(dial);
                });
            } else if let Some(addr) = (!wanted).then(|| self.next_hint_dial(cx.now)).flatten() {
                self.dial(cx, None, addr.into(), false, DIAL_TIMEOUT);
            } else {
                self.others_wait |= !wanted;
                return;
            }
        }
    }

    fn dial(
        &mut self,
        cx: &mut Cx<'_, Output>,
        key: Option<PublicKey>,
        way: Way,
        wanted: bool,
        within: Duration,
    ) -> DialId {
        self.next_dial += 1;
        let dial = DialId(self.next_dial);
        self.budget.spend(cx.now, way.addr());
        self.others_wait = false;
        self.dials.insert(dial, Dial { key, way, wanted, deadline: cx.now + within });
        cx.emit(Output::Dial { dial, peer: key, way });
        dial
    }

    /// The first peer of the queue that has a way which may be tried now.
    fn next_peer_dial(&mut self, now: Instant, queue: usize) -> Option<(PublicKey, Way)> {
        let mut at = 0;
        while let Some(key) = self.dial_queues[queue].get(at).copied() {
            let waiting = self.efforts.get(&key).filter(|e| e.stage == Stage::WaitDial);
            let Some(effort) = waiting.filter(|e| !e.to_try.is_empty()) else {
                self.dial_queues[queue].remove(at);
                continue;
            };
            let (budget, frees) = (&self.budget, &mut self.budget_frees[queue]);
            if let Some(way) = effort.next_way(|addr| waits_for(budget, frees, now, addr)) {
                self.dial_queues[queue].remove(at);
                return Some((key, way));
            }
            at += 1;
        }
        None
    }

    fn next_hint_dial(&mut self, now: Instant) -> Option<SocketAddr> {
        for at in 0..self.hints.len() {
            let addr = *self.hints.get(at)?;
            if !waits_for(&self.budget, &mut self.budget_frees[OTHERS], now, addr) {
                return self.hints.remove(at);
            }
        }
        None
    }
}

/// Whether `addr` must wait for the budget; `frees` is then no later than its turn.
fn waits_for(budget: &DialBudget, frees: &mut Option<Instant>, now: Instant, addr: SocketAddr) -> bool {
    let until = budget.waits_until(now, addr);
    *frees = frees.iter().copied().chain(until).min();
    until.is_some()
}

impl Machine for Cascade {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Start => self.top_up = Some(cx.now + cx.rng.jitter(START_WITHIN, 20)),
            Input::Learnt { key, addr } => {
                let addr = addr.filter(|a| self.may_dial(*a));
                self.learnt(cx, key, addr);
            }
            Input::Nearby { key, addr } => {
                let near = usable(addr, true) && !self.own_addrs.contains(&addr);
                let loops = scope(addr) == Scope::Loopback && !self.config.private_networks;
                self.learnt(cx, key, Some(addr).filter(|_| near && !loops));
            }
            Input::Hint(addr) => self.hint(cx, SocketAddr::new(addr.ip().to_canonical(), addr.port())),
            Input::Found { key, result } => self.found(cx, key, result),
            Input::Dialled { dial, result } => self.dialled(cx, dial, result),
            Input::Connected { key, addr } => {
                let addr = addr.map(|a| SocketAddr::new(a.ip().to_canonical(), a.port()));
                self.connected.insert(key, addr);
                self.reached(cx, key);
                self.rest_when_full();
            }
            Input::Disconnected(key) => {
                self.connected.remove(&key);
            }
            Input::SentAway(key) => self.sent_away(cx, key),
            Input::Connect { id, key, addr } => self.connect(cx, id, key, addr),
            Input::Seen { by, key, addr } => self.seen(cx, by, key, addr),
            Input::Blocked(key) => self.blocked(cx, key),
            Input::OwnAddrs(addrs) => {
                self.own_addrs =
                    addrs.iter().map(|a| SocketAddr::new(a.ip().to_canonical(), a.port())).collect();
            }
        }
        self.pump(cx);
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        let over: Vec<DialId> =
            self.dials.iter().filter(|(_, d)| d.deadline <= cx.now).map(|(id, _)| *id).collect();
        for dial in over {
            self.dialled(cx, dial, Err(DialFailed::NoAnswer));
        }
        let unanswered = self.lookups_under_way.iter().filter(|(_, (_, at))| *at <= cx.now);
        for key in unanswered.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.found(cx, key, Err(LookupFailed::Request(DhtFailed::Timeout.into())));
        }
        let due: Vec<PublicKey> =
            self.timers.iter().take_while(|(at, _)| *at <= cx.now).map(|(_, key)| *key).collect();
        for key in due {
            self.effort_due(cx, key);
        }
        if self.top_up.is_some_and(|at| at <= cx.now) {
            self.top_up = Some(cx.now + cx.rng.jitter(TOP_UP_EVERY, 20));
            let missing = self.config.min_peers.saturating_sub(self.connected.len());
            if missing > 0 {
                cx.emit(Output::WantPeers(missing.saturating_mul(4)));
            } else if self.room() > 0 && !self.seeks() {
                cx.emit(Output::WantPeers(FAN_OUT));
            }
        }
        self.pump(cx);
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let deadline = |at: Option<Instant>, why| at.map(|at| Deadline::new(at, why));
        let effort = deadline(self.timers.first().map(|(at, _)| *at), "reach a peer");
        let dial = deadline(self.dials.values().map(|d| d.deadline).min(), "dial");
        let lookup = deadline(self.lookups_under_way.values().map(|(_, at)| *at).min(), "lookup");
        let budget = deadline(self.budget_frees.into_iter().flatten().min(), "dial budget");
        let top_up = deadline(self.top_up, "top up peers");
        [effort, dial, lookup, budget, top_up].into_iter().fold(None, Deadline::earlier)
    }
}

#[cfg(test)]
mod tests;
