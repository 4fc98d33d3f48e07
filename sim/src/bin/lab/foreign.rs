//! Counterparts that are not ours: a STUN client that asks our relay, and a router's port mapper that our node asks.
//!
//! The port mapper (`miniupnpd`, UPnP-IGD, NAT-PMP and PCP) is first asked by clients of its own kind, so that a
//! failure of ours afterwards is ours.

use crate::agent::Agent;
use crate::internet::{Home, Host, Internet};
use crate::kind::Kind;
use crate::netns::{LabError, end, has};
use crate::product::{Product, QUIC_PORT, Role, Way};
use crate::stage::Stage;
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Port mappers refuse to work on outer addresses that are reserved, as all others of the lab are. Nothing here leaves
/// its namespaces, so any other will do.
const OUTER: Ipv4Addr = Ipv4Addr::new(46, 0, 1, 2);
const MAPPED_WITHIN: Duration = Duration::from_secs(15);

/// What became of an experiment.
#[derive(Debug, Serialize)]
pub struct Meeting {
    /// The experiment.
    pub name: &'static str,
    /// Whether it went well.
    pub ok: bool,
    /// What was seen.
    pub seen: String,
}

/// Names of the experiments.
pub const NAMES: [&str; 4] =
    ["foreign/stun", "foreign/mapper", "foreign/mapping-upnp", "foreign/mapping-natpmp"];

/// Why an experiment cannot be made here; `None`: it can.
pub fn missing(name: &str, product: Option<&Product>) -> Option<String> {
    let program = |program: &str, package: &str| {
        (!has(program)).then(|| format!("`{program}` is not installed (Debian: {package})"))
    };
    let binary = |able: fn(&Product) -> bool, what: &str| match product {
        None => Some("the product is not built".to_owned()),
        Some(product) if !able(product) => Some(format!("this binary has no {what}")),
        Some(_) => None,
    };
    match name {
        "foreign/stun" => {
            program("turnutils_stunclient", "coturn").or_else(|| binary(Product::has_relays, "relays"))
        }
        "foreign/mapper" => program("miniupnpd", "miniupnpd")
            .or_else(|| program("natpmpc", "natpmpc"))
            .or_else(|| program("upnpc", "miniupnpc")),
        _ => program("miniupnpd", "miniupnpd").or_else(|| binary(Product::has_port_mapping, "port mapping")),
    }
}

/// Makes one.
pub fn run(name: &'static str, product: Option<&Product>) -> Meeting {
    attempt(name, product).unwrap_or_else(|e| Meeting { name, ok: false, seen: e.to_string() })
}

fn attempt(name: &'static str, product: Option<&Product>) -> Result<Meeting, LabError> {
    let product = || product.ok_or_else(|| LabError::strange("the product is not built"));
    match name {
        "foreign/stun" => stun(product()?, name),
        "foreign/mapper" => mapper(name),
        "foreign/mapping-upnp" => mapping(product()?, name, Protocols { upnp: true, natpmp: false }),
        _ => mapping(product()?, name, Protocols { upnp: false, natpmp: true }),
    }
}

/// A foreign client behind a translator asks both relays, at the port of QUIC, where it is.
fn stun(product: &Product, name: &'static str) -> Result<Meeting, LabError> {
    let mut stage = Stage::new(product)?;
    let home = stage.internet.home("home", Kind::SymmetricRandom)?;
    let host = stage.internet.host("client", &home, 42)?;
    let mut seen = Vec::new();
    for relay in stage.hosts.iter().take(2) {
        let args = ["-p", &QUIC_PORT.to_string(), &relay.own.to_string()];
        let said = host.netns.tool("turnutils_stunclient", &args, None).unwrap_or_else(|e| e.to_string());
        let reflexive =
            said.lines().find_map(|l| l.split_once("reflexive addr: ").map(|(_, a)| a.trim().to_owned()));
        seen.push(reflexive.unwrap_or(said));
    }
    let outer = format!("{}:", home.outer);
    let ok = seen.iter().all(|s| s.starts_with(&outer)) && seen.first() != seen.last();
    Ok(Meeting { name, ok, seen: seen.join(", ") })
}

/// What a port mapper speaks.
#[derive(Clone, Copy)]
struct Protocols {
    upnp: bool,
    /// And PCP, at the same port.
    natpmp: bool,
}

/// A port mapper on a router; ended when dropped.
struct Mapper {
    child: Child,
}

impl Drop for Mapper {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Mapper {
    fn start(home: &Home, dir: &Path, protocols: Protocols) -> Result<Self, LabError> {
        let router = home.router().ok_or_else(|| LabError::strange("a home without a router"))?;
        router.nft(
            "table inet mapper {\n chain forward {\n }\n chain prerouting {\n }\n chain postrouting {\n }\n \
             chain in { type nat hook prerouting priority -100;\n jump prerouting\n }\n \
             chain out { type nat hook postrouting priority 100;\n jump postrouting\n }\n }\n",
        )?;
        let yes = |on| if on { "yes" } else { "no" };
        let conf = format!(
            "ext_ifname=wan\nlistening_ip=lan\nport=5000\nenable_upnp={}\nenable_natpmp={}\nsecure_mode=yes\n\
             system_uptime=yes\nnotify_interval=30\nuuid=00000000-0000-0000-0000-000000000001\n\
             upnp_table_name=mapper\nupnp_nat_table_name=mapper\nupnp_forward_chain=forward\n\
             upnp_nat_chain=prerouting\nupnp_nat_postrouting_chain=postrouting\n\
             allow 1024-65535 192.168.1.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n",
            yes(protocols.upnp),
            yes(protocols.natpmp)
        );
        let file = dir.join("miniupnpd.conf");
        std::fs::write(&file, conf)?;
        let log = std::fs::File::create(dir.join("miniupnpd.log"))?;
        let child = router
            .command("miniupnpd")
            .arg("-d")
            .arg("-f")
            .arg(&file)
            .arg("-P")
            .arg(dir.join("miniupnpd.pid"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        // It says nothing when it is ready; its clients ask more than once anyway.
        std::thread::sleep(Duration::from_millis(500));
        Ok(Self { child })
    }

    /// What it has let into the router's rules.
    fn rules(home: &Home) -> Result<String, LabError> {
        let router = home.router().ok_or_else(|| LabError::strange("a home without a router"))?;
        router.tool("nft", &["list", "chain", "inet", "mapper", "prerouting"], None)
    }
}

/// The port mapper with foreign clients: both protocols open a port, and a stranger comes through it.
fn mapper(name: &'static str) -> Result<Meeting, LabError> {
    let mut internet = Internet::new()?;
    let [stranger, ..] = internet.publics()?;
    let home = internet.home_at("home", Kind::PortRestricted, OUTER)?;
    let host = internet.host("client", &home, 42)?;
    let _mapper = Mapper::start(&home, internet.world.dir(), Protocols { upnp: true, natpmp: true })?;
    let mut seen = Vec::new();
    let own = host.own.to_string();
    let natpmp = ["-g", "192.168.1.1", "-a", "40010", "40010", "udp", "600"];
    // Multicast needs a way out.
    let upnp = ["-m", "eth0", "-a", &own, "40011", "40011", "udp", "600"];
    for (program, args, port) in [("natpmpc", natpmp.as_slice(), 40_010), ("upnpc", upnp.as_slice(), 40_011)]
    {
        let said = host.netns.tool(program, args, None);
        let through = comes_through(&stranger, &host, port)?;
        let trouble = said.err().map(|e| format!(" ({e})")).unwrap_or_default();
        seen.push(format!(
            "{program} {}{trouble}",
            if through { "opens the port" } else { "does not open the port" }
        ));
    }
    let ok = seen.iter().all(|s| s.contains("opens the port"));
    Ok(Meeting { name, ok, seen: seen.join(", ") })
}

fn comes_through(stranger: &Host, host: &Host, port: u16) -> Result<bool, LabError> {
    let mut inside = Agent::start(&host.netns)?;
    let mut outside = Agent::start(&stranger.netns)?;
    let socket = inside.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    let from = outside.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 40_000)))?;
    outside.send(from, SocketAddr::from((OUTER, port)), "stranger")?;
    Ok(inside.recv(socket, 500)?.is_some_and(|(_, word)| word == "stranger"))
}

/// Our node has its router open a port; a node that has never spoken to it connects to that port.
fn mapping(product: &Product, name: &'static str, protocols: Protocols) -> Result<Meeting, LabError> {
    let mut stage = Stage::new(product)?;
    let home = stage.internet.home_at("home", Kind::PortRestricted, OUTER)?;
    let host = stage.internet.host("client", &home, 42)?;
    let _mapper = Mapper::start(&home, stage.internet.world.dir(), protocols)?;
    let role = match stage.private() {
        Role::Private { seeds, relays, port_mapping: _ } => {
            Role::Private { seeds, relays, port_mapping: true }
        }
        role @ Role::Public { .. } => role,
    };
    let node = stage.node(&host, &role)?;
    let deadline = Instant::now() + MAPPED_WITHIN;
    let port = loop {
        let rules = Mapper::rules(&home)?;
        let mapped = rules.lines().find(|l| l.contains(&format!("{}:{}", host.own, node.port)));
        let port =
            mapped.and_then(|l| l.split_once("dport ")?.1.split_whitespace().next()?.parse::<u16>().ok());
        if port.is_some() || Instant::now() >= deadline {
            break port;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let Some(port) = port else {
        let seen = format!("no mapping appeared; {}", node.last_words());
        return Ok(Meeting { name, ok: false, seen });
    };
    let [.., stranger] = stage.publics.as_slice() else {
        return Err(LabError::strange("no public nodes"));
    };
    let to = SocketAddr::from((OUTER, port)).to_string();
    let connected = stranger.ask(&["peers", "connect", &node.key, "--addr", &to]);
    let ok = connected.is_ok() && stranger.peer(&node.key)?.way == Some(Way::Direct);
    let seen = match connected {
        Ok(_) => format!("mapped to {to}"),
        Err(e) => format!("mapped to {to}, but {e}"),
    };
    Ok(Meeting { name, ok, seen })
}
