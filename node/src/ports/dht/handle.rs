//! Asking the DHT beside the core: what the API and the command line do.

use super::{DhtStatus, OPERATION_MAX, Order};
use async_channel::{Receiver, WeakSender};
use bytes::Bytes;
use remote_network_core::port::{DhtDone, DhtEvent, DhtFailed, DhtRequest, MutableItem};
use std::net::SocketAddr;
use tokio::time::timeout;

/// What an operation brought, nothing of it believed beyond what the backend has checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// How it ended.
    pub result: Result<DhtDone, DhtFailed>,
    /// Mutable items, each newer than the one before.
    pub items: Vec<MutableItem>,
    /// The immutable value.
    pub value: Option<Bytes>,
    /// Peers.
    pub peers: Vec<SocketAddr>,
}

/// A way to the port that does not keep it alive.
#[derive(Clone, Debug)]
pub struct DhtHandle {
    orders: Option<WeakSender<Order>>,
}

impl DhtHandle {
    pub(super) fn new(orders: Option<WeakSender<Order>>) -> Self {
        Self { orders }
    }

    /// A handle of no DHT: everything is offline.
    pub fn off() -> Self {
        Self { orders: None }
    }

    /// Carries out one operation. Needs a tokio runtime with time.
    pub async fn run(&self, request: DhtRequest) -> Found {
        let mut found =
            Found { result: Err(DhtFailed::Offline), items: Vec::new(), value: None, peers: Vec::new() };
        // Unbounded here, bounded by the backend: a search passes on so many peers and no more.
        let (asker, answers) = async_channel::unbounded();
        if self.order(Order::Ask(request, asker)) {
            // Every operation ends by itself; this is for a backend that does not.
            let collected = timeout(2 * OPERATION_MAX, collect(&answers, &mut found)).await;
            if collected.is_err() {
                found.result = Err(DhtFailed::Timeout);
            }
        }
        found
    }

    /// How the DHT is.
    pub async fn status(&self) -> DhtStatus {
        let (asker, answer) = async_channel::bounded(1);
        let off = DhtStatus { backend: "off", ..DhtStatus::default() };
        if !self.order(Order::Status(asker)) {
            return off;
        }
        timeout(OPERATION_MAX, answer.recv()).await.ok().and_then(Result::ok).unwrap_or(off)
    }

    /// The machine moved to another network: everything the backend knows of itself is void.
    pub fn network_changed(&self) {
        // A full queue means that nothing gets through; the backend then finds out by itself.
        let _best_effort = self.order(Order::NetworkChanged);
    }

    fn order(&self, order: Order) -> bool {
        let orders = self.orders.as_ref().and_then(WeakSender::upgrade);
        orders.is_some_and(|orders| orders.try_send(order).is_ok())
    }
}

/// Until the operation ends, or the port does.
async fn collect(answers: &Receiver<DhtEvent>, found: &mut Found) {
    while let Ok(event) = answers.recv().await {
        match event {
            DhtEvent::Peers { addrs, .. } => found.peers.extend(addrs),
            DhtEvent::Value { item, .. } => found.items.push(item),
            DhtEvent::Immutable { value, .. } => found.value = Some(value),
            DhtEvent::Done { result, .. } => {
                found.result = result;
                return;
            }
            DhtEvent::Health { .. } => {}
        }
    }
}
