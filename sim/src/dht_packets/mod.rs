//! The DHT at packet level: thousands of the product's own DHT nodes, and nothing else.
//!
//! [`crate::dht`] is an oracle for simulations of something else. Here the DHT itself is on trial: every datagram that
//! the nodes of [`remote_network_core::dht::krpc`] send goes through one queue with latency and loss. A run lets the
//! nodes join one after the other, publishes values from some, reads them from others, takes three in ten away at
//! once and reads again. What it reports follows from seed and size alone; how long it took is the caller's to measure.
//!
//! Nodes have public addresses, scattered over the IPv4 space, so that BEP 42 and votes for addresses are on trial
//! as well. Latency between two nodes is the sum of both access delays and a little jitter: 16 to 460 ms there and back.

mod actors;
mod report;
pub mod scenario;
mod world;

use remote_network_core::dht::item;
use remote_network_core::id::Keypair;
use remote_network_core::port::{DhtRequest, GetMode, MutableItem};
pub use report::{Latency, Report};
use std::time::Duration;
use world::World;

/// What to simulate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spec {
    /// How many nodes.
    pub nodes: u32,
    /// Everything random follows from it.
    pub seed: u64,
    /// Datagrams lost, in a million.
    pub loss_ppm: u32,
    /// Values published, and looked up before and after the vanishing.
    pub values: u32,
    /// Nodes that vanish at once, in a thousand.
    pub vanish_per_mille: u32,
}

impl Spec {
    /// So many nodes with one datagram in a hundred lost, 200 values, and three nodes in ten that vanish.
    pub const fn new(nodes: u32, seed: u64) -> Self {
        Self { nodes, seed, loss_ppm: 10_000, values: 200, vanish_per_mille: 300 }
    }
}

/// The time within which all nodes begin to join.
const JOIN_WITHIN: Duration = Duration::from_secs(120);
/// The time they have to fill their tables after that.
const SETTLE: Duration = Duration::from_secs(120);
/// Addresses a node is told to join by.
const BOOTSTRAPS: u32 = 3;
/// An operation not ended by then has failed, and the product has a defect.
const OPERATION_MAX: Duration = Duration::from_secs(60);

/// Runs the simulation; `progress` is told what has been reached.
pub fn run(spec: Spec, mut progress: impl FnMut(&str)) -> Report {
    let mut world = World::new(spec.seed, spec.loss_ppm);
    for n in 0..spec.nodes {
        let bootstrap = (0..BOOTSTRAPS.min(n)).map(|_| world.draw_below(u64::from(n)) as u32).collect();
        let at = JOIN_WITHIN / spec.nodes.max(1) * n;
        world.join_at(at, bootstrap);
    }
    world.run_until(JOIN_WITHIN + SETTLE);
    let mut report = Report::new(spec);
    report.joined_packets = world.packets();
    report.bytes_per_node = world.memory_bytes() / u64::from(spec.nodes.max(1));
    report.table_min = world.table_lens().min().unwrap_or(0);
    report.table_mean = world.table_lens().sum::<u64>() / u64::from(spec.nodes.max(1));
    progress("joined");
    publish(&mut world, spec, &mut report);
    progress("published");
    report.found = read_all(&mut world, spec, &mut report.get_ms);
    progress("looked up");
    world.vanish(u64::from(spec.nodes) * u64::from(spec.vanish_per_mille) / 1_000);
    report.found_after_vanish = read_all(&mut world, spec, &mut report.get_after_vanish_ms);
    progress("looked up after nodes vanished");
    report.packets = world.packets();
    report.virtual_ms = world.now_ms();
    report.trace_hash = world.trace_hash();
    report
}

fn pair(spec: &Spec, n: u32) -> Keypair {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"remote-network dht packets").update(&spec.seed.to_be_bytes()).update(&n.to_be_bytes());
    Keypair::from_seed(hasher.finalize().as_bytes())
}

fn record(spec: &Spec, n: u32) -> Option<MutableItem> {
    item::sign(&pair(spec, n), b"", 1, format!("value {n} of seed {}", spec.seed).into_bytes().into()).ok()
}

fn publish(world: &mut World, spec: Spec, report: &mut Report) {
    for n in 0..spec.values {
        let (Some(item), Some(host)) = (record(&spec, n), world.somebody()) else { continue };
        let put = DhtRequest::PutMutable { item, cas: None };
        let Some(ended) = world.operate(host, put, OPERATION_MAX) else { continue };
        let stored = ended.done.and_then(Result::ok).map_or(0, |d| d.stored);
        report.stored_min = if n == 0 { stored } else { report.stored_min.min(stored) };
        report.published += u32::from(stored > 0);
        report.put_ms.add(ended.took);
    }
}

/// Looks every value up from somebody drawn at random; how many were found as they were published.
fn read_all(world: &mut World, spec: Spec, latency: &mut Latency) -> u32 {
    let mut found = 0;
    for n in 0..spec.values {
        let Some(host) = world.somebody() else { continue };
        let key = pair(&spec, n).public();
        let request = DhtRequest::GetMutable { key, salt: Default::default(), mode: GetMode::First };
        let Some(ended) = world.operate(host, request, OPERATION_MAX) else { continue };
        found += u32::from(record(&spec, n).is_some_and(|item| ended.values.contains(&item)));
        latency.add(ended.took);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_runs_and_other_seeds_others() {
        let run = |seed| run(Spec { values: 20, ..Spec::new(120, seed) }, |_| ());
        let (one, again, other) = (run(1), run(1), run(2));
        assert_eq!(one, again);
        assert_ne!(one.trace_hash, other.trace_hash);
    }

    #[test]
    fn everything_is_found_with_loss_and_nearly_everything_when_three_in_ten_are_gone() {
        let report = run(Spec { values: 100, ..Spec::new(400, 7) }, |_| ());
        assert_eq!((report.published, report.found), (100, 100));
        assert!(report.found_after_vanish >= 99, "{report:?}");
        assert!(report.bytes_per_node <= 20_000, "{report:?}");
        assert!(report.table_min >= 8, "{report:?}");
    }

    #[test]
    fn a_network_that_loses_everything_finds_nothing() {
        let spec = Spec { loss_ppm: 1_000_000, values: 3, ..Spec::new(10, 1) };
        let report = run(spec, |_| ());
        assert_eq!((report.published, report.found, report.table_mean), (0, 0, 0));
    }
}
