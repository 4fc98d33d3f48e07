use super::*;
use proptest::prelude::*;
use remote_network_core::id::{Digest, Keypair};
use remote_network_core::job::rules::{Join, OnFailure, Quorum, Retry, RunRules, TaskRules, Test, When};
use remote_network_core::job::workflow::Place;
use remote_network_core::port::Port;
use remote_network_core::service::details::Needs;

const TOP_WORDS: &str = "\
name: top-words
nodes:
  texts: { source: { files: [a.txt, b.txt] } }
  tokenize: { task: { service: tokenize, args: [-l, 3], env: { LANG: C }, retries: 1, timeout: 30s } }
  top: { sink: {} }
edges:
  - texts.out -> tokenize.stdin
  - tokenize.stdout -> top.in
";

fn object(text: &str) -> ObjectRef {
    ObjectRef { digest: Digest::of(text.as_bytes()), len: text.len() as u64 }
}

fn resolve(item: &SourceItem) -> Result<ObjectRef, String> {
    match item {
        SourceItem::File(name) if name.starts_with("missing") => Err(format!("no file {name}")),
        SourceItem::File(text) | SourceItem::Text(text) => Ok(object(text)),
        SourceItem::Object(o) => Ok(o.clone()),
    }
}

fn problems(text: &str) -> Vec<String> {
    parse(text, Format::Yaml).expect_err("must be refused").iter().map(Problem::to_string).collect()
}

#[test]
fn the_example_of_the_handbook_becomes_a_workflow_in_declared_order() {
    let parsed = parse(TOP_WORDS, Format::Yaml).expect("parses");
    let w = parsed.compile(resolve).expect("compiles");
    assert_eq!(w.name, "top-words");
    let ids: Vec<&str> = w.nodes.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["texts", "tokenize", "top"]);
    assert_eq!(w.nodes[0].1, NodeKind::Source(vec![object("a.txt"), object("b.txt")]));
    let NodeKind::Task(task) = &w.nodes[1].1 else { panic!("a task") };
    assert_eq!((task.args.as_slice(), task.retries), (&["-l".to_owned(), "3".to_owned()][..], 1));
    assert_eq!((task.timeout_ms, task.env["LANG"].as_str()), (Some(30_000), "C"));
    assert_eq!(w.edges[0].from, workflow::End { node: "texts".into(), port: Port::Stdout });
    assert_eq!(w.edges[1].to, workflow::End { node: "top".into(), port: Port::Stdin });
}

#[test]
fn how_many_must_agree_is_read_in_both_forms_and_nothing_else_passes() {
    let rules = |task: &str| {
        let text = format!("name: n\nnodes:\n  a: {{ task: {{ service: count, {task} }} }}\n");
        let w = parse(&text, Format::Yaml).map_err(|e| format!("{e:?}"))?.compile(resolve).expect("compiles");
        let NodeKind::Task(a) = &w.nodes[0].1 else { panic!("a task") };
        Ok::<_, String>((a.rules.quorum, a.rules.audit_ppm))
    };
    let two_of_three = Some(Quorum { agree: 2, of: 3 });
    assert_eq!(rules("quorum: 2 of 3"), Ok((two_of_three, None)));
    assert_eq!(rules("quorum: { agree: 2, of: 3 }, audit: 5%"), Ok((two_of_three, Some(50_000))));
    for (wrong, reason) in [
        ("quorum: 2", "must be `2 of 3`"),
        ("quorum: 2/3", "must be `2 of 3`"),
        ("quorum: { agree: 2 }", "must be `2 of 3`"),
        ("audit: 5", "must be a share"),
        ("audit: 0%", "must be a share"),
    ] {
        let said = rules(wrong).unwrap_err();
        assert!(said.contains(reason), "{wrong}: {said}");
    }
}

#[test]
fn times_failures_and_conditions_are_read_as_they_are_written() {
    let text = "\
name: careful
timeout: 2h
on_failure: continue
nodes:
  a: { task: { service: count, memory: 64MiB, queue: 90s,
      retry: { resource: 3, infra: 0, pause: 500ms, pause_max: 1m, memory_max: service } } }
  b: { task: { service: count, join: always, when: [
      { task: a, is: failed }, { task: a, code: -3 }, { task: a, empty: stderr },
      { task: a, port: stdout, equals: yes } ] } }
";
    let w = parse(text, Format::Yaml).expect("parses").compile(resolve).expect("compiles");
    assert_eq!(w.rules, RunRules { timeout_ms: Some(7_200_000), on_failure: OnFailure::Continue });
    let NodeKind::Task(a) = &w.nodes[0].1 else { panic!("a task") };
    assert_eq!((a.memory_bytes, a.rules.queue_ms), (Some(64 << 20), Some(90_000)));
    let retry = Retry {
        resource: Some(3),
        infra: Some(0),
        pause_ms: Some(500),
        pause_max_ms: Some(60_000),
        memory_max: Some(0),
    };
    assert_eq!(a.rules.retry, retry);
    let NodeKind::Task(b) = &w.nodes[1].1 else { panic!("a task") };
    let tests: Vec<Test> = b.rules.when.iter().map(|w| w.test.clone()).collect();
    let equals = Test::Is(Port::Stdout, Digest::of(b"yes"));
    assert_eq!(tests, [Test::Failed, Test::Code(-3), Test::Empty(Port::Stderr), equals]);
    assert_eq!(b.rules.join, Join::Always);
}

/// The handbook's examples, as they stand there.
#[test]
fn the_examples_of_the_handbook_are_workflows() {
    let page = include_str!("../../../docs/WORKFLOWS.md");
    let examples: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(examples.len(), 7);
    for text in examples {
        let w = parse(text, Format::Yaml).unwrap_or_else(|p| panic!("{p:?}\n{text}"));
        let w = w.compile(resolve).expect("compiles");
        let again = parse(&to_yaml(&w).expect("writes"), Format::Yaml).expect("parses");
        assert_eq!(again.compile(resolve).expect("compiles"), w);
    }
}

#[test]
fn a_rule_that_is_none_is_refused_at_its_place() {
    for (written, place, words) in [
        ("join: some", "nodes.t.task.join", "must be `all` or `any` or `always`, found `some`"),
        ("memory: 64", "nodes.t.task.memory", "a size with its unit"),
        ("memory: 0MiB", "nodes.t.task.memory", "a size with its unit"),
        ("retry: { infra: 101 }", "nodes.t.task.retry.infra", "from 0 to 100"),
        ("retry: { pauze: 1s }", "nodes.t.task.retry.pauze", "did you mean `pause`?"),
        ("when: [{ is: failed }]", "nodes.t.task.when[0]", "names no task"),
        ("when: [{ task: a, is: failed, code: 1 }]", "nodes.t.task.when[0]", "is not one question"),
        ("when: [{ task: a, is: done }]", "nodes.t.task.when[0].is", "`succeeded` or `failed`"),
        ("when: [{ task: a, empty: stdin }]", "nodes.t.task.when[0].empty", "did you mean `stdout`?"),
        ("when: [{ task: a, code: x }]", "nodes.t.task.when[0].code", "an exit code"),
    ] {
        let found = problems(&format!("name: x\nnodes: {{ t: {{ task: {{ service: s, {written} }} }} }}\n"));
        assert!(found.len() == 1 && found[0].contains(&format!(" {place}: ")), "{written}: {found:?}");
        assert!(found[0].contains(words), "{written}: {found:?}");
    }
    for (written, words) in [("timeout: 10", "a time with its unit"), ("on_failure: go", "`continue`")] {
        let found = problems(&format!("name: x\nnodes: {{}}\n{written}\n"));
        assert!(found[0].contains(words), "{written}: {found:?}");
    }
}

#[test]
fn order_is_that_of_the_text_and_not_of_the_alphabet() {
    let parsed = parse("name: n\nnodes: {z: {sink: {}}, a: {sink: }, m: {sink: {}}}\n", Format::Yaml);
    let ids: Vec<String> = parsed.expect("parses").nodes.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["z", "a", "m"]);
}

#[test]
fn an_unknown_key_is_refused_at_its_line_with_a_suggestion() {
    let text = TOP_WORDS.replace("timeout:", "timout:");
    assert_eq!(
        problems(&text),
        ["line 4, column 87: nodes.tokenize.task.timout: is not known here; did you mean `timeout`?"]
    );
}

#[test]
fn every_problem_is_told_at_once() {
    let text = "\
name: x
nodes:
  a b: { sink: {} }
  t: { task: { service: Tokenize!, peer: key_1, timeout: 30 } }
  s: { source: { text: hi, files: [] } }
edges:
  - t.stdin -> nowhere.in
  - t.stdout
";
    let found = problems(text);
    let places: Vec<&str> = found.iter().map(|p| p.split(": ").nth(1).unwrap_or_default()).collect();
    assert_eq!(
        places,
        [
            "nodes.a b",
            "nodes.t.task.service",
            "nodes.t.task.peer",
            "nodes.t.task.timeout",
            "nodes.s.source",
            "edges[0]",
            "edges[0]",
            "edges[1]",
        ],
        "{found:#?}"
    );
}

#[test]
fn a_misspelt_node_in_an_edge_is_suggested() {
    let text = TOP_WORDS.replace("-> tokenize.stdin", "-> tokenise.stdin");
    let found = problems(&text);
    assert_eq!(found, ["line 7, column 5: edges[0]: there is no node `tokenise`; did you mean `tokenize`?"]);
}

#[test]
fn ports_have_a_side() {
    for (edge, word) in [
        ("tokenize.stdout -> texts.in", "nothing flows into a source"),
        ("top.in -> tokenize.stdin", "nothing flows out of a sink"),
        ("tokenize.stdout -> tokenize.stdout", "did you mean `stdin`"),
        ("tokenize.../etc -> top.in", "name of a mount"),
    ] {
        let text = TOP_WORDS.replace("texts.out -> tokenize.stdin", edge);
        assert!(problems(&text)[0].contains(word), "{edge}: {:?}", problems(&text));
    }
}

#[test]
fn syntax_errors_say_line_and_column_in_both_formats() {
    let yaml = parse("name: [", Format::Yaml).expect_err("no YAML");
    assert!(yaml[0].location.is_some(), "{yaml:?}");
    let json = parse("{\n  \"name\": }", Format::Json).expect_err("no JSON");
    assert_eq!(json[0].location, Some(Location { line: 2, column: 11 }));
    assert_eq!(json[0].reason, "not readable: expected value");
}

#[test]
fn an_error_within_yaml_never_shows_the_machinery() {
    for text in ["", "- a", "name: x\nname: y\nnodes: {}", "nodes: &a [*a]", "a: b: c"] {
        let found = parse(text, Format::Yaml).expect_err(text);
        assert!(!found.is_empty() && found.iter().all(|p| !p.reason.contains("__serde")), "{found:?}");
    }
}

#[test]
fn missing_files_are_all_told_with_their_lines() {
    let text = TOP_WORDS.replace("a.txt, b.txt", "missing-a, here, missing-b");
    let found = parse(&text, Format::Yaml).expect("parses").compile(resolve).expect_err("missing");
    let told: Vec<String> = found.iter().map(Problem::to_string).collect();
    assert_eq!(
        told,
        [
            "line 3, column 30: nodes.texts.source.files[0]: no file missing-a",
            "line 3, column 47: nodes.texts.source.files[2]: no file missing-b",
        ]
    );
}

#[test]
fn problems_of_the_core_get_the_nearest_line() {
    let parsed = parse(TOP_WORDS, Format::Yaml).expect("parses");
    let at = |place: &str| {
        parsed
            .locate(&workflow::Problem { place: place.into(), reason: String::new() })
            .location
            .map(|l| l.line)
    };
    assert_eq!(at("nodes.tokenize.service"), Some(4));
    assert_eq!(at("edges[1].to"), Some(8));
    assert_eq!(at("elsewhere"), None);
}

#[test]
fn fractions_must_be_quoted_because_they_have_many_spellings() {
    let text = TOP_WORDS.replace("[-l, 3]", "[1.10]");
    assert!(problems(&text)[0].contains("put it in quotes"));
}

#[test]
fn deep_or_self_multiplying_text_is_refused() {
    let deep = format!("name: {}", "[".repeat(5_000));
    assert!(parse(&deep, Format::Yaml).is_err());
    assert!(parse(&deep.replace("name: ", ""), Format::Json).is_err());
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 10].join(",");
        bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    assert!(parse(&bomb, Format::Yaml).is_err());
}

fn arb_port_name() -> impl Strategy<Value = Port> {
    prop_oneof![
        Just(Port::Stdout),
        Just(Port::Stderr),
        "[a-z][a-z0-9._-]{0,8}".prop_filter_map("reserved", |s| {
            (!["stdin", "stdout", "stderr"].contains(&s.as_str())).then_some(Port::Mount(s))
        })
    ]
}

fn arb_test() -> impl Strategy<Value = Test> {
    prop_oneof![
        Just(Test::Succeeded),
        Just(Test::Failed),
        any::<i32>().prop_map(Test::Code),
        arb_port_name().prop_map(Test::Empty),
        (arb_port_name(), "[a-z]{0,3}").prop_map(|(port, text)| Test::Is(port, Digest::of(text.as_bytes()))),
    ]
}

fn arb_run_rules() -> impl Strategy<Value = RunRules> {
    let on_failure = proptest::sample::select(vec![OnFailure::Stop, OnFailure::Continue]);
    (proptest::option::of(1u64..10_000_000), on_failure)
        .prop_map(|(timeout_ms, on_failure)| RunRules { timeout_ms, on_failure })
}

prop_compose! {
    fn arb_task_rules()(
        (resource, infra) in (proptest::option::of(0u32..=100), proptest::option::of(0u32..=100)),
        pause_ms in proptest::option::of(1u64..10_000_000),
        pause_max_ms in proptest::option::of(1u64..10_000_000),
        memory_max in proptest::option::of(0u64..1 << 40),
        queue_ms in proptest::option::of(1u64..10_000_000),
        join in proptest::sample::select(vec![Join::All, Join::Any, Join::Always]),
        when in proptest::collection::vec(("[a-z]{1,5}", arb_test()), 0..4),
        quorum in proptest::option::of((2u32..=7, 2u32..=7)),
        audit_ppm in proptest::option::of(1u32..=1_000_000),
    ) -> TaskRules<String> {
        let when = when.into_iter().map(|(task, test)| When { task, test }).collect();
        let retry = Retry { resource, infra, pause_ms, pause_max_ms, memory_max };
        let quorum = quorum.map(|(agree, of)| Quorum { agree, of });
        TaskRules { retry, queue_ms, join, when, quorum, audit_ppm }
    }
}

prop_compose! {
    fn arb_place()(
        labels in proptest::collection::btree_set("[a-z=.]{1,6}", 0..3),
        arch in proptest::collection::btree_set("[a-z0-9_]{1,6}", 0..3),
        os in "[a-z]{0,5}",
        gpu_vendor in "[a-z]{0,5}",
        cpu_milli in 0u32..3_000,
        memory_bytes in 0u64..1 << 40,
        gpus in 0u32..3,
    ) -> Place {
        let needs = Needs { arch, os, cpu_milli, memory_bytes, disk_bytes: memory_bytes / 2, gpus, gpu_vendor };
        Place { labels, needs }
    }
}

prop_compose! {
    fn arb_workflow()(
        name in "[ -~]{1,20}",
        args in proptest::collection::vec("\\PC{0,12}", 0..4),
        env in proptest::collection::btree_map("[A-Z_]{1,8}", "\\PC{0,12}", 0..3),
        seeds in proptest::collection::vec(1u8..200, 0..3),
        retries in 0u32..=100,
        timeout_ms in proptest::option::of(1u64..10_000_000),
        place in arb_place(),
        port in arb_port_name(),
        texts in proptest::collection::vec("[a-z]{0,5}", 0..3),
        memory_bytes in proptest::option::of(1u64..1 << 40),
        (task_rules, run_rules) in (arb_task_rules(), arb_run_rules()),
    ) -> Workflow {
        let peers = seeds.iter().map(|s| Keypair::from_seed(&[*s; 32]).public()).collect();
        let rules = task_rules;
        let task = TaskSpec { service: "count".into(), peers, args, env, retries, timeout_ms, place, memory_bytes, rules };
        let end = |node: &str, port: Port| workflow::End { node: node.into(), port };
        Workflow {
            name,
            nodes: vec![
                ("z-in".into(), NodeKind::Source(texts.iter().map(|t| object(t)).collect())),
                ("no".into(), NodeKind::Task(task)),
                ("1".into(), NodeKind::Sink),
            ],
            edges: vec![
                Edge { from: end("z-in", Port::Stdout), to: end("no", Port::Stdin) },
                Edge { from: end("no", port), to: end("1", Port::Stdin) },
            ],
            rules: run_rules,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(w in arb_workflow()) {
        for (text, format) in [(to_yaml(&w), Format::Yaml), (to_json(&w), Format::Json)] {
            let text = text.expect("writes");
            let back = parse(&text, format);
            let back = back.unwrap_or_else(|p| panic!("{format:?}: {p:?}\n{text}"));
            prop_assert_eq!(&back.compile(resolve).expect("objects are objects"), &w, "{}", text);
        }
    }

    #[test]
    fn arbitrary_text_is_read_or_refused_with_words(text in "\\PC{0,200}") {
        for format in [Format::Yaml, Format::Json] {
            if let Err(found) = parse(&text, format) {
                prop_assert!(!found.is_empty() && found.iter().all(|p| !p.reason.is_empty()));
            }
        }
    }
}
