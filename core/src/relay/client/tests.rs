//! The client, rule by rule, among relays that answer as they are told to.

use super::*;
use crate::codec::FrameReader;
use crate::id::Keypair;
use crate::laws::{self, Rig};
use crate::relay::message::{Load, Registered, Why};
use proptest::prelude::*;
use std::collections::BTreeSet;

const ME: u64 = 1_000;

fn key(n: u64) -> PublicKey {
    Keypair::from_seed(&crate::rng::derive_seed(&[0; 32], &n.to_string())).public()
}

fn addr(n: u64) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, n as u8], 4_433))
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn minutes(n: u64) -> Duration {
    secs(60 * n)
}

fn over_the_wire(message: &Message) -> Frame {
    let mut reader = FrameReader::default();
    reader.push(&message.to_frame().encode());
    reader.next_frame().unwrap().unwrap()
}

/// Relays 1, 2, … and the node between them and the client. Answers come at once, but for those in `dead` (no connection),
/// `mute` (no frames) and `full`.
struct World {
    rig: Rig<Client>,
    rtt_ms: BTreeMap<u64, u64>,
    dead: BTreeSet<u64>,
    mute: BTreeSet<u64>,
    full: BTreeSet<u64>,
    conns: BTreeMap<ConnId, u64>,
    last_conn: u64,
    sessions: u8,
    /// All that was asked for.
    log: Vec<Output>,
}

impl World {
    fn new(rtts_ms: &[u64]) -> Self {
        let mut world = Self {
            rig: Rig::new(Client::new(&key(ME)), [0; 32]),
            rtt_ms: BTreeMap::new(),
            dead: BTreeSet::new(),
            mute: BTreeSet::new(),
            full: BTreeSet::new(),
            conns: BTreeMap::new(),
            last_conn: 0,
            sessions: 0,
            log: Vec::new(),
        };
        for (n, rtt) in rtts_ms.iter().enumerate() {
            world.offer(n as u64 + 1, *rtt);
        }
        world
    }

    fn offer(&mut self, n: u64, rtt_ms: u64) {
        self.rtt_ms.insert(n, rtt_ms);
        self.tell(Input::Candidate { key: key(n), addr: addr(n), price: 0 });
    }

    fn number(&self, k: &PublicKey) -> u64 {
        self.rtt_ms.keys().copied().find(|n| key(*n) == *k).unwrap()
    }

    fn tell(&mut self, input: Input) {
        self.rig.handle(input);
        self.pump();
    }

    /// Answers until nothing more is asked for.
    fn pump(&mut self) {
        loop {
            let out = self.rig.outputs();
            if out.is_empty() {
                return;
            }
            for output in out {
                self.log.push(output.clone());
                match output {
                    Output::Connect { key: k, .. } => {
                        let n = self.number(&k);
                        if self.dead.contains(&n) {
                            self.rig.handle(Input::Failed { key: k, why: "nobody answers".to_owned() });
                        } else {
                            self.connected(n);
                        }
                    }
                    Output::Send { conn, frame } => self.answer(conn, &frame),
                    Output::Release { conn, .. } => drop(self.conns.remove(&conn)),
                    Output::Active(_)
                    | Output::Standby(_)
                    | Output::Lost
                    | Output::Attachments(_)
                    | Output::Explain(_)
                    | Output::Refused(_) => {}
                }
            }
        }
    }

    fn connected(&mut self, n: u64) {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        self.conns.insert(conn, n);
        self.rig.handle(Input::PeerUp { conn, key: key(n), rtt: ms(self.rtt_ms[&n]) });
    }

    fn answer(&mut self, conn: ConnId, frame: &Frame) {
        let Some(n) = self.conns.get(&conn).copied().filter(|n| !self.mute.contains(n)) else { return };
        let answer = match Message::from_frame(frame).unwrap() {
            Message::Ask => Message::Load(Load { used: 1, max: 1_000, price: 0 }),
            Message::Register if self.full.contains(&n) => {
                Message::Refused { why: Why::Full, words: "full".to_owned() }
            }
            Message::Register => {
                self.sessions += 1;
                Message::Registered(Registered {
                    session: [self.sessions; 8],
                    observed: addr(99),
                    bytes_per_second: 0,
                    keepalive: secs(5),
                    lifetime: secs(3_600),
                    free: 1,
                })
            }
            Message::Unregister => return,
            other => panic!("a client does not say {other:?}"),
        };
        self.say(n, &answer);
    }

    fn say(&mut self, n: u64, message: &Message) {
        let conn = self.conn(n);
        self.rig.handle(Input::Frame { conn, frame: over_the_wire(message) });
    }

    fn conn(&self, n: u64) -> ConnId {
        *self.conns.iter().find(|(_, of)| **of == n).unwrap().0
    }

    fn down(&mut self, n: u64) {
        let conn = self.conn(n);
        self.conns.remove(&conn);
        self.tell(Input::PeerDown { conn, key: key(n) });
    }

    /// Lets time pass; relays answer as they are asked, and connections tell their round-trip times.
    fn wait(&mut self, time: Duration) {
        let until = self.rig.now + time;
        while self.rig.now < until {
            let step = until.since(self.rig.now).min(ms(500));
            self.rig.advance(step);
            self.pump();
            for n in self.conns.values().copied().collect::<Vec<_>>() {
                self.rig.handle(Input::Rtt { key: key(n), rtt: ms(self.rtt_ms[&n]) });
            }
            self.pump();
        }
    }

    fn roles(&self) -> (Option<u64>, Option<u64>) {
        let n = |r: Option<Reservation>| r.map(|r| self.number(&r.relay));
        (n(self.rig.machine.active()), n(self.rig.machine.standby()))
    }

    fn record(&self) -> Vec<u64> {
        let said = self.log.iter().rev().find_map(|o| match o {
            Output::Attachments(a) => Some(a.iter().map(|a| self.number(&a.relay)).collect()),
            _ => None,
        });
        said.unwrap_or_default()
    }

    fn count(&self, which: impl Fn(&Output) -> bool) -> usize {
        self.log.iter().filter(|o| which(o)).count()
    }
}

fn started(rtts_ms: &[u64]) -> World {
    let mut world = World::new(rtts_ms);
    world.tell(Input::Want(true));
    world.wait(secs(1));
    world
}

#[test]
fn a_private_node_holds_the_two_nearest_of_five_and_publishes_both() {
    let world = started(&[80, 20, 60, 40, 100]);
    assert_eq!(world.roles(), (Some(2), Some(4)));
    assert_eq!(world.record(), [2, 4]);
    assert_eq!(world.conns.len(), 2, "the others were let go");
    let lost = world.count(|o| matches!(o, Output::Lost | Output::Refused(_)));
    assert_eq!(lost, 0);
}

#[test]
fn no_more_than_five_are_measured_at_once() {
    let mut world = World::new(&[50; 12]);
    world.mute = (1..=12).collect();
    world.rig.handle(Input::Want(true));
    let connects = world.rig.outputs().iter().filter(|o| matches!(o, Output::Connect { .. })).count();
    assert_eq!(connects, PARALLEL_MAX);
}

#[test]
fn a_public_node_holds_none_and_gives_back_what_it_had() {
    let mut world = started(&[20, 40]);
    assert_eq!(world.record().len(), 2);
    world.tell(Input::Want(false));
    assert_eq!((world.roles(), world.record(), world.conns.len()), ((None, None), vec![], 0));
    let unregistered = world.count(|o| matches!(o, Output::Send { frame, .. } if frame.kind == 0x33));
    assert_eq!(unregistered, 2);
    assert_eq!(world.rig.machine.poll_timeout(), None);
    world.tell(Input::Want(true));
    world.wait(secs(1));
    assert_eq!(world.record().len(), 2);
}

#[test]
fn it_waits_fifty_milliseconds_for_others_after_the_first() {
    let mut world = World::new(&[10, 10, 10]);
    world.rig.handle(Input::Want(true));
    world.rig.outputs();
    world.rig.advance(ms(30));
    world.connected(1);
    assert_eq!(world.rig.machine.poll_timeout().unwrap().at, world.rig.now + GRACE);
    world.pump();
    world.rig.advance(GRACE - Duration::from_nanos(1));
    world.pump();
    assert_eq!(world.roles().0, None);
    world.rig.advance(Duration::from_nanos(1));
    world.pump();
    assert_eq!(world.roles(), (Some(1), None), "who is slower is not waited for");
    world.connected(3);
    world.pump();
    world.rig.advance(GRACE);
    world.pump();
    assert_eq!(world.roles(), (Some(1), Some(3)));
}

#[test]
fn when_the_active_relay_is_lost_the_standby_takes_over_in_the_same_instant() {
    let mut world = started(&[20, 40, 60]);
    world.log.clear();
    let before = world.rig.now;
    world.dead.insert(1);
    world.down(1);
    assert_eq!(world.rig.now, before);
    let first = world.log.iter().find(|o| !matches!(o, Output::Explain(_)));
    assert!(matches!(first, Some(Output::Active(r)) if r.relay == key(2)), "{first:?}");
    assert_eq!(world.count(|o| *o == Output::Lost), 0);
    world.wait(ms(100));
    assert_eq!(world.roles(), (Some(2), Some(3)), "and a new standby is there");
    assert_eq!(world.record(), [2, 3]);
}

#[test]
fn when_both_relays_are_lost_others_are_found_within_a_second() {
    let mut world = started(&[20, 40, 60, 80]);
    world.dead.extend([1, 2]);
    world.down(2);
    world.down(1);
    world.wait(secs(1));
    assert_eq!(world.roles(), (Some(3), Some(4)));
}

#[test]
fn when_there_is_no_other_relay_it_says_so_and_the_record_is_empty() {
    let mut world = started(&[20]);
    assert_eq!((world.roles(), world.record()), ((Some(1), None), vec![1]));
    world.dead.insert(1);
    world.down(1);
    assert_eq!(world.count(|o| *o == Output::Lost), 1);
    assert_eq!(world.record(), [0u64; 0]);
    world.dead.clear();
    world.wait(secs(2));
    assert_eq!(world.record(), [1]);
}

#[test]
fn a_silent_active_relay_gives_way_at_once_and_comes_back_as_standby_when_it_answers() {
    let mut world = started(&[20, 40]);
    world.mute.insert(1);
    world.tell(Input::Suspect { key: key(1) });
    assert_eq!(world.roles(), (Some(2), Some(1)));
    assert_eq!(world.record(), [2, 1], "both are still worth a try");
    world.say(1, &Message::Load(Load { used: 1, max: 1_000, price: 0 }));
    world.pump();
    world.wait(secs(10));
    assert_eq!(world.roles(), (Some(2), Some(1)));
    assert!(world.rig.machine.relays().all(|r| r.state == "reserved"));
}

#[test]
fn a_silent_relay_that_does_not_answer_is_left_and_replaced() {
    let mut world = started(&[20, 40, 60]);
    world.mute.insert(1);
    world.tell(Input::Suspect { key: key(1) });
    world.wait(ms(500));
    assert_eq!(world.roles(), (Some(2), Some(3)), "another standby is not waited for");
    let mut alone = started(&[20]);
    alone.mute.insert(1);
    alone.tell(Input::Suspect { key: key(1) });
    assert_eq!(alone.roles(), (Some(1), None), "without standby it stays until it is proven dead");
    alone.wait(ANSWER_TIMEOUT);
    assert_eq!(alone.roles(), (None, None));
}

#[test]
fn a_better_relay_takes_over_only_after_half_an_hour_of_evidence() {
    let mut world = started(&[100, 120]);
    world.offer(3, 20);
    world.wait(minutes(39));
    assert_eq!(world.roles(), (Some(1), Some(2)));
    world.wait(minutes(5));
    assert_eq!(world.roles(), (Some(3), Some(1)));
    assert_eq!(world.record(), [3, 1]);
    assert_eq!(world.count(|o| *o == Output::Lost), 0, "at no time it was unreachable");
}

#[test]
fn a_relay_that_is_a_tenth_better_or_was_worse_in_between_does_not() {
    let mut world = started(&[100, 120]);
    world.offer(3, 88);
    world.wait(minutes(180));
    assert_eq!(world.roles(), (Some(1), Some(2)));
    let mut world = started(&[100, 120]);
    for _ in 0..6 {
        world.rtt_ms.insert(2, 20);
        world.wait(minutes(25));
        world.rtt_ms.insert(2, 120);
        world.wait(minutes(5));
        assert_eq!(world.roles(), (Some(1), Some(2)));
    }
    world.rtt_ms.insert(2, 20);
    world.wait(minutes(32));
    assert_eq!(world.roles(), (Some(2), Some(1)), "the standby needs no new reservation");
}

#[test]
fn the_preferred_relay_wins_while_it_is_healthy() {
    let mut world = World::new(&[20, 40, 200]);
    world.tell(Input::Prefer(Some(key(3))));
    world.tell(Input::Want(true));
    world.wait(secs(1));
    assert_eq!(world.roles().0, Some(3));
    world.dead.insert(3);
    world.down(3);
    world.wait(secs(5));
    assert_eq!(world.roles(), (Some(1), Some(2)));
    world.dead.clear();
    world.wait(secs(30));
    assert_eq!(world.roles().0, Some(3), "and wins again when it is back");
    let mut later = started(&[20, 40, 200]);
    later.tell(Input::Prefer(Some(key(3))));
    later.wait(secs(1));
    assert_eq!(later.roles(), (Some(3), Some(1)));
    later.wait(minutes(60));
    assert_eq!(later.roles(), (Some(3), Some(1)), "nearer ones do not drive it out");
}

#[test]
fn a_preferred_relay_that_keeps_failing_is_no_reason_to_flap() {
    let mut world = World::new(&[20, 40, 200]);
    world.dead.insert(3);
    world.tell(Input::Prefer(Some(key(3))));
    world.tell(Input::Want(true));
    world.wait(minutes(30));
    assert_eq!(world.roles(), (Some(1), Some(2)));
    let tries = world.count(|o| matches!(o, Output::Connect { key: k, .. } if *k == key(3)));
    assert!(tries <= 12, "{tries} tries");
}

#[test]
fn a_full_relay_is_left_alone_for_about_ten_minutes() {
    let mut world = World::new(&[20, 40]);
    world.full.insert(1);
    world.tell(Input::Want(true));
    world.wait(minutes(7));
    assert_eq!(world.roles(), (Some(2), None));
    let registers = |w: &World| {
        let conns: BTreeSet<_> = (1..=w.last_conn).map(ConnId).collect();
        w.count(|o| matches!(o, Output::Send { conn, frame } if frame.kind == 0x30 && conns.contains(conn)))
    };
    assert_eq!(registers(&world), 2, "one at each");
    world.full.clear();
    world.wait(minutes(6));
    assert_eq!(world.roles(), (Some(2), Some(1)));
}

#[test]
fn a_relay_that_forgot_us_is_asked_again_and_the_record_says_the_new_session() {
    let mut world = started(&[20, 40]);
    let before = world.rig.machine.active().unwrap();
    let gone = Message::Gone { peer: key(ME).peer_id() };
    world.say(1, &gone);
    world.pump();
    assert_eq!(world.roles(), (Some(2), Some(1)), "who stands takes over");
    assert_ne!(world.rig.machine.standby().unwrap().session, before.session);
    assert_eq!(world.record(), [2, 1]);
    world.say(1, &gone);
    world.pump();
    assert_eq!(world.roles().1, None, "twice in ten seconds is a failure");
    world.say(2, &Message::Gone { peer: key(3).peer_id() });
    world.pump();
    assert_eq!(world.roles().0, Some(2), "others may be gone");
}

#[test]
fn a_relay_that_goes_is_left_at_once_and_not_asked_before_it_said() {
    let mut world = started(&[20, 40]);
    world.say(1, &Message::Going { ends_in: secs(10), back_in: secs(100) });
    world.pump();
    assert_eq!(world.roles(), (Some(2), None));
    world.wait(secs(74));
    assert_eq!(world.roles(), (Some(2), None));
    world.wait(secs(60));
    assert_eq!(world.roles(), (Some(2), Some(1)));
}

#[test]
fn reservations_are_renewed_at_half_of_their_lifetime_and_lost_without_an_answer() {
    let mut world = started(&[20, 40]);
    let sessions = world.sessions;
    world.wait(minutes(31));
    assert_eq!(world.sessions, sessions + 2);
    assert_eq!(world.roles(), (Some(1), Some(2)));
    world.mute.insert(1);
    world.wait(minutes(31));
    assert_eq!(world.roles().0, Some(2));
}

#[test]
fn failures_are_retried_ever_more_seldom_with_jitter() {
    let mut world = World::new(&[20]);
    world.dead.insert(1);
    world.tell(Input::Want(true));
    let mut times = Vec::new();
    for _ in 0..40_000 {
        let before = world.log.len();
        world.rig.advance(ms(100));
        world.pump();
        if world.log[before..].iter().any(|o| matches!(o, Output::Connect { .. })) {
            times.push(world.rig.now);
        }
    }
    let pauses: Vec<u64> = times.windows(2).map(|w| w[1].since(w[0]).as_millis() as u64).collect();
    for (n, pause) in pauses.iter().enumerate() {
        let base = (1_000 << (n + 1)).min(600_000);
        assert!((base * 3 / 4 - 100..=base * 5 / 4 + 100).contains(pause), "pause {n} is {pause} of {base}");
    }
    assert!(pauses.len() >= 10 && pauses.iter().any(|p| p % 1_000 != 0));
}

#[test]
fn a_standby_at_another_address_is_worth_twice_the_way() {
    let mut world = World::new(&[20, 21, 30]);
    for n in [1, 2] {
        world.tell(Input::Candidate {
            key: key(n),
            addr: SocketAddr::from(([198, 51, 100, 1], n as u16)),
            price: 0,
        });
    }
    world.tell(Input::Want(true));
    world.wait(secs(1));
    assert_eq!(world.roles().0, Some(1));
    assert_eq!(world.roles().1, Some(3), "two at one address fall together");
}

#[test]
fn price_and_reliability_count_as_well_as_the_way() {
    let relay = |rtt: u64, reliability: u32, price: u32| {
        let mut r = Relay::new(addr(1), price, 0, Instant::ZERO);
        r.sample(Instant::ZERO, ms(rtt));
        r.reliability = reliability;
        r.cost_us().unwrap()
    };
    assert!(relay(50, 900_000, 0) < relay(60, 900_000, 0));
    assert!(relay(50, 500_000, 0) > relay(60, 900_000, 0));
    assert!(relay(50, 900_000, 20_000) > relay(60, 900_000, 0));
    assert_eq!(Relay::new(addr(1), 0, 0, Instant::ZERO).cost_us(), None);
    let mut full = Relay::new(addr(1), 0, 0, Instant::ZERO);
    full.sample(Instant::ZERO, ms(95));
    let before = full.cost_us().unwrap();
    full.load = Some(Load { used: 9, max: 10, price: 0 });
    assert_eq!(full.cost_us().unwrap(), before + before / 4);
}

#[test]
fn candidates_are_bounded_and_those_that_failed_make_room() {
    let mut world = World::new(&[20; CANDIDATES_MAX]);
    world.offer(100, 5);
    assert_eq!(world.rig.machine.relays().count(), CANDIDATES_MAX);
    assert_eq!(world.count(|o| matches!(o, Output::Refused(_))), 1);
    world.dead = (1..=CANDIDATES_MAX as u64).collect();
    world.tell(Input::Want(true));
    world.offer(100, 5);
    world.wait(secs(2));
    assert_eq!(world.rig.machine.relays().count(), CANDIDATES_MAX);
    assert_eq!(world.roles().0, Some(100));
}

#[test]
fn a_relay_that_is_offered_no_more_is_forgotten_when_it_is_not_used_any_more() {
    let mut world = started(&[20, 40, 60]);
    world.tell(Input::CandidateGone { key: key(1) });
    world.tell(Input::CandidateGone { key: key(3) });
    assert_eq!(world.rig.machine.relays().count(), 2, "the active one still serves");
    world.down(1);
    assert_eq!(world.rig.machine.relays().count(), 1);
    world.tell(Input::Candidate { key: key(ME), addr: addr(9), price: 0 });
    assert_eq!(world.rig.machine.relays().count(), 1, "nobody is its own relay");
}

#[test]
fn what_a_relay_says_unasked_or_wrongly_is_counted_and_changes_nothing() {
    let mut world = started(&[20, 40]);
    let registered = Message::Registered(Registered {
        session: [9; 8],
        observed: addr(9),
        bytes_per_second: 0,
        keepalive: secs(5),
        lifetime: secs(9),
        free: 0,
    });
    let (before, published) = (world.roles(), world.count(|o| matches!(o, Output::Attachments(_))));
    world.say(1, &registered);
    world.say(1, &Message::Register);
    let conn = world.conn(1);
    world.rig.handle(Input::Frame { conn, frame: Frame { kind: 0x31, body: b"x".to_vec() } });
    world.rig.handle(Input::Frame { conn: ConnId(777), frame: registered.to_frame() });
    world.pump();
    assert_eq!(world.count(|o| matches!(o, Output::Refused(_))), 3);
    assert_eq!((world.roles(), world.count(|o| matches!(o, Output::Attachments(_)))), (before, published));
}

fn arb_message() -> impl Strategy<Value = Message> {
    let why = prop_oneof![Just(Why::Full), Just(Why::Busy), Just(Why::Blocked), Just(Why::Other(9))];
    let registered = (any::<u8>(), 0u64..10_000).prop_map(|(n, l)| {
        Message::Registered(Registered {
            session: [n; 8],
            observed: addr(9),
            bytes_per_second: 0,
            keepalive: secs(5),
            lifetime: secs(l),
            free: 0,
        })
    });
    prop_oneof![
        6 => registered,
        1 => why.prop_map(|why| Message::Refused { why, words: String::new() }),
        1 => (0u64..99, 0u64..9_999).prop_map(|(e, b)| Message::Going { ends_in: secs(e), back_in: secs(b) }),
        1 => prop_oneof![Just(ME), Just(1)].prop_map(|n| Message::Gone { peer: key(n).peer_id() }),
        3 => (0u32..9, 0u32..9, any::<u32>()).prop_map(|(used, max, price)| Message::Load(Load { used, max, price })),
        1 => Just(Message::Register),
    ]
}

fn arb_input() -> impl Strategy<Value = Input> {
    let n = || 0u64..7;
    // Each relay has a few connections in its life.
    let conn = |n: u64, c: u64| ConnId(n * 3 + c);
    prop_oneof![
        8 => (n(), 0u32..50_000).prop_map(|(n, price)| Input::Candidate { key: key(n), addr: addr(n / 2), price }),
        1 => n().prop_map(|n| Input::CandidateGone { key: key(n) }),
        1 => prop::option::of(n()).prop_map(|n| Input::Prefer(n.map(key))),
        4 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(Input::Want),
        12 => (n(), 0u64..3, 0u64..900)
            .prop_map(move |(n, c, rtt)| Input::PeerUp { conn: conn(n, c), key: key(n), rtt: ms(rtt) }),
        2 => (n(), 0u64..3).prop_map(move |(n, c)| Input::PeerDown { conn: conn(n, c), key: key(n) }),
        4 => (n(), 0u64..900).prop_map(|(n, rtt)| Input::Rtt { key: key(n), rtt: ms(rtt) }),
        2 => n().prop_map(|n| Input::Suspect { key: key(n) }),
        16 => (n(), 0u64..3, arb_message())
            .prop_map(move |(n, c, m)| Input::Frame { conn: conn(n, c), frame: m.to_frame() }),
        1 => (n(), 0u64..3, prop::collection::vec(any::<u8>(), 0..9), 0x2fu8..0x39)
            .prop_map(move |(n, c, body, kind)| Input::Frame { conn: conn(n, c), frame: Frame { kind, body } }),
        2 => n().prop_map(|n| Input::Failed { key: key(n), why: "no".to_owned() }),
    ]
}

#[test]
fn the_client_is_a_lawful_machine() {
    laws::check_within(
        || Client::new(&key(ME)),
        arb_input(),
        |client| {
            assert!(client.relays.len() <= CANDIDATES_MAX);
            let busy = |r: &&Relay| matches!(r.phase, Phase::Connecting { .. } | Phase::Measuring { .. });
            // Beside those sought: the preferred one, a successor, and a round of measurements.
            assert!(client.relays.values().filter(busy).count() <= PARALLEL_MAX + 2 + MEASURED_MAX);
            assert!(
                client.active.is_none_or(|a| client.relays[&a].held().is_some()),
                "the active one stands"
            );
            assert!(client.standby.is_none_or(|s| client.relays[&s].held().is_some()));
            assert!(client.active.is_some() || client.standby.is_none(), "a standby takes over");
            assert!(client.active.is_none() || client.active != client.standby);
            let held = client.relays.values().filter(|r| r.held().is_some()).count();
            let roles = usize::from(client.active.is_some()) + usize::from(client.standby.is_some());
            assert_eq!(held, roles, "no reservation without a role");
            assert!(client.relays.values().all(|r| r.conn.is_some() || r.held().is_none()));
            assert_eq!(client.published.len(), roles);
        },
    );
}
