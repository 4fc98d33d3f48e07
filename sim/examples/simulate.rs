//! Runs seeds of a class on the real core and prints their reports: one line a seed, all of it for a single seed or
//! where something is wrong.
//!
//! `cargo run --release -p remote-network-sim --example simulate -- CLASS SEED[..SEED] [PEERS] [SECONDS]`
//!
//! `all` stands for every class but `scale`.

use remote_network_sim::plan::Class;
use remote_network_sim::report::{Report, SimOptions, simulate};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |n: usize, default: &str| args.get(n).map_or(default, String::as_str).to_owned();
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|e| panic!("`{text}`: {e}"));
    let classes = match arg(0, "calm").as_str() {
        "all" => Class::ALL.into_iter().filter(|c| *c != Class::Scale).collect(),
        name => vec![name.parse().unwrap_or_else(|e| panic!("{e}"))],
    };
    let seeds = arg(1, "1");
    let (from, to) = seeds.split_once("..").unwrap_or((&seeds, &seeds));
    let (from, to) = (number(from), number(to));
    let peers = u32::try_from(number(&arg(2, "8"))).unwrap_or(8);
    let duration_ms = number(&arg(3, "120")) * 1000;
    let mut bad = Vec::new();
    for class in classes {
        for seed in from..=to {
            let report = simulate(&SimOptions { peers, duration_ms, seed, class });
            if from == to || !report.violations.is_empty() {
                println!("{report}");
            } else {
                println!("{}", line(&report));
            }
            if !report.violations.is_empty() {
                bad.push(format!("{class} {seed}"));
            }
        }
    }
    if bad.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("with violations: {}", bad.join(", "));
    ExitCode::FAILURE
}

fn line(report: &Report) -> String {
    let Report { class, seed, runs, trace_hash, cpu_ms, virtual_ms, .. } = report;
    let (ended, succeeded) = (runs.ended, runs.succeeded);
    let seconds = virtual_ms / 1000;
    format!("{class} {seed}: {ended} runs ended, {succeeded} well; {seconds} s in {cpu_ms} ms; {trace_hash}")
}
