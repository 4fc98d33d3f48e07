//! Random workflows, what they compute by a naive evaluator, and worlds of two to four executors that run them.
//!
//! Chains, layers and arbitrary graphs of at most twelve tasks, over standard input, standard error and mounts, pinned, in an
//! order of preference or anywhere; some have a task that always fails. Each is run undisturbed, with a crash at record
//! boundaries, and in a hostile world; the outcome must be that of the evaluator every time. A plain test run takes
//! [`WORKFLOWS`] of them and a few boundaries of each, different ones from workflow to workflow; built with
//! `RN_MODEL_WORKFLOWS=10000` in the environment it takes as many as that says, and every boundary of each.

use super::world::World;
use super::{FAILS, RUN, computed};
use crate::command::{RunState, TaskState};
use crate::id::{Digest, PublicKey};
use crate::job::receipt::verify_file;
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

/// What the evaluator says of a port: its digest, or nothing because a task before it or of it fails.
type Known<'a> = BTreeMap<(&'a str, Port), Option<Digest>>;

/// What comes out of a port, by the definition of what a workflow means. Slow and plain.
fn output<'a>(w: &'a Workflow, known: &mut Known<'a>, node: &'a str, port: &Port) -> Option<Digest> {
    if let Some(known) = known.get(&(node, port.clone())) {
        return *known;
    }
    let (_, NodeKind::Task(spec)) = w.nodes.iter().find(|(id, _)| id == node).unwrap() else {
        panic!("{node} is no task")
    };
    let inputs = inputs(w, known, node);
    let out = inputs.filter(|_| !spec.args.iter().any(|a| a == FAILS)).map(|inputs| {
        let named: Vec<(&Port, Digest)> = inputs.iter().map(|(p, d)| (p, *d)).collect();
        computed(&spec.args, &named, port)
    });
    known.insert((node, port.clone()), out);
    out
}

/// What goes into a node, in declared order; nothing if a task before it fails.
fn inputs<'a>(w: &'a Workflow, known: &mut Known<'a>, node: &str) -> Option<Vec<(Port, Digest)>> {
    let mut all = Vec::new();
    for e in w.edges.iter().filter(|e| e.to.node == node) {
        match &w.nodes.iter().find(|(id, _)| *id == e.from.node).unwrap().1 {
            NodeKind::Source(objects) => all.extend(objects.iter().map(|o| (e.to.port.clone(), o.digest))),
            NodeKind::Task(_) | NodeKind::Sink => {
                all.push((e.to.port.clone(), output(w, known, &e.from.node, &e.from.port)?));
            }
        }
    }
    Some(all)
}

/// What a task of a workflow that succeeds computes.
pub(super) fn result(w: &Workflow, node: &str, port: &Port) -> Digest {
    let (node, _) = w.nodes.iter().find(|(id, _)| id == node).unwrap();
    output(w, &mut BTreeMap::new(), node, port).unwrap()
}

/// A workflow, the world it is for, and what is to become of it.
struct Case {
    seed: u64,
    executors: usize,
    liar: Option<usize>,
    workflow: Workflow,
    /// By sink, in declared order: what it keeps; nothing if a task fails.
    kept: Option<Vec<(String, Vec<Digest>)>>,
    /// Tasks that fail although everything before them succeeds.
    culprits: Vec<String>,
}

impl Case {
    fn new(seed: u64) -> Case {
        let mut rng = rng(seed, "workflow");
        let executors = 2 + usize::try_from(rng.below(3)).unwrap();
        let liar = rng.chance_ppm(120_000).then_some(0);
        let workflow = generate(&mut rng, executors, liar);
        let mut known = BTreeMap::new();
        let mut kept = Some(Vec::new());
        let mut culprits = Vec::new();
        for (id, kind) in &workflow.nodes {
            let into = inputs(&workflow, &mut known, id);
            match kind {
                NodeKind::Task(t) if into.is_some() && t.args.iter().any(|a| a == FAILS) => {
                    culprits.push(id.clone());
                }
                NodeKind::Sink => {
                    let digests = into.map(|all| all.into_iter().map(|(_, d)| d).collect());
                    kept = kept.zip(digests).map(|(mut all, digests)| {
                        all.push((id.clone(), digests));
                        all
                    });
                }
                NodeKind::Task(_) | NodeKind::Source(_) => {}
            }
        }
        Case { seed, executors, liar, kept: kept.filter(|_| culprits.is_empty()), culprits, workflow }
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
        let Some(kept) = &self.kept else {
            assert_eq!(view.state, RunState::Failed, "{how}: {view:#?}");
            let why = view.why.unwrap();
            let named = |id: &String| why.starts_with(&format!("task {id} failed: exit code 1"));
            assert!(self.culprits.iter().any(named), "{how}: {why}");
            return;
        };
        assert_eq!(view.state, RunState::Succeeded, "{how}: {view:#?}");
        let got: Vec<(&str, Digest)> = view.results.iter().map(|r| (r.sink.as_str(), r.digest)).collect();
        let due: Vec<(&str, Digest)> =
            kept.iter().flat_map(|(id, all)| all.iter().map(|d| (id.as_str(), *d))).collect();
        assert_eq!(got, due, "{how}");
        for t in &view.tasks {
            assert_eq!(t.state, TaskState::Committed, "{how}");
            assert_eq!(verify_file(t.receipt.as_ref().unwrap()).unwrap().task, t.id, "{how}");
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
        }
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
    Workflow { name: "random".into(), nodes, edges }
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
