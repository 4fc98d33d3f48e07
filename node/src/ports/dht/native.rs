//! Our own DHT node on a UDP socket of its own.
//!
//! The node is a machine ([`remote_network_core::dht::krpc`]); this thread is what it needs of the world: a socket, two
//! clocks, a random seed, and names resolved. Names are resolved again while nobody answers, because the network's first
//! nodes may have moved.

use super::{DhtConfig, DhtMode, LocalAddr, Order, UNREACHABLE_MAX};
use async_channel::{Receiver, Sender};
use bytes::Bytes;
use remote_network_core::dht::krpc::{Config, Input, Krpc, Output, Presence};
use remote_network_core::event::Event;
use remote_network_core::id::OpId;
use remote_network_core::machine::{Cx, Machine as _};
use remote_network_core::port::{DhtEvent, DhtFailed, DhtRequest};
use remote_network_core::rng::Rng;
use remote_network_core::time::{Instant, UnixTime};
use ring::rand::SecureRandom as _;
use smol::Timer;
use smol::future::or;
use smol::net::UdpSocket;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

/// Largest datagram read; larger ones are no message of the DHT.
const DATAGRAM_MAX: usize = 2_048;
/// Addresses to join by.
const BOOTSTRAP_MAX: usize = 16;
/// Pause after an error of the socket.
const AFTER_ERROR: Duration = Duration::from_millis(20);
/// Between two tries to bind: at first, and doubling up to this.
const BIND_AGAIN_FIRST: Duration = Duration::from_millis(100);
const BIND_AGAIN_MAX: Duration = Duration::from_secs(60);

enum Wake {
    Order(Option<Order>),
    Datagram(io::Result<(usize, SocketAddr)>),
    Resolved(Vec<SocketAddr>),
    Time,
}

struct Native {
    socket: UdpSocket,
    node: Krpc,
    rng: Rng,
    started: std::time::Instant,
    events: Sender<Event>,
    outbox: Vec<Output>,
    /// Since when nobody answers; names are resolved again after a while.
    unreachable_since: Option<std::time::Instant>,
}

/// Runs until the port is dropped.
pub(super) fn live(config: DhtConfig, queue: Receiver<Order>, events: Sender<Event>, local: LocalAddr) {
    smol::block_on(async move {
        let Some(socket) = bind(&config, &queue, &events).await else { return };
        *local.lock().unwrap_or_else(PoisonError::into_inner) = socket.local_addr().ok();
        let mut seed = [0; 32];
        if ring::rand::SystemRandom::new().fill(&mut seed).is_err() {
            tracing::error!("no random bytes to be had: the DHT stays off");
            return;
        }
        let node = Krpc::new(Config {
            private_networks: matches!(config.mode, DhtMode::Private { .. }),
            presence: Presence::Auto,
            bootstrap: Vec::new(),
        });
        let native = Native {
            socket,
            node,
            rng: Rng::from_seed(seed),
            started: std::time::Instant::now(),
            events,
            outbox: Vec::new(),
            unreachable_since: None,
        };
        native.run(config, queue).await;
    });
}

/// A socket, however long it takes: the port may still belong to the process before. `None`: the port was dropped.
async fn bind(config: &DhtConfig, queue: &Receiver<Order>, events: &Sender<Event>) -> Option<UdpSocket> {
    let mut again = BIND_AGAIN_FIRST;
    loop {
        let address = SocketAddr::from((config.bind, config.port.unwrap_or(0)));
        match UdpSocket::bind(address).await {
            Ok(socket) => return Some(socket),
            Err(e) => {
                tracing::warn!(%address, error = %e, retry_in = ?again, "the DHT's socket cannot be bound")
            }
        }
        let until = std::time::Instant::now() + again;
        again = (again * 2).min(BIND_AGAIN_MAX);
        while std::time::Instant::now() < until {
            let time = async {
                Timer::at(until).await;
                Wake::Time
            };
            match or(async { Wake::Order(queue.recv().await.ok()) }, time).await {
                Wake::Order(None) => return None,
                Wake::Order(Some(Order::Request(op, request))) if request != DhtRequest::Cancel => {
                    offline(events, op).await;
                }
                Wake::Order(Some(_)) | Wake::Datagram(_) | Wake::Resolved(_) | Wake::Time => {}
            }
        }
    }
}

async fn offline(events: &Sender<Event>, op: OpId) {
    let _listener = events.send(Event::Dht(DhtEvent::Done { op, result: Err(DhtFailed::Offline) })).await;
}

impl Native {
    async fn run(mut self, config: DhtConfig, queue: Receiver<Order>) {
        let (resolved_to, resolved) = async_channel::bounded(1);
        let resolve = |names: Vec<String>| {
            let to = resolved_to.clone();
            smol::unblock(move || drop(to.try_send(addresses(&names)))).detach();
        };
        let names = names(&config);
        resolve(names.clone());
        self.tell(Input::Start).await;
        let mut datagram = [0; DATAGRAM_MAX];
        loop {
            let deadline = self.node.poll_timeout().map(|d| self.started + d.at.since(Instant::ZERO));
            let names_at = self.unreachable_since.map(|since| since + UNREACHABLE_MAX);
            let wake = {
                let time = async {
                    match [deadline, names_at].into_iter().flatten().min() {
                        Some(at) => drop(Timer::at(at).await),
                        None => std::future::pending().await,
                    }
                    Wake::Time
                };
                let order = async { Wake::Order(queue.recv().await.ok()) };
                let arrived = async { Wake::Datagram(self.socket.recv_from(&mut datagram).await) };
                let names = async { Wake::Resolved(resolved.recv().await.unwrap_or_default()) };
                or(or(order, names), or(arrived, time)).await
            };
            match wake {
                Wake::Order(None) => return,
                Wake::Order(Some(Order::Request(op, request))) => {
                    self.tell(Input::Request { op, request }).await;
                }
                Wake::Order(Some(Order::NetworkChanged)) => {
                    resolve(names.clone());
                    self.tell(Input::NetworkChanged).await;
                }
                Wake::Resolved(found) => self.tell(Input::Bootstrap(found)).await,
                Wake::Datagram(Ok((len, from))) => {
                    let bytes = Bytes::copy_from_slice(datagram.get(..len).unwrap_or_default());
                    self.tell(Input::Datagram { from, bytes }).await;
                }
                // An ICMP answer to something sent before: the node notices the silence by itself. A socket that goes
                // on failing must not make the thread spin.
                Wake::Datagram(Err(e)) => {
                    tracing::trace!(error = %e, "the DHT's socket");
                    Timer::after(AFTER_ERROR).await;
                }
                Wake::Time => {}
            }
            if self.node.poll_timeout().is_some_and(|d| d.at <= self.now()) {
                self.timeout().await;
            }
            let long = |since: std::time::Instant| since.elapsed() >= UNREACHABLE_MAX;
            if self.unreachable_since.is_some_and(long) {
                self.unreachable_since = Some(std::time::Instant::now());
                resolve(names.clone());
            }
        }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.started.elapsed()
    }

    async fn tell(&mut self, input: Input) {
        let (now, wall) = (self.now(), wall());
        self.node.handle(&mut Cx::new(now, wall, &mut self.rng, &mut self.outbox), input);
        self.act().await;
    }

    async fn timeout(&mut self) {
        let (now, wall) = (self.now(), wall());
        self.node.handle_timeout(&mut Cx::new(now, wall, &mut self.rng, &mut self.outbox));
        self.act().await;
    }

    async fn act(&mut self) {
        for output in std::mem::take(&mut self.outbox) {
            match output {
                // A datagram that cannot be sent is a datagram that was lost.
                Output::Datagram { to, bytes } => drop(self.socket.send_to(&bytes, to).await),
                Output::Event(event) => {
                    if let DhtEvent::Health { reachable, .. } = event {
                        self.unreachable_since = (!reachable)
                            .then(|| self.unreachable_since.unwrap_or_else(std::time::Instant::now));
                    }
                    let _listener = self.events.send(Event::Dht(event)).await;
                }
                Output::Refused(why) => tracing::debug!(why, "the DHT refused something"),
                Output::Observed { addr, votes } => {
                    tracing::debug!(%addr, votes, "other nodes see ours there")
                }
                Output::Table(_) => {}
            }
        }
    }
}

fn wall() -> UnixTime {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Where to join: what is configured, else the well-known nodes of the public DHT.
fn names(config: &DhtConfig) -> Vec<String> {
    if config.bootstrap.is_empty() && config.mode == DhtMode::Client {
        mainline::DEFAULT_BOOTSTRAP_NODES.iter().map(ToString::to_string).collect()
    } else {
        config.bootstrap.clone()
    }
}

/// The IPv4 addresses behind the names. Blocks.
fn addresses(names: &[String]) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for name in names {
        for address in name.to_socket_addrs().into_iter().flatten() {
            if address.is_ipv4() && !found.contains(&address) && found.len() < BOOTSTRAP_MAX {
                found.push(address);
            }
        }
    }
    found
}
