//! The backend's life: built, probed, rebuilt; and the queue of operations before it.
//!
//! Everything runs on the port's own thread: one loop, and a task for each operation, for a probe and for building
//! (names are resolved and the crate is built on a helper thread, because both block). Tasks report to the loop, and the
//! loop alone says `Done`: so a cancelled operation cannot be answered twice.

use super::ops::{Answers, Operation, Target, target};
use super::{DhtConfig, DhtMode, DhtSocket, DhtStatus, FamilyStatus, LocalAddr, OPERATION_MAX, Order};
use super::{REQUESTS_WAITING_MAX, TOOLS_ROOM, UNREACHABLE_MAX};
use async_channel::{Receiver, Sender};
use mainline::async_dht::AsyncDht;
use mainline::{Dht, Id};
use remote_network_core::event::Event;
use remote_network_core::id::{DhtId, OpId, OpIds};
use remote_network_core::limits::DHT_OPS_MAX;
use remote_network_core::port::{DhtDone, DhtEvent, DhtFailed, DhtRequest};
use smol::future::{FutureExt as _, or};
use smol::{LocalExecutor, Task, Timer};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Addresses given to the crate at the most.
const BOOTSTRAP_MAX: usize = 8;
/// Of these, nodes remembered from the table before.
const REMEMBERED_MAX: usize = 4;
/// Between two probes: at first, and doubling up to this (a private table must be refreshed each minute).
const PROBE_FIRST: Duration = Duration::from_secs(1);
const PROBE_MAX: Duration = Duration::from_secs(60);
const PROBE_ENDS_AFTER: Duration = Duration::from_secs(15);
/// Between two builds: at first, and doubling up to this.
const REBUILD_FIRST: Duration = Duration::from_secs(2);
const REBUILD_MAX: Duration = Duration::from_secs(300);
/// The old socket closes within the crate's polling interval; until then a fixed port is taken.
const PORT_FREE_AFTER: Duration = Duration::from_millis(100);
const PORT_TRIES: u32 = 30;

/// What a probe saw.
struct Probe {
    /// Nodes other than ours that answered; `None`: none was asked.
    answered: Option<usize>,
    table: Vec<String>,
    is_server: bool,
}

enum Wake {
    Order(Option<Order>),
    Ended(OpId, Result<DhtDone, DhtFailed>),
    Built(io::Result<(AsyncDht, SocketAddr)>),
    /// `None`: the crate's thread is dead.
    Probed(Option<Probe>),
    Time,
}

pub(super) struct Backend<'a> {
    executor: &'a LocalExecutor<'static>,
    config: DhtConfig,
    events: Sender<Event>,
    local: LocalAddr,
    reports: Sender<Wake>,
    dht: Option<AsyncDht>,
    running: BTreeMap<OpId, (Target, Task<()>)>,
    /// Who gets the answers of operations that are not the core's.
    askers: BTreeMap<OpId, Sender<DhtEvent>>,
    tool_ops: OpIds,
    waiting: VecDeque<(Instant, OpId, DhtRequest)>,
    remembered: Vec<String>,
    told: Option<(u32, bool)>,
    building: Option<Task<()>>,
    build_at: Option<Instant>,
    build_gap: Duration,
    probing: Option<Task<()>>,
    probe_at: Instant,
    probe_gap: Duration,
    unreachable_since: Option<Instant>,
}

impl Backend<'_> {
    /// Runs until the port is dropped.
    pub(super) fn live(config: DhtConfig, queue: Receiver<Order>, events: Sender<Event>, local: LocalAddr) {
        let executor: LocalExecutor<'static> = LocalExecutor::new();
        let (reports, wakes) = async_channel::unbounded();
        let now = Instant::now();
        let backend = Backend {
            executor: &executor,
            config,
            events,
            local,
            reports,
            dht: None,
            running: BTreeMap::new(),
            askers: BTreeMap::new(),
            tool_ops: OpIds::new(TOOLS_ROOM),
            waiting: VecDeque::new(),
            remembered: Vec::new(),
            told: None,
            building: None,
            build_at: Some(now),
            build_gap: REBUILD_FIRST,
            probing: None,
            probe_at: now,
            probe_gap: PROBE_FIRST,
            unreachable_since: None,
        };
        smol::block_on(executor.run(backend.run(queue, wakes)));
    }

    async fn run(mut self, queue: Receiver<Order>, wakes: Receiver<Wake>) {
        loop {
            let at = self.deadline();
            let time = async move {
                match at {
                    Some(at) => drop(Timer::at(at).await),
                    None => std::future::pending().await,
                }
                Wake::Time
            };
            let order = async { Wake::Order(queue.recv().await.ok()) };
            let report = async { wakes.recv().await.unwrap_or(Wake::Time) };
            match or(report, or(order, time)).await {
                Wake::Order(None) => return,
                Wake::Order(Some(Order::Request(op, request))) => self.request(op, request).await,
                Wake::Order(Some(Order::Ask(request, asker))) => {
                    let op = self.tool_ops.issue();
                    self.askers.insert(op, asker);
                    self.request(op, request).await;
                }
                Wake::Order(Some(Order::Status(asker))) => self.status(asker),
                Wake::Order(Some(Order::NetworkChanged)) => {
                    self.build_gap = REBUILD_FIRST;
                    self.rebuild("the network changed", Duration::ZERO).await;
                }
                Wake::Ended(op, result) => self.ended(op, result).await,
                Wake::Built(result) => self.built(result).await,
                Wake::Probed(probe) => self.probed(probe).await,
                Wake::Time => {}
            }
            self.on_time().await;
            self.start_waiting();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let probe = (self.dht.is_some() && self.probing.is_none()).then_some(self.probe_at);
        let build = if self.building.is_none() { self.build_at } else { None };
        let oldest = self.waiting.front().map(|(since, ..)| *since + OPERATION_MAX);
        [probe, build, oldest].into_iter().flatten().min()
    }

    async fn on_time(&mut self) {
        let now = Instant::now();
        while self.waiting.front().is_some_and(|(since, ..)| *since + OPERATION_MAX <= now) {
            if let Some((_, op, _)) = self.waiting.pop_front() {
                self.done(op, Err(DhtFailed::Offline)).await;
            }
        }
        if self.building.is_none() && self.build_at.is_some_and(|at| at <= now) {
            self.build_at = None;
            self.start_building();
        }
        if self.probing.is_none() && self.probe_at <= now {
            self.start_probing();
        }
    }

    // ------------------------------------------------------------------------------------ operations

    async fn request(&mut self, op: OpId, request: DhtRequest) {
        let Some(_) = target(&request) else { return self.cancel(op).await };
        let known = self.running.contains_key(&op) || self.waiting.iter().any(|(_, id, _)| *id == op);
        if known {
            return;
        }
        if self.waiting.len() >= REQUESTS_WAITING_MAX {
            return self.done(op, Err(DhtFailed::Offline)).await;
        }
        self.waiting.push_back((Instant::now(), op, request));
    }

    async fn cancel(&mut self, op: OpId) {
        let before = self.waiting.len();
        self.waiting.retain(|(_, id, _)| *id != op);
        if self.running.remove(&op).is_some() || self.waiting.len() < before {
            self.done(op, Err(DhtFailed::Cancelled)).await;
        }
    }

    fn start_waiting(&mut self) {
        let Some(dht) = &self.dht else { return };
        let mut at = 0;
        while self.running.len() < DHT_OPS_MAX && at < self.waiting.len() {
            let wanted = self.waiting.get(at).and_then(|(_, _, request)| target(request));
            let busy = self.running.values().any(|(running, _)| Some(*running) == wanted);
            let (false, Some(target)) = (busy, wanted) else {
                at += 1;
                continue;
            };
            let Some((_, op, request)) = self.waiting.remove(at) else { return };
            let is_server = self.config.mode != DhtMode::Client;
            let answers = match self.askers.get(&op) {
                Some(asker) => Answers::Tool(asker.clone()),
                None => Answers::Core(self.events.clone()),
            };
            let operation = Operation { op, dht: dht.clone(), is_server, answers };
            let reports = self.reports.clone();
            let task = self.executor.spawn(async move {
                // The crate panics when its thread has died; for the operation that is being offline.
                let work = AssertUnwindSafe(operation.run(request)).catch_unwind();
                let result = or(async { work.await.unwrap_or(Err(DhtFailed::Offline)) }, async {
                    Timer::after(OPERATION_MAX).await;
                    Err(DhtFailed::Timeout)
                });
                let _loop = reports.send(Wake::Ended(op, result.await)).await;
            });
            self.running.insert(op, (target, task));
        }
    }

    async fn ended(&mut self, op: OpId, result: Result<DhtDone, DhtFailed>) {
        if self.running.remove(&op).is_none() {
            return;
        }
        let silence = match &result {
            Ok(done) => done.responded == 0,
            Err(DhtFailed::NoNodes | DhtFailed::Timeout | DhtFailed::Offline) => true,
            Err(
                DhtFailed::Cas
                | DhtFailed::SeqTooOld
                | DhtFailed::TooBig
                | DhtFailed::BadSignature
                | DhtFailed::Cancelled,
            ) => false,
        };
        if silence {
            self.probe_soon();
        }
        self.done(op, result).await;
    }

    async fn done(&mut self, op: OpId, result: Result<DhtDone, DhtFailed>) {
        let end = DhtEvent::Done { op, result };
        match self.askers.remove(&op) {
            Some(asker) => drop(asker.try_send(end)),
            None => self.tell(end).await,
        }
    }

    /// Answers how it is, from a task: the crate takes its time.
    fn status(&self, asker: Sender<DhtStatus>) {
        let operations = (self.running.len(), self.waiting.len());
        let dht = self.dht.clone();
        let look = async move {
            let Some(dht) = dht else {
                return DhtStatus { backend: "mainline", operations, ..DhtStatus::default() };
            };
            let (info, nodes) = (dht.info().await, dht.to_bootstrap().await.len());
            // The crate tells no count of those who see it there.
            let observed = info.public_address().map(|addr| (SocketAddr::V4(addr), 1));
            let id = DhtId(*info.id().as_bytes());
            DhtStatus {
                backend: "mainline",
                local: Some(SocketAddr::V4(info.local_addr())),
                families: vec![FamilyStatus { ipv6: false, id, nodes, observed }],
                read_only: Some(!info.server_mode()),
                operations,
                ..DhtStatus::default()
            }
        };
        let task = self.executor.spawn(async move {
            // A dead thread of the crate is found by the probes; here nobody is answered.
            if let Ok(status) = AssertUnwindSafe(look).catch_unwind().await {
                let _nobody_waits = asker.try_send(status);
            }
        });
        task.detach();
    }

    async fn tell(&self, event: DhtEvent) {
        let _listener = self.events.send(Event::Dht(event)).await;
    }

    // ------------------------------------------------------------------------------------ health

    fn probe_soon(&mut self) {
        self.probe_gap = PROBE_FIRST;
        self.probe_at = self.probe_at.min(Instant::now() + PROBE_FIRST);
    }

    fn start_probing(&mut self) {
        let Some(dht) = self.dht.clone() else { return };
        // The public DHT needs no refreshing by us; it is asked only while nobody seems to be there.
        let ask = self.config.mode != DhtMode::Client
            || self.told.is_none_or(|(_, reachable)| !reachable)
            || self.probe_gap == PROBE_FIRST;
        let refresh = self.config.mode != DhtMode::Client;
        let reports = self.reports.clone();
        self.probing = Some(self.executor.spawn(async move {
            let seen = AssertUnwindSafe(probe(&dht, refresh, ask)).catch_unwind();
            let seen = or(async { seen.await.ok() }, async {
                Timer::after(PROBE_ENDS_AFTER).await;
                None
            });
            let _loop = reports.send(Wake::Probed(seen.await)).await;
        }));
    }

    async fn probed(&mut self, probe: Option<Probe>) {
        self.probing = None;
        if self.dht.is_none() {
            return;
        }
        let Some(probe) = probe else {
            self.health(0, false).await;
            return self.rebuild("its thread died", self.build_gap).await;
        };
        self.probe_gap = (self.probe_gap * 2).min(PROBE_MAX);
        self.probe_at = Instant::now() + self.probe_gap;
        let reachable = !probe.table.is_empty() && probe.answered != Some(0);
        if reachable {
            self.remembered.clone_from(&probe.table);
            self.remembered.truncate(REMEMBERED_MAX);
            self.unreachable_since = None;
            self.build_gap = REBUILD_FIRST;
        }
        let table_len = if reachable { probe.table.len() } else { 0 };
        self.health(u32::try_from(table_len).unwrap_or(u32::MAX), reachable).await;
        if self.config.mode == DhtMode::Client && probe.is_server {
            return self.rebuild("it turned into a server", Duration::ZERO).await;
        }
        if !reachable {
            self.probe_gap = self.probe_gap.min(PROBE_FIRST * 4);
            self.probe_at = Instant::now() + self.probe_gap;
            let since = *self.unreachable_since.get_or_insert_with(Instant::now);
            // A seed has nobody to turn to: it waits for the others.
            let is_seed = self.config.mode == DhtMode::Private { seed: true };
            if since.elapsed() > UNREACHABLE_MAX && !is_seed {
                self.rebuild("nobody answers", Duration::ZERO).await;
            }
        }
    }

    /// Tells a change that matters: reachable or not, or the table by a quarter.
    async fn health(&mut self, table_len: u32, reachable: bool) {
        let matters =
            self.told.is_none_or(|(before, was)| was != reachable || table_len.abs_diff(before) > before / 4);
        if matters {
            self.told = Some((table_len, reachable));
            self.tell(DhtEvent::Health { table_len, reachable }).await;
        }
    }

    // ------------------------------------------------------------------------------------ building

    /// Ends the backend and everything that runs on it, and builds it again after `wait`.
    async fn rebuild(&mut self, why: &str, wait: Duration) {
        tracing::info!(why, "building the DHT client anew");
        self.dht = None;
        self.building = None;
        self.probing = None;
        self.unreachable_since = None;
        *self.local.lock().unwrap_or_else(PoisonError::into_inner) = None;
        for op in std::mem::take(&mut self.running).into_keys() {
            self.done(op, Err(DhtFailed::Offline)).await;
        }
        self.build_later(wait);
    }

    fn build_later(&mut self, wait: Duration) {
        self.build_at = Some(Instant::now() + wait);
        self.build_gap = (self.build_gap * 2).min(REBUILD_MAX);
    }

    fn start_building(&mut self) {
        let (config, remembered) = (self.config.clone(), self.remembered.clone());
        let reports = self.reports.clone();
        self.building = Some(self.executor.spawn(async move {
            let built = smol::unblock(move || build(&config, &remembered)).await;
            let built = match built {
                Ok(dht) => {
                    let info = AssertUnwindSafe(dht.info()).catch_unwind().await;
                    info.map(|info| (dht, SocketAddr::V4(info.local_addr())))
                        .map_err(|_| io::Error::other("the DHT client ended at once"))
                }
                Err(e) => Err(e),
            };
            let _loop = reports.send(Wake::Built(built)).await;
        }));
    }

    async fn built(&mut self, result: io::Result<(AsyncDht, SocketAddr)>) {
        self.building = None;
        match result {
            Ok((dht, local)) => {
                self.dht = Some(dht);
                *self.local.lock().unwrap_or_else(PoisonError::into_inner) = Some(local);
                self.probe_gap = PROBE_FIRST;
                self.probe_at = Instant::now();
            }
            Err(e) => {
                tracing::warn!(error = %e, retry_in = ?self.build_gap, "the DHT client cannot be built");
                self.health(0, false).await;
                self.build_later(self.build_gap);
            }
        }
    }
}

/// `refresh` fills the table around our own id. `ask` counts who answers, by a lookup of nothing in particular: what
/// the crate returns for the former are nodes it has heard of, dead ones too.
async fn probe(dht: &AsyncDht, refresh: bool, ask: bool) -> Probe {
    let info = dht.info().await;
    if refresh {
        dht.find_node(*info.id()).await;
    }
    let answered = match ask {
        true => {
            let responders = dht.get_closest_nodes(Id::random()).await;
            Some(responders.iter().filter(|node| node.id() != info.id()).count())
        }
        false => None,
    };
    Probe { answered, table: dht.to_bootstrap().await, is_server: info.server_mode() }
}

/// Resolves names and builds. Blocks.
fn build(config: &DhtConfig, remembered: &[String]) -> io::Result<AsyncDht> {
    let mut builder = Dht::builder();
    let (bind, port) = match &config.socket {
        DhtSocket::Own { bind, port } => (*bind, *port),
        DhtSocket::Shared(_) => return Err(io::Error::other("mainline cannot share a socket")),
    };
    let bind = match bind {
        IpAddr::V4(ip) => ip,
        // All addresses: of IPv4, since the crate has no other.
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(ip) => return Err(io::Error::other(format!("mainline has no IPv6, and {ip} is of it"))),
    };
    builder.bind_address(bind).port(port);
    if config.mode == DhtMode::Client || config.mode == (DhtMode::Private { seed: false }) {
        let addresses = addresses(config, remembered);
        if addresses.is_empty() {
            return Err(io::Error::other("no name of dht_bootstrap resolves to an IPv4 address"));
        }
        builder.bootstrap(&addresses);
    } else {
        builder.no_bootstrap();
    }
    if config.mode != DhtMode::Client {
        builder.server_mode();
    }
    let mut tries = 0;
    loop {
        tries += 1;
        // When its socket cannot be bound, the crate either says so or panics, whichever of its threads is faster.
        let built = catch_unwind(AssertUnwindSafe(|| builder.build()))
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::AddrInUse, "its socket cannot be bound")));
        match built {
            Ok(dht) => return Ok(dht.as_async()),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries < PORT_TRIES => {
                std::thread::sleep(PORT_FREE_AFTER);
            }
            Err(e) => return Err(e),
        }
    }
}

fn addresses(config: &DhtConfig, remembered: &[String]) -> Vec<SocketAddrV4> {
    let well_known = mainline::DEFAULT_BOOTSTRAP_NODES.iter().map(ToString::to_string);
    let configured: Vec<String> = match (config.mode, config.bootstrap.is_empty()) {
        (DhtMode::Client, true) => well_known.collect(),
        _ => config.bootstrap.clone(),
    };
    let mut addresses = Vec::new();
    for name in remembered.iter().chain(&configured) {
        let resolved = name.to_socket_addrs().into_iter().flatten();
        for address in resolved {
            if let SocketAddr::V4(v4) = address
                && !addresses.contains(&v4)
                && addresses.len() < BOOTSTRAP_MAX
            {
                addresses.push(v4);
            }
        }
    }
    addresses
}
