//! `bench workflow`: what a task costs when it does next to nothing.
//!
//! Times are a client's: planning is the whole answer to `POST /workflows/plan`, a run lasts from its submission to the look
//! (every 20 ms) that finds it ended. A hop is the time from when the last input of a task was committed to when the task
//! was: of a chain as its events arrive at a client, else by the journal's times, in whole milliseconds.

use super::figures::{Sample, micros};
use super::graph::{GUEST, Graph, SERVICE, name};
use super::pair::{Pair, ended, key, upload};
use super::system::{cpu_ms, peak_rss};
use crate::cli::args::Shape;
use crate::cli::{Client, Failure, random_run_id};
use crate::workflow_text;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

/// Bytes that the first tasks read.
const SOURCE: &[u8] = b"remote-network bench";
/// The last notice may come a moment after the list of runs has told of the end.
const LAST_NOTICE_WITHIN: Duration = Duration::from_secs(5);

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The graph.
    pub shape: Shape,
    /// Its tasks.
    pub tasks: usize,
    /// Tasks at once at each executor.
    pub running: u16,
    /// Whether the requester executes every second one.
    pub both: bool,
}

/// Runs it and tells the figures.
pub async fn run(root: &Path, log: Option<&str>, wanted: Wanted) -> Result<Value, Failure> {
    let pair = Pair::start(root, log, wanted.running).await?;
    let figures = measure(&pair, wanted).await;
    pair.stop().await;
    figures
}

async fn measure(pair: &Pair, wanted: Wanted) -> Result<Value, Failure> {
    let (requester, executor) = (pair.requester()?, pair.executor()?);
    let module = wat::parse_str(GUEST).map_err(|e| Failure::work(e.to_string()))?;
    let limits = json!({"memory_bytes": 4 << 20, "time_ms": 60_000, "output_bytes": 1 << 20});
    let mut peers = Vec::new();
    if wanted.both {
        pair.offer(requester, SERVICE, module.clone(), limits.clone()).await?;
        peers.push(key(requester)?);
    }
    pair.offer(executor, SERVICE, module, limits).await?;
    peers.push(key(executor)?);
    let source = upload(&requester.client, SOURCE.to_vec()).await?;
    // What is done once only, compiling above all, is done before.
    let warm = Graph::new(Shape::Wide, peers.len() * usize::from(wanted.running));
    let _first = submit(&requester.client, &warm, &source, &peers, SOURCE).await?;

    let graph = Graph::new(wanted.shape, wanted.tasks);
    let text = workflow_text::to_json(&graph.workflow(&source, &peers)).map_err(Failure::work)?;
    let begun = Instant::now();
    let plan = requester.client.post_text("/workflows/plan", format!("{{\"workflow\":{text}}}")).await?;
    let planned = begun.elapsed();
    drop(plan);
    let heard = match wanted.shape {
        Shape::Chain => Some(Heard::listen(&requester.client).await?),
        Shape::Wide | Shape::Layered => None,
    };
    let pids = [requester.pid().unwrap_or(0), executor.pid().unwrap_or(0)];
    let before = pids.map(cpu_ms);
    let begun = Instant::now();
    let ran = submit(&requester.client, &graph, &source, &peers, SOURCE).await?;
    let elapsed = begun.elapsed();
    let after = pids.map(cpu_ms);
    let commits = match heard {
        Some(heard) => heard.commits(&ran.run, wanted.tasks).await?,
        None => journaled(&ran.view),
    };
    let hops = hops(&graph, &commits);
    let peaks = pids.map(peak_rss);
    let tasks = wanted.tasks as u64;
    Ok(json!({
        "bench": "workflow",
        "shape": format!("{:?}", wanted.shape).to_lowercase(),
        "tasks": tasks,
        "running": wanted.running,
        "both": wanted.both,
        "committed": ran.view["tasks_committed"],
        "plan_ms": micros(planned) / 1_000,
        "submit_ms": micros(ran.submitted) / 1_000,
        "elapsed_ms": micros(elapsed) / 1_000,
        "tasks_per_s": tasks * 1_000_000 / micros(elapsed).max(1),
        "hop_p50_us": hops.percentile_us(50),
        "hop_p99_us": hops.percentile_us(99),
        "requester_cpu_us_per_task": after[0].saturating_sub(before[0]) * 1_000 / tasks,
        "executor_cpu_us_per_task": after[1].saturating_sub(before[1]) * 1_000 / tasks,
        "peak_rss_bytes": peaks.into_iter().max(),
        "requester_peak_rss_bytes": peaks[0],
        "executor_peak_rss_bytes": peaks[1],
    }))
}

/// A run that has succeeded with the right results.
struct Ran {
    run: String,
    submitted: Duration,
    view: Value,
}

async fn submit(
    client: &Client,
    graph: &Graph,
    source: &remote_network_core::job::workflow::ObjectRef,
    peers: &[remote_network_core::id::PublicKey],
    content: &[u8],
) -> Result<Ran, Failure> {
    let text = workflow_text::to_json(&graph.workflow(source, peers)).map_err(Failure::work)?;
    let run = random_run_id()?.to_string();
    let begun = Instant::now();
    client.post_text("/runs", format!("{{\"run\":\"{run}\",\"workflow\":{text}}}")).await?;
    let submitted = begun.elapsed();
    ended(client, &run).await?;
    let view = client.get(&format!("/runs/{run}")).await?;
    let found: Vec<&str> =
        view["results"].as_array().into_iter().flatten().filter_map(|r| r["digest"].as_str()).collect();
    if found != graph.expected(content) {
        return Err(Failure::work("the run has succeeded with wrong results"));
    }
    Ok(Ran { run, submitted, view })
}

/// When each task was committed, from some moment on.
type Commits = BTreeMap<String, Duration>;

/// By the journal's clock.
fn journaled(view: &Value) -> Commits {
    let tasks = view["tasks"].as_array().into_iter().flatten();
    tasks
        .filter_map(|t| Some((t["id"].as_str()?.to_owned(), Duration::from_millis(t["since"].as_u64()?))))
        .collect()
}

fn hops(graph: &Graph, commits: &Commits) -> Sample {
    let mut sample = Sample::default();
    for (n, inputs) in graph.inputs().iter().enumerate() {
        let ready = inputs.iter().filter_map(|i| commits.get(&name(*i))).max();
        if let (Some(ready), Some(done)) = (ready, commits.get(&name(n))) {
            sample.add(done.saturating_sub(*ready));
        }
    }
    sample
}

/// The events of a node, each with the moment of its arrival, collected by a task of this process.
struct Heard {
    arrived: tokio::sync::mpsc::UnboundedReceiver<(Duration, String)>,
}

impl Heard {
    async fn listen(client: &Client) -> Result<Self, Failure> {
        let broken = |e: tokio_tungstenite::tungstenite::Error| Failure::node(format!("events: {e}"));
        let ticket = client.post("/events/ticket", &json!({})).await?;
        let url = format!("ws://{}/api/v1/events", client.addr());
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.map_err(broken)?;
        let hello = json!({"ticket": ticket["ticket"], "topics": ["runs"]});
        socket.send(Message::text(hello.to_string())).await.map_err(broken)?;
        // The greeting: what happens from now on is told.
        let _hello = socket.next().await;
        let (tell, arrived) = tokio::sync::mpsc::unbounded_channel();
        let epoch = Instant::now();
        tokio::spawn(async move {
            while let Some(Ok(message)) = socket.next().await {
                // Read later: parsing here would be measured.
                if let Message::Text(text) = message
                    && tell.send((epoch.elapsed(), text.to_string())).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { arrived })
    }

    /// When each of the run's tasks was told to be committed.
    async fn commits(mut self, run: &str, tasks: usize) -> Result<Commits, Failure> {
        let mut commits = Commits::new();
        while commits.len() < tasks {
            let next = tokio::time::timeout(LAST_NOTICE_WITHIN, self.arrived.recv()).await;
            let Ok(Some((at, text))) = next else { break };
            let notice: Value = serde_json::from_str(&text).unwrap_or_default();
            if notice["type"] == json!("gap") {
                return Err(Failure::work("events were lost on the way"));
            }
            let committed = notice["run"] == json!(run) && notice["task"]["state"] == json!("committed");
            if let (true, Some(id)) = (committed, notice["task"]["id"].as_str()) {
                commits.entry(id.to_owned()).or_insert(at);
            }
        }
        Ok(commits)
    }
}
