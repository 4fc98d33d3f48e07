//! What must hold of runs: their ends, their results, and the papers that prove them.

use super::{Violation, Watch};
use crate::expect::Expected;
use crate::net::HostId;
use remote_network_core::command::{RunState, RunView, TaskState, TaskView};
use remote_network_core::id::{Digest, PublicKey, RunId};
use remote_network_core::job::receipt::{Verdict, verify_file};
use std::collections::{BTreeMap, BTreeSet};

/// A run as its requester was told.
struct Book {
    host: HostId,
    expected: Expected,
    acknowledged: bool,
    end: Option<RunState>,
    state: RunState,
    /// The fence each task was committed with.
    committed: BTreeMap<String, u32>,
    /// Who was given a fence of a task.
    fences: BTreeMap<(String, u32), PublicKey>,
}

/// All runs.
#[derive(Default)]
pub(super) struct Runs {
    books: BTreeMap<RunId, Book>,
    receipts: u64,
}

impl Runs {
    pub fn expects(&mut self, run: RunId, host: HostId, expected: Expected) {
        self.books.entry(run).or_insert_with(|| Book {
            host,
            expected,
            acknowledged: false,
            end: None,
            state: RunState::Validating,
            committed: BTreeMap::new(),
            fences: BTreeMap::new(),
        });
    }

    pub fn acknowledged(&mut self, run: RunId) {
        if let Some(book) = self.books.get_mut(&run) {
            book.acknowledged = true;
        }
    }

    /// A host lost its disk: nobody can expect anything of its runs.
    pub fn forgets(&mut self, host: HostId) {
        self.books.retain(|_, book| book.host != host);
    }

    pub fn unsettled(&self) -> impl Iterator<Item = (RunId, HostId, RunState)> + '_ {
        let open = self.books.iter().filter(|(_, b)| b.acknowledged && b.end.is_none());
        open.map(|(run, b)| (*run, b.host, b.state))
    }

    pub fn counts(&self) -> (u64, u64, u64) {
        let count = |f: &dyn Fn(&Book) -> bool| self.books.values().filter(|b| f(b)).count() as u64;
        (
            count(&|b| b.acknowledged),
            count(&|b| b.end.is_some()),
            count(&|b| b.end == Some(RunState::Succeeded)),
        )
    }

    pub fn receipts(&self) -> u64 {
        self.receipts
    }

    /// A host does not know a run: bad when it has promised it.
    pub fn unknown(&mut self, host: HostId, run: RunId) -> Option<Violation> {
        let promised = self.books.get(&run).is_some_and(|b| b.host == host && b.acknowledged);
        promised.then(|| {
            self.books.remove(&run);
            Violation::LostRun(run)
        })
    }

    /// A requester shows a run; `whole` when its results are shown too.
    pub fn run(&mut self, host: HostId, view: &RunView, whole: bool) -> Vec<Violation> {
        let mut found = Vec::new();
        let Some(book) = self.books.get_mut(&view.run).filter(|b| b.host == host) else { return found };
        book.state = view.state;
        if let Some(was) = book.end.filter(|was| *was != view.state) {
            let (was, now) = (was.as_str(), view.state.as_str());
            found.push(Violation::EndChanged { run: view.run, was, now });
        }
        if view.state.is_terminal() {
            book.end.get_or_insert(view.state);
        }
        if whole && view.state == RunState::Succeeded {
            for (sink, digests) in &book.expected.sinks {
                let got: BTreeSet<Digest> =
                    view.results.iter().filter(|r| r.sink == *sink).map(|r| r.digest).collect();
                if got != digests.iter().copied().collect() {
                    found.push(Violation::WrongResult { run: view.run, sink: sink.clone() });
                }
            }
        }
        found
    }

    /// A requester shows a task of a run.
    pub fn task(&mut self, host: HostId, watches: &[Watch], run: RunId, task: &TaskView) -> Vec<Violation> {
        let mut found = Vec::new();
        let Some(book) = self.books.get_mut(&run).filter(|b| b.host == host) else { return found };
        let id = || task.id.clone();
        let at_work = matches!(task.state, TaskState::Active | TaskState::Committing | TaskState::Committed);
        if let Some(peer) = task.peer.filter(|_| at_work)
            && *book.fences.entry((id(), task.fence)).or_insert(peer) != peer
        {
            found.push(Violation::FenceReused { run, task: id(), fence: task.fence });
        }
        if task.state != TaskState::Committed {
            return found;
        }
        match book.committed.get(&task.id).copied() {
            Some(first) if first == task.fence => {}
            Some(first) => {
                found.push(Violation::DoubledCommit { run, task: id(), first, second: task.fence });
            }
            None => {
                book.committed.insert(id(), task.fence);
                self.receipts += 1;
                let requester = watches.get(host as usize).map(|w| w.key);
                let why = requester.and_then(|requester| receipt_fault(&requester, watches, run, task));
                found.extend(why.map(|why| Violation::BadReceipt { run, task: id(), why }));
            }
        }
        let wrong = task.outputs.iter().any(|(port, digest, _)| {
            let right = book.expected.outputs.get(&(id(), port.clone()));
            right.is_some_and(|right| right != digest)
        });
        if wrong {
            found.push(Violation::WrongOutput { run, task: id() });
        }
        found
    }
}

/// What is wrong with the receipt of a committed task, as somebody sees it who has nothing but the file and the names of
/// those concerned.
fn receipt_fault(requester: &PublicKey, watches: &[Watch], run: RunId, task: &TaskView) -> Option<String> {
    let Some(file) = &task.receipt else { return Some("there is none".into()) };
    let report = match verify_file(file) {
        Ok(report) => report,
        Err(why) => return Some(why.to_string()),
    };
    let outputs = report.outputs.iter().map(|o| (o.port.clone(), o.digest, o.len));
    let checks = [
        (report.requester == *requester, "another requester"),
        (watches.iter().any(|w| w.key == report.executor), "an executor nobody knows"),
        (task.peer.is_none_or(|peer| peer == report.executor), "another executor"),
        (report.run == run && report.task == task.id && report.fence == task.fence, "another attempt"),
        (task.exit.is_none_or(|exit| exit == report.exit), "another exit"),
        (report.verdict.0 == Verdict::Won, "a verdict that is not a commit"),
        (outputs.eq(task.outputs.iter().cloned()), "other outputs"),
    ];
    checks.into_iter().find(|(holds, _)| !holds).map(|(_, why)| format!("it speaks of {why}"))
}
