//! Services: what a node offers to run, and the catalogue that tells peers.
//!
//! A service is named by its content: its id is a digest over everything that decides what it computes, so the same
//! module with the same ports has the same id everywhere and a receipt can name it.

pub mod catalogue;
pub mod offers;

use crate::codec::{DecodeError, Dict, Value};
use crate::id::{Digest, PublicKey};
use crate::port::EngineLimits;

/// Longest name of a service in bytes.
pub const NAME_MAX: usize = 64;
/// Longest description in bytes.
pub const DESCRIPTION_MAX: usize = 500;
/// Most mounts of a service.
pub const MOUNTS_MAX: usize = 8;
/// Most peers a service may be restricted to.
pub const LISTED_MAX: usize = 64;

/// What runs it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A WebAssembly module, WASI preview 1.
    Wasm,
}

/// Who may see and run it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Visibility {
    /// Every peer.
    Everyone,
    /// These peers.
    Listed(Vec<PublicKey>),
    /// Only this node.
    OnlyMe,
}

/// Direction of a mount.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MountDirection {
    /// Read by the service.
    In,
    /// Written by the service.
    Out,
}

/// A named mount.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Mount {
    /// Its name: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// Which way.
    pub direction: MountDirection,
}

/// A service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// What runs it.
    pub kind: Kind,
    /// For people and workflows: lower-case letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// For people.
    pub description: String,
    /// For people, e.g. `1.2.0`.
    pub version: String,
    /// Its module.
    pub module: Digest,
    /// Length of the module in bytes.
    pub module_len: u64,
    /// Whether it reads standard input.
    pub stdin: bool,
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// Limits of one execution.
    pub limits: EngineLimits,
    /// Who may run it. Not part of the id, and not told to others.
    pub visibility: Visibility,
}

impl Service {
    /// Everything that decides what it computes, as canonical bencode.
    pub fn to_dict(&self) -> Dict {
        let kind = match self.kind {
            Kind::Wasm => "wasm",
        };
        let mounts: Vec<Value> = self
            .mounts
            .iter()
            .map(|m| {
                let direction = match m.direction {
                    MountDirection::In => "in",
                    MountDirection::Out => "out",
                };
                Dict::new().with("d", direction).with("n", m.name.as_str()).into()
            })
            .collect();
        Dict::new()
            .with("desc", self.description.as_str())
            .with("in", u64::from(self.stdin))
            .with("kind", kind)
            .with("len", self.module_len)
            .with(
                "lim",
                vec![
                    Value::from(self.limits.memory_bytes),
                    Value::from(self.limits.time_ms),
                    Value::from(self.limits.output_bytes),
                ],
            )
            .with("mod", &self.module)
            .with("mounts", mounts)
            .with("name", self.name.as_str())
            .with("v", 1u64)
            .with("ver", self.version.as_str())
    }

    /// Reads what [`Service::to_dict`] wrote; visibility becomes [`Visibility::Everyone`].
    pub fn from_dict(d: &Dict) -> Result<Service, DecodeError> {
        match d.u64("v")? {
            1 => {}
            number => return Err(DecodeError::Unknown { what: "service version", number }),
        }
        let kind = match d.bytes("kind", 16)? {
            b"wasm" => Kind::Wasm,
            _ => return Err(DecodeError::invalid("kind", "unknown kind of service")),
        };
        let name = d.text("name", NAME_MAX)?;
        if !valid_name(&name) {
            return Err(DecodeError::invalid("name", "only a-z, 0-9, `-`, `_`, `.`"));
        }
        let limits: Vec<u64> = d
            .list("lim", 3)?
            .iter()
            .map(|v| v.as_u64().ok_or_else(|| DecodeError::invalid("lim", "not a non-negative integer")))
            .collect::<Result<_, _>>()?;
        let [memory_bytes, time_ms, output_bytes] = limits[..] else {
            return Err(DecodeError::invalid("lim", "three limits expected"));
        };
        let mut mounts = Vec::new();
        for m in d.list("mounts", MOUNTS_MAX)? {
            let Value::Dict(m) = m else { return Err(DecodeError::invalid("mounts", "not a dictionary")) };
            let name = m.text("n", NAME_MAX)?;
            if !valid_name(&name) || name.starts_with('.') {
                return Err(DecodeError::invalid(
                    "mounts",
                    "a mount's name has only a-z, 0-9, `-`, `_`, `.`",
                ));
            }
            let direction = match m.bytes("d", 3)? {
                b"in" => MountDirection::In,
                b"out" => MountDirection::Out,
                _ => return Err(DecodeError::invalid("mounts", "direction is `in` or `out`")),
            };
            mounts.push(Mount { name, direction });
        }
        Ok(Service {
            kind,
            name,
            description: d.text("desc", DESCRIPTION_MAX)?,
            version: d.text("ver", NAME_MAX)?,
            module: d.digest("mod")?,
            module_len: d.u64("len")?,
            stdin: d.flag("in")?,
            mounts,
            limits: EngineLimits { memory_bytes, time_ms, output_bytes },
            visibility: Visibility::Everyone,
        })
    }

    /// The content-derived id.
    pub fn id(&self) -> Digest {
        Digest::in_domain("rn/service/v1", &[&self.to_dict().encode()])
    }

    /// Whether `peer` may see and run it.
    pub fn allows(&self, peer: &PublicKey) -> bool {
        match &self.visibility {
            Visibility::Everyone => true,
            Visibility::Listed(peers) => peers.contains(peer),
            Visibility::OnlyMe => false,
        }
    }
}

/// Whether `name` may name a service or a mount: 1 to [`NAME_MAX`] of a-z, 0-9, `-`, `_`, `.`.
pub fn valid_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
}
