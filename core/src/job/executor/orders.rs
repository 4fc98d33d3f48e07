//! What requesters say: orders and the owner's policy, answers to results, cancel, release.

use super::{Executor, ORPHAN_AFTER, Output, STOP_GRACE, STOP_WAIT_MAX, Soft, light};
use crate::id::{JobId, PublicKey};
use crate::job::held::{Held, JobRecord};
use crate::job::message::{Message, Refusal, Source, WORDS_BYTES_MAX, cut_words};
use crate::job::order::Order;
use crate::job::receipt::{Commit, Verdict};
use crate::job::signed::Signed;
use crate::limits::{HEARTBEAT_EVERY, JOBS_HELD_PER_REQUESTER_MAX, JOBS_MAX, JOBS_PER_REQUESTER_MAX};
use crate::machine::Cx;
use crate::port::{EngineRequest, Port};
use crate::service::{MountDirection, Service};
use crate::time::Duration;
use bytes::Bytes;

/// When a requester that met a full executor may try again.
const BUSY_RETRY: Duration = Duration::from_secs(5);

/// A refusal and its words for people.
pub(super) type Refused = (Refusal, String);

impl Executor {
    pub(super) fn order(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey, message: Message) {
        let now = cx.now;
        self.meet(peer, now).heard = now;
        match message {
            Message::Dispatch { order, sources, carried } => {
                self.dispatch(cx, peer, *order, sources, carried);
            }
            Message::LeaseAck => {}
            Message::Reveal { job } => {
                if self.is_of(&job, &peer) {
                    self.reveal(cx, &job);
                }
            }
            Message::ResultAck { commit } => self.result_ack(cx, peer, &commit),
            Message::Cancel { job } => self.cancel(cx, peer, job),
            Message::Release { job } | Message::UnknownRun { job } => {
                if self.is_of(&job, &peer) {
                    self.end(cx, &job);
                }
            }
            Message::Inventory { .. }
            | Message::Accepted { .. }
            | Message::Rejected { .. }
            | Message::SealedOffer { .. }
            | Message::Pledge { .. }
            | Message::CancelAck { .. } => self.refused += 1,
        }
    }

    /// Whether `job` is held for `peer`. Jobs of others are nobody's business.
    fn is_of(&mut self, job: &JobId, peer: &PublicKey) -> bool {
        match self.held.get(job) {
            Some(h) if h.requester() == *peer => true,
            Some(_) => {
                self.refused += 1;
                false
            }
            None => false,
        }
    }

    fn dispatch(
        &mut self,
        cx: &mut Cx<'_, Output>,
        peer: PublicKey,
        order: Signed<Order>,
        sources: Vec<Vec<Source>>,
        carried: Option<Vec<Bytes>>,
    ) {
        let job = order.job();
        let incarnation = self.config.incarnation;
        if self.is_of(&job, &peer) {
            if self.held.get(&job).is_some_and(|h| h.receipt.is_some()) {
                return self.offer(cx, &job);
            }
            return self.send(cx, peer, &Message::Accepted { job, incarnation });
        }
        let admitted = self
            .admissible(&peer, &order, sources.len())
            .and_then(|()| match light::fault(&order, carried.as_deref()) {
                Some(fault) => Err((Refusal::BadOrder, fault.to_owned())),
                None => Ok(()),
            })
            .and_then(|()| self.policy_allows(&peer, &order, cx.wall))
            .and_then(|()| self.room_for_light(carried.as_deref()))
            .and_then(|()| self.room(cx, &peer));
        if let Err((refusal, words)) = admitted {
            let retry_after = if refusal == Refusal::Busy { BUSY_RETRY } else { Duration::ZERO };
            let words = cut_words(&words, WORDS_BYTES_MAX);
            return self.send(cx, peer, &Message::Rejected { job, refusal, words, retry_after });
        }
        let admitted = JobRecord::Admitted { order: Box::new(order), sources };
        if carried.is_some() {
            self.evolve(job, admitted, cx.wall);
        } else {
            self.record(cx, job, admitted);
        }
        self.count_admitted(cx, &job);
        if let Some(held) = self.held.get(&job) {
            let soft = Soft { carried, ..self.soft(held, cx.now, cx.wall) };
            self.soft.insert(job, soft);
        }
        // The result of a light job is its acceptance; if that takes long, the order comes again and is answered then.
        if !self.is_light(&job) {
            self.send(cx, peer, &Message::Accepted { job, incarnation });
        }
        self.fill(cx);
    }

    /// The owner's policy, and this node's limits (SPEC 6.8). The signature was verified when the order was read.
    fn admissible(&self, peer: &PublicKey, order: &Order, sources: usize) -> Result<(), Refused> {
        let no = |refusal, words: &str| Err((refusal, words.to_owned()));
        if order.requester != *peer || order.executor != self.me || sources != order.inputs.len() {
            return no(Refusal::BadOrder, "the order is not from this requester to this executor");
        }
        if *peer != self.me && !self.config.accept_jobs {
            return no(Refusal::NotAllowed, "this node does not take jobs of others");
        }
        if self.tombstones.contains(&order.job()) {
            return no(Refusal::Dead, "this job was cancelled or released before");
        }
        let Some((_, service)) = self.services.iter().find(|(id, _)| *id == order.service) else {
            return no(Refusal::UnknownService, "this service is not offered here (any more)");
        };
        if *peer != self.me && !service.allows(peer) {
            // Not told apart from a service that does not exist: whether it does is its owner's business.
            return no(Refusal::UnknownService, "this service is not offered here (any more)");
        }
        if service.program != order.program || service.paths() != order.paths {
            return no(Refusal::UnknownService, "the service runs something else");
        }
        fits(service, order)
    }

    /// Room for one more job of this requester. Results that it has answered make room, the oldest first; what it has
    /// not answered stays, and so does everything of others.
    fn room(&mut self, cx: &mut Cx<'_, Output>, peer: &PublicKey) -> Result<(), Refused> {
        let no = |words: &str| Err((Refusal::Busy, words.to_owned()));
        let unsealed = |h: &&Held| h.receipt.is_none() && h.requester() == *peer;
        if self.held.values().filter(unsealed).count() >= JOBS_PER_REQUESTER_MAX {
            return no("this requester has as many unfinished jobs here as it may");
        }
        loop {
            let of_peer = self.held.iter().filter(|(_, h)| h.requester() == *peer);
            let too_many = *peer != self.me && of_peer.clone().count() >= JOBS_HELD_PER_REQUESTER_MAX;
            if !too_many && self.held.len() < JOBS_MAX {
                return Ok(());
            }
            let answered = of_peer.filter(|(_, h)| h.acked);
            let oldest = answered.min_by_key(|(_, h)| h.receipt.as_ref().map(|r| r.seq));
            match oldest.map(|(job, _)| *job) {
                Some(job) if *peer != self.me => self.drop_job(cx, &job),
                Some(_) | None if too_many => {
                    return no("this node holds as many jobs of this requester as it may");
                }
                Some(_) | None => return no("this node holds as many jobs as it can"),
            }
        }
    }

    fn result_ack(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey, commit: &Signed<Commit>) {
        let job = commit.job;
        if !self.is_of(&job, &peer) {
            return;
        }
        let Some(held) = self.held.get(&job) else { return };
        let about_it = held.receipt.as_ref().is_some_and(|r| r.digest() == commit.receipt);
        if commit.requester != peer || !about_it {
            self.refused += 1;
            return;
        }
        match commit.verdict {
            Verdict::Won | Verdict::Failed if self.is_light(&job) => self.forget_light(&job),
            Verdict::Won | Verdict::Failed => {
                if !held.acked {
                    self.record(cx, job, JobRecord::Acked);
                }
                if let Some(soft) = self.soft.get_mut(&job) {
                    soft.offer_at = None;
                }
            }
            Verdict::Superseded | Verdict::Rejected if self.is_light(&job) => self.forget_light(&job),
            Verdict::Superseded | Verdict::Rejected => self.drop_job(cx, &job),
        }
    }

    fn cancel(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey, job: JobId) {
        match self.held.get(&job) {
            Some(h) if h.requester() != peer => self.refused += 1,
            Some(h) if h.receipt.is_some() => self.send(cx, peer, &Message::CancelAck { job }),
            Some(_) => {
                self.end(cx, &job);
                if !self.held.contains_key(&job) {
                    self.send(cx, peer, &Message::CancelAck { job });
                }
            }
            None => {
                // The order may still be on its way; it must find that it is too late.
                let admits = peer == self.me || self.config.accept_jobs;
                if admits && !self.tombstones.contains(&job) {
                    self.bury(cx, job, peer);
                }
                self.send(cx, peer, &Message::CancelAck { job });
            }
        }
    }

    /// Ends a job in whatever state: a running guest is stopped first, and forgotten when it has ended.
    pub(super) fn end(&mut self, cx: &mut Cx<'_, Output>, job: &JobId) {
        let Some(held) = self.held.get(job) else { return };
        if held.receipt.is_some() || held.started.is_none() {
            self.drop_job(cx, job);
            return self.fill(cx);
        }
        if !held.stopping {
            self.record(cx, *job, JobRecord::Stopping);
            if let Some(soft) = self.soft.get_mut(job) {
                soft.stop_by = Some(cx.now + STOP_WAIT_MAX);
            }
            let request = EngineRequest::Stop { grace: STOP_GRACE };
            cx.emit(Output::Engine { job: *job, request });
        }
    }

    pub(super) fn peer_timeout(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey) {
        if !self.has_jobs_of(&peer) {
            return;
        }
        let Some(p) = self.peers.get_mut(&peer) else { return };
        let orphaned = cx.now >= p.heard + ORPHAN_AFTER;
        if p.up && cx.now >= p.heartbeat_at {
            p.heartbeat_at = cx.now + HEARTBEAT_EVERY;
            self.inventory(cx, peer);
        }
        if orphaned {
            for job in self.unsealed_of(&peer) {
                self.end(cx, &job);
            }
        }
    }
}

/// Whether the order stays within what the service is and allows.
fn fits(service: &Service, order: &Order) -> Result<(), Refused> {
    let bad = |words: &str| Err((Refusal::BadOrder, words.to_owned()));
    let mount =
        |name: &str, direction| service.mounts.iter().any(|m| m.name == *name && m.direction == direction);
    let gives_data = service.program.dataset().is_some();
    if gives_data && !(order.args.is_empty() && order.env.is_empty()) {
        return bad("a dataset takes neither arguments nor environment");
    }
    for input in &order.inputs {
        let takes = match &input.port {
            Port::Stdin => service.stdin,
            Port::Mount(name) => mount(name, MountDirection::In),
            Port::Stdout | Port::Stderr => false,
        };
        if !takes {
            return bad("the service has no such input");
        }
    }
    for port in &order.outputs {
        let gives = match port {
            Port::Stdout | Port::Stderr => !gives_data,
            Port::Mount(name) => mount(name, MountDirection::Out),
            Port::Stdin => false,
        };
        if !gives {
            return bad("the service has no such output");
        }
    }
    let (asked, own) = (order.limits, service.limits);
    if asked.memory_bytes > own.memory_bytes
        || asked.time_ms > own.time_ms
        || asked.output_bytes > own.output_bytes
    {
        return bad("the order wants more than the service's limits");
    }
    Ok(())
}
