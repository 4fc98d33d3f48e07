//! A native port over a store in a directory, programs of this machine to run in it, and a way to wait for the end of a job.

use remote_network_core::event::Event;
use remote_network_core::id::{Digest, JobId};
use remote_network_core::port::{
    EngineEvent, EngineExit, EngineInput, EngineJob, EngineLimits, EngineRequest, Executable, Port, Program,
};
use remote_network_node::ports::engine::EngineBlobs;
use remote_network_node::ports::native::{NativeConfig, NativePort, elf};
use rustix::process::Pid;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longer than any test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Another binary to confine with, for tests that run as somebody else.
pub const CONFINE: &str = "NATIVE_TEST_CONFINE";

/// The binary under test. Runs of archived tests say where it was unpacked to.
pub fn binary() -> PathBuf {
    std::env::var_os("NEXTEST_BIN_EXE_remote-network")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_remote-network")), PathBuf::from)
}

pub struct Directory(PathBuf);

impl EngineBlobs for Directory {
    fn open(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.0.join(digest.to_string()))
    }

    fn import(&self, from: &mut dyn Read) -> io::Result<(Digest, u64)> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let digest = Digest::of(&bytes);
        fs::write(self.0.join(digest.to_string()), &bytes)?;
        Ok((digest, bytes.len() as u64))
    }
}

pub struct Rig {
    pub port: Option<NativePort>,
    pub blobs: Arc<Directory>,
    events: async_channel::Receiver<Event>,
    pub dir: tempfile::TempDir,
    jobs: Cell<u8>,
}

impl Rig {
    /// `None`, said with the reason, where programs cannot be confined. With `REQUIRE_NATIVE` set that is a failure.
    pub fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("objects")).unwrap();
        Self::at(dir, 4)
    }

    pub fn at(dir: tempfile::TempDir, running_max: usize) -> Option<Self> {
        let blobs = Arc::new(Directory(dir.path().join("objects")));
        let (to_core, events) = async_channel::bounded(64);
        let confine = std::env::var_os(CONFINE).map_or_else(binary, PathBuf::from);
        let config = NativeConfig { confine, scratch_dir: dir.path().join("scratch"), running_max };
        let port = NativePort::start(config, blobs.clone(), to_core).unwrap();
        if let Err(why) = port.handle().offered() {
            assert!(std::env::var_os("REQUIRE_NATIVE").is_none(), "{why}");
            println!("SKIPPED: {why}");
            return None;
        }
        Some(Self { port: Some(port), blobs, events, dir, jobs: Cell::new(0) })
    }

    pub fn walls(&self) -> String {
        self.port.as_ref().unwrap().handle().offered().unwrap().join("; ")
    }

    pub fn program(&self, bytes: &[u8]) -> Program {
        let (object, _) = self.blobs.import(&mut &*bytes).unwrap();
        Program::Native(Box::new(Executable { object, target: elf::here() }))
    }

    /// `sh -c script`, with this machine's shell, which is linked dynamically: 64 MiB, a minute, 1 MiB, stdout and stderr.
    pub fn order(&self, script: &str) -> EngineJob {
        EngineJob {
            tenant: remote_network_core::id::Keypair::from_seed(&[1; 32]).public(),
            program: self.program(&fs::read("/bin/sh").unwrap()),
            paths: Vec::new(),
            args: vec!["-c".into(), script.into()],
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            inputs: Vec::new(),
            outputs: vec![Port::Stdout, Port::Stderr],
            limits: EngineLimits { memory_bytes: 64 << 20, time_ms: 60_000, output_bytes: 1 << 20 },
            carried: None,
            seed: [0; 32],
        }
    }

    pub fn input(&self, port: Port, bytes: &[u8]) -> EngineInput {
        let (digest, len) = self.blobs.import(&mut &*bytes).unwrap();
        EngineInput { port, digest, len }
    }

    pub fn submit(&self, job: JobId, request: EngineRequest) {
        self.port.as_ref().unwrap().submit(job, request);
    }

    pub fn start(&self, order: EngineJob) -> JobId {
        self.jobs.set(self.jobs.get() + 1);
        let job = JobId([self.jobs.get(); 16]);
        self.submit(job, EngineRequest::Start(order));
        job
    }

    /// The next word about any job.
    pub fn next(&self) -> (JobId, EngineEvent) {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.events.try_recv() {
                Ok(Event::Engine(report)) => return (report.job, report.event),
                Ok(other) => panic!("the port says {other:?}"),
                Err(_) if Instant::now() > until => panic!("no word from the port"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    pub fn started(&self, job: JobId) {
        match self.next() {
            (of, EngineEvent::Started) if of == job => {}
            other => panic!("{other:?}"),
        }
    }

    pub fn exit(&self, job: JobId) -> EngineExit {
        loop {
            match self.next() {
                (of, EngineEvent::Exited(exit)) if of == job => return exit,
                (_, EngineEvent::Started) => {}
                other => panic!("waiting for {job}: {other:?}"),
            }
        }
    }

    pub fn run(&self, order: EngineJob) -> EngineExit {
        let job = self.start(order);
        self.exit(job)
    }

    pub fn output(&self, exit: &EngineExit, port: &Port) -> Vec<u8> {
        let found = exit.outputs.iter().find(|o| o.port == *port);
        let found = found.unwrap_or_else(|| panic!("no {port:?} in {exit:?}"));
        let mut bytes = Vec::new();
        self.blobs.open(&found.digest).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    pub fn stdout(&self, exit: &EngineExit) -> String {
        String::from_utf8(self.output(exit, &Port::Stdout)).unwrap()
    }

    pub fn stderr(&self, exit: &EngineExit) -> String {
        String::from_utf8_lossy(&self.output(exit, &Port::Stderr)).into_owned()
    }

    /// What is left of jobs in the port's directory.
    pub fn left(&self) -> usize {
        fs::read_dir(self.dir.path().join("scratch")).unwrap().count()
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Arguments of a process, by its directory in `/proc`.
pub fn arguments(process: &Path) -> Vec<String> {
    let words = fs::read(process.join("cmdline")).unwrap_or_default();
    words.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

/// Processes of this machine that have a word among their arguments, as directories in `/proc`.
pub fn all_with(word: &str) -> Vec<PathBuf> {
    let has = |process: &PathBuf| arguments(process).iter().any(|w| w.contains(word));
    fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(has).collect()
}

/// Processes of this machine, in whatever name space, that have a word among their arguments.
pub fn processes_with(word: &str) -> usize {
    all_with(word).len()
}

/// The process that confines the one with a word among its arguments: the ancestor outside.
pub fn confinement_of(word: &str) -> Pid {
    let mut process = all_with(word).pop().unwrap();
    loop {
        let stat = fs::read_to_string(process.join("stat")).unwrap();
        let parent = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().to_owned();
        process = Path::new("/proc").join(&parent);
        if arguments(&process).get(1).is_some_and(|w| w == "confine") {
            return Pid::from_raw(parent.parse().unwrap()).unwrap();
        }
    }
}

/// A word that no other test uses.
pub fn word() -> String {
    let mut bytes = [0; 8];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    format!("rn-native-{}", u64::from_be_bytes(bytes))
}

/// Compiles a C program; `None`, said with the reason, where there is no compiler.
pub fn compile(source: &Path, is_static: bool) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("program");
    let mut cc = Command::new("cc");
    if is_static {
        cc.arg("-static");
    }
    match cc.args(["-O1", "-o"]).arg(&to).arg(source).output() {
        Ok(out) if out.status.success() => Some(fs::read(to).unwrap()),
        other => {
            let why = other.map(|out| String::from_utf8_lossy(&out.stderr).into_owned());
            assert!(std::env::var_os("REQUIRE_NATIVE").is_none(), "{why:?}");
            println!("SKIPPED: no C compiler: {why:?}");
            None
        }
    }
}
