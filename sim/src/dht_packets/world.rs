//! The network between the nodes: one queue, an access delay for every host, loss, and NATs.

use super::actors::{Actor, Post};
use remote_network_core::dht::krpc::{Config, Input, Krpc, Output, Presence};
use remote_network_core::id::OpId;
use remote_network_core::machine::{Cx, Machine as _};
use remote_network_core::port::{DhtDone, DhtEvent, DhtFailed, DhtRequest, MutableItem};
use remote_network_core::rng::{Rng, derive_seed};
use remote_network_core::time::{Instant, UnixTime};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

const WALL_AT_START: UnixTime = UnixTime::from_secs(1_700_000_000);
const PORT: u16 = 6881;
/// Access delays of hosts, each way, in milliseconds: most are near, some are far.
const ACCESS_MS: [u64; 8] = [4, 8, 12, 20, 30, 45, 70, 110];

/// A NAT's mapping is forgotten when nothing was sent through it for so long.
const HOLE_LIFE: Duration = Duration::from_secs(120);

/// Who lives at a host.
pub enum Guest {
    /// A node of the product.
    Node {
        /// Whether others may know it.
        presence: Presence,
        /// Hosts to join by.
        bootstrap: Vec<u32>,
    },
    /// Somebody else.
    Actor(Box<dyn Actor>),
}

/// Which DHTs a host can take part in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Both,
}

struct Host {
    krpc: Option<Box<Krpc>>,
    /// Before its time has come, and an actor also afterwards.
    guest: Option<Guest>,
    rng: Rng,
    /// IPv4 and IPv6.
    addrs: [Option<SocketAddr>; 2],
    /// To whom a host behind a NAT wrote, and when last; `None`: no NAT.
    holes: Option<BTreeMap<SocketAddr, Instant>>,
    access_ms: u64,
    /// The wake-up that counts; others in the queue are old.
    deadline: Option<Instant>,
}

enum What {
    Join,
    Wake,
    Ask(Box<(OpId, DhtRequest)>),
    Datagram { from: SocketAddr, bytes: Vec<u8> },
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

/// How an operation went, or goes.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its end; `None`: it never ended.
    pub done: Option<Result<DhtDone, DhtFailed>>,
    /// Values on the way.
    pub values: Vec<MutableItem>,
    /// Peers on the way.
    pub peers: BTreeSet<SocketAddr>,
    /// When it began.
    pub began: Instant,
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
    watched: BTreeMap<OpId, Ended>,
    refused: BTreeMap<&'static str, u64>,
    /// Datagrams and bytes sent to an address where nobody lives.
    victim: (Option<SocketAddr>, u64, u64),
}

/// A public address for every number, scattered so that ids made of them (BEP 42) are.
fn addr(n: u32) -> SocketAddr {
    let mixed = n.wrapping_add(1).wrapping_mul(0x9e37_79b1);
    let [a, b, c, d] = mixed.to_be_bytes();
    // First octets 16 to 95: public all of them, whatever follows.
    SocketAddr::from((Ipv4Addr::new(16 + a % 80, b, c, d), PORT))
}

/// The same for IPv6: a /64 for every number.
fn addr6(n: u32) -> SocketAddr {
    let mixed = u128::from(n.wrapping_add(1).wrapping_mul(0x9e37_79b1));
    SocketAddr::from((Ipv6Addr::from(0x2600 << 112 | mixed << 64 | 1), PORT))
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
            watched: BTreeMap::new(),
            refused: BTreeMap::new(),
            victim: (None, 0, 0),
        }
    }

    /// A uniform number.
    pub fn draw_below(&mut self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    /// One more host with a node that will join by the hosts named.
    pub fn join_at(&mut self, at: Duration, bootstrap: Vec<u32>) -> u32 {
        self.settle(at, Reach::V4, false, Guest::Node { presence: Presence::Open, bootstrap })
    }

    /// One more host, whose guest comes at `at`. Its number.
    pub fn settle(&mut self, at: Duration, reach: Reach, behind_nat: bool, guest: Guest) -> u32 {
        let host = self.hosts.len() as u32;
        // Two numbers may meet in one address; the later one looks for another.
        let numbers = (0..).map(|n: u32| host.wrapping_add(n.wrapping_mul(0x0100_0000)));
        let free =
            |of: fn(u32) -> SocketAddr| numbers.clone().map(of).find(|a| !self.by_addr.contains_key(a));
        let addrs = match reach {
            Reach::V4 => [free(addr), None],
            Reach::V6 => [None, free(addr6)],
            Reach::Both => [free(addr), free(addr6)],
        };
        self.settle_at(at, addrs, behind_nat, guest)
    }

    /// The same, at addresses of the caller's choice.
    pub fn settle_at(
        &mut self,
        at: Duration,
        addrs: [Option<SocketAddr>; 2],
        behind_nat: bool,
        guest: Guest,
    ) -> u32 {
        let host = self.hosts.len() as u32;
        self.by_addr.extend(addrs.into_iter().flatten().map(|a| (a, host)));
        let access = self.rng.below(ACCESS_MS.len() as u64) as usize;
        self.hosts.push(Host {
            krpc: None,
            guest: Some(guest),
            rng: Rng::from_seed(derive_seed(&self.seed, &format!("host {host}"))),
            addrs,
            holes: behind_nat.then(BTreeMap::new),
            access_ms: ACCESS_MS.get(access).copied().unwrap_or(1),
            deadline: None,
        });
        self.push(Instant::ZERO + at, host, What::Join);
        host
    }

    /// Somebody else will come to this host in place of whom it was made for.
    pub fn replace(&mut self, host: u32, guest: Guest) {
        if let Some(host) = self.hosts.get_mut(host as usize) {
            host.guest = Some(guest);
        }
    }

    /// Hosts with a node of the product that is there.
    pub fn nodes(&self) -> Vec<u32> {
        let numbered = (0..).zip(&self.hosts);
        numbered.filter(|(_, h)| h.krpc.is_some()).map(|(n, _)| n).collect()
    }

    /// Somebody of those.
    pub fn somebody(&mut self) -> Option<u32> {
        let alive = self.nodes();
        let at = self.rng.below(alive.len() as u64) as usize;
        alive.get(at).copied()
    }

    /// The address of a host.
    pub fn addr_of(&self, host: u32, ipv6: bool) -> Option<SocketAddr> {
        self.host(host)?.addrs.get(usize::from(ipv6)).copied().flatten()
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

    /// A host is gone, without a word.
    pub fn remove(&mut self, host: u32) {
        if let Some(host) = self.hosts.get_mut(host as usize) {
            (host.krpc, host.guest, host.deadline) = (None, None, None);
        }
    }

    /// Tells a node something.
    pub fn tell(&mut self, host: u32, input: Input) {
        self.handle(host, Some(input));
    }

    /// A node will be asked for an operation at `at`, and the operation is watched.
    pub fn ask_at(&mut self, at: Duration, host: u32, request: DhtRequest) -> OpId {
        self.ops += 1;
        let (op, began) = (OpId(self.ops), self.now.max(Instant::ZERO + at));
        let (took, peers) = (Duration::ZERO, BTreeSet::new());
        self.watched.insert(op, Ended { done: None, values: Vec::new(), peers, began, took });
        self.push(began, host, What::Ask(Box::new((op, request))));
        op
    }

    /// Lets time pass until these have ended, but no longer than `within`; how they went.
    pub fn finish(&mut self, ops: &[OpId], within: Duration) -> Vec<Ended> {
        let until = self.now + within;
        let open = |w: &Self| ops.iter().any(|op| w.watched.get(op).is_some_and(|e| e.done.is_none()));
        while open(self) && self.queue.peek().is_some_and(|Reverse(e)| e.at <= until) {
            self.step();
        }
        ops.iter().filter_map(|op| self.watched.remove(op)).collect()
    }

    /// Carries out one operation, while everybody else goes on.
    pub fn operate(&mut self, host: u32, request: DhtRequest, within: Duration) -> Option<Ended> {
        let op = self.ask_at(Duration::ZERO, host, request);
        self.finish(&[op], within).pop()
    }

    /// Counts what is sent to this address from now on.
    pub fn watch_victim(&mut self, addr: SocketAddr) {
        self.victim = (Some(addr), 0, 0);
    }

    /// Datagrams and bytes sent to the victim.
    pub fn victim(&self) -> (u64, u64) {
        (self.victim.1, self.victim.2)
    }

    /// What nodes refused, by reason.
    pub fn refused(&self, why: &str) -> u64 {
        self.refused.get(why).copied().unwrap_or(0)
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

    /// All nodes of the product that are there.
    pub fn alive(&self) -> impl Iterator<Item = &Krpc> {
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
            What::Ask(asked) => {
                let (op, request) = *asked;
                self.handle(event.host, Some(Input::Request { op, request }));
            }
            What::Datagram { from, bytes } => self.arrived(event.host, from, bytes),
        }
    }

    fn arrived(&mut self, n: u32, from: SocketAddr, bytes: Vec<u8>) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(n as usize) else { return };
        let open = |holes: &BTreeMap<SocketAddr, Instant>| {
            holes.get(&from).is_some_and(|at| now.since(*at) < HOLE_LIFE)
        };
        if host.holes.as_ref().is_some_and(|h| !open(h)) {
            return;
        }
        if host.krpc.is_some() {
            return self.handle(n, Some(Input::Datagram { from, bytes: bytes.into() }));
        }
        self.act(n, |actor, post| actor.datagram(post, from, &bytes));
    }

    fn join(&mut self, n: u32) {
        let guest = self.hosts.get_mut(n as usize).and_then(|h| h.guest.take());
        match guest {
            Some(Guest::Node { presence, bootstrap }) => {
                let at = |b: &u32| self.host(*b).map(|h| h.addrs);
                let bootstrap = bootstrap.iter().filter_map(at).flatten().flatten().collect();
                let config = Config { private_networks: false, presence, bootstrap };
                if let Some(host) = self.hosts.get_mut(n as usize) {
                    host.krpc = Some(Box::new(Krpc::new(config)));
                }
                self.handle(n, Some(Input::Start));
            }
            Some(actor @ Guest::Actor(_)) => {
                if let Some(host) = self.hosts.get_mut(n as usize) {
                    host.guest = Some(actor);
                }
                self.act(n, |actor, post| actor.start(post));
            }
            None => {}
        }
    }

    /// Lets an actor do something, and carries out what it asks for.
    fn act(&mut self, n: u32, f: impl FnOnce(&mut dyn Actor, &mut Post<'_>)) {
        let Some(host) = self.hosts.get_mut(n as usize) else { return };
        let (Some(Guest::Actor(actor)), Some(us)) =
            (&mut host.guest, host.addrs.into_iter().flatten().next())
        else {
            return;
        };
        let mut post = Post { us, rng: &mut host.rng, out: Vec::new() };
        f(actor.as_mut(), &mut post);
        for (to, bytes) in post.out {
            self.send(n, to, bytes);
        }
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
                Output::Refused(why) => *self.refused.entry(why).or_default() += 1,
                Output::Table(_) | Output::Observed { .. } => {}
            }
        }
    }

    fn send(&mut self, from: u32, to: SocketAddr, bytes: Vec<u8>) {
        self.packets += 1;
        self.trace.update(&self.now.as_nanos().to_be_bytes()).update(&from.to_be_bytes()).update(&bytes);
        let lost = self.rng.chance_ppm(self.loss_ppm);
        let jitter = self.rng.below(10_000);
        if self.victim.0 == Some(to) {
            self.victim = (Some(to), self.victim.1 + 1, self.victim.2 + bytes.len() as u64);
        }
        let now = self.now;
        let Some(host) = self.hosts.get_mut(from as usize) else { return };
        let Some(source) = host.addrs.get(usize::from(to.is_ipv6())).copied().flatten() else { return };
        if let Some(holes) = &mut host.holes {
            holes.insert(to, now);
        }
        let Some(to) = self.by_addr.get(&to).copied().filter(|_| !lost) else { return };
        let access = |n: u32| self.host(n).map_or(0, |h| h.access_ms);
        let delay = Duration::from_micros((access(from) + access(to)) * 1_000 + jitter);
        self.push(self.now + delay, to, What::Datagram { from: source, bytes });
    }

    fn told(&mut self, event: DhtEvent) {
        let now = self.now;
        match event {
            DhtEvent::Value { op, item } => {
                self.watched.entry(op).and_modify(|e| e.values.push(item));
            }
            DhtEvent::Peers { op, addrs } => {
                self.watched.entry(op).and_modify(|e| e.peers.extend(addrs));
            }
            DhtEvent::Done { op, result } => {
                self.watched.entry(op).and_modify(|e| {
                    (e.done, e.took) = (Some(result), now.since(e.began));
                });
            }
            // No world here has immutable items.
            DhtEvent::Immutable { .. } | DhtEvent::Health { .. } => {}
        }
    }
}
