//! One tunnel: its handshake, and then packets both ways until one side ends it.
//!
//! Reading and writing go on at the same time, or two sides that both have more to write than the network holds would
//! wait for each other for ever.

use super::tls::SERVER_NAME;
use super::{PACKET_BYTES_MAX, PATH, QUEUE_BYTES_MAX, SUB_PROTOCOL, Times, bytes_of};
use async_channel::{Receiver, Sender};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use remote_network_core::event::Event;
use remote_network_core::place::{TunnelEvent, TunnelId};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config, client_async_with_config};

/// Packets in one event: what has arrived together is handled together.
const PACKETS_PER_EVENT: usize = 64;
/// Bytes in one event, before its last packet. While the core is busy, each tunnel holds one event.
const BYTES_PER_EVENT: usize = 64 << 10;
/// Buffers of the codec, each way.
const CODEC_BUFFER_BYTES: usize = 16 << 10;
/// For the last packets and the goodbye.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// Why a tunnel is over that the core has closed.
const CLOSED_HERE: &str = "closed here";

pub(super) type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// The port's side of a tunnel. Dropping it closes the tunnel, after what is queued.
pub(super) struct Line {
    queue: Sender<Vec<Bytes>>,
    queued: Arc<AtomicUsize>,
    /// Dropped with the line: also a handshake hears of it.
    _open: oneshot::Sender<()>,
}

/// The task's side.
pub(super) struct Ends {
    queue: Receiver<Vec<Bytes>>,
    queued: Arc<AtomicUsize>,
    closed: oneshot::Receiver<()>,
}

impl Line {
    pub(super) fn new() -> (Self, Ends) {
        // Bounded by bytes, and each packet has some.
        let (queue, waiting) = async_channel::unbounded();
        let (open, closed) = oneshot::channel();
        let queued = Arc::new(AtomicUsize::new(0));
        (Self { queue, queued: Arc::clone(&queued), _open: open }, Ends { queue: waiting, queued, closed })
    }

    /// Queues packets; `false`: more than there is credit for.
    pub(super) fn send(&self, packets: Vec<Bytes>) -> bool {
        let bytes = bytes_of(&packets);
        if bytes == 0 {
            return true;
        }
        let before = self.queued.fetch_add(bytes, Ordering::Relaxed);
        // A tunnel that has just ended takes nothing; its end is told.
        let _ended = self.queue.try_send(packets);
        before + bytes <= QUEUE_BYTES_MAX
    }
}

fn config() -> WebSocketConfig {
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = CODEC_BUFFER_BYTES;
    config.write_buffer_size = CODEC_BUFFER_BYTES;
    config.max_write_buffer_size = 4 * PACKET_BYTES_MAX;
    config.max_message_size = Some(PACKET_BYTES_MAX);
    config.max_frame_size = Some(PACKET_BYTES_MAX);
    config
}

/// The server's handshake.
pub(super) async fn accept(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    within: Duration,
) -> Result<Socket, String> {
    let handshake = async {
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let stream = acceptor.accept(stream).await.map_err(|e| e.to_string())?;
        accept_hdr_async_with_config(TlsStream::from(stream), admit, Some(config()))
            .await
            .map_err(|e| e.to_string())
    };
    timeout(within, handshake).await.unwrap_or_else(|_| Err("its handshake took too long".into()))
}

/// Whether a request is one for a tunnel.
#[expect(clippy::result_large_err, reason = "the signature is the codec's")]
fn admit(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let refuse = |status| {
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = status;
        Err(refusal)
    };
    if request.uri().path() != PATH {
        return refuse(StatusCode::NOT_FOUND);
    }
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    if !offered.flat_map(|list| list.split(',')).any(|one| one.trim() == SUB_PROTOCOL) {
        return refuse(StatusCode::BAD_REQUEST);
    }
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUB_PROTOCOL));
    Ok(response)
}

/// The client's handshake.
async fn connect(to: SocketAddr, connector: TlsConnector) -> Result<Socket, String> {
    let stream = TcpStream::connect(to).await.map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|e| e.to_string())?;
    let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
    let mut request = format!("wss://{to}{PATH}").into_client_request().map_err(|e| e.to_string())?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUB_PROTOCOL));
    let (socket, _response) = client_async_with_config(request, TlsStream::from(stream), Some(config()))
        .await
        .map_err(|e| e.to_string())?;
    Ok(socket)
}

/// Opens a tunnel and runs it. Returns why it is over.
pub(super) async fn open(
    tunnel: TunnelId,
    to: SocketAddr,
    connector: TlsConnector,
    mut ends: Ends,
    events: Sender<Event>,
    times: Times,
) -> String {
    let connected = tokio::select! {
        connected = timeout(times.handshake, connect(to, connector)) => connected,
        _ = &mut ends.closed => return CLOSED_HERE.into(),
    };
    match connected {
        Ok(Ok(socket)) => {
            let _gone = events.send(Event::Tunnel(TunnelEvent::Opened(tunnel))).await;
            run(tunnel, socket, ends, events, times).await
        }
        Ok(Err(why)) => why,
        Err(_) => "the handshake took too long".into(),
    }
}

/// Runs a tunnel that stands. Returns why it is over.
pub(super) async fn run(
    tunnel: TunnelId,
    socket: Socket,
    ends: Ends,
    events: Sender<Event>,
    times: Times,
) -> String {
    let (mut sink, mut stream) = socket.split();
    tokio::select! {
        why = write(tunnel, &mut sink, &ends, &events, times.slow) => why,
        why = read(tunnel, &mut stream, &events, times.idle) => why,
    }
}

type Error = tokio_tungstenite::tungstenite::Error;

async fn write(
    tunnel: TunnelId,
    sink: &mut SplitSink<Socket, Message>,
    ends: &Ends,
    events: &Sender<Event>,
    slow: Duration,
) -> String {
    while let Ok(packets) = ends.queue.recv().await {
        let bytes = bytes_of(&packets);
        let written = async {
            // One that is too large would end the tunnel on the other side.
            let fits = |packet: &Bytes| (1..=PACKET_BYTES_MAX).contains(&packet.len());
            for packet in packets.into_iter().filter(fits) {
                within(slow, sink.feed(Message::Binary(packet))).await?;
            }
            within(slow, sink.flush()).await
        };
        if let Err(why) = written.await {
            return why;
        }
        ends.queued.fetch_sub(bytes, Ordering::Relaxed);
        let sent = TunnelEvent::Sent { tunnel, bytes: bytes as u64 };
        let _gone = events.send(Event::Tunnel(sent)).await;
    }
    let _said = timeout(GOODBYE_WITHIN, sink.close()).await;
    CLOSED_HERE.into()
}

async fn within(slow: Duration, step: impl Future<Output = Result<(), Error>>) -> Result<(), String> {
    match timeout(slow, step).await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(_) => Err("the other side is too slow".into()),
    }
}

async fn read(
    tunnel: TunnelId,
    stream: &mut SplitStream<Socket>,
    events: &Sender<Event>,
    idle: Duration,
) -> String {
    loop {
        let Ok(next) = timeout(idle, stream.next()).await else { return "nothing came for too long".into() };
        let mut packets = Vec::new();
        let mut over = take(next, &mut packets).err();
        while over.is_none()
            && packets.len() < PACKETS_PER_EVENT
            && bytes_of(&packets) < BYTES_PER_EVENT
            && let Some(next) = stream.next().now_or_never()
        {
            over = take(next, &mut packets).err();
        }
        if !packets.is_empty() {
            let received = TunnelEvent::Received { tunnel, packets };
            let _gone = events.send(Event::Tunnel(received)).await;
        }
        if let Some(why) = over {
            return why;
        }
    }
}

/// Adds a packet; the error says why there will be no more.
fn take(next: Option<Result<Message, Error>>, packets: &mut Vec<Bytes>) -> Result<(), String> {
    match next {
        Some(Ok(Message::Binary(packet))) => {
            if !packet.is_empty() {
                packets.push(packet);
            }
            Ok(())
        }
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
        Some(Ok(Message::Text(_) | Message::Frame(_))) => Err("the other side sent what is no packet".into()),
        Some(Ok(Message::Close(_))) | None => Err("the other side closed it".into()),
        Some(Err(error)) => Err(error.to_string()),
    }
}
