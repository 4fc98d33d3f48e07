//! Runs seeds of a class on the real core and prints their reports.
//!
//! `cargo run --release -p remote-network-sim --example simulate -- CLASS SEED[..SEED] [PEERS] [SECONDS]`

use remote_network_sim::report::{SimOptions, simulate};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |n: usize, default: &str| args.get(n).map_or(default, String::as_str).to_owned();
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|e| panic!("`{text}`: {e}"));
    let class = arg(0, "calm").parse().unwrap_or_else(|e| panic!("{e}"));
    let seeds = arg(1, "1");
    let (from, to) = seeds.split_once("..").unwrap_or((&seeds, &seeds));
    let (from, to) = (number(from), number(to));
    let peers = u32::try_from(number(&arg(2, "8"))).unwrap_or(8);
    let duration_ms = number(&arg(3, "120")) * 1000;
    let mut bad = Vec::new();
    for seed in from..=to {
        let report = simulate(&SimOptions { peers, duration_ms, seed, class });
        println!("{report}");
        if !report.violations.is_empty() {
            bad.push(seed);
        }
    }
    if bad.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("seeds with violations: {bad:?}");
    ExitCode::FAILURE
}
