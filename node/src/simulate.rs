//! `remote-network simulate`: virtual nodes in virtual time, or a recording of a real one.

use crate::cli::Failure;
use crate::cli::args::{SimulateArgs, SimulateCommand};
use remote_network_core::node::Node;
use remote_network_core::transport::quic::QuicTransport;
use remote_network_sim::dht_packets;
use remote_network_sim::dht_packets::scenario::Scenario;
use remote_network_sim::matrix::{self, MatrixSpec, Pairing};
use remote_network_sim::plan::Class;
use remote_network_sim::replay::{Recording, replay};
use remote_network_sim::report::{SimOptions, cpu_ms, simulate};
use std::path::Path;

/// More virtual nodes than this need more memory than a laptop has.
const PEERS_MAX: u32 = 100_000;

/// Fewer DHT nodes than this have nobody left when three in ten vanish.
const DHT_NODES_MIN: u32 = 10;

/// DHT nodes when nobody says how many.
const DHT_NODES: u32 = 1_000;

/// The same for a scenario; several look everything up from everywhere, which is a square of the size.
const SCENARIO_NODES: u32 = 120;

/// Fewer are no network of which a part can be in trouble.
const SCENARIO_NODES_MIN: u32 = 30;

/// More are beyond what a scenario is for.
const SCENARIO_NODES_MAX: u32 = 2_000;

/// Pairs of a population: more take hours.
const PAIRS_MAX: u32 = 10_000;

/// Worlds for each pair when nobody says how many.
const PAIR_SEEDS: u32 = 5;

/// The most.
const PAIR_SEEDS_MAX: u32 = 1_000;

/// Runs a simulation; a violation is a failure.
pub fn run(json: bool, args: &SimulateArgs) -> Result<(), Failure> {
    match &args.what {
        Some(SimulateCommand::Dht { nodes, seed, scenario: None }) => {
            return dht(json, nodes.unwrap_or(DHT_NODES), *seed);
        }
        Some(SimulateCommand::Dht { nodes, seed, scenario: Some(name) }) => {
            return dht_scenario(json, name, nodes.unwrap_or(SCENARIO_NODES), *seed);
        }
        Some(SimulateCommand::NatMatrix { seeds, seed, population }) => {
            return nat_matrix(json, *seeds, *seed, *population);
        }
        None => {}
    }
    if let Some(file) = &args.replay {
        return again(json, file);
    }
    if !(2..=PEERS_MAX).contains(&args.peers) {
        return Err(Failure::usage(format!("--peers {}: from 2 to {PEERS_MAX} are possible", args.peers)));
    }
    let class = match &args.class {
        None => Class::Scale,
        Some(name) => Class::ALL.into_iter().find(|c| c.as_str() == name).ok_or_else(|| {
            let names: Vec<&str> = Class::ALL.iter().map(|c| c.as_str()).collect();
            Failure::usage(format!("there is no class `{name}`"))
                .with_hint(format!("one of {}", names.join(", ")))
        })?,
    };
    let duration_ms = u64::try_from(args.duration.as_millis()).unwrap_or(u64::MAX);
    let report = simulate(&SimOptions { peers: args.peers, duration_ms, seed: args.seed, class });
    if json {
        println!("{}", serde_json::to_string(&report).map_err(|e| Failure::work(e.to_string()))?);
    } else {
        println!("{report}");
    }
    match report.violations.len() {
        0 => Ok(()),
        n => Err(Failure::work(format!("{n} violation(s), class {class}, seed {}", report.seed))
            .with_hint(format!("see it again: {}", report.replay))),
    }
}

/// Every kind of NAT against every other, or a population of them; a direct path where there can be none is a failure.
fn nat_matrix(json: bool, seeds: Option<u32>, seed: u64, population: Option<u32>) -> Result<(), Failure> {
    let pairs = match population {
        None => Pairing::all(),
        Some(count) if (1..=PAIRS_MAX).contains(&count) => Pairing::population(count, seed),
        Some(count) => {
            return Err(Failure::usage(format!("--population {count}: from 1 to {PAIRS_MAX} are possible")));
        }
    };
    let seeds = seeds.unwrap_or(if population.is_some() { 1 } else { PAIR_SEEDS });
    if !(1..=PAIR_SEEDS_MAX).contains(&seeds) {
        return Err(Failure::usage(format!("--seeds {seeds}: from 1 to {PAIR_SEEDS_MAX} are possible")));
    }
    let report = matrix::run(&MatrixSpec { pairs, seeds, seed }, |pair| {
        if !json {
            println!("{pair}");
        }
    });
    if json {
        println!("{}", serde_json::to_string(&report).map_err(|e| Failure::work(e.to_string()))?);
    } else {
        println!("{report}");
    }
    match report.false_connected {
        0 => Ok(()),
        n => Err(Failure::work(format!("{n} direct path(s) where there can be none, seed {seed}"))),
    }
}

/// DHT nodes at packet level.
fn dht(json: bool, nodes: u32, seed: u64) -> Result<(), Failure> {
    if !(DHT_NODES_MIN..=PEERS_MAX).contains(&nodes) {
        let why = format!("--nodes {nodes}: from {DHT_NODES_MIN} to {PEERS_MAX} are possible");
        return Err(Failure::usage(why));
    }
    let before_ms = cpu_ms();
    let report = dht_packets::run(dht_packets::Spec::new(nodes, seed), |reached| {
        if !json {
            println!("{:>7.1} s  {reached}", cpu_ms().saturating_sub(before_ms) as f64 / 1_000.0);
        }
    });
    let mut value = report.to_json();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("cpu_ms".into(), cpu_ms().saturating_sub(before_ms).into());
    }
    println!("{}", if json { value.to_string() } else { format!("{value:#}") });
    Ok(())
}

/// One trouble of the DHT at packet level; a bound that does not hold is a failure.
fn dht_scenario(json: bool, name: &str, nodes: u32, seed: u64) -> Result<(), Failure> {
    let scenario = Scenario::named(name).ok_or_else(|| {
        let names: Vec<&str> = Scenario::ALL.iter().map(|s| s.as_str()).collect();
        Failure::usage(format!("there is no scenario `{name}`"))
            .with_hint(format!("one of {}", names.join(", ")))
    })?;
    if !(SCENARIO_NODES_MIN..=SCENARIO_NODES_MAX).contains(&nodes) {
        let why = format!("--nodes {nodes}: from {SCENARIO_NODES_MIN} to {SCENARIO_NODES_MAX} are possible");
        return Err(Failure::usage(why));
    }
    let outcome = dht_packets::scenario::run(scenario, nodes, seed);
    let value = outcome.to_json();
    println!("{}", if json { value.to_string() } else { format!("{value:#}") });
    if outcome.passed() {
        return Ok(());
    }
    Err(Failure::work(format!("scenario {name}, seed {seed}: a bound does not hold")))
}

/// Replays a recording.
fn again(json: bool, file: &Path) -> Result<(), Failure> {
    let bytes =
        std::fs::read(file).map_err(|e| Failure::usage(format!("cannot read {}: {e}", file.display())))?;
    let unreadable =
        |e: remote_network_sim::replay::ReplayError| Failure::usage(format!("{}: {e}", file.display()));
    let recording = Recording::read(&bytes).map_err(unreadable)?;
    let done = replay::<Node<QuicTransport>>(&recording).map_err(unreadable)?;
    let parted = done.divergence.as_ref().map(|d| d.entry);
    if json {
        println!(
            "{}",
            serde_json::json!({
                "calls": done.calls,
                "actions": done.actions,
                "datagrams": done.datagrams,
                "hash": format!("{:032x}", done.hash),
                "parts_at_entry": parted,
            })
        );
    } else {
        println!(
            "{} calls, {} actions, {} datagrams, hash {:032x}",
            done.calls, done.actions, done.datagrams, done.hash
        );
    }
    match done.divergence {
        None => Ok(()),
        Some(d) => Err(Failure::work(format!(
            "the replay parts from the recording at entry {}: the core asked for {}",
            d.entry,
            d.action.as_deref().unwrap_or("nothing")
        ))
        .with_hint("a recording replays only on the version that made it")),
    }
}
