//! Whole nodes under sequences of operations: two or three cores on real QUIC over a hostile wire, with a stranger among
//! them, ports that fail and lie, a journal that is late, crashes at any point and clocks that jump. What must hold after
//! every step is said in [`remote_network_fuzz::world`]; at the end, when everything works again, every command of a node
//! that is still up is answered.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use remote_network_core::command::Command;
use remote_network_core::event::Event;
use remote_network_core::id::{Digest, PeerName, PublicKey, RunId};
use remote_network_core::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use remote_network_core::port::{DhtEvent, EngineLimits, Port, Program};
use remote_network_core::service::details::Details;
use remote_network_core::service::{Mount, MountDirection, Service, Visibility};
use remote_network_core::ticket::Ticket;
use remote_network_core::time::{Duration, UnixTime};
use remote_network_fuzz::keys::keypair;
use remote_network_fuzz::world::ports::{self, BlobFate, DhtFate, EngineFate};
use remote_network_fuzz::world::stranger::{self, Words};
use remote_network_fuzz::world::{Fate, World, addr};

const STEPS_MAX: usize = 120;
/// Wakes within one step of time: an hour of heartbeats of three nodes is more, and says no more.
const WAKES_MAX: usize = 400;
/// Everything a command may wait for is shorter than this.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20 * 60);

#[derive(Arbitrary, Debug)]
struct Input {
    start: Start,
    steps: Vec<Step>,
}

/// How far the world is when the steps begin: what every interesting sequence would have to find out first.
#[derive(Arbitrary, Debug)]
struct Start {
    three: bool,
    services: bool,
    connected: bool,
    stranger: bool,
    run: Option<Flow>,
    settle_s: u8,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Command { host: u8, command: Ask },
    Deliver { count: u8 },
    Lose,
    Repeat,
    Delay,
    Alter { at: u16, xor: u8 },
    Inject { host: u8, from: u8, bytes: Vec<u8> },
    Pass { ms: u16 },
    PassLong { s: u16 },
    Clock { host: u8, s: i16 },
    Persist { host: u8, batches: u8 },
    PersistAgain { host: u8 },
    PersistFails { host: u8 },
    Blob { host: u8, which: u8, fate: BlobFate },
    Dht { host: u8, which: u8, fate: DhtFate },
    Health { host: u8, reachable: bool },
    Engine { host: u8, which: u8, fate: EngineFate },
    Crash { host: u8, kept: u8 },
    Rise { host: u8 },
    Rebind { host: u8, extra: bool },
    Settle { s: u8, events: u16 },
    Put { host: u8, object: u8 },
    StrangerDials { host: u8 },
    Stranger { words: Words },
}

/// A command, with numbers that choose among the few names of this world.
#[derive(Arbitrary, Debug)]
enum Ask {
    Status,
    Peers,
    Peer { peer: u8 },
    Connect { peer: u8, addr: Option<u8> },
    AddService { service: u8 },
    RemoveService { service: u8 },
    Services,
    Plan { workflow: Flow },
    Submit { run: u8, workflow: Flow },
    Runs,
    Run { run: u8 },
    Cancel { run: u8 },
    Share { object: u8, consumer: u8, valid_s: u16 },
    Fetch { object: u8, from: u8, signer: u8, wrong_len: bool },
    Shutdown,
}

/// A chain of tasks with side branches.
#[derive(Arbitrary, Debug)]
struct Flow {
    tasks: Vec<FlowTask>,
    source: u8,
}

#[derive(Arbitrary, Debug)]
struct FlowTask {
    service: u8,
    peer: Option<u8>,
    from: u8,
    retries: u8,
    timeout_s: Option<u8>,
}

/// Objects of the world: small ones, and one of two pieces.
fn objects() -> Vec<Bytes> {
    let large: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    vec![Bytes::from_static(b"in"), Bytes::from_static(b"module"), Bytes::new(), Bytes::from(large)]
}

fn object(which: u8) -> Bytes {
    objects().swap_remove(usize::from(which) % 4)
}

fn service(which: u8) -> Service {
    let visibility = match which % 4 {
        0 | 1 => Visibility::Everyone,
        2 => Visibility::OnlyMe,
        _ => Visibility::Listed(vec![keypair(0).public()]),
    };
    let mount = |name: &str, direction| Mount { name: name.to_owned(), direction, path: None };
    Service {
        name: ["count", "merge", "secret", "listed"][usize::from(which) % 4].to_owned(),
        description: String::new(),
        version: "1".to_owned(),
        program: Program::Wasm(Digest::of(&object(1))),
        module_len: 6,
        stdin: true,
        mounts: vec![mount("out", MountDirection::Out)],
        limits: EngineLimits { memory_bytes: 1 << 20, time_ms: 10_000, output_bytes: 1 << 20 },
        visibility,
        details: Details::default(),
    }
}

fn peer(which: u8) -> PublicKey {
    // The nodes, the stranger, and one that does not exist.
    keypair([0, 1, 2, 5, 4][usize::from(which) % 5]).public()
}

fn run(which: u8) -> RunId {
    RunId([which % 4; 16])
}

fn workflow(flow: &Flow) -> Workflow {
    let source = object(flow.source);
    let object = ObjectRef { digest: Digest::of(&source), len: source.len() as u64 };
    let mut nodes = vec![("source".to_owned(), NodeKind::Source(vec![object]))];
    let mut edges = Vec::new();
    let end = |node: &str, port| End { node: node.to_owned(), port };
    for (i, task) in flow.tasks.iter().take(4).enumerate() {
        let id = format!("t{i}");
        let from = match usize::from(task.from) % (i + 1) {
            0 => "source".to_owned(),
            n => format!("t{}", n - 1),
        };
        edges.push(Edge { from: end(&from, Port::Stdout), to: end(&id, Port::Stdin) });
        let spec = TaskSpec {
            service: service(task.service).name,
            peers: task.peer.map(peer).into_iter().collect(),
            retries: u32::from(task.retries % 4),
            timeout_ms: task.timeout_s.map(|s| u64::from(s) * 1_000),
            ..TaskSpec::default()
        };
        nodes.push((id, NodeKind::Task(spec)));
    }
    let last = nodes.last().map(|(id, _)| id.clone()).unwrap_or_default();
    edges.push(Edge { from: end(&last, Port::Stdout), to: end("sink", Port::Stdin) });
    nodes.push(("sink".to_owned(), NodeKind::Sink));
    Workflow { name: "fuzzed".to_owned(), nodes, edges, ..Workflow::default() }
}

fn command(ask: Ask) -> Command {
    match ask {
        Ask::Status => Command::Status,
        Ask::Peers => Command::Peers,
        Ask::Peer { peer: p } => Command::Peer(PeerName::Id(peer(p).peer_id())),
        Ask::Connect { peer: p, addr: at } => Command::Connect {
            peer: PeerName::Key(peer(p)),
            addr: at.map(|n| if n % 5 == 4 { stranger::addr() } else { addr(usize::from(n) % 5) }),
        },
        Ask::AddService { service: s } => Command::AddService(Box::new(service(s))),
        Ask::RemoveService { service: s } => Command::RemoveService(service(s).id()),
        Ask::Services => Command::Services,
        Ask::Plan { workflow: w } => Command::Plan(Box::new(workflow(&w))),
        Ask::Submit { run: r, workflow: w } => {
            Command::Submit { run: run(r), workflow: Box::new(workflow(&w)) }
        }
        Ask::Runs => Command::Runs,
        Ask::Run { run: r } => Command::Run(run(r)),
        Ask::Cancel { run: r } => Command::Cancel(run(r)),
        Ask::Share { object: o, consumer, valid_s } => Command::Share {
            digest: Digest::of(&object(o)),
            consumer: peer(consumer),
            valid: Duration::from_secs(u64::from(valid_s)),
        },
        Ask::Fetch { object: o, from, signer, wrong_len } => {
            let bytes = object(o);
            let digest = Digest::of(&bytes);
            let until = UnixTime::from_millis(u64::MAX);
            let ticket = Ticket::sign(&keypair(signer), digest, peer(0), until);
            Command::Fetch {
                digest,
                len: bytes.len() as u64 + u64::from(wrong_len),
                from: peer(from),
                ticket: ticket.encode().into(),
            }
        }
        Ask::Shutdown => Command::Shutdown,
    }
}

fn step(world: &mut World, step: Step) {
    let n = |host: u8| usize::from(host) % world.hosts.len();
    match step {
        Step::Command { host, command: ask } => {
            let n = n(host);
            let id = world.hosts[n].command_id();
            world.tell(n, Event::Command { id, command: command(ask) });
        }
        Step::Deliver { count } => {
            for _ in 0..=count {
                world.deliver();
            }
        }
        Step::Lose => drop(world.wire.pop_front()),
        Step::Repeat => world.wire.extend(world.wire.front().cloned()),
        Step::Delay => {
            if let Some(first) = world.wire.pop_front() {
                world.wire.push_back(first);
            }
        }
        Step::Alter { at, xor } => {
            if let Some((_, _, bytes)) = world.wire.front_mut() {
                let at = usize::from(at) % bytes.len().max(1);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= xor);
            }
        }
        Step::Inject { host, from, bytes } => {
            world.arrive(addr(usize::from(from % 8)), addr(n(host)), &bytes);
        }
        Step::Pass { ms } => world.pass(world.now_ns + u64::from(ms) * 1_000_000, WAKES_MAX),
        Step::PassLong { s } => world.pass(world.now_ns + u64::from(s) * 1_000_000_000, WAKES_MAX),
        Step::Clock { host, s } => {
            let n = n(host);
            world.hosts[n].wall_off_ms += i64::from(s) * 1_000;
        }
        Step::Persist { host, batches } => {
            let n = n(host);
            if let Some(up_to) = world.hosts[n].persist(usize::from(batches % 8) + 1) {
                world.tell(n, Event::Persisted { up_to });
            }
        }
        Step::PersistAgain { host } => {
            let n = n(host);
            let up_to = world.hosts[n].journal.durable();
            world.tell(n, Event::Persisted { up_to });
        }
        Step::PersistFails { host } => {
            let n = n(host);
            if world.hosts[n].node.is_some() {
                world.hosts[n].journal_failed = true;
                world.tell(n, Event::PersistFailed { why: "no space left".to_owned() });
                assert!(world.hosts[n].node.is_none(), "it goes on without a journal");
            }
        }
        Step::Health { host, reachable } => {
            world.tell(n(host), Event::Dht(DhtEvent::Health { table_len: 1, reachable }));
        }
        Step::Crash { host, kept } => world.crash(n(host), usize::from(kept % 8)),
        Step::Rise { host } => {
            let n = n(host);
            if world.hosts[n].node.is_none() {
                world.rise(n).expect("what a node wrote is accepted again");
            }
        }
        Step::Rebind { host, extra } => {
            let n = n(host);
            let mut addrs = vec![world.hosts[n].addr];
            addrs.extend(extra.then(|| addr(7)));
            world.tell(n, Event::LocalAddrs(addrs));
        }
        Step::Settle { s, events } => {
            world.settle(Fate::Honest, Duration::from_secs(u64::from(s)), usize::from(events));
        }
        Step::Put { host, object: o } => {
            // A full store is the fuzzer's own doing.
            let n = n(host);
            let _ = world.hosts[n].blobs.put(object(o));
        }
        Step::StrangerDials { host } => {
            let (n, now) = (n(host), world.now());
            let (key, at) = (world.hosts[n].key.public(), world.hosts[n].addr);
            world.stranger.dial(now, key, at);
            world.look_at_stranger();
        }
        Step::Stranger { words } => {
            let now = world.now();
            let services: Vec<Service> = (0..4).map(service).collect();
            let objects: Vec<Digest> = objects().iter().map(|o| Digest::of(o)).collect();
            world.stranger.say(now, &words, &services, &objects);
            world.look_at_stranger();
        }
        Step::Blob { .. } | Step::Dht { .. } | Step::Engine { .. } => answer(world, step),
    }
}

fn answer(world: &mut World, step: Step) {
    let (host, which) = match step {
        Step::Blob { host, which, .. } | Step::Dht { host, which, .. } | Step::Engine { host, which, .. } => {
            (usize::from(host) % world.hosts.len(), usize::from(which))
        }
        _ => return,
    };
    let node = &mut world.hosts[host];
    let events = match step {
        Step::Blob { fate, .. } => ports::blob(node, which, fate),
        Step::Dht { fate, .. } => ports::dht(node, &mut world.dht, which, fate),
        Step::Engine { fate, .. } => ports::engine(node, which, fate),
        _ => None,
    };
    for event in events.into_iter().flatten() {
        world.tell(host, event);
    }
}

fn begin(start: Start) -> World {
    let mut world = World::new(if start.three { 3 } else { 2 });
    let mut steps = Vec::new();
    for n in 0..world.hosts.len() {
        for object in objects().into_iter().take(2) {
            world.hosts[n].blobs.put(object).expect("there is room");
        }
        world.rise(n).expect("an empty journal");
        let host = n as u8;
        let mut ask = |command| steps.push(Step::Command { host, command });
        if start.services {
            ask(Ask::AddService { service: host });
        }
        if start.connected {
            ask(Ask::Connect { peer: 0, addr: Some(0) });
        }
    }
    if start.stranger {
        let say = |words| Step::Stranger { words };
        steps.push(Step::StrangerDials { host: 0 });
        steps.push(Step::Settle { s: 2, events: 500 });
        let words = [Words::Identity { honest: true }, Words::KnownPeers { keys: Vec::new() }];
        steps.extend(words.map(say));
        steps.push(say(Words::Offer { services: 3 }));
    }
    steps.push(Step::Settle { s: 2, events: 2_000 });
    if let Some(workflow) = start.run {
        let command = Ask::Submit { run: 0, workflow };
        steps.push(Step::Command { host: 0, command });
        steps.push(Step::Settle { s: start.settle_s % 8, events: u16::from(start.settle_s) * 4 });
    }
    steps.into_iter().for_each(|next| step(&mut world, next));
    world
}

fn unanswered(world: &World) -> Vec<String> {
    let up = world.hosts.iter().filter(|h| h.node.is_some());
    up.flat_map(|h| h.commands.values()).map(|c| format!("{c:?}")).collect()
}

fuzz_target!(|input: Input| {
    let mut world = begin(input.start);
    for next in input.steps.into_iter().take(STEPS_MAX) {
        step(&mut world, next);
    }
    let end_ns = world.now_ns + ANSWERED_WITHIN.as_nanos() as u64;
    while !unanswered(&world).is_empty() && world.now_ns < end_ns {
        let before_ns = world.now_ns;
        world.settle(Fate::Honest, Duration::from_secs(1), 100_000);
        world.pass(world.now_ns.max(before_ns + 1_000_000_000), WAKES_MAX);
    }
    assert!(unanswered(&world).is_empty(), "never answered: {:#?}", unanswered(&world));
    for n in 0..world.hosts.len() {
        world.crash(n, 0);
        world.rise(n).expect("what a node wrote is accepted again");
    }
});
