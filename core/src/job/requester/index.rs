//! What follows from a run's records and is asked for at every step: who waits for whom, what is ready, what is wanted.
//!
//! An [`Index`] is a function of its [`Run`] alone: [`Index::build`] makes it, [`Index::apply`] keeps it when a record was
//! applied, at the cost of the edges of the record's own task. Tests build it anew after every step and compare.

use super::LOG_BYTES_MAX;
use crate::id::{Digest, PublicKey};
use crate::job::outcome::{self, Fate, fate};
use crate::job::plan::{InputFrom, Plan};
use crate::job::run::{CloseClass, Run, RunRecord, Task};
use crate::job::workflow::ObjectRef;
use crate::port::{EngineOutput, Port};
use std::collections::{BTreeMap, BTreeSet};

/// Objects of the requester that the run's tasks and sinks use.
pub(super) fn sources(run: &Run) -> impl Iterator<Item = &ObjectRef> {
    let plan = run.plan.iter();
    let tasks = plan.clone().flat_map(|p| p.tasks.iter().flat_map(|t| t.inputs.iter().map(|i| &i.from)));
    let sinks = plan.flat_map(|p| p.sinks.iter().flat_map(|s| s.inputs.iter()));
    tasks.chain(sinks).filter_map(|from| match from {
        InputFrom::Object(o) => Some(o),
        InputFrom::Task { .. } => None,
    })
}

/// Digests of [`sources`], each once.
pub(super) fn source_digests(run: &Run) -> BTreeSet<Digest> {
    sources(run).map(|o| o.digest).collect()
}

/// The standard error of a task's last receipt, if it is small enough to be kept.
fn log(task: &Task) -> Option<(PublicKey, &EngineOutput)> {
    let receipt = task.last_receipt()?;
    let o = receipt.output(&Port::Stderr).filter(|o| o.len <= LOG_BYTES_MAX)?;
    Some((receipt.executor, o))
}

/// An object of a task that is to be here in the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) digest: Digest,
    pub(super) len: u64,
    pub(super) holder: PublicKey,
    /// Whether the run fails without it: a result, not a log.
    pub(super) required: bool,
    /// Whether it is a directory.
    pub(super) tree: bool,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Index {
    /// By task: the tasks whose inputs it feeds or whose conditions ask about it, once for each.
    dependents: Vec<Vec<u32>>,
    /// By task: the ports that sinks keep.
    kept: Vec<Vec<Port>>,
    /// By task: inputs and conditions that depend on a task without an end.
    waiting: Vec<u32>,
    /// By task: inputs of tasks without an end that it feeds.
    needed: Vec<u32>,
    /// Tasks without an end that wait for nothing before them.
    ready: BTreeSet<usize>,
    /// Tasks without an end that will never run.
    doomed: BTreeSet<usize>,
    /// Peers that lied anywhere in this run: they get nothing more of it.
    banned: BTreeSet<PublicKey>,
    /// Objects that are to be here in the end, and whether the run fails without them.
    wanted: BTreeMap<Digest, bool>,
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Index {
    /// From scratch.
    pub(super) fn build(run: &Run) -> Index {
        let mut x = Index::default();
        let Some(plan) = &run.plan else { return x };
        let count = run.tasks.len();
        x.dependents = vec![Vec::new(); count];
        x.kept = vec![Vec::new(); count];
        x.waiting = vec![0; count];
        x.needed = vec![0; count];
        let open = |task: usize| u32::from(run.tasks[task].end.is_none());
        for consumer in 0..count {
            for task in producers(plan, consumer) {
                x.dependents[task].push(small(consumer));
                x.waiting[consumer] += open(task);
                x.needed[task] += open(consumer);
            }
            for when in &plan.tasks[consumer].rules.when {
                x.dependents[when.task].push(small(consumer));
                x.waiting[consumer] += open(when.task);
            }
        }
        for from in plan.sinks.iter().flat_map(|s| &s.inputs) {
            if let InputFrom::Task { task, port } = from {
                x.kept[*task].push(port.clone());
            }
        }
        for (i, task) in run.tasks.iter().enumerate() {
            x.judge(run, i);
            let lied = task.attempts.iter().filter(|a| {
                let class = a.closed.as_ref().map(|c| c.class);
                class == Some(CloseClass::Byzantine)
            });
            x.banned.extend(lied.map(|a| a.peer()));
            x.want_of(run, i);
        }
        x
    }

    /// After `record` was applied to `run`. Says which tasks have become ready.
    pub(super) fn apply(&mut self, run: &Run, record: &Applied) -> Vec<usize> {
        match record {
            Applied::Planned => {
                *self = Index::build(run);
                self.ready.iter().copied().collect()
            }
            Applied::Lied { peer } => {
                self.banned.insert(*peer);
                Vec::new()
            }
            Applied::Ended { task } => {
                self.ready.remove(task);
                self.doomed.remove(task);
                self.want_of(run, *task);
                self.ended(run, *task)
            }
            Applied::Other => Vec::new(),
        }
    }

    /// A task is over: who waited for it, and who will never run for it.
    fn ended(&mut self, run: &Run, task: usize) -> Vec<usize> {
        let Some(plan) = &run.plan else { return Vec::new() };
        let failed = run.tasks.get(task).is_none_or(|t| t.receipt().is_none());
        let mut look = BTreeSet::new();
        for dependent in self.dependents.get(task).map_or(&[][..], Vec::as_slice) {
            let at = *dependent as usize;
            let Some(waiting) = self.waiting.get_mut(at) else { continue };
            *waiting -= 1;
            // A success decides nothing for who waits for others as well, unless a condition asks for something else.
            let asks = plan.tasks.get(at).is_some_and(|t| !t.rules.when.is_empty());
            if *waiting == 0 || failed || asks {
                look.insert(at);
            }
        }
        for producer in producers(plan, task) {
            if let Some(needed) = self.needed.get_mut(producer) {
                *needed -= 1;
            }
        }
        look.into_iter().filter(|at| self.judge(run, *at)).collect()
    }

    /// What is to become of a task; says whether it has become ready.
    fn judge(&mut self, run: &Run, task: usize) -> bool {
        let open = run.tasks.get(task).is_some_and(|t| t.end.is_none());
        if !open || self.doomed.contains(&task) {
            return false;
        }
        match fate(run, task) {
            Fate::Waits => false,
            Fate::Runs => self.ready.insert(task),
            Fate::Skipped(_) => {
                self.doomed.insert(task);
                false
            }
        }
    }

    fn want_of(&mut self, run: &Run, task: usize) {
        for w in self.wanted_of(run, task) {
            *self.wanted.entry(w.digest).or_insert(false) |= w.required;
        }
    }

    /// What of an ended task is to be here: what sinks keep, and its log.
    pub(super) fn wanted_of(&self, run: &Run, index: usize) -> Vec<Wanted> {
        let Some(task) = run.tasks.get(index).filter(|t| t.end.is_some()) else { return Vec::new() };
        let kept = self.kept_of(run, index).map(|(holder, o)| (holder, o, true));
        let log = log(task).filter(|(_, o)| o.len > 0).map(|(holder, o)| (holder, o, false));
        let planned = run.plan.as_ref().and_then(|p| p.tasks.get(index));
        let wanted = |(holder, o, required): (PublicKey, &EngineOutput, bool)| Wanted {
            digest: o.digest,
            len: o.len,
            holder,
            required,
            tree: planned.is_some_and(|p| p.is_tree(&o.port)),
        };
        kept.chain(log).map(wanted).collect()
    }

    fn kept_of<'a>(
        &'a self,
        run: &'a Run,
        index: usize,
    ) -> impl Iterator<Item = (PublicKey, &'a EngineOutput)> + 'a {
        let receipt = run.tasks.get(index).and_then(Task::receipt);
        let ports = self.kept.get(index).map_or(&[][..], Vec::as_slice);
        ports.iter().filter_map(move |p| receipt.and_then(|r| Some((r.executor, r.output(p)?))))
    }

    /// Objects of a task that this node keeps even after the end: what sinks keep, and its log.
    pub(super) fn held_of(&self, run: &Run, index: usize) -> Vec<Digest> {
        let log = run.tasks.get(index).and_then(log);
        self.kept_of(run, index).chain(log).map(|(_, o)| o.digest).collect()
    }

    /// Tasks without an end that could run.
    pub(super) fn ready(&self) -> &BTreeSet<usize> {
        &self.ready
    }

    /// A task without an end that will never run.
    pub(super) fn doomed(&self) -> Option<usize> {
        self.doomed.first().copied()
    }

    /// Peers that get nothing more of this run.
    pub(super) fn banned(&self) -> &BTreeSet<PublicKey> {
        &self.banned
    }

    /// Everything that is to be here in the end, by what is committed so far, and whether the run fails without it.
    pub(super) fn wanted(&self) -> &BTreeMap<Digest, bool> {
        &self.wanted
    }

    /// Tasks that take an output of this one, or ask about it.
    pub(super) fn dependents(&self, task: usize) -> impl Iterator<Item = usize> + '_ {
        self.dependents.get(task).into_iter().flatten().map(|at| *at as usize)
    }

    /// Whether some task that is not over takes an output of this one.
    pub(super) fn is_needed(&self, task: usize) -> bool {
        self.needed.get(task).is_some_and(|n| *n > 0)
    }
}

/// Tasks whose outputs a task takes, once for each input.
pub(super) fn producers(plan: &Plan, task: usize) -> impl Iterator<Item = usize> + '_ {
    plan.tasks.get(task).into_iter().flat_map(outcome::producers)
}

/// What a record means for an [`Index`].
pub(super) enum Applied {
    Planned,
    Lied { peer: PublicKey },
    Ended { task: usize },
    Other,
}

impl Applied {
    /// Before the record is applied to `run`.
    pub(super) fn of(run: &Run, record: &RunRecord) -> Applied {
        match record {
            RunRecord::Planned { .. } => Applied::Planned,
            RunRecord::Closed { task, fence, class: CloseClass::Byzantine, .. } => {
                match run.tasks.get(*task).and_then(|t| t.attempt(*fence)) {
                    Some(a) => Applied::Lied { peer: a.peer() },
                    None => Applied::Other,
                }
            }
            RunRecord::Committed { task, .. }
            | RunRecord::TaskFailed { task, .. }
            | RunRecord::Skipped { task, .. } => Applied::Ended { task: *task },
            RunRecord::Submitted { .. }
            | RunRecord::Attempt { .. }
            | RunRecord::Accepted { .. }
            | RunRecord::Pledged { .. }
            | RunRecord::Closed { .. }
            | RunRecord::CancelRequested
            | RunRecord::DeadlinePassed
            | RunRecord::Paused
            | RunRecord::Resumed
            | RunRecord::Ended { .. } => Applied::Other,
        }
    }
}

/// Objects that runs of this node need in the local store, the ended ones included, and how many times.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Held(BTreeMap<Digest, usize>);

impl Held {
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.0.contains_key(digest)
    }

    pub(super) fn add(&mut self, digests: impl IntoIterator<Item = Digest>) {
        for digest in digests {
            *self.0.entry(digest).or_default() += 1;
        }
    }

    /// Says which of them nobody holds any more.
    pub(super) fn remove(&mut self, digests: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
        let mut gone = Vec::new();
        for digest in digests {
            if let Some(n) = self.0.get_mut(&digest) {
                *n -= 1;
                if *n == 0 {
                    self.0.remove(&digest);
                    gone.push(digest);
                }
            }
        }
        gone
    }
}

/// Everything that a run holds: its sources, what its sinks keep, its logs.
pub(super) fn held_by(run: &Run) -> Vec<Digest> {
    let kept = run.plan.iter().flat_map(|p| p.sinks.iter().flat_map(|s| s.inputs.iter()));
    let kept = kept.filter_map(|from| run.output_of(from)).map(|(_, o)| o.digest);
    let logs = run.tasks.iter().filter_map(log).map(|(_, o)| o.digest);
    source_digests(run).into_iter().chain(kept).chain(logs).collect()
}

/// Those of [`held_by`] that are directories.
pub(super) fn trees_of(run: &Run) -> Vec<Digest> {
    let Some(plan) = &run.plan else { return Vec::new() };
    let kept = plan.sinks.iter().flat_map(|s| &s.inputs).filter(|from| match from {
        InputFrom::Task { task, port } => plan.gives_tree(*task, port),
        InputFrom::Object(_) => false,
    });
    let kept = kept.filter_map(|from| run.output_of(from)).map(|(_, o)| o.digest);
    plan.source_trees().chain(kept).collect()
}
