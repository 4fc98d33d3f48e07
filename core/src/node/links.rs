//! Links: one connection per pair of peers, and its control stream.
//!
//! The dialling side opens the first stream; it carries the identity exchange and then every message between the two
//! nodes, as frames. When both sides dialled at once, both choose the same survivor without talking: the connection
//! dialled by the lower key. An older connection is something else: a peer that dials again has forgotten it (it
//! restarted, or moved), so the new one wins. A peer may also restart within the moment in which dials count as
//! simultaneous; then the survivor of the rule would be a connection to a process that is gone. So a connection that the
//! rule rejects is a *rival* until its identity is read: its DHT node id, new in every process, tells whether the peer is
//! still the one that the older connection leads to.
//!
//! A link is *connecting* until the peer is identified, then *connected*, *idle* after a minute without activity,
//! *stale* when it is about to be closed, and closed with code 0x100 after five minutes (SPEC 3.4); dialling again is
//! transparent. QUIC's keep-alive is no activity; messages are, those of running jobs included, and so are transfers.
//!
//! A node that has its `max_peers` still hears whoever dials it, as a *guest*: both tell each other of peers, so that the
//! newcomer finds others, and a guest that uses the connection within [`GUEST_STAY`] stays until it has not used it for
//! [`GUEST_KEPT`]. Then it is sent away with code 0x105, unless there is room meanwhile. So nobody is cut off from the services
//! of a popular node by those who are merely connected, and those who came once for something do not pile up.

use crate::codec::{DecodeError, Frame, FrameReader};
use crate::command::PeerState;
use crate::few::Few;
use crate::id::{ConnId, DhtId, PublicKey, StreamId};
use crate::limits::{CONTROL_QUEUE_BYTES_MAX, GUEST_KEPT, GUEST_STAY};
use crate::time::{Duration, Instant, UnixTime};
use crate::transport::{Chunk, ReadError, Transport, WriteError};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};

/// Two connections of one pair this close in time come from simultaneous dials.
const SIMULTANEOUS_WITHIN: Duration = Duration::from_secs(5);
/// Without activity for this long a link is idle.
const IDLE_AFTER: Duration = Duration::from_secs(60);
/// This long before its closing a link is stale.
const STALE_BEFORE: Duration = Duration::from_secs(60);
/// Bytes read from a control stream at once.
const READ_MAX: usize = 64 * 1024;

/// A connection to a proven peer.
#[derive(Debug)]
pub struct Link {
    /// Proven by TLS.
    pub peer: PublicKey,
    /// Whether we dialled.
    pub dialled: bool,
    /// When the handshake ended.
    pub since: Instant,
    /// The same, for people.
    pub since_wall: UnixTime,
    /// Whether the identity exchange succeeded.
    pub identified: bool,
    /// The peer's DHT node id, once it is identified: another one is another process.
    process: Option<DhtId>,
    /// Sent away then, unless it uses the connection before or there is room by then.
    guest_until: Option<Instant>,
    last_activity: Instant,
    close_after: Duration,
    control: Option<StreamId>,
    reader: FrameReader,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
}

/// What a new connection means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It is the peer's link now.
    Welcome,
    /// It is the peer's link now; close this older one.
    Replaces(ConnId),
    /// The older one stays; close this one.
    Duplicate,
    /// The older one stays unless the identity on this one says that it leads to another process ([`Links::identified`]).
    Rival,
}

/// What the identity on a connection means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Identified {
    /// It is the peer's link.
    Current,
    /// It is the peer's link now; this one leads to a process that is gone: close it.
    Replaces(ConnId),
    /// The older link stays; close this one.
    Duplicate,
}

/// Why reading a control stream ended the link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkFault {
    /// The bytes are no frames.
    Malformed(DecodeError),
    /// The peer finished or reset its control stream.
    ControlClosed,
}

/// All links of a node.
#[derive(Debug)]
pub struct Links {
    close_after: Duration,
    links: Few<ConnId, Box<Link>>,
    by_peer: Few<PublicKey, ConnId>,
    /// Guests, by when they are sent away: a relay has a thousand, and is asked for the first of them at every turn.
    guests: BTreeSet<(Instant, ConnId)>,
}

impl Links {
    /// No links; one without activity for `close_after` is to be closed.
    pub fn new(close_after: Duration) -> Self {
        Self { close_after, links: Few::new(), by_peer: Few::new(), guests: BTreeSet::new() }
    }

    /// A handshake ended.
    #[allow(clippy::too_many_arguments)] // the facts of one event
    pub fn connected(
        &mut self,
        now: Instant,
        wall: UnixTime,
        me: &PublicKey,
        conn: ConnId,
        peer: PublicKey,
        dialled: bool,
    ) -> Admission {
        let older = self.by_peer.get(&peer).copied();
        if let Some(link) = older.and_then(|id| self.links.get(&id)) {
            let simultaneous = link.dialled != dialled && now.since(link.since) < SIMULTANEOUS_WITHIN;
            let ours_wins = *me < peer;
            if simultaneous && dialled != ours_wins {
                if link.process.is_none() {
                    return Admission::Duplicate;
                }
                self.insert(now, wall, conn, peer, dialled);
                return Admission::Rival;
            }
        }
        self.by_peer.insert(peer, conn);
        self.insert(now, wall, conn, peer, dialled);
        older.map_or(Admission::Welcome, Admission::Replaces)
    }

    fn insert(&mut self, now: Instant, wall: UnixTime, conn: ConnId, peer: PublicKey, dialled: bool) {
        let link = Link {
            peer,
            dialled,
            since: now,
            since_wall: wall,
            identified: false,
            process: None,
            guest_until: None,
            last_activity: now,
            close_after: self.close_after,
            control: None,
            reader: FrameReader::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
        };
        self.links.insert(conn, Box::new(link));
    }

    /// A connection ended. Returns its link, and whether it was the peer's current one.
    pub fn closed(&mut self, conn: ConnId) -> Option<(Link, bool)> {
        let link = self.links.remove(&conn)?;
        if let Some(until) = link.guest_until {
            self.guests.remove(&(until, conn));
        }
        let current = self.by_peer.get(&link.peer) == Some(&conn);
        if current {
            self.by_peer.remove(&link.peer);
        }
        Some((*link, current))
    }

    /// The link of a connection.
    pub fn get(&self, conn: ConnId) -> Option<&Link> {
        self.links.get(&conn).map(Box::as_ref)
    }

    /// The current connection to a peer, identified or not.
    pub fn of(&self, peer: &PublicKey) -> Option<(ConnId, &Link)> {
        let conn = *self.by_peer.get(peer)?;
        self.get(conn).map(|l| (conn, l))
    }

    /// Whether the peer is connected and identified.
    pub fn is_up(&self, peer: &PublicKey) -> bool {
        self.of(peer).is_some_and(|(_, l)| l.identified)
    }

    /// All links.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Link)> {
        self.links.iter().map(|(c, l)| (*c, l.as_ref()))
    }

    /// Identified peers, guests included.
    pub fn up(&self) -> usize {
        self.links.values().filter(|l| l.identified).count()
    }

    /// Links, identified or not.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// The identity exchange succeeded with this process of the peer.
    pub fn identified(&mut self, conn: ConnId, process: DhtId) -> Identified {
        let Some(peer) = self.links.get(&conn).map(|l| l.peer) else { return Identified::Current };
        let older = self.by_peer.get(&peer).copied().filter(|c| *c != conn);
        if let Some(link) = older.and_then(|c| self.links.get(&c))
            && link.process == Some(process)
        {
            return Identified::Duplicate;
        }
        self.by_peer.insert(peer, conn);
        if let Some(link) = self.links.get_mut(&conn) {
            link.identified = true;
            link.process = Some(process);
        }
        older.map_or(Identified::Current, Identified::Replaces)
    }

    /// Something that counts as activity happened on a connection.
    pub fn active(&mut self, now: Instant, conn: ConnId) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.last_activity = now;
        }
    }

    /// The peer came when there were peers enough: it stays a moment, or longer if it uses the connection.
    pub fn is_guest(&mut self, now: Instant, conn: ConnId) {
        if self.links.get(&conn).is_some_and(|l| !l.dialled) {
            self.set_guest_until(conn, Some(now + GUEST_STAY));
        }
    }

    fn set_guest_until(&mut self, conn: ConnId, until: Option<Instant>) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        if let Some(before) = std::mem::replace(&mut link.guest_until, until) {
            self.guests.remove(&(before, conn));
        }
        self.guests.extend(until.map(|at| (at, conn)));
    }

    /// A job or a transfer uses the connection.
    pub fn used(&mut self, now: Instant, conn: ConnId) {
        if self.links.get(&conn).is_some_and(|l| l.guest_until.is_some()) {
            self.set_guest_until(conn, Some(now + GUEST_KEPT));
        }
    }

    /// There is room for a guest: it is one no more.
    pub fn stays(&mut self, conn: ConnId) {
        self.set_guest_until(conn, None);
    }

    /// When the next guest is sent away.
    pub fn guests_until(&self) -> Option<Instant> {
        self.guests.first().map(|(at, _)| *at)
    }

    /// Guests whose time is over.
    pub fn guests_over(&self, now: Instant) -> Vec<ConnId> {
        let mut over: Vec<ConnId> =
            self.guests.iter().take_while(|(at, _)| *at <= now).map(|(_, conn)| *conn).collect();
        // The oldest connection first, whenever it came to be a guest.
        over.sort_unstable();
        over
    }

    /// Whether `stream` becomes, or is, the control stream of an accepted connection.
    pub fn adopt_control(&mut self, conn: ConnId, stream: StreamId) -> bool {
        match self.links.get_mut(&conn) {
            Some(link) if !link.dialled && link.control.is_none() => {
                link.control = Some(stream);
                true
            }
            _ => false,
        }
    }

    /// Opens the control stream of a dialled connection; false while the peer allows no stream.
    pub fn open_control<T: Transport>(&mut self, transport: &mut T, conn: ConnId) -> bool {
        match self.links.get_mut(&conn) {
            Some(link) if link.dialled && link.control.is_none() => {
                link.control = transport.open(conn);
                let opened = link.control.is_some();
                if opened {
                    self.flush(transport, conn);
                }
                opened
            }
            _ => false,
        }
    }

    /// Whether `stream` is the connection's control stream.
    pub fn is_control(&self, conn: ConnId, stream: StreamId) -> bool {
        self.links.get(&conn).is_some_and(|l| l.control == Some(stream))
    }

    /// Queues a frame; false when the peer does not read and the queue is full (the link should be closed).
    pub fn send<T: Transport>(&mut self, transport: &mut T, conn: ConnId, frame: &Frame) -> bool {
        let Some(link) = self.links.get_mut(&conn) else { return true };
        let bytes = frame.encode();
        if link.queued_bytes + bytes.len() > CONTROL_QUEUE_BYTES_MAX {
            return false;
        }
        link.queued_bytes += bytes.len();
        link.queue.push_back(bytes.into());
        self.flush(transport, conn);
        true
    }

    /// Writes what is queued, as far as flow control allows.
    pub fn flush<T: Transport>(&mut self, transport: &mut T, conn: ConnId) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        let Some(stream) = link.control else { return };
        while let Some(front) = link.queue.front_mut() {
            match transport.write(conn, stream, front) {
                Ok(n) => link.queued_bytes = link.queued_bytes.saturating_sub(n),
                // Gone: the connection's end is told separately.
                Err(WriteError::Blocked | WriteError::Gone) => return,
            }
            if front.is_empty() {
                link.queue.pop_front();
            }
        }
        link.queue = VecDeque::new();
    }

    /// Reads the next frame of the control stream; `Ok(None)` when more bytes are needed.
    pub fn read<T: Transport>(
        &mut self,
        transport: &mut T,
        conn: ConnId,
    ) -> Result<Option<Frame>, LinkFault> {
        let Some(link) = self.links.get_mut(&conn) else { return Ok(None) };
        let Some(stream) = link.control else { return Ok(None) };
        loop {
            match link.reader.next_frame() {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(e) => return Err(LinkFault::Malformed(e)),
            }
            match transport.read(conn, stream, READ_MAX) {
                Ok(Chunk::Bytes(b)) => link.reader.push(&b),
                Ok(Chunk::End) => return Err(LinkFault::ControlClosed),
                Err(ReadError::Blocked) => return Ok(None),
                Err(ReadError::Gone) => return Err(LinkFault::ControlClosed),
            }
        }
    }

    /// Identified links that have been without activity for too long.
    pub fn expired(&self, now: Instant) -> Vec<ConnId> {
        self.links
            .iter()
            .filter(|(_, l)| l.identified && now.since(l.last_activity) >= self.close_after)
            .map(|(c, _)| *c)
            .collect()
    }
}

impl Link {
    /// Its state (SPEC 3.4).
    pub fn state(&self, now: Instant) -> PeerState {
        let quiet = now.since(self.last_activity);
        if !self.identified {
            PeerState::Connecting
        } else if quiet + STALE_BEFORE >= self.close_after {
            PeerState::Stale
        } else if quiet >= IDLE_AFTER {
            PeerState::Idle
        } else {
            PeerState::Connected
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Keypair;
    use crate::limits::IDLE_CLOSE_AFTER;

    fn keys() -> (PublicKey, PublicKey) {
        let (a, b) = (Keypair::from_seed(&[1; 32]).public(), Keypair::from_seed(&[2; 32]).public());
        if a < b { (a, b) } else { (b, a) }
    }

    fn join(
        links: &mut Links,
        at: u64,
        me: &PublicKey,
        conn: u64,
        peer: PublicKey,
        dialled: bool,
    ) -> Admission {
        links.connected(Instant::from_millis(at), UnixTime::default(), me, ConnId(conn), peer, dialled)
    }

    #[test]
    fn of_two_simultaneous_dials_both_sides_keep_the_one_of_the_lower_key() {
        let (low, high) = keys();
        for (first_dialled_by_low, order) in [(true, [1, 2]), (false, [2, 1])] {
            let (mut at_low, mut at_high) = (Links::new(IDLE_CLOSE_AFTER), Links::new(IDLE_CLOSE_AFTER));
            let mut kept = Vec::new();
            for conn in order {
                // Connection 1 was dialled by the low key, connection 2 by the high one.
                let by_low = conn == 1;
                for (links, me, peer, dialled) in
                    [(&mut at_low, low, high, by_low), (&mut at_high, high, low, !by_low)]
                {
                    join(links, 100, &me, conn, peer, dialled);
                }
            }
            for (links, peer) in [(&at_low, high), (&at_high, low)] {
                kept.push(links.of(&peer).map(|(c, _)| c));
            }
            assert_eq!(kept, [Some(ConnId(1)), Some(ConnId(1))], "first by low: {first_dialled_by_low}");
        }
    }

    #[test]
    fn a_peer_that_dials_again_later_has_forgotten_the_old_connection() {
        let (low, high) = keys();
        let mut links = Links::new(IDLE_CLOSE_AFTER);
        assert_eq!(join(&mut links, 0, &low, 1, high, true), Admission::Welcome);
        assert_eq!(join(&mut links, 60_000, &low, 2, high, false), Admission::Replaces(ConnId(1)));
        assert_eq!(links.of(&high).map(|(c, _)| c), Some(ConnId(2)));
        let (_, current) = links.closed(ConnId(1)).expect("it was there");
        assert!(!current);
        assert!(links.of(&high).is_some());
    }

    #[test]
    fn a_peer_that_restarts_right_after_a_connection_is_told_apart_from_a_simultaneous_dial() {
        let (low, high) = keys();
        for (process, expected) in [(1, Identified::Duplicate), (2, Identified::Replaces(ConnId(1)))] {
            let mut links = Links::new(IDLE_CLOSE_AFTER);
            assert_eq!(join(&mut links, 0, &low, 1, high, true), Admission::Welcome);
            assert_eq!(links.identified(ConnId(1), DhtId([1; 20])), Identified::Current);
            assert_eq!(join(&mut links, 1_000, &low, 2, high, false), Admission::Rival);
            assert_eq!(links.of(&high).map(|(c, _)| c), Some(ConnId(1)));
            assert_eq!(links.identified(ConnId(2), DhtId([process; 20])), expected);
            let kept = if process == 1 { ConnId(1) } else { ConnId(2) };
            assert_eq!(links.of(&high).map(|(c, _)| c), Some(kept));
            assert!(links.is_up(&high));
        }
        // The older connection may end meanwhile.
        let mut links = Links::new(IDLE_CLOSE_AFTER);
        join(&mut links, 0, &low, 1, high, true);
        links.identified(ConnId(1), DhtId([1; 20]));
        join(&mut links, 1_000, &low, 2, high, false);
        assert!(links.closed(ConnId(1)).is_some_and(|(_, current)| current));
        assert_eq!(links.identified(ConnId(2), DhtId([1; 20])), Identified::Current);
        assert!(links.is_up(&high));
    }

    #[test]
    fn a_link_passes_from_connecting_to_stale() {
        let (low, high) = keys();
        let mut links = Links::new(IDLE_CLOSE_AFTER);
        join(&mut links, 0, &low, 1, high, true);
        let state =
            |links: &Links, s: u64| links.get(ConnId(1)).map(|l| l.state(Instant::from_millis(s * 1000)));
        assert_eq!(state(&links, 0), Some(PeerState::Connecting));
        links.identified(ConnId(1), DhtId([1; 20]));
        assert_eq!(state(&links, 59), Some(PeerState::Connected));
        assert_eq!(state(&links, 60), Some(PeerState::Idle));
        assert_eq!(state(&links, 240), Some(PeerState::Stale));
        assert_eq!(links.expired(Instant::from_millis(299_000)), []);
        assert_eq!(links.expired(Instant::from_millis(300_000)), [ConnId(1)]);
        links.active(Instant::from_millis(300_000), ConnId(1));
        assert_eq!(links.expired(Instant::from_millis(300_000)), []);
    }
}
