//! Rules of tasks and runs: what may be said, and what it means in a plan.
//!
//! A condition is an edge without data: the task that it asks about must be over before, and stands earlier in the plan.

use super::{Findings, Services, Wires, edit_distance, gives};
use crate::job::plan::RETRIES_MAX;
use crate::job::rules::{RULE_TIME_MAX_MS, Retry, RunRules, TaskRules, Test, WHEN_MAX, When};
use crate::job::workflow::{End, NodeKind, TaskSpec, Workflow};
use crate::port::{EngineLimits, Port};
use std::collections::BTreeMap;

fn check_time(place: String, ms: Option<u64>, f: &mut Findings) {
    match ms {
        Some(0) => f.add(place, "a time of zero; leave it out for what is usual"),
        Some(ms) if ms > RULE_TIME_MAX_MS => f.add(place, "longer than a year"),
        Some(_) | None => {}
    }
}

pub(super) fn check_run(rules: &RunRules, f: &mut Findings) {
    check_time("timeout".into(), rules.timeout_ms, f);
}

pub(super) fn check_task(id: &str, t: &TaskSpec, f: &mut Findings) {
    let place = |what: &str| format!("nodes.{id}.{what}");
    let r = &t.rules.retry;
    for (what, n) in [("retry.resource", r.resource), ("retry.infra", r.infra)] {
        if let Some(n) = n.filter(|n| *n > RETRIES_MAX) {
            f.add(place(what), format!("{n} retries, at most {RETRIES_MAX}"));
        }
    }
    check_time(place("retry.pause"), r.pause_ms, f);
    check_time(place("retry.pause_max"), r.pause_max_ms, f);
    if let (Some(first), Some(longest)) = (r.pause_ms, r.pause_max_ms)
        && first > longest
    {
        f.add(place("retry.pause"), "longer than the longest pause");
    }
    if t.memory_bytes == Some(0) {
        f.add(place("memory"), "no memory at all; leave it out for the service's own limit");
    }
    if let (Some(max), Some(first)) = (r.memory_max.filter(|m| *m > 0), t.memory_bytes)
        && max <= first
    {
        f.add(place("retry.memory_max"), "not above the memory of the first attempt");
    }
    if r.memory_max.is_some() && t.memory_bytes.is_none() {
        let reason =
            "memory starts at the service's own limit and cannot grow; say `memory` for the first attempt";
        f.add(place("retry.memory_max"), reason);
    }
    if r.memory_max.is_some() && r.resource.unwrap_or(t.retries) == 0 {
        let reason = "there is no further attempt that could have more; allow `retries` or `retry.resource`";
        f.add(place("retry.memory_max"), reason);
    }
    check_time(place("queue"), t.rules.queue_ms, f);
    if t.rules.when.len() > WHEN_MAX {
        f.add(place("when"), format!("{} conditions, at most {WHEN_MAX} are allowed", t.rules.when.len()));
    }
}

pub(super) fn check_conditions(
    w: &Workflow,
    index: &BTreeMap<&str, usize>,
    services: &Services<'_>,
    wires: &mut Wires<'_>,
    f: &mut Findings,
) {
    for (at, (id, kind)) in w.nodes.iter().enumerate() {
        let NodeKind::Task(spec) = kind else { continue };
        for (n, when) in spec.rules.when.iter().enumerate() {
            let place = format!("nodes.{id}.when[{n}]");
            let Some(about) = index.get(when.task.as_str()).copied() else {
                if f.is_full() {
                    f.incurable = true;
                    return;
                }
                let near = index.keys().min_by_key(|k| edit_distance(&when.task, k));
                let near = near.copied().unwrap_or_default();
                f.add(place, format!("there is no node `{}`; did you mean `{near}`?", when.task));
                continue;
            };
            let NodeKind::Task(_) = &w.nodes[about].1 else {
                f.add(place, format!("`{}` is no task; nothing becomes of it", when.task));
                continue;
            };
            if let Test::Empty(port) | Test::Is(port, _) = &when.test {
                let end = End { node: when.task.clone(), port: port.clone() };
                let service = services.get(&about).map(|c| c.service);
                if let Err(reason) = gives(&w.nodes[about].1, service, &end) {
                    f.add(place, reason);
                }
            }
            wires.ask(at, about);
        }
    }
}

/// Ports of a task that conditions look at: they are kept like those that edges name.
pub(super) fn asked_ports(w: &Workflow, wires: &Wires<'_>, node: usize) -> Vec<Port> {
    let id = &w.nodes[node].0;
    let mut ports = Vec::new();
    for asking in &wires.asked_by[node] {
        let NodeKind::Task(spec) = &w.nodes[*asking].1 else { continue };
        for when in spec.rules.when.iter().filter(|when| when.task == *id) {
            match &when.test {
                Test::Empty(port) | Test::Is(port, _) => ports.push(port.clone()),
                Test::Succeeded | Test::Failed | Test::Code(_) => {}
            }
        }
    }
    ports
}

/// Limits of the first attempt: what the task asks for, and no more than the service allows.
pub(super) fn first_limits(spec: &TaskSpec, own: EngineLimits) -> EngineLimits {
    EngineLimits {
        time_ms: spec.timeout_ms.unwrap_or(own.time_ms).min(own.time_ms),
        memory_bytes: spec.memory_bytes.unwrap_or(own.memory_bytes).min(own.memory_bytes),
        ..own
    }
}

/// A task's rules with tasks by their numbers.
pub(super) fn compile(
    spec: &TaskSpec,
    own: EngineLimits,
    numbers: &BTreeMap<&str, usize>,
) -> TaskRules<usize> {
    let first = first_limits(spec, own).memory_bytes;
    let memory_max = spec.rules.retry.memory_max.map(|max| match max {
        0 => own.memory_bytes,
        max => max.min(own.memory_bytes),
    });
    let when = spec.rules.when.iter().filter_map(|w| {
        let task = *numbers.get(w.task.as_str())?;
        Some(When { task, test: w.test.clone() })
    });
    TaskRules {
        retry: Retry { memory_max: memory_max.filter(|max| *max > first), ..spec.rules.retry },
        queue_ms: spec.rules.queue_ms,
        join: spec.rules.join,
        when: when.collect(),
        quorum: spec.rules.quorum,
        audit_ppm: spec.rules.audit_ppm,
    }
}
