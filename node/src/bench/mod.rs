//! `remote-network bench`: what this build does on this machine, measured on real node processes. The last line of standard output is
//! one JSON object.

mod kill;

use crate::cli::Failure;
use crate::cli::args::Global;
use crate::cli::args::bench::BenchCommand;

/// Runs a benchmark.
pub fn run(global: &Global, command: &BenchCommand) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match command {
        BenchCommand::Kill(args) => runtime.block_on(kill::run(global, args)),
    }
}
