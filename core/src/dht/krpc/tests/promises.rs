//! What the node promises to those it does not know, and what its owner's words change.

use super::net::*;
use crate::dht::krpc::message::{Answer, Ask, Body, Outgoing, Put, Signed, read, write_query};
use crate::dht::krpc::node_id::fits;
use crate::dht::krpc::source::{ALLOWANCE_BYTES, ALLOWANCE_PER_SECOND, AMPLIFICATION};
use crate::dht::krpc::token::ROTATE_EVERY;
use crate::dht::krpc::{Config, Input, Presence};
use crate::id::DhtId;
use crate::port::{DhtEvent, DhtFailed, GetMode};
use crate::rng::Rng;
use crate::time::Duration;
use std::net::SocketAddr;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn open(bootstrap: u32) -> Config {
    Config { private_networks: false, presence: Presence::Open, bootstrap: vec![public(bootstrap)] }
}

/// A small public network with a value of 700 bytes under pair 1.
fn public_net(seed: u8) -> Net {
    let mut net = Net::new(seed);
    (0..20).for_each(|n| net.join(public(n), open(u32::from(n == 0))));
    net.run(secs(120));
    net.stored(public(1), signed(1, b"", 1, &"v".repeat(700)));
    net
}

fn ask(id: DhtId, ask: Ask<'_>) -> Vec<u8> {
    write_query(7, &Outgoing { id, read_only: false, want_both: true, ask })
}

fn error_of(replies: &[Vec<u8>]) -> Option<i64> {
    match read(replies.first()?)?.body {
        Body::Error(code) => Some(code),
        Body::Query(_) | Body::Reply(_) | Body::Broken(_) => None,
    }
}

#[test]
fn whoever_never_shows_itself_is_sent_three_times_what_it_sent_and_the_allowance() {
    let mut net = public_net(1);
    let target = crate::dht::item::target(&pair(1).public(), b"");
    let holder = *net.hosts.iter().find(|(_, h)| h.krpc.holds(&target)).unwrap().0;
    let mut dice = Rng::from_seed([8; 32]);
    for stranger in 100..160 {
        let (began, mut received, mut sent) = (net.now, 0, 0);
        for _ in 0..dice.below(60) + 1 {
            let from = at_port(public(stranger), 1_000 + dice.below(3) as u16);
            let id = DhtId([dice.below(4) as u8; 20]);
            let query = match dice.below(7) {
                0 => ask(id, Ask::Ping),
                1 => ask(id, Ask::FindNode(target)),
                2 => ask(id, Ask::GetPeers(target)),
                3 => ask(id, Ask::Announce { topic: target, port: None, token: b"12345678" }),
                4 => ask(
                    id,
                    Ask::Put(Put { token: b"12345678", v: b"1:x", mutable: None, cas: None, age: None }),
                ),
                5 => b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q3:xyz1:t2:aa1:y1:qe".to_vec(),
                _ => ask(id, Ask::Get { target, newer_than: None }),
            };
            received += query.len();
            sent += net.probe(holder, from, &query).iter().map(Vec::len).sum::<usize>();
            if dice.below(8) == 0 {
                net.run(Duration::from_millis(dice.below(5_000)));
                // Pings and whatever else went to it meanwhile.
                let more = (0..3).flat_map(|p| net.take_sent(at_port(public(stranger), 1_000 + p)));
                sent += more.map(|b| b.len()).sum::<usize>();
            }
            let time = net.now.since(began).as_millis() as usize * ALLOWANCE_PER_SECOND / 1_000;
            let most = AMPLIFICATION * received + ALLOWANCE_BYTES + time;
            assert!(sent <= most, "{sent} bytes for {received}, {most} are allowed");
        }
    }
}

#[test]
fn whoever_asks_is_known_when_it_answered_a_ping_and_not_before() {
    let mut net = Net::grown(2, 4);
    let knows =
        |net: &Net, who: SocketAddr| net.hosts[&addr(1)].krpc.table(false).good().any(|n| n.addr == who);
    let id = DhtId([0x99; 20]);
    let sent = net.probe(addr(1), addr(700), &ask(id, Ask::FindNode(id)));
    let ping = sent.iter().find_map(|b| {
        let message = read(b)?;
        matches!(message.body, Body::Query(q) if matches!(q.ask, Ask::Ping)).then(|| message.tid.to_vec())
    });
    assert!(!knows(&net, addr(700)));
    let pong = Answer::new(id, addr(1), &ping.unwrap()).fit(500).unwrap();
    net.probe(addr(1), addr(701), &pong);
    assert!(!knows(&net, addr(700)) && !knows(&net, addr(701)), "from somewhere else");
    net.probe(addr(1), addr(700), &pong);
    assert!(knows(&net, addr(700)));
}

#[test]
fn a_token_holds_for_a_while_for_its_address_and_its_target() {
    let mut net = Net::grown(3, 4);
    let topic = DhtId([3; 20]);
    let token = |net: &mut Net| {
        let sent = net.probe(addr(1), addr(700), &ask(topic, Ask::GetPeers(topic)));
        let token = sent.iter().find_map(|b| match read(b)?.body {
            Body::Reply(reply) => Some(reply.token()?.to_vec()),
            Body::Query(_) | Body::Error(_) | Body::Broken(_) => None,
        });
        token.unwrap()
    };
    let announce = |net: &mut Net, from, topic, token: &[u8]| {
        let sent = net.probe(addr(1), from, &ask(topic, Ask::Announce { topic, port: Some(9), token }));
        let errors = sent.iter().find_map(|b| error_of(std::slice::from_ref(b)));
        errors.unwrap_or(0)
    };
    let early = token(&mut net);
    assert_eq!(announce(&mut net, addr(701), topic, &early), 203);
    assert_eq!(announce(&mut net, addr(700), DhtId([4; 20]), &early), 203);
    net.run(ROTATE_EVERY);
    assert_eq!(announce(&mut net, addr(700), topic, &early), 0, "the secret before is still believed");
    assert_ne!(token(&mut net), early);
    net.run(ROTATE_EVERY);
    assert_eq!(announce(&mut net, addr(700), topic, &early), 203);
}

#[test]
fn immutable_values_and_every_error_of_bep_44_cross_the_wire() {
    let mut net = Net::grown(4, 4);
    let (node, us, id) = (addr(1), addr(700), DhtId([1; 20]));
    let mut put = |put: Put<'_>| {
        let target = put.target();
        let replies = net.probe(node, us, &ask(id, Ask::Get { target, newer_than: None }));
        let reply = replies.iter().find_map(|b| match read(b)?.body {
            Body::Reply(reply) => reply.token().map(<[u8]>::to_vec),
            Body::Query(_) | Body::Error(_) | Body::Broken(_) => None,
        });
        let token = reply.unwrap();
        let code = error_of(&net.probe(node, us, &ask(id, Ask::Put(Put { token: &token, ..put }))));
        net.run(secs(2));
        code
    };
    let plain = |v| Put { token: b"", v, mutable: None, cas: None, age: None };
    assert_eq!(put(plain(b"12:Hello World!")), None);
    assert_eq!(put(plain(&[b"1000:".as_slice(), &[b'x'; 1_000]].concat())), Some(205));
    let item = |seq| signed(1, b"s", seq, "x");
    let mutable = |seq, salt, forged: bool, cas| {
        let i = item(seq);
        let signed =
            Signed { key: *i.key.as_bytes(), seq: seq + u64::from(forged), signature: i.signature, salt };
        Put { token: b"", v: b"1:x", mutable: Some(signed), cas, age: None }
    };
    assert_eq!(put(mutable(5, b"s", true, None)), Some(206));
    assert_eq!(put(mutable(5, &[b's'; 65], false, None)), Some(207));
    assert_eq!(put(mutable(5, b"s", false, None)), None);
    assert_eq!(put(mutable(6, b"s", false, Some(4))), Some(301));
    assert_eq!(put(mutable(4, b"s", false, None)), Some(302));
    assert_eq!(put(mutable(6, b"s", false, Some(5))), None);
    let target = crate::dht::item::target(&pair(1).public(), b"s");
    let got = |net: &mut Net, target, newer_than| {
        let replies = net.probe(node, us, &ask(id, Ask::Get { target, newer_than }));
        replies.iter().any(|b| {
            b.windows(3).any(|w| w == b"1:v") && b.windows(5).any(|w| w == b"1:x1:" || w == b"World")
        })
    };
    assert!(got(&mut net, "e5f96f6f38320f0f33959cb4d3d656452117aadb".parse().unwrap(), None));
    let seq_of = |net: &mut Net, newer_than| {
        let replies = net.probe(node, us, &ask(id, Ask::Get { target, newer_than }));
        replies.iter().any(|b| matches!(read(b).unwrap().body, Body::Reply(r) if r.signed(b"s").is_some()))
    };
    assert!(seq_of(&mut net, Some(5)) && !seq_of(&mut net, Some(6)), "nothing newer: the version alone");
}

#[test]
fn nested_and_oversized_messages_are_refused_and_counted() {
    let mut net = Net::grown(5, 3);
    let nested = [b"d1:ad1:x".as_slice(), &[b'l'; 500], &[b'e'; 500], b"e1:q4:ping1:t2:aa1:y1:qe"].concat();
    assert!(net.probe(addr(1), addr(700), &nested).is_empty());
    assert!(net.probe(addr(1), addr(700), &[b'l'; 2_048]).is_empty());
    assert_eq!(net.refusals(addr(1), "krpc-malformed"), 2);
    let long = [b"d1:a1900:".as_slice(), &[0; 2_100]].concat();
    assert!(net.probe(addr(1), addr(700), &long).is_empty());
    assert_eq!(net.refusals(addr(1), "krpc-too-long"), 1);
}

#[test]
fn the_owners_word_decides_what_queries_say_of_reachability() {
    let mut net = public_net(6);
    let auto = Config { presence: Presence::Auto, ..open(0) };
    net.join(public(50), auto);
    net.run(secs(30));
    let says_read_only = |net: &mut Net| {
        net.begin(public(50), get(9, b"", GetMode::First));
        let sent = (0..20).flat_map(|n| net.take_sent(public(n))).collect::<Vec<_>>();
        let queries: Vec<bool> = sent
            .iter()
            .filter_map(|b| read(b).filter(|m| matches!(m.body, Body::Query(_))).map(|m| m.read_only))
            .collect();
        net.run(secs(20));
        assert!(!queries.is_empty());
        queries.iter().all(|ro| *ro)
    };
    assert!(says_read_only(&mut net));
    net.tell(public(50), Input::Reachable(true));
    assert!(!says_read_only(&mut net));
    net.tell(public(50), Input::NetworkChanged);
    assert!(says_read_only(&mut net), "another network: nothing is proven there");
}

#[test]
fn a_node_that_moved_takes_an_id_that_fits_its_new_address() {
    let mut net = public_net(7);
    net.run(secs(700));
    let mut host = net.hosts.remove(&public(3)).unwrap();
    assert!(fits(host.krpc.table(false).own(), public(3)));
    host.observed.clear();
    net.kill(public(3));
    net.adopt(public(80), host);
    net.tell(public(80), Input::NetworkChanged);
    net.run(secs(1_500));
    let host = &net.hosts[&public(80)];
    assert!(fits(host.krpc.table(false).own(), public(80)));
    assert_eq!(host.observed.last(), Some(&public(80)));
    assert!(host.krpc.table_len() >= 8);
    net.stored(public(80), signed(80, b"", 1, "moved"));
    assert_eq!(net.newest(public(5), 80, b"").as_deref(), Some("moved"));
}

#[test]
fn a_machine_that_stood_still_while_a_holder_died_ends_its_put() {
    let mut net = Net::grown(8, 2);
    let op = net.begin(addr(1), put(signed(1, b"", 1, "x")));
    net.run_to("put");
    net.kill(addr(0));
    net.oversleep(addr(1), secs(10));
    let host = &net.hosts[&addr(1)];
    let ended = |e: &&DhtEvent| matches!(e, DhtEvent::Done { op: o, result: Err(_) } if *o == op);
    assert_eq!(host.events.iter().filter(ended).count(), 1);
    assert_eq!(host.krpc.under_way().0, 0);
}

#[test]
fn a_machine_that_stood_still_while_it_handed_over_hands_over_again() {
    let mut net = Net::new(9);
    net.join(addr(0), config(&[]));
    net.put_at(addr(0), addr(900), &signed(1, b"", 1, "kept"));
    net.join(addr(1), config(&[addr(0)]));
    net.run_to("put");
    assert!(net.hosts[&addr(0)].krpc.hands_over());
    net.kill(addr(1));
    net.oversleep(addr(0), secs(10));
    assert!(!net.hosts[&addr(0)].krpc.hands_over());
    net.join(addr(2), config(&[addr(0)]));
    net.run(secs(30));
    assert_eq!(net.hosts[&addr(2)].krpc.kept().0, 1);
}

#[test]
fn a_node_that_is_named_its_own_address_is_no_holder_of_its_own() {
    let mut net = Net::new(10);
    net.join(addr(0), config(&[addr(0)]));
    net.run(secs(5));
    assert_eq!(net.operate(addr(0), put(signed(1, b"", 1, "x"))).result, Err(DhtFailed::NoNodes));
    net.join(addr(1), config(&[addr(0)]));
    net.run(secs(5));
    assert_eq!(net.stored(addr(0), signed(1, b"", 2, "x")), 1);
}
