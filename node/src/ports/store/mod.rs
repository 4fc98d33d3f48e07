//! The journal in SQLite: what the core calls durable.
//!
//! One thread writes. It takes everything that is queued (up to [`COMMIT_BYTES_MAX`]) into one transaction, because a
//! commit with `synchronous=FULL` costs milliseconds whatever it holds; under load the batches of many protocols share
//! one sync, and an idle node does nothing at all: no timer, no periodic sync. [`Event::Persisted`] is said after
//! the commit returned and never before.
//!
//! **Fail-stop.** After a failed write or sync the state of the disk is unknown, and asking again may report success
//! over lost pages. So the first error ends the port: [`Event::PersistFailed`] is said once, everything later is
//! refused, and the node stops. A restart reads what really is on the disk.
//!
//! What a power cut leaves is SQLite's promise for WAL and FULL; what a `kill -9` leaves is tested here.

mod accounts;
mod backup;
mod data_dir;
mod database;

pub use accounts::{AccountBook, AccountPort, Entry, PAGE_ROWS_MAX, Totals};
pub use backup::{BackupSummary, backup};
pub use data_dir::{DataDir, DataDirError};

use crate::failpoints;
use crate::ports::Refused;
use async_channel::Sender;
use database::Database;
use remote_network_core::event::Event;
use remote_network_core::id::Lsn;
use remote_network_core::store::{StoreOp, StoredRecord};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use thiserror::Error;

/// The journal's file within the data directory.
pub const JOURNAL_FILE: &str = "journal.sqlite3";

/// Bytes of records after which a transaction is closed although more is queued: it bounds the write-ahead log and how
/// long the first batch waits for the last.
pub const COMMIT_BYTES_MAX: usize = 256 * 1024;

/// Batches that may wait for the writer. The core's machines hold back effects until their batch is durable, so each
/// has a few in flight at the most; this is far above all of them together.
pub const BATCHES_WAITING_MAX: usize = 16_384;

/// Why the journal cannot be opened or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The file.
    #[error("journal {}: {why}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The operating system's words.
        why: String,
    },
    /// SQLite's words.
    #[error("journal: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A setting did not take.
    #[error("journal: SQLite keeps `{name}` at `{value}`; it would not be safe to go on")]
    Setting {
        /// Which.
        name: String,
        /// What it is instead.
        value: String,
    },
    /// Another program's database.
    #[error("journal: the file belongs to another program (application id {application:#x})")]
    Foreign {
        /// Its mark.
        application: i64,
    },
    /// Written by a newer version.
    #[error("journal: its version is {found}, this program knows up to {known}; use a newer remote-network")]
    Version {
        /// The file's.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The bytes are not what was written. Nothing is guessed: the operator decides.
    #[error(
        "the journal is damaged: {0}. Restore a backup (`remote-network` refuses to guess what was lost); keep the \
         damaged file for analysis"
    )]
    Damaged(String),
    /// A batch that breaks the journal's own rules: a bug in the caller.
    #[error("journal: {0}")]
    Batch(String),
}

/// Options beyond the defaults.
#[derive(Clone, Copy, Debug, Default)]
pub struct JournalOptions {
    /// Largest size of the file in pages of 4 KiB; `None`: as large as the disk.
    pub pages_max: Option<u32>,
}

/// Which store this is, and which of its lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreIdentity {
    /// Chosen at random when the journal was made; a copy restored from a backup keeps it.
    pub store_id: [u8; 16],
    /// Starts counted, this one included: 1 in a new journal.
    pub incarnation: u64,
    /// The last batch ever committed, also when all its records are forgotten. Later batches have higher numbers.
    pub last_lsn: Lsn,
}

/// What [`open`] gives.
#[derive(Debug)]
pub struct Opened {
    /// Takes batches.
    pub port: JournalPort,
    /// All records, in journal order.
    pub records: Vec<StoredRecord>,
    /// Which store this is.
    pub identity: StoreIdentity,
}

type Batch = (Lsn, Vec<StoreOp>);

/// Takes the core's batches. Dropping it writes what is queued and waits for the writer.
#[derive(Debug)]
pub struct JournalPort {
    batches: Option<SyncSender<Batch>>,
    writer: Option<JoinHandle<()>>,
    dir: PathBuf,
}

/// Opens the journal of a data directory and takes the directory's lock until the port is dropped.
///
/// Answers go to `events`; the channel must be drained for the writer to go on.
pub fn open(dir: &Path, options: JournalOptions, events: Sender<Event>) -> Result<Opened, StoreError> {
    let lock = DataDir::lock(dir)?;
    let dir = lock.path().to_owned();
    let path = dir.join(JOURNAL_FILE);
    let (database, records) = Database::open(&path, options.pages_max)?;
    let identity = StoreIdentity {
        store_id: database.store_id,
        incarnation: database.incarnation,
        last_lsn: Lsn(database.last_lsn()),
    };
    let floor = records.last().map_or(Lsn(0), |last| last.lsn);
    let (batches, queue) = sync_channel(BATCHES_WAITING_MAX);
    let writer = std::thread::Builder::new()
        .name("journal".into())
        .spawn(move || {
            let _lock = lock;
            write_until_closed(database, floor, &queue, &events);
        })
        .map_err(|e| StoreError::Io { path, why: format!("no thread for the writer: {e}") })?;
    Ok(Opened { port: JournalPort { batches: Some(batches), writer: Some(writer), dir }, records, identity })
}

impl JournalPort {
    /// Queues a batch; answered by [`Event::Persisted`] once it and all before it are durable.
    ///
    /// Refused after a failure, and when the queue is full. The latter is a failure too: a batch that is missing in the
    /// middle would make the later ones lies, so nothing after it is taken.
    pub fn submit(&mut self, lsn: Lsn, ops: Vec<StoreOp>) -> Result<(), Refused> {
        let refused = |why: &str| Refused::from(Event::PersistFailed { why: why.into() });
        let Some(batches) = &self.batches else {
            return Err(refused("the journal has failed before"));
        };
        let why = match batches.try_send((lsn, ops)) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(_)) => "the journal's queue is full",
            Err(TrySendError::Disconnected(_)) => "the journal's writer has ended",
        };
        self.batches = None;
        Err(refused(why))
    }

    /// The data directory, without symbolic links.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes what is queued and ends. Blocks until the last batch is durable or has failed.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for JournalPort {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(writer) = self.writer.take() {
            // The writer catches its own panics and reports them; there is nothing more to learn here.
            let _ended = writer.join();
        }
    }
}

/// The writer's life.
fn write_until_closed(mut database: Database, floor: Lsn, queue: &Receiver<Batch>, events: &Sender<Event>) {
    let mut last = floor;
    while let Ok(first) = queue.recv() {
        let group = gather(first, queue);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let up_to = in_order(last, &group)?;
            failpoints::before(group.iter().flat_map(|(_, ops)| ops));
            database.commit(&group)?;
            failpoints::after(group.iter().flat_map(|(_, ops)| ops));
            Ok::<Lsn, StoreError>(up_to)
        }));
        let event = match result {
            Ok(Ok(up_to)) => {
                last = up_to;
                Event::Persisted { up_to }
            }
            Ok(Err(e)) => Event::PersistFailed { why: e.to_string() },
            Err(_) => Event::PersistFailed { why: "the journal's writer panicked".into() },
        };
        let failed = matches!(event, Event::PersistFailed { .. });
        // Nobody listens any more when the driver is gone; what is queued is written all the same.
        let _listener = events.send_blocking(event);
        if failed {
            return;
        }
    }
}

/// `first` and what is queued behind it, up to [`COMMIT_BYTES_MAX`].
fn gather(first: Batch, queue: &Receiver<Batch>) -> Vec<Batch> {
    let mut bytes = batch_bytes(&first);
    let mut group = vec![first];
    while bytes < COMMIT_BYTES_MAX {
        let Ok(next) = queue.try_recv() else { break };
        bytes += batch_bytes(&next);
        group.push(next);
    }
    group
}

/// Bytes a batch will take, roughly: keys, checks and page overhead count, so that many empty records end too.
fn batch_bytes((_, ops): &Batch) -> usize {
    ops.iter()
        .map(|op| match op {
            StoreOp::Append { record, .. } | StoreOp::Replace { record, .. } => record.len() + 128,
            StoreOp::Forget { .. } => 128,
        })
        .sum()
}

fn in_order(last: Lsn, group: &[Batch]) -> Result<Lsn, StoreError> {
    group.iter().try_fold(last, |before, (lsn, _)| {
        if *lsn > before {
            Ok(*lsn)
        } else {
            Err(StoreError::Batch(format!("batch {} came after batch {}", lsn.0, before.0)))
        }
    })
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
