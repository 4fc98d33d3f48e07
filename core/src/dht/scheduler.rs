//! Who may ask the DHT, and when.
//!
//! The `mainline` backend loses replies from eight operations in flight on, and joins a second operation on the same
//! target to the first even when their kinds differ: an `announce` in flight swallows the answers of a `get_peers` of
//! the same topic (both measured). So at most [`DHT_OPS_MAX`] operations are in flight, one per target, and the rest
//! waits here, in two queues: what the node does for itself (its record, its topics) goes before lookups, so that a
//! flood of learnt peers cannot keep the node's own record from being stored.
//!
//! Every request is answered by exactly one `Done`. An operation that has not ended after ten seconds is cancelled; a
//! port that does not even answer the cancel within five more is answered for, so a dead port blocks nothing.

use super::item::{immutable_target, target};
use crate::few::Few;
use crate::id::{DhtId, OpId, OpIds};
use crate::limits::{DHT_OPS_MAX, LOOKUPS_WAITING_MAX};
use crate::machine::{Cx, Machine};
use crate::port::{DhtDone, DhtEvent, DhtFailed, DhtRequest, MutableItem};
use crate::time::{Deadline, Duration, Instant};
use std::collections::VecDeque;
use std::net::SocketAddr;
use thiserror::Error;

/// How long an operation may take before it is cancelled.
pub const OP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the port may take to answer a cancel.
pub const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests of the node's own that wait: its record, and two for each of its topics.
pub const OWN_WAITING_MAX: usize = 64;

/// In which queue a request waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// The node's own record and topics.
    Own,
    /// Looking up others.
    Lookup,
}

/// Why a request came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RequestFailed {
    /// Too many requests wait.
    #[error("too many DHT requests wait")]
    Busy,
    /// The DHT's own reason.
    #[error(transparent)]
    Dht(#[from] DhtFailed),
}

/// What can happen to the scheduler. `T` is how the asker knows its requests.
#[derive(Clone, Debug)]
pub enum Input<T> {
    /// Somebody asks the DHT.
    Request {
        /// Comes back with the answer.
        tag: T,
        /// Which queue.
        class: Class,
        /// What; not `Cancel`, which is the scheduler's own.
        request: DhtRequest,
    },
    /// The port tells.
    Event(DhtEvent),
}

/// What the scheduler asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output<T> {
    /// Ask the port.
    Dht {
        /// The operation.
        op: OpId,
        /// What.
        request: DhtRequest,
    },
    /// Partial answer to a `GetPeers`.
    Peers {
        /// Of the request.
        tag: T,
        /// Hints.
        addrs: Vec<SocketAddr>,
    },
    /// Partial answer to a `GetMutable`, not yet believed.
    Value {
        /// Of the request.
        tag: T,
        /// The item.
        item: MutableItem,
    },
    /// The end of a request, exactly once.
    Done {
        /// Of the request.
        tag: T,
        /// How it ended.
        result: Result<DhtDone, RequestFailed>,
    },
}

#[derive(Debug)]
struct InFlight<T> {
    tag: T,
    target: DhtId,
    deadline: Instant,
    cancelled: bool,
}

/// Queues and operations in flight.
#[derive(Debug)]
pub struct Scheduler<T> {
    ids: OpIds,
    in_flight: Few<OpId, InFlight<T>>,
    own: VecDeque<(T, DhtRequest)>,
    lookups: VecDeque<(T, DhtRequest)>,
}

impl<T: Copy> Scheduler<T> {
    /// A scheduler whose operations carry `room` in their ids.
    pub fn new(room: u8) -> Self {
        Self { ids: OpIds::new(room), in_flight: Few::new(), own: VecDeque::new(), lookups: VecDeque::new() }
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.own.len() + self.lookups.len()
    }

    fn enqueue(&mut self, cx: &mut Cx<'_, Output<T>>, tag: T, class: Class, request: DhtRequest) {
        let (queue, max) = match class {
            Class::Own => (&mut self.own, OWN_WAITING_MAX),
            Class::Lookup => (&mut self.lookups, LOOKUPS_WAITING_MAX),
        };
        if queue.len() >= max || target_of(&request).is_none() {
            cx.emit(Output::Done { tag, result: Err(RequestFailed::Busy) });
            return;
        }
        queue.push_back((tag, request));
        self.start_what_may(cx);
    }

    fn start_what_may(&mut self, cx: &mut Cx<'_, Output<T>>) {
        while self.in_flight.len() < DHT_OPS_MAX {
            let Some((tag, request, target)) = self.take_next() else { return };
            let op = self.ids.issue();
            let deadline = cx.now + OP_TIMEOUT;
            self.in_flight.insert(op, InFlight { tag, target, deadline, cancelled: false });
            cx.emit(Output::Dht { op, request });
        }
    }

    /// The first request, the node's own before lookups, whose target is free.
    fn take_next(&mut self) -> Option<(T, DhtRequest, DhtId)> {
        let in_flight = &self.in_flight;
        let free = |t: DhtId| in_flight.values().all(|o| o.target != t);
        for queue in [&mut self.own, &mut self.lookups] {
            let found = queue
                .iter()
                .enumerate()
                .find_map(|(i, (_, r))| target_of(r).filter(|t| free(*t)).map(|t| (i, t)));
            if let Some((at, target)) = found {
                let next = queue.remove(at).map(|(tag, request)| (tag, request, target));
                if queue.is_empty() {
                    *queue = VecDeque::new();
                }
                return next;
            }
        }
        None
    }

    fn event(&mut self, cx: &mut Cx<'_, Output<T>>, event: DhtEvent) {
        match event {
            DhtEvent::Peers { op, addrs } => {
                if let Some(o) = self.in_flight.get(&op) {
                    cx.emit(Output::Peers { tag: o.tag, addrs });
                }
            }
            DhtEvent::Value { op, item } => {
                if let Some(o) = self.in_flight.get(&op) {
                    cx.emit(Output::Value { tag: o.tag, item });
                }
            }
            DhtEvent::Done { op, result } => {
                let Some(o) = self.in_flight.remove(&op) else { return };
                let result = match result {
                    Err(DhtFailed::Cancelled) if o.cancelled => Err(DhtFailed::Timeout),
                    other => other,
                };
                cx.emit(Output::Done { tag: o.tag, result: result.map_err(RequestFailed::Dht) });
                self.start_what_may(cx);
            }
            // Nothing in here asks for immutable items; whoever does asks the port itself.
            DhtEvent::Immutable { .. } | DhtEvent::Health { .. } => {}
        }
    }
}

fn target_of(request: &DhtRequest) -> Option<DhtId> {
    match request {
        DhtRequest::Announce { topic, .. } | DhtRequest::GetPeers { topic } => Some(*topic),
        DhtRequest::PutMutable { item, .. } => Some(target(&item.key, &item.salt)),
        DhtRequest::GetMutable { key, salt, .. } => Some(target(key, salt)),
        DhtRequest::PutImmutable { value } => Some(immutable_target(value)),
        DhtRequest::GetImmutable { target } => Some(*target),
        DhtRequest::Cancel => None,
    }
}

impl<T: Copy> Machine for Scheduler<T> {
    type Input = Input<T>;
    type Output = Output<T>;

    fn handle(&mut self, cx: &mut Cx<'_, Output<T>>, input: Input<T>) {
        match input {
            Input::Request { tag, class, request } => self.enqueue(cx, tag, class, request),
            Input::Event(event) => self.event(cx, event),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output<T>>) {
        let mut answered_for = Vec::new();
        for (op, o) in self.in_flight.iter_mut() {
            if o.deadline > cx.now {
                continue;
            }
            if o.cancelled {
                answered_for.push(*op);
            } else {
                o.cancelled = true;
                o.deadline = cx.now + CANCEL_TIMEOUT;
                cx.emit(Output::Dht { op: *op, request: DhtRequest::Cancel });
            }
        }
        for op in answered_for {
            self.event(cx, DhtEvent::Done { op, result: Err(DhtFailed::Timeout) });
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let first = self.in_flight.values().min_by_key(|o| o.deadline)?;
        Some(Deadline::new(first.deadline, if first.cancelled { "dht cancel" } else { "dht operation" }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Keypair;
    use crate::laws::{self, Rig};
    use crate::port::{AnnouncePort, GetMode};
    use proptest::prelude::*;

    const ROOM: u8 = 7;

    fn get_peers(n: u8) -> DhtRequest {
        DhtRequest::GetPeers { topic: DhtId([n; 20]) }
    }

    fn ask(tag: u32, request: DhtRequest) -> Input<u32> {
        Input::Request { tag, class: Class::Lookup, request }
    }

    fn done(n: u64, result: Result<DhtDone, DhtFailed>) -> Input<u32> {
        Input::Event(DhtEvent::Done { op: op(n), result })
    }

    fn op(n: u64) -> OpId {
        OpId((u64::from(ROOM) << 56) + n)
    }

    fn rig() -> Rig<Scheduler<u32>> {
        Rig::new(Scheduler::new(ROOM), [0; 32])
    }

    fn started(out: &[Output<u32>]) -> Vec<OpId> {
        out.iter()
            .filter_map(|o| match o {
                Output::Dht { op, .. } => Some(*op),
                Output::Peers { .. } | Output::Value { .. } | Output::Done { .. } => None,
            })
            .collect()
    }

    #[test]
    fn at_most_four_operations_are_in_flight_and_the_rest_waits_in_order() {
        let mut rig = rig();
        for n in 0..6u8 {
            rig.handle(ask(u32::from(n), get_peers(n)));
        }
        assert_eq!(started(&rig.outputs()), [op(1), op(2), op(3), op(4)]);
        let out = rig.tell(done(2, Ok(DhtDone::default())));
        assert_eq!(out[0], Output::Done { tag: 1, result: Ok(DhtDone::default()) });
        assert_eq!(out[1], Output::Dht { op: op(5), request: get_peers(4) });
    }

    #[test]
    fn an_announce_and_a_search_of_one_topic_never_overlap() {
        let mut rig = rig();
        let topic = DhtId([1; 20]);
        rig.handle(ask(1, DhtRequest::Announce { topic, port: AnnouncePort::Implied }));
        rig.handle(ask(2, DhtRequest::GetPeers { topic }));
        rig.handle(ask(3, get_peers(9)));
        assert_eq!(started(&rig.outputs()).len(), 2, "the announce and the other topic");
        let out = rig.tell(done(1, Ok(DhtDone::default())));
        assert_eq!(out[1], Output::Dht { op: op(3), request: DhtRequest::GetPeers { topic } });
    }

    #[test]
    fn the_nodes_own_requests_go_before_lookups() {
        let mut rig = rig();
        for n in 0..10u8 {
            rig.handle(ask(u32::from(n), get_peers(n)));
        }
        rig.handle(Input::Request { tag: 99, class: Class::Own, request: get_peers(99) });
        rig.outputs();
        assert_eq!(
            rig.tell(done(1, Ok(DhtDone::default())))[1],
            Output::Dht { op: op(5), request: get_peers(99) }
        );
    }

    #[test]
    fn a_slow_operation_is_cancelled_after_ten_seconds_and_answered_as_timed_out() {
        let mut rig = rig();
        rig.handle(ask(1, get_peers(1)));
        rig.outputs();
        assert!(rig.wait(OP_TIMEOUT - Duration::from_nanos(1)).is_empty());
        assert_eq!(
            rig.wait(Duration::from_nanos(1)),
            [Output::Dht { op: op(1), request: DhtRequest::Cancel }]
        );
        let timed_out = Output::Done { tag: 1, result: Err(RequestFailed::Dht(DhtFailed::Timeout)) };
        assert_eq!(rig.tell(done(1, Err(DhtFailed::Cancelled))), [timed_out]);
        assert_eq!(rig.machine.poll_timeout(), None);
    }

    #[test]
    fn a_dead_port_is_answered_for_and_its_late_answer_is_ignored() {
        let mut rig = rig();
        for n in 0..5u8 {
            rig.handle(ask(u32::from(n), get_peers(n)));
        }
        rig.outputs();
        let out = rig.wait(OP_TIMEOUT + CANCEL_TIMEOUT);
        let ends = out.iter().filter(|o| matches!(o, Output::Done { .. })).count();
        assert_eq!(ends, 4);
        assert!(out.contains(&Output::Dht { op: op(5), request: get_peers(4) }), "the fifth starts");
        assert!(rig.tell(done(1, Ok(DhtDone::default()))).is_empty());
        assert!(rig.tell(done(77, Ok(DhtDone::default()))).is_empty());
    }

    #[test]
    fn a_full_queue_answers_busy_at_once() {
        let mut rig = rig();
        for n in 0..(DHT_OPS_MAX + LOOKUPS_WAITING_MAX) as u32 {
            let key = Keypair::from_seed(&crate::rng::derive_seed(&[0; 32], &n.to_string()));
            let key = key.public();
            rig.handle(ask(
                n,
                DhtRequest::GetMutable { key, salt: bytes::Bytes::new(), mode: GetMode::First },
            ));
        }
        assert_eq!(rig.machine.waiting(), LOOKUPS_WAITING_MAX);
        rig.outputs();
        let busy = Output::Done { tag: 5000, result: Err(RequestFailed::Busy) };
        assert_eq!(rig.tell(ask(5000, get_peers(1))), [busy]);
    }

    fn arb_input() -> impl Strategy<Value = Input<u32>> {
        let result = prop_oneof![
            Just(Ok(DhtDone::default())),
            Just(Err(DhtFailed::Cancelled)),
            Just(Err(DhtFailed::NoNodes))
        ];
        prop_oneof![
            3 => (any::<u32>(), any::<bool>(), 0u8..8).prop_map(|(tag, own, n)| Input::Request {
                tag,
                class: if own { Class::Own } else { Class::Lookup },
                request: if n == 7 { DhtRequest::Cancel } else { get_peers(n) },
            }),
            3 => (0u64..40, result).prop_map(|(n, result)| done(n, result)),
            1 => (0u64..40).prop_map(|n| Input::Event(DhtEvent::Peers { op: op(n), addrs: vec![] })),
        ]
    }

    #[test]
    fn the_scheduler_is_a_lawful_machine() {
        laws::check_within(
            || Scheduler::<u32>::new(ROOM),
            arb_input(),
            |m| {
                assert!(m.in_flight() <= DHT_OPS_MAX);
                assert!(m.waiting() <= OWN_WAITING_MAX + LOOKUPS_WAITING_MAX);
                let mut targets: Vec<_> = m.in_flight.values().map(|o| o.target).collect();
                targets.sort();
                targets.dedup();
                assert_eq!(targets.len(), m.in_flight(), "one operation per target");
            },
        );
    }

    proptest! {
        #[test]
        fn every_request_is_answered_exactly_once(inputs in prop::collection::vec((0u64..20_000, arb_input()), 0..80)) {
            let mut rig = rig();
            let (mut asked, mut answered) = (0, 0);
            let ends = |out: Vec<Output<u32>>| out.iter().filter(|o| matches!(o, Output::Done { .. })).count();
            for (wait_ms, input) in inputs {
                asked += usize::from(matches!(input, Input::Request { .. }));
                answered += ends(rig.wait(Duration::from_millis(wait_ms)));
                answered += ends(rig.tell(input));
            }
            answered += ends(rig.wait(Duration::from_secs(3_600)));
            prop_assert_eq!(asked, answered);
        }
    }
}
