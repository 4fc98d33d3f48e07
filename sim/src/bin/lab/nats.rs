//! The lab tests itself: is every kind of connection what it claims to be?
//!
//! The figures of the other experiments mean nothing if the kernel translates differently from what the rules intend, so
//! this is measured from inside with plain sockets, as RFC 5780 does it: one socket sends to two ports of one public
//! machine and to another machine; what they see tells the mapping. Then those who were not sent to answer; what arrives
//! tells the filtering.

use crate::agent::Agent;
use crate::internet::{Home, Host, Internet};
use crate::kind::{Dependence, Kind};
use crate::netns::LabError;
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// How long silence is waited for.
const SILENCE_MS: u64 = 200;
const PORTS: [u16; 2] = [3478, 3479];
const TCP_PORT: u16 = 443;

/// What is seen of a connection from inside and outside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Behaviour {
    /// UDP gets out and back.
    pub udp: bool,
    /// TCP does.
    pub tcp: bool,
    /// What outer ports depend on.
    pub mapping: Option<Dependence>,
    /// Who is let in.
    pub filtering: Option<Dependence>,
    /// The outer port is the inner one.
    pub preserving: bool,
    /// What is sent to the outer address from inside comes back.
    pub hairpin: bool,
    /// Over IPv6: the own address is seen, answers come in, and strangers do not.
    pub ipv6: bool,
}

/// A finding.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The kind.
    pub kind: &'static str,
    /// What it should be.
    pub expected: Behaviour,
    /// What it is.
    pub observed: Behaviour,
    /// Whether they agree.
    pub ok: bool,
}

/// What a kind should be.
pub fn expected(kind: Kind) -> Behaviour {
    let seen = |mapping, filtering, preserving| Behaviour {
        udp: true,
        tcp: true,
        mapping: Some(mapping),
        filtering: Some(filtering),
        preserving,
        hairpin: false,
        ipv6: false,
    };
    use Dependence::{Address, AddressAndPort, Independent};
    match kind {
        // To send to one's own address without a translator in between always works.
        Kind::Open => Behaviour { hairpin: true, ..seen(Independent, Independent, true) },
        Kind::OutboundOnly => Behaviour { hairpin: true, ..seen(Independent, AddressAndPort, true) },
        Kind::FullCone => Behaviour { hairpin: true, ..seen(Independent, Independent, true) },
        Kind::RestrictedCone => seen(Independent, Address, true),
        Kind::PortRestricted | Kind::DoubleNat | Kind::CarrierPlain | Kind::CarrierHairpin => {
            seen(Independent, AddressAndPort, true)
        }
        Kind::SymmetricRandom => seen(AddressAndPort, AddressAndPort, false),
        Kind::Ipv6 => Behaviour { ipv6: true, ..seen(AddressAndPort, AddressAndPort, false) },
        Kind::UdpBlocked => Behaviour {
            udp: false,
            tcp: true,
            mapping: None,
            filtering: None,
            preserving: false,
            hairpin: false,
            ipv6: false,
        },
    }
}

/// Measures every kind.
pub fn check() -> Result<Vec<Finding>, LabError> {
    let mut internet = Internet::new()?;
    let [one, two, _] = internet.publics()?;
    let mut observers = Observers::start(&one, &two)?;
    let mut findings = Vec::new();
    for kind in Kind::ALONE {
        let home = internet.home(kind.as_str(), kind)?;
        let host = internet.host(&format!("{}-host", kind.as_str()), &home, 11)?;
        let observed = observers.behaviour(&host)?;
        let expected = expected(kind);
        findings.push(Finding { kind: kind.as_str(), ok: observed == expected, expected, observed });
    }
    for kind in [Kind::CarrierHairpin, Kind::CarrierPlain] {
        let mut carrier = internet.carrier(kind.as_str(), kind)?;
        let homes: Vec<Home> = (1..=2)
            .map(|n| internet.home_of(&format!("{}-{n}", kind.as_str()), &mut carrier))
            .collect::<Result<_, _>>()?;
        let hosts: Vec<Host> = homes
            .iter()
            .zip(11..)
            .map(|(home, octet)| internet.host(&format!("{}-host{octet}", kind.as_str()), home, octet))
            .collect::<Result<_, _>>()?;
        let [a, b] = hosts.as_slice() else { continue };
        let mut observed = observers.behaviour(a)?;
        // What counts of a carrier is whether two of its homes can meet at its outer address.
        observed.hairpin = observers.meet(a, b)?;
        let expected = Behaviour { hairpin: kind == Kind::CarrierHairpin, ..expected(kind) };
        findings.push(Finding { kind: kind.as_str(), ok: observed == expected, expected, observed });
    }
    Ok(findings)
}

/// Two public machines; the first has two ports.
struct Observers {
    hosts: [Host; 2],
    agents: [Agent; 2],
    /// Number of the agent, number of the socket: (first, first port), (first, second port), (second, first port).
    sockets: [(usize, usize, u16); 3],
    sockets6: [(usize, usize); 2],
}

impl Observers {
    fn start(one: &Host, two: &Host) -> Result<Self, LabError> {
        let mut agents = [Agent::start(&one.netns)?, Agent::start(&two.netns)?];
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let [first, second] = &mut agents;
        let sockets = [
            (0, first.bind(any(PORTS[0]))?, PORTS[0]),
            (0, first.bind(any(PORTS[1]))?, PORTS[1]),
            (1, second.bind(any(PORTS[0]))?, PORTS[0]),
        ];
        let own6 = |host: &Host| host.own6.map(|ip| SocketAddr::from((ip, PORTS[0])));
        let (Some(one6), Some(two6)) = (own6(one), own6(two)) else {
            return Err(LabError::strange("public machines have both families"));
        };
        let sockets6 = [(0, first.bind(one6)?), (1, second.bind(two6)?)];
        first.listen(any(TCP_PORT))?;
        Ok(Self { hosts: [one.clone(), two.clone()], agents, sockets, sockets6 })
    }

    fn addr(&self, n: usize) -> SocketAddr {
        let (agent, _, port) = self.sockets[n];
        SocketAddr::from((self.hosts[agent].own, port))
    }

    /// What observer `n` sees next.
    fn sees(&mut self, n: usize) -> Result<Option<SocketAddr>, LabError> {
        let (agent, socket, _) = self.sockets[n];
        Ok(self.agents[agent].recv(socket, SILENCE_MS)?.map(|(from, _)| from))
    }

    fn send(&mut self, n: usize, to: SocketAddr, word: &str) -> Result<(), LabError> {
        let (agent, socket, _) = self.sockets[n];
        self.agents[agent].send(socket, to, word)
    }

    fn behaviour(&mut self, host: &Host) -> Result<Behaviour, LabError> {
        let mut agent = Agent::start(&host.netns)?;
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let socket = agent.bind(any(40_000))?;
        let mut seen = Vec::new();
        for n in 0..3 {
            agent.send(socket, self.addr(n), "mapping")?;
            seen.push(self.sees(n)?);
        }
        let tcp = agent.connect(SocketAddr::from((self.hosts[0].own, TCP_PORT)), 1_000)?;
        let [Some(first), Some(port), Some(address)] = seen.as_slice() else {
            return Ok(Behaviour { tcp, ..expected(Kind::UdpBlocked) });
        };
        let mapping = match (first == port, first == address) {
            (true, true) => Dependence::Independent,
            (true, false) => Dependence::Address,
            (false, _) => Dependence::AddressAndPort,
        };
        let preserving = seen.iter().flatten().all(|s| s.port() == 40_000);

        let socket = agent.bind(any(40_001))?;
        agent.send(socket, self.addr(0), "filtering")?;
        let Some(mapped) = self.sees(0)? else {
            return Err(LabError::strange(format!("the second socket of {} is not seen", host.name)));
        };
        for (n, word) in [(2, "stranger"), (1, "port"), (0, "answer")] {
            self.send(n, mapped, word)?;
        }
        let mut arrived = BTreeSet::new();
        while let Some((_, word)) = agent.recv(socket, SILENCE_MS)? {
            arrived.insert(word);
        }
        let filtering =
            match (arrived.contains("stranger"), arrived.contains("port"), arrived.contains("answer")) {
                (true, true, true) => Some(Dependence::Independent),
                (false, true, true) => Some(Dependence::Address),
                (false, false, true) => Some(Dependence::AddressAndPort),
                _ => None,
            };
        // Who was refused before must be reachable from the same mapping afterwards, or no hole can be punched.
        if mapping == Dependence::Independent {
            agent.send(socket, self.addr(2), "punch")?;
            if self.sees(2)? != Some(mapped) {
                return Err(LabError::strange(format!("strangers disturb the mapping of {}", host.name)));
            }
        }

        let other = agent.bind(any(40_002))?;
        agent.send(other, mapped, "hairpin")?;
        let hairpin = agent.recv(socket, SILENCE_MS)?.is_some_and(|(_, word)| word == "hairpin");
        let ipv6 = self.ipv6(&mut agent, host)?;
        Ok(Behaviour { udp: true, tcp, mapping: Some(mapping), filtering, preserving, hairpin, ipv6 })
    }

    fn ipv6(&mut self, agent: &mut Agent, host: &Host) -> Result<bool, LabError> {
        let Some(own) = host.own6 else { return Ok(false) };
        let [first, second] = self.sockets6;
        let Some(to) = self.hosts[0].own6 else { return Ok(false) };
        let own = SocketAddr::from((own, 40_006));
        let socket = agent.bind(own)?;
        let mut seen = None;
        // Four machines on the way ask for their neighbours first, once a second if nobody answers.
        for _ in 0..30 {
            agent.send(socket, SocketAddr::from((to, PORTS[0])), "six")?;
            seen = self.agents[first.0].recv(first.1, SILENCE_MS)?.map(|(from, _)| from);
            if seen.is_some() {
                break;
            }
        }
        self.agents[second.0].send(second.1, own, "stranger")?;
        self.agents[first.0].send(first.1, own, "answer")?;
        let mut arrived = Vec::new();
        while let Some((_, word)) = agent.recv(socket, SILENCE_MS)? {
            arrived.push(word);
        }
        Ok(seen == Some(own) && arrived == ["answer"])
    }

    /// Whether two hosts behind one carrier reach each other's observed addresses after both have sent.
    fn meet(&mut self, a: &Host, b: &Host) -> Result<bool, LabError> {
        let mut ends = Vec::new();
        for (host, port) in [(a, 41_000), (b, 41_001)] {
            let mut agent = Agent::start(&host.netns)?;
            let socket = agent.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
            agent.send(socket, self.addr(0), "here")?;
            let mapped = self.sees(0)?.ok_or_else(|| LabError::strange("a host is not seen"))?;
            ends.push((agent, socket, mapped));
        }
        let [(one, socket1, mapped1), (two, socket2, mapped2)] = ends.as_mut_slice() else {
            return Ok(false);
        };
        let same = |a: IpAddr, b: IpAddr| a == b;
        if !same(mapped1.ip(), mapped2.ip()) {
            return Err(LabError::strange("two homes of one carrier have two addresses"));
        }
        one.send(*socket1, *mapped2, "punch")?;
        two.send(*socket2, *mapped1, "punch")?;
        one.send(*socket1, *mapped2, "punch")?;
        let to_one = one.recv(*socket1, SILENCE_MS)?;
        let to_two = two.recv(*socket2, SILENCE_MS)?;
        Ok(to_one.is_some_and(|(from, _)| from == *mapped2)
            && to_two.is_some_and(|(from, _)| from == *mapped1))
    }
}
