//! What a NAT does, in the terms of RFC 4787, and what that makes possible.
//!
//! The familiar names (full cone … symmetric) mix two properties and hide the third, so nothing is decided by them:
//!
//! - **mapping**: which public port our packets get. Endpoint-independent: one port per socket of ours, whoever is written
//!   to, so what one peer sees is where another can write to. Otherwise each destination sees another port.
//! - **filtering**: whose packets come in by a mapping: anybody's, those of addresses we wrote to, or only those of the very
//!   address and port.
//! - **allocation**: which port the next mapping gets: the socket's own (preserving), the last one's neighbour (sequential), or
//!   any. What can be foretold can be punched without endpoint-independent mapping.
//!
//! [`Observer`] learns these of the node's own NAT; peers tell them to each other when they punch ([`Behaviour::to_dict`]).
//! A peer's word about its own NAT is a hint that can only spoil its own chances; where it would make *us* send packets to
//! somebody, [`super::punch`] asks for a second source.

pub mod observer;
#[cfg(test)]
mod tests;

use crate::codec::{DecodeError, Dict, Value, compact_addr, parse_compact_addr};
use crate::dht::record::NatType;
use crate::time::Duration;
pub use observer::{
    ASK_AGAIN_MAX, ASK_AGAIN_MIN, ASKED_AT_ONCE, Input, OBSERVATION_KEPT, OBSERVATIONS_MAX, Observer, Output,
    SERVERS_MAX,
};
use std::net::{IpAddr, SocketAddr};

/// Public addresses told: a NAT with a pool of more is not worth foretelling.
pub const PUBLIC_IPS_MAX: usize = 4;
/// Largest distance between neighbouring mappings that still is a sequence: other users' mappings lie between ours.
pub const STEP_MAX: u16 = 32;
/// Mappings are kept alive so often while nobody has measured how long they live: RFC 4787 demands two minutes, home
/// routers keep 30 s, carriers less.
pub const KEEPALIVE_DEFAULT: Duration = Duration::from_secs(15);
/// Keep-alives are never farther apart, whatever was measured, nor closer.
const KEEPALIVE_MAX: Duration = Duration::from_secs(60);
const KEEPALIVE_MIN: Duration = Duration::from_secs(2);

/// On what something depends (RFC 4787 sections 4.1 and 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Dependence {
    /// Nobody knows yet.
    #[default]
    Unknown,
    /// On nothing.
    EndpointIndependent,
    /// On the other side's IP address.
    AddressDependent,
    /// On the other side's IP address and port.
    AddressAndPortDependent,
}

/// How ports of new mappings are chosen (RFC 4787 section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Allocation {
    /// Nobody knows yet.
    #[default]
    Unknown,
    /// The socket's own port.
    Preserving,
    /// So far from the last one's, 1 ..= [`STEP_MAX`] upwards or downwards.
    Sequential {
        /// The distance.
        step: i16,
    },
    /// None that can be foretold.
    Random,
}

/// A NAT, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Behaviour {
    /// There is none: others see the node's packets come from an address of its own.
    pub open: bool,
    /// Which public port packets get.
    pub mapping: Dependence,
    /// Whose packets come in.
    pub filtering: Dependence,
    /// Which port a new mapping gets.
    pub allocation: Allocation,
    /// Whether hosts behind it reach each other by its public address.
    pub hairpin: Option<bool>,
    /// How long a mapping lives without packets; measured, at least so long.
    pub lifetime: Option<Duration>,
    /// Its public addresses, the most seen first; at most [`PUBLIC_IPS_MAX`].
    pub public_ips: Vec<IpAddr>,
    /// Where the next mapping of the node's own socket will be, if that can be foretold.
    pub next: Option<SocketAddr>,
}

impl Behaviour {
    /// Of a node that everybody can write to.
    pub fn open() -> Self {
        Self {
            open: true,
            mapping: Dependence::EndpointIndependent,
            filtering: Dependence::EndpointIndependent,
            allocation: Allocation::Preserving,
            ..Self::default()
        }
    }

    /// The familiar name. Filtering that is not known counts as the strictest, which most have.
    pub const fn nat_type(&self) -> NatType {
        match (self.open, self.mapping, self.filtering) {
            (true, _, Dependence::EndpointIndependent | Dependence::Unknown) => NatType::Open,
            (false, Dependence::Unknown, _) => NatType::Unknown,
            (false, Dependence::AddressDependent | Dependence::AddressAndPortDependent, _) => {
                NatType::Symmetric
            }
            (false, Dependence::EndpointIndependent, Dependence::EndpointIndependent) => NatType::FullCone,
            (_, _, Dependence::AddressDependent) => NatType::RestrictedCone,
            (_, _, Dependence::AddressAndPortDependent | Dependence::Unknown) => NatType::PortRestrictedCone,
        }
    }

    /// Whether each destination sees another port: what one peer sees is of no use to another.
    pub const fn is_hard(&self) -> bool {
        !self.open
            && matches!(self.mapping, Dependence::AddressDependent | Dependence::AddressAndPortDependent)
    }

    /// Whether packets of anybody come in.
    pub const fn is_reachable(&self) -> bool {
        matches!(self.nat_type(), NatType::Open | NatType::FullCone)
    }

    /// Whether two descriptions are of the same NAT in the same network: what is worth a new attempt when it differs. Which
    /// port comes next changes with every mapping and says nothing.
    pub fn is_like(&self, other: &Behaviour) -> bool {
        let sorted = |b: &Behaviour| {
            let mut ips = b.public_ips.clone();
            ips.sort();
            ips
        };
        // Filtering that is not known is taken for the strictest, so nothing changes when it is found to be.
        let filtering = |b: &Behaviour| match b.filtering {
            Dependence::Unknown => Dependence::AddressAndPortDependent,
            known => known,
        };
        (self.open, self.mapping, filtering(self)) == (other.open, other.mapping, filtering(other))
            && std::mem::discriminant(&self.allocation) == std::mem::discriminant(&other.allocation)
            && sorted(self) == sorted(other)
    }

    /// How often a mapping must be used to stay: half of its measured life.
    pub fn keepalive(&self) -> Duration {
        self.lifetime.map_or(KEEPALIVE_DEFAULT, |life| (life / 2).clamp(KEEPALIVE_MIN, KEEPALIVE_MAX))
    }

    /// For people.
    pub fn words(&self) -> String {
        let on = |d: Dependence| match d {
            Dependence::Unknown => "unknown",
            Dependence::EndpointIndependent => "endpoint-independent",
            Dependence::AddressDependent => "address-dependent",
            Dependence::AddressAndPortDependent => "address- and port-dependent",
        };
        let name = self.nat_type().as_str();
        let ports = match self.allocation {
            Allocation::Unknown => "unknown".to_owned(),
            Allocation::Preserving => "preserved".to_owned(),
            Allocation::Sequential { step } => format!("in steps of {step}"),
            Allocation::Random => "random".to_owned(),
        };
        let mut words =
            format!("{name}; mapping {}, filtering {}, ports {ports}", on(self.mapping), on(self.filtering));
        if let Some(works) = self.hairpin {
            words.push_str(if works { ", hairpin" } else { ", no hairpin" });
        }
        if let Some(life) = self.lifetime {
            words.push_str(&format!(", mappings live {} s", life.as_secs()));
        }
        words
    }

    /// The form on the wire. What is not known is not written.
    pub fn to_dict(&self) -> Dict {
        let number = |d: Dependence| (d != Dependence::Unknown).then_some(d as u64);
        let (allocation, step) = match self.allocation {
            Allocation::Unknown => (None, None),
            Allocation::Preserving => (Some(1u64), None),
            Allocation::Sequential { step } => (Some(2), Some(Value::Int(step.into()))),
            Allocation::Random => (Some(3), None),
        };
        let ips = self.public_ips.iter().take(PUBLIC_IPS_MAX).map(|ip| match ip.to_canonical() {
            IpAddr::V4(ip) => Value::Bytes(ip.octets().to_vec()),
            IpAddr::V6(ip) => Value::Bytes(ip.octets().to_vec()),
        });
        Dict::new()
            .with_some("a", allocation)
            .with_some("f", number(self.filtering))
            .with_some("h", self.hairpin.map(u64::from))
            .with("i", ips.collect::<Vec<_>>())
            .with_some("l", self.lifetime.map(|life| life.as_secs()))
            .with_some("m", number(self.mapping))
            .with_some("n", self.next.map(|addr| Value::Bytes(compact_addr(addr))))
            .with_some("o", self.open.then_some(1u64))
            .with_some("s", step)
    }

    /// Reads the form on the wire. Numbers of a newer peer are unknown.
    pub fn from_dict(d: &Dict) -> Result<Self, DecodeError> {
        let dependence = |key| {
            Ok::<_, DecodeError>(match d.u64_opt(key)? {
                Some(1) => Dependence::EndpointIndependent,
                Some(2) => Dependence::AddressDependent,
                Some(3) => Dependence::AddressAndPortDependent,
                Some(_) | None => Dependence::Unknown,
            })
        };
        let flag = |key| d.get(key).map(|_| d.flag(key)).transpose();
        let ips = d.list("i", PUBLIC_IPS_MAX)?.iter().map(|v| v.as_bytes().and_then(read_ip));
        let ips: Option<Vec<IpAddr>> = ips.collect();
        let lifetime = d.u64_opt("l")?.map(Duration::from_secs);
        let next = d.get("n").map(|v| {
            v.as_bytes()
                .and_then(parse_compact_addr)
                .ok_or_else(|| DecodeError::invalid("n", "not a compact address"))
        });
        Ok(Self {
            open: flag("o")?.unwrap_or(false),
            mapping: dependence("m")?,
            filtering: dependence("f")?,
            allocation: match d.u64_opt("a")? {
                Some(1) => Allocation::Preserving,
                Some(2) => Allocation::Sequential { step: read_step(d)? },
                Some(3) => Allocation::Random,
                Some(_) | None => Allocation::Unknown,
            },
            hairpin: flag("h")?,
            lifetime,
            public_ips: ips.ok_or_else(|| DecodeError::invalid("i", "not IP addresses"))?,
            next: next.transpose()?,
        })
    }
}

fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => {
            let ip = IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?);
            (ip.to_canonical() == ip).then_some(ip)
        }
        _ => None,
    }
}

fn read_step(d: &Dict) -> Result<i16, DecodeError> {
    match d.need("s")? {
        Value::Int(n) => i16::try_from(*n)
            .ok()
            .filter(|step| (1..=STEP_MAX).contains(&step.unsigned_abs()))
            .ok_or_else(|| DecodeError::invalid("s", "no step of a sequence")),
        Value::Bytes(_) | Value::List(_) | Value::Dict(_) => Err(DecodeError::invalid("s", "not an integer")),
    }
}
