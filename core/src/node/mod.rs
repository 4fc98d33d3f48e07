//! The node: owns the machines, routes between them, and is what a driver or the simulator calls.
//!
//! | file | decides |
//! |---|---|
//! | `mod.rs` | the life of a node: restore, events, time, settling, stopping |
//! | `wiring` | which machine's output is which machine's input, and what waits for the journal |
//! | `meeting` | connections: admission, control streams, identity, dials, transfer streams |
//! | `reach` | paths, holes punched, what our NAT does |
//! | `dialback` | what our NAT lets in and how long its mappings live, by the help of public nodes |
//! | `passing`, `reserving` | the node as a relay, and as a client of relays |
//! | `relaying` | what goes through relays, and comes |
//! | `tunnelling`, `errands` | relays over TCP, and the DHT through them |
//! | `seeking` | what a peer is told of where others are |
//! | `links`, `streams` | the state of one connection, of one transfer stream |
//! | [`gate`] | durable before send |
//! | `keeping` | small objects between the requester and the store, whole |
//! | `offering` | services that wait until their files are seen |
//! | `sealing` | outputs that are there when a receipt promises them |
//! | `treeing` | directories: who brings them, who holds them, how their files go |
//! | `commands` | what the application asks and gets |
//!
//! **Mutate once, drain fully.** Every call that can change something ends in `Node::settle`: transport events and
//! inputs between machines are handled until none is left (bounded by [`SETTLE_ROUNDS_MAX`]; more is a bug), then the
//! records made on the way become one batch and effects whose records are durable are released. Machines never see each
//! other.
//!
//! A node is at work from its first [`Event::LocalAddrs`], which every driver sends at its start: only then is it known
//! where the node can be reached, and everything that was outstanding before a restart is taken up.

mod commands;
mod config;
mod dialback;
mod errands;
pub mod gate;
mod keeping;
mod links;
mod meeting;
mod offering;
mod passing;
mod reach;
mod relaying;
mod reserving;
mod sealing;
mod seeking;
mod services;
mod streams;
mod treeing;
mod tunnelling;
mod wiring;

pub use config::{Journal, NodeConfig, RecoverError};

use crate::action::Action;
use crate::command::{CommandError, Reply};
use crate::dht::{self, Dht, DhtConfig};
use crate::event::Event;
use crate::few::Few;
use crate::id::{CommandId, ConnId, DhtId, Digest, PublicKey};
use crate::identity::book::Book;
use crate::identity::cascade::{self, Cascade, CascadeConfig};
use crate::identity::exchange::Exchange;
use crate::identity::seek;
use crate::job::executor::{self, Executor, ExecutorConfig};
use crate::job::requester::{self, Requester};
use crate::limits::{CACHED_RECORDS_MAX, SETTLE_ROUNDS_MAX};
use crate::machine::Machine;
use crate::meter::Meter;
use crate::place::Place;
use crate::port::AnnouncePort;
use crate::rng::Rng;
use crate::service::catalogue::{self, Catalogue};
use crate::store::Room;
use crate::time::{Deadline, Duration, Instant, UnixTime};
use crate::transfer::fetch::Fetcher;
use crate::transfer::serve::{Reason, Server};
use crate::transfer::trees::{Input::Restore, Trees};
use crate::transport::{Transmit, Transport, close_code};
use commands::Commands;
use errands::Errands;
use gate::{Effect, Gate};
use keeping::Keeping;
use links::Links;
use meeting::Meeting;
use passing::Passing;
use reach::Reach;
use relaying::Relaying;
use reserving::Reserving;
use sealing::Sealing;
use services::Searching;
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use streams::Streams;
use treeing::Treeing;
use tunnelling::Tunnelling;
use wiring::{Inside, Rngs};

/// Room numbers in the ids of requests to ports: they route the answer to who asked.
mod op_room {
    pub const DHT: u8 = 1;
    pub const FETCH: u8 = 2;
    pub const SERVE: u8 = 3;
    pub const NODE: u8 = 4;
    pub const SEALING: u8 = 5;
    pub const ERRANDS: u8 = 6;
    pub const TREES: u8 = 7;
    pub const KEEPING: u8 = 8;
}

/// After an orderly stop is asked for, the journal may take this long to become durable.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// What receipts name as the engine.
const ENGINE: &str = concat!("wasmtime/remote-network-", env!("CARGO_PKG_VERSION"));

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// Restored, waiting for the socket's address.
    Restored,
    Running,
    /// Saying goodbye; ends when the journal is at rest, or at this time.
    Stopping {
        asked: CommandId,
        until: Instant,
    },
    Stopped,
}

/// A node over some transport. See the module for the calling contract.
pub struct Node<T: Transport> {
    config: NodeConfig,
    me: PublicKey,
    life: Life,
    born: Instant,
    now: Instant,
    wall: UnixTime,
    dht_id: DhtId,
    local_addrs: Vec<SocketAddr>,
    /// Ours as far as known, as the cascade was told.
    own_addrs: Vec<SocketAddr>,

    transport: T,
    links: Links,
    streams: Streams,
    exchanges: Few<ConnId, Exchange>,
    meeting: Meeting,
    relaying: Relaying,
    passing: Option<Box<Passing>>,
    reserving: Reserving,
    tunnelling: Tunnelling,
    errands: Errands,
    reach: Reach,
    seeks: Meter,

    dht: Dht,
    book: Book,
    cascade: Cascade,
    fetcher: Fetcher,
    server: Server,
    trees: Trees,
    treeing: Treeing,
    catalogue: Catalogue,
    requester: Requester,
    executor: Executor,
    sealing: Sealing,
    keeping: Keeping,
    offering: offering::Offering,
    searching: Searching,

    rngs: Rngs,
    inbox: VecDeque<Inside>,
    gate: Gate,
    actions: VecDeque<Action>,
    commands: Commands,
    refused: Few<&'static str, u64>,
    /// Digests of which bytes arrived in the present fetch, to tell what was brought here from what was here.
    arrived: BTreeSet<Digest>,
}

impl<T: Transport> Node<T> {
    /// Builds a node from what is durable. `seed` feeds its only generator; equal seeds and events give equal actions.
    pub fn restore(
        config: NodeConfig,
        transport: T,
        seed: [u8; 32],
        now: Instant,
        wall: UnixTime,
        journal: Journal,
    ) -> Result<Self, RecoverError> {
        let me = config.keypair.public();
        let records = &journal.records;
        let bad = |room: Room, lsn: u64, why: &dyn std::fmt::Display| RecoverError::Record {
            lsn,
            room: room.name(),
            why: why.to_string(),
        };
        let mut dht = Dht::new(DhtConfig {
            keypair: config.keypair.clone(),
            topics: config.topics.clone(),
            announce_port: AnnouncePort::Implied,
            public_addrs: config.public_addrs.clone(),
            publish_private: config.publish_private,
            private_networks: config.private_network,
            republish_every: config.republish_every,
            search_every: config.discover_every,
            cached_records_max: (config.known_peers_max / 4).clamp(16, CACHED_RECORDS_MAX),
            ops_room: op_room::DHT,
        });
        dht.restore(records).map_err(|(r, e)| bad(r.subject.room, r.lsn.0, &e))?;
        let mut book = Book::new(me, config.private_network, config.known_peers_max);
        book.restore(now, records).map_err(|(r, e)| bad(r.subject.room, r.lsn.0, &e))?;
        let server = Server::restore(op_room::SERVE, records).map_err(|e| bad(Room::Grant, 0, &e))?;
        let catalogue = Catalogue::restore(me, records)
            .map_err(|(lsn, e)| bad(Room::Service, lsn, &e))?
            .with_native(config.native.clone())
            .with_machine(config.machine.clone());
        let requester = Requester::restore(config.keypair.clone(), records)
            .map_err(|(lsn, e)| bad(Room::Run, lsn, &e))?
            .with_native(config.native.clone());
        let executor_config = ExecutorConfig {
            keypair: config.keypair.clone(),
            incarnation: journal.id,
            engine: ENGINE.to_owned(),
            accept_jobs: config.accept_jobs,
            running_max: config.jobs_running_max,
        };
        let mut executor =
            Executor::restore(executor_config, records).map_err(|(lsn, e)| bad(Room::Job, lsn, &e))?;
        executor.restore_policy(records).map_err(|(lsn, e)| bad(Room::Policy, lsn, &e))?;
        let cascade = Cascade::new(CascadeConfig {
            own: me,
            max_peers: config.max_peers,
            min_peers: config.min_peers,
            private_networks: config.private_network,
        });
        let mut rngs = Rngs::new(&seed);
        let mut held: BTreeSet<Digest> = requester.trees();
        held.extend(executor.trees(true));
        held.extend(catalogue.datasets());
        held.extend(server.granted_for(&me, Reason::UserTree));
        let waited = executor.trees(false);
        // First of all: until it is known what they have, nothing may be removed.
        let any = !held.is_empty() || !waited.is_empty();
        let first = any.then_some(Inside::Trees(Restore { held, waited }));
        Ok(Self {
            me,
            life: Life::Restored,
            born: now,
            now,
            wall,
            dht_id: DhtId(rngs.node.bytes()),
            local_addrs: Vec::new(),
            own_addrs: Vec::new(),
            transport,
            links: Links::new(config.idle_close_after),
            streams: Streams::default(),
            exchanges: Few::new(),
            meeting: Meeting::default(),
            relaying: Relaying::default(),
            reserving: Reserving::new(&me),
            tunnelling: Tunnelling::default(),
            errands: Errands::new(op_room::ERRANDS),
            reach: Reach::default(),
            passing: config.relay.then(|| Box::new(Passing::new(config.relay_limits.clone()))),
            seeks: seek::meter(),
            dht,
            book,
            cascade,
            fetcher: Fetcher::new(op_room::FETCH),
            server,
            trees: Trees::new(op_room::TREES),
            treeing: Treeing::default(),
            catalogue,
            requester,
            executor,
            sealing: Sealing::new(op_room::SEALING),
            keeping: Keeping::new(op_room::KEEPING),
            offering: offering::Offering::default(),
            searching: Searching::default(),
            rngs,
            inbox: first.into_iter().collect(),
            gate: Gate::new(journal.last),
            actions: VecDeque::new(),
            commands: Commands::new(op_room::NODE),
            refused: Few::new(),
            arrived: BTreeSet::new(),
            config,
        })
    }

    /// Who this node is.
    pub fn key(&self) -> PublicKey {
        self.me
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, wall: UnixTime, event: Event) {
        self.tick(now, wall);
        if self.life == Life::Stopped {
            return;
        }
        match event {
            Event::Datagram(datagram) => self.arrived(datagram),
            Event::Datagrams(all) => all.into_iter().for_each(|d| self.arrived(d)),
            Event::LocalAddrs(addrs) => self.local_addrs(addrs),
            Event::Socket(event) => self.socket_event(event),
            Event::Tunnel(event) => self.tunnel_event(event),
            Event::Mapped(addrs) => self.mapped(addrs),
            Event::Nearby { key, addr } => self.nearby(key, addr),
            Event::Persisted { up_to } => self.gate.durable(up_to),
            Event::PersistFailed { why } => {
                // Fail-stop: whatever is held is never said, so nothing undurable was ever acknowledged.
                self.life = Life::Stopped;
                self.actions.clear();
                self.actions.push_back(Action::Stopped { fault: Some(format!("the journal failed: {why}")) });
                return;
            }
            Event::Dht(event) => self.dht_event(event),
            Event::Blob { op, result } => self.blob_answer(op, result),
            Event::Engine(report) => self.engine_report(report),
            Event::Command { id, command } => self.command(id, command),
        }
        self.settle();
    }

    /// Time passed. Harmless before the deadline.
    pub fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        self.tick(now, wall);
        if self.life == Life::Stopped {
            return;
        }
        self.transport.handle_timeout(now);
        self.machines_timeout();
        self.meeting_timeout();
        self.reach_timeout();
        self.reserving_timeout();
        self.tunnelling_timeout();
        self.passing_timeout();
        self.commands_timeout();
        if let Life::Stopping { asked, until } = self.life
            && now >= until
        {
            self.end(asked, Some("the journal did not become durable in time".to_owned()));
            return;
        }
        self.settle();
    }

    /// Appends up to `max_datagrams` datagrams for one destination to `buf`; call until `None`.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        if let Some(transmit) = self.reach.transmit(buf) {
            return Some(transmit);
        }
        loop {
            let start = buf.len();
            let outgoing = self.transport.poll_transmit(now, max_datagrams, buf)?;
            match outgoing.place {
                Place::Direct { .. } => return outgoing.datagrams(),
                Place::Relayed { relay, peer } => {
                    let packets = buf.split_off(start);
                    self.carry(relay, peer, &packets, &outgoing);
                }
                Place::Tunnel(tunnel) => {
                    let packets = buf.split_off(start);
                    self.tunnel(tunnel, packets, outgoing.segment_size);
                }
            }
        }
    }

    /// The next thing to do; call until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if self.actions.is_empty() {
            self.actions = VecDeque::new();
        }
        action
    }

    /// When to call [`Node::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let stopping = match self.life {
            Life::Stopped => return None,
            Life::Stopping { until, .. } => Some(Deadline::new(until, "stop")),
            Life::Restored | Life::Running => None,
        };
        [
            stopping,
            self.transport.poll_timeout().map(|at| Deadline::new(at, "transport")),
            self.dht.poll_timeout(),
            self.book.poll_timeout(),
            self.cascade.poll_timeout(),
            self.fetcher.poll_timeout(),
            self.server.poll_timeout(),
            self.catalogue.poll_timeout(),
            self.requester.poll_timeout(),
            self.executor.poll_timeout(),
            self.searching.poll_timeout(),
            self.meeting_deadline(),
            self.passing.as_ref().and_then(|p| p.poll_timeout()),
            self.reserving.poll_timeout(),
            self.tunnelling.poll_timeout(),
            self.reach.poll_timeout(),
            self.commands.poll_timeout(),
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }

    fn tick(&mut self, now: Instant, wall: UnixTime) {
        debug_assert!(now >= self.now, "time runs backwards");
        self.now = self.now.max(now);
        self.wall = wall;
    }

    /// Where the socket is bound: the first time, the node begins to work; later, its network has changed.
    fn local_addrs(&mut self, addrs: Vec<SocketAddr>) {
        let changed = self.local_addrs != addrs;
        self.local_addrs = addrs;
        if let Some(port) = self.local_addrs.first().map(SocketAddr::port) {
            self.dht.set_announce_port(AnnouncePort::Explicit(port));
        }
        match self.life {
            Life::Restored => self.begin(),
            Life::Running if changed => {
                self.inbox.push_back(Inside::Dht(dht::Input::NetworkChanged));
                self.network_changed();
            }
            Life::Running | Life::Stopping { .. } | Life::Stopped => return,
        }
        if self.config.private_network {
            // In a private network a socket bound to one address says as much about us as a peer's observation.
            for &addr in self.local_addrs.iter().filter(|a| !a.ip().is_unspecified()) {
                self.inbox.push_back(Inside::Dht(dht::Input::Observed { by: self.me, from: None, addr }));
            }
        }
    }

    /// What our record says may have changed.
    fn content_changed(&mut self) {
        let content = Box::new(self.record_content());
        self.inbox.push_back(Inside::Dht(dht::Input::Content(content)));
    }

    fn begin(&mut self) {
        self.life = Life::Running;
        // The node is a peer of itself that is always up: its own jobs take the same way as everybody's.
        if let Some(policy) = self.config.policy.clone() {
            self.inbox.push_back(Inside::Executor(executor::Input::Policy(Box::new(policy))));
        }
        self.inbox.push_back(Inside::Catalogue(catalogue::Input::Started));
        self.inbox.push_back(Inside::Requester(requester::Input::PeerUp(self.me)));
        self.inbox.push_back(Inside::Executor(executor::Input::PeerUp(self.me)));
        self.settle_inside();
        self.inbox.push_back(Inside::Executor(executor::Input::Started));
        self.inbox.push_back(Inside::Requester(requester::Input::Started));
        self.passing_begins();
        self.reserving_begins();
        self.reach_begins();
        self.content_changed();
        self.inbox.push_back(Inside::Dht(dht::Input::Start));
        self.inbox.push_back(Inside::Cascade(cascade::Input::Start));
        for (key, addr) in self.book.most_recent(self.config.max_peers, |_| true) {
            self.learnt(key, addr);
        }
    }

    /// Handles everything that follows from what was just changed; see the module.
    fn settle(&mut self) {
        loop {
            self.settle_inside();
            if let Some(persist) = self.gate.close_batch() {
                self.actions.push_back(persist);
            }
            while let Some(effect) = self.gate.release() {
                match effect {
                    Effect::Frame { peer, frame } => self.send_frame(peer, &frame),
                    Effect::Action(Action::Dht { op, request }) => self.ask_dht(op, request),
                    Effect::Action(action) => self.actions.push_back(action),
                }
            }
            // Frames to ourselves that were released just now are inputs again.
            if self.inbox.is_empty() {
                break;
            }
        }
        // Whatever happened may have made room on the way to a receiver.
        self.forward();
        // What a busy moment needed is not kept for ever, by no node of many.
        self.inbox = VecDeque::new();
        if let Life::Stopping { asked, .. } = self.life
            && self.gate.is_at_rest()
        {
            self.end(asked, None);
        }
    }

    fn settle_inside(&mut self) {
        for _ in 0..SETTLE_ROUNDS_MAX {
            if let Some(event) = self.transport.poll() {
                self.transport_event(event);
            } else if let Some((key, news)) = self.streams.poll() {
                self.stream_news(key, news);
            } else if let Some(input) = self.inbox.pop_front() {
                self.step(input);
            } else {
                return;
            }
        }
        debug_assert!(false, "the node does not come to rest");
    }

    fn begin_stop(&mut self, asked: CommandId) {
        match self.life {
            Life::Restored | Life::Running => {}
            Life::Stopping { .. } | Life::Stopped => {
                self.reply(asked, Reply::Error(CommandError::ShuttingDown));
                return;
            }
        }
        self.life = Life::Stopping { asked, until: self.now + STOP_WITHIN };
        let open: Vec<ConnId> = self.links.iter().map(|(conn, _)| conn).collect();
        for conn in open {
            self.transport.close(self.now, conn, close_code::SHUTDOWN, "the node shuts down");
        }
    }

    fn end(&mut self, asked: CommandId, fault: Option<String>) {
        self.life = Life::Stopped;
        // Nothing is held any more, or nothing that is held will ever be said: the answer does not wait.
        self.actions.push_back(Action::Reply { id: asked, reply: Reply::Done });
        self.actions.push_back(Action::Stopped { fault });
    }

    fn refuse(&mut self, reason: &'static str) {
        *self.refused.get_or_insert_with(reason, || 0) += 1;
    }
}

/// Everything random of a node, one stream per machine, so that a new draw in one does not shift another's.
fn rng(seed: &[u8; 32], label: &str) -> Rng {
    Rng::derive(seed, label)
}

#[cfg(test)]
mod tests;
