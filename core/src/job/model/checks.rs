//! What must hold of every record at the moment it is written, and of every message when it leaves.

use super::world::World;
use crate::command::RunState;
use crate::id::{Digest, JobId, PublicKey};
use crate::job::message::Message;
use crate::job::order::Order;
use crate::job::plan::{InputFrom, Plan};
use crate::job::receipt::Verdict;
use crate::job::rules::Join;
use crate::job::run::{CloseClass, RunRecord};
use crate::job::signed::Signed;
use std::collections::{BTreeMap, BTreeSet};

/// What the requester's records have said so far.
#[derive(Default)]
pub(super) struct Seen {
    plan: Option<Plan>,
    cancelled: bool,
    ended: bool,
    orders: BTreeMap<(usize, u32), Signed<Order>>,
    /// Digests of the orders.
    ordered: BTreeSet<Digest>,
    committed: BTreeSet<usize>,
    /// Tasks that are over without a result.
    over: BTreeSet<usize>,
    paused: bool,
    /// Digests of the receipts that were committed.
    won: BTreeSet<Digest>,
    /// Outputs of committed tasks.
    outputs: BTreeSet<Digest>,
    liars: BTreeSet<PublicKey>,
    /// What was pledged.
    pledged: BTreeMap<JobId, Digest>,
}

impl Seen {
    fn plan(&self) -> &Plan {
        self.plan.as_ref().expect("nothing is ordered before there is a plan")
    }
}

impl World {
    /// What must hold at the moment a record is written.
    pub(super) fn check_record(&mut self, record: &RunRecord) {
        let seen = &mut self.seen;
        assert!(!seen.ended, "nothing is written after the end: {record:?}");
        match record {
            RunRecord::Planned { plan } => assert!(seen.plan.replace(plan.clone()).is_none(), "planned once"),
            RunRecord::Attempt { task, order } => {
                assert!(!seen.cancelled, "an order after the cancel");
                assert!(!seen.paused, "an order while the run is paused");
                let audited = seen.plan().tasks[*task].rules.audit_ppm.is_some();
                assert!(audited || !seen.committed.contains(task), "an order for what is done");
                assert!(!seen.over.contains(task), "an order for what is over");
                let before = seen.orders.range((*task, 0)..=(*task, u32::MAX)).next_back();
                assert!(before.is_none_or(|((_, fence), _)| *fence < order.fence), "fences rise");
                assert!(!seen.liars.contains(&order.executor), "an order to a peer that has lied");
                let planned = &seen.plan().tasks[*task];
                assert!(planned.candidates.contains(&order.executor), "an order to somebody else");
                let given = planned.inputs.iter().filter(|i| match &i.from {
                    InputFrom::Object(_) => true,
                    InputFrom::Task { task, .. } => seen.committed.contains(task),
                });
                let given: Vec<_> = given.collect();
                let over = |i: &InputFrom| match i {
                    InputFrom::Object(_) => true,
                    InputFrom::Task { task, .. } => seen.committed.contains(task) || seen.over.contains(task),
                };
                assert!(
                    planned.inputs.iter().all(|i| over(&i.from)),
                    "an order before its inputs are decided"
                );
                assert!(planned.rules.join != Join::All || given.len() == planned.inputs.len());
                assert_eq!(given.len(), order.inputs.len(), "an order without all its inputs");
                for (input, planned) in order.inputs.iter().zip(given) {
                    match &planned.from {
                        InputFrom::Object(o) => assert_eq!(o.digest, input.digest),
                        InputFrom::Task { task, .. } => {
                            assert!(seen.committed.contains(task), "an input that nobody committed");
                            assert!(seen.outputs.contains(&input.digest), "an input that nobody computed");
                        }
                    }
                }
                seen.ordered.insert(order.digest());
                seen.orders.insert((*task, order.fence), order.clone());
            }
            RunRecord::Closed { task, fence, class, .. } => {
                let order = &seen.orders[&(*task, *fence)];
                if *class == CloseClass::Byzantine {
                    seen.liars.insert(order.executor);
                }
            }
            RunRecord::Pledged { task, fence, hash } => {
                let order = &seen.orders[&(*task, *fence)];
                assert!(order.pledge, "a pledge that nobody asked for");
                assert!(seen.pledged.insert(order.job(), *hash).is_none(), "pledged twice");
            }
            RunRecord::Committed { task, fence, receipt, others, .. } => {
                if let Some(quorum) = seen.plan().tasks[*task].rules.quorum {
                    let agreed = others.iter().filter(|o| o.receipt.result == receipt.result);
                    let agreed: BTreeSet<PublicKey> =
                        agreed.map(|o| o.receipt.executor).chain([receipt.executor]).collect();
                    assert!(agreed.len() >= quorum.agree as usize, "committed although too few agree");
                    for o in others {
                        assert_eq!(o.receipt.answers(&seen.orders[&(*task, o.fence)]), Ok(()));
                        assert!(seen.pledged.contains_key(&o.receipt.job), "it was not pledged");
                    }
                    assert!(seen.pledged.contains_key(&receipt.job), "it was not pledged");
                }
                assert!(seen.committed.insert(*task), "a task is committed once");
                assert!(!seen.over.contains(task), "a task has one end");
                assert_eq!(receipt.answers(&seen.orders[&(*task, *fence)]), Ok(()));
                seen.won.insert(receipt.digest());
                seen.outputs.extend(receipt.outputs.iter().map(|o| o.digest));
            }
            RunRecord::Ended { state: RunState::Succeeded, .. } => {
                assert!(!seen.cancelled);
                let ended = seen.committed.len() + seen.over.len();
                assert_eq!(ended, seen.plan().tasks.len(), "a success without all its tasks");
                let run = self.folded.values().next().expect("the run");
                assert!(run.failed_task().is_none(), "a success although something has failed");
                for from in seen.plan().sinks.iter().flat_map(|s| &s.inputs) {
                    if let InputFrom::Task { .. } = from {
                        let Some((_, kept)) = run.output_of(from) else { continue };
                        assert!(self.here.contains(&kept.digest), "a success whose result is not here");
                    }
                }
                seen.ended = true;
            }
            RunRecord::Ended { .. } => seen.ended = true,
            RunRecord::CancelRequested | RunRecord::DeadlinePassed => seen.cancelled = true,
            RunRecord::TaskFailed { task, .. } | RunRecord::Skipped { task, .. } => {
                assert!(!seen.committed.contains(task) && seen.over.insert(*task), "a task has one end");
            }
            RunRecord::Paused => seen.paused = true,
            RunRecord::Resumed => seen.paused = false,
            RunRecord::Submitted { .. } | RunRecord::Accepted { .. } => {}
        }
    }

    /// No executor is told that its result won before that is durable, and nothing leaves that was not journaled.
    pub(super) fn check_sent(&self, message: &Message) {
        match message {
            Message::ResultAck { commit } if commit.verdict == Verdict::Won => {
                assert!(self.seen.won.contains(&commit.receipt), "acknowledged before it was committed");
            }
            Message::Reveal { job } => {
                assert!(self.seen.pledged.contains_key(job), "to be shown before the pledge is durable");
            }
            Message::Dispatch { order, .. } => {
                assert!(self.seen.ordered.contains(&order.digest()), "ordered before it was journaled");
            }
            _ => {}
        }
    }
}
