//! `service …`: the words beyond offering, listing and withdrawing.

use clap::Args;
use remote_network_core::id::{Digest, PublicKey};
use std::path::PathBuf;

/// What a service says of itself beyond ports and limits.
#[derive(Args, Clone, Debug, Default)]
pub struct DetailOptions {
    /// An architecture that it runs on, e.g. x86_64 (repeatable: any of them will do).
    #[arg(long, value_name = "ARCH")]
    pub needs_arch: Vec<String>,
    /// The operating system that it runs on, e.g. linux.
    #[arg(long, value_name = "OS")]
    pub needs_os: Option<String>,
    /// Thousandths of a processor that it needs.
    #[arg(long, value_name = "N")]
    pub needs_cpu_milli: Option<u32>,
    /// Memory that the machine must have, in MiB.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(..=1 << 40))]
    pub needs_memory_mib: Option<u64>,
    /// Disk that the machine must have, in MiB.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(..=1 << 40))]
    pub needs_disk_mib: Option<u64>,
    /// Graphics processors that it needs.
    #[arg(long, value_name = "N")]
    pub needs_gpus: Option<u32>,
    /// Whose: nvidia, amd or intel.
    #[arg(long, value_name = "VENDOR")]
    pub needs_gpu_vendor: Option<String>,
    /// A label to be found and chosen by (repeatable).
    #[arg(long, value_name = "LABEL")]
    pub label: Vec<String>,
    /// Whether executing it twice is the same as once (default: what its engine gives).
    #[arg(long, value_enum)]
    pub determinism: Option<DeterminismWord>,
    /// Price of a job, in millionths of what you count in. Told, never charged.
    #[arg(long, value_name = "MICRO")]
    pub price_per_job: Option<u64>,
    /// Price of a second of processor time, in millionths.
    #[arg(long, value_name = "MICRO")]
    pub price_per_cpu_s: Option<u64>,
    /// Price of a GiB moved, in millionths.
    #[arg(long, value_name = "MICRO")]
    pub price_per_gib: Option<u64>,
    /// An environment variable that its user fills in, with its default if it has one (repeatable).
    #[arg(long, value_name = "NAME[=DEFAULT]")]
    pub param: Vec<String>,
    /// One whose value is not to be shown (repeatable).
    #[arg(long, value_name = "NAME")]
    pub secret_param: Vec<String>,
    /// What a parameter is, for people (repeatable).
    #[arg(long, value_name = "NAME=WORDS")]
    pub param_help: Vec<String>,
}

/// Whether executing a service twice is the same as once.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeterminismWord {
    /// Equal inputs give equal outputs, bit for bit
    Strict,
    /// It may be executed again
    Pure,
    /// It has effects elsewhere
    External,
}

/// `service edit …`
#[derive(Args, Debug)]
pub struct ServiceEdit {
    /// Its id (64 hex digits).
    pub id: Digest,
    /// Name for workflows.
    #[arg(long)]
    pub name: Option<String>,
    /// For people.
    #[arg(long)]
    pub description: Option<String>,
    /// For people.
    #[arg(id = "service-version", long = "service-version", value_name = "VERSION")]
    pub version: Option<String>,
    /// Memory limit in MiB.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub memory_mib: Option<u64>,
    /// Time limit in seconds.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub time_s: Option<u64>,
    /// Limit of one output in MiB.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub output_mib: Option<u64>,
    /// Every peer may run it.
    #[arg(long, conflicts_with_all = ["private", "allow"])]
    pub public: bool,
    /// Only this node may run it.
    #[arg(long, conflicts_with = "allow")]
    pub private: bool,
    /// Only this node and these peers may run it (repeatable).
    #[arg(long, value_name = "KEY")]
    pub allow: Vec<PublicKey>,
    /// It has no labels.
    #[arg(long, conflicts_with = "label")]
    pub no_labels: bool,
    /// It has no parameters.
    #[arg(long, conflicts_with_all = ["param", "secret_param"])]
    pub no_params: bool,
    /// What it says of itself; labels and parameters replace those it had.
    #[command(flatten)]
    pub details: DetailOptions,
}

/// `service export …`
#[derive(Args, Debug)]
pub struct ServiceExport {
    /// Its id (64 hex digits).
    pub id: Digest,
    /// Write its module or executable to this file as well, if it has one; or its directory to a new one.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub module: Option<PathBuf>,
}

/// `service import …`
#[derive(Args, Debug)]
pub struct ServiceImport {
    /// What `service export` wrote, as JSON or YAML; `-` for standard input.
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// Its module, executable or directory, unless the node has it already.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub module: Option<PathBuf>,
}

/// `service search …`
#[derive(Args, Debug)]
pub struct ServiceSearch {
    /// Words, any of which may fit a name, a label or a description; none: everything.
    pub words: Vec<String>,
    /// Only services of this kind, e.g. wasm.
    #[arg(long)]
    pub kind: Option<String>,
}
