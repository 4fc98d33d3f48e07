//! The plan: a workflow compiled against the catalogues of one moment, immutable from then on.
//!
//! Names are resolved to digests, tasks stand in topological order with their inputs in declared order, each with the
//! peers that may run it. The plan is journaled with the run, so that a restarted requester continues what was planned
//! and not what the catalogues say today. Its digest is in every order. [`super::validate`] makes plans.

use super::encoding::{
    dict_of, keys_of, limits_of, limits_value, port_of, port_value, ports_of, ports_value, strings_of,
    strings_value,
};
use super::order::{TASK_OUTPUTS_MAX, env_of, env_value};
use super::rules::{RunRules, TaskRules};
use super::workflow::{Edge, End, NODE_ID_MAX, NodeKind, ObjectRef, Place, TaskSpec, Workflow};
use crate::codec::{DecodeError, Dict, Value};
use crate::id::{Digest, PublicKey};
use crate::limits::{
    OBJECT_BYTES_MAX, TASK_ARG_BYTES_MAX, TASK_ARGS_MAX, TASK_INPUTS_MAX, WORKFLOW_EDGES_MAX,
    WORKFLOW_NODES_MAX, WORKFLOW_TASKS_MAX,
};
use crate::port::{EngineLimits, MountPath, Port, Program};
use crate::service::{NAME_MAX, program};

/// Largest workflow or plan in bytes: what a journal record may cost. The largest number of nodes and edges fits with eight
/// executors to choose from; what is larger is refused when it is planned.
pub const PLAN_BYTES_MAX: usize = 16 << 20;
/// Peers that may run one task.
pub const CANDIDATES_MAX: usize = 64;
/// Attempts after failures of the task's own making that a workflow may ask for.
pub const RETRIES_MAX: u32 = 100;
/// Longest name of a workflow in bytes.
pub const WORKFLOW_NAME_MAX: usize = 200;

/// Where an input's bytes come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InputFrom {
    /// An object of the requester.
    Object(ObjectRef),
    /// The sealed output of an earlier task.
    Task {
        /// Its index in the plan, always smaller than the consumer's own.
        task: usize,
        /// Its port.
        port: Port,
    },
}

/// An input of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedInput {
    /// Where it goes.
    pub to: Port,
    /// Where it comes from.
    pub from: InputFrom,
}

/// A task, ready to be ordered once its inputs are there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedTask {
    /// Node id in the workflow.
    pub id: String,
    /// Its place among the workflow's tasks as declared, for views.
    pub declared: u32,
    /// The service.
    pub service: Digest,
    /// Its name, for people.
    pub service_name: String,
    /// What it runs.
    pub program: Program,
    /// Where its mounts lie.
    pub paths: Vec<MountPath>,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Limits of one attempt.
    pub limits: EngineLimits,
    /// Attempts after failures of the task's own making.
    pub retries: u32,
    /// Inputs in declared order.
    pub inputs: Vec<PlannedInput>,
    /// Ports to keep: those that edges name, and standard error, so that logs survive.
    pub outputs: Vec<Port>,
    /// Who may run it, best first.
    pub candidates: Vec<PublicKey>,
    /// Whether the candidates are equal (any peer that offers it) or in the user's order of preference.
    pub spread: bool,
    /// When it runs, and how it is tried again; conditions name earlier tasks.
    pub rules: TaskRules<usize>,
}

/// What is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedSink {
    /// Node id in the workflow.
    pub id: String,
    /// What it keeps, in declared order.
    pub inputs: Vec<InputFrom>,
}

/// An immutable compiled workflow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The workflow's name.
    pub name: String,
    /// Digest of the workflow it was compiled from.
    pub workflow: Digest,
    /// Tasks in topological order.
    pub tasks: Vec<PlannedTask>,
    /// Sinks in declared order.
    pub sinks: Vec<PlannedSink>,
    /// What holds for the whole run.
    pub rules: RunRules,
}

fn list(items: impl Iterator<Item = Dict>) -> Value {
    items.map(Value::from).collect::<Vec<_>>().into()
}

fn object_dict(o: &ObjectRef) -> Dict {
    Dict::new().with("d", &o.digest).with("len", o.len)
}

fn object_of(d: &Dict) -> Result<ObjectRef, DecodeError> {
    let len = d.u64("len")?;
    if len > OBJECT_BYTES_MAX {
        return Err(DecodeError::invalid("len", "larger than any object"));
    }
    Ok(ObjectRef { digest: d.digest("d")?, len })
}

fn from_dict(from: &InputFrom) -> Dict {
    match from {
        InputFrom::Object(o) => object_dict(o),
        InputFrom::Task { task, port } => {
            Dict::new().with("p", port_value(port)).with("t", u64::try_from(*task).unwrap_or(u64::MAX))
        }
    }
}

fn from_of(d: &Dict, tasks: usize) -> Result<InputFrom, DecodeError> {
    if d.get("t").is_none() {
        return object_of(d).map(InputFrom::Object);
    }
    let task = d.u32("t")? as usize;
    if task >= tasks {
        return Err(DecodeError::invalid("t", "no earlier task has this number"));
    }
    Ok(InputFrom::Task { task, port: port_of(d.need("p")?)? })
}

impl Plan {
    /// Digest of everything that was planned; part of every order.
    pub fn spec_digest(&self) -> Digest {
        Digest::in_domain("rn/spec/v1", &[&self.encode()])
    }

    /// Canonical bytes, for the journal.
    pub fn encode(&self) -> Vec<u8> {
        let task = |t: &PlannedTask| {
            let input = |i: &PlannedInput| from_dict(&i.from).with("to", port_value(&i.to));
            t.rules
                .write(program::write_paths(program::write(Dict::new(), &t.program), &t.paths))
                .with("args", strings_value(&t.args))
                .with("at", t.declared)
                .with("env", env_value(&t.env))
                .with("id", t.id.as_str())
                .with("in", list(t.inputs.iter().map(input)))
                .with("lim", limits_value(&t.limits))
                .with("name", t.service_name.as_str())
                .with("out", ports_value(&t.outputs))
                .with("peers", t.candidates.iter().map(Value::from).collect::<Vec<_>>())
                .with("retry", t.retries)
                .with("spread", u64::from(t.spread))
                .with("svc", &t.service)
        };
        let sink = |s: &PlannedSink| {
            Dict::new().with("id", s.id.as_str()).with("in", list(s.inputs.iter().map(from_dict)))
        };
        self.rules
            .write(Dict::new())
            .with("name", self.name.as_str())
            .with("sinks", list(self.sinks.iter().map(sink)))
            .with("tasks", list(self.tasks.iter().map(task)))
            .with("v", 1u64)
            .with("wf", &self.workflow)
            .encode()
    }

    /// Reads what [`Plan::encode`] wrote. Inputs name earlier tasks only, so a decoded plan has no cycle.
    pub fn decode(bytes: &[u8]) -> Result<Plan, DecodeError> {
        let d = Dict::decode(bytes, PLAN_BYTES_MAX)?;
        match d.u64("v")? {
            1 => {}
            number => return Err(DecodeError::Unknown { what: "plan version", number }),
        }
        let mut tasks = Vec::new();
        for v in d.list("tasks", WORKFLOW_TASKS_MAX)? {
            tasks.push(task_of(dict_of(v, "tasks")?, tasks.len())?);
        }
        let mut sinks = Vec::new();
        for v in d.list("sinks", WORKFLOW_NODES_MAX)? {
            let s = dict_of(v, "sinks")?;
            let inputs = s.list("in", PLAN_BYTES_MAX)?.iter();
            sinks.push(PlannedSink {
                id: s.text("id", NODE_ID_MAX)?,
                inputs: inputs.map(|i| from_of(dict_of(i, "in")?, tasks.len())).collect::<Result<_, _>>()?,
            });
        }
        let rules = RunRules::read(&d)?;
        Ok(Plan { name: d.text("name", WORKFLOW_NAME_MAX)?, workflow: d.digest("wf")?, tasks, sinks, rules })
    }
}

fn task_of(t: &Dict, index: usize) -> Result<PlannedTask, DecodeError> {
    let input = |v: &Value| {
        let i = dict_of(v, "in")?;
        Ok::<_, DecodeError>(PlannedInput { to: port_of(i.need("to")?)?, from: from_of(i, index)? })
    };
    let rules = TaskRules::read(t)?;
    if rules.when.iter().any(|w| w.task >= index) {
        return Err(DecodeError::invalid("when", "no earlier task has this number"));
    }
    Ok(PlannedTask {
        id: t.text("id", NODE_ID_MAX)?,
        declared: t.u32("at")?,
        service: t.digest("svc")?,
        service_name: t.text("name", NAME_MAX)?,
        program: program::read(t)?,
        paths: program::read_paths(t)?,
        args: strings_of(t, "args", TASK_ARGS_MAX, TASK_ARG_BYTES_MAX)?,
        env: env_of(t, "env")?,
        limits: limits_of(t, "lim")?,
        retries: t.u32("retry")?,
        inputs: t.list("in", TASK_INPUTS_MAX)?.iter().map(input).collect::<Result<_, _>>()?,
        outputs: ports_of(t, "out", TASK_OUTPUTS_MAX)?,
        candidates: keys_of(t, "peers", CANDIDATES_MAX)?,
        spread: t.flag("spread")?,
        rules,
    })
}

/// Canonical bytes of a workflow: what its digest is over, and what a run keeps while it waits for its peers.
pub fn encode_workflow(w: &Workflow) -> Vec<u8> {
    let node = |(id, kind): &(String, NodeKind)| {
        let d = Dict::new().with("id", id.as_str());
        match kind {
            NodeKind::Source(objects) => d.with("src", list(objects.iter().map(object_dict))),
            NodeKind::Sink => d.with("sink", 1u64),
            NodeKind::Task(t) => t
                .rules
                .write(d)
                .with("args", strings_value(&t.args))
                .with("env", strings_value(t.env.iter().flat_map(|(k, v)| [k, v])))
                .with("peers", t.peers.iter().map(Value::from).collect::<Vec<_>>())
                .with("retry", t.retries)
                .with("svc", t.service.as_str())
                .with_some("place", t.place.to_dict())
                .with_some("mem", t.memory_bytes)
                .with_some("time", t.timeout_ms),
        }
    };
    let end = |e: &End| Value::from(vec![Value::from(e.node.as_str()), port_value(&e.port)]);
    let edges: Vec<Value> = w.edges.iter().map(|e| vec![end(&e.from), end(&e.to)].into()).collect();
    w.rules
        .write(Dict::new())
        .with("edges", edges)
        .with("name", w.name.as_str())
        .with("nodes", list(w.nodes.iter().map(node)))
        .with("v", 1u64)
        .encode()
}

/// What makes two submissions of one run the same.
pub fn workflow_digest(w: &Workflow) -> Digest {
    Digest::in_domain("rn/workflow/v1", &[&encode_workflow(w)])
}

/// Reads what [`encode_workflow`] wrote. Only the node's own journal is read with it.
pub fn decode_workflow(bytes: &[u8]) -> Result<Workflow, DecodeError> {
    let d = Dict::decode(bytes, PLAN_BYTES_MAX)?;
    match d.u64("v")? {
        1 => {}
        number => return Err(DecodeError::Unknown { what: "workflow version", number }),
    }
    let mut nodes = Vec::new();
    for v in d.list("nodes", WORKFLOW_NODES_MAX)? {
        let n = dict_of(v, "nodes")?;
        let kind = if n.get("src").is_some() {
            let objects = n.list("src", PLAN_BYTES_MAX)?.iter();
            NodeKind::Source(objects.map(|o| object_of(dict_of(o, "src")?)).collect::<Result<_, _>>()?)
        } else if n.get("sink").is_some() {
            // One spelling only: the digest of a workflow is that of its bytes.
            if !n.flag("sink")? {
                return Err(DecodeError::invalid("sink", "0, where only 1 is written"));
            }
            NodeKind::Sink
        } else {
            NodeKind::Task(TaskSpec {
                service: n.text("svc", NAME_MAX)?,
                peers: keys_of(n, "peers", CANDIDATES_MAX)?,
                args: strings_of(n, "args", TASK_ARGS_MAX, TASK_ARG_BYTES_MAX)?,
                env: env_of(n, "env")?.into_iter().collect(),
                retries: n.u32("retry")?,
                timeout_ms: n.u64_opt("time")?,
                place: n
                    .get("place")
                    .map(|_| Place::from_dict(n.dict("place")?))
                    .transpose()?
                    .unwrap_or_default(),
                memory_bytes: n.u64_opt("mem")?,
                rules: TaskRules::read(n)?,
            })
        };
        nodes.push((n.text("id", NODE_ID_MAX)?, kind));
    }
    let mut edges = Vec::new();
    for v in d.list("edges", WORKFLOW_EDGES_MAX)? {
        match v {
            Value::List(ends) if ends.len() == 2 => {
                edges.push(Edge { from: end_of(&ends[0])?, to: end_of(&ends[1])? });
            }
            Value::List(_) | Value::Int(_) | Value::Bytes(_) | Value::Dict(_) => {
                return Err(DecodeError::invalid("edges", "an edge has two ends"));
            }
        }
    }
    Ok(Workflow { name: d.text("name", WORKFLOW_NAME_MAX)?, nodes, edges, rules: RunRules::read(&d)? })
}

fn end_of(v: &Value) -> Result<End, DecodeError> {
    match v {
        Value::List(parts) if parts.len() == 2 => Ok(End {
            node: super::encoding::string_of(&parts[0], "edges", NODE_ID_MAX)?,
            port: port_of(&parts[1])?,
        }),
        Value::List(_) | Value::Int(_) | Value::Bytes(_) | Value::Dict(_) => {
            Err(DecodeError::invalid("edges", "an end is a node and a port"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_has_one_spelling() {
        let nodes = vec![("kept".to_owned(), NodeKind::Sink)];
        let workflow = Workflow { name: "w".into(), nodes, ..Workflow::default() };
        let bytes = encode_workflow(&workflow);
        assert_eq!(decode_workflow(&bytes), Ok(workflow));
        let at = bytes.windows(9).position(|w| w == b"4:sinki1e").expect("it is written");
        for other in [b'0', b'2'] {
            let mut changed = bytes.to_vec();
            changed[at + 7] = other;
            assert!(decode_workflow(&changed).is_err());
        }
    }
}
