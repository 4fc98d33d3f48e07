//! Workers that are kept for the next job of the same kind.
//!
//! Starting a process, confining it and loading code costs milliseconds; a job of a small task costs a tenth of one. So a worker
//! that has ended a job well stays for the next: **of the same requester, with the same module and the same limits**, and of
//! nobody else. Then nothing of its confinement ever has to be loosened: the limits of the process are exact, Landlock's rules
//! are what they were, and the module is compiled code that was verified at the start. One worker runs one job at a time, each
//! in a store of its own that is gone before the end is told.
//!
//! ```text
//! <scratch>/worker-<n>/
//!   r/  module.wasm  <job>/…     read by the worker
//!   w/  <job>/…                  written by it
//! ```
//! A job's files are laid out elsewhere, moved here when its turn comes and moved out again at its end (`enter`, `leave`):
//! the worker's rules hold for these two directories and what lies beneath, so it reaches no job's files before or after.
//!
//! A worker ends after [`IDLE_MAX`] without work, after [`JOBS_MAX`] jobs or [`AGE_MAX`], and at once when a job of it was stopped, hit
//! a limit or failed for another reason than its own exit code, when its guests have trapped [`TRAPS_MAX`] times, when it left
//! anything behind, or when it spoke out of turn.

use super::EngineConfig;
use super::process::Worker;
use crate::ports::workdir::{READ, WRITTEN};
use remote_network_core::id::{Digest, PublicKey};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A worker without work is kept so long: longer than the pauses within a run, too short to fill a machine with.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(30);
/// How often idle workers are looked at, while there are workers at all.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Workers without work, of all requesters: some 20 MiB each.
const IDLE_WORKERS_MAX: usize = 16;
/// Jobs of one worker, so that whatever a job may leave in a process does not add up for ever.
pub(super) const JOBS_MAX: u32 = 1_000;
/// The life of a worker, for the same reason.
pub(super) const AGE_MAX: Duration = Duration::from_secs(600);
/// Traps in a worker's life: honest programs trap now and then, somebody who looks for a hole often.
pub(super) const TRAPS_MAX: u32 = 3;

/// What jobs must have in common to share a worker, one after the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Kind {
    pub tenant: PublicKey,
    pub module: Digest,
    pub memory_bytes: u64,
    pub output_bytes: u64,
}

/// A worker without work.
struct Idle {
    kind: Kind,
    worker: Worker,
    since: Instant,
}

#[derive(Default)]
struct Rest {
    idle: Vec<Idle>,
    workers: u64,
    closed: bool,
}

/// All workers without work, and the thread whose children all workers are.
pub(super) struct Pool {
    rest: Arc<Mutex<Rest>>,
    keeper: Sender<Sender<io::Result<Worker>>>,
    scratch: PathBuf,
}

fn locked(rest: &Mutex<Rest>) -> MutexGuard<'_, Rest> {
    rest.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Starts the thread. It ends with the pool, and by the kernel's parent death signal so do all workers.
    pub(super) fn start(config: EngineConfig) -> io::Result<Self> {
        let rest = Arc::new(Mutex::new(Rest::default()));
        let (keeper, wanted) = mpsc::channel();
        let scratch = config.scratch_dir.clone();
        let kept = Arc::clone(&rest);
        std::thread::Builder::new()
            .name("engine-workers".into())
            .spawn(move || keep(&config, &wanted, &kept))?;
        Ok(Self { rest, keeper, scratch })
    }

    /// A worker of this kind that waits for work.
    pub(super) fn take(&self, kind: &Kind) -> Option<Worker> {
        loop {
            let mut rest = locked(&self.rest);
            let at = rest.idle.iter().rposition(|idle| idle.kind == *kind)?;
            let idle = rest.idle.remove(at);
            drop(rest);
            // One that has died or spoken meanwhile is dropped here, and the next one asked for.
            if idle.worker.is_quiet() {
                return Some(idle.worker);
            }
        }
    }

    /// A new worker, with directories of its own.
    pub(super) fn fresh(&self) -> io::Result<Worker> {
        let number = {
            let mut rest = locked(&self.rest);
            rest.workers += 1;
            rest.workers
        };
        let (answer, answered) = mpsc::channel();
        let gone = || io::Error::other("no thread for workers");
        self.keeper.send(answer).map_err(|_| gone())?;
        let mut worker = answered.recv().map_err(|_| gone())??;
        let dir = self.scratch.join(format!("worker-{number}"));
        worker.settle(dir.clone());
        for sub in [dir.clone(), dir.join(READ), dir.join(WRITTEN)] {
            DirBuilder::new().mode(0o700).create(sub)?;
        }
        Ok(worker)
    }

    /// Keeps a worker that may have another job.
    pub(super) fn give(&self, kind: Kind, worker: Worker) {
        let mut rest = locked(&self.rest);
        let mut surplus = None;
        if !rest.closed {
            if rest.idle.len() >= IDLE_WORKERS_MAX {
                surplus = Some(rest.idle.remove(0));
            }
            rest.idle.push(Idle { kind, worker, since: Instant::now() });
        }
        drop(rest);
        // Ending a worker waits for the kernel: not under the lock.
        drop(surplus);
    }

    /// Ends the idle workers; none is kept from now on.
    pub(super) fn close(&self) {
        let mut rest = locked(&self.rest);
        rest.closed = true;
        let idle = std::mem::take(&mut rest.idle);
        drop(rest);
        drop(idle);
    }
}

/// The thread's life: every worker is its child, since a worker dies with the thread that started it.
fn keep(config: &EngineConfig, wanted: &Receiver<Sender<io::Result<Worker>>>, rest: &Mutex<Rest>) {
    let alive = Arc::new(());
    loop {
        let any = Arc::strong_count(&alive) > 1;
        let next = if any {
            wanted.recv_timeout(LOOK_EVERY)
        } else {
            wanted.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match next {
            Ok(answer) => {
                // Whoever wanted it may have gone: then it ends right here.
                let _gone = answer.send(Worker::spawn(config, Some(Arc::clone(&alive))));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        let old = |idle: &mut Idle| now.duration_since(idle.since) >= IDLE_MAX;
        let ended: Vec<Idle> = locked(rest).idle.extract_if(.., old).collect();
        drop(ended);
    }
}
