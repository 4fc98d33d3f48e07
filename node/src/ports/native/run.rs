//! One job from the node's side: laid out, confined, watched to its end, its outputs taken.
//!
//! The program's output comes through pipes, read here into files up to its limit, so a program that writes faster than the disk waits. What
//! it writes elsewhere is looked at while it runs. Whatever ends a job (time, output, a wish) ends it by hanging up: process 1
//! goes, and the kernel ends everything inside before `confine` ends. Only then are outputs taken; nobody is left to change them.
//! What the kernel does not let go of in time is left as it lies ([`Leftover`]), and the job has failed.

use super::cgroup::{Group, Groups, PROCESSES_MAX};
use super::frame::{Ended, FromInside, Spec, ToInside};
use super::sandbox::{PIECE_BYTES, Sandbox};
use super::{NativeConfig, elf, remove, root};
use crate::ports::workdir::{
    EngineBlobs, READ, Refused, Staged, collect, directory_fits, exit_of, stage::stage,
};
use remote_network_core::id::Digest;
use remote_network_core::port::{EngineExit, EngineJob, ExitClass, Program};
use remote_network_core::service::program::valid_native_mount;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Making the walls on a slow and busy machine.
pub(super) const WALLS_TIME_MAX: Duration = Duration::from_secs(30);
/// A stopped program gets at least this long to end by itself.
const GRACE_MIN: Duration = Duration::from_millis(500);
/// Between two looks at what the program writes into its mounts.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Largest program. What is larger is data, and belongs into a mount.
pub(super) const PROGRAM_BYTES_MAX: u64 = 1 << 30;

/// What reaches the thread of a job.
pub(super) enum Signal {
    /// The confinement says something.
    Said(FromInside),
    /// It says no more: all processes have ended.
    Silent,
    /// An output is at its limit.
    Full,
    /// An output cannot be kept.
    Disk(String),
    /// Somebody called [`Control::stop`].
    Stop,
}

/// The way to a running job.
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
    pub config: &'a NativeConfig,
    pub groups: &'a Groups,
    pub blobs: &'a dyn EngineBlobs,
    pub job: &'a EngineJob,
    pub name: &'a str,
    pub control: &'a Control,
    pub signals: &'a Receiver<Signal>,
}

/// Why a program was ended by us.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Cause {
    Stopped,
    Time,
    Output,
    Directory,
    Disk(String),
}

/// How a job went.
#[derive(Default)]
struct Course {
    started: Option<Instant>,
    ended: Option<Ended>,
    failed: Option<(bool, String)>,
    cause: Option<Cause>,
}

/// Processes that were killed and are not gone: the kernel waits for something on their behalf (a disk that does not answer, a debugger of
/// this machine's owner). They may still write what they had begun to, so their files and limits stay until they are gone.
pub(super) struct Leftover {
    sandbox: Sandbox,
    dir: PathBuf,
    group: Group,
}

impl Leftover {
    /// Comes back when the last of them is gone, which may be never, and removes what they had.
    pub(super) fn wait(self) {
        let Self { mut sandbox, dir, group } = self;
        sandbox.wait();
        drop(sandbox);
        remove(&dir);
        drop(group);
    }
}

impl Execution<'_> {
    /// Runs the job to its end; `started` is called at most once. Leaves nothing behind but the objects in the store, or what it says.
    pub(super) fn run(&self, started: &mut dyn FnMut()) -> (EngineExit, Option<Leftover>) {
        let dir = self.config.scratch_dir.join(self.name);
        remove(&dir);
        match self.attempt(&dir, started) {
            Ok((exit, Some(left))) => {
                tracing::warn!(job = self.name, dir = %dir.display(), "{}", exit.detail);
                (exit, Some(left))
            }
            Ok((exit, None)) => {
                remove(&dir);
                (exit, None)
            }
            Err(refused) => {
                remove(&dir);
                (exit_of(refused.class, &refused.detail), None)
            }
        }
    }

    fn attempt(
        &self,
        dir: &Path,
        started: &mut dyn FnMut(),
    ) -> Result<(EngineExit, Option<Leftover>), Refused> {
        let mounts = self.lay_out(dir)?;
        let (job, limits) = (self.job, &self.job.limits);
        let infra = |e: io::Error| Refused::infra(format!("sandbox: {e}"));
        let group = self.groups.make(self.name, limits.memory_bytes).map_err(infra)?;
        let walls = self.groups.walls();
        let mut sandbox = Sandbox::start(self.config, &group, &self.control.to_job).map_err(infra)?;
        let pumps = sandbox.pumps(dir, limits.output_bytes, &self.control.to_job).map_err(infra)?;
        sandbox.tell(&ToInside::Job(Box::new(Spec {
            dir: dir.to_owned(),
            args: Some(job.args.clone()),
            env: job.env.clone(),
            mounts: mounts.clone(),
            data_bytes: (!walls.memory).then_some(limits.memory_bytes),
            processes: (!walls.processes).then_some(PROCESSES_MAX),
            file_bytes: limits.output_bytes,
        })));
        let course = self.watch(&mut sandbox, dir, &mounts, started);
        if !sandbox.end() {
            let exit = exit_of(
                ExitClass::Infra,
                "the program was killed and is not gone: the kernel keeps its processes; its outputs are not taken",
            );
            return Ok((exit, Some(Leftover { sandbox, dir: dir.to_owned(), group })));
        }
        // All that could write is gone, so both pipes are at their end.
        let cut = pumps.into_iter().map(|pump| pump.join().unwrap_or(false)).fold(false, |a, b| a | b);
        let wall_ms =
            course.started.map_or(0, |at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
        let mut exit = self.judge(&course, cut, &group);
        let ended = course.ended.unwrap_or_default();
        exit.usage.cpu_ns = group.processor_ns().unwrap_or(ended.cpu_ns);
        exit.usage.memory_bytes = group.memory_peak().unwrap_or(ended.memory_bytes);
        exit.usage.wall_ms = wall_ms;
        drop(group);
        if course.started.is_some() {
            collect(dir, job, self.blobs, &mut exit);
        }
        Ok((exit, None))
    }

    fn lay_out(&self, dir: &Path) -> Result<Vec<Staged>, Refused> {
        let Program::Native(executable) = &self.job.program else {
            return Err(Refused::permanent("this is no native program"));
        };
        if executable.target != elf::here() {
            let (theirs, here) = (executable.target.clone(), elf::here());
            return Err(Refused::permanent(elf::NoProgram::Elsewhere { theirs, here }.to_string()));
        }
        let mounts = stage(self.job, dir, self.blobs, &|| self.control.stopped().is_some())?;
        if let Some(taken) = mounts.iter().find(|m| !valid_native_mount(&m.name)) {
            return Err(Refused::permanent(format!("`/{}` is there already", taken.name)));
        }
        stage_program(&executable.object, &dir.join(READ).join("program"), self.blobs)?;
        let disk = |e: io::Error| Refused::infra(format!("scratch directory: {e}"));
        DirBuilder::new().mode(0o700).create(dir.join(root::ROOT)).map_err(disk)?;
        fs::set_permissions(dir.join(READ).join("stdin"), Permissions::from_mode(0o444)).map_err(disk)?;
        mounts.iter().try_for_each(|m| open_to_nobody(&m.dir(dir), m.writable)).map_err(disk)?;
        Ok(mounts)
    }

    /// Listens until all has ended, ending it when a limit is passed or somebody wants it.
    fn watch(
        &self,
        sandbox: &mut Sandbox,
        dir: &Path,
        mounts: &[Staged],
        started: &mut dyn FnMut(),
    ) -> Course {
        let mut course = Course::default();
        let mut deadline = Instant::now() + WALLS_TIME_MAX;
        let mut look = Instant::now() + LOOK_EVERY;
        loop {
            if let Some(grace) = self.control.stopped()
                && course.cause.is_none()
            {
                course.cause = Some(Cause::Stopped);
                sandbox.tell(&ToInside::Stop);
                deadline = deadline.min(Instant::now() + grace.max(GRACE_MIN));
            }
            let now = Instant::now();
            let signal = match self.signals.recv_timeout(deadline.min(look).saturating_duration_since(now)) {
                Ok(signal) => signal,
                Err(RecvTimeoutError::Disconnected) => Signal::Silent,
                Err(RecvTimeoutError::Timeout) => {
                    if Instant::now() >= deadline {
                        course.cause.get_or_insert(Cause::Time);
                        return course;
                    }
                    look = Instant::now() + LOOK_EVERY;
                    let limit = self.job.limits.output_bytes;
                    if !mounts
                        .iter()
                        .filter(|m| m.writable)
                        .all(|m| directory_fits(&m.dir(dir), m.entries_max(), limit))
                    {
                        course.cause.get_or_insert(Cause::Directory);
                        return course;
                    }
                    continue;
                }
            };
            match signal {
                Signal::Said(FromInside::Inside(_) | FromInside::Confined(_)) | Signal::Stop => {}
                Signal::Said(FromInside::Started) if course.started.is_none() => {
                    let at = Instant::now();
                    course.started = Some(at);
                    if course.cause.is_none() {
                        let limit = Duration::from_millis(self.job.limits.time_ms);
                        deadline = at.checked_add(limit).unwrap_or(at + Duration::from_secs(1 << 30));
                    }
                    started();
                }
                Signal::Said(FromInside::Started) => {}
                Signal::Said(FromInside::Ended(ended)) => course.ended = Some(ended),
                Signal::Said(FromInside::Failed { permanent, why }) => course.failed = Some((permanent, why)),
                // Output may be heard before the word that the program runs.
                Signal::Full | Signal::Disk(_) => {
                    if course.started.is_none() {
                        course.started = Some(Instant::now());
                        started();
                    }
                    let cause = if let Signal::Disk(why) = signal { Cause::Disk(why) } else { Cause::Output };
                    course.cause.get_or_insert(cause);
                    return course;
                }
                Signal::Silent => return course,
            }
        }
    }

    /// The class of an end, and its words.
    fn judge(&self, course: &Course, cut: bool, group: &Group) -> EngineExit {
        let limits = &self.job.limits;
        let resource = |why: String| exit_of(ExitClass::Resource, &why);
        let output = || resource(format!("an output passed its limit of {} bytes", limits.output_bytes));
        let memory = || {
            resource(format!("it asked for more than its limit of {} bytes of memory", limits.memory_bytes))
        };
        match (&course.cause, course.ended) {
            (Some(Cause::Stopped), _) => return exit_of(ExitClass::Cancelled, "stopped on request"),
            (Some(Cause::Time), None) if course.started.is_none() => {
                return exit_of(ExitClass::Infra, "the sandbox was not made in time");
            }
            (Some(Cause::Time), None) => {
                return resource(format!("it ran longer than its limit of {} ms", limits.time_ms));
            }
            (Some(Cause::Directory), _) => {
                return resource(format!(
                    "an output directory passed its limit of {} bytes or 1024 files",
                    limits.output_bytes
                ));
            }
            (Some(Cause::Output), _) => return output(),
            (Some(Cause::Disk(why)), _) => {
                return exit_of(ExitClass::Infra, &format!("keeping output: {why}"));
            }
            (None | Some(Cause::Time), _) => {}
        }
        if let Some((permanent, why)) = &course.failed {
            return exit_of(if *permanent { ExitClass::Permanent } else { ExitClass::Infra }, why);
        }
        let Some(ended) = course.ended else {
            // Process 1 was killed: by the kernel, for memory, or by somebody on this machine.
            return match group.out_of_memory() {
                true => memory(),
                false => exit_of(ExitClass::Infra, "the sandbox ended without a word"),
            };
        };
        match (ended.code, ended.signal) {
            _ if cut => output(),
            (Some(0), _) => exit_of(ExitClass::Success, ""),
            _ if group.out_of_memory() => memory(),
            (_, Some(libc::SIGXFSZ)) => output(),
            (Some(code), _) => EngineExit { code, ..exit_of(ExitClass::User, &format!("exit code {code}")) },
            // As shells and containers count it.
            (None, Some(signal)) => EngineExit {
                code: 128 + signal,
                ..exit_of(ExitClass::User, &format!("killed by signal {signal}"))
            },
            (None, None) => exit_of(ExitClass::Infra, "it ended neither by itself nor by a signal"),
        }
    }
}

/// Copies the program and looks at it: whole, the one that was ordered, and for this machine.
fn stage_program(object: &Digest, to: &Path, blobs: &dyn EngineBlobs) -> Result<(), Refused> {
    let failed = |e: io::Error| Refused::infra(format!("program {object}: {e}"));
    let mut from = blobs.open(object).map_err(failed)?.take(PROGRAM_BYTES_MAX + 1);
    let disk = |e: io::Error| Refused::infra(format!("scratch directory: {e}"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(disk)?;
    let mut hasher = blake3::Hasher::new();
    let (mut head, mut len) = (Vec::new(), 0u64);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let n = from.read(&mut piece).map_err(failed)?;
        if n == 0 {
            break;
        }
        len += n as u64;
        hasher.update(&piece[..n]);
        if head.len() < elf::HEAD_BYTES {
            head.extend(&piece[..n.min(elf::HEAD_BYTES - head.len())]);
        }
        file.write_all(&piece[..n]).map_err(disk)?;
    }
    if len > PROGRAM_BYTES_MAX {
        return Err(Refused::permanent(format!(
            "the program is larger than {} MiB",
            PROGRAM_BYTES_MAX >> 20
        )));
    }
    if *hasher.finalize().as_bytes() != object.0 {
        return Err(Refused::infra(format!("program {object} is damaged in the store")));
    }
    elf::look_for_here(&head).map_err(|e| Refused::permanent(format!("the program: {e}")))?;
    file.set_permissions(Permissions::from_mode(0o555)).map_err(disk)
}

/// A program of root's node is nobody: what it may read and write must say so. The directory above is closed to all.
fn open_to_nobody(dir: &Path, writable: bool) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::set_permissions(entry?.path(), Permissions::from_mode(0o444))?;
    }
    fs::set_permissions(dir, Permissions::from_mode(if writable { 0o777 } else { 0o755 }))
}
