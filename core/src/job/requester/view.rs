//! How runs look to people: every waiting state says what it waits for.

use super::Requester;
use super::halt::deadline_words;
use super::live::Silence;
use super::wants::{Want, WantState};
use crate::command::{AgreementView, ResultView, RunState, RunView, TaskState, TaskView};
use crate::id::RunId;
use crate::job::outcome::producers;
use crate::job::plan::InputFrom;
use crate::job::quorum::{Answer, EVIDENCE_MAX, Evidence, Said, saying};
use crate::job::receipt::{Bundle, Receipt};
use crate::job::rules::{Quorum, TaskRules};
use crate::job::run::{Attempt, CloseClass, Run, StopReason, Task, TaskEnd};
use crate::job::signed::Signed;
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
        let (attempt, receipt, commit) = match &task.end {
            Some(TaskEnd::Committed { fence, receipt, commit, .. }) => {
                (task.attempt(*fence)?, &**receipt, &**commit)
            }
            Some(TaskEnd::Failed { .. } | TaskEnd::Skipped { .. }) | None => task.last_failure()?,
        };
        let agrees = |r: &Signed<Receipt>| r.result == receipt.result && r.executor != receipt.executor;
        let mut agreed: Vec<Said> = Vec::new();
        for (a, r) in task.said().filter(|(_, r)| agrees(r)) {
            if !agreed.iter().any(|(_, known)| known.executor == r.executor) {
                agreed.push((a.order.clone(), r.clone()));
            }
        }
        let (order, receipt, commit) = (attempt.order.clone(), receipt.clone(), commit.clone());
        Some(Bundle { order, receipt, commit, agreed })
    }

    /// Who disagrees about a task: one of each opinion that was heard, the one that counts first.
    fn evidence(&self, task: &Task) -> Option<Evidence> {
        let mut said: Vec<Said> = Vec::new();
        for (a, r) in task.said() {
            let answer = Answer::of(r).filter(|answer| *answer != Answer::Limit);
            let new = said.iter().all(|(_, k)| k.result != r.result && k.executor != r.executor);
            if answer.is_some() && new && said.len() < EVIDENCE_MAX {
                said.push((a.order.clone(), r.clone()));
            }
        }
        Some(Evidence { said }).filter(|e| e.said.len() > 1)
    }

    fn agreement(&self, task: &Task, rules: &TaskRules<usize>) -> Option<Box<AgreementView>> {
        let audited = task.attempts.iter().any(|a| a.audit);
        if rules.quorum.is_none() && !audited {
            return None;
        }
        let (agree, of) = rules.quorum.map_or((1, 1), |q| (q.agree, q.of));
        let class = |a: &Attempt| a.closed.as_ref().map(|c| c.class);
        let winner = task.receipt().map(|r| r.executor);
        let beside =
            task.said().filter(|(a, _)| class(a) == Some(CloseClass::Agreed)).map(|(_, r)| r.executor);
        let dissent = task.said().filter(|(a, _)| class(a) == Some(CloseClass::Dissent));
        Some(Box::new(AgreementView {
            agree,
            of,
            pledged: u32::try_from(task.watched().filter(|a| a.pledge.is_some()).count()).unwrap_or(u32::MAX),
            agreed: winner.into_iter().chain(beside).collect(),
            dissent: dissent.map(|(_, r)| (r.executor, saying(r))).collect(),
            evidence: self.evidence(task).map(|e| Bytes::from(e.encode())),
        }))
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
                let tree = match from {
                    InputFrom::Task { task, port } => plan.gives_tree(*task, port),
                    InputFrom::Object(_) => false,
                };
                let (source, digest, len, fetched) = match from {
                    InputFrom::Object(o) => ((String::new(), Port::Stdout), o.digest, o.len, o.len),
                    InputFrom::Task { task, port } => {
                        let Some((_, o)) = run.output_of(from) else { continue };
                        let name = plan.tasks.get(*task).map_or_else(String::new, |t| t.id.clone());
                        let want = self.wants.get(&o.digest);
                        // Of a directory the list alone is nothing that anybody could use.
                        let usable = |w: &&Want| !w.tree || w.state == WantState::Here;
                        let done = want.filter(usable).map_or(0, |w| w.done);
                        let done = if finished { o.len } else { done };
                        ((name, port.clone()), o.digest, o.len, done)
                    }
                };
                out.push(ResultView { tree, sink: sink.id.clone(), from: source, digest, len, fetched });
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
            agreement: self.agreement(task, &planned.rules),
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
            let several = run.plan.as_ref().and_then(|p| p.tasks.get(index)?.rules.quorum);
            let why = several.map(|q| self.several_why(task, q));
            return (TaskState::Active, why.or_else(|| self.active_why(a)));
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

    fn several_why(&self, task: &Task, quorum: Quorum) -> String {
        let lives = || task.open().filter_map(|a| self.lives.get(&a.job));
        let pledged = lives().filter(|l| l.pledged.is_some()).count();
        let shown = lives().filter(|l| l.shown.is_some()).count();
        format!(
            "asked of {} executors: {pledged} have a result, {shown} have shown it, {} must agree",
            task.open().count(),
            quorum.agree
        )
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
