//! Tasks that several executors do, among some that lie: with results that are well formed, signed, pledged and wrong.

use super::world::World;
use super::{RUN, check_success, computed, diamond, seeds};
use crate::command::RunState;
use crate::id::{CommandId, Digest, PublicKey};
use crate::job::quorum::Evidence;
use crate::job::receipt::verify_file;
use crate::job::requester;
use crate::job::rules::Quorum;
use crate::job::run::{CloseClass, Task, TaskEnd};
use crate::job::workflow::{NodeKind, Workflow};
use crate::port::{EngineOutput, Port};
use crate::time::Duration;
use std::collections::BTreeMap;

fn asked(peers: &[PublicKey], quorum: Option<Quorum>, audit_ppm: Option<u32>) -> Workflow {
    let mut w = diamond(peers);
    for (_, node) in &mut w.nodes {
        if let NodeKind::Task(spec) = node {
            spec.rules.quorum = quorum;
            spec.rules.audit_ppm = audit_ppm;
        }
    }
    w
}

fn two_of_three() -> Workflow {
    asked(&[], Some(Quorum { agree: 2, of: 3 }), None)
}

fn tasks(w: &World) -> &[Task] {
    &w.requester.run(&RUN).unwrap().tasks
}

fn dissenters(w: &World) -> usize {
    tasks(w).iter().map(|t| t.closed_for(&[CloseClass::Dissent])).sum()
}

/// An executor's own word, or one that two share.
fn liars(words: &[(usize, &'static str)]) -> BTreeMap<usize, &'static str> {
    words.iter().copied().collect()
}

#[test]
fn a_quiet_world_agrees_and_everybody_who_did_is_named() {
    let mut w = World::with(0, 3, None);
    w.submit_workflow(&two_of_three());
    w.settle();
    check_success(&w, 0);
    assert!(w.at_rest());
    assert_eq!((w.disagreements, dissenters(&w)), (0, 0));
    for task in tasks(&w) {
        assert_eq!(task.attempts.len(), 3);
        assert!(task.attempts.iter().all(|a| a.pledge.is_some()), "three pledged before anything was shown");
    }
    for view in w.requester.view(&RUN).unwrap().tasks {
        let report = verify_file(&view.receipt.unwrap()).unwrap();
        assert!(!report.agreed.is_empty(), "{}", view.id);
        assert_eq!(view.agreement.unwrap().agreed.len(), 1 + report.agreed.len());
    }
}

#[test]
fn whatever_is_lost_doubled_reordered_or_crashed_enough_agree() {
    for seed in seeds(20_000) {
        let mut w = World::with(seed, 4, None);
        w.submit_workflow(&two_of_three());
        for _ in 0..400 {
            w.step();
        }
        w.settle();
        assert!(w.at_rest(), "seed {seed}: {:#?}", w.requester.view(&RUN));
        check_success(&w, seed);
        assert_eq!(dissenters(&w), 0, "seed {seed}");
    }
}

#[test]
fn a_crash_at_every_record_boundary_changes_no_agreement() {
    let world = || World { wrong: liars(&[(1, "wrong")]), ..World::with(11, 3, None) };
    let mut undisturbed = world();
    undisturbed.submit_workflow(&two_of_three());
    undisturbed.settle();
    for crash_at in 0..undisturbed.written {
        let mut w = world();
        w.fuse = Some(crash_at);
        w.submit_workflow(&two_of_three());
        if w.requester.run(&RUN).is_none() {
            w.submit_workflow(&two_of_three());
        }
        w.calmly();
        assert!(w.at_rest(), "crash at {crash_at}: {:#?}", w.requester.view(&RUN));
        check_success(&w, crash_at);
    }
}

#[test]
fn a_wrong_result_that_is_well_formed_and_signed_is_never_committed_by_one() {
    for seed in seeds(21_000) {
        let mut w = World::with(seed, 4, None);
        w.wrong = liars(&[(0, "wrong")]);
        w.submit_workflow(&two_of_three());
        for _ in 0..250 {
            w.step();
        }
        w.settle();
        assert!(w.at_rest(), "seed {seed}: {:#?}", w.requester.view(&RUN));
        check_success(&w, seed);
    }
}

#[test]
fn two_that_collude_cannot_have_their_way_where_three_must_agree() {
    for seed in seeds(22_000) {
        let mut w = World::with(seed, 6, None);
        w.wrong = liars(&[(0, "of one mind"), (1, "of one mind")]);
        let workflow = asked(&[], Some(Quorum { agree: 3, of: 4 }), None);
        w.submit_workflow(&workflow);
        for _ in 0..250 {
            w.step();
        }
        w.settle();
        assert!(w.at_rest(), "seed {seed}: {:#?}", w.requester.view(&RUN));
        check_success(&w, seed);
    }
}

#[test]
fn without_faults_no_more_attempts_are_made_than_liars_can_cause() {
    for seed in 0..20 {
        let mut w = World::with(seed, 6, None);
        w.wrong = liars(&[(0, "of one mind"), (1, "of one mind")]);
        let quorum = Quorum { agree: 3, of: 4 };
        w.submit_workflow(&asked(&[], Some(quorum), None));
        w.settle();
        check_success(&w, seed);
        for task in tasks(&w) {
            assert!(task.attempts.len() <= (quorum.agree + quorum.of) as usize);
        }
        assert!(w.disagreements > 0, "seed {seed}");
    }
}

#[test]
fn a_liar_with_forged_receipts_and_another_with_wrong_ones_do_not_stop_two_honest_ones() {
    for seed in seeds(23_000) {
        let mut w = World::with(seed, 4, Some(0));
        w.wrong = liars(&[(1, "wrong")]);
        w.submit_workflow(&two_of_three());
        for _ in 0..150 {
            w.step();
        }
        w.settle();
        assert!(w.at_rest(), "seed {seed}: {:#?}", w.requester.view(&RUN));
        check_success(&w, seed);
    }
}

#[test]
fn when_nobody_agrees_the_task_fails_and_says_who_said_what() {
    let mut w = World::with(3, 3, None);
    w.wrong = liars(&[(0, "zero"), (1, "one")]);
    w.submit_workflow(&two_of_three());
    w.settle();
    assert!(w.at_rest());
    assert_eq!(w.state(), RunState::Failed);
    let view = w.requester.view(&RUN).unwrap();
    let why = view.why.clone().unwrap();
    assert!(why.contains("no 2 executors agree"), "{why}");
    for n in 0..3 {
        assert!(why.contains(&World::peer(n).to_string()), "{why}");
    }
    assert_eq!(w.disagreements, 1);
    let agreement = view.tasks[0].agreement.clone().unwrap();
    assert_eq!(agreement.dissent.len(), 3);
    let shown = Evidence::decode(&agreement.evidence.unwrap()).unwrap().verify().unwrap();
    assert_eq!((shown.results.len(), shown.task.as_str()), (3, "a"));
}

#[test]
fn who_disagrees_is_kept_with_what_it_signed() {
    let mut w = World::with(8, 3, None);
    w.wrong = liars(&[(2, "wrong")]);
    w.submit_workflow(&two_of_three());
    w.settle();
    check_success(&w, 8);
    assert_eq!(dissenters(&w), tasks(&w).len(), "at every task");
    assert_eq!(w.disagreements, tasks(&w).len());
    for view in w.requester.view(&RUN).unwrap().tasks {
        let agreement = view.agreement.unwrap();
        assert_eq!(agreement.dissent.iter().map(|(p, _)| *p).collect::<Vec<_>>(), [World::peer(2)]);
        let shown = Evidence::decode(&agreement.evidence.unwrap()).unwrap().verify().unwrap();
        let wrong = shown.results.iter().filter(|(_, who, _)| who.contains(&World::peer(2))).count();
        assert_eq!(wrong, 1);
    }
}

#[test]
fn a_slow_executor_is_waited_for_exactly_as_long_as_said() {
    let mut w = World::with(9, 3, None);
    w.submit_workflow(&two_of_three());
    w.answer_reads();
    while !w.wire.is_empty() {
        w.deliver(0, false);
    }
    w.calm = true;
    for n in [0, 1] {
        while w.answers_something(n) {
            w.finish_a_guest(n);
            w.answer_a_want(n);
        }
    }
    while !w.wire.is_empty() {
        w.deliver(0, false);
    }
    let committed = |w: &World| tasks(w)[0].end.is_some();
    for _ in 0..29 {
        w.pass(Duration::from_secs(1));
        w.deliver_all();
    }
    assert!(!committed(&w), "the third is still waited for");
    w.pass(Duration::from_secs(1));
    w.deliver_all();
    assert!(committed(&w));
    w.settle();
    check_success(&w, 9);
}

#[test]
fn a_cancel_at_any_moment_ends_all_attempts() {
    for seed in seeds(24_000) {
        let mut w = World::with(seed, 4, None);
        w.wrong = liars(&[(0, "wrong")]);
        w.submit_workflow(&asked(&[], Some(Quorum { agree: 2, of: 3 }), Some(500_000)));
        for _ in 0..(seed * 7) % 200 {
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
fn an_audit_finds_a_liar_and_undoes_nothing() {
    let mut w = World::with(12, 2, None);
    w.wrong = liars(&[(0, "wrong")]);
    let order = [World::peer(0), World::peer(1)];
    w.submit_workflow(&asked(&order, None, Some(1_000_000)));
    w.settle();
    assert!(w.at_rest());
    assert_eq!(w.state(), RunState::Succeeded, "nothing is un-committed");
    for task in tasks(&w) {
        assert!(
            matches!(&task.end, Some(TaskEnd::Committed { receipt, .. }) if receipt.executor == World::peer(0))
        );
        assert_eq!(task.attempts.len(), 2);
        assert_eq!(task.closed_for(&[CloseClass::Dissent]), 1);
    }
    assert_eq!(w.disagreements, 4);
    let view = w.requester.view(&RUN).unwrap();
    let evidence = view.tasks[3].agreement.as_ref().unwrap().evidence.clone().unwrap();
    assert_eq!(Evidence::decode(&evidence).unwrap().verify().unwrap().results.len(), 2);
}

#[test]
fn audits_of_honest_executors_find_nothing_whatever_happens() {
    for seed in seeds(25_000) {
        let mut w = World::with(seed, 3, None);
        w.submit_workflow(&asked(&[], None, Some(1_000_000)));
        for _ in 0..250 {
            w.step();
        }
        w.settle();
        assert!(w.at_rest(), "seed {seed}: {:#?}", w.requester.view(&RUN));
        check_success(&w, seed);
        assert_eq!((dissenters(&w), w.disagreements), (0, 0), "seed {seed}");
        assert!(tasks(&w).iter().all(|t| t.attempts.iter().filter(|a| a.audit).count() <= 3), "seed {seed}");
    }
}

/// Committed tasks whose outputs are not what their inputs give, and all orders, over many runs with two liars among ten.
fn lied_to(
    quorum: Option<Quorum>,
    audit_ppm: Option<u32>,
    words: [&'static str; 2],
) -> (usize, usize, usize, usize) {
    let (mut committed, mut wrong, mut orders, mut noticed) = (0, 0, 0, 0);
    for seed in 0..50 {
        let mut w = World::with(seed, 10, None);
        w.compared = false;
        let first = usize::try_from(w.rng.below(10)).unwrap();
        let second = (first + 1 + usize::try_from(w.rng.below(9)).unwrap()) % 10;
        w.wrong = liars(&[(first, words[0]), (second, words[1])]);
        let mut workflow = asked(&[], quorum, audit_ppm);
        for (_, node) in &mut workflow.nodes {
            if let NodeKind::Task(spec) = node {
                // Another plan each time: whether a task is audited follows from it.
                spec.args = vec![seed.to_string()];
            }
        }
        w.submit_workflow(&workflow);
        w.settle();
        assert!(w.at_rest(), "seed {seed}");
        noticed += w.disagreements;
        for task in tasks(&w) {
            orders += task.attempts.len();
            let Some(TaskEnd::Committed { fence, receipt, .. }) = &task.end else { continue };
            committed += 1;
            let order = &task.attempt(*fence).unwrap().order;
            let inputs: Vec<(&Port, Digest)> = order.inputs.iter().map(|i| (&i.port, i.digest)).collect();
            let lie = |o: &EngineOutput| o.digest != computed(&order.args, &inputs, &o.port);
            wrong += usize::from(receipt.outputs.iter().any(lie));
        }
    }
    (committed, wrong, orders, noticed)
}

/// Prints the figures of docs/VERIFICATION.md; run it with `--nocapture`.
#[test]
fn one_liar_in_five_gets_little_through_and_is_noticed() {
    let (two, three) = (Quorum { agree: 2, of: 3 }, Quorum { agree: 3, of: 5 });
    let alone = ["one", "two"];
    let together = ["same", "same"];
    let cases = [
        ("nothing asked", None, None, alone, None),
        ("audit 5%", None, Some(50_000), alone, None),
        ("audit 100%", None, Some(1_000_000), alone, None),
        ("2 of 3", Some(two), None, alone, Some(0)),
        ("2 of 3, colluding", Some(two), None, together, None),
        ("3 of 5, colluding", Some(three), None, together, Some(0)),
    ];
    let mut unguarded = 0;
    for (name, quorum, audit, words, bound) in cases {
        let (committed, wrong, orders, noticed) = lied_to(quorum, audit, words);
        println!(
            "{name:<18} {committed:>4} tasks, {wrong:>3} wrong, {:.2} orders a task, {noticed} disagreements",
            orders as f64 / committed as f64
        );
        assert_eq!(committed, 200, "{name}: every run succeeds");
        assert!(bound.is_none_or(|most| wrong <= most), "{name}: {wrong} wrong results");
        unguarded += if quorum.is_none() { wrong } else { 0 };
    }
    assert!(unguarded > 0, "the liars lie");
}
