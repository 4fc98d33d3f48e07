//! The baseline: plain quinn, set up as this project sets up QUIC, and nothing else around it.
//!
//! The same TLS (mutual, raw Ed25519 keys), windows, timers and socket buffers, so that a ratio shows what
//! the node adds to quinn and not what other settings would. Each endpoint has a thread with a runtime of its own, as
//! each node has.

use crate::pair::LOOPBACK;
use anyhow::{Result, anyhow};
use bytes::Bytes;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig,
};
use remote_network_core::id::Keypair;
use remote_network_core::transport::tls;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The windows of `core/src/transport/quic.rs`.
const STREAM_WINDOW: u32 = 1_250_000;
const CONNECTION_WINDOW: u32 = 8 << 20;
const SEND_WINDOW: u64 = 8 << 20;
/// The socket buffers of the drivers.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;
/// What the writer hands to quinn at once, without copying: the portion of a serving node.
const PORTION_BYTES: usize = 64 * 1024;

/// The largest datagram of quinn as it comes, and of the product elsewhere than on loopback.
pub const USUAL_DATAGRAM_BYTES: u16 = 1_452;

fn transport(datagram_bytes: u16) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.interval(Duration::from_secs(60)).upper_bound(datagram_bytes);
    let mut t = TransportConfig::default();
    t.stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(SEND_WINDOW)
        .max_concurrent_bidi_streams(16u32.into())
        .initial_rtt(Duration::from_millis(100))
        .mtu_discovery_config(Some(mtu))
        .datagram_receive_buffer_size(None);
    t
}

/// An endpoint on loopback; needs a runtime around it.
fn endpoint(seed: u8, datagram_bytes: u16) -> Result<Endpoint> {
    let keypair = Keypair::from_seed(&[seed; 32]);
    let crypto = tls::crypto(&keypair, Arc::new(rustls::crypto::ring::default_provider()))?;
    let transport = Arc::new(transport(datagram_bytes));
    let mut server = ServerConfig::with_crypto(crypto.server);
    server.transport_config(transport.clone());
    let mut client = ClientConfig::new(crypto.client);
    client.transport_config(transport);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&LOOPBACK.into())?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(datagram_bytes.max(1_472))?;
    let mut endpoint = Endpoint::new(config, Some(server), socket.into(), runtime)?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn connect(endpoint: &Endpoint, to: SocketAddr) -> Result<Connection> {
    Ok(endpoint.connect(to, "peer")?.await?)
}

/// A listening endpoint in a thread of its own. What is received on unidirectional streams is dropped, the moment of
/// each stream's end is told; each bidirectional stream is answered with its first bytes.
pub struct Listener {
    pub addr: SocketAddr,
    ends: mpsc::Receiver<Instant>,
    thread: JoinHandle<Result<()>>,
    endpoint: Endpoint,
}

impl Listener {
    pub fn start(datagram_bytes: u16) -> Result<Self> {
        let (tell, ends) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let thread = std::thread::Builder::new().name("quinn listener".into()).spawn(move || {
            runtime()?.block_on(async move {
                let endpoint = endpoint(101, datagram_bytes)?;
                ready.send((endpoint.local_addr()?, endpoint.clone()))?;
                while let Some(incoming) = endpoint.accept().await {
                    tokio::spawn(attend(incoming, tell.clone()));
                }
                endpoint.wait_idle().await;
                Ok(())
            })
        })?;
        let (addr, endpoint) = started.recv()?;
        Ok(Self { addr, ends, thread, endpoint })
    }

    pub fn stop(self) -> Result<()> {
        self.endpoint.close(0u32.into(), b"");
        drop(self.endpoint);
        self.thread.join().map_err(|_| anyhow!("the listener panicked"))?
    }
}

async fn attend(incoming: quinn::Incoming, tell: mpsc::Sender<Instant>) -> Result<()> {
    let connection = incoming.await?;
    loop {
        tokio::select! {
            stream = connection.accept_uni() => {
                let mut stream = stream?;
                while stream.read_chunk(usize::MAX, true).await?.is_some() {}
                tell.send(Instant::now())?;
            }
            stream = connection.accept_bi() => {
                let (mut send, mut receive) = stream?;
                if let Some(chunk) = receive.read_chunk(usize::MAX, true).await? {
                    send.write_chunk(chunk.bytes).await?;
                }
            }
        }
    }
}

/// A connection that sends bytes from memory.
pub struct Sender {
    orders: Option<async_channel::Sender<Bytes>>,
    thread: JoinHandle<Result<()>>,
}

impl Sender {
    pub fn start(to: SocketAddr, datagram_bytes: u16) -> Result<Self> {
        let (orders, inbox) = async_channel::bounded::<Bytes>(1);
        let thread = std::thread::Builder::new().name("quinn sender".into()).spawn(move || {
            runtime()?.block_on(async move {
                let endpoint = endpoint(102, datagram_bytes)?;
                let connection = connect(&endpoint, to).await?;
                while let Ok(mut bytes) = inbox.recv().await {
                    let mut stream = connection.open_uni().await?;
                    while !bytes.is_empty() {
                        stream.write_chunk(bytes.split_to(bytes.len().min(PORTION_BYTES))).await?;
                    }
                    stream.finish()?;
                }
                connection.close(0u32.into(), b"");
                endpoint.wait_idle().await;
                Ok(())
            })
        })?;
        Ok(Self { orders: Some(orders), thread })
    }

    /// Sends `bytes` over one stream; the time until the reader has met its end.
    pub fn send(&self, bytes: Bytes, listener: &Listener) -> Result<Duration> {
        let begun = Instant::now();
        if let Some(orders) = &self.orders {
            orders.send_blocking(bytes)?;
        }
        Ok(listener.ends.recv_timeout(Duration::from_secs(120))?.duration_since(begun))
    }

    pub fn stop(mut self) -> Result<()> {
        self.orders = None;
        self.thread.join().map_err(|_| anyhow!("the sender panicked"))?
    }
}

/// Makes `connections` connections to `to`, `at_once` at a time, each from an endpoint of its own and one after the other.
/// With `greet`, a connection counts only when a message went there and back on a stream.
pub fn connections(to: SocketAddr, connections: usize, at_once: usize, greet: bool) -> Result<Duration> {
    let each = connections / at_once;
    runtime()?.block_on(async move {
        let endpoints = (0..at_once)
            .map(|i| endpoint(110 + i as u8, USUAL_DATAGRAM_BYTES))
            .collect::<Result<Vec<Endpoint>>>()?;
        let begun = Instant::now();
        let mut callers = tokio::task::JoinSet::new();
        for endpoint in &endpoints {
            let endpoint = endpoint.clone();
            callers.spawn(async move {
                for _ in 0..each {
                    let connection = connect(&endpoint, to).await?;
                    if greet {
                        let (mut send, mut receive) = connection.open_bi().await?;
                        send.write_all(&[7; 200]).await?;
                        receive.read_chunk(usize::MAX, true).await?;
                    }
                    connection.close(0u32.into(), b"");
                }
                Ok::<(), anyhow::Error>(())
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        let elapsed = begun.elapsed();
        for endpoint in endpoints {
            endpoint.wait_idle().await;
        }
        Ok(elapsed)
    })
}
