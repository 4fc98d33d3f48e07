//! What two kinds of connection allow, whoever tries: the simulator's oracle, asked about the boxes of the lab.

use crate::kind::{Dependence, Kind, Nat};
use remote_network_sim::nat::{self, Allocation, BoxSpec, FirewallSpec, NatSpec};
use remote_network_sim::oracle::{Level, Stand, direct_possible, plain_possible};

/// What can become of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A direct path: both send to where servers see the other, and answer what they hear.
    Direct,
    /// A direct path, once a port is guessed.
    Guess,
    /// Only relayed.
    Relayed,
}

impl Verdict {
    /// Whether there can be a direct path.
    pub const fn is_direct(self) -> bool {
        matches!(self, Verdict::Direct | Verdict::Guess)
    }
}

/// The verdict on two kinds. The two homes of a carrier are judged as a pair behind one box.
pub fn verdict(a: Kind, b: Kind) -> Verdict {
    let shared = a == b && matches!(a, Kind::CarrierHairpin | Kind::CarrierPlain);
    let (a, b) = (stand(a, 0, shared), stand(b, 1, shared));
    match (direct_possible(&a, &b), plain_possible(&a, &b)) {
        (true, true) => Verdict::Direct,
        (true, false) => Verdict::Guess,
        (false, _) => Verdict::Relayed,
    }
}

/// The data sheet of what lies between a host and the internet. `side` tells the networks of two hosts apart; the
/// outermost is the same for both if it is shared.
fn stand(kind: Kind, side: u32, shared: bool) -> Stand {
    let specs: Vec<BoxSpec> = match kind {
        Kind::OutboundOnly => vec![BoxSpec::Firewall(FirewallSpec::default())],
        Kind::UdpBlocked => vec![BoxSpec::UdpBlocked],
        _ => kind.chain().iter().map(spec).collect(),
    };
    let last = specs.len().saturating_sub(1);
    let level = |(n, spec): (usize, BoxSpec)| {
        let of_both = shared && n == last;
        let place = u32::try_from(n).unwrap_or(u32::MAX);
        Level { network: if of_both { 100 } else { 1 + side * 10 + place }, spec }
    };
    let v6 = (kind == Kind::Ipv6)
        .then(|| vec![Level { network: 50 + side, spec: BoxSpec::Firewall(FirewallSpec::default()) }]);
    Stand { v4: specs.into_iter().enumerate().map(level).collect(), v6 }
}

fn spec(nat: &Nat) -> BoxSpec {
    let filtering = match nat.filtering {
        Dependence::Independent => nat::Dependence::Independent,
        Dependence::Address => nat::Dependence::Address,
        Dependence::AddressAndPort => nat::Dependence::AddressAndPort,
    };
    let (mapping, allocation) = if nat.random {
        (nat::Dependence::AddressAndPort, Allocation::Random)
    } else {
        (nat::Dependence::Independent, Allocation::Preserving)
    };
    BoxSpec::Nat(NatSpec { mapping, filtering, allocation, hairpin: nat.hairpin, ..NatSpec::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_does_not_depend_on_the_order() {
        for a in Kind::ALONE {
            for b in Kind::ALONE {
                assert_eq!(verdict(a, b), verdict(b, a));
            }
        }
    }

    #[test]
    fn the_well_known_cases() {
        use Kind::*;
        assert_eq!(verdict(PortRestricted, PortRestricted), Verdict::Direct);
        assert_eq!(verdict(PortRestricted, SymmetricRandom), Verdict::Guess);
        assert_eq!(verdict(OutboundOnly, SymmetricRandom), Verdict::Guess);
        assert_eq!(verdict(RestrictedCone, SymmetricRandom), Verdict::Direct);
        assert_eq!(verdict(SymmetricRandom, SymmetricRandom), Verdict::Relayed);
        assert_eq!(verdict(UdpBlocked, Open), Verdict::Relayed);
        assert_eq!(verdict(Ipv6, Ipv6), Verdict::Direct);
        assert_eq!(verdict(Ipv6, SymmetricRandom), Verdict::Relayed);
        assert_eq!(verdict(CarrierHairpin, CarrierHairpin), Verdict::Direct);
        assert_eq!(verdict(CarrierPlain, CarrierPlain), Verdict::Relayed);
    }
}
