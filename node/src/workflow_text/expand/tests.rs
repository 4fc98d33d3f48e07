//! Laws of writing out: what comes of it is what somebody would have written by hand, and what is wrong has a place in
//! the text as written.

use crate::workflow_text::{
    Embedded, Format, Params, ParsedWorkflow, Problem, SourceItem, parse, parse_with, to_json, to_yaml,
};
use proptest::prelude::*;
use remote_network_core::id::Digest;
use remote_network_core::job::workflow::{self, NodeKind, ObjectRef, Workflow};
use std::path::PathBuf;

fn compiled(parsed: &ParsedWorkflow) -> Workflow {
    let resolve = |item: &SourceItem| match item {
        SourceItem::File(text) | SourceItem::Text(text) => {
            Ok(ObjectRef { digest: Digest::of(text.as_bytes()), len: text.len() as u64 })
        }
        SourceItem::Object(object) => Ok(object.clone()),
    };
    parsed.compile(resolve).expect("compiles")
}

fn read(text: &str) -> Workflow {
    compiled(&parse(text, Format::Yaml).unwrap_or_else(|p| panic!("{p:?}\n{text}")))
}

fn given(words: &[(&str, &str)]) -> Params {
    let words = words.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Params::typed(words, Some(PathBuf::from("/here"))).expect("given once")
}

fn refused(text: &str, params: &Params) -> Vec<Problem> {
    parse_with(text, Format::Yaml, params).expect_err("must be refused")
}

const COUNTS: &str = "\
name: counts-${region}
params:
  region: { description: where }
  least: { type: number, default: 3 }
  again: { type: number, default: 2 }
  loud: { default: false }
  scan: { type: file, default: a.txt }
  years: { default: ['2023', 2024] }
nodes:
  in: { source: { files: ['${scan}'] } }
  count:
    task:
      service: count
      args: ['${least}', 'a${loud}b', '$${HOME} $5', '$$${x}']
      env: { REGION: '${region}' }
      retries: ${again}
      place: { labels: ['region=${region}'] }
  all: { task: { service: join, args: '${years}' } }
edges: [in.out -> count.stdin, count.stdout -> all.stdin]
";

#[test]
fn parameters_are_filled_in_wherever_text_stands() {
    let text = COUNTS.replace("retries: ${again}", "retries: '${again}'");
    let params = given(&[("region", "eu"), ("least", "0.50"), ("scan", "scans/b.txt")]);
    let parsed = parse_with(&text, Format::Yaml, &params).expect("reads");
    let w = compiled(&parsed);
    assert_eq!(w.name, "counts-eu");
    let file = "/here/scans/b.txt";
    assert_eq!(
        w.nodes[0].1,
        NodeKind::Source(vec![ObjectRef { digest: Digest::of(file.as_bytes()), len: 17 }])
    );
    let NodeKind::Task(count) = &w.nodes[1].1 else { panic!("a task") };
    assert_eq!(count.args, ["0.50", "afalseb", "${HOME} $5", "$${x}"]);
    assert_eq!((count.env["REGION"].as_str(), count.retries), ("eu", 2));
    assert_eq!(count.place.labels, ["region=eu".to_owned()].into());
    let NodeKind::Task(all) = &w.nodes[2].1 else { panic!("a task") };
    assert_eq!(all.args, ["2023", "2024"]);
    // What is written again names no parameters.
    for (text, format) in [(to_yaml(&w), Format::Yaml), (to_json(&w), Format::Json)] {
        assert_eq!(compiled(&parse(&text.expect("writes"), format).expect("reads")), w);
    }
}

#[test]
fn values_in_a_request_are_of_their_type() {
    let body = r#"{"name": "n", "params": {"n": {"type": "number"}, "l": {"type": "list"}, "b": {"type": "boolean"}},
        "nodes": {"t": {"task": {"service": "s", "args": ["${n}", "${b}"], "map": {"over": "${l}"}}}}}"#;
    let read = |values: serde_json::Value| {
        let embedded: Embedded = serde_json::from_str(body).expect("JSON");
        embedded.read_with(&Params::of_json(serde_json::from_value(values).expect("a mapping")))
    };
    let parsed = read(serde_json::json!({"n": 1.5, "b": true, "l": ["x", 2]})).expect("reads");
    let w = compiled(&parsed);
    assert_eq!(w.nodes.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["t[0]", "t[1]"]);
    let NodeKind::Task(task) = &w.nodes[0].1 else { panic!("a task") };
    assert_eq!(task.args, ["1.5", "true"]);
    let problems = read(serde_json::json!({"n": "1.5", "b": "true", "l": "x"})).expect_err("wrong types");
    let places: Vec<&str> = problems.iter().map(|p| p.place.as_str()).collect();
    assert_eq!(places, ["params.n", "params.l", "params.b"]);
}

#[test]
fn what_is_wrong_with_parameters_is_told_with_place_and_suggestion() {
    let none = given(&[]);
    let told = |text: &str, params: &Params| -> Vec<String> {
        refused(text, params).iter().map(ToString::to_string).collect()
    };
    let missing = told(COUNTS, &none);
    assert_eq!(
        missing,
        ["line 3, column 3: params.region: has no value: it must be given (text), or have a `default`"]
    );
    let unknown = told(COUNTS, &given(&[("region", "eu"), ("regoin", "us")]));
    assert!(unknown[0].contains("there is no parameter `regoin`; did you mean `region`?"), "{unknown:?}");
    let wrong = told(COUNTS, &given(&[("region", "eu"), ("least", "many")]));
    assert_eq!(wrong, ["line 4, column 3: params.least: must be a number, given was `many`"]);
    let odd =
        COUNTS.replace("REGION: '${region}'", "REGION: '${regio}'").replace("'a${loud}b'", "'a${years}b'");
    let odd = told(&odd, &given(&[("region", "eu")]));
    assert!(
        odd[0].starts_with("line 14") && odd[0].contains("nodes.count.task.args[1]: `years` is a list"),
        "{odd:?}"
    );
    assert!(
        odd[1].contains("nodes.count.task.env.REGION: there is no parameter `regio`; did you mean `region`?"),
        "{odd:?}"
    );
    let none_declared = told("name: '${x}'\nnodes: {}\n", &none);
    assert!(none_declared[0].contains("`params:` declares them"), "{none_declared:?}");
    for (declared, place) in [
        ("{ type: text }", "params.p.type"),
        ("{ type: number, default: x }", "params.p.default"),
        ("{ type: boolean, default: 3 }", "params.p.default"),
        ("{ defualt: x }", "params.p.defualt"),
        ("{ default: [[x]] }", "params.p.default[0]"),
    ] {
        let found = refused(&format!("name: n\nparams: {{ p: {declared} }}\nnodes: {{}}\n"), &none);
        assert_eq!(
            (found[0].place.as_str(), found[0].location.map(|l| l.line)),
            (place, Some(2)),
            "{found:?}"
        );
    }
    assert!(Params::typed(vec![("a".into(), "1".into()), ("a".into(), "1".into())], None).is_err());
}

#[test]
fn a_source_that_is_mapped_over_gives_each_task_one_file_and_everyone_else_all() {
    let mapped = read("\
name: tiles
nodes:
  in: { source: { files: [a.pgm, b.pgm] } }
  one: { task: { service: change, args: ['${file}', '${index}'], map: { over: in, as: file } } }
  two: { task: { service: change, map: { over: in }, when: [{ task: one, empty: stderr }] } }
  other: { task: { service: change, args: ['${item.x}-${item.y}'], map: { over: [{ x: 0, y: 1 }, { x: 1, y: 2 }] } } }
  all: { task: { service: mosaic } }
  kept: { sink: {} }
edges:
  - in.out -> one.stdin
  - one.stdout -> two.stdin
  - in.out -> other.stdin
  - in.out -> all.stdin
  - two.stdout -> all.maps
  - all.stdout -> kept.in
");
    let by_hand = read(
        "\
name: tiles
nodes:
  in[0]: { source: { files: [a.pgm] } }
  in[1]: { source: { files: [b.pgm] } }
  one[0]: { task: { service: change, args: [a.pgm, 0] } }
  one[1]: { task: { service: change, args: [b.pgm, 1] } }
  two[0]: { task: { service: change, when: [{ task: 'one[0]', empty: stderr }] } }
  two[1]: { task: { service: change, when: [{ task: 'one[1]', empty: stderr }] } }
  other[0]: { task: { service: change, args: [0-1] } }
  other[1]: { task: { service: change, args: [1-2] } }
  all: { task: { service: mosaic } }
  kept: { sink: {} }
edges:
  - in[0].out -> one[0].stdin
  - in[1].out -> one[1].stdin
  - one[0].stdout -> two[0].stdin
  - one[1].stdout -> two[1].stdin
  - in[0].out -> other[0].stdin
  - in[1].out -> other[0].stdin
  - in[0].out -> other[1].stdin
  - in[1].out -> other[1].stdin
  - in[0].out -> all.stdin
  - in[1].out -> all.stdin
  - two[0].stdout -> all.maps
  - two[1].stdout -> all.maps
  - all.stdout -> kept.in
",
    );
    assert_eq!(mapped, by_hand);
}

#[test]
fn what_is_wrong_with_a_map_has_its_place_in_the_text() {
    let text = |map: &str, more: &str, edge: &str| {
        format!(
            "name: n\nnodes:\n  in: {{ source: {{ text: hi }} }}\n  a: {{ task: {{ service: s, map: {map}{more} }} }}\n  \
             b: {{ task: {{ service: s, map: {{ over: [1, 2, 3] }} }} }}\n  c: {{ task: {{ service: s }} }}\nedges:\n  - {edge}\n"
        )
    };
    let good = "c.stdout -> a.stdin";
    let two = "{ over: [x, y] }";
    for (map, more, edge, line, place, words) in [
        ("{ over: [] }", "", good, 4, "nodes.a.task.map.over", "has 0 items"),
        ("{ ovr: [x] }", "", good, 4, "nodes.a.task.map.ovr", "did you mean `over`?"),
        ("{ as: x }", "", good, 4, "nodes.a.task.map", "needs `over`"),
        ("{ over: inn }", "", good, 4, "nodes.a.task.map.over", "did you mean `in`?"),
        ("{ over: in }", "", good, 4, "nodes.a.task.map.over", "no `files` and no `objects`"),
        ("{ over: '${l}' }", "", good, 4, "nodes.a.task.map.over", "there is no parameter `l`"),
        ("{ over: [x, { y: 1 }] }", "", good, 4, "nodes.a.task.map.over[1]", "is not like the first"),
        ("{ over: [x], as: index }", "", good, 4, "nodes.a.task.map.as", "is no name for an item"),
        (two, ", args: ['${itme}']", good, 4, "nodes.a.task.args[0]", "did you mean `item`?"),
        (two, ", memory: 3", good, 4, "nodes.a[0].task.memory", "a size with its unit"),
        (two, "", "a.stdout -> b.stdin", 8, "edges[0]", "different lists (2 and 3 items)"),
        (two, "", "a[2].stdout -> c.stdin", 8, "edges[0]", "there is no node `a[2]`"),
        (two, "", "a.stdout -> c.stdout", 8, "edges[0]", "did you mean `stdin`?"),
        (two, ", when: [{ task: b, is: failed }]", good, 4, "nodes.a.task.when[0].task", "`b[0]`"),
    ] {
        let text = text(map, more, edge);
        let found = refused(&text, &given(&[]));
        assert!(found.len() == 1 || map.contains("ovr"), "{found:?}\n{text}");
        assert_eq!(found[0].place, place, "{found:?}");
        assert_eq!(found[0].location.map(|l| l.line), Some(line), "{found:?}");
        assert!(found[0].reason.contains(words), "{found:?}");
    }
}

#[test]
fn what_the_core_says_of_an_edge_is_told_of_the_edge_as_written() {
    let parsed = parse(
        "name: n\nnodes:\n  a: { task: { service: s, map: { over: [1, 2, 3] } } }\n  k: { sink: {} }\n  b: { task: { service: s } }\n\
         edges:\n  - a.stdout -> k.in\n  - a.stdout -> b.stdin\n",
        Format::Yaml,
    )
    .expect("reads");
    let found = parsed.locate(&workflow::Problem { place: "edges[4].to".into(), reason: "wrong".into() });
    assert_eq!((found.place.as_str(), found.location.map(|l| l.line)), ("edges[1].to", Some(8)));
}

#[test]
fn a_short_text_cannot_ask_for_everything() {
    let list = vec!["1"; 10_000].join(",");
    let tasks = |n: usize, arg: &str| -> String {
        (0..n)
            .map(|i| {
                format!("  t{i}: {{ task: {{ service: s, args: ['{arg}'], map: {{ over: '${{l}}' }} }} }}\n")
            })
            .collect()
    };
    let text = |nodes: &str, edges: &str| {
        format!(
            "name: n\nparams: {{ l: {{ type: list }} }}\nnodes:\n  c: {{ task: {{ service: s }} }}\n{nodes}edges:\n{edges}"
        )
    };
    let params = given(&[("l", &list)]);
    let first = |text: &str| refused(text, &params).remove(0).to_string();
    assert!(
        first(&text(&tasks(3, "x"), " []\n"))
            .contains("30001 nodes when lists are written out, at most 24000")
    );
    let long = "y".repeat(100_000);
    assert!(first(&text(&tasks(1, &long), " []\n")).contains("is larger than 16777216 bytes"));
    let edges = "  - t0.stdout -> c.stdin\n".repeat(11);
    assert!(
        first(&text(&tasks(1, "x"), &edges)).contains("line 17, column 5: edges[10]: more than 100000 edges")
    );
    let eleven = given(&[("l", &format!("{list},1"))]);
    assert!(refused(&text(&tasks(1, "x"), " []\n"), &eleven)[0].reason.contains("1 to 10000"));
}

proptest! {
    #[test]
    fn what_is_mapped_is_what_is_written_by_hand(
        items in proptest::collection::vec("[a-z0-9${} ,'\"]{0,6}", 1..7),
        as_parameter in any::<bool>(),
        fan_in in any::<bool>(),
    ) {
        let quoted: Vec<String> = items.iter().map(|i| serde_json::to_string(i).expect("writes")).collect();
        let literal: Vec<String> = items.iter().map(|i| i.replace("${", "$${")).collect();
        let literal: Vec<String> = literal.iter().map(|i| serde_json::to_string(i).expect("writes")).collect();
        let over = if as_parameter { "\"${l}\"".to_owned() } else { format!("[{}]", literal.join(",")) };
        let last = if fan_in { "{ \"task\": { \"service\": \"s\" } }" } else { "{ \"sink\": {} }" };
        let port = if fan_in { "stdin" } else { "in" };
        let mapped = format!(
            "{{ \"name\": \"n\", \"params\": {{ \"l\": {{ \"default\": [\"x\"] }} }}, \"nodes\": {{ \"in\": {{ \"source\": {{ \"text\": \"t\" }} }},
             \"a\": {{ \"task\": {{ \"service\": \"s\", \"args\": [\"-${{item}}\", \"${{index}}\"], \"map\": {{ \"over\": {over} }} }} }},
             \"b\": {{ \"task\": {{ \"service\": \"s\", \"map\": {{ \"over\": {over} }} }} }}, \"z\": {last} }},
             \"edges\": [\"in.out -> a.stdin\", \"a.stdout -> b.stdin\", \"b.stdout -> z.{port}\"] }}"
        );
        let params = Params::typed(vec![("l".into(), format!("[{}]", quoted.join(",")))], None).expect("one");
        let mapped = compiled(&parse_with(&mapped, Format::Json, &params).expect("reads"));
        let each = |make: &dyn Fn(usize, &str) -> String| -> Vec<String> {
            items.iter().enumerate().map(|(i, item)| make(i, &item.replace("${", "$${"))).collect()
        };
        let nodes = [
            vec!["\"in\": { \"source\": { \"text\": \"t\" } }".to_owned()],
            each(&|i, item| {
                let arg = serde_json::to_string(&format!("-{item}")).expect("writes");
                format!("\"a[{i}]\": {{ \"task\": {{ \"service\": \"s\", \"args\": [{arg}, \"{i}\"] }} }}")
            }),
            each(&|i, _| format!("\"b[{i}]\": {{ \"task\": {{ \"service\": \"s\" }} }}")),
            vec![format!("\"z\": {last}")],
        ];
        let edges = [
            each(&|i, _| format!("\"in.out -> a[{i}].stdin\"")),
            each(&|i, _| format!("\"a[{i}].stdout -> b[{i}].stdin\"")),
            each(&|i, _| format!("\"b[{i}].stdout -> z.{port}\"")),
        ];
        let by_hand = format!(
            "{{ \"name\": \"n\", \"nodes\": {{ {} }}, \"edges\": [{}] }}", nodes.concat().join(","), edges.concat().join(",")
        );
        prop_assert_eq!(mapped, compiled(&parse(&by_hand, Format::Json).expect("reads")));
    }
}
