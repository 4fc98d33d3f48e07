//! Validation says what is wrong, where, and how to mend it; and what is right compiles to the same plan every time.

use super::super::placement::Place;
use super::super::plan::decode_workflow;
use super::super::workflow::ObjectRef;
use super::*;
use crate::id::Keypair;
use crate::port::{EngineLimits, Executable, Layout, Program, Target};
use crate::service::Visibility;
use crate::service::details::Details;
use crate::service::offers::{Home, Offerings};
use proptest::prelude::*;

pub(crate) fn service(name: &str, stdin: bool, mounts: &[(&str, MountDirection)]) -> Service {
    Service {
        name: name.into(),
        description: String::new(),
        version: "1".into(),
        program: Program::Wasm(Digest::of(name.as_bytes())),
        module_len: 10,
        stdin,
        mounts: mounts
            .iter()
            .map(|(n, d)| Mount { name: (*n).into(), direction: *d, path: None, layout: Layout::Files })
            .collect(),
        limits: EngineLimits { memory_bytes: 1 << 20, time_ms: 1_000, output_bytes: 1 << 20 },
        visibility: Visibility::Everyone,
        details: Details::default(),
    }
}

pub(crate) fn peer(n: u8) -> PublicKey {
    Keypair::from_seed(&[n; 32]).public()
}

pub(crate) fn offers() -> Offerings {
    let mut o = Offerings::default();
    let count = service("word-count", true, &[]);
    let fill = service("fill", false, &[("table", MountDirection::In), ("map", MountDirection::Out)]);
    o.set(peer(1), Some(vec![count.clone(), fill].into()));
    o.set(peer(2), Some(vec![count].into()));
    o
}

fn end(text: &str) -> End {
    let (node, port) = text.split_once('.').unwrap();
    let port = match port {
        "stdin" => Port::Stdin,
        "stdout" => Port::Stdout,
        "stderr" => Port::Stderr,
        mount => Port::Mount(mount.into()),
    };
    End { node: node.into(), port }
}

pub(crate) fn task(service: &str) -> NodeKind {
    NodeKind::Task(TaskSpec { service: service.into(), ..TaskSpec::default() })
}

fn source() -> NodeKind {
    NodeKind::Source(vec![
        ObjectRef { digest: Digest::of(b"a"), len: 1 },
        ObjectRef { digest: Digest::of(b"b"), len: 1 },
    ])
}

fn workflow(nodes: &[(&str, NodeKind)], edges: &[(&str, &str)]) -> Workflow {
    Workflow {
        name: "test".into(),
        nodes: nodes.iter().map(|(id, k)| ((*id).into(), k.clone())).collect(),
        edges: edges.iter().map(|(a, b)| Edge { from: end(a), to: end(b) }).collect(),
        ..Workflow::default()
    }
}

fn good() -> Workflow {
    workflow(
        &[("kept", NodeKind::Sink), ("b", task("fill")), ("a", task("word-count")), ("in", source())],
        &[
            ("in.stdout", "a.stdin"),
            ("a.stdout", "b.table"),
            ("b.map", "kept.stdin"),
            ("a.stdout", "kept.stdin"),
        ],
    )
}

fn problems(w: &Workflow) -> Vec<String> {
    validate(w, &offers()).unwrap_err().iter().map(Problem::to_string).collect()
}

#[track_caller]
fn complains(w: &Workflow, place: &str, words: &str) {
    let all = problems(w);
    assert!(all.iter().any(|p| p.starts_with(place) && p.contains(words)), "{place} {words} not in {all:#?}");
}

#[test]
fn a_good_workflow_becomes_tasks_in_topological_order_with_ordered_inputs() {
    let plan = validate(&good(), &offers()).unwrap();
    let ids: Vec<_> = plan.tasks.iter().map(|t| t.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(plan.tasks[0].inputs.len(), 2, "a source's objects come one after the other");
    let mut both = vec![peer(1), peer(2)];
    both.sort();
    assert_eq!(plan.tasks[0].candidates, both);
    assert_eq!(plan.tasks[1].inputs[0].from, InputFrom::Task { task: 0, port: Port::Stdout });
    assert!(plan.tasks[1].outputs.contains(&Port::Stderr), "logs are always kept");
    assert_eq!(plan.sinks[0].inputs.len(), 2);
}

#[test]
fn plan_and_workflow_survive_the_journal() {
    let plan = validate(&good(), &offers()).unwrap();
    assert_eq!(Plan::decode(&plan.encode()).as_ref(), Ok(&plan));
    assert_eq!(decode_workflow(&encode_workflow(&good())), Ok(good()));
    assert_eq!(plan.workflow, workflow_digest(&good()));
}

#[test]
fn every_problem_is_told_at_once() {
    let w = workflow(
        &[("A", task("word-count")), ("x", task("wordcount")), ("x", NodeKind::Sink)],
        &[("nobody.stdout", "x.stdin"), ("A.stdin", "A.stdout")],
    );
    assert!(problems(&w).len() >= 5, "{:#?}", problems(&w));
    complains(&w, "nodes.A", "a-z");
    complains(&w, "nodes.x", "twice");
    complains(&w, "nodes.x.service", "`word-count`");
    complains(&w, "edges[0].from", "no node `nobody`");
    complains(&w, "edges[1].from", "is an input");
    complains(&w, "edges[1].to", "an output of");
}

#[test]
fn ports_that_do_not_exist_are_named_with_those_that_do() {
    let w = workflow(
        &[("in", source()), ("f", task("fill")), ("k", NodeKind::Sink)],
        &[("in.stdout", "f.tabel"), ("f.mpa", "k.stdin"), ("in.stdout", "f.stdin"), ("in.stderr", "k.stdin")],
    );
    complains(&w, "edges[0].to", "`table`");
    complains(&w, "edges[1].from", "`map`");
    complains(&w, "edges[2].to", "does not read standard input");
    complains(&w, "edges[3].from", "source");
    complains(&w, "nodes.f.table", "add an edge");
}

#[test]
fn a_missing_input_and_an_empty_sink_are_told() {
    let w = workflow(&[("a", task("word-count")), ("k", NodeKind::Sink)], &[]);
    complains(&w, "nodes.a.stdin", "add an edge");
    complains(&w, "nodes.k", "nothing is kept");
    complains(&workflow(&[("in", source())], &[]), "nodes", "no task");
}

#[test]
fn a_cycle_is_named() {
    let w = workflow(
        &[("z", task("word-count")), ("a", task("word-count")), ("b", task("word-count")), ("in", source())],
        &[
            ("in.stdout", "a.stdin"),
            ("a.stdout", "b.stdin"),
            ("b.stdout", "a.stdin"),
            ("b.stdout", "z.stdin"),
        ],
    );
    complains(&w, "edges", "a → b → a");
    let own = workflow(&[("a", task("word-count"))], &[("a.stdout", "a.stdin")]);
    complains(&own, "edges", "a → a");
}

#[test]
fn too_much_text_is_refused_with_a_way_out() {
    let mut spec = TaskSpec { service: "word-count".into(), ..TaskSpec::default() };
    spec.args = vec!["x".repeat(TASK_ARG_BYTES_MAX), "y".into()];
    spec.env.insert("A=B".into(), "1".into());
    spec.timeout_ms = Some(0);
    let w = workflow(&[("in", source()), ("a", NodeKind::Task(spec))], &[("in.stdout", "a.stdin")]);
    complains(&w, "nodes.a.args", "through a port");
    complains(&w, "nodes.a.env", "`A=B`");
    complains(&w, "nodes.a.timeout", "zero");
}

#[test]
fn a_named_peer_that_is_not_here_can_be_waited_for_and_one_that_does_not_offer_it_cannot() {
    let with = |p: PublicKey| {
        let spec = TaskSpec { service: "fill".into(), peers: vec![p], ..TaskSpec::default() };
        workflow(&[("in", source()), ("a", NodeKind::Task(spec))], &[("in.stdout", "a.table")])
    };
    let away = check(&with(peer(9)), &offers()).unwrap_err();
    assert!(away.curable());
    assert!(away.absent.contains(&peer(9)));
    let wrong = check(&with(peer(2)), &offers()).unwrap_err();
    assert!(!wrong.curable());
    assert!(wrong.problems[0].reason.contains(&peer(1).to_string()), "it says who does");
    assert!(check(&with(peer(1)), &offers()).is_ok());
}

#[test]
fn the_users_order_of_preference_is_kept() {
    let spec =
        TaskSpec { service: "word-count".into(), peers: vec![peer(2), peer(1)], ..TaskSpec::default() };
    let w = workflow(&[("in", source()), ("a", NodeKind::Task(spec))], &[("in.stdout", "a.stdin")]);
    let plan = validate(&w, &offers()).unwrap();
    assert_eq!(plan.tasks[0].candidates, vec![peer(2), peer(1)]);
    assert!(!plan.tasks[0].spread);
}

proptest! {
    #[test]
    fn arbitrary_wiring_never_panics_and_what_compiles_has_no_cycle(
        kinds in prop::collection::vec(0u8..4, 1..8),
        edges in prop::collection::vec((0usize..9, 0u8..4, 0usize..9, 0u8..4), 0..16),
    ) {
        let node = |k: u8| match k { 0 => source(), 1 => NodeKind::Sink, 2 => task("fill"), _ => task("word-count") };
        let port = |p: u8| match p { 0 => Port::Stdin, 1 => Port::Stdout, 2 => Port::Stderr, _ => Port::Mount("map".into()) };
        let w = Workflow {
            name: String::new(),
            nodes: kinds.iter().enumerate().map(|(i, k)| (format!("n{i}"), node(*k))).collect(),
            edges: edges.iter().map(|(a, p, b, q)| Edge {
                from: End { node: format!("n{a}"), port: port(*p) },
                to: End { node: format!("n{b}"), port: port(*q) },
            }).collect(),
            ..Workflow::default()
        };
        if let Ok(plan) = validate(&w, &offers()) {
            for (i, t) in plan.tasks.iter().enumerate() {
                for input in &t.inputs {
                    if let InputFrom::Task { task, .. } = input.from {
                        prop_assert!(task < i);
                    }
                }
            }
            prop_assert_eq!(Plan::decode(&plan.encode()), Ok(plan));
        }
    }
}

#[test]
fn a_directory_does_not_fit_where_a_file_is_taken_and_the_other_way_round() {
    let with = |name: &str, layout| {
        let mut s = service(name, false, &[("in", MountDirection::In), ("out", MountDirection::Out)]);
        s.mounts.iter_mut().for_each(|m| m.layout = layout);
        s
    };
    let mut list = with("list", Layout::Tree);
    list.mounts[0].layout = Layout::Trees;
    let mut o = Offerings::default();
    o.set(peer(1), Some(vec![with("files", Layout::Files), with("tree", Layout::Tree), list].into()));
    let chain = |a: &str, b: &str| {
        workflow(
            &[("s", source()), ("a", task(a)), ("b", task(b)), ("k", NodeKind::Sink)],
            &[("s.stdout", "a.in"), ("a.out", "b.in"), ("b.out", "k.stdin")],
        )
    };
    for (a, b, fits) in [
        ("files", "files", true),
        ("tree", "tree", true),
        ("tree", "list", true),
        ("list", "tree", true),
        ("tree", "files", false),
        ("files", "list", false),
    ] {
        let checked = validate(&chain(a, b), &o);
        match checked {
            Ok(plan) => {
                assert!(fits, "{a} to {b}");
                assert_eq!(Plan::decode(&plan.encode()), Ok(plan.clone()));
                assert_eq!(plan.gives_tree(0, &Port::Mount("out".into())), a != "files");
                assert_eq!(plan.source_trees().count(), if a == "files" { 0 } else { 2 });
            }
            Err(problems) => {
                assert!(!fits, "{a} to {b}: {problems:?}");
                assert_eq!(problems[0].place, "edges[1]");
            }
        }
    }
    let trees_out = {
        let mut s = with("bad", Layout::Trees);
        s.mounts.remove(0);
        s
    };
    assert!(Service::from_dict(&trees_out.to_dict()).is_err(), "an output is one directory");
    let tree = with("tree", Layout::Tree);
    assert_eq!(Service::from_dict(&tree.to_dict()), Ok(tree.clone()));
    assert_ne!(tree.id(), with("tree", Layout::Files).id(), "what a mount holds is part of what it is");
}

#[test]
fn machine_code_for_another_machine_is_refused_with_the_reason() {
    let target = |arch: &str| Target { arch: arch.into(), os: "linux".into() };
    let executable = Executable { object: Digest([9; 32]), target: target("aarch64") };
    let tool = Service { program: Program::Native(Box::new(executable)), ..service("tool", true, &[]) };
    let plan = |native: Option<Target>, offers_elsewhere: bool| {
        let mut offers = Offerings::at(Home { me: peer(1), native });
        offers.set(peer(1), Some(vec![tool.clone()].into()));
        if offers_elsewhere {
            offers.set(peer(2), Some(vec![tool.clone()].into()));
        }
        let w = workflow(
            &[("a", task("tool")), ("in", source()), ("kept", NodeKind::Sink)],
            &[("in.stdout", "a.stdin"), ("a.stdout", "kept.stdin")],
        );
        validate(&w, &offers).map(|plan| plan.tasks[0].candidates.clone())
    };
    let problems = plan(Some(target("x86_64")), false).unwrap_err();
    assert_eq!(problems[0].place, "nodes.a.service");
    assert_eq!(
        problems[0].reason,
        "nobody here can run `tool`: it is a program for linux on aarch64, and this machine is linux on x86_64"
    );
    assert!(plan(None, false).unwrap_err()[0].reason.contains("native programs are not run on this machine"));
    assert_eq!(plan(Some(target("x86_64")), true), Ok(vec![peer(2)]), "who offers it can run it");
    let both = plan(Some(target("aarch64")), true).unwrap();
    assert!(both.len() == 2 && both.contains(&peer(1)) && both.contains(&peer(2)));
    let mut offers = Offerings::at(Home { me: peer(1), native: None });
    offers.set(peer(1), Some(vec![tool.clone()].into()));
    offers.set(peer(2), Some(vec![tool.clone()].into()));
    let place = Place { labels: ["eu".to_owned()].into(), ..Place::default() };
    let asking = TaskSpec { service: "tool".into(), place, ..TaskSpec::default() };
    let w = workflow(
        &[("a", NodeKind::Task(asking)), ("in", source()), ("kept", NodeKind::Sink)],
        &[("in.stdout", "a.stdin"), ("a.stdout", "kept.stdin")],
    );
    let problems = validate(&w, &offers).unwrap_err();
    assert_eq!(problems[0].place, "nodes.a.place", "each has its own reason");
    assert!(problems[0].reason.contains("native programs are not run on this machine; `doctor`"));
    assert!(problems[0].reason.contains(&format!("{}: not labelled `eu`", peer(2))));
}

#[test]
fn a_dataset_gives_a_directory_to_what_takes_one_and_takes_nothing_itself() {
    let observations = crate::service::dataset::tests::observations();
    let mut reads = service("summary", false, &[("in", MountDirection::In)]);
    reads.mounts[0].layout = Layout::Tree;
    let mut offers = offers();
    offers.set(peer(1), Some(vec![observations.clone(), reads, service("word-count", true, &[])].into()));
    let with = |given: NodeKind, edges: &[(&str, &str)]| Workflow {
        name: "w".into(),
        nodes: vec![
            ("obs".into(), given),
            ("join".into(), task("summary")),
            ("count".into(), task("word-count")),
            ("kept".into(), NodeKind::Sink),
        ],
        edges: edges.iter().map(|(from, to)| Edge { from: end(from), to: end(to) }).collect(),
        rules: Default::default(),
    };
    let rest = [("join.stdout", "count.stdin"), ("count.stdout", "kept.stdin")];
    let good = with(task("observations"), &[&[("obs.data", "join.in")], &rest[..]].concat());
    let plan = check(&good, &offers).unwrap();
    let given = plan.tasks.iter().find(|t| t.id == "obs").unwrap();
    assert_eq!(given.outputs, [Port::Mount("data".into())], "it leaves no words");
    assert_eq!(given.program, observations.program);

    let spec = TaskSpec { service: "observations".into(), args: vec!["-v".into()], ..TaskSpec::default() };
    let odd = with(NodeKind::Task(spec), &[("obs.stdout", "join.in"), ("join.stdout", "obs.stdin")]);
    let problems = check(&odd, &offers).unwrap_err().problems;
    let told = |place: &str, why: &str| problems.iter().any(|p| p.place == place && p.reason.contains(why));
    assert!(told("nodes.obs.args", "takes none"), "{problems:?}");
    assert!(told("edges[0].from", "its only port is `data`"), "{problems:?}");
    assert!(told("edges[1].to", "does not read standard input"), "{problems:?}");
}
