//! A worker from the node's side: its process, its directories, and where its words go.

use super::EngineConfig;
use super::frame::{self, FROM_WORKER_BYTES_MAX, FROM_WORKER_FRAMES_MAX, FromWorker, ToWorker};
use super::pool::{AGE_MAX, JOBS_MAX, TRAPS_MAX};
use super::run::Signal;
use crate::ports::workdir::{READ, WRITTEN};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Who listens to a worker.
#[derive(Default)]
struct Ear {
    /// The job it has; nobody between two jobs.
    job: Option<Sender<Signal>>,
    /// Frames it may still send about it.
    left: usize,
    /// It has ended, or spoken when it was not its turn, or too much.
    broken: bool,
}

/// A worker process. Dropping it kills and reaps it, and removes its directories.
pub(super) struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    ear: Arc<Mutex<Ear>>,
    /// Its directories, if it has any yet.
    dir: Option<PathBuf>,
    born: Instant,
    jobs: u32,
    traps: u32,
    _alive: Option<Arc<()>>,
}

fn locked(ear: &Mutex<Ear>) -> MutexGuard<'_, Ear> {
    ear.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    /// Starts a worker. It dies with the calling *thread* (Linux's parent death signal). `alive` is kept as long as it is.
    pub(super) fn spawn(config: &EngineConfig, alive: Option<Arc<()>>) -> io::Result<Self> {
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
        let ear = Arc::new(Mutex::new(Ear::default()));
        let born = Instant::now();
        let worker =
            Self { child, stdin, ear: Arc::clone(&ear), dir: None, born, jobs: 0, traps: 0, _alive: alive };
        let stdout = stdout.ok_or(io::ErrorKind::BrokenPipe)?;
        std::thread::Builder::new().name("engine-listen".into()).spawn(move || listen(stdout, &ear))?;
        Ok(worker)
    }

    /// Where its directories are, from now on its own to remove.
    pub(super) fn settle(&mut self, dir: PathBuf) {
        self.dir = Some(dir);
    }

    /// Its own directory.
    pub(super) fn dir(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new(""))
    }

    /// Whether it lives and has said nothing that nobody asked for.
    pub(super) fn is_quiet(&self) -> bool {
        !locked(&self.ear).broken
    }

    /// Whether it has had a job before.
    pub(super) fn is_used(&self) -> bool {
        self.jobs > 1
    }

    /// Its words go to `signals` from now on.
    pub(super) fn attach(&mut self, signals: Sender<Signal>) {
        self.jobs += 1;
        let mut ear = locked(&self.ear);
        ear.left = FROM_WORKER_FRAMES_MAX;
        if ear.broken {
            // It has ended before it could be told anything.
            let _nobody_waits = signals.send(Signal::Silent);
        }
        ear.job = Some(signals);
    }

    /// Nobody listens any more, and nothing is to be said.
    pub(super) fn detach(&mut self, trapped: bool) {
        self.traps += u32::from(trapped);
        locked(&self.ear).job = None;
    }

    /// Whether it may have another job.
    pub(super) fn may_go_on(&self) -> bool {
        let written = self.dir().join(WRITTEN);
        let left_nothing = fs::read_dir(written).is_ok_and(|mut entries| entries.next().is_none());
        self.jobs < JOBS_MAX
            && self.traps < TRAPS_MAX
            && self.born.elapsed() < AGE_MAX
            && self.is_quiet()
            && left_nothing
    }

    /// Moves a job's files to where the worker may reach them; what it then reads and what it writes.
    pub(super) fn enter(&self, job: &Path) -> io::Result<(PathBuf, PathBuf)> {
        let (read, written) = self.room();
        fs::rename(job.join(READ), &read)?;
        fs::rename(job.join(WRITTEN), &written)?;
        Ok((read, written))
    }

    /// Moves them out of its reach. Whatever cannot be moved is not an output.
    pub(super) fn leave(&self, job: &Path) -> io::Result<()> {
        let (read, written) = self.room();
        fs::rename(written, job.join(WRITTEN)).and(fs::rename(read, job.join(READ)))
    }

    /// What it writes for its job.
    pub(super) fn written(&self) -> PathBuf {
        self.room().1
    }

    fn room(&self) -> (PathBuf, PathBuf) {
        let number = self.jobs.to_string();
        (self.dir().join(READ).join(&number), self.dir().join(WRITTEN).join(number))
    }

    /// Tells the worker something. A worker that cannot hear is about to be found dead.
    pub(super) fn tell(&mut self, frame: &ToWorker) {
        if let Some(stdin) = &mut self.stdin {
            let _ = frame::write(stdin, frame);
        }
    }

    /// The status of a worker that said its last; one that lives on after that is killed.
    pub(super) fn wait(&mut self) -> Option<ExitStatus> {
        self.stdin = None;
        for _ in 0..20 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        None
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        // One that has ended by itself is reaped all the same.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        if let Some(dir) = &self.dir
            && let Err(e) = fs::remove_dir_all(dir)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), error = %e, "a worker's directory stays behind");
        }
    }
}

/// Hears a worker to its end, or until it says what it must not.
fn listen(mut stdout: ChildStdout, ear: &Mutex<Ear>) {
    loop {
        let said = frame::read::<FromWorker>(&mut stdout, FROM_WORKER_BYTES_MAX);
        let mut ear = locked(ear);
        match (said, ear.left.checked_sub(1), &ear.job) {
            (Ok(Some(said)), Some(left), Some(job)) => {
                let _job_is_over = job.send(Signal::Said(said));
                ear.left = left;
            }
            (_, _, job) => {
                if let Some(job) = job {
                    let _job_is_over = job.send(Signal::Silent);
                }
                ear.broken = true;
                return;
            }
        }
    }
}
