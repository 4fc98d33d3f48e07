//! The ports of a real node: SQLite journal, object store, DHT, engines, the machine's network, tunnels.
//!
//! A port is an ordinary thread behind a bounded channel, so that it serves every driver: `submit` never blocks, and
//! answers arrive as [`remote_network_core::event::Event`] on the channel the port was given. The channels are bounded
//! above the core's own limits; when one is full all the same, or its thread is gone, `submit` hands back the answer
//! itself ([`Refused`]), so that no request is ever lost without a word.

pub mod blobs;
pub mod dht;
pub mod docker;
pub mod engine;
pub mod native;
pub mod net;
pub mod store;
pub mod tunnel;
pub mod workdir;

use remote_network_core::event::Event;
use tokio::sync::watch;

/// The end of a port, for its tasks to wait for.
#[derive(Clone, Debug)]
struct Ending(watch::Receiver<bool>);

impl Ending {
    async fn come(&mut self) {
        // The other side being gone is the end too.
        let _ended = self.0.wait_for(|end| *end).await;
    }
}

/// A port could not take a request. The event is the request's answer: the caller hands it to the core.
#[derive(Debug)]
#[must_use = "the event inside is the answer to the request"]
pub struct Refused(pub Box<Event>);

impl Refused {
    /// The answer to the refused request.
    pub fn into_event(self) -> Event {
        *self.0
    }
}

impl From<Event> for Refused {
    fn from(event: Event) -> Self {
        Self(Box::new(event))
    }
}
