//! The cases. Each begins on an empty stage and asserts what a user, a peer or an auditor could see.

use super::stage::keypair;
use super::{Bench, Stage};
use crate::blobs::describe;
use crate::draw::Draw;
use crate::expect::{Expected, evaluate};
use crate::net::HostId;
use bytes::Bytes;
use remote_network_core::command::{
    Command, CommandError, Notice, PeerState, PeerView, Reply, RunState, RunView,
};
use remote_network_core::id::{Digest, PeerName, RunId};
use remote_network_core::job::receipt::{Verdict, verify_file};
use remote_network_core::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use remote_network_core::port::{EngineLimits, ExitClass, Port, Program};
use remote_network_core::service::details::Details;
use remote_network_core::service::{Service, Visibility};
use remote_network_core::time::Duration;
use remote_network_core::transfer::tree::PIECE_VALUE_BYTES;
use std::collections::BTreeMap;

/// A peer that said goodbye is known to be gone within this: below QUIC's idle time-out of 30 s, far above a
/// round trip on a busy machine.
const GOODBYE_WITHIN: Duration = Duration::from_secs(25);
/// Calls into two idle nodes while they are listened to. Keep-alives, their acknowledgements and the nodes' own timers
/// come to about one a second; a driver that spins makes thousands.
const IDLE_CALLS_MAX: u64 = 200;
/// Datagrams of garbage: fewer than any socket's buffer drops.
const GARBAGE_DATAGRAMS: usize = 200;
/// Several pieces, and a last one that is not full.
const OBJECT_BYTES: usize = (3 << 20) + 7;
const RUN: RunId = RunId([7; 16]);

/// A dial by key and address ends with both sides knowing who the other is.
pub fn two_nodes_meet_and_identify_each_other<B: Bench>(stage: &mut Stage<B>) {
    let (a, b) = (stage.node(), stage.node());
    let view = connect(stage, a, b);
    assert_eq!((view.key, view.addr), (stage.key(b), Some(stage.bench.addr(b))));
    let (key, addr) = (stage.key(a), stage.bench.addr(a));
    stage.notice(b, "the dialled side to know who dials", |notice| match notice {
        Notice::Peer(view) if view.key == key && is_up(&view) => Some(()),
        _ => None,
    });
    // Under the short name, which only an identified peer has.
    match stage.ask(b, Command::Peer(PeerName::Id(key.peer_id()))) {
        Reply::Peer(view) => assert_eq!((view.key, view.addr), (key, Some(addr))),
        other => panic!("the dialled side does not know its peer: {other:?}"),
    }
    assert_eq!((stage.status(a).connected, stage.status(b).connected), (1, 1));
}

/// A published record leads to its owner: nobody has to know an address.
pub fn a_key_alone_is_enough_to_connect<B: Bench>(stage: &mut Stage<B>) {
    let (a, b) = (stage.node(), stage.node());
    let copies = stage.notice(b, "the record to be published", |notice| match notice {
        Notice::Published { stored, .. } => Some(stored),
        _ => None,
    });
    assert!(copies > 0);
    let peer = PeerName::Key(stage.key(b));
    match stage.ask(a, Command::Connect { peer, addr: None }) {
        Reply::Peer(view) => assert_eq!(view.addr, Some(stage.bench.addr(b))),
        other => panic!("not found by its key: {other:?}"),
    }
}

/// Whoever answers a dial without the key that was dialled is not taken for its owner.
pub fn a_dial_that_finds_another_peer_is_refused_and_counted<B: Bench>(stage: &mut Stage<B>) {
    let (a, b) = (stage.node(), stage.node());
    let before = connect(stage, a, b);
    let stranger = keypair(99).public();
    let addr = Some(stage.bench.addr(b));
    match stage.ask(a, Command::Connect { peer: PeerName::Key(stranger), addr }) {
        Reply::Error(CommandError::Unreachable { peer, .. }) => assert_eq!(peer, stranger),
        other => panic!("a stranger's dial was answered with {other:?}"),
    }
    let refused = stage.status(a).refused;
    assert!(refused.iter().any(|(why, n)| *why == "dial-found-another-peer" && *n > 0), "{refused:?}");
    let after = peer(stage, a, b);
    assert!(is_up(&after));
    assert_eq!(
        (after.since, after.addr),
        (before.since, before.addr),
        "the connection that was there is kept"
    );
    assert_eq!(stage.status(a).connected, 1);
}

/// Tasks here and there, joined: outputs, kept results and receipts are what they must be.
pub fn a_workflow_across_two_nodes_gives_the_right_result_and_receipts<B: Bench>(stage: &mut Stage<B>) {
    let (a, b) = (stage.node(), stage.node());
    offer(stage, a);
    offer(stage, b);
    connect(stage, a, b);
    let (workflow, expected) = across(stage, a, b);
    submit(stage, a, &workflow);
    let view = finished(stage, a);
    check_run(stage, a, &view, &expected);
    for (task, executor) in [("there", b), ("here", a), ("both", b)] {
        let view = view.tasks.iter().find(|t| t.id == task).unwrap_or_else(|| panic!("no task {task}"));
        let file = view.receipt.as_ref().unwrap_or_else(|| panic!("no receipt of {task}"));
        let report = verify_file(file).unwrap_or_else(|why| panic!("the receipt of {task}: {why}"));
        assert_eq!((report.requester, report.executor), (stage.key(a), stage.key(executor)));
        assert_eq!((report.run, report.task.as_str(), report.verdict.0), (RUN, task, Verdict::Won));
        assert_eq!(report.exit, (ExitClass::Success, 0));
        let output = report.outputs.iter().find(|o| o.port == Port::Stdout).map(|o| o.digest);
        assert_eq!(output, Some(expected.outputs[&(task.to_owned(), Port::Stdout)]));
    }
}

/// An object goes over in pieces and arrives whole, byte for byte.
pub fn a_shared_object_of_several_pieces_is_fetched_and_verified<B: Bench>(stage: &mut Stage<B>) {
    let (a, b) = (stage.node(), stage.node());
    connect(stage, b, a);
    let object = bytes(OBJECT_BYTES);
    assert!(describe(&object).pieces.len() / PIECE_VALUE_BYTES > 4);
    let digest = stage.bench.put(a, object.clone());
    let ticket = share(stage, a, b, digest);
    let (from, len) = (stage.key(a), object.len() as u64);
    assert_eq!(stage.ask(b, Command::Fetch { digest, len, from, ticket: ticket.clone() }), Reply::Done);
    assert!(stage.bench.get(b, &digest) == Some(object), "the object arrived as something else");
    // The same ticket opens nothing else.
    let other = stage.bench.put(a, Bytes::from_static(b"not shared"));
    let len = b"not shared".len() as u64;
    let refused = stage.ask(b, Command::Fetch { digest: other, len, from, ticket });
    assert!(matches!(refused, Reply::Error(CommandError::Fetch { .. })), "{refused:?}");
    assert_eq!(stage.bench.get(b, &other), None);
}

/// Requester and executor crash in the middle of a task; what was acknowledged comes to its end all the same.
pub fn a_restart_resumes_an_unfinished_run<B: Bench>(stage: &mut Stage<B>) {
    let (a, b) = (stage.node(), stage.node());
    offer(stage, a);
    offer(stage, b);
    connect(stage, a, b);
    stage.bench.hold_jobs(b, true);
    let (workflow, expected) = across(stage, a, b);
    submit(stage, a, &workflow);
    stage.notice(a, "the task to run over there", |notice| match notice {
        Notice::Task { task, .. } => (task.id == "there" && task.job == Some("running")).then_some(()),
        _ => None,
    });
    assert_eq!(stage.status(b).jobs_active, 1);
    stage.crash(a);
    stage.crash(b);
    assert_eq!(stage.bench.command(a, Command::Status), None, "nobody is there to be asked");
    stage.bench.hold_jobs(b, false);
    stage.bench.start(b);
    stage.bench.start(a);
    let known = stage.ask(a, Command::Run(RUN));
    assert!(matches!(known, Reply::Run(_)), "the run is not known after the restart: {known:?}");
    // The client that never heard how it went asks again: the run it meant is the run there is.
    submit(stage, a, &workflow);
    let view = finished(stage, a);
    check_run(stage, a, &view, &expected);
}

/// A node that stops in order answers first, and its peers hear of it at once, not from silence.
pub fn an_orderly_shutdown_is_answered_and_says_goodbye<B: Bench>(stage: &mut Stage<B>) {
    let (a, b) = (stage.node(), stage.node());
    connect(stage, a, b);
    let begun = stage.bench.elapsed();
    assert_eq!(stage.ask(b, Command::Shutdown), Reply::Done);
    stage.ended(b);
    let gone = stage.key(b);
    stage.notice(a, "the other side to hear the goodbye", |notice| match notice {
        Notice::Peer(view) => (view.key == gone && view.state == PeerState::Closed).then_some(()),
        _ => None,
    });
    let took = stage.bench.elapsed().saturating_sub(begun);
    assert!(took < GOODBYE_WITHIN, "{took:?}: a time-out, not a goodbye");
    assert_eq!(stage.bench.command(b, Command::Status), None);
    assert_eq!(stage.status(a).connected, 0);
}

/// What was asked before a shutdown is answered as if there was none; what is asked after it is refused.
pub fn commands_after_a_shutdown_are_refused<B: Bench>(stage: &mut Stage<B>) {
    let a = stage.node();
    let digest = stage.bench.put(a, Bytes::from_static(b"object"));
    // A permission is written down before it is given, so that the shutdown behind it has something to wait for.
    let consumer = keypair(99).public();
    let valid = Duration::from_secs(60);
    let before = stage.give(a, Command::Share { digest, consumer, valid });
    let shutdown = stage.give(a, Command::Shutdown);
    let again = stage.give(a, Command::Shutdown);
    let after = stage.give(a, Command::Status);
    assert!(matches!(stage.reply(before), Reply::Ticket(_)));
    assert_eq!(stage.reply(after), Reply::Error(CommandError::ShuttingDown));
    assert_eq!(stage.reply(again), Reply::Error(CommandError::ShuttingDown));
    assert_eq!(stage.reply(shutdown), Reply::Done);
    stage.ended(a);
}

/// Datagrams without sense change nothing: not the connection that is there, not the next one.
pub fn garbage_harms_nothing<B: Bench>(stage: &mut Stage<B>) {
    let (a, b) = (stage.node(), stage.node());
    let before = connect(stage, a, b);
    let mut draw = Draw::derive(1, "garbage", 0);
    for nth in 0..GARBAGE_DATAGRAMS {
        let mut payload = vec![0; 1 + draw.below(1_400) as usize];
        payload.iter_mut().for_each(|byte| *byte = draw.next_u64() as u8);
        // A third looks like QUIC's long header, of the version spoken here or of none.
        if nth % 3 == 0 {
            payload[0] |= 0xc0;
            let version = if nth % 2 == 0 { [0, 0, 0, 1] } else { [0x0a; 4] };
            payload.iter_mut().skip(1).zip(version).for_each(|(byte, v)| *byte = v);
        }
        stage.bench.inject([a, b][nth % 2], &payload);
    }
    let after = peer(stage, a, b);
    assert!(is_up(&after));
    assert_eq!(after.since, before.since);
    let c = stage.node();
    connect(stage, c, a);
    connect(stage, b, c);
    assert_eq!(stage.status(a).connected, 2);
}

/// Two connected nodes without work cost next to nothing.
pub fn an_idle_pair_keeps_quiet<B: Bench>(stage: &mut Stage<B>) {
    let (a, b) = (stage.node(), stage.node());
    connect(stage, a, b);
    // What a new connection does for itself, such as finding out how large datagrams may be, is over by then.
    stage.listen(B::QUIET);
    let before = stage.bench.calls();
    stage.listen(B::QUIET);
    let calls = stage.bench.calls() - before;
    assert!(calls <= IDLE_CALLS_MAX, "{calls} calls in {:?} without anything to do", B::QUIET);
    assert!(is_up(&peer(stage, a, b)));
}

// ------------------------------------------------------------------------------------------- vocabulary

fn is_up(view: &PeerView) -> bool {
    match view.state {
        PeerState::Connected | PeerState::Idle | PeerState::Stale => true,
        PeerState::Connecting | PeerState::Closed => false,
    }
}

fn peer<B: Bench>(stage: &mut Stage<B>, at: HostId, of: HostId) -> PeerView {
    let name = PeerName::Key(stage.key(of));
    match stage.ask(at, Command::Peer(name)) {
        Reply::Peer(view) => *view,
        other => panic!("{at} does not know {of}: {other:?}"),
    }
}

fn connect<B: Bench>(stage: &mut Stage<B>, from: HostId, to: HostId) -> PeerView {
    let (peer, addr) = (PeerName::Key(stage.key(to)), Some(stage.bench.addr(to)));
    match stage.ask(from, Command::Connect { peer, addr }) {
        Reply::Peer(view) => {
            assert!(is_up(&view), "{view:?}");
            *view
        }
        other => panic!("{from} cannot connect to {to}: {other:?}"),
    }
}

fn share<B: Bench>(stage: &mut Stage<B>, at: HostId, with: HostId, digest: Digest) -> Bytes {
    let consumer = stage.key(with);
    match stage.ask(at, Command::Share { digest, consumer, valid: Duration::from_secs(3_600) }) {
        Reply::Ticket(ticket) => ticket,
        other => panic!("sharing was answered with {other:?}"),
    }
}

fn module() -> Bytes {
    Bytes::from_static(b"\0asm conformance")
}

/// Lets a machine offer the one service of the suite.
fn offer<B: Bench>(stage: &mut Stage<B>, host: HostId) {
    let module = module();
    let service = Service {
        name: "formula".into(),
        description: String::new(),
        version: "1".into(),
        program: Program::Wasm(stage.bench.put(host, module.clone())),
        module_len: module.len() as u64,
        stdin: true,
        mounts: Vec::new(),
        limits: EngineLimits { memory_bytes: 1 << 20, time_ms: 600_000, output_bytes: 1 << 20 },
        visibility: Visibility::Everyone,
        details: Details::default(),
    };
    assert_eq!(stage.ask(host, Command::AddService(Box::new(service))), Reply::Done);
}

/// One task at `b`, one at `a`, and one at `b` that takes both their outputs; and what must come of it.
fn across<B: Bench>(stage: &mut Stage<B>, a: HostId, b: HostId) -> (Workflow, Expected) {
    let object = bytes(10_000);
    let source = ObjectRef { digest: Digest::of(&object), len: object.len() as u64 };
    stage.bench.put(a, object);
    let task = |name: &str, at: HostId| {
        let spec = TaskSpec {
            service: "formula".into(),
            peers: vec![stage.key(at)],
            args: vec![name.into(), "bytes=300000".into()],
            ..TaskSpec::default()
        };
        (name.to_owned(), NodeKind::Task(spec))
    };
    let edge = |from: &str, to: &str| Edge {
        from: End { node: from.into(), port: Port::Stdout },
        to: End { node: to.into(), port: Port::Stdin },
    };
    let workflow = Workflow {
        name: "across".into(),
        nodes: vec![
            ("in".into(), NodeKind::Source(vec![source])),
            task("there", b),
            task("here", a),
            task("both", b),
            ("out".into(), NodeKind::Sink),
        ],
        edges: vec![
            edge("in", "there"),
            edge("in", "here"),
            edge("there", "both"),
            edge("here", "both"),
            edge("both", "out"),
        ],
        ..Workflow::default()
    };
    let expected = evaluate(&workflow, &BTreeMap::from([("formula".to_owned(), Digest::of(&module()))]));
    (workflow, expected)
}

fn submit<B: Bench>(stage: &mut Stage<B>, at: HostId, workflow: &Workflow) {
    let workflow = Box::new(workflow.clone());
    assert_eq!(stage.ask(at, Command::Submit { run: RUN, workflow }), Reply::Submitted(RUN));
}

/// Waits for the end of the run, and gives all that its requester knows of it.
fn finished<B: Bench>(stage: &mut Stage<B>, at: HostId) -> RunView {
    loop {
        match stage.ask(at, Command::Run(RUN)) {
            Reply::Run(view) if view.state.is_terminal() => return *view,
            Reply::Run(_) => {}
            other => panic!("the run is not known to its requester: {other:?}"),
        }
        stage.notice(at, "the run to change", |notice| match notice {
            Notice::Run(view) => (view.run == RUN).then_some(()),
            _ => None,
        });
    }
}

fn check_run<B: Bench>(stage: &Stage<B>, at: HostId, view: &RunView, expected: &Expected) {
    assert_eq!(view.state, RunState::Succeeded, "{:?}", view.why);
    for task in &view.tasks {
        let output =
            task.outputs.iter().find(|(port, ..)| *port == Port::Stdout).map(|(_, digest, _)| *digest);
        let right = expected.outputs[&(task.id.clone(), Port::Stdout)];
        assert_eq!(output, Some(right), "the output of {}", task.id);
    }
    let results: Vec<Digest> = view.results.iter().map(|r| r.digest).collect();
    assert_eq!(results, expected.sinks["out"]);
    for digest in results {
        assert!(stage.bench.get(at, &digest).is_some(), "the result is not in its requester's store");
    }
}

fn bytes(len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(b"conformance").finalize_xof().fill(&mut out);
    Bytes::from(out)
}
