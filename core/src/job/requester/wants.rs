//! Objects that are to be here: results that sinks keep, and logs.
//!
//! A run wants an object from the moment its task is committed (a log: when the task has ended), and the end of the run
//! looks only at what is still missing. At most [`ASKED_MAX`] are asked for at once, so that a run with thousands of results
//! does not fill the queue of fetches that executors' jobs need as well.

use super::index::Wanted;
use super::{FETCH_TRIES_MAX, RESEND_MAX, RESEND_MIN, doubled};
use crate::id::{Digest, PublicKey, RunId};
use crate::time::{Deadline, Instant};
use std::collections::{BTreeMap, BTreeSet};

/// Objects asked for at once: a sixteenth of the fetches that may wait.
pub(super) const ASKED_MAX: usize = 256;
/// Attempts to fetch one log.
const LOG_TRIES_MAX: u32 = 3;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum WantState {
    Asked,
    Again(Instant),
    Here,
    Dead(String),
}

/// An object that is brought here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Want {
    pub(super) len: u64,
    pub(super) holder: PublicKey,
    pub(super) required: bool,
    /// Whether its leaves are wanted as well.
    pub(super) tree: bool,
    pub(super) tries: u32,
    pub(super) done: u64,
    pub(super) state: WantState,
    /// Who wants it: tasks of active runs.
    by: BTreeSet<(RunId, usize)>,
}

impl Want {
    /// Active runs that want it.
    pub(super) fn runs(&self) -> BTreeSet<RunId> {
        self.by.iter().map(|(run, _)| *run).collect()
    }

    /// Tasks that want it.
    pub(super) fn tasks(&self) -> Vec<(RunId, usize)> {
        self.by.iter().copied().collect()
    }
}

/// All of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Wants {
    of: BTreeMap<Digest, Want>,
    again: BTreeSet<(Instant, Digest)>,
    asked: usize,
}

impl Wants {
    pub(super) fn get(&self, digest: &Digest) -> Option<&Want> {
        self.of.get(digest)
    }

    pub(super) fn open(&self) -> usize {
        self.of.values().filter(|w| w.state != WantState::Here).count()
    }

    pub(super) fn progress(&mut self, digest: &Digest, done: u64) {
        if let Some(w) = self.of.get_mut(digest) {
            w.done = done.min(w.len);
        }
    }

    /// A task's output or log is to be here.
    pub(super) fn want(&mut self, by: (RunId, usize), wanted: &Wanted) {
        let Wanted { digest, len, holder, required, tree } = *wanted;
        let state = WantState::Again(Instant::ZERO);
        let fresh = Want { len, holder, required, tree, tries: 0, done: 0, state, by: BTreeSet::new() };
        let fresh_now = !self.of.contains_key(&digest);
        let w = self.of.entry(digest).or_insert(fresh);
        w.by.insert(by);
        // What was given up as a log is tried again as a result.
        let revived = required && !w.required && matches!(w.state, WantState::Dead(_));
        w.required |= required;
        // What was a file until now is a directory as well: its leaves are still to come.
        let more = tree && !w.tree;
        w.tree |= tree;
        if revived || more {
            w.tries = 0;
        }
        if fresh_now || revived || more {
            self.set(&digest, WantState::Again(Instant::ZERO));
        }
    }

    /// An object is here.
    pub(super) fn fetched(&mut self, digest: &Digest) -> bool {
        let Some(w) = self.of.get_mut(digest) else { return false };
        w.done = w.len;
        self.set(digest, WantState::Here);
        true
    }

    /// It could not be fetched now: again later, or never.
    pub(super) fn failed(&mut self, digest: &Digest, now: Instant, why: String) -> bool {
        let Some(w) = self.of.get_mut(digest).filter(|w| w.state == WantState::Asked) else { return false };
        w.tries += 1;
        let tries_max = if w.required { FETCH_TRIES_MAX } else { LOG_TRIES_MAX };
        let state = if w.tries >= tries_max {
            WantState::Dead(why)
        } else {
            WantState::Again(now + doubled(RESEND_MIN, w.tries, RESEND_MAX * 2))
        };
        self.set(digest, state);
        true
    }

    /// The next object whose time has come, now asked for.
    pub(super) fn ask(&mut self, now: Instant) -> Option<(Digest, &Want)> {
        if self.asked >= ASKED_MAX {
            return None;
        }
        let (_, digest) = *self.again.first().filter(|(at, _)| *at <= now)?;
        self.set(&digest, WantState::Asked);
        self.of.get(&digest).map(|w| (digest, w))
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let (at, _) = self.again.first().filter(|_| self.asked < ASKED_MAX)?;
        Some(Deadline::new(*at, "fetch again"))
    }

    /// Drops a want that was answered and that no active run needs any more.
    pub(super) fn settle(&mut self, digest: &Digest) {
        // A request that is under way is answered once; until then it must not be made again.
        if self.of.get(digest).is_some_and(|w| w.by.is_empty() && w.state != WantState::Asked) {
            self.set(digest, WantState::Here);
            self.of.remove(digest);
        }
    }

    /// A run needs it no more.
    pub(super) fn leave(&mut self, digest: &Digest, run: &RunId) {
        if let Some(w) = self.of.get_mut(digest) {
            w.by.retain(|(other, _)| other != run);
            self.settle(digest);
        }
    }

    fn set(&mut self, digest: &Digest, state: WantState) {
        let Some(w) = self.of.get_mut(digest) else { return };
        match w.state {
            WantState::Asked => self.asked -= 1,
            WantState::Again(at) => {
                self.again.remove(&(at, *digest));
            }
            WantState::Here | WantState::Dead(_) => {}
        }
        match state {
            WantState::Asked => self.asked += 1,
            WantState::Again(at) => {
                self.again.insert((at, *digest));
            }
            WantState::Here | WantState::Dead(_) => {}
        }
        w.state = state;
    }

    /// The same wants, with everything that is derived made anew.
    #[cfg(test)]
    pub(super) fn rebuilt(&self) -> Wants {
        let again = self.of.iter().filter_map(|(d, w)| match w.state {
            WantState::Again(at) => Some((at, *d)),
            WantState::Asked | WantState::Here | WantState::Dead(_) => None,
        });
        let asked = self.of.values().filter(|w| w.state == WantState::Asked).count();
        Wants { of: self.of.clone(), again: again.collect(), asked }
    }
}
