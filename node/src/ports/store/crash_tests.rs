//! The journal under `kill -9` and under damage.

use super::tests::append;
use super::*;
use bytes::Bytes;
use remote_network_core::store::{Room, Subject};
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

const KILLS: u64 = 60;
const CHILD: &str = "REMOTE_NETWORK_TEST_JOURNAL_CHILD";
const NAME: &str = "ports::store::crash_tests::a_killed_writer_loses_nothing_it_acknowledged";

/// A small generator for tests, so that a failure can be repeated from its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// The operations of batch `lsn`: all three kinds, and a journal that stays small.
fn batch(lsn: u64) -> Vec<StoreOp> {
    let log = Subject::new(Room::Job, b"log");
    let mut ops = vec![
        append(Room::Job, "log", &format!("{lsn} {}", "x".repeat((lsn % 700) as usize))),
        StoreOp::Replace { subject: Subject::new(Room::Node, b"n"), record: Bytes::from(lsn.to_string()) },
    ];
    if lsn.is_multiple_of(300) {
        ops.insert(0, StoreOp::Forget { subject: log });
    }
    ops
}

/// What the journal must hold after the batches `1..=last`.
fn model(last: u64) -> Vec<StoredRecord> {
    let mut records: VecDeque<StoredRecord> = VecDeque::new();
    for lsn in 1..=last {
        for op in batch(lsn) {
            let subject = op.subject().clone();
            match op {
                StoreOp::Append { record, .. } => {
                    records.push_back(StoredRecord { lsn: Lsn(lsn), subject, record });
                }
                StoreOp::Replace { record, .. } => {
                    records.retain(|r| r.subject != subject);
                    records.push_back(StoredRecord { lsn: Lsn(lsn), subject, record });
                }
                StoreOp::Forget { .. } => records.retain(|r| r.subject != subject),
            }
        }
    }
    records.into()
}

/// The process that is killed: writes as fast as it may and prints what was acknowledged.
fn write_until_killed(dir: &Path) {
    let (tx, events) = async_channel::bounded(1024);
    let mut opened = open(dir, JournalOptions::default(), tx).unwrap();
    let mut lsn = opened.identity.last_lsn.0;
    let mut acknowledged = lsn;
    let mut out = std::io::stdout();
    loop {
        while lsn < acknowledged + 40 {
            lsn += 1;
            opened.port.submit(Lsn(lsn), batch(lsn)).unwrap();
        }
        match events.recv_blocking().unwrap() {
            Event::Persisted { up_to } => acknowledged = up_to.0,
            other => panic!("{other:?}"),
        }
        writeln!(out, "ack {acknowledged}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_killed_writer_loses_nothing_it_acknowledged() {
    if let Some(dir) = std::env::var_os(CHILD) {
        write_until_killed(Path::new(&dir));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut dice = Dice(0x5eed_1234_abcd_0001);
    let mut total = 0;
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let number = |line: String| line.strip_prefix("ack ").and_then(|n| n.parse::<u64>().ok());
        let first = lines.by_ref().map_while(Result::ok).find_map(number).unwrap();
        std::thread::sleep(Duration::from_micros(dice.below(30_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        // A last line may be cut short by the kill; a number that lost digits is only a weaker claim.
        let acknowledged = lines.map_while(Result::ok).filter_map(number).fold(first, u64::max);

        let (tx, _rx) = async_channel::bounded(8);
        let opened = open(dir.path(), JournalOptions::default(), tx).unwrap();
        let last = opened.identity.last_lsn.0;
        assert!(last >= acknowledged, "round {round}: {acknowledged} was acknowledged, {last} is there");
        assert!(opened.records == model(last), "round {round}: the records are not those of batch {last}");
        assert_eq!(opened.identity.incarnation, 2 * round + 2, "every start is counted");
        total = last;
    }
    assert!(total > KILLS, "the writer was killed while it wrote");
}

/// A closed journal with some hundred records, and what it holds.
fn journal_of(batches: u64) -> (Vec<u8>, Vec<StoredRecord>) {
    let dir = tempfile::tempdir().unwrap();
    let (tx, _rx) = async_channel::bounded(4096);
    let mut opened = open(dir.path(), JournalOptions::default(), tx).unwrap();
    for lsn in 1..=batches {
        opened.port.submit(Lsn(lsn), batch(lsn)).unwrap();
    }
    opened.port.close();
    (std::fs::read(dir.path().join(JOURNAL_FILE)).unwrap(), model(batches))
}

/// Opens a damaged journal: refused, or exactly what was written.
fn refused_or_whole(bytes: &[u8], whole: &[StoredRecord], what: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(JOURNAL_FILE), bytes).unwrap();
    let (tx, _rx) = async_channel::bounded(8);
    match open(dir.path(), JournalOptions::default(), tx) {
        Ok(opened) => {
            assert!(opened.records == whole, "{what}: other records were served");
            assert_eq!(opened.identity.incarnation, 2, "{what}: another life was served");
            false
        }
        Err(_) => true,
    }
}

#[test]
fn flipped_bits_are_found_or_harmless() {
    let (bytes, whole) = journal_of(150);
    let mut dice = Dice(0x0b17_f11b_0000_0001);
    let mut found = 0;
    for round in 0..400u64 {
        let mut damaged = bytes.clone();
        let flips = 1 + dice.below(64);
        for _ in 0..flips {
            let at = dice.below(damaged.len() as u64) as usize;
            damaged[at] ^= 1 << dice.below(8);
        }
        // The header decides how everything else is read, so it gets more than its share.
        if round % 4 == 0 {
            damaged.clone_from(&bytes);
            let at = dice.below(100) as usize;
            damaged[at] ^= 1 << dice.below(8);
        }
        found += u64::from(refused_or_whole(&damaged, &whole, &format!("round {round}")));
    }
    assert!(found > 200, "only {found} of 400 were found");
}

#[test]
fn lost_and_repeated_pages_and_a_cut_file_are_found_or_harmless() {
    let (bytes, whole) = journal_of(150);
    let pages = bytes.len() / 4096;
    for page in 0..pages {
        let range = page * 4096..(page + 1) * 4096;
        let mut zeroed = bytes.clone();
        zeroed[range.clone()].fill(0);
        refused_or_whole(&zeroed, &whole, &format!("page {page} zeroed"));
        let mut repeated = bytes.clone();
        repeated.copy_within(range.clone(), ((page + 1) % pages) * 4096);
        refused_or_whole(&repeated, &whole, &format!("page {page} twice"));
        if page > 0 {
            assert!(refused_or_whole(&bytes[..range.start], &whole, &format!("cut at page {page}")));
        }
        // The last page may be a free one; then nothing is lost.
        refused_or_whole(&bytes[..range.start + 1000], &whole, &format!("cut within page {page}"));
    }
}

#[test]
fn a_damaged_log_leaves_an_older_consistent_journal_or_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (tx, events) = async_channel::bounded(4096);
    let mut opened = open(dir.path(), JournalOptions::default(), tx).unwrap();
    for lsn in 1..=50 {
        opened.port.submit(Lsn(lsn), batch(lsn)).unwrap();
        while !matches!(events.recv_blocking().unwrap(), Event::Persisted { up_to } if up_to.0 == lsn) {}
    }
    // The files as a killed process leaves them: the log is not yet merged.
    let name = |suffix: &str| dir.path().join(format!("{JOURNAL_FILE}{suffix}"));
    let (file, log) = (std::fs::read(name("")).unwrap(), std::fs::read(name("-wal")).unwrap());
    opened.port.close();
    let mut dice = Dice(0x3a1_0000_0000_0007);
    for round in 0..100 {
        let copy = tempfile::tempdir().unwrap();
        let mut damaged = log.clone();
        let at = dice.below(damaged.len() as u64) as usize;
        damaged[at] ^= 1 << dice.below(8);
        std::fs::write(copy.path().join(JOURNAL_FILE), &file).unwrap();
        std::fs::write(copy.path().join(format!("{JOURNAL_FILE}-wal")), &damaged).unwrap();
        let (tx, _rx) = async_channel::bounded(8);
        if let Ok(opened) = open(copy.path(), JournalOptions::default(), tx) {
            let last = opened.identity.last_lsn.0;
            assert!(last <= 50 && opened.records == model(last), "round {round}: no journal there ever was");
        }
    }
}
