//! Services and who may use them, between real nodes: what one says of itself, how it is changed and taken along, where it is
//! planned, and what its owner's policy says.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

mod network;

use network::{Node, Plan, Said, wait_for};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(60);
const FLOW: &str = "name: n\nnodes:\n  a: { source: { text: hello } }\n  c: { task: { service: count } }\n  \
                    out: { sink: {} }\nedges:\n  - a.out -> c.stdin\n  - c.stdout -> out.in\n";

fn module(name: &str) -> String {
    format!("{}/services/{name}.wasm", env!("CARGO_MANIFEST_DIR"))
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

/// A plan that is no plan, for these reasons.
fn unplanned(said: &Said, reasons: &[&str]) {
    assert!(matches!(said.code, 1 | 4), "{said:?}");
    for words in reasons {
        assert!(said.stderr.contains(words), "`{words}` is not said: {said:?}");
    }
}

fn add(node: &Node, flags: &[&str]) -> String {
    let count = module("count");
    let args = [&["service", "add", "wasm", &count, "--json"], flags].concat();
    node.cli(&args).ok().json()["id"].as_str().unwrap().to_owned()
}

fn offered(node: &Node, count: usize) -> Vec<Value> {
    wait_for("services", WITHIN, || {
        let list = node.cli(&["service", "list", "--json"]).ok().json();
        let list = list["services"].as_array().unwrap().clone();
        if list.len() == count { Ok(list) } else { Err(format!("{list:?}")) }
    })
}

#[test]
fn a_service_is_changed_set_aside_and_taken_along() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (Plan::alone(dir.path(), "here").start(), Plan::alone(dir.path(), "there").start());
    let flags = [
        "--label",
        "eu",
        "--needs-memory-mib",
        "1",
        "--price-per-job",
        "7",
        "--param",
        "LC=C",
        "--param-help",
        "LC=locale",
    ];
    let id = add(&here, &flags);
    let shown = here.cli(&["service", "show", &id]).ok().stdout;
    for word in ["count 1.0.0 (wasm)", "memory_bytes 1048576", "eu", "per_job 7", "LC=C", "locale", "active"]
    {
        assert!(shown.contains(word), "`{word}` is not in {shown}");
    }

    let edited =
        here.cli(&["service", "edit", &id, "--description", "counts", "--label", "us", "--json"]).ok().json();
    assert_eq!(edited["withdrawn"], id.as_str());
    let id = edited["id"].as_str().unwrap().to_owned();
    let list = offered(&here, 1);
    assert_eq!((&list[0]["id"], &list[0]["description"]), (&json!(id), &json!("counts")));
    let details = &list[0]["details"];
    assert_eq!(
        (&details["labels"], &details["price"]["per_job"]),
        (&json!(["us"]), &json!(7)),
        "the rest stays"
    );

    here.cli(&["service", "deactivate", &id]).ok();
    assert!(here.cli(&["service", "list"]).ok().stdout.contains("set aside"));
    let flow = write(dir.path(), "flow.yaml", FLOW);
    unplanned(&here.cli(&["workflow", "plan", &flow]), &["nobody offers `count`"]);
    let here = here.kill().start();
    unplanned(&here.cli(&["workflow", "plan", &flow]), &["nobody offers `count`"]);
    here.cli(&["service", "activate", &id]).ok();
    here.cli(&["workflow", "plan", &flow]).ok();

    let taken = dir.path().join("taken.wasm").display().to_string();
    let document = here.cli(&["service", "export", &id, "--module", &taken]).ok().stdout;
    let json_file = write(dir.path(), "service.json", &document);
    there.cli(&["service", "import", &json_file]).fails(4, &["module"]);
    let imported = there.cli(&["service", "import", &json_file, "--module", &taken, "--json"]).ok().json();
    assert_eq!((&imported["id"], &imported["same"]), (&json!(id), &json!(true)));
    let yaml = format!("name: again\nmodule: {}\n", list[0]["module"].as_str().unwrap());
    let again = there.cli(&["service", "import", &write(dir.path(), "s.yaml", &yaml)]).ok().stdout;
    assert!(again.contains("offering again"), "{again}");
    let other = write(dir.path(), "other.wasm", "\0asm");
    there
        .cli(&["service", "import", &json_file, "--module", &other])
        .fails(2, &["not the module of this service"]);

    here.cli(&["service", "edit", &id, "--label", "No Label"]).fails(4, &["label"]);
    here.cli(&["service", "show", &"0".repeat(64)]).fails(4, &["no service 0000"]);
    here.cli(&["service", "edit", &"0".repeat(64), "--name", "x"]).fails(4, &["no service 0000"]);
}

#[test]
fn a_task_is_planned_where_its_place_and_the_services_needs_are_met() {
    let dir = tempfile::tempdir().unwrap();
    let node = Plan::alone(dir.path(), "alone").start();
    add(&node, &["--label", "eu", "--param", "LC_ALL"]);
    let plan = |name: &str, task: &str| {
        let text = FLOW.replace("service: count", &format!("service: count, {task}"));
        node.cli(&["workflow", "plan", &write(dir.path(), name, &text)])
    };
    unplanned(&plan("env.yaml", "env: {}"), &["nodes.c.env.LC_ALL", "asks for LC_ALL"]);
    plan("good.yaml", "env: {LC_ALL: C}, place: {labels: [eu], needs: {os: linux, cpu_milli: 100}}").ok();
    let label = plan("label.yaml", "env: {LC_ALL: C}, place: {labels: [us]}");
    unplanned(&label, &["nodes.c.place", "not labelled `us`"]);
    let needs = plan("needs.yaml", "env: {LC_ALL: C}, place: {needs: {gpus: 99, memory_bytes: 1}}");
    unplanned(&needs, &["nodes.c.place", "needs 99 GPU(s), has"]);
    let odd = plan("odd.yaml", "env: {LC_ALL: C}, place: {need: {gpus: 1}}");
    assert!(odd.code != 0 && odd.stderr.contains("nodes.c.task.place.need"), "{odd:?}");
    let greedy = add(&node, &["--name", "greedy", "--needs-arch", "pdp11"]);
    let text = FLOW.replace("service: count", "service: greedy");
    unplanned(
        &node.cli(&["workflow", "plan", &write(dir.path(), "greedy.yaml", &text)]),
        &["needs pdp11, is"],
    );
    node.cli(&["service", "remove", &greedy]).ok();
}

#[test]
fn the_owners_policy_is_asked_for_every_job_of_a_peer_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let plans = Plan::network(dir.path(), 2, 1);
    let (alice, bob) = (plans[0].spawn(), plans[1].spawn());
    let (alice, bob) = (alice.ready(), bob.ready());
    wait_for("way to Bob by his key alone", WITHIN, || {
        let said = alice.cli(&["peers", "connect", &bob.key]);
        if said.code == 0 { Ok(()) } else { Err(said.stderr) }
    });
    add(&bob, &[]);
    offered(&alice, 1);
    let found = alice.cli(&["services", "search", "pdf,count", "--kind", "wasm"]).ok().stdout;
    assert!(found.contains("count 1.0.0") && found.contains("1 found"), "{found}");
    let none = alice.cli(&["service", "search", "count", "--kind", "docker", "--json"]).ok().json();
    assert_eq!((&none["event"], &none["total"]), (&json!("done"), &json!(0)));
    let flow = write(dir.path(), "flow.yaml", FLOW);
    let set = |text: &str| bob.cli(&["policy", "set", &write(dir.path(), "policy.yaml", text)]);

    set("rules:\n  - name: closed\n    kinds: [wasm]\n    deny: come back in May\n").ok();
    alice.cli(&["workflow", "run", &flow]).fails(1, &["rule `closed`: come back in May"]);
    bob.cli(&["workflow", "run", &flow]).ok();

    let friends = format!(
        "groups: {{friends: [{}]}}\nrules:\n  - {{name: friends, who: {{group: friends}}, allow: {{jobs_a_day: 1}}}}\n",
        alice.key
    );
    set(&friends).ok();
    alice.cli(&["workflow", "run", &flow]).ok();
    alice.cli(&["workflow", "run", &flow]).fails(1, &["rule `friends`: 1 jobs a day"]);
    let shown = bob.cli(&["policy", "show", "--json"]).ok().json();
    assert_eq!((&shown["today"][0]["peer"], &shown["today"][0]["jobs"]), (&json!(alice.key), &json!(1)));
    assert!(bob.cli(&["policy", "show"]).ok().stdout.contains("group friends"));

    let bob = bob.kill().start();
    assert_eq!(bob.cli(&["policy", "show", "--json"]).ok().json(), shown, "nothing is forgotten");
    wait_for("way to Bob again", WITHIN, || {
        let said = alice.cli(&["peers", "connect", &bob.key]);
        if said.code == 0 { Ok(()) } else { Err(said.stderr) }
    });
    alice.cli(&["workflow", "run", &flow]).fails(1, &["rule `friends`"]);

    let wrong = write(dir.path(), "wrong.yaml", "rules:\n  - {name: a, allow: {hours: 9-17}}\n");
    for verb in ["check", "set"] {
        bob.cli(&["policy", verb, &wrong]).fails(2, &["wrong.yaml", "rules[0].allow.hours", "22:00-06:00"]);
    }
    bob.cli(&["policy", "check", &write(dir.path(), "good.yaml", &friends)]).ok();
}

#[test]
fn a_search_visits_a_peer_that_is_known_and_not_connected() {
    let dir = tempfile::tempdir().unwrap();
    let mut plans = Plan::network(dir.path(), 3, 1);
    let alice = plans.remove(1).set("max_peers=1").set("min_peers=0");
    let (bob, carol) = (plans[0].start(), plans[1].start());
    wait_for("Bob and Carol", WITHIN, || {
        let said = bob.cli(&["peers", "connect", &carol.key]);
        if said.code == 0 { Ok(()) } else { Err(said.stderr) }
    });
    add(&carol, &["--name", "far-away"]);
    let alice = alice.start();
    let flow = write(dir.path(), "flow.yaml", &FLOW.replace("service: count", "service: far-away"));
    // However it comes about that she knows of Carol: by the DHT or by Bob.
    let found = wait_for("what Carol offers", WITHIN, || {
        let _peers = alice.cli(&["peers", "connect", &bob.key]);
        let found = alice.cli(&["services", "search", "away", "--json"]).ok().json();
        if found["total"] == 1 { Ok(found) } else { Err(found.to_string()) }
    });
    assert_eq!(found["hits"][0]["owner"], carol.key.as_str());
    alice.cli(&["workflow", "plan", &flow]).ok();
}
