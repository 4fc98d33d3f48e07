//! Every key of the text form, with what may stand there: the one table that the reader and the published JSON Schema
//! are made from. A key that is not here is unknown to both, so neither can know more than the other.

use remote_network_core::job::plan::RETRIES_MAX;
use remote_network_core::job::rules::QUORUM_MAX;

/// A key of a mapping.
pub(super) struct Key {
    /// As it is written.
    pub name: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// What may stand there.
    pub shape: Shape,
    /// For people who write workflows.
    pub about: &'static str,
}

/// What may stand at a key.
pub(super) enum Shape {
    /// Any text.
    Text,
    /// Text, or what has one spelling as text: a whole number, true, false.
    Scalar,
    /// The workflow's name.
    Title,
    /// A time with its unit.
    Duration,
    /// A size with its unit.
    Size,
    /// A size, or the word `service`.
    SizeOrService,
    /// A whole number from 0 to this.
    Count(u64),
    /// A whole number of 32 bits.
    ExitCode,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list.
    List(&'static Shape),
    /// One, or a list.
    OneOrMany(&'static Shape),
    /// A mapping from names that the writer chooses; what names there may be.
    Named(&'static str, &'static Shape),
    /// A mapping with these keys.
    Fields(&'static [Key]),
    /// A mapping with exactly one of these keys.
    Choice(&'static [Key]),
    /// A mapping with these keys that is one question about a task.
    Question(&'static [Key]),
    /// A mapping with these keys, or nothing.
    FieldsOrNothing(&'static [Key]),
    /// A list, a parameter that is one, or the name of a source.
    Over,
    /// A value of a parameter.
    Value,
    /// `2 of 3`, or a mapping with these keys.
    Quorum(&'static [Key]),
    /// A share of all times: `5%`.
    Share,
    /// An edge.
    Edge,
}

const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, required: false, shape, about }
}

const fn must(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, required: true, shape, about }
}

/// Characters of a node's name. The number of an item stands behind it in brackets.
pub(super) const NODE_NAME: &str = r"^[A-Za-z0-9_-]+(\[(0|[1-9][0-9]{0,3})\])?$";
/// Names of parameters.
pub(super) const PARAM_NAME: &str = "^[A-Za-z_][A-Za-z0-9_-]{0,63}$";
/// Names of variables of the environment.
const VARIABLE: &str = r"^[^=\u0000]+$";

/// The whole workflow.
pub(super) const WORKFLOW: &[Key] = &[
    must("name", Shape::Title, "For people."),
    key(
        "params",
        Shape::Named(PARAM_NAME, &Shape::FieldsOrNothing(PARAM)),
        "What is filled in when it is run: `${name}`.",
    ),
    must("nodes", Shape::Named(NODE_NAME, &Shape::Choice(NODE)), "Names to nodes, in order."),
    key(
        "edges",
        Shape::List(&Shape::Edge),
        "`node.port -> node.port`, in the order in which inputs are concatenated.",
    ),
    key("timeout", Shape::Duration, "How long the run may take; pauses do not count."),
    key(
        "on_failure",
        Shape::Word(ON_FAILURE),
        "`stop` (usual) or `continue` with whatever does not need a failed task.",
    ),
];

/// What to do after a failure.
pub(super) const ON_FAILURE: &[&str] = &["stop", "continue"];

/// A declared parameter.
pub(super) const PARAM: &[Key] = &[
    key("type", Shape::Word(PARAM_TYPES), "What its value is; not said: as its default is, else `string`."),
    key("default", Shape::Value, "Its value when none is given; without it one must be given."),
    key("description", Shape::Text, "For who fills it in."),
];

/// Types of parameters.
pub(super) const PARAM_TYPES: &[&str] = &["string", "number", "boolean", "file", "list"];

/// A node.
pub(super) const NODE: &[Key] = &[
    key("source", Shape::Choice(SOURCE), "Hands out data at its port `out`."),
    key("task", Shape::Fields(TASK), "A service somewhere."),
    key("sink", Shape::FieldsOrNothing(&[]), "Keeps what comes in at its port `in`."),
];

/// A source.
pub(super) const SOURCE: &[Key] = &[
    key("files", Shape::List(&Shape::Scalar), "Names of files."),
    key("text", Shape::Text, "The data itself."),
    key("objects", Shape::List(&Shape::Fields(OBJECT)), "Objects of the node's store."),
];

/// An object of the store.
pub(super) const OBJECT: &[Key] = &[
    must("digest", Shape::Text, "BLAKE3, as 64 hex digits."),
    must("len", Shape::Count(u64::MAX), "Bytes."),
];

/// A task.
pub(super) const TASK: &[Key] = &[
    must("service", Shape::Text, "Name of the service, or its id as 64 hex digits."),
    key(
        "peer",
        Shape::OneOrMany(&Shape::Text),
        "Who runs it: a key, or several in order of preference. Not said: any that offers it.",
    ),
    key("args", Shape::List(&Shape::Scalar), "Arguments."),
    key("env", Shape::Named(VARIABLE, &Shape::Scalar), "Environment."),
    key("retries", Shape::Count(RETRIES_MAX as u64), "Attempts after failures of its own making."),
    key("timeout", Shape::Duration, "Limit of one attempt."),
    key("place", Shape::Fields(PLACE), "Labels that the service must have, and what the machine must have."),
    key("memory", Shape::Size, "Memory of the first attempt."),
    key("retry", Shape::Fields(RETRY), "How it is tried again."),
    key("queue", Shape::Duration, "How long it may wait for an executor; usual: 10 minutes."),
    key("join", Shape::Word(JOIN), "What must have become of the tasks from which data come."),
    key(
        "when",
        Shape::List(&Shape::Question(WHEN)),
        "Questions about earlier tasks, all to be answered with yes.",
    ),
    key("map", Shape::Fields(MAP), "One task for each item of a list."),
    key(
        "quorum",
        Shape::Quorum(QUORUM),
        "`2 of 3`: asked of so many executors at once, of whom so many must have the same result.",
    ),
    key("audit", Shape::Share, "How often it is done once more elsewhere, only to be compared: `5%`."),
];

/// How many must agree, of how many that are asked.
pub(super) const QUORUM: &[Key] = &[
    must("agree", Shape::Count(QUORUM_MAX as u64), "How many must have the same result."),
    must("of", Shape::Count(QUORUM_MAX as u64), "How many are asked at once."),
];

/// How a task waits for those before it.
pub(super) const JOIN: &[&str] = &["all", "any", "always"];

/// A list that a task is mapped over.
pub(super) const MAP: &[Key] = &[
    must(
        "over",
        Shape::Over,
        "A list, `${parameter}` that is a list, or the name of a source: one task for each of its files.",
    ),
    key("as", Shape::Text, "What the item is called: `${item}` when not said."),
];

/// Further attempts.
pub(super) const RETRY: &[Key] = &[
    key("resource", Shape::Count(RETRIES_MAX as u64), "Attempts after a limit was hit."),
    key("infra", Shape::Count(RETRIES_MAX as u64), "Attempts after machines or networks failed; usual: 10."),
    key("pause", Shape::Duration, "First pause between attempts; usual: 1s."),
    key("pause_max", Shape::Duration, "Longest pause; usual: 5m."),
    key(
        "memory_max",
        Shape::SizeOrService,
        "Memory doubles up to this after a limit was hit; `service`: up to its own.",
    ),
];

/// A condition.
pub(super) const WHEN: &[Key] = &[
    must("task", Shape::Text, "The task it is about."),
    key("is", Shape::Word(OUTCOMES), "What became of it."),
    key("code", Shape::ExitCode, "The exit code of its program."),
    key("empty", Shape::Text, "It succeeded and wrote nothing to this port."),
    key("port", Shape::Text, "The port that `equals` or `digest` is about."),
    key("equals", Shape::Scalar, "It succeeded and wrote exactly this."),
    key("digest", Shape::Text, "The same, by the digest of what was written."),
];

/// The keys that make one question, each beside `task`.
pub(super) const QUESTIONS: &[&[&str]] =
    &[&["is"], &["code"], &["empty"], &["port", "equals"], &["port", "digest"]];

/// What can become of a task.
pub(super) const OUTCOMES: &[&str] = &["succeeded", "failed"];

/// A placement rule.
pub(super) const PLACE: &[Key] = &[
    key("labels", Shape::List(&Shape::Scalar), "Labels of the service."),
    key("needs", Shape::Fields(NEEDS), "What the machine has."),
];

/// Largest amount of anything: what the wire form takes.
pub(super) const AMOUNT_MAX: u64 = i64::MAX as u64;

/// What a machine must have.
pub(super) const NEEDS: &[Key] = &[
    key("arch", Shape::List(&Shape::Scalar), "One of these architectures."),
    key("os", Shape::Text, "Operating system."),
    key("cpu_milli", Shape::Count(u32::MAX as u64), "Thousandths of a processor."),
    key("memory_bytes", Shape::Count(AMOUNT_MAX), "Memory."),
    key("disk_bytes", Shape::Count(AMOUNT_MAX), "Room on disk."),
    key("gpus", Shape::Count(u32::MAX as u64), "Graphics processors."),
    key("gpu_vendor", Shape::Text, "Their maker."),
];

/// Whether a number stands at a key of this name: there `${name}` becomes one.
pub(super) fn is_number(name: &str) -> bool {
    [OBJECT, TASK, RETRY, WHEN, NEEDS, QUORUM]
        .iter()
        .flat_map(|keys| keys.iter())
        .any(|k| k.name == name && matches!(k.shape, Shape::Count(_) | Shape::ExitCode))
}
