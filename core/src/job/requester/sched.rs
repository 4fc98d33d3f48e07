//! Which tasks of a run are to be looked at, and what the others wait for.
//!
//! A task that could run and does not waits for something: for room at an executor ([`Sched::next`] finds it when there is
//! some), for an hour, or for news of its own, upon which it is marked ([`Sched::look_at`]). Nothing looks at tasks for which
//! nothing has happened, so the cost of a step does not grow with the number of tasks that wait.

use crate::id::PublicKey;
use crate::job::plan::CANDIDATES_MAX;
use crate::time::{Deadline, Instant};
use std::collections::{BTreeMap, BTreeSet};

/// Candidates of a task, by their positions.
pub(super) type Mask = u64;

const _: () = assert!(CANDIDATES_MAX <= Mask::BITS as usize);

/// The candidates in `mask`.
pub(super) fn chosen(mask: Mask, candidates: &[PublicKey]) -> impl Iterator<Item = &PublicKey> {
    candidates
        .iter()
        .take(CANDIDATES_MAX)
        .enumerate()
        .filter(move |(i, _)| mask >> i & 1 == 1)
        .map(|(_, p)| p)
}

/// What a task waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Wait {
    /// Room at any of these.
    pub(super) room: Mask,
    /// These are to be connected to.
    pub(super) need: Mask,
    /// A time.
    pub(super) clock: Option<Deadline>,
}

/// Soft side of a task.
#[derive(Clone, Debug, Default)]
pub(super) struct SoftTask {
    /// Since when it has nobody working on it although it could.
    pub(super) idle_since: Option<Instant>,
    pub(super) backoff_until: Option<Instant>,
    wait: Wait,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Sched {
    tasks: Vec<SoftTask>,
    marked: BTreeSet<usize>,
    /// Who waits for room, by executor.
    parked: BTreeMap<PublicKey, BTreeSet<usize>>,
    /// How many wait for this executor to be connected.
    needed: BTreeMap<PublicKey, usize>,
    clocks: BTreeSet<(Instant, usize)>,
}

impl Sched {
    pub(super) fn new(tasks: usize) -> Sched {
        Sched { tasks: vec![SoftTask::default(); tasks], ..Sched::default() }
    }

    pub(super) fn task(&self, task: usize) -> Option<&SoftTask> {
        self.tasks.get(task)
    }

    pub(super) fn task_mut(&mut self, task: usize) -> Option<&mut SoftTask> {
        self.tasks.get_mut(task)
    }

    /// Somebody works on it, or nobody is to.
    pub(super) fn rests(&mut self, task: usize) {
        if let Some(t) = self.tasks.get_mut(task) {
            t.idle_since = None;
        }
    }

    /// It could run and nobody works on it, now or since earlier.
    pub(super) fn idle(&mut self, task: usize, now: Instant) {
        if let Some(t) = self.tasks.get_mut(task) {
            t.idle_since.get_or_insert(now);
        }
    }

    /// Something has happened to this task.
    pub(super) fn look_at(&mut self, task: usize) {
        if task < self.tasks.len() {
            self.marked.insert(task);
        }
    }

    /// Whether a task is marked.
    pub(super) fn is_marked(&self) -> bool {
        !self.marked.is_empty()
    }

    /// Marks the tasks whose time has come.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some((_, task)) = self.clocks.first().copied().filter(|(at, _)| *at <= now) {
            self.clocks.pop_first();
            if let Some(t) = self.tasks.get_mut(task) {
                t.wait.clock = None;
            }
            self.marked.insert(task);
        }
    }

    /// The first task that is marked, or that waits for room at somebody for whom `has_room` holds.
    pub(super) fn next(&self, has_room: impl Fn(&PublicKey) -> bool) -> Option<usize> {
        let parked = self.parked.iter().filter_map(|(p, tasks)| Some((p, *tasks.first()?)));
        let with_room = parked.filter(|(p, _)| has_room(p)).map(|(_, task)| task);
        with_room.chain(self.marked.first().copied()).min()
    }

    /// Takes a task out of everything it waits for.
    pub(super) fn take(&mut self, task: usize, candidates: &[PublicKey]) {
        self.marked.remove(&task);
        let Some(t) = self.tasks.get_mut(task) else { return };
        let wait = std::mem::take(&mut t.wait);
        for peer in chosen(wait.room, candidates) {
            if let Some(tasks) = self.parked.get_mut(peer) {
                tasks.remove(&task);
                if tasks.is_empty() {
                    self.parked.remove(peer);
                }
            }
        }
        for peer in chosen(wait.need, candidates) {
            if let Some(n) = self.needed.get_mut(peer) {
                *n -= 1;
                if *n == 0 {
                    self.needed.remove(peer);
                }
            }
        }
        if let Some(d) = wait.clock {
            self.clocks.remove(&(d.at, task));
        }
    }

    /// Says what a task waits for that was taken before.
    pub(super) fn wait(&mut self, task: usize, candidates: &[PublicKey], wait: Wait) {
        let Some(t) = self.tasks.get_mut(task) else { return };
        t.wait = wait;
        for peer in chosen(wait.room, candidates) {
            self.parked.entry(*peer).or_default().insert(task);
        }
        for peer in chosen(wait.need, candidates) {
            *self.needed.entry(*peer).or_default() += 1;
        }
        if let Some(d) = wait.clock {
            self.clocks.insert((d.at, task));
        }
    }

    /// Executors at which tasks wait for room.
    pub(super) fn parked(&self) -> impl Iterator<Item = &PublicKey> {
        self.parked.keys()
    }

    /// Whether tasks wait for room at `peer`.
    pub(super) fn parks_at(&self, peer: &PublicKey) -> bool {
        self.parked.contains_key(peer)
    }

    /// Executors that tasks wait to be connected to.
    pub(super) fn needed(&self) -> impl Iterator<Item = &PublicKey> {
        self.needed.keys()
    }

    /// When the next task's time comes.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let (_, task) = self.clocks.first()?;
        self.tasks.get(*task)?.wait.clock
    }

    /// Asserts that everything is what it is when made anew from what each task waits for.
    #[cfg(test)]
    pub(super) fn check<'a>(&self, candidates: impl Fn(usize) -> &'a [PublicKey]) {
        let mut fresh = Sched::new(self.tasks.len());
        for (i, t) in self.tasks.iter().enumerate() {
            fresh.wait(i, candidates(i), t.wait);
        }
        assert_eq!(self.parked, fresh.parked);
        assert_eq!(self.needed, fresh.needed);
        assert_eq!(self.clocks, fresh.clocks);
    }
}
