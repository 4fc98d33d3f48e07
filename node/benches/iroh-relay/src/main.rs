//! What the relay of iroh carries for each second of processor time, with the clients and packets of our own benchmark, and
//! what ours does in the same run.
//!
//! The server is the published crate `iroh-relay`, in a process of its own, as it comes. `docs/BENCHMARKS.md` says how to run this
//! and what is compared.

#[path = "../../relay/load.rs"]
#[allow(dead_code, reason = "our own benchmark uses the rest")]
mod load;
#[path = "../../relay/process.rs"]
#[allow(dead_code, reason = "our own benchmark uses the rest")]
mod process;

use anyhow::{Context as _, Result, anyhow};
use clap::{Parser, Subcommand};
use futures_util::{SinkExt as _, StreamExt as _};
use iroh_base::{RelayUrl, SecretKey};
use iroh_dns::dns::DnsResolver;
use iroh_relay::client::{ClientBuilder, ClientSink, ClientStream};
use iroh_relay::protos::relay::{ClientToRelayMsg, Datagrams, RelayToClientMsg};
use iroh_relay::server::{CertConfig, RelayConfig, Server, ServerConfig, TlsConfig, testing};
use iroh_relay::tls::{CaTlsConfig, default_provider};
use load::{Flow, PACKET_BYTES, Span};
use process::Process;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Semaphore;

/// Measures the relay of iroh, and ours.
#[derive(Parser, Debug, Clone)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Clients; each is connected to the relay.
    #[arg(long, default_value_t = 1_000)]
    sessions: usize,
    /// Pairs that send.
    #[arg(long)]
    active: Option<usize>,
    /// Packets that each of them has under way.
    #[arg(long, default_value_t = 8)]
    window: u64,
    /// Seconds that are counted of each measurement.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Times each is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Our own benchmark, built: `target/release/deps/relay-…`. Without it only iroh's is measured.
    #[arg(long, env = "RELAY_BENCH")]
    ours: Option<PathBuf>,
    /// Leaves it to the system which processor does what.
    #[arg(long)]
    unpinned: bool,
}

#[derive(Subcommand, Debug, Clone)]
enum Role {
    /// Is the server, until standard input closes.
    Serve {
        #[arg(long)]
        tls: bool,
    },
}

async fn serve(tls: bool) -> Result<()> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let mut relay = RelayConfig::new(any);
    if tls {
        let (_, server_config) = testing::self_signed_tls_certs_and_config();
        relay.tls = Some(TlsConfig::new(any, CertConfig::Manual { server_config }));
    }
    let mut config = ServerConfig::default();
    config.relay = Some(relay);
    let server = Server::spawn(config).await.map_err(|e| anyhow!("{e:#}"))?;
    let url = match server.https_addr() {
        Some(addr) => format!("https://{addr}"),
        None => format!("http://{}", server.http_addr().context("no address")?),
    };
    println!("{url}");
    let mut stdin = tokio::io::stdin();
    while stdin.read(&mut [0; 64]).await? > 0 {}
    Ok(())
}

fn start_server(tls: bool, cpu: Option<usize>) -> Result<(Process, RelayUrl)> {
    let own = std::env::current_exe()?;
    let mut command = process::pinned(own.to_str().context("path")?, cpu);
    command.arg("serve").args(tls.then_some("--tls"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let said = child.stdout.take().context("no output of the server")?;
    let process = Process(child);
    let mut url = String::new();
    BufReader::new(said).read_line(&mut url)?;
    let url = url.trim().parse().map_err(|e| anyhow!("the server said {url:?}: {e}"))?;
    Ok((process, url))
}

async fn connect(
    number: usize,
    url: &RelayUrl,
    dns: &DnsResolver,
) -> Result<(SecretKey, ClientSink, ClientStream)> {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
    let secret = SecretKey::from_bytes(&seed);
    let tls = CaTlsConfig::insecure_skip_verify().client_config(default_provider())?;
    let client = ClientBuilder::new(url.clone(), secret.clone(), dns.clone()).tls_client_config(tls);
    let client = client.connect().await.map_err(|e| anyhow!("client {number}: {e:#}"))?;
    let (stream, sink) = client.split();
    Ok((secret, sink, stream))
}

/// What two tasks of a pair know.
struct Pair {
    /// Frames that may be sent.
    permits: Semaphore,
    arrived: AtomicU64,
}

async fn sender(
    pair: Arc<Pair>,
    number: usize,
    to: SecretKey,
    mut sink: ClientSink,
    batch: u64,
) -> Result<()> {
    let mut packets = vec![0; PACKET_BYTES * batch as usize];
    load::stamp(&mut packets, number, 0);
    let datagrams = Datagrams {
        ecn: None,
        segment_size: NonZeroU16::new(PACKET_BYTES as u16).filter(|_| batch > 1),
        contents: packets.into(),
    };
    let frame = ClientToRelayMsg::Datagrams { dst_endpoint_id: to.public(), datagrams };
    loop {
        pair.permits.acquire().await?.forget();
        sink.feed(frame.clone()).await.map_err(|e| anyhow!("{e:#}"))?;
        while let Ok(permit) = pair.permits.try_acquire() {
            permit.forget();
            sink.feed(frame.clone()).await.map_err(|e| anyhow!("{e:#}"))?;
        }
        sink.flush().await.map_err(|e| anyhow!("{e:#}"))?;
    }
}

async fn receiver(pair: Arc<Pair>, mut stream: ClientStream) -> Result<()> {
    while let Some(message) = stream.next().await {
        if let RelayToClientMsg::Datagrams { datagrams, .. } = message.map_err(|e| anyhow!("{e:#}"))? {
            pair.arrived.fetch_add(datagrams.contents.len() as u64, Relaxed);
            pair.permits.add_permits(1);
        }
    }
    Ok(())
}

/// Floods iroh's relay; returns a flow for each round and bytes of memory of a session.
async fn flood(args: &Args, tls: bool, batch: u64, cpu: Option<usize>) -> Result<(Vec<Flow>, f64)> {
    let (server, url) = start_server(tls, cpu)?;
    let pid = server.id();
    let before = process::resident_bytes(pid)?;
    let dns = DnsResolver::new();
    let pairs = args.sessions / 2;
    let active = args.active.unwrap_or(pairs).clamp(1, pairs);
    let (mut ready, mut tasks) = (Vec::new(), tokio::task::JoinSet::new());
    for number in 0..pairs {
        let (_, sink, idle) = connect(2 * number, &url, &dns).await?;
        let (to, unused, stream) = connect(2 * number + 1, &url, &dns).await?;
        let pair = Arc::new(Pair { permits: Semaphore::new(0), arrived: AtomicU64::new(0) });
        tasks.spawn(sender(pair.clone(), number, to, sink, batch));
        tasks.spawn(receiver(pair.clone(), stream));
        ready.push((pair, idle, unused));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let per_session = (process::resident_bytes(pid)?.saturating_sub(before)) as f64 / args.sessions as f64;
    for (pair, ..) in ready.iter().take(active) {
        pair.permits.add_permits((args.window / batch).max(1) as usize);
    }
    let span = Span { warm: Duration::from_secs(2), counted: Duration::from_secs_f64(args.seconds) };
    let all = || ready.iter().map(|(pair, ..)| pair.arrived.load(Relaxed)).sum::<u64>();
    let mut flows = Vec::new();
    for _ in 0..args.rounds.max(1) {
        tokio::time::sleep(span.warm).await;
        let (begun, bytes, cpu) = (Instant::now(), all(), process::cpu_seconds(pid)?);
        tokio::time::sleep(span.counted).await;
        let flow = Flow {
            payload_bytes: all() - bytes,
            seconds: begun.elapsed().as_secs_f64(),
            cpu_seconds: process::cpu_seconds(pid)? - cpu,
            lost: 0,
        };
        eprintln!(
            "iroh{}, {batch} a frame: {:.1} MB/s, {:.1} MB/CPU s, relay {:.0} % of a processor",
            if tls { ", TLS" } else { ", plain" },
            flow.bytes_per_second() / 1e6,
            flow.bytes_per_cpu_second() / 1e6,
            100.0 * flow.cpu_seconds / flow.seconds
        );
        flows.push(flow);
    }
    while let Some(ended) = tasks.try_join_next() {
        ended??;
    }
    Ok((flows, per_session))
}

/// Ours in the same place as theirs, which is loopback, or where a datagram is as long as on Ethernet.
fn ours(args: &Args, program: &PathBuf, loopback: bool) -> Result<Value> {
    let mut command = Command::new(program);
    command.args(["--only", "flood", "--sessions", &args.sessions.to_string()]);
    command.args(["--window", &args.window.to_string(), "--seconds", &args.seconds.to_string()]);
    command.args(["--rounds", &args.rounds.to_string()]);
    command.args(loopback.then_some("--ip=127.0.0.1"));
    command.args(args.active.map(|n| format!("--active={n}"))).args(args.unpinned.then_some("--unpinned"));
    let out = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let said = String::from_utf8(out.stdout)?;
    serde_json::from_str(said.lines().last().unwrap_or_default())
        .with_context(|| format!("{} said {said:?}", program.display()))
}

fn median(flows: &[Flow], f: fn(&Flow) -> f64) -> f64 {
    let mut values: Vec<f64> = flows.iter().map(f).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2].round()
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(Role::Serve { tls }) = args.role {
        // As its own binary: a runtime with a thread for each processor it may use.
        return tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(tls));
    }
    let cpu = if args.unpinned { None } else { process::processors().map(|(relay, _)| relay) };
    let mut iroh = serde_json::Map::new();
    // As many packets in a frame as its own client puts there when it has them, and one.
    for (name, tls, batch) in [
        ("plain", false, 1),
        ("tls", true, 1),
        ("plain_batched", false, args.window),
        ("tls_batched", true, args.window),
    ] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (flows, per_session) = runtime.block_on(flood(&args, tls, batch.min(10), cpu))?;
        let figures = json!({
            "relayed_bytes_per_cpu_s": median(&flows, Flow::bytes_per_cpu_second),
            "throughput_bytes_per_s": median(&flows, Flow::bytes_per_second),
            "bytes_per_session": per_session.round(),
        });
        iroh.insert(name.into(), figures);
    }
    let mut told = json!({ "iroh": iroh });
    for (name, loopback) in [("ours", true), ("ours_ethernet", false)] {
        let Some(program) = &args.ours else { break };
        let mut figures = ours(&args, program, loopback)?;
        let carried = figures["relayed_bytes_per_cpu_s"].as_f64();
        let by = |(theirs, flow): (&String, &Value)| {
            let ratio = carried? / flow["relayed_bytes_per_cpu_s"].as_f64()?;
            Some((theirs.clone(), ratio.into()))
        };
        figures["ratios"] = Value::Object(iroh.iter().filter_map(by).collect());
        told[name] = figures;
    }
    println!("{told}");
    Ok(())
}
