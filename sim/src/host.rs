//! A simulated machine: a core, its clocks, its disk, its engine, and what it still owes to whom.
//!
//! The machine outlives its core: a crash takes the core and what was under way, a restart builds a new one from the
//! disk. Every start is a new *life*; answers meant for an earlier life are dropped, as a dead process hears nothing.

use crate::crypto::seeded_tls;
use crate::disk::Disk;
use crate::engine::Engine;
use crate::net::Flight;
use remote_network_core::action::Action;
use remote_network_core::event::Event;
use remote_network_core::id::{CommandId, OpId};
use remote_network_core::node::{Journal, Node, NodeConfig, RecoverError};
use remote_network_core::rng::Rng;
use remote_network_core::time::{Deadline, Instant, UnixTime};
use remote_network_core::transport::Transmit;
use remote_network_core::transport::quic::{QuicConfig, QuicTransport};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};

/// What a core is built from.
pub struct Birth {
    /// Its configuration.
    pub config: NodeConfig,
    /// How its transport is set up.
    pub quic: QuicConfig,
    /// Feeds its generator.
    pub seed: [u8; 32],
    /// The wall clock at its start; its own clock starts at zero.
    pub wall: UnixTime,
    /// What its journal holds.
    pub journal: Journal,
}

/// A core as the world drives it. The real one is [`Node`]; the world's own tests drive a toy.
pub trait Core: Sized {
    /// Builds it from what is durable.
    fn restore(birth: Birth) -> Result<Self, RecoverError>;
    /// Something happened.
    fn handle(&mut self, now: Instant, wall: UnixTime, event: Event);
    /// Time passed.
    fn handle_timeout(&mut self, now: Instant, wall: UnixTime);
    /// Appends datagrams for one destination to `buf`.
    fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Transmit>;
    /// The next thing to do.
    fn poll_action(&mut self) -> Option<Action>;
    /// When it wants to be woken.
    fn poll_timeout(&self) -> Option<Deadline>;
}

impl Core for Node<QuicTransport> {
    fn restore(birth: Birth) -> Result<Self, RecoverError> {
        let transport = QuicTransport::new(birth.quic);
        Node::restore(birth.config, transport, birth.seed, Instant::ZERO, birth.wall, birth.journal)
    }

    fn handle(&mut self, now: Instant, wall: UnixTime, event: Event) {
        Node::handle(self, now, wall, event);
    }

    fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        Node::handle_timeout(self, now, wall);
    }

    fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        Node::poll_transmit(self, now, max_datagrams, buf)
    }

    fn poll_action(&mut self) -> Option<Action> {
        Node::poll_action(self)
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        Node::poll_timeout(self)
    }
}

/// When the world begins on the wall clock: 2026-01-01T00:00:00Z.
pub const WORLD_BEGINS_MS: u64 = 1_767_225_600_000;

/// A machine's clocks. The monotonic one drifts; the wall clock is off by some amount besides, and may be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clock {
    /// How fast it runs: parts per billion more (or less) than the world.
    pub drift_ppb: i32,
    /// How far the wall clock is off.
    pub wall_off_ms: i64,
}

const BILLION: i128 = 1_000_000_000;

impl Clock {
    fn rate(self) -> i128 {
        // At least half speed: a clock that stands still is a dead machine.
        (BILLION + i128::from(self.drift_ppb)).max(BILLION / 2)
    }

    /// The host's clock `elapsed_ns` of world time after its start.
    pub fn local(self, elapsed_ns: u64) -> Instant {
        if self.drift_ppb == 0 {
            return Instant::from_nanos(elapsed_ns);
        }
        let local = i128::from(elapsed_ns) * self.rate() / BILLION;
        Instant::from_nanos(u64::try_from(local).unwrap_or(u64::MAX))
    }

    /// The least world time after the start at which the host's clock shows `at` or more.
    pub fn elapsed(self, at: Instant) -> u64 {
        if self.drift_ppb == 0 {
            return at.as_nanos();
        }
        let rate = self.rate();
        let elapsed = (i128::from(at.as_nanos()) * BILLION + rate - 1) / rate;
        u64::try_from(elapsed).unwrap_or(u64::MAX)
    }

    /// What the wall clock shows.
    pub fn wall(self, world_ns: u64) -> UnixTime {
        let drift_ms = i128::from(world_ns) * i128::from(self.drift_ppb) / BILLION / 1_000_000;
        let ms = i128::from(WORLD_BEGINS_MS + world_ns / 1_000_000) + drift_ms + i128::from(self.wall_off_ms);
        UnixTime::from_millis(u64::try_from(ms.max(0)).unwrap_or(u64::MAX))
    }
}

/// Datagrams a paused host's socket keeps.
pub const SOCKET_BUFFER_DATAGRAMS: usize = 256;

/// What reached a host while it was paused.
#[derive(Default)]
pub struct Inbox {
    /// Datagrams, as many as the socket keeps.
    pub flights: VecDeque<Flight>,
    /// Answers of ports and commands, all of them.
    pub events: VecDeque<Event>,
}

/// A machine.
pub struct Host<C> {
    /// The core, while the machine is up.
    pub core: Option<C>,
    /// Counts its starts; 0: never.
    pub life: u32,
    /// World time of the present life's start.
    pub started_ns: u64,
    /// Its clocks.
    pub clock: Clock,
    /// Its disk.
    pub disk: Disk,
    /// Its engine.
    pub engine: Engine,
    /// What it is configured as.
    pub config: NodeConfig,
    /// Present while it is paused.
    pub inbox: Option<Inbox>,
    /// DHT operations that have not ended.
    pub dht_ops: BTreeSet<OpId>,
    /// Object requests that are not answered.
    pub blob_ops: BTreeSet<OpId>,
    /// Commands that are not answered.
    pub commands: BTreeSet<CommandId>,
    /// The randomness lent to TLS, when it runs real TLS.
    pub tls_rng: Option<Rng>,
    /// How often its timer ran out without the clock moving on.
    pub idle_turns: u32,
    /// When its timer last ran out.
    pub last_turn: Instant,
}

impl<C: Core> Host<C> {
    /// A machine that was never started.
    pub fn new(config: NodeConfig, clock: Clock, disk: Disk, engine: Engine) -> Self {
        Self {
            core: None,
            life: 0,
            started_ns: 0,
            clock,
            disk,
            engine,
            config,
            inbox: None,
            dht_ops: BTreeSet::new(),
            blob_ops: BTreeSet::new(),
            commands: BTreeSet::new(),
            tls_rng: None,
            idle_turns: 0,
            last_turn: Instant::ZERO,
        }
    }

    /// The core's clock.
    pub fn now(&self, world_ns: u64) -> Instant {
        self.clock.local(world_ns.saturating_sub(self.started_ns))
    }

    /// World time at which the core wants to be woken.
    pub fn deadline_ns(&self) -> Option<u64> {
        let deadline = self.core.as_ref()?.poll_timeout()?;
        Some(self.started_ns.saturating_add(self.clock.elapsed(deadline.at)))
    }

    /// Calls the core, with the randomness it may need.
    pub fn call<R>(&mut self, world_ns: u64, f: impl FnOnce(&mut C, Instant, UnixTime) -> R) -> Option<R> {
        let (now, wall) = (self.now(world_ns), self.clock.wall(world_ns));
        let core = self.core.as_mut()?;
        Some(seeded_tls::lend(&mut self.tls_rng, || f(core, now, wall)))
    }

    /// The core is gone, with everything that was under way.
    pub fn fall(&mut self) {
        self.core = None;
        self.inbox = None;
        self.dht_ops.clear();
        self.blob_ops.clear();
        self.commands.clear();
        self.engine.crash();
        self.idle_turns = 0;
    }

    /// Bytes of the simulator's own books about this host, roughly: to keep them bounded.
    pub fn outstanding(&self) -> usize {
        self.dht_ops.len() + self.blob_ops.len() + self.commands.len() + self.disk.batches_under_way()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_host_is_never_woken_before_its_own_clock_says_so(at in 0..u64::MAX / 4, drift_ppb in -400_000_000..i32::MAX) {
            let clock = Clock { drift_ppb, wall_off_ms: 0 };
            let at = Instant::from_nanos(at);
            let elapsed = clock.elapsed(at);
            prop_assert!(clock.local(elapsed) >= at);
            prop_assert!(elapsed == 0 || clock.local(elapsed - 1) < at, "nor a nanosecond too late");
        }
    }

    #[test]
    fn clocks_drift_and_are_off() {
        let clock = Clock { drift_ppb: 100_000, wall_off_ms: -3_600_000 };
        let hour_ns = 3_600_000_000_000;
        assert_eq!(clock.local(hour_ns).as_millis(), 3_600_360);
        assert_eq!(clock.wall(hour_ns).as_millis(), WORLD_BEGINS_MS + 360);
        assert_eq!(Clock::default().wall(0).as_millis(), WORLD_BEGINS_MS);
    }
}
