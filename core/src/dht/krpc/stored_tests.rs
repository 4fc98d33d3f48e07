use super::*;
use crate::dht::item;
use crate::id::Keypair;
use bytes::Bytes;

const OWN: DhtId = DhtId([0; 20]);

fn at(s: u64) -> Instant {
    Instant::from_millis(s * 1_000)
}

struct Mutable {
    item: crate::port::MutableItem,
    v: Vec<u8>,
}

fn mutable(n: u8, salt: &[u8], seq: u64, value: &str) -> Mutable {
    let pair = Keypair::from_seed(&[n; 32]);
    let item = item::sign(&pair, salt, seq, Bytes::copy_from_slice(value.as_bytes())).unwrap();
    let v = format!("{}:{value}", value.len()).into_bytes();
    Mutable { item, v }
}

impl Mutable {
    fn put(&self, cas: Option<u64>) -> Put<'_> {
        let (key, seq, signature) = (*self.item.key.as_bytes(), self.item.seq, self.item.signature);
        let signed = super::super::message::Signed { key, seq, signature, salt: &self.item.salt };
        Put { token: b"", v: &self.v, mutable: Some(signed), cas, age: None }
    }
}

fn immutable(v: &[u8]) -> Put<'_> {
    Put { token: b"", v, mutable: None, cas: None, age: None }
}

#[test]
fn the_rules_of_bep_44_decide_what_is_stored() {
    let mut values = Values::default();
    let by = Source::V4(1);
    let (five, other, six) = (mutable(1, b"", 5, "a"), mutable(1, b"", 5, "b"), mutable(1, b"", 6, "c"));
    assert_eq!(values.put(at(0), &OWN, by, &five.put(Some(3))), Ok(Laid::New), "no cas where nothing is");
    assert_eq!(values.put(at(0), &OWN, by, &mutable(1, b"", 4, "x").put(None)), Err(ErrorCode::SeqTooOld));
    assert_eq!(values.put(at(0), &OWN, by, &other.put(None)), Err(ErrorCode::SeqTooOld));
    assert_eq!(values.put(at(0), &OWN, by, &six.put(Some(4))), Err(ErrorCode::Cas));
    assert_eq!(values.put(at(0), &OWN, by, &five.put(None)), Ok(Laid::Again));
    assert_eq!(values.put(at(0), &OWN, by, &six.put(Some(5))), Ok(Laid::New));
    let target = six.put(None).target();
    let held = values.get(at(1), &target, None);
    assert_eq!((held.mutable.map(|m| m.2), held.v), (Some(6), Some(b"1:c".as_slice())));
    assert_eq!(values.get(at(1), &target, Some(5)).v, Some(b"1:c".as_slice()));
    let known = values.get(at(1), &target, Some(6));
    assert_eq!((known.mutable.map(|m| m.2), known.v), (Some(6), None), "the version alone");
}

#[test]
fn forgeries_and_excesses_are_refused_with_their_number() {
    let mut values = Values::default();
    let by = Source::V4(1);
    let mut put = |p: &Put<'_>| values.put(at(0), &OWN, by, p).map_err(ErrorCode::number);
    let m = mutable(1, b"salt", 5, "a");
    let mut forged = m.put(None);
    forged.v = b"1:z";
    assert_eq!(put(&forged), Err(206));
    let mut weak = m.put(None);
    weak.mutable.as_mut().unwrap().key = [0; 32];
    assert_eq!(put(&weak), Err(206));
    let mut salty = m.put(None);
    salty.mutable.as_mut().unwrap().salt = &[0; 65];
    assert_eq!(put(&salty), Err(207));
    let big = [b"1000:".as_slice(), &[b'x'; 1000]].concat();
    assert_eq!(put(&immutable(&big)), Err(205));
    let largest = [b"996:".as_slice(), &[b'x'; 996]].concat();
    assert_eq!((largest.len(), put(&immutable(&largest))), (V_MAX, Ok(Laid::New)));
    assert_eq!(put(&immutable(b"d1:ai1e1:bl1:ceee")), Ok(Laid::New), "any bencoded value");
    assert_eq!(put(&immutable(b"12:Hello World!")), Ok(Laid::New));
    let target: DhtId = "e5f96f6f38320f0f33959cb4d3d656452117aadb".parse().unwrap();
    assert_eq!(values.get(at(0), &target, None).v, Some(b"12:Hello World!".as_slice()));
}

#[test]
fn values_expire_after_two_hours_and_putting_again_renews_them() {
    let mut values = Values::default();
    let put = immutable(b"1:a");
    let hour = 3_600;
    values.put(at(0), &OWN, Source::V4(1), &put).unwrap();
    values.put(at(hour), &OWN, Source::V4(1), &put).unwrap();
    assert!(values.get(at(3 * hour - 1), &put.target(), None).v.is_some());
    assert!(values.get(at(3 * hour), &put.target(), None).v.is_none());
    values.expire(at(3 * hour));
    assert!(values.is_empty());
}

#[test]
fn what_is_brought_on_keeps_its_age_and_never_shortens_a_life() {
    let mut values = Values::default();
    let m = mutable(1, b"", 1, "a");
    let aged = |age| Put { age: Some(age), ..m.put(None) };
    let target = aged(0).target();
    assert_eq!(values.put(at(0), &OWN, Source::V4(1), &aged(7_200)), Err(ErrorCode::Server));
    values.put(at(0), &OWN, Source::V4(1), &aged(3_600)).unwrap();
    assert_eq!(values.item(at(60), &target).unwrap().1, Duration::from_secs(3_660));
    values.put(at(60), &OWN, Source::V4(1), &aged(7_000)).unwrap();
    assert!(values.get(at(3_599), &target, None).v.is_some());
    assert!(values.item(at(3_300), &target).is_none(), "too old to move");
    assert!(values.get(at(3_600), &target, None).v.is_none());
}

#[test]
fn a_full_shelf_keeps_what_is_closest_and_one_source_cannot_fill_it() {
    let mut values = Values::default();
    let texts: Vec<Vec<u8>> = (0..3_000u32).map(|n| format!("i{n}e").into_bytes()).collect();
    let one = |values: &mut Values, texts: &[Vec<u8>], source| {
        texts.iter().filter(|t| values.put(at(0), &OWN, source, &immutable(t)).is_ok()).count()
    };
    assert_eq!(one(&mut values, &texts, Source::V4(1)), VALUES_MAX / 2, "nobody's place");
    assert_eq!(one(&mut values, &texts[VALUES_MAX..], Source::V4(4_000)), VALUES_PER_SOURCE_MAX);
    let mut neighbours = Values { per_source_max: VALUES_MAX / 2, ..Values::default() };
    assert_eq!(one(&mut neighbours, &texts, Source::V4(1)), VALUES_MAX / 2);
    assert_eq!(one(&mut neighbours, &texts[VALUES_MAX..], Source::V4(2)), VALUES_MAX / 2);
    for (n, text) in texts.iter().enumerate() {
        let _full = values.put(at(0), &OWN, Source::V4(n as u32 + 2), &immutable(text));
    }
    assert_eq!(values.len(), VALUES_MAX);
    assert!(values.heap_bytes() < 2_000_000);
    let mut all: Vec<DhtId> = texts.iter().map(|t| immutable(t).target()).collect();
    all.sort_by_key(|t| distance(t, &OWN));
    assert!(all[..VALUES_MAX].iter().all(|t| values.get(at(1), t, None).v.is_some()));
}

#[test]
fn peers_are_bounded_in_every_direction_and_expire() {
    let mut peers = Peers::default();
    let topic =
        |n: u32| DhtId(*Keypair::from_seed(&[n as u8; 32]).public().as_bytes().first_chunk().unwrap());
    let addr = |n: u32, port: u16| SocketAddr::from((std::net::Ipv4Addr::from(0x1000_0000 + n), port));
    let ports = (1..100).filter(|p| peers.announce(at(0), &topic(1), addr(0, *p)).is_ok()).count();
    assert_eq!(ports, PEERS_PER_SOURCE_MAX);
    for n in 0..2_000 {
        let _full = peers.announce(at(0), &topic(1), addr(n, 1));
    }
    assert_eq!(peers.len(), PEERS_PER_TOPIC_MAX);
    for n in 0..100_000 {
        let _full = peers.announce(at(0), &topic(n % 200), addr(n, 1));
    }
    assert_eq!(peers.len(), PEERS_MAX);
    let mut rng = Rng::from_seed([1; 32]);
    let told = peers.sample(at(1), &topic(1), false, &mut rng);
    assert_eq!(told.len(), PEERS_TOLD_MAX);
    assert!(peers.sample(at(1), &topic(1), true, &mut rng).is_empty(), "no IPv6 peers here");
    assert!(peers.sample(at(45 * 60), &topic(1), false, &mut rng).is_empty());
    assert_eq!(peers.announce(at(45 * 60), &topic(1), addr(9, 9)), Ok(()), "room again");
    let topics = |n: u32| {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&n.to_be_bytes());
        DhtId(id)
    };
    for n in 0..5_000 {
        let _full = peers.announce(at(45 * 60), &topics(n), addr(n, 1));
    }
    assert!(peers.topics.len() <= TOPICS_MAX);
}

#[test]
fn a_peer_that_announces_again_is_one_peer() {
    let mut peers = Peers::default();
    let (topic, addr) = (DhtId([1; 20]), "[2001:db8::1]:5".parse().unwrap());
    (0..20).for_each(|n| peers.announce(at(n * 1_000), &topic, addr).unwrap());
    assert_eq!(peers.len(), 1);
    assert_eq!(peers.sample(at(20_000), &topic, true, &mut Rng::from_seed([1; 32])), [addr]);
}
