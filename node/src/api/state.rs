//! What every handler may use.

use super::auth::Gatekeeper;
use super::blobs::ApiBlobs;
use super::core_handle::CoreHandle;
use super::dht::ApiDht;
use super::error::ApiError;
use super::guard::Hosts;
use crate::ports::docker::DockerHandle;
use crate::ports::native::NativeHandle;
use crate::ports::store::AccountBook;
use remote_network_core::command::{Command, Reply};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};

/// Tells everybody that the server is to end.
#[derive(Clone)]
pub struct Ending(pub watch::Receiver<bool>);

impl Ending {
    /// Waits until the server is to end.
    pub async fn come(&mut self) {
        // A sender that is gone has ended too.
        let _ = self.0.wait_for(|ending| *ending).await;
    }
}

/// Shared by all requests; cloning is cheap.
#[derive(Clone)]
pub struct ApiState {
    /// The core.
    pub core: CoreHandle,
    /// The object store.
    pub blobs: Arc<dyn ApiBlobs>,
    /// The DHT.
    pub dht: ApiDht,
    /// The Docker engine.
    pub docker: DockerHandle,
    /// Whether native programs are run.
    pub native: NativeHandle,
    /// The relay's books.
    pub books: AccountBook,
    /// Who may come in.
    pub gatekeeper: Arc<Gatekeeper>,
    /// Under which names.
    pub hosts: Hosts,
    /// Where the server listens.
    pub addr: SocketAddr,
    /// Event sockets open at once.
    pub sockets: Arc<Semaphore>,
    /// Blocking store operations at once: each holds a thread.
    pub store_threads: Arc<Semaphore>,
    /// When the server is to end.
    pub ending: Ending,
}

impl ApiState {
    /// Asks the core; its refusals become API errors.
    pub async fn ask(&self, command: Command) -> Result<Reply, ApiError> {
        match self.core.command(command).await? {
            Reply::Error(e) => Err(e.into()),
            reply => Ok(reply),
        }
    }
}
