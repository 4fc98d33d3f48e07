//! The data directory and its lock: one node, one directory (SPEC 8.5).
//!
//! The lock is `flock` on a file that names the process holding it. The kernel drops it when the process dies, however
//! it dies, so a stale lock cannot exist and nobody has to remove a file by hand.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use thiserror::Error;

const LOCK_FILE: &str = "lock";

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// Another process uses it.
    #[error(
        "{} is in use by {}; stop that node first, or choose another data_dir",
        dir.display(),
        match pid { Some(pid) => format!("process {pid}"), None => "another process".to_owned() }
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who, when it could be read.
        pid: Option<u32>,
    },
    /// The operating system's words.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// A data directory this process owns until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory (mode 0700) when it is missing, and takes its lock.
    pub fn lock(dir: &Path) -> Result<Self, DataDirError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let path = fs::canonicalize(dir).map_err(at(dir))?;
        let lock_path = path.join(LOCK_FILE);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::InUse { dir: path, pid: holder(&mut lock) });
            }
            Err(TryLockError::Error(e)) => return Err(at(&lock_path)(e)),
        }
        write_pid(&mut lock).map_err(at(&lock_path))?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_permissions(fs::Permissions::from_mode(0o600))?;
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_user_of_the_directory_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::lock(dir.path()).unwrap();
        let refused = DataDir::lock(dir.path()).unwrap_err();
        assert!(matches!(refused, DataDirError::InUse { pid: Some(p), .. } if p == std::process::id()));
        assert!(refused.to_string().contains("stop that node first"));
        drop(held);
        DataDir::lock(dir.path()).unwrap();
    }

    #[test]
    fn the_directory_and_its_lock_are_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made");
        let held = DataDir::lock(&path).unwrap();
        assert_eq!(fs::metadata(held.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join(LOCK_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_symbolic_link_in_place_of_the_lock_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join(LOCK_FILE)).unwrap();
        assert!(matches!(DataDir::lock(dir.path()), Err(DataDirError::Io { .. })));
        assert_eq!(fs::read_to_string(elsewhere).unwrap(), "precious");
    }
}
