//! Connections: who is let in, what is said first, who is dialled, which streams belong to whom.
//!
//! A dial ends when the peer is *identified*, not when QUIC is connected: until then nobody is told of the peer, and no
//! message of a job passes. All failures on the way come back to the cascade in words that a person can act on.

use super::links::{Admission, Identified, Link, LinkFault};
use super::reserving;
use super::streams::{Owner, StreamNews};
use super::wiring::{Inside, drive};
use super::{Life, Node};
use crate::codec::{DecodeError, Frame};
use crate::command::{Notice, PeerState};
use crate::dht;
use crate::dht::record::{NodeType, Role};
use crate::few::Few;
use crate::id::{CommandId, ConnId, OpId, PublicKey};
use crate::identity::cascade::{ConnectFailed, DialFailed, DialId, Way};
use crate::identity::exchange::{self, Exchange, Identity, PeerFault};
use crate::identity::seek::{self, Seek, Seen};
use crate::identity::{book, cascade};
use crate::job::message::{self as job, Message};
use crate::job::{executor, requester};
use crate::limits::{IDLE_CHECK_EVERY, KNOWN_PEERS_SHARED_MAX};
use crate::machine::Machine;
use crate::path::dialback::{self, DialBack};
use crate::path::punch;
use crate::place::Place;
use crate::relay;
use crate::relay::errand::{self, Answer, Ask};
use crate::relay::whereabouts::{self, At, Tell};
use crate::service::catalogue;
use crate::time::{Deadline, Instant};
use crate::transfer::{StreamKey, fetch, serve};
use crate::transport::{CloseReason, Transport, TransportEvent, close_code};
use std::net::SocketAddr;

/// Ids of the node's own connects, apart from those of commands.
const OWN_CONNECTS: u64 = 1 << 63;

/// What is under way between peers.
#[derive(Debug, Default)]
pub(super) struct Meeting {
    /// Dials whose peer is not identified yet.
    dials: Few<ConnId, (DialId, Option<PublicKey>)>,
    /// Transfer streams wanted, by peer, in order.
    opens: Few<PublicKey, Vec<OpId>>,
    next_connect: u64,
    idle_check: Option<Instant>,
    /// Connections whose exchange is not done: of a thousand peers a few.
    exchanging: Vec<ConnId>,
}

impl<T: Transport> Node<T> {
    // ------------------------------------------------------------------------------------ dials

    /// Dials for the cascade.
    pub(super) fn dial(&mut self, dial: DialId, peer: Option<PublicKey>, way: Way) {
        let addr = match (way, peer) {
            (Way::Relay { relay, addr }, Some(peer)) => return self.dial_through(dial, peer, relay, addr),
            (way, _) => way.addr(),
        };
        self.speaks_to(addr);
        let started = match &peer {
            Some(key) => self.transport.dial(self.now, key, addr),
            None => self.transport.dial_any(self.now, addr),
        };
        match started {
            Ok(conn) => {
                self.dialling(conn, dial, peer);
                if let Some(key) = peer {
                    self.dialling_relay(key, addr);
                }
            }
            Err(e) => self.dialled(dial, Err(DialFailed::NotStarted(e))),
        }
    }

    /// A dial is under way as this connection.
    pub(super) fn dialling(&mut self, conn: ConnId, dial: DialId, peer: Option<PublicKey>) {
        self.meeting.dials.insert(conn, (dial, peer));
    }

    /// Dials under way at a place. They are the caller's to answer.
    pub(super) fn take_dials_at(&mut self, place: Place) -> Vec<(ConnId, DialId)> {
        let there = |conn: &ConnId| self.transport.place(*conn) == Some(place);
        let found: Vec<(ConnId, DialId)> =
            self.meeting.dials.iter().filter(|(c, _)| there(c)).map(|(c, (dial, _))| (*c, *dial)).collect();
        for (conn, _) in &found {
            self.meeting.dials.remove(conn);
        }
        found
    }

    /// Whether any connection of this dial may still bring the peer.
    pub(super) fn is_dialling(&self, dial: DialId) -> bool {
        self.meeting.dials.values().any(|(d, _)| *d == dial)
    }

    /// The dial under way to a peer.
    pub(super) fn dial_to(&self, key: &PublicKey) -> Option<DialId> {
        self.meeting.dials.values().find(|(_, peer)| peer.as_ref() == Some(key)).map(|(dial, _)| *dial)
    }

    /// The peer was found: other connections of the same dial are not needed any more.
    fn dial_succeeded(&mut self, dial: DialId, key: PublicKey) {
        self.dialled(dial, Ok(key));
        let others: Vec<ConnId> =
            self.meeting.dials.iter().filter(|(_, (d, _))| *d == dial).map(|(c, _)| *c).collect();
        for conn in others {
            self.meeting.dials.remove(&conn);
            self.transport.close(self.now, conn, close_code::DUPLICATE, "another way was faster");
        }
    }

    pub(super) fn dialled(&mut self, dial: DialId, result: Result<PublicKey, DialFailed>) {
        self.inbox.push_back(Inside::Cascade(cascade::Input::Dialled { dial, result }));
    }

    /// A job needs this peer: it is tried until it is here.
    pub(super) fn need_peer(&mut self, peer: PublicKey) {
        if !self.links.is_up(&peer) {
            self.inbox.push_back(Inside::Book(book::Input::Named(peer)));
            self.connect_for_ourselves(peer);
        }
    }

    fn connect_for_ourselves(&mut self, key: PublicKey) {
        self.connect_at(key, None);
    }

    /// The same, at `addr` first.
    pub(super) fn connect_at(&mut self, key: PublicKey, addr: Option<SocketAddr>) {
        self.meeting.next_connect += 1;
        let id = CommandId(OWN_CONNECTS | self.meeting.next_connect);
        if self.book.is_blocked(&key) {
            return self.connect_done(id, key, Err(ConnectFailed::Blocked));
        }
        self.inbox.push_back(Inside::Cascade(cascade::Input::Connect { id, key, addr }));
    }

    /// A connect ended: a command's, or one of our own.
    pub(super) fn connect_done(&mut self, id: CommandId, key: PublicKey, result: Result<(), ConnectFailed>) {
        if id.0 & OWN_CONNECTS == 0 {
            self.connect_command_done(id, key, result);
            return;
        }
        if let Err(e) = result
            && !self.links.is_up(&key)
        {
            let why = e.to_string();
            self.inbox
                .push_back(Inside::Requester(requester::Input::Unreachable { peer: key, why: why.clone() }));
            self.search_missed(key);
            self.fail_opens(&key, &why);
            self.relay_failed(&key, &why);
            self.reserving_failed(key, &why);
            self.tunnelling_given_up(key);
        }
    }

    // ------------------------------------------------------------------------------------ transport

    pub(super) fn transport_event(&mut self, event: TransportEvent) {
        match event {
            TransportEvent::Connected { conn, peer, place, dialled } => {
                self.connected(conn, peer, place, dialled)
            }
            TransportEvent::Datagram { conn, bytes } => self.datagram(conn, bytes),
            TransportEvent::Silent { conn } => self.silent(conn),
            TransportEvent::Moved { conn, place, bytes } => self.moved(conn, place, bytes),
            TransportEvent::Closed { conn, reason } => self.closed(conn, reason),
            TransportEvent::Opened { conn, stream } => {
                if !self.links.adopt_control(conn, stream) {
                    self.streams.accepted(self.now, (conn, stream));
                    self.streams.readable(&mut self.transport, (conn, stream));
                }
            }
            TransportEvent::Readable { conn, stream } => {
                if self.links.is_control(conn, stream) {
                    self.read_control(conn);
                } else {
                    self.streams.readable(&mut self.transport, (conn, stream));
                }
            }
            TransportEvent::Writable { conn, stream } => {
                if self.links.is_control(conn, stream) {
                    self.links.flush(&mut self.transport, conn);
                } else {
                    self.streams.writable(&mut self.transport, (conn, stream));
                }
            }
            TransportEvent::StreamsAvailable { conn } => {
                self.links.open_control(&mut self.transport, conn);
                if let Some(peer) = self.links.get(conn).map(|l| l.peer) {
                    self.open_waiting(&peer);
                }
            }
        }
    }

    fn connected(&mut self, conn: ConnId, peer: PublicKey, place: Place, dialled: bool) {
        let named = match place {
            Place::Relayed { peer: named, .. } => named == peer.peer_id(),
            Place::Direct { .. } | Place::Tunnel(_) => true,
        };
        let refusal = if peer == self.me {
            Some((close_code::WRONG_PEER, "this is the node itself"))
        } else if !named {
            Some((close_code::WRONG_PEER, "the relay named another peer"))
        } else if self.book.is_blocked(&peer) {
            Some((close_code::BLOCKED, "blocked"))
        } else if !matches!(self.life, Life::Running) {
            Some((close_code::SHUTDOWN, "the node shuts down"))
        } else if !dialled && self.links.len() >= self.config.links_max() && self.links.of(&peer).is_none() {
            Some((close_code::FULL, "no room for another peer"))
        } else {
            None
        };
        if let Some((code, words)) = refusal {
            self.refuse("connection-refused");
            self.transport.close(self.now, conn, code, words);
            return;
        }
        match self.links.connected(self.now, self.wall, &self.me, conn, peer, dialled) {
            Admission::Welcome | Admission::Rival => {}
            Admission::Replaces(old) => {
                if self.links.get(old).is_some_and(|l| l.identified) {
                    self.peer_down(&peer);
                }
                self.transport.close(self.now, old, close_code::DUPLICATE, "a newer connection is kept");
            }
            Admission::Duplicate => {
                // The other connection of the pair brings the peer; a dial of ours has found whom it looked for.
                if let Some((dial, _)) = self.meeting.dials.remove(&conn) {
                    self.dialled(dial, Ok(peer));
                }
                self.transport.close(self.now, conn, close_code::DUPLICATE, "another connection is kept");
                return;
            }
        }
        let wanted = self.meeting.dials.get(&conn).and_then(|(_, peer)| *peer);
        self.exchanges.insert(conn, Exchange::new(self.identity(), peer, wanted, place.addr()));
        self.meeting.exchanging.push(conn);
        self.meeting.idle_check.get_or_insert(self.now + IDLE_CHECK_EVERY);
        if dialled {
            self.links.open_control(&mut self.transport, conn);
        }
        self.exchange(conn, exchange::Input::Start);
        self.notify_peer(&peer);
    }

    /// The user blocks a peer: it hears no more than why, and whatever was said to it or wanted of it ends here.
    pub(super) fn cut(&mut self, peer: &PublicKey) {
        self.inbox.push_back(Inside::Cascade(cascade::Input::Blocked(*peer)));
        self.inbox.push_back(Inside::Executor(executor::Input::Blocked(*peer)));
        let open: Vec<ConnId> =
            self.links.iter().filter(|(_, l)| l.peer == *peer).map(|(conn, _)| conn).collect();
        for conn in open {
            self.transport.close(self.now, conn, close_code::BLOCKED, "blocked");
        }
    }

    fn closed(&mut self, conn: ConnId, reason: CloseReason) {
        self.exchanges.remove(&conn);
        self.meeting.exchanging.retain(|c| *c != conn);
        self.streams.connection_gone(conn);
        self.passing_down(conn);
        self.reach_down(conn);
        self.relaying.gone(conn);
        self.reserving.gone(conn);
        let dial = self.meeting.dials.remove(&conn);
        if reason == CloseReason::WrongPeer {
            self.refuse("dial-found-another-peer");
        }
        if let Some((dial, peer)) = dial {
            self.dial_failed(dial, peer, DialFailed::Closed(reason.clone()));
        }
        self.tunnelling_down(conn);
        self.errands_down(conn);
        let Some((link, current)) = self.links.closed(conn) else { return };
        if link.identified {
            self.reserving_down(conn, link.peer);
        }
        if current && link.identified {
            self.peer_down(&link.peer);
            if matches!(reason, CloseReason::Peer { code, .. } if code == close_code::FULL.into()) {
                self.inbox.push_back(Inside::Cascade(cascade::Input::SentAway(link.peer)));
            }
        }
        if current {
            self.notify_peer(&link.peer);
            if self.meeting.opens.contains_key(&link.peer) {
                // Streams are still wanted there.
                self.connect_for_ourselves(link.peer);
            }
        }
        if self.links.len() == 0 {
            self.meeting.idle_check = None;
        }
    }

    // ------------------------------------------------------------------------------------ identity

    fn identity(&self) -> Identity {
        Identity {
            key: self.me,
            dht_id: self.dht_id,
            node_type: if self.config.public { NodeType::Public } else { NodeType::Private },
            role: Role::default(),
            is_relay: self.passing.as_ref().is_some_and(|p| p.serves()),
            topics: self.config.topics.iter().copied().take(exchange::TOPICS_MAX).collect(),
            versions: exchange::VERSIONS.to_vec(),
        }
    }

    fn exchange(&mut self, conn: ConnId, input: exchange::Input) {
        let Some(machine) = self.exchanges.get_mut(&conn) else { return };
        let out = drive(machine, &mut self.rngs.exchange, self.now, self.wall, |m, cx| m.handle(cx, input));
        self.after_exchange(conn, out);
    }

    fn after_exchange(&mut self, conn: ConnId, out: Vec<exchange::Output>) {
        for o in out {
            match o {
                exchange::Output::Send(frame) => self.send_on(conn, &frame),
                exchange::Output::Identified(peer) => self.identified(conn, peer),
                exchange::Output::Learnt(hints) => {
                    self.inbox.push_back(Inside::Book(book::Input::Told(hints)))
                }
                exchange::Output::Other(frame) => {
                    if let Some(peer) = self.links.get(conn).map(|l| l.peer) {
                        self.message(conn, peer, &frame);
                    }
                }
                exchange::Output::Fault(fault) => self.faulted(conn, fault),
            }
        }
    }

    fn identified(&mut self, conn: ConnId, peer: Box<exchange::PeerIdentity>) {
        let key = peer.identity.key;
        let addr = self.addr_of(conn);
        let dialled = self.links.get(conn).is_some_and(|l| l.dialled);
        let (is_relay, node_type) = (peer.identity.is_relay, peer.identity.node_type);
        if let Some((dial, _)) = self.meeting.dials.remove(&conn) {
            self.dial_succeeded(dial, key);
        }
        match self.links.identified(conn, peer.identity.dht_id) {
            Identified::Current => {}
            Identified::Replaces(old) => {
                self.peer_down(&key);
                let words = "it leads to a process that is gone";
                self.transport.close(self.now, old, close_code::DUPLICATE, words);
            }
            Identified::Duplicate => {
                self.transport.close(self.now, conn, close_code::DUPLICATE, "another connection is kept");
                return;
            }
        }
        if self.links.up() > self.config.max_peers {
            self.links.is_guest(self.now, conn);
        }
        let share = self.book.to_share(&peer.shared_topics, &key, KNOWN_PEERS_SHARED_MAX);
        if let Some(observed) = peer.observed {
            // Through a relay or a tunnel nobody sees where packets come from, whatever he says.
            match self.transport.place(conn) {
                Some(by @ Place::Direct { addr, .. }) => {
                    self.observed_by(by, observed);
                    let from = Some(addr.ip());
                    self.inbox.push_back(Inside::Dht(dht::Input::Observed { by: key, from, addr: observed }));
                }
                Some(Place::Relayed { .. } | Place::Tunnel(_)) | None => self.refuse("observed-unseen"),
            }
        }
        self.inbox.push_back(Inside::Book(book::Input::Met { peer, addr }));
        self.inbox.push_back(Inside::Cascade(cascade::Input::Connected { key, addr }));
        self.exchange(conn, exchange::Input::Share(share));
        self.inbox.push_back(Inside::Catalogue(catalogue::Input::PeerUp(key)));
        self.inbox.push_back(Inside::Requester(requester::Input::PeerUp(key)));
        self.inbox.push_back(Inside::Executor(executor::Input::PeerUp(key)));
        self.open_waiting(&key);
        self.passing_up(conn, key, dialled);
        self.reserving_up(conn, key, is_relay);
        self.reach_up(conn, &key, node_type);
        self.relayed_up(conn);
        self.tunnelling_up(conn, key);
        self.relay_is_up(&key, conn);
        self.notify_peer(&key);
    }

    fn peer_down(&mut self, peer: &PublicKey) {
        self.inbox.push_back(Inside::Book(book::Input::Seen(*peer)));
        self.inbox.push_back(Inside::Cascade(cascade::Input::Disconnected(*peer)));
        self.inbox.push_back(Inside::Catalogue(catalogue::Input::PeerDown(*peer)));
        self.inbox.push_back(Inside::Requester(requester::Input::PeerDown(*peer)));
        self.inbox.push_back(Inside::Executor(executor::Input::PeerDown(*peer)));
    }

    fn faulted(&mut self, conn: ConnId, fault: PeerFault) {
        self.refuse(fault.reason());
        let words = fault.to_string();
        if let Some((dial, peer)) = self.meeting.dials.remove(&conn) {
            self.dial_failed(dial, peer, DialFailed::Fault(fault));
        }
        self.transport.close(self.now, conn, close_code::IDENTITY, &words);
    }

    // ------------------------------------------------------------------------------------ control streams

    fn read_control(&mut self, conn: ConnId) {
        loop {
            match self.links.read(&mut self.transport, conn) {
                Ok(Some(frame)) => {
                    self.links.active(self.now, conn);
                    if self.exchanges.contains_key(&conn) {
                        self.exchange(conn, exchange::Input::Frame(frame));
                    }
                }
                Ok(None) => return,
                Err(fault) => {
                    let words = match &fault {
                        LinkFault::Malformed(e) => e.to_string(),
                        LinkFault::ControlClosed => "the control stream ended".to_owned(),
                    };
                    self.refuse("control-stream-broken");
                    self.transport.close(self.now, conn, close_code::PROTOCOL, &words);
                    return;
                }
            }
        }
    }

    /// A frame behind the identity exchange. Kinds that this version does not know are a newer peer's: counted, passed over.
    fn message(&mut self, conn: ConnId, peer: PublicKey, frame: &Frame) {
        let broken = match frame.kind {
            catalogue::KIND => match catalogue::read(frame) {
                Ok(told) => {
                    let received = catalogue::Input::Received { peer, told };
                    self.inbox.push_back(Inside::Catalogue(received));
                    None
                }
                Err(e) => Some(e),
            },
            seek::KIND_SEEK => Seek::from_frame(frame).map(|seek| self.sought(conn, peer, seek)).err(),
            seek::KIND_SEEN => match Seen::from_frame(frame) {
                Ok(Seen { key, addr }) => {
                    self.inbox.push_back(Inside::Cascade(cascade::Input::Seen { by: peer, key, addr }));
                    None
                }
                Err(e) => Some(e),
            },
            job::KIND_FIRST..=job::KIND_LAST | job::KIND_MORE_FIRST..=job::KIND_MORE_LAST => {
                match Message::from_frame(frame) {
                    Ok(message) => {
                        if message.is_about_a_job() {
                            self.links.used(self.now, conn);
                        }
                        self.job_message(peer, message);
                        None
                    }
                    Err(e) => Some(e),
                }
            }
            punch::message::KIND_CONNECT..=punch::message::KIND_DECLINE => {
                self.inbox.push_back(Inside::Punch(punch::Input::Frame { conn, frame: frame.clone() }));
                None
            }
            errand::KIND_ASK => Ask::from_frame(frame).map(|ask| self.errand_asked(conn, peer, ask)).err(),
            errand::KIND_ANSWER => {
                Answer::from_frame(frame).map(|answer| self.errand_answered(conn, answer)).err()
            }
            dialback::KIND => {
                DialBack::from_frame(frame).map(|ask| self.dialback_asked(conn, peer, ask)).err()
            }
            reserving::KIND_WAYS => self.ways_told(conn, frame).err(),
            whereabouts::KIND_AT => At::from_frame(frame).map(|at| self.told_whereabouts(conn, at)).err(),
            whereabouts::KIND_TELL => {
                Tell::from_frame(frame).map(|tell| self.tell_whereabouts(conn, peer, tell)).err()
            }
            kind if relay::message::Message::is_kind(kind) => {
                if relay::message::Message::is_from_relay(kind) {
                    self.relay_frame(conn, frame);
                } else {
                    self.passing_frame(conn, frame);
                }
                None
            }
            _ => {
                self.refuse("message-unknown");
                None
            }
        };
        if let Some(e) = broken {
            self.broke(conn, &e);
        }
    }

    /// A peer's message does not decode.
    pub(super) fn broke(&mut self, conn: ConnId, why: &DecodeError) {
        self.refuse("message-malformed");
        self.transport.close(self.now, conn, close_code::PROTOCOL, &why.to_string());
    }

    /// Sends a frame to a peer, or to this node's own machines. Without a link it is dropped: every machine sends again
    /// what matters when the peer is back.
    pub(super) fn send_frame(&mut self, peer: PublicKey, frame: &Frame) {
        if peer == self.me {
            // Through its wire form, so that a node's own jobs take the very same way.
            match Message::from_frame(frame) {
                Ok(message) => self.job_message(peer, message),
                Err(_) => debug_assert!(frame.kind == catalogue::KIND, "our own message decodes"),
            }
        } else if let Some((conn, link)) = self.links.of(&peer)
            && link.identified
        {
            self.send_on(conn, frame);
        }
    }

    pub(super) fn send_on(&mut self, conn: ConnId, frame: &Frame) {
        if !self.links.send(&mut self.transport, conn, frame) {
            self.refuse("control-queue-full");
            self.transport.close(self.now, conn, close_code::PROTOCOL, "control stream is not read");
        }
    }

    // ------------------------------------------------------------------------------------ transfer streams

    /// A fetch wants a stream to a peer.
    pub(super) fn open_transfer(&mut self, op: OpId, peer: PublicKey) {
        if peer == self.me {
            let why = "the object is not in this node's own store".to_owned();
            self.inbox.push_back(Inside::Fetch(fetch::Input::OpenFailed { op, why }));
            return;
        }
        self.meeting.opens.get_or_insert_with(peer, Vec::new).push(op);
        if self.links.is_up(&peer) {
            self.open_waiting(&peer);
        } else {
            self.connect_for_ourselves(peer);
        }
    }

    /// Opens the streams that wait for this peer, as many as it allows.
    fn open_waiting(&mut self, peer: &PublicKey) {
        let Some((conn, _)) = self.links.of(peer).filter(|(_, l)| l.identified) else { return };
        let Some(mut waiting) = self.meeting.opens.remove(peer) else { return };
        let mut opened = 0;
        for op in &waiting {
            let Some(stream) = self.transport.open(conn) else { break };
            let stream: StreamKey = (conn, stream);
            self.streams.opened(stream, Owner::Fetch);
            self.inbox.push_back(Inside::Fetch(fetch::Input::Opened { op: *op, stream }));
            opened += 1;
        }
        waiting.drain(..opened);
        if !waiting.is_empty() {
            self.meeting.opens.insert(*peer, waiting);
        }
    }

    fn fail_opens(&mut self, peer: &PublicKey, why: &str) {
        for op in self.meeting.opens.remove(peer).unwrap_or_default() {
            let failed = fetch::Input::OpenFailed { op, why: why.to_owned() };
            self.inbox.push_back(Inside::Fetch(failed));
        }
    }

    pub(super) fn stream_news(&mut self, stream: StreamKey, news: StreamNews) {
        if news == StreamNews::Late {
            return self.refuse("transfer-head-late");
        }
        self.links.active(self.now, stream.0);
        self.links.used(self.now, stream.0);
        let (owner, event) = match news {
            StreamNews::Head(frame) => {
                let Some(link) = self.links.get(stream.0).filter(|l| l.identified) else {
                    self.refuse("transfer-before-identity");
                    self.streams.abandon(&mut self.transport, stream);
                    return;
                };
                let request = serve::Input::Request { stream, peer: link.peer, frame };
                self.inbox.push_back(Inside::Serve(request));
                return;
            }
            StreamNews::Malformed => return self.refuse("transfer-malformed"),
            // Silence is no activity.
            StreamNews::Late => return,
            StreamNews::Event(owner, event) => (owner, event),
        };
        self.inbox.push_back(match owner {
            Owner::Fetch => Inside::Fetch(fetch::Input::Stream { stream, event }),
            Owner::Serve => Inside::Serve(serve::Input::Stream { stream, event }),
        });
    }

    // ------------------------------------------------------------------------------------ time

    pub(super) fn meeting_deadline(&self) -> Option<Deadline> {
        let exchanges = self
            .meeting
            .exchanging
            .iter()
            .filter_map(|conn| self.exchanges.get(conn))
            .filter(|e| !e.done())
            .filter_map(Machine::poll_timeout)
            .fold(None, |a, b| Deadline::earlier(a, Some(b)));
        let guests = self.links.guests_until().map(|at| Deadline::new(at, "send a guest away"));
        let idle = self.meeting.idle_check.map(|at| Deadline::new(at, "idle check"));
        [idle, guests, self.streams.poll_timeout()].into_iter().fold(exchanges, Deadline::earlier)
    }

    pub(super) fn meeting_timeout(&mut self) {
        let due = |d: Option<Deadline>| d.is_some_and(|d| d.at <= self.now);
        let exchanges = &self.exchanges;
        self.meeting.exchanging.retain(|conn| exchanges.get(conn).is_some_and(|e| !e.done()));
        let late = |conn: &&ConnId| exchanges.get(*conn).is_some_and(|e| due(e.poll_timeout()));
        let late: Vec<ConnId> = self.meeting.exchanging.iter().filter(late).copied().collect();
        for conn in late {
            let Some(machine) = self.exchanges.get_mut(&conn) else { continue };
            let out = drive(machine, &mut self.rngs.exchange, self.now, self.wall, Machine::handle_timeout);
            self.after_exchange(conn, out);
        }
        self.streams.handle_timeout(&mut self.transport, self.now);
        let over = self.links.guests_over(self.now);
        let mut up = if over.is_empty() { 0 } else { self.links.up() };
        for conn in over {
            let works_for = |l: &Link| self.executor.has_jobs_of(&l.peer);
            let relays = self.links.get(conn).is_some_and(|l| self.is_relaying_with(conn, &l.peer));
            if relays || self.streams.on(conn) > 0 || self.links.get(conn).is_some_and(works_for) {
                self.links.used(self.now, conn);
            } else if up <= self.config.max_peers {
                self.links.stays(conn);
            } else {
                up -= 1;
                self.refuse("peers-full");
                self.transport.close(self.now, conn, close_code::FULL, "this node has peers enough");
            }
        }
        if self.meeting.idle_check.is_some_and(|at| at <= self.now) {
            self.meeting.idle_check = Some(self.now + IDLE_CHECK_EVERY);
            for conn in self.links.expired(self.now) {
                let relays = self.links.get(conn).is_some_and(|l| self.is_relaying_with(conn, &l.peer));
                if self.streams.on(conn) == 0 && !relays {
                    self.transport.close(self.now, conn, close_code::IDLE, "idle timeout");
                }
            }
        }
    }

    /// Where the packets of a connection are sent, unless through a relay.
    pub(super) fn addr_of(&self, conn: ConnId) -> Option<SocketAddr> {
        self.transport.place(conn).and_then(|p| p.addr())
    }

    pub(super) fn notify_peer(&mut self, peer: &PublicKey) {
        if let Some(view) = self.peer_view(peer) {
            self.notify(Notice::Peer(Box::new(view)));
        }
    }

    /// The state of the connection to a peer.
    pub(super) fn peer_state(&self, peer: &PublicKey) -> PeerState {
        self.links.of(peer).map_or(PeerState::Closed, |(conn, link)| {
            if self.streams.on(conn) > 0 && link.identified {
                PeerState::Connected
            } else {
                link.state(self.now)
            }
        })
    }
}
