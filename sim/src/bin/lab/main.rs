//! The lab: the product's own binaries behind real translators.
//!
//! The simulator's translators are models; these are the kernel's. Network namespaces with nftables make an internet with
//! homes of every kind, real nodes run in them as processes, and what they achieve is compared with what is possible.
//! Where lab and simulator disagree, the simulator is wrong.
//!
//! The lab runs as two processes: this one, and a worker in a process group of its own that does everything and notices
//! when its standard input ends. However this one ends, Ctrl-C and `kill -9` included, the worker takes everything down.

mod agent;
mod continuity;
mod expected;
mod foreign;
mod internet;
mod kind;
mod nats;
mod netns;
mod pairs;
mod product;
mod report;
mod sample;
mod stage;

use continuity::Trouble;
use product::Product;
use report::Report;
use serde_json::json;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

const USAGE: &str = "\
lab [--json] [--only NAME] [--reduced] [--mib N] [--binary PATH] [--list]
lab --check-nats [--json]

The product's binaries behind real translators, in network namespaces. Needs root, `ip` and `nft`.

  --json         one line of JSON on standard output
  --check-nats   only measure whether the translators are what they claim to be
  --only NAME    only experiments whose names contain NAME (see --list)
  --reduced      a selection that takes a few minutes; stalls may be five times as long
  --mib N        size of a transfer (default 1024; with --reduced 64)
  --binary PATH  the product (default: $REMOTE_NETWORK_BINARY, else `remote-network` beside this program)
";

/// What is asked for.
#[derive(Clone, Debug, Default)]
struct Options {
    json: bool,
    check_nats: bool,
    reduced: bool,
    list: bool,
    only: Option<String>,
    mib: Option<u64>,
    binary: Option<PathBuf>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or_else(|| format!("{arg} takes a value"));
            match arg.as_str() {
                "--json" => options.json = true,
                "--check-nats" => options.check_nats = true,
                "--reduced" => options.reduced = true,
                "--list" => options.list = true,
                "--only" => options.only = Some(value()?),
                "--binary" => options.binary = Some(value()?.into()),
                "--mib" => {
                    let mib = value()?.parse().ok().filter(|mib| (1..=16_384).contains(mib));
                    options.mib = Some(mib.ok_or("--mib takes a number from 1 to 16384")?);
                }
                _ => return Err(format!("`{arg}` is not known")),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((first, _)) if first == "agent" => code(agent::run().map(|()| true)),
        Some((first, rest)) if first == "sample" => code(sample::run(rest)),
        Some((first, rest)) if first == "worker" => worker(rest),
        _ => supervise(&args),
    }
}

fn code(outcome: Result<bool, impl std::fmt::Display>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("lab: {e}");
            ExitCode::FAILURE
        }
    }
}

fn supervise(args: &[String]) -> ExitCode {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    if let Err(e) = Options::parse(args) {
        eprintln!("lab: {e}\n\n{USAGE}");
        return ExitCode::from(2);
    }
    let spawned = std::env::current_exe().and_then(|own| {
        Command::new(own).arg("worker").args(args).stdin(Stdio::piped()).process_group(0).spawn()
    });
    let waited = spawned.and_then(|mut worker| {
        // `wait` would close the worker's standard input, which tells it to give up.
        let _kept = worker.stdin.take();
        worker.wait()
    });
    match waited {
        Ok(status) => ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)),
        Err(e) => code(Err(e)),
    }
}

fn worker(args: &[String]) -> ExitCode {
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(e) => return code(Err(e)),
    };
    std::thread::spawn(|| {
        let mut nothing = [0];
        let _ended = std::io::stdin().read(&mut nothing);
        netns::sweep_own();
        std::process::exit(130);
    });
    if let Some(why) = netns::cannot_run() {
        netns::sweep_own();
        if options.json {
            println!("{}", json!({"skipped": [{"name": "lab", "why": why}], "ok": true}));
            eprintln!("SKIPPED lab: {why}");
        } else {
            println!("SKIPPED lab: {why}");
        }
        return ExitCode::SUCCESS;
    }
    netns::sweep_leftovers();
    let outcome = run(&options);
    netns::sweep_own();
    code(outcome)
}

/// Makes the experiments that are asked for; whether all of them went as they should.
fn run(options: &Options) -> Result<bool, netns::LabError> {
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let pairs: Vec<_> =
        pairs::all(options.reduced).into_iter().filter(|pair| wanted(&pairs::name(*pair))).collect();
    let troubles: Vec<Trouble> = Trouble::ALL
        .into_iter()
        .filter(|t| wanted(t.as_str()) && !(options.reduced && *t == Trouble::Nothing))
        .collect();
    let meetings: Vec<&'static str> = foreign::NAMES.into_iter().filter(|name| wanted(name)).collect();
    let mut report = Report::new(options.json);
    if options.list {
        report.list(wanted("nats").then_some("nats").into_iter());
        report.list(pairs.iter().map(|pair| pairs::name(*pair)));
        report.list(troubles.iter().map(|t| t.as_str()));
        report.list(meetings.iter());
        return Ok(true);
    }
    if wanted("nats") || options.check_nats {
        report.nats(nats::check()?);
    }
    if !options.check_nats {
        experiments(options, &pairs, &troubles, &meetings, &mut report)?;
    }
    Ok(report.finish())
}

fn experiments(
    options: &Options,
    pairs: &[(kind::Kind, kind::Kind)],
    troubles: &[Trouble],
    meetings: &[&'static str],
    report: &mut Report,
) -> Result<(), netns::LabError> {
    let product = match Product::find(options.binary.as_deref()) {
        Ok(product) => Some(product),
        Err(why) => {
            report.skipped("everything with nodes", &why);
            None
        }
    };
    if let Some(product) = &product {
        // Without relays only what is public can be found and dialled.
        let (possible, impossible): (Vec<_>, Vec<_>) =
            pairs.iter().partition(|(_, b)| product.has_relays() || *b == kind::Kind::Open);
        if !impossible.is_empty() {
            report.skipped(&format!("{} pairs", impossible.len()), "this binary has no relays");
        }
        if !possible.is_empty() {
            let tried = pairs::run(product, &possible, |pair| report.pair(pair))?;
            report.pairs(tried);
        }
        let mib = options.mib.unwrap_or(if options.reduced { 64 } else { 1_024 });
        // A check on a machine that others share tells what happens, not how fast.
        let patience = if options.reduced { 5 } else { 1 };
        for trouble in troubles {
            if trouble.needs_relays() && !product.has_relays() {
                report.skipped(trouble.as_str(), "this binary has no relays");
            } else {
                report.transfer(continuity::run(product, *trouble, mib, patience));
            }
        }
    }
    for name in meetings {
        match foreign::missing(name, product.as_ref()) {
            Some(why) => report.skipped(name, &why),
            None => report.meeting(foreign::run(name, product.as_ref())),
        }
    }
    Ok(())
}
