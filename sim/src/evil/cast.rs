//! Cores of worlds in which some hosts are malicious.

use super::lies::Liar;
use super::mischief::Mischief;
use super::transport::Evil;
use crate::draw::Draw;
use crate::host::{Birth, BirthError, Core, raise};
use bytes::Bytes;
use remote_network_core::action::Action;
use remote_network_core::drive::Driven;
use remote_network_core::event::Event;
use remote_network_core::id::PublicKey;
use remote_network_core::node::Node;
use remote_network_core::path::dialback::{self, Nonce};
use remote_network_core::path::probe::{self, Probe, ProbeKeys};
use remote_network_core::path::stun;
use remote_network_core::place::SocketId;
use remote_network_core::time::{Deadline, Duration, Instant, UnixTime};
use remote_network_core::transport::Transmit;
use remote_network_core::transport::quic::QuicTransport;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// A core that misbehaves.
pub struct Villain {
    node: Node<Evil<QuicTransport>>,
    mischief: Mischief,
    liar: Option<Liar>,
    me: PublicKey,
    /// Of its connections: what opens the probes that its core has sealed, and what seals them anew.
    probes: Vec<(ProbeKeys, ProbeKeys)>,
    /// Lies in answer to STUN, and what keeps mappings alive, on their way out.
    answers: VecDeque<(SocketId, SocketAddr, Vec<u8>)>,
    /// Mappings that are kept alive: from which socket, where, when next, until when.
    kept: VecDeque<(SocketId, SocketAddr, Instant, Instant)>,
}

/// Mappings kept alive at once.
const KEPT_MAX: usize = 64;
/// So often, and as long as anybody leaves one alone.
const KEPT_EVERY: Duration = Duration::from_secs(10);
const KEPT_FOR: Duration = Duration::from_secs(140);

impl Villain {
    /// Somebody asks where we see it, perhaps to leave that mapping alone and see how long it lives.
    fn keeps(&mut self, now: Instant, event: &Event) {
        let Event::Datagram(datagram) = event else { return };
        let asks = stun::is_stun(&datagram.payload) && stun::is_request(&datagram.payload);
        let known = self.kept.iter().any(|(_, to, ..)| *to == datagram.from);
        if asks && !known && self.mischief.malice().keeps_mappings && self.kept.len() < KEPT_MAX {
            self.kept.push_back((datagram.socket, datagram.from, now + KEPT_EVERY, now + KEPT_FOR));
        }
    }

    fn keep(&mut self, now: Instant) {
        for (socket, to, at, _) in self.kept.iter_mut().filter(|(_, _, at, _)| *at <= now) {
            *at = now + KEPT_EVERY;
            self.mischief.does(|d| d.kept += 1);
            self.answers.push_back((*socket, *to, dialback::datagram(Nonce([0; 8])).to_vec()));
        }
        self.kept.retain(|(.., until)| *until > now);
    }

    /// A pong of its core tells where it sees somebody: the victim's address instead.
    fn false_pong(&mut self, bytes: &[u8]) -> Option<Bytes> {
        self.mischief.malice().victim?;
        let known = self.probes.len();
        let (me, shared) = (self.me, self.mischief.shared(known));
        self.probes.extend(shared.into_iter().map(|(secret, peer)| {
            (ProbeKeys::derive(&secret, &peer, &me), ProbeKeys::derive(&secret, &me, &peer))
        }));
        let liar = self.liar.as_mut()?;
        self.probes.iter().rev().find_map(|(opens, seals)| match opens.open(bytes) {
            Ok(Probe::Pong { nonce, .. }) => {
                self.mischief.does(|d| d.lies += 1);
                Some(seals.seal(&Probe::Pong { nonce, observed: liar.address() }))
            }
            Ok(Probe::Ping { .. }) | Err(_) => None,
        })
    }

    /// Somebody asks where we see it: it is told to be the victim. False when that was no such question.
    fn answered(&mut self, event: &Event) -> bool {
        let (Event::Datagram(datagram), Some(liar)) = (event, &mut self.liar) else { return false };
        let asks = stun::is_stun(&datagram.payload) && stun::is_request(&datagram.payload);
        if !asks || self.mischief.malice().victim.is_none() {
            return false;
        }
        let Ok(answer) = stun::answer(&datagram.payload, liar.address()) else { return false };
        self.mischief.does(|d| d.lies += 1);
        self.answers.push_back((datagram.socket, datagram.from, answer));
        true
    }
}

/// A core of a world with good and bad hosts. The good ones are the product's own.
pub enum Cast {
    /// The product's core.
    Honest(Node<QuicTransport>),
    /// One that misbehaves.
    Evil(Box<Villain>),
}

impl Core for Cast {
    fn restore(birth: Birth) -> Result<Self, BirthError> {
        raise(birth, |quic| quic).map(Self::Honest)
    }

    fn corrupt(birth: Birth, mischief: Mischief) -> Result<Self, BirthError> {
        let liar = |label| {
            let draw = Draw::new(mischief.with_draw(Draw::next_u64) ^ label);
            let topics = birth.config.topics.clone();
            mischief.malice().victim.map(|victim| Liar::new(victim, topics, draw))
        };
        let (speaks, answers, me) = (liar(1), liar(2), birth.config.keypair.public());
        let node = raise(birth, |quic| Evil::new(quic, mischief.clone(), speaks))?;
        Ok(Self::Evil(Box::new(Villain {
            node,
            mischief,
            liar: answers,
            me,
            probes: Vec::new(),
            answers: VecDeque::new(),
            kept: VecDeque::new(),
        })))
    }
}

impl Driven for Cast {
    fn handle(&mut self, now: Instant, wall: UnixTime, event: Event) {
        match self {
            Cast::Honest(node) => node.handle(now, wall, event),
            Cast::Evil(villain) => {
                villain.keeps(now, &event);
                if !villain.answered(&event) {
                    villain.node.handle(now, wall, event);
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        match self {
            Cast::Honest(node) => node.handle_timeout(now, wall),
            Cast::Evil(villain) => {
                villain.keep(now);
                villain.node.handle_timeout(now, wall);
            }
        }
    }

    fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        match self {
            Cast::Honest(node) => node.poll_transmit(now, max_datagrams, buf),
            Cast::Evil(villain) => match villain.answers.pop_front() {
                Some((socket, to, bytes)) => {
                    buf.extend_from_slice(&bytes);
                    let size = bytes.len();
                    Some(Transmit { socket, to, from: None, size, segment_size: None, ecn: None })
                }
                None => {
                    let from = buf.len();
                    let transmit = villain.node.poll_transmit(now, max_datagrams, buf);
                    if buf.get(from) == Some(&probe::FIRST_BYTE)
                        && let Some(lie) = villain.false_pong(&buf[from..])
                        && lie.len() == buf.len() - from
                    {
                        buf[from..].copy_from_slice(&lie);
                    }
                    transmit
                }
            },
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        match self {
            Cast::Honest(node) => node.poll_action(),
            Cast::Evil(villain) => villain.node.poll_action(),
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        match self {
            Cast::Honest(node) => node.poll_timeout(),
            Cast::Evil(villain) => {
                let keep = villain.kept.iter().map(|(_, _, at, _)| *at).min();
                let keep = keep.map(|at| Deadline::new(at, "keep a mapping alive"));
                Deadline::earlier(villain.node.poll_timeout(), keep)
            }
        }
    }
}
