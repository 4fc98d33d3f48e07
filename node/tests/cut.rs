//! Power cuts: what was acknowledged is there after the disk forgot whatever was not on it.
//!
//! `kill -9` does not show this: the system keeps what a dead process wrote. So the store works on a file system of its own, ext4 in a
//! file, which is shut down under a writer that is held still in the middle of its work: journal and pages that the system has not
//! yet put on the disk are gone, as in a cut. Then it is mounted again, recovers, and is compared with what the writer had said was
//! durable. That such a cut takes anything at all is shown by a control: SQLite without a sync at each commit must lose rows.
//!
//! `CUTS=1000 cargo test --release -p remote-network --test cut -- --nocapture` cuts more often and says what it found.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use remote_network_core::event::Event;
use remote_network_core::id::{Digest, Lsn};
use remote_network_core::store::{Room, StoreOp, Subject};
use remote_network_node::ports::blobs::BlobStore;
use remote_network_node::ports::store::{JOURNAL_FILE, JournalOptions, open};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "REMOTE_NETWORK_TEST_CUT_ROLE";
const PLACE: &str = "REMOTE_NETWORK_TEST_CUT_PLACE";
/// Cuts of each kind, unless `CUTS` says otherwise.
const CUTS: u64 = 12;
/// The control must have lost something after so many.
const CONTROL_CUTS_MAX: u64 = 60;

fn cuts() -> u64 {
    std::env::var("CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(CUTS)
}

/// A file system in a file.
struct Disk {
    image: PathBuf,
    at: PathBuf,
    mounted: bool,
    _dir: tempfile::TempDir,
}

fn sh(program: &str, args: &[&str]) -> Result<(), String> {
    let said = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if said.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&said.stderr).trim()))
}

impl Disk {
    fn new() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (image, at) = (dir.path().join("disk"), dir.path().join("mnt"));
        let file = File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(96 << 20).and_then(|()| fs::create_dir(&at)).map_err(|e| e.to_string())?;
        sh("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()])?;
        let mut disk = Self { image, at, mounted: false, _dir: dir };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<(), String> {
        sh("mount", &["-o", "loop", self.image.to_str().unwrap(), self.at.to_str().unwrap()])?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), String> {
        self.mounted = false;
        // Whoever was just killed may not have let go yet.
        let mut last = Ok(());
        for _ in 0..100 {
            last = sh("umount", &[self.at.to_str().unwrap()]);
            if last.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        last?;
        // Another program's name space of mounts may have a copy, and then what was shut down lives on: mounted again it would be the
        // same. The loop device goes with the last of them.
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let said =
                Command::new("losetup").arg("-j").arg(&self.image).output().map_err(|e| e.to_string())?;
            if said.stdout.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err("the file system is still mounted somewhere else".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The disk forgets what is not on it, and nothing reaches it any more.
    #[allow(unsafe_code)]
    fn cut(&self) {
        /// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)` in the kernel's fs/ext4/ext4.h; with `EXT4_GOING_FLAGS_NOLOGFLUSH` (2) the
        /// file system's journal is not written out first.
        const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
        let root = File::open(&self.at).unwrap();
        // SAFETY: the call reads one `u32` at the pointer that `Setter` gives it, and keeps nothing.
        unsafe {
            let cut = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(2);
            rustix::ioctl::ioctl(&root, cut).unwrap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let _left_to_the_next_start = self.unmount();
        }
    }
}

/// A disk, or why there is none; a machine that must have one says so with `REQUIRE_CUT`.
fn disk() -> Option<Disk> {
    match Disk::new() {
        Ok(disk) => Some(disk),
        Err(why) if std::env::var_os("REQUIRE_CUT").is_some() => panic!("no disk to cut: {why}"),
        Err(why) => {
            println!("SKIPPED power cuts: {why}");
            None
        }
    }
}

/// A writer that prints what is durable, line by line: this test again, in a process of its own.
struct Writer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Writer {
    fn start(test: &str, role: &str, place: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(PLACE, place)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> Option<String> {
        self.lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("ack ").map(str::to_owned))
    }

    /// Lets it work for a while, holds it still, cuts the power, and ends it. All that it had said.
    fn cut(mut self, disk: &mut Disk, after: Duration) -> Vec<String> {
        let mut said: Vec<String> = self.next().into_iter().collect();
        assert!(!said.is_empty(), "the writer says nothing");
        std::thread::sleep(after);
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        // A thread that waits for the disk is still only when it is back from there.
        let until = Instant::now() + Duration::from_secs(60);
        while !is_still(self.child.id()) {
            assert!(Instant::now() < until, "the writer is not held still");
            std::thread::yield_now();
        }
        disk.cut();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while let Some(more) = self.next() {
            said.push(more);
        }
        disk.unmount().unwrap();
        disk.mount().unwrap();
        said
    }
}

/// Whether all threads of a process are stopped (proc(5), the state behind the name in parentheses).
fn is_still(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    threads.map(|t| fs::read_to_string(t.path().join("stat")).unwrap_or_default()).all(|stat| {
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
        state.is_some_and(|state| state.starts_with('T'))
    })
}

fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(PLACE)?.into()))
}

/// In one write: a line is there or it is not.
fn acknowledge(what: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "ack {what}").and_then(|()| out.flush()).unwrap();
}

/// How long a writer works: other moments in every round, the same in every run.
fn moment(round: u64) -> Duration {
    Duration::from_micros(2_000 + round * 7_919 % 60_000)
}

// ---------------------------------------------------------------------------------------------- the journal

fn record(n: u64) -> Vec<u8> {
    [&n.to_be_bytes()[..], &vec![n as u8; (n % 900) as usize]].concat()
}

fn write_journal(dir: &Path) -> ! {
    let (tx, events) = async_channel::bounded(1024);
    let mut opened = open(dir, JournalOptions::default(), tx).unwrap();
    let mut lsn = opened.identity.last_lsn.0;
    let mut durable = lsn;
    loop {
        while lsn < durable + 20 {
            lsn += 1;
            let op = StoreOp::Append {
                subject: Subject::new(Room::Job, b"log"),
                record: Bytes::from(record(lsn)),
            };
            opened.port.submit(Lsn(lsn), vec![op]).unwrap();
        }
        match events.recv_blocking().unwrap() {
            Event::Persisted { up_to } => durable = up_to.0,
            other => panic!("{other:?}"),
        }
        acknowledge(&durable.to_string());
    }
}

#[test]
fn a_power_cut_takes_nothing_from_the_journal_that_it_said_was_durable() {
    if let Some((_, place)) = role() {
        write_journal(&place);
    }
    let Some(mut disk) = disk() else { return };
    let dir = disk.at.join("node");
    let mut total = 0;
    for round in 0..cuts() {
        let writer = Writer::start(
            "a_power_cut_takes_nothing_from_the_journal_that_it_said_was_durable",
            "journal",
            &dir,
        );
        let said = writer.cut(&mut disk, moment(round));
        let durable = said.iter().filter_map(|n| n.parse::<u64>().ok()).max().unwrap_or(0);
        let (tx, _rx) = async_channel::bounded(8);
        let opened = open(&dir, JournalOptions::default(), tx).unwrap();
        let last = opened.identity.last_lsn.0;
        assert!(last >= durable, "round {round}: {durable} was durable, {last} is there");
        assert_eq!(opened.records.len() as u64, last, "round {round}");
        for (n, r) in (1u64..).zip(&opened.records) {
            assert_eq!((r.lsn, &r.record[..]), (Lsn(n), &record(n)[..]), "round {round}");
        }
        total = last;
    }
    assert!(total > cuts(), "it was cut while it wrote");
    println!("journal: {} cuts, {total} batches, none lost", cuts());
}

// ---------------------------------------------------------------------------------------------- objects

fn content(n: u64) -> Vec<u8> {
    let mut bytes = vec![0; 1 + (n * 7_919 % 300_000) as usize];
    blake3::Hasher::new().update(&n.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn write_objects(dir: &Path) -> ! {
    let store = BlobStore::open(dir, 1 << 30).unwrap();
    let first = u64::from(std::process::id()) << 20;
    for n in first.. {
        let object = store.import(&mut &content(n)[..]).unwrap();
        acknowledge(&format!("{n} {}", object.digest));
        if n > first + 60 {
            // Room for those of the rounds to come.
            for old in n - 30..n {
                acknowledge(&format!("{old} goes"));
                store.remove(&Digest::of(&content(old))).unwrap();
            }
        }
    }
    unreachable!()
}

#[test]
fn a_power_cut_takes_no_object_that_the_store_said_it_had() {
    if let Some((_, place)) = role() {
        write_objects(&place);
    }
    let Some(mut disk) = disk() else { return };
    let dir = disk.at.join("objects");
    fs::create_dir(&dir).unwrap();
    let mut objects = 0;
    for round in 0..cuts() {
        let writer = Writer::start("a_power_cut_takes_no_object_that_the_store_said_it_had", "objects", &dir);
        let said = writer.cut(&mut disk, moment(round));
        let store = BlobStore::open(&dir, 1 << 30).unwrap();
        let mut there = std::collections::BTreeMap::new();
        for line in &said {
            match line.split_once(' ') {
                Some((n, "goes")) => drop(there.remove(n)),
                Some((n, digest)) => drop(there.insert(n.to_owned(), digest.parse::<Digest>().unwrap())),
                None => panic!("{line}"),
            }
        }
        for (n, digest) in there {
            let mut bytes = Vec::new();
            store.open_reader(&digest).unwrap().read_to_end(&mut bytes).unwrap();
            assert!(bytes == content(n.parse().unwrap()), "round {round}: object {n} is another");
            store.verify(&digest).unwrap();
            objects += 1;
        }
        // Nor does what was never acknowledged fill the disk.
        drop(store);
        fs::remove_dir_all(&dir).and_then(|()| fs::create_dir(&dir)).unwrap();
    }
    assert!(objects > cuts(), "it was cut while it wrote");
    println!("objects: {} cuts, {objects} objects looked at, none lost or changed", cuts());
}

// ---------------------------------------------------------------------------------------------- the control

fn write_without_sync(dir: &Path) -> ! {
    let db = rusqlite::Connection::open(dir.join(JOURNAL_FILE)).unwrap();
    db.pragma_update(None, "journal_mode", "wal").unwrap();
    db.pragma_update(None, "synchronous", "NORMAL").unwrap();
    db.execute_batch("CREATE TABLE IF NOT EXISTS log (n INTEGER PRIMARY KEY)").unwrap();
    let last: Option<i64> = db.query_row("SELECT max(n) FROM log", [], |row| row.get(0)).unwrap();
    for n in last.unwrap_or(0) + 1.. {
        db.execute("INSERT INTO log VALUES (?1)", [n]).unwrap();
        acknowledge(&n.to_string());
    }
    unreachable!()
}

#[test]
fn a_power_cut_does_take_what_was_not_synced() {
    if let Some((_, place)) = role() {
        write_without_sync(&place);
    }
    let Some(mut disk) = disk() else { return };
    let dir = disk.at.join("control");
    fs::create_dir(&dir).unwrap();
    for round in 1..=CONTROL_CUTS_MAX {
        let writer = Writer::start("a_power_cut_does_take_what_was_not_synced", "control", &dir);
        let said = writer.cut(&mut disk, moment(round));
        let said = said.iter().filter_map(|n| n.parse::<i64>().ok()).max().unwrap_or(0);
        let db = rusqlite::Connection::open(dir.join(JOURNAL_FILE)).unwrap();
        let there = db.query_row("SELECT max(n) FROM log", [], |row| row.get::<_, Option<i64>>(0));
        let there = there.ok().flatten().unwrap_or(0);
        if there < said {
            println!("control: after {round} cuts {} rows of {said} were lost", said - there);
            return;
        }
    }
    panic!("{CONTROL_CUTS_MAX} cuts took nothing: they show nothing about what was synced");
}
