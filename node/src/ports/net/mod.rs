//! What the machine and the link tell of ourselves: the addresses of the interfaces, those at which a router forwards to
//! us, and the peers on the same link.
//!
//! One thread with a runtime of its own, which begins when the driver has bound its socket and says where
//! ([`NetPort::bound`]). Three tasks in it:
//! * `monitor` lists the interfaces' addresses whenever the system says that something changed (`Event::LocalAddrs`);
//! * `mapping` asks the router to forward a port, and gives it back at the end (`Event::Mapped`);
//! * `nearby` announces us and listens for others by mDNS (`Event::Nearby`).
//!
//! Whatever comes from the link is hearsay: anybody there can answer in the router's or a peer's name. It is bounded here
//! and tells the core where to try; who is there, QUIC's handshake proves.

mod interfaces;
mod mapping;
mod monitor;
mod nearby;

pub use interfaces::{LOCAL_ADDRS_MAX, usable_here};

use crate::ports::Ending;
use async_channel::{Receiver, Sender};
use remote_network_core::event::Event;
use remote_network_core::id::{DhtId, PublicKey};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// At the end, so long for taking back the mapping and saying goodbye on the link.
const END_WITHIN: Duration = Duration::from_secs(2);

/// How the port is started.
pub struct NetConfig {
    /// Ours, for announcements.
    pub key: PublicKey,
    /// SHA-1 of the names of the networks that we meet others in.
    pub topics: Vec<DhtId>,
    /// Whether loopback addresses say something to others.
    pub private_network: bool,
    /// How often to look where the system does not tell of changes.
    pub look_every: Duration,
    /// Whether to ask the router for a port.
    pub port_mapping: bool,
    /// Whether to use mDNS; `None`: unless the socket is bound to loopback.
    pub mdns: Option<bool>,
    /// Told when the addresses have changed, beside the core.
    pub on_change: Box<dyn FnMut() + Send>,
}

impl fmt::Debug for NetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetConfig").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The running tasks. Dropping it ends them, within two seconds.
#[derive(Debug)]
pub struct NetPort {
    bound: Sender<SocketAddr>,
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl NetPort {
    /// Starts the thread. Nothing happens until [`NetPort::bound`] has said where the socket is.
    pub fn start(config: NetConfig, events: Sender<Event>) -> io::Result<Self> {
        let (bound, told) = async_channel::bounded(1);
        let (end, ending) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("net".into()).spawn(move || {
            runtime.block_on(live(config, told, events, Ending(ending)));
            // A look at the interfaces that hangs must not keep the process.
            runtime.shutdown_background();
        })?;
        Ok(Self { bound, end, thread: Some(thread) })
    }

    /// Where to say what the socket is bound to.
    pub fn bound(&self) -> Sender<SocketAddr> {
        self.bound.clone()
    }
}

impl Drop for NetPort {
    fn drop(&mut self) {
        let _gone = self.end.send(true);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported by its hook already.
            let _ended = thread.join();
        }
    }
}

async fn live(config: NetConfig, bound: Receiver<SocketAddr>, events: Sender<Event>, mut ending: Ending) {
    let socket = tokio::select! {
        () = ending.come() => return,
        bound = bound.recv() => match bound {
            Ok(socket) => socket,
            Err(_) => return,
        },
    };
    // The tasks after the monitor go by what it has found.
    let (found, addrs) = watch::channel(Vec::new());
    let loopback = socket.ip().to_canonical().is_loopback();
    let NetConfig { key, topics, private_network, look_every, port_mapping, mdns, on_change } = config;
    let watching = monitor::Monitor { socket, private_network, look_every, found, on_change };
    let mapper = mapping::Mapper::new(socket);
    let link = nearby::Link { key, topics, port: socket.port(), loopback };
    let all = async {
        tokio::join!(
            watching.run(&events, ending.clone()),
            async {
                if port_mapping && !loopback {
                    mapper.run(addrs.clone(), &events, ending.clone()).await;
                }
            },
            async {
                if mdns.unwrap_or(!loopback) {
                    link.run(addrs.clone(), &events, ending.clone()).await;
                }
            },
        )
    };
    let mut over = ending.clone();
    tokio::select! {
        _ = all => {}
        () = async {
            over.come().await;
            tokio::time::sleep(END_WITHIN).await;
        } => tracing::debug!("the router or the link did not take our goodbye in time"),
    }
}

#[cfg(test)]
mod tests;
