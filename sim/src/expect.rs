//! What a workflow must come to: a naive evaluation of it, as the judge of every run.
//!
//! A few lines of recursion over the declared edges, sharing nothing with the core's planner.

use crate::engine::expected_output;
use remote_network_core::id::Digest;
use remote_network_core::job::workflow::{NodeKind, Workflow};
use remote_network_core::port::Port;
use std::collections::BTreeMap;

/// The right digest of every output of every task that feeds something.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expected {
    /// By task and port.
    pub outputs: BTreeMap<(String, Port), Digest>,
    /// What reaches each sink, in declared order.
    pub sinks: BTreeMap<String, Vec<Digest>>,
}

/// Evaluates `workflow`, whose services' names stand for these modules. The workflow must be free of cycles.
pub fn evaluate(workflow: &Workflow, modules: &BTreeMap<String, Digest>) -> Expected {
    let mut expected = Expected::default();
    for (name, node) in &workflow.nodes {
        if matches!(node, NodeKind::Sink) {
            let reach: Vec<Digest> = workflow
                .edges
                .iter()
                .filter(|e| e.to.node == *name)
                .flat_map(|e| output(workflow, modules, &e.from.node, &e.from.port, &mut expected))
                .collect();
            expected.sinks.insert(name.clone(), reach);
        }
    }
    expected
}

fn output(
    workflow: &Workflow,
    modules: &BTreeMap<String, Digest>,
    node: &str,
    port: &Port,
    known: &mut Expected,
) -> Vec<Digest> {
    let place = (node.to_owned(), port.clone());
    if let Some(digest) = known.outputs.get(&place) {
        return vec![*digest];
    }
    match workflow.nodes.iter().find(|(name, _)| name == node).map(|(_, kind)| kind) {
        Some(NodeKind::Source(objects)) => objects.iter().map(|o| o.digest).collect(),
        Some(NodeKind::Task(task)) => {
            let mut inputs = Vec::new();
            for edge in workflow.edges.iter().filter(|e| e.to.node == node) {
                for digest in output(workflow, modules, &edge.from.node, &edge.from.port, known) {
                    inputs.push((edge.to.port.clone(), digest));
                }
            }
            let module = modules.get(&task.service).copied().unwrap_or(Digest([0; 32]));
            let digest = Digest::of(&expected_output(&module, &task.args, &inputs, port));
            known.outputs.insert(place, digest);
            vec![digest]
        }
        Some(NodeKind::Sink) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remote_network_core::job::workflow::{Edge, End, ObjectRef, TaskSpec};

    fn edge(from: (&str, Port), to: (&str, Port)) -> Edge {
        Edge { from: End { node: from.0.into(), port: from.1 }, to: End { node: to.0.into(), port: to.1 } }
    }

    #[test]
    fn a_chain_is_the_formula_applied_twice() {
        let module = Digest::of(b"module");
        let object = Digest::of(b"object");
        let task = |arg: &str| {
            NodeKind::Task(TaskSpec { service: "s".into(), args: vec![arg.into()], ..TaskSpec::default() })
        };
        let workflow = Workflow {
            name: "chain".into(),
            nodes: vec![
                ("in".into(), NodeKind::Source(vec![ObjectRef { digest: object, len: 6 }])),
                ("a".into(), task("x")),
                ("b".into(), task("y")),
                ("out".into(), NodeKind::Sink),
            ],
            edges: vec![
                edge(("in", Port::Stdout), ("a", Port::Stdin)),
                edge(("a", Port::Stdout), ("b", Port::Stdin)),
                edge(("b", Port::Stdout), ("out", Port::Stdin)),
            ],
            ..Workflow::default()
        };
        let expected = evaluate(&workflow, &BTreeMap::from([("s".to_owned(), module)]));
        let a = expected_output(&module, &["x".into()], &[(Port::Stdin, object)], &Port::Stdout);
        let b = expected_output(&module, &["y".into()], &[(Port::Stdin, Digest::of(&a))], &Port::Stdout);
        assert_eq!(expected.sinks["out"], [Digest::of(&b)]);
        assert_eq!(expected.outputs[&("a".to_owned(), Port::Stdout)], Digest::of(&a));
    }
}
