//! Random workflows, what they compute by a naive evaluator, and worlds of two to four executors that run them.
//!
//! Chains, layers and arbitrary graphs of at most twelve tasks, over standard input, standard error and mounts, pinned, in an
//! order of preference or anywhere; some have tasks that always fail, and conditions, and go on after a failure. Each is run undisturbed, with a crash at record
//! boundaries, and in a hostile world; the outcome must be that of the evaluator every time. A plain test run takes
//! [`WORKFLOWS`] of them and a few boundaries of each, different ones from workflow to workflow; built with
//! `RN_MODEL_WORKFLOWS=10000` in the environment it takes as many as that says, and every boundary of each.

use super::world::World;
use super::{FAILS, RUN, computed};
use crate::command::{ResultView, RunState, TaskState};
use crate::id::{Digest, PublicKey};
use crate::job::receipt::verify_file;
use crate::job::rules::{Join, OnFailure, Test, When};
use crate::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use crate::port::Port;
use crate::rng::Rng;
use std::collections::BTreeMap;

/// Workflows of a plain test run.
const WORKFLOWS: u64 = 200;
/// Boundaries of each of them.
const BOUNDARIES: u64 = 3;
const TASKS_MAX: u64 = 12;
const STEPS: usize = 150;

/// How many workflows, and whether at every boundary.
fn extent() -> (u64, bool) {
    let asked = option_env!("RN_MODEL_WORKFLOWS").and_then(|n| n.parse().ok());
    (asked.unwrap_or(WORKFLOWS), asked.is_some())
}

fn rng(seed: u64, purpose: &str) -> Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Rng::derive(&bytes, purpose)
}

fn some<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[usize::try_from(rng.below(of.len() as u64)).unwrap()]
}

fn shuffle<T>(rng: &mut Rng, of: &mut [T]) {
    for i in (1..of.len()).rev() {
        of.swap(i, usize::try_from(rng.below(i as u64 + 1)).unwrap());
    }
}

fn edge(from: (&str, &Port), to: (&str, &Port)) -> Edge {
    let end = |(node, port): (&str, &Port)| End { node: node.into(), port: port.clone() };
    Edge { from: end(from), to: end(to) }
}

/// What becomes of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Committed,
    Failed,
    Skipped,
}

/// What a workflow means, by its definition: each question is answered by asking about what comes before. Slow and plain.
struct Meaning<'a> {
    workflow: &'a Workflow,
    outcomes: BTreeMap<&'a str, Outcome>,
    outputs: BTreeMap<(&'a str, Port), Digest>,
}

impl<'a> Meaning<'a> {
    fn of(workflow: &'a Workflow) -> Meaning<'a> {
        Meaning { workflow, outcomes: BTreeMap::new(), outputs: BTreeMap::new() }
    }

    fn task(&self, id: &str) -> Option<(&'a str, &'a TaskSpec)> {
        let (id, kind) = self.workflow.nodes.iter().find(|(n, _)| n == id).unwrap();
        match kind {
            NodeKind::Task(spec) => Some((id, spec)),
            NodeKind::Source(_) | NodeKind::Sink => None,
        }
    }

    fn producers(&self, id: &str) -> Vec<&'a str> {
        let into = self.workflow.edges.iter().filter(|e| e.to.node == id);
        into.filter_map(|e| self.task(&e.from.node)).map(|(id, _)| id).collect()
    }

    fn outcome(&mut self, id: &str) -> Outcome {
        let (id, spec) = self.task(id).unwrap();
        if let Some(known) = self.outcomes.get(id) {
            return *known;
        }
        let before: Vec<Outcome> = self.producers(id).into_iter().map(|p| self.outcome(p)).collect();
        let joined = match spec.rules.join {
            Join::All => before.iter().all(|o| *o == Outcome::Committed),
            Join::Any => before.is_empty() || before.contains(&Outcome::Committed),
            Join::Always => true,
        };
        let outcome = if !joined || !spec.rules.when.iter().all(|w| self.holds(w)) {
            Outcome::Skipped
        } else if spec.args.iter().any(|a| a == FAILS) {
            Outcome::Failed
        } else {
            Outcome::Committed
        };
        self.outcomes.insert(id, outcome);
        outcome
    }

    fn holds(&mut self, when: &When<String>) -> bool {
        let outcome = self.outcome(&when.task);
        match &when.test {
            Test::Succeeded => outcome == Outcome::Committed,
            Test::Failed => outcome == Outcome::Failed,
            Test::Code(0) => outcome == Outcome::Committed,
            Test::Code(1) => outcome == Outcome::Failed,
            // What guests of this world write is never empty, and no other code is theirs.
            Test::Code(_) | Test::Empty(_) => false,
            Test::Is(port, digest) => {
                outcome == Outcome::Committed && self.output(&when.task, port) == *digest
            }
        }
    }

    /// What a committed task writes to a port.
    fn output(&mut self, id: &str, port: &Port) -> Digest {
        let (id, spec) = self.task(id).unwrap();
        if let Some(known) = self.outputs.get(&(id, port.clone())) {
            return *known;
        }
        let inputs = self.inputs(id);
        let named: Vec<(&Port, Digest)> = inputs.iter().map(|(p, d)| (p, *d)).collect();
        let digest = computed(&spec.args, &named, port);
        self.outputs.insert((id, port.clone()), digest);
        digest
    }

    /// What goes into a node, in declared order, as far as it comes to be.
    fn inputs(&mut self, id: &str) -> Vec<(Port, Digest)> {
        let mut all = Vec::new();
        for e in self.workflow.edges.iter().filter(|e| e.to.node == id) {
            match &self.workflow.nodes.iter().find(|(n, _)| *n == e.from.node).unwrap().1 {
                NodeKind::Source(objects) => {
                    all.extend(objects.iter().map(|o| (e.to.port.clone(), o.digest)));
                }
                NodeKind::Task(_) | NodeKind::Sink => {
                    if self.outcome(&e.from.node) == Outcome::Committed {
                        all.push((e.to.port.clone(), self.output(&e.from.node, &e.from.port)));
                    }
                }
            }
        }
        all
    }

    /// Whether some task that is not skipped does what is to be done when this one fails.
    fn is_handled(&mut self, id: &str) -> bool {
        let tasks = self.workflow.nodes.iter().filter_map(|(n, _)| self.task(n)).collect::<Vec<_>>();
        tasks.into_iter().any(|(other, spec)| {
            let takes = spec.rules.join == Join::Always && self.producers(other).contains(&id);
            let asks = spec.rules.when.iter().any(|w| {
                w.task == id && (w.test == Test::Failed || matches!(w.test, Test::Code(n) if n != 0))
            });
            (takes || asks) && self.outcome(other) != Outcome::Skipped
        })
    }
}

/// What a task of a workflow that succeeds computes.
pub(super) fn result(w: &Workflow, node: &str, port: &Port) -> Digest {
    Meaning::of(w).output(node, port)
}

/// A workflow, the world it is for, and what is to become of it.
struct Case {
    seed: u64,
    executors: usize,
    liar: Option<usize>,
    workflow: Workflow,
    /// By sink, in declared order: what it keeps of what comes to be.
    kept: Vec<(String, Vec<Digest>)>,
    outcomes: BTreeMap<String, Outcome>,
    /// Tasks that fail and whose failure nothing handles.
    culprits: Vec<String>,
}

impl Case {
    fn new(seed: u64) -> Case {
        let mut rng = rng(seed, "workflow");
        let executors = 2 + usize::try_from(rng.below(3)).unwrap();
        let liar = rng.chance_ppm(120_000).then_some(0);
        let workflow = generate(&mut rng, executors, liar);
        let mut meaning = Meaning::of(&workflow);
        let (mut kept, mut culprits, mut outcomes) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (id, kind) in &workflow.nodes {
            match kind {
                NodeKind::Task(_) => {
                    let outcome = meaning.outcome(id);
                    if outcome == Outcome::Failed && !meaning.is_handled(id) {
                        culprits.push(id.clone());
                    }
                    outcomes.insert(id.clone(), outcome);
                }
                NodeKind::Sink => {
                    kept.push((id.clone(), meaning.inputs(id).into_iter().map(|(_, d)| d).collect()));
                }
                NodeKind::Source(_) => {}
            }
        }
        Case { seed, executors, liar, kept, outcomes, culprits, workflow }
    }

    fn world(&self) -> World {
        let mut w = World::with(self.seed, self.executors, self.liar);
        w.replay_every = 16;
        w
    }

    fn submit(&self, w: &mut World) {
        w.submit_workflow(&self.workflow);
        if w.requester.run(&RUN).is_none() {
            w.submit_workflow(&self.workflow);
        }
    }

    /// The world is at rest, and what became of the run is what the evaluator says.
    fn check(&self, w: &World, how: &str) {
        let view = w.requester.view(&RUN).unwrap();
        let how = format!("workflow {}, {how}", self.seed);
        assert!(w.at_rest(), "{how}: {view:#?}");
        if !self.culprits.is_empty() {
            assert_eq!(view.state, RunState::Failed, "{how}: {view:#?}");
            let why = view.why.as_ref().unwrap();
            let named = |id: &String| why.starts_with(&format!("task {id} failed: exit code 1"));
            assert!(self.culprits.iter().any(named), "{how}: {why}");
            if self.workflow.rules.on_failure == OnFailure::Stop {
                return;
            }
        } else {
            assert_eq!(view.state, RunState::Succeeded, "{how}: {view:#?}");
        }
        let got: Vec<(&str, Digest)> = view.results.iter().map(|r| (r.sink.as_str(), r.digest)).collect();
        let due: Vec<(&str, Digest)> =
            self.kept.iter().flat_map(|(id, all)| all.iter().map(|d| (id.as_str(), *d))).collect();
        assert_eq!(got, due, "{how}");
        let here = |r: &ResultView| r.from.0.is_empty() || (r.fetched == r.len && w.here.contains(&r.digest));
        assert!(view.results.iter().all(here), "{how}: {:#?}", view.results);
        for t in &view.tasks {
            let state = match self.outcomes[&t.id] {
                Outcome::Committed => TaskState::Committed,
                Outcome::Failed => TaskState::Failed,
                Outcome::Skipped => TaskState::Skipped,
            };
            assert_eq!(t.state, state, "{how}: {t:#?}");
            if state == TaskState::Committed {
                assert_eq!(verify_file(t.receipt.as_ref().unwrap()).unwrap().task, t.id, "{how}");
            }
        }
    }

    /// Undisturbed; says how many records that takes.
    fn quiet(&self) -> u64 {
        let mut w = self.world();
        self.submit(&mut w);
        w.calmly();
        self.check(&w, "undisturbed");
        w.written
    }

    /// Somebody crashes when so many records are written, whoever it is that writes the next.
    fn crash_at(&self, boundary: u64) {
        let mut w = self.world();
        w.fuse = Some(boundary);
        self.submit(&mut w);
        w.calmly();
        self.check(&w, &format!("crash at record {boundary}"));
    }

    /// Messages are lost, doubled and reordered, connections cut, machines crash and forget, engines and fetches fail.
    fn hostile(&self) {
        let mut w = self.world();
        self.submit(&mut w);
        for _ in 0..STEPS {
            w.step();
            if w.rng.chance_ppm(30_000) {
                let paused = w.rng.chance_ppm(600_000);
                w.pause(paused);
            }
        }
        w.pause(false);
        w.settle();
        self.check(&w, "hostile");
    }
}

fn spec(rng: &mut Rng, name: &str, service: &str, peers: &[PublicKey], liar: Option<usize>) -> TaskSpec {
    let mut peers = peers.to_vec();
    shuffle(rng, &mut peers);
    match rng.below(4) {
        0 | 1 => peers.clear(),
        2 => peers.truncate(1),
        _ => peers.truncate(2),
    }
    // A task that only a liar may run has no outcome but a failure.
    if liar.is_some_and(|n| !peers.is_empty() && peers.iter().all(|p| *p == World::peer(n))) {
        peers.clear();
    }
    // Tasks differ by an argument, but for some that compute the same.
    let args = if rng.chance_ppm(200_000) { Vec::new() } else { vec![name.to_owned()] };
    TaskSpec { service: service.into(), peers, args, ..TaskSpec::default() }
}

fn generate(rng: &mut Rng, executors: usize, liar: Option<usize>) -> Workflow {
    let peers: Vec<PublicKey> = (0..executors).map(World::peer).collect();
    let count = 1 + usize::try_from(rng.below(TASKS_MAX)).unwrap();
    let (shape, width) = (rng.below(3), 1 + usize::try_from(rng.below(4)).unwrap());
    let object = |name: &str| ObjectRef { digest: Digest::of(name.as_bytes()), len: 2 };
    let mut nodes = vec![
        ("in".to_owned(), NodeKind::Source(vec![object("in")])),
        ("more".to_owned(), NodeKind::Source(vec![object("x"), object("y")])),
    ];
    let mut edges = Vec::new();
    // Where data is to be had: by task.
    let mut gives: Vec<(String, Vec<Port>)> = Vec::new();
    for n in 0..count {
        let name = format!("t{n}");
        let blends = rng.chance_ppm(300_000);
        let before = match shape {
            0 => n.saturating_sub(1)..n,
            1 => (n / width * width).saturating_sub(width)..n / width * width,
            _ => 0..n,
        };
        let from = |rng: &mut Rng| match before.is_empty() || rng.chance_ppm(100_000) {
            true => ((*some(rng, &["in", "more"])).to_owned(), Port::Stdout),
            false => {
                let (id, ports) = some(rng, &gives[before.clone()]);
                (id.clone(), some(rng, ports).clone())
            }
        };
        let (service, takes) = match blends {
            true => ("blend", vec![Port::Mount("a".into()), Port::Mount("b".into())]),
            false => ("count", vec![Port::Stdin]),
        };
        for to in &takes {
            for _ in 0..1 + rng.below(2) {
                let (id, port) = from(rng);
                edges.push(edge((&id, &port), (&name, to)));
            }
        }
        let out = if blends { Port::Mount("o".into()) } else { Port::Stdout };
        nodes.push((name.clone(), NodeKind::Task(spec(rng, &name, service, &peers, liar))));
        gives.push((name, vec![out.clone(), out, Port::Stderr]));
    }
    let (last, ports) = gives.last().unwrap();
    edges.push(edge((last, &ports[0]), ("kept", &Port::Stdin)));
    nodes.push(("kept".to_owned(), NodeKind::Sink));
    if rng.chance_ppm(500_000) {
        nodes.push(("also".to_owned(), NodeKind::Sink));
        edges.push(edge(("in", &Port::Stdout), ("also", &Port::Stdin)));
        for _ in 0..rng.below(3) {
            let (id, ports) = some(rng, &gives);
            edges.push(edge((id, some(rng, ports)), ("also", &Port::Stdin)));
        }
    }
    if rng.chance_ppm(150_000) {
        let at = 2 + usize::try_from(rng.below(count as u64)).unwrap();
        if let NodeKind::Task(t) = &mut nodes[at].1 {
            t.args.push(FAILS.into());
            t.retries = u32::try_from(rng.below(3)).unwrap();
        }
    }
    // The order of declaration says nothing about the order of work; that of edges is the order of inputs.
    shuffle(rng, &mut nodes);
    shuffle(rng, &mut edges);
    let mut workflow = Workflow { name: "random".into(), nodes, edges, ..Workflow::default() };
    if rng.chance_ppm(500_000) {
        choose(rng, &mut workflow, count);
    }
    workflow
}

/// Lets some more tasks fail, and says of some tasks under which conditions they run.
fn choose(rng: &mut Rng, w: &mut Workflow, count: usize) {
    if rng.chance_ppm(600_000) {
        w.rules.on_failure = OnFailure::Continue;
    }
    let spec = |w: &mut Workflow, n: usize, change: &mut dyn FnMut(&mut TaskSpec)| {
        let id = format!("t{n}");
        for (_, kind) in w.nodes.iter_mut().filter(|(at, _)| *at == id) {
            if let NodeKind::Task(t) = kind {
                change(t);
            }
        }
    };
    for n in 0..count {
        if rng.chance_ppm(200_000) {
            spec(w, n, &mut |t| t.args.push(FAILS.into()));
        }
        let join = *some(rng, &[Join::All, Join::All, Join::Any, Join::Always]);
        spec(w, n, &mut |t| t.rules.join = join);
        if n == 0 || !rng.chance_ppm(400_000) {
            continue;
        }
        for _ in 0..1 + rng.below(2) {
            let task = format!("t{}", rng.below(n as u64));
            let mut meaning = Meaning::of(w);
            let stderr = match meaning.outcome(&task) {
                Outcome::Committed if rng.chance_ppm(500_000) => meaning.output(&task, &Port::Stderr),
                _ => Digest::of(b"something else"),
            };
            let tests = [
                Test::Succeeded,
                Test::Succeeded,
                Test::Failed,
                Test::Code(0),
                Test::Code(1),
                Test::Code(2),
                Test::Empty(Port::Stderr),
                Test::Is(Port::Stderr, stderr),
                Test::Is(Port::Stderr, stderr),
            ];
            let when = When { task, test: some(rng, &tests).clone() };
            spec(w, n, &mut |t| t.rules.when.push(when.clone()));
        }
    }
}

#[test]
fn random_workflows_come_out_as_they_mean_when_machines_crash_between_any_two_records() {
    let (workflows, every) = extent();
    let mut boundaries = 0;
    for seed in 0..workflows {
        let case = Case::new(seed);
        let records = case.quiet();
        let stride = if every { 1 } else { (records / BOUNDARIES).max(1) };
        for at in (seed % stride..records).step_by(usize::try_from(stride).unwrap()) {
            case.crash_at(at);
            boundaries += 1;
        }
    }
    println!("{workflows} workflows, {boundaries} record boundaries");
}

#[test]
fn random_workflows_come_out_as_they_mean_in_a_hostile_world() {
    for seed in 0..extent().0 {
        Case::new(seed).hostile();
    }
}
