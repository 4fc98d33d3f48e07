//! The listener, on a thread and a runtime of its own, since the node may run on another runtime or none.

use super::auth::{Gatekeeper, Secret};
use super::blobs::ApiBlobs;
use super::core_handle::CoreHandle;
use super::dht::ApiDht;
use super::guard::Hosts;
use super::routes::router;
use super::sessions::sign_in_link;
use super::state::{ApiState, Ending};
use crate::ports::docker::DockerHandle;
use crate::ports::native::NativeHandle;
use crate::ports::store::AccountBook;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Name of the file in the data directory that holds the node token.
pub const TOKEN_FILE: &str = "api-token";
/// Connections at once. More wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 128;
/// Event sockets at once.
const SOCKETS_MAX: u32 = 16;
/// Transfers from and to the store at once: each holds a thread.
const STORE_THREADS_MAX: usize = 16;
/// A request's head must be complete within this time.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// After the end is announced, connections may finish for this long.
const FINISH_WITHIN: Duration = Duration::from_secs(3);
/// Pause after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to listen and where the token file goes.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// A loopback address; port 0 chooses a free one.
    pub listen: SocketAddr,
    /// The node's data directory.
    pub data_dir: PathBuf,
}

/// Why the API cannot start.
#[derive(Debug, Error)]
pub enum ApiStartError {
    /// Anyone in the network could talk to it, in clear text.
    #[error(
        "the API listens on loopback addresses only, and {0} is none; use 127.0.0.1, and a tunnel from elsewhere"
    )]
    NotLoopback(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen on {addr}: {source}; is another node running, or another program on this port?")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// The token file cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    TokenFile {
        /// Where.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The system gives no thread or no randomness.
    #[error("cannot start the API: {0}")]
    System(#[from] io::Error),
}

/// A running server. Dropping it stops it too, without waiting.
pub struct ApiServer {
    state: ApiState,
    token_file: PathBuf,
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Binds, writes the token file and serves until [`ApiServer::stop`].
    pub fn start(
        config: &ApiConfig,
        core: CoreHandle,
        blobs: Arc<dyn ApiBlobs>,
        dht: ApiDht,
        docker: DockerHandle,
        native: NativeHandle,
        books: AccountBook,
    ) -> Result<Self, ApiStartError> {
        if !config.listen.ip().is_loopback() {
            return Err(ApiStartError::NotLoopback(config.listen));
        }
        let listen = |source| ApiStartError::Listen { addr: config.listen, source };
        let listener = StdListener::bind(config.listen).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let token = Secret::random()?;
        let token_file = config.data_dir.join(TOKEN_FILE);
        write_token(&token_file, &token)
            .map_err(|source| ApiStartError::TokenFile { path: token_file.clone(), source })?;
        let (end, ending) = watch::channel(false);
        let ending = Ending(ending);
        let state = ApiState {
            core,
            blobs,
            dht,
            docker,
            native,
            books,
            gatekeeper: Arc::new(Gatekeeper::new(&token, Instant::now())),
            hosts: Hosts::loopback(addr.port()),
            addr,
            sockets: Arc::new(Semaphore::new(SOCKETS_MAX as usize)),
            store_threads: Arc::new(Semaphore::new(STORE_THREADS_MAX)),
            ending: ending.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(STORE_THREADS_MAX + 1)
            .build()?;
        let router = router(state.clone());
        let sockets = state.sockets.clone();
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let thread = std::thread::Builder::new().name("api".into()).spawn(move || {
            runtime.block_on(accept(listener, router, ending, sockets));
            // A store call that hangs must not keep the process.
            runtime.shutdown_background();
        })?;
        Ok(Self { state, token_file, end, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.state.addr
    }

    /// Where the node token is for the command line.
    pub fn token_file(&self) -> &Path {
        &self.token_file
    }

    /// A fresh one-time link that signs a browser in.
    pub fn sign_in_link(&self) -> io::Result<String> {
        sign_in_link(&self.state)
    }

    /// Ends: no new connections, sockets are told, the rest may finish within a few seconds. Blocks until then.
    pub fn stop(mut self) {
        let _ = self.end.send(true);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported by its hook already.
            let _ = thread.join();
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = self.end.send(true);
    }
}

/// Writes the token so that nobody else can ever read it: a new file of mode 0600, moved into place.
fn write_token(path: &Path, token: &Secret) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".api-token").tempfile_in(dir)?;
    file.write_all(token.reveal().as_bytes())?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

async fn accept(listener: TcpListener, router: Router, mut ending: Ending, sockets: Arc<Semaphore>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = ending.come() => break,
            accepted = async {
                let permit = room.clone().acquire_owned().await;
                (listener.accept().await, permit)
            } => accepted,
        };
        match accepted {
            (Ok((stream, _)), Ok(permit)) => {
                // Small answers must not wait for more; a socket that refuses is only slower.
                let _ = stream.set_nodelay(true);
                let router = router.clone();
                let ending = ending.clone();
                connections.spawn(async move {
                    connection(stream, router, ending).await;
                    drop(permit);
                });
            }
            (Err(e), _) => {
                tracing::warn!(error = %e, "API: accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            (Ok(_), Err(_)) => break,
        }
    }
    drop(listener);
    let finish = async {
        while connections.join_next().await.is_some() {}
        // An event socket has left its connection; it is through when its permit is back.
        let _ = sockets.acquire_many(SOCKETS_MAX).await;
    };
    if tokio::time::timeout(FINISH_WITHIN, finish).await.is_err() {
        tracing::debug!("API: connections were still busy at the end");
    }
}

async fn connection(stream: tokio::net::TcpStream, router: Router, mut ending: Ending) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = ending.come() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(e) = served {
        tracing::trace!(error = %e, "API: connection ended");
    }
}
