//! Real node processes on loopback, for tests that use the product as people do: by its command line and its API.
//!
//! Every node is a process of its own with a data directory of its own below one temporary directory. Nothing has a
//! fixed port: QUIC and the API take any free one, DHT ports are asked of the system once and kept over restarts. A node
//! is started when it says that it is ready. Waiting is looking again until a deadline; whoever waits in vain is shown
//! what was seen last, and what the nodes had to say is printed when a test fails.

// Every test binary takes what it needs of this room.
#![allow(dead_code, unreachable_pub)]

pub mod api;
pub mod words;

use api::Api;
use serde_json::Value;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The settings of a node of a private network.
fn private(seed: bool, port: &dyn std::fmt::Display, bootstrap: &[u16]) -> [String; 4] {
    let others: Vec<String> = bootstrap.iter().map(|p| format!("127.0.0.1:{p}")).collect();
    [
        "dht_mode=private".to_owned(),
        format!("dht_seed={seed}"),
        format!("dht_port={port}"),
        format!("dht_bootstrap={}", others.join(",")),
    ]
}

/// A node that is not ready after this long has a problem that waiting does not mend.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// The binary under test. Runs of archived tests say where it was unpacked to.
pub fn binary() -> PathBuf {
    std::env::var_os("NEXTEST_BIN_EXE_remote-network")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_remote-network")), PathBuf::from)
}

/// The binary with nothing of this environment that could change what it does.
pub fn command() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REMOTE_NETWORK_") {
            command.env_remove(name);
        }
    }
    command
}

/// Looks until there is something to see. Panics at the deadline with what `look` said last.
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + within;
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(why) if Instant::now() >= until => panic!("no {what} within {within:?}: {why}"),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Ports that no system gives out by itself (Linux: from 32,768), so that nobody takes one between our look and its use by
/// asking for any.
const ASKED_FOR_BY_NUMBER: Range<u16> = 10_000..32_000;

/// UDP ports that are free now, with the same TCP port; all are held until all are found, so that they differ. Tests of other
/// processes look at the same time: where each begins is random.
pub fn free_udp_ports(count: usize) -> Vec<u16> {
    let mut held = Vec::new();
    while held.len() < count {
        let dice = RandomState::new().hash_one(held.len());
        let Range { start, end } = ASKED_FOR_BY_NUMBER;
        let port = start + (dice % u64::from(end - start)) as u16;
        let both = (UdpSocket::bind(("127.0.0.1", port)), TcpListener::bind(("127.0.0.1", port)));
        if let (Ok(udp), Ok(tcp)) = both {
            held.push((port, udp, tcp));
        }
    }
    held.iter().map(|(port, ..)| *port).collect()
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Asserts failure with this exit code, and that the message holds all of these words.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not said: {self:?}");
        }
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Standard output as one JSON value per line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Said {
    Said::of(command().args(args).stdin(Stdio::null()).output().unwrap())
}

/// Runs the binary to its end with these bytes at its standard input.
pub fn run_with_input(args: &[&str], input: &[u8]) -> Said {
    let mut command = command();
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that does not want its input is a finding of the caller, not of the writer.
    let _unread = child.stdin.take().unwrap().write_all(input);
    Said::of(child.wait_with_output().unwrap())
}

/// How a node's DHT is.
#[derive(Clone, Debug)]
pub enum Dht {
    /// None.
    Off,
    /// A node of a private network.
    Private { seed: bool, port: u16, bootstrap: Vec<u16> },
    /// A node of a private network on QUIC's socket; `bootstrap` are QUIC ports.
    Shared { seed: bool, bootstrap: Vec<u16> },
}

/// How a node is started, again and again.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: String,
    pub dir: PathBuf,
    pub driver: &'static str,
    pub dht: Dht,
    /// 0: any free one.
    pub quic_port: u16,
    pub settings: Vec<String>,
}

/// A running node.
pub struct Node {
    pub plan: Plan,
    pub key: String,
    pub api: Api,
    pub child: Child,
}

impl Plan {
    /// A node on tokio without a DHT.
    pub fn alone(root: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dir: root.join(name),
            driver: "tokio",
            dht: Dht::Off,
            quic_port: 0,
            settings: Vec::new(),
        }
    }

    /// Adds a configuration key, `KEY=VALUE`.
    #[must_use]
    pub fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// `count` nodes of a private network with `seeds` seeds; the last runs on smol.
    pub fn network(root: &Path, count: usize, seeds: usize) -> Vec<Self> {
        let ports = free_udp_ports(count);
        (0..count)
            .map(|i| Self {
                name: format!("node-{}", i + 1),
                dir: root.join(format!("node-{}", i + 1)),
                driver: if i + 1 == count { "smol" } else { "tokio" },
                dht: Dht::Private {
                    seed: i < seeds,
                    port: ports[i],
                    bootstrap: ports[..seeds].iter().copied().filter(|p| *p != ports[i]).collect(),
                },
                quic_port: 0,
                settings: Vec::new(),
            })
            .collect()
    }

    /// Spawns the process; [`Starting::ready`] waits for it.
    pub fn spawn(&self) -> Starting {
        std::fs::create_dir_all(&self.dir).unwrap();
        let mut settings = self.settings.clone();
        match &self.dht {
            Dht::Off => settings.push("dht_mode=off".into()),
            Dht::Private { seed, port, bootstrap } => {
                settings.push("dht_bind=127.0.0.1".into());
                settings.extend(private(*seed, port, bootstrap));
            }
            Dht::Shared { seed, bootstrap } => settings.extend(private(*seed, &"shared", bootstrap)),
        }
        settings.push("publish_private_addrs=true".into());
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let level = std::env::var("NODE_LOG").unwrap_or_else(|_| "warn".into());
        let mut child = command()
            .args(["start", "--json", "--until-stdin-closes", "--unencrypted-key"])
            .args(["--listen", "127.0.0.1", "--quic-port", &self.quic_port.to_string(), "--api-port", "0"])
            .args(["--driver", self.driver, "--log", &level, "--data-dir"])
            .arg(&self.dir)
            .args(settings.iter().flat_map(|s| ["--set", s.as_str()]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let (said, line) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        // Reads on after the first line, so that nothing it prints fills the pipe.
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _nobody_waits = said.send(line);
            }
        });
        Starting { plan: self.clone(), child: Some(child), line }
    }

    /// Starts the node and waits until it is ready.
    pub fn start(&self) -> Node {
        self.spawn().ready()
    }

    /// Runs a command of the binary on this node's data directory.
    pub fn cli(&self, args: &[&str]) -> Said {
        let dir = self.dir.display().to_string();
        run(&[&["--data-dir", &dir], args].concat())
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("messages.log")
    }

    /// What its processes wrote to standard error.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

/// A process that is not ready yet.
pub struct Starting {
    plan: Plan,
    child: Option<Child>,
    line: mpsc::Receiver<String>,
}

impl Starting {
    /// Waits for the line in which the node says that it is ready.
    pub fn ready(mut self) -> Node {
        let plan = self.plan.clone();
        let line = self.line.recv_timeout(READY_WITHIN).unwrap_or_else(|e| {
            panic!("{} is not ready within {READY_WITHIN:?}: {e}\n{}", plan.name, plan.messages())
        });
        let said: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(said["ready"], true, "{} said {said}\n{}", plan.name, plan.messages());
        let key = said["key"].as_str().unwrap().to_owned();
        Node { api: Api::of(&plan.dir), plan, key, child: self.child.take().unwrap() }
    }

    /// `kill -9` before it is ready.
    pub fn kill(mut self) {
        if let Some(child) = &mut self.child {
            kill(child);
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            kill(child);
        }
    }
}

/// SIGKILL, and the end of it.
fn kill(child: &mut Child) {
    let _over_already = child.kill();
    child.wait().unwrap();
}

impl Node {
    /// `kill -9`. Returns how to start it again.
    pub fn kill(mut self) -> Plan {
        kill(&mut self.child);
        self.plan.clone()
    }

    /// Runs a command of the binary on this node.
    pub fn cli(&self, args: &[&str]) -> Said {
        self.plan.cli(args)
    }

    /// Where its QUIC socket is.
    pub fn quic_addr(&self) -> String {
        wait_for("QUIC address", READY_WITHIN, || {
            let status = self.api.get("/status").map_err(|e| e.to_string())?;
            status["local_addrs"][0].as_str().map(str::to_owned).ok_or_else(|| status.to_string())
        })
    }

    /// The processes it has started: its workers.
    pub fn workers(&self) -> Vec<u32> {
        let id = self.child.id();
        let tasks = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        tasks
            .filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok())
            .flat_map(|c| c.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<u32>>())
            .collect()
    }

    /// A number of `/proc/PID/FILE`, by the name before its colon.
    pub fn proc_number(&self, file: &str, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _over_already = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.plan.name, self.plan.messages());
        }
    }
}
