//! `remote-network start`: puts a node together and runs it until it is told to stop.
//!
//! The order matters. The data directory is locked and the journal read first, so that two processes never share an
//! identity. The key is unlocked before anything listens. Ports start before the core, because the core asks them from
//! its first moment. The API comes last: its address file says that the node is ready. At the end the order is
//! reversed, and the journal is closed when nobody can write to it any more.

use crate::api::{ApiBlobs, ApiConfig, ApiDht, ApiServer, BlobError, CoreHandle, OpenBlob};
use crate::cli::{ADDRESS_FILE, Failure};
use crate::config::{Config, DhtModeKey, DhtPortKey, DriverKey, Settings, resolve_relays};
use crate::failpoints;
use crate::keystore::{self, Keystore, Passphrase};
use crate::machine;
use crate::ports::blobs::{BlobPort, BlobStore, ImportError};
use crate::ports::dht::{ASIDE_WAITING_MAX, DhtBackend, DhtConfig, DhtMode, DhtPort, DhtSocket, Shared};
use crate::ports::docker::{DockerConfig, DockerPort};
use crate::ports::engine::{EngineConfig, EnginePort};
use crate::ports::native::{NativeConfig, NativePort};
use crate::ports::net::{NetConfig, NetPort};
use crate::ports::store::{self, AccountPort, JournalOptions, JournalPort};
use crate::ports::tunnel::TunnelPort;
use crate::recording::{self, Seeded};
use async_channel::{Receiver, Sender};
use remote_network_core::action::{Action, ActionSink};
use remote_network_core::command::Command;
use remote_network_core::drive::{Aside, Driven, Recorder};
use remote_network_core::event::Event;
use remote_network_core::id::{DhtId, Digest, JobId, Keypair, PublicKey};
use remote_network_core::job::workflow::ObjectRef;
use remote_network_core::node::{Journal, Node, NodeConfig};
use remote_network_core::port::{BlobFailed, EngineJob, EngineRequest, Program, Target};
use remote_network_core::time::{Duration, Instant, UnixTime};
use remote_network_core::transport::quic::{IDLE_TIMEOUT, KEEP_ALIVE, QuicConfig, QuicTransport};
use remote_network_core::transport::tls;
use remote_network_sim::host::{Birth, Core, Cryptography};
use remote_network_sim::replay::RecordedSink;
use ring::rand::SecureRandom as _;
use serde_json::json;
use sha1::Digest as _;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How long a Docker engine may take to say that it is there.
const DOCKER_ANSWERS_WITHIN: std::time::Duration = std::time::Duration::from_secs(1);

/// What a start is told beyond the configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Say readiness as one line of JSON.
    pub json: bool,
    /// Stop when standard input ends.
    pub until_stdin_closes: bool,
    /// Make a first key without a passphrase.
    pub unencrypted_key: bool,
    /// Record everything that enters the core.
    pub record: Option<PathBuf>,
}

/// Runs a node until it stops.
pub fn run(config: &Config, options: &Options) -> Result<(), Failure> {
    failpoints::arm()?;
    let s = &config.settings;
    let (events, inbox) = remote_network_driver_tokio::event_channel();
    let opened = store::open(&s.data_dir, JournalOptions::default(), events.clone())
        .map_err(|e| Failure::work(e.to_string()))?;
    let dir = opened.port.dir().to_owned();
    let keypair = identity(&dir, s, options)?;
    let blobs = BlobStore::open(&dir, s.blobs_quota_bytes).map_err(|e| Failure::work(e.to_string()))?;
    let core = CoreHandle::new(events.clone(), u64::from_be_bytes(random()?));
    let shared = Arc::new(SharedBlobs(blobs.clone()));
    let engine_config =
        EngineConfig { running_max: s.jobs_running_max, ..EngineConfig::beneath(&dir.join("engine"))? };
    let (dht_config, sharing) = dht_config(s, &dir);
    let dht = DhtPort::start(dht_config, events.clone())?;
    let native_config =
        NativeConfig { running_max: s.jobs_running_max, ..NativeConfig::beneath(&dir.join("engine"))? };
    let native = NativePort::start(native_config, Arc::new(blobs.clone()), events.clone())?;
    if let Err(why) = native.handle().offered() {
        tracing::info!(why, "native programs are not run here");
    }
    let mut node = node_config(s, keypair.clone(), native.handle().target());
    let net = NetPort::start(net_config(s, &node, &dht), events.clone())?;
    // UDP and TCP have one number, which is chosen for both when it is the system's choice.
    let addr = SocketAddr::new(s.listen, s.quic_port);
    let tunnels = TunnelPort::start(s.takes_tunnels().then_some(addr), events.clone()).map_err(|e| {
        Failure::work(e.to_string()).with_hint("choose another `quic_port`, or set `relay_tcp` to false")
    })?;
    let bound = Bound {
        addr: tunnels.local_addr().unwrap_or(addr),
        buffer_bytes: s.socket_buffer_bytes(),
        sharing,
        net: net.bound(),
    };
    let docker_config = DockerConfig {
        node: keypair.public().to_string(),
        host: s.docker_host.clone(),
        scratch_dir: dir.join("engine").join("docker"),
        running_max: s.jobs_running_max,
    };
    let docker = DockerPort::start(docker_config, Arc::new(blobs.clone()), events.clone())?;
    node.machine = Some(machine::summary(&dir, engine_is_there(&docker)));
    let ports = Ports {
        accounts: AccountPort::start(&dir).map_err(|e| Failure::work(e.to_string()))?,
        journal: opened.port,
        blobs: BlobPort::start(&blobs, &events)?,
        dht,
        _net: net,
        tunnels,
        engine: EnginePort::start(engine_config, Arc::new(blobs.clone()), events.clone())
            .map_err(|e| Failure::work(e.to_string()))?,
        docker,
        native,
        core: core.clone(),
        events,
    };
    let journal = Journal {
        id: u64::from_be_bytes(opened.identity.store_id.first_chunk().copied().unwrap_or_default()),
        last: opened.identity.last_lsn,
        records: opened.records,
    };
    let assembly = Assembly { node, journal, seed: random()?, bound };

    let api = ApiServer::start(
        &ApiConfig { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, s.api_port)), data_dir: dir.clone() },
        core.clone(),
        shared,
        ApiDht { handle: ports.dht.handle(), keypair: keypair.clone() },
        ports.docker.handle(),
        ports.native.handle(),
        ports.accounts.book(),
    )
    .map_err(|e| Failure::work(e.to_string()))?;
    let address_file = dir.join(ADDRESS_FILE);
    std::fs::write(&address_file, format!("{}\n", api.addr()))?;
    announce(&api, keypair.public(), options)?;
    stop_on_signals(&core, options.until_stdin_closes)?;

    let ended = match &options.record {
        None => drive(s.driver, assembly.bound.clone(), ports, inbox, None, |base, now, wall| {
            assembly.build(base, now, wall)
        }),
        Some(path) => recorded(s.driver, assembly, ports, inbox, path),
    };
    core.stopped();
    api.stop();
    // Gone already when somebody cleaned up; then nothing is left to say.
    let _gone = std::fs::remove_file(&address_file);
    match ended? {
        None => Ok(()),
        Some(fault) => Err(Failure::work(format!("the node stopped: {fault}"))
            .with_hint("nothing that was acknowledged is lost; mend the cause and start again")),
    }
}

/// The node's key: unlocked, or made at the first start.
fn identity(dir: &Path, s: &Settings, options: &Options) -> Result<Keypair, Failure> {
    let path = dir.join(keystore::KEYSTORE_FILE);
    let fail = |e: keystore::KeystoreError| Failure::work(e.to_string());
    let file = s.passphrase_file.as_deref();
    if path.exists() {
        let stored = Keystore::open(&path).map_err(fail)?;
        let passphrase = if stored.is_encrypted() {
            Passphrase::obtain(file, Some("Passphrase of this node's key: ")).map_err(fail)?
        } else {
            None
        };
        return stored.unlock(passphrase.as_ref()).map_err(fail);
    }
    let passphrase = if options.unencrypted_key {
        None
    } else {
        let chosen =
            Passphrase::obtain(file, Some("Choose a passphrase for this node's new key: ")).map_err(fail)?;
        Some(chosen.ok_or_else(|| {
            Failure::usage("this node has no key yet, and there is nobody to ask for a passphrase").with_hint(
                "set REMOTE_NETWORK_PASSPHRASE or `passphrase_file`, or choose `--unencrypted-key` for an unattended node",
            )
        })?)
    };
    let keypair = keystore::generate().map_err(fail)?;
    Keystore::create(&path, &keypair, passphrase.as_ref()).map_err(fail)?;
    Ok(keypair)
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut out = [0; N];
    ring::rand::SystemRandom::new().fill(&mut out).map_err(|_| Failure::work("no random bytes to be had"))?;
    Ok(out)
}

/// The DHT's configuration, and where its socket is to be sent when it is QUIC's.
fn dht_config(s: &Settings, dir: &Path) -> (DhtConfig, Option<Sender<Shared>>) {
    let (socket, sharing) = match s.dht_port {
        DhtPortKey::Own(port) => (DhtSocket::Own { bind: s.dht_bind, port }, None),
        DhtPortKey::Shared => {
            let (sharing, shared) = async_channel::bounded(1);
            (DhtSocket::Shared(shared), Some(sharing))
        }
    };
    // The nodes of one DHT must never lead into the other.
    let (mode, table) = match s.dht_mode {
        DhtModeKey::Public => (DhtMode::Client, Some("dht-table-public")),
        DhtModeKey::Private => (DhtMode::Private { seed: s.dht_seed }, Some("dht-table-private")),
        DhtModeKey::Off => (DhtMode::Off, None),
    };
    let config = DhtConfig {
        backend: if s.dht_is_native() { DhtBackend::Native } else { DhtBackend::Mainline },
        mode,
        socket,
        table_file: table.map(|name| dir.join(name)),
        bootstrap: s.dht_bootstrap.clone(),
    };
    (config, sharing.filter(|_| mode != DhtMode::Off))
}

/// Where the node's socket is bound, who else speaks through it, and who must know.
#[derive(Clone)]
struct Bound {
    addr: SocketAddr,
    /// Wanted size of the system's buffers, each.
    buffer_bytes: usize,
    sharing: Option<Sender<Shared>>,
    net: Sender<SocketAddr>,
}

impl Bound {
    /// Tells those who go by where the socket really is.
    fn tell(&self, local: SocketAddr) {
        // Gone only when its thread has died, and said so.
        let _gone = self.net.try_send(local);
    }
}

/// Hands the DHT its part in the driver's socket. Returns what takes the datagrams that are for it.
fn share(sharing: &Sender<Shared>, socket: io::Result<std::net::UdpSocket>) -> Result<Aside, Failure> {
    let (take, arrived) = async_channel::bounded(ASIDE_WAITING_MAX);
    sharing
        .try_send(Shared { socket: socket?, arrived })
        .map_err(|_| Failure::work("the DHT ended before it had its socket"))?;
    Ok(Box::new(move |datagram| {
        // A DHT that is too slow loses what comes too fast, as from a full socket.
        let _lost = take.try_send(datagram);
    }))
}

fn node_config(s: &Settings, keypair: Keypair, native: Option<Target>) -> NodeConfig {
    let private_network = s.dht_mode == DhtModeKey::Private || s.publish_private_addrs;
    NodeConfig {
        keypair,
        topics: s.topics.iter().map(|t| DhtId(sha1::Sha1::digest(t.as_bytes()).into())).collect(),
        max_peers: s.max_peers,
        min_peers: s.min_peers,
        known_peers_max: s.known_peers_max,
        public: s.public,
        public_addrs: s.public_addrs.clone(),
        publish_private: s.publish_private_addrs,
        private_network,
        jobs_running_max: s.jobs_running_max,
        accept_jobs: s.accept_jobs,
        native,
        idle_close_after: Duration::from_secs(s.quic_idle_timeout),
        relay: s.relay,
        relay_limits: s.relay_limits(),
        relays: resolve_relays(&s.relays, s.listen),
        birthday_probing: s.birthday_probing,
        republish_every: Duration::from_secs(s.metadata_republish_interval),
        discover_every: Duration::from_secs(s.discovery_interval),
        machine: None,
        policy: s.policy.clone(),
    }
}

/// Whether a Docker engine answers. One that takes its time counts as none: a start waits for nobody.
fn engine_is_there(docker: &DockerPort) -> bool {
    let handle = docker.handle();
    let late = async {
        smol::Timer::after(DOCKER_ANSWERS_WITHIN).await;
        false
    };
    smol::block_on(smol::future::or(async { handle.about().await.is_ok() }, late))
}

fn net_config(s: &Settings, node: &NodeConfig, dht: &DhtPort) -> NetConfig {
    let dht = dht.handle();
    NetConfig {
        key: node.keypair.public(),
        topics: node.topics.clone(),
        private_network: node.private_network,
        look_every: Duration::from_secs(s.network_monitor_interval),
        port_mapping: s.port_mapping,
        mdns: s.mdns_wanted(),
        on_change: Box::new(move || dht.network_changed()),
    }
}

/// Everything a core is made of, before a driver's clock exists.
struct Assembly {
    node: NodeConfig,
    journal: Journal,
    seed: [u8; 32],
    bound: Bound,
}

fn unrecoverable(e: &dyn std::fmt::Display) -> Failure {
    Failure::work(e.to_string())
        .with_hint("the journal was written by a newer version, or is damaged; restore a backup")
}

impl Assembly {
    fn build(
        self,
        base: std::time::Instant,
        now: Instant,
        wall: UnixTime,
    ) -> Result<Node<QuicTransport>, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let crypto = tls::crypto(&self.node.keypair, provider).map_err(|e| Failure::work(e.to_string()))?;
        let transport = QuicTransport::new(QuicConfig {
            connections_max: self.node.connections_max(),
            ..QuicConfig::new(crypto, base, self.seed)
        });
        Node::restore(self.node, transport, self.seed, now, wall, self.journal).map_err(|e| unrecoverable(&e))
    }
}

/// Runs a node that writes down everything it is told.
fn recorded(
    driver: DriverKey,
    assembly: Assembly,
    ports: Ports,
    inbox: Receiver<Event>,
    path: &Path,
) -> Result<Option<String>, Failure> {
    let bound = assembly.bound.clone();
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let connections_max = assembly.node.connections_max();
    let birth = Birth {
        config: assembly.node,
        journal: assembly.journal,
        seed: assembly.seed,
        wall: UnixTime::from_millis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
        cryptography: Cryptography::Tls(random()?),
        quic_seed: random()?,
        keep_alive: KEEP_ALIVE,
        idle_timeout: IDLE_TIMEOUT,
        mtu_discovery: true,
        connections_max,
    };
    let cannot = |e: io::Error| Failure::usage(format!("cannot record to {}: {e}", path.display()));
    let tape = recording::begin(path, &birth).map_err(cannot)?;
    tracing::warn!(file = %path.display(), "recording everything that enters the core, its private key included");
    let sink = RecordedSink::new(ports, tape.clone());
    let build = |birth| <Node<QuicTransport> as Core>::restore(birth);
    let node = Seeded::build(birth, build).map_err(|e| unrecoverable(&e))?;
    let ended = drive(driver, bound, sink, inbox, Some(tape.recorder()), |_, _, _| Ok(node));
    tape.finish().map_err(cannot)?;
    ended
}

fn listen_failed(bound: SocketAddr, e: &io::Error) -> Failure {
    Failure::work(format!("cannot listen on UDP {bound}: {e}"))
        .with_hint("choose another port with --quic-port, or 0 for any free one")
}

/// Builds a node on a driver's clock and runs it on that driver.
fn drive<N: Driven, S: ActionSink>(
    driver: DriverKey,
    bound: Bound,
    sink: S,
    inbox: Receiver<Event>,
    recorder: Option<Recorder>,
    build: impl FnOnce(std::time::Instant, Instant, UnixTime) -> Result<N, Failure>,
) -> Result<Option<String>, Failure> {
    match driver {
        DriverKey::Tokio => {
            use remote_network_driver_tokio::{BindOptions, Clock, Driver, bind};
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let clock = Clock::start();
            let node = build(clock.base(), clock.now(), clock.wall())?;
            let options = BindOptions {
                receive_buffer_bytes: bound.buffer_bytes,
                send_buffer_bytes: bound.buffer_bytes,
                ..BindOptions::default()
            };
            let socket = bind(bound.addr, options).map_err(|e| listen_failed(bound.addr, &e))?;
            bound.tell(socket.local_addr());
            let sender = socket.sender();
            let mut driver = Driver::new(node, socket, sink, inbox, clock);
            if let Some(sharing) = &bound.sharing {
                driver = driver.with_aside(share(sharing, sender)?);
            }
            if let Some(recorder) = recorder {
                driver = driver.with_recorder(recorder);
            }
            let stopped = runtime.block_on(driver.run()).map_err(|e| Failure::work(e.to_string()))?;
            Ok(stopped.fault)
        }
        DriverKey::Smol => {
            use remote_network_driver_smol::{BindOptions, Clock, Driver, bind};
            let clock = Clock::start();
            let node = build(clock.base(), clock.now(), clock.wall())?;
            let options = BindOptions {
                receive_buffer_bytes: bound.buffer_bytes,
                send_buffer_bytes: bound.buffer_bytes,
                ..BindOptions::default()
            };
            let socket = bind(bound.addr, options).map_err(|e| listen_failed(bound.addr, &e))?;
            bound.tell(socket.local_addr());
            let sender = socket.sender();
            let mut driver = Driver::new(node, socket, sink, inbox, clock);
            if let Some(sharing) = &bound.sharing {
                driver = driver.with_aside(share(sharing, sender)?);
            }
            if let Some(recorder) = recorder {
                driver = driver.with_recorder(recorder);
            }
            let stopped = smol::block_on(driver.run()).map_err(|e| Failure::work(e.to_string()))?;
            Ok(stopped.fault)
        }
    }
}

fn announce(api: &ApiServer, key: PublicKey, options: &Options) -> Result<(), Failure> {
    let page = format!("http://localhost:{}", api.addr().port());
    if options.json {
        let ready = json!({"ready": true, "key": key.to_string(), "peer_id": key.peer_id().to_string(), "page": page});
        println!("{ready}");
        return Ok(());
    }
    println!("node     {key}");
    println!("peer id  {}", key.peer_id());
    println!("page     {page}");
    println!("sign in  {}", api.sign_in_link()?);
    println!("how it is reachable: `remote-network status`; Ctrl-C stops it");
    Ok(())
}

/// Turns signals and the end of standard input into an orderly shutdown.
fn stop_on_signals(core: &CoreHandle, until_stdin_closes: bool) -> Result<(), Failure> {
    let handle = core.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut int), Ok(mut term)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                tracing::error!(
                    "signals cannot be watched: only `remote-network stop` ends this node in order"
                );
                return;
            };
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
            shut_down(&handle).await;
        });
    })?;
    if until_stdin_closes {
        let handle = core.clone();
        std::thread::Builder::new().name("stdin".into()).spawn(move || {
            let mut sink = [0; 64];
            // The end and an error mean the same: whoever started us is gone.
            while matches!(io::stdin().read(&mut sink), Ok(n) if n > 0) {}
            smol::block_on(shut_down(&handle));
        })?;
    }
    Ok(())
}

async fn shut_down(handle: &CoreHandle) {
    if let Err(e) = handle.command(Command::Shutdown).await {
        tracing::debug!(error = %e, "the node had stopped before it was asked to");
    }
}

/// Hands every action of the core to its port.
struct Ports {
    /// Dropped before the journal, whose lock covers it.
    accounts: AccountPort,
    journal: JournalPort,
    blobs: BlobPort,
    dht: DhtPort,
    /// Only tells; asked for nothing.
    _net: NetPort,
    tunnels: TunnelPort,
    engine: EnginePort,
    docker: DockerPort,
    native: NativePort,
    core: CoreHandle,
    events: Sender<Event>,
}

impl Ports {
    fn ask_engine(&self, job: JobId, request: EngineRequest) {
        match &request {
            // A dataset needs no engine; if one were asked all the same, this one says so.
            EngineRequest::Start(EngineJob { program: Program::Wasm(_) | Program::Data(_), .. }) => {
                self.engine.submit(job, request);
            }
            EngineRequest::Start(EngineJob { program: Program::Image(_), .. }) => {
                self.docker.submit(job, request);
            }
            EngineRequest::Start(EngineJob { program: Program::Native(_), .. }) => {
                self.native.submit(job, request);
            }
            // Whichever has it.
            EngineRequest::Stop { .. } => {
                self.engine.submit(job, request.clone());
                self.native.submit(job, request.clone());
                self.docker.submit(job, request);
            }
        }
    }
}

impl ActionSink for Ports {
    fn submit(&mut self, action: Action) {
        let Some(action) = self.core.deliver(action) else { return };
        let refused = match action {
            Action::Persist { lsn, ops } => self.journal.submit(lsn, ops),
            Action::Blob { op, request } => self.blobs.submit(op, request),
            Action::Dht { op, request } => self.dht.submit(op, request),
            Action::Engine { job, request } => {
                self.ask_engine(job, request);
                Ok(())
            }
            Action::Sweep { keep } => {
                self.docker.sweep(keep);
                Ok(())
            }
            Action::Account(account) => {
                self.accounts.submit(account);
                Ok(())
            }
            Action::Tunnel(request) => self.tunnels.submit(request),
            Action::Socket(_) | Action::Reply { .. } | Action::Notify(_) | Action::Stopped { .. } => Ok(()),
        };
        if let Err(refused) = refused
            && let Err(e) = self.events.try_send(refused.into_event())
        {
            // The core's own limits keep the channel below its bound; a core that cannot be told must not go on.
            tracing::error!(error = %e, "a port's refusal cannot be told to the core: stopping");
            std::process::abort();
        }
    }
}

/// The object store as the API sees it.
struct SharedBlobs(BlobStore);

fn blob_error(e: BlobFailed) -> BlobError {
    match e {
        BlobFailed::NotFound => BlobError::NotFound,
        BlobFailed::Full => BlobError::Full,
        BlobFailed::Corrupt | BlobFailed::Io(_) => BlobError::Io(io::Error::other(e.to_string())),
    }
}

impl ApiBlobs for SharedBlobs {
    fn open(&self, digest: &Digest) -> Result<OpenBlob, BlobError> {
        let reader = self.0.open_reader(digest).map_err(blob_error)?;
        let len = reader.metadata()?.len();
        Ok(OpenBlob { len, reader: Box::new(reader) })
    }

    fn import(&self, reader: &mut dyn Read) -> Result<ObjectRef, BlobError> {
        self.0.import(reader).map_err(|e| match e {
            ImportError::Store(e) => blob_error(e),
            ImportError::Source(e) => BlobError::Io(e),
        })
    }
}
