//! The node among those who do not keep to the rules.

use super::net::*;
use crate::dht::krpc::call::CALLS_MAX;
use crate::dht::krpc::client::OPS_MAX;
use crate::dht::krpc::message::{Answer, Ask, Body, Outgoing, Put, Signed, read, write_query};
use crate::dht::krpc::server::{REPLY_MAX, VALUE_REPLY_MAX};
use crate::dht::krpc::source::{ALLOWANCE_BYTES, BURST, SOURCES_MAX};
use crate::dht::krpc::{Config, Input, Krpc, Output, Presence};
use crate::id::{DhtId, OpId, Signature};
use crate::laws::{self, Rig};
use crate::port::{AnnouncePort, DhtRequest, GetMode};
use crate::time::Duration;
use bytes::Bytes;
use proptest::prelude::*;
use std::net::SocketAddr;

const STRANGER: DhtId = DhtId([0x55; 20]);

fn ask(ask: Ask<'_>) -> Vec<u8> {
    write_query(7, &Outgoing { id: STRANGER, read_only: true, want_both: false, ask })
}

fn error_of(replies: &[Vec<u8>]) -> Option<i64> {
    match read(replies.first()?)?.body {
        Body::Error(code) => Some(code),
        Body::Query(_) | Body::Reply(_) | Body::Broken(_) => None,
    }
}

fn token_of(net: &mut Net, to: SocketAddr, from: SocketAddr, query: Ask<'_>) -> Vec<u8> {
    let replies = net.probe(to, from, &ask(query));
    let Some(Body::Reply(reply)) = read(&replies[0]).map(|m| m.body) else { panic!("no reply") };
    reply.token().unwrap().to_vec()
}

#[test]
fn tokens_signatures_and_targets_that_do_not_hold_are_refused_and_counted() {
    let mut net = Net::grown(20, 5);
    let (node, us, other) = (addr(1), addr(900), addr(901));
    let item = signed(1, b"", 1, "x");
    let (key, seq, signature) = (*item.key.as_bytes(), 1, item.signature);
    let good = Signed { key, seq, signature, salt: b"" };
    let target = crate::dht::item::target(&item.key, b"");
    let token = token_of(&mut net, node, us, Ask::Get { target, newer_than: None });
    let mut put = |from, token: &[u8], signed: Signed<'_>, v: &[u8]| {
        let bytes = ask(Ask::Put(Put { token, v, mutable: Some(signed), cas: None, age: None }));
        error_of(&net.probe(node, from, &bytes))
    };
    assert_eq!(put(us, b"12345678", good, b"1:x"), Some(203));
    assert_eq!(put(other, &token, good, b"1:x"), Some(203), "somebody else's token");
    assert_eq!(
        put(us, &token, Signed { salt: b"s", ..good }, b"1:x"),
        Some(203),
        "a token for another target"
    );
    assert_eq!(put(us, &token, Signed { signature: Signature([9; 64]), ..good }, b"1:x"), Some(206));
    assert_eq!(put(us, &token, Signed { seq: 2, ..good }, b"1:x"), Some(206));
    assert_eq!(put(us, &token, good, &[b"1000:".as_slice(), &[0; 1000]].concat()), Some(205));
    assert_eq!(put(us, &token, good, b"1:x"), None);
    let topic = DhtId([3; 20]);
    let announce = |token: &[u8]| ask(Ask::Announce { topic, port: Some(5), token });
    assert_eq!(error_of(&net.probe(node, us, &announce(&token))), Some(203), "a token for another target");
    let token = token_of(&mut net, node, us, Ask::GetPeers(topic));
    assert_eq!(error_of(&net.probe(node, us, &announce(&token))), None);
    assert_eq!(net.hosts[&node].krpc.kept(), (1, 1));
    assert_eq!((net.refusals(node, "krpc-protocol"), net.refusals(node, "krpc-bad-signature")), (4, 2));
    let nonsense = b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q3:xyz1:t2:aa1:y1:qe";
    assert_eq!(error_of(&net.probe(node, us, nonsense)), Some(204));
}

#[test]
fn a_source_that_asks_too_much_gets_no_answer_for_a_while() {
    let mut net = Net::new(21);
    let (node, us, other) = (public(0), public(900), public(901));
    let config = Config { private_networks: false, presence: Presence::Open, bootstrap: Vec::new() };
    net.join_with(node, Krpc::new(config));
    let query = ask(Ask::FindNode(DhtId([1; 20])));
    let answered = (0..500).filter(|_| !net.probe(node, us, &query).is_empty()).count();
    assert!(answered <= BURST as usize);
    assert_eq!(net.refusals(node, "krpc-rate"), 500 - BURST);
    assert!(!net.probe(node, other, &query).is_empty());
    net.run(Duration::from_secs(10));
    assert!(!net.probe(node, us, &query).is_empty());
}

#[test]
fn an_unproven_source_gets_three_times_what_it_sent_and_one_reply() {
    let mut net = Net::grown(22, 30);
    let value = "v".repeat(700);
    net.stored(addr(1), signed(1, b"", 1, &value));
    let target = crate::dht::item::target(&pair(1).public(), b"");
    let query = ask(Ask::Get { target, newer_than: None });
    let holders: Vec<SocketAddr> =
        net.hosts.iter().filter(|(_, h)| h.krpc.kept().0 > 0).map(|(a, _)| *a).collect();
    for holder in holders {
        let (mut sent, mut got, mut values) = (0, 0, 0);
        for _ in 0..40 {
            sent += query.len();
            for reply in net.probe(holder, addr(900), &query) {
                got += reply.len();
                assert!(reply.len() <= REPLY_MAX);
                let Some(Body::Reply(reply)) = read(&reply).map(|m| m.body) else { continue };
                values += usize::from(reply.signed(b"").is_some());
            }
        }
        assert!(got <= 3 * sent + ALLOWANCE_BYTES, "{got} for {sent}");
        assert!(values >= 1, "the first reply carried the value home");
    }
}

#[test]
fn the_largest_value_goes_alone_in_one_unfragmented_datagram() {
    let mut net = Net::grown(23, 12);
    let value = "v".repeat(996);
    net.stored(addr(1), signed(1, b"", u64::from(u32::MAX), &value));
    assert_eq!(net.newest(addr(5), 1, b""), Some(value));
    let target = crate::dht::item::target(&pair(1).public(), b"");
    let query = ask(Ask::Get { target, newer_than: None });
    let nodes: Vec<SocketAddr> = net.hosts.keys().copied().collect();
    let sizes = nodes.iter().map(|n| net.probe(*n, addr(900), &query).first().map_or(0, Vec::len));
    let largest = sizes.max().unwrap();
    assert!(largest > 1_000 && largest <= VALUE_REPLY_MAX, "{largest}");
}

#[test]
fn answers_nobody_asked_for_change_nothing() {
    let mut net = Net::grown(24, 5);
    let before = net.table_len(addr(1));
    let reply = Answer::new(STRANGER, addr(1), b"aaaa").fit(500).unwrap();
    (0..100).for_each(|_| assert!(net.probe(addr(1), addr(900), &reply).is_empty()));
    assert_eq!(net.table_len(addr(1)), before);
    assert_eq!(net.refusals(addr(1), "krpc-unasked"), 100);
}

#[test]
fn a_value_of_another_key_or_with_a_broken_signature_is_not_passed_on() {
    let mut net = Net::new(25);
    net.join(addr(0), config(&[addr(900)]));
    // The only bootstrap is a liar, played by the test.
    for lie in 0..3 {
        let op = net.begin(addr(0), super::net::get(1, b"", GetMode::First));
        let item = signed(if lie == 0 { 2 } else { 1 }, b"", 1, "lie");
        let v: &[u8] = if lie == 1 { b"3:LIE" } else { b"3:lie" };
        let mut told = 0;
        for query in net.take_sent(addr(900)) {
            let Some(message) = read(&query) else { continue };
            let mut answer = Answer::new(DhtId([0x77; 20]), addr(0), message.tid);
            answer.held.mutable = Some((*item.key.as_bytes(), item.signature, 1));
            answer.held.v = Some(v);
            let bytes = answer.fit(1_000).unwrap();
            net.tell(addr(0), Input::Datagram { from: addr(900), bytes: bytes.into() });
            told += 1;
        }
        assert!(told > 0);
        net.run(Duration::from_secs(10));
        let events = std::mem::take(&mut net.hosts.get_mut(&addr(0)).unwrap().events);
        let values =
            events.iter().filter(|e| matches!(e, crate::port::DhtEvent::Value { op: o, .. } if *o == op));
        assert_eq!(values.count(), usize::from(lie == 2));
    }
    assert_eq!(net.refusals(addr(0), "krpc-foreign-value"), 1);
    assert_eq!(net.refusals(addr(0), "krpc-forged-value"), 1);
}

#[test]
fn a_flood_of_everything_stays_within_its_bounds() {
    let mut rig = Rig::new(Krpc::new(config(&[addr(1)])), [9; 32]);
    rig.handle(Input::Start);
    for n in 0..20_000u32 {
        let from = (std::net::Ipv4Addr::from(0x1000_0000 + n * 77), 1 + (n % 9_999) as u16).into();
        let mut id = [0; 20];
        id[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_be_bytes());
        let out =
            Outgoing { id: DhtId(id), read_only: false, want_both: true, ask: Ask::GetPeers(DhtId(id)) };
        rig.handle(Input::Datagram { from, bytes: write_query(n, &out).into() });
        let topic = DhtId(id);
        let port = AnnouncePort::Implied;
        rig.handle(Input::Request { op: OpId(u64::from(n)), request: DhtRequest::Announce { topic, port } });
        if n % 1_000 == 0 {
            rig.advance(Duration::from_millis(100));
        }
        rig.outputs();
        let (ops, calls) = rig.machine.under_way();
        assert!(ops <= OPS_MAX && calls <= CALLS_MAX);
    }
    let most = 200_000 + 110 * SOURCES_MAX + 8_000 * OPS_MAX * 3;
    assert!(rig.machine.memory_bytes() < most, "{}", rig.machine.memory_bytes());
    rig.advance(Duration::from_secs(1_800));
    assert_eq!(rig.machine.under_way().0, 0);
    assert!(rig.machine.memory_bytes() < 10_000, "{}", rig.machine.memory_bytes());
}

fn arb_addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![4 => (0u32..6).prop_map(addr), 1 => (0u32..3).prop_map(addr6), 1 => (0u32..3).prop_map(public)]
}

/// Datagrams of all kinds, from a few addresses with few ids, so that some meet queries under way.
fn arb_datagram() -> impl Strategy<Value = Bytes> {
    let id = (0u8..6).prop_map(|n| DhtId([n.wrapping_mul(43); 20]));
    let query = (id.clone(), id.clone(), 0u8..7, any::<bool>()).prop_map(|(id, target, kind, read_only)| {
        let ask = match kind {
            0 => Ask::Ping,
            1 => Ask::FindNode(target),
            2 => Ask::GetPeers(target),
            3 => Ask::Announce { topic: target, port: None, token: b"12345678" },
            4 => Ask::Get { target, newer_than: None },
            5 => Ask::Put(Put { token: b"12345678", v: b"1:x", mutable: None, cas: None, age: None }),
            _ => Ask::Get { target, newer_than: Some(1) },
        };
        Bytes::from(write_query(1, &Outgoing { id, read_only, want_both: true, ask }))
    });
    let reply = (id, any::<[u8; 4]>())
        .prop_map(|(id, tid)| Bytes::from(Answer::new(id, addr(1), &tid).fit(500).unwrap()));
    let noise = prop::collection::vec(any::<u8>(), 0..60).prop_map(Bytes::from);
    prop_oneof![4 => query, 1 => reply, 1 => noise]
}

fn arb_request() -> impl Strategy<Value = DhtRequest> {
    let topic = (0u8..3).prop_map(|n| DhtId([n; 20]));
    prop_oneof![
        topic.clone().prop_map(|topic| DhtRequest::GetPeers { topic }),
        topic.prop_map(|topic| DhtRequest::Announce { topic, port: AnnouncePort::Explicit(1) }),
        (0u32..3, 0u64..3).prop_map(|(n, seq)| super::net::put(signed(n, b"", seq, "x"))),
        (0u32..3).prop_map(|n| super::net::get(n, b"", GetMode::First)),
        Just(DhtRequest::Cancel),
    ]
}

fn arb_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        2 => Just(Input::Start),
        12 => (arb_addr(), arb_datagram()).prop_map(|(from, bytes)| Input::Datagram { from, bytes }),
        6 => (0u64..5, arb_request()).prop_map(|(op, request)| Input::Request { op: OpId(op), request }),
        1 => prop::collection::vec(arb_addr(), 0..20).prop_map(Input::Bootstrap),
        1 => any::<bool>().prop_map(Input::Reachable),
        1 => Just(Input::NetworkChanged),
        1 => Just(Input::Save),
    ]
}

#[test]
fn the_laws_of_machines_hold() {
    let make = || Krpc::new(config(&[addr(0), addr6(0), public(1)]));
    laws::check_within(make, arb_input(), |k| {
        assert!(k.under_way().0 <= OPS_MAX && k.under_way().1 <= CALLS_MAX);
    });
}

#[test]
fn a_node_that_was_never_started_says_nothing_but_that() {
    let mut rig = Rig::new(Krpc::new(config(&[addr(0)])), [1; 32]);
    let query = ask(Ask::Ping);
    let out = rig.tell(Input::Datagram { from: addr(1), bytes: query.into() });
    assert_eq!(out, [Output::Refused("krpc-source")]);
    let request = DhtRequest::GetPeers { topic: STRANGER };
    let out = rig.tell(Input::Request { op: OpId(1), request });
    assert!(matches!(out[..], [Output::Event(crate::port::DhtEvent::Done { op: OpId(1), result: Err(_) })]));
    assert!(rig.wait(Duration::from_secs(999)).is_empty());
}
