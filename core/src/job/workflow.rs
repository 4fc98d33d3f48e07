//! A workflow: what a user wants to have computed. Plain data; YAML and JSON are read at the edge.
//!
//! Named nodes and edges from port to port. A *source* holds objects that are already in the requester's store, a
//! *task* is a service somewhere, a *sink* names what is kept.

pub use super::placement::Place;
use super::rules::{RunRules, TaskRules};
use crate::id::{Digest, PublicKey};
use crate::port::Port;
pub use crate::problem::Problem;
use crate::service::{NAME_MAX, valid_name};
use std::collections::BTreeMap;

/// Longest id of a node in bytes: a name, and the number of an item.
pub const NODE_ID_MAX: usize = NAME_MAX + "[9999]".len();
/// Items of a mapped node: as many as there may be tasks, but for those around them.
pub const MAP_ITEMS_MAX: usize = 10_000;

/// An object in a content-addressed store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectRef {
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub len: u64,
}

/// What a node of a workflow is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeKind {
    /// Objects of the requester, in order; its only port is `Stdout` (written `out` in text).
    Source(Vec<ObjectRef>),
    /// A service somewhere.
    Task(TaskSpec),
    /// What is kept; its only port is `Stdin` (written `in` in text).
    Sink,
}

/// A task of a workflow.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskSpec {
    /// Name of the service, or its id as 64 hex digits.
    pub service: String,
    /// Who runs it; empty: any peer that offers it; several: in order of preference.
    pub peers: Vec<PublicKey>,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Attempts after a failure of the task's own making (exit code, trap). Infrastructure failures have a budget of their own.
    pub retries: u32,
    /// Time limit of one attempt in milliseconds; `None`: the service's own limit.
    pub timeout_ms: Option<u64>,
    /// What it asks of the service and the machine of whoever runs it.
    pub place: Place,
    /// Memory of the first attempt in bytes; `None`: the service's own limit.
    pub memory_bytes: Option<u64>,
    /// When it runs, and how it is tried again.
    pub rules: TaskRules<String>,
}

/// An end of an edge.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct End {
    /// Node id.
    pub node: String,
    /// Port of that node.
    pub port: Port,
}

/// A staged edge: the sealed output of one port becomes an input of another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edge {
    /// Producer.
    pub from: End,
    /// Consumer.
    pub to: End,
}

/// A workflow.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Workflow {
    /// For people.
    pub name: String,
    /// Nodes in declared order; ids are unique.
    pub nodes: Vec<(String, NodeKind)>,
    /// Edges in declared order, which is the order of concatenation.
    pub edges: Vec<Edge>,
    /// What holds for the whole run.
    pub rules: RunRules,
}

/// Whether `id` may be a node's: a name as those of services, and behind it, for an item of what was mapped over a list, its
/// number in brackets without leading zeros.
pub fn valid_node_id(id: &str) -> bool {
    let Some((name, rest)) = id.split_once('[') else { return valid_name(id) };
    let number = rest.strip_suffix(']').and_then(|n| n.parse::<usize>().ok().filter(|k| k.to_string() == n));
    valid_name(name) && number.is_some_and(|n| n < MAP_ITEMS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_of_a_map_is_named_by_its_number_in_one_spelling() {
        for id in ["a", "a.b", "a[0]", "a[9999]", &format!("{}[9999]", "a".repeat(NAME_MAX))] {
            assert!(valid_node_id(id) && id.len() <= NODE_ID_MAX, "{id}");
        }
        for id in ["", "A", "[0]", "a[]", "a[01]", "a[+1]", "a[10000]", "a[0]b", "a[0][1]", "a]"] {
            assert!(!valid_node_id(id), "{id}");
        }
    }
}
