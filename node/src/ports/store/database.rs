//! The journal's tables: pragmas, migrations, checks, and the three operations.
//!
//! **Settings are verified, not hoped for.** SQLite ignores a pragma it does not like; so every one is read back and
//! the node does not start when one differs (a journal with `synchronous=NORMAL` loses acknowledged work in a power
//! cut and no test with `kill -9` would show it).
//!
//! **Damage is found, not served.** Three nets, from cheap to cheaper: `quick_check` looks at the B-trees; each row
//! carries a 16-byte BLAKE3 check of everything in it; and one row, `state`, holds the number of live rows and the XOR
//! of their checks, rewritten in every transaction, so that rows that vanish are missed. What is beyond all three is a
//! damaged write-ahead log: SQLite takes its first bad frame for the log's end. The journal is then a shorter, older,
//! still consistent one.

use super::StoreError;
use bytes::Bytes;
use remote_network_core::id::Lsn;
use remote_network_core::store::{Room, SUBJECT_KEY_MAX, StoreOp, StoredRecord, Subject};
use ring::rand::{SecureRandom as _, SystemRandom};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, Transaction, params};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

/// `RNjl` in the file's header: another program's database is not mistaken for ours.
pub(super) const APPLICATION_ID: i64 = 0x524e_6a6c;

/// One step per schema version; `user_version` counts the steps that were taken. Steps are never edited.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE meta (
        key   TEXT PRIMARY KEY NOT NULL,
        value BLOB NOT NULL,
        chk   BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE journal (
        id      INTEGER PRIMARY KEY,
        lsn     INTEGER NOT NULL,
        room    INTEGER NOT NULL,
        subject BLOB NOT NULL,
        record  BLOB NOT NULL,
        chk     BLOB NOT NULL
    ) STRICT;
    CREATE INDEX journal_subject ON journal (room, subject);
",
    "
    CREATE TABLE relay_accounts (
        id          INTEGER PRIMARY KEY,
        peer        BLOB NOT NULL,
        session     BLOB NOT NULL,
        kind        TEXT NOT NULL,
        addr        TEXT NOT NULL,
        since       INTEGER NOT NULL,
        begun       INTEGER NOT NULL,
        until       INTEGER NOT NULL,
        ended       INTEGER NOT NULL,
        packets_in  INTEGER NOT NULL,
        bytes_in    INTEGER NOT NULL,
        packets_out INTEGER NOT NULL,
        bytes_out   INTEGER NOT NULL,
        dropped     INTEGER NOT NULL,
        drops       TEXT NOT NULL
    ) STRICT;
    CREATE INDEX relay_accounts_until ON relay_accounts (until);
    CREATE TABLE relay_days (
        day         INTEGER PRIMARY KEY,
        sessions    INTEGER NOT NULL,
        packets_in  INTEGER NOT NULL,
        bytes_in    INTEGER NOT NULL,
        packets_out INTEGER NOT NULL,
        bytes_out   INTEGER NOT NULL,
        dropped     INTEGER NOT NULL
    ) STRICT;
",
];

/// Pragmas and what they must read back as.
const PRAGMAS: &[(&str, &str)] = &[
    ("journal_mode", "wal"),
    ("synchronous", "2"),
    ("foreign_keys", "1"),
    ("trusted_schema", "0"),
    ("cell_size_check", "1"),
    ("mmap_size", "0"),
    ("wal_autocheckpoint", "1000"),
    ("busy_timeout", "5000"),
    #[cfg(target_os = "macos")]
    ("fullfsync", "1"),
    #[cfg(target_os = "macos")]
    ("checkpoint_fullfsync", "1"),
];

/// Pragmas of connections beside the journal's. What they write lasts with the journal's next sync; they never checkpoint,
/// so that every sync of the file, and every failure of one, is the journal's.
const BESIDE: &[(&str, &str)] = &[
    ("synchronous", "1"),
    ("trusted_schema", "0"),
    ("cell_size_check", "1"),
    ("mmap_size", "0"),
    ("wal_autocheckpoint", "0"),
    ("busy_timeout", "5000"),
];

const SWITCHES: &[(DbConfig, bool)] = &[
    (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
    (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
    (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
    (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
    (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
];

type Check = [u8; 16];

/// What one row of `meta` says of the whole journal.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct State {
    pub(super) last_lsn: u64,
    rows: u64,
    checks: Check,
}

impl State {
    fn toggle(&mut self, check: Check) {
        for (mine, its) in self.checks.iter_mut().zip(check) {
            *mine ^= its;
        }
    }

    fn to_bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        out[..8].copy_from_slice(&self.last_lsn.to_be_bytes());
        out[8..16].copy_from_slice(&self.rows.to_be_bytes());
        out[16..].copy_from_slice(&self.checks);
        out
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 32] = bytes.try_into().ok()?;
        let (lsn, rest) = bytes.split_first_chunk::<8>()?;
        let (rows, checks) = rest.split_first_chunk::<8>()?;
        Some(Self {
            last_lsn: u64::from_be_bytes(*lsn),
            rows: u64::from_be_bytes(*rows),
            checks: checks.try_into().ok()?,
        })
    }
}

/// The open journal.
pub(super) struct Database {
    conn: Connection,
    state: State,
    pub(super) store_id: [u8; 16],
    pub(super) incarnation: u64,
}

impl Database {
    /// Opens, migrates and checks the file, and counts this start. Records come in journal order.
    pub(super) fn open(
        path: &Path,
        pages_max: Option<u32>,
    ) -> Result<(Database, Vec<StoredRecord>), StoreError> {
        // SQLite gives its own files (-wal, -shm) the mode of the database; so the database gets it first.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(|e| StoreError::Io { path: path.to_owned(), why: e.to_string() })?;
        let mut conn = connect(path)?;
        configure(&conn, PRAGMAS)?;
        if let Some(pages) = pages_max {
            conn.pragma_update(None, "max_page_count", pages)?;
        }
        migrate(&mut conn, MIGRATIONS)?;
        let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
        if verdict != "ok" {
            return Err(StoreError::Damaged(verdict));
        }
        let state = load_state(&conn)?;
        let records = load_records(&conn, state)?;
        let (store_id, incarnation) = count_start(&mut conn)?;
        Ok((Self { conn, state, store_id, incarnation }, records))
    }

    /// The last batch that was committed, also when its records are gone since.
    pub(super) fn last_lsn(&self) -> u64 {
        self.state.last_lsn
    }

    /// Writes batches in one transaction. After an error the handle must not be used again: the operating system
    /// reports a failed sync only once, so a second try may "succeed" over lost pages.
    pub(super) fn commit(&mut self, batches: &[(Lsn, Vec<StoreOp>)]) -> Result<(), StoreError> {
        let tx = self.conn.transaction()?;
        let mut state = self.state;
        for (lsn, ops) in batches {
            for op in ops {
                apply(&tx, &mut state, *lsn, op)?;
            }
            state.last_lsn = lsn.0;
        }
        put_meta(&tx, "state", &state.to_bytes())?;
        tx.commit()?;
        self.state = state;
        Ok(())
    }
}

/// A connection with every switch and limit that keeps a hostile file from doing more than failing.
fn connect(path: &Path) -> Result<Connection, StoreError> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW
            | OpenFlags::SQLITE_OPEN_EXRESCODE,
    )?;
    for (switch, wanted) in SWITCHES {
        if conn.set_db_config(*switch, *wanted)? != *wanted || conn.db_config(*switch)? != *wanted {
            return Err(StoreError::Setting { name: format!("{switch:?}"), value: (!wanted).to_string() });
        }
    }
    Ok(conn)
}

/// What a connection beside the journal's is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// It writes tables that are not the journal's.
    Write,
    /// It only reads.
    Read,
}

/// A further connection to an open journal's file, for what is kept in it besides.
pub(super) fn beside(path: &Path, access: Access) -> Result<Connection, StoreError> {
    let conn = connect(path)?;
    configure(&conn, BESIDE)?;
    // The journal's connection is the one that tidies up.
    let switch = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    if !conn.set_db_config(switch, true)? {
        return Err(StoreError::Setting { name: format!("{switch:?}"), value: "false".into() });
    }
    if access == Access::Read {
        configure(&conn, &[("query_only", "1")])?;
    }
    Ok(conn)
}

fn configure(conn: &Connection, pragmas: &[(&str, &str)]) -> Result<(), StoreError> {
    conn.busy_timeout(Duration::from_millis(5000))?;
    for (name, wanted) in pragmas {
        // Some pragmas answer with a row and some do not; what counts is the reading back.
        conn.pragma_update_and_check(None, name, wanted, |_| Ok(())).optional()?;
        let value = pragma(conn, name)?;
        if value != *wanted {
            return Err(StoreError::Setting { name: (*name).to_owned(), value });
        }
    }
    Ok(())
}

fn pragma(conn: &Connection, name: &str) -> Result<String, StoreError> {
    let value = conn.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))?;
    Ok(match value {
        rusqlite::types::Value::Integer(i) => i.to_string(),
        rusqlite::types::Value::Text(t) => t,
        other => format!("{other:?}"),
    })
}

/// Takes the steps that are still to be taken, each in a transaction of its own together with its number.
pub(super) fn migrate(conn: &mut Connection, steps: &[&str]) -> Result<(), StoreError> {
    let application: i64 = conn.pragma_query_value(None, "application_id", |r| r.get(0))?;
    let version: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    let fresh = application == 0 && version == 0 && tables == 0;
    if application != APPLICATION_ID && !fresh {
        return Err(StoreError::Foreign { application });
    }
    let known = steps.len() as i64;
    if !(0..=known).contains(&version) {
        return Err(StoreError::Version { found: version, known });
    }
    for (step, sql) in steps.iter().enumerate().skip(usize::try_from(version).unwrap_or(0)) {
        let tx = conn.transaction()?;
        tx.execute_batch(sql)?;
        if step == 0 {
            let mut store_id = [0; 16];
            SystemRandom::new()
                .fill(&mut store_id)
                .map_err(|_| StoreError::Damaged("no random bytes from the operating system".into()))?;
            put_meta(&tx, "store_id", &store_id)?;
            put_meta(&tx, "incarnation", &0u64.to_be_bytes())?;
            put_meta(&tx, "state", &State::default().to_bytes())?;
        }
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", step as i64 + 1)?;
        tx.commit()?;
    }
    for (name, wanted) in [("application_id", APPLICATION_ID), ("user_version", known)] {
        let value: i64 = conn.pragma_query_value(None, name, |r| r.get(0))?;
        if value != wanted {
            return Err(StoreError::Setting { name: name.to_owned(), value: value.to_string() });
        }
    }
    Ok(())
}

fn put_meta(tx: &Transaction<'_>, key: &str, value: &[u8]) -> Result<(), StoreError> {
    tx.prepare_cached("INSERT OR REPLACE INTO meta (key, value, chk) VALUES (?1, ?2, ?3)")?
        .execute(params![key, value, meta_check(key, value)])?;
    Ok(())
}

fn meta<const N: usize>(conn: &Connection, key: &str) -> Result<[u8; N], StoreError> {
    let row: Option<(Vec<u8>, Vec<u8>)> = conn
        .query_row("SELECT value, chk FROM meta WHERE key = ?1", [key], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    let damaged = || StoreError::Damaged(format!("its `{key}` is missing or damaged"));
    let (value, chk) = row.ok_or_else(damaged)?;
    if chk != meta_check(key, &value) {
        return Err(damaged());
    }
    value.try_into().map_err(|_| damaged())
}

fn load_state(conn: &Connection) -> Result<State, StoreError> {
    let bytes = meta::<32>(conn, "state")?;
    State::from_bytes(&bytes).ok_or_else(|| StoreError::Damaged("its `state` is malformed".into()))
}

fn load_records(conn: &Connection, state: State) -> Result<Vec<StoredRecord>, StoreError> {
    let mut statement =
        conn.prepare("SELECT id, lsn, room, subject, record, chk FROM journal ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut records: Vec<StoredRecord> = Vec::new();
    let mut found = State { last_lsn: state.last_lsn, ..State::default() };
    while let Some(row) = rows.next()? {
        let (record, check) = read_row(row)?;
        if record.lsn.0 > state.last_lsn || records.last().is_some_and(|before| before.lsn > record.lsn) {
            return Err(StoreError::Damaged(format!("record of batch {} is out of order", record.lsn.0)));
        }
        found.rows += 1;
        found.toggle(check);
        records.push(record);
    }
    if found != state {
        return Err(StoreError::Damaged(format!(
            "{} records are there, but not the {} that were written",
            found.rows, state.rows
        )));
    }
    Ok(records)
}

fn read_row(row: &Row<'_>) -> Result<(StoredRecord, Check), StoreError> {
    let (id, lsn, room): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (subject, record, chk): (Vec<u8>, Vec<u8>, Vec<u8>) = (row.get(3)?, row.get(4)?, row.get(5)?);
    let damaged = |why: &str| StoreError::Damaged(format!("record {id} (batch {lsn}) {why}"));
    let check = record_check(id, lsn, room, &subject, &record);
    if chk != check {
        return Err(damaged("does not match its check"));
    }
    let known = u8::try_from(room).ok().and_then(Room::from_number);
    let room = known.ok_or_else(|| damaged("belongs to a room this version does not know"))?;
    let lsn = Lsn(u64::try_from(lsn).map_err(|_| damaged("has a negative number"))?);
    let subject = Subject { room, key: Bytes::from(subject) };
    Ok((StoredRecord { lsn, subject, record: Bytes::from(record) }, check))
}

fn count_start(conn: &mut Connection) -> Result<([u8; 16], u64), StoreError> {
    let store_id = meta::<16>(conn, "store_id")?;
    let incarnation = u64::from_be_bytes(meta::<8>(conn, "incarnation")?).saturating_add(1);
    let tx = conn.transaction()?;
    put_meta(&tx, "incarnation", &incarnation.to_be_bytes())?;
    tx.commit()?;
    Ok((store_id, incarnation))
}

fn apply(tx: &Transaction<'_>, state: &mut State, lsn: Lsn, op: &StoreOp) -> Result<(), StoreError> {
    let subject = op.subject();
    if subject.key.len() > SUBJECT_KEY_MAX {
        return Err(StoreError::Batch(format!("a subject of {} bytes is too long", subject.key.len())));
    }
    let room = i64::from(subject.room as u8);
    match op {
        StoreOp::Append { record, .. } => insert(tx, state, lsn, room, &subject.key, record),
        StoreOp::Replace { record, .. } => {
            forget(tx, state, room, &subject.key)?;
            insert(tx, state, lsn, room, &subject.key, record)
        }
        StoreOp::Forget { .. } => forget(tx, state, room, &subject.key),
    }
}

fn insert(
    tx: &Transaction<'_>,
    state: &mut State,
    lsn: Lsn,
    room: i64,
    subject: &[u8],
    record: &[u8],
) -> Result<(), StoreError> {
    let too_far = |_| StoreError::Batch(format!("batch number {} is too large", lsn.0));
    let lsn = i64::try_from(lsn.0).map_err(too_far)?;
    // The id is part of the check, so it is chosen here; the last row's id plus one keeps the order.
    let id: i64 =
        tx.prepare_cached("SELECT coalesce(max(id), 0) + 1 FROM journal")?.query_row([], |row| row.get(0))?;
    let check = record_check(id, lsn, room, subject, record);
    tx.prepare_cached(
        "INSERT INTO journal (id, lsn, room, subject, record, chk) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![id, lsn, room, subject, record, check])?;
    state.rows += 1;
    state.toggle(check);
    Ok(())
}

fn forget(tx: &Transaction<'_>, state: &mut State, room: i64, subject: &[u8]) -> Result<(), StoreError> {
    let mut statement =
        tx.prepare_cached("DELETE FROM journal WHERE room = ?1 AND subject = ?2 RETURNING chk")?;
    let mut rows = statement.query(params![room, subject])?;
    while let Some(row) = rows.next()? {
        state.rows = state.rows.saturating_sub(1);
        state.toggle(row.get(0)?);
    }
    Ok(())
}

fn record_check(id: i64, lsn: i64, room: i64, subject: &[u8], record: &[u8]) -> Check {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"remote-network journal record\0");
    for number in [id, lsn, room, subject.len() as i64] {
        hasher.update(&number.to_be_bytes());
    }
    hasher.update(subject).update(record);
    first_half(&hasher)
}

fn meta_check(key: &str, value: &[u8]) -> Check {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"remote-network journal meta\0").update(key.as_bytes()).update(&[0]).update(value);
    first_half(&hasher)
}

fn first_half(hasher: &blake3::Hasher) -> Check {
    let mut check = Check::default();
    hasher.finalize_xof().fill(&mut check);
    check
}
