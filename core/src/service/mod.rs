//! Services: what a node offers to run, and the catalogue that tells peers.
//!
//! A service is named by its content: its id is a digest over everything that decides what it computes, so the same
//! module with the same ports has the same id everywhere and a receipt can name it.

pub mod catalogue;
pub mod dataset;
pub mod details;
pub mod offers;
pub mod policy;
pub mod program;
pub mod search;

use crate::codec::{DecodeError, Dict, Value};
use crate::id::{Digest, PublicKey};
use crate::port::{EngineLimits, Layout, MountPath, Program};
use details::{Details, Determinism, Status};

/// Longest name of a service in bytes.
pub const NAME_MAX: usize = 64;
/// Longest description in bytes.
pub const DESCRIPTION_MAX: usize = 500;
/// Most mounts of a service.
pub const MOUNTS_MAX: usize = 8;
/// Longest service in its wire form: a catalogue of [`crate::limits::SERVICES_MAX`] fits one frame.
pub const SERVICE_BYTES_MAX: usize = 1_900;
/// Most peers a service may be restricted to.
pub const LISTED_MAX: usize = 64;

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
    /// Where it lies in the guest, if not at `/` and its name. In containers only.
    pub path: Option<String>,
    /// What it holds.
    pub layout: Layout,
}

/// A service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// For people and workflows: lower-case letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// For people.
    pub description: String,
    /// For people, e.g. `1.2.0`.
    pub version: String,
    /// What it runs.
    pub program: Program,
    /// Length of its module or executable in bytes; 0 of what is neither.
    pub module_len: u64,
    /// Whether it reads standard input.
    pub stdin: bool,
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// Limits of one execution.
    pub limits: EngineLimits,
    /// Who may run it. Not part of the id, and not told to others.
    pub visibility: Visibility,
    /// What else it says of itself.
    pub details: Details,
}

impl Service {
    /// Everything that decides what it computes, as canonical bencode.
    pub fn to_dict(&self) -> Dict {
        let mounts: Vec<Value> = self
            .mounts
            .iter()
            .map(|m| {
                let direction = match m.direction {
                    MountDirection::In => "in",
                    MountDirection::Out => "out",
                };
                let d = Dict::new().with("d", direction).with("n", m.name.as_str());
                d.with_some("f", program::layout_text(m.layout)).with_some("p", m.path.as_deref()).into()
            })
            .collect();
        let len = (self.module_len > 0).then_some(self.module_len);
        details::write(program::write(Dict::new(), &self.program), &self.details, &self.program)
            .with("desc", self.description.as_str())
            .with("in", u64::from(self.stdin))
            .with("kind", self.program.kind())
            .with_some("len", len)
            .with(
                "lim",
                vec![
                    Value::from(self.limits.memory_bytes),
                    Value::from(self.limits.time_ms),
                    Value::from(self.limits.output_bytes),
                ],
            )
            .with("mounts", mounts)
            .with("name", self.name.as_str())
            .with("v", 1u64)
            .with("ver", self.version.as_str())
    }

    /// Reads what [`Service::to_dict`] wrote; visibility becomes [`Visibility::Everyone`], the status [`Status::Active`].
    pub fn from_dict(d: &Dict) -> Result<Service, DecodeError> {
        match d.u64("v")? {
            1 => {}
            number => return Err(DecodeError::Unknown { what: "service version", number }),
        }
        let kind = d.bytes("kind", 16)?;
        if ![&b"wasm"[..], b"docker", b"standalone", b"data"].contains(&kind) {
            return Err(DecodeError::Unknown { what: "kind of service", number: kind.len() as u64 });
        }
        let program = program::read(d)?;
        if program.kind().as_bytes() != kind {
            return Err(DecodeError::invalid("kind", "not what it runs"));
        }
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
            let path = m.get("p").map(|_| m.text("p", program::PATH_MAX)).transpose()?;
            let movable = matches!(program, Program::Image(_));
            if path.as_deref().is_some_and(|p| !movable || !program::valid_mount_path(p)) {
                return Err(DecodeError::invalid("mounts", "a mount cannot lie there"));
            }
            let layout = match m.get("f") {
                None => Layout::Files,
                Some(_) => {
                    let layout = program::layout_named(m.bytes("f", 5)?);
                    layout.ok_or_else(|| DecodeError::invalid("mounts", "`tree` or `trees`"))?
                }
            };
            if layout == Layout::Trees && direction == MountDirection::Out {
                return Err(DecodeError::invalid("mounts", "an output is one directory"));
            }
            if mounts.iter().any(|m: &Mount| m.name == name && m.layout != layout) {
                return Err(DecodeError::invalid("mounts", "one mount that holds two kinds of things"));
            }
            if matches!(program, Program::Native(_)) && !program::valid_native_mount(&name) {
                return Err(DecodeError::invalid("mounts", format!("`/{name}` is there already")));
            }
            mounts.push(Mount { name, direction, path, layout });
        }
        let module_len = d.u64_opt("len")?.unwrap_or_default();
        let details = details::read(d, &program)?;
        let service = Service {
            name,
            description: d.text("desc", DESCRIPTION_MAX)?,
            version: d.text("ver", NAME_MAX)?,
            program,
            module_len,
            stdin: d.flag("in")?,
            mounts,
            limits: EngineLimits { memory_bytes, time_ms, output_bytes },
            visibility: Visibility::Everyone,
            details,
        };
        dataset::check(&service)?;
        match service.to_dict().encode().len() {
            0..=SERVICE_BYTES_MAX => Ok(service),
            len => Err(DecodeError::invalid(
                "s",
                format!("{len} bytes of names, words and paths, at most {SERVICE_BYTES_MAX}"),
            )),
        }
    }

    /// Its mounts that are not as usual: those that lie elsewhere first. One entry for each name, in the order in which it is
    /// read again.
    pub fn paths(&self) -> Vec<MountPath> {
        let one = |m: &Mount| MountPath { name: m.name.clone(), path: m.path.clone(), layout: m.layout };
        let elsewhere = self.mounts.iter().filter(|m| m.path.is_some());
        let trees = self.mounts.iter().filter(|m| m.path.is_none() && m.layout.is_tree());
        let mut paths: Vec<MountPath> = Vec::new();
        for mount in elsewhere.chain(trees).map(one) {
            if !mount.layout.is_tree() || paths.iter().all(|known| known.name != mount.name) {
                paths.push(mount);
            }
        }
        paths
    }

    /// The content-derived id.
    pub fn id(&self) -> Digest {
        Digest::in_domain("rn/service/v1", &[&self.to_dict().encode()])
    }

    /// Whether executing it twice is the same as once.
    pub fn determinism(&self) -> Determinism {
        self.details.determinism.unwrap_or(Determinism::of(&self.program))
    }

    /// Whether it is offered at all.
    pub fn is_active(&self) -> bool {
        self.details.status == Status::Active
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
