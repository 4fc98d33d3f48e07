//! Real QUIC between two drivers: handshake, segmentation, ECN, MTU probes, flow control and timers all at once.

use super::{Heard, PATIENCE};
use crate::driver::{BindOptions, Clock, Driver, DriverError, Stopped, bind, event_channel};
use bytes::Bytes;
use remote_network_core::action::Action;
use remote_network_core::command::Command;
use remote_network_core::drive::Driven;
use remote_network_core::event::Event;
use remote_network_core::id::{CommandId, ConnId, Keypair, PublicKey, StreamId};
use remote_network_core::time::{Deadline, Instant, UnixTime};
use remote_network_core::transport::quic::{QuicConfig, QuicTransport};
use remote_network_core::transport::{Chunk, Outgoing, Transmit, Transport, TransportEvent, tls};
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};

/// A node that sends one body to a server, which answers with its length.
pub struct Talker {
    transport: QuicTransport,
    dial: Option<(PublicKey, SocketAddr)>,
    /// What is left to write, and where.
    body: Bytes,
    writing: Option<(ConnId, StreamId)>,
    read: Vec<u8>,
    read_total: u64,
    tell: mpsc::Sender<Vec<u8>>,
    stopping: bool,
}

impl Talker {
    fn write(&mut self) {
        let Some((conn, stream)) = self.writing else { return };
        while !self.body.is_empty() {
            if self.transport.write(conn, stream, &mut self.body).is_err() {
                return;
            }
        }
        self.transport.finish(conn, stream);
        self.writing = None;
    }

    fn read(&mut self, conn: ConnId, stream: StreamId) {
        loop {
            match self.transport.read(conn, stream, 64 << 10) {
                Ok(Chunk::Bytes(bytes)) => {
                    self.read_total += bytes.len() as u64;
                    self.read = bytes.to_vec();
                }
                Ok(Chunk::End) if self.dial.is_none() => {
                    self.body = Bytes::copy_from_slice(&self.read_total.to_be_bytes());
                    self.writing = Some((conn, stream));
                    return self.write();
                }
                Ok(Chunk::End) => {
                    let _ = self.tell.send(std::mem::take(&mut self.read));
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn settle(&mut self) {
        while let Some(event) = self.transport.poll() {
            match event {
                TransportEvent::Connected { conn, dialled: true, .. } => {
                    self.writing = self.transport.open(conn).map(|stream| (conn, stream));
                    self.write();
                }
                TransportEvent::Opened { conn, stream } | TransportEvent::Readable { conn, stream } => {
                    self.read(conn, stream);
                }
                TransportEvent::Writable { .. } => self.write(),
                TransportEvent::Connected { .. }
                | TransportEvent::Closed { .. }
                | TransportEvent::StreamsAvailable { .. }
                | TransportEvent::Datagram { .. }
                | TransportEvent::Silent { .. }
                | TransportEvent::Moved { .. } => {}
            }
        }
    }
}

impl Driven for Talker {
    fn handle(&mut self, now: Instant, _wall: UnixTime, event: Event) {
        match event {
            Event::Datagram(datagram) => self.transport.handle(now, datagram),
            Event::Datagrams(all) => all.into_iter().for_each(|d| self.transport.handle(now, d)),
            Event::LocalAddrs(_) => {
                if let Some((peer, addr)) = &self.dial {
                    self.transport.dial(now, peer, *addr).expect("there is room for one");
                }
            }
            Event::Command { command: Command::Shutdown, .. } => self.stopping = true,
            other => panic!("no test sends {other:?}"),
        }
        self.settle();
    }

    fn handle_timeout(&mut self, now: Instant, _wall: UnixTime) {
        self.transport.handle_timeout(now);
        self.settle();
    }

    fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.transport.poll_transmit(now, max_datagrams, buf).and_then(Outgoing::datagrams)
    }

    fn poll_action(&mut self) -> Option<Action> {
        std::mem::take(&mut self.stopping).then_some(Action::Stopped { fault: None })
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        self.transport.poll_timeout().map(|at| Deadline::new(at, "quic"))
    }
}

/// Eight MiB: several windows of a stream, so that credit must flow back.
const BODY_BYTES: usize = 8 << 20;

pub fn quic_carries_a_body_larger_than_its_windows(
    run: fn(Driver<Talker, Heard>) -> Result<Stopped, DriverError>,
) {
    let (tell, told) = mpsc::channel();
    let mut server_addr = None;
    let mut running = Vec::new();
    for seed in [1, 2] {
        let keypair = Keypair::from_seed(&[seed; 32]);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let crypto = tls::crypto(&keypair, provider).expect("ring speaks TLS 1.3");
        let socket = bind(([127, 0, 0, 1], 0).into(), BindOptions::default()).unwrap();
        let dial =
            server_addr.replace(socket.local_addr()).map(|to| (Keypair::from_seed(&[1; 32]).public(), to));
        let clock = Clock::start();
        let talker = Talker {
            transport: QuicTransport::new(QuicConfig::new(crypto, clock.base(), [seed; 32])),
            dial,
            body: Bytes::from(vec![7; BODY_BYTES]),
            writing: None,
            read: Vec::new(),
            read_total: 0,
            tell: tell.clone(),
            stopping: false,
        };
        let (events, inbox) = event_channel();
        let sink = Heard(mpsc::channel().0);
        let driver = Driver::new(talker, socket, sink, inbox, clock);
        running.push((events, std::thread::spawn(move || run(driver))));
    }
    let answer = told.recv_timeout(PATIENCE).expect("the transfer hangs");
    assert_eq!(answer, (BODY_BYTES as u64).to_be_bytes());
    for (events, thread) in running {
        events.send_blocking(Event::Command { id: CommandId(0), command: Command::Shutdown }).unwrap();
        assert_eq!(thread.join().unwrap().unwrap(), Stopped { fault: None });
    }
}
