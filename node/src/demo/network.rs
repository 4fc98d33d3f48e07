//! The demo's network: nodes of a private DHT, whose first three are its seeds.

use crate::cli::Failure;
use crate::processes::{NodeProcess, Plan, stop_all};
use std::net::UdpSocket;
use std::path::Path;

/// Seeds of the private DHT: three, so that two may die.
const SEEDS: usize = 3;

/// All of them.
pub struct Network {
    nodes: Vec<NodeProcess>,
}

impl Network {
    /// Starts `count` nodes with data directories under `root`; ready when all are.
    pub async fn start(root: &Path, count: usize, log: Option<&str>) -> Result<Self, Failure> {
        let passphrase = format!("{}{}", crate::cli::random_run_id()?, crate::cli::random_run_id()?);
        let ports = free_udp_ports(count)?;
        let mut starting = Vec::new();
        for (i, port) in ports.iter().enumerate() {
            let plan = Plan {
                number: i + 1,
                dir: root.join(format!("node-{}", i + 1)),
                driver: if i + 1 == count { "smol" } else { "tokio" },
                settings: settings(&ports, *port, i < SEEDS),
                passphrase: Some(passphrase.clone()),
                log: log.unwrap_or("warn").to_owned(),
            };
            starting.push(plan.spawn()?);
        }
        let mut nodes = Vec::new();
        for node in starting {
            nodes.push(node.ready().await?);
        }
        Ok(Self { nodes })
    }

    /// All nodes, in order.
    pub fn nodes(&self) -> &[NodeProcess] {
        &self.nodes
    }

    /// The node that runs the workflow.
    pub fn first(&self) -> Result<&NodeProcess, Failure> {
        self.nodes.first().ok_or_else(|| Failure::work("the demo has no nodes"))
    }

    /// Stops every node in order; kills what does not stop.
    pub async fn stop(&mut self) {
        stop_all(&mut self.nodes).await;
    }
}

/// Ports that are free now. All are held until all are found, so that they differ.
fn free_udp_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let sockets: Vec<UdpSocket> =
        (0..count).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, std::io::Error>>()?;
    sockets.iter().map(|s| Ok(s.local_addr()?.port())).collect()
}

/// The configuration of the node of the DHT at `own`.
fn settings(ports: &[u16], own: u16, seed: bool) -> Vec<String> {
    let others = ports.iter().take(SEEDS).filter(|p| **p != own);
    let bootstrap: Vec<String> = others.map(|p| format!("127.0.0.1:{p}")).collect();
    vec![
        "dht_mode=private".to_owned(),
        "dht_bind=127.0.0.1".to_owned(),
        format!("dht_seed={seed}"),
        format!("dht_port={own}"),
        format!("dht_bootstrap={}", bootstrap.join(",")),
        "publish_private_addrs=true".to_owned(),
    ]
}
