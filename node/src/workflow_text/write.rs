//! From a workflow to its text. Sources are objects by then, so they are written as objects: what was in a file or a
//! text stays in the store and the text form stays small.

mod rules;

use super::peer_names;
use super::place::PlaceText;
use remote_network_core::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use remote_network_core::port::Port;
use rules::{RetryText, WhenText};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The workflow as YAML that [`super::parse`] reads back.
pub fn to_yaml(workflow: &Workflow) -> Result<String, String> {
    serde_saphyr::to_string(&WorkflowText::of(workflow)).map_err(|e| e.to_string())
}

/// The workflow as JSON that [`super::parse`] reads back.
pub fn to_json(workflow: &Workflow) -> Result<String, String> {
    serde_json::to_string_pretty(&WorkflowText::of(workflow)).map_err(|e| e.to_string())
}

#[derive(Serialize)]
struct WorkflowText<'a> {
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_failure: Option<&'static str>,
    nodes: InOrder<'a>,
    edges: Vec<String>,
}

impl<'a> WorkflowText<'a> {
    fn of(workflow: &'a Workflow) -> Self {
        let kind_of: BTreeMap<&str, &NodeKind> =
            workflow.nodes.iter().map(|(id, k)| (id.as_str(), k)).collect();
        let edges = workflow.edges.iter().map(|e| edge_text(e, &kind_of)).collect();
        Self {
            name: literal(&workflow.name),
            timeout: workflow.rules.timeout_ms.map(duration_text),
            on_failure: rules::on_failure_text(workflow.rules.on_failure),
            nodes: InOrder(&workflow.nodes),
            edges,
        }
    }
}

/// A mapping whose order is part of its meaning.
struct InOrder<'a>(&'a [(String, NodeKind)]);

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, kind) in self.0 {
            map.serialize_entry(id, &NodeText::of(kind))?;
        }
        map.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum NodeText<'a> {
    Source { objects: Vec<ObjectText> },
    Task(TaskText<'a>),
    Sink {},
}

impl<'a> NodeText<'a> {
    fn of(kind: &'a NodeKind) -> Self {
        match kind {
            NodeKind::Source(objects) => {
                NodeText::Source { objects: objects.iter().map(ObjectText::of).collect() }
            }
            NodeKind::Task(task) => NodeText::Task(TaskText::of(task)),
            NodeKind::Sink => NodeText::Sink {},
        }
    }
}

#[derive(Serialize)]
struct ObjectText {
    digest: String,
    len: u64,
}

impl ObjectText {
    fn of(object: &ObjectRef) -> Self {
        Self { digest: object.digest.to_string(), len: object.len }
    }
}

#[derive(Serialize)]
struct TaskText<'a> {
    service: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peer: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<&'a str, Cow<'a, str>>,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<PlaceText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<RetryText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    join: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    when: Vec<WhenText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quorum: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<String>,
}

impl<'a> TaskText<'a> {
    fn of(task: &'a TaskSpec) -> Self {
        Self {
            service: &task.service,
            peer: peer_names(&task.peers),
            args: task.args.iter().map(|a| literal(a)).collect(),
            env: task.env.iter().map(|(k, v)| (k.as_str(), literal(v))).collect(),
            retries: task.retries,
            timeout: task.timeout_ms.map(duration_text),
            place: PlaceText::of(&task.place),
            memory: task.memory_bytes.map(rules::size_text),
            retry: RetryText::of(&task.rules.retry),
            queue: task.rules.queue_ms.map(duration_text),
            join: rules::join_text(task.rules.join),
            when: task.rules.when.iter().map(WhenText::of).collect(),
            quorum: task.rules.quorum.map(|q| format!("{} of {}", q.agree, q.of)),
            audit: task.rules.audit_ppm.map(rules::share_text),
        }
    }
}

/// The text so that it is read as it is: `${` would name a parameter.
fn literal(text: &str) -> Cow<'_, str> {
    if text.contains("${") { Cow::Owned(text.replace("${", "$${")) } else { Cow::Borrowed(text) }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the shape serde asks for
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The shortest exact spelling.
fn duration_text(ms: u64) -> String {
    for (factor, unit) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if ms >= factor && ms.is_multiple_of(factor) {
            return format!("{}{unit}", ms / factor);
        }
    }
    format!("{ms}ms")
}

fn edge_text(edge: &Edge, kinds: &BTreeMap<&str, &NodeKind>) -> String {
    format!("{} -> {}", end_text(&edge.from, kinds), end_text(&edge.to, kinds))
}

fn end_text(end: &End, kinds: &BTreeMap<&str, &NodeKind>) -> String {
    let port = match kinds.get(end.node.as_str()) {
        Some(NodeKind::Source(_)) => "out",
        Some(NodeKind::Sink) => "in",
        Some(NodeKind::Task(_)) | None => port_text(&end.port),
    };
    format!("{}.{port}", end.node)
}

/// A port in the words of the text form.
pub fn port_text(port: &Port) -> &str {
    match port {
        Port::Stdin => "stdin",
        Port::Stdout => "stdout",
        Port::Stderr => "stderr",
        Port::Mount(name) => name,
    }
}
