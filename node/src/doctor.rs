//! `remote-network doctor`: what is wrong here, and the command that mends it.

use crate::config::Settings;
use crate::ports::docker::client::Client;
use crate::ports::engine::{EngineBlobs, EngineConfig, EnginePort};
use crate::ports::native::{self, NativeConfig, NativePort};
use crate::ports::net::usable_here;
use remote_network_core::id::Digest;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether a node cannot run like this.
    pub fatal: bool,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub mend: Option<String>,
}

/// Free space below this is soon full.
const DISK_WANTED: u64 = 1 << 30;
/// A clock before this moment (2025-01-01) was never set.
const CLOCK_FLOOR: u64 = 1_735_689_600;

/// Looks at everything a node needs. `running`: what the node that runs here answers to `GET /relay`.
pub fn examine(s: &Settings, running: Option<&Value>) -> Vec<Finding> {
    let first = [data_dir(&s.data_dir), disk(&s.data_dir), udp_port(s), udp_buffers(s), clock(), dht(s)];
    let reach = [addresses(s), relay(s, running)].into_iter().chain(relay_port(s));
    first.into_iter().chain(reach).chain([jobs(s), engine(), programs(), containers(s)]).collect()
}

fn finding(check: &'static str, ok: bool, fatal: bool, found: String, mend: Option<String>) -> Finding {
    Finding { check, ok, fatal, found, mend }
}

fn data_dir(dir: &Path) -> Finding {
    let probe = dir.join(".doctor");
    let written = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::File::create(&probe))
        .and_then(|mut f| f.write_all(b"x").and_then(|()| f.sync_all()))
        .and_then(|()| std::fs::remove_file(&probe));
    match written {
        Ok(()) => finding("data directory", true, true, format!("{} can be written", dir.display()), None),
        Err(e) => finding(
            "data directory",
            false,
            true,
            format!("{} cannot be written: {e}", dir.display()),
            Some(format!("sudo chown -R \"$USER\" {}   (or choose another with --data-dir)", dir.display())),
        ),
    }
}

fn disk(dir: &Path) -> Finding {
    match rustix::fs::statvfs(dir) {
        Ok(v) => {
            let free = v.f_bavail.saturating_mul(v.f_frsize);
            let found = format!("{} MiB free", free >> 20);
            let mend = "free some space, or set `blobs_quota_bytes` lower".to_owned();
            finding("disk", free >= DISK_WANTED, false, found, Some(mend))
        }
        Err(e) => finding("disk", false, false, format!("cannot be measured: {e}"), None),
    }
}

fn udp_port(s: &Settings) -> Finding {
    let addr = SocketAddr::new(s.listen, s.quic_port);
    match UdpSocket::bind(addr) {
        Ok(_) => finding("UDP port", true, false, format!("{addr} is free"), None),
        Err(e) => {
            let mend = "if no node runs here, choose another with `quic_port`".to_owned();
            finding("UDP port", false, false, format!("{addr} cannot be had: {e}"), Some(mend))
        }
    }
}

/// Smaller buffers than the node asks for lose packets at a few hundred Mbit/s; a relay asks for more.
fn udp_buffers(s: &Settings) -> Finding {
    let wanted = u64::try_from(s.socket_buffer_bytes()).unwrap_or(u64::MAX);
    let read = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?.trim().parse().ok()
    };
    match (read("rmem_max"), read("wmem_max")) {
        (Some(r), Some(w)) => {
            let mend = format!("sudo sysctl -w net.core.rmem_max={wanted} net.core.wmem_max={wanted}");
            let ok = r.min(w) >= wanted;
            let found = format!("at most {r} B received, {w} B sent; {wanted} B wanted");
            finding("UDP buffers", ok, false, found, Some(mend))
        }
        _ => finding("UDP buffers", true, false, "not told by this system".into(), None),
    }
}

fn clock() -> Finding {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mend = "sudo timedatectl set-ntp true".to_owned();
    finding("clock", now >= CLOCK_FLOOR, true, format!("{now} s since 1970"), Some(mend))
}

fn dht(s: &Settings) -> Finding {
    use crate::config::DhtModeKey;
    match s.dht_mode {
        DhtModeKey::Off => finding(
            "DHT",
            false,
            false,
            "switched off: peers are found only by address".into(),
            Some("set `dht_mode = \"public\"`, or \"private\" with `dht_bootstrap`".into()),
        ),
        DhtModeKey::Private if s.dht_bootstrap.is_empty() && !s.dht_seed => finding(
            "DHT",
            false,
            false,
            "private, without a bootstrap and not a seed: it will be alone".into(),
            Some("set `dht_bootstrap` to the network's seeds, or `dht_seed = true`".into()),
        ),
        DhtModeKey::Private => {
            finding("DHT", true, false, format!("private, {} bootstrap node(s)", s.dht_bootstrap.len()), None)
        }
        DhtModeKey::Public => finding("DHT", true, false, "public Mainline DHT".into(), None),
    }
}

fn relay(s: &Settings, running: Option<&Value>) -> Finding {
    let told = |ok, found: String, mend: Option<String>| finding("relay", ok, false, found, mend);
    let sees = |field: &str| running.is_some_and(|r| r[field] == Value::Bool(true));
    // A flag may have told the node that runs more than the configuration says.
    if !s.relay && !sees("willing") {
        return told(true, "this node is no relay (`relay = false`)".into(), None);
    }
    let Some(running) = running else {
        let found = "configured; whether others can reach it shows once the node runs";
        return told(true, found.into(), None);
    };
    if !sees("willing") {
        let mend = "stop the node and start it again".to_owned();
        return told(false, "configured, but the node that runs was started without it".into(), Some(mend));
    }
    if !sees("proven") {
        let mend = format!(
            "let UDP port {} through the firewall, and have the router forward it to this machine",
            s.quic_port
        );
        return told(false, "willing, but nobody has reached it from outside yet".into(), Some(mend));
    }
    let number = |field: &str| running[field].as_u64().unwrap_or(0);
    let sessions = number("reserved") + number("visitors");
    told(true, format!("relaying: {sessions} of {} sessions", number("sessions_max")), None)
}

fn addresses(s: &Settings) -> Finding {
    let private_network = s.dht_mode == crate::config::DhtModeKey::Private || s.publish_private_addrs;
    match usable_here(SocketAddr::new(s.listen, s.quic_port), private_network) {
        Ok(here) => {
            let mend = "connect this machine to a network, or set `listen` to \"::\"".to_owned();
            let beyond = here.iter().any(|a| !a.ip().is_loopback());
            let ok = s.listen.is_loopback() || beyond;
            let all: Vec<String> = here.iter().map(ToString::to_string).collect();
            let asks = if s.port_mapping && beyond { "; the router is asked for a port" } else { "" };
            finding("addresses", ok, false, format!("{}{asks}", all.join(", ")), Some(mend))
        }
        Err(e) => finding("addresses", false, false, format!("cannot be listed: {e}"), None),
    }
}

/// Only where it is to be listened on.
fn relay_port(s: &Settings) -> Option<Finding> {
    let addr = SocketAddr::new(s.listen, s.quic_port);
    let tried = s.takes_tunnels().then(|| TcpListener::bind(addr))?;
    Some(match tried {
        Ok(_) => finding("relay port", true, false, format!("TCP {addr} is free"), None),
        Err(e) => {
            let mend =
                "if no node runs here, choose another `quic_port`, or set `relay_tcp` to false".to_owned();
            finding("relay port", false, false, format!("TCP {addr} cannot be had: {e}"), Some(mend))
        }
    })
}

fn jobs(s: &Settings) -> Finding {
    let found = if s.accept_jobs {
        format!("jobs of peers are taken, {} at once", s.jobs_running_max)
    } else {
        "jobs of peers are refused (`accept_jobs = false`)".to_owned()
    };
    finding("jobs", true, false, found, None)
}

/// An object store with nothing in it: the engine is only asked how it locks its workers in.
struct NoBlobs;

impl EngineBlobs for NoBlobs {
    fn open(&self, _: &Digest) -> io::Result<File> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn import(&self, _: &mut dyn io::Read) -> io::Result<(Digest, u64)> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Starts a worker the way a job does, and tells what holds it.
fn engine() -> Finding {
    let probe = || -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let (events, _none) = async_channel::bounded(1);
        let engine = EnginePort::start(EngineConfig::beneath(dir.path())?, Arc::new(NoBlobs), events)?;
        Ok(engine.confinement().into_iter().map(str::to_owned).collect())
    };
    match probe() {
        Ok(walls) => {
            let strong =
                ["seccomp", "landlock"].iter().all(|w| walls.iter().any(|h| h.to_lowercase().contains(w)));
            let mend =
                "jobs of strangers are safer on a kernel with seccomp and Landlock (Linux 5.13 or newer)";
            finding(
                "engine",
                strong,
                false,
                format!("guests are held by {}", walls.join(", ")),
                Some(mend.into()),
            )
        }
        Err(e) => finding("engine", false, false, format!("workers cannot be started: {e}"), None),
    }
}

/// Builds the walls of a native program the way a job does, and tells what stands.
fn programs() -> Finding {
    let probe = || -> io::Result<NativePort> {
        let dir = tempfile::tempdir()?;
        let (events, _none) = async_channel::bounded(1);
        NativePort::start(NativeConfig::beneath(dir.path())?, Arc::new(NoBlobs), events)
    };
    match probe() {
        Ok(port) => match port.handle().offered() {
            Ok(walls) => {
                let found =
                    format!("native programs of {} are held by {}", native::elf::here(), walls.join("; "));
                finding("programs", true, false, found, None)
            }
            // Only for those who offer such services; without them all else works.
            Err(why) => {
                finding("programs", true, false, format!("native programs are not offered: {why}"), None)
            }
        },
        Err(e) => finding("programs", false, false, format!("the sandbox cannot be tried: {e}"), None),
    }
}

/// Containers are for those who offer container services; without an engine all else works.
fn containers(s: &Settings) -> Finding {
    let asked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())
        .and_then(|runtime| runtime.block_on(Client::connect(&s.docker_host)).map_err(|e| e.to_string()));
    match asked {
        Ok(client) => finding("containers", true, false, client.about, None),
        Err(why) => finding("containers", true, false, format!("not offered: {why}"), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_relay_is_told_what_keeps_it_from_relaying() {
        let s = Settings { relay: true, ..Settings::default() };
        let seen = |willing, proven| json!({"willing": willing, "proven": proven, "reserved": 2, "visitors": 1, "sessions_max": 9});
        assert!(relay(&Settings::default(), None).ok);
        assert!(relay(&Settings::default(), Some(&seen(true, true))).found.contains("3 of 9"));
        assert!(relay(&s, None).found.contains("once the node runs"));
        let restarted = relay(&s, Some(&seen(false, false)));
        assert!(!restarted.ok && restarted.found.contains("started without it"), "{restarted:?}");
        let hidden = relay(&s, Some(&seen(true, false)));
        assert!(!hidden.ok && !hidden.fatal && hidden.mend.unwrap().contains("UDP port 30906"));
        assert_eq!(relay(&s, Some(&seen(true, true))).found, "relaying: 3 of 9 sessions");
    }

    #[test]
    fn a_relay_wants_larger_buffers() {
        let wanted = |relay| udp_buffers(&Settings { relay, ..Settings::default() }).found;
        // A system without these files tells nothing.
        if Path::new("/proc/sys/net/core/rmem_max").exists() {
            assert!(wanted(false).ends_with("2097152 B wanted"), "{}", wanted(false));
            assert!(wanted(true).ends_with("8388608 B wanted"), "{}", wanted(true));
        }
    }
}
