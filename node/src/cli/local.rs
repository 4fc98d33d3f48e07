//! Commands that need no running node: start, keys, configuration, receipts, simulation, doctor.

use super::args::{
    Cli, ConfigCommand, DriverName, Global, KeyCommand, KeyFormat, ReceiptCommand, SimulateArgs, StartArgs,
};
use super::{Failure, configuration, output};
use crate::keystore::{self, KEYSTORE_FILE, Keystore, Passphrase};
use crate::{doctor as examination, start as starting};
use clap::CommandFactory as _;
use remote_network_core::id::PublicKey;
use remote_network_core::job::quorum::Evidence;
use remote_network_core::job::receipt::verify_file;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

/// How long `doctor` waits for a node that may hang.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// `start`
pub fn start(global: &Global, args: &StartArgs) -> Result<(), Failure> {
    let config = configuration(global, &start_flags(args)?)?;
    crate::logging::init(&config.settings.log)?;
    let options = starting::Options {
        json: global.json,
        until_stdin_closes: args.until_stdin_closes,
        unencrypted_key: args.unencrypted_key,
        record: args.record.clone(),
    };
    starting::run(&config, &options)
}

/// The flags of `start` as configuration keys.
fn start_flags(args: &StartArgs) -> Result<Vec<(String, String)>, Failure> {
    let mut flags = Vec::new();
    for pair in &args.set {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--set {pair}: expected KEY=VALUE"))
                .with_hint("for example --set max_peers=20")
        })?;
        flags.push((key.trim().to_owned(), value.trim().to_owned()));
    }
    let driver = args.driver.map(|d| match d {
        DriverName::Tokio => "tokio".to_owned(),
        DriverName::Smol => "smol".to_owned(),
    });
    let named = [
        ("driver", driver),
        ("listen", args.listen.map(|a| a.to_string())),
        ("quic_port", args.quic_port.map(|p| p.to_string())),
        ("api_port", args.api_port.map(|p| p.to_string())),
    ];
    flags.extend(named.into_iter().filter_map(|(k, v)| v.map(|v| (k.to_owned(), v))));
    Ok(flags)
}

fn key_failure(e: keystore::KeystoreError) -> Failure {
    Failure::work(e.to_string())
}

/// `key …`
pub fn key(global: &Global, command: KeyCommand) -> Result<(), Failure> {
    let settings = configuration(global, &[])?.settings;
    let path = settings.data_dir.join(KEYSTORE_FILE);
    let file = settings.passphrase_file.as_deref();
    let open = || -> Result<Keystore, Failure> {
        if !path.exists() {
            return Err(Failure::work(format!("there is no key in {} yet", settings.data_dir.display()))
                .with_hint("`remote-network start` makes one, `remote-network key import FILE` takes one"));
        }
        Keystore::open(&path).map_err(key_failure)
    };
    let unlock = |stored: &Keystore| {
        let question = stored.is_encrypted().then_some("Passphrase of this node's key: ");
        let passphrase = if stored.is_encrypted() { Passphrase::obtain(file, question) } else { Ok(None) };
        stored.unlock(passphrase.map_err(key_failure)?.as_ref()).map_err(key_failure)
    };
    match command {
        KeyCommand::Info => {
            let stored = open()?;
            let key = stored.public();
            if global.json {
                let encrypted = stored.is_encrypted();
                println!(
                    "{}",
                    json!({"key": key.to_string(), "peer_id": key.peer_id().to_string(), "encrypted": encrypted})
                );
            } else {
                println!("{key}");
                println!("  peer id    {}", key.peer_id());
                println!(
                    "  keystore   {} ({})",
                    path.display(),
                    if stored.is_encrypted() { "encrypted" } else { "not encrypted" }
                );
            }
            Ok(())
        }
        KeyCommand::Export { format, output } => {
            let format = match format {
                KeyFormat::Binary => keystore::KeyFormat::Binary,
                KeyFormat::Hex => keystore::KeyFormat::Hex,
            };
            let stored = open()?;
            let secret = keystore::export(&unlock(&stored)?, format);
            if global.json {
                return export_json(&stored, &secret, output.as_deref());
            }
            match output {
                Some(file) => write_secret(&file, &secret)?,
                None => std::io::stdout().write_all(&secret)?,
            }
            Ok(())
        }
        KeyCommand::Import { file: from, force, unencrypted_key } => {
            let how = Import { force, unencrypted: unencrypted_key };
            let key = import(&settings.data_dir, &path, file, &from, how)?;
            if global.json {
                println!("{}", json!({"key": key.to_string(), "peer_id": key.peer_id().to_string()}));
            } else {
                println!("{key}");
            }
            Ok(())
        }
        KeyCommand::Passphrase { remove } => {
            let mut stored = open()?;
            let question = stored.is_encrypted().then_some("Present passphrase: ");
            let old = if stored.is_encrypted() {
                Passphrase::obtain(file, question).map_err(key_failure)?
            } else {
                None
            };
            let new = if remove {
                None
            } else {
                Some(Passphrase::prompt("New passphrase: ").map_err(key_failure)?)
            };
            stored.change_passphrase(old.as_ref(), new.as_ref()).map_err(key_failure)?;
            if global.json {
                println!("{}", json!({"encrypted": !remove}));
            } else {
                println!(
                    "{}",
                    if remove { "the key is stored without a passphrase now" } else { "passphrase changed" }
                );
            }
            Ok(())
        }
    }
}

/// Writes a private key to a new file that only its owner may read.
fn write_secret(file: &Path, secret: &[u8]) -> Result<(), Failure> {
    let mut out =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(|e| {
            Failure::usage(format!("cannot write {}: {e}", file.display()))
                .with_hint("name a file that does not exist yet: an existing one is never overwritten")
        })?;
    out.write_all(secret)?;
    out.sync_all()?;
    Ok(())
}

/// An export for programs: where the private key was written, or the key itself when that is text.
fn export_json(stored: &Keystore, secret: &[u8], output: Option<&Path>) -> Result<(), Failure> {
    let key = stored.public().to_string();
    match (output, std::str::from_utf8(secret)) {
        (Some(file), _) => {
            write_secret(file, secret)?;
            println!("{}", json!({"key": key, "file": file.display().to_string()}));
        }
        (None, Ok(hex)) if hex.trim().len() == 64 => {
            println!("{}", json!({"key": key, "private_key": hex.trim()}));
        }
        (None, _) => {
            return Err(Failure::usage("raw bytes are no JSON")
                .with_hint("use --format hex, or write them to a file with --output"));
        }
    }
    Ok(())
}

/// How a key is taken.
#[derive(Clone, Copy)]
struct Import {
    /// An identity that is there is replaced.
    force: bool,
    /// No passphrase is wanted.
    unencrypted: bool,
}

fn import(
    dir: &Path,
    path: &Path,
    passphrase_file: Option<&Path>,
    from: &Path,
    how: Import,
) -> Result<PublicKey, Failure> {
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    let mut limited: Box<dyn std::io::Read> = if from.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(
            std::fs::File::open(from)
                .map_err(|e| Failure::usage(format!("cannot read {}: {e}", from.display())))?,
        )
    };
    limited.by_ref().take(1024).read_to_end(&mut bytes)?;
    let keypair = keystore::import(&bytes).map_err(|e| {
        Failure::usage(format!("{}: {e}", from.display()))
            .with_hint("`remote-network key export` writes a key as it is taken here")
    })?;
    std::fs::create_dir_all(dir)?;
    if path.exists() && !how.force {
        return Err(Failure::usage(format!("{} holds an identity already", dir.display()))
            .with_hint("--force replaces it; export the old key first if you may need it again"));
    }
    let passphrase = if how.unencrypted {
        None
    } else {
        let chosen = Passphrase::obtain(passphrase_file, Some("Choose a passphrase for the key: "))
            .map_err(key_failure)?;
        Some(chosen.ok_or_else(|| {
            Failure::usage("there is nobody to ask for a passphrase").with_hint(
                "set REMOTE_NETWORK_PASSPHRASE or `passphrase_file`, or choose `--unencrypted-key` for an unattended node",
            )
        })?)
    };
    let store = if how.force { Keystore::replace } else { Keystore::create };
    store(path, &keypair, passphrase.as_ref()).map_err(key_failure)?;
    Ok(keypair.public())
}

/// `config …`
pub fn config(global: &Global, command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Generate if global.json => {
            println!("{}", json!({"config": crate::config::generate()}));
            Ok(())
        }
        ConfigCommand::Generate => {
            print!("{}", crate::config::generate());
            Ok(())
        }
        ConfigCommand::Check { file } => {
            let global = Global { config: file.or_else(|| global.config.clone()), ..global.clone() };
            let config = configuration(&global, &[])?;
            for line in config.effective() {
                let origin = line.origin.as_ref().map_or("default".to_owned(), ToString::to_string);
                if global.json {
                    println!("{}", json!({"key": line.key, "value": line.value, "origin": origin}));
                } else {
                    println!("{} = {}  # {origin}", line.key, line.value);
                }
            }
            Ok(())
        }
    }
}

/// `receipt …`
pub fn receipt(global: &Global, command: &ReceiptCommand) -> Result<(), Failure> {
    let ReceiptCommand::Verify { file } = command;
    let bytes =
        std::fs::read(file).map_err(|e| Failure::usage(format!("cannot read {}: {e}", file.display())))?;
    if let Ok(evidence) = Evidence::decode(&bytes) {
        let shown = evidence.verify().map_err(|e| {
            Failure::work(format!("{} is NOT valid evidence: {e}", file.display()))
                .with_hint("evidence is written by `remote-network runs fetch` when executors disagree")
        })?;
        super::receipts::show_evidence(global.json, &shown);
        return Ok(());
    }
    let report = verify_file(&bytes).map_err(|e| {
        Failure::work(format!("{} is NOT a valid receipt: {e}", file.display()))
            .with_hint("receipts are written by `remote-network runs fetch`")
    })?;
    super::receipts::show(global.json, &report);
    Ok(())
}

/// What the node that runs on this data directory says of itself as a relay; `None` when none runs, or none answers soon.
fn running_relay(data_dir: &Path) -> Option<serde_json::Value> {
    let client = super::Client::of(data_dir).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async { tokio::time::timeout(ANSWER_WITHIN, client.get("/relay")).await.ok()?.ok() })
}

/// `doctor`
pub fn doctor(global: &Global) -> Result<(), Failure> {
    let settings = configuration(global, &[])?.settings;
    let running = running_relay(&settings.data_dir);
    let findings = examination::examine(&settings, running.as_ref());
    if global.json {
        let list: Vec<_> = findings
            .iter()
            .map(|f| json!({"check": f.check, "ok": f.ok, "found": f.found, "mend": f.mend}))
            .collect();
        println!("{}", json!({"findings": list}));
    } else {
        for f in &findings {
            println!("{} {:<14} {}", if f.ok { "ok  " } else { "look" }, f.check, output::plain(&f.found));
            if let (false, Some(mend)) = (f.ok, &f.mend) {
                println!("                    → {mend}");
            }
        }
    }
    if findings.iter().all(|f| f.ok || !f.fatal) {
        Ok(())
    } else {
        Err(Failure::work("a node cannot run here as it is"))
    }
}

/// `completions`
pub fn completions(shell: clap_complete::Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "remote-network", &mut script);
    print!("{}", String::from_utf8_lossy(&script));
}

/// `simulate`
pub fn simulate(global: &Global, args: &SimulateArgs) -> Result<(), Failure> {
    crate::simulate::run(global.json, args)
}
