//! `remote-network demo`: a whole network of separate node processes on this machine, and a workflow over your files.
//!
//! Every node is a process of its own with its own data directory, key, DHT node and API, all on loopback: nothing is
//! shared, nothing is simulated, no Docker, root or internet is needed. The first three nodes are the private DHT's
//! seeds. Three services are published on three different peers; the first node runs the workflow, finds the others by
//! public key alone, and the words of each file flow tokenize → count → merge-rank from peer to peer. Every receipt is
//! verified again, offline, from the bytes that were downloaded.

mod words;

use crate::cli::Failure;
use crate::cli::args::{DemoArgs, Global};
use crate::processes::Network;
use remote_network_core::job::receipt;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Texts that every checkout has, carried in the binary: what the demo counts when no files are named.
const DEFAULT_TEXTS: [(&str, &[u8]); 3] = [
    ("README.md", include_bytes!("../../../README.md")),
    ("ARCHITECTURE.md", include_bytes!("../../../ARCHITECTURE.md")),
    ("LICENSE", include_bytes!("../../../LICENSE")),
];

/// Runs the demo.
pub fn run(global: &Global, args: &DemoArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(demo(global, args))
}

async fn demo(global: &Global, args: &DemoArgs) -> Result<(), Failure> {
    let say = |line: &str| {
        if global.json { eprintln!("{line}") } else { println!("{line}") }
    };
    let temporary = match &args.keep {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("remote-network-demo-").tempdir()?),
    };
    let root: PathBuf = match (&args.keep, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(dir)) => dir.path().to_owned(),
        (None, None) => return Err(Failure::work("no directory for the demo")),
    };
    std::fs::create_dir_all(&root)?;
    let files = inputs(&args.files, &root)?;

    let started = Instant::now();
    say(&format!("starting {} nodes, each a process of its own, under {}", args.nodes, root.display()));
    let mut network = Network::start(&root, args.nodes.into(), global.log.as_deref()).await?;
    for node in network.nodes() {
        say(&format!("  node {}  {}  {}  {}", node.number, node.key, node.driver, node.page));
    }
    let outcome = work(&network, &files, &root, global, &say).await;
    let summary = match outcome {
        Ok(summary) => summary,
        Err(failure) => {
            network.stop().await;
            return Err(failure);
        }
    };
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    say(&format!("verified results after {:.1} s", elapsed_ms as f64 / 1000.0));
    if !args.once {
        let link = network.first()?.client.post("/sign-in-links", &json!({})).await?;
        say(&format!("\nthe page of node 1: {}", sign_in_url(&link)));
        say("the network keeps running; Ctrl-C ends it");
        tokio::signal::ctrl_c().await?;
    }
    network.stop().await;
    if global.json {
        let mut last = summary;
        last["elapsed_ms"] = json!(elapsed_ms);
        println!("{last}");
    }
    Ok(())
}

/// The link in the answer of `/sign-in-links`.
fn sign_in_url(answer: &Value) -> String {
    ["url", "link"].iter().find_map(|k| answer[k].as_str()).unwrap_or_default().to_owned()
}

/// The files to work on: the user's, or the default texts written below `root`.
fn inputs(files: &[PathBuf], root: &Path) -> Result<Vec<PathBuf>, Failure> {
    if files.is_empty() {
        let dir = root.join("input");
        std::fs::create_dir_all(&dir)?;
        return DEFAULT_TEXTS
            .iter()
            .map(|(name, bytes)| {
                let path = dir.join(name);
                std::fs::write(&path, bytes)?;
                Ok(path)
            })
            .collect();
    }
    if files.len() > words::FILES_MAX {
        return Err(Failure::usage(format!("{} files, at most {} are taken", files.len(), words::FILES_MAX)));
    }
    for file in files {
        let meta = std::fs::metadata(file)
            .map_err(|e| Failure::usage(format!("cannot read {}: {e}", file.display())))?;
        if !meta.is_file() {
            return Err(Failure::usage(format!("{} is not a file", file.display()))
                .with_hint("name text files, e.g. `remote-network demo *.txt`"));
        }
    }
    Ok(files.to_vec())
}

/// Publishes the services, runs the workflow, verifies everything; the last line of `--json`, without the time.
async fn work(
    network: &Network,
    files: &[PathBuf],
    root: &Path,
    global: &Global,
    say: &impl Fn(&str),
) -> Result<Value, Failure> {
    let executors = words::publish(network).await?;
    for (service, node) in &executors {
        say(&format!("  service {service} on node {}", node.number));
    }
    let first = network.first()?;
    let (run, workflow) = words::submit(first, files, &executors).await?;
    let file = root.join("workflow.json");
    std::fs::write(&file, &workflow)?;
    say(&format!("run {run} over {} file(s), workflow in {}", files.len(), file.display()));
    let view = crate::cli::follow(&first.client, &run, !global.json).await?;
    if view["state"] != json!("succeeded") {
        return Err(Failure::work(format!("the run has {}: {}", view["state"], view["why"])));
    }

    let mut verified = 0;
    let tasks = view["tasks"].as_array().cloned().unwrap_or_default();
    for task in &tasks {
        let id = task["id"].as_str().unwrap_or_default();
        let mut bundle = Vec::new();
        first.client.download(&format!("/runs/{run}/tasks/{id}/receipt"), &mut bundle).await?;
        receipt::verify_file(&bundle)
            .map_err(|e| Failure::work(format!("the receipt of {id} does not verify: {e}")))?;
        verified += 1;
    }
    let mut ranking = Vec::new();
    first.client.download(&format!("/runs/{run}/results/top/0"), &mut ranking).await?;
    let ranking = String::from_utf8_lossy(&ranking).into_owned();
    let top: Vec<&str> = ranking.lines().take(10).collect();
    say("most frequent words:");
    for line in &top {
        say(&format!("  {line}"));
    }
    say(&format!("{verified} of {} receipts verified", tasks.len()));
    Ok(json!({
        "state": "succeeded",
        "run": run.to_string(),
        "nodes": network.nodes().len(),
        "tasks": tasks.len(),
        "receipts_verified": verified,
        "result": ranking.lines().map(|l| {
            let (count, word) = l.split_once('\t').unwrap_or((l, ""));
            json!({"word": word, "count": count.trim().parse::<u64>().unwrap_or(0)})
        }).collect::<Vec<_>>(),
    }))
}
