//! Immutable items, and what private networks are like.

use super::net::*;
use crate::dht::item::immutable_target;
use crate::dht::krpc::{Config, Krpc, Presence};
use crate::port::{DhtEvent, DhtFailed, DhtRequest};
use crate::time::Duration;
use bytes::Bytes;

fn values(net: &mut Net, n: u32, request: DhtRequest) -> Vec<Bytes> {
    let op = net.begin(addr(n), request);
    net.run(Duration::from_secs(10));
    let told = |e: &DhtEvent| match e {
        DhtEvent::Immutable { op: o, value } if *o == op => Some(value.clone()),
        _ => None,
    };
    net.hosts[&addr(n)].events.iter().filter_map(told).collect()
}

#[test]
fn an_immutable_item_is_found_under_its_hash_by_everybody() {
    let mut net = Net::grown(21, 12);
    let value = Bytes::from_static(b"Hello World!");
    let target = immutable_target(&value);
    let stored = net.operate(addr(3), DhtRequest::PutImmutable { value: value.clone() }).result.unwrap();
    assert!(stored.stored >= 8, "{stored:?}");
    for n in 0..12 {
        let found = values(&mut net, n, DhtRequest::GetImmutable { target });
        assert_eq!(found, std::slice::from_ref(&value), "{n}");
    }
    let nowhere = DhtRequest::GetImmutable { target: crate::id::DhtId([7; 20]) };
    assert_eq!(values(&mut net, 1, nowhere), Vec::<Bytes>::new());
}

#[test]
fn an_immutable_item_has_the_size_bep_44_allows() {
    let mut net = Net::grown(22, 2);
    let put = |len| DhtRequest::PutImmutable { value: Bytes::from(vec![b'x'; len]) };
    assert_eq!(net.operate(addr(1), put(997)).result, Err(DhtFailed::TooBig));
    assert!(net.operate(addr(1), put(996)).result.is_ok());
}

#[test]
fn a_mutable_item_is_no_immutable_one() {
    let mut net = Net::grown(23, 8);
    let item = signed(1, b"", 1, "mine");
    net.stored(addr(1), item.clone());
    let target = crate::dht::item::target(&item.key, b"");
    assert_eq!(values(&mut net, 2, DhtRequest::GetImmutable { target }), Vec::<Bytes>::new());
    assert!(net.refusals(addr(2), "krpc-forged-value") > 0);
}

#[test]
fn a_neighbour_in_a_private_network_may_ask_more_than_a_stranger() {
    let answered = |private: bool| {
        let mut net = Net::new(24);
        let node = public(0);
        let config = Config { private_networks: private, presence: Presence::Open, bootstrap: Vec::new() };
        net.join_with(node, Krpc::new(config));
        let ping = b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q4:ping1:t2:aa1:y1:qe";
        (0..1_000).filter(|_| !net.probe(node, public(900), ping).is_empty()).count()
    };
    assert_eq!(answered(true), 1_000);
    assert!(answered(false) < 100);
}

#[test]
fn the_death_of_all_others_is_told_without_anybody_asking() {
    let mut net = Net::grown(25, 5);
    (1..5).for_each(|n| net.kill(addr(n)));
    net.hosts.get_mut(&addr(0)).unwrap().events.clear();
    // A small neighbourhood is visited every minute; then two silences of four seconds.
    net.run(Duration::from_secs(66 + 10));
    let health = net.hosts[&addr(0)].events.iter().rev().find_map(|e| match e {
        DhtEvent::Health { table_len, reachable } => Some((*table_len, *reachable)),
        _ => None,
    });
    assert_eq!(health, Some((0, false)));
}

#[test]
fn a_bootstrap_that_comes_back_knowing_nobody_is_visited_by_those_who_know_many() {
    let mut net = Net::grown(26, 20);
    net.kill(addr(0));
    net.run(Duration::from_secs(1_500));
    net.join(addr(0), config(&[]));
    net.run(Duration::from_secs(700));
    assert!(net.table_len(addr(0)) >= 8, "{}", net.table_len(addr(0)));
}
