//! The network between hosts: what happens to a datagram on its way.
//!
//! A host sits behind an access link (rate, buffer, latency, loss, size limit) at a [`Gateway`] in a region; between
//! regions lies a fixed latency. A datagram goes through: the sender's gateway, its uplink queue (drop-tail), the cuts
//! of the moment, random and bursty loss, the way with its jitter, perhaps a detour (reordering), a twin (duplication)
//! or a flipped bit, the receiver's gateway, its downlink queue. State is one record a host and a small table of cuts,
//! never a table of pairs. Everything is integers: nanoseconds, bytes, parts per million.
//!
//! Jitter is a slow wave per pair of hosts, computed from the time and the pair without any state: real queues delay
//! packets without overtaking, so overtaking is a fault of its own ([`Quality::reorder_ppm`]).

use crate::draw::{Draw, scramble};
use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A host by its number in the world.
pub type HostId = u32;

/// The UDP port every host listens on: the product's default.
pub const PORT: u16 = 30906;

/// Groups for partitions: a host belongs to one.
pub const GROUPS: usize = 64;

/// One-way latency between regions in microseconds: half of usual round-trip times between Western Europe, Eastern and
/// Western North America, South America, East Asia and Australia; within a region 8 ms.
pub const REGION_LATENCY_US: [[u32; 6]; 6] = [
    [8_000, 42_000, 70_000, 95_000, 115_000, 140_000],
    [42_000, 8_000, 33_000, 60_000, 85_000, 100_000],
    [70_000, 33_000, 8_000, 85_000, 60_000, 75_000],
    [95_000, 60_000, 85_000, 8_000, 140_000, 150_000],
    [115_000, 85_000, 60_000, 140_000, 8_000, 60_000],
    [140_000, 100_000, 75_000, 150_000, 60_000, 8_000],
];

/// What a link does to datagrams. The default is perfect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quality {
    /// Bytes a second towards the network; 0: without limit.
    pub up_bytes_per_s: u64,
    /// Bytes a second from the network; 0: without limit.
    pub down_bytes_per_s: u64,
    /// Bytes that wait in either direction before the next is dropped.
    pub buffer_bytes: u64,
    /// One-way latency of the link itself.
    pub latency_us: u32,
    /// Height of the jitter wave; below [`JITTER_WAVE_NS`].
    pub jitter_us: u32,
    /// Independent loss, either direction.
    pub loss_ppm: u32,
    /// Loss that comes in bursts: a chance per datagram that a burst begins …
    pub burst_begins_ppm: u32,
    /// … that it ends …
    pub burst_ends_ppm: u32,
    /// … and the loss while it lasts.
    pub burst_loss_ppm: u32,
    /// Datagrams that take a detour …
    pub reorder_ppm: u32,
    /// … of at most this.
    pub reorder_us: u32,
    /// Datagrams that arrive twice.
    pub duplicate_ppm: u32,
    /// Datagrams of which one bit flips on the way.
    pub corrupt_ppm: u32,
    /// Largest UDP payload; larger ones vanish without a word.
    pub mtu: u16,
}

impl Default for Quality {
    fn default() -> Self {
        Self {
            up_bytes_per_s: 0,
            down_bytes_per_s: 0,
            buffer_bytes: 256 * 1024,
            latency_us: 0,
            jitter_us: 0,
            loss_ppm: 0,
            burst_begins_ppm: 0,
            burst_ends_ppm: 0,
            burst_loss_ppm: 0,
            reorder_ppm: 0,
            reorder_us: 0,
            duplicate_ppm: 0,
            corrupt_ppm: 0,
            mtu: 1472,
        }
    }
}

/// Length of a jitter wave. Waves lower than they are long never let a later datagram overtake an earlier one.
pub const JITTER_WAVE_NS: u64 = 1 << 26;

/// The head of a packet, as a gateway sees and changes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
    /// UDP payload in bytes.
    pub len: usize,
}

/// What a gateway decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Goes on, with the head as it is now.
    Pass,
    /// Is dropped.
    Drop,
}

/// What stands between a site's hosts and the network: a firewall, a NAT, or a chain of them.
///
/// Translation models live behind this seam; a site's hosts are reachable at whatever addresses its gateway answers to.
pub trait Gateway: Send {
    /// A datagram leaves the site.
    fn outbound(&mut self, now_ns: u64, head: &mut Head) -> Verdict;
    /// A datagram arrives at one of the gateway's addresses.
    fn inbound(&mut self, now_ns: u64, head: &mut Head) -> Verdict;
}

/// No gateway at all: every host has its address to itself.
#[derive(Clone, Copy, Default, Debug)]
pub struct Open;

impl Gateway for Open {
    fn outbound(&mut self, _now_ns: u64, _head: &mut Head) -> Verdict {
        Verdict::Pass
    }
    fn inbound(&mut self, _now_ns: u64, _head: &mut Head) -> Verdict {
        Verdict::Pass
    }
}

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

/// A datagram on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flight {
    /// The host it will reach.
    pub host: HostId,
    /// Source address as the receiver sees it.
    pub from: SocketAddr,
    /// Destination address.
    pub to: SocketAddr,
    /// ECN codepoint.
    pub ecn: Option<u8>,
    /// Whether it has passed the receiver's link already.
    pub queued: bool,
    /// Its payload.
    pub payload: BytesMut,
}

/// What the receiver's link does with a datagram that has come so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// The host has it now.
    Now,
    /// It waits in the link's queue until then.
    At(u64),
    /// The queue is full.
    Lost,
}

struct Port {
    address: SocketAddr,
    region: u8,
    group: u8,
    site: u32,
    quality: Quality,
    draw: Draw,
    up_free_ns: u64,
    down_free_ns: u64,
    in_burst: bool,
    down: bool,
}

/// The network.
pub struct Net {
    ports: Vec<Port>,
    routes: BTreeMap<IpAddr, HostId>,
    sites: Vec<Box<dyn Gateway>>,
    /// Bit `j` of `cuts[i]`: nothing gets from group `i` to group `j`.
    cuts: [u64; GROUPS],
    /// Loss everywhere, on top of the links' own.
    loss_ppm: u32,
    /// Latency everywhere, on top.
    surge_us: u32,
    addresses: u32,
    seed: u64,
    tally: Tally,
}

impl Net {
    /// An empty network.
    pub fn new(seed: u64) -> Self {
        Self {
            ports: Vec::new(),
            routes: BTreeMap::new(),
            sites: Vec::new(),
            cuts: [0; GROUPS],
            loss_ppm: 0,
            surge_us: 0,
            addresses: 0,
            seed,
            tally: Tally::default(),
        }
    }

    /// Adds a host behind a gateway of its own; returns its number.
    pub fn add(&mut self, region: u8, quality: Quality, gateway: Box<dyn Gateway>) -> HostId {
        let host = self.ports.len() as HostId;
        let address = self.fresh_address();
        self.sites.push(gateway);
        self.routes.insert(address.ip(), host);
        self.ports.push(Port {
            address,
            region: region % REGION_LATENCY_US.len() as u8,
            group: 0,
            site: self.sites.len() as u32 - 1,
            quality,
            draw: Draw::derive(self.seed, "net", u64::from(host)),
            up_free_ns: 0,
            down_free_ns: 0,
            in_burst: false,
            down: false,
        });
        host
    }

    /// The next address nobody has had: 45.0.0.1 and up, without .0 and .255.
    fn fresh_address(&mut self) -> SocketAddr {
        let (high, low) = (self.addresses / 254, self.addresses % 254 + 1);
        self.addresses += 1;
        SocketAddr::new(Ipv4Addr::from(0x2d00_0000 | high << 8 | low).into(), PORT)
    }

    /// Where a host is.
    pub fn address(&self, host: HostId) -> Option<SocketAddr> {
        self.ports.get(host as usize).map(|p| p.address)
    }

    /// Who is at an address.
    pub fn host_at(&self, address: SocketAddr) -> Option<HostId> {
        self.routes.get(&address.ip()).copied().filter(|h| self.address(*h) == Some(address))
    }

    /// Moves a host to an address nobody has had; what is under way to the old one is lost.
    pub fn readdress(&mut self, host: HostId) -> Option<SocketAddr> {
        let fresh = self.fresh_address();
        let port = self.ports.get_mut(host as usize)?;
        self.routes.remove(&port.address.ip());
        self.routes.insert(fresh.ip(), host);
        port.address = fresh;
        Some(fresh)
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
        to: SocketAddr,
        ecn: Option<u8>,
        payload: &[u8],
        mut deliver: impl FnMut(u64, Flight),
    ) {
        self.tally.sent += 1;
        let Some((mut head, left_ns)) = self.depart(now_ns, host, to, payload.len()) else { return };
        let Some(target) = self.land(now_ns, &mut head) else { return };
        let Some((arrive_ns, fate)) = self.travel(host, target, left_ns, payload.len()) else { return };
        let mut flight = Flight {
            host: target,
            from: head.from,
            to: head.to,
            ecn,
            queued: false,
            payload: BytesMut::from(payload),
        };
        if let Some(twin_ns) = fate.twin_ns {
            deliver(twin_ns, flight.clone());
        }
        if let Some(bit) = fate.flipped_bit
            && let Some(byte) = flight.payload.get_mut(bit / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
        deliver(arrive_ns, flight);
    }

    /// Through the sender's gateway and uplink; `None` when it ends there.
    fn depart(&mut self, now_ns: u64, host: HostId, to: SocketAddr, len: usize) -> Option<(Head, u64)> {
        let port = self.ports.get_mut(host as usize)?;
        let mut head = Head { from: port.address, to, len };
        let gateway = self.sites.get_mut(port.site as usize)?;
        if gateway.outbound(now_ns, &mut head) == Verdict::Drop {
            self.tally.refused += 1;
            return None;
        }
        if port.down {
            self.tally.cut += 1;
            return None;
        }
        if len > usize::from(port.quality.mtu) {
            self.tally.too_large += 1;
            return None;
        }
        match queue(&mut port.up_free_ns, now_ns, len, port.quality.up_bytes_per_s, port.quality.buffer_bytes)
        {
            Some(left_ns) => Some((head, left_ns)),
            None => {
                self.tally.overflowed += 1;
                None
            }
        }
    }

    /// Finds the receiver and passes its gateway.
    fn land(&mut self, now_ns: u64, head: &mut Head) -> Option<HostId> {
        let Some(&target) = self.routes.get(&head.to.ip()) else {
            self.tally.unroutable += 1;
            return None;
        };
        let port = self.ports.get(target as usize)?;
        let gateway = self.sites.get_mut(port.site as usize)?;
        if gateway.inbound(now_ns, head) == Verdict::Drop {
            self.tally.refused += 1;
            return None;
        }
        if head.to != port.address {
            self.tally.unroutable += 1;
            return None;
        }
        Some(target)
    }

    /// The way between two hosts: cuts, loss, latency; `None` when it ends there.
    fn travel(&mut self, from: HostId, to: HostId, left_ns: u64, len: usize) -> Option<(u64, Fate)> {
        let (receiver, pair) = {
            let p = self.ports.get(to as usize)?;
            let pair = scramble(self.seed ^ u64::from(from), u64::from(to));
            ((p.quality, p.group, p.region, p.down), pair)
        };
        let (quality, group, region, down) = receiver;
        let weather_ppm = self.loss_ppm;
        let port = self.ports.get_mut(from as usize)?;
        if down || self.cuts[usize::from(port.group)] >> group & 1 == 1 {
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
        let base_us = REGION_LATENCY_US[usize::from(port.region)][usize::from(region)]
            .saturating_add(own.latency_us)
            .saturating_add(quality.latency_us)
            .saturating_add(self.surge_us);
        let wave_us = own.jitter_us.saturating_add(quality.jitter_us);
        // The receiver's own serialisation is paid here, so that an idle link costs no second event.
        let serial_ns = serialisation_ns(len, quality.down_bytes_per_s);
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

    /// A datagram has come to the receiver's link.
    pub fn arrive(&mut self, now_ns: u64, flight: &Flight) -> Arrival {
        let Some(port) = self.ports.get_mut(flight.host as usize) else { return Arrival::Lost };
        if port.down || port.address != flight.to {
            self.tally.cut += 1;
            return Arrival::Lost;
        }
        let len = flight.payload.len();
        if !flight.queued && port.quality.down_bytes_per_s > 0 {
            let serial_ns = serialisation_ns(len, port.quality.down_bytes_per_s);
            let began_ns = now_ns.saturating_sub(serial_ns);
            let q = port.quality;
            match queue(&mut port.down_free_ns, began_ns, len, q.down_bytes_per_s, q.buffer_bytes) {
                Some(done_ns) if done_ns > now_ns => return Arrival::At(done_ns),
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
}

struct Fate {
    twin_ns: Option<u64>,
    flipped_bit: Option<usize>,
}

const fn serialisation_ns(len: usize, bytes_per_s: u64) -> u64 {
    match (len as u64 * 1_000_000_000).checked_div(bytes_per_s) {
        Some(ns) => ns,
        None => 0,
    }
}

/// Puts `len` bytes through a drop-tail queue; when they have left it, or `None` when it is full.
fn queue(free_ns: &mut u64, now_ns: u64, len: usize, bytes_per_s: u64, buffer_bytes: u64) -> Option<u64> {
    if bytes_per_s == 0 {
        return Some(now_ns);
    }
    let waiting_ns = free_ns.saturating_sub(now_ns);
    let waiting_bytes = u128::from(waiting_ns) * u128::from(bytes_per_s) / 1_000_000_000;
    if waiting_bytes + len as u128 > u128::from(buffer_bytes.max(len as u64)) {
        return None;
    }
    *free_ns = now_ns.max(*free_ns) + serialisation_ns(len, bytes_per_s);
    Some(*free_ns)
}

/// A wave through random heights, one a [`JITTER_WAVE_NS`], joined by straight lines.
fn jitter_ns(pair: u64, at_ns: u64, height_us: u32) -> u64 {
    if height_us == 0 {
        return 0;
    }
    let height_ns = (u64::from(height_us) * 1000).min(JITTER_WAVE_NS - 1);
    let (wave, within) = (at_ns / JITTER_WAVE_NS, at_ns % JITTER_WAVE_NS);
    let height = |n: u64| ((u128::from(scramble(pair, n)) * u128::from(height_ns)) >> 64) as u64;
    let (here, next) = (height(wave), height(wave + 1));
    (here * (JITTER_WAVE_NS - within) + next * within) / JITTER_WAVE_NS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(quality: Quality) -> Net {
        let mut net = Net::new(7);
        net.add(0, quality, Box::new(Open));
        net.add(1, quality, Box::new(Open));
        net
    }

    fn send(net: &mut Net, now_ns: u64, payload: &[u8]) -> Vec<(u64, Flight)> {
        let to = net.address(1).unwrap();
        let mut out = Vec::new();
        net.send(now_ns, 0, to, None, payload, |at, flight| out.push((at, flight)));
        out
    }

    #[test]
    fn a_datagram_takes_the_latency_of_its_way() {
        let mut net = pair(Quality { latency_us: 1_000, ..Quality::default() });
        let out = send(&mut net, 5_000, b"hello");
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].0, 5_000 + 44_000_000);
        assert_eq!((out[0].1.host, Some(out[0].1.from)), (1, net.address(0)));
        assert_eq!(net.arrive(out[0].0, &out[0].1), Arrival::Now);
        assert_eq!(net.tally().delivered, 1);
    }

    #[test]
    fn a_cut_stops_one_direction_only() {
        let mut net = pair(Quality::default());
        net.set_group(1, 1);
        net.set_cut(0, 1, true);
        assert!(send(&mut net, 0, b"x").is_empty());
        let mut back = 0;
        let to = net.address(0).unwrap();
        net.send(0, 1, to, None, b"y", |_, _| back += 1);
        assert_eq!(back, 1);
        net.set_cut(0, 1, false);
        assert_eq!(send(&mut net, 0, b"x").len(), 1);
    }

    #[test]
    fn a_link_carries_its_rate_and_drops_above_its_buffer() {
        // 1 MB/s, 10 kB buffer: of 100 datagrams of 1 kB at once, ten fit.
        let mut net = pair(Quality { up_bytes_per_s: 1_000_000, buffer_bytes: 10_000, ..Quality::default() });
        let times: Vec<u64> =
            (0..100).flat_map(|_| send(&mut net, 0, &[0; 1000])).map(|(at, _)| at).collect();
        assert_eq!(times.len(), 10);
        assert_eq!(times[9] - times[0], 9_000_000);
        assert_eq!(net.tally().overflowed, 90);
        assert_eq!(send(&mut net, 10_000_000, &[0; 1000]).len(), 1);
    }

    #[test]
    fn the_receivers_link_queues_what_comes_at_once() {
        let mut net = pair(Quality { down_bytes_per_s: 1_000_000, ..Quality::default() });
        let flights: Vec<_> = (0..3).flat_map(|_| send(&mut net, 0, &[0; 1000])).collect();
        let verdicts: Vec<_> = flights.iter().map(|(at, f)| net.arrive(*at, f)).collect();
        let at = 43_000_000;
        assert_eq!(verdicts, [Arrival::Now, Arrival::At(at + 1_000_000), Arrival::At(at + 2_000_000)]);
    }

    #[test]
    fn what_is_too_large_or_meant_for_an_old_address_is_lost() {
        let mut net = pair(Quality { mtu: 1200, ..Quality::default() });
        assert!(send(&mut net, 0, &[0; 1201]).is_empty());
        let (at, flight) = send(&mut net, 0, &[0; 1200]).remove(0);
        let old = net.address(1).unwrap();
        assert_ne!(net.readdress(1), Some(old));
        assert_eq!(net.arrive(at, &flight), Arrival::Lost);
        net.send(0, 0, old, None, b"x", |_, _| panic!("nobody is there"));
        assert_eq!(net.tally().unroutable, 1);
    }

    #[test]
    fn every_ill_comes_as_often_as_asked() {
        let mut net = pair(Quality {
            loss_ppm: 10_000,
            reorder_ppm: 20_000,
            reorder_us: 5_000,
            duplicate_ppm: 30_000,
            corrupt_ppm: 40_000,
            burst_begins_ppm: 1_000,
            burst_ends_ppm: 100_000,
            burst_loss_ppm: 500_000,
            ..Quality::default()
        });
        for n in 0..100_000 {
            send(&mut net, n * 1000, &[0; 100]);
        }
        let t = *net.tally();
        // Loss of both links adds up; a burst lasts ten datagrams of which half are lost.
        assert!((1_800..2_200).contains(&t.lost), "{t:?}");
        assert!((300..800).contains(&t.lost_in_burst), "{t:?}");
        assert!((1_700..2_200).contains(&t.reordered), "{t:?}");
        assert!((2_700..3_200).contains(&t.duplicated), "{t:?}");
        assert!((3_600..4_200).contains(&t.corrupted), "{t:?}");
    }

    proptest! {
        #[test]
        fn jitter_never_overtakes(times in proptest::collection::vec(0..(1u64 << 36), 2..50), height_us in 0..1_000_000u32) {
            let mut times = times;
            times.sort_unstable();
            let arrivals: Vec<u64> = times.iter().map(|t| t + jitter_ns(42, *t, height_us)).collect();
            prop_assert!(arrivals.is_sorted());
        }
    }
}
