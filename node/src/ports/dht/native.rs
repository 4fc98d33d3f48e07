//! Our own DHT node on a UDP socket.
//!
//! The node is a machine ([`remote_network_core::dht::krpc`]); this thread is what it needs of the world: a socket, two
//! clocks, a random seed, names resolved, and its table on the disk. Names are resolved again while nobody answers,
//! because the network's first nodes may have moved.
//!
//! The machine carries [`OPS_MAX`] operations at once; more wait here, so that a burst is slower and not lost.

use super::socket::Socket;
use super::status::{DhtStatus, FamilyStatus};
use super::{
    DhtConfig, DhtMode, DhtSocket, LocalAddr, Order, REQUESTS_WAITING_MAX, TOOLS_ROOM, UNREACHABLE_MAX,
};
use super::{offline, table_file};
use async_channel::{Receiver, Sender};
use bytes::Bytes;
use remote_network_core::dht::krpc::client::OPS_MAX;
use remote_network_core::dht::krpc::{Config, Input, Krpc, Output, Presence};
use remote_network_core::event::Event;
use remote_network_core::id::{OpId, OpIds};
use remote_network_core::machine::{Cx, Machine as _};
use remote_network_core::port::{AnnouncePort, DhtEvent, DhtFailed, DhtRequest};
use remote_network_core::rng::Rng;
use remote_network_core::time::{Instant, UnixTime};
use ring::rand::SecureRandom as _;
use smol::Timer;
use smol::future::or;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

/// Addresses to join by.
const BOOTSTRAP_MAX: usize = 16;
/// Pause after an error of the socket.
const AFTER_ERROR: Duration = Duration::from_millis(20);
/// Between two tries to bind: at first, and doubling up to this.
const BIND_AGAIN_FIRST: Duration = Duration::from_millis(100);
const BIND_AGAIN_MAX: Duration = Duration::from_secs(60);
/// Datagrams taken in a row before orders are looked at again.
const DATAGRAMS_IN_A_ROW: usize = 64;
/// Between two looks whether the table has changed: soon after the start, then rarely.
const SAVE_EVERY_FIRST: Duration = Duration::from_secs(2);
const SAVE_EVERY_MAX: Duration = Duration::from_secs(300);

enum Wake {
    Order(Option<Order>),
    Datagram(io::Result<(Bytes, SocketAddr)>),
    Resolved(Vec<SocketAddr>),
    Time,
}

struct Native {
    socket: Socket,
    node: Krpc,
    rng: Rng,
    started: std::time::Instant,
    events: Sender<Event>,
    outbox: Vec<Output>,
    /// Operations that the machine has no room for yet.
    waiting: VecDeque<(OpId, DhtRequest)>,
    /// Who gets the answers of operations that are not the core's.
    askers: BTreeMap<OpId, Sender<DhtEvent>>,
    tool_ops: OpIds,
    refused: BTreeMap<&'static str, u64>,
    /// Since when nobody answers; names are resolved again after a while.
    unreachable_since: Option<std::time::Instant>,
    table: Option<TableOnDisk>,
}

/// The table as it was last written.
struct TableOnDisk {
    path: PathBuf,
    written: Vec<u8>,
    look_at: std::time::Instant,
    look_every: Duration,
}

/// Runs until the port is dropped.
pub(super) fn live(config: DhtConfig, queue: Receiver<Order>, events: Sender<Event>, local: LocalAddr) {
    smol::block_on(async move {
        let Some(socket) = open(&config, &queue, &events).await else { return };
        *local.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket.local_addr());
        let mut seed = [0; 32];
        if ring::rand::SystemRandom::new().fill(&mut seed).is_err() {
            tracing::error!("no random bytes to be had: the DHT stays off");
            return;
        }
        let private = matches!(config.mode, DhtMode::Private { .. });
        let mut node =
            Krpc::new(Config { private_networks: private, presence: Presence::Auto, bootstrap: Vec::new() });
        let started = std::time::Instant::now();
        let table = config.table_file.clone().map(|path| TableOnDisk {
            written: restore(&mut node, &path),
            path,
            look_at: started + SAVE_EVERY_FIRST,
            look_every: SAVE_EVERY_FIRST,
        });
        let native = Native {
            socket,
            node,
            rng: Rng::from_seed(seed),
            started,
            events,
            outbox: Vec::new(),
            waiting: VecDeque::new(),
            askers: BTreeMap::new(),
            tool_ops: OpIds::new(TOOLS_ROOM),
            refused: BTreeMap::new(),
            unreachable_since: None,
            table,
        };
        native.run(config, queue).await;
    });
}

/// Gives the node what the last run knew. Returns the bytes.
fn restore(node: &mut Krpc, path: &std::path::Path) -> Vec<u8> {
    let Some(bytes) = table_file::read(path) else { return Vec::new() };
    match node.restore(&bytes) {
        Ok(()) => bytes,
        Err(e) => {
            tracing::warn!(file = %path.display(), error = %e, "the saved DHT table is not understood; joining without it");
            Vec::new()
        }
    }
}

/// A socket, however long it takes: the port may still belong to the process before, and the driver binds a shared one
/// when it starts. `None`: the port was dropped.
async fn open(config: &DhtConfig, queue: &Receiver<Order>, events: &Sender<Event>) -> Option<Socket> {
    let mut again = BIND_AGAIN_FIRST;
    loop {
        let opened = match &config.socket {
            DhtSocket::Own { bind, port } => Socket::bind(*bind, *port),
            DhtSocket::Shared(coming) => {
                let shared = async { coming.recv().await.ok() };
                let refusing = async {
                    while let Ok(order) = queue.recv().await {
                        refuse(order, events).await;
                    }
                    None
                };
                Socket::share(or(shared, refusing).await?)
            }
        };
        match opened {
            Ok(socket) => return Some(socket),
            Err(e) => {
                tracing::warn!(socket = ?config.socket, error = %e, retry_in = ?again, "the DHT's socket cannot be had");
            }
        }
        let until = std::time::Instant::now() + again;
        again = (again * 2).min(BIND_AGAIN_MAX);
        while std::time::Instant::now() < until {
            let time = async {
                Timer::at(until).await;
                Wake::Time
            };
            match or(async { Wake::Order(queue.recv().await.ok()) }, time).await {
                Wake::Order(None) => return None,
                Wake::Order(Some(order)) => refuse(order, events).await,
                Wake::Datagram(_) | Wake::Resolved(_) | Wake::Time => {}
            }
        }
    }
}

/// Answers an order while there is no socket.
async fn refuse(order: Order, events: &Sender<Event>) {
    match order {
        Order::Request(_, DhtRequest::Cancel) | Order::NetworkChanged => {}
        Order::Request(op, _) => drop(events.send(Event::Dht(offline(op))).await),
        Order::Ask(_, asker) => drop(asker.try_send(offline(OpId(0)))),
        Order::Status(asker) => {
            let status = DhtStatus { backend: "native", ..DhtStatus::default() };
            let _nobody_waits = asker.try_send(status);
        }
    }
}

impl Native {
    async fn run(mut self, config: DhtConfig, queue: Receiver<Order>) {
        let (resolved_to, resolved) = async_channel::bounded(1);
        let resolve = |names: Vec<String>| {
            let to = resolved_to.clone();
            smol::unblock(move || drop(to.try_send(addresses(&names)))).detach();
        };
        let names = names(&config);
        resolve(names.clone());
        self.tell(Input::Start).await;
        loop {
            let until = self.deadline();
            let wake = {
                let time = async {
                    match until {
                        Some(at) => drop(Timer::at(at).await),
                        None => std::future::pending().await,
                    }
                    Wake::Time
                };
                let order = async { Wake::Order(queue.recv().await.ok()) };
                let arrived = async { Wake::Datagram(self.socket.receive().await) };
                let names = async { Wake::Resolved(resolved.recv().await.unwrap_or_default()) };
                or(or(order, names), or(arrived, time)).await
            };
            match wake {
                Wake::Order(None) => break,
                Wake::Order(Some(Order::NetworkChanged)) => {
                    resolve(names.clone());
                    self.tell(Input::NetworkChanged).await;
                }
                Wake::Order(Some(order)) => self.order(order).await,
                Wake::Resolved(mut found) => {
                    found.retain(|addr| self.socket.reaches(addr));
                    self.tell(Input::Bootstrap(found)).await;
                }
                Wake::Datagram(Ok((bytes, from))) => self.datagrams(bytes, from).await,
                // An ICMP answer to something sent before: the node notices the silence by itself. A socket that goes
                // on failing must not make the thread spin.
                Wake::Datagram(Err(e)) => {
                    tracing::trace!(error = %e, "the DHT's socket");
                    Timer::after(AFTER_ERROR).await;
                }
                Wake::Time => {}
            }
            if self.node.poll_timeout().is_some_and(|d| d.at <= self.now()) {
                self.timeout().await;
            }
            self.start_waiting().await;
            self.save_when_due();
            let long = |since: std::time::Instant| since.elapsed() >= UNREACHABLE_MAX;
            if self.unreachable_since.is_some_and(long) {
                self.unreachable_since = Some(std::time::Instant::now());
                resolve(names.clone());
            }
        }
        self.save();
    }

    fn deadline(&self) -> Option<std::time::Instant> {
        let node = self.node.poll_timeout().map(|d| self.started + d.at.since(Instant::ZERO));
        let names = self.unreachable_since.map(|since| since + UNREACHABLE_MAX);
        let table = self.table.as_ref().map(|t| t.look_at);
        [node, names, table].into_iter().flatten().min()
    }

    /// One datagram, and those that have come after it.
    async fn datagrams(&mut self, bytes: Bytes, from: SocketAddr) {
        let mut next = Some((bytes, from));
        for _ in 0..DATAGRAMS_IN_A_ROW {
            let Some((bytes, from)) = next else { return };
            self.tell(Input::Datagram { from, bytes }).await;
            next = self.socket.receive_now();
        }
        if let Some((bytes, from)) = next {
            self.tell(Input::Datagram { from, bytes }).await;
        }
    }

    // ------------------------------------------------------------------------------------ operations

    async fn order(&mut self, order: Order) {
        match order {
            Order::Request(op, request) => self.request(op, request).await,
            Order::Ask(request, asker) => {
                let op = self.tool_ops.issue();
                self.askers.insert(op, asker);
                self.request(op, request).await;
            }
            Order::Status(asker) => {
                let _nobody_waits = asker.try_send(self.status());
            }
            Order::NetworkChanged => {}
        }
    }

    async fn request(&mut self, op: OpId, request: DhtRequest) {
        if request == DhtRequest::Cancel {
            let before = self.waiting.len();
            self.waiting.retain(|(waiting, _)| *waiting != op);
            if self.waiting.len() < before {
                return self.event(DhtEvent::Done { op, result: Err(DhtFailed::Cancelled) }).await;
            }
            return self.tell(Input::Request { op, request }).await;
        }
        if self.waiting.len() >= REQUESTS_WAITING_MAX {
            return self.event(offline(op)).await;
        }
        // On a shared socket the port that others see is the port of QUIC, also behind a NAT.
        let request = match request {
            DhtRequest::Announce { topic, .. } if self.socket.is_shared() && op.room() != TOOLS_ROOM => {
                DhtRequest::Announce { topic, port: AnnouncePort::Implied }
            }
            other => other,
        };
        self.waiting.push_back((op, request));
    }

    async fn start_waiting(&mut self) {
        while self.node.under_way().0 < OPS_MAX
            && let Some((op, request)) = self.waiting.pop_front()
        {
            self.tell(Input::Request { op, request }).await;
        }
    }

    fn status(&self) -> DhtStatus {
        let observed = self.node.observed();
        let family = |ipv6: bool, observed| {
            let table = self.node.table(ipv6);
            FamilyStatus { ipv6, id: *table.own(), nodes: table.len(), observed }
        };
        let [four, six] = observed;
        let reached = |ipv6: bool| {
            let any: SocketAddr = if ipv6 { ([0u16; 8], 1).into() } else { ([0u8; 4], 1).into() };
            self.socket.reaches(&any)
        };
        let families = [(false, four), (true, six)];
        DhtStatus {
            backend: "native",
            local: Some(self.socket.local_addr()),
            shared_socket: self.socket.is_shared(),
            families: families
                .into_iter()
                .filter(|(v6, _)| reached(*v6))
                .map(|(v6, o)| family(v6, o))
                .collect(),
            read_only: Some(self.node.read_only()),
            kept: Some(self.node.kept()),
            operations: (self.node.under_way().0, self.waiting.len()),
            refused: self.refused.clone(),
        }
    }

    // ------------------------------------------------------------------------------------ the machine

    fn now(&self) -> Instant {
        Instant::ZERO + self.started.elapsed()
    }

    async fn tell(&mut self, input: Input) {
        let (now, wall) = (self.now(), wall());
        self.node.handle(&mut Cx::new(now, wall, &mut self.rng, &mut self.outbox), input);
        self.act().await;
    }

    async fn timeout(&mut self) {
        let (now, wall) = (self.now(), wall());
        self.node.handle_timeout(&mut Cx::new(now, wall, &mut self.rng, &mut self.outbox));
        self.act().await;
    }

    async fn act(&mut self) {
        for output in std::mem::take(&mut self.outbox) {
            match output {
                Output::Datagram { to, bytes } => self.socket.send(&bytes, to),
                Output::Event(event) => self.event(event).await,
                Output::Refused(why) => {
                    *self.refused.entry(why).or_default() += 1;
                    tracing::debug!(why, "the DHT refused something");
                }
                Output::Observed { addr, votes } => {
                    tracing::debug!(%addr, votes, "other nodes see ours there")
                }
                Output::Table(_) => {}
            }
        }
    }

    /// Tells whoever asked: the core, or a tool.
    async fn event(&mut self, event: DhtEvent) {
        let op = match &event {
            DhtEvent::Peers { op, .. }
            | DhtEvent::Value { op, .. }
            | DhtEvent::Immutable { op, .. }
            | DhtEvent::Done { op, .. } => Some(*op),
            DhtEvent::Health { reachable, .. } => {
                self.unreachable_since =
                    (!reachable).then(|| self.unreachable_since.unwrap_or_else(std::time::Instant::now));
                None
            }
        };
        let is_end = matches!(event, DhtEvent::Done { .. });
        match op.filter(|op| op.room() == TOOLS_ROOM) {
            None => drop(self.events.send(Event::Dht(event)).await),
            Some(op) => {
                if let Some(asker) = self.askers.get(&op) {
                    let _went_away = asker.try_send(event);
                }
                if is_end {
                    self.askers.remove(&op);
                }
            }
        }
    }

    // ------------------------------------------------------------------------------------ the table on the disk

    fn save_when_due(&mut self) {
        if let Some(table) = &mut self.table
            && table.look_at <= std::time::Instant::now()
        {
            table.look_every = (table.look_every * 2).min(SAVE_EVERY_MAX);
            table.look_at = std::time::Instant::now() + table.look_every;
            self.save();
        }
    }

    /// Writes the table if it has changed: a few kilobytes.
    fn save(&mut self) {
        let Some(table) = &mut self.table else { return };
        let bytes = self.node.saved();
        if bytes == table.written {
            return;
        }
        match table_file::write(&table.path, &bytes) {
            Ok(()) => table.written = bytes,
            Err(e) => {
                tracing::warn!(file = %table.path.display(), error = %e, "the DHT table cannot be saved");
            }
        }
    }
}

fn wall() -> UnixTime {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Where to join: what is configured, else the well-known nodes of the public DHT.
fn names(config: &DhtConfig) -> Vec<String> {
    if config.bootstrap.is_empty() && config.mode == DhtMode::Client {
        mainline::DEFAULT_BOOTSTRAP_NODES.iter().map(ToString::to_string).collect()
    } else {
        config.bootstrap.clone()
    }
}

/// The addresses behind the names. Blocks.
fn addresses(names: &[String]) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for name in names {
        for address in name.to_socket_addrs().into_iter().flatten() {
            if !found.contains(&address) && found.len() < BOOTSTRAP_MAX {
                found.push(address);
            }
        }
    }
    found
}
