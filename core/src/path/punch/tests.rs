mod world;

use super::message::Message;
use super::*;
use crate::id::Keypair;
use crate::laws::{self, Rig};
use crate::path::behaviour::{Allocation, Dependence};
use proptest::prelude::*;
use world::{Nat, Ports, World};

fn key(n: u8) -> PublicKey {
    Keypair::from_seed(&[n + 1; 32]).public()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const EI: Dependence = Dependence::EndpointIndependent;
const AD: Dependence = Dependence::AddressDependent;
const APD: Dependence = Dependence::AddressAndPortDependent;

fn open() -> Nat {
    Nat::open()
}
fn full_cone() -> Nat {
    Nat::new(EI, EI, Ports::Random)
}
fn restricted() -> Nat {
    Nat::new(EI, AD, Ports::Random)
}
fn port_restricted() -> Nat {
    Nat::new(EI, APD, Ports::Preserving)
}
fn symmetric() -> Nat {
    Nat::new(APD, APD, Ports::Random)
}
fn sequential(step: u16) -> Nat {
    Nat::new(APD, APD, Ports::Sequential(step))
}

/// What came of the first round between two NATs, as both sides tell it.
fn punch(a: Nat, b: Nat, seed: u8) -> [Option<PunchResult>; 2] {
    let mut world = World::new(a, b, [seed; 32]);
    world.begin();
    world.run(Duration::from_secs(12));
    [0, 1].map(|side| world.result(side))
}

fn how(result: Option<PunchResult>) -> Option<(u32, How)> {
    match result? {
        PunchResult::Punched { attempt, how, .. } => Some((attempt, how)),
        PunchResult::Failed(_) => None,
    }
}

#[test]
fn whoever_can_be_written_to_is_reached_before_anybody_fires() {
    for (a, b) in [(port_restricted(), open()), (open(), symmetric()), (full_cone(), restricted())] {
        let results = punch(a, b, 1);
        assert!(results.iter().any(|r| how(*r) == Some((1, How::Direct))), "{results:?}");
    }
}

#[test]
fn cones_are_punched_at_the_first_attempt_by_writing_at_the_same_moment() {
    for a in [restricted(), port_restricted()] {
        for b in [restricted(), port_restricted()] {
            for seed in 0..10 {
                let results = punch(a.clone(), b.clone(), seed);
                assert_eq!(results.map(how), [Some((1, How::Simultaneous)); 2]);
            }
        }
    }
}

#[test]
fn a_symmetric_nat_meets_a_lenient_one_without_guessing() {
    for b in [restricted(), full_cone(), open()] {
        let results = punch(symmetric(), b, 3);
        assert!(results.iter().all(|r| how(*r).is_some_and(|(attempt, _)| attempt == 1)), "{results:?}");
    }
}

#[test]
fn ports_in_steps_are_foretold_on_either_side() {
    for step in [1, 2, 4] {
        for swapped in [false, true] {
            let (a, b) = (sequential(step), port_restricted());
            let results = if swapped { punch(b, a, 4) } else { punch(a, b, 4) };
            assert!(results.iter().all(|r| how(*r) == Some((1, How::Predicted))), "{step}: {results:?}");
        }
    }
}

#[test]
fn two_nats_with_ports_in_steps_meet_in_their_windows() {
    for (p, q) in [(1, 1), (1, 2), (3, 1)] {
        for seed in 0..10 {
            let results = punch(sequential(p), sequential(q), seed);
            assert!(results.iter().all(|r| how(*r) == Some((1, How::Predicted))), "{p} {q}: {results:?}");
        }
    }
}

#[test]
fn a_guessed_port_joins_a_random_symmetric_nat_and_a_strict_one_within_ten_seconds() {
    let mut won = 0;
    let mut slowest = Duration::ZERO;
    for seed in 1..=200u8 {
        let (a, b) = (symmetric(), port_restricted());
        let mut world =
            if seed % 2 == 0 { World::new(a, b, [seed; 32]) } else { World::new(b, a, [seed; 32]) };
        world.lose(10_000);
        world.begin();
        world.run(Duration::from_secs(11));
        let results = [0, 1].map(|side| world.result(side));
        if let [
            Some(PunchResult::Punched { how: How::Birthday, after, .. }),
            Some(PunchResult::Punched { .. }),
        ] = results
        {
            won += 1;
            slowest = slowest.max(after);
            let open: usize = [0, 1].iter().map(|side| world.sockets(*side)).sum();
            assert_eq!(open, 1, "the socket that was hit stays, the others are closed");
        } else {
            assert_eq!(world.sockets(0) + world.sockets(1), 0);
        }
        for (side, second) in [(0, 0), (1, 0)] {
            let most = world.most_probes_in_a_second(side, second);
            assert!(most <= PROBES_PER_SECOND + 100, "{most} probes in a second");
        }
    }
    println!("{won} of 200 within {slowest:?}");
    assert!(won >= 190, "{won} of 200");
    assert!(slowest <= ROUND, "{slowest:?}");
}

#[test]
fn two_random_symmetric_nats_are_given_up_at_once_and_said_so() {
    let mut world = World::new(symmetric(), symmetric(), [5; 32]);
    world.begin();
    world.run(Duration::from_secs(12));
    let Some(PunchResult::Failed(why)) = world.result(0) else { panic!("{:?}", world.result(0)) };
    assert!(why.contains("cannot be foretold"), "{why}");
    // One attempt: what four servers saw is four candidates.
    assert!(world.probes(0) <= 4 * FIRE_AT.len() && world.sockets_asked(0) == 0, "{}", world.probes(0));
}

#[test]
fn birthday_probing_can_be_switched_off_by_either_side() {
    for side in [0, 1] {
        let mut world = World::new(symmetric(), port_restricted(), [6; 32]);
        world.tell(side, Input::Enabled { birthday: false });
        world.begin();
        world.run(Duration::from_secs(12));
        assert_eq!(world.sockets_asked(0), 0);
        assert!(matches!(world.result(0), Some(PunchResult::Failed(_))));
        assert!(world.probes(1) < 200, "{}", world.probes(1));
    }
}

#[test]
fn switching_off_while_it_runs_closes_the_sockets_and_stops_the_guesses() {
    let mut world = World::new(symmetric(), port_restricted(), [7; 32]);
    world.begin();
    world.run(Duration::from_millis(1_500));
    assert!(world.sockets(0) > 50);
    for side in [0, 1] {
        world.tell(side, Input::Enabled { birthday: false });
    }
    assert_eq!(world.sockets(0), 0);
    let before = world.probes(1);
    world.run(Duration::from_secs(10));
    assert!(world.probes(1) - before <= 2 * FIRE_AT.len());
}

#[test]
fn lost_packets_are_made_up_for_by_repetition() {
    let mut won = 0;
    for seed in 0..40 {
        let mut world = World::new(port_restricted(), port_restricted(), [seed; 32]);
        world.lose(300_000);
        world.begin();
        world.run(Duration::from_secs(12));
        won += usize::from([0, 1].iter().all(|side| how(world.result(*side)).is_some()));
    }
    assert!(won >= 39, "{won} of 40 with 30 % loss");
}

#[test]
fn both_beginning_at_once_come_to_one_attempt() {
    for seed in 0..10 {
        let mut world = World::new(port_restricted(), port_restricted(), [seed; 32]);
        world.begin_both();
        world.run(Duration::from_secs(3));
        assert_eq!([0, 1].map(|side| how(world.result(side))), [Some((1, How::Simultaneous)); 2]);
    }
}

#[test]
fn who_moves_to_another_network_is_punched_at_once_without_waiting_for_the_rest() {
    let mut world = World::new(symmetric(), symmetric(), [8; 32]);
    world.begin();
    world.run(Duration::from_secs(15));
    assert!(matches!(world.result(0), Some(PunchResult::Failed(_))));
    // The side whose turn it is not moves.
    world.move_to(1, full_cone());
    world.run(Duration::from_secs(1));
    assert!([0, 1].iter().all(|side| how(world.result(*side)).is_some()), "{:?}", world.result(1));
}

#[test]
fn a_lost_path_is_punched_anew_and_its_socket_closed() {
    let mut world = World::new(symmetric(), port_restricted(), [9; 32]);
    world.begin();
    world.run(Duration::from_secs(11));
    assert_eq!(
        (world.result(0).and_then(|r| how(Some(r))).map(|h| h.1), world.sockets(0)),
        (Some(How::Birthday), 1)
    );
    world.begin();
    assert_eq!(world.sockets(0), 0);
    world.run(Duration::from_millis(500));
    assert_eq!(world.connects(0), 2);
}

// ---- one machine and what a peer may do to it ----

const CONN: ConnId = ConnId(1);

fn behaviour(mapping: Dependence, ip: &str) -> Behaviour {
    Behaviour { mapping, public_ips: vec![addr(ip).ip()], ..Behaviour::default() }
}

fn offer(mapping: Dependence, candidates: &[&str]) -> Offer {
    Offer {
        candidates: candidates.iter().map(|c| addr(c)).collect(),
        behaviour: behaviour(mapping, candidates.first().unwrap_or(&"192.0.2.1:1")),
        birthday: true,
    }
}

/// A machine at 203.0.113.1 behind a cone, with one relayed connection.
fn machine(initiator: bool) -> Rig<Puncher> {
    let mut rig = Rig::new(Puncher::default(), [1; 32]);
    let own = offer(EI, &["203.0.113.1:4433", "192.168.1.5:4433"]);
    rig.handle(Input::Own { candidates: own.candidates, behaviour: own.behaviour });
    rig.handle(Input::Relayed { conn: CONN, peer: key(1), initiator, rtt: Duration::from_millis(100) });
    rig
}

fn says(message: &Message) -> Input {
    Input::Frame { conn: CONN, frame: message.to_frame() }
}

fn sent(outputs: &[Output]) -> Vec<Message> {
    let frames = outputs.iter().filter_map(|o| match o {
        Output::Send { frame, .. } => Some(Message::from_frame(frame).unwrap()),
        Output::Probe { .. } | Output::Socket(_) | Output::Outcome { .. } | Output::Refused(_) => None,
    });
    frames.collect()
}

fn probed(outputs: &[Output]) -> Vec<SocketAddr> {
    let to = outputs.iter().filter_map(|o| match o {
        Output::Probe { to, .. } => Some(*to),
        Output::Send { .. } | Output::Socket(_) | Output::Outcome { .. } | Output::Refused(_) => None,
    });
    to.collect()
}

fn refused(outputs: &[Output]) -> usize {
    outputs.iter().filter(|o| matches!(o, Output::Refused(_))).count()
}

fn connect(n: u8, attempt: u32, offer: Offer) -> Input {
    says(&Message::Connect { nonce: Nonce([n; 8]), attempt, offer })
}

#[test]
fn the_initiator_fires_half_a_round_trip_after_the_answer_at_the_agreed_times() {
    let mut rig = machine(true);
    let messages = sent(&rig.outputs());
    let [Message::Connect { nonce, attempt: 1, .. }] = messages[..] else { panic!("{messages:?}") };
    rig.advance(Duration::from_millis(80));
    let theirs = offer(EI, &["198.51.100.7:9000"]);
    let said = rig.tell(says(&Message::Answer { nonce, offer: theirs }));
    assert_eq!(sent(&said), [Message::Sync { nonce }]);
    assert_eq!(probed(&said), []);
    assert_eq!(probed(&rig.wait(Duration::from_millis(39))), []);
    rig.advance(Duration::from_millis(1));
    let mut at = Duration::ZERO;
    for after in FIRE_AT {
        rig.advance((after - at).saturating_sub(Duration::from_nanos(1)));
        if after > Duration::ZERO {
            assert_eq!(probed(&rig.outputs()), [], "before {after:?}");
            rig.advance(Duration::from_nanos(1));
        }
        at = after;
        assert_eq!(probed(&rig.outputs()), [addr("198.51.100.7:9000")], "after {after:?}");
    }
}

#[test]
fn the_responder_fires_on_sync_and_only_then() {
    let mut rig = machine(false);
    rig.outputs();
    let said = rig.tell(connect(1, 1, offer(EI, &["198.51.100.7:9000"])));
    assert!(matches!(sent(&said)[..], [Message::Answer { .. }]) && probed(&said).is_empty());
    assert_eq!(refused(&rig.tell(says(&Message::Sync { nonce: Nonce([2; 8]) }))), 1);
    let said = rig.tell(says(&Message::Sync { nonce: Nonce([1; 8]) }));
    assert_eq!(probed(&said), [addr("198.51.100.7:9000")]);
    for _ in 0..100 {
        assert_eq!(refused(&rig.tell(says(&Message::Sync { nonce: Nonce([1; 8]) }))), 1, "once");
    }
}

#[test]
fn a_round_is_three_attempts_within_ten_seconds_and_rounds_rest_ever_longer() {
    let mut rig = machine(true);
    rig.advance(Duration::from_secs(10));
    let said = rig.outputs();
    assert_eq!(sent(&said).len(), 3);
    let failed = |o: &Output| {
        matches!(o, Output::Outcome { result: PunchResult::Failed("the other side did not answer"), .. })
    };
    assert_eq!(said.iter().filter(|o| failed(o)).count(), 1);
    let hour = rig.wait(Duration::from_secs(3_600));
    let rounds = hour.iter().filter(|o| failed(o)).count();
    assert!((5..=8).contains(&rounds), "{rounds}");
    assert_eq!(
        rig.machine.outcomes(),
        [(NatType::PortRestrictedCone, NatType::Unknown, 1 + rounds as u32, 0, 0)]
    );
}

#[test]
fn a_peer_gets_six_attempts_a_minute_and_is_told_when_to_come_again() {
    let mut rig = machine(false);
    rig.outputs();
    let mut answers = 0;
    let mut probes = 0;
    for n in 0..60u8 {
        let said = rig.tell(connect(n, 1, offer(EI, &["198.51.100.7:9000"])));
        match &sent(&said)[..] {
            [Message::Answer { .. }] => answers += 1,
            [Message::Decline { wait, .. }] => assert!(*wait <= Duration::from_secs(61)),
            other => panic!("{other:?}"),
        }
        probes += probed(&rig.tell(says(&Message::Sync { nonce: Nonce([n; 8]) }))).len();
        probes += probed(&rig.wait(Duration::from_millis(900))).len();
    }
    assert_eq!(answers, 6);
    assert!(probes <= 6 * 9, "{probes}");
}

#[test]
fn many_peers_together_cannot_point_us_at_a_victim() {
    let mut rig = machine(false);
    let victims: Vec<String> = (0..16).map(|n| format!("192.0.2.66:{}", 2_000 + n)).collect();
    let victims: Vec<&str> = victims.iter().map(String::as_str).collect();
    let mut theirs = offer(EI, &victims);
    theirs.candidates.extend(["10.0.0.1:80", "127.0.0.1:80", "224.0.0.1:99"].map(addr));
    theirs.candidates.truncate(CANDIDATES_MAX);
    let mut probes = 0;
    for n in 1..=60u8 {
        let conn = ConnId(u64::from(n));
        rig.handle(Input::Relayed { conn, peer: key(n), initiator: false, rtt: Duration::ZERO });
        let frame = |m: Message| Input::Frame { conn, frame: m.to_frame() };
        rig.handle(frame(Message::Connect { nonce: Nonce([n; 8]), attempt: 1, offer: theirs.clone() }));
        rig.handle(frame(Message::Sync { nonce: Nonce([n; 8]) }));
        rig.advance(Duration::from_millis(900));
        probes += probed(&rig.outputs()).len();
    }
    assert!(probes <= ledger::UNCONFIRMED_PER_MINUTE as usize, "{probes} probes to a victim in a minute");
}

#[test]
fn a_probe_says_whether_anybody_but_the_peer_has_seen_it_there() {
    let confirmed = |seen: &[&str]| {
        let mut rig = machine(false);
        seen.iter().for_each(|ip| rig.handle(Input::Seen { conn: CONN, ip: addr(ip).ip() }));
        rig.handle(connect(1, 1, offer(EI, &["198.51.100.7:9000", "198.51.100.8:9000"])));
        rig.outputs();
        let fired = rig.tell(says(&Message::Sync { nonce: Nonce([1; 8]) }));
        let of = |o: &Output| match o {
            Output::Probe { to, confirmed, .. } => Some((to.ip().to_string(), *confirmed)),
            Output::Send { .. } | Output::Socket(_) | Output::Outcome { .. } | Output::Refused(_) => None,
        };
        fired.iter().filter_map(of).collect::<Vec<_>>()
    };
    let [first, second] = ["198.51.100.7", "198.51.100.8"].map(str::to_owned);
    assert_eq!(confirmed(&[]), [(first.clone(), false), (second.clone(), false)]);
    assert_eq!(confirmed(&["198.51.100.8:1"]), [(first, false), (second, true)]);
}

#[test]
fn a_liar_gets_no_spray_at_an_address_where_nobody_else_saw_it() {
    for seen in [None, Some("198.51.100.200:1")] {
        let mut rig = machine(false);
        rig.outputs();
        if let Some(ip) = seen {
            rig.handle(Input::Seen { conn: CONN, ip: addr(ip).ip() });
        }
        let mut theirs = offer(APD, &["192.0.2.66:2000"]);
        theirs.behaviour.allocation = Allocation::Sequential { step: 1 };
        theirs.behaviour.next = Some(addr("192.0.2.66:3000"));
        for attempt in [1, 4] {
            rig.handle(connect(attempt as u8, attempt, theirs.clone()));
            rig.handle(says(&Message::Sync { nonce: Nonce([attempt as u8; 8]) }));
            let probes = probed(&rig.wait(Duration::from_secs(12)));
            assert!(
                probes.len() <= 9 && probes.iter().all(|to| *to == addr("192.0.2.66:2000")),
                "{probes:?}"
            );
        }
    }
}

#[test]
fn birthday_rounds_are_bounded_by_the_hour() {
    let mut rig = machine(false);
    rig.outputs();
    let theirs = offer(APD, &["198.51.100.7:9000"]);
    let mut guessed = 0;
    for n in 1..=20u8 {
        let conn = ConnId(u64::from(n));
        rig.handle(Input::Relayed { conn, peer: key(n), initiator: false, rtt: Duration::ZERO });
        rig.handle(Input::Seen { conn, ip: theirs.candidates[0].ip() });
        let frame = |m: Message| Input::Frame { conn, frame: m.to_frame() };
        rig.handle(frame(Message::Connect { nonce: Nonce([n; 8]), attempt: 1, offer: theirs.clone() }));
        rig.handle(frame(Message::Sync { nonce: Nonce([n; 8]) }));
        let probes = probed(&rig.wait(Duration::from_secs(12)));
        guessed += usize::from(probes.len() > 1_000);
        assert!(probes.len() <= GUESSES_MAX + 9, "{}", probes.len());
    }
    assert_eq!(guessed, ledger::BIRTHDAYS_PER_HOUR);
}

#[test]
fn only_one_birthday_round_is_under_way_also_when_two_were_agreed_on() {
    let mut rig = machine(false);
    rig.outputs();
    let theirs = offer(APD, &["198.51.100.7:9000"]);
    for n in [1, 2u8] {
        let conn = ConnId(n.into());
        rig.handle(Input::Relayed { conn, peer: key(n), initiator: false, rtt: Duration::ZERO });
        rig.handle(Input::Seen { conn, ip: theirs.candidates[0].ip() });
        let connect = Message::Connect { nonce: Nonce([n; 8]), attempt: 1, offer: theirs.clone() };
        let said = rig.tell(Input::Frame { conn, frame: connect.to_frame() });
        assert!(matches!(&sent(&said)[..], [Message::Answer { offer, .. }] if offer.birthday));
    }
    for n in [1, 2u8] {
        let frame = Message::Sync { nonce: Nonce([n; 8]) }.to_frame();
        rig.handle(Input::Frame { conn: ConnId(n.into()), frame });
    }
    let said = rig.wait(Duration::from_secs(12));
    let guesses = |n: u64| {
        let of = |o: &&Output| matches!(o, Output::Probe { conn, .. } if *conn == ConnId(n));
        said.iter().filter(of).count()
    };
    assert!(guesses(1) > 1_000 && guesses(2) <= FIRE_AT.len(), "{} {}", guesses(1), guesses(2));
}

#[test]
fn a_connection_that_goes_takes_its_sockets_along() {
    let mut world = World::new(symmetric(), port_restricted(), [7; 32]);
    world.begin();
    world.run(Duration::from_millis(1_500));
    assert!(world.sockets(0) > 50);
    world.tell(0, Input::Down(world::CONN));
    assert_eq!(world.sockets(0), 0);
    assert_eq!(world.machine(0).sessions(), 0);
}

#[test]
fn malformed_and_unexpected_frames_are_counted() {
    let mut rig = machine(false);
    rig.outputs();
    for frame in
        [Frame { kind: message::KIND_CONNECT, body: vec![b'd'; 70_000] }, Frame { kind: 0x37, body: vec![] }]
    {
        assert_eq!(refused(&rig.tell(Input::Frame { conn: CONN, frame })), 1);
    }
    let nonce = Nonce([1; 8]);
    for m in [
        Message::Answer { nonce, offer: Offer::default() },
        Message::Decline { nonce, wait: Duration::ZERO },
        Message::Sync { nonce },
    ] {
        assert_eq!(refused(&rig.tell(says(&m))), 1);
    }
    let elsewhere = Input::Frame { conn: ConnId(99), frame: Message::Sync { nonce }.to_frame() };
    assert_eq!(refused(&rig.tell(elsewhere)), 1);
}

#[test]
fn connections_are_bounded_and_only_eight_rounds_begin_at_once() {
    let mut rig = machine(true);
    for n in 0..=SESSIONS_MAX as u64 {
        rig.handle(Input::Relayed {
            conn: ConnId(n),
            peer: key((n % 200) as u8),
            initiator: true,
            rtt: Duration::from_millis(100),
        });
        assert!(rig.machine.active() <= STARTS_MAX);
    }
    assert_eq!(rig.machine.sessions(), SESSIONS_MAX);
}

fn arb_offer() -> impl Strategy<Value = Offer> {
    let ip = prop::sample::select(vec!["198.51.100.7", "198.51.100.8", "192.168.1.9", "10.9.9.9"]);
    let candidates = prop::collection::vec((ip, 1..5_000u16), 0..5);
    let mapping = prop::sample::select(vec![Dependence::Unknown, EI, AD, APD]);
    let allocation = prop::sample::select(vec![
        Allocation::Unknown,
        Allocation::Preserving,
        Allocation::Sequential { step: 3 },
        Allocation::Random,
    ]);
    (candidates, mapping.clone(), mapping, allocation, any::<bool>(), any::<bool>()).prop_map(
        |(candidates, mapping, filtering, allocation, birthday, foretold)| {
            let candidates: Vec<SocketAddr> =
                candidates.iter().map(|(ip, port)| SocketAddr::new(ip.parse().unwrap(), *port)).collect();
            let behaviour = Behaviour {
                mapping,
                filtering,
                allocation,
                public_ips: candidates.first().map(|a| a.ip()).into_iter().collect(),
                next: candidates.first().filter(|_| foretold).copied(),
                ..Behaviour::default()
            };
            Offer { candidates, behaviour, birthday }
        },
    )
}

fn arb_input() -> impl Strategy<Value = Input> {
    let conn = || (0..4u64).prop_map(ConnId);
    let nonce = || (0..3u8).prop_map(|n| Nonce([n; 8]));
    let message = prop_oneof![
        3 => (nonce(), 1..6u32, arb_offer())
            .prop_map(|(nonce, attempt, offer)| Message::Connect { nonce, attempt, offer }),
        1 => (nonce(), arb_offer()).prop_map(|(nonce, offer)| Message::Answer { nonce, offer }),
        3 => nonce().prop_map(|nonce| Message::Sync { nonce }),
        1 => (nonce(), 0..100u64)
            .prop_map(|(nonce, s)| Message::Decline { nonce, wait: Duration::from_secs(s) }),
    ];
    let place = (0..3u16, 0..5_000u16).prop_map(|(s, port)| Place::Direct {
        socket: SocketId(s * 1_024),
        addr: ([198, 51, 100, 7], port).into(),
    });
    let socket = SOCKET_FIRST..SOCKET_FIRST + 300;
    prop_oneof![
        4 => (conn(), 0..3u8, any::<bool>(), 0..2_000u64).prop_map(|(conn, n, initiator, ms)| Input::Relayed {
            conn,
            peer: key(n),
            initiator,
            rtt: Duration::from_millis(ms)
        }),
        2 => (conn(), place).prop_map(|(conn, place)| Input::Direct { conn, place }),
        1 => conn().prop_map(Input::Down),
        10 => (conn(), message).prop_map(|(conn, m)| Input::Frame { conn, frame: m.to_frame() }),
        1 => (conn(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(conn, kind, body)| Input::Frame { conn, frame: Frame { kind, body } }),
        2 => arb_offer().prop_map(|o| Input::Own { candidates: o.candidates, behaviour: o.behaviour }),
        2 => (conn(), 7..9u8).prop_map(|(conn, n)| Input::Seen { conn, ip: [198, 51, 100, n].into() }),
        3 => socket.clone().prop_map(|n| Input::Socket(SocketEvent::Opened(SocketId(n), ([0; 4], n).into()))),
        1 => socket.prop_map(|n| Input::Socket(SocketEvent::Failed(SocketId(n), String::new()))),
        1 => (conn(), 0..2_000u64).prop_map(|(conn, ms)| Input::Rtt { conn, rtt: Duration::from_millis(ms) }),
        1 => any::<bool>().prop_map(|birthday| Input::Enabled { birthday }),
    ]
}

#[test]
fn the_puncher_obeys_the_laws() {
    laws::check_within(Puncher::default, arb_input(), |m| {
        assert!(m.sessions() <= SESSIONS_MAX && m.active() <= ACTIVE_MAX);
        assert!(m.sockets() <= SOCKETS + m.sessions());
        assert!(m.ledger.sizes()[2] <= ledger::BIRTHDAYS_PER_HOUR);
    });
}
