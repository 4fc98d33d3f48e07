//! A real engine with real workers over a store in a directory, and a way to wait for the end of a job.

use remote_network_core::event::Event;
use remote_network_core::id::{Digest, JobId, Keypair, PublicKey};
use remote_network_core::port::{
    EngineEvent, EngineExit, EngineInput, EngineJob, EngineLimits, EngineRequest, Port, Program,
};
use remote_network_node::ports::engine::{EngineBlobs, EngineConfig, EnginePort, WORKER_ARGUMENT};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Longer than any test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A requester.
pub fn tenant(n: u8) -> PublicKey {
    Keypair::from_seed(&[n; 32]).public()
}

pub struct Directory(pub PathBuf);

impl Directory {
    pub fn put(&self, bytes: &[u8]) -> EngineInput {
        let (digest, len) = self.import(&mut &bytes[..]).unwrap();
        EngineInput { port: Port::Stdin, digest, len }
    }

    pub fn get(&self, digest: &Digest) -> Vec<u8> {
        fs::read(self.0.join(digest.to_string())).unwrap()
    }
}

impl EngineBlobs for Directory {
    fn open(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.0.join(digest.to_string()))
    }

    fn import(&self, from: &mut dyn Read) -> io::Result<(Digest, u64)> {
        let mut fresh = tempfile::NamedTempFile::new_in(&self.0)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 16];
        let mut len = 0;
        loop {
            let n = from.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            fresh.write_all(&buffer[..n])?;
            len += n as u64;
        }
        let digest = Digest(*hasher.finalize().as_bytes());
        fresh.persist(self.0.join(digest.to_string())).map_err(|e| e.error)?;
        Ok((digest, len))
    }
}

pub struct Rig {
    pub engine: EnginePort,
    pub blobs: Arc<Directory>,
    pub events: async_channel::Receiver<Event>,
    pub dir: tempfile::TempDir,
    next: AtomicU8,
}

pub fn config(dir: &Path) -> EngineConfig {
    EngineConfig {
        worker: env!("CARGO_BIN_EXE_remote-network").into(),
        worker_args: vec![WORKER_ARGUMENT.into()],
        cache_dir: dir.join("code"),
        scratch_dir: dir.join("scratch"),
        running_max: 2,
    }
}

impl Rig {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("objects")).unwrap();
        let blobs = Arc::new(Directory(dir.path().join("objects")));
        let (to_core, events) = async_channel::bounded(64);
        let engine = EnginePort::start(config(dir.path()), blobs.clone(), to_core).unwrap();
        Self { engine, blobs, events, dir, next: AtomicU8::new(1) }
    }

    /// An order for a module as text or binary: 64 MiB, a minute, 1 MiB, stdout and stderr.
    pub fn order(&self, module: &[u8]) -> EngineJob {
        let module = if module.starts_with(b"(") {
            wat::parse_bytes(module).unwrap().into_owned()
        } else {
            module.to_vec()
        };
        EngineJob {
            tenant: tenant(1),
            program: Program::Wasm(self.blobs.put(&module).digest),
            paths: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            inputs: Vec::new(),
            outputs: vec![Port::Stdout, Port::Stderr],
            limits: EngineLimits { memory_bytes: 64 << 20, time_ms: 60_000, output_bytes: 1 << 20 },
            seed: [7; 32],
        }
    }

    pub fn input(&self, port: Port, bytes: &[u8]) -> EngineInput {
        EngineInput { port, ..self.blobs.put(bytes) }
    }

    pub fn start(&self, job: EngineJob) -> JobId {
        let id = JobId([self.next.fetch_add(1, Ordering::SeqCst); 16]);
        self.engine.submit(id, EngineRequest::Start(job));
        id
    }

    pub fn stop(&self, id: JobId, grace: Duration) {
        self.engine.submit(id, EngineRequest::Stop { grace });
    }

    /// The next word about any job.
    pub fn next(&self) -> (JobId, EngineEvent) {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.events.try_recv() {
                Ok(Event::Engine(report)) => return (report.job, report.event),
                Ok(other) => panic!("the engine says {other:?}"),
                Err(_) if Instant::now() > until => panic!("no word from the engine"),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    pub fn started(&self, id: JobId) {
        assert_eq!(self.next(), (id, EngineEvent::Started));
    }

    /// The end of a job, passing over its start.
    pub fn exit(&self, id: JobId) -> EngineExit {
        loop {
            match self.next() {
                (of, EngineEvent::Exited(exit)) if of == id => return exit,
                (of, EngineEvent::Started) if of == id => {}
                other => panic!("waiting for {id}, got {other:?}"),
            }
        }
    }

    pub fn run(&self, job: EngineJob) -> EngineExit {
        let id = self.start(job);
        self.exit(id)
    }

    pub fn output(&self, exit: &EngineExit, port: &Port) -> Vec<u8> {
        let found: Vec<_> = exit.outputs.iter().filter(|o| o.port == *port).collect();
        assert_eq!(found.len(), 1, "{exit:?}");
        let bytes = self.blobs.get(&found[0].digest);
        assert_eq!(bytes.len() as u64, found[0].len);
        bytes
    }

    pub fn stdout(&self, exit: &EngineExit) -> Vec<u8> {
        self.output(exit, &Port::Stdout)
    }

    /// What lies in the scratch directory beside workers that wait, and what these have beside their module.
    pub fn left_behind(&self) -> Vec<String> {
        let names = |dir: &Path| -> Vec<PathBuf> {
            fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
        };
        let scratch = self.dir.path().join("scratch");
        let mut left = Vec::new();
        for path in names(&scratch) {
            if path.file_name().unwrap().to_string_lossy().starts_with("worker-") {
                left.extend(["r", "w"].iter().flat_map(|half| names(&path.join(half))));
            } else {
                left.push(path);
            }
        }
        let text = left.iter().map(|p| p.strip_prefix(&scratch).unwrap().display().to_string());
        text.filter(|p| !p.ends_with("r/module.wasm")).collect()
    }

    /// The worker processes of this rig.
    pub fn workers(&self) -> Vec<u32> {
        workers(self.dir.path())
    }
}

/// Workers of the rig in `dir` that have a job: they hold its stdin and stdout. (One that waits may hold compiled code, which lies
/// elsewhere.) By their command line, too: between
/// `fork` and `exec` a child of this process, of whichever test, has all files open that this process has.
pub fn workers(dir: &Path) -> Vec<u32> {
    let dir = &dir.join("scratch");
    let holds = |pid: &u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.map(|fd| fs::read_link(fd.path())).any(|to| to.is_ok_and(|to| to.starts_with(dir)))
    };
    let is_worker = |pid: &u32| {
        let said = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        said.split(|b| *b == 0).nth(1) == Some(WORKER_ARGUMENT.as_bytes())
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|e| e.file_name().to_string_lossy().parse().ok())
        .filter(|pid| is_worker(pid) && holds(pid))
        .collect()
}
