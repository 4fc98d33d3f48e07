//! Boxes by the names people give them.

use super::{Allocation, BoxSpec, Dependence, FirewallSpec, NatSpec};
use crate::draw::Draw;
use serde::{Deserialize, Serialize};

/// What a host is connected through.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A public address.
    Open,
    /// Endpoint-independent mapping, lets everybody in.
    FullCone,
    /// Endpoint-independent mapping, lets in addresses that were sent to.
    RestrictedCone,
    /// Endpoint-independent mapping, lets in endpoints that were sent to: most homes.
    PortRestricted,
    /// A mapping for each destination, ports one after the other.
    SymmetricSequential,
    /// A mapping for each destination, ports at random: many mobile and company networks.
    SymmetricRandom,
    /// A home of the usual kind behind a carrier of the usual kind.
    DoubleNat,
    /// No UDP gets out; TCP does.
    UdpBlocked,
    /// A public address behind a firewall that lets in answers only.
    OutboundOnly,
    /// A public IPv6 address behind such a firewall, beside IPv4 behind a symmetric carrier: a mobile network.
    Ipv6,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 10] = [
        Kind::Open,
        Kind::FullCone,
        Kind::RestrictedCone,
        Kind::PortRestricted,
        Kind::SymmetricSequential,
        Kind::SymmetricRandom,
        Kind::DoubleNat,
        Kind::UdpBlocked,
        Kind::OutboundOnly,
        Kind::Ipv6,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Open => "open",
            Kind::FullCone => "full-cone",
            Kind::RestrictedCone => "restricted-cone",
            Kind::PortRestricted => "port-restricted",
            Kind::SymmetricSequential => "symmetric-sequential",
            Kind::SymmetricRandom => "symmetric-random",
            Kind::DoubleNat => "double-nat",
            Kind::UdpBlocked => "udp-blocked",
            Kind::OutboundOnly => "outbound-only",
            Kind::Ipv6 => "ipv6",
        }
    }

    /// The boxes between such a host and the IPv4 Internet, the farthest first.
    pub fn chain(self) -> Vec<BoxSpec> {
        let usual = NatSpec::default();
        let nat = |mapping, filtering, allocation| {
            vec![BoxSpec::Nat(NatSpec { mapping, filtering, allocation, ..usual })]
        };
        use Dependence::{Address, AddressAndPort, Independent};
        match self {
            Kind::Open => Vec::new(),
            Kind::FullCone => nat(Independent, Independent, Allocation::Preserving),
            Kind::RestrictedCone => nat(Independent, Address, Allocation::Preserving),
            Kind::PortRestricted => nat(Independent, AddressAndPort, Allocation::Preserving),
            Kind::SymmetricSequential => nat(AddressAndPort, AddressAndPort, Allocation::Sequential(1)),
            Kind::SymmetricRandom | Kind::Ipv6 => nat(AddressAndPort, AddressAndPort, Allocation::Random),
            Kind::DoubleNat => vec![Kind::carrier(false), BoxSpec::Nat(usual)],
            Kind::UdpBlocked => vec![BoxSpec::UdpBlocked],
            Kind::OutboundOnly => vec![BoxSpec::Firewall(FirewallSpec::default())],
        }
    }

    /// The boxes between such a host and the IPv6 Internet, the farthest first; `None` when it has no IPv6.
    pub fn chain6(self) -> Option<Vec<BoxSpec>> {
        match self {
            Kind::Ipv6 => Some(vec![BoxSpec::Firewall(FirewallSpec::default())]),
            Kind::Open
            | Kind::FullCone
            | Kind::RestrictedCone
            | Kind::PortRestricted
            | Kind::SymmetricSequential
            | Kind::SymmetricRandom
            | Kind::DoubleNat
            | Kind::UdpBlocked
            | Kind::OutboundOnly => None,
        }
    }

    /// A carrier's translator of the kind RFC 6888 asks for: endpoint-independent mapping, ports at random.
    pub fn carrier(hairpin: bool) -> BoxSpec {
        BoxSpec::Nat(NatSpec { allocation: Allocation::Random, hairpin, ..NatSpec::default() })
    }

    /// One of [`POPULATION`], as often as it is there.
    pub fn draw(draw: &mut Draw) -> Kind {
        let all: u32 = POPULATION.iter().map(|(_, weight)| weight).sum();
        let mut rest = draw.below(u64::from(all)) as u32;
        for (kind, weight) in POPULATION {
            match rest.checked_sub(weight) {
                None => return kind,
                Some(less) => rest = less,
            }
        }
        Kind::PortRestricted
    }
}

/// How often each kind comes among hosts that are not public, in per mille.
///
/// Calibrated to the one large field study: of 4.4 million hole punches of DCUtR between hosts that had a relay and knew
/// their public address, in 85,000 networks, 70 % ± 7.1 % succeeded (arXiv 2510.27500). The study publishes who
/// succeeded, not the kinds of translators, so the weights are ours: most are homes with the usual router, and there are
/// so many hard ones that punching without guessing joins two thirds of all pairs and any bounded technique three quarters,
/// both within the study's error. `UdpBlocked` stands for whatever no
/// technique overcomes: blocked ports, VPNs, addresses that are wrong.
pub const POPULATION: [(Kind, u32); 7] = [
    (Kind::FullCone, 70),
    (Kind::RestrictedCone, 90),
    (Kind::PortRestricted, 560),
    (Kind::DoubleNat, 75),
    (Kind::SymmetricSequential, 30),
    (Kind::SymmetricRandom, 45),
    (Kind::UdpBlocked, 130),
];
