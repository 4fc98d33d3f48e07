//! Setting the table for a job: an order is checked once, and its inputs are laid out as files.
//!
//! ```text
//! <scratch>/job-<id>/
//!   r/  module.wasm  stdin  mnt/<name>/0000 0001 …     read by the worker
//!   w/  stdout  stderr  code.cwasm  mnt/<name>/out     written by it
//! ```
//! Inputs are copied (a reflink where the file system can), never linked: a worker must not hold a way into the object
//! store. A mount that is input and output at once is one writable directory with its inputs in it.

use super::EngineBlobs;
use super::frame::Mount;
use remote_network_core::id::Digest;
use remote_network_core::port::{EngineJob, ExitClass, Port};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, FileTimes};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Read by the worker.
pub(super) const READ: &str = "r";
/// Written by the worker.
pub(super) const WRITTEN: &str = "w";
/// Mounts, in either.
pub(super) const MOUNTS: &str = "mnt";
/// The file in an output mount that is its output.
pub(super) const OUT: &str = "out";
/// Largest module: compiling one takes a few seconds and less than 1 GiB.
const MODULE_BYTES_MAX: u64 = 32 << 20;
/// Mounts of one job.
const MOUNTS_MAX: usize = 64;

const CORE_MODULE: [u8; 8] = *b"\0asm\x01\0\0\0";
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// Why a job does not start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refused {
    /// Whose fault it is.
    pub class: ExitClass,
    /// Words for people.
    pub detail: String,
}

impl Refused {
    fn permanent(detail: impl Into<String>) -> Self {
        Self { class: ExitClass::Permanent, detail: detail.into() }
    }

    fn infra(detail: impl Into<String>) -> Self {
        Self { class: ExitClass::Infra, detail: detail.into() }
    }
}

/// Checks the order and lays out the files in `dir`, which must not exist yet. Returns the mounts the guest will see.
pub(super) fn stage(
    job: &EngineJob,
    dir: &Path,
    blobs: &dyn EngineBlobs,
    stopped: &dyn Fn() -> bool,
) -> Result<Vec<Mount>, Refused> {
    check_strings(job)?;
    let mounts = mounts(job)?;
    let disk = |e: io::Error| Refused::infra(format!("scratch directory: {e}"));
    for sub in ["", READ, WRITTEN, "r/mnt", "w/mnt"] {
        DirBuilder::new().mode(0o700).create(dir.join(sub)).map_err(disk)?;
    }
    for empty in ["stdout", "stderr"] {
        File::create_new(dir.join(WRITTEN).join(empty)).map_err(disk)?;
    }
    for mount in &mounts {
        DirBuilder::new().mode(0o700).create(mount_dir(dir, mount)).map_err(disk)?;
    }
    stage_module(&job.module, &dir.join(READ).join("module.wasm"), blobs)?;
    stage_inputs(job, dir, &mounts, blobs, stopped)?;
    Ok(mounts)
}

/// Where a mount lies.
pub(super) fn mount_dir(dir: &Path, mount: &Mount) -> PathBuf {
    dir.join(if mount.writable { WRITTEN } else { READ }).join(MOUNTS).join(&mount.name)
}

/// Strings become NUL-terminated in the guest, and an environment entry is `name=value`.
fn check_strings(job: &EngineJob) -> Result<(), Refused> {
    let texts = job.args.iter().chain(job.env.iter().flat_map(|(k, v)| [k, v]));
    if texts.clone().any(|s| s.contains('\0')) {
        return Err(Refused::permanent("an argument or environment entry contains a NUL character"));
    }
    if job.env.iter().any(|(name, _)| name.is_empty() || name.contains('=')) {
        return Err(Refused::permanent("an environment name is empty or contains `=`"));
    }
    Ok(())
}

fn mounts(job: &EngineJob) -> Result<Vec<Mount>, Refused> {
    let mut found = BTreeMap::new();
    let ins = job.inputs.iter().map(|i| (&i.port, false));
    let outs = job.outputs.iter().map(|p| (p, true));
    for (port, out) in ins.chain(outs) {
        match port {
            Port::Mount(name) if is_mount_name(name) => {
                *found.entry(name.clone()).or_insert(false) |= out;
            }
            Port::Mount(name) => {
                return Err(Refused::permanent(format!("`{name}` is no name for a mount")));
            }
            Port::Stdin if !out => {}
            Port::Stdout | Port::Stderr if out => {}
            Port::Stdin => return Err(Refused::permanent("stdin cannot be an output")),
            Port::Stdout | Port::Stderr => {
                return Err(Refused::permanent("stdout and stderr cannot be inputs"));
            }
        }
    }
    if job.outputs.iter().collect::<BTreeSet<_>>().len() != job.outputs.len() {
        return Err(Refused::permanent("an output port is named twice"));
    }
    if found.len() > MOUNTS_MAX {
        return Err(Refused::permanent(format!("more than {MOUNTS_MAX} mounts")));
    }
    Ok(found.into_iter().map(|(name, writable)| Mount { name, writable }).collect())
}

/// One path component of plain characters: it becomes a directory of ours.
fn is_mount_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Copies the module and looks at it: a core module of WebAssembly 1, whole and the one that was ordered.
fn stage_module(module: &Digest, to: &Path, blobs: &dyn EngineBlobs) -> Result<(), Refused> {
    let from = blobs.open(module).map_err(|e| Refused::infra(format!("module {module}: {e}")))?;
    let mut bytes = Vec::new();
    from.take(MODULE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Refused::infra(format!("module {module}: {e}")))?;
    if bytes.len() as u64 > MODULE_BYTES_MAX {
        return Err(Refused::permanent(format!("the module is larger than {} MiB", MODULE_BYTES_MAX >> 20)));
    }
    // Compiled code is kept under this digest, so it must be the digest of what is compiled.
    if Digest::of(&bytes) != *module {
        return Err(Refused::infra(format!("module {module} is damaged in the store")));
    }
    check_header(&bytes)?;
    fs::write(to, &bytes).map_err(|e| Refused::infra(format!("scratch directory: {e}")))
}

fn check_header(bytes: &[u8]) -> Result<(), Refused> {
    match bytes.first_chunk::<8>() {
        Some(&CORE_MODULE) => Ok(()),
        Some(&COMPONENT) => Err(Refused::permanent(
            "this is a WebAssembly component; this version runs core modules with WASI preview 1",
        )),
        Some(head) if head.starts_with(b"\x7fELF") => Err(Refused::permanent(
            "this is machine code (compiled ahead of time or native), which is never run as WebAssembly",
        )),
        Some(_) | None => Err(Refused::permanent("this is no WebAssembly module")),
    }
}

fn stage_inputs(
    job: &EngineJob,
    dir: &Path,
    mounts: &[Mount],
    blobs: &dyn EngineBlobs,
    stopped: &dyn Fn() -> bool,
) -> Result<(), Refused> {
    let disk = |e: io::Error| Refused::infra(format!("scratch directory: {e}"));
    let mut stdin = File::create_new(dir.join(READ).join("stdin")).map_err(disk)?;
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for input in &job.inputs {
        if stopped() {
            return Err(Refused { class: ExitClass::Cancelled, detail: "stopped before it started".into() });
        }
        let mut from = blobs
            .open(&input.digest)
            .map_err(|e| Refused::infra(format!("input {}: {e}", input.digest)))?
            .take(input.len.saturating_add(1));
        let copied = match mounts.iter().find(|m| matches!(&input.port, Port::Mount(n) if *n == m.name)) {
            None => io::copy(&mut from, &mut stdin),
            Some(mount) => {
                let number = numbers.entry(&mount.name).or_default();
                let path = mount_dir(dir, mount).join(format!("{number:04}"));
                *number += 1;
                copy_to_mount(&mut from, &path)
            }
        };
        let copied = copied.map_err(|e| Refused::infra(format!("input {}: {e}", input.digest)))?;
        if copied != input.len {
            return Err(Refused::infra(format!(
                "input {} has not its length of {}",
                input.digest, input.len
            )));
        }
    }
    stdin.flush().map_err(disk)
}

fn copy_to_mount(from: &mut io::Take<File>, path: &Path) -> io::Result<u64> {
    let mut to = File::create_new(path)?;
    let copied = io::copy(from, &mut to)?;
    // A guest can ask for times; they shall not tell when or where it runs.
    let times = FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH).set_modified(SystemTime::UNIX_EPOCH);
    to.set_times(times)?;
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_names_are_plain_path_components() {
        for good in ["a", "in-1", "Data_2.tif", "0"] {
            assert!(is_mount_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".x", "a/b", "/", "a\0", "a b", "ä", "\x1b[31m", &"x".repeat(65)] {
            assert!(!is_mount_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn only_core_modules_pass_by_their_header() {
        let detail = |b: &[u8]| check_header(b).map_err(|r| (r.class, r.detail));
        assert_eq!(detail(b"\0asm\x01\0\0\0rest"), Ok(()));
        for (bytes, word) in [
            (&b""[..], "no WebAssembly"),
            (b"\0asm\x01\0\0", "no WebAssembly"),
            (b"\0asm\x02\0\0\0", "no WebAssembly"),
            (b"\0asm\x0d\0\x01\0", "component"),
            (b"\x7fELF\x02\x01\x01\xc8", "machine code"),
        ] {
            let (class, detail) = detail(bytes).unwrap_err();
            assert_eq!(class, ExitClass::Permanent);
            assert!(detail.contains(word), "{detail}");
        }
    }
}
