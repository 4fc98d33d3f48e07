//! The plan of a class and a seed: every number of it is drawn.
//!
//! Hosts, work and faults have dice of their own, so that one more of any leaves the others as they were.

use super::{Class, Fault, FaultKind, HostPlan, LIVENESS_MS, Plan, SCALE_PEERS, Shape, Work, WorkKind};
use crate::dht::DhtSpec;
use crate::disk::DiskSpec;
use crate::draw::Draw;
use crate::engine::EngineSpec;
use crate::host::Clock;
use crate::net::{HostId, Quality, REGION_LATENCY_US};

impl Plan {
    /// The plan of a class and a seed.
    pub fn from_seed(class: Class, seed: u64, peers: u32, duration_ms: u64) -> Plan {
        let peers = peers.max(2);
        let mut draw = Draw::derive(seed, "plan", class as u64);
        let real_tls = class != Class::Scale && draw.chance_ppm(50_000);
        let hosts = (0..peers).map(|id| host_plan(class, seed, id, duration_ms, real_tls)).collect();
        let mut plan = Plan {
            class,
            seed,
            duration_ms,
            liveness_ms: LIVENESS_MS,
            dht: if class == Class::Calm { DhtSpec::PERFECT } else { DhtSpec::default() },
            networks: Vec::new(),
            hosts,
            faults: Vec::new(),
            work: Vec::new(),
            all_succeed: matches!(class, Class::Calm),
        };
        plan.add_work(&mut Draw::derive(seed, "work", class as u64));
        plan.add_faults(&mut Draw::derive(seed, "faults", class as u64));
        plan
    }

    fn pick_host(&self, draw: &mut Draw) -> HostId {
        draw.below(self.hosts.len() as u64) as HostId
    }

    fn add_work(&mut self, draw: &mut Draw) {
        let peers = self.hosts.len() as u64;
        let scale = self.class == Class::Scale;
        let last_ms = self.duration_ms.saturating_sub(5_000).max(1);
        let first_ms = 20_000.min(last_ms / 4);
        // At scale, machines find most of their connections by themselves.
        let connects = if scale { peers } else { 2 * peers };
        for _ in 0..connects {
            let (host, to) = (self.pick_host(draw), self.pick_host(draw));
            let at_ms = draw.between(first_ms, last_ms.min(first_ms + 60_000));
            let by_address = draw.chance_ppm(if scale { 800_000 } else { 400_000 });
            if host != to {
                self.work.push(Work { at_ms, host, what: WorkKind::Connect { to, by_address } });
            }
        }
        for _ in 0..if scale { 2 * peers } else { peers } {
            let (host, from) = (self.pick_host(draw), self.pick_host(draw));
            let at_ms = draw.between(first_ms, last_ms);
            let most = match (draw.chance_ppm(200_000), scale) {
                (true, false) => 3_000_000,
                // The memory of a large world is for its peers, not for what is on its way between them.
                (true, true) => 600_000,
                (false, _) => 100_000,
            };
            let bytes = draw.below(most);
            if host != from {
                self.work.push(Work { at_ms, host, what: WorkKind::Transfer { from, bytes } });
            }
        }
        for _ in 0..if scale { peers / 4 } else { peers.max(6) } {
            let host = self.pick_host(draw);
            let at_ms = draw.between(first_ms, last_ms);
            let tasks = if scale { 1 } else { draw.between(1, 4) };
            let executors = (0..tasks).map(|_| self.pick_host(draw)).collect();
            let shape = *draw.pick(&[Shape::Chain, Shape::Fan, Shape::Join]).unwrap_or(&Shape::Chain);
            let in_max = if draw.chance_ppm(200_000) { 2_000_000 } else { 60_000 };
            let out_max = if draw.chance_ppm(100_000) { 1_000_000 } else { 60_000 };
            let (bytes_in, bytes_out) = (draw.below(in_max), draw.below(out_max));
            let task_ms = draw.between(10, 8_000);
            let what = WorkKind::Run { shape, executors, bytes_in, bytes_out, task_ms };
            self.work.push(Work { at_ms, host, what });
            if !scale && !self.all_succeed && draw.chance_ppm(100_000) {
                let nth = self.work.len() - 1;
                let at_ms = at_ms + draw.below(10_000);
                self.work.push(Work { at_ms, host, what: WorkKind::Cancel { nth } });
            }
        }
    }

    fn add_faults(&mut self, draw: &mut Draw) {
        let kinds: &[u64] = match self.class {
            Class::Calm => &[],
            Class::Lossy => &[4, 5, 16],
            Class::Churn => &[0, 0, 1, 2, 6, 7, 17],
            Class::Partition => &[2, 3, 3, 4],
            Class::Disk => &[0, 0, 10, 11, 12],
            Class::Dht => &[0, 8, 9, 9],
            Class::Engine => &[13, 13, 0],
            Class::Swarm => &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17],
            Class::Scale => &[0, 0, 0, 6],
        };
        // Swarm testing: every run leaves out about half of the kinds, so that rare combinations come up alone.
        let kinds: Vec<u64> = kinds
            .iter()
            .copied()
            .filter(|_| self.class != Class::Swarm || draw.chance_ppm(500_000))
            .collect();
        let peers = self.hosts.len() as u64;
        let count = match self.class {
            Class::Calm => 0,
            // One machine in ten per ten minutes.
            Class::Scale => peers * self.duration_ms / 6_000_000 + 1,
            _ => 4 + peers / 2 + self.duration_ms / 30_000,
        };
        for _ in 0..count {
            let Some(kind) = draw.pick(&kinds).copied() else { return };
            let at_ms = draw.between(5_000.min(self.duration_ms / 4), self.duration_ms);
            let for_ms = draw.between(200, 40_000);
            let what = self.fault(kind, draw);
            self.faults.push(Fault { at_ms, for_ms, what });
        }
    }

    fn fault(&self, kind: u64, draw: &mut Draw) -> FaultKind {
        let host = self.pick_host(draw);
        match kind {
            0 => FaultKind::Crash { host, forget: false },
            1 => FaultKind::Pause { host },
            2 => FaultKind::Unplug { host },
            3 => {
                let share_ppm = draw.between(100_000, 500_000) as u32;
                let mut hosts: Vec<HostId> =
                    (0..self.hosts.len() as HostId).filter(|_| draw.chance_ppm(share_ppm)).collect();
                if hosts.is_empty() {
                    hosts.push(host);
                }
                FaultKind::Cut { hosts, deaf: draw.chance_ppm(600_000) }
            }
            4 => FaultKind::Weather {
                loss_ppm: draw.below(300_000) as u32,
                surge_us: draw.below(200_000) as u32,
            },
            5 => FaultKind::Link { host, quality: bad_link(draw) },
            6 => FaultKind::Move { host, to: None },
            7 => FaultKind::ClockJump { host, by_ms: draw.below(7_200_000) as i64 - 3_600_000 },
            8 => FaultKind::DhtOffline,
            9 => FaultKind::DhtBad {
                spec: DhtSpec {
                    fail_ppm: draw.below(300_000) as u32,
                    unreached_ppm: draw.below(600_000) as u32,
                    stubborn_ppm: draw.below(300_000) as u32,
                    liar_ppm: draw.below(400_000) as u32,
                },
            },
            10 => FaultKind::DiskFails { host },
            11 => FaultKind::DiskFull { host },
            12 => FaultKind::BlobRots { host, nth: draw.below(1 << 20) },
            13 => {
                let (fail_ppm, hang_ppm) = (draw.below(700_000) as u32, draw.below(200_000) as u32);
                FaultKind::EngineBad { host, spec: EngineSpec { fail_ppm, hang_ppm, lie_ppm: 0 } }
            }
            17 => FaultKind::Crash { host, forget: true },
            _ => FaultKind::Garbage { host, datagrams: draw.between(1, 500) as u32 },
        }
    }
}

fn host_plan(class: Class, seed: u64, id: HostId, duration_ms: u64, real_tls: bool) -> HostPlan {
    let mut draw = Draw::derive(seed, "host", u64::from(id));
    let mut link = link_of(&mut draw);
    match class {
        Class::Scale => link.loss_ppm = 10_000,
        Class::Lossy | Class::Swarm => {
            link.loss_ppm = draw.below(25_000) as u32;
            link.burst_begins_ppm = draw.below(2_000) as u32;
            link.burst_ends_ppm = draw.between(50_000, 400_000) as u32;
            link.burst_loss_ppm = draw.below(900_000) as u32;
            link.reorder_ppm = draw.below(20_000) as u32;
            link.reorder_us = draw.below(100_000) as u32;
            link.duplicate_ppm = draw.below(20_000) as u32;
            link.corrupt_ppm = draw.below(2_000) as u32;
            link.mtu = draw.between(1_252, 1_472) as u16;
        }
        Class::Calm | Class::Churn | Class::Partition | Class::Disk | Class::Dht | Class::Engine => {}
    }
    let clock = match class {
        Class::Calm => Clock::default(),
        _ => Clock {
            drift_ppb: draw.below(200_001) as i32 - 100_000,
            wall_off_ms: draw.below(120_001) as i64 - 60_000,
        },
    };
    HostPlan {
        start_ms: draw.below(15_000.min(duration_ms / 8).max(1)),
        region: draw.below(REGION_LATENCY_US.len() as u64) as u8,
        link,
        clock,
        disk: DiskSpec::default(),
        engine: EngineSpec::default(),
        real_tls,
        services: vec![(id % 4) as u8],
        peers: if class == Class::Scale { SCALE_PEERS } else { 0 },
        nat: None,
        relay: false,
        malice: None,
    }
}

fn bad_link(draw: &mut Draw) -> Quality {
    Quality {
        up_bytes_per_s: draw.between(20_000, 500_000),
        down_bytes_per_s: draw.between(20_000, 500_000),
        buffer_bytes: draw.between(8_000, 1_000_000),
        latency_us: draw.below(300_000) as u32,
        jitter_us: draw.below(60_000) as u32,
        loss_ppm: draw.below(200_000) as u32,
        burst_begins_ppm: draw.below(10_000) as u32,
        burst_ends_ppm: draw.between(20_000, 400_000) as u32,
        burst_loss_ppm: 900_000,
        reorder_ppm: draw.below(200_000) as u32,
        reorder_us: draw.below(300_000) as u32,
        duplicate_ppm: draw.below(300_000) as u32,
        corrupt_ppm: draw.below(50_000) as u32,
        mtu: draw.between(1_200, 1_472) as u16,
    }
}

fn link_of(draw: &mut Draw) -> Quality {
    let mbit = 125_000;
    // Data centre, fibre, cable, mobile.
    let (up, down, latency_us, jitter_us) = match draw.below(10) {
        0 | 1 => (1_000 * mbit, 1_000 * mbit, 500, 100),
        2..=4 => (100 * mbit, 500 * mbit, 2_000, 500),
        5..=7 => (20 * mbit, 100 * mbit, 8_000, 3_000),
        _ => (10 * mbit, 40 * mbit, 30_000, 20_000),
    };
    Quality { up_bytes_per_s: up, down_bytes_per_s: down, latency_us, jitter_us, ..Quality::default() }
}
