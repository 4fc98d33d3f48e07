//! Cores of worlds in which some hosts are malicious.

use super::lies::Liar;
use super::mischief::Mischief;
use super::transport::Evil;
use crate::draw::Draw;
use crate::host::{Birth, BirthError, Core, raise};
use remote_network_core::action::Action;
use remote_network_core::drive::Driven;
use remote_network_core::event::Event;
use remote_network_core::node::Node;
use remote_network_core::path::stun;
use remote_network_core::place::SocketId;
use remote_network_core::time::{Deadline, Instant, UnixTime};
use remote_network_core::transport::Transmit;
use remote_network_core::transport::quic::QuicTransport;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// A core that misbehaves.
pub struct Villain {
    node: Node<Evil<QuicTransport>>,
    mischief: Mischief,
    liar: Option<Liar>,
    /// Lies in answer to STUN, on their way out.
    answers: VecDeque<(SocketId, SocketAddr, Vec<u8>)>,
}

impl Villain {
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
        let (speaks, answers) = (liar(1), liar(2));
        let node = raise(birth, |quic| Evil::new(quic, mischief.clone(), speaks))?;
        Ok(Self::Evil(Box::new(Villain { node, mischief, liar: answers, answers: VecDeque::new() })))
    }
}

impl Driven for Cast {
    fn handle(&mut self, now: Instant, wall: UnixTime, event: Event) {
        match self {
            Cast::Honest(node) => node.handle(now, wall, event),
            Cast::Evil(villain) => {
                if !villain.answered(&event) {
                    villain.node.handle(now, wall, event);
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        match self {
            Cast::Honest(node) => node.handle_timeout(now, wall),
            Cast::Evil(villain) => villain.node.handle_timeout(now, wall),
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
                None => villain.node.poll_transmit(now, max_datagrams, buf),
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
            Cast::Evil(villain) => villain.node.poll_timeout(),
        }
    }
}
