//! Relays as their users see them: packets of connections within connections.
//!
//! A connection to a peer behind a relay is a QUIC connection like any other, end to end; its packets travel in
//! DATAGRAM frames of the connection to the relay ([`crate::relay::wire`]). Here they are put in and taken out, and
//! dials through a relay wait until the relay is connected. Whoever the relay says a packet is from is only a name for
//! a place: TLS proves the peer, and a connection whose proven peer is not the one that the relay named is closed.

use super::Node;
use crate::few::Few;
use crate::id::{ConnId, PeerId, PublicKey};
use crate::identity::cascade::{DialFailed, DialId};
use crate::place::Place;
use crate::relay::wire::{Cutter, Direction, Fragmenter, Header, Reassembler};
use crate::transport::{DialError, Outgoing, Packet, Transport, close_code};
use bytes::{Bytes, BytesMut};
use std::net::{IpAddr, SocketAddr};

/// Dials that wait for their relay at once.
const WAITING_MAX: usize = 256;

/// A connection to a relay as what carries packets.
#[derive(Debug)]
struct Carrier {
    out: Fragmenter,
    into: Reassembler,
}

/// A dial that waits for its relay.
#[derive(Debug)]
struct Waiting {
    relay: PublicKey,
    dial: DialId,
    peer: PublicKey,
}

/// What this node sends and hears through relays.
#[derive(Debug, Default)]
pub(super) struct Relaying {
    carriers: Few<ConnId, Box<Carrier>>,
    waiting: Vec<Waiting>,
    /// Connections to peers that run, or ran, through a relay, and the relayed places known of them.
    relayed: Few<ConnId, Vec<Place>>,
    /// Where a relay saw their peers.
    seen: Few<ConnId, IpAddr>,
}

impl Relaying {
    /// The connection is one to a relay from now on.
    pub(super) fn carries(&mut self, conn: ConnId) {
        self.carriers.get_or_insert_with(conn, || {
            Box::new(Carrier { out: Fragmenter::new(Cutter::Peer), into: Reassembler::default() })
        });
    }

    /// Whether packets of ours travel by this connection.
    pub(super) fn is_carrier(&self, conn: ConnId) -> bool {
        self.carriers.contains_key(&conn)
    }

    /// Whether any connection may need this one to its relay.
    pub(super) fn is_in_use(&self, conn: ConnId) -> bool {
        let through = |p: &Place| matches!(p, Place::Relayed { relay, .. } if *relay == conn);
        self.relayed.values().any(|places| places.iter().any(through))
    }

    /// The connection runs through a relay.
    pub(super) fn is_relayed(&mut self, conn: ConnId) {
        self.relayed.get_or_insert_with(conn, Vec::new);
    }

    /// Whether it does, or did.
    pub(super) fn knows(&self, conn: ConnId) -> bool {
        self.relayed.contains_key(&conn)
    }

    /// Connections that run, or ran, through a relay.
    pub(super) fn connections(&self) -> impl Iterator<Item = ConnId> {
        self.relayed.keys().copied()
    }

    /// The relayed places of a connection.
    pub(super) fn told(&mut self, conn: ConnId, places: Vec<Place>) {
        self.relayed.insert(conn, places);
    }

    /// A relay saw the peer of a connection there.
    pub(super) fn saw(&mut self, conn: ConnId, ip: IpAddr) {
        self.seen.insert(conn, ip);
    }

    /// Where a relay saw the peer of a connection.
    pub(super) fn seen(&self, conn: ConnId) -> Option<IpAddr> {
        self.seen.get(&conn).copied()
    }

    /// The connection is gone.
    pub(super) fn gone(&mut self, conn: ConnId) {
        self.seen.remove(&conn);
        self.carriers.remove(&conn);
        self.relayed.remove(&conn);
    }
}

impl<T: Transport> Node<T> {
    /// Dials a peer through a relay, which is connected first if it is not.
    pub(super) fn dial_through(&mut self, dial: DialId, peer: PublicKey, relay: PublicKey, addr: SocketAddr) {
        let up = self.links.of(&relay).filter(|(_, l)| l.identified).map(|(conn, _)| conn);
        if let Some(conn) = up {
            return self.dial_by(dial, peer, conn);
        }
        if self.relaying.waiting.len() >= WAITING_MAX || self.book.is_blocked(&relay) {
            let why = DialFailed::Relay("it is blocked here, or too many dials wait".to_owned());
            return self.dialled(dial, Err(why));
        }
        self.relaying.waiting.push(Waiting { relay, dial, peer });
        self.connect_at(relay, Some(addr));
    }

    fn dial_by(&mut self, dial: DialId, peer: PublicKey, relay: ConnId) {
        // A relay behind a relay would be a route of several hops, which nobody asked for.
        if matches!(self.transport.place(relay), Some(Place::Relayed { .. })) {
            let why = DialFailed::Relay("it is itself reached through a relay".to_owned());
            return self.dialled(dial, Err(why));
        }
        self.relaying.carries(relay);
        let place = Place::Relayed { relay, peer: peer.peer_id() };
        match self.transport.dial(self.now, &peer, place) {
            Ok(conn) => self.dialling(conn, dial, Some(peer)),
            Err(DialError::Address) => {
                self.dialled(dial, Err(DialFailed::Relay("its connection just ended".to_owned())));
            }
            Err(e @ DialError::Full) => self.dialled(dial, Err(DialFailed::NotStarted(e))),
        }
    }

    /// A peer is identified: dials that waited for it as their relay go on.
    pub(super) fn relay_is_up(&mut self, relay: &PublicKey, conn: ConnId) {
        for Waiting { dial, peer, .. } in self.relaying.take_waiting(relay) {
            self.dial_by(dial, peer, conn);
        }
    }

    /// A peer could not be reached: dials that waited for it as their relay fail.
    pub(super) fn relay_failed(&mut self, relay: &PublicKey, why: &str) {
        for Waiting { dial, .. } in self.relaying.take_waiting(relay) {
            self.dialled(dial, Err(DialFailed::Relay(why.to_owned())));
        }
    }

    /// Whether a connection serves relaying, in either role, and is not idle for that.
    pub(super) fn is_relaying_with(&self, conn: ConnId, peer: &PublicKey) -> bool {
        self.relaying.is_in_use(conn)
            || self.reserving.holds(peer)
            || self.passing.as_ref().is_some_and(|p| p.holds(peer))
    }

    /// A relay says that a peer has no session there: nothing that is sent to it through this relay arrives.
    pub(super) fn no_session(&mut self, relay: ConnId, peer: PeerId) {
        let place = Place::Relayed { relay, peer };
        for (conn, dial) in self.take_dials_at(place) {
            self.dialled(dial, Err(DialFailed::NoSession));
            self.transport.close(self.now, conn, close_code::DONE, "no session at the relay");
        }
        self.place_gone(place);
    }

    /// Packets for a peer behind a relay go into datagrams of the connection to it.
    pub(super) fn carry(&mut self, relay: ConnId, peer: PeerId, packets: &[u8], outgoing: &Outgoing) {
        let Some((datagram_max, _)) = self.transport.datagram_room(relay) else { return };
        let Some(carrier) = self.relaying.carriers.get_mut(&relay) else { return };
        let segment = outgoing.segment_size.unwrap_or(packets.len()).max(1);
        for packet in packets.chunks(segment) {
            // A question whether larger packets get through is not worth two: in one piece they do not.
            if outgoing.probe && packet.len() + crate::relay::wire::WHOLE_HEADER_BYTES > datagram_max {
                continue;
            }
            let Ok(pieces) = carrier.out.split(Direction::To, peer, packet, datagram_max) else {
                continue;
            };
            for piece in pieces {
                // What does not get through is lost like any packet; QUIC within sees to that.
                if self.transport.send_datagram(relay, piece).is_err() {
                    return;
                }
            }
        }
    }

    /// A datagram of a connection: a packet for us from behind a relay, or one to pass on.
    pub(super) fn datagram(&mut self, conn: ConnId, bytes: Bytes) {
        let header = match Header::parse(&bytes) {
            Ok(header) => header,
            Err(_) => return self.refuse("relay-datagram-malformed"),
        };
        match header.direction {
            Direction::To => self.pass_on(conn, bytes),
            Direction::From => {
                let Some(carrier) = self.relaying.carriers.get_mut(&conn) else {
                    return self.refuse("relay-datagram-unasked");
                };
                let carried = bytes.slice(header.bytes()..);
                let Some(packet) = carrier.into.push(self.now, &header, carried) else { return };
                self.links.active(self.now, conn);
                let place = Place::Relayed { relay: conn, peer: header.peer };
                let payload = packet.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                self.transport.handle(self.now, Packet { place, to: None, ecn: None, payload });
            }
        }
    }
}

impl Relaying {
    /// Whether dials wait for this relay.
    pub(super) fn waits_for(&self, relay: &PublicKey) -> bool {
        self.waiting.iter().any(|w| w.relay == *relay)
    }

    fn take_waiting(&mut self, relay: &PublicKey) -> Vec<Waiting> {
        let (taken, kept) = std::mem::take(&mut self.waiting).into_iter().partition(|w| w.relay == *relay);
        self.waiting = kept;
        taken
    }
}
