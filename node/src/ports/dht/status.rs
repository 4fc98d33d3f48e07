//! What the DHT port says of itself, for people.

use remote_network_core::id::DhtId;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Our place in the DHT of one address family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FamilyStatus {
    /// Of IPv6; else of IPv4.
    pub ipv6: bool,
    /// Our id there.
    pub id: DhtId,
    /// Nodes in the table.
    pub nodes: usize,
    /// Where most others see us, and how many say so.
    pub observed: Option<(SocketAddr, u32)>,
}

/// How the DHT is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DhtStatus {
    /// Who speaks to the DHT: `native`, `mainline`; `off`.
    pub backend: &'static str,
    /// Where its socket is, once there is one.
    pub local: Option<SocketAddr>,
    /// Whether that is QUIC's socket.
    pub shared_socket: bool,
    /// The DHTs it takes part in.
    pub families: Vec<FamilyStatus>,
    /// Whether it only asks (BEP 43). `None`: not known.
    pub read_only: Option<bool>,
    /// Values and peers it keeps for others. `None`: the backend does not tell.
    pub kept: Option<(usize, usize)>,
    /// Operations under way and waiting.
    pub operations: (usize, usize),
    /// What was refused, by its reason. Empty where the backend does not tell.
    pub refused: BTreeMap<&'static str, u64>,
}
