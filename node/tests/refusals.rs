//! What a node refuses is refused with words, counted, and disturbs nothing else.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

mod network;

use network::{Node, Plan, wait_for};
use remote_network_core::rng::Rng;
use std::net::UdpSocket;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(30);

fn refused(node: &Node, reason: &str) -> u64 {
    node.api.get("/status").unwrap()["refused"][reason].as_u64().unwrap_or(0)
}

#[test]
fn a_dial_that_finds_another_peer_is_refused_with_words_and_disturbs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|n| Plan::alone(dir.path(), n).start());
    let there = b.quic_addr();
    a.cli(&["peers", "connect", &b.key, "--addr", &there]).ok();
    let before = a.cli(&["peers", "show", &b.key, "--json"]).ok().json();
    assert_eq!(before["state"], "connected");

    let said = a.cli(&["peers", "connect", &c.key, "--addr", &there]);
    said.fails(4, &[&c.key, "cannot be reached", &there, "another peer"]);
    assert_eq!(refused(&a, "dial-found-another-peer"), 1);
    let show = a.cli(&["peers", "show", &c.key, "--json"]).ok().json();
    assert_eq!(show["state"], "closed");
    assert!(show["trouble"].as_str().unwrap().contains("another peer"), "{show}");

    let after = a.cli(&["peers", "show", &b.key, "--json"]).ok().json();
    assert_eq!((&after["state"], &after["since"]), (&before["state"], &before["since"]));
    assert_eq!(b.api.get("/status").unwrap()["connected"], 1);
    // Where it really is, it is found.
    a.cli(&["peers", "connect", &c.key, "--addr", &c.quic_addr()]).ok();
    assert_eq!(a.api.get("/status").unwrap()["connected"], 2);
}

/// Datagrams of every length: noise, noise that looks like QUIC's long and short headers, and text.
fn garbage(rng: &mut Rng, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.below(1_400) as usize + 1];
    rng.fill(&mut bytes);
    match n % 4 {
        0 if bytes.len() > 5 => {
            bytes[0] |= 0xc0;
            bytes[1..5].copy_from_slice(&[0, 0, 0, 1]);
        }
        1 => bytes[0] = bytes[0] & 0x3f | 0x40,
        2 => bytes = format!("d1:ad2:id20:{n}").into_bytes(),
        _ => {}
    }
    bytes
}

#[test]
fn garbage_at_the_sockets_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let plans = Plan::network(dir.path(), 2, 1);
    let network::Dht::Private { port: dht_port, .. } = plans[0].dht else { unreachable!() };
    let (a, b) = (plans[0].start(), plans[1].start());
    let target = a.quic_addr();
    b.cli(&["peers", "connect", &a.key, "--addr", &target]).ok();
    let before = b.cli(&["peers", "show", &a.key, "--json"]).ok().json();

    let mut rng = Rng::from_seed([7; 32]);
    let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..5_000 {
        let bytes = garbage(&mut rng, n);
        // A full buffer at the receiver is its own protection.
        let _full = attacker.send_to(&bytes, &target);
        let _full = attacker.send_to(&bytes, ("127.0.0.1", dht_port));
    }

    let after = b.cli(&["peers", "show", &a.key, "--json"]).ok().json();
    assert_eq!((&after["state"], &after["since"]), (&before["state"], &before["since"]));
    let status = a.api.get("/status").unwrap();
    assert_eq!(status["connected"], 1, "{status}");
    // A newcomer gets through, by key alone: both sockets still serve.
    let mut plan = plans[1].clone();
    plan.name = "newcomer".into();
    plan.dir = dir.path().join("newcomer");
    if let network::Dht::Private { port, .. } = &mut plan.dht {
        *port = 0;
    }
    let newcomer = plan.start();
    wait_for("newcomer's way to the node", WITHIN, || {
        newcomer.api.connect(&a.key).map_err(|e| e.to_string())
    });
    assert_eq!(a.plan.messages().matches("panicked").count(), 0);
}
