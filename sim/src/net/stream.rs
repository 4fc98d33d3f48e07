//! What streams (TCP) need to know of the network: where they lead, how long it takes, and whether anything passes.

use super::link::serialisation_ns;
use super::{HostId, NEAR_NS, Net, PORT, Port, REGION_LATENCY_US};
use crate::draw::scramble;
use std::net::SocketAddr;

/// Where a stream leads. Another answer for the same stream means that it leads there no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamWay {
    /// Who is there.
    pub host: HostId,
    /// Its source as that host sees it.
    pub from: SocketAddr,
    near: bool,
    restarts: u32,
}

impl Net {
    /// Where a stream from a host to an address would lead. `None` when it would not get there: nobody is there, or a box
    /// that lets in nothing unasked.
    pub fn stream_way(&self, host: HostId, to: SocketAddr) -> Option<StreamWay> {
        let interface = self.ports.get(host as usize)?.interface(to.is_ipv6())?;
        let (there, ip, restarts, near) = self.topology.stream(interface, to.ip())?;
        // The port is one that its translator might have chosen; nobody can answer there but through this stream.
        let port = 1_024 + (scramble(u64::from(host), u64::from(there)) % 60_000) as u16;
        let from = SocketAddr::new(ip, port);
        (to.port() == PORT && there != host).then_some(StreamWay { host: there, from, near, restarts })
    }

    fn both(&self, host: HostId, way: &StreamWay) -> Option<(&Port, &Port)> {
        self.ports.get(host as usize).zip(self.ports.get(way.host as usize))
    }

    /// One-way latency of a stream that `host` opened.
    pub fn stream_latency_ns(&self, host: HostId, way: &StreamWay) -> u64 {
        match self.both(host, way) {
            _ if way.near => NEAR_NS,
            Some((a, b)) => {
                let region_us = REGION_LATENCY_US[usize::from(a.region)][usize::from(b.region)];
                let us =
                    u64::from(region_us) + u64::from(a.quality.latency_us) + u64::from(b.quality.latency_us);
                (us + u64::from(self.surge_us)) * 1000
            }
            None => 0,
        }
    }

    /// Chance that a segment is lost and sent again.
    pub fn stream_loss_ppm(&self, host: HostId, way: &StreamWay) -> u32 {
        match self.both(host, way) {
            _ if way.near => 0,
            Some((a, b)) => {
                a.quality.loss_ppm.saturating_add(b.quality.loss_ppm).saturating_add(self.loss_ppm)
            }
            None => 0,
        }
    }

    /// When so many bytes have left a host. They wait for its link as its datagrams do, but never overflow it: TCP slows
    /// down instead.
    pub fn stream_leaves_ns(&mut self, now_ns: u64, host: HostId, way: &StreamWay, bytes: usize) -> u64 {
        match self.ports.get_mut(host as usize).filter(|p| !way.near && p.quality.up_bytes_per_s > 0) {
            Some(port) => {
                let serial_ns = serialisation_ns(bytes, port.quality.up_bytes_per_s);
                port.up_free_ns = port.up_free_ns.max(now_ns) + serial_ns;
                port.up_free_ns
            }
            None => now_ns,
        }
    }

    /// Whether anything gets from one host to another at the moment.
    pub fn stream_passes(&self, from: HostId, to: HostId) -> bool {
        let ports = self.ports.get(from as usize).zip(self.ports.get(to as usize));
        ports.is_some_and(|(a, b)| {
            let cut = self.cuts[usize::from(a.group)] >> b.group & 1 == 1;
            !(a.down || b.down || cut)
        })
    }
}
