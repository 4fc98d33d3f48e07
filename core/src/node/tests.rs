//! The node as its driver sees it, and as a stranger with a real TLS key but lies to tell sees it.

use super::*;
use crate::codec::{Dict, Frame, Value};
use crate::command::{Command, PeerView, ServiceCommand, StatusView};
use crate::dht::record::{NodeType, Role};
use crate::event::Datagram;
use crate::id::{Keypair, Lsn, PeerName, StreamId};
use crate::identity::exchange::{Identity, Input as ExchangeInput, Output as ExchangeOutput, VERSIONS};
use crate::identity::seek::{self, Seek, Seen};
use crate::laws::{Rig, WALL_AT_START};
use crate::limits::{GUEST_STAY, IDLE_CHECK_EVERY, IDLE_CLOSE_AFTER, LINKS_MAX, TRANSFER_HEAD_TIMEOUT};
use crate::path::dialback::{self, DialBack, Nonce};
use crate::place::{SocketEvent, SocketId};
use crate::port::{BlobAnswer, BlobFailed, BlobInfo, BlobRequest};
use crate::service::policy::{Effect, Policy, Rule, Who};
use crate::service::search::Query;
use crate::store::{StoreOp, StoredRecord};
use crate::transport::quic::{QuicConfig, QuicTransport};
use crate::transport::{CloseReason, TransportEvent, tls};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

const NODE: u8 = 1;
const STRANGER: u8 = 2;
const VICTIM: u8 = 3;

fn key(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 4433))
}

fn transport(n: u8) -> QuicTransport {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let crypto = tls::crypto(&key(n), provider).expect("ring speaks TLS 1.3");
    // Only differences of the base matter; any moment will do.
    let base = {
        #[allow(clippy::disallowed_methods)]
        std::time::Instant::now()
    };
    QuicTransport::new(QuicConfig::new(crypto, base, [n; 32]))
}

/// A node with a journal that is always durable at once, and a bare transport that can say anything to it.
struct World {
    now: Instant,
    node: Node<QuicTransport>,
    stranger: QuicTransport,
    heard: Vec<TransportEvent>,
    replies: Vec<(CommandId, Reply)>,
    stopped: bool,
    commands: u64,
    journal: Vec<StoredRecord>,
    /// Whether there is a store of objects, and what is in it.
    stores: bool,
    objects: BTreeSet<crate::id::Digest>,
    /// Datagrams of dial-backs: by which socket, and what.
    dialled_back: Vec<(SocketId, Bytes)>,
}

impl World {
    fn new() -> Self {
        Self::of(NodeConfig::new(key(NODE)))
    }

    fn of(node_config: NodeConfig) -> Self {
        let journal = Journal::default();
        let node =
            Node::restore(node_config, transport(NODE), [9; 32], Instant::ZERO, WALL_AT_START, journal);
        let mut world = Self {
            now: Instant::ZERO,
            node: node.expect("an empty journal"),
            stranger: transport(STRANGER),
            heard: Vec::new(),
            replies: Vec::new(),
            stopped: false,
            commands: 0,
            journal: Vec::new(),
            stores: false,
            objects: BTreeSet::new(),
            dialled_back: Vec::new(),
        };
        world.tell(Event::LocalAddrs(vec![addr(NODE)]));
        world
    }

    fn wall(&self) -> UnixTime {
        WALL_AT_START.plus(self.now.since(Instant::ZERO))
    }

    fn tell(&mut self, event: Event) {
        let (now, wall) = (self.now, self.wall());
        self.node.handle(now, wall, event);
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.node.poll_action() {
            assert!(!self.stopped, "nothing follows the end");
            match action {
                Action::Persist { lsn, ops } => {
                    ops.into_iter().for_each(|op| self.write(lsn, op));
                    self.tell(Event::Persisted { up_to: lsn });
                }
                Action::Blob { op, request } if self.stores => {
                    let result = match request {
                        BlobRequest::Open { digest } if self.objects.contains(&digest) => {
                            Ok(BlobAnswer::Info(BlobInfo { len: 1, pieces: Bytes::new() }))
                        }
                        BlobRequest::Remove { digest } => {
                            self.objects.remove(&digest);
                            Ok(BlobAnswer::Removed)
                        }
                        BlobRequest::Create { .. } => Ok(BlobAnswer::Partial { have: vec![0] }),
                        _ => Err(BlobFailed::NotFound),
                    };
                    self.tell(Event::Blob { op, result });
                }
                Action::Reply { id, reply } => self.replies.push((id, reply)),
                Action::Stopped { fault } => {
                    assert_eq!(fault, None);
                    self.stopped = true;
                }
                Action::Dht { .. }
                | Action::Blob { .. }
                | Action::Engine { .. }
                | Action::Sweep { .. }
                | Action::Socket(_)
                | Action::Tunnel(_)
                | Action::Account(_)
                | Action::Notify(_) => {}
            }
        }
    }

    fn write(&mut self, lsn: Lsn, op: StoreOp) {
        let (StoreOp::Replace { subject, .. } | StoreOp::Forget { subject }) = &op else {
            let StoreOp::Append { subject, record } = op else { unreachable!() };
            return self.journal.push(StoredRecord { lsn, subject, record });
        };
        self.journal.retain(|r| r.subject != *subject);
        if let StoreOp::Replace { subject, record } = op {
            self.journal.push(StoredRecord { lsn, subject, record });
        }
    }

    /// The node's process ends without a word, and another takes up its journal.
    fn restart(&mut self) {
        let last = self.journal.iter().map(|r| r.lsn).max().unwrap_or_default();
        let journal = Journal { last, records: self.journal.clone(), ..Journal::default() };
        let config = NodeConfig::new(key(NODE));
        let wall = self.wall();
        let node = Node::restore(config, transport(NODE), [10; 32], self.now, wall, journal);
        self.node = node.expect("its own journal");
        self.tell(Event::LocalAddrs(vec![addr(NODE)]));
    }

    /// Lets `span` pass. A datagram takes no time; both sides are woken when they want to be.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.exchange_datagrams();
            let wakes = [self.node.poll_timeout().map(|d| d.at), self.stranger.poll_timeout()];
            match wakes.into_iter().flatten().min().filter(|at| *at <= end) {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
            let (now, wall) = (self.now, self.wall());
            self.node.handle_timeout(now, wall);
            self.act();
            self.stranger.handle_timeout(now);
        }
        self.now = end;
    }

    fn exchange_datagrams(&mut self) {
        let mut buf = Vec::new();
        loop {
            let mut quiet = true;
            while let Some(t) = self.node.poll_transmit(self.now, 1, &mut buf) {
                assert_eq!(t.to, addr(STRANGER));
                let payload = BytesMut::from(&buf[..]);
                buf.clear();
                quiet = false;
                if payload[0] == dialback::FIRST_BYTE {
                    self.dialled_back.push((t.socket, payload.freeze()));
                    continue;
                }
                self.stranger.handle(
                    self.now,
                    Datagram { socket: SocketId::MAIN, from: addr(NODE), to: None, ecn: None, payload },
                );
            }
            while let Some(event) = self.stranger.poll() {
                self.heard.push(event);
            }
            while self.stranger.poll_transmit(self.now, 1, &mut buf).is_some() {
                let payload = BytesMut::from(&buf[..]);
                buf.clear();
                let datagram =
                    Datagram { socket: SocketId::MAIN, from: addr(STRANGER), to: None, ecn: None, payload };
                self.tell(Event::Datagram(datagram));
                quiet = false;
            }
            if quiet {
                return;
            }
        }
    }

    fn ask(&mut self, command: Command) -> Reply {
        self.commands += 1;
        let id = CommandId(self.commands);
        self.tell(Event::Command { id, command });
        self.run(Duration::from_millis(100));
        let at = self.replies.iter().position(|(asked, _)| *asked == id).expect("an answer");
        self.replies.remove(at).1
    }

    fn status(&mut self) -> StatusView {
        match self.ask(Command::Status) {
            Reply::Status(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    fn peers(&mut self) -> Vec<PeerView> {
        match self.ask(Command::Peers) {
            Reply::Peers(views) => views,
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, reason: &str) -> u64 {
        self.status().refused.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
    }

    /// The stranger connects with its own key.
    fn connect(&mut self) -> ConnId {
        let conn = self.stranger.dial(self.now, &key(NODE).public(), addr(NODE)).expect("room");
        self.run(Duration::from_millis(500));
        conn
    }

    /// The stranger says something on a new stream: the first one is the control stream.
    fn say(&mut self, conn: ConnId, frames: &[Frame]) -> StreamId {
        let stream = self.stranger.open(conn).expect("a stream");
        for frame in frames {
            let mut bytes = Bytes::from(frame.encode());
            self.stranger.write(conn, stream, &mut bytes).expect("room");
            assert!(bytes.is_empty());
        }
        self.run(Duration::from_millis(500));
        stream
    }

    fn closed_with(&self) -> Option<CloseReason> {
        self.heard.iter().find_map(|e| match e {
            TransportEvent::Closed { reason, .. } => Some(reason.clone()),
            TransportEvent::Connected { .. }
            | TransportEvent::Opened { .. }
            | TransportEvent::Readable { .. }
            | TransportEvent::Writable { .. }
            | TransportEvent::StreamsAvailable { .. }
            | TransportEvent::Datagram { .. }
            | TransportEvent::Silent { .. }
            | TransportEvent::Moved { .. } => None,
        })
    }
}

/// What a node with key `n` says of itself, in its wire form.
fn identity_of(n: u8) -> Frame {
    identity_in(n, &[])
}

/// The same, in some topics.
fn identity_in(n: u8, topics: &[DhtId]) -> Frame {
    let identity = Identity {
        key: key(n).public(),
        dht_id: DhtId([n; 20]),
        node_type: NodeType::Private,
        role: Role::default(),
        is_relay: false,
        topics: topics.to_vec(),
        versions: VERSIONS.to_vec(),
    };
    let mut rig = Rig::new(Exchange::new(identity, key(NODE).public(), None, addr(NODE)), [0; 32]);
    match rig.tell(ExchangeInput::Start).remove(0) {
        ExchangeOutput::Send(frame) => frame,
        other => panic!("{other:?}"),
    }
}

/// Nobody is known: what follows the identity.
fn known_peers() -> Frame {
    Frame::new(0x02, &Dict::new().with("p", Vec::<crate::codec::Value>::new()))
}

/// An empty catalogue: the kind of message that follows the identity exchange.
fn catalogue() -> Frame {
    Frame::new(catalogue::KIND, &Dict::new().with("s", Vec::<crate::codec::Value>::new()))
}

#[test]
fn a_stranger_that_says_who_it_is_becomes_a_peer() {
    let mut world = World::new();
    let conn = world.connect();
    assert_eq!(world.status().connected, 0, "TLS alone makes no peer");
    world.say(conn, &[identity_of(STRANGER)]);
    assert_eq!(world.closed_with(), None);
    assert_eq!(world.status().connected, 1);
    assert_eq!(world.peers()[0].key, key(STRANGER).public());
}

#[test]
fn a_guest_of_a_full_node_is_heard_and_sent_away_unless_it_uses_the_connection() {
    let full = || World::of(NodeConfig { max_peers: 0, min_peers: 0, ..NodeConfig::new(key(NODE)) });
    let mut idle = full();
    let conn = idle.connect();
    idle.say(conn, &[identity_of(STRANGER), catalogue()]);
    assert_eq!((idle.status().connected, idle.closed_with()), (1, None), "a guest is a peer for a while");
    idle.run(GUEST_STAY);
    let Some(CloseReason::Peer { code, .. }) = idle.closed_with() else { panic!("not closed") };
    assert_eq!(code, u64::from(close_code::FULL));
    assert_eq!(idle.refused("peers-full"), 1);

    let mut busy = full();
    let conn = busy.connect();
    busy.say(conn, &[identity_of(STRANGER), known_peers()]);
    let head = Frame::new(0x40, &Dict::new());
    busy.say(conn, &[head]);
    busy.run(GUEST_STAY);
    assert_eq!(busy.closed_with(), None, "a transfer stream was opened");
    busy.run(Duration::from_secs(90));
    let Some(CloseReason::Peer { code, .. }) = busy.closed_with() else { panic!("not closed") };
    assert_eq!(code, u64::from(close_code::FULL), "nothing is asked for on it any more");
}

#[test]
fn an_identity_that_is_not_the_tls_key_ends_the_connection_and_names_nobody() {
    let mut world = World::new();
    let conn = world.connect();
    world.say(conn, &[identity_of(VICTIM)]);
    let Some(CloseReason::Peer { code, .. }) = world.closed_with() else {
        panic!("not closed: {:?}", world.heard);
    };
    assert_eq!(code, u64::from(close_code::IDENTITY));
    assert_eq!(world.refused("identity-claimed-key"), 1);
    assert_eq!(world.status().connected, 0);
    assert!(world.peers().iter().all(|p| p.key != key(VICTIM).public()));
}

#[test]
fn nothing_is_heard_before_the_identity() {
    let mut world = World::new();
    let conn = world.connect();
    world.say(conn, &[catalogue(), identity_of(STRANGER)]);
    assert!(world.closed_with().is_some());
    assert_eq!(world.refused("identity-missing"), 1);
    assert_eq!(world.status().connected, 0);
}

#[test]
fn silence_after_the_handshake_is_not_waited_for() {
    let mut world = World::new();
    world.connect();
    world.run(Duration::from_secs(6));
    assert!(world.closed_with().is_some());
    assert_eq!(world.refused("identity-timeout"), 1);
}

#[test]
fn a_dial_that_finds_another_peer_is_counted_and_told() {
    let mut world = World::new();
    let wanted = PeerName::Key(key(VICTIM).public());
    world.commands += 1;
    let id = CommandId(world.commands);
    world.tell(Event::Command { id, command: Command::Connect { peer: wanted, addr: Some(addr(STRANGER)) } });
    world.run(Duration::from_secs(90));
    let (_, reply) = world.replies.iter().find(|(asked, _)| *asked == id).expect("an answer");
    let Reply::Error(CommandError::Unreachable { peer, why }) = reply else { panic!("{reply:?}") };
    assert_eq!(*peer, key(VICTIM).public());
    assert!(why.contains("another peer"), "{why}");
    assert!(world.refused("dial-found-another-peer") >= 1);
    assert_eq!(world.status().connected, 0);
}

#[test]
fn a_shutdown_is_answered_and_then_the_node_has_stopped() {
    let mut world = World::new();
    let conn = world.connect();
    world.say(conn, &[identity_of(STRANGER)]);
    assert_eq!(world.ask(Command::Shutdown), Reply::Done);
    assert!(world.stopped);
}

#[test]
fn a_stream_that_asks_for_nothing_is_reset_and_keeps_nobody_from_being_idle() {
    let mut world = World::new();
    let conn = world.connect();
    world.say(conn, &[identity_of(STRANGER), known_peers()]);
    let stream = world.stranger.open(conn).expect("a stream");
    world.stranger.write(conn, stream, &mut Bytes::from_static(&[0, 0])).expect("room");
    world.run(TRANSFER_HEAD_TIMEOUT - Duration::from_millis(1));
    assert_eq!(world.refused("transfer-head-late"), 0);
    world.run(Duration::from_millis(1));
    assert_eq!(world.refused("transfer-head-late"), 1);
    assert_eq!(world.stranger.read(conn, stream, 1), Err(crate::transport::ReadError::Gone));
    assert_eq!(world.closed_with(), None, "the connection is none the worse");
    world.run(IDLE_CLOSE_AFTER + IDLE_CHECK_EVERY);
    let Some(CloseReason::Peer { code, .. }) = world.closed_with() else { panic!("{:?}", world.heard) };
    assert_eq!(code, u64::from(close_code::IDLE));
}

#[test]
fn frames_of_a_newer_version_are_passed_over_and_counted() {
    let mut world = World::new();
    let conn = world.connect();
    let newer = |kind| Frame::new(kind, &Dict::new().with("new", 1u64));
    world.say(conn, &[identity_of(STRANGER), newer(0x1b), newer(0x1f), newer(0x20), newer(0xff)]);
    assert_eq!(world.closed_with(), None);
    assert_eq!(world.refused("message-unknown"), 4);
    assert_eq!(world.status().connected, 1);
}

#[test]
fn a_public_node_dials_back_from_its_own_port_or_from_another_and_a_private_one_does_not() {
    let ask = |n, wait, elsewhere| {
        let (nonce, wait) = (Nonce([n; 8]), Duration::from_secs(wait));
        DialBack { nonce, port: addr(STRANGER).port(), wait, elsewhere }.to_frame()
    };
    let sent = |world: &World| world.dialled_back.clone();
    let datagram = |n| Bytes::copy_from_slice(&dialback::datagram(Nonce([n; 8])));
    let mut world = World::of(NodeConfig { public: true, ..NodeConfig::new(key(NODE)) });
    let conn = world.connect();
    world.say(conn, &[identity_of(STRANGER), ask(1, 0, false), ask(2, 5, false), ask(3, 0, true)]);
    assert_eq!(sent(&world), [(SocketId::MAIN, datagram(1))]);
    world.tell(Event::Socket(SocketEvent::Opened(dialback::FURTHER, addr(NODE))));
    world.run(Duration::ZERO);
    assert_eq!(sent(&world).split_off(1), [(dialback::FURTHER, datagram(3))]);
    world.run(Duration::from_secs(5));
    assert_eq!(sent(&world).split_off(2), [(SocketId::MAIN, datagram(2))]);

    let mut world = World::new();
    let conn = world.connect();
    world.say(conn, &[identity_of(STRANGER), ask(1, 0, false)]);
    assert_eq!((world.refused("dialback-not-here"), sent(&world)), (1, vec![]));
    assert_eq!(world.closed_with(), None);
}

/// Peers that a stranger claims to have seen just now, of one topic.
fn told(topic: DhtId, wall: UnixTime, peers: &[(u8, SocketAddr)]) -> Frame {
    let entry = |(n, addr): &(u8, SocketAddr)| {
        let addr = crate::codec::compact_addr(*addr);
        let d = Dict::new().with("a", &addr[..]).with("k", &key(*n).public()).with("r", 0u64);
        d.with("s", Role::default().number()).with("t", &topic.0[..]).with("w", wall.as_secs()).into()
    };
    let list: Vec<crate::codec::Value> = peers.iter().map(entry).collect();
    Frame::new(0x02, &Dict::new().with("p", list))
}

#[test]
fn a_peer_that_seeks_another_is_told_where_it_is_sixty_times_a_minute() {
    let topic = DhtId([5; 20]);
    let mut world = World::of(NodeConfig { topics: vec![topic], ..NodeConfig::new(key(NODE)) });
    let conn = world.connect();
    // Its own address again: the node may dial there, and finds another than it was told of.
    let known = told(topic, world.wall(), &[(VICTIM, addr(STRANGER))]);
    let stream = world.say(conn, &[identity_in(STRANGER, &[topic]), known]);
    let heard = |world: &mut World| {
        let mut reader = crate::codec::FrameReader::default();
        while let Ok(crate::transport::Chunk::Bytes(b)) = world.stranger.read(conn, stream, 1 << 16) {
            reader.push(&b);
        }
        let mut seen = Vec::new();
        while let Some(frame) = reader.next_frame().expect("whole frames") {
            seen.extend(
                (frame.kind == seek::KIND_SEEN).then(|| Seen::from_frame(&frame).expect("well-formed")),
            );
        }
        seen
    };
    let seek = |world: &mut World, n: u8, times: usize| {
        let frame = Seek { key: key(n).public() }.to_frame().encode();
        let mut bytes = Bytes::from(frame.repeat(times));
        world.stranger.write(conn, stream, &mut bytes).expect("room");
        world.run(Duration::from_millis(500));
        heard(world)
    };
    let there = Seen { key: key(VICTIM).public(), addr: addr(STRANGER) };
    assert_eq!(seek(&mut world, VICTIM, 1), [there]);
    assert_eq!(seek(&mut world, 77, 1), [], "who is not known is not answered for");
    assert_eq!(seek(&mut world, VICTIM, 100), [there; 58]);
    assert_eq!(world.refused("seek-flood"), 42);
    assert_eq!(world.closed_with(), None, "a flood is dropped, no more");
    let unasked = Seen { key: key(VICTIM).public(), addr: addr(STRANGER) }.to_frame();
    let mut bytes = Bytes::from(unasked.encode());
    world.stranger.write(conn, stream, &mut bytes).expect("room");
    world.run(Duration::from_millis(500));
    assert_eq!(world.refused("seen-unasked"), 1);
    let broken = Frame { kind: seek::KIND_SEEK, body: b"de".to_vec() };
    let mut bytes = Bytes::from(broken.encode());
    world.stranger.write(conn, stream, &mut bytes).expect("room");
    world.run(Duration::from_millis(500));
    let Some(CloseReason::Peer { code, .. }) = world.closed_with() else { panic!("not closed") };
    assert_eq!(code, u64::from(close_code::PROTOCOL));
}

#[test]
fn a_full_node_says_so_to_newcomers_and_lets_peers_it_has_come_back() {
    let mut world = World::new();
    let last = u8::try_from(LINKS_MAX).expect("few enough for the test") + STRANGER;
    for n in STRANGER..=last {
        world.stranger = transport(n);
        world.heard.clear();
        world.stranger.dial(world.now, &key(NODE).public(), addr(NODE)).expect("room");
        world.run(Duration::ZERO);
        assert_eq!(world.closed_with().is_some(), n == last, "peer {n}");
    }
    let Some(CloseReason::Peer { code, .. }) = world.closed_with() else { panic!("{:?}", world.heard) };
    assert_eq!(code, u64::from(close_code::FULL));
    world.stranger = transport(STRANGER);
    world.heard.clear();
    world.stranger.dial(world.now, &key(NODE).public(), addr(NODE)).expect("room");
    world.run(Duration::ZERO);
    assert_eq!(world.closed_with(), None);
}

#[test]
fn blocking_a_peer_ends_its_connection_and_refuses_it_until_it_is_taken_back() {
    let mut world = World::new();
    let stranger = key(STRANGER).public();
    let conn = world.connect();
    world.say(conn, &[identity_of(STRANGER)]);
    assert_eq!(world.ask(Command::Block { key: stranger, blocked: true }), Reply::Done);
    let blocked = |world: &World| match world.closed_with() {
        Some(CloseReason::Peer { code, .. }) => code == u64::from(close_code::BLOCKED),
        _ => false,
    };
    assert!(blocked(&world), "{:?}", world.heard);
    assert_eq!(world.status().connected, 0);
    // After a restart as well: the journal has it.
    world.restart();
    world.heard.clear();
    world.connect();
    assert!(blocked(&world), "right after TLS");
    assert_eq!(world.refused("connection-refused"), 1);
    let Reply::Relay(view) = world.ask(Command::Relay) else { panic!("no view") };
    assert_eq!(view.blocked, [stranger], "the operator sees it");
    // Nor is it dialled, for whatever reason.
    let name = PeerName::Key(stranger);
    let reply = world.ask(Command::Connect { peer: name, addr: Some(addr(STRANGER)) });
    let Reply::Error(CommandError::Unreachable { why, .. }) = reply else { panic!("{reply:?}") };
    assert!(why.contains("blocked"), "{why}");
    let fetch = Command::Fetch {
        digest: crate::id::Digest::of(b"x"),
        len: 1,
        from: stranger,
        ticket: crate::ticket::Ticket::sign(
            &key(STRANGER),
            crate::id::Digest::of(b"x"),
            key(NODE).public(),
            world.wall().plus(Duration::from_secs(600)),
        )
        .encode()
        .into(),
    };
    world.stores = true;
    world.commands += 1;
    let id = CommandId(world.commands);
    world.tell(Event::Command { id, command: fetch });
    world.run(Duration::from_secs(60));
    let (_, reply) = world.replies.iter().find(|(asked, _)| *asked == id).expect("an answer");
    let Reply::Error(CommandError::Fetch { why, .. }) = reply else { panic!("{reply:?}") };
    assert!(why.contains("blocked"), "{why}");
    assert_eq!(world.ask(Command::Block { key: stranger, blocked: false }), Reply::Done);
    world.heard.clear();
    let conn = world.connect();
    world.say(conn, &[identity_of(STRANGER)]);
    assert_eq!(world.closed_with(), None);
    assert_eq!(world.status().connected, 1);
}

#[test]
fn what_the_user_keeps_is_removed_when_the_user_lets_go_and_nothing_else_needs_it() {
    let mut world = World::new();
    world.stores = true;
    let digest = crate::id::Digest::of(b"here");
    let keep = |kept| Command::Keep { digest, kept };
    assert_eq!(world.ask(keep(true)), Reply::Error(CommandError::UnknownObject(digest)));
    assert!(!world.node.server.is_granted(&digest, &key(NODE).public()), "what is not there is not kept");
    world.objects.insert(digest);
    assert_eq!(world.ask(keep(true)), Reply::Done);
    // A job that fetched the same object ends.
    world.node.remove_object(digest);
    world.tell(Event::Persisted { up_to: Lsn(0) });
    assert!(world.objects.contains(&digest));
    world.restart();
    world.node.remove_object(digest);
    world.tell(Event::Persisted { up_to: Lsn(0) });
    assert!(world.objects.contains(&digest), "the journal has it");
    assert_eq!(world.ask(keep(false)), Reply::Done);
    assert!(!world.objects.contains(&digest));
    assert_eq!(world.ask(keep(true)), Reply::Error(CommandError::UnknownObject(digest)));
}

#[test]
fn a_dataset_that_is_not_here_is_not_offered_and_its_owner_is_told() {
    let mut world = World::new();
    world.stores = true;
    let service = crate::service::dataset::tests::observations();
    let manifest = service.program.object().unwrap();
    let reply = world.ask(Command::AddService(Box::new(service.clone())));
    let Reply::Error(CommandError::Fetch { digest, why }) = reply else { panic!("{reply:?}") };
    assert_eq!(digest, manifest);
    assert!(!why.is_empty());
    assert_eq!(world.ask(Command::Services), Reply::Services(Vec::new()));
    assert!(!world.node.offering.holds(&manifest), "nothing waits for it any more");
    // In place of a service that is not there it is not offered either.
    let command = ServiceCommand::Edit { old: service.id(), service: Box::new(service) };
    let reply = world.ask(Command::Service(command));
    assert!(matches!(reply, Reply::Error(CommandError::Fetch { .. })), "{reply:?}");
}

#[test]
fn a_node_does_not_block_itself() {
    let mut world = World::new();
    let reply = world.ask(Command::Block { key: key(NODE).public(), blocked: true });
    assert_eq!(reply, Reply::Error(CommandError::BlockSelf));
}

#[test]
fn a_search_finds_what_a_peer_offers_under_its_own_name_whatever_it_claims() {
    let mut w = World::new();
    let conn = w.connect();
    let owner = key(VICTIM).public();
    let service = crate::job::validate::tests::service("ocr", false, &[]);
    let lie = Value::from(service.to_dict().with("owner", &owner));
    let told = Frame::new(catalogue::KIND, &Dict::new().with("owner", &owner).with("s", vec![lie]));
    w.say(conn, &[identity_of(STRANGER), known_peers(), told]);
    w.run(Duration::from_secs(1));
    let query = Query::new("pdf, ocr", Some("wasm")).unwrap();
    let search = Command::Service(ServiceCommand::Search { tag: 1, query });
    let Reply::Found(found) = w.ask(search) else { panic!("found nothing") };
    let hits: Vec<_> = found.hits.iter().map(|h| (h.owner, h.id)).collect();
    assert_eq!(hits, [(key(STRANGER).public(), service.id())]);
    assert_eq!((found.visited, found.answered), (0, 0));
}

#[test]
fn a_policy_is_in_force_once_it_is_journaled_and_one_that_is_wrong_is_refused() {
    let mut w = World::new();
    let rule = Rule {
        name: "nobody".into(),
        who: Who::Anyone,
        kinds: BTreeSet::new(),
        services: BTreeSet::new(),
        effect: Effect::Deny(String::new()),
    };
    let policy = Policy { rules: vec![rule], ..Policy::default() };
    let set = |policy: &Policy| Command::Service(ServiceCommand::SetPolicy(Box::new(policy.clone())));
    assert_eq!(w.ask(set(&policy)), Reply::Done);
    let twice = Policy { rules: vec![policy.rules[0].clone(); 2], ..Policy::default() };
    assert!(matches!(w.ask(set(&twice)), Reply::Error(CommandError::Invalid(_))));
    w.restart();
    let Reply::Policy(view) = w.ask(Command::Service(ServiceCommand::Policy)) else { panic!("no policy") };
    assert_eq!((view.policy, view.today), (policy, Vec::new()));
}
