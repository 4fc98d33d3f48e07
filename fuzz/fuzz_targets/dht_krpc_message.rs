//! What strangers send to our DHT node: bytes that are read as a message keep every limit, stored values are canonical in
//! the sense of our own codec, and what is written in answer is canonical, reads back, and fits where it must.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use remote_network_core::codec::Value;
use remote_network_core::dht::item::SEQ_MAX;
use remote_network_core::dht::krpc::bencode;
use remote_network_core::dht::krpc::message::{
    Answer, Ask, Body, DATAGRAM_MAX, NODES_READ_MAX, Outgoing, PEERS_READ_MAX, Query, TID_MAX, TOKEN_MAX,
    read, signed_bytes, string_content, write_error, write_query,
};
use remote_network_core::dht::krpc::saved::Saved;
use remote_network_core::id::DhtId;

fn query(query: &Query<'_>) {
    if let Ask::Put(put) = &query.ask {
        assert!(bencode::is_canonical(put.v));
        assert!(put.mutable.is_none_or(|s| s.seq <= SEQ_MAX));
        if let Some(s) = &put.mutable {
            assert!(signed_bytes(s.salt, s.seq, put.v).ends_with(put.v));
        }
        let _ = (put.target(), string_content(put.v));
    }
    // Written by us it is canonical and means the same.
    let out = Outgoing {
        id: query.id,
        read_only: false,
        want_both: query.want == Some((true, true)),
        ask: query.ask,
    };
    let written = write_query(1, &out);
    assert!(Value::decode(&written, 2 * DATAGRAM_MAX).is_ok());
    if let Some(Body::Query(again)) = read(&written).map(|m| m.body) {
        assert_eq!(format!("{:?}", again.ask), format!("{:?}", query.ask));
    } else {
        assert!(written.len() > DATAGRAM_MAX);
    }
}

fuzz_target!(|bytes: &[u8]| {
    // Two readers, one meaning: what we may store is exactly what our own codec accepts, but for depth and integers
    // beyond 64 bits, where both refuse in their own way.
    if bencode::is_canonical(bytes) {
        assert!(bencode::item(bytes).is_some());
    }
    if let Ok(saved) = Saved::decode(bytes) {
        assert_eq!(Saved::decode(&saved.encode()), Ok(saved));
    }
    let Some(message) = read(bytes) else { return };
    assert!(bytes.len() <= DATAGRAM_MAX && message.tid.len() <= TID_MAX);
    match message.body {
        Body::Query(q) => query(&q),
        Body::Reply(reply) => {
            assert!(reply.token().is_none_or(|t| t.len() <= TOKEN_MAX));
            assert!(reply.nodes().count() <= 2 * NODES_READ_MAX && reply.peers().count() <= PEERS_READ_MAX);
            let mut answer = Answer::new(DhtId([1; 20]), ([203, 0, 113, 1], 1).into(), message.tid);
            answer.nodes4 = reply.nodes().filter(|n| n.addr.is_ipv4()).collect();
            answer.nodes6 = reply.nodes().filter(|n| n.addr.is_ipv6()).collect();
            answer.peers = reply.peers().collect();
            for budget in [150, 300, 1_024] {
                let Some(written) = answer.clone().fit(budget) else { continue };
                assert!(written.len() <= budget && Value::decode(&written, budget).is_ok());
            }
        }
        Body::Broken(code) => {
            let error = write_error(message.tid, code);
            assert!(
                matches!(read(&error).map(|m| m.body), Some(Body::Error(n)) if n == code.number() as i64)
            );
        }
        Body::Error(_) => {}
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    remote_network_fuzz::mutate::bencode(data, size, max_size, seed, 0)
});
