//! A thousand clients in one thread: their sockets, their timers, and what they send each other.

use crate::load::{self, Flow, PACKET_BYTES, Span};
use crate::peer::{Delivery, Peer, Route, Stage};
use crate::process;
use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use mio::{Events, Interest, Poll, Token};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef};
use remote_network_core::drive::Arrival;
use remote_network_core::id::PublicKey;
use remote_network_core::place::SocketId;
use remote_network_core::time::Instant;
use remote_network_driver_tokio::Clock;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::io::{ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The relay makes fifty sessions a second after the first hundred; so many are asked for.
const SESSIONS_PER_SECOND: f64 = 45.0;
/// Sessions of a relay take their time.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A pair on which nothing comes for so long has lost what was under way.
const STALLED_AFTER: Duration = Duration::from_millis(250);
/// Most bytes of datagrams that the system joins.
const JOINED_BYTES_MAX: usize = 65_536;

/// The relay as its clients know it.
#[derive(Clone, Copy)]
pub struct Relay {
    pub key: PublicKey,
    pub addr: SocketAddr,
    pub pid: u32,
}

/// What came of sending at fixed rates.
pub struct Paced {
    /// Nanoseconds from when a packet was due to its arrival, by pair.
    pub latencies: Vec<Vec<u64>>,
    pub sent: u64,
    pub seconds: f64,
}

impl Paced {
    /// Of all pairs but those in front.
    pub fn of_pairs(&self, from: usize) -> Vec<u64> {
        self.latencies.iter().skip(from).flatten().copied().collect()
    }

    pub fn arrived(&self) -> Vec<f64> {
        self.latencies.iter().map(|l| l.len() as f64).collect()
    }
}

/// Clients in pairs: the even ones send to the odd ones behind them.
pub struct Swarm {
    pub peers: Vec<Peer>,
    clock: Clock,
    poll: Poll,
    events: Events,
    timers: BTreeSet<(Instant, usize)>,
    dirty: VecDeque<usize>,
    delivered: Vec<Delivery>,
    receive_buf: Vec<u8>,
    arrived: VecDeque<remote_network_core::event::Datagram>,
    send_buf: Vec<u8>,
    packet: Vec<u8>,
    /// Send calls that the system refused.
    pub unsent: u64,
}

impl Swarm {
    pub fn new(clients: usize, ip: IpAddr) -> Result<Self> {
        let (clock, poll) = (Clock::start(), Poll::new()?);
        let mut peers = Vec::new();
        for i in 0..clients {
            let mut peer = Peer::new(i as u64, clock.base(), ip)?;
            poll.registry().register(&mut peer.socket, Token(i), Interest::READABLE)?;
            peers.push(peer);
        }
        Ok(Self {
            peers,
            clock,
            poll,
            events: Events::with_capacity(1_024),
            timers: BTreeSet::new(),
            dirty: VecDeque::new(),
            delivered: Vec::new(),
            receive_buf: vec![0; BATCH_SIZE * JOINED_BYTES_MAX],
            arrived: VecDeque::new(),
            send_buf: Vec::new(),
            packet: vec![0; PACKET_BYTES],
            unsent: 0,
        })
    }

    pub fn pairs(&self) -> usize {
        self.peers.len() / 2
    }

    fn touched(&mut self, i: usize) {
        if !std::mem::replace(&mut self.peers[i].dirty, true) {
            self.dirty.push_back(i);
        }
    }

    /// Takes what came within `wait`, and sends what is to be sent.
    fn turn(&mut self, wait: Duration) -> Result<()> {
        self.flush()?;
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e.into()),
            Ok(()) | Err(_) => {}
        }
        let ready: Vec<usize> = self.events.iter().map(|e| e.token().0).collect();
        for i in ready {
            self.receive(i)?;
        }
        let now = self.clock.now();
        while let Some((at, i)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, i));
            self.peers[i].timer = None;
            self.peers[i].on_time(now);
            self.touched(i);
        }
        self.flush()
    }

    fn receive(&mut self, i: usize) -> Result<()> {
        loop {
            let peer = &mut self.peers[i];
            let mut metas = [RecvMeta::default(); BATCH_SIZE];
            let mut chunks = self.receive_buf.chunks_exact_mut(JOINED_BYTES_MAX);
            let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            let messages = match peer.state.recv(UdpSockRef::from(&peer.socket), &mut slices, &mut metas) {
                Ok(messages) => messages,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e.into()),
            };
            let mut memory = BytesMut::new();
            for (meta, slice) in metas.iter().zip(&slices).take(messages) {
                let arrival = Arrival {
                    socket: SocketId::MAIN,
                    from: meta.addr,
                    to: None,
                    ecn: meta.ecn.map(|ecn| ecn as u8),
                    stride: meta.stride,
                };
                arrival.split_into(&slice[..meta.len], &mut memory, &mut self.arrived);
            }
            let now = self.clock.now();
            for datagram in self.arrived.drain(..) {
                peer.arrived(now, datagram);
            }
            // The socket was empty then; what came since is told anew.
            if messages < BATCH_SIZE {
                break;
            }
        }
        self.touched(i);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        while let Some(i) = self.dirty.pop_front() {
            let now = self.clock.now();
            let peer = &mut self.peers[i];
            peer.dirty = false;
            peer.settle(now, &mut self.delivered).with_context(|| format!("client {i}"))?;
            self.unsent += peer.transmit(now, &mut self.send_buf);
            let due = peer.deadline();
            if due != peer.timer {
                if let Some(old) = peer.timer {
                    self.timers.remove(&(old, i));
                }
                self.timers.extend(due.map(|at| (at, i)));
                peer.timer = due;
            }
        }
        Ok(())
    }

    fn send(&mut self, route: Route, pair: usize, due: u64) -> Result<()> {
        let to = self.peers[2 * pair + 1].key.peer_id();
        load::stamp(&mut self.packet, pair, due);
        self.peers[2 * pair].send(route, to, &self.packet)?;
        self.touched(2 * pair);
        Ok(())
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) -> Result<()> {
        let begun = std::time::Instant::now();
        while !done(self) {
            if begun.elapsed() > READY_WITHIN {
                bail!("{what}: not within {READY_WITHIN:?}");
            }
            self.turn(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// All connect; the odd ones register, the even ones become visitors by writing to them.
    pub fn enter(&mut self, relay: Relay) -> Result<()> {
        let begun = std::time::Instant::now();
        for pair in 0..self.pairs() {
            let (sender, receiver) = (2 * pair, 2 * pair + 1);
            let due = Duration::from_secs_f64(2.0 * pair as f64 / SESSIONS_PER_SECOND);
            self.until("waiting", |_| begun.elapsed() >= due)?;
            for i in [sender, receiver] {
                let now = self.clock.now();
                self.peers[i].call_relay(now, relay.key, relay.addr)?;
                self.touched(i);
            }
            self.until("identity", |s| [sender, receiver].iter().all(|i| s.peers[*i].stage > Stage::Alone))?;
            self.peers[receiver].register()?;
            self.touched(receiver);
            self.until("registration", |s| s.peers[receiver].stage == Stage::Registered)?;
            self.until("datagrams", |s| s.peers[sender].is_ready(Route::Relayed))?;
            self.arrive(Route::Relayed, pair)?;
        }
        let pairs = self.pairs();
        self.until("path MTU", |s| (0..2 * pairs).all(|i| s.peers[i].is_ready(Route::Relayed)))?;
        // What the relay finds out about its own side takes as long.
        self.idle(Duration::from_secs(2))
    }

    /// The senders of all pairs connect to their receivers.
    pub fn meet(&mut self) -> Result<()> {
        for pair in 0..self.pairs() {
            let (now, key, addr) =
                (self.clock.now(), self.peers[2 * pair + 1].key, self.peers[2 * pair + 1].addr);
            self.peers[2 * pair].call_direct(now, &key, addr)?;
            self.touched(2 * pair);
            self.until("a direct connection", |s| s.peers[2 * pair].is_ready(Route::Direct))?;
        }
        self.idle(Duration::from_secs(1))
    }

    /// One packet, seen to arrive.
    fn arrive(&mut self, route: Route, pair: usize) -> Result<()> {
        self.delivered.clear();
        let due = self.clock.now().as_nanos();
        self.send(route, pair, due)?;
        self.until("the first packet", |s| s.delivered.iter().any(|d| d.pair == pair))
    }

    /// Nothing is sent for a while.
    pub fn idle(&mut self, time: Duration) -> Result<()> {
        let end = self.clock.now() + time;
        while self.clock.now() < end {
            self.turn(Duration::from_millis(5))?;
        }
        self.delivered.clear();
        Ok(())
    }

    /// Each of the first `active` pairs keeps `window` packets under way.
    pub fn flood(&mut self, route: Route, active: usize, window: u64, span: Span, pid: u32) -> Result<Flow> {
        let mut under_way = vec![0_u64; active];
        let mut heard = vec![self.clock.now(); active];
        let mut flow = Flow { payload_bytes: 0, seconds: 0.0, cpu_seconds: 0.0, lost: 0 };
        let begin = self.clock.now() + span.warm;
        let end = begin + span.counted;
        let (mut cpu, mut counting_since) = (0.0, None);
        let mut check = self.clock.now();
        self.delivered.clear();
        loop {
            let now = self.clock.now();
            if counting_since.is_none() && now >= begin {
                cpu = process::cpu_seconds(pid)?;
                counting_since = Some(now);
                flow = Flow { payload_bytes: 0, lost: 0, ..flow };
            }
            if now >= end {
                break;
            }
            if now >= check {
                check = now + Duration::from_millis(50);
                for pair in 0..active {
                    if now.since(heard[pair]) > STALLED_AFTER {
                        flow.lost += std::mem::take(&mut under_way[pair]);
                        heard[pair] = now;
                    }
                    for _ in under_way[pair]..window {
                        self.send(route, pair, now.as_nanos())?;
                    }
                    under_way[pair] = window;
                }
            }
            self.turn(Duration::from_millis(1))?;
            for delivery in std::mem::take(&mut self.delivered) {
                let pair = delivery.pair;
                if pair >= active {
                    continue;
                }
                flow.payload_bytes += PACKET_BYTES as u64;
                heard[pair] = Instant::from_nanos(delivery.at);
                self.send(route, pair, delivery.at)?;
            }
        }
        flow.seconds = self.clock.now().since(counting_since.unwrap_or(begin)).as_secs_f64();
        flow.cpu_seconds = process::cpu_seconds(pid)? - cpu;
        self.idle(Duration::from_millis(700))?;
        Ok(flow)
    }

    /// Each pair sends its number of packets a second, whatever comes of them.
    pub fn pace(&mut self, route: Route, rates: &[f64], span: Span) -> Result<Paced> {
        let start = self.clock.now().as_nanos() + 1_000_000;
        let begin = start + span.warm.as_nanos() as u64;
        let end = begin + span.counted.as_nanos() as u64;
        let gaps: Vec<u64> = rates.iter().map(|r| (1e9 / r.max(1e-3)) as u64).collect();
        let pairs = rates.len() as u64;
        let mut due: BinaryHeap<Reverse<(u64, usize)>> = (0..rates.len())
            .filter(|pair| rates[*pair] > 0.0)
            .map(|pair| Reverse((start + gaps[pair] * pair as u64 / pairs, pair)))
            .collect();
        let mut latencies = vec![Vec::new(); rates.len()];
        let mut sent = 0;
        self.delivered.clear();
        // What was sent last may take its time to arrive.
        let last = end + 600_000_000;
        loop {
            let now = self.clock.now().as_nanos();
            if now >= last {
                break;
            }
            while let Some(Reverse((at, pair))) = due.peek().copied().filter(|Reverse((at, _))| *at <= now) {
                due.pop();
                if at >= end {
                    continue;
                }
                sent += u64::from(at >= begin);
                self.send(route, pair, at)?;
                due.push(Reverse((at + gaps[pair], pair)));
            }
            // Whole milliseconds are all that the system waits for.
            let free = due.peek().map_or(5_000_000, |Reverse((at, _))| at.saturating_sub(now));
            self.turn(Duration::from_millis((free / 1_000_000).min(5)))?;
            for d in self.delivered.drain(..) {
                if d.sent >= begin && d.sent < end {
                    latencies[d.pair].push(d.at.saturating_sub(d.sent));
                }
            }
        }
        Ok(Paced { latencies, sent, seconds: span.counted.as_secs_f64() })
    }
}
