//! How runs look to people: every waiting state says what it waits for.

use super::Requester;
use super::halt::deadline_words;
use super::live::Silence;
use crate::command::{ResultView, RunState, RunView, TaskState, TaskView};
use crate::id::RunId;
use crate::job::outcome::producers;
use crate::job::plan::InputFrom;
use crate::job::receipt::Bundle;
use crate::job::run::{Attempt, CloseClass, Run, StopReason, Task, TaskEnd};
use crate::port::Port;
use bytes::Bytes;

impl Requester {
    /// All runs, newest first, without their tasks.
    pub fn views(&self) -> Vec<RunView> {
        let mut all: Vec<RunView> = self.runs.values().map(|r| self.summary(r)).collect();
        all.sort_by(|a, b| b.submitted.cmp(&a.submitted).then_with(|| a.run.cmp(&b.run)));
        all
    }

    /// One run with its tasks in the workflow's order.
    pub fn view(&self, id: &RunId) -> Option<RunView> {
        let run = self.runs.get(id)?;
        let mut order: Vec<usize> = (0..run.tasks.len()).collect();
        order.sort_by_key(|i| run.plan.as_ref().and_then(|p| p.tasks.get(*i)).map(|t| t.declared));
        let tasks = order.into_iter().filter_map(|i| self.task_view(id, i)).collect();
        Some(RunView { tasks, ..self.summary(run) })
    }

    /// A run without its tasks, for notices.
    pub fn summary_of(&self, id: &RunId) -> Option<RunView> {
        self.runs.get(id).map(|r| self.summary(r))
    }

    /// Order, receipt and commit of a committed task, or of the last failed attempt: what `receipt verify` reads.
    pub fn bundle(&self, id: &RunId, task: usize) -> Option<Bundle> {
        let task = self.runs.get(id)?.tasks.get(task)?;
        match &task.end {
            Some(TaskEnd::Committed { fence, receipt, commit }) => Some(Bundle {
                order: task.attempt(*fence)?.order.clone(),
                receipt: (**receipt).clone(),
                commit: (**commit).clone(),
            }),
            Some(TaskEnd::Failed { .. } | TaskEnd::Skipped { .. }) | None => {
                task.attempts.iter().rev().find_map(|a| {
                    let (receipt, commit) = a.closed.as_ref()?.proof.clone()?;
                    Some(Bundle { order: a.order.clone(), receipt, commit })
                })
            }
        }
    }

    fn summary(&self, run: &Run) -> RunView {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        RunView {
            run: run.id,
            name: run.name.clone(),
            state: run.state(),
            submitted: run.submitted,
            ended: run.ended.as_ref().map(|(.., at)| *at),
            why: self.why(run),
            tasks: Vec::new(),
            results: self.results(run),
            progress: (count(run.committed()), count(run.tasks.len())),
            failed: count(run.failed()),
            skipped: count(run.skipped()),
            paused: run.paused.filter(|_| run.ended.is_none()),
            deadline: run.deadline().filter(|_| run.ended.is_none()),
        }
    }

    fn why(&self, run: &Run) -> Option<String> {
        match run.state() {
            RunState::Validating => {
                let soft = self.soft.get(&run.id)?;
                Some(soft.findings.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
            RunState::Cancelling => {
                let n = self.lives.of_run(&run.id).count();
                let words = format!("{n} executor(s) have not yet confirmed that they stopped");
                match run.stopping {
                    Some((StopReason::Deadline, _)) => Some(format!("{}; {words}", deadline_words(run))),
                    Some((StopReason::Cancel, _)) | None => Some(words),
                }
            }
            RunState::Finalizing => match run.failed_task() {
                Some((_, words)) => Some(format!("fetching logs; a task failed: {words}")),
                None => {
                    let open = self.results(run).iter().filter(|r| r.fetched < r.len).count();
                    Some(format!("fetching {open} result(s)"))
                }
            },
            RunState::Failed | RunState::Cancelled => run.ended.as_ref().map(|(_, words, _)| words.clone()),
            RunState::Paused => {
                let n = self.lives.of_run(&run.id).count();
                Some(format!("paused; {n} task(s) that were ordered before go on"))
            }
            RunState::Running | RunState::Succeeded => None,
        }
    }

    fn results(&self, run: &Run) -> Vec<ResultView> {
        let Some(plan) = &run.plan else { return Vec::new() };
        let finished = run.kept;
        let mut out = Vec::new();
        for sink in &plan.sinks {
            for from in &sink.inputs {
                let (source, digest, len, fetched) = match from {
                    InputFrom::Object(o) => ((String::new(), Port::Stdout), o.digest, o.len, o.len),
                    InputFrom::Task { task, port } => {
                        let Some((_, o)) = run.output_of(from) else { continue };
                        let name = plan.tasks.get(*task).map_or_else(String::new, |t| t.id.clone());
                        let want = self.wants.get(&o.digest);
                        let done = if finished { o.len } else { want.map_or(0, |w| w.done) };
                        ((name, port.clone()), o.digest, o.len, done)
                    }
                };
                out.push(ResultView { sink: sink.id.clone(), from: source, digest, len, fetched });
            }
        }
        out
    }

    /// One task by its index in the plan.
    pub fn task_view(&self, id: &RunId, index: usize) -> Option<TaskView> {
        let run = self.runs.get(id)?;
        let (task, planned) = (run.tasks.get(index)?, run.plan.as_ref()?.tasks.get(index)?);
        let (state, why) = self.task_state(run, index, task);
        let receipt = task.last_receipt();
        let winner = match &task.end {
            Some(TaskEnd::Committed { fence, .. }) => task.attempt(*fence),
            Some(TaskEnd::Failed { .. } | TaskEnd::Skipped { .. }) | None => None,
        };
        let shown: Option<&Attempt> = winner.or_else(|| task.open().last()).or_else(|| task.attempts.last());
        let bundle = self.bundle(id, index);
        Some(TaskView {
            id: planned.id.clone(),
            state,
            why,
            since: task.since,
            service: planned.service_name.clone(),
            peer: shown.map(Attempt::peer),
            job: shown.and_then(|a| self.lives.get(&a.job)).and_then(|l| l.state).map(|s| s.as_str()),
            fence: shown.map_or(0, |a| a.order.fence),
            exit: receipt.map(|r| (r.class, r.code)),
            usage: receipt.map(|r| r.usage),
            outputs: receipt
                .into_iter()
                .flat_map(|r| r.outputs.iter().map(|o| (o.port.clone(), o.digest, o.len)))
                .collect(),
            receipt: bundle.as_ref().map(|b| Bytes::from(b.encode())),
            commit: bundle.map(|b| Bytes::from(b.commit.encode())),
        })
    }

    fn task_state(&self, run: &Run, index: usize, task: &Task) -> (TaskState, Option<String>) {
        match &task.end {
            Some(TaskEnd::Committed { .. }) => return (TaskState::Committed, None),
            Some(TaskEnd::Failed { words }) => return (TaskState::Failed, Some(words.clone())),
            Some(TaskEnd::Skipped { words }) => return (TaskState::Skipped, Some(words.clone())),
            None => {}
        }
        match run.state() {
            RunState::Cancelled => return (TaskState::Cancelled, Some("the run was cancelled".into())),
            RunState::Failed | RunState::Succeeded => {
                return (TaskState::Skipped, Some("the run ended before it could start or finish".into()));
            }
            RunState::Validating
            | RunState::Running
            | RunState::Paused
            | RunState::Cancelling
            | RunState::Finalizing => {}
        }
        if let Some(a) = task.open().last() {
            return (TaskState::Active, self.active_why(a));
        }
        let Some(planned) = run.plan.as_ref().and_then(|p| p.tasks.get(index)) else {
            return (TaskState::Blocked, None);
        };
        let open = |task: &usize| run.tasks.get(*task).is_some_and(|t| t.end.is_none());
        let asked = planned.rules.when.iter().map(|w| w.task);
        if let Some(producer) = producers(planned).chain(asked).find(open) {
            let name = run.plan.as_ref().and_then(|p| p.tasks.get(producer)).map_or("", |t| t.id.as_str());
            return (TaskState::Blocked, Some(format!("waits for {name}")));
        }
        if run.paused.is_some() {
            return (TaskState::Ready, Some("the run is paused".into()));
        }
        let last = task.attempts.iter().rev().find_map(|a| a.closed.as_ref());
        match last {
            Some(c) if c.class != CloseClass::Busy => {
                (TaskState::Backoff, Some(format!("will be tried again; the last attempt: {}", c.words)))
            }
            Some(_) | None => (TaskState::Placing, Some(self.waiting_for(&planned.candidates))),
        }
    }

    fn active_why(&self, a: &Attempt) -> Option<String> {
        let live = self.lives.get(&a.job)?;
        match (live.silence, live.state) {
            (Silence::Lost, _) => {
                Some(format!("{} is lost; its result still counts if it returns", live.peer))
            }
            (Silence::Suspect, _) => Some(format!("{} is silent", live.peer)),
            (Silence::None, None) => Some(format!("{} has not yet accepted the order", live.peer)),
            (Silence::None, Some(_)) => None,
        }
    }

    /// Wanted objects that are not yet here, for checkers.
    pub fn wants_open(&self) -> usize {
        self.wants.open()
    }
}
