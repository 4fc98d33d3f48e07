//! The product as the lab drives it: everything that depends on its configuration keys, its command line and the form of
//! its answers is here and nowhere else.

use crate::internet::Host;
use crate::netns::{LabError, Netns, end, finish};
use crate::sample::Watch;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The UDP port of QUIC on public nodes; others add the last number of their own address, so that two homes behind one
/// carrier do not want the same port of it.
pub const QUIC_PORT: u16 = 4433;
/// The UDP port of the seeds' DHT.
pub const DHT_PORT: u16 = 6881;
/// The TCP port of relays, for those whose UDP is dropped.
const RELAY_TCP_PORT: u16 = 443;
/// A node that is not ready after this long has a problem.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A command of the command line, those that reach out to peers included.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// A file of a few gigabytes is taken in, on a machine that does something else too.
const TAKEN_IN_WITHIN: Duration = Duration::from_secs(600);
/// A connection that takes longer helps nobody.
const CONNECTED_WITHIN: Duration = Duration::from_secs(20);

/// The product's binary.
#[derive(Clone, Debug)]
pub struct Product {
    binary: PathBuf,
    /// Configuration keys it knows.
    keys: BTreeSet<String>,
}

/// What a node is there for.
#[derive(Clone, Debug)]
pub enum Role {
    /// A seed of the DHT with a public address; a relay, if the binary can be one.
    Public {
        /// DHT addresses of the other seeds.
        seeds: Vec<SocketAddr>,
        /// Whether it relays.
        relay: bool,
    },
    /// Somebody's machine.
    Private {
        /// DHT addresses of the seeds.
        seeds: Vec<SocketAddr>,
        /// Key and QUIC address of relays.
        relays: Vec<(String, SocketAddr)>,
        /// Ask the router for a port.
        port_mapping: bool,
    },
}

impl Product {
    /// Finds the binary and asks what it can do; else why it cannot be used.
    pub fn find(told: Option<&Path>) -> Result<Self, String> {
        let beside = || Some(std::env::current_exe().ok()?.parent()?.join("remote-network"));
        let binary = told
            .map(Path::to_owned)
            .or_else(|| std::env::var_os("REMOTE_NETWORK_BINARY").map(PathBuf::from))
            .or_else(beside)
            .filter(|b| b.is_file())
            .ok_or(
                "the product is not built: `cargo build --release -p remote-network`, or name it by --binary",
            )?;
        let binary = binary.canonicalize().map_err(|e| format!("{}: {e}", binary.display()))?;
        let mut command = Command::new(&binary);
        command.args(["config", "generate"]);
        let text = finish(command, None, ANSWER_WITHIN).map_err(|e| e.to_string())?;
        let key = |line: &str| Some(line.trim_start_matches('#').split_once(" = ")?.0.to_owned());
        Ok(Self { binary, keys: text.lines().filter(|l| !l.starts_with("# ")).filter_map(key).collect() })
    }

    /// Whether it can relay and be relayed.
    pub fn has_relays(&self) -> bool {
        self.keys.contains("relay") && self.keys.contains("relays")
    }

    /// Whether it asks routers for ports.
    pub fn has_port_mapping(&self) -> bool {
        self.keys.contains("port_mapping")
    }

    /// Settings for a role, those the binary does not know left out.
    fn settings(&self, name: &str, role: &Role) -> Vec<String> {
        let hosts = |all: &[SocketAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let mut settings = vec![("dht_mode", "private".to_owned()), ("dht_backend", "native".to_owned())];
        match role {
            Role::Public { seeds, relay } => {
                settings.push(("dht_bootstrap", hosts(seeds)));
                settings.push(("dht_seed", "true".to_owned()));
                settings.push(("dht_port", DHT_PORT.to_string()));
                settings.push(("public", "true".to_owned()));
                settings.push(("relay", relay.to_string()));
                if *relay {
                    settings.push(("relay_tcp_port", RELAY_TCP_PORT.to_string()));
                }
            }
            Role::Private { seeds, relays, port_mapping } => {
                let relays: Vec<String> = relays.iter().map(|(key, addr)| format!("{key}@{addr}")).collect();
                settings.push(("dht_bootstrap", hosts(seeds)));
                settings.push(("dht_port", "shared".to_owned()));
                settings.push(("relays", relays.join(",")));
                settings.push(("port_mapping", port_mapping.to_string()));
            }
        }
        if self.has_relays() {
            // Nobody is met by chance: peers tell each other only of those they share a topic with. So whoever is
            // connected was dialled by the experiment or is a relay.
            if matches!(role, Role::Private { .. }) {
                settings.push(("topics", format!("lab-{name}")));
            }
            settings.push(("mdns", "false".to_owned()));
            settings.push(("min_peers", "0".to_owned()));
            settings.push(("discovery_interval", "3600".to_owned()));
        } else {
            settings.push(("publish_private_addrs", "true".to_owned()));
            settings.push(("discovery_interval", "5".to_owned()));
        }
        settings.retain(|(key, _)| self.keys.contains(*key));
        settings.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// Starts a node on a host, with its data below `dir`; back when it is ready.
    pub fn start(&self, host: &Host, dir: &Path, role: &Role) -> Result<Node, LabError> {
        let dir = dir.join(&host.name);
        std::fs::create_dir_all(&dir)?;
        let log = dir.join("log");
        let port = match role {
            Role::Public { .. } => QUIC_PORT,
            Role::Private { .. } => QUIC_PORT + u16::from(host.own.octets()[3]),
        };
        let mut command = host.netns.command(&self.binary);
        command
            .args(["start", "--json", "--until-stdin-closes", "--unencrypted-key", "--listen", "::"])
            .args(["--quic-port", &port.to_string(), "--api-port", "0"])
            .arg("--data-dir")
            .arg(&dir)
            .args(["--log", &std::env::var("LAB_LOG").unwrap_or_else(|_| "info".to_owned())])
            .args(self.settings(&host.name, role).iter().flat_map(|s| ["--set", s.as_str()]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?);
        let mut child = command.spawn()?;
        let failed = |why: &str| LabError::strange(format!("the node {} {why}: {}", host.name, tail(&log)));
        let ready = first_line(&mut child).ok_or_else(|| failed("is not ready"));
        let said: Value = match ready.map(|line| serde_json::from_str(&line)) {
            Ok(Ok(said)) => said,
            other => {
                end(&mut child);
                return Err(other.err().unwrap_or_else(|| failed("says no JSON")));
            }
        };
        let Some(key) = said["key"].as_str().map(str::to_owned) else {
            end(&mut child);
            return Err(failed(&format!("says {said}")));
        };
        Ok(Node {
            name: host.name.clone(),
            key,
            port,
            product: self.clone(),
            netns: host.netns.clone(),
            dir,
            child,
        })
    }
}

/// The first line of a child's standard output, if it comes in time. The rest is read and thrown away, so that it does
/// not fill the pipe.
fn first_line(child: &mut Child) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Only the first is waited for.
            let _late = send.send(line);
        }
    });
    receive.recv_timeout(READY_WITHIN).ok()
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// A running node.
pub struct Node {
    /// For people.
    pub name: String,
    /// Its public key.
    pub key: String,
    /// Its QUIC port.
    pub port: u16,
    product: Product,
    netns: Netns,
    dir: PathBuf,
    child: Child,
}

impl Node {
    /// Asks by the command line, inside the node's namespace.
    pub fn ask(&self, args: &[&str]) -> Result<Value, LabError> {
        self.ask_within(args, ANSWER_WITHIN)
    }

    fn ask_within(&self, args: &[&str], limit: Duration) -> Result<Value, LabError> {
        let text = self.said(args, limit)?;
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .map_err(|e| LabError::strange(format!("{} {args:?}: {e}: {last}", self.name)))
    }

    /// Whether its record can be found.
    fn is_published(&self) -> Result<bool, LabError> {
        Ok(!self.ask(&["status"])?["record"].is_null())
    }

    /// Waits until others can find it, at the longest until `deadline`.
    pub fn wait_until_published(&self, deadline: Instant) -> Result<bool, LabError> {
        while !self.is_published()? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(true)
    }

    /// Connects to a peer by key alone; what it says of it, or why it could not.
    pub fn connect(&self, key: &str) -> Result<Value, LabError> {
        self.ask_within(&["peers", "connect", key], CONNECTED_WITHIN)
    }

    /// Whether it has ever heard of a peer.
    pub fn knows(&self, key: &str) -> Result<bool, LabError> {
        let all = self.ask(&["peers", "list"])?;
        Ok(all["peers"].as_array().is_some_and(|all| all.iter().any(|p| p["key"] == key)))
    }

    /// What it says of a peer.
    pub fn peer(&self, key: &str) -> Result<PeerSeen, LabError> {
        Ok(PeerSeen::of(&self.ask(&["peers", "show", key])?))
    }

    /// Watches what it says of a peer.
    pub fn watch(&self, key: &str, every: Duration) -> Result<Watch, LabError> {
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name)).map(|s| s.trim().to_owned());
        Watch::start(&self.netns, &read("api-address")?, &read("api-token")?, key, every)
    }

    /// Offers the service that digests what it is sent.
    pub fn offer_digest(&self) -> Result<(), LabError> {
        let module = self.dir.join("lab-digest.wat");
        std::fs::write(&module, include_str!("digest.wat"))?;
        self.ask(&[
            "service",
            "add",
            "wasm",
            "--name",
            "lab-digest",
            "--time-s",
            "3600",
            &module.to_string_lossy(),
        ])
        .map(|_| ())
    }

    /// Sends a file to a peer that digests it; the run. It goes on by itself.
    pub fn send(&self, file: &Path, peer: &str) -> Result<String, LabError> {
        let workflow = self.dir.join("send.yaml");
        let text = format!(
            "name: lab\nnodes:\n  bulk: {{ source: {{ files: [{}] }} }}\n  digest: {{ task: {{ service: lab-digest, \
             peer: {peer}, retries: 0, timeout: 1h }} }}\n  seen: {{ sink: {{}} }}\nedges:\n  - bulk.out -> digest.stdin\n  \
             - digest.stdout -> seen.in\n",
            file.display()
        );
        std::fs::write(&workflow, text)?;
        let run = ["workflow", "run", "--detach", &workflow.to_string_lossy()];
        let answer = self.ask_within(&run, TAKEN_IN_WITHIN)?;
        answer["run"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| LabError::strange(format!("a run without a name: {answer}")))
    }

    /// Waits for the end of a run; the digest that the peer sent back.
    pub fn digest_of(&self, run: &str, limit: Duration) -> Result<[u8; 8], LabError> {
        let deadline = Instant::now() + limit;
        loop {
            let view = self.ask(&["runs", "show", run])?;
            if view["terminal"] == Value::Bool(true) {
                if view["state"] != "succeeded" {
                    return Err(LabError::strange(format!(
                        "the transfer {}: {}",
                        view["state"], view["why"]
                    )));
                }
                break;
            }
            if Instant::now() >= deadline {
                return Err(LabError::Slow { what: "the transfer".to_owned(), seconds: limit.as_secs() });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let out = self.dir.join(format!("results-{run}"));
        self.said(&["runs", "fetch", run, "--output", &out.to_string_lossy()], ANSWER_WITHIN)?;
        let bytes = std::fs::read(out.join("seen-0"))?;
        bytes.try_into().map_err(|_| LabError::strange("the digest has not eight bytes"))
    }

    /// What the command line prints.
    fn said(&self, args: &[&str], limit: Duration) -> Result<String, LabError> {
        let mut command = self.netns.command(&self.product.binary);
        command.arg("--json").arg("--data-dir").arg(&self.dir).args(args);
        finish(command, None, limit)
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        end(&mut self.child);
    }

    /// Bytes it has passed on as a relay.
    pub fn passed_on(&self) -> Result<u64, LabError> {
        Ok(self.ask(&["relay", "stats"])?["usage"]["bytes_out"].as_u64().unwrap_or(0))
    }

    /// The end of what it logged.
    pub fn last_words(&self) -> String {
        tail(&self.dir.join("log"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The way packets go to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From socket to socket.
    Direct,
    /// Through at least one other node.
    Relayed,
}

/// What a node says of a peer at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerSeen {
    /// The way, if there is a connection.
    pub way: Option<Way>,
    /// Since when there is this connection, in milliseconds since 1970.
    pub since: u64,
    /// Bytes received on it.
    pub received: u64,
    /// Where packets go.
    pub place: Option<String>,
    /// Everything about the way and the trouble, for reports and to find names in.
    pub words: String,
}

impl PeerSeen {
    /// Reads an answer of `peers show --json`.
    pub fn of(peer: &Value) -> Self {
        let connected = matches!(peer["state"].as_str(), Some("connected" | "idle" | "stale"));
        let way = match peer["path"]["kind"].as_str() {
            Some("direct") => Some(Way::Direct),
            // Relayed or tunnelled; "lost" is no way.
            Some(kind) if kind != "lost" => Some(Way::Relayed),
            // Without a path the address tells: packets through a relay come from none.
            None if peer["path"].is_null() && peer["addr"].is_null() => Some(Way::Relayed),
            None if peer["path"].is_null() => Some(Way::Direct),
            Some(_) | None => None,
        };
        Self {
            way: way.filter(|_| connected),
            since: peer["since"].as_u64().unwrap_or(0),
            received: peer["bytes_received"].as_u64().unwrap_or(0),
            place: peer["path"]["place"].as_str().or(peer["addr"].as_str()).map(str::to_owned),
            words: format!("{} {} {}", peer["path"], peer["addr"], peer["trouble"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ways_are_read_from_both_forms_of_the_answer() {
        let way = |peer: Value| PeerSeen::of(&peer).way;
        assert_eq!(way(json!({"state": "idle", "addr": "198.18.1.2:4433"})), Some(Way::Direct));
        assert_eq!(way(json!({"state": "idle", "addr": null})), Some(Way::Relayed));
        assert_eq!(way(json!({"state": "closed", "addr": null})), None);
        assert_eq!(way(json!({"state": "connected", "path": {"kind": "relayed"}})), Some(Way::Relayed));
        assert_eq!(way(json!({"state": "connected", "path": {"kind": "direct"}})), Some(Way::Direct));
        assert_eq!(way(json!({"state": "closed", "path": {"kind": "direct"}})), None);
    }
}
