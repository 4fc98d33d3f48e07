//! Light jobs at their executor: what is not journaled, and when one turns out to be none.

use super::orders::Refused;
use super::{Executor, Output};
use crate::id::JobId;
use crate::job::carried::{CARRIED_BYTES_MAX, is_what_was_said};
use crate::job::held::JobRecord;
use crate::job::message::Refusal;
use crate::job::order::Order;
use crate::machine::Cx;
use crate::port::{Program, layout_of};
use crate::store::{Room, StoreOp, Subject};
use crate::time::Duration;
use bytes::Bytes;

/// How long a light result waits for its answer. It took seconds; if it is wanted after all, it is ordered and done again.
pub(super) const LIGHT_KEPT_MAX: Duration = Duration::from_secs(600);
/// Bytes that all light jobs here carry together. Whoever comes then comes again.
const LIGHT_BYTES_MAX: usize = 64 << 20;

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
        Some(_) if !matches!(order.program, Program::Wasm(_)) => {
            Some("only WebAssembly modules run as light jobs")
        }
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

    /// Whether there is room in memory for what a light order brings, and for what it may leave.
    pub(super) fn room_for_light(&self, carried: Option<&[Bytes]>) -> Result<(), Refused> {
        let Some(brought) = carried else { return Ok(()) };
        let held = self.soft.values().flat_map(|s| s.carried.iter().flatten()).map(Bytes::len).sum::<usize>();
        let brought = brought.iter().map(Bytes::len).sum::<usize>();
        if held + brought.max(CARRIED_BYTES_MAX) <= LIGHT_BYTES_MAX {
            return Ok(());
        }
        Err((Refusal::Busy, "this node carries as much of light jobs as it can".to_owned()))
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

#[cfg(test)]
mod tests {
    use super::super::tests::{count, keypair, order, refusal, rig, said};
    use super::super::{ExecutorConfig, Input};
    use super::*;
    use crate::id::{Digest, Lsn};
    use crate::job::message::{JobState, Message};
    use crate::job::receipt::{Commit, Receipt, Verdict};
    use crate::job::signed::Signed;
    use crate::laws::Rig;
    use crate::port::{
        EngineEvent, EngineExit, EngineOutput, EngineReport, EngineRequest, ExitClass, Image, Layout,
        MountPath, Port, Usage,
    };
    use crate::store::StoredRecord;
    use crate::time::UnixTime;

    fn from(message: Message) -> Input {
        Input::Message { peer: keypair(2).public(), message: Box::new(message) }
    }

    fn dispatched(o: Order, carried: &[&'static [u8]]) -> Input {
        let sources = vec![Vec::new(); o.inputs.len()];
        let carried = Some(carried.iter().map(|b| Bytes::from_static(b)).collect());
        from(Message::Dispatch { order: Box::new(Signed::sign(o, &keypair(2))), sources, carried })
    }

    fn light(fence: u32) -> Order {
        Order { light: true, ..order(2, fence) }
    }

    /// Ends with `out` at both ports: carried, or in the store.
    fn exit(job: JobId, carried: bool) -> Input {
        let out = |port| EngineOutput { port, digest: Digest::of(b"out"), len: 3, truncated: false };
        let exit = EngineExit {
            class: ExitClass::Success,
            code: 0,
            detail: String::new(),
            usage: Usage::default(),
            outputs: vec![out(Port::Stdout), out(Port::Stderr)],
            carried: carried.then(|| vec![Bytes::from_static(b"out"); 2]),
        };
        Input::Engine(EngineReport { job, event: EngineEvent::Exited(exit) })
    }

    fn records(out: &[Output]) -> Vec<StoredRecord> {
        let ops = out.iter().filter_map(|o| match o {
            Output::Persist(StoreOp::Append { subject, record } | StoreOp::Replace { subject, record }) => {
                Some(StoredRecord { lsn: Lsn(1), subject: subject.clone(), record: record.clone() })
            }
            _ => None,
        });
        ops.collect()
    }

    fn offer(out: &[Output]) -> (Signed<Receipt>, Option<Vec<Bytes>>) {
        let offer = |m| match m {
            Message::SealedOffer { receipt, carried, .. } => Some((*receipt, carried)),
            _ => None,
        };
        said(out).into_iter().find_map(offer).expect("an offer")
    }

    fn answer(receipt: &Signed<Receipt>, verdict: Verdict) -> Input {
        let commit = Commit {
            requester: keypair(2).public(),
            job: receipt.job,
            order: receipt.order,
            receipt: receipt.digest(),
            verdict,
            at: UnixTime::from_secs(9),
        };
        from(Message::ResultAck { commit: Box::new(Signed::sign(commit, &keypair(2))) })
    }

    fn restarted(r: &Rig<Executor>, records: &[StoredRecord]) -> Rig<Executor> {
        let config: ExecutorConfig = r.machine.config.clone();
        let mut again = Rig::new(Executor::restore(config, records).unwrap(), [1; 32]);
        again.now = r.now;
        again.tell(Input::Services(vec![count()]));
        again.tell(Input::Started);
        again
    }

    #[test]
    fn a_light_job_is_started_with_what_it_brought_and_offered_with_what_it_left_without_a_record() {
        let mut r = rig();
        let out = r.tell(dispatched(light(1), &[b"in"]));
        let start = out.iter().find_map(|o| match o {
            Output::Engine { request: EngineRequest::Start(job), .. } => Some(job),
            _ => None,
        });
        assert_eq!(start.unwrap().carried, Some(vec![Bytes::from_static(b"in")]));
        assert!(records(&out).is_empty() && said(&out).is_empty(), "its result is its acceptance");
        assert!(!out.iter().any(|o| matches!(o, Output::Want { .. })));
        let out = r.tell(exit(light(1).job(), true));
        let (receipt, carried) = offer(&out);
        assert_eq!(receipt.answers(&Signed::sign(light(1), &keypair(2))), Ok(()));
        assert_eq!(carried, Some(vec![Bytes::from_static(b"out"); 2]));
        assert!(!out.iter().any(|o| matches!(o, Output::Grant { .. })), "there is nothing to be fetched");
        assert_eq!(records(&out).len(), 1, "numbers are set aside");
        assert!(r.machine.durable().held.is_empty());
        r.tell(dispatched(light(2), &[b"in"]));
        let out = r.tell(exit(light(2).job(), true));
        assert!(records(&out).is_empty(), "for the next ones as well");
        assert_eq!(offer(&out).0.previous, receipt.digest());
    }

    #[test]
    fn an_order_that_comes_again_is_accepted_while_it_runs_and_offered_when_it_has_ended() {
        let mut r = rig();
        let job = light(1).job();
        r.tell(dispatched(light(1), &[b"in"]));
        let out = r.tell(dispatched(light(1), &[b"in"]));
        assert_eq!(said(&out), [Message::Accepted { job, incarnation: 7 }]);
        r.tell(exit(job, true));
        let (receipt, carried) = offer(&r.tell(dispatched(light(1), &[b"in"])));
        assert!(carried.is_some());
        assert_eq!(offer(&r.wait(Duration::from_secs(2))).0, receipt, "again until it is answered");
        assert_eq!(offer(&r.tell(Input::PeerUp(keypair(2).public()))).0, receipt, "and on connect");
    }

    #[test]
    fn an_answer_is_the_end_of_it_whatever_it_says() {
        for verdict in [Verdict::Won, Verdict::Failed, Verdict::Superseded, Verdict::Rejected] {
            let mut r = rig();
            r.tell(dispatched(light(1), &[b"in"]));
            let (receipt, _) = offer(&r.tell(exit(light(1).job(), true)));
            let out = r.tell(answer(&receipt, verdict));
            assert!(out.is_empty(), "{verdict:?}: {out:?}");
            assert_eq!(r.machine.state(&light(1).job()), None);
        }
    }

    #[test]
    fn a_crash_forgets_it_and_uses_no_number_twice() {
        let mut r = rig();
        r.tell(dispatched(light(1), &[b"in"]));
        let out = r.tell(exit(light(1).job(), true));
        let (first, _) = offer(&out);
        let mut again = restarted(&r, &records(&out));
        let greeting = said(&again.tell(Input::PeerUp(keypair(2).public())));
        assert_eq!(greeting, [Message::Inventory { incarnation: 7, jobs: Vec::new() }]);
        again.tell(dispatched(light(1), &[b"in"]));
        let (second, _) = offer(&again.tell(exit(light(1).job(), true)));
        assert!(second.seq > first.seq);
        assert_eq!(second.previous, Digest([0; 32]), "nobody knows what was signed before");
        assert_eq!((second.result, &second.outputs), (first.result, &first.outputs), "done again");
    }

    #[test]
    fn one_that_left_its_outputs_in_the_store_is_journaled_after_all() {
        let mut r = rig();
        let job = light(1).job();
        r.tell(dispatched(light(1), &[b"in"]));
        let out = r.tell(exit(job, false));
        let (receipt, carried) = offer(&out);
        assert_eq!(carried, None);
        assert!(out.iter().any(|o| matches!(o, Output::Grant { .. })));
        let kept = records(&out);
        let last = out.iter().rposition(|o| matches!(o, Output::Persist(_))).unwrap();
        let sent = out.iter().position(|o| matches!(o, Output::Send { .. })).unwrap();
        assert!(last < sent, "all of it before it is offered");
        let mut again = restarted(&r, &kept);
        assert_eq!(again.machine.durable(), r.machine.durable());
        assert_eq!(again.machine.state(&job), Some(JobState::Sealed));
        assert_eq!(offer(&again.tell(Input::PeerUp(keypair(2).public()))).0, receipt);
        again.tell(answer(&receipt, Verdict::Won));
        assert_eq!(again.machine.state(&job), Some(JobState::Retained), "as any other");
    }

    #[test]
    fn a_result_that_nobody_answers_is_forgotten_and_done_again_if_it_is_wanted() {
        let mut r = rig();
        let job = light(1).job();
        r.tell(dispatched(light(1), &[b"in"]));
        r.tell(exit(job, true));
        r.tell(Input::PeerDown(keypair(2).public()));
        r.wait(LIGHT_KEPT_MAX - Duration::from_millis(1));
        assert_eq!(r.machine.state(&job), Some(JobState::Sealed));
        let out = r.wait(Duration::from_millis(1));
        assert_eq!((r.machine.state(&job), records(&out)), (None, Vec::new()));
        r.tell(Input::PeerUp(keypair(2).public()));
        assert_eq!(refusal(&r.tell(dispatched(light(1), &[b"in"]))), None);
        offer(&r.tell(exit(job, true)));
    }

    #[test]
    fn more_than_memory_is_for_is_refused_for_now() {
        let mut r = rig();
        r.tell(dispatched(light(1), &[b"in"]));
        let soft = r.machine.soft.get_mut(&light(1).job()).unwrap();
        soft.carried = Some(vec![vec![0; LIGHT_BYTES_MAX - CARRIED_BYTES_MAX + 1].into()]);
        assert_eq!(refusal(&r.tell(dispatched(light(2), &[b"in"]))), Some(Refusal::Busy));
        r.machine.soft.get_mut(&light(1).job()).unwrap().carried = Some(Vec::new());
        assert_eq!(refusal(&r.tell(dispatched(light(2), &[b"in"]))), None);
    }

    #[test]
    fn one_that_was_cancelled_never_starts_again() {
        let mut r = rig();
        let job = light(1).job();
        r.tell(dispatched(light(1), &[b"in"]));
        let out = r.tell(from(Message::Cancel { job }));
        assert!(out.iter().any(|o| matches!(o, Output::Engine { request: EngineRequest::Stop { .. }, .. })));
        let stopped = EngineExit {
            class: ExitClass::Cancelled,
            code: 0,
            detail: String::new(),
            usage: Usage::default(),
            outputs: Vec::new(),
            carried: None,
        };
        let out = r.tell(Input::Engine(EngineReport { job, event: EngineEvent::Exited(stopped) }));
        assert_eq!(said(&out), [Message::CancelAck { job }]);
        assert_eq!(refusal(&r.tell(dispatched(light(1), &[b"in"]))), Some(Refusal::Dead));
        let mut again = restarted(&r, &records(&out));
        again.tell(Input::PeerUp(keypair(2).public()));
        assert_eq!(refusal(&again.tell(dispatched(light(1), &[b"in"]))), Some(Refusal::Dead));
    }

    #[test]
    fn what_is_not_what_it_says_or_cannot_be_light_is_refused_with_the_reason() {
        let image = Image { name: "i".into(), id: [1; 32], entrypoint: Vec::new(), workdir: None };
        let tree = MountPath { name: "m".into(), path: None, layout: Layout::Tree };
        let with_tree = Order { outputs: vec![Port::Mount("m".into())], paths: vec![tree], ..light(1) };
        let container = Order { program: Program::Image(Box::new(image)), ..light(1) };
        let carried =
            |bytes: &[&'static [u8]]| -> Vec<Bytes> { bytes.iter().map(|b| Bytes::from_static(b)).collect() };
        let cases: [(&Order, Option<Vec<Bytes>>, bool); 7] = [
            (&light(1), Some(carried(&[b"in"])), false),
            (&light(1), Some(carried(&[b"ni"])), true),
            (&light(1), Some(carried(&[])), true),
            (&light(1), None, true),
            (&order(2, 1), Some(carried(&[b"in"])), true),
            (&with_tree, Some(carried(&[b"in"])), true),
            (&container, Some(carried(&[b"in"])), true),
        ];
        for (order, carried, refused) in cases {
            assert_eq!(fault(order, carried.as_deref()).is_some(), refused, "{order:?} with {carried:?}");
        }
        let mut r = rig();
        assert_eq!(refusal(&r.tell(dispatched(light(1), &[b"ni"]))), Some(Refusal::BadOrder));
        assert!(r.machine.held().is_empty());
    }
}
