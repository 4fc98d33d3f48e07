use super::database::{APPLICATION_ID, MIGRATIONS};
use super::*;
use bytes::Bytes;
use remote_network_core::store::{Room, Subject};
use rusqlite::Connection;
use std::os::unix::fs::PermissionsExt as _;

pub(super) fn append(room: Room, key: &str, record: &str) -> StoreOp {
    StoreOp::Append { subject: Subject::new(room, key.as_bytes()), record: Bytes::from(record.to_owned()) }
}

fn replace(room: Room, key: &str, record: &str) -> StoreOp {
    StoreOp::Replace { subject: Subject::new(room, key.as_bytes()), record: Bytes::from(record.to_owned()) }
}

fn forget(room: Room, key: &str) -> StoreOp {
    StoreOp::Forget { subject: Subject::new(room, key.as_bytes()) }
}

fn open_at(dir: &Path) -> (Opened, async_channel::Receiver<Event>) {
    let (tx, rx) = async_channel::bounded(1 << 16);
    (open(dir, JournalOptions::default(), tx).unwrap(), rx)
}

fn texts(records: &[StoredRecord]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8(r.record.to_vec()).unwrap()).collect()
}

fn wait_for(events: &async_channel::Receiver<Event>, lsn: u64) {
    loop {
        match events.recv_blocking().unwrap() {
            Event::Persisted { up_to } if up_to.0 >= lsn => return,
            Event::Persisted { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_was_persisted_is_there_after_a_restart_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, events) = open_at(dir.path());
    assert_eq!((a.identity.incarnation, a.identity.last_lsn), (1, Lsn(0)));
    a.port.submit(Lsn(1), vec![append(Room::Run, "r", "one"), append(Room::Job, "j", "x")]).unwrap();
    a.port.submit(Lsn(2), vec![append(Room::Run, "r", "two"), replace(Room::Node, "", "old")]).unwrap();
    a.port.submit(Lsn(3), vec![replace(Room::Node, "", "new"), forget(Room::Job, "j")]).unwrap();
    wait_for(&events, 3);
    a.port.close();

    let (b, _events) = open_at(dir.path());
    assert_eq!(texts(&b.records), ["one", "two", "new"]);
    assert_eq!(b.records.iter().map(|r| r.lsn.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((b.identity.incarnation, b.identity.last_lsn), (2, Lsn(3)));
    assert_eq!(b.identity.store_id, a.identity.store_id);
}

#[test]
fn closing_writes_everything_that_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, _events) = open_at(dir.path());
    for lsn in 1..=5_000 {
        a.port.submit(Lsn(lsn), vec![append(Room::Job, "j", &lsn.to_string())]).unwrap();
    }
    a.port.close();
    let (b, _events) = open_at(dir.path());
    assert_eq!(texts(&b.records), (1..=5_000).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn queued_batches_share_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, events) = open_at(dir.path());
    for lsn in 1..=2_000 {
        a.port.submit(Lsn(lsn), vec![append(Room::Job, "j", "x")]).unwrap();
    }
    a.port.close();
    let mut commits = 0;
    let mut last = 0;
    while let Ok(Event::Persisted { up_to }) = events.try_recv() {
        assert!(up_to.0 > last, "answers come in order");
        last = up_to.0;
        commits += 1;
    }
    assert_eq!(last, 2_000);
    assert!(commits < 1_000, "{commits} commits for 2000 batches");
}

#[test]
fn the_last_number_survives_even_when_its_records_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, _events) = open_at(dir.path());
    a.port.submit(Lsn(7), vec![append(Room::Job, "j", "x")]).unwrap();
    a.port.submit(Lsn(9), vec![forget(Room::Job, "j")]).unwrap();
    a.port.close();
    let (b, _events) = open_at(dir.path());
    assert_eq!((b.records.len(), b.identity.last_lsn), (0, Lsn(9)));
}

#[test]
fn a_batch_out_of_order_ends_the_port() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, events) = open_at(dir.path());
    a.port.submit(Lsn(2), vec![append(Room::Job, "j", "kept")]).unwrap();
    wait_for(&events, 2);
    a.port.submit(Lsn(2), vec![append(Room::Job, "j", "again")]).unwrap();
    assert!(matches!(events.recv_blocking().unwrap(), Event::PersistFailed { .. }));
    let refused = loop {
        if let Err(refused) = a.port.submit(Lsn(3), vec![]) {
            break refused;
        }
    };
    assert!(matches!(refused.into_event(), Event::PersistFailed { .. }));
    assert!(a.port.submit(Lsn(4), vec![]).is_err());
    drop(a);
    assert_eq!(texts(&open_at(dir.path()).0.records), ["kept"]);
}

#[test]
fn a_full_disk_is_said_once_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (tx, events) = async_channel::bounded(1 << 16);
    let mut a = open(dir.path(), JournalOptions { pages_max: Some(40) }, tx).unwrap();
    let big = "x".repeat(4_000);
    let mut acknowledged = 0;
    for lsn in 1.. {
        if a.port.submit(Lsn(lsn), vec![append(Room::Job, "j", &big)]).is_err() {
            break;
        }
        match events.recv_blocking().unwrap() {
            Event::Persisted { up_to } => acknowledged = up_to.0,
            Event::PersistFailed { why } => {
                assert!(why.contains("full"), "{why}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(acknowledged > 0);
    while a.port.submit(Lsn(1_000_000), vec![]).is_ok() {}
    a.port.close();
    assert!(events.try_recv().is_err(), "the failure is said once");

    let (mut b, events) = open_at(dir.path());
    assert_eq!(b.records.len() as u64, acknowledged);
    b.port.submit(Lsn(acknowledged + 1), vec![append(Room::Job, "j", &big)]).unwrap();
    wait_for(&events, acknowledged + 1);
}

#[test]
fn a_second_node_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_a, _events) = open_at(dir.path());
    let (tx, _rx) = async_channel::bounded(1);
    let refused = open(dir.path(), JournalOptions::default(), tx).unwrap_err();
    assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
}

#[test]
fn every_file_of_the_journal_is_the_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, events) = open_at(dir.path());
    a.port.submit(Lsn(1), vec![append(Room::Job, "j", "x")]).unwrap();
    wait_for(&events, 1);
    let mut seen = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
        seen += 1;
    }
    assert!(seen >= 3, "lock, database and log");
}

#[test]
fn a_backup_is_the_journal_of_one_moment_while_the_writer_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, events) = open_at(dir.path());
    for lsn in 1..=500 {
        a.port.submit(Lsn(lsn), vec![append(Room::Job, "j", &lsn.to_string())]).unwrap();
    }
    wait_for(&events, 1);
    let copy = dir.path().join("copy.sqlite3");
    let summary = backup(dir.path(), &copy).unwrap();
    a.port.close();
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(backup(dir.path(), &copy).is_err(), "nothing is overwritten");

    let other = tempfile::tempdir().unwrap();
    std::fs::rename(&copy, other.path().join(JOURNAL_FILE)).unwrap();
    let (b, _events) = open_at(other.path());
    assert_eq!(b.records.len() as u64, summary.records);
    assert_eq!(texts(&b.records), (1..=summary.records).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(b.identity.store_id, a.identity.store_id);
}

#[test]
fn migrations_lead_from_nothing_and_from_every_version_to_this_one() {
    for version in 0..=MIGRATIONS.len() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(JOURNAL_FILE);
        if version > 0 {
            // A journal as the version before wrote it: made by its own steps.
            drop(open_at(dir.path()));
            let conn = Connection::open(&path).unwrap();
            assert_eq!(version, 1, "build the older shape here when a second version exists");
            drop(conn);
        } else {
            drop(Connection::open(&path).unwrap());
        }
        drop(open_at(dir.path()));
        let conn = Connection::open(&path).unwrap();
        let now: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0)).unwrap();
        let mark: i64 = conn.pragma_query_value(None, "application_id", |r| r.get(0)).unwrap();
        assert_eq!((now, mark), (MIGRATIONS.len() as i64, APPLICATION_ID));
    }
}

#[test]
fn a_newer_journal_and_a_foreign_database_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    drop(open_at(dir.path()));
    let path = dir.path().join(JOURNAL_FILE);
    let (tx, _rx) = async_channel::bounded(8);
    let set = |name: &str, value: i64| {
        Connection::open(&path).unwrap().pragma_update(None, name, value).unwrap();
    };
    set("user_version", 99);
    let newer = open(dir.path(), JournalOptions::default(), tx.clone()).unwrap_err();
    assert!(matches!(newer, StoreError::Version { found: 99, .. }), "{newer}");
    set("user_version", MIGRATIONS.len() as i64);
    set("application_id", 42);
    let foreign = open(dir.path(), JournalOptions::default(), tx).unwrap_err();
    assert!(matches!(foreign, StoreError::Foreign { application: 42 }), "{foreign}");
}

#[test]
fn a_record_that_was_changed_or_vanished_refuses_to_start() {
    let tamperings = [
        "UPDATE journal SET record = x'00' WHERE id = 2",
        "UPDATE journal SET lsn = 1 WHERE id = 3",
        "UPDATE journal SET room = 3 WHERE id = 2",
        "DELETE FROM journal WHERE id = 2",
        "DELETE FROM journal",
        "INSERT INTO journal SELECT id + 10, lsn, room, subject, record, chk FROM journal WHERE id = 3",
        "UPDATE meta SET value = zeroblob(32) WHERE key = 'state'",
        "DELETE FROM meta WHERE key = 'incarnation'",
    ];
    for sql in tamperings {
        let dir = tempfile::tempdir().unwrap();
        let (mut a, _events) = open_at(dir.path());
        for lsn in 1..=3 {
            a.port.submit(Lsn(lsn), vec![append(Room::Job, "j", &lsn.to_string())]).unwrap();
        }
        a.port.close();
        Connection::open(dir.path().join(JOURNAL_FILE)).unwrap().execute_batch(sql).unwrap();
        let (tx, _rx) = async_channel::bounded(8);
        let refused = open(dir.path(), JournalOptions::default(), tx).unwrap_err();
        assert!(matches!(refused, StoreError::Damaged(_)), "{sql}: {refused}");
    }
}
