//! A workflow: what a user wants to have computed. Plain data; YAML and JSON are read at the edge.
//!
//! Named nodes and edges from port to port. A *source* holds objects that are already in the requester's store, a
//! *task* is a service somewhere, a *sink* names what is kept.

pub use super::placement::Place;
use crate::id::{Digest, PublicKey};
use crate::port::Port;
pub use crate::problem::Problem;
use std::collections::BTreeMap;

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
}
