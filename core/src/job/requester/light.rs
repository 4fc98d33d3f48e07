//! Light jobs at their requester: which tasks are ordered as such, and what becomes of bytes that never were an object.
//!
//! A task is ordered light when everything it takes is at hand here, small, and not a directory: outputs of light jobs, which this
//! run's journal carries, and small sources, which are read once from the store. A task that takes such an output but cannot be
//! ordered light needs it as an object: it is put into the own store first ([`Output::Keep`]), and fetched from here.

use super::index::{Wanted, sources};
use super::wants::WantState;
use super::{Output, Requester};
use crate::id::{Digest, RunId};
use crate::job::carried::{CARRIED_BYTES_MAX, RUN_CARRIED_BYTES_MAX};
use crate::job::plan::{InputFrom, PlannedTask};
use crate::job::run::{CloseClass, Run};
use crate::machine::Cx;
use crate::port::Program;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Bytes of sources that are kept at hand for one run.
const READ_BYTES_MAX: usize = 1 << 20;

/// What must come first, before a task that is not light can be ordered.
#[derive(Debug)]
pub(super) enum First {
    /// These outputs of light jobs must be put into the store.
    Keep(Vec<Wanted>),
    /// One of them could not be, for this reason.
    Dead(String),
}

/// The inputs of a task, if it can be ordered light.
pub(super) fn carried(
    run: &Run,
    read: &BTreeMap<Digest, Bytes>,
    planned: &PlannedTask,
) -> Option<Vec<Bytes>> {
    if !can_be_light(planned) || run.carried_bytes() > RUN_CARRIED_BYTES_MAX {
        return None;
    }
    inputs(run, read, planned)
}

fn can_be_light(planned: &PlannedTask) -> bool {
    let inputs = planned.inputs.iter().map(|i| &i.to);
    matches!(planned.program, Program::Wasm(_))
        && !inputs.chain(&planned.outputs).any(|port| planned.is_tree(port))
}

/// Bytes of the inputs that a task has, if all of them are at hand.
pub(super) fn inputs(run: &Run, read: &BTreeMap<Digest, Bytes>, planned: &PlannedTask) -> Option<Vec<Bytes>> {
    let mut total = 0;
    let mut out = Vec::with_capacity(planned.inputs.len());
    for input in &planned.inputs {
        let (digest, len) = match &input.from {
            InputFrom::Object(o) => (o.digest, o.len),
            InputFrom::Task { .. } => match run.output_of(&input.from) {
                Some((_, o)) => (o.digest, o.len),
                None => continue,
            },
        };
        let bytes = match len {
            0 => Bytes::new(),
            _ => run.carried(&digest).or_else(|| read.get(&digest))?.clone(),
        };
        total += bytes.len();
        if total > CARRIED_BYTES_MAX {
            return None;
        }
        out.push(bytes);
    }
    Some(out)
}

impl Requester {
    /// Asks for the small sources of a run, as many as there is room for.
    pub(super) fn read_sources(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        let mut room = READ_BYTES_MAX as u64;
        let trees: Vec<Digest> = run.plan.iter().flat_map(|p| p.source_trees()).collect();
        let small: BTreeMap<Digest, u64> = sources(run).map(|o| (o.digest, o.len)).collect();
        for (digest, len) in small {
            if (1..=CARRIED_BYTES_MAX as u64).contains(&len) && len <= room && !trees.contains(&digest) {
                room -= len;
                cx.emit(Output::Read { digest, len: u32::try_from(len).unwrap_or(u32::MAX) });
            }
        }
    }

    /// A small object of the store, for every run that has it as a source.
    pub(super) fn read(&mut self, cx: &mut Cx<'_, Output>, digest: Digest, bytes: &Bytes) {
        if bytes.len() > CARRIED_BYTES_MAX || Digest::of(bytes) != digest {
            return self.unread(cx, digest, "it is damaged");
        }
        for (id, soft) in &mut self.soft {
            let wanted = self.runs.get(id).is_some_and(|run| sources(run).any(|o| o.digest == digest));
            if wanted {
                soft.read.insert(digest, bytes.clone());
            }
        }
    }

    /// A source cannot be read. Tasks that are ordered from now on do not need that; light orders of before a restart can never be
    /// sent again, so they are over.
    pub(super) fn unread(&mut self, cx: &mut Cx<'_, Output>, digest: Digest, why: &str) {
        let mut over = Vec::new();
        for (_, live) in self.lives.iter() {
            let (Some(run), Some(soft)) = (self.runs.get(&live.run), self.soft.get(&live.run)) else {
                continue;
            };
            let attempt = run.tasks.get(live.task).and_then(|t| t.attempt(live.fence));
            let takes_it =
                attempt.is_some_and(|a| a.order.light && a.order.inputs.iter().any(|i| i.digest == digest));
            let planned = run.plan.as_ref().and_then(|p| p.tasks.get(live.task));
            if takes_it && planned.is_some_and(|p| inputs(run, &soft.read, p).is_none()) {
                over.push((live.run, live.task, live.fence));
            }
        }
        for (run, task, fence) in over {
            let words = format!("its input {digest} cannot be read here: {why}");
            self.close(cx, run, task, fence, CloseClass::Infra, &words);
        }
    }

    /// What must come before a task can be ordered as one that is not light.
    pub(super) fn first(&self, id: RunId, planned: &PlannedTask) -> Option<First> {
        let (run, soft) = (self.runs.get(&id)?, self.soft.get(&id)?);
        if carried(run, &soft.read, planned).is_some() {
            return None;
        }
        let mut keep = Vec::new();
        for input in &planned.inputs {
            let InputFrom::Task { .. } = &input.from else { continue };
            let Some((_, o)) = run.output_of(&input.from) else { continue };
            if run.carried(&o.digest).is_none() || o.len == 0 {
                continue;
            }
            match self.wants.get(&o.digest).map(|w| &w.state) {
                Some(WantState::Here) if soft.kept.contains(&o.digest) => {}
                Some(WantState::Dead(why)) if soft.kept.contains(&o.digest) => {
                    return Some(First::Dead(format!(
                        "its input {} could not be kept here: {why}",
                        o.digest
                    )));
                }
                Some(_) | None => keep.push(Wanted {
                    digest: o.digest,
                    len: o.len,
                    holder: self.me,
                    required: true,
                    tree: false,
                }),
            }
        }
        (!keep.is_empty()).then_some(First::Keep(keep))
    }

    /// Puts outputs of light jobs into the store, for a task that takes them as objects.
    pub(super) fn keep_first(&mut self, cx: &mut Cx<'_, Output>, id: RunId, task: usize, keep: &[Wanted]) {
        let Some(soft) = self.soft.get_mut(&id) else { return };
        for w in keep {
            self.wants.want((id, task), w);
            if soft.kept.insert(w.digest) {
                self.granted.add([w.digest]);
                cx.emit(Output::Grant { digest: w.digest, requester: self.me });
            }
        }
        // What is here already calls nobody again.
        if keep.iter().all(|w| self.wants.get(&w.digest).is_some_and(|want| want.state == WantState::Here)) {
            soft.sched.look_at(task);
        }
    }

    /// The run is over: what was kept for its tasks goes, unless something else needs it.
    pub(super) fn leave_kept(
        &mut self,
        cx: &mut Cx<'_, Output>,
        id: RunId,
        kept: impl IntoIterator<Item = Digest>,
    ) {
        for digest in kept {
            for gone in self.granted.remove([digest]) {
                cx.emit(Output::Revoke { digest: gone, requester: self.me });
            }
            self.wants.leave(&digest, &id);
            if !self.holds(&digest) {
                cx.emit(Output::Remove { digest });
            }
        }
    }

    /// The bytes of a wanted object that a run's journal carries.
    pub(super) fn at_hand(&self, digest: &Digest) -> Option<Bytes> {
        let want = self.wants.get(digest)?;
        want.runs().iter().find_map(|run| self.runs.get(run)?.carried(digest).cloned())
    }
}
