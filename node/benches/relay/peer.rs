//! A client of the relay that is nothing else: the product's QUIC, identity exchange and relay messages, on a socket of its own.

use crate::load;
use anyhow::{Context as _, Result, bail};
use quinn_udp::{EcnCodepoint, UdpSockRef, UdpSocketState};
use remote_network_core::codec::{Frame, FrameReader};
use remote_network_core::dht::record::{NodeType, Role};
use remote_network_core::event::Datagram;
use remote_network_core::id::{ConnId, DhtId, Keypair, PeerId, PublicKey, StreamId};
use remote_network_core::identity::exchange::{Exchange, Identity, Input, Output, VERSIONS};
use remote_network_core::machine::{Cx, Machine as _};
use remote_network_core::relay::message::Message;
use remote_network_core::relay::wire::{Direction, Header, Part};
use remote_network_core::rng::Rng;
use remote_network_core::time::{Instant, UnixTime};
use remote_network_core::transport::quic::{QuicConfig, QuicTransport};
use remote_network_core::transport::{Chunk, DatagramError, Outgoing, Transport, TransportEvent, tls};
use std::net::SocketAddr;
use std::sync::Arc;

/// Datagrams of one send call, as the product's drivers.
const DATAGRAMS_PER_SEND: usize = 10;

struct Meeting {
    stream: StreamId,
    reader: FrameReader,
    exchange: Exchange,
}

/// How far a client is with its relay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    Alone,
    Identified,
    Registered,
}

/// A packet that arrived.
pub struct Delivery {
    pub pair: usize,
    pub sent: u64,
    pub at: u64,
}

/// A way to the other one of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    Relayed,
    Direct,
}

pub struct Peer {
    pub key: PublicKey,
    pub addr: SocketAddr,
    pub socket: mio::net::UdpSocket,
    pub state: UdpSocketState,
    pub stage: Stage,
    /// When [`Peer::on_time`] is due, as the swarm has noted it.
    pub timer: Option<Instant>,
    pub dirty: bool,
    /// Relayed packets that came in pieces.
    pub pieces: u64,
    transport: QuicTransport,
    rng: Rng,
    own: Identity,
    relay: Option<(PublicKey, ConnId)>,
    direct: Option<ConnId>,
    direct_up: bool,
    meeting: Option<Meeting>,
}

impl Peer {
    pub fn new(number: u64, base: std::time::Instant, ip: std::net::IpAddr) -> Result<Self> {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        let keypair = Keypair::from_seed(&seed);
        let crypto = tls::crypto(&keypair, Arc::new(rustls::crypto::ring::default_provider()))?;
        let socket = std::net::UdpSocket::bind((ip, 0))?;
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let own = Identity {
            key: keypair.public(),
            dht_id: DhtId(keypair.public().peer_id().0),
            node_type: NodeType::Private,
            role: Role::default(),
            is_relay: false,
            topics: Vec::new(),
            versions: VERSIONS.to_vec(),
        };
        Ok(Self {
            key: keypair.public(),
            addr: socket.local_addr()?,
            socket: mio::net::UdpSocket::from_std(socket),
            state,
            stage: Stage::Alone,
            timer: None,
            dirty: false,
            pieces: 0,
            transport: QuicTransport::new(QuicConfig::new(crypto, base, seed)),
            rng: Rng::derive(&seed, "client"),
            own,
            relay: None,
            direct: None,
            direct_up: false,
            meeting: None,
        })
    }

    pub fn call_relay(&mut self, now: Instant, key: PublicKey, addr: SocketAddr) -> Result<()> {
        self.relay = Some((key, self.transport.dial(now, &key, addr)?));
        Ok(())
    }

    pub fn call_direct(&mut self, now: Instant, key: &PublicKey, addr: SocketAddr) -> Result<()> {
        self.direct = Some(self.transport.dial(now, key, addr)?);
        Ok(())
    }

    /// Whether packets fit whole on this way.
    pub fn is_ready(&mut self, route: Route) -> bool {
        let (up, conn) = match route {
            Route::Relayed => (self.stage > Stage::Alone, self.relay.map(|(_, conn)| conn)),
            Route::Direct => (self.direct_up, self.direct),
        };
        let wanted = load::PACKET_BYTES + remote_network_core::relay::wire::WHOLE_HEADER_BYTES;
        let room = conn.and_then(|conn| self.transport.datagram_room(conn));
        up && room.is_some_and(|(max, _)| max >= wanted)
    }

    pub fn register(&mut self) -> Result<()> {
        self.say(&Message::Register.to_frame())
    }

    /// Sends a packet; what finds no room displaces the oldest, as for every node.
    pub fn send(&mut self, route: Route, to: PeerId, packet: &[u8]) -> Result<()> {
        let (conn, message) = match route {
            Route::Relayed => {
                let header = Header { direction: Direction::To, peer: to, part: Part::Whole };
                (self.relay.map(|(_, conn)| conn), header.datagram(packet))
            }
            Route::Direct => (self.direct, bytes::Bytes::copy_from_slice(packet)),
        };
        match self.transport.send_datagram(conn.context("not connected")?, message) {
            // A starved relay looks like a path that has become narrow; the packet is lost, as all are then.
            Ok(()) | Err(DatagramError::TooLarge(_)) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    pub fn arrived(&mut self, now: Instant, datagram: Datagram) {
        self.transport.handle(now, datagram);
    }

    pub fn on_time(&mut self, now: Instant) {
        self.transport.handle_timeout(now);
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.transport.poll_timeout()
    }

    /// Sends what is to be sent; how often the socket was full.
    pub fn transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> u64 {
        let mut full = 0;
        let most = self.state.max_gso_segments().clamp(1, DATAGRAMS_PER_SEND);
        loop {
            buf.clear();
            let Some(t) = self.transport.poll_transmit(now, most, buf).and_then(Outgoing::datagrams) else {
                return full;
            };
            let sent = self.state.send(
                UdpSockRef::from(&self.socket),
                &quinn_udp::Transmit {
                    destination: t.to,
                    ecn: t.ecn.and_then(EcnCodepoint::from_bits),
                    contents: &buf[..t.size],
                    segment_size: t.segment_size.filter(|size| *size < t.size),
                    src_ip: None,
                },
            );
            full += u64::from(sent.is_err());
        }
    }

    /// Takes what the transport tells.
    pub fn settle(&mut self, now: Instant, delivered: &mut Vec<Delivery>) -> Result<()> {
        while let Some(event) = self.transport.poll() {
            match event {
                TransportEvent::Datagram { conn, bytes } => {
                    let packet = match Some(conn) == self.relay.map(|(_, conn)| conn) {
                        false => bytes,
                        true => match Header::parse(&bytes) {
                            Ok(header) if header.part == Part::Whole => bytes.slice(header.bytes()..),
                            Ok(_) => {
                                self.pieces += 1;
                                continue;
                            }
                            Err(e) => bail!("the relay sent nonsense: {e}"),
                        },
                    };
                    if let Some((pair, sent)) = load::read(&packet) {
                        delivered.push(Delivery { pair, sent, at: now.as_nanos() });
                    }
                }
                TransportEvent::Connected { conn, peer, place, dialled: true }
                    if Some((peer, conn)) == self.relay =>
                {
                    let stream = self.transport.open(conn).context("the relay allows no stream")?;
                    let exchange = Exchange::new(self.own.clone(), peer, Some(peer), place.addr());
                    self.meeting = Some(Meeting { stream, reader: FrameReader::default(), exchange });
                    self.exchange(now, Input::Start)?;
                }
                TransportEvent::Connected { conn, dialled, .. } => {
                    self.direct = Some(conn);
                    self.direct_up |= dialled;
                }
                TransportEvent::Readable { conn, stream } => self.read(now, conn, stream)?,
                TransportEvent::Closed { reason, .. } => bail!("a connection ended: {reason}"),
                TransportEvent::Opened { .. }
                | TransportEvent::Writable { .. }
                | TransportEvent::StreamsAvailable { .. }
                | TransportEvent::Silent { .. }
                | TransportEvent::Moved { .. } => {}
            }
        }
        Ok(())
    }

    fn read(&mut self, now: Instant, conn: ConnId, stream: StreamId) -> Result<()> {
        loop {
            let Some(meeting) = self.meeting.as_mut().filter(|m| m.stream == stream) else { return Ok(()) };
            if let Some(frame) = meeting.reader.next_frame()? {
                self.exchange(now, Input::Frame(frame))?;
                continue;
            }
            match self.transport.read(conn, stream, 64 * 1024) {
                Ok(Chunk::Bytes(bytes)) => meeting.reader.push(&bytes),
                Ok(Chunk::End) | Err(_) => return Ok(()),
            }
        }
    }

    fn exchange(&mut self, now: Instant, input: Input) -> Result<()> {
        let Some(meeting) = self.meeting.as_mut() else { return Ok(()) };
        let mut out = Vec::new();
        let wall = UnixTime::from_secs(1_800_000_000);
        meeting.exchange.handle(&mut Cx::new(now, wall, &mut self.rng, &mut out), input);
        for output in out {
            match output {
                Output::Send(frame) => self.say(&frame)?,
                Output::Identified(_) => {
                    self.stage = Stage::Identified;
                    self.exchange(now, Input::Share(Vec::new()))?;
                }
                Output::Learnt(_) => {}
                Output::Other(frame) => self.told(&frame)?,
                Output::Fault(fault) => bail!("the identity exchange failed: {fault}"),
            }
        }
        Ok(())
    }

    fn told(&mut self, frame: &Frame) -> Result<()> {
        if !Message::is_kind(frame.kind) {
            return Ok(());
        }
        match Message::from_frame(frame)? {
            Message::Registered(_) => self.stage = Stage::Registered,
            Message::Refused { words, .. } => bail!("the relay refuses: {words}"),
            Message::Gone { .. } => bail!("the relay does not know the peer"),
            Message::Going { .. } => bail!("the relay goes"),
            Message::Register | Message::Unregister | Message::Ask | Message::Load(_) => {}
        }
        Ok(())
    }

    fn say(&mut self, frame: &Frame) -> Result<()> {
        let (meeting, relay) = (self.meeting.as_ref(), self.relay);
        let stream = meeting.context("no control stream")?.stream;
        let mut bytes = frame.encode().into();
        // All that is said here is far below any window.
        self.transport.write(relay.context("no relay")?.1, stream, &mut bytes)?;
        Ok(())
    }
}
