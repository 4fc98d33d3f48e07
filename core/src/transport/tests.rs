//! Two or three transports joined by a virtual wire, with real TLS.

use super::quic::{QuicConfig, QuicTransport};
use super::*;
use crate::id::Keypair;
use crate::place::SocketId;
use crate::time::Duration;
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::sync::Arc;

struct Wire {
    now: Instant,
    hosts: BTreeMap<SocketAddr, QuicTransport>,
    events: BTreeMap<SocketAddr, Vec<TransportEvent>>,
    in_flight: Vec<(Instant, SocketAddr, SocketAddr, Vec<u8>)>,
}

fn key(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 4433))
}

fn transport(n: u8, seed: u8) -> QuicTransport {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let crypto = tls::crypto(&key(n), provider).expect("ring speaks TLS 1.3");
    // Only differences of the base matter; any moment will do.
    let base = {
        #[allow(clippy::disallowed_methods)]
        std::time::Instant::now()
    };
    QuicTransport::new(QuicConfig::new(crypto, base, [seed; 32]))
}

impl Wire {
    fn of(hosts: &[u8]) -> Self {
        Wire {
            now: Instant::ZERO,
            hosts: hosts.iter().map(|&n| (addr(n), transport(n, n))).collect(),
            events: BTreeMap::new(),
            in_flight: Vec::new(),
        }
    }

    fn host(&mut self, n: u8) -> &mut QuicTransport {
        self.hosts.get_mut(&addr(n)).expect("a host of the test")
    }

    fn drain(&mut self) {
        let mut buf = Vec::new();
        for (&from, host) in &mut self.hosts {
            buf.clear();
            while let Some(t) = host.poll_transmit(self.now, 1, &mut buf) {
                self.in_flight.push((
                    self.now + Duration::from_millis(10),
                    from,
                    t.to,
                    std::mem::take(&mut buf),
                ));
            }
            while let Some(e) = host.poll() {
                self.events.entry(from).or_default().push(e);
            }
        }
    }

    /// Lets `span` pass, event by event.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.drain();
            let packet = self.in_flight.iter().map(|p| p.0).min();
            let timer = self.hosts.values().filter_map(Transport::poll_timeout).min();
            let next = match (packet, timer) {
                (Some(a), Some(b)) => a.min(b),
                (Some(a), None) | (None, Some(a)) => a,
                (None, None) => end,
            };
            if next >= end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            for host in self.hosts.values_mut() {
                host.handle_timeout(self.now);
            }
            let (due, later) = self.in_flight.drain(..).partition(|p| p.0 <= self.now);
            self.in_flight = later;
            let due: Vec<(Instant, SocketAddr, SocketAddr, Vec<u8>)> = due;
            for (_, from, to, bytes) in due {
                if let Some(host) = self.hosts.get_mut(&to) {
                    let payload = BytesMut::from(&bytes[..]);
                    host.handle(
                        self.now,
                        Datagram { socket: SocketId::MAIN, from, to: None, ecn: None, payload },
                    );
                }
            }
        }
    }

    fn take(&mut self, n: u8) -> Vec<TransportEvent> {
        self.events.remove(&addr(n)).unwrap_or_default()
    }
}

fn connected(events: &[TransportEvent]) -> Vec<(ConnId, PublicKey, bool)> {
    events
        .iter()
        .filter_map(|e| match e {
            TransportEvent::Connected { conn, peer, dialled, .. } => Some((*conn, *peer, *dialled)),
            _ => None,
        })
        .collect()
}

fn closed(events: &[TransportEvent]) -> Vec<CloseReason> {
    events
        .iter()
        .filter_map(|e| match e {
            TransportEvent::Closed { reason, .. } => Some(reason.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_handshake_proves_both_keys_to_each_other() {
    let mut wire = Wire::of(&[1, 2]);
    let now = wire.now;
    let conn = wire.host(1).dial(now, &key(2).public(), addr(2)).expect("room");
    wire.run(Duration::from_secs(1));
    assert_eq!(connected(&wire.take(1)), [(conn, key(2).public(), true)]);
    let there = connected(&wire.take(2));
    assert_eq!((there[0].1, there[0].2), (key(1).public(), false));
}

#[test]
fn a_dial_that_finds_another_peer_is_closed_before_any_data_flows() {
    let mut wire = Wire::of(&[1, 2]);
    let now = wire.now;
    wire.host(1).dial(now, &key(3).public(), addr(2)).expect("room");
    wire.run(Duration::from_secs(2));
    let here = wire.take(1);
    assert_eq!(connected(&here), []);
    assert_eq!(closed(&here), [CloseReason::WrongPeer]);
    // The acceptor learns of it within its handshake: it never saw a connection.
    let there = wire.take(2);
    assert_eq!((connected(&there).len(), closed(&there).len()), (0, 1));
    assert_eq!((wire.host(1).connections(), wire.host(2).connections()), (0, 0));
}

#[test]
fn bytes_arrive_in_order_through_flow_control_and_end_with_the_stream() {
    let mut wire = Wire::of(&[1, 2]);
    let now = wire.now;
    let conn = wire.host(1).dial(now, &key(2).public(), addr(2)).expect("room");
    wire.run(Duration::from_secs(1));
    let there = connected(&wire.take(2))[0].0;
    let stream = wire.host(1).open(conn).expect("a stream");
    let sent: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut rest = Bytes::from(sent.clone());
    let mut got = Vec::new();
    let mut blocked = 0;
    for _ in 0..2_000 {
        while !rest.is_empty() {
            match wire.host(1).write(conn, stream, &mut rest) {
                Ok(n) => assert!(n > 0),
                Err(e) => {
                    assert_eq!(e, WriteError::Blocked);
                    blocked += 1;
                    break;
                }
            }
        }
        if rest.is_empty() {
            wire.host(1).finish(conn, stream);
        }
        wire.run(Duration::from_millis(20));
        loop {
            match wire.host(2).read(there, stream, 1 << 20) {
                Ok(Chunk::Bytes(b)) => got.extend_from_slice(&b),
                Ok(Chunk::End) => {
                    assert_eq!(got.len(), sent.len());
                    assert!(got == sent);
                    assert!(blocked > 0, "5 MB do not fit a window");
                    return;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Gone) => panic!("stream gone"),
            }
        }
    }
    panic!("the stream did not end: {} bytes", got.len());
}

#[test]
fn joined_reads_are_whole_pieces_and_tell_the_end_once_behind_the_last() {
    let mut wire = Wire::of(&[1, 2]);
    let now = wire.now;
    let conn = wire.host(1).dial(now, &key(2).public(), addr(2)).expect("room");
    wire.run(Duration::from_secs(1));
    let there = connected(&wire.take(2))[0].0;
    let stream = wire.host(1).open(conn).expect("a stream");
    let sent: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    let mut rest = Bytes::from(sent.clone());
    assert_eq!(wire.host(1).write(conn, stream, &mut rest), Ok(sent.len()));
    wire.run(Duration::from_secs(1));
    let max = 30_000;
    let read = |wire: &mut Wire| wire.host(2).read_joined(there, stream, max);
    for piece in sent.chunks(max) {
        assert_eq!(read(&mut wire), Ok((Chunk::Bytes(Bytes::copy_from_slice(piece)), false)));
    }
    assert_eq!(read(&mut wire), Err(ReadError::Blocked));
    let mut tail = Bytes::from_static(b"the last");
    assert_eq!(wire.host(1).write(conn, stream, &mut tail), Ok(8));
    wire.host(1).finish(conn, stream);
    wire.run(Duration::from_secs(1));
    assert_eq!(read(&mut wire), Ok((Chunk::Bytes(Bytes::from_static(b"the last")), true)));
    assert_eq!(read(&mut wire), Err(ReadError::Gone), "nothing is behind an end that was told");
}

#[test]
fn our_own_close_is_told_once_here_and_with_its_code_there() {
    let mut wire = Wire::of(&[1, 2]);
    let now = wire.now;
    let conn = wire.host(1).dial(now, &key(2).public(), addr(2)).expect("room");
    wire.run(Duration::from_secs(1));
    let now = wire.now;
    wire.host(1).close(now, conn, close_code::IDLE, "idle timeout");
    wire.host(1).close(now, conn, close_code::DONE, "again");
    wire.run(Duration::from_secs(3));
    assert_eq!(closed(&wire.take(1)), [CloseReason::Local]);
    assert_eq!(closed(&wire.take(2)), [CloseReason::Peer { code: 0x100, reason: "idle timeout".into() }]);
    assert_eq!((wire.host(1).connections(), wire.host(2).connections()), (0, 0));
    assert_eq!(wire.host(1).poll_timeout(), None);
}

#[test]
fn a_restarted_peer_resets_the_connection_it_forgot() {
    let mut wire = Wire::of(&[1, 2]);
    let now = wire.now;
    wire.host(1).dial(now, &key(2).public(), addr(2)).expect("room");
    wire.run(Duration::from_secs(1));
    wire.hosts.insert(addr(2), transport(2, 99));
    wire.run(Duration::from_secs(12));
    assert_eq!(closed(&wire.take(1)), [CloseReason::Reset]);
}

#[test]
fn silence_ends_a_connection_and_a_dial_into_the_void() {
    let mut wire = Wire::of(&[1, 2]);
    let now = wire.now;
    wire.host(1).dial(now, &key(2).public(), addr(2)).expect("room");
    wire.host(1).dial(now, &key(9).public(), addr(9)).expect("room");
    wire.run(Duration::from_secs(1));
    wire.hosts.remove(&addr(2));
    wire.run(Duration::from_secs(60));
    assert_eq!(closed(&wire.take(1)), [CloseReason::TimedOut, CloseReason::TimedOut]);
    assert_eq!(wire.host(1).connections(), 0);
}

#[test]
fn garbage_and_addresses_nobody_can_dial_change_nothing() {
    let mut wire = Wire::of(&[1, 2]);
    let now = wire.now;
    let conn = wire.host(1).dial(now, &key(2).public(), addr(2)).expect("room");
    wire.run(Duration::from_secs(1));
    let mut rng = crate::rng::Rng::from_seed([5; 32]);
    for i in 0..2_000usize {
        let mut bytes = vec![0; 1 + i % 1_400];
        rng.fill(&mut bytes);
        let now = wire.now;
        let payload = BytesMut::from(&bytes[..]);
        wire.host(1)
            .handle(now, Datagram { socket: SocketId::MAIN, from: addr(2), to: None, ecn: Some(3), payload });
    }
    wire.run(Duration::from_secs(1));
    assert!(wire.host(1).stats(conn).is_some());
    assert_eq!(closed(&wire.take(1)), []);
    let now = wire.now;
    for bad in ["0.0.0.0:1", "1.2.3.4:0", "224.0.0.1:5", "[::]:7"] {
        let bad: SocketAddr = bad.parse().expect("an address");
        assert_eq!(wire.host(1).dial(now, &key(2).public(), bad), Err(DialError::Address));
    }
}

#[test]
fn a_flood_of_handshakes_is_retried_and_never_exceeds_the_limit() {
    let mut wire = Wire::of(&[2]);
    for n in 0..40u8 {
        let host = SocketAddr::from(([203, 0, 113, n], 9));
        wire.hosts.insert(host, transport(100 + n, n));
    }
    let now = wire.now;
    for n in 0..40u8 {
        let host = SocketAddr::from(([203, 0, 113, n], 9));
        for _ in 0..8 {
            wire.hosts.get_mut(&host).expect("host").dial(now, &key(2).public(), addr(2)).expect("room");
        }
    }
    for _ in 0..200 {
        wire.run(Duration::from_millis(50));
        assert!(wire.host(2).connections() <= crate::limits::CONNECTIONS_MAX);
    }
    let n = connected(&wire.take(2)).len();
    assert!(n > 64 && n <= crate::limits::CONNECTIONS_MAX, "{n} of 320 connected");
}

#[test]
fn closed_connections_stand_in_nobodys_way_and_are_bounded_themselves() {
    let mut wire = Wire::of(&[1, 2]);
    let mut config = {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        #[allow(clippy::disallowed_methods)]
        let base = std::time::Instant::now();
        QuicConfig::new(tls::crypto(&key(1), provider).expect("ring speaks TLS 1.3"), base, [1; 32])
    };
    config.connections_max = 2;
    wire.hosts.insert(addr(1), QuicTransport::new(config));
    for round in 0..3 {
        let now = wire.now;
        let conns: Vec<ConnId> =
            (0..2).map(|_| wire.host(2).dial(now, &key(1).public(), addr(1)).expect("room")).collect();
        wire.run(Duration::from_millis(45));
        let here = connected(&wire.take(1));
        assert_eq!(here.len(), 2, "round {round}: those of the last one only drain");
        let now = wire.now;
        for (conn, ..) in here {
            wire.host(1).close(now, conn, close_code::DONE, "");
        }
        for conn in conns {
            wire.host(2).close(now, conn, close_code::DONE, "");
        }
    }
    // Dialled and closed at once, again and again: what drains is bounded.
    let now = wire.now;
    for _ in 0..2 * crate::limits::CONNECTIONS_DRAINING_MAX {
        let conn = wire.host(1).dial(now, &key(2).public(), addr(2)).expect("room");
        wire.host(1).close(now, conn, close_code::DONE, "");
    }
    assert!(wire.host(1).connections() <= crate::limits::CONNECTIONS_DRAINING_MAX + 2);
    wire.run(Duration::from_secs(60));
    assert_eq!(wire.host(1).connections(), 0);
}
