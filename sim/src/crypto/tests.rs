//! Two real transports on a short wire, under both kinds of cryptography.

use super::null::Realm;
use super::seeded_tls;
use crate::fold::Fold;
use bytes::{Bytes, BytesMut};
use remote_network_core::event::Datagram;
use remote_network_core::id::{ConnId, Keypair, PublicKey};
use remote_network_core::place::SocketId;
use remote_network_core::rng::Rng;
use remote_network_core::time::{Duration, Instant};
use remote_network_core::transport::quic::{QuicConfig, QuicCrypto, QuicTransport};
use remote_network_core::transport::{Chunk, CloseReason, Transport, TransportEvent, tls};
use std::net::SocketAddr;

struct End {
    transport: QuicTransport,
    lent: Option<Rng>,
    addr: SocketAddr,
    told: Vec<TransportEvent>,
}

struct Wire {
    now: Instant,
    ends: [End; 2],
    flights: Vec<(Instant, usize, Vec<u8>)>,
    hash: Fold,
    flip: bool,
}

fn key(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

fn end(n: u8, crypto: QuicCrypto, lent: Option<Rng>) -> End {
    let config = QuicConfig::new(crypto, std::time::Instant::now(), [n; 32]);
    End {
        transport: QuicTransport::new(config),
        lent,
        addr: SocketAddr::from(([45, 0, 0, n], 30906)),
        told: Vec::new(),
    }
}

fn null(realm: &Realm, n: u8) -> End {
    end(n, realm.crypto(&key(n).public(), [n; 32], [n + 100; 32]), None)
}

fn tls(n: u8) -> End {
    let crypto = tls::crypto(&key(n), seeded_tls::provider()).unwrap();
    end(n, crypto, Some(Rng::from_seed([n; 32])))
}

impl Wire {
    fn of(ends: [End; 2]) -> Self {
        Self { now: Instant::ZERO, ends, flights: Vec::new(), hash: Fold::default(), flip: false }
    }

    fn call<R>(&mut self, n: usize, f: impl FnOnce(&mut QuicTransport, Instant) -> R) -> R {
        let now = self.now;
        let end = &mut self.ends[n];
        seeded_tls::lend(&mut end.lent, || f(&mut end.transport, now))
    }

    fn drain(&mut self) {
        for n in 0..2 {
            let mut buf = Vec::new();
            while self.call(n, |t, now| t.poll_transmit(now, 1, &mut buf)).is_some() {
                self.hash.words(self.now.as_nanos(), n as u64);
                self.hash.bytes(&buf);
                if self.flip {
                    let at = buf.len() / 2;
                    buf[at] ^= 4;
                }
                self.flights.push((self.now + Duration::from_millis(10), 1 - n, std::mem::take(&mut buf)));
            }
            while let Some(event) = self.ends[n].transport.poll() {
                self.ends[n].told.push(event);
            }
        }
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            self.drain();
            let flight = self.flights.iter().map(|f| f.0).min();
            let timer = self.ends.iter().filter_map(|e| e.transport.poll_timeout()).min();
            let next = flight.into_iter().chain(timer).min().unwrap_or(end);
            if next >= end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            (0..2).for_each(|n| self.call(n, |t, now| t.handle_timeout(now)));
            let (due, later) = self.flights.drain(..).partition(|f| f.0 <= self.now);
            self.flights = later;
            let due: Vec<(Instant, usize, Vec<u8>)> = due;
            for (_, to, bytes) in due {
                let from = self.ends[1 - to].addr;
                let payload = BytesMut::from(&bytes[..]);
                self.call(to, |t, now| {
                    t.handle(now, Datagram { socket: SocketId::MAIN, from, to: None, ecn: None, payload })
                });
            }
        }
    }

    fn dial(&mut self, peer: &PublicKey) -> ConnId {
        let addr = self.ends[1].addr;
        self.call(0, |t, now| t.dial(now, peer, addr)).unwrap()
    }

    fn connected(&self, n: usize) -> Option<PublicKey> {
        self.ends[n].told.iter().find_map(|e| match e {
            TransportEvent::Connected { peer, .. } => Some(*peer),
            _ => None,
        })
    }

    fn closed(&self, n: usize) -> Option<&CloseReason> {
        self.ends[n].told.iter().find_map(|e| match e {
            TransportEvent::Closed { reason, .. } => Some(reason),
            _ => None,
        })
    }
}

/// Makes two ends that can talk to each other.
type Pair = fn() -> [End; 2];

fn pairs() -> [(&'static str, Pair); 2] {
    let nulls: Pair = || {
        let realm = Realm::new([9; 32]);
        [null(&realm, 1), null(&realm, 2)]
    };
    [("null", nulls), ("seeded TLS", || [tls(1), tls(2)])]
}

#[test]
fn both_kinds_prove_who_is_there_and_carry_streams() {
    for (name, make) in pairs() {
        let mut w = Wire::of(make());
        let conn = w.dial(&key(2).public());
        w.run(300);
        assert_eq!(w.connected(0), Some(key(2).public()), "{name}");
        assert_eq!(w.connected(1), Some(key(1).public()), "{name}");
        let mut data = Bytes::from(vec![7; 100_000]);
        let stream = w.call(0, |t, _| t.open(conn)).unwrap();
        while !data.is_empty() {
            let _ = w.call(0, |t, _| t.write(conn, stream, &mut data));
            w.run(50);
        }
        w.call(0, |t, _| t.finish(conn, stream));
        w.run(200);
        let (there, stream) = w.ends[1]
            .told
            .iter()
            .find_map(|e| match e {
                TransportEvent::Opened { conn, stream } => Some((*conn, *stream)),
                _ => None,
            })
            .unwrap();
        let mut got = 0;
        loop {
            match w.call(1, |t, _| t.read(there, stream, 1 << 16)) {
                Ok(Chunk::Bytes(b)) => got += b.len(),
                Ok(Chunk::End) => break,
                Err(_) => w.run(20),
            }
        }
        assert_eq!(got, 100_000, "{name}");
    }
}

#[test]
fn equal_seeds_give_equal_packets_in_both_kinds() {
    for (name, make) in pairs() {
        let run = || {
            let mut w = Wire::of(make());
            w.dial(&key(2).public());
            w.run(30_000);
            w.hash.value()
        };
        assert_eq!(run(), run(), "{name}");
    }
}

#[test]
fn another_key_than_the_dialled_one_ends_the_connection() {
    for (name, make) in pairs() {
        let mut w = Wire::of(make());
        w.dial(&key(3).public());
        w.run(1000);
        assert_eq!(w.closed(0), Some(&CloseReason::WrongPeer), "{name}");
        assert_eq!(w.connected(0), None, "{name}");
    }
}

#[test]
fn packets_that_change_on_the_way_are_no_packets() {
    for (name, make) in pairs() {
        let mut w = Wire::of(make());
        w.flip = true;
        w.dial(&key(2).public());
        w.run(3_000);
        assert_eq!((w.connected(0), w.connected(1)), (None, None), "{name}");
    }
}

#[test]
fn without_the_realms_grant_nobody_is_somebody_else() {
    // An impostor makes up a realm of its own, which is all a byzantine host could do.
    let impostor = Realm::new([66; 32]).crypto(&key(2).public(), [5; 32], [6; 32]);
    let mut w = Wire::of([null(&Realm::new([9; 32]), 1), end(5, impostor, None)]);
    w.dial(&key(2).public());
    w.run(3_000);
    assert_eq!(w.connected(0), None);

    // With the grant it is.
    let realm = Realm::new([9; 32]);
    let granted = realm.crypto(&key(2).public(), [5; 32], [6; 32]);
    let mut w = Wire::of([null(&realm, 1), end(5, granted, None)]);
    w.dial(&key(2).public());
    w.run(3_000);
    assert_eq!(w.connected(0), Some(key(2).public()));
}
