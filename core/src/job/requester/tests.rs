//! The requester alone: what it says to users, what it does without executors, and the machine laws.

use super::*;
use crate::id::{Keypair, Lsn};
use crate::job::message::JobState;
use crate::job::receipt::{Receipt, result_digest};
use crate::job::signed::Signed;
use crate::job::validate::tests::service;
use crate::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec};
use crate::laws::{Rig, check_within};
use crate::limits::LOST_AFTER;
use crate::port::{EngineOutput, ExitClass, Port, Usage};
use crate::time::UnixTime;
use proptest::prelude::*;

mod rules;

fn key(n: u8) -> PublicKey {
    Keypair::from_seed(&[n; 32]).public()
}

fn workflow(peers: &[PublicKey]) -> Workflow {
    let end = |node: &str, port| End { node: node.into(), port };
    let spec = TaskSpec { service: "count".into(), peers: peers.to_vec(), ..TaskSpec::default() };
    let object = ObjectRef { digest: Digest::of(b"in"), len: 1 << 20 };
    Workflow {
        name: "w".into(),
        nodes: vec![
            ("in".into(), NodeKind::Source(vec![object])),
            ("a".into(), NodeKind::Task(spec)),
            ("out".into(), NodeKind::Sink),
        ],
        edges: vec![
            Edge { from: end("in", Port::Stdout), to: end("a", Port::Stdin) },
            Edge { from: end("a", Port::Stdout), to: end("out", Port::Stdin) },
        ],
        ..Workflow::default()
    }
}

fn offer(peer: PublicKey) -> Input {
    Input::Offers { peer, services: Some(vec![service("count", true, &[])].into()) }
}

fn submit(run: u8, peers: &[PublicKey]) -> Input {
    Input::Submit { id: CommandId(1), run: RunId([run; 16]), workflow: Box::new(workflow(peers)) }
}

fn rig() -> Rig<Requester> {
    Rig::new(Requester::restore(Keypair::from_seed(&[1; 32]), &[]).unwrap(), [0; 32])
}

fn reply(out: &[Output]) -> Option<&Reply> {
    out.iter().find_map(|o| match o {
        Output::Reply { reply, .. } => Some(&**reply),
        _ => None,
    })
}

#[test]
fn a_wrong_workflow_is_refused_at_once_and_leaves_no_run() {
    let mut r = rig();
    let out = r.tell(submit(1, &[]));
    assert!(matches!(reply(&out), Some(Reply::Error(CommandError::Invalid(_)))));
    assert!(r.machine.runs().is_empty());
}

#[test]
fn another_workflow_under_the_same_run_id_is_a_conflict() {
    let mut r = rig();
    r.tell(offer(key(2)));
    let run = RunId([1; 16]);
    assert_eq!(reply(&r.tell(submit(1, &[]))), Some(&Reply::Submitted(run)));
    assert_eq!(reply(&r.tell(submit(1, &[]))), Some(&Reply::Submitted(run)));
    let out = r.tell(submit(1, &[key(2)]));
    assert_eq!(reply(&out), Some(&Reply::Error(CommandError::RunConflict(run))));
}

#[test]
fn a_named_peer_that_is_away_is_waited_for_and_then_no_more() {
    let mut r = rig();
    let out = r.tell(submit(1, &[key(2)]));
    assert!(out.contains(&Output::NeedPeer(key(2))));
    let view = r.machine.view(&RunId([1; 16])).unwrap();
    assert_eq!(view.state, RunState::Validating);
    assert!(view.why.unwrap().contains("not connected"), "it says what it waits for");
    let asked = r.wait(VALIDATING_MAX - Duration::from_millis(1));
    assert!(asked.contains(&Output::NeedPeer(key(2))), "asked for again");
    r.wait(Duration::from_millis(1));
    assert_eq!(r.machine.view(&RunId([1; 16])).unwrap().state, RunState::Failed);
}

/// Found by fuzzing: such a run could neither be planned nor given up, and was looked at without end.
#[test]
fn a_journal_in_which_a_run_begins_in_the_middle_is_refused() {
    let middle = RunRecord::Accepted { task: 0, fence: 1, incarnation: 1 };
    let record = StoredRecord {
        lsn: Lsn(7),
        subject: Subject::new(Room::Run, &[1; 16]),
        record: middle.encode(UnixTime::from_secs(1)).into(),
    };
    let refused = Requester::restore(Keypair::from_seed(&[1; 32]), &[record]).map(|_| ());
    assert!(matches!(refused, Err((7, DecodeError::Invalid { key: "k", .. }))), "{refused:?}");
}

#[test]
fn a_named_peer_that_comes_is_planned_and_ordered_from() {
    let mut r = rig();
    r.tell(submit(1, &[key(2)]));
    r.tell(offer(key(2)));
    assert_eq!(r.machine.view(&RunId([1; 16])).unwrap().state, RunState::Running);
    let out = r.tell(Input::PeerUp(key(2)));
    let at = |f: &dyn Fn(&Output) -> bool| out.iter().position(f).unwrap();
    let journaled = at(&|o| matches!(o, Output::Persist(_)));
    let sent = at(&|o| matches!(o, Output::Send { frame, .. } if frame.kind == 0x11));
    assert!(journaled < sent, "durable before send");
}

#[test]
fn a_task_that_nobody_takes_fails_after_ten_minutes_with_the_reason() {
    let mut r = rig();
    r.tell(offer(key(2)));
    r.tell(submit(1, &[]));
    let view = r.machine.view(&RunId([1; 16])).unwrap();
    assert!(view.tasks[0].why.as_ref().unwrap().contains("is not connected"));
    r.wait(QUEUE_TIMEOUT + LOGS_WAIT_MAX);
    let view = r.machine.view(&RunId([1; 16])).unwrap();
    assert_eq!(view.state, RunState::Failed);
    assert!(view.why.unwrap().contains("not placed within 10 minutes"));
}

/// A receipt for an order that was sent, as its executor would sign it.
fn receipt(out: &[Output], by: &Keypair) -> Message {
    let dispatched = out.iter().find_map(|o| match o {
        Output::Send { frame, .. } => match Message::from_frame(frame) {
            Ok(Message::Dispatch { order, .. }) => Some(order),
            _ => None,
        },
        _ => None,
    });
    let order = dispatched.unwrap();
    let out = |port: &Port| EngineOutput {
        port: port.clone(),
        digest: Digest::of(b"out"),
        len: 3,
        truncated: false,
    };
    let outputs: Vec<_> = order.outputs.iter().map(out).collect();
    let receipt = Receipt {
        executor: by.public(),
        incarnation: 1,
        seq: 1,
        previous: Digest([0; 32]),
        order: order.digest(),
        job: order.job(),
        engine: "e".into(),
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
    Message::SealedOffer { receipt: Box::new(Signed::sign(receipt, by)), carried: None, salt: None }
}

#[test]
fn a_lost_attempt_that_wins_ends_the_waiting_for_another_executor() {
    let mut r = rig();
    let executor = Keypair::from_seed(&[2; 32]);
    r.tell(offer(key(2)));
    r.tell(Input::PeerUp(key(2)));
    let mut two = workflow(&[]);
    let end = |node: &str, port| End { node: node.into(), port };
    two.nodes.push((
        "b".into(),
        NodeKind::Task(TaskSpec { service: "count".into(), peers: vec![key(2)], ..TaskSpec::default() }),
    ));
    two.nodes.push(("out-b".into(), NodeKind::Sink));
    two.edges.push(Edge { from: end("a", Port::Stdout), to: end("b", Port::Stdin) });
    two.edges.push(Edge { from: end("b", Port::Stdout), to: end("out-b", Port::Stdin) });
    let run = RunId([1; 16]);
    let ordered = r.tell(Input::Submit { id: CommandId(1), run, workflow: Box::new(two) });
    let won = receipt(&ordered, &executor);
    r.tell(Input::PeerDown(key(2)));
    r.wait(LOST_AFTER + RESEND_MIN);
    assert!(r.machine.poll_timeout().is_some_and(|d| d.reason != "queue: give up"), "others come first");
    r.tell(Input::PeerUp(key(2)));
    let next = r.tell(Input::Message { peer: key(2), message: Box::new(won) });
    assert!(matches!(receipt(&next, &executor), Message::SealedOffer { .. }), "the second task is ordered");
    // The rig asserts that the machine never wants a time that is past: that of the first task's waiting would be.
    r.wait(QUEUE_TIMEOUT - Duration::from_secs(1));
    assert_eq!(r.machine.view(&run).unwrap().state, RunState::Running);
    r.wait(LOST_AFTER);
    assert!(r.machine.run(&run).unwrap().tasks[0].receipt().is_some());
}

#[test]
fn a_task_whose_only_executor_is_lost_waits_for_it_and_not_ten_minutes() {
    let mut r = rig();
    let executor = Keypair::from_seed(&[2; 32]);
    r.tell(offer(key(2)));
    r.tell(Input::PeerUp(key(2)));
    let won = receipt(&r.tell(submit(1, &[])), &executor);
    r.tell(Input::PeerDown(key(2)));
    r.wait(QUEUE_TIMEOUT * 3);
    let view = r.machine.view(&RunId([1; 16])).unwrap();
    assert_eq!(view.state, RunState::Running);
    assert!(view.tasks[0].why.as_ref().unwrap().contains("its result still counts"), "{view:?}");
    r.tell(Input::PeerUp(key(2)));
    r.tell(Input::Message { peer: key(2), message: Box::new(won) });
    assert!(r.machine.run(&RunId([1; 16])).unwrap().tasks[0].receipt().is_some());
}

#[test]
fn a_lost_attempt_is_given_up_when_its_executor_keeps_nothing_any_more() {
    let mut r = rig();
    r.tell(offer(key(2)));
    r.tell(Input::PeerUp(key(2)));
    r.tell(submit(1, &[]));
    r.tell(Input::PeerDown(key(2)));
    for _ in 0..LOST_KEPT_MAX.as_secs() / 3_600 - 1 {
        r.wait(Duration::from_secs(3_600));
    }
    r.wait(Duration::from_secs(3_600) - Duration::from_millis(1));
    let open = |r: &Rig<Requester>| r.machine.run(&RunId([1; 16])).unwrap().tasks[0].open().count();
    assert_eq!(open(&r), 1);
    r.wait(Duration::from_millis(1));
    assert_eq!(open(&r), 0);
    r.wait(QUEUE_TIMEOUT - Duration::from_millis(1));
    assert_eq!(
        r.machine.view(&RunId([1; 16])).unwrap().state,
        RunState::Running,
        "its time in the queue begins anew"
    );
    r.wait(LOGS_WAIT_MAX);
    assert_eq!(r.machine.view(&RunId([1; 16])).unwrap().state, RunState::Failed);
}

#[test]
fn room_that_one_run_leaves_is_taken_by_another() {
    let mut r = rig();
    let executor = Keypair::from_seed(&[2; 32]);
    r.tell(offer(key(2)));
    r.tell(Input::PeerUp(key(2)));
    let mut first = Vec::new();
    for n in 0..ATTEMPTS_PER_PEER_MAX.min(RUNS_ACTIVE_MAX - 1) {
        first = r.tell(submit(u8::try_from(n).unwrap(), &[]));
    }
    // The last place is taken by the run before; one more waits.
    let filled = ATTEMPTS_PER_PEER_MAX - ATTEMPTS_PER_PEER_MAX.min(RUNS_ACTIVE_MAX - 1);
    assert!(filled <= 1);
    let won = receipt(&first, &executor);
    let mut wide = workflow(&[]);
    let end = |node: &str, port| End { node: node.into(), port };
    let spec = TaskSpec { service: "count".into(), ..TaskSpec::default() };
    wide.nodes.push(("b".into(), NodeKind::Task(spec)));
    wide.edges.push(Edge { from: end("in", Port::Stdout), to: end("b", Port::Stdin) });
    let last = RunId([250; 16]);
    let orders = |out: &[Output]| {
        out.iter().filter(|o| matches!(o, Output::Send { frame, .. } if frame.kind == 0x11)).count()
    };
    let out = r.tell(Input::Submit { id: CommandId(1), run: last, workflow: Box::new(wide) });
    assert_eq!(orders(&out), filled, "the executor has all the orders it gets");
    let out = r.tell(Input::Message { peer: key(2), message: Box::new(won) });
    assert_eq!(orders(&out), 1);
    assert_eq!(
        r.machine.run(&last).unwrap().tasks.iter().map(|t| t.attempts.len()).sum::<usize>(),
        filled + 1
    );
}

#[test]
fn an_unanswered_order_is_repeated_with_growing_pauses() {
    let mut r = rig();
    r.tell(offer(key(2)));
    r.tell(Input::PeerUp(key(2)));
    r.tell(submit(1, &[]));
    let out = r.wait(Duration::from_secs(16));
    let sent = out.iter().filter(|o| matches!(o, Output::Send { frame, .. } if frame.kind == 0x11)).count();
    assert_eq!(sent, 4, "after 1, 3, 7 and 15 seconds");
}

#[test]
fn a_preferred_executor_that_is_away_is_waited_for_a_moment() {
    let mut r = rig();
    r.tell(offer(key(2)));
    r.tell(offer(key(3)));
    r.tell(Input::PeerUp(key(3)));
    let ordered = |out: &[Output]| {
        out.iter().any(|o| matches!(o, Output::Send { peer, frame } if *peer == key(3) && frame.kind == 0x11))
    };
    let out = r.tell(submit(1, &[key(2), key(3)]));
    assert!(!ordered(&out) && out.contains(&Output::NeedPeer(key(2))));
    assert!(ordered(&r.wait(PREFERENCE_GRACE)));
}

#[test]
fn more_active_runs_than_allowed_are_refused() {
    let mut r = rig();
    r.tell(offer(key(2)));
    for n in 0..RUNS_ACTIVE_MAX {
        r.tell(submit(u8::try_from(n).unwrap(), &[]));
    }
    let out = r.tell(submit(255, &[]));
    assert!(matches!(reply(&out), Some(Reply::Error(CommandError::Limit(_)))));
    assert_eq!(r.machine.active(), RUNS_ACTIVE_MAX);
}

fn message() -> impl Strategy<Value = Message> {
    let job = prop_oneof![
        Just(JobId([1; 16])),
        (1u8..4, 1u32..4)
            .prop_map(|(run, fence)| { crate::job::order::job_id(&key(1), &RunId([run; 16]), "a", fence) }),
    ];
    let state = prop::sample::select(vec![JobState::Admitted, JobState::Running, JobState::Sealed]);
    prop_oneof![
        (0u64..2, prop::collection::vec((job.clone(), state), 0..3))
            .prop_map(|(incarnation, jobs)| Message::Inventory { incarnation, jobs }),
        (job.clone(), 0u64..2).prop_map(|(job, incarnation)| Message::Accepted { job, incarnation }),
        (job.clone(), 0u64..9_000).prop_map(|(job, ms)| Message::Rejected {
            job,
            refusal: super::super::message::Refusal::Busy,
            words: "full".into(),
            retry_after: Duration::from_millis(ms),
        }),
        job.prop_map(|job| Message::CancelAck { job }),
        Just(Message::LeaseAck),
    ]
}

#[test]
fn the_requester_obeys_the_laws() {
    let peer = || (1u8..4).prop_map(key);
    let digest = || prop::sample::select(vec![Digest::of(b"in"), Digest::of(b"x")]);
    let input = prop_oneof![
        Just(Input::Started),
        (1u8..4, prop::collection::vec(peer(), 0..2)).prop_map(|(run, peers)| submit(run, &peers)),
        (1u8..5).prop_map(|run| Input::Cancel { id: CommandId(2), run: RunId([run; 16]) }),
        (1u8..5, any::<bool>()).prop_map(|(run, paused)| Input::Pause {
            id: CommandId(2),
            run: RunId([run; 16]),
            paused
        }),
        peer().prop_map(offer),
        peer().prop_map(|peer| Input::Offers { peer, services: None }),
        peer().prop_map(Input::PeerUp),
        peer().prop_map(Input::PeerDown),
        (peer(), message()).prop_map(|(peer, m)| Input::Message { peer, message: Box::new(m) }),
        digest().prop_map(Input::Fetched),
        digest().prop_map(|digest| Input::FetchFailed { digest, why: "no".into() }),
    ];
    check_within(
        || Requester::restore(Keypair::from_seed(&[1; 32]), &[]).unwrap(),
        input,
        |r| {
            assert!(r.active() <= RUNS_ACTIVE_MAX);
            r.check_derived();
            for id in r.runs().keys() {
                assert!(r.view(id).is_some(), "every run can be shown at any moment");
            }
        },
    );
}
