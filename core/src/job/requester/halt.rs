//! What holds a run up or stops it before its tasks are over: the user's pause and cancel, and the time it may take.
//!
//! While a run is paused nothing is ordered, and what was ordered before goes on; neither the time it may take nor the time
//! its tasks may wait for executors runs. A stop is told to every executor until it confirms or is lost, and is final.

use super::live::Silence;
use super::sched::Sched;
use super::{CANCEL_WAIT_MAX, Output, RESEND_MIN, Requester};
use crate::command::{CommandError, Reply, RunState};
use crate::id::{CommandId, JobId, RunId};
use crate::job::rules::words_of_ms;
use crate::job::run::{CloseClass, Run, RunRecord, StopReason};
use crate::machine::Cx;
use crate::time::{Instant, UnixTime};

/// When a run must have ended, on the clock that does not jump.
pub(super) fn deadline_of(run: &Run, now: Instant, wall: UnixTime) -> Option<Instant> {
    run.deadline().map(|at| now + at.since(wall))
}

impl Requester {
    pub(super) fn cancel(&mut self, cx: &mut Cx<'_, Output>, id: CommandId, run: RunId) {
        let reply = match self.runs.get(&run) {
            None => Reply::Error(CommandError::UnknownRun(run)),
            Some(r) => {
                if r.ended.is_none() && r.stopping.is_none() {
                    self.record(cx, run, RunRecord::CancelRequested);
                }
                Reply::Done
            }
        };
        cx.emit(Output::Reply { id, reply: Box::new(reply) });
        self.advance(cx, run);
    }

    pub(super) fn pause(&mut self, cx: &mut Cx<'_, Output>, id: CommandId, run: RunId, paused: bool) {
        let reply = match self.runs.get(&run) {
            None => Reply::Error(CommandError::UnknownRun(run)),
            Some(r) if r.ended.is_some() || r.stopping.is_some() => Reply::Error(CommandError::RunOver(run)),
            Some(r) => {
                if r.paused.is_some() != paused {
                    self.record(cx, run, if paused { RunRecord::Paused } else { RunRecord::Resumed });
                    self.paused_or_resumed(cx, run);
                }
                Reply::Done
            }
        };
        cx.emit(Output::Reply { id, reply: Box::new(reply) });
        self.advance(cx, run);
    }

    /// Who waited for an executor waits anew: whoever resumes a run wants it to go on now.
    fn paused_or_resumed(&mut self, cx: &Cx<'_, Output>, id: RunId) {
        let (Some(run), Some(soft)) = (self.runs.get(&id), self.soft.get_mut(&id)) else { return };
        soft.deadline = deadline_of(run, cx.now, cx.wall);
        soft.sched = Sched::new(run.tasks.len());
        soft.index.ready().iter().for_each(|task| soft.sched.look_at(*task));
    }

    /// Whether a run has taken longer than it may; then it is being stopped from now on.
    pub(super) fn is_late(&mut self, cx: &mut Cx<'_, Output>, id: RunId) -> bool {
        let late = self.soft.get(&id).and_then(|s| s.deadline).is_some_and(|at| at <= cx.now);
        let open = |r: &Run| r.ended.is_none() && r.stopping.is_none();
        let late = late && self.runs.get(&id).is_some_and(open);
        if late {
            self.record(cx, id, RunRecord::DeadlinePassed);
        }
        late
    }

    /// It is to be stopped: every open attempt is told, repeatedly, until it confirms or is lost.
    pub(super) fn stop(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        let jobs: Vec<JobId> = self.lives.of_run(&id).copied().collect();
        let mut waiting = false;
        for job in jobs {
            let told = self.lives.change(&job, |l| {
                if l.cancel_since.is_none() {
                    l.cancel_since = Some(cx.now);
                    l.resend_at = Some(cx.now);
                    l.resend_wait = RESEND_MIN;
                }
                let over = l.cancel_since.is_some_and(|since| cx.now >= since + CANCEL_WAIT_MAX);
                let due = l.up && l.resend_at.is_some_and(|at| at <= cx.now);
                (l.task, l.fence, over || l.silence == Silence::Lost, due)
            });
            let Some((task, fence, over, due)) = told else { continue };
            if over {
                let words = "cancelled; the executor did not answer";
                self.close(cx, id, task, fence, CloseClass::Cancelled, words);
                continue;
            }
            waiting = true;
            if due {
                self.resend(cx, &job);
            }
        }
        if !waiting {
            self.stopped(cx, id);
        }
    }

    fn stopped(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        match run.stopping {
            Some((StopReason::Deadline, _)) => {
                let words = deadline_words(run);
                self.end(cx, id, RunState::Failed, &words, false);
            }
            Some((StopReason::Cancel, _)) | None => self.end(cx, id, RunState::Cancelled, "cancelled", false),
        }
    }
}

/// Why a run that took too long has failed.
pub(super) fn deadline_words(run: &Run) -> String {
    let timeout = run.rules().timeout_ms.unwrap_or_default();
    let failed = run.failed_task().map(|(task, words)| {
        let name = run.plan.as_ref().and_then(|p| p.tasks.get(task)).map_or("", |t| t.id.as_str());
        format!("; task {name} failed: {words}")
    });
    format!("deadline: not done within {}{}", words_of_ms(timeout), failed.unwrap_or_default())
}
