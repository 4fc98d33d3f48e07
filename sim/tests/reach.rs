//! Peers behind translators, with the real core: reached through a relay at once, directly as soon as a hole is punched.

use remote_network_core::command::{Command, PathKind, PeerState, PeerView, Reply};
use remote_network_core::id::{DhtId, Keypair, PeerName, PublicKey};
use remote_network_core::node::NodeConfig;
use remote_network_sim::dht::DhtSpec;
use remote_network_sim::disk::DiskSpec;
use remote_network_sim::engine::EngineSpec;
use remote_network_sim::host::Clock;
use remote_network_sim::nat::Kind;
use remote_network_sim::net::{HostId, INTERNET, Quality, Site};
use remote_network_sim::world::{HostSpec, Said, Step, World};

const MS_NS: u64 = 1_000_000;

struct Stage {
    world: World,
    a: HostId,
    b: HostId,
    keys: Vec<PublicKey>,
}

fn add(world: &mut World, n: u8, kind: Kind, relay: bool) -> (HostId, PublicKey) {
    let keypair = Keypair::from_seed(&[n; 32]);
    let key = keypair.public();
    let v4 = world.net.add_chain(INTERNET, 0, &kind.chain());
    let v6 = kind.chain6().map(|chain| world.net.add_chain(INTERNET, 0, &chain));
    // The two share no topic, so that they do not meet before they are told to.
    let topics = if relay { vec![DhtId([3; 20]), DhtId([4; 20])] } else { vec![DhtId([n; 20])] };
    let config = NodeConfig { topics, public: relay, relay, ..NodeConfig::new(keypair) };
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
        let mut keys = Vec::new();
        for (n, kind, relay) in
            [(1, Kind::Open, true), (2, Kind::Open, true), (3, kinds[0], false), (4, kinds[1], false)]
        {
            let (id, key) = add(&mut world, n, kind, relay);
            world.start(id);
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

#[test]
fn two_homes_meet_through_a_relay_and_then_directly() {
    for kinds in [
        [Kind::PortRestricted, Kind::PortRestricted],
        [Kind::FullCone, Kind::PortRestricted],
        [Kind::SymmetricRandom, Kind::PortRestricted],
        [Kind::PortRestricted, Kind::SymmetricRandom],
        [Kind::SymmetricSequential, Kind::PortRestricted],
        [Kind::SymmetricSequential, Kind::SymmetricSequential],
        [Kind::SymmetricRandom, Kind::SymmetricRandom],
        [Kind::Ipv6, Kind::Ipv6],
        [Kind::OutboundOnly, Kind::PortRestricted],
        [Kind::DoubleNat, Kind::PortRestricted],
    ] {
        let mut stage = Stage::new(1, kinds);
        let (up, direct) = stage.connect(20_000);
        println!("{kinds:?}: up {up:?} direct {direct:?}");
        let path = stage.view().map(|v| (v.state, v.path, v.trouble));
        if direct.is_none() {
            println!("   {path:?}");
            for id in [stage.a, stage.b] {
                stage.world.command(id, Command::Status);
                for said in stage.run(1) {
                    if let Said::Reply(_, _, Reply::Status(s)) = said {
                        println!("   {:?}\n    {:?} {:?}", s.reach, s.refused, s.record_waiting);
                    }
                }
            }
        }
    }
}
