//! A native service as people meet it: offered, listed, planned, run, shown in a receipt, and run anew after the node was killed.

use super::network::words::finished;
use super::network::{Node, Plan, run, wait_for};
use super::rig::{Rig, processes_with, until, word};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(120);

fn node(root: &Path) -> Option<Node> {
    // Said once, with the reason, where there is no sandbox.
    Rig::new()?;
    Some(Plan::alone(root, "alone").start())
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn from_the_executable_to_the_receipt() {
    let dir = tempfile::tempdir().unwrap();
    let Some(node) = node(dir.path()) else { return };
    let add = ["service", "add", "standalone", "/bin/cat", "--description", "copies"];
    assert_eq!(node.cli(&[&add[..], &["--json"]].concat()).ok().json()["name"], "cat");
    let list = node.cli(&["service", "list", "--json"]).ok().json();
    let service = &list["services"][0];
    assert_eq!((&service["kind"], &service["name"]), (&json!("standalone"), &json!("cat")));
    assert_eq!(service["program"]["arch"], std::env::consts::ARCH);
    assert!(service["module"].is_null() && service["module_len"].as_u64().unwrap() > 0, "{service}");
    assert!(node.cli(&["service", "list"]).ok().stdout.contains("standalone"));

    let workflow = write(
        dir.path(),
        "copy.yaml",
        "name: copy\nnodes:\n  in: { source: { text: \"by\\nte\" } }\n  c: { task: { service: cat } }\n  out: { sink: {} }\n\
         edges:\n  - in.out -> c.stdin\n  - c.stdout -> out.in\n",
    );
    let plan = node.cli(&["workflow", "plan", &workflow, "--json"]).ok().json();
    assert_eq!(plan["placements"][0]["service_name"], "cat");
    let out = dir.path().join("out").display().to_string();
    let view = node.cli(&["workflow", "run", &workflow, "--output", &out, "--json"]).ok().json();
    assert_eq!(view["state"], "succeeded", "{view}");
    assert_eq!(std::fs::read_to_string(format!("{out}/out-0")).unwrap(), "by\nte");
    let id = view["run"].as_str().unwrap();
    let home = dir.path().join("home").display().to_string();
    node.cli(&["runs", "fetch", id, "--output", &home]).ok();
    let said = run(&["receipt", "verify", &format!("{home}/c.receipt")]).ok().stdout;
    for word in ["native ", std::env::consts::ARCH, "program "] {
        assert!(said.contains(word), "{word} in {said}");
    }

    let id = service["id"].as_str().unwrap();
    node.cli(&["service", "remove", id]).ok();
    node.cli(&["workflow", "plan", &workflow]).fails(4, &["nobody offers `cat`"]);
}

#[test]
fn what_cannot_be_offered_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let Some(node) = node(dir.path()) else { return };
    let add = |file: &str, more: &[&str]| node.cli(&[&["service", "add", "standalone", file], more].concat());
    add(&write(dir.path(), "script", "#!/bin/sh\n"), &[]).fails(2, &["script", "interpreter"]);
    add(&write(dir.path(), "text", "hello"), &[]).fails(2, &["no executable in the ELF format"]);
    add("no-such", &[]).fails(2, &["cannot read no-such"]);
    add("/bin/cat", &["--mount-in", "usr"]).fails(4, &["`/usr` is there already"]);
    let mut other = std::fs::read("/bin/cat").unwrap();
    let (machine, name) = if cfg!(target_arch = "aarch64") { (62u16, "x86_64") } else { (183, "aarch64") };
    other[18..20].copy_from_slice(&machine.to_le_bytes());
    let file = dir.path().join("elsewhere");
    std::fs::write(&file, other).unwrap();
    add(file.to_str().unwrap(), &[]).fails(
        4,
        &[&format!("linux on {name}"), &format!("this machine is linux on {}", std::env::consts::ARCH)],
    );
    let doctor = node.cli(&["doctor"]).stdout;
    assert!(doctor.contains("native programs of linux on"), "{doctor}");
}

#[test]
fn a_job_of_a_node_that_was_killed_is_run_anew() {
    let dir = tempfile::tempdir().unwrap();
    let Some(node) = node(dir.path()) else { return };
    let word = word();
    node.cli(&["service", "add", "standalone", "/bin/sh", "--no-stdin"]).ok();
    let workflow = write(
        dir.path(),
        "slow.yaml",
        &format!(
            "name: slow\nnodes:\n  s: {{ task: {{ service: sh, args: [\"-c\", \"/usr/bin/sleep 3; echo done; : {word}\"] }} }}\n  \
             out: {{ sink: {{}} }}\nedges:\n  - s.stdout -> out.in\n"
        ),
    );
    let run = node.cli(&["workflow", "run", &workflow, "--detach", "--json"]).ok().json();
    let run = run["run"].as_str().unwrap().to_owned();
    until("the program runs", || processes_with(&word) > 0);
    let plan = node.kill();
    until("its processes are gone", || processes_with(&word) == 0);
    let node = plan.start();
    assert_eq!(finished(&node, &run, WITHIN)["state"], "succeeded");
    wait_for("end of the job", WITHIN, || match processes_with(&word) {
        0 => Ok(()),
        n => Err(format!("{n} processes")),
    });
}
