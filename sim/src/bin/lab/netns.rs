//! Network namespaces, and the tools of the system that furnish them.
//!
//! Every namespace of a run is named `rnlab<pid>x<n>-<name>`, so a run takes down exactly what it made, and the next run
//! takes down what a killed one left: whose process is gone, whose namespaces are nobody's. Interfaces are made inside
//! their namespaces from the first moment; nothing of the lab ever exists in the machine's own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PREFIX: &str = "rnlab";

/// Counts the worlds of this process.
static WORLDS: AtomicU32 = AtomicU32::new(0);

/// What can go wrong in the lab itself.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A tool of the system refused.
    #[error("`{what}`: {said}")]
    Tool {
        /// The command.
        what: String,
        /// What it said.
        said: String,
    },
    /// Something took longer than it may.
    #[error("{what} took more than {seconds} s")]
    Slow {
        /// What.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// The product, or something of the lab that ran in a namespace, answered what nobody expects.
    #[error("{0}")]
    Strange(String),
    /// Input or output.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl LabError {
    /// An answer that makes no sense.
    pub fn strange(what: impl Into<String>) -> Self {
        Self::Strange(what.into())
    }
}

/// Runs a tool to its end; its standard output.
pub fn tool(program: &str, args: &[&str], input: Option<&str>) -> Result<String, LabError> {
    let mut command = Command::new(program);
    command.args(args);
    finish(command, input, Duration::from_secs(30))
}

/// Runs a command to its end, with `input`, for no longer than `limit`; its standard output.
pub fn finish(mut command: Command, input: Option<&str>, limit: Duration) -> Result<String, LabError> {
    let what = shown(&command, input);
    let mut child = command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| LabError::Tool { what: what.clone(), said: e.to_string() })?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // A tool that does not want all of it says why at its end.
        let _broken = stdin.write_all(text.as_bytes());
    }
    let out = collect(child.stdout.take());
    let err = collect(child.stderr.take());
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            end(&mut child);
            return Err(LabError::Slow { what, seconds: limit.as_secs() });
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let text = |reader: std::thread::JoinHandle<String>| reader.join().unwrap_or_default();
    let (out, err) = (text(out), text(err));
    if status.success() {
        Ok(out)
    } else {
        let said = if err.trim().is_empty() { out } else { err };
        Err(LabError::Tool { what, said: format!("{} ({status})", said.trim()) })
    }
}

fn collect(from: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut from) = from {
            let _broken = from.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

fn shown(command: &Command, input: Option<&str>) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    let input = input.map(|i| format!(" <<<\n{i}")).unwrap_or_default();
    format!("{}{input}", words.join(" "))
}

/// Kills a child and collects it.
pub fn end(child: &mut Child) {
    // It may have ended by itself.
    let _gone = child.kill();
    let _collected = child.wait();
}

/// A network namespace; the [`World`] takes it down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a tool inside to its end.
    pub fn tool(&self, program: &str, args: &[&str], input: Option<&str>) -> Result<String, LabError> {
        let mut command = self.command(program);
        command.args(args);
        finish(command, input, Duration::from_secs(30))
    }

    /// Lines for `ip -batch`.
    pub fn ip(&self, lines: &[String]) -> Result<(), LabError> {
        tool("ip", &["-n", &self.name, "-batch", "-"], Some(&lines.join("\n"))).map(|_| ())
    }

    /// Rules for `nft -f`.
    pub fn nft(&self, rules: &str) -> Result<(), LabError> {
        self.tool("nft", &["-f", "-"], Some(rules)).map(|_| ())
    }

    /// Writes a kernel parameter, named by its path below `/proc/sys/net`.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<(), LabError> {
        self.tool("sh", &["-c", &format!("echo {value} > /proc/sys/net/{path}")], None).map(|_| ())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The namespaces and the directory of one experiment; gone when it is dropped.
pub struct World {
    prefix: String,
    namespaces: Vec<Netns>,
    cables: u32,
    dir: PathBuf,
}

impl World {
    /// An empty world.
    pub fn new() -> Result<Self, LabError> {
        let prefix = format!("{}x{}-", own_prefix(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let dir = own_dir().join(&prefix);
        std::fs::create_dir_all(&dir)?;
        Ok(Self { prefix, namespaces: Vec::new(), cables: 0, dir })
    }

    /// A new namespace with a working loopback.
    pub fn namespace(&mut self, name: &str) -> Result<Netns, LabError> {
        let netns = Netns { name: format!("{}{name}", self.prefix) };
        tool("ip", &["netns", "add", &netns.name], None)?;
        self.namespaces.push(netns.clone());
        netns.ip(&["link set lo up".into()])?;
        // Addresses are ours to give: nobody waits, a random time of up to a second, to see whether they are taken. The
        // kernel looks at both places.
        for place in ["all", "default"] {
            netns.sysctl(&format!("ipv6/conf/{place}/accept_dad"), "0")?;
        }
        netns.sysctl("ipv6/conf/default/dad_transmits", "0")?;
        Ok(netns)
    }

    /// Joins two namespaces by a cable with an interface of the given name in each.
    pub fn cable(&mut self, a: (&Netns, &str), b: (&Netns, &str)) -> Result<(), LabError> {
        self.cables += 1;
        let words = ["link", "add", "name", a.1, "netns", &a.0.name, "type", "veth", "peer", "name", b.1];
        tool("ip", &[words.as_slice(), &["netns", &b.0.name]].concat(), None)?;
        a.0.ip(&[format!("link set {} up", a.1)])?;
        b.0.ip(&[format!("link set {} up", b.1)])
    }

    /// A number that no cable of this world has had.
    pub fn next_cable(&self) -> u32 {
        self.cables + 1
    }

    /// A directory for what runs in this world.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for netns in &self.namespaces {
            remove(&netns.name);
        }
        if std::env::var_os("LAB_KEEP").is_none() {
            // What cannot be removed now is removed with the directory of the run.
            let _left = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn own_prefix() -> String {
    format!("{PREFIX}{}", std::process::id())
}

fn own_dir() -> PathBuf {
    std::env::temp_dir().join(own_prefix())
}

/// Ends what runs in a namespace and removes it.
fn remove(name: &str) {
    if let Ok(pids) = tool("ip", &["netns", "pids", name], None) {
        for pid in pids.split_whitespace() {
            let _gone = tool("kill", &["-9", pid], None);
        }
    }
    let removed = tool("ip", &["netns", "del", name], None);
    // At the end of a run that is broken off, two may be at it.
    if let Err(e) = removed
        && Path::new("/run/netns").join(name).exists()
    {
        eprintln!("a namespace of the lab is left: {e}");
    }
}

/// Takes down everything this process has made.
pub fn sweep_own() {
    sweep(|pid| pid == std::process::id());
}

/// Takes down what runs of the lab left that were killed.
pub fn sweep_leftovers() {
    sweep(|pid| pid != std::process::id() && !Path::new(&format!("/proc/{pid}")).exists());
}

fn sweep(whose: impl Fn(u32) -> bool) {
    let owner = |name: &str| -> Option<u32> {
        let rest = name.strip_prefix(PREFIX)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..digits)?.parse().ok()
    };
    let listed = tool("ip", &["netns", "list"], None).unwrap_or_default();
    for name in listed.lines().filter_map(|l| l.split_whitespace().next()) {
        if owner(name).is_some_and(&whose) {
            remove(name);
        }
    }
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().and_then(owner).is_some_and(&whose)
            && std::env::var_os("LAB_KEEP").is_none()
        {
            let _left = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Why the lab cannot run on this machine; `None`: it can.
pub fn cannot_run() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("Uid:")?.split_whitespace().nth(1));
    if effective != Some("0") {
        return Some("it makes network namespaces, which takes root".to_owned());
    }
    for program in ["ip", "nft"] {
        if !has(program) {
            return Some(format!("`{program}` is not installed (Debian: iproute2, nftables)"));
        }
    }
    let attempt = || -> Result<(), LabError> {
        let mut world = World::new()?;
        let netns = world.namespace("try")?;
        netns.ip(&["link add name a type veth peer name b".into()])?;
        netns.nft("table ip try {\n chain c { type nat hook postrouting priority 100;\n masquerade\n }\n }\n")
    };
    attempt().err().map(|e| format!("namespaces with nftables cannot be made here: {e}"))
}

/// Whether a program is installed.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).any(|dir| dir.join(program).is_file())
}
