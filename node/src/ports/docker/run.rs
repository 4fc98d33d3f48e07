//! One job: its container is made or found again, watched to its end, and its outputs are taken.
//!
//! | the container | what is done |
//! |---|---|
//! | is not there, or was never started | files are laid out, it is made, listened to, started, and its input written |
//! | runs, and its input was written to the end (or it has none) | it is listened to again, from its first byte of output |
//! | has ended, the same | its output is read from the first byte |
//! | runs or has ended, its input may be cut short | it is removed and made anew: a guest cannot tell a cut from an end |
//! | was killed while nobody looked | the same: by its own fault, or by an engine that went down |
//!
//! That the input was written to its end is a file beside it ([`WRITTEN_MARK`]), made after the container's standard input was
//! closed. Output is listened to from before the start, byte for byte; where it has to be read again, the engine's log has
//! it (`profile`). What the guest wrote is taken only after the container is gone.

use super::Shared;
use super::client::Client;
use super::profile::{body, plain_workdir, takes_stdin};
use super::usage::Meter;
use crate::failpoints::pass;
use crate::ports::workdir::{READ, Refused, Staged, WRITTEN, collect, directory_fits, exit_of, stage::stage};
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::ContainerState;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, InspectContainerOptions,
    KillContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    WaitContainerOptionsBuilder,
};
use futures_util::{Stream, StreamExt as _};
use remote_network_core::id::{Digest, JobId};
use remote_network_core::port::{EngineEvent, EngineExit, EngineJob, ExitClass, Image, Program};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::sync::watch;
use tokio::time::Instant;

/// Says that the container has all of its input.
const WRITTEN_MARK: &str = "stdin.written";
/// Exit codes from here on are signals, or what an engine says that does not know.
const KILLED_CODES: i64 = 128;
/// Between two looks at what the guest writes into its mounts.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The engine closes the output of a container that has ended within this time, or it is not known to be whole.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// A stopped guest gets at least this long to end by itself.
const GRACE_MIN: Duration = Duration::from_millis(500);
/// A killed container that is not gone by then is the engine's trouble.
const KILLED_WITHIN: Duration = Duration::from_secs(20);

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// What a job needs to run.
pub(super) struct Execution<'a> {
    shared: &'a Arc<Shared>,
    client: Client,
    job: JobId,
    order: &'a EngineJob,
    stopped: watch::Receiver<Option<Duration>>,
    name: String,
    dir: PathBuf,
}

/// A container that runs or has ended, and what is heard of it.
struct Running {
    output: Output,
    /// Until when it may run.
    deadline: Instant,
    since: Instant,
    mounts: Vec<Staged>,
    /// Its output comes from the engine's log.
    again: bool,
    /// Writes the input, while there is some to be written.
    input: Option<tokio::task::JoinHandle<io::Result<()>>>,
}

/// Why a container was ended by us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    Stopped,
    Time,
    Output,
    Directory,
}

/// Times that no clock reaches are far away.
fn after(at: Instant, time: Duration) -> Instant {
    at.checked_add(time).unwrap_or_else(|| at + Duration::from_secs(1 << 30))
}

/// An error of the engine is this machine's trouble.
fn engine(e: Error) -> Refused {
    Refused::infra(super::DockerError::from(e).to_string())
}

fn disk(e: io::Error) -> Refused {
    Refused::infra(format!("scratch directory: {e}"))
}

const fn is(e: &Error, code: u16) -> bool {
    matches!(e, Error::DockerResponseServerError { status_code, .. } if *status_code == code)
}

impl<'a> Execution<'a> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        client: Client,
        job: JobId,
        order: &'a EngineJob,
        stopped: watch::Receiver<Option<Duration>>,
    ) -> Self {
        let dir = shared.config.scratch_dir.join(format!("job-{job}"));
        // The node is in it: several may share an engine, and a requester may name one job to two of them.
        let node = Digest::of(shared.config.node.as_bytes()).to_string();
        let name = format!("rn-{}-{job}", &node[..16]);
        Self { shared, client, job, order, stopped, name, dir }
    }

    /// Runs the job to its end. Leaves nothing behind but the objects in the store.
    pub(super) async fn run(mut self) -> EngineExit {
        let exit = match self.attempt().await {
            Ok(exit) => exit,
            Err(refused) => exit_of(refused.class, &refused.detail),
        };
        if let Err(e) = self.remove().await {
            tracing::warn!(container = %self.name, error = %e, "a container stays behind");
        }
        if let Err(e) = fs::remove_dir_all(&self.dir)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.dir.display(), error = %e, "a job's directory stays behind");
        }
        exit
    }

    async fn attempt(&mut self) -> Result<EngineExit, Refused> {
        let Program::Image(image) = &self.order.program else {
            return Err(Refused::permanent("this is no container image"));
        };
        let running = match self.again().await? {
            Some(running) => running,
            None => self.fresh(image).await?,
        };
        self.shared.report(self.job, EngineEvent::Started).await;
        self.watch(running).await
    }

    /// The container of an earlier life of this node, if its result can be trusted.
    async fn again(&self) -> Result<Option<Running>, Refused> {
        let found =
            match self.client.docker.inspect_container(&self.name, None::<InspectContainerOptions>).await {
                Ok(found) => found,
                Err(e) if is(&e, 404) => return Ok(None),
                Err(e) => return Err(engine(e)),
            };
        let started = found.state.as_ref().and_then(started_ago);
        let input = !takes_stdin(self.order) || self.dir.join(WRITTEN_MARK).exists();
        // One that was killed while nobody looked may have been by an engine or a machine that went down.
        let code = found.state.as_ref().and_then(|s| s.exit_code).unwrap_or_default();
        let trusted = input && code < KILLED_CODES && self.dir.join(WRITTEN).is_dir();
        let (Some(ago), true) = (started, trusted) else { return Ok(None) };
        tracing::info!(container = %self.name, "a container is found again");
        let mounts = mounts_of(self.order, &self.dir).map_err(disk)?;
        let now = Instant::now();
        let over = found.state.as_ref().is_some_and(|s| s.running == Some(false));
        let limit = Duration::from_millis(self.order.limits.time_ms);
        Ok(Some(Running {
            output: self.logs(true),
            // One that has ended while nobody looked did so in time, as far as anybody knows.
            deadline: after(now, if over { limit } else { limit.saturating_sub(ago) }),
            since: now.checked_sub(ago).unwrap_or(now),
            mounts,
            again: true,
            input: None,
        }))
    }

    /// What the engine has of the container's output, from its first byte.
    fn logs(&self, follow: bool) -> Output {
        let docker = self.client.docker.clone();
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).follow(follow).build();
        Box::pin(docker.logs(&self.name, Some(options)))
    }

    /// Lays out the files, makes the container, listens to it and starts it.
    async fn fresh(&mut self, image: &Image) -> Result<Running, Refused> {
        self.remove().await.map_err(engine)?;
        let mounts = self.lay_out().await?;
        pass("docker.laid-out");
        let docker = &self.client.docker;
        match docker.inspect_image(&image.id_text()).await {
            Ok(found) => {
                let own = found.config.and_then(|c| c.working_dir).unwrap_or_default();
                let workdir = image.workdir.as_deref().unwrap_or(&own);
                if !plain_workdir(workdir) {
                    return Err(Refused::permanent(format!("`{workdir}` is no place to work in")));
                }
            }
            Err(e) if is(&e, 404) => {
                return Err(Refused::permanent(format!(
                    "the image {} ({}) is not here any more",
                    image.name,
                    image.id_text()
                )));
            }
            Err(e) => return Err(engine(e)),
        }
        let seccomp = self.client.takes_seccomp;
        let body = body(&self.shared.config.node, self.job, self.order, image, &self.dir, &mounts, seccomp);
        let options = CreateContainerOptionsBuilder::new().name(&self.name).build();
        docker.create_container(Some(options), body).await.map_err(|e| match e {
            // The image has no entry point, or a path in the order cannot be.
            Error::DockerResponseServerError { status_code: 400, message } => Refused::permanent(message),
            e => engine(e),
        })?;
        pass("docker.created");
        let stdin = takes_stdin(self.order);
        let options =
            AttachContainerOptionsBuilder::new().stream(true).stdin(stdin).stdout(true).stderr(true);
        let attached = docker.attach_container(&self.name, Some(options.build())).await.map_err(engine)?;
        pass("docker.attached");
        docker.start_container(&self.name, None::<StartContainerOptions>).await.map_err(|e| match e {
            // No such program in the image, or one that cannot be executed.
            Error::DockerResponseServerError { status_code: 400 | 404, message } => {
                Refused::permanent(message)
            }
            e => engine(e),
        })?;
        pass("docker.started");
        let since = Instant::now();
        let input = stdin.then(|| tokio::spawn(write_input(self.dir.clone(), attached.input)));
        let limit = Duration::from_millis(self.order.limits.time_ms);
        Ok(Running {
            output: attached.output,
            deadline: after(since, limit),
            since,
            mounts,
            again: false,
            input,
        })
    }

    async fn lay_out(&self) -> Result<Vec<Staged>, Refused> {
        let (order, dir, blobs) = (self.order.clone(), self.dir.clone(), self.shared.blobs.clone());
        let stopped = self.stopped.clone();
        let work = move || {
            let _none_there = fs::remove_dir_all(&dir);
            let mounts = stage(&order, &dir, &*blobs, &|| stopped.borrow().is_some())?;
            mounts.iter().try_for_each(|m| open_to_nobody(&m.dir(&dir), m.writable)).map_err(disk)?;
            Ok(mounts)
        };
        let laid = tokio::task::spawn_blocking(work).await;
        laid.unwrap_or_else(|e| Err(Refused::infra(format!("laying out files: {e}"))))
    }

    /// Listens to the container until it has ended, ending it when a limit is passed or somebody wants it.
    async fn watch(&mut self, mut running: Running) -> Result<EngineExit, Refused> {
        let mut outputs = Outputs::open(&self.dir, self.order.limits.output_bytes).await.map_err(disk)?;
        let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
        let mut wait = Box::pin(self.client.docker.wait_container(&self.name, Some(options)));
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopped = self.stopped.clone();
        let mut meter = self.state().await?.pid.filter(|pid| *pid > 0).and_then(Meter::of);
        let (mut cause, mut kill_at, mut heard_all) = (None, None::<Instant>, false);
        let code = loop {
            let overdue = kill_at.unwrap_or(running.deadline);
            let ending = cause.is_some();
            tokio::select! {
                // A loud guest must not keep its end, or ours for it, from being heard.
                biased;
                ended = wait.next() => break exit_code(ended)?,
                grace = stop_asked(&mut stopped), if !ending => {
                    cause = Some(Cause::Stopped);
                    kill_at = Some(after(Instant::now(), grace.max(GRACE_MIN)));
                    self.signal("SIGTERM").await?;
                }
                () = tokio::time::sleep_until(overdue) => {
                    cause = cause.or(Some(Cause::Time));
                    self.signal("SIGKILL").await?;
                    let gone = tokio::time::timeout(KILLED_WITHIN, wait.next()).await;
                    break exit_code(gone.map_err(|_| Refused::infra("the container does not end"))?)?;
                }
                _ = look.tick(), if !ending => {
                    meter.iter_mut().for_each(Meter::look);
                    let limit = self.order.limits.output_bytes;
                    let fits = |m: &Staged| directory_fits(&m.dir(&self.dir), m.entries_max(), limit);
                    if !running.mounts.iter().filter(|m| m.writable).all(fits) {
                        cause = Some(Cause::Directory);
                        kill_at = Some(Instant::now());
                    }
                }
                piece = running.output.next(), if !heard_all => match piece {
                    Some(Ok(piece)) => {
                        if !outputs.take(piece).await.map_err(disk)? && !ending {
                            cause = Some(Cause::Output);
                            kill_at = Some(Instant::now());
                        }
                    }
                    Some(Err(e)) => return Err(engine(e)),
                    None => heard_all = true,
                },
            }
        };
        drop(wait);
        pass("docker.exited");
        if let Some(input) = running.input.take() {
            // Whatever is not written by now, nobody reads any more.
            input.abort();
        }
        self.drain(running.output, running.again, &mut outputs, heard_all).await?;
        outputs.close().await.map_err(disk)?;
        pass("docker.drained");
        let state = self.state().await?;
        let mut exit = self.judge(code, cause, &outputs, &state);
        if let Some(seen) = meter {
            (exit.usage.cpu_ns, exit.usage.memory_bytes) = (seen.cpu_ns, seen.memory_bytes);
        }
        exit.usage.wall_ms = u64::try_from(running.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.remove().await.map_err(engine)?;
        pass("docker.removed");
        self.collected(exit).await
    }

    /// The rest of the output of a container that has ended.
    async fn drain(
        &self,
        mut output: Output,
        again: bool,
        outputs: &mut Outputs,
        heard_all: bool,
    ) -> Result<(), Refused> {
        let rest = async {
            if again {
                // What is followed may lack the last line (moby #43860): now that it has ended, all of it is there.
                output = self.logs(false);
                outputs.begin_anew().await.map_err(disk)?;
            } else if heard_all {
                return Ok(());
            }
            while let Some(piece) = output.next().await {
                outputs.take(piece.map_err(engine)?).await.map_err(disk)?;
            }
            Ok(())
        };
        // A log may be long; a listener only has what was on its way.
        let patience = if again { DRAIN_WITHIN * 60 } else { DRAIN_WITHIN };
        let drained = tokio::time::timeout(patience, rest).await;
        drained.unwrap_or_else(|_| Err(Refused::infra("the end of the container's output did not come")))
    }

    fn judge(
        &self,
        code: i64,
        cause: Option<Cause>,
        outputs: &Outputs,
        state: &ContainerState,
    ) -> EngineExit {
        let limits = &self.order.limits;
        let code = i32::try_from(code).unwrap_or(i32::MAX);
        let oom = state.oom_killed.unwrap_or_default();
        match cause {
            Some(Cause::Stopped) => exit_of(ExitClass::Cancelled, "stopped on request"),
            Some(Cause::Time) => exit_of(
                ExitClass::Resource,
                &format!("it ran longer than its limit of {} ms", limits.time_ms),
            ),
            Some(Cause::Directory) => exit_of(
                ExitClass::Resource,
                &format!(
                    "an output directory passed its limit of {} bytes or 1024 files",
                    limits.output_bytes
                ),
            ),
            Some(Cause::Output) => exit_of(
                ExitClass::Resource,
                &format!("an output passed its limit of {} bytes", limits.output_bytes),
            ),
            None if outputs.is_cut() => exit_of(
                ExitClass::Resource,
                &format!("an output passed its limit of {} bytes", limits.output_bytes),
            ),
            None if oom => exit_of(
                ExitClass::Resource,
                &format!("it asked for more than its limit of {} bytes of memory", limits.memory_bytes),
            ),
            None if code == 0 => exit_of(ExitClass::Success, ""),
            None => EngineExit { code, ..exit_of(ExitClass::User, &format!("exit code {code}")) },
        }
    }

    async fn collected(&self, mut exit: EngineExit) -> Result<EngineExit, Refused> {
        let (order, dir, blobs) = (self.order.clone(), self.dir.clone(), self.shared.blobs.clone());
        let work = move || {
            collect(&dir, &order, &*blobs, &mut exit);
            pass("docker.collected");
            exit
        };
        let collected = tokio::task::spawn_blocking(work).await;
        collected.map_err(|e| Refused::infra(format!("collecting outputs: {e}")))
    }

    async fn state(&self) -> Result<ContainerState, Refused> {
        let found = self.client.docker.inspect_container(&self.name, None::<InspectContainerOptions>).await;
        Ok(found.map_err(engine)?.state.unwrap_or_default())
    }

    /// Tells the guest something; one that has just ended hears nothing.
    async fn signal(&self, signal: &str) -> Result<(), Refused> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        match self.client.docker.kill_container(&self.name, Some(options)).await {
            Err(e) if !is(&e, 409) && !is(&e, 404) => Err(engine(e)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn remove(&self) -> Result<(), Error> {
        let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.client.docker.remove_container(&self.name, Some(force)).await {
            Err(e) if !is(&e, 404) => Err(e),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Waits until somebody wants the job to end; so long it may take.
async fn stop_asked(stopped: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match stopped.wait_for(Option::is_some).await.map(|grace| grace.unwrap_or_default()) {
        Ok(grace) => grace,
        // Nobody is left who could want it.
        Err(_) => std::future::pending().await,
    }
}

/// Writes the input, closes it, and leaves the mark.
async fn write_input(dir: PathBuf, mut to: Input) -> io::Result<()> {
    let mut from = File::open(dir.join(READ).join("stdin")).await?;
    // A guest may end, or close its input, before it has read all: that is its business, and the end of ours.
    let written = tokio::io::copy(&mut from, &mut to).await;
    let closed = to.shutdown().await;
    if written.is_ok() && closed.is_ok() {
        File::create(dir.join(WRITTEN_MARK)).await?;
        pass("docker.input-written");
    }
    Ok(())
}

/// What a container that has ended, or waiting for it, says.
fn exit_code(said: Option<Result<bollard::models::ContainerWaitResponse, Error>>) -> Result<i64, Refused> {
    match said {
        Some(Ok(ended)) => Ok(ended.status_code),
        // bollard's word for every exit code but 0.
        Some(Err(Error::DockerContainerWaitError { code, error })) if error.is_empty() => Ok(code),
        Some(Err(e)) => Err(engine(e)),
        None => Err(Refused::infra("the Docker engine went away")),
    }
}

/// How long ago a container was started; `None` when it never was.
fn started_ago(state: &ContainerState) -> Option<Duration> {
    let at = state.started_at.as_deref()?;
    // The engine's word for never is the year 1.
    if at.starts_with("0001-") {
        return None;
    }
    let started = humantime(at)?;
    Some(std::time::SystemTime::now().duration_since(started).unwrap_or_default())
}

/// A time as the engine writes it, RFC 3339 in UTC with up to nine digits of a second.
fn humantime(text: &str) -> Option<std::time::SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !text.ends_with('Z') || year < 1970 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    // Days from civil (Hinnant): years begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era_days = 365 * y + y / 4 - y / 100 + y / 400;
    let days = (era_days + (153 * m + 2) / 5 + day - 1).checked_sub(719_468)?;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(std::time::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// A container's guest is nobody: what it may read and write must say so. The directory above is closed to all. No guest has
/// run yet, so what is there is what was laid out.
fn open_to_nobody(dir: &Path, writable: bool) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let there = entry.metadata()?;
        if there.is_dir() {
            open_to_nobody(&entry.path(), writable)?;
        } else {
            let executable = there.permissions().mode() & 0o111;
            fs::set_permissions(entry.path(), Permissions::from_mode(0o444 | executable))?;
        }
    }
    fs::set_permissions(dir, Permissions::from_mode(if writable { 0o777 } else { 0o755 }))
}

/// The mounts of a job that was laid out before.
fn mounts_of(order: &EngineJob, dir: &Path) -> io::Result<Vec<Staged>> {
    let mut mounts = Vec::new();
    for writable in [false, true] {
        let below = dir.join(if writable { WRITTEN } else { READ }).join("mnt");
        for entry in fs::read_dir(below)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            mounts.push(Staged::new(order, name, writable));
        }
    }
    Ok(mounts)
}

/// Standard output and error, on their way into files, each up to its limit.
struct Outputs {
    files: [BufWriter<File>; 2],
    written: [u64; 2],
    limit: u64,
    cut: bool,
    paths: [PathBuf; 2],
}

impl Outputs {
    async fn open(dir: &Path, limit: u64) -> io::Result<Self> {
        let paths = ["stdout", "stderr"].map(|name| dir.join(WRITTEN).join(name));
        let [a, b] = &paths;
        let files = [BufWriter::new(File::create(a).await?), BufWriter::new(File::create(b).await?)];
        Ok(Self { files, written: [0; 2], limit, cut: false, paths })
    }

    async fn begin_anew(&mut self) -> io::Result<()> {
        let [a, b] = &self.paths;
        self.files = [BufWriter::new(File::create(a).await?), BufWriter::new(File::create(b).await?)];
        (self.written, self.cut) = ([0; 2], false);
        Ok(())
    }

    /// Keeps a piece up to the limit, and one byte more to show that there was more; whether all of it was kept.
    async fn take(&mut self, piece: LogOutput) -> io::Result<bool> {
        let (at, bytes) = match piece {
            LogOutput::StdOut { message } | LogOutput::Console { message } => (0, message),
            LogOutput::StdErr { message } => (1, message),
            LogOutput::StdIn { .. } => return Ok(true),
        };
        let free = self.limit.saturating_add(1).saturating_sub(self.written[at]);
        let kept = bytes.len().min(usize::try_from(free).unwrap_or(usize::MAX));
        self.files[at].write_all(&bytes[..kept]).await?;
        self.written[at] += kept as u64;
        let fits = self.written[at] <= self.limit;
        self.cut |= !fits;
        Ok(fits)
    }

    fn is_cut(&self) -> bool {
        self.cut
    }

    async fn close(&mut self) -> io::Result<()> {
        for file in &mut self.files {
            file.flush().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn the_engines_times_are_read() {
        let at = |text| humantime(text).and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        assert_eq!(at("1970-01-01T00:00:00Z"), Some(Duration::ZERO));
        assert_eq!(at("2000-02-29T12:34:56.789Z"), Some(Duration::from_secs(951_827_696)));
        assert_eq!(at("2026-11-21T18:58:52.734689783Z"), Some(Duration::from_secs(1_795_287_532)));
        for bad in ["", "2026", "2026-11-21T18:58:52", "0001-01-01T00:00:00Z", "2026-13-01T00:00:00Z"] {
            assert_eq!(at(bad), None, "{bad}");
        }
        let never = ContainerState { started_at: Some("0001-01-01T00:00:00Z".into()), ..Default::default() };
        assert_eq!(started_ago(&never), None);
    }

    #[tokio::test]
    async fn outputs_are_kept_apart_and_cut_one_byte_beyond_their_limit() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(WRITTEN)).unwrap();
        let mut outputs = Outputs::open(dir.path(), 4).await.unwrap();
        let out = |text: &'static str| LogOutput::StdOut { message: Bytes::from_static(text.as_bytes()) };
        let err = |text: &'static str| LogOutput::StdErr { message: Bytes::from_static(text.as_bytes()) };
        for (piece, fits) in [(out("ab"), true), (err("1234"), true), (out("cd"), true), (out("efg"), false)]
        {
            assert_eq!(outputs.take(piece).await.unwrap(), fits);
        }
        outputs.close().await.unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(WRITTEN).join(name)).unwrap();
        assert_eq!((read("stdout"), read("stderr"), outputs.is_cut()), ("abcde".into(), "1234".into(), true));
        outputs.begin_anew().await.unwrap();
        assert!(outputs.take(out("whole")).await.unwrap_or(true) != outputs.is_cut());
    }
}
