//! Our own nodes and `mainline` ones in one network: every operation, both ways, and the end of one kind.

use super::*;
use remote_network_core::dht::item::immutable_target;

const NATIVES: u32 = 6;
const MAINLINES: u32 = 4;

/// A network of both kinds, whose first node is ours.
fn mixed() -> (Vec<Host>, Vec<Host>) {
    let seed = host_of(Native, DhtMode::Private { seed: true }, None, &[]);
    let at = seed.addr();
    let join = |backend| host_of(backend, DhtMode::Private { seed: false }, None, &[at]);
    let mut ours: Vec<Host> = std::iter::once(seed).chain((1..NATIVES).map(|_| join(Native))).collect();
    let mut theirs: Vec<Host> = (0..MAINLINES).map(|_| join(Mainline)).collect();
    ours.iter_mut().for_each(|h| h.wait_for_health(|len, _| len >= NATIVES));
    theirs.iter_mut().for_each(|h| h.wait_for_health(|len, reachable| len >= NATIVES && reachable));
    (ours, theirs)
}

/// Everything `a` stores is found by `b`, and conflicts between the two are told apart.
fn one_stores_what_the_other_finds(a: &mut Host, b: &mut Host, n: u8) {
    let key = Keypair::from_seed(&[n; 32]);
    let plain = item(&key, "", 5, "plain");
    let salted = item(&key, "a salt", 6, &"s".repeat(900));
    for wanted in [&plain, &salted] {
        assert!(a.run(put(wanted, None)).result.unwrap().stored >= 4);
        assert_eq!(b.run(get(wanted, GetMode::MostRecent)).values.last(), Some(wanted));
        assert_eq!(b.run(get(wanted, GetMode::First)).values, std::slice::from_ref(wanted));
    }
    assert_eq!(b.run(put(&item(&key, "", 6, "on top of nothing"), Some(4))).result, Err(DhtFailed::Cas));
    assert_eq!(b.run(put(&item(&key, "", 4, "older"), None)).result, Err(DhtFailed::SeqTooOld));
    let next = item(&key, "", 7, "on top of five");
    assert!(b.run(put(&next, Some(5))).result.is_ok());
    assert_eq!(a.run(get(&next, GetMode::MostRecent)).values.last(), Some(&next));

    let value = Bytes::from(vec![n; 700]);
    a.run(DhtRequest::PutImmutable { value: value.clone() }).result.unwrap();
    let found = b.run(DhtRequest::GetImmutable { target: immutable_target(&value) });
    assert_eq!(found.immutable, Some(value), "{:?}", found.result);

    let topic = DhtId([n; 20]);
    let port = 4_000 + u16::from(n);
    a.run(DhtRequest::Announce { topic, port: AnnouncePort::Explicit(port) }).result.unwrap();
    a.run(DhtRequest::Announce { topic, port: AnnouncePort::Implied }).result.unwrap();
    let peers = b.run(DhtRequest::GetPeers { topic }).peers;
    let expected = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), a.addr()];
    assert!(expected.iter().all(|p| peers.contains(p)), "{peers:?}");
}

#[test]
fn every_operation_works_between_our_nodes_and_mainline_and_outlives_the_latter() {
    let (mut ours, mut theirs) = mixed();
    one_stores_what_the_other_finds(&mut ours[2], &mut theirs[0], 1);
    one_stores_what_the_other_finds(&mut theirs[1], &mut ours[3], 2);
    for (kind, n) in [(&mut theirs, 3), (&mut ours, 4)] {
        let [a, b, ..] = &mut kind[..] else { unreachable!() };
        one_stores_what_the_other_finds(a, b, n);
    }

    drop(theirs);
    for n in 1..=4u8 {
        let wanted = item(&Keypair::from_seed(&[n; 32]), "", 7, "on top of five");
        assert_eq!(ours[1].run(get(&wanted, GetMode::MostRecent)).values.last(), Some(&wanted), "{n}");
        let value = Bytes::from(vec![n; 700]);
        let found = ours[1].run(DhtRequest::GetImmutable { target: immutable_target(&value) });
        assert_eq!(found.immutable, Some(value), "{n}");
    }

    // A fresh `mainline` client that knows none but ours.
    let at: Vec<SocketAddr> = ours.iter().take(2).map(Host::addr).collect();
    let mut fresh = host(DhtMode::Private { seed: false }, None, &at);
    fresh.wait_for_health(|len, reachable| len >= NATIVES && reachable);
    let wanted = item(&Keypair::from_seed(&[2; 32]), "", 7, "on top of five");
    assert_eq!(fresh.run(get(&wanted, GetMode::MostRecent)).values.last(), Some(&wanted));
    one_stores_what_the_other_finds(&mut fresh, &mut ours[0], 9);
}
