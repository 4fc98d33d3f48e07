//! One job from the node's side: stage, find a worker, listen to it, collect the outputs.
//!
//! The worker is not trusted with time: each of its phases has a deadline here, after which it is killed. Its death by
//! itself is this machine's trouble, unless a limit killed it.

use super::cache::CodeCache;
use super::frame::{CODE, Class, Ended, FromWorker, MODULE, Spec, ToWorker};
use super::light;
use super::module::stage_module;
use super::pool::{Kind, Pool};
use super::process::Worker;
use crate::failpoints::pass;
use crate::ports::workdir::{
    EngineBlobs, READ, Refused, collect, exit_of, seal::open_beneath, stage::mounts_of, stage::stage,
};
use bytes::Bytes;
use remote_network_core::id::Digest;
use remote_network_core::port::{CARRIED_TIME_MAX, EngineExit, EngineJob, ExitClass, Program, Usage};
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
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
    pub cache: &'a CodeCache,
    pub code_version: &'a str,
    pub blobs: &'a dyn EngineBlobs,
    pub pool: &'a Pool,
    /// Whether workers are kept at all.
    pub reuse: bool,
    pub job: &'a EngineJob,
    pub dir: &'a Path,
    pub control: &'a Control,
    pub signals: &'a Receiver<Signal>,
}

impl Execution<'_> {
    /// Runs the job to its end; `started` is called at most once. Leaves nothing behind but the objects in the store.
    pub(super) fn run(&self, started: &mut dyn FnMut()) -> EngineExit {
        let exit = self.staged(started).unwrap_or_else(|refused| exit_of(refused.class, &refused.detail));
        // What needs no directory has left none, unless it was too much for memory.
        if light::needs_no_directory(self.job) && !self.dir.exists() {
            return exit;
        }
        if let Err(e) = fs::remove_dir_all(self.dir)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.dir.display(), error = %e, "a job's directory stays behind");
        }
        exit
    }

    fn staged(&self, started: &mut dyn FnMut()) -> Result<EngineExit, Refused> {
        let light = light::needs_no_directory(self.job);
        let kind = self.kind()?;
        let mounts = if light {
            mounts_of(self.job)?
        } else {
            let _ = fs::remove_dir_all(self.dir);
            stage(self.job, self.dir, self.blobs, &|| self.control.stopped().is_some())?
        };
        let mut worker = self.worker(&kind)?;
        // Counted before its room is named: each job has a room of its own.
        worker.attach(self.control.to_job.clone());
        let (read, written) = if light { worker.room() } else { worker.enter(self.dir).map_err(infra)? };
        pass("wasm.staged");
        worker.tell(&ToWorker::Job(Box::new(Spec {
            root: worker.dir().to_owned(),
            read,
            written,
            code: self.cache.get_unless(worker.is_used(), &kind.module, self.code_version),
            args: self.job.args.clone(),
            env: self.job.env.clone(),
            mounts,
            memory_bytes: self.job.limits.memory_bytes,
            time_ms: self.job.limits.time_ms,
            output_bytes: self.job.limits.output_bytes,
            seed: self.job.seed,
            light,
            stdin: if light { light::stdin(self.job) } else { Bytes::new() },
        })));
        let mut ran = None;
        let (mut ended, fit) = self.listen(&kind.module, &mut worker, &mut ran, started);
        pass("wasm.ended");
        worker.detach(ended.trapped);
        if !fit {
            worker.kill();
        }
        // What a light job left is files only if it was too much for memory.
        let in_memory = light && ended.stdout_len.is_some();
        let moved = match (light, in_memory) {
            (_, true) => Ok(()),
            (true, false) => worker.leave_written(self.dir),
            (false, false) => worker.leave(self.dir),
        };
        if fit && moved.is_ok() && self.reuse && worker.may_go_on() {
            self.pool.give(kind, worker);
        } else {
            drop(worker);
        }
        let mut exit = exit_of(ended.class.into(), &ended.detail);
        exit.code = if matches!(ended.class, Class::User | Class::Success) { ended.code } else { 0 };
        exit.usage = Usage {
            cpu_ns: ended.cpu_ns,
            fuel: ended.fuel,
            memory_bytes: ended.memory_bytes,
            wall_ms: ended.wall_ms,
        };
        if let Some(ran) = ran {
            let small = self.job.carried.is_some() && ran.elapsed() < CARRIED_TIME_MAX;
            if in_memory {
                let carried = std::mem::take(&mut ended.carried);
                light::collect(self.job, ended.stdout_len.unwrap_or(0), carried, &mut exit);
                if !small {
                    light::keep(self.blobs, &mut exit);
                }
            } else if !(small && light::collect_files(self.dir, self.job, &mut exit)) {
                collect(self.dir, self.job, self.blobs, &mut exit);
            }
            pass("wasm.collected");
        }
        Ok(exit)
    }

    /// What a worker must be for, to be right for this job.
    fn kind(&self) -> Result<Kind, Refused> {
        Ok(Kind {
            tenant: self.job.tenant,
            module: self.module()?,
            memory_bytes: self.job.limits.memory_bytes,
            output_bytes: self.job.limits.output_bytes,
        })
    }

    /// One that waits for work, or a new one with the module laid out for it.
    fn worker(&self, kind: &Kind) -> Result<Worker, Refused> {
        if let Some(worker) = self.pool.take(kind) {
            return Ok(worker);
        }
        let worker = self.pool.fresh().map_err(infra)?;
        stage_module(&kind.module, &worker.dir().join(READ).join(MODULE), self.blobs)?;
        Ok(worker)
    }

    fn module(&self) -> Result<Digest, Refused> {
        match &self.job.program {
            Program::Wasm(module) => Ok(*module),
            Program::Image(_) => Err(Refused::permanent("a container image is no WebAssembly module")),
        }
    }

    /// Listens until the worker has told the end, has died, or has overrun a deadline. With it whether, by what it told, the
    /// worker may have another job.
    fn listen(
        &self,
        module: &Digest,
        worker: &mut Worker,
        ran: &mut Option<Instant>,
        started: &mut dyn FnMut(),
    ) -> (Ended, bool) {
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
                // A worker that has run a guest compiles nothing: what it offers may be the guest's, and the cache is everybody's.
                Ok(Signal::Said(FromWorker::Compiled)) if ran.is_none() && !worker.is_used() => {
                    self.keep_code(module, worker);
                    worker.tell(&ToWorker::Run);
                }
                Ok(Signal::Said(FromWorker::Started)) if ran.is_none() => {
                    *ran = Some(Instant::now());
                    if !stopping {
                        let limit = Duration::from_millis(self.job.limits.time_ms);
                        deadline = Instant::now() + limit.saturating_add(OVERRUN_MAX);
                    }
                    started();
                    pass("wasm.started");
                }
                // Said twice: a guest that has taken over its worker gains no time by it.
                Ok(Signal::Said(FromWorker::Compiled | FromWorker::Started)) => {}
                Ok(Signal::Said(FromWorker::Ended(ended))) => {
                    let own = matches!(ended.class, Class::Success | Class::User);
                    return (ended, own && ran.is_some() && !stopping);
                }
                Ok(Signal::Silent) | Err(RecvTimeoutError::Disconnected) => {
                    return (self.died(worker.wait(), stopping, *ran), false);
                }
                Err(RecvTimeoutError::Timeout) => return (self.overran(stopping, *ran), false),
            }
        }
    }

    /// Takes the code the worker has compiled. A cache that fails costs time, not jobs.
    fn keep_code(&self, module: &Digest, worker: &Worker) {
        let kept = open_beneath(&worker.written(), CODE, "code")
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

fn infra(e: io::Error) -> Refused {
    Refused::infra(format!("worker: {e}"))
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
