use super::super::record::{NodeType, RecordContent};
use super::*;
use crate::id::Keypair;
use crate::laws::{self, Rig};
use crate::limits::CACHED_RECORDS_MAX;
use crate::port::DhtFailed;
use proptest::prelude::*;

const OK: Result<DhtDone, RequestFailed> = Ok(DhtDone { stored: 0, responded: 8, newest_seq: None });
const FAILED: Result<DhtDone, RequestFailed> = Err(RequestFailed::Dht(DhtFailed::NoNodes));

fn pair(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

fn key(n: u8) -> PublicKey {
    pair(n).public()
}

fn record(port: u16, now: UnixTime) -> NodeRecord {
    let mut c = RecordContent { node_type: NodeType::Public, ..RecordContent::default() };
    c.set_endpoints(&[([203, 0, 113, 7], port).into()], false);
    NodeRecord::issue(c, now)
}

fn signed(n: u8, seq: u64, port: u16, now: UnixTime) -> MutableItem {
    item::sign(&pair(n), b"", seq, record(port, now).encode()).unwrap()
}

fn rig() -> Rig<Lookups> {
    Rig::new(Lookups::new(CACHED_RECORDS_MAX), [0; 32])
}

fn port_found(out: &[Output]) -> Option<Result<u16, LookupFailed>> {
    out.iter().find_map(|o| match o {
        Output::Found(_, r) => Some(r.clone().map(|r| r.content.public[0].port())),
        _ => None,
    })
}

fn refusal(out: &[Output]) -> Option<&'static str> {
    out.iter().find_map(|o| match o {
        Output::Refused(why) => Some(*why),
        _ => None,
    })
}

/// A machine that has looked up key 1 and holds version 10 with port 1.
fn holding() -> Rig<Lookups> {
    let mut rig = rig();
    rig.handle(Input::Lookup(key(1)));
    rig.handle(Input::Value(key(1), signed(1, 10, 1, rig.wall())));
    rig.handle(Input::Done(key(1), OK));
    rig.outputs();
    rig
}

#[test]
fn identical_lookups_are_one_and_the_first_value_answers() {
    let mut rig = rig();
    assert_eq!(rig.tell(Input::Lookup(key(1))), [Output::Request(key(1), GetMode::First)]);
    assert!(rig.tell(Input::Lookup(key(1))).is_empty());
    let wall = rig.wall();
    let out = rig.tell(Input::Value(key(1), signed(1, 10, 1, wall)));
    assert_eq!(port_found(&out), Some(Ok(1)));
    assert!(matches!(out[1], Output::Persist(StoreOp::Replace { .. })));
    assert!(rig.tell(Input::Done(key(1), OK)).is_empty(), "answered once");
}

#[test]
fn a_record_is_believed_for_five_minutes() {
    let mut rig = holding();
    rig.wait(RECORD_TTL - Duration::from_millis(1));
    assert_eq!(port_found(&rig.tell(Input::Lookup(key(1)))), Some(Ok(1)));
    rig.wait(Duration::from_millis(1));
    assert_eq!(rig.tell(Input::Lookup(key(1))), [Output::Request(key(1), GetMode::First)]);
    let c = &rig.machine.cache[&key(1)];
    let value = Bytes::copy_from_slice(&c.value);
    let item = MutableItem { key: key(1), salt: Bytes::new(), seq: c.seq, value, signature: c.signature };
    let out = rig.tell(Input::Value(key(1), item));
    assert_eq!(out.len(), 1, "the same version is not journaled again");
}

#[test]
fn an_absence_is_believed_for_thirty_seconds() {
    let mut rig = rig();
    rig.handle(Input::Lookup(key(1)));
    rig.outputs();
    assert_eq!(port_found(&rig.tell(Input::Done(key(1), OK))), Some(Err(LookupFailed::NotFound)));
    rig.wait(ABSENCE_TTL - Duration::from_millis(1));
    assert_eq!(port_found(&rig.tell(Input::Lookup(key(1)))), Some(Err(LookupFailed::NotFound)));
    rig.wait(Duration::from_millis(1));
    assert_eq!(rig.tell(Input::Lookup(key(1))).len(), 1);
    assert_eq!(rig.machine.under_way(), 1);
}

#[test]
fn a_dht_that_does_not_answer_is_no_absence() {
    let mut rig = rig();
    rig.handle(Input::Lookup(key(1)));
    let out = rig.tell(Input::Done(key(1), FAILED));
    assert_eq!(port_found(&out), Some(Err(LookupFailed::Request(RequestFailed::Dht(DhtFailed::NoNodes)))));
    assert!(matches!(rig.tell(Input::Lookup(key(1)))[0], Output::Request(..)));
}

#[test]
fn a_dht_that_does_not_answer_takes_nothing_away_unless_the_record_was_shown_stale() {
    let mut rig = holding();
    rig.wait(Duration::from_secs(3_600));
    rig.handle(Input::Lookup(key(1)));
    rig.outputs();
    assert_eq!(port_found(&rig.tell(Input::Done(key(1), FAILED))), Some(Ok(1)));
    rig.handle(Input::Invalidate(key(1)));
    rig.handle(Input::Lookup(key(1)));
    rig.outputs();
    assert!(port_found(&rig.tell(Input::Done(key(1), FAILED))).unwrap().is_err());
}

#[test]
fn what_is_forged_stale_or_foreign_is_refused_by_its_reason_and_never_competes() {
    let mut rig = holding();
    rig.wait(RECORD_TTL);
    rig.handle(Input::Lookup(key(1)));
    rig.outputs();
    let now = rig.wall();
    let mut forged = signed(2, 99, 2, now);
    forged.key = key(1);
    let future =
        item::sign(&pair(1), b"", 98, record(2, now.plus(Duration::from_secs(601))).encode()).unwrap();
    let expired = item::sign(&pair(1), b"", 98, record(2, UnixTime::from_secs(5)).encode()).unwrap();
    let cases = [
        (signed(2, 99, 2, now), "record-of-another-key"),
        (item::sign(&pair(1), b"s", 99, record(2, now).encode()).unwrap(), "record-of-another-key"),
        (forged, "record-forged"),
        (signed(1, 9, 2, now), "record-rollback"),
        (signed(1, 10, 2, now), "record-same-seq-other-value"),
        (item::sign(&pair(1), b"", 99, Bytes::from_static(b"pkarr")).unwrap(), "record-malformed"),
        (item::sign(&pair(1), b"", 99, vec![0; 701].into()).unwrap(), "record-too-large"),
        (future, "record-from-the-future"),
        (expired, "record-expired"),
    ];
    for (item, reason) in cases {
        let out = rig.tell(Input::Value(key(1), item));
        assert_eq!((out.len(), refusal(&out)), (1, Some(reason)));
    }
    assert_eq!(port_found(&rig.tell(Input::Done(key(1), OK))), Some(Err(LookupFailed::Refused)));
    assert_eq!(rig.machine.peek(&key(1)).unwrap().content.public[0].port(), 1, "the floor stands");
}

#[test]
fn a_stale_record_is_looked_up_completely_and_the_newest_version_answers() {
    let mut rig = holding();
    rig.handle(Input::Invalidate(key(1)));
    assert_eq!(rig.tell(Input::Lookup(key(1))), [Output::Request(key(1), GetMode::MostRecent)]);
    let now = rig.wall();
    assert_eq!(port_found(&rig.tell(Input::Value(key(1), signed(1, 12, 2, now)))), None);
    assert_eq!(refusal(&rig.tell(Input::Value(key(1), signed(1, 11, 3, now)))), Some("record-rollback"));
    rig.handle(Input::Value(key(1), signed(1, 13, 4, now)));
    assert_eq!(port_found(&rig.tell(Input::Done(key(1), OK))), Some(Ok(4)));
}

#[test]
fn after_a_restart_the_floor_and_the_fresh_record_are_back() {
    let mut before = rig();
    before.handle(Input::Lookup(key(1)));
    before.outputs();
    let now = before.wall();
    let out = before.tell(Input::Value(key(1), signed(1, 10, 1, now)));
    let Output::Persist(StoreOp::Replace { subject, record }) = &out[1] else { panic!("{out:?}") };
    let mut after = rig();
    after.machine.restore(&subject.key, record).unwrap();
    assert_eq!(port_found(&after.tell(Input::Lookup(key(1)))), Some(Ok(1)));
    after.wait(RECORD_TTL);
    after.handle(Input::Lookup(key(1)));
    after.outputs();
    let now = after.wall();
    assert_eq!(refusal(&after.tell(Input::Value(key(1), signed(1, 9, 2, now)))), Some("record-rollback"));
}

#[test]
fn the_cache_is_bounded_and_forgets_the_oldest() {
    let mut rig = rig();
    let item = signed(1, 10, 1, rig.wall());
    let filler = record(1, rig.wall());
    for n in 0..CACHED_RECORDS_MAX as u32 {
        let key = Keypair::from_seed(&crate::rng::derive_seed(&[0; 32], &n.to_string())).public();
        let confirmed = UnixTime::from_secs(1_000 + u64::from(n));
        rig.machine.cache.insert(key, Cached::new(&item, &filler, confirmed));
    }
    rig.handle(Input::Lookup(key(1)));
    rig.outputs();
    let out = rig.tell(Input::Value(key(1), item));
    assert_eq!(rig.machine.cached(), CACHED_RECORDS_MAX);
    assert!(matches!(out.last(), Some(Output::Persist(StoreOp::Forget { .. }))));
    assert!(rig.machine.peek(&key(1)).is_some());
}

fn arb_input() -> impl Strategy<Value = Input> {
    let now = laws::WALL_AT_START;
    prop_oneof![
        3 => (1u8..4).prop_map(|n| Input::Lookup(key(n))),
        3 => (1u8..4, 1u8..4, 1u64..5, 1u16..3).prop_map(move |(n, by, seq, port)| Input::Value(key(n), signed(by, seq, port, now))),
        2 => (1u8..4, any::<bool>()).prop_map(|(n, ok)| Input::Done(key(n), if ok { OK } else { FAILED })),
        1 => (1u8..4).prop_map(|n| Input::Invalidate(key(n))),
    ]
}

#[test]
fn lookups_are_a_lawful_machine() {
    laws::check(|| Lookups::new(2), arb_input());
}

proptest! {
    #[test]
    fn no_answer_is_ever_older_than_an_earlier_one(inputs in prop::collection::vec((0u64..400_000, arb_input()), 0..80)) {
        let mut rig = rig();
        let mut floor: BTreeMap<PublicKey, u64> = BTreeMap::new();
        for (wait_ms, input) in inputs {
            rig.wait(Duration::from_millis(wait_ms));
            for o in rig.tell(input) {
                if let Output::Found(k, Ok(_)) = o {
                    let seq = rig.machine.cache[&k].seq;
                    prop_assert!(seq >= floor.insert(k, seq).unwrap_or(0));
                }
            }
        }
    }
}
