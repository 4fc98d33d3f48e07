//! Two node processes over loopback: one that requests, one that executes.

use crate::cli::{Client, Failure};
use crate::processes::{NodeProcess, Plan, stop_all};
use remote_network_core::id::PublicKey;
use remote_network_core::job::workflow::ObjectRef;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// What does not happen within this does not happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The two.
pub struct Pair {
    nodes: Vec<NodeProcess>,
}

impl Pair {
    /// Starts both and connects them. Without a DHT: they need none to find each other.
    pub async fn start(root: &Path, log: Option<&str>, running: u16) -> Result<Self, Failure> {
        let mut starting = Vec::new();
        for (number, name) in [(1, "requester"), (2, "executor")] {
            let plan = Plan {
                number,
                dir: root.join(name),
                driver: "tokio",
                quic_port: 0,
                settings: vec![
                    "dht_mode=off".to_owned(),
                    "publish_private_addrs=true".to_owned(),
                    format!("jobs_running_max={running}"),
                ],
                passphrase: None,
                log: log.unwrap_or("warn").to_owned(),
            };
            starting.push(plan.spawn()?);
        }
        let mut nodes = Vec::new();
        for node in starting {
            nodes.push(node.ready().await?);
        }
        let pair = Self { nodes };
        let (requester, executor) = (pair.requester()?, pair.executor()?);
        let addr = until("its address", || async {
            let status = executor.client.get("/status").await?;
            Ok(status["local_addrs"][0].as_str().map(str::to_owned))
        })
        .await?;
        requester.client.post("/peers/connect", &json!({"peer": executor.key, "addr": addr})).await?;
        Ok(pair)
    }

    /// Who requests.
    pub fn requester(&self) -> Result<&NodeProcess, Failure> {
        self.nodes.first().ok_or_else(|| Failure::work("no requester"))
    }

    /// Who executes.
    pub fn executor(&self) -> Result<&NodeProcess, Failure> {
        self.nodes.get(1).ok_or_else(|| Failure::work("no executor"))
    }

    /// Offers a guest at a node and waits until the requester knows of it.
    pub async fn offer(
        &self,
        node: &NodeProcess,
        name: &str,
        module: Vec<u8>,
        limits: Value,
    ) -> Result<(), Failure> {
        let stored = upload(&node.client, module).await?;
        let digest = stored.digest.to_string();
        let service = json!({"name": name, "module": digest, "stdin": true, "limits": limits});
        let added = node.client.post("/services", &service).await?;
        let id = added["id"].as_str().unwrap_or_default().to_owned();
        let requester = self.requester()?;
        until("the service", || async {
            let known = requester.client.get("/services").await?;
            let of_node = |s: &Value| s["id"] == json!(id) && s.to_string().contains(&node.key);
            let all = known["services"].as_array().is_some_and(|all| all.iter().any(of_node));
            Ok(all.then_some(()))
        })
        .await
    }

    /// Stops both.
    pub async fn stop(mut self) {
        stop_all(&mut self.nodes).await;
    }
}

/// The key of a node.
pub fn key(node: &NodeProcess) -> Result<PublicKey, Failure> {
    node.key.parse().map_err(|_| Failure::work(format!("node {} named no key", node.number)))
}

/// Brings bytes into a node's store.
pub async fn upload(client: &Client, bytes: Vec<u8>) -> Result<ObjectRef, Failure> {
    let stored = client.upload(std::io::Cursor::new(bytes)).await?;
    let digest = stored["digest"].as_str().and_then(|d| d.parse().ok());
    match (digest, stored["len"].as_u64()) {
        (Some(digest), Some(len)) => Ok(ObjectRef { digest, len }),
        _ => Err(Failure::node("the node did not name the object it stored")),
    }
}

/// Waits for the end of a run, looking at the short list of runs: a view of thousands of tasks would be work for the node.
pub async fn ended(client: &Client, run: &str) -> Result<(), Failure> {
    loop {
        let runs = client.get("/runs").await?;
        let ours = runs["runs"].as_array().into_iter().flatten().find(|r| r["run"] == json!(run));
        match ours {
            Some(run) if run["terminal"] == json!(true) && run["state"] == json!("succeeded") => {
                return Ok(());
            }
            Some(run) if run["terminal"] == json!(true) => {
                return Err(Failure::work(format!("the run has {}: {}", run["state"], run["why"])));
            }
            Some(_) => tokio::time::sleep(LOOK_EVERY).await,
            None => return Err(Failure::work("the run is not among the node's runs")),
        }
    }
}

/// Looks until there is something.
async fn until<T, F: Future<Output = Result<Option<T>, Failure>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> Result<T, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(Failure::work(format!("the executor does not show {what}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
