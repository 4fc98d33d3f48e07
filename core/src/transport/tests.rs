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
    /// Packets for places that are no addresses, by their sender.
    relayed: BTreeMap<SocketAddr, Vec<Vec<u8>>>,
    /// What leaves the first address is seen to come from the second, where its host is reached from now on.
    hop: Option<(SocketAddr, SocketAddr)>,
    /// Everything is lost.
    dead: bool,
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
            relayed: BTreeMap::new(),
            hop: None,
            dead: false,
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
                let bytes = std::mem::take(&mut buf);
                match t.datagrams() {
                    None => self.relayed.entry(from).or_default().push(bytes),
                    Some(_) if self.dead => {}
                    Some(t) => {
                        let from = self.hop.filter(|(old, _)| *old == from).map_or(from, |(_, new)| new);
                        self.in_flight.push((self.now + Duration::from_millis(10), from, t.to, bytes));
                    }
                }
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
                let to = match self.hop {
                    Some((old, _)) if to == old => continue,
                    Some((old, new)) if to == new => old,
                    Some(_) | None => to,
                };
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

/// A second address of a host: what it sends leaves from there, and what is sent there reaches it.
fn alias(n: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, n], 9))
}

/// Both sides connected: the dialler's connection and the other's.
fn joined_pair(wire: &mut Wire) -> (ConnId, ConnId) {
    let now = wire.now;
    let conn = wire.host(1).dial(now, &key(2).public(), addr(2)).expect("room");
    wire.run(Duration::from_millis(500));
    wire.take(1);
    (conn, connected(&wire.take(2))[0].0)
}

#[test]
fn a_connection_follows_its_peer_by_connection_id_and_is_sent_where_it_is_told() {
    let mut wire = Wire::of(&[1, 2]);
    let (conn, far) = joined_pair(&mut wire);
    // Host 1 moves: it is seen at its alias, and its old address is dead.
    wire.hop = Some((addr(1), alias(1)));
    let stream = wire.host(1).open(conn).expect("a stream");
    wire.host(1).write(conn, stream, &mut Bytes::from_static(b"moved")).expect("room");
    wire.run(Duration::from_millis(15));
    let told = wire.take(2);
    let place = Place::direct(alias(1));
    let moved = |e: &TransportEvent| matches!(e, TransportEvent::Moved { conn, place: to, .. } if (*conn, *to) == (far, place));
    assert!(told.iter().any(moved), "{told:?}");
    assert_eq!(wire.host(2).place(far), Some(Place::direct(addr(1))), "nothing moves by itself");
    let now = wire.now;
    wire.host(2).set_place(now, far, place, true, false);
    wire.run(Duration::from_millis(500));
    assert!(wire.take(2).iter().all(|e| !matches!(e, TransportEvent::Moved { .. })), "said once");
    assert!(closed(&wire.take(1)).is_empty());
    let (read, text) = (wire.host(2).read(far, stream, 100), Bytes::from_static(b"moved"));
    assert_eq!(read, Ok(Chunk::Bytes(text)));
}

#[test]
fn forged_packets_of_a_connection_move_nothing() {
    let mut wire = Wire::of(&[1, 2]);
    let (conn, _) = joined_pair(&mut wire);
    // An observer repeats a packet with another payload from an address of its own.
    let stream = wire.host(1).open(conn).expect("a stream");
    wire.host(1).write(conn, stream, &mut Bytes::from_static(b"x")).expect("room");
    let mut packet = Vec::new();
    let now = wire.now;
    wire.host(1).poll_transmit(now, 1, &mut packet).expect("a packet");
    let last = packet.len() - 1;
    packet[last] ^= 1;
    let payload = BytesMut::from(&packet[..]);
    let forged = Datagram { socket: SocketId::MAIN, from: addr(66), to: None, ecn: None, payload };
    wire.host(2).handle(now, forged);
    wire.run(Duration::from_millis(100));
    assert!(wire.take(2).iter().all(|e| !matches!(e, TransportEvent::Moved { .. })));
}

#[test]
fn messages_travel_in_datagram_frames_and_those_too_large_say_what_would_fit() {
    let mut wire = Wire::of(&[1, 2]);
    let now = wire.now;
    let early = wire.host(1).dial(now, &key(2).public(), addr(2)).expect("room");
    assert_eq!(wire.host(1).datagram_room(early), None, "not before the handshake");
    let mut wire = Wire::of(&[1, 2]);
    let (conn, _) = joined_pair(&mut wire);
    let (largest, free) = wire.host(1).datagram_room(conn).expect("connected");
    assert!(largest >= 1_162 && free > 200_000, "{largest} {free}");
    let message = Bytes::from(vec![7; largest]);
    assert_eq!(wire.host(1).send_datagram(conn, message.clone()), Ok(()));
    let too_large = Bytes::from(vec![7; largest + 1]);
    assert_eq!(wire.host(1).send_datagram(conn, too_large), Err(DatagramError::TooLarge(largest)));
    assert_eq!(wire.host(1).send_datagram(ConnId(99), message.clone()), Err(DatagramError::Unsupported));
    wire.run(Duration::from_millis(100));
    let told = wire.take(2);
    assert!(told.iter().any(|e| matches!(e, TransportEvent::Datagram { bytes, .. } if *bytes == message)));
}

/// Carries packets of connections within connections: from host `n` into its outer connection, and out of it again.
/// Returns those that became connected within.
fn carry(wire: &mut Wire, n: u8, outer: ConnId, peer: &Keypair) -> Vec<(ConnId, PublicKey, Place)> {
    let way = Place::Relayed { relay: outer, peer: peer.public().peer_id() };
    let now = wire.now;
    for packet in std::mem::take(wire.relayed.entry(addr(n)).or_default()) {
        let (largest, _) = wire.host(n).datagram_room(outer).expect("connected");
        // What is longer than the outer connection carries is lost here: this test splits nothing.
        if packet.len() <= largest {
            wire.host(n).send_datagram(outer, packet.into()).expect("fits");
        }
    }
    let mut met = Vec::new();
    for event in wire.take(n) {
        if let TransportEvent::Datagram { bytes, .. } = event {
            let payload = BytesMut::from(&bytes[..]);
            wire.host(n).handle(now, Packet { place: way, to: None, ecn: None, payload });
        } else if let TransportEvent::Connected { conn, peer, place, .. } = event {
            met.push((conn, peer, place));
        }
    }
    met
}

#[test]
fn a_connection_within_a_connection_is_carried_by_it() {
    // 3 is a relay for 1 and 2: what it gets in a datagram frame goes out in one to the other side.
    let mut wire = Wire::of(&[1, 2, 3]);
    let now = wire.now;
    let outer1 = wire.host(1).dial(now, &key(3).public(), addr(3)).expect("room");
    let outer2 = wire.host(2).dial(now, &key(3).public(), addr(3)).expect("room");
    // Long enough to learn that more than 1,200 bytes get through.
    wire.run(Duration::from_secs(3));
    wire.take(1);
    wire.take(2);
    let sides: Vec<(ConnId, PublicKey, bool)> = connected(&wire.take(3));
    let now = wire.now;
    let nobody = Place::Relayed { relay: ConnId(77), peer: key(2).public().peer_id() };
    assert_eq!(wire.host(1).dial(now, &key(2).public(), nobody), Err(DialError::Address));
    let way = Place::Relayed { relay: outer1, peer: key(2).public().peer_id() };
    wire.host(1).dial(now, &key(2).public(), way).expect("room");
    let mut met = [Vec::new(), Vec::new()];
    for _ in 0..40 {
        wire.run(Duration::from_millis(10));
        met[0].extend(carry(&mut wire, 1, outer1, &key(2)));
        met[1].extend(carry(&mut wire, 2, outer2, &key(1)));
        for event in wire.take(3) {
            if let TransportEvent::Datagram { conn, bytes } = event {
                let other = sides.iter().find(|(c, ..)| *c != conn).expect("two sides").0;
                wire.host(3).send_datagram(other, bytes).expect("fits");
            }
        }
    }
    let [(_, peer1, place1), (_, peer2, place2)] = [met[0][0], met[1][0]];
    assert_eq!((peer1, place1), (key(2).public(), way));
    assert_eq!(peer2, key(1).public());
    assert_eq!(place2, Place::Relayed { relay: outer2, peer: key(1).public().peer_id() });
    assert_eq!(sides.len(), 2);
}

#[test]
fn silence_of_a_watched_connection_is_told_soon_and_of_others_never() {
    for watched in [true, false] {
        let mut wire = Wire::of(&[1, 2]);
        let (conn, _) = joined_pair(&mut wire);
        wire.host(1).watch(conn, watched);
        let stream = wire.host(1).open(conn).expect("a stream");
        wire.host(1).write(conn, stream, &mut Bytes::from_static(b"hello")).expect("room");
        wire.run(Duration::from_secs(2));
        let silent = |told: Vec<TransportEvent>| told.contains(&TransportEvent::Silent { conn });
        assert!(!silent(wire.take(1)), "it is answered");
        wire.dead = true;
        wire.host(1).write(conn, stream, &mut Bytes::from_static(b"hello")).expect("room");
        wire.run(Duration::from_millis(310));
        assert_eq!(silent(wire.take(1)), watched);
    }
}

#[test]
fn a_nudge_ends_an_outage_under_a_full_window_in_two_round_trips() {
    for nudge in [true, false] {
        let mut wire = Wire::of(&[1, 2]);
        let (conn, far) = joined_pair(&mut wire);
        let stream = wire.host(1).open(conn).expect("a stream");
        wire.dead = true;
        let mut data = Bytes::from(vec![7; 1 << 20]);
        while wire.host(1).write(conn, stream, &mut data).is_ok_and(|_| !data.is_empty()) {}
        wire.run(Duration::from_secs(3));
        wire.dead = false;
        let now = wire.now;
        wire.host(1).set_place(now, conn, Place::direct(addr(2)), nudge, false);
        let before = wire.host(2).stats(far).expect("alive").bytes_rx;
        wire.run(Duration::from_millis(45));
        let got = wire.host(2).stats(far).expect("alive").bytes_rx - before;
        assert_eq!(got > 2_000, nudge, "{got} bytes after 45 ms, two round trips");
    }
}
