//! QUIC beneath the seam: but for its cryptography ([`super::crypto`], [`super::tls`]), the only file that names `quinn_proto`.
//!
//! quinn-proto is sans-IO too; what this file adds is determinism and bounds. Every source of randomness it has (its own
//! generator, connection ids, the initial destination id, reset and token keys, token time) is replaced by a seeded one,
//! so that equal seeds and inputs give equal packets. Every limit is set here, because its defaults are not safe ones
//! (an unlimited receive window, 65,536 pending handshakes). QUIC is shown synthetic addresses (`addresses.rs`);
//! it never migrates, because it never sees a move.

use super::addresses::Addresses;
pub use super::crypto::QuicCrypto;
use super::{
    Chunk, CloseReason, ConnStats, DialError, ReadError, Transmit, Transport, TransportEvent, WriteError,
    close_code, tls,
};
use crate::event::Datagram;
use crate::id::{ConnId, PublicKey, StreamId};
use crate::limits::CONNECTIONS_DRAINING_MAX;
use crate::rng::{Rng, derive_seed};
use crate::time::{Duration, Instant};
use bytes::Bytes;
use quinn_proto::crypto::{CryptoError, HmacKey};
use quinn_proto::{
    ClientConfig, ConnectionError, ConnectionHandle, ConnectionId, ConnectionIdGenerator, DatagramEvent, Dir,
    EcnCodepoint, Endpoint, EndpointConfig, Event as QuicEvent, Incoming, MtuDiscoveryConfig, NoneTokenStore,
    ServerConfig, StreamEvent, TimeSource, TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration as StdDuration, Instant as StdInstant, SystemTime};

/// The dialling side sends something after this much silence, a default.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A connection on which nothing is heard for this long is gone, a default.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Length of the connection ids issued here.
const CID_BYTES: usize = 8;
/// Handshakes under way above which an unproven source must first show that it receives (QUIC Retry).
const RETRY_ABOVE: usize = 64;
/// Stateless answers (retry, refusal, version negotiation, reset) waiting to be sent; more are dropped, as any datagram may be.
const ANSWERS_MAX: usize = 64;
/// Bidirectional streams a peer may have open: its control stream, one per object it fetches, and a few that just ended.
/// Not more than 14: quinn-proto keeps a table of all that may come, which would be twice as large.
const STREAMS_MAX: u32 = 14;
/// Receive window of a stream. Above 2 MB a burst of losses can exceed quinn-proto's 1,024 gaps and kill the connection.
const STREAM_WINDOW: u32 = 1_250_000;
/// Receive window of a connection.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Bytes sent but not acknowledged, per connection.
const SEND_WINDOW: u64 = 8 << 20;

/// How QUIC is set up.
#[derive(Clone)]
pub struct QuicConfig {
    /// Cryptography.
    pub crypto: QuicCrypto,
    /// The moment of the driver's clock that is `Instant::ZERO` here.
    pub base: StdInstant,
    /// Feeds every random choice of QUIC.
    pub seed: [u8; 32],
    /// The dialling side sends something after this much silence.
    pub keep_alive: Duration,
    /// A connection on which nothing is heard for this long is gone.
    pub idle_timeout: Duration,
    /// Whether larger datagrams than 1,200 bytes are probed for.
    pub mtu_discovery: bool,
    /// Connections alive at once.
    pub connections_max: usize,
}

impl QuicConfig {
    /// The usual set-up.
    pub fn new(crypto: QuicCrypto, base: StdInstant, seed: [u8; 32]) -> Self {
        Self {
            crypto,
            base,
            seed,
            keep_alive: KEEP_ALIVE,
            idle_timeout: IDLE_TIMEOUT,
            mtu_discovery: true,
            connections_max: crate::limits::CONNECTIONS_MAX,
        }
    }
}

struct Connection {
    handle: ConnectionHandle,
    quic: quinn_proto::Connection,
    synthetic: SocketAddr,
    /// Who must answer, when we dialled somebody.
    expected: Option<PublicKey>,
    dialled: bool,
    connected: bool,
    /// `Closed` was told; the connection only drains.
    closed: bool,
    timer: Option<Instant>,
    queued: bool,
}

/// A transport over quinn-proto.
pub struct QuicTransport {
    endpoint: Endpoint,
    client: ClientConfig,
    base: StdInstant,
    connections_max: usize,
    /// Boxed: a node of the map holds eleven, and a connection is several kilobytes.
    connections: BTreeMap<ConnId, Box<Connection>>,
    by_handle: BTreeMap<usize, ConnId>,
    timers: BTreeSet<(Instant, ConnId)>,
    transmit_queue: VecDeque<ConnId>,
    /// Connections that were given packets at the time of the last input and are still to be pumped.
    fed: Vec<ConnId>,
    fed_at: Instant,
    answers: VecDeque<(Transmit, Vec<u8>)>,
    events: VecDeque<TransportEvent>,
    addresses: Addresses,
    handshakes: usize,
    next_conn: u64,
    token_clock: Arc<AtomicU64>,
    scratch: Vec<u8>,
}

impl QuicTransport {
    /// A transport with nothing connected.
    pub fn new(config: QuicConfig) -> Self {
        let rng = Arc::new(Mutex::new(Rng::derive(&config.seed, "quic connection ids")));
        let token_clock = Arc::new(AtomicU64::new(0));
        let transport = Arc::new(transport_config(&config));

        let mut endpoint =
            EndpointConfig::new(Arc::new(KeyedHash(derive_seed(&config.crypto.secret, "stateless reset"))));
        let generator = rng.clone();
        endpoint.cid_generator(move || Box::new(SeededCids(generator.clone())));
        endpoint.rng_seed(Some(derive_seed(&config.seed, "quic endpoint")));

        let token_prk = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, b"remote-network retry tokens")
            .extract(&derive_seed(&config.crypto.secret, "retry token"));
        let mut server = ServerConfig::new(config.crypto.server.clone(), Arc::new(token_prk));
        server
            .transport_config(transport.clone())
            .migration(false)
            .max_incoming(256)
            .incoming_buffer_size(64 << 10)
            .incoming_buffer_size_total(4 << 20)
            .time_source(Arc::new(TokenClock(token_clock.clone())));

        let mut client = ClientConfig::new(config.crypto.client.clone());
        let mut dialling = transport_config(&config);
        dialling.keep_alive_interval(Some(config.keep_alive));
        client
            .transport_config(Arc::new(dialling))
            .token_store(Arc::new(NoneTokenStore))
            .initial_dst_cid_provider(Arc::new(move || random_cid(&rng, 20)));

        Self {
            endpoint: Endpoint::new(Arc::new(endpoint), Some(Arc::new(server)), config.mtu_discovery, None),
            client,
            base: config.base,
            connections_max: config.connections_max,
            connections: BTreeMap::new(),
            by_handle: BTreeMap::new(),
            timers: BTreeSet::new(),
            transmit_queue: VecDeque::new(),
            fed: Vec::new(),
            fed_at: Instant::ZERO,
            answers: VecDeque::new(),
            events: VecDeque::new(),
            addresses: Addresses::default(),
            handshakes: 0,
            next_conn: 0,
            token_clock,
            scratch: Vec::new(),
        }
    }

    fn std(&self, now: Instant) -> StdInstant {
        self.base + StdDuration::from_nanos(now.as_nanos())
    }

    fn start(
        &mut self,
        now: Instant,
        expected: Option<PublicKey>,
        addr: SocketAddr,
    ) -> Result<ConnId, DialError> {
        if !self.has_room(now) {
            return Err(DialError::Full);
        }
        if addr.port() == 0 || addr.ip().is_unspecified() || addr.ip().is_multicast() {
            return Err(DialError::Address);
        }
        let synthetic = self.addresses.synthetic(now, addr);
        let at = self.std(now);
        match self.endpoint.connect(at, self.client.clone(), synthetic, "peer") {
            Ok((handle, quic)) => Ok(self.adopt(now, handle, quic, synthetic, expected, true)),
            Err(_) => Err(DialError::Address),
        }
    }

    /// Room for one more connection. Closed ones only drain and stand in nobody's way; too many of them are forgotten before
    /// their time, the oldest first.
    fn has_room(&mut self, now: Instant) -> bool {
        let draining: Vec<ConnId> =
            self.connections.iter().filter(|(_, c)| c.closed).map(|(conn, _)| *conn).collect();
        let alive = self.connections.len() - draining.len();
        for conn in draining.iter().take(draining.len().saturating_sub(CONNECTIONS_DRAINING_MAX)) {
            if let Some(c) = self.connections.get(conn) {
                self.endpoint.handle_event(c.handle, quinn_proto::EndpointEvent::drained());
            }
            self.forget(now, *conn);
        }
        alive < self.connections_max
    }

    fn adopt(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        quic: quinn_proto::Connection,
        synthetic: SocketAddr,
        expected: Option<PublicKey>,
        dialled: bool,
    ) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.addresses.acquire(synthetic);
        self.handshakes += 1;
        self.by_handle.insert(handle.0, conn);
        self.connections.insert(
            conn,
            Box::new(Connection {
                handle,
                quic,
                synthetic,
                expected,
                dialled,
                connected: false,
                closed: false,
                timer: None,
                queued: false,
            }),
        );
        self.pump(now, conn);
        conn
    }

    fn accept(&mut self, now: Instant, incoming: Incoming) {
        let synthetic = incoming.remote_address();
        let mut answer = std::mem::take(&mut self.scratch);
        answer.clear();
        let transmit = if !self.has_room(now) {
            Some(self.endpoint.refuse(incoming, &mut answer))
        } else if self.handshakes > RETRY_ABOVE
            && incoming.may_retry()
            && !incoming.remote_address_validated()
        {
            // `may_retry` was just checked, the only reason for an error.
            self.endpoint.retry(incoming, &mut answer).ok()
        } else {
            let at = self.std(now);
            match self.endpoint.accept(incoming, at, &mut answer, None) {
                Ok((handle, quic)) => {
                    self.adopt(now, handle, quic, synthetic, None, false);
                    None
                }
                Err(e) => e.response,
            }
        };
        if let Some(t) = transmit {
            self.answer(&t, &answer);
        }
        self.scratch = answer;
    }

    fn answer(&mut self, transmit: &quinn_proto::Transmit, bytes: &[u8]) {
        if self.answers.len() < ANSWERS_MAX
            && let Some(t) = self.convert(transmit)
        {
            self.answers.push_back((t, bytes[..transmit.size].to_vec()));
        }
    }

    fn convert(&self, t: &quinn_proto::Transmit) -> Option<Transmit> {
        Some(Transmit {
            to: self.addresses.real(t.destination)?,
            from: t.src_ip,
            size: t.size,
            segment_size: t.segment_size,
            ecn: t.ecn.map(|e| e as u8),
        })
    }

    /// Lets a connection talk to its endpoint, tells what happened, and sets its timer. After any input to it.
    fn pump(&mut self, now: Instant, conn: ConnId) {
        let Some(c) = self.connections.get_mut(&conn) else { return };
        let mut drained = false;
        while let Some(event) = c.quic.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(answer) = self.endpoint.handle_event(c.handle, event) {
                c.quic.handle_event(answer);
            }
        }
        while let Some(event) = c.quic.poll() {
            if !c.closed {
                Self::tell(
                    &mut self.events,
                    &mut self.handshakes,
                    now,
                    self.base,
                    &self.addresses,
                    conn,
                    c,
                    event,
                );
            }
        }
        if drained {
            self.forget(now, conn);
            return;
        }
        let timer = c.quic.poll_timeout().map(|at| from_std(self.base, at));
        if timer != c.timer {
            if let Some(old) = c.timer {
                self.timers.remove(&(old, conn));
            }
            if let Some(new) = timer {
                self.timers.insert((new, conn));
            }
            c.timer = timer;
        }
        if !c.queued {
            c.queued = true;
            self.transmit_queue.push_back(conn);
        }
    }

    /// Notes that a connection was given a packet. Packets come in batches, and one pump after all of a batch
    /// does what one after each would: nothing looks at the connection's events and timer between them.
    fn feed(&mut self, now: Instant, conn: ConnId) {
        if now != self.fed_at {
            self.pump_fed();
            self.fed_at = now;
        }
        if self.fed.last() != Some(&conn) && !self.fed.contains(&conn) {
            self.fed.push(conn);
        }
    }

    fn pump_fed(&mut self) {
        let mut fed = std::mem::take(&mut self.fed);
        for conn in fed.drain(..) {
            self.pump(self.fed_at, conn);
        }
        // Its memory serves the next batch.
        self.fed = fed;
    }

    #[allow(clippy::too_many_arguments)] // the borrowed parts of `self` beside the connection
    fn tell(
        events: &mut VecDeque<TransportEvent>,
        handshakes: &mut usize,
        now: Instant,
        base: StdInstant,
        addresses: &Addresses,
        conn: ConnId,
        c: &mut Connection,
        event: QuicEvent,
    ) {
        match event {
            QuicEvent::HandshakeDataReady | QuicEvent::DatagramReceived | QuicEvent::DatagramsUnblocked => {}
            QuicEvent::Connected => {
                c.connected = true;
                *handshakes = handshakes.saturating_sub(1);
                let peer = peer_key(&c.quic);
                match (peer, addresses.real(c.synthetic)) {
                    (Some(peer), Some(addr)) if c.expected.is_none_or(|e| e == peer) => {
                        events.push_back(TransportEvent::Connected { conn, peer, addr, dialled: c.dialled });
                    }
                    _ => {
                        let at = base + StdDuration::from_nanos(now.as_nanos());
                        c.quic.close(at, close_code::WRONG_PEER.into(), Bytes::from_static(b"another peer"));
                        c.closed = true;
                        events.push_back(TransportEvent::Closed { conn, reason: CloseReason::WrongPeer });
                    }
                }
            }
            QuicEvent::ConnectionLost { reason } => {
                if !c.connected {
                    *handshakes = handshakes.saturating_sub(1);
                }
                c.closed = true;
                events.push_back(TransportEvent::Closed { conn, reason: close_reason(reason) });
            }
            QuicEvent::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                while let Some(id) = c.quic.streams().accept(Dir::Bi) {
                    let stream = StreamId(u64::from(id));
                    events.push_back(TransportEvent::Opened { conn, stream });
                    events.push_back(TransportEvent::Readable { conn, stream });
                }
            }
            QuicEvent::Stream(StreamEvent::Readable { id }) => {
                events.push_back(TransportEvent::Readable { conn, stream: StreamId(u64::from(id)) });
            }
            QuicEvent::Stream(StreamEvent::Writable { id } | StreamEvent::Stopped { id, .. }) => {
                events.push_back(TransportEvent::Writable { conn, stream: StreamId(u64::from(id)) });
            }
            QuicEvent::Stream(StreamEvent::Available { dir: Dir::Bi }) => {
                events.push_back(TransportEvent::StreamsAvailable { conn });
            }
            QuicEvent::Stream(
                StreamEvent::Opened { dir: Dir::Uni }
                | StreamEvent::Available { dir: Dir::Uni }
                | StreamEvent::Finished { .. },
            ) => {}
        }
    }

    fn forget(&mut self, now: Instant, conn: ConnId) {
        if let Some(c) = self.connections.remove(&conn) {
            self.by_handle.remove(&c.handle.0);
            if let Some(at) = c.timer {
                self.timers.remove(&(at, conn));
            }
            self.addresses.release(now, c.synthetic);
        }
    }

    /// Runs `f` on the connection's QUIC state, then pumps it at the time of the last input.
    fn touch<R>(&mut self, conn: ConnId, f: impl FnOnce(&mut quinn_proto::Connection) -> R) -> Option<R> {
        let c = self.connections.get_mut(&conn).filter(|c| !c.closed)?;
        let result = f(&mut c.quic);
        if !c.queued {
            c.queued = true;
            self.transmit_queue.push_back(conn);
        }
        Some(result)
    }
}

impl Transport for QuicTransport {
    fn handle(&mut self, now: Instant, datagram: Datagram) {
        self.token_clock.store(now.as_nanos(), Ordering::Relaxed);
        let at = self.std(now);
        let synthetic = self.addresses.synthetic(now, datagram.from);
        let ecn = datagram.ecn.and_then(EcnCodepoint::from_bits);
        let mut answer = std::mem::take(&mut self.scratch);
        answer.clear();
        let outcome = self.endpoint.handle(at, synthetic, datagram.to, ecn, datagram.payload, &mut answer);
        match outcome {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(&conn) = self.by_handle.get(&handle.0) {
                    if let Some(c) = self.connections.get_mut(&conn) {
                        c.quic.handle_event(event);
                    }
                    self.feed(now, conn);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.accept(now, incoming),
            Some(DatagramEvent::Response(transmit)) => self.answer(&transmit, &answer),
            None => {}
        }
        // `accept` uses the scratch buffer itself; keep whichever is larger.
        if answer.capacity() > self.scratch.capacity() {
            self.scratch = answer;
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.token_clock.store(now.as_nanos(), Ordering::Relaxed);
        self.pump_fed();
        let at = self.std(now);
        while let Some(&(due, conn)) = self.timers.first().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, conn));
            if let Some(c) = self.connections.get_mut(&conn) {
                c.timer = None;
                c.quic.handle_timeout(at);
            }
            self.pump(now, conn);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let fed = (!self.fed.is_empty()).then_some(self.fed_at);
        let timer = self.timers.first().map(|(at, _)| *at);
        fed.into_iter().chain(timer).min()
    }

    fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        if let Some((transmit, bytes)) = self.answers.pop_front() {
            buf.extend_from_slice(&bytes);
            return Some(transmit);
        }
        self.pump_fed();
        let at = self.std(now);
        while let Some(&conn) = self.transmit_queue.front() {
            let before = buf.len();
            let transmit = match self.connections.get_mut(&conn) {
                Some(c) => c.quic.poll_transmit(at, max_datagrams, buf),
                None => None,
            };
            if let Some(t) = transmit {
                // One batch per connection and turn, so that a bulk transfer does not starve the others.
                self.transmit_queue.rotate_left(1);
                if let Some(converted) = self.convert(&t) {
                    return Some(converted);
                }
                buf.truncate(before);
                continue;
            }
            self.transmit_queue.pop_front();
            if let Some(c) = self.connections.get_mut(&conn) {
                c.queued = true;
                self.pump(now, conn);
                if let Some(c) = self.connections.get_mut(&conn) {
                    c.queued = false;
                }
            }
        }
        None
    }

    fn poll(&mut self) -> Option<TransportEvent> {
        if self.events.is_empty() {
            self.pump_fed();
        }
        self.events.pop_front()
    }

    fn dial(&mut self, now: Instant, peer: &PublicKey, addr: SocketAddr) -> Result<ConnId, DialError> {
        self.start(now, Some(*peer), addr)
    }

    fn dial_any(&mut self, now: Instant, addr: SocketAddr) -> Result<ConnId, DialError> {
        self.start(now, None, addr)
    }

    fn close(&mut self, now: Instant, conn: ConnId, code: u32, reason: &str) {
        let at = self.std(now);
        let Some(c) = self.connections.get_mut(&conn).filter(|c| !c.closed) else { return };
        let end = reason.len().min(200);
        c.quic.close(at, code.into(), Bytes::copy_from_slice(&reason.as_bytes()[..end]));
        c.closed = true;
        if !c.connected {
            self.handshakes = self.handshakes.saturating_sub(1);
        }
        self.events.push_back(TransportEvent::Closed { conn, reason: CloseReason::Local });
        self.pump(now, conn);
    }

    fn open(&mut self, conn: ConnId) -> Option<StreamId> {
        self.touch(conn, |q| q.streams().open(Dir::Bi)).flatten().map(|id| StreamId(u64::from(id)))
    }

    fn write(&mut self, conn: ConnId, stream: StreamId, data: &mut Bytes) -> Result<usize, WriteError> {
        let id = quic_stream(stream).ok_or(WriteError::Gone)?;
        self.touch(conn, |q| match q.send_stream(id).write_chunks(std::slice::from_mut(data)) {
            Ok(written) => Ok(written.bytes),
            Err(quinn_proto::WriteError::Blocked) => Err(WriteError::Blocked),
            Err(quinn_proto::WriteError::Stopped(_) | quinn_proto::WriteError::ClosedStream) => {
                Err(WriteError::Gone)
            }
        })
        .unwrap_or(Err(WriteError::Gone))
    }

    fn finish(&mut self, conn: ConnId, stream: StreamId) {
        if let Some(id) = quic_stream(stream) {
            let code = VarInt::from_u32(close_code::DONE);
            self.touch(conn, |q| match q.send_stream(id).finish() {
                Ok(()) => true,
                // The peer wants no more of it. Only a reset frees the direction then.
                Err(quinn_proto::FinishError::Stopped(_)) => q.send_stream(id).reset(code).is_ok(),
                // Finished or gone already.
                Err(quinn_proto::FinishError::ClosedStream) => false,
            });
        }
    }

    fn stop(&mut self, conn: ConnId, stream: StreamId) {
        if let Some(id) = quic_stream(stream) {
            // An error means that the peer finished and all was read.
            self.touch(conn, |q| q.recv_stream(id).stop(VarInt::from_u32(close_code::DONE)).is_ok());
        }
    }

    fn reset(&mut self, conn: ConnId, stream: StreamId) {
        if let Some(id) = quic_stream(stream) {
            let code = VarInt::from_u32(close_code::DONE);
            // Errors mean that the direction is gone already.
            self.touch(conn, |q| {
                (q.send_stream(id).reset(code).is_ok(), q.recv_stream(id).stop(code).is_ok())
            });
        }
    }

    fn read(&mut self, conn: ConnId, stream: StreamId, max: usize) -> Result<Chunk, ReadError> {
        let id = quic_stream(stream).ok_or(ReadError::Gone)?;
        let c = self.connections.get_mut(&conn).filter(|c| !c.closed).ok_or(ReadError::Gone)?;
        let mut recv = c.quic.recv_stream(id);
        let mut chunks = recv.read(true).map_err(|_| ReadError::Gone)?;
        let result = match chunks.next(max) {
            Ok(Some(chunk)) => Ok(Chunk::Bytes(chunk.bytes)),
            Ok(None) => Ok(Chunk::End),
            Err(quinn_proto::ReadError::Blocked) => Err(ReadError::Blocked),
            Err(quinn_proto::ReadError::Reset(_)) => Err(ReadError::Gone),
        };
        let transmit = chunks.finalize().should_transmit();
        if transmit && !c.queued {
            c.queued = true;
            self.transmit_queue.push_back(conn);
        }
        result
    }

    /// As the trait's own, with one look at the stream instead of one per packet.
    fn read_joined(
        &mut self,
        conn: ConnId,
        stream: StreamId,
        max: usize,
    ) -> Result<(Chunk, bool), ReadError> {
        let id = quic_stream(stream).ok_or(ReadError::Gone)?;
        let c = self.connections.get_mut(&conn).filter(|c| !c.closed).ok_or(ReadError::Gone)?;
        let mut recv = c.quic.recv_stream(id);
        let mut chunks = recv.read(true).map_err(|_| ReadError::Gone)?;
        let mut taken = Vec::new();
        let mut left = max;
        let met = loop {
            match chunks.next(left) {
                Ok(Some(chunk)) => {
                    left = left.saturating_sub(chunk.bytes.len());
                    taken.push(chunk.bytes);
                    if left == 0 {
                        break Ok(false);
                    }
                }
                Ok(None) => break Ok(true),
                Err(quinn_proto::ReadError::Blocked) => break Err(ReadError::Blocked),
                Err(quinn_proto::ReadError::Reset(_)) => break Err(ReadError::Gone),
            }
        };
        if chunks.finalize().should_transmit() && !c.queued {
            c.queued = true;
            self.transmit_queue.push_back(conn);
        }
        match (taken.is_empty(), met) {
            (true, Ok(_)) => Ok((Chunk::End, true)),
            (true, Err(why)) => Err(why),
            // A loss is met again by the next read.
            (false, met) => Ok((Chunk::Bytes(super::joined(taken)), met == Ok(true))),
        }
    }

    fn stats(&self, conn: ConnId) -> Option<ConnStats> {
        self.connections.get(&conn).map(|c| {
            let s = c.quic.stats();
            ConnStats {
                rtt_us: u64::try_from(s.path.rtt.as_micros()).unwrap_or(u64::MAX),
                mtu: s.path.current_mtu,
                cwnd: s.path.cwnd,
                lost_packets: s.path.lost_packets,
                bytes_tx: s.udp_tx.bytes,
                bytes_rx: s.udp_rx.bytes,
            }
        })
    }

    fn connections(&self) -> usize {
        self.connections.len()
    }
}

fn from_std(base: StdInstant, at: StdInstant) -> Instant {
    Instant::ZERO + at.saturating_duration_since(base)
}

fn transport_config(config: &QuicConfig) -> TransportConfig {
    let mut t = TransportConfig::default();
    let idle_ms = u32::try_from(config.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    let mtu = config.mtu_discovery.then(|| {
        let mut m = MtuDiscoveryConfig::default();
        m.interval(StdDuration::from_secs(60)).upper_bound(1452);
        m
    });
    t.max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(0u32.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(SEND_WINDOW)
        .max_idle_timeout(Some(VarInt::from_u32(idle_ms).into()))
        .initial_rtt(StdDuration::from_millis(100))
        .initial_mtu(1200)
        .min_mtu(1200)
        .mtu_discovery_config(mtu)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .allow_spin(false)
        .crypto_buffer_size(16 << 10);
    t
}

fn peer_key(quic: &quinn_proto::Connection) -> Option<PublicKey> {
    let identity = quic.crypto_session().peer_identity()?;
    let certificates = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::key_of_spki(certificates.first()?).ok()
}

fn close_reason(error: ConnectionError) -> CloseReason {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = close.error_code.into_inner();
            if code == u64::from(close_code::WRONG_PEER) {
                return CloseReason::WrongPeer;
            }
            let text: String = String::from_utf8_lossy(&close.reason)
                .chars()
                .take(200)
                .map(|c| if c.is_control() { '\u{fffd}' } else { c })
                .collect();
            CloseReason::Peer { code, reason: text }
        }
        ConnectionError::TimedOut => CloseReason::TimedOut,
        ConnectionError::Reset => CloseReason::Reset,
        ConnectionError::LocallyClosed => CloseReason::Local,
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::CidsExhausted => CloseReason::Transport(error.to_string()),
    }
}

fn quic_stream(stream: StreamId) -> Option<quinn_proto::StreamId> {
    VarInt::from_u64(stream.0).ok().map(quinn_proto::StreamId::from)
}

fn random_cid(rng: &Mutex<Rng>, len: usize) -> ConnectionId {
    let mut rng = rng.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bytes = [0u8; 20];
    loop {
        rng.fill(&mut bytes[..len]);
        // `d1:` and `d2:` start KRPC messages: a short-header packet must not look like one on a shared socket.
        if bytes[1] != b':' || !matches!(bytes[0], b'1' | b'2') {
            return ConnectionId::new(&bytes[..len]);
        }
    }
}

struct SeededCids(Arc<Mutex<Rng>>);

impl ConnectionIdGenerator for SeededCids {
    fn generate_cid(&mut self) -> ConnectionId {
        random_cid(&self.0, CID_BYTES)
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<StdDuration> {
        None
    }
}

/// Keyed BLAKE3 as the MAC of stateless reset tokens.
struct KeyedHash([u8; 32]);

impl HmacKey for KeyedHash {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let mac = blake3::keyed_hash(&self.0, data);
        let n = signature_out.len().min(32);
        signature_out[..n].copy_from_slice(&mac.as_bytes()[..n]);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mac = blake3::keyed_hash(&self.0, data);
        // `blake3::Hash` compares in constant time.
        match <[u8; 32]>::try_from(signature) {
            Ok(s) if mac == blake3::Hash::from_bytes(s) => Ok(()),
            _ => Err(CryptoError),
        }
    }
}

/// The clock of retry tokens: time since the node's start, as quinn-proto wants it.
#[derive(Debug)]
struct TokenClock(Arc<AtomicU64>);

impl TimeSource for TokenClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + StdDuration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}
