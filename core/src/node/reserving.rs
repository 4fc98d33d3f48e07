//! The node as a relay's client: who keeps it reachable while it is private.
//!
//! The room [`crate::relay::client`] decides which relays hold a reservation; here it learns who is a relay and how far, and what
//! follows is done: relays are connected and kept in use, the record names them, and peers with whom the node talks are told
//! where else it can be reached, so that the death of a relay ends no connection.
//!
//! | frame | body |
//! |---|---|
//! | `0x3c` ways | `r` relays that hold a session for the sender, best first, as in its record |

use super::Node;
use super::wiring::drive;
use crate::codec::{DecodeError, Dict, Frame, Value};
use crate::dht::record::{ATTACHMENTS_MAX, Attachment};
use crate::few::Few;
use crate::id::{ConnId, PublicKey};
use crate::identity::budget::{DialBudget, WINDOW};
use crate::machine::Machine;
use crate::place::Place;
use crate::relay::client::{self, Client};
use crate::relay::message::Message;
use crate::time::{Deadline, Duration, Instant};
use crate::transport::Transport;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Frame kind of the ways by which the sender can be reached.
pub(super) const KIND_WAYS: u8 = 0x3c;
/// How often a relay hears of its clients (SPEC 4.5 `relay_keepalive`); what is sent then also shows soon that a relay is gone.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
/// Bytes of such a frame: three relays, and room for newer keys.
const WAYS_BYTES_MAX: usize = 1_024;
/// Relays that peers name, connected to in any [`WINDOW`], whoever names them; into one network as few as strangers' addresses
/// are dialled ([`DialBudget`]). Peers that talk to us through relays mostly use the same few.
const NAMED_MAX: usize = 32;
/// Relays taken from the book of peers at the start.
const KNOWN_RELAYS_MAX: usize = 16;

/// What the node holds of relays.
#[derive(Debug)]
pub(super) struct Reserving {
    client: Client,
    /// As in our record.
    attachments: Vec<Attachment>,
    /// What the client does: for people.
    words: String,
    /// Where each peer that talks to us through a relay says that it can be reached.
    ways: Few<ConnId, Vec<Attachment>>,
    named: Named,
    keepalive: Option<Instant>,
}

/// Relays that peers named and that were tried lately. A peer may name any address: many who name a victim's, or one who names
/// others again and again, must not make us knock there as if the user had said so.
#[derive(Debug, Default)]
struct Named {
    dials: DialBudget,
    tried: BTreeMap<PublicKey, Instant>,
}

impl Named {
    /// Whether a relay may be tried now; if so it counts.
    fn may_try(&mut self, now: Instant, relay: PublicKey, addr: SocketAddr) -> bool {
        self.tried.retain(|_, at| now.since(*at) < WINDOW);
        let is_free = self.dials.waits_until(now, addr).is_none();
        let may = is_free && self.tried.len() < NAMED_MAX && !self.tried.contains_key(&relay);
        if may {
            self.dials.spend(now, addr);
            self.tried.insert(relay, now);
        }
        may
    }
}

impl Reserving {
    pub(super) fn new(me: &PublicKey) -> Self {
        Self {
            client: Client::new(me),
            attachments: Vec::new(),
            words: String::new(),
            ways: Few::new(),
            named: Named::default(),
            keepalive: None,
        }
    }

    pub(super) fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    pub(super) fn words(&self) -> &str {
        &self.words
    }

    /// Whether a session is held at this relay.
    pub(super) fn holds(&self, relay: &PublicKey) -> bool {
        self.attachments.iter().any(|a| a.relay == *relay)
    }

    /// Whether this is a relay that may be reserved at.
    pub(super) fn knows(&self, relay: &PublicKey) -> bool {
        self.client.knows(relay)
    }

    /// Where such a relay is.
    pub(super) fn addr_of(&self, relay: &PublicKey) -> Option<SocketAddr> {
        self.client.addr(relay)
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let keepalive = self.keepalive.map(|at| Deadline::new(at, "keep relays in use"));
        Deadline::earlier(self.client.poll_timeout(), keepalive)
    }

    /// The connection is gone.
    pub(super) fn gone(&mut self, conn: ConnId) {
        self.ways.remove(&conn);
    }
}

impl<T: Transport> Node<T> {
    /// The node is up: relays it was told of, and those it knew.
    pub(super) fn reserving_begins(&mut self) {
        let mut known = self.config.relays.clone();
        if let Some((preferred, _)) = known.first() {
            self.tell_client(client::Input::Prefer(Some(*preferred)));
        }
        known.extend(self.book.relays(KNOWN_RELAYS_MAX));
        for (key, addr) in known {
            self.tell_client(client::Input::Candidate { key, addr, price: 0 });
        }
        self.tell_client(client::Input::Want(!self.config.public));
    }

    /// A peer is identified; it may be a relay, and may be one of ours.
    pub(super) fn reserving_up(&mut self, conn: ConnId, key: PublicKey, is_relay: bool) {
        let Some(place) = self.transport.place(conn) else { return };
        if is_relay && let Place::Direct { addr, .. } = place {
            let price = self.dht.peek(&key).and_then(|r| r.content.relay_offer).map_or(0, |o| o.price);
            self.tell_client(client::Input::Candidate { key, addr, price });
        }
        if !matches!(place, Place::Relayed { .. }) {
            let rtt = self.rtt_of(conn);
            self.tell_client(client::Input::PeerUp { conn, key, rtt });
        }
    }

    /// A connection ended.
    pub(super) fn reserving_down(&mut self, conn: ConnId, key: PublicKey) {
        self.tell_client(client::Input::PeerDown { conn, key });
    }

    /// A peer could not be connected to.
    pub(super) fn reserving_failed(&mut self, key: PublicKey, why: &str) {
        self.tell_client(client::Input::Failed { key, why: why.to_owned() });
    }

    /// Nothing comes back on a connection any more.
    pub(super) fn relay_suspect(&mut self, conn: ConnId) {
        if let Some(key) = self.links.get(conn).map(|l| l.peer).filter(|k| self.reserving.holds(k)) {
            self.tell_client(client::Input::Suspect { key });
        }
    }

    /// A relay says something.
    pub(super) fn relay_frame(&mut self, conn: ConnId, frame: &Frame) {
        match Message::from_frame(frame) {
            Ok(Message::Gone { peer }) if peer != self.me.peer_id() => return self.no_session(conn, peer),
            // Unasked: the peer has become a relay since it told who it is.
            Ok(Message::Load(load)) => {
                let key = self.links.get(conn).map(|l| l.peer);
                if let (Some(key), Some(addr)) = (key, self.addr_of(conn)) {
                    self.tell_client(client::Input::Candidate { key, addr, price: load.price });
                }
            }
            Ok(_) | Err(_) => {}
        }
        self.tell_client(client::Input::Frame { conn, frame: frame.clone() });
    }

    fn tell_client(&mut self, input: client::Input) {
        let out =
            drive(&mut self.reserving.client, &mut self.rngs.reserving, self.now, self.wall, |m, cx| {
                m.handle(cx, input);
            });
        self.after_client(out);
    }

    pub(super) fn reserving_timeout(&mut self) {
        let now = self.now;
        if self.reserving.client.poll_timeout().is_some_and(|d| d.at <= now) {
            let client = &mut self.reserving.client;
            let out = drive(client, &mut self.rngs.reserving, now, self.wall, Machine::handle_timeout);
            self.after_client(out);
        }
        if self.reserving.keepalive.is_some_and(|at| at <= now) {
            self.keep_relays_in_use();
        }
    }

    /// Relays of ours hear from us, and the client how far they are.
    fn keep_relays_in_use(&mut self) {
        let relays: Vec<PublicKey> = self.reserving.attachments.iter().map(|a| a.relay).collect();
        for key in &relays {
            if let Some((conn, _)) = self.links.of(key) {
                self.transport.ping(conn);
                let rtt = self.rtt_of(conn);
                self.tell_client(client::Input::Rtt { key: *key, rtt });
            }
        }
        self.reserving.keepalive = (!relays.is_empty()).then(|| self.now + KEEPALIVE_EVERY);
    }

    fn after_client(&mut self, out: Vec<client::Output>) {
        for o in out {
            match o {
                client::Output::Connect { key, addr } => match self.links.of(&key) {
                    Some((conn, link)) if link.identified => {
                        let rtt = self.rtt_of(conn);
                        self.tell_client(client::Input::PeerUp { conn, key, rtt });
                    }
                    Some(_) | None => self.connect_at(key, Some(addr)),
                },
                // Without a use it is closed for idleness like any other.
                client::Output::Release { .. } => {}
                client::Output::Send { conn, frame } => self.send_on(conn, &frame),
                client::Output::Active(_) | client::Output::Standby(_) | client::Output::Lost => {}
                client::Output::Attachments(list) => self.attached(list),
                client::Output::Explain(words) => self.reserving.words = words,
                client::Output::Refused(why) => self.refuse(why),
            }
        }
    }

    /// Other relays than before hold a session: the record says so at once, and peers that talk to us are told.
    fn attached(&mut self, attachments: Vec<Attachment>) {
        if self.reserving.attachments == attachments {
            return;
        }
        self.reserving.attachments = attachments;
        for relay in self.reserving.attachments.iter().map(|a| a.relay).collect::<Vec<_>>() {
            if let Some((conn, _)) = self.links.of(&relay) {
                self.relaying.carries(conn);
            }
        }
        self.reserving.keepalive.get_or_insert(self.now + KEEPALIVE_EVERY);
        self.content_changed();
        let relayed: Vec<ConnId> = self.relaying.connections().collect();
        for conn in relayed {
            self.tell_ways(conn);
            self.tell_places(conn);
        }
    }

    /// A connection runs through a relay: each side hears where else the other can be reached.
    pub(super) fn relayed_up(&mut self, conn: ConnId) {
        if matches!(self.transport.place(conn), Some(Place::Relayed { .. })) {
            self.relaying.is_relayed(conn);
            self.tell_ways(conn);
            self.tell_places(conn);
        }
    }

    fn tell_ways(&mut self, conn: ConnId) {
        if !self.reserving.attachments.is_empty() {
            let frame = ways_frame(&self.reserving.attachments);
            self.send_on(conn, &frame);
        }
    }

    /// A peer says where it can be reached.
    pub(super) fn ways_told(&mut self, conn: ConnId, frame: &Frame) -> Result<(), DecodeError> {
        let ways = read_ways(frame)?;
        if self.relaying.knows(conn) {
            self.reserving.ways.insert(conn, ways);
            self.tell_places(conn);
        } else {
            self.refuse("ways-unasked");
        }
        Ok(())
    }

    /// Tells the room of paths through which relays the peer of a connection can be reached; relays that are not connected yet are.
    pub(super) fn tell_places(&mut self, conn: ConnId) {
        let Some(peer) = self.links.get(conn).filter(|l| l.identified).map(|l| l.peer) else { return };
        let theirs = match self.reserving.ways.get(&conn) {
            Some(ways) => ways.clone(),
            None => self.dht.peek(&peer).map(|r| r.content.attachments).unwrap_or_default(),
        };
        let mut relays: Vec<(PublicKey, Option<SocketAddr>)> =
            theirs.iter().take(ATTACHMENTS_MAX).map(|a| (a.relay, Some(a.addr))).collect();
        relays.extend(self.reserving.attachments.iter().map(|a| (a.relay, None)));
        let mut places = Vec::new();
        for (relay, addr) in relays {
            if relay == self.me || relay == peer || self.book.is_blocked(&relay) {
                continue;
            }
            let link = self.links.of(&relay).filter(|(_, l)| l.identified).map(|(c, _)| c);
            match (link, addr) {
                // Not through a relay itself: a route of several hops is nobody's wish.
                (Some(carrier), _)
                    if !matches!(self.transport.place(carrier), None | Some(Place::Relayed { .. })) =>
                {
                    self.relaying.carries(carrier);
                    let place = Place::Relayed { relay: carrier, peer: peer.peer_id() };
                    if !places.contains(&place) {
                        places.push(place);
                    }
                }
                (None, Some(addr)) if self.may_dial(addr) => {
                    if self.reserving.named.may_try(self.now, relay, addr) {
                        self.connect_at(relay, Some(addr));
                    }
                }
                (Some(_) | None, _) => {}
            }
        }
        self.relaying.told(conn, places.clone());
        self.places_known(conn, places);
    }
}

fn ways_frame(attachments: &[Attachment]) -> Frame {
    let list: Vec<Value> = attachments.iter().take(ATTACHMENTS_MAX).map(|a| a.wire()).collect();
    Frame::new(KIND_WAYS, &Dict::new().with("r", list))
}

fn read_ways(frame: &Frame) -> Result<Vec<Attachment>, DecodeError> {
    let d = Dict::decode(&frame.body, WAYS_BYTES_MAX)?;
    d.list("r", ATTACHMENTS_MAX)?.iter().map(Attachment::read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Keypair;

    #[test]
    fn relays_that_peers_name_are_tried_seldom_and_into_one_network_more_seldom() {
        let key = |n: u16| {
            let mut seed = [0; 32];
            seed[..2].copy_from_slice(&n.to_le_bytes());
            Keypair::from_seed(&seed).public()
        };
        let mut named = Named::default();
        let addr = |c: u8| SocketAddr::from(([203, 0, c, 7], 9));
        let now = Instant::from_millis(1_000_000);
        assert!(named.may_try(now, key(0), addr(0)));
        assert!(!named.may_try(now, key(0), addr(1)), "tried already");
        let tried = |named: &mut Named, now, keys: std::ops::Range<u16>, addr: &dyn Fn(u16) -> SocketAddr| {
            keys.filter(|n| named.may_try(now, key(*n), addr(*n))).count()
        };
        assert_eq!(tried(&mut named, now, 1..100, &|_| addr(0)), 7, "one victim, and many names");
        assert_eq!(tried(&mut named, now, 100..300, &|n| addr(n as u8)), NAMED_MAX - 8, "many victims");
        let later = now + WINDOW;
        assert_eq!(tried(&mut named, later, 0..100, &|_| addr(0)), 8);
        assert!(named.tried.len() <= NAMED_MAX);
    }
}
