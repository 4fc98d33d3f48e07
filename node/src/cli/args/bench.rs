//! `bench …`

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

/// `bench …`
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// What is measured.
    #[command(subcommand)]
    pub what: BenchCommand,
    /// Work in this directory instead of the system's temporary one: it decides which disk is measured.
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// All benchmarks. Nothing is asserted about time; results are checked.
#[derive(Subcommand, Debug)]
pub enum BenchCommand {
    /// A workflow of many small tasks, requested by one node process and run by another.
    Workflow {
        /// How the tasks depend on each other.
        #[arg(long, value_enum, default_value = "layered")]
        shape: Shape,
        /// How many.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        tasks: u32,
        /// Tasks at once at the executor.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
        running: u16,
        /// Every second task runs at the requester itself, so that data goes both ways.
        #[arg(long)]
        both: bool,
    },
    /// Guests: how long their start and their cancellation take, and the memory that a large output needs.
    Wasm {
        /// Jobs, one after the other, for each kind of start.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        jobs: u16,
        /// Bytes of standard output of the large job, in MiB.
        #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u16).range(1..=16_384))]
        stdout_mib: u16,
    },
    /// An input on its way from one node process to a guest at another, against TCP in the same run.
    Transfer {
        /// Size of the object in MiB.
        #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=16_384))]
        mib: u16,
        /// Measurements of each kind.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
        rounds: u8,
    },
    /// A container as a job of this node, against the same container by bare calls of the engine in the same run.
    Docker {
        /// Containers of each kind.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        jobs: u16,
    },
    /// Kill nodes of a network again and again while it works, and look whether anything is lost, done twice or left behind.
    Kill(KillArgs),
}

/// How tasks depend on each other.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Each on the one before.
    Chain,
    /// None on any other.
    Wide,
    /// In layers of a hundred; each on two of the layer before.
    Layered,
}

/// `bench kill …`
#[derive(Args, Debug)]
pub struct KillArgs {
    /// Kills at random moments.
    #[arg(long, default_value_t = 100)]
    pub kills: u32,
    /// Also die at every named point (see docs/VERIFICATION.md).
    #[arg(long)]
    pub points: bool,
    /// Moments and victims follow from it; the machine's own timing does not.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// A container image with busybox at /bin/busybox, which the Docker engine has: a quarter of the tasks run in it.
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
}
