//! The demo's processes.

use crate::cli::{Client, Failure};
use serde_json::{Value, json};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Seeds of the private DHT: three, so that two may die.
const SEEDS: usize = 3;
/// A node that is not ready after this long has a problem that waiting does not mend.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A node may take this long to end in order.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A running node process.
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
    process: Child,
}

/// All of them.
pub struct Network {
    nodes: Vec<NodeProcess>,
}

/// How a node of the demo is started; kept by tests that start it again.
struct Start<'a> {
    number: usize,
    dir: PathBuf,
    driver: &'static str,
    dht_port: u16,
    bootstrap: &'a [String],
    passphrase: &'a str,
    log: &'a str,
}

impl Network {
    /// Starts `count` nodes with data directories under `root`; ready when all are.
    pub async fn start(root: &Path, count: usize, log: Option<&str>) -> Result<Self, Failure> {
        let passphrase = format!("{}{}", crate::cli::random_run_id()?, crate::cli::random_run_id()?);
        let ports = free_udp_ports(count)?;
        let bootstrap: Vec<String> = ports.iter().take(SEEDS).map(|p| format!("127.0.0.1:{p}")).collect();
        let mut starting = Vec::new();
        for (i, port) in ports.iter().enumerate() {
            let start = Start {
                number: i + 1,
                dir: root.join(format!("node-{}", i + 1)),
                driver: if i + 1 == count { "smol" } else { "tokio" },
                dht_port: *port,
                bootstrap: &bootstrap,
                passphrase: &passphrase,
                log: log.unwrap_or("warn"),
            };
            let process = spawn(&start)?;
            starting.push((start, process));
        }
        let mut nodes = Vec::new();
        for (start, process) in starting {
            nodes.push(ready(&start, process).await?);
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

/// Ports that are free now. All are held until all are found, so that they differ.
fn free_udp_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let sockets: Vec<UdpSocket> =
        (0..count).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, std::io::Error>>()?;
    sockets.iter().map(|s| Ok(s.local_addr()?.port())).collect()
}

fn spawn(start: &Start<'_>) -> Result<Child, Failure> {
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
        .args(["--listen", "127.0.0.1", "--quic-port", "0", "--api-port", "0"])
        .args(["--driver", start.driver, "--log", start.log])
        .arg("--data-dir")
        .arg(&start.dir)
        .args(settings.iter().flat_map(|s| ["--set", s.as_str()]))
        .env("REMOTE_NETWORK_PASSPHRASE", start.passphrase)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().map_err(|e| Failure::work(format!("node {} cannot be started: {e}", start.number)))
}

/// Waits for the line in which a node says that it is ready.
async fn ready(start: &Start<'_>, mut process: Child) -> Result<NodeProcess, Failure> {
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
        process,
    })
}
