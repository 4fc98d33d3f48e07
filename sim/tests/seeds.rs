//! Whole worlds from seeds: workflows under every class of faults, on the real core.
//!
//! One test per class, so that a runner with several processors uses them. A failing seed prints the command that shows
//! it again. The seeds are always the same ones: a red run here is a change of the code, not of the dice; new seeds are
//! searched with `remote-network simulate` and the `simulate` example.

use remote_network_core::node::Node;
use remote_network_core::transport::quic::QuicTransport;
use remote_network_sim::plan::{Class, Plan};
use remote_network_sim::report::{FAULTS, Report, simulate_plan};
use std::collections::BTreeMap;

/// Small worlds find most: what they lack in size they make up in number.
const PEERS: u32 = 6;
const DURATION_MS: u64 = 45_000;
/// Eight classes of so many seeds are more than five hundred runs of a world.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=66;

fn run(plan: Plan) -> Report {
    simulate_plan::<Node<QuicTransport>>(plan)
}

fn plan(class: Class, seed: u64) -> Plan {
    Plan::from_seed(class, seed, PEERS, DURATION_MS)
}

fn seeds_of(class: Class) {
    let (mut ended, mut succeeded) = (0, 0);
    let mut bad = Vec::new();
    for seed in SEEDS {
        let report = run(plan(class, seed));
        ended += report.runs.ended;
        succeeded += report.runs.succeeded;
        if !report.violations.is_empty() {
            bad.push(report.to_string());
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    let seeds = SEEDS.end() - SEEDS.start() + 1;
    assert!(ended >= seeds, "only {ended} runs came to their end: the worlds do nothing");
    assert!(2 * succeeded > ended, "only {succeeded} of {ended} runs succeeded: the worlds are past work");
}

#[test]
fn nothing_goes_wrong_in_calm_worlds_and_every_run_succeeds() {
    seeds_of(Class::Calm);
}

#[test]
fn runs_end_on_bad_networks() {
    seeds_of(Class::Lossy);
}

#[test]
fn runs_end_while_machines_crash_pause_move_and_forget() {
    seeds_of(Class::Churn);
}

#[test]
fn runs_end_after_partitions() {
    seeds_of(Class::Partition);
}

#[test]
fn runs_end_on_disks_that_fail_fill_and_rot() {
    seeds_of(Class::Disk);
}

#[test]
fn runs_end_with_a_dht_that_lies_and_vanishes() {
    seeds_of(Class::Dht);
}

#[test]
fn runs_end_with_engines_that_fail_and_hang() {
    seeds_of(Class::Engine);
}

#[test]
fn runs_end_under_any_mixture_of_faults() {
    seeds_of(Class::Swarm);
}

#[test]
fn a_larger_world_with_loss_and_churn_is_clean() {
    let report = run(Plan::from_seed(Class::Scale, 1, 60, 120_000));
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.runs.succeeded > 0);
}

#[test]
fn every_kind_of_fault_is_injected() {
    let mut seen: BTreeMap<&str, u64> = FAULTS.iter().map(|kind| (*kind, 0)).collect();
    for seed in 1..=60 {
        // Half of the worlds have disks so slow that power goes in the middle of a commit, not only between two.
        let class = if seed % 2 == 0 { Class::Swarm } else { Class::Disk };
        let mut plan = Plan::from_seed(class, seed, PEERS, 90_000);
        if class == Class::Disk {
            plan.hosts.iter_mut().for_each(|h| h.disk.commit_us = 150_000);
        }
        let report = run(plan);
        for (kind, count) in &report.faults {
            *seen.get_mut(kind.as_str()).unwrap_or_else(|| panic!("`{kind}` is not in the list")) += count;
        }
        if seen.values().all(|count| *count > 0) {
            return;
        }
    }
    let never: Vec<&str> = seen.into_iter().filter(|(_, n)| *n == 0).map(|(kind, _)| kind).collect();
    panic!("never injected: {never:?}");
}

#[test]
fn equal_seeds_are_equal_runs_and_others_are_not() {
    for class in Class::ALL {
        let one = run(plan(class, 7));
        let again = run(plan(class, 7));
        assert_eq!(one.trace_hash, again.trace_hash, "{class}");
        assert_eq!((one.events, one.net, one.faults), (again.events, again.net, again.faults), "{class}");
        assert_ne!(one.trace_hash, run(plan(class, 8)).trace_hash, "{class}");
    }
}

#[test]
fn a_share_of_the_seeds_runs_real_tls() {
    let share = SEEDS.filter(|s| plan(Class::Swarm, *s).hosts.iter().any(|h| h.real_tls)).count();
    assert!((1..=20).contains(&share), "{share} of {SEEDS:?}");
}

/// The same plan on TLS 1.3 with a seeded provider: what holds on the null session holds there, as reproducibly.
#[test]
fn worlds_on_real_tls_are_clean_and_reproducible() {
    for class in [Class::Calm, Class::Lossy, Class::Churn] {
        let on_tls = |seed| {
            let mut plan = plan(class, seed);
            plan.hosts.iter_mut().for_each(|h| h.real_tls = true);
            run(plan)
        };
        for seed in 1..=3 {
            let report = on_tls(seed);
            assert!(report.violations.is_empty(), "{report}");
        }
        assert_eq!(on_tls(1).trace_hash, on_tls(1).trace_hash, "{class}");
        assert_ne!(on_tls(1).trace_hash, on_tls(2).trace_hash, "{class}");
    }
}

// ------------------------------------------------------------------------------------ canaries

/// Violations of the first seeds of a class whose hosts are misbehaved in this way.
fn caught(class: Class, misbehave: impl Fn(&mut Plan)) -> Vec<String> {
    let mut found = Vec::new();
    for seed in 1..=6 {
        let mut plan = plan(class, seed);
        misbehave(&mut plan);
        found.extend(run(plan).violations.into_iter().map(|v| v.what));
    }
    found
}

#[test]
fn a_disk_that_acknowledges_and_drops_is_caught() {
    let found = caught(Class::Churn, |plan| plan.hosts.iter_mut().for_each(|h| h.disk.lying = true));
    let lost = |what: &String| what.contains("acknowledged and is gone") || what.contains("published after");
    assert!(found.iter().any(lost), "the planted bug went unseen: {found:?}");
}

#[test]
fn an_executor_that_lies_about_results_is_caught() {
    let found = caught(Class::Calm, |plan| plan.hosts.iter_mut().for_each(|h| h.engine.lie_ppm = 300_000));
    assert!(found.iter().any(|what| what.contains("wrong output")), "unseen: {found:?}");
    assert!(found.iter().any(|what| what.contains("wrong or missing result")), "unseen: {found:?}");
}
