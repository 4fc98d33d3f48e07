//! A toy core that does a little of everything, so that the world is tested apart from the product.
//!
//! It counts its wake-ups in its journal, pings the addresses it is configured with, answers pings, publishes its count
//! in the DHT, and says what it saw.

use crate::dht::signed_bytes;
use crate::host::{Birth, BirthError, Core};
use bytes::Bytes;
use remote_network_core::action::Action;
use remote_network_core::command::{Command, Notice, Reply};
use remote_network_core::drive::Driven;
use remote_network_core::event::Event;
use remote_network_core::id::{Lsn, OpIds, Signature};
use remote_network_core::node::NodeConfig;
use remote_network_core::place::SocketId;
use remote_network_core::port::{DhtEvent, DhtRequest, MutableItem};
use remote_network_core::rng::Rng;
use remote_network_core::store::{Room, StoreOp, Subject};
use remote_network_core::time::{Deadline, Duration, Instant, UnixTime};
use remote_network_core::transport::Transmit;
use std::collections::VecDeque;
use std::net::SocketAddr;

pub struct Toy {
    config: NodeConfig,
    rng: Rng,
    next: Option<Instant>,
    count: u64,
    pub restored: u64,
    lsn: Lsn,
    ops: OpIds,
    out: VecDeque<(SocketAddr, Vec<u8>)>,
    actions: VecDeque<Action>,
    pub spins: bool,
}

const EVERY: Duration = Duration::from_secs(1);

impl Core for Toy {
    fn restore(birth: Birth) -> Result<Self, BirthError> {
        let count = birth.journal.records.iter().map(|r| u64::from(r.record[0])).max().unwrap_or(0);
        let lsn = birth.journal.last;
        Ok(Self {
            config: birth.config,
            rng: Rng::from_seed(birth.seed),
            next: Some(Instant::ZERO + EVERY),
            count,
            restored: count,
            lsn,
            ops: OpIds::new(1),
            out: VecDeque::new(),
            actions: VecDeque::new(),
            spins: false,
        })
    }
}

impl Driven for Toy {
    fn handle(&mut self, _now: Instant, _wall: UnixTime, event: Event) {
        match event {
            Event::Datagram(d) if d.payload.starts_with(b"ping") => {
                self.out.push_back((d.from, b"pong".to_vec()));
            }
            Event::Persisted { .. } => {
                let mut item = MutableItem {
                    key: self.config.keypair.public(),
                    salt: Bytes::new(),
                    seq: self.count,
                    value: Bytes::from(self.count.to_string()),
                    signature: Signature([0; 64]),
                };
                item.signature = self.config.keypair.sign(&signed_bytes(&item));
                let op = self.ops.issue();
                self.actions
                    .push_back(Action::Dht { op, request: DhtRequest::PutMutable { item, cas: None } });
            }
            Event::Dht(DhtEvent::Done { result: Ok(done), .. }) => {
                let stored = done.stored;
                self.actions.push_back(Action::Notify(Notice::Published { seq: self.count, stored }));
            }
            Event::Command { id, command: Command::Shutdown } => {
                self.actions.push_back(Action::Reply { id, reply: Reply::Done });
                self.actions.push_back(Action::Stopped { fault: None });
            }
            Event::Command { id, .. } => self.actions.push_back(Action::Reply { id, reply: Reply::Done }),
            Event::PersistFailed { why } => self.actions.push_back(Action::Stopped { fault: Some(why) }),
            _ => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant, _wall: UnixTime) {
        if self.next.is_none_or(|next| next > now) || self.spins {
            return;
        }
        self.next = Some(now + self.rng.jitter(EVERY, 10));
        self.count += 1;
        for addr in self.config.public_addrs.clone() {
            let mut ping = b"ping".to_vec();
            ping.extend(self.rng.bytes::<32>());
            self.out.push_back((addr, ping));
        }
        self.lsn = Lsn(self.lsn.0 + 1);
        let subject = Subject::new(Room::Node, b"count");
        let record = Bytes::from(vec![self.count as u8]);
        self.actions
            .push_back(Action::Persist { lsn: self.lsn, ops: vec![StoreOp::Replace { subject, record }] });
    }

    fn poll_transmit(&mut self, _now: Instant, _max: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        let (to, bytes) = self.out.pop_front()?;
        buf.extend_from_slice(&bytes);
        Some(Transmit {
            socket: SocketId::MAIN,
            to,
            from: None,
            size: bytes.len(),
            segment_size: None,
            ecn: None,
        })
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        self.next.map(|at| Deadline::new(at, "ping"))
    }
}

mod tests {
    use super::*;
    use crate::check::Violation;
    use crate::dht::DhtSpec;
    use crate::disk::DiskSpec;
    use crate::engine::EngineSpec;
    use crate::host::Clock;
    use crate::net::Quality;
    use crate::world::{HostSpec, Said, World};
    use remote_network_core::id::Keypair;

    const SECOND_NS: u64 = 1_000_000_000;

    fn world(hosts: u8, seed: u64, quality: Quality, disk: DiskSpec) -> World<Toy> {
        let mut world = World::new(seed, DhtSpec::default());
        for n in 0..hosts {
            let keypair = Keypair::from_seed(&[n + 1; 32]);
            let targets = (0..hosts).filter(|m| *m != n);
            let config = NodeConfig {
                public: true,
                public_addrs: targets.map(|m| SocketAddr::from(([45, 0, 0, m + 1], 30906))).collect(),
                ..NodeConfig::new(keypair)
            };
            let clock = Clock { drift_ppb: i32::from(n) * 50_000, wall_off_ms: i64::from(n) * 1000 };
            let spec = HostSpec {
                config,
                real_tls: false,
                region: n,
                quality,
                clock,
                disk,
                engine: EngineSpec::default(),
            };
            world.add(spec);
        }
        (0..u32::from(hosts)).for_each(|id| world.start(id));
        world
    }

    fn rough() -> Quality {
        Quality {
            loss_ppm: 20_000,
            jitter_us: 9_000,
            reorder_ppm: 10_000,
            reorder_us: 30_000,
            duplicate_ppm: 10_000,
            up_bytes_per_s: 1 << 20,
            down_bytes_per_s: 1 << 20,
            ..Quality::default()
        }
    }

    fn storm(seed: u64) -> (String, u64) {
        let mut w = world(6, seed, rough(), DiskSpec::default());
        w.run_until(5 * SECOND_NS);
        w.crash(2);
        w.pause(3);
        w.net.set_group(4, 1);
        w.net.set_cut(0, 1, true);
        w.run_until(9 * SECOND_NS);
        w.start(2);
        w.resume(3);
        w.move_host(5);
        w.run_until(30 * SECOND_NS);
        assert_eq!(w.checks.violations(), []);
        (w.trace().hash().to_string(), w.steps())
    }

    #[test]
    fn the_same_seed_is_the_same_run_and_another_is_another() {
        assert_eq!(storm(7), storm(7));
        assert_ne!(storm(7).0, storm(8).0);
    }

    #[test]
    fn a_restart_finds_what_was_durable() {
        let mut w = world(2, 1, Quality::default(), DiskSpec::default());
        w.run_until(10 * SECOND_NS);
        let count = w.hosts[0].core.as_ref().unwrap().count;
        assert!((8..=11).contains(&count), "about one wake-up a second: {count}");
        w.crash(0);
        assert!(!w.is_up(0));
        w.start(0);
        let restored = w.hosts[0].core.as_ref().unwrap().restored;
        assert!(restored == count || restored + 1 == count, "{restored} of {count}");
        w.crash(0);
        w.forget(0);
        w.start(0);
        assert_eq!(w.hosts[0].core.as_ref().unwrap().restored, 0);
    }

    #[test]
    fn a_paused_host_does_nothing_and_catches_up() {
        let mut w = world(2, 1, Quality::default(), DiskSpec::default());
        w.run_until(5 * SECOND_NS);
        w.pause(0);
        let before = w.hosts[0].core.as_ref().unwrap().count;
        w.run_until(20 * SECOND_NS);
        assert_eq!(w.hosts[0].core.as_ref().unwrap().count, before);
        w.resume(0);
        w.run_until(22 * SECOND_NS);
        assert!(w.hosts[0].core.as_ref().unwrap().count > before);
    }

    #[test]
    fn a_lying_disk_is_caught_by_the_checkers() {
        let lying = DiskSpec { lying: true, ..DiskSpec::default() };
        let caught = |disk| {
            let mut w = world(2, 1, Quality::default(), disk);
            for second in [20, 40, 60] {
                w.run_until(second * SECOND_NS);
                w.crash(0);
                w.start(0);
            }
            w.run_until(80 * SECOND_NS);
            w.checks.violations().iter().any(|f| matches!(f.violation, Violation::SeqWentBack { .. }))
        };
        assert!(caught(lying), "the planted bug");
        assert!(!caught(DiskSpec::default()), "and nothing without it");
    }

    #[test]
    fn a_failing_disk_stops_the_core_and_commands_are_answered() {
        let mut w = world(1, 1, Quality::default(), DiskSpec { fail_ppm: 1_000_000, ..DiskSpec::default() });
        let id = w.command(0, Command::Status).unwrap();
        w.run_until(3 * SECOND_NS);
        let said: Vec<Said> = w.take_said().collect();
        assert!(said.contains(&Said::Reply(0, id, Reply::Done)), "{said:?}");
        assert!(matches!(said.last(), Some(Said::Stopped(0, Some(_)))), "{said:?}");
        assert_eq!(w.command(0, Command::Status), None, "nobody is there");
    }

    #[test]
    fn a_busy_loop_is_seen_and_ended() {
        let mut w = world(1, 1, Quality::default(), DiskSpec::default());
        w.hosts[0].core.as_mut().unwrap().spins = true;
        w.run_until(5 * SECOND_NS);
        assert!(matches!(w.checks.violations()[0].violation, Violation::BusyLoop("ping")));
        assert!(w.steps() < 3_000);
    }
}
