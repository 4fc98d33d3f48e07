//! A network of its own: nodes of a private DHT, whose first three are its seeds, each at ports that it keeps.

use crate::cli::Failure;
use crate::processes::{NodeProcess, Plan, stop_all};
use std::hash::{BuildHasher as _, RandomState};
use std::net::{TcpListener, UdpSocket};
use std::ops::Range;
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
        let mut ports = free_udp_ports(2 * count)?;
        let quic = ports.split_off(count);
        let mut starting = Vec::new();
        for (i, (port, quic_port)) in ports.iter().zip(quic).enumerate() {
            let plan = Plan {
                number: i + 1,
                dir: root.join(format!("node-{}", i + 1)),
                driver: if i + 1 == count { "smol" } else { "tokio" },
                quic_port,
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

    /// The node that wants the work done.
    pub fn first(&self) -> Result<&NodeProcess, Failure> {
        self.nodes.first().ok_or_else(|| Failure::work("there are no nodes"))
    }

    /// For those that kill and restart.
    pub fn nodes_mut(&mut self) -> &mut [NodeProcess] {
        &mut self.nodes
    }

    /// Stops every node in order; kills what does not stop.
    pub async fn stop(&mut self) {
        stop_all(&mut self.nodes).await;
    }
}

/// Ports that are tried before it is said that there are none.
const PORTS_TRIED_MAX: u32 = 10_000;
/// Ports that no system gives out by itself (Linux: from 32,768), so that nobody takes one between our look and its use by
/// asking for any.
const ASKED_FOR_BY_NUMBER: Range<u16> = 10_000..32_000;

/// UDP ports that are free now, with the same TCP port; all are held until all are found, so that they differ. Others of this
/// machine may look at the same time: where each begins is random.
fn free_udp_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let mut held = Vec::new();
    for turn in 0..PORTS_TRIED_MAX {
        if held.len() == count {
            break;
        }
        let dice = RandomState::new().hash_one(turn);
        let Range { start, end } = ASKED_FOR_BY_NUMBER;
        let port = start + (dice % u64::from(end - start)) as u16;
        let both = (UdpSocket::bind(("127.0.0.1", port)), TcpListener::bind(("127.0.0.1", port)));
        if let (Ok(udp), Ok(tcp)) = both {
            held.push((port, udp, tcp));
        }
    }
    match held.len() == count {
        true => Ok(held.iter().map(|(port, ..)| *port).collect()),
        false => Err(Failure::work(format!("no {count} free ports are to be had"))),
    }
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
