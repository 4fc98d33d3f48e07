//! What becomes of a task by what has become of the tasks before it, and what a failure means for the whole run.
//!
//! A task is over when it is committed, has failed for good, or was skipped. [`fate`] says of a task that is not over whether
//! it still waits, may run, or is to be skipped: pure, from the plan and the ends so far, and final, since an end never
//! changes. A task is skipped as soon as that is certain.
//!
//! A failure is *handled* when the workflow says what is to be done then, and that is done: some task has a condition that
//! this very failure fulfils ([`Test::Failed`], or [`Test::Code`] with the code it ended with), or takes something of the
//! failed task with [`Join::Always`], and that task was not skipped in turn. A failure that nobody handles makes the run
//! fail: at once, or after everything else has had its turn ([`OnFailure`](super::rules::OnFailure)).

use super::plan::{InputFrom, Plan, PlannedTask};
use super::rules::{Join, Test};
use super::run::{Run, Task, TaskEnd};
use crate::port::ExitClass;

/// What is to become of a task that is not over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Something before it is not over.
    Waits,
    /// Whatever it needs is there.
    Runs,
    /// It will never run: words for people.
    Skipped(String),
}

/// Whether a task that is over fulfils a test.
pub fn holds(task: &Task, test: &Test) -> bool {
    let committed = task.receipt();
    match test {
        Test::Succeeded => committed.is_some(),
        Test::Failed => matches!(task.end, Some(TaskEnd::Failed { .. })),
        Test::Code(code) => match &task.end {
            Some(TaskEnd::Committed { receipt, .. }) => receipt.code == *code,
            Some(TaskEnd::Failed { .. }) => {
                // Only a program that ended by itself has an exit code of its own.
                task.last_receipt().is_some_and(|r| r.class == ExitClass::User && r.code == *code)
            }
            Some(TaskEnd::Skipped { .. }) | None => false,
        },
        Test::Empty(port) => committed.and_then(|r| r.output(port)).is_some_and(|o| o.len == 0),
        Test::Is(port, digest) => committed.and_then(|r| r.output(port)).is_some_and(|o| o.digest == *digest),
    }
}

fn test_words(name: &str, test: &Test) -> String {
    match test {
        Test::Succeeded => format!("{name} did not succeed"),
        Test::Failed => format!("{name} did not fail"),
        Test::Code(code) => format!("{name} did not end with exit code {code}"),
        Test::Empty(port) => format!("{} of {name} is not empty", super::encoding::port_text(port)),
        Test::Is(port, _) => {
            format!("{} of {name} is not what is asked for", super::encoding::port_text(port))
        }
    }
}

/// Tasks that a task takes something from, once for each input.
pub(super) fn producers(planned: &PlannedTask) -> impl Iterator<Item = usize> + '_ {
    planned.inputs.iter().filter_map(|i| match i.from {
        InputFrom::Object(_) => None,
        InputFrom::Task { task, .. } => Some(task),
    })
}

/// What is to become of a task that is not over.
pub fn fate(run: &Run, index: usize) -> Fate {
    let Some(plan) = &run.plan else { return Fate::Waits };
    let Some(planned) = plan.tasks.get(index) else { return Fate::Waits };
    let name = |task: usize| plan.tasks.get(task).map_or("", |t| t.id.as_str());
    let mut waits = false;
    for w in &planned.rules.when {
        match run.tasks.get(w.task) {
            Some(task) if task.end.is_some() => {
                if !holds(task, &w.test) {
                    return Fate::Skipped(test_words(name(w.task), &w.test));
                }
            }
            Some(_) | None => waits = true,
        }
    }
    let (mut some, mut given) = (false, false);
    for input in &planned.inputs {
        let InputFrom::Task { task, .. } = &input.from else { continue };
        let Some(end) = run.tasks.get(*task).and_then(|t| t.end.as_ref()) else {
            (some, waits) = (true, true);
            continue;
        };
        some = true;
        let there = run.output_of(&input.from).is_some();
        given |= there;
        if !there && planned.rules.join == Join::All {
            let what = match end {
                TaskEnd::Failed { .. } => "failed",
                TaskEnd::Skipped { .. } => "was skipped",
                TaskEnd::Committed { .. } => "gave no such output",
            };
            return Fate::Skipped(format!("{} {what}", name(*task)));
        }
    }
    match planned.rules.join {
        _ if waits => Fate::Waits,
        Join::Any if some && !given => Fate::Skipped("none of the tasks before it succeeded".into()),
        Join::All | Join::Any | Join::Always => Fate::Runs,
    }
}

/// What is known of the ends of a run's tasks, kept with each end at the cost of the edges of its task.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Tally {
    committed: usize,
    failed: usize,
    skipped: usize,
    /// By task: the tasks that would handle its failure.
    handlers: Vec<Vec<u32>>,
    /// Tasks that failed and whose failure nobody handles.
    unhandled: std::collections::BTreeSet<usize>,
}

impl Tally {
    pub(super) fn new(plan: &Plan) -> Tally {
        let mut handlers = vec![Vec::new(); plan.tasks.len()];
        for (index, planned) in plan.tasks.iter().enumerate() {
            for task in would_handle(planned) {
                if let Some(of) = handlers.get_mut(task) {
                    of.push(u32::try_from(index).unwrap_or(u32::MAX));
                }
            }
        }
        Tally { handlers, ..Tally::default() }
    }

    pub(super) fn committed(&self) -> usize {
        self.committed
    }

    pub(super) fn failed(&self) -> usize {
        self.failed
    }

    pub(super) fn skipped(&self) -> usize {
        self.skipped
    }

    pub(super) fn ended(&self) -> usize {
        self.committed + self.failed + self.skipped
    }

    /// The first task whose failure nobody handles.
    pub(super) fn unhandled(&self) -> Option<usize> {
        self.unhandled.first().copied()
    }

    /// The end of a task has changed from `before` (only a made-up journal ends a task twice).
    pub(super) fn ended_now(&mut self, plan: &Plan, tasks: &[Task], index: usize, before: Option<&TaskEnd>) {
        if let Some(end) = before {
            *self.count_of(end) -= 1;
        }
        if let Some(end) = tasks.get(index).and_then(|t| t.end.as_ref()) {
            *self.count_of(end) += 1;
        }
        let Some(planned) = plan.tasks.get(index) else { return };
        for task in would_handle(planned).into_iter().chain([index]) {
            if self.is_unhandled(plan, tasks, task) {
                self.unhandled.insert(task);
            } else {
                self.unhandled.remove(&task);
            }
        }
    }

    fn count_of(&mut self, end: &TaskEnd) -> &mut usize {
        match end {
            TaskEnd::Committed { .. } => &mut self.committed,
            TaskEnd::Failed { .. } => &mut self.failed,
            TaskEnd::Skipped { .. } => &mut self.skipped,
        }
    }

    fn is_unhandled(&self, plan: &Plan, tasks: &[Task], index: usize) -> bool {
        let Some(task) = tasks.get(index).filter(|t| matches!(t.end, Some(TaskEnd::Failed { .. }))) else {
            return false;
        };
        let handles = |handler: &u32| {
            let at = *handler as usize;
            let (Some(planned), Some(handler)) = (plan.tasks.get(at), tasks.get(at)) else { return false };
            let mut about_it = planned.rules.when.iter().filter(|w| w.task == index);
            !matches!(handler.end, Some(TaskEnd::Skipped { .. })) && about_it.all(|w| holds(task, &w.test))
        };
        !self.handlers.get(index).is_some_and(|of| of.iter().any(handles))
    }
}

/// Tasks whose failure this one would handle, each once.
fn would_handle(planned: &PlannedTask) -> std::collections::BTreeSet<usize> {
    let asked = planned.rules.when.iter().filter(|w| match w.test {
        Test::Failed => true,
        Test::Code(code) => code != 0,
        Test::Succeeded | Test::Empty(_) | Test::Is(..) => false,
    });
    let taken = producers(planned).filter(|_| planned.rules.join == Join::Always);
    asked.map(|w| w.task).chain(taken).collect()
}
