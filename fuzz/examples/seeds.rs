//! Writes the valid seeds of the corpora: `cargo +nightly run --release --example seeds` in `fuzz/`. They are what the
//! product itself writes, signed by the keys that the targets know; regressions and what fuzzing found stay as they are.

use remote_network_core::codec::{Dict, Frame, Value, compact_addr};
use remote_network_core::command::{Command, RunState};
use remote_network_core::dht::item;
use remote_network_core::dht::record::{Attachment, MachineSummary, NodeRecord, RecordContent, RelayOffer};
use remote_network_core::event::Event;
use remote_network_core::id::{Digest, JobId, PeerName, RunId};
use remote_network_core::identity::seek::{Seek, Seen};
use remote_network_core::job::held::JobRecord;
use remote_network_core::job::message::{JobState, Message, Refusal, Source};
use remote_network_core::job::order::Order;
use remote_network_core::job::plan::Plan;
use remote_network_core::job::receipt::{Bundle, Commit, Receipt, Verdict, result_digest};
use remote_network_core::job::run::RunRecord;
use remote_network_core::job::signed::{Signed, Statement};
use remote_network_core::job::validate;
use remote_network_core::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use remote_network_core::manifest::{Entry, Manifest};
use remote_network_core::port::{EngineInput, EngineLimits, EngineOutput, ExitClass, Layout, Port, Program, Usage};
use remote_network_core::service::details::Details;
use remote_network_core::service::offers::Offerings;
use remote_network_core::service::{Mount, MountDirection, Service, Visibility, catalogue};
use remote_network_core::store::Room;
use remote_network_core::ticket::Ticket;
use remote_network_core::time::{Duration, UnixTime};
use remote_network_core::transfer::message::{Fetch, Head, PieceRanges, Refused, RefusedCode};
use remote_network_fuzz::keys::keypair;
use remote_network_fuzz::world::{Fate, World, addr};
use std::fs;
use std::path::Path;

const AT: UnixTime = UnixTime::from_secs(1_767_225_600);

fn write(target: &str, name: &str, parts: &[&[u8]]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), parts.concat())
}

fn service() -> Service {
    let mount = |name: &str, direction| Mount { name: name.to_owned(), direction, path: None, layout: Layout::Files };
    Service {
        name: "count".to_owned(),
        description: "Counts words".to_owned(),
        version: "1.0.0".to_owned(),
        program: Program::Wasm(Digest::of(b"module")),
        module_len: 6,
        stdin: true,
        mounts: vec![mount("out", MountDirection::Out)],
        limits: EngineLimits { memory_bytes: 1 << 20, time_ms: 10_000, output_bytes: 1 << 20 },
        visibility: Visibility::Everyone,
        details: Details::default(),
    }
}

/// Node 0 asks node 1, or itself.
fn order(executor: u8) -> Signed<Order> {
    let order = Order {
        requester: keypair(0).public(),
        executor: keypair(executor).public(),
        run: RunId([1; 16]),
        spec: Digest::of(b"spec"),
        task: "count".to_owned(),
        fence: 1,
        service: service().id(),
        program: service().program,
        paths: service().paths(),
        args: vec!["-n".to_owned()],
        env: vec![("LANG".to_owned(), "C".to_owned())],
        inputs: vec![EngineInput { port: Port::Stdin, digest: Digest::of(b"in"), len: 2 }],
        outputs: vec![Port::Stdout, Port::Mount("out".to_owned())],
        limits: service().limits,
        light: false,
        pledge: false,
        nonce: [9; 16],
        issued: AT,
    };
    Signed::sign(order, &keypair(0))
}

fn receipt(order: &Signed<Order>, executor: u8) -> Signed<Receipt> {
    let output = |port: &Port| EngineOutput {
        port: port.clone(),
        digest: Digest::of(b"out"),
        len: 3,
        truncated: false,
    };
    let outputs: Vec<EngineOutput> = order.outputs.iter().map(output).collect();
    let receipt = Receipt {
        executor: keypair(executor).public(),
        incarnation: 1,
        seq: 1,
        previous: Digest([0; 32]),
        order: order.digest(),
        job: order.job(),
        engine: "seed 1".to_owned(),
        program: order.program.clone(),
        class: ExitClass::Success,
        code: 0,
        detail: String::new(),
        result: result_digest(ExitClass::Success, 0, &outputs),
        outputs,
        usage: Usage { cpu_ns: 1, fuel: 2, memory_bytes: 3, wall_ms: 4 },
        started: AT,
        ended: AT,
    };
    Signed::sign(receipt, &keypair(executor))
}

fn commit(order: &Signed<Order>, receipt: &Signed<Receipt>) -> Signed<Commit> {
    let commit = Commit {
        requester: keypair(0).public(),
        job: order.job(),
        order: order.digest(),
        receipt: receipt.digest(),
        verdict: Verdict::Won,
        at: AT,
    };
    Signed::sign(commit, &keypair(0))
}

fn ticket() -> Ticket {
    Ticket::sign(&keypair(0), Digest::of(b"in"), keypair(1).public(), AT)
}

fn workflow() -> Workflow {
    let end = |node: &str, port| End { node: node.to_owned(), port };
    let task = TaskSpec {
        service: "count".to_owned(),
        peers: vec![keypair(0).public()],
        args: vec!["-n".to_owned()],
        retries: 1,
        timeout_ms: Some(1_000),
        ..TaskSpec::default()
    };
    Workflow {
        name: "seed".to_owned(),
        nodes: vec![
            ("texts".to_owned(), NodeKind::Source(vec![ObjectRef { digest: Digest::of(b"in"), len: 2 }])),
            ("count".to_owned(), NodeKind::Task(task)),
            ("kept".to_owned(), NodeKind::Sink),
        ],
        edges: vec![
            Edge { from: end("texts", Port::Stdout), to: end("count", Port::Stdin) },
            Edge { from: end("count", Port::Stdout), to: end("kept", Port::Stdin) },
        ],
        ..Workflow::default()
    }
}

fn plan() -> Option<Plan> {
    let mut offers = Offerings::default();
    offers.set(keypair(0).public(), Some(vec![service()].into()));
    validate::validate(&workflow(), &offers).ok()
}

fn messages() -> std::io::Result<()> {
    let job = JobId([1; 16]);
    let signed = order(1);
    let receipt = receipt(&signed, 1);
    let commit = commit(&signed, &receipt);
    let source = Source { holder: keypair(0).public(), ticket: ticket().encode().into() };
    let jobs = vec![(job, JobState::Running), (signed.job(), JobState::Sealed)];
    let again = Duration::from_secs(1);
    let said: [(&str, Frame); 19] = [
        ("inventory", Message::Inventory { incarnation: 7, jobs }.to_frame()),
        ("dispatch", Message::Dispatch { order: Box::new(signed), sources: vec![vec![source]], carried: None }.to_frame()),
        ("accepted", Message::Accepted { job, incarnation: 7 }.to_frame()),
        (
            "rejected",
            Message::Rejected { job, refusal: Refusal::Busy, words: "later".into(), retry_after: again }
                .to_frame(),
        ),
        ("lease_ack", Message::LeaseAck.to_frame()),
        ("sealed", Message::SealedOffer { receipt: Box::new(receipt), carried: None, salt: None }.to_frame()),
        ("result_ack", Message::ResultAck { commit: Box::new(commit) }.to_frame()),
        ("cancel", Message::Cancel { job }.to_frame()),
        ("cancel_ack", Message::CancelAck { job }.to_frame()),
        ("release", Message::Release { job }.to_frame()),
        ("unknown_run", Message::UnknownRun { job }.to_frame()),
        ("fetch", fetch(Some(ticket()), PieceRanges::of([0, 1, 5])).to_frame()),
        ("fetch_list", fetch(None, PieceRanges::default()).to_frame()),
        ("head", Head { len: 1 << 20 }.to_frame()),
        ("refused", Refused::new(RefusedCode::Busy).to_frame()),
        ("catalogue", catalogue::encode([service()].iter())),
        ("catalogue_empty", catalogue::encode([].iter())),
        ("seek", Seek { key: keypair(0).public() }.to_frame()),
        ("seen", Seen { key: keypair(0).public(), addr: ([203, 0, 113, 7], 30_906).into() }.to_frame()),
    ];
    said.iter().try_for_each(|(name, frame)| write("messages", name, &[&[frame.kind], &frame.body]))
}

fn fetch(ticket: Option<Ticket>, want: PieceRanges) -> Fetch {
    Fetch { digest: Digest::of(b"in"), under: None, list: ticket.is_none(), ticket, want }
}

fn signed() -> std::io::Result<()> {
    let order = order(1);
    let receipt = receipt(&order, 1);
    let commit = commit(&order, &receipt);
    write("signed", "order", &[&[0, 9], &order.to_dict().encode()])?;
    write("signed", "receipt", &[&[1, 9], &receipt.to_dict().encode()])?;
    write("signed", "commit", &[&[2, 9], &commit.to_dict().encode()])?;
    write("signed", "order_signed", &[&[0, 9], &order.encode()])?;
    write("signed", "receipt_signed", &[&[1, 9], &receipt.encode()])?;
    write("signed", "commit_signed", &[&[2, 9], &commit.encode()])?;
    write("signed", "ticket", &[&[3, 9], &ticket().encode()])?;
    write("signed", "file", &[&[4, 9], &Bundle { order, receipt, commit, agreed: Vec::new() }.encode()])
}

fn record() -> NodeRecord {
    let endpoint = "8.8.8.8:4433".parse().unwrap_or_else(|_| unreachable!("an address"));
    let attachment = Attachment { relay: keypair(1).public(), session: [7; 8], addr: endpoint };
    let machine = MachineSummary {
        arch: "x86_64".into(),
        os: "linux".into(),
        cpus: 2,
        wasm: true,
        ..Default::default()
    };
    let mut content = RecordContent {
        relay_offer: Some(RelayOffer { endpoint, sessions: 10, price: 1 }),
        attachments: vec![attachment],
        machine: Some(machine),
        services: 1,
        catalogue: Some(Digest::of(b"catalogue")),
        protocols: 1,
        unknown: Dict::new().with("zz", 7u64),
        ..RecordContent::default()
    };
    let addrs = ["8.8.8.8:4433", "[2001:db8::1]:4433", "10.0.0.1:4433", "[fd00::1]:1"];
    let addrs: Vec<_> = addrs.iter().filter_map(|a| a.parse().ok()).collect();
    content.set_endpoints(&addrs, true);
    NodeRecord::issue(content, AT)
}

fn dht() -> std::io::Result<()> {
    write("dht", "record", &[&record().encode()])?;
    write("dht", "record_small", &[&NodeRecord::issue(RecordContent::default(), AT).encode()])?;
    let item = Dict::new().with("salt", "key").with("seq", 1u64).with("val", "value");
    write("dht", "item", &[&item.encode()])
}

fn identity() -> std::io::Result<()> {
    let own = keypair(1).public();
    let hello = Dict::new()
        .with("a", &compact_addr(([198, 51, 100, 0], 4433).into())[..])
        .with("d", &[6; 20][..])
        .with("i", &own.peer_id().0[..])
        .with("k", &own)
        .with("n", 1u64)
        .with("r", 0u64)
        .with("s", 1u64)
        .with("t", vec![Value::from(&[1; 20][..])])
        .with("v", vec![Value::from(1u64)]);
    let known = Dict::new()
        .with("a", &compact_addr(([8, 8, 8, 8], 4433).into())[..])
        .with("k", &keypair(2).public())
        .with("r", 0u64)
        .with("s", 1u64)
        .with("t", &[1; 20][..])
        .with("w", AT.as_secs());
    let known = Dict::new().with("p", vec![known.into()]);
    let frame = |kind: u64, body: &Dict| Value::from(vec![kind.into(), body.encode().as_slice().into()]);
    let (first, second, third) = (frame(1, &hello), frame(2, &known), frame(0x14, &Dict::new()));
    write("identity", "whole", &[&Value::List(vec![first.clone(), second.clone(), third]).encode()])?;
    write("identity", "twice", &[&Value::List(vec![first.clone(), second, first]).encode()])
}

fn entry(room: Room, key: &[u8], record: &[u8]) -> Value {
    vec![Value::from(room as u64), key.into(), record.into()].into()
}

/// A run and a job of node 0 for itself, at every stage; and what is in the other rooms.
fn journal() -> std::io::Result<()> {
    let order = order(0);
    let receipt = receipt(&order, 0);
    let commit = commit(&order, &receipt);
    let source = Source { holder: keypair(0).public(), ticket: ticket().encode().into() };
    let job = order.job();
    let mut held: Vec<Value> = Vec::new();
    let facts = [
        JobRecord::Admitted { order: Box::new(order.clone()), sources: vec![vec![source]] },
        JobRecord::Starting { fetched: vec![Digest::of(b"in")] },
        JobRecord::Sealed { receipt: Box::new(receipt.clone()) },
        JobRecord::Acked,
    ];
    for (n, fact) in facts.iter().enumerate() {
        held.push(entry(Room::Job, &job.0, &fact.encode(AT)));
        write("journal", &format!("job_{n}"), &[&Value::List(held.clone()).encode()])?;
    }
    let tombstone = JobRecord::Tombstone { requester: keypair(1).public() };
    let stopping = [
        entry(Room::Job, &job.0, &facts[0].encode(AT)),
        entry(Room::Job, &job.0, &JobRecord::Stopping.encode(AT)),
    ];
    write("journal", "job_stopping", &[&Value::List(stopping.to_vec()).encode()])?;
    write(
        "journal",
        "job_dead",
        &[&Value::List(vec![entry(Room::Job, &[3; 16], &tombstone.encode(AT))]).encode()],
    )?;

    let mut run = vec![entry(Room::Run, &[1; 16], &RunRecord::Submitted { workflow: workflow() }.encode(AT))];
    let mut facts = Vec::from_iter(plan().map(|plan| RunRecord::Planned { plan }));
    facts.push(RunRecord::Attempt { task: 0, order: order.clone() });
    facts.push(RunRecord::Accepted { task: 0, fence: 1, incarnation: 1 });
    facts.push(RunRecord::Committed { task: 0, fence: 1, receipt, commit, carried: None, others: Vec::new() });
    facts.push(RunRecord::Ended { state: RunState::Succeeded, words: String::new(), kept: false });
    write("journal", "run_0", &[&Value::List(run.clone()).encode()])?;
    for (n, fact) in facts.iter().enumerate() {
        run.push(entry(Room::Run, &[1; 16], &fact.encode(AT)));
        write("journal", &format!("run_{}", n + 1), &[&Value::List(run.clone()).encode()])?;
    }
    let cancelled = [run[0].clone(), entry(Room::Run, &[1; 16], &RunRecord::CancelRequested.encode(AT))];
    write("journal", "run_cancelled", &[&Value::List(cancelled.to_vec()).encode()])?;
    write("journal", "rooms", &[&Value::List(rooms()).encode()])
}

fn rooms() -> Vec<Value> {
    let key = keypair(1).public();
    let value = record().encode();
    let item = item::sign(&keypair(1), b"", 1, value).map_or_else(|e| unreachable!("{e}"), |i| i);
    let cached = Dict::new()
        .with("at", AT.as_secs())
        .with("seq", 1u64)
        .with("sig", &item.signature)
        .with("v", 1u64)
        .with("val", &item.value[..]);
    let grant = Dict::new().with("v", 1u64).with("r", vec![Value::from(&key)]);
    let mut all = vec![
        entry(Room::CachedRecord, key.as_bytes(), &cached.encode()),
        entry(Room::Grant, &Digest::of(b"in").0, &grant.encode()),
    ];
    all.extend(lived());
    all
}

/// What a node writes by itself: it publishes, offers a service, and meets another.
fn lived() -> Vec<Value> {
    let mut world = World::new(2);
    (0..2).for_each(|n| world.rise(n).unwrap_or_else(|e| unreachable!("{e}")));
    let commands = [
        Command::AddService(Box::new(service())),
        Command::Connect { peer: PeerName::Key(keypair(1).public()), addr: Some(addr(1)) },
    ];
    for command in commands {
        let id = world.hosts[0].command_id();
        world.tell(0, Event::Command { id, command });
        world.settle(Fate::Honest, Duration::from_secs(30), 10_000);
    }
    let records = world.hosts[0].journal.restore().records;
    records.iter().map(|r| entry(r.subject.room, &r.subject.key, &r.record)).collect()
}

fn texts() -> std::io::Result<()> {
    let key = keypair(0).public();
    let yaml = format!(
        "name: top-words\nnodes:\n  texts: {{ source: {{ files: [a.txt, b.txt] }} }}\n  words: {{ source: {{ text: hi }} }}\n  \
         tokenize: {{ task: {{ service: tokenize, peer: {key}, args: [-l, 3], env: {{ LANG: C }}, retries: 1, timeout: \
         30s }} }}\n  top: {{ sink: {{}} }}\nedges:\n  - texts.out -> tokenize.stdin\n  - words.out -> tokenize.in\n  - \
         tokenize.stdout -> top.in\n  - tokenize.out -> top.in\n"
    );
    write("workflow", "yaml", &[&[0], yaml.as_bytes()])?;
    let digest = Digest::of(b"in");
    let json = format!(
        r#"{{"name":"n","nodes":{{"s":{{"source":{{"objects":[{{"digest":"{digest}","len":2}}]}}}},"t":{{"task":{{"service":"tokenize","peer":["{key}"],"timeout":"1500ms"}}}},"k":{{"sink":{{}}}}}},"edges":["s.out -> t.stdin","t.stderr -> k.in"]}}"#
    );
    write("workflow", "json", &[&[1], json.as_bytes()])?;
    write(
        "workflow",
        "wrong",
        &[&[0], b"name: x\nnodes:\n  a b: { sink: {} }\nedges:\n  - t.stdin -> nowhere.in\n"],
    )?;
    let body = format!(
        r#"{{"name":"count","description":"d","version":"1","module":"{digest}","stdin":false,"mounts":[{{"name":"in","direction":"in"}}],"limits":{{"time_ms":5}},"visibility":{{"listed":["{key}"]}}}}"#
    );
    write("api", "service", &[body.as_bytes()])?;
    write("api", "service_small", &[format!(r#"{{"name":"n","module":"{digest}"}}"#).as_bytes()])?;
    write("api", "topic", &[br#""transfers""#])
}

fn manifests() -> std::io::Result<()> {
    let file = |path: &str, len| Entry { path: path.to_owned(), digest: Digest::of(path.as_bytes()), len, executable: len == 2 };
    let of = |files: Vec<Entry>| Manifest::new(files).map_or_else(|e| unreachable!("{e}"), |m| m.encode());
    write("manifest", "empty", &[&of(Vec::new())])?;
    write("manifest", "files", &[&of(vec![file("a/b/c", 1), file("a/run", 2), file("z", 0)])])
}

fn main() -> std::io::Result<()> {
    manifests()?;
    messages()?;
    signed()?;
    dht()?;
    identity()?;
    journal()?;
    texts()
}
