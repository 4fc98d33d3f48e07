//! Tasks that several executors do: what was pledged, when it is shown, what is decided, and audits of what was committed.
//!
//! Attempts of such a task are open side by side. A pledge is journaled before its executor is told to show the result, so that a
//! result that comes counts only if it was pledged before anything was shown. What was shown is kept beside the attempt, not in
//! the journal: its executor offers it until it is answered, so a restarted requester sees it again. The decision is one
//! record that has all receipts that were shown by then.
//!
//! Who had pledged when the task was committed is still heard, and so is an audit: their receipts are compared, and nothing else
//! comes of them. An audit is ordered in the very step of the commit, while the inputs are still held for the task; if nobody who
//! could do it is connected and has room at that moment, there is none.

use super::index::producers;
use super::live::{Live, Phase, Shown, Silence};
use super::{Output, Requester};
use crate::command::RunState;
use crate::id::{Digest, JobId, PublicKey, RunId};
use crate::job::message::{JobState, Message, cut_words};
use crate::job::plan::PlannedTask;
use crate::job::quorum::{
    AUDITS_MAX, Answer, REVEAL_AFTER, REVEAL_MAX, class_beside, pledge_of, saying, words_beside,
};
use crate::job::receipt::{Receipt, Verdict};
use crate::job::rules::Quorum;
use crate::job::run::{CloseClass, END_WORDS_MAX, Other, Run, RunRecord, Task};
use crate::job::signed::Signed;
use crate::machine::Cx;
use crate::port::ExitClass;
use crate::time::{Deadline, Instant};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// How many of a task's words about who said what are told.
const SAID_MAX: usize = 8;

/// An attempt of a task, with its soft side.
type Open<'a> = (u32, JobId, &'a Live);

/// Why a receipt is not what was pledged.
pub(super) fn pledge_fault(
    pledged: Option<&Digest>,
    salt: Option<&crate::job::quorum::Salt>,
    receipt: &Receipt,
) -> Option<&'static str> {
    match (pledged, salt) {
        (None, _) => Some("it shows a result that it had not pledged"),
        (Some(p), Some(salt)) if pledge_of(&receipt.result, salt, &receipt.executor) == *p => None,
        (Some(_), _) => Some("it shows another result than it had pledged"),
    }
}

/// Who must agree on a task.
fn quorum_of(run: &Run, task: usize) -> Option<Quorum> {
    run.plan.as_ref()?.tasks.get(task)?.rules.quorum
}

impl Requester {
    fn open_lives(&self, id: &RunId, task: usize) -> Vec<Open<'_>> {
        let task = self.runs.get(id).and_then(|r| r.tasks.get(task));
        let open = task.into_iter().flat_map(Task::open);
        open.filter_map(|a| Some((a.order.fence, a.job, self.lives.get(&a.job)?))).collect()
    }

    fn is_banned(&self, id: &RunId, peer: &PublicKey) -> bool {
        self.soft.get(id).is_some_and(|s| s.index.banned().contains(peer))
    }

    /// An executor has a result.
    pub(super) fn pledged(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey, job: JobId, hash: Digest) {
        let Some((id, task, fence)) = self.ours(&job, &peer) else {
            if !self.jobs.contains_key(&job) {
                self.send(cx, peer, &Message::UnknownRun { job });
            }
            return;
        };
        let Some(run) = self.runs.get(&id) else { return };
        let Some((of, attempt)) = run.tasks.get(task).and_then(|t| Some((t, t.attempt(fence)?))) else {
            return;
        };
        if !attempt.order.pledge {
            self.refused += 1;
            return;
        }
        let (known, committed) = (attempt.pledge, of.receipt().is_some());
        if run.stopping.is_some() {
            self.close(cx, id, task, fence, CloseClass::Cancelled, "cancelled");
            self.send(cx, peer, &Message::Release { job });
            return self.advance(cx, id);
        }
        if !of.watched().any(|a| a.order.fence == fence) {
            // What was decided about is shown, so that it can be answered; what never counted is not needed.
            let won = of.receipt().is_some_and(|r| r.job == job);
            let decided = won || attempt.closed.as_ref().is_some_and(|c| c.proof.is_some());
            let message = if decided { Message::Reveal { job } } else { Message::Release { job } };
            return self.send(cx, peer, &message);
        }
        if known.is_some_and(|known| known != hash) {
            let words = format!("{peer}: it has forgotten what it had pledged");
            self.close(cx, id, task, fence, CloseClass::Infra, &words);
            self.send(cx, peer, &Message::Release { job });
            return self.advance(cx, id);
        }
        if known.is_none() {
            self.record(cx, id, RunRecord::Pledged { task, fence, hash });
        }
        self.heard(cx, &job, Some(JobState::Sealed));
        let asked = self.lives.change(&job, |l| {
            l.pledged.get_or_insert(cx.now);
            // Waiting for others takes as long as it takes.
            l.phase = l.phase.filter(|_| l.reveal);
            l.reveal
        });
        if committed || asked == Some(true) {
            self.ask_to_show(cx, &job);
        }
        if let Some(soft) = self.soft.get_mut(&id) {
            soft.sched.rests(task);
            soft.sched.look_at(task);
        }
        if self.reveal_due(&id, task).is_some_and(|d| d.at <= cx.now) {
            self.reveal(cx, id, task);
        }
        self.advance(cx, id);
    }

    /// When those that have pledged are to show their results, if any of them has not been told so.
    pub(super) fn reveal_due(&self, id: &RunId, task: usize) -> Option<Deadline> {
        let quorum = self.runs.get(id).and_then(|run| quorum_of(run, task))?;
        let open = self.open_lives(id, task);
        let hidden = |l: &Live| l.pledged.is_some() && !l.reveal;
        if !open.iter().any(|(.., l)| hidden(l)) {
            return None;
        }
        let mut pledged: Vec<Instant> = open.iter().filter_map(|(.., l)| l.pledged).collect();
        pledged.sort();
        let begun = open.iter().any(|(.., l)| l.reveal || l.shown.is_some());
        let at = if begun || pledged.len() >= quorum.of as usize {
            *pledged.last()?
        } else {
            *pledged.get(quorum.agree as usize - 1)? + REVEAL_AFTER
        };
        Some(Deadline::new(at, "show what was pledged"))
    }

    /// All that have pledged are to show their results.
    pub(super) fn reveal(&mut self, cx: &mut Cx<'_, Output>, id: RunId, task: usize) {
        let open = self.open_lives(&id, task);
        let hidden = open.iter().filter(|(.., l)| l.pledged.is_some() && !l.reveal);
        for job in hidden.map(|(_, job, _)| *job).collect::<Vec<_>>() {
            self.ask_to_show(cx, &job);
        }
    }

    fn ask_to_show(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let peer = self.lives.change(job, |l| {
            if !l.reveal {
                l.reveal = true;
                l.phase = Some((Phase::Revealing, cx.now + REVEAL_MAX));
            }
            l.peer
        });
        if let Some(peer) = peer {
            self.send(cx, peer, &Message::Reveal { job: *job });
        }
    }

    /// A receipt of a task that several do: it waits for the others.
    pub(super) fn shown(
        &mut self,
        cx: &mut Cx<'_, Output>,
        (id, task): (RunId, usize),
        receipt: Signed<Receipt>,
        carried: Option<Vec<Bytes>>,
    ) {
        self.lives.change(&receipt.job.clone(), |l| {
            l.pledged.get_or_insert(cx.now);
            l.reveal = true;
            l.phase = None;
            l.shown = Some(Box::new(Shown { receipt, carried }));
        });
        self.decide(cx, id, task);
        self.reveal(cx, id, task);
        self.look_at(&id, task);
    }

    /// Results that were shown of a task, by what they say.
    fn votes(&self, id: &RunId, task: usize) -> BTreeMap<Answer, Vec<Open<'_>>> {
        let mut votes: BTreeMap<Answer, Vec<Open<'_>>> = BTreeMap::new();
        for open in self.open_lives(id, task) {
            let answer = open.2.shown.as_ref().and_then(|s| Answer::of(&s.receipt));
            if let Some(answer) = answer.filter(|_| !self.is_banned(id, &open.2.peer)) {
                votes.entry(answer).or_default().push(open);
            }
        }
        votes
    }

    /// Commits a result that enough executors have, or counts a failure of which enough tell.
    fn decide(&mut self, cx: &mut Cx<'_, Output>, id: RunId, task: usize) {
        let Some(quorum) = self.runs.get(&id).and_then(|run| quorum_of(run, task)) else { return };
        let votes = self.votes(&id, task);
        let Some(agreed) = votes.values().find(|v| v.len() >= quorum.agree as usize) else { return };
        // Whose outputs are to be fetched should better be there.
        let best = agreed.iter().min_by_key(|(fence, _, l)| (l.silence == Silence::Lost, *fence));
        let Some((fence, job, _)) = best.copied() else { return };
        let Some(Shown { receipt, carried }) = self.take_shown(&job) else { return };
        let others = self.others(cx, id, task, &receipt);
        let dissent = others.iter().any(|o| class_beside(&receipt, &o.receipt) == CloseClass::Dissent);
        let answers: Vec<_> = others.iter().map(|o| (o.receipt.executor, o.commit.clone())).collect();
        let (peer, class) = (receipt.executor, receipt.class);
        let verdict = if class == ExitClass::Success { Verdict::Won } else { Verdict::Failed };
        let commit = self.verdict(cx, &receipt, verdict);
        if class == ExitClass::Success {
            let won = commit.clone();
            self.record(cx, id, RunRecord::Committed { task, fence, receipt, commit: won, carried, others });
            self.lives.remove(&job);
            let watched: BTreeSet<JobId> = self
                .runs
                .get(&id)
                .and_then(|r| r.tasks.get(task))
                .into_iter()
                .flat_map(Task::watched)
                .map(|a| a.job)
                .collect();
            let jobs: Vec<JobId> = self.lives.of_run(&id).copied().collect();
            for other in jobs {
                let of_task = self.lives.get(&other).filter(|l| l.task == task).map(|l| l.peer);
                match of_task {
                    Some(_) if watched.contains(&other) => self.ask_to_show(cx, &other),
                    Some(peer) => self.let_go(cx, [(other, peer)]),
                    None => {}
                }
            }
        } else {
            let class = CloseClass::of_exit(class);
            let words = cut_words(&failure_words(&receipt, agreed_words(quorum)), END_WORDS_MAX);
            let proof = Some((receipt, commit.clone()));
            self.record(cx, id, RunRecord::Closed { task, fence, class, words, proof, carried, others });
            self.after_close(cx, id, task, &job, class);
        }
        self.send(cx, peer, &Message::ResultAck { commit: Box::new(commit) });
        for (peer, commit) in answers {
            self.send(cx, peer, &Message::ResultAck { commit: Box::new(commit) });
        }
        if dissent {
            cx.emit(Output::Disagreement { run: id, task });
        }
        if class == ExitClass::Success {
            self.audit(cx, id, task);
        }
    }

    fn take_shown(&mut self, job: &JobId) -> Option<Shown> {
        self.lives.change(job, |l| l.shown.take()).flatten().map(|s| *s)
    }

    /// All other results of a task that were shown, answered; their attempts are open no longer once that is journaled.
    fn others(
        &mut self,
        cx: &Cx<'_, Output>,
        id: RunId,
        task: usize,
        decided: &Signed<Receipt>,
    ) -> Vec<Other> {
        let open = self.open_lives(&id, task);
        let shown = open.iter().filter(|(.., l)| l.shown.is_some());
        let shown: Vec<(u32, JobId)> = shown.map(|(fence, job, _)| (*fence, *job)).collect();
        let mut others = Vec::new();
        for (fence, job) in shown.into_iter().filter(|(_, job)| *job != decided.job) {
            if let Some(Shown { receipt, .. }) = self.take_shown(&job) {
                let commit = self.verdict(cx, &receipt, Verdict::Superseded);
                others.push(Other { fence, receipt, commit });
                self.lives.remove(&job);
            }
        }
        others
    }

    /// A receipt that comes after the commit: it is compared, and that is all.
    pub(super) fn compare(
        &mut self,
        cx: &mut Cx<'_, Output>,
        (id, task, fence): (RunId, usize, u32),
        receipt: Signed<Receipt>,
    ) {
        let won = self.runs.get(&id).and_then(|r| r.tasks.get(task)?.receipt());
        let Some(class) = won.map(|won| class_beside(won, &receipt)) else { return };
        let (job, peer) = (receipt.job, receipt.executor);
        let words = cut_words(&words_beside(class, &receipt), END_WORDS_MAX);
        let commit = self.verdict(cx, &receipt, Verdict::Superseded);
        let proof = Some((receipt, commit.clone()));
        let record =
            RunRecord::Closed { task, fence, class, words, proof, carried: None, others: Vec::new() };
        self.record(cx, id, record);
        self.send(cx, peer, &Message::ResultAck { commit: Box::new(commit) });
        if class == CloseClass::Dissent {
            cx.emit(Output::Disagreement { run: id, task });
        }
        self.after_close(cx, id, task, &job, class);
    }

    /// An attempt of a committed task is over: its inputs may go, and somebody else may do what it did not.
    pub(super) fn compared(&mut self, cx: &mut Cx<'_, Output>, id: RunId, task: usize, class: CloseClass) {
        if let (Some(plan), Some(soft)) =
            (self.runs.get(&id).and_then(|r| r.plan.as_ref()), self.soft.get_mut(&id))
        {
            soft.spent.extend(producers(plan, task).chain([task]));
        }
        match class {
            CloseClass::Infra | CloseClass::Busy | CloseClass::Refused | CloseClass::Byzantine => {
                self.audit(cx, id, task);
            }
            CloseClass::User
            | CloseClass::Resource
            | CloseClass::Permanent
            | CloseClass::Cancelled
            | CloseClass::Agreed
            | CloseClass::Dissent => {}
        }
    }

    /// With some chance, orders a committed task once more from somebody who has not done it.
    pub(super) fn audit(&mut self, cx: &mut Cx<'_, Output>, id: RunId, index: usize) {
        let Some(run) = self.runs.get(&id) else { return };
        let goes_on = match run.state() {
            RunState::Running | RunState::Finalizing => run.ended.is_none() && run.failed_task().is_none(),
            RunState::Validating
            | RunState::Paused
            | RunState::Cancelling
            | RunState::Succeeded
            | RunState::Failed
            | RunState::Cancelled => false,
        };
        let (Some(task), Some(planned)) =
            (run.tasks.get(index), run.plan.as_ref().and_then(|p| p.tasks.get(index)))
        else {
            return;
        };
        if !goes_on || task.receipt().is_none() || !self.is_audited(run, planned) || !wants_audit(task) {
            return;
        }
        let done: BTreeSet<PublicKey> = task.attempts.iter().map(|a| a.peer()).collect();
        let fresh = planned.candidates.iter().enumerate().filter(|(_, p)| !done.contains(*p));
        let able = fresh.filter(|(_, p)| !self.is_banned(&id, p) && self.has_room(p, cx.now));
        let chosen = able.min_by_key(|(position, p)| (self.lives.load(p), *position)).map(|(_, p)| *p);
        if let Some(peer) = chosen.filter(|_| self.first(id, planned).is_none()) {
            self.dispatch(cx, id, index, peer);
        }
    }

    /// The coin: the same whenever it is thrown, and nobody else's to know.
    fn is_audited(&self, run: &Run, planned: &PlannedTask) -> bool {
        let Some(ppm) = planned.rules.audit_ppm else { return false };
        let seed = self.keypair.seed();
        let parts: [&[u8]; 4] = [&seed[..], run.id.as_bytes(), run.spec.as_bytes(), planned.id.as_bytes()];
        let coin = Digest::in_domain("rn/audit/v1", &parts);
        let mut first = [0; 8];
        first.copy_from_slice(&coin.0[..8]);
        u64::from_be_bytes(first) % 1_000_000 < u64::from(ppm)
    }

    /// Whether attempts of committed tasks are still to be compared.
    pub(super) fn is_comparing(&self, id: &RunId) -> bool {
        let Some(run) = self.runs.get(id) else { return false };
        let committed = |task: usize| run.tasks.get(task).is_some_and(|t| t.receipt().is_some());
        self.lives.of_run(id).filter_map(|job| self.lives.get(job)).any(|l| committed(l.task))
    }

    /// Why enough executors can never say the same any more; `able`: those who have not shown a result and still could.
    pub(super) fn cannot_agree(&self, id: &RunId, task: usize, able: usize) -> Option<String> {
        let quorum = self.runs.get(id).and_then(|run| quorum_of(run, task))?;
        let most = self.votes(id, task).values().map(Vec::len).max().unwrap_or(0);
        if most + able >= quorum.agree as usize {
            return None;
        }
        let said = self.who_said_what(id, task);
        Some(format!("no {} executors agree{said}", quorum.agree))
    }

    /// Words about what executors have said of a task so far.
    pub(super) fn who_said_what(&self, id: &RunId, task: usize) -> String {
        let Some(of) = self.runs.get(id).and_then(|r| r.tasks.get(task)) else { return String::new() };
        let open = self.open_lives(id, task);
        let shown = open.iter().filter_map(|(.., l)| Some(&*l.shown.as_ref()?.receipt));
        let closed = of.attempts.iter().filter_map(|a| a.closed.as_ref()?.proof.as_ref()).map(|(r, _)| &**r);
        let all = shown.chain(closed).filter(|r| Answer::of(r).is_some());
        let words: Vec<String> =
            all.take(SAID_MAX).map(|r| format!("{} says {}", r.executor, saying(r))).collect();
        if words.is_empty() { String::new() } else { format!(": {}", words.join(", ")) }
    }

    /// A task fails: what was shown is kept with it.
    pub(super) fn close_shown(&mut self, cx: &mut Cx<'_, Output>, id: RunId, task: usize) {
        let conflict = self.votes(&id, task).keys().filter(|a| **a != Answer::Limit).count() > 1;
        let open = self.open_lives(&id, task);
        let shown = open.iter().filter(|(.., l)| l.shown.is_some());
        let shown: Vec<(u32, JobId)> = shown.map(|(fence, job, _)| (*fence, *job)).collect();
        for (fence, job) in shown {
            let Some(Shown { receipt, .. }) = self.take_shown(&job) else { continue };
            let class = if conflict { CloseClass::Dissent } else { CloseClass::Agreed };
            let words = cut_words(&format!("{} says {}", receipt.executor, saying(&receipt)), END_WORDS_MAX);
            let (peer, commit) = (receipt.executor, self.verdict(cx, &receipt, Verdict::Superseded));
            let proof = Some((receipt, commit.clone()));
            let (carried, others) = (None, Vec::new());
            self.record(cx, id, RunRecord::Closed { task, fence, class, words, proof, carried, others });
            self.lives.remove(&job);
            self.send(cx, peer, &Message::ResultAck { commit: Box::new(commit) });
        }
        if conflict {
            cx.emit(Output::Disagreement { run: id, task });
        }
    }
}

/// Whether a committed task has neither been audited nor tried too often.
fn wants_audit(task: &Task) -> bool {
    let audits: Vec<_> = task.attempts.iter().filter(|a| a.audit).collect();
    let over = audits.iter().all(|a| {
        let class = a.closed.as_ref().map(|c| c.class);
        class.is_some_and(|c| c != CloseClass::Agreed && c != CloseClass::Dissent)
    });
    over && audits.len() < AUDITS_MAX
}

fn agreed_words(quorum: Quorum) -> String {
    format!("{} executors say so", quorum.agree)
}

fn failure_words(receipt: &Receipt, agreed: String) -> String {
    if receipt.detail.is_empty() {
        format!("exit code {} ({agreed})", receipt.code)
    } else {
        format!("{} ({agreed})", receipt.detail)
    }
}
