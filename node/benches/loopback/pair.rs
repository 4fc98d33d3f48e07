//! A real node in this process: core, driver thread, journal and object store, as `remote-network start` puts them
//! together; without engine, DHT and API, which no figure here touches.

use anyhow::{Context as _, Result, anyhow, bail};
use async_channel::Sender;
use remote_network_core::action::{Action, ActionSink};
use remote_network_core::command::{Command, Notice, Reply};
use remote_network_core::event::Event;
use remote_network_core::id::{CommandId, Keypair, PeerName, PublicKey};
use remote_network_core::job::workflow::ObjectRef;
use remote_network_core::node::{Journal, Node, NodeConfig};
use remote_network_core::time::{Instant, UnixTime};
use remote_network_core::transport::quic::{QuicConfig, QuicTransport};
use remote_network_core::transport::tls;
use remote_network_driver_tokio::event_channel;
use remote_network_node::ports::blobs::{BlobPort, BlobStore};
use remote_network_node::ports::dht::{DhtBackend, DhtConfig, DhtMode, DhtPort, DhtSocket};
use remote_network_node::ports::store::{self, JournalOptions, JournalPort};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// A node that does not answer for so long hangs.
const PATIENCE: Duration = Duration::from_secs(120);
const QUOTA_BYTES: u64 = 1 << 40;
pub const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What drives a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runtime {
    Tokio,
    Smol,
}

/// What a node says.
enum Told {
    Reply(CommandId, Box<Reply>),
    /// The last byte of an object is verified and written, not yet durable.
    Whole(std::time::Instant),
}

struct Ports {
    journal: JournalPort,
    blobs: BlobPort,
    dht: DhtPort,
    events: Sender<Event>,
    told: mpsc::Sender<Told>,
}

impl ActionSink for Ports {
    fn submit(&mut self, action: Action) {
        let refused = match action {
            Action::Persist { lsn, ops } => self.journal.submit(lsn, ops),
            Action::Blob { op, request } => self.blobs.submit(op, request),
            Action::Dht { op, request } => self.dht.submit(op, request),
            Action::Reply { id, reply } => {
                let _gone = self.told.send(Told::Reply(id, Box::new(reply)));
                Ok(())
            }
            Action::Notify(Notice::Transfer { done, len, .. }) if done == len => {
                let _gone = self.told.send(Told::Whole(std::time::Instant::now()));
                Ok(())
            }
            Action::Notify(_)
            | Action::Engine { .. }
            | Action::Sweep { .. }
            | Action::Socket(_)
            | Action::Tunnel(_)
            | Action::Account(_)
            | Action::Stopped { .. } => Ok(()),
        };
        if let Err(refused) = refused {
            // The channel's bound is above all that is ever outstanding here.
            let _full = self.events.try_send(refused.into_event());
        }
    }
}

/// When a fetch had brought its object.
#[derive(Clone, Copy, Debug)]
pub struct Fetched {
    /// Until the last byte was verified and written.
    pub whole: Duration,
    /// Until the object was durable and the command answered.
    pub durable: Duration,
}

/// A running node.
pub struct Running {
    pub key: PublicKey,
    pub addr: SocketAddr,
    pub store: BlobStore,
    events: Sender<Event>,
    told: mpsc::Receiver<Told>,
    thread: JoinHandle<Result<()>>,
    commands: u64,
}

impl Running {
    /// Starts a node whose key is made of `seed`, with its data in `dir`.
    pub fn start(runtime: Runtime, dir: &Path, seed: u8) -> Result<Self> {
        let (events, inbox) = event_channel();
        let opened = store::open(dir, JournalOptions::default(), events.clone())?;
        let blobs = BlobStore::open(dir, QUOTA_BYTES)?;
        let dht = DhtConfig {
            backend: DhtBackend::Native,
            mode: DhtMode::Off,
            socket: DhtSocket::Own { bind: Ipv4Addr::LOCALHOST.into(), port: 0 },
            table_file: None,
            bootstrap: vec![],
        };
        let (tell, told) = mpsc::channel();
        let ports = Ports {
            journal: opened.port,
            blobs: BlobPort::start(&blobs, &events)?,
            dht: DhtPort::start(dht, events.clone())?,
            events: events.clone(),
            told: tell,
        };
        let keypair = Keypair::from_seed(&[seed; 32]);
        let key = keypair.public();
        // Whoever hangs up here is not to be dialled again by itself.
        let config = NodeConfig { private_network: true, min_peers: 0, ..NodeConfig::new(keypair) };
        let journal =
            Journal { id: u64::from(seed), last: opened.identity.last_lsn, records: opened.records };
        let build = move |base, now, wall| node(config, journal, [seed; 32], base, now, wall);
        let (addr, thread) = match runtime {
            Runtime::Tokio => {
                use remote_network_driver_tokio::{BindOptions, Clock, Driver, bind};
                let clock = Clock::start();
                let node = build(clock.base(), clock.now(), clock.wall())?;
                let socket = bind(LOOPBACK, BindOptions::default())?;
                let addr = socket.local_addr();
                let driver = Driver::new(node, socket, ports, inbox, clock);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let run = move || runtime.block_on(driver.run()).map(|_| ()).map_err(Into::into);
                (addr, std::thread::Builder::new().name("node on tokio".into()).spawn(run)?)
            }
            Runtime::Smol => {
                use remote_network_driver_smol::{BindOptions, Clock, Driver, bind};
                let clock = Clock::start();
                let node = build(clock.base(), clock.now(), clock.wall())?;
                let socket = bind(LOOPBACK, BindOptions::default())?;
                let addr = socket.local_addr();
                let driver = Driver::new(node, socket, ports, inbox, clock);
                let run = move || smol::block_on(driver.run()).map(|_| ()).map_err(Into::into);
                (addr, std::thread::Builder::new().name("node on smol".into()).spawn(run)?)
            }
        };
        Ok(Self { key, addr, store: blobs, events, told, thread, commands: 0 })
    }

    fn tell(&mut self, command: Command) -> Result<CommandId> {
        self.commands += 1;
        let id = CommandId(self.commands);
        self.events.send_blocking(Event::Command { id, command })?;
        Ok(id)
    }

    /// The answer to a command, and when an object became whole on the way.
    fn answer(&mut self, id: CommandId) -> Result<(Reply, Option<std::time::Instant>)> {
        let mut whole = None;
        loop {
            match self.told.recv_timeout(PATIENCE).context("the node hangs")? {
                Told::Whole(at) => whole = Some(at),
                Told::Reply(of, reply) if of == id => match *reply {
                    Reply::Error(e) => bail!("the node says: {e}"),
                    reply => return Ok((reply, whole)),
                },
                Told::Reply(..) => {}
            }
        }
    }

    /// Connects to another node.
    pub fn connect(&mut self, to: &Running) -> Result<()> {
        let id = self.tell(Command::Connect { peer: PeerName::Key(to.key), addr: Some(to.addr) })?;
        self.answer(id).map(|_| ())
    }

    /// Brings an object of `holder` here, durably, and then forgets it so that it can be brought again.
    pub fn fetch(&mut self, holder: &mut Running, object: &ObjectRef) -> Result<Fetched> {
        let valid = remote_network_core::time::Duration::from_secs(3600);
        let share = holder.tell(Command::Share { digest: object.digest, consumer: self.key, valid })?;
        let Reply::Ticket(ticket) = holder.answer(share)?.0 else { bail!("no ticket for an object") };
        let begun = std::time::Instant::now();
        let fetch = Command::Fetch { digest: object.digest, len: object.len, from: holder.key, ticket };
        let id = self.tell(fetch)?;
        let (_, whole) = self.answer(id)?;
        let durable = begun.elapsed();
        let whole = whole.context("nothing was fetched")?.duration_since(begun);
        self.store.remove(&object.digest)?;
        Ok(Fetched { whole, durable })
    }

    /// Stops the node in order.
    pub fn stop(mut self) -> Result<()> {
        self.tell(Command::Shutdown)?;
        self.thread.join().map_err(|_| anyhow!("a node panicked"))?
    }
}

fn node(
    config: NodeConfig,
    journal: Journal,
    seed: [u8; 32],
    base: std::time::Instant,
    now: Instant,
    wall: UnixTime,
) -> Result<Node<QuicTransport>> {
    let crypto = tls::crypto(&config.keypair, Arc::new(rustls::crypto::ring::default_provider()))?;
    let transport = QuicTransport::new(QuicConfig::new(crypto, base, seed));
    Ok(Node::restore(config, transport, seed, now, wall, journal)?)
}
