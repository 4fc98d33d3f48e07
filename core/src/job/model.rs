//! A requester, two executors and an adversarial world, in memory.
//!
//! The world drops, doubles and reorders messages, cuts connections, crashes machines at every journal record boundary
//! (what came before is durable, what came after never happened), loses engines, fails fetches, and lets one executor lie.
//! Faults are finite; then the world is quiet and everything must come to rest. Checked all the way: one commit per
//! task, fences that rise, no order after a cancel, inputs that were committed first, receipts that verify, and a journal
//! that folds to the very state it came from.

use super::executor::{self, Executor, ExecutorConfig};
use super::message::{Addressee, Message};
use super::receipt::{Receipt, verify_file};
use super::requester::{self, Requester};
use super::run::{RunRecord, TaskEnd};
use super::signed::Signed;
use super::validate::tests::service;
use super::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use crate::codec::Frame;
use crate::command::{Reply, RunState};
use crate::id::{CommandId, Digest, JobId, Keypair, Lsn, PublicKey, RunId};
use crate::machine::{Cx, Machine};
use crate::port::{
    EngineEvent, EngineExit, EngineJob, EngineOutput, EngineReport, EngineRequest, ExitClass, Port, Usage,
};
use crate::rng::Rng;
use crate::service::Service;
use crate::store::{Room, StoreOp, StoredRecord};
use crate::time::{Duration, Instant, UnixTime};
use std::collections::{BTreeMap, BTreeSet};

const RUN: RunId = RunId([5; 16]);
const EXECUTORS: usize = 2;

fn keypair(n: usize) -> Keypair {
    Keypair::from_seed(&[u8::try_from(n).unwrap() + 1; 32])
}

fn count() -> Service {
    service("count", true, &[])
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
    }
}

#[derive(Default)]
struct Journal(Vec<StoredRecord>);

impl Journal {
    fn apply(&mut self, op: StoreOp) {
        let lsn = Lsn(self.0.len() as u64 + 1);
        match op {
            StoreOp::Append { subject, record } => self.0.push(StoredRecord { lsn, subject, record }),
            StoreOp::Replace { subject, record } => {
                self.0.retain(|r| r.subject != subject);
                self.0.push(StoredRecord { lsn, subject, record });
            }
            StoreOp::Forget { subject } => self.0.retain(|r| r.subject != subject),
        }
    }
}

struct World {
    rng: Rng,
    machine_rng: Rng,
    now: Instant,
    requester: Requester,
    requester_journal: Journal,
    /// Every record the requester ever wrote, in order.
    history: Vec<RunRecord>,
    executors: Vec<Executor>,
    executor_journals: Vec<Journal>,
    incarnations: Vec<u64>,
    up: Vec<bool>,
    /// (executor, to the executor?, frame)
    wire: Vec<(usize, bool, Frame)>,
    engines: Vec<BTreeMap<JobId, EngineJob>>,
    wants: Vec<BTreeSet<(Digest, executor::Claim)>>,
    requester_wants: BTreeSet<Digest>,
    here: BTreeSet<Digest>,
    /// Crash a machine when it has written so many more records.
    fuse: Option<u64>,
    liar: Option<usize>,
    last_receipt: Option<Signed<Receipt>>,
    calm: bool,
    replies: Vec<Reply>,
}

fn restore_requester(journal: &Journal) -> Requester {
    Requester::restore(keypair(0), &journal.0).unwrap()
}

fn restore_executor(n: usize, incarnation: u64, journal: &Journal) -> Executor {
    let config = ExecutorConfig {
        keypair: keypair(n + 1),
        incarnation,
        engine: "model 1".into(),
        accept_jobs: true,
        running_max: 2,
    };
    Executor::restore(config, &journal.0).unwrap()
}

impl World {
    fn new(seed: u64, liar: Option<usize>) -> World {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut w = World {
            rng: Rng::derive(&bytes, "world"),
            machine_rng: Rng::derive(&bytes, "machines"),
            now: Instant::from_millis(1),
            requester: restore_requester(&Journal::default()),
            requester_journal: Journal::default(),
            history: Vec::new(),
            executors: Vec::new(),
            executor_journals: Vec::new(),
            incarnations: vec![1; EXECUTORS],
            up: vec![false; EXECUTORS],
            wire: Vec::new(),
            engines: vec![BTreeMap::new(); EXECUTORS],
            wants: vec![BTreeSet::new(); EXECUTORS],
            requester_wants: BTreeSet::new(),
            here: BTreeSet::new(),
            fuse: None,
            liar,
            last_receipt: None,
            calm: false,
            replies: Vec::new(),
        };
        for n in 0..EXECUTORS {
            w.executors.push(restore_executor(n, 1, &Journal::default()));
            w.executor_journals.push(Journal::default());
        }
        w.wake_requester();
        for n in 0..EXECUTORS {
            w.wake_executor(n);
            w.connect(n);
        }
        w
    }

    fn peer(n: usize) -> PublicKey {
        keypair(n + 1).public()
    }

    fn wall(&self) -> UnixTime {
        UnixTime::from_millis(1_700_000_000_000 + self.now.as_millis())
    }

    fn wake_requester(&mut self) {
        for n in 0..EXECUTORS {
            let services = Some(vec![count()].into());
            self.tell_requester(requester::Input::Offers { peer: Self::peer(n), services });
        }
        self.tell_requester(requester::Input::Started);
    }

    fn wake_executor(&mut self, n: usize) {
        self.tell_executor(n, executor::Input::Services(vec![count()]));
        self.tell_executor(n, executor::Input::Started);
    }

    fn connect(&mut self, n: usize) {
        if !self.up[n] {
            self.up[n] = true;
            self.tell_requester(requester::Input::PeerUp(Self::peer(n)));
            self.tell_executor(n, executor::Input::PeerUp(keypair(0).public()));
        }
    }

    fn disconnect(&mut self, n: usize) {
        if self.up[n] {
            self.up[n] = false;
            self.wire.retain(|(at, ..)| *at != n);
            self.tell_requester(requester::Input::PeerDown(Self::peer(n)));
            self.tell_executor(n, executor::Input::PeerDown(keypair(0).public()));
        }
    }

    fn tell_requester(&mut self, input: requester::Input) {
        let mut out = Vec::new();
        let (now, wall) = (self.now, self.wall());
        self.requester.handle(&mut Cx::new(now, wall, &mut self.machine_rng, &mut out), input);
        self.requester_said(out);
    }

    fn tell_executor(&mut self, n: usize, input: executor::Input) {
        let mut out = Vec::new();
        let (now, wall) = (self.now, self.wall());
        self.executors[n].handle(&mut Cx::new(now, wall, &mut self.machine_rng, &mut out), input);
        self.executor_said(n, out);
    }

    /// Whether the fuse blows at this record.
    fn burns(&mut self) -> bool {
        match self.fuse.as_mut() {
            Some(0) => {
                self.fuse = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn requester_said(&mut self, out: Vec<requester::Output>) {
        for o in out {
            match o {
                requester::Output::Persist(op) => {
                    if let StoreOp::Append { record, .. } = &op {
                        let (record, _) = RunRecord::decode(record).unwrap();
                        self.check_record(&record);
                        self.history.push(record);
                    }
                    self.requester_journal.apply(op);
                    if self.burns() {
                        return self.crash_requester();
                    }
                }
                requester::Output::Send { peer, frame } => {
                    let n = (0..EXECUTORS).find(|n| Self::peer(*n) == peer).unwrap();
                    assert_eq!(Message::from_frame(&frame).unwrap().addressee(), Addressee::Executor);
                    self.wire.push((n, true, frame));
                }
                requester::Output::Want { digest, .. } => {
                    assert!(self.requester_wants.insert(digest), "asked twice without an answer");
                }
                requester::Output::Reply { reply, .. } => self.replies.push(*reply),
                requester::Output::NeedPeer(_)
                | requester::Output::Grant { .. }
                | requester::Output::Revoke { .. }
                | requester::Output::RunChanged(_)
                | requester::Output::TaskChanged { .. } => {}
            }
        }
        assert_eq!(restore_requester(&self.requester_journal).runs(), self.requester.runs(), "replay");
    }

    fn executor_said(&mut self, n: usize, out: Vec<executor::Output>) {
        for o in out {
            match o {
                executor::Output::Persist(op) => {
                    assert_eq!(op.subject().room, Room::Job);
                    self.executor_journals[n].apply(op);
                    if self.burns() {
                        return self.crash_executor(n, false);
                    }
                }
                executor::Output::Send { frame, .. } => {
                    let frame = self.perhaps_lie(n, frame);
                    self.wire.push((n, false, frame));
                }
                executor::Output::Want { digest, claim, .. } => {
                    assert!(self.wants[n].insert((digest, claim)), "asked twice without an answer");
                }
                executor::Output::Engine { job, request: EngineRequest::Start(engine_job) } => {
                    self.engines[n].insert(job, engine_job);
                }
                executor::Output::Engine { job, request: EngineRequest::Stop { .. } } => {
                    if self.engines[n].remove(&job).is_some() {
                        self.exited(n, job, ExitClass::Cancelled, Vec::new());
                    }
                }
                executor::Output::Grant { .. }
                | executor::Output::Revoke { .. }
                | executor::Output::Remove { .. } => {}
            }
        }
        let replayed = restore_executor(n, self.incarnations[n], &self.executor_journals[n]);
        assert_eq!(replayed.durable(), self.executors[n].durable(), "replay");
    }

    /// The liar answers with somebody's receipt, another order's, another executor's, or a result of its own making
    /// that is not for this order.
    fn perhaps_lie(&mut self, n: usize, frame: Frame) -> Frame {
        let Ok(Message::SealedOffer { receipt }) = Message::from_frame(&frame) else { return frame };
        let old = self.last_receipt.replace((*receipt).clone());
        if self.liar != Some(n) {
            return frame;
        }
        let honest: Receipt = (**receipt).clone();
        let forged = match (self.rng.below(4), old) {
            (0, Some(old)) if old.executor != honest.executor => old,
            (1, _) => {
                let other = keypair(9);
                Signed::sign(Receipt { executor: other.public(), ..honest }, &other)
            }
            (2, _) => Signed::sign(Receipt { module: Digest::of(b"evil"), ..honest }, &keypair(n + 1)),
            (..) => Signed::sign(Receipt { order: Digest::of(b"other"), ..honest }, &keypair(n + 1)),
        };
        Message::SealedOffer { receipt: Box::new(forged) }.to_frame()
    }

    fn crash_requester(&mut self) {
        for n in 0..EXECUTORS {
            if std::mem::take(&mut self.up[n]) {
                self.wire.retain(|(at, ..)| *at != n);
                self.tell_executor(n, executor::Input::PeerDown(keypair(0).public()));
            }
        }
        self.requester_wants.clear();
        self.requester = restore_requester(&self.requester_journal);
        self.wake_requester();
    }

    fn crash_executor(&mut self, n: usize, amnesia: bool) {
        if std::mem::take(&mut self.up[n]) {
            self.wire.retain(|(at, ..)| *at != n);
            self.tell_requester(requester::Input::PeerDown(Self::peer(n)));
        }
        self.engines[n].clear();
        self.wants[n].clear();
        if amnesia {
            self.executor_journals[n] = Journal::default();
            self.incarnations[n] += 1;
        }
        self.executors[n] = restore_executor(n, self.incarnations[n], &self.executor_journals[n]);
        self.wake_executor(n);
    }

    fn exited(&mut self, n: usize, job: JobId, class: ExitClass, outputs: Vec<EngineOutput>) {
        let exit = EngineExit {
            class,
            code: i32::from(class == ExitClass::User),
            detail: String::new(),
            usage: Usage::default(),
            outputs,
        };
        let report = EngineReport { job, event: EngineEvent::Exited(exit) };
        self.tell_executor(n, executor::Input::Engine(report));
    }

    /// A guest ends. What it computes is a function of its inputs.
    fn finish_a_guest(&mut self, n: usize) {
        let Some((job, guest)) = self.engines[n].pop_first() else { return };
        let inputs: Vec<&[u8]> = guest.inputs.iter().map(|i| &i.digest.0[..]).collect();
        let output = |port: &Port| {
            let text = super::encoding::port_text(port);
            let digest = Digest::in_domain(&text, &inputs);
            EngineOutput { port: port.clone(), digest, len: 32, truncated: false }
        };
        let outputs = guest.outputs.iter().map(output).collect();
        let class =
            if !self.calm && self.rng.chance_ppm(60_000) { ExitClass::Infra } else { ExitClass::Success };
        self.exited(n, job, class, outputs);
    }

    fn answer_a_want(&mut self, n: usize) {
        let fails = !self.calm && self.rng.chance_ppm(150_000);
        if let Some((digest, claim)) = self.wants[n].pop_first() {
            self.tell_executor(
                n,
                if fails {
                    executor::Input::FetchFailed { digest, claim, why: "lost".into(), hopeless: false }
                } else {
                    executor::Input::Fetched { digest, claim, new: true }
                },
            );
        } else if let Some(digest) = self.requester_wants.pop_first() {
            if fails {
                self.tell_requester(requester::Input::FetchFailed { digest, why: "lost".into() });
            } else {
                self.here.insert(digest);
                self.tell_requester(requester::Input::Fetched(digest));
            }
        }
    }

    fn deliver(&mut self, at: usize, keep: bool) {
        let (n, to_executor, frame) = if keep { self.wire[at].clone() } else { self.wire.remove(at) };
        let message = Box::new(Message::from_frame(&frame).unwrap());
        if to_executor {
            let peer = keypair(0).public();
            self.tell_executor(n, executor::Input::Message { peer, message });
        } else {
            self.tell_requester(requester::Input::Message { peer: Self::peer(n), message });
        }
    }

    fn pass(&mut self, by: Duration) {
        let until = self.now + by;
        loop {
            let machines = self.executors.iter().map(|x| x.poll_timeout());
            let next = machines.chain([self.requester.poll_timeout()]).flatten().map(|d| d.at).min();
            self.now = match next {
                Some(at) if at <= until => at.max(self.now),
                Some(_) | None => {
                    self.now = until;
                    return;
                }
            };
            let (now, wall) = (self.now, self.wall());
            let mut out = Vec::new();
            self.requester.handle_timeout(&mut Cx::new(now, wall, &mut self.machine_rng, &mut out));
            self.requester_said(out);
            for n in 0..EXECUTORS {
                let mut out = Vec::new();
                self.executors[n].handle_timeout(&mut Cx::new(now, wall, &mut self.machine_rng, &mut out));
                self.executor_said(n, out);
            }
        }
    }

    /// One step of a hostile world.
    fn step(&mut self) {
        let n = usize::try_from(self.rng.below(EXECUTORS as u64)).unwrap();
        let at = usize::try_from(self.rng.below(self.wire.len() as u64)).unwrap();
        let some = !self.wire.is_empty();
        match self.rng.below(100) {
            0..40 if some => self.deliver(at, false),
            40..46 if some => self.deliver(at, true),
            46..50 if some => drop(self.wire.remove(at)),
            50..62 => self.finish_a_guest(n),
            62..76 => self.answer_a_want(n),
            76..82 => self.disconnect(n),
            82..90 => self.connect(n),
            90 => self.crash_requester(),
            91 => self.crash_executor(n, false),
            92 => {
                let amnesia = self.rng.chance_ppm(300_000);
                self.crash_executor(n, amnesia);
            }
            93 => self.fuse = Some(self.rng.below(4)),
            94 => self.pass(Duration::from_secs(40)),
            _ => {
                let ms = self.rng.below(3_000);
                self.pass(Duration::from_millis(ms));
            }
        }
    }

    /// Faults are over: everything must come to rest.
    fn settle(&mut self) {
        self.calm = true;
        self.fuse = None;
        for _ in 0..600 {
            for n in 0..EXECUTORS {
                self.connect(n);
            }
            while !self.wire.is_empty() || self.busy() {
                while !self.wire.is_empty() {
                    self.deliver(0, false);
                }
                for n in 0..EXECUTORS {
                    self.finish_a_guest(n);
                    self.answer_a_want(n);
                }
            }
            if self.at_rest() {
                return;
            }
            self.pass(Duration::from_secs(2));
        }
    }

    fn busy(&self) -> bool {
        let some = |n: usize| !self.engines[n].is_empty() || !self.wants[n].is_empty();
        (0..EXECUTORS).any(some) || !self.requester_wants.is_empty()
    }

    fn at_rest(&self) -> bool {
        let over = self.requester.run(&RUN).is_none_or(|r| r.ended.is_some());
        over && self.executors.iter().all(|x| x.held().is_empty())
    }

    /// What must hold at the moment a record is written.
    fn check_record(&self, record: &RunRecord) {
        let cancelled = self.history.contains(&RunRecord::CancelRequested);
        let ended = self.history.iter().any(|r| matches!(r, RunRecord::Ended { .. }));
        assert!(!ended, "nothing is written after the end: {record:?}");
        match record {
            RunRecord::Attempt { task, order } => {
                assert!(!cancelled, "an order after the cancel");
                for r in &self.history {
                    if let RunRecord::Attempt { task: other, order: before } = r
                        && other == task
                    {
                        assert!(before.fence < order.fence, "fences rise");
                    }
                }
                for input in order.inputs.iter().filter(|i| i.digest != Digest::of(b"in")) {
                    let produced = self.history.iter().any(|r| match r {
                        RunRecord::Committed { receipt, .. } => {
                            receipt.outputs.iter().any(|o| o.digest == input.digest)
                        }
                        _ => false,
                    });
                    assert!(produced, "an input that nobody committed");
                }
            }
            RunRecord::Committed { task, fence, receipt, .. } => {
                let twice = self
                    .history
                    .iter()
                    .any(|r| matches!(r, RunRecord::Committed { task: t, .. } if t == task));
                assert!(!twice, "a task is committed once");
                let order = self.history.iter().find_map(|r| match r {
                    RunRecord::Attempt { task: t, order } if t == task && order.fence == *fence => {
                        Some(order)
                    }
                    _ => None,
                });
                assert_eq!(receipt.answers(order.unwrap()), Ok(()));
            }
            RunRecord::Ended { state: RunState::Succeeded, .. } => {
                assert!(!cancelled);
                assert!(self.here.contains(&expected_result()), "a success whose result is not here");
            }
            _ => {}
        }
    }

    fn submit(&mut self, peers: &[PublicKey]) {
        let workflow = Box::new(diamond(peers));
        self.tell_requester(requester::Input::Submit { id: CommandId(1), run: RUN, workflow });
    }

    fn state(&self) -> RunState {
        self.requester.run(&RUN).unwrap().state()
    }
}

/// What the diamond computes, by its definition.
fn expected_result() -> Digest {
    let f = |inputs: &[&Digest]| {
        let parts: Vec<&[u8]> = inputs.iter().map(|d| &d.0[..]).collect();
        Digest::in_domain("stdout", &parts)
    };
    let a = f(&[&Digest::of(b"in")]);
    let (b, c) = (f(&[&a]), f(&[&a]));
    f(&[&b, &c])
}

fn check_success(w: &World, seed: u64) {
    let view = w.requester.view(&RUN).unwrap();
    assert_eq!(view.state, RunState::Succeeded, "seed {seed}: {view:#?}");
    assert_eq!(view.results.len(), 1);
    assert_eq!(view.results[0].digest, expected_result(), "seed {seed}");
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
    let records = w.history.len();
    w.submit(&[]);
    assert_eq!(w.history.len(), records, "the same submission again is the same run");
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
    let records = undisturbed.history.len() as u64 * 4;
    for crash_at in 0..records {
        let mut w = World::new(7, None);
        w.fuse = Some(crash_at);
        w.submit(&[]);
        if w.requester.run(&RUN).is_none() {
            w.submit(&[]);
        }
        w.calm = true;
        for _ in 0..400 {
            let n = usize::try_from(w.rng.below(2)).unwrap();
            w.connect(n);
            match w.wire.is_empty() {
                false => w.deliver(0, false),
                true => {
                    w.finish_a_guest(n);
                    w.answer_a_want(n);
                    w.pass(Duration::from_millis(100));
                }
            }
        }
        w.settle();
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
