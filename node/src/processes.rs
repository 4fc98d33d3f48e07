//! Node processes on loopback, for the commands that need a network on this machine: `demo` and `bench`.
//!
//! Each is this very binary under `start`, with a data directory of its own. A node is there when it has said so on its
//! standard output; it ends with its standard input, so that nothing outlives the command that wanted it. What a process was
//! started with is kept, so that one that was killed is started again where it was.

mod network;

pub use network::Network;

use crate::cli::{Client, Failure};
use crate::failpoints;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A node that is not ready after this long has a problem that waiting does not mend.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A node may take this long to end in order.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Counted from one, for messages.
    pub number: usize,
    /// Its data directory; made if missing.
    pub dir: PathBuf,
    /// Its runtime.
    pub driver: &'static str,
    /// UDP port for QUIC; 0: any free one.
    pub quic_port: u16,
    /// Further configuration, as `key=value`.
    pub settings: Vec<String>,
    /// The passphrase of its key; a key without one if there is none.
    pub passphrase: Option<String>,
    /// What it logs.
    pub log: String,
}

/// A process that is not ready yet.
pub struct Starting {
    plan: Plan,
    process: Child,
}

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
    plan: Plan,
    process: Child,
}

impl Plan {
    /// Starts the process; [`Starting::ready`] waits for it.
    pub fn spawn(self) -> Result<Starting, Failure> {
        self.spawn_armed(None)
    }

    /// The same, with a point at which the process will kill itself.
    fn spawn_armed(self, point: Option<&str>) -> Result<Starting, Failure> {
        std::fs::create_dir_all(&self.dir)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("start")
            .arg("--json")
            .arg("--until-stdin-closes")
            .args(["--listen", "127.0.0.1", "--api-port", "0"])
            .args(["--quic-port", &self.quic_port.to_string()])
            .args(["--driver", self.driver, "--log", &self.log])
            .arg("--data-dir")
            .arg(&self.dir)
            .args(self.settings.iter().flat_map(|s| ["--set", s.as_str()]))
            .env_remove(failpoints::VARIABLE)
            .envs(point.map(|p| (failpoints::VARIABLE, p)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        match &self.passphrase {
            Some(passphrase) => command.env("REMOTE_NETWORK_PASSPHRASE", passphrase),
            None => command.arg("--unencrypted-key"),
        };
        let process = command
            .spawn()
            .map_err(|e| Failure::work(format!("node {} cannot be started: {e}", self.number)))?;
        Ok(Starting { plan: self, process })
    }
}

impl Starting {
    /// Waits for the line in which a node says that it is ready.
    pub async fn ready(self) -> Result<NodeProcess, Failure> {
        let Self { plan, mut process } = self;
        let stdout = process.stdout.take().ok_or_else(|| Failure::work("a node without standard output"))?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(READY_WITHIN, lines.next_line())
            .await
            .map_err(|_| Failure::work(format!("node {} was not ready within 30 s", plan.number)))??
            .ok_or_else(|| {
                Failure::work(format!("node {} ended at its start; its messages are above", plan.number))
            })?;
        let said: Value = serde_json::from_str(&line).map_err(|e| {
            Failure::work(format!("node {} said something strange: {e}: {line}", plan.number))
        })?;
        if let Some(message) = said["error"]["message"].as_str() {
            return Err(Failure::work(format!("node {}: {message}", plan.number)));
        }
        // Whatever else it prints must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(NodeProcess {
            number: plan.number,
            key: said["key"].as_str().unwrap_or_default().to_owned(),
            driver: plan.driver,
            page: said["page"].as_str().unwrap_or_default().to_owned(),
            client: Client::of(&plan.dir)?,
            plan,
            process,
        })
    }
}

impl NodeProcess {
    /// The number by which the system knows it, while it lives.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        &self.plan.dir
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
        *self = self.plan.clone().spawn_armed(point)?.ready().await?;
        Ok(())
    }

    /// Starts it, and kills it before anybody knows how far it has come.
    pub async fn falter(&mut self, after: Duration) -> Result<(), Failure> {
        let mut starting = self.plan.clone().spawn()?;
        tokio::time::sleep(after).await;
        Ok(starting.process.kill().await?)
    }
}

/// Stops every node in order; kills what does not stop.
pub async fn stop_all(nodes: &mut [NodeProcess]) {
    for node in &mut *nodes {
        // A node that does not answer is killed below.
        let _asked = node.client.post("/shutdown", &json!({})).await;
    }
    for node in nodes {
        if tokio::time::timeout(STOP_WITHIN, node.process.wait()).await.is_err()
            && let Err(e) = node.process.kill().await
        {
            eprintln!("node {} could not be stopped: {e}", node.number);
        }
    }
}
