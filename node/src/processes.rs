//! A private network of node processes on this machine: of the demo, and of benchmarks that look what such a network does.
//!
//! Every node is a process of its own with its own data directory, key and DHT node, all on loopback. What a process was
//! started with is kept, so that one that was killed is started again where it was.

use crate::cli::{Client, Failure};
use crate::failpoints;
use serde_json::{Value, json};
use std::hash::{BuildHasher as _, RandomState};
use std::net::{TcpListener, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Seeds of the private DHT: three, so that two may die.
const SEEDS: usize = 3;
/// Ports that are tried before it is said that there are none.
const PORTS_TRIED_MAX: u32 = 10_000;
/// A node that is not ready after this long has a problem that waiting does not mend.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A node may take this long to end in order.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A node process.
pub struct NodeProcess {
    /// Counted from one.
    pub number: usize,
    /// Its public key.
    pub key: String,
    /// Its runtime.
    pub driver: &'static str,
    /// Its page.
    pub page: String,
    /// Talks to it.
    pub client: Client,
    start: Start,
    process: Child,
}

/// All of them.
pub struct Network {
    nodes: Vec<NodeProcess>,
}

/// How a node is started.
#[derive(Clone)]
struct Start {
    number: usize,
    dir: PathBuf,
    driver: &'static str,
    quic_port: u16,
    dht_port: u16,
    bootstrap: Vec<String>,
    passphrase: String,
    log: String,
}

impl Network {
    /// Starts `count` nodes with data directories under `root`; ready when all are.
    pub async fn start(root: &Path, count: usize, log: Option<&str>) -> Result<Self, Failure> {
        let passphrase = format!("{}{}", crate::cli::random_run_id()?, crate::cli::random_run_id()?);
        let ports = free_udp_ports(2 * count)?;
        let (dht, quic) = ports.split_at(count);
        let bootstrap: Vec<String> = dht.iter().take(SEEDS).map(|p| format!("127.0.0.1:{p}")).collect();
        let mut starting = Vec::new();
        for (i, (dht_port, quic_port)) in dht.iter().zip(quic).enumerate() {
            let start = Start {
                number: i + 1,
                dir: root.join(format!("node-{}", i + 1)),
                driver: if i + 1 == count { "smol" } else { "tokio" },
                quic_port: *quic_port,
                dht_port: *dht_port,
                bootstrap: bootstrap.clone(),
                passphrase: passphrase.clone(),
                log: log.unwrap_or("warn").to_owned(),
            };
            let process = spawn(&start, None)?;
            starting.push((start, process));
        }
        let mut nodes = Vec::new();
        for (start, process) in starting {
            nodes.push(ready(start, process).await?);
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
        for node in &mut self.nodes {
            // A node that does not answer is killed below.
            let _asked = node.client.post("/shutdown", &json!({})).await;
        }
        for node in &mut self.nodes {
            if tokio::time::timeout(STOP_WITHIN, node.process.wait()).await.is_err()
                && let Err(e) = node.process.kill().await
            {
                eprintln!("node {} could not be stopped: {e}", node.number);
            }
        }
    }
}

impl NodeProcess {
    /// Its data directory.
    pub fn dir(&self) -> &Path {
        &self.start.dir
    }

    /// Its process id, while it has not been seen dead.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Whether it has ended.
    pub fn is_dead(&mut self) -> Result<bool, Failure> {
        Ok(self.process.try_wait()?.is_some())
    }

    /// `kill -9`, and waits for its end.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        Ok(self.process.kill().await?)
    }

    /// Starts it again where it was, after its end; with a point at which it will kill itself.
    pub async fn again(&mut self, point: Option<&str>) -> Result<(), Failure> {
        let process = spawn(&self.start, point)?;
        *self = ready(self.start.clone(), process).await?;
        Ok(())
    }

    /// Starts it, and kills it before anybody knows how far it has come.
    pub async fn falter(&mut self, after: Duration) -> Result<(), Failure> {
        let mut process = spawn(&self.start, None)?;
        tokio::time::sleep(after).await;
        Ok(process.kill().await?)
    }
}

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

fn spawn(start: &Start, point: Option<&str>) -> Result<Child, Failure> {
    std::fs::create_dir_all(&start.dir)?;
    let seed = start.number <= SEEDS;
    let own = format!("127.0.0.1:{}", start.dht_port);
    let bootstrap: Vec<&str> = start.bootstrap.iter().map(String::as_str).filter(|b| *b != own).collect();
    let settings = [
        "dht_mode=private".to_owned(),
        "dht_bind=127.0.0.1".to_owned(),
        format!("dht_seed={seed}"),
        format!("dht_port={}", start.dht_port),
        format!("dht_bootstrap={}", bootstrap.join(",")),
        "publish_private_addrs=true".to_owned(),
    ];
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("start")
        .arg("--json")
        .arg("--until-stdin-closes")
        .args(["--listen", "127.0.0.1", "--api-port", "0"])
        .args(["--quic-port", &start.quic_port.to_string()])
        .args(["--driver", start.driver, "--log", &start.log])
        .arg("--data-dir")
        .arg(&start.dir)
        .args(settings.iter().flat_map(|s| ["--set", s.as_str()]))
        .env("REMOTE_NETWORK_PASSPHRASE", &start.passphrase)
        .env_remove(failpoints::VARIABLE)
        .envs(point.map(|p| (failpoints::VARIABLE, p)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().map_err(|e| Failure::work(format!("node {} cannot be started: {e}", start.number)))
}

/// Waits for the line in which a node says that it is ready.
async fn ready(start: Start, mut process: Child) -> Result<NodeProcess, Failure> {
    let stdout = process.stdout.take().ok_or_else(|| Failure::work("a node without standard output"))?;
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(READY_WITHIN, lines.next_line())
        .await
        .map_err(|_| Failure::work(format!("node {} was not ready within 30 s", start.number)))??
        .ok_or_else(|| {
            Failure::work(format!("node {} ended at its start; its messages are above", start.number))
        })?;
    let said: Value = serde_json::from_str(&line)
        .map_err(|e| Failure::work(format!("node {} said something strange: {e}: {line}", start.number)))?;
    if let Some(message) = said["error"]["message"].as_str() {
        return Err(Failure::work(format!("node {}: {message}", start.number)));
    }
    // Whatever else it prints must not fill the pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(NodeProcess {
        number: start.number,
        key: said["key"].as_str().unwrap_or_default().to_owned(),
        driver: start.driver,
        page: said["page"].as_str().unwrap_or_default().to_owned(),
        client: Client::of(&start.dir)?,
        start,
        process,
    })
}
