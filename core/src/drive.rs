//! One turn of a driver: everything about running a node on a socket that needs no socket.
//!
//! A driver is a loop: take what has come, hand out what the node asks for, send what it wants to send, wait. The
//! waiting differs between runtimes; the rest must not, or a bug would live in one driver only. So the rest is here,
//! pure, and a driver (`remote-network-driver-tokio`, `remote-network-driver-smol`) supplies [`DriverIo`], whose calls
//! never wait, and waits between turns for what [`Turn::Wait`] names.
//!
//! The rules of a turn, in their order:
//! 1. What the node has asked for goes to the sink before anything new comes in, so that a burst of input cannot pile
//!    up actions inside the node.
//! 2. Input: datagrams, then events of the ports, then time. Actions are drained after each input. What concerns sockets
//!    is done by the driver itself; the sink hears of it only because recordings hold every action.
//! 3. Datagrams leave. A batch that the socket would not take is kept with its bytes and goes first next time; until
//!    then the node is not asked for more, which is all the back-pressure QUIC needs. Packets that leave by a tunnel
//!    become actions here, which are handed out at once.
//! 4. The turn is bounded (constants below), so that one busy socket starves neither the ports nor the other tasks of
//!    the runtime: when a bound ends it, the driver yields and takes another turn.

mod aside;

pub use aside::{Aside, is_krpc};

use crate::action::{Action, ActionSink};
use crate::event::{Datagram, Event};
use crate::node::Node;
use crate::place::{SocketId, SocketRequest};
use crate::time::{Deadline, Instant, UnixTime};
use crate::transport::{Transmit, Transport};
use bytes::BytesMut;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

/// Receive calls in one turn. One, four and sixteen made no clear difference in throughput; four bound the turn.
pub const RECEIVES_PER_TURN: usize = 4;
/// Datagrams handed to the node as one event. A batch of them makes a node's settling and its clock reading cheap beside
/// QUIC's own work; the bound keeps what follows from one event small.
pub const DATAGRAMS_PER_EVENT: usize = 256;
/// Batches sent in one turn: with ten datagrams each about 900 kB, a few milliseconds.
pub const TRANSMITS_PER_TURN: usize = 64;
/// Datagrams of one batch (GSO). Twenty or more gave no gain over ten and made losses burstier.
pub const DATAGRAMS_PER_TRANSMIT: usize = 10;
/// Port events handled in one turn.
pub const EVENTS_PER_TURN: usize = 64;
/// Actions handed out in one turn before the driver yields.
pub const ACTIONS_PER_TURN: usize = 256;
/// Capacity of a driver's event channel. A port that finds it full waits; that cannot lock up, because the driver
/// never waits for a port and so empties the channel in any case. Room for an answer to each of the core's usual
/// outstanding requests and a burst of commands.
pub const EVENTS_QUEUED_MAX: usize = 1_024;
/// Sockets beside the node's own. Hitting one of the 64 thousand ports of a hard NAT with 256 sockets takes 1,148 probes
/// in 99 of 100 cases; four such attempts may go on at once.
pub const SOCKETS_MAX: usize = 1_024;

/// What a driver runs: a [`Node`], or something smaller in a driver's own tests.
pub trait Driven {
    /// See [`Node::handle`].
    fn handle(&mut self, now: Instant, wall: UnixTime, event: Event);
    /// See [`Node::handle_timeout`].
    fn handle_timeout(&mut self, now: Instant, wall: UnixTime);
    /// See [`Node::poll_transmit`].
    fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Transmit>;
    /// See [`Node::poll_action`].
    fn poll_action(&mut self) -> Option<Action>;
    /// See [`Node::poll_timeout`].
    fn poll_timeout(&self) -> Option<Deadline>;
}

impl<T: Transport> Driven for Node<T> {
    fn handle(&mut self, now: Instant, wall: UnixTime, event: Event) {
        Node::handle(self, now, wall, event);
    }
    fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        Node::handle_timeout(self, now, wall);
    }
    fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        Node::poll_transmit(self, now, max_datagrams, buf)
    }
    fn poll_action(&mut self) -> Option<Action> {
        Node::poll_action(self)
    }
    fn poll_timeout(&self) -> Option<Deadline> {
        Node::poll_timeout(self)
    }
}

/// What the socket did with a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It is gone: on the wire, or lost in a way that only the peer's silence can tell.
    Gone,
    /// The socket is full: try the same batch again once it is writable.
    Blocked,
}

/// What a driver gives to a turn. No call ever waits.
pub trait DriverIo {
    /// What ends a driver.
    type Error;

    /// The clocks.
    fn clock(&self) -> (Instant, UnixTime);

    /// Appends the datagrams of one receive call to `arrived`; `false`: nothing came, and the sockets are empty.
    fn receive(&mut self, arrived: &mut VecDeque<Datagram>) -> Result<bool, Self::Error>;

    /// The next event of the ports or of a socket that was asked for; `None`: there is none now.
    fn next_event(&mut self) -> Result<Option<Event>, Self::Error>;

    /// How many datagrams the socket takes in one call now. May sink when the system refuses segmentation.
    fn datagrams_per_send(&self) -> usize;

    /// Opens or closes a socket beside the node's own. What becomes of it is told by [`DriverIo::next_event`], which a
    /// wait must not outlast.
    fn socket(&mut self, request: SocketRequest);

    /// Sends `bytes`, which is `transmit.size` long, as one batch. What is for a socket that is gone is lost.
    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<Sent, Self::Error>;
}

/// One call into the node, as a [`Recorder`] sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call<'a> {
    /// [`Node::handle`] with this event.
    Event(&'a Event),
    /// [`Node::handle_timeout`].
    Timeout,
    /// [`Node::poll_transmit`] with so many datagrams at the most. It belongs in a recording because the time of
    /// sending is part of QUIC's state.
    Transmit {
        /// The bound passed on.
        max_datagrams: usize,
    },
}

/// Told of every call that can change the node, before it is made. The same calls at the same times on a node restored
/// with the same seed and records give the same actions: that is how the simulator replays what happened in the field.
pub type Recorder = Box<dyn FnMut(Instant, UnixTime, Call<'_>) + Send>;

/// How a turn ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Turn {
    /// There may be more to do: yield to others, then take another turn.
    Again,
    /// Nothing to do until a datagram arrives, a port tells something, or one of these.
    Wait {
        /// The node's deadline.
        until: Option<Instant>,
        /// Whether a batch waits for the socket to become writable.
        writable: bool,
    },
    /// The node has stopped: end.
    Stopped {
        /// See [`Action::Stopped`].
        fault: Option<String>,
    },
}

/// The state of a driver between turns.
pub struct Pump<N, S> {
    node: N,
    sink: S,
    recorder: Option<Recorder>,
    aside: Option<Aside>,
    /// Received, not yet handled.
    arrived: VecDeque<Datagram>,
    /// The bytes of `blocked`, else of the last batch.
    buf: Vec<u8>,
    /// A batch that the socket would not take.
    blocked: Option<Transmit>,
    /// What `Action::Stopped` said.
    stopped: Option<Option<String>>,
}

impl<N: Driven, S: ActionSink> Pump<N, S> {
    /// A pump around `node`; its actions go to `sink`.
    pub fn new(node: N, sink: S, recorder: Option<Recorder>) -> Self {
        let (arrived, buf) = (VecDeque::new(), Vec::new());
        Self { node, sink, recorder, aside: None, arrived, buf, blocked: None, stopped: None }
    }

    /// Hands what is the DHT's among the arrived ([`is_krpc`]) to `aside` instead of the node.
    #[must_use]
    pub fn with_aside(self, aside: Option<Aside>) -> Self {
        Self { aside, ..self }
    }

    /// Tells the node of an event outside of a turn, such as the addresses of the socket at the start.
    pub fn handle<D: DriverIo>(&mut self, io: &D, event: Event) {
        let (now, wall) = io.clock();
        self.record(now, wall, Call::Event(&event));
        self.node.handle(now, wall, event);
    }

    /// One turn. An error ends the driver; the node is told nothing, as in a crash, and recovers like from one.
    pub fn turn<D: DriverIo>(&mut self, io: &mut D) -> Result<Turn, D::Error> {
        let mut actions_left = ACTIONS_PER_TURN;
        let mut more = !self.drain_actions(io, &mut actions_left);
        if !more {
            more |= self.take_datagrams(io, &mut actions_left)?;
            more |= self.take_events(io, &mut actions_left)?;
            more |= self.take_time(io, &mut actions_left);
        }
        let writable = match self.send(io)? {
            Sending::Idle => false,
            Sending::Blocked => true,
            Sending::Unfinished => {
                more = true;
                false
            }
        };
        more |= !self.drain_actions(io, &mut actions_left);
        if let Some(fault) = self.stopped.take() {
            return Ok(Turn::Stopped { fault });
        }
        let until = self.node.poll_timeout().map(|deadline| deadline.at);
        let due = until.is_some_and(|at| at <= io.clock().0);
        if more || due { Ok(Turn::Again) } else { Ok(Turn::Wait { until, writable }) }
    }

    /// Handles what has arrived; `true`: there may be more.
    fn take_datagrams<D: DriverIo>(
        &mut self,
        io: &mut D,
        actions_left: &mut usize,
    ) -> Result<bool, D::Error> {
        for _ in 0..RECEIVES_PER_TURN {
            if self.arrived.is_empty() {
                if !io.receive(&mut self.arrived)? {
                    return Ok(false);
                }
                self.set_aside();
            }
            while let Some(event) = self.next_arrival() {
                self.handle(io, event);
                if !self.drain_actions(io, actions_left) {
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    /// Takes out what is the DHT's, which speaks through the main socket only.
    fn set_aside(&mut self) {
        let Some(aside) = &mut self.aside else { return };
        let is_its = |d: &Datagram| d.socket == SocketId::MAIN && is_krpc(&d.payload);
        if self.arrived.iter().any(is_its) {
            for datagram in std::mem::take(&mut self.arrived) {
                if is_its(&datagram) {
                    aside(datagram);
                } else {
                    self.arrived.push_back(datagram);
                }
            }
        }
    }

    /// What has arrived, as one event.
    fn next_arrival(&mut self) -> Option<Event> {
        match self.arrived.len() {
            0 | 1 => self.arrived.pop_front().map(Event::Datagram),
            n => Some(Event::Datagrams(self.arrived.drain(..n.min(DATAGRAMS_PER_EVENT)).collect())),
        }
    }

    /// Handles what the ports tell; `true`: there may be more.
    fn take_events<D: DriverIo>(&mut self, io: &mut D, actions_left: &mut usize) -> Result<bool, D::Error> {
        for _ in 0..EVENTS_PER_TURN {
            if *actions_left == 0 || self.stopped.is_some() {
                return Ok(true);
            }
            let Some(event) = io.next_event()? else { return Ok(false) };
            self.handle(io, event);
            self.drain_actions(io, actions_left);
        }
        Ok(true)
    }

    /// Tells the node when its deadline has come; `true`: there may be more actions.
    fn take_time<D: DriverIo>(&mut self, io: &mut D, actions_left: &mut usize) -> bool {
        let (now, wall) = io.clock();
        let due = self.node.poll_timeout().is_some_and(|deadline| deadline.at <= now);
        if !due || *actions_left == 0 || self.stopped.is_some() {
            return false;
        }
        self.record(now, wall, Call::Timeout);
        self.node.handle_timeout(now, wall);
        !self.drain_actions(io, actions_left)
    }

    /// Hands actions to the sink; `true`: all of them. After `Stopped` there are no others.
    fn drain_actions<D: DriverIo>(&mut self, io: &mut D, left: &mut usize) -> bool {
        while *left > 0 && self.stopped.is_none() {
            let Some(action) = self.node.poll_action() else { return true };
            *left -= 1;
            if let Action::Stopped { fault } = &action {
                self.stopped = Some(fault.clone());
            }
            if let Action::Socket(request) = action {
                io.socket(request);
            }
            self.sink.submit(action);
        }
        false
    }

    fn send<D: DriverIo>(&mut self, io: &mut D) -> Result<Sending, D::Error> {
        for _ in 0..TRANSMITS_PER_TURN {
            let transmit = match self.blocked.take() {
                Some(transmit) => transmit,
                None => {
                    self.buf.clear();
                    let (now, wall) = io.clock();
                    let max_datagrams = io.datagrams_per_send().clamp(1, DATAGRAMS_PER_TRANSMIT);
                    self.record(now, wall, Call::Transmit { max_datagrams });
                    match self.node.poll_transmit(now, max_datagrams, &mut self.buf) {
                        Some(transmit) => transmit,
                        None => return Ok(Sending::Idle),
                    }
                }
            };
            let bytes = self.buf.get(..transmit.size).unwrap_or(&self.buf);
            match io.send(&transmit, bytes)? {
                Sent::Gone => {}
                Sent::Blocked => {
                    self.blocked = Some(transmit);
                    return Ok(Sending::Blocked);
                }
            }
        }
        Ok(Sending::Unfinished)
    }

    fn record(&mut self, now: Instant, wall: UnixTime, call: Call<'_>) {
        if let Some(recorder) = &mut self.recorder {
            recorder(now, wall, call);
        }
    }
}

enum Sending {
    /// The node has nothing to send.
    Idle,
    /// The socket is full.
    Blocked,
    /// The turn's bound came first.
    Unfinished,
}

/// One message of a receive call: several datagrams of `stride` bytes from one sender, the last one possibly shorter,
/// joined by the system (GRO).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The socket of ours on which they arrived.
    pub socket: SocketId,
    /// Who sent them.
    pub from: SocketAddr,
    /// The local address they were sent to, where the socket tells.
    pub to: Option<IpAddr>,
    /// Their ECN codepoint.
    pub ecn: Option<u8>,
    /// Bytes of each datagram but the last.
    pub stride: usize,
}

impl Arrival {
    /// Cuts `message` into datagrams. It is copied once, out of the receive buffer that the next call will overwrite, into
    /// `memory`; all datagrams whose copies are there share it. A datagram without payload says nothing to anybody and is
    /// dropped.
    pub fn split_into(&self, message: &[u8], memory: &mut BytesMut, arrived: &mut VecDeque<Datagram>) {
        memory.extend_from_slice(message);
        let mut rest = memory.split();
        // Systems without GRO leave the stride at zero or at the whole length.
        let stride = if self.stride == 0 { rest.len() } else { self.stride };
        while !rest.is_empty() {
            let payload = rest.split_to(stride.min(rest.len()));
            arrived.push_back(Datagram {
                socket: self.socket,
                from: self.from,
                to: self.to,
                ecn: self.ecn,
                payload,
            });
        }
    }
}

#[cfg(test)]
mod tests;
