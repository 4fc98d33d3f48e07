//! The relay's books: what each session cost, and what all did each day, in two tables beside the journal.
//!
//! Books are not the journal. Nothing waits for them, a row that is lost is only a row that is missing in a sum, and a full
//! disk must not stop a node because of them. So they have a thread and a connection of their own: rows that come
//! together share a transaction, nothing is synced for them (`synchronous=NORMAL`, and this connection never
//! checkpoints: the journal's does, with its next commit), and what cannot be taken or written is counted as lost and
//! said in the log. A node that relays nothing does nothing here.
//!
//! **Bounded**: rows older than [`KEPT_FOR`] and those beyond [`ROWS_MAX`] are removed, the oldest first, at most
//! [`PRUNED_AT_ONCE`] in a transaction, so that the journal never waits long for the file. A day's sums outlive its rows, so
//! that they are whole however many rows there were.

use super::database::{Access, beside};
use super::{JOURNAL_FILE, StoreError};
use remote_network_core::id::PublicKey;
use remote_network_core::relay::server::{Account, DropReason, Kind, Usage};
use remote_network_core::time::UnixTime;
use rusqlite::{Connection, Row, TransactionBehavior, params};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Rows older than this are removed.
pub const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 3_600);
/// Rows kept at the most: about 30 MB. A busy relay of a thousand sessions fills them in under two hours, a quiet one in months.
pub const ROWS_MAX: u64 = 100_000;
/// Days whose sums are kept.
pub const DAYS_MAX: u64 = 400;
/// Milliseconds of a day; days are those of UTC.
const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// Rows that may wait to be written: eight full minutes of a thousand sessions.
pub const ROWS_WAITING_MAX: usize = 8_192;
/// Rows of one transaction.
const ROWS_AT_ONCE: usize = 1_024;
/// Rows removed by one transaction: as many as are written by one, so that the table does not grow.
const PRUNED_AT_ONCE: u64 = ROWS_AT_ONCE as u64;
/// Rows of one answer.
pub const PAGE_ROWS_MAX: u32 = 1_000;

/// Takes the relay's accounts. Never blocks. Dropping it writes what is queued.
#[derive(Debug)]
pub struct AccountPort {
    rows: Option<SyncSender<Box<Account>>>,
    writer: Option<JoinHandle<()>>,
    book: AccountBook,
}

impl AccountPort {
    /// Starts the writer for the data directory of an open journal, which must stay open for as long.
    pub fn start(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(JOURNAL_FILE);
        let conn = beside(&path, Access::Write)?;
        let book = AccountBook { path: path.clone(), lost: Arc::default() };
        let (rows, queue) = sync_channel(ROWS_WAITING_MAX);
        let lost = book.lost.clone();
        let writer = std::thread::Builder::new()
            .name("relay-books".into())
            .spawn(move || write_until_closed(conn, &queue, &lost))
            .map_err(|e| StoreError::Io { path, why: format!("no thread for the relay's books: {e}") })?;
        Ok(Self { rows: Some(rows), writer: Some(writer), book })
    }

    /// Queues a row, or counts it as lost.
    pub fn submit(&self, account: Box<Account>) {
        let Some(rows) = &self.rows else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = rows.try_send(account) {
            self.book.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// For readers.
    pub fn book(&self) -> AccountBook {
        self.book.clone()
    }
}

impl Drop for AccountPort {
    fn drop(&mut self) {
        self.rows = None;
        if let Some(writer) = self.writer.take() {
            // A panic of that thread has been reported by its hook already.
            let _ended = writer.join();
        }
    }
}

fn write_until_closed(mut conn: Connection, queue: &Receiver<Box<Account>>, lost: &AtomicU64) {
    let mut failing = false;
    let mut told = 0;
    while let Ok(first) = queue.recv() {
        let mut rows = vec![first];
        while rows.len() < ROWS_AT_ONCE
            && let Ok(next) = queue.try_recv()
        {
            rows.push(next);
        }
        match write(&mut conn, &rows, ROWS_MAX) {
            Ok(()) => failing = false,
            Err(e) => {
                lost.fetch_add(rows.len() as u64, Ordering::Relaxed);
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = %e, "the relay's books cannot be written; what it does is not accounted for");
                }
            }
        }
        let missing = lost.load(Ordering::Relaxed);
        if missing > told && !failing {
            tracing::warn!(rows = missing, "rows of the relay's books are lost since the start");
        }
        told = missing;
    }
}

fn write(conn: &mut Connection, rows: &[Box<Account>], rows_max: u64) -> Result<(), rusqlite::Error> {
    // The lock is taken at once: a transaction that begins by reading could not wait for the journal's.
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut latest = 0;
    for account in rows {
        insert(&tx, account)?;
        latest = latest.max(account.to.as_millis());
    }
    let horizon = number(latest.saturating_sub(u64::try_from(KEPT_FOR.as_millis()).unwrap_or(u64::MAX)));
    tx.prepare_cached(
        "DELETE FROM relay_accounts WHERE id IN
             (SELECT id FROM relay_accounts WHERE until < ?1 ORDER BY until LIMIT ?2)",
    )?
    .execute(params![horizon, number(PRUNED_AT_ONCE)])?;
    // Only the oldest are ever removed, so the numbers that are left have hardly a hole.
    tx.prepare_cached(
        "DELETE FROM relay_accounts WHERE id IN
             (SELECT id FROM relay_accounts
              WHERE id <= (SELECT max(id) FROM relay_accounts) - ?1 ORDER BY id LIMIT ?2)",
    )?
    .execute(params![number(rows_max), number(PRUNED_AT_ONCE)])?;
    tx.prepare_cached("DELETE FROM relay_days WHERE day <= ?1")?
        .execute([number(latest / DAY_MS) - number(DAYS_MAX)])?;
    tx.commit()
}

fn insert(conn: &Connection, a: &Account) -> Result<(), rusqlite::Error> {
    let drops: BTreeMap<&str, u64> = DropReason::ALL
        .iter()
        .map(|why| (why.as_str(), a.usage.drops(*why)))
        .filter(|(_, n)| *n > 0)
        .collect();
    let drops = serde_json::to_string(&drops).unwrap_or_default();
    conn.prepare_cached(
        "INSERT INTO relay_accounts (peer, session, kind, addr, since, begun, until, ended,
             packets_in, bytes_in, packets_out, bytes_out, dropped, drops)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?
    .execute(params![
        a.peer.as_bytes(),
        a.session,
        a.kind.as_str(),
        a.addr.to_string(),
        number(a.since.as_millis()),
        number(a.from.as_millis()),
        number(a.to.as_millis()),
        a.ended,
        number(a.usage.packets_in),
        number(a.usage.bytes_in),
        number(a.usage.packets_out),
        number(a.usage.bytes_out),
        number(a.usage.drops_in_all()),
        drops,
    ])?;
    conn.prepare_cached(
        "INSERT INTO relay_days (day, sessions, packets_in, bytes_in, packets_out, bytes_out, dropped)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (day) DO UPDATE SET sessions = sessions + excluded.sessions,
             packets_in = packets_in + excluded.packets_in, bytes_in = bytes_in + excluded.bytes_in,
             packets_out = packets_out + excluded.packets_out, bytes_out = bytes_out + excluded.bytes_out,
             dropped = dropped + excluded.dropped",
    )?
    .execute(params![
        number(a.to.as_millis() / DAY_MS),
        a.ended,
        number(a.usage.packets_in),
        number(a.usage.bytes_in),
        number(a.usage.packets_out),
        number(a.usage.bytes_out),
        number(a.usage.drops_in_all()),
    ])?;
    Ok(())
}

/// SQLite has no larger numbers.
fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Reads the books. Cloning is cheap. Each question has a connection of its own, which is closed with the answer: questions
/// are rare, and the journal's connection is to be the last one.
#[derive(Clone, Debug)]
pub struct AccountBook {
    path: PathBuf,
    lost: Arc<AtomicU64>,
}

/// What all sessions cost in some days.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Sessions that ended.
    pub sessions: u64,
    /// Packets that sessions sent and that were passed on.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets passed on to sessions.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets dropped, for whatever reason.
    pub dropped: u64,
}

/// A row with its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its number; later rows have higher ones.
    pub id: u64,
    /// The row.
    pub account: Account,
}

impl AccountBook {
    /// Rows that were not written since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// What was passed on in the day (of UTC) of `now` and the `days` before it. A row belongs to the day in which it ends.
    pub fn totals(&self, now: UnixTime, days: u64) -> Result<Totals, StoreError> {
        let conn = self.connect()?;
        let first = (now.as_millis() / DAY_MS).saturating_sub(days);
        Ok(conn.query_row(
            "SELECT sum(sessions), sum(packets_in), sum(bytes_in), sum(packets_out), sum(bytes_out), sum(dropped)
             FROM relay_days WHERE day >= ?1",
            [number(first)],
            |row| {
                Ok(Totals {
                    sessions: whole(row, 0)?,
                    packets_in: whole(row, 1)?,
                    bytes_in: whole(row, 2)?,
                    packets_out: whole(row, 3)?,
                    bytes_out: whole(row, 4)?,
                    dropped: whole(row, 5)?,
                })
            },
        )?)
    }

    /// Rows that end at `since` or later and have a number above `after`, the oldest first, [`PAGE_ROWS_MAX`] at the most.
    pub fn rows(&self, since: UnixTime, after: u64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let conn = self.connect()?;
        let mut statement = conn.prepare(
            "SELECT id, peer, session, kind, addr, since, begun, until, ended, packets_in, bytes_in, packets_out,
                 bytes_out, drops
             FROM relay_accounts WHERE id > ?1 AND until >= ?2 ORDER BY id LIMIT ?3",
        )?;
        let wanted = params![number(after), number(since.as_millis()), limit.min(PAGE_ROWS_MAX)];
        let rows = statement.query_map(wanted, |row| Ok(read(row)))?;
        rows.map(|row| row?).collect()
    }

    fn connect(&self) -> Result<Connection, StoreError> {
        beside(&self.path, Access::Read)
    }
}

fn whole(row: &Row<'_>, at: usize) -> Result<u64, rusqlite::Error> {
    Ok(u64::try_from(row.get::<_, Option<i64>>(at)?.unwrap_or(0)).unwrap_or(0))
}

fn read(row: &Row<'_>) -> Result<Entry, StoreError> {
    let id = whole(row, 0)?;
    let wrong = |what: &str| StoreError::Damaged(format!("row {id} of the relay's books has no {what}"));
    let kind: String = row.get(3)?;
    let kind = [Kind::Reserved, Kind::Visitor].into_iter().find(|k| k.as_str() == kind);
    let addr: String = row.get(4)?;
    let drops: BTreeMap<String, u64> =
        serde_json::from_str(&row.get::<_, String>(13)?).map_err(|_| wrong("drops"))?;
    let time = |at| whole(row, at).map(UnixTime::from_millis);
    Ok(Entry {
        id,
        account: Account {
            peer: PublicKey::from_slice(&row.get::<_, Vec<u8>>(1)?).map_err(|_| wrong("key"))?,
            session: row.get::<_, [u8; 8]>(2)?,
            kind: kind.ok_or_else(|| wrong("kind"))?,
            addr: addr.parse().map_err(|_| wrong("address"))?,
            since: time(5)?,
            from: time(6)?,
            to: time(7)?,
            ended: row.get(8)?,
            usage: Usage {
                packets_in: whole(row, 9)?,
                bytes_in: whole(row, 10)?,
                packets_out: whole(row, 11)?,
                bytes_out: whole(row, 12)?,
                dropped: DropReason::ALL.map(|why| drops.get(why.as_str()).copied().unwrap_or(0)),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::{JournalOptions, Opened, open};
    use super::*;
    use remote_network_core::id::{Keypair, Lsn};
    use std::net::SocketAddr;

    fn opened(dir: &Path) -> (Opened, async_channel::Receiver<remote_network_core::event::Event>) {
        let (tx, rx) = async_channel::bounded(1 << 12);
        (open(dir, JournalOptions::default(), tx).unwrap(), rx)
    }

    /// A row that ends at `to_ms`, of peer and session number `n`.
    fn account(n: u8, to_ms: u64) -> Box<Account> {
        let mut usage =
            Usage { packets_in: 3, bytes_in: 300, packets_out: 2, bytes_out: 200, ..Usage::default() };
        usage.dropped[DropReason::QueueFull as usize] = 4;
        usage.dropped[DropReason::TooOld as usize] = 1;
        Box::new(Account {
            peer: Keypair::from_seed(&[n; 32]).public(),
            session: [n; 8],
            kind: if n.is_multiple_of(2) { Kind::Visitor } else { Kind::Reserved },
            addr: SocketAddr::from(([192, 0, 2, n], 4_000)),
            since: UnixTime::from_millis(to_ms.saturating_sub(90_000)),
            from: UnixTime::from_millis(to_ms.saturating_sub(60_000)),
            to: UnixTime::from_millis(to_ms),
            usage,
            ended: n.is_multiple_of(3),
        })
    }

    fn at(ms: u64) -> UnixTime {
        UnixTime::from_millis(ms)
    }

    #[test]
    fn what_is_written_is_read_back_and_summed() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, _events) = opened(dir.path());
        let port = AccountPort::start(dir.path()).unwrap();
        let book = port.book();
        assert_eq!(book.totals(at(0), 30).unwrap(), Totals::default());
        let written: Vec<Account> = (1..=6).map(|n| *account(n, 100 * DAY_MS + u64::from(n))).collect();
        for a in &written {
            port.submit(Box::new(a.clone()));
        }
        port.submit(account(6, 100 * DAY_MS + 7));
        drop(port);
        let rows = book.rows(at(0), 0, PAGE_ROWS_MAX).unwrap();
        let read: Vec<&Account> = rows.iter().take(6).map(|e| &e.account).collect();
        assert_eq!(read, written.iter().collect::<Vec<_>>());
        assert_eq!(rows.iter().map(|e| e.id).collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
        let page = book.rows(at(100 * DAY_MS + 3), rows[2].id, 2).unwrap();
        assert_eq!(page.iter().map(|e| e.id).collect::<Vec<_>>(), [4, 5]);
        let today = book.totals(at(100 * DAY_MS), 0).unwrap();
        assert_eq!((today.sessions, today.packets_in, today.bytes_in, today.dropped), (3, 21, 2_100, 35));
        assert_eq!((today.packets_out, today.bytes_out), (14, 1_400));
        assert_eq!(book.totals(at(101 * DAY_MS), 0).unwrap(), Totals::default(), "a new day");
        assert_eq!(book.totals(at(130 * DAY_MS), 30).unwrap(), today);
        assert_eq!(book.lost(), 0);
    }

    #[test]
    fn rows_that_are_old_or_too_many_go_the_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, _events) = opened(dir.path());
        let port = AccountPort::start(dir.path()).unwrap();
        let mut conn = beside(&dir.path().join(JOURNAL_FILE), Access::Write).unwrap();
        let rows: Vec<_> = (0..2_000_u64).map(|n| account(1, 200 * DAY_MS + n)).collect();
        for some in rows.chunks(500) {
            write(&mut conn, some, 700).unwrap();
        }
        let kept = port.book().rows(at(0), 0, PAGE_ROWS_MAX).unwrap();
        assert_eq!((kept.len(), kept[0].id, kept[699].id), (700, 1_301, 2_000));
        // One row of a later time, and all that is older than ninety days before it goes.
        let later = 200 * DAY_MS + 1_990 + 90 * DAY_MS;
        write(&mut conn, &[account(2, later)], 700).unwrap();
        let kept = port.book().rows(at(0), 0, PAGE_ROWS_MAX).unwrap();
        assert_eq!((kept.len(), kept[0].account.to), (11, at(200 * DAY_MS + 1_990)));
        assert_eq!(port.book().totals(at(200 * DAY_MS), 0).unwrap().packets_in, 6_003, "sums outlive rows");
        write(&mut conn, &[account(2, (200 + DAYS_MAX) * DAY_MS)], 700).unwrap();
        assert_eq!(port.book().totals(at(0), 0).unwrap().packets_in, 6, "and end at last");
    }

    #[test]
    fn books_that_cannot_be_written_lose_rows_and_hold_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, events) = opened(dir.path());
        let port = AccountPort::start(dir.path()).unwrap();
        let conn = beside(&dir.path().join(JOURNAL_FILE), Access::Write).unwrap();
        conn.execute_batch("DROP TABLE relay_accounts").unwrap();
        let sent = ROWS_WAITING_MAX as u64 * 3;
        for n in 0..sent {
            port.submit(account(1, n));
        }
        journal.port.submit(Lsn(1), Vec::new()).unwrap();
        let event = events.recv_blocking().unwrap();
        assert!(matches!(event, remote_network_core::event::Event::Persisted { up_to: Lsn(1) }), "{event:?}");
        let book = port.book();
        drop(port);
        assert_eq!(book.lost(), sent);
        assert!(book.rows(at(0), 0, 1).is_err());
    }

    #[test]
    fn a_reader_writes_nothing_and_the_books_leave_syncing_to_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, _events) = opened(dir.path());
        let path = dir.path().join(JOURNAL_FILE);
        let reader = beside(&path, Access::Read).unwrap();
        assert!(reader.execute_batch("DELETE FROM relay_accounts").is_err());
        let writer = beside(&path, Access::Write).unwrap();
        for (name, value) in [("synchronous", 1), ("wal_autocheckpoint", 0), ("trusted_schema", 0)] {
            let read: i64 = writer.pragma_query_value(None, name, |r| r.get(0)).unwrap();
            assert_eq!(read, value, "{name}");
        }
    }
}
