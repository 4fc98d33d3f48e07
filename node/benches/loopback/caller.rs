//! A peer that does nothing but meet another one: connect, prove the key, exchange identities or not, hang up, again.
//!
//! The product's QUIC, driver and identity exchange without the rest of a node, because a node keeps its connections and
//! offers no way to hang up. The side that is called is a whole node.

use anyhow::Result;
use remote_network_core::action::{Action, ActionSink};
use remote_network_core::codec::FrameReader;
use remote_network_core::dht::record::{NodeType, Role};
use remote_network_core::drive::Driven;
use remote_network_core::event::Event;
use remote_network_core::id::{ConnId, DhtId, Keypair, PublicKey, StreamId};
use remote_network_core::identity::exchange::{Exchange, Identity, Input, Output, VERSIONS};
use remote_network_core::machine::{Cx, Machine as _};
use remote_network_core::rng::Rng;
use remote_network_core::time::{Deadline, Instant, UnixTime};
use remote_network_core::transport::quic::{QuicConfig, QuicTransport};
use remote_network_core::transport::{
    Chunk, CloseReason, Outgoing, Transmit, Transport, TransportEvent, close_code, tls,
};
use std::net::SocketAddr;
use std::sync::Arc;

struct Meeting {
    conn: ConnId,
    stream: StreamId,
    reader: FrameReader,
    exchange: Exchange,
}

/// The caller. It stops when it has met its peer often enough.
pub struct Caller {
    transport: QuicTransport,
    rng: Rng,
    own: Identity,
    peer: PublicKey,
    addr: SocketAddr,
    left: usize,
    identify: bool,
    meeting: Option<Meeting>,
    stopped: Option<Option<String>>,
}

impl Caller {
    pub fn new(
        seed: u8,
        base: std::time::Instant,
        peer: PublicKey,
        addr: SocketAddr,
        meetings: usize,
        identify: bool,
    ) -> Result<Self> {
        let keypair = Keypair::from_seed(&[seed; 32]);
        let crypto = tls::crypto(&keypair, Arc::new(rustls::crypto::ring::default_provider()))?;
        let own = Identity {
            key: keypair.public(),
            dht_id: DhtId([seed; 20]),
            node_type: NodeType::Private,
            role: Role::default(),
            is_relay: false,
            topics: Vec::new(),
            versions: VERSIONS.to_vec(),
        };
        Ok(Self {
            transport: QuicTransport::new(QuicConfig::new(crypto, base, [seed; 32])),
            rng: Rng::derive(&[seed; 32], "caller"),
            own,
            peer,
            addr,
            left: meetings,
            identify,
            meeting: None,
            stopped: None,
        })
    }

    fn fail(&mut self, why: impl Into<String>) {
        self.stopped.get_or_insert(Some(why.into()));
    }

    fn dial(&mut self, now: Instant) {
        if self.left == 0 {
            self.stopped.get_or_insert(None);
        } else if let Err(e) = self.transport.dial(now, &self.peer, self.addr) {
            self.fail(e.to_string());
        }
    }

    fn met(&mut self, now: Instant, conn: ConnId) {
        self.left -= 1;
        self.transport.close(now, conn, close_code::DONE, "");
        self.dial(now);
    }

    fn settle(&mut self, now: Instant, wall: UnixTime) {
        while let Some(event) = self.transport.poll() {
            match event {
                TransportEvent::Connected { conn, dialled: true, .. } if !self.identify => {
                    self.met(now, conn)
                }
                TransportEvent::Connected { conn, peer, place, dialled: true } => {
                    let Some(stream) = self.transport.open(conn) else {
                        return self.fail("the peer allows no stream");
                    };
                    let exchange = Exchange::new(self.own.clone(), peer, Some(self.peer), place.addr());
                    self.meeting = Some(Meeting { conn, stream, reader: FrameReader::default(), exchange });
                    self.exchange(now, wall, Input::Start);
                }
                TransportEvent::Readable { conn, stream } => self.read(now, wall, conn, stream),
                TransportEvent::Closed { reason, .. } => {
                    if reason != CloseReason::Local {
                        self.fail(reason.to_string());
                    }
                }
                TransportEvent::Connected { .. }
                | TransportEvent::Opened { .. }
                | TransportEvent::Writable { .. }
                | TransportEvent::StreamsAvailable { .. }
                | TransportEvent::Datagram { .. }
                | TransportEvent::Silent { .. }
                | TransportEvent::Moved { .. } => {}
            }
        }
    }

    fn read(&mut self, now: Instant, wall: UnixTime, conn: ConnId, stream: StreamId) {
        loop {
            let Some(meeting) = self.meeting.as_mut().filter(|m| (m.conn, m.stream) == (conn, stream)) else {
                return;
            };
            match meeting.reader.next_frame() {
                Ok(Some(frame)) => {
                    self.exchange(now, wall, Input::Frame(frame));
                    continue;
                }
                Ok(None) => {}
                Err(e) => return self.fail(e.to_string()),
            }
            match self.transport.read(conn, stream, 64 * 1024) {
                Ok(Chunk::Bytes(bytes)) => meeting.reader.push(&bytes),
                Ok(Chunk::End) | Err(_) => return,
            }
        }
    }

    fn exchange(&mut self, now: Instant, wall: UnixTime, input: Input) {
        let Some(meeting) = self.meeting.as_mut() else { return };
        let mut out = Vec::new();
        meeting.exchange.handle(&mut Cx::new(now, wall, &mut self.rng, &mut out), input);
        let (conn, stream) = (meeting.conn, meeting.stream);
        for output in out {
            match output {
                Output::Send(frame) => {
                    let mut bytes = frame.encode().into();
                    // An identity is far below any window.
                    if self.transport.write(conn, stream, &mut bytes).is_err() {
                        return self.fail("the control stream takes nothing");
                    }
                }
                Output::Identified(_) => self.met(now, conn),
                Output::Learnt(_) | Output::Other(_) => {}
                Output::Fault(fault) => self.fail(fault.to_string()),
            }
        }
    }
}

impl Driven for Caller {
    fn handle(&mut self, now: Instant, wall: UnixTime, event: Event) {
        match event {
            Event::Datagram(datagram) => self.transport.handle(now, datagram),
            Event::Datagrams(all) => all.into_iter().for_each(|d| self.transport.handle(now, d)),
            Event::LocalAddrs(_) => self.dial(now),
            _ => {}
        }
        self.settle(now, wall);
    }

    fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        self.transport.handle_timeout(now);
        self.settle(now, wall);
    }

    fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.transport.poll_transmit(now, max_datagrams, buf).and_then(Outgoing::datagrams)
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.stopped.take().map(|fault| Action::Stopped { fault })
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        self.transport.poll_timeout().map(|at| Deadline::new(at, "quic"))
    }
}

/// A caller asks for nothing but to stop.
pub struct Nothing;

impl ActionSink for Nothing {
    fn submit(&mut self, _: Action) {}
}
