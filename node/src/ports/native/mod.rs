//! Native executables (SPEC 6.5): a stranger's machine code, in a sandbox of its own.
//!
//! Nothing stands between such a program and the kernel but what the kernel is told, so it is told everything: name spaces in which
//! there is nothing of the machine, a root made for the job, a user without rights, control groups, resource limits, Landlock, a filter
//! of system calls. The walls are the same on every machine or there is no such service there: where one cannot be made (no name
//! spaces, no filter for the processor), the port says why and runs nothing ([`NativeHandle::offered`]).
//!
//! The rooms: `elf` what is a program; `run` one job in the node, whose files are of [`crate::ports::workdir`]; `sandbox` its processes; `cgroup` limits of all its
//! processes together; `frame` what is said across the wall; `inside` the processes around the program, `root` the files it
//! sees, `walls` what it may not do; `raw` the system calls without a safe wrapper.
//!
//! **Order.** [`NativePort::submit`] never blocks. At most `running_max` jobs run, others wait in order. Every accepted start is
//! answered by exactly one `Exited`, with its outputs durable in the store before; a start of a job that waits or runs is
//! ignored, and so is a stop of one that does neither. Nothing outlives the node: after a restart a job is run anew.
//!
//! **What the kernel does not let go of.** A killed process may stay until a disk answers. Its job is told as failed, without
//! outputs; its files and its limits stay until it is gone, and it keeps its place among those that run, so such can never be many.

mod cgroup;
pub mod elf;
mod frame;
mod inside;
mod raw;
mod root;
mod run;
mod sandbox;
mod walls;

use crate::ports::workdir::{EngineBlobs, exit_of};
use cgroup::Groups;
pub use inside::{INIT_ARGUMENT, confine_main, init_main};
use remote_network_core::event::Event;
use remote_network_core::id::{Digest, JobId};
use remote_network_core::limits::{JOBS_MAX, JOBS_RUNNING_MAX};
use remote_network_core::port::{EngineEvent, EngineJob, EngineReport, EngineRequest, ExitClass, Target};
use run::{Control, Execution, Signal};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The hidden argument that makes the node's binary the confinement of a job.
pub const CONFINE_ARGUMENT: &str = "confine";

/// Where and how programs run.
#[derive(Clone, Debug)]
pub struct NativeConfig {
    /// The executable that confines: this one.
    pub confine: PathBuf,
    /// Files of running jobs; made if missing, and what a crash left there is removed.
    pub scratch_dir: PathBuf,
    /// Jobs at once.
    pub running_max: usize,
}

impl NativeConfig {
    /// This very executable, its files below `dir`.
    pub fn beneath(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            confine: std::env::current_exe()?,
            scratch_dir: dir.join("native"),
            running_max: JOBS_RUNNING_MAX,
        })
    }
}

/// The port. Dropping it ends all jobs and their processes without a word.
pub struct NativePort {
    shared: Arc<Shared>,
}

/// Asks whether programs can be run here.
#[derive(Clone, Debug)]
pub struct NativeHandle(Arc<Result<Vec<String>, String>>);

impl NativeHandle {
    /// Runs nothing.
    #[cfg(test)]
    pub fn off() -> Self {
        Self(Arc::new(Err("not in this test".to_owned())))
    }

    /// What confines programs on this machine, in words; or why there are none.
    pub fn offered(&self) -> Result<&[String], &str> {
        match &*self.0 {
            Ok(walls) => Ok(walls),
            Err(why) => Err(why),
        }
    }

    /// What runs here.
    pub fn target(&self) -> Option<Target> {
        self.offered().is_ok().then(elf::here)
    }
}

struct Shared {
    config: NativeConfig,
    groups: Groups,
    offered: Arc<Result<Vec<String>, String>>,
    blobs: Arc<dyn EngineBlobs>,
    events: async_channel::Sender<Event>,
    jobs: Mutex<Jobs>,
}

#[derive(Default)]
struct Jobs {
    running: BTreeMap<JobId, Arc<Control>>,
    waiting: VecDeque<(JobId, EngineJob)>,
    /// Those that have been told as ended and whose processes the kernel keeps.
    stuck: BTreeSet<JobId>,
    closed: bool,
}

/// A job that runs.
type Turn = (JobId, EngineJob, Arc<Control>, Receiver<Signal>);

/// Why nothing can be run for now.
const STUCK: &str =
    "the kernel keeps the processes of earlier jobs, which were killed; until they are gone no other can run";

impl NativePort {
    /// Prepares the directory and tries the walls out. Blocks for some ten milliseconds. A machine without name spaces is no error:
    /// see [`NativeHandle::offered`].
    pub fn start(
        config: NativeConfig,
        blobs: Arc<dyn EngineBlobs>,
        events: async_channel::Sender<Event>,
    ) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&config.scratch_dir)?;
        sweep(&config.scratch_dir)?;
        // Nodes of one machine have directories of their own, and so groups of their own.
        let scratch = config.scratch_dir.canonicalize()?;
        let place = Digest::of(scratch.as_os_str().as_encoded_bytes()).to_string();
        let groups = Groups::find(&format!("remote-network-{}", &place[..16]));
        let config = NativeConfig { scratch_dir: scratch, ..config };
        let offered = Arc::new(sandbox::probe(&config, &groups));
        Ok(Self {
            shared: Arc::new(Shared { config, groups, offered, blobs, events, jobs: Mutex::default() }),
        })
    }

    /// For questions whether programs are run.
    pub fn handle(&self) -> NativeHandle {
        NativeHandle(Arc::clone(&self.shared.offered))
    }

    /// Takes a request. Never blocks.
    pub fn submit(&self, job: JobId, request: EngineRequest) {
        match request {
            EngineRequest::Start(order) => Shared::start(&self.shared, job, order),
            EngineRequest::Stop { grace } => Shared::stop(&self.shared, job, grace),
        }
    }
}

impl Drop for NativePort {
    fn drop(&mut self) {
        let mut jobs = self.shared.jobs();
        jobs.closed = true;
        jobs.waiting.clear();
        for control in jobs.running.values() {
            control.stop(Duration::ZERO);
        }
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
        let places = self.config.running_max.max(1);
        if jobs.stuck.len() >= places || jobs.stuck.contains(&job) {
            drop(jobs);
            self.answer_aside(job, ExitClass::Infra, STUCK);
            return;
        }
        if jobs.running.len() + jobs.stuck.len() >= places {
            if jobs.waiting.len() < JOBS_MAX {
                jobs.waiting.push_back((job, order));
            } else {
                drop(jobs);
                self.answer_aside(job, ExitClass::Infra, "too many jobs are waiting");
            }
            return;
        }
        let (control, signals) = enter(&mut jobs, job);
        drop(jobs);
        let shared = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("native-job".into())
            .spawn(move || shared.work((job, order, control, signals)));
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
    fn work(&self, first: Turn) {
        let mut next = Some(first);
        while let Some((job, order, control, signals)) = next.take() {
            let (exit, left) = catch_unwind(AssertUnwindSafe(|| match &*self.offered {
                Ok(_) => Execution {
                    config: &self.config,
                    groups: &self.groups,
                    blobs: &*self.blobs,
                    job: &order,
                    name: &format!("job-{job}"),
                    control: &control,
                    signals: &signals,
                }
                .run(&mut || self.report(job, EngineEvent::Started)),
                Err(why) => (exit_of(ExitClass::Infra, why), None),
            }))
            .unwrap_or_else(|_| (exit_of(ExitClass::Infra, "the engine panicked"), None));
            let mut jobs = self.jobs();
            jobs.running.remove(&job);
            let mut hopeless = Vec::new();
            if left.is_some() {
                jobs.stuck.insert(job);
                if jobs.stuck.len() >= self.config.running_max.max(1) {
                    hopeless.extend(jobs.waiting.drain(..).map(|(job, _)| job));
                }
            } else {
                next = next_of(&mut jobs);
            }
            let closed = jobs.closed;
            drop(jobs);
            if !closed {
                self.report(job, EngineEvent::Exited(exit));
                for waiting in hopeless {
                    self.report(waiting, EngineEvent::Exited(exit_of(ExitClass::Infra, STUCK)));
                }
            }
            if let Some(left) = left {
                left.wait();
                let mut jobs = self.jobs();
                jobs.stuck.remove(&job);
                next = next_of(&mut jobs);
            }
        }
    }

    /// Says something to the core, waiting while its channel is full. A core that is gone needs no word.
    fn report(&self, job: JobId, event: EngineEvent) {
        let _ = self.events.send_blocking(Event::Engine(EngineReport { job, event }));
    }

    /// Answers without a run, and without making the caller of `submit` wait for a full channel.
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

/// The job whose turn it is.
fn next_of(jobs: &mut Jobs) -> Option<Turn> {
    let (job, order) = jobs.waiting.pop_front()?;
    let (control, signals) = enter(jobs, job);
    Some((job, order, control, signals))
}

/// Removes the directories of jobs that a crash has left. Their processes were killed with the node, and their mounts went with them.
fn sweep(scratch: &Path) -> io::Result<()> {
    for entry in fs::read_dir(scratch)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("job-") {
            remove(&entry.path());
        }
    }
    Ok(())
}

/// Removes a directory of a job that has ended. A program of the node's own user may have closed directories to everybody.
fn remove(dir: &Path) {
    if fs::remove_dir_all(dir).is_ok() {
        return;
    }
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        // Never through a link: only what is a directory itself is touched, and nobody is left to change that.
        let _ = fs::set_permissions(&dir, Permissions::from_mode(0o700));
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                left.push(entry.path());
            }
        }
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), error = %e, "a job's directory stays behind");
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_closed_to_everybody_is_removed_and_what_links_point_at_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (job, kept) = (dir.path().join("job-1"), dir.path().join("kept"));
        fs::create_dir_all(job.join("w/mnt/a/b")).unwrap();
        fs::create_dir(&kept).unwrap();
        std::os::unix::fs::symlink(&kept, job.join("w/link")).unwrap();
        fs::set_permissions(job.join("w/mnt/a"), Permissions::from_mode(0o000)).unwrap();
        sweep(dir.path()).unwrap();
        assert!(!job.exists() && kept.is_dir());
    }
}
