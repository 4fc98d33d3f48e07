//! Two nodes and what lies between them, in virtual time: addresses that come and go, NATs that forget, relays that die.
//!
//! A [`World`] has two machines, each with one connection to the other. Datagrams travel from the sender's address of the
//! right family to whoever owns the target. QUIC is played by `busy`: each side sends a packet every 20 ms to where its
//! machine says, hears of those that arrive, and says `Silent` when none came for 300 ms.

use super::*;
use crate::id::{Keypair, PeerId, PublicKey};
use crate::laws::Rig;
use crate::path::probe::{FIRST_BYTE, Probe};
use crate::rng::Rng;

const CONN: ConnId = ConnId(1);
const RELAY: ConnId = ConnId(90);
const STANDBY: ConnId = ConnId(91);
const TICK: Duration = Duration::from_millis(20);
const SILENCE: Duration = Duration::from_millis(300);
const A: usize = 0;
const B: usize = 1;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn direct(text: &str) -> Place {
    Place::direct(addr(text))
}

fn key(n: u8) -> PublicKey {
    Keypair::from_seed(&[n; 32]).public()
}

fn keys(side: usize) -> ProbeKeys {
    let (us, peer) = if side == A { (key(1), key(2)) } else { (key(2), key(1)) };
    ProbeKeys::derive(&[7; 32], &us, &peer)
}

fn by(relay: ConnId) -> Place {
    Place::Relayed { relay, peer: PeerId([9; 20]) }
}

/// What travels.
#[derive(Clone, Debug)]
enum Cargo {
    Datagram(Bytes),
    Packet,
}

struct World {
    rigs: [Rig<Paths>; 2],
    /// By which addresses each side is reached; it sends from the first that fits the target.
    addrs: [Vec<SocketAddr>; 2],
    /// One-way delay to an address, 10 ms if it is not here.
    delays: BTreeMap<SocketAddr, Duration>,
    /// Addresses to which nothing gets through.
    dead: BTreeSet<SocketAddr>,
    /// Relays that are gone or mute.
    mute: BTreeSet<ConnId>,
    /// Largest datagram to an address.
    narrow: BTreeMap<SocketAddr, usize>,
    probe_loss_ppm: u32,
    packet_loss_ppm: u32,
    rng: Rng,
    queue: BTreeMap<(Instant, u64), (usize, Place, Cargo)>,
    number: u64,
    busy: bool,
    tick_at: Instant,
    heard: [Instant; 2],
    from: [Place; 2],
    /// When which side was told what.
    log: Vec<(Instant, usize, Output)>,
}

impl World {
    /// Both are connected by this place and know these addresses of themselves.
    fn new(places: [Place; 2], addrs: [&[&str]; 2]) -> Self {
        let mut world = Self {
            rigs: [0, 1].map(|side| Rig::new(Paths::default(), [side; 32])),
            addrs: addrs.map(|list| list.iter().map(|text| addr(text)).collect()),
            delays: BTreeMap::new(),
            dead: BTreeSet::new(),
            mute: BTreeSet::new(),
            narrow: BTreeMap::new(),
            probe_loss_ppm: 0,
            packet_loss_ppm: 0,
            rng: Rng::from_seed([3; 32]),
            queue: BTreeMap::new(),
            number: 0,
            busy: false,
            tick_at: Instant::ZERO,
            heard: [Instant::ZERO; 2],
            from: places,
            log: Vec::new(),
        };
        for (side, place) in places.into_iter().enumerate() {
            world.tell(side, Input::Up { conn: CONN, keys: keys(side), place, rtt: ms(20) });
        }
        world
    }

    /// Relayed on both sides, with a public address each.
    fn relayed() -> Self {
        Self::new([by(RELAY), by(RELAY)], [&["203.0.113.1:1"], &["198.51.100.2:2"]])
    }

    /// Direct between public addresses, with the relays named.
    fn upgraded() -> Self {
        let mut world = Self::new(
            [direct("198.51.100.2:2"), direct("203.0.113.1:1")],
            [&["203.0.113.1:1"], &["198.51.100.2:2"]],
        );
        for side in [A, B] {
            world.tell(side, Input::Places { conn: CONN, places: vec![by(RELAY), by(STANDBY)] });
        }
        world.log.clear();
        world
    }

    fn now(&self) -> Instant {
        self.rigs[A].now
    }

    fn tell(&mut self, side: usize, input: Input) {
        self.rigs[side].handle(input);
        self.route(side);
    }

    fn probe_at(&mut self, side: usize, to: &str) {
        self.tell(side, Input::ProbeAt { conn: CONN, socket: SocketId::MAIN, addr: addr(to), urgent: false });
    }

    fn uses(&self, side: usize) -> Option<Place> {
        self.rigs[side].machine.place(CONN)
    }

    fn route(&mut self, side: usize) {
        let now = self.rigs[side].now;
        for output in self.rigs[side].outputs() {
            match &output {
                Output::Send { to, bytes, .. } => {
                    assert_eq!(bytes[0], FIRST_BYTE);
                    if !self.rng.chance_ppm(self.probe_loss_ppm) {
                        self.send(side, Place::direct(*to), Cargo::Datagram(bytes.clone()));
                    }
                }
                Output::Use { nudge: true, .. } if self.busy => self.packet(side),
                _ => (),
            }
            self.log.push((now, side, output));
        }
    }

    fn packet(&mut self, side: usize) {
        if let Some(place) = self.uses(side)
            && !self.rng.chance_ppm(self.packet_loss_ppm)
        {
            self.send(side, place, Cargo::Packet);
        }
    }

    fn send(&mut self, side: usize, place: Place, cargo: Cargo) {
        let other = 1 - side;
        let (from, delay) = match place {
            Place::Direct { addr: to, .. } => {
                let like = |own: &&SocketAddr| {
                    own.is_ipv4() == to.is_ipv4()
                        && (scope(**own) == Scope::Public) == (scope(to) == Scope::Public)
                };
                let Some(own) = self.addrs[side].iter().find(like) else { return };
                let size = if let Cargo::Datagram(bytes) = &cargo { bytes.len() } else { 1_200 };
                let fits = self.narrow.get(&to).is_none_or(|max| size <= *max);
                if !self.addrs[other].contains(&to) || self.dead.contains(&to) || !fits {
                    return;
                }
                (Place::direct(*own), self.delays.get(&to).copied().unwrap_or(ms(10)))
            }
            Place::Relayed { relay, .. } if self.mute.contains(&relay) => return,
            Place::Relayed { .. } | Place::Tunnel(_) => (place, ms(40)),
        };
        self.number += 1;
        self.queue.insert((self.now().max(self.rigs[other].now) + delay, self.number), (other, from, cargo));
    }

    /// Lets time pass, from event to event.
    fn pass(&mut self, time: Duration) {
        let until = self.now() + time;
        loop {
            let deadlines = self.rigs.iter().filter_map(|rig| rig.machine.poll_timeout()).map(|d| d.at);
            let arrival = self.queue.keys().next().map(|(at, _)| *at);
            let tick = self.busy.then_some(self.tick_at);
            let next = deadlines.chain(arrival).chain(tick).min().filter(|at| *at <= until);
            let at = next.unwrap_or(until);
            for side in [A, B] {
                let by = at.since(self.rigs[side].now);
                self.rigs[side].advance(by);
                self.route(side);
            }
            if next.is_none() {
                return;
            }
            while let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= at) {
                let (side, from, cargo) = entry.remove();
                self.arrive(side, from, cargo);
            }
            if self.busy && self.tick_at <= at {
                self.tick();
            }
        }
    }

    fn arrive(&mut self, side: usize, from: Place, cargo: Cargo) {
        match cargo {
            Cargo::Datagram(bytes) => self.tell(side, Input::Probe { place: from, bytes }),
            Cargo::Packet => {
                self.heard[side] = self.now();
                let moved = std::mem::replace(&mut self.from[side], from) != from;
                let input = if moved {
                    Input::Moved { conn: CONN, place: from, bytes: 1_200 }
                } else {
                    Input::Traffic(CONN)
                };
                self.tell(side, input);
            }
        }
    }

    fn busy(&mut self) {
        (self.busy, self.tick_at, self.heard) = (true, self.now(), [self.now(); 2]);
    }

    fn tick(&mut self) {
        self.tick_at = self.now() + TICK;
        for side in [A, B] {
            self.packet(side);
            if self.now().since(self.heard[side]) >= SILENCE {
                self.tell(side, Input::Silent(CONN));
            }
        }
    }

    /// The places that a side was told to use, with the times.
    fn changes(&self, side: usize) -> Vec<(u64, Place)> {
        let used = |(at, who, output): &(Instant, usize, Output)| match output {
            Output::Use { place, .. } if *who == side => Some((at.as_millis(), *place)),
            _ => None,
        };
        self.log.iter().filter_map(used).collect()
    }

    fn was_told(&self, side: usize, wanted: &Output) -> bool {
        self.log.iter().any(|(_, who, output)| *who == side && output == wanted)
    }

    fn tried(&self, side: usize) -> Vec<String> {
        let view = self.rigs[side].machine.view(CONN).unwrap();
        view.tried.into_iter().map(|(place, outcome, _)| format!("{place}: {outcome}")).collect()
    }
}

#[test]
fn a_relayed_connection_becomes_direct_in_two_round_trips_of_the_new_way() {
    let mut world = World::relayed();
    assert!(world.was_told(A, &Output::WantPunch(CONN)) && world.was_told(B, &Output::WantPunch(CONN)));
    world.probe_at(A, "198.51.100.2:2");
    world.probe_at(B, "203.0.113.1:1");
    world.pass(ms(100));
    assert_eq!(world.changes(A), [(40, direct("198.51.100.2:2"))]);
    assert_eq!(world.changes(B), [(40, direct("203.0.113.1:1"))]);
    let place = direct("198.51.100.2:2");
    assert!(world.was_told(A, &Output::Use { conn: CONN, place, nudge: false, downgrade: false }));
    assert!(world.was_told(A, &Output::Validated { conn: CONN, place, rtt: ms(20) }));
    assert!(world.was_told(A, &Output::Observed { conn: CONN, place, addr: addr("203.0.113.1:1") }));
    let view = world.rigs[A].machine.view(CONN).unwrap();
    assert_eq!((view.place.as_str(), view.kind), ("198.51.100.2:2", crate::command::PathKind::Direct));
    assert_eq!(world.tried(A), ["198.51.100.2:2: works"]);
}

#[test]
fn one_sides_probes_are_enough_if_they_get_through() {
    let mut world = World::relayed();
    world.probe_at(A, "198.51.100.2:2");
    world.pass(ms(100));
    assert_eq!(world.changes(A), [(40, direct("198.51.100.2:2"))]);
    assert_eq!(world.changes(B), [(50, direct("203.0.113.1:1"))], "asked as soon as A's ping came");
}

#[test]
fn an_address_that_carries_no_full_packets_is_never_used() {
    let mut world = World::relayed();
    world.narrow.insert(addr("198.51.100.2:2"), 1_199);
    world.probe_at(A, "198.51.100.2:2");
    world.pass(Duration::from_secs(20));
    assert_eq!(world.changes(A), []);
    assert_eq!(world.tried(A), ["198.51.100.2:2: answers, but carries no 1,200 bytes"]);
}

#[test]
fn when_the_direct_way_dies_the_relay_carries_on_within_seven_hundred_milliseconds() {
    let mut world = World::upgraded();
    world.busy();
    world.pass(ms(1_000));
    world.dead.extend([addr("198.51.100.2:2"), addr("203.0.113.1:1")]);
    world.pass(ms(3_000));
    for side in [A, B] {
        let changes = world.changes(side);
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert!(changes[0].0 <= 1_700 && changes[0].1 == by(RELAY), "{changes:?}");
    }
    assert!(world.was_told(A, &Output::Use { conn: CONN, place: by(RELAY), nudge: true, downgrade: true }));
    assert!(world.was_told(A, &Output::WantPunch(CONN)), "a new direct way is wanted");
    assert_eq!(world.tried(A), ["198.51.100.2:2: fell silent"]);
    world.log.clear();
    world.dead.clear();
    world.pass(ms(10_000));
    for (side, place) in [(A, direct("198.51.100.2:2")), (B, direct("203.0.113.1:1"))] {
        let changes = world.changes(side);
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(changes[0].1, place, "back after two pongs");
    }
}

#[test]
fn a_way_that_dies_in_one_direction_is_left_by_both() {
    let mut world = World::upgraded();
    world.busy();
    world.pass(ms(1_000));
    world.dead.insert(addr("198.51.100.2:2"));
    world.pass(ms(3_000));
    assert_eq!((world.uses(A), world.uses(B)), (Some(by(RELAY)), Some(by(RELAY))));
    for side in [A, B] {
        let changes = world.changes(side);
        assert!(changes.len() == 1 && changes[0].0 <= 1_700, "{changes:?}");
    }
}

#[test]
fn packets_prove_a_way_on_which_every_probe_is_lost() {
    let mut world = World::upgraded();
    world.probe_loss_ppm = 1_000_000;
    world.busy();
    world.pass(Duration::from_secs(600));
    assert_eq!((world.changes(A), world.changes(B)), (vec![], vec![]));
}

#[test]
fn an_outage_ends_with_a_nudge_when_there_is_no_other_way() {
    let mut world = World::new(
        [direct("198.51.100.2:2"), direct("203.0.113.1:1")],
        [&["203.0.113.1:1"], &["198.51.100.2:2"]],
    );
    world.busy();
    world.pass(ms(1_000));
    world.dead.extend([addr("198.51.100.2:2"), addr("203.0.113.1:1")]);
    world.pass(ms(8_000));
    assert!(world.was_told(A, &Output::Lost(CONN)) && world.changes(A).is_empty());
    assert_eq!(world.rigs[A].machine.view(CONN).unwrap().kind, crate::command::PathKind::Lost);
    // QUIC's own attempts are seconds apart by now.
    world.busy = false;
    world.dead.clear();
    world.pass(ms(1_100));
    let changes = world.changes(A);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(changes[0].0 <= 10_030 && world.uses(A) == Some(direct("198.51.100.2:2")), "{changes:?}");
    let place = direct("198.51.100.2:2");
    assert!(world.was_told(A, &Output::Use { conn: CONN, place, nudge: true, downgrade: false }));
    assert_eq!(world.rigs[A].machine.view(CONN).unwrap().kind, crate::command::PathKind::Direct);
}

#[test]
fn a_peer_that_moves_to_another_network_is_followed_at_once() {
    let mut world = World::upgraded();
    world.busy();
    world.pass(ms(1_000));
    world.addrs[B] = vec![addr("192.0.2.77:5")];
    world.tell(B, Input::NetworkChanged);
    world.pass(ms(500));
    assert_eq!(world.uses(A), Some(direct("192.0.2.77:5")));
    let (at, place) = world.changes(A)[0];
    assert_eq!(place, direct("192.0.2.77:5"), "never by the relay");
    assert!(at <= 1_060, "heard after 10 ms, proven after two round trips more: {at}");
    assert_eq!(world.uses(B), Some(direct("203.0.113.1:1")));
}

#[test]
fn a_forgotten_mapping_is_found_again_by_the_peers_own_packets() {
    let mut world = World::upgraded();
    world.busy();
    world.pass(ms(1_000));
    world.addrs[B] = vec![addr("198.51.100.2:9")];
    world.pass(ms(2_000));
    let changes = world.changes(A);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0].1, direct("198.51.100.2:9"));
    assert!(changes[0].0 <= 1_080, "{changes:?}");
    assert_eq!(world.changes(B), [], "B sees nothing of it");
}

#[test]
fn who_moves_while_the_old_way_works_is_not_followed() {
    let mut world = World::upgraded();
    world.addrs[A].push(addr("[2001:db8::1]:1"));
    world.addrs[B].push(addr("[2001:db8::2]:2"));
    world.busy();
    world.pass(ms(1_000));
    world.tell(A, Input::Moved { conn: CONN, place: direct("[2001:db8::2]:2"), bytes: 1_200 });
    world.busy = false;
    world.pass(ms(1_000));
    assert_eq!(world.uses(A), Some(direct("198.51.100.2:2")), "the two ends may use different ways");
    assert!(world.tried(A).contains(&"[2001:db8::2]:2: works".to_owned()));
}

#[test]
fn the_standby_relay_takes_over_and_without_any_place_the_node_decides() {
    let mut world = World::relayed();
    world.tell(A, Input::Places { conn: CONN, places: vec![by(RELAY), by(STANDBY)] });
    world.log.clear();
    world.tell(A, Input::Down(RELAY));
    assert_eq!(world.changes(A), [], "that was no connection of this machine");
    world.tell(A, Input::Gone(by(RELAY)));
    assert_eq!(world.changes(A), [(0, by(STANDBY))]);
    assert!(
        world.was_told(A, &Output::Use { conn: CONN, place: by(STANDBY), nudge: true, downgrade: false })
    );
    world.tell(A, Input::Gone(by(STANDBY)));
    assert!(world.was_told(A, &Output::Lost(CONN)));
    assert_eq!(world.uses(A), None);
    assert_eq!(world.rigs[A].machine.view(CONN).unwrap().place, "none");
    world.tell(A, Input::Places { conn: CONN, places: vec![by(ConnId(92))] });
    assert_eq!(world.uses(A), Some(by(ConnId(92))));
}

#[test]
fn a_relay_that_only_falls_silent_is_left_too() {
    let mut world = World::relayed();
    for side in [A, B] {
        world.tell(side, Input::Places { conn: CONN, places: vec![by(RELAY), by(STANDBY)] });
    }
    world.busy();
    world.pass(ms(1_000));
    world.mute.insert(RELAY);
    world.pass(ms(2_000));
    for side in [A, B] {
        let changes = world.changes(side);
        assert_eq!(changes.iter().map(|(_, p)| *p).collect::<Vec<_>>(), [by(STANDBY)], "{changes:?}");
        assert!(changes[0].0 <= 1_400);
    }
}

#[test]
fn a_fifth_of_all_probes_lost_changes_nothing_on_an_idle_way() {
    let mut world = World::upgraded();
    world.probe_loss_ppm = 200_000;
    world.pass(Duration::from_secs(4 * 3_600));
    assert_eq!((world.changes(A), world.changes(B)), (vec![], vec![]));
}

#[test]
fn a_fifth_of_everything_lost_changes_nothing_on_a_busy_way() {
    let mut world = World::upgraded();
    (world.probe_loss_ppm, world.packet_loss_ppm) = (200_000, 200_000);
    world.busy();
    world.pass(Duration::from_secs(900));
    assert_eq!((world.changes(A), world.changes(B)), (vec![], vec![]));
}

#[test]
fn a_way_that_comes_and_goes_is_returned_to_ever_more_seldom() {
    let mut world = World::upgraded();
    world.busy();
    for _ in 0..60 {
        world.pass(ms(2_000));
        world.dead.extend([addr("198.51.100.2:2"), addr("203.0.113.1:1")]);
        world.pass(ms(3_000));
        world.dead.clear();
    }
    let changes = world.changes(A).len();
    assert!((2..=24).contains(&changes), "{changes} changes in 60 outages");
}

#[test]
fn the_local_network_is_preferred_although_it_is_hardly_faster() {
    let mut world = World::upgraded();
    world.addrs[A].push(addr("192.168.1.1:1"));
    world.addrs[B].push(addr("192.168.1.2:2"));
    world.delays.extend([(addr("192.168.1.1:1"), ms(9)), (addr("192.168.1.2:2"), ms(9))]);
    world.probe_at(A, "192.168.1.2:2");
    world.pass(Duration::from_secs(10));
    assert_eq!(world.uses(A), Some(direct("192.168.1.2:2")));
    assert_eq!(world.uses(B), Some(direct("192.168.1.1:1")));
    assert_eq!(world.changes(A).len(), 1);
}

#[test]
fn a_way_that_is_a_little_faster_is_kept_warm_and_not_taken() {
    let mut world = World::upgraded();
    world.addrs[A].push(addr("[2001:db8::1]:1"));
    world.addrs[B].push(addr("[2001:db8::2]:2"));
    world.probe_at(A, "[2001:db8::2]:2");
    world.pass(Duration::from_secs(600));
    assert_eq!(world.changes(A), []);
    let pings = |at: u64| {
        let within = |t: Instant| t >= Instant::from_millis(at) && t < Instant::from_millis(at + 60_000);
        let to = addr("[2001:db8::2]:2");
        let sent = |(t, side, o): &&(Instant, usize, Output)| {
            let is_ping = |bytes: &Bytes| matches!(keys(B).open(bytes), Ok(Probe::Ping { .. }));
            let sent = matches!(o, Output::Send { to: target, bytes, .. } if *target == to && is_ping(bytes));
            *side == A && within(*t) && sent
        };
        world.log.iter().filter(sent).count()
    };
    assert_eq!(pings(500_000), 4, "one in 15 s");
}
