//! The network between hosts: what happens to a datagram on its way.
//!
//! A host sits behind an access link (rate, buffer, latency, loss, size limit) in a region; between regions lies a fixed
//! latency. It is on the Internet itself, or in a private network behind boxes that translate and filter ([`crate::nat`]);
//! which addresses mean what where is the business of `topology`. A datagram goes through: the sender's uplink queue
//! (drop-tail), the boxes on its way out, the cuts of the moment, random and bursty loss, the way with its jitter, perhaps a
//! detour (reordering), a twin (duplication) or a flipped bit; then, at the time it gets there, the boxes on its way in,
//! and the receiver's link with its downlink queue. Within one private network nothing of all that lies between two hosts.
//! State is one record a host or box and a small table of cuts, never a table of pairs. Everything is integers:
//! nanoseconds, bytes, parts per million.
//!
//! Jitter is a slow wave per pair of hosts, computed from the time and the pair without any state: real queues delay
//! packets without overtaking, so overtaking is a fault of its own ([`Quality::reorder_ppm`]).

mod ledger;
mod link;
mod stream;
mod topology;

#[cfg(test)]
mod tests;

use crate::draw::{Draw, scramble};
use crate::nat::{BoxSpec, Head};
use crate::oracle::Stand;
use bytes::BytesMut;
use ledger::Ledger;
pub use ledger::{Forger, Sighting};
pub use link::{JITTER_WAVE_NS, Quality, REGION_LATENCY_US};
use link::{jitter_ns, queue, serialisation_ns};
use remote_network_core::place::SocketId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
pub use stream::StreamWay;
pub use topology::{INTERNET, NetworkId};
use topology::{Interface, Next, Topology};

/// A host by its number in the world.
pub type HostId = u32;

/// The UDP port every host listens on: the product's default.
pub const PORT: u16 = 30906;

/// The first of the ports that further sockets get: the dynamic ones (RFC 6335).
pub const EPHEMERAL_PORT_MIN: u16 = 49_152;

/// Further sockets of a host at once: what a process may open by default on common systems.
pub const SOCKETS_MAX: usize = 1_024;

/// From one host to another of the same private network: a switch, or a wireless access point in between.
pub const NEAR_NS: u64 = 300_000;

/// Groups for partitions: a host belongs to one.
pub const GROUPS: usize = 64;

/// Why a datagram never arrived, and what else happened to datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Datagrams handed to the network.
    pub sent: u64,
    /// Datagrams handed to hosts.
    pub delivered: u64,
    /// Bytes of UDP payload handed to hosts.
    pub delivered_bytes: u64,
    /// Lost at random.
    pub lost: u64,
    /// Lost in a burst.
    pub lost_in_burst: u64,
    /// Larger than the way allows.
    pub too_large: u64,
    /// A full buffer.
    pub overflowed: u64,
    /// A cut.
    pub cut: u64,
    /// A gateway's refusal.
    pub refused: u64,
    /// Nobody has that address.
    pub unroutable: u64,
    /// Arrived at a host that was down, or whose socket buffer was full.
    pub unheard: u64,
    /// Took a detour.
    pub reordered: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// Lost a bit's truth.
    pub corrupted: u64,
}

/// How far a datagram has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// On its way to the box of a network.
    Box(NetworkId),
    /// On its way to the receiver's link.
    Link,
    /// It has passed the receiver's link.
    Queued,
}

/// A datagram on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flight {
    /// The host it will reach; its sender, as long as a box has to say who that is.
    pub host: HostId,
    /// Source address as it is seen where the datagram is.
    pub from: SocketAddr,
    /// Destination address.
    pub to: SocketAddr,
    /// ECN codepoint.
    pub ecn: Option<u8>,
    /// How far it has come.
    pub hop: Hop,
    /// Its payload.
    pub payload: BytesMut,
}

/// What becomes of a datagram that has come so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// The host has it now.
    Now,
    /// It goes on, and has come a hop further then.
    At(u64),
    /// It ends here.
    Lost,
}

/// A datagram that a host wants sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing<'a> {
    /// The socket it leaves from.
    pub socket: SocketId,
    /// Where to.
    pub to: SocketAddr,
    /// ECN codepoint.
    pub ecn: Option<u8>,
    /// Its payload.
    pub payload: &'a [u8],
}

/// Where a host is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Site {
    /// The network in which it has its IPv4 address.
    pub v4: NetworkId,
    /// That in which it has its IPv6 address, if it has one.
    pub v6: Option<NetworkId>,
}

struct Port {
    v4: Interface,
    v6: Option<Interface>,
    /// Sockets beside the main one, by port.
    sockets: BTreeMap<u16, SocketId>,
    next_ephemeral: u16,
    region: u8,
    group: u8,
    quality: Quality,
    draw: Draw,
    up_free_ns: u64,
    down_free_ns: u64,
    in_burst: bool,
    down: bool,
}

impl Port {
    fn interface(&self, six: bool) -> Option<Interface> {
        if six { self.v6 } else { Some(self.v4) }
    }

    fn has(&self, ip: IpAddr) -> bool {
        self.interface(ip.is_ipv6()).is_some_and(|i| i.ip == ip)
    }

    fn socket_at(&self, port: u16) -> Option<SocketId> {
        if port == PORT { Some(SocketId::MAIN) } else { self.sockets.get(&port).copied() }
    }

    fn port_of(&self, socket: SocketId) -> Option<u16> {
        match socket {
            SocketId::MAIN => Some(PORT),
            other => self.sockets.iter().find(|(_, s)| **s == other).map(|(port, _)| *port),
        }
    }
}

/// The network.
pub struct Net {
    ports: Vec<Port>,
    topology: Topology,
    /// Bit `j` of `cuts[i]`: nothing gets from group `i` to group `j`.
    cuts: [u64; GROUPS],
    /// Loss everywhere, on top of the links' own.
    loss_ppm: u32,
    /// Latency everywhere, on top.
    surge_us: u32,
    seed: u64,
    tally: Tally,
    ledger: Ledger,
}

impl Net {
    /// An empty network.
    pub fn new(seed: u64) -> Self {
        Self {
            ports: Vec::new(),
            topology: Topology::new(seed),
            cuts: [0; GROUPS],
            loss_ppm: 0,
            surge_us: 0,
            seed,
            tally: Tally::default(),
            ledger: Ledger::default(),
        }
    }

    /// Adds a private network behind a box, which stands in `outer` (the Internet: [`INTERNET`]).
    pub fn add_network(&mut self, outer: NetworkId, region: u8, spec: BoxSpec) -> NetworkId {
        self.topology.add(outer, region % REGION_LATENCY_US.len() as u8, spec)
    }

    /// Adds networks within each other, the outermost first; the innermost one. Without any boxes, that is `outer`.
    pub fn add_chain(&mut self, outer: NetworkId, region: u8, chain: &[BoxSpec]) -> NetworkId {
        chain.iter().fold(outer, |outer, spec| self.add_network(outer, region, *spec))
    }

    /// Adds a host on the Internet; returns its number.
    pub fn add(&mut self, region: u8, quality: Quality) -> HostId {
        self.add_at(region, quality, Site::default())
    }

    /// Adds a host somewhere; returns its number.
    pub fn add_at(&mut self, region: u8, quality: Quality, site: Site) -> HostId {
        let host = self.ports.len() as HostId;
        let v4 = self.topology.join(host, site.v4, false);
        let v6 = site.v6.map(|network| self.topology.join(host, network, true));
        self.ports.push(Port {
            v4,
            v6,
            sockets: BTreeMap::new(),
            next_ephemeral: EPHEMERAL_PORT_MIN,
            region: region % REGION_LATENCY_US.len() as u8,
            group: 0,
            quality,
            draw: Draw::derive(self.seed, "net", u64::from(host)),
            up_free_ns: 0,
            down_free_ns: 0,
            in_burst: false,
            down: false,
        });
        host
    }

    /// The IPv4 address of a host's main socket, as the host knows it.
    pub fn address(&self, host: HostId) -> Option<SocketAddr> {
        self.ports.get(host as usize).map(|p| SocketAddr::new(p.v4.ip, PORT))
    }

    /// All addresses of a host's main socket, as its system tells.
    pub fn addresses(&self, host: HostId) -> Vec<SocketAddr> {
        let Some(port) = self.ports.get(host as usize) else { return Vec::new() };
        [Some(port.v4), port.v6].into_iter().flatten().map(|i| SocketAddr::new(i.ip, PORT)).collect()
    }

    /// Its address, when it is on the Internet itself without a box between.
    pub fn public_address(&self, host: HostId) -> Option<SocketAddr> {
        self.address(host).filter(|a| self.topology.public(a.ip()) == Some(host))
    }

    /// Where it is seen from far away. With a translator between, only the IP address means anything.
    pub fn seen_as(&self, host: HostId) -> Option<SocketAddr> {
        let port = self.ports.get(host as usize)?;
        Some(SocketAddr::new(self.topology.seen_as(port.v4), PORT))
    }

    /// Who is at an address of the Internet.
    pub fn host_at(&self, address: SocketAddr) -> Option<HostId> {
        let host = self.topology.public(address.ip())?;
        self.ports.get(host as usize)?.socket_at(address.port()).map(|_| host)
    }

    /// Where a host is.
    pub fn site(&self, host: HostId) -> Option<Site> {
        let port = self.ports.get(host as usize)?;
        Some(Site { v4: port.v4.network, v6: port.v6.map(|i| i.network) })
    }

    /// What lies between a host and the Internet.
    pub fn stand(&self, host: HostId) -> Option<Stand> {
        let site = self.site(host)?;
        Some(Stand { v4: self.topology.levels(site.v4), v6: site.v6.map(|six| self.topology.levels(six)) })
    }

    /// Whether boxes let a host's UDP out over IPv4 at the moment.
    pub fn passes_udp(&self, host: HostId) -> bool {
        self.ports.get(host as usize).is_some_and(|p| self.topology.passes_udp(p.v4.network))
    }

    /// Moves a host to an address nobody has had; what is under way to the old one is lost.
    pub fn readdress(&mut self, host: HostId) -> Option<SocketAddr> {
        self.relocate(host, self.site(host)?)
    }

    /// Moves a host into other networks, where it gets addresses nobody has had; what is under way to it is lost.
    pub fn relocate(&mut self, host: HostId, site: Site) -> Option<SocketAddr> {
        let port = self.ports.get_mut(host as usize)?;
        self.topology.leave(port.v4);
        port.v4 = self.topology.join(host, site.v4, false);
        if let Some(old) = port.v6.take() {
            self.topology.leave(old);
        }
        port.v6 = site.v6.map(|network| self.topology.join(host, network, true));
        self.address(host)
    }

    /// The box of a network restarts and has forgotten everything.
    pub fn reboot_box(&mut self, network: NetworkId) {
        self.topology.reboot(network);
    }

    /// The box of a network gets other outer addresses, and has forgotten everything.
    pub fn readdress_box(&mut self, network: NetworkId) {
        self.topology.readdress(network);
    }

    /// The box of a network lets no UDP through any more, or does again.
    pub fn block_udp(&mut self, network: NetworkId, blocked: bool) {
        self.topology.block_udp(network, blocked);
    }

    /// Binds one more socket of a host; its port. `None` when there are too many, or the number is taken.
    pub fn open_socket(&mut self, host: HostId, socket: SocketId) -> Option<SocketAddr> {
        let port = self.ports.get_mut(host as usize)?;
        if port.sockets.len() >= SOCKETS_MAX || port.port_of(socket).is_some() {
            return None;
        }
        while port.sockets.contains_key(&port.next_ephemeral) {
            port.next_ephemeral = port.next_ephemeral.checked_add(1).unwrap_or(EPHEMERAL_PORT_MIN);
        }
        let number = port.next_ephemeral;
        port.next_ephemeral = number.checked_add(1).unwrap_or(EPHEMERAL_PORT_MIN);
        port.sockets.insert(number, socket);
        Some(SocketAddr::new(port.v4.ip, number))
    }

    /// Closes it.
    pub fn close_socket(&mut self, host: HostId, socket: SocketId) {
        if let Some(port) = self.ports.get_mut(host as usize) {
            port.sockets.retain(|_, s| *s != socket);
        }
    }

    /// Closes all but the main one: the process is gone.
    pub fn close_sockets(&mut self, host: HostId) {
        if let Some(port) = self.ports.get_mut(host as usize) {
            port.sockets.clear();
        }
    }

    /// Which socket of a host has a port.
    pub fn socket_at(&self, host: HostId, port: u16) -> Option<SocketId> {
        self.ports.get(host as usize)?.socket_at(port)
    }

    /// What has happened so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Counts a datagram that reached a host which did not hear it.
    pub fn unheard(&mut self) {
        self.tally.unheard += 1;
    }

    /// Changes a host's link.
    pub fn set_quality(&mut self, host: HostId, quality: Quality) {
        if let Some(port) = self.ports.get_mut(host as usize) {
            port.quality = quality;
        }
    }

    /// Puts a host into a partition group.
    pub fn set_group(&mut self, host: HostId, group: u8) {
        if let Some(port) = self.ports.get_mut(host as usize) {
            port.group = group % GROUPS as u8;
        }
    }

    /// Cuts or mends the way from group `from` to group `to`, one direction only.
    pub fn set_cut(&mut self, from: u8, to: u8, cut: bool) {
        let bit = 1u64 << (to as usize % GROUPS);
        let row = &mut self.cuts[from as usize % GROUPS];
        *row = if cut { *row | bit } else { *row & !bit };
    }

    /// Pulls a host's cable, or puts it back.
    pub fn set_down(&mut self, host: HostId, down: bool) {
        if let Some(port) = self.ports.get_mut(host as usize) {
            port.down = down;
        }
    }

    /// Loss and latency everywhere, on top of the links' own.
    pub fn set_weather(&mut self, loss_ppm: u32, surge_us: u32) {
        (self.loss_ppm, self.surge_us) = (loss_ppm, surge_us);
    }

    /// A host sends a datagram; `deliver` gets what will arrive, and when.
    pub fn send(
        &mut self,
        now_ns: u64,
        host: HostId,
        datagram: Outgoing<'_>,
        mut deliver: impl FnMut(u64, Flight),
    ) {
        self.tally.sent += 1;
        let Outgoing { socket, to, ecn, payload } = datagram;
        self.ledger.sends(now_ns, host, to.ip(), payload);
        let Some((head, next, left_ns)) = self.depart(now_ns, host, socket, to, payload.len()) else {
            return;
        };
        let mut flight = Flight {
            host,
            from: head.from,
            to: head.to,
            ecn,
            hop: Hop::Link,
            payload: BytesMut::from(payload),
        };
        let far = match next {
            Next::Near(target) => {
                if !self.is_cut(host, target) {
                    deliver(now_ns + NEAR_NS, Flight { host: target, hop: Hop::Queued, ..flight });
                }
                return;
            }
            Next::Far(target) => {
                flight.host = target;
                let Some(far) = self.far_host(head.to, target) else { return };
                far
            }
            Next::Box(network) => {
                flight.hop = Hop::Box(network);
                Far::of_box(network, self.topology.region(network))
            }
            Next::Nowhere => return self.tally.unroutable += 1,
            Next::Refused => return self.tally.refused += 1,
        };
        let Some((arrive_ns, fate)) = self.travel(host, &far, left_ns, payload.len()) else { return };
        if let Some(twin_ns) = fate.twin_ns {
            deliver(twin_ns, flight.clone());
        }
        if let Some(bit) = fate.flipped_bit
            && let Some(byte) = flight.payload.get_mut(bit / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
        if let Some((from, copies)) = self.ledger.forges(host) {
            if flight.hop == Hop::Link {
                self.ledger.forged(arrive_ns, flight.host, from.ip(), payload);
            }
            let right = copies.then(|| flight.clone());
            deliver(arrive_ns, Flight { from, ..flight });
            right.into_iter().for_each(|right| deliver(arrive_ns, right));
            return;
        }
        deliver(arrive_ns, flight);
    }

    /// Through the sender's boxes and uplink; `None` when it ends there.
    fn depart(
        &mut self,
        now_ns: u64,
        host: HostId,
        socket: SocketId,
        to: SocketAddr,
        len: usize,
    ) -> Option<(Head, Next, u64)> {
        let port = self.ports.get_mut(host as usize)?;
        if port.down {
            self.tally.cut += 1;
            return None;
        }
        let (Some(interface), Some(number)) = (port.interface(to.is_ipv6()), port.port_of(socket)) else {
            self.tally.unroutable += 1;
            return None;
        };
        if len > usize::from(port.quality.mtu) {
            self.tally.too_large += 1;
            return None;
        }
        let mut head = Head { from: SocketAddr::new(interface.ip, number), to };
        let next = self.topology.depart(now_ns, interface.network, &mut head);
        if let Next::Near(_) = next {
            return Some((head, next, now_ns));
        }
        match queue(&mut port.up_free_ns, now_ns, len, port.quality.up_bytes_per_s, port.quality.buffer_bytes)
        {
            Some(left_ns) => Some((head, next, left_ns)),
            None => {
                self.tally.overflowed += 1;
                None
            }
        }
    }

    /// What is known of a receiver when something leaves for it; `None` when nothing of it has that address.
    fn far_host(&mut self, to: SocketAddr, target: HostId) -> Option<Far> {
        let port = self.ports.get(target as usize)?;
        if port.socket_at(to.port()).is_none() {
            self.tally.unroutable += 1;
            return None;
        }
        Some(Far {
            quality: port.quality,
            group: Some(port.group),
            region: port.region,
            down: port.down,
            pair: u64::from(target),
        })
    }

    fn is_cut(&mut self, from: HostId, to: HostId) -> bool {
        let group = |host: HostId| self.ports.get(host as usize).map(|p| (p.group, p.down));
        let cut = match (group(from), group(to)) {
            (Some((from, _)), Some((to, down))) => down || self.cuts[usize::from(from)] >> to & 1 == 1,
            _ => true,
        };
        self.tally.cut += u64::from(cut);
        cut
    }

    /// The way between two hosts, or to a box: cuts, loss, latency; `None` when it ends there.
    fn travel(&mut self, from: HostId, far: &Far, left_ns: u64, len: usize) -> Option<(u64, Fate)> {
        let weather_ppm = self.loss_ppm;
        let port = self.ports.get_mut(from as usize)?;
        let quality = far.quality;
        if far.down || far.group.is_some_and(|group| self.cuts[usize::from(port.group)] >> group & 1 == 1) {
            self.tally.cut += 1;
            return None;
        }
        if len > usize::from(quality.mtu) {
            self.tally.too_large += 1;
            return None;
        }
        let own = port.quality;
        let draw = &mut port.draw;
        let turns = if port.in_burst { own.burst_ends_ppm } else { own.burst_begins_ppm };
        port.in_burst ^= draw.chance_ppm(turns);
        if port.in_burst && draw.chance_ppm(own.burst_loss_ppm) {
            self.tally.lost_in_burst += 1;
            return None;
        }
        let loss_ppm = own.loss_ppm.saturating_add(quality.loss_ppm).saturating_add(weather_ppm);
        if draw.chance_ppm(loss_ppm) {
            self.tally.lost += 1;
            return None;
        }
        let base_us = REGION_LATENCY_US[usize::from(port.region)][usize::from(far.region)]
            .saturating_add(own.latency_us)
            .saturating_add(quality.latency_us)
            .saturating_add(self.surge_us);
        let wave_us = own.jitter_us.saturating_add(quality.jitter_us);
        // The receiver's own serialisation is paid here, so that an idle link costs no second event.
        let serial_ns = serialisation_ns(len, quality.down_bytes_per_s);
        let pair = scramble(self.seed ^ u64::from(from), far.pair);
        let mut arrive_ns =
            left_ns + u64::from(base_us) * 1000 + jitter_ns(pair, left_ns, wave_us) + serial_ns;
        if draw.chance_ppm(own.reorder_ppm) {
            self.tally.reordered += 1;
            arrive_ns += draw.below(u64::from(own.reorder_us) * 1000);
        }
        let twin_ns = draw.chance_ppm(own.duplicate_ppm).then(|| {
            self.tally.duplicated += 1;
            arrive_ns + draw.below(20_000_000)
        });
        let flipped_bit = draw.chance_ppm(own.corrupt_ppm).then(|| {
            self.tally.corrupted += 1;
            draw.below(len as u64 * 8) as usize
        });
        Some((arrive_ns, Fate { twin_ns, flipped_bit }))
    }

    /// A datagram has come a hop further.
    pub fn arrive(&mut self, now_ns: u64, flight: &mut Flight) -> Arrival {
        if let Hop::Box(network) = flight.hop {
            return self.pass(now_ns, network, flight);
        }
        let Some(port) = self.ports.get_mut(flight.host as usize) else { return Arrival::Lost };
        if port.down || !port.has(flight.to.ip()) || port.socket_at(flight.to.port()).is_none() {
            self.tally.cut += 1;
            return Arrival::Lost;
        }
        let len = flight.payload.len();
        if flight.hop == Hop::Link && port.quality.down_bytes_per_s > 0 {
            let serial_ns = serialisation_ns(len, port.quality.down_bytes_per_s);
            let began_ns = now_ns.saturating_sub(serial_ns);
            let q = port.quality;
            match queue(&mut port.down_free_ns, began_ns, len, q.down_bytes_per_s, q.buffer_bytes) {
                Some(done_ns) if done_ns > now_ns => {
                    flight.hop = Hop::Queued;
                    return Arrival::At(done_ns);
                }
                Some(_) => {}
                None => {
                    self.tally.overflowed += 1;
                    return Arrival::Lost;
                }
            }
        }
        self.tally.delivered += 1;
        self.tally.delivered_bytes += len as u64;
        Arrival::Now
    }

    /// In through boxes, and on to the link of whoever it is for.
    fn pass(&mut self, now_ns: u64, network: NetworkId, flight: &mut Flight) -> Arrival {
        let sender = flight.host;
        let mut head = Head { from: flight.from, to: flight.to };
        let target = match self.topology.enter(now_ns, network, &mut head) {
            Next::Near(host) | Next::Far(host) => host,
            Next::Box(_) | Next::Nowhere => {
                self.tally.unroutable += 1;
                return Arrival::Lost;
            }
            Next::Refused => {
                self.tally.refused += 1;
                return Arrival::Lost;
            }
        };
        if self.is_cut(sender, target) {
            return Arrival::Lost;
        }
        let Some(port) = self.ports.get_mut(target as usize) else { return Arrival::Lost };
        let (quality, len) = (port.quality, flight.payload.len());
        if len > usize::from(quality.mtu) {
            self.tally.too_large += 1;
            return Arrival::Lost;
        }
        if port.draw.chance_ppm(quality.loss_ppm) {
            self.tally.lost += 1;
            return Arrival::Lost;
        }
        let pair = scramble(self.seed ^ u64::from(target), u64::from(sender));
        (flight.host, flight.from, flight.to, flight.hop) = (target, head.from, head.to, Hop::Link);
        let wait_ns = u64::from(quality.latency_us) * 1000
            + jitter_ns(pair, now_ns, quality.jitter_us)
            + serialisation_ns(len, quality.down_bytes_per_s);
        Arrival::At(now_ns + wait_ns)
    }
}

/// What lies at the other end of a way.
struct Far {
    quality: Quality,
    group: Option<u8>,
    region: u8,
    down: bool,
    /// Tells pairs apart for the wave of their jitter.
    pair: u64,
}

impl Far {
    /// A box: whatever the link behind it does comes after it.
    fn of_box(network: NetworkId, region: u8) -> Self {
        let quality = Quality { mtu: u16::MAX, ..Quality::default() };
        Self { quality, group: None, region, down: false, pair: 1 << 32 | u64::from(network) }
    }
}

struct Fate {
    twin_ns: Option<u64>,
    flipped_bit: Option<usize>,
}
