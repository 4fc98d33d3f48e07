//! The text form of a workflow: YAML where people write it, JSON where programs do. Both are the same thing.
//!
//! ```yaml
//! name: top-words
//! nodes:
//!   texts: { source: { files: [a.txt, b.txt] } }
//!   tokenize: { task: { service: tokenize, peer: key_…, args: [], retries: 1, timeout: 30s } }
//!   top: { sink: {} }
//! edges:
//!   - texts.out -> tokenize.stdin
//!   - tokenize.stdout -> top.in
//! ```
//!
//! Reading happens in two steps, because the core knows objects and people know files. [`parse`] turns text into a
//! [`ParsedWorkflow`], or into *everything* that is wrong with it, each problem with its place, its line and its
//! column; parameters are filled in and tasks over lists written out before. [`ParsedWorkflow::compile`] then asks its caller to turn every source (a file, a text, an object) into an
//! object of the local store and gives the core's `Workflow`. What only the core can judge (cycles, unknown services,
//! unreachable peers) is judged there; [`ParsedWorkflow::locate`] gives those problems their line back.
//!
//! The order of nodes and edges is kept: it decides in which order inputs are concatenated. An unknown key is an error
//! with a suggestion, since a misspelt `timeout` that is silently ignored costs somebody a night.

mod expand;
mod keys;
mod params;
mod place;
mod read;
mod schema;
mod tree;
mod write;

pub use params::Params;
pub use schema::{schema, schema_text};
pub use write::{port_text, to_json, to_yaml};

use remote_network_core::command::CommandError;
use remote_network_core::id::PublicKey;
use remote_network_core::job::rules::RunRules;
use remote_network_core::job::workflow::{self, Edge, NodeKind, ObjectRef, TaskSpec, Workflow};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;

/// Longest accepted text: a workflow of 10,000 tasks and 100,000 edges with short names is below 6 MiB; inline texts need room too.
pub const TEXT_BYTES_MAX: usize = 8 << 20;
/// Problems told at once; more help nobody.
pub const PROBLEMS_MAX: usize = 50;

/// Longest name of a node, but for the number of an item, and longest name of a workflow.
const NAME_BYTES_MAX: usize = 64;

/// How the text is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// YAML 1.2.
    Yaml,
    /// JSON.
    Json,
}

impl Format {
    /// JSON for `.json`, else YAML.
    pub fn of_file_name(name: &str) -> Self {
        if name.to_ascii_lowercase().ends_with(".json") { Format::Json } else { Format::Yaml }
    }
}

/// A position in the text; both count from one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Location {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// Something wrong with the text: where, what, and how to mend it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The place, in the words of the text form: `nodes.count.service`, `edges[3]`; empty for the whole text.
    pub place: String,
    /// Where that is written, when the text says.
    pub location: Option<Location>,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.location {
            write!(f, "line {}, column {}: ", at.line, at.column)?;
        }
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.reason)
    }
}

/// Something a source hands out, before it is an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceItem {
    /// A file, named as in the text; relative names are the caller's to resolve.
    File(String),
    /// These bytes.
    Text(String),
    /// An object that is in the store already.
    Object(ObjectRef),
}

/// A node as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ParsedNode {
    /// What is handed out, in order.
    Source(Vec<SourceItem>),
    /// A service somewhere.
    Task(TaskSpec),
    /// What is kept.
    Sink,
}

/// A workflow as written: well formed, its sources not yet in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParsedWorkflow {
    /// For people.
    pub name: String,
    /// Nodes in declared order.
    pub nodes: Vec<(String, ParsedNode)>,
    /// Edges in declared order.
    pub edges: Vec<Edge>,
    /// What holds for the whole run.
    pub rules: RunRules,
    locations: BTreeMap<String, Location>,
    edge_origins: Vec<usize>,
}

/// Reads a workflow, or says everything that is wrong with it.
pub fn parse(text: &str, format: Format) -> Result<ParsedWorkflow, Vec<Problem>> {
    parse_with(text, format, &Params::default())
}

/// Like [`parse`], with values for its parameters.
pub fn parse_with(text: &str, format: Format, params: &Params) -> Result<ParsedWorkflow, Vec<Problem>> {
    let tree = tree::parse(text, format).map_err(|problem| vec![problem])?;
    read::workflow(expand::expand(&tree, params)?)
}

/// A workflow inside a bigger JSON document, such as a request's body: syntactically sound, not yet understood. Its
/// problems have places, but no lines.
#[derive(Clone, PartialEq, Debug)]
pub struct Embedded(tree::TreeOf<String>);

impl<'de> Deserialize<'de> for Embedded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Deserialize::deserialize(deserializer).map(Embedded)
    }
}

impl Embedded {
    /// Reads the workflow, or says everything that is wrong with it.
    pub fn read(self) -> Result<ParsedWorkflow, Vec<Problem>> {
        self.read_with(&Params::default())
    }

    /// Like [`Self::read`], with values for its parameters.
    pub fn read_with(self, params: &Params) -> Result<ParsedWorkflow, Vec<Problem>> {
        read::workflow(expand::expand(&tree::located(self.0), params)?)
    }
}

impl ParsedWorkflow {
    /// The workflow as the core takes it. `resolve` brings one source item into the local store; its error is words for
    /// people and becomes a problem at that item's place. Every item is tried, so that all missing files are told at once.
    pub fn compile(
        &self,
        mut resolve: impl FnMut(&SourceItem) -> Result<ObjectRef, String>,
    ) -> Result<Workflow, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for (id, node) in &self.nodes {
            let kind = match node {
                ParsedNode::Sink => NodeKind::Sink,
                ParsedNode::Task(task) => NodeKind::Task(task.clone()),
                ParsedNode::Source(items) => {
                    let mut objects = Vec::with_capacity(items.len());
                    for (i, item) in items.iter().enumerate() {
                        match resolve(item) {
                            Ok(object) => objects.push(object),
                            Err(reason) => problems.push(self.problem(item_place(id, item, i), reason)),
                        }
                    }
                    NodeKind::Source(objects)
                }
            };
            nodes.push((id.clone(), kind));
        }
        problems.truncate(PROBLEMS_MAX);
        if problems.is_empty() {
            Ok(Workflow { name: self.name.clone(), nodes, edges: self.edges.clone(), rules: self.rules })
        } else {
            Err(problems)
        }
    }

    /// Gives a problem the core found its line and column.
    pub fn locate(&self, problem: &workflow::Problem) -> Problem {
        self.problem(self.as_written(&problem.place), problem.reason.clone())
    }

    /// The place in the text of a place in what was made of it: of edges over lists there are more than are written.
    fn as_written(&self, place: &str) -> String {
        let edge = place.strip_prefix("edges[").and_then(|rest| rest.split_once(']'));
        let origin =
            edge.and_then(|(n, rest)| Some((self.edge_origins.get(n.parse::<usize>().ok()?)?, rest)));
        origin.map_or_else(|| place.to_owned(), |(origin, rest)| format!("edges[{origin}]{rest}"))
    }

    /// The problems of a core's refusal, located; `None` when it is about something else.
    pub fn locate_error(&self, error: &CommandError) -> Option<Vec<Problem>> {
        match error {
            CommandError::Invalid(problems) => Some(problems.iter().map(|p| self.locate(p)).collect()),
            CommandError::UnknownPeer(_)
            | CommandError::Unreachable { .. }
            | CommandError::UnknownRun(_)
            | CommandError::RunConflict(_)
            | CommandError::RunOver(_)
            | CommandError::UnknownService(_)
            | CommandError::Fetch { .. }
            | CommandError::UnknownObject(_)
            | CommandError::NoSession(_)
            | CommandError::BlockSelf
            | CommandError::Limit(_)
            | CommandError::ShuttingDown => None,
        }
    }

    fn problem(&self, place: String, reason: String) -> Problem {
        Problem { location: self.nearest(&place), place, reason }
    }

    /// The location of `place`, or of the innermost place around it that was written down.
    fn nearest(&self, place: &str) -> Option<Location> {
        let mut rest = place;
        loop {
            if let Some(at) = self.locations.get(rest) {
                return Some(*at);
            }
            rest = &rest[..rest.rfind(['.', '['])?];
        }
    }
}

fn item_place(node: &str, item: &SourceItem, index: usize) -> String {
    match item {
        SourceItem::File(_) => format!("nodes.{node}.source.files[{index}]"),
        SourceItem::Text(_) => format!("nodes.{node}.source.text"),
        SourceItem::Object(_) => format!("nodes.{node}.source.objects[{index}]"),
    }
}

/// The peers of a task for `to_yaml`: one name, or a list in order of preference.
fn peer_names(peers: &[PublicKey]) -> Vec<String> {
    peers.iter().map(PublicKey::to_string).collect()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod schema_tests;
