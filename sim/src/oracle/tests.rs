//! The oracle against the boxes at work: an ideal puncher tries everything it may, and must succeed exactly where the
//! oracle says so.

use super::*;
use crate::draw::Draw;
use crate::nat::{FirewallSpec, Kind, NatSpec, POPULATION, PORT_MIN};
use crate::net::{Arrival, HostId, INTERNET, Net, Outgoing, Quality, Site};
use remote_network_core::place::SocketId;
use std::net::SocketAddr;

/// Where servers are that tell what they see.
const SERVERS: usize = 4;
/// Ports tried one after the other when both are predicted.
const PREDICTED: usize = 8;

/// Endpoints of one side that the other keeps trying; of two hundred that were heard once, any will do.
const KNOWN_MAX: usize = 10;

/// How a puncher gets an endpoint whose port towards the other side it can tell beforehand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Foresight {
    /// From what one socket gets towards one server after the other.
    Same,
    /// From what one socket after the other gets.
    Fresh,
}

const FORESIGHTS: [Foresight; 2] = [Foresight::Same, Foresight::Fresh];

struct Side {
    host: HostId,
    sockets: u16,
    /// Where the other side may find it.
    known: Vec<SocketAddr>,
}

/// Two hosts, servers, and no time: everything arrives at once.
struct Stage {
    net: Net,
    servers: Vec<HostId>,
    sides: [Side; 2],
    draw: Draw,
}

/// What builds two hosts into a network; the network in which each is, by both families.
type Ground<'a> = &'a dyn Fn(&mut Net) -> [Site; 2];

impl Stage {
    fn new(ground: Ground<'_>) -> Self {
        let mut net = Net::new(11);
        let servers = (0..SERVERS).map(|_| net.add(0, Quality::default())).collect();
        let sides = ground(&mut net).map(|site| {
            let host = net.add_at(0, Quality::default(), site);
            Side { host, sockets: 0, known: Vec::new() }
        });
        Self { net, servers, sides, draw: Draw::new(3) }
    }

    fn deliver(
        &mut self,
        host: HostId,
        socket: SocketId,
        to: SocketAddr,
    ) -> Option<(HostId, SocketId, SocketAddr)> {
        let mut flights = Vec::new();
        let datagram = Outgoing { socket, to, ecn: None, payload: b"x" };
        self.net.send(0, host, datagram, |_, flight| flights.push(flight));
        let mut flight = flights.pop()?;
        loop {
            match self.net.arrive(0, &mut flight) {
                Arrival::Now => {
                    let socket = self.net.socket_at(flight.host, flight.to.port())?;
                    return Some((flight.host, socket, flight.from));
                }
                Arrival::At(_) => {}
                Arrival::Lost => return None,
            }
        }
    }

    /// A side's own number for one more socket. The main one is left alone: it has been used by somebody.
    fn open(&mut self, side: usize) -> SocketId {
        self.sides[side].sockets += 1;
        let socket = SocketId(self.sides[side].sockets);
        self.net.open_socket(self.sides[side].host, socket).unwrap();
        socket
    }

    fn seen(&mut self, side: usize, socket: SocketId, server: usize) -> Option<SocketAddr> {
        let to = self.net.address(self.servers[server])?;
        self.deliver(self.sides[side].host, socket, to).map(|(.., from)| from)
    }

    /// A socket for the other side, and where it will be seen: its `n`-th new mapping from now on, if that can be told.
    fn foresee(&mut self, side: usize, how: Foresight) -> (SocketId, Vec<SocketAddr>) {
        let first = self.open(side);
        let mut seen = Vec::new();
        for nth in 0..SERVERS {
            let socket = if nth == 0 || how == Foresight::Same { first } else { self.open(side) };
            seen.extend(self.seen(side, socket, nth));
        }
        let socket = if how == Foresight::Same { first } else { self.open(side) };
        if how == Foresight::Same {
            self.sides[side].known.extend(seen.first().copied());
        }
        let steps: Vec<i32> =
            seen.windows(2).map(|w| i32::from(w[1].port()) - i32::from(w[0].port())).collect();
        let regular = steps.len() == SERVERS - 1 && steps.windows(2).all(|w| w[0] == w[1]);
        let Some(last) = seen.last().copied().filter(|_| regular) else { return (socket, Vec::new()) };
        let ports =
            (1..=PREDICTED as i32).filter_map(|n| u16::try_from(i32::from(last.port()) + n * steps[0]).ok());
        (socket, ports.map(|port| SocketAddr::new(last.ip(), port)).collect())
    }

    /// What a socket's own system calls it: worth trying last, for every packet to an address makes a mapping.
    fn tell_own(&mut self, side: usize, socket: SocketId) {
        let host = self.sides[side].host;
        let port = (PORT_MIN..).find(|port| self.net.socket_at(host, *port) == Some(socket)).unwrap();
        let own = self.net.addresses(host).into_iter().map(|at| SocketAddr::new(at.ip(), port));
        self.sides[side].known.extend(own);
    }

    fn learn(&mut self, side: usize, at: SocketAddr) {
        let known = &self.sides[side].known;
        if known.len() < KNOWN_MAX && !known.contains(&at) {
            self.sides[side].known.push(at);
        }
    }

    /// Asks, and gets an answer from where it asked?
    fn probe(&mut self, side: usize, socket: SocketId, to: SocketAddr) -> bool {
        let (own, other) = (self.sides[side].host, self.sides[1 - side].host);
        let Some((who, heard_on, from)) = self.deliver(own, socket, to) else { return false };
        if who != other {
            return false;
        }
        self.learn(side, from);
        match self.deliver(other, heard_on, from) {
            Some((who, answered_on, source)) if who == own => {
                self.learn(1 - side, source);
                answered_on == socket && source == to
            }
            _ => false,
        }
    }

    /// Both know the other's next ports and use them in step.
    fn in_step(&mut self, how: [Foresight; 2]) -> bool {
        let ready = [0, 1].map(|side| {
            let (first, ports) = self.foresee(side, how[side]);
            let sockets: Vec<SocketId> = (0..PREDICTED)
                .map(|n| if n == 0 || how[side] == Foresight::Same { first } else { self.open(side) })
                .collect();
            (sockets, ports)
        });
        if ready.iter().any(|(_, ports)| ports.len() < PREDICTED) {
            return false;
        }
        for side in [0, 1, 0] {
            for (nth, to) in ready[1 - side].1.clone().into_iter().enumerate() {
                if self.probe(side, ready[side].0[nth], to) {
                    return true;
                }
            }
        }
        false
    }

    /// One side with one socket, the other perhaps with many: everything known is tried, then random ports, twice.
    fn punch(&mut self, one: usize, many: bool, how: Foresight) -> bool {
        let (single, ports) = self.foresee(one, how);
        self.sides[one].known.extend(ports.first());
        let (first, ports) = self.foresee(1 - one, Foresight::Same);
        if !many {
            self.sides[1 - one].known.extend(ports.first());
        }
        let mut sockets = vec![first];
        while many && sockets.len() < SOCKETS {
            sockets.push(self.open(1 - one));
        }
        let ip = self.net.seen_as(self.sides[1 - one].host).unwrap().ip();
        self.tell_own(one, single);
        self.tell_own(1 - one, first);
        for _ in 0..2 {
            for to in self.sides[one].known.clone() {
                for socket in sockets.clone() {
                    if self.probe(1 - one, socket, to) {
                        return true;
                    }
                }
            }
            for to in self.sides[1 - one].known.clone() {
                if self.probe(one, single, to) {
                    return true;
                }
            }
            for _ in 0..if many { PROBES } else { 0 } {
                let port = self.draw.between(u64::from(PORT_MIN), u64::from(u16::MAX)) as u16;
                if self.probe(one, single, SocketAddr::new(ip, port)) {
                    return true;
                }
            }
        }
        false
    }
}

/// Everything an ideal puncher may do.
fn ideal(ground: Ground<'_>) -> bool {
    let in_step =
        || FORESIGHTS.iter().any(|a| FORESIGHTS.iter().any(|b| Stage::new(ground).in_step([*a, *b])));
    let punched = |many| {
        [0, 1].iter().any(|one| FORESIGHTS.iter().any(|how| Stage::new(ground).punch(*one, many, *how)))
    };
    punched(false) || in_step() || punched(true)
}

fn stands(ground: Ground<'_>) -> [Stand; 2] {
    let stage = Stage::new(ground);
    [0, 1].map(|side| stage.net.stand(stage.sides[side].host).unwrap())
}

/// Table sizes and lifetimes are not what is asked for here.
fn roomy(mapping: Dependence, filtering: Dependence, allocation: Allocation) -> BoxSpec {
    BoxSpec::Nat(NatSpec { mapping, filtering, allocation, entries_max: 1 << 20, ..NatSpec::default() })
}

fn translators() -> Vec<BoxSpec> {
    let allocations = [Allocation::Preserving, Allocation::Sequential(3), Allocation::Random];
    let mut all = Vec::new();
    for mapping in Dependence::ALL {
        for filtering in Dependence::ALL {
            all.extend(allocations.map(|allocation| roomy(mapping, filtering, allocation)));
        }
    }
    all
}

fn alone(net: &mut Net, chain: &[BoxSpec]) -> Site {
    Site { v4: net.add_chain(INTERNET, 0, chain), v6: None }
}

fn compare(what: &str, ground: Ground<'_>, wrong: &mut Vec<String>) -> bool {
    let [a, b] = stands(ground);
    let (says, does) = (direct_possible(&a, &b), ideal(ground));
    assert_eq!(says, direct_possible(&b, &a), "it does not matter who asks");
    assert!(!plain_possible(&a, &b) || says, "plain punching is a part of all");
    if says != does {
        wrong.push(format!("{what}: the oracle says {says}, the puncher {does}"));
    }
    says
}

#[test]
fn an_ideal_puncher_succeeds_where_the_oracle_says_so_for_every_pair_of_boxes() {
    let mut chains: Vec<Vec<BoxSpec>> = translators().into_iter().map(|spec| vec![spec]).collect();
    chains.push(Vec::new());
    chains.push(vec![BoxSpec::UdpBlocked]);
    for filtering in Dependence::ALL {
        let entries_max = 1 << 20;
        let spec = FirewallSpec { filtering, entries_max, ..FirewallSpec::default() };
        chains.push(vec![BoxSpec::Firewall(spec)]);
    }
    let (mut wrong, mut possible, mut all) = (Vec::new(), 0, 0);
    for (nth, a) in chains.iter().enumerate() {
        for b in chains.iter().skip(nth) {
            let ground = |net: &mut Net| [alone(net, a), alone(net, b)];
            possible += usize::from(compare(&format!("{a:?} with {b:?}"), &ground, &mut wrong));
            all += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {all}:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(all, 32 * 33 / 2);
    // 32 with the box that blocks UDP; of those with hard boxes on both sides 28.
    assert_eq!(all - possible, 32 + 28);
}

#[test]
fn boxes_in_a_row_are_as_hard_as_the_hardest() {
    let all = translators();
    let mut draw = Draw::new(8);
    let mut wrong = Vec::new();
    for _ in 0..150 {
        let chains = [0, 1]
            .map(|_| (0..draw.between(1, 2)).filter_map(|_| draw.pick(&all).copied()).collect::<Vec<_>>());
        let ground = |net: &mut Net| [alone(net, &chains[0]), alone(net, &chains[1])];
        compare(&format!("{chains:?}"), &ground, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn who_shares_a_box_meets_within_it_or_by_its_hairpin() {
    let all = translators();
    let mut draw = Draw::new(9);
    let mut wrong = Vec::new();
    for round in 0..60 {
        let homes = [0, 1].map(|_| draw.pick(&all).copied().unwrap());
        let filtering = Dependence::ALL[round % 3];
        let hairpin = round % 2 == 0;
        let allocation = Allocation::Random;
        let carrier = NatSpec { filtering, hairpin, allocation, entries_max: 1 << 20, ..NatSpec::default() };
        let ground = |net: &mut Net| {
            let carrier = net.add_network(INTERNET, 0, BoxSpec::Nat(carrier));
            homes.map(|home| Site { v4: net.add_network(carrier, 0, home), v6: None })
        };
        let says = compare(&format!("{homes:?} behind {carrier:?}"), &ground, &mut wrong);
        assert!(hairpin || !says);
    }
    let hard = roomy(Dependence::AddressAndPort, Dependence::AddressAndPort, Allocation::Random);
    let lan = |net: &mut Net| {
        let network = net.add_chain(INTERNET, 0, &[BoxSpec::UdpBlocked, hard]);
        [Site { v4: network, v6: None }, Site { v4: network, v6: None }]
    };
    assert!(compare("one LAN", &lan, &mut wrong));
    let nested = |net: &mut Net| {
        let network = net.add_network(INTERNET, 0, hard);
        [Site { v4: network, v6: None }, Site { v4: net.add_network(network, 0, hard), v6: None }]
    };
    assert!(compare("a network within the other's", &nested, &mut wrong));
    let company = |net: &mut Net| {
        let network = net.add_network(INTERNET, 0, BoxSpec::Firewall(FirewallSpec::default()));
        [(); 2].map(|()| Site { v4: net.add_network(network, 0, hard), v6: None })
    };
    assert!(!compare("two hard boxes behind one firewall", &company, &mut wrong));
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn ipv6_on_both_sides_passes_whatever_ipv4_has() {
    let hard = roomy(Dependence::AddressAndPort, Dependence::AddressAndPort, Allocation::Random);
    let wall = BoxSpec::Firewall(FirewallSpec::default());
    let mut wrong = Vec::new();
    for (walls, expected) in [([wall, wall], true), ([wall, BoxSpec::UdpBlocked], false)] {
        let ground = |net: &mut Net| {
            walls.map(|wall| Site {
                v4: net.add_network(INTERNET, 0, hard),
                v6: Some(net.add_network(INTERNET, 0, wall)),
            })
        };
        assert_eq!(compare("IPv6", &ground, &mut wrong), expected);
    }
    let one = |net: &mut Net| {
        let six = Some(net.add_network(INTERNET, 0, wall));
        [Site { v4: net.add_network(INTERNET, 0, hard), v6: six }, alone(net, &[hard])]
    };
    assert!(!compare("IPv6 on one side", &one, &mut wrong));
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_population_is_that_of_the_field_study() {
    let stand = |kind: Kind, first: NetworkId| Stand {
        v4: kind
            .chain()
            .into_iter()
            .rev()
            .zip(first..)
            .map(|(spec, network)| Level { network, spec })
            .collect(),
        v6: None,
    };
    let (mut plain, mut any) = (0, 0);
    for (a, weight_a) in POPULATION {
        for (b, weight_b) in POPULATION {
            let (one, two) = (stand(a, 1), stand(b, 10));
            let weight = weight_a * weight_b;
            plain += weight * u32::from(plain_possible(&one, &two));
            any += weight * u32::from(direct_possible(&one, &two));
        }
    }
    // 70 % ± 7.1 %, in parts per million.
    for share_ppm in [plain, any] {
        assert!((629_000..=771_000).contains(&share_ppm), "{plain} {any}");
    }
    assert!((680_000..=720_000).contains(&((plain + any) / 2)), "{plain} {any}");
    assert_eq!((plain, any), (656_025, 752_175), "the figures in the documentation");
}
