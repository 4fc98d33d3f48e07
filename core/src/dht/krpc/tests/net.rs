//! A small network in virtual time: nodes that exchange datagrams with latency and loss, in their wire form.

use crate::dht::item;
use crate::dht::krpc::message::{Ask, Body, Outgoing, Put, Signed, read, write_query};
use crate::dht::krpc::{Config, Input, Krpc, Output, Presence};
use crate::id::{DhtId, Keypair, OpId};
use crate::laws::WALL_AT_START;
use crate::machine::{Cx, Machine};
use crate::port::{AnnouncePort, DhtDone, DhtEvent, DhtFailed, DhtRequest, GetMode, MutableItem};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

pub struct Host {
    pub krpc: Krpc,
    rng: Rng,
    deadline: Option<Instant>,
    pub events: Vec<DhtEvent>,
    pub refused: BTreeMap<&'static str, u32>,
    pub observed: Vec<SocketAddr>,
    pub sent: u64,
}

pub struct Net {
    pub now: Instant,
    pub hosts: BTreeMap<SocketAddr, Host>,
    pub loss_ppm: u32,
    pub packets: u64,
    pub trace: blake3::Hasher,
    /// The methods of the queries sent.
    pub seen: Vec<&'static str>,
    rng: Rng,
    queue: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    wakes: BTreeSet<(Instant, SocketAddr)>,
    ops: u64,
}

/// The outcome of an operation.
pub struct Ended {
    pub result: Result<DhtDone, DhtFailed>,
    pub values: Vec<MutableItem>,
    pub peers: BTreeSet<SocketAddr>,
    pub took: Duration,
}

pub fn addr(n: u32) -> SocketAddr {
    (Ipv4Addr::from(0x0a00_0000 + n), 6881).into()
}

pub fn addr6(n: u32) -> SocketAddr {
    (Ipv6Addr::from((0xfd00u128 << 112) + u128::from(n)), 6881).into()
}

/// A public address, scattered so that BEP 42 has something to say.
pub fn public(n: u32) -> SocketAddr {
    let bits = (n + 1).wrapping_mul(0x9e37_79b1);
    (Ipv4Addr::from(0x1000_0000 | bits & 0x0fff_ffff), 6881).into()
}

pub fn config(bootstrap: &[SocketAddr]) -> Config {
    Config { private_networks: true, presence: Presence::Auto, bootstrap: bootstrap.to_vec() }
}

pub fn pair(n: u32) -> Keypair {
    let mut seed = [3; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    Keypair::from_seed(&seed)
}

pub fn signed(n: u32, salt: &[u8], seq: u64, value: &str) -> MutableItem {
    item::sign(&pair(n), salt, seq, Bytes::copy_from_slice(value.as_bytes())).unwrap()
}

pub fn get(n: u32, salt: &'static [u8], mode: GetMode) -> DhtRequest {
    DhtRequest::GetMutable { key: pair(n).public(), salt: Bytes::from_static(salt), mode }
}

pub fn put(item: MutableItem) -> DhtRequest {
    DhtRequest::PutMutable { item, cas: None }
}

pub fn announce(topic: DhtId, port: u16) -> DhtRequest {
    DhtRequest::Announce { topic, port: AnnouncePort::Explicit(port) }
}

impl Net {
    pub fn new(seed: u8) -> Self {
        Self {
            now: Instant::ZERO,
            hosts: BTreeMap::new(),
            loss_ppm: 0,
            packets: 0,
            trace: blake3::Hasher::new(),
            seen: vec![],
            rng: Rng::from_seed([seed; 32]),
            queue: BTreeMap::new(),
            wakes: BTreeSet::new(),
            ops: 0,
        }
    }

    /// `count` nodes of a private network that join, one each 100 ms, by the first one, which knows the second.
    pub fn grown(seed: u8, count: u32) -> Self {
        let mut net = Net::new(seed);
        for n in 0..count {
            net.join(addr(n), config(&[addr(u32::from(n == 0))]));
            net.run(Duration::from_millis(100));
        }
        net.run(Duration::from_secs(120));
        net
    }

    pub fn join(&mut self, at: SocketAddr, config: Config) {
        self.join_with(at, Krpc::new(config));
    }

    pub fn join_with(&mut self, at: SocketAddr, krpc: Krpc) {
        let host = Host {
            krpc,
            rng: Rng::from_seed(self.rng.bytes()),
            deadline: None,
            events: vec![],
            refused: BTreeMap::new(),
            observed: vec![],
            sent: 0,
        };
        self.hosts.insert(at, host);
        self.tell(at, Input::Start);
    }

    /// A host that was elsewhere goes on here.
    pub fn adopt(&mut self, at: SocketAddr, mut host: Host) {
        self.wakes.retain(|(_, a)| *a != at);
        host.deadline = None;
        self.hosts.insert(at, host);
    }

    /// The host is gone, with all it knew.
    pub fn kill(&mut self, at: SocketAddr) {
        self.hosts.remove(&at);
        self.wakes.retain(|(_, a)| *a != at);
    }

    pub fn tell(&mut self, at: SocketAddr, input: Input) {
        self.with(at, |k, cx| k.handle(cx, input));
    }

    fn with(&mut self, at: SocketAddr, f: impl FnOnce(&mut Krpc, &mut Cx<'_, Output>)) {
        let Some(host) = self.hosts.get_mut(&at) else { return };
        let wall = WALL_AT_START.plus(self.now.since(Instant::ZERO));
        let mut out = Vec::new();
        f(&mut host.krpc, &mut Cx::new(self.now, wall, &mut host.rng, &mut out));
        let deadline = host.krpc.poll_timeout().map(|d| d.at);
        if deadline != host.deadline {
            host.deadline.map(|d| self.wakes.remove(&(d, at)));
            deadline.map(|d| self.wakes.insert((d, at)));
            host.deadline = deadline;
        }
        for output in out {
            match output {
                Output::Datagram { to, bytes } => {
                    host.sent += 1;
                    self.packets += 1;
                    self.seen.extend(method(&bytes));
                    self.trace.update(&self.now.as_nanos().to_be_bytes()).update(&bytes);
                    let later = Duration::from_millis(5 + self.rng.below(100));
                    if !self.rng.chance_ppm(self.loss_ppm) {
                        self.queue.insert((self.now + later, self.packets), (to, at, bytes));
                    }
                }
                Output::Event(event) => host.events.push(event),
                Output::Observed { addr, .. } => host.observed.push(addr),
                Output::Refused(why) => *host.refused.entry(why).or_default() += 1,
                Output::Table(bytes) => assert_eq!(bytes, host.krpc.saved()),
            }
        }
    }

    /// The next thing happens, if it happens until then.
    fn step(&mut self, until: Instant) -> bool {
        let packet = self.queue.first_key_value().map(|(k, _)| k.0);
        let wake = self.wakes.first().copied();
        let next = [packet, wake.map(|w| w.0)].into_iter().flatten().min();
        let Some(at) = next.filter(|at| *at <= until) else { return false };
        self.now = self.now.max(at);
        if packet == Some(at) {
            if let Some((_, (to, from, bytes))) = self.queue.pop_first() {
                self.tell(to, Input::Datagram { from, bytes: bytes.into() });
            }
        } else if let Some((_, host)) = wake {
            self.with(host, |k, cx| k.handle_timeout(cx));
        }
        true
    }

    pub fn run(&mut self, by: Duration) {
        let until = self.now + by;
        while self.step(until) {}
        self.now = until;
    }

    /// Time passes until this method is asked.
    pub fn run_to(&mut self, asked: &str) {
        while !self.seen.contains(&asked) {
            self.run(Duration::from_millis(1));
        }
    }

    /// A host's machine stands still for so long, and hears of all deadlines at once.
    pub fn oversleep(&mut self, at: SocketAddr, by: Duration) {
        self.now = self.now + by;
        self.with(at, |k, cx| k.handle_timeout(cx));
    }

    /// Begins an operation at a host.
    pub fn begin(&mut self, at: SocketAddr, request: DhtRequest) -> OpId {
        self.ops += 1;
        let op = OpId(self.ops);
        self.tell(at, Input::Request { op, request });
        op
    }

    /// Carries an operation out and checks that it ends exactly once.
    pub fn operate(&mut self, at: SocketAddr, request: DhtRequest) -> Ended {
        let began = self.now;
        let op = self.begin(at, request);
        let until = self.now + Duration::from_secs(60);
        let is_done =
            |h: &Host| h.events.iter().any(|e| matches!(e, DhtEvent::Done { op: o, .. } if *o == op));
        while !is_done(&self.hosts[&at]) {
            assert!(self.step(until), "an operation does not end");
        }
        let took = self.now.since(began);
        let host = self.hosts.get_mut(&at).unwrap();
        let mut ended =
            Ended { result: Err(DhtFailed::Timeout), values: vec![], peers: BTreeSet::new(), took };
        let mut ends = 0;
        for event in std::mem::take(&mut host.events) {
            match event {
                DhtEvent::Peers { op: o, addrs } if o == op => ended.peers.extend(addrs),
                DhtEvent::Value { op: o, item } if o == op => ended.values.push(item),
                DhtEvent::Done { op: o, result } if o == op => {
                    ended.result = result;
                    ends += 1;
                }
                _ => {}
            }
        }
        assert_eq!(ends, 1, "answered once");
        ended
    }

    pub fn stored(&mut self, at: SocketAddr, item: MutableItem) -> u32 {
        self.operate(at, put(item)).result.unwrap().stored
    }

    /// The newest value of a key that a host finds.
    pub fn newest(&mut self, at: SocketAddr, n: u32, salt: &'static [u8]) -> Option<String> {
        let ended = self.operate(at, get(n, salt, GetMode::MostRecent));
        let newest = ended.values.iter().max_by_key(|i| i.seq)?;
        Some(String::from_utf8(newest.value.to_vec()).unwrap())
    }

    pub fn table_len(&self, at: SocketAddr) -> usize {
        self.hosts[&at].krpc.table_len()
    }

    /// A datagram from outside, and what comes back to its sender within a second.
    pub fn probe(&mut self, to: SocketAddr, from: SocketAddr, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.tell(to, Input::Datagram { from, bytes: Bytes::copy_from_slice(bytes) });
        let mut back = Vec::new();
        self.queue.retain(|_, (t, f, bytes)| {
            let ours = *t == from && *f == to;
            if ours {
                back.push(std::mem::take(bytes));
            }
            !ours
        });
        back
    }

    /// Puts at one node, as a stranger would who has no table.
    pub fn put_at(&mut self, to: SocketAddr, from: SocketAddr, item: &MutableItem) {
        let ask =
            |ask| write_query(7, &Outgoing { id: DhtId([0x55; 20]), read_only: true, want_both: false, ask });
        let target = item::target(&item.key, &item.salt);
        let replies = self.probe(to, from, &ask(Ask::Get { target, newer_than: None }));
        let Some(Body::Reply(reply)) = read(&replies[0]).map(|m| m.body) else { panic!("no reply") };
        let v = crate::dht::krpc::operation::bencoded(&item.value);
        let (key, seq, signature) = (*item.key.as_bytes(), item.seq, item.signature);
        let mutable = Some(Signed { key, seq, signature, salt: &item.salt });
        let put = Put { token: reply.token().unwrap(), v: &v, mutable, cas: None, age: None };
        assert!(matches!(read(&self.probe(to, from, &ask(Ask::Put(put)))[0]).unwrap().body, Body::Reply(_)));
    }

    /// Takes what is on its way to somebody whom the test plays.
    pub fn take_sent(&mut self, to: SocketAddr) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        self.queue.retain(|_, (t, _, bytes)| {
            if *t == to {
                taken.push(std::mem::take(bytes));
            }
            *t != to
        });
        taken
    }

    pub fn refusals(&self, at: SocketAddr, why: &str) -> u32 {
        self.hosts[&at].refused.get(why).copied().unwrap_or(0)
    }
}

fn method(bytes: &[u8]) -> Option<&'static str> {
    let Body::Query(query) = read(bytes)?.body else { return None };
    Some(match query.ask {
        Ask::Ping => "ping",
        Ask::FindNode(_) => "find_node",
        Ask::GetPeers(_) => "get_peers",
        Ask::Announce { .. } => "announce_peer",
        Ask::Get { .. } => "get",
        Ask::Put(_) => "put",
    })
}

/// The same host at another port.
pub fn at_port(addr: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(addr.ip(), port)
}
