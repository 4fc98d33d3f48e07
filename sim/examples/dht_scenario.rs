//! Runs scenarios of the packet-level DHT: `dht_scenario NAME|all NODES SEED`.

use remote_network_sim::dht_packets::scenario::{Scenario, run};

fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "all".into());
    let nodes = args.next().and_then(|n| n.parse().ok()).unwrap_or(120);
    let seed = args.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    for scenario in Scenario::ALL.into_iter().filter(|s| name == "all" || s.as_str() == name) {
        println!("{:#}", run(scenario, nodes, seed).to_json());
    }
}
