//! What a plan breaks, and how it is mended.

use super::{Mark, Purpose, RETRY_MS, Scenario, publish_address};
use crate::disk::DiskSpec;
use crate::draw::Draw;
use crate::evil::Mischief;
use crate::host::Core;
use crate::net::{HostId, Net, NetworkId};
use crate::plan::{Fault, FaultKind};
use remote_network_core::id::CommandId;

impl<C: Core> Scenario<C> {
    pub(super) fn begin(&mut self, nth: usize) {
        let Some(Fault { for_ms, what, .. }) = self.plan.faults.get(nth).cloned() else { return };
        *self.faults.entry(what.name()).or_default() += 1;
        match &what {
            FaultKind::Crash { host, forget } => {
                self.fall(*host);
                if *forget {
                    self.world.forget(*host);
                }
            }
            FaultKind::Pause { host } => self.world.pause(*host),
            FaultKind::Unplug { host } => self.world.net.set_down(*host, true),
            FaultKind::Cut { hosts, deaf } => {
                let group = 1 + (nth % (crate::net::GROUPS - 1)) as u8;
                hosts.iter().for_each(|h| self.world.net.set_group(*h, group));
                self.set_cut(group, *deaf, true);
            }
            FaultKind::Weather { loss_ppm, surge_us } => self.world.net.set_weather(*loss_ppm, *surge_us),
            FaultKind::Link { host, quality } => self.world.net.set_quality(*host, *quality),
            FaultKind::Move { host, to: Some(to) } => {
                let site = self.sites.site(*to);
                self.world.roam(*host, site);
            }
            FaultKind::NatReboot { network } => self.with_boxes(*network, |net, id| net.reboot_box(id)),
            FaultKind::NatReaddress { network } => self.with_boxes(*network, |net, id| net.readdress_box(id)),
            FaultKind::UdpBlocked { network } => self.with_boxes(*network, |net, id| net.block_udp(id, true)),
            FaultKind::Move { host, to: None } => {
                // A public machine that moves is one that is set up again elsewhere, with its disk.
                self.fall(*host);
                self.world.move_host(*host);
                publish_address(&mut self.world, *host);
            }
            FaultKind::ClockJump { host, by_ms } => self.world.jump_clock(*host, *by_ms),
            FaultKind::DhtOffline => self.world.set_dht_offline(true),
            FaultKind::DhtBad { spec } => self.world.dht.set_spec(*spec),
            FaultKind::DiskFails { host } => self.with_disk(*host, |d| d.fail_ppm = 1_000_000),
            FaultKind::DiskFull { host } => self.with_disk(*host, |d| d.blob_bytes_max = 0),
            FaultKind::BlobRots { host, nth } => {
                if let Some(host) = self.world.hosts.get_mut(*host as usize) {
                    host.disk.blobs.damage(*nth);
                }
            }
            FaultKind::EngineBad { host, spec } => {
                if let Some(host) = self.world.hosts.get_mut(*host as usize) {
                    host.engine.spec = *spec;
                }
            }
            FaultKind::Garbage { host, datagrams } => self.garbage(nth, *host, *datagrams),
        }
        self.after(for_ms, Mark::FaultEnds(nth));
    }

    pub(super) fn end(&mut self, nth: usize) {
        let Some(fault) = self.plan.faults.get(nth).cloned() else { return };
        match &fault.what {
            FaultKind::Crash { host, .. } | FaultKind::Move { host, to: None } => self.start(*host),
            FaultKind::UdpBlocked { network } => {
                self.with_boxes(*network, |net, id| net.block_udp(id, false));
            }
            FaultKind::Pause { host } => self.world.resume(*host),
            FaultKind::Unplug { host } => self.world.net.set_down(*host, false),
            FaultKind::Cut { hosts, .. } => {
                hosts.iter().for_each(|h| self.world.net.set_group(*h, 0));
                self.set_cut(1 + (nth % (crate::net::GROUPS - 1)) as u8, true, false);
            }
            FaultKind::Weather { .. } => self.world.net.set_weather(0, 0),
            FaultKind::Link { host, .. } => {
                if let Some(planned) = self.plan.hosts.get(*host as usize) {
                    self.world.net.set_quality(*host, planned.link);
                }
            }
            FaultKind::DhtOffline => self.world.set_dht_offline(false),
            FaultKind::DhtBad { .. } => self.world.dht.set_spec(self.plan.dht),
            FaultKind::DiskFails { host } | FaultKind::DiskFull { host } => self.mend_disk(*host),
            FaultKind::EngineBad { host, .. } => {
                let planned = self.plan.hosts.get(*host as usize).map(|h| h.engine).unwrap_or_default();
                if let Some(host) = self.world.hosts.get_mut(*host as usize) {
                    host.engine.spec = planned;
                }
            }
            FaultKind::Move { to: Some(_), .. }
            | FaultKind::NatReboot { .. }
            | FaultKind::NatReaddress { .. }
            | FaultKind::ClockJump { .. }
            | FaultKind::BlobRots { .. }
            | FaultKind::Garbage { .. } => {}
        }
    }

    pub(super) fn fall(&mut self, host: HostId) {
        self.world.crash(host);
        self.forget_commands(host);
    }

    /// Commands of a machine that fell are never answered: their work is tried again. Its connections are gone.
    pub(super) fn forget_commands(&mut self, host: HostId) {
        self.connected.remove(&host);
        let lost: Vec<CommandId> =
            self.pending.iter().filter(|(_, (h, _))| *h == host).map(|(id, _)| *id).collect();
        for id in lost {
            if let Some((_, Purpose::Work(nth) | Purpose::Share(nth))) = self.pending.remove(&id) {
                self.after(RETRY_MS, Mark::Work(nth));
            }
        }
    }

    pub(super) fn set_cut(&mut self, group: u8, deaf: bool, cut: bool) {
        for other in (0..crate::net::GROUPS as u8).filter(|g| *g != group) {
            self.world.net.set_cut(group, other, cut);
            if deaf {
                self.world.net.set_cut(other, group, cut);
            }
        }
    }

    pub(super) fn with_boxes(&mut self, network: u32, change: impl Fn(&mut Net, NetworkId)) {
        for id in self.sites.boxes(network) {
            change(&mut self.world.net, *id);
        }
    }

    pub(super) fn with_disk(&mut self, host: HostId, change: impl FnOnce(&mut DiskSpec)) {
        if let Some(host) = self.world.hosts.get_mut(host as usize) {
            change(&mut host.disk.spec);
            host.disk.blobs.set_bytes_max(host.disk.spec.blob_bytes_max);
        }
    }

    pub(super) fn mend_disk(&mut self, host: HostId) {
        if let Some(planned) = self.plan.hosts.get(host as usize).map(|h| h.disk) {
            self.with_disk(host, |d| *d = planned);
        }
    }

    pub(super) fn garbage(&mut self, nth: usize, host: HostId, datagrams: u32) {
        let mut draw = Draw::derive(self.plan.seed, "garbage", nth as u64);
        for _ in 0..datagrams {
            let len = draw.below(1_400) as usize;
            let mut payload = vec![0; len];
            payload.iter_mut().for_each(|b| *b = draw.next_u64() as u8);
            if draw.chance_ppm(500_000)
                && let Some(first) = payload.first_mut()
            {
                // Half of it looks like QUIC.
                *first |= 0xc0;
            }
            let from = [203, 0, 113, draw.below(256) as u8];
            self.world.inject(host, (from, 1 + draw.below(60_000) as u16).into(), &payload);
        }
    }

    /// Every fault is over.
    pub(super) fn mend(&mut self) {
        self.over = true;
        self.world.hosts.iter().filter_map(|h| h.mischief.as_ref()).for_each(Mischief::end);
        for nth in 0..self.plan.faults.len() {
            let begun = self.plan.faults.get(nth).is_some_and(|f| f.at_ms <= self.plan.duration_ms);
            if begun {
                self.end(nth);
            }
        }
        for host in 0..self.plan.hosts.len() as HostId {
            self.start(host);
        }
    }
}
