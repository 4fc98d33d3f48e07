//! The relay: it passes packets on between those who are connected to it.
//!
//! Who may be reached. A peer that *registers* has a reservation: everybody may write to it. A peer that only writes becomes
//! a *visitor* with its first packet: it may be reached for a minute by those it wrote to, as in TURN (RFC 8656), so
//! that a relay brings nobody packets that they have not asked for in one of these two ways. Authority is the whole key that TLS proved; the
//! peer id in a packet's header is only an index to it, and of two keys with one id the first has the session.
//!
//! What one of them can take from others. Nothing beyond its share: who gets a session is bounded, rates are
//! bounded for a session and for an address, the queues of [`QUEUE_BYTES_MAX`] belong to one session each, and they take
//! turns when the relay's own rate or a receiver is what is short. Overload drops the packets of who causes it and stalls
//! nobody. For one datagram that comes in, one packet or one short frame goes out at the most, and the frame only to its
//! sender, a few a second.
//!
//! **How to drive it.** The node tells of identified peers, their frames (those that [`Message::is_from_relay`] does not
//! name) and the datagrams with direction `To`; after every input, and after `handle_timeout`, it calls
//! [`Server::poll_forward`] until it says `None`, giving each datagram to the transport before the next call. A
//! connection's send buffer should be small (64 to 256 KiB): what waits there is beyond the turns.
//!
//! What is passed on is counted for each session and told as [`Account`]s, every minute and at a session's end.

mod admission;
mod frames;
mod queue;
mod session;

use super::bucket::Bucket;
use super::message::{Load, Message, SessionId, Why};
use super::wire::{Cutter, Direction, Fragmenter, Header, WHOLE_HEADER_BYTES};
use crate::codec::Frame;
use crate::id::{ConnId, PeerId, PublicKey};
use crate::machine::{Cx, Machine};
use crate::time::{Deadline, Duration, Instant, UnixTime};
pub use admission::{AWAY_MAX, BLOCKED_MAX};
use admission::{Admission, byte_bucket};
use bytes::{BufMut, Bytes, BytesMut};
use queue::Queues;
pub use queue::{QUANTUM, QUEUE_BYTES_MAX, QUEUE_BYTES_MIN, Room, WAIT_MAX};
use session::Session;
pub use session::{Account, DropReason, Kind, PERMIT_TIME, PERMITS_MAX, SessionView, Usage, VISITOR_IDLE};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// How often what sessions cost is told.
pub const ACCOUNT_EVERY: Duration = Duration::from_secs(60);
/// How long a relay that stops, or an operator who disconnects, does not want to be asked again.
pub const BACK_IN: Duration = Duration::from_secs(60);
/// Connected peers beyond the sessions: those who have none.
pub const IDLE_PEERS_MAX: usize = 4_096;
/// Frames to one peer in a second: enough to dial eight peers that are gone, too few to be of use to anybody else.
const FRAMES_PER_SECOND: u64 = 8;

/// What an operator may set. Rates are in bytes a second; 0 is without limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Sessions in all (SPEC 4.6 `relay_max_sessions`).
    pub sessions_max: usize,
    /// Sessions of one address: peers behind one NAT share it.
    pub sessions_per_address_max: usize,
    /// Sessions made in a second, in the long run.
    pub accepts_per_second: u32,
    /// Sessions made at once.
    pub accepts_at_once: u32,
    /// What one session may send.
    pub session_rate: u64,
    /// What all sessions of one address may send.
    pub address_rate: u64,
    /// What the relay passes on in all.
    pub total_rate: u64,
    /// Bytes of all packets that wait; divided among [`Config::sessions_max`] queues of [`QUEUE_BYTES_MIN`] to
    /// [`QUEUE_BYTES_MAX`].
    pub queue_bytes: usize,
    /// How often a client should be heard of (SPEC 4.5 `relay_keepalive`).
    pub keepalive: Duration,
    /// After this long a reservation must have been renewed.
    pub lifetime: Duration,
    /// Price in micro-units per GiB; 0 is free.
    pub price: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sessions_max: 1_000,
            sessions_per_address_max: 64,
            accepts_per_second: 50,
            accepts_at_once: 100,
            session_rate: 12_500_000,
            address_rate: 50_000_000,
            total_rate: 0,
            queue_bytes: 1_000 * QUEUE_BYTES_MAX,
            keepalive: Duration::from_secs(5),
            lifetime: Duration::from_secs(3_600),
            price: 0,
        }
    }
}

/// What can happen to the relay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Be a relay, or be none: only nodes that are proven to be public are.
    Serve(bool),
    /// A peer is connected and identified.
    PeerUp {
        /// Its connection.
        conn: ConnId,
        /// Who, proven by TLS.
        peer: PublicKey,
        /// Where its packets come from.
        addr: SocketAddr,
    },
    /// Its packets come from elsewhere now.
    Moved {
        /// Its connection.
        conn: ConnId,
        /// From there.
        addr: SocketAddr,
    },
    /// Its connection is gone.
    PeerDown {
        /// The connection.
        conn: ConnId,
    },
    /// It says something on its control stream.
    Frame {
        /// On which connection.
        conn: ConnId,
        /// What.
        frame: Frame,
    },
    /// It sends a packet to be passed on.
    Datagram {
        /// On which connection.
        conn: ConnId,
        /// Header and packet.
        bytes: Bytes,
    },
    /// The operator ends a peer's session.
    Disconnect {
        /// Whose.
        peer: PublicKey,
    },
    /// The operator wants a peer no more, or again. Its connection is the node's business.
    Block {
        /// Whom.
        peer: PublicKey,
        /// Whether.
        blocked: bool,
    },
    /// The relay will stop after this long: no new sessions, and all are told.
    Close {
        /// So long it still passes on.
        ends_in: Duration,
        /// So long it does not want to be asked again.
        back_in: Duration,
    },
}

/// What the relay asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Say this on the control stream.
    Send {
        /// Of which connection.
        conn: ConnId,
        /// What.
        frame: Frame,
    },
    /// Write this to the books.
    Account(Box<Account>),
    /// Something was refused; for the node's counters.
    Refused(&'static str),
    /// All sessions have ended after [`Input::Close`].
    Closed,
}

/// How the relay is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Whether it is a relay.
    pub serving: bool,
    /// Whether it is about to stop.
    pub closing: bool,
    /// Reservations.
    pub reserved: usize,
    /// Visitors.
    pub visitors: usize,
    /// Sessions at the most.
    pub sessions_max: usize,
    /// Bytes waiting, with what it costs to keep them.
    pub waiting: usize,
    /// What was passed on and dropped since the start, of all sessions and of those who have none.
    pub usage: Usage,
    /// Sessions made since the start.
    pub accepted: u64,
    /// Sessions refused since the start.
    pub refused: u64,
}

#[derive(Debug)]
struct Peer {
    key: PublicKey,
    id: PeerId,
    addr: SocketAddr,
    /// Frames that may still be said to it.
    frames: Bucket,
    session: Option<Box<Session>>,
}

/// The machine of a relay.
#[derive(Debug)]
pub struct Server {
    config: Config,
    serving: bool,
    /// When the relay stops.
    closing: Option<Instant>,
    peers: BTreeMap<ConnId, Peer>,
    /// Whose session a peer id is.
    by_id: BTreeMap<PeerId, ConnId>,
    admission: Admission,
    queues: Queues,
    /// Pieces of a packet that was cut, on their way out.
    pieces: VecDeque<(ConnId, Bytes)>,
    fragmenter: Fragmenter,
    total: Bucket,
    /// When sessions may have come to their end; those that were active since are looked at again.
    ends: BTreeSet<(Instant, ConnId)>,
    account_at: Option<Instant>,
    /// When the relay's rate allows the next packet.
    forward_at: Option<Instant>,
    stats: Stats,
}

impl Server {
    /// Not a relay until [`Input::Serve`].
    pub fn new(config: Config) -> Self {
        let sessions_max = config.sessions_max.max(1);
        let config = Config { sessions_max, ..config };
        Self {
            serving: false,
            closing: None,
            peers: BTreeMap::new(),
            by_id: BTreeMap::new(),
            admission: Admission::new(&config),
            queues: Queues::new(config.queue_bytes / sessions_max),
            pieces: VecDeque::new(),
            fragmenter: Fragmenter::new(Cutter::Relay),
            total: byte_bucket(config.total_rate, Instant::ZERO),
            ends: BTreeSet::new(),
            account_at: None,
            forward_at: None,
            stats: Stats::default(),
            config,
        }
    }

    /// All sessions.
    pub fn sessions(&self) -> impl Iterator<Item = SessionView> {
        self.peers.iter().filter_map(|(conn, peer)| {
            let session = peer.session.as_ref()?;
            Some(SessionView {
                peer: peer.key,
                session: session.id,
                kind: session.kind,
                addr: peer.addr,
                since: session.since,
                usage: session.in_all(),
                waiting: self.queues.waiting(*conn),
            })
        })
    }

    /// Whether the peer holds a session.
    pub fn holds(&self, peer: &PublicKey) -> bool {
        let conn = self.by_id.get(&peer.peer_id());
        conn.and_then(|conn| self.peers.get(conn)).is_some_and(|p| p.key == *peer && p.session.is_some())
    }

    /// The connection of a peer that holds a session.
    pub fn connection_of(&self, peer: &PeerId) -> Option<ConnId> {
        let conn = *self.by_id.get(peer)?;
        self.peers.get(&conn).is_some_and(|p| p.session.is_some()).then_some(conn)
    }

    /// Whether it is a relay.
    pub fn is_serving(&self) -> bool {
        self.serving
    }

    /// How the relay is.
    pub fn stats(&self) -> Stats {
        Stats {
            serving: self.serving,
            closing: self.closing.is_some(),
            reserved: self.admission.count(Kind::Reserved),
            visitors: self.admission.count(Kind::Visitor),
            sessions_max: self.config.sessions_max,
            waiting: self.queues.waiting_in_all(),
            ..self.stats
        }
    }

    /// How full it is, and what it takes.
    pub fn load(&self) -> Load {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Load {
            used: number(self.admission.sessions()),
            max: number(self.config.sessions_max),
            price: self.config.price,
        }
    }

    /// Peers that the operator does not want.
    pub fn blocked(&self) -> impl Iterator<Item = &PublicKey> {
        self.admission.blocked()
    }

    /// The next datagram to send and on which connection, until `None`. `room` says what a connection takes at the moment, what was
    /// given to it before included; `None` when it is gone.
    pub fn poll_forward(
        &mut self,
        now: Instant,
        room: impl Fn(ConnId) -> Option<Room>,
    ) -> Option<(ConnId, Bytes)> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Some(piece);
            }
            if self.queues.has_turns() && !self.total.has(now, 1) {
                self.forward_at = Some(self.total.ready(now, 1));
                return None;
            }
            let (peers, stats) = (&mut self.peers, &mut self.stats);
            let taken = self.queues.next(now, &room, |from, why| {
                stats.usage.lose(why, 1);
                if let Some(session) = session_of(peers, from) {
                    session.usage.lose(why, 1);
                }
            })?;
            let len = taken.bytes.len();
            if len <= taken.datagram_max {
                self.passed_on(now, taken.from, taken.to, len);
                return Some((taken.to, taken.bytes));
            }
            self.cut(now, &taken);
        }
    }

    /// A whole packet does not fit the receiver's path.
    fn cut(&mut self, now: Instant, taken: &queue::Taken) {
        let pieces = Header::parse(&taken.bytes).and_then(|header| {
            let packet = &taken.bytes[WHOLE_HEADER_BYTES..];
            self.fragmenter.split(Direction::From, header.peer, packet, taken.datagram_max)
        });
        match pieces {
            Ok(pieces) => {
                self.pieces.extend(pieces.map(|piece| (taken.to, piece)));
                let len = self.pieces.iter().map(|(_, piece)| piece.len()).sum();
                self.passed_on(now, taken.from, taken.to, len);
            }
            Err(_) => self.lose(taken.from, DropReason::TooLong, 1),
        }
    }

    fn passed_on(&mut self, now: Instant, from: ConnId, to: ConnId, len: usize) {
        let len = len as u64;
        self.total.spend(len);
        self.stats.usage.sent(len);
        self.stats.usage.got(len);
        if let Some(session) = session_of(&mut self.peers, from) {
            session.usage.sent(len);
        }
        if let Some(session) = session_of(&mut self.peers, to) {
            session.usage.got(len);
            session.active = session.active.max(now);
        }
    }

    fn lose(&mut self, from: ConnId, why: DropReason, packets: u64) {
        self.stats.usage.lose(why, packets);
        if let Some(session) = session_of(&mut self.peers, from) {
            session.usage.lose(why, packets);
        }
    }

    fn datagram(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, bytes: &Bytes) {
        if !self.peers.contains_key(&conn) {
            return;
        }
        if let Err(why) = self.pass(cx, conn, bytes) {
            self.lose(conn, why, 1);
        }
        if self.account_at.is_none() && self.peers.get(&conn).is_some_and(|p| p.session.is_some()) {
            self.account_at = Some(cx.now + ACCOUNT_EVERY);
        }
    }

    fn pass(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, bytes: &Bytes) -> Result<(), DropReason> {
        let header = Header::parse(bytes).map_err(|_| DropReason::Malformed)?;
        match header.direction {
            Direction::To => {}
            Direction::From => return Err(DropReason::Malformed),
        }
        let sender = self.peers.get(&conn).ok_or(DropReason::Refused)?;
        let (sender_key, sender_id, sender_addr) = (sender.key, sender.id, sender.addr);
        let has_session = sender.session.is_some();
        if header.peer == sender_id {
            return Err(DropReason::ToSelf);
        }
        let to = self.by_id.get(&header.peer).copied().filter(|_| self.serving);
        let Some(to) = to else {
            self.say(cx, conn, &Message::Gone { peer: header.peer });
            return Err(DropReason::NoSession);
        };
        if !has_session && let Err(why) = self.make_session(cx, conn, Kind::Visitor) {
            self.refuse(cx, conn, why);
            return Err(DropReason::Refused);
        }
        let receiver = self.peers.get(&to).ok_or(DropReason::NoSession)?;
        let receiver_key = receiver.key;
        if !receiver.session.as_ref().is_some_and(|s| s.lets_in(cx.now, &sender_key)) {
            return Err(DropReason::NotPermitted);
        }
        let len = bytes.len() as u64;
        let session = session_of(&mut self.peers, conn).ok_or(DropReason::Refused)?;
        session.active = cx.now;
        session.wrote_to(cx.now, &receiver_key);
        if !session.bucket.take(cx.now, len) {
            return Err(DropReason::SessionRate);
        }
        if !self.admission.passes(cx.now, sender_addr, len) {
            return Err(DropReason::AddressRate);
        }
        // A copy: the datagram may be a slice of a larger buffer, which its wait would keep.
        let header = Header { direction: Direction::From, peer: sender_id, ..header };
        let mut rewritten = BytesMut::with_capacity(bytes.len());
        header.write(&mut rewritten);
        rewritten.put_slice(&bytes[header.bytes()..]);
        let dropped = self.queues.push(cx.now, conn, to, rewritten.freeze());
        if dropped > 0 {
            self.lose(conn, DropReason::QueueFull, dropped);
        }
        Ok(())
    }
}

fn session_of(peers: &mut BTreeMap<ConnId, Peer>, conn: ConnId) -> Option<&mut Session> {
    peers.get_mut(&conn)?.session.as_deref_mut()
}

#[cfg(test)]
mod tests;
