//! QUIC beneath the seam: the connections that run, and what they tell.
//!
//! quinn-proto is sans-IO too. How it is set up, its bounds and its determinism, is in `setup.rs`; here are its connections, their
//! timers and packets, and the words of the seam for what happens on them. QUIC is shown synthetic addresses
//! (`addresses.rs`); it never migrates, because it never sees a move: which place a connection's packets take is said from above
//! ([`Transport::set_place`]), and packets find their connection by the id they carry (`cids.rs`).

mod seam;

use super::addresses::Addresses;
use super::cids::Cids;
pub use super::crypto::QuicCrypto;
use super::gate::Gate;
pub use super::setup::{IDLE_TIMEOUT, KEEP_ALIVE, NEAR_DATAGRAM_BYTES_MAX, QuicConfig};
use super::setup::{Setup, is_near};
use super::silence::{self, Silence};
use super::{CloseReason, DialError, Outgoing, Transport, TransportEvent, close_code, tls};
use crate::few::Few;
use crate::id::{ConnId, PublicKey, StreamId};
use crate::limits::CONNECTIONS_DRAINING_MAX;
use crate::place::Place;
use crate::time::Instant;
use bytes::Bytes;
use quinn_proto::{
    ClientConfig, ConnectionError, ConnectionHandle, Dir, Endpoint, Event as QuicEvent, Incoming,
    ServerConfig, StreamEvent, VarInt,
};
use rustls::pki_types::CertificateDer;
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration as StdDuration, Instant as StdInstant};

/// Handshakes under way above which an unproven source must first show that it receives (QUIC Retry).
const RETRY_ABOVE: usize = 64;
/// Stateless answers (retry, refusal, version negotiation, reset) waiting to be sent; more are dropped, as any datagram may be.
const ANSWERS_MAX: usize = 64;
/// Events for which memory is kept.
const EVENTS_KEPT: usize = 4;
/// The system takes so many bytes in one call, however many datagrams they are.
const TRANSMIT_BYTES_MAX: usize = 65_000;
/// What a relayed packet costs in the queue of the connection that carries it, beside its bytes.
const RELAYED_OVERHEAD: usize = 96;

struct Connection {
    handle: ConnectionHandle,
    quic: quinn_proto::Connection,
    synthetic: SocketAddr,
    /// Where its packets are sent.
    place: Place,
    /// Where they last came from.
    heard_from: Place,
    silence: Silence,
    /// Who must answer, when we dialled somebody.
    expected: Option<PublicKey>,
    dialled: bool,
    connected: bool,
    /// `Closed` was told; the connection only drains.
    closed: bool,
    timer: Option<Instant>,
    queued: bool,
    /// Among those that were given packets and are still to be pumped.
    fed: bool,
}

/// A transport over quinn-proto.
pub struct QuicTransport {
    endpoint: Endpoint,
    /// For peers elsewhere, and on this machine.
    dial: [ClientConfig; 2],
    accept_near: Arc<ServerConfig>,
    base: StdInstant,
    connections_max: usize,
    connections: Few<ConnId, Box<Connection>>,
    by_handle: Few<usize, ConnId>,
    timers: BTreeSet<(Instant, ConnId)>,
    transmit_queue: VecDeque<ConnId>,
    /// Connections that were given packets at the time of the last input and are still to be pumped.
    fed: Vec<ConnId>,
    fed_at: Instant,
    /// Stateless answers and nudges.
    answers: VecDeque<(Outgoing, Vec<u8>)>,
    events: VecDeque<TransportEvent>,
    addresses: Addresses,
    handshakes: usize,
    next_conn: u64,
    token_clock: Arc<AtomicU64>,
    cids: Arc<Cids>,
    gate: Gate,
}

impl QuicTransport {
    /// A transport with nothing connected.
    pub fn new(config: QuicConfig) -> Self {
        let Setup { endpoint, dial, accept_near, token_clock, cids, gate } = Setup::new(&config);
        Self {
            endpoint,
            dial,
            accept_near,
            base: config.base,
            connections_max: config.connections_max,
            connections: Few::new(),
            by_handle: Few::new(),
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
            cids,
            gate,
        }
    }

    fn std(&self, now: Instant) -> StdInstant {
        self.base + StdDuration::from_nanos(now.as_nanos())
    }

    fn start(
        &mut self,
        now: Instant,
        expected: Option<PublicKey>,
        place: Place,
    ) -> Result<ConnId, DialError> {
        if !self.has_room(now) {
            return Err(DialError::Full);
        }
        let usable = match place {
            Place::Direct { addr, .. } => {
                addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast()
            }
            Place::Relayed { relay, .. } => {
                self.connections.get(&relay).is_some_and(|c| c.connected && !c.closed)
            }
            Place::Tunnel(_) => true,
        };
        if !usable {
            return Err(DialError::Address);
        }
        let synthetic = self.addresses.synthetic(now, place);
        let at = self.std(now);
        let client = self.dial[usize::from(is_near(place))].clone();
        self.cids.serving(ConnId(self.next_conn + 1));
        match self.endpoint.connect(at, client, synthetic, "peer") {
            Ok((handle, quic)) => Ok(self.adopt(now, handle, quic, (synthetic, place), expected, true)),
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
        (synthetic, place): (SocketAddr, Place),
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
                place,
                heard_from: place,
                silence: Silence::default(),
                expected,
                dialled,
                connected: false,
                closed: false,
                timer: None,
                queued: false,
                fed: false,
            }),
        );
        self.pump(now, conn);
        conn
    }

    fn accept(&mut self, now: Instant, place: Place, incoming: Incoming) {
        let synthetic = incoming.remote_address();
        let mut answer = Vec::new();
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
            let near = is_near(place).then(|| self.accept_near.clone());
            self.cids.serving(ConnId(self.next_conn + 1));
            match self.endpoint.accept(incoming, at, &mut answer, near) {
                Ok((handle, quic)) => {
                    self.adopt(now, handle, quic, (synthetic, place), None, false);
                    None
                }
                Err(e) => e.response,
            }
        };
        if let Some(t) = transmit {
            self.answer(&t, place, &answer);
        }
    }

    fn answer(&mut self, transmit: &quinn_proto::Transmit, place: Place, bytes: &[u8]) {
        if self.answers.len() < ANSWERS_MAX {
            self.answers.push_back((outgoing(transmit, place, false), bytes[..transmit.size].to_vec()));
        }
    }

    /// The connection of which a packet says it is.
    fn named_by(&self, packet: &[u8]) -> Option<ConnId> {
        let low = self.cids.connection_of(packet)?;
        // Ids count up; the packet carries the low half of one of the last.
        let high = self.next_conn & !u64::from(u32::MAX);
        let conn = ConnId(high | u64::from(low));
        let conn = if conn.0 > self.next_conn { ConnId(conn.0.checked_sub(1 << 32)?) } else { conn };
        self.connections.contains_key(&conn).then_some(conn)
    }

    /// Hands a packet to its connection, and notes where it came from once QUIC has authenticated it.
    fn hand(&mut self, conn: ConnId, place: Place, bytes: usize, event: quinn_proto::ConnectionEvent) {
        let Some(c) = self.connections.get_mut(&conn) else { return };
        if c.heard_from == place || !c.connected || c.closed {
            c.quic.handle_event(event);
            return;
        }
        let before = silence::heard(&c.quic.stats().frame_rx);
        c.quic.handle_event(event);
        if silence::heard(&c.quic.stats().frame_rx) != before {
            c.heard_from = place;
            self.events.push_back(TransportEvent::Moved { conn, place, bytes });
        }
    }

    /// Lets a connection talk to its endpoint, tells what happened, and sets its timer. After any input to it.
    fn pump(&mut self, now: Instant, conn: ConnId) {
        let Some(c) = self.connections.get_mut(&conn) else { return };
        let mut drained = false;
        self.cids.serving(conn);
        while let Some(event) = c.quic.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(answer) = self.endpoint.handle_event(c.handle, event) {
                c.quic.handle_event(answer);
            }
        }
        while let Some(event) = c.quic.poll() {
            if !c.closed {
                Self::tell(&mut self.events, &mut self.handshakes, now, self.base, conn, c, event);
            }
        }
        if drained {
            self.forget(now, conn);
            return;
        }
        let timer = c.quic.poll_timeout().map(|at| from_std(self.base, at));
        let timer = timer.into_iter().chain(c.silence.due()).min();
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
        if let Some(c) = self.connections.get_mut(&conn).filter(|c| !c.fed) {
            c.fed = true;
            self.fed.push(conn);
        }
    }

    fn pump_fed(&mut self) {
        let mut fed = std::mem::take(&mut self.fed);
        for conn in fed.drain(..) {
            if let Some(c) = self.connections.get_mut(&conn) {
                c.fed = false;
            }
            self.pump(self.fed_at, conn);
        }
        // Its memory serves the next batch.
        self.fed = fed;
    }

    fn tell(
        events: &mut VecDeque<TransportEvent>,
        handshakes: &mut usize,
        now: Instant,
        base: StdInstant,
        conn: ConnId,
        c: &mut Connection,
        event: QuicEvent,
    ) {
        match event {
            QuicEvent::HandshakeDataReady | QuicEvent::DatagramsUnblocked => {}
            QuicEvent::DatagramReceived => {
                while let Some(bytes) = c.quic.datagrams().recv() {
                    events.push_back(TransportEvent::Datagram { conn, bytes });
                }
            }
            QuicEvent::Connected => {
                c.connected = true;
                *handshakes = handshakes.saturating_sub(1);
                let peer = peer_key(&c.quic);
                match peer {
                    Some(peer) if c.expected.is_none_or(|e| e == peer) => {
                        let (place, dialled) = (c.place, c.dialled);
                        events.push_back(TransportEvent::Connected { conn, peer, place, dialled });
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

    /// Packets that may be taken out of a connection now: none while the relay that carries them has no room.
    fn packets_for(&mut self, conn: ConnId, max: usize) -> usize {
        let Some(c) = self.connections.get(&conn) else { return max };
        let Place::Relayed { relay, .. } = c.place else { return max };
        let packet = usize::from(c.quic.current_mtu()) + RELAYED_OVERHEAD;
        // Without the relay the packets are lost, as on any dead path.
        self.datagram_room(relay).map_or(max, |(_, free)| max.min(free / packet))
    }

    /// Up to `max` packets of a connection.
    fn transmit_of(&mut self, now: Instant, conn: ConnId, max: usize, buf: &mut Vec<u8>) -> Option<Outgoing> {
        let at = self.std(now);
        let c = self.connections.get_mut(&conn)?;
        let mtu = usize::from(c.quic.current_mtu());
        let transmit = c.quic.poll_transmit(at, max.min(TRANSMIT_BYTES_MAX / mtu.max(1)), buf)?;
        if c.silence.is_open() {
            c.silence.sent(now, c.quic.rtt(), silence::heard(&c.quic.stats().frame_rx));
        }
        let probe = transmit.segment_size.is_none() && transmit.size > mtu;
        Some(outgoing(&transmit, c.place, probe))
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

fn outgoing(t: &quinn_proto::Transmit, place: Place, probe: bool) -> Outgoing {
    let ecn = t.ecn.map(|e| e as u8);
    Outgoing { place, from: t.src_ip, size: t.size, segment_size: t.segment_size, ecn, probe }
}

fn from_std(base: StdInstant, at: StdInstant) -> Instant {
    Instant::ZERO + at.saturating_duration_since(base)
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
