//! Who sent how much to an address, and what was sent in its name.
//!
//! An address that somebody names, or forges as the source of what he sends, must not be flooded. So the network counts
//! for one address what every host hands to it (before any loss, so that luck flatters nobody), and it can play the one on
//! a host's way who sends its datagrams on with that address as their source.

use super::{HostId, Net};
use crate::draw::Draw;
use std::net::{IpAddr, SocketAddr};

/// A datagram for a watched address, or in its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// When.
    pub at_ns: u64,
    /// Who sent it; of one in the address's name, who gets it.
    pub host: HostId,
    /// Bytes of UDP payload.
    pub bytes: usize,
    /// The first of them: tells QUIC, probes and STUN apart.
    pub first_byte: u8,
    /// Whether it is in the address's name, and not for it.
    pub forged: bool,
}

/// Somebody on the way of a host's datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forger {
    /// Whose datagrams.
    pub of: HostId,
    /// The source that they get.
    pub from: SocketAddr,
    /// How many of them.
    pub share_ppm: u32,
    /// Whether the right ones go on as well.
    pub copies: bool,
}

/// The books.
#[derive(Default)]
pub(super) struct Ledger {
    watched: Option<IpAddr>,
    sightings: Vec<Sighting>,
    forger: Option<(Forger, Draw)>,
}

impl Ledger {
    pub(super) fn sends(&mut self, at_ns: u64, host: HostId, to: IpAddr, payload: &[u8]) {
        self.note(at_ns, host, to, payload, false);
    }

    fn note(&mut self, at_ns: u64, host: HostId, address: IpAddr, payload: &[u8], forged: bool) {
        if self.watched == Some(address) {
            let first_byte = payload.first().copied().unwrap_or_default();
            self.sightings.push(Sighting { at_ns, host, bytes: payload.len(), first_byte, forged });
        }
    }

    /// The source that a datagram gets on its way, and whether the right one goes on as well.
    pub(super) fn forges(&mut self, host: HostId) -> Option<(SocketAddr, bool)> {
        let (forger, draw) = self.forger.as_mut().filter(|(f, _)| f.of == host)?;
        draw.chance_ppm(forger.share_ppm).then_some((forger.from, forger.copies))
    }

    pub(super) fn forged(&mut self, at_ns: u64, to: HostId, from: IpAddr, payload: &[u8]) {
        self.note(at_ns, to, from, payload, true);
    }
}

impl Net {
    /// Watches an address from now on, and no other.
    pub fn watch(&mut self, address: IpAddr) {
        self.ledger.watched = Some(address);
        self.ledger.sightings.clear();
    }

    /// What was seen of the watched address, in order.
    pub fn sightings(&self) -> &[Sighting] {
        &self.ledger.sightings
    }

    /// Puts somebody on the way of a host's datagrams, or takes him away.
    pub fn forge(&mut self, forger: Option<Forger>) {
        self.ledger.forger = forger.map(|f| (f, Draw::derive(self.seed, "forger", u64::from(f.of))));
    }

    /// Something that is not the network's own sent this to a host in an address's name.
    pub fn sent_in_name(&mut self, at_ns: u64, to: HostId, from: IpAddr, payload: &[u8]) {
        self.ledger.forged(at_ns, to, from, payload);
    }
}
