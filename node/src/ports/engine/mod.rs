//! The WebAssembly engine (SPEC 6.4): the core's orders become processes, their ends become events.
//!
//! **A guest never runs in the node.** The node holds the keys; a guest is a stranger's program, and no sandbox is without
//! holes for long. So guests run in *workers*: this same binary under a hidden argument, with an empty environment, which
//! confines itself before it reads anything a stranger wrote (`sandbox`). A worker runs one job at a time, and only jobs of one
//! requester with one module and the same limits: no requester's guest ever shares a process with another's, limits of the process are
//! limits of the job, and killing it costs one job. What is expensive is done once: compiling (`cache`), starting and loading (`pool`).
//!
//! The rooms: `frame` what node and worker say; `module` what is compiled; `run` a job in the node, whose files are of
//! [`crate::ports::workdir`]; `cache` compiled code; `process` a worker as the node has it, `pool` those without work; `worker` the
//! other process: `sandbox` its walls, `guest` its run, `watch` its clock, `wasi` the guest's world.
//!
//! **Order.** [`EnginePort::submit`] never blocks. At most `running_max` jobs run, others wait in order. Every accepted start is
//! answered by exactly one `Exited`, with its outputs durable in the store before; a start of a job that waits or runs is
//! ignored, and so is a stop of one that does neither.

mod cache;
mod frame;
mod guest;
mod module;
mod pool;
mod process;
mod run;
mod sandbox;
mod wasi;
mod watch;
pub mod worker;

pub use crate::ports::workdir::EngineBlobs;
use crate::ports::workdir::exit_of;
use cache::CodeCache;
use frame::{FromWorker, ToWorker};
use pool::Pool;
use process::Worker;
use remote_network_core::event::Event;
use remote_network_core::id::JobId;
use remote_network_core::limits::{JOBS_MAX, JOBS_RUNNING_MAX};
use remote_network_core::port::{EngineEvent, EngineJob, EngineReport, EngineRequest, ExitClass};
use run::{Control, Execution, Signal};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// The hidden argument that makes the node's binary a worker.
pub const WORKER_ARGUMENT: &str = "worker";
/// Compiled code kept on disk: some hundred modules of usual size.
const CACHE_BYTES_MAX: u64 = 1 << 30;
/// How long the first worker may take to tell what confines it.
const PROBE_TIME_MAX: Duration = Duration::from_secs(20);

/// Where and how the engine runs.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The executable to run as worker.
    pub worker: PathBuf,
    /// Its arguments, the hidden one first.
    pub worker_args: Vec<String>,
    /// Compiled code; made if missing. Only the node may write there.
    pub cache_dir: PathBuf,
    /// Files of running jobs; made if missing, and what a crash left there is removed.
    pub scratch_dir: PathBuf,
    /// Jobs at once.
    pub running_max: usize,
}

impl EngineConfig {
    /// This very executable as worker, its files below `dir`.
    pub fn beneath(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            worker: std::env::current_exe()?,
            worker_args: vec![WORKER_ARGUMENT.to_owned()],
            cache_dir: dir.join("code"),
            scratch_dir: dir.join("scratch"),
            running_max: JOBS_RUNNING_MAX,
        })
    }
}

/// Why there is no engine.
#[derive(Debug, Error)]
pub enum EngineStartError {
    /// A directory cannot be made or read.
    #[error("{0}: {1}")]
    Directory(PathBuf, io::Error),
    /// The worker does not start.
    #[error("the worker {0} does not start: {1}")]
    Worker(PathBuf, io::Error),
    /// The worker does not answer as a worker of this version.
    #[error("the worker {0} does not answer as it should: {1}")]
    Answer(PathBuf, String),
}

/// The engine. Dropping it ends all jobs and their workers without a word.
pub struct EnginePort {
    shared: Arc<Shared>,
    confinement: Vec<String>,
}

struct Shared {
    config: EngineConfig,
    cache: CodeCache,
    pool: Pool,
    /// Whether what confines workers here keeps one job's files from the next.
    reuse: bool,
    code_version: String,
    blobs: Arc<dyn EngineBlobs>,
    events: async_channel::Sender<Event>,
    jobs: Mutex<Jobs>,
}

#[derive(Default)]
struct Jobs {
    running: BTreeMap<JobId, Arc<Control>>,
    waiting: VecDeque<(JobId, EngineJob)>,
    closed: bool,
}

impl EnginePort {
    /// Prepares the directories and tries a worker out. Blocks for some ten milliseconds.
    pub fn start(
        config: EngineConfig,
        blobs: Arc<dyn EngineBlobs>,
        events: async_channel::Sender<Event>,
    ) -> Result<Self, EngineStartError> {
        let failed = |dir: &Path| {
            let dir = dir.to_owned();
            move |e| EngineStartError::Directory(dir, e)
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.scratch_dir)
            .and_then(|()| sweep(&config.scratch_dir))
            .map_err(failed(&config.scratch_dir))?;
        let cache = CodeCache::open(&config.cache_dir, CACHE_BYTES_MAX).map_err(failed(&config.cache_dir))?;
        let (confinement, code_version) = probe(&config)?;
        let reuse = confinement.iter().any(|c| c.starts_with(sandbox::LANDLOCK_IN_FORCE));
        let jobs = Mutex::default();
        let pool =
            Pool::start(config.clone()).map_err(|e| EngineStartError::Worker(config.worker.clone(), e))?;
        let shared = Arc::new(Shared { config, cache, pool, reuse, code_version, blobs, events, jobs });
        Ok(Self { shared, confinement })
    }

    /// Takes a request. Never blocks.
    pub fn submit(&self, job: JobId, request: EngineRequest) {
        match request {
            EngineRequest::Start(order) => Shared::start(&self.shared, job, order),
            EngineRequest::Stop { grace } => Shared::stop(&self.shared, job, grace),
        }
    }

    /// What confines guests on this machine, in words for `doctor` and the status page.
    pub fn confinement(&self) -> Vec<&str> {
        self.confinement.iter().map(String::as_str).collect()
    }
}

impl Drop for EnginePort {
    fn drop(&mut self) {
        let mut jobs = self.shared.jobs();
        jobs.closed = true;
        jobs.waiting.clear();
        for control in jobs.running.values() {
            control.stop(Duration::ZERO);
        }
        drop(jobs);
        self.shared.pool.close();
    }
}

impl Shared {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, job: JobId, order: EngineJob) {
        let mut jobs = self.jobs();
        if jobs.running.contains_key(&job) || jobs.waiting.iter().any(|(id, _)| *id == job) {
            return;
        }
        if jobs.running.len() >= self.config.running_max.max(1) {
            if jobs.waiting.len() < JOBS_MAX {
                jobs.waiting.push_back((job, order));
            } else {
                drop(jobs);
                self.answer_aside(job, ExitClass::Infra, "too many jobs are waiting");
            }
            return;
        }
        let signals = enter(&mut jobs, job);
        drop(jobs);
        let shared = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("engine-job".into())
            .spawn(move || shared.work((job, order, signals.0, signals.1)));
        if let Err(e) = spawned {
            self.jobs().running.remove(&job);
            self.answer_aside(job, ExitClass::Infra, &format!("no thread for the job: {e}"));
        }
    }

    fn stop(self: &Arc<Self>, job: JobId, grace: Duration) {
        let mut jobs = self.jobs();
        if let Some(control) = jobs.running.get(&job) {
            control.stop(grace);
        } else if let Some(at) = jobs.waiting.iter().position(|(id, _)| *id == job) {
            jobs.waiting.remove(at);
            drop(jobs);
            self.answer_aside(job, ExitClass::Cancelled, "stopped before it started");
        }
    }

    /// A thread's life: its first job, then whatever waits.
    fn work(&self, first: (JobId, EngineJob, Arc<Control>, Receiver<Signal>)) {
        let mut next = Some(first);
        while let Some((job, order, control, signals)) = next.take() {
            let exit = catch_unwind(AssertUnwindSafe(|| {
                Execution {
                    cache: &self.cache,
                    pool: &self.pool,
                    reuse: self.reuse,
                    code_version: &self.code_version,
                    blobs: &*self.blobs,
                    job: &order,
                    dir: &self.config.scratch_dir.join(format!("job-{job}")),
                    control: &control,
                    signals: &signals,
                }
                .run(&mut || self.report(job, EngineEvent::Started))
            }))
            .unwrap_or_else(|_| exit_of(ExitClass::Infra, "the engine panicked"));
            let mut jobs = self.jobs();
            jobs.running.remove(&job);
            next = jobs.waiting.pop_front().map(|(job, order)| {
                let (control, signals) = enter(&mut jobs, job);
                (job, order, control, signals)
            });
            let closed = jobs.closed;
            drop(jobs);
            if !closed {
                self.report(job, EngineEvent::Exited(exit));
            }
        }
    }

    /// Says something to the core, waiting while its channel is full. A core that is gone needs no word.
    fn report(&self, job: JobId, event: EngineEvent) {
        let _ = self.events.send_blocking(Event::Engine(EngineReport { job, event }));
    }

    /// Answers without a worker, and without making the caller of `submit` wait for a full channel.
    fn answer_aside(self: &Arc<Self>, job: JobId, class: ExitClass, why: &str) {
        let exit = EngineEvent::Exited(exit_of(class, why));
        let event = Event::Engine(EngineReport { job, event: exit });
        if let Err(async_channel::TrySendError::Full(event)) = self.events.try_send(event) {
            let events = self.events.clone();
            std::thread::spawn(move || drop(events.send_blocking(event)));
        }
    }
}

fn enter(jobs: &mut Jobs, job: JobId) -> (Arc<Control>, Receiver<Signal>) {
    let (to_job, signals) = mpsc::channel();
    let control = Arc::new(Control::new(to_job));
    jobs.running.insert(job, Arc::clone(&control));
    (control, signals)
}

/// Removes the directories that a crash has left. Their workers died with the node.
fn sweep(scratch: &Path) -> io::Result<()> {
    for entry in fs::read_dir(scratch)? {
        let entry = entry?;
        let name = entry.file_name();
        if ["job-", "worker-"].iter().any(|kind| name.to_string_lossy().starts_with(kind)) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Starts a worker only to learn what confines it and which code it can load.
fn probe(config: &EngineConfig) -> Result<(Vec<String>, String), EngineStartError> {
    let (said, signals) = mpsc::channel();
    let mut worker =
        Worker::spawn(config, None).map_err(|e| EngineStartError::Worker(config.worker.clone(), e))?;
    worker.attach(said);
    worker.tell(&ToWorker::Probe { dir: config.scratch_dir.clone() });
    let wrong = |why: String| Err(EngineStartError::Answer(config.worker.clone(), why));
    let deadline = Instant::now() + PROBE_TIME_MAX;
    match signals.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(Signal::Said(FromWorker::Ready { confinement, code_version })) => Ok((confinement, code_version)),
        Ok(Signal::Said(FromWorker::Ended(ended))) => wrong(ended.detail),
        Ok(Signal::Said(FromWorker::Compiled | FromWorker::Started)) => wrong("out of order".into()),
        Ok(Signal::Silent | Signal::Stop) => wrong("it said nothing".into()),
        Err(e) => wrong(e.to_string()),
    }
}
