//! Runs a Remote Network core on tokio.
//!
//! [`Driver::run`] is one future on one UDP socket, for `current_thread` and `multi_thread` runtimes alike: take a turn
//! ([`remote_network_core::drive`]), then wait for a datagram, a port's event, the node's deadline or room in a full
//! socket; no polling, no sleeping. Order, bounds and back-pressure are the turn's and therefore the same as on smol.
//!
//! ```no_run
//! # use remote_network_core::{drive::Driven, action::ActionSink};
//! # use remote_network_driver_tokio::*;
//! # async fn f<N: Driven, S: ActionSink>(make: impl Fn(Clock) -> N, sink: S) -> Result<(), Box<dyn std::error::Error>> {
//! let clock = Clock::start(); // its base also goes to the QUIC transport inside the node
//! let socket = bind("[::]:30609".parse()?, BindOptions::default())?;
//! let (events, inbox) = event_channel(); // `events` is cloned for every port and for the application
//! let stopped = Driver::new(make(clock), socket, sink, inbox, clock).run().await?;
//! # Ok(()) }
//! ```
//!
//! When the addresses of the machine change, whoever notices sends `Event::LocalAddrs` through the event channel; the
//! driver itself reports only what the socket says, at the start.
#![warn(missing_docs)]

/// The examples of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

mod clock;
mod socket;
mod sockets;

pub use clock::Clock;
pub use socket::{BindOptions, Buffers, DATAGRAM_BYTES_MAX, Socket, bind};

use async_channel::{Receiver, Sender};
use quinn_udp::UdpSockRef;
use remote_network_core::action::ActionSink;
use remote_network_core::drive::{Aside, Driven, DriverIo, EVENTS_QUEUED_MAX, Pump, Recorder, Sent, Turn};
use remote_network_core::event::{Datagram, Event};
use remote_network_core::place::{SocketId, SocketRequest};
use remote_network_core::time::{Instant, UnixTime};
use remote_network_core::transport::Transmit;
use socket::Batches;
use sockets::{Others, Watched};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Sleep;

/// The channel by which ports and the application reach a driver, bounded by [`EVENTS_QUEUED_MAX`].
pub fn event_channel() -> (Sender<Event>, Receiver<Event>) {
    async_channel::bounded(EVENTS_QUEUED_MAX)
}

/// The orderly end of a driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// `None` after a shutdown that was asked for, else what broke.
    pub fault: Option<String>,
}

/// What ends a driver without the node's consent. The node was told nothing, as in a crash, and recovers like from one.
#[derive(Debug, Error)]
pub enum DriverError {
    /// The socket cannot be watched, read or written any more.
    #[error("the UDP socket failed")]
    Socket(#[from] io::Error),
    /// All senders of the event channel are gone: nothing could ever be persisted or commanded again.
    #[error("every sender of events is gone")]
    EventsClosed,
}

/// A node on a socket.
pub struct Driver<N, S> {
    node: N,
    socket: Socket,
    sink: S,
    events: Receiver<Event>,
    clock: Clock,
    recorder: Option<Recorder>,
    aside: Option<Aside>,
}

impl<N: Driven, S: ActionSink> Driver<N, S> {
    /// A driver for `node`, whose transport calculates from the same `clock`.
    pub fn new(node: N, socket: Socket, sink: S, events: Receiver<Event>, clock: Clock) -> Self {
        Self { node, socket, sink, events, clock, recorder: None, aside: None }
    }

    /// Tells `recorder` of every call into the node.
    pub fn with_recorder(self, recorder: Recorder) -> Self {
        Self { recorder: Some(recorder), ..self }
    }

    /// Shares the socket with the DHT: what arrives for it goes to `aside`, and it sends through [`Socket::sender`].
    pub fn with_aside(self, aside: Aside) -> Self {
        Self { aside: Some(aside), ..self }
    }

    /// Runs until the node stops. Needs a tokio runtime with I/O and time. Dropping the future is a crash of the node.
    pub async fn run(self) -> Result<Stopped, DriverError> {
        let local = self.socket.local_addr();
        let mut io = Io::new(self.socket, self.events, self.clock)?;
        let mut pump = Pump::new(self.node, self.sink, self.recorder).with_aside(self.aside);
        pump.handle(&io, Event::LocalAddrs(vec![local]));
        loop {
            match pump.turn(&mut io)? {
                Turn::Again => tokio::task::yield_now().await,
                Turn::Wait { until, writable } => io.wait(until, writable).await?,
                Turn::Stopped { fault } => return Ok(Stopped { fault }),
            }
        }
    }
}

/// The socket, the channel and the clocks, and the waiting for them.
struct Io {
    socket: UdpSocket,
    batches: Batches,
    others: Others<UdpSocket>,
    /// Which socket would not take a batch.
    full: SocketId,
    events: Receiver<Event>,
    /// Taken from the channel by the waiting.
    next_event: Option<Event>,
    clock: Clock,
    timer: Pin<Box<Sleep>>,
    /// What `timer` is set to; `None`: it is not to be looked at.
    armed: Option<Instant>,
}

impl Io {
    fn new(socket: Socket, events: Receiver<Event>, clock: Clock) -> io::Result<Self> {
        let others = Others::like(&socket);
        let (socket, batches) = socket.into_parts();
        let (socket, full) = (UdpSocket::watch(socket)?, SocketId::MAIN);
        let timer = Box::pin(tokio::time::sleep_until(clock.base().into()));
        Ok(Self { socket, batches, others, full, events, next_event: None, clock, timer, armed: None })
    }

    /// Sets the timer, unless it is set so already.
    fn arm(&mut self, until: Option<Instant>) {
        if self.armed != until {
            let at = until.and_then(|until| self.clock.machine(until));
            if let Some(at) = at {
                self.timer.as_mut().reset(at.into());
            }
            self.armed = at.and(until);
        }
    }

    /// Waits until there may be something for a turn to do.
    async fn wait(&mut self, until: Option<Instant>, writable: bool) -> Result<(), DriverError> {
        self.arm(until);
        let Self { socket, others, full, events, next_event, timer, armed, .. } = self;
        let mut event = pin!(events.recv());
        poll_fn(|cx| {
            let mut woken = others.poll(cx);
            if let Poll::Ready(ready) = socket.poll_readable(cx) {
                ready?;
                woken = true;
            }
            if writable && *full != SocketId::MAIN {
                woken |= others.poll_writable(*full, cx);
            } else if writable && let Poll::Ready(ready) = socket.poll_writable(cx) {
                ready?;
                woken = true;
            }
            if armed.is_some() && timer.as_mut().poll(cx).is_ready() {
                *armed = None;
                woken = true;
            }
            // Last, because only here something is taken: the future must not be asked again afterwards.
            if let Poll::Ready(received) = event.as_mut().poll(cx) {
                *next_event = Some(received.map_err(|_| DriverError::EventsClosed)?);
                woken = true;
            }
            if woken { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}

// System calls happen inside `try_io`: readiness is edge-triggered, and forgetting it after a call of our own could
// forget an edge that came between the two.
impl Watched for UdpSocket {
    fn watch(socket: std::net::UdpSocket) -> io::Result<Self> {
        UdpSocket::from_std(socket)
    }
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_recv_ready(cx)
    }
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send_ready(cx)
    }
    fn read(&self, call: impl FnOnce(UdpSockRef<'_>) -> io::Result<()>) -> io::Result<()> {
        self.try_io(Interest::READABLE, || call(self.into()))
    }
    fn write(&self, call: impl FnOnce(UdpSockRef<'_>) -> io::Result<()>) -> io::Result<()> {
        self.try_io(Interest::WRITABLE, || call(self.into()))
    }
}

impl DriverIo for Io {
    type Error = DriverError;

    fn clock(&self) -> (Instant, UnixTime) {
        (self.clock.now(), self.clock.wall())
    }

    fn receive(&mut self, arrived: &mut VecDeque<Datagram>) -> Result<bool, DriverError> {
        let Self { socket, batches, others, .. } = self;
        let own = socket::received(socket.read(|socket| batches.receive(socket, arrived)))?;
        Ok(others.receive(batches, arrived) || own)
    }

    fn next_event(&mut self) -> Result<Option<Event>, DriverError> {
        if let Some(event) = self.others.next_event().or_else(|| self.next_event.take()) {
            return Ok(Some(event));
        }
        match self.events.try_recv() {
            Ok(event) => Ok(Some(event)),
            Err(async_channel::TryRecvError::Empty) => Ok(None),
            Err(async_channel::TryRecvError::Closed) => Err(DriverError::EventsClosed),
        }
    }

    fn datagrams_per_send(&self) -> usize {
        self.batches.datagrams_per_send()
    }

    fn socket(&mut self, request: SocketRequest) {
        self.others.request(request);
    }

    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<Sent, DriverError> {
        self.full = transmit.socket;
        let Self { socket, batches, others, .. } = self;
        if transmit.socket != SocketId::MAIN {
            return Ok(others.send(batches, transmit, bytes));
        }
        Ok(socket::sent(socket.write(|socket| batches.send(socket, transmit, bytes)))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> (Io, std::net::SocketAddr, Sender<Event>) {
        let socket = bind(([127, 0, 0, 1], 0).into(), BindOptions::default()).unwrap();
        let addr = socket.local_addr();
        let (events, inbox) = event_channel();
        (Io::new(socket, inbox, Clock::start()).unwrap(), addr, events)
    }

    // A socket that the reactor has not yet reported as writable counts as full: the only way to see one on loopback,
    // where the system frees what was sent at once.
    #[tokio::test]
    async fn waiting_for_room_in_the_socket_ends_when_there_is_room() {
        let (mut io, to, _events) = loopback();
        let transmit = Transmit {
            socket: remote_network_core::place::SocketId::MAIN,
            to,
            from: None,
            size: 2,
            segment_size: None,
            ecn: None,
        };
        assert_eq!(io.send(&transmit, b"hi").unwrap(), Sent::Blocked);
        io.wait(None, true).await.unwrap();
        assert_eq!(io.send(&transmit, b"hi").unwrap(), Sent::Gone);
    }

    #[tokio::test]
    async fn the_timer_is_set_only_when_the_deadline_changes_and_forgotten_once_it_fired() {
        let (mut io, _, _events) = loopback();
        let soon = Some(io.clock.now() + std::time::Duration::from_millis(1));
        io.arm(soon);
        assert_eq!(io.armed, soon);
        io.arm(None);
        assert_eq!(io.armed, None);
        io.wait(soon, false).await.unwrap();
        assert_eq!(io.armed, None);
        assert!(Some(io.clock.now()) >= soon);
    }
}
