//! One object from store to store, against the same bytes from memory to nowhere.
//!
//! Ours: the holder reads from its store; the consumer verifies every piece against the digest, writes it, and seals the
//! object with a sync of file and directory. Baseline: quinn sends from memory over one stream to a reader that drops
//! what it reads. Two moments of ours are taken: when the last byte is verified and written, and when the object is
//! durable; what lies between is the disk's.

use crate::figures::{Report, Series};
use crate::pair::{Fetched, Running, Runtime};
use crate::raw::{Listener, Sender, USUAL_DATAGRAM_BYTES};
use anyhow::Result;
use bytes::Bytes;
use remote_network_core::job::workflow::ObjectRef;
use remote_network_core::transport::quic::NEAR_DATAGRAM_BYTES_MAX;
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

    /// The first of two in a row warms up and does not count: a virtual machine takes back memory that lay idle, and the
    /// first to touch it again pays for that.
    fn sample(&mut self) -> Result<()> {
        self.fetch()?;
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
    let mut usual = Baseline::start(USUAL_DATAGRAM_BYTES)?;
    let mut large = Baseline::start(NEAR_DATAGRAM_BYTES_MAX)?;
    let mut tokio = Pair::start(Runtime::Tokio, dir, "tokio", bytes, 1)?;
    let mut smol = Pair::start(Runtime::Smol, dir, "smol", bytes, 3)?;
    for _ in 0..rounds {
        usual.sample(&memory, mib)?;
        large.sample(&memory, mib)?;
        tokio.sample()?;
        smol.sample()?;
    }

    let goal = Some("≥ 0.8");
    for (pair, name) in [(&tokio, "tokio"), (&smol, "smol")] {
        let mut add = |figure: &str, unit, goal, ours: &Series, baseline: &Series| {
            report.compared(format!("transfer, {name}: {figure}"), unit, goal, ours.clone(), baseline);
        };
        add("verified and written", "MiB/s", goal, &pair.whole, &usual.rate);
        add("durable", "MiB/s", None, &pair.durable, &usual.rate);
        add("per processor second", "MiB", None, &pair.cpu, &usual.cpu);
        add("verified and written, to large datagrams", "MiB/s", None, &pair.whole, &large.rate);
        add("per processor second, to large datagrams", "MiB", None, &pair.cpu, &large.cpu);
    }
    tokio.stop()?;
    smol.stop()?;
    usual.stop()?;
    large.stop()
}

/// Plain quinn, with datagrams of up to a size.
struct Baseline {
    listener: Listener,
    sender: Sender,
    rate: Series,
    cpu: Series,
}

impl Baseline {
    fn start(datagram_bytes: u16) -> Result<Self> {
        let listener = Listener::start(datagram_bytes)?;
        let sender = Sender::start(listener.addr, datagram_bytes)?;
        Ok(Self { listener, sender, rate: Series::default(), cpu: Series::default() })
    }

    fn sample(&mut self, memory: &Bytes, mib: u64) -> Result<()> {
        self.sender.send(memory.clone(), &self.listener)?;
        let before = cpu_time();
        let elapsed = self.sender.send(memory.clone(), &self.listener)?;
        self.rate.push(mib as f64 / elapsed.as_secs_f64());
        self.cpu.push(mib as f64 / cpu_time().saturating_sub(before).as_secs_f64());
        Ok(())
    }

    fn stop(self) -> Result<()> {
        self.sender.stop()?;
        self.listener.stop()
    }
}
