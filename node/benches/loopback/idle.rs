//! What a node costs that has nothing to do: the real binary, alone, without a DHT.

use crate::figures::{Report, Series};
use anyhow::{Context as _, Result};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The node's first housekeeping is over by then.
const SETTLED: Duration = Duration::from_secs(3);
const WATCHED: Duration = Duration::from_secs(15);

/// A process that does not outlive the measurement.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        // Its data directory is about to be deleted: there is nothing to end in order.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

pub fn measure(report: &mut Report, dir: &TempDir) -> Result<()> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_remote-network"))
        .args(["--json", "--data-dir"])
        .arg(dir.path())
        .args(["start", "--unencrypted-key", "--listen", "127.0.0.1", "--quic-port", "0", "--api-port", "0"])
        .args(["--set", "dht_mode=off", "--until-stdin-closes"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = child.stdout.take().context("no output of the node")?;
    let node = Node(child);
    let mut ready = String::new();
    BufReader::new(said).read_line(&mut ready)?;
    anyhow::ensure!(ready.contains("ready"), "the node did not start: {ready}");
    std::thread::sleep(SETTLED);
    let pid = node.0.id();
    let (begun, before) = (Instant::now(), cpu_seconds(pid)?);
    std::thread::sleep(WATCHED);
    let share = (cpu_seconds(pid)? - before) / begun.elapsed().as_secs_f64();
    let (mut memory, mut cpu) = (Series::default(), Series::default());
    memory.push(resident_mib(pid)?);
    cpu.push(share * 1_000.0);
    report.alone("idle node: resident memory", "MiB", Some("≤ 40"), memory);
    report.alone("idle node: processor time a second", "ms", Some("≤ 2"), cpu);
    Ok(())
}

fn resident_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// User and system time. The kernel counts in ticks of 10 ms, so a quiet node may show none at all.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no stat")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}
