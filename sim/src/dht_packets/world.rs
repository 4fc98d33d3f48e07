//! The network between the nodes: one queue, an access delay for every host, loss.

use remote_network_core::dht::krpc::{Config, Input, Krpc, Output, Presence};
use remote_network_core::id::OpId;
use remote_network_core::machine::{Cx, Machine as _};
use remote_network_core::port::{DhtDone, DhtEvent, DhtFailed, DhtRequest, MutableItem};
use remote_network_core::rng::{Rng, derive_seed};
use remote_network_core::time::{Instant, UnixTime};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const WALL_AT_START: UnixTime = UnixTime::from_secs(1_700_000_000);
const PORT: u16 = 6881;
/// Access delays of hosts, each way, in milliseconds: most are near, some are far.
const ACCESS_MS: [u64; 8] = [4, 8, 12, 20, 30, 45, 70, 110];

struct Host {
    krpc: Option<Box<Krpc>>,
    rng: Rng,
    addr: SocketAddr,
    bootstrap: Vec<u32>,
    access_ms: u64,
    /// The wake-up that counts; others in the queue are old.
    deadline: Option<Instant>,
}

enum What {
    Join,
    Wake,
    Datagram { from: u32, bytes: Vec<u8> },
}

struct Event {
    at: Instant,
    order: u64,
    host: u32,
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// How an operation went.
pub struct Ended {
    /// Its end; `None`: it never ended.
    pub done: Option<Result<DhtDone, DhtFailed>>,
    /// Values on the way.
    pub values: Vec<MutableItem>,
    /// From its begin to its end.
    pub took: Duration,
}

/// The nodes and what is between them.
pub struct World {
    now: Instant,
    hosts: Vec<Host>,
    by_addr: BTreeMap<SocketAddr, u32>,
    queue: BinaryHeap<Reverse<Event>>,
    order: u64,
    packets: u64,
    loss_ppm: u32,
    rng: Rng,
    seed: [u8; 32],
    trace: blake3::Hasher,
    ops: u64,
    watched: Option<(OpId, Ended)>,
}

/// A public address for every number, scattered so that ids made of them (BEP 42) are.
fn addr(n: u32) -> SocketAddr {
    let mixed = n.wrapping_add(1).wrapping_mul(0x9e37_79b1);
    let [a, b, c, d] = mixed.to_be_bytes();
    // First octets 16 to 95: public all of them, whatever follows.
    SocketAddr::from((Ipv4Addr::new(16 + a % 80, b, c, d), PORT))
}

impl World {
    /// An empty network.
    pub fn new(seed: u64, loss_ppm: u32) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        Self {
            now: Instant::ZERO,
            hosts: Vec::new(),
            by_addr: BTreeMap::new(),
            queue: BinaryHeap::new(),
            order: 0,
            packets: 0,
            loss_ppm,
            rng: Rng::derive(&bytes, "dht packets"),
            seed: bytes,
            trace: blake3::Hasher::new(),
            ops: 0,
            watched: None,
        }
    }

    /// A uniform number.
    pub fn draw_below(&mut self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    /// One more host, which will join by the hosts named.
    pub fn join_at(&mut self, at: Duration, bootstrap: Vec<u32>) {
        let host = self.hosts.len() as u32;
        // Two numbers may meet in one address; the later one looks for another.
        let numbers = (0..).map(|n: u32| host.wrapping_add(n.wrapping_mul(0x0100_0000)));
        let free = numbers.map(addr).find(|a| !self.by_addr.contains_key(a));
        let Some(addr) = free else { return };
        self.by_addr.insert(addr, host);
        let access = self.rng.below(ACCESS_MS.len() as u64) as usize;
        self.hosts.push(Host {
            krpc: None,
            rng: Rng::from_seed(derive_seed(&self.seed, &format!("host {host}"))),
            addr,
            bootstrap,
            access_ms: ACCESS_MS.get(access).copied().unwrap_or(1),
            deadline: None,
        });
        self.push(Instant::ZERO + at, host, What::Join);
    }

    /// Somebody who is there.
    pub fn somebody(&mut self) -> Option<u32> {
        let alive: Vec<u32> = (0..self.hosts.len() as u32)
            .filter(|n| self.host(*n).is_some_and(|h| h.krpc.is_some()))
            .collect();
        let at = self.rng.below(alive.len() as u64) as usize;
        alive.get(at).copied()
    }

    /// So many hosts are gone, without a word.
    pub fn vanish(&mut self, count: u64) {
        for _ in 0..count {
            let Some(host) = self.somebody().and_then(|n| self.hosts.get_mut(n as usize)) else { return };
            (host.krpc, host.deadline) = (None, None);
        }
    }

    /// Lets time pass.
    pub fn run_until(&mut self, end: Duration) {
        let end = Instant::ZERO + end;
        while self.queue.peek().is_some_and(|Reverse(e)| e.at <= end) {
            self.step();
        }
        self.now = self.now.max(end);
    }

    /// Carries out one operation, while everybody else goes on.
    pub fn operate(&mut self, host: u32, request: DhtRequest, within: Duration) -> Ended {
        self.ops += 1;
        let (op, began) = (OpId(self.ops), self.now);
        self.watched = Some((op, Ended { done: None, values: Vec::new(), took: within }));
        self.handle(host, Some(Input::Request { op, request }));
        let ended = |w: &Self| w.watched.as_ref().is_none_or(|(_, e)| e.done.is_some());
        while !ended(self) && self.queue.peek().is_some_and(|Reverse(e)| e.at <= began + within) {
            self.step();
        }
        let took = self.now.since(began);
        let ended = self.watched.take().map(|(_, e)| e);
        ended.map_or(Ended { done: None, values: Vec::new(), took }, |e| Ended { took, ..e })
    }

    /// Datagrams sent so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Memory of all nodes.
    pub fn memory_bytes(&self) -> u64 {
        self.alive().map(|k| k.memory_bytes() as u64).sum()
    }

    /// Entries of the tables.
    pub fn table_lens(&self) -> impl Iterator<Item = u64> {
        self.alive().map(|k| k.table_len() as u64)
    }

    /// Virtual time.
    pub fn now_ms(&self) -> u64 {
        self.now.as_millis()
    }

    /// The hash over all datagrams.
    pub fn trace_hash(&self) -> String {
        self.trace.finalize().to_hex().to_string()
    }

    fn alive(&self) -> impl Iterator<Item = &Krpc> {
        self.hosts.iter().filter_map(|h| h.krpc.as_deref())
    }

    fn host(&self, n: u32) -> Option<&Host> {
        self.hosts.get(n as usize)
    }

    fn push(&mut self, at: Instant, host: u32, what: What) {
        self.order += 1;
        self.queue.push(Reverse(Event { at, order: self.order, host, what }));
    }

    fn step(&mut self) {
        let Some(Reverse(event)) = self.queue.pop() else { return };
        self.now = self.now.max(event.at);
        match event.what {
            What::Join => self.join(event.host),
            What::Wake => {
                if self.host(event.host).is_some_and(|h| h.deadline == Some(event.at)) {
                    self.handle(event.host, None);
                }
            }
            What::Datagram { from, bytes } => {
                let Some(from) = self.host(from).map(|h| h.addr) else { return };
                self.handle(event.host, Some(Input::Datagram { from, bytes: bytes.into() }));
            }
        }
    }

    fn join(&mut self, n: u32) {
        let bootstrap = self.host(n).map(|h| h.bootstrap.clone()).unwrap_or_default();
        let bootstrap = bootstrap.into_iter().filter_map(|b| self.host(b).map(|h| h.addr)).collect();
        let config = Config { private_networks: false, presence: Presence::Open, bootstrap };
        if let Some(host) = self.hosts.get_mut(n as usize) {
            host.bootstrap = Vec::new();
            host.krpc = Some(Box::new(Krpc::new(config)));
        }
        self.handle(n, Some(Input::Start));
    }

    /// Tells a node something, or that its time has come, and carries out what it asks for.
    fn handle(&mut self, n: u32, input: Option<Input>) {
        let (now, wall) = (self.now, WALL_AT_START.plus(self.now.since(Instant::ZERO)));
        let Some(host) = self.hosts.get_mut(n as usize) else { return };
        let Some(krpc) = host.krpc.as_deref_mut() else { return };
        let mut out = Vec::new();
        let mut cx = Cx::new(now, wall, &mut host.rng, &mut out);
        match input {
            Some(input) => krpc.handle(&mut cx, input),
            None => krpc.handle_timeout(&mut cx),
        }
        let deadline = krpc.poll_timeout().map(|d| d.at);
        let changed = deadline != host.deadline;
        host.deadline = deadline;
        if let Some(at) = deadline.filter(|_| changed) {
            self.push(at, n, What::Wake);
        }
        for output in out {
            match output {
                Output::Datagram { to, bytes } => self.send(n, to, bytes),
                Output::Event(event) => self.told(event),
                Output::Table(_) | Output::Observed { .. } | Output::Refused(_) => {}
            }
        }
    }

    fn send(&mut self, from: u32, to: SocketAddr, bytes: Vec<u8>) {
        self.packets += 1;
        self.trace.update(&self.now.as_nanos().to_be_bytes()).update(&from.to_be_bytes()).update(&bytes);
        let lost = self.rng.chance_ppm(self.loss_ppm);
        let jitter = self.rng.below(10_000);
        let Some(to) = self.by_addr.get(&to).copied().filter(|_| !lost) else { return };
        let access = |n: u32| self.host(n).map_or(0, |h| h.access_ms);
        let delay = Duration::from_micros((access(from) + access(to)) * 1_000 + jitter);
        self.push(self.now + delay, to, What::Datagram { from, bytes });
    }

    fn told(&mut self, event: DhtEvent) {
        let Some((watched, ended)) = &mut self.watched else { return };
        match event {
            DhtEvent::Value { op, item } if op == *watched => ended.values.push(item),
            DhtEvent::Done { op, result } if op == *watched => ended.done = Some(result),
            DhtEvent::Value { .. }
            | DhtEvent::Done { .. }
            | DhtEvent::Peers { .. }
            | DhtEvent::Health { .. } => {}
        }
    }
}
