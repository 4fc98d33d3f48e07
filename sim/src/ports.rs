//! The ports of a real-time node, in memory: for tests of drivers.
//!
//! A driver's test wants a whole node on a real socket and nothing else real: no database, no files, no public DHT, no
//! sandbox. [`MemoryPorts`] is the [`ActionSink`] of such a node. It answers every action of the core before
//! [`ActionSink::submit`] returns, into the driver's event channel: no threads, no timers, no latency, so that whatever
//! a test waits for is the driver's doing. The rules are the simulator's own: its journal and objects ([`crate::disk`]),
//! its DHT ([`crate::dht`], perfect and shared by all nodes of a test) and its engine ([`crate::engine`]).
//!
//! A node's life is one `MemoryPorts`; its [`MemoryDisk`] outlives it. So a crash is: drop the driver and everything in
//! it, and build another on the same disk. What was submitted is durable at once; crash points between asking for a
//! commit and its end are the simulator's business.

use crate::blobs::Blobs;
use crate::dht::{Dht, DhtSpec};
use crate::disk::Journal;
use crate::draw::Draw;
use crate::engine::{Engine, EngineSpec};
use crate::net::HostId;
use crate::world::Said;
use async_channel::{Receiver, Sender, TrySendError};
use bytes::Bytes;
use remote_network_core::action::{Action, ActionSink};
use remote_network_core::event::Event;
use remote_network_core::id::{Digest, JobId, OpId};
use remote_network_core::node::Journal as Restored;
use remote_network_core::port::{
    BlobFailed, DhtRequest, EngineEvent, EngineExit, EngineReport, EngineRequest,
};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Capacity of [`events`]: more than all answers that the core's limits let it wait for at once, and a burst of commands
/// besides. The ports cannot wait for room, for they run inside the driver that would make it.
pub const EVENTS_MAX: usize = 8_192;
/// Capacity of [`inbox`]. Beyond it notices are dropped, as for any slow observer.
pub const SAID_MAX: usize = 65_536;
/// Bytes of objects that fit on a disk.
const BLOB_BYTES_MAX: u64 = 1 << 30;
/// The ports' clock stands still: nothing expires while a test runs.
const NOW_NS: u64 = 0;

/// The channel by which ports and tests reach a driver.
pub fn events() -> (Sender<Event>, Receiver<Event>) {
    async_channel::bounded(EVENTS_MAX)
}

/// The channel by which a test hears what cores say: one for each node, or one for all, since [`Said`] names its node.
pub fn inbox() -> (Sender<Said>, Receiver<Said>) {
    async_channel::bounded(SAID_MAX)
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked while it held the lock has failed already; others need not fail for it.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Kept {
    journal: Journal,
    blobs: Blobs,
    engine: Engine,
}

/// What of a machine outlives its node: journal and objects. A handle: clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk(Arc<Mutex<Kept>>);

impl MemoryDisk {
    /// An empty disk. The seed gives the journal its id, which stands for the installation.
    pub fn new(seed: u64) -> Self {
        let mut draw = Draw::derive(seed, "memory disk", 0);
        Self(Arc::new(Mutex::new(Kept {
            journal: Journal::new(draw.next_u64()),
            blobs: Blobs::new(BLOB_BYTES_MAX),
            engine: Engine::new(EngineSpec::default(), draw),
        })))
    }

    /// What a node is restored from.
    pub fn journal(&self) -> Restored {
        lock(&self.0).journal.restore()
    }

    /// Puts a whole object there, as an importing user does.
    pub fn put(&self, bytes: Bytes) -> Result<Digest, BlobFailed> {
        lock(&self.0).blobs.put(bytes).map(|(digest, _)| digest)
    }

    /// The bytes of a whole object.
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        lock(&self.0).blobs.get(digest)
    }

    /// How good the engine of this machine is from now on. A job that hangs runs until it is stopped or its node
    /// crashes: there is no clock that could end it.
    pub fn set_engine(&self, spec: EngineSpec) {
        lock(&self.0).engine.spec = spec;
    }
}

/// The DHT that all nodes of a test share. A handle: clones are the same DHT.
#[derive(Clone)]
pub struct MemoryDht(Arc<Mutex<Dht>>);

impl MemoryDht {
    /// An empty DHT that never fails.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Dht::new(seed, DhtSpec::PERFECT))))
    }
}

/// Answers every action of one node's life from memory. See the module.
pub struct MemoryPorts {
    host: HostId,
    address: SocketAddr,
    disk: MemoryDisk,
    dht: MemoryDht,
    events: Sender<Event>,
    said: Sender<Said>,
}

impl MemoryPorts {
    /// The ports of a node that starts now at `address`: what an earlier life left running is gone, and the node hears
    /// that the DHT is there.
    pub fn new(
        host: HostId,
        address: SocketAddr,
        disk: MemoryDisk,
        dht: MemoryDht,
        events: Sender<Event>,
        said: Sender<Said>,
    ) -> Self {
        lock(&disk.0).engine.crash();
        let ports = Self { host, address, disk, dht, events, said };
        ports.tell(Event::Dht(lock(&ports.dht.0).health()));
        ports
    }

    /// # Panics
    /// When the channel is full: the core asked for more than its limits allow, or the test gave too many commands.
    fn tell(&self, event: Event) {
        match self.events.try_send(event) {
            // A driver that has ended hears nothing more.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(event)) => panic!("{EVENTS_MAX} events wait, no room for {event:?}"),
        }
    }

    /// # Panics
    /// When a reply finds the inbox full: it must not be lost, and nobody reads.
    fn say(&self, said: Said) {
        match self.said.try_send(said) {
            Ok(()) | Err(TrySendError::Closed(_) | TrySendError::Full(Said::Notice(..))) => {}
            Err(TrySendError::Full(said)) => panic!("{SAID_MAX} things said, no room for {said:?}"),
        }
    }

    fn ask_dht(&self, op: OpId, request: DhtRequest) {
        // An operation has ended before anybody can cancel it; its end is on its way to the core.
        if request != DhtRequest::Cancel {
            lock(&self.dht.0).begin(NOW_NS, self.address, op, request, |_, event| {
                self.tell(Event::Dht(event));
            });
        }
    }

    fn ask_engine(&self, job: JobId, request: EngineRequest) {
        let mut kept = lock(&self.disk.0);
        let Kept { blobs, engine, .. } = &mut *kept;
        let report = |event| self.tell(Event::Engine(EngineReport { job, event }));
        let end: Option<EngineExit> = match request {
            EngineRequest::Start(order) => {
                let Some(course) = engine.start(NOW_NS, job, order, blobs) else { return };
                if course.started_ns.is_some() {
                    report(EngineEvent::Started);
                }
                if engine.hangs(job) {
                    return;
                }
                engine.finish(course.ends_ns, job, course.serial, blobs)
            }
            EngineRequest::Stop { grace } => engine
                .stop(NOW_NS, job, grace)
                .and_then(|(serial, at_ns)| engine.finish(at_ns, job, serial, blobs)),
        };
        if let Some(exit) = end {
            report(EngineEvent::Exited(exit));
        }
    }
}

impl ActionSink for MemoryPorts {
    fn submit(&mut self, action: Action) {
        match action {
            Action::Persist { lsn, ops } => {
                lock(&self.disk.0).journal.apply(lsn, ops);
                self.tell(Event::Persisted { up_to: lsn });
            }
            Action::Dht { op, request } => self.ask_dht(op, request),
            Action::Blob { op, request } => {
                let result = lock(&self.disk.0).blobs.answer(request);
                self.tell(Event::Blob { op, result });
            }
            Action::Engine { job, request } => self.ask_engine(job, request),
            Action::Sweep { .. } | Action::Socket(_) | Action::Tunnel(_) | Action::Account(_) => {}
            Action::Reply { id, reply } => self.say(Said::Reply(self.host, id, reply)),
            Action::Notify(notice) => self.say(Said::Notice(self.host, notice)),
            Action::Stopped { fault } => self.say(Said::Stopped(self.host, fault)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::expected_output;
    use remote_network_core::command::{Notice, Reply};
    use remote_network_core::id::{CommandId, DhtId, Lsn};
    use remote_network_core::port::{
        AnnouncePort, BlobAnswer, BlobRequest, DhtEvent, EngineInput, EngineJob, EngineLimits, ExitClass,
        Port, Program,
    };
    use remote_network_core::store::{Room, StoreOp, Subject};
    use std::time::Duration;

    struct Life {
        ports: MemoryPorts,
        events: Receiver<Event>,
    }

    fn live(host: HostId, disk: &MemoryDisk, dht: &MemoryDht) -> Life {
        let ((events_in, events), (said_in, _)) = (events(), inbox());
        let address = ([127, 0, 0, 1], 1_000 + host as u16).into();
        let ports = MemoryPorts::new(host, address, disk.clone(), dht.clone(), events_in, said_in);
        assert!(matches!(events.try_recv(), Ok(Event::Dht(DhtEvent::Health { reachable: true, .. }))));
        Life { ports, events }
    }

    impl Life {
        fn ask(&mut self, action: Action) -> Vec<Event> {
            self.ports.submit(action);
            std::iter::from_fn(|| self.events.try_recv().ok()).collect()
        }

        fn exits(&mut self, job: JobId, request: EngineRequest) -> Vec<ExitClass> {
            let events = self.ask(Action::Engine { job, request });
            let class = |e: Event| match e {
                Event::Engine(EngineReport { event: EngineEvent::Exited(exit), .. }) => Some(exit.class),
                _ => None,
            };
            events.into_iter().filter_map(class).collect()
        }
    }

    fn job(disk: &MemoryDisk) -> EngineJob {
        let module = disk.put(Bytes::from_static(b"module")).unwrap();
        let digest = disk.put(Bytes::from_static(b"input")).unwrap();
        EngineJob {
            tenant: remote_network_core::id::Keypair::from_seed(&[1; 32]).public(),
            program: Program::Wasm(module),
            paths: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            inputs: vec![EngineInput { port: Port::Stdin, digest, len: 5 }],
            outputs: vec![Port::Stdout],
            limits: EngineLimits { memory_bytes: 1 << 20, time_ms: 10_000, output_bytes: 1 << 20 },
            seed: [0; 32],
        }
    }

    #[test]
    fn the_journal_and_the_objects_outlive_the_node() {
        let (disk, dht) = (MemoryDisk::new(1), MemoryDht::new(1));
        let mut first = live(0, &disk, &dht);
        let op = StoreOp::Append { subject: Subject::new(Room::Run, b"r"), record: Bytes::from_static(b"x") };
        let told = first.ask(Action::Persist { lsn: Lsn(1), ops: vec![op] });
        assert_eq!(told, [Event::Persisted { up_to: Lsn(1) }]);
        let digest = disk.put(Bytes::from_static(b"object")).unwrap();
        drop(first);
        let restored = disk.journal();
        assert_eq!((restored.last, restored.records.len()), (Lsn(1), 1));
        let mut second = live(0, &disk, &dht);
        let told = second
            .ask(Action::Blob { op: OpId(1), request: BlobRequest::Read { digest, offset: 2, len: 3 } });
        let bytes = BlobAnswer::Bytes(Bytes::from_static(b"jec"));
        assert_eq!(told, [Event::Blob { op: OpId(1), result: Ok(bytes) }]);
        assert_ne!(MemoryDisk::new(2).journal().id, restored.id);
    }

    #[test]
    fn what_one_node_announces_another_finds_and_every_operation_ends_once() {
        let dht = MemoryDht::new(1);
        let mut a = live(0, &MemoryDisk::new(1), &dht);
        let mut b = live(1, &MemoryDisk::new(2), &dht);
        let topic = DhtId([7; 20]);
        let announce = DhtRequest::Announce { topic, port: AnnouncePort::Explicit(99) };
        let told = a.ask(Action::Dht { op: OpId(1), request: announce });
        assert!(matches!(&told[..], [Event::Dht(DhtEvent::Done { op: OpId(1), result: Ok(_) })]));
        let told = b.ask(Action::Dht { op: OpId(2), request: DhtRequest::GetPeers { topic } });
        let (last, peers) = told.split_last().unwrap();
        assert!(matches!(last, Event::Dht(DhtEvent::Done { op: OpId(2), result: Ok(_) })));
        let found: Vec<SocketAddr> = vec![([127, 0, 0, 1], 99).into()];
        assert!(!peers.is_empty());
        assert!(
            peers.iter().all(|e| *e == Event::Dht(DhtEvent::Peers { op: OpId(2), addrs: found.clone() }))
        );
        assert!(b.ask(Action::Dht { op: OpId(2), request: DhtRequest::Cancel }).is_empty());
    }

    #[test]
    fn a_job_ends_at_once_with_what_the_formula_gives_and_a_hanging_one_when_it_is_stopped() {
        let (disk, dht) = (MemoryDisk::new(1), MemoryDht::new(1));
        let mut node = live(0, &disk, &dht);
        let order = job(&disk);
        assert_eq!(node.exits(JobId([1; 16]), EngineRequest::Start(order.clone())), [ExitClass::Success]);
        let inputs = [(Port::Stdin, order.inputs[0].digest)];
        let output = expected_output(&order.program.digest(), &[], &inputs, &Port::Stdout);
        assert_eq!(disk.get(&Digest::of(&output)), Some(output));
        disk.set_engine(EngineSpec { hang_ppm: 1_000_000, ..EngineSpec::default() });
        let hanging = JobId([2; 16]);
        assert!(node.exits(hanging, EngineRequest::Start(order.clone())).is_empty());
        let stop = EngineRequest::Stop { grace: Duration::from_secs(5) };
        assert_eq!(node.exits(hanging, stop.clone()), [ExitClass::Cancelled]);
        assert!(node.exits(hanging, stop.clone()).is_empty(), "it ends once");
        assert!(node.exits(hanging, EngineRequest::Start(order)).is_empty());
        let mut next_life = live(0, &disk, &dht);
        assert!(next_life.exits(hanging, stop).is_empty(), "a crash ends what ran");
    }

    #[test]
    fn replies_and_the_end_reach_the_inbox_and_notices_too_many_are_dropped() {
        let (events_in, _events) = events();
        let (said_in, said) = async_channel::bounded(2);
        let address = ([127, 0, 0, 1], 1).into();
        let (disk, dht) = (MemoryDisk::new(1), MemoryDht::new(1));
        let mut ports = MemoryPorts::new(7, address, disk, dht, events_in, said_in);
        let notice = Notice::Published { seq: 1, stored: 8 };
        ports.submit(Action::Reply { id: CommandId(3), reply: Reply::Done });
        (0..3).for_each(|_| ports.submit(Action::Notify(notice.clone())));
        assert_eq!(said.try_recv(), Ok(Said::Reply(7, CommandId(3), Reply::Done)));
        ports.submit(Action::Stopped { fault: None });
        assert_eq!(said.try_recv(), Ok(Said::Notice(7, notice)));
        assert_eq!(said.try_recv(), Ok(Said::Stopped(7, None)));
    }

    #[test]
    #[should_panic(expected = "no room for")]
    fn a_reply_that_finds_no_room_is_not_lost_silently() {
        let (said_in, _said) = async_channel::bounded(1);
        let (disk, dht) = (MemoryDisk::new(1), MemoryDht::new(1));
        let mut ports = MemoryPorts::new(0, ([127, 0, 0, 1], 1).into(), disk, dht, events().0, said_in);
        (0..2).for_each(|id| ports.submit(Action::Reply { id: CommandId(id), reply: Reply::Done }));
    }
}
