//! The relay, rule by rule; its fairness and its laws are in files of their own.

mod fairness;
mod laws;

use super::*;
use crate::codec::FrameReader;
use crate::id::Keypair;
use crate::laws::Rig;
use crate::relay::wire::{FRAGMENT_DATAGRAM_MAX, Part};

fn key(n: u64) -> PublicKey {
    Keypair::from_seed(&crate::rng::derive_seed(&[0; 32], &n.to_string())).public()
}

fn conn(n: u64) -> ConnId {
    ConnId(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Each peer at an address of its own.
fn addr(n: u64) -> SocketAddr {
    let [.., a, b] = (n as u16).to_be_bytes();
    SocketAddr::from(([203, 0, a, b], 4_433))
}

fn config() -> Config {
    Config { accepts_per_second: 0, session_rate: 0, address_rate: 0, ..Config::default() }
}

fn rig(config: Config) -> Rig<Server> {
    let mut rig = Rig::new(Server::new(config), [0; 32]);
    assert!(rig.tell(Input::Serve(true)).is_empty());
    rig
}

fn over_the_wire(message: &Message) -> Frame {
    let mut reader = FrameReader::default();
    reader.push(&message.to_frame().encode());
    reader.next_frame().unwrap().unwrap()
}

/// What the relay said to whom.
fn said(out: &[Output]) -> Vec<(ConnId, Message)> {
    let read = |o: &Output| match o {
        Output::Send { conn, frame } => Some((*conn, Message::from_frame(frame).unwrap())),
        Output::Account(_) | Output::Refused(_) | Output::Closed => None,
    };
    out.iter().filter_map(read).collect()
}

fn accounts(out: &[Output]) -> Vec<Account> {
    let read = |o: &Output| match o {
        Output::Account(account) => Some((**account).clone()),
        Output::Send { .. } | Output::Refused(_) | Output::Closed => None,
    };
    out.iter().filter_map(read).collect()
}

fn up(rig: &mut Rig<Server>, n: u64) {
    assert!(rig.tell(Input::PeerUp { conn: conn(n), peer: key(n), addr: addr(n) }).is_empty());
}

fn tell(rig: &mut Rig<Server>, n: u64, message: &Message) -> Vec<Output> {
    rig.tell(Input::Frame { conn: conn(n), frame: over_the_wire(message) })
}

fn register(rig: &mut Rig<Server>, n: u64) -> Result<super::super::message::Registered, Why> {
    let out = tell(rig, n, &Message::Register);
    match said(&out).last() {
        Some((to, Message::Registered(r))) if *to == conn(n) => Ok(*r),
        Some((to, Message::Refused { why, .. })) if *to == conn(n) => Err(*why),
        other => panic!("{other:?}"),
    }
}

/// A peer with a reservation.
fn host(rig: &mut Rig<Server>, n: u64) {
    up(rig, n);
    register(rig, n).unwrap();
}

fn packet(to: u64, len: usize) -> Bytes {
    let header = Header { direction: Direction::To, peer: key(to).peer_id(), part: Part::Whole };
    header.datagram(&vec![7; len])
}

fn send(rig: &mut Rig<Server>, from: u64, to: u64, len: usize) -> Vec<Output> {
    rig.tell(Input::Datagram { conn: conn(from), bytes: packet(to, len) })
}

const WIDE: Room = Room { datagram_max: 1_414, free: 1 << 20 };

fn drain_into(rig: &mut Rig<Server>, room: impl Fn(ConnId) -> Option<Room>) -> Vec<(ConnId, Bytes)> {
    std::iter::from_fn(|| rig.machine.poll_forward(rig.now, &room)).collect()
}

fn drain(rig: &mut Rig<Server>) -> Vec<(ConnId, Bytes)> {
    drain_into(rig, |_| Some(WIDE))
}

/// Who got a whole packet from whom, of how many bytes.
fn got(passed: &[(ConnId, Bytes)]) -> Vec<(u64, PeerId, usize)> {
    let read = |(to, bytes): &(ConnId, Bytes)| {
        let header = Header::parse(bytes).unwrap();
        assert_eq!(header.direction, Direction::From);
        (to.0, header.peer, bytes.len() - header.bytes())
    };
    passed.iter().map(read).collect()
}

fn drops(rig: &Rig<Server>, why: DropReason) -> u64 {
    rig.machine.stats().usage.drops(why)
}

#[test]
fn a_packet_to_a_reservation_arrives_with_its_senders_name() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    up(&mut rig, 2);
    assert!(send(&mut rig, 2, 1, 1_200).is_empty());
    let passed = drain(&mut rig);
    assert_eq!(got(&passed), [(1, key(2).peer_id(), 1_200)]);
    assert_eq!(passed[0].1[21..], packet(1, 1_200)[21..], "what it carries is as it was");
    assert!(drain(&mut rig).is_empty());
}

#[test]
fn a_registration_tells_where_the_relay_sees_the_peer_and_what_it_may() {
    let mut rig = rig(Config { session_rate: 5_000, sessions_max: 10, ..config() });
    up(&mut rig, 1);
    let r = register(&mut rig, 1).unwrap();
    assert_eq!((r.observed, r.bytes_per_second, r.free), (addr(1), 5_000, 9));
    assert_eq!((r.keepalive, r.lifetime), (secs(5), secs(3_600)));
    assert_eq!(register(&mut rig, 1).unwrap().session, r.session, "to register again renews");
    up(&mut rig, 2);
    assert_ne!(register(&mut rig, 2).unwrap().session, r.session);
}

#[test]
fn a_visitor_is_reached_only_by_those_it_wrote_to_within_a_minute() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    host(&mut rig, 2);
    up(&mut rig, 3);
    send(&mut rig, 3, 1, 100);
    assert_eq!(drain(&mut rig).len(), 1);
    send(&mut rig, 2, 3, 100);
    assert!(drain(&mut rig).is_empty(), "it has not written to 2");
    assert_eq!(drops(&rig, DropReason::NotPermitted), 1);
    send(&mut rig, 1, 3, 100);
    assert_eq!(got(&drain(&mut rig)), [(3, key(1).peer_id(), 100)]);
    rig.advance(PERMIT_TIME - Duration::from_nanos(1));
    send(&mut rig, 1, 3, 100);
    assert_eq!(
        drain(&mut rig).len(),
        1,
        "what it gets does not prolong the permission, and does not need to"
    );
    rig.advance(Duration::from_nanos(1));
    send(&mut rig, 1, 3, 100);
    assert!(drain(&mut rig).is_empty());
    send(&mut rig, 3, 1, 100);
    send(&mut rig, 1, 3, 100);
    assert_eq!(drain(&mut rig).len(), 2);
}

#[test]
fn a_visitors_permissions_are_bounded_and_the_oldest_goes_first() {
    let mut rig = rig(Config { sessions_max: 200, ..config() });
    up(&mut rig, 999);
    for n in 0..=PERMITS_MAX as u64 {
        host(&mut rig, n);
        rig.advance(Duration::from_millis(1));
        send(&mut rig, 999, n, 100);
    }
    drain(&mut rig);
    send(&mut rig, 0, 999, 100);
    send(&mut rig, 1, 999, 100);
    assert_eq!(got(&drain(&mut rig)), [(999, key(1).peer_id(), 100)]);
}

#[test]
fn a_peer_without_session_is_told_gone_at_once_a_few_times_a_second() {
    let mut rig = rig(config());
    up(&mut rig, 1);
    up(&mut rig, 2);
    let gone = Message::Gone { peer: key(2).peer_id() };
    assert_eq!(said(&send(&mut rig, 1, 2, 100)), [(conn(1), gone)], "connected is not reserved");
    let frames: usize = (0..100).map(|_| said(&send(&mut rig, 1, 2, 100)).len()).sum();
    assert_eq!(frames as u64, FRAMES_PER_SECOND - 1);
    rig.advance(secs(1));
    let frames: usize = (0..100).map(|_| said(&send(&mut rig, 1, 2, 100)).len()).sum();
    assert_eq!(frames as u64, FRAMES_PER_SECOND);
    assert!(rig.machine.sessions().next().is_none(), "who writes to nobody is no visitor");
    assert_eq!(drops(&rig, DropReason::NoSession), 201);
}

#[test]
fn nobody_writes_to_itself_and_datagrams_of_the_wrong_kind_go_nowhere() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    assert!(send(&mut rig, 1, 1, 100).is_empty());
    assert_eq!(drops(&rig, DropReason::ToSelf), 1);
    let from = Header { direction: Direction::From, peer: key(1).peer_id(), part: Part::Whole };
    up(&mut rig, 2);
    for bytes in [from.datagram(b"x"), Bytes::from_static(b"\x99"), Bytes::new()] {
        assert!(rig.tell(Input::Datagram { conn: conn(2), bytes }).is_empty());
    }
    assert_eq!(drops(&rig, DropReason::Malformed), 3);
    assert!(send(&mut rig, 77, 1, 100).is_empty(), "a connection nobody told of");
    assert!(drain(&mut rig).is_empty());
}

#[test]
fn a_node_that_is_no_relay_passes_nothing_on() {
    let mut rig = Rig::new(Server::new(config()), [0; 32]);
    up(&mut rig, 1);
    assert_eq!(register(&mut rig, 1), Err(Why::NoRelay));
    assert_eq!(said(&tell(&mut rig, 1, &Message::Ask))[0].1.to_frame().kind, 0x32);
    rig.handle(Input::Serve(true));
    assert!(register(&mut rig, 1).is_ok());
    let out = rig.tell(Input::Serve(false));
    assert_eq!(said(&out), [(conn(1), Message::Going { ends_in: secs(0), back_in: BACK_IN })]);
    assert!(accounts(&out)[0].ended);
    assert_eq!(register(&mut rig, 1), Err(Why::NoRelay));
}

#[test]
fn sessions_are_bounded_and_each_kind_leaves_the_other_a_quarter() {
    let mut rig = rig(Config { sessions_max: 8, ..config() });
    (1..=6).for_each(|n| host(&mut rig, n));
    up(&mut rig, 7);
    assert_eq!(register(&mut rig, 7), Err(Why::Full));
    (11..=13).for_each(|n| up(&mut rig, n));
    send(&mut rig, 11, 1, 100);
    send(&mut rig, 12, 1, 100);
    let out = send(&mut rig, 13, 1, 100);
    assert_eq!(
        said(&out),
        [(conn(13), Message::Refused { why: Why::Full, words: Why::Full.words().into() })]
    );
    assert_eq!((rig.machine.stats().reserved, rig.machine.stats().visitors), (6, 2));
    assert_eq!(drops(&rig, DropReason::Refused), 1);
    assert_eq!(rig.machine.load(), Load { used: 8, max: 8, price: 0 });
    assert_eq!(register(&mut rig, 11), Err(Why::Full), "a visitor finds no room among reservations");
    rig.handle(Input::PeerDown { conn: conn(1) });
    assert!(register(&mut rig, 11).is_ok(), "but takes one that is free");
    assert_eq!((rig.machine.stats().reserved, rig.machine.stats().visitors), (6, 1));
}

#[test]
fn sessions_of_one_address_are_bounded_and_an_ipv6_site_is_one() {
    let mut rig = rig(Config { sessions_per_address_max: 2, ..config() });
    let at = |n: u64, ip: &str| Input::PeerUp { conn: conn(n), peer: key(n), addr: ip.parse().unwrap() };
    for (n, ip) in
        [(1, "198.51.100.1:1"), (2, "198.51.100.1:2"), (3, "198.51.100.1:3"), (4, "198.51.100.2:1")]
    {
        rig.handle(at(n, ip));
    }
    let kinds: Vec<_> = (1..=4).map(|n| register(&mut rig, n).err()).collect();
    assert_eq!(kinds, [None, None, Some(Why::Address), None]);
    for (n, ip) in
        [(5, "[2001:db8::1]:1"), (6, "[2001:db8::2:1]:1"), (7, "[2001:db8::3]:1"), (8, "[2001:db8:0:1::]:1")]
    {
        rig.handle(at(n, ip));
    }
    let kinds: Vec<_> = (5..=8).map(|n| register(&mut rig, n).err()).collect();
    assert_eq!(kinds, [None, None, Some(Why::Address), None]);
    rig.handle(Input::Moved { conn: conn(1), addr: "198.51.100.9:1".parse().unwrap() });
    assert!(register(&mut rig, 3).is_ok(), "who moves leaves its place");
    assert_eq!(register(&mut rig, 1).unwrap().observed, "198.51.100.9:1".parse().unwrap());
}

#[test]
fn sessions_are_made_no_faster_than_the_operator_allows() {
    let mut rig = rig(Config { accepts_per_second: 2, accepts_at_once: 3, ..config() });
    (1..=6).for_each(|n| up(&mut rig, n));
    let made: Vec<_> = (1..=4).map(|n| register(&mut rig, n).err()).collect();
    assert_eq!(made, [None, None, None, Some(Why::Busy)]);
    rig.advance(Duration::from_millis(500));
    assert!(register(&mut rig, 4).is_ok());
    assert_eq!(register(&mut rig, 5), Err(Why::Busy));
}

#[test]
fn what_a_session_sends_over_its_rate_is_dropped_and_counted() {
    let mut rig = rig(Config { session_rate: 1_000_000, ..config() });
    host(&mut rig, 1);
    host(&mut rig, 2);
    let mut pass = |ms: u64| {
        let mut bytes = 0;
        for _ in 0..ms {
            rig.advance(Duration::from_millis(1));
            (0..10).for_each(|_| assert!(said(&send(&mut rig, 1, 2, 979)).is_empty()));
            bytes += drain(&mut rig).iter().map(|(_, b)| b.len()).sum::<usize>();
        }
        bytes
    };
    assert_eq!(pass(1_000), 1_250_000 - 1_000, "a burst of a quarter of a second, then the rate");
    assert_eq!(pass(1_000), 1_000_000);
    assert_eq!(drops(&rig, DropReason::SessionRate), 20_000 - 2_249);
}

#[test]
fn sessions_of_one_address_share_its_rate() {
    let mut rig = rig(Config { address_rate: 1_000_000, ..config() });
    for n in 1..=2 {
        rig.handle(Input::PeerUp { conn: conn(n), peer: key(n), addr: addr(1) });
        register(&mut rig, n).unwrap();
    }
    host(&mut rig, 3);
    let pass = |rig: &mut Rig<Server>, from: u64| {
        let mut passed = 0;
        for _ in 0..1_000 {
            send(rig, from, 3, 979);
            passed += drain(rig).len();
        }
        passed
    };
    assert_eq!((pass(&mut rig, 1), pass(&mut rig, 2)), (250, 0));
    assert_eq!(drops(&rig, DropReason::AddressRate), 1_750);
    rig.advance(secs(1));
    assert_eq!(pass(&mut rig, 2), 250);
}

#[test]
fn a_whole_packet_is_cut_where_only_the_receivers_path_is_narrow() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    up(&mut rig, 2);
    send(&mut rig, 2, 1, 1_390);
    let narrow = Room { datagram_max: 1_162, free: 1 << 20 };
    let passed = drain_into(&mut rig, |_| Some(narrow));
    assert_eq!(passed.len(), 2);
    let mut reassembler = crate::relay::wire::Reassembler::default();
    let whole: Vec<_> = passed
        .iter()
        .filter_map(|(_, bytes)| {
            assert!(bytes.len() <= FRAGMENT_DATAGRAM_MAX);
            let header = Header::parse(bytes).unwrap();
            assert_eq!(header.peer, key(2).peer_id());
            reassembler.push(rig.now, &header, bytes.slice(header.bytes()..))
        })
        .collect();
    assert_eq!(whole, [Bytes::from(vec![7; 1_390])]);
}

#[test]
fn fragments_are_passed_on_as_they_are_and_dropped_where_they_cannot_pass() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    up(&mut rig, 2);
    let pieces: Vec<Bytes> = Fragmenter::new(Cutter::Peer)
        .split(Direction::To, key(1).peer_id(), &[7; 2_000], 1_162)
        .unwrap()
        .collect();
    for bytes in &pieces {
        rig.handle(Input::Datagram { conn: conn(2), bytes: bytes.clone() });
    }
    let passed = drain(&mut rig);
    assert_eq!(passed.len(), 2);
    for ((_, bytes), sent) in passed.iter().zip(&pieces) {
        assert_eq!((bytes[0], &bytes[21..]), (0x33, &sent[21..]));
    }
    rig.handle(Input::Datagram { conn: conn(2), bytes: pieces[0].clone() });
    assert!(drain_into(&mut rig, |_| Some(Room { datagram_max: 500, free: 1 << 20 })).is_empty());
    assert_eq!(drops(&rig, DropReason::TooLong), 1);
}

#[test]
fn a_receiver_without_room_holds_up_nobody_else() {
    let mut rig = rig(config());
    (1..=4).for_each(|n| host(&mut rig, n));
    let stuck = |c: ConnId| Some(if c == conn(1) { Room { free: 0, ..WIDE } } else { WIDE });
    for _ in 0..30 {
        send(&mut rig, 3, 1, 1_000);
        send(&mut rig, 4, 1, 1_000);
    }
    send(&mut rig, 3, 2, 1_000);
    assert_eq!(got(&drain_into(&mut rig, stuck)), [(2, key(3).peer_id(), 1_000)], "not even its own sender");
    send(&mut rig, 4, 2, 1_000);
    assert_eq!(drain_into(&mut rig, stuck).len(), 1);
    let little = |c: ConnId| Some(if c == conn(1) { Room { free: 1_100, ..WIDE } } else { WIDE });
    assert!(drain_into(&mut rig, little).is_empty(), "less than a turn");
    let passed = drain(&mut rig);
    assert_eq!(passed.len(), 60);
    let first: Vec<_> = got(&passed[..4]).iter().map(|g| g.1).collect();
    assert!(first.contains(&key(3).peer_id()) && first.contains(&key(4).peer_id()), "in turns");
}

#[test]
fn a_full_queue_drops_the_oldest_of_its_longest_flow_and_is_bounded() {
    let mut rig = rig(config());
    (1..=3).for_each(|n| host(&mut rig, n));
    send(&mut rig, 3, 2, 500);
    for _ in 0..1_000 {
        send(&mut rig, 3, 1, 1_000);
        assert!(rig.machine.stats().waiting <= QUEUE_BYTES_MAX);
    }
    let passed = drain(&mut rig);
    assert_eq!(got(&passed).iter().filter(|g| g.0 == 2).count(), 1, "the short flow lost nothing");
    assert_eq!(passed.len() as u64 + drops(&rig, DropReason::QueueFull), 1_001);
    assert!(passed.len() >= 40, "{} packets waited", passed.len());
    assert_eq!(rig.machine.stats().waiting, 0);
}

#[test]
fn a_packet_that_waited_half_a_second_is_dropped() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    up(&mut rig, 2);
    send(&mut rig, 2, 1, 100);
    rig.advance(WAIT_MAX - Duration::from_nanos(1));
    send(&mut rig, 2, 1, 200);
    rig.advance(Duration::from_nanos(1));
    assert_eq!(got(&drain(&mut rig)), [(1, key(2).peer_id(), 200)]);
    assert_eq!(drops(&rig, DropReason::TooOld), 1);
}

#[test]
fn a_receiver_that_goes_takes_what_waits_for_it_along() {
    let mut rig = rig(config());
    (1..=2).for_each(|n| host(&mut rig, n));
    up(&mut rig, 3);
    send(&mut rig, 3, 1, 100);
    send(&mut rig, 3, 2, 100);
    rig.handle(Input::PeerDown { conn: conn(1) });
    assert_eq!(got(&drain(&mut rig)), [(2, key(3).peer_id(), 100)]);
    send(&mut rig, 3, 2, 100);
    assert!(drain_into(&mut rig, |_| None).is_empty());
    assert_eq!((drops(&rig, DropReason::NoSession), rig.machine.stats().waiting), (2, 0));
}

#[test]
fn a_peer_that_comes_back_by_a_new_connection_takes_its_place() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    let again = Input::PeerUp { conn: conn(51), peer: key(1), addr: addr(1) };
    rig.handle(again);
    let out = tell(&mut rig, 51, &Message::Register);
    assert!(accounts(&out)[0].ended);
    up(&mut rig, 2);
    send(&mut rig, 2, 1, 100);
    assert_eq!(got(&drain(&mut rig)), [(51, key(2).peer_id(), 100)]);
    rig.handle(Input::PeerDown { conn: conn(1) });
    send(&mut rig, 2, 1, 100);
    assert_eq!(drain(&mut rig).len(), 1, "the end of the old connection takes nothing away");
}

#[test]
fn a_reservation_ends_when_it_is_not_renewed_and_its_holder_is_told() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    rig.advance(secs(3_599));
    register(&mut rig, 1).unwrap();
    assert!(rig.wait(secs(3_600) - Duration::from_nanos(1)).is_empty());
    let out = rig.wait(Duration::from_nanos(1));
    assert_eq!(said(&out), [(conn(1), Message::Gone { peer: key(1).peer_id() })]);
    assert!(accounts(&out)[0].ended);
    assert!(register(&mut rig, 1).is_ok());
}

#[test]
fn a_visitor_that_is_silent_for_two_minutes_is_forgotten() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    up(&mut rig, 2);
    send(&mut rig, 2, 1, 100);
    drain(&mut rig);
    rig.advance(secs(50));
    send(&mut rig, 1, 2, 100);
    assert_eq!(drain(&mut rig).len(), 1);
    rig.advance(VISITOR_IDLE - Duration::from_nanos(1));
    assert_eq!(rig.machine.stats().visitors, 1, "what it gets counts too");
    rig.advance(Duration::from_nanos(1));
    assert_eq!(rig.machine.stats().visitors, 0);
}

#[test]
fn sessions_are_accounted_each_minute_when_there_was_traffic_and_at_their_end() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    up(&mut rig, 2);
    rig.advance(secs(10));
    send(&mut rig, 2, 1, 979);
    drain(&mut rig);
    assert!(rig.wait(ACCOUNT_EVERY - Duration::from_nanos(1)).is_empty());
    let told = accounts(&rig.wait(Duration::from_nanos(1)));
    let by = |n: u64| told.iter().find(|a| a.peer == key(n)).unwrap();
    assert_eq!((by(2).usage.packets_in, by(2).usage.bytes_in, by(2).kind), (1, 1_000, Kind::Visitor));
    assert_eq!((by(1).usage.packets_out, by(1).usage.bytes_out, by(1).ended), (1, 1_000, false));
    assert_eq!((by(1).from, by(1).to), (crate::laws::WALL_AT_START, rig.wall()));
    assert!(rig.wait(ACCOUNT_EVERY * 5).iter().all(|o| !matches!(o, Output::Account(a) if !a.ended)));
    let last = accounts(&rig.tell(Input::PeerDown { conn: conn(1) }));
    assert!(last[0].ended && last[0].usage.is_empty(), "the sum of accounts is what it cost");
}

#[test]
fn the_operator_sees_sessions_and_sends_away() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    host(&mut rig, 2);
    send(&mut rig, 2, 1, 979);
    drain(&mut rig);
    let seen: Vec<_> =
        rig.machine.sessions().map(|s| (s.peer, s.kind, s.usage.bytes_in, s.usage.bytes_out)).collect();
    assert_eq!(seen, [(key(1), Kind::Reserved, 0, 1_000), (key(2), Kind::Reserved, 1_000, 0)]);
    let out = rig.tell(Input::Disconnect { peer: key(1) });
    assert_eq!(said(&out), [(conn(1), Message::Going { ends_in: secs(0), back_in: BACK_IN })]);
    assert_eq!(register(&mut rig, 1), Err(Why::Busy));
    assert_eq!(said(&send(&mut rig, 1, 2, 100)).len(), 1, "nor does it come back as a visitor");
    assert!(drain(&mut rig).is_empty());
    rig.advance(BACK_IN);
    assert!(register(&mut rig, 1).is_ok());
}

#[test]
fn a_blocked_peer_has_no_session_until_it_is_unblocked() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    let out = rig.tell(Input::Block { peer: key(1), blocked: true });
    assert!(accounts(&out)[0].ended);
    rig.advance(BACK_IN);
    assert_eq!(register(&mut rig, 1), Err(Why::Blocked));
    assert_eq!(rig.machine.blocked().collect::<Vec<_>>(), [&key(1)]);
    rig.handle(Input::Block { peer: key(1), blocked: false });
    assert!(register(&mut rig, 1).is_ok());
}

#[test]
fn a_relay_that_closes_tells_all_and_serves_until_then() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    host(&mut rig, 2);
    let going = Message::Going { ends_in: secs(10), back_in: secs(300) };
    let mut told = said(&rig.tell(Input::Close { ends_in: secs(10), back_in: secs(300) }));
    told.sort_by_key(|(to, _)| *to);
    assert_eq!(told, [(conn(1), going.clone()), (conn(2), going)]);
    up(&mut rig, 3);
    assert_eq!(register(&mut rig, 3), Err(Why::Closing));
    rig.advance(secs(9));
    send(&mut rig, 1, 2, 100);
    assert_eq!(drain(&mut rig).len(), 1);
    let out = rig.wait(secs(1));
    assert_eq!((accounts(&out).len(), out.last()), (2, Some(&Output::Closed)));
    assert!(!rig.machine.stats().serving);
}

#[test]
fn frames_that_are_none_are_counted_and_frames_of_a_relay_are_not_for_a_relay() {
    let mut rig = rig(config());
    up(&mut rig, 1);
    let bad = Frame { kind: 0x30, body: b"x".to_vec() };
    let out = rig.tell(Input::Frame { conn: conn(1), frame: bad });
    assert_eq!(out, [Output::Refused("relay-frame-malformed")]);
    let out = tell(&mut rig, 1, &Message::Gone { peer: PeerId([0; 20]) });
    assert_eq!(out, [Output::Refused("relay-frame-of-a-relay")]);
    assert!(tell(&mut rig, 9, &Message::Register).is_empty());
    let load = Load { used: 0, max: 1_000, price: 0 };
    assert_eq!(said(&tell(&mut rig, 1, &Message::Ask)), [(conn(1), Message::Load(load))]);
}

#[test]
fn one_datagram_in_is_at_most_one_packet_or_one_frame_out() {
    let mut rig = rig(config());
    host(&mut rig, 1);
    (2..=4).for_each(|n| up(&mut rig, n));
    for (from, to) in [(2, 1), (2, 3), (3, 3), (1, 4), (4, 9), (1, 2)] {
        let frames = said(&send(&mut rig, from, to, 100));
        assert!(frames.iter().all(|(c, _)| *c == conn(from)), "a frame goes to the sender alone");
        assert!(frames.len() + drain(&mut rig).len() <= 1);
    }
}
