//! One job from the node's side: stage, start a worker, listen to it, collect the outputs.
//!
//! The worker is not trusted with time: each of its phases has a deadline here, after which it is killed. Its death by
//! itself is this machine's trouble, unless a limit killed it.

use super::EngineConfig;
use super::cache::CodeCache;
use super::frame::{
    self, Class, Ended, FROM_WORKER_BYTES_MAX, FROM_WORKER_FRAMES_MAX, FromWorker, Spec, ToWorker,
};
use super::module::stage_module;
use crate::ports::workdir::{
    EngineBlobs, READ, Refused, WRITTEN, collect, exit_of, seal::open_beneath, stage::stage,
};
use remote_network_core::id::Digest;
use remote_network_core::port::{EngineExit, EngineJob, ExitClass, Program, Usage};
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// Starting a worker, confining it and compiling a module of the largest size on a slow and busy machine.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(60);
/// What a worker may need beyond its guest's time to tell that the time is over.
const OVERRUN_MAX: Duration = Duration::from_secs(2);
/// A stopped worker gets at least this long to tell its usage.
const GRACE_MIN: Duration = Duration::from_millis(500);

/// What reaches the thread of a job.
pub(super) enum Signal {
    /// The worker says something.
    Said(FromWorker),
    /// The worker says no more.
    Silent,
    /// Somebody called [`Control::stop`].
    Stop,
}

/// The way to a running or waiting job.
pub(super) struct Control {
    to_job: Sender<Signal>,
    stop: Mutex<Option<Duration>>,
}

impl Control {
    pub(super) fn new(to_job: Sender<Signal>) -> Self {
        Self { to_job, stop: Mutex::new(None) }
    }

    /// Asks the job to end within `grace`.
    pub(super) fn stop(&self, grace: Duration) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(grace);
        // A job that has just ended hears nothing, rightly.
        let _ = self.to_job.send(Signal::Stop);
    }

    fn stopped(&self) -> Option<Duration> {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that one execution needs.
pub(super) struct Execution<'a> {
    pub config: &'a EngineConfig,
    pub cache: &'a CodeCache,
    pub code_version: &'a str,
    pub blobs: &'a dyn EngineBlobs,
    pub job: &'a EngineJob,
    pub dir: &'a Path,
    pub control: &'a Control,
    pub signals: &'a Receiver<Signal>,
}

impl Execution<'_> {
    /// Runs the job to its end; `started` is called at most once. Leaves nothing behind but the objects in the store.
    pub(super) fn run(&self, started: &mut dyn FnMut()) -> EngineExit {
        let exit = self.staged(started).unwrap_or_else(|refused| exit_of(refused.class, &refused.detail));
        if let Err(e) = fs::remove_dir_all(self.dir)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.dir.display(), error = %e, "a job's directory stays behind");
        }
        exit
    }

    fn staged(&self, started: &mut dyn FnMut()) -> Result<EngineExit, Refused> {
        let _ = fs::remove_dir_all(self.dir);
        let module = self.module()?;
        let mounts = stage(self.job, self.dir, self.blobs, &|| self.control.stopped().is_some())?;
        stage_module(&module, &self.dir.join(READ).join("module.wasm"), self.blobs)?;
        let infra = |e: io::Error| Refused { class: ExitClass::Infra, detail: format!("worker: {e}") };
        let mut worker = Worker::spawn(self.config, self.control.to_job.clone()).map_err(infra)?;
        worker.tell(&ToWorker::Job(Box::new(Spec {
            dir: self.dir.to_owned(),
            code: self.cache.get(&module, self.code_version),
            args: self.job.args.clone(),
            env: self.job.env.clone(),
            mounts,
            memory_bytes: self.job.limits.memory_bytes,
            time_ms: self.job.limits.time_ms,
            output_bytes: self.job.limits.output_bytes,
            seed: self.job.seed,
        })));
        let mut ran = None;
        let ended = self.listen(&module, &mut worker, &mut ran, started);
        drop(worker);
        let mut exit = exit_of(ended.class.into(), &ended.detail);
        exit.code = if matches!(ended.class, Class::User | Class::Success) { ended.code } else { 0 };
        exit.usage = Usage {
            cpu_ns: ended.cpu_ns,
            fuel: ended.fuel,
            memory_bytes: ended.memory_bytes,
            wall_ms: ended.wall_ms,
        };
        if ran.is_some() {
            collect(self.dir, self.job, self.blobs, &mut exit);
        }
        Ok(exit)
    }

    fn module(&self) -> Result<Digest, Refused> {
        match &self.job.program {
            Program::Wasm(module) => Ok(*module),
            Program::Image(_) | Program::Native(_) => {
                Err(Refused::permanent("this is no WebAssembly module"))
            }
        }
    }

    /// Listens until the worker has told the end, has died, or has overrun a deadline.
    fn listen(
        &self,
        module: &Digest,
        worker: &mut Worker,
        ran: &mut Option<Instant>,
        started: &mut dyn FnMut(),
    ) -> Ended {
        let mut deadline = Instant::now() + COMPILE_TIME_MAX;
        let mut stopping = false;
        loop {
            if let Some(grace) = self.control.stopped()
                && !stopping
            {
                stopping = true;
                worker.tell(&ToWorker::Stop);
                deadline = deadline.min(Instant::now() + grace.max(GRACE_MIN));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.signals.recv_timeout(left) {
                Ok(Signal::Said(FromWorker::Ready { .. }) | Signal::Stop) => {}
                Ok(Signal::Said(FromWorker::Compiled)) if ran.is_none() => {
                    self.keep_code(module);
                    worker.tell(&ToWorker::Run);
                }
                Ok(Signal::Said(FromWorker::Started)) if ran.is_none() => {
                    *ran = Some(Instant::now());
                    if !stopping {
                        let limit = Duration::from_millis(self.job.limits.time_ms);
                        deadline = Instant::now() + limit.saturating_add(OVERRUN_MAX);
                    }
                    started();
                }
                // Said twice: a guest that has taken over its worker gains no time by it.
                Ok(Signal::Said(FromWorker::Compiled | FromWorker::Started)) => {}
                Ok(Signal::Said(FromWorker::Ended(ended))) => return ended,
                Ok(Signal::Silent) | Err(RecvTimeoutError::Disconnected) => {
                    return self.died(worker.wait(), stopping, *ran);
                }
                Err(RecvTimeoutError::Timeout) => return self.overran(stopping, *ran),
            }
        }
    }

    /// Takes the code the worker has compiled. A cache that fails costs time, not jobs.
    fn keep_code(&self, module: &Digest) {
        let kept = open_beneath(&self.dir.join(WRITTEN), "code.cwasm", "code")
            .map_err(io::Error::other)
            .and_then(|code: File| self.cache.insert(module, self.code_version, code));
        if let Err(e) = kept {
            tracing::warn!(error = %e, "compiled code is not kept");
        }
    }

    /// The worker is dead without having told an end.
    fn died(&self, status: Option<ExitStatus>, stopping: bool, ran: Option<Instant>) -> Ended {
        let limit = self.job.limits.output_bytes;
        let (class, why) = match status.and_then(|s| s.signal()) {
            _ if stopping => (Class::Cancelled, "stopped on request".to_owned()),
            Some(libc::SIGXFSZ) => (Class::Resource, format!("an output passed its limit of {limit} bytes")),
            // How Rust ends when there is no memory: the limits of the worker were hit, in compiling or in running.
            Some(libc::SIGABRT) => {
                (Class::Resource, "the worker ended itself, most likely out of memory".to_owned())
            }
            Some(signal) => (Class::Infra, format!("the worker was killed by signal {signal}")),
            None => (Class::Infra, "the worker ended without a word".to_owned()),
        };
        Ended { wall_ms: wall_ms(ran), ..Ended::unstarted(class, why) }
    }

    fn overran(&self, stopping: bool, ran: Option<Instant>) -> Ended {
        let (class, why) = match ran {
            _ if stopping => (Class::Cancelled, "stopped on request".to_owned()),
            Some(_) => {
                let limit = self.job.limits.time_ms;
                (Class::Resource, format!("it ran longer than its limit of {limit} ms and was killed"))
            }
            None => (Class::Resource, format!("compiling took longer than {} s", COMPILE_TIME_MAX.as_secs())),
        };
        Ended { wall_ms: wall_ms(ran), ..Ended::unstarted(class, why) }
    }
}

fn wall_ms(ran: Option<Instant>) -> u64 {
    ran.map_or(0, |at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX))
}

impl From<Class> for ExitClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Success => Self::Success,
            Class::User => Self::User,
            Class::Resource => Self::Resource,
            Class::Permanent => Self::Permanent,
            Class::Infra => Self::Infra,
            Class::Cancelled => Self::Cancelled,
        }
    }
}

/// A worker process. Dropping it kills and reaps it.
pub(super) struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Worker {
    /// Starts a worker whose words go to `signals`. It dies with the calling *thread* (Linux's parent death signal), which
    /// therefore keeps it.
    pub(super) fn spawn(config: &EngineConfig, signals: Sender<Signal>) -> io::Result<Self> {
        let mut child = Command::new(&config.worker)
            .args(&config.worker_args)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let worker = Self { child, stdin };
        let mut stdout = stdout.ok_or(io::ErrorKind::BrokenPipe)?;
        std::thread::Builder::new().name("engine-listen".into()).spawn(move || {
            for _ in 0..FROM_WORKER_FRAMES_MAX {
                let Ok(Some(said)) = frame::read(&mut stdout, FROM_WORKER_BYTES_MAX) else { break };
                if signals.send(Signal::Said(said)).is_err() {
                    return;
                }
            }
            let _ = signals.send(Signal::Silent);
        })?;
        Ok(worker)
    }

    /// Tells the worker something. A worker that cannot hear is about to be found dead.
    pub(super) fn tell(&mut self, frame: &ToWorker) {
        if let Some(stdin) = &mut self.stdin {
            let _ = frame::write(stdin, frame);
        }
    }

    /// The status of a worker that said its last; one that lives on after that is killed.
    fn wait(&mut self) -> Option<ExitStatus> {
        self.stdin = None;
        for _ in 0..20 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        None
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
