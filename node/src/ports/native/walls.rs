//! What a program may not do, beyond what it cannot see: rights, resources, files, system calls.
//!
//! The name spaces (`inside`, `root`) are the first wall: there is nothing of the machine to reach for. These are the others, for the day
//! the kernel has a hole in the first: no capability to widen it, no system call that such holes were found in (name spaces
//! made by guests, `bpf`, `userfaultfd`, `io_uring`, mounts, keys), no socket but Unix ones, no file but those that are meant.
//!
//! The filter is a list of what is denied: a program that was written for any Linux has to run, and one that is killed for an
//! innocent call helps nobody. Numbers of the x32 interface are denied with those of the usual one.

use super::inside::Wrong;
use crate::ports::workdir::Staged;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::fmt::Display;

/// Whom a program runs as: nobody.
pub(super) const NOBODY: u32 = 65_534;
/// Open files of a process.
const FILES_MAX: u64 = 1_024;
/// The newest Landlock interface used here; older kernels give what they have.
const LANDLOCK: ABI = ABI::V6;

/// Gives up all rights: user, groups, capabilities, and the way to get them back.
pub(super) fn drop_rights(root: bool, in_force: &mut Vec<String>) -> Result<(), Wrong> {
    let wrong = |what: &'static str| move |e| Wrong::wall(what, &e);
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(Wrong::wall("capabilities", &e)),
        }
    }
    if root {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_groups(&[]).map_err(wrong("groups"))?;
        rustix::thread::set_thread_res_gid(group, group, group).map_err(wrong("group"))?;
        rustix::thread::set_thread_res_uid(user, user, user).map_err(wrong("user"))?;
    }
    rustix::thread::clear_ambient_capability_set().map_err(wrong("capabilities"))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(wrong("capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(wrong("no_new_privs"))?;
    // A change of user has taken both back.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(wrong("death signal"))?;
    // The program is the same user as process 1, and shall not look into it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(wrong("dumpable"))?;
    in_force.push("user nobody, no capabilities, no new privileges".into());
    Ok(())
}

/// Resources of each process.
pub(super) fn limit_resources(
    file_bytes: u64,
    data_bytes: Option<u64>,
    processes: Option<u64>,
    in_force: &mut Vec<String>,
) -> Result<(), Wrong> {
    let mut limits = vec![
        (Resource::Core, 0),
        (Resource::Nofile, FILES_MAX),
        // One byte more than an output may have: it is how the node sees that there was more.
        (Resource::Fsize, file_bytes.saturating_add(1)),
        (Resource::Memlock, 64 << 10),
        (Resource::Msgqueue, 0),
        (Resource::Rtprio, 0),
    ];
    limits.extend(data_bytes.map(|bytes| (Resource::Data, bytes)));
    limits.extend(processes.map(|most| (Resource::Nproc, most)));
    for (resource, value) in limits {
        // Never above the hard limit we were given: an unprivileged process may only go down.
        let value = rustix::process::getrlimit(resource).maximum.map_or(value, |max| max.min(value));
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
            .map_err(|e| Wrong::wall("resource limits", &e))?;
    }
    in_force.push("resource limits".into());
    Ok(())
}

/// Gives up every file but those of the new root, and writing but where it is meant. After `pivot_root`, by the new paths.
pub(super) fn restrict_files(mounts: &[Staged], in_force: &mut Vec<String>) -> Result<(), Wrong> {
    let wrong = |e: &dyn Display| Wrong::wall("landlock", e);
    let read = AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|r| r.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|r| r.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create)
        .map_err(|e| wrong(&e))?;
    let mut paths = vec![("/".to_owned(), read), ("/tmp".to_owned(), read | writing())];
    for device in super::root::DEVICES {
        paths.push((format!("/dev/{device}"), AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate));
    }
    let written = mounts.iter().filter(|m| m.writable);
    paths.extend(written.map(|m| (format!("/{}", m.name), read | writing())));
    for (path, access) in paths {
        let at = PathFd::new(&path).map_err(|e| wrong(&e))?;
        rules = rules.add_rule(PathBeneath::new(at, access)).map_err(|e| wrong(&e))?;
    }
    match rules.restrict_self().map_err(|e| wrong(&e))?.ruleset {
        RulesetStatus::FullyEnforced => in_force.push("landlock".into()),
        RulesetStatus::PartiallyEnforced => in_force.push("landlock, as far as this kernel has it".into()),
        RulesetStatus::NotEnforced => in_force.push("no landlock: this kernel has none".into()),
    }
    Ok(())
}

/// Everything that makes or removes a name, but devices.
fn writing() -> BitFlags<AccessFs> {
    AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::MakeFifo
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

/// The processor whose calls can be filtered.
pub(super) fn filter_arch() -> Option<TargetArch> {
    TargetArch::try_from(std::env::consts::ARCH).ok()
}

/// Filters system calls, of this thread and all that come after it.
pub(super) fn filter_system_calls(in_force: &mut Vec<String>) -> Result<(), Wrong> {
    let wrong = |e: &dyn Display| Wrong::wall("seccomp", e);
    let arch = filter_arch().ok_or_else(|| wrong(&"no filter for this processor"))?;
    let deny = |rules, errno: i32| -> Result<(), Wrong> {
        let filter =
            SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()), arch)
                .map_err(|e| wrong(&e))?;
        let program: seccompiler::BpfProgram = filter.try_into().map_err(|e| wrong(&e))?;
        seccompiler::apply_filter(&program).map_err(|e| wrong(&e))
    };
    let is = |argument, value: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
            .and_then(|c| SeccompRule::new(vec![c]))
            .map_err(|e| wrong(&e))
    };
    let has = |argument, bits: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(bits), bits)
            .and_then(|c| SeccompRule::new(vec![c]))
            .map_err(|e| wrong(&e))
    };
    let is_not = |argument, value: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
            .and_then(|c| SeccompRule::new(vec![c]))
            .map_err(|e| wrong(&e))
    };
    // The flags of clone3 lie in memory where no filter sees them. "No such call" makes libc fall back to clone.
    deny(every_interface(BTreeMap::from([(libc::SYS_clone3, Vec::new())])), libc::ENOSYS)?;
    let unix = u64::from(libc::AF_UNIX.unsigned_abs());
    let sockets = [libc::SYS_socket, libc::SYS_socketpair].into_iter();
    let sockets = sockets.map(|call| Ok((call, vec![is_not(0, unix)?]))).collect::<Result<_, Wrong>>()?;
    deny(every_interface(sockets), libc::EAFNOSUPPORT)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let name_spaces = NAME_SPACES.iter().map(|flag| has(0, *flag)).collect::<Result<_, Wrong>>()?;
    rules.insert(libc::SYS_clone, name_spaces);
    rules.insert(libc::SYS_ioctl, vec![is(1, libc::TIOCSTI)?, is(1, libc::TIOCLINUX)?]);
    deny(every_interface(rules), libc::EPERM)?;
    in_force.push(
        "seccomp: no sockets but Unix ones, no name spaces, mounts, keys, tracing, bpf, io_uring, modules"
            .into(),
    );
    Ok(())
}

/// The same rules for the numbers of x32, which lie beside those of x86-64 under the same name of the processor.
fn every_interface(rules: BTreeMap<i64, Vec<SeccompRule>>) -> BTreeMap<i64, Vec<SeccompRule>> {
    if !cfg!(target_arch = "x86_64") {
        return rules;
    }
    let twin = |(call, rule): (&i64, &Vec<SeccompRule>)| (X32 | call, rule.clone());
    let mut all: BTreeMap<_, _> = rules.iter().map(twin).collect();
    if rules.contains_key(&libc::SYS_ptrace) {
        all.extend(X32_OWN.map(|call| (X32 | call, Vec::new())));
    }
    all.extend(rules);
    all
}

/// The bit that marks a number of x32.
const X32: i64 = 0x4000_0000;
/// What x32 numbers otherwise: `ioctl`, `ptrace`, `kexec_load`, `process_vm_readv`, `process_vm_writev` and `io_setup`.
const X32_OWN: [i64; 6] = [514, 521, 528, 539, 540, 543];

/// Flags of `clone` that make a name space.
const NAME_SPACES: &[u64] = &[
    libc::CLONE_NEWUSER as u64,
    libc::CLONE_NEWNS as u64,
    libc::CLONE_NEWPID as u64,
    libc::CLONE_NEWNET as u64,
    libc::CLONE_NEWIPC as u64,
    libc::CLONE_NEWUTS as u64,
    libc::CLONE_NEWCGROUP as u64,
];

/// Name spaces and mounts; other processes' insides; the kernel's doors that holes were found behind; the machine.
const DENIED: &[i64] = &[
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // One for the whole machine: who takes all of it leaves its databases without.
    libc::SYS_io_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_personality,
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_vhangup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
];
