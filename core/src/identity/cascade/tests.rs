use super::*;
use crate::dht::record::{NodeType, RecordContent};
use crate::dht::scheduler::RequestFailed;
use crate::id::Keypair;
use crate::laws::{self, Rig, WALL_AT_START};
use crate::transport::CloseReason;
use proptest::prelude::*;

mod asking;

fn key(n: u8) -> PublicKey {
    Keypair::from_seed(&[n; 32]).public()
}

fn far_key(n: u32) -> PublicKey {
    Keypair::from_seed(&crate::rng::derive_seed(&[0; 32], &n.to_string())).public()
}

/// An address in a network of its own.
fn addr(n: u8) -> SocketAddr {
    ([203, 0, n, 1], 30_906).into()
}

fn config() -> CascadeConfig {
    CascadeConfig { own: key(100), max_peers: 50, min_peers: 0, private_networks: false }
}

fn rig() -> Rig<Cascade> {
    Rig::new(Cascade::new(config()), [0; 32])
}

fn record(addrs: &[SocketAddr]) -> Box<NodeRecord> {
    let mut c = RecordContent { node_type: NodeType::Public, ..RecordContent::default() };
    c.set_endpoints(addrs, true);
    Box::new(NodeRecord::issue(c, WALL_AT_START))
}

fn found(n: u8, addrs: &[SocketAddr]) -> Input {
    Input::Found { key: key(n), result: Ok(record(addrs)) }
}

fn learnt(n: u8) -> Input {
    Input::Learnt { key: key(n), addr: None }
}

fn connect(n: u8) -> Input {
    Input::Connect { id: CommandId(u64::from(n)), key: key(n), addr: None }
}

fn closed() -> DialFailed {
    DialFailed::Closed(CloseReason::TimedOut)
}

fn dials(out: &[Output]) -> Vec<(DialId, SocketAddr)> {
    out.iter()
        .filter_map(|o| if let Output::Dial { dial, way, .. } = o { Some((*dial, way.addr())) } else { None })
        .collect()
}

fn lookups(out: &[Output]) -> usize {
    out.iter().filter(|o| matches!(o, Output::Lookup(_))).count()
}

fn answers(out: &[Output]) -> Vec<(u64, Result<(), ConnectFailed>)> {
    out.iter()
        .filter_map(|o| match o {
            Output::ConnectDone { id, result, .. } => Some((id.0, result.clone())),
            _ => None,
        })
        .collect()
}

fn fail(rig: &mut Rig<Cascade>, dial: DialId) -> Vec<Output> {
    rig.tell(Input::Dialled { dial, result: Err(closed()) })
}

#[test]
fn a_learnt_peer_is_looked_up_and_dialled_address_by_address() {
    let mut rig = rig();
    assert!(rig.tell(Input::Learnt { key: key(1), addr: Some(addr(9)) }).is_empty());
    assert_eq!(rig.wait(START_WITHIN), [Output::Lookup(key(1))]);
    let mut out = rig.tell(found(1, &[addr(1), addr(2)]));
    for expected in [addr(1), addr(2), addr(9)] {
        let d = dials(&out);
        assert_eq!(d.len(), 1);
        assert_eq!(d[0].1, expected, "public ones of the record, then what was told");
        out = fail(&mut rig, d[0].0);
    }
    assert_eq!(out, [Output::Invalidate(key(1))]);
    assert!(rig.machine.trouble(&key(1)).unwrap().contains("203.0.9.1:30906: timed out"));
}

#[test]
fn a_connected_peer_ends_its_effort_and_is_not_dialled_again() {
    let mut rig = rig();
    rig.tell(learnt(1));
    rig.wait(START_WITHIN);
    let (dial, at) = dials(&rig.tell(found(1, &[addr(1)])))[0];
    rig.tell(Input::Dialled { dial, result: Ok(key(1)) });
    rig.tell(Input::Connected { key: key(1), addr: Some(at) });
    assert_eq!(rig.machine.efforts(), 0);
    rig.tell(learnt(1));
    rig.tell(Input::Hint(at));
    assert!(rig.wait(Duration::from_secs(60)).is_empty());
}

#[test]
fn four_lookups_and_four_dials_at_once_for_peers_nobody_asked_for() {
    let mut rig = rig();
    for n in 1..=20 {
        rig.handle(learnt(n));
    }
    let out = rig.wait(START_WITHIN);
    assert_eq!(lookups(&out), FAN_OUT);
    let mut dialled = 0;
    let mut keys: Vec<PublicKey> =
        out.iter().filter_map(|o| if let Output::Lookup(k) = o { Some(*k) } else { None }).collect();
    while let Some(k) = keys.pop() {
        let n = (1..=20).find(|n| key(*n) == k).unwrap();
        for o in rig.tell(found(n, &[addr(n)])) {
            match o {
                Output::Lookup(k) => keys.push(k),
                Output::Dial { .. } => dialled += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(dialled, FAN_OUT);
}

#[test]
fn nobody_unwanted_is_dialled_at_max_peers_but_the_wanted_are() {
    let mut rig = Rig::new(Cascade::new(CascadeConfig { max_peers: 1, ..config() }), [0; 32]);
    rig.tell(Input::Start);
    rig.tell(Input::Connected { key: key(1), addr: Some(addr(1)) });
    rig.tell(learnt(2));
    rig.tell(Input::Hint(addr(7)));
    assert!(rig.wait(Duration::from_secs(300)).is_empty());
    assert_eq!(rig.machine.efforts(), 0, "the book remembers them");
    assert_eq!(rig.tell(connect(3)), [Output::Lookup(key(3))]);
    assert_eq!(rig.tell(connect(4)), [Output::Lookup(key(4))]);
    assert_eq!(dials(&rig.tell(found(3, &[addr(3)]))).len(), 1);
    rig.tell(Input::Disconnected(key(1)));
    let out = rig.wait(TOP_UP_EVERY * 6 / 5);
    assert!(out.contains(&Output::WantPeers(FAN_OUT)), "room for the others: {out:?}");
}

#[test]
fn lookups_of_peers_nobody_asked_for_are_no_more_than_there_is_room_for() {
    let mut rig = Rig::new(Cascade::new(CascadeConfig { max_peers: 2, ..config() }), [0; 32]);
    rig.tell(Input::Connected { key: key(1), addr: Some(addr(1)) });
    rig.tell(learnt(2));
    rig.tell(learnt(3));
    let mut started = lookups(&rig.wait(START_WITHIN));
    rig.timeout();
    started += lookups(&rig.outputs());
    assert_eq!(started, 1);
}

#[test]
fn a_node_that_gets_its_last_peer_lets_the_others_go() {
    let mut rig = Rig::new(Cascade::new(CascadeConfig { max_peers: 3, ..config() }), [0; 32]);
    for n in 2..40 {
        rig.tell(learnt(n));
    }
    rig.wait(START_WITHIN);
    rig.tell(connect(50));
    for n in 60..63 {
        rig.tell(Input::Connected { key: key(n), addr: Some(addr(n)) });
    }
    assert_eq!(rig.machine.efforts(), 3 + 1, "three lookups under way, and the wanted one");
    assert!(rig.machine.lookup_queues[OTHERS].is_empty());
}

#[test]
fn a_connect_is_answered_once_with_success_or_every_reason() {
    let mut rig = rig();
    let at = Some(addr(5));
    let out = rig.tell(Input::Connect { id: CommandId(1), key: key(1), addr: at });
    let (dial, first) = dials(&out)[0];
    assert_eq!(first, addr(5), "the user's address comes first");
    rig.tell(Input::Connect { id: CommandId(2), key: key(1), addr: None });
    assert_eq!(fail(&mut rig, dial), [Output::Lookup(key(1))]);
    let (dial, _) = dials(&rig.tell(found(1, &[addr(1), addr(5)])))[0];
    let out = rig.tell(Input::Dialled { dial, result: Ok(key(9)) });
    assert_eq!(out, [Output::Invalidate(key(1)), Output::Lookup(key(1))], "stale: looked up once more");
    let (dial, moved) = dials(&rig.tell(found(1, &[addr(6)])))[0];
    assert_eq!(moved, addr(6));
    let out = fail(&mut rig, dial);
    let failed = ConnectFailed::Unreachable {
        lookup: None,
        tried: vec![
            (addr(5).into(), closed()),
            (addr(1).into(), DialFailed::OtherPeer),
            (addr(6).into(), closed()),
        ],
        asked: 0,
        timed_out: false,
    };
    assert_eq!(answers(&out), [(1, Err(failed.clone())), (2, Err(failed))]);
    let out = rig.tell(connect(3));
    assert_eq!(out, [Output::Lookup(key(3))]);
    assert_eq!(answers(&rig.tell(Input::Connected { key: key(3), addr: Some(addr(3)) })), [(3, Ok(()))]);
    assert_eq!(answers(&rig.tell(connect(3))), [(3, Ok(()))], "already connected");
}

#[test]
fn a_connect_without_record_says_so() {
    let mut rig = rig();
    rig.tell(connect(1));
    let out = rig.tell(Input::Found { key: key(1), result: Err(LookupFailed::NotFound) });
    let (_, result) = answers(&out).remove(0);
    assert_eq!(result.unwrap_err().to_string(), "no record in the DHT");
    let own = Input::Connect { id: CommandId(7), key: key(100), addr: None };
    assert_eq!(answers(&rig.tell(own)), [(7, Err(ConnectFailed::Own))]);
}

#[test]
fn a_connect_is_answered_in_time_even_if_nobody_answers_us() {
    let mut rig = rig();
    rig.tell(connect(1));
    assert!(answers(&rig.wait(CONNECT_TIMEOUT - Duration::from_nanos(1))).is_empty());
    let out = rig.wait(Duration::from_secs(1));
    let (id, result) = answers(&out).remove(0);
    assert_eq!(id, 1);
    assert!(result.unwrap_err().to_string().contains("timed out"));
}

#[test]
fn blocking_ends_everything() {
    let mut rig = rig();
    rig.tell(connect(1));
    assert_eq!(answers(&rig.tell(Input::Blocked(key(1)))), [(1, Err(ConnectFailed::Blocked))]);
    assert!(rig.tell(found(1, &[addr(1)])).is_empty());
}

#[test]
fn an_unreachable_peer_is_left_longer_each_time_and_then_alone() {
    let mut rig = rig();
    rig.tell(learnt(1));
    rig.wait(START_WITHIN);
    let none = || Input::Found { key: key(1), result: Err(LookupFailed::NotFound) };
    for n in 0..ATTEMPTS_MAX {
        let before = rig.now;
        rig.tell(none());
        if n + 1 < ATTEMPTS_MAX {
            let base = BACKOFF_MIN * (1 << n);
            let at = rig.machine.poll_timeout().unwrap().at.since(before);
            assert!(at >= base * 3 / 4 && at <= base * 5 / 4, "{at:?}");
            assert_eq!(rig.wait(at), [Output::Lookup(key(1))]);
        }
    }
    assert!(rig.tell(learnt(1)).is_empty(), "not before its back-off is over");
    assert!(rig.wait(Duration::from_secs(7_200)).is_empty());
    rig.tell(learnt(1));
    assert_eq!(rig.wait(START_WITHIN), [Output::Lookup(key(1))], "spoken of again");
}

#[test]
fn a_hundred_thousand_hints_are_eight_dials_a_minute_to_any_network_and_none_to_where_nobody_lives() {
    let mut rig = rig();
    let mut out = Vec::new();
    for n in 0..100_000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let victim = SocketAddr::from(([198, 51, 100, c], u16::from_be_bytes([a, b]) + 1));
        let nowhere =
            ["127.0.0.1:9", "224.0.0.1:9", "10.0.0.1:9", "8.8.8.8:0"][n as usize % 4].parse().unwrap();
        out.extend(rig.tell(Input::Hint(if n % 2 == 0 { victim } else { nowhere })));
        if n % 1_000 == 0 {
            out.extend(rig.wait(Duration::from_millis(100)));
        }
        out.retain(|o| matches!(o, Output::Dial { .. }));
        let open: Vec<_> = rig.machine.dials.keys().copied().collect();
        for dial in open {
            out.extend(fail(&mut rig, dial));
        }
    }
    let all = dials(&out);
    assert_eq!(all.len(), 8, "ten seconds of flood");
    assert!(rig.machine.hints.len() <= HINTS_WAITING_MAX);
    let later = dials(&rig.wait(Duration::from_secs(60)));
    assert!(later.len() <= 8);
    assert!(all.iter().chain(&later).all(|(_, a)| a.ip().to_string().starts_with("198.51.100.")));
}

#[test]
fn private_addresses_are_dialled_by_neighbours_or_where_the_network_is_private() {
    let private: SocketAddr = "192.168.1.5:9".parse().unwrap();
    let loopback: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let first = |cfg: CascadeConfig, own: Vec<SocketAddr>| {
        let mut rig = Rig::new(Cascade::new(cfg), [0; 32]);
        rig.tell(Input::OwnAddrs(own));
        rig.tell(connect(1));
        let mut out = rig.tell(found(1, &[addr(1), private, loopback]));
        let mut order = Vec::new();
        while let Some((dial, at)) = dials(&out).first().copied() {
            order.push(at);
            out = fail(&mut rig, dial);
        }
        order
    };
    let neighbour = SocketAddr::new(addr(1).ip(), 1);
    assert_eq!(first(config(), vec![addr(2)]), [addr(1)]);
    assert_eq!(first(config(), vec![neighbour]), [private, addr(1)]);
    let open = CascadeConfig { private_networks: true, ..config() };
    assert_eq!(first(open, vec![]), [addr(1), private, loopback]);
}

#[test]
fn our_own_address_is_never_dialled_and_is_learnt_from_a_dial_that_met_us() {
    let mut rig = rig();
    let (dial, at) = dials(&rig.tell(Input::Hint(addr(1))))[0];
    rig.tell(Input::Dialled { dial, result: Ok(key(100)) });
    assert!(rig.tell(Input::Hint(at)).is_empty());
    rig.tell(Input::OwnAddrs(vec![addr(2)]));
    assert!(rig.tell(Input::Hint(addr(2))).is_empty());
}

#[test]
fn an_address_where_nobody_of_ours_was_is_left_for_five_minutes() {
    let mut rig = rig();
    let (dial, _) = dials(&rig.tell(Input::Hint(addr(1))))[0];
    fail(&mut rig, dial);
    rig.wait(VAIN_MIN - Duration::from_nanos(1));
    assert!(rig.tell(Input::Hint(addr(1))).is_empty());
    rig.wait(Duration::from_nanos(1));
    assert_eq!(dials(&rig.tell(Input::Hint(addr(1)))).len(), 1);
}

#[test]
fn a_peer_that_has_peers_enough_is_left_alone_for_a_while() {
    let mut rig = rig();
    rig.tell(Input::Connected { key: key(1), addr: Some(addr(1)) });
    rig.tell(Input::Disconnected(key(1)));
    rig.tell(Input::SentAway(key(1)));
    rig.tell(learnt(1));
    assert!(rig.wait(SENT_AWAY_REST * 3 / 4 - Duration::from_secs(1)).is_empty());
    rig.wait(SENT_AWAY_REST / 2 + Duration::from_secs(2));
    assert!(rig.machine.efforts() == 1 && rig.tell(learnt(1)).is_empty());
    assert_eq!(lookups(&rig.wait(START_WITHIN)), 1);
    rig.tell(Input::SentAway(key(2)));
    assert_eq!(rig.tell(connect(2)), [Output::Lookup(key(2))], "the user's wish goes first");
}

#[test]
fn too_few_peers_are_topped_up_from_the_book() {
    let mut rig = Rig::new(Cascade::new(CascadeConfig { min_peers: 5, max_peers: 6, ..config() }), [0; 32]);
    rig.tell(Input::Start);
    assert_eq!(rig.wait(Duration::from_secs(2)), [Output::WantPeers(20)]);
    for n in 1..=5 {
        rig.tell(Input::Connected { key: key(n), addr: Some(addr(n)) });
    }
    let some = rig.wait(TOP_UP_EVERY * 6 / 5);
    assert!(
        some.iter().all(|o| *o == Output::WantPeers(FAN_OUT)) && !some.is_empty(),
        "room for one: {some:?}"
    );
    rig.tell(Input::Connected { key: key(6), addr: Some(addr(6)) });
    assert!(rig.wait(Duration::from_secs(120)).is_empty());
}

#[test]
fn the_crowd_is_bounded_and_the_user_still_gets_through() {
    let mut rig = rig();
    let mut refused = 0;
    for n in 0..EFFORTS_MAX as u32 + 10 {
        let out = rig.tell(Input::Learnt { key: far_key(n), addr: None });
        refused += usize::from(out == [Output::Refused("cascade-full")]);
        if n == EFFORTS_MAX as u32 {
            rig.wait(START_WITHIN);
        }
    }
    assert!(refused > 0);
    assert_eq!(rig.machine.efforts(), EFFORTS_MAX);
    assert_eq!(lookups(&rig.tell(connect(1))), 1);
    assert_eq!(rig.machine.efforts(), EFFORTS_MAX);
}

fn arb_input() -> impl Strategy<Value = Input> {
    let n = || 1u8..6;
    let result = prop_oneof![
        (0u8..4).prop_map(|a| Ok(record(&[addr(a), addr(a + 1)]))),
        Just(Err(LookupFailed::NotFound)),
        Just(Err(LookupFailed::Request(RequestFailed::Busy))),
    ];
    let dialled = prop_oneof![n().prop_map(|n| Ok(key(n))), Just(Err(closed())), Just(Ok(key(100)))];
    prop_oneof![
        1 => Just(Input::Start),
        4 => (n(), prop::option::of(0u8..6)).prop_map(|(n, a)| Input::Learnt { key: key(n), addr: a.map(addr) }),
        2 => (0u8..9).prop_map(|a| Input::Hint(addr(a))),
        5 => (n(), result).prop_map(|(n, result)| Input::Found { key: key(n), result }),
        5 => (0u64..40, dialled).prop_map(|(d, result)| Input::Dialled { dial: DialId(d), result }),
        2 => n().prop_map(|n| Input::Connected { key: key(n), addr: Some(addr(n)) }),
        2 => n().prop_map(|n| Input::Disconnected(key(n))),
        1 => n().prop_map(|n| Input::SentAway(key(n))),
        2 => (any::<u64>(), n(), prop::option::of(0u8..6))
            .prop_map(|(id, n, a)| Input::Connect { id: CommandId(id), key: key(n), addr: a.map(addr) }),
        4 => (n(), n(), 0u8..9)
            .prop_map(|(by, n, a)| Input::Seen { by: key(by), key: key(n), addr: addr(a) }),
        1 => n().prop_map(|n| Input::Blocked(key(n))),
        1 => (0u8..3).prop_map(|a| Input::OwnAddrs(vec![addr(a)])),
    ]
}

#[test]
fn the_cascade_is_a_lawful_machine() {
    let make = || Cascade::new(CascadeConfig { max_peers: 3, min_peers: 2, ..config() });
    laws::check_within(make, arb_input(), |m| {
        let others = m.dials.values().filter(|d| !d.wanted).count();
        assert!(others <= FAN_OUT && m.dials.len() <= FAN_OUT + FAN_OUT_WANTED);
        let timers: BTreeSet<_> =
            m.efforts.iter().filter_map(|(k, e)| e.wakes_at().map(|at| (at, *k))).collect();
        assert_eq!(timers, m.timers);
        for queue in m.lookup_queues.iter().chain(&m.dial_queues) {
            assert!(queue.len() <= 200, "queues do not pile up");
        }
    });
}

proptest! {
    #[test]
    fn every_connect_is_answered_exactly_once(inputs in prop::collection::vec((0u64..30_000, arb_input()), 0..80)) {
        let mut rig = rig();
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        for (wait_ms, input) in inputs {
            if let Input::Connect { id, .. } = &input {
                asked.push(id.0);
            }
            answered.extend(answers(&rig.wait(Duration::from_millis(wait_ms))));
            answered.extend(answers(&rig.tell(input)));
        }
        answered.extend(answers(&rig.wait(CONNECT_TIMEOUT)));
        let mut answered: Vec<u64> = answered.into_iter().map(|(id, _)| id).collect();
        asked.sort_unstable();
        answered.sort_unstable();
        prop_assert_eq!(asked, answered);
    }
}

#[test]
fn a_private_peer_is_reached_through_its_relays_first_and_a_public_one_at_its_addresses() {
    use crate::dht::record::Attachment;
    for (node_type, through_relays_first) in [(NodeType::Private, true), (NodeType::Public, false)] {
        let mut rig = rig();
        let mut c = RecordContent { node_type, ..RecordContent::default() };
        c.set_endpoints(&[addr(1)], true);
        // Its own key and ours as a relay, or an address that nobody may dial, lead nowhere.
        let attachment = |relay, at| Attachment { relay, session: [0; 8], addr: at };
        let loopback = ([127, 0, 0, 1], 9).into();
        let [ours, its_own, far] = [key(100), key(1), key(7)];
        let lists = [vec![attachment(ours, addr(2)), attachment(its_own, addr(3)), attachment(far, addr(4))]];
        c.attachments = [&lists[0][..], &[attachment(key(8), loopback)]].concat();
        rig.tell(connect(1));
        let record = Box::new(NodeRecord::issue(c, WALL_AT_START));
        let mut out = rig.tell(Input::Found { key: key(1), result: Ok(record) });
        let mut ways = Vec::new();
        while let Some(Output::Dial { dial, way, .. }) =
            out.iter().find(|o| matches!(o, Output::Dial { .. })).cloned()
        {
            ways.push(way);
            out = fail(&mut rig, dial);
        }
        let mut expected = [Way::Relay { relay: far, addr: addr(4) }, Way::Addr(addr(1))];
        if !through_relays_first {
            expected.reverse();
        }
        assert_eq!(ways, expected);
        assert_eq!(
            format!("{}", expected[usize::from(!through_relays_first)]),
            "through the relay at 203.0.4.1:30906"
        );
    }
}

#[test]
fn a_wanted_peer_is_not_held_up_by_one_way_while_there_are_others() {
    let mut rig = rig();
    let mut c = RecordContent { node_type: NodeType::Public, ..RecordContent::default() };
    c.set_endpoints(&[addr(1), addr(2)], true);
    rig.tell(connect(1));
    let record = Box::new(NodeRecord::issue(c, WALL_AT_START));
    let first = rig.tell(Input::Found { key: key(1), result: Ok(record) });
    let dials = |out: &[Output]| out.iter().filter(|o| matches!(o, Output::Dial { .. })).count();
    assert_eq!(dials(&first), 1);
    assert_eq!(dials(&rig.wait(DIAL_PATIENCE)), 1, "the other address");
    assert_eq!(dials(&rig.wait(DIAL_TIMEOUT - DIAL_PATIENCE)), 0, "the last one has its time");
}
