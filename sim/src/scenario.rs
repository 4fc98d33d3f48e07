//! Runs a plan on a world: starts the machines, does the harm, plays the applications, and ends with the liveness phase.
//!
//! The applications behave as well-meaning users do: a command that met a machine that was down, or an answer that was
//! an error of the moment, is tried again a little later; a submission keeps its run id, so that trying again is
//! harmless. When the plan's time is up, everything broken is mended, and within the plan's liveness time every run must
//! come to its end, every command must be answered, and at last every core must shut down in order.

mod harm;
mod work;

use crate::check::Violation;
use crate::depot::Formula;
use crate::draw::Draw;
use crate::evil::Mischief;
use crate::host::Core;
use crate::net::HostId;
use crate::plan::{Plan, SCALE_KNOWN_PEERS};
use crate::sites::Sites;
use crate::world::{HostSpec, Said, World};
use bytes::Bytes;
use remote_network_core::command::{
    Command, CommandError, Notice, PeerState, PeerView, Reply, RunState, RunView,
};
use remote_network_core::few::Few;
use remote_network_core::id::{CommandId, DhtId, Digest, Keypair, PublicKey, RunId};
use remote_network_core::node::NodeConfig;
use remote_network_core::port::{EngineLimits, Program};
use remote_network_core::service::details::Details;
use remote_network_core::service::{Service, Visibility};
use sha1::{Digest as _, Sha1};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const MS_NS: u64 = 1_000_000;
/// An application tries again after this long.
const RETRY_MS: u64 = 3_000;
/// A machine whose core stopped by itself is started again after this long, as a service manager does.
const SUPERVISOR_MS: u64 = 5_000;
/// How often runs are looked at while everything must come to rest.
const LOOK_MS: u64 = 2_000;
/// How long an orderly shutdown may take.
const SHUTDOWN_MS: u64 = 60_000;
/// How long a permission to fetch lasts: longer than any plan.
const TICKET_VALID: Duration = Duration::from_secs(30 * 86_400);
/// Services any plan may name.
const SERVICES: u8 = 16;

/// What a mark in the world's queue means. The number travels as its discriminant and an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mark {
    Start(HostId),
    FaultBegins(usize),
    FaultEnds(usize),
    Work(usize),
    Look,
}

impl Mark {
    fn number(self) -> u64 {
        let (kind, index) = match self {
            Mark::Start(host) => (0, u64::from(host)),
            Mark::FaultBegins(n) => (1, n as u64),
            Mark::FaultEnds(n) => (2, n as u64),
            Mark::Work(n) => (3, n as u64),
            Mark::Look => (4, 0),
        };
        index << 3 | kind
    }

    fn of(number: u64) -> Self {
        let index = (number >> 3) as usize;
        match number & 7 {
            0 => Mark::Start(index as HostId),
            1 => Mark::FaultBegins(index),
            2 => Mark::FaultEnds(index),
            3 => Mark::Work(index),
            _ => Mark::Look,
        }
    }
}

/// Why a command was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Work(usize),
    /// The permission for a transfer.
    Share(usize),
    Look(RunId),
    Offer,
    Shutdown,
}

/// What became of the applications' wishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WorkTally {
    /// Commands given.
    pub commands: u64,
    /// Answers that were errors.
    pub errors: u64,
    /// Pieces of work that came to their end.
    pub done: u64,
}

/// A plan that is being played.
pub struct Scenario<C: Core> {
    /// The world it is played in.
    pub world: World<C>,
    plan: Plan,
    sites: Sites,
    pending: BTreeMap<CommandId, (HostId, Purpose)>,
    done: BTreeSet<usize>,
    /// Every fault is over: the liveness phase.
    over: bool,
    /// Every core is told to shut down; nobody starts one any more.
    closing: bool,
    /// Write errors a machine's disk had had when its present life began: only a new one excuses a core that stops.
    excused: BTreeMap<HostId, u64>,
    /// Whom each machine said it is connected to.
    connected: BTreeMap<HostId, Few<PublicKey, ()>>,
    /// Connections of all machines when the plan's time was up.
    connections: u64,
    faults: BTreeMap<&'static str, u64>,
    work: WorkTally,
}

fn run_id(seed: u64, nth: usize) -> RunId {
    let digest = Digest::in_domain("sim/run", &[&seed.to_le_bytes(), &(nth as u64).to_le_bytes()]);
    let mut id = [0; 16];
    id.copy_from_slice(&digest.0[..16]);
    RunId(id)
}

fn module(n: u8) -> Bytes {
    Bytes::from(format!("\0asm simulated module {n}"))
}

fn service(n: u8) -> Service {
    let module = module(n);
    Service {
        name: format!("s{n}"),
        description: String::new(),
        version: "1".into(),
        program: Program::Wasm(Digest::of(&module)),
        module_len: module.len() as u64,
        stdin: true,
        mounts: Vec::new(),
        limits: EngineLimits { memory_bytes: 64 << 20, time_ms: 60_000, output_bytes: 64 << 20 },
        visibility: Visibility::Everyone,
        details: Details::default(),
    }
}

/// What goes into the `nth` piece of work.
fn object(seed: u64, nth: usize, len: u64) -> Formula {
    let key = Digest::in_domain("sim/object", &[&seed.to_le_bytes(), &(nth as u64).to_le_bytes()]);
    Formula { key: key.0, from: 0, len }
}

impl<C: Core> Scenario<C> {
    /// Builds the world of a plan. Nothing has happened yet.
    pub fn new(plan: Plan) -> Self {
        let mut world = World::new(plan.seed, plan.dht);
        let sites = Sites::build(&mut world.net, &plan.networks);
        for (id, host) in plan.hosts.iter().enumerate() {
            let mut draw = Draw::derive(plan.seed, "identity", id as u64);
            let keypair = Keypair::from_seed(&draw.seed());
            let config = NodeConfig {
                topics: vec![DhtId(Sha1::digest(b"remote-network-mesh").into())],
                public: host.nat.is_none(),
                relay: host.relay,
                ..NodeConfig::new(keypair)
            };
            let config = match host.peers {
                0 => config,
                peers => NodeConfig {
                    max_peers: peers.into(),
                    min_peers: usize::from(peers) - 1,
                    known_peers_max: SCALE_KNOWN_PEERS,
                    ..config
                },
            };
            let site = host.nat.map(|nat| sites.site(nat)).unwrap_or_default();
            let spec = HostSpec {
                config,
                real_tls: host.real_tls,
                region: host.region,
                quality: host.link,
                clock: host.clock,
                disk: host.disk,
                engine: host.engine,
            };
            let id = world.add_at(spec, site);
            if let Some(machine) = world.hosts.get_mut(id as usize) {
                let dice = Draw::derive(plan.seed, "malice", u64::from(id));
                machine.mischief = host.malice.map(|malice| Mischief::new(malice, dice));
            }
            publish_address(&mut world, id);
            world.mark(host.start_ms * MS_NS, Mark::Start(id).number());
        }
        for (nth, fault) in plan.faults.iter().enumerate() {
            world.mark(fault.at_ms * MS_NS, Mark::FaultBegins(nth).number());
        }
        for (nth, work) in plan.work.iter().enumerate() {
            world.mark(work.at_ms * MS_NS, Mark::Work(nth).number());
        }
        Self {
            world,
            plan,
            sites,
            pending: BTreeMap::new(),
            done: BTreeSet::new(),
            over: false,
            closing: false,
            excused: BTreeMap::new(),
            connected: BTreeMap::new(),
            connections: 0,
            faults: BTreeMap::new(),
            work: WorkTally::default(),
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Faults done so far, by kind.
    pub fn faults(&self) -> &BTreeMap<&'static str, u64> {
        &self.faults
    }

    /// Connections of all machines, as they told, when the plan's time was up.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// What became of the applications' wishes.
    pub fn work(&self) -> WorkTally {
        self.work
    }

    /// Plays the plan to its end.
    pub fn run(&mut self) {
        self.run_until(self.plan.duration_ms * MS_NS);
        self.connections = self.connected.values().map(|peers| peers.len() as u64).sum();
        self.mend();
        let end_ns = (self.plan.duration_ms + self.plan.liveness_ms) * MS_NS;
        self.after(LOOK_MS, Mark::Look);
        while self.world.now_ns() < end_ns && !self.at_rest() {
            // At least to the next event: the world's clock moves only with events.
            let next_ns =
                self.world.next_ns().map_or(end_ns, |at| at.saturating_add(1_000 * MS_NS)).min(end_ns);
            self.run_until(next_ns);
            if self.world.next_ns().is_none_or(|at| at >= end_ns) {
                break;
            }
        }
        self.close();
    }

    /// Plays on until `until_ns`.
    pub fn run_until(&mut self, until_ns: u64) {
        while let Some(at_ns) = self.world.next_ns().filter(|at| *at < until_ns) {
            if let Some(mark) = self.world.run_until(at_ns + 1) {
                self.reached(Mark::of(mark));
            }
            self.listen();
        }
    }

    fn after(&mut self, ms: u64, mark: Mark) {
        let at_ns = self.world.now_ns().saturating_add(ms * MS_NS);
        self.world.mark(at_ns, mark.number());
    }

    fn reached(&mut self, mark: Mark) {
        match mark {
            Mark::Start(host) => self.start(host),
            Mark::FaultBegins(nth) if !self.over => self.begin(nth),
            Mark::FaultBegins(_) => {}
            // Mended already. Ending it again would start machines that have shut down in order.
            Mark::FaultEnds(nth) if !self.over => self.end(nth),
            Mark::FaultEnds(_) => {}
            Mark::Work(nth) => self.try_work(nth),
            Mark::Look => {
                for (run, host) in self.world.checks.unsettled().collect::<Vec<_>>() {
                    self.give(host, Command::Run(run), Purpose::Look(run));
                }
                self.after(LOOK_MS, Mark::Look);
            }
        }
    }

    fn start(&mut self, host: HostId) {
        if self.closing || self.world.is_up(host) {
            return;
        }
        let offered = self.plan.hosts.get(host as usize).map(|h| h.services.clone()).unwrap_or_default();
        if let Some(host) = self.world.hosts.get_mut(host as usize) {
            offered.iter().for_each(|n| {
                let _ = host.disk.blobs.put(module(*n));
            });
        }
        let failures = self.world.hosts.get(host as usize).map_or(0, |h| h.disk.failures());
        self.excused.insert(host, failures);
        self.world.start(host);
        for n in offered {
            self.give(host, Command::AddService(Box::new(service(n))), Purpose::Offer);
        }
    }

    fn give(&mut self, host: HostId, command: Command, purpose: Purpose) -> bool {
        let given = self.world.command(host, command);
        if let Some(id) = given {
            self.work.commands += 1;
            self.pending.insert(id, (host, purpose));
        }
        given.is_some()
    }

    fn listen(&mut self) {
        for said in self.world.take_said() {
            match said {
                Said::Reply(host, id, reply) => self.replied(host, id, reply),
                Said::Notice(host, Notice::Run(view)) if view.state.is_terminal() => {
                    self.give(host, Command::Run(view.run), Purpose::Look(view.run));
                }
                Said::Notice(host, Notice::Peer(view)) => self.met(host, &view),
                Said::Notice(
                    _,
                    Notice::Run(_)
                    | Notice::Task { .. }
                    | Notice::Disagreement { .. }
                    | Notice::Published { .. }
                    | Notice::Found { .. }
                    | Notice::Transfer { .. },
                ) => {}
                Said::Stopped(host, fault) => self.stopped(host, fault),
            }
        }
    }

    fn met(&mut self, host: HostId, view: &PeerView) {
        let peers = self.connected.entry(host).or_default();
        match view.state {
            PeerState::Connected | PeerState::Idle | PeerState::Stale => {
                peers.insert(view.key, ());
            }
            PeerState::Connecting | PeerState::Closed => {
                peers.remove(&view.key);
            }
        }
    }

    fn stopped(&mut self, host: HostId, fault: Option<String>) {
        self.forget_commands(host);
        let Some(why) = fault else { return };
        let excused = self.excused.get(&host).copied().unwrap_or(0);
        let injected = self.world.hosts.get(host as usize).is_some_and(|h| h.disk.failures() > excused);
        if !injected {
            let at_ns = self.world.now_ns();
            self.world.checks.found(at_ns, host, Violation::Stopped(why));
        }
        self.after(SUPERVISOR_MS, Mark::Start(host));
    }

    fn replied(&mut self, host: HostId, id: CommandId, reply: Reply) {
        let Some((_, purpose)) = self.pending.remove(&id) else { return };
        let at_ns = self.world.now_ns();
        let error = match &reply {
            Reply::Error(error) => {
                self.work.errors += 1;
                Some(error)
            }
            Reply::Run(view) => {
                self.judge(host, view);
                None
            }
            Reply::Done
            | Reply::Status(_)
            | Reply::Peers(_)
            | Reply::Peer(_)
            | Reply::Services(_)
            | Reply::Planned(_)
            | Reply::Policy(_)
            | Reply::Found(_)
            | Reply::Relay(_)
            | Reply::Submitted(_)
            | Reply::Ticket(_)
            | Reply::Runs(_) => None,
        };
        match (purpose, error) {
            (Purpose::Share(nth), None) => match reply {
                Reply::Ticket(ticket) => self.fetch(nth, ticket),
                other => {
                    let what = format!("a permission was answered with {other:?}");
                    self.world.checks.found(at_ns, host, Violation::Restless(what));
                }
            },
            (Purpose::Look(run), Some(CommandError::UnknownRun(_))) => {
                self.world.checks.unknown_run(at_ns, host, run);
            }
            (Purpose::Look(_) | Purpose::Offer | Purpose::Shutdown, _) => {}
            (Purpose::Work(nth), None) => {
                self.judge_transfer(nth, host);
                self.done.insert(nth);
                self.work.done += 1;
            }
            // A run that was cancelled before it was known, or forgotten with its disk.
            (Purpose::Work(nth), Some(CommandError::UnknownRun(_))) => {
                self.done.insert(nth);
            }
            (Purpose::Work(nth) | Purpose::Share(nth), Some(_)) => self.after(RETRY_MS, Mark::Work(nth)),
        }
    }

    fn judge(&mut self, host: HostId, view: &RunView) {
        let failed = matches!(view.state, RunState::Failed | RunState::Cancelled);
        if failed && self.plan.all_succeed {
            let at_ns = self.world.now_ns();
            let why = view.why.clone().unwrap_or_default();
            self.world.checks.found(at_ns, host, Violation::RunFailed { run: view.run, why });
        }
    }

    // ------------------------------------------------------------------------------- the end

    fn at_rest(&self) -> bool {
        self.done.len() == self.plan.work.len()
            && self.pending.is_empty()
            && self.world.checks.unsettled().next().is_none()
    }

    /// What is not settled never will be; then every core shuts down in order.
    fn close(&mut self) {
        let at_ns = self.world.now_ns();
        self.world.checks.close(at_ns);
        for (host, purpose) in self.pending.values() {
            let what = format!("command unanswered: {purpose:?}");
            self.world.checks.found(at_ns, *host, Violation::Restless(what));
        }
        for (nth, work) in self.plan.work.iter().enumerate() {
            if !self.done.contains(&nth) && !self.pending.values().any(|(_, p)| *p == Purpose::Work(nth)) {
                let what = format!("work {nth} never succeeded: {:?}", work.what);
                self.world.checks.found(at_ns, work.host, Violation::Restless(what));
            }
        }
        self.pending.clear();
        self.closing = true;
        let hosts = 0..self.plan.hosts.len() as HostId;
        for host in hosts.clone() {
            self.give(host, Command::Shutdown, Purpose::Shutdown);
        }
        self.run_until(at_ns + SHUTDOWN_MS * MS_NS);
        let at_ns = self.world.now_ns();
        for host in hosts.filter(|h| self.world.is_up(*h)).collect::<Vec<_>>() {
            let what = "still running after an orderly shutdown".to_owned();
            self.world.checks.found(at_ns, host, Violation::Restless(what));
        }
    }
}

/// A public machine is configured with the address it has.
fn publish_address<C: Core>(world: &mut World<C>, id: HostId) {
    let address = world.net.public_address(id);
    if let Some(host) = world.hosts.get_mut(id as usize) {
        host.config.public_addrs = address.into_iter().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_being_numbers() {
        for mark in
            [Mark::Start(7), Mark::FaultBegins(1 << 40), Mark::FaultEnds(3), Mark::Work(0), Mark::Look]
        {
            assert_eq!(Mark::of(mark.number()), mark);
        }
    }

    #[test]
    fn services_and_objects_come_the_same_from_their_numbers() {
        assert_eq!(service(3), service(3));
        assert_ne!(service(3).id(), service(4).id());
        assert_eq!(object(1, 2, 100), object(1, 2, 100));
        assert_ne!(object(1, 2, 100), object(1, 3, 100));
        assert_ne!(run_id(1, 2), run_id(1, 3));
    }
}
