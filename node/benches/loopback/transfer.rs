//! One object from store to store, against the same bytes from memory to nowhere.
//!
//! Ours: the holder reads from its store; the consumer verifies every piece against the digest, writes it, and seals the
//! object with a sync of file and directory. Baseline: quinn sends from memory over one stream to a reader that drops
//! what it reads. Two moments of ours are taken: when the last byte is verified and written, and when the object is
//! durable; what lies between is the disk's.

use crate::figures::{Report, Series};
use crate::pair::{Fetched, Running, Runtime};
use crate::raw::{Listener, Sender};
use anyhow::Result;
use bytes::Bytes;
use remote_network_core::job::workflow::ObjectRef;
use rustix::time::{ClockId, clock_gettime};
use std::io::Read as _;
use std::time::Duration;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn content(bytes: u64) -> blake3::OutputReader {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes.to_be_bytes());
    hasher.finalize_xof()
}

/// Two nodes, connected; the first one holds an object.
struct Pair {
    holder: Running,
    consumer: Running,
    object: ObjectRef,
    whole: Series,
    durable: Series,
    cpu: Series,
}

impl Pair {
    fn start(runtime: Runtime, dir: &TempDir, name: &str, bytes: u64, seed: u8) -> Result<Self> {
        let folder = |role: &str| {
            let path = dir.path().join(format!("{name}-{role}"));
            std::fs::create_dir(&path).map(|()| path)
        };
        let holder = Running::start(runtime, &folder("holder")?, seed)?;
        let mut consumer = Running::start(runtime, &folder("consumer")?, seed + 1)?;
        let object = holder.store.import(&mut content(bytes).take(bytes))?;
        consumer.connect(&holder)?;
        let (whole, durable, cpu) = Default::default();
        Ok(Self { holder, consumer, object, whole, durable, cpu })
    }

    fn fetch(&mut self) -> Result<(Fetched, Duration)> {
        let before = cpu_time();
        let fetched = self.consumer.fetch(&mut self.holder, &self.object)?;
        Ok((fetched, cpu_time().saturating_sub(before)))
    }

    fn sample(&mut self) -> Result<()> {
        let mib = self.object.len as f64 / MIB as f64;
        let (fetched, cpu) = self.fetch()?;
        self.whole.push(mib / fetched.whole.as_secs_f64());
        self.durable.push(mib / fetched.durable.as_secs_f64());
        self.cpu.push(mib / cpu.as_secs_f64());
        Ok(())
    }

    fn stop(self) -> Result<()> {
        self.consumer.stop()?;
        self.holder.stop()
    }
}

/// Processor time of this process: both sides, ports included.
fn cpu_time() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

pub fn measure(report: &mut Report, dir: &TempDir, rounds: usize, mib: u64) -> Result<()> {
    let bytes = mib * MIB;
    let mut memory = Vec::new();
    content(bytes).take(bytes).read_to_end(&mut memory)?;
    let memory = Bytes::from(memory);
    let listener = Listener::start()?;
    let sender = Sender::start(listener.addr)?;
    let mut tokio = Pair::start(Runtime::Tokio, dir, "tokio", bytes, 1)?;
    let mut smol = Pair::start(Runtime::Smol, dir, "smol", bytes, 3)?;

    // The first of each opens windows and fills caches, and does not count.
    sender.send(memory.clone(), &listener)?;
    tokio.fetch()?;
    smol.fetch()?;
    let (mut quinn, mut quinn_cpu) = (Series::default(), Series::default());
    for _ in 0..rounds {
        let before = cpu_time();
        let elapsed = sender.send(memory.clone(), &listener)?;
        quinn.push(mib as f64 / elapsed.as_secs_f64());
        quinn_cpu.push(mib as f64 / cpu_time().saturating_sub(before).as_secs_f64());
        tokio.sample()?;
        smol.sample()?;
    }

    let goal = Some("≥ 0.8");
    report.compared("transfer, tokio: verified and written", "MiB/s", goal, tokio.whole.clone(), &quinn);
    report.compared("transfer, tokio: durable", "MiB/s", None, tokio.durable.clone(), &quinn);
    report.compared("transfer, tokio: per processor second", "MiB", None, tokio.cpu.clone(), &quinn_cpu);
    report.compared("transfer, smol: verified and written", "MiB/s", goal, smol.whole.clone(), &quinn);
    report.compared("transfer, smol: durable", "MiB/s", None, smol.durable.clone(), &quinn);
    report.compared("transfer, smol: per processor second", "MiB", None, smol.cpu.clone(), &quinn_cpu);
    tokio.stop()?;
    smol.stop()?;
    sender.stop()?;
    listener.stop()
}
