//! A relay and one of its clients under sequences of operations: peers that come, move and go, frames and datagrams that were
//! made for them and such that were not, receivers without room, the operator, time. What one datagram brings about is
//! bounded, packets come out as they went in and only where they may, sessions and queues stay within their limits,
//! accounts add up to what was passed on, deadlines move on.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use remote_network_core::codec::Frame;
use remote_network_core::id::{ConnId, PublicKey};
use remote_network_core::machine::{Cx, Machine};
use remote_network_core::relay::client::{self, CANDIDATES_MAX, Client};
use remote_network_core::relay::errand::{Answer, Ask, KIND_ANSWER, KIND_ASK};
use remote_network_core::relay::message::Message;
use remote_network_core::relay::server::{self, Config, QUEUE_BYTES_MAX, Room, Server};
use remote_network_core::relay::wire::{
    Cutter, DATAGRAM_BYTES_MAX, Direction, Fragmenter, Header, PACKET_BYTES_MAX, PARTIAL_BYTES_MAX,
    PARTIALS_MAX, Reassembler,
};
use remote_network_core::rng::Rng;
use remote_network_core::time::{Duration, Instant, UnixTime};
use remote_network_fuzz::keys::{COUNT, keypair};
use std::net::SocketAddr;

/// What is read as an errand is written as it was read.
fn errand_frames(frame: &Frame) {
    let like = |kind| Frame { kind, body: frame.body.clone() };
    if let Ok(ask) = Ask::from_frame(&like(KIND_ASK)) {
        assert_eq!(Ask::from_frame(&ask.to_frame()), Ok(ask));
    }
    if let Ok(answer) = Answer::from_frame(&like(KIND_ANSWER)) {
        assert_eq!(Answer::from_frame(&answer.to_frame()), Ok(answer));
    }
}

const STEPS_MAX: usize = 300;
const SESSIONS_MAX: usize = 5;
/// A deadline that comes again and again within one wait is a spin.
const WAKES_MAX: usize = 5_000;

#[derive(Arbitrary, Debug)]
enum Step {
    Serve(bool),
    Up {
        conn: u8,
        addr: u8,
    },
    Moved {
        conn: u8,
        addr: u8,
    },
    Down {
        conn: u8,
    },
    /// A frame that was made for a relay.
    Say {
        conn: u8,
        what: u8,
    },
    Noise {
        conn: u8,
        kind: u8,
        body: Vec<u8>,
    },
    /// A packet, cut if it must be.
    Packet {
        conn: u8,
        to: u8,
        len: u16,
        max: u16,
    },
    Datagram {
        conn: u8,
        bytes: Vec<u8>,
    },
    Rooms {
        stuck: u8,
        narrow: u8,
    },
    Disconnect {
        key: u8,
    },
    Block {
        key: u8,
        blocked: bool,
    },
    Close {
        s: u8,
    },
    /// The client's side.
    Candidate {
        key: u8,
        addr: u8,
        price: u32,
    },
    CandidateGone {
        key: u8,
    },
    Prefer(Option<u8>),
    Want(bool),
    ClientUp {
        conn: u8,
        rtt_ms: u16,
    },
    ClientDown {
        conn: u8,
    },
    Rtt {
        key: u8,
        rtt_ms: u16,
    },
    Suspect {
        key: u8,
    },
    Failed {
        key: u8,
    },
    ClientFrame {
        conn: u8,
        kind: u8,
        body: Vec<u8>,
    },
    Wait {
        ms: u16,
    },
    WaitLong {
        s: u16,
    },
}

fn key(n: u8) -> PublicKey {
    keypair(n).public()
}

fn addr(n: u8) -> SocketAddr {
    match n % 3 {
        0 => ([203, 0, 113, 1], u16::from(n)).into(),
        1 => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)], 1).into(),
        _ => ([198, 51, 100, n], 1).into(),
    }
}

/// Each connection has one peer, each peer several connections.
fn conn(n: u8) -> ConnId {
    ConnId((n % 12).into())
}

fn of(conn: ConnId) -> PublicKey {
    key((conn.0 % u64::from(COUNT)) as u8)
}

struct World {
    server: Server,
    client: Client,
    rng: Rng,
    now: Instant,
    stuck: u8,
    narrow: u8,
    ends: Vec<Reassembler>,
    fragmenter: Fragmenter,
    /// Bytes in and out as the accounts tell them.
    accounted: (u64, u64),
}

impl World {
    fn new() -> Self {
        let config = Config {
            sessions_max: SESSIONS_MAX,
            sessions_per_address_max: 3,
            session_rate: 100_000,
            address_rate: 150_000,
            total_rate: 200_000,
            lifetime: Duration::from_secs(300),
            ..Config::default()
        };
        Self {
            server: Server::new(config),
            client: Client::new(&key(0)),
            rng: Rng::from_seed([0; 32]),
            now: Instant::ZERO,
            stuck: 0,
            narrow: 0,
            ends: vec![Reassembler::default(); 12],
            fragmenter: Fragmenter::new(Cutter::Peer),
            accounted: (0, 0),
        }
    }

    fn wall(&self) -> UnixTime {
        UnixTime::from_secs(1_700_000_000).plus(self.now.since(Instant::ZERO))
    }

    /// Frames and packets that came of it.
    fn serve(
        &mut self,
        f: impl FnOnce(&mut Server, &mut Cx<'_, server::Output>),
    ) -> (Vec<ConnId>, Vec<ConnId>) {
        let mut out = Vec::new();
        let wall = self.wall();
        f(&mut self.server, &mut Cx::new(self.now, wall, &mut self.rng, &mut out));
        let mut frames = Vec::new();
        for output in out {
            match output {
                server::Output::Send { conn, frame } => {
                    assert!(Message::from_frame(&frame).is_ok() && Message::is_from_relay(frame.kind));
                    frames.push(conn);
                }
                server::Output::Account(account) => {
                    self.accounted.0 += account.usage.bytes_in;
                    self.accounted.1 += account.usage.bytes_out;
                    assert!(account.from <= account.to && account.since <= account.from);
                }
                server::Output::Refused(why) => assert!(!why.is_empty()),
                server::Output::Closed => assert_eq!(self.server.sessions().count(), 0),
            }
        }
        let packets = self.forward();
        self.check_server();
        (frames, packets)
    }

    fn forward(&mut self) -> Vec<ConnId> {
        let (stuck, narrow) = (self.stuck, self.narrow);
        let bit = |set: u8, c: ConnId| set >> (c.0 % 8) & 1 == 1;
        let room = |c: ConnId| {
            let datagram_max = if bit(narrow, c) { 1_162 } else { DATAGRAM_BYTES_MAX };
            Some(Room { datagram_max, free: if bit(stuck, c) { 0 } else { 1 << 20 } })
        };
        let mut packets = Vec::new();
        while let Some((to, bytes)) = self.server.poll_forward(self.now, room) {
            assert!(
                !bit(stuck, to) && bytes.len() <= if bit(narrow, to) { 1_162 } else { DATAGRAM_BYTES_MAX }
            );
            let header = Header::parse(&bytes).expect("what a relay passes on can be read");
            assert_eq!(header.direction, Direction::From);
            assert_ne!(header.peer, of(to).peer_id(), "nobody writes to itself");
            let end = &mut self.ends[to.0 as usize];
            if let Some(packet) = end.push(self.now, &header, bytes.slice(header.bytes()..)) {
                assert!(!packet.is_empty() && packet.len() <= PACKET_BYTES_MAX);
            }
            let (partials, held) = end.held();
            assert!(partials <= PARTIALS_MAX && held <= PARTIAL_BYTES_MAX);
            packets.push(to);
        }
        packets
    }

    fn check_server(&self) {
        let stats = self.server.stats();
        let sessions: Vec<_> = self.server.sessions().collect();
        assert_eq!(sessions.len(), stats.reserved + stats.visitors);
        assert!(sessions.len() <= SESSIONS_MAX && stats.waiting <= SESSIONS_MAX * QUEUE_BYTES_MAX);
        assert!(stats.serving || sessions.is_empty());
        for (n, session) in sessions.iter().enumerate() {
            assert!(sessions[..n].iter().all(|s| s.peer != session.peer), "a peer has one session");
            assert!(session.waiting <= QUEUE_BYTES_MAX);
        }
    }

    fn datagram(&mut self, conn: ConnId, bytes: Bytes) {
        let waiting = self.server.stats().waiting;
        let (frames, packets) = self.serve(|s, cx| s.handle(cx, server::Input::Datagram { conn, bytes }));
        assert!(frames.iter().all(|c| *c == conn) && frames.len() <= 1);
        // A packet in may be a packet out in up to eight pieces; more only if others waited.
        assert!(waiting > 0 || frames.len() + packets.len() <= 8);
    }

    fn ask(&mut self, input: client::Input) {
        self.client(|c, cx| c.handle(cx, input));
    }

    fn client(&mut self, f: impl FnOnce(&mut Client, &mut Cx<'_, client::Output>)) {
        let mut out = Vec::new();
        let wall = self.wall();
        f(&mut self.client, &mut Cx::new(self.now, wall, &mut self.rng, &mut out));
        for output in out {
            match output {
                client::Output::Send { frame, .. } => {
                    assert!(Message::from_frame(&frame).is_ok() && !Message::is_from_relay(frame.kind));
                }
                client::Output::Attachments(attachments) => assert!(attachments.len() <= 2),
                client::Output::Connect { key: to, .. } => assert_ne!(to, key(0), "nobody is its own relay"),
                client::Output::Release { .. }
                | client::Output::Active(_)
                | client::Output::Standby(_)
                | client::Output::Lost
                | client::Output::Explain(_)
                | client::Output::Refused(_) => {}
            }
        }
        assert!(self.client.relays().count() <= CANDIDATES_MAX);
        let (active, standby) = (self.client.active(), self.client.standby());
        assert!(active.is_some() || standby.is_none());
        assert!(active.is_none() || active.map(|r| r.relay) != standby.map(|r| r.relay));
    }

    fn wait(&mut self, by: Duration) {
        let until = self.now + by;
        let mut wakes = 0;
        loop {
            let deadlines = [self.server.poll_timeout(), self.client.poll_timeout()];
            let next = deadlines.into_iter().flatten().map(|d| d.at).filter(|at| *at <= until).min();
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            self.serve(Server::handle_timeout);
            self.client(Client::handle_timeout);
            for deadline in [self.server.poll_timeout(), self.client.poll_timeout()].into_iter().flatten() {
                assert!(deadline.at > self.now, "{deadline:?} does not move on");
            }
            wakes += 1;
            assert!(wakes < WAKES_MAX, "it spins");
        }
        self.now = until;
    }

    fn step(&mut self, step: Step) {
        let ms = |n: u16| Duration::from_millis(n.into());
        match step {
            Step::Serve(on) => drop(self.serve(|s, cx| s.handle(cx, server::Input::Serve(on)))),
            Step::Up { conn: c, addr: a } => {
                let up = server::Input::PeerUp { conn: conn(c), peer: of(conn(c)), addr: addr(a) };
                self.serve(|s, cx| s.handle(cx, up));
            }
            Step::Moved { conn: c, addr: a } => {
                let moved = server::Input::Moved { conn: conn(c), addr: addr(a) };
                self.serve(|s, cx| s.handle(cx, moved));
            }
            Step::Down { conn: c } => {
                self.serve(|s, cx| s.handle(cx, server::Input::PeerDown { conn: conn(c) }));
            }
            Step::Say { conn: c, what } => {
                let message = match what % 4 {
                    0 | 1 => Message::Register,
                    2 => Message::Ask,
                    _ => Message::Unregister,
                };
                let (frame, conn) = (message.to_frame(), conn(c));
                self.serve(|s, cx| s.handle(cx, server::Input::Frame { conn, frame }));
            }
            Step::Noise { conn: c, kind, body } => {
                let (frame, conn) = (Frame { kind: 0x30 | kind % 8, body }, conn(c));
                errand_frames(&frame);
                self.serve(|s, cx| s.handle(cx, server::Input::Frame { conn, frame }));
            }
            Step::Packet { conn: c, to, len, max } => {
                let packet = vec![7; usize::from(len)];
                let pieces = self.fragmenter.split(Direction::To, key(to).peer_id(), &packet, max.into());
                let pieces: Vec<Bytes> = pieces.map(Iterator::collect).unwrap_or_default();
                pieces.into_iter().for_each(|bytes| self.datagram(conn(c), bytes));
            }
            Step::Datagram { conn: c, bytes } => self.datagram(conn(c), bytes.into()),
            Step::Rooms { stuck, narrow } => {
                (self.stuck, self.narrow) = (stuck, narrow);
                self.forward();
            }
            Step::Disconnect { key: k } => {
                self.serve(|s, cx| s.handle(cx, server::Input::Disconnect { peer: key(k) }));
            }
            Step::Block { key: k, blocked } => {
                self.serve(|s, cx| s.handle(cx, server::Input::Block { peer: key(k), blocked }));
            }
            Step::Close { s } => {
                let time = Duration::from_secs(s.into());
                let close = server::Input::Close { ends_in: time, back_in: time };
                self.serve(|s, cx| s.handle(cx, close));
            }
            Step::Candidate { key: k, addr: a, price } => {
                self.ask(client::Input::Candidate { key: key(k), addr: addr(a), price });
            }
            Step::CandidateGone { key: k } => self.ask(client::Input::CandidateGone { key: key(k) }),
            Step::Prefer(k) => self.ask(client::Input::Prefer(k.map(key))),
            Step::Want(wanted) => self.ask(client::Input::Want(wanted)),
            Step::ClientUp { conn: c, rtt_ms } => {
                self.ask(client::Input::PeerUp { conn: conn(c), key: of(conn(c)), rtt: ms(rtt_ms) });
            }
            Step::ClientDown { conn: c } => {
                self.ask(client::Input::PeerDown { conn: conn(c), key: of(conn(c)) });
            }
            Step::Rtt { key: k, rtt_ms } => self.ask(client::Input::Rtt { key: key(k), rtt: ms(rtt_ms) }),
            Step::Suspect { key: k } => self.ask(client::Input::Suspect { key: key(k) }),
            Step::Failed { key: k } => self.ask(client::Input::Failed { key: key(k), why: "no".to_owned() }),
            Step::ClientFrame { conn: c, kind, body } => {
                let frame = Frame { kind: 0x30 | kind % 8, body };
                self.ask(client::Input::Frame { conn: conn(c), frame });
            }
            Step::Wait { ms: n } => self.wait(ms(n)),
            Step::WaitLong { s } => self.wait(Duration::from_secs(s.into())),
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    world.serve(|s, cx| s.handle(cx, server::Input::Serve(true)));
    for step in steps.into_iter().take(STEPS_MAX) {
        world.step(step);
    }
    world.serve(|s, cx| s.handle(cx, server::Input::Serve(false)));
    let usage = world.server.stats().usage;
    assert_eq!(world.accounted, (usage.bytes_in, usage.bytes_out), "accounts add up");
});
