//! Who runs a task: the choice of an executor, the order, its repetition, and what follows from an attempt's end.

use super::index::Wanted;
use super::light::{self, First};
use super::live::{Live, Silence};
use super::sched::{Mask, Wait, chosen};
use super::{
    ATTEMPTS_PER_PEER_MAX, BACKOFF_MAX, BACKOFF_MIN, INFRA_RETRIES, Output, PREFERENCE_GRACE, QUEUE_TIMEOUT,
    RESEND_MAX, Requester, doubled,
};
use crate::command::RunState;
use crate::id::{JobId, PublicKey, RunId};
use crate::job::message::{Message, Source, cut_words};
use crate::job::order::Order;
use crate::job::outcome::{Fate, fate};
use crate::job::plan::{InputFrom, PlannedTask};
use crate::job::rules::words_of_ms;
use crate::job::run::{CloseClass, END_WORDS_MAX, Run, RunRecord, Task};
use crate::job::signed::Signed;
use crate::job::ticket::ticket_for;
use crate::machine::Cx;
use crate::port::{EngineInput, EngineLimits};
use crate::time::{Deadline, Duration, Instant};
use std::collections::BTreeSet;

/// Why a task cannot succeed any more, by what its attempts have shown.
fn hopeless(task: &Task, planned: &PlannedTask) -> Option<String> {
    let last_of = |classes: &[CloseClass]| {
        let mut closed = task.attempts.iter().rev().filter_map(|a| a.closed.as_ref());
        let of_class = closed.find(|c| classes.is_empty() || classes.contains(&c.class));
        of_class.map_or_else(String::new, |c| c.words.clone())
    };
    let last = || last_of(&[]);
    let retry = &planned.rules.retry;
    let limits = task.closed_for(&[CloseClass::Resource]);
    let user = task.closed_for(&[CloseClass::User]);
    // Without a budget of their own, attempts that hit a limit count among those of the task's own making.
    let own = if retry.resource.is_some() { user } else { user + limits };
    let infra = task.closed_for(&[CloseClass::Infra]);
    if task.closed_for(&[CloseClass::Permanent]) > 0 {
        Some(last_of(&[CloseClass::Permanent]))
    } else if own > planned.retries as usize {
        let own_words = last_of(&[CloseClass::User, CloseClass::Resource]);
        Some(format!("{own_words} (attempt {own} of {})", planned.retries + 1))
    } else if let Some(most) = retry.resource.filter(|most| limits > *most as usize) {
        let words = last_of(&[CloseClass::Resource]);
        Some(format!("{words} (attempt {limits} of {} that may hit a limit)", most + 1))
    } else if infra > infra_retries(planned) {
        Some(format!(
            "given up after {infra} attempts that machines or the network spoiled; the last: {}",
            last_of(&[CloseClass::Infra])
        ))
    } else if planned.candidates.iter().all(|p| excluded(task, p)) {
        Some(format!("no executor is left; the last said: {}", last()))
    } else {
        None
    }
}

/// Attempts that machines or the network may spoil.
fn infra_retries(planned: &PlannedTask) -> usize {
    planned.rules.retry.infra.map_or(INFRA_RETRIES, |n| n as usize)
}

/// How long a task waits for an executor.
fn queue_timeout(planned: &PlannedTask) -> Duration {
    planned.rules.queue_ms.map_or(QUEUE_TIMEOUT, Duration::from_millis)
}

/// Limits of the next attempt: after one that hit a limit there is twice the memory, as far as that was asked for.
fn limits_of(task: &Task, planned: &PlannedTask) -> EngineLimits {
    let Some(most) = planned.rules.retry.memory_max else { return planned.limits };
    let times = u32::try_from(task.closed_for(&[CloseClass::Resource])).unwrap_or(u32::MAX);
    let factor = 1u64.checked_shl(times).unwrap_or(u64::MAX);
    let first = planned.limits.memory_bytes;
    EngineLimits { memory_bytes: first.saturating_mul(factor).min(most.max(first)), ..planned.limits }
}

/// Whether a peer gets no further attempt of this task.
fn excluded(task: &Task, peer: &PublicKey) -> bool {
    task.attempts.iter().filter(|a| a.peer() == *peer).filter_map(|a| a.closed.as_ref()).any(|c| {
        match c.class {
            CloseClass::Refused | CloseClass::Byzantine | CloseClass::Dissent => true,
            CloseClass::User
            | CloseClass::Resource
            | CloseClass::Permanent
            | CloseClass::Infra
            | CloseClass::Busy
            | CloseClass::Cancelled
            | CloseClass::Agreed => false,
        }
    })
}

/// Who could run a task.
pub(super) struct Choice {
    /// Candidates that are neither excluded nor banned.
    usable: Mask,
    /// Those of them that have no open attempt.
    free: Mask,
    /// Those of them that have not yet failed at this task.
    untried: Mask,
    /// The best of the free that is connected and has room.
    best: Option<PublicKey>,
    /// The best of the free, connected or not.
    wished: Option<PublicKey>,
    /// Whether `best` has not yet failed at this task.
    fresh: bool,
    /// Whether as many as are to work on it do, who are not lost.
    working: bool,
    /// Whether somebody, lost or not, may still have a result that is not here.
    open: bool,
    /// How many of the usable have not shown a result.
    able: usize,
    /// Whether lost and spoiled attempts have used up the budget.
    exhausted: bool,
}

/// What is to be done with a task that could run.
#[derive(Debug)]
pub(super) enum Next {
    Nothing,
    Fail(String),
    Wait(Wait),
    /// Objects must be in the store first.
    First(Vec<Wanted>),
    Order(PublicKey),
}

impl Requester {
    /// Looks at the tasks of a run for which something has happened, or for which there is room now, in their order.
    pub(super) fn place_all(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        let Some(soft) = self.soft.get_mut(&id) else { return };
        soft.sched.wake(cx.now);
        self.skip_doomed(cx, id);
        while self.runs.get(&id).is_some_and(|r| r.state() == RunState::Running) {
            let Some(soft) = self.soft.get(&id) else { return };
            self.work += soft.sched.parked().count() as u64 + 1;
            let Some(task) = soft.sched.next(|p| self.has_room(p, cx.now)) else { break };
            self.place(cx, id, task);
            self.skip_doomed(cx, id);
        }
        let needed: Vec<PublicKey> = self
            .soft
            .get(&id)
            .map_or_else(Vec::new, |s| s.sched.needed().filter(|p| !self.is_up(p)).copied().collect());
        self.work += needed.len() as u64;
        for peer in needed {
            self.need(cx, peer);
        }
        if let Some(soft) = self.soft.get_mut(&id) {
            soft.placed = cx.now;
        }
    }

    /// Whether a peer is connected and takes one more order.
    pub(super) fn has_room(&self, peer: &PublicKey, now: Instant) -> bool {
        let Some(p) = self.peers.get(peer) else { return false };
        let busy = p.busy_until.is_some_and(|at| at > now);
        p.up && !busy && self.lives.load(peer) < ATTEMPTS_PER_PEER_MAX
    }

    fn place(&mut self, cx: &mut Cx<'_, Output>, id: RunId, index: usize) {
        let reveal = self.reveal_due(&id, index);
        if reveal.is_some_and(|d| d.at <= cx.now) {
            self.reveal(cx, id, index);
        }
        let reveal = reveal.filter(|d| d.at > cx.now);
        let (Some(run), Some(soft)) = (self.runs.get(&id), self.soft.get_mut(&id)) else { return };
        let Some((task, planned)) = task_of(run, index) else { return };
        self.work += 1 + planned.candidates.len() as u64;
        soft.sched.take(index, &planned.candidates);
        if !soft.index.ready().contains(&index) {
            return soft.sched.rests(index);
        }
        match self.next(cx.now, id, index, task, planned) {
            Next::Nothing => {
                if let Some(soft) = self.soft.get_mut(&id) {
                    soft.sched.rests(index);
                    soft.sched.wait(index, &planned.candidates, Wait { clock: reveal, ..Wait::default() });
                }
            }
            Next::Fail(words) => self.fail_task(cx, id, index, &words),
            Next::Wait(wait) => {
                if let Some(soft) = self.soft.get_mut(&id) {
                    let clock = Deadline::earlier(wait.clock, reveal);
                    soft.sched.idle(index, cx.now);
                    soft.sched.wait(index, &planned.candidates, Wait { clock, ..wait });
                }
            }
            Next::First(keep) => {
                if let Some(soft) = self.soft.get_mut(&id) {
                    soft.sched.rests(index);
                }
                self.keep_first(cx, id, index, &keep);
            }
            Next::Order(peer) => {
                if let Some(soft) = self.soft.get_mut(&id) {
                    soft.sched.idle(index, cx.now);
                }
                let several = planned.rules.quorum.is_some();
                self.dispatch(cx, id, index, peer);
                if several {
                    self.look_at(&id, index);
                }
            }
        }
    }

    /// What is to be done with a task whose inputs are there. Nobody is waited for in vain: while an attempt is open, lost or
    /// not, the task is placed, and the time in the queue does not run.
    pub(super) fn next(
        &self,
        now: Instant,
        id: RunId,
        index: usize,
        task: &Task,
        planned: &PlannedTask,
    ) -> Next {
        if let Some(words) = hopeless(task, planned) {
            return Next::Fail(words);
        }
        let Some(soft) = self.soft.get(&id) else { return Next::Nothing };
        let choice = self.choose(now, task, planned, soft.index.banned());
        if choice.usable == 0 {
            return Next::Fail("every executor of this task has lied in this run".to_owned());
        }
        if let Some(words) = self.cannot_agree(&id, index, choice.able) {
            return Next::Fail(words);
        }
        if choice.working {
            return Next::Nothing;
        }
        let Some(t) = soft.sched.task(index) else { return Next::Nothing };
        let since = t.idle_since.unwrap_or(now);
        let give_up = (!choice.open).then(|| Deadline::new(since + queue_timeout(planned), "queue: give up"));
        if give_up.is_some_and(|d| now >= d.at) {
            let usable: Vec<PublicKey> = chosen(choice.usable, &planned.candidates).copied().collect();
            let within = words_of_ms(planned.rules.queue_ms.unwrap_or(QUEUE_TIMEOUT.as_secs() * 1_000));
            let said = self.who_said_what(&id, index);
            return Next::Fail(format!("not placed within {within}: {}{said}", self.waiting_for(&usable)));
        }
        if choice.exhausted {
            return Next::Wait(Wait { clock: give_up, ..Wait::default() });
        }
        if let Some(at) = t.backoff_until.filter(|at| *at > now && !choice.fresh) {
            let clock = Deadline::earlier(give_up, Some(Deadline::new(at, "back-off is over")));
            return Next::Wait(Wait { room: choice.untried, need: 0, clock });
        }
        let preferred_is_away = choice.wished.is_some_and(|w| !self.is_up(&w));
        let grace = since + PREFERENCE_GRACE;
        match choice.best {
            Some(_) if !planned.spread && preferred_is_away && now < grace => {
                let clock = Deadline::earlier(give_up, Some(Deadline::new(grace, "take another executor")));
                Next::Wait(Wait { room: 0, need: choice.usable, clock })
            }
            Some(peer) => match self.first(id, planned) {
                Some(First::Keep(keep)) => Next::First(keep),
                Some(First::Dead(words)) => Next::Fail(words),
                Some(First::Read) => Next::Nothing,
                None => Next::Order(peer),
            },
            None => Next::Wait(Wait { room: choice.free, need: choice.usable, clock: give_up }),
        }
    }

    /// Who could run a task now: fewest failures first, then the user's preference or, among equals, the least loaded.
    fn choose(
        &self,
        now: Instant,
        task: &Task,
        planned: &PlannedTask,
        banned: &BTreeSet<PublicKey>,
    ) -> Choice {
        let (mut going, mut lost) = (0, 0);
        let (mut occupied, mut shown) = (BTreeSet::new(), BTreeSet::new());
        for a in task.open() {
            occupied.insert(a.peer());
            match self.lives.get(&a.job) {
                Some(l) if l.shown.is_some() => drop(shown.insert(a.peer())),
                Some(l) if l.silence != Silence::Lost => going += 1,
                Some(_) | None => lost += 1,
            }
        }
        // Of those that are asked at once enough must be at work or done; when none of them is at work, one more is asked.
        let enough = planned.rules.quorum.is_none_or(|q| going + shown.len() >= q.of as usize);
        let exhausted = lost + task.closed_for(&[CloseClass::Infra]) > infra_retries(planned);
        let mut able = 0;
        let (mut usable, mut free, mut untried): (Mask, Mask, Mask) = (0, 0, 0);
        let mut best: Option<((usize, usize, usize), PublicKey)> = None;
        let mut wished = best;
        for (position, peer) in planned.candidates.iter().enumerate() {
            if excluded(task, peer) || banned.contains(peer) {
                continue;
            }
            usable |= 1 << position;
            able += usize::from(!shown.contains(peer));
            if occupied.contains(peer) {
                continue;
            }
            free |= 1 << position;
            let failures = task.attempts.iter().filter(|a| a.peer() == *peer && a.closed.is_some()).count();
            if failures == 0 {
                untried |= 1 << position;
            }
            let load = if planned.spread { self.lives.load(peer) } else { 0 };
            let rank = (failures, load, position);
            let beats = |other: &Option<((usize, usize, usize), PublicKey)>| {
                other.as_ref().is_none_or(|(r, _)| rank < *r)
            };
            if beats(&wished) {
                wished = Some((rank, *peer));
            }
            if beats(&best) && self.has_room(peer, now) {
                best = Some((rank, *peer));
            }
        }
        Choice {
            usable,
            free,
            untried,
            fresh: best.as_ref().is_some_and(|((failures, ..), _)| *failures == 0),
            best: best.map(|(_, p)| p),
            wished: wished.map(|(_, p)| p),
            working: going > 0 && enough,
            open: going + lost > 0,
            able,
            exhausted,
        }
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

    pub(super) fn dispatch(&mut self, cx: &mut Cx<'_, Output>, id: RunId, index: usize, peer: PublicKey) {
        let Some(run) = self.runs.get(&id) else { return };
        let Some((task, planned)) = task_of(run, index) else { return };
        let soft = self.soft.get(&id);
        let inputs = planned.inputs.iter().filter_map(|i| {
            let (digest, len) = match &i.from {
                InputFrom::Object(o) => (o.digest, o.len),
                InputFrom::Task { .. } => run.output_of(&i.from).map(|(_, o)| (o.digest, o.len))?,
            };
            Some(EngineInput { port: i.to.clone(), digest, len })
        });
        let light = soft.is_some_and(|soft| light::carried(run, &soft.read, planned).is_some());
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
            limits: limits_of(task, planned),
            light,
            pledge: planned.rules.quorum.is_some(),
            nonce: cx.rng.bytes(),
            issued: cx.wall,
        };
        let job = order.job();
        let order = Signed::sign(order, &self.keypair);
        self.record(cx, id, RunRecord::Attempt { task: index, order });
        self.jobs.insert(job, (id, index, fence));
        self.lives.insert(job, Live::new(id, index, fence, peer, cx.now));
        self.resend(cx, &job);
    }

    /// Sends the order of an attempt (or its cancel) and arms the next repetition.
    pub(super) fn resend(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let again = self.lives.change(job, |l| {
            l.resend_at = Some(cx.now + l.resend_wait);
            l.resend_wait = (l.resend_wait * 2).min(RESEND_MAX);
            (l.run, l.task, l.fence, l.peer, l.cancel_since.is_some())
        });
        let Some((id, index, fence, peer, cancelled)) = again else { return };
        if cancelled {
            return self.send(cx, peer, &Message::Cancel { job: *job });
        }
        let Some(run) = self.runs.get(&id) else { return };
        let Some(attempt) = run.tasks.get(index).and_then(|t| t.attempt(fence)) else { return };
        let planned = run.plan.as_ref().and_then(|p| p.tasks.get(index));
        let light = attempt.order.light;
        let read = self.soft.get(&id).map(|s| &s.read);
        let carried = planned.zip(read).filter(|_| light).and_then(|(p, read)| light::inputs(run, read, p));
        if light && carried.is_none() {
            // After a restart: its sources are being read.
            return;
        }
        let source = |from: &InputFrom| {
            let (holder, digest) = match from {
                InputFrom::Object(o) => (self.me, o.digest),
                InputFrom::Task { .. } => {
                    let (holder, o) = run.output_of(from)?;
                    let holder = if run.carried(&o.digest).is_some() { self.me } else { holder };
                    (holder, o.digest)
                }
            };
            if light {
                return Some(Vec::new());
            }
            Some(vec![Source { holder, ticket: ticket_for(&self.keypair, &digest, &peer, cx.wall) }])
        };
        let inputs = planned.into_iter().flat_map(|p| &p.inputs);
        // As in the order: what is not there is left out.
        let sources = inputs.filter_map(|i| source(&i.from)).collect();
        let message = Message::Dispatch { order: Box::new(attempt.order.clone()), sources, carried };
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
        let open = |r: &Run| r.tasks.get(task)?.watched().find(|a| a.order.fence == fence).map(|a| a.job);
        let Some(job) = self.runs.get(&id).and_then(open) else { return };
        let words = cut_words(words, END_WORDS_MAX);
        let (proof, carried, others) = (None, None, Vec::new());
        let nothing = RunRecord::Closed { task, fence, class, words, proof, carried, others };
        self.record(cx, id, nothing);
        self.after_close(cx, id, task, &job, class);
    }

    /// Bookkeeping after an attempt was closed: back-off by the number of spoiled attempts. Only an executor that had no
    /// room has not taken the task out of the queue.
    pub(super) fn after_close(
        &mut self,
        cx: &mut Cx<'_, Output>,
        id: RunId,
        task: usize,
        job: &JobId,
        class: CloseClass,
    ) {
        self.lives.remove(job);
        let of_run = self.runs.get(&id).and_then(|r| r.tasks.get(task));
        if of_run.is_some_and(|t| t.end.is_some()) {
            return self.compared(cx, id, task, class);
        }
        let spoiled = of_run.map_or(0, |t| t.attempts.len());
        let open = of_run.is_some_and(|t| t.open().next().is_some());
        let times = u32::try_from(spoiled.saturating_sub(1)).unwrap_or(u32::MAX);
        let retry = self.runs.get(&id).and_then(|r| r.plan.as_ref()?.tasks.get(task)).map(|t| t.rules.retry);
        let (first, longest) = retry.map_or((BACKOFF_MIN, BACKOFF_MAX), |r| {
            let longest = r.pause_max_ms.map(Duration::from_millis);
            let first = r.pause_ms.map(Duration::from_millis);
            // Who names only one of them does not contradict himself by it.
            let usual = (BACKOFF_MIN.min(longest.unwrap_or(BACKOFF_MIN)), BACKOFF_MAX);
            (first.unwrap_or(usual.0), longest.unwrap_or(usual.1.max(first.unwrap_or(usual.0))))
        });
        let pause = cx.rng.jitter(doubled(first, times, longest), 20);
        let Some(soft) = self.soft.get_mut(&id) else { return };
        if let Some(t) = soft.sched.task_mut(task) {
            t.backoff_until = Some(cx.now + pause);
        }
        if class != CloseClass::Busy && !open {
            soft.sched.rests(task);
        }
        soft.sched.look_at(task);
    }

    fn fail_task(&mut self, cx: &mut Cx<'_, Output>, id: RunId, task: usize, words: &str) {
        self.close_shown(cx, id, task);
        let losers = self.open_at(id, task);
        let words = cut_words(words, END_WORDS_MAX);
        self.record(cx, id, RunRecord::TaskFailed { task, words });
        self.let_go(cx, losers);
    }

    /// Records that tasks will never run, and what follows from that for others.
    fn skip_doomed(&mut self, cx: &mut Cx<'_, Output>, id: RunId) {
        while let Some(task) = self.soft.get(&id).and_then(|s| s.index.doomed()) {
            let fate = self.runs.get(&id).map(|run| fate(run, task));
            let words = match fate {
                Some(Fate::Skipped(words)) => cut_words(&words, END_WORDS_MAX),
                Some(Fate::Waits | Fate::Runs) | None => break,
            };
            self.record(cx, id, RunRecord::Skipped { task, words });
            self.work += 1;
        }
    }
}

/// A task and its plan.
fn task_of(run: &Run, index: usize) -> Option<(&Task, &PlannedTask)> {
    Some((run.tasks.get(index)?, run.plan.as_ref()?.tasks.get(index)?))
}
