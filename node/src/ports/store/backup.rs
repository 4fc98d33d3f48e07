//! A consistent copy of the journal while the node runs.
//!
//! By SQLite's online backup, from one read snapshot: the writer goes on meanwhile, and the copy is the journal as it
//! was at one commit. Copying the file itself would miss the write-ahead log. The copy appears under its name only
//! when it is complete and durable.

use super::{JOURNAL_FILE, StoreError};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a backup holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupSummary {
    /// Records in the copy.
    pub records: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Copies the journal of the data directory `dir` to the new file `to` (mode 0600). Works beside a running node, from any process.
pub fn backup(dir: &Path, to: &Path) -> Result<BackupSummary, StoreError> {
    let partial = partial_name(to)?;
    if fs::symlink_metadata(to).is_ok() {
        return Err(io_error(to, &io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    let result = copy(dir, &partial).and_then(|summary| {
        // A link refuses to replace what somebody made meanwhile; a rename would not.
        fs::hard_link(&partial, to).map_err(|e| io_error(to, &e))?;
        Ok(summary)
    });
    let _best_effort = fs::remove_file(&partial);
    let summary = result?;
    let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| io_error(folder, &e))?;
    Ok(summary)
}

fn copy(dir: &Path, partial: &Path) -> Result<BackupSummary, StoreError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(partial)
        .map_err(|e| io_error(partial, &e))?;
    let dir = fs::canonicalize(dir).map_err(|e| io_error(dir, &e))?;
    let source = Connection::open_with_flags(
        dir.join(JOURNAL_FILE),
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW,
    )?;
    source.busy_timeout(Duration::from_secs(5))?;
    // An open read transaction pins the snapshot, so that a busy writer does not make the copy start over.
    source.execute_batch("BEGIN")?;
    let records: i64 = source.query_row("SELECT count(*) FROM journal", [], |r| r.get(0))?;
    let mut target = Connection::open(partial)?;
    {
        let copying = Backup::new(&source, &mut target)?;
        while !matches!(copying.step(1_000)?, StepResult::Done) {}
    }
    source.execute_batch("COMMIT")?;
    target.close().map_err(|(_, e)| e)?;
    let file = File::open(partial).map_err(|e| io_error(partial, &e))?;
    file.sync_all().map_err(|e| io_error(partial, &e))?;
    let bytes = file.metadata().map_err(|e| io_error(partial, &e))?.len();
    Ok(BackupSummary { records: u64::try_from(records).unwrap_or(0), bytes })
}

fn partial_name(to: &Path) -> Result<PathBuf, StoreError> {
    let name = to.file_name().ok_or_else(|| io_error(to, &io::Error::from(io::ErrorKind::InvalidInput)))?;
    let mut partial = name.to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    Ok(to.with_file_name(partial))
}

fn io_error(path: &Path, e: &io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), why: e.to_string() }
}
