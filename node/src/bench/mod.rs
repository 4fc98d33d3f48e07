//! `remote-network bench`: what this machine makes of the product as it is shipped.
//!
//! Whole processes and real ports are measured, durability and signatures included, never a part under laboratory
//! conditions. What has a baseline is measured against it in turns within one run, because absolute figures say more about the
//! machine than about the program. Results are checked, time is not: a benchmark that computed something wrong fails, a
//! slow one does not. The last line of standard output is one JSON object; docs/BENCHMARKS.md says what its fields mean.

mod docker;
mod engine;
mod figures;
mod graph;
mod kill;
mod pair;
mod system;
mod transfer;
mod wasm;
mod workflow;

use crate::cli::Failure;
use crate::cli::args::{BenchArgs, BenchCommand, Global};
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

/// Runs a benchmark.
pub fn run(global: &Global, args: &BenchArgs) -> Result<(), Failure> {
    let dir = scratch(args.dir.as_deref())?;
    let (root, log) = (dir.path(), global.log.as_deref());
    let figures = match &args.what {
        BenchCommand::Kill(args) => return in_runtime(kill::run(root, log, args)),
        &BenchCommand::Workflow { shape, tasks, running, both } => {
            let wanted = workflow::Wanted { shape, tasks: tasks as usize, running, both };
            in_runtime(workflow::run(root, log, wanted))?
        }
        &BenchCommand::Wasm { jobs, stdout_mib } => wasm::run(root, jobs, stdout_mib)?,
        &BenchCommand::Transfer { mib, rounds } => in_runtime(transfer::run(root, log, mib, rounds))?,
        &BenchCommand::Docker { jobs } => docker::run(root, jobs)?,
    };
    show(global, &figures);
    Ok(())
}

fn in_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}

fn scratch(beneath: Option<&Path>) -> Result<TempDir, Failure> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("remote-network-bench-");
    Ok(match beneath {
        Some(dir) => builder.tempdir_in(dir)?,
        None => builder.tempdir()?,
    })
}

/// One line each for people, and the whole as JSON at the end.
fn show(global: &Global, figures: &Value) {
    if !global.json {
        for (name, value) in figures.as_object().into_iter().flatten() {
            println!("{name:<32} {value}");
        }
    }
    println!("{figures}");
}
