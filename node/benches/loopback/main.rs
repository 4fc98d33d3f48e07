//! What this node costs on one machine, against baselines measured in the same run.
//!
//! Absolute figures say more about the machine than about the program, so every figure that has a baseline is a ratio of
//! two measurements that take turns: ours, baseline, ours, baseline. Medians and the whole range are reported, nothing is
//! asserted. `docs/BENCHMARKS.md` says what each figure means and how to read it.
//!
//! ```text
//! cargo bench -p remote-network --bench loopback                 a table
//! cargo bench -p remote-network --bench loopback -- --json       one JSON object
//! cargo bench -p remote-network --bench loopback -- --only transfer --mib 1024
//! ```

mod caller;
mod dht;
mod figures;
mod handshake;
mod idle;
mod journal;
mod pair;
mod raw;
mod transfer;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use figures::Report;
use std::path::PathBuf;
use tempfile::TempDir;

/// Measures transfers, connections, the DHT, memory at rest and the journal, each against a baseline.
#[derive(Parser, Debug)]
#[command(name = "loopback")]
struct Args {
    /// Size of the object that is transferred.
    #[arg(long, default_value_t = 256)]
    mib: u64,
    /// Times each measurement is taken.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections made in one measurement.
    #[arg(long, default_value_t = 200)]
    connections: usize,
    /// Where the nodes' data directories are made; its file system is part of what is measured.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Only these (repeatable).
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Passed by cargo; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Transfer,
    Connections,
    Journal,
    Dht,
    Idle,
}

impl Args {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn temp_dir(&self) -> Result<TempDir> {
        Ok(match &self.dir {
            Some(dir) => TempDir::new_in(dir)?,
            None => TempDir::new()?,
        })
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let rounds = args.rounds.max(1);
    let mut report = Report::default();
    if args.wants(Part::Transfer) {
        transfer::measure(&mut report, &args.temp_dir()?, rounds, args.mib.max(1))?;
    }
    if args.wants(Part::Connections) {
        handshake::measure(&mut report, &args.temp_dir()?, rounds, args.connections.max(8))?;
    }
    if args.wants(Part::Journal) {
        journal::measure(&mut report, &args.temp_dir()?, rounds)?;
    }
    if args.wants(Part::Dht) {
        dht::measure(&mut report, rounds)?;
    }
    if args.wants(Part::Idle) {
        idle::measure(&mut report, &args.temp_dir()?)?;
    }
    if args.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(())
}
