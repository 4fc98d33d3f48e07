//! The API over real loopback HTTP, with a core that answers from a script and a store in memory.

mod abuse;
mod relay;
mod services;
mod socket;
mod usage;

use super::*;
use crate::ports::store::{self, AccountPort, JournalOptions};
use async_channel::{Receiver, Sender};
use remote_network_core::action::Action;
use remote_network_core::command::*;
use remote_network_core::event::Event;
use remote_network_core::id::{Digest, Keypair, PublicKey, RunId};
use remote_network_core::job::workflow::{ObjectRef, Problem};
use remote_network_core::port::{ExitClass, Port, Usage};
use remote_network_core::time::{Duration, UnixTime};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

/// Objects in memory.
#[derive(Default)]
pub struct MemoryBlobs(Mutex<BTreeMap<Digest, Vec<u8>>>);

impl MemoryBlobs {
    fn put(&self, bytes: &[u8]) -> ObjectRef {
        let object = ObjectRef { digest: Digest::of(bytes), len: bytes.len() as u64 };
        self.0.lock().unwrap().insert(object.digest, bytes.to_vec());
        object
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl ApiBlobs for MemoryBlobs {
    fn open(&self, digest: &Digest) -> Result<OpenBlob, BlobError> {
        let bytes = self.0.lock().unwrap().get(digest).cloned().ok_or(BlobError::NotFound)?;
        Ok(OpenBlob { len: bytes.len() as u64, reader: Box::new(Cursor::new(bytes)) })
    }

    fn import(&self, reader: &mut dyn Read) -> Result<ObjectRef, BlobError> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        Ok(self.put(&bytes))
    }
}

/// A running API, its store, and what reached its core.
pub struct Rig {
    server: Option<ApiServer>,
    handle: CoreHandle,
    blobs: Arc<MemoryBlobs>,
    seen: Arc<Mutex<Vec<Command>>>,
    token: String,
    dir: tempfile::TempDir,
    /// The relay's books, and the journal they are in.
    books: AccountPort,
    _store: (store::Opened, tempfile::TempDir),
    _events: Sender<Event>,
}

const RESULT: &[u8] = b"the 9\nof 7\n<script>alert(1)</script>\n";
const LOG: &[u8] = b"2 files read\n";

fn key(n: u8) -> PublicKey {
    Keypair::from_seed(&[n; 32]).public()
}

use crate::ports::docker::DockerHandle;
use crate::ports::native::NativeHandle;

fn no_dht() -> ApiDht {
    ApiDht { handle: crate::ports::dht::DhtHandle::off(), keypair: Keypair::from_seed(&[1; 32]) }
}

fn run_id() -> RunId {
    RunId([0xab; 16])
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_secs(1_800_000_000 + seconds)
}

fn status_view() -> StatusView {
    StatusView {
        key: key(1),
        peer_id: key(1).peer_id(),
        uptime: Duration::from_millis(1_500),
        local_addrs: vec!["0.0.0.0:30906".parse().unwrap()],
        observed_addrs: vec![("192.0.2.7:4000".parse().unwrap(), 3)],
        connected: 1,
        known: 2,
        dht_nodes: 40,
        dht_reachable: true,
        record: Some((7, at(5))),
        record_waiting: None,
        services: 1,
        runs_active: 0,
        jobs_active: 0,
        reach: relay::reach_view(),
        refused: vec![("forged records", 2)],
    }
}

fn peer_view() -> PeerView {
    PeerView {
        key: key(2),
        peer_id: key(2).peer_id(),
        state: PeerState::Connected,
        since: at(1),
        addr: Some("192.0.2.9:30906".parse().unwrap()),
        rtt_us: Some(1_234),
        bytes: (10, 20),
        seen: (at(0), at(2)),
        source: "dht",
        trouble: None,
        services: 1,
        blocked: false,
        path: Some(relay::path_view()),
    }
}

fn task_view() -> TaskView {
    TaskView {
        id: "count".into(),
        state: TaskState::Committed,
        why: None,
        since: at(3),
        service: "count".into(),
        peer: Some(key(2)),
        job: Some("retained"),
        fence: 1,
        exit: Some((ExitClass::Success, 0)),
        usage: Some(Usage { cpu_ns: 1, fuel: 2, memory_bytes: 3, wall_ms: 4 }),
        outputs: vec![
            (Port::Stdout, Digest::of(RESULT), RESULT.len() as u64),
            (Port::Stderr, Digest::of(LOG), LOG.len() as u64),
        ],
        receipt: Some(bytes::Bytes::from_static(b"the receipt")),
        commit: Some(bytes::Bytes::from_static(b"the commit")),
        agreement: None,
    }
}

fn run_view() -> RunView {
    RunView {
        run: run_id(),
        name: "top <words>".into(),
        state: RunState::Succeeded,
        submitted: at(0),
        ended: Some(at(4)),
        why: None,
        tasks: vec![task_view()],
        results: vec![ResultView {
            tree: false,
            sink: "top".into(),
            from: ("count".into(), Port::Stdout),
            digest: Digest::of(RESULT),
            len: RESULT.len() as u64,
            fetched: RESULT.len() as u64,
        }],
        progress: (1, 1),
        failed: 0,
        skipped: 0,
        paused: None,
        deadline: None,
    }
}

/// What the scripted core answers.
fn answer(command: &Command) -> Reply {
    match command {
        Command::Status => Reply::Status(Box::new(status_view())),
        Command::Peers => Reply::Peers(vec![peer_view()]),
        Command::Peer(name) if name.to_string() == key(2).to_string() => Reply::Peer(Box::new(peer_view())),
        Command::Peer(name) => Reply::Error(CommandError::UnknownPeer(*name)),
        Command::Connect { addr: Some(_), .. } => Reply::Peer(Box::new(peer_view())),
        Command::Connect { addr: None, .. } => {
            Reply::Error(CommandError::Unreachable { peer: key(3), why: "no record".into() })
        }
        Command::AddService(_)
        | Command::RemoveService(_)
        | Command::Block { .. }
        | Command::Keep { .. }
        | Command::KeepTree { .. }
        | Command::Cancel(_)
        | Command::Pause { .. }
        | Command::Shutdown => Reply::Done,
        Command::RelayDisconnect(peer) if *peer == key(2) => Reply::Done,
        Command::RelayDisconnect(peer) => Reply::Error(CommandError::NoSession(*peer)),
        Command::Services => Reply::Services(vec![services::view()]),
        Command::Service(command) => services::answer(command),
        Command::Relay => Reply::Relay(Box::new(relay::relay_view())),
        Command::Plan(w) if w.name == "cycle" => Reply::Planned(Err(vec![Problem {
            place: "nodes.count.service".into(),
            reason: "nobody offers `count`".into(),
        }])),
        Command::Plan(_) => Reply::Planned(Ok(vec![Placement {
            task: "count".into(),
            service: Digest::of(b"m"),
            service_name: "count".into(),
            peers: vec![key(2)],
            why: "offers it".into(),
        }])),
        Command::Submit { workflow, run } if workflow.name == "other" => {
            Reply::Error(CommandError::RunConflict(*run))
        }
        Command::Submit { run, .. } => Reply::Submitted(*run),
        Command::Runs => Reply::Runs(vec![RunView { tasks: Vec::new(), ..run_view() }]),
        Command::Run(run) if *run == run_id() => Reply::Run(Box::new(run_view())),
        Command::Run(run) => Reply::Error(CommandError::UnknownRun(*run)),
        Command::Share { .. } | Command::Fetch { .. } => Reply::Error(CommandError::Limit("fetches waiting")),
    }
}

fn serve_core(events: Receiver<Event>, handle: CoreHandle, seen: Arc<Mutex<Vec<Command>>>) {
    std::thread::spawn(move || {
        while let Ok(event) = events.recv_blocking() {
            if let Event::Command { id, command } = event {
                let reply = answer(&command);
                seen.lock().unwrap().push(command);
                handle.deliver(Action::Reply { id, reply });
            }
        }
    });
}

impl Rig {
    fn start() -> Self {
        let (events, to_core) = async_channel::bounded(64);
        let handle = CoreHandle::new(events.clone(), 0x1234);
        let seen = Arc::new(Mutex::new(Vec::new()));
        serve_core(to_core, handle.clone(), seen.clone());
        let blobs = Arc::new(MemoryBlobs::default());
        blobs.put(RESULT);
        blobs.put(LOG);
        let dir = tempfile::tempdir().unwrap();
        let config = ApiConfig { listen: "127.0.0.1:0".parse().unwrap(), data_dir: dir.path().to_path_buf() };
        let home = tempfile::tempdir().unwrap();
        let journal = store::open(home.path(), JournalOptions::default(), events.clone()).unwrap();
        let books = AccountPort::start(home.path()).unwrap();
        let server = ApiServer::start(
            &config,
            handle.clone(),
            blobs.clone(),
            no_dht(),
            DockerHandle::off(),
            NativeHandle::off(),
            books.book(),
        );
        let server = server.expect("starts");
        let token = std::fs::read_to_string(server.token_file()).unwrap().trim().to_owned();
        let _store = (journal, home);
        Self { server: Some(server), handle, blobs, seen, token, dir, books, _store, _events: events }
    }

    fn port(&self) -> u16 {
        self.server.as_ref().unwrap().addr().port()
    }

    fn host(&self) -> String {
        format!("localhost:{}", self.port())
    }

    /// Sends bytes as they are and reads the answer to the end of the connection.
    fn raw(&self, request: &[u8]) -> Answer {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port())).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        socket.write_all(request).unwrap();
        let mut bytes = Vec::new();
        // An answer may be followed by a reset when the request was not read to its end.
        let _ = socket.read_to_end(&mut bytes);
        Answer::parse(&bytes)
    }

    /// A request with exactly these headers besides `Connection` and, where there is a body, `Content-Length`.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let told = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if !body.is_empty() && !told {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.raw(&[head.as_bytes(), body].concat())
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[("Host", &self.host()), ("Authorization", &self.bearer())], b"")
    }

    fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[("Host", &self.host()), ("Authorization", &self.bearer())], b"")
    }

    fn post(&self, path: &str, json: &str) -> Answer {
        self.post_as(path, "application/json", json.as_bytes())
    }

    fn post_as(&self, path: &str, content_type: &str, body: &[u8]) -> Answer {
        let (host, bearer) = (self.host(), self.bearer());
        let headers = [("Host", &*host), ("Authorization", &*bearer), ("Content-Type", content_type)];
        self.send("POST", path, &headers, body)
    }

    fn with_json(&self, method: &str, path: &str, json: &str) -> Answer {
        let (host, bearer) = (self.host(), self.bearer());
        let headers = [("Host", &*host), ("Authorization", &*bearer), ("Content-Type", "application/json")];
        self.send(method, path, &headers, json.as_bytes())
    }

    fn commands(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// An answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    status: u16,
    headers: BTreeMap<String, Vec<String>>,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a complete head");
        let head = std::str::from_utf8(&bytes[..end]).expect("an ASCII head");
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in lines.filter_map(|l| l.split_once(':')) {
            headers.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
        }
        Self { status, headers, body: bytes[end + 4..].to_vec() }
    }

    fn header(&self, name: &str) -> &str {
        match self.headers.get(name).map(Vec::as_slice) {
            Some([one]) => one,
            other => panic!("{name} must be there once, not {other:?}: {self:?}"),
        }
    }

    fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), "application/json");
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn code(&self) -> String {
        let json = self.json();
        for field in ["message", "hint"] {
            assert!(!json["error"][field].as_str().unwrap_or_default().is_empty(), "{field}: {json}");
        }
        json["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Every answer whatsoever must carry these.
    fn assert_hardened(&self, of: &str) {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(self.header(name), value, "{of}");
        }
        assert!(self.header("content-security-policy").starts_with("default-src 'none'"), "{of}");
        assert!(!self.header("cache-control").is_empty(), "{of}");
        for name in self.headers.keys() {
            let forbidden = name.starts_with("access-control-") || name == "set-cookie" || name == "server";
            assert!(!forbidden, "{of}: {name}");
        }
    }
}
