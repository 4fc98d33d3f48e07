//! Lies about addresses: everything in which a node names an address names the victim's instead.
//!
//! | frame | said | the lie |
//! |---|---|---|
//! | `0x01` identity (also through relays, where nothing is to be said), `0x31` registered | I see you there | the victim's address |
//! | `0x02` known peers | they are there | fifty peers that do not exist, at the victim |
//! | `0x3e` at | that peer's packets come from there | the victim's address; unasked, of everybody to everybody |
//! | `0x38` connect, `0x39` answer | I may be there, my NAT is so | sixteen ports of the victim, a NAT whose ports must be guessed |
//! | pongs, answers of STUN ([`super::cast`]) | I see you there | the victim's address, another port each time |
//! | `0x3c` ways | these relays hold a session for me | three relays that do not exist, at the victim; again every second |

use crate::draw::Draw;
use remote_network_core::codec::{Dict, Frame, Value, compact_addr};
use remote_network_core::id::{DhtId, Keypair, PeerId};
use remote_network_core::path::behaviour::{Allocation, Behaviour, Dependence};
use remote_network_core::path::punch::message::{CANDIDATES_MAX, Message as Punch};
use remote_network_core::relay::message::Message as Relay;
use remote_network_core::relay::whereabouts::{At, KIND_AT};
use std::net::{IpAddr, SocketAddr};

/// Frame kinds of the rooms that keep theirs to themselves (docs/PROTOCOL.md, section 4).
const IDENTITY: u8 = 0x01;
const KNOWN_PEERS: u8 = 0x02;
const WAYS: u8 = 0x3c;
/// Known peers, and ways, that one frame may tell.
const KNOWN_PEERS_MAX: usize = 50;
const WAYS_MAX: usize = 3;
/// More than the bytes of any frame that is rewritten.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Tells lies about one victim.
pub struct Liar {
    victim: IpAddr,
    topics: Vec<DhtId>,
    draw: Draw,
}

impl Liar {
    /// A liar whose invented peers are of these topics.
    pub const fn new(victim: IpAddr, topics: Vec<DhtId>, draw: Draw) -> Self {
        Self { victim, topics, draw }
    }

    /// Some port of the victim.
    pub fn address(&mut self) -> SocketAddr {
        SocketAddr::new(self.victim, self.draw.between(1_024, 65_535) as u16)
    }

    /// Somebody who does not exist.
    fn nobody(&mut self) -> [u8; 32] {
        *Keypair::from_seed(&self.draw.seed()).public().as_bytes()
    }

    /// The frame as the liar sends it; `None`: as it is.
    pub fn twist(&mut self, frame: &Frame) -> Option<Frame> {
        match frame.kind {
            IDENTITY => {
                let d = Dict::decode(&frame.body, BODY_BYTES_MAX).ok()?;
                Some(Frame::new(IDENTITY, &d.with("a", &compact_addr(self.address())[..])))
            }
            KNOWN_PEERS => self.known_peers(frame),
            KIND_AT => {
                let at = At::from_frame(frame).ok()?;
                Some(At { ip: self.victim, ..at }.to_frame())
            }
            WAYS => Some(self.ways()),
            _ => self.punch(frame).or_else(|| self.registered(frame)),
        }
    }

    fn registered(&mut self, frame: &Frame) -> Option<Frame> {
        let Ok(Relay::Registered(mut registered)) = Relay::from_frame(frame) else { return None };
        registered.observed = self.address();
        Some(Relay::Registered(registered).to_frame())
    }

    fn known_peers(&mut self, frame: &Frame) -> Option<Frame> {
        let mut d = Dict::decode(&frame.body, BODY_BYTES_MAX).ok()?;
        let Some(Value::List(list)) = d.0.get_mut(&b"p"[..]) else { return None };
        let topic = *self.topics.first()?;
        while list.len() < KNOWN_PEERS_MAX {
            let (addr, key) = (self.address(), self.nobody());
            let entry = Dict::new()
                .with("a", &compact_addr(addr)[..])
                .with("k", &key[..])
                .with("r", 1u64)
                .with("s", 1u64)
                .with("t", &topic.0[..])
                .with("w", crate::host::WORLD_BEGINS_MS / 1_000);
            list.push(entry.into());
        }
        Some(Frame::new(KNOWN_PEERS, &d))
    }

    fn punch(&mut self, frame: &Frame) -> Option<Frame> {
        let mut message = Punch::from_frame(frame).ok()?;
        let (Punch::Connect { offer, .. } | Punch::Answer { offer, .. }) = &mut message else { return None };
        offer.candidates = (0..CANDIDATES_MAX).map(|_| self.address()).collect();
        // Half of the time it wants a window of foretold ports, half of the time a birthday burst.
        let foretold = self.draw.chance_ppm(500_000);
        offer.behaviour = Behaviour {
            mapping: Dependence::AddressAndPortDependent,
            filtering: Dependence::AddressAndPortDependent,
            allocation: if foretold { Allocation::Sequential { step: 1 } } else { Allocation::Random },
            public_ips: vec![self.victim],
            next: foretold.then(|| self.address()),
            ..Behaviour::default()
        };
        offer.birthday = true;
        Some(message.to_frame())
    }

    /// Relays that hold a session for the liar, it says.
    pub fn ways(&mut self) -> Frame {
        let way = |liar: &mut Self| {
            let mut bytes = liar.nobody().to_vec();
            bytes.extend(liar.draw.next_u64().to_be_bytes());
            bytes.extend(compact_addr(liar.address()));
            Value::Bytes(bytes)
        };
        let ways: Vec<Value> = (0..WAYS_MAX).map(|_| way(self)).collect();
        Frame::new(WAYS, &Dict::new().with("r", ways))
    }

    /// Where a peer is, unasked.
    pub fn at(&self, peer: PeerId) -> Frame {
        At { peer, ip: self.victim }.to_frame()
    }
}
