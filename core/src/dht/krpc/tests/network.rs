//! Networks of two to three hundred nodes.

use super::net::*;
use crate::dht::krpc::node_id::fits;
use crate::dht::krpc::{Config, Input, Krpc, Presence};
use crate::id::DhtId;
use crate::port::{AnnouncePort, DhtEvent, DhtFailed, DhtRequest, GetMode};
use crate::time::Duration;
use std::net::SocketAddr;

const TOPIC: DhtId = DhtId([0x28; 20]);

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[test]
fn two_nodes_are_a_network_and_either_finds_what_the_other_stored() {
    let mut net = Net::new(1);
    net.join(addr(0), config(&[]));
    net.join(addr(1), config(&[addr(0)]));
    net.run(secs(5));
    assert_eq!(
        (net.table_len(addr(0)), net.table_len(addr(1))),
        (1, 1),
        "the first one met whoever asked it"
    );
    assert_eq!(net.stored(addr(0), signed(0, b"", 1, "zero")), 1);
    assert_eq!(net.stored(addr(1), signed(1, b"", 1, "one")), 1);
    for at in [addr(0), addr(1)] {
        assert_eq!(net.newest(at, 0, b"").as_deref(), Some("zero"));
        assert_eq!(net.newest(at, 1, b"").as_deref(), Some("one"));
    }
    assert!(net.operate(addr(0), announce(TOPIC, 7)).result.is_ok());
    assert!(net.operate(addr(1), announce(TOPIC, 8)).result.is_ok());
    for at in [addr(0), addr(1)] {
        let seen = net.operate(at, DhtRequest::GetPeers { topic: TOPIC }).peers;
        assert!(seen.contains(&at_port(addr(1), 8)) || seen.contains(&at_port(addr(0), 7)), "{seen:?}");
    }
}

#[test]
fn of_three_nodes_the_first_may_go() {
    let mut net = Net::grown(2, 3);
    assert!(net.hosts.values().all(|h| h.krpc.table_len() == 2));
    net.stored(addr(1), signed(1, b"", 1, "one"));
    net.kill(addr(0));
    net.run(secs(60));
    assert_eq!(net.newest(addr(2), 1, b"").as_deref(), Some("one"));
    net.stored(addr(2), signed(2, b"", 1, "two"));
    assert_eq!(net.newest(addr(1), 2, b"").as_deref(), Some("two"));
}

#[test]
fn thirty_nodes_find_each_others_values_and_peers() {
    let mut net = Net::grown(3, 30);
    for n in 0..30 {
        assert!(net.stored(addr(n), signed(n, b"", 1, &format!("value {n}"))) >= 8);
        assert_eq!(
            net.operate(addr(n), announce(TOPIC, 1_000 + n as u16)).result.map(|d| d.stored >= 8),
            Ok(true)
        );
    }
    for n in 0..30 {
        let other = (n * 7 + 3) % 30;
        assert_eq!(net.newest(addr(n), other, b""), Some(format!("value {other}")));
        let peers = net.operate(addr(n), DhtRequest::GetPeers { topic: TOPIC }).peers;
        assert_eq!(peers.len(), 30, "everybody who announced");
    }
    let implied = DhtRequest::Announce { topic: DhtId([9; 20]), port: AnnouncePort::Implied };
    assert!(net.operate(addr(4), implied).result.is_ok());
    let peers = net.operate(addr(5), DhtRequest::GetPeers { topic: DhtId([9; 20]) }).peers;
    assert_eq!(peers.into_iter().collect::<Vec<_>>(), [addr(4)], "at the port the announcement came from");
}

#[test]
fn salts_are_slots_of_their_own() {
    let mut net = Net::grown(4, 10);
    net.stored(addr(1), signed(1, b"", 5, "plain"));
    net.stored(addr(1), signed(1, b"a", 1, "with a"));
    net.stored(addr(1), signed(1, b"b", 2, "with b"));
    assert_eq!(net.newest(addr(2), 1, b"").as_deref(), Some("plain"));
    assert_eq!(net.newest(addr(2), 1, b"a").as_deref(), Some("with a"));
    assert_eq!(net.newest(addr(2), 1, b"b").as_deref(), Some("with b"));
    assert_eq!(net.newest(addr(2), 1, b"c"), None);
}

#[test]
fn versions_only_go_up_and_cas_must_match() {
    let mut net = Net::grown(5, 20);
    net.stored(addr(1), signed(1, b"", 5, "five"));
    let result = |net: &mut Net, seq, text, cas| {
        let item = signed(1, b"", seq, text);
        net.operate(addr(2), DhtRequest::PutMutable { item, cas }).result
    };
    assert_eq!(result(&mut net, 4, "four", None), Err(DhtFailed::SeqTooOld));
    assert_eq!(result(&mut net, 5, "other five", None), Err(DhtFailed::SeqTooOld));
    assert_eq!(result(&mut net, 6, "six", Some(4)), Err(DhtFailed::Cas));
    assert_eq!(net.newest(addr(3), 1, b"").as_deref(), Some("five"));
    assert!(result(&mut net, 5, "five", None).is_ok(), "the same again keeps it alive");
    assert!(result(&mut net, 6, "six", Some(5)).is_ok());
    assert_eq!(net.newest(addr(3), 1, b"").as_deref(), Some("six"));
    let done = net.operate(addr(3), get(1, b"", GetMode::First)).result.unwrap();
    assert_eq!(done.newest_seq, Some(6));
}

#[test]
fn a_first_value_does_not_wait_for_the_end_of_the_lookup() {
    let mut net = Net::grown(6, 60);
    net.stored(addr(1), signed(1, b"", 1, "early"));
    let first = net.operate(addr(40), get(1, b"", GetMode::First));
    let all = net.operate(addr(40), get(1, b"", GetMode::MostRecent));
    assert_eq!((first.values.len(), all.values.len()), (1, 1));
    assert!(first.took < all.took, "{:?} {:?}", first.took, all.took);
}

#[test]
fn every_operation_ends_once_also_when_cancelled_or_alone() {
    let mut net = Net::new(7);
    net.join(addr(0), config(&[]));
    assert_eq!(net.operate(addr(0), get(1, b"", GetMode::First)).result, Err(DhtFailed::NoNodes));
    net.join(addr(1), config(&[addr(99)]));
    let ended = net.operate(addr(1), put(signed(1, b"", 1, "nobody")));
    assert_eq!((ended.result, ended.took), (Err(DhtFailed::NoNodes), secs(4)));
    let op = net.begin(addr(1), get(1, b"", GetMode::MostRecent));
    net.tell(addr(1), Input::Request { op, request: DhtRequest::Cancel });
    net.tell(addr(1), Input::Request { op, request: DhtRequest::Cancel });
    net.run(secs(20));
    let ends: Vec<_> =
        net.hosts[&addr(1)].events.iter().filter(|e| matches!(e, DhtEvent::Done { .. })).collect();
    assert_eq!(ends, [&DhtEvent::Done { op, result: Err(DhtFailed::Cancelled) }]);
    let mut forged = signed(1, b"", 1, "x");
    forged.seq = 2;
    assert_eq!(net.operate(addr(1), put(forged)).result, Err(DhtFailed::BadSignature));
}

#[test]
fn an_unreachable_bootstrap_that_comes_up_is_found_within_seconds() {
    let mut net = Net::new(8);
    net.join(addr(1), config(&[addr(0)]));
    net.run(secs(300));
    assert_eq!(net.table_len(addr(1)), 0);
    net.join(addr(0), config(&[]));
    net.run(secs(17));
    assert_eq!((net.table_len(addr(0)), net.table_len(addr(1))), (1, 1));
    net.join(addr(2), config(&[]));
    net.run(secs(2));
    net.tell(addr(2), Input::Bootstrap(vec![addr(1)]));
    net.run(secs(2));
    assert_eq!(net.table_len(addr(2)), 2, "told later, joined at once");
}

#[test]
fn the_first_nodes_may_die_and_a_restarted_bootstrap_fills_again() {
    let mut net = Net::grown(9, 40);
    for n in 10..40 {
        net.stored(addr(n), signed(n, b"", 1, &format!("{n}")));
    }
    (0..5).for_each(|n| net.kill(addr(n)));
    for n in 10..40 {
        let other = 10 + (n * 11) % 30;
        assert_eq!(net.newest(addr(n), other, b""), Some(format!("{other}")));
    }
    // Back without memory, and with an address of somebody who is still there.
    net.join(addr(0), config(&[addr(20)]));
    net.run(secs(60));
    assert!(net.table_len(addr(0)) >= 15, "{}", net.table_len(addr(0)));
    net.join(addr(77), config(&[addr(0)]));
    net.run(secs(30));
    assert_eq!(net.newest(addr(77), 33, b"").as_deref(), Some("33"));
}

#[test]
fn a_restart_needs_no_bootstrap_when_the_table_was_saved() {
    let mut net = Net::grown(10, 20);
    let saved = net.hosts[&addr(7)].krpc.saved();
    net.tell(addr(7), Input::Save);
    let id = *net.hosts[&addr(7)].krpc.table(false).own();
    net.kill(addr(7));
    let mut back = Krpc::new(config(&[]));
    back.restore(&saved).unwrap();
    assert_eq!(back.saved(), saved, "knows what the last run knew, should it stop at once");
    net.join_with(addr(7), back);
    net.run(secs(20));
    assert!(net.table_len(addr(7)) >= 10);
    assert_eq!(*net.hosts[&addr(7)].krpc.table(false).own(), id);
    assert!(Krpc::new(config(&[])).restore(&saved[1..]).is_err());
}

#[test]
fn three_hundred_nodes_with_loss_survive_the_end_of_a_third() {
    let mut net = Net::grown(11, 300);
    net.loss_ppm = 10_000;
    for n in 0..60 {
        assert!(net.stored(addr(n), signed(n, b"", 1, &format!("{n}"))) >= 5);
    }
    for n in 0..60 {
        assert_eq!(net.newest(addr(299 - n), n, b""), Some(format!("{n}")), "all are found");
    }
    (0..300).filter(|n| n % 10 >= 7).for_each(|n| net.kill(addr(n)));
    let alive: Vec<u32> = (0..300).filter(|n| n % 10 < 7).collect();
    let found = (0..60).filter(|n| {
        let at = alive[(*n as usize * 13) % alive.len()];
        net.newest(addr(at), *n, b"") == Some(format!("{n}"))
    });
    assert_eq!(found.count(), 60);
    net.run(secs(1_800));
    let (mut known, mut dead) = (0, 0);
    for host in net.hosts.values() {
        let believed = host.krpc.table(false).entries().filter(|e| e.fails == 0);
        let gone = believed.filter(|e| !net.hosts.contains_key(&e.node.addr)).count();
        (known, dead) = (known + host.krpc.table_len(), dead + gone);
        assert!(host.krpc.table_len() >= 20);
        assert!(host.krpc.memory_bytes() < 20_000, "{}", host.krpc.memory_bytes());
    }
    assert!(dead * 100 < known, "half an hour later {dead} of {known} entries are of the dead");
}

#[test]
fn equal_seeds_give_equal_packets() {
    let hash = |seed| {
        let mut net = Net::grown(seed, 25);
        net.stored(addr(3), signed(3, b"", 1, "x"));
        (net.packets, net.trace.finalize())
    };
    assert_eq!(hash(12), hash(12));
    assert_ne!(hash(12), hash(13));
}

#[test]
fn ipv6_is_a_network_of_its_own() {
    let mut net = Net::new(14);
    for n in 0..20 {
        net.join(addr6(n), config(&[addr6(0)]));
        net.run(secs(1));
    }
    net.run(secs(60));
    assert!(net.hosts.values().all(|h| h.krpc.table(true).len() >= 8 && h.krpc.table(false).is_empty()));
    assert!(net.stored(addr6(3), signed(3, b"", 1, "six")) >= 8);
    assert_eq!(net.newest(addr6(9), 3, b"").as_deref(), Some("six"));
    assert!(net.operate(addr6(3), announce(TOPIC, 5)).result.is_ok());
    let peers = net.operate(addr6(9), DhtRequest::GetPeers { topic: TOPIC }).peers;
    assert!(peers.contains(&at_port(addr6(3), 5)));
}

#[test]
fn public_nodes_take_ids_that_fit_where_others_see_them() {
    let mut net = Net::new(15);
    let open =
        |bootstrap: Vec<SocketAddr>| Config { private_networks: false, presence: Presence::Open, bootstrap };
    for n in 0..30 {
        net.join(public(n), open(vec![public(u32::from(n == 0))]));
        net.run(secs(2));
    }
    net.run(secs(900));
    for (at, host) in &net.hosts {
        assert!(fits(host.krpc.table(false).own(), *at), "{at}");
        assert_eq!(host.observed.last(), Some(at));
        assert!(host.krpc.table_len() >= 8);
    }
    assert!(net.stored(public(3), signed(3, b"", 1, "public")) >= 8);
    assert_eq!(net.newest(public(17), 3, b"").as_deref(), Some("public"));
    // Private addresses mean nothing here, wherever they come from.
    net.probe(public(3), addr(1), b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q4:ping1:t2:aa1:y1:qe");
    assert_eq!(net.refusals(public(3), "krpc-source"), 1);
}

#[test]
fn a_read_only_node_uses_the_network_and_is_in_no_table() {
    let mut net = Net::new(16);
    let at = |presence, n| Config { private_networks: false, presence, bootstrap: vec![public(n)] };
    for n in 0..15 {
        net.join(public(n), at(Presence::Open, u32::from(n == 0)));
    }
    net.run(secs(60));
    net.join(public(50), at(Presence::Auto, 0));
    net.join(public(51), at(Presence::ReadOnly, 0));
    net.run(secs(60));
    assert!(net.hosts[&public(50)].krpc.read_only());
    for n in [50, 51] {
        assert!(net.table_len(public(n)) >= 8);
        assert!(net.stored(public(n), signed(n, b"", 1, "ro")) >= 8);
        assert_eq!(net.newest(public(3), n, b"").as_deref(), Some("ro"));
        let known = |h: &Host| h.krpc.table(false).entries().any(|e| e.node.addr == public(n));
        assert!(!net.hosts.values().any(known));
    }
    // Somebody it never wrote to reaches it: proven.
    net.run(secs(600));
    net.probe(public(50), public(99), b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q4:ping1:t2:aa1:y1:qe");
    assert!(!net.hosts[&public(50)].krpc.read_only());
    net.operate(public(50), get(3, b"", GetMode::MostRecent));
    net.run(secs(60));
    assert!(net.hosts.values().any(|h| h.krpc.table(false).entries().any(|e| e.node.addr == public(50))));
}
