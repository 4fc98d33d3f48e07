//! What is due in a run: planning, placing, fetching results, ending. A pure look at state; harmless when nothing is due.

use super::{
    ATTEMPTS_PER_PEER_MAX, BACKOFF_MAX, BACKOFF_MIN, CANCEL_WAIT_MAX, INFRA_RETRIES, LOG_BYTES_MAX,
    LOGS_WAIT_MAX, Live, NEED_AGAIN, Output, PREFERENCE_GRACE, QUEUE_TIMEOUT, RESEND_MAX, RESEND_MIN,
    Requester, Silence, SoftTask, VALIDATING_MAX, Want, WantState, doubled,
};
use crate::command::RunState;
use crate::id::{Digest, JobId, PublicKey, RunId};
use crate::job::message::{JobState, Message, Source, cut_words};
use crate::job::order::Order;
use crate::job::plan::{InputFrom, PlannedTask};
use crate::job::run::{CloseClass, END_WORDS_MAX, Run, RunRecord, Task};
use crate::job::signed::Signed;
use crate::job::ticket::ticket_for;
use crate::job::validate::check;
use crate::job::workflow::ObjectRef;
use crate::limits::{LOST_AFTER, SUSPECT_AFTER};
use crate::machine::Cx;
use crate::port::{EngineInput, Port};
use crate::time::{Deadline, Instant};
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

/// Why a task cannot succeed any more, by what its attempts have shown.
fn hopeless(task: &Task, planned: &PlannedTask) -> Option<String> {
    let last = || {
        let closed = task.attempts.iter().rev().find_map(|a| a.closed.as_ref());
        closed.map_or_else(String::new, |c| c.words.clone())
    };
    let own = task.closed_for(&[CloseClass::User, CloseClass::Resource]);
    let infra = task.closed_for(&[CloseClass::Infra]);
    if task.closed_for(&[CloseClass::Permanent]) > 0 {
        Some(last())
    } else if own > planned.retries as usize {
        Some(format!("{} (attempt {own} of {})", last(), planned.retries + 1))
    } else if infra > INFRA_RETRIES {
        Some(format!(
            "given up after {infra} attempts that machines or the network spoiled; the last: {}",
            last()
        ))
    } else if planned.candidates.iter().all(|p| excluded(task, p)) {
        Some(format!("no executor is left; the last said: {}", last()))
    } else {
        None
    }
}

/// Whether a peer gets no further attempt of this task.
fn excluded(task: &Task, peer: &PublicKey) -> bool {
    task.attempts.iter().filter(|a| a.peer() == *peer).filter_map(|a| a.closed.as_ref()).any(|c| {
        match c.class {
            CloseClass::Refused | CloseClass::Byzantine => true,
            CloseClass::User
            | CloseClass::Resource
            | CloseClass::Permanent
            | CloseClass::Infra
            | CloseClass::Busy
            | CloseClass::Cancelled => false,
        }
    })
}

/// Peers that lied anywhere in this run: they get nothing more of it.
fn banned(run: &Run) -> BTreeSet<PublicKey> {
    let attempts = run.tasks.iter().flat_map(|t| &t.attempts);
    let lied = attempts.filter(|a| a.closed.as_ref().is_some_and(|c| c.class == CloseClass::Byzantine));
    lied.map(|a| a.peer()).collect()
}

/// Who could run a task.
struct Choice {
    /// Candidates that are neither excluded nor banned.
    usable: Vec<PublicKey>,
    /// The best that is connected, has room and has no open attempt.
    best: Option<PublicKey>,
    /// The best, connected or not.
    wished: Option<PublicKey>,
    /// Whether `best` has not yet failed at this task.
    fresh: bool,
    /// Whether somebody who is not lost works on it.
    working: bool,
    /// Whether lost and spoiled attempts have used up the budget.
    exhausted: bool,
}

impl Requester {
    /// Does whatever is due in a run.
    pub(super) fn advance(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        match run.state() {
            RunState::Validating => self.validate(cx, id),
            RunState::Cancelling => self.stop(cx, id),
            RunState::Running => {
                self.place_all(cx, id);
                if let Some(soft) = self.soft.get_mut(&id) {
                    soft.placed = cx.now;
                }
            }
            RunState::Finalizing => {}
            RunState::Paused | RunState::Succeeded | RunState::Failed | RunState::Cancelled => return,
        }
        let Some(run) = self.runs.get(&id) else { return };
        match run.state() {
            RunState::Running => self.want_results(cx, id),
            RunState::Finalizing => self.finalize(cx, id),
            RunState::Validating
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
                soft.tasks = vec![SoftTask::default(); plan.tasks.len()];
                self.record(cx, id, RunRecord::Planned { plan });
                let digests: BTreeSet<Digest> =
                    self.runs.get(&id).into_iter().flat_map(sources).map(|o| o.digest).collect();
                for digest in digests {
                    cx.emit(Output::Grant { digest, requester: self.me });
                }
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
                self.end(cx, id, RunState::Failed, &words.join("; "));
            }
        }
    }

    /// Cancel has been asked for: every open attempt is told, repeatedly, until it confirms or is lost.
    fn stop(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        let jobs: Vec<JobId> = self.live.iter().filter(|(_, l)| l.run == id).map(|(j, _)| *j).collect();
        let mut waiting = false;
        for job in jobs {
            let Some(l) = self.live.get_mut(&job) else { continue };
            let since = *l.cancel_since.get_or_insert_with(|| {
                l.resend_at = Some(cx.now);
                l.resend_wait = RESEND_MIN;
                cx.now
            });
            let (peer, task, fence) = (l.peer, l.task, l.fence);
            if l.silence == Silence::Lost || cx.now >= since + CANCEL_WAIT_MAX {
                self.close(
                    cx,
                    id,
                    task,
                    fence,
                    CloseClass::Cancelled,
                    "cancelled; the executor did not answer",
                );
                continue;
            }
            waiting = true;
            if l.resend_at.is_some_and(|at| at <= cx.now) && self.is_up(&peer) {
                self.resend(cx, &job);
            }
        }
        if !waiting {
            self.end(cx, id, RunState::Cancelled, "cancelled");
        }
    }

    fn place_all(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        let count = run.tasks.len();
        let mut load: BTreeMap<PublicKey, usize> = BTreeMap::new();
        for l in self.live.values().filter(|l| l.silence != Silence::Lost) {
            *load.entry(l.peer).or_default() += 1;
        }
        let mut lied = banned(run);
        for task in 0..count {
            let before = self.runs.get(&id).and_then(Run::failed_task).is_some();
            if before {
                return;
            }
            self.place(cx, id, task, &mut load, &mut lied);
        }
    }

    fn place(
        &mut self,
        cx: &mut Cx<'_, Output>,
        id: RunId,
        index: usize,
        load: &mut BTreeMap<PublicKey, usize>,
        lied: &mut BTreeSet<PublicKey>,
    ) {
        let Some(run) = self.runs.get(&id) else { return };
        let (Some(task), Some(planned)) =
            (run.tasks.get(index), run.plan.as_ref().and_then(|p| p.tasks.get(index)))
        else {
            return;
        };
        let ready = planned.inputs.iter().all(|i| match i.from {
            InputFrom::Object(_) => true,
            InputFrom::Task { .. } => run.output_of(&i.from).is_some(),
        });
        if task.end.is_some() || !ready {
            // A lost attempt may have won after all: nobody is waited for any more.
            if let Some(soft) = self.soft.get_mut(&id).and_then(|s| s.tasks.get_mut(index)) {
                soft.idle_since = None;
            }
            return;
        }
        if let Some(words) = hopeless(task, planned) {
            return self.fail_task(cx, id, index, &words);
        }
        let choice = self.choose(cx.now, task, planned, load, lied);
        let spread = planned.spread;
        if choice.usable.is_empty() {
            return self.fail_task(cx, id, index, "every executor of this task has lied in this run");
        }
        let Some(soft) = self.soft.get_mut(&id).and_then(|s| s.tasks.get_mut(index)) else { return };
        if choice.working {
            soft.idle_since = None;
            return;
        }
        let since = *soft.idle_since.get_or_insert(cx.now);
        let backing_off = soft.backoff_until.is_some_and(|at| at > cx.now) && !choice.fresh;
        if cx.now >= since + QUEUE_TIMEOUT {
            let words = self.waiting_for(&choice.usable);
            return self.fail_task(cx, id, index, &format!("not placed within 10 minutes: {words}"));
        }
        if backing_off || choice.exhausted {
            return;
        }
        let preferred_is_away = choice.wished.is_some_and(|w| !self.is_up(&w));
        let graceful = !spread && preferred_is_away && cx.now < since + PREFERENCE_GRACE;
        match choice.best {
            Some(peer) if !graceful => {
                *load.entry(peer).or_default() += 1;
                self.dispatch(cx, id, index, peer);
            }
            Some(_) | None => {
                for peer in choice.usable {
                    self.need(cx, peer);
                }
            }
        }
    }

    /// Who could run a task now: fewest failures first, then the user's preference or, among equals, the least loaded.
    fn choose(
        &self,
        now: Instant,
        task: &Task,
        planned: &PlannedTask,
        load: &BTreeMap<PublicKey, usize>,
        lied: &BTreeSet<PublicKey>,
    ) -> Choice {
        let usable: Vec<PublicKey> =
            planned.candidates.iter().filter(|&p| !excluded(task, p) && !lied.contains(p)).copied().collect();
        let mut working = false;
        let mut occupied = BTreeSet::new();
        for a in task.open() {
            occupied.insert(a.peer());
            working |= self.live.get(&a.job).is_some_and(|l| l.silence != Silence::Lost);
        }
        let failures =
            |p: &PublicKey| task.attempts.iter().filter(|a| a.peer() == *p && a.closed.is_some()).count();
        let ranked = |p: &PublicKey| {
            let position = usable.iter().position(|u| u == p).unwrap_or(0);
            let spread = if planned.spread { load.get(p).copied().unwrap_or(0) } else { 0 };
            (failures(p), spread, position)
        };
        let free: Vec<PublicKey> = usable.iter().filter(|&p| !occupied.contains(p)).copied().collect();
        let here = |p: &&PublicKey| {
            let room = load.get(*p).copied().unwrap_or(0) < ATTEMPTS_PER_PEER_MAX;
            let busy = self.peers.get(*p).and_then(|x| x.busy_until).is_some_and(|at| at > now);
            self.is_up(p) && room && !busy
        };
        let best = free.iter().filter(here).min_by_key(|p| ranked(p)).copied();
        let wished = free.iter().min_by_key(|p| ranked(p)).copied();
        let fresh = best.is_some_and(|p| failures(&p) == 0);
        let exhausted = occupied.len() + task.closed_for(&[CloseClass::Infra]) > INFRA_RETRIES;
        Choice { usable, best, wished, fresh, working, exhausted }
    }

    /// What a task without executor waits for: words for people.
    pub(super) fn waiting_for(&self, peers: &[PublicKey]) -> String {
        let one = |p: &PublicKey| {
            let peer = self.peers.get(p);
            match peer.and_then(|x| x.trouble.as_deref()) {
                _ if peer.is_some_and(|x| x.up) => format!("{p} is busy"),
                Some(why) => format!("{p} is not connected ({why})"),
                None => format!("{p} is not connected"),
            }
        };
        peers.iter().take(3).map(one).collect::<Vec<_>>().join(", ")
    }

    fn dispatch(&mut self, cx: &mut Cx<'_, Output>, id: RunId, index: usize, peer: PublicKey) {
        let Some(run) = self.runs.get(&id) else { return };
        let (Some(task), Some(planned)) =
            (run.tasks.get(index), run.plan.as_ref().and_then(|p| p.tasks.get(index)))
        else {
            return;
        };
        let inputs = planned.inputs.iter().filter_map(|i| {
            let (digest, len) = match &i.from {
                InputFrom::Object(o) => (o.digest, o.len),
                InputFrom::Task { .. } => run.output_of(&i.from).map(|(_, o)| (o.digest, o.len))?,
            };
            Some(EngineInput { port: i.to.clone(), digest, len })
        });
        let fence = task.attempts.last().map_or(0, |a| a.order.fence) + 1;
        let order = Order {
            requester: self.me,
            executor: peer,
            run: id,
            spec: run.spec,
            task: planned.id.clone(),
            fence,
            service: planned.service,
            program: planned.program.clone(),
            paths: planned.paths.clone(),
            args: planned.args.clone(),
            env: planned.env.clone(),
            inputs: inputs.collect(),
            outputs: planned.outputs.clone(),
            limits: planned.limits,
            nonce: cx.rng.bytes(),
            issued: cx.wall,
        };
        let job = order.job();
        let order = Signed::sign(order, &self.keypair);
        self.record(cx, id, RunRecord::Attempt { task: index, order });
        self.jobs.insert(job, (id, index, fence));
        let live = Live {
            run: id,
            task: index,
            fence,
            peer,
            heard: cx.now,
            silence: Silence::None,
            state: None,
            resend_at: Some(cx.now),
            resend_wait: RESEND_MIN,
            cancel_since: None,
        };
        self.live.insert(job, live);
        self.resend(cx, &job);
    }

    /// Sends the order of an attempt (or its cancel) and arms the next repetition.
    pub(super) fn resend(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(l) = self.live.get_mut(job) else { return };
        l.resend_at = Some(cx.now + l.resend_wait);
        l.resend_wait = (l.resend_wait * 2).min(RESEND_MAX);
        let (id, index, fence, peer) = (l.run, l.task, l.fence, l.peer);
        if l.cancel_since.is_some() {
            return self.send(cx, peer, &Message::Cancel { job: *job });
        }
        let Some(run) = self.runs.get(&id) else { return };
        let Some(attempt) = run.tasks.get(index).and_then(|t| t.attempt(fence)) else { return };
        let planned = run.plan.as_ref().and_then(|p| p.tasks.get(index));
        let source = |from: &InputFrom| {
            let (holder, digest) = match from {
                InputFrom::Object(o) => (self.me, o.digest),
                InputFrom::Task { .. } => match run.output_of(from) {
                    Some((holder, o)) => (holder, o.digest),
                    None => return Vec::new(),
                },
            };
            vec![Source { holder, ticket: ticket_for(&self.keypair, &digest, &peer, cx.wall) }]
        };
        let sources = planned.into_iter().flat_map(|p| p.inputs.iter().map(|i| source(&i.from))).collect();
        let message = Message::Dispatch { order: Box::new(attempt.order.clone()), sources };
        self.send(cx, peer, &message);
    }

    /// An attempt is over without having won.
    pub(super) fn close(
        &mut self,
        cx: &mut Cx<'_, Output>,
        id: RunId,
        task: usize,
        fence: u32,
        class: CloseClass,
        words: &str,
    ) {
        let open = |r: &Run| r.tasks.get(task)?.open().find(|a| a.order.fence == fence).map(|a| a.job);
        let Some(job) = self.runs.get(&id).and_then(open) else { return };
        let words = cut_words(words, END_WORDS_MAX);
        self.record(cx, id, RunRecord::Closed { task, fence, class, words, proof: None });
        self.after_close(cx, id, task, &job);
    }

    /// Bookkeeping after an attempt was closed: back-off by the number of spoiled attempts.
    pub(super) fn after_close(&mut self, cx: &mut Cx<'_, Output>, id: RunId, task: usize, job: &JobId) {
        self.live.remove(job);
        let spoiled = self.runs.get(&id).and_then(|r| r.tasks.get(task)).map_or(0, |t| t.attempts.len());
        let times = u32::try_from(spoiled.saturating_sub(1)).unwrap_or(u32::MAX);
        let pause = cx.rng.jitter(doubled(BACKOFF_MIN, times, BACKOFF_MAX), 20);
        if let Some(soft) = self.soft.get_mut(&id).and_then(|s| s.tasks.get_mut(task)) {
            soft.backoff_until = Some(cx.now + pause);
        }
    }

    fn fail_task(&mut self, cx: &mut Cx<'_, Output>, id: RunId, task: usize, words: &str) {
        let words = cut_words(words, END_WORDS_MAX);
        self.record(cx, id, RunRecord::TaskFailed { task, words });
    }

    /// Asks for the outputs that sinks keep, as soon as they are committed, and for the logs of ended tasks.
    fn want_results(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        for (digest, want) in self.wanted(&id) {
            self.wants.entry(digest).or_insert(want);
        }
        self.ask(cx);
    }

    /// Asks for wanted objects whose time has come.
    pub(super) fn ask(&mut self, cx: &mut Cx<'_, Output>) {
        let due = |w: &Want| matches!(w.state, WantState::Again(at) if at <= cx.now);
        let ask: Vec<Digest> = self.wants.iter().filter(|(_, w)| due(w)).map(|(d, _)| *d).collect();
        for digest in ask {
            let Some(w) = self.wants.get_mut(&digest) else { continue };
            w.state = WantState::Asked;
            let (len, holder) = (w.len, w.holder);
            self.need(cx, holder);
            cx.emit(Output::Want { digest, len, sources: vec![(holder, None)] });
        }
    }

    /// Drops a want that was answered and that no active run needs any more.
    pub(super) fn settle_want(&mut self, digest: &Digest) {
        if !self.soft.keys().any(|id| self.wanted(id).contains_key(digest)) {
            self.wants.remove(digest);
        }
    }

    /// Everything of a run that is to be here in the end, by what is committed so far.
    fn wanted(&self, id: &RunId) -> BTreeMap<Digest, Want> {
        let mut out = BTreeMap::new();
        let Some(run) = self.runs.get(id) else { return out };
        let want = |holder, len, required| Want {
            len,
            holder,
            required,
            tries: 0,
            done: 0,
            state: WantState::Again(Instant::ZERO),
        };
        for from in run.plan.iter().flat_map(|p| p.sinks.iter().flat_map(|s| s.inputs.iter())) {
            if let Some((holder, o)) = run.output_of(from) {
                out.insert(o.digest, want(holder, o.len, true));
            }
        }
        for receipt in run.tasks.iter().filter(|t| t.end.is_some()).filter_map(Task::last_receipt) {
            if let Some(o) = receipt.output(&Port::Stderr).filter(|o| (1..=LOG_BYTES_MAX).contains(&o.len)) {
                out.entry(o.digest).or_insert_with(|| want(receipt.executor, o.len, false));
            }
        }
        out
    }

    /// All tasks are committed, or one has failed: bring home what is wanted, then end.
    fn finalize(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        self.want_results(cx, id);
        let Some(soft) = self.soft.get_mut(&id) else { return };
        let logs_until = *soft.logs_until.get_or_insert(cx.now + LOGS_WAIT_MAX);
        let Some(run) = self.runs.get(&id) else { return };
        let failed = run.failed_task().map(|(i, words)| {
            let name = run.plan.as_ref().and_then(|p| p.tasks.get(i)).map_or("", |t| t.id.as_str());
            format!("task {name} failed: {words}")
        });
        let (mut results, mut logs, mut dead) = (true, true, None);
        for (digest, w) in self.wanted(&id) {
            let state = self.wants.get(&digest).map(|w| &w.state);
            let here = state == Some(&WantState::Here);
            match state {
                Some(WantState::Dead(why)) if w.required => {
                    dead = Some(format!("result {digest} could not be fetched from {}: {why}", w.holder));
                }
                Some(WantState::Dead(_)) => {}
                Some(WantState::Asked | WantState::Again(_) | WantState::Here) | None if w.required => {
                    results &= here;
                }
                Some(WantState::Asked | WantState::Again(_) | WantState::Here) | None => logs &= here,
            }
        }
        let logs_done = logs || cx.now >= logs_until;
        match (failed, dead) {
            (Some(words), _) if logs_done => self.end(cx, id, RunState::Failed, &words),
            (None, Some(words)) => self.end(cx, id, RunState::Failed, &words),
            (None, None) if results && logs_done => self.end(cx, id, RunState::Succeeded, ""),
            (Some(_), _) | (None, None) => {}
        }
    }

    /// The end: journaled, then everything of the run is released.
    fn end(&mut self, cx: &mut Cx<'_, Output>, id: RunId, state: RunState, words: &str) {
        self.record(cx, id, RunRecord::Ended { state, words: cut_words(words, END_WORDS_MAX) });
        self.soft.remove(&id);
        self.live.retain(|_, l| l.run != id);
        let Some(run) = self.runs.get(&id) else { return };
        for a in run.tasks.iter().flat_map(|t| &t.attempts) {
            self.jobs.remove(&a.job);
            self.send(cx, a.peer(), &Message::Release { job: a.job });
        }
        let others = || self.soft.keys().filter_map(|other| self.runs.get(other));
        let mine: BTreeSet<Digest> = sources(run).map(|o| o.digest).collect();
        for digest in mine {
            if !others().flat_map(sources).any(|o| o.digest == digest) {
                cx.emit(Output::Revoke { digest, requester: self.me });
            }
        }
        let needed: BTreeSet<Digest> =
            self.soft.keys().flat_map(|other| self.wanted(other).into_keys()).collect();
        // A request that is under way is answered once; until then it must not be made again.
        self.wants.retain(|digest, w| w.state == WantState::Asked || needed.contains(digest));
        self.prune(cx);
    }

    /// When a run wants to be looked at again.
    pub(super) fn run_deadline(&self, id: &RunId) -> Option<Deadline> {
        let (run, soft) = (self.runs.get(id)?, self.soft.get(id)?);
        let need = |peers: &mut dyn Iterator<Item = &PublicKey>| {
            let asked = peers.filter_map(|p| self.peers.get(p)).filter(|p| !p.up).filter_map(|p| p.needed);
            asked.min().map(|at| Deadline::new(at + NEED_AGAIN, "ask for a peer again"))
        };
        match run.state() {
            RunState::Validating => Deadline::earlier(
                Some(Deadline::new(soft.since + VALIDATING_MAX, "validating: give up")),
                need(&mut soft.findings.absent.iter()),
            ),
            RunState::Running => {
                let mut next = None;
                for (t, planned) in soft.tasks.iter().zip(run.plan.iter().flat_map(|p| &p.tasks)) {
                    let Some(since) = t.idle_since else { continue };
                    next = Deadline::earlier(next, self.idle_deadline(t, since, planned, soft.placed));
                }
                next
            }
            RunState::Finalizing => soft
                .logs_until
                .filter(|at| *at > self.looked)
                .map(|at| Deadline::new(at, "stop waiting for logs")),
            RunState::Paused
            | RunState::Cancelling
            | RunState::Succeeded
            | RunState::Failed
            | RunState::Cancelled => None,
        }
    }

    fn idle_deadline(
        &self,
        t: &SoftTask,
        since: Instant,
        planned: &PlannedTask,
        placed: Instant,
    ) -> Option<Deadline> {
        let peers = || planned.candidates.iter().filter_map(|p| self.peers.get(p));
        let looked = self.looked.max(placed);
        let later = |at: Instant, why| (at > looked).then(|| Deadline::new(at, why));
        let needs = peers().filter(|p| !p.up).filter_map(|p| p.needed);
        let needed = needs.filter_map(|at| later(at + NEED_AGAIN, "ask for a peer again"));
        let busy = peers().filter_map(|p| p.busy_until).filter_map(|at| later(at, "executor may have room"));
        let own = [
            Some(Deadline::new(since + QUEUE_TIMEOUT, "queue: give up")),
            later(since + PREFERENCE_GRACE, "take another executor"),
            t.backoff_until.and_then(|at| later(at, "back-off is over")),
        ];
        own.into_iter().flatten().chain(needed).chain(busy).fold(None, |a, b| Deadline::earlier(a, Some(b)))
    }

    /// Timers of one open attempt; says which run is to be looked at.
    pub(super) fn live_timeout(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) -> Option<RunId> {
        let l = self.live.get_mut(job)?;
        let run = l.run;
        let before = l.silence;
        if l.silence == Silence::None && cx.now >= l.heard + SUSPECT_AFTER {
            l.silence = Silence::Suspect;
        }
        if l.silence == Silence::Suspect && cx.now >= l.heard + LOST_AFTER {
            l.silence = Silence::Lost;
        }
        let mut touched = before != l.silence;
        if touched {
            cx.emit(Output::TaskChanged { run, task: l.task });
        }
        touched |= l.cancel_since.is_some_and(|at| cx.now >= at + CANCEL_WAIT_MAX);
        let peer = l.peer;
        if l.resend_at.is_some_and(|at| at <= cx.now) && self.is_up(&peer) {
            self.resend(cx, job);
        }
        touched.then_some(run)
    }

    /// Marks an attempt as heard of.
    pub(super) fn heard(&mut self, cx: &mut Cx<'_, Output>, job: &JobId, state: Option<JobState>) {
        let Some(l) = self.live.get_mut(job) else { return };
        let changed = l.silence != Silence::None || (state.is_some() && l.state != state);
        l.heard = cx.now;
        l.silence = Silence::None;
        if state.is_some() {
            l.state = state;
            if l.cancel_since.is_none() {
                l.resend_at = None;
            }
        }
        if changed {
            cx.emit(Output::TaskChanged { run: l.run, task: l.task });
        }
    }
}
