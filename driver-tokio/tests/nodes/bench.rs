//! The conformance suite's bench on loopback: real sockets, real TLS, real time; ports in memory.
//!
//! All nodes and the test share one thread, and nodes run only while the test waits. So what the test does in a row
//! happens in a row, and a crash comes between two turns.

use crate::driver::{BindOptions, Clock, Driver, bind};
use async_channel::{Receiver, Sender};
use bytes::Bytes;
use remote_network_core::action::ActionSink;
use remote_network_core::command::Command;
use remote_network_core::drive::Driven;
use remote_network_core::event::Event;
use remote_network_core::id::{CommandId, Digest};
use remote_network_core::node::{Node, NodeConfig};
use remote_network_core::transport::quic::{QuicConfig, QuicTransport};
use remote_network_core::transport::tls;
use remote_network_sim::conformance::Bench;
use remote_network_sim::engine::EngineSpec;
use remote_network_sim::net::HostId;
use remote_network_sim::ports::{self, MemoryDht, MemoryDisk, MemoryPorts};
use remote_network_sim::world::Said;
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub type NodeDriver = Driver<Node<QuicTransport>, MemoryPorts>;

/// What the bench needs of a runtime: one thread, on which tasks run while [`Runtime::within`] waits.
pub trait Runtime {
    /// A driver that runs.
    type Task;
    fn new() -> Self;
    /// Runs a driver until its end, which must be an orderly one.
    fn spawn(&self, driver: NodeDriver) -> Self::Task;
    /// Drops a driver, wherever it waits; its socket is closed when this returns.
    fn drop_task(&self, task: Self::Task);
    /// Lets everything run until `future` is ready, or the time is over.
    fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T>;
}

/// A machine: what outlives its nodes, and the node of the moment.
struct Machine<R: Runtime> {
    config: NodeConfig,
    disk: MemoryDisk,
    addr: SocketAddr,
    lives: u8,
    running: Option<(R::Task, Sender<Event>)>,
}

pub struct Loopback<R: Runtime> {
    runtime: R,
    machines: Vec<Machine<R>>,
    dht: MemoryDht,
    say: Sender<Said>,
    said: Receiver<Said>,
    calls: Arc<AtomicU64>,
    stranger: UdpSocket,
    born: Instant,
    next_command: u64,
}

impl<R: Runtime> Loopback<R> {
    fn machine(&self, host: HostId) -> &Machine<R> {
        &self.machines[host as usize]
    }

    fn run(&mut self, host: HostId, addr: SocketAddr) {
        let machine = &mut self.machines[host as usize];
        assert!(machine.running.is_none(), "it runs already");
        let socket = bind(addr, BindOptions::default()).expect("a machine keeps its address");
        machine.addr = socket.local_addr();
        machine.lives += 1;
        let clock = Clock::start();
        let seed = [host as u8, machine.lives].repeat(16).try_into().expect("32 bytes");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let crypto = tls::crypto(&machine.config.keypair, provider).expect("ring speaks TLS 1.3");
        let transport = QuicTransport::new(QuicConfig::new(crypto, clock.base(), seed));
        let (config, journal) = (machine.config.clone(), machine.disk.journal());
        let node = Node::restore(config, transport, seed, clock.now(), clock.wall(), journal)
            .expect("a node starts from its own journal");
        let (events, inbox) = ports::events();
        let (disk, dht) = (machine.disk.clone(), self.dht.clone());
        let sink = MemoryPorts::new(host, machine.addr, disk, dht, events.clone(), self.say.clone());
        let calls = self.calls.clone();
        let driver = Driver::new(node, socket, sink, inbox, clock).with_recorder(Box::new(move |_, _, _| {
            calls.fetch_add(1, Ordering::Relaxed);
        }));
        machine.running = Some((self.runtime.spawn(driver), events));
    }
}

impl<R: Runtime> Bench for Loopback<R> {
    const PATIENCE: Duration = Duration::from_secs(30);
    const QUIET: Duration = Duration::from_secs(1);

    fn new() -> Self {
        let (say, said) = ports::inbox();
        Self {
            runtime: R::new(),
            machines: Vec::new(),
            dht: MemoryDht::new(1),
            say,
            said,
            calls: Arc::default(),
            stranger: UdpSocket::bind("127.0.0.1:0").expect("there is a loopback"),
            born: Instant::now(),
            next_command: 0,
        }
    }

    fn add(&mut self, config: NodeConfig) -> HostId {
        let host = self.machines.len() as HostId;
        self.machines.push(Machine {
            config: NodeConfig { private_network: true, publish_private: true, ..config },
            disk: MemoryDisk::new(u64::from(host)),
            addr: ([127, 0, 0, 1], 0).into(),
            lives: 0,
            running: None,
        });
        host
    }

    fn start(&mut self, host: HostId) {
        self.run(host, self.machine(host).addr);
    }

    fn crash(&mut self, host: HostId) {
        if let Some((task, _)) = self.machines[host as usize].running.take() {
            self.runtime.drop_task(task);
        }
    }

    fn addr(&self, host: HostId) -> SocketAddr {
        self.machine(host).addr
    }

    fn command(&mut self, host: HostId, command: Command) -> Option<CommandId> {
        self.next_command += 1;
        let id = CommandId(self.next_command);
        let (_, events) = self.machine(host).running.as_ref()?;
        // A driver that has ended has dropped its end of the channel.
        events.try_send(Event::Command { id, command }).is_ok().then_some(id)
    }

    fn next(&mut self, within: Duration) -> Option<Said> {
        self.runtime.within(within, self.said.recv())?.ok()
    }

    fn elapsed(&self) -> Duration {
        self.born.elapsed()
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn inject(&mut self, host: HostId, payload: &[u8]) {
        self.stranger.send_to(payload, self.addr(host)).expect("loopback takes every datagram");
    }

    fn put(&mut self, host: HostId, bytes: Bytes) -> Digest {
        self.machine(host).disk.put(bytes).expect("there is room for a test's objects")
    }

    fn get(&self, host: HostId, digest: &Digest) -> Option<Bytes> {
        self.machine(host).disk.get(digest)
    }

    fn hold_jobs(&mut self, host: HostId, held: bool) {
        let hang_ppm = if held { 1_000_000 } else { 0 };
        self.machine(host).disk.set_engine(EngineSpec { hang_ppm, ..EngineSpec::default() });
    }

    fn close(self) {
        for machine in self.machines {
            if let Some((task, _)) = machine.running {
                self.runtime.drop_task(task);
            }
        }
    }
}

/// Runs a driver to its end, for runtimes to spawn. A fault of the driver is a fault of the test.
pub async fn to_its_end<N: Driven, S: ActionSink>(driver: Driver<N, S>) {
    let stopped = driver.run().await.expect("no driver fails on loopback");
    assert_eq!(stopped.fault, None);
}
