//! Measures the packet-level DHT: `cargo run --release -p remote-network-sim --example dht_packets -- NODES SEED`.

use remote_network_sim::dht_packets::{Spec, run};
use std::time::Instant;

/// Resident memory of this process, where the system tells it.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|s| s.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

fn main() {
    let mut args = std::env::args().skip(1);
    let nodes = args.next().and_then(|a| a.parse().ok()).unwrap_or(1_000);
    let seed = args.next().and_then(|a| a.parse().ok()).unwrap_or(1);
    let began = Instant::now();
    let report = run(Spec::new(nodes, seed), |reached| {
        let resident = resident_bytes() / u64::from(nodes);
        eprintln!("{:>8.1} s  {reached}, {resident} resident bytes a node", began.elapsed().as_secs_f64());
    });
    println!("{:#}", report.to_json());
}
