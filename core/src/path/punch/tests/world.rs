//! Two punchers, each behind a NAT of its own, a relay between them, and three servers that tell each what they see.

use crate::codec::{Frame, FrameReader};
use crate::id::ConnId;
use crate::laws::WALL_AT_START;
use crate::machine::{Cx, Machine};
use crate::path::behaviour::{self, Behaviour, Dependence, Observer};
use crate::path::punch::{Input, Output, PunchResult, Puncher, message};
use crate::place::{Place, SocketEvent, SocketId, SocketRequest};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

pub const CONN: ConnId = ConnId(7);
const RELAY_DELAY: Duration = Duration::from_millis(40);
const DIRECT_DELAY: Duration = Duration::from_millis(15);
const OPEN_DELAY: Duration = Duration::from_millis(1);

#[derive(Clone)]
pub enum Ports {
    Preserving,
    Sequential(u16),
    Random,
}

/// A NAT in the terms of RFC 4787.
#[derive(Clone)]
pub struct Nat {
    is_open: bool,
    mapping: Dependence,
    filtering: Dependence,
    ports: Ports,
    ip: IpAddr,
    last: u16,
    /// (inside, what of the destination counts) to port.
    mapped: BTreeMap<(SocketAddr, Option<SocketAddr>), u16>,
    /// Port to inside, and whom it wrote to.
    table: BTreeMap<u16, (SocketAddr, BTreeSet<SocketAddr>)>,
}

impl Nat {
    pub fn new(mapping: Dependence, filtering: Dependence, ports: Ports) -> Self {
        Self {
            is_open: false,
            mapping,
            filtering,
            ports,
            ip: [0; 4].into(),
            last: 20_000,
            mapped: BTreeMap::new(),
            table: BTreeMap::new(),
        }
    }

    pub fn open() -> Self {
        let mut nat =
            Self::new(Dependence::EndpointIndependent, Dependence::EndpointIndependent, Ports::Random);
        nat.is_open = true;
        nat
    }

    /// A packet leaves: where it comes from, outside.
    fn out(&mut self, rng: &mut Rng, inside: SocketAddr, to: SocketAddr) -> SocketAddr {
        if self.is_open {
            return inside;
        }
        let counts = match self.mapping {
            Dependence::AddressAndPortDependent => Some(to),
            Dependence::AddressDependent => Some(SocketAddr::new(to.ip(), 0)),
            Dependence::EndpointIndependent | Dependence::Unknown => None,
        };
        let port = match self.mapped.get(&(inside, counts)) {
            Some(port) => *port,
            None => {
                let port = self.allocate(rng, inside.port());
                self.mapped.insert((inside, counts), port);
                self.table.insert(port, (inside, BTreeSet::new()));
                port
            }
        };
        if let Some((_, written)) = self.table.get_mut(&port) {
            written.insert(to);
        }
        SocketAddr::new(self.ip, port)
    }

    fn allocate(&mut self, rng: &mut Rng, inside: u16) -> u16 {
        loop {
            let port = match self.ports {
                Ports::Preserving if !self.table.contains_key(&inside) => inside,
                Ports::Sequential(step) => {
                    self.last += step;
                    self.last
                }
                Ports::Preserving | Ports::Random => 1_024 + rng.below(64_512) as u16,
            };
            if !self.table.contains_key(&port) {
                return port;
            }
        }
    }

    /// A packet arrives: whom it reaches.
    fn come_in(&self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        if self.is_open {
            return Some(to);
        }
        let (inside, written) = self.table.get(&to.port())?;
        let passes = match self.filtering {
            Dependence::EndpointIndependent => true,
            Dependence::AddressDependent => written.iter().any(|w| w.ip() == from.ip()),
            Dependence::AddressAndPortDependent | Dependence::Unknown => written.contains(&from),
        };
        passes.then_some(*inside)
    }
}

struct Side {
    puncher: Puncher,
    rng: Rng,
    nat: Nat,
    lan: IpAddr,
    sockets: BTreeMap<SocketId, SocketAddr>,
    asked: usize,
    direct: Option<Place>,
    written: BTreeSet<(SocketId, SocketAddr)>,
    probes: Vec<Instant>,
    connects: usize,
    results: Vec<PunchResult>,
}

enum Happening {
    Frame(usize, Frame),
    /// From outside to outside; a question or an answer.
    Packet {
        from: SocketAddr,
        to: SocketAddr,
        is_answer: bool,
    },
    Opened(usize, SocketId),
}

pub struct World {
    now: Instant,
    rng: Rng,
    sides: [Side; 2],
    coming: BTreeMap<(Instant, u64), Happening>,
    count: u64,
    loss_ppm: u32,
}

impl World {
    pub fn new(a: Nat, b: Nat, seed: [u8; 32]) -> Self {
        let side = |n: u8, nat: Nat| Side {
            puncher: Puncher::default(),
            rng: Rng::derive(&seed, &format!("puncher {n}")),
            nat,
            lan: [192, 168, n, 2].into(),
            sockets: BTreeMap::new(),
            asked: 0,
            direct: None,
            written: BTreeSet::new(),
            probes: Vec::new(),
            connects: 0,
            results: Vec::new(),
        };
        let mut world = Self {
            now: Instant::from_millis(1_000),
            rng: Rng::derive(&seed, "world"),
            sides: [side(1, a), side(2, b)],
            coming: BTreeMap::new(),
            count: 0,
            loss_ppm: 0,
        };
        for n in 0..2 {
            let nat = world.sides[n].nat.clone();
            world.settle_in(n, nat, [203, 0, 113, 1 + n as u8].into());
        }
        world
    }

    /// A side is behind this NAT from now on, and learns what it does.
    fn settle_in(&mut self, n: usize, mut nat: Nat, ip: IpAddr) {
        nat.ip = ip;
        nat.last = 20_000 + self.rng.below(10_000) as u16;
        let side = &mut self.sides[n];
        if nat.is_open {
            side.lan = ip;
        }
        side.nat = nat;
        side.direct = None;
        side.sockets.insert(SocketId::MAIN, SocketAddr::new(side.lan, 4_433));
        let (candidates, behaviour) = self.look_around(n);
        for seen_by in 0..2 {
            if seen_by != n {
                self.tell(seen_by, Input::Seen { conn: CONN, ip });
            }
        }
        self.tell(n, Input::Own { candidates, behaviour });
    }

    fn look_around(&mut self, n: usize) -> (Vec<SocketAddr>, Behaviour) {
        let Self { rng, sides, .. } = self;
        let side = &mut sides[n];
        let inside = side.sockets[&SocketId::MAIN];
        let mut observer = Observer::default();
        let (mut out, mut r) = (Vec::new(), Rng::from_seed([0; 32]));
        let mut cx = Cx::new(self.now, WALL_AT_START, &mut r, &mut out);
        observer.handle(&mut cx, behaviour::Input::LocalAddrs(vec![inside]));
        let mut candidates = Vec::new();
        for server in 1..=4u8 {
            let by = SocketAddr::from(([198, 51, 100, server], 3_478));
            let mapped = side.nat.out(rng, inside, by);
            observer.handle(&mut cx, behaviour::Input::Observed { by, socket: SocketId::MAIN, mapped });
            if !candidates.contains(&mapped) {
                candidates.push(mapped);
            }
        }
        if side.nat.filtering != Dependence::AddressAndPortDependent {
            let same_ip = side.nat.filtering == Dependence::AddressDependent;
            observer.handle(&mut cx, behaviour::Input::DialledBack { same_ip, arrived: true });
        }
        candidates.push(inside);
        (candidates, observer.behaviour().clone())
    }

    pub fn lose(&mut self, ppm: u32) {
        self.loss_ppm = ppm;
    }

    /// Both are told that they are relayed; the first begins.
    pub fn begin(&mut self) {
        self.relayed([true, false]);
    }

    /// Both are told that they begin.
    pub fn begin_both(&mut self) {
        self.relayed([true, true]);
    }

    fn relayed(&mut self, initiators: [bool; 2]) {
        for n in [1, 0] {
            self.sides[n].direct = None;
            self.sides[n].written.clear();
            let (rtt, initiator) = (RELAY_DELAY * 2, initiators[n]);
            self.tell(n, Input::Relayed { conn: CONN, peer: super::key(1 - n as u8), initiator, rtt });
            let ip = self.sides[1 - n].nat.ip;
            self.tell(n, Input::Seen { conn: CONN, ip });
        }
    }

    pub fn move_to(&mut self, n: usize, nat: Nat) {
        self.settle_in(n, nat, [203, 0, 113, 100 + n as u8].into());
    }

    pub fn machine(&self, n: usize) -> &Puncher {
        &self.sides[n].puncher
    }

    pub fn result(&self, n: usize) -> Option<PunchResult> {
        self.sides[n].results.last().copied()
    }

    pub fn probes(&self, n: usize) -> usize {
        self.sides[n].probes.len()
    }

    pub fn most_probes_in_a_second(&self, n: usize, from: usize) -> usize {
        let times = &self.sides[n].probes[from..];
        let within =
            |at: Instant| times.iter().filter(|t| **t >= at && t.since(at) < Duration::from_secs(1)).count();
        times.iter().step_by(16).map(|at| within(*at)).max().unwrap_or(0)
    }

    pub fn connects(&self, n: usize) -> usize {
        self.sides[n].connects
    }

    /// Sockets open beside the main one.
    pub fn sockets(&self, n: usize) -> usize {
        let open = self.sides[n].sockets.len() - 1;
        assert!(open <= self.sides[n].puncher.sockets());
        open
    }

    pub fn sockets_asked(&self, n: usize) -> usize {
        self.sides[n].asked
    }

    fn later(&mut self, delay: Duration, what: Happening) {
        self.count += 1;
        self.coming.insert((self.now + delay, self.count), what);
    }

    pub fn tell(&mut self, n: usize, input: Input) {
        let mut out = Vec::new();
        let side = &mut self.sides[n];
        side.puncher.handle(&mut Cx::new(self.now, WALL_AT_START, &mut side.rng, &mut out), input);
        self.follow(n, out);
    }

    fn follow(&mut self, n: usize, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { frame, .. } => {
                    self.sides[n].connects += usize::from(frame.kind == message::KIND_CONNECT);
                    let mut wire = FrameReader::default();
                    wire.push(&frame.encode());
                    let frame = wire.next_frame().unwrap().unwrap();
                    self.later(RELAY_DELAY, Happening::Frame(1 - n, frame));
                }
                Output::Probe { socket, to, .. } => {
                    self.sides[n].probes.push(self.now);
                    self.sides[n].written.insert((socket, to));
                    self.send(n, socket, to, false);
                }
                Output::Socket(SocketRequest::Open(socket)) => {
                    self.sides[n].asked += 1;
                    self.later(OPEN_DELAY, Happening::Opened(n, socket));
                }
                Output::Socket(SocketRequest::Close(socket)) => {
                    self.sides[n].sockets.remove(&socket);
                }
                Output::Outcome { result, .. } => self.sides[n].results.push(result),
                Output::Refused(_) => {}
            }
        }
    }

    fn send(&mut self, n: usize, socket: SocketId, to: SocketAddr, is_answer: bool) {
        let side = &mut self.sides[n];
        let Some(inside) = side.sockets.get(&socket) else { return };
        let from = side.nat.out(&mut self.rng, *inside, to);
        if !self.rng.chance_ppm(self.loss_ppm) {
            self.later(DIRECT_DELAY, Happening::Packet { from, to, is_answer });
        }
    }

    fn arrived(&mut self, from: SocketAddr, to: SocketAddr, is_answer: bool) {
        let Some(n) = self.sides.iter().position(|s| s.nat.ip == to.ip()) else { return };
        let Some(inside) = self.sides[n].nat.come_in(from, to) else { return };
        let at = self.sides[n].sockets.iter().find(|(_, addr)| **addr == inside).map(|(socket, _)| *socket);
        let Some(socket) = at else { return };
        if !is_answer {
            self.send(n, socket, from, true);
            // The room of paths answers, and asks back where it has not asked yet.
            if self.sides[n].direct.is_none() {
                self.sides[n].written.insert((socket, from));
                self.send(n, socket, from, false);
            }
        } else if self.sides[n].direct.is_none() && self.sides[n].written.contains(&(socket, from)) {
            let place = Place::Direct { socket, addr: from };
            self.sides[n].direct = Some(place);
            self.tell(n, Input::Direct { conn: CONN, place });
        }
    }

    pub fn run(&mut self, by: Duration) {
        let until = self.now + by;
        loop {
            let due = |n: usize| self.sides[n].puncher.poll_timeout().map(|d| (d.at, n));
            let timer = [due(0), due(1)].into_iter().flatten().min();
            let coming = self.coming.first_key_value().map(|((at, _), _)| *at);
            let next = timer.map(|(at, _)| at).into_iter().chain(coming).min();
            let Some(at) = next.filter(|at| *at <= until) else { break };
            self.now = self.now.max(at);
            if coming.is_some_and(|c| timer.is_none_or(|(t, _)| c <= t)) {
                let Some((_, what)) = self.coming.pop_first() else { break };
                match what {
                    Happening::Frame(n, frame) => self.tell(n, Input::Frame { conn: CONN, frame }),
                    Happening::Packet { from, to, is_answer } => self.arrived(from, to, is_answer),
                    Happening::Opened(n, socket) => self.opened(n, socket),
                }
            } else if let Some((_, n)) = timer {
                let mut out = Vec::new();
                let side = &mut self.sides[n];
                let mut cx = Cx::new(self.now, WALL_AT_START, &mut side.rng, &mut out);
                side.puncher.handle_timeout(&mut cx);
                self.follow(n, out);
            }
        }
        self.now = until;
    }

    fn opened(&mut self, n: usize, socket: SocketId) {
        if !self.sides[n].puncher.sockets.contains_key(&socket) {
            return;
        }
        let local = SocketAddr::new(self.sides[n].lan, 10_000 + socket.0 % 20_000);
        self.sides[n].sockets.insert(socket, local);
        self.tell(n, Input::Socket(SocketEvent::Opened(socket, local)));
    }
}
