//! What is being done to reach one peer.

use super::{ConnectFailed, DialFailed, DialId};
use crate::dht::lookup::LookupFailed;
use crate::dht::record::NodeRecord;
use crate::id::CommandId;
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
    pub(super) to_try: VecDeque<SocketAddr>,
    pub(super) tried: Vec<(SocketAddr, DialFailed)>,
    /// Why the last attempt failed.
    pub(super) last_failure: Option<ConnectFailed>,
    /// What is registered for it.
    pub(super) timer: Option<Instant>,
    lookup_failed: Option<LookupFailed>,
    only_relays: bool,
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
            only_relays: false,
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
        self.only_relays = false;
        self.stage = Stage::WaitLookup;
    }

    /// Somebody wants it now: begins if it rests, with `addr` first if there is one.
    pub(super) fn begin_wanted(&mut self, addr: Option<SocketAddr>) {
        if matches!(self.stage, Stage::Resting { .. }) {
            self.begin();
            if let Some(addr) = addr {
                self.to_try.push_back(addr);
                self.stage = Stage::WaitDial;
            }
        } else if let Some(addr) = addr.filter(|a| !self.knows(a)) {
            self.to_try.push_front(addr);
        }
    }

    fn knows(&self, addr: &SocketAddr) -> bool {
        self.to_try.contains(addr) || self.tried.iter().any(|(a, _)| a == addr)
    }

    /// A lookup ended: `addrs` are dialled, each once.
    pub(super) fn looked_up(
        &mut self,
        result: &Result<Box<NodeRecord>, LookupFailed>,
        addrs: Vec<SocketAddr>,
    ) {
        self.lookups = self.lookups.saturating_add(1);
        self.tried_before_record = self.tried.len();
        self.lookup_failed = result.as_ref().err().copied();
        self.only_relays = result.as_ref().is_ok_and(|r| {
            let c = &r.content;
            c.public.is_empty() && c.private.is_empty() && !c.attachments.is_empty()
        });
        for addr in addrs {
            if !self.knows(&addr) {
                self.to_try.push_back(addr);
            }
        }
    }

    /// Whether addresses of the last record were dialled in vain.
    pub(super) fn record_failed(&self) -> bool {
        self.lookups > 0 && self.lookup_failed.is_none() && self.tried.len() > self.tried_before_record
    }

    /// Everything that failed in this attempt.
    pub(super) fn failure(&self, timed_out: bool) -> ConnectFailed {
        ConnectFailed::Unreachable {
            lookup: self.lookup_failed,
            only_relays: self.only_relays,
            tried: self.tried.clone(),
            timed_out,
        }
    }

    /// The attempt failed.
    pub(super) fn rest_after_failure(&mut self, failure: ConnectFailed, stage: Stage) {
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(failure);
        self.tried.clear();
        self.to_try.clear();
        self.stage = stage;
    }
}
