//! A few whole nodes in memory: real cores on real QUIC, with the simulator's null cryptography, so that an input replays
//! exactly. What the simulator draws at random (when a datagram arrives, a commit ends, a port answers) is here in the
//! hands of the fuzzer, step by step.
//!
//! After every call into a core it is looked at from outside:
//! - journal batches are numbered without a gap;
//! - a command is answered once at the most, and nothing is acknowledged that the journal would not give back (a run,
//!   a service, a grant, a started job, a published version);
//! - after `handle_timeout` the next deadline is later than now;
//! - actions, requests and datagrams of one call are bounded;
//! - what was written is accepted at the next start.

pub mod host;
pub mod ports;
pub mod stranger;

use crate::keys::keypair;
use host::Host;
use ports::Dht;
use remote_network_core::event::{Datagram, Event};
use remote_network_core::node::RecoverError;
use remote_network_core::place::SocketId;
use remote_network_core::time::{Duration, Instant, UnixTime};
use remote_network_sim::host::{BirthError, WORLD_BEGINS_MS};
use std::collections::VecDeque;
use std::net::SocketAddr;
use stranger::Stranger;

/// Datagrams under way; more are lost, as on any wire.
const WIRE_MAX: usize = 4_096;

/// How the ports answer while the world settles. The journal always becomes durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// As they should.
    Honest,
    /// No object, no DHT node, no worker.
    Fails,
}

/// The world.
pub struct World {
    /// Time since its beginning.
    pub now_ns: u64,
    /// Its nodes.
    pub hosts: Vec<Host>,
    /// Datagrams under way: from, to, bytes.
    pub wire: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// Somebody who says what he likes, under a key of his own.
    pub stranger: Stranger,
    /// What the DHT holds.
    pub dht: Dht,
}

/// Where the `n`th node lives.
pub fn addr(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n as u8 + 1], 4433))
}

impl World {
    /// So many nodes, none of them started.
    pub fn new(hosts: usize) -> Self {
        Self {
            now_ns: 0,
            hosts: (0..hosts).map(|n| Host::new(keypair(n as u8), addr(n))).collect(),
            wire: VecDeque::new(),
            stranger: Stranger::new(),
            dht: Dht::default(),
        }
    }

    /// The clock of somebody who started at the world's beginning.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.now_ns)
    }

    /// Starts a node from what its journal holds.
    pub fn rise(&mut self, n: usize) -> Result<(), RecoverError> {
        let (now_ns, wall) = (self.now_ns, self.wall(n));
        match self.hosts[n].rise(now_ns, wall) {
            Ok(()) => {}
            Err(BirthError::Recover(e)) => return Err(e),
            Err(e @ (BirthError::Tls(_) | BirthError::Honest)) => panic!("an honest node without TLS: {e}"),
        }
        let addr = self.hosts[n].addr;
        self.tell(n, Event::LocalAddrs(vec![addr]));
        Ok(())
    }

    /// Takes a node away; the first `kept` of its batches under way have made it to the disk.
    pub fn crash(&mut self, n: usize, kept: usize) {
        self.hosts[n].crash(kept);
    }

    fn wall(&self, n: usize) -> UnixTime {
        let ms = (WORLD_BEGINS_MS + self.now_ns / 1_000_000) as i64 + self.hosts[n].wall_off_ms;
        UnixTime::from_millis(ms.max(0) as u64)
    }

    /// Tells a node of an event.
    pub fn tell(&mut self, n: usize, event: Event) {
        let (now_ns, wall) = (self.now_ns, self.wall(n));
        let host = &mut self.hosts[n];
        if let Event::Command { id, command } = &event
            && host.node.is_some()
        {
            host.commands.insert(*id, command.clone());
        }
        let now = host.now(now_ns);
        if let Some(node) = &mut host.node {
            node.handle(now, wall, event);
        }
        self.look(n);
    }

    /// Gives a node the time.
    pub fn timeout(&mut self, n: usize) {
        let (now_ns, wall) = (self.now_ns, self.wall(n));
        let host = &mut self.hosts[n];
        let now = host.now(now_ns);
        if let Some(node) = &mut host.node {
            node.handle_timeout(now, wall);
            if let Some(deadline) = node.poll_timeout() {
                assert!(deadline.at > now, "at {now:?} it wants to be woken at {deadline:?}");
            }
        }
        self.look(n);
    }

    /// Takes what a node asks for and sends, and checks it.
    fn look(&mut self, n: usize) {
        let now_ns = self.now_ns;
        self.hosts[n].take_actions();
        let from = self.hosts[n].addr;
        let wire = &mut self.wire;
        self.hosts[n].take_datagrams(now_ns, |to, bytes| {
            if wire.len() < WIRE_MAX {
                wire.push_back((from, to, bytes.to_vec()));
            }
        });
    }

    /// The stranger's datagrams go on the wire.
    pub fn look_at_stranger(&mut self) {
        let now = self.now();
        for (to, bytes) in self.stranger.take_datagrams(now) {
            if self.wire.len() < WIRE_MAX {
                self.wire.push_back((stranger::addr(), to, bytes));
            }
        }
    }

    /// Hands a datagram to whoever lives at `to`.
    pub fn arrive(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let datagram = Datagram { socket: SocketId::MAIN, from, to: None, ecn: None, payload: bytes.into() };
        if to == stranger::addr() {
            let now = self.now();
            self.stranger.handle(now, datagram);
            self.look_at_stranger();
        } else if let Some(n) = self.hosts.iter().position(|h| h.addr == to) {
            self.tell(n, Event::Datagram(datagram));
        }
    }

    /// Delivers the oldest datagram; false when there is none.
    pub fn deliver(&mut self) -> bool {
        match self.wire.pop_front() {
            Some((from, to, bytes)) => {
                self.arrive(from, to, &bytes);
                true
            }
            None => false,
        }
    }

    /// The next deadline of anybody.
    pub fn deadline_ns(&self) -> Option<u64> {
        let hosts = self.hosts.iter().filter_map(Host::deadline_ns);
        hosts.chain(self.stranger.deadline_ns()).min()
    }

    /// Moves the clock to `at_ns`, waking everybody whose time has come on the way.
    pub fn pass(&mut self, at_ns: u64, wakes_max: usize) {
        for _ in 0..wakes_max {
            match self.deadline_ns().filter(|d| *d <= at_ns) {
                Some(due_ns) => self.wake(due_ns),
                None => break,
            }
        }
        self.wake(at_ns);
    }

    fn wake(&mut self, at_ns: u64) {
        self.now_ns = self.now_ns.max(at_ns);
        for n in 0..self.hosts.len() {
            if self.hosts[n].deadline_ns().is_some_and(|d| d <= self.now_ns) {
                self.timeout(n);
            }
        }
        let now = self.now();
        self.stranger.handle_timeout(now);
        self.look_at_stranger();
    }

    /// Lets everything take its course: datagrams arrive, batches become durable, ports answer, time passes. Ends after
    /// `within`, after `events_max` steps, or once nothing is left to wait for.
    pub fn settle(&mut self, fate: Fate, within: Duration, events_max: usize) {
        let end_ns = self.now_ns.saturating_add(u64::try_from(within.as_nanos()).unwrap_or(u64::MAX));
        for _ in 0..events_max {
            if self.deliver() || (0..self.hosts.len()).any(|n| self.answer_one(n, fate)) {
                continue;
            }
            match self.deadline_ns().filter(|d| *d <= end_ns) {
                Some(due_ns) => self.wake(due_ns),
                None => return,
            }
        }
    }

    /// Answers one thing a node waits for; false when there is none.
    fn answer_one(&mut self, n: usize, fate: Fate) -> bool {
        if self.hosts[n].node.is_none() {
            return false;
        }
        if let Some(up_to) = self.hosts[n].persist(1) {
            self.tell(n, Event::Persisted { up_to });
            return true;
        }
        match ports::next_answers(&mut self.hosts[n], &mut self.dht, fate) {
            Some(events) => {
                events.into_iter().for_each(|event| self.tell(n, event));
                true
            }
            None => false,
        }
    }
}
