//! Every kind of NAT against every other: who meets, how fast, and whether at the first try.
//!
//! For every pair of kinds and several seeds a small world of its own: two public hosts that relay and are configured as relays, `a`
//! and `b` behind their boxes. When all are up, `a` asks for a connection to `b` by its key alone. Watched are when there is a
//! connection at all and when its path is direct; whether it had to be is said by the oracle ([`crate::oracle`]), which
//! knows the boxes and nothing of the product.
//!
//! The population is another list of pairs: kinds drawn as often as in the field ([`crate::nat::POPULATION`]).

use crate::dht::DhtSpec;
use crate::disk::DiskSpec;
use crate::draw::Draw;
use crate::engine::EngineSpec;
use crate::host::{Clock, Core};
use crate::nat::Kind;
use crate::net::{HostId, Quality, REGION_LATENCY_US};
use crate::oracle::{direct_possible, plain_possible};
use crate::sites::{Attachment, NetworkPlan, Sites, Six, plan_kind};
use crate::world::{HostSpec, Said, World};
use remote_network_core::command::{Command, PeerState, PeerView, Reply};
use remote_network_core::id::{CommandId, DhtId, Keypair, PeerName, PublicKey};
use remote_network_core::node::{Node, NodeConfig};
use remote_network_core::transport::quic::QuicTransport;
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};
use std::fmt;

const MS_NS: u64 = 1_000_000;
/// `a` and `b` start when the public hosts are at home in the DHT.
const START_MS: u64 = 10_000;
/// `a` asks when all have found each other.
const ASK_MS: u64 = 70_000;
/// Whoever is not on a direct path by then never will be: longer than two stages of birthday probing take.
const WATCH_MS: u64 = 90_000;
/// How often the path is looked at.
const LOOK_MS: u64 = 20;
/// An answer that was an error is asked for again after this long.
const RETRY_MS: u64 = 1_000;

/// How a connection's packets go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// From host to host.
    Direct,
    /// Over somebody.
    Relayed,
}

/// What a node says of the path to a peer: the one place that knows how it says so. `None` while there is no connection.
pub fn path_of(view: &PeerView) -> Option<Seen> {
    let connected = match view.state {
        PeerState::Connected | PeerState::Idle | PeerState::Stale => true,
        PeerState::Connecting | PeerState::Closed => false,
    };
    match view.addr {
        Some(_) if connected => Some(Seen::Direct),
        None if connected => Some(Seen::Relayed),
        Some(_) | None => None,
    }
}

/// What `a` and `b` share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shared {
    /// Nothing but the Internet.
    Nothing,
    /// A carrier whose translator turns around what is for itself.
    CarrierHairpin,
    /// A carrier whose translator does not.
    Carrier,
    /// Their home.
    Home,
}

/// Two hosts to be joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pairing {
    /// Who asks.
    pub a: Kind,
    /// Who is asked for.
    pub b: Kind,
    /// What they share.
    pub shared: Shared,
}

impl Pairing {
    /// Its two names in reports.
    pub fn names(&self) -> (String, String) {
        let suffix = match self.shared {
            Shared::Nothing => "",
            Shared::CarrierHairpin => "@carrier-hairpin",
            Shared::Carrier => "@carrier",
            Shared::Home => "@home",
        };
        (format!("{}{suffix}", self.a.as_str()), format!("{}{suffix}", self.b.as_str()))
    }

    /// All pairs of kinds, whoever asks, and those who share something.
    pub fn all() -> Vec<Pairing> {
        let mut all = Vec::new();
        for (nth, a) in Kind::ALL.into_iter().enumerate() {
            all.extend(Kind::ALL.into_iter().skip(nth).map(|b| Pairing { a, b, shared: Shared::Nothing }));
        }
        for shared in [Shared::CarrierHairpin, Shared::Carrier] {
            for (a, b) in [
                (Kind::PortRestricted, Kind::PortRestricted),
                (Kind::PortRestricted, Kind::SymmetricRandom),
                (Kind::FullCone, Kind::PortRestricted),
            ] {
                all.push(Pairing { a, b, shared });
            }
        }
        all.extend([Kind::PortRestricted, Kind::SymmetricRandom].map(|a| Pairing {
            a,
            b: a,
            shared: Shared::Home,
        }));
        all
    }

    /// Pairs as the population has them.
    pub fn population(count: u32, seed: u64) -> Vec<Pairing> {
        let mut draw = Draw::derive(seed, "population", 0);
        (0..count)
            .map(|_| Pairing { a: Kind::draw(&mut draw), b: Kind::draw(&mut draw), shared: Shared::Nothing })
            .collect()
    }

    fn plan(&self, regions: [u8; 2]) -> (Vec<NetworkPlan>, [Attachment; 2]) {
        let mut networks = Vec::new();
        let hairpin = match self.shared {
            Shared::CarrierHairpin => Some(true),
            Shared::Carrier => Some(false),
            Shared::Nothing | Shared::Home => None,
        };
        let outer = hairpin.map(|hairpin| {
            let boxes = vec![Kind::carrier(hairpin)];
            networks.push(NetworkPlan { outer: None, region: regions[0], boxes });
            0
        });
        let a = plan_kind(&mut networks, self.a, outer, regions[0]);
        let b = match self.shared {
            Shared::Home => a,
            Shared::Nothing | Shared::Carrier | Shared::CarrierHairpin => {
                plan_kind(&mut networks, self.b, outer, regions[1])
            }
        };
        (networks, [a, b])
    }
}

/// What to try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MatrixSpec {
    /// Whom to join.
    pub pairs: Vec<Pairing>,
    /// Worlds for each pair.
    pub seeds: u32,
    /// Everything random follows from it.
    pub seed: u64,
}

/// What became of one pair in one world.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// By the oracle.
    pub possible: bool,
    /// Without any guess, by the oracle.
    pub plain: bool,
    /// Until there was a connection.
    pub connected_ms: Option<u64>,
    /// Until its path was direct.
    pub direct_ms: Option<u64>,
    /// The round trip while it was relayed, and of the direct path, in microseconds, as `a` measured them.
    pub relayed_rtt_us: Option<u64>,
    /// The same of the direct path.
    pub direct_rtt_us: Option<u64>,
    /// Nothing that `a` tried before had come to nothing: the first attempt of the first round punched, or none was needed.
    pub first_try: bool,
}

impl Outcome {
    /// From the connection to the direct path.
    fn upgrade_ms(&self) -> Option<u64> {
        Some(self.direct_ms? - self.connected_ms?)
    }

    /// Two round trips of the relayed path and one of the direct one: an exchange, a signal, and a probe that is answered.
    fn allowed_ms(&self) -> Option<u64> {
        Some((2 * self.relayed_rtt_us? + self.direct_rtt_us?) / 1_000)
    }
}

/// A pair in the report. Rates are fractions.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PairReport {
    /// Who asks.
    pub a: String,
    /// Who is asked for.
    pub b: String,
    /// Whether a direct path is possible, by the oracle.
    pub possible: bool,
    /// Worlds.
    pub worlds: u32,
    /// Of these, those with a connection, relayed or direct.
    pub connected: f64,
    /// Of these, those with a direct path.
    pub direct: f64,
    /// Of those with a direct path, those that had it at the first try.
    pub first_try: f64,
    /// Of the worlds, those with a direct path within ten seconds of the question.
    pub direct_in_10_s: f64,
    /// Median time from the question to the direct path.
    pub median_ms: Option<u64>,
    /// Median time from the question to the connection.
    pub connected_median_ms: Option<u64>,
    /// Median time from the connection to the direct path, of those that were relayed first.
    pub upgrade_median_ms: Option<u64>,
    /// Of these, the median of two relayed round trips and a direct one.
    pub allowed_median_ms: Option<u64>,
}

/// The whole report. Rates are fractions.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MatrixReport {
    /// By pair, in order.
    pub pairs: Vec<PairReport>,
    /// Of the worlds in which a direct path was possible, those that had one.
    pub possible_direct_rate: f64,
    /// Of those with a direct path, those at the first try.
    pub first_try_rate: f64,
    /// Of all worlds, those that had a direct path.
    pub direct_rate: f64,
    /// Of all worlds, those that had a connection.
    pub connected_rate: f64,
    /// Of all worlds, those in which a direct path was possible.
    pub possible_rate: f64,
    /// Of all worlds, those in which punching without any guess would do.
    pub plain_rate: f64,
    /// Median time from a relayed connection to its direct path, and of what two relayed round trips and a direct one take, in
    /// worlds where `plain` punching would do.
    pub upgrade_median_ms: Option<u64>,
    /// The latter.
    pub allowed_median_ms: Option<u64>,
    /// Worlds in which a node said that it has a direct path where there can be none.
    pub false_connected: u32,
}

/// Plays all worlds. `told` hears of each pair as soon as it is done.
pub fn run(spec: &MatrixSpec, mut told: impl FnMut(&PairReport)) -> MatrixReport {
    let (mut pairs, mut all): (Vec<PairReport>, Vec<Outcome>) = Default::default();
    for (nth, pairing) in spec.pairs.iter().enumerate() {
        let outcomes: Vec<Outcome> = (0..spec.seeds)
            .map(|world| {
                let mut draw = Draw::derive(spec.seed, "matrix", (nth as u64) << 32 | u64::from(world));
                play::<Node<QuicTransport>>(*pairing, draw.next_u64())
            })
            .collect();
        let report = report_of(*pairing, &outcomes);
        told(&report);
        pairs.push(report);
        all.extend(outcomes);
    }
    summary(pairs, &all)
}

fn median(mut times: Vec<u64>) -> Option<u64> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

fn is_first_try(outcome: &Outcome) -> bool {
    outcome.direct_ms.is_some() && outcome.first_try
}

fn count(outcomes: &[Outcome], what: impl Fn(&Outcome) -> bool) -> u32 {
    outcomes.iter().filter(|o| what(o)).count() as u32
}

/// The part of a whole; nothing of nothing.
fn rate(part: u32, of: u32) -> f64 {
    if of == 0 { 0.0 } else { f64::from(part) / f64::from(of) }
}

/// How long the way from relayed to direct took, and may take.
fn upgraded(outcome: &Outcome) -> Option<(u64, u64)> {
    Some((outcome.upgrade_ms()?, outcome.allowed_ms()?))
}

fn report_of(pairing: Pairing, outcomes: &[Outcome]) -> PairReport {
    let (a, b) = pairing.names();
    let worlds = outcomes.len() as u32;
    let direct = count(outcomes, |o| o.direct_ms.is_some());
    PairReport {
        a,
        b,
        possible: outcomes.iter().any(|o| o.possible),
        worlds,
        connected: rate(count(outcomes, |o| o.connected_ms.is_some()), worlds),
        direct: rate(direct, worlds),
        first_try: rate(count(outcomes, is_first_try), direct),
        direct_in_10_s: rate(count(outcomes, |o| o.direct_ms.is_some_and(|ms| ms <= 10_000)), worlds),
        median_ms: median(outcomes.iter().filter_map(|o| o.direct_ms).collect()),
        connected_median_ms: median(outcomes.iter().filter_map(|o| o.connected_ms).collect()),
        upgrade_median_ms: median(outcomes.iter().filter_map(upgraded).map(|(ms, _)| ms).collect()),
        allowed_median_ms: median(outcomes.iter().filter_map(upgraded).map(|(_, ms)| ms).collect()),
    }
}

fn summary(pairs: Vec<PairReport>, all: &[Outcome]) -> MatrixReport {
    let worlds = all.len() as u32;
    let possible = count(all, |o| o.possible);
    let direct = count(all, |o| o.direct_ms.is_some());
    let plain: Vec<(u64, u64)> = all.iter().filter(|o| o.plain).filter_map(upgraded).collect();
    MatrixReport {
        pairs,
        possible_direct_rate: rate(count(all, |o| o.possible && o.direct_ms.is_some()), possible),
        first_try_rate: rate(count(all, is_first_try), direct),
        direct_rate: rate(direct, worlds),
        connected_rate: rate(count(all, |o| o.connected_ms.is_some()), worlds),
        possible_rate: rate(possible, worlds),
        plain_rate: rate(count(all, |o| o.plain), worlds),
        upgrade_median_ms: median(plain.iter().map(|(ms, _)| *ms).collect()),
        allowed_median_ms: median(plain.iter().map(|(_, ms)| *ms).collect()),
        false_connected: count(all, |o| !o.possible && o.direct_ms.is_some()),
    }
}

// ------------------------------------------------------------------------------------ one world

/// Public hosts, by number; `a` and `b` come after them.
const PUBLIC: HostId = 2;
const A: HostId = PUBLIC;
const B: HostId = PUBLIC + 1;

struct Pair<C: Core> {
    world: World<C>,
    asked: Option<CommandId>,
    looks: Option<CommandId>,
    asked_ns: u64,
    outcome: Outcome,
    key: PublicKey,
}

/// Plays one world.
pub fn play<C: Core>(pairing: Pairing, seed: u64) -> Outcome {
    let mut pair = Pair::<C>::new(pairing, seed);
    (0..PUBLIC).for_each(|id| pair.world.start(id));
    pair.until(START_MS);
    [A, B].into_iter().for_each(|id| pair.world.start(id));
    pair.until(ASK_MS);
    pair.asked_ns = ASK_MS * MS_NS;
    let mut next_ask_ms = ASK_MS;
    for now_ms in (ASK_MS..ASK_MS + WATCH_MS).step_by(LOOK_MS as usize) {
        if pair.asked.is_none() && pair.outcome.connected_ms.is_none() && now_ms >= next_ask_ms {
            pair.ask();
            next_ask_ms = now_ms + RETRY_MS;
        }
        if pair.looks.is_none() {
            let look = Command::Peer(PeerName::Key(pair.key));
            pair.looks = pair.world.command(A, look);
        }
        pair.until(now_ms + LOOK_MS);
        if pair.outcome.direct_ms.is_some() {
            break;
        }
    }
    // A moment later: what came of a punch is counted when it is over.
    pair.looks = pair.world.command(A, Command::Status);
    let now_ms = pair.world.now_ns() / MS_NS;
    pair.until(now_ms + LOOK_MS);
    pair.outcome
}

impl<C: Core> Pair<C> {
    fn new(pairing: Pairing, seed: u64) -> Self {
        let mut draw = Draw::derive(seed, "pair", 0);
        let mut region = || draw.below(REGION_LATENCY_US.len() as u64) as u8;
        let regions = [region(), region(), region(), region()];
        let (networks, at) = pairing.plan([regions[2], regions[3]]);
        let mut world = World::<C>::new(seed, DhtSpec::PERFECT);
        let sites = Sites::build(&mut world.net, &networks);
        let keypair = |id: HostId| Keypair::from_seed(&Draw::derive(seed, "identity", u64::from(id)).seed());
        let mut relays = Vec::new();
        for id in 0..=B {
            let kind = match id {
                A => pairing.a,
                B => pairing.b,
                _ => Kind::Open,
            };
            let config = NodeConfig {
                topics: topics_of(id),
                public: kind == Kind::Open,
                relay: id < PUBLIC,
                ..NodeConfig::new(keypair(id))
            };
            // Whoever has IPv6 needs somebody to talk IPv6 with.
            let public = Attachment { v4: None, v6: Some(Six::Internet) };
            let site = match id {
                A => sites.site(at[0]),
                B => sites.site(at[1]),
                _ => sites.site(public),
            };
            let latency_us = draw_latency_us(seed, id);
            let spec = HostSpec {
                config,
                real_tls: false,
                region: regions.get(id as usize).copied().unwrap_or(0),
                quality: Quality { latency_us, loss_ppm: 2_000, jitter_us: 3_000, ..Quality::default() },
                clock: Clock::default(),
                disk: DiskSpec::default(),
                engine: EngineSpec::default(),
            };
            let id = world.add_at(spec, site);
            let address = world.net.public_address(id);
            if let Some(host) = world.hosts.get_mut(id as usize) {
                host.config.public_addrs = address.into_iter().collect();
                // As their users configure them: who has no UDP finds nobody by itself.
                host.config.relays.clone_from(&relays);
            }
            relays.extend(address.filter(|_| id < PUBLIC).map(|addr| (keypair(id).public(), addr)));
        }
        let stands = world.net.stand(A).zip(world.net.stand(B));
        let outcome = Outcome {
            possible: stands.as_ref().is_some_and(|(a, b)| direct_possible(a, b)),
            plain: stands.as_ref().is_some_and(|(a, b)| plain_possible(a, b)),
            ..Outcome::default()
        };
        Self { world, asked: None, looks: None, asked_ns: 0, outcome, key: keypair(B).public() }
    }

    fn ask(&mut self) {
        let connect = Command::Connect { peer: PeerName::Key(self.key), addr: None };
        self.asked = self.world.command(A, connect);
    }

    fn until(&mut self, ms: u64) {
        while self.world.next_ns().is_some_and(|at_ns| at_ns < ms * MS_NS) {
            self.world.step();
            self.hear_all();
        }
        // A command is answered on the spot.
        self.hear_all();
    }

    fn hear_all(&mut self) {
        for said in self.world.take_said().collect::<Vec<_>>() {
            self.hear(&said);
        }
    }

    fn hear(&mut self, said: &Said) {
        let Said::Reply(A, id, reply) = said else { return };
        if self.asked == Some(*id) {
            self.asked = None;
        } else if self.looks == Some(*id) {
            self.looks = None;
        } else {
            return;
        }
        let view = match reply {
            Reply::Peer(view) => view,
            Reply::Status(status) => {
                let punches = status.reach.punches.iter();
                self.outcome.first_try = punches.map(|p| p.tried - p.first_try).sum::<u32>() == 0;
                return;
            }
            _ => return,
        };
        let Some(path) = path_of(view).filter(|_| view.key == self.key) else { return };
        let ms = self.world.now_ns().saturating_sub(self.asked_ns) / MS_NS;
        self.outcome.connected_ms.get_or_insert(ms);
        let rtt_us = view.path.as_ref().and_then(|p| p.rtt).map(|rtt| rtt.as_micros() as u64);
        match path {
            Seen::Direct => {
                self.outcome.direct_ms.get_or_insert(ms);
                self.outcome.direct_rtt_us = rtt_us;
            }
            Seen::Relayed => self.outcome.relayed_rtt_us = rtt_us,
        }
    }
}

/// `a` and `b` meet the public hosts, each under a topic of its own: else they would find each other before anybody asks.
fn topics_of(id: HostId) -> Vec<DhtId> {
    let topic = |name: &[u8]| DhtId(Sha1::digest(name).into());
    match id {
        A => vec![topic(b"matrix-a")],
        B => vec![topic(b"matrix-b")],
        _ => vec![topic(b"matrix-a"), topic(b"matrix-b")],
    }
}

/// The access link of a home, by cable, fibre or air.
fn draw_latency_us(seed: u64, id: HostId) -> u32 {
    Draw::derive(seed, "access", u64::from(id)).between(1_000, 25_000) as u32
}

impl fmt::Display for PairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let Self { a, b, .. } = self;
        let possible = if self.possible { "possible" } else { "impossible" };
        let (connected, direct, first) =
            (self.connected * 100.0, self.direct * 100.0, self.first_try * 100.0);
        let (up, median) = (ms(self.connected_median_ms), ms(self.median_ms));
        write!(f, "{a:<32} {b:<32} {possible:<10} connected {connected:>5.1} % ({up}), ")?;
        write!(f, "direct {direct:>5.1} % ({median}), first try {first:>5.1} %")
    }
}

impl fmt::Display for MatrixReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |rate: f64| format!("{:.1} %", rate * 100.0);
        writeln!(f, "connected at all          {}", percent(self.connected_rate))?;
        writeln!(f, "direct                    {}", percent(self.direct_rate))?;
        writeln!(f, "possible, by the oracle   {}", percent(self.possible_rate))?;
        writeln!(f, "possible without a guess  {}", percent(self.plain_rate))?;
        writeln!(f, "direct where possible     {}", percent(self.possible_direct_rate))?;
        writeln!(f, "of these at the first try {}", percent(self.first_try_rate))?;
        let ms = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let (took, allowed) = (ms(self.upgrade_median_ms), ms(self.allowed_median_ms));
        writeln!(
            f,
            "relayed to direct, plain  {took} (two relayed round trips and a direct one: {allowed})"
        )?;
        write!(f, "direct where impossible   {}", self.false_connected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_kinds_is_there_once_and_the_oracle_is_sure_of_each() {
        let all = Pairing::all();
        let names: std::collections::BTreeSet<_> = all.iter().map(Pairing::names).collect();
        assert_eq!((all.len(), names.len()), (63, 63));
        let mut impossible = Vec::new();
        for pairing in all {
            let pair = Pair::<crate::toy::Toy>::new(pairing, 1);
            assert!(pair.outcome.possible || !pair.outcome.plain);
            if !pair.outcome.possible && ![pairing.a, pairing.b].contains(&Kind::UdpBlocked) {
                impossible.push(pairing.names());
            }
        }
        let name = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let expected = [
            name("symmetric-sequential", "symmetric-random"),
            name("symmetric-sequential", "ipv6"),
            name("symmetric-random", "symmetric-random"),
            name("symmetric-random", "ipv6"),
            name("port-restricted@carrier", "port-restricted@carrier"),
            name("port-restricted@carrier", "symmetric-random@carrier"),
            name("full-cone@carrier", "port-restricted@carrier"),
        ];
        assert_eq!(impossible, expected);
    }

    #[test]
    fn the_population_is_as_its_weights_say() {
        let pairs = Pairing::population(2_000, 1);
        let outcome = |p: &Pairing| Pair::<crate::toy::Toy>::new(*p, 1).outcome;
        let possible = pairs.iter().filter(|p| outcome(p).possible).count();
        assert!((1_440..1_570).contains(&possible), "{possible} of 2,000");
    }

    #[test]
    fn open_hosts_meet_and_the_report_counts() {
        let open = Pairing { a: Kind::Open, b: Kind::Open, shared: Shared::Nothing };
        let blocked = Pairing { a: Kind::UdpBlocked, b: Kind::UdpBlocked, shared: Shared::Nothing };
        let spec = MatrixSpec { pairs: vec![open, blocked], seeds: 2, seed: 1 };
        let mut told = 0;
        let report = run(&spec, |_| told += 1);
        assert_eq!((told, report.clone()), (2, run(&spec, |_| {})));
        let [first, second] = &report.pairs[..] else { panic!("{report:?}") };
        assert_eq!((first.direct, first.first_try, first.possible), (1.0, 1.0, true));
        assert!(first.median_ms.is_some());
        assert_eq!((second.direct, second.possible), (0.0, false));
        assert_eq!((report.possible_direct_rate, report.false_connected), (1.0, 0));
        let text = serde_json::to_string(&report).unwrap();
        for field in ["possible_direct_rate", "first_try_rate", "false_connected", "median_ms"] {
            assert!(text.contains(field));
        }
        assert_eq!(serde_json::from_str::<MatrixReport>(&text).unwrap(), report);
    }
}
