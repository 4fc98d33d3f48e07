use super::*;
use crate::laws::{self, Rig, WALL_AT_START};
use proptest::prelude::*;

const OK: Result<DhtDone, RequestFailed> = Ok(DhtDone { stored: 8, responded: 20, newest_seq: None });
const NONE: Result<DhtDone, RequestFailed> = Err(RequestFailed::Dht(DhtFailed::NoNodes));

fn keypair() -> Keypair {
    Keypair::from_seed(&[1; 32])
}

fn content(port: u16) -> RecordContent {
    let mut c = RecordContent { node_type: NodeType::Public, ..RecordContent::default() };
    c.set_endpoints(&[([203, 0, 113, 7], port).into()], false);
    c
}

fn set(c: RecordContent) -> Input {
    Input::Content(Box::new(c))
}

fn rig() -> Rig<Publisher> {
    Rig::new(Publisher::new(keypair(), false), [0; 32])
}

/// A publisher whose first read found nothing and whose first put is stored; its first `seq`.
fn published() -> (Rig<Publisher>, u64) {
    let mut rig = rig();
    rig.handle(set(content(1)));
    rig.outputs();
    let seq = put_seq(&rig.tell(Input::Done(OK)));
    rig.tell(Input::Done(OK));
    (rig, seq)
}

fn put(out: &[Output]) -> Option<MutableItem> {
    out.iter().find_map(|o| match o {
        Output::Request(DhtRequest::PutMutable { item, .. }) => Some(item.clone()),
        _ => None,
    })
}

fn put_seq(out: &[Output]) -> u64 {
    put(out).expect("a put").seq
}

fn reads(out: &[Output]) -> bool {
    matches!(out.last(), Some(Output::Request(DhtRequest::GetMutable { mode: GetMode::MostRecent, .. })))
}

#[test]
fn the_dht_is_read_before_the_first_put_and_the_seq_is_journaled_before_it_leaves() {
    let mut rig = rig();
    let out = rig.tell(set(content(1)));
    assert!(out.len() == 1 && reads(&out));
    let out = rig.tell(Input::Done(OK));
    let [
        Output::Persist(StoreOp::Replace { subject, record }),
        Output::Request(DhtRequest::PutMutable { item, .. }),
    ] = &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!(subject.room, Room::Publisher);
    assert_eq!(Dict::decode(record, 99).unwrap().u64("seq"), Ok(item.seq));
    assert_eq!(item.seq, WALL_AT_START.as_millis());
    assert_eq!(item::verify(item), Ok(()));
    assert_eq!(NodeRecord::read(&item.value, rig.wall()).unwrap().content, content(1));
    assert_eq!(rig.tell(Input::Done(OK)), [Output::Published { seq: item.seq, stored: 8 }]);
}

#[test]
fn a_restored_backup_goes_above_what_the_dht_holds() {
    let mut rig = rig();
    rig.machine.restore(&Dict::new().with("seq", 5u64).with("v", 1u64).encode()).unwrap();
    rig.handle(set(content(1)));
    let ahead = WALL_AT_START.as_millis() + 1_000_000;
    rig.handle(Input::Value(item::sign(&keypair(), b"", ahead, Bytes::from_static(b"old")).unwrap()));
    rig.outputs();
    assert_eq!(put_seq(&rig.tell(Input::Done(OK))), ahead + 1);
}

#[test]
fn a_clock_that_went_back_does_not_take_the_seq_with_it() {
    let mut rig = rig();
    let last = WALL_AT_START.as_millis() + 77;
    rig.machine.restore(&Dict::new().with("seq", last).with("v", 1u64).encode()).unwrap();
    rig.handle(set(content(1)));
    rig.outputs();
    assert_eq!(put_seq(&rig.tell(Input::Done(OK))), last + 1);
}

#[test]
fn a_forged_seq_cannot_exhaust_ours() {
    let mut rig = rig();
    rig.handle(set(content(1)));
    rig.outputs();
    let mut forged = item::sign(&Keypair::from_seed(&[2; 32]), b"", SEQ_MAX, Bytes::new()).unwrap();
    assert_eq!(rig.tell(Input::Value(forged.clone())), [Output::Refused("forged-own-record")]);
    forged.key = keypair().public();
    assert_eq!(rig.tell(Input::Value(forged)), [Output::Refused("forged-own-record")]);
    assert_eq!(put_seq(&rig.tell(Input::Done(OK))), WALL_AT_START.as_millis());
}

#[test]
fn keep_alive_sends_the_same_bytes_every_thirty_minutes() {
    let (mut rig, seq) = published();
    for _ in 0..20 {
        assert!(rig.wait(REPUBLISH_EVERY / 10 * 9 - Duration::from_secs(1)).is_empty());
        let out = rig.wait(REPUBLISH_EVERY / 5 + Duration::from_secs(2));
        assert_eq!(out.len(), 1, "nothing is journaled");
        assert_eq!(put_seq(&out), seq);
        rig.tell(Input::Done(OK));
    }
}

#[test]
fn a_record_is_issued_anew_before_it_expires() {
    let (mut rig, first) = published();
    let mut seqs = vec![first];
    for _ in 0..60 {
        let out = rig.wait(Duration::from_secs(33 * 60 + 1));
        let item = put(&out).expect("kept alive");
        assert!(NodeRecord::read(&item.value, rig.wall().plus(Duration::from_secs(3 * 3_600))).is_ok());
        seqs.push(item.seq);
        rig.tell(Input::Done(OK));
    }
    seqs.dedup();
    assert_eq!(seqs.len(), 2, "once in 18 hours");
}

#[test]
fn a_change_is_published_at_once_with_a_higher_seq_but_not_within_the_gap() {
    let (mut rig, seq) = published();
    assert!(rig.tell(set(content(1))).is_empty(), "no change");
    assert!(rig.tell(set(content(2))).is_empty(), "within the gap");
    assert!(rig.tell(set(content(3))).is_empty());
    let out = rig.wait(CHANGE_GAP);
    let item = put(&out).unwrap();
    assert!(item.seq > seq);
    assert_eq!(NodeRecord::read(&item.value, rig.wall()).unwrap().content, content(3));
    rig.tell(Input::Done(OK));
    rig.wait(Duration::from_secs(60));
    assert!(put(&rig.tell(set(content(4)))).is_some());
    rig.wait(Duration::from_secs(60));
    assert!(rig.tell(set(content(5))).is_empty(), "one put at a time");
    rig.handle(Input::Done(OK));
    let out = rig.outputs();
    let item = put(&out).expect("the change that came meanwhile");
    assert_eq!(NodeRecord::read(&item.value, rig.wall()).unwrap().content, content(5));
}

#[test]
fn failures_back_off_to_five_minutes_and_success_resets_them() {
    let (mut rig, seq) = published();
    rig.wait(Duration::from_secs(33 * 60 + 1));
    let mut last = Duration::ZERO;
    for n in 0..9u32 {
        rig.tell(Input::Done(NONE));
        let delay = rig.machine.poll_timeout().unwrap().at.since(rig.now);
        let base = (BACKOFF_MIN * (1 << n)).min(BACKOFF_MAX);
        assert!(delay >= base * 3 / 4 && delay <= base * 5 / 4, "{n}: {delay:?}");
        last = delay;
        assert_eq!(put_seq(&rig.wait(delay)), seq);
    }
    assert!(last <= BACKOFF_MAX * 5 / 4);
    assert_eq!(rig.tell(Input::Done(OK)), [Output::Published { seq, stored: 8 }]);
    assert!(rig.machine.poll_timeout().unwrap().at.since(rig.now) > Duration::from_secs(26 * 60));
}

#[test]
fn a_more_recent_item_in_the_dht_is_read_and_gone_above() {
    let (mut rig, seq) = published();
    rig.wait(Duration::from_secs(33 * 60 + 1));
    rig.tell(Input::Done(Err(RequestFailed::Dht(DhtFailed::SeqTooOld))));
    assert!(reads(&rig.wait(Duration::from_secs(7))));
    rig.tell(Input::Value(item::sign(&keypair(), b"", seq + 9_000_000_000, Bytes::new()).unwrap()));
    assert_eq!(put_seq(&rig.tell(Input::Done(OK))), seq + 9_000_000_001);
}

#[test]
fn a_private_node_waits_for_a_relay_session_unless_its_network_is_private() {
    let mut c = RecordContent::default();
    c.set_endpoints(&["10.0.0.1:1".parse().unwrap()], true);
    let mut waiting = rig();
    assert!(waiting.tell(set(c.clone())).is_empty());
    assert!(waiting.machine.waiting().unwrap().starts_with("a relay session"));
    let mut attached = c.clone();
    let relay = Keypair::from_seed(&[3; 32]).public();
    let addr = "198.51.100.1:1".parse().unwrap();
    attached.attachments.push(super::super::record::Attachment { relay, session: [1; 8], addr });
    assert!(reads(&waiting.tell(set(attached))));

    let mut allowed = Rig::new(Publisher::new(keypair(), true), [0; 32]);
    assert!(allowed.tell(set(RecordContent::default())).is_empty(), "no address yet");
    assert!(reads(&allowed.tell(set(c))));
}

#[test]
fn a_lost_relay_session_is_published_too() {
    let (mut rig, _) = published();
    rig.wait(Duration::from_secs(60));
    assert!(put(&rig.tell(set(RecordContent::default()))).is_some());
}

#[test]
fn what_it_waits_for_is_said_and_ends() {
    let mut rig = rig();
    assert!(rig.machine.waiting().is_some());
    rig.handle(set(content(1)));
    rig.handle(Input::Done(NONE));
    assert!(rig.machine.waiting().unwrap().starts_with("the DHT"));
    rig.wait(Duration::from_secs(10));
    rig.tell(Input::Done(OK));
    rig.tell(Input::Done(OK));
    assert_eq!(rig.machine.waiting(), None);
    assert_eq!(rig.machine.stored().map(|(_, at)| at), Some(rig.wall()));
}

fn arb_input() -> impl Strategy<Value = Input> {
    let result = prop_oneof![
        Just(OK),
        Just(NONE),
        Just(Ok(DhtDone::default())),
        Just(Err(RequestFailed::Dht(DhtFailed::SeqTooOld))),
        Just(Err(RequestFailed::Busy)),
    ];
    prop_oneof![
        (0u16..4).prop_map(|p| set(if p == 0 { RecordContent::default() } else { content(p) })),
        (0..SEQ_MAX / 2, any::<bool>()).prop_map(|(seq, own)| {
            let k = if own { keypair() } else { Keypair::from_seed(&[2; 32]) };
            Input::Value(item::sign(&k, b"", seq, Bytes::new()).unwrap())
        }),
        result.prop_map(Input::Done),
    ]
}

#[test]
fn the_publisher_is_a_lawful_machine() {
    laws::check(|| Publisher::new(keypair(), false), arb_input());
}

proptest! {
    #[test]
    fn a_seq_is_journaled_before_it_is_put_never_goes_back_and_stands_for_one_value(
        inputs in prop::collection::vec((0u64..4_000_000, arb_input()), 0..60),
    ) {
        let mut rig = rig();
        let (mut journaled, mut last): (u64, Option<MutableItem>) = (0, None);
        for (wait_ms, input) in inputs {
            let mut out = rig.wait(Duration::from_millis(wait_ms));
            out.extend(rig.tell(input));
            for o in out {
                match o {
                    Output::Persist(op) => {
                        let StoreOp::Replace { record, .. } = op else { panic!("replaces") };
                        journaled = Dict::decode(&record, 99).unwrap().u64("seq").unwrap();
                    }
                    Output::Request(DhtRequest::PutMutable { item, .. }) => {
                        prop_assert_eq!(item.seq, journaled);
                        if let Some(before) = last.replace(item.clone()) {
                            prop_assert!(item.seq > before.seq || item == before);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
