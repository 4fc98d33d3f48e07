//! The table of keys: one row each, and nothing about a key anywhere else.

use super::relays::RELAYS_MAX;
use super::source::Raw;
use super::{DhtBackendKey, DhtModeKey, DhtPortKey, DriverKey, MdnsKey, RelayAt, Settings};
use remote_network_core::limits;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A key of the configuration.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Words for people, one line each.
    pub(super) doc: &'static [&'static str],
    /// Reads a raw value; the error says what it must be.
    pub(super) read: fn(&mut Settings, &Raw) -> Result<(), String>,
    /// The value as TOML.
    pub(super) show: fn(&Settings) -> String,
}

/// Smallest limit of a rate, in bytes a second.
const RATE_MIN: i128 = 10_000;
/// Largest one: more than any network card carries.
const RATE_MAX: i128 = 1_000_000_000_000;

/// Names that are kept for later and why they have no effect in this version.
pub(super) const RESERVED: &[(&str, &str)] = &[
    ("gossip_fanout", "this version has no gossip"),
    ("initial_trust_score", "this version keeps no trust scores"),
    ("trust_decay_rate", "this version keeps no trust scores"),
    ("min_trust_threshold", "this version keeps no trust scores"),
];

macro_rules! key {
    ($name:ident, $read:expr, $show:expr, $($doc:literal),+) => {
        Key {
            name: stringify!($name),
            doc: &[$($doc),+],
            read: |settings, raw| {
                settings.$name = $read(raw)?;
                Ok(())
            },
            show: |settings| $show(&settings.$name),
        }
    };
}

/// All keys, in the order of the generated file.
pub(super) const KEYS: &[Key] = &[
    key!(
        data_dir,
        path,
        quoted_path,
        "Where the node keeps its key, its journal and its objects. One node per directory."
    ),
    key!(
        passphrase_file,
        optional_path,
        optional_quoted_path,
        "File with the passphrase of the keystore (mode 0600). Empty: the variable REMOTE_NETWORK_PASSPHRASE, else a prompt."
    ),
    key!(
        listen,
        parsed::<IpAddr>("an IP address"),
        quoted,
        "Address the QUIC socket is bound to; \"::\" takes IPv4 and IPv6."
    ),
    key!(quic_port, number(0, 65_535), shown, "UDP port of QUIC; 0: any free one."),
    key!(
        dht_port,
        dht_port,
        dht_port_name,
        "UDP port of the DHT; 0: any free one; \"shared\": QUIC's socket (with the native backend), so that one port is",
        "open, and what the DHT learns of it holds for QUIC."
    ),
    key!(
        api_port,
        number(0, 65_535),
        shown,
        "TCP port of the web page and the API on this machine; 0: any free one."
    ),
    key!(driver, driver, driver_name, "The runtime under the core: \"tokio\" or \"smol\"."),
    key!(
        log,
        log_filter,
        quoted,
        "What is logged: error, warn, info, debug, trace, or a filter such as \"info,mainline=off\"."
    ),
    key!(topics, topics, quoted_list, "Names of the networks the node meets others in."),
    key!(
        dht_mode,
        dht_mode,
        dht_mode_name,
        "\"public\": a client of the BitTorrent Mainline DHT. \"private\": the network's own nodes (dht_bootstrap).",
        "\"off\": no DHT; peers are found by address only."
    ),
    key!(
        dht_backend,
        dht_backend,
        dht_backend_name,
        "\"native\": the DHT node of this program. \"mainline\": the mainline crate, IPv4 only. \"auto\": native in private",
        "networks and where mainline cannot do what is asked (a shared port, IPv6), mainline for the public DHT."
    ),
    key!(dht_seed, boolean, shown, "Whether this node is a seed of a private DHT: others bootstrap from it."),
    key!(
        dht_bootstrap,
        hosts,
        quoted_list,
        "host:port of the nodes to start from. Empty in the public mode: the well-known ones."
    ),
    key!(
        dht_bind,
        parsed::<IpAddr>("an IP address"),
        quoted,
        "Address the DHT's socket is bound to; \"::\" takes IPv4 and IPv6 (mainline: IPv4)."
    ),
    key!(
        network_monitor_interval,
        number(1, 3_600),
        shown,
        "Seconds between two looks at the machine's addresses where the system does not tell of changes (Linux does)."
    ),
    key!(
        port_mapping,
        boolean,
        shown,
        "Whether the router is asked to forward the QUIC port to this machine (PCP, NAT-PMP, UPnP-IGD)."
    ),
    key!(
        mdns,
        mdns,
        mdns_name,
        "Whether peers on the same link are looked for by mDNS, which also announces this node's key there. \"auto\":",
        "unless the node listens on loopback only."
    ),
    key!(
        relay_tcp,
        boolean,
        shown,
        "Whether a relay also listens at the TCP port of the same number as `quic_port`, where peers whose network lets no",
        "UDP through reach it by WebSocket over TLS."
    ),
    key!(
        public,
        boolean,
        shown,
        "Whether the node is reachable from everywhere at the addresses it publishes."
    ),
    key!(
        public_addrs,
        addresses,
        quoted_list,
        "ip:port addresses to publish. Empty: those that peers observe."
    ),
    key!(publish_private_addrs, boolean, shown, "Whether addresses of the local network are published too."),
    key!(
        max_peers,
        number(1, limits::LINKS_MAX as i128),
        shown,
        "Connected peers at the most; those with jobs or transfers may be more."
    ),
    key!(
        min_peers,
        number(0, limits::LINKS_MAX as i128),
        shown,
        "Connected peers below which more are looked for."
    ),
    key!(
        known_peers_max,
        number(16, 1_000_000),
        shown,
        "Peers remembered, connected or not: about 400 bytes each, in memory and on the disk."
    ),
    key!(
        quic_idle_timeout,
        number(10, 86_400),
        shown,
        "Seconds after which a connection without activity is closed."
    ),
    key!(
        metadata_republish_interval,
        number(60, 7_200),
        shown,
        "Seconds between two publications of the node's record; the DHT forgets it after about two hours."
    ),
    key!(discovery_interval, number(5, 3_600), shown, "Seconds between two searches for peers in the DHT."),
    key!(accept_jobs, boolean, shown, "Whether jobs of other peers are run here."),
    key!(jobs_running_max, number(1, 1_024), shown, "Jobs that run at once."),
    key!(
        docker_host,
        plain_text,
        quoted,
        "Where the Docker engine of container services is, such as unix:///run/docker.sock. Empty: as DOCKER_HOST says, or",
        "its usual place."
    ),
    key!(
        blobs_quota_bytes,
        number(1 << 20, limits::OBJECT_BYTES_MAX as i128 * 1_024),
        shown,
        "Bytes that stored objects may take on the disk."
    ),
    key!(
        relays,
        relays,
        quoted_list,
        "Relays to use before any other, each \"key_…@host:port\". Names of hosts are looked up when the node starts.",
        "Empty: the relays that peers and records tell of."
    ),
    key!(
        birthday_probing,
        boolean,
        shown,
        "Whether many sockets may be opened, and many ports tried, for a direct path through a NAT that chooses ports at",
        "random. Some networks take that for a flood: false goes through a relay there."
    ),
    key!(
        relay,
        boolean,
        shown,
        "Whether this node relays for others once one of them has shown that it can be reached from outside."
    ),
    key!(
        relay_max_sessions,
        number(1, 100_000),
        shown,
        "As a relay: sessions at the most, reservations and visitors together."
    ),
    key!(
        relay_sessions_per_address,
        number(1, 100_000),
        shown,
        "As a relay: sessions of one address (IPv6: of one /64); peers behind one NAT share it."
    ),
    key!(
        relay_session_rate,
        rate,
        shown,
        "As a relay: bytes a second that one session may send; 0: no limit."
    ),
    key!(
        relay_address_rate,
        rate,
        shown,
        "As a relay: bytes a second that all sessions of one address may send; 0: no limit."
    ),
    key!(relay_total_rate, rate, shown, "As a relay: bytes a second that are passed on in all; 0: no limit."),
    key!(
        relay_price,
        number(0, u32::MAX as i128),
        shown,
        "As a relay: price that is told to others, in micro-units per GiB; 0: free."
    ),
    key!(
        relay_keepalive_interval,
        number(1, 25),
        shown,
        "As a relay: seconds between two signs of life that its clients are asked for. Mappings of NATs may end after 30."
    ),
];

fn number<T: TryFrom<i128>>(min: i128, max: i128) -> impl Fn(&Raw) -> Result<T, String> {
    move |raw| {
        let value = match raw {
            Raw::Integer(i) => Some(*i),
            Raw::Text(t) => t.trim().parse().ok(),
            Raw::String(_) | Raw::Boolean(_) | Raw::List(_) | Raw::Other(_) => None,
        };
        value
            .filter(|v| (min..=max).contains(v))
            .and_then(|v| T::try_from(v).ok())
            .ok_or_else(|| format!("a whole number from {min} to {max}"))
    }
}

/// Bytes a second. Below the smallest, not even a handshake gets through in reasonable time.
fn rate(raw: &Raw) -> Result<u64, String> {
    let wanted = || format!("0 or a whole number from {RATE_MIN} to {RATE_MAX}");
    let rate = number(0, RATE_MAX)(raw).map_err(|_| wanted())?;
    if rate == 0 || i128::from(rate) >= RATE_MIN { Ok(rate) } else { Err(wanted()) }
}

fn boolean(raw: &Raw) -> Result<bool, String> {
    match raw {
        Raw::Boolean(b) => Ok(*b),
        Raw::Text(t) => t.trim().parse().map_err(|_| "true or false".to_owned()),
        Raw::String(_) | Raw::Integer(_) | Raw::List(_) | Raw::Other(_) => Err("true or false".to_owned()),
    }
}

fn plain_text(raw: &Raw) -> Result<String, String> {
    text(raw).map(str::to_owned)
}

fn text(raw: &Raw) -> Result<&str, String> {
    match raw {
        Raw::String(t) | Raw::Text(t) => Ok(t),
        Raw::Boolean(_) | Raw::Integer(_) | Raw::List(_) | Raw::Other(_) => Err("text".to_owned()),
    }
}

fn list(raw: &Raw) -> Result<Vec<String>, String> {
    match raw {
        Raw::List(items) => Ok(items.clone()),
        Raw::Text(t) if t.trim().is_empty() => Ok(Vec::new()),
        Raw::Text(t) => Ok(t.split(',').map(|item| item.trim().to_owned()).collect()),
        Raw::String(_) | Raw::Boolean(_) | Raw::Integer(_) | Raw::Other(_) => {
            Err("a list of texts".to_owned())
        }
    }
}

fn parsed<T: FromStr>(wanted: &'static str) -> impl Fn(&Raw) -> Result<T, String> {
    move |raw| text(raw).ok().and_then(|t| t.parse().ok()).ok_or_else(|| wanted.to_owned())
}

fn path(raw: &Raw) -> Result<PathBuf, String> {
    optional_path(raw)?.ok_or_else(|| "the name of a directory".to_owned())
}

/// A path; `~/` is the home directory, as a shell would have it.
fn optional_path(raw: &Raw) -> Result<Option<PathBuf>, String> {
    let text = text(raw).map_err(|_| "a path".to_owned())?;
    if text.contains('\0') {
        return Err("a path without zero bytes".to_owned());
    }
    let home = || std::env::var_os("HOME").map(PathBuf::from);
    Ok(match text.strip_prefix("~/").and_then(|rest| Some(home()?.join(rest))) {
        Some(path) => Some(path),
        None if text.is_empty() => None,
        None => Some(PathBuf::from(text)),
    })
}

fn log_filter(raw: &Raw) -> Result<String, String> {
    let wanted = || "a level (error, warn, info, debug, trace, off) or a filter".to_owned();
    let text = text(raw).map_err(|_| wanted())?;
    let readable = !text.is_empty() && tracing_subscriber::EnvFilter::builder().parse(text).is_ok();
    // The filter takes any single word for the name of a module; a misspelt level would then log nothing.
    let level =
        text.contains(['=', ',', '[']) || text.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    if readable && level { Ok(text.to_owned()) } else { Err(wanted()) }
}

fn topics(raw: &Raw) -> Result<Vec<String>, String> {
    let wanted = "1 to 8 names of 1 to 64 bytes without control characters";
    let topics = list(raw).map_err(|_| wanted.to_owned())?;
    let fits = |t: &String| (1..=64).contains(&t.len()) && !t.chars().any(char::is_control);
    if (1..=8).contains(&topics.len()) && topics.iter().all(fits) {
        Ok(topics)
    } else {
        Err(wanted.to_owned())
    }
}

fn hosts(raw: &Raw) -> Result<Vec<String>, String> {
    let wanted = "a list of at most 64 host:port";
    let hosts = list(raw).map_err(|_| wanted.to_owned())?;
    let names_a_port = |h: &String| {
        h.rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
    };
    if hosts.len() <= 64 && hosts.iter().all(names_a_port) { Ok(hosts) } else { Err(wanted.to_owned()) }
}

fn addresses(raw: &Raw) -> Result<Vec<SocketAddr>, String> {
    let wanted = || "a list of at most 8 ip:port".to_owned();
    let items = list(raw).map_err(|_| wanted())?;
    let addresses: Option<Vec<SocketAddr>> = items.iter().map(|a| a.parse().ok()).collect();
    let usable = |a: &SocketAddr| a.port() != 0 && !a.ip().is_unspecified();
    addresses.filter(|all| all.len() <= 8 && all.iter().all(usable)).ok_or_else(wanted)
}

fn relays(raw: &Raw) -> Result<Vec<RelayAt>, String> {
    let wanted = || format!("a list of at most {RELAYS_MAX} \"key_…@host:port\"");
    let items = list(raw).map_err(|_| wanted())?;
    let relays: Option<Vec<RelayAt>> = items.iter().map(|r| r.parse().ok()).collect();
    relays.filter(|all| all.len() <= RELAYS_MAX).ok_or_else(wanted)
}

fn dht_mode(raw: &Raw) -> Result<DhtModeKey, String> {
    match text(raw) {
        Ok("public") => Ok(DhtModeKey::Public),
        Ok("private") => Ok(DhtModeKey::Private),
        Ok("off") => Ok(DhtModeKey::Off),
        _ => Err("\"public\", \"private\" or \"off\"".to_owned()),
    }
}

fn dht_mode_name(mode: &DhtModeKey) -> String {
    quoted(match mode {
        DhtModeKey::Public => "public",
        DhtModeKey::Private => "private",
        DhtModeKey::Off => "off",
    })
}

fn dht_backend(raw: &Raw) -> Result<DhtBackendKey, String> {
    match text(raw) {
        Ok("auto") => Ok(DhtBackendKey::Auto),
        Ok("native") => Ok(DhtBackendKey::Native),
        Ok("mainline") => Ok(DhtBackendKey::Mainline),
        _ => Err("\"auto\", \"native\" or \"mainline\"".to_owned()),
    }
}

fn dht_backend_name(backend: &DhtBackendKey) -> String {
    quoted(match backend {
        DhtBackendKey::Auto => "auto",
        DhtBackendKey::Native => "native",
        DhtBackendKey::Mainline => "mainline",
    })
}

fn dht_port(raw: &Raw) -> Result<DhtPortKey, String> {
    if text(raw) == Ok("shared") {
        return Ok(DhtPortKey::Shared);
    }
    let port = number(0, 65_535)(raw).map_err(|wanted| format!("{wanted}, or \"shared\""))?;
    Ok(DhtPortKey::Own(port))
}

fn dht_port_name(port: &DhtPortKey) -> String {
    match port {
        DhtPortKey::Own(port) => port.to_string(),
        DhtPortKey::Shared => quoted("shared"),
    }
}

fn driver(raw: &Raw) -> Result<DriverKey, String> {
    match text(raw) {
        Ok("tokio") => Ok(DriverKey::Tokio),
        Ok("smol") => Ok(DriverKey::Smol),
        _ => Err("\"tokio\" or \"smol\"".to_owned()),
    }
}

fn driver_name(driver: &DriverKey) -> String {
    quoted(match driver {
        DriverKey::Tokio => "tokio",
        DriverKey::Smol => "smol",
    })
}

fn mdns(raw: &Raw) -> Result<MdnsKey, String> {
    if text(raw) == Ok("auto") {
        return Ok(MdnsKey::Auto);
    }
    match boolean(raw) {
        Ok(true) => Ok(MdnsKey::On),
        Ok(false) => Ok(MdnsKey::Off),
        Err(wanted) => Err(format!("{wanted}, or \"auto\"")),
    }
}

fn mdns_name(mdns: &MdnsKey) -> String {
    match mdns {
        MdnsKey::Auto => quoted("auto"),
        MdnsKey::On => "true".to_owned(),
        MdnsKey::Off => "false".to_owned(),
    }
}

fn shown<T: std::fmt::Display>(value: &T) -> String {
    value.to_string()
}

/// As a TOML string, whatever is in it.
fn quoted<T: std::fmt::Display + ?Sized>(value: &T) -> String {
    toml::Value::String(value.to_string()).to_string()
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.display())
}

fn optional_quoted_path(path: &Option<PathBuf>) -> String {
    path.as_deref().map_or_else(|| quoted(""), quoted_path)
}

fn quoted_list<T: std::fmt::Display>(list: &[T]) -> String {
    let items: Vec<String> = list.iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}
