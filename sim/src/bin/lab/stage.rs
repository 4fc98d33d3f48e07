//! Public nodes, and what every experiment does first.

use crate::internet::{Host, Internet};
use crate::netns::LabError;
use crate::product::{DHT_PORT, Node, Product, QUIC_PORT, Role};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long nodes may take until others can find them. Those whose UDP is dropped can never be found in the DHT.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(20);

/// An internet with public nodes: two relays and three seeds of a private DHT.
pub struct Stage {
    /// The product.
    pub product: Product,
    /// The public nodes; the first two relay.
    pub publics: Vec<Node>,
    /// Where they are.
    pub hosts: [Host; 3],
    /// The network. Dropped last: nodes end before their namespaces.
    pub internet: Internet,
}

impl Stage {
    /// Sets it up.
    pub fn new(product: &Product) -> Result<Self, LabError> {
        let mut internet = Internet::new()?;
        let hosts = internet.publics()?;
        let mut stage =
            Self { product: product.clone(), publics: Vec::new(), hosts: hosts.clone(), internet };
        for (n, host) in hosts.iter().enumerate() {
            let seeds = stage.seeds().into_iter().filter(|s| s.ip() != host.own).collect();
            let role = Role::Public { seeds, relay: n < 2 };
            let node = product.start(host, stage.internet.world.dir(), &role)?;
            stage.publics.push(node);
        }
        Ok(stage)
    }

    fn seeds(&self) -> Vec<SocketAddr> {
        self.hosts.iter().map(|h| SocketAddr::from((h.own, DHT_PORT))).collect()
    }

    /// The role of somebody's machine.
    pub fn private(&self) -> Role {
        let relays = self.publics.iter().zip(&self.hosts).take(2);
        Role::Private {
            seeds: self.seeds(),
            relays: relays.map(|(n, h)| (n.key.clone(), SocketAddr::from((h.own, QUIC_PORT)))).collect(),
            port_mapping: false,
        }
    }

    /// Starts a node on a machine.
    pub fn node(&self, host: &Host, role: &Role) -> Result<Node, LabError> {
        self.product.start(host, self.internet.world.dir(), role)
    }

    /// Waits until nodes can be found; those that cannot be are named.
    pub fn wait(&self, nodes: &[&Node]) -> Result<(), LabError> {
        let deadline = Instant::now() + PUBLISHED_WITHIN;
        for node in nodes {
            if !node.wait_until_published(deadline)? {
                eprintln!("{} has not published its record: {}", node.name, node.last_words());
            }
        }
        Ok(())
    }
}
