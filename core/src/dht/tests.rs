use super::record::NodeType;
use super::*;
use crate::id::Lsn;
use crate::laws::{self, Rig};
use crate::port::{DhtDone, DhtFailed, GetMode, MutableItem};
use crate::time::Duration;
use proptest::prelude::*;
use std::collections::BTreeMap;

const TOPIC: DhtId = DhtId([1; 20]);

fn pair(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

fn config(n: u8) -> DhtConfig {
    DhtConfig {
        keypair: pair(n),
        topics: vec![TOPIC],
        announce_port: AnnouncePort::Explicit(30_906),
        public_addrs: vec![],
        publish_private: true,
        private_networks: true,
        republish_every: publisher::REPUBLISH_EVERY,
        search_every: topic::SEARCH_EVERY,
        cached_records_max: 64,
        ops_room: 2,
    }
}

fn addr(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// A port that stores everything at once, shared by several rooms.
#[derive(Default)]
struct Port {
    items: BTreeMap<PublicKey, MutableItem>,
    peers: Vec<SocketAddr>,
}

impl Port {
    fn answer(&mut self, from: SocketAddr, op: OpId, request: DhtRequest) -> Vec<DhtEvent> {
        let mut out = Vec::new();
        match request {
            DhtRequest::Announce { .. } => self.peers.push(from),
            DhtRequest::GetPeers { .. } => out.push(DhtEvent::Peers { op, addrs: self.peers.clone() }),
            DhtRequest::PutMutable { item, .. } => drop(self.items.insert(item.key, item)),
            DhtRequest::GetMutable { key, .. } => {
                out.extend(self.items.get(&key).map(|item| DhtEvent::Value { op, item: item.clone() }));
            }
            DhtRequest::PutImmutable { .. } | DhtRequest::GetImmutable { .. } => {}
            DhtRequest::Cancel => return out,
        }
        out.push(DhtEvent::Done { op, result: Ok(DhtDone { stored: 1, responded: 1, newest_seq: None }) });
        out
    }
}

/// Lets the port answer everything in `out`; returns the rest, in order.
fn serve(rig: &mut Rig<Dht>, port: &mut Port, from: SocketAddr, out: Vec<Output>) -> Vec<Output> {
    let mut todo: VecDeque<Output> = out.into();
    let mut rest = Vec::new();
    while let Some(o) = todo.pop_front() {
        if let Output::Dht { op, request } = o {
            for event in port.answer(from, op, request) {
                todo.extend(rig.tell(Input::Dht(event)));
            }
        } else {
            rest.push(o);
        }
    }
    rest
}

fn start(rig: &mut Rig<Dht>, port: &mut Port, from: SocketAddr) -> Vec<Output> {
    rig.handle(Input::Content(Box::default()));
    rig.handle(Input::Observed { by: pair(99).public(), from: None, addr: from });
    let out = rig.tell(Input::Start);
    serve(rig, port, from, out)
}

#[test]
fn two_nodes_publish_find_each_other_and_read_each_others_record() {
    let mut port = Port::default();
    let mut a = Rig::new(Dht::new(config(1)), [1; 32]);
    let mut b = Rig::new(Dht::new(config(2)), [2; 32]);
    let out = start(&mut a, &mut port, addr(1));
    assert!(out.iter().any(|o| matches!(o, Output::Published { stored: 1, .. })));
    assert_eq!(a.machine.waiting(), None);
    let out = start(&mut b, &mut port, addr(2));
    assert!(out.contains(&Output::Hint(addr(1))));
    let out = b.tell(Input::Lookup(pair(1).public()));
    let out = serve(&mut b, &mut port, addr(2), out);
    let Some(Output::Found { key, result: Ok(record) }) = out.first() else { panic!("{out:?}") };
    assert_eq!((*key, record.content.private.clone()), (pair(1).public(), vec![addr(1)]));
    let out = a.wait(Duration::from_secs(3));
    let out = serve(&mut a, &mut port, addr(1), out);
    assert!(out.contains(&Output::Hint(addr(2))), "the first search was in vain, so it repeats soon");
}

#[test]
fn nothing_is_asked_before_the_start() {
    let mut rig = Rig::new(Dht::new(config(1)), [1; 32]);
    assert!(rig.tell(Input::Content(Box::default())).is_empty());
    assert!(rig.tell(Input::Observed { by: pair(2).public(), from: None, addr: addr(1) }).is_empty());
    assert_eq!(rig.machine.poll_timeout(), None);
}

#[test]
fn an_observed_address_is_published_at_once_and_configured_ones_win() {
    let mut port = Port::default();
    let mut rig = Rig::new(Dht::new(DhtConfig { publish_private: false, ..config(1) }), [1; 32]);
    let public = RecordContent { node_type: NodeType::Public, ..RecordContent::default() };
    rig.handle(Input::Content(Box::new(public.clone())));
    let out = rig.tell(Input::Start);
    serve(&mut rig, &mut port, addr(1), out);
    assert!(rig.machine.waiting().unwrap().starts_with("an address"));
    let seen: SocketAddr = "203.0.113.9:30906".parse().unwrap();
    let out = rig.tell(Input::Observed { by: pair(2).public(), from: None, addr: seen });
    serve(&mut rig, &mut port, addr(1), out);
    let stored =
        |port: &Port| NodeRecord::decode(&port.items[&pair(1).public()].value).unwrap().content.public;
    assert_eq!(stored(&port), [seen]);

    let fixed: SocketAddr = "203.0.113.1:30906".parse().unwrap();
    let mut rig = Rig::new(Dht::new(DhtConfig { public_addrs: vec![fixed], ..config(1) }), [1; 32]);
    rig.handle(Input::Content(Box::new(public)));
    rig.handle(Input::Observed { by: pair(2).public(), from: None, addr: seen });
    let out = rig.tell(Input::Start);
    serve(&mut rig, &mut port, addr(1), out);
    assert_eq!(stored(&port), [fixed]);
}

#[test]
fn after_a_crash_at_any_journal_record_the_next_seq_is_higher() {
    let mut port = Port::default();
    let mut journal: Vec<StoredRecord> = Vec::new();
    let mut last = 0;
    for life in 0..5u8 {
        let mut rig = Rig::new(Dht::new(config(1)), [life; 32]);
        rig.machine.restore(&journal).unwrap();
        // Odd lives crash between the journal record and the put.
        rig.handle(Input::Content(Box::new(RecordContent {
            services: u32::from(life),
            ..Default::default()
        })));
        rig.handle(Input::Observed { by: pair(9).public(), from: None, addr: addr(1) });
        let mut todo: VecDeque<Output> = rig.tell(Input::Start).into();
        while let Some(o) = todo.pop_front() {
            match o {
                Output::Persist(StoreOp::Replace { subject, record }) => {
                    journal = vec![StoredRecord { lsn: Lsn(1), subject, record }];
                    if life % 2 == 1 {
                        break;
                    }
                }
                Output::Dht { op, request } => {
                    for event in port.answer(addr(1), op, request) {
                        todo.extend(rig.tell(Input::Dht(event)));
                    }
                }
                _ => {}
            }
        }
        let seq = crate::codec::Dict::decode(&journal[0].record, 99).unwrap().u64("seq").unwrap();
        assert!(seq > last);
        last = seq;
    }
    assert_eq!(port.items[&pair(1).public()].seq, last);
}

#[test]
fn a_damaged_journal_record_is_named() {
    let subject = crate::store::Subject::new(Room::Publisher, b"");
    let bad = StoredRecord { lsn: Lsn(7), subject, record: Bytes::from_static(b"junk") };
    let (record, _) = Dht::new(config(1)).restore(std::slice::from_ref(&bad)).unwrap_err();
    assert_eq!(record, bad);
}

fn arb_input() -> impl Strategy<Value = Input> {
    let op = (0u64..30).prop_map(|n| OpId((2 << 56) + n));
    let done = prop_oneof![
        3 => Just(Ok(DhtDone { stored: 1, responded: 1, newest_seq: None })),
        1 => Just(Err(DhtFailed::NoNodes)),
        1 => Just(Err(DhtFailed::Cancelled)),
    ];
    let value = (1u8..4, 0u64..100).prop_map(|(n, seq)| {
        let record = NodeRecord::issue(RecordContent::default(), laws::WALL_AT_START);
        item::sign(&pair(n), b"", seq, record.encode()).unwrap()
    });
    prop_oneof![
        1 => Just(Input::Start),
        4 => (op.clone(), done).prop_map(|(op, result)| Input::Dht(DhtEvent::Done { op, result })),
        2 => (op.clone(), value).prop_map(|(op, item)| Input::Dht(DhtEvent::Value { op, item })),
        1 => (op, any::<u16>()).prop_map(|(op, p)| Input::Dht(DhtEvent::Peers { op, addrs: vec![addr(p)] })),
        2 => (1u8..9).prop_map(|n| Input::Lookup(pair(n).public())),
        1 => (1u8..9).prop_map(|n| Input::Invalidate(pair(n).public())),
        1 => (0u32..3).prop_map(|services| Input::Content(Box::new(RecordContent { services, ..Default::default() }))),
        1 => (1u8..9, 1u16..3).prop_map(|(n, p)| Input::Observed { by: pair(n).public(), from: Some([198, 51, 100, n].into()), addr: addr(p) }),
        1 => Just(Input::NetworkChanged),
    ]
}

#[test]
fn the_room_is_a_lawful_machine() {
    laws::check_within(
        || Dht::new(config(1)),
        arb_input(),
        |m| {
            assert!(m.scheduler.in_flight() <= crate::limits::DHT_OPS_MAX);
        },
    );
}

#[test]
fn the_first_thing_asked_of_our_own_key_is_a_complete_read() {
    let mut rig = Rig::new(Dht::new(config(1)), [1; 32]);
    rig.handle(Input::Content(Box::default()));
    rig.handle(Input::Observed { by: pair(9).public(), from: None, addr: addr(1) });
    let out = rig.tell(Input::Start);
    let own = out.iter().find_map(|o| match o {
        Output::Dht { request: DhtRequest::GetMutable { key, mode, .. }, .. } => Some((*key, *mode)),
        _ => None,
    });
    assert_eq!(own, Some((pair(1).public(), GetMode::MostRecent)));
}
