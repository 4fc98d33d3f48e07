//! A small world with relays, good and bad, and peers behind boxes.

use remote_network_core::command::{Command, CommandError, Notice, PeerState, Reply};
use remote_network_core::id::{DhtId, Digest, Keypair, PublicKey};
use remote_network_core::node::NodeConfig;
use remote_network_sim::depot::Formula;
use remote_network_sim::dht::DhtSpec;
use remote_network_sim::disk::DiskSpec;
use remote_network_sim::draw::Draw;
use remote_network_sim::engine::EngineSpec;
use remote_network_sim::evil::cast::Cast;
use remote_network_sim::evil::{Malice, Mischief};
use remote_network_sim::host::Clock;
use remote_network_sim::nat::{BoxSpec, Kind, NatSpec};
use remote_network_sim::net::{HostId, INTERNET, Quality, Site};
use remote_network_sim::world::{HostSpec, Said, Step, World};
use std::collections::BTreeSet;
use std::time::Duration;

pub const MS_NS: u64 = 1_000_000;
/// Longer than any world here lives.
const SELDOM: Duration = Duration::from_secs(86_400);

/// Who takes part.
#[derive(Clone, Copy)]
pub struct Part {
    pub kind: Kind,
    pub relay: bool,
    pub malice: Option<Malice>,
    /// Its record tells where others see it, and nothing that is configured.
    pub tells: bool,
    /// Its translator, instead of what its kind has.
    pub nat: Option<NatSpec>,
}

pub const fn peer(kind: Kind) -> Part {
    Part { kind, relay: false, malice: None, tells: false, nat: None }
}

pub const fn relay(malice: Option<Malice>) -> Part {
    Part { kind: Kind::Open, relay: true, malice, tells: false, nat: None }
}

/// What became of a transfer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Done,
    Failed(CommandError),
    Unanswered,
}

pub struct Stage {
    pub world: World<Cast>,
    pub keys: Vec<PublicKey>,
    /// Who ever said that it is connected to whom.
    pub claims: BTreeSet<(PublicKey, PublicKey)>,
    seed: u64,
}

/// Peers share no topic, so that they do not meet before they are told to; relays have those of all.
fn topic(n: usize) -> DhtId {
    DhtId([n as u8 + 1; 20])
}

impl Stage {
    /// All parts up for half a minute, private peers with reservations at two relays, or at the one there is.
    pub fn new(seed: u64, real_tls: bool, parts: &[Part]) -> Self {
        let relays = parts.iter().filter(|p| p.relay).count().min(2);
        Self::with_reservations(seed, real_tls, parts, relays)
    }

    /// The same, with so many reservations.
    pub fn with_reservations(seed: u64, real_tls: bool, parts: &[Part], wanted: usize) -> Self {
        let mut world: World<Cast> = World::new(seed, DhtSpec::PERFECT);
        let mut keys = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            let keypair = Keypair::from_seed(&Draw::derive(seed, "key", n as u64).seed());
            keys.push(keypair.public());
            let others = parts.iter().enumerate().filter(|(_, p)| !p.relay).map(|(n, _)| topic(n));
            let topics = if part.relay { others.take(8).collect() } else { vec![topic(n)] };
            let public = matches!(part.kind, Kind::Open);
            let config = NodeConfig {
                topics,
                public,
                relay: part.relay,
                publish_private: part.tells,
                ..NodeConfig::new(keypair)
            };
            let v4 = world.net.add_chain(
                INTERNET,
                0,
                &part.nat.map_or_else(|| part.kind.chain(), |nat| vec![BoxSpec::Nat(nat)]),
            );
            let spec = HostSpec {
                config,
                real_tls,
                region: 0,
                quality: Quality::default(),
                clock: Clock::default(),
                disk: DiskSpec::default(),
                engine: EngineSpec::default(),
            };
            let id = world.add_at(spec, Site { v4, v6: None });
            let host = &mut world.hosts[id as usize];
            host.mischief = part.malice.map(|m| Mischief::new(m, Draw::derive(seed, "malice", n as u64)));
            host.config.public_addrs =
                world.net.public_address(id).filter(|_| public && !part.tells).into_iter().collect();
        }
        // Who relays must be dialled before it dials: only that proves that it can be reached.
        let known = |n: usize| Some((*keys.get(n)?, world.net.public_address(n as HostId)?));
        let relays: Vec<_> = (0..parts.len()).filter(|n| parts[*n].relay).filter_map(known).collect();
        for (host, part) in world.hosts.iter_mut().zip(parts) {
            match part.relay {
                true => host.config.discover_every = SELDOM,
                false => host.config.relays.clone_from(&relays),
            }
        }
        let mut stage = Self { world, keys, claims: BTreeSet::new(), seed };
        for relays in [true, false] {
            let starts = |n: &usize| parts[*n].relay == relays;
            (0..parts.len()).filter(starts).for_each(|n| stage.world.start(n as HostId));
            stage.run(5_000);
        }
        let private = |n: &usize| !matches!(parts[*n].kind, Kind::Open);
        for n in (0..parts.len()).filter(private) {
            stage.await_reservations(n as HostId, wanted);
        }
        stage.run(5_000);
        stage
    }

    /// Until a private peer holds so many reservations.
    fn await_reservations(&mut self, id: HostId, relays: usize) {
        for _ in 0..300 {
            if self.reservations(id) >= relays {
                return;
            }
            self.run(1_000);
        }
        panic!("seed {}: host {id} has no {relays} reservations after five minutes", self.seed);
    }

    fn reservations(&mut self, id: HostId) -> usize {
        match self.ask(id, Command::Status, 1_000) {
            Some(Reply::Status(status)) => status.reach.relays.len(),
            other => panic!("{other:?}"),
        }
    }

    pub fn mischief(&self, id: HostId) -> &Mischief {
        self.world.hosts[id as usize].mischief.as_ref().expect("malicious")
    }

    pub fn run(&mut self, ms: u64) -> Vec<Said> {
        let until = self.world.now_ns() + ms * MS_NS;
        self.world.mark(until, 1);
        while self.world.step().is_some_and(|step| step != Step::Mark(1)) {}
        let said: Vec<Said> = self.world.take_said().collect();
        for said in &said {
            if let Said::Notice(host, Notice::Peer(view)) = said
                && matches!(view.state, PeerState::Connected | PeerState::Idle | PeerState::Stale)
            {
                self.claims.insert((self.keys[*host as usize], view.key));
            }
        }
        said
    }

    /// The answer to a command, if it comes in time.
    pub fn ask(&mut self, host: HostId, command: Command, for_ms: u64) -> Option<Reply> {
        let id = self.world.command(host, command)?;
        let until = self.world.now_ns() + for_ms * MS_NS;
        while self.world.now_ns() < until {
            let answer = self.run(100).into_iter().find_map(|said| match said {
                Said::Reply(_, of, reply) if of == id => Some(reply),
                _ => None,
            });
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// An object of this test.
    pub fn object(&self, bytes: u64) -> Formula {
        let key = Digest::in_domain("sim/evil", &[&self.seed.to_le_bytes()]);
        Formula { key: key.0, from: 0, len: bytes }
    }

    /// `to` fetches an object from `from`. Whatever comes of it, no other bytes are there in the end.
    pub fn transfer(&mut self, from: HostId, to: HostId, bytes: u64, for_ms: u64) -> Outcome {
        let object = self.object(bytes);
        let (digest, info) =
            self.world.hosts[from as usize].disk.blobs.put_formula(object).expect("there is room");
        let (owner, consumer) = (self.keys[from as usize], self.keys[to as usize]);
        let share = Command::Share { digest, consumer, valid: Duration::from_secs(86_400) };
        let Some(Reply::Ticket(ticket)) = self.ask(from, share, 1_000) else { panic!("no permission") };
        let fetch = Command::Fetch { digest, len: info.len, from: owner, ticket };
        let outcome = match self.ask(to, fetch, for_ms) {
            None => Outcome::Unanswered,
            Some(Reply::Error(why)) => Outcome::Failed(why),
            Some(_) => Outcome::Done,
        };
        let there = self.world.hosts[to as usize].disk.blobs.get(&digest);
        match outcome {
            Outcome::Done => assert_eq!(there, Some(object.all()), "done, and other bytes or none"),
            Outcome::Failed(_) | Outcome::Unanswered => assert_eq!(there, None, "there, and not done"),
        }
        outcome
    }

    /// What an honest host has refused, by reason.
    pub fn refused(&mut self, id: HostId) -> Vec<(&'static str, u64)> {
        match self.ask(id, Command::Status, 1_000) {
            Some(Reply::Status(status)) => status.refused,
            other => panic!("{other:?}"),
        }
    }

    /// Nobody took anybody for somebody else: who is connected to a peer in the eyes of one is so in the other's.
    pub fn assert_identities(&self) {
        for (of, to) in &self.claims {
            assert!(
                self.claims.contains(&(*to, *of)),
                "{of:?} says it is connected to {to:?}, who never was"
            );
        }
    }
}
