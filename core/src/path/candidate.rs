//! Candidates: the addresses at which a peer may be reached, as it tells them, and which of them are worth a probe.
//!
//! Each side lists what it knows of itself: the addresses of its interfaces, where others see it, what a router forwards to
//! it, which relays pass packets to it. To try all of one side against all of the other is what makes hole punching slow and
//! rude: most pairs cannot work. So a target is chosen only if a packet can get there: the families match, and a private
//! address is tried only by somebody who is in the same private network as far as he can tell.
//!
//! What a peer tells is a claim. Lists are bounded, what is no unicast address is refused, and what a probe may cost somebody
//! who was named falsely is bounded by [`super::budget`].
//!
//! On the wire a list of candidates is a list of byte strings, `kind ‖ address` (compact), within a dictionary of the frame
//! that carries it. Unknown kinds are passed over: a newer peer may know more ways.

use crate::codec::{DecodeError, Value, compact_addr, parse_compact_addr};
use crate::dht::endpoint::{Scope, scope};
use std::net::{IpAddr, SocketAddr};

/// Candidates of one kind in a list: a machine with more interfaces than this is reachable by one of the first.
pub const PER_KIND_MAX: usize = 8;
/// Candidates in a list.
pub const CANDIDATES_MAX: usize = 16;
/// Items read of a list on the wire: room for kinds of the future.
const ITEMS_MAX: usize = 64;

/// How a candidate was learnt by the side that tells it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CandidateKind {
    /// An interface has it.
    Host,
    /// Others see us there.
    Reflexive,
    /// A router forwards it to us (PCP, NAT-PMP, UPnP).
    Mapped,
    /// Neighbours of the local network found us there.
    Lan,
    /// A relay passes packets on from there.
    Relayed,
}

impl CandidateKind {
    const ALL: [CandidateKind; 5] = [
        CandidateKind::Host,
        CandidateKind::Reflexive,
        CandidateKind::Mapped,
        CandidateKind::Lan,
        CandidateKind::Relayed,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            CandidateKind::Host => 1,
            CandidateKind::Reflexive => 2,
            CandidateKind::Mapped => 3,
            CandidateKind::Lan => 4,
            CandidateKind::Relayed => 5,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            CandidateKind::Host => "host",
            CandidateKind::Reflexive => "reflexive",
            CandidateKind::Mapped => "mapped",
            CandidateKind::Lan => "lan",
            CandidateKind::Relayed => "relayed",
        }
    }
}

/// An address at which somebody may be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// How it was learnt.
    pub kind: CandidateKind,
    /// The address; of a relayed one that of the relay.
    pub addr: SocketAddr,
}

/// The candidates of one side: usable, distinct, bounded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Candidates(Vec<Candidate>);

impl Candidates {
    /// Adds one. What cannot be used, is there already or is too much is refused.
    pub fn add(&mut self, kind: CandidateKind, addr: SocketAddr) -> bool {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let candidate = Candidate { kind, addr };
        let of_kind = self.0.iter().filter(|c| c.kind == kind).count();
        let fits = self.0.len() < CANDIDATES_MAX && of_kind < PER_KIND_MAX;
        let good = fits && is_tellable(addr) && self.0.iter().all(|c| c.addr != addr);
        if good {
            self.0.push(candidate);
        }
        good
    }

    /// All, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = Candidate> + '_ {
        self.0.iter().copied()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The form on the wire.
    pub fn to_value(&self) -> Value {
        let item = |c: &Candidate| {
            let mut bytes = vec![c.kind.number()];
            bytes.extend(compact_addr(c.addr));
            Value::Bytes(bytes)
        };
        Value::List(self.0.iter().map(item).collect())
    }

    /// Reads what the peer tells. Unknown kinds and useless addresses are passed over, what is no list of addresses is an error.
    pub fn from_value(value: &Value) -> Result<Self, DecodeError> {
        let wrong = |why: &str| DecodeError::invalid("candidates", why);
        let items = match value {
            Value::List(items) if items.len() <= ITEMS_MAX => items,
            Value::List(_) => return Err(wrong("too many")),
            Value::Int(_) | Value::Bytes(_) | Value::Dict(_) => return Err(wrong("not a list")),
        };
        let mut out = Self::default();
        for item in items {
            let bytes = item.as_bytes().ok_or_else(|| wrong("not a byte string"))?;
            let (kind, addr) = bytes.split_first().ok_or_else(|| wrong("empty"))?;
            let addr = parse_compact_addr(addr).ok_or_else(|| wrong("not a compact address"))?;
            if let Some(kind) = CandidateKind::from_number(*kind) {
                out.add(kind, addr);
            }
        }
        Ok(out)
    }

    /// The IP addresses under which the internet knows this side.
    fn public_ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let of_its_own = |c: &&Candidate| c.kind != CandidateKind::Relayed && scope(c.addr) == Scope::Public;
        self.0.iter().filter(of_its_own).map(|c| c.addr.ip())
    }

    fn has_family_of(&self, addr: SocketAddr) -> bool {
        self.0.iter().any(|c| c.kind != CandidateKind::Relayed && c.addr.is_ipv4() == addr.is_ipv4())
    }
}

/// Whether the address means something to somebody else. An IPv6 link-local one needs an interface, which its compact form
/// cannot name.
fn is_tellable(addr: SocketAddr) -> bool {
    let link_local = matches!(addr.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    scope(addr) != Scope::Never && !link_local
}

/// Where a probe is worth sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The peer's address.
    pub addr: SocketAddr,
    /// How the peer learnt it.
    pub kind: CandidateKind,
    /// Its rank; lower ones go first.
    pub rank: Rank,
}

/// In which order targets are tried: what is likely to work and good when it does goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rank {
    /// The same machine.
    Loopback,
    /// The same private network.
    Local,
    /// IPv6: filters, but no translation, so that the port is known.
    V6,
    /// IPv4 that reaches the peer as it is: its own, or a port that its router forwards.
    V4Open,
    /// IPv4 behind a NAT.
    V4,
    /// Our own public IPv4 address: the NAT would have to send packets back inside, which few do.
    Hairpin,
}

/// The peer's addresses that we should probe, best first. `private_networks`: our configuration says that we live in one.
///
/// A side that knows nothing of itself tries every family. Relayed candidates are no targets: a relay is reached by a
/// connection.
pub fn targets(ours: &Candidates, theirs: &Candidates, private_networks: bool) -> Vec<Target> {
    let site = Site {
        ours,
        private_networks,
        same_nat: ours.public_ips().any(|ip| theirs.public_ips().any(|other| same_public(ip, other))),
        same_machine: shares_interface(ours, theirs),
    };
    let mut out: Vec<Target> = theirs
        .iter()
        .filter(|c| c.kind != CandidateKind::Relayed && ours.iter().all(|own| own.addr != c.addr))
        .filter_map(|c| Some(Target { addr: c.addr, kind: c.kind, rank: site.rank(c)? }))
        .collect();
    out.sort_by_key(|t| t.rank);
    out
}

/// What we know of where both sides are.
struct Site<'a> {
    ours: &'a Candidates,
    private_networks: bool,
    same_nat: bool,
    same_machine: bool,
}

impl Site<'_> {
    fn rank(&self, theirs: Candidate) -> Option<Rank> {
        let addr = theirs.addr;
        match scope(addr) {
            Scope::Never => None,
            Scope::Loopback => (self.private_networks || self.same_machine).then_some(Rank::Loopback),
            Scope::Private => {
                let near = self.ours.iter().any(|own| same_subnet(own.addr.ip(), addr.ip()));
                (self.private_networks || self.same_nat || near).then_some(Rank::Local)
            }
            Scope::Public if !self.ours.is_empty() && !self.ours.has_family_of(addr) => None,
            Scope::Public if addr.is_ipv6() => Some(Rank::V6),
            Scope::Public if self.ours.public_ips().any(|own| own == addr.ip()) => Some(Rank::Hairpin),
            Scope::Public => match theirs.kind {
                CandidateKind::Host | CandidateKind::Mapped => Some(Rank::V4Open),
                CandidateKind::Reflexive | CandidateKind::Lan | CandidateKind::Relayed => Some(Rank::V4),
            },
        }
    }
}

/// Behind one NAT both have one IPv4 address; one site has one IPv6 /64.
fn same_public(a: IpAddr, b: IpAddr) -> bool {
    match (a, b) {
        (IpAddr::V6(a), IpAddr::V6(b)) => a.octets()[..8] == b.octets()[..8],
        (IpAddr::V4(_) | IpAddr::V6(_), _) => a == b,
    }
}

/// Whether two private addresses are likely on one link. Netmasks are not told; /24 and /64 are what almost all networks have.
fn same_subnet(a: IpAddr, b: IpAddr) -> bool {
    let private = |ip| scope(SocketAddr::new(ip, 9)) == Scope::Private;
    let near = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..3] == b.octets()[..3],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.octets()[..8] == b.octets()[..8],
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    };
    near && private(a) && private(b)
}

/// Two nodes whose interfaces have the same private address, seen from the same public one, sit on the same machine.
fn shares_interface(ours: &Candidates, theirs: &Candidates) -> bool {
    let interfaces = |c: &Candidate| matches!(c.kind, CandidateKind::Host | CandidateKind::Lan);
    let shared = |kind_ours: fn(SocketAddr) -> bool| {
        ours.iter()
            .filter(interfaces)
            .filter(|c| kind_ours(c.addr))
            .any(|own| theirs.iter().filter(interfaces).any(|other| other.addr.ip() == own.addr.ip()))
    };
    let same_public = ours.public_ips().any(|ip| theirs.public_ips().any(|other| other == ip));
    shared(|addr| scope(addr) == Scope::Public)
        || (same_public && shared(|addr| scope(addr) == Scope::Private))
}

#[cfg(test)]
mod tests {
    use super::CandidateKind::{Host, Lan, Mapped, Reflexive, Relayed};
    use super::*;
    use proptest::prelude::*;

    fn list(of: &[(CandidateKind, &str)]) -> Candidates {
        let mut out = Candidates::default();
        for (kind, addr) in of {
            assert!(out.add(*kind, addr.parse().unwrap()), "{addr}");
        }
        out
    }

    fn tried(ours: &[(CandidateKind, &str)], theirs: &[(CandidateKind, &str)]) -> Vec<String> {
        targets(&list(ours), &list(theirs), false).iter().map(|t| t.addr.to_string()).collect()
    }

    #[test]
    fn what_is_no_address_of_a_peer_is_refused() {
        let mut c = Candidates::default();
        for bad in [
            "8.8.8.8:0",
            "0.0.0.0:9",
            "224.0.0.1:9",
            "255.255.255.255:9",
            "[::]:9",
            "[ff02::1]:9",
            "[fe80::1]:9",
        ] {
            assert!(!c.add(Host, bad.parse().unwrap()), "{bad}");
        }
        assert!(c.add(Host, "8.8.8.8:9".parse().unwrap()));
        assert!(!c.add(Reflexive, "[::ffff:8.8.8.8]:9".parse().unwrap()), "the same, dressed as IPv6");
        assert_eq!(c.len(), 1);
    }

    #[test]
    fn a_list_holds_eight_of_a_kind_and_sixteen_in_all() {
        let mut c = Candidates::default();
        let mut add =
            |kind| (1..=20u16).filter(|n| c.add(kind, ([203, 0, 113, kind.number()], *n).into())).count();
        assert_eq!((add(Host), add(Reflexive), add(Lan)), (8, 8, 0));
    }

    #[test]
    fn behind_one_router_the_private_address_goes_first() {
        let us = [(Host, "192.168.1.5:9"), (Reflexive, "203.0.113.1:9")];
        let them = [(Reflexive, "203.0.113.1:7"), (Host, "192.168.1.6:9"), (Host, "10.0.0.6:9")];
        assert_eq!(tried(&us, &them), ["192.168.1.6:9", "10.0.0.6:9", "203.0.113.1:7"]);
    }

    #[test]
    fn strangers_never_make_us_probe_our_private_network() {
        let us = [(Host, "192.168.1.5:9"), (Reflexive, "203.0.113.1:9")];
        let them = [
            (Reflexive, "198.51.100.1:7"),
            (Host, "10.0.0.6:9"),
            (Host, "127.0.0.1:9"),
            (Lan, "192.168.2.1:9"),
        ];
        assert_eq!(tried(&us, &them), ["198.51.100.1:7"]);
        let all = targets(&list(&us), &list(&them), true);
        assert_eq!(all.len(), 4, "a private network by configuration is one");
        assert_eq!(all[0].rank, Rank::Loopback);
    }

    #[test]
    fn the_same_subnet_is_tried_although_the_public_addresses_differ() {
        let us = [(Host, "192.168.1.5:9"), (Reflexive, "203.0.113.1:9")];
        let them = [(Reflexive, "198.51.100.1:7"), (Host, "192.168.1.9:9")];
        assert_eq!(tried(&us, &them), ["192.168.1.9:9", "198.51.100.1:7"]);
    }

    #[test]
    fn nodes_of_one_machine_try_loopback() {
        let us = [(Host, "192.168.1.5:9"), (Reflexive, "203.0.113.1:9")];
        let them = [(Host, "127.0.0.1:7"), (Host, "192.168.1.5:7"), (Reflexive, "203.0.113.1:7")];
        assert_eq!(tried(&us, &them)[0], "127.0.0.1:7");
    }

    #[test]
    fn families_we_do_not_have_are_not_tried_and_six_goes_before_four() {
        let them = [
            (Reflexive, "198.51.100.1:7"),
            (Mapped, "198.51.100.1:8"),
            (Host, "[2001:db8::1]:9"),
            (Relayed, "198.51.100.9:1"),
        ];
        assert_eq!(tried(&[(Reflexive, "203.0.113.1:9")], &them), ["198.51.100.1:8", "198.51.100.1:7"]);
        assert_eq!(tried(&[(Host, "[2001:db8:1::1]:9")], &them), ["[2001:db8::1]:9"]);
        assert_eq!(tried(&[], &them).len(), 3, "who knows nothing of itself tries all");
        assert_eq!(tried(&[], &them)[0], "[2001:db8::1]:9");
    }

    #[test]
    fn we_are_never_our_own_target() {
        assert!(tried(&[(Host, "203.0.113.1:9")], &[(Host, "203.0.113.1:9")]).is_empty());
    }

    #[test]
    fn a_list_comes_out_of_the_wire_as_it_went_in_and_newer_kinds_are_passed_over() {
        let c = list(&[(Host, "10.0.0.1:9"), (Relayed, "[2001:db8::1]:9"), (Mapped, "203.0.113.1:1")]);
        let bytes = c.to_value().encode();
        assert_eq!(Candidates::from_value(&Value::decode(&bytes, 1_000).unwrap()), Ok(c));
        let newer = Value::List(vec![Value::Bytes(vec![99, 203, 0, 113, 1, 0, 9])]);
        assert_eq!(Candidates::from_value(&newer), Ok(Candidates::default()));
        for bad in [vec![], vec![1], vec![1, 2, 3], vec![1; 20]] {
            assert!(Candidates::from_value(&Value::List(vec![Value::Bytes(bad)])).is_err());
        }
        let many = vec![Value::Bytes(vec![1, 203, 0, 113, 1, 0, 9]); ITEMS_MAX + 1];
        assert!(Candidates::from_value(&Value::List(many)).is_err());
        assert!(Candidates::from_value(&Value::Int(1)).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_told_the_lists_stay_bounded_and_targets_usable(
            items in prop::collection::vec((0..7u8, any::<[u8; 4]>(), any::<u16>(), any::<bool>()), 0..60),
            own in prop::collection::vec((0..5usize, any::<[u8; 4]>(), 1..9u16), 0..8),
            private in any::<bool>(),
        ) {
            let items = items.into_iter().map(|(kind, ip, port, six)| {
                let addr = if six {
                    SocketAddr::from(([u16::from(ip[0]) << 8, u16::from(ip[1]), 0, 0, 0, 0, 0, u16::from(ip[3])], port))
                } else {
                    SocketAddr::from((ip, port))
                };
                Value::Bytes([&[kind][..], &compact_addr(addr)].concat())
            });
            let Ok(theirs) = Candidates::from_value(&Value::List(items.collect())) else { return Ok(()) };
            prop_assert!(theirs.len() <= CANDIDATES_MAX);
            prop_assert_eq!(Candidates::from_value(&theirs.to_value()), Ok(theirs.clone()));
            let mut ours = Candidates::default();
            own.into_iter().for_each(|(kind, ip, port)| { ours.add(CandidateKind::ALL[kind], (ip, port).into()); });
            let targets = targets(&ours, &theirs, private);
            prop_assert!(targets.is_sorted_by_key(|t| t.rank));
            for t in targets {
                prop_assert!(crate::dht::endpoint::usable(t.addr, true) && t.kind != Relayed);
            }
        }
    }
}
