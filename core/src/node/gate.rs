//! Durable before send.
//!
//! State that others may rely on is journaled before its effect leaves. All records of one settling go into one batch
//! with one log sequence number; every effect that leaves a journaling machine is stamped with the newest batch its
//! machine may depend on, and waits here until the store says that this batch is durable. Effects leave in the order
//! in which they came, so an effect never overtakes an earlier one of the same machine. A QUIC acknowledgement is not
//! durability, and neither is a write that was not synced.

use crate::action::Action;
use crate::codec::Frame;
use crate::id::{Lsn, PublicKey};
use crate::store::StoreOp;
use std::collections::VecDeque;

/// Something that must not happen before the journal is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send a frame on the peer's control stream (dropped when there is none: its machine sends it again on reconnect).
    Frame {
        /// To whom.
        peer: PublicKey,
        /// What.
        frame: Frame,
    },
    /// Ask the outside.
    Action(Action),
}

/// Batches records and holds effects back until they are durable.
#[derive(Debug, Default)]
pub struct Gate {
    batch: Vec<StoreOp>,
    issued: Lsn,
    durable: Lsn,
    held: VecDeque<(Lsn, Effect)>,
}

impl Gate {
    /// A gate whose journal is durable up to `last`.
    pub fn new(last: Lsn) -> Self {
        Self { issued: last, durable: last, ..Self::default() }
    }

    /// Adds a record to the current batch.
    pub fn persist(&mut self, op: StoreOp) {
        self.batch.push(op);
    }

    /// Holds `effect` until everything recorded so far is durable.
    pub fn hold(&mut self, effect: Effect) {
        let needs = if self.batch.is_empty() { self.issued } else { Lsn(self.issued.0 + 1) };
        self.held.push_back((needs, effect));
    }

    /// Ends the current batch; `None` when nothing was recorded.
    pub fn close_batch(&mut self) -> Option<Action> {
        if self.batch.is_empty() {
            return None;
        }
        self.issued = Lsn(self.issued.0 + 1);
        Some(Action::Persist { lsn: self.issued, ops: std::mem::take(&mut self.batch) })
    }

    /// The store says that everything up to `up_to` is durable. What was never issued is ignored.
    pub fn durable(&mut self, up_to: Lsn) {
        self.durable = self.durable.max(up_to.min(self.issued));
    }

    /// The next effect that may happen now.
    pub fn release(&mut self) -> Option<Effect> {
        match self.held.front() {
            Some((needs, _)) if *needs <= self.durable => self.held.pop_front().map(|(_, effect)| effect),
            Some(_) => None,
            None => {
                // A node at rest keeps no room for what a busy moment held.
                self.held = VecDeque::new();
                None
            }
        }
    }

    /// Whether nothing is recorded, under way or held.
    pub fn is_at_rest(&self) -> bool {
        self.batch.is_empty() && self.held.is_empty() && self.durable == self.issued
    }

    /// Effects held.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Room, Subject};

    fn op(n: u8) -> StoreOp {
        StoreOp::Forget { subject: Subject::new(Room::Node, &[n]) }
    }

    fn effect(n: u64) -> Effect {
        Effect::Action(Action::Reply { id: crate::id::CommandId(n), reply: crate::command::Reply::Done })
    }

    #[test]
    fn an_effect_waits_for_the_records_before_it_and_for_no_others() {
        let mut gate = Gate::new(Lsn(7));
        gate.hold(effect(1));
        assert_eq!(gate.release(), Some(effect(1)));
        gate.persist(op(1));
        gate.hold(effect(2));
        assert_eq!(gate.release(), None);
        assert_eq!(gate.close_batch(), Some(Action::Persist { lsn: Lsn(8), ops: vec![op(1)] }));
        assert_eq!(gate.close_batch(), None);
        gate.persist(op(2));
        gate.hold(effect(3));
        assert!(gate.close_batch().is_some());
        gate.durable(Lsn(8));
        assert_eq!(gate.release(), Some(effect(2)));
        assert_eq!(gate.release(), None);
        gate.durable(Lsn(9));
        assert_eq!(gate.release(), Some(effect(3)));
        assert!(gate.is_at_rest());
    }

    #[test]
    fn an_effect_without_records_of_its_own_never_overtakes() {
        let mut gate = Gate::new(Lsn(0));
        gate.persist(op(1));
        gate.hold(effect(1));
        assert!(gate.close_batch().is_some());
        gate.hold(effect(2));
        assert_eq!(gate.release(), None);
        gate.durable(Lsn(5));
        assert_eq!(gate.release(), Some(effect(1)));
        assert_eq!(gate.release(), Some(effect(2)));
    }
}
