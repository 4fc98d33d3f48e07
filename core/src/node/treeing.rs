//! Directories within the node: who brings them, who holds them, and how their files go.
//!
//! [`Trees`](crate::transfer::trees::Trees) knows which files a directory has. What it cannot know is here: which removals are under way, which outputs of an
//! execution are directories that no receipt names yet (see [`super::sealing`], of which this is the second half), and who else in
//! the node needs a file that no directory names any more.

use super::Node;
use super::wiring::{EXECUTOR, Inside, OUTPUTS, REQUESTER, TREES, waiting_command};
use crate::action::Action;
use crate::id::{Digest, JobId, OpId, PublicKey};
use crate::job::{executor, requester};
use crate::port::{BlobRequest, EngineEvent, EngineExit, EngineReport, ExitClass};
use crate::ticket::Ticket;
use crate::transfer::fetch::{Claim, Waiter};
use crate::transfer::trees::Failed;
use crate::transfer::{fetch, trees};
use crate::transport::Transport;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Removals of files before the store at once, so that the end of a large directory does not fill its queue.
const REMOVALS_MAX: usize = 64;

/// Objects and their lengths.
type Objects = Arc<[(Digest, u64)]>;

/// Executions whose directories are being looked at, and what waits for removals.
#[derive(Debug, Default)]
pub(super) struct Treeing {
    /// Ends of executions, and their directories that were not found yet. Bounded by the jobs that run.
    exits: BTreeMap<JobId, (EngineReport, BTreeSet<Digest>)>,
    /// Questions that wait until no removal of their objects is under way.
    looks: Vec<(OpId, Objects)>,
    /// Files that no directory names any more, and whatever waited for those of before the restart.
    free: VecDeque<Digest>,
    /// Objects to be removed once all directories of before the restart are known.
    deferred: BTreeSet<Digest>,
}

impl Treeing {
    /// Whether an output that is not yet in a receipt must stay.
    pub(super) fn holds(&self, digest: &Digest) -> bool {
        let left = |report: &EngineReport| match &report.event {
            EngineEvent::Exited(exit) => exit.outputs.iter().any(|o| o.digest == *digest),
            EngineEvent::Started => false,
        };
        self.exits.values().any(|(report, _)| left(report))
    }
}

impl<T: Transport> Node<T> {
    /// Brings an object here, or a directory with all its files.
    pub(super) fn bring(
        &mut self,
        (digest, len, claim): (Digest, u64, Claim),
        tree: bool,
        sources: Vec<(PublicKey, Option<Ticket>)>,
        waiter: Waiter,
    ) {
        self.inbox.push_back(if tree {
            Inside::Trees(trees::Input::Want { digest, len, claim, sources, waiter })
        } else {
            Inside::Fetch(fetch::Input::Want { digest, len, claim, under: None, sources, waiter })
        });
    }

    pub(super) fn after_trees(&mut self, out: Vec<trees::Output>) {
        for o in out {
            match o {
                trees::Output::Want { digest, len, claim, under, sources } => {
                    let want = fetch::Input::Want { digest, len, claim, under, sources, waiter: TREES };
                    self.inbox.push_back(Inside::Fetch(want));
                }
                // Reading commits nothing: it need not wait for the journal.
                trees::Output::Blob { op, request } => self.actions.push_back(Action::Blob { op, request }),
                trees::Output::Look { op, objects } => self.treeing.looks.push((op, objects)),
                trees::Output::Fetched { digest, claim, waiters, new } => {
                    for w in waiters {
                        self.tree_here(w, digest, claim, new);
                    }
                }
                trees::Output::FetchFailed { digest, claim, waiters, why } => {
                    for w in waiters {
                        self.tree_failed(w, digest, claim, &why);
                    }
                }
                trees::Output::Free(digest) => self.treeing.free.push_back(digest),
                trees::Output::Unneeded(digest) => self.inbox.push_back(Inside::Removals(Some(digest))),
                trees::Output::Restored => {
                    self.treeing.free.extend(std::mem::take(&mut self.treeing.deferred));
                }
            }
        }
        self.look_at_removals();
    }

    /// Removals go on after all that has been heard: an output that is on its way to the executor is not held by anybody else.
    pub(super) fn look_at_removals(&mut self) {
        if !self.treeing.free.is_empty() || !self.treeing.looks.is_empty() {
            self.inbox.push_back(Inside::Removals(None));
        }
    }

    fn tree_here(&mut self, waiter: Waiter, digest: Digest, claim: Claim, new: bool) {
        match waiter {
            REQUESTER => self.inbox.push_back(Inside::Requester(requester::Input::Fetched(digest))),
            OUTPUTS => self.output_here(&digest),
            EXECUTOR => {
                let fetched = executor::Input::Fetched { digest, claim, tree: true, new };
                self.inbox.push_back(Inside::Executor(fetched));
            }
            _ => {
                if let Some(id) = waiting_command(&waiter) {
                    self.tree_command_done(id, digest, Ok(()));
                }
            }
        }
    }

    fn tree_failed(&mut self, waiter: Waiter, digest: Digest, claim: Claim, why: &Failed) {
        let words = match why {
            Failed::NoDirectory(words) => format!("{digest} is no directory: {words}"),
            Failed::Fetch { why, .. } => why.clone(),
        };
        match (waiter, why) {
            (REQUESTER, _) => {
                let failed = requester::Input::FetchFailed { digest, why: words };
                self.inbox.push_back(Inside::Requester(failed));
            }
            (OUTPUTS, why) => self.output_not_here(&digest, &words, why),
            // Whoever lays it out for the job says what it is, as the fault of the order that it is.
            (EXECUTOR, Failed::NoDirectory(_)) => {
                let fetched = executor::Input::Fetched { digest, claim, tree: true, new: false };
                self.inbox.push_back(Inside::Executor(fetched));
            }
            (EXECUTOR, Failed::Fetch { hopeless, .. }) => {
                let hopeless = *hopeless;
                let failed = executor::Input::FetchFailed { digest, claim, tree: true, why: words, hopeless };
                self.inbox.push_back(Inside::Executor(failed));
            }
            (_, _) => {
                if let Some(id) = waiting_command(&waiter) {
                    self.tree_command_done(id, digest, Err(words));
                }
            }
        }
    }

    // ------------------------------------------------------------------------------------ outputs

    /// The outputs of an execution are in the store; those that are directories must be there with their files.
    pub(super) fn outputs_there(&mut self, report: EngineReport) {
        let outputs = match &report.event {
            EngineEvent::Exited(exit) => exit.outputs.as_slice(),
            EngineEvent::Started => &[],
        };
        let trees = self.executor.trees_left(&report.job, outputs);
        if trees.is_empty() {
            return self.inbox.push_front(Inside::Executor(executor::Input::Engine(report)));
        }
        let waiter = OUTPUTS;
        for o in outputs.iter().filter(|o| trees.contains(&o.digest)) {
            let (digest, len, claim, sources) = (o.digest, o.len, None, Vec::new());
            self.inbox.push_back(Inside::Trees(trees::Input::Want { digest, len, claim, sources, waiter }));
        }
        self.treeing.exits.insert(report.job, (report, trees));
    }

    fn output_here(&mut self, digest: &Digest) {
        let whole = |(report, missing): &mut (EngineReport, BTreeSet<Digest>)| {
            missing.remove(digest);
            missing.is_empty().then_some(report.job)
        };
        let whole: Vec<JobId> = self.treeing.exits.values_mut().filter_map(whole).collect();
        for job in whole {
            if let Some((report, _)) = self.treeing.exits.remove(&job) {
                // In front of everything else, so that the executor holds the outputs before anything can be given up.
                self.inbox.push_front(Inside::Executor(executor::Input::Engine(report)));
            }
        }
    }

    fn output_not_here(&mut self, digest: &Digest, words: &str, why: &Failed) {
        let waits = |(job, (_, missing)): (&JobId, &(EngineReport, BTreeSet<Digest>))| {
            missing.contains(digest).then_some(*job)
        };
        let waiting: Vec<JobId> = self.treeing.exits.iter().filter_map(waits).collect();
        for job in waiting {
            self.output_lost(job, words.to_owned(), why);
        }
    }

    fn output_lost(&mut self, job: JobId, words: String, why: &Failed) {
        let Some((report, _)) = self.treeing.exits.remove(&job) else { return };
        if let EngineEvent::Exited(exit) = &report.event {
            // No receipt will name them. What nobody else needs would lie here, and be counted, for ever.
            let outputs = exit.outputs.iter().map(|o| Inside::Removals(Some(o.digest)));
            self.inbox.extend(outputs);
        }
        let gone = match why {
            Failed::NoDirectory(_) => false,
            Failed::Fetch { hopeless, .. } => *hopeless,
        };
        self.inbox.push_front(Inside::Executor(match report.event {
            EngineEvent::Exited(exit) if !gone => {
                let exit = EngineExit {
                    class: ExitClass::Infra,
                    code: 0,
                    detail: words,
                    outputs: Vec::new(),
                    ..exit
                };
                executor::Input::Engine(EngineReport { job, event: EngineEvent::Exited(exit) })
            }
            EngineEvent::Exited(_) | EngineEvent::Started => executor::Input::OutputsGone(job),
        }));
    }

    // ------------------------------------------------------------------------------------ removal

    /// Whether a removal must wait until it is known what the directories of before the restart have.
    pub(super) fn is_too_early(&mut self, digest: Digest) -> bool {
        let early = self.trees.is_restoring();
        if early {
            self.treeing.deferred.insert(digest);
        }
        early
    }

    /// A removal was begun or ended, or there is something to remove or to look for.
    pub(super) fn removals_moved(&mut self) {
        while self.sealing.removals() < REMOVALS_MAX
            && let Some(digest) = self.treeing.free.pop_front()
        {
            self.remove_object(digest);
        }
        let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.treeing.looks)
            .into_iter()
            .partition(|(_, objects)| !self.sealing.is_removing_any(objects));
        self.treeing.looks = waiting;
        for (op, objects) in ready {
            self.actions.push_back(Action::Blob { op, request: BlobRequest::Missing { objects } });
        }
    }
}
