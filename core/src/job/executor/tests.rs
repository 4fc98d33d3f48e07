//! The executor alone: policy, limits, cancel, leases, restart, and the machine laws.

use super::super::message::{Refusal, Source};
use super::super::order::Order;
use super::super::receipt::{Commit, Verdict};
use super::super::signed::Signed;
use super::super::validate::tests::service;
use super::*;
use crate::id::{Keypair, Lsn, RunId};
use crate::laws::{Rig, check_within};
use crate::limits::{
    JOBS_HELD_PER_REQUESTER_MAX, JOBS_PER_REQUESTER_MAX, TOMBSTONES_MAX, TOMBSTONES_PER_REQUESTER_MAX,
};
use crate::port::{
    EngineEvent, EngineExit, EngineInput, EngineOutput, EngineReport, EngineRequest, ExitClass, Layout, Port,
    Program, Usage,
};
use crate::service::{MountDirection, Visibility};
use crate::ticket::Ticket;
use proptest::prelude::*;

mod datasets;

pub(super) fn keypair(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

fn executor(running_max: usize) -> Executor {
    let config = ExecutorConfig {
        keypair: keypair(1),
        incarnation: 7,
        engine: "test 1".into(),
        accept_jobs: true,
        running_max,
    };
    Executor::restore(config, &[]).unwrap()
}

pub(super) fn count() -> Service {
    service("count", true, &[])
}

pub(super) fn rig() -> Rig<Executor> {
    let mut r = Rig::new(executor(1), [0; 32]);
    r.tell(Input::Services(vec![count()]));
    r.tell(Input::Started);
    r.tell(Input::PeerUp(keypair(2).public()));
    r
}

pub(super) fn order(requester: u8, fence: u32) -> Order {
    let s = count();
    Order {
        requester: keypair(requester).public(),
        executor: keypair(1).public(),
        run: RunId([1; 16]),
        spec: Digest::of(b"spec"),
        task: "a".into(),
        fence,
        service: s.id(),
        program: s.program.clone(),
        paths: s.paths(),
        args: Vec::new(),
        env: Vec::new(),
        inputs: vec![EngineInput { port: Port::Stdin, digest: Digest::of(b"in"), len: 2 }],
        outputs: vec![Port::Stdout, Port::Stderr],
        limits: s.limits,
        light: false,
        pledge: false,
        nonce: [0; 16],
        issued: UnixTime::from_secs(1),
    }
}

pub(super) fn dispatch(o: Order, by: u8) -> Input {
    let source = Source { holder: o.requester, ticket: Bytes::from_static(b"ticket") };
    let sources = o.inputs.iter().map(|_| vec![source.clone()]).collect();
    let order = Box::new(Signed::sign(o, &keypair(by)));
    from(by, Message::Dispatch { order, sources, carried: None })
}

fn from(peer: u8, message: Message) -> Input {
    Input::Message { peer: keypair(peer).public(), message: Box::new(message) }
}

pub(super) fn said(out: &[Output]) -> Vec<Message> {
    let message = |o: &Output| match o {
        Output::Send { frame, .. } => Some(Message::from_frame(frame).unwrap()),
        _ => None,
    };
    out.iter().filter_map(message).collect()
}

pub(super) fn refusal(out: &[Output]) -> Option<Refusal> {
    said(out).into_iter().find_map(|m| match m {
        Message::Rejected { refusal, .. } => Some(refusal),
        _ => None,
    })
}

fn starts(out: &[Output]) -> usize {
    let start = |o: &&Output| matches!(o, Output::Engine { request: EngineRequest::Start(_), .. });
    out.iter().filter(start).count()
}

/// On whatever right it was wanted.
pub(super) fn input_is_here(r: &mut Rig<Executor>) -> Vec<Output> {
    let here = |claim| Input::Fetched { digest: Digest::of(b"in"), claim, tree: false, new: true };
    let mut out = r.tell(here(None));
    out.extend(r.tell(here(Some(keypair(2).public()))));
    out
}

pub(super) fn exit(job: JobId, class: ExitClass) -> Input {
    let out = |port| EngineOutput { port, digest: Digest::of(b"out"), len: 3, truncated: false };
    let exit = EngineExit {
        class,
        code: 0,
        detail: String::new(),
        usage: Usage::default(),
        outputs: vec![out(Port::Stdout), out(Port::Stderr)],
        carried: None,
    };
    Input::Engine(EngineReport { job, event: EngineEvent::Exited(exit) })
}

#[test]
fn an_order_is_journaled_accepted_staged_run_and_sealed() {
    let mut r = rig();
    let job = order(2, 1).job();
    let out = r.tell(dispatch(order(2, 1), 2));
    assert!(matches!(out[0], Output::Persist(_)), "durable before accepted");
    assert!(said(&out).contains(&Message::Accepted { job, incarnation: 7 }));
    assert!(out.iter().any(|o| matches!(o, Output::Want { .. })));
    assert_eq!(starts(&out), 0, "not before its input is here");
    assert_eq!(starts(&input_is_here(&mut r)), 1);
    let out = r.tell(exit(job, ExitClass::Success));
    let receipt = said(&out).into_iter().find_map(|m| match m {
        Message::SealedOffer { receipt, .. } => Some(receipt),
        _ => None,
    });
    assert_eq!(receipt.unwrap().answers(&Signed::sign(order(2, 1), &keypair(2))), Ok(()));
    assert!(matches!(out[0], Output::Persist(_)), "journaled before offered");
}

#[test]
fn refusals_name_their_reason() {
    let mut r = rig();
    assert_eq!(
        refusal(&r.tell(dispatch(Order { executor: keypair(3).public(), ..order(2, 1) }, 2))),
        Some(Refusal::BadOrder)
    );
    assert_eq!(
        refusal(&r.tell(dispatch(Order { service: Digest::of(b"?"), ..order(2, 1) }, 2))),
        Some(Refusal::UnknownService)
    );
    assert_eq!(
        refusal(&r.tell(dispatch(Order { program: Program::Wasm(Digest::of(b"?")), ..order(2, 1) }, 2))),
        Some(Refusal::UnknownService)
    );
    let mut greedy = order(2, 1);
    greedy.limits.memory_bytes += 1;
    assert_eq!(refusal(&r.tell(dispatch(greedy, 2))), Some(Refusal::BadOrder));
    let hidden = Service { visibility: Visibility::OnlyMe, ..count() };
    r.tell(Input::Services(vec![hidden]));
    assert_eq!(refusal(&r.tell(dispatch(order(2, 1), 2))), Some(Refusal::UnknownService));
    assert!(r.machine.held().is_empty());
    r.tell(Input::PeerUp(keypair(1).public()));
    let out = r.tell(dispatch(order(1, 1), 1));
    assert_eq!(refusal(&out), None, "the owner may always run its own");
}

#[test]
fn an_order_shown_by_somebody_else_is_refused() {
    let mut r = rig();
    r.tell(Input::PeerUp(keypair(3).public()));
    let Input::Message { message, .. } = dispatch(order(2, 1), 2) else { unreachable!() };
    let out = r.tell(Input::Message { peer: keypair(3).public(), message });
    assert_eq!(refusal(&out), Some(Refusal::BadOrder));
}

fn claims(out: &[Output]) -> Vec<Claim> {
    let claim = |o: &Output| match o {
        Output::Want { claim, .. } => Some(*claim),
        _ => None,
    };
    out.iter().filter_map(claim).collect()
}

#[test]
fn an_input_that_is_here_counts_only_for_who_has_a_right_to_it() {
    let mut r = Rig::new(executor(4), [0; 32]);
    r.tell(Input::Services(vec![count()]));
    r.tell(Input::Started);
    for n in 1..=3 {
        r.tell(Input::PeerUp(keypair(n).public()));
    }
    let (alice, eve) = (keypair(2).public(), keypair(3).public());
    assert_eq!(claims(&r.tell(dispatch(order(1, 1), 1))), [None], "the node's own store is its own");
    r.tell(Input::Fetched { digest: Digest::of(b"in"), claim: None, tree: false, new: false });
    assert_eq!(claims(&r.tell(dispatch(order(2, 1), 2))), [Some(alice)]);
    // Eve's order names what alice brings, and signs a ticket of her own for it.
    assert_eq!(claims(&r.tell(dispatch(order(3, 1), 3))), [Some(eve)]);
    assert_eq!(starts(&input_is_here(&mut r)), 1, "alice's alone");
    assert_eq!(r.machine.state(&order(3, 1).job()), Some(JobState::Staging));
    // What alice has shown once she need not show again, while a job of hers holds it.
    assert_eq!(claims(&r.tell(dispatch(order(2, 2), 2))), [None]);
    // Eve's claim fails, and with it her job alone.
    let mut last = Vec::new();
    for _ in 0..STAGE_TRIES_MAX {
        let (digest, why) = (Digest::of(b"in"), "refused".into());
        last = r.tell(Input::FetchFailed { digest, claim: Some(eve), tree: false, why, hopeless: false });
        last.extend(r.wait(Duration::from_secs(20)));
    }
    assert_eq!(starts(&last), 0);
    assert!(r.machine.held()[&order(3, 1).job()].started.is_none());
}

#[test]
fn a_list_that_was_shown_as_a_file_opens_no_directory() {
    let mut r = Rig::new(executor(4), [0; 32]);
    let mut join = service("join", true, &[("m", MountDirection::In)]);
    join.mounts[0].layout = Layout::Tree;
    r.tell(Input::Services(vec![count(), join.clone()]));
    r.tell(Input::Started);
    r.tell(Input::PeerUp(keypair(2).public()));
    let alice = Some(keypair(2).public());
    let of_join = |fence| {
        let mut o = order(2, fence);
        (o.service, o.program, o.paths) = (join.id(), join.program.clone(), join.paths());
        o.inputs.push(EngineInput { port: Port::Mount("m".into()), digest: Digest::of(b"in"), len: 2 });
        o
    };
    assert_eq!(claims(&r.tell(dispatch(order(2, 1), 2))), [alice]);
    assert_eq!(starts(&input_is_here(&mut r)), 1);
    let out = r.tell(dispatch(of_join(2), 2));
    assert_eq!(claims(&out), [None, alice], "the bytes were shown, and not what they name");
    for (claim, tree) in [(None, false), (alice, true)] {
        r.tell(Input::Fetched { digest: Digest::of(b"in"), claim, tree, new: false });
    }
    assert!(r.machine.held()[&of_join(2).job()].started.is_some());
    assert_eq!(claims(&r.tell(dispatch(of_join(3), 2))), [None, None], "now all of it was");
}

#[test]
fn an_output_is_its_requesters_input_and_a_ticket_of_the_owner_opens_what_is_here() {
    let mut r = rig();
    r.tell(Input::PeerUp(keypair(3).public()));
    r.tell(dispatch(order(2, 1), 2));
    input_is_here(&mut r);
    r.tell(exit(order(2, 1).job(), ExitClass::Success));
    let of_output = |n, fence| {
        let mut o = order(n, fence);
        o.inputs[0].digest = Digest::of(b"out");
        o
    };
    let out = r.tell(dispatch(of_output(2, 2), 2));
    assert_eq!(claims(&out), [None]);
    r.tell(from(2, Message::Cancel { job: of_output(2, 2).job() }));
    r.tell(Input::Fetched { digest: Digest::of(b"out"), claim: None, tree: false, new: false });
    let ticket = |by: u8, to: u8| {
        let until = r.wall().plus(Duration::from_secs(60));
        Ticket::sign(&keypair(by), Digest::of(b"out"), keypair(to).public(), until)
    };
    let shown = [(ticket(1, 3), None), (ticket(1, 2), Some(keypair(3).public()))];
    for ((ticket, claim), fence) in shown.into_iter().zip(1..) {
        let o = of_output(3, fence);
        let job = o.job();
        let source = Source { holder: keypair(1).public(), ticket: ticket.encode().into() };
        let order = Box::new(Signed::sign(o, &keypair(3)));
        let out = r.tell(from(3, Message::Dispatch { order, sources: vec![vec![source]], carried: None }));
        assert_eq!(claims(&out), [claim], "a ticket of the owner, made out to the requester");
        r.tell(from(3, Message::Cancel { job }));
    }
}

#[test]
fn a_doubled_order_is_the_same_job() {
    let mut r = rig();
    r.tell(dispatch(order(2, 1), 2));
    let out = r.tell(dispatch(order(2, 1), 2));
    assert_eq!(said(&out).len(), 1);
    assert!(!out.iter().any(|o| matches!(o, Output::Persist(_) | Output::Want { .. })));
}

#[test]
fn a_cancel_that_overtakes_its_order_wins() {
    let mut r = rig();
    let job = order(2, 1).job();
    assert_eq!(said(&r.tell(from(2, Message::Cancel { job }))), vec![Message::CancelAck { job }]);
    assert_eq!(refusal(&r.tell(dispatch(order(2, 1), 2))), Some(Refusal::Dead));
}

#[test]
fn a_cancel_reaches_the_guest_and_is_acknowledged_when_it_has_ended() {
    let mut r = rig();
    let job = order(2, 1).job();
    r.tell(dispatch(order(2, 1), 2));
    input_is_here(&mut r);
    let out = r.tell(from(2, Message::Cancel { job }));
    let stop = Output::Engine { job, request: EngineRequest::Stop { grace: STOP_GRACE } };
    assert!(out.contains(&stop) && said(&out).is_empty());
    let out = r.tell(exit(job, ExitClass::Cancelled));
    assert_eq!(said(&out), vec![Message::CancelAck { job }]);
    assert!(out.contains(&Output::Remove { digest: Digest::of(b"in") }), "what was brought for it goes");
    assert!(r.machine.held().is_empty());
}

#[test]
fn an_engine_that_never_confirms_a_stop_does_not_hold_the_job_for_ever() {
    let mut r = rig();
    let job = order(2, 1).job();
    r.tell(dispatch(order(2, 1), 2));
    input_is_here(&mut r);
    r.tell(from(2, Message::Cancel { job }));
    assert!(said(&r.wait(STOP_WAIT_MAX)).contains(&Message::CancelAck { job }));
}

#[test]
fn a_stranger_can_neither_cancel_nor_release_nor_answer() {
    let mut r = rig();
    r.tell(Input::PeerUp(keypair(3).public()));
    let job = order(2, 1).job();
    r.tell(dispatch(order(2, 1), 2));
    for m in [Message::Cancel { job }, Message::Release { job }, Message::UnknownRun { job }] {
        assert!(r.tell(from(3, m)).is_empty());
    }
    assert_eq!(r.machine.held().len(), 1);
    assert_eq!(r.machine.refused(), 3);
}

#[test]
fn jobs_wait_in_order_for_a_slot() {
    let mut r = rig();
    r.tell(dispatch(order(2, 1), 2));
    let second = r.tell(dispatch(order(2, 2), 2));
    assert!(!second.iter().any(|o| matches!(o, Output::Want { .. })), "one slot");
    assert_eq!(r.machine.state(&order(2, 2).job()), Some(JobState::Admitted));
    input_is_here(&mut r);
    r.tell(exit(order(2, 1).job(), ExitClass::Success));
    assert_eq!(r.machine.state(&order(2, 2).job()), Some(JobState::Staging));
}

#[test]
fn a_requester_with_too_many_unfinished_jobs_is_told_to_come_again() {
    let mut r = rig();
    for fence in 1..=u32::try_from(JOBS_PER_REQUESTER_MAX).unwrap() {
        r.tell(dispatch(order(2, fence), 2));
    }
    assert_eq!(refusal(&r.tell(dispatch(order(2, 100_000), 2))), Some(Refusal::Busy));
}

/// Does the job to its receipt; `answered`: and its requester says that it won.
fn done(r: &mut Rig<Executor>, requester: u8, fence: u32, answered: bool) {
    let job = order(requester, fence).job();
    r.tell(dispatch(order(requester, fence), requester));
    r.tell(Input::Fetched {
        digest: Digest::of(b"in"),
        claim: Some(keypair(requester).public()),
        tree: false,
        new: true,
    });
    r.tell(Input::Fetched { digest: Digest::of(b"in"), claim: None, tree: false, new: false });
    r.tell(exit(job, ExitClass::Success));
    let receipt = r.machine.held()[&job].receipt.clone().unwrap();
    if answered {
        let commit = Commit {
            requester: keypair(requester).public(),
            job,
            order: receipt.order,
            receipt: receipt.digest(),
            verdict: Verdict::Won,
            at: UnixTime::from_secs(9),
        };
        let commit = Box::new(Signed::sign(commit, &keypair(requester)));
        r.tell(from(requester, Message::ResultAck { commit }));
    }
}

#[test]
fn results_that_wait_count_and_only_those_that_were_answered_make_room() {
    let mut r = rig();
    r.tell(Input::PeerUp(keypair(3).public()));
    done(&mut r, 3, 1, true);
    let all = u32::try_from(JOBS_HELD_PER_REQUESTER_MAX).unwrap();
    for fence in 1..=all {
        done(&mut r, 2, fence, fence == 3 || fence == 5);
    }
    // The oldest that was answered goes, then the next; those that were not answered stay.
    for (new, gone) in [(1, 3), (2, 5)] {
        let out = r.tell(dispatch(order(2, all + new), 2));
        assert_eq!(refusal(&out), None);
        assert!(!r.machine.held().contains_key(&order(2, gone).job()));
        assert!(r.machine.held().contains_key(&order(2, 1).job()));
    }
    assert_eq!(refusal(&r.tell(dispatch(order(2, all + 3), 2))), Some(Refusal::Busy));
    assert!(r.machine.held().contains_key(&order(3, 1).job()), "another's results are untouched");
    assert_eq!(refusal(&r.tell(dispatch(order(3, 2), 3))), None);
}

#[test]
fn cancels_of_jobs_that_never_were_push_out_only_their_senders_own_tombstones() {
    let mut r = rig();
    r.tell(Input::PeerUp(keypair(3).public()));
    let honest = order(2, 1).job();
    r.tell(from(2, Message::Cancel { job: honest }));
    let mut forgotten = 0;
    for n in 0..TOMBSTONES_MAX as u64 {
        let mut job = JobId([3; 16]);
        job.0[..8].copy_from_slice(&n.to_be_bytes());
        let out = r.tell(from(3, Message::Cancel { job }));
        forgotten += out.iter().filter(|o| matches!(o, Output::Persist(StoreOp::Forget { .. }))).count();
    }
    assert_eq!(forgotten, TOMBSTONES_MAX - TOMBSTONES_PER_REQUESTER_MAX);
    assert_eq!(r.machine.durable().tombstones.len(), 1 + TOMBSTONES_PER_REQUESTER_MAX);
    assert_eq!(refusal(&r.tell(dispatch(order(2, 1), 2))), Some(Refusal::Dead));
}

#[test]
fn an_input_that_cannot_be_fetched_seals_a_failure_of_infrastructure() {
    let mut r = rig();
    r.tell(dispatch(order(2, 1), 2));
    let mut last = Vec::new();
    for _ in 0..STAGE_TRIES_MAX {
        last = r.tell(Input::FetchFailed {
            digest: Digest::of(b"in"),
            claim: Some(keypair(2).public()),
            tree: false,
            why: "gone".into(),
            hopeless: false,
        });
        last.extend(r.wait(Duration::from_secs(20)));
    }
    let class = said(&last).into_iter().find_map(|m| match m {
        Message::SealedOffer { receipt, .. } => Some((receipt.class, receipt.detail.clone())),
        _ => None,
    });
    let (class, detail) = class.unwrap();
    assert_eq!(class, ExitClass::Infra);
    assert!(detail.contains("gone"));
}

#[test]
fn an_input_that_will_never_be_given_is_not_waited_for() {
    let mut r = rig();
    r.tell(dispatch(order(2, 1), 2));
    let (digest, claim) = (Digest::of(b"in"), Some(keypair(2).public()));
    let out =
        r.tell(Input::FetchFailed { digest, claim, tree: false, why: "refused".into(), hopeless: true });
    assert!(said(&out).iter().any(|m| matches!(m, Message::SealedOffer { .. })));
}

#[test]
fn the_jobs_of_a_peer_that_is_blocked_are_stopped_and_no_others() {
    let mut r = rig();
    r.tell(Input::PeerUp(keypair(3).public()));
    r.tell(dispatch(order(2, 1), 2));
    input_is_here(&mut r);
    r.tell(dispatch(order(3, 1), 3));
    let out = r.tell(Input::Blocked(keypair(2).public()));
    let stops = |o: &&Output| matches!(o, Output::Engine { request: EngineRequest::Stop { .. }, .. });
    assert_eq!(out.iter().filter(stops).count(), 1);
    r.wait(STOP_WAIT_MAX);
    assert_eq!(r.machine.held().keys().collect::<Vec<_>>(), [&order(3, 1).job()]);
}

#[test]
fn a_requester_that_stays_away_gets_its_result_later_but_its_guests_are_stopped() {
    let mut r = rig();
    r.tell(dispatch(order(2, 1), 2));
    input_is_here(&mut r);
    r.tell(exit(order(2, 1).job(), ExitClass::Success));
    r.tell(dispatch(order(2, 2), 2));
    input_is_here(&mut r);
    r.tell(Input::PeerDown(keypair(2).public()));
    let out = r.wait(ORPHAN_AFTER);
    assert!(out.iter().any(|o| matches!(o, Output::Engine { request: EngineRequest::Stop { .. }, .. })));
    r.wait(STOP_WAIT_MAX);
    assert_eq!(r.machine.held().len(), 1, "the sealed one is kept");
    assert_eq!(r.machine.local_state(&order(2, 1).job(), r.now), Some(JobState::Orphaned));
    let out = r.tell(Input::PeerUp(keypair(2).public()));
    assert!(said(&out).iter().any(|m| matches!(m, Message::SealedOffer { .. })), "offered again");
    r.tell(Input::PeerDown(keypair(2).public()));
    r.wait(RETENTION);
    assert!(r.machine.held().is_empty(), "a week is enough");
}

#[test]
fn receipts_form_a_chain_across_a_restart() {
    let mut r = rig();
    let mut records: Vec<StoredRecord> = Vec::new();
    let mut receipts = Vec::new();
    for fence in 1..=2 {
        let mut out = r.tell(dispatch(order(2, fence), 2));
        out.extend(input_is_here(&mut r));
        out.extend(r.tell(exit(order(2, fence).job(), ExitClass::Success)));
        for m in said(&out) {
            if let Message::SealedOffer { receipt, .. } = m {
                receipts.push(receipt);
            }
        }
        for o in out {
            if let Output::Persist(
                StoreOp::Append { subject, record } | StoreOp::Replace { subject, record },
            ) = o
            {
                records.push(StoredRecord { lsn: Lsn(1), subject, record });
            }
        }
        let config = r.machine.config.clone();
        r = Rig::new(Executor::restore(config, &records).unwrap(), [1; 32]);
        r.tell(Input::Services(vec![count()]));
        r.tell(Input::Started);
        r.tell(Input::PeerUp(keypair(2).public()));
    }
    assert_eq!((receipts[0].seq, receipts[1].seq), (1, 2));
    assert_eq!(receipts[1].previous, receipts[0].digest());
}

#[test]
fn after_a_restart_what_runs_goes_on_and_whatever_else_engines_have_is_swept() {
    let mut r = rig();
    let job = order(2, 1).job();
    let mut records: Vec<StoredRecord> = Vec::new();
    let mut persist = |out: Vec<Output>| {
        for o in out {
            if let Output::Persist(
                StoreOp::Append { subject, record } | StoreOp::Replace { subject, record },
            ) = o
            {
                records.push(StoredRecord { lsn: Lsn(1), subject, record });
            }
        }
        records.clone()
    };
    let restarted = |config, records: &[StoredRecord]| {
        let mut r = Rig::new(Executor::restore(config, records).unwrap(), [1; 32]);
        r.tell(Input::Services(vec![count()]));
        r.tell(Input::Started)
    };
    persist(r.tell(dispatch(order(2, 1), 2)));
    let runs = persist(input_is_here(&mut r));
    let out = restarted(r.machine.config.clone(), &runs);
    let start = out.iter().position(|o| matches!(o, Output::Engine { .. }));
    let sweep = out.iter().position(|o| *o == Output::Sweep { keep: vec![job] });
    assert!(start.is_some() && start < sweep, "{out:?}");
    let stops = persist(r.tell(from(2, Message::Cancel { job })));
    let out = restarted(r.machine.config.clone(), &stops);
    assert_eq!(starts(&out), 0);
    assert!(out.contains(&Output::Sweep { keep: Vec::new() }), "what was being stopped goes too");
}

#[test]
fn an_answer_ends_the_offers_and_a_release_ends_the_job() {
    let mut r = rig();
    let job = order(2, 1).job();
    r.tell(dispatch(order(2, 1), 2));
    input_is_here(&mut r);
    r.tell(exit(job, ExitClass::Success));
    let receipt = r.machine.held()[&job].receipt.clone().unwrap();
    let commit = Commit {
        requester: keypair(2).public(),
        job,
        order: receipt.order,
        receipt: receipt.digest(),
        verdict: Verdict::Won,
        at: UnixTime::from_secs(9),
    };
    r.tell(from(2, Message::ResultAck { commit: Box::new(Signed::sign(commit, &keypair(2))) }));
    assert_eq!(r.machine.state(&job), Some(JobState::Retained));
    let offers = said(&r.wait(Duration::from_secs(60)));
    assert!(!offers.iter().any(|m| matches!(m, Message::SealedOffer { .. })));
    let out = r.tell(from(2, Message::Release { job }));
    let requester = keypair(2).public();
    assert!(out.contains(&Output::Revoke { digest: Digest::of(b"out"), requester }));
    assert!(out.contains(&Output::Remove { digest: Digest::of(b"out") }));
}

#[test]
fn the_executor_obeys_the_laws() {
    let job = || (1u32..4).prop_map(|f| order(2, f).job());
    let peer = || (2u8..4).prop_map(|n| keypair(n).public());
    let class = prop::sample::select(vec![ExitClass::Success, ExitClass::User, ExitClass::Cancelled]);
    let input = prop_oneof![
        Just(Input::Services(vec![count()])),
        Just(Input::Started),
        peer().prop_map(Input::PeerUp),
        peer().prop_map(Input::PeerDown),
        (1u32..4, 2u8..4).prop_map(|(f, n)| dispatch(order(n, f), n)),
        (1u32..4).prop_map(|f| dispatch(order(2, f), 2)),
        (job(), 2u8..4).prop_map(|(job, n)| from(n, Message::Cancel { job })),
        (job(), 2u8..4).prop_map(|(job, n)| from(n, Message::Release { job })),
        Just(from(2, Message::LeaseAck)),
        peer().prop_map(Input::Blocked),
        (any::<bool>(), 2u8..4).prop_map(|(new, n)| {
            Input::Fetched { digest: Digest::of(b"in"), claim: Some(keypair(n).public()), tree: false, new }
        }),
        Just(Input::FetchFailed {
            digest: Digest::of(b"in"),
            claim: Some(keypair(2).public()),
            tree: false,
            why: "no".into(),
            hopeless: false
        }),
        (job(), class).prop_map(|(job, class)| exit(job, class)),
    ];
    check_within(
        || executor(2),
        input,
        |x| {
            let running = x.held().keys().filter(|j| {
                matches!(
                    x.state(j),
                    Some(JobState::Staging | JobState::Starting | JobState::Running | JobState::Stopping)
                )
            });
            assert!(running.count() <= 2, "never more at once than allowed");
        },
    );
}
