//! The machine that knows every way of every connection and chooses among them.
//!
//! **Proof.** A direct address is used only after a pong from that very address to a nonce of ours, and after a ping of 1,200
//! bytes was answered too ([`super::probe`]). The one exception is the address with which a handshake was completed: QUIC has
//! proven it. A relayed place needs no proof: the relay stands for it, and TLS for what comes out at its end.
//!
//! **Suspicion.** Who sends and hears nothing for three round trips tells this machine ([`Input::Silent`]), which asks by
//! a few pings. If no pong comes within as long again, the next best way is taken at once, and the old one is probed with
//! back-off until two pongs in a row bring it back. One lost pong means nothing, and packets from a way prove it as well as a pong
//! does: who counts lost pongs on a busy way flaps between relay and direct.
//!
//! **Following.** When the peer's packets come from elsewhere, it has moved, or its NAT has forgotten it. The new address is
//! probed like any other while the old one is asked whether it still answers; the two ends may well use different ways.
//!
//! **Manners.** What an address gets before it has answered is bounded by target ([`super::budget`]), whoever names it. Ways,
//! pings under way and what is told to people are bounded per connection.

mod known;
mod line;
mod moves;
mod watch;

#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod tests;

use super::budget::{Budget, Class};
use super::probe::{ProbeKeys, Tag, tag_of};
use crate::command::PathView;
use crate::dht::endpoint::{Scope, scope};
use crate::id::ConnId;
use crate::machine::{Cx, Machine};
use crate::place::{Place, SocketId};
use crate::time::{Deadline, Duration, Instant};
use bytes::Bytes;
use line::Line;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Places known of one connection.
pub const PLACES_MAX: usize = 16;
/// Pings of one connection under way: one for each place.
pub const FLIGHTS_MAX: usize = PLACES_MAX;
/// Places that the node may name at once ([`Input::Places`]): two relays of each side, and some addresses.
pub const NAMED_MAX: usize = 8;
/// Attempts told to people.
pub const TRIED_MAX: usize = 8;
/// Connections: as many as the transport of a busy relay has.
pub const LINES_MAX: usize = 4_096;
/// How often an idle direct place is pinged unless [`Input::Keepalive`] says otherwise: half of the 30 s after which the
/// strictest common NATs forget a UDP mapping. Whoever helped to measure a longer life may have lied, so this holds again,
/// until the network changes, once any proven direct place has fallen silent.
pub const KEEPALIVE: Duration = Duration::from_secs(15);
/// Bounds of what may be set: more often is a waste, more seldom keeps no mapping.
pub const KEEPALIVE_BOUNDS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));

/// What can happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A connection stands; its handshake went by this place.
    Up {
        /// Which.
        conn: ConnId,
        /// Its probe keys.
        keys: ProbeKeys,
        /// Where its packets go.
        place: Place,
        /// Its first round-trip time.
        rtt: Duration,
    },
    /// A connection is gone, and whatever it relayed with it.
    Down(ConnId),
    /// A datagram that begins like a probe arrived.
    Probe {
        /// From where.
        place: Place,
        /// All of it.
        bytes: Bytes,
    },
    /// Somebody wants a probe sent: the punch room.
    ProbeAt {
        /// For this connection.
        conn: ConnId,
        /// By this socket.
        socket: SocketId,
        /// To this address.
        addr: SocketAddr,
        /// One of many that both sides agreed on, to an IP address that is known to be the peer's: has an allowance of its own.
        urgent: bool,
    },
    /// Further places by which the peer may be reached, all of them, best first: relayed ones, and addresses worth probing again
    /// and again.
    Places {
        /// Of this connection.
        conn: ConnId,
        /// The places.
        places: Vec<Place>,
    },
    /// The transport sent what asks for an answer, and for max(3 round trips, 300 ms) nothing authenticated came back.
    Silent(ConnId),
    /// Packets of the connection, authenticated by QUIC, come from this place now.
    Moved {
        /// Which.
        conn: ConnId,
        /// From where.
        place: Place,
        /// How many bytes came from there.
        bytes: usize,
    },
    /// The transport's own smoothed round-trip time.
    Rtt {
        /// Of this connection.
        conn: ConnId,
        /// So long.
        rtt: Duration,
    },
    /// Packets, authenticated by QUIC, arrived from where they came from before. Need not be told of each.
    Traffic(ConnId),
    /// A place is gone.
    Gone(Place),
    /// A socket is gone.
    SocketGone(SocketId),
    /// Our own addresses changed.
    NetworkChanged,
    /// There are new candidates to punch with: of one peer, or our own (`None`).
    CandidatesChanged(Option<ConnId>),
    /// How often a NAT mapping must be refreshed, as measured.
    Keepalive(Duration),
}

/// What it can ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send the packets of a connection there from now on.
    Use {
        /// Which.
        conn: ConnId,
        /// There. The place in use again, if it only needs a nudge.
        place: Place,
        /// Send one packet past the congestion window at once, so that QUIC learns that it is heard.
        nudge: bool,
        /// It carries less than the place before.
        downgrade: bool,
    },
    /// Send a datagram.
    Send {
        /// By this socket.
        socket: SocketId,
        /// To whom.
        to: SocketAddr,
        /// All of it.
        bytes: Bytes,
    },
    /// A direct place is proven: a punch has succeeded.
    Validated {
        /// Of this connection.
        conn: ConnId,
        /// Which.
        place: Place,
        /// Its round-trip time.
        rtt: Duration,
    },
    /// The peer sees what we send to a place come from this address. Said when it changes.
    Observed {
        /// Of this connection.
        conn: ConnId,
        /// Sent to here.
        place: Place,
        /// Our address as the peer sees it.
        addr: SocketAddr,
    },
    /// No place works at the moment. The node may find another; if one comes back, a `Use` follows.
    Lost(ConnId),
    /// The connection is relayed, and a direct way is worth trying.
    WantPunch(ConnId),
    /// What [`Paths::view`] says has changed.
    Changed(ConnId),
    /// Something was refused.
    Refused(&'static str),
}

/// What all connections share.
#[derive(Debug)]
struct Env {
    budget: Budget,
    /// Connections whose packets go through a tunnel.
    tunnelled: BTreeSet<ConnId>,
    keepalive: Duration,
    /// A direct way that was proven has fallen silent in this network: mappings may live shorter than we were told.
    distrust: bool,
}

impl Env {
    /// How often an idle direct place is pinged.
    fn every(&self) -> Duration {
        if self.distrust { self.keepalive.min(KEEPALIVE) } else { self.keepalive }
    }
}

/// The paths of all connections of a node. See the module.
#[derive(Debug)]
pub struct Paths {
    lines: BTreeMap<ConnId, Line>,
    tags: BTreeMap<Tag, ConnId>,
    /// When which connection wants to be looked at.
    due: BTreeSet<(Instant, ConnId)>,
    env: Env,
}

impl Default for Paths {
    fn default() -> Self {
        let (budget, tunnelled) = Default::default();
        let env = Env { budget, tunnelled, keepalive: KEEPALIVE, distrust: false };
        Self { lines: BTreeMap::new(), tags: BTreeMap::new(), due: BTreeSet::new(), env }
    }
}

impl Paths {
    /// How a connection's packets go, and what else was tried.
    pub fn view(&self, conn: ConnId) -> Option<PathView> {
        self.lines.get(&conn).map(Line::view)
    }

    /// Whether this connection is up here.
    pub fn knows(&self, conn: ConnId) -> bool {
        self.lines.contains_key(&conn)
    }

    /// Where a connection's packets go. `None` also when no place is left.
    pub fn place(&self, conn: ConnId) -> Option<Place> {
        self.lines.get(&conn)?.selected()
    }

    /// Connections.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The most of what one connection keeps: places, pings under way, lines for people.
    pub fn fill(&self) -> (usize, usize, usize) {
        let each = self.lines.values().map(Line::fill);
        each.fold((0, 0, 0), |most, of| (most.0.max(of.0), most.1.max(of.1), most.2.max(of.2)))
    }

    /// Something happens to one connection; what follows from it is settled.
    fn with(
        &mut self,
        cx: &mut Cx<'_, Output>,
        conn: ConnId,
        f: impl FnOnce(&mut Line, &mut Cx<'_, Output>, &mut Env),
    ) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        if let Some(at) = line.due() {
            self.due.remove(&(at.at, conn));
        }
        f(line, cx, &mut self.env);
        line.run_due(cx, &mut self.env);
        if line.is_tunnelled() {
            self.env.tunnelled.insert(conn);
        } else {
            self.env.tunnelled.remove(&conn);
        }
        if let Some(at) = line.due() {
            self.due.insert((at.at, conn));
        }
    }

    fn with_all(&mut self, cx: &mut Cx<'_, Output>, f: impl Fn(&mut Line, &mut Cx<'_, Output>, &mut Env)) {
        let conns: Vec<ConnId> = self.lines.keys().copied().collect();
        conns.into_iter().for_each(|conn| self.with(cx, conn, &f));
    }

    fn up(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, line: Line) {
        self.forget(conn);
        if self.lines.len() >= LINES_MAX {
            return cx.emit(Output::Refused("too many connections with paths"));
        }
        self.tags.insert(line.tag(), conn);
        self.lines.insert(conn, line);
        self.with(cx, conn, |line, cx, env| line.begin(cx, env));
    }

    fn forget(&mut self, conn: ConnId) -> bool {
        let Some(line) = self.lines.remove(&conn) else { return false };
        if let Some(at) = line.due() {
            self.due.remove(&(at.at, conn));
        }
        if self.tags.get(&line.tag()) == Some(&conn) {
            self.tags.remove(&line.tag());
        }
        self.env.tunnelled.remove(&conn);
        true
    }

    fn on_probe(&mut self, cx: &mut Cx<'_, Output>, from: Place, bytes: &Bytes) {
        let Some(tag) = tag_of(bytes) else { return cx.emit(Output::Refused("malformed probe")) };
        let Some(conn) = self.tags.get(&tag).copied() else {
            return cx.emit(Output::Refused("probe of no connection"));
        };
        let usable = from.addr().is_some_and(|addr| scope(addr) != Scope::Never);
        if !usable {
            return cx.emit(Output::Refused("probe from no address"));
        }
        self.with(cx, conn, |line, cx, env| line.on_probe(cx, env, from, bytes));
    }

    fn on_gone(&mut self, cx: &mut Cx<'_, Output>, is_gone: impl Fn(Place) -> bool) {
        self.with_all(cx, |line, cx, env| line.remove_places(cx, env, &is_gone));
    }
}

impl Machine for Paths {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Up { conn, keys, place, rtt } => {
                let line = Line::new(conn, keys, canonical(place), rtt, cx.now, cx.wall);
                self.up(cx, conn, line);
            }
            Input::Down(conn) => {
                if self.forget(conn) {
                    self.on_gone(cx, |p| matches!(p, Place::Relayed { relay, .. } if relay == conn));
                }
            }
            Input::Probe { place, bytes } => self.on_probe(cx, canonical(place), &bytes),
            Input::ProbeAt { conn, socket, addr, urgent } => {
                let place = canonical(Place::Direct { socket, addr });
                let class = if urgent { Class::Burst } else { Class::Ordinary };
                self.with(cx, conn, |line, cx, env| line.probe_at(cx, env, place, class));
            }
            Input::Places { conn, places } => {
                let places: Vec<Place> = places.into_iter().map(canonical).collect();
                self.with(cx, conn, |line, cx, env| line.on_places(cx, env, &places));
            }
            Input::Silent(conn) => self.with(cx, conn, Line::on_silent),
            Input::Moved { place: Place::Direct { addr, .. }, .. } if scope(addr) == Scope::Never => {
                cx.emit(Output::Refused("packets from no address"));
            }
            Input::Moved { conn, place, bytes } => {
                self.with(cx, conn, |line, cx, env| line.on_moved(cx, env, canonical(place), bytes));
            }
            Input::Rtt { conn, rtt } => self.with(cx, conn, |line, _, _| line.on_rtt(rtt)),
            Input::Traffic(conn) => self.with(cx, conn, Line::on_traffic),
            Input::Gone(place) => self.on_gone(cx, |p| p == canonical(place)),
            Input::SocketGone(gone) => {
                self.on_gone(cx, |p| matches!(p, Place::Direct { socket, .. } if socket == gone));
            }
            Input::NetworkChanged => {
                self.env.distrust = false;
                self.with_all(cx, Line::on_network_changed);
            }
            Input::CandidatesChanged(Some(conn)) => self.with(cx, conn, |line, cx, _| line.want_soon(cx.now)),
            Input::CandidatesChanged(None) => self.with_all(cx, |line, cx, _| line.want_soon(cx.now)),
            Input::Keepalive(every) => {
                self.env.keepalive = every.clamp(KEEPALIVE_BOUNDS.0, KEEPALIVE_BOUNDS.1);
            }
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        while let Some((at, conn)) = self.due.first().copied()
            && at <= cx.now
        {
            self.due.pop_first();
            self.with(cx, conn, |_, _, _| ());
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let (at, conn) = self.due.first()?;
        let reason = self.lines.get(conn).and_then(Line::due).map_or("paths", |due| due.reason);
        Some(Deadline::new(*at, reason))
    }
}

/// One place has one form: IPv4 is never dressed as IPv6.
fn canonical(place: Place) -> Place {
    match place {
        Place::Direct { socket, addr } => {
            Place::Direct { socket, addr: SocketAddr::new(addr.ip().to_canonical(), addr.port()) }
        }
        Place::Relayed { .. } | Place::Tunnel(_) => place,
    }
}
