//! Two transports joined by a hostile wire: datagrams are lost, repeated, cut, altered, held back and made up, while
//! both sides dial, write, read and close. Nothing panics, nobody is taken for somebody else, every connection ends at
//! most once, and the limits hold.
#![no_main]

use arbitrary::Arbitrary;
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use remote_network_core::event::Datagram;
use remote_network_core::id::{ConnId, Keypair, PublicKey, StreamId};
use remote_network_core::limits::CONNECTIONS_DRAINING_MAX;
use remote_network_core::place::SocketId;
use remote_network_core::time::{Duration, Instant};
use remote_network_core::transport::quic::{QuicConfig, QuicTransport};
use remote_network_core::transport::{Transport, TransportEvent, tls};
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

const CONNECTIONS_MAX: usize = 4;
const STEPS_MAX: usize = 200;

#[derive(Arbitrary, Debug)]
enum Step {
    Dial { host: bool, right_key: bool },
    Close { host: bool, which: u8 },
    Open { host: bool, which: u8 },
    Write { host: bool, which: u8, len: u16, finish: bool },
    Read { host: bool, which: u8, max: u16 },
    Reset { host: bool, which: u8 },
    Deliver { count: u8 },
    Lose,
    Repeat,
    Delay,
    Alter { at: u16, xor: u8 },
    Cut { len: u16 },
    Inject { host: bool, bytes: Vec<u8> },
    Pass { micros: u32 },
}

struct Side {
    transport: QuicTransport,
    addr: SocketAddr,
    conns: Vec<ConnId>,
    streams: Vec<(ConnId, StreamId)>,
    closed: BTreeSet<ConnId>,
}

fn key(n: usize) -> Keypair {
    Keypair::from_seed(&[n as u8 + 1; 32])
}

fn side(n: usize) -> Side {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let crypto = tls::crypto(&key(n), provider).expect("ring speaks TLS 1.3");
    let mut config = QuicConfig::new(crypto, std::time::Instant::now(), [n as u8; 32]);
    config.connections_max = CONNECTIONS_MAX;
    Side {
        transport: QuicTransport::new(config),
        addr: SocketAddr::from(([198, 51, 100, n as u8 + 1], 4433)),
        conns: Vec::new(),
        streams: Vec::new(),
        closed: BTreeSet::new(),
    }
}

fn pick<T: Copy>(of: &[T], which: u8) -> Option<T> {
    of.get(usize::from(which).checked_rem(of.len())?).copied()
}

struct World {
    now: Instant,
    sides: [Side; 2],
    wire: VecDeque<(usize, Vec<u8>)>,
}

impl World {
    fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Dial { host, right_key } => {
                let other = usize::from(!host);
                let peer: PublicKey = key(if right_key { other } else { 7 }).public();
                let addr = self.sides[other].addr;
                let side = &mut self.sides[usize::from(host)];
                side.conns.extend(side.transport.dial(now, &peer, addr));
            }
            Step::Close { host, which } => {
                let side = &mut self.sides[usize::from(host)];
                if let Some(conn) = pick(&side.conns, which) {
                    side.transport.close(now, conn, 0, "fuzzed");
                }
            }
            Step::Open { host, which } => {
                let side = &mut self.sides[usize::from(host)];
                if let Some(conn) = pick(&side.conns, which) {
                    side.streams.extend(side.transport.open(conn).map(|stream| (conn, stream)));
                }
            }
            Step::Write { host, which, len, finish } => {
                let side = &mut self.sides[usize::from(host)];
                let Some((conn, stream)) = pick(&side.streams, which) else { return };
                let mut data = Bytes::from(vec![1; usize::from(len)]);
                let before = data.len();
                if let Ok(taken) = side.transport.write(conn, stream, &mut data) {
                    assert_eq!(taken, before - data.len());
                }
                if finish {
                    side.transport.finish(conn, stream);
                }
            }
            Step::Read { host, which, max } => {
                let side = &mut self.sides[usize::from(host)];
                if let Some((conn, stream)) = pick(&side.streams, which) {
                    let _ = side.transport.read(conn, stream, usize::from(max));
                }
            }
            Step::Reset { host, which } => {
                let side = &mut self.sides[usize::from(host)];
                if let Some((conn, stream)) = pick(&side.streams, which) {
                    side.transport.reset(conn, stream);
                }
            }
            Step::Deliver { count } => {
                for _ in 0..=count {
                    let Some((to, bytes)) = self.wire.pop_front() else { break };
                    self.deliver(to, &bytes);
                }
            }
            Step::Lose => drop(self.wire.pop_front()),
            Step::Repeat => self.wire.extend(self.wire.front().cloned()),
            Step::Delay => {
                if let Some(first) = self.wire.pop_front() {
                    self.wire.push_back(first);
                }
            }
            Step::Alter { at, xor } => {
                if let Some((_, bytes)) = self.wire.front_mut()
                    && let Some(byte) =
                        usize::from(at).checked_rem(bytes.len()).and_then(|at| bytes.get_mut(at))
                {
                    *byte ^= xor;
                }
            }
            Step::Cut { len } => {
                if let Some((_, bytes)) = self.wire.front_mut() {
                    bytes.truncate(usize::from(len));
                }
            }
            Step::Inject { host, bytes } => self.deliver(usize::from(host), &bytes),
            Step::Pass { micros } => {
                self.now = now + Duration::from_micros(u64::from(micros) * 16);
                for side in &mut self.sides {
                    side.transport.handle_timeout(self.now);
                }
            }
        }
        self.settle();
    }

    fn deliver(&mut self, to: usize, bytes: &[u8]) {
        let from = self.sides[1 - to].addr;
        let payload = BytesMut::from(bytes);
        self.sides[to]
            .transport
            .handle(self.now, Datagram { socket: SocketId::MAIN, from, to: None, ecn: None, payload });
    }

    fn settle(&mut self) {
        for n in 0..2 {
            let side = &mut self.sides[n];
            while let Some(event) = side.transport.poll() {
                match event {
                    TransportEvent::Connected { conn, peer, .. } => {
                        assert_eq!(peer, key(1 - n).public(), "somebody was taken for somebody else");
                        if !side.conns.contains(&conn) {
                            side.conns.push(conn);
                        }
                    }
                    TransportEvent::Closed { conn, .. } => {
                        assert!(side.closed.insert(conn), "{conn:?} ended twice");
                    }
                    TransportEvent::Opened { conn, stream } => side.streams.push((conn, stream)),
                    TransportEvent::Readable { .. }
                    | TransportEvent::Writable { .. }
                    | TransportEvent::StreamsAvailable { .. }
                    | TransportEvent::Datagram { .. }
                    | TransportEvent::Silent { .. }
                    | TransportEvent::Moved { .. } => {}
                }
            }
            assert!(side.transport.connections() <= CONNECTIONS_MAX + CONNECTIONS_DRAINING_MAX);
            let mut buf = Vec::new();
            while let Some(transmit) = side.transport.poll_transmit(self.now, 4, &mut buf) {
                assert_eq!(transmit.size, buf.len());
                let segment = transmit.segment_size.unwrap_or(transmit.size).max(1);
                self.wire.extend(buf.chunks(segment).map(|bytes| (1 - n, bytes.to_vec())));
                buf.clear();
            }
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World { now: Instant::ZERO, sides: [side(0), side(1)], wire: VecDeque::new() };
    for step in steps.into_iter().take(STEPS_MAX) {
        world.step(step);
    }
});
