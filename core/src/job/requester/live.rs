//! Open attempts: how they sound, when something is due for them, and how many each executor has.
//!
//! All changes go through [`Lives::change`], which keeps what is derived: attempts that are not lost by executor, attempts by
//! run, deadlines in order. A look at one attempt costs nothing for the others.

use super::{CANCEL_WAIT_MAX, LOST_KEPT_MAX, RESEND_MIN};
use crate::id::{JobId, PublicKey, RunId};
use crate::job::message::JobState;
use crate::job::receipt::Receipt;
use crate::job::signed::Signed;
use crate::limits::{LOST_AFTER, SUSPECT_AFTER};
use crate::time::{Deadline, Duration, Instant};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// How an open attempt sounds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Silence {
    None,
    Suspect,
    Lost,
}

/// What an executor says it does with an attempt, as far as that may not take for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Phase {
    /// It gathers inputs and makes ready.
    Staging,
    /// The program runs.
    Running,
    /// It has a result, and was asked to show it.
    Revealing,
}

/// Soft side of an open attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Live {
    pub(super) run: RunId,
    pub(super) task: usize,
    pub(super) fence: u32,
    pub(super) peer: PublicKey,
    /// When it was granted or last heard of.
    pub(super) heard: Instant,
    pub(super) silence: Silence,
    pub(super) state: Option<JobState>,
    /// When the order (or the cancel) is sent again; `None`: no need.
    pub(super) resend_at: Option<Instant>,
    pub(super) resend_wait: Duration,
    pub(super) cancel_since: Option<Instant>,
    /// What its executor says it does, and until when it is believed to get anywhere with it.
    pub(super) phase: Option<(Phase, Instant)>,
    /// Whether its executor is connected.
    pub(super) up: bool,
    /// When its executor pledged its result.
    pub(super) pledged: Option<Instant>,
    /// Whether it is to show it.
    pub(super) reveal: bool,
    /// What it has shown, until that is decided about.
    pub(super) shown: Option<Box<Shown>>,
}

/// A receipt that answers its order and is what was pledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Shown {
    pub(super) receipt: Signed<Receipt>,
    pub(super) carried: Option<Vec<Bytes>>,
}

impl Live {
    pub(super) fn new(run: RunId, task: usize, fence: u32, peer: PublicKey, now: Instant) -> Live {
        Live {
            run,
            task,
            fence,
            peer,
            heard: now,
            silence: Silence::None,
            state: None,
            resend_at: Some(now),
            resend_wait: RESEND_MIN,
            cancel_since: None,
            phase: None,
            up: true,
            pledged: None,
            reveal: false,
            shown: None,
        }
    }

    /// When it is given up although its executor is heard of. Of one that is silent nothing is known: its lease decides.
    pub(super) fn phase_ends(&self) -> Option<Deadline> {
        let (phase, at) = self.phase.filter(|_| self.silence == Silence::None && self.up)?;
        Some(match phase {
            Phase::Staging => Deadline::new(at, "staging: give up"),
            Phase::Running => Deadline::new(at, "execution: give up"),
            Phase::Revealing => Deadline::new(at, "reveal: give up"),
        })
    }

    fn deadline(&self) -> Option<Deadline> {
        let silence = match self.silence {
            Silence::None => Deadline::new(self.heard + SUSPECT_AFTER, "lease: suspect"),
            Silence::Suspect => Deadline::new(self.heard + LOST_AFTER, "lease: lost"),
            Silence::Lost => Deadline::new(self.heard + LOST_KEPT_MAX, "lost: give up"),
        };
        let resend = self.resend_at.filter(|_| self.up).map(|at| Deadline::new(at, "send again"));
        let cancel = self.cancel_since.map(|at| Deadline::new(at + CANCEL_WAIT_MAX, "cancel: give up"));
        [resend, cancel, self.phase_ends()].into_iter().fold(Some(silence), Deadline::earlier)
    }
}

/// All open attempts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Lives {
    of: BTreeMap<JobId, Live>,
    of_run: BTreeMap<RunId, BTreeSet<JobId>>,
    /// Attempts that are not lost, by executor: those that have some.
    load: BTreeMap<PublicKey, usize>,
    due: BTreeSet<(Instant, JobId)>,
    /// Executors that have fewer than before, since this was last taken.
    freed: BTreeSet<PublicKey>,
}

impl Lives {
    pub(super) fn get(&self, job: &JobId) -> Option<&Live> {
        self.of.get(job)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&JobId, &Live)> {
        self.of.iter()
    }

    pub(super) fn of_run(&self, run: &RunId) -> impl Iterator<Item = &JobId> {
        self.of_run.get(run).into_iter().flatten()
    }

    /// Attempts at `peer` that are not lost.
    pub(super) fn load(&self, peer: &PublicKey) -> usize {
        self.load.get(peer).copied().unwrap_or(0)
    }

    /// Executors that have room that they had not before.
    pub(super) fn take_freed(&mut self) -> BTreeSet<PublicKey> {
        std::mem::take(&mut self.freed)
    }

    /// Attempts for which something is due.
    pub(super) fn due(&self, now: Instant) -> Vec<JobId> {
        self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, job)| *job).collect()
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let (_, job) = self.due.first()?;
        self.of.get(job)?.deadline()
    }

    pub(super) fn insert(&mut self, job: JobId, live: Live) {
        self.remove(&job);
        self.enter(job, live);
    }

    pub(super) fn remove(&mut self, job: &JobId) -> Option<Live> {
        let live = self.leave(job)?;
        self.freed.insert(live.peer);
        Some(live)
    }

    /// Changes one attempt, and with it whatever follows from it.
    pub(super) fn change<T>(&mut self, job: &JobId, change: impl FnOnce(&mut Live) -> T) -> Option<T> {
        let mut live = self.leave(job)?;
        let before = live.silence;
        let out = change(&mut live);
        if live.silence == Silence::Lost && before != Silence::Lost {
            self.freed.insert(live.peer);
        }
        self.enter(*job, live);
        Some(out)
    }

    fn enter(&mut self, job: JobId, live: Live) {
        if live.silence != Silence::Lost {
            *self.load.entry(live.peer).or_default() += 1;
        }
        self.due.extend(live.deadline().map(|d| (d.at, job)));
        self.of_run.entry(live.run).or_default().insert(job);
        self.of.insert(job, live);
    }

    fn leave(&mut self, job: &JobId) -> Option<Live> {
        let live = self.of.remove(job)?;
        if live.silence != Silence::Lost
            && let Some(n) = self.load.get_mut(&live.peer)
        {
            *n -= 1;
            if *n == 0 {
                self.load.remove(&live.peer);
            }
        }
        if let Some(d) = live.deadline() {
            self.due.remove(&(d.at, *job));
        }
        if let Some(jobs) = self.of_run.get_mut(&live.run) {
            jobs.remove(job);
            if jobs.is_empty() {
                self.of_run.remove(&live.run);
            }
        }
        Some(live)
    }

    /// The same attempts, with everything that is derived made anew.
    #[cfg(test)]
    pub(super) fn rebuilt(&self) -> Lives {
        let mut fresh = Lives { freed: self.freed.clone(), ..Lives::default() };
        for (job, live) in &self.of {
            fresh.enter(*job, live.clone());
        }
        fresh
    }
}
