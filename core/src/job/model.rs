//! A requester, a few executors and an adversarial world, in memory.
//!
//! The world drops, doubles and reorders messages, cuts connections, crashes machines at every journal record boundary
//! (what came before is durable, what came after never happened), loses engines, fails fetches, and lets one executor lie.
//! Faults are finite; then the world is quiet and everything must come to rest. Checked all the way: one commit per
//! task, fences that rise, no order after a cancel, inputs that were committed first, receipts that verify, and a journal
//! that folds to the very state it came from. What is computed is that of a diamond, or random workflows ([`workflows`]).

mod agreement;
mod checks;
mod course;
mod large;
mod workflows;
mod world;

use super::encoding::port_text;
use super::receipt::verify_file;
use super::requester;
use super::run::TaskEnd;
use super::validate::tests::service;
use super::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use crate::command::{Reply, RunState};
use crate::id::{CommandId, Digest, Keypair, PublicKey, RunId};
use crate::port::Port;
use crate::service::{MountDirection, Service};
use crate::time::Duration;
use bytes::Bytes;

use world::World;

const RUN: RunId = RunId([5; 16]);

fn keypair(n: usize) -> Keypair {
    Keypair::from_seed(&[u8::try_from(n).unwrap() + 1; 32])
}

/// What every executor offers: a filter, and a task that joins two mounts into a third.
fn services() -> Vec<Service> {
    let mounts = [("a", MountDirection::In), ("b", MountDirection::In), ("o", MountDirection::Out)];
    vec![service("count", true, &[]), service("blend", false, &mounts)]
}

/// in → a → {b, c} → d → kept: a diamond.
fn diamond(peers: &[PublicKey]) -> Workflow {
    let task =
        || NodeKind::Task(TaskSpec { service: "count".into(), peers: peers.to_vec(), ..TaskSpec::default() });
    let edge = |from: &str, to: &str| Edge {
        from: End { node: from.into(), port: Port::Stdout },
        to: End { node: to.into(), port: Port::Stdin },
    };
    let object = ObjectRef { digest: Digest::of(b"in"), len: 2 };
    Workflow {
        name: "diamond".into(),
        nodes: vec![
            ("in".into(), NodeKind::Source(vec![object])),
            ("a".into(), task()),
            ("b".into(), task()),
            ("c".into(), task()),
            ("d".into(), task()),
            ("kept".into(), NodeKind::Sink),
        ],
        edges: vec![
            edge("in", "a"),
            edge("a", "b"),
            edge("a", "c"),
            edge("b", "d"),
            edge("c", "d"),
            edge("d", "kept"),
        ],
        ..Workflow::default()
    }
}

/// An argument with which a guest fails, whatever it is given.
const FAILS: &str = "fails";

/// What a guest writes to `port`: a function of its arguments and of its inputs in their order.
fn written(args: &[String], inputs: &[(&Port, Digest)], port: &Port) -> Bytes {
    let names: Vec<String> = inputs.iter().map(|(to, _)| port_text(to)).collect();
    let mut parts: Vec<&[u8]> = args.iter().map(String::as_bytes).collect();
    for (name, (_, digest)) in names.iter().zip(inputs) {
        parts.extend([name.as_bytes(), &digest.0[..]]);
    }
    Bytes::copy_from_slice(&Digest::in_domain(&port_text(port), &parts).0)
}

/// Names [`written`].
fn computed(args: &[String], inputs: &[(&Port, Digest)], port: &Port) -> Digest {
    Digest::of(&written(args, inputs, port))
}

/// A source that workflows name.
fn source(digest: &Digest) -> Bytes {
    let all = ["in", "xx", "yy"];
    let found = all.into_iter().find(|s| Digest::of(s.as_bytes()) == *digest);
    Bytes::from_static(found.expect("a source").as_bytes())
}

fn check_success(w: &World, seed: u64) {
    let view = w.requester.view(&RUN).unwrap();
    assert_eq!(view.state, RunState::Succeeded, "seed {seed}: {view:#?}");
    assert_eq!(view.results.len(), 1);
    assert_eq!(view.results[0].digest, workflows::result(&diamond(&[]), "d", &Port::Stdout), "seed {seed}");
    assert!(w.here.contains(&view.results[0].digest), "seed {seed}: the result is not here");
    for t in &view.tasks {
        let report = verify_file(t.receipt.as_ref().unwrap()).unwrap();
        assert_eq!(report.task, t.id);
    }
}

fn seeds(first: u64) -> std::ops::Range<u64> {
    first..first + 60
}

#[test]
fn a_quiet_world_finishes_and_forgets() {
    let mut w = World::new(0, None);
    w.submit(&[]);
    w.settle();
    check_success(&w, 0);
    assert!(w.at_rest(), "executors hold nothing any more");
    let records = w.written;
    w.submit(&[]);
    assert_eq!(w.written, records, "the same submission again is the same run");
    assert_eq!(w.replies, vec![Reply::Submitted(RUN), Reply::Submitted(RUN)]);
}

#[test]
fn whatever_is_lost_doubled_reordered_or_crashed_each_task_is_committed_once() {
    for seed in seeds(1_000) {
        let mut w = World::new(seed, None);
        w.submit(&[]);
        for _ in 0..250 {
            w.step();
        }
        w.settle();
        assert!(w.at_rest(), "seed {seed}: {:#?}", w.requester.view(&RUN));
        check_success(&w, seed);
    }
}

#[test]
fn a_crash_at_every_record_boundary_changes_nothing() {
    let mut undisturbed = World::new(7, None);
    undisturbed.submit(&[]);
    undisturbed.settle();
    let records = undisturbed.written;
    for crash_at in 0..records {
        let mut w = World::new(7, None);
        w.fuse = Some(crash_at);
        w.submit(&[]);
        if w.requester.run(&RUN).is_none() {
            w.submit(&[]);
        }
        w.calmly();
        assert!(w.at_rest(), "crash at {crash_at}: {:#?}", w.requester.view(&RUN));
        check_success(&w, crash_at);
    }
}

#[test]
fn a_cancel_at_any_moment_ends_the_run_and_all_its_jobs() {
    for seed in seeds(2_000) {
        let mut w = World::new(seed, None);
        w.submit(&[]);
        for _ in 0..(seed * 7) % 150 {
            w.step();
        }
        w.fuse = None;
        w.tell_requester(requester::Input::Cancel { id: CommandId(2), run: RUN });
        for _ in 0..60 {
            w.step();
        }
        w.settle();
        assert!(w.at_rest(), "seed {seed}: {:#?}", w.requester.view(&RUN));
        assert!(matches!(w.state(), RunState::Cancelled | RunState::Succeeded), "seed {seed}");
    }
}

#[test]
fn a_liar_commits_nothing_and_the_honest_one_finishes_the_run() {
    for seed in seeds(3_000) {
        let mut w = World::new(seed, Some(0));
        w.submit(&[]);
        for _ in 0..120 {
            w.step();
        }
        w.settle();
        assert!(w.at_rest(), "seed {seed}: {:#?}", w.requester.view(&RUN));
        check_success(&w, seed);
        let run = w.requester.run(&RUN).unwrap();
        for t in &run.tasks {
            assert!(
                matches!(&t.end, Some(TaskEnd::Committed { receipt, .. }) if receipt.executor == World::peer(1))
            );
        }
    }
}

#[test]
fn a_run_whose_only_executor_lies_fails_and_says_so() {
    let mut w = World::new(4, Some(0));
    w.submit(&[World::peer(0)]);
    w.settle();
    assert_eq!(w.state(), RunState::Failed);
    let why = w.requester.view(&RUN).unwrap().why.unwrap();
    assert!(why.contains("task a failed") && why.contains("no executor is left"), "{why}");
}

#[test]
fn a_lost_executor_is_replaced_and_its_late_result_is_superseded() {
    let mut w = World::new(5, None);
    w.submit(&[World::peer(0), World::peer(1)]);
    w.answer_reads();
    while !w.wire.is_empty() {
        w.deliver(0, false);
    }
    w.disconnect(0);
    w.pass(Duration::from_secs(31));
    w.calm = true;
    let fences = |w: &World| w.requester.run(&RUN).unwrap().tasks[0].attempts.len();
    assert_eq!(fences(&w), 2, "ordered elsewhere under the next fence");
    w.settle();
    check_success(&w, 5);
    assert!(w.at_rest());
}

#[test]
fn a_lost_executor_that_returns_first_wins() {
    let mut w = World::new(6, None);
    w.calm = true;
    w.submit(&[World::peer(0)]);
    w.answer_reads();
    while !w.wire.is_empty() {
        w.deliver(0, false);
    }
    w.disconnect(0);
    w.pass(Duration::from_secs(60));
    assert_eq!(w.requester.run(&RUN).unwrap().tasks[0].attempts.len(), 1);
    w.settle();
    check_success(&w, 6);
    assert_eq!(w.requester.run(&RUN).unwrap().tasks[0].attempts.len(), 1, "nothing was done twice");
}
