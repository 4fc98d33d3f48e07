//! The node as a relay: what it passes on, and on whose word it is one.
//!
//! A relay that cannot be reached is a trap for those who register with it. So a node that is willing ([`relay`] in its
//! configuration) serves only once it was dialled back: somebody to whose address nothing was sent for a while completed a handshake
//! with it. In a private network, where no NAT stands between the nodes, its configuration is enough.
//!
//! [`relay`]: crate::node::NodeConfig::relay

use super::Node;
use super::wiring::drive;
use crate::action::Action;
use crate::codec::Frame;
use crate::command::{CommandError, RelayView, Reply};
use crate::dht::record::RelayOffer;
use crate::id::{CommandId, ConnId, PublicKey};
use crate::machine::Machine;
use crate::meter::Meter;
use crate::place::Place;
use crate::relay::message::Message;
use crate::relay::server::{self, Room, Server};
use crate::relay::whereabouts::{self, At, Tell};
use crate::time::{Deadline, Duration, Instant};
use crate::transport::{DatagramError, Transport};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Whoever is silent for so long has no NAT mapping open to us any more: longer than any that is common.
const UNASKED_AFTER: Duration = Duration::from_secs(600);
/// Addresses remembered to which something was sent.
const SPOKEN_MAX: usize = 4_096;

/// What a node that relays keeps.
#[derive(Debug)]
pub(super) struct Passing {
    server: Server,
    proven: bool,
    /// Who wanted others to be told where it is.
    tells: Meter,
    /// When something was last sent there, by IP.
    spoken: BTreeMap<IpAddr, Instant>,
}

impl Passing {
    pub(super) fn new(config: server::Config) -> Self {
        Self {
            server: Server::new(config),
            proven: false,
            tells: whereabouts::meter(),
            spoken: BTreeMap::new(),
        }
    }

    /// Whether it relays for others now.
    pub(super) fn serves(&self) -> bool {
        self.server.is_serving()
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        self.server.poll_timeout()
    }

    /// Whether the peer holds a session.
    pub(super) fn holds(&self, peer: &PublicKey) -> bool {
        self.server.holds(peer)
    }

    fn speaks_to(&mut self, now: Instant, ip: IpAddr) {
        if self.spoken.len() >= SPOKEN_MAX {
            self.spoken.retain(|_, at| now.since(*at) < UNASKED_AFTER);
        }
        if self.spoken.len() < SPOKEN_MAX {
            self.spoken.insert(ip, now);
        }
    }
}

impl<T: Transport> Node<T> {
    /// Something is sent to an address that may never have heard of us.
    pub(super) fn speaks_to(&mut self, addr: SocketAddr) {
        let now = self.now;
        if let Some(passing) = self.passing.as_mut().filter(|p| !p.proven) {
            passing.speaks_to(now, addr.ip().to_canonical());
        }
    }

    /// The node is up: in a private network its configuration is proof enough.
    pub(super) fn passing_begins(&mut self) {
        if self.config.private_network && self.passing.is_some() {
            self.proven_reachable();
        }
    }

    /// A peer is identified: it may use the relay. That it could dial us is proof that others can, if we never spoke to it.
    pub(super) fn passing_up(&mut self, conn: ConnId, peer: PublicKey, dialled: bool) {
        let addr = match self.transport.place(conn) {
            Some(Place::Direct { addr, .. }) => Some(addr),
            Some(Place::Tunnel(tunnel)) => self.tunnelling.addr(tunnel),
            Some(Place::Relayed { .. }) | None => None,
        };
        let Some(addr) = addr else { return };
        let Some(passing) = &mut self.passing else { return };
        let now = self.now;
        let ip = addr.ip().to_canonical();
        let unasked = passing.spoken.get(&ip).is_none_or(|at| now.since(*at) >= UNASKED_AFTER);
        if !passing.proven && !dialled && unasked {
            self.proven_reachable();
        }
        self.tell_server(server::Input::PeerUp { conn, peer, addr });
    }

    /// What our record says of the relay; its address is ours, and filled in when there is one.
    pub(super) fn relay_offer(&self) -> Option<RelayOffer> {
        let passing = self.passing.as_ref().filter(|p| p.serves())?;
        let endpoint = *self.own_addrs.first()?;
        let load = passing.server.load();
        Some(RelayOffer { endpoint, sessions: load.max, price: load.price })
    }

    fn proven_reachable(&mut self) {
        if let Some(passing) = &mut self.passing {
            passing.proven = true;
            passing.spoken = BTreeMap::new();
            self.tell_server(server::Input::Serve(true));
            self.content_changed();
            self.offer_relay();
        }
    }

    /// Those who are connected were told that this node is no relay; now it is.
    fn offer_relay(&mut self) {
        let Some(load) = self.passing.as_ref().map(|p| p.server.load()) else { return };
        let frame = Message::Load(load).to_frame();
        let up: Vec<ConnId> = self.links.iter().filter(|(_, l)| l.identified).map(|(c, _)| c).collect();
        up.into_iter().for_each(|conn| self.send_on(conn, &frame));
    }

    /// A connection ended.
    pub(super) fn passing_down(&mut self, conn: ConnId) {
        self.tell_server(server::Input::PeerDown { conn });
    }

    /// A datagram to be passed on.
    pub(super) fn pass_on(&mut self, conn: ConnId, bytes: Bytes) {
        if self.passing.is_none() {
            return self.refuse("relay-none");
        }
        self.tell_server(server::Input::Datagram { conn, bytes });
    }

    /// A frame for a relay.
    pub(super) fn passing_frame(&mut self, conn: ConnId, frame: &Frame) {
        if self.passing.is_none() {
            return self.refuse("relay-none");
        }
        self.tell_server(server::Input::Frame { conn, frame: frame.clone() });
    }

    /// An end wants another to be told where it is.
    pub(super) fn tell_whereabouts(&mut self, conn: ConnId, peer: PublicKey, tell: Tell) {
        let now = self.now;
        if !self.passing.as_mut().is_some_and(|p| p.tells.hears(now, &peer)) {
            return self.refuse("relay-tell-flood");
        }
        let of = self.passing.as_ref().and_then(|p| p.server.connection_of(&tell.peer));
        if let (Some(to), Some(addr)) = (of, self.addr_of(conn)) {
            let ip = addr.ip().to_canonical();
            self.send_on(to, &At { peer: peer.peer_id(), ip }.to_frame());
        }
    }

    fn tell_server(&mut self, input: server::Input) {
        let Some(passing) = &mut self.passing else { return };
        let out = drive(&mut passing.server, &mut self.rngs.passing, self.now, self.wall, |m, cx| {
            m.handle(cx, input);
        });
        self.after_server(out);
    }

    pub(super) fn passing_timeout(&mut self) {
        let now = self.now;
        let Some(passing) = &mut self.passing else { return };
        if passing.server.poll_timeout().is_some_and(|d| d.at <= now) {
            let out =
                drive(&mut passing.server, &mut self.rngs.passing, now, self.wall, Machine::handle_timeout);
            self.after_server(out);
        }
    }

    fn after_server(&mut self, out: Vec<server::Output>) {
        for o in out {
            match o {
                server::Output::Send { conn, frame } => self.send_on(conn, &frame),
                server::Output::Account(account) => self.actions.push_back(Action::Account(account)),
                server::Output::Refused(why) => self.refuse(why),
                server::Output::Closed => {}
            }
        }
    }

    /// Sends what waits to be passed on, as far as the receivers' connections have room.
    pub(super) fn forward(&mut self) {
        let Some(passing) = &mut self.passing else { return };
        let transport = RefCell::new(&mut self.transport);
        let room = |conn| {
            let (datagram_max, free) = transport.borrow_mut().datagram_room(conn)?;
            Some(Room { datagram_max, free })
        };
        let mut lost = 0;
        while let Some((conn, bytes)) = passing.server.poll_forward(self.now, room) {
            match transport.borrow_mut().send_datagram(conn, bytes) {
                Ok(()) => {}
                Err(DatagramError::TooLarge(_) | DatagramError::Unsupported) => lost += 1,
            }
        }
        for _ in 0..lost {
            self.refuse("relay-datagram-unsent");
        }
    }

    // ------------------------------------------------------------------------------------ the operator

    /// How the relay is.
    pub(super) fn relay_view(&self) -> RelayView {
        // By the book, which outlives restarts: whom it refuses never comes as far as the server.
        let blocked = self.book.iter().filter(|(_, p)| p.blocked).map(|(key, _)| *key).collect();
        match &self.passing {
            None => RelayView { blocked, ..RelayView::default() },
            Some(passing) => RelayView {
                willing: true,
                proven: passing.proven,
                stats: passing.server.stats(),
                sessions: passing.server.sessions().collect(),
                blocked,
            },
        }
    }

    /// Ends a session, for the operator.
    pub(super) fn relay_disconnect(&mut self, id: CommandId, peer: PublicKey) {
        if !self.passing.as_ref().is_some_and(|p| p.holds(&peer)) {
            return self.reply(id, Reply::Error(CommandError::NoSession(peer)));
        }
        self.tell_server(server::Input::Disconnect { peer });
        self.reply(id, Reply::Done);
    }

    /// Refuses a peer at the relay too, or takes that back.
    pub(super) fn relay_blocks(&mut self, peer: PublicKey, blocked: bool) {
        self.tell_server(server::Input::Block { peer, blocked });
    }
}
