//! What the relay carries, and what that costs: the real binary as a process of its own, and its clients in this one.
//!
//! Clients come in pairs, of which one has a reservation and the other is a visitor that sends it packets of the size of
//! QUIC's. `docs/BENCHMARKS.md` says what each figure means. Progress goes to standard error; the last line of standard output
//! is one JSON object.
//!
//! ```text
//! cargo bench -p remote-network --bench relay
//! cargo bench -p remote-network --bench relay -- --only flood --active 8 --window 64
//! ```

mod load;
mod peer;
mod process;
mod swarm;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use load::{Span, jain, quantile};
use peer::Route;
use process::Process;
use serde_json::{Map, Value, json};
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Stdio;
use std::time::Duration;
use swarm::{Relay, Swarm};
use tempfile::TempDir;

/// Measures the relay, with a thousand clients.
#[derive(Parser, Debug)]
#[command(name = "relay")]
struct Args {
    /// Clients; each has a session.
    #[arg(long, default_value_t = 1_000)]
    sessions: usize,
    /// Pairs that send when all go as fast as they can; all unless told otherwise.
    #[arg(long)]
    active: Option<usize>,
    /// Packets that each of them has under way.
    #[arg(long, default_value_t = 8)]
    window: u64,
    /// Seconds that are counted of each measurement.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Address of all sockets. Unless told otherwise one of this machine that is not loopback, because datagrams are larger between
    /// loopback addresses.
    #[arg(long)]
    ip: Option<IpAddr>,
    /// Part of the most that goes through, at which latency is measured.
    #[arg(long, default_value_t = 0.5)]
    load: f64,
    /// Only these (repeatable).
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Another binary of the relay than the one that was built with this.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_remote-network"))]
    binary: String,
    /// Leaves it to the system which processor does what.
    #[arg(long)]
    unpinned: bool,
    /// Times the whole flood is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Passed by cargo; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// As fast as it goes.
    Flood,
    /// Latency at half of that.
    Latency,
    /// One session against all others.
    Fairness,
}

impl Args {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn span(&self) -> Span {
        Span { warm: Duration::from_secs(2), counted: Duration::from_secs_f64(self.seconds) }
    }

    fn ip(&self) -> Result<IpAddr> {
        let others = || {
            let all = if_addrs::get_if_addrs().ok()?;
            all.into_iter().map(|i| i.ip()).find(|ip| ip.is_ipv4() && !ip.is_loopback())
        };
        Ok(self.ip.or_else(others).unwrap_or(Ipv4Addr::LOCALHOST.into()))
    }
}

/// Starts a relay without limits but, if told, that of all it passes on.
fn start_relay(dir: &TempDir, args: &Args, cpu: Option<usize>, total_rate: u64) -> Result<(Process, Relay)> {
    let ip = args.ip()?;
    // Free a moment ago, and nobody else here asks for one.
    let port = UdpSocket::bind((ip, 0))?.local_addr()?.port();
    let settings = [
        "dht_mode=off".to_owned(),
        "publish_private_addrs=true".to_owned(),
        "mdns=false".to_owned(),
        "port_mapping=false".to_owned(),
        "relay=true".to_owned(),
        "relay_session_rate=0".to_owned(),
        "relay_address_rate=0".to_owned(),
        "relay_sessions_per_address=100000".to_owned(),
        format!("relay_max_sessions={}", args.sessions.max(8)),
        format!("relay_total_rate={total_rate}"),
    ];
    let mut child = process::pinned(&args.binary, cpu)
        .args(["--json", "--data-dir"])
        .arg(dir.path())
        .args(["start", "--unencrypted-key", "--until-stdin-closes", "--listen", &ip.to_string()])
        .args(["--quic-port", &port.to_string(), "--api-port", "0"])
        .args(settings.iter().flat_map(|s| ["--set", s.as_str()]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = child.stdout.take().context("no output of the relay")?;
    let process = Process(child);
    let mut ready = String::new();
    BufReader::new(said).read_line(&mut ready)?;
    let ready: Value = serde_json::from_str(&ready).with_context(|| format!("it said {ready:?}"))?;
    let key = ready["key"].as_str().with_context(|| format!("the relay says {ready}"))?.parse()?;
    std::thread::sleep(Duration::from_secs(1));
    let relay = Relay { key, addr: (ip, port).into(), pid: process.id() };
    Ok((process, relay))
}

/// Sessions by the relay's own count.
fn sessions_of(dir: &TempDir, args: &Args) -> Result<u64> {
    let out = std::process::Command::new(&args.binary)
        .args(["--json", "--data-dir"])
        .arg(dir.path())
        .args(["relay", "stats"])
        .output()?;
    let stats: Value = serde_json::from_slice(&out.stdout).context("relay stats")?;
    let count = |kind: &str| stats[kind].as_u64().or_else(|| stats["sessions"][kind].as_u64());
    match (count("reserved"), count("visitors")) {
        (Some(reserved), Some(visitors)) => Ok(reserved + visitors),
        _ => anyhow::bail!("relay stats said {stats}"),
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1_000.0
}

/// Memory, the most that goes through, and latency at half of that; returns packets a second of each pair.
fn unlimited(args: &Args, cpu: Option<usize>, told: &mut Map<String, Value>) -> Result<f64> {
    let dir = TempDir::new()?;
    let (_process, relay) = start_relay(&dir, args, cpu, 0)?;
    let before = process::resident_bytes(relay.pid)?;
    let mut swarm = Swarm::new(args.sessions, args.ip()?)?;
    swarm.enter(relay)?;
    let sessions = sessions_of(&dir, args)?;
    let grown = |now: u64| now.saturating_sub(before) as f64 / sessions.max(1) as f64;
    told.insert("sessions".into(), sessions.into());
    told.insert("bytes_per_session".into(), grown(process::resident_bytes(relay.pid)?).round().into());
    eprintln!("{sessions} sessions");

    let active = args.active.unwrap_or(swarm.pairs()).clamp(1, swarm.pairs());
    let mut flows = Vec::new();
    for _ in 0..args.rounds.max(1) {
        let flow = swarm.flood(Route::Relayed, active, args.window, args.span(), relay.pid)?;
        eprintln!(
            "flood: {:.1} MB/s, {:.1} MB/CPU s, relay {:.0} % of a processor, {} lost",
            flow.bytes_per_second() / 1e6,
            flow.bytes_per_cpu_second() / 1e6,
            100.0 * flow.cpu_seconds / flow.seconds,
            flow.lost
        );
        flows.push(flow);
    }
    let of = |f: fn(&load::Flow) -> f64| median(&flows.iter().map(f).collect::<Vec<_>>());
    let most = of(load::Flow::bytes_per_second);
    told.insert("active_pairs".into(), active.into());
    told.insert("relayed_bytes_per_cpu_s".into(), of(load::Flow::bytes_per_cpu_second).round().into());
    told.insert("throughput_bytes_per_s".into(), most.round().into());
    told.insert("relay_cpu_share".into(), of(|f| f.cpu_seconds / f.seconds).into());
    told.insert("packets_lost".into(), flows.iter().map(|f| f.lost).sum::<u64>().into());
    let loaded = grown(process::resident_bytes(relay.pid)?);
    told.insert("bytes_per_session_after_load".into(), loaded.round().into());
    let each = most / load::PACKET_BYTES as f64 / active as f64;
    if args.wants(Part::Latency) {
        let rates = vec![each * args.load; active];
        swarm.meet()?;
        let direct = swarm.flood(Route::Direct, active, args.window, args.span(), relay.pid)?;
        told.insert("direct_throughput_bytes_per_s".into(), direct.bytes_per_second().round().into());
        let (mut added50, mut added99) = (Vec::new(), Vec::new());
        for _ in 0..args.rounds.max(1) {
            let mut by_route = [[0.0; 2]; 2];
            for (route, found) in [Route::Direct, Route::Relayed].into_iter().zip(&mut by_route) {
                let paced = swarm.pace(route, &rates, args.span())?;
                let mut all = paced.of_pairs(0);
                *found = [0.5, 0.99].map(|part| micros(quantile(&mut all, part)));
                eprintln!(
                    "{route:?} at this load: p50 {:.0} µs, p99 {:.0} µs, {} of {} arrived",
                    found[0],
                    found[1],
                    all.len(),
                    paced.sent
                );
            }
            let [direct, relayed] = by_route;
            added50.push(relayed[0] - direct[0]);
            added99.push(relayed[1] - direct[1]);
            told.insert("direct_p50_us".into(), direct[0].into());
            told.insert("direct_p99_us".into(), direct[1].into());
            told.insert("relayed_p50_us".into(), relayed[0].into());
            told.insert("relayed_p99_us".into(), relayed[1].into());
        }
        told.insert("load".into(), args.load.into());
        told.insert("added_p50_us".into(), median(&added50).round().into());
        told.insert("added_p99_us".into(), median(&added99).round().into());
    }
    told.insert("packets_in_pieces".into(), swarm.peers.iter().map(|p| p.pieces).sum::<u64>().into());
    told.insert("send_calls_refused".into(), swarm.unsent.into());
    Ok(each)
}

/// One session sends ten times what is its share of a relay whose rate is the bottleneck.
fn fairness(args: &Args, cpu: Option<usize>, each: f64, told: &mut Map<String, Value>) -> Result<()> {
    let dir = TempDir::new()?;
    let pairs = args.sessions / 2;
    // The half of what was found to go through, so that nothing else is short.
    let share = each * args.active.unwrap_or(pairs).min(pairs) as f64 / pairs as f64 / 2.0;
    let datagram = load::PACKET_BYTES + remote_network_core::relay::wire::WHOLE_HEADER_BYTES;
    let total_rate = share * pairs as f64 * datagram as f64;
    let (_process, relay) = start_relay(&dir, args, cpu, total_rate as u64)?;
    let mut swarm = Swarm::new(args.sessions, args.ip()?)?;
    swarm.enter(relay)?;
    // All want more than their share, and one ten times as much as they.
    let mut rates = vec![1.1 * share; pairs];
    rates[0] = 10.0 * share;
    let paced = swarm.pace(Route::Relayed, &rates, args.span())?;
    let index = jain(&paced.arrived());
    eprintln!(
        "Jain's index {index:.4}; the flooder got {:.2} shares",
        paced.arrived()[0] / paced.seconds / share
    );
    told.insert("jain".into(), index.into());
    // The others want less than their share, and one so much that a tenth more is wanted in all than the relay may pass on.
    let (mut ratios, mut victims) = (Vec::new(), vec![0.8 * share; pairs]);
    for _ in 0..args.rounds.max(1) {
        let mut p99 = [0.0; 2];
        let mut arrived = Vec::new();
        for (flooded, found) in [false, true].into_iter().zip(&mut p99) {
            victims[0] = if flooded { (0.3 * pairs as f64).max(10.0) * share } else { 0.8 * share };
            let paced = swarm.pace(Route::Relayed, &victims, args.span())?;
            let mut all = paced.of_pairs(1);
            *found = micros(quantile(&mut all, 0.99));
            arrived = paced.arrived();
            eprintln!(
                "victims{}: p50 {:.0} µs, p99 {found:.0} µs, {} arrived",
                if flooded { ", flooded" } else { "" },
                micros(quantile(&mut all, 0.5)),
                all.len()
            );
        }
        ratios.push(p99[1] / p99[0].max(1.0));
        told.insert("victim_p99_us".into(), p99[0].into());
        told.insert("victim_p99_flooded_us".into(), p99[1].into());
        told.insert("jain_victims".into(), jain(&arrived[1..]).into());
    }
    told.insert("victim_p99_ratio".into(), median(&ratios).into());
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let cpus = if args.unpinned { None } else { process::processors() };
    let mut told = Map::new();
    told.insert("relay_on_its_own_processor".into(), cpus.is_some().into());
    let relay_cpu = cpus.map(|(relay, _)| relay);
    let each = unlimited(&args, relay_cpu, &mut told)?;
    if args.wants(Part::Fairness) {
        fairness(&args, relay_cpu, each, &mut told)?;
    }
    println!("{}", json!(told));
    Ok(())
}
