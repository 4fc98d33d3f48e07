//! The JSON Schema (draft 2020-12) of the text form, made from the table of keys that the reader uses. It says what a
//! text may look like, so that editors complete and check it; what only a whole workflow shows (edges to nodes that are
//! not there, cycles, services nobody has) is told by `workflow validate`.

use super::NAME_BYTES_MAX;
use super::keys::{self, Key, Shape};
use serde_json::{Map, Value, json};

/// Anything in which a parameter is named: what it becomes is known when it is filled in.
const REFERENCE: &str = r"\$\{";

/// The schema.
pub fn schema() -> Value {
    let mut root = fields(keys::WORKFLOW);
    let about = [
        ("$schema", "https://json-schema.org/draft/2020-12/schema"),
        ("title", "Workflow of Remote Network"),
        (
            "description",
            "Sources, tasks and sinks, and edges from port to port. `${name}` is a parameter, `$${` a `${`.",
        ),
    ];
    for (key, words) in about {
        root.insert(key.to_owned(), json!(words));
    }
    Value::Object(root)
}

/// The schema as it is published.
pub fn schema_text() -> String {
    format!("{:#}\n", schema())
}

fn properties(keys: &[Key]) -> Value {
    let each = keys.iter().map(|key| {
        let mut schema = shape(&key.shape);
        schema.insert("description".to_owned(), json!(key.about));
        (key.name.to_owned(), Value::Object(schema))
    });
    Value::Object(each.collect())
}

fn fields(keys: &[Key]) -> Map<String, Value> {
    let required: Vec<&str> = keys.iter().filter(|k| k.required).map(|k| k.name).collect();
    let mut schema =
        object(json!({"type": "object", "properties": properties(keys), "additionalProperties": false}));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema
}

fn shape(shape: &Shape) -> Map<String, Value> {
    let text = || json!({"type": "string"});
    let pattern = |units: &str| format!("^[0-9]+ *({units})$|{REFERENCE}");
    object(match shape {
        Shape::Text => text(),
        Shape::Scalar => json!({"type": ["string", "integer", "boolean"]}),
        Shape::Title => json!({"type": "string", "minLength": 1, "maxLength": NAME_BYTES_MAX}),
        Shape::Duration => json!({"type": "string", "pattern": pattern("ms|s|m|h")}),
        Shape::Size => json!({"type": "string", "pattern": pattern("B|KiB|MiB|GiB")}),
        Shape::SizeOrService => {
            json!({"type": "string", "pattern": format!("^service$|{}", pattern("B|KiB|MiB|GiB"))})
        }
        Shape::Count(max) => number(json!({"type": "integer", "minimum": 0, "maximum": max})),
        Shape::ExitCode => number(json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX})),
        Shape::Word(words) => json!({"anyOf": [{"enum": words}, reference()]}),
        Shape::List(item) => match item {
            Shape::Scalar => json!({"anyOf": [list(item), reference()]}),
            _ => list(item),
        },
        Shape::OneOrMany(item) => json!({"anyOf": [self::shape(item), list(item)]}),
        Shape::Named(names, value) => json!({
            "type": "object",
            "patternProperties": {*names: self::shape(value)},
            "additionalProperties": false,
        }),
        Shape::Fields(keys) => return fields(keys),
        Shape::Choice(keys) => {
            let mut schema = fields(keys);
            schema.insert("minProperties".to_owned(), json!(1));
            schema.insert("maxProperties".to_owned(), json!(1));
            return schema;
        }
        Shape::Question(keys) => {
            let mut schema = fields(keys);
            let forms = keys::QUESTIONS.iter().map(|q| json!({"required": q, "maxProperties": q.len() + 1}));
            schema.insert("oneOf".to_owned(), Value::Array(forms.collect()));
            return schema;
        }
        Shape::FieldsOrNothing(keys) => {
            let mut schema = fields(keys);
            schema.insert("type".to_owned(), json!(["object", "null"]));
            return schema;
        }
        Shape::Over => {
            let scalar = || self::shape(&Shape::Scalar);
            let item = json!({"anyOf": [scalar(), {"type": "object", "minProperties": 1, "additionalProperties": scalar()}]});
            json!({"anyOf": [{"type": "array", "minItems": 1, "items": item}, text()]})
        }
        Shape::Value => {
            let scalar = self::shape(&Shape::Scalar);
            json!({"anyOf": [{"type": ["string", "number", "boolean"]}, {"type": "array", "items": scalar}]})
        }
        Shape::Quorum(keys) => {
            let short = format!("^ *[0-9]+ +of +[0-9]+ *$|{REFERENCE}");
            json!({"anyOf": [{"type": "string", "pattern": short}, fields(keys)]})
        }
        Shape::Share => {
            json!({"type": "string", "pattern": format!("^[0-9]{{1,3}}([.][0-9]{{0,4}})? *%$|{REFERENCE}")})
        }
        Shape::Edge => json!({"type": "string", "pattern": r"^\s*[^.]+\..+->\s*[^.]+\..+$"}),
    })
}

fn list(item: &Shape) -> Value {
    json!({"type": "array", "items": shape(item)})
}

/// A number, or a parameter that is one.
fn number(schema: Value) -> Value {
    json!({"anyOf": [schema, reference()]})
}

fn reference() -> Value {
    json!({"type": "string", "pattern": REFERENCE})
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}
