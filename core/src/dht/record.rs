//! The node's record: what a node tells the world about itself, in at most 700 bytes.
//!
//! It is the value of a BEP 44 mutable item without salt, so its place in the DHT is the peer id. 700 bytes keep the
//! reply of a `mainline` node (746 bytes around the value) within one unfragmented datagram; BEP 44 would allow 996.
//! The DHT key *is* the identity key, so no id is inside. The schema marker `v` is checked first: other programs use
//! the same unsalted slot for their keys.
//!
//! | key | type | meaning |
//! |---|---|---|
//! | `4`, `6` | string | public endpoints, 6 or 18 bytes each, best first |
//! | `c` | int | protocol bits |
//! | `e` | int | validity in seconds from `t` |
//! | `h` | string | digest of the service catalogue |
//! | `k` | int | node type: 1 private, 2 public |
//! | `l4`, `l6` | string | private endpoints |
//! | `m` | list | machine: arch, os, CPUs, RAM MiB, disk GiB, GPUs, GPU vendor, engines (1 docker, 2 wasm) |
//! | `n` | int | number of services |
//! | `o` | list | relay offer: endpoint, sessions, price in micro-units per GiB |
//! | `r` | list | relay attachments: relay key (32), session (8), relay address (6 or 18), one string each |
//! | `s` | int | role: 1 client, 2 server |
//! | `t` | int | issue time, Unix seconds |
//! | `u` | int | NAT type: 0 unknown, 1 open, 2 full cone, 3 restricted cone, 4 port-restricted cone, 5 symmetric |
//! | `v` | int | schema version, 1 |
//!
//! Absent means empty or zero. Unknown keys are kept and ignored. A record without any address but with attachments is
//! a node in anonymous mode.

use super::endpoint::{Scope, scope, usable};
use crate::codec::{DecodeError, Dict, Value, compact_addr, parse_compact_addr};
use crate::id::{Digest, PublicKey};
use crate::time::{Duration, UnixTime};
use bytes::Bytes;
use std::net::SocketAddr;
use thiserror::Error;

/// Largest record in bytes.
pub const RECORD_MAX: usize = 700;
/// Endpoints per list (family and scope). Readers use the first ones of a longer list.
pub const ENDPOINTS_MAX: usize = 4;
/// Relay attachments (SPEC 2.2).
pub const ATTACHMENTS_MAX: usize = 3;
/// Longest name of an operating system, architecture or GPU vendor in bytes.
pub const NAME_MAX: usize = 10;
/// How long a record is believed after its issue. Stores drop items after about 2 h without republishing; some never
/// do, and this is what ends a record there.
pub const VALIDITY: Duration = Duration::from_secs(24 * 3_600);
/// How far in the future an issue time may lie: clocks of others are wrong, but not by more than this.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(600);

const VERSION: u64 = 1;
/// What a list keeps when the record would be too long.
const KEPT_WHEN_TOO_LONG: usize = 2;

/// Whether the node can be reached from everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum NodeType {
    /// Behind a NAT or firewall.
    #[default]
    Private,
    /// Reachable at its public endpoints.
    Public,
}

impl NodeType {
    /// Its number on the wire.
    pub const fn number(self) -> u64 {
        match self {
            NodeType::Private => 1,
            NodeType::Public => 2,
        }
    }

    /// Reads its number.
    pub const fn from_number(n: u64) -> Result<Self, DecodeError> {
        match n {
            1 => Ok(NodeType::Private),
            2 => Ok(NodeType::Public),
            number => Err(DecodeError::Unknown { what: "node type", number }),
        }
    }
}

/// Whether the node serves others' records (SPEC 5.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Role {
    /// It asks.
    #[default]
    Client,
    /// It keeps and serves others' records.
    Server,
}

impl Role {
    /// Its number on the wire.
    pub const fn number(self) -> u64 {
        match self {
            Role::Client => 1,
            Role::Server => 2,
        }
    }

    /// Reads its number.
    pub const fn from_number(n: u64) -> Result<Self, DecodeError> {
        match n {
            1 => Ok(Role::Client),
            2 => Ok(Role::Server),
            number => Err(DecodeError::Unknown { what: "role", number }),
        }
    }
}

/// The NAT a node is behind, in the familiar names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[allow(missing_docs)]
pub enum NatType {
    #[default]
    Unknown,
    Open,
    FullCone,
    RestrictedCone,
    PortRestrictedCone,
    Symmetric,
}

impl NatType {
    const ALL: [NatType; 6] = [
        NatType::Unknown,
        NatType::Open,
        NatType::FullCone,
        NatType::RestrictedCone,
        NatType::PortRestrictedCone,
        NatType::Symmetric,
    ];

    /// The familiar name, for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            NatType::Unknown => "unknown",
            NatType::Open => "open",
            NatType::FullCone => "full cone",
            NatType::RestrictedCone => "restricted cone",
            NatType::PortRestrictedCone => "port-restricted cone",
            NatType::Symmetric => "symmetric",
        }
    }

    /// Unknown numbers of a newer peer are [`NatType::Unknown`].
    fn from_number(n: u64) -> Self {
        NatType::ALL.into_iter().find(|t| *t as u64 == n).unwrap_or_default()
    }
}

/// What a relay offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayOffer {
    /// Where it serves.
    pub endpoint: SocketAddr,
    /// Sessions it holds at the most.
    pub sessions: u32,
    /// Price in micro-units per GiB; 0 is free.
    pub price: u32,
}

/// A relay through which the node can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// The relay's whole key: what TLS to the relay is pinned to.
    pub relay: PublicKey,
    /// The session at the relay.
    pub session: [u8; 8],
    /// Where the relay is.
    pub addr: SocketAddr,
}

/// The machine in one line, for placing jobs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MachineSummary {
    /// Architecture, e.g. `x86_64`. At most [`NAME_MAX`] bytes, like all names here.
    pub arch: String,
    /// Operating system, e.g. `linux`.
    pub os: String,
    /// Logical processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub ram_mib: u32,
    /// Free disk in GiB.
    pub disk_gib: u32,
    /// Graphics processors.
    pub gpus: u32,
    /// Their vendor; empty when there are none.
    pub gpu_vendor: String,
    /// Whether a Docker engine is there.
    pub docker: bool,
    /// Whether WebAssembly runs.
    pub wasm: bool,
}

/// Everything a record says but when: two records of equal content differ only in their issue.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecordContent {
    /// Public or private.
    pub node_type: NodeType,
    /// Server or client.
    pub role: Role,
    /// Endpoints that mean something everywhere, best first; at most [`ENDPOINTS_MAX`] per family.
    pub public: Vec<SocketAddr>,
    /// Endpoints within a site or machine, best first; at most [`ENDPOINTS_MAX`] per family.
    pub private: Vec<SocketAddr>,
    /// Set by relays.
    pub relay_offer: Option<RelayOffer>,
    /// Relays in use, best first; at most [`ATTACHMENTS_MAX`].
    pub attachments: Vec<Attachment>,
    /// The NAT.
    pub nat: NatType,
    /// Protocol bits (63).
    pub protocols: u64,
    /// The machine.
    pub machine: Option<MachineSummary>,
    /// Services offered to everyone.
    pub services: u32,
    /// Digest of their catalogue.
    pub catalogue: Option<Digest>,
    /// Keys this version does not know.
    pub unknown: Dict,
}

/// A record: content, and when it was issued.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    /// What it says.
    pub content: RecordContent,
    /// When it was issued, in whole seconds.
    pub issued: UnixTime,
    /// How long it is believed.
    pub valid: Duration,
}

/// Why a reader does not believe a record that its owner did sign.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The bytes are no record of a version spoken here.
    #[error("not a node record: {0}")]
    Decode(#[from] DecodeError),
    /// Issued in the future.
    #[error("issued more than ten minutes in the future")]
    Future,
    /// Past its validity.
    #[error("expired")]
    Expired,
}

impl NodeRecord {
    /// A record of `content` issued now.
    pub fn issue(content: RecordContent, now: UnixTime) -> Self {
        Self { content, issued: UnixTime::from_secs(now.as_secs()), valid: VALIDITY }
    }

    /// When it is believed no more: at the latest a day after it was issued, whatever its owner says.
    pub fn expires(&self) -> UnixTime {
        self.issued.plus(self.valid.min(VALIDITY))
    }

    /// The canonical bytes, at most [`RECORD_MAX`].
    ///
    /// What does not fit goes in this order: private IPv6, private IPv4, attachments beyond two, public endpoints
    /// beyond two per family, unknown keys. With all known lists full nothing has to go.
    pub fn encode(&self) -> Bytes {
        let mut c = self.content.clone();
        let drops: [fn(&mut RecordContent); 6] = [
            |_| (),
            |c| c.private.retain(SocketAddr::is_ipv4),
            |c| c.private.clear(),
            |c| c.attachments.truncate(KEPT_WHEN_TOO_LONG),
            |c| c.public = first_per_family(&c.public, KEPT_WHEN_TOO_LONG),
            |c| c.unknown = Dict::new(),
        ];
        let mut bytes = Vec::new();
        for drop_some in drops {
            drop_some(&mut c);
            bytes = self.encode_content(&c);
            if bytes.len() <= RECORD_MAX {
                break;
            }
        }
        debug_assert!(bytes.len() <= RECORD_MAX);
        bytes.into()
    }

    fn encode_content(&self, c: &RecordContent) -> Vec<u8> {
        let attachments: Vec<Value> =
            c.attachments.iter().take(ATTACHMENTS_MAX).copied().map(Attachment::wire).collect();
        let nonzero = |n: u64| (n != 0).then_some(n);
        let mut d = Dict::new()
            .with_some("4", endpoints(&c.public, SocketAddr::is_ipv4))
            .with_some("6", endpoints(&c.public, SocketAddr::is_ipv6))
            .with_some("c", nonzero(c.protocols))
            .with("e", self.valid.as_secs())
            .with_some("h", c.catalogue.as_ref())
            .with("k", c.node_type.number())
            .with_some("l4", endpoints(&c.private, SocketAddr::is_ipv4))
            .with_some("l6", endpoints(&c.private, SocketAddr::is_ipv6))
            .with_some("m", c.machine.as_ref().map(MachineSummary::wire))
            .with_some("n", nonzero(u64::from(c.services)))
            .with_some("o", c.relay_offer.map(RelayOffer::wire))
            .with_some("r", (!attachments.is_empty()).then_some(attachments))
            .with("s", c.role.number())
            .with("t", self.issued.as_secs())
            .with_some("u", nonzero(c.nat as u64))
            .with("v", VERSION);
        for (k, v) in &c.unknown.0 {
            d.0.entry(k.clone()).or_insert_with(|| v.clone());
        }
        d.encode()
    }

    /// Reads canonical bytes. Endpoints that no one may use (port 0, multicast, scope other than the list's) are
    /// left out, not an error: they harm nobody once they are gone.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Dict::decode(bytes, RECORD_MAX)?;
        match d.u64("v")? {
            VERSION => {}
            number => return Err(DecodeError::Unknown { what: "record version", number }),
        }
        let mut public = read_endpoints(&d, "4", 6, |s| s == Scope::Public)?;
        public.extend(read_endpoints(&d, "6", 18, |s| s == Scope::Public)?);
        let local = |s| s == Scope::Private || s == Scope::Loopback;
        let mut private = read_endpoints(&d, "l4", 6, local)?;
        private.extend(read_endpoints(&d, "l6", 18, local)?);
        let attachments = match d.get("r") {
            Some(_) => {
                d.list("r", ATTACHMENTS_MAX)?.iter().map(Attachment::read).collect::<Result<_, _>>()?
            }
            None => Vec::new(),
        };
        let record = NodeRecord {
            issued: UnixTime::from_secs(d.u64("t")?),
            valid: Duration::from_secs(d.u64("e")?),
            content: RecordContent {
                node_type: NodeType::from_number(d.u64("k")?)?,
                role: Role::from_number(d.u64("s")?)?,
                public,
                private,
                relay_offer: d.get("o").map(|_| RelayOffer::read(d.list("o", 3)?)).transpose()?,
                attachments,
                nat: NatType::from_number(d.u64_opt("u")?.unwrap_or(0)),
                protocols: d.u64_opt("c")?.unwrap_or(0),
                machine: d.get("m").map(|_| MachineSummary::read(d.list("m", 8)?)).transpose()?,
                services: d.get("n").map_or(Ok(0), |_| d.u32("n"))?,
                catalogue: d.get("h").map(|_| d.digest("h")).transpose()?,
                unknown: Dict::new(),
            },
        };
        d.0.retain(|k, _| !KNOWN_KEYS.contains(&k.as_slice()));
        Ok(NodeRecord { content: RecordContent { unknown: d, ..record.content }, ..record })
    }

    /// Reads a record as its reader: [`NodeRecord::decode`], and the issue time must make sense now.
    pub fn read(bytes: &[u8], now: UnixTime) -> Result<Self, RecordError> {
        let record = Self::decode(bytes)?;
        if record.issued > now.plus(CLOCK_SKEW_MAX) {
            return Err(RecordError::Future);
        }
        if record.expires() <= now {
            return Err(RecordError::Expired);
        }
        Ok(record)
    }
}

impl RecordContent {
    /// Sorts `addrs` into the public and private endpoints: each once, at most [`ENDPOINTS_MAX`] per list, nothing
    /// local unless `private_networks`.
    pub fn set_endpoints(&mut self, addrs: &[SocketAddr], private_networks: bool) {
        let of = |wanted: &dyn Fn(Scope) -> bool| {
            let mut list: Vec<SocketAddr> = Vec::new();
            for a in addrs.iter().map(|a| SocketAddr::new(a.ip().to_canonical(), a.port())) {
                if wanted(scope(a)) && usable(a, private_networks) && !list.contains(&a) {
                    list.push(a);
                }
            }
            first_per_family(&list, ENDPOINTS_MAX)
        };
        self.public = of(&|s| s == Scope::Public);
        self.private = of(&|s| s == Scope::Private || s == Scope::Loopback);
    }
}

const KNOWN_KEYS: [&[u8]; 16] =
    [b"4", b"6", b"c", b"e", b"h", b"k", b"l4", b"l6", b"m", b"n", b"o", b"r", b"s", b"t", b"u", b"v"];

/// IPv4 first, at most `max` of each family, in order.
fn first_per_family(addrs: &[SocketAddr], max: usize) -> Vec<SocketAddr> {
    let v4 = addrs.iter().filter(|a| a.is_ipv4()).take(max);
    v4.chain(addrs.iter().filter(|a| a.is_ipv6()).take(max)).copied().collect()
}

fn endpoints(addrs: &[SocketAddr], family: fn(&SocketAddr) -> bool) -> Option<Value> {
    let bytes: Vec<u8> =
        addrs.iter().filter(|a| family(a)).take(ENDPOINTS_MAX).flat_map(|a| compact_addr(*a)).collect();
    (!bytes.is_empty()).then_some(Value::Bytes(bytes))
}

fn read_endpoints(
    d: &Dict,
    key: &'static str,
    size: usize,
    wanted: impl Fn(Scope) -> bool,
) -> Result<Vec<SocketAddr>, DecodeError> {
    if d.get(key).is_none() {
        return Ok(Vec::new());
    }
    let bytes = d.bytes(key, RECORD_MAX)?;
    if bytes.len() % size != 0 {
        return Err(DecodeError::invalid(key, format!("not a multiple of {size} bytes")));
    }
    let addrs = bytes.chunks_exact(size).filter_map(parse_compact_addr);
    Ok(addrs.filter(|a| wanted(scope(*a))).take(ENDPOINTS_MAX).collect())
}

impl Attachment {
    pub(crate) fn wire(self) -> Value {
        let mut b = self.relay.as_bytes().to_vec();
        b.extend_from_slice(&self.session);
        b.extend(compact_addr(self.addr));
        Value::Bytes(b)
    }

    pub(crate) fn read(value: &Value) -> Result<Self, DecodeError> {
        let bad = |why: &str| DecodeError::invalid("r", why);
        let bytes = value.as_bytes().ok_or_else(|| bad("not a byte string"))?;
        let (relay, rest) = bytes.split_at_checked(32).ok_or_else(|| bad("too short"))?;
        let (session, addr) = rest.split_first_chunk::<8>().ok_or_else(|| bad("too short"))?;
        Ok(Attachment {
            relay: PublicKey::from_slice(relay).map_err(|e| bad(&e.to_string()))?,
            session: *session,
            addr: parse_compact_addr(addr).ok_or_else(|| bad("not an address"))?,
        })
    }
}

impl RelayOffer {
    fn wire(self) -> Value {
        vec![Value::Bytes(compact_addr(self.endpoint)), Value::from(self.sessions), Value::from(self.price)]
            .into()
    }

    fn read(items: &[Value]) -> Result<Self, DecodeError> {
        let bad = |why: &str| DecodeError::invalid("o", why);
        let [endpoint, sessions, price] = items else { return Err(bad("three items expected")) };
        Ok(RelayOffer {
            endpoint: endpoint
                .as_bytes()
                .and_then(parse_compact_addr)
                .ok_or_else(|| bad("not an address"))?,
            sessions: small(sessions).ok_or_else(|| bad("sessions"))?,
            price: small(price).ok_or_else(|| bad("price"))?,
        })
    }
}

impl MachineSummary {
    /// As a list of eight, in records and catalogues.
    pub(crate) fn wire(&self) -> Value {
        let name = |s: &str| Value::from(&s.as_bytes()[..s.floor_char_boundary(NAME_MAX)]);
        vec![
            name(&self.arch),
            name(&self.os),
            Value::from(self.cpus),
            Value::from(self.ram_mib),
            Value::from(self.disk_gib),
            Value::from(self.gpus),
            name(&self.gpu_vendor),
            Value::from(u64::from(self.docker) | u64::from(self.wasm) << 1),
        ]
        .into()
    }

    /// Reads what [`MachineSummary::wire`] wrote.
    pub(crate) fn read(items: &[Value]) -> Result<Self, DecodeError> {
        let bad = |why: &str| DecodeError::invalid("m", why);
        let [arch, os, cpus, ram, disk, gpus, vendor, engines] = items else {
            return Err(bad("eight items expected"));
        };
        let name = |v: &Value| {
            let bytes = v.as_bytes().filter(|b| b.len() <= NAME_MAX).ok_or_else(|| bad("name"))?;
            let text = std::str::from_utf8(bytes).map_err(|_| bad("name"))?;
            if text.chars().any(char::is_control) { Err(bad("name")) } else { Ok(text.to_owned()) }
        };
        let number = |v: &Value| small(v).ok_or_else(|| bad("number"));
        let engines = number(engines)?;
        Ok(MachineSummary {
            arch: name(arch)?,
            os: name(os)?,
            cpus: number(cpus)?,
            ram_mib: number(ram)?,
            disk_gib: number(disk)?,
            gpus: number(gpus)?,
            gpu_vendor: name(vendor)?,
            docker: engines & 1 != 0,
            wasm: engines & 2 != 0,
        })
    }
}

fn small(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

#[cfg(test)]
mod tests;
