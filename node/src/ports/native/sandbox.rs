//! The processes of a job as the node holds them: started, spoken to, heard, ended; and the trial of all walls around nothing.

use super::cgroup::{Group, Groups};
use super::frame::{self, FROM_INSIDE_BYTES_MAX, FROM_INSIDE_FRAMES_MAX, FromInside, Spec, ToInside};
use super::run::{Signal, WALLS_TIME_MAX};
use super::{CONFINE_ARGUMENT, NativeConfig, remove, root, walls};
use crate::ports::workdir::{READ, WRITTEN};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal as Kill, pidfd_open, pidfd_send_signal};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A sandbox that was hung up and is not gone by then is killed from outside: longer than a busy machine takes to end a full one.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// One that was killed and is not gone by then is given up: killing needs nothing but the kernel, which may be waiting for a disk.
const DEAD_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks whether it is gone.
const GONE_AGAIN: Duration = Duration::from_millis(2);
/// Bytes taken from a pipe at once: as many as one holds.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// The processes of a job. Dropping it ends and reaps them.
pub(super) struct Sandbox {
    child: Child,
    socket: UnixStream,
    /// Process 1 inside, once it is there.
    inside: Arc<OnceLock<OwnedFd>>,
}

impl Sandbox {
    /// Starts the confinement, in its control groups from its first moment on. It dies with the calling *thread* (Linux's
    /// parent death signal), which therefore keeps it.
    pub(super) fn start(config: &NativeConfig, group: &Group, signals: &Sender<Signal>) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(&config.confine)
            .arg(CONFINE_ARGUMENT)
            .env_clear()
            .current_dir("/")
            // A key that interrupts the node in its terminal is for the node, which ends its jobs in order.
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut sandbox = Self { child, socket: ours, inside: Arc::default() };
        let confine = pid_of(sandbox.child.id()).ok_or(io::ErrorKind::NotFound)?;
        group.take(confine)?;
        let (mut from, signals) = (sandbox.socket.try_clone()?, signals.clone());
        let inside = Arc::clone(&sandbox.inside);
        std::thread::Builder::new().name("native-listen".into()).spawn(move || {
            for _ in 0..FROM_INSIDE_FRAMES_MAX {
                let Ok(said) = frame::read(&mut from, FROM_INSIDE_BYTES_MAX) else { break };
                if let FromInside::Inside(pid) = said {
                    let _ = hold(pid, confine).map(|held| inside.set(held));
                    continue;
                }
                if signals.send(Signal::Said(said)).is_err() {
                    return;
                }
            }
            let _ = signals.send(Signal::Silent);
        })?;
        sandbox.tell(&ToInside::Enter);
        Ok(sandbox)
    }

    /// Says something. Who cannot hear is about to be found dead.
    pub(super) fn tell(&mut self, frame: &ToInside) {
        let _ = frame::write(&mut self.socket, frame);
    }

    /// Begins to keep both outputs in files.
    pub(super) fn pumps(
        &mut self,
        dir: &Path,
        limit: u64,
        signals: &Sender<Signal>,
    ) -> io::Result<Vec<JoinHandle<bool>>> {
        let written = |name: &str| OpenOptions::new().write(true).open(dir.join(WRITTEN).join(name));
        let mut pumps = Vec::new();
        if let Some(from) = self.child.stdout.take() {
            pumps.push(pump(from, written("stdout")?, limit, signals.clone())?);
        }
        if let Some(from) = self.child.stderr.take() {
            pumps.push(pump(from, written("stderr")?, limit, signals.clone())?);
        }
        Ok(pumps)
    }

    /// Ends everything inside; tells whether it has ended. Until it has, nothing may touch its files by their names.
    #[must_use]
    pub(super) fn end(&mut self) -> bool {
        let _ = self.socket.shutdown(Shutdown::Write);
        let until = Instant::now() + GONE_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(GONE_AGAIN);
        }
        // What is left hears nothing (a program may keep process 1 from the processor), or `confine` has gone first: the kernel,
        // for want of memory, takes whom it likes.
        if let Some(inside) = self.inside.get() {
            let _ = pidfd_send_signal(inside, Kill::KILL);
        }
        let _ = self.child.kill();
        let until = Instant::now() + DEAD_WITHIN;
        loop {
            // Process 1 has ended only when all others inside have.
            let all = self.inside.get().is_none_or(has_ended);
            if all && !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(GONE_AGAIN);
        }
    }

    /// Comes back when everything that [`Self::end`] has killed is gone.
    pub(super) fn wait(&mut self) {
        if let Some(inside) = self.inside.get() {
            while poll(&mut [PollFd::new(inside, PollFlags::IN)], None) == Err(rustix::io::Errno::INTR) {}
        }
        let _ = self.child.wait();
    }
}

/// Whether a process that is held has ended, reaped or not.
fn has_ended(process: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

fn pid_of(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

/// A hold on process 1: a child of `confine`.
fn hold(number: u32, confine: Pid) -> Option<OwnedFd> {
    let held = pidfd_open(pid_of(number)?, PidfdFlags::empty()).ok()?;
    // Looked at only now: a number that is somebody else's by then is not taken for it.
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // Behind its name, which may be anything: its state, its parent.
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
    (parent == confine.as_raw_nonzero().to_string()).then_some(held)
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Here it is not said: only who still holds nothing but our own processes drops it before it has ended.
        let _ = self.end();
    }
}

/// Keeps what comes, up to the limit and one byte more to show that there was more; tells whether there was. What is beyond is read and
/// dropped: until its end comes, a program must not be kept from it by a full pipe.
fn pump(
    mut from: impl Read + Send + 'static,
    mut to: File,
    limit: u64,
    signals: Sender<Signal>,
) -> io::Result<JoinHandle<bool>> {
    std::thread::Builder::new().name("native-output".into()).spawn(move || {
        let (mut room, mut told) = (limit.saturating_add(1), false);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let n = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let kept = n.min(usize::try_from(room).unwrap_or(usize::MAX));
            if let Err(e) = to.write_all(&piece[..kept]) {
                let _ = signals.send(Signal::Disk(e.to_string()));
                room = 0;
                continue;
            }
            room -= kept as u64;
            if room == 0 && !told {
                told = true;
                let _ = signals.send(Signal::Full);
            }
        }
        told
    })
}

/// Builds all walls around nothing. What stands, or why there are no such services here.
pub(super) fn probe(config: &NativeConfig, groups: &Groups) -> Result<Vec<String>, String> {
    if walls::filter_arch().is_none() {
        return Err(format!("no filter of system calls for {}", std::env::consts::ARCH));
    }
    let dir = config.scratch_dir.join("job-probe");
    let tried = try_walls(config, groups, &dir);
    remove(&dir);
    let mut in_force = tried?;
    in_force.push(groups.walls().words());
    Ok(in_force)
}

fn try_walls(config: &NativeConfig, groups: &Groups, dir: &Path) -> Result<Vec<String>, String> {
    let say = |e: io::Error| e.to_string();
    let inner: [PathBuf; 4] = [dir.to_owned(), dir.join(READ), dir.join(root::ROOT), dir.join(WRITTEN)];
    for sub in inner {
        DirBuilder::new().mode(0o700).create(sub).map_err(say)?;
    }
    for file in ["program", "stdin"] {
        File::create_new(dir.join(READ).join(file)).map_err(say)?;
    }
    let group = groups.make("probe", 64 << 20).map_err(|e| format!("control groups: {e}"))?;
    let (to_us, signals) = mpsc::channel();
    let mut sandbox = Sandbox::start(config, &group, &to_us).map_err(say)?;
    sandbox.tell(&ToInside::Job(Box::new(Spec {
        dir: dir.to_owned(),
        args: None,
        env: Vec::new(),
        mounts: Vec::new(),
        data_bytes: None,
        processes: None,
        file_bytes: 0,
    })));
    let deadline = Instant::now() + WALLS_TIME_MAX;
    let heard = signals.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    if !sandbox.end() {
        return Err("the sandbox was killed and is not gone".to_owned());
    }
    match heard {
        Ok(Signal::Said(FromInside::Confined(walls))) => Ok(walls),
        Ok(Signal::Said(FromInside::Failed { why, .. })) => Err(why),
        Ok(_) => Err("the sandbox does not answer".to_owned()),
        Err(e) => Err(format!("the sandbox does not answer: {e}")),
    }
}
