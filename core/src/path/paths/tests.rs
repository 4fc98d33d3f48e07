//! One machine alone: exact times, hostile datagrams, bounds, and the laws of every machine.

use super::*;
use crate::command::PathKind;
use crate::id::{Keypair, PeerId, PublicKey};
use crate::laws::{self, Rig};
use crate::path::budget::{PER_MINUTE_MAX, PER_SECOND_MAX};
use crate::path::probe::{FULL_BYTES, Probe};
use crate::place::TunnelId;
use proptest::prelude::*;

const CONN: ConnId = ConnId(1);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn key(n: u8) -> PublicKey {
    Keypair::from_seed(&[n; 32]).public()
}

/// Keys of a connection of ours, and those of its other end.
fn keys(conn: ConnId) -> (ProbeKeys, ProbeKeys) {
    let secret = [conn.0 as u8; 32];
    (ProbeKeys::derive(&secret, &key(1), &key(2)), ProbeKeys::derive(&secret, &key(2), &key(1)))
}

fn by(relay: u64) -> Place {
    Place::Relayed { relay: ConnId(relay), peer: PeerId([9; 20]) }
}

fn at(ip: u8, port: u16) -> SocketAddr {
    ([203, 0, 113, ip], port).into()
}

fn up(conn: ConnId, place: Place) -> Input {
    Input::Up { conn, keys: keys(conn).0, place, rtt: ms(20) }
}

fn rig(place: Place) -> Rig<Paths> {
    let mut rig = Rig::new(Paths::default(), [5; 32]);
    rig.handle(up(CONN, place));
    rig.outputs();
    rig
}

fn probe_at(addr: SocketAddr) -> Input {
    Input::ProbeAt { conn: CONN, socket: SocketId::MAIN, addr, urgent: false }
}

/// What the peer sends from there.
fn from_peer(addr: SocketAddr, probe: &Probe) -> Input {
    Input::Probe { place: Place::direct(addr), bytes: keys(CONN).1.seal(probe) }
}

fn ping(count: u32) -> Probe {
    Probe::Ping { nonce: [count as u8; 8], count, flags: 0, full: false }
}

/// The probes among outputs, as the peer reads them.
fn sent(outputs: &[Output]) -> Vec<(SocketAddr, Probe)> {
    let read = |o: &Output| match o {
        Output::Send { to, bytes, .. } => Some((*to, keys(CONN).1.open(bytes).unwrap())),
        _ => None,
    };
    outputs.iter().filter_map(read).collect()
}

fn nonces(outputs: &[Output]) -> Vec<[u8; 8]> {
    let nonce = |(_, probe): (SocketAddr, Probe)| match probe {
        Probe::Ping { nonce, .. } => Some(nonce),
        Probe::Pong { .. } => None,
    };
    sent(outputs).into_iter().filter_map(nonce).collect()
}

fn pong(nonce: [u8; 8]) -> Probe {
    Probe::Pong { nonce, observed: at(200, 1) }
}

fn refused(outputs: &[Output]) -> Vec<&'static str> {
    outputs.iter().filter_map(|o| if let Output::Refused(why) = o { Some(*why) } else { None }).collect()
}

fn used(outputs: &[Output]) -> Vec<Place> {
    outputs
        .iter()
        .filter_map(|o| if let Output::Use { place, .. } = o { Some(*place) } else { None })
        .collect()
}

#[test]
fn a_pong_counts_once_and_only_from_where_its_ping_went() {
    let mut rig = rig(by(9));
    let first = nonces(&rig.tell(probe_at(at(1, 1))))[0];
    assert_eq!(refused(&rig.tell(from_peer(at(2, 1), &pong(first)))), ["pong from elsewhere"]);
    rig.advance(ms(20));
    let outputs = rig.tell(from_peer(at(1, 1), &pong(first)));
    assert_eq!(used(&outputs), [], "1,200 bytes are not proven");
    let full = nonces(&outputs)[0];
    assert!(matches!(sent(&outputs)[0], (_, Probe::Ping { full: true, .. })));
    assert_eq!(refused(&rig.tell(from_peer(at(1, 1), &pong(first)))), ["pong to no ping"], "a replayed pong");
    assert_eq!(used(&rig.tell(from_peer(at(1, 1), &pong(full)))), [Place::direct(at(1, 1))]);
    assert_eq!(refused(&rig.tell(from_peer(at(1, 1), &pong(full)))), ["pong to no ping"]);
}

#[test]
fn forged_malformed_and_strange_probes_are_counted_and_answered_by_nothing() {
    let mut rig = rig(by(9));
    let good = keys(CONN).1.seal(&ping(1));
    let mut forged = good.to_vec();
    forged[50] ^= 1;
    let stranger = keys(ConnId(8)).1.seal(&ping(1));
    for (bytes, why) in [
        (Bytes::from(forged), "forged probe"),
        (good.slice(..63), "malformed probe"),
        (stranger, "probe of no connection"),
    ] {
        let outputs = rig.tell(Input::Probe { place: Place::direct(at(1, 1)), bytes });
        assert_eq!(outputs, [Output::Refused(why)]);
    }
    for place in [by(9), Place::direct(at(1, 0)), Place::direct(([224, 0, 0, 1], 5).into())] {
        let outputs = rig.tell(Input::Probe { place, bytes: good.clone() });
        assert_eq!(outputs, [Output::Refused("probe from no address")]);
    }
}

#[test]
fn a_ping_is_answered_and_answered_by_a_ping_but_not_twice() {
    let mut rig = rig(by(9));
    let outputs = rig.tell(from_peer(at(1, 1), &ping(1)));
    let expected = Probe::Pong { nonce: [1; 8], observed: at(1, 1) };
    assert_eq!(sent(&outputs)[0], (at(1, 1), expected));
    assert!(matches!(sent(&outputs)[1], (_, Probe::Ping { full: false, .. })));
    assert_eq!(rig.tell(from_peer(at(7, 7), &ping(1))), [Output::Refused("replayed ping")]);
    assert_eq!(sent(&rig.tell(from_peer(at(1, 1), &ping(2)))).len(), 1, "asked lately");
    let later = rig.wait(Duration::from_secs(30));
    assert_eq!(sent(&later).len(), 2, "a candidate gets three pings");
    let tried = rig.machine.view(CONN).unwrap().tried;
    assert_eq!((tried[0].0.as_str(), tried[0].1.as_str()), ("203.0.113.1:1", "no answer"));
}

#[test]
fn an_address_that_never_answered_is_sent_no_more_than_three_times_what_came_from_it() {
    let moved = |bytes| Input::Moved { conn: CONN, place: Place::direct(at(66, 9)), bytes };
    let of_ping = from_peer(at(66, 9), &ping(1));
    for (input, came, pings) in [
        (moved(21), 21, 0),
        (moved(35), 35, 1),
        (moved(127), 127, 3),
        (moved(1_200), 1_200, 3),
        (of_ping, 64, 2),
    ] {
        let mut rig = rig(by(9));
        let mut outputs = rig.tell(input);
        outputs.extend(rig.wait(Duration::from_secs(30)));
        let to_it = outputs.iter().filter_map(|o| match o {
            Output::Send { to, bytes, .. } if *to == at(66, 9) => Some(bytes.len()),
            _ => None,
        });
        let sent_bytes: Vec<usize> = to_it.collect();
        assert!(sent_bytes.iter().sum::<usize>() <= 3 * came, "{came}: {sent_bytes:?}");
        let asked = sent(&outputs).iter().filter(|(_, p)| matches!(p, Probe::Ping { .. })).count();
        assert_eq!(asked, pings, "{came}");
    }
}

#[test]
fn a_peer_that_names_a_victim_cannot_make_us_send_it_more_than_the_budget() {
    let mut rig = Rig::new(Paths::default(), [5; 32]);
    let victim = at(66, 53);
    let conns: Vec<ConnId> = (1..=5).map(ConnId).collect();
    conns.iter().for_each(|conn| rig.handle(up(*conn, by(9))));
    let peers: Vec<ProbeKeys> = conns.iter().map(|conn| keys(*conn).1).collect();
    let mut sent = Vec::new();
    for step in 0..9_000u32 {
        let liar = step as usize % conns.len();
        let conn = conns[liar];
        let port = 1 + (step % 2_000) as u16;
        let addr = SocketAddr::new(victim.ip(), port);
        let bytes = peers[liar].seal(&ping(step));
        // A punch to its address, packets and pings with its source address, and the address named as a place.
        rig.handle(Input::ProbeAt { conn, socket: SocketId::MAIN, addr, urgent: false });
        rig.handle(Input::Moved { conn, place: Place::direct(addr), bytes: 1_200 });
        rig.handle(Input::Probe { place: Place::direct(addr), bytes });
        rig.handle(Input::Places { conn, places: vec![by(9), Place::direct(addr)] });
        rig.advance(ms(10));
        for output in rig.outputs() {
            match output {
                Output::Send { to, bytes, .. } if to.ip() == victim.ip() => sent.push((rig.now, bytes.len())),
                Output::Use { place, .. } => assert!(!place.is_direct(), "{place} was never proven"),
                _ => (),
            }
        }
    }
    let most = |span: u64| {
        let within =
            |from: Instant| sent.iter().filter(|(at, _)| *at >= from && at.since(from) < ms(span)).count();
        sent.iter().map(|(at, _)| within(*at)).max().unwrap_or(0)
    };
    // The clock of this test moves in steps of 10 ms, within which the machine may have been early.
    assert!(most(990) <= PER_SECOND_MAX as usize, "{}", most(990));
    assert!(most(59_990) <= PER_MINUTE_MAX as usize, "{}", most(59_990));
    assert!(sent.iter().all(|(_, len)| *len < FULL_BYTES), "only small ones");
    assert!(sent.len() > 100, "the budget can be used");
}

#[test]
fn an_idle_direct_way_is_pinged_every_fifteen_seconds_or_as_often_as_was_measured() {
    let mut rig = rig(Place::direct(at(1, 1)));
    let answered = |rig: &mut Rig<Paths>, wait: Duration| {
        let outputs = rig.wait(wait);
        let nonces = nonces(&outputs);
        nonces.iter().for_each(|n| rig.handle(from_peer(at(1, 1), &pong(*n))));
        nonces.len()
    };
    assert_eq!(answered(&mut rig, ms(14_999)), 0);
    assert_eq!(answered(&mut rig, ms(1)), 1);
    assert_eq!(answered(&mut rig, ms(14_999)), 0);
    rig.handle(Input::Traffic(CONN));
    assert_eq!(answered(&mut rig, ms(14_999)), 0, "packets keep it, too");
    assert_eq!(answered(&mut rig, ms(1)), 1);
    rig.handle(Input::Keepalive(ms(40_000)));
    rig.handle(Input::Traffic(CONN));
    assert_eq!(answered(&mut rig, ms(39_999)), 0);
    assert_eq!(answered(&mut rig, ms(1)), 1);
    assert_eq!(rig.machine.poll_timeout().unwrap().reason, "path probe");
}

#[test]
fn a_long_life_of_mappings_is_believed_until_a_way_falls_silent() {
    let mut rig = rig(Place::direct(at(1, 1)));
    rig.handle(Input::Keepalive(ms(60_000)));
    rig.handle(Input::Traffic(CONN));
    rig.outputs();
    assert!(nonces(&rig.wait(ms(59_999))).is_empty());
    // The mapping is gone: no pong comes back, until the way is given up.
    assert!(rig.wait(ms(60_000)).contains(&Output::Lost(CONN)));
    // It is there again, and from now on it is asked as often as is careful.
    for _ in 0..20 {
        let outputs = rig.wait(ms(1_000));
        nonces(&outputs).iter().for_each(|n| rig.handle(from_peer(at(1, 1), &pong(*n))));
    }
    assert_eq!(rig.machine.place(CONN), Some(Place::direct(at(1, 1))));
    rig.handle(Input::Keepalive(ms(60_000)));
    rig.handle(Input::Traffic(CONN));
    rig.outputs();
    assert_eq!(nonces(&rig.wait(ms(15_000))).len(), 1);
}

#[test]
fn a_relayed_way_needs_no_pings() {
    let mut rig = rig(by(9));
    assert!(sent(&rig.wait(Duration::from_secs(3_600))).is_empty());
}

#[test]
fn suspicion_asks_five_times_in_three_round_trips_and_ends_with_a_pong() {
    let mut rig = rig(Place::direct(at(1, 1)));
    rig.handle(Input::Rtt { conn: CONN, rtt: ms(200) });
    rig.handle(Input::Places { conn: CONN, places: vec![by(9)] });
    rig.outputs();
    let mut asked = nonces(&rig.tell(Input::Silent(CONN)));
    assert_eq!(rig.machine.poll_timeout().unwrap().reason, "suspicion of a path");
    asked.extend(nonces(&rig.wait(ms(599))));
    assert_eq!(asked.len(), 5);
    let outputs = rig.tell(from_peer(at(1, 1), &pong(asked[4])));
    let place = Place::direct(at(1, 1));
    assert!(outputs.contains(&Output::Use { conn: CONN, place, nudge: true, downgrade: false }));
    assert_eq!(used(&rig.wait(ms(5_000))), []);
    rig.handle(Input::Silent(CONN));
    assert_eq!(used(&rig.wait(ms(599))), []);
    assert_eq!(used(&rig.wait(ms(1))), [by(9)], "exactly after three round trips");
}

#[test]
fn traffic_ends_a_suspicion_as_well_as_a_pong() {
    let mut rig = rig(Place::direct(at(1, 1)));
    rig.handle(Input::Places { conn: CONN, places: vec![by(9)] });
    rig.handle(Input::Silent(CONN));
    rig.advance(ms(200));
    rig.handle(Input::Traffic(CONN));
    rig.outputs();
    assert_eq!(used(&rig.wait(ms(10_000))), []);
}

#[test]
fn punches_are_wanted_at_once_then_with_back_off_and_anew_when_something_changed() {
    let mut rig = Rig::new(Paths::default(), [5; 32]);
    assert!(rig.tell(up(CONN, by(9))).contains(&Output::WantPunch(CONN)));
    let wants = |outputs: Vec<Output>| outputs.iter().filter(|o| **o == Output::WantPunch(CONN)).count();
    assert_eq!(wants(rig.wait(ms(7_999))), 0);
    assert_eq!(wants(rig.wait(ms(4_001))), 1);
    let hour = wants(rig.wait(Duration::from_secs(3_600)));
    assert!((10..=18).contains(&hour), "{hour}");
    assert_eq!(wants(rig.tell(Input::CandidatesChanged(None))), 1);
    assert_eq!(wants(rig.tell(Input::CandidatesChanged(Some(CONN)))), 0, "never twice in five seconds");
    assert_eq!(wants(rig.wait(ms(5_000))), 1);
    rig.handle(Input::Down(CONN));
    assert_eq!((rig.machine.poll_timeout(), rig.machine.len()), (None, 0));
    let mut direct = Rig::new(Paths::default(), [5; 32]);
    let outputs = direct.tell(up(CONN, Place::direct(at(1, 1))));
    assert_eq!(wants(outputs) + wants(direct.tell(Input::CandidatesChanged(None))), 0);
}

#[test]
fn a_relay_behind_a_tunnel_comes_last_and_a_relay_takes_its_places_with_it() {
    let (relay, tunnelled) = (ConnId(8), ConnId(9));
    let mut rig = Rig::new(Paths::default(), [5; 32]);
    rig.handle(up(relay, Place::direct(at(8, 8))));
    rig.handle(up(tunnelled, Place::Tunnel(TunnelId(2))));
    assert_eq!(rig.machine.view(tunnelled).unwrap().kind, PathKind::Tunnelled);
    rig.handle(up(CONN, by(9)));
    rig.outputs();
    let outputs = rig.tell(Input::Places { conn: CONN, places: vec![by(9), by(8)] });
    assert_eq!(used(&outputs), [by(8)], "the named order is less than the tier");
    let outputs = rig.tell(Input::Down(relay));
    assert_eq!(used(&outputs), [by(9)]);
    assert!(outputs.iter().any(|o| matches!(o, Output::Use { nudge: true, downgrade: true, .. })));
    assert!(rig.tell(Input::Down(tunnelled)).contains(&Output::Lost(CONN)));
}

#[test]
fn an_address_that_the_node_names_is_probed_again_and_again_and_leaves_the_tunnel() {
    let mut rig = rig(Place::Tunnel(TunnelId(2)));
    let outputs = rig.tell(Input::Places { conn: CONN, places: vec![Place::direct(at(1, 1))] });
    let mut pings = nonces(&outputs).len();
    assert_eq!(pings, 1);
    pings += nonces(&rig.wait(Duration::from_secs(3_600))).len();
    assert!((15..=25).contains(&pings), "{pings}");
    assert_eq!(rig.machine.view(CONN).unwrap().tried[0].1, "no answer");
    let next = rig.machine.poll_timeout().unwrap();
    assert_eq!(next.reason, "path probe");
    let nonce = nonces(&rig.wait(next.at.since(rig.now)))[0];
    let full = nonces(&rig.tell(from_peer(at(1, 1), &pong(nonce))))[0];
    assert_eq!(used(&rig.tell(from_peer(at(1, 1), &pong(full)))), [Place::direct(at(1, 1))]);
}

#[test]
fn the_punch_room_can_probe_many_ports_and_people_read_one_line() {
    let mut rig = rig(by(9));
    let mut pings = 0;
    for port in 1..=500 {
        let input =
            Input::ProbeAt { conn: CONN, socket: SocketId(port % 7), addr: at(1, port), urgent: true };
        pings += sent(&rig.tell(input)).len() + sent(&rig.wait(ms(10))).len();
    }
    assert!(pings > 400, "{pings}: a burst has its own allowance");
    let (places, flights, tried) = rig.machine.fill();
    assert!(places <= PLACES_MAX && flights <= FLIGHTS_MAX && tried <= TRIED_MAX);
    rig.wait(Duration::from_secs(30));
    let tried = rig.machine.view(CONN).unwrap().tried;
    assert_eq!(tried.len(), 1, "{tried:?}");
    assert!(tried[0].0.ends_with("more ports"), "{tried:?}");
}

#[test]
fn addresses_that_a_peer_makes_up_never_displace_a_proven_one() {
    let mut rig = rig(by(9));
    for port in 1..=3 {
        let first = nonces(&rig.tell(probe_at(at(port as u8, port))))[0];
        let full = nonces(&rig.tell(from_peer(at(port as u8, port), &pong(first))))[0];
        rig.handle(from_peer(at(port as u8, port), &pong(full)));
    }
    rig.outputs();
    for n in 0..200u32 {
        rig.handle(from_peer(at(100 + (n % 100) as u8, 9), &ping(n)));
    }
    let outputs = rig.outputs();
    assert!(rig.machine.fill().0 <= PLACES_MAX && !outputs.contains(&Output::Lost(CONN)));
    let line = &rig.machine.lines[&CONN];
    assert_eq!(line.places.iter().filter(|k| k.is_proven_direct()).count(), 3);
}

#[test]
fn a_changed_network_makes_every_direct_place_prove_itself_anew() {
    let mut rig = rig(Place::direct(at(1, 1)));
    rig.handle(Input::Places { conn: CONN, places: vec![by(9)] });
    rig.outputs();
    let outputs = rig.tell(Input::NetworkChanged);
    let place = Place::direct(at(1, 1));
    assert!(outputs.contains(&Output::Use { conn: CONN, place, nudge: true, downgrade: false }));
    assert_eq!(nonces(&outputs).len(), 1);
    assert_eq!(used(&rig.wait(ms(300))), [by(9)]);
}

#[test]
fn a_socket_that_is_gone_takes_its_places_with_it() {
    let mut rig = rig(Place::Direct { socket: SocketId(3), addr: at(1, 1) });
    assert!(rig.tell(Input::SocketGone(SocketId(2))).is_empty());
    assert!(rig.tell(Input::SocketGone(SocketId(3))).contains(&Output::Lost(CONN)));
    assert_eq!((rig.machine.place(CONN), rig.machine.knows(CONN)), (None, true));
}

#[test]
fn connections_are_bounded() {
    let mut rig = Rig::new(Paths::default(), [5; 32]);
    for n in 0..LINES_MAX as u64 + 1 {
        let keys = ProbeKeys::derive(&crate::rng::derive_seed(&[0; 32], &n.to_string()), &key(1), &key(2));
        rig.handle(Input::Up { conn: ConnId(n), keys, place: by(9_999), rtt: ms(20) });
    }
    assert_eq!(rig.machine.len(), LINES_MAX);
    assert_eq!(refused(&rig.outputs()), ["too many connections with paths"]);
}

fn arb_addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        8 => (1..4u8, 1..4u16).prop_map(|(ip, port)| at(ip, port)),
        2 => (1..3u16).prop_map(|host| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, host], 9))),
        1 => (1..3u8).prop_map(|ip| SocketAddr::from(([192, 168, 1, ip], 9))),
        1 => Just(SocketAddr::from(([0, 0, 0, 0], 0))),
    ]
}

fn arb_place() -> impl Strategy<Value = Place> {
    prop_oneof![
        5 => (0..2u16, arb_addr()).prop_map(|(socket, addr)| Place::Direct { socket: SocketId(socket), addr }),
        3 => (0..4u64).prop_map(by),
        1 => (0..2u64).prop_map(|n| Place::Tunnel(TunnelId(n))),
    ]
}

fn arb_input() -> impl Strategy<Value = Input> {
    let conn = || (0..3u64).prop_map(ConnId);
    let rtt = || (0..2_000u64).prop_map(ms);
    let probe = (conn(), arb_place(), any::<bool>(), 0..60u32, any::<bool>()).prop_map(
        |(conn, place, is_ping, count, full)| {
            let nonce = [count as u8; 8];
            let observed = at(1, 1);
            let probe = if is_ping {
                Probe::Ping { nonce, count, flags: 0, full }
            } else {
                Probe::Pong { nonce, observed }
            };
            Input::Probe { place, bytes: keys(conn).1.seal(&probe) }
        },
    );
    prop_oneof![
        3 => (conn(), arb_place(), rtt()).prop_map(|(conn, place, rtt)| Input::Up { conn, keys: keys(conn).0, place, rtt }),
        1 => conn().prop_map(Input::Down),
        6 => probe,
        1 => (arb_place(), prop::collection::vec(any::<u8>(), 0..70))
            .prop_map(|(place, bytes)| Input::Probe { place, bytes: bytes.into() }),
        4 => (conn(), 0..2u16, arb_addr(), any::<bool>()).prop_map(|(conn, socket, addr, urgent)| Input::ProbeAt {
            conn, socket: SocketId(socket), addr, urgent
        }),
        3 => (conn(), prop::collection::vec(arb_place(), 0..10)).prop_map(|(conn, places)| Input::Places { conn, places }),
        4 => conn().prop_map(Input::Silent),
        3 => (conn(), arb_place(), 0..1_500usize).prop_map(|(conn, place, bytes)| Input::Moved { conn, place, bytes }),
        1 => (conn(), rtt()).prop_map(|(conn, rtt)| Input::Rtt { conn, rtt }),
        2 => conn().prop_map(Input::Traffic),
        1 => arb_place().prop_map(Input::Gone),
        1 => (0..2u16).prop_map(|n| Input::SocketGone(SocketId(n))),
        1 => Just(Input::NetworkChanged),
        1 => prop::option::of(conn()).prop_map(Input::CandidatesChanged),
        1 => (0..200_000u64).prop_map(|n| Input::Keepalive(ms(n))),
    ]
}

#[test]
fn paths_obey_the_laws_of_machines_within_their_bounds() {
    laws::check_within(Paths::default, arb_input(), |paths| {
        let (places, flights, tried) = paths.fill();
        assert!(places <= PLACES_MAX && flights <= FLIGHTS_MAX && tried <= TRIED_MAX);
        assert!(
            paths.len() <= 3
                && paths.tags.len() <= 3
                && paths.due.len() <= 3
                && paths.env.tunnelled.len() <= 3
        );
        for (conn, line) in &paths.lines {
            let selected = line.selected().is_none_or(|p| line.index(&p).is_some());
            assert!(selected, "what is used is known");
            assert_eq!(paths.view(*conn).unwrap().tried.len(), tried.min(line.fill().2));
        }
    });
}

/// While hundreds of ports are guessed, the one from which the peer was heard is neither forgotten nor are its pings.
#[test]
fn where_the_peer_was_heard_outlives_a_storm_of_guesses() {
    let mut rig = rig(by(9));
    let asked = nonces(&rig.tell(from_peer(at(1, 1), &ping(1))))[0];
    for port in 2_000..2_150 {
        let guess = Input::ProbeAt { conn: CONN, socket: SocketId::MAIN, addr: at(2, port), urgent: true };
        rig.tell(guess);
    }
    let full = nonces(&rig.tell(from_peer(at(1, 1), &pong(asked))))[0];
    assert_eq!(used(&rig.tell(from_peer(at(1, 1), &pong(full)))), [Place::direct(at(1, 1))]);
}

/// A relay died, and what goes by the other one is not answered at once either: that one gets its time.
#[test]
fn two_silent_relays_are_not_gone_to_and_fro_between() {
    let mut rig = rig(by(9));
    rig.tell(Input::Places { conn: CONN, places: vec![by(9), by(8)] });
    let mut changes = used(&rig.tell(Input::Silent(CONN)));
    for _ in 0..7 {
        rig.advance(ms(400));
        changes.extend(used(&rig.tell(Input::Silent(CONN))));
    }
    assert_eq!(changes, [by(8)]);
    rig.advance(ms(400));
    assert_eq!(used(&rig.tell(Input::Silent(CONN))), [by(9)], "it has rested");
}
