//! Tunnels: when a relay is called over TCP, and what may be on its way there.
//!
//! Some networks let no UDP through. A relay that a private node dials there stays silent, so whenever one is dialled and has not
//! answered after [`KNOCK_AFTER`], it is also called over TCP, at the port of the same number: whichever stands first is
//! used (the idea of RFC 8305). Where UDP was in vain lately, both begin at once. The streams themselves are the
//! outside's (a port of the node, [`crate::place::TunnelRequest`]); here it is decided when they are opened and
//! closed, and how much may be on its way in one. What is beyond that credit is dropped like a packet in a full router: QUIC within
//! slows down, and delay stays bounded.
//!
//! | tunnel | begins | ends |
//! |---|---|---|
//! | ours | a dial that UDP does not answer | the dial ended otherwise, the connection in it ended, the stream broke |
//! | accepted | somebody called, and this node relays | no connection came within [`SILENT_MAX`], it ended, the stream broke |

use crate::few::Few;
use crate::id::PublicKey;
use crate::machine::{Cx, Machine};
use crate::place::{TunnelEvent, TunnelId, TunnelRequest};
use crate::time::{Deadline, Duration, Instant};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A dial that UDP has not answered for so long is tried by a tunnel too: several round trips even across the world.
pub const KNOCK_AFTER: Duration = Duration::from_secs(1);
/// After a tunnel was faster than UDP, others are opened at once for so long.
pub const BLOCKED_FOR: Duration = Duration::from_secs(600);
/// Tunnels of ours: to active and standby relay, and to some that are tried.
pub const OURS_MAX: usize = 8;
/// Tunnels that others opened: as many as the port takes.
pub const ACCEPTED_MAX: usize = 512;
/// An accepted tunnel brings a connection within this time.
pub const SILENT_MAX: Duration = Duration::from_secs(15);
/// Bytes on their way into one tunnel: half a second at 4 Mbit/s. More would only be delay.
pub const CREDIT_BYTES: u64 = 256 << 10;

/// What can happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// This relay is dialled over UDP.
    Dialling {
        /// Which.
        relay: PublicKey,
        /// Where.
        addr: SocketAddr,
    },
    /// The relay is connected.
    Connected {
        /// Which.
        relay: PublicKey,
        /// By which tunnel, if by one.
        by: Option<TunnelId>,
    },
    /// Nobody wants to reach this relay any more.
    GivenUp(PublicKey),
    /// The port for tunnels tells something. Packets are the node's.
    Port(TunnelEvent),
    /// A connection in this tunnel is up.
    InUse(TunnelId),
    /// No connection is in this tunnel any more, or somebody opened it to a node that does not relay.
    Unused(TunnelId),
    /// Our own addresses changed: perhaps UDP gets through now.
    NetworkChanged,
}

/// What it asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// For the port.
    Request(TunnelRequest),
    /// The tunnel stands: dial the relay in it.
    Dial {
        /// Which tunnel.
        tunnel: TunnelId,
        /// To whom it leads.
        relay: PublicKey,
    },
    /// Nothing gets through this tunnel any more.
    Gone(TunnelId),
    /// A relay cannot be reached over TCP either.
    Failed {
        /// Which.
        relay: PublicKey,
        /// Words for people.
        why: String,
    },
    /// Something was not taken.
    Refused(&'static str),
}

/// How far a tunnel of ours, or one to us, is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Opening,
    /// No connection has come up in it; accepted ones must by then.
    Empty(Option<Instant>),
    InUse,
    /// Asked to be closed; the port's last word is awaited.
    Closing,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    stage: Stage,
    /// Where it leads to, or comes from.
    addr: SocketAddr,
    /// Of ours: to which relay.
    relay: Option<PublicKey>,
    /// Bytes the port has not sent yet.
    under_way: u64,
}

/// The tunnels of a node. See the module.
#[derive(Debug, Default)]
pub struct Tunnels {
    lines: BTreeMap<TunnelId, Line>,
    /// Dials that UDP has not answered yet, and when they are tried by a tunnel.
    knocks: Few<PublicKey, (SocketAddr, Instant)>,
    /// UDP was in vain lately.
    blocked_until: Option<Instant>,
    next: u64,
}

impl Tunnels {
    /// Whether a tunnel to this relay may still come up.
    pub fn may_reach(&self, relay: &PublicKey) -> bool {
        let coming =
            |l: &Line| l.relay.as_ref() == Some(relay) && matches!(l.stage, Stage::Opening | Stage::Empty(_));
        self.knocks.contains_key(relay) || self.lines.values().any(coming)
    }

    /// Where a tunnel leads to, or comes from, while it stands.
    pub fn addr(&self, tunnel: TunnelId) -> Option<SocketAddr> {
        let stands = |l: &&Line| matches!(l.stage, Stage::Empty(_) | Stage::InUse);
        self.lines.get(&tunnel).filter(stands).map(|l| l.addr)
    }

    /// Tunnels of ours in which a connection is up: this network lets no UDP through.
    pub fn ours_in_use(&self) -> usize {
        self.lines.values().filter(|l| l.relay.is_some() && l.stage == Stage::InUse).count()
    }

    /// All there are, of ours and of others.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Takes what may be sent of these packets on credit; `None` when it is used up or the tunnel does not stand.
    pub fn send(&mut self, tunnel: TunnelId, packets: Vec<Bytes>) -> Option<TunnelRequest> {
        let line = self.lines.get_mut(&tunnel)?;
        if !matches!(line.stage, Stage::Empty(_) | Stage::InUse) {
            return None;
        }
        let mut fits = Vec::with_capacity(packets.len());
        for packet in packets {
            let bytes = packet.len() as u64;
            if line.under_way + bytes <= CREDIT_BYTES {
                line.under_way += bytes;
                fits.push(packet);
            }
        }
        (!fits.is_empty()).then_some(TunnelRequest::Send { tunnel, packets: fits })
    }

    fn dialling(&mut self, cx: &mut Cx<'_, Output>, relay: PublicKey, addr: SocketAddr) {
        if self.may_reach(&relay) {
            return;
        }
        if self.knocks.len() + self.ours() >= OURS_MAX {
            return cx.emit(Output::Refused("tunnels-full"));
        }
        if self.blocked_until.is_some_and(|until| cx.now < until) {
            self.open(cx, relay, addr);
        } else {
            self.knocks.insert(relay, (addr, cx.now + KNOCK_AFTER));
        }
    }

    fn ours(&self) -> usize {
        self.lines.values().filter(|l| l.relay.is_some()).count()
    }

    fn open(&mut self, cx: &mut Cx<'_, Output>, relay: PublicKey, addr: SocketAddr) {
        self.next += 2;
        let tunnel = TunnelId(self.next);
        let line = Line { stage: Stage::Opening, addr, relay: Some(relay), under_way: 0 };
        self.lines.insert(tunnel, line);
        cx.emit(Output::Request(TunnelRequest::Open { tunnel, to: addr }));
    }

    fn connected(&mut self, cx: &mut Cx<'_, Output>, relay: PublicKey, by: Option<TunnelId>) {
        self.knocks.remove(&relay);
        match by {
            Some(tunnel) if self.lines.get(&tunnel).is_some_and(|l| l.relay == Some(relay)) => {
                self.blocked_until = Some(cx.now + BLOCKED_FOR);
            }
            Some(_) => {}
            None => self.blocked_until = None,
        }
        self.close_those(cx, |id, l| l.relay == Some(relay) && Some(id) != by);
    }

    fn given_up(&mut self, cx: &mut Cx<'_, Output>, relay: PublicKey) {
        self.knocks.remove(&relay);
        self.close_those(cx, |_, l| l.relay == Some(relay));
    }

    /// Closes tunnels without a connection.
    fn close_those(&mut self, cx: &mut Cx<'_, Output>, which: impl Fn(TunnelId, &Line) -> bool) {
        for (id, line) in &mut self.lines {
            if matches!(line.stage, Stage::Opening | Stage::Empty(_)) && which(*id, line) {
                line.stage = Stage::Closing;
                cx.emit(Output::Request(TunnelRequest::Close(*id)));
            }
        }
    }

    fn told(&mut self, cx: &mut Cx<'_, Output>, event: TunnelEvent) {
        match event {
            TunnelEvent::Opened(tunnel) => {
                let Some(line) = self.lines.get_mut(&tunnel).filter(|l| l.stage == Stage::Opening) else {
                    return;
                };
                line.stage = Stage::Empty(None);
                if let Some(relay) = line.relay {
                    cx.emit(Output::Dial { tunnel, relay });
                }
            }
            TunnelEvent::Accepted { tunnel, from } => {
                if self.lines.contains_key(&tunnel) || tunnel.0.is_multiple_of(2) {
                    return;
                }
                if self.lines.len() - self.ours() >= ACCEPTED_MAX {
                    cx.emit(Output::Refused("tunnels-full"));
                    return cx.emit(Output::Request(TunnelRequest::Close(tunnel)));
                }
                let stage = Stage::Empty(Some(cx.now + SILENT_MAX));
                self.lines.insert(tunnel, Line { stage, addr: from, relay: None, under_way: 0 });
            }
            TunnelEvent::Received { .. } => {}
            TunnelEvent::Sent { tunnel, bytes } => {
                if let Some(line) = self.lines.get_mut(&tunnel) {
                    line.under_way = line.under_way.saturating_sub(bytes);
                }
            }
            TunnelEvent::Closed { tunnel, why } => {
                let Some(line) = self.lines.remove(&tunnel) else { return };
                match (line.stage, line.relay) {
                    (Stage::Opening, Some(relay)) => cx.emit(Output::Failed { relay, why }),
                    (Stage::Closing | Stage::Opening, _) => {}
                    (Stage::Empty(_) | Stage::InUse, _) => cx.emit(Output::Gone(tunnel)),
                }
            }
        }
    }

    fn unused(&mut self, cx: &mut Cx<'_, Output>, tunnel: TunnelId) {
        if let Some(line) = self.lines.get_mut(&tunnel).filter(|l| l.stage != Stage::Closing) {
            line.stage = Stage::Closing;
            cx.emit(Output::Request(TunnelRequest::Close(tunnel)));
        }
    }
}

impl Machine for Tunnels {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Dialling { relay, addr } => self.dialling(cx, relay, addr),
            Input::Connected { relay, by } => self.connected(cx, relay, by),
            Input::GivenUp(relay) => self.given_up(cx, relay),
            Input::Port(event) => self.told(cx, event),
            Input::InUse(tunnel) => {
                if let Some(line) = self.lines.get_mut(&tunnel)
                    && matches!(line.stage, Stage::Empty(_))
                {
                    line.stage = Stage::InUse;
                }
            }
            Input::Unused(tunnel) => self.unused(cx, tunnel),
            Input::NetworkChanged => self.blocked_until = None,
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        let due: Vec<(PublicKey, SocketAddr)> =
            self.knocks.iter().filter(|(_, (_, at))| *at <= cx.now).map(|(k, (a, _))| (*k, *a)).collect();
        for (relay, addr) in due {
            self.knocks.remove(&relay);
            self.open(cx, relay, addr);
        }
        let now = cx.now;
        self.close_those(cx, |_, l| matches!(l.stage, Stage::Empty(Some(until)) if until <= now));
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let knock = self.knocks.values().map(|(_, at)| *at).min();
        let silent = self.lines.values().filter_map(|l| match l.stage {
            Stage::Empty(until) => until,
            Stage::Opening | Stage::InUse | Stage::Closing => None,
        });
        let knock = knock.map(|at| Deadline::new(at, "call a relay over TCP"));
        let silent = silent.min().map(|at| Deadline::new(at, "close a silent tunnel"));
        Deadline::earlier(knock, silent)
    }
}

#[cfg(test)]
mod tests;
