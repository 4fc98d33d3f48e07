//! What follows from what has happened: whoever applies a record or hears of an object keeps here all that is derived from
//! it, and at the end of each step what has become due is done.

use super::index::{Applied, Index, producers, source_digests};
use super::sched::Sched;
use super::wants::{WantState, Wants};
use super::{Output, Requester, Soft};
use crate::command::RunState;
use crate::id::{Digest, JobId, RunId};
use crate::job::message::Message;
use crate::job::run::{Run, RunRecord};
use crate::machine::Cx;
use std::collections::BTreeSet;

/// Wanted objects of a run that are not here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Absent {
    /// Results that may still come.
    pub(super) results: BTreeSet<Digest>,
    /// Results that were given up.
    pub(super) dead: BTreeSet<Digest>,
    /// Logs that may still come.
    pub(super) logs: BTreeSet<Digest>,
}

impl Absent {
    pub(super) fn note(&mut self, digest: Digest, required: bool, state: &WantState) {
        let (open, dead) = match state {
            WantState::Asked | WantState::Again(_) => (true, false),
            WantState::Here => (false, false),
            WantState::Dead(_) => (false, true),
        };
        let put = |set: &mut BTreeSet<Digest>, is| if is { set.insert(digest) } else { set.remove(&digest) };
        put(&mut self.results, required && open);
        put(&mut self.dead, required && dead);
        put(&mut self.logs, !required && open);
    }
}

impl Requester {
    /// Applies a record and keeps everything that follows from it.
    pub(super) fn evolve(&mut self, cx: &Cx<'_, Output>, id: RunId, task: Option<usize>, record: RunRecord) {
        let run = self.runs.entry(id).or_insert_with(|| Run::new(id));
        let applied = Applied::of(run, &record);
        let held = |run: &Run, soft: Option<&Soft>| match (task, soft) {
            (Some(task), Some(soft)) => soft.index.held_of(run, task),
            (..) => Vec::new(),
        };
        let before = held(run, self.soft.get(&id));
        run.evolve(record, cx.wall);
        self.held.add(held(run, self.soft.get(&id)));
        self.held.remove(before);
        if matches!(applied, Applied::Planned) {
            self.held.add(source_digests(run));
        }
        let Some(soft) = self.soft.get_mut(&id) else { return };
        let ready = soft.index.apply(run, &applied);
        match applied {
            Applied::Planned => soft.sched = Sched::new(run.tasks.len()),
            Applied::Lied { .. } => soft.index.ready().iter().for_each(|task| soft.sched.look_at(*task)),
            Applied::Ended { task } => {
                if let Some(plan) = &run.plan {
                    let candidates = plan.tasks.get(task).map_or(&[][..], |t| &t.candidates);
                    soft.sched.take(task, candidates);
                    soft.sched.rests(task);
                    soft.spent.extend(producers(plan, task).chain([task]));
                    self.work += producers(plan, task).count() as u64 + 1;
                }
                self.want_of(id, task);
            }
            Applied::Other => {}
        }
        if let Some(soft) = self.soft.get_mut(&id) {
            ready.into_iter().for_each(|task| soft.sched.look_at(task));
        }
    }

    /// Wants what of an ended task is to be here.
    pub(super) fn want_of(&mut self, id: RunId, task: usize) {
        let (Some(run), Some(soft)) = (self.runs.get(&id), self.soft.get_mut(&id)) else { return };
        for w in soft.index.wanted_of(run, task) {
            self.wants.want((id, task), &w);
            let required = soft.index.wanted().get(&w.digest).copied().unwrap_or(w.required);
            if let Some(want) = self.wants.get(&w.digest) {
                soft.absent.note(w.digest, required, &want.state);
            }
        }
    }

    /// A wanted object came or did not: what that means for those who want it.
    pub(super) fn noted(&mut self, cx: &mut Cx<'_, Output>, digest: &Digest) {
        let Some(want) = self.wants.get(digest) else { return };
        let (runs, tasks) = (want.runs(), want.tasks());
        for id in &runs {
            let Some(soft) = self.soft.get_mut(id) else { continue };
            if let Some(required) = soft.index.wanted().get(digest) {
                soft.absent.note(*digest, *required, &want.state);
            }
        }
        for (id, task) in tasks {
            if let Some(soft) = self.soft.get_mut(&id) {
                soft.spent.insert(task);
                // It may be a task that takes it.
                if soft.kept.contains(digest) {
                    soft.sched.look_at(task);
                }
            }
        }
        for id in runs {
            self.advance(cx, id);
        }
        self.wants.settle(digest);
    }

    /// Marks a task to be looked at.
    pub(super) fn look_at(&mut self, id: &RunId, task: usize) {
        if let Some(soft) = self.soft.get_mut(id) {
            soft.sched.look_at(task);
        }
    }

    /// At the end of each step: looks at every run for which something has happened or for which there is room now, lets go
    /// of what is of no use any more, and asks for what is due.
    pub(super) fn settle(&mut self, cx: &mut Cx<'_, Output>) {
        loop {
            let freed = self.lives.take_freed();
            let due = |soft: &Soft| soft.sched.is_marked() || freed.iter().any(|p| soft.sched.parks_at(p));
            let doomed = |soft: &Soft| soft.index.doomed().is_some();
            let runs = self.soft.iter().filter(|(_, s)| due(s) || doomed(s));
            let runs: Vec<(RunId, bool)> = runs.map(|(id, s)| (*id, doomed(s))).collect();
            let state = |id: &RunId| self.runs.get(id).map(Run::state);
            let goes_on = |(id, doomed): &(RunId, bool)| match state(id) {
                Some(RunState::Running) => true,
                Some(RunState::Paused) => *doomed,
                Some(
                    RunState::Validating
                    | RunState::Cancelling
                    | RunState::Finalizing
                    | RunState::Succeeded
                    | RunState::Failed
                    | RunState::Cancelled,
                )
                | None => false,
            };
            let runs: Vec<RunId> = runs.into_iter().filter(goes_on).map(|(id, _)| id).collect();
            self.work += self.soft.len() as u64;
            if runs.is_empty() {
                break;
            }
            for id in runs {
                self.advance(cx, id);
            }
        }
        self.release_spent(cx);
        self.ask(cx);
    }

    /// Tasks that are over and whose outputs nobody will take any more are released, so that executors hold no more of a run than
    /// what it still needs.
    fn release_spent(&mut self, cx: &mut Cx<'_, Output>) {
        let mut release = Vec::new();
        for (id, soft) in &mut self.soft {
            let Some(run) = self.runs.get(id) else { continue };
            for index in std::mem::take(&mut soft.spent) {
                if !is_spent(run, &soft.index, &self.wants, index) {
                    continue;
                }
                let Some(task) = run.tasks.get(index) else { continue };
                let compared: BTreeSet<JobId> = task.watched().map(|a| a.job).collect();
                let attempts = task.remembered().filter(|a| !compared.contains(&a.job));
                release.extend(attempts.map(|a| (a.peer(), a.job)));
            }
        }
        for (peer, job) in release {
            self.send(cx, peer, &Message::Release { job });
        }
    }

    /// Asks for wanted objects whose time has come.
    fn ask(&mut self, cx: &mut Cx<'_, Output>) {
        while let Some((digest, want)) = self.wants.ask(cx.now) {
            let (len, tree, holder) = (want.len, want.tree, want.holder);
            if let Some(bytes) = self.at_hand(&digest) {
                cx.emit(Output::Keep { digest, bytes });
                continue;
            }
            self.need(cx, holder);
            cx.emit(Output::Want { digest, len, tree, sources: vec![(holder, None)] });
        }
    }
}

/// Whether nobody needs what a task left behind any more: it is over, all tasks that take its outputs are, and what is to be
/// here is here or was given up.
pub(super) fn is_spent(run: &Run, index: &Index, wants: &Wants, task: usize) -> bool {
    let here = |d: &Digest| {
        wants.get(d).is_some_and(|w| match w.state {
            WantState::Here | WantState::Dead(_) => true,
            WantState::Asked | WantState::Again(_) => false,
        })
    };
    let over = run.tasks.get(task).is_some_and(|t| t.end.is_some());
    let audited =
        |at: &usize| run.tasks.get(*at).is_some_and(|t| t.end.is_some() && t.watched().any(|a| a.audit));
    over && !index.dependents(task).any(|at| audited(&at))
        && !index.is_needed(task)
        && index.wanted_of(run, task).iter().all(|w| here(&w.digest))
}

#[cfg(test)]
impl Requester {
    /// Everything that is kept in step equals what it is when made from scratch, and no task waits that could be ordered.
    pub(crate) fn check_derived(&self) {
        assert_eq!(self.lives, self.lives.rebuilt());
        assert_eq!(self.wants, self.wants.rebuilt());
        let mut held = super::index::Held::default();
        self.runs.values().for_each(|run| held.add(super::index::held_by(run)));
        assert_eq!(self.held, held);
        let mut granted = super::index::Held::default();
        for (id, soft) in &self.soft {
            let run = &self.runs[id];
            granted.add(source_digests(run));
            granted.add(soft.kept.iter().copied());
            assert_eq!(soft.index, Index::build(run));
            let committed = run.tasks.iter().filter(|t| t.receipt().is_some()).count();
            assert_eq!(run.committed(), committed);
            let mut absent = Absent::default();
            for (digest, required) in soft.index.wanted().iter().filter(|_| run.stopping.is_none()) {
                absent.note(*digest, *required, &self.wants.get(digest).expect("it is wanted").state);
            }
            if run.stopping.is_none() {
                assert_eq!(soft.absent, absent);
            }
            let Some(plan) = &run.plan else { continue };
            soft.sched.check(|task| &plan.tasks[task].candidates);
            if run.state() == RunState::Running {
                self.check_waiting(*id, run, soft);
            }
        }
        assert_eq!(self.granted, granted);
    }

    /// Every task that could run is looked at as if something had happened to it: none would be ordered or fail.
    fn check_waiting(&self, id: RunId, run: &Run, soft: &Soft) {
        assert!(!soft.sched.is_marked());
        for (i, (task, planned)) in run.tasks.iter().zip(&run.plan.as_ref().unwrap().tasks).enumerate() {
            if !soft.index.ready().contains(&i) {
                continue;
            }
            // What is due at this very moment is done when the timer is looked at.
            let waits = match self.next(soft.placed, id, i, task, planned) {
                super::place::Next::Nothing | super::place::Next::Wait(_) => true,
                super::place::Next::First(keep) => keep.iter().all(|w| soft.kept.contains(&w.digest)),
                super::place::Next::Fail(_) | super::place::Next::Order(_) => false,
            };
            assert!(waits, "task {i} of {id} could go on");
        }
    }
}
