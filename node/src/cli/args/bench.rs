//! The words of `bench`.

use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

/// `bench …`
#[derive(Subcommand, Debug)]
pub enum BenchCommand {
    /// Kill nodes of a network again and again while it works, and look whether anything is lost, done twice or left behind.
    Kill(KillArgs),
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
    /// Keep the data directories under this one (default: a temporary directory, removed at the end).
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub keep: Option<PathBuf>,
}
