//! Many processes, one bootstrap: every node finds every other by its key alone.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

mod network;

use network::{Dht, Node, Plan, wait_for};
use std::path::Path;
use std::time::Duration;

/// A record is stored, or a peer found, within this on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);
/// Processes that start at once.
const STARTING_AT_ONCE: usize = 6;

/// `count` nodes; the first is everybody's only bootstrap.
fn join_one_bootstrap(root: &Path, count: usize, change: impl Fn(usize, Plan) -> Plan) -> Vec<Node> {
    let mut plans = Plan::network(root, count, 1);
    for plan in plans.iter_mut().skip(1) {
        // Only a bootstrap has to be where it was.
        if let Dht::Private { port, .. } = &mut plan.dht {
            *port = 0;
        }
    }
    let plans: Vec<Plan> = plans.into_iter().enumerate().map(|(i, p)| change(i, p)).collect();
    let mut nodes = vec![plans[0].start()];
    for some in plans[1..].chunks(STARTING_AT_ONCE) {
        let starting: Vec<_> = some.iter().map(Plan::spawn).collect();
        nodes.extend(starting.into_iter().map(|s| s.ready()));
    }
    for node in &nodes {
        wait_for("stored record", WITHIN, || {
            let status = node.api.get("/status").map_err(|e| e.to_string())?;
            if status["record"].is_null() { Err(format!("{}: {status}", node.plan.name)) } else { Ok(()) }
        });
    }
    nodes
}

#[test]
fn three_nodes_of_one_topic_find_each_other_without_being_told() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = join_one_bootstrap(dir.path(), 3, |_, plan| plan.set("discovery_interval=5"));
    for node in &nodes {
        wait_for("connection to both others", WITHIN, || {
            let status = node.api.get("/status").map_err(|e| e.to_string())?;
            if status["connected"] == 2 { Ok(()) } else { Err(format!("{}: {status}", node.plan.name)) }
        });
    }
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.key != from.key) {
            let peer = from.cli(&["peers", "connect", &to.key, "--json"]).ok().json();
            assert_eq!((peer["key"].as_str(), peer["state"].as_str()), (Some(&*to.key), Some("connected")));
        }
    }
}

/// Every node is in a topic of its own: nobody is told of anybody, and only records in the DHT lead to peers.
#[test]
fn thirty_processes_find_each_other_by_key_alone() {
    const NODES: usize = 30;
    let dir = tempfile::tempdir().unwrap();
    let nodes = join_one_bootstrap(dir.path(), NODES, |i, plan| plan.set(&format!("topics=alone-{i}")));
    let rss: u64 = nodes.iter().map(|n| n.proc_number("status", "VmRSS")).sum();
    eprintln!("{NODES} processes, {} MiB resident in all", rss >> 10);
    // Three cycles through all nodes: each node is a source three times and a target three times.
    for step in [1, 7, 13] {
        for (i, from) in nodes.iter().enumerate() {
            let to = &nodes[(i + step) % NODES];
            let peer = from.api.connect(&to.key).unwrap_or_else(|e| {
                panic!("{} does not find {}: {e}", from.plan.name, to.plan.name);
            });
            assert_eq!((peer["key"].as_str(), peer["state"].as_str()), (Some(&*to.key), Some("connected")));
        }
    }
    for node in &nodes {
        // The other end of the last connection knows a moment later.
        wait_for("six connections", WITHIN, || {
            let status = node.api.get("/status").unwrap();
            if status["connected"] == 6 { Ok(()) } else { Err(format!("{}: {status}", node.plan.name)) }
        });
    }
}
