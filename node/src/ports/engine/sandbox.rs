//! How a worker confines itself, before it reads a byte that a guest or its author has chosen.
//!
//! WebAssembly is the first wall: a guest can call nothing but the imports it was given. This is the second wall, for the
//! day the first has a hole (wasmtime had two critical sandbox escapes in 2026): a worker that was taken over has no keys,
//! no environment, no descriptors, no sockets, no other program to start, no other process to look into, no file but its
//! job's, bounded memory and bounded files. Each means is applied if the kernel has it, and what is in force is told to the
//! node's owner.
//!
//! The system call filter is a list of what is denied, not of what is allowed: wasmtime, tokio and glibc together change their
//! needs with every release, and a filter that kills honest guests gets switched off.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::path::Path;
use thiserror::Error;

/// Descriptors a worker may have open: what it needs itself, and a fair number of files for a guest.
const DESCRIPTORS_MAX: u64 = 256;
/// Largest file before the guest runs: the compiled code of the largest module.
const CODE_BYTES_MAX: u64 = 1 << 30;
/// Memory beside the guest's own: the compiler's, the code, the runtime. 1 GiB compiles a 32 MiB module.
const OVERHEAD_BYTES: u64 = 1 << 30;
/// The newest Landlock interface used here; older kernels give what they have.
const LANDLOCK: ABI = ABI::V6;

/// How the words begin that tell that Landlock is in force.
pub(super) const LANDLOCK_IN_FORCE: &str = "landlock";

/// Why a worker would rather not run.
#[derive(Debug, Error)]
pub(super) enum SandboxError {
    /// A resource limit was refused.
    #[error("resource limits: {0}")]
    Limits(#[from] rustix::io::Errno),
    /// The system call filter was refused for another reason than that the kernel has none.
    #[error("system call filter: {0}")]
    Seccomp(String),
    /// Landlock was refused for another reason than that the kernel has none.
    #[error("landlock: {0}")]
    Landlock(#[from] RulesetError),
    /// The worker's directory cannot be opened.
    #[error("worker's directory: {0}")]
    Path(#[from] landlock::PathFdError),
}

/// The part that needs no knowledge of the job. Call it on the only thread of the process.
pub(super) fn confine_process(in_force: &mut Vec<String>) -> Result<(), SandboxError> {
    if close_inherited_descriptors() {
        in_force.push("no inherited descriptors".into());
    }
    // The parent's death also shows as the end of our stdin; the signal reaches a worker that does not read.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    in_force.push("dies with its node".into());
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, DESCRIPTORS_MAX)?;
    // The hard limit stays for now: the outputs of the job may be larger than code.
    let files = rustix::process::getrlimit(Resource::Fsize).maximum;
    let code = files.map_or(CODE_BYTES_MAX, |max| max.min(CODE_BYTES_MAX));
    setrlimit(Resource::Fsize, Rlimit { current: Some(code), maximum: files })?;
    in_force.push("resource limits".into());
    if let Some(arch) = filter_arch() {
        filter_system_calls(arch)?;
        in_force.push("seccomp: no sockets, no programs, no processes, no new privileges".into());
    }
    Ok(())
}

/// The part that depends on the worker's jobs: memory, and the only files it may touch.
pub(super) fn confine_to_job(
    dir: &Path,
    code: Option<&Path>,
    memory_bytes: u64,
    in_force: &mut Vec<String>,
) -> Result<(), SandboxError> {
    // Not the address space: wasmtime reserves many GiB of it for every memory without using them.
    limit(Resource::Data, memory_bytes.saturating_add(OVERHEAD_BYTES))?;
    match restrict_files(dir, code)? {
        RulesetStatus::FullyEnforced => {
            in_force.push(format!("{LANDLOCK_IN_FORCE}: only the worker's files, no network"))
        }
        RulesetStatus::PartiallyEnforced => {
            in_force.push(format!("{LANDLOCK_IN_FORCE}, as far as this kernel has it"))
        }
        RulesetStatus::NotEnforced => {}
    }
    Ok(())
}

/// Gives up, for this thread and those it starts, every file but the job's and all of the network.
fn restrict_files(dir: &Path, code: Option<&Path>) -> Result<RulesetStatus, SandboxError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(dir)?, read))?;
    // In a probe there is no such directory.
    if let Ok(written) = PathFd::new(dir.join(crate::ports::workdir::WRITTEN)) {
        rules = rules.add_rule(PathBeneath::new(written, read | writing()))?;
    }
    // The cache may have dropped the code meanwhile; the worker then compiles.
    if let Some(code) = code.and_then(|c| PathFd::new(c).ok()) {
        rules = rules.add_rule(PathBeneath::new(code, AccessFs::ReadFile))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// From now on no file grows beyond one output. One byte more than the limit is allowed: it is how the node sees that
/// something was cut. Growing further ends the worker with `SIGXFSZ`.
pub(super) fn confine_outputs(output_bytes: u64) -> Result<(), SandboxError> {
    limit(Resource::Fsize, output_bytes.saturating_add(1))
}

/// What may be done in the written half of the worker's directory: plain files and directories, no links to elsewhere.
fn writing() -> BitFlags<AccessFs> {
    AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

fn limit(resource: Resource, value: u64) -> Result<(), SandboxError> {
    // Never above the hard limit we were given: an unprivileged process may only go down.
    let value = rustix::process::getrlimit(resource).maximum.map_or(value, |max| max.min(value));
    Ok(setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
}

fn filter_arch() -> Option<TargetArch> {
    TargetArch::try_from(std::env::consts::ARCH).ok()
}

/// Applies two filters; both also hold for every thread started later, and bring `no_new_privs` with them.
fn filter_system_calls(arch: TargetArch) -> Result<(), SandboxError> {
    let say = |e: &dyn std::fmt::Display| SandboxError::Seccomp(e.to_string());
    let deny = |rules, errno: i32| -> Result<(), SandboxError> {
        let filter =
            SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
                .map_err(|e| say(&e))?;
        let program: seccompiler::BpfProgram = filter.try_into().map_err(|e| say(&e))?;
        seccompiler::apply_filter(&program).map_err(|e| say(&e))
    };
    // The flags of clone3 lie in memory where no filter sees them. "No such call" makes libc fall back to clone.
    deny(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let no_thread = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64),
        0,
    )
    .and_then(|c| SeccompRule::new(vec![c]))
    .map_err(|e| say(&e))?;
    rules.insert(libc::SYS_clone, vec![no_thread]);
    deny(rules, libc::EPERM)
}

/// Sockets; programs and processes; other processes' insides; the machine; the ways around a filter.
const DENIED: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_unshare,
    libc::SYS_setns,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_open_by_handle_at,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
];

/// Closes whatever a library of the node left open across `exec`. Returns whether the kernel could.
#[allow(unsafe_code)]
fn close_inherited_descriptors() -> bool {
    // SAFETY: closing a descriptor is unsound only if somebody believes to own it. This is the first statement of a new
    // process with one thread; all that is open above 2 was opened by the program before `exec`, and no value here owns it.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::ErrorKind;
    use std::net::{TcpListener, UdpSocket};
    use std::process::Command;

    /// Both means confine a thread, so that a test can look at the inside without losing its own process.
    fn inside<T: Send>(confine: impl FnOnce() + Send, look: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                confine();
                look()
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn the_filter_denies_sockets_and_programs_and_allows_threads_and_files() {
        let Some(arch) = filter_arch() else { return };
        inside(
            || filter_system_calls(arch).unwrap(),
            || {
                let denied = |e: std::io::Error| assert_eq!(e.kind(), ErrorKind::PermissionDenied);
                denied(TcpListener::bind("127.0.0.1:0").unwrap_err());
                denied(UdpSocket::bind("127.0.0.1:0").unwrap_err());
                denied(std::os::unix::net::UnixStream::pair().unwrap_err());
                assert!(Command::new("/bin/true").status().is_err());
                assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
                tempfile::tempfile().unwrap();
            },
        );
    }

    #[test]
    fn landlock_leaves_only_the_jobs_files() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("r")).unwrap();
        fs::create_dir(dir.join("w")).unwrap();
        fs::write(dir.join("r/in"), b"in").unwrap();
        let enforced = inside(
            || {},
            || {
                let status = restrict_files(dir, None).unwrap();
                if status == RulesetStatus::NotEnforced {
                    return false;
                }
                assert_eq!(fs::read(dir.join("r/in")).unwrap(), b"in");
                fs::write(dir.join("w/out"), b"out").unwrap();
                for refused in [
                    fs::read("/etc/passwd").map(drop),
                    fs::read_dir("/").map(drop),
                    fs::write(dir.join("r/in"), b"changed"),
                    fs::remove_file(dir.join("r/in")),
                    std::os::unix::fs::symlink("/etc/passwd", dir.join("w/link")),
                ] {
                    assert_eq!(refused.unwrap_err().kind(), ErrorKind::PermissionDenied);
                }
                true
            },
        );
        println!("landlock in force: {enforced}");
    }
}
