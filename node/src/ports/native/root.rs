//! The file system that a program sees: made anew for each job, and gone with its last process.
//!
//! ```text
//! /  (memory, not to be written)
//! ├─ usr bin sbin lib lib32 lib64 libx32   the machine's, read only
//! ├─ etc/    ld.so.cache and alternatives of the machine; passwd, group and nsswitch.conf of ours
//! ├─ dev/    null zero full random urandom; fd stdin stdout stderr; shm → /tmp
//! ├─ proc/   of this sandbox's processes only
//! ├─ tmp/    memory, to be written, nothing in it can be run
//! ├─ <mount>/ the job's mounts: inputs read only, outputs to be written
//! └─ .program .stdin                        what runs, and its input
//! ```
//! Nothing else of the machine is there to be found: not its homes, not its configuration, not the node's directory. All mounts are made
//! in a name space of their own that hears of none of the machine's and tells it of none, so nothing has to be unmounted.

use super::inside::Wrong;
use crate::ports::workdir::{READ, Staged};
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};
use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;

/// The program, inside.
pub(super) const PROGRAM: &str = "/.program";
/// Its input, inside.
pub(super) const STDIN: &str = "/.stdin";
/// Where the new root is made, in the job's directory.
pub(super) const ROOT: &str = "root";
/// Devices: none of them keeps or tells anything.
pub(super) const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// What programs are linked with.
const SYSTEM: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Bytes of `/tmp`.
pub(super) const TMP_BYTES_MAX: u64 = 64 << 20;
/// Files of `/tmp`.
const TMP_FILES_MAX: u64 = 4_096;

const PASSWD: &str = "nobody:x:65534:65534:nobody:/tmp:/bin/sh\n";
const GROUP: &str = "nogroup:x:65534:\n";
/// Names are looked up in these files, not on a network that is not there.
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files\n";

/// Makes the root of a job and changes into it. What is open stays open; nothing else of the old root can be reached.
pub(super) fn change(job: &Path, mounts: &[Staged], in_force: &mut Vec<String>) -> Result<(), Wrong> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| Wrong::wall("mounts", &e))?;
    let root = job.join(ROOT);
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    memory(&root, plain, "mode=0755,size=1m,nr_inodes=512")?;
    system(&root)?;
    configuration(&root)?;
    devices(&root)?;
    processes(&root)?;
    directory(&root.join("tmp"))?;
    let tmp = format!("mode=1777,size={TMP_BYTES_MAX},nr_inodes={TMP_FILES_MAX}");
    memory(&root.join("tmp"), plain | MountFlags::NOEXEC, &tmp)?;
    for m in mounts {
        let at = root.join(&m.name);
        directory(&at)?;
        bind(&m.dir(job), &at, plain | MountFlags::NOEXEC, !m.writable)?;
    }
    for (inside, file, flags) in [(PROGRAM, "program", plain), (STDIN, "stdin", plain | MountFlags::NOEXEC)] {
        let at = root.join(inside.trim_start_matches('/'));
        File::create(&at).map_err(|e| Wrong::path(&at, &e))?;
        bind(&job.join(READ).join(file), &at, flags, true)?;
    }
    chdir(&root).map_err(|e| Wrong::path(&root, &e))?;
    // Onto itself: the old root then lies on top of the new one, and is taken off.
    pivot_root(".", ".").map_err(|e| Wrong::wall("pivot_root", &e))?;
    unmount(".", UnmountFlags::DETACH).map_err(|e| Wrong::wall("the old root", &e))?;
    chdir("/").map_err(|e| Wrong::wall("the new root", &e))?;
    mount_remount("/", plain | MountFlags::RDONLY, c"").map_err(|e| Wrong::wall("the new root", &e))?;
    in_force.push(
        "a root of its own: the machine's programs to be read, the job's directories, nothing else".into(),
    );
    Ok(())
}

fn memory(at: &Path, flags: MountFlags, options: &str) -> Result<(), Wrong> {
    let options = CString::new(options).map_err(|e| Wrong::path(at, &e))?;
    mount("tmpfs", at, "tmpfs", flags, options.as_c_str()).map_err(|e| Wrong::path(at, &e))
}

fn directory(at: &Path) -> Result<(), Wrong> {
    DirBuilder::new().mode(0o755).create(at).map_err(|e| Wrong::path(at, &e))
}

/// Shows a file or directory of the machine at a new place.
fn bind(from: &Path, at: &Path, flags: MountFlags, read_only: bool) -> Result<(), Wrong> {
    // Without what is mounted below it; where another name space's mounts may not be uncovered, with it.
    mount_bind(from, at).or_else(|_| mount_bind_recursive(from, at)).map_err(|e| Wrong::path(from, &e))?;
    let mut flags = MountFlags::BIND | flags;
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    // What the machine's own mount forbids may not be allowed here.
    if statvfs(from).is_ok_and(|v| v.f_flag.contains(StatVfsMountFlags::NOEXEC)) {
        flags |= MountFlags::NOEXEC;
    }
    mount_remount(at, flags, c"").map_err(|e| Wrong::path(at, &e))
}

fn system(root: &Path) -> Result<(), Wrong> {
    for name in SYSTEM {
        let (from, at) = (Path::new("/").join(name), root.join(name));
        let Ok(meta) = fs::symlink_metadata(&from) else { continue };
        if meta.is_symlink() {
            let to = fs::read_link(&from).map_err(|e| Wrong::path(&from, &e))?;
            symlink(to, &at).map_err(|e| Wrong::path(&at, &e))?;
        } else if meta.is_dir() {
            directory(&at)?;
            bind(&from, &at, MountFlags::NOSUID | MountFlags::NODEV, true)?;
        }
    }
    Ok(())
}

fn configuration(root: &Path) -> Result<(), Wrong> {
    let (from, etc) = (Path::new("/etc"), root.join("etc"));
    directory(&etc)?;
    for (name, text) in [("passwd", PASSWD), ("group", GROUP), ("nsswitch.conf", NSSWITCH)] {
        fs::write(etc.join(name), text).map_err(|e| Wrong::path(&etc.join(name), &e))?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    // The dynamic loader's index, and where distributions choose between programs of one name.
    if from.join("ld.so.cache").is_file() {
        let at = etc.join("ld.so.cache");
        File::create(&at).map_err(|e| Wrong::path(&at, &e))?;
        bind(&from.join("ld.so.cache"), &at, flags, true)?;
    }
    if fs::symlink_metadata(from.join("alternatives")).is_ok_and(|m| m.is_dir()) {
        directory(&etc.join("alternatives"))?;
        bind(&from.join("alternatives"), &etc.join("alternatives"), flags, true)?;
    }
    Ok(())
}

fn devices(root: &Path) -> Result<(), Wrong> {
    let dev = root.join("dev");
    directory(&dev)?;
    for name in DEVICES {
        let (from, at) = (Path::new("/dev").join(name), dev.join(name));
        File::create(&at).map_err(|e| Wrong::path(&at, &e))?;
        mount_bind(&from, &at).map_err(|e| Wrong::path(&from, &e))?;
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("shm", "/tmp"),
    ];
    let linked: io::Result<()> = links.into_iter().try_for_each(|(name, to)| symlink(to, dev.join(name)));
    linked.map_err(|e| Wrong::path(&dev, &e))
}

/// Of this sandbox's processes, and nothing of the machine where the kernel can leave that out (5.8).
fn processes(root: &Path) -> Result<(), Wrong> {
    let at = root.join("proc");
    directory(&at)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    let options = [c"hidepid=invisible,subset=pid", c"hidepid=2"];
    let mut mounted = Err(rustix::io::Errno::INVAL);
    for options in options {
        mounted = mount("proc", &at, "proc", flags, options);
        if mounted.is_ok() {
            break;
        }
    }
    mounted.map_err(|e| Wrong::path(&at, &e))
}
