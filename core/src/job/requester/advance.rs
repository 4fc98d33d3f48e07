//! What is due in a run: planning, placing, fetching results, ending. A pure look at state; harmless when nothing is due.

use super::index::source_digests;
use super::live::{Live, Phase, Silence};
use super::wants::WantState;
use super::{
    CANCEL_WAIT_MAX, EXECUTION_GRACE, LOGS_WAIT_MAX, LOST_KEPT_MAX, NEED_AGAIN, Output, Requester,
    STAGING_BYTES_PER_SECOND_MIN, STAGING_MAX, VALIDATING_MAX,
};
use crate::command::RunState;
use crate::id::{JobId, PublicKey, RunId};
use crate::job::message::{JobState, Message, cut_words};
use crate::job::rules::{OnFailure, RULE_TIME_MAX_MS, words_of_ms};
use crate::job::run::{CloseClass, END_WORDS_MAX, Run, RunRecord, Task};
use crate::job::validate::check;
use crate::limits::{LOST_AFTER, SUSPECT_AFTER};
use crate::machine::Cx;
use crate::time::{Deadline, Duration};

impl Requester {
    /// Does whatever is due in a run.
    pub(super) fn advance(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        self.is_late(cx, id);
        let Some(run) = self.runs.get(&id) else { return };
        match run.state() {
            RunState::Validating => self.validate(cx, id),
            RunState::Cancelling => self.stop(cx, id),
            RunState::Running | RunState::Paused => self.place_all(cx, id),
            RunState::Finalizing => {}
            RunState::Succeeded | RunState::Failed | RunState::Cancelled => return,
        }
        let Some(run) = self.runs.get(&id) else { return };
        match run.state() {
            RunState::Finalizing => self.finalize(cx, id),
            RunState::Validating
            | RunState::Running
            | RunState::Paused
            | RunState::Cancelling
            | RunState::Succeeded
            | RunState::Failed
            | RunState::Cancelled => {}
        }
    }

    fn validate(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        let Some(workflow) = self.runs.get(&id).and_then(|r| r.pending.as_ref()) else { return };
        let result = check(workflow, &self.offers);
        let Some(soft) = self.soft.get_mut(&id) else { return };
        match result {
            Ok(plan) => {
                self.record(cx, id, RunRecord::Planned { plan });
                self.grant_sources(cx, id);
                self.place_all(cx, id);
            }
            Err(f) if f.curable() && cx.now < soft.since + VALIDATING_MAX => {
                let absent = f.absent.clone();
                soft.findings = f;
                for peer in absent {
                    self.need(cx, peer);
                }
            }
            Err(f) => {
                let words: Vec<String> = f.problems.iter().map(ToString::to_string).collect();
                self.end(cx, id, RunState::Failed, &words.join("; "), false);
            }
        }
    }

    /// All tasks are over, or one has failed and that ends it: bring home what is wanted, then end.
    fn finalize(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        let (Some(run), Some(soft)) = (self.runs.get(&id), self.soft.get_mut(&id)) else { return };
        let logs_until = *soft.logs_until.get_or_insert(cx.now + LOGS_WAIT_MAX);
        let failed = failed_words(run);
        let dead = soft.absent.dead.last().and_then(|digest| match self.wants.get(digest) {
            Some(w) => match &w.state {
                WantState::Dead(why) => {
                    Some(format!("result {digest} could not be fetched from {}: {why}", w.holder))
                }
                WantState::Asked | WantState::Again(_) | WantState::Here => None,
            },
            None => None,
        });
        let results = soft.absent.results.is_empty();
        // What is still to be compared is waited for as long, and no longer.
        let quiet = soft.absent.logs.is_empty() && (failed.is_some() || !self.is_comparing(&id));
        let logs_done = quiet || cx.now >= logs_until;
        // A run that goes on after a failure keeps what could be computed; one that stops keeps nothing for certain.
        let waits = run.rules().on_failure == OnFailure::Continue;
        match (failed, dead) {
            (Some(words), dead) if waits => {
                if results && logs_done {
                    let kept = dead.is_none();
                    let words = dead.map_or(words.clone(), |dead| format!("{words}; {dead}"));
                    self.end(cx, id, RunState::Failed, &words, kept);
                }
            }
            (Some(words), _) if logs_done => self.end(cx, id, RunState::Failed, &words, false),
            (None, Some(words)) => self.end(cx, id, RunState::Failed, &words, false),
            (None, None) if results && logs_done => self.end(cx, id, RunState::Succeeded, "", false),
            (Some(_), _) | (None, None) => {}
        }
    }

    /// The end: journaled, then everything of the run is released.
    pub(super) fn end(
        &mut self,
        cx: &mut Cx<'_, Output>,
        id: RunId,
        state: RunState,
        words: &str,
        kept: bool,
    ) {
        self.record(cx, id, RunRecord::Ended { state, words: cut_words(words, END_WORDS_MAX), kept });
        let soft = self.soft.remove(&id);
        for job in self.lives.of_run(&id).copied().collect::<Vec<_>>() {
            self.lives.remove(&job);
        }
        let Some(run) = self.runs.get(&id) else { return };
        for a in run.tasks.iter().flat_map(|t| &t.attempts) {
            self.jobs.remove(&a.job);
        }
        for a in run.tasks.iter().flat_map(Task::remembered) {
            self.send(cx, a.peer(), &Message::Release { job: a.job });
        }
        for digest in self.granted.remove(source_digests(run)) {
            cx.emit(Output::Revoke { digest, requester: self.me });
        }
        for digest in soft.iter().flat_map(|s| s.index.wanted().keys()) {
            self.wants.leave(digest, &id);
        }
        if let Some(soft) = soft {
            self.leave_kept(cx, id, soft.kept);
        }
        self.prune(cx);
    }

    /// When a run wants to be looked at again.
    pub(super) fn run_deadline(&self, id: &RunId) -> Option<Deadline> {
        let (run, soft) = (self.runs.get(id)?, self.soft.get(id)?);
        let need = |peers: &mut dyn Iterator<Item = &PublicKey>| {
            let asked = peers.filter_map(|p| self.peers.get(p)).filter(|p| !p.up).filter_map(|p| p.needed);
            asked.min().map(|at| Deadline::new(at + NEED_AGAIN, "ask for a peer again"))
        };
        let late = soft.deadline.map(|at| Deadline::new(at, "run: deadline"));
        let due = match run.state() {
            RunState::Validating => Deadline::earlier(
                Some(Deadline::new(soft.since + VALIDATING_MAX, "validating: give up")),
                need(&mut soft.findings.absent.iter()),
            ),
            RunState::Running => {
                let looked = self.looked.max(soft.placed);
                let later = |at, why| Some(Deadline::new(at, why)).filter(|d| d.at > looked);
                let needed = soft.sched.needed().filter_map(|p| self.peers.get(p)).filter(|p| !p.up);
                let needed = needed.map(|p| later(p.needed? + NEED_AGAIN, "ask for a peer again"));
                let busy = soft.sched.parked().filter_map(|p| self.peers.get(p));
                let busy = busy.map(|p| later(p.busy_until?, "executor may have room"));
                needed.chain(busy).fold(soft.sched.deadline(), Deadline::earlier)
            }
            RunState::Finalizing => soft
                .logs_until
                .filter(|at| *at > self.looked)
                .map(|at| Deadline::new(at, "stop waiting for logs")),
            RunState::Paused => None,
            RunState::Cancelling | RunState::Succeeded | RunState::Failed | RunState::Cancelled => {
                return None;
            }
        };
        Deadline::earlier(due, late)
    }

    /// Timers of one open attempt; says which run is to be looked at.
    pub(super) fn live_timeout(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) -> Option<RunId> {
        let now = cx.now;
        let (before, l) = self.lives.change(job, |l| {
            let before = l.silence;
            if l.silence == Silence::None && now >= l.heard + SUSPECT_AFTER {
                l.silence = Silence::Suspect;
            }
            if l.silence == Silence::Suspect && now >= l.heard + LOST_AFTER {
                l.silence = Silence::Lost;
            }
            (before, l.clone())
        })?;
        let mut touched = before != l.silence;
        if touched {
            cx.emit(Output::TaskChanged { run: l.run, task: l.task });
            self.look_at(&l.run, l.task);
        }
        touched |= l.cancel_since.is_some_and(|at| now >= at + CANCEL_WAIT_MAX);
        if l.silence == Silence::Lost && now >= l.heard + LOST_KEPT_MAX {
            let words = format!("{} was not heard of for as long as it keeps results", l.peer);
            self.close(cx, l.run, l.task, l.fence, CloseClass::Infra, &words);
            return Some(l.run);
        }
        if let Some((phase, _)) = l.phase.filter(|_| l.phase_ends().is_some_and(|d| d.at <= now)) {
            self.give_up(cx, job, &l, phase);
            return Some(l.run);
        }
        if l.resend_at.is_some_and(|at| at <= now) && l.up {
            self.resend(cx, job);
        }
        touched.then_some(l.run)
    }

    /// An executor is heard of, but gets nowhere with an attempt: somebody else shall have it.
    fn give_up(&mut self, cx: &mut Cx<'_, Output>, job: &JobId, l: &Live, phase: Phase) {
        let order =
            self.runs.get(&l.run).and_then(|r| r.tasks.get(l.task)?.attempt(l.fence)).map(|a| &a.order);
        let words = match (phase, order) {
            (Phase::Running, Some(order)) => {
                let limit = words_of_ms(order.limits.time_ms);
                format!("{}: it still runs long after its time limit of {limit}", l.peer)
            }
            (Phase::Revealing, _) => format!("{}: it does not show the result that it has pledged", l.peer),
            (Phase::Running, None) | (Phase::Staging, _) => {
                format!("{}: its inputs are not there after a time in which anybody has them", l.peer)
            }
        };
        self.close(cx, l.run, l.task, l.fence, CloseClass::Infra, &words);
        self.send(cx, l.peer, &Message::Cancel { job: *job });
    }

    /// How long an attempt may be in the phase that its executor tells of.
    fn phase_of(&self, l: &Live, state: JobState) -> Option<(Phase, Duration)> {
        let order = || Some(&self.runs.get(&l.run)?.tasks.get(l.task)?.attempt(l.fence)?.order);
        match state {
            JobState::Staging | JobState::Starting => {
                let bytes = order()?.inputs.iter().fold(0u64, |sum, i| sum.saturating_add(i.len));
                let needed = Duration::from_secs(bytes / STAGING_BYTES_PER_SECOND_MIN);
                Some((Phase::Staging, STAGING_MAX + needed))
            }
            JobState::Running | JobState::Stopping => {
                let limit = order()?.limits.time_ms.min(RULE_TIME_MAX_MS);
                Some((Phase::Running, Duration::from_millis(limit + limit / 10) + EXECUTION_GRACE))
            }
            JobState::Admitted | JobState::Sealed | JobState::Retained | JobState::Orphaned => None,
        }
    }

    /// Marks an attempt as heard of.
    pub(super) fn heard(&mut self, cx: &mut Cx<'_, Output>, job: &JobId, state: Option<JobState>) {
        let told = self.lives.get(job).zip(state).and_then(|(l, state)| self.phase_of(l, state));
        let heard = self.lives.change(job, |l| {
            let (changed, was) =
                (l.silence != Silence::None || (state.is_some() && l.state != state), l.silence);
            l.phase = match (l.phase, told) {
                // Who comes back from silence may have ended in the meantime and is about to say so.
                (Some((phase, at)), Some((same, _))) if phase == same && was != Silence::None => {
                    Some((phase, at.max(cx.now + EXECUTION_GRACE)))
                }
                (Some((phase, at)), Some((same, _))) if phase == same => Some((phase, at)),
                (Some((Phase::Revealing, at)), None) if was != Silence::None => {
                    Some((Phase::Revealing, at.max(cx.now + EXECUTION_GRACE)))
                }
                (_, Some((phase, within))) => Some((phase, cx.now + within)),
                // A result is on its way; nothing else stops the clock but going back into a queue.
                (phase, None) if state != Some(JobState::Admitted) => phase,
                (_, None) => None,
            };
            l.heard = cx.now;
            l.silence = Silence::None;
            if state.is_some() {
                l.state = state;
                if l.cancel_since.is_none() {
                    l.resend_at = None;
                }
            }
            (l.run, l.task, changed, was == Silence::Lost)
        });
        let Some((run, task, changed, was_lost)) = heard else { return };
        if changed {
            cx.emit(Output::TaskChanged { run, task });
        }
        if was_lost {
            self.look_at(&run, task);
        }
    }
}

/// Why a run has failed, if a task has and nothing handles that.
fn failed_words(run: &Run) -> Option<String> {
    let (task, words) = run.failed_task()?;
    let name = run.plan.as_ref().and_then(|p| p.tasks.get(task)).map_or("", |t| t.id.as_str());
    Some(format!("task {name} failed: {words}"))
}
