//! `bench` in small: every benchmark comes to its end, has computed what it should, and says what its documentation names. How long
//! it takes is nobody's concern here.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

mod network;

use serde_json::Value;

/// Runs a benchmark; its last line.
fn bench(args: &[&str]) -> Value {
    let said = network::run(&[&["bench"], args].concat()).ok();
    let last = said.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {}", said.stdout))
}

fn numbers(figures: &Value, names: &[&str]) {
    for name in names {
        assert!(figures[name].as_u64().is_some(), "{name} in {figures}");
    }
}

#[test]
fn workflows_of_every_shape_commit_all_their_tasks() {
    for (shape, tasks) in [("chain", "12"), ("wide", "30"), ("layered", "205")] {
        let figures = bench(&["workflow", "--shape", shape, "--tasks", tasks, "--both"]);
        assert_eq!(figures["shape"], shape);
        assert_eq!(figures["committed"].to_string(), tasks, "{figures}");
        numbers(&figures, &["plan_ms", "submit_ms", "elapsed_ms", "tasks_per_s", "peak_rss_bytes"]);
        if shape != "wide" {
            numbers(&figures, &["hop_p50_us", "hop_p99_us"]);
        }
    }
}

#[test]
fn guests_start_in_three_ways_are_cancelled_and_write_much() {
    let figures = bench(&["wasm", "--jobs", "2", "--stdout-mib", "8"]);
    assert_eq!(figures["stdout_bytes"], 8 << 20);
    for kind in ["cold", "compiled", "warm", "light"] {
        numbers(&figures, &[&format!("{kind}_start_p50_us"), &format!("{kind}_job_p99_us")]);
    }
    numbers(&figures, &["cancel_p50_us", "cancel_p99_us", "stdout_node_growth_bytes", "stdout_mb_per_s"]);
}

#[test]
fn an_object_is_staged_and_compared_with_tcp() {
    let figures = bench(&["transfer", "--mib", "2", "--rounds", "1"]);
    assert_eq!(figures["bytes"], 2 << 20);
    assert!(figures["staged_mb_per_s"].as_f64().is_some_and(|f| f > 0.0), "{figures}");
    assert!(figures["tcp_mb_per_s"].as_f64().is_some_and(|f| f > 0.0), "{figures}");
}

#[test]
fn a_container_is_compared_with_bare_calls() {
    let there =
        std::process::Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
    if !there.is_ok_and(|o| o.status.success()) {
        assert!(std::env::var_os("REQUIRE_DOCKER").is_none(), "no Docker engine answers");
        println!("SKIPPED: no Docker engine answers");
        return;
    }
    let figures = bench(&["docker", "--jobs", "2"]);
    numbers(&figures, &["job_p50_us", "job_p99_us", "bare_p50_us", "bare_p99_us"]);
}
