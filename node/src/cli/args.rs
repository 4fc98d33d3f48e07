//! The words of the command line.

pub mod bench;
mod dataset;
mod policy;
mod service;
mod workflow;

pub use bench::{BenchArgs, BenchCommand, Shape};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use remote_network_core::id::{Digest, PeerName, RunId};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub use dataset::ServiceAddData;
pub use policy::PolicyCommand;
pub use service::{DetailOptions, DeterminismWord, ServiceEdit, ServiceExport, ServiceImport, ServiceSearch};
pub use workflow::{WorkflowCommand, WorkflowFile};

/// A peer-to-peer compute network without a centre.
///
/// `remote-network demo` runs a whole network on this machine; `remote-network start` makes this machine a node.
///
/// Exit codes: 0 success; 1 the work failed (a run failed, a receipt is not valid, a simulation found a violation);
/// 2 wrong usage; 3 the node is not running; 4 the node refused or could not do it.
#[derive(Parser, Debug)]
#[command(name = "remote-network", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// What belongs to every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// Configuration file (default: config.toml in the data directory, if it exists).
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Where the node keeps its identity, journal and objects.
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: Option<PathBuf>,
    /// Print machine-readable JSON on standard output.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to log to standard error, e.g. `info` or `remote_network_core=debug`.
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
}

/// All commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the node in the foreground until Ctrl-C or `stop`.
    Start(StartArgs),
    /// Stop the running node.
    Stop,
    /// Show how the running node is.
    Status,
    /// The node's identity.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Peers the node knows.
    #[command(subcommand)]
    Peers(PeersCommand),
    /// This node as a relay for others.
    #[command(subcommand)]
    Relay(RelayCommand),
    /// Items and announcements in the DHT.
    #[command(subcommand)]
    Dht(DhtCommand),
    /// Data in the node's object store.
    #[command(subcommand)]
    Data(DataCommand),
    /// Services this node and its peers offer.
    #[command(subcommand, visible_alias = "services")]
    Service(ServiceCommand),
    /// Who may run what on this node, with how much, how often and when.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Workflows: check, plan and run them.
    #[command(subcommand)]
    Workflow(WorkflowCommand),
    /// Runs of workflows.
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Signed receipts.
    #[command(subcommand)]
    Receipt(ReceiptCommand),
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Run a whole network of separate node processes on this machine, with an example workflow over your files.
    Demo(DemoArgs),
    /// Run thousands of virtual nodes in virtual time, reproducibly.
    Simulate(SimulateArgs),
    /// Measure this machine as a node: workflows, guests, transfers, containers. The last line is JSON.
    Bench(BenchArgs),
    /// Find out what is wrong here and how to mend it.
    Doctor,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Run guests for a node process (started by the node itself).
    #[command(hide = true)]
    Worker,
}

/// Flags of `start`; each overrides the configuration file and the environment.
#[derive(Args, Debug, Clone, Default)]
pub struct StartArgs {
    /// Which runtime drives the node.
    #[arg(long, value_enum)]
    pub driver: Option<DriverName>,
    /// Address the QUIC socket is bound to.
    #[arg(long, value_name = "IP")]
    pub listen: Option<IpAddr>,
    /// UDP port for QUIC (0: any free one).
    #[arg(long, value_name = "PORT")]
    pub quic_port: Option<u16>,
    /// TCP port of the web page and API on loopback (0: any free one).
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<u16>,
    /// Any other configuration key, e.g. `--set max_peers=20` (repeatable).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Make this node's first key without a passphrase (for unattended nodes).
    #[arg(long)]
    pub unencrypted_key: bool,
    /// Stop when standard input ends: for a parent process that wants no orphans.
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
    /// Write everything that enters the core to this file, for `simulate --replay`.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub record: Option<PathBuf>,
}

/// A runtime.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DriverName {
    /// tokio
    Tokio,
    /// smol
    Smol,
}

/// `key …`
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Show public key and peer id.
    Info,
    /// Print the private key. Whoever has it is this node.
    Export {
        /// How it is written.
        #[arg(long, value_enum, default_value = "hex")]
        format: KeyFormat,
        /// Where to (created with mode 0600; default: standard output).
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,
    },
    /// Take a private key from a file (32 bytes, or 64 hex digits) as this node's identity.
    Import {
        /// The file; `-` for standard input.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Replace an identity that exists already.
        #[arg(long)]
        force: bool,
        /// Store the key without a passphrase (for unattended nodes).
        #[arg(long)]
        unencrypted_key: bool,
    },
    /// Change the passphrase of the keystore.
    Passphrase {
        /// Store the key without a passphrase (for unattended nodes).
        #[arg(long)]
        remove: bool,
    },
}

/// How a private key is written.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyFormat {
    /// 32 raw bytes
    Binary,
    /// 64 hex digits
    Hex,
}

/// `peers …`
#[derive(Subcommand, Debug)]
pub enum PeersCommand {
    /// All known peers.
    List,
    /// One peer: state, path, and why it cannot be reached.
    Show {
        /// Its key (key_…) or peer id (40 hex digits).
        peer: PeerName,
    },
    /// Refuse everything of a peer, and end what is open with it.
    Block {
        /// Its key (key_…) or the peer id (40 hex digits) of a known peer.
        peer: PeerName,
    },
    /// Refuse a peer no more.
    Unblock {
        /// Its key (key_…) or the peer id (40 hex digits) of a known peer.
        peer: PeerName,
    },
    /// Connect to a peer, by key alone or at an address.
    Connect {
        /// Its key (key_…) or peer id (40 hex digits).
        peer: PeerName,
        /// Where it is, if known (host address and QUIC port).
        #[arg(long, value_name = "ADDR")]
        addr: Option<SocketAddr>,
    },
}

/// `relay …`
#[derive(Subcommand, Debug)]
pub enum RelayCommand {
    /// Who has a session here, and what was passed on for whom.
    Sessions,
    /// End the session of a peer; it may come back after a minute.
    Disconnect {
        /// Its key (key_…) or the peer id (40 hex digits) of a known peer.
        peer: PeerName,
    },
    /// Refuse everything of a peer, here and everywhere else on this node: the same as `peers block`.
    Block {
        /// Its key (key_…) or the peer id (40 hex digits) of a known peer.
        peer: PeerName,
    },
    /// Refuse a peer no more.
    Unblock {
        /// Its key (key_…) or the peer id (40 hex digits) of a known peer.
        peer: PeerName,
    },
    /// What was passed on and dropped since the start, today and in the last thirty days (of UTC).
    Stats,
}

/// `dht …`
#[derive(Subcommand, Debug)]
pub enum DhtCommand {
    /// Print the value of an item.
    Get(DhtGet),
    /// Store an item: immutable, or mutable with --salt or --key.
    Put(DhtPut),
    /// Announce this node under an info-hash.
    Announce {
        /// 40 hex digits, or topic:NAME for the SHA-1 of a name.
        info_hash: String,
        /// Port to announce (default: the one of QUIC).
        #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
    },
    /// Who announced under an info-hash.
    Peers {
        /// 40 hex digits, or topic:NAME for the SHA-1 of a name.
        info_hash: String,
    },
    /// Show how the node is in the DHT.
    Status,
}

/// `dht get …`
#[derive(Args, Debug)]
pub struct DhtGet {
    /// Key of a mutable item (key_… or 64 hex digits), or hash of an immutable one (40 hex digits).
    pub what: String,
    /// Salt of the mutable item.
    #[arg(long, value_name = "TEXT")]
    pub salt: Option<String>,
}

/// `dht put …`
#[derive(Args, Debug)]
pub struct DhtPut {
    /// The value, at most 996 bytes; `-` for standard input.
    pub value: String,
    /// Salt: a mutable item under the node's key, or under --key.
    #[arg(long, value_name = "TEXT")]
    pub salt: Option<String>,
    /// File with a private key that signs a mutable item (32 bytes or 64 hex digits) instead of the node's.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: Option<PathBuf>,
    /// Version of the mutable item (default: one above the newest that is found).
    #[arg(long, value_name = "N")]
    pub seq: Option<u64>,
    /// Store only on top of this version.
    #[arg(long, value_name = "N")]
    pub cas: Option<u64>,
}

/// `data …`
#[derive(Subcommand, Debug)]
pub enum DataCommand {
    /// Add files and directories to the object store and print their digests.
    Add {
        /// Files and directories; `-` for standard input.
        #[arg(required = true, value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
    /// List the files of a directory.
    Files {
        /// Its digest.
        digest: Digest,
    },
    /// Write a directory of the object store to a new directory.
    Get {
        /// Its digest.
        digest: Digest,
        /// Where to; must not exist.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
    /// Let go of objects: each is removed as soon as no service, run or job needs it.
    Remove {
        /// Their digests.
        #[arg(required = true)]
        digests: Vec<Digest>,
    },
}

/// `service …`
#[derive(Subcommand, Debug)]
pub enum ServiceCommand {
    /// Offer a service.
    #[command(subcommand)]
    Add(ServiceAdd),
    /// Services here and at connected peers.
    List,
    /// Look for services, here and at peers that offer some, for at most 45 s.
    Search(ServiceSearch),
    /// One service: everything it says of itself, and who offers it.
    Show {
        /// Its id (64 hex digits).
        id: Digest,
    },
    /// Offer a service again that was set aside.
    Activate {
        /// Its id (64 hex digits).
        id: Digest,
    },
    /// Set a service aside: neither told to peers nor run, but kept.
    Deactivate {
        /// Its id (64 hex digits).
        id: Digest,
    },
    /// Change a service: it gets a new id, and the old one is withdrawn.
    Edit(Box<ServiceEdit>),
    /// Print a service as a file to import elsewhere.
    Export(ServiceExport),
    /// Offer a service that was exported.
    Import(ServiceImport),
    /// Stop offering a service.
    Remove {
        /// Its id (64 hex digits).
        id: Digest,
    },
}

/// `service add …`
#[derive(Subcommand, Debug)]
pub enum ServiceAdd {
    /// A WebAssembly module (WASI preview 1 command).
    Wasm(ServiceAddWasm),
    /// A container image, run by this machine's Docker engine.
    Docker(ServiceAddDocker),
    /// A native executable, run in a sandbox of its own.
    Standalone(ServiceAddStandalone),
    /// A directory, given as it is: no program runs, and its files go only to those who consume them.
    Data(ServiceAddData),
}

/// `service add wasm …`
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ServiceAddWasm {
    /// The module, binary or text form.
    #[arg(value_hint = ValueHint::FilePath)]
    pub module: PathBuf,
    /// A directory it reads, by name (repeatable).
    #[arg(long = "mount-in", value_name = "NAME")]
    pub mount_in: Vec<String>,
    /// A directory it writes, by name (repeatable).
    #[arg(long = "mount-out", value_name = "NAME")]
    pub mount_out: Vec<String>,
    /// What every service has.
    #[command(flatten)]
    pub common: ServiceOptions,
}

/// `service add standalone …`
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ServiceAddStandalone {
    /// The executable, built for this machine: in the ELF format, not a script.
    #[arg(value_hint = ValueHint::FilePath)]
    pub program: PathBuf,
    /// A directory it reads, by name (repeatable).
    #[arg(long = "mount-in", value_name = "NAME")]
    pub mount_in: Vec<String>,
    /// A directory it writes, by name (repeatable).
    #[arg(long = "mount-out", value_name = "NAME")]
    pub mount_out: Vec<String>,
    /// What every service has.
    #[command(flatten)]
    pub common: ServiceOptions,
}

/// `service add docker …`
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ServiceAddDocker {
    /// Name or id of an image. One that this machine's Docker engine does not have is pulled.
    pub image: String,
    /// Only show which ports its metadata suggest, and why.
    #[arg(long)]
    pub suggest: bool,
    /// Take nothing from its metadata; else mounts, standard input, name and description that flags do not give are.
    #[arg(long, conflicts_with = "suggest")]
    pub no_suggestions: bool,
    /// Ask the registry in any case: the tag may mean something newer.
    #[arg(long, conflicts_with = "no_pull")]
    pub pull: bool,
    /// Never ask a registry.
    #[arg(long)]
    pub no_pull: bool,
    /// A directory it reads, by name, at its path or else at `/NAME` (repeatable).
    #[arg(long = "mount-in", value_name = "NAME[=PATH]")]
    pub mount_in: Vec<String>,
    /// A directory it writes, by name, at its path or else at `/NAME` (repeatable).
    #[arg(long = "mount-out", value_name = "NAME[=PATH]")]
    pub mount_out: Vec<String>,
    /// Instead of the image's entry point: a program and its first arguments (repeatable, one word each).
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub entrypoint: Vec<String>,
    /// Instead of the image's working directory.
    #[arg(long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// What every service has.
    #[command(flatten)]
    pub common: ServiceOptions,
}

/// What every service has.
#[derive(Args, Clone, Debug)]
pub struct ServiceOptions {
    /// Name for workflows: a-z, 0-9, `-`, `_`, `.` (default: the file's or image's name).
    #[arg(long)]
    pub name: Option<String>,
    /// For people.
    #[arg(long, default_value = "")]
    pub description: String,
    /// For people.
    #[arg(id = "service-version", long = "service-version", value_name = "VERSION", default_value = "1.0.0")]
    pub version: String,
    /// It reads no standard input.
    #[arg(long)]
    pub no_stdin: bool,
    /// Memory limit in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub memory_mib: u64,
    /// Time limit in seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub time_s: u64,
    /// Limit of one output in MiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub output_mib: u64,
    /// A mount, by its name, that holds a directory instead of files: what several edges bring is joined (repeatable).
    #[arg(long, value_name = "NAME")]
    pub tree: Vec<String>,
    /// The same for what it reads, with each directory in one of its own: `0000`, `0001`, … (repeatable).
    #[arg(long, value_name = "NAME")]
    pub trees: Vec<String>,
    /// Only this node may run it.
    #[arg(long, conflicts_with = "allow")]
    pub private: bool,
    /// Only this node and these peers may run it (repeatable).
    #[arg(long, value_name = "KEY")]
    pub allow: Vec<remote_network_core::id::PublicKey>,
    /// What else it says of itself.
    #[command(flatten)]
    pub details: DetailOptions,
}

/// `runs …`
#[derive(Subcommand, Debug)]
pub enum RunsCommand {
    /// All runs, newest first.
    List,
    /// One run with its tasks.
    Show {
        /// Its id.
        run: RunId,
    },
    /// What a task wrote to standard error.
    Logs {
        /// The run.
        run: RunId,
        /// The task (default: every task).
        task: Option<String>,
    },
    /// Write results and receipts to a directory.
    Fetch {
        /// The run.
        run: RunId,
        /// Where to.
        #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
        output: PathBuf,
    },
    /// Dispatch nothing more of a run; what runs goes on.
    Pause {
        /// The run.
        run: RunId,
    },
    /// Let a paused run go on.
    Resume {
        /// The run.
        run: RunId,
    },
    /// Cancel a run.
    Cancel {
        /// The run.
        run: RunId,
    },
}

/// `receipt …`
#[derive(Subcommand, Debug)]
pub enum ReceiptCommand {
    /// Verify a receipt offline.
    Verify {
        /// The file that `runs fetch` wrote.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
}

/// `config …`
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Print a documented configuration file with all defaults.
    Generate,
    /// Check the configuration and show each value with its origin.
    Check {
        /// The file (default: the one `start` would read).
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
}

/// `demo …`
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Text files to count the words of (default: texts that the binary carries).
    #[arg(value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// End after the run instead of leaving the network running until Ctrl-C.
    #[arg(long)]
    pub once: bool,
    /// Node processes, of which the last runs on smol.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(4..=32))]
    pub nodes: u8,
    /// Keep the data directories under this one (default: a temporary directory, removed at the end).
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub keep: Option<PathBuf>,
}

/// `simulate …`
#[derive(Args, Debug)]
pub struct SimulateArgs {
    /// What is simulated; whole nodes if nothing else is named.
    #[command(subcommand)]
    pub what: Option<SimulateCommand>,
    /// Virtual nodes.
    #[arg(long, default_value_t = 100)]
    pub peers: u32,
    /// Virtual time, e.g. 90s, 10m, 1h.
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    pub duration: std::time::Duration,
    /// Everything random follows from it.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Kind of scenario.
    #[arg(long)]
    pub class: Option<String>,
    /// Replay a recording of a real node (`start --record`) instead.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub replay: Option<PathBuf>,
}

/// `simulate …`
#[derive(Subcommand, Debug)]
pub enum SimulateCommand {
    /// DHT nodes alone, at packet level: they join, store, look up, and three in ten vanish.
    Dht {
        /// Virtual DHT nodes: 1000, or 120 in a scenario.
        #[arg(long)]
        nodes: Option<u32>,
        /// Everything random follows from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// One trouble and its bounds instead: young, dead, sybils, valid-sybils, eclipse, lies, dialects, families,
        /// read-only.
        #[arg(long, value_name = "NAME")]
        scenario: Option<String>,
    },
    /// Two nodes behind every kind of NAT against every other: who gets a direct path, how fast, and whether that was
    /// possible at all.
    NatMatrix {
        /// Worlds for each pair: 5, or 1 of a population.
        #[arg(long)]
        seeds: Option<u32>,
        /// Everything random follows from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// So many pairs with NATs as frequent as in the field instead.
        #[arg(long, value_name = "PAIRS")]
        population: Option<u32>,
    },
}

/// Reads a number with a unit: `500ms`, `90s`, `10m`, `2h`.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` does not start with a number; write e.g. 90s, 10m, 1h"))?;
    let millis = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("`{unit}` is no unit of time; use ms, s, m or h")),
    };
    match number.checked_mul(millis) {
        Some(ms) if ms > 0 => Ok(std::time::Duration::from_millis(ms)),
        _ => Err("a duration is more than nothing and less than for ever".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("10m"), Ok(std::time::Duration::from_secs(600)));
        assert_eq!(parse_duration("1500ms"), Ok(std::time::Duration::from_millis(1500)));
        assert!(parse_duration("ten").is_err_and(|e| e.contains("number")));
        assert!(parse_duration("5 fortnights").is_err_and(|e| e.contains("unit")));
        assert!(parse_duration("0s").is_err());
    }
}
