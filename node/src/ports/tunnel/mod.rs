//! Tunnels: QUIC packets in a WebSocket over TLS and TCP, for where UDP does not get through (SPEC 4.7).
//!
//! To whoever watches the network a tunnel is an ordinary `wss://` connection: TLS 1.3, an upgrade of `GET /relay` with the
//! sub-protocol [`SUB_PROTOCOL`], and then one binary message per QUIC packet. Inside run connections between peers that
//! prove their keys to each other, packet by packet encrypted end to end. So nothing is asked of TLS here but to look
//! ordinary: **a server's certificate is made at its start and signed by itself, and a client accepts any**. Somebody in
//! between who opens the TLS sees the packets that he would see on UDP, and can do as much to them: drop them.
//!
//! [`TunnelPort`] serves both roles on a thread with a runtime of its own (`line` is one tunnel, `tls` the
//! certificates). Everything a stranger can make us hold is bounded by the constants below. Back-pressure is explicit: the core
//! may have [`QUEUE_BYTES_MAX`] bytes on their way into a tunnel and gets them back by `TunnelEvent::Sent`; what comes in waits in TCP while
//! the core is busy.

mod line;
mod tls;

use crate::ports::{Ending, Refused};
use async_channel::{Receiver, Sender};
use bytes::Bytes;
use line::{Line, Socket};
use remote_network_core::event::Event;
use remote_network_core::place::{TunnelEvent, TunnelId, TunnelRequest};
use socket2::{Domain, Protocol, Type};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Where a server takes tunnels.
pub const PATH: &str = "/relay";
/// The WebSocket sub-protocol of both sides.
pub const SUB_PROTOCOL: &str = "remote-network-relay-v1";
/// Bytes of one packet, and so of one message.
pub const PACKET_BYTES_MAX: usize = 64 << 10;
/// Bytes on their way into one tunnel: the core's credit. Half a second at 4 Mbit/s; more would only be delay.
pub const QUEUE_BYTES_MAX: usize = 256 << 10;
/// Tunnels that others may have opened to us. Each holds the codec's two buffers of 16 KiB and TLS's own.
pub const ACCEPTED_MAX: usize = 512;
/// Of these from one address, or one /64 of IPv6: an office behind one NAT.
pub const ACCEPTED_PER_IP_MAX: usize = 16;
/// Of these in their handshake.
pub const ARRIVING_MAX: usize = 64;
/// Tunnels that we open: to a few relays, and to new ones while old ones end.
pub const OPENED_MAX: usize = 16;
/// TCP, TLS and WebSocket must stand within this time.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// A tunnel on which nothing arrives for so long is closed. QUIC inside says something more often.
pub const IDLE_AFTER: Duration = Duration::from_secs(60);
/// The other side must take a packet within this time.
pub const SLOW_AFTER: Duration = Duration::from_secs(10);
/// Requests that may wait: far above what the core's credit lets it have under way.
pub const REQUESTS_WAITING_MAX: usize = 1_024;
/// Pause after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// At the end, so long for goodbyes.
const END_WITHIN: Duration = Duration::from_secs(2);

/// Times, which tests make shorter.
#[derive(Clone, Copy, Debug)]
struct Times {
    handshake: Duration,
    idle: Duration,
    slow: Duration,
}

const TIMES: Times = Times { handshake: HANDSHAKE_WITHIN, idle: IDLE_AFTER, slow: SLOW_AFTER };

/// Why the port cannot start.
#[derive(Debug, Error)]
pub enum TunnelStartError {
    /// The address cannot be had.
    #[error("cannot listen on TCP {addr}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// No certificate could be made.
    #[error("no certificate for tunnels: {0}")]
    Certificate(String),
    /// The system gives no thread.
    #[error("cannot start the tunnels: {0}")]
    System(#[from] io::Error),
}

/// Takes the core's requests. Dropping it closes all tunnels; that is then not told any more.
#[derive(Debug)]
pub struct TunnelPort {
    /// Unbounded, because a `Close` must always get through; `submit` bounds the others.
    orders: Sender<TunnelRequest>,
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    local: Option<SocketAddr>,
}

impl TunnelPort {
    /// Starts the thread, and listens when it is told where.
    pub fn start(listen: Option<SocketAddr>, events: Sender<Event>) -> Result<Self, TunnelStartError> {
        Self::start_with(listen, events, TIMES)
    }

    fn start_with(
        listen: Option<SocketAddr>,
        events: Sender<Event>,
        times: Times,
    ) -> Result<Self, TunnelStartError> {
        let certificate = |e: String| TunnelStartError::Certificate(e);
        let listener = listen
            .map(|addr| bind(addr).map_err(|source| TunnelStartError::Listen { addr, source }))
            .transpose()?;
        let local = listener.as_ref().map(std::net::TcpListener::local_addr).transpose()?;
        let acceptor = if listener.is_some() { Some(tls::acceptor().map_err(certificate)?) } else { None };
        let connector = tls::connector().map_err(certificate)?;
        let (orders, queue) = async_channel::unbounded();
        let (end, ending) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            listener.map(TcpListener::from_std).transpose()?
        };
        let thread = std::thread::Builder::new().name("tunnels".into()).spawn(move || {
            let port = Port {
                events,
                times,
                connector,
                acceptor,
                lines: BTreeMap::new(),
                running: JoinSet::new(),
                names: HashMap::new(),
                arriving: JoinSet::new(),
                accepted: BTreeMap::new(),
                from: BTreeMap::new(),
                next_accepted: 1,
            };
            runtime.block_on(port.live(&queue, listener, Ending(ending)));
        })?;
        Ok(Self { orders, end, thread: Some(thread), local })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Queues a request.
    pub fn submit(&self, request: TunnelRequest) -> Result<(), Refused> {
        let waiting = self.orders.len();
        let answer = match &request {
            TunnelRequest::Open { tunnel, .. } if waiting >= REQUESTS_WAITING_MAX => {
                TunnelEvent::Closed { tunnel: *tunnel, why: "too many requests wait".into() }
            }
            // As if a network without room had lost them; the credit is the core's again.
            TunnelRequest::Send { tunnel, packets } if waiting >= REQUESTS_WAITING_MAX => {
                TunnelEvent::Sent { tunnel: *tunnel, bytes: bytes_of(packets) as u64 }
            }
            TunnelRequest::Open { tunnel, .. }
            | TunnelRequest::Send { tunnel, .. }
            | TunnelRequest::Close(tunnel) => {
                let tunnel = *tunnel;
                if self.orders.try_send(request).is_ok() {
                    return Ok(());
                }
                TunnelEvent::Closed { tunnel, why: "the port for tunnels has ended".into() }
            }
        };
        Err(Event::Tunnel(answer).into())
    }
}

impl Drop for TunnelPort {
    fn drop(&mut self) {
        let _gone = self.end.send(true);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported by its hook already.
            let _ended = thread.join();
        }
    }
}

fn bytes_of(packets: &[Bytes]) -> usize {
    packets.iter().map(Bytes::len).sum()
}

fn bind(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // So that a node can be started again at once.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// Whom a limit per address counts together: one customer of IPv6 has at least a /64.
fn counted(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// What becomes of somebody who connected.
struct Arrival {
    from: SocketAddr,
    socket: Result<Socket, String>,
}

/// The thread's state.
struct Port {
    events: Sender<Event>,
    times: Times,
    connector: TlsConnector,
    acceptor: Option<TlsAcceptor>,
    /// Tunnels that the core has not closed. Dropping a line closes its tunnel.
    lines: BTreeMap<TunnelId, Line>,
    /// One task for each tunnel until its `Closed` is told.
    running: JoinSet<String>,
    names: HashMap<task::Id, TunnelId>,
    arriving: JoinSet<Arrival>,
    /// Accepted tunnels and handshakes by address.
    accepted: BTreeMap<IpAddr, usize>,
    from: BTreeMap<TunnelId, IpAddr>,
    next_accepted: u64,
}

impl Port {
    async fn live(
        mut self,
        orders: &Receiver<TunnelRequest>,
        listener: Option<TcpListener>,
        mut ending: Ending,
    ) {
        tokio::select! {
            () = self.serve(orders, listener.as_ref()) => {}
            // Wherever it is: a driver that has ended may leave the events full.
            () = ending.come() => {}
        }
        drop(listener);
        self.lines.clear();
        let goodbyes = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(END_WITHIN, goodbyes).await.is_err() {
            tracing::debug!("some tunnels were still busy at the end");
        }
    }

    async fn serve(&mut self, orders: &Receiver<TunnelRequest>, listener: Option<&TcpListener>) {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Ok(order) => self.order(order).await,
                    Err(_) => return,
                },
                Some(ended) = self.running.join_next_with_id() => self.ended(ended).await,
                Some(arrived) = self.arriving.join_next() => match arrived {
                    Ok(arrival) => self.arrived(arrival).await,
                    // A bug of ours, reported by its hook. Whose place it took is not known any more.
                    Err(error) => tracing::error!(%error, "a tunnel's handshake broke"),
                },
                stranger = accept(listener) => match stranger {
                    Ok((stream, from)) => self.meet(stream, from),
                    Err(error) => {
                        tracing::warn!(%error, "tunnels: accepting a connection failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// A driver that is gone hears nothing; the orders end soon.
    async fn tell(&self, event: TunnelEvent) {
        let _gone = self.events.send(Event::Tunnel(event)).await;
    }

    async fn order(&mut self, order: TunnelRequest) {
        match order {
            TunnelRequest::Open { tunnel, to } => {
                if self.names.values().any(|name| *name == tunnel) {
                    tracing::error!(tunnel = tunnel.0, "this tunnel is open already");
                    return;
                }
                if self.names.len() - self.from.len() >= OPENED_MAX {
                    let why = format!("{OPENED_MAX} tunnels are open");
                    return self.tell(TunnelEvent::Closed { tunnel, why }).await;
                }
                let (connector, events, times) = (self.connector.clone(), self.events.clone(), self.times);
                self.begin(tunnel, |ends| line::open(tunnel, to, connector, ends, events, times));
            }
            TunnelRequest::Send { tunnel, packets } => {
                // One that has just closed says so by itself.
                if let Some(line) = self.lines.get(&tunnel)
                    && !line.send(packets)
                {
                    tracing::error!(
                        tunnel = tunnel.0,
                        "more than the credit was sent into a tunnel: closing it"
                    );
                    self.lines.remove(&tunnel);
                }
            }
            TunnelRequest::Close(tunnel) => {
                self.lines.remove(&tunnel);
            }
        }
    }

    /// Runs a tunnel in a task of its own.
    fn begin<F: Future<Output = String> + Send + 'static>(
        &mut self,
        tunnel: TunnelId,
        run: impl FnOnce(line::Ends) -> F,
    ) {
        let (line, ends) = Line::new();
        self.lines.insert(tunnel, line);
        let handle = self.running.spawn(run(ends));
        self.names.insert(handle.id(), tunnel);
    }

    /// A tunnel's task is over: the one place that says so.
    async fn ended(&mut self, ended: Result<(task::Id, String), JoinError>) {
        let (id, why) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), "its task broke".to_owned()),
        };
        let Some(tunnel) = self.names.remove(&id) else { return };
        self.lines.remove(&tunnel);
        if let Some(ip) = self.from.remove(&tunnel) {
            self.leave(ip);
        }
        tracing::debug!(tunnel = tunnel.0, why, "tunnel closed");
        self.tell(TunnelEvent::Closed { tunnel, why }).await;
    }

    /// Somebody connected.
    fn meet(&mut self, stream: TcpStream, from: SocketAddr) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let ip = counted(from.ip());
        let here = self.accepted.get(&ip).copied().unwrap_or(0);
        let all: usize = self.accepted.values().sum();
        let full = here >= ACCEPTED_PER_IP_MAX || all >= ACCEPTED_MAX || self.arriving.len() >= ARRIVING_MAX;
        let Some(acceptor) = self.acceptor.clone().filter(|_| !full) else {
            tracing::debug!(%from, "no room for another tunnel");
            return;
        };
        self.accepted.insert(ip, here + 1);
        let within = self.times.handshake;
        self.arriving.spawn(async move {
            let socket = line::accept(acceptor, stream, within).await;
            Arrival { from, socket }
        });
    }

    /// Somebody's handshake is over.
    async fn arrived(&mut self, Arrival { from, socket }: Arrival) {
        let ip = counted(from.ip());
        let socket = match socket {
            Ok(socket) => socket,
            Err(why) => {
                tracing::debug!(%from, why, "no tunnel");
                return self.leave(ip);
            }
        };
        let tunnel = TunnelId(self.next_accepted);
        self.next_accepted += 2;
        self.from.insert(tunnel, ip);
        self.tell(TunnelEvent::Accepted { tunnel, from }).await;
        let (events, times) = (self.events.clone(), self.times);
        self.begin(tunnel, |ends| line::run(tunnel, socket, ends, events, times));
    }

    fn leave(&mut self, ip: IpAddr) {
        if let Some(here) = self.accepted.get_mut(&ip) {
            *here -= 1;
            if *here == 0 {
                self.accepted.remove(&ip);
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
