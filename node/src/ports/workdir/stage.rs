//! Setting the table for a job: an order is checked once, and its inputs are laid out as files.
//!
//! Inputs are copied (a reflink where the file system can), never linked: a guest must not hold a way into the object
//! store. A mount that is input and output at once is one writable directory with its inputs in it.

use super::{EngineBlobs, READ, Refused, Staged, WRITTEN, tree};
use remote_network_core::manifest::Manifest;
use remote_network_core::port::{EngineJob, Layout, Port, layout_of};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, FileTimes};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::SystemTime;

/// Mounts of one job.
const MOUNTS_MAX: usize = 64;

/// Checks the order and lays out the files in `dir`, which must not exist yet. Returns the mounts the guest will see.
pub(in crate::ports) fn stage(
    job: &EngineJob,
    dir: &Path,
    blobs: &dyn EngineBlobs,
    stopped: &dyn Fn() -> bool,
) -> Result<Vec<Staged>, Refused> {
    let mounts = mounts_of(job)?;
    let disk = |e: io::Error| Refused::infra(format!("scratch directory: {e}"));
    for sub in ["", READ, WRITTEN, "r/mnt", "w/mnt"] {
        DirBuilder::new().mode(0o700).create(dir.join(sub)).map_err(disk)?;
    }
    for empty in ["stdout", "stderr"] {
        File::create_new(dir.join(WRITTEN).join(empty)).map_err(disk)?;
    }
    for mount in &mounts {
        DirBuilder::new().mode(0o700).create(mount.dir(dir)).map_err(disk)?;
    }
    stage_inputs(job, dir, &mounts, blobs, stopped)?;
    stage_trees(job, dir, &mounts, blobs, stopped)?;
    Ok(mounts)
}

/// Checks the order; the mounts that the guest will see.
pub(in crate::ports) fn mounts_of(job: &EngineJob) -> Result<Vec<Staged>, Refused> {
    check_strings(job)?;
    mounts(job)
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

fn mounts(job: &EngineJob) -> Result<Vec<Staged>, Refused> {
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
    Ok(found.into_iter().map(|(name, writable)| Staged::new(job, name, writable)).collect())
}

/// Whether all of its ports would be laid out.
#[cfg(test)]
pub(in crate::ports) fn names_a_place(job: &EngineJob) -> bool {
    mounts(job).is_ok()
}

/// One path component of plain characters: it becomes a directory of ours.
fn is_mount_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn stage_inputs(
    job: &EngineJob,
    dir: &Path,
    mounts: &[Staged],
    blobs: &dyn EngineBlobs,
    stopped: &dyn Fn() -> bool,
) -> Result<(), Refused> {
    let disk = |e: io::Error| Refused::infra(format!("scratch directory: {e}"));
    let mut stdin = File::create_new(dir.join(READ).join("stdin")).map_err(disk)?;
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, input) in job.inputs.iter().enumerate() {
        if layout_of(&job.paths, &input.port).is_tree() {
            continue;
        }
        if stopped() {
            return Err(Refused::cancelled());
        }
        let from: Box<dyn Read> = match job.carried.as_ref().and_then(|all| all.get(at)) {
            Some(bytes) => Box::new(&bytes[..]),
            None => {
                let file = blobs.open(&input.digest);
                Box::new(file.map_err(|e| Refused::infra(format!("input {}: {e}", input.digest)))?)
            }
        };
        let mut from = from.take(input.len.saturating_add(1));
        let copied = match mounts.iter().find(|m| matches!(&input.port, Port::Mount(n) if *n == m.name)) {
            None => io::copy(&mut from, &mut stdin),
            Some(mount) => {
                let number = numbers.entry(&mount.name).or_default();
                let path = mount.dir(dir).join(format!("{number:04}"));
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

/// Mounts that hold directories: all inputs joined, or each in a directory of its own.
fn stage_trees(
    job: &EngineJob,
    dir: &Path,
    mounts: &[Staged],
    blobs: &dyn EngineBlobs,
    stopped: &dyn Fn() -> bool,
) -> Result<(), Refused> {
    for mount in mounts {
        let port = Port::Mount(mount.name.clone());
        let layout = layout_of(&job.paths, &port);
        if !layout.is_tree() {
            continue;
        }
        let of_it = job.inputs.iter().filter(|i| i.port == port);
        let all = of_it.map(|i| tree::manifest(i, blobs)).collect::<Result<Vec<_>, _>>()?;
        let to = mount.dir(dir);
        if layout == Layout::Trees {
            for (number, one) in all.iter().enumerate() {
                let to = to.join(format!("{number:04}"));
                let disk = |e: io::Error| Refused::infra(format!("scratch directory: {e}"));
                DirBuilder::new().mode(0o755).create(&to).map_err(disk)?;
                tree::lay_out(one, &to, blobs, stopped)?;
            }
            continue;
        }
        let joined = Manifest::union(&all).map_err(|e| {
            Refused::permanent(format!("the inputs of mount `{}` cannot be joined: {e}", mount.name))
        })?;
        tree::lay_out(&joined, &to, blobs, stopped)?;
    }
    Ok(())
}

fn copy_to_mount(from: &mut impl Read, path: &Path) -> io::Result<u64> {
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
}
