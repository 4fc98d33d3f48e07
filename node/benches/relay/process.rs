//! The relay's process from outside: what it costs, and on which processor it runs. Shared with the benchmark of iroh's relay.

use anyhow::{Context as _, Result};
use std::process::{Child, Command, Stdio};

/// A process that does not outlive the measurement.
pub struct Process(pub Child);

impl Process {
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its data directory is about to be deleted: there is nothing to end in order.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// User and system time, of all threads.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no stat")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

/// Resident memory.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1_024)
}

/// A command that runs on one processor, if the machine has `taskset` and two of them.
pub fn pinned(program: &str, cpu: Option<usize>) -> Command {
    match cpu {
        Some(cpu) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &cpu.to_string(), program]);
            command
        }
        None => Command::new(program),
    }
}

/// Keeps this process on one processor.
pub fn pin_self(cpu: usize) -> bool {
    let pid = std::process::id().to_string();
    let done = Command::new("taskset").args(["-acp", &cpu.to_string(), &pid]).stdout(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

/// Processors of the relay and of its clients, where there are two.
pub fn processors() -> Option<(usize, usize)> {
    let two = std::thread::available_parallelism().is_ok_and(|n| n.get() >= 2);
    (two && pin_self(1)).then_some((0, 1))
}
