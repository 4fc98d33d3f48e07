//! A run as its requester's journal has it: records, and the state they fold to.
//!
//! [`Run::evolve`] is the only mutation. It is total: any sequence of decodable records yields a state. Nothing soft is in
//! here (who is connected, when something was last heard), so a restarted requester has exactly this and asks the world
//! for the rest.

use super::carried;
use super::encoding::{dict_of, string_of};
use super::order::Order;
use super::outcome::Tally;
use super::plan::{InputFrom, PLAN_BYTES_MAX, Plan, decode_workflow, encode_workflow, workflow_digest};
use super::quorum::{class_beside, words_beside};
use super::receipt::{Commit, Receipt};
use super::rules::{OnFailure, RunRules};
use super::signed::{Signed, Statement};
use super::workflow::Workflow;
use crate::codec::{DecodeError, Dict, Value};
use crate::command::RunState;
use crate::id::{Digest, JobId, PublicKey, RunId};
use crate::port::{EngineOutput, ExitClass};
use crate::time::{Duration, UnixTime};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Largest record of a run.
pub const RUN_RECORD_BYTES_MAX: usize = PLAN_BYTES_MAX + 4096;
/// Longest words about an end.
pub const END_WORDS_MAX: usize = 2_000;

/// Why an attempt is over without having won. The class decides about the next one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CloseClass {
    /// The task's own failure: exit code, trap.
    User,
    /// A limit was hit.
    Resource,
    /// It can never work.
    Permanent,
    /// A machine's or the network's trouble.
    Infra,
    /// The executor had no room.
    Busy,
    /// The executor will not run this; it is not asked again.
    Refused,
    /// The executor lied; it gets nothing more of this run.
    Byzantine,
    /// It was stopped because the run ends.
    Cancelled,
    /// Its executor says the same as the one whose receipt counts.
    Agreed,
    /// Its executor says otherwise than enough others, or than who was committed. It gets nothing more of this task.
    Dissent,
}

impl CloseClass {
    const ALL: [CloseClass; 10] = [
        CloseClass::User,
        CloseClass::Resource,
        CloseClass::Permanent,
        CloseClass::Infra,
        CloseClass::Busy,
        CloseClass::Refused,
        CloseClass::Byzantine,
        CloseClass::Cancelled,
        CloseClass::Agreed,
        CloseClass::Dissent,
    ];

    /// The class of a receipt that is no success. An execution that the executor stopped on its own is its trouble.
    pub fn of_exit(class: ExitClass) -> CloseClass {
        match class {
            ExitClass::User => CloseClass::User,
            ExitClass::Resource => CloseClass::Resource,
            ExitClass::Permanent => CloseClass::Permanent,
            ExitClass::Success | ExitClass::Infra | ExitClass::Cancelled => CloseClass::Infra,
        }
    }
}

/// Why a run is stopped before its tasks are over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StopReason {
    /// The user wants it.
    Cancel,
    /// It has taken longer than it may.
    Deadline,
}

/// One fact about a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunRecord {
    /// It was submitted and waits for peers before it can be planned.
    Submitted {
        /// What.
        workflow: Workflow,
    },
    /// It was compiled. The first record when nothing had to be waited for.
    Planned {
        /// The plan.
        plan: Plan,
    },
    /// An order is about to leave.
    Attempt {
        /// Index of the task.
        task: usize,
        /// The signed order; it names executor and fence.
        order: Signed<Order>,
    },
    /// The executor has it in its journal.
    Accepted {
        /// Index of the task.
        task: usize,
        /// Which attempt.
        fence: u32,
        /// The executor's incarnation.
        incarnation: u64,
    },
    /// An attempt is over without having won.
    Closed {
        /// Index of the task.
        task: usize,
        /// Which attempt.
        fence: u32,
        /// Why.
        class: CloseClass,
        /// Why, for people.
        words: String,
        /// Receipt and commit, when it ended with a receipt that verifies.
        proof: Option<(Signed<Receipt>, Signed<Commit>)>,
        /// What a light job left behind, as far as it came with the receipt.
        carried: Option<Vec<Bytes>>,
        /// Other attempts that are over with it, of a task that several executors do.
        others: Vec<Other>,
    },
    /// The one commit point: this receipt is the task's result.
    Committed {
        /// Index of the task.
        task: usize,
        /// The winning attempt.
        fence: u32,
        /// Its receipt.
        receipt: Signed<Receipt>,
        /// The signed commit.
        commit: Signed<Commit>,
        /// Its outputs, in the receipt's order, if they came with it.
        carried: Option<Vec<Bytes>>,
        /// Other attempts that are over with it, of a task that several executors do.
        others: Vec<Other>,
    },
    /// The task has failed for good.
    TaskFailed {
        /// Index of the task.
        task: usize,
        /// Why.
        words: String,
    },
    /// The user wants it stopped. Nothing is dispatched after this.
    CancelRequested,
    /// It is over.
    Ended {
        /// How: a terminal state.
        state: RunState,
        /// Why, for people; empty for a success.
        words: String,
        /// Whether everything that its sinks keep of what was computed is here, although it is no success.
        kept: bool,
    },
    /// The user wants nothing more dispatched until further notice.
    Paused,
    /// The user wants it to go on.
    Resumed,
    /// The task will never run.
    Skipped {
        /// Index of the task.
        task: usize,
        /// Why.
        words: String,
    },
    /// It has taken longer than it may. Nothing is dispatched after this.
    DeadlinePassed,
    /// An executor says that it has a result, and what it will show.
    Pledged {
        /// Index of the task.
        task: usize,
        /// Which attempt.
        fence: u32,
        /// See [`super::quorum::pledge_of`].
        hash: Digest,
    },
}

/// An attempt that another one decided about: what its executor said, and the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Other {
    /// Which attempt.
    pub fence: u32,
    /// Its receipt.
    pub receipt: Signed<Receipt>,
    /// The signed answer.
    pub commit: Signed<Commit>,
}

/// More attempts than this are never decided about at once: every candidate but one.
const OTHERS_MAX: usize = super::plan::CANDIDATES_MAX;

fn write_others(d: Dict, others: &[Other]) -> Dict {
    let one = |o: &Other| {
        let d = Dict::new().with("f", o.fence).with("m", o.commit.encode().as_slice());
        d.with("r", o.receipt.encode().as_slice()).into()
    };
    let list = (!others.is_empty()).then(|| others.iter().map(one).collect::<Vec<Value>>());
    d.with_some("others", list)
}

fn others_in(d: &Dict) -> Result<Vec<Other>, DecodeError> {
    if d.get("others").is_none() {
        return Ok(Vec::new());
    }
    let items = d.list("others", OTHERS_MAX)?;
    if items.is_empty() {
        return Err(DecodeError::invalid("others", "an empty list is not written"));
    }
    let one = |v: &Value| {
        let o = dict_of(v, "others")?;
        Ok(Other { fence: o.u32("f")?, receipt: signed_in(o, "r")?, commit: signed_in(o, "m")? })
    };
    items.iter().map(one).collect()
}

fn signed_in<T: Statement>(d: &Dict, key: &'static str) -> Result<Signed<T>, DecodeError> {
    Signed::decode(d.bytes(key, T::BODY_BYTES_MAX + 128)?)
}

fn task_dict(kind: u64, task: usize, fence: u32) -> Dict {
    Dict::new().with("k", kind).with("t", u64::try_from(task).unwrap_or(u64::MAX)).with("f", fence)
}

fn words_in(d: &Dict) -> Result<String, DecodeError> {
    string_of(d.need("w")?, "w", END_WORDS_MAX * 4)
}

impl RunRecord {
    /// Canonical bytes for the journal, with the wall time of the fact.
    pub fn encode(&self, at: UnixTime) -> Vec<u8> {
        let d = match self {
            RunRecord::Submitted { workflow } => {
                Dict::new().with("k", 0u64).with("wf", encode_workflow(workflow).as_slice())
            }
            RunRecord::Planned { plan } => Dict::new().with("k", 1u64).with("plan", plan.encode().as_slice()),
            RunRecord::Attempt { task, order } => {
                task_dict(2, *task, order.fence).with("o", order.encode().as_slice())
            }
            RunRecord::Accepted { task, fence, incarnation } => {
                task_dict(3, *task, *fence).with("inc", &incarnation.to_be_bytes()[..])
            }
            RunRecord::Closed { task, fence, class, words, proof, carried, others } => {
                let d = task_dict(4, *task, *fence).with("c", *class as u64).with("w", words.as_str());
                let d = write_others(carried::write(d, "out", carried.as_deref()), others);
                match proof {
                    Some((r, c)) => d.with("r", r.encode().as_slice()).with("m", c.encode().as_slice()),
                    None => d,
                }
            }
            RunRecord::Committed { task, fence, receipt, commit, carried, others } => {
                let d = task_dict(5, *task, *fence).with("r", receipt.encode().as_slice());
                let d = write_others(d, others);
                carried::write(d.with("m", commit.encode().as_slice()), "out", carried.as_deref())
            }
            RunRecord::TaskFailed { task, words } => task_dict(6, *task, 0).with("w", words.as_str()),
            RunRecord::CancelRequested => Dict::new().with("k", 7u64),
            RunRecord::Ended { state, words, kept } => {
                let state = match state {
                    RunState::Succeeded => 0u64,
                    RunState::Cancelled => 2,
                    RunState::Failed
                    | RunState::Validating
                    | RunState::Running
                    | RunState::Paused
                    | RunState::Cancelling
                    | RunState::Finalizing => 1,
                };
                let kept = kept.then_some(1u64);
                Dict::new().with("k", 8u64).with("s", state).with("w", words.as_str()).with_some("kept", kept)
            }
            RunRecord::Paused => Dict::new().with("k", 9u64),
            RunRecord::Resumed => Dict::new().with("k", 10u64),
            RunRecord::Skipped { task, words } => task_dict(11, *task, 0).with("w", words.as_str()),
            RunRecord::DeadlinePassed => Dict::new().with("k", 16u64).with("why", 1u64),
            RunRecord::Pledged { task, fence, hash } => task_dict(15, *task, *fence).with("h", hash),
        };
        d.with("at", at.as_millis()).with("v", 1u64).encode()
    }

    /// Reads what [`RunRecord::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<(RunRecord, UnixTime), DecodeError> {
        let d = Dict::decode(bytes, RUN_RECORD_BYTES_MAX)?;
        match d.u64("v")? {
            1 => {}
            number => return Err(DecodeError::Unknown { what: "run record version", number }),
        }
        let task = || d.u32("t").map(|t| t as usize);
        let record = match d.u64("k")? {
            0 => RunRecord::Submitted { workflow: decode_workflow(d.bytes("wf", PLAN_BYTES_MAX)?)? },
            1 => RunRecord::Planned { plan: Plan::decode(d.bytes("plan", PLAN_BYTES_MAX)?)? },
            2 => {
                let order: Signed<Order> = signed_in(&d, "o")?;
                if d.u32("f")? != order.fence {
                    return Err(DecodeError::invalid("f", "not the fence of the order"));
                }
                RunRecord::Attempt { task: task()?, order }
            }
            3 => RunRecord::Accepted {
                task: task()?,
                fence: d.u32("f")?,
                incarnation: u64::from_be_bytes(d.array("inc")?),
            },
            4 => {
                let number = d.u64("c")?;
                let class = CloseClass::ALL
                    .into_iter()
                    .find(|c| *c as u64 == number)
                    .ok_or(DecodeError::Unknown { what: "close class", number })?;
                let proof: Option<(Signed<Receipt>, Signed<Commit>)> = match d.get("r") {
                    Some(_) => Some((signed_in(&d, "r")?, signed_in(&d, "m")?)),
                    None => None,
                };
                let left = proof.as_ref().map(|(r, _)| r.outputs.len());
                let carried = match left {
                    Some(count) => carried::read(&d, "out", count)?,
                    None if d.get("out").is_some() => {
                        return Err(DecodeError::invalid("out", "nothing was left without a receipt"));
                    }
                    None => None,
                };
                let (task, fence, words) = (task()?, d.u32("f")?, words_in(&d)?);
                let others = others_in(&d)?;
                if proof.is_none() && !others.is_empty() {
                    return Err(DecodeError::invalid("others", "decided about without a receipt"));
                }
                RunRecord::Closed { task, fence, class, words, proof, carried, others }
            }
            5 => {
                let receipt: Signed<Receipt> = signed_in(&d, "r")?;
                let carried = carried::read(&d, "out", receipt.outputs.len())?;
                let (task, fence, commit) = (task()?, d.u32("f")?, signed_in(&d, "m")?);
                RunRecord::Committed { task, fence, receipt, commit, carried, others: others_in(&d)? }
            }
            6 if d.u32("f")? != 0 => return Err(DecodeError::invalid("f", "a failed task has no fence")),
            6 => RunRecord::TaskFailed { task: task()?, words: words_in(&d)? },
            7 => RunRecord::CancelRequested,
            8 => {
                let state = match d.u64("s")? {
                    0 => RunState::Succeeded,
                    1 => RunState::Failed,
                    2 => RunState::Cancelled,
                    number => return Err(DecodeError::Unknown { what: "run state", number }),
                };
                let kept = d.get("kept").is_some();
                if kept && (!d.flag("kept")? || state == RunState::Succeeded) {
                    return Err(DecodeError::invalid("kept", "what goes without saying is not written"));
                }
                RunRecord::Ended { state, words: words_in(&d)?, kept }
            }
            9 => RunRecord::Paused,
            10 => RunRecord::Resumed,
            11 if d.u32("f")? != 0 => return Err(DecodeError::invalid("f", "a skipped task has no fence")),
            11 => RunRecord::Skipped { task: task()?, words: words_in(&d)? },
            15 => RunRecord::Pledged { task: task()?, fence: d.u32("f")?, hash: d.digest("h")? },
            16 => match d.u64("why")? {
                1 => RunRecord::DeadlinePassed,
                number => return Err(DecodeError::Unknown { what: "reason to stop", number }),
            },
            number => return Err(DecodeError::Unknown { what: "run record", number }),
        };
        Ok((record, UnixTime::from_millis(d.u64("at")?)))
    }
}

/// An attempt that is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Closed {
    /// Why.
    pub class: CloseClass,
    /// Why, for people.
    pub words: String,
    /// Receipt and commit, if it ended with a receipt.
    pub proof: Option<(Signed<Receipt>, Signed<Commit>)>,
}

/// One order of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// The signed order.
    pub order: Signed<Order>,
    /// The job it names.
    pub job: JobId,
    /// The executor's incarnation, once it has accepted.
    pub incarnation: Option<u64>,
    /// Set when it is over without having won.
    pub closed: Option<Closed>,
    /// What its executor has pledged.
    pub pledge: Option<Digest>,
    /// Whether it was ordered when the task was already committed: only to be compared.
    pub audit: bool,
}

impl Attempt {
    /// Who was asked.
    pub fn peer(&self) -> PublicKey {
        self.order.executor
    }
}

/// How a task ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskEnd {
    /// By a receipt that was committed.
    Committed {
        /// The winning attempt.
        fence: u32,
        /// Its receipt.
        receipt: Box<Signed<Receipt>>,
        /// The signed commit.
        commit: Box<Signed<Commit>>,
        /// Whether its outputs came with it: its executor has forgotten them.
        carried: bool,
    },
    /// For good.
    Failed {
        /// Why.
        words: String,
    },
    /// Without having been tried: a condition does not hold, or something before it did not succeed.
    Skipped {
        /// Why.
        words: String,
    },
}

/// A task of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// Attempts in the order of their fences.
    pub attempts: Vec<Attempt>,
    /// Its end.
    pub end: Option<TaskEnd>,
    /// When the last record about it was written.
    pub since: UnixTime,
}

impl Task {
    /// The attempt with this fence.
    pub fn attempt(&self, fence: u32) -> Option<&Attempt> {
        self.attempts.iter().find(|a| a.order.fence == fence)
    }

    /// Attempts that may still win.
    pub fn open(&self) -> impl Iterator<Item = &Attempt> {
        let undecided = self.end.is_none();
        self.attempts.iter().filter(move |a| undecided && a.closed.is_none())
    }

    /// Attempts whose receipts will still be looked at: those that may win, and those that are only compared with what was
    /// committed.
    pub fn watched(&self) -> impl Iterator<Item = &Attempt> {
        let (open, committed) = (self.end.is_none(), self.receipt().map(|r| r.job));
        let compared =
            move |a: &&Attempt| committed.is_some_and(|won| won != a.job) && (a.audit || a.pledge.is_some());
        self.attempts.iter().filter(move |a| a.closed.is_none() && (open || compared(a)))
    }

    /// Attempts that their executors may still remember: not a light one that was answered.
    pub fn remembered(&self) -> impl Iterator<Item = &Attempt> {
        let forgotten = match &self.end {
            Some(TaskEnd::Committed { fence, carried: true, .. }) => Some(*fence),
            Some(TaskEnd::Committed { .. } | TaskEnd::Failed { .. } | TaskEnd::Skipped { .. }) | None => None,
        };
        self.attempts.iter().filter(move |a| Some(a.order.fence) != forgotten)
    }

    /// The committed receipt.
    pub fn receipt(&self) -> Option<&Signed<Receipt>> {
        match &self.end {
            Some(TaskEnd::Committed { receipt, .. }) => Some(receipt),
            Some(TaskEnd::Failed { .. } | TaskEnd::Skipped { .. }) | None => None,
        }
    }

    /// The committed receipt, or that of the last failure.
    pub fn last_receipt(&self) -> Option<&Signed<Receipt>> {
        self.receipt().or_else(|| self.last_failure().map(|(_, r, _)| r))
    }

    /// The last attempt that counts as a failure, with its receipt and the answer. Whoever only agreed with another or was
    /// outvoted is not it.
    pub fn last_failure(&self) -> Option<(&Attempt, &Signed<Receipt>, &Signed<Commit>)> {
        let failed = |a: &'_ Attempt| match a.closed.as_ref().map(|c| c.class) {
            Some(CloseClass::Agreed | CloseClass::Dissent) | None => false,
            Some(
                CloseClass::User
                | CloseClass::Resource
                | CloseClass::Permanent
                | CloseClass::Infra
                | CloseClass::Busy
                | CloseClass::Refused
                | CloseClass::Byzantine
                | CloseClass::Cancelled,
            ) => true,
        };
        let proof = |a: &'_ Attempt| a.closed.as_ref().and_then(|c| c.proof.as_ref()).is_some();
        let last = self.attempts.iter().rev().find(|a| failed(a) && proof(a))?;
        let (receipt, commit) = last.closed.as_ref()?.proof.as_ref()?;
        Some((last, receipt, commit))
    }

    /// What executors have said of it, as far as that was decided, with the one that counts first.
    pub fn said(&self) -> impl Iterator<Item = (&Attempt, &Signed<Receipt>)> {
        let won = match &self.end {
            Some(TaskEnd::Committed { fence, receipt, .. }) => self.attempt(*fence).map(|a| (a, &**receipt)),
            Some(TaskEnd::Failed { .. } | TaskEnd::Skipped { .. }) | None => None,
        };
        let closed = self.attempts.iter().filter_map(|a| Some((a, &a.closed.as_ref()?.proof.as_ref()?.0)));
        won.into_iter().chain(closed)
    }

    /// Attempts closed for one of `classes`.
    pub fn closed_for(&self, classes: &[CloseClass]) -> usize {
        self.attempts.iter().filter_map(|a| a.closed.as_ref()).filter(|c| classes.contains(&c.class)).count()
    }
}

/// A run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Which.
    pub id: RunId,
    /// When it was submitted.
    pub submitted: UnixTime,
    /// Its name.
    pub name: String,
    /// Digest of its workflow: two submissions with the same one are the same run.
    pub workflow: Digest,
    /// The workflow while it is not yet planned.
    pub pending: Option<Workflow>,
    /// The plan.
    pub plan: Option<Plan>,
    /// Digest of the plan.
    pub spec: Digest,
    /// Tasks in the plan's order.
    pub tasks: Vec<Task>,
    /// Why and since when it is being stopped.
    pub stopping: Option<(StopReason, UnixTime)>,
    /// Since when it is paused.
    pub paused: Option<UnixTime>,
    /// How long it was paused before.
    pub paused_for: Duration,
    /// Its end.
    pub ended: Option<(RunState, String, UnixTime)>,
    /// Whether everything that its sinks keep of what was computed was here at its end.
    pub kept: bool,
    /// What light jobs left behind, until the end.
    carried: BTreeMap<Digest, Bytes>,
    carried_bytes: usize,
    /// What its tasks have come to so far, because that is asked for at every step.
    tally: Tally,
}

impl Run {
    /// A run before its first record.
    pub fn new(id: RunId) -> Run {
        let none = Digest([0; 32]);
        Run {
            id,
            submitted: UnixTime::default(),
            name: String::new(),
            workflow: none,
            pending: None,
            plan: None,
            spec: none,
            tasks: Vec::new(),
            stopping: None,
            paused: None,
            paused_for: Duration::ZERO,
            ended: None,
            kept: false,
            carried: BTreeMap::new(),
            carried_bytes: 0,
            tally: Tally::default(),
        }
    }

    /// Applies one record: the only mutation.
    pub fn evolve(&mut self, record: RunRecord, at: UnixTime) {
        match record {
            RunRecord::Submitted { workflow } => {
                self.submitted = at;
                self.name = workflow.name.clone();
                self.workflow = workflow_digest(&workflow);
                self.pending = Some(workflow);
            }
            RunRecord::Planned { plan } => {
                if self.pending.take().is_none() {
                    self.submitted = at;
                }
                self.name = plan.name.clone();
                self.workflow = plan.workflow;
                self.spec = plan.spec_digest();
                self.tasks = vec![Task { attempts: Vec::new(), end: None, since: at }; plan.tasks.len()];
                self.tally = Tally::new(&plan);
                self.plan = Some(plan);
            }
            RunRecord::Attempt { task, order } => {
                let job = order.job();
                if let Some(t) = self.touch(task, at) {
                    let audit = t.receipt().is_some();
                    let fresh = Attempt { order, job, incarnation: None, closed: None, pledge: None, audit };
                    t.attempts.push(fresh);
                }
            }
            RunRecord::Accepted { task, fence, incarnation } => {
                if let Some(a) = self.touch(task, at).and_then(|t| attempt_mut(t, fence)) {
                    a.incarnation = Some(incarnation);
                }
            }
            RunRecord::Pledged { task, fence, hash } => {
                if let Some(a) = self.touch(task, at).and_then(|t| attempt_mut(t, fence)) {
                    a.pledge = Some(hash);
                }
            }
            RunRecord::Closed { task, fence, class, words, proof, carried, others } => {
                if let Some((receipt, _)) = &proof {
                    self.carry(receipt, carried);
                    self.decide(task, receipt, others, at);
                }
                if let Some(a) = self.touch(task, at).and_then(|t| attempt_mut(t, fence)) {
                    a.closed = Some(Closed { class, words, proof });
                }
            }
            RunRecord::Committed { task, fence, receipt, commit, carried, others } => {
                let is_carried = carried.is_some();
                self.decide(task, &receipt, others, at);
                self.carry(&receipt, carried);
                let (receipt, commit) = (Box::new(receipt), Box::new(commit));
                self.finish(task, at, TaskEnd::Committed { fence, receipt, commit, carried: is_carried });
            }
            RunRecord::TaskFailed { task, words } => {
                self.finish(task, at, TaskEnd::Failed { words });
            }
            RunRecord::Skipped { task, words } => {
                self.finish(task, at, TaskEnd::Skipped { words });
            }
            RunRecord::CancelRequested => self.stopping = Some((StopReason::Cancel, at)),
            RunRecord::DeadlinePassed => self.stopping = Some((StopReason::Deadline, at)),
            RunRecord::Paused => self.paused = Some(at),
            RunRecord::Resumed => {
                if let Some(since) = self.paused.take() {
                    self.paused_for = self.paused_for.saturating_add(at.since(since));
                }
            }
            RunRecord::Ended { state, words, kept } => {
                self.pending = None;
                self.carried.clear();
                self.carried_bytes = 0;
                self.kept = kept || state == RunState::Succeeded;
                self.ended = Some((state, words, at));
            }
        }
    }

    fn touch(&mut self, task: usize, at: UnixTime) -> Option<&mut Task> {
        let t = self.tasks.get_mut(task)?;
        t.since = at;
        Some(t)
    }

    /// Attempts that are over because of what `decided` says.
    fn decide(&mut self, task: usize, decided: &Receipt, others: Vec<Other>, at: UnixTime) {
        let Some(t) = self.touch(task, at) else { return };
        for Other { fence, receipt, commit } in others {
            let class = class_beside(decided, &receipt);
            let words = words_beside(class, &receipt);
            if let Some(a) = attempt_mut(t, fence) {
                a.closed = Some(Closed { class, words, proof: Some((receipt, commit)) });
            }
        }
    }

    fn finish(&mut self, task: usize, at: UnixTime, end: TaskEnd) {
        let Some(t) = self.touch(task, at) else { return };
        let before = t.end.replace(end);
        if let Some(plan) = &self.plan {
            self.tally.ended_now(plan, &self.tasks, task, before.as_ref());
        }
    }

    fn carry(&mut self, receipt: &Receipt, carried: Option<Vec<Bytes>>) {
        for (output, bytes) in receipt.outputs.iter().zip(carried.into_iter().flatten()) {
            let len = bytes.len();
            if self.carried.insert(output.digest, bytes).is_none() {
                self.carried_bytes += len;
            }
        }
    }

    /// What a light job of this run left behind, until the run ends.
    pub fn carried(&self, digest: &Digest) -> Option<&Bytes> {
        self.carried.get(digest)
    }

    /// Bytes of all that light jobs left behind.
    pub fn carried_bytes(&self) -> usize {
        self.carried_bytes
    }

    /// How many tasks are committed.
    pub fn committed(&self) -> usize {
        self.tally.committed()
    }

    /// How many tasks have failed for good.
    pub fn failed(&self) -> usize {
        self.tally.failed()
    }

    /// How many tasks were skipped.
    pub fn skipped(&self) -> usize {
        self.tally.skipped()
    }

    /// What was said of the whole run.
    pub fn rules(&self) -> RunRules {
        let planned = self.plan.as_ref().map(|p| p.rules);
        planned.or_else(|| self.pending.as_ref().map(|w| w.rules)).unwrap_or_default()
    }

    /// When it must have ended, if it is not paused and may not take for ever.
    pub fn deadline(&self) -> Option<UnixTime> {
        let timeout = self.rules().timeout().filter(|_| self.paused.is_none())?;
        Some(self.submitted.plus(timeout).plus(self.paused_for))
    }

    /// The state a user sees.
    pub fn state(&self) -> RunState {
        let stops = || self.tally.unhandled().is_some() && self.rules().on_failure == OnFailure::Stop;
        match &self.ended {
            Some((state, ..)) => *state,
            None if self.stopping.is_some() => RunState::Cancelling,
            None if self.plan.is_none() => RunState::Validating,
            None if self.tally.ended() == self.tasks.len() || stops() => RunState::Finalizing,
            None if self.paused.is_some() => RunState::Paused,
            None => RunState::Running,
        }
    }

    /// The first task that failed for good and whose failure nothing in the workflow handles, with its reason.
    pub fn failed_task(&self) -> Option<(usize, &str)> {
        let first = self.tally.unhandled()?;
        match &self.tasks.get(first)?.end {
            Some(TaskEnd::Failed { words }) => Some((first, words.as_str())),
            Some(TaskEnd::Committed { .. } | TaskEnd::Skipped { .. }) | None => None,
        }
    }

    /// The committed output that an input names, and who holds it.
    pub fn output_of(&self, from: &InputFrom) -> Option<(PublicKey, &EngineOutput)> {
        match from {
            InputFrom::Object(_) => None,
            InputFrom::Task { task, port } => {
                let receipt = self.tasks.get(*task)?.receipt()?;
                Some((receipt.executor, receipt.output(port)?))
            }
        }
    }
}

fn attempt_mut(task: &mut Task, fence: u32) -> Option<&mut Attempt> {
    task.attempts.iter_mut().find(|a| a.order.fence == fence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Keypair;
    use crate::job::order::tests::order;

    #[test]
    fn an_attempt_is_journaled_under_the_fence_of_its_order_or_refused() {
        let (a, b) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
        let record = RunRecord::Attempt { task: 0, order: Signed::sign(order(&a, &b), &a) };
        let bytes = record.encode(UnixTime::from_secs(1));
        assert_eq!(RunRecord::decode(&bytes), Ok((record, UnixTime::from_secs(1))));
        // Found by fuzzing: another fence beside the order was passed over.
        let other = Dict::decode(&bytes, RUN_RECORD_BYTES_MAX).unwrap().with("f", 2u64);
        assert!(matches!(RunRecord::decode(&other.encode()), Err(DecodeError::Invalid { key: "f", .. })));
    }
}
