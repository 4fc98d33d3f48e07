//! What every driver must do with a real socket and a real clock. One body, run against each driver and runtime.
//!
//! The node is a small one that sends what it was given, answers as told, and tells the test what it hears. Times are
//! compared, never waited for; `PATIENCE` only turns a hang into a failure.

mod quic;

pub use quic::quic_carries_a_body_larger_than_its_windows;

use crate::driver::{BindOptions, Clock, Driver, DriverError, Socket, Stopped, bind, event_channel};
use async_channel::Sender;
use remote_network_core::action::{Action, ActionSink};
use remote_network_core::command::{Command, Reply};
use remote_network_core::drive::{Call, Driven, EVENTS_PER_TURN, EVENTS_QUEUED_MAX};
use remote_network_core::event::{Datagram, Event};
use remote_network_core::id::CommandId;
use remote_network_core::place::{SocketEvent, SocketId, SocketRequest};
use remote_network_core::time::{Deadline, Instant, UnixTime};
use remote_network_core::transport::Transmit;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

pub type TestDriver = Driver<Peer, Heard>;
pub type Run = fn(TestDriver) -> Result<Stopped, DriverError>;

const PATIENCE: Duration = Duration::from_secs(60);

/// Instantiates the suite for one way to run a driver.
macro_rules! suite {
    ($name:ident, $run:path) => {
        mod $name {
            use crate::conformance as law;
            #[test]
            fn datagrams_of_all_sizes_go_both_ways_in_order() {
                law::datagrams_of_all_sizes_go_both_ways_in_order($run);
            }
            #[test]
            fn the_socket_s_address_is_the_first_event() {
                law::the_socket_s_address_is_the_first_event($run);
            }
            #[test]
            fn timers_are_told_in_order_and_never_early() {
                law::timers_are_told_in_order_and_never_early($run);
            }
            #[test]
            fn a_driver_without_work_takes_no_turns() {
                law::a_driver_without_work_takes_no_turns($run);
            }
            #[test]
            fn bursts_of_events_are_all_answered_in_order() {
                law::bursts_of_events_are_all_answered_in_order($run);
            }
            #[test]
            fn what_is_the_dht_s_is_set_aside_and_answered_through_the_same_socket() {
                law::what_is_the_dht_s_is_set_aside_and_answered_through_the_same_socket($run);
            }
            #[test]
            fn hostile_datagrams_and_dead_receivers_do_not_stop_it() {
                law::hostile_datagrams_and_dead_receivers_do_not_stop_it($run);
            }
            #[test]
            fn stopping_says_goodbye_and_tells_the_fault() {
                law::stopping_says_goodbye_and_tells_the_fault($run);
            }
            #[test]
            fn quic_carries_a_body_larger_than_its_windows() {
                law::quic_carries_a_body_larger_than_its_windows($run);
            }
            #[test]
            fn hundreds_of_other_sockets_carry_datagrams_both_ways() {
                law::hundreds_of_other_sockets_carry_datagrams_both_ways($run);
            }
            #[test]
            fn another_socket_carries_batches_like_the_own_one() {
                law::another_socket_carries_batches_like_the_own_one($run);
            }
            #[test]
            fn a_closed_socket_is_gone_and_its_number_is_free() {
                law::a_closed_socket_is_gone_and_its_number_is_free($run);
            }
            #[test]
            fn other_sockets_that_are_silent_take_no_turns() {
                law::other_sockets_that_are_silent_take_no_turns($run);
            }
            #[test]
            fn a_closed_event_channel_ends_it_after_what_was_queued() {
                law::a_closed_event_channel_ends_it_after_what_was_queued($run);
            }
        }
    };
}
pub(crate) use suite;

/// What the node or the sink has heard.
#[derive(Debug)]
pub enum Told {
    Local(Vec<SocketAddr>),
    Datagram(Datagram),
    Socket(SocketEvent),
    Timeout { now: Instant, due: Vec<Instant> },
    Action(Action),
}

pub struct Heard(mpsc::Sender<Told>);

impl ActionSink for Heard {
    fn submit(&mut self, action: Action) {
        let _ = self.0.send(Told::Action(action));
    }
}

/// One datagram to send.
type Out = (SocketId, SocketAddr, Option<IpAddr>, Vec<u8>);

pub struct Peer {
    tell: mpsc::Sender<Told>,
    out: VecDeque<Out>,
    echo: bool,
    actions: VecDeque<Action>,
    /// What is asked for at each `Command::Status`, after its answer.
    on_status: VecDeque<Vec<SocketRequest>>,
    deadlines: VecDeque<Instant>,
}

impl Driven for Peer {
    #[expect(clippy::only_used_in_recursion, reason = "the signature is the trait's")]
    fn handle(&mut self, now: Instant, wall: UnixTime, event: Event) {
        match event {
            Event::LocalAddrs(addrs) => {
                let _ = self.tell.send(Told::Local(addrs));
            }
            Event::Datagrams(all) => {
                for datagram in all {
                    self.handle(now, wall, Event::Datagram(datagram));
                }
            }
            Event::Datagram(datagram) => {
                if self.echo {
                    let Datagram { socket, from, to, payload, .. } = &datagram;
                    self.out.push_back((*socket, *from, *to, payload.to_vec()));
                }
                let _ = self.tell.send(Told::Datagram(datagram));
            }
            Event::Command { command: Command::Shutdown, .. } => {
                self.actions.push_back(Action::Stopped { fault: None });
            }
            Event::Command { id, .. } => {
                self.actions.push_back(Action::Reply { id, reply: Reply::Done });
                let next = self.on_status.pop_front().unwrap_or_default();
                self.actions.extend(next.into_iter().map(Action::Socket));
            }
            Event::Socket(event) => {
                let _ = self.tell.send(Told::Socket(event));
            }
            Event::PersistFailed { why } => self.actions.push_back(Action::Stopped { fault: Some(why) }),
            other => panic!("no test sends {other:?}"),
        }
    }

    fn handle_timeout(&mut self, now: Instant, _wall: UnixTime) {
        let mut due = Vec::new();
        while let Some(at) = self.deadlines.pop_front_if(|at| *at <= now) {
            due.push(at);
        }
        let _ = self.tell.send(Told::Timeout { now, due });
    }

    /// Joins datagrams to one receiver as QUIC does: all of one size, the last may be shorter.
    fn poll_transmit(&mut self, _: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        let (socket, to, from, first) = self.out.pop_front()?;
        let segment = first.len();
        let mut last = segment;
        buf.extend_from_slice(&first);
        for _ in 1..max_datagrams {
            let fits = |(by, receiver, sender, next): &mut Out| {
                last == segment && (*by, *receiver, *sender) == (socket, to, from) && next.len() <= segment
            };
            let Some((_, _, _, next)) = self.out.pop_front_if(fits) else { break };
            buf.extend_from_slice(&next);
            last = next.len();
        }
        Some(Transmit { socket, to, from, size: buf.len(), segment_size: Some(segment), ecn: Some(2) })
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        self.deadlines.front().map(|at| Deadline::new(*at, "test"))
    }
}

/// A driver in a thread of its own, and what it tells.
struct Running {
    addr: SocketAddr,
    events: Sender<Event>,
    told: mpsc::Receiver<Told>,
    thread: JoinHandle<Result<Stopped, DriverError>>,
}

fn prepare(
    socket: Socket,
    edit: impl FnOnce(&mut Peer),
) -> (TestDriver, Sender<Event>, mpsc::Receiver<Told>) {
    let (tell, told) = mpsc::channel();
    let sink = Heard(tell.clone());
    let mut peer = Peer {
        tell,
        out: VecDeque::new(),
        echo: false,
        actions: VecDeque::new(),
        on_status: VecDeque::new(),
        deadlines: VecDeque::new(),
    };
    edit(&mut peer);
    let (events, inbox) = event_channel();
    (Driver::new(peer, socket, sink, inbox, Clock::start()), events, told)
}

fn start(run: Run, socket: Socket, edit: impl FnOnce(&mut Peer)) -> Running {
    let addr = socket.local_addr();
    let (driver, events, told) = prepare(socket, edit);
    Running { addr, events, told, thread: std::thread::spawn(move || run(driver)) }
}

impl Running {
    fn next(&self) -> Told {
        self.told.recv_timeout(PATIENCE).expect("the driver hangs")
    }

    fn next_socket(&self) -> SocketEvent {
        loop {
            if let Told::Socket(event) = self.next() {
                return event;
            }
        }
    }

    fn next_opened(&self) -> (SocketId, SocketAddr) {
        match self.next_socket() {
            SocketEvent::Opened(id, addr) => (id, addr),
            SocketEvent::Failed(id, why) => panic!("socket {}: {why}", id.0),
        }
    }

    fn next_datagram(&self) -> Datagram {
        loop {
            if let Told::Datagram(datagram) = self.next() {
                return datagram;
            }
        }
    }

    fn stop(self) {
        self.events.send_blocking(command(0, Command::Shutdown)).unwrap();
        assert_eq!(self.thread.join().unwrap().unwrap(), Stopped { fault: None });
    }
}

fn socket() -> Socket {
    bind(([127, 0, 0, 1], 0).into(), BindOptions::default()).unwrap()
}

fn command(id: u64, command: Command) -> Event {
    Event::Command { id: CommandId(id), command }
}

/// 70 kB in all: fits a receive buffer of any system, so that nothing may be lost.
fn payloads_of_all_sizes() -> Vec<Vec<u8>> {
    let sizes =
        [1, 1_200, 1_452, 2].into_iter().chain([1_200; 35]).chain([700]).chain([1_350; 12]).chain([9; 20]);
    sizes.enumerate().map(|(i, size)| vec![i as u8; size]).collect()
}

pub fn datagrams_of_all_sizes_go_both_ways_in_order(run: Run) {
    let (a, b) = (socket(), socket());
    let expected = payloads_of_all_sizes();
    let (a_addr, b_addr) = (a.local_addr(), b.local_addr());
    let b = start(run, b, |peer| peer.echo = true);
    let a = start(run, a, |peer| {
        peer.out = expected.iter().map(|payload| (SocketId::MAIN, b_addr, None, payload.clone())).collect();
    });
    for (node, from) in [(&b, a_addr), (&a, b_addr)] {
        for payload in &expected {
            let datagram = node.next_datagram();
            assert_eq!(datagram.payload, payload);
            assert_eq!((datagram.from, datagram.to, datagram.ecn), (from, Some(node.addr.ip()), Some(2)));
        }
    }
    a.stop();
    b.stop();
}

pub fn what_is_the_dht_s_is_set_aside_and_answered_through_the_same_socket(run: Run) {
    let socket = socket();
    let (to, sender) = (socket.local_addr(), socket.sender().unwrap());
    let (driver, events, told) = prepare(socket, |peer| peer.echo = true);
    let (tell, aside) = mpsc::channel();
    let driver = driver.with_aside(Box::new(move |datagram| tell.send(datagram).unwrap()));
    let thread = std::thread::spawn(move || run(driver));
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buf = [0; 2_000];
    // Long packets of QUIC and short ones of the DHT by turns, as they come on a shared socket.
    for n in 0..20u8 {
        other.send_to(&[&b"d1:ad2:id20:"[..], &[n; 40]].concat(), to).unwrap();
        other.send_to(&[0x40 | n; 1_200], to).unwrap();
        let datagram = aside.recv_timeout(PATIENCE).unwrap();
        assert_eq!((datagram.from, datagram.payload.last()), (other.local_addr().unwrap(), Some(&n)));
        let (len, from) = other.recv_from(&mut buf).unwrap();
        assert_eq!((len, buf[0], from), (1_200, 0x40 | n, to));
        sender.send_to(b"d1:re", other.local_addr().unwrap()).unwrap();
        let (len, from) = other.recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..len], from), (&b"d1:re"[..], to));
    }
    assert_eq!(told.try_iter().filter(|t| matches!(t, Told::Datagram(_))).count(), 20);
    assert!(aside.try_recv().is_err(), "nothing of QUIC is taken");
    events.send_blocking(command(0, Command::Shutdown)).unwrap();
    assert_eq!(thread.join().unwrap().unwrap(), Stopped { fault: None });
}

pub fn the_socket_s_address_is_the_first_event(run: Run) {
    let node = start(run, socket(), |_| {});
    let addr = node.addr;
    assert!(addr.port() != 0);
    assert!(matches!(node.next(), Told::Local(addrs) if addrs == [addr]));
    node.stop();
}

pub fn timers_are_told_in_order_and_never_early(run: Run) {
    let deadlines = [0, 0, 3, 4, 30, 31].map(Instant::from_millis);
    let node = start(run, socket(), |peer| peer.deadlines = deadlines.into());
    let mut fired = Vec::new();
    while fired.len() < deadlines.len() {
        if let Told::Timeout { now, due } = node.next() {
            assert!(!due.is_empty(), "told before its deadline");
            assert!(due.iter().all(|at| *at <= now));
            fired.extend(due);
        }
    }
    assert_eq!(fired, deadlines);
    node.stop();
}

pub fn a_driver_without_work_takes_no_turns(run: Run) {
    let far = Instant::from_millis(150);
    let (driver, events, told) = prepare(socket(), |peer| peer.deadlines = [far].into());
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = turns.clone();
    let driver = driver.with_recorder(Box::new(move |_, _, call| {
        if matches!(call, Call::Transmit { .. }) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let thread = std::thread::spawn(move || run(driver));
    while !matches!(told.recv_timeout(PATIENCE).expect("the driver hangs"), Told::Timeout { .. }) {}
    let taken = turns.load(Ordering::Relaxed);
    assert!(taken <= 5, "one at the start, one at the deadline, not {taken}");
    events.send_blocking(command(0, Command::Shutdown)).unwrap();
    assert_eq!(thread.join().unwrap().unwrap(), Stopped { fault: None });
}

pub fn bursts_of_events_are_all_answered_in_order(run: Run) {
    const { assert!(EVENTS_PER_TURN * 3 < EVENTS_QUEUED_MAX) };
    let (driver, events, told) = prepare(socket(), |_| {});
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let driver = driver.with_recorder(Box::new(move |_, _, call| {
        if matches!(call, Call::Event(_)) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let burst = EVENTS_PER_TURN as u64 * 3;
    for id in 0..burst {
        events.send_blocking(command(id, Command::Status)).unwrap();
    }
    events.send_blocking(command(burst, Command::Shutdown)).unwrap();
    assert_eq!(run(driver).unwrap(), Stopped { fault: None });
    let answered: Vec<u64> = told
        .iter()
        .filter_map(|told| match told {
            Told::Action(Action::Reply { id, .. }) => Some(id.0),
            _ => None,
        })
        .collect();
    assert_eq!(answered, (0..burst).collect::<Vec<_>>());
    assert_eq!(calls.load(Ordering::Relaxed) as u64, burst + 2, "all commands, and the address before them");
}

pub fn hostile_datagrams_and_dead_receivers_do_not_stop_it(run: Run) {
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (here, there) = (stranger.local_addr().unwrap(), "[2001:db8::1]:9".parse().unwrap());
    let node = start(run, socket(), |peer| {
        peer.out = [nobody, there, here].map(|to| (SocketId::MAIN, to, None, b"hello".to_vec())).into();
    });
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buf = [0; 10];
    assert_eq!(stranger.recv_from(&mut buf).unwrap(), (5, node.addr));
    for size in [0, 1, 0, 1_500, 9_000, 65_507] {
        stranger.send_to(&vec![0xff; size], node.addr).unwrap();
    }
    stranger.send_to(b"good", node.addr).unwrap();
    let mut heard = 0;
    while node.next_datagram().payload != b"good"[..] {
        heard += 1;
    }
    assert!(heard >= 4, "each datagram with a payload was handed to the node");
    node.stop();
}

pub fn stopping_says_goodbye_and_tells_the_fault(run: Run) {
    let friend = UdpSocket::bind("127.0.0.1:0").unwrap();
    friend.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = friend.local_addr().unwrap();
    let node = start(run, socket(), |peer| peer.echo = true);
    friend.send_to(b"ping", node.addr).unwrap();
    assert_eq!(node.next_datagram().from, to);
    node.events.send_blocking(Event::PersistFailed { why: "disk full".into() }).unwrap();
    assert_eq!(node.thread.join().unwrap().unwrap(), Stopped { fault: Some("disk full".into()) });
    let mut buf = [0; 10];
    assert_eq!(friend.recv_from(&mut buf).unwrap(), (4, node.addr));
    assert!(node.told.iter().any(|told| matches!(told, Told::Action(Action::Stopped { fault: Some(_) }))));
}

pub fn a_closed_event_channel_ends_it_after_what_was_queued(run: Run) {
    let (driver, events, told) = prepare(socket(), |_| {});
    events.send_blocking(command(7, Command::Status)).unwrap();
    drop(events);
    assert!(matches!(run(driver), Err(DriverError::EventsClosed)));
    let answers = |told: Told| matches!(told, Told::Action(Action::Reply { id: CommandId(7), .. }));
    assert_eq!(told.iter().filter_map(|told| answers(told).then_some(())).count(), 1);
}

fn friend() -> UdpSocket {
    let friend = UdpSocket::bind("127.0.0.1:0").unwrap();
    friend.set_read_timeout(Some(PATIENCE)).unwrap();
    friend
}

pub fn hundreds_of_other_sockets_carry_datagrams_both_ways(run: Run) {
    let ids = 1..=256u16;
    let requests = ids.clone().map(|id| Action::Socket(SocketRequest::Open(SocketId(id))));
    let node = start(run, socket(), |peer| {
        peer.actions = requests.collect();
        peer.echo = true;
    });
    let mut addrs: BTreeMap<SocketId, SocketAddr> = ids.map(|_| node.next_opened()).collect();
    addrs.insert(SocketId::MAIN, node.addr);
    assert_eq!(addrs.len(), 257);
    let friend = friend();
    for round in 0..3u8 {
        // So many at a time that they fit the friend's buffer.
        for some in addrs.iter().collect::<Vec<_>>().chunks(64) {
            for (id, addr) in some {
                friend.send_to(&[id.0 as u8, round], addr).unwrap();
            }
            let mut answered: BTreeMap<SocketAddr, [u8; 2]> = BTreeMap::new();
            for _ in some.iter() {
                let datagram = node.next_datagram();
                assert_eq!(datagram.to, Some(node.addr.ip()));
                assert_eq!(datagram.payload, [datagram.socket.0 as u8, round][..]);
                let mut buf = [0; 2];
                let (_, from) = friend.recv_from(&mut buf).unwrap();
                answered.insert(from, buf);
            }
            let expected = some.iter().map(|(id, addr)| (**addr, [id.0 as u8, round])).collect();
            assert_eq!(answered, expected, "each answers from its own port");
        }
    }
    node.stop();
}

pub fn another_socket_carries_batches_like_the_own_one(run: Run) {
    let b = start(run, socket(), |peer| peer.echo = true);
    let expected = payloads_of_all_sizes();
    let (socket, other) = (socket(), SocketId(7));
    let a = start(run, socket, |peer| {
        peer.actions = [Action::Socket(SocketRequest::Open(other))].into();
        peer.out = expected.iter().map(|payload| (other, b.addr, None, payload.clone())).collect();
    });
    let (_, from) = a.next_opened();
    for (node, by, from) in [(&b, SocketId::MAIN, from), (&a, other, b.addr)] {
        for payload in &expected {
            let datagram = node.next_datagram();
            assert_eq!(datagram.payload, payload);
            assert_eq!((datagram.socket, datagram.from, datagram.ecn), (by, from, Some(2)));
        }
    }
    a.stop();
    b.stop();
}

pub fn a_closed_socket_is_gone_and_its_number_is_free(run: Run) {
    let (open, close) = (SocketRequest::Open(SocketId(9)), SocketRequest::Close(SocketId(9)));
    let friend = friend();
    let to = friend.local_addr().unwrap();
    let node = start(run, socket(), |peer| {
        peer.echo = true;
        peer.actions = [Action::Socket(open)].into();
        peer.on_status = [vec![close], vec![open, SocketRequest::Close(SocketId(1_000))]].into();
        peer.out = [(SocketId(8), to, None, b"lost".to_vec())].into();
    });
    let (_, first) = node.next_opened();
    let mut buf = [0; 10];
    friend.send_to(b"one", first).unwrap();
    assert_eq!(
        friend.recv_from(&mut buf).unwrap(),
        (3, first),
        "what was for a socket that is not there was lost"
    );
    node.events.send_blocking(command(1, Command::Status)).unwrap();
    // The sink hears of it once it is done.
    while !matches!(node.next(), Told::Action(Action::Socket(request)) if request == close) {}
    assert!(UdpSocket::bind(first).is_ok(), "the port is free");
    node.events.send_blocking(command(2, Command::Status)).unwrap();
    let (id, second) = node.next_opened();
    assert_eq!(id, SocketId(9));
    friend.send_to(b"two", second).unwrap();
    assert_eq!(friend.recv_from(&mut buf).unwrap(), (3, second));
    friend.send_to(b"own", node.addr).unwrap();
    assert_eq!(friend.recv_from(&mut buf).unwrap(), (3, node.addr));
    node.stop();
}

pub fn other_sockets_that_are_silent_take_no_turns(run: Run) {
    let far = Instant::from_millis(300);
    let (driver, events, told) = prepare(socket(), |peer| {
        peer.deadlines = [far].into();
        peer.actions = (1..=32).map(|id| Action::Socket(SocketRequest::Open(SocketId(id)))).collect();
    });
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = turns.clone();
    let driver = driver.with_recorder(Box::new(move |_, _, call| {
        if matches!(call, Call::Transmit { .. }) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let thread = std::thread::spawn(move || run(driver));
    while !matches!(told.recv_timeout(PATIENCE).expect("the driver hangs"), Told::Timeout { .. }) {}
    let taken = turns.load(Ordering::Relaxed);
    // Some at the start: the answers, and the reactor's first word about each socket, which says that it can be written.
    assert!(taken <= 40, "not {taken}");
    events.send_blocking(command(0, Command::Shutdown)).unwrap();
    assert_eq!(thread.join().unwrap().unwrap(), Stopped { fault: None });
}
