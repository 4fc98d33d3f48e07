//! Inputs: whose turn it is, on whose right they are fetched, and when a job has all of them.

use super::{Claim, Executor, Output, Soft};
use crate::id::{Digest, JobId, PublicKey};
use crate::job::held::{Held, JobRecord};
use crate::job::message::Source;
use crate::machine::Cx;
use crate::port::{EngineExit, ExitClass, Usage, layout_of};
use crate::ticket::Ticket;
use crate::time::{Duration, Instant, UnixTime};
use bytes::Bytes;
use std::collections::BTreeSet;

/// Attempts to fetch an input before the job fails.
pub const STAGE_TRIES_MAX: u32 = 4;
/// First pause between them; doubles.
pub const STAGE_AGAIN: Duration = Duration::from_secs(2);

/// Jobs that give a dataset and wait for the store to look at it, at once: so many questions it can take beside all others.
pub const GIVING_MAX: usize = 64;

/// An object, on whose right it is wanted, and whether as a directory: what is one for one job is a file for another.
pub(super) type WantKey = (Digest, Claim, bool);

#[derive(Clone, Debug)]
pub(super) struct Want {
    pub(super) len: u64,
    pub(super) sources: Vec<(PublicKey, Option<Bytes>)>,
    tries: u32,
    /// `None` while an answer is awaited.
    pub(super) again: Option<Instant>,
}

impl Executor {
    /// Starts staging queued jobs while there are slots; those that give a dataset need none.
    pub(super) fn fill(&mut self, cx: &mut Cx<'_, Output>) {
        while !self.giving.is_empty() && self.at_work(true) < GIVING_MAX {
            let Some(job) = self.giving.pop_front() else { break };
            self.stage(cx, &job);
        }
        while self.at_work(false) < self.config.running_max.max(1) {
            let Some(job) = self.queue.pop_front() else { return };
            self.stage(cx, &job);
        }
    }

    /// Jobs between staging and receipt: those that give a dataset, or those that an engine runs.
    fn at_work(&self, gives_data: bool) -> usize {
        let working = |(j, h): &(&JobId, &Held)| {
            let staging = self.soft.get(*j).is_some_and(|x| x.staging.is_some());
            h.gives_data() == gives_data && h.receipt.is_none() && (h.started.is_some() || staging)
        };
        self.held.iter().filter(working).count()
    }

    pub(super) fn stage(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(held) = self.held.get(job) else { return };
        let requester = held.requester();
        let mut missing = BTreeSet::new();
        let light = self.is_light(job);
        for (input, sources) in held.order.inputs.iter().zip(&held.sources).filter(|_| !light) {
            let (digest, len) = (input.digest, input.len);
            let tree = layout_of(&held.order.paths, &input.port).is_tree();
            let has_right = self.has_right(&requester, (&digest, tree), sources, cx.wall);
            let claim = (!has_right).then_some(requester);
            missing.insert((digest, claim, tree));
            if self.wants.contains_key(&(digest, claim, tree)) {
                continue;
            }
            let sources: Vec<_> = sources.iter().map(|s| (s.holder, Some(s.ticket.clone()))).collect();
            let want = Want { len, sources: sources.clone(), tries: 0, again: None };
            self.wants.insert((digest, claim, tree), want);
            cx.emit(Output::Want { digest, len, claim, tree, sources });
        }
        if let Some(soft) = self.soft.get_mut(job) {
            soft.staging = Some(missing);
        }
        self.staged(cx, job);
    }

    /// Whether `requester` may use an object of the store as it is, or a directory with all that it names.
    pub(super) fn has_right(
        &self,
        requester: &PublicKey,
        (digest, tree): (&Digest, bool),
        sources: &[Source],
        wall: UnixTime,
    ) -> bool {
        let ours = |s: &Source| {
            Ticket::decode(&s.ticket)
                .is_ok_and(|t| *t.requester() == self.me && t.allows(digest, requester, wall))
        };
        *requester == self.me
            || self.held.values().any(|h| h.requester() == *requester && h.has_shown(digest, tree))
            || sources.iter().any(ours)
    }

    /// All inputs here? Then start.
    pub(super) fn staged(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(soft) = self.soft.get(job) else { return };
        if soft.staging.as_ref().is_some_and(BTreeSet::is_empty)
            && self.held.get(job).is_some_and(|h| h.started.is_none())
        {
            let fetched = soft.fetched.iter().copied().collect();
            self.record(cx, *job, JobRecord::Starting { fetched });
            self.run(cx, job);
        }
    }

    pub(super) fn fetched(&mut self, cx: &mut Cx<'_, Output>, want: WantKey, new: bool) {
        if self.wants.remove(&want).is_none() {
            return;
        }
        let (digest, ..) = want;
        let mut first = new;
        let waiting: Vec<JobId> = self.waiting_for(&want);
        if waiting.is_empty() && new && !self.holds(&digest) {
            cx.emit(Output::Remove { digest });
        }
        for job in waiting {
            if let Some(soft) = self.soft.get_mut(&job) {
                if let Some(missing) = soft.staging.as_mut() {
                    missing.remove(&want);
                }
                if first {
                    soft.fetched.insert(digest);
                }
            }
            first = false;
            self.staged(cx, &job);
        }
    }

    pub(super) fn waiting_for(&self, want: &WantKey) -> Vec<JobId> {
        let waits = |s: &Soft| s.staging.as_ref().is_some_and(|m| m.contains(want));
        self.soft.iter().filter(|(_, s)| waits(s)).map(|(j, _)| *j).collect()
    }

    pub(super) fn fetch_failed(&mut self, cx: &mut Cx<'_, Output>, want: WantKey, why: &str, hopeless: bool) {
        let Some(w) = self.wants.get_mut(&want).filter(|w| w.again.is_none()) else { return };
        w.tries += 1;
        let (tries, digest) = (w.tries, want.0);
        if !hopeless && tries < STAGE_TRIES_MAX && !self.waiting_for(&want).is_empty() {
            let Some(w) = self.wants.get_mut(&want) else { return };
            w.again = Some(cx.now + STAGE_AGAIN * 2u32.pow(tries - 1));
            return;
        }
        self.wants.remove(&want);
        for job in self.waiting_for(&want) {
            let exit = EngineExit {
                class: ExitClass::Infra,
                code: 0,
                detail: format!("input {digest} could not be fetched: {why}"),
                usage: Usage::default(),
                outputs: Vec::new(),
                carried: None,
            };
            self.seal(cx, &job, exit);
        }
        self.fill(cx);
    }
}
