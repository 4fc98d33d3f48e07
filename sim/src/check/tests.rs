use super::*;
use bytes::Bytes;
use remote_network_core::command::{RunState, TaskState};
use remote_network_core::id::{CommandId, Keypair, Signature};
use remote_network_core::job::order::Order;
use remote_network_core::job::receipt::{Bundle, Commit, Receipt, Verdict, result_digest};
use remote_network_core::job::signed::Signed;
use remote_network_core::port::{EngineLimits, EngineOutput, ExitClass, Port, Program, Usage};
use remote_network_core::time::UnixTime;
use std::collections::BTreeMap;

fn key(n: u8) -> PublicKey {
    Keypair::from_seed(&[n; 32]).public()
}

fn checks() -> Checks {
    let mut c = Checks::default();
    c.meet(0, key(0));
    c.meet(1, key(1));
    c
}

fn see(c: &mut Checks, action: Action) {
    c.action(0, 0, &action, |addr| (addr.port() == 1).then_some(1));
}

fn only(c: &Checks) -> &Violation {
    assert_eq!(c.violations().len(), 1, "{:?}", c.violations());
    &c.violations()[0].violation
}

#[test]
fn a_journal_that_goes_back_is_seen() {
    let mut c = checks();
    for lsn in [1, 2, 2] {
        see(&mut c, Action::Persist { lsn: Lsn(lsn), ops: Vec::new() });
    }
    assert_eq!(only(&c), &Violation::LsnWentBack { last: Lsn(2), got: Lsn(2) });
}

#[test]
fn a_version_that_goes_back_is_seen_also_across_restarts() {
    let mut c = checks();
    let put = |seq, value: &'static [u8], op| Action::Dht {
        op: OpId(op),
        request: DhtRequest::PutMutable {
            item: MutableItem {
                key: key(0),
                salt: Bytes::new(),
                seq,
                value: Bytes::from_static(value),
                signature: Signature([0; 64]),
            },
            cas: None,
        },
    };
    see(&mut c, put(5, b"a", 1));
    see(&mut c, put(5, b"a", 2));
    assert!(c.violations().is_empty());
    c.begins(0, Lsn(0));
    see(&mut c, put(4, b"a", 1));
    assert_eq!(only(&c), &Violation::SeqWentBack { last: 5, got: 4 });
}

fn peer(claimed: PublicKey, port: u16) -> Action {
    Action::Notify(Notice::Peer(Box::new(PeerView {
        key: claimed,
        peer_id: claimed.peer_id(),
        state: PeerState::Connected,
        since: UnixTime::default(),
        addr: Some(SocketAddr::from(([45, 0, 0, 1], port))),
        rtt_us: None,
        bytes: (0, 0),
        seen: (UnixTime::default(), UnixTime::default()),
        source: "",
        trouble: None,
        services: 0,
        blocked: false,
        path: None,
    })))
}

#[test]
fn a_connection_to_somebody_else_is_seen() {
    let mut c = checks();
    see(&mut c, peer(key(1), 1));
    see(&mut c, peer(key(7), 2));
    assert!(c.violations().is_empty(), "the right one, and one at an address nobody has");
    see(&mut c, peer(key(0), 1));
    assert!(matches!(only(&c), Violation::Impostor { .. }));
}

/// Order, receipt and commit of one attempt of task `t`, as an honest pair of nodes makes them.
fn papers(fence: u32, output: Option<Digest>) -> Bundle {
    let (requester, executor) = (Keypair::from_seed(&[0; 32]), Keypair::from_seed(&[1; 32]));
    let order = Order {
        requester: requester.public(),
        executor: executor.public(),
        run: RunId([1; 16]),
        spec: Digest([5; 32]),
        task: "t".into(),
        fence,
        service: Digest([6; 32]),
        program: Program::Wasm(Digest([7; 32])),
        paths: Vec::new(),
        args: Vec::new(),
        env: Vec::new(),
        inputs: Vec::new(),
        outputs: output.iter().map(|_| Port::Stdout).collect(),
        limits: EngineLimits { memory_bytes: 1 << 20, time_ms: 1000, output_bytes: 1 << 20 },
        light: false,
        pledge: false,
        nonce: [9; 16],
        issued: UnixTime::from_secs(1),
    };
    let order = Signed::sign(order, &requester);
    let outputs: Vec<EngineOutput> = output
        .iter()
        .map(|d| EngineOutput { port: Port::Stdout, digest: *d, len: 1, truncated: false })
        .collect();
    let receipt = Receipt {
        executor: executor.public(),
        incarnation: 1,
        seq: 1,
        previous: Digest([0; 32]),
        order: order.digest(),
        job: order.job(),
        engine: "sim".into(),
        program: order.program.clone(),
        class: ExitClass::Success,
        code: 0,
        detail: String::new(),
        result: result_digest(ExitClass::Success, 0, &outputs),
        outputs,
        usage: Usage::default(),
        started: UnixTime::from_secs(1),
        ended: UnixTime::from_secs(2),
    };
    let receipt = Signed::sign(receipt, &executor);
    let commit = Commit {
        requester: requester.public(),
        job: receipt.job,
        order: order.digest(),
        receipt: receipt.digest(),
        verdict: Verdict::Won,
        at: UnixTime::from_secs(3),
    };
    Bundle { order, receipt, commit: Signed::sign(commit, &requester), agreed: Vec::new() }
}

fn run_view(state: RunState, digest: Option<Digest>, fence: u32) -> RunView {
    let task = TaskView {
        id: "t".into(),
        state: TaskState::Committed,
        why: None,
        since: UnixTime::default(),
        service: String::new(),
        peer: Some(key(1)),
        job: None,
        fence,
        exit: Some((ExitClass::Success, 0)),
        usage: None,
        outputs: digest.iter().map(|d| (Port::Stdout, *d, 1)).collect(),
        receipt: Some(papers(fence, digest).encode().into()),
        commit: None,
        agreement: None,
    };
    let result = digest.map(|digest| remote_network_core::command::ResultView {
        tree: false,
        sink: "out".into(),
        from: ("t".into(), Port::Stdout),
        digest,
        len: 1,
        fetched: 1,
    });
    RunView {
        run: RunId([1; 16]),
        name: String::new(),
        state,
        submitted: UnixTime::default(),
        ended: None,
        why: None,
        tasks: vec![task],
        results: result.into_iter().collect(),
        progress: (0, 1),
        failed: 0,
        skipped: 0,
        paused: None,
        deadline: None,
    }
}

fn with_run() -> Checks {
    let mut c = checks();
    let right = Digest([1; 32]);
    c.expects(
        RunId([1; 16]),
        0,
        Expected {
            outputs: BTreeMap::from([(("t".into(), Port::Stdout), right)]),
            sinks: BTreeMap::from([("out".into(), vec![right])]),
        },
    );
    see(&mut c, Action::Reply { id: CommandId(1), reply: Reply::Submitted(RunId([1; 16])) });
    c
}

fn show(c: &mut Checks, view: RunView) {
    see(c, Action::Reply { id: CommandId(2), reply: Reply::Run(Box::new(view)) });
}

#[test]
fn a_right_run_passes_and_every_wrong_one_is_seen() {
    let mut c = with_run();
    assert_eq!(c.unsettled().count(), 1);
    show(&mut c, run_view(RunState::Succeeded, Some(Digest([1; 32])), 1));
    assert_eq!((c.violations().len(), c.unsettled().count(), c.run_counts()), (0, 0, (1, 1, 1)));
    show(&mut c, run_view(RunState::Succeeded, Some(Digest([1; 32])), 2));
    assert!(matches!(only(&c), Violation::DoubledCommit { first: 1, second: 2, .. }));

    let mut c = with_run();
    show(&mut c, run_view(RunState::Succeeded, Some(Digest([2; 32])), 1));
    let kinds: Vec<_> = c.violations().iter().map(|f| f.violation.clone()).collect();
    assert!(matches!(kinds[..], [Violation::WrongResult { .. }, Violation::WrongOutput { .. }]), "{kinds:?}");

    let mut c = with_run();
    show(&mut c, run_view(RunState::Failed, None, 1));
    show(&mut c, run_view(RunState::Running, None, 1));
    assert!(matches!(only(&c), Violation::EndChanged { was: "failed", now: "running", .. }));
}

#[test]
fn a_receipt_that_proves_nothing_is_seen() {
    let right = Some(Digest([1; 32]));
    let with = |change: &dyn Fn(&mut TaskView)| {
        let mut c = with_run();
        let mut view = run_view(RunState::Succeeded, right, 1);
        change(&mut view.tasks[0]);
        show(&mut c, view);
        c.violations().iter().map(|f| f.violation.to_string()).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(with(&|_| {}), "");
    assert!(with(&|t| t.receipt = None).contains("there is none"));
    assert!(with(&|t| t.receipt = Some(papers(2, right).encode().into())).contains("another attempt"));
    assert!(
        with(&|t| t.receipt = Some(papers(1, Some(Digest([3; 32]))).encode().into()))
            .contains("other outputs")
    );
    assert!(with(&|t| t.peer = Some(key(0))).contains("another executor"));
    assert!(with(&|t| t.exit = Some((ExitClass::User, 3))).contains("another exit"));
    let unrelated = Bundle { commit: papers(2, right).commit, ..papers(1, right) };
    assert!(with(&|t| t.receipt = Some(unrelated.encode().into())).contains("worth nothing"));
}

#[test]
fn a_fence_given_to_two_peers_is_seen() {
    let mut c = with_run();
    for peer in [0, 1] {
        let mut view = run_view(RunState::Running, None, 1);
        view.tasks[0].state = TaskState::Active;
        view.tasks[0].peer = Some(key(peer));
        show(&mut c, view);
    }
    assert!(matches!(only(&c), Violation::FenceReused { fence: 1, .. }));
}

#[test]
fn a_lost_and_an_endless_run_are_seen() {
    let mut c = with_run();
    c.unknown_run(5, 0, RunId([1; 16]));
    assert!(matches!(only(&c), Violation::LostRun(_)));
    let mut c = with_run();
    show(&mut c, run_view(RunState::Running, None, 1));
    c.close(9);
    assert!(matches!(only(&c), Violation::UnsettledRun { state: "running", .. }));
}
