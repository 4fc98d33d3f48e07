//! Our own node alone: networks that lose their first nodes, tables on the disk, both families, bursts.

use super::*;
use std::path::Path;

fn own(bind: &str, port: u16, bootstrap: &[SocketAddr], table: Option<&Path>) -> Host {
    start(DhtConfig {
        backend: Native,
        mode: DhtMode::Private { seed: bootstrap.is_empty() },
        socket: DhtSocket::Own { bind: bind.parse().unwrap(), port },
        table_file: table.map(Path::to_owned),
        bootstrap: bootstrap.iter().map(ToString::to_string).collect(),
    })
}

fn local(port: u16, bootstrap: &[SocketAddr]) -> Host {
    own("127.0.0.1", port, bootstrap, None)
}

fn record(n: u8) -> MutableItem {
    item(&Keypair::from_seed(&[n; 32]), "", u64::from(n) + 1, &format!("record of {n}"))
}

/// Everybody finds the record of everybody, themselves included.
fn all_find_all(hosts: &mut [(u8, Host)]) {
    let numbers: Vec<u8> = hosts.iter().map(|(n, _)| *n).collect();
    for (n, host) in hosts {
        for other in &numbers {
            let found = host.run(get(&record(*other), GetMode::First));
            assert_eq!(found.values, [record(*other)], "{n} looks for {other}: {:?}", found.result);
        }
    }
}

fn outlives_its_first_nodes(count: u8, killed: usize) {
    let first = local(0, &[]);
    let at = first.addr();
    let mut hosts = vec![(0, first)];
    hosts.extend((1..count).map(|n| (n, local(0, &[at]))));
    for (n, host) in &mut hosts {
        host.wait_for_health(|_, reachable| reachable);
        // As young nodes do: at once, knowing hardly anybody.
        host.run(put(&record(*n), None)).result.unwrap();
    }
    all_find_all(&mut hosts);
    drop(hosts.drain(..killed));
    all_find_all(&mut hosts);

    // The first one comes back knowing nobody; whoever knew its address brings it the others.
    let mut back = local(at.port(), &[]);
    for (n, host) in &mut hosts {
        let renewed = host.run(put(&record(*n), None));
        assert!(renewed.result.is_ok() || count == 2, "{n}: {:?}", renewed.result);
    }
    back.wait_for_health(|_, reachable| reachable);
    for (n, host) in &mut hosts {
        let until = Instant::now() + LONG;
        while let Err(why) = host.run(put(&record(*n), None)).result {
            assert!(Instant::now() < until, "{n}: {why}");
        }
    }
    back.run(put(&record(0), None)).result.unwrap();
    hosts.push((0, back));
    all_find_all(&mut hosts);
}

#[test]
fn a_network_of_two_outlives_its_first_node_and_takes_it_back() {
    outlives_its_first_nodes(2, 1);
}

#[test]
fn a_network_of_three_outlives_its_first_node_and_takes_it_back() {
    outlives_its_first_nodes(3, 1);
}

#[test]
fn a_network_of_thirty_outlives_its_first_nodes() {
    let first = local(0, &[]);
    let (at, mut hosts) = (first.addr(), vec![(0, first)]);
    hosts.extend((1..30).map(|n| (n, local(0, &[at]))));
    for (n, host) in &mut hosts {
        host.wait_for_health(|_, reachable| reachable);
        host.run(put(&record(*n), None)).result.unwrap();
    }
    all_find_all(&mut hosts);
    drop(hosts.drain(..5));
    all_find_all(&mut hosts);
}

#[test]
fn a_restarted_node_joins_by_its_saved_table_when_its_bootstrap_is_dead() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("table");
    let seed = local(0, &[]);
    let mut others = [0, 1].map(|_| local(0, &[seed.addr()]));
    let mut node = own("127.0.0.1", 0, &[seed.addr()], Some(&table));
    node.wait_for_health(|len, _| len >= 3);
    others.iter_mut().for_each(|h| h.wait_for_health(|len, _| len >= 3));
    others[0].run(put(&record(1), None)).result.unwrap();
    let dead = seed.addr();
    drop(seed);
    drop(node);
    let mut node = own("127.0.0.1", 0, &[dead], Some(&table));
    node.wait_for_health(|len, reachable| len >= 2 && reachable);
    assert_eq!(node.run(get(&record(1), GetMode::First)).values, [record(1)]);
    // A bootstrap that comes back with its own table finds everybody at once, too.
    drop(node);
    let mut without = own("127.0.0.1", 0, &[dead], Some(&dir.path().join("none")));
    without.wait_for_health(|len, reachable| len == 0 && !reachable);
}

#[test]
fn the_table_is_saved_while_the_node_runs() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("table");
    let seed = local(0, &[]);
    let mut node = own("127.0.0.1", 0, &[seed.addr()], Some(&table));
    node.wait_for_health(|_, reachable| reachable);
    let until = Instant::now() + LONG;
    while !table.exists() {
        assert!(Instant::now() < until, "never saved");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(table_file::read(&table).is_some());
}

#[test]
fn a_damaged_table_is_passed_over_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("table");
    std::fs::write(&table, b"remote-network DHT table 1\nnot a table").unwrap();
    let seed = local(0, &[]);
    let mut node = own("127.0.0.1", 0, &[seed.addr()], Some(&table));
    node.wait_for_health(|_, reachable| reachable);
    drop(node);
    assert!(table_file::read(&table).is_some(), "a good one has replaced it");
}

/// False, and said so, where there is no IPv6.
fn ipv6_here() -> bool {
    let here = std::net::UdpSocket::bind("[::1]:0").is_ok();
    if !here {
        eprintln!("SKIPPED: this machine has no ::1");
    }
    here
}

#[test]
fn nodes_of_ipv6_alone_are_a_network() {
    if !ipv6_here() {
        return;
    }
    let seed = own("::1", 0, &[], None);
    let mut hosts = [0, 1].map(|_| own("::1", 0, &[seed.addr()], None));
    hosts.iter_mut().for_each(|h| h.wait_for_health(|len, _| len >= 2));
    let [a, b] = &mut hosts;
    assert!(a.run(put(&record(1), None)).result.unwrap().stored >= 2);
    assert_eq!(b.run(get(&record(1), GetMode::MostRecent)).values, [record(1)]);
    let topic = DhtId([6; 20]);
    a.run(DhtRequest::Announce { topic, port: AnnouncePort::Implied }).result.unwrap();
    assert_eq!(b.run(DhtRequest::GetPeers { topic }).peers, [a.addr()]);
}

#[test]
fn a_node_of_both_families_is_in_both_dhts_and_a_bridge_for_what_it_stores() {
    if !ipv6_here() {
        return;
    }
    let (four, six) = (local(0, &[]), own("::1", 0, &[], None));
    let mut both = own("::", 0, &[four.addr(), six.addr()], None);
    let (mut only_four, mut only_six) = (local(0, &[four.addr()]), own("::1", 0, &[six.addr()], None));
    both.wait_for_health(|len, _| len >= 4);
    only_four.wait_for_health(|len, _| len >= 2);
    only_six.wait_for_health(|len, _| len >= 2);
    both.run(put(&record(1), None)).result.unwrap();
    assert_eq!(only_four.run(get(&record(1), GetMode::First)).values, [record(1)]);
    assert_eq!(only_six.run(get(&record(1), GetMode::First)).values, [record(1)]);
    only_six.run(put(&record(2), None)).result.unwrap();
    assert_eq!(both.run(get(&record(2), GetMode::First)).values, [record(2)]);
    let topic = DhtId([7; 20]);
    only_six.run(DhtRequest::Announce { topic, port: AnnouncePort::Implied }).result.unwrap();
    only_four.run(DhtRequest::Announce { topic, port: AnnouncePort::Implied }).result.unwrap();
    let found = both.run(DhtRequest::GetPeers { topic }).peers;
    assert!(found.contains(&only_four.addr()) && found.contains(&only_six.addr()), "{found:?}");
    let status = status(&both);
    assert_eq!(
        status.families.iter().map(|f| (f.ipv6, f.nodes)).collect::<Vec<_>>(),
        [(false, 2), (true, 2)]
    );
}

fn status(host: &Host) -> DhtStatus {
    let handle = host.port.handle();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(handle.status())
}

#[test]
fn two_hundred_operations_at_once_all_succeed() {
    let seed = local(0, &[]);
    let mut hosts: Vec<Host> = (0..7).map(|_| local(0, &[seed.addr()])).collect();
    hosts.iter_mut().for_each(|h| h.wait_for_health(|len, _| len >= 7));
    let mut all: Vec<MutableItem> = Vec::new();
    for n in 0..200u64 {
        all.push(item(&Keypair::from_seed(&[50; 32]), &format!("salt {n}"), 1, &format!("value {n}")));
    }
    let asker = &mut hosts[0];
    let ops: Vec<OpId> = all.iter().map(|i| asker.ask(put(i, None))).collect();
    let mut done: std::collections::BTreeMap<OpId, Outcome> = collect(asker, &ops);
    for op in &ops {
        let outcome = done.remove(op).unwrap();
        assert!(outcome.result.as_ref().is_ok_and(|d| d.stored >= 7), "{outcome:?}");
    }
    let reader = &mut hosts[6];
    let ops: Vec<OpId> = all.iter().map(|i| reader.ask(get(i, GetMode::MostRecent))).collect();
    let mut done = collect(reader, &ops);
    for (op, wanted) in ops.iter().zip(&all) {
        assert_eq!(done.remove(op).unwrap().values, std::slice::from_ref(wanted));
    }
    let status = status(&hosts[3]);
    assert_eq!((status.operations, status.kept.map(|(values, _)| values)), ((0, 0), Some(200)));
    assert_eq!(status.refused.get("krpc-rate"), None, "{:?}", status.refused);
}

/// Waits for all of these at once.
fn collect(host: &mut Host, ops: &[OpId]) -> std::collections::BTreeMap<OpId, Outcome> {
    let mut values: std::collections::BTreeMap<OpId, Vec<MutableItem>> = Default::default();
    let mut ended = std::collections::BTreeMap::new();
    let until = Instant::now() + LONG;
    while ended.len() < ops.len() {
        match host.next(until).expect("an operation was not answered") {
            DhtEvent::Value { op, item } => values.entry(op).or_default().push(item),
            DhtEvent::Done { op, result } => {
                let values = values.remove(&op).unwrap_or_default();
                let outcome = Outcome { result, values, immutable: None, peers: Vec::new() };
                assert!(ended.insert(op, outcome).is_none(), "answered twice");
            }
            DhtEvent::Peers { .. } | DhtEvent::Immutable { .. } | DhtEvent::Health { .. } => {}
        }
    }
    ended
}

#[test]
fn a_tool_s_operations_never_reach_the_core() {
    for backend in [Native, Mainline] {
        let seed = host_of(backend, DhtMode::Private { seed: true }, None, &[]);
        let mut node = host_of(backend, DhtMode::Private { seed: false }, None, &[seed.addr()]);
        node.wait_for_health(|_, reachable| reachable);
        let handle = node.port.handle();
        let value = Bytes::from_static(b"for everybody");
        let target = remote_network_core::dht::item::immutable_target(&value);
        let topic = DhtId([8; 20]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            handle.run(DhtRequest::PutImmutable { value: value.clone() }).await.result.unwrap();
            assert_eq!(handle.run(DhtRequest::GetImmutable { target }).await.value, Some(value.clone()));
            handle.run(put(&record(1), None)).await.result.unwrap();
            assert_eq!(handle.run(get(&record(1), GetMode::First)).await.items, [record(1)]);
            let port = AnnouncePort::Explicit(4_004);
            handle.run(DhtRequest::Announce { topic, port }).await.result.unwrap();
            let peers = handle.run(DhtRequest::GetPeers { topic }).await.peers;
            assert!(peers.iter().any(|p| p.port() == 4_004), "{peers:?}");
            let status = handle.status().await;
            assert_eq!((status.local, status.read_only), (node.port.local_addr(), Some(false)), "{status:?}");
            assert_eq!(status.families.len(), 1);
        });
        while let Ok(event) = node.events.try_recv() {
            assert!(matches!(event, Event::Dht(DhtEvent::Health { .. })), "{event:?}");
        }
        drop(node);
        assert_eq!(
            runtime.block_on(handle.run(DhtRequest::GetPeers { topic })).result,
            Err(DhtFailed::Offline)
        );
        assert_eq!(runtime.block_on(handle.status()).backend, "off");
    }
}
