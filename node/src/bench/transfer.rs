//! `bench transfer`: an input of a task, from the requester's store into the hands of a guest at another node.
//!
//! The same task is run with an object of the wanted size and with a small one, in turns; what the large one takes longer
//! is what it took to be fetched, verified, made durable and laid out for the guest, which does not read it. The baseline
//! sends as many bytes over one TCP connection of loopback from memory to a reader that drops them.

use super::figures::{Sample, micros};
use super::pair::{Pair, ended, key, upload};
use crate::cli::{Failure, random_run_id};
use crate::workflow_text;
use remote_network_core::id::PublicKey;
use remote_network_core::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use remote_network_core::port::Port;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// A guest that leaves its input alone and says nothing.
const GUEST: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
const SERVICE: &str = "bench-idle";
/// What is written and read at once.
const BLOCK: usize = 256 << 10;

/// Runs it and tells the figures.
pub async fn run(root: &Path, log: Option<&str>, mib: u16, rounds: u8) -> Result<Value, Failure> {
    let pair = Pair::start(root, log, 1).await?;
    let figures = measure(&pair, usize::from(mib) << 20, rounds).await;
    pair.stop().await;
    figures
}

async fn measure(pair: &Pair, bytes: usize, rounds: u8) -> Result<Value, Failure> {
    let module = wat::parse_str(GUEST).map_err(|e| Failure::work(e.to_string()))?;
    pair.offer(
        pair.executor()?,
        SERVICE,
        module,
        json!({"memory_bytes": 4 << 20, "time_ms": 60_000, "output_bytes": 1 << 20}),
    )
    .await?;
    let (mut large, mut small, mut tcp) = (Sample::default(), Sample::default(), Sample::default());
    // The first of each kind is not counted: it compiles, and it touches memory for the first time.
    for round in 0..=rounds {
        let took = [
            staged(pair, content(bytes, round)).await?,
            staged(pair, content(1, round)).await?,
            tokio::task::spawn_blocking(move || over_tcp(bytes))
                .await
                .map_err(|e| Failure::work(e.to_string()))??,
        ];
        if round > 0 {
            for (sample, took) in [&mut large, &mut small, &mut tcp].into_iter().zip(took) {
                sample.add(took);
            }
        }
    }
    let median = |s: &Sample| s.percentile_us(50).unwrap_or(0);
    let staging = median(&large).saturating_sub(median(&small)).max(1);
    // Bytes in a microsecond are megabytes in a second.
    let (ours, theirs) = (bytes as f64 / staging as f64, bytes as f64 / median(&tcp).max(1) as f64);
    Ok(json!({
        "bench": "transfer",
        "bytes": bytes,
        "rounds": rounds,
        "large_task_ms": median(&large) / 1_000,
        "small_task_ms": median(&small) / 1_000,
        "staged_mb_per_s": ours.round(),
        "tcp_mb_per_s": theirs.round(),
        "ratio": (ours / theirs * 1_000.0).round() / 1_000.0,
    }))
}

/// Bytes that no round has had before.
fn content(len: usize, round: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[round]);
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// How long a run of one task with this input takes.
async fn staged(pair: &Pair, input: Vec<u8>) -> Result<Duration, Failure> {
    let requester = pair.requester()?;
    let source = upload(&requester.client, input).await?;
    let text = workflow_text::to_json(&one_task(source, key(pair.executor()?)?)).map_err(Failure::work)?;
    let run = random_run_id()?.to_string();
    let begun = Instant::now();
    requester.client.post_text("/runs", format!("{{\"run\":\"{run}\",\"workflow\":{text}}}")).await?;
    ended(&requester.client, &run).await?;
    Ok(begun.elapsed())
}

fn one_task(source: ObjectRef, peer: PublicKey) -> Workflow {
    let end = |node: &str, port| End { node: node.to_owned(), port };
    let task = TaskSpec { service: SERVICE.to_owned(), peers: vec![peer], ..TaskSpec::default() };
    Workflow {
        name: "bench".to_owned(),
        nodes: vec![
            ("source".to_owned(), NodeKind::Source(vec![source])),
            ("task".to_owned(), NodeKind::Task(task)),
            ("sink".to_owned(), NodeKind::Sink),
        ],
        edges: vec![
            Edge { from: end("source", Port::Stdout), to: end("task", Port::Stdin) },
            Edge { from: end("task", Port::Stdout), to: end("sink", Port::Stdin) },
        ],
        ..Workflow::default()
    }
}

/// As many bytes over TCP, from the first one written to the last one read.
fn over_tcp(bytes: usize) -> Result<Duration, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut to = TcpStream::connect(listener.local_addr()?)?;
    let (mut from, _) = listener.accept()?;
    let begun = Instant::now();
    let writer = std::thread::spawn(move || -> std::io::Result<()> {
        let block = vec![1; BLOCK];
        let mut left = bytes;
        while left > 0 {
            let n = left.min(BLOCK);
            to.write_all(block.get(..n).unwrap_or(&block))?;
            left -= n;
        }
        Ok(())
    });
    let mut block = vec![0; BLOCK];
    let mut read = 0;
    loop {
        match from.read(&mut block)? {
            0 => break,
            n => read += n,
        }
    }
    let took = begun.elapsed();
    let written = writer.join().map_err(|_| Failure::work("the sender panicked"))?;
    written?;
    if read != bytes || micros(took) == 0 {
        return Err(Failure::work("TCP has lost something"));
    }
    Ok(took)
}
