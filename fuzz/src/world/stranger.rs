//! A peer that holds a key of its own and no scruples: it says what it likes, when it likes, on connections that prove who
//! it is. Whatever orders it is sent it keeps, to accept, seal or ignore them.

use super::host::REALM;
use crate::keys::keypair;
use arbitrary::Arbitrary;
use bytes::Bytes;
use remote_network_core::codec::{Dict, FRAME_BODY_MAX, Frame, FrameReader, Value, compact_addr};
use remote_network_core::event::Datagram;
use remote_network_core::id::{ConnId, Digest, Keypair, PublicKey, RunId, StreamId};
use remote_network_core::job::message::{JobState, Message, Refusal, Source};
use remote_network_core::job::order::Order;
use remote_network_core::job::receipt::{Commit, Receipt, Verdict, result_digest};
use remote_network_core::job::signed::Signed;
use remote_network_core::port::{EngineInput, EngineOutput, ExitClass, Port, Program, Usage};
use remote_network_core::service::{Service, catalogue};
use remote_network_core::ticket::Ticket;
use remote_network_core::time::{Duration, Instant, UnixTime};
use remote_network_core::transfer::message::{Fetch, PieceRanges};
use remote_network_core::transport::quic::{QuicConfig, QuicTransport};
use remote_network_core::transport::{Chunk, Outgoing, Transport, TransportEvent};
use remote_network_sim::crypto::null::Realm;
use std::net::SocketAddr;

/// Orders kept.
const ORDERS_MAX: usize = 8;

/// Where the stranger lives.
pub fn addr() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 200], 4433))
}

/// Who the stranger is.
pub fn key() -> Keypair {
    keypair(5)
}

/// What the stranger says on the newest control stream. Numbers choose among what there is, counted around.
#[derive(Arbitrary, Clone, PartialEq, Eq, Debug)]
pub enum Words {
    /// Who it is, truly, or with another's peer id.
    Identity { honest: bool },
    /// Whom it knows: these of the known keys.
    KnownPeers { keys: Vec<u8> },
    /// It offers some of the services.
    Offer { services: u8 },
    /// An order for a service of the peer's.
    Order { service: u8, fence: u8, input: bool, module: bool },
    /// It accepts an order it was sent.
    Accept { which: u8, incarnation: u8 },
    /// It refuses one.
    Reject { which: u8, why: u8, retry_s: u8 },
    /// It tells all its jobs.
    Inventory { incarnation: u8, state: u8, forget: bool },
    /// A receipt for an order, with some outputs.
    Seal { which: u8, class: u8, outputs: bool, seq: u8 },
    /// An answer to a receipt it never saw.
    Commit { which: u8, verdict: u8 },
    /// It cancels, releases or disowns the job of its last order, or confirms the cancel of one it was sent.
    About { what: u8, which: u8, own: bool },
    /// A frame of any kind and body.
    Frame { kind: u8, body: Vec<u8> },
    /// No frame at all.
    Bytes { bytes: Vec<u8> },
    /// A stream of its own: it wants an object.
    Fetch { object: u8, ticket: bool, list: bool, from_piece: u8 },
    /// A stream of its own with anything.
    Stream { bytes: Vec<u8>, finish: bool },
    /// It gives up the connection.
    Close,
}

/// The stranger.
pub struct Stranger {
    transport: QuicTransport,
    conns: Vec<ConnId>,
    control: Option<(ConnId, StreamId)>,
    reader: FrameReader,
    peer: PublicKey,
    orders: Vec<Signed<Order>>,
    own_job: Option<Order>,
}

impl Default for Stranger {
    fn default() -> Self {
        Self::new()
    }
}

impl Stranger {
    /// A stranger that knows nobody.
    pub fn new() -> Self {
        let crypto = Realm::new(REALM).crypto(&key().public(), [3; 32], [4; 32]);
        let mut config = QuicConfig::new(crypto, std::time::Instant::now(), [5; 32]);
        config.mtu_discovery = false;
        Self {
            transport: QuicTransport::new(config),
            conns: Vec::new(),
            control: None,
            reader: FrameReader::default(),
            peer: keypair(0).public(),
            orders: Vec::new(),
            own_job: None,
        }
    }

    /// When its transport wants to be woken.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.transport.poll_timeout().map(Instant::as_nanos)
    }

    /// Dials a node.
    pub fn dial(&mut self, now: Instant, peer: PublicKey, at: SocketAddr) {
        self.peer = peer;
        let _ = self.transport.dial(now, &peer, at);
        self.listen();
    }

    /// A datagram for it.
    pub fn handle(&mut self, now: Instant, datagram: Datagram) {
        self.transport.handle(now, datagram);
        self.listen();
    }

    /// Time passes.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.transport.handle_timeout(now);
        self.listen();
    }

    /// What it sends.
    pub fn take_datagrams(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        let (mut all, mut buf) = (Vec::new(), Vec::new());
        while let Some(transmit) =
            self.transport.poll_transmit(now, 8, &mut buf).and_then(Outgoing::datagrams)
        {
            let segment = transmit.segment_size.unwrap_or(transmit.size).max(1);
            all.extend(buf.chunks(segment).map(|bytes| (transmit.to, bytes.to_vec())));
            buf.clear();
        }
        all
    }

    fn listen(&mut self) {
        while let Some(event) = self.transport.poll() {
            match event {
                TransportEvent::Connected { conn, peer, .. } => {
                    self.conns.push(conn);
                    self.peer = peer;
                    self.reader = FrameReader::default();
                    self.control = None;
                }
                TransportEvent::Opened { conn, stream } if self.control.is_none() => {
                    self.control = Some((conn, stream));
                    self.read();
                }
                TransportEvent::Readable { .. } => self.read(),
                TransportEvent::Closed { conn, .. } => self.conns.retain(|c| *c != conn),
                TransportEvent::Opened { .. }
                | TransportEvent::Writable { .. }
                | TransportEvent::StreamsAvailable { .. }
                | TransportEvent::Datagram { .. }
                | TransportEvent::Silent { .. }
                | TransportEvent::Moved { .. } => {}
            }
        }
    }

    fn read(&mut self) {
        let Some((conn, stream)) = self.control else { return };
        while let Ok(Chunk::Bytes(bytes)) = self.transport.read(conn, stream, 1 << 16) {
            self.reader.push(&bytes);
        }
        while let Ok(Some(frame)) = self.reader.next_frame() {
            if let Ok(Message::Dispatch { order, .. }) = Message::from_frame(&frame)
                && self.orders.len() < ORDERS_MAX
            {
                self.orders.push(*order);
            }
        }
    }

    /// Says something. `services` are those of the world, `objects` what there is.
    pub fn say(&mut self, now: Instant, words: &Words, services: &[Service], objects: &[Digest]) {
        match words {
            Words::Close => {
                if let Some(conn) = self.conns.pop() {
                    self.transport.close(now, conn, 0, "enough");
                }
            }
            Words::Bytes { bytes } => self.write_control(bytes),
            Words::Stream { bytes, finish } => self.write_stream(bytes, *finish),
            Words::Fetch { object, ticket, list, from_piece } => {
                let Some(digest) = pick(objects, *object) else { return };
                let far = UnixTime::from_millis(u64::MAX);
                let ticket = ticket.then(|| Ticket::sign(&key(), digest, key().public(), far));
                let want = PieceRanges::of(u32::from(*from_piece)..u32::from(*from_piece) + 2);
                let fetch = Fetch { digest, under: None, ticket, list: *list, want };
                self.write_stream(&fetch.to_frame().encode(), true);
            }
            Words::Frame { kind, body } => {
                let body = body.get(..FRAME_BODY_MAX).unwrap_or(body).to_vec();
                self.write_control(&Frame { kind: *kind, body }.encode());
            }
            other => {
                if let Some(frame) = self.frame(other, services) {
                    self.write_control(&frame.encode());
                }
            }
        }
        self.listen();
    }

    fn write_control(&mut self, bytes: &[u8]) {
        if self.control.is_none()
            && let Some(conn) = self.conns.last().copied()
        {
            self.control = self.transport.open(conn).map(|stream| (conn, stream));
        }
        if let Some((conn, stream)) = self.control {
            let _ = self.transport.write(conn, stream, &mut Bytes::copy_from_slice(bytes));
        }
    }

    fn write_stream(&mut self, bytes: &[u8], finish: bool) {
        let Some(conn) = self.conns.last().copied() else { return };
        let Some(stream) = self.transport.open(conn) else { return };
        let _ = self.transport.write(conn, stream, &mut Bytes::copy_from_slice(bytes));
        if finish {
            self.transport.finish(conn, stream);
        }
    }

    fn frame(&mut self, words: &Words, services: &[Service]) -> Option<Frame> {
        let order = |which: &u8| self.orders.get(usize::from(*which) % self.orders.len().max(1));
        Some(match words {
            Words::Identity { honest } => identity(*honest),
            Words::KnownPeers { keys } => known_peers(keys),
            Words::Offer { services: mask } => {
                let offered = |(i, _): &(usize, &Service)| mask & (1 << (i % 8)) != 0;
                catalogue::encode(services.iter().enumerate().filter(offered).map(|(_, s)| s))
            }
            Words::Order { service, fence, input, module } => {
                let service = pick(&services.iter().collect::<Vec<_>>(), *service)?;
                let order = self.order(service, *fence, *input, *module);
                let sources = order.inputs.iter().map(|_| vec![source()]).collect();
                self.own_job = Some(order.clone());
                Message::Dispatch { order: Box::new(Signed::sign(order, &key())), sources, carried: None }.to_frame()
            }
            Words::Accept { which, incarnation } => {
                Message::Accepted { job: order(which)?.job(), incarnation: u64::from(*incarnation) }
                    .to_frame()
            }
            Words::Reject { which, why, retry_s } => {
                let all = [
                    Refusal::Busy,
                    Refusal::NotAllowed,
                    Refusal::UnknownService,
                    Refusal::BadOrder,
                    Refusal::Dead,
                ];
                Message::Rejected {
                    job: order(which)?.job(),
                    refusal: pick(&all, *why)?,
                    words: "no".to_owned(),
                    retry_after: Duration::from_secs(u64::from(*retry_s)),
                }
                .to_frame()
            }
            Words::Inventory { incarnation, state, forget } => {
                let all = [JobState::Admitted, JobState::Running, JobState::Sealed, JobState::Retained];
                let state = pick(&all, *state)?;
                let jobs = self.orders.iter().filter(|_| !forget).map(|o| (o.job(), state)).collect();
                Message::Inventory { incarnation: u64::from(*incarnation), jobs }.to_frame()
            }
            Words::Seal { which, class, outputs, seq } => {
                let receipt = receipt(order(which)?, *class, *outputs, *seq)?;
                Message::SealedOffer { receipt: Box::new(Signed::sign(receipt, &key())), carried: None, salt: None }.to_frame()
            }
            Words::Commit { which, verdict } => {
                let all = [Verdict::Won, Verdict::Superseded, Verdict::Failed, Verdict::Rejected];
                let own = self.own_job.as_ref()?;
                let commit = Commit {
                    requester: key().public(),
                    job: own.job(),
                    order: Signed::sign(own.clone(), &key()).digest(),
                    receipt: Digest::of(&[*which]),
                    verdict: pick(&all, *verdict)?,
                    at: UnixTime::from_secs(1),
                };
                Message::ResultAck { commit: Box::new(Signed::sign(commit, &key())) }.to_frame()
            }
            Words::About { what, which, own } => {
                let job = if *own { self.own_job.as_ref()?.job() } else { order(which)?.job() };
                match what % 5 {
                    0 => Message::Cancel { job },
                    1 => Message::Release { job },
                    2 => Message::UnknownRun { job },
                    3 => Message::CancelAck { job },
                    _ => Message::LeaseAck,
                }
                .to_frame()
            }
            Words::Frame { .. }
            | Words::Bytes { .. }
            | Words::Fetch { .. }
            | Words::Stream { .. }
            | Words::Close => return None,
        })
    }

    fn order(&self, service: &Service, fence: u8, input: bool, module: bool) -> Order {
        let stdin = EngineInput { port: Port::Stdin, digest: Digest::of(b"in"), len: 2 };
        Order {
            requester: key().public(),
            executor: self.peer,
            run: RunId([7; 16]),
            spec: Digest::of(b"spec"),
            task: "stranger".to_owned(),
            fence: u32::from(fence % 4) + 1,
            service: service.id(),
            program: if module { service.program.clone() } else { Program::Wasm(Digest::of(b"another")) },
            paths: service.paths(),
            args: Vec::new(),
            env: Vec::new(),
            inputs: if input { vec![stdin] } else { Vec::new() },
            outputs: vec![Port::Stdout],
            limits: service.limits,
            light: false,
            pledge: false,
            nonce: [fence; 16],
            issued: UnixTime::from_secs(u64::from(fence)),
        }
    }
}

fn pick<T: Clone>(of: &[T], which: u8) -> Option<T> {
    of.get(usize::from(which).checked_rem(of.len())?).cloned()
}

fn source() -> Source {
    let far = UnixTime::from_millis(u64::MAX);
    let ticket = Ticket::sign(&key(), Digest::of(b"in"), keypair(0).public(), far);
    Source { holder: key().public(), ticket: ticket.encode().into() }
}

fn identity(honest: bool) -> Frame {
    let own = key().public();
    let id = if honest { own.peer_id() } else { keypair(0).public().peer_id() };
    let body = Dict::new()
        .with("a", &compact_addr(addr())[..])
        .with("d", &[6; 20][..])
        .with("i", &id.0[..])
        .with("k", &own)
        .with("n", 1u64)
        .with("r", 0u64)
        .with("s", 1u64)
        .with("t", vec![Value::from(&[1; 20][..])])
        .with("v", vec![Value::from(1u64)]);
    Frame::new(1, &body)
}

fn known_peers(keys: &[u8]) -> Frame {
    let entry = |n: &u8| {
        let hint = super::addr(usize::from(*n % 8));
        Dict::new()
            .with("a", &compact_addr(hint)[..])
            .with("k", &keypair(*n).public())
            .with("r", 0u64)
            .with("s", 1u64)
            .with("t", &[1; 20][..])
            .with("w", 1_767_225_600u64 + u64::from(*n))
            .into()
    };
    Frame::new(2, &Dict::new().with("p", keys.iter().take(50).map(entry).collect::<Vec<Value>>()))
}

fn receipt(order: &Signed<Order>, class: u8, outputs: bool, seq: u8) -> Option<Receipt> {
    let all =
        [ExitClass::Success, ExitClass::User, ExitClass::Resource, ExitClass::Permanent, ExitClass::Infra];
    let class = pick(&all, class)?;
    let output = |port: &Port| EngineOutput {
        port: port.clone(),
        digest: Digest::of(b"what the stranger says"),
        len: 22,
        truncated: false,
    };
    let outputs: Vec<EngineOutput> = order.outputs.iter().filter(|_| outputs).map(output).collect();
    let code = i32::from(class != ExitClass::Success);
    Some(Receipt {
        executor: key().public(),
        incarnation: 1,
        seq: u64::from(seq),
        previous: Digest([0; 32]),
        order: order.digest(),
        job: order.job(),
        engine: "stranger".to_owned(),
        program: order.program.clone(),
        class,
        code,
        detail: String::new(),
        result: result_digest(class, code, &outputs),
        outputs,
        usage: Usage::default(),
        started: UnixTime::from_secs(1),
        ended: UnixTime::from_secs(2),
    })
}
