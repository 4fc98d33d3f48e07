//! The suite's bench on the simulator's own host: virtual time, a perfect network, and the world's checkers.

use super::Bench;
use crate::check::Violation;
use crate::dht::DhtSpec;
use crate::disk::DiskSpec;
use crate::engine::EngineSpec;
use crate::host::Clock;
use crate::net::{HostId, Quality};
use crate::world::{HostSpec, Said, Step, World};
use bytes::Bytes;
use remote_network_core::command::Command;
use remote_network_core::id::{CommandId, Digest};
use remote_network_core::node::NodeConfig;
use remote_network_core::time::Duration;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Nodes in a simulated world, with real TLS or with the null session.
pub struct SimulatedBench<const REAL_TLS: bool> {
    /// The world they live in, for benches that plant a fault.
    pub world: World,
    said: VecDeque<Said>,
    limits: u64,
}

impl<const REAL_TLS: bool> Bench for SimulatedBench<REAL_TLS> {
    // Virtual, so cheap: longer than a lost executor and every backoff of a dial.
    const PATIENCE: Duration = Duration::from_secs(300);
    const QUIET: Duration = Duration::from_secs(60);

    fn new() -> Self {
        Self { world: World::new(1, DhtSpec::PERFECT), said: VecDeque::new(), limits: 0 }
    }

    fn add(&mut self, config: NodeConfig) -> HostId {
        let host = self.world.add(HostSpec {
            config: NodeConfig { public: true, ..config },
            real_tls: REAL_TLS,
            region: 0,
            quality: Quality::default(),
            clock: Clock::default(),
            disk: DiskSpec::default(),
            engine: EngineSpec::default(),
        });
        let addr = self.addr(host);
        self.world.hosts[host as usize].config.public_addrs = vec![addr];
        host
    }

    fn start(&mut self, host: HostId) {
        self.world.start(host);
    }

    fn crash(&mut self, host: HostId) {
        self.world.crash(host);
    }

    fn addr(&self, host: HostId) -> SocketAddr {
        self.world.net.address(host).unwrap_or_else(|| panic!("no machine {host}"))
    }

    fn command(&mut self, host: HostId, command: Command) -> Option<CommandId> {
        self.world.command(host, command)
    }

    fn next(&mut self, within: Duration) -> Option<Said> {
        // Time moves only with what happens: the limit has to be something that happens.
        self.limits += 1;
        let limit = self.limits;
        self.world.mark(self.world.now_ns() + within.as_nanos() as u64, limit);
        loop {
            self.said.extend(self.world.take_said());
            if let Some(said) = self.said.pop_front() {
                return Some(said);
            }
            if self.world.step()? == Step::Mark(limit) {
                return None;
            }
        }
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.world.now_ns())
    }

    fn calls(&self) -> u64 {
        self.world.steps()
    }

    fn inject(&mut self, host: HostId, payload: &[u8]) {
        self.world.inject(host, ([203, 0, 113, 7], 4_433).into(), payload);
    }

    fn put(&mut self, host: HostId, bytes: Bytes) -> Digest {
        match self.world.hosts[host as usize].disk.blobs.put(bytes) {
            Ok((digest, _)) => digest,
            Err(why) => panic!("the disk of {host}: {why}"),
        }
    }

    fn get(&self, host: HostId, digest: &Digest) -> Option<Bytes> {
        self.world.hosts[host as usize].disk.blobs.get(digest)
    }

    fn hold_jobs(&mut self, host: HostId, held: bool) {
        self.world.hosts[host as usize].engine.spec.hang_ppm = if held { 1_000_000 } else { 0 };
    }

    fn close(self) {
        let wrong: Vec<&Violation> = self.world.checks.violations().iter().map(|f| &f.violation).collect();
        assert!(wrong.is_empty(), "the world's checkers found {wrong:#?}");
    }
}
