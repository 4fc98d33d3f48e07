//! `bench wasm`: the engine of guests by itself, with real worker processes and the real object store.
//!
//! A start is measured at the node: from the request to the word that the guest starts, and to the end of a guest that does
//! nothing, its outputs durable. The first instruction of the guest lies between the two. *Cold*: a module that was never seen,
//! compiled in a new worker. *Compiled*: a new worker that finds compiled code. *Warm*: right after another job of the same.
//! *Light*: that too, of a job that travels whole in its messages (`core::job::carried`), as most small jobs do.

use super::engine::{Course, Rig, channel, order};
use super::figures::{Sample, micros};
use super::system::{begin_own_peak, children, own_peak_rss, peak_rss};
use crate::cli::Failure;
use crate::ports::blobs::BlobStore;
use crate::ports::engine::{EngineConfig, EnginePort};
use remote_network_core::id::Digest;
use remote_network_core::port::{EngineEvent, EngineJob, ExitClass, Program};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A guest that does nothing, made another module by the number in it.
fn idle(n: u64) -> String {
    format!(r#"(module (global i64 (i64.const {n})) (memory (export "memory") 1) (func (export "_start")))"#)
}

/// Never ends.
const LOOP: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;

/// Writes `mib` MiB to standard output, 64 KiB at a time.
fn flood(mib: u64) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start") (local $left i32)
    (local.set $left (i32.const {}))
    (i32.store (i32.const 0) (i32.const 65536))
    (i32.store (i32.const 4) (i32.const 65536))
    (loop $more
      (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $more (local.get $left)))))"#,
        mib * 16
    )
}

/// How long a stopped guest may take before it is killed: never needed.
const GRACE: Duration = Duration::from_secs(10);
/// How often the memory of workers is looked at while they write.
const LOOK_EVERY: Duration = Duration::from_millis(20);

struct Bench {
    rig: Rig,
    store: BlobStore,
}

/// Runs it and tells the figures.
pub fn run(root: &Path, jobs: u16, stdout_mib: u16) -> Result<Value, Failure> {
    let store = BlobStore::open(root, 1 << 40).map_err(|e| Failure::work(e.to_string()))?;
    let (to_core, events) = channel();
    let config = EngineConfig::beneath(&root.join("engine"))?;
    let port = EnginePort::start(config, Arc::new(store.clone()), to_core)
        .map_err(|e| Failure::work(e.to_string()))?;
    let rig = Rig::new(move |job, request| port.submit(job, request), events);
    let mut bench = Bench { rig, store };
    let mut figures = json!({"bench": "wasm", "jobs": jobs});
    bench.starts(u64::from(jobs), &mut figures)?;
    bench.cancels(u64::from(jobs), &mut figures)?;
    bench.flooded(u64::from(stdout_mib), &mut figures)?;
    Ok(figures)
}

impl Bench {
    fn program(&self, text: &str) -> Result<Program, Failure> {
        let module = wat::parse_str(text).map_err(|e| Failure::work(e.to_string()))?;
        let stored = self.store.import(&mut module.as_slice()).map_err(|e| Failure::work(e.to_string()))?;
        Ok(Program::Wasm(stored.digest))
    }

    fn order(&self, text: &str) -> Result<EngineJob, Failure> {
        Ok(order(self.program(text)?, 1 << 20))
    }

    fn starts(&mut self, jobs: u64, figures: &mut Value) -> Result<(), Failure> {
        // Each of these modules is seen for the first time, and then once more in a worker that is new for it because its
        // limits are others; then by the worker that is still there.
        let [mut cold, mut compiled, mut warm, mut light] = <[Times; 4]>::default();
        for n in 0..jobs {
            let mut order = self.order(&idle(n))?;
            cold.add(&self.rig.run(order.clone())?);
            order.limits.memory_bytes += 65_536;
            compiled.add(&self.rig.run(order.clone())?);
            warm.add(&self.rig.run(order.clone())?);
            light.add(&self.rig.run(EngineJob { carried: Some(Vec::new()), ..order })?);
        }
        cold.tell("cold", figures);
        compiled.tell("compiled", figures);
        warm.tell("warm", figures);
        light.tell("light", figures);
        Ok(())
    }

    fn cancels(&mut self, jobs: u64, figures: &mut Value) -> Result<(), Failure> {
        let order = self.order(LOOP)?;
        let mut sample = Sample::default();
        for _ in 0..jobs {
            let (job, _) = self.rig.start(order.clone());
            match self.rig.next(job)? {
                EngineEvent::Started => {}
                EngineEvent::Exited(exit) => return Err(Failure::work(format!("it ended: {exit:?}"))),
            }
            let at = Instant::now();
            self.rig.stop(job, GRACE);
            match self.rig.next(job)? {
                EngineEvent::Exited(exit) if exit.class == ExitClass::Cancelled => sample.add(at.elapsed()),
                other => return Err(Failure::work(format!("a stop was answered by {other:?}"))),
            }
        }
        figures["cancel_p50_us"] = json!(sample.percentile_us(50));
        figures["cancel_p99_us"] = json!(sample.percentile_us(99));
        Ok(())
    }

    fn flooded(&mut self, mib: u64, figures: &mut Value) -> Result<(), Failure> {
        let bytes = mib << 20;
        // The first job of the module has the worker grow to its usual size.
        self.rig.run(order(self.program(&flood(1))?, bytes))?;
        let big = order(self.program(&flood(mib))?, bytes);
        let (over, worker) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let watch = (Arc::clone(&over), Arc::clone(&worker));
        let watcher = std::thread::spawn(move || {
            while !watch.0.load(Ordering::Relaxed) {
                let most = children(std::process::id()).into_iter().map(peak_rss).max().unwrap_or(0);
                watch.1.fetch_max(most, Ordering::Relaxed);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        let before = begin_own_peak();
        let course = self.rig.run(big);
        let growth = own_peak_rss().saturating_sub(before);
        over.store(true, Ordering::Relaxed);
        let _watched = watcher.join();
        let Course { exited, exit, .. } = course?;
        if exit.outputs.first().map(|o| (o.len, o.digest)) != Some((bytes, zeros(bytes))) {
            return Err(Failure::work("the large output is not what was written"));
        }
        figures["stdout_bytes"] = json!(bytes);
        figures["stdout_node_growth_bytes"] = json!(growth);
        figures["stdout_worker_peak_rss_bytes"] = json!(worker.load(Ordering::Relaxed));
        figures["stdout_mb_per_s"] = json!(bytes / micros(exited).max(1));
        Ok(())
    }
}

/// The digest of so many zeros.
fn zeros(len: u64) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let block = vec![0; 1 << 20];
    for _ in 0..len >> 20 {
        hasher.update(&block);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// Starts of one kind.
#[derive(Default)]
struct Times {
    started: Sample,
    exited: Sample,
}

impl Times {
    fn add(&mut self, course: &Course) {
        self.started.add(course.started);
        self.exited.add(course.exited);
    }

    fn tell(&self, kind: &str, figures: &mut Value) {
        for (what, sample) in [("start", &self.started), ("job", &self.exited)] {
            for percent in [50, 99] {
                figures[format!("{kind}_{what}_p{percent}_us")] = json!(sample.percentile_us(percent));
            }
        }
    }
}
