//! The Mainline DHT: our own node (`native.rs`), or the `mainline` crate (`backend.rs`, `ops.rs`).
//!
//! The core asks through [`DhtPort`], and is answered by events. Tools for people and scripts ask through a
//! [`DhtHandle`], beside the core: what they look for is none of its business, and their answers never reach it.
//!
//! `mainline` has a thread, a socket and a clock of its own; the core has its requests and events. This port stands
//! between and knows the crate's manners (docs/PROTOCOL.md names the measurements):
//!
//! * **At most four operations at once**: from eight on, its socket loses replies. Operations on one target go one after
//!   the other, because the crate joins a second query to the running one even if its kind differs, and a `get_peers`
//!   that joined an announcement finds nobody.
//! * **Names are resolved here**, again at each (re)build, and at most eight addresses are given: the crate resolves
//!   once, silently keeps an empty list when that fails, and with many bootstraps asks all of them at every query.
//! * **Rebuilt** when nobody answered for [`UNREACHABLE_MAX`], when the network changed, when its thread died, or when
//!   a client of the public DHT turns into a server by itself (the crate answers only one kind of
//!   transaction id, so such a server is a dead entry in other nodes' tables).
//! * **Private networks**: every node is a server; seeds are built without bootstraps, which alone makes them learn
//!   from queries; everybody looks for its own id, soon after the start and then each minute, or tables stay nearly
//!   empty and die with the seeds.
//!
//! Values and peers are handed on as they come. The core verifies them; nothing here is believed.

mod backend;
mod handle;
mod native;
mod ops;
mod socket;
mod status;
mod table_file;

pub use handle::{DhtHandle, Found};
pub use socket::{ASIDE_WAITING_MAX, Shared};
pub use status::{DhtStatus, FamilyStatus};

use crate::ports::Refused;
use async_channel::{Receiver, Sender};
use backend::Backend;
use remote_network_core::event::Event;
use remote_network_core::id::OpId;
use remote_network_core::port::{DhtEvent, DhtFailed, DhtRequest};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Requests that may wait: far above the core's own bound of operations in flight, cancellations included.
pub const REQUESTS_WAITING_MAX: usize = 1_024;
/// An operation ends by itself after this; the core's own deadline is shorter.
pub const OPERATION_MAX: Duration = Duration::from_secs(20);
/// The room of operations that are not the core's, in their ids.
const TOOLS_ROOM: u8 = 0xff;
/// Nobody answered for so long: build anew, with names resolved again.
pub const UNREACHABLE_MAX: Duration = Duration::from_secs(30);

/// Which DHT to take part in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DhtMode {
    /// A client of the public DHT.
    Client,
    /// A node of the network's own DHT.
    Private {
        /// Whether others bootstrap from this node; it then needs a fixed port.
        seed: bool,
    },
    /// None: every operation ends with [`DhtFailed::Offline`].
    Off,
}

/// Who speaks to the DHT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DhtBackend {
    /// The node in the core.
    Native,
    /// The `mainline` crate.
    Mainline,
}

/// Through what the DHT speaks.
#[derive(Clone, Debug)]
pub enum DhtSocket {
    /// A socket of its own.
    Own {
        /// Address to bind to. All addresses of IPv6 stand for IPv4 as well; `mainline` has IPv4 only.
        bind: IpAddr,
        /// UDP port; 0: any free one.
        port: u16,
    },
    /// QUIC's, which comes through here once the driver has bound it. Only for our own node.
    Shared(Receiver<Shared>),
}

/// How the port is started.
#[derive(Clone, Debug)]
pub struct DhtConfig {
    /// By what.
    pub backend: DhtBackend,
    /// Which DHT.
    pub mode: DhtMode,
    /// Through what it speaks.
    pub socket: DhtSocket,
    /// Where the table is kept between runs (only our own node keeps one).
    pub table_file: Option<PathBuf>,
    /// `host:port` to start from. Empty for [`DhtMode::Client`]: the well-known ones.
    pub bootstrap: Vec<String>,
}

/// What the backend's thread is told.
#[derive(Debug)]
enum Order {
    Request(OpId, DhtRequest),
    /// Answered to whoever asks, under an id of the port's own.
    Ask(DhtRequest, Sender<DhtEvent>),
    Status(Sender<DhtStatus>),
    NetworkChanged,
}

type LocalAddr = Arc<Mutex<Option<SocketAddr>>>;

/// Takes the core's requests. Dropping it ends the backend; operations in flight are then not answered any more.
#[derive(Debug)]
pub struct DhtPort {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    local: LocalAddr,
}

impl DhtPort {
    /// Starts the backend. Nothing here waits for the network: what becomes of it is told by [`DhtEvent::Health`].
    pub fn start(config: DhtConfig, events: Sender<Event>) -> io::Result<Self> {
        let local = LocalAddr::default();
        if config.mode == DhtMode::Off {
            return Ok(Self { orders: None, thread: None, local });
        }
        let (orders, queue) = async_channel::bounded(REQUESTS_WAITING_MAX);
        let address = Arc::clone(&local);
        let thread = std::thread::Builder::new().name("dht".into()).spawn(move || match config.backend {
            DhtBackend::Native => native::live(config, queue, events, address),
            DhtBackend::Mainline => Backend::live(config, queue, events, address),
        })?;
        Ok(Self { orders: Some(orders), thread: Some(thread), local })
    }

    /// Queues a request. [`DhtRequest::Cancel`] takes the id of the operation to stop.
    pub fn submit(&self, op: OpId, request: DhtRequest) -> Result<(), Refused> {
        let is_cancel = request == DhtRequest::Cancel;
        let taken = self.orders.as_ref().is_some_and(|o| o.try_send(Order::Request(op, request)).is_ok());
        if taken || (is_cancel && self.orders.is_none()) {
            return Ok(());
        }
        Err(Event::Dht(offline(op)).into())
    }

    /// The machine moved to another network: everything the backend knows of itself is void.
    pub fn network_changed(&self) {
        if let Some(orders) = &self.orders {
            // A full queue means that nothing gets through; the backend then finds out by itself.
            let _best_effort = orders.try_send(Order::NetworkChanged);
        }
    }

    /// For whoever asks beside the core.
    pub fn handle(&self) -> DhtHandle {
        DhtHandle::new(self.orders.as_ref().map(Sender::downgrade))
    }

    /// Where the backend's socket is, once it is built.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        *self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn offline(op: OpId) -> DhtEvent {
    DhtEvent::Done { op, result: Err(DhtFailed::Offline) }
}

impl Drop for DhtPort {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
