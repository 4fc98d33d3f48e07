//! How peers are reached: which of the rooms of paths is told what, and what follows.
//!
//! | who | says | to |
//! |---|---|---|
//! | transport | silent, moved | paths |
//! | paths | where packets go from now on | transport |
//! | paths | only relayed, a direct way is worth trying | puncher |
//! | puncher | probe there, by that socket | paths |
//! | paths | proven | puncher |
//! | whoever sees us (identity exchange, pongs, STUN) | our address | observer |
//! | observer | what our NAT does | puncher, paths (how often a mapping must be used), record |
//! | dial-backs | what comes in, how long a mapping lives | observer |
//!
//! What is no QUIC on our sockets ends here: probes, and STUN (RFC 8489), which every public node answers. A connection has
//! paths as soon as it may need more than one: it is relayed, one side is not public, or something moved. Two public nodes that
//! stay where they are need none.

use super::Node;
use super::dialback::DialBacks;
use super::wiring::{Inside, drive};
use crate::action::Action;
use crate::command::{PunchCount, ReachView, RelayUse};
use crate::dht;
use crate::dht::endpoint::{Scope, scope, usable};
use crate::dht::record::{NatType, NodeType};
use crate::event::Datagram;
use crate::id::{ConnId, PublicKey};
use crate::identity::cascade;
use crate::machine::Machine;
use crate::path::behaviour::observer::{self, Observer};
use crate::path::behaviour::{Allocation, Behaviour};
use crate::path::dialback;
use crate::path::paths::{self, Paths};
use crate::path::probe::{self, ProbeKeys};
use crate::path::punch::{self, Puncher};
use crate::path::stun::{self, StunClient};
use crate::place::{Place, SocketEvent, SocketId, SocketRequest};
use crate::relay::tunnels;
use crate::relay::whereabouts::{At, Tell};
use crate::time::{Deadline, Duration, Instant};
use crate::transport::{Transmit, Transport};
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// What both ends of a connection make their probe keys from.
const PROBE_SECRET: &[u8] = b"remote-network path probes v1";
/// Datagrams of our own that wait to be sent; the rooms' budgets keep them far below.
const WAITING_MAX: usize = 4_096;
/// Sockets opened for a moment to see which ports a NAT gives to new mappings.
const MEASURING: [SocketId; 2] = [SocketId(1), SocketId(2)];
/// They are closed after this long, answered or not.
const MEASURING_TIME: Duration = Duration::from_secs(3);
/// STUN servers asked about ourselves.
const STUN_SERVERS_MAX: usize = 8;

/// The rooms that know how peers are reached.
#[derive(Debug, Default)]
pub(super) struct Reach {
    pub(super) paths: Paths,
    pub(super) puncher: Puncher,
    pub(super) observer: Observer,
    pub(super) stun: StunClient,
    pub(super) dialbacks: DialBacks,
    /// Where a router forwards to us on request.
    mapped: Vec<SocketAddr>,
    /// Datagrams of our own, on their way out.
    out: VecDeque<(SocketId, SocketAddr, Bytes)>,
    /// What the puncher was told last of where we are.
    told: Vec<SocketAddr>,
    /// Public nodes we met, which answer STUN; the last one first.
    servers: Vec<SocketAddr>,
    /// Until when further sockets are open to measure with; once measured, for ever.
    measuring: Measuring,
}

/// Whether the ports of new mappings were looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Measuring {
    #[default]
    Never,
    Until(Instant),
    Done,
}

impl Reach {
    /// The next datagram of our own.
    pub(super) fn transmit(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        let (socket, to, bytes) = self.out.pop_front()?;
        if self.out.is_empty() {
            self.out = VecDeque::new();
        }
        buf.extend_from_slice(&bytes);
        Some(Transmit { socket, to, from: None, size: bytes.len(), segment_size: None, ecn: None })
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        [
            self.paths.poll_timeout(),
            self.puncher.poll_timeout(),
            self.observer.poll_timeout(),
            self.stun.poll_timeout(),
            self.dialbacks.poll_timeout(),
            match self.measuring {
                Measuring::Until(at) => Some(Deadline::new(at, "close measuring sockets")),
                Measuring::Never | Measuring::Done => None,
            },
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }

    pub(super) fn send(&mut self, socket: SocketId, to: SocketAddr, bytes: Bytes) -> bool {
        let room = self.out.len() < WAITING_MAX;
        if room {
            self.out.push_back((socket, to, bytes));
        }
        room
    }
}

impl<T: Transport> Node<T> {
    // ------------------------------------------------------------------------------------ what arrives

    /// A datagram arrived: a QUIC packet, a probe, or STUN. Only QUIC packets have the second bit set (RFC 9443).
    pub(super) fn arrived(&mut self, datagram: Datagram) {
        // The dial-backs see their own.
        if dialback::is_resting(datagram.socket) && datagram.payload.first() != Some(&dialback::FIRST_BYTE) {
            self.dialback_disturbed(datagram.socket);
        }
        match datagram.payload.first() {
            Some(first) if first & 0x40 != 0 || first & 0x80 != 0 => {
                self.transport.handle(self.now, datagram);
            }
            Some(&probe::FIRST_BYTE) => {
                let place = Place::Direct { socket: datagram.socket, addr: datagram.from };
                let bytes = datagram.payload.freeze();
                self.inbox.push_back(Inside::Paths(paths::Input::Probe { place, bytes }));
            }
            Some(&dialback::FIRST_BYTE) => {
                self.dialled_back(datagram.socket, datagram.from, &datagram.payload);
            }
            Some(_) if stun::is_stun(&datagram.payload) => self.stun_arrived(&datagram),
            Some(_) | None => self.refuse("datagram-unknown"),
        }
    }

    fn stun_arrived(&mut self, datagram: &Datagram) {
        let (socket, from) = (datagram.socket, datagram.from);
        if stun::is_request(&datagram.payload) {
            let answer = self.config.public.then(|| stun::answer(&datagram.payload, from).ok()).flatten();
            if !answer.is_some_and(|answer| self.reach.send(socket, from, answer.into())) {
                self.refuse("stun-request");
            }
        } else {
            let datagram = datagram.payload.to_vec();
            self.inbox.push_back(Inside::Stun(stun::Input::Received { socket, from, datagram }));
        }
    }

    /// A socket was opened for us, or failed.
    pub(super) fn socket_event(&mut self, event: SocketEvent) {
        if let SocketEvent::Opened(socket, _) | SocketEvent::Failed(socket, _) = &event
            && dialback::is_ours(*socket)
        {
            return self.dialback_socket(event);
        }
        match &event {
            SocketEvent::Opened(socket, local) => {
                let bound = observer::Input::Bound { socket: *socket, local: *local };
                self.inbox.push_back(Inside::Observer(bound));
                if MEASURING.contains(socket) {
                    for to in self.reach.servers.clone() {
                        self.inbox.push_back(Inside::Stun(stun::Input::Ask { socket: *socket, to }));
                    }
                }
            }
            SocketEvent::Failed(socket, _) => {
                self.inbox.push_back(Inside::Paths(paths::Input::SocketGone(*socket)));
            }
        }
        self.inbox.push_back(Inside::Punch(punch::Input::Socket(event)));
    }

    /// A router forwards there to us from now on.
    pub(super) fn mapped(&mut self, addrs: Vec<SocketAddr>) {
        if self.reach.mapped != addrs {
            self.reach.mapped = addrs;
            self.tell_where_we_are();
        }
    }

    // ------------------------------------------------------------------------------------ connections

    /// A peer is identified: its connection has paths if it may need them.
    pub(super) fn reach_up(&mut self, conn: ConnId, peer: &PublicKey, node_type: NodeType) {
        let Some(place) = self.transport.place(conn) else { return };
        if !place.is_direct() || !self.config.public || node_type == NodeType::Private {
            self.begin_paths(conn, peer, place);
        }
        if let Some(by) = place.addr() {
            self.know_stun_server(by, node_type);
        }
        self.dialback_up(conn, node_type);
    }

    fn begin_paths(&mut self, conn: ConnId, peer: &PublicKey, place: Place) {
        if self.reach.paths.place(conn).is_some() {
            return;
        }
        let Some(secret) = self.transport.secret(conn, PROBE_SECRET) else { return };
        let keys = ProbeKeys::derive(&secret, &self.me, peer);
        let rtt = self.rtt_of(conn);
        self.transport.watch(conn, true);
        self.inbox.push_back(Inside::Paths(paths::Input::Up { conn, keys, place, rtt }));
    }

    pub(super) fn rtt_of(&self, conn: ConnId) -> Duration {
        self.transport.stats(conn).map_or(Duration::from_millis(100), |s| Duration::from_micros(s.rtt_us))
    }

    /// A connection ended.
    pub(super) fn reach_down(&mut self, conn: ConnId) {
        self.dialback_down(conn);
        if self.reach.paths.place(conn).is_some() || self.relaying.is_carrier(conn) {
            self.inbox.push_back(Inside::Paths(paths::Input::Down(conn)));
            self.inbox.push_back(Inside::Punch(punch::Input::Down(conn)));
        }
    }

    /// What the peer of a connection hears of it, or does not.
    pub(super) fn silent(&mut self, conn: ConnId) {
        self.inbox.push_back(Inside::Paths(paths::Input::Silent(conn)));
    }

    /// Packets of a connection come from elsewhere.
    pub(super) fn moved(&mut self, conn: ConnId, place: Place, bytes: usize) {
        if let Some(link) = self.links.get(conn).filter(|l| l.identified) {
            let peer = link.peer;
            if let Some(old) = self.transport.place(conn) {
                self.begin_paths(conn, &peer, old);
            }
        }
        self.inbox.push_back(Inside::Paths(paths::Input::Moved { conn, place, bytes }));
    }

    /// Nothing gets through a place any more.
    pub(super) fn place_gone(&mut self, place: Place) {
        self.inbox.push_back(Inside::Paths(paths::Input::Gone(place)));
    }

    // ------------------------------------------------------------------------------------ ourselves

    /// The addresses of this machine changed.
    pub(super) fn network_changed(&mut self) {
        let own = self.local_addrs.clone();
        self.inbox.push_back(Inside::Observer(observer::Input::NetworkChanged));
        self.inbox.push_back(Inside::Observer(observer::Input::LocalAddrs(own)));
        self.inbox.push_back(Inside::Stun(stun::Input::NetworkChanged));
        self.tell_tunnels(tunnels::Input::NetworkChanged);
        self.dialback_network_changed();
        if self.reach.measuring == Measuring::Done {
            self.reach.measuring = Measuring::Never;
        }
        // Everybody's way may have changed with ours.
        let without: Vec<(ConnId, PublicKey)> =
            self.links.iter().filter(|(_, l)| l.identified).map(|(conn, l)| (conn, l.peer)).collect();
        for (conn, peer) in without {
            if let Some(place) = self.transport.place(conn) {
                self.begin_paths(conn, &peer, place);
            }
        }
        self.inbox.push_back(Inside::Paths(paths::Input::NetworkChanged));
        self.tell_where_we_are();
    }

    /// The observer hears at the start where the socket is.
    pub(super) fn reach_begins(&mut self) {
        let own = self.local_addrs.clone();
        self.inbox.push_back(Inside::Observer(observer::Input::LocalAddrs(own)));
        let birthday = self.config.birthday_probing;
        self.inbox.push_back(Inside::Punch(punch::Input::Enabled { birthday }));
        self.tell_where_we_are();
    }

    /// A peer sees our packets come from there. A node that everybody reaches has nothing to learn from it.
    pub(super) fn observed_by(&mut self, by: Place, mapped: SocketAddr) {
        if let Place::Direct { socket, addr } = by
            && !self.config.public
        {
            self.inbox.push_back(Inside::Observer(observer::Input::Observed { by: addr, socket, mapped }));
        }
    }

    /// A public node, at an address of its own, answers STUN.
    fn know_stun_server(&mut self, addr: SocketAddr, node_type: NodeType) {
        let servers = &mut self.reach.servers;
        if node_type == NodeType::Public && !self.config.public && !servers.contains(&addr) {
            servers.truncate(STUN_SERVERS_MAX - 1);
            servers.insert(0, addr);
            let servers = servers.clone();
            self.inbox.push_back(Inside::Observer(observer::Input::Servers(servers)));
        }
    }

    /// A peer on the same link, it says: worth a look, whatever kind of address it has.
    pub(super) fn nearby(&mut self, key: PublicKey, addr: SocketAddr) {
        if key != self.me && !self.book.is_blocked(&key) && !self.links.is_up(&key) {
            self.inbox.push_back(Inside::Cascade(cascade::Input::Nearby { key, addr }));
        }
    }

    /// The room of paths hears of further places of a connection.
    pub(super) fn places_known(&mut self, conn: ConnId, places: Vec<Place>) {
        self.inbox.push_back(Inside::Paths(paths::Input::Places { conn, places }));
    }

    /// A record arrived: it may name relays by which a connection that is lost goes on.
    pub(super) fn record_found(&mut self, key: &PublicKey) {
        if let Some((conn, _)) = self.links.of(key)
            && self.relaying.knows(conn)
        {
            self.tell_places(conn);
        }
    }

    /// A relay says where it sees a peer, at that peer's own wish.
    pub(super) fn told_whereabouts(&mut self, relay: ConnId, at: At) {
        let place = Place::Relayed { relay, peer: at.peer };
        let there: Vec<ConnId> =
            self.links.iter().map(|(c, _)| c).filter(|c| self.transport.place(*c) == Some(place)).collect();
        for conn in there {
            // Kept as well: it may come before the puncher knows of the connection.
            self.relaying.saw(conn, at.ip);
            self.inbox.push_back(Inside::Punch(punch::Input::Seen { conn, ip: at.ip }));
        }
    }

    /// Whether the node may dial an address that somebody named.
    pub(super) fn may_dial(&self, addr: SocketAddr) -> bool {
        usable(addr, self.config.private_network) && !self.own_addrs.contains(&addr)
    }

    /// What stands between this node and others.
    pub(super) fn nat_type(&self) -> NatType {
        if self.config.public { NatType::Open } else { self.reach.observer.nat_type() }
    }

    /// How others reach this node, for people.
    pub(super) fn reach_view(&self) -> ReachView {
        let relays = self.reserving.attachments().iter().enumerate();
        let outcomes = self.reach.puncher.outcomes().into_iter();
        ReachView {
            nat: self.nat_type(),
            nat_words: match (self.config.public, self.tunnelling.in_use()) {
                (true, _) => "everybody can write to this node, its configuration says".to_owned(),
                (false, 0) => self.reach.observer.words(),
                (false, _) => "no answer over UDP: relays are reached over TCP".to_owned(),
            },
            mapped: self.reach.mapped.clone(),
            relays: relays.map(|(n, a)| RelayUse { relay: a.relay, addr: a.addr, active: n == 0 }).collect(),
            relay_words: self.reserving.words().to_owned(),
            punches: outcomes
                .map(|(ours, theirs, tried, punched, first_try)| PunchCount {
                    ours,
                    theirs,
                    tried,
                    punched,
                    first_try,
                })
                .collect(),
        }
    }

    /// Tells the puncher our candidates, best first, and what our NAT does.
    fn tell_where_we_are(&mut self) {
        let usable = |a: &&SocketAddr| match scope(**a) {
            Scope::Public | Scope::Private => true,
            Scope::Loopback => self.config.private_network,
            Scope::Never => false,
        };
        let observed = self.reach.observer.mapped();
        let all = self.reach.mapped.iter().chain(&observed).chain(&self.own_addrs).chain(&self.local_addrs);
        let mut candidates: Vec<SocketAddr> = Vec::new();
        for addr in all.filter(usable) {
            if !candidates.contains(addr) {
                candidates.push(*addr);
            }
        }
        candidates.truncate(punch::message::CANDIDATES_MAX);
        let changed = self.reach.told != candidates;
        self.reach.told.clone_from(&candidates);
        let behaviour = match self.config.public {
            true => Behaviour::open(),
            false => self.reach.observer.behaviour().clone(),
        };
        self.inbox.push_back(Inside::Punch(punch::Input::Own { candidates, behaviour }));
        if changed {
            self.inbox.push_back(Inside::Paths(paths::Input::CandidatesChanged(None)));
        }
    }

    // ------------------------------------------------------------------------------------ what follows

    pub(super) fn after_paths(&mut self, out: Vec<paths::Output>) {
        for o in out {
            match o {
                paths::Output::Use { conn, place, nudge, downgrade } => {
                    self.transport.set_place(self.now, conn, place, nudge, downgrade);
                    self.dialback_place(conn);
                }
                paths::Output::Send { socket, to, bytes } => {
                    if !self.reach.send(socket, to, bytes) {
                        self.refuse("probes-waiting");
                    }
                }
                paths::Output::Validated { conn, place, .. } => {
                    self.inbox.push_back(Inside::Punch(punch::Input::Direct { conn, place }));
                }
                paths::Output::Observed { conn, place, addr } => {
                    self.observed_by(place, addr);
                    if let (Place::Direct { socket: SocketId::MAIN, addr: there }, Some(by)) =
                        (place, self.links.get(conn).map(|l| l.peer))
                    {
                        let from = Some(there.ip());
                        self.inbox.push_back(Inside::Dht(dht::Input::Observed { by, from, addr }));
                    }
                }
                paths::Output::Lost(conn) => self.lost(conn),
                paths::Output::WantPunch(conn) => {
                    if let Some(link) = self.links.get(conn).filter(|l| l.identified) {
                        let (peer, initiator, rtt) = (link.peer, link.dialled, self.rtt_of(conn));
                        if let Some(Place::Relayed { relay, peer }) = self.transport.place(conn) {
                            self.send_on(relay, &Tell { peer }.to_frame());
                        }
                        let relayed = punch::Input::Relayed { conn, peer, initiator, rtt };
                        self.inbox.push_back(Inside::Punch(relayed));
                        if let Some(ip) = self.relaying.seen(conn) {
                            self.inbox.push_back(Inside::Punch(punch::Input::Seen { conn, ip }));
                        }
                    }
                }
                paths::Output::Changed(conn) => {
                    if let Some(peer) = self.links.get(conn).map(|l| l.peer) {
                        self.notify_peer(&peer);
                    }
                }
                paths::Output::Refused(why) => self.refuse(why),
            }
        }
    }

    /// Nothing reaches the peer of a connection any more. If the connection led to a relay of ours, others of that relay are
    /// no better; for any other peer the DHT may know a new way.
    fn lost(&mut self, conn: ConnId) {
        self.relay_suspect(conn);
        self.lost_relay(conn);
        if let Some(peer) = self.links.get(conn).map(|l| l.peer) {
            self.inbox.push_back(Inside::Dht(dht::Input::Invalidate(peer)));
            self.inbox.push_back(Inside::Dht(dht::Input::Lookup(peer)));
        }
    }

    pub(super) fn after_punch(&mut self, out: Vec<punch::Output>) {
        for o in out {
            match o {
                punch::Output::Send { conn, frame } => self.send_on(conn, &frame),
                punch::Output::Probe { conn, socket, to, confirmed } => {
                    let at = paths::Input::ProbeAt { conn, socket, addr: to, urgent: confirmed };
                    self.inbox.push_back(Inside::Paths(at));
                }
                punch::Output::Socket(request) => {
                    self.actions.push_back(Action::Socket(request));
                    if let SocketRequest::Close(socket) = request {
                        self.inbox.push_back(Inside::Paths(paths::Input::SocketGone(socket)));
                    }
                }
                punch::Output::Outcome { .. } => {}
                punch::Output::Refused(why) => self.refuse(why),
            }
        }
    }

    pub(super) fn after_observer(&mut self, out: Vec<observer::Output>) {
        for o in out {
            match o {
                observer::Output::Ask { socket, to } => {
                    self.inbox.push_back(Inside::Stun(stun::Input::Ask { socket, to }));
                }
                observer::Output::Changed => {
                    self.measure_ports();
                    self.dialback_behind();
                    let every = self.reach.observer.keepalive();
                    self.inbox.push_back(Inside::Paths(paths::Input::Keepalive(every)));
                    self.tell_where_we_are();
                }
            }
        }
    }

    pub(super) fn after_stun(&mut self, out: Vec<stun::Output>) {
        for o in out {
            match o {
                stun::Output::Send { socket, to, datagram } => {
                    if !self.reach.send(socket, to, datagram.into()) {
                        self.refuse("probes-waiting");
                    }
                }
                stun::Output::Mapped { by, socket, mapped } => {
                    self.dialback_mapped(by, socket, Some(mapped));
                    // One that is left alone is seen once in minutes: no neighbour of the others.
                    if dialback::is_resting(socket) {
                        continue;
                    }
                    self.inbox.push_back(Inside::Observer(observer::Input::Observed { by, socket, mapped }));
                }
                stun::Output::Failed { by, socket } => self.dialback_mapped(by, socket, None),
                stun::Output::Refused(why) => self.refuse(why),
            }
        }
    }

    /// Behind a NAT that gives each destination a port of its own, which ports those are decides how a hole is punched; a
    /// few mappings more than there are relays show it.
    fn measure_ports(&mut self) {
        let behaviour = self.reach.observer.behaviour();
        let unknown = behaviour.is_hard() && behaviour.allocation == Allocation::Unknown;
        if unknown && self.reach.measuring == Measuring::Never && !self.reach.servers.is_empty() {
            self.reach.measuring = Measuring::Until(self.now + MEASURING_TIME);
            for socket in MEASURING {
                self.actions.push_back(Action::Socket(SocketRequest::Open(socket)));
            }
        }
    }

    fn measured_ports(&mut self) {
        self.reach.measuring = Measuring::Done;
        for socket in MEASURING {
            self.actions.push_back(Action::Socket(SocketRequest::Close(socket)));
        }
    }

    /// Wakes those of the rooms whose time has come.
    pub(super) fn reach_timeout(&mut self) {
        self.dialback_timeout();
        let (now, wall) = (self.now, self.wall);
        let due = |d: Option<Deadline>| d.is_some_and(|d| d.at <= now);
        if matches!(self.reach.measuring, Measuring::Until(at) if at <= now) {
            self.measured_ports();
        }
        if due(self.reach.paths.poll_timeout()) {
            let out = drive(&mut self.reach.paths, &mut self.rngs.paths, now, wall, Machine::handle_timeout);
            self.after_paths(out);
        }
        if due(self.reach.puncher.poll_timeout()) {
            let out =
                drive(&mut self.reach.puncher, &mut self.rngs.punch, now, wall, Machine::handle_timeout);
            self.after_punch(out);
        }
        if due(self.reach.observer.poll_timeout()) {
            let out =
                drive(&mut self.reach.observer, &mut self.rngs.observer, now, wall, Machine::handle_timeout);
            self.after_observer(out);
        }
        if due(self.reach.stun.poll_timeout()) {
            let out = drive(&mut self.reach.stun, &mut self.rngs.stun, now, wall, Machine::handle_timeout);
            self.after_stun(out);
        }
    }
}
