//! Which way to punch, and at whom.
//!
//! Both sides decide from the same two offers and the same attempt number, each for itself, and come to roles that fit.
//!
//! | one side's mapping | the other's | what is done |
//! |---|---|---|
//! | endpoint-independent | the same | both write to each other's candidates at the same moment |
//! | hard, ports foretold | endpoint-independent | this too, and the easy side writes to a window of foretold ports |
//! | hard, ports foretold | the same | both write to each other's windows, one with double stride (below) |
//! | hard, ports random | endpoint-independent | birthday: the hard side opens many ports, the easy side guesses one |
//! | hard, ports random | hard | only candidates: to guess both takes 170,000 probes, half an hour |
//!
//! **Two windows.** Let the hard sides be off in what they foretold by *a* and *b*: the *k*-th probe of the first, to port
//! *q + k*, leaves from *p + a + k*; the *j*-th of the second, to *p + σj*, leaves from *q + b + j*. They meet where
//! *k = b + j* and *σj = a + k*. With stride σ = 1 that is only so if *a + b = 0*; with σ = 2 it is always so, at
//! *j = a + b*. So who answers takes double strides.
//!
//! **Safety.** Everything in an offer was written by the peer. It decides where we send at most 16 × 9 small packets in an
//! attempt, so: only unicast addresses; private ones only if the peer is seen behind our own NAT or the address is in a subnet
//! of ours; ports of servers only at an IP address that somebody else has seen the peer at. And only to such a seen, public
//! IPv4 address goes a window or a birthday spray. (NATs of IPv6 keep ports; there is nothing to guess.)

use super::message::{CANDIDATES_MAX, Offer};
use crate::dht::endpoint::{Scope, scope};
use crate::path::behaviour::{Allocation, Behaviour, Dependence};
use crate::rng::Rng;
use std::net::{IpAddr, SocketAddr};

/// Foretold ports that are tried.
pub const WINDOW: usize = 64;
/// Of these so many lie behind the next one: what was foretold may be told late.
const WINDOW_BEHIND: i32 = 16;
/// The lowest port a NAT maps to, and that is probed where nobody confirms the address.
const PORT_MIN: u16 = 1_024;
/// Ports from there.
const PORTS: u64 = 65_536 - PORT_MIN as u64;
/// What fails so often in a row is tried by other means.
const PERSISTENT_FROM: u32 = 4;

/// Who does what in birthday probing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Behind the hard NAT: opens sockets.
    Opener,
    /// Guesses ports.
    Guesser,
}

/// What is done beside writing to candidates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Plan {
    /// Foretold addresses of the peer.
    pub window: Vec<SocketAddr>,
    /// Birthday probing, and at whom: the peer's addresses for who opens, any port of its IP for who guesses.
    pub birthday: Option<(Role, Vec<SocketAddr>)>,
    /// Whether the peer writes to a window of ours.
    pub foretold: bool,
    /// Nothing of this can work, unless the offers are wrong.
    pub hopeless: bool,
}

/// What happens in this attempt. `asked` is who sent the connect; `seen` where others have seen the peer.
pub(super) fn plan(mine: &Offer, theirs: &Offer, attempt: u32, asked: bool, seen: &[IpAddr]) -> Plan {
    let (m, t) = (&mine.behaviour, &theirs.behaviour);
    let persistent = attempt >= PERSISTENT_FROM;
    let birthday = mine.birthday && theirs.birthday && m.is_hard() != t.is_hard() && {
        let (hard, easy) = if m.is_hard() { (m, t) } else { (t, m) };
        // An address of one's own may still have a firewall before it.
        let strict = matches!(easy.filtering, Dependence::Unknown | Dependence::AddressAndPortDependent);
        persistent || (!is_foretold(hard) && strict)
    };
    let both = is_foretold(m) && is_foretold(t);
    let stride = match (both, asked) {
        (false, _) => None,
        (true, true) => Some(1),
        (true, false) => Some(2),
    };
    let role = if m.is_hard() { Role::Opener } else { Role::Guesser };
    Plan {
        window: if birthday { Vec::new() } else { window(theirs, seen, stride) },
        birthday: birthday.then(|| (role, targets(theirs, seen, role))).filter(|(_, to)| !to.is_empty()),
        foretold: is_foretold(m) && !birthday,
        hopeless: m.is_hard() && t.is_hard() && !both && !lets_in(m) && !lets_in(t),
    }
}

/// Whether packets from any port of a known IP come in.
const fn lets_in(b: &Behaviour) -> bool {
    matches!(b.filtering, Dependence::EndpointIndependent | Dependence::AddressDependent)
}

/// Whether a hard NAT's next port is known.
const fn is_foretold(b: &Behaviour) -> bool {
    b.is_hard() && b.next.is_some() && step(b) != 0
}

const fn step(b: &Behaviour) -> i32 {
    match b.allocation {
        Allocation::Sequential { step } => step as i32,
        Allocation::Preserving => 1,
        Allocation::Unknown | Allocation::Random => 0,
    }
}

/// Whether many packets may go there: a public IPv4 address at which somebody else has seen the peer.
fn is_confirmed(addr: SocketAddr, seen: &[IpAddr]) -> bool {
    addr.is_ipv4() && scope(addr) == Scope::Public && seen.contains(&addr.ip())
}

fn window(theirs: &Offer, seen: &[IpAddr], stride: Option<i32>) -> Vec<SocketAddr> {
    let b = &theirs.behaviour;
    let Some(next) = b.next.filter(|next| is_foretold(b) && is_confirmed(*next, seen)) else {
        return Vec::new();
    };
    let count = WINDOW as i32;
    let offsets: Vec<i32> = match stride {
        Some(stride) => (0..count).map(|k| k * stride).collect(),
        None => (0..count - WINDOW_BEHIND).chain((1..=WINDOW_BEHIND).map(|k| -k)).collect(),
    };
    let ports = offsets.iter().map(|k| i32::from(next.port()) + k * step(b));
    let ports = ports.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port >= PORT_MIN);
    ports.map(|port| SocketAddr::new(next.ip(), port)).collect()
}

/// Where birthday probes go: to who guesses at the addresses it has, to who opens at any port of its address.
fn targets(theirs: &Offer, seen: &[IpAddr], role: Role) -> Vec<SocketAddr> {
    let confirmed = |addr: &SocketAddr| is_confirmed(*addr, seen);
    match role {
        Role::Opener => theirs.candidates.iter().copied().filter(confirmed).take(2).collect(),
        Role::Guesser => {
            let told = theirs.behaviour.public_ips.iter().map(|ip| SocketAddr::new(*ip, PORT_MIN));
            told.filter(confirmed).take(1).collect()
        }
    }
}

/// The peer's candidates that may be probed.
pub(super) fn exact(mine: &Offer, theirs: &Offer, seen: &[IpAddr]) -> Vec<SocketAddr> {
    let neighbour = seen.iter().any(|ip| mine.behaviour.public_ips.contains(ip));
    let mut out: Vec<SocketAddr> = Vec::new();
    for addr in theirs.candidates.iter().take(CANDIDATES_MAX) {
        let allowed = match scope(*addr) {
            Scope::Never => false,
            Scope::Public => seen.contains(&addr.ip()) || addr.port() >= PORT_MIN,
            Scope::Private => {
                seen.contains(&addr.ip())
                    || neighbour
                    || mine.candidates.iter().any(|own| same_subnet(own.ip(), addr.ip()))
            }
            Scope::Loopback => mine.candidates.iter().any(|own| scope(*own) == Scope::Loopback),
        };
        if allowed && !mine.candidates.contains(addr) && !out.contains(addr) {
            out.push(*addr);
        }
    }
    out
}

/// Whether two addresses are in one usual subnet: /24, or /64.
fn same_subnet(a: IpAddr, b: IpAddr) -> bool {
    match (a.to_canonical(), b.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..3] == b.octets()[..3],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.octets()[..8] == b.octets()[..8],
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// All ports from [`PORT_MIN`], each once, in an order nobody foresees, and none is remembered: a walk around the ring in
/// strides that share no factor with its size (2^10 · 3^2 · 7). A NAT that hands out ports in blocks meets it evenly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PortWalk {
    at: u64,
    stride: u64,
}

impl PortWalk {
    pub fn new(rng: &mut Rng) -> Self {
        let mut stride = 1 + 2 * rng.below(PORTS / 2);
        while stride.is_multiple_of(3) || stride.is_multiple_of(7) {
            stride += 2;
        }
        Self { at: rng.below(PORTS), stride }
    }

    pub fn next(&mut self) -> u16 {
        self.at = (self.at + self.stride) % PORTS;
        PORT_MIN + self.at as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn offer(mapping: Dependence, allocation: Allocation, candidate: &str) -> Offer {
        let candidate = addr(candidate);
        let hard = mapping != Dependence::EndpointIndependent;
        let behaviour = Behaviour {
            mapping,
            allocation,
            public_ips: vec![candidate.ip()],
            next: hard.then(|| SocketAddr::new(candidate.ip(), 5000)),
            ..Behaviour::default()
        };
        Offer { candidates: vec![candidate], behaviour, birthday: true }
    }

    fn easy() -> Offer {
        offer(Dependence::EndpointIndependent, Allocation::Unknown, "203.0.113.1:4000")
    }

    fn hard(allocation: Allocation) -> Offer {
        offer(Dependence::AddressAndPortDependent, allocation, "203.0.113.2:4000")
    }

    const SEQUENTIAL: Allocation = Allocation::Sequential { step: 2 };

    #[test]
    fn both_sides_come_to_roles_that_fit() {
        let (a, b) = (easy(), hard(Allocation::Random));
        let seen = [a.candidates[0].ip(), b.candidates[0].ip()];
        let (ours, theirs) = (plan(&a, &b, 1, true, &seen), plan(&b, &a, 1, false, &seen));
        assert_eq!(ours.birthday, Some((Role::Guesser, vec![addr("203.0.113.2:1024")])));
        assert_eq!(theirs.birthday, Some((Role::Opener, a.candidates.clone())));
        let off = Offer { birthday: false, ..a };
        assert_eq!(plan(&off, &b, 1, true, &seen).birthday, None);
        assert_eq!(plan(&b, &off, 1, false, &seen).birthday, None);
    }

    #[test]
    fn what_can_be_foretold_is_not_guessed_before_it_failed_thrice() {
        let (a, b) = (easy(), hard(SEQUENTIAL));
        let seen = [b.candidates[0].ip(), a.candidates[0].ip()];
        for attempt in 1..=3 {
            let ours = plan(&a, &b, attempt, true, &seen);
            assert_eq!((ours.window.len(), &ours.birthday), (WINDOW, &None));
            assert_eq!(ours.window[..2], ["203.0.113.2:5000", "203.0.113.2:5002"].map(addr));
            assert!(plan(&b, &a, attempt, false, &seen).foretold);
        }
        assert!(plan(&a, &b, 4, true, &seen).birthday.is_some());
        assert!(plan(&b, &a, 4, false, &seen).birthday.is_some());
    }

    #[test]
    fn a_lenient_filter_needs_no_guessing_and_two_random_nats_have_no_hope() {
        let mut a = easy();
        a.behaviour.filtering = Dependence::AddressDependent;
        let b = hard(Allocation::Random);
        let seen = [b.candidates[0].ip(), a.candidates[0].ip()];
        assert_eq!(plan(&a, &b, 1, true, &seen), Plan::default());
        assert!(plan(&b, &b, 1, true, &seen).hopeless);
        let mut lenient = b.clone();
        lenient.behaviour.filtering = Dependence::EndpointIndependent;
        assert!(!plan(&b, &lenient, 1, true, &seen).hopeless);
    }

    #[test]
    fn two_windows_meet_however_far_both_are_off() {
        let (p, q) = (hard(Allocation::Sequential { step: 1 }), hard(SEQUENTIAL));
        let seen = [p.candidates[0].ip()];
        let (first, second) = (plan(&p, &q, 1, true, &seen).window, plan(&q, &p, 1, false, &seen).window);
        for (a, b) in [(0, 0), (5, 0), (0, 9), (12, 12), (20, 20), (1, 30)] {
            let met = first.iter().zip(0..).any(|(to_q, k)| {
                second
                    .iter()
                    .zip(0..)
                    .any(|(to_p, j)| to_p.port() == 5000 + a + k && to_q.port() == 5000 + 2 * (b + j))
            });
            assert!(met, "off by {a} and {b}");
        }
    }

    #[test]
    fn nothing_is_sprayed_at_an_address_that_nobody_else_confirms() {
        let (a, b) = (easy(), hard(Allocation::Random));
        for seen in [vec![], vec![addr("192.0.2.9:1").ip()]] {
            assert_eq!(plan(&a, &b, 1, true, &seen).birthday, None);
            assert_eq!(plan(&b, &a, 1, true, &seen).birthday, None);
            assert_eq!(plan(&a, &hard(SEQUENTIAL), 1, true, &seen).window, []);
        }
        let private = offer(Dependence::AddressAndPortDependent, SEQUENTIAL, "10.1.2.3:9");
        let seen = [private.candidates[0].ip()];
        assert_eq!(plan(&a, &private, 1, true, &seen).window, []);
        assert_eq!(plan(&a, &private, 9, true, &seen).birthday, None);
    }

    #[test]
    fn strangers_do_not_choose_whom_we_write_to() {
        let told = |candidates: &[&str]| Offer {
            candidates: candidates.iter().map(|c| addr(c)).collect(),
            ..Offer::default()
        };
        let mut mine = told(&["192.168.1.5:4433", "203.0.113.9:4433"]);
        mine.behaviour.public_ips = vec![addr("203.0.113.9:1").ip()];
        let theirs = told(&[
            "192.168.1.6:4433",
            "192.168.2.6:4433",
            "10.0.0.1:4433",
            "127.0.0.1:4433",
            "0.0.0.0:1",
            "255.255.255.255:9999",
            "239.1.1.1:9999",
            "203.0.113.9:4433",
            "192.0.2.1:53",
            "192.0.2.2:5353",
            "192.0.2.2:5353",
            "192.0.2.3:443",
        ]);
        let stranger = [addr("192.0.2.3:1").ip()];
        assert_eq!(
            exact(&mine, &theirs, &stranger),
            ["192.168.1.6:4433", "192.0.2.2:5353", "192.0.2.3:443"].map(addr)
        );
        let neighbour = [addr("203.0.113.9:1").ip()];
        let probed = exact(&mine, &theirs, &neighbour);
        assert!(probed.contains(&addr("10.0.0.1:4433")) && !probed.contains(&addr("127.0.0.1:4433")));
        mine.candidates.push(addr("127.0.0.1:9"));
        assert!(exact(&mine, &theirs, &stranger).contains(&addr("127.0.0.1:4433")));
    }

    #[test]
    fn a_walk_meets_every_port_once() {
        for seed in 0..20 {
            let mut walk = PortWalk::new(&mut Rng::from_seed([seed; 32]));
            let met: BTreeSet<u16> = (0..PORTS).map(|_| walk.next()).collect();
            assert_eq!((met.len() as u64, met.first()), (PORTS, Some(&PORT_MIN)));
        }
    }
}
