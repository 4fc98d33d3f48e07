//! What a workflow says about time, retries, failure and choice, to the millisecond; and what a user says about a pause.

use super::*;
use crate::job::order::Order;
use crate::job::rules::{Join, OnFailure, Retry, Test, When};
use crate::job::run::{CloseClass, TaskEnd};
use crate::port::EngineInput;

const MS: Duration = Duration::from_millis(1);
const RUN: RunId = RunId([1; 16]);

fn executor() -> Keypair {
    Keypair::from_seed(&[2; 32])
}

/// A requester with one executor, and a run of `workflow`.
fn running(workflow: Workflow) -> (Rig<Requester>, Vec<Output>) {
    let mut r = rig();
    r.tell(offer(key(2)));
    r.tell(Input::PeerUp(key(2)));
    let out = r.tell(Input::Submit { id: CommandId(1), run: RUN, workflow: Box::new(workflow) });
    assert_eq!(reply(&out), Some(&Reply::Submitted(RUN)));
    (r, out)
}

fn with(change: impl FnOnce(&mut TaskSpec)) -> Workflow {
    let mut w = workflow(&[]);
    if let NodeKind::Task(t) = &mut w.nodes[1].1 {
        change(t);
    }
    w
}

/// Tasks that all take the source, by their names.
fn wide(tasks: &[(&str, TaskSpec)]) -> Workflow {
    let end = |node: &str, port| End { node: node.into(), port };
    let mut w = workflow(&[]);
    w.nodes.remove(1);
    w.edges.clear();
    for (id, spec) in tasks {
        let spec = TaskSpec { service: "count".into(), ..spec.clone() };
        w.nodes.push(((*id).into(), NodeKind::Task(spec)));
        w.edges.push(Edge { from: end("in", Port::Stdout), to: end(id, Port::Stdin) });
        w.edges.push(Edge { from: end(id, Port::Stdout), to: end("out", Port::Stdin) });
    }
    w
}

/// Orders that left, each once however often it was said.
fn orders(out: &[Output]) -> Vec<Signed<Order>> {
    let order = |o: &Output| match o {
        Output::Send { frame, .. } => match Message::from_frame(frame) {
            Ok(Message::Dispatch { order, .. }) => Some(*order),
            _ => None,
        },
        _ => None,
    };
    let mut orders: Vec<Signed<Order>> = out.iter().filter_map(order).collect();
    orders.dedup_by_key(|o| o.digest());
    orders
}

fn cancels(out: &[Output]) -> usize {
    out.iter().filter(|o| matches!(o, Output::Send { frame, .. } if frame.kind == 0x17)).count()
}

/// How an executor says that a job has ended.
fn ended(order: &Signed<Order>, class: ExitClass, code: i32) -> Input {
    let by = executor();
    let success = class == ExitClass::Success;
    let output = |port: &Port| EngineOutput {
        port: port.clone(),
        digest: Digest::of(b"out"),
        len: 3,
        truncated: false,
    };
    let outputs: Vec<_> = order.outputs.iter().filter(|_| success).map(output).collect();
    let receipt = Receipt {
        executor: by.public(),
        incarnation: 1,
        seq: 1,
        previous: Digest([0; 32]),
        order: order.digest(),
        job: order.job(),
        engine: "e".into(),
        program: order.program.clone(),
        class,
        code,
        detail: String::new(),
        result: result_digest(class, code, &outputs),
        outputs,
        usage: Usage::default(),
        started: UnixTime::from_secs(1),
        ended: UnixTime::from_secs(2),
    };
    let receipt = Box::new(Signed::sign(receipt, &by));
    let message = Message::SealedOffer { receipt, carried: None, salt: None };
    Input::Message { peer: key(2), message: Box::new(message) }
}

fn says(jobs: &[(JobId, JobState)]) -> Input {
    let message = Message::Inventory { incarnation: 1, jobs: jobs.to_vec() };
    Input::Message { peer: key(2), message: Box::new(message) }
}

/// Lets time pass while the executor says every five seconds that it is at it.
fn wait_heard(r: &mut Rig<Requester>, by: Duration, job: JobId, state: JobState) -> Vec<Output> {
    let mut out = Vec::new();
    let mut left = by;
    while left > Duration::from_secs(5) {
        out.extend(r.wait(Duration::from_secs(5)));
        out.extend(r.tell(says(&[(job, state)])));
        left -= Duration::from_secs(5);
    }
    out.extend(r.wait(left));
    out
}

fn state(r: &Rig<Requester>) -> RunState {
    r.machine.view(&RUN).unwrap().state
}

fn why(r: &Rig<Requester>) -> String {
    r.machine.view(&RUN).unwrap().why.unwrap_or_default()
}

#[test]
fn a_task_waits_for_an_executor_as_long_as_it_says() {
    let mut r = rig();
    r.tell(offer(key(2)));
    let w = with(|t| t.rules.queue_ms = Some(90_000));
    r.tell(Input::Submit { id: CommandId(1), run: RUN, workflow: Box::new(w) });
    r.wait(Duration::from_secs(90) - MS);
    assert_eq!(state(&r), RunState::Running);
    r.wait(MS);
    assert_eq!(state(&r), RunState::Failed);
    assert!(why(&r).contains("not placed within 90 seconds"), "{}", why(&r));
}

#[test]
fn a_run_that_takes_longer_than_it_may_is_stopped_and_fails_with_the_reason() {
    let mut w = workflow(&[]);
    w.rules.timeout_ms = Some(10_000);
    let (mut r, out) = running(w);
    let job = orders(&out)[0].job();
    r.tell(says(&[(job, JobState::Running)]));
    let out = r.wait(Duration::from_secs(10) - MS);
    assert_eq!((state(&r), cancels(&out)), (RunState::Running, 0));
    let out = r.wait(MS);
    assert_eq!((state(&r), cancels(&out)), (RunState::Cancelling, 1), "its executor is told");
    let ack = Message::CancelAck { job };
    r.tell(Input::Message { peer: key(2), message: Box::new(ack) });
    assert_eq!(state(&r), RunState::Failed);
    assert!(why(&r).starts_with("deadline: not done within 10 seconds"), "{}", why(&r));
}

#[test]
fn a_run_whose_time_went_by_while_its_node_was_down_ends_when_it_is_back() {
    let mut w = workflow(&[]);
    w.rules.timeout_ms = Some(60_000);
    let offers = vec![service("count", true, &[])];
    let mut known = Offerings::default();
    known.set(key(2), Some(offers.into()));
    let plan = check(&w, &known).unwrap();
    let record = StoredRecord {
        lsn: Lsn(1),
        subject: Subject::new(Room::Run, &RUN.0),
        record: RunRecord::Planned { plan }.encode(crate::laws::WALL_AT_START).into(),
    };
    let restored = Requester::restore(Keypair::from_seed(&[1; 32]), &[record]).unwrap();
    let mut r = Rig::new(restored, [0; 32]);
    r.wait(Duration::from_secs(59));
    r.tell(Input::Started);
    r.wait(Duration::from_secs(1) - MS);
    assert_eq!(state(&r), RunState::Running, "a second of its minute is left");
    r.wait(MS);
    assert_eq!(state(&r), RunState::Failed);
}

#[test]
fn a_program_that_runs_long_after_its_limit_is_given_to_somebody_else() {
    let (mut r, out) = running(with(|t| t.timeout_ms = Some(1_000)));
    let job = orders(&out)[0].job();
    r.wait(Duration::from_secs(3));
    r.tell(says(&[(job, JobState::Running)]));
    let limit = Duration::from_millis(1_100) + EXECUTION_GRACE;
    let out = wait_heard(&mut r, limit - MS, job, JobState::Running);
    assert_eq!((orders(&out).len(), cancels(&out)), (0, 0));
    let out = r.wait(MS);
    assert_eq!(cancels(&out), 1, "whoever still runs it shall stop");
    let task = &r.machine.run(&RUN).unwrap().tasks[0];
    let closed = task.attempts[0].closed.as_ref().unwrap();
    assert_eq!(closed.class, CloseClass::Infra);
    assert!(closed.words.contains("time limit of 1 second"), "{}", closed.words);
    assert_eq!(orders(&r.wait(BACKOFF_MIN * 2)).len(), 1);
}

#[test]
fn a_silent_executor_is_a_matter_of_its_lease_and_gets_its_say_when_it_is_back() {
    let (mut r, out) = running(with(|t| t.timeout_ms = Some(1_000)));
    let order = orders(&out).remove(0);
    r.tell(says(&[(order.job(), JobState::Running)]));
    r.tell(Input::PeerDown(key(2)));
    r.wait(Duration::from_secs(3_600));
    r.tell(Input::PeerUp(key(2)));
    r.tell(says(&[(order.job(), JobState::Running)]));
    r.wait(EXECUTION_GRACE - Duration::from_secs(20));
    r.tell(ended(&order, ExitClass::Success, 0));
    assert!(r.machine.run(&RUN).unwrap().tasks[0].receipt().is_some());
}

#[test]
fn an_executor_that_never_has_the_inputs_is_given_up() {
    let (mut r, out) = running(workflow(&[]));
    let job = orders(&out)[0].job();
    r.tell(says(&[(job, JobState::Staging)]));
    // The source has a mebibyte: it may take 16 s.
    let enough = STAGING_MAX + Duration::from_secs(16);
    let out = wait_heard(&mut r, enough - MS, job, JobState::Staging);
    assert_eq!(cancels(&out), 0);
    assert_eq!(cancels(&r.wait(MS)), 1);
    let closed = r.machine.run(&RUN).unwrap().tasks[0].attempts[0].closed.clone().unwrap();
    assert_eq!(closed.class, CloseClass::Infra);
}

#[test]
fn each_kind_of_failure_has_its_own_budget() {
    // (rules, failures, which end the task with these words)
    let (user, resource, infra) = (ExitClass::User, ExitClass::Resource, ExitClass::Infra);
    let budgets = Retry { resource: Some(1), infra: Some(0), ..Retry::default() };
    for (failures, words) in [
        (vec![resource, resource], "attempt 2 of 2 that may hit a limit"),
        (vec![infra], "given up after 1 attempts"),
        (vec![user, resource, user, user], "attempt 3 of 3"),
    ] {
        let (mut r, mut out) = running(with(|t| {
            (t.retries, t.rules.retry) = (2, budgets);
        }));
        for (n, class) in failures.iter().enumerate() {
            let order = orders(&out).pop().unwrap_or_else(|| panic!("attempt {n} of {failures:?}"));
            r.tell(ended(&order, *class, 1));
            out = r.wait(BACKOFF_MIN * 20);
        }
        r.wait(LOGS_WAIT_MAX);
        assert_eq!(state(&r), RunState::Failed, "{failures:?}");
        assert!(why(&r).contains(words), "{failures:?}: {}", why(&r));
    }
}

#[test]
fn pauses_between_attempts_are_those_that_were_asked_for() {
    let (mut r, mut out) = running(with(|t| {
        t.retries = 9;
        t.rules.retry = Retry { pause_ms: Some(10_000), pause_max_ms: Some(20_000), ..Retry::default() };
    }));
    // A fifth more or less, so that tasks which failed together do not come back together.
    for (first, last) in [(8, 12), (16, 24), (16, 24)] {
        r.tell(ended(&orders(&out)[0], ExitClass::User, 1));
        assert_eq!(orders(&r.wait(Duration::from_secs(first) - MS)).len(), 0);
        out = r.wait(Duration::from_secs(last - first) + MS);
        assert_eq!(orders(&out).len(), 1);
    }
}

#[test]
fn after_a_limit_was_hit_there_is_twice_the_memory_up_to_what_was_asked_for() {
    let kib = |n: u64| n << 10;
    // The service allows 1 MiB.
    for (most, expected) in [(kib(300), [100, 200, 300, 300]), (0, [100, 200, 400, 800])] {
        let (mut r, mut out) = running(with(|t| {
            (t.retries, t.memory_bytes) = (9, Some(kib(100)));
            t.rules.retry.memory_max = Some(most);
        }));
        let mut got = Vec::new();
        for _ in 0..4 {
            let order = orders(&out).remove(0);
            got.push(order.limits.memory_bytes >> 10);
            r.tell(ended(&order, ExitClass::Resource, 0));
            out = r.wait(BACKOFF_MIN * 20);
        }
        assert_eq!(got, expected);
    }
}

fn when(task: &str, test: Test) -> Vec<When<String>> {
    vec![When { task: task.into(), test }]
}

fn rules(change: impl FnOnce(&mut TaskSpec)) -> TaskSpec {
    let mut spec = TaskSpec::default();
    change(&mut spec);
    spec
}

#[test]
fn a_task_for_a_failure_runs_only_then_and_the_run_succeeds() {
    for (code, runs) in [(0, false), (7, true)] {
        let handler = rules(|t| t.rules.when = when("a", Test::Failed));
        let (mut r, out) = running(wide(&[("a", TaskSpec::default()), ("mend", handler)]));
        assert_eq!(orders(&out).len(), 1, "the condition is not decided");
        let class = if code == 0 { ExitClass::Success } else { ExitClass::User };
        let out = r.tell(ended(&orders(&out)[0], class, code));
        assert_eq!(orders(&out).len(), usize::from(runs));
        let end = r.machine.run(&RUN).unwrap().tasks[1].end.clone();
        if runs {
            assert_eq!(end, None);
            r.tell(ended(&orders(&out)[0], ExitClass::Success, 0));
        } else {
            assert_eq!(end, Some(TaskEnd::Skipped { words: "a did not fail".into() }));
        }
        r.tell(Input::Fetched(Digest::of(b"out")));
        assert_eq!(state(&r), RunState::Succeeded, "{}", why(&r));
    }
}

#[test]
fn a_failure_with_another_exit_code_than_is_handled_fails_the_run() {
    let handler = rules(|t| t.rules.when = when("a", Test::Code(3)));
    let (mut r, out) = running(wide(&[("a", TaskSpec::default()), ("mend", handler)]));
    r.tell(ended(&orders(&out)[0], ExitClass::User, 4));
    assert_eq!(state(&r), RunState::Failed);
    assert!(why(&r).starts_with("task a failed: exit code 4"), "{}", why(&r));
}

#[test]
fn a_run_that_goes_on_after_a_failure_keeps_what_could_be_computed_and_fails() {
    let mut w = wide(&[("a", TaskSpec::default()), ("b", TaskSpec::default())]);
    w.rules.on_failure = OnFailure::Continue;
    let (mut r, out) = running(w);
    let ordered = orders(&out);
    assert_eq!(ordered.len(), 2);
    r.tell(ended(&ordered[0], ExitClass::User, 1));
    assert_eq!(state(&r), RunState::Running);
    r.tell(ended(&ordered[1], ExitClass::Success, 0));
    assert_eq!(state(&r), RunState::Finalizing, "the result of b is not here");
    r.tell(Input::Fetched(Digest::of(b"out")));
    let view = r.machine.view(&RUN).unwrap();
    assert_eq!((view.state, view.failed, view.skipped), (RunState::Failed, 1, 0));
    assert_eq!(view.results.iter().map(|r| (r.len, r.fetched)).collect::<Vec<_>>(), [(3, 3)]);
}

#[test]
fn what_is_not_there_is_left_out_where_a_task_is_joined_always() {
    let end = |node: &str, port| End { node: node.into(), port };
    let mut w = wide(&[
        ("a", TaskSpec::default()),
        ("b", TaskSpec::default()),
        ("all", rules(|t| t.rules.join = Join::Always)),
    ]);
    w.edges.retain(|e| e.to.node != "all");
    for from in ["a", "b"] {
        w.edges.push(Edge { from: end(from, Port::Stdout), to: end("all", Port::Stdin) });
    }
    let (mut r, out) = running(w);
    let ordered = orders(&out);
    r.tell(ended(&ordered[0], ExitClass::User, 1));
    let out = r.tell(ended(&ordered[1], ExitClass::Success, 0));
    let inputs = orders(&out)[0].inputs.clone();
    assert_eq!(inputs, [EngineInput { port: Port::Stdin, digest: Digest::of(b"out"), len: 3 }]);
}

#[test]
fn a_paused_run_orders_nothing_lets_what_runs_finish_and_goes_on() {
    let end = |node: &str, port| End { node: node.into(), port };
    let mut w = wide(&[("a", TaskSpec::default()), ("b", TaskSpec::default())]);
    w.rules.timeout_ms = Some(20_000);
    w.edges.retain(|e| e.to.node != "b");
    w.edges.push(Edge { from: end("a", Port::Stdout), to: end("b", Port::Stdin) });
    let (mut r, out) = running(w);
    let pause = |paused| Input::Pause { id: CommandId(9), run: RUN, paused };
    assert_eq!(reply(&r.tell(pause(true))), Some(&Reply::Done));
    r.wait(Duration::from_secs(5));
    let at = r.wall().minus(Duration::from_secs(5));
    assert_eq!(r.machine.view(&RUN).unwrap().paused, Some(at));
    let done = r.tell(ended(&orders(&out)[0], ExitClass::Success, 0));
    assert!(r.machine.run(&RUN).unwrap().tasks[0].receipt().is_some(), "what was ordered before counts");
    assert_eq!((orders(&done).len(), state(&r)), (0, RunState::Paused));
    assert_eq!(r.machine.view(&RUN).unwrap().tasks[1].why.as_deref(), Some("the run is paused"));
    let written = |out: &[Output]| out.iter().filter(|o| matches!(o, Output::Persist(_))).count();
    assert_eq!(written(&r.tell(pause(true))), 0, "it is paused already");
    assert_eq!(orders(&r.wait(QUEUE_TIMEOUT * 2)).len(), 0, "no time runs meanwhile");
    let out = r.tell(pause(false));
    assert_eq!((orders(&out).len(), state(&r)), (1, RunState::Running));
    r.wait(Duration::from_secs(20) - MS);
    assert_eq!(state(&r), RunState::Running);
    r.wait(MS);
    assert_eq!(state(&r), RunState::Cancelling, "its own time runs on");
    let refused = r.tell(pause(true));
    assert_eq!(reply(&refused), Some(&Reply::Error(CommandError::RunOver(RUN))));
}
