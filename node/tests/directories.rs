//! Directories between real nodes, as people use them: one goes from the command line to jobs at two other peers, what these
//! make of it comes back file by file, and what nobody needs any more goes with all its files.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

mod network;

use network::words::summary;
use network::{Node, Plan, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(60);
/// Longer than a piece of a transfer.
const LARGE: usize = 3 << 20;

/// Paths below a directory, with what lies there.
type Files = BTreeMap<String, Vec<u8>>;

fn files_below(dir: &Path) -> Files {
    let mut found = Files::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
                continue;
            }
            let path = entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            found.insert(path, fs::read(entry.path()).unwrap());
        }
    }
    found
}

fn write_all(dir: &Path, files: &Files) {
    for (path, bytes) in files {
        let file = dir.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
}

/// Names that a shell, a URL or a careless program would trip over, equal files, an empty one, a large one.
fn scenes() -> Files {
    let large: Vec<u8> = (0..LARGE).map(|i| ((i * i) >> 7) as u8).collect();
    let file = |path: &str, bytes: &[u8]| (path.to_owned(), bytes.to_vec());
    Files::from([
        file("a/b/c/deep.txt", b"the same"),
        file("a/same.txt", b"the same"),
        file("a b/%2e%2e/100 %?#&=.txt", b"odd"),
        file("empty", b""),
        file("large.bin", &large),
        file("-rf", b"no flag"),
        file("Übersicht/日本.txt", b"umlauts and more"),
    ])
}

/// What `copy-tree` leaves of `files`.
fn copied(files: &Files) -> Files {
    let mut all = files.clone();
    all.insert("made/note".into(), b"left by the job\n".to_vec());
    all
}

/// A run whose two tasks are at different peers: the second is given what the first has left, and the source once more.
fn workflow(source: &Value, first: &Node, second: &Node) -> String {
    format!(
        "name: directories\nnodes:\n  \
         scenes: {{ source: {{ objects: [{{ digest: {}, len: {} }}] }} }}\n  \
         first: {{ task: {{ service: copy-tree, peer: {} }} }}\n  \
         second: {{ task: {{ service: copy-tree, peer: {} }} }}\n  kept: {{ sink: {{}} }}\nedges:\n  \
         - scenes.out -> first.in\n  - scenes.out -> second.in\n  - first.out -> second.in\n  \
         - second.out -> kept.in\n",
        source["digest"].as_str().unwrap(),
        source["len"],
        first.key,
        second.key
    )
}

fn objects(node: &Node) -> usize {
    fn count(dir: &Path) -> usize {
        let entries = fs::read_dir(dir).into_iter().flatten().map(Result::unwrap);
        entries.map(|e| if e.file_type().unwrap().is_dir() { count(&e.path()) } else { 1 }).sum()
    }
    count(&node.plan.dir.join("blobs"))
}

fn network(root: &Path) -> [Node; 3] {
    let plans = Plan::network(root, 3, 1);
    let starting: Vec<_> = plans.iter().map(Plan::spawn).collect();
    let nodes: Vec<Node> = starting.into_iter().map(|s| s.ready()).collect();
    let [alice, bob, carol] = nodes.try_into().unwrap_or_else(|_| panic!("three nodes"));
    for peer in [&bob, &carol] {
        wait_for("way to a peer by its key alone", WITHIN, || {
            let said = alice.cli(&["peers", "connect", &peer.key]);
            if said.code == 0 { Ok(()) } else { Err(said.stderr) }
        });
    }
    [alice, bob, carol]
}

fn offer(node: &Node) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/copy-tree.wat");
    let mounts = ["--mount-in", "in", "--mount-out", "out", "--tree", "in", "--tree", "out"];
    node.cli(&[&["service", "add", "wasm", program, "--no-stdin"], &mounts[..]].concat()).ok();
}

#[test]
fn a_directory_goes_to_other_peers_and_another_comes_back_file_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let [alice, bob, carol] = network(dir.path());
    let scenes = scenes();
    write_all(&dir.path().join("scenes"), &scenes);
    [&bob, &carol].into_iter().for_each(offer);
    let offered = [&bob, &carol].map(objects);
    wait_for("both services", WITHIN, || {
        let list = alice.cli(&["service", "list", "--json"]).ok().json();
        if list["services"].as_array().unwrap().len() == 2 { Ok(()) } else { Err(list.to_string()) }
    });

    let source = alice.cli(&["data", "add", &at("scenes"), "--json"]).ok().json();
    let all: usize = scenes.values().map(Vec::len).sum();
    assert_eq!((&source["bytes"], source["files"].as_array().unwrap().len()), (&json!(all), scenes.len()));
    let digest = source["digest"].as_str().unwrap();
    let listed = alice.cli(&["data", "files", digest, "--json"]).ok().json();
    assert_eq!(listed, source);

    let text = workflow(&source, &bob, &carol);
    fs::write(at("flow.yaml"), text).unwrap();
    let run = ["workflow", "run", &at("flow.yaml"), "--output", &at("results"), "--json"];
    let view = alice.cli(&run).ok().json();
    assert_eq!(view["state"], "succeeded", "{}", summary(&view));
    let result = &view["results"][0];
    assert_eq!((&result["tree"], &result["sink"]), (&json!(true), &json!("kept")));
    assert_eq!(
        files_below(&dir.path().join("results/kept-0")),
        copied(&scenes),
        "as `workflow run` writes it"
    );

    let digest = result["digest"].as_str().unwrap();
    let names = alice.cli(&["data", "files", digest]).ok().stdout;
    assert!(names.contains("日本.txt") && names.contains("made/note"), "{names}");
    let written = alice.cli(&["data", "get", digest, &at("home"), "--json"]).ok().json();
    assert_eq!(written["files"].as_array().unwrap().len(), scenes.len() + 1);
    assert_eq!(files_below(&dir.path().join("home")), copied(&scenes));
    alice.cli(&["data", "get", digest, &at("home")]).fails(2, &["home", "written to a new one"]);
    alice.cli(&["data", "get", &"0".repeat(64), &at("nothing")]).fails(4, &["not in this node's store"]);
    assert!(!dir.path().join("nothing").exists());
    let leaf = source["files"][0]["digest"].as_str().unwrap();
    alice.cli(&["data", "files", leaf]).fails(4, &["no directory"]);

    // Alice has it all: the others keep nothing of it.
    for (node, offered) in [&bob, &carol].into_iter().zip(offered) {
        wait_for("end of what the jobs had", WITHIN, || match objects(node) {
            n if n == offered => Ok(()),
            n => Err(format!("{} has {n} objects, not {offered}", node.plan.name)),
        });
    }
    // After a sudden end it is still whole, and still is when the source is let go of.
    let alice = alice.kill().start();
    alice.cli(&["data", "remove", source["digest"].as_str().unwrap()]).ok();
    alice.cli(&["data", "get", digest, &at("again")]).ok();
    assert_eq!(files_below(&dir.path().join("again")), copied(&scenes));
}

#[test]
fn a_directory_that_is_let_go_goes_with_its_files_and_leaves_those_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let node = Plan::alone(dir.path(), "alone").start();
    let add = |name: &str, files: &[(&str, &str)]| {
        let files = files.iter().map(|(p, b)| ((*p).to_owned(), b.as_bytes().to_vec())).collect();
        write_all(&dir.path().join(name), &files);
        let at = dir.path().join(name).display().to_string();
        node.cli(&["data", "add", &at, "--json"]).ok().json()["digest"].as_str().unwrap().to_owned()
    };
    let before = objects(&node);
    let script = dir.path().join("one/run.sh");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    fs::write(&script, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let one = add("one", &[("both", "shared"), ("mine", "one")]);
    let two = add("two", &[("x/both", "shared"), ("yours", "two")]);
    // Two lists, and the files `both`, `mine`, `run.sh`, `yours`.
    assert_eq!(objects(&node) - before, 6);
    let node = node.kill().start();
    let gone = |what: &str, left: usize| {
        wait_for(what, WITHIN, || match objects(&node) - before {
            n if n == left => Ok(()),
            n => Err(format!("{n} objects, not {left}")),
        });
    };
    let at = dir.path().join("back").display().to_string();
    node.cli(&["data", "get", &one, &at]).ok();
    let mode = |name: &str| fs::metadata(dir.path().join("back").join(name)).unwrap().permissions().mode();
    assert_eq!((mode("run.sh") & 0o111 != 0, mode("mine") & 0o111 != 0), (true, false));
    node.cli(&["data", "remove", &one]).ok();
    gone("end of the first", 3);
    node.cli(&["data", "files", &one]).fails(4, &["not in this node's store"]);
    assert_eq!(
        node.cli(&["data", "files", &two, "--json"]).ok().json()["files"].as_array().unwrap().len(),
        2
    );
    node.cli(&["data", "remove", &two]).ok();
    gone("end of the second", 0);
    let link = dir.path().join("one/link");
    std::os::unix::fs::symlink("/etc/passwd", link).unwrap();
    let one = dir.path().join("one").display().to_string();
    node.cli(&["data", "add", &one]).fails(2, &["link", "neither a file nor a directory"]);
}

#[test]
fn an_edge_from_a_directory_to_a_file_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let node = Plan::alone(dir.path(), "alone").start();
    offer(&node);
    let count = concat!(env!("CARGO_MANIFEST_DIR"), "/services/count.wasm");
    node.cli(&["service", "add", "wasm", count]).ok();
    let file = dir.path().join("w.yaml");
    let text = "name: w\nnodes:\n  words: { source: { text: hello } }\n  copy: { task: { service: copy-tree } }\n  \
                count: { task: { service: count } }\n  out: { sink: {} }\nedges:\n  - words.out -> copy.in\n  \
                - copy.out -> count.stdin\n  - count.stdout -> out.in\n";
    fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    node.cli(&["workflow", "validate", &file])
        .fails(1, &["edges[1]", "`copy` gives a directory", "takes a file"]);
    // What a source holds shows when the job is to start.
    fs::write(&file, text.replace("copy.out -> count.stdin", "words.out -> count.stdin")).unwrap();
    let said = node.cli(&["workflow", "run", &file, "--json"]);
    assert_ne!(said.code, 0);
    let runs = node.cli(&["runs", "list", "--json"]).ok().json();
    let run = runs["runs"][0]["run"].as_str().unwrap();
    let view = node.api.get(&format!("/runs/{run}")).unwrap();
    assert!(summary(&view).contains("no directory"), "{}", summary(&view));
}
