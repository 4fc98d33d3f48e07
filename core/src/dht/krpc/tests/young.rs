//! Young networks: values are put while their putters know few, and must be found when everybody knows many.

use super::net::*;
use crate::dht::krpc::Krpc;
use crate::dht::krpc::node_id::distance;
use crate::time::Duration;
use std::net::SocketAddr;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// `count` nodes that begin within a second, each of which puts its value 20 ms after its first breath.
fn burst(seed: u8, count: u32, loss_ppm: u32) -> Net {
    let mut net = Net::new(seed);
    net.loss_ppm = loss_ppm;
    for n in 0..count {
        net.join(addr(n), config(&[addr(u32::from(n == 0))]));
        net.run(Duration::from_millis(20));
        net.begin(addr(n), put(signed(n, b"", 1, &format!("{n}"))));
        net.run(Duration::from_millis(1_000 / u64::from(count)).saturating_sub(Duration::from_millis(20)));
    }
    net
}

/// How many of the lookups of everybody by everybody fail.
fn missed(net: &mut Net, count: u32) -> usize {
    missed_at(addr, net, count)
}

fn missed_at(addr: fn(u32) -> SocketAddr, net: &mut Net, count: u32) -> usize {
    let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
    pairs.filter(|(a, b)| net.newest(addr(*a), *b, b"") != Some(format!("{b}"))).count()
}

#[test]
fn thirty_nodes_that_start_and_publish_within_a_second_find_each_other() {
    for seed in 0..4 {
        let mut net = burst(seed, 30, 10_000);
        net.run(secs(10));
        assert_eq!(missed(&mut net, 30), 0, "seed {seed}");
    }
}

#[test]
fn a_private_network_on_public_addresses_may_be_all_of_one_network_or_behind_one_address() {
    let one_network: fn(u32) -> SocketAddr = |n| ([203, 0, 113, n as u8], 6881).into();
    let one_address: fn(u32) -> SocketAddr = |n| ([203, 0, 113, 1], 6881 + n as u16).into();
    let one_48: fn(u32) -> SocketAddr = |n| ([0x2600, 1, 2, n as u16, 0, 0, 0, 1], 6881).into();
    for at in [one_network, one_address, one_48] {
        let mut net = Net::new(7);
        for n in 0..30 {
            net.join_with(at(n), Krpc::new(config(&[at(u32::from(n == 0))])));
            net.run(Duration::from_millis(20));
            net.begin(at(n), put(signed(n, b"", 1, &format!("{n}"))));
        }
        net.run(secs(10));
        assert!(net.hosts.values().all(|h| h.krpc.table_len() >= 10), "{}", at(0));
        assert_eq!(missed_at(at, &mut net, 30), 0, "{}", at(0));
    }
}

#[test]
fn values_move_to_those_who_came_closer_and_outlive_the_first_holders() {
    let mut net = burst(9, 60, 0);
    net.run(secs(60));
    for n in 0..60 {
        let key = crate::dht::item::target(&pair(n).public(), b"");
        let mut nodes: Vec<_> = net.hosts.values().collect();
        nodes.sort_by_key(|h| distance(h.krpc.table(false).own(), &key));
        let holding = nodes.iter().take(8).filter(|h| h.krpc.holds(&key)).count();
        assert!(holding >= 7, "value {n} lies at {holding} of the eight closest");
    }
    (0..5).for_each(|n| net.kill(addr(n)));
    for n in 5..60 {
        assert_eq!(net.newest(addr(n), (n + 17) % 60, b""), Some(format!("{}", (n + 17) % 60)));
    }
}

#[test]
fn what_is_put_before_anybody_is_there_is_brought_to_the_first_who_come() {
    let mut net = Net::new(1);
    net.join(addr(0), config(&[]));
    assert!(net.operate(addr(0), put(signed(0, b"", 1, "early"))).result.is_err());
    (1..4).for_each(|n| net.join(addr(n), config(&[addr(0)])));
    net.run(secs(20));
    net.kill(addr(0));
    net.run(secs(10));
    assert_eq!(net.newest(addr(3), 0, b"").as_deref(), Some("early"));
}

#[test]
fn a_network_that_has_settled_hands_nothing_over() {
    let mut net = burst(3, 40, 0);
    net.run(secs(300));
    let puts = |net: &mut Net| {
        net.seen.clear();
        net.run(secs(300));
        net.seen.iter().filter(|m| **m == "put").count()
    };
    assert_eq!(puts(&mut net), 0);
    // One more: it gets what it is close to, each value from at most three, and nobody else gets anything.
    net.join(addr(40), config(&[addr(7)]));
    let brought = puts(&mut net);
    let holds = net.hosts[&addr(40)].krpc.kept().0;
    assert!(holds >= 3 && brought <= 3 * holds + 10, "{brought} puts for {holds} values");
}

#[test]
fn a_new_version_costs_a_small_network_no_more_than_its_put() {
    let mut net = Net::grown(6, 15);
    net.run(secs(300));
    net.stored(addr(3), signed(3, b"", 1, "one"));
    net.run(secs(60));
    net.seen.clear();
    let stored = net.stored(addr(3), signed(3, b"", 2, "two"));
    net.run(secs(60));
    let count = |method| net.seen.iter().filter(|m| **m == method).count();
    assert_eq!((stored, count("put")), (14, 14));
    assert!(count("get") <= 14, "{} queries", count("get"));
}

#[test]
fn a_stranger_who_puts_where_it_does_not_belong_costs_the_network_little() {
    let mut net = Net::grown(5, 60);
    net.run(secs(300));
    let key = crate::dht::item::target(&pair(7).public(), b"");
    let farthest = net.hosts.iter().max_by_key(|(_, h)| distance(h.krpc.table(false).own(), &key));
    let farthest = *farthest.unwrap().0;
    net.put_at(farthest, addr(900), &signed(7, b"", 1, "misplaced"));
    net.seen.clear();
    net.run(secs(1_200));
    let cost = net.seen.iter().filter(|m| ["get", "put"].contains(*m)).count();
    assert!(cost <= 40, "{cost} queries");
    assert_eq!(net.newest(addr(1), 7, b"").as_deref(), Some("misplaced"));
}

#[test]
fn values_that_are_handed_over_do_not_outlive_their_two_hours() {
    let mut net = Net::grown(12, 12);
    net.stored(addr(1), signed(1, b"", 1, "mortal"));
    for n in 12..16 {
        net.join(addr(n), config(&[addr(2)]));
        net.run(secs(1_770));
    }
    assert!(net.hosts[&addr(14)].krpc.kept().0 == 1, "it was handed over");
    assert_eq!(net.newest(addr(15), 1, b"").as_deref(), Some("mortal"));
    net.run(secs(420));
    assert_eq!(net.hosts.values().map(|h| h.krpc.kept().0).sum::<usize>(), 0);
    for n in 16..24 {
        net.join(addr(n), config(&[addr(2)]));
        net.run(secs(1_800));
        assert_eq!(net.newest(addr(n), 1, b""), None);
    }
}

#[test]
fn a_value_that_its_owner_does_not_renew_is_gone_after_two_hours() {
    let mut net = burst(4, 30, 0);
    net.run(secs(2 * 3_600 + 300));
    assert_eq!(net.hosts.values().map(|h| h.krpc.kept().0).sum::<usize>(), 0);
    assert_eq!(net.newest(addr(3), 4, b""), None);
}
