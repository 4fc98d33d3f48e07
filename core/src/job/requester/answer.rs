//! What executors say, and what is done about it.
//!
//! Everything an executor says may be late, doubled, or a lie. A message moves a task only through its own attempt: the job
//! id must belong to an attempt at that very peer, and a result counts only with a receipt that answers its order.

use super::quorum::pledge_fault;
use super::{Output, Peer, RESEND_MIN, Requester};
use crate::id::{JobId, PublicKey, RunId};
use crate::job::carried::is_what_was_said;
use crate::job::message::{JobState, Message, Refusal, cut_words};
use crate::job::quorum::{Answer, Salt};
use crate::job::receipt::{Commit, Receipt, Verdict};
use crate::job::run::{Attempt, CloseClass, END_WORDS_MAX, RunRecord, TaskEnd};
use crate::job::signed::Signed;
use crate::machine::Cx;
use crate::port::ExitClass;
use crate::time::Duration;
use bytes::Bytes;
use std::collections::BTreeSet;

/// What a light result is refused with whose bytes are others than its receipt names.
const NOT_WHAT_IT_SIGNED: &str = "what came with the receipt is not what it names";
/// A busy executor is not asked again for longer than this, whatever it says.
const BUSY_MAX: Duration = Duration::from_secs(60);

impl Requester {
    pub(super) fn answer(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey, message: Message) {
        match message {
            Message::Inventory { incarnation, jobs } => self.inventory(cx, peer, incarnation, &jobs),
            Message::Accepted { job, incarnation } => {
                if let Some((id, task, _)) = self.ours(&job, &peer) {
                    self.accepted(cx, &job, id, task, incarnation);
                    self.heard(cx, &job, Some(JobState::Admitted));
                }
            }
            Message::Rejected { job, refusal, words, retry_after } => {
                self.rejected(cx, peer, &job, refusal, &words, retry_after);
            }
            Message::SealedOffer { receipt, carried, salt } => {
                self.sealed(cx, peer, *receipt, carried, salt.as_ref());
            }
            Message::Pledge { job, hash } => self.pledged(cx, peer, job, hash),
            Message::CancelAck { job } => {
                if let Some((id, task, fence)) = self.ours(&job, &peer)
                    && self.runs.get(&id).is_some_and(|r| r.stopping.is_some())
                {
                    self.close(cx, id, task, fence, CloseClass::Cancelled, "cancelled");
                    self.advance(cx, id);
                }
            }
            Message::Dispatch { .. }
            | Message::LeaseAck
            | Message::Reveal { .. }
            | Message::ResultAck { .. }
            | Message::Cancel { .. }
            | Message::Release { .. }
            | Message::UnknownRun { .. } => self.refused += 1,
        }
    }

    /// The attempt of an active run that `job` names, if it is at `peer`.
    pub(super) fn ours(&mut self, job: &JobId, peer: &PublicKey) -> Option<(RunId, usize, u32)> {
        let found = *self.jobs.get(job)?;
        if self.attempt(found).is_some_and(|a| a.peer() == *peer) {
            Some(found)
        } else {
            self.refused += 1;
            None
        }
    }

    fn attempt(&self, (id, task, fence): (RunId, usize, u32)) -> Option<&Attempt> {
        self.runs.get(&id)?.tasks.get(task)?.attempt(fence)
    }

    fn accepted(&mut self, cx: &mut Cx<'_, Output>, job: &JobId, id: RunId, task: usize, incarnation: u64) {
        let Some(l) = self.lives.get(job) else { return };
        let fence = l.fence;
        let Some(attempt) = self.attempt((id, task, fence)) else { return };
        let (known, light) = (attempt.incarnation.is_some(), attempt.order.light);
        if !known {
            // Of a light job the executor's journal knows nothing: it does not matter whether that is lost.
            if !light {
                self.record(cx, id, RunRecord::Accepted { task, fence, incarnation });
            }
            if let Some(soft) = self.soft.get_mut(&id) {
                soft.sched.rests(task);
            }
        }
    }

    /// The executor's whole list: the moment to settle all differences.
    fn inventory(
        &mut self,
        cx: &mut Cx<'_, Output>,
        peer: PublicKey,
        incarnation: u64,
        listed: &[(JobId, JobState)],
    ) {
        self.send(cx, peer, &Message::LeaseAck);
        let mut touched = BTreeSet::new();
        let here = self.lives_at(&peer);
        let names: BTreeSet<&JobId> = listed.iter().map(|(j, _)| j).collect();
        for job in &here {
            let Some(&(id, task, fence)) = self.jobs.get(job) else { continue };
            match self.attempt((id, task, fence)).and_then(|a| a.incarnation) {
                Some(known) if known != incarnation => {
                    let words = "the executor has lost its memory of it";
                    self.close(cx, id, task, fence, CloseClass::Infra, words);
                    touched.insert(id);
                }
                // Not there although it was: say it again. If it is dead there, it will be rejected.
                Some(_) | None if !names.contains(job) => {
                    self.lives.change(job, |l| {
                        l.state = None;
                        l.resend_at.get_or_insert(cx.now + RESEND_MIN);
                    });
                }
                Some(_) | None => {}
            }
        }
        for (job, state) in listed {
            let Some(found) = self.ours(job, &peer) else {
                self.send(cx, peer, &Message::UnknownRun { job: *job });
                continue;
            };
            let (id, task, fence) = found;
            if let Some(live) = self.lives.get(job) {
                let was_lost = live.silence == super::live::Silence::Lost;
                self.accepted(cx, job, id, task, incarnation);
                self.heard(cx, job, Some(*state));
                if was_lost {
                    touched.insert(id);
                }
            } else {
                self.settle_listed(cx, peer, job, found, *state, fence);
            }
        }
        for id in touched {
            self.advance(cx, id);
        }
    }

    /// A listed job whose attempt is decided: remind the executor of the decision.
    fn settle_listed(
        &mut self,
        cx: &mut Cx<'_, Output>,
        peer: PublicKey,
        job: &JobId,
        found: (RunId, usize, u32),
        state: JobState,
        fence: u32,
    ) {
        let Some(task) = self.runs.get(&found.0).and_then(|r| r.tasks.get(found.1)) else { return };
        let proof = match &task.end {
            Some(TaskEnd::Committed { fence: won, commit, .. }) if *won == fence => Some((**commit).clone()),
            Some(TaskEnd::Committed { .. } | TaskEnd::Failed { .. } | TaskEnd::Skipped { .. }) | None => {
                let closed = task.attempt(fence).and_then(|a| a.closed.as_ref());
                closed.and_then(|c| c.proof.as_ref()).map(|(_, commit)| commit.clone())
            }
        };
        match proof {
            Some(_) if state == JobState::Retained => {
                if self.spent(found) {
                    self.send(cx, peer, &Message::Release { job: *job });
                }
            }
            Some(commit) => self.send(cx, peer, &Message::ResultAck { commit: Box::new(commit) }),
            None => self.send(cx, peer, &Message::Release { job: *job }),
        }
    }

    /// Whether a decided job is of no more use.
    fn spent(&self, (id, task, _): (RunId, usize, u32)) -> bool {
        let (run, soft) = (self.runs.get(&id), self.soft.get(&id));
        run.zip(soft).is_some_and(|(run, soft)| super::follow::is_spent(run, &soft.index, &self.wants, task))
    }

    fn rejected(
        &mut self,
        cx: &mut Cx<'_, Output>,
        peer: PublicKey,
        job: &JobId,
        refusal: Refusal,
        words: &str,
        retry_after: Duration,
    ) {
        let Some((id, task, fence)) = self.ours(job, &peer) else { return };
        let class = match refusal {
            Refusal::Busy => CloseClass::Busy,
            Refusal::NotAllowed | Refusal::UnknownService | Refusal::BadOrder => CloseClass::Refused,
            Refusal::Dead => CloseClass::Infra,
        };
        if refusal == Refusal::Busy {
            let p: &mut Peer = self.peers.get_or_insert_with(peer, Peer::default);
            p.busy_until = Some(cx.now + retry_after.clamp(RESEND_MIN, BUSY_MAX));
        }
        self.close(cx, id, task, fence, class, &format!("{peer}: {words}"));
        self.advance(cx, id);
    }

    fn sealed(
        &mut self,
        cx: &mut Cx<'_, Output>,
        peer: PublicKey,
        receipt: Signed<Receipt>,
        carried: Option<Vec<Bytes>>,
        salt: Option<&Salt>,
    ) {
        let job = receipt.job;
        let Some(found) = self.ours(&job, &peer) else {
            if !self.jobs.contains_key(&job) {
                self.send(cx, peer, &Message::UnknownRun { job });
            }
            return;
        };
        let (id, task, fence) = found;
        let Some(attempt) = self.attempt(found) else { return };
        let (order, pledge) = (attempt.order.clone(), attempt.pledge);
        let of = self.runs.get(&id).and_then(|r| r.tasks.get(task));
        let watched = of.is_some_and(|t| t.watched().any(|a| a.order.fence == fence));
        let said = || receipt.outputs.iter().map(|o| (o.digest, o.len));
        let other = match &carried {
            Some(bytes) => !order.light || !is_what_was_said(bytes, said()),
            None => false,
        };
        let fault = receipt.answers(&order).map_err(|fault| fault.to_string());
        let fault = fault.and(if other { Err(NOT_WHAT_IT_SIGNED.to_owned()) } else { Ok(()) });
        let unlike = pledge_fault(pledge.as_ref(), salt, &receipt).filter(|_| order.pledge && watched);
        let fault = fault.and(unlike.map_or(Ok(()), |words| Err(words.to_owned())));
        if let Err(fault) = fault {
            self.refused += 1;
            self.close(cx, id, task, fence, CloseClass::Byzantine, &format!("{peer}: {fault}"));
            self.say(cx, peer, &receipt, Verdict::Rejected);
            return self.advance(cx, id);
        }
        self.heard(cx, &job, Some(JobState::Sealed));
        if let Some(commit) = self.decided(found, &receipt) {
            return self.send(cx, peer, &Message::ResultAck { commit: Box::new(commit) });
        }
        let Some(run) = self.runs.get(&id) else { return };
        let committed = run.tasks.get(task).is_some_and(|t| t.receipt().is_some());
        if !watched || run.stopping.is_some() {
            self.close(cx, id, task, fence, CloseClass::Cancelled, "cancelled");
            self.say(cx, peer, &receipt, Verdict::Superseded);
            return self.advance(cx, id);
        }
        if committed {
            self.compare(cx, found, receipt);
        } else if order.pledge && Answer::of(&receipt).is_some() {
            self.shown(cx, (id, task), receipt, carried);
        } else if receipt.class == ExitClass::Success {
            self.commit(cx, found, receipt, carried);
        } else {
            self.failed(cx, found, receipt, carried);
        }
        self.advance(cx, id);
    }

    /// The journaled answer to this very receipt, if there is one.
    fn decided(&self, found: (RunId, usize, u32), receipt: &Signed<Receipt>) -> Option<Signed<Commit>> {
        let task = self.runs.get(&found.0)?.tasks.get(found.1)?;
        let won = match &task.end {
            Some(TaskEnd::Committed { commit, .. }) => Some(&**commit),
            Some(TaskEnd::Failed { .. } | TaskEnd::Skipped { .. }) | None => None,
        };
        let closed = task.attempt(found.2).and_then(|a| a.closed.as_ref()?.proof.as_ref()).map(|(_, c)| c);
        won.into_iter().chain(closed).find(|c| c.receipt == receipt.digest()).cloned()
    }

    pub(super) fn verdict(
        &self,
        cx: &Cx<'_, Output>,
        receipt: &Signed<Receipt>,
        verdict: Verdict,
    ) -> Signed<Commit> {
        let commit = Commit {
            requester: self.me,
            job: receipt.job,
            order: receipt.order,
            receipt: receipt.digest(),
            verdict,
            at: cx.wall,
        };
        Signed::sign(commit, &self.keypair)
    }

    fn say(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey, receipt: &Signed<Receipt>, verdict: Verdict) {
        let commit = Box::new(self.verdict(cx, receipt, verdict));
        self.send(cx, peer, &Message::ResultAck { commit });
    }

    /// The one commit point.
    fn commit(
        &mut self,
        cx: &mut Cx<'_, Output>,
        found: (RunId, usize, u32),
        receipt: Signed<Receipt>,
        carried: Option<Vec<Bytes>>,
    ) {
        let (id, task, fence) = found;
        let losers = self.open_at(id, task);
        let (job, peer) = (receipt.job, receipt.executor);
        let (commit, others) = (self.verdict(cx, &receipt, Verdict::Won), Vec::new());
        self.record(
            cx,
            id,
            RunRecord::Committed { task, fence, receipt, commit: commit.clone(), carried, others },
        );
        self.lives.remove(&job);
        self.send(cx, peer, &Message::ResultAck { commit: Box::new(commit) });
        self.let_go(cx, losers.into_iter().filter(|(loser, _)| *loser != job));
        self.audit(cx, id, task);
    }

    /// Open attempts of a task.
    pub(super) fn open_at(&self, id: RunId, task: usize) -> Vec<(JobId, PublicKey)> {
        let task = self.runs.get(&id).and_then(|r| r.tasks.get(task));
        task.into_iter().flat_map(|t| t.open().map(|a| (a.job, a.peer()))).collect()
    }

    /// Attempts of a task that is over are not needed any more.
    pub(super) fn let_go(
        &mut self,
        cx: &mut Cx<'_, Output>,
        losers: impl IntoIterator<Item = (JobId, PublicKey)>,
    ) {
        for (job, peer) in losers {
            self.lives.remove(&job);
            self.send(cx, peer, &Message::Release { job });
        }
    }

    fn failed(
        &mut self,
        cx: &mut Cx<'_, Output>,
        found: (RunId, usize, u32),
        receipt: Signed<Receipt>,
        carried: Option<Vec<Bytes>>,
    ) {
        let (id, task, fence) = found;
        let (job, peer) = (receipt.job, receipt.executor);
        let class = CloseClass::of_exit(receipt.class);
        let words = if receipt.detail.is_empty() {
            format!("exit code {}", receipt.code)
        } else {
            receipt.detail.clone()
        };
        let commit = self.verdict(cx, &receipt, Verdict::Failed);
        let (proof, others) = (Some((receipt, commit.clone())), Vec::new());
        let words = cut_words(&words, END_WORDS_MAX);
        self.record(cx, id, RunRecord::Closed { task, fence, class, words, proof, carried, others });
        self.after_close(cx, id, task, &job, class);
        self.send(cx, peer, &Message::ResultAck { commit: Box::new(commit) });
    }
}
