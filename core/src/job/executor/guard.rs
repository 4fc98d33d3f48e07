//! The owner's policy at the door: asked before a job of a peer is admitted, told when one is and when one ends.
//!
//! Asked last, behind everything that a service itself says: what a peer must not know to exist is not refused by a rule with a
//! name. The book of the day is journaled with the admission that it counts, in one batch, and only while some rule counts by
//! the day.

use super::orders::Refused;
use super::{Executor, Output};
use crate::codec::DecodeError;
use crate::id::{JobId, PublicKey};
use crate::job::message::Refusal;
use crate::job::order::Order;
use crate::machine::Cx;
use crate::port::Usage;
use crate::service::policy::{Asked, Decision, Ledger, Policy, Spent};
use crate::store::{Room, StoreOp, StoredRecord, Subject};
use crate::time::UnixTime;
use bytes::Bytes;

/// Under which the policy itself is journaled. Lines of the book have public keys instead, which are longer.
const POLICY_KEY: &[u8] = b"policy";

/// The policy in force, and the book of the day.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    policy: Policy,
    book: Ledger,
}

impl Executor {
    /// Folds the records of [`Room::Policy`]; others are skipped. The error names the record.
    pub fn restore_policy(&mut self, records: &[StoredRecord]) -> Result<(), (u64, DecodeError)> {
        for r in records.iter().filter(|r| r.subject.room == Room::Policy) {
            let at = |e| (r.lsn.0, e);
            if r.subject.key == POLICY_KEY {
                self.guard.policy = Policy::decode(&r.record).map_err(at)?;
            } else {
                let key = PublicKey::from_slice(&r.subject.key)
                    .map_err(|e| at(DecodeError::invalid("key", e.to_string())))?;
                self.guard.book.restore(key, &r.record).map_err(at)?;
            }
        }
        Ok(())
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        &self.guard.policy
    }

    /// What each requester has used on the day of `now`, as far as it is counted.
    pub fn used_today(&self, now: UnixTime) -> Vec<(PublicKey, Spent)> {
        let day = self.guard.policy.day(now);
        self.guard.book.lines(day).map(|(key, spent)| (*key, *spent)).collect()
    }

    pub(super) fn set_policy(&mut self, cx: &mut Cx<'_, Output>, policy: Policy) {
        if policy == self.guard.policy {
            return;
        }
        let subject = Subject::new(Room::Policy, POLICY_KEY);
        let op = if policy == Policy::default() {
            StoreOp::Forget { subject }
        } else {
            StoreOp::Replace { subject, record: policy.encode().into() }
        };
        cx.emit(Output::Persist(op));
        self.guard.policy = policy;
    }

    /// What the policy says to an order that nothing else is said against.
    pub(super) fn policy_allows(
        &self,
        peer: &PublicKey,
        order: &Order,
        now: UnixTime,
    ) -> Result<(), Refused> {
        let Guard { policy, book } = &self.guard;
        let service = self.services.iter().find(|(id, _)| *id == order.service);
        let (Some((id, service)), false) = (service, *peer == self.me) else { return Ok(()) };
        let day = policy.day(now);
        let unfinished = self.held.values().filter(|h| h.requester() == *peer && h.receipt.is_none()).count();
        let asked = Asked {
            requester: peer,
            service,
            id,
            limits: order.limits,
            input_bytes: bytes_of(order),
            unfinished: u64::try_from(unfinished).unwrap_or(u64::MAX),
            spent: book.of(peer, day),
            now,
        };
        match policy.decide(&asked) {
            Decision::Refused { why, soon, .. } => {
                Err((if soon { Refusal::Busy } else { Refusal::NotAllowed }, why))
            }
            Decision::Usual | Decision::Allowed(_) if !policy.counts_days() || book.has_room(peer, day) => {
                Ok(())
            }
            Decision::Usual | Decision::Allowed(_) => {
                Err((Refusal::Busy, "this node has counted as many requesters today as it can".to_owned()))
            }
        }
    }

    /// A job of a peer was admitted.
    pub(super) fn count_admitted(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(held) = self.held.get(job) else { return };
        let spent = Spent { jobs: 1, bytes: bytes_of(&held.order), ..Spent::default() };
        self.count(cx, held.requester(), spent);
    }

    /// A job of a peer ended, and left so many bytes.
    pub(super) fn count_ended(&mut self, cx: &mut Cx<'_, Output>, job: &JobId, usage: &Usage, bytes: u64) {
        let Some(held) = self.held.get(job) else { return };
        let spent = Spent { cpu_ms: usage.cpu_ns / 1_000_000, bytes, ..Spent::default() };
        self.count(cx, held.requester(), spent);
    }

    fn count(&mut self, cx: &mut Cx<'_, Output>, requester: PublicKey, more: Spent) {
        if requester == self.me || !self.guard.policy.counts_days() {
            return;
        }
        let day = self.guard.policy.day(cx.wall);
        let (line, gone) = self.guard.book.add(requester, day, more);
        for old in gone {
            cx.emit(Output::Persist(StoreOp::Forget { subject: Subject::new(Room::Policy, old.as_bytes()) }));
        }
        let subject = Subject::new(Room::Policy, requester.as_bytes());
        cx.emit(Output::Persist(StoreOp::Replace { subject, record: Bytes::from(line) }));
    }
}

fn bytes_of(order: &Order) -> u64 {
    order.inputs.iter().fold(0, |sum, i| sum.saturating_add(i.len))
}

#[cfg(test)]
mod tests {
    use super::super::Input;
    use super::super::tests::{dispatch, exit, input_is_here, keypair, order, refusal, rig, said};
    use super::*;
    use crate::id::Lsn;
    use crate::job::executor::ExecutorConfig;
    use crate::job::message::Message;
    use crate::laws::Rig;
    use crate::port::ExitClass;
    use crate::service::policy::{Allowance, Effect, Rule, Who};
    use crate::time::Duration;

    fn policy(within: Allowance) -> Policy {
        let rule = Rule {
            name: "guests".into(),
            who: Who::Anyone,
            kinds: Default::default(),
            services: Default::default(),
            effect: Effect::Allow(within),
        };
        Policy { rules: vec![rule], ..Policy::default() }
    }

    fn words(out: &[Output]) -> String {
        let reason = |m| match m {
            Message::Rejected { words, .. } => Some(words),
            _ => None,
        };
        said(out).into_iter().find_map(reason).unwrap_or_default()
    }

    fn records(outs: &[Output]) -> Vec<StoredRecord> {
        let mut records: Vec<StoredRecord> = Vec::new();
        for o in outs {
            let Output::Persist(op) = o else { continue };
            if op.subject().room != Room::Policy {
                continue;
            }
            records.retain(|r| r.subject != *op.subject());
            if let StoreOp::Replace { subject, record } = op {
                records.push(StoredRecord { lsn: Lsn(1), subject: subject.clone(), record: record.clone() });
            }
        }
        records
    }

    #[test]
    fn a_refusal_names_the_rule_and_the_nodes_own_jobs_pass_none() {
        let mut r = rig();
        let mut closed = policy(Allowance::default());
        closed.rules[0].effect = Effect::Deny("come back in May".into());
        r.tell(Input::Policy(Box::new(closed)));
        let out = r.tell(dispatch(order(2, 1), 2));
        assert_eq!(refusal(&out), Some(Refusal::NotAllowed));
        assert_eq!(words(&out), "rule `guests`: come back in May");
        r.tell(Input::PeerUp(keypair(1).public()));
        assert_eq!(refusal(&r.tell(dispatch(order(1, 1), 1))), None, "the owner");
    }

    #[test]
    fn what_is_used_up_today_is_refused_also_after_a_restart_and_not_tomorrow() {
        let mut r = rig();
        let mut all = r
            .tell(Input::Policy(Box::new(policy(Allowance { jobs_a_day: Some(1), ..Allowance::default() }))));
        let out = r.tell(dispatch(order(2, 1), 2));
        assert_eq!(refusal(&out), None);
        all.extend(out);
        assert_eq!(refusal(&r.tell(dispatch(order(2, 2), 2))), Some(Refusal::NotAllowed));
        let config = ExecutorConfig {
            keypair: keypair(1),
            incarnation: 7,
            engine: "test 1".into(),
            accept_jobs: true,
            running_max: 1,
        };
        let mut again = Executor::restore(config, &[]).unwrap();
        again.restore_policy(&records(&all)).unwrap();
        assert_eq!(again.policy(), r.machine.policy());
        assert_eq!(again.used_today(r.wall()), r.machine.used_today(r.wall()));
        let mut restarted = Rig::new(again, [0; 32]);
        restarted.now = r.now;
        restarted.tell(Input::Services(vec![super::super::tests::count()]));
        restarted.tell(Input::Started);
        restarted.tell(Input::PeerUp(keypair(2).public()));
        assert_eq!(refusal(&restarted.tell(dispatch(order(2, 3), 2))), Some(Refusal::NotAllowed));
        restarted.wait(Duration::from_secs(24 * 3600));
        restarted.tell(Input::PeerUp(keypair(2).public()));
        assert_eq!(refusal(&restarted.tell(dispatch(order(2, 4), 2))), None, "a new day");
    }

    #[test]
    fn processor_time_and_outputs_are_counted_when_a_job_ends() {
        let mut r = rig();
        r.tell(Input::Policy(Box::new(policy(Allowance { bytes_a_day: Some(7), ..Allowance::default() }))));
        let o = order(2, 1);
        let job = o.job();
        r.tell(dispatch(o, 2));
        input_is_here(&mut r);
        let used = |r: &Rig<Executor>| r.machine.used_today(r.wall());
        assert_eq!(used(&r)[0].1, Spent { jobs: 1, cpu_ms: 0, bytes: 2 }, "its input");
        r.tell(exit(job, ExitClass::Success));
        assert_eq!(used(&r)[0].1.bytes, 2 + 6, "and its two outputs");
        assert_eq!(refusal(&r.tell(dispatch(order(2, 2), 2))), Some(Refusal::NotAllowed));
    }

    #[test]
    fn too_many_at_once_may_try_again_and_no_daily_rule_keeps_no_book() {
        let mut r = rig();
        let mut all =
            r.tell(Input::Policy(Box::new(policy(Allowance { at_once: Some(1), ..Allowance::default() }))));
        all.extend(r.tell(dispatch(order(2, 1), 2)));
        assert_eq!(refusal(&r.tell(dispatch(order(2, 2), 2))), Some(Refusal::Busy));
        assert_eq!(records(&all).len(), 1, "the policy alone");
        assert!(r.machine.used_today(r.wall()).is_empty());
        let out = r.tell(Input::Policy(Box::default()));
        assert!(matches!(&out[..], [Output::Persist(StoreOp::Forget { .. })]), "no policy leaves no record");
        assert!(r.tell(Input::Policy(Box::default())).is_empty());
    }
}
