//! The room of paths under sequences of operations: probes that are right, forged, replayed and from elsewhere, hints of
//! victims, relays that come and go, silence, time.
//!
//! The target keeps its own account of what was proven: a direct place is used only if the handshake went by it or a full
//! ping to it was answered from there. What goes to an IP address that never answered stays within its allowance. Probes and
//! candidates that are read are written back as they came.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use remote_network_core::id::{ConnId, PeerId};
use remote_network_core::machine::{Cx, Machine as _};
use remote_network_core::path::budget::{
    BURST_PER_MINUTE_MAX, BURST_PER_SECOND_MAX, PER_MINUTE_MAX, PER_SECOND_MAX,
};
use remote_network_core::path::paths::{FLIGHTS_MAX, Input, LINES_MAX, Output, PLACES_MAX, Paths, TRIED_MAX};
use remote_network_core::path::probe::{PROBE_BYTES, Probe, ProbeKeys};
use remote_network_core::place::{Place, SocketId, TunnelId};
use remote_network_core::rng::Rng;
use remote_network_core::time::{Duration, Instant, UnixTime};
use remote_network_fuzz::keys::keypair;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

const CONNS: u8 = 4;

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Where {
    Direct { socket: u8, host: u8, port: u8 },
    Relayed(u8),
    Tunnel(u8),
}

#[derive(Arbitrary, Debug)]
enum Step {
    Up {
        conn: u8,
        place: Where,
        rtt_ms: u16,
    },
    Down {
        conn: u8,
    },
    /// Bytes from somebody.
    Noise {
        from: Where,
        bytes: Vec<u8>,
    },
    /// A ping of the peer, perhaps one of before.
    Ping {
        conn: u8,
        from: Where,
        back: u8,
        flags: u8,
        full: bool,
    },
    /// The peer answers one of the last pings, perhaps from elsewhere, perhaps with a bit changed.
    Pong {
        conn: u8,
        which: u8,
        from: Option<Where>,
        flip: Option<u16>,
    },
    ProbeAt {
        conn: u8,
        socket: u8,
        host: u8,
        port: u8,
        urgent: bool,
    },
    Places {
        conn: u8,
        places: Vec<Where>,
    },
    Silent {
        conn: u8,
    },
    Moved {
        conn: u8,
        place: Where,
        bytes: u16,
    },
    Rtt {
        conn: u8,
        rtt_ms: u16,
    },
    Traffic {
        conn: u8,
    },
    Gone {
        place: Where,
    },
    SocketGone {
        socket: u8,
    },
    NetworkChanged,
    CandidatesChanged {
        conn: Option<u8>,
    },
    Keepalive {
        s: u8,
    },
    Wait {
        ms: u16,
    },
    WaitLong {
        s: u16,
    },
    /// The machine stands still and hears of all deadlines at once.
    Oversleep {
        s: u8,
    },
}

fn addr(host: u8, port: u8) -> SocketAddr {
    let port = u16::from(port % 40);
    match host % 8 {
        0 => ([192, 168, 1, host], port).into(),
        1 => ([0x2001, 0xdb8, 0, u16::from(host), 0, 0, 0, 1], port).into(),
        2 => ([224, 0, 0, 1], port).into(),
        3 => ([0, 0, 0, 0, 0, 0xffff, 0xcb00, 0x7100 + u16::from(host)], port).into(),
        _ => ([203, 0, 113, host], port).into(),
    }
}

fn place(of: Where) -> Place {
    match of {
        Where::Direct { socket, host, port } => {
            Place::Direct { socket: SocketId(u16::from(socket % 3)), addr: addr(host, port) }
        }
        Where::Relayed(relay) => Place::Relayed { relay: conn(relay), peer: PeerId([9; 20]) },
        Where::Tunnel(n) => Place::Tunnel(TunnelId(u64::from(n % 2))),
    }
}

/// In the form in which the machine speaks of it.
fn canonical(place: Place) -> Place {
    match place {
        Place::Direct { socket, addr } => {
            Place::Direct { socket, addr: SocketAddr::new(addr.ip().to_canonical(), addr.port()) }
        }
        Place::Relayed { .. } | Place::Tunnel(_) => place,
    }
}

fn conn(n: u8) -> ConnId {
    ConnId(u64::from(n % CONNS))
}

/// Our keys of a connection, and those of its peer.
fn keys(n: u8) -> (ProbeKeys, ProbeKeys) {
    let (us, peer, secret) = (keypair(0).public(), keypair(1).public(), [n % CONNS; 32]);
    (ProbeKeys::derive(&secret, &us, &peer), ProbeKeys::derive(&secret, &peer, &us))
}

struct World {
    paths: Paths,
    rng: Rng,
    now: Instant,
    keys: Vec<(ProbeKeys, ProbeKeys)>,
    /// Of each connection, the last pings that went out: to where, nonce, full.
    pings: BTreeMap<ConnId, Vec<(Place, [u8; 8], bool)>>,
    counts: BTreeMap<ConnId, u32>,
    proven: BTreeSet<(ConnId, Place)>,
    answered: BTreeSet<IpAddr>,
    bursts: BTreeSet<IpAddr>,
    sent: BTreeMap<IpAddr, Vec<Instant>>,
}

impl World {
    fn call(&mut self, f: impl FnOnce(&mut Paths, &mut Cx<'_, Output>)) {
        let mut out = Vec::new();
        let wall = UnixTime::from_secs(1_700_000_000);
        f(&mut self.paths, &mut Cx::new(self.now, wall, &mut self.rng, &mut out));
        for output in out {
            match output {
                Output::Send { socket, to, bytes } => self.sent(socket, to, &bytes),
                Output::Use { conn, place: used, .. } => {
                    assert!(!used.is_direct() || self.proven.contains(&(conn, used)), "{used} is not proven");
                }
                Output::Validated { conn, place: valid, .. } => assert!(self.proven.contains(&(conn, valid))),
                Output::Observed { .. }
                | Output::Lost(_)
                | Output::WantPunch(_)
                | Output::Changed(_)
                | Output::Refused(_) => {}
            }
        }
        let (places, flights, tried) = self.paths.fill();
        assert!(places <= PLACES_MAX && flights <= FLIGHTS_MAX && tried <= TRIED_MAX);
        assert!(self.paths.len() <= LINES_MAX.min(usize::from(CONNS)));
        for n in 0..CONNS {
            assert!(self.paths.view(conn(n)).is_none_or(|view| view.tried.len() <= TRIED_MAX));
        }
    }

    fn sent(&mut self, socket: SocketId, to: SocketAddr, bytes: &Bytes) {
        let read = self.keys.iter().enumerate().find_map(|(n, (_, peer))| Some((n, peer.open(bytes).ok()?)));
        let (n, probe) = read.expect("what we write the peer can read");
        if let Probe::Ping { nonce, full, .. } = probe {
            let pings = self.pings.entry(conn(n as u8)).or_default();
            pings.push((Place::Direct { socket, addr: to }, nonce, full));
            if pings.len() > 32 {
                pings.remove(0);
            }
        }
        if self.answered.contains(&to.ip()) {
            return;
        }
        assert_eq!(bytes.len(), PROBE_BYTES, "what is not proven gets small ones");
        let sent = self.sent.entry(to.ip()).or_default();
        sent.push(self.now);
        let within = |span: u64| {
            sent.iter().rev().filter(|at| self.now.since(**at) < Duration::from_secs(span)).count()
        };
        let burst = u32::from(self.bursts.contains(&to.ip()));
        assert!(within(1) <= (PER_SECOND_MAX + burst * BURST_PER_SECOND_MAX) as usize);
        assert!(within(60) <= (PER_MINUTE_MAX + burst * BURST_PER_MINUTE_MAX) as usize);
    }

    fn input(&mut self, input: Input) {
        self.call(|paths, cx| paths.handle(cx, input));
    }

    fn wait(&mut self, by: Duration) {
        let until = self.now + by;
        let mut wakes = 0;
        while let Some(deadline) = self.paths.poll_timeout().filter(|d| d.at <= until) {
            self.now = self.now.max(deadline.at);
            self.call(|paths, cx| paths.handle_timeout(cx));
            assert!(self.paths.poll_timeout().is_none_or(|d| d.at > self.now), "{deadline:?}");
            wakes += 1;
            assert!(
                wakes <= by.as_secs() * u64::from(CONNS) + 2_000,
                "{wakes} in {by:?}, now for {deadline:?}"
            );
        }
        self.now = until;
    }

    /// The handshake proves the place it went by. What was proven of a connection before it is another's.
    fn up(&mut self, n: u8, at: Where, rtt_ms: u16) {
        let at = canonical(place(at));
        let id = conn(n);
        self.proven.retain(|(of, _)| *of != id);
        self.pings.remove(&id);
        self.counts.remove(&id);
        self.proven.insert((id, at));
        self.answered.extend(at.addr().map(|a| a.ip()));
        let keys = self.keys[usize::from(n % CONNS)].0.clone();
        self.input(Input::Up { conn: id, keys, place: at, rtt: Duration::from_millis(u64::from(rtt_ms)) });
    }

    fn ping(&mut self, n: u8, from: Where, back: u8, flags: u8, full: bool) {
        let count = self.counts.entry(conn(n)).or_default();
        *count += 1;
        let probe =
            Probe::Ping { nonce: [back; 8], count: count.saturating_sub(u32::from(back)), flags, full };
        let bytes = self.keys[usize::from(n % CONNS)].1.seal(&probe);
        self.input(Input::Probe { place: place(from), bytes });
    }

    fn pong(&mut self, n: u8, which: u8, from: Option<Where>, flip: Option<u16>) {
        let id = conn(n);
        let pings = self.pings.get(&id).map_or(&[][..], Vec::as_slice);
        let Some((to, nonce, full)) = pings.iter().rev().nth(usize::from(which % 32)).copied() else {
            return;
        };
        let probe = Probe::Pong { nonce, observed: addr(which, 1) };
        let mut bytes = self.keys[usize::from(n % CONNS)].1.seal(&probe).to_vec();
        let at = flip.map(|bit| usize::from(bit) % (bytes.len() * 8));
        if let Some(bit) = at {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let from = from.map_or(to, |from| canonical(place(from)));
        if at.is_none() && from == to {
            self.answered.extend(to.addr().map(|a| a.ip()));
            if full {
                self.proven.insert((id, to));
            }
        }
        self.input(Input::Probe { place: from, bytes: bytes.into() });
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Up { conn, place, rtt_ms } => self.up(conn, place, rtt_ms),
            Step::Down { conn: n } => self.input(Input::Down(conn(n))),
            Step::Noise { from, bytes } => {
                self.input(Input::Probe { place: place(from), bytes: bytes.into() });
            }
            Step::Ping { conn, from, back, flags, full } => self.ping(conn, from, back, flags, full),
            Step::Pong { conn, which, from, flip } => self.pong(conn, which, from, flip),
            Step::ProbeAt { conn: n, socket, host, port, urgent } => {
                let addr = addr(host, port);
                if urgent {
                    self.bursts.insert(addr.ip().to_canonical());
                }
                let socket = SocketId(u16::from(socket % 3));
                self.input(Input::ProbeAt { conn: conn(n), socket, addr, urgent });
            }
            Step::Places { conn: n, places } => {
                let places = places.into_iter().take(20).map(place).collect();
                self.input(Input::Places { conn: conn(n), places });
            }
            Step::Silent { conn: n } => self.input(Input::Silent(conn(n))),
            Step::Moved { conn: n, place: at, bytes } => {
                self.input(Input::Moved { conn: conn(n), place: place(at), bytes: bytes.into() })
            }
            Step::Rtt { conn: n, rtt_ms } => {
                self.input(Input::Rtt { conn: conn(n), rtt: Duration::from_millis(u64::from(rtt_ms)) });
            }
            Step::Traffic { conn: n } => self.input(Input::Traffic(conn(n))),
            Step::Gone { place: at } => self.input(Input::Gone(place(at))),
            Step::SocketGone { socket } => self.input(Input::SocketGone(SocketId(u16::from(socket % 3)))),
            Step::NetworkChanged => self.input(Input::NetworkChanged),
            Step::CandidatesChanged { conn: n } => self.input(Input::CandidatesChanged(n.map(conn))),
            Step::Keepalive { s } => self.input(Input::Keepalive(Duration::from_secs(u64::from(s)))),
            Step::Wait { ms } => self.wait(Duration::from_millis(u64::from(ms))),
            Step::WaitLong { s } => self.wait(Duration::from_secs(u64::from(s % 8_000))),
            Step::Oversleep { s } => {
                self.now = self.now + Duration::from_secs(u64::from(s % 60));
                self.call(|paths, cx| paths.handle_timeout(cx));
            }
        }
    }
}

/// What a peer seals is read as it was, whatever the bytes were.
fn codec(bytes: &[u8]) {
    let (ours, peers) = keys(0);
    if let Ok(probe) = ours.open(bytes) {
        assert_eq!(peers.seal(&probe), bytes);
    }
}

fuzz_target!(|bytes: &[u8]| {
    codec(bytes);
    let mut input = Unstructured::new(bytes);
    let mut world = World {
        paths: Paths::default(),
        rng: Rng::from_seed([7; 32]),
        now: Instant::ZERO,
        keys: (0..CONNS).map(keys).collect(),
        pings: BTreeMap::new(),
        counts: BTreeMap::new(),
        proven: BTreeSet::new(),
        answered: BTreeSet::new(),
        bursts: BTreeSet::new(),
        sent: BTreeMap::new(),
    };
    for _ in 0..300 {
        if input.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut input) else { break };
        world.step(step);
    }
    world.wait(Duration::from_secs(3_600));
    for n in 0..CONNS {
        world.input(Input::Down(conn(n)));
    }
    assert!(world.paths.is_empty() && world.paths.poll_timeout().is_none(), "it comes to rest");
});
