//! Whether two hosts can meet at all: from what stands between them, and from nothing else.
//!
//! This is the yardstick for whatever joins hosts, so it shares no code with the product and none with the boxes at work
//! ([`crate::nat`]); it reads their data sheets. A test plays an ideal puncher against the boxes and compares.
//!
//! **What counts.** A direct path is a socket on each side such that what either sends to the other's outer endpoint
//! arrives, and comes from the very endpoint the other sends to: an answer arrives where the question came from. (Between
//! two endpoint-dependent mappings with open filters there are also lopsided ways, on which each side sends to one
//! endpoint and hears from another. No path layer uses them; they do not count.)
//!
//! **What a puncher may do.** It knows its own addresses, those that servers on the Internet see, and what the other side
//! tells it through a relay. It may send at agreed times, open [`SOCKETS`] sockets, try [`PROBES`] ports at random in each
//! of two stages, and predict the ports of a box whose next port does not depend on dice. What would need more is not
//! possible.
//!
//! **Why the rules are so.** Say A is the endpoint that one side's mapping has towards the other, B the other's. Both must
//! come to know the port the other's box uses for *them*.
//!
//! - One side's mapping is endpoint-independent: its A is known from the beginning. The other opens sockets towards it and
//!   has as many B's; either the first side's filter lets one in and it learns B, or it guesses one (256 sockets and 2,048
//!   probes of 64,512 ports: 99.97 %). Always possible.
//! - Both depend on the endpoint, one of them on the address only: its A is one and the same for all ports of the other, so
//!   it can be *found*. Possible if its filter lets in any port of the other (the other finds it by random probes and is
//!   heard), if its A can be predicted, or if the other's filter lets it in first (independent, or by address: it
//!   finds one of the other's open ports and is heard). What remains is an unpredictable A and two strict filters: both
//!   must guess at once, which takes tens of thousands of probes.
//! - Both depend on address and port: A is made by the first packet to B, and B by the first to A. No filter helps, for what
//!   one learns is the endpoint of a mapping that is for another destination. Both must be predicted; to predict one is
//!   not enough, since the other's 256 ports would have to be opened towards each of the predicted ones: half a million
//!   packets.
//!
//! Several boxes in a row map as dependently as the most dependent of them and filter as strictly as the strictest. The
//! next outer port is decided by the outermost that does not preserve it. Predictions hold as long as nobody else gets a
//! port from the same box in that moment.
//!
//! Two hosts behind one box meet within it when they are in the same network there, or when one is and the other gets
//! out to it. Otherwise they meet outside of the outermost translator they share, by its outer addresses, which takes
//! hairpin there. IPv6 has only firewalls: if both have it and UDP passes, they meet.

use crate::nat::{Allocation, BoxSpec, Dependence};
use crate::net::NetworkId;

/// Sockets an ideal puncher opens on one side.
pub const SOCKETS: usize = 256;

/// Random ports it tries in a stage.
pub const PROBES: usize = 2_048;

/// A box on the way, by the network it is the way out of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Level {
    /// The network behind it: equal numbers are one box.
    pub network: NetworkId,
    /// What it is.
    pub spec: BoxSpec,
}

/// What lies between a host and the Internet: the nearest box first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stand {
    /// By IPv4.
    pub v4: Vec<Level>,
    /// By IPv6, if it has any.
    pub v6: Option<Vec<Level>>,
}

/// Boxes in a row, as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Compound {
    mapping: Dependence,
    filtering: Dependence,
    predictable: bool,
    passes_udp: bool,
}

impl Compound {
    fn of(levels: &[Level]) -> Self {
        let open = Compound {
            mapping: Dependence::Independent,
            filtering: Dependence::Independent,
            predictable: true,
            passes_udp: true,
        };
        levels.iter().fold(open, |inner, level| match level.spec {
            BoxSpec::UdpBlocked => Compound { passes_udp: false, ..inner },
            BoxSpec::Firewall(wall) => Compound { filtering: inner.filtering.max(wall.filtering), ..inner },
            BoxSpec::Nat(nat) => Compound {
                mapping: inner.mapping.max(nat.mapping),
                filtering: inner.filtering.max(nat.filtering),
                predictable: match nat.allocation {
                    Allocation::Random => false,
                    Allocation::Sequential(_) => true,
                    // A fixed inner port is as good as known, and so is the one after the last.
                    Allocation::Preserving => inner.predictable || inner.mapping == Dependence::Independent,
                },
                ..inner
            },
        })
    }

    /// Whether its port towards the other side is the same for all ports there, and can be found.
    fn is_findable(&self, other: &Compound) -> bool {
        let strict = Dependence::AddressAndPort;
        self.mapping == Dependence::Address
            && (self.filtering != strict || self.predictable || other.filtering != strict)
    }
}

/// Whether two hosts can have a direct path.
pub fn direct_possible(a: &Stand, b: &Stand) -> bool {
    by_either(a, b, meet)
}

/// Whether punching without any guess joins them: both send to where servers see the other, and answer what they hear.
/// That is what DCUtR and its like do; the field study that the default population is calibrated to measured that.
pub fn plain_possible(a: &Stand, b: &Stand) -> bool {
    by_either(a, b, |a, b| {
        let one = |a: &Compound, b: &Compound| {
            a.mapping == Dependence::Independent
                && (b.mapping == Dependence::Independent || a.filtering != Dependence::AddressAndPort)
        };
        one(a, b) || one(b, a)
    })
}

/// Whether two rows of boxes let those behind them meet, UDP provided.
fn meet(a: &Compound, b: &Compound) -> bool {
    let independent = Dependence::Independent;
    if a.mapping == independent || b.mapping == independent {
        return true;
    }
    if a.mapping == Dependence::AddressAndPort && b.mapping == Dependence::AddressAndPort {
        return a.predictable && b.predictable;
    }
    a.is_findable(b) || b.is_findable(a)
}

fn by_either(a: &Stand, b: &Stand, meet: impl Fn(&Compound, &Compound) -> bool) -> bool {
    let six = a.v6.as_ref().zip(b.v6.as_ref());
    by_family(&a.v4, &b.v4, &meet) || six.is_some_and(|(a, b)| by_family(a, b, &meet))
}

fn by_family(a: &[Level], b: &[Level], meet: &impl Fn(&Compound, &Compound) -> bool) -> bool {
    let shared = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a.network == b.network).count();
    let (own_a, own_b) = (a.get(..a.len() - shared), b.get(..b.len() - shared));
    let (Some(own_a), Some(own_b)) = (own_a, own_b) else { return false };
    let passes = |levels: &[Level]| Compound::of(levels).passes_udp;
    if !passes(own_a) || !passes(own_b) {
        return false;
    }
    // One of them is in the network where they meet, with an address it knows; the other gets out to it.
    if shared > 0 && (own_a.is_empty() || own_b.is_empty()) {
        return true;
    }
    // Their outer addresses are those of the outermost translator; what does not translate is never on the way to an
    // address behind it.
    let common = a.get(a.len() - shared..).unwrap_or_default();
    let Some(turning) = common.iter().rposition(|level| level.spec.translates()) else {
        return meet(&Compound::of(own_a), &Compound::of(own_b));
    };
    let hairpin = common.get(turning).is_some_and(|level| match level.spec {
        BoxSpec::Nat(nat) => nat.hairpin,
        BoxSpec::Firewall(_) | BoxSpec::UdpBlocked => false,
    });
    let until = |levels: &[Level]| {
        let way = levels.get(..levels.len() - shared + turning + 1).unwrap_or_default();
        Compound::of(way)
    };
    let (a, b) = (until(a), until(b));
    hairpin && a.passes_udp && b.passes_udp && meet(&a, &b)
}

#[cfg(test)]
mod tests;
