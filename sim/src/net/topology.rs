//! Which addresses mean what where: the Internet, and private networks behind boxes.
//!
//! Networks form a tree whose root is the Internet. Every other one is joined to the one around it by its box
//! ([`Gate`]): a home by its router, several homes and their carrier's network by the carrier's translator. Hosts in one
//! network reach each other by the addresses they have there, past every box. What is not known in a network goes out
//! through its box; what comes to an outer address of a box goes in through it; a box that can (hairpin) turns around
//! what its own insiders send there. So two homes behind one carrier meet at the carrier's box or not at all, and nothing
//! but the tree says so.
//!
//! Behind a box that does not translate, addresses are those of the network around it: it is on the way to them.

use super::HostId;
use crate::draw::Draw;
use crate::nat::{BoxSpec, Gate, Head, Way};
use crate::oracle::Level;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network by its number.
pub type NetworkId = u32;

/// The network around all others.
pub const INTERNET: NetworkId = 0;

/// The private networks homes have out of the box, the usual ones first: two homes often have the same.
const HOMES: [u8; 4] = [1, 0, 178, 2];

/// Who has an address in a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Attached {
    Host(HostId),
    /// The box of that network.
    Box(NetworkId),
}

/// How a network is joined to the one around it.
struct Uplink {
    outer: NetworkId,
    region: u8,
    gate: Gate,
    /// Counts how often the box forgot everything.
    restarts: u32,
}

#[derive(Default)]
struct Network {
    routes: BTreeMap<IpAddr, Attached>,
    uplink: Option<Uplink>,
    /// Its first private address, chosen when somebody asks for one.
    base: Option<u32>,
    given: u32,
    given6: u32,
}

/// An address of a host in a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Interface {
    pub(super) network: NetworkId,
    pub(super) ip: IpAddr,
}

/// Where a packet is after all boxes on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// At a host of the sender's own network.
    Near(HostId),
    /// At a host elsewhere.
    Far(HostId),
    /// At the outer side of that network's box.
    Box(NetworkId),
    /// Nobody has that address.
    Nowhere,
    /// A box does not let it through.
    Refused,
}

/// All networks.
pub(super) struct Topology {
    networks: Vec<Network>,
    seed: u64,
}

impl Topology {
    pub(super) fn new(seed: u64) -> Self {
        Self { networks: vec![Network::default()], seed }
    }

    fn network(&self, id: NetworkId) -> Option<&Network> {
        self.networks.get(id as usize)
    }

    fn gate_mut(&mut self, id: NetworkId) -> Option<&mut Uplink> {
        self.networks.get_mut(id as usize)?.uplink.as_mut()
    }

    /// A new network behind a box in `outer`; one that does not exist means the Internet.
    pub(super) fn add(&mut self, outer: NetworkId, region: u8, spec: BoxSpec) -> NetworkId {
        let outer = if self.network(outer).is_some() { outer } else { INTERNET };
        let id = self.networks.len() as NetworkId;
        let gate = Gate::new(spec, Vec::new(), Draw::derive(self.seed, "box", u64::from(id)));
        let uplink = Some(Uplink { outer, region, gate, restarts: 0 });
        self.networks.push(Network { uplink, ..Network::default() });
        self.readdress(id);
        id
    }

    /// Where the box of a network stands.
    pub(super) fn region(&self, id: NetworkId) -> u8 {
        self.network(id).and_then(|n| n.uplink.as_ref()).map_or(0, |u| u.region)
    }

    /// The network around one; `None` around the Internet.
    pub(super) fn outer(&self, id: NetworkId) -> Option<NetworkId> {
        self.network(id)?.uplink.as_ref().map(|u| u.outer)
    }

    pub(super) fn reboot(&mut self, id: NetworkId) {
        if let Some(uplink) = self.gate_mut(id) {
            uplink.gate.reboot();
            uplink.restarts += 1;
        }
    }

    pub(super) fn block_udp(&mut self, id: NetworkId, blocked: bool) {
        if let Some(uplink) = self.gate_mut(id) {
            uplink.gate.block_udp(blocked);
        }
    }

    /// Gives the box of a network outer addresses that nobody has had.
    pub(super) fn readdress(&mut self, id: NetworkId) {
        let Some(uplink) = self.network(id).and_then(|n| n.uplink.as_ref()) else { return };
        let (outer, count) = (uplink.outer, uplink.gate.spec().addresses());
        let old = uplink.gate.outside().to_vec();
        old.into_iter().for_each(|ip| self.detach(outer, ip));
        let fresh: Vec<IpAddr> = (0..count).map(|_| self.fresh(outer, true)).collect();
        fresh.iter().for_each(|ip| self.attach(outer, *ip, Attached::Box(id)));
        if let Some(uplink) = self.gate_mut(id) {
            uplink.gate.readdress(fresh);
            uplink.restarts += 1;
        }
    }

    /// Gives a host an address that nobody has had in a network.
    pub(super) fn join(&mut self, host: HostId, network: NetworkId, six: bool) -> Interface {
        let network = if self.network(network).is_some() { network } else { INTERNET };
        let ip = if six { self.fresh6(network) } else { self.fresh(network, false) };
        self.attach(network, ip, Attached::Host(host));
        Interface { network, ip }
    }

    pub(super) fn leave(&mut self, interface: Interface) {
        self.detach(interface.network, interface.ip);
    }

    /// The network whose kind of addresses those in `id` have: itself, or the first around it behind a translator.
    fn addressed(&self, mut id: NetworkId) -> NetworkId {
        while let Some(uplink) = self.network(id).and_then(|n| n.uplink.as_ref()) {
            if uplink.gate.spec().translates() {
                break;
            }
            id = uplink.outer;
        }
        id
    }

    /// An IPv4 address nobody has had: on the Internet 45.0.0.1 and up, without .0 and .255; in a network in which
    /// boxes stand 100.64.0.0/10 (RFC 6598); in a home one of the usual private networks.
    fn fresh(&mut self, network: NetworkId, for_box: bool) -> IpAddr {
        let id = self.addressed(network);
        let around = self.outer(id).and_then(|outer| self.network(self.addressed(outer))?.base);
        let Some(network) = self.networks.get_mut(id as usize) else { return Ipv4Addr::UNSPECIFIED.into() };
        let nth = network.given;
        network.given += 1;
        if id == INTERNET {
            let (high, low) = (nth / 254, nth % 254 + 1);
            return Ipv4Addr::from(0x2d00_0000 | high << 8 | low).into();
        }
        let home = |n: u32| 0xc0a8_000a | u32::from(HOMES[n as usize % HOMES.len()]) << 8;
        let base = *network.base.get_or_insert(match (for_box, home(id)) {
            (true, _) => 0x6440_0002,
            // A home within a home would otherwise never get at what is around it.
            (false, base) if Some(base) == around => home(id + 1),
            (false, base) => base,
        });
        Ipv4Addr::from(base.wrapping_add(nth)).into()
    }

    /// An IPv6 address nobody has had: each network has its own /64.
    fn fresh6(&mut self, network: NetworkId) -> IpAddr {
        let nth = match self.networks.get_mut(network as usize) {
            Some(network) => {
                network.given6 += 1;
                network.given6
            }
            None => 0,
        };
        let prefix = 0x2a00_0001_u128 << 96 | u128::from(network) << 64;
        Ipv6Addr::from(prefix | u128::from(nth)).into()
    }

    /// Makes an address known in a network and, as far as its boxes do not translate, in those around it.
    fn attach(&mut self, mut id: NetworkId, ip: IpAddr, who: Attached) {
        let mut who = who;
        while let Some(network) = self.networks.get_mut(id as usize) {
            network.routes.insert(ip, who);
            match &network.uplink {
                Some(uplink) if !uplink.gate.spec().translates() => {
                    (who, id) = (Attached::Box(id), uplink.outer);
                }
                Some(_) | None => return,
            }
        }
    }

    fn detach(&mut self, mut id: NetworkId, ip: IpAddr) {
        while let Some(network) = self.networks.get_mut(id as usize) {
            network.routes.remove(&ip);
            match &network.uplink {
                Some(uplink) if !uplink.gate.spec().translates() => id = uplink.outer,
                Some(_) | None => return,
            }
        }
    }

    /// Takes a packet out through the boxes on its way.
    pub(super) fn depart(&mut self, now_ns: u64, from: NetworkId, head: &mut Head) -> Next {
        let mut id = from;
        loop {
            let Some(network) = self.networks.get_mut(id as usize) else { return Next::Nowhere };
            match network.routes.get(&head.to.ip()) {
                Some(Attached::Host(host)) if id == from && id != INTERNET => return Next::Near(*host),
                Some(Attached::Host(host)) => return Next::Far(*host),
                Some(Attached::Box(inner)) => return Next::Box(*inner),
                None => {}
            }
            let Some(uplink) = &mut network.uplink else { return Next::Nowhere };
            match uplink.gate.outbound(now_ns, head) {
                Way::Out => id = uplink.outer,
                // Turned around; the address it goes to now is one of insiders, so this is looked up here again.
                Way::Back => {}
                Way::Lost => return Next::Refused,
            }
        }
    }

    /// Takes a packet in through a box and those behind it.
    pub(super) fn enter(&mut self, now_ns: u64, mut id: NetworkId, head: &mut Head) -> Next {
        loop {
            let Some(network) = self.networks.get_mut(id as usize) else { return Next::Nowhere };
            let Some(uplink) = &mut network.uplink else { return Next::Nowhere };
            if !uplink.gate.inbound(now_ns, head) {
                return Next::Refused;
            }
            match network.routes.get(&head.to.ip()) {
                Some(Attached::Host(host)) => return Next::Far(*host),
                Some(Attached::Box(inner)) => id = *inner,
                None => return Next::Nowhere,
            }
        }
    }

    /// Whether all boxes from a network to the Internet let UDP through.
    pub(super) fn passes_udp(&self, mut network: NetworkId) -> bool {
        while let Some(uplink) = self.network(network).and_then(|n| n.uplink.as_ref()) {
            if uplink.gate.blocks_udp() {
                return false;
            }
            network = uplink.outer;
        }
        true
    }

    /// The boxes between a network and the Internet, the nearest first.
    pub(super) fn levels(&self, mut network: NetworkId) -> Vec<Level> {
        let mut levels = Vec::new();
        while let Some(uplink) = self.network(network).and_then(|n| n.uplink.as_ref()) {
            levels.push(Level { network, spec: *uplink.gate.spec() });
            network = uplink.outer;
        }
        levels
    }

    /// Who has an address on the Internet, without a box between.
    pub(super) fn public(&self, ip: IpAddr) -> Option<HostId> {
        match self.network(INTERNET)?.routes.get(&ip) {
            Some(Attached::Host(host)) => Some(*host),
            Some(Attached::Box(_)) | None => None,
        }
    }

    /// The address under which an insider is seen on the Internet.
    pub(super) fn seen_as(&self, interface: Interface) -> IpAddr {
        let Interface { mut network, mut ip } = interface;
        while let Some(uplink) = self.network(network).and_then(|n| n.uplink.as_ref()) {
            ip = uplink.gate.outside_of(ip).unwrap_or(ip);
            network = uplink.outer;
        }
        ip
    }

    /// Where a stream of an insider to an address ends: the host, the insider's address as seen there, and the restarts
    /// of all boxes on the way, which would have ended it. Streams get out everywhere and in nowhere.
    pub(super) fn stream(&self, from: Interface, to: IpAddr) -> Option<(HostId, IpAddr, u32, bool)> {
        let Interface { mut network, mut ip } = from;
        let mut restarts = 0;
        loop {
            let here = self.network(network)?;
            match here.routes.get(&to) {
                Some(Attached::Host(host)) => {
                    let near = network == from.network && network != INTERNET;
                    return Some((*host, ip, restarts, near));
                }
                Some(Attached::Box(_)) => return None,
                None => {}
            }
            let uplink = here.uplink.as_ref()?;
            if uplink.gate.outside().contains(&to) {
                return None;
            }
            restarts += uplink.restarts;
            ip = uplink.gate.outside_of(ip).unwrap_or(ip);
            network = uplink.outer;
        }
    }
}
