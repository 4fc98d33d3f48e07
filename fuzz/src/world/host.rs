//! One node of the [`super::World`]: its core, its journal and objects, what it has asked for, and what must hold of
//! what it says.

use remote_network_core::action::Action;
use remote_network_core::codec::Dict;
use remote_network_core::command::{Command, Reply};
use remote_network_core::dht::item;
use remote_network_core::drive::DATAGRAMS_PER_TRANSMIT;
use remote_network_core::id::{CommandId, DhtId, Digest, JobId, Keypair, Lsn, OpId, RunId};
use remote_network_core::node::{Node, NodeConfig};
use remote_network_core::port::{BlobRequest, DhtRequest, EngineJob, EngineRequest};
use remote_network_core::store::{Room, StoreOp, Subject};
use remote_network_core::time::{Duration, Instant, UnixTime};
use remote_network_core::transport::quic::QuicTransport;
use remote_network_sim::blobs::Blobs;
use remote_network_sim::disk::Journal;
use remote_network_sim::host::{Birth, BirthError, Core, Cryptography};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// What stands for mathematics here: see the simulator's null cryptography.
pub const REALM: [u8; 32] = [9; 32];
/// Actions of one call: a thousand tasks of one run may all change at once, and each may ask for something.
const ACTIONS_MAX: usize = 10_000;
/// Batches of datagrams of one call.
const TRANSMITS_MAX: usize = 10_000;
/// Requests to one port outstanding.
const REQUESTS_MAX: usize = 4_096;
/// Bytes of objects that fit.
const BLOB_BYTES_MAX: u64 = 4 << 20;

/// A node and all around it.
pub struct Host {
    /// Who it is.
    pub key: Keypair,
    /// Where it lives.
    pub addr: SocketAddr,
    /// Its core, while it is up.
    pub node: Option<Node<QuicTransport>>,
    /// What is durable.
    pub journal: Journal,
    /// What is not durable yet.
    pub pending: VecDeque<(Lsn, Vec<StoreOp>)>,
    /// Its objects.
    pub blobs: Blobs,
    /// How far its wall clock is off.
    pub wall_off_ms: i64,
    /// Object requests not answered.
    pub blob_ops: Vec<(OpId, BlobRequest)>,
    /// DHT operations not ended.
    pub dht_ops: Vec<(OpId, DhtRequest)>,
    /// Jobs the engine was told to start, and whether it was told to stop them.
    pub jobs: BTreeMap<JobId, (EngineJob, bool)>,
    /// Commands not answered.
    pub commands: BTreeMap<CommandId, Command>,
    /// Runs whose submission was acknowledged.
    pub runs: BTreeSet<RunId>,
    /// Whether its journal was made to fail.
    pub journal_failed: bool,
    last_lsn: Lsn,
    ops_seen: BTreeSet<OpId>,
    started_ns: u64,
    lives: u8,
    commands_given: u64,
}

impl Host {
    /// A node that was never started.
    pub fn new(key: Keypair, addr: SocketAddr) -> Self {
        Self {
            key,
            addr,
            node: None,
            journal: Journal::new(1),
            pending: VecDeque::new(),
            blobs: Blobs::new(BLOB_BYTES_MAX),
            wall_off_ms: 0,
            blob_ops: Vec::new(),
            dht_ops: Vec::new(),
            jobs: BTreeMap::new(),
            commands: BTreeMap::new(),
            runs: BTreeSet::new(),
            journal_failed: false,
            last_lsn: Lsn(0),
            ops_seen: BTreeSet::new(),
            started_ns: 0,
            lives: 0,
            commands_given: 0,
        }
    }

    /// Its own clock.
    pub fn now(&self, world_ns: u64) -> Instant {
        Instant::from_nanos(world_ns.saturating_sub(self.started_ns))
    }

    /// When it wants to be woken, on the world's clock.
    pub fn deadline_ns(&self) -> Option<u64> {
        let deadline = self.node.as_ref()?.poll_timeout()?;
        Some(self.started_ns.saturating_add(deadline.at.as_nanos()))
    }

    /// The id of a new command.
    pub fn command_id(&mut self) -> CommandId {
        self.commands_given += 1;
        CommandId(self.commands_given)
    }

    /// Starts it from its journal.
    pub fn rise(&mut self, world_ns: u64, wall: UnixTime) -> Result<(), BirthError> {
        self.lives = self.lives.wrapping_add(1);
        self.started_ns = world_ns;
        let own = self.key.public().as_bytes()[0];
        let seed = [own ^ self.lives; 32];
        let config = NodeConfig {
            topics: vec![DhtId([1; 20])],
            private_network: true,
            publish_private: true,
            ..NodeConfig::new(self.key.clone())
        };
        let journal = self.journal.restore();
        self.last_lsn = journal.last;
        let birth = Birth {
            config,
            journal,
            seed,
            wall,
            cryptography: Cryptography::Null { realm: REALM, seed, reset_secret: [own; 32] },
            quic_seed: seed,
            keep_alive: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            mtu_discovery: false,
            connections_max: 16,
        };
        self.node = Some(<Node<QuicTransport> as Core>::restore(birth)?);
        Ok(())
    }

    /// The core is gone, with what was under way but the first `kept` batches.
    pub fn crash(&mut self, kept: usize) {
        self.persist(kept);
        self.pending.clear();
        self.node = None;
        self.blob_ops.clear();
        self.dht_ops.clear();
        self.jobs.clear();
        self.commands.clear();
        self.ops_seen.clear();
        self.journal_failed = false;
    }

    /// Makes the oldest `count` batches durable; the last one's number, if there was one.
    pub fn persist(&mut self, count: usize) -> Option<Lsn> {
        let mut last = None;
        for (lsn, ops) in self.pending.drain(..count.min(self.pending.len())) {
            self.journal.apply(lsn, ops);
            last = Some(lsn);
        }
        last
    }

    /// Takes everything the core asks for.
    pub fn take_actions(&mut self) {
        for _ in 0..ACTIONS_MAX {
            let Some(action) = self.node.as_mut().and_then(Node::poll_action) else { return };
            self.take(action);
        }
        panic!("more than {ACTIONS_MAX} actions after one call");
    }

    /// Takes every datagram the core wants to send.
    pub fn take_datagrams(&mut self, world_ns: u64, mut send: impl FnMut(SocketAddr, &[u8])) {
        let now = self.now(world_ns);
        let Some(node) = &mut self.node else { return };
        let mut buf = Vec::new();
        for _ in 0..TRANSMITS_MAX {
            buf.clear();
            let Some(transmit) = node.poll_transmit(now, DATAGRAMS_PER_TRANSMIT, &mut buf) else { return };
            assert_eq!(transmit.size, buf.len());
            let segment = transmit.segment_size.unwrap_or(transmit.size).max(1);
            buf.chunks(segment).for_each(|bytes| send(transmit.to, bytes));
        }
        panic!("more than {TRANSMITS_MAX} batches of datagrams after one call");
    }

    fn take(&mut self, action: Action) {
        match action {
            Action::Persist { lsn, ops } => {
                assert_eq!(lsn.0, self.last_lsn.0 + 1, "batches are numbered without a gap");
                assert!(!ops.is_empty());
                self.last_lsn = lsn;
                self.pending.push_back((lsn, ops));
            }
            Action::Blob { op, request } => {
                assert!(self.ops_seen.insert(op), "{op:?} was used twice");
                self.blob_ops.push((op, request));
                assert!(self.blob_ops.len() <= REQUESTS_MAX);
            }
            Action::Dht { op, request } => self.take_dht(op, request),
            Action::Engine { job, request } => match request {
                EngineRequest::Start(start) => {
                    // Of a light job nothing is journaled at its executor.
                    let light = start.carried.is_some();
                    assert!(light || self.holds(Room::Job, &job.0), "{job:?} is started and not journaled");
                    self.jobs.entry(job).or_insert((start, false));
                    assert!(self.jobs.len() <= REQUESTS_MAX);
                }
                EngineRequest::Stop { .. } => {
                    if let Some((_, stopping)) = self.jobs.get_mut(&job) {
                        *stopping = true;
                    }
                }
            },
            Action::Sweep { keep } => assert!(keep.iter().all(|job| self.holds(Room::Job, &job.0))),
            Action::Reply { id, reply } => {
                let command = self.commands.remove(&id);
                let command = command.unwrap_or_else(|| panic!("{id:?} was answered twice, or never given"));
                self.answered(command, reply);
            }
            Action::Notify(_) | Action::Socket(_) | Action::Tunnel(_) | Action::Account(_) => {}
            Action::Stopped { fault } => {
                assert_eq!(fault.is_some(), self.journal_failed || !self.pending.is_empty(), "{fault:?}");
                self.crash(0);
            }
        }
    }

    fn take_dht(&mut self, op: OpId, request: DhtRequest) {
        if let DhtRequest::PutMutable { item, .. } = &request {
            assert_eq!(item::verify(item), Ok(()), "an item was published that would not be believed");
            assert!(
                self.journaled_seq() >= Some(item.seq),
                "a version was published before it was journaled"
            );
        }
        if request == DhtRequest::Cancel {
            return;
        }
        assert!(self.ops_seen.insert(op), "{op:?} was used twice");
        self.dht_ops.push((op, request));
        assert!(self.dht_ops.len() <= REQUESTS_MAX);
    }

    /// Nothing is acknowledged that the journal would not give back.
    fn answered(&mut self, command: Command, reply: Reply) {
        let service = |s: &Digest| self.holds(Room::Service, &s.0);
        match (command, reply) {
            (_, Reply::Error(_)) => {}
            (Command::Submit { run, .. }, Reply::Submitted(said)) => {
                assert_eq!(run, said);
                assert!(self.holds(Room::Run, &run.0), "{run:?} was acknowledged and not journaled");
                self.runs.insert(run);
            }
            (Command::AddService(s), Reply::Done) => assert!(self.pending_or(service(&s.id()), &s.id())),
            (Command::RemoveService(id), Reply::Done) => assert!(self.pending_or(!service(&id), &id)),
            (Command::Share { digest, .. }, Reply::Ticket(_)) => {
                assert!(self.holds(Room::Grant, &digest.0), "a ticket was given before its grant");
            }
            (Command::Fetch { digest, len, .. }, Reply::Done) => {
                // The engine and the fuzzer remove nothing, and the node nothing that a command has brought.
                let bytes = self.blobs.get(&digest);
                assert!(bytes.is_some_and(|b| b.len() as u64 == len), "{digest:?} was said to be here");
            }
            (Command::Runs, Reply::Runs(views)) => {
                let known: BTreeSet<RunId> = views.iter().map(|v| v.run).collect();
                assert!(self.runs.is_subset(&known), "an acknowledged run is gone");
            }
            (Command::Run(run), Reply::Run(view)) => assert_eq!(view.run, run),
            (
                Command::Status
                | Command::Peers
                | Command::Peer(_)
                | Command::Connect { .. }
                | Command::Services
                | Command::Plan(_)
                | Command::Cancel(_)
                | Command::Pause { .. }
                | Command::Block { .. }
                | Command::Keep { .. }
                | Command::KeepTree { .. }
                | Command::Relay
                | Command::RelayDisconnect(_)
                | Command::Shutdown,
                _,
            ) => {}
            (command, reply) => panic!("{command:?} was answered by {reply:?}"),
        }
    }

    /// `durable`, unless a later change of the same service is under way already.
    fn pending_or(&self, durable: bool, service: &Digest) -> bool {
        let subject = Subject::new(Room::Service, &service.0);
        durable
            || self.journal_changed(&subject)
            || self.pending.iter().any(|(_, ops)| ops.iter().any(|op| *op.subject() == subject))
    }

    /// Whether commands for this service crossed, so that the journal's last word is another one's.
    fn journal_changed(&self, subject: &Subject) -> bool {
        self.commands.values().any(|command| match command {
            Command::AddService(s) => s.id().0[..] == subject.key[..],
            Command::RemoveService(id) => id.0[..] == subject.key[..],
            _ => false,
        })
    }

    fn holds(&self, room: Room, key: &[u8]) -> bool {
        let subject = Subject::new(room, key);
        self.journal.restore().records.iter().any(|r| r.subject == subject)
    }

    fn journaled_seq(&self) -> Option<u64> {
        let records = self.journal.restore().records;
        let publisher = records.iter().filter(|r| r.subject.room == Room::Publisher);
        publisher.filter_map(|r| Dict::decode(&r.record, 1_024).ok()?.u64("seq").ok()).max()
    }
}
