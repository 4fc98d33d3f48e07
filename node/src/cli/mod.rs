//! The command line: what people and scripts type.
//!
//! Commands that ask the running node go through its own API (`client`); the others (keys, configuration, receipts,
//! simulation) need no running node. Every failure says what happened, why, and what to do; exit codes are in `--help`.

mod agreement;
pub mod args;
mod client;
mod dataset;
mod dht;
mod directories;
mod docker;
mod local;
mod output;
mod policy;
mod receipts;
mod relay;
mod remote;
mod search;
mod service;
mod standalone;

pub use client::{ADDRESS_FILE, Client, TOKEN_FILE};
pub use remote::{follow, random_run_id};

use crate::config::{self, Config};
use args::{Cli, Command};
use clap::Parser as _;
use remote_network_core::problem::Problem;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Why a command failed, and how to mend it.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
    /// What is wrong with a workflow, as the node has seen it.
    problems: Vec<Problem>,
}

impl Failure {
    /// The work itself failed: a run, a receipt, a simulation.
    pub fn work(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), hint: None, problems: Vec::new() }
    }

    /// The command was used wrongly.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into(), hint: None, problems: Vec::new() }
    }

    /// No node runs on this data directory.
    pub fn not_running(data_dir: &Path) -> Self {
        Self {
            code: 3,
            message: format!("no node is running on {}", data_dir.display()),
            hint: Some("start one with `remote-network start`, or name another with --data-dir".into()),
            problems: Vec::new(),
        }
    }

    /// A node was there and is not any more.
    pub fn gone(addr: SocketAddr) -> Self {
        Self {
            code: 3,
            message: format!("the node that was at {addr} does not answer"),
            hint: Some("start it with `remote-network start`".into()),
            problems: Vec::new(),
        }
    }

    /// The node refused, or could not.
    pub fn node(message: impl Into<String>) -> Self {
        Self { code: 4, message: message.into(), hint: None, problems: Vec::new() }
    }

    /// Whether the command was used wrongly.
    pub fn is_usage(&self) -> bool {
        self.code == 2
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Failure::work(e.to_string())
    }
}

/// Exit code of a command whose reader has gone: as a shell tells of SIGPIPE.
const READER_GONE: i32 = 141;

/// Runs the command line; returns the exit code.
pub fn main() -> ExitCode {
    end_with_the_reader();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Whoever reads JSON gets JSON, also for words that are not understood.
        Err(e) if e.use_stderr() && std::env::args_os().any(|a| a == "--json") => {
            let words = e.to_string();
            let message = words.trim().strip_prefix("error: ").unwrap_or(words.trim());
            return tell(&Failure::usage(message), true);
        }
        Err(e) => e.exit(),
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => tell(&failure, json),
    }
}

/// Whoever reads only the first lines (`| head`) has what he wanted: that is no panic to tell of.
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let printing =
            panic.payload_as_str().is_some_and(|words| words.starts_with("failed printing to stdout"));
        if printing {
            std::process::exit(READER_GONE);
        }
        usual(panic);
    }));
}

/// Says why a command failed.
fn tell(failure: &Failure, json: bool) -> ExitCode {
    if json {
        let hint = failure.hint.as_deref();
        println!("{}", serde_json::json!({"error": {"message": failure.message, "hint": hint}}));
    } else {
        eprintln!("error: {}", failure.message);
        if let Some(hint) = &failure.hint {
            eprintln!("  help: {hint}");
        }
    }
    ExitCode::from(failure.code)
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Start(args) => local::start(&global, &args),
        Command::Key(c) => local::key(&global, c),
        Command::Config(c) => local::config(&global, c),
        Command::Receipt(c) => local::receipt(&global, &c),
        Command::Workflow(args::WorkflowCommand::Schema) => {
            print!("{}", crate::workflow_text::schema_text());
            Ok(())
        }
        Command::Policy(args::PolicyCommand::Check { file }) => policy::check(&file),
        Command::Demo(args) => crate::demo::run(&global, &args),
        Command::Bench(args) => crate::bench::run(&global, &args),
        Command::Simulate(args) => local::simulate(&global, &args),
        Command::Doctor => local::doctor(&global),
        Command::Completions { shell } => {
            local::completions(shell);
            Ok(())
        }
        Command::Worker => Err(Failure::usage("`worker` is started by the node itself")),
        Command::Stop
        | Command::Status
        | Command::Peers(_)
        | Command::Relay(_)
        | Command::Dht(_)
        | Command::Data(_)
        | Command::Service(_)
        | Command::Policy(_)
        | Command::Workflow(_)
        | Command::Runs(_) => remote::run(&global, command),
    }
}

/// `config.toml` in the data directory, when there is one.
fn default_file(global: &args::Global, flags: &[(String, String)]) -> Option<PathBuf> {
    let dir = match &global.data_dir {
        Some(dir) => dir.clone(),
        // Only flags and environment can name the directory here: the file itself is what is looked for.
        None => config::load(None, std::env::vars(), flags.to_vec()).ok()?.settings.data_dir,
    };
    Some(dir.join("config.toml")).filter(|f| f.is_file())
}

/// Reads the effective configuration: file, environment, then these flags.
fn configuration(global: &args::Global, flags: &[(String, String)]) -> Result<Config, Failure> {
    let mut flags = flags.to_vec();
    if let Some(dir) = &global.data_dir {
        flags.push(("data_dir".into(), dir.display().to_string()));
    }
    if let Some(log) = &global.log {
        flags.push(("log".into(), log.clone()));
    }
    let environment =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let beside = default_file(global, &flags);
    config::load(global.config.as_deref().or(beside.as_deref()), environment, flags).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::usage(format!("the configuration is wrong:\n  {}", lines.join("\n  ")))
            .with_hint("`remote-network config generate` prints a documented default file")
    })
}
