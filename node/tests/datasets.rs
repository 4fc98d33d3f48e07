//! Datasets between real nodes: a directory is offered to one peer and to nobody else, counted at its owner without a file of it
//! leaving, copied where the owner allows that, and still there after a sudden end.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

mod network;

use network::words::summary;
use network::{Node, Plan, wait_for};
use remote_network_core::id::Digest;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(60);
const TABLE: &str = "species,cell\nParus major,1\nTurdus merula,2\n";
const NOTE: &str = "where the eagle breeds\n";

fn network(root: &Path) -> [Node; 3] {
    let starting: Vec<_> = Plan::network(root, 3, 1).iter().map(Plan::spawn).collect();
    let nodes: Vec<Node> = starting.into_iter().map(|s| s.ready()).collect();
    let [alice, bob, carol] = nodes.try_into().unwrap_or_else(|_| panic!("three nodes"));
    for (from, to) in [(&alice, &bob), (&carol, &bob)] {
        meet(from, to);
    }
    [alice, bob, carol]
}

fn meet(from: &Node, to: &Node) {
    wait_for("way to a peer by its key alone", WITHIN, || {
        let said = from.cli(&["peers", "connect", &to.key]);
        if said.code == 0 { Ok(()) } else { Err(said.stderr) }
    });
}

fn sees(node: &Node, count: usize) {
    wait_for("services of others", WITHIN, || {
        let list = node.cli(&["service", "list", "--json"]).ok().json();
        if list["services"].as_array().unwrap().len() == count { Ok(()) } else { Err(list.to_string()) }
    });
}

fn observations(root: &Path) -> PathBuf {
    let dir = root.join("Observations");
    fs::create_dir_all(dir.join("nests")).unwrap();
    fs::write(dir.join("table.csv"), TABLE).unwrap();
    fs::write(dir.join("nests/eagle.txt"), NOTE).unwrap();
    dir
}

/// Where a file's content lies in a node's store.
fn find(node: &Node, content: &str) -> Option<PathBuf> {
    let name = Digest::of(content.as_bytes()).to_string();
    let mut left = vec![node.plan.dir.join("blobs")];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
            if entry.path().to_string_lossy().replace('/', "").contains(&name) {
                return Some(entry.path());
            }
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            }
        }
    }
    None
}

fn has(node: &Node, content: &str) -> bool {
    find(node, content).is_some()
}

fn objects(node: &Node) -> usize {
    fn count(dir: &Path) -> usize {
        let entries = fs::read_dir(dir).into_iter().flatten().map(Result::unwrap);
        entries.map(|e| if e.file_type().unwrap().is_dir() { count(&e.path()) } else { 1 }).sum()
    }
    count(&node.plan.dir.join("blobs"))
}

/// The owner's data, counted at the owner.
fn counting(owner: &Node) -> String {
    format!(
        "name: count\nnodes:\n  obs: {{ task: {{ service: observations, peer: {0} }} }}\n  \
         count: {{ task: {{ service: count-lines, peer: {0} }} }}\n  kept: {{ sink: {{}} }}\nedges:\n  \
         - obs.data -> count.in\n  - count.stdout -> kept.in\n",
        owner.key
    )
}

const COPYING: &str = "name: copy\nnodes:\n  obs: { task: { service: observations } }\n  kept: { sink: {} }\n\
                       edges:\n  - obs.data -> kept.in\n";

fn run(node: &Node, root: &Path, text: &str, results: &str) -> Value {
    let file = root.join("flow.yaml");
    fs::write(&file, text).unwrap();
    let (file, results) = (file.display().to_string(), root.join(results).display().to_string());
    node.cli(&["workflow", "run", &file, "--output", &results, "--json"]).ok().json()
}

#[test]
fn a_dataset_is_counted_at_its_owner_copied_by_whom_it_allows_and_seen_by_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let [alice, bob, carol] = network(root);
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/count-lines.wat");
    let mounts = ["--mount-in", "in", "--tree", "in", "--no-stdin"];
    bob.cli(&[&["service", "add", "wasm", program], &mounts[..]].concat()).ok();
    let at = observations(root).display().to_string();
    let offered = bob.cli(&["service", "add", "data", &at, "--allow", &alice.key, "--json"]).ok().json();
    assert_eq!(offered["name"], "observations", "by the name of the directory");
    let id = offered["id"].as_str().unwrap();
    let shown = bob.cli(&["service", "show", id, "--json"]).ok().json();
    assert_eq!((&shown["kind"], &shown["data"]["digest"]), (&json!("data"), &offered["data"]));
    assert_eq!(shown["mounts"], json!([{"name": "data", "direction": "out", "layout": "tree"}]));

    // Carol does not learn that there is such a thing.
    sees(&alice, 2);
    sees(&carol, 1);
    fs::write(root.join("carol.yaml"), COPYING).unwrap();
    let file = root.join("carol.yaml").display().to_string();
    carol.cli(&["workflow", "run", &file]).fails(4, &["nodes.obs.service", "nobody offers `observations`"]);
    // Knowing its digest does not help.
    let digest = offered["data"].as_str().unwrap();
    carol.cli(&["service", "add", "data", digest, "--name", "mine"]).fails(4, &["not in this node's store"]);
    alice.cli(&["service", "add", "data", "neither", "--name", "x"]).fails(2, &["neither a directory nor"]);

    // Bob's own program counts: the number travels, the files do not.
    let view = run(&alice, root, &counting(&bob), "count");
    assert_eq!(view["state"], "succeeded", "{}", summary(&view));
    assert_eq!(fs::read(root.join("count/kept-0")).unwrap(), b"003");
    for other in [&alice, &carol] {
        assert!(!has(other, TABLE) && !has(other, NOTE), "a file left its owner");
    }
    let checked =
        alice.cli(&["receipt", "verify", &root.join("count/obs.receipt").display().to_string()]).ok();
    assert!(checked.stdout.contains(&format!("dataset {digest}")), "{}", checked.stdout);

    // After a sudden end it is still offered, and still whole.
    let bob = bob.kill().start();
    meet(&alice, &bob);
    sees(&alice, 2);
    let view = run(&alice, root, COPYING, "copy");
    assert_eq!(view["state"], "succeeded", "{}", summary(&view));
    assert_eq!(fs::read_to_string(root.join("copy/kept-0/table.csv")).unwrap(), TABLE);
    assert_eq!(fs::read_to_string(root.join("copy/kept-0/nests/eagle.txt")).unwrap(), NOTE);
    assert!(has(&alice, TABLE) && !has(&carol, TABLE));

    // The service holds the files when its owner lets go of them, and nobody does when it is withdrawn.
    bob.cli(&["data", "remove", digest]).ok();
    let bob = bob.kill().start();
    bob.cli(&["data", "files", digest]).ok();
    assert!(has(&bob, TABLE));
    assert!(has(&bob, NOTE));
    bob.cli(&["service", "remove", id]).ok();
    wait_for("end of the files", WITHIN, || if has(&bob, NOTE) { Err("still here".into()) } else { Ok(()) });
}

#[test]
fn a_dataset_is_offered_whole_set_aside_exported_and_imported_with_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let [giver, taker] = ["giver", "taker"].map(|name| Plan::alone(root, name).start());
    let before = objects(&giver);
    let at = observations(root).display().to_string();
    let tree = giver.cli(&["data", "add", &at, "--json"]).ok().json();
    let digest = tree["digest"].as_str().unwrap();
    giver.cli(&["service", "add", "data", digest]).fails(2, &["--name"]);
    let words = ["service", "add", "data", digest, "--name", "birds", "--label", "north", "--json"];
    let offered = giver.cli(&words).ok().json();
    let id = offered["id"].as_str().unwrap();
    // A file is no directory.
    let leaf = tree["files"][0]["digest"].as_str().unwrap();
    giver.cli(&["service", "add", "data", leaf, "--name", "leaf"]).fails(4, &["no directory"]);

    let taken = root.join("taken").display().to_string();
    let document = giver.cli(&["service", "export", id, "--module", &taken]).ok().stdout;
    fs::write(root.join("birds.json"), &document).unwrap();
    let file = root.join("birds.json").display().to_string();
    taker.cli(&["service", "import", &file]).fails(4, &["not in this node's store"]);
    let words = ["service", "import", &file, "--module", &taken, "--json"];
    let imported = taker.cli(&words).ok().json();
    assert_eq!((&imported["id"], &imported["same"]), (&json!(id), &json!(true)));

    // Set aside it is nobody's to have; its files stay.
    giver.cli(&["service", "deactivate", id]).ok();
    giver.cli(&["data", "remove", digest]).ok();
    let giver = giver.kill().start();
    giver.cli(&["service", "activate", id]).ok();
    let view = run(&giver, root, &COPYING.replace("observations", "birds"), "own");
    assert_eq!(view["state"], "succeeded", "{}", summary(&view));
    assert_eq!(fs::read_to_string(root.join("own/kept-0/table.csv")).unwrap(), TABLE);
    assert!(objects(&giver) > before);

    // A file that the disk has lost is not promised.
    giver.cli(&["data", "remove", view["results"][0]["digest"].as_str().unwrap()]).ok();
    let lost = find(&giver, NOTE).unwrap();
    let plan = giver.kill();
    fs::remove_file(lost).unwrap();
    let giver = plan.start();
    giver.cli(&["service", "add", "data", digest, "--name", "more"]).fails(4, &["file", "of the directory"]);
    fs::write(root.join("flow.yaml"), COPYING.replace("observations", "birds")).unwrap();
    let said = giver.cli(&["workflow", "run", &root.join("flow.yaml").display().to_string(), "--json"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("not all here any more"), "{said:?}");
}
