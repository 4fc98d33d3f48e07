//! The schema and the reader agree: on what the repository shows, and on what is wrong. What of JSON Schema the schema
//! uses is little, and is read here.

use super::{Format, parse};
use crate::workflow_text::schema::{schema, schema_text};
use serde_json::{Value, json};

fn matches(pattern: &str, text: &str) -> bool {
    let unit = |units: &[&str]| {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        text.contains("${") || digits > 0 && units.contains(&text[digits..].trim_start_matches(' '))
    };
    let word = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let (times, sizes) = (["ms", "s", "m", "h"], ["B", "KiB", "MiB", "GiB"]);
    match pattern {
        r"\$\{" => text.contains("${"),
        r"^[0-9]+ *(ms|s|m|h)$|\$\{" => unit(&times),
        r"^[0-9]+ *(B|KiB|MiB|GiB)$|\$\{" => unit(&sizes),
        r"^service$|^[0-9]+ *(B|KiB|MiB|GiB)$|\$\{" => text == "service" || unit(&sizes),
        r"^[A-Za-z0-9_-]+(\[(0|[1-9][0-9]{0,3})\])?$" => word(text.split('[').next().unwrap_or_default()),
        "^[A-Za-z_][A-Za-z0-9_-]{0,63}$" => word(text),
        r"^[^=\u0000]+$" => !text.is_empty() && !text.contains(['=', '\0']),
        r"^\s*[^.]+\..+->\s*[^.]+\..+$" => {
            text.split_once("->").is_some_and(|(a, b)| a.contains('.') && b.contains('.'))
        }
        r"^ *[0-9]+ +of +[0-9]+ *$|\$\{" => {
            let number = |t: &str| !t.trim().is_empty() && t.trim().bytes().all(|b| b.is_ascii_digit());
            text.contains("${") || text.split_once(" of ").is_some_and(|(a, b)| number(a) && number(b))
        }
        r"^[0-9]{1,3}([.][0-9]{0,4})? *%$|\$\{" => {
            let share = text.strip_suffix('%').map(|t| t.trim_end_matches(' ').replacen('.', "", 1));
            text.contains("${")
                || share.is_some_and(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()))
        }
        other => panic!("the schema has a pattern that this test does not know: {other}"),
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("no type: {other}"),
    }
}

fn valid(schema: &Value, value: &Value) -> bool {
    let object = value.as_object();
    schema.as_object().expect("a schema is an object").iter().all(|(word, rule)| match word.as_str() {
        "$schema" | "title" | "description" | "properties" | "patternProperties" => true,
        "type" => match rule {
            Value::Array(kinds) => kinds.iter().any(|k| is(k.as_str().expect("a word"), value)),
            kind => is(kind.as_str().expect("a word"), value),
        },
        "enum" => rule.as_array().expect("a list").contains(value),
        "anyOf" => rule.as_array().expect("a list").iter().any(|s| valid(s, value)),
        "oneOf" => rule.as_array().expect("a list").iter().filter(|s| valid(s, value)).count() == 1,
        "pattern" => value.as_str().is_none_or(|t| matches(rule.as_str().expect("text"), t)),
        "minimum" => value.as_f64().is_none_or(|n| n >= rule.as_f64().expect("a number")),
        "maximum" => value.as_f64().is_none_or(|n| n <= rule.as_f64().expect("a number")),
        "minLength" => value.as_str().is_none_or(|t| t.len() as u64 >= rule.as_u64().expect("a number")),
        "maxLength" => value.as_str().is_none_or(|t| t.len() as u64 <= rule.as_u64().expect("a number")),
        "minItems" => value.as_array().is_none_or(|l| l.len() as u64 >= rule.as_u64().expect("a number")),
        "minProperties" => object.is_none_or(|o| o.len() as u64 >= rule.as_u64().expect("a number")),
        "maxProperties" => object.is_none_or(|o| o.len() as u64 <= rule.as_u64().expect("a number")),
        "items" => value.as_array().is_none_or(|l| l.iter().all(|v| valid(rule, v))),
        "required" => object.is_none_or(|o| {
            rule.as_array().expect("a list").iter().all(|k| o.contains_key(k.as_str().expect("text")))
        }),
        "additionalProperties" => object.is_none_or(|o| o.iter().all(|(key, v)| known(schema, rule, key, v))),
        other => panic!("the schema has a word that this test does not know: {other}"),
    })
}

fn known(schema: &Value, others: &Value, key: &str, value: &Value) -> bool {
    if let Some(own) = schema["properties"].get(key) {
        return valid(own, value);
    }
    let patterns = schema["patternProperties"].as_object();
    match patterns.and_then(|p| p.iter().find(|(pattern, _)| matches(pattern, key))) {
        Some((_, own)) => valid(own, value),
        None => others.is_object() && valid(others, value),
    }
}

fn json_of(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"))
}

#[test]
fn the_published_schema_is_the_one_that_is_made() {
    let published = include_str!("../../../docs/workflow.schema.json");
    assert!(
        published == schema_text(),
        "`remote-network workflow schema > docs/workflow.schema.json` is due"
    );
}

#[test]
fn every_workflow_that_the_repository_shows_fits_the_schema() {
    let pages = [include_str!("../../../docs/WORKFLOWS.md"), include_str!("../../../README.md")];
    let mut texts = vec![
        include_str!("../../../docs/examples/documents/workflow.yaml"),
        include_str!("../../../docs/examples/raster/workflow.yaml"),
        include_str!("../../../docs/examples/species/workflow.yaml"),
    ];
    let blocks = pages.iter().flat_map(|page| page.split("```yaml\n").skip(1));
    texts.extend(blocks.filter_map(|b| b.split("```").next()).filter(|b| b.contains("nodes:")));
    assert!(texts.len() >= 7, "{}", texts.len());
    for text in texts {
        assert!(valid(&schema(), &json_of(text)), "{text}");
    }
}

#[test]
fn what_has_a_wrong_form_is_refused_by_both() {
    let task = |more: &str| format!("name: x\nnodes: {{ t: {{ task: {{ service: s{more} }} }} }}\n");
    let fine = task("");
    assert!(valid(&schema(), &json_of(&fine)) && parse(&fine, Format::Yaml).is_ok());
    let mut wrong: Vec<String> = [
        "join: some",
        "memory: 64",
        "memory: 64MB",
        "retry: { infra: 101 }",
        "retry: { pauze: 1s }",
        "retries: -1",
        "retries: many",
        "timeout: 30",
        "timeout: soon",
        "args: 3",
        "env: [a]",
        "env: { a: [b] }",
        "peer: {}",
        "when: [{ is: failed }]",
        "when: [{ task: a, is: failed, code: 1 }]",
        "when: [{ task: a, is: done }]",
        "when: [{ task: a, port: stdout }]",
        "place: { label: [x] }",
        "place: { needs: { gpus: -1 } }",
        "map: { over: [] }",
        "quorum: 2",
        "quorum: { agree: 2 }",
        "quorum: [2, 3]",
        "audit: 5",
        "audit: often%",
        "map: { as: x }",
        "map: { over: { a: 1 } }",
        "servce: s",
    ]
    .iter()
    .map(|rule| task(&format!(", {rule}")))
    .collect();
    wrong.extend(
        [
            "nodes: {}\n",
            "name: ''\nnodes: {}\n",
            "name: x\n",
            "name: x\nnodes: []\n",
            "name: x\nnodes: { a: {} }\n",
            "name: x\nnodes: { a: { sink: {}, source: { text: t } } }\n",
            "name: x\nnodes: { a: { source: {} } }\n",
            "name: x\nnodes: { a b: { sink: {} } }\n",
            "name: x\nnodes: { a: { sink: { x: 1 } } }\n",
            "name: x\nnodes: { a: { source: { objects: [{ len: 1 }] } } }\n",
            "name: x\nnodes: {}\nedges: [a -> b]\n",
            "name: x\nnodes: {}\nedges: {}\n",
            "name: x\nnodes: {}\non_failure: go\n",
            "name: x\nnodes: {}\nparams: { p: { type: text } }\n",
            "name: x\nnodes: {}\nparams: { p: { dflt: 1 } }\n",
        ]
        .map(str::to_owned),
    );
    for text in wrong {
        assert!(parse(&text, Format::Yaml).is_err(), "read: {text}");
        assert!(!valid(&schema(), &json_of(&text)), "fits: {text}");
    }
    // A parameter may stand where its value will be judged.
    let open = task(", retries: '${n}', timeout: '${n}s', join: '${j}', args: '${l}'");
    assert!(valid(&schema(), &json_of(&open)));
    assert_eq!(schema()["additionalProperties"], json!(false));
}
