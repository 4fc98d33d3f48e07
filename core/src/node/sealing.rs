//! Outputs that are there when a receipt promises them.
//!
//! Objects are named by their content, so what a job leaves may be an object that the store has already and that
//! another job is giving up at this very moment: its removal was decided before the execution ended, and may be carried
//! out after. A receipt over an object that is gone is a promise nobody can keep, and the task it commits is never done
//! again. So between the end of an execution and its receipt the outputs are held against removal, removals of them
//! that are under way are waited for, and then the store is asked for each. If one is gone, the job is executed again,
//! as after a crash. What a light job carries beside its end is no object, and not asked for.

use crate::id::{Digest, JobId, OpId, OpIds};
use crate::port::{EngineEvent, EngineExit, EngineReport};
use std::collections::{BTreeMap, BTreeSet};

/// An execution that ended and has no receipt yet.
#[derive(Debug)]
struct Exit {
    report: EngineReport,
    outputs: BTreeSet<Digest>,
    /// Outputs the store is still to be asked for, or to answer for; `None` while removals are waited for.
    unanswered: Option<usize>,
    gone: bool,
}

/// Whether the outputs themselves are in the report.
fn is_carried(exit: &EngineExit) -> bool {
    exit.carried.as_ref().is_some_and(|carried| carried.len() == exit.outputs.len())
}

/// What the store's answers come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// All outputs are there: the executor may know.
    There(EngineReport),
    /// One is gone: once more.
    Gone(JobId),
}

/// Ends of executions on their way to the executor, and removals on their way to the store. Bounded by the jobs that
/// run and by the removals that the store has not answered.
#[derive(Debug)]
pub struct Sealing {
    ids: OpIds,
    removing: BTreeMap<OpId, Digest>,
    looking: BTreeMap<OpId, JobId>,
    exits: BTreeMap<JobId, Exit>,
}

impl Sealing {
    /// Nothing has ended yet; questions are numbered in the room with this number.
    pub fn new(room: u8) -> Self {
        Self {
            ids: OpIds::new(room),
            removing: BTreeMap::new(),
            looking: BTreeMap::new(),
            exits: BTreeMap::new(),
        }
    }

    /// Whether an output that is not yet in a receipt must stay.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.exits.values().any(|e| e.outputs.contains(digest))
    }

    /// The store is asked to remove an object.
    pub fn removing(&mut self, op: OpId, digest: Digest) {
        self.removing.insert(op, digest);
    }

    /// Whether the store has not yet answered a removal of it.
    pub fn is_removing(&self, digest: &Digest) -> bool {
        self.removing.values().any(|d| d == digest)
    }

    /// Removals that the store has not answered.
    pub fn removals(&self) -> usize {
        self.removing.len()
    }

    /// Whether one of them is of an object in a list that is in the order of digests.
    pub fn is_removing_any(&self, objects: &[(Digest, u64)]) -> bool {
        self.removing.values().any(|d| objects.binary_search_by_key(d, |(object, _)| *object).is_ok())
    }

    /// The engine reports. What leaves no outputs is given back at once; a second end of the same execution is nothing.
    pub fn reported(&mut self, report: EngineReport) -> Option<EngineReport> {
        let outputs: BTreeSet<Digest> = match &report.event {
            EngineEvent::Started => BTreeSet::new(),
            EngineEvent::Exited(exit) if is_carried(exit) => BTreeSet::new(),
            EngineEvent::Exited(exit) => exit.outputs.iter().map(|o| o.digest).collect(),
        };
        if outputs.is_empty() {
            return Some(report);
        }
        self.exits.entry(report.job).or_insert(Exit { report, outputs, unanswered: None, gone: false });
        None
    }

    /// Outputs that the store is to be asked for now. Each must be asked for, with [`Sealing::asked`].
    pub fn next_questions(&mut self) -> Vec<(JobId, Digest)> {
        let mut ask = Vec::new();
        for (job, exit) in self.exits.iter_mut().filter(|(_, e)| e.unanswered.is_none()) {
            if self.removing.values().any(|d| exit.outputs.contains(d)) {
                continue;
            }
            exit.unanswered = Some(exit.outputs.len());
            ask.extend(exit.outputs.iter().map(|d| (*job, *d)));
        }
        ask
    }

    /// The store is asked for an output of `job`, under this number.
    pub fn asked(&mut self, job: JobId) -> OpId {
        let op = self.ids.issue();
        self.looking.insert(op, job);
        op
    }

    /// The store answers. `there`: it has the object. Follow with [`Sealing::next_questions`].
    pub fn answered(&mut self, op: OpId, there: bool) -> Option<Verdict> {
        self.removing.remove(&op);
        let job = self.looking.remove(&op)?;
        let exit = self.exits.get_mut(&job)?;
        exit.gone |= !there;
        let left = exit.unanswered?.saturating_sub(1);
        exit.unanswered = Some(left);
        if left > 0 {
            return None;
        }
        let exit = self.exits.remove(&job)?;
        Some(if exit.gone { Verdict::Gone(job) } else { Verdict::There(exit.report) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::{EngineOutput, ExitClass, Port, Usage};

    fn output(n: u8, port: Port) -> EngineOutput {
        EngineOutput { port, digest: Digest([n; 32]), len: 1, truncated: false }
    }

    fn exited(job: u8, outputs: Vec<EngineOutput>) -> EngineReport {
        let exit = EngineExit {
            class: ExitClass::Success,
            code: 0,
            detail: String::new(),
            usage: Usage::default(),
            outputs,
            carried: None,
        };
        EngineReport { job: JobId([job; 16]), event: EngineEvent::Exited(exit) }
    }

    #[test]
    fn an_end_waits_for_removals_of_its_outputs_and_then_for_the_store() {
        let (mut sealing, mut ops) = (Sealing::new(5), OpIds::new(4));
        let (removal, other) = (ops.issue(), ops.issue());
        sealing.removing(removal, Digest([7; 32]));
        sealing.removing(other, Digest([9; 32]));
        let report = exited(1, vec![output(7, Port::Stdout), output(8, Port::Stderr)]);
        assert_eq!(sealing.reported(report.clone()), None);
        assert!(sealing.holds(&Digest([7; 32])) && sealing.holds(&Digest([8; 32])));
        assert_eq!(sealing.next_questions(), []);
        assert_eq!(sealing.answered(removal, true), None);
        let job = JobId([1; 16]);
        assert_eq!(sealing.next_questions(), [(job, Digest([7; 32])), (job, Digest([8; 32]))]);
        assert_eq!(sealing.next_questions(), [], "each is asked for once");
        let (first, second) = (sealing.asked(job), sealing.asked(job));
        assert_eq!(sealing.answered(first, true), None);
        assert_eq!(sealing.answered(second, true), Some(Verdict::There(report)));
        assert!(!sealing.holds(&Digest([7; 32])));
    }

    #[test]
    fn an_output_that_is_gone_means_once_more() {
        let mut sealing = Sealing::new(5);
        let same = vec![output(7, Port::Stdout), output(7, Port::Stderr)];
        assert_eq!(sealing.reported(exited(1, same)), None);
        let asked = sealing.next_questions();
        assert_eq!(asked.len(), 1, "one object at two ports is one object");
        let op = sealing.asked(asked[0].0);
        assert_eq!(sealing.answered(op, false), Some(Verdict::Gone(JobId([1; 16]))));
        assert_eq!(sealing.answered(op, false), None);
    }

    #[test]
    fn what_is_carried_is_not_asked_for() {
        let mut sealing = Sealing::new(5);
        let mut report = exited(1, vec![output(7, Port::Stdout)]);
        if let EngineEvent::Exited(exit) = &mut report.event {
            exit.carried = Some(vec![bytes::Bytes::from_static(b"x")]);
        }
        assert_eq!(sealing.reported(report.clone()), Some(report));
        assert!(!sealing.holds(&Digest([7; 32])));
    }

    #[test]
    fn what_leaves_nothing_is_not_held_up() {
        let mut sealing = Sealing::new(5);
        assert_eq!(sealing.reported(exited(1, Vec::new())), Some(exited(1, Vec::new())));
        let started = EngineReport { job: JobId([1; 16]), event: EngineEvent::Started };
        assert_eq!(sealing.reported(started.clone()), Some(started));
    }
}
