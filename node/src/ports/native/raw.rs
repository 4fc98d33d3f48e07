//! The system calls of confinement that no safe wrapper gives.
//!
//! Each is called by a process of ours that has one thread and nothing of value, before it runs anything else; nothing of the node calls
//! them.

#![allow(unsafe_code)]

use rustix::thread::UnshareFlags;
use std::io;
use std::time::Duration;

/// Closes whatever a library of the node left open across `exec`: all but standard input and output.
pub(super) fn close_inherited_descriptors() -> io::Result<()> {
    // SAFETY: closing a descriptor is unsound only if somebody believes to own it. This is the first statement of a new
    // process with one thread; all that is open above 2 was opened by the program before `exec`, and no value here owns it.
    match unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes this process, and with it all that come of it, hear again what the node's starter may have made it ignore: a program
/// is to be stopped by SIGTERM, and its end to be told to who waits for it.
pub(super) fn hear_signals() {
    const IGNORABLE: [i32; 13] = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGALRM,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGCHLD,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGXCPU,
        libc::SIGXFSZ,
    ];
    for signal in IGNORABLE {
        // SAFETY: the default is no handler, so no code of ours runs on a signal; and nobody here relies on another.
        let _was = unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Names the machine, in a name space of its own.
pub(super) fn name_host(name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads `name.len()` bytes of a text that lives as long as the call, and keeps no pointer.
    match unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the name spaces of the node for new ones.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: what makes this call unsafe is to give a thread a table of descriptors of its own (`CLONE_FILES`), which breaks
    // the ownership of descriptors among threads. It is masked out, and there is one thread.
    unsafe { rustix::thread::unshare_unsafe(flags.difference(UnshareFlags::FILES)) }?;
    Ok(())
}

/// Processor time of all children that have ended and were waited for, and the largest memory one of them had, in bytes.
pub(super) fn children_usage() -> (Duration, u64) {
    // SAFETY: the structure is plain numbers, for which zero is a value, and the kernel writes no more than its size.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) != 0 {
            return (Duration::ZERO, 0);
        }
        usage
    };
    let time = |t: libc::timeval| {
        let seconds = Duration::from_secs(u64::try_from(t.tv_sec).unwrap_or_default());
        seconds + Duration::from_micros(u64::try_from(t.tv_usec).unwrap_or_default())
    };
    // The kernel counts in KiB.
    let memory = u64::try_from(usage.ru_maxrss).unwrap_or_default().saturating_mul(1_024);
    (time(usage.ru_utime) + time(usage.ru_stime), memory)
}
