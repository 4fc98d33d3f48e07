//! Light jobs at their executor: what is not journaled, and when one turns out to be none.

use super::{Executor, Output};
use crate::id::JobId;
use crate::job::carried::is_what_was_said;
use crate::job::held::JobRecord;
use crate::job::order::Order;
use crate::machine::Cx;
use crate::port::{Program, layout_of};
use crate::store::{Room, StoreOp, Subject};
use bytes::Bytes;

/// Facts about a job that a light one does without. A job that must never start is journaled whatever it was.
pub(super) fn keeps_to_itself(record: &JobRecord) -> bool {
    match record {
        JobRecord::Admitted { .. }
        | JobRecord::Starting { .. }
        | JobRecord::Stopping
        | JobRecord::Sealed { .. }
        | JobRecord::Acked => true,
        JobRecord::Tombstone { .. } | JobRecord::Chain { .. } | JobRecord::Numbers { .. } => false,
    }
}

/// Why an order cannot be done as the light one that it says it is.
pub(super) fn fault(order: &Order, carried: Option<&[Bytes]>) -> Option<&'static str> {
    match carried {
        None if order.light => Some("a light order comes with its inputs"),
        None => None,
        Some(_) if !order.light => Some("only a light order comes with its inputs"),
        Some(_) if !matches!(order.program, Program::Wasm(_)) => Some("only WebAssembly modules run as light jobs"),
        Some(_) if has_trees(order) => Some("directories do not travel with an order"),
        Some(bytes) if !is_what_was_said(bytes, order.inputs.iter().map(|i| (i.digest, i.len))) => {
            Some("what came with the order is not what it names")
        }
        Some(_) => None,
    }
}

fn has_trees(order: &Order) -> bool {
    let inputs = order.inputs.iter().map(|i| &i.port);
    inputs.chain(&order.outputs).any(|port| layout_of(&order.paths, port).is_tree())
}

impl Executor {
    /// Whether a job is held of which nothing is journaled.
    pub(super) fn is_light(&self, job: &JobId) -> bool {
        self.soft.get(job).is_some_and(|s| s.carried.is_some())
    }

    /// From here on it is a job like others: what has happened to it so far is journaled.
    pub(super) fn journal_after_all(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let (Some(held), Some(soft)) = (self.held.get(job), self.soft.get_mut(job)) else { return };
        if soft.carried.take().is_none() {
            return;
        }
        let order = Box::new(held.order.clone());
        let admitted = JobRecord::Admitted { order, sources: held.sources.clone() }.encode(held.admitted);
        let starting = held.started.as_ref().map(|(at, fetched)| {
            let fetched = fetched.clone();
            JobRecord::Starting { fetched }.encode(*at)
        });
        for record in [Some(admitted), starting].into_iter().flatten() {
            let (subject, record) = (Subject::new(Room::Job, &job.0), Bytes::from(record));
            cx.emit(Output::Persist(StoreOp::Append { subject, record }));
        }
    }

    /// A light job was answered: nobody needs it any more, and a late copy of its order would do no more than be answered again.
    pub(super) fn forget_light(&mut self, job: &JobId) {
        let Some(held) = self.held.remove(job) else { return };
        self.soft.remove(job);
        self.forget_peer_without_jobs(&held.requester());
    }
}
