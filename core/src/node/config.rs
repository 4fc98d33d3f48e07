//! What a node is told at its start.

use crate::dht::record::MachineSummary;
use crate::id::{DhtId, Keypair, Lsn, PublicKey};
use crate::limits::{
    CONNECTIONS_MAX, IDLE_CLOSE_AFTER, JOBS_RUNNING_MAX, KNOWN_PEERS_MAX, LINKS_MAX, PEERS_MAX,
};
use crate::port::Target;
use crate::relay::server;
use crate::service::policy::Policy;
use crate::store::StoredRecord;
use crate::time::Duration;
use std::net::SocketAddr;
use thiserror::Error;

/// What a node is told at its start and keeps for its life. Names and defaults are those of the configuration file.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Who it is.
    pub keypair: Keypair,
    /// Topics it meets others under (SHA-1 of their names).
    pub topics: Vec<DhtId>,
    /// Connected peers wanted at the most.
    pub max_peers: usize,
    /// Connected peers below which known ones are dialled.
    pub min_peers: usize,
    /// Peers remembered, connected or not; a quarter as many records of theirs are.
    pub known_peers_max: usize,
    /// Whether the node is reachable from everywhere at the addresses it publishes.
    pub public: bool,
    /// Addresses to publish; empty: those peers observe.
    pub public_addrs: Vec<SocketAddr>,
    /// Publish a record although the node is not public (private, offline and demonstration networks).
    pub publish_private: bool,
    /// Loopback and private addresses of others are dialled, and our own are published.
    pub private_network: bool,
    /// Jobs running at once.
    pub jobs_running_max: usize,
    /// Whether jobs of other peers are accepted.
    pub accept_jobs: bool,
    /// The machine code that runs here, in a sandbox of its own; none where there is no such sandbox.
    pub native: Option<Target>,
    /// A connection without activity for this long is closed.
    pub idle_close_after: Duration,
    /// Whether it relays for others, once it is known that they can reach it.
    pub relay: bool,
    /// Within these bounds.
    pub relay_limits: server::Config,
    /// Relays to use before any other, and where they are.
    pub relays: Vec<(PublicKey, SocketAddr)>,
    /// Whether many sockets may be opened, and many ports tried, for a direct path through a NAT that chooses ports at random.
    pub birthday_probing: bool,
    /// What the machine has: published in the record and told with the catalogue. `None`: nothing is said of it.
    pub machine: Option<MachineSummary>,
    /// The owner's policy, in place of the one in the journal. `None`: that one.
    pub policy: Option<Policy>,
    /// How often the record is stored again.
    pub republish_every: Duration,
    /// How often topics are searched.
    pub discover_every: Duration,
}

impl NodeConfig {
    /// Connections alive at once, handshakes included: a relay's clients come on top of everybody's.
    pub fn connections_max(&self) -> usize {
        CONNECTIONS_MAX + self.sessions_max()
    }

    /// Links beyond which a newcomer is told that the node is full.
    pub fn links_max(&self) -> usize {
        LINKS_MAX + self.sessions_max()
    }

    fn sessions_max(&self) -> usize {
        if self.relay { self.relay_limits.sessions_max } else { 0 }
    }

    /// The usual configuration of a node with this key.
    pub fn new(keypair: Keypair) -> Self {
        Self {
            keypair,
            topics: Vec::new(),
            max_peers: PEERS_MAX,
            min_peers: 5,
            known_peers_max: KNOWN_PEERS_MAX,
            public: false,
            public_addrs: Vec::new(),
            publish_private: false,
            private_network: false,
            jobs_running_max: JOBS_RUNNING_MAX,
            accept_jobs: true,
            native: None,
            idle_close_after: IDLE_CLOSE_AFTER,
            relay: false,
            relay_limits: server::Config::default(),
            relays: Vec::new(),
            birthday_probing: true,
            machine: None,
            policy: None,
            republish_every: Duration::from_secs(1800),
            discover_every: Duration::from_secs(30),
        }
    }
}

/// The journal as the store gives it back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Journal {
    /// Chosen at random when the journal was made: another id means that everything before is forgotten (amnesia).
    pub id: u64,
    /// The last batch ever committed, also when its records are forgotten.
    pub last: Lsn,
    /// What is left, in journal order.
    pub records: Vec<StoredRecord>,
}

/// Why a node cannot start from what the store gave back.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RecoverError {
    /// A record does not decode. The operator decides; nothing is guessed.
    #[error("journal record {lsn} of room {room} does not decode: {why}")]
    Record {
        /// Its position.
        lsn: u64,
        /// Its room.
        room: &'static str,
        /// What is wrong.
        why: String,
    },
}
