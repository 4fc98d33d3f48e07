use super::*;
use crate::command::Command;
use crate::id::{CommandId, Lsn};
use crate::place::{SocketEvent, SocketId, SocketRequest};
use proptest::prelude::*;
use std::convert::Infallible;

/// A node that does what the test has laid out, and writes down what it was told.
#[derive(Default)]
struct Script {
    told: Vec<String>,
    actions: VecDeque<Action>,
    /// Given out for each event handled.
    actions_per_event: usize,
    transmits: VecDeque<(u8, usize)>,
    polls: Vec<usize>,
    deadlines: VecDeque<Instant>,
}

impl Driven for Script {
    fn handle(&mut self, _now: Instant, _wall: UnixTime, event: Event) {
        self.told.push(match event {
            Event::Datagram(d) => format!("datagram {}", d.payload.len()),
            Event::Datagrams(all) => {
                let sizes: Vec<String> = all.iter().map(|d| d.payload.len().to_string()).collect();
                format!("datagrams {}", sizes.join(" "))
            }
            Event::Command { id, .. } => format!("command {}", id.0),
            other => format!("{other:?}"),
        });
        for _ in 0..self.actions_per_event {
            self.actions.push_back(persist(self.told.len() as u64));
        }
    }
    fn handle_timeout(&mut self, now: Instant, _wall: UnixTime) {
        while self.deadlines.front().is_some_and(|at| *at <= now) {
            self.deadlines.pop_front();
        }
        self.told.push(format!("timeout {}", now.as_millis()));
    }
    fn poll_transmit(&mut self, _: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.polls.push(max_datagrams);
        let (fill, size) = self.transmits.pop_front()?;
        buf.resize(buf.len() + size, fill);
        Some(Transmit {
            socket: SocketId::MAIN,
            to: "192.0.2.1:1".parse().unwrap(),
            from: None,
            size,
            segment_size: None,
            ecn: None,
        })
    }
    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
    fn poll_timeout(&self) -> Option<Deadline> {
        self.deadlines.front().map(|at| Deadline::new(*at, "script"))
    }
}

/// A socket and ports in memory.
#[derive(Default)]
struct Memory {
    now: Instant,
    receives: VecDeque<Vec<usize>>,
    events: VecDeque<Event>,
    sockets: Vec<SocketRequest>,
    sent: Vec<Vec<u8>>,
    /// Batches the socket takes before it is full.
    room: usize,
    gso: usize,
}

impl DriverIo for Memory {
    type Error = Infallible;
    fn clock(&self) -> (Instant, UnixTime) {
        (self.now, UnixTime::from_millis(self.now.as_millis()))
    }
    fn receive(&mut self, arrived: &mut VecDeque<Datagram>) -> Result<bool, Infallible> {
        let Some(sizes) = self.receives.pop_front() else { return Ok(false) };
        for size in sizes {
            arrival(size).split_into(&vec![0; size], &mut BytesMut::new(), arrived);
        }
        Ok(true)
    }
    fn next_event(&mut self) -> Result<Option<Event>, Infallible> {
        Ok(self.events.pop_front())
    }
    fn socket(&mut self, request: SocketRequest) {
        self.sockets.push(request);
        if let SocketRequest::Open(id) = request {
            self.events.push_front(Event::Socket(SocketEvent::Failed(id, "none left".into())));
        }
    }
    fn datagrams_per_send(&self) -> usize {
        self.gso
    }
    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<Sent, Infallible> {
        assert_eq!(transmit.size, bytes.len());
        if self.room == 0 {
            return Ok(Sent::Blocked);
        }
        self.room -= 1;
        self.sent.push(bytes.to_vec());
        Ok(Sent::Gone)
    }
}

#[derive(Default)]
struct Kept(Vec<Action>);

impl ActionSink for Kept {
    fn submit(&mut self, action: Action) {
        self.0.push(action);
    }
}

fn pump(node: Script) -> Pump<Script, Kept> {
    Pump::new(node, Kept::default(), None)
}

fn memory() -> Memory {
    Memory { room: usize::MAX, gso: 64, ..Memory::default() }
}

fn persist(lsn: u64) -> Action {
    Action::Persist { lsn: Lsn(lsn), ops: Vec::new() }
}

fn command(id: u64) -> Event {
    Event::Command { id: CommandId(id), command: Command::Status }
}

fn arrival(stride: usize) -> Arrival {
    Arrival { socket: SocketId::MAIN, from: "192.0.2.7:9".parse().unwrap(), to: None, ecn: Some(2), stride }
}

fn turn(pump: &mut Pump<Script, Kept>, io: &mut Memory) -> Turn {
    match pump.turn(io) {
        Ok(turn) => turn,
        Err(never) => match never {},
    }
}

const IDLE: Turn = Turn::Wait { until: None, writable: false };

#[test]
fn an_idle_node_waits_for_nothing_in_particular() {
    let mut pump = pump(Script::default());
    assert_eq!(turn(&mut pump, &mut memory()), IDLE);
}

#[test]
fn datagrams_come_before_events_and_events_before_time() {
    let node = Script { deadlines: [Instant::from_millis(5)].into(), ..Script::default() };
    let mut pump = pump(node);
    let mut io = memory();
    io.now = Instant::from_millis(7);
    io.receives = [vec![3, 4], vec![5]].into();
    io.events = [command(1), command(2)].into();
    assert_eq!(turn(&mut pump, &mut io), IDLE);
    assert_eq!(pump.node.told, ["datagrams 3 4", "datagram 5", "command 1", "command 2", "timeout 7"]);
}

#[test]
fn every_action_reaches_the_sink_once_and_in_order() {
    let mut pump = pump(Script { actions_per_event: 3, ..Script::default() });
    let mut io = memory();
    io.events = (0..40).map(command).collect();
    assert_eq!(turn(&mut pump, &mut io), IDLE);
    let expected: Vec<Action> = (1..=40).flat_map(|n| [persist(n), persist(n), persist(n)]).collect();
    assert_eq!(pump.sink.0, expected);
}

#[test]
fn nothing_new_comes_in_while_old_actions_wait() {
    let actions = (0..ACTIONS_PER_TURN as u64 + 1).map(persist).collect();
    let mut pump = pump(Script { actions, ..Script::default() });
    let mut io = memory();
    io.receives = [vec![1]].into();
    io.events = [command(1)].into();
    assert_eq!(turn(&mut pump, &mut io), Turn::Again);
    assert_eq!(pump.sink.0.len(), ACTIONS_PER_TURN);
    assert!(pump.node.told.is_empty());
    assert_eq!(turn(&mut pump, &mut io), IDLE);
    assert_eq!(pump.sink.0.len(), ACTIONS_PER_TURN + 1);
    assert_eq!(pump.node.told.len(), 2);
}

#[test]
fn a_flood_of_actions_leaves_the_rest_of_a_receive_for_the_next_turn() {
    let mut pump = pump(Script { actions_per_event: ACTIONS_PER_TURN, ..Script::default() });
    let mut io = memory();
    io.receives = [vec![1; DATAGRAMS_PER_EVENT * 2 + 1]].into();
    for handled in 1..=3 {
        assert_eq!(turn(&mut pump, &mut io), Turn::Again);
        assert_eq!(pump.node.told.len(), handled);
    }
    assert_eq!(turn(&mut pump, &mut io), IDLE);
    let full = format!("datagrams{}", " 1".repeat(DATAGRAMS_PER_EVENT));
    assert_eq!(pump.node.told, [full.as_str(), full.as_str(), "datagram 1"]);
}

#[test]
fn a_turn_is_bounded_in_receives_events_and_transmits() {
    let mut pump = pump(Script { transmits: vec![(1, 10); 200].into(), ..Script::default() });
    let mut io = memory();
    io.receives = vec![vec![1]; 10].into();
    io.events = (0..100).map(command).collect();
    assert_eq!(turn(&mut pump, &mut io), Turn::Again);
    assert_eq!(io.receives.len(), 10 - RECEIVES_PER_TURN);
    assert_eq!(io.events.len(), 100 - EVENTS_PER_TURN);
    assert_eq!(io.sent.len(), TRANSMITS_PER_TURN);
    let mut turns = 1;
    while turn(&mut pump, &mut io) == Turn::Again {
        turns += 1;
    }
    assert!(turns < 5);
    assert_eq!((io.receives.len(), io.events.len(), io.sent.len()), (0, 0, 200));
}

#[test]
fn a_batch_the_socket_refuses_is_kept_with_its_bytes_and_goes_first() {
    let mut pump = pump(Script { transmits: [(1, 10), (2, 20), (3, 30)].into(), ..Script::default() });
    let mut io = memory();
    io.room = 1;
    let blocked = Turn::Wait { until: None, writable: true };
    assert_eq!(turn(&mut pump, &mut io), blocked);
    assert_eq!(pump.node.polls.len(), 2);
    io.receives = [vec![9]].into();
    assert_eq!(turn(&mut pump, &mut io), blocked);
    assert_eq!(pump.node.polls.len(), 2, "not asked for more while the socket is full");
    assert_eq!(pump.node.told, ["datagram 9"], "input goes on: it may be what frees the other side");
    io.room = 10;
    assert_eq!(turn(&mut pump, &mut io), IDLE);
    assert_eq!(io.sent, [vec![1; 10], vec![2; 20], vec![3; 30]]);
}

#[test]
fn batches_are_as_large_as_the_socket_takes_but_at_most_ten_datagrams() {
    for (gso, asked) in [(64, DATAGRAMS_PER_TRANSMIT), (4, 4), (1, 1), (0, 1)] {
        let mut pump = pump(Script::default());
        let mut io = Memory { gso, ..memory() };
        turn(&mut pump, &mut io);
        assert_eq!(pump.node.polls, [asked]);
    }
}

#[test]
fn the_timer_is_told_when_due_and_not_before() {
    let deadlines = [10, 20].map(Instant::from_millis).into();
    let mut pump = pump(Script { deadlines, ..Script::default() });
    let mut io = memory();
    let until = |millis| Turn::Wait { until: Some(Instant::from_millis(millis)), writable: false };
    io.now = Instant::from_nanos(9_999_999);
    assert_eq!(turn(&mut pump, &mut io), until(10));
    assert!(pump.node.told.is_empty());
    io.now = Instant::from_millis(10);
    assert_eq!(turn(&mut pump, &mut io), until(20));
    io.now = Instant::from_millis(35);
    assert_eq!(turn(&mut pump, &mut io), IDLE);
    assert_eq!(pump.node.told, ["timeout 10", "timeout 35"]);
}

#[test]
fn stopping_flushes_what_is_left_and_takes_nothing_more() {
    let fault = Some("disk".to_string());
    let actions = [persist(1), Action::Stopped { fault: fault.clone() }, persist(2)].into();
    let mut pump = pump(Script { actions, transmits: [(1, 10)].into(), ..Script::default() });
    let mut io = memory();
    io.events = [command(1)].into();
    io.receives = [vec![1]].into();
    assert_eq!(turn(&mut pump, &mut io), Turn::Stopped { fault: fault.clone() });
    assert_eq!(pump.sink.0, [persist(1), Action::Stopped { fault }]);
    assert_eq!(io.sent.len(), 1);
    assert!(pump.node.told.is_empty());
}

#[test]
fn stopping_does_not_wait_for_a_full_socket() {
    let actions = [Action::Stopped { fault: None }].into();
    let mut pump = pump(Script { actions, transmits: [(1, 10)].into(), ..Script::default() });
    let mut io = Memory { room: 0, ..memory() };
    assert_eq!(turn(&mut pump, &mut io), Turn::Stopped { fault: None });
}

#[test]
fn a_recording_has_every_call_with_its_time_in_order() {
    let log = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = log.clone();
    let recorder: Recorder = Box::new(move |now, _, call| {
        kept.lock().unwrap().push((now.as_millis(), format!("{call:?}").chars().take(8).collect::<String>()));
    });
    let node = Script { deadlines: [Instant::from_millis(3)].into(), ..Script::default() };
    let mut pump = Pump::new(node, Kept::default(), Some(recorder));
    let mut io = memory();
    io.now = Instant::from_millis(4);
    pump.handle(&io, Event::LocalAddrs(Vec::new()));
    io.events = [command(1)].into();
    turn(&mut pump, &mut io);
    let names: Vec<String> = log.lock().unwrap().iter().map(|(at, name)| format!("{at} {name}")).collect();
    assert_eq!(names, ["4 Event(Lo", "4 Event(Co", "4 Timeout", "4 Transmit"]);
}

#[test]
fn a_message_without_stride_or_payload_cannot_hang_the_cut() {
    let mut arrived = VecDeque::new();
    arrival(0).split_into(&[], &mut BytesMut::new(), &mut arrived);
    arrival(5).split_into(&[], &mut BytesMut::new(), &mut arrived);
    assert!(arrived.is_empty());
    arrival(0).split_into(&[7; 9], &mut BytesMut::new(), &mut arrived);
    assert_eq!(arrived.len(), 1);
    assert_eq!(&arrived[0].payload[..], &[7; 9]);
}

proptest! {
    #[test]
    fn a_joined_message_is_cut_at_its_strides_and_nothing_is_lost(
        message in proptest::collection::vec(any::<u8>(), 0..5_000),
        stride in 0usize..2_000,
    ) {
        let mut arrived = VecDeque::new();
        arrival(stride).split_into(&message, &mut BytesMut::new(), &mut arrived);
        let joined: Vec<u8> = arrived.iter().flat_map(|d| d.payload.to_vec()).collect();
        prop_assert_eq!(&joined, &message);
        let stride = if stride == 0 { message.len() } else { stride };
        for (i, datagram) in arrived.iter().enumerate() {
            prop_assert!(!datagram.payload.is_empty());
            prop_assert!(datagram.payload.len() == stride || i + 1 == arrived.len());
            prop_assert!(datagram.payload.len() <= stride);
            prop_assert_eq!(datagram.from, arrival(stride).from);
            prop_assert_eq!(datagram.ecn, Some(2));
        }
    }
}

#[test]
fn sockets_are_the_driver_s_to_open_and_both_the_recorder_and_the_sink_only_hear_of_it() {
    let (open, close) = (SocketRequest::Open(SocketId(3)), SocketRequest::Close(SocketId(3)));
    let node = Script { actions: [Action::Socket(open), Action::Socket(close)].into(), ..Script::default() };
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let recorded = heard.clone();
    let recorder: Recorder = Box::new(move |_, _, call| {
        if let Call::Event(event) = call {
            recorded.lock().unwrap().push(event.clone());
        }
    });
    let mut pump = Pump::new(node, Kept::default(), Some(recorder));
    let mut io = memory();
    assert_eq!(turn(&mut pump, &mut io), IDLE);
    assert_eq!(io.sockets, [open, close]);
    assert_eq!(pump.sink.0, [Action::Socket(open), Action::Socket(close)]);
    let answer = Event::Socket(SocketEvent::Failed(SocketId(3), "none left".into()));
    assert_eq!(pump.node.told, [format!("{answer:?}")]);
    assert_eq!(*heard.lock().unwrap(), [answer]);
}
