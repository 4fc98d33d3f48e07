//! Relays over TCP, for networks that let no UDP through.
//!
//! The room [`crate::relay::tunnels`] decides when a tunnel is opened and closed; here packets are put in and taken out, and a
//! dial to a relay goes both ways at once: by its address, and, if that is not answered soon, in a tunnel. The first
//! connection whose peer is identified is kept, and the dial fails only when both have. A connection that runs in a tunnel is
//! told of the relay's address as a further place, so that it moves to UDP as soon as that gets through. One to a relay that
//! UDP reaches no more goes on in a tunnel, as the same connection.

use super::Node;
use super::wiring::drive;
use crate::action::Action;
use crate::few::Few;
use crate::id::{ConnId, PublicKey};
use crate::identity::cascade::{DialFailed, DialId};
use crate::machine::Machine;
use crate::place::{Place, TunnelEvent, TunnelId, TunnelRequest};
use crate::relay::tunnels::{self, Tunnels};
use crate::time::Deadline;
use crate::transport::{Packet, Transport, close_code};
use bytes::{Bytes, BytesMut};
use std::net::SocketAddr;

/// The tunnels of a node and the connections in them.
#[derive(Debug, Default)]
pub(super) struct Tunnelling {
    tunnels: Tunnels,
    /// Which connection began in which tunnel.
    inside: Few<ConnId, TunnelId>,
    /// Dials that failed over UDP while a tunnel may still come up; until it does, fails, or nobody wants the relay any more.
    late: Few<DialId, (PublicKey, DialFailed)>,
}

impl Tunnelling {
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        self.tunnels.poll_timeout()
    }

    /// Where a tunnel that stands leads to, or comes from.
    pub(super) fn addr(&self, tunnel: TunnelId) -> Option<SocketAddr> {
        self.tunnels.addr(tunnel)
    }

    /// Relays that are reached only so.
    pub(super) fn in_use(&self) -> usize {
        self.tunnels.ours_in_use()
    }
}

impl<T: Transport> Node<T> {
    /// The port for tunnels tells something.
    pub(super) fn tunnel_event(&mut self, event: TunnelEvent) {
        match event {
            TunnelEvent::Received { tunnel, packets } => self.tunnel_received(tunnel, packets),
            TunnelEvent::Accepted { tunnel, .. } => {
                self.tell_tunnels(tunnels::Input::Port(event));
                // That somebody came is what shows that this node can be a relay.
                if self.passing.is_none() {
                    self.refuse("tunnel-to-no-relay");
                    self.tell_tunnels(tunnels::Input::Unused(tunnel));
                }
            }
            TunnelEvent::Opened(_) | TunnelEvent::Sent { .. } | TunnelEvent::Closed { .. } => {
                self.tell_tunnels(tunnels::Input::Port(event));
            }
        }
    }

    fn tunnel_received(&mut self, tunnel: TunnelId, packets: Vec<Bytes>) {
        if self.tunnelling.addr(tunnel).is_none() {
            return self.refuse("tunnel-unknown");
        }
        let place = Place::Tunnel(tunnel);
        for packet in packets {
            // Nothing but QUIC travels here (RFC 9443): probes and STUN are about addresses.
            if packet.first().is_some_and(|first| first & 0xc0 != 0) {
                let payload = packet.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                self.transport.handle(self.now, Packet { place, to: None, ecn: None, payload });
            } else {
                self.refuse("tunnel-packet-unknown");
            }
        }
    }

    /// Packets of a connection go into a tunnel.
    pub(super) fn tunnel(&mut self, tunnel: TunnelId, packets: Vec<u8>, segment: Option<usize>) {
        let segment = segment.unwrap_or(packets.len()).max(1);
        let all = Bytes::from(packets);
        let cut = (0..all.len()).step_by(segment).map(|at| all.slice(at..all.len().min(at + segment)));
        let Some(TunnelRequest::Send { tunnel, packets }) =
            self.tunnelling.tunnels.send(tunnel, cut.collect())
        else {
            return;
        };
        // A burst is one request, as it would be one system call on a socket.
        if let Some(Action::Tunnel(TunnelRequest::Send { tunnel: before, packets: waiting })) =
            self.actions.back_mut()
            && *before == tunnel
        {
            waiting.extend(packets);
        } else {
            self.actions.push_back(Action::Tunnel(TunnelRequest::Send { tunnel, packets }));
        }
    }

    /// A peer is dialled over UDP: if it is a relay that we may need, over TCP too if that is not answered.
    pub(super) fn dialling_relay(&mut self, key: PublicKey, addr: SocketAddr) {
        let needed = self.reserving.knows(&key) || self.relaying.waits_for(&key);
        if needed && !self.config.public {
            self.tell_tunnels(tunnels::Input::Dialling { relay: key, addr });
        }
    }

    /// A peer is identified: tunnels to it that are not needed any more are closed.
    pub(super) fn tunnelling_up(&mut self, conn: ConnId, key: PublicKey) {
        let by = match self.transport.place(conn) {
            Some(Place::Tunnel(tunnel)) => Some(tunnel),
            Some(Place::Direct { .. } | Place::Relayed { .. }) | None => None,
        };
        if let Some(tunnel) = by {
            self.tunnelling.inside.insert(conn, tunnel);
            self.tell_tunnels(tunnels::Input::InUse(tunnel));
        }
        self.tunnelling.late.retain(|_, (relay, _)| *relay != key);
        if by.is_some() || self.tunnelling.tunnels.may_reach(&key) {
            self.tell_tunnels(tunnels::Input::Connected { relay: key, by });
        }
        let dialled = self.links.get(conn).is_some_and(|l| l.dialled);
        if let Some(addr) = by.filter(|_| dialled).and_then(|tunnel| self.tunnelling.addr(tunnel)) {
            self.places_known(conn, vec![Place::direct(addr)]);
        }
    }

    /// A connection ended.
    pub(super) fn tunnelling_down(&mut self, conn: ConnId) {
        if let Some(tunnel) = self.tunnelling.inside.remove(&conn) {
            self.tell_tunnels(tunnels::Input::Unused(tunnel));
        }
    }

    /// A peer is not sought any more.
    pub(super) fn tunnelling_given_up(&mut self, key: PublicKey) {
        self.tunnelling.late.retain(|_, (relay, _)| *relay != key);
        if self.tunnelling.tunnels.may_reach(&key) {
            self.tell_tunnels(tunnels::Input::GivenUp(key));
        }
    }

    /// One connection of a dial came to nothing. The dial has failed when nothing else may come of it.
    pub(super) fn dial_failed(&mut self, dial: DialId, peer: Option<PublicKey>, why: DialFailed) {
        if self.is_dialling(dial) {
            return;
        }
        match peer.filter(|key| self.tunnelling.tunnels.may_reach(key)) {
            Some(key) => drop(self.tunnelling.late.insert(dial, (key, why))),
            None => self.dialled(dial, Err(why)),
        }
    }

    /// A connection lost its last way. One to a relay may go on in a tunnel.
    pub(super) fn lost_relay(&mut self, conn: ConnId) {
        let Some(key) = self.links.get(conn).filter(|l| l.dialled).map(|l| l.peer) else { return };
        if let Some(addr) = self.reserving.addr_of(&key) {
            self.dialling_relay(key, addr);
        }
    }

    fn goes_on_in(&mut self, conn: ConnId, tunnel: TunnelId, relay: PublicKey) {
        if !self.reach.paths.knows(conn) {
            return self.tell_tunnels(tunnels::Input::Unused(tunnel));
        }
        self.tunnelling.inside.insert(conn, tunnel);
        self.tell_tunnels(tunnels::Input::InUse(tunnel));
        self.tell_tunnels(tunnels::Input::Connected { relay, by: Some(tunnel) });
        if let Some(addr) = self.tunnelling.addr(tunnel) {
            self.places_known(conn, vec![Place::direct(addr), Place::Tunnel(tunnel)]);
        }
    }

    pub(super) fn tunnelling_timeout(&mut self) {
        if self.tunnelling.poll_timeout().is_some_and(|d| d.at <= self.now) {
            let (now, wall) = (self.now, self.wall);
            let (tunnels, rng) = (&mut self.tunnelling.tunnels, &mut self.rngs.tunnels);
            let out = drive(tunnels, rng, now, wall, Machine::handle_timeout);
            self.after_tunnels(out);
        }
    }

    pub(super) fn tell_tunnels(&mut self, input: tunnels::Input) {
        let (now, wall) = (self.now, self.wall);
        let (tunnels, rng) = (&mut self.tunnelling.tunnels, &mut self.rngs.tunnels);
        let out = drive(tunnels, rng, now, wall, |m, cx| m.handle(cx, input));
        self.after_tunnels(out);
    }

    fn after_tunnels(&mut self, out: Vec<tunnels::Output>) {
        for o in out {
            match o {
                tunnels::Output::Request(request) => self.actions.push_back(Action::Tunnel(request)),
                tunnels::Output::Dial { tunnel, relay } => self.dial_in(tunnel, relay),
                tunnels::Output::Gone(tunnel) => self.tunnel_gone(tunnel),
                tunnels::Output::Failed { relay, why } => self.tunnel_failed(&relay, &why),
                tunnels::Output::Refused(why) => self.refuse(why),
            }
        }
    }

    /// The tunnel stands: a connection to the relay that lost its way goes on in it, or a dial does.
    fn dial_in(&mut self, tunnel: TunnelId, relay: PublicKey) {
        if let Some(conn) = self.links.of(&relay).filter(|(_, l)| l.identified).map(|(conn, _)| conn) {
            return self.goes_on_in(conn, tunnel, relay);
        }
        let late = self.tunnelling.late.iter().find(|(_, (key, _))| *key == relay).map(|(dial, _)| *dial);
        let Some(dial) = self.dial_to(&relay).or(late) else {
            return self.tell_tunnels(tunnels::Input::Unused(tunnel));
        };
        match self.transport.dial(self.now, &relay, Place::Tunnel(tunnel)) {
            Ok(conn) => {
                self.tunnelling.late.remove(&dial);
                self.tunnelling.inside.insert(conn, tunnel);
                self.dialling(conn, dial, Some(relay));
            }
            Err(e) => {
                self.tell_tunnels(tunnels::Input::Unused(tunnel));
                self.tunnel_failed(&relay, &e.to_string());
            }
        }
    }

    fn tunnel_gone(&mut self, tunnel: TunnelId) {
        let place = Place::Tunnel(tunnel);
        for (conn, dial) in self.take_dials_at(place) {
            self.dial_failed(dial, None, DialFailed::Relay("its tunnel broke".to_owned()));
            self.transport.close(self.now, conn, close_code::DONE, "its tunnel is gone");
        }
        self.place_gone(place);
    }

    fn tunnel_failed(&mut self, relay: &PublicKey, tcp: &str) {
        let late: Vec<DialId> =
            self.tunnelling.late.iter().filter(|(_, (key, _))| key == relay).map(|(d, _)| *d).collect();
        for dial in late {
            if let Some((_, udp)) = self.tunnelling.late.remove(&dial) {
                let why = DialFailed::Both { udp: udp.to_string(), tcp: tcp.to_owned() };
                self.dialled(dial, Err(why));
            }
        }
    }
}
