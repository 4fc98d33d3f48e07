//! A node without work leaves the disk alone and stays small.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

mod network;

use network::{Node, Plan, wait_for};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const WITHIN: Duration = Duration::from_secs(60);
/// Without a change for this long, the start is over.
const CALM: Duration = Duration::from_secs(3);
/// How long the node is watched.
const IDLE: Duration = Duration::from_secs(20);
const RSS_KIB_MAX: u64 = 60 << 10;

/// Every file of the data directory: length, and when it was last written.
fn files(dir: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(entry.path(), (meta.len(), meta.modified().unwrap()));
        }
    }
    found
}

fn written_bytes(node: &Node) -> u64 {
    node.proc_number("io", "write_bytes")
}

#[test]
fn an_idle_node_writes_nothing_and_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let plans = Plan::network(dir.path(), 2, 1);
    let nodes: Vec<Node> = plans.iter().map(Plan::start).collect();
    for node in &nodes {
        wait_for("stored record", WITHIN, || {
            let status = node.api.get("/status").map_err(|e| e.to_string())?;
            if status["record"].is_null() { Err(status.to_string()) } else { Ok(()) }
        });
    }
    nodes[1].api.connect(&nodes[0].key).unwrap();
    let look = || nodes.iter().map(|n| (files(&n.plan.dir), written_bytes(n))).collect::<Vec<_>>();
    let mut calm = (Instant::now(), look());
    wait_for("end of the start's writes", WITHIN, || {
        let now = look();
        if now != calm.1 {
            calm = (Instant::now(), now);
        }
        if calm.0.elapsed() >= CALM { Ok(()) } else { Err("files still change".into()) }
    });

    let before = look();
    // Idleness is a length of time: there is nothing to wait for.
    std::thread::sleep(IDLE);
    let after = look();
    for ((node, before), after) in nodes.iter().zip(&before).zip(&after) {
        assert_eq!(before.0, after.0, "files of {}", node.plan.name);
        assert_eq!(before.1, after.1, "bytes written to the disk by {}", node.plan.name);
        let rss = node.proc_number("status", "VmRSS");
        eprintln!("{} on {}: {rss} KiB resident", node.plan.name, node.plan.driver);
        assert!(rss <= RSS_KIB_MAX, "{} is {rss} KiB large", node.plan.name);
    }
}
