//! The processes, what has become known of their work, and what may be left of them.

use super::course::{self, RESULTS, TASKS};
use super::is_cancelled;
use crate::cli::args::bench::KillArgs;
use crate::cli::{Failure, random_run_id};
use crate::failpoints::{Point, Whose};
use crate::processes::{Network, NodeProcess};
use remote_network_core::id::Digest;
use remote_network_core::job::receipt::{Verdict, verify_file};
use remote_network_core::rng::Rng;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One wants the work done, three do it.
const NODES: usize = 4;
/// However processes were killed, after the last time a run ends within this.
const RUN_ENDS_WITHIN: Duration = Duration::from_secs(180);
/// When all is over, nothing is left after this.
const TIDY_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at a run.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// An undisturbed run takes about as long: moments are drawn from it.
const MOMENT_MAX_MS: u64 = 1_500;

/// A run as it was asked for.
struct Asked {
    id: String,
    /// It has a task that never ends, and is cancelled.
    cancelled: bool,
}

pub struct World {
    pub network: Network,
    /// Deaths at random moments.
    pub kills: u32,
    /// Deaths at named points.
    pub points: u32,
    /// What was lost, in words.
    pub lost: BTreeSet<String>,
    /// What was done twice, in words.
    pub doubled: BTreeSet<String>,
    rng: Rng,
    /// The workflow, and the one that is cancelled.
    texts: [String; 2],
    /// Digests of the undisturbed run's results.
    expected: Vec<Digest>,
    asked: Vec<Asked>,
    /// Digests of receipts, by run and task: acknowledged results.
    receipts: BTreeMap<(String, String), Digest>,
}

impl World {
    pub async fn start(root: &Path, args: &KillArgs, log: &str) -> Result<Self, Failure> {
        let network = Network::start(root, NODES, Some(log)).await?;
        let (Some(first), Some(peers)) = (network.nodes().first(), network.nodes().get(1..)) else {
            return Err(Failure::work("there are no nodes"));
        };
        course::offer(peers, args.image.as_deref()).await?;
        let texts = course::workflows(first, peers, args.image.is_some()).await?;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&args.seed.to_be_bytes());
        Ok(Self {
            rng: Rng::from_seed(seed),
            kills: 0,
            points: 0,
            lost: BTreeSet::new(),
            doubled: BTreeSet::new(),
            texts,
            expected: Vec::new(),
            asked: Vec::new(),
            receipts: BTreeMap::new(),
            network,
        })
    }

    pub fn runs(&self) -> usize {
        self.asked.len()
    }

    /// A number below `bound`.
    pub fn random(&mut self, bound: u64) -> Result<u32, Failure> {
        u32::try_from(self.rng.below(bound)).map_err(|e| Failure::work(e.to_string()))
    }

    fn node(&mut self, i: usize) -> Result<&mut NodeProcess, Failure> {
        self.network.nodes_mut().get_mut(i).ok_or_else(|| Failure::work("no such node"))
    }

    /// Asks for the work; again and again if need be, as a user would whose node dies while it is asked. Those who die of it are
    /// counted.
    async fn submit(&mut self, cancelled: bool, armed: &mut Vec<Point>) -> Result<String, Failure> {
        let id = random_run_id()?.to_string();
        let [whole, endless] = &self.texts;
        let body = format!("{{\"run\":\"{id}\",\"workflow\":{}}}", if cancelled { endless } else { whole });
        let until = Instant::now() + RUN_ENDS_WITHIN;
        loop {
            match self.network.first()?.client.post_text("/runs", body.clone()).await {
                Ok(_) => break,
                Err(e) if Instant::now() > until => return Err(e),
                Err(_) => self.bury(armed).await?,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.asked.push(Asked { id: id.clone(), cancelled });
        Ok(id)
    }

    /// The run that nobody disturbs: what it gives is what all must give.
    pub async fn undisturbed(&mut self) -> Result<(), Failure> {
        let run = self.submit(false, &mut Vec::new()).await?;
        let view = self.finished(&run).await?;
        if view["state"] != "succeeded" {
            return Err(Failure::work(format!(
                "the undisturbed run ended {}: {}",
                view["state"], view["why"]
            )));
        }
        self.expected = self.results(&run).await?;
        self.judge(&run, &view, false).await
    }

    async fn results(&self, run: &str) -> Result<Vec<Digest>, Failure> {
        let mut digests = Vec::new();
        for i in 0..RESULTS {
            let mut bytes = Vec::new();
            let path = format!("/runs/{run}/results/kept/{i}");
            self.network.first()?.client.download(&path, &mut bytes).await?;
            digests.push(Digest::of(&bytes));
        }
        Ok(digests)
    }

    /// A run whose nodes are killed at random moments.
    pub async fn under_fire(&mut self, kills: u32) -> Result<(), Failure> {
        let run = self.submit(false, &mut Vec::new()).await?;
        let strikes = 4 + self.rng.below(8);
        for _ in 0..strikes {
            if self.kills >= kills || self.look(&run).await?.is_some_and(|v| v["terminal"] == true) {
                break;
            }
            // Short moments are as likely as long ones.
            let scale = self.rng.below(MOMENT_MAX_MS) + 1;
            let moment = self.rng.below(scale);
            tokio::time::sleep(Duration::from_millis(moment)).await;
            self.strike().await?;
        }
        let view = self.finished(&run).await?;
        self.judge(&run, &view, false).await
    }

    /// Kills one node, or two at once, and starts them again; now and then one dies once more while it starts.
    async fn strike(&mut self) -> Result<(), Failure> {
        let first = self.rng.below(NODES as u64) as usize;
        let mut victims = vec![first];
        if self.rng.below(4) == 0 {
            victims.push((first + 1 + self.rng.below(NODES as u64 - 1) as usize) % NODES);
        }
        for &i in &victims {
            self.node(i)?.kill().await?;
            self.kills += 1;
        }
        if self.rng.below(5) == 0 {
            let after = Duration::from_millis(self.rng.below(120));
            self.node(first)?.falter(after).await?;
            self.kills += 1;
        }
        for &i in &victims {
            self.node(i)?.again(None).await?;
        }
        Ok(())
    }

    /// A run in which nodes kill themselves at these points, the `passes`-th time they pass them. Returns those that did not.
    pub async fn at_points(&mut self, points: &[Point], passes: u64) -> Result<Vec<Point>, Failure> {
        for point in points {
            let node = self.node(place(point))?;
            node.kill().await?;
            node.again(Some(&format!("{}:{passes}", point.name))).await?;
        }
        let cancelled = is_cancelled(points);
        let mut alive: Vec<Point> = points.to_vec();
        let run = self.submit(cancelled, &mut alive).await?;
        let until = Instant::now() + RUN_ENDS_WITHIN;
        let view = loop {
            self.bury(&mut alive).await?;
            match self.look(&run).await? {
                Some(view) if view["terminal"] == true => break view,
                // All but the one that never ends.
                Some(view) if cancelled && view["tasks_committed"] == TASKS => {
                    // Its node may die of it, and is asked again.
                    let path = format!("/runs/{run}/cancel");
                    let _asked = self.network.first()?.client.post(&path, &serde_json::json!({})).await;
                }
                Some(_) | None => {}
            }
            if Instant::now() > until {
                self.lost.insert(format!("run {run} does not end after deaths at {points:?}"));
                break Value::Null;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        // What follows a run's end (what is let go, removed, forgotten) has points, too.
        let until = Instant::now() + Duration::from_secs(3);
        while !alive.is_empty() && Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
            self.bury(&mut alive).await?;
        }
        for point in &alive {
            let node = self.node(place(point))?;
            node.kill().await?;
            node.again(None).await?;
        }
        self.judge(&run, &view, cancelled).await?;
        Ok(alive)
    }

    /// Counts those who have died at their points, and starts them again.
    async fn bury(&mut self, alive: &mut Vec<Point>) -> Result<(), Failure> {
        let mut still = Vec::new();
        for point in alive.drain(..) {
            let node = self.node(place(&point))?;
            if node.is_dead()? {
                node.again(None).await?;
                self.points += 1;
            } else {
                still.push(point);
            }
        }
        *alive = still;
        Ok(())
    }

    /// Looks at a run and remembers its receipts: those seen before must be the very same. `None`: its node is dead.
    async fn look(&mut self, run: &str) -> Result<Option<Value>, Failure> {
        let Ok(view) = self.network.first()?.client.get(&format!("/runs/{run}")).await else {
            return Ok(None);
        };
        for task in view["tasks"].as_array().into_iter().flatten() {
            let Some(id) = task["id"].as_str() else { continue };
            let key = (run.to_owned(), id.to_owned());
            let seen = self.receipts.get(&key).copied();
            if task["state"] != "committed" {
                if seen.is_some() {
                    self.lost.insert(format!("the receipt of {id} of {run} is gone: {task}"));
                }
                continue;
            }
            if seen.is_some() && view["terminal"] != true {
                continue;
            }
            let mut bundle = Vec::new();
            let path = format!("/runs/{run}/tasks/{id}/receipt");
            if self.network.first()?.client.download(&path, &mut bundle).await.is_err() {
                return Ok(None);
            }
            let digest = Digest::of(&bundle);
            if seen.is_some_and(|s| s != digest) {
                self.doubled.insert(format!("{id} of {run} was committed a second time"));
            }
            let wrong = match verify_file(&bundle) {
                Ok(report) if report.verdict.0 == Verdict::Won => None,
                Ok(report) => Some(format!("{:?}", report.verdict)),
                Err(e) => Some(e.to_string()),
            };
            self.lost.extend(wrong.map(|why| format!("the receipt of {id} of {run}: {why}")));
            self.receipts.insert(key, digest);
        }
        Ok(Some(view))
    }

    async fn finished(&mut self, run: &str) -> Result<Value, Failure> {
        let until = Instant::now() + RUN_ENDS_WITHIN;
        loop {
            match self.look(run).await? {
                Some(view) if view["terminal"] == true => return Ok(view),
                Some(view) if Instant::now() > until => {
                    return Err(Failure::work(format!("run {run} does not end: {view}")));
                }
                Some(_) | None => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether a run came out right.
    async fn judge(&mut self, run: &str, view: &Value, cancelled: bool) -> Result<(), Failure> {
        if cancelled && view["state"] == "cancelled" && view["tasks_committed"] == TASKS {
            return Ok(());
        }
        let committed = view["tasks_committed"].as_u64();
        if view["state"] != "succeeded" || committed != Some(TASKS as u64) {
            let (state, why) = (&view["state"], &view["why"]);
            self.lost.insert(format!("run {run} ended {state} with {committed:?} of {TASKS} tasks: {why}"));
        } else if self.results(run).await? != self.expected {
            self.lost.insert(format!("run {run} has other results than the undisturbed one"));
        }
        Ok(())
    }

    /// What is left when all is over: the requester has told of every run once more, and everybody has been started anew.
    pub async fn orphans(&mut self) -> Result<Vec<String>, Failure> {
        for node in self.network.nodes_mut() {
            node.kill().await?;
        }
        for node in self.network.nodes_mut() {
            node.again(None).await?;
        }
        for i in 0..self.asked.len() {
            let Some(Asked { id, cancelled }) = self.asked.get(i) else { continue };
            let (id, cancelled) = (id.clone(), *cancelled);
            let view = self.finished(&id).await?;
            self.judge(&id, &view, cancelled).await?;
        }
        let until = Instant::now() + TIDY_WITHIN;
        loop {
            let left = self.left()?;
            if left.is_empty() || Instant::now() > until {
                return Ok(left);
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Processes, containers, mounts and files of jobs, in words.
    fn left(&self) -> Result<Vec<String>, Failure> {
        let mut left = Vec::new();
        let pids: Vec<Option<u32>> = self.network.nodes().iter().map(NodeProcess::pid).collect();
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        for node in self.network.nodes() {
            let dir = node.dir().display().to_string();
            left.extend(mounts.lines().filter(|l| l.contains(&dir)).map(|l| format!("a mount: {l}")));
            for scratch in ["engine/scratch", "engine/docker", "tmp", "partial"] {
                left.extend(
                    files(&node.dir().join(scratch))?.iter().map(|f| format!("a file: {}", f.display())),
                );
            }
            left.extend(containers(&node.key)?);
        }
        left.extend(workers(&pids)?);
        Ok(left)
    }
}

/// Which node passes a point.
fn place(point: &Point) -> usize {
    match point.whose {
        Whose::Requester => 0,
        Whose::Wasm => 1,
        Whose::Docker => 3,
    }
}

/// What is in a directory, if it is there.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|e| Ok(e?.path())).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e.into()),
    }
}

/// Containers of a node, asked of the engine by its own command line; none where there is no engine.
fn containers(key: &str) -> Result<Vec<String>, Failure> {
    let filter = format!("label=rn.node={key}");
    let asked = std::process::Command::new("docker").args(["ps", "-a", "-q", "--filter", &filter]).output();
    let Ok(out) = asked else { return Ok(Vec::new()) };
    let ids = String::from_utf8_lossy(&out.stdout);
    Ok(ids.lines().map(|id| format!("container {id} of {key}")).collect())
}

/// Workers of this binary whose node is none of those that live.
fn workers(nodes: &[Option<u32>]) -> Result<Vec<String>, Failure> {
    let own = std::env::current_exe()?;
    let mut left = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|n| n.to_str()?.parse::<u32>().ok()) else { continue };
        // Gone meanwhile, or somebody else's.
        let (Ok(exe), Ok(line)) = (std::fs::read_link(path.join("exe")), std::fs::read(path.join("cmdline")))
        else {
            continue;
        };
        let is_worker = exe == own && line.split(|b| *b == 0).nth(1) == Some(b"worker");
        let parent = std::fs::read_to_string(path.join("status")).ok();
        let parent = parent.as_deref().and_then(|s| s.lines().find_map(|l| l.strip_prefix("PPid:")));
        let parent = parent.and_then(|p| p.trim().parse::<u32>().ok());
        if is_worker && !nodes.iter().any(|n| n.is_some() && *n == parent) && parent == Some(1) {
            left.push(format!("worker {pid}, whose node is dead"));
        }
    }
    Ok(left)
}
