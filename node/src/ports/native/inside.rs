//! The processes around a program: one that leaves the machine's name spaces, and process 1 of the new ones.
//!
//! ```text
//! node ── confine ── init (1) ── program (2) ── …
//!         new name spaces, outside of the new process ids
//!                    builds the walls, gives up all rights, reaps
//! ```
//! Both are the node's own binary under hidden arguments, each started by `exec` with an empty environment: no code runs between
//! `fork` and `exec`, and nothing of the node's memory is in them. A new process name space holds only for children, hence two.
//! When process 1 ends, the kernel ends all that is inside, and only then tells its parent: so the end of `confine` is the end of everything.
//! One that is killed before its child tells nothing; so the node holds process 1 too, and waits for its end.
//!
//! Both die with who started them (parent death signal), and process 1 also when the node's socket closes; so a node that is killed leaves
//! no process, and with the last process its mounts are gone. The program is a child of process 1 like any other; it cannot
//! signal it, look into it, or reach the socket.

use super::frame::{self, Ended, FromInside, Spec, TO_INSIDE_BYTES_MAX, ToInside};
use super::{raw, root, walls};
use rustix::fs::{Gid, Uid};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// The hidden argument of process 1.
pub const INIT_ARGUMENT: &str = "confined";
/// Exit code of a process that was not spoken to as a node would, or that would not run a program unconfined.
const NOT_RUN: u8 = 3;
/// How gladly the machine gives it up when memory is short: as gladly as a container.
const OOM_SCORE: &str = "500";
/// Bytes of the words for people.
const WORDS_MAX: usize = 1_000;
/// What the program sees as the machine's name.
const HOST_NAME: &str = "service";

/// Why a program is not run.
#[derive(Debug)]
pub(super) struct Wrong {
    permanent: bool,
    why: String,
}

impl Wrong {
    /// A wall cannot be built.
    pub(super) fn wall(what: &str, e: &dyn Display) -> Self {
        Self { permanent: false, why: format!("the sandbox cannot be made: {what}: {e}") }
    }

    /// A part of the new root cannot be made.
    pub(super) fn path(path: &Path, e: &dyn Display) -> Self {
        Self::wall(&path.display().to_string(), e)
    }
}

/// The first process. To be called first thing in `main`, before any other thread is started.
pub fn confine_main() -> ExitCode {
    match socket().and_then(|socket| confine(&socket)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(NOT_RUN),
    }
}

/// Process 1. To be called first thing in `main`, before any other thread is started.
pub fn init_main() -> ExitCode {
    let Ok(mut socket) = socket() else { return ExitCode::from(NOT_RUN) };
    let Ok(ToInside::Job(spec)) = frame::read(&mut socket, TO_INSIDE_BYTES_MAX) else {
        return ExitCode::from(NOT_RUN);
    };
    let (word, code) = match init(&spec, &socket) {
        Ok(Some(ended)) => (FromInside::Ended(ended), ExitCode::SUCCESS),
        Ok(None) => return ExitCode::SUCCESS,
        Err(wrong) => (failed(wrong), ExitCode::from(NOT_RUN)),
    };
    // A node that is gone needs no word.
    let _ = frame::write(&mut socket, &word);
    code
}

fn failed(wrong: Wrong) -> FromInside {
    FromInside::Failed { permanent: wrong.permanent, why: wrong.why.chars().take(WORDS_MAX).collect() }
}

/// The node's socket, which comes as standard input.
fn socket() -> io::Result<UnixStream> {
    raw::close_inherited_descriptors()?;
    raw::hear_signals();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

fn confine(socket: &UnixStream) -> io::Result<()> {
    let mut socket = socket.try_clone()?;
    // The machine that runs out of memory ends a guest before anything of its owner's, the node included.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    // Until then the node may put this process, and with it all that come of it, into control groups.
    let ToInside::Enter = frame::read(&mut socket, TO_INSIDE_BYTES_MAX)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let started = leave().and_then(|()| {
        // Its own image, under whatever path.
        let init =
            Command::new("/proc/self/exe").arg(INIT_ARGUMENT).env_clear().stdin(Stdio::inherit()).spawn();
        init.map_err(|e| Wrong::wall("process 1", &e))
    });
    match started {
        Ok(mut init) => {
            // That the node is gone, process 1 hears itself.
            let _ = frame::write(&mut socket, &FromInside::Inside(init.id()));
            init.wait().map(drop)
        }
        Err(wrong) => frame::write(&mut socket, &failed(wrong)),
    }
}

/// Leaves all name spaces of the machine. Who is not root becomes so in a name space of users first, with rights over the others only.
fn leave() -> Result<(), Wrong> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let spaces = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    if user.is_root() {
        return raw::unshare(spaces).map_err(|e| Wrong::wall("name spaces", &e));
    }
    raw::unshare(spaces | UnshareFlags::NEWUSER).map_err(|e| {
        Wrong::wall(
            "name spaces without root (is `kernel.unprivileged_userns_clone` or AppArmor in the way?)",
            &e,
        )
    })?;
    become_nobody(user, group).map_err(|e| Wrong::wall("user name space", &e))
}

/// Outside it stays who it is; inside it is nobody, with the rights that making a root needs, handed on to process 1.
fn become_nobody(user: Uid, group: Gid) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{} {} 1", walls::NOBODY, user.as_raw()))?;
    fs::write("/proc/self/gid_map", format!("{} {} 1", walls::NOBODY, group.as_raw()))?;
    let handed = CapabilitySet::SYS_ADMIN | CapabilitySet::SETPCAP;
    let now = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(None, CapabilitySets { inheritable: handed, ..now })?;
    for capability in handed.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Builds the walls and runs the program in them; `None` when there was none to run.
fn init(spec: &Spec, socket: &UnixStream) -> Result<Option<Ended>, Wrong> {
    if rustix::process::getpid() != Pid::INIT {
        return Err(Wrong::wall("process 1", &"started outside of a name space of processes"));
    }
    let root = rustix::process::geteuid().is_root();
    let mut in_force =
        vec!["own name spaces of processes, mounts, network (empty), IPC, host name".to_owned()];
    if !root {
        in_force.push("own name space of users".to_owned());
    }
    raw::name_host(HOST_NAME).map_err(|e| Wrong::wall("host name", &e))?;
    // Before the root is made: what the node keeps to itself, nobody would not see in there.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    root::change(&spec.dir, &spec.mounts, &mut in_force)?;
    rustix::process::setsid().map_err(|e| Wrong::wall("session", &e))?;
    if root {
        give_outputs_away().map_err(|e| Wrong::wall("standard output", &e))?;
    }
    walls::drop_rights(root, &mut in_force)?;
    walls::limit_resources(spec.file_bytes, spec.data_bytes, spec.processes, &mut in_force)?;
    walls::restrict_files(&spec.mounts, &mut in_force)?;
    walls::filter_system_calls(&mut in_force)?;
    let mut out = socket.try_clone().map_err(|e| Wrong::wall("socket", &e))?;
    let tell = |out: &mut UnixStream, word| frame::write(out, &word).map_err(|e| Wrong::wall("socket", &e));
    tell(&mut out, FromInside::Confined(in_force))?;
    let Some(args) = &spec.args else { return Ok(None) };
    let program = Arc::new(AtomicI32::new(0));
    obey(socket, &program)?;
    let pid = spawn(args, &spec.env)?;
    program.store(pid.as_raw_nonzero().get(), Ordering::SeqCst);
    tell(&mut out, FromInside::Started)?;
    reap(pid).map(Some)
}

/// A pipe can be opened again by its owner only, and `/dev/stdout` is opened by many programs.
fn give_outputs_away() -> io::Result<()> {
    let (user, group) = (Some(Uid::from_raw(walls::NOBODY)), Some(Gid::from_raw(walls::NOBODY)));
    rustix::fs::fchown(io::stdout(), user, group)?;
    rustix::fs::fchown(io::stderr(), user, group)?;
    Ok(())
}

/// Hears the node. Its end, or its wish, ends this process, and with it everything inside.
fn obey(socket: &UnixStream, program: &Arc<AtomicI32>) -> Result<(), Wrong> {
    let mut socket = socket.try_clone().map_err(|e| Wrong::wall("socket", &e))?;
    let program = Arc::clone(program);
    let listen = move || {
        while let Ok(ToInside::Stop) = frame::read(&mut socket, TO_INSIDE_BYTES_MAX) {
            match Pid::from_raw(program.load(Ordering::SeqCst)) {
                // One that has just ended hears nothing.
                Some(group) => drop(kill_process_group(group, Signal::TERM)),
                None => break,
            }
        }
        std::process::exit(0);
    };
    let spawned = std::thread::Builder::new().name("obey".into()).stack_size(256 << 10).spawn(listen);
    spawned.map(drop).map_err(|e| Wrong::wall("thread", &e))
}

fn spawn(args: &[String], env: &[(String, String)]) -> Result<Pid, Wrong> {
    let stdin = File::open(root::STDIN).map_err(|e| Wrong::path(Path::new(root::STDIN), &e))?;
    let child = Command::new(root::PROGRAM)
        .arg0("service")
        .args(args)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir("/tmp")
        .stdin(stdin)
        .process_group(0)
        .spawn();
    let child = child.map_err(|e| {
        // What the kernel says of a file: that it cannot be run, that its loader is not here, that its arguments are too long.
        let own = matches!(
            e.raw_os_error(),
            Some(libc::ENOEXEC | libc::ENOENT | libc::EACCES | libc::E2BIG | libc::ELIBBAD | libc::EINVAL)
        );
        Wrong { permanent: own, why: format!("the program cannot be started: {e}") }
    })?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| Wrong::wall("process id", &"none"))
}

/// Waits for whatever ends, as process 1 must, until it is the program.
fn reap(program: Pid) -> Result<Ended, Wrong> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == program => {
                let (time, memory_bytes) = raw::children_usage();
                return Ok(Ended {
                    code: status.exit_status(),
                    signal: status.terminating_signal(),
                    cpu_ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
                    memory_bytes,
                });
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Wrong::wall("waiting", &e)),
        }
    }
}
