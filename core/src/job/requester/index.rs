//! What follows from a run's records and is asked for at every step: who waits for whom, what is ready, what is wanted.
//!
//! An [`Index`] is a function of its [`Run`] alone: [`Index::build`] makes it, [`Index::apply`] keeps it when a record was
//! applied, at the cost of the edges of the record's own task. Tests build it anew after every step and compare.

use super::LOG_BYTES_MAX;
use crate::id::{Digest, PublicKey};
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
    /// By task: the inputs of other tasks that it feeds, as (task, input).
    feeds: Vec<Vec<(u32, u32)>>,
    /// By task: the ports that sinks keep.
    kept: Vec<Vec<Port>>,
    /// By task: inputs whose producers have not committed.
    missing: Vec<u32>,
    /// By task: inputs of tasks that have not committed and that it feeds.
    needed: Vec<u32>,
    /// Tasks without an end that miss nothing.
    ready: BTreeSet<usize>,
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
        x.feeds = vec![Vec::new(); count];
        x.kept = vec![Vec::new(); count];
        x.missing = vec![0; count];
        x.needed = vec![0; count];
        for (consumer, planned) in plan.tasks.iter().enumerate() {
            for (input, from) in planned.inputs.iter().enumerate() {
                let InputFrom::Task { task, .. } = &from.from else { continue };
                x.feeds[*task].push((small(consumer), small(input)));
                x.missing[consumer] += u32::from(run.output_of(&from.from).is_none());
                x.needed[*task] += u32::from(run.tasks[consumer].receipt().is_none());
            }
        }
        for from in plan.sinks.iter().flat_map(|s| &s.inputs) {
            if let InputFrom::Task { task, port } = from {
                x.kept[*task].push(port.clone());
            }
        }
        for (i, task) in run.tasks.iter().enumerate() {
            if task.end.is_none() && x.missing[i] == 0 {
                x.ready.insert(i);
            }
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
            Applied::Failed { task } => {
                self.ready.remove(task);
                self.want_of(run, *task);
                Vec::new()
            }
            Applied::Committed { task } => {
                self.ready.remove(task);
                self.want_of(run, *task);
                self.committed(run, *task)
            }
            Applied::Other => Vec::new(),
        }
    }

    fn committed(&mut self, run: &Run, task: usize) -> Vec<usize> {
        let Some(plan) = &run.plan else { return Vec::new() };
        let mut ready = Vec::new();
        let feeds = self.feeds.get(task).map_or(&[][..], Vec::as_slice);
        for (consumer, input) in feeds {
            let at = *consumer as usize;
            let from = plan.tasks.get(at).and_then(|t| t.inputs.get(*input as usize)).map(|i| &i.from);
            let (Some(from), Some(missing)) = (from, self.missing.get_mut(at)) else { continue };
            if run.output_of(from).is_none() {
                continue;
            }
            *missing -= 1;
            if *missing == 0 && run.tasks.get(at).is_some_and(|t| t.end.is_none()) {
                self.ready.insert(at);
                ready.push(at);
            }
        }
        for producer in producers(plan, task) {
            if let Some(needed) = self.needed.get_mut(producer) {
                *needed -= 1;
            }
        }
        ready
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

    /// Tasks without an end whose inputs are all there.
    pub(super) fn ready(&self) -> &BTreeSet<usize> {
        &self.ready
    }

    /// Peers that get nothing more of this run.
    pub(super) fn banned(&self) -> &BTreeSet<PublicKey> {
        &self.banned
    }

    /// Everything that is to be here in the end, by what is committed so far, and whether the run fails without it.
    pub(super) fn wanted(&self) -> &BTreeMap<Digest, bool> {
        &self.wanted
    }

    /// Whether some task that has not committed takes an output of this one.
    pub(super) fn is_needed(&self, task: usize) -> bool {
        self.needed.get(task).is_some_and(|n| *n > 0)
    }
}

/// Tasks whose outputs a task takes, once for each input.
pub(super) fn producers(plan: &Plan, task: usize) -> impl Iterator<Item = usize> + '_ {
    let inputs = plan.tasks.get(task).into_iter().flat_map(|t| &t.inputs);
    inputs.filter_map(|i| match i.from {
        InputFrom::Object(_) => None,
        InputFrom::Task { task, .. } => Some(task),
    })
}

/// What a record means for an [`Index`].
pub(super) enum Applied {
    Planned,
    Lied { peer: PublicKey },
    Failed { task: usize },
    Committed { task: usize },
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
            RunRecord::Committed { task, .. } => Applied::Committed { task: *task },
            RunRecord::TaskFailed { task, .. } => Applied::Failed { task: *task },
            RunRecord::Submitted { .. }
            | RunRecord::Attempt { .. }
            | RunRecord::Accepted { .. }
            | RunRecord::Closed { .. }
            | RunRecord::CancelRequested
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
