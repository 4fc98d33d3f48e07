//! The DHT as people and scripts use it, with real processes: its commands, QUIC's socket shared with it, and a network
//! that starts again from its saved tables.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

mod network;

use network::{Dht, Node, Plan, free_udp_ports, run, wait_for};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(60);

fn in_the_dht(node: &Node, nodes: u64) {
    wait_for("place in the DHT", WITHIN, || {
        let status = node.cli(&["dht", "status", "--json"]).ok().json();
        let known = status["families"].as_array().into_iter().flatten().filter_map(|f| f["nodes"].as_u64());
        if known.sum::<u64>() >= nodes { Ok(()) } else { Err(status.to_string()) }
    });
}

/// A private network whose nodes have one socket each, for QUIC and the DHT; the last runs on smol.
fn sharing(root: &Path, count: usize) -> Vec<Plan> {
    let ports = free_udp_ports(count);
    let mut plans = Plan::network(root, count, 1);
    for (i, plan) in plans.iter_mut().enumerate() {
        plan.quic_port = ports[i];
        plan.dht = Dht::Shared { seed: i == 0, bootstrap: if i == 0 { vec![] } else { vec![ports[0]] } };
    }
    plans
}

#[test]
fn items_and_announcements_go_from_one_node_to_the_other_by_commands() {
    let dir = tempfile::tempdir().unwrap();
    let plans = Plan::network(dir.path(), 3, 1);
    let nodes: Vec<Node> = plans.iter().map(Plan::start).collect();
    nodes.iter().for_each(|n| in_the_dht(n, 2));
    let [a, b, c] = &nodes[..] else { unreachable!() };

    let put = a.cli(&["dht", "put", "Hello World!", "--json"]).ok().json();
    assert_eq!(put["target"], "e5f96f6f38320f0f33959cb4d3d656452117aadb", "the example of BEP 44");
    assert!(put["stored"].as_u64() >= Some(1), "{put}");
    assert_eq!(
        b.cli(&["dht", "get", "e5f96f6f38320f0f33959cb4d3d656452117aadb"]).ok().stdout,
        "Hello World!"
    );

    // Under the node's key: versions count up by themselves.
    for (version, value) in [(1, "first"), (2, "second")] {
        let put = a.cli(&["dht", "put", value, "--salt", "news", "--json"]).ok().json();
        assert_eq!((put["seq"].as_u64(), put["key"].as_str()), (Some(version), Some(&*a.key)), "{put}");
        let got = c.cli(&["dht", "get", &a.key, "--salt", "news", "--json"]).ok().json();
        assert_eq!((&got["text"], got["seq"].as_u64()), (&json!(value), Some(version)), "{got}");
    }
    // Each node's own record is an item like others, and cannot be replaced by hand.
    wait_for("record", WITHIN, || {
        let got = b.cli(&["dht", "get", &a.key, "--json"]);
        if got.code == 0 { Ok(()) } else { Err(format!("{got:?}")) }
    });

    // Under a key of one's own, as another program would name it.
    let key_file = dir.path().join("key").display().to_string();
    std::fs::write(&key_file, "11".repeat(32)).unwrap();
    let put = b.cli(&["dht", "put", "mine", "--key", &key_file, "--seq", "41", "--json"]).ok().json();
    let key = put["key"].as_str().unwrap();
    assert_eq!((put["seq"].as_u64(), key == b.key), (Some(41), false));
    assert_eq!(c.cli(&["dht", "get", key]).ok().stdout, "mine");
    let next = c.cli(&["dht", "put", "mine, too", "--key", &key_file, "--cas", "41", "--json"]).ok().json();
    assert_eq!(next["seq"], 42);
    let refused = b.cli(&["dht", "put", "late", "--key", &key_file, "--seq", "43", "--cas", "41"]);
    refused.fails(4, &["another sequence number", "help:"]);
    b.cli(&["dht", "put", "old", "--key", &key_file, "--seq", "40"]).fails(4, &["more recent", "higher"]);

    let put = a.cli(&["dht", "announce", "topic:chess", "--port", "4001", "--json"]).ok().json();
    assert_eq!(put["info_hash"].as_str().map(str::len), Some(40));
    b.cli(&["dht", "announce", "topic:chess"]).ok();
    let quic = b.quic_addr();
    let peers = c.cli(&["dht", "peers", "topic:chess"]).ok().stdout;
    assert!(peers.contains("127.0.0.1:4001\n") && peers.contains(&quic), "{peers}");

    let status = a.cli(&["dht", "status", "--json"]).ok().json();
    assert_eq!((&status["backend"], &status["read_only"]), (&json!("native"), &json!(false)), "{status}");
    assert!(status["kept_values"].as_u64() > Some(0) && status["families"][0]["id"].is_string(), "{status}");
    let words = a.cli(&["dht", "status"]).ok().stdout;
    assert!(["native", "ipv4", "open", "values"].iter().all(|w| words.contains(w)), "{words}");
}

#[test]
fn what_cannot_be_done_in_the_dht_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("nobody").display().to_string();
    run(&["--data-dir", &at, "dht", "status"]).fails(3, &["no node is running"]);

    let lonely = Plan::network(dir.path(), 1, 1)[0].start();
    let nowhere = "00".repeat(20);
    lonely.cli(&["dht", "get", &nowhere]).fails(4, &["no DHT node answered", "dht_bootstrap"]);
    lonely.cli(&["dht", "put", "x", "--cas", "1"]).fails(2, &["no versions", "--salt"]);
    lonely.cli(&["dht", "put", "x", "--salt", ""]).fails(4, &["own record", "salt"]);
    lonely.cli(&["dht", "put", &"x".repeat(997)]).fails(2, &["996 bytes", "digest"]);
    lonely.cli(&["dht", "put", "x", "--salt", &"s".repeat(65)]).fails(4, &["64 bytes"]);
    lonely.cli(&["dht", "put", "x", "--key", "no-such-file"]).fails(2, &["no-such-file"]);
    lonely.cli(&["dht", "get", "key_0OIl"]).fails(2, &["names no item", "40 hex digits"]);
    lonely.cli(&["dht", "get", &nowhere, "--salt", "s"]).fails(2, &["immutable", "salt"]);
    lonely.cli(&["dht", "peers", "chess"]).fails(2, &["no info-hash", "topic:NAME"]);
    lonely.cli(&["dht", "announce", "topic:x", "--port", "0"]).fails(2, &["--port"]);
    let off = Plan::alone(dir.path(), "off").start();
    off.cli(&["dht", "peers", &nowhere]).fails(4, &["offline", "dht_mode"]);
    assert_eq!(off.cli(&["dht", "status", "--json"]).ok().json()["backend"], "off");
}

#[test]
fn one_socket_serves_quic_and_the_dht_on_both_drivers() {
    let dir = tempfile::tempdir().unwrap();
    let plans = sharing(dir.path(), 4);
    let nodes: Vec<Node> = plans.iter().map(|p| p.clone().set("topics=sharing").start()).collect();
    nodes.iter().for_each(|n| in_the_dht(n, 2));
    for node in &nodes {
        let status = node.cli(&["dht", "status", "--json"]).ok().json();
        assert_eq!(status["shared_socket"], true);
        assert_eq!(status["local"].as_str(), Some(&*node.quic_addr()));
    }
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.key != from.key) {
            let peer =
                wait_for("way by key alone", WITHIN, || from.api.connect(&to.key).map_err(|e| e.to_string()));
            assert_eq!(peer["state"], "connected");
        }
    }
    // What is announced without a port is where QUIC is.
    nodes[3].cli(&["dht", "announce", "topic:shared"]).ok();
    let peers = nodes[1].cli(&["dht", "peers", "topic:shared", "--json"]).ok().json();
    assert_eq!(peers["peers"], json!([nodes[3].quic_addr()]));
    // A burst of both at once: transfers of QUIC do not crowd out the DHT.
    let file = dir.path().join("file");
    std::fs::write(&file, vec![7; 1 << 20]).unwrap();
    nodes[0].cli(&["data", "add", &file.display().to_string()]).ok();
    for n in 0..20 {
        let value = format!("value {n}");
        let put = nodes[n % 4].cli(&["dht", "put", &value, "--json"]).ok().json();
        let target = put["target"].as_str().unwrap();
        assert_eq!(nodes[(n + 1) % 4].cli(&["dht", "get", target]).ok().stdout, value);
    }
}

#[test]
fn a_network_starts_again_from_its_tables_without_its_bootstrap() {
    let dir = tempfile::tempdir().unwrap();
    let plans = Plan::network(dir.path(), 3, 1);
    let mut nodes: Vec<Node> = plans.iter().map(Plan::start).collect();
    nodes.iter().for_each(|n| in_the_dht(n, 2));
    for plan in &plans {
        wait_for("saved table", WITHIN, || {
            if plan.dir.join("dht-table-private").exists() { Ok(()) } else { Err(plan.name.clone()) }
        });
    }
    // The bootstrap is gone for good, the others are killed.
    let _gone = nodes.remove(0).kill();
    let again: Vec<Plan> = nodes.into_iter().map(Node::kill).collect();
    let nodes: Vec<Node> = again.iter().map(Plan::start).collect();
    nodes.iter().for_each(|n| in_the_dht(n, 1));
    wait_for("way by key alone", WITHIN, || nodes[0].api.connect(&nodes[1].key).map_err(|e| e.to_string()));
    // The other end knows a moment later.
    wait_for("connection at the other end", WITHIN, || {
        let status: Value = nodes[1].api.get("/status").unwrap();
        if status["connected"] == 1 { Ok(()) } else { Err(status.to_string()) }
    });
}
