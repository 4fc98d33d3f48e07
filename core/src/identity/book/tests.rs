use super::super::exchange::Identity;
use super::*;
use crate::dht::record::NodeType;
use crate::id::{Keypair, Lsn};
use crate::laws::{self, Rig, WALL_AT_START};
use proptest::prelude::*;

const TOPIC: DhtId = DhtId([1; 20]);
const KNOWN_MAX: usize = 320;

fn key(n: u8) -> PublicKey {
    Keypair::from_seed(&[n; 32]).public()
}

fn addr(n: u8) -> SocketAddr {
    ([203, 0, 113, n], 30_906).into()
}

fn hint_of(key: PublicKey, seen: UnixTime) -> KnownPeerHint {
    KnownPeerHint {
        key: *key.as_bytes(),
        topic: TOPIC,
        role: Role::Client,
        is_relay: false,
        last_seen: seen,
        addr: Some(addr(1)),
    }
}

fn hint(n: u8, seen: UnixTime) -> KnownPeerHint {
    hint_of(key(n), seen)
}

fn met(n: u8) -> Input {
    let identity = Identity {
        key: key(n),
        dht_id: DhtId([n; 20]),
        node_type: NodeType::Public,
        role: Role::Server,
        is_relay: true,
        topics: vec![TOPIC],
        versions: vec![1],
    };
    let peer = PeerIdentity { identity, shared_topics: vec![TOPIC], version: 1, observed: None };
    Input::Met { peer: Box::new(peer), addr: Some(addr(n)) }
}

fn rig() -> Rig<Book> {
    Rig::new(Book::new(key(100), false, KNOWN_MAX), [0; 32])
}

fn ago(secs: u64) -> UnixTime {
    UnixTime::from_secs(WALL_AT_START.as_secs() - secs)
}

#[test]
fn where_a_peer_is_is_told_to_those_of_a_shared_topic_while_it_is_fresh_and_public() {
    let mut rig = rig();
    let (asker, sought) = (key(1), key(2));
    let told = |rig: &Rig<Book>, topics: &[DhtId], link, wall| {
        rig.machine.where_is(topics, &asker, &sought, link, wall)
    };
    let (now, us) = (WALL_AT_START, [TOPIC]);
    rig.tell(met(1));
    assert_eq!(told(&rig, &us, None, now), None, "nobody knows it here");
    rig.tell(Input::Told(vec![hint(2, now)]));
    assert_eq!(told(&rig, &us, None, now), Some(addr(1)), "hearsay");
    assert_eq!(told(&rig, &us, Some(addr(9)), now), Some(addr(9)), "a live link is better");
    assert_eq!(told(&rig, &[DhtId([7; 20])], None, now), None, "no topic of ours");
    let private = "192.168.1.5:9".parse().ok();
    assert_eq!(told(&rig, &us, private, now), None, "nobody's business");
    let later = now.plus(RECHECK_AFTER);
    assert_eq!(told(&rig, &us, None, later), None, "old");
    assert_eq!(told(&rig, &us, Some(addr(9)), later), Some(addr(9)));
    assert_eq!(rig.machine.where_is(&us, &key(3), &sought, None, now), None, "a stranger");
    rig.tell(Input::Named(key(4)));
    assert_eq!(rig.machine.where_is(&us, &key(4), &sought, None, now), None, "of no topic that we know");
    assert_eq!(rig.machine.where_is(&us, &asker, &asker, Some(addr(9)), now), None, "it knows where it is");
    rig.tell(Input::Block(sought, true));
    assert_eq!(told(&rig, &us, Some(addr(9)), now), None, "blocked");
    let mut local = Rig::new(Book::new(key(100), true, KNOWN_MAX), [0; 32]);
    local.tell(met(1));
    local.tell(met(2));
    assert_eq!(told(&local, &us, private, now), private, "the whole network is local");
}

fn persisted(out: &[Output]) -> Vec<&StoreOp> {
    out.iter().filter_map(|o| if let Output::Persist(op) = o { Some(op) } else { None }).collect()
}

#[test]
fn hearsay_adds_the_unknown_and_moves_only_last_seen_of_the_known() {
    let mut rig = rig();
    let out = rig.tell(Input::Told(vec![hint(1, ago(3_600))]));
    assert_eq!(out[1], Output::New { key: key(1), addr: Some(addr(1)) });
    rig.tell(met(1));
    let first = rig.machine.get(&key(1)).unwrap().clone();
    rig.wait(Duration::from_secs(60));
    let lie =
        KnownPeerHint { topic: DhtId([9; 20]), is_relay: false, addr: Some(addr(66)), ..hint(1, rig.wall()) };
    assert!(rig.tell(Input::Told(vec![lie])).is_empty(), "and that is not written at once");
    let last_seen = rig.wall();
    assert_eq!(rig.machine.get(&key(1)), Some(&KnownPeer { last_seen, ..first }));
}

#[test]
fn hearsay_of_the_future_is_of_now_and_of_long_ago_is_not_taken() {
    let mut rig = rig();
    rig.tell(Input::Told(vec![hint(1, WALL_AT_START.plus(RECHECK_AFTER)), hint(2, ago(24 * 3_600))]));
    assert_eq!(rig.machine.get(&key(1)).unwrap().last_seen, WALL_AT_START);
    assert_eq!(rig.machine.get(&key(2)), None);
    rig.tell(Input::Told(vec![hint(100, WALL_AT_START)]));
    assert_eq!(rig.machine.len(), 1, "we are not in our own book");
}

#[test]
fn a_peer_that_stays_is_written_once_in_ten_minutes() {
    let mut rig = rig();
    rig.tell(met(1));
    let mut writes = 0;
    for _ in 0..3_600 {
        rig.wait(Duration::from_secs(1));
        writes += persisted(&rig.tell(Input::Seen(key(1)))).len();
    }
    assert_eq!(writes, 6);
}

#[test]
fn the_book_survives_a_restart() {
    let mut rig = rig();
    let mut out = rig.tell(met(1));
    out.extend(rig.tell(Input::Told(vec![hint(2, ago(5))])));
    out.extend(rig.tell(Input::Block(key(3), true)));
    let records: Vec<StoredRecord> = persisted(&out)
        .into_iter()
        .map(|op| match op {
            StoreOp::Replace { subject, record } => {
                StoredRecord { lsn: Lsn(1), subject: subject.clone(), record: record.clone() }
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let mut back = Book::new(key(100), false, KNOWN_MAX);
    back.restore(Instant::ZERO, &records).unwrap();
    assert!(rig.machine.iter().eq(back.iter()));
    assert!(back.is_blocked(&key(3)));
    assert_eq!(back.resolve(&PeerName::Id(key(2).peer_id())), Some(key(2)));
    assert_eq!(back.poll_timeout().unwrap().at, Instant::ZERO + RECHECK_EVERY);
    let damaged = StoredRecord { record: bytes::Bytes::from_static(b"de"), ..records[0].clone() };
    assert_eq!(back.restore(Instant::ZERO, std::slice::from_ref(&damaged)).unwrap_err().0, damaged);
}

#[test]
fn what_is_told_is_the_most_recent_of_shared_topics_without_the_blocked_and_the_asker() {
    let mut rig = rig();
    rig.tell(Input::Told((1..=9).map(|n| hint(n, ago(u64::from(n)))).collect()));
    rig.tell(Input::Told(vec![KnownPeerHint { topic: DhtId([2; 20]), ..hint(20, WALL_AT_START) }]));
    rig.tell(Input::Block(key(2), true));
    let told = |max| -> Vec<PublicKey> {
        let hints = rig.machine.to_share(&[TOPIC], &key(3), max);
        hints.iter().map(|h| PublicKey::from_slice(&h.key).unwrap()).collect()
    };
    assert_eq!(told(3), [key(1), key(4), key(5)]);
    assert_eq!(told(50).len(), 7);
}

#[test]
fn local_addresses_are_told_only_in_private_networks() {
    let local = KnownPeerHint { addr: Some("10.0.0.1:9".parse().unwrap()), ..hint(1, WALL_AT_START) };
    for (private, told) in [(false, None), (true, local.addr)] {
        let mut rig = Rig::new(Book::new(key(100), private, KNOWN_MAX), [0; 32]);
        rig.tell(Input::Told(vec![local.clone()]));
        assert_eq!(rig.machine.to_share(&[TOPIC], &key(9), 9)[0].addr, told);
    }
}

#[test]
fn peers_unseen_for_a_day_are_looked_up_and_forgotten_without_a_record() {
    let mut rig = rig();
    rig.tell(Input::Told((1..=3).map(|n| hint(n, ago(60))).collect()));
    assert!(rig.wait(RECHECK_AFTER - Duration::from_secs(900)).is_empty());
    rig.tell(Input::Seen(key(3)));
    let out = rig.wait(Duration::from_secs(1_800));
    let looked: BTreeSet<_> =
        out.iter().filter_map(|o| if let Output::Lookup(k) = o { Some(*k) } else { None }).collect();
    assert_eq!(looked, BTreeSet::from([key(1), key(2)]));
    assert!(rig.tell(Input::Looked(key(3), Presence::NoRecord)).is_empty(), "not asked for");
    let out = rig.tell(Input::Looked(key(1), Presence::NoRecord));
    assert!(
        matches!(&out[..], [Output::Persist(StoreOp::Forget { .. }), Output::Forgotten(k)] if *k == key(1))
    );
    assert_eq!(rig.machine.resolve(&PeerName::Id(key(1).peer_id())), None);
    assert!(rig.tell(Input::Looked(key(2), Presence::Unknown)).is_empty());
    assert!(rig.machine.get(&key(2)).is_some());
}

#[test]
fn a_flood_of_invented_peers_evicts_only_what_was_heard_of() {
    let mut rig = rig();
    rig.tell(met(1));
    rig.tell(Input::Block(key(2), true));
    rig.wait(Duration::from_secs(60));
    for n in 0..3 * KNOWN_MAX as u32 {
        let invented = Keypair::from_seed(&crate::rng::derive_seed(&[0; 32], &n.to_string())).public();
        let seen = rig.wall();
        rig.tell(Input::Told(vec![hint_of(invented, seen)]));
        assert!(rig.machine.len() <= KNOWN_MAX);
    }
    assert!(rig.machine.len() > KNOWN_MAX - KNOWN_MAX / EVICTED_AT_ONCE);
    assert!(rig.machine.get(&key(1)).is_some());
    assert!(rig.machine.is_blocked(&key(2)));
}

#[test]
fn hearsay_takes_the_place_only_of_what_was_long_unseen() {
    let mut rig = Rig::new(Book::new(key(100), false, 2), [0; 32]);
    rig.tell(Input::Told(vec![hint(1, ago(5_000)), hint(2, ago(5))]));
    let out = rig.tell(Input::Told(vec![hint(3, ago(1))]));
    assert!(out.contains(&Output::Forgotten(key(1))));
    assert_eq!(rig.tell(Input::Told(vec![hint(4, ago(0))])), [Output::Refused("known-peer-old")]);
    rig.tell(met(5));
    assert!(rig.machine.get(&key(2)).is_none(), "a peer that was met takes the place of the older hearsay");
}

#[test]
fn bytes_that_are_no_key_enter_no_book() {
    let mut rig = rig();
    let hint = KnownPeerHint { key: [0; 32], ..hint(1, ago(5)) };
    assert_eq!(rig.tell(Input::Told(vec![hint])), [Output::Refused("known-peer-key")]);
    assert!(rig.machine.is_empty());
}

fn arb_input() -> impl Strategy<Value = Input> {
    let presence = prop_oneof![Just(Presence::Record), Just(Presence::NoRecord), Just(Presence::Unknown)];
    prop_oneof![
        2 => (1u8..9, 0u64..200_000).prop_map(|(n, secs)| Input::Told(vec![hint(n, ago(secs))])),
        2 => (1u8..9).prop_map(met),
        2 => (1u8..9).prop_map(|n| Input::Seen(key(n))),
        1 => (1u8..9).prop_map(|n| Input::Named(key(n))),
        1 => (1u8..9, any::<bool>()).prop_map(|(n, b)| Input::Block(key(n), b)),
        2 => (1u8..9, presence).prop_map(|(n, p)| Input::Looked(key(n), p)),
    ]
}

#[test]
fn the_book_is_a_lawful_machine() {
    laws::check_within(
        || Book::new(key(100), false, 5),
        arb_input(),
        |b| {
            assert!(b.len() <= 5);
            assert!(b.checking.len() <= RECHECKS_MAX);
        },
    );
}
