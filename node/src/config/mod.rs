//! Configuration: a TOML file, then the environment, then flags; the later wins (SPEC 8.7).
//!
//! Every key is one row of one table (`keys`): its name, its words for people, how it is read and how it is shown.
//! File, environment, flags, the generated file and `effective` all come from that table, so that a key cannot exist
//! in one place and be missing in another. A key that would do nothing is not accepted: silence would be a lie.
//!
//! All problems of all sources are told at once, each with its place and its mend.

mod keys;
mod policy;
mod relays;
mod source;

pub use policy::policy_in;
pub use relays::{RelayAt, resolve_relays};
pub use source::{ConfigProblem, Place};

use keys::{KEYS, Key, RESERVED};
use remote_network_core::limits;
use remote_network_core::relay::server;
use remote_network_core::service::policy::Policy;
use source::{Given, suggestion};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// What every environment variable of a key begins with; the key follows in capitals.
pub const ENV_PREFIX: &str = "REMOTE_NETWORK_";

/// Which DHT the node takes part in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DhtModeKey {
    /// A client of the public Mainline DHT.
    Public,
    /// The network's own DHT, made of its nodes.
    Private,
    /// None.
    Off,
}

/// Who speaks to the DHT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DhtBackendKey {
    /// Our own node in private networks and where only it can do what is asked, else `mainline`.
    Auto,
    /// Our own node.
    Native,
    /// The `mainline` crate.
    Mainline,
}

/// Which UDP port the DHT has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DhtPortKey {
    /// This one; 0: any free one.
    Own(u16),
    /// QUIC's socket.
    Shared,
}

/// Whether peers on the same link are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MdnsKey {
    /// Unless the node listens on loopback only.
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

/// Which runtime drives the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DriverKey {
    /// tokio.
    Tokio,
    /// smol.
    Smol,
}

/// The node's settings. See [`generate`] for what each means.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each field is documented by its row of the table, which users read too")]
pub struct Settings {
    pub data_dir: PathBuf,
    pub passphrase_file: Option<PathBuf>,
    pub listen: IpAddr,
    pub quic_port: u16,
    pub dht_port: DhtPortKey,
    pub api_port: u16,
    pub driver: DriverKey,
    pub log: String,
    pub topics: Vec<String>,
    pub dht_mode: DhtModeKey,
    pub dht_backend: DhtBackendKey,
    pub dht_seed: bool,
    pub dht_bootstrap: Vec<String>,
    pub dht_bind: IpAddr,
    pub network_monitor_interval: u64,
    pub port_mapping: bool,
    pub mdns: MdnsKey,
    pub relay_tcp: bool,
    pub public: bool,
    pub public_addrs: Vec<SocketAddr>,
    pub publish_private_addrs: bool,
    pub max_peers: usize,
    pub min_peers: usize,
    pub known_peers_max: usize,
    pub quic_idle_timeout: u64,
    pub metadata_republish_interval: u64,
    pub discovery_interval: u64,
    pub accept_jobs: bool,
    pub jobs_running_max: usize,
    pub docker_host: String,
    pub blobs_quota_bytes: u64,
    pub relays: Vec<RelayAt>,
    pub birthday_probing: bool,
    pub relay: bool,
    pub relay_max_sessions: usize,
    pub relay_sessions_per_address: usize,
    pub relay_session_rate: u64,
    pub relay_address_rate: u64,
    pub relay_total_rate: u64,
    pub relay_price: u32,
    pub relay_keepalive_interval: u64,
    pub policy: Option<Policy>,
}

impl Settings {
    /// Whether our own node speaks to the DHT, `auto` resolved.
    pub fn dht_is_native(&self) -> bool {
        match self.dht_backend {
            DhtBackendKey::Native => true,
            DhtBackendKey::Mainline => false,
            DhtBackendKey::Auto => {
                self.dht_mode == DhtModeKey::Private
                    || self.dht_port == DhtPortKey::Shared
                    || self.dht_needs_ipv6()
            }
        }
    }

    /// Whether mDNS is used; `None`: unless the node listens on loopback only.
    pub fn mdns_wanted(&self) -> Option<bool> {
        match self.mdns {
            MdnsKey::Auto => None,
            MdnsKey::On => Some(true),
            MdnsKey::Off => Some(false),
        }
    }

    /// Whether peers may reach this node over TCP.
    pub fn takes_tunnels(&self) -> bool {
        self.relay && self.relay_tcp
    }

    /// Whether the DHT is bound to one address of IPv6.
    fn dht_needs_ipv6(&self) -> bool {
        self.dht_bind.is_ipv6() && !self.dht_bind.is_unspecified()
    }
}

impl Default for Settings {
    fn default() -> Self {
        let limits = server::Config::default();
        Self {
            data_dir: default_data_dir(
                std::env::var_os("XDG_DATA_HOME").map(PathBuf::from),
                std::env::var_os("HOME").map(PathBuf::from),
            ),
            passphrase_file: None,
            listen: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            quic_port: 30906,
            dht_port: DhtPortKey::Own(30609),
            api_port: 30069,
            driver: DriverKey::Tokio,
            log: "info".to_owned(),
            topics: vec!["remote-network-mesh".to_owned()],
            dht_mode: DhtModeKey::Public,
            dht_backend: DhtBackendKey::Auto,
            dht_seed: false,
            dht_bootstrap: Vec::new(),
            dht_bind: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            network_monitor_interval: 10,
            port_mapping: true,
            mdns: MdnsKey::Auto,
            relay_tcp: true,
            public: false,
            public_addrs: Vec::new(),
            publish_private_addrs: false,
            max_peers: limits::PEERS_MAX,
            min_peers: 5,
            known_peers_max: limits::KNOWN_PEERS_MAX,
            quic_idle_timeout: limits::IDLE_CLOSE_AFTER.as_secs(),
            metadata_republish_interval: 1800,
            discovery_interval: 30,
            accept_jobs: true,
            jobs_running_max: limits::JOBS_RUNNING_MAX,
            docker_host: String::new(),
            blobs_quota_bytes: 20 << 30,
            relays: Vec::new(),
            birthday_probing: true,
            relay: false,
            relay_max_sessions: limits.sessions_max,
            relay_sessions_per_address: limits.sessions_per_address_max,
            relay_session_rate: limits.session_rate,
            relay_address_rate: limits.address_rate,
            relay_total_rate: limits.total_rate,
            relay_price: limits.price,
            relay_keepalive_interval: limits.keepalive.as_secs(),
            policy: None,
        }
    }
}

/// `$XDG_DATA_HOME/remote-network`, else `~/.local/share/remote-network`. The XDG rules say that a relative
/// `XDG_DATA_HOME` is to be ignored.
fn default_data_dir(xdg: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    xdg.filter(|p| p.is_absolute())
        .or_else(|| home.map(|h| h.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("."))
        .join("remote-network")
}

/// Settings and where each value came from.
#[derive(Clone, Debug)]
pub struct Config {
    /// The values in force.
    pub settings: Settings,
    origins: BTreeMap<&'static str, Place>,
}

/// One line of `config show`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effective {
    /// The key.
    pub key: &'static str,
    /// Its value as TOML.
    pub value: String,
    /// Where it came from; `None`: the default.
    pub origin: Option<Place>,
}

impl Config {
    /// Every key with its value and its origin, in the order of the generated file.
    pub fn effective(&self) -> Vec<Effective> {
        let line = |key: &Key| Effective {
            key: key.name,
            value: (key.show)(&self.settings),
            origin: self.origins.get(key.name).cloned(),
        };
        KEYS.iter().map(line).collect()
    }
}

/// Reads all sources. `env` is the whole environment (`std::env::vars_os` turned to text where it is text); `flags`
/// are pairs of key and value as the command line gave them.
pub fn load(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
    flags: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, Vec<ConfigProblem>> {
    let mut problems = Vec::new();
    let mut given = Vec::new();
    let mut rules = None;
    if let Some(path) = file {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let before = problems.len();
                source::from_toml(path, &text, &mut given, &mut problems);
                if problems.len() == before {
                    rules = policy::from_toml(path, &text, &mut problems);
                }
            }
            Err(e) => problems.push(ConfigProblem {
                place: Place::File { path: path.to_owned(), line: 0 },
                what: format!("cannot be read: {e}"),
                mend: "name another file, or write one with `remote-network config generate`".into(),
            }),
        }
    }
    source::from_env(env, &mut given);
    source::from_flags(flags, &mut given);
    let mut config = resolve(given, problems)?;
    config.settings.policy = rules;
    Ok(config)
}

/// Checks one file alone.
pub fn check(path: &Path) -> Result<Config, Vec<ConfigProblem>> {
    load(Some(path), [], [])
}

/// A documented file in which every key stands with its default, commented out.
pub fn generate() -> String {
    let mut out = String::from(
        "# Configuration of remote-network. Lines that begin with # show the defaults.\n\
         # The environment (REMOTE_NETWORK_<KEY>) overrides this file, and flags override both.\n",
    );
    let defaults = Settings::default();
    for key in KEYS {
        out.push('\n');
        for line in key.doc {
            out.push_str(&format!("# {line}\n"));
        }
        out.push_str(&format!("#{} = {}\n", key.name, (key.show)(&defaults)));
    }
    out.push_str(policy::GENERATED);
    out
}

fn resolve(given: Vec<Given>, mut problems: Vec<ConfigProblem>) -> Result<Config, Vec<ConfigProblem>> {
    let mut settings = Settings::default();
    let mut origins = BTreeMap::new();
    for Given { key: name, place, raw } in given {
        let Some(key) = KEYS.iter().find(|k| k.name == name) else {
            problems.push(unknown(&name, place));
            continue;
        };
        match (key.read)(&mut settings, &raw) {
            Ok(()) => {
                origins.insert(key.name, place);
            }
            Err(wanted) => problems.push(ConfigProblem {
                place,
                what: format!("`{name}` is {raw}"),
                mend: format!(
                    "it must be {wanted}, for example `{name} = {}`",
                    (key.show)(&Settings::default())
                ),
            }),
        }
    }
    together(&settings, &origins, &mut problems);
    if problems.is_empty() { Ok(Config { settings, origins }) } else { Err(problems) }
}

fn unknown(name: &str, place: Place) -> ConfigProblem {
    if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
        return ConfigProblem {
            place,
            what: format!("`{name}` would do nothing: {why}"),
            mend: "remove it".into(),
        };
    }
    let mend = match suggestion(name) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "see `remote-network config generate` for all keys".into(),
    };
    ConfigProblem { place, what: format!("there is no key `{name}`"), mend }
}

/// What must hold between keys. The problem is placed at a key that was set by somebody.
fn together(settings: &Settings, origins: &BTreeMap<&'static str, Place>, problems: &mut Vec<ConfigProblem>) {
    let mut broken = |keys: &[&'static str], what: String, mend: &str| {
        let Some(place) = keys.iter().find_map(|k| origins.get(k)) else { return };
        problems.push(ConfigProblem { place: place.clone(), what, mend: mend.to_owned() });
    };
    let s = settings;
    if s.min_peers > s.max_peers {
        let what = format!("`min_peers` is {} and `max_peers` is {}", s.min_peers, s.max_peers);
        broken(&["min_peers", "max_peers"], what, "min_peers must not be above max_peers");
    }
    if DhtPortKey::Own(s.quic_port) == s.dht_port && s.quic_port != 0 && s.dht_mode != DhtModeKey::Off {
        let what = format!("`quic_port` and `dht_port` are both {}", s.quic_port);
        let mend = "both are UDP: choose different ports, or `dht_port = \"shared\"`";
        broken(&["quic_port", "dht_port"], what, mend);
    }
    if s.takes_tunnels() && s.quic_port == s.api_port && s.api_port != 0 {
        let what = format!("`quic_port` and `api_port` are both {}", s.api_port);
        let mend = "a relay listens there for TCP too: choose different ports, or `relay_tcp = false`";
        broken(&["quic_port", "api_port"], what, mend);
    }
    if s.dht_backend == DhtBackendKey::Mainline && s.dht_port == DhtPortKey::Shared {
        let what = "`dht_port` is \"shared\", which `dht_backend = \"mainline\"` cannot do".into();
        broken(&["dht_port"], what, "set dht_backend = \"native\", or give the DHT a port of its own");
    }
    if s.dht_backend == DhtBackendKey::Mainline && s.dht_needs_ipv6() {
        let what = format!("`dht_bind` is {}, and `dht_backend = \"mainline\"` has IPv4 only", s.dht_bind);
        broken(&["dht_bind"], what, "set dht_backend = \"native\", or bind to an IPv4 address");
    }
    if s.dht_mode == DhtModeKey::Private && !s.dht_seed && s.dht_bootstrap.is_empty() {
        broken(
            &["dht_mode"],
            "`dht_mode` is \"private\" without `dht_bootstrap`".into(),
            "list the network's seeds in dht_bootstrap, or make this node one with dht_seed = true",
        );
    }
    let any_port = match s.dht_port {
        DhtPortKey::Own(port) => port == 0,
        DhtPortKey::Shared => s.quic_port == 0,
    };
    if s.dht_seed && (s.dht_mode != DhtModeKey::Private || any_port) {
        broken(
            &["dht_seed"],
            "`dht_seed` is true, but a seed needs `dht_mode = \"private\"` and a fixed `dht_port`".into(),
            "set both, or remove dht_seed",
        );
    }
    if s.relays.iter().map(RelayAt::key).collect::<BTreeSet<_>>().len() != s.relays.len() {
        broken(&["relays"], "`relays` names one twice".into(), "name each key once, with one place");
    }
    if s.topics.iter().collect::<BTreeSet<_>>().len() != s.topics.len() {
        broken(&["topics"], "`topics` names one twice".into(), "remove the repeated one");
    }
}

#[cfg(test)]
mod tests;
