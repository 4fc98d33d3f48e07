//! The checkers: what must hold of every run, seen from outside the cores.
//!
//! They watch every action at the border of every core and know what no core can know: who really is at an address,
//! what every result must be, what was promised to whom before a crash. A violation is data; it stops nothing, so that
//! a run shows all that is wrong with it.

mod runs;
mod violation;

pub use violation::Violation;

use crate::expect::Expected;
use crate::net::HostId;
use remote_network_core::action::Action;
use remote_network_core::command::{Notice, PeerState, PeerView, Reply, RunView, TaskView};
use remote_network_core::dht::item;
use remote_network_core::few::Few;
use remote_network_core::id::{Digest, Lsn, OpId, PublicKey, RunId};
use remote_network_core::port::{DhtRequest, EngineRequest, MutableItem};
use runs::Runs;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Requests to ports that one core may have outstanding: the sum of what its limits allow, with room for the journal's
/// batches of a busy instant.
pub const OUTSTANDING_MAX: usize = 4_096;

/// Violations kept; a broken run repeats itself.
pub const FOUND_MAX: usize = 1_000;

/// A violation, when and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// World time.
    pub at_ns: u64,
    /// The host.
    pub host: HostId,
    /// What.
    pub violation: Violation,
}

struct Watch {
    key: PublicKey,
    last_lsn: Lsn,
    ops: Few<u8, u64>,
    published: Few<Vec<u8>, (u64, Digest)>,
}

/// The checkers.
#[derive(Default)]
pub struct Checks {
    watches: Vec<Watch>,
    runs: Runs,
    /// Hosts whose identity the scenario has granted to others.
    pub granted: BTreeSet<PublicKey>,
    found: Vec<Found>,
    outstanding_most: usize,
}

impl Checks {
    /// What was found.
    pub fn violations(&self) -> &[Found] {
        &self.found
    }

    /// The most requests any core ever had outstanding.
    pub fn outstanding_most(&self) -> usize {
        self.outstanding_most
    }

    /// Notes a violation.
    pub fn found(&mut self, at_ns: u64, host: HostId, violation: Violation) {
        if self.found.len() < FOUND_MAX {
            self.found.push(Found { at_ns, host, violation });
        }
    }

    /// A host exists.
    pub fn meet(&mut self, _host: HostId, key: PublicKey) {
        let watch = Watch { key, last_lsn: Lsn(0), ops: Few::new(), published: Few::new() };
        self.watches.push(watch);
    }

    /// A host begins a life with a journal that ends there.
    pub fn begins(&mut self, host: HostId, journal: Lsn) {
        if let Some(watch) = self.watches.get_mut(host as usize) {
            watch.ops = Few::new();
            watch.last_lsn = journal;
        }
    }

    /// A host lost its disk, and with it what it promised.
    pub fn forgets(&mut self, host: HostId) {
        if let Some(watch) = self.watches.get_mut(host as usize) {
            watch.published = Few::new();
        }
        self.runs.forgets(host);
    }

    /// A core has so many requests outstanding.
    pub fn outstanding(&mut self, at_ns: u64, host: HostId, count: usize) {
        if count > OUTSTANDING_MAX && self.outstanding_most <= OUTSTANDING_MAX {
            self.found(at_ns, host, Violation::TooMuchOutstanding(count));
        }
        self.outstanding_most = self.outstanding_most.max(count);
    }

    /// A core asked for something. `host_at` says who lives at an address.
    pub fn action(
        &mut self,
        at_ns: u64,
        host: HostId,
        action: &Action,
        host_at: impl Fn(SocketAddr) -> Option<HostId>,
    ) {
        match action {
            Action::Persist { lsn, .. } => {
                let Some(watch) = self.watches.get_mut(host as usize) else { return };
                let last = std::mem::replace(&mut watch.last_lsn, *lsn);
                if *lsn <= last {
                    self.found(at_ns, host, Violation::LsnWentBack { last, got: *lsn });
                }
            }
            Action::Dht { request: DhtRequest::Cancel, .. } => {}
            Action::Dht { op, request } => {
                self.op(at_ns, host, *op);
                if let DhtRequest::PutMutable { item, .. } = request {
                    self.publishes(at_ns, host, item);
                }
            }
            Action::Blob { op, .. } => self.op(at_ns, host, *op),
            Action::Engine { request: EngineRequest::Start(_) | EngineRequest::Stop { .. }, .. } => {}
            Action::Sweep { .. } | Action::Socket(_) | Action::Tunnel(_) | Action::Account(_) => {}
            Action::Reply { reply, .. } => self.reply(at_ns, host, reply, host_at),
            Action::Notify(Notice::Peer(view)) => self.peer(at_ns, host, view, &host_at),
            Action::Notify(Notice::Task { run, task } | Notice::Disagreement { run, task }) => {
                self.task(at_ns, host, *run, task)
            }
            Action::Notify(Notice::Run(view)) => self.run(at_ns, host, view, false),
            Action::Notify(Notice::Published { .. } | Notice::Found { .. } | Notice::Transfer { .. }) => {}
            Action::Stopped { .. } => {}
        }
    }

    /// Numbers of one room are issued upwards, so the last one says whether one came twice.
    fn op(&mut self, at_ns: u64, host: HostId, op: OpId) {
        let Some(watch) = self.watches.get_mut(host as usize) else { return };
        let last = watch.ops.insert(op.room(), op.0);
        if last.is_some_and(|last| op.0 <= last) {
            self.found(at_ns, host, Violation::OpReused(op));
        }
    }

    fn publishes(&mut self, at_ns: u64, host: HostId, item: &MutableItem) {
        let Some(watch) = self.watches.get_mut(host as usize) else { return };
        if item.key != watch.key {
            // A relay's errand for one that UDP does not reach: its own words, or nobody's.
            if item::verify(item).is_err() {
                self.found(at_ns, host, Violation::ForgedItem);
            }
            return;
        }
        let value = Digest::of(&item.value);
        let last = watch.published.insert(item.salt.to_vec(), (item.seq, value));
        if let Some((last, before)) = last
            && (item.seq < last || item.seq == last && value != before)
        {
            self.found(at_ns, host, Violation::SeqWentBack { last, got: item.seq });
        }
    }

    fn reply(
        &mut self,
        at_ns: u64,
        host: HostId,
        reply: &Reply,
        host_at: impl Fn(SocketAddr) -> Option<HostId>,
    ) {
        match reply {
            Reply::Peer(view) => self.peer(at_ns, host, view, &host_at),
            Reply::Peers(views) => views.iter().for_each(|v| self.peer(at_ns, host, v, &host_at)),
            Reply::Run(view) => self.run(at_ns, host, view, true),
            Reply::Runs(views) => views.iter().for_each(|v| self.run(at_ns, host, v, false)),
            Reply::Submitted(run) => self.runs.acknowledged(*run),
            Reply::Done
            | Reply::Status(_)
            | Reply::Services(_)
            | Reply::Ticket(_)
            | Reply::Policy(_)
            | Reply::Found(_)
            | Reply::Relay(_)
            | Reply::Planned(_)
            | Reply::Error(_) => {}
        }
    }

    fn peer(
        &mut self,
        at_ns: u64,
        host: HostId,
        view: &PeerView,
        host_at: &impl Fn(SocketAddr) -> Option<HostId>,
    ) {
        let connected = match view.state {
            PeerState::Connected | PeerState::Idle | PeerState::Stale => true,
            PeerState::Connecting | PeerState::Closed => false,
        };
        let Some(addr) = view.addr.filter(|_| connected) else { return };
        let actual = host_at(addr).and_then(|h| self.watches.get(h as usize)).map(|w| w.key);
        if let Some(actual) = actual.filter(|a| *a != view.key)
            && !self.granted.contains(&view.key)
        {
            self.found(at_ns, host, Violation::Impostor { addr, claimed: view.key, actual });
        }
    }

    // ------------------------------------------------------------------------------- runs

    /// A run will be submitted at `host`, and must come to this.
    pub fn expects(&mut self, run: RunId, host: HostId, expected: Expected) {
        self.runs.expects(run, host, expected);
    }

    fn note(&mut self, at_ns: u64, host: HostId, violations: Vec<Violation>) {
        violations.into_iter().for_each(|v| self.found(at_ns, host, v));
    }

    /// Its requester shows a run; `whole` when its results are shown too.
    fn run(&mut self, at_ns: u64, host: HostId, view: &RunView, whole: bool) {
        let mut found = self.runs.run(host, view, whole);
        for task in &view.tasks {
            found.extend(self.runs.task(host, &self.watches, view.run, task));
        }
        self.note(at_ns, host, found);
    }

    fn task(&mut self, at_ns: u64, host: HostId, run: RunId, task: &TaskView) {
        let found = self.runs.task(host, &self.watches, run, task);
        self.note(at_ns, host, found);
    }

    /// Runs that were acknowledged and are not known to be over, with their hosts.
    pub fn unsettled(&self) -> impl Iterator<Item = (RunId, HostId)> + '_ {
        self.runs.unsettled().map(|(run, host, _)| (run, host))
    }

    /// Runs acknowledged, over, and well over.
    pub fn run_counts(&self) -> (u64, u64, u64) {
        self.runs.counts()
    }

    /// Receipts that were verified offline.
    pub fn receipts(&self) -> u64 {
        self.runs.receipts()
    }

    /// A host says that it does not know a run.
    pub fn unknown_run(&mut self, at_ns: u64, host: HostId, run: RunId) {
        let found = self.runs.unknown(host, run);
        self.note(at_ns, host, found.into_iter().collect());
    }

    /// The liveness phase is over: whatever is not settled never will be.
    pub fn close(&mut self, at_ns: u64) {
        let late: Vec<_> = self.runs.unsettled().collect();
        for (run, host, state) in late {
            self.found(at_ns, host, Violation::UnsettledRun { run, state: state.as_str() });
        }
    }
}

#[cfg(test)]
mod tests;
