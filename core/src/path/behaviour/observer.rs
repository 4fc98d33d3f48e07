//! Learning what our own NAT does, from what others say they see.
//!
//! Whoever gets packets of ours can tell where they came from: peers in the identity exchange and in every pong, relays and
//! STUN servers when asked. Each is one observer. One observer alone is believed, for a network of two has no more; among
//! several the majority is, so that a single liar decides nothing. An observer counts once per IP address (of IPv6: once per
//! /64): ten ports of one liar are one liar, and push nobody else's word out.
//!
//! What was seen long ago is not compared with what is seen now, for NATs forget. But a liar may well be the only one who has
//! spoken lately, for honest observers have nothing new to say: while fewer than `DECISIVE` have, a majority that older words
//! still make stands, and when somebody contradicts it others are asked, not more often than every [`ASK_AGAIN_MIN`].
//!
//! | what is asked | what answers it |
//! |---|---|
//! | mapping | do observers at different IPs see the same port of the main socket? At different ports of one IP? |
//! | allocation | the ports of new mappings (other sockets, or other destinations where the mapping depends on them) |
//! | filtering | a packet from whom we never wrote to came in, or, asked for by a relay's dial-back, did not |
//! | lifetime, hairpin | told by those who tried |
//!
//! **Asking.** Nothing is polled. When the network is new or knowledge is missing, and somebody is known who can be asked,
//! up to [`ASKED_AT_ONCE`] are; if that was not enough, again after [`ASK_AGAIN_MIN`] doubling to [`ASK_AGAIN_MAX`].

use super::{Allocation, Behaviour, Dependence, PUBLIC_IPS_MAX, STEP_MAX};
use crate::dht::endpoint::{Scope, scope};
use crate::few::Few;
use crate::machine::{Cx, Machine};
use crate::place::SocketId;
use crate::time::{Deadline, Duration, Instant};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Observations remembered; the oldest goes.
pub const OBSERVATIONS_MAX: usize = 64;
/// An observation this much older than the newest is not compared with it: NATs forget mappings and give new ones.
pub const OBSERVATION_KEPT: Duration = Duration::from_secs(300);
/// Servers known that can be asked.
pub const SERVERS_MAX: usize = 16;
/// Servers asked at once: two show whether the mapping depends on the destination, the third decides between two.
pub const ASKED_AT_ONCE: usize = 3;
/// Knowledge that is missing after a round of questions is asked for again after so long, then twice that …
pub const ASK_AGAIN_MIN: Duration = Duration::from_secs(30);
/// … up to this.
pub const ASK_AGAIN_MAX: Duration = Duration::from_secs(1_800);
/// A network that has just changed often changes again; interfaces and routes come one by one.
const SETTLE: Duration = Duration::from_millis(200);
/// Own addresses known, and local addresses of other sockets.
const LOCAL_ADDRS_MAX: usize = 64;
const SOCKETS_MAX: usize = 512;
/// So many observers outvote one liar.
const DECISIVE: usize = 3;
/// Mappings from which a rule of allocation is read: fewer agree by chance.
const SAMPLES_MIN: usize = 3;

/// What can happen to the observer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Somebody sees our packets come from `mapped`.
    Observed {
        /// Where the observer is.
        by: SocketAddr,
        /// Which of our sockets wrote.
        socket: SocketId,
        /// Where it sees us.
        mapped: SocketAddr,
    },
    /// The addresses of the main socket: those of all interfaces, with its port.
    LocalAddrs(Vec<SocketAddr>),
    /// Another socket of ours is bound there.
    Bound {
        /// Which.
        socket: SocketId,
        /// Where.
        local: SocketAddr,
    },
    /// A packet came in from an address we never wrote to.
    Unsolicited {
        /// From where.
        from: SocketAddr,
        /// Whether we wrote to another port of the same IP.
        ip_written: bool,
    },
    /// A relay sent a packet as asked, from an address we never wrote to.
    DialledBack {
        /// From the IP we wrote to, but from another port; else from another IP.
        same_ip: bool,
        /// Whether it came in.
        arrived: bool,
    },
    /// A packet to our own public address did, or did not, come back to us.
    Hairpin(bool),
    /// A mapping was left alone for so long, and then was still there, or not.
    Idled {
        /// How long.
        idle: Duration,
        /// Whether it was still there.
        alive: bool,
    },
    /// Who can be asked: relays and STUN servers, best first.
    Servers(Vec<SocketAddr>),
    /// Interfaces, addresses or the default route changed: whatever was known was of another NAT.
    NetworkChanged,
}

/// What the observer asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Ask this STUN server from this socket ([`crate::path::stun`]).
    Ask {
        /// From which socket.
        socket: SocketId,
        /// Whom.
        to: SocketAddr,
    },
    /// Something is known that was not, or is different now.
    Changed,
}

#[derive(Clone, Copy, Debug)]
struct Observation {
    by: SocketAddr,
    socket: SocketId,
    mapped: SocketAddr,
    at: Instant,
}

/// Addresses at which others see us that are told: candidates are few.
const MAPPED_MAX: usize = 4;

/// The observer of the node's own NAT.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    /// The oldest first; one for each observer and socket.
    seen: Vec<Observation>,
    local: Vec<SocketAddr>,
    bound: Few<SocketId, SocketAddr>,
    servers: Vec<SocketAddr>,
    filtering: Dependence,
    hairpin: Option<bool>,
    /// Survived, and the shortest not survived.
    lived: Option<Duration>,
    died: Option<Duration>,
    /// When to ask, how often it was in vain, and who comes next.
    ask: Option<Instant>,
    asked: u32,
    asked_at: Option<Instant>,
    turn: usize,
    behaviour: Behaviour,
}

impl Observer {
    /// What is known.
    pub const fn behaviour(&self) -> &Behaviour {
        &self.behaviour
    }

    /// Where others see the main socket, what was seen last first, each once; but not where only one of them does while
    /// most name another IP.
    pub fn mapped(&self) -> Vec<SocketAddr> {
        let kind = |o: &Observation| (scope(o.by), o.by.is_ipv6());
        let mut all = Vec::new();
        let mut believed = Few::new();
        let main = || self.seen.iter().filter(|o| o.socket == SocketId::MAIN);
        for seen in main().rev() {
            let ips = believed.get_or_insert_with(kind(seen), || {
                let alike: Vec<Observation> = main().filter(|o| kind(o) == kind(seen)).copied().collect();
                believed_ips(&alike)
            });
            if ips.contains(&seen.mapped.ip()) && !all.contains(&seen.mapped) && all.len() < MAPPED_MAX {
                all.push(seen.mapped);
            }
        }
        all
    }

    /// The familiar name of what is known.
    pub const fn nat_type(&self) -> crate::dht::record::NatType {
        self.behaviour.nat_type()
    }

    /// Whether others see us at an address of our own.
    pub const fn is_public(&self) -> bool {
        self.behaviour.open
    }

    /// How often mappings must be used to stay.
    pub fn keepalive(&self) -> Duration {
        self.behaviour.keepalive()
    }

    /// For people.
    pub fn words(&self) -> String {
        self.behaviour.words()
    }

    /// Observations held.
    pub fn observations(&self) -> usize {
        self.seen.len()
    }

    #[cfg(test)]
    pub(super) fn seen_of(&self, socket: SocketId) -> usize {
        self.seen.iter().filter(|o| o.socket == socket).count()
    }

    fn observed(&mut self, now: Instant, by: SocketAddr, socket: SocketId, mapped: SocketAddr) {
        let (by, mapped) = (canonical(by), canonical(mapped));
        if scope(by) == Scope::Never || scope(mapped) == Scope::Never {
            return;
        }
        match self.seen.iter().position(|o| (o.by, o.socket) == (by, socket)) {
            // An observer that says the same again confirms; its place in the order of mappings stays.
            Some(at) if self.seen[at].mapped == mapped => self.seen[at].at = now,
            Some(at) => {
                self.seen.remove(at);
                self.seen.push(Observation { by, socket, mapped, at: now });
            }
            None => {
                if self.seen.len() >= OBSERVATIONS_MAX {
                    self.seen.remove(self.dispensable());
                }
                self.seen.push(Observation { by, socket, mapped, at: now });
            }
        }
    }

    /// The oldest observation of whoever has made the most.
    fn dispensable(&self) -> usize {
        let of = |o: &Observation| self.seen.iter().filter(|other| observer(other) == observer(o)).count();
        let most = self.seen.iter().map(of).max();
        self.seen.iter().position(|o| Some(of(o)) == most).unwrap_or(0)
    }

    /// The observations that can be compared: of one family, of the widest scope there is, and not too old. Who sits in our
    /// own network sees us before the NAT.
    fn comparable(&self) -> Vec<Observation> {
        let newest = self.seen.iter().map(|o| o.at).max().unwrap_or_default();
        let is_fresh = |o: &&Observation| newest.since(o.at) <= OBSERVATION_KEPT;
        let kind = |o: &Observation| (scope(o.by), o.by.is_ipv6());
        let widest = self.seen.iter().filter(is_fresh).map(kind).min();
        let alike: Vec<Observation> = self.seen.iter().filter(|o| Some(kind(o)) == widest).copied().collect();
        let fresh: Vec<Observation> = alike.iter().filter(is_fresh).copied().collect();
        if latest_per_ip(&main(&fresh)).len() >= DECISIVE {
            return fresh;
        }
        // The latest words of as many as it takes.
        let mut latest = latest_per_ip(&main(&alike));
        latest.sort_by_key(|o| std::cmp::Reverse(o.at));
        latest.truncate(DECISIVE);
        let votes = count(latest.iter().map(|o| o.mapped));
        let Some(since) = latest.last().filter(|_| majority(&votes).is_some()).map(|o| o.at) else {
            return fresh;
        };
        alike.into_iter().filter(|o| o.at >= since || is_fresh(&o)).collect()
    }

    /// What the observations amount to.
    fn judge(&self) -> Behaviour {
        let seen = self.comparable();
        let main = main(&seen);
        let votes = count(latest_per_ip(&main).into_iter().map(|o| o.mapped));
        let believed = votes.first().map(|(addr, _)| *addr);
        let open = believed.is_some_and(|addr| self.local.contains(&addr));
        let mapping = if open { Dependence::EndpointIndependent } else { mapping(&main, &votes) };
        let mut public_ips = believed_ips(&seen);
        let seen: Vec<Observation> =
            seen.into_iter().filter(|o| public_ips.contains(&o.mapped.ip())).collect();
        let allocation = self.allocation(&seen, mapping, believed);
        public_ips.truncate(PUBLIC_IPS_MAX);
        let hard = matches!(mapping, Dependence::AddressDependent | Dependence::AddressAndPortDependent);
        let next = hard.then(|| self.next(&seen, allocation)).flatten();
        let lifetime = match (self.lived, self.died) {
            (Some(lived), _) => Some(lived),
            (None, Some(died)) => Some(died / 2),
            (None, None) => None,
        };
        Behaviour {
            open,
            mapping,
            filtering: self.filtering,
            allocation,
            hairpin: self.hairpin,
            lifetime,
            public_ips,
            next,
        }
    }

    /// The mappings in the order in which they were first seen, each once.
    fn samples(seen: &[Observation]) -> Vec<Observation> {
        let mut out: Vec<Observation> = Vec::new();
        for o in seen {
            if !out.iter().any(|s| (s.socket, s.mapped) == (o.socket, o.mapped)) {
                out.push(*o);
            }
        }
        out
    }

    fn allocation(
        &self,
        seen: &[Observation],
        mapping: Dependence,
        believed: Option<SocketAddr>,
    ) -> Allocation {
        let mut samples = Self::samples(seen);
        if mapping == Dependence::EndpointIndependent {
            // One mapping per socket: others are older ones, or lies.
            samples.retain(|s| s.socket != SocketId::MAIN || Some(s.mapped) == believed);
        }
        if samples.len() < SAMPLES_MIN || mapping == Dependence::Unknown {
            return Allocation::Unknown;
        }
        let preserved = samples.iter().filter(|s| self.local_port(s.socket) == Some(s.mapped.port())).count();
        if preserved * 2 > samples.len() {
            return Allocation::Preserving;
        }
        let ports: Vec<u16> = samples.iter().map(|s| s.mapped.port()).collect();
        sequence(&ports).map_or(Allocation::Random, |(step, _)| Allocation::Sequential { step })
    }

    fn local_port(&self, socket: SocketId) -> Option<u16> {
        if socket == SocketId::MAIN {
            return self.local.first().map(SocketAddr::port);
        }
        self.bound.get(&socket).map(SocketAddr::port)
    }

    fn next(&self, seen: &[Observation], allocation: Allocation) -> Option<SocketAddr> {
        let samples = Self::samples(seen);
        let ip = samples.last()?.mapped.ip();
        let port = match allocation {
            Allocation::Preserving => self.local_port(SocketId::MAIN),
            Allocation::Sequential { step } => {
                let ports: Vec<u16> = samples.iter().map(|s| s.mapped.port()).collect();
                sequence(&ports)?.1.checked_add_signed(step)
            }
            Allocation::Unknown | Allocation::Random => None,
        };
        port.map(|port| SocketAddr::new(ip, port))
    }

    fn idled(&mut self, idle: Duration, alive: bool) {
        if alive {
            self.lived = Some(self.lived.map_or(idle, |lived| lived.max(idle)));
            self.died = self.died.filter(|died| *died > idle);
        } else {
            self.died = Some(self.died.map_or(idle, |died| died.min(idle)));
            self.lived = self.lived.filter(|lived| *lived < idle);
        }
    }

    fn filter_seen(&mut self, same_ip: bool, arrived: bool) {
        self.filtering = match (arrived, same_ip, self.filtering) {
            (true, false, _) => Dependence::EndpointIndependent,
            (true, true, Dependence::Unknown | Dependence::AddressAndPortDependent) => {
                Dependence::AddressDependent
            }
            (false, true, _) => Dependence::AddressAndPortDependent,
            // Not from everywhere; whether from another port of a known IP is still open, and most are strict.
            (false, false, Dependence::Unknown | Dependence::EndpointIndependent) => {
                Dependence::AddressAndPortDependent
            }
            (true, true, known) | (false, false, known) => known,
        };
    }

    fn network_changed(&mut self, now: Instant) {
        *self = Self { servers: std::mem::take(&mut self.servers), turn: self.turn, ..Self::default() };
        self.ask = (!self.servers.is_empty()).then_some(now + SETTLE);
    }

    fn use_servers(&mut self, now: Instant, servers: Vec<SocketAddr>) {
        let mut usable: Vec<SocketAddr> = Vec::new();
        for server in servers.into_iter().map(canonical) {
            if scope(server) != Scope::Never && usable.len() < SERVERS_MAX && !usable.contains(&server) {
                usable.push(server);
            }
        }
        let fresh = usable.iter().any(|s| !self.servers.contains(s));
        self.servers = usable;
        if self.servers.is_empty() {
            self.ask = None;
        } else if fresh && self.lacks() {
            self.asked = 0;
            let soon = now + SETTLE;
            self.ask = Some(self.ask.map_or(soon, |at| at.min(soon)));
        }
    }

    /// Whether asking could tell more.
    fn lacks(&self) -> bool {
        let main = main(&self.comparable());
        let latest = latest_per_ip(&main);
        let observers = latest.len();
        match self.behaviour.mapping {
            Dependence::Unknown => true,
            Dependence::EndpointIndependent => observers < 2 || is_contradicted(&latest),
            // Two that disagree may be one liar, and a rule of allocation needs more mappings.
            Dependence::AddressDependent | Dependence::AddressAndPortDependent => {
                observers < 3 || self.behaviour.allocation == Allocation::Unknown
            }
        }
    }

    fn ask(&mut self, cx: &mut Cx<'_, Output>) {
        self.ask = None;
        if self.servers.is_empty() || !self.lacks() {
            return;
        }
        let mut ips: Vec<IpAddr> = Vec::new();
        for n in 0..self.servers.len() {
            let to = self.servers[(self.turn + n) % self.servers.len()];
            if ips.len() < ASKED_AT_ONCE && !ips.contains(&to.ip()) {
                ips.push(to.ip());
                cx.emit(Output::Ask { socket: SocketId::MAIN, to });
            }
        }
        self.turn = (self.turn + ips.len()) % self.servers.len();
        let rest = ASK_AGAIN_MIN.saturating_mul(1 << self.asked.min(8)).min(ASK_AGAIN_MAX);
        self.asked = self.asked.saturating_add(1);
        self.asked_at = Some(cx.now);
        self.ask = Some(cx.now + cx.rng.jitter(rest, 20));
    }

    fn conclude(&mut self, cx: &mut Cx<'_, Output>) {
        let judged = self.judge();
        if judged != self.behaviour {
            self.behaviour = judged;
            cx.emit(Output::Changed);
        }
        if !self.lacks() {
            self.ask = None;
            self.asked = 0;
        } else if self.ask.is_none() && !self.servers.is_empty() {
            let earliest = self.asked_at.map_or(cx.now, |at| at + ASK_AGAIN_MIN);
            self.ask = Some((cx.now + SETTLE).max(earliest));
        }
    }
}

impl Machine for Observer {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Observed { by, socket, mapped } => self.observed(cx.now, by, socket, mapped),
            Input::LocalAddrs(mut addrs) => {
                addrs.truncate(LOCAL_ADDRS_MAX);
                self.local = addrs.into_iter().map(canonical).collect();
            }
            Input::Bound { socket, local } => {
                if self.bound.len() < SOCKETS_MAX || self.bound.contains_key(&socket) {
                    self.bound.insert(socket, local);
                }
                self.seen.retain(|o| o.socket != socket || socket == SocketId::MAIN);
            }
            Input::Unsolicited { from, ip_written } => {
                // Who sits in our own network is before the filter.
                if scope(canonical(from)) == Scope::Public {
                    self.filter_seen(ip_written, true);
                }
            }
            Input::DialledBack { same_ip, arrived } => self.filter_seen(same_ip, arrived),
            Input::Hairpin(works) => self.hairpin = Some(works),
            Input::Idled { idle, alive } => self.idled(idle, alive),
            Input::Servers(servers) => self.use_servers(cx.now, servers),
            Input::NetworkChanged => self.network_changed(cx.now),
        }
        self.conclude(cx);
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        if self.ask.is_some_and(|at| at <= cx.now) {
            self.ask(cx);
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        self.ask.map(|at| Deadline::new(at, "ask where others see us"))
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Who counts as one observer: an IPv4 address, or the /64 of an IPv6 address.
fn observer(o: &Observation) -> IpAddr {
    match o.by.ip() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Those of the main socket.
fn main(seen: &[Observation]) -> Vec<Observation> {
    seen.iter().filter(|o| o.socket == SocketId::MAIN).copied().collect()
}

/// The latest word of each observer.
fn latest_per_ip(seen: &[Observation]) -> Vec<Observation> {
    let mut out: Few<IpAddr, Observation> = Few::new();
    for o in seen {
        match out.get_mut(&observer(o)) {
            Some(latest) if latest.at > o.at => {}
            Some(latest) => *latest = *o,
            None => drop(out.insert(observer(o), *o)),
        }
    }
    out.values().copied().collect()
}

/// What more than half of two or more say.
fn majority<T: Copy>(votes: &[(T, usize)]) -> Option<T> {
    let all: usize = votes.iter().map(|(_, n)| n).sum();
    votes.first().filter(|(_, n)| all > 1 && n * 2 > all).map(|(what, _)| *what)
}

/// Whether somebody has said something else since a member of the majority last spoke.
fn is_contradicted(latest: &[Observation]) -> bool {
    let Some(believed) = majority(&count(latest.iter().map(|o| o.mapped))) else { return false };
    let last = |of: bool| latest.iter().filter(|o| (o.mapped == believed) == of).map(|o| o.at).max();
    last(false) > last(true)
}

/// The IPs at which others see us, most said first. One that a single observer names is left out where most name another.
fn believed_ips(seen: &[Observation]) -> Vec<IpAddr> {
    let votes = count(latest_per_ip(seen).into_iter().map(|o| o.mapped.ip()));
    let alone = majority(&votes).is_none();
    votes.into_iter().filter(|(_, n)| *n > 1 || alone).map(|(ip, _)| ip).collect()
}

/// What was said how often, most first.
fn count<T: Ord + Copy>(said: impl Iterator<Item = T>) -> Vec<(T, usize)> {
    let mut count: Few<T, usize> = Few::new();
    for what in said {
        *count.get_or_insert_with(what, || 0) += 1;
    }
    let mut out: Vec<(T, usize)> = count.iter().map(|(what, n)| (*what, *n)).collect();
    out.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    out
}

/// How the main socket's mapping depends on who is written to; `votes` are the words of different IPs.
fn mapping(main: &[Observation], votes: &[(SocketAddr, usize)]) -> Dependence {
    let observers: usize = votes.iter().map(|(_, n)| n).sum();
    let most = votes.first().map_or(0, |(_, n)| *n);
    // Each observer with several ports is one witness: to the mapping's dependence on ports, or against it.
    let mut witnesses: Few<IpAddr, bool> = Few::new();
    for (i, a) in main.iter().enumerate() {
        for b in main[i + 1..].iter().filter(|b| observer(a) == observer(b)) {
            *witnesses.get_or_insert_with(observer(a), || false) |= a.mapped != b.mapped;
        }
    }
    let differ = witnesses.values().filter(|differ| **differ).count();
    let same = witnesses.len() - differ;
    if observers < 2 {
        // One IP that sees two mappings at two of its ports says that much at least.
        return if differ > same { Dependence::AddressAndPortDependent } else { Dependence::Unknown };
    }
    if most * 2 > observers {
        return Dependence::EndpointIndependent;
    }
    if same > differ { Dependence::AddressDependent } else { Dependence::AddressAndPortDependent }
}

/// The step, if the ports of successive mappings lie close together. Answers overtake each other, so that the ports are put
/// in order first; one that lies far off (a lie, or a mapping of yesterday) is left out where there are enough others. With
/// it the port that came last in this order.
fn sequence(ports: &[u16]) -> Option<(i16, u16)> {
    let mut sorted = ports.to_vec();
    sorted.sort_unstable();
    let close = |ports: &[u16]| ports.windows(2).all(|w| w[1] - w[0] <= STEP_MAX);
    let runs: [&[u16]; 3] = [&sorted, sorted.get(1..)?, sorted.get(..sorted.len() - 1)?];
    let spared = usize::from(sorted.len() > SAMPLES_MIN);
    let run = runs.iter().take(1 + 2 * spared).find(|run| run.len() >= SAMPLES_MIN && close(run))?;
    let step = run.windows(2).map(|w| w[1] - w[0]).filter(|gap| *gap > 0).min()?;
    let step = i16::try_from(step).ok()?;
    let kept: Vec<u16> = ports.iter().filter(|p| run.contains(p)).copied().collect();
    let pairs = kept.iter().enumerate().flat_map(|(i, a)| kept[i + 1..].iter().map(move |b| b > a));
    let (up, down): (Vec<bool>, Vec<bool>) = pairs.partition(|rises| *rises);
    let foremost = if up.len() >= down.len() { run.last() } else { run.first() };
    Some((if up.len() >= down.len() { step } else { -step }, *foremost?))
}
