//! Executions and what comes of them: the end, the receipt, its offers, and what goes when a job is forgotten.

use super::light::LIGHT_KEPT_MAX;
use super::{Executor, OFFER_MAX, OFFER_MIN, Output, RETENTION};
use crate::id::{Digest, JobId, PublicKey};
use crate::job::encoding::port_text;
use crate::job::held::{Held, JobRecord};
use crate::job::message::{Message, cut_words};
use crate::job::order::Order;
use crate::job::quorum::{pledge_of, salt_for};
use crate::job::receipt::{DETAIL_BYTES_MAX, Receipt, result_digest};
use crate::job::signed::Signed;
use crate::machine::Cx;
use crate::port::{
    EngineEvent, EngineExit, EngineJob, EngineReport, EngineRequest, ExitClass, Port, Program, layout_of,
};
use crate::store::{Room, StoreOp, Subject};
use std::collections::BTreeSet;

impl Executor {
    pub(super) fn run(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(held) = self.held.get(job) else { return };
        let o: &Order = &held.order;
        if let Some(dataset) = o.program.dataset() {
            let event = EngineEvent::Exited(dataset.given(&o.outputs));
            return cx.emit(Output::Ended(EngineReport { job: *job, event }));
        }
        let engine_job = EngineJob {
            tenant: held.requester(),
            program: o.program.clone(),
            paths: o.paths.clone(),
            args: o.args.clone(),
            env: o.env.clone(),
            inputs: o.inputs.clone(),
            outputs: o.outputs.clone(),
            limits: o.limits,
            carried: self.soft.get(job).and_then(|s| s.carried.clone()),
            seed: o.seed(),
        };
        cx.emit(Output::Engine { job: *job, request: EngineRequest::Start(engine_job) });
    }

    pub(super) fn engine(&mut self, cx: &mut Cx<'_, Output>, report: EngineReport) {
        let job = report.job;
        let Some(held) = self.held.get(&job).filter(|h| h.started.is_some() && h.receipt.is_none()) else {
            return;
        };
        match report.event {
            EngineEvent::Started => {
                if let Some(soft) = self.soft.get_mut(&job) {
                    soft.guest_runs = true;
                }
            }
            EngineEvent::Exited(_) if held.stopping => self.stopped(cx, &job),
            EngineEvent::Exited(exit) => {
                self.seal(cx, &job, exit);
                self.fill(cx);
            }
        }
    }

    pub(super) fn outputs_gone(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        match self.held.get(job) {
            Some(h) if h.stopping => self.stopped(cx, job),
            Some(h) if h.started.is_some() && h.receipt.is_none() => {
                if let Some(dataset) = h.order.program.dataset() {
                    // Nothing makes them again.
                    self.seal(cx, job, dataset.lost());
                    return self.fill(cx);
                }
                if let Some(soft) = self.soft.get_mut(job) {
                    soft.guest_runs = false;
                }
                self.run(cx, job);
            }
            Some(_) | None => {}
        }
    }

    /// Signs and journals the result, then offers it.
    pub(super) fn seal(&mut self, cx: &mut Cx<'_, Output>, job: &JobId, exit: EngineExit) {
        let Some(held) = self.held.get(job) else { return };
        let order = &held.order;
        let nothing = exit.outputs.is_empty().then(Vec::new);
        let carried = exit.carried.or(nothing).filter(|c| c.len() == exit.outputs.len());
        let mut bytes = carried.map(Vec::into_iter);
        let (mut outputs, mut carried) = (Vec::new(), bytes.is_some().then(Vec::new));
        let mut seen: BTreeSet<Port> = BTreeSet::new();
        for o in exit.outputs {
            let its = bytes.as_mut().and_then(Iterator::next);
            if order.outputs.contains(&o.port) && seen.insert(o.port.clone()) {
                outputs.push(o);
                carried.iter_mut().for_each(|c| c.extend(its.clone()));
            }
        }
        let missing = order.outputs.iter().find(|p| !seen.contains(p));
        let (mut class, mut detail) = (exit.class, exit.detail);
        if class == ExitClass::Success && exit.code != 0 {
            class = ExitClass::User;
        }
        if let (ExitClass::Success, Some(port)) = (class, missing) {
            class = ExitClass::User;
            detail = format!("it ended well but left nothing at {}", port_text(port));
        }
        let (seq, previous) = self.chain.next();
        let receipt = Receipt {
            executor: self.me,
            incarnation: self.config.incarnation,
            seq,
            previous,
            order: order.digest(),
            job: *job,
            engine: match &order.program {
                Program::Wasm(_) => self.config.engine.clone(),
                Program::Image(_) => "docker".to_owned(),
                Program::Native(exe) => format!("native {} ({})", env!("CARGO_PKG_VERSION"), exe.target),
                Program::Data(_) => "data".to_owned(),
            },
            program: order.program.clone(),
            class,
            code: exit.code,
            detail: cut_words(&detail, DETAIL_BYTES_MAX),
            result: result_digest(class, exit.code, &outputs),
            outputs,
            usage: exit.usage,
            started: held.started.as_ref().map_or(held.admitted, |(at, _)| *at),
            ended: cx.wall,
        };
        let receipt = Signed::sign(receipt, &self.config.keypair);
        let left = receipt.outputs.iter().fold(0u64, |sum, o| sum.saturating_add(o.len));
        self.count_ended(cx, job, &receipt.usage, left);
        match carried.filter(|_| self.is_light(job)) {
            Some(outputs) => {
                if let Some(numbers) = self.chain.set_aside() {
                    self.record(cx, *job, numbers);
                }
                self.chain.used(seq, receipt.digest());
                if let Some(soft) = self.soft.get_mut(job) {
                    soft.carried = Some(outputs);
                }
            }
            None => {
                self.journal_after_all(cx, job);
                // The chain first: if a crash comes between the two, a number is skipped, never used twice.
                self.record(cx, *job, JobRecord::Chain { seq, digest: receipt.digest() });
            }
        }
        self.record(cx, *job, JobRecord::Sealed { receipt: Box::new(receipt) });
        if let Some(soft) = self.soft.get_mut(job) {
            soft.staging = None;
            soft.guest_runs = false;
            soft.expires = Some(cx.now + if soft.carried.is_some() { LIGHT_KEPT_MAX } else { RETENTION });
        }
        self.grant(cx, job);
        self.offer(cx, job);
    }

    pub(super) fn grant(&self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(held) = self.held.get(job).filter(|_| !self.is_light(job)) else { return };
        for o in held.receipt.iter().flat_map(|r| &r.outputs) {
            let tree = layout_of(&held.order.paths, &o.port).is_tree();
            cx.emit(Output::Grant { digest: o.digest, requester: held.requester(), tree });
        }
    }

    /// Offers a sealed result, or what it was pledged with, and arms the next offer.
    pub(super) fn offer(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let (Some(held), Some(soft)) = (self.held.get(job), self.soft.get_mut(job)) else { return };
        let Some(receipt) = held.receipt.clone() else { return };
        if !held.acked {
            soft.offer_at = Some(cx.now + soft.offer_wait);
            soft.offer_wait = (soft.offer_wait * 2).min(OFFER_MAX);
        }
        let salt = held.order.pledge.then(|| salt_for(&self.config.keypair, &receipt.order));
        let (peer, carried) = (held.requester(), soft.carried.clone());
        let hidden = salt.filter(|_| !soft.revealed && !held.acked);
        let message = match hidden {
            Some(salt) => Message::Pledge { job: *job, hash: pledge_of(&receipt.result, &salt, &self.me) },
            None => Message::SealedOffer { receipt: Box::new(receipt), carried, salt },
        };
        self.send(cx, peer, &message);
    }

    /// The requester wants to see what was pledged. What was not yet computed will be pledged first.
    pub(super) fn reveal(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let sealed = self.held.get(job).is_some_and(|h| h.order.pledge && h.receipt.is_some());
        if let Some(soft) = self.soft.get_mut(job).filter(|_| sealed) {
            soft.revealed = true;
            soft.offer_wait = OFFER_MIN;
            self.offer(cx, job);
        }
    }

    /// A stopped job's engine is silent now: acknowledge and forget.
    pub(super) fn stopped(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        if let Some(held) = self.held.get(job) {
            let peer = held.requester();
            self.drop_job(cx, job);
            self.send(cx, peer, &Message::CancelAck { job: *job });
            self.fill(cx);
        }
    }

    /// Forgets a job for good: a tombstone stays, grants and objects that no other job needs go.
    pub(super) fn drop_job(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(held) = self.held.get(job).cloned() else { return };
        let requester = held.requester();
        let brought = self.soft.remove(job).map(|s| s.fetched).unwrap_or_default();
        self.queue.retain(|j| j != job);
        self.giving.retain(|j| j != job);
        self.bury(cx, *job, requester);
        let outputs: BTreeSet<Digest> =
            held.receipt.iter().flat_map(|r| r.outputs.iter().map(|o| o.digest)).collect();
        for digest in &outputs {
            let other = |h: &Held| {
                h.requester() == requester
                    && h.receipt.iter().flat_map(|r| &r.outputs).any(|o| o.digest == *digest)
            };
            if !self.held.values().any(other) {
                cx.emit(Output::Revoke { digest: *digest, requester });
            }
        }
        let trees: Vec<Digest> = held.trees().collect();
        let inputs = held.started.into_iter().flat_map(|(_, fetched)| fetched);
        // Of a directory that did not come whole some files may be here.
        let gone: BTreeSet<Digest> = outputs.into_iter().chain(inputs).chain(brought).chain(trees).collect();
        for digest in gone {
            if !self.holds(&digest) {
                cx.emit(Output::Remove { digest });
            }
        }
        self.forget_peer_without_jobs(&requester);
        let needed: BTreeSet<super::WantKey> =
            self.soft.values().flat_map(|s| s.staging.iter().flatten()).copied().collect();
        // A request that is under way is answered once; until then it must not be made again.
        self.wants.retain(|want, w| w.again.is_none() || needed.contains(want));
    }

    pub(super) fn forget_peer_without_jobs(&mut self, peer: &PublicKey) {
        if self.peers.get(peer).is_some_and(|p| !p.up) && !self.has_jobs_of(peer) {
            self.peers.remove(peer);
        }
    }

    pub(super) fn bury(&mut self, cx: &mut Cx<'_, Output>, job: JobId, requester: PublicKey) {
        self.record(cx, job, JobRecord::Tombstone { requester });
        while let Some(oldest) = self.tombstones.too_many(&requester) {
            cx.emit(Output::Persist(StoreOp::Forget { subject: Subject::new(Room::Job, &oldest.0) }));
        }
    }
}
