//! Peers behind translators, with the real core: reached through a relay at once, directly as soon as a hole is punched.

use remote_network_core::command::{Command, PathKind, PeerState, PeerView, Reply};
use remote_network_core::id::{DhtId, Keypair, PeerName, PublicKey};
use remote_network_core::node::NodeConfig;
use remote_network_sim::dht::DhtSpec;
use remote_network_sim::disk::DiskSpec;
use remote_network_sim::engine::EngineSpec;
use remote_network_sim::host::Clock;
use remote_network_sim::matrix::{MatrixSpec, Pairing, run};
use remote_network_sim::nat::{BoxSpec, Dependence, Kind, NatSpec};
use remote_network_sim::net::{HostId, INTERNET, Quality, Site};
use remote_network_sim::world::{HostSpec, Said, Step, World};
use std::net::SocketAddr;

const MS_NS: u64 = 1_000_000;

struct Stage {
    world: World,
    a: HostId,
    b: HostId,
    keys: Vec<PublicKey>,
}

fn add(
    world: &mut World,
    n: u8,
    kind: Kind,
    relay: bool,
    relays: &[(PublicKey, SocketAddr)],
) -> (HostId, PublicKey) {
    add_behind(world, n, (&kind.chain(), kind.chain6().as_deref()), relay, relays)
}

/// The same behind any boxes towards the IPv4 Internet, and the IPv6 one if there is any.
fn add_behind(
    world: &mut World,
    n: u8,
    (chain, chain6): (&[BoxSpec], Option<&[BoxSpec]>),
    relay: bool,
    relays: &[(PublicKey, SocketAddr)],
) -> (HostId, PublicKey) {
    let keypair = Keypair::from_seed(&[n; 32]);
    let key = keypair.public();
    let v4 = world.net.add_chain(INTERNET, 0, chain);
    let v6 = chain6.map(|chain| world.net.add_chain(INTERNET, 0, chain));
    // The two share no topic, so that they do not meet before they are told to.
    let topics = if relay { vec![DhtId([3; 20]), DhtId([4; 20])] } else { vec![DhtId([n; 20])] };
    let config =
        NodeConfig { topics, public: relay, relay, relays: relays.to_vec(), ..NodeConfig::new(keypair) };
    let spec = HostSpec {
        config,
        real_tls: false,
        region: 0,
        quality: Quality::default(),
        clock: Clock::default(),
        disk: DiskSpec::default(),
        engine: EngineSpec::default(),
    };
    let id = world.add_at(spec, Site { v4, v6 });
    if relay && let Some(address) = world.net.address(id) {
        world.hosts[id as usize].config.public_addrs = vec![address];
    }
    (id, key)
}

impl Stage {
    /// Two relays, `a` and `b` behind boxes of these kinds, up for half a minute.
    fn new(seed: u64, kinds: [Kind; 2]) -> Self {
        let mut world: World = World::new(seed, DhtSpec::default());
        let (mut keys, mut relays) = (Vec::new(), Vec::new());
        for (n, kind, relay) in
            [(1, Kind::Open, true), (2, Kind::Open, true), (3, kinds[0], false), (4, kinds[1], false)]
        {
            let (id, key) = add(&mut world, n, kind, relay, &relays);
            world.start(id);
            // As somebody would write it into the configuration: without UDP the DHT tells nobody.
            relays.extend(world.net.address(id).filter(|_| relay).map(|addr| (key, addr)));
            keys.push(key);
        }
        let mut stage = Self { world, a: 2, b: 3, keys };
        stage.run(30_000);
        stage
    }

    fn key(&self, id: HostId) -> PublicKey {
        self.keys[id as usize]
    }

    fn run(&mut self, ms: u64) -> Vec<Said> {
        let until = self.world.now_ns() + ms * MS_NS;
        self.world.mark(until, 1);
        while let Some(step) = self.world.step() {
            if step == Step::Mark(1) {
                break;
            }
        }
        self.world.take_said().collect()
    }

    /// How `a` sees `b`.
    fn view(&mut self) -> Option<PeerView> {
        let (a, peer) = (self.a, PeerName::Key(self.key(self.b)));
        self.world.command(a, Command::Peer(peer));
        self.run(1).into_iter().find_map(|said| match said {
            Said::Reply(_, _, Reply::Peer(view)) => Some(*view),
            _ => None,
        })
    }

    /// Lets `a` connect to `b`; when it was connected at all, and when directly, in milliseconds.
    fn connect(&mut self, for_ms: u64) -> (Option<u64>, Option<u64>) {
        let (a, peer) = (self.a, PeerName::Key(self.key(self.b)));
        self.world.command(a, Command::Connect { peer, addr: None });
        let begun = self.world.now_ns();
        let (mut up, mut direct) = (None, None);
        while self.world.now_ns() < begun + for_ms * MS_NS && direct.is_none() {
            self.run(20);
            let at = (self.world.now_ns() - begun) / MS_NS;
            let Some(view) = self.view().filter(|v| v.state == PeerState::Connected) else { continue };
            up.get_or_insert(at);
            if view.path.as_ref().is_none_or(|p| p.kind == PathKind::Direct) {
                direct = Some(at);
            }
        }
        (up, direct)
    }
}

/// Pairs that find a direct path, and those that cannot.
#[test]
fn peers_meet_through_a_relay_at_once_and_directly_where_that_is_possible() {
    use Kind::{DoubleNat, FullCone, Ipv6, OutboundOnly, PortRestricted, RestrictedCone};
    use Kind::{SymmetricRandom, SymmetricSequential};
    for (a, b, possible) in [
        (PortRestricted, PortRestricted, true),
        (FullCone, PortRestricted, true),
        (RestrictedCone, SymmetricRandom, true),
        (SymmetricRandom, PortRestricted, true),
        (PortRestricted, SymmetricRandom, true),
        (SymmetricSequential, PortRestricted, true),
        (SymmetricSequential, SymmetricSequential, true),
        (SymmetricRandom, SymmetricRandom, false),
        (Ipv6, Ipv6, true),
        (OutboundOnly, PortRestricted, true),
        (DoubleNat, PortRestricted, true),
    ] {
        let mut stage = Stage::new(1, [a, b]);
        let (up, direct) = stage.connect(12_000);
        assert!(up.is_some_and(|ms| ms <= 3_000), "{a:?} {b:?}: connected after {up:?} ms");
        assert_eq!(direct.is_some(), possible, "{a:?} {b:?}: {:?}", stage.view().map(|v| v.path));
    }
}

/// Whether the connection is the one of `before`, and lives: something that was sent is acknowledged.
fn goes_on(stage: &mut Stage, before: &PeerView, kind: PathKind) -> Option<u64> {
    let begun = stage.world.now_ns();
    let was_since = before.path.as_ref().map(|p| p.since);
    for _ in 0..100 {
        stage.run(100);
        let Some(view) = stage.view() else { continue };
        assert_eq!(view.since, before.since, "the connection is another one: {view:?}");
        if view.path.as_ref().is_some_and(|p| p.kind == kind && Some(p.since) > was_since) {
            return Some((stage.world.now_ns() - begun) / MS_NS);
        }
    }
    None
}

#[test]
fn a_relayed_connection_outlives_its_relay() {
    let mut stage = Stage::new(2, [Kind::SymmetricRandom, Kind::SymmetricRandom]);
    let (up, _) = stage.connect(12_000);
    assert!(up.is_some());
    let before = stage.view().expect("connected");
    // The relay in use is the one that both hold as active: the first.
    stage.world.crash(0);
    let after = goes_on(&mut stage, &before, PathKind::Relayed);
    assert!(after.is_some_and(|ms| ms <= 10_000), "{after:?}: {:?}", stage.view());
}

#[test]
fn a_direct_connection_outlives_the_restart_of_a_router_and_a_move_to_another_network() {
    for moves in [false, true] {
        let mut stage = Stage::new(3, [Kind::PortRestricted, Kind::PortRestricted]);
        let (_, direct) = stage.connect(12_000);
        assert!(direct.is_some());
        stage.run(5_000);
        let before = stage.view().expect("connected");
        let site = stage.world.net.site(stage.b).expect("a host");
        if moves {
            let v4 = stage.world.net.add_chain(INTERNET, 1, &Kind::PortRestricted.chain());
            stage.world.roam(stage.b, Site { v4, v6: None });
        } else {
            stage.world.net.reboot_box(site.v4);
        }
        stage.run(15_000);
        let view = stage.view();
        let view = view.expect("known");
        assert_eq!((view.state, view.since), (PeerState::Connected, before.since), "{view:?}");
        assert!(view.path.as_ref().is_some_and(|p| p.kind == PathKind::Direct), "{view:?}");
    }
}

/// Whether there is a connection: one on which nobody had anything to say for a minute is idle, and none the worse.
fn is_up(state: PeerState) -> bool {
    matches!(state, PeerState::Connected | PeerState::Idle)
}

/// The way by which `a` reaches the peer with this number.
fn path_to(stage: &mut Stage, peer: u8) -> Option<PathKind> {
    let (a, peer) = (stage.a, PeerName::Key(stage.keys[usize::from(peer)]));
    stage.world.command(a, Command::Peer(peer));
    stage.run(1).into_iter().find_map(|said| match said {
        Said::Reply(_, _, Reply::Peer(view)) if is_up(view.state) => {
            view.path.map(|p| p.kind).or(Some(PathKind::Direct))
        }
        _ => None,
    })
}

/// Whether `a` is connected to relays, and to all of them in that way.
fn relays_by(stage: &mut Stage, kind: PathKind) -> bool {
    let paths = [path_to(stage, 0), path_to(stage, 1)];
    paths.iter().any(Option::is_some) && paths.iter().flatten().all(|path| *path == kind)
}

#[test]
fn where_udp_does_not_get_through_relays_are_reached_over_tcp() {
    let mut stage = Stage::new(4, [Kind::UdpBlocked, Kind::PortRestricted]);
    stage.run(10_000);
    assert!(relays_by(&mut stage, PathKind::Tunnelled));
    let (up, direct) = stage.connect(6_000);
    assert!(up.is_some_and(|ms| ms <= 3_000) && direct.is_none(), "{up:?} {direct:?}");
    let view = stage.view().expect("connected");
    assert!(view.path.as_ref().is_some_and(|p| p.kind == PathKind::Relayed), "{view:?}");
}

#[test]
fn who_has_no_udp_is_found_by_key_because_a_relay_runs_its_errands() {
    // The other way round: whoever dials learns of the relay from the record of the one without UDP.
    let mut stage = Stage::new(6, [Kind::PortRestricted, Kind::UdpBlocked]);
    stage.run(10_000);
    let (up, direct) = stage.connect(6_000);
    assert!(up.is_some_and(|ms| ms <= 3_000) && direct.is_none(), "{up:?} {direct:?}");
}

#[test]
fn a_firewall_that_shuts_and_opens_again_ends_no_connection() {
    let mut stage = Stage::new(5, [Kind::PortRestricted, Kind::PortRestricted]);
    let (_, direct) = stage.connect(12_000);
    assert!(direct.is_some());
    let before = stage.view().expect("connected");
    let site = stage.world.net.site(stage.a).expect("a host");
    stage.world.net.block_udp(site.v4, true);
    stage.run(20_000);
    assert!(relays_by(&mut stage, PathKind::Tunnelled));
    let view = stage.view().expect("known");
    assert_eq!((view.state, view.since), (PeerState::Connected, before.since), "{view:?}");
    assert!(view.path.as_ref().is_some_and(|p| p.kind == PathKind::Relayed), "{view:?}");

    // By UDP again, and directly.
    stage.world.net.block_udp(site.v4, false);
    stage.run(180_000);
    assert!(relays_by(&mut stage, PathKind::Direct));
    let view = stage.view().expect("known");
    assert!(is_up(view.state) && view.since == before.since, "{view:?}");
    assert!(view.path.as_ref().is_some_and(|p| p.kind == PathKind::Direct), "{view:?}");
}

/// How a host is reached, in its own words.
fn nat_words(world: &mut World, host: HostId) -> String {
    world.command(host, Command::Status);
    let until = world.now_ns() + MS_NS;
    world.mark(until, 1);
    while world.step().is_some_and(|step| step != Step::Mark(1)) {}
    let said: Vec<Said> = world.take_said().collect();
    let status = said.into_iter().find_map(|said| match said {
        Said::Reply(id, _, Reply::Status(view)) if id == host => Some(view.reach.nat_words),
        _ => None,
    });
    status.expect("a running node answers")
}

#[test]
fn mappings_are_kept_alive_at_half_of_the_lifetime_that_is_measured() {
    let mut world: World = World::new(7, DhtSpec::default());
    let mut relays = Vec::new();
    let boxes = |filtering, lifetime_s: u32| {
        vec![BoxSpec::Nat(NatSpec { filtering, lifetime_ms: lifetime_s * 1_000, ..NatSpec::default() })]
    };
    let (strict, lax) = (Dependence::AddressAndPort, Dependence::Address);
    for (n, chain) in
        [(1, vec![]), (2, vec![]), (3, boxes(strict, 45)), (4, boxes(lax, 90)), (5, boxes(strict, 300))]
    {
        let relay = chain.is_empty();
        let (id, key) = add_behind(&mut world, n, (&chain, None), relay, &relays);
        world.start(id);
        relays.extend(world.net.address(id).filter(|_| relay).map(|addr| (key, addr)));
    }
    world.mark(600_000 * MS_NS, 1);
    while world.step().is_some_and(|step| step != Step::Mark(1)) {}
    // Half of it is the keep-alive: 15 s, 30 s and 60 s.
    for (host, lives, filters) in [
        (2, "mappings live 30 s", "filtering address- and port-dependent"),
        (3, "mappings live 60 s", "filtering address-dependent"),
        (4, "mappings live 120 s", "filtering address- and port-dependent"),
    ] {
        let words = nat_words(&mut world, host);
        assert!(words.contains(lives) && words.contains(filters), "host {host}: {words}");
    }
}

/// What the whole matrix must show; `remote-network simulate nat-matrix` plays more worlds of it.
#[test]
fn every_kind_of_nat_meets_every_other_directly_where_that_is_possible() {
    let report = run(&MatrixSpec { pairs: Pairing::all(), seeds: 3, seed: 1 }, |_| {});
    assert!(report.possible_direct_rate >= 0.99 && report.first_try_rate >= 0.97, "{report}");
    assert_eq!((report.false_connected, report.connected_rate), (0, 1.0), "{report}");
    assert!(report.upgrade_median_ms <= report.allowed_median_ms, "{report}");
    for pair in report.pairs.iter().filter(|p| p.possible) {
        assert!(pair.direct_in_10_s >= 0.66, "{pair}");
    }
}
