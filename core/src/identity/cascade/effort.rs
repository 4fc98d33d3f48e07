//! What is being done to reach one peer.

use super::{ConnectFailed, DialFailed, DialId, Way};
use crate::dht::lookup::LookupFailed;
use crate::dht::record::NodeRecord;
use crate::id::{CommandId, PublicKey};
use crate::time::Instant;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// How far the effort is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Nothing is done until then; afterwards it begins `again`, or only may begin.
    Resting { until: Option<Instant>, again: bool },
    /// Waits for one of the lookups.
    WaitLookup,
    /// Its record is being fetched.
    LookingUp,
    /// Waits for one of the dials.
    WaitDial,
    /// An address is being dialled.
    Dialling(DialId),
    /// Connected peers were asked where it is; their answers are waited for until then.
    Asking { until: Instant },
}

/// A question to connected peers.
#[derive(Debug)]
pub(super) struct Asking {
    /// Those whose answer is still taken.
    pub(super) silent: Vec<PublicKey>,
    /// How many were asked.
    pub(super) asked: usize,
    /// Answers after this are not taken.
    pub(super) until: Instant,
    /// Addresses they told, dialled or to be dialled.
    pub(super) told: Vec<SocketAddr>,
}

/// One peer's effort. An attempt runs from `begin` to success or failure and tries each address once.
#[derive(Debug)]
pub(super) struct Effort {
    pub(super) stage: Stage,
    /// Where somebody says it is.
    pub(super) hint: Option<SocketAddr>,
    /// Commands and jobs that wait, and until when.
    pub(super) connects: Vec<(CommandId, Instant)>,
    /// Failed attempts in a row.
    pub(super) failures: u32,
    /// Lookups of this attempt.
    pub(super) lookups: u8,
    pub(super) to_try: VecDeque<Way>,
    pub(super) tried: Vec<(Way, DialFailed)>,
    /// Why the last attempt failed.
    pub(super) last_failure: Option<Box<ConnectFailed>>,
    /// What is registered for it.
    pub(super) timer: Option<Instant>,
    lookup_failed: Option<LookupFailed>,
    /// Whom this attempt asked where it is, once it did.
    pub(super) asking: Option<Box<Asking>>,
    /// How many of `tried` came before the last record.
    tried_before_record: usize,
}

impl Effort {
    pub(super) fn new(hint: Option<SocketAddr>) -> Self {
        Self {
            stage: Stage::Resting { until: None, again: false },
            hint,
            connects: Vec::new(),
            failures: 0,
            lookups: 0,
            to_try: VecDeque::new(),
            tried: Vec::new(),
            last_failure: None,
            timer: None,
            lookup_failed: None,
            asking: None,
            tried_before_record: 0,
        }
    }

    /// Whether it goes first.
    pub(super) fn is_wanted(&self) -> bool {
        !self.connects.is_empty()
    }

    /// When it wants to be looked at.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Resting { until, .. } => until,
            Stage::Asking { until } => Some(until),
            Stage::LookingUp | Stage::WaitLookup | Stage::WaitDial | Stage::Dialling(_) => None,
        };
        self.connects.iter().map(|(_, until)| *until).chain(stage).min()
    }

    /// Begins an attempt with a lookup.
    pub(super) fn begin(&mut self) {
        self.lookups = 0;
        self.to_try.clear();
        self.tried.clear();
        self.tried_before_record = 0;
        self.lookup_failed = None;
        self.asking = None;
        self.stage = Stage::WaitLookup;
    }

    /// Somebody wants it now: begins if it rests, with `addr` first if there is one.
    pub(super) fn begin_wanted(&mut self, addr: Option<SocketAddr>) {
        if matches!(self.stage, Stage::Resting { .. }) {
            self.begin();
            if let Some(addr) = addr {
                self.to_try.push_back(addr.into());
                self.stage = Stage::WaitDial;
            }
        } else if let Some(addr) = addr.filter(|a| !self.knows(&(*a).into())) {
            self.to_try.push_front(addr.into());
            if matches!(self.stage, Stage::Asking { .. }) {
                self.stage = Stage::WaitDial;
            }
        }
    }

    /// A connected peer says that it may be there.
    pub(super) fn told(&mut self, addr: SocketAddr) {
        let new = !self.knows(&addr.into());
        if let Some(asking) = self.asking.as_mut().filter(|_| new) {
            asking.told.push(addr);
            self.to_try.push_back(addr.into());
        }
    }

    fn knows(&self, way: &Way) -> bool {
        self.to_try.contains(way) || self.tried.iter().any(|(w, _)| w == way)
    }

    /// A lookup ended: `ways` are dialled, each once.
    pub(super) fn looked_up(&mut self, result: &Result<Box<NodeRecord>, LookupFailed>, ways: Vec<Way>) {
        self.lookups = self.lookups.saturating_add(1);
        self.tried_before_record = self.tried.len();
        self.lookup_failed = result.as_ref().err().copied();
        for way in ways {
            if !self.knows(&way) {
                self.to_try.push_back(way);
            }
        }
    }

    /// Whether addresses of the last record were dialled in vain.
    pub(super) fn record_failed(&self) -> bool {
        self.lookups > 0 && self.lookup_failed.is_none() && self.tried.len() > self.tried_before_record
    }

    /// Whether the DHT knows nothing of it and nobody else was asked yet.
    pub(super) fn may_ask(&self) -> bool {
        self.lookup_failed.is_some() && self.asking.is_none() && self.is_wanted()
    }

    /// Until when answers are waited for, if any may still come.
    pub(super) fn awaits_answers(&self, now: Instant) -> Option<Instant> {
        let open = self.asking.as_ref().filter(|a| a.until > now && !a.silent.is_empty());
        open.map(|a| a.until)
    }

    /// The next way, unless `waits` says that its address must wait. What connected peers told may be passed over for
    /// another: it may be a lie about a network where too much was dialled already.
    pub(super) fn next_way(&self, mut waits: impl FnMut(SocketAddr) -> bool) -> Option<Way> {
        let told = |w: &Way| match w {
            Way::Addr(a) => self.asking.as_ref().is_some_and(|asking| asking.told.contains(a)),
            Way::Relay { .. } => false,
        };
        match self.is_wanted() {
            // What the user says and what the peer signed goes past the budget; hearsay does not.
            true => self.to_try.iter().copied().find(|w| !told(w) || !waits(w.addr())),
            false => self.to_try.front().copied().filter(|w| !waits(w.addr())),
        }
    }

    /// Everything that failed in this attempt.
    pub(super) fn failure(&self, timed_out: bool) -> ConnectFailed {
        ConnectFailed::Unreachable {
            lookup: self.lookup_failed,
            tried: self.tried.clone(),
            asked: self.asking.as_ref().map_or(0, |a| a.asked),
            timed_out,
        }
    }

    /// The attempt failed.
    pub(super) fn rest_after_failure(&mut self, failure: ConnectFailed, stage: Stage) {
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(Box::new(failure));
        self.tried = Vec::new();
        self.to_try = VecDeque::new();
        self.asking = None;
        self.stage = stage;
    }
}
