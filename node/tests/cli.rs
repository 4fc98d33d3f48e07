//! The command line as people meet it: a story from the first service to the last receipt, and every way to get it
//! wrong, each answered with what is wrong, where, and how to mend it.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

mod network;

use network::words::{finished, ranking};
use network::{Node, Plan, Said, run, run_with_input, wait_for};
use remote_network_node::keystore::KEYSTORE_FILE;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(60);
const SOME_KEY: &str = "key_4zvwRjXUKGfvwnParsHAS3HuSVzV5cA4McphgmoCtajS";
/// A program without end.
const ENDLESS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $on (br $on))))"#;

fn module(name: &str) -> String {
    format!("{}/services/{name}.wasm", env!("CARGO_MANIFEST_DIR"))
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

// ---------------------------------------------------------------------------------------------- wrong words

#[test]
fn wrong_words_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display().to_string();
    let cli = |args: &[&str]| run(&[&["--data-dir", &at], args].concat());
    let cases: &[(&[&str], &[&str])] = &[
        (&["strat"], &["strat", "start"]),
        (&["status", "--jsn"], &["--jsn", "--json"]),
        (&["start", "--quic-port", "70000"], &["70000", "--quic-port"]),
        (&["start", "--driver", "async-std"], &["async-std", "tokio", "smol"]),
        (&["start", "--listen", "here"], &["here", "--listen"]),
        (&["start", "--set", "max_peers"], &["max_peers", "KEY=VALUE", "help:"]),
        (&["start", "--set", "max_pears=3"], &["--set", "max_pears", "did you mean `max_peers`"]),
        (&["start", "--set", "max_peers=many"], &["max_peers", "many", "number"]),
        (&["start", "--set", "gossip_fanout=3"], &["gossip_fanout", "would do nothing", "remove it"]),
        (&["start", "--set", "dht_mode=private"], &["dht_mode", "dht_bootstrap", "dht_seed"]),
        (&["peers", "show", "key_0OIl"], &["key_0OIl", "not base58"]),
        (&["peers", "show", "nobody"], &["nobody", "key_", "40 hex digits"]),
        (&["peers", "show", "key_11111111111111111111111111111111"], &["usable Ed25519"]),
        (&["peers", "show", "key_1111"], &["expected 32 bytes, got 4"]),
        (&["peers", "connect", SOME_KEY, "--addr", "localhost"], &["localhost", "--addr"]),
        (&["relay", "disconnect", "nobody"], &["nobody", "key_", "40 hex digits"]),
        (&["start", "--set", "relays=relay.example:1"], &["relays", "key_…@host:port"]),
        (&["service", "remove", "12"], &["12", "64 hex digits"]),
        (&["service", "add", "wasm", "x.wasm", "--memory-mib", "0"], &["--memory-mib", "1..=4096"]),
        (&["service", "add", "wasm", "x.wasm", "--private", "--allow", SOME_KEY], &["--private", "--allow"]),
        (&["runs", "show", "run-1"], &["run-1", "hex"]),
        (&["workflow", "run"], &["<FILE>"]),
        (&["workflow", "run", "w.yaml", "--run-id", "7"], &["--run-id", "32 hex digits"]),
        (&["data", "add"], &["<FILES>"]),
        (&["key", "export", "--format", "pem"], &["pem", "binary", "hex"]),
        (&["simulate", "--duration", "5 fortnights"], &["fortnights", "ms, s, m or h"]),
        (&["completions", "tcsh"], &["tcsh", "bash", "zsh", "fish"]),
        (&["worker"], &["started by the node itself"]),
        (&["config", "check", "no-such.toml"], &["no-such.toml"]),
    ];
    for (args, words) in cases {
        cli(args).fails(2, words);
        // Programs get the same as JSON.
        let said = cli(&[args, &["--json"][..]].concat());
        assert_eq!(said.code, 2, "{args:?}: {said:?}");
        let message = said.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(!message.is_empty() && !message.starts_with("error"), "{args:?}: {message}");
    }
    assert_eq!(run(&["--help"]).ok().stderr, "");
    assert!(run(&["--version"]).ok().stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn without_a_node_every_command_that_needs_one_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan::alone(dir.path(), "nobody");
    let run_id = "0".repeat(32);
    let workflow = write(dir.path(), "w.yaml", "name: n\nnodes: {a: {sink: {}}}\n");
    let commands: &[&[&str]] = &[
        &["status"],
        &["stop"],
        &["peers", "list"],
        &["peers", "connect", SOME_KEY],
        &["relay", "sessions"],
        &["data", "add", &workflow],
        &["service", "list"],
        &["service", "add", "wasm", &module("count")],
        &["workflow", "validate", &workflow],
        &["workflow", "list"],
        &["runs", "list"],
        &["runs", "cancel", &run_id],
    ];
    let where_ = plan.dir.display().to_string();
    for command in commands {
        plan.cli(command).fails(3, &["no node is running on", &where_, "remote-network start", "--data-dir"]);
    }
    // A node that was killed leaves its address behind.
    let node = plan.start();
    let plan = node.kill();
    plan.cli(&["status"]).fails(3, &["does not answer", "remote-network start"]);
}

// ---------------------------------------------------------------------------------------------- configuration

#[test]
fn a_generated_configuration_is_valid_and_every_mistake_is_placed() {
    let dir = tempfile::tempdir().unwrap();
    let generated = run(&["config", "generate"]).ok().stdout;
    assert_eq!(run(&["config", "generate", "--json"]).ok().json()["config"], generated.as_str());
    let good = write(dir.path(), "good.toml", &generated);
    run(&["config", "check", &good]).ok();
    let lines = run(&["config", "check", &good, "--json"]).ok().json_lines();
    let port = lines.iter().find(|l| l["key"] == "quic_port").unwrap();
    assert_eq!(port["value"], "30906");

    let wrong = write(
        dir.path(),
        "wrong.toml",
        "quic_port = \"lots\"\nmax_pears = 3\ngossip_fanout = 5\naccept_jobs = 1\nmin_peers = 60\nlisten = \"here\"\n",
    );
    let said = run(&["config", "check", &wrong]);
    let places: Vec<String> = (1..=6).filter(|n| *n != 5).map(|n| format!("{wrong}:{n}:")).collect();
    let mut words: Vec<&str> = places.iter().map(String::as_str).collect();
    words.extend([
        "lots",
        "did you mean `max_peers`?",
        "this version has no gossip",
        "accept_jobs",
        "an IP address",
    ]);
    words.push("config generate");
    said.fails(2, &words);
    let crossed = write(dir.path(), "crossed.toml", "min_peers = 60\n");
    run(&["config", "check", &crossed])
        .fails(2, &["crossed.toml:1:", "min_peers", "max_peers", "must not be above"]);
    let torn = write(dir.path(), "torn.toml", "quic_port = \n");
    run(&["config", "check", &torn]).fails(2, &["torn.toml"]);
}

// ---------------------------------------------------------------------------------------------- keys

#[test]
fn a_key_leaves_and_comes_back_and_is_never_replaced_or_bared_by_accident() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|n| Plan::alone(dir.path(), n));
    from.cli(&["key", "info"]).fails(1, &["there is no key in", "remote-network start", "key import"]);
    let node = from.start();
    let key = node.key.clone();
    node.kill();
    let info = from.cli(&["key", "info", "--json"]).ok().json();
    assert_eq!((&info["key"], &info["encrypted"]), (&json!(key), &json!(false)));
    assert!(from.cli(&["key", "info"]).ok().stdout.contains(&key));

    let file = dir.path().join("key.hex").display().to_string();
    from.cli(&["key", "export", "--output", &file]).ok();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    from.cli(&["key", "export", "--output", &file]).fails(2, &["cannot write", &file, "never overwritten"]);
    let hex = from.cli(&["key", "export"]).ok().stdout;
    assert_eq!(hex, std::fs::read_to_string(&file).unwrap());
    let exported = from.cli(&["key", "export", "--json"]).ok().json();
    assert_eq!((&exported["key"], &exported["private_key"]), (&json!(key), &json!(hex.trim())));
    assert_eq!(from.cli(&["key", "export", "--json", "--format", "binary"]).code, 2);

    let taken = to.cli(&["key", "import", &file, "--unencrypted-key", "--json"]).ok().json();
    assert_eq!(taken["key"], json!(key));
    assert_eq!(to.cli(&["key", "info", "--json"]).ok().json()["key"], json!(key));
    // An identity is not replaced by accident, and not lost when the new one is no key.
    let again = ["key", "import", &file, "--unencrypted-key"];
    to.cli(&again).fails(2, &["holds an identity already", "--force", "export the old key"]);
    let noise = write(dir.path(), "noise", "not a key");
    to.cli(&["key", "import", &noise, "--force", "--unencrypted-key"])
        .fails(2, &["noise", "32 bytes, or 64 hex digits", "key export"]);
    assert_eq!(to.cli(&["key", "info", "--json"]).ok().json()["key"], json!(key));
    let seed = [7_u8; 32];
    let at = to.dir.display().to_string();
    run_with_input(&["--data-dir", &at, "key", "import", "-", "--force", "--unencrypted-key"], &seed).ok();
    let other = to.cli(&["key", "info", "--json"]).ok().json();
    assert_ne!(other["key"], json!(key));
    let stored = std::fs::metadata(to.dir.join(KEYSTORE_FILE)).unwrap();
    assert_eq!(stored.permissions().mode() & 0o777, 0o600);
    // Without a passphrase, and without being told to do without one, nothing is stored. A terminal would be asked.
    if std::fs::File::open("/dev/tty").is_err() {
        let bare = Plan::alone(dir.path(), "bare");
        let words = ["nobody to ask", "REMOTE_NETWORK_PASSPHRASE", "--unencrypted-key"];
        bare.cli(&["key", "import", &file]).fails(2, &words);
        assert!(!bare.dir.join(KEYSTORE_FILE).exists());
        let start = ["start", "--set", "dht_mode=off", "--quic-port", "0", "--api-port", "0"];
        bare.cli(&start).fails(2, &words);
    }
}

#[test]
fn a_reader_that_has_enough_ends_a_command_without_a_word() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_remote-network"));
    command.args(["completions", "bash"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(141), ""));
}

#[test]
fn tools_of_the_command_line_work() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(run(&["completions", shell]).ok().stdout.contains("remote-network"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let findings = Plan::alone(dir.path(), "new").cli(&["doctor", "--json"]).ok().json();
    let findings = findings["findings"].as_array().unwrap();
    assert!(findings.len() >= 6);
    for f in findings {
        assert!(f["check"].is_string() && f["found"].is_string() && f["ok"].is_boolean(), "{f}");
    }
    let file = write(dir.path(), "file", "");
    run(&["doctor", "--data-dir", &format!("{file}/inside")]).fails(1, &["cannot run here"]);
}

// ---------------------------------------------------------------------------------------------- relay

#[test]
fn an_operator_sees_what_the_relay_does_and_why_it_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = Plan::alone(dir.path(), "none").start();
    let sessions = node.cli(&["relay", "sessions"]).ok();
    assert!(
        sessions.stdout.starts_with("PEER") && sessions.stderr.contains("`relay = true`"),
        "{sessions:?}"
    );
    let stats = node.cli(&["relay", "stats"]).ok().stdout;
    assert!(stats.contains("state      no relay") && stats.contains("30 days    in 0 packets"), "{stats}");
    node.cli(&["relay", "disconnect", SOME_KEY]).fails(4, &[SOME_KEY, "no session at this relay"]);
    assert!(node.cli(&["status"]).ok().stdout.contains("\n  NAT        "));
    let finding = |node: &Node| {
        let findings = node.cli(&["doctor", "--json"]).ok().json();
        let all = findings["findings"].as_array().unwrap();
        all.iter().find(|f| f["check"] == "relay").unwrap()["found"].as_str().unwrap().to_owned()
    };
    assert!(finding(&node).contains("no relay"));

    // In a network that is private by configuration, being willing is enough.
    let node = Plan::alone(dir.path(), "relay").set("relay=true").set("relay_max_sessions=7").start();
    let relay = node.cli(&["relay", "sessions", "--json"]).ok();
    assert_eq!(
        (relay.json()["proven"].as_bool(), relay.json()["sessions_max"].as_u64()),
        (Some(true), Some(7))
    );
    assert_eq!(relay.stderr, "");
    let stats = node.cli(&["relay", "stats", "--json"]).ok().json();
    assert_eq!((&stats["serving"], &stats["books"]["lost"]), (&json!(true), &json!(0)));
    assert_eq!(finding(&node), "relaying: 0 of 7 sessions");
    node.cli(&["relay", "block", SOME_KEY]).ok();
    assert!(node.cli(&["relay", "stats"]).ok().stdout.contains(&format!("blocked    {SOME_KEY}")));
    node.cli(&["relay", "unblock", SOME_KEY]).ok();
    assert_eq!(node.cli(&["relay", "stats", "--json"]).ok().json()["blocked"], json!([]));
}

// ---------------------------------------------------------------------------------------------- the story

/// Alice's node on tokio, Bob's on smol, in a network of their own.
fn alice_and_bob(root: &Path) -> (Node, Node) {
    let plans = Plan::network(root, 2, 1);
    let (alice, bob) = (plans[0].spawn(), plans[1].spawn());
    let (alice, bob) = (alice.ready(), bob.ready());
    wait_for("way to Bob by his key alone", WITHIN, || {
        let said = alice.cli(&["peers", "connect", &bob.key]);
        if said.code == 0 { Ok(()) } else { Err(said.stderr) }
    });
    (alice, bob)
}

fn services(node: &Node, count: usize) -> Vec<Value> {
    wait_for("services", WITHIN, || {
        let list = node.cli(&["service", "list", "--json"]).ok().json();
        let list = list["services"].as_array().unwrap().clone();
        if list.len() == count { Ok(list) } else { Err(format!("{list:?}")) }
    })
}

fn top_words(alice: &Node, bob: &Node, source: &str) -> String {
    format!(
        "name: top-words\nnodes:\n  text: {{ source: {source} }}\n  \
         tokenize: {{ task: {{ service: tokenize, peer: {} }} }}\n  \
         count: {{ task: {{ service: count, peer: {} }} }}\n  \
         rank: {{ task: {{ service: merge-rank, peer: {}, args: [--top, 2] }} }}\n  top: {{ sink: {{}} }}\nedges:\n  \
         - text.out -> tokenize.stdin\n  - tokenize.stdout -> count.stdin\n  \
         - count.stdout -> rank.stdin\n  - rank.stdout -> top.in\n",
        bob.key, alice.key, bob.key
    )
}

#[test]
fn from_the_first_service_to_the_last_receipt() {
    let dir = tempfile::tempdir().unwrap();
    let (alice, bob) = alice_and_bob(dir.path());
    for (node, name) in [(&bob, "tokenize"), (&alice, "count"), (&bob, "merge-rank")] {
        let added = node.cli(&["service", "add", "wasm", &module(name), "--json"]).ok().json();
        assert_eq!(added["name"], name);
    }
    let seen = services(&alice, 3);
    assert_eq!(seen.iter().filter(|s| s["owner"] == bob.key.as_str()).count(), 2);
    assert!(alice.cli(&["service", "list"]).ok().stdout.contains("merge-rank"));

    let text = "the cat and the dog and the bird\n";
    let file = write(dir.path(), "text.txt", text);
    let object = alice.cli(&["data", "add", &file, "--json"]).ok().json();
    assert_eq!(object["len"], text.len());
    let digest = object["digest"].as_str().unwrap();
    let source = format!("{{ objects: [{{ digest: {digest}, len: {} }}] }}", text.len());
    let by_object = write(dir.path(), "by-object.yaml", &top_words(&alice, &bob, &source));
    let by_file = write(dir.path(), "by-file.yaml", &top_words(&alice, &bob, "{ files: [text.txt] }"));

    for workflow in [&by_file, &by_object] {
        assert_eq!(alice.cli(&["workflow", "validate", workflow, "--json"]).ok().json()["valid"], true);
        let plan = alice.cli(&["workflow", "plan", workflow, "--json"]).ok().json();
        let placed = plan["placements"].as_array().unwrap();
        assert_eq!(placed.len(), 3);
        assert!(placed.iter().all(|p| p["why"].as_str().is_some_and(|w| !w.is_empty())), "{plan}");
        let out = dir.path().join("out").display().to_string();
        let view = alice.cli(&["workflow", "run", workflow, "--output", &out, "--json"]).ok().json();
        assert_eq!((&view["state"], &view["tasks_committed"]), (&json!("succeeded"), &json!(3)));
        let top: String = ranking(text).lines().take(2).map(|l| format!("{l}\n")).collect();
        assert_eq!(std::fs::read_to_string(format!("{out}/top-0")).unwrap(), top);
    }
    let list = alice.cli(&["workflow", "list", "--json"]).ok().json();
    assert_eq!(list["workflows"][0]["runs"], 2);
    let runs = alice.cli(&["runs", "list", "--json"]).ok().json();
    let run = runs["runs"][0]["run"].as_str().unwrap().to_owned();
    assert!(alice.cli(&["runs", "show", &run]).ok().stdout.contains("succeeded"));
    assert_eq!(alice.cli(&["runs", "show", &run, "--json"]).ok().json()["results"][0]["sink"], "top");
    assert_eq!(alice.cli(&["runs", "logs", &run, "--json"]).ok().json_lines().len(), 3);
    alice.cli(&["runs", "logs", &run, "rank"]).ok();
    alice.cli(&["runs", "logs", &run, "rnak"]).fails(2, &["has no task rnak"]);

    let home = dir.path().join("home").display().to_string();
    let fetched = alice.cli(&["runs", "fetch", &run, "--output", &home, "--json"]).ok().json();
    assert_eq!(fetched["files"].as_array().unwrap().len(), 4);
    receipts_hold(Path::new(&home), &alice, &bob, &run);

    let status = bob.cli(&["status", "--json"]).ok().json();
    assert_eq!((&status["connected"], &status["services"]), (&json!(1), &json!(2)));
    assert!(alice.cli(&["status"]).ok().stdout.contains(&alice.key));
    for mut node in [alice, bob] {
        assert_eq!(node.cli(&["stop", "--json"]).ok().json()["done"], true);
        assert!(node.child.wait().unwrap().success());
        node.cli(&["status"]).fails(3, &["no node is running"]);
    }
}

/// The receipts that `runs fetch` wrote verify without any node; a changed bit anywhere does not pass.
fn receipts_hold(home: &Path, alice: &Node, bob: &Node, run_id: &str) {
    for (task, executor) in [("tokenize", bob), ("count", alice), ("rank", bob)] {
        let file = home.join(format!("{task}.receipt")).display().to_string();
        let report = run(&["receipt", "verify", &file, "--json"]).ok().json();
        assert_eq!(report["valid"], true);
        assert_eq!((report["task"].as_str(), report["run"].as_str()), (Some(task), Some(run_id)));
        assert_eq!(report["executor"], executor.key.as_str());
        assert_eq!(report["requester"], alice.key.as_str());
    }
    let whole = std::fs::read(home.join("rank.receipt")).unwrap();
    let tampered = home.join("tampered").display().to_string();
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&tampered, &bytes).unwrap();
        run(&["receipt", "verify", &tampered])
            .fails(1, &[&tampered, "is NOT a valid receipt:", "runs fetch"]);
    }
    std::fs::write(&tampered, &whole[..whole.len() / 2]).unwrap();
    run(&["receipt", "verify", &tampered]).fails(1, &["is NOT a valid receipt"]);
    run(&["receipt", "verify", "no-such.receipt"]).fails(2, &["cannot read no-such.receipt"]);
}

#[test]
fn a_run_without_end_is_cancelled_and_so_is_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let (alice, bob) = alice_and_bob(dir.path());
    let program = write(dir.path(), "endless.wat", ENDLESS);
    bob.cli(&["service", "add", "wasm", &program, "--no-stdin"]).ok();
    services(&alice, 1);
    let workflow = write(
        dir.path(),
        "endless.yaml",
        "name: endless\nnodes: {on: {task: {service: endless}}, out: {sink: {}}}\nedges: [on.stdout -> out.in]\n",
    );
    let run = alice.cli(&["workflow", "run", &workflow, "--detach", "--json"]).ok().json();
    let run = run["run"].as_str().unwrap().to_owned();
    let worker = wait_for("worker at work", WITHIN, || {
        let view = alice.api.get(&format!("/runs/{run}")).map_err(|e| e.to_string())?;
        if view["tasks"][0]["job"] == "running" { Ok(view) } else { Err(view.to_string()) }
    });
    assert_eq!(worker["tasks"][0]["peer"], bob.key.as_str());
    assert_eq!(bob.api.get("/status").unwrap()["jobs_active"], 1);
    alice.cli(&["runs", "cancel", &run]).ok();
    assert_eq!(finished(&alice, &run, WITHIN)["state"], "cancelled");
    wait_for("end of the job", WITHIN, || {
        let status = bob.api.get("/status").map_err(|e| e.to_string())?;
        if status["jobs_active"] == 0 { Ok(()) } else { Err(status.to_string()) }
    });
    alice.cli(&["runs", "cancel", &"0".repeat(32)]).fails(4, &["no run 0000"]);
}

#[test]
fn what_is_wrong_with_a_workflow_is_placed() {
    let dir = tempfile::tempdir().unwrap();
    let node = Plan::alone(dir.path(), "alone").start();
    node.cli(&["service", "add", "wasm", &module("count")]).ok();
    let flawed = |name: &str, text: &str, verb: &str| -> Said {
        let file = write(dir.path(), name, text);
        node.cli(&["workflow", verb, &file])
    };
    let sound = "name: n\nnodes:\n  a: { source: { text: hello } }\n  c: { task: { service: count } }\n  \
                 out: { sink: {} }\nedges:\n  - a.out -> c.stdin\n  - c.stdout -> out.in\n";
    flawed("sound.yaml", sound, "validate").ok();
    let open = sound
        .replace("name: n\n", "name: n\nparams: { least: { type: number } }\n")
        .replace("service: count", "service: count, args: ['${item}', '${least}'], map: { over: [a, b] }");
    let open = write(dir.path(), "open.yaml", &open);
    let plan = node.cli(&["workflow", "plan", &open, "--param", "least=3", "--json"]).ok().json();
    let tasks: Vec<_> = plan["placements"].as_array().unwrap().iter().map(|p| p["task"].clone()).collect();
    assert_eq!(tasks, ["c[0]", "c[1]"]);
    node.cli(&["workflow", "check", &open]).fails(2, &["line 2", "params.least", "must be given"]);
    node.cli(&["workflow", "check", &open, "--param", "laest=3"]).fails(2, &["did you mean `least`?"]);
    let schema = node.cli(&["workflow", "schema"]).ok().json();
    assert_eq!(node.api.get("/workflows/schema").unwrap(), schema);
    let cases: &[(&str, &str, &[&str])] = &[
        ("typo.yaml", &sound.replace("service:", "servce:"), &["line 4", "nodes.c.task.servce", "`service`"]),
        ("file.yaml", &sound.replace("text: hello", "files: [no-such.txt]"), &["line 3", "no-such.txt"]),
        ("port.yaml", &sound.replace("c.stdin", "c.sdtin"), &["edges[0].to", "sdtin"]),
        ("node.yaml", &sound.replace("c.stdout", "d.stdout"), &["edges[1]", "d"]),
        ("yaml.yaml", "name: [", &["line"]),
        ("empty.yaml", "", &["line 1", "mapping"]),
        ("json.json", "{\"name\": 1}", &["name"]),
    ];
    for (name, text, words) in cases {
        for verb in ["validate", "plan", "run"] {
            let said = flawed(name, text, verb);
            assert!(matches!(said.code, 1 | 2 | 4), "{said:?}");
            for word in *words {
                assert!(said.stderr.contains(word), "{name}: `{word}` is not said: {said:?}");
            }
            assert!(said.stderr.contains(name) || verb == "run" || verb == "plan", "{said:?}");
        }
    }
    flawed("port.yaml", &sound.replace("c.stdin", "c.sdtin"), "validate")
        .fails(1, &["line 7", "edges[0].to"]);
    let unknown = sound.replace("service: count", "service: cuont");
    flawed("unknown.yaml", &unknown, "validate").fails(1, &["unknown.yaml", "line 4", "nodes.c", "cuont"]);
    flawed("unknown.yaml", &unknown, "run").fails(4, &["nodes.c", "cuont"]);
    node.cli(&["workflow", "run", "no-such.yaml"]).fails(2, &["cannot read no-such.yaml"]);

    let not_wasm = write(dir.path(), "program.wasm", "not wasm");
    node.cli(&["service", "add", "wasm", &not_wasm]).fails(2, &["program.wasm", "no WebAssembly module"]);
    node.cli(&["service", "add", "wasm", &module("count"), "--name", "Not A Name"])
        .fails(4, &["name", "a-z"]);
    node.cli(&["service", "remove", &"0".repeat(64)]).fails(4, &["no service 0000"]);
    node.cli(&["peers", "show", SOME_KEY]).fails(4, &["no peer", SOME_KEY]);
    node.cli(&["data", "add", "no-such.txt"]).fails(2, &["cannot read no-such.txt"]);
    node.cli(&["runs", "show", &"0".repeat(32)]).fails(4, &["no run 0000"]);
    // The same id for another workflow is refused; for the same one it is the same run.
    let id = "1".repeat(32);
    let file = dir.path().join("sound.yaml").display().to_string();
    node.cli(&["workflow", "run", &file, "--run-id", &id]).ok();
    node.cli(&["workflow", "run", &file, "--run-id", &id]).ok();
    let other = write(dir.path(), "other.yaml", &sound.replace("hello", "world"));
    node.cli(&["workflow", "run", &other, "--run-id", &id])
        .fails(4, &["exists already with another workflow"]);
}
