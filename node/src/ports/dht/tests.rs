use super::*;
use bytes::Bytes;
use remote_network_core::id::{DhtId, Keypair, Signature};
use remote_network_core::port::{AnnouncePort, DhtDone, GetMode, MutableItem};
use std::net::Ipv4Addr;
use std::time::Instant;

mod interop;
mod libtorrent;
mod native;

const LONG: Duration = Duration::from_secs(40);

/// A port and what it told.
struct Host {
    port: DhtPort,
    events: async_channel::Receiver<Event>,
    next_op: u64,
    health: Option<(u32, bool)>,
}

/// What an operation brought.
#[derive(Debug)]
struct Outcome {
    result: Result<DhtDone, DhtFailed>,
    values: Vec<MutableItem>,
    immutable: Option<Bytes>,
    peers: Vec<SocketAddr>,
}

fn host(mode: DhtMode, port: Option<u16>, bootstrap: &[SocketAddr]) -> Host {
    host_of(DhtBackend::Mainline, mode, port, bootstrap)
}

fn host_of(backend: DhtBackend, mode: DhtMode, port: Option<u16>, bootstrap: &[SocketAddr]) -> Host {
    let bootstrap = bootstrap.iter().map(ToString::to_string).collect();
    let socket = DhtSocket::Own { bind: Ipv4Addr::LOCALHOST.into(), port: port.unwrap_or(0) };
    let config = DhtConfig { backend, mode, socket, table_file: None, bootstrap };
    start(config)
}

fn start(config: DhtConfig) -> Host {
    let (tx, events) = async_channel::bounded(4096);
    Host { port: DhtPort::start(config, tx).unwrap(), events, next_op: 0, health: None }
}

fn seed() -> Host {
    host(DhtMode::Private { seed: true }, None, &[])
}

fn node(bootstrap: &[SocketAddr]) -> Host {
    host(DhtMode::Private { seed: false }, None, bootstrap)
}

impl Host {
    fn addr(&self) -> SocketAddr {
        let until = Instant::now() + LONG;
        while Instant::now() < until {
            if let Some(addr) = self.port.local_addr() {
                return addr;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("not built");
    }

    fn next(&mut self, until: Instant) -> Option<DhtEvent> {
        loop {
            match self.events.try_recv() {
                Ok(Event::Dht(event)) => {
                    if let DhtEvent::Health { table_len, reachable } = event {
                        self.health = Some((table_len, reachable));
                    }
                    return Some(event);
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) if Instant::now() > until => return None,
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn ask(&mut self, request: DhtRequest) -> OpId {
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.port.submit(op, request).unwrap();
        op
    }

    fn finish(&mut self, op: OpId) -> Outcome {
        let (mut values, mut peers, mut immutable) = (Vec::new(), Vec::new(), None);
        let until = Instant::now() + LONG;
        while let Some(event) = self.next(until) {
            match event {
                DhtEvent::Done { op: id, result } if id == op => {
                    return Outcome { result, values, immutable, peers };
                }
                DhtEvent::Value { op: id, item } if id == op => values.push(item),
                DhtEvent::Immutable { op: id, value } if id == op => immutable = Some(value),
                DhtEvent::Peers { op: id, addrs } if id == op => peers.extend(addrs),
                _ => {}
            }
        }
        panic!("{op:?} was not answered");
    }

    fn run(&mut self, request: DhtRequest) -> Outcome {
        let op = self.ask(request);
        self.finish(op)
    }

    fn wait_for_health(&mut self, wanted: impl Fn(u32, bool) -> bool) {
        let until = Instant::now() + LONG;
        while !self.health.is_some_and(|(len, reachable)| wanted(len, reachable)) {
            assert!(self.next(until).is_some(), "health stays at {:?}", self.health);
        }
    }
}

/// A correctly signed item (BEP 44).
fn item(key: &Keypair, salt: &str, seq: u64, value: &str) -> MutableItem {
    let mut signed = Vec::new();
    if !salt.is_empty() {
        signed.extend(format!("4:salt{}:{salt}", salt.len()).into_bytes());
    }
    signed.extend(format!("3:seqi{seq}e1:v{}:{value}", value.len()).into_bytes());
    MutableItem {
        key: key.public(),
        salt: Bytes::from(salt.to_owned()),
        seq,
        value: Bytes::from(value.to_owned()),
        signature: key.sign(&signed),
    }
}

fn put(item: &MutableItem, cas: Option<u64>) -> DhtRequest {
    DhtRequest::PutMutable { item: item.clone(), cas }
}

fn get(item: &MutableItem, mode: GetMode) -> DhtRequest {
    DhtRequest::GetMutable { key: item.key, salt: item.salt.clone(), mode }
}

use DhtBackend::{Mainline, Native};

#[test]
fn a_private_network_stores_and_finds_and_outlives_its_seed() {
    a_network_outlives_its_seed(Mainline, [Mainline; 3]);
}

#[test]
fn a_private_network_of_our_own_nodes_stores_and_finds_and_outlives_its_seed() {
    a_network_outlives_its_seed(Native, [Native; 3]);
}

#[test]
fn nodes_of_both_kinds_are_one_network() {
    a_network_outlives_its_seed(Native, [Mainline, Native, Mainline]);
    a_network_outlives_its_seed(Mainline, [Native, Mainline, Native]);
}

fn a_network_outlives_its_seed(of_seed: DhtBackend, of_nodes: [DhtBackend; 3]) {
    let seed = host_of(of_seed, DhtMode::Private { seed: true }, None, &[]);
    let at = seed.addr();
    let mut hosts = of_nodes.map(|backend| host_of(backend, DhtMode::Private { seed: false }, None, &[at]));
    for host in &mut hosts {
        host.wait_for_health(|len, reachable| len >= 3 && reachable);
    }
    let [a, b, c] = &mut hosts;
    let key = Keypair::from_seed(&[3; 32]);
    let record = item(&key, "", 5, "a record");
    let salted = item(&key, "salt", 6, "another");
    let topic = DhtId([9; 20]);

    let stored = a.run(put(&record, None)).result.unwrap();
    assert!(stored.stored >= 2 && stored.newest_seq == Some(5), "{stored:?}");
    assert_eq!(b.run(put(&salted, None)).result.map(|d| d.newest_seq), Ok(Some(6)));
    let first = b.run(get(&record, GetMode::First));
    assert_eq!((first.values, first.result.unwrap().newest_seq), (vec![record.clone()], Some(5)));
    let all = a.run(get(&salted, GetMode::MostRecent));
    assert_eq!((all.values, all.result.unwrap().newest_seq), (vec![salted.clone()], Some(6)));
    let nothing = c.run(get(&item(&key, "none", 1, ""), GetMode::MostRecent));
    assert!(nothing.values.is_empty() && nothing.result.unwrap().responded > 0);

    let announce = |port| DhtRequest::Announce { topic, port: AnnouncePort::Explicit(port) };
    c.run(announce(4001)).result.unwrap();
    a.run(announce(4002)).result.unwrap();
    // Announcing and searching one topic at once: the second waits for the first and both are answered.
    let (search, again) = (b.ask(DhtRequest::GetPeers { topic }), b.ask(announce(4003)));
    let found = b.finish(search);
    assert!([4001, 4002].iter().all(|p| found.peers.iter().any(|a| a.port() == *p)), "{found:?}");
    b.finish(again).result.unwrap();

    drop(seed);
    let later = item(&key, "", 7, "a later record");
    assert!(c.run(put(&later, Some(5))).result.is_ok());
    assert_eq!(a.run(get(&record, GetMode::MostRecent)).values.last(), Some(&later));
    let found = c.run(DhtRequest::GetPeers { topic });
    assert!(found.peers.iter().any(|a| a.port() == 4003), "{found:?}");
}

#[test]
fn conflicting_puts_are_told_apart() {
    puts_conflict(Mainline);
}

#[test]
fn conflicting_puts_are_told_apart_by_our_own_nodes() {
    puts_conflict(Native);
}

fn puts_conflict(backend: DhtBackend) {
    let seed = host_of(backend, DhtMode::Private { seed: true }, None, &[]);
    let mut hosts = [0, 1].map(|_| host_of(backend, DhtMode::Private { seed: false }, None, &[seed.addr()]));
    for host in &mut hosts {
        host.wait_for_health(|len, reachable| len >= 2 && reachable);
    }
    let [a, b] = &mut hosts;
    let key = Keypair::from_seed(&[4; 32]);
    a.run(put(&item(&key, "", 10, "first"), None)).result.unwrap();
    assert_eq!(b.run(put(&item(&key, "", 12, "mine"), Some(9))).result, Err(DhtFailed::Cas));
    assert_eq!(b.run(put(&item(&key, "", 9, "old"), None)).result, Err(DhtFailed::SeqTooOld));
    assert!(b.run(put(&item(&key, "", 11, "second"), Some(10))).result.is_ok());
    let mut forged = item(&key, "", 12, "forged");
    forged.signature = Signature([0; 64]);
    assert_eq!(a.run(put(&forged, None)).result, Err(DhtFailed::BadSignature));
    let large = item(&key, "", 13, &"x".repeat(997));
    assert_eq!(a.run(put(&large, None)).result, Err(DhtFailed::TooBig));
    assert!(a.run(put(&item(&key, "", 14, &"x".repeat(996)), None)).result.is_ok());
}

#[test]
fn a_dead_bootstrap_is_told_and_mended_when_it_comes_up() {
    let reserved = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = reserved.local_addr().unwrap();
    drop(reserved);
    let mut lonely = node(&[at]);
    let key = Keypair::from_seed(&[5; 32]);
    let record = item(&key, "", 1, "x");
    assert_eq!(lonely.run(put(&record, None)).result, Err(DhtFailed::NoNodes));
    assert_eq!(lonely.run(get(&record, GetMode::First)).result, Err(DhtFailed::NoNodes));
    lonely.wait_for_health(|len, reachable| len == 0 && !reachable);
    let _seed = host(DhtMode::Private { seed: true }, Some(at.port()), &[]);
    lonely.wait_for_health(|_, reachable| reachable);
    assert!(lonely.run(put(&record, None)).result.is_ok());
}

#[test]
fn the_death_of_all_others_shows_in_the_health() {
    let seed = seed();
    let mut left = node(&[seed.addr()]);
    left.wait_for_health(|_, reachable| reachable);
    drop(seed);
    let record = item(&Keypair::from_seed(&[6; 32]), "", 1, "x");
    assert!(left.run(put(&record, None)).result.is_err());
    left.wait_for_health(|len, reachable| len == 0 && !reachable);
}

#[test]
fn a_changed_network_builds_anew_on_the_same_port() {
    let seed = seed();
    let fixed = node(&[seed.addr()]).addr().port();
    let mut moved = host(DhtMode::Private { seed: false }, Some(fixed), &[seed.addr()]);
    moved.wait_for_health(|_, reachable| reachable);
    let before = moved.addr();
    moved.port.network_changed();
    let record = item(&Keypair::from_seed(&[7; 32]), "", 1, "x");
    let until = Instant::now() + LONG;
    while let Err(why) = moved.run(put(&record, None)).result {
        assert!(Instant::now() < until, "{why}; health {:?}", moved.health);
    }
    assert_eq!(moved.addr(), before);
}

#[test]
fn a_taken_port_is_told_and_tried_again() {
    let seed = seed();
    let taken = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = taken.local_addr().unwrap();
    let mut late = host(DhtMode::Private { seed: false }, Some(at.port()), &[seed.addr()]);
    late.wait_for_health(|_, reachable| !reachable);
    drop(taken);
    late.wait_for_health(|_, reachable| reachable);
    assert_eq!(late.addr(), at);
}

#[test]
fn our_own_node_waits_for_a_taken_port_and_for_its_bootstrap() {
    let taken = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let seed_at = taken.local_addr().unwrap();
    let seed = host_of(Native, DhtMode::Private { seed: true }, Some(seed_at.port()), &[]);
    let mut early = host_of(Native, DhtMode::Private { seed: false }, None, &[seed_at]);
    early.wait_for_health(|len, reachable| len == 0 && !reachable);
    let record = item(&Keypair::from_seed(&[8; 32]), "", 1, "x");
    assert_eq!(early.run(put(&record, None)).result, Err(DhtFailed::NoNodes));
    drop(taken);
    assert_eq!(seed.addr(), seed_at);
    early.wait_for_health(|_, reachable| reachable);
    assert!(early.run(put(&record, None)).result.is_ok());
    drop(seed);
    assert!(early.run(put(&item(&Keypair::from_seed(&[9; 32]), "", 1, "y"), None)).result.is_err());
}

#[test]
fn a_cancelled_operation_ends_once_and_an_unknown_one_is_ignored() {
    let mut lonely = node(&["127.0.0.1:9".parse().unwrap()]);
    let topic = DhtId([1; 20]);
    let running = lonely.ask(DhtRequest::GetPeers { topic });
    let waiting = lonely.ask(DhtRequest::GetPeers { topic });
    for op in [running, waiting, OpId(77)] {
        lonely.port.submit(op, DhtRequest::Cancel).unwrap();
    }
    assert_eq!(lonely.finish(running).result, Err(DhtFailed::Cancelled));
    assert_eq!(lonely.finish(waiting).result, Err(DhtFailed::Cancelled));
    let until = Instant::now() + Duration::from_secs(4);
    while let Some(event) = lonely.next(until) {
        assert!(matches!(event, DhtEvent::Health { .. }), "{event:?}");
    }
}

#[test]
fn without_a_dht_every_operation_is_answered_offline() {
    let off = host(DhtMode::Off, None, &[]);
    let refused = off.port.submit(OpId(1), DhtRequest::GetPeers { topic: DhtId([1; 20]) }).unwrap_err();
    let answer = DhtEvent::Done { op: OpId(1), result: Err(DhtFailed::Offline) };
    assert_eq!(refused.into_event(), Event::Dht(answer));
    off.port.submit(OpId(1), DhtRequest::Cancel).unwrap();
    assert_eq!(off.port.local_addr(), None);
}

#[test]
fn a_name_that_does_not_resolve_is_told_and_the_port_stays_alive() {
    let (tx, events) = async_channel::bounded(64);
    let config = DhtConfig {
        backend: Mainline,
        mode: DhtMode::Private { seed: false },
        socket: DhtSocket::Own { bind: Ipv4Addr::LOCALHOST.into(), port: 0 },
        table_file: None,
        bootstrap: vec!["nobody.invalid:1".into()],
    };
    let mut host = Host { port: DhtPort::start(config, tx).unwrap(), events, next_op: 0, health: None };
    host.wait_for_health(|len, reachable| len == 0 && !reachable);
    let op = host.ask(DhtRequest::GetPeers { topic: DhtId([1; 20]) });
    host.port.submit(op, DhtRequest::Cancel).unwrap();
    assert_eq!(host.finish(op).result, Err(DhtFailed::Cancelled));
}
