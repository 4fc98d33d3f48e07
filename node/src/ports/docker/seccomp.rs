//! Which system calls a container of a job may make: a list of what programs need, everything else is refused.
//!
//! Engines bring a list of their own, made for every container that ever ran: Docker 20.10's lets `io_uring` through, a second way to
//! the kernel that no filter sees, and sockets to the hypervisor. A job's program has a smaller life: files, memory, processes,
//! signals, timers, and sockets that lead nowhere but to itself. So there is no kernel tracing, no keyring, no namespaces, no
//! inspection of others, no 32-bit way in, and of socket families only Unix, IPv4, IPv6 and netlink, which programs open to
//! look at their interfaces. `clone3` hides its flags from filters: it is said not to exist, and C libraries fall
//! back to `clone`, whose flags are looked at.
//!
//! Given to the engine as JSON in its own format (OCI's names). An engine without seccomp gets none, and `doctor` says so.

use serde_json::{Value, json};

/// `ENOSYS`: the call does not exist.
const NO_SUCH_CALL: u32 = 38;
/// Flags of `clone` that make namespaces (`CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`).
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// Socket families: Unix, IPv4, IPv6, netlink.
const FAMILIES: [u64; 4] = [1, 2, 10, 16];
/// Personalities: Linux, 32-bit `uname`, both with the old way of reading memory maps, and the question which it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const FILES: &str = "access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat \
    faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr \
    flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr inotify_add_watch \
    inotify_init inotify_init1 inotify_rm_watch ioctl lchown lgetxattr link linkat listxattr llistxattr lremovexattr lseek \
    lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 \
    read readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile setxattr splice stat \
    statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes \
    vmsplice write writev";
const MEMORY: &str = "brk madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock \
    munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages";
const PROCESSES: &str = "arch_prctl capget capset execve execveat exit exit_group fork futex futex_waitv get_robust_list \
    get_thread_area getcpu getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid \
    getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq sched_get_priority_max \
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area \
    set_tid_address setfsgid setfsuid setgid setgroups setpgid setpriority setregid setresgid setresuid setreuid setrlimit \
    setsid setuid sysinfo tgkill times tkill uname vfork wait4 waitid";
const SIGNALS_AND_TIME: &str = "alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep pause \
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo \
    setitimer sigaltstack signalfd signalfd4 time timer_create timer_delete timer_getoverrun timer_gettime timer_settime \
    timerfd_create timerfd_gettime timerfd_settime";
const WAITING: &str = "epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 \
    io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit pipe pipe2 poll ppoll pselect6 select";
const TALKING: &str = "accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify \
    mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg recvmsg semctl semget semop \
    semtimedop sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketpair";
const RANDOMNESS: &str = "getrandom";

/// The list, as the engine takes it.
pub(super) fn profile() -> Value {
    let names: Vec<&str> = [FILES, MEMORY, PROCESSES, SIGNALS_AND_TIME, WAITING, TALKING, RANDOMNESS]
        .into_iter()
        .flat_map(str::split_whitespace)
        .collect();
    let equal = |name: &'static str| {
        move |value: u64| {
            json!({"names": [name], "action": "SCMP_ACT_ALLOW",
                   "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]})
        }
    };
    let mut calls = vec![
        json!({"names": names, "action": "SCMP_ACT_ALLOW"}),
        // Of the masked bits of the first argument, none may be set.
        json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW",
               "args": [{"index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": NO_SUCH_CALL}),
    ];
    calls.extend(FAMILIES.into_iter().map(equal("socket")));
    calls.extend(PERSONALITIES.into_iter().map(equal("personality")));
    let native_only = ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_RISCV64"]
        .map(|a| json!({"architecture": a, "subArchitectures": []}));
    json!({"defaultAction": "SCMP_ACT_ERRNO", "archMap": native_only, "syscalls": calls})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn nothing_is_allowed_that_looks_at_others_or_changes_the_machine() {
        let text = profile().to_string();
        for never in [
            "io_uring",
            "bpf",
            "ptrace",
            "keyctl",
            "add_key",
            "mount",
            "unshare",
            "setns",
            "userfaultfd",
            "perf_event",
            "init_module",
            "kexec",
            "open_by_handle",
            "process_vm",
            "kcmp",
            "pidfd_getfd",
            "reboot",
            "swapon",
            "settimeofday",
            "clock_settime",
            "adjtime",
            "chroot",
            "pivot_root",
            "sethostname",
            "fanotify",
            "socketcall",
            "iopl",
            "syslog",
            "quotactl",
        ] {
            assert!(!text.contains(never), "{never}");
        }
        assert_eq!(profile()["defaultAction"], "SCMP_ACT_ERRNO");
    }

    #[test]
    fn a_call_is_named_once() {
        let calls = profile();
        let names = calls["syscalls"][0]["names"].as_array().unwrap();
        let distinct: BTreeSet<&str> = names.iter().map(|n| n.as_str().unwrap()).collect();
        assert_eq!(distinct.len(), names.len());
        assert!(distinct.contains("execve") && !distinct.contains("socket") && !distinct.contains("clone"));
    }
}
