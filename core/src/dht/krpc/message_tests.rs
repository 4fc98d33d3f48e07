use super::*;
use crate::codec::Value;
use proptest::prelude::*;

const ID: DhtId = DhtId([7; 20]);

fn outgoing(ask: Ask<'_>) -> Vec<u8> {
    write_query(0x0102_0304, &Outgoing { id: ID, read_only: true, want_both: true, ask })
}

fn canonical(bytes: &[u8]) {
    assert!(Value::decode(bytes, DATAGRAM_MAX).is_ok(), "{}", String::from_utf8_lossy(bytes));
}

fn query(bytes: &[u8]) -> Query<'_> {
    match read(bytes).unwrap().body {
        Body::Query(q) => q,
        other => panic!("{other:?}"),
    }
}

fn node(n: u8) -> NodeAddr {
    NodeAddr { id: DhtId([n; 20]), addr: ([203, 0, 113, n], 6881).into() }
}

#[test]
fn every_query_of_ours_is_canonical_and_read_as_it_was_meant() {
    let signed = Signed { key: [1; 32], seq: 9, signature: Signature([2; 64]), salt: b"s" };
    let put = Put { token: b"tok", v: b"5:hello", mutable: Some(signed), cas: Some(8), age: Some(60) };
    let asks = [
        Ask::Ping,
        Ask::FindNode(DhtId([1; 20])),
        Ask::GetPeers(DhtId([2; 20])),
        Ask::Announce { topic: DhtId([3; 20]), port: None, token: b"x" },
        Ask::Announce { topic: DhtId([3; 20]), port: Some(80), token: b"x" },
        Ask::Get { target: DhtId([4; 20]), newer_than: Some(3) },
        Ask::Get { target: DhtId([4; 20]), newer_than: None },
        Ask::Put(put),
        Ask::Put(Put { mutable: None, cas: None, ..put }),
    ];
    for ask in asks {
        let bytes = outgoing(ask);
        canonical(&bytes);
        let message = read(&bytes).unwrap();
        assert_eq!((message.tid, message.read_only), ([1, 2, 3, 4].as_slice(), true));
        let back = query(&bytes);
        assert_eq!(format!("{:?}", back.ask), format!("{ask:?}"));
        assert_eq!(back.id, ID);
    }
}

#[test]
fn the_examples_of_bep_5_are_read() {
    let ping = query(b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe");
    assert!(matches!(ping.ask, Ask::Ping) && ping.id == DhtId(*b"abcdefghij0123456789"));
    let announce = query(
        b"d1:ad2:id20:abcdefghij012345678912:implied_porti1e9:info_hash20:mnopqrstuvwxyz1234564:porti6881e\
          5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe",
    );
    let token = b"aoeusnth".as_slice();
    assert!(matches!(announce.ask, Ask::Announce { port: None, token: t, .. } if t == token));
    let reply =
        read(b"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re");
    let Some(Message { body: Body::Reply(reply), tid: b"aa", .. }) = reply else { panic!("no reply") };
    let peers: Vec<_> = reply.peers().map(|p| p.to_string()).collect();
    assert_eq!(peers, ["97.120.106.101:11893", "105.100.104.116:28269"]);
    assert_eq!(reply.token(), Some(token));
    let error = read(b"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee");
    assert!(matches!(error, Some(Message { body: Body::Error(201), .. })));
}

#[test]
fn a_put_needs_no_target_and_an_odd_envelope_does_no_harm() {
    // Unsorted keys, no `v` of the client, a long transaction id, unknown keys.
    let put = query(
        b"d1:y1:q1:t8:123456783:new1:?1:q3:put1:ad1:v12:Hello World!5:token2:ab2:id20:abcdefghij0123456789ee",
    );
    let Ask::Put(put) = put.ask else { panic!("no put") };
    assert_eq!(put.target().to_string(), "e5f96f6f38320f0f33959cb4d3d656452117aadb");
}

#[test]
fn unknown_methods_find_nodes_when_they_have_a_target_and_are_refused_otherwise() {
    let with = b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q6:sample1:t2:aa1:y1:qe";
    assert!(matches!(query(with).ask, Ask::FindNode(t) if t == DhtId(*b"mnopqrstuvwxyz123456")));
    let without = read(b"d1:ad2:id20:abcdefghij0123456789e1:q6:sample1:t2:aa1:y1:qe").unwrap();
    assert!(matches!(without.body, Body::Broken(ErrorCode::Method)));
}

#[test]
fn what_we_act_upon_must_be_right() {
    let broken = |a: &str, q: &str| {
        let bytes = format!("d1:a{a}1:q{}:{q}1:t2:aa1:y1:qe", q.len());
        match read(bytes.as_bytes()).unwrap().body {
            Body::Broken(code) => code.number(),
            other => panic!("{a} {q}: {other:?}"),
        }
    };
    let id = "2:id20:abcdefghij0123456789";
    assert_eq!(broken("de", "ping"), 203);
    assert_eq!(broken("d2:id19:abcdefghij012345678e", "ping"), 203);
    assert_eq!(broken(&format!("d{id}e"), "find_node"), 203);
    assert_eq!(
        broken(&format!("d{id}9:info_hash20:mnopqrstuvwxyz1234564:porti0e5:token1:xe"), "announce_peer"),
        203
    );
    assert_eq!(
        broken(&format!("d{id}9:info_hash20:mnopqrstuvwxyz1234564:porti70000e5:token1:xe"), "announce_peer"),
        203
    );
    assert_eq!(broken(&format!("d{id}5:token1:xe"), "put"), 203);
    assert_eq!(broken(&format!("d{id}5:token1:x1:vi01ee"), "put"), 203, "no canonical value");
    let key = "1:k32:abcdefghijklmnopqrstuvwxyz012345";
    assert_eq!(broken(&format!("d{id}{key}3:seqi-1e5:token1:x1:vi1ee"), "put"), 203, "a negative version");
    assert_eq!(broken(&format!("d{id}{key}3:seqi1e5:token1:x1:vi1ee"), "put"), 206, "no signature");
}

#[test]
fn a_reply_names_fewer_nodes_until_it_fits() {
    let mut answer = Answer::new(ID, node(1).addr, b"aa");
    answer.nodes4 = (1..=8).map(node).collect();
    answer.nodes6 = vec![NodeAddr { id: ID, addr: "[2001:db8::1]:1".parse().unwrap() }; 8];
    answer.peers = (0..50).map(|n| node(n).addr).collect();
    answer.token = Some([1; 8]);
    answer.held = Held { mutable: Some(([1; 32], Signature([2; 64]), 5)), v: Some(b"3:abc") };
    for budget in 60..1_500 {
        let Some(bytes) = answer.clone().fit(budget) else {
            assert!(budget < 110);
            continue;
        };
        assert!(bytes.len() <= budget);
        canonical(&bytes);
        let Body::Reply(reply) = read(&bytes).unwrap().body else { panic!("no reply") };
        let closest = reply.nodes().next();
        assert!(closest.is_none() || closest == Some(node(1)), "the far ones go first");
    }
    let whole = answer.fit(2_000).unwrap();
    let Body::Reply(reply) = read(&whole).unwrap().body else { panic!("no reply") };
    assert_eq!((reply.nodes().count(), reply.peers().count()), (16, 50));
    let (signed, v) = reply.signed(b"").unwrap();
    assert_eq!((signed.seq, v), (5, b"3:abc".as_slice()));
}

#[test]
fn errors_are_canonical_and_carry_their_number() {
    use ErrorCode::*;
    for code in [Server, Protocol, Method, TooBig, Signature, SaltTooBig, Cas, SeqTooOld] {
        let bytes = write_error(b"aa", code);
        canonical(&bytes);
        assert!(matches!(read(&bytes).unwrap().body, Body::Error(n) if n == code.number() as i64));
    }
}

#[test]
fn the_signed_bytes_are_those_of_bep_44() {
    assert_eq!(signed_bytes(b"", 1, b"12:Hello World!"), b"3:seqi1e1:v12:Hello World!");
    assert_eq!(signed_bytes(b"foobar", 1, b"12:Hello World!"), b"4:salt6:foobar3:seqi1e1:v12:Hello World!");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
    }

    #[test]
    fn a_message_with_bytes_changed_never_panics(at in 0usize..400, byte: u8, cut in 0usize..400) {
        let signed = Signed { key: [1; 32], seq: 9, signature: Signature([2; 64]), salt: b"s" };
        let put = Put { token: b"tok", v: b"5:hello", mutable: Some(signed), cas: Some(8), age: Some(60) };
        let mut bytes = outgoing(Ask::Put(put));
        let len = bytes.len();
        bytes[at % len] = byte;
        let _ = read(&bytes);
        bytes.truncate(cut % len);
        let _ = read(&bytes);
    }
}
