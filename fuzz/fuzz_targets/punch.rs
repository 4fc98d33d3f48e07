//! Two punchers under sequences of operations, frames of each other and of nobody, and STUN messages. What is read is
//! written the same; no answer of STUN is worth a forged question; whatever peers say, probes stay within their budgets,
//! sockets and connections are bounded, deadlines move on, and an hour of silence later nothing is under way.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use remote_network_core::codec::Frame;
use remote_network_core::id::ConnId;
use remote_network_core::machine::{Cx, Machine as _};
use remote_network_core::path::behaviour::{Allocation, Behaviour, Dependence};
use remote_network_core::path::punch::ledger::{ATTEMPTS_PER_MINUTE, BIRTHDAYS_PER_HOUR};
use remote_network_core::path::punch::message::{CANDIDATES_MAX, Message};
use remote_network_core::path::punch::{ACTIVE_MAX, FIRE_AT, GUESSES_MAX, Input, Output, Puncher, SOCKETS};
use remote_network_core::path::stun;
use remote_network_core::place::{Place, SocketEvent, SocketId, SocketRequest};
use remote_network_core::rng::Rng;
use remote_network_core::time::{Duration, Instant, UnixTime};
use remote_network_fuzz::keys::keypair;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const STEPS_MAX: usize = 200;
const CONNS: u8 = 4;

#[derive(Arbitrary, Debug)]
enum Step {
    Relayed {
        side: bool,
        conn: u8,
        initiator: bool,
        rtt_ms: u16,
    },
    Direct {
        side: bool,
        conn: u8,
        socket: u16,
        port: u16,
    },
    Down {
        side: bool,
        conn: u8,
    },
    Own {
        side: bool,
        nat: u8,
        addrs: Vec<u8>,
    },
    Seen {
        side: bool,
        conn: u8,
        ip: u8,
    },
    Enabled {
        side: bool,
        birthday: bool,
    },
    /// Both sides learn what they need and agree, up to the moment of firing: chance alone hardly gets there.
    Meet {
        conn: u8,
        nats: [u8; 2],
    },
    /// Frames that were said arrive, or are lost.
    Deliver {
        count: u8,
        lose: bool,
    },
    /// Bytes instead of a frame.
    Noise {
        side: bool,
        conn: u8,
        kind: u8,
        body: Vec<u8>,
    },
    /// The last frame, changed in one byte.
    Alter {
        at: u16,
        xor: u8,
    },
    Opened {
        side: bool,
        count: u8,
    },
    Failed {
        side: bool,
    },
    Stun {
        bytes: Vec<u8>,
        whole: bool,
    },
    Wait {
        ms: u16,
    },
}

fn addr(n: u8, port: u16) -> SocketAddr {
    match n % 5 {
        0 => ([203, 0, 113, n], port).into(),
        1 => ([192, 168, 1, n], port).into(),
        2 => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()], port).into(),
        3 => ([127, 0, 0, n], port).into(),
        _ => ([198, 51, 100, n], port).into(),
    }
}

fn behaviour(n: u8, at: SocketAddr) -> Behaviour {
    let dependence = |n: u8| match n % 4 {
        0 => Dependence::Unknown,
        1 => Dependence::EndpointIndependent,
        2 => Dependence::AddressDependent,
        _ => Dependence::AddressAndPortDependent,
    };
    Behaviour {
        mapping: dependence(n),
        filtering: dependence(n / 4),
        allocation: match n / 16 % 4 {
            0 => Allocation::Unknown,
            1 => Allocation::Preserving,
            2 => Allocation::Sequential { step: 1 + i16::from(n / 64) },
            _ => Allocation::Random,
        },
        public_ips: vec![at.ip()],
        next: (n & 1 == 1).then_some(at),
        ..Behaviour::default()
    }
}

struct Side {
    puncher: Puncher,
    rng: Rng,
    opening: BTreeSet<SocketId>,
    open: BTreeSet<SocketId>,
    probes: usize,
    attempts: usize,
}

struct World {
    sides: [Side; 2],
    now: Instant,
    coming: Vec<(usize, ConnId, Frame)>,
}

impl World {
    fn call(&mut self, n: usize, f: impl FnOnce(&mut Puncher, &mut Cx<'_, Output>)) {
        let mut out = Vec::new();
        let side = &mut self.sides[n];
        let wall = UnixTime::from_secs(1_700_000_000);
        f(&mut side.puncher, &mut Cx::new(self.now, wall, &mut side.rng, &mut out));
        for output in out {
            match output {
                Output::Send { conn, frame } => {
                    let message = Message::from_frame(&frame).expect("what we say is understood");
                    let begins = matches!(message, Message::Connect { .. } | Message::Answer { .. });
                    side.attempts += usize::from(begins);
                    self.coming.push((1 - n, conn, frame));
                }
                Output::Probe { socket, .. } => {
                    assert!(
                        socket == SocketId::MAIN || side.open.contains(&socket),
                        "{socket:?} is not open"
                    );
                    side.probes += 1;
                }
                Output::Socket(SocketRequest::Open(socket)) => assert!(side.opening.insert(socket)),
                Output::Socket(SocketRequest::Close(socket)) => {
                    assert!(
                        side.opening.remove(&socket) | side.open.remove(&socket),
                        "closed, and never open"
                    );
                }
                Output::Outcome { .. } | Output::Refused(_) => {}
            }
        }
        let (sockets, conns) = (side.puncher.sockets(), side.puncher.sessions());
        assert_eq!(sockets, side.opening.len() + side.open.len());
        assert!(sockets <= SOCKETS + conns && conns <= usize::from(CONNS));
        assert!(side.puncher.active() <= ACTIVE_MAX);
    }

    fn tell(&mut self, n: usize, input: Input) {
        self.call(n, |p, cx| p.handle(cx, input));
    }

    fn wait(&mut self, by: Duration) {
        let until = self.now + by;
        let mut wakes = 0u64;
        loop {
            let due = |n: usize| self.sides[n].puncher.poll_timeout().map(|d| (d.at, n));
            let Some((at, n)) = [due(0), due(1)].into_iter().flatten().min().filter(|(at, _)| *at <= until)
            else {
                break;
            };
            self.now = self.now.max(at);
            self.call(n, |p, cx| p.handle_timeout(cx));
            let next = self.sides[n].puncher.poll_timeout();
            assert!(next.is_none_or(|d| d.at > self.now), "{next:?}");
            wakes += 1;
            assert!(wakes <= 2 * (by.as_secs() + 60) * 60, "it spins for {next:?}");
        }
        self.now = until;
    }

    fn step(&mut self, step: Step) {
        let which = |conn: u8| ConnId(u64::from(conn % CONNS));
        match step {
            Step::Relayed { side, conn, initiator, rtt_ms } => {
                let (peer, rtt) = (keypair(conn % 2).public(), Duration::from_millis(rtt_ms.into()));
                self.tell(side.into(), Input::Relayed { conn: which(conn), peer, initiator, rtt });
            }
            Step::Direct { side, conn, socket, port } => {
                let n = usize::from(side);
                let open = &self.sides[n].open;
                let which_open = usize::from(socket) % (open.len() + 1);
                let socket = open.iter().nth(which_open).copied().unwrap_or(SocketId::MAIN);
                let place = Place::Direct { socket, addr: addr(conn, port) };
                self.tell(n, Input::Direct { conn: which(conn), place });
            }
            Step::Down { side, conn } => self.tell(side.into(), Input::Down(which(conn))),
            Step::Own { side, nat, addrs } => {
                let candidates: Vec<SocketAddr> =
                    addrs.iter().map(|n| addr(*n, 1_000 + u16::from(*n) * 9)).collect();
                let behaviour = behaviour(nat, candidates.first().copied().unwrap_or(addr(0, 1)));
                self.tell(side.into(), Input::Own { candidates, behaviour });
            }
            Step::Seen { side, conn, ip } => {
                self.tell(side.into(), Input::Seen { conn: which(conn), ip: addr(ip, 1).ip() });
            }
            Step::Enabled { side, birthday } => self.tell(side.into(), Input::Enabled { birthday }),
            Step::Meet { conn, nats } => {
                let conn = which(conn);
                let homes = [addr(5, 4_433), addr(4, 4_433)];
                for (n, nat) in nats.into_iter().enumerate() {
                    let (candidates, behaviour) = (vec![homes[n]], behaviour(nat, homes[n]));
                    self.tell(n, Input::Own { candidates, behaviour });
                    let (peer, rtt) = (keypair(conn.0 as u8 % 2).public(), Duration::from_millis(80));
                    self.coming.clear();
                    self.tell(n, Input::Relayed { conn, peer, initiator: n == 1, rtt });
                    self.tell(n, Input::Seen { conn, ip: homes[1 - n].ip() });
                }
                for _ in 0..3 {
                    for (n, conn, frame) in std::mem::take(&mut self.coming) {
                        self.tell(n, Input::Frame { conn, frame });
                    }
                    self.wait(Duration::from_millis(20));
                }
            }
            Step::Deliver { count, lose } => {
                for _ in 0..count.min(16) {
                    let Some((n, conn, frame)) = (!self.coming.is_empty()).then(|| self.coming.remove(0))
                    else {
                        return;
                    };
                    if !lose {
                        self.tell(n, Input::Frame { conn, frame });
                    }
                }
            }
            Step::Noise { side, conn, kind, body } => {
                let frame = Frame { kind: 0x38 + kind % 4, body };
                if let Ok(message) = Message::from_frame(&frame) {
                    assert_eq!(Message::from_frame(&message.to_frame()), Ok(message));
                }
                self.tell(side.into(), Input::Frame { conn: which(conn), frame });
            }
            Step::Alter { at, xor } => {
                if let Some((_, _, frame)) = self.coming.last_mut() {
                    let at = usize::from(at) % frame.body.len().max(1);
                    frame.body[at] ^= xor;
                }
            }
            Step::Opened { side, count } => {
                for _ in 0..count {
                    let Some(socket) = self.sides[usize::from(side)].opening.pop_first() else { return };
                    self.sides[usize::from(side)].open.insert(socket);
                    let at = SocketEvent::Opened(socket, addr(0, socket.0));
                    self.tell(side.into(), Input::Socket(at));
                }
            }
            Step::Failed { side } => {
                let s = &mut self.sides[usize::from(side)];
                if let Some(socket) = s.open.pop_first().or_else(|| s.opening.pop_first()) {
                    self.tell(side.into(), Input::Socket(SocketEvent::Failed(socket, String::new())));
                }
            }
            Step::Stun { bytes, whole } => stun(bytes, whole),
            Step::Wait { ms } => self.wait(Duration::from_millis(ms.into())),
        }
    }
}

fn stun(mut bytes: Vec<u8>, whole: bool) {
    if whole && bytes.len() >= stun::HEADER_BYTES {
        bytes.truncate(bytes.len() / 4 * 4);
        bytes[0] &= 0x3f;
        let len = (bytes.len() - stun::HEADER_BYTES) as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    }
    for from in [addr(0, 9), addr(2, 9)] {
        if let Ok(answer) = stun::answer(&bytes, from) {
            assert!(stun::is_stun(&bytes) && answer.len() <= stun::AMPLIFICATION_MAX * bytes.len());
            let (_, response) = stun::response(&answer).expect("what we say is understood");
            assert!(
                matches!(response, stun::Response::Refused(420)) || response == stun::Response::Mapped(from)
            );
        }
    }
    if let Ok((id, stun::Response::Mapped(mapped))) = stun::response(&bytes) {
        assert_eq!(stun::response(&stun::success(id, mapped)), Ok((id, stun::Response::Mapped(mapped))));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Unstructured::new(bytes);
    let side = |n: u8| Side {
        puncher: Puncher::default(),
        rng: Rng::from_seed([n; 32]),
        opening: BTreeSet::new(),
        open: BTreeSet::new(),
        probes: 0,
        attempts: 0,
    };
    let mut world = World { sides: [side(0), side(1)], now: Instant::ZERO, coming: Vec::new() };
    for _ in 0..STEPS_MAX {
        let Ok(step) = Step::arbitrary(&mut input) else { break };
        world.step(step);
        if input.is_empty() {
            break;
        }
    }
    // Two peers with six attempts a minute each, and a few sprays of an hour: nobody makes a node send more.
    let minutes = world.now.as_millis() as usize / 60_000 + 1;
    let hours = minutes / 60 + 1;
    for side in &world.sides {
        assert!(side.attempts <= 2 * ATTEMPTS_PER_MINUTE * (minutes + 1), "{} attempts", side.attempts);
        let exact = (FIRE_AT.len() + 1) * CANDIDATES_MAX;
        let windows = 3 * 64;
        let spray = (GUESSES_MAX + 4 * SOCKETS) * BIRTHDAYS_PER_HOUR * (hours + 1);
        assert!(side.probes <= side.attempts * (exact + windows) + spray, "{} probes", side.probes);
    }
    world.coming.clear();
    for _ in 0..2 {
        for conn in 0..CONNS {
            world.tell(0, Input::Down(ConnId(conn.into())));
            world.tell(1, Input::Down(ConnId(conn.into())));
        }
        world.wait(Duration::from_secs(3_600));
    }
    for side in &world.sides {
        assert_eq!(
            (side.puncher.poll_timeout(), side.puncher.sockets(), side.puncher.active()),
            (None, 0, 0)
        );
    }
});
