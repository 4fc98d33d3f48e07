//! The world: hosts, what lies between them, and one queue of everything that will happen.
//!
//! Single-threaded. [`World::step`] takes the next thing out of the queue, touches the one host it concerns, and drains
//! that host fully (datagrams, then actions, until neither is left) before anything else happens; then its timer is
//! re-armed. So a host that has nothing due costs nothing, and the same plan gives the same run, bit for bit.
//!
//! Answers of ports are computed when they fall due, not when they are asked for: a disk answers with what it holds
//! then.

use crate::check::{Checks, Violation};
use crate::depot::Depot;
use crate::dht::{Dht, DhtSpec};
use crate::disk::{Commit, Disk, DiskSpec};
use crate::draw::Draw;
use crate::engine::{Engine, EngineSpec};
use crate::host::{Birth, Clock, Core, Cryptography, Host, Inbox, SOCKET_BUFFER_DATAGRAMS};
use crate::net::{Arrival, Flight, Hop, HostId, Net, Outgoing, Quality, Site};
use crate::queue::{Due, Queue};
use crate::replay::Tape;
use crate::trace::{Kind, Trace};
use crate::tunnel::{Effect, Tunnels, Turn};
use remote_network_core::action::Action;
use remote_network_core::command::{Command, Notice, Reply};
use remote_network_core::event::{Datagram, Event};
use remote_network_core::id::{CommandId, JobId, Lsn, OpId};
use remote_network_core::node::{Node, NodeConfig};
use remote_network_core::place::{SocketEvent, SocketRequest, TunnelEvent};
use remote_network_core::port::{
    BlobRequest, DhtEvent, DhtFailed, DhtRequest, EngineEvent, EngineReport, EngineRequest,
};
use remote_network_core::rng::derive_seed;
use remote_network_core::time::Duration;
use remote_network_core::transport::Transmit;
use remote_network_core::transport::quic::QuicTransport;
use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;

/// Datagrams a core is asked for at once; they go to one destination.
const BURST_DATAGRAMS: usize = 10;
/// QUIC's times, as the product sets them.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Timer turns of one host without its clock moving on; more is a busy loop.
const IDLE_TURNS_MAX: u32 = 1_000;
/// Until a further socket is bound.
const SOCKET_OPENS_NS: u64 = 200_000;

/// The answer a port owes to one life of a host.
struct Owed {
    host: HostId,
    life: u32,
    answer: Answer,
}

enum Answer {
    Dht(DhtEvent),
    Persisted(Lsn),
    PersistFailed,
    Blob(OpId, BlobRequest),
    EngineStarted(JobId, u64),
    EngineEnds(JobId, u64),
    Socket(SocketEvent),
    Tunnel(TunnelEvent),
}

/// Something scheduled. Datagrams are by far the most, so the rest is boxed.
enum Happening {
    Flight(Flight),
    Owed(Box<Owed>),
    Tunnel(Turn),
    /// A mark set by whoever drives the world: [`Step::Mark`].
    Mark(u64),
}

/// What [`World::step`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Something happened at a host.
    Host(HostId),
    /// Something happened that reached nobody.
    Nothing,
    /// A mark set with [`World::mark`] was reached.
    Mark(u64),
}

/// What a core said to its application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// An answer to a command.
    Reply(HostId, CommandId, Reply),
    /// Something it noticed.
    Notice(HostId, Notice),
    /// It stopped by itself.
    Stopped(HostId, Option<String>),
}

/// How a host begins.
pub struct HostSpec {
    /// What its core is configured as.
    pub config: NodeConfig,
    /// Real TLS instead of the null session.
    pub real_tls: bool,
    /// Where it is.
    pub region: u8,
    /// Its link.
    pub quality: Quality,
    /// Its clocks.
    pub clock: Clock,
    /// Its disk.
    pub disk: DiskSpec,
    /// Its engine.
    pub engine: EngineSpec,
}

/// The world.
pub struct World<C: Core = Node<QuicTransport>> {
    /// The network.
    pub net: Net,
    /// The DHT.
    pub dht: Dht,
    /// The hosts, by number.
    pub hosts: Vec<Host<C>>,
    /// Who watches.
    pub checks: Checks,
    depot: Depot,
    tunnels: Tunnels,
    queue: Queue<Happening>,
    trace: Trace,
    said: VecDeque<Said>,
    real_tls: Vec<bool>,
    tape: Option<(HostId, Box<dyn Write + Send>)>,
    seed: u64,
    buf: Vec<u8>,
    next_command: u64,
    steps: u64,
}

impl<C: Core> World<C> {
    /// The tunnels between hosts.
    pub const fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// An empty world.
    pub fn new(seed: u64, dht: DhtSpec) -> Self {
        Self {
            net: Net::new(seed),
            dht: Dht::new(seed, dht),
            hosts: Vec::new(),
            checks: Checks::default(),
            depot: Depot::default(),
            tunnels: Tunnels::new(seed),
            queue: Queue::default(),
            trace: Trace::default(),
            said: VecDeque::new(),
            real_tls: Vec::new(),
            tape: None,
            seed,
            buf: Vec::with_capacity(BURST_DATAGRAMS * 1500),
            next_command: 0,
            steps: 0,
        }
    }

    /// Adds a machine, not yet started.
    pub fn add(&mut self, spec: HostSpec) -> HostId {
        self.add_at(spec, Site::default())
    }

    /// Adds a machine in a network behind boxes, not yet started.
    pub fn add_at(&mut self, spec: HostSpec, site: Site) -> HostId {
        let id = self.net.add_at(spec.region, spec.quality, site);
        let disk = Disk::new(spec.disk, Draw::derive(self.seed, "disk", u64::from(id)), self.depot.clone());
        let engine = Engine::new(spec.engine, Draw::derive(self.seed, "engine", u64::from(id)));
        self.checks.meet(id, spec.config.keypair.public());
        self.real_tls.push(spec.real_tls);
        self.hosts.push(Host::new(spec.config, spec.clock, disk, engine));
        id
    }

    /// The formulas that all stores of this world know.
    pub fn depot(&self) -> &Depot {
        &self.depot
    }

    /// World time.
    pub fn now_ns(&self) -> u64 {
        self.queue.now_ns()
    }

    /// Things that have happened.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The trace so far.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// When the next thing is due.
    pub fn next_ns(&mut self) -> Option<u64> {
        self.queue.next_ns()
    }

    /// Sets a mark that [`World::step`] will report.
    pub fn mark(&mut self, at_ns: u64, mark: u64) {
        self.queue.push(at_ns, Happening::Mark(mark));
    }

    /// What cores said to their applications since the last call, in order.
    pub fn take_said(&mut self) -> impl Iterator<Item = Said> + use<C> {
        std::mem::take(&mut self.said).into_iter()
    }

    fn host(&mut self, id: HostId) -> Option<&mut Host<C>> {
        self.hosts.get_mut(id as usize)
    }

    /// Whether a machine is up.
    pub fn is_up(&self, id: HostId) -> bool {
        self.hosts.get(id as usize).is_some_and(|h| h.core.is_some())
    }

    // ------------------------------------------------------------------------------- lives of hosts

    /// Starts a machine from its disk. Nothing happens when it is up.
    pub fn start(&mut self, id: HostId) {
        let now_ns = self.now_ns();
        let seed = self.seed;
        let real_tls = self.real_tls.get(id as usize).copied().unwrap_or_default();
        let Some(host) = self.hosts.get_mut(id as usize).filter(|h| h.core.is_none()) else { return };
        host.life += 1;
        host.started_ns = now_ns;
        if let Some(mischief) = host.mischief.clone() {
            self.tunnels.sabotage(id, mischief);
        }
        let of_world = |label: String| {
            let mut root = [0; 32];
            root[..8].copy_from_slice(&seed.to_le_bytes());
            derive_seed(&root, &label)
        };
        let core_seed = of_world(format!("host {id} life {}", host.life));
        let cryptography = match real_tls {
            true => Cryptography::Tls(derive_seed(&core_seed, "tls")),
            false => Cryptography::Null {
                realm: of_world("realm".into()),
                seed: derive_seed(&core_seed, "null session"),
                reset_secret: of_world(format!("host {id} reset")),
            },
        };
        let journal = host.disk.journal().restore();
        for record in &journal.records {
            self.trace.step(now_ns, id, Kind::Started, &record.record);
        }
        self.trace.step(now_ns, id, Kind::Started, &host.life.to_le_bytes());
        self.checks.begins(id, journal.last);
        let birth = Birth {
            config: host.config.clone(),
            journal,
            wall: host.clock.wall(now_ns),
            cryptography,
            quic_seed: derive_seed(&core_seed, "quic"),
            seed: core_seed,
            keep_alive: KEEP_ALIVE,
            idle_timeout: IDLE_TIMEOUT,
            mtu_discovery: true,
            connections_max: host.config.connections_max(),
        };
        if let Some((_, out)) = self.tape.take_if(|(host, _)| *host == id) {
            // A recording that cannot be written is no recording; the run does not depend on it.
            host.tape = Tape::begin(out, &birth).ok();
        }
        match host.rise(birth) {
            Ok(()) => {
                let addrs = self.net.addresses(id);
                self.feed(id, Event::LocalAddrs(addrs));
                let health = match self.net.passes_udp(id) {
                    true => self.dht.health(),
                    false => DhtEvent::Health { table_len: 0, reachable: false },
                };
                self.owe(now_ns + 500_000_000, id, Answer::Dht(health));
                self.drain(id);
            }
            Err(why) => self.checks.found(now_ns, id, Violation::Unrecoverable(why.to_string())),
        }
    }

    /// Records the next life of a host to `out`.
    pub fn record(&mut self, id: HostId, out: Box<dyn Write + Send>) {
        self.tape = Some((id, out));
    }

    /// The power of a machine goes.
    pub fn crash(&mut self, id: HostId) {
        let now_ns = self.now_ns();
        self.trace.step(now_ns, id, Kind::Down, b"crash");
        if let Some(host) = self.host(id).filter(|h| h.core.is_some()) {
            host.fall();
            host.disk.crash();
            self.queue.arm(id, None);
            self.net.close_sockets(id);
            let effects = self.tunnels.crash(now_ns, id);
            self.follow(effects);
        }
    }

    /// A stopped machine gets an empty disk.
    pub fn forget(&mut self, id: HostId) {
        if let Some(host) = self.host(id).filter(|h| h.core.is_none()) {
            host.disk.forget();
            self.checks.forgets(id);
        }
    }

    /// Stops a machine's processor; the network and its ports go on.
    pub fn pause(&mut self, id: HostId) {
        if let Some(host) = self.host(id).filter(|h| h.core.is_some() && h.inbox.is_none()) {
            host.inbox = Some(Inbox::default());
            self.queue.arm(id, None);
        }
    }

    /// Lets it go on, with what has come meanwhile.
    pub fn resume(&mut self, id: HostId) {
        let Some(inbox) = self.host(id).and_then(|h| h.inbox.take()) else { return };
        for event in inbox.events {
            self.feed(id, event);
        }
        for flight in inbox.flights {
            self.receive(flight);
        }
        self.drain(id);
    }

    /// Sets a machine's wall clock off by so much more.
    pub fn jump_clock(&mut self, id: HostId, by_ms: i64) {
        if let Some(host) = self.host(id) {
            host.clock.wall_off_ms = host.clock.wall_off_ms.saturating_add(by_ms);
        }
    }

    /// Moves a machine to a new address, which it is told.
    pub fn move_host(&mut self, id: HostId) {
        if let Some(site) = self.net.site(id) {
            self.roam(id, site);
        }
    }

    /// Moves a machine into other networks, while it runs; it is told.
    pub fn roam(&mut self, id: HostId, site: Site) {
        if self.net.relocate(id, site).is_some() {
            self.feed(id, Event::LocalAddrs(self.net.addresses(id)));
            self.drain(id);
        }
    }

    /// Takes the DHT away from everybody, or brings it back; everybody is told.
    pub fn set_dht_offline(&mut self, offline: bool) {
        self.dht.set_offline(offline);
        let (now_ns, health) = (self.now_ns(), self.dht.health());
        for id in 0..self.hosts.len() as HostId {
            self.owe(now_ns, id, Answer::Dht(health.clone()));
        }
    }

    /// Sends a machine a datagram out of nowhere.
    pub fn inject(&mut self, id: HostId, from: SocketAddr, payload: &[u8]) {
        let Some(to) = self.net.address(id) else { return };
        let now_ns = self.now_ns();
        self.net.sent_in_name(now_ns, id, from.ip(), payload);
        let payload = bytes::BytesMut::from(payload);
        let flight = Flight { host: id, from, to, ecn: None, hop: Hop::Queued, payload };
        self.queue.push(now_ns, Happening::Flight(flight));
    }

    /// Gives a core a command; `None` when the machine is down.
    pub fn command(&mut self, id: HostId, command: Command) -> Option<CommandId> {
        let now_ns = self.now_ns();
        self.next_command += 1;
        let command_id = CommandId(self.next_command);
        let host = self.host(id).filter(|h| h.core.is_some())?;
        host.commands.insert(command_id);
        self.trace.step_fmt(now_ns, id, Kind::Command, format_args!("{command:?}"));
        self.feed(id, Event::Command { id: command_id, command });
        self.drain(id);
        Some(command_id)
    }

    // ------------------------------------------------------------------------------- what happens

    /// Lets the next thing happen; `None` when nothing is left.
    pub fn step(&mut self) -> Option<Step> {
        let (now_ns, due) = self.queue.pop()?;
        self.steps += 1;
        Some(match due {
            Due::Timer(id) => {
                self.turn(now_ns, id);
                Step::Host(id)
            }
            Due::Event(Happening::Mark(mark)) => Step::Mark(mark),
            Due::Event(Happening::Flight(flight)) => self.arrive(now_ns, flight),
            Due::Event(Happening::Owed(owed)) => self.settle(now_ns, *owed),
            Due::Event(Happening::Tunnel(turn)) => {
                let hosts = &self.hosts;
                let lives = |id: HostId| hosts.get(id as usize).filter(|h| h.core.is_some()).map(|h| h.life);
                let effects = self.tunnels.turn(now_ns, &self.net, &lives, turn);
                self.follow(effects);
                Step::Nothing
            }
        })
    }

    /// Lets everything happen that is due before `until_ns`; stops at a mark.
    pub fn run_until(&mut self, until_ns: u64) -> Option<u64> {
        while self.next_ns().is_some_and(|at| at < until_ns) {
            if let Some(Step::Mark(mark)) = self.step() {
                return Some(mark);
            }
        }
        None
    }

    fn turn(&mut self, now_ns: u64, id: HostId) {
        self.trace.step(now_ns, id, Kind::Timer, b"");
        let Some(host) = self.host(id) else { return };
        if host.inbox.is_some() {
            return;
        }
        let now = host.now(now_ns);
        host.idle_turns = if now == host.last_turn { host.idle_turns + 1 } else { 0 };
        host.last_turn = now;
        if host.idle_turns == IDLE_TURNS_MAX {
            let reason = host.core.as_ref().and_then(C::poll_timeout).map_or("", |d| d.reason);
            self.checks.found(now_ns, id, Violation::BusyLoop(reason));
            // It would spin again at its next event, and the run would never come to its report.
            self.crash(id);
            return;
        }
        host.handle_timeout(now_ns);
        self.drain(id);
    }

    fn arrive(&mut self, now_ns: u64, mut flight: Flight) -> Step {
        match self.net.arrive(now_ns, &mut flight) {
            Arrival::Lost => Step::Nothing,
            Arrival::At(at_ns) => {
                self.queue.push(at_ns, Happening::Flight(flight));
                Step::Nothing
            }
            Arrival::Now => {
                let id = flight.host;
                if !self.is_up(id) {
                    self.net.unheard();
                    return Step::Nothing;
                }
                self.receive(flight);
                self.drain(id);
                Step::Host(id)
            }
        }
    }

    fn receive(&mut self, flight: Flight) {
        let (now_ns, id) = (self.now_ns(), flight.host);
        let Some(socket) = self.net.socket_at(id, flight.to.port()) else { return self.net.unheard() };
        let Some(host) = self.hosts.get_mut(id as usize) else { return };
        if let Some(inbox) = &mut host.inbox {
            if inbox.flights.len() < SOCKET_BUFFER_DATAGRAMS {
                inbox.flights.push_back(flight);
            } else {
                self.net.unheard();
            }
            return;
        }
        let head = (flight.payload.len() as u64) << 16 | u64::from(flight.from.port());
        self.trace.step(now_ns, id, Kind::Received, &head.to_le_bytes());
        let Flight { from, to, ecn, payload, .. } = flight;
        let event = Event::Datagram(Datagram { socket, from, to: Some(to.ip()), ecn, payload });
        host.handle(now_ns, event);
    }

    /// Gives a core an event, or keeps it while the machine is paused.
    fn feed(&mut self, id: HostId, event: Event) {
        let now_ns = self.now_ns();
        let Some(host) = self.host(id) else { return };
        match &mut host.inbox {
            Some(inbox) => inbox.events.push_back(event),
            None => host.handle(now_ns, event),
        }
    }

    fn owe(&mut self, at_ns: u64, id: HostId, answer: Answer) {
        if let Some(host) = self.hosts.get(id as usize).filter(|h| h.core.is_some()) {
            let owed = Owed { host: id, life: host.life, answer };
            self.queue.push(at_ns, Happening::Owed(Box::new(owed)));
        }
    }

    /// What follows from something about a tunnel.
    fn follow(&mut self, effects: Vec<(u64, Effect)>) {
        for (at_ns, effect) in effects {
            match effect {
                Effect::Tell(id, event) => self.owe(at_ns, id, Answer::Tunnel(event)),
                Effect::Turn(turn) => self.queue.push(at_ns, Happening::Tunnel(turn)),
            }
        }
    }

    /// A port's answer has fallen due.
    fn settle(&mut self, now_ns: u64, owed: Owed) -> Step {
        let Owed { host: id, life, answer } = owed;
        let Some(host) = self.hosts.get_mut(id as usize) else { return Step::Nothing };
        if host.life != life || host.core.is_none() {
            return Step::Nothing;
        }
        let event = match answer {
            Answer::Dht(event) => match &event {
                DhtEvent::Health { .. } => Some(Event::Dht(event)),
                DhtEvent::Peers { op, .. } | DhtEvent::Value { op, .. } | DhtEvent::Immutable { op, .. } => {
                    host.dht_ops.contains(op).then_some(Event::Dht(event))
                }
                DhtEvent::Done { op, .. } => host.dht_ops.remove(op).then_some(Event::Dht(event)),
            },
            Answer::Persisted(lsn) => host.disk.finish(lsn).then_some(Event::Persisted { up_to: lsn }),
            Answer::PersistFailed => Some(Event::PersistFailed { why: "injected write error".into() }),
            Answer::Blob(op, request) => {
                host.blob_ops.remove(&op);
                Some(Event::Blob { op, result: host.disk.blobs.answer(request) })
            }
            Answer::EngineStarted(job, serial) => host
                .engine
                .runs(job, serial)
                .then_some(Event::Engine(EngineReport { job, event: EngineEvent::Started })),
            Answer::EngineEnds(job, serial) => {
                let exit = host.engine.finish(now_ns, job, serial, &mut host.disk.blobs);
                exit.map(|e| Event::Engine(EngineReport { job, event: EngineEvent::Exited(e) }))
            }
            Answer::Socket(event) => Some(Event::Socket(event)),
            Answer::Tunnel(event) => Some(Event::Tunnel(event)),
        };
        let Some(event) = event else { return Step::Nothing };
        self.trace.answer(now_ns, id, &event);
        self.feed(id, event);
        self.drain(id);
        Step::Host(id)
    }

    // ------------------------------------------------------------------------------- what cores want

    /// Takes everything out of a core, then re-arms its timer.
    fn drain(&mut self, id: HostId) {
        let now_ns = self.now_ns();
        let mut buf = std::mem::take(&mut self.buf);
        while let Some(host) = self.hosts.get_mut(id as usize).filter(|h| h.inbox.is_none()) {
            buf.clear();
            if let Some(transmit) = host.poll_transmit(now_ns, BURST_DATAGRAMS, &mut buf) {
                let size = transmit.size.min(buf.len());
                let segment = transmit.segment_size.unwrap_or(size).max(1);
                for payload in buf[..size].chunks(segment) {
                    self.trace.step(now_ns, id, Kind::Sent, payload);
                    let queue = &mut self.queue;
                    let Transmit { socket, to, ecn, .. } = transmit;
                    self.net.send(now_ns, id, Outgoing { socket, to, ecn, payload }, |at_ns, flight| {
                        queue.push(at_ns, Happening::Flight(flight));
                    });
                }
                continue;
            }
            match host.poll_action() {
                Some(action) => self.act(now_ns, id, action),
                None => break,
            }
        }
        self.buf = buf;
        let (deadline_ns, outstanding) = match self.hosts.get(id as usize) {
            Some(host) if host.inbox.is_none() => (host.deadline_ns(), host.outstanding()),
            Some(_) | None => (None, 0),
        };
        self.checks.outstanding(now_ns, id, outstanding);
        self.queue.arm(id, deadline_ns);
    }

    fn act(&mut self, now_ns: u64, id: HostId, action: Action) {
        self.trace.action(now_ns, id, &action);
        let net = &self.net;
        self.checks.action(now_ns, id, &action, |addr| net.host_at(addr));
        let Some(host) = self.hosts.get_mut(id as usize) else { return };
        match action {
            Action::Persist { lsn, ops } => match host.disk.begin(now_ns, lsn, ops) {
                Commit::Durable { at_ns } => self.owe(at_ns, id, Answer::Persisted(lsn)),
                Commit::Failed { at_ns } => self.owe(at_ns, id, Answer::PersistFailed),
            },
            Action::Dht { op, request } => self.ask_dht(now_ns, id, op, request),
            Action::Blob { op, request } => {
                host.blob_ops.insert(op);
                let at_ns = now_ns + u64::from(host.disk.spec.blob_us) * 1000;
                self.owe(at_ns, id, Answer::Blob(op, request));
            }
            Action::Engine { job, request: EngineRequest::Start(order) } => {
                if let Some(course) = host.engine.start(now_ns, job, order, &host.disk.blobs) {
                    if let Some(at_ns) = course.started_ns {
                        self.owe(at_ns, id, Answer::EngineStarted(job, course.serial));
                    }
                    self.owe(course.ends_ns, id, Answer::EngineEnds(job, course.serial));
                }
            }
            Action::Engine { job, request: EngineRequest::Stop { grace } } => {
                if let Some((serial, at_ns)) = host.engine.stop(now_ns, job, grace) {
                    self.owe(at_ns, id, Answer::EngineEnds(job, serial));
                }
            }
            // A crash of the host ends its engine.
            Action::Sweep { .. } => {}
            Action::Socket(SocketRequest::Open(socket)) => {
                let answer = match self.net.open_socket(id, socket) {
                    Some(addr) => SocketEvent::Opened(socket, addr),
                    None => SocketEvent::Failed(socket, "too many open files".into()),
                };
                self.owe(now_ns + SOCKET_OPENS_NS, id, Answer::Socket(answer));
            }
            Action::Socket(SocketRequest::Close(socket)) => self.net.close_socket(id, socket),
            Action::Tunnel(request) => {
                let life = host.life;
                let effects = self.tunnels.request(now_ns, &mut self.net, id, life, request);
                self.follow(effects);
            }
            Action::Account(_) => {}
            Action::Reply { id: command, reply } => {
                if !host.commands.remove(&command) {
                    self.checks.found(now_ns, id, Violation::AnsweredTwice(command));
                }
                self.said.push_back(Said::Reply(id, command, reply));
            }
            Action::Notify(notice) => self.said.push_back(Said::Notice(id, notice)),
            Action::Stopped { fault } => {
                self.trace.step(now_ns, id, Kind::Down, b"stopped");
                let owed = host.commands.len();
                host.fall();
                match &fault {
                    Some(_) => host.disk.crash(),
                    None => host.disk.flush(),
                }
                if fault.is_none() && owed > 0 {
                    self.checks.found(now_ns, id, Violation::Unanswered(owed));
                }
                self.net.close_sockets(id);
                let effects = self.tunnels.ends_of(now_ns, &self.net, id);
                self.follow(effects);
                self.said.push_back(Said::Stopped(id, fault));
            }
        }
    }

    fn ask_dht(&mut self, now_ns: u64, id: HostId, op: OpId, request: DhtRequest) {
        let Some(address) = self.net.seen_as(id) else { return };
        let passes_udp = self.net.passes_udp(id);
        let Some(host) = self.hosts.get_mut(id as usize) else { return };
        let life = host.life;
        if request == DhtRequest::Cancel {
            if host.dht_ops.contains(&op) {
                let result = Err(DhtFailed::Cancelled);
                self.owe(now_ns, id, Answer::Dht(DhtEvent::Done { op, result }));
            }
            return;
        }
        host.dht_ops.insert(op);
        if !passes_udp {
            let done = DhtEvent::Done { op, result: Err(DhtFailed::Offline) };
            return self.owe(now_ns + 10_000_000, id, Answer::Dht(done));
        }
        let queue = &mut self.queue;
        self.dht.begin(now_ns, address, op, request, |at_ns, event| {
            let owed = Owed { host: id, life, answer: Answer::Dht(event) };
            queue.push(at_ns, Happening::Owed(Box::new(owed)));
        });
    }
}
