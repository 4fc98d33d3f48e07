//! A Docker port over a store in a directory, an image of this machine's busybox, and a way to wait for the end of a job.

use crate::busybox::{self, BUSYBOX, IMAGE};
use remote_network_core::event::Event;
use remote_network_core::id::{Digest, JobId};
use remote_network_core::port::{
    EngineEvent, EngineExit, EngineInput, EngineJob, EngineLimits, EngineRequest, Image, MountPath, Port,
    Program,
};
use remote_network_node::ports::docker::{DockerConfig, DockerPort};
use remote_network_node::ports::engine::EngineBlobs;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Longer than any test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn docker(args: &[&str]) -> Output {
    Command::new("docker").args(args).output().unwrap_or_else(|e| panic!("docker: {e}"))
}

/// The image's id, made once; `None`, said once a test, where there is no engine or no busybox to put into an image.
pub fn image() -> Option<Image> {
    static ID: OnceLock<Result<[u8; 32], String>> = OnceLock::new();
    let made = ID.get_or_init(|| {
        let id = busybox::import()?;
        let hex = id.strip_prefix("sha256:").unwrap_or_default();
        hex.parse().map(|d: Digest| d.0).map_err(|e| format!("{id}: {e:?}"))
    });
    match made {
        Ok(id) => Some(Image {
            name: IMAGE.to_owned(),
            id: *id,
            entrypoint: vec![BUSYBOX.to_owned()],
            workdir: None,
        }),
        Err(why) => {
            busybox::skip(why);
            None
        }
    }
}

/// The id of an image that is made of a directory, everything in it owned by root; `changes` as in a Dockerfile.
pub fn import(dir: &Path, name: &str, changes: &[&str]) -> [u8; 32] {
    let mut tar = Command::new("tar")
        .args(["--owner=0", "--group=0", "-c", "."])
        .current_dir(dir)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut import = Command::new("docker");
    import.arg("import");
    for change in changes {
        import.args(["--change", change]);
    }
    let out = import.args(["-", name]).stdin(tar.stdout.take().unwrap()).output().unwrap();
    assert!(
        tar.wait().unwrap().success() && out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let id = String::from_utf8(out.stdout).unwrap();
    let digest: Digest = id.trim().strip_prefix("sha256:").unwrap().parse().unwrap();
    digest.0
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
    pub port: Option<DockerPort>,
    pub blobs: Arc<Directory>,
    events: async_channel::Receiver<Event>,
    to_core: async_channel::Sender<Event>,
    pub dir: tempfile::TempDir,
    pub image: Image,
    node: String,
}

impl Rig {
    /// `None` where containers cannot be run.
    pub fn new() -> Option<Self> {
        let image = image()?;
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("objects")).unwrap();
        let blobs = Arc::new(Directory(dir.path().join("objects")));
        let (to_core, events) = async_channel::bounded(64);
        // A label of its own: tests share the engine.
        let node = format!("test-{}", dir.path().file_name().unwrap().to_string_lossy());
        let mut rig = Self { port: None, blobs, events, to_core, dir, image, node };
        rig.restart();
        Some(rig)
    }

    /// Another life of the node: what the port knew is gone, its containers are not.
    pub fn restart(&mut self) {
        self.port = None;
        // Nothing of an earlier life is heard any more.
        let (to_core, events) = async_channel::bounded(64);
        (self.to_core, self.events) = (to_core, events);
        let config = DockerConfig {
            node: self.node.clone(),
            host: String::new(),
            scratch_dir: self.dir.path().join("scratch"),
            running_max: 4,
        };
        self.port = Some(DockerPort::start(config, self.blobs.clone(), self.to_core.clone()).unwrap());
    }

    /// `busybox sh -c script`: 64 MiB, a minute, 1 MiB, stdout and stderr.
    pub fn order(&self, script: &str) -> EngineJob {
        EngineJob {
            tenant: remote_network_core::id::Keypair::from_seed(&[1; 32]).public(),
            program: Program::Image(Box::new(self.image.clone())),
            paths: Vec::new(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: Vec::new(),
            inputs: Vec::new(),
            outputs: vec![Port::Stdout, Port::Stderr],
            limits: EngineLimits { memory_bytes: 64 << 20, time_ms: 60_000, output_bytes: 1 << 20 },
            seed: [0; 32],
        }
    }

    pub fn input(&self, port: Port, bytes: &[u8]) -> EngineInput {
        let (digest, len) = self.blobs.import(&mut &*bytes).unwrap();
        EngineInput { port, digest, len }
    }

    pub fn at(&self, name: &str, path: &str) -> MountPath {
        MountPath { name: name.into(), path: path.into() }
    }

    /// A job's id: tests share the engine, so it is drawn.
    pub fn id(&self) -> JobId {
        let mut bytes = [0; 16];
        File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
        JobId(bytes)
    }

    pub fn submit(&self, job: JobId, request: EngineRequest) {
        self.port.as_ref().unwrap().submit(job, request);
    }

    pub fn start(&self, order: EngineJob) -> JobId {
        let job = self.id();
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
                (of, EngineEvent::Started) if of == job => {}
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

    /// Containers of this rig, in whatever state.
    pub fn containers(&self) -> Vec<String> {
        let out = docker(&["ps", "-aq", "--no-trunc", "--filter", &format!("label=rn.node={}", self.node)]);
        String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < until, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.port = None;
        for id in self.containers() {
            docker(&["rm", "-f", &id]);
        }
    }
}
