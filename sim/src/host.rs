//! A simulated machine: a core, its clocks, its disk, its engine, and what it still owes to whom.
//!
//! The machine outlives its core: a crash takes the core and what was under way, a restart builds a new one from the
//! disk. Every start is a new *life*; answers meant for an earlier life are dropped, as a dead process hears nothing.

use crate::crypto::null::Realm;
use crate::crypto::seeded_tls;
use crate::disk::Disk;
use crate::engine::Engine;
use crate::evil::Mischief;
use crate::net::Flight;
use crate::replay::Tape;
use remote_network_core::action::Action;
use remote_network_core::drive::{Call, Driven};
use remote_network_core::event::Event;
use remote_network_core::id::{CommandId, OpId};
use remote_network_core::node::{Journal, Node, NodeConfig, RecoverError};
use remote_network_core::rng::Rng;
use remote_network_core::time::{Duration, Instant, UnixTime};
use remote_network_core::transport::quic::{QuicConfig, QuicTransport};
use remote_network_core::transport::tls::{self, TlsError};
use remote_network_core::transport::{Transmit, Transport};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use thiserror::Error;

/// What cryptography a node runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cryptography {
    /// TLS with randomness from this seed.
    Tls([u8; 32]),
    /// The null session.
    Null {
        /// The realm's secret.
        realm: [u8; 32],
        /// Feeds its nonces.
        seed: [u8; 32],
        /// Keys its reset tokens; outlives restarts.
        reset_secret: [u8; 32],
    },
}

/// Everything a core is built from: with the calls made into it, this is the whole of its run.
#[derive(Clone, Debug)]
pub struct Birth {
    /// Its configuration, private key included.
    pub config: NodeConfig,
    /// What its journal holds.
    pub journal: Journal,
    /// Feeds its generator.
    pub seed: [u8; 32],
    /// The wall clock at its start; its own clock starts at zero.
    pub wall: UnixTime,
    /// Its cryptography.
    pub cryptography: Cryptography,
    /// Feeds QUIC.
    pub quic_seed: [u8; 32],
    /// QUIC's keep-alive.
    pub keep_alive: Duration,
    /// QUIC's idle time-out.
    pub idle_timeout: Duration,
    /// Whether QUIC probes for larger datagrams.
    pub mtu_discovery: bool,
    /// Connections alive at once.
    pub connections_max: usize,
}

impl Birth {
    /// The transport it describes. QUIC only compares and subtracts moments, so that any base gives the same run.
    pub fn quic(&self) -> Result<QuicConfig, TlsError> {
        let crypto = match &self.cryptography {
            Cryptography::Tls(_) => tls::crypto(&self.config.keypair, seeded_tls::provider())?,
            Cryptography::Null { realm, seed, reset_secret } => {
                Realm::new(*realm).crypto(&self.config.keypair.public(), *seed, *reset_secret)
            }
        };
        Ok(QuicConfig {
            keep_alive: self.keep_alive,
            idle_timeout: self.idle_timeout,
            mtu_discovery: self.mtu_discovery,
            connections_max: self.connections_max,
            ..QuicConfig::new(crypto, std::time::Instant::now(), self.quic_seed)
        })
    }

    /// The generator lent to TLS while the core is called.
    pub fn tls_rng(&self) -> Option<Rng> {
        match &self.cryptography {
            Cryptography::Tls(seed) => Some(Rng::from_seed(*seed)),
            Cryptography::Null { .. } => None,
        }
    }
}

/// Why a core does not come up.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BirthError {
    /// It refuses its journal.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It shall misbehave, and does not know how.
    #[error("cores of this kind do not misbehave")]
    Honest,
}

/// A core that the world can bring up. The real one is [`Node`]; the world's own tests drive a toy.
pub trait Core: Driven + Sized {
    /// Builds it from what is durable.
    fn restore(birth: Birth) -> Result<Self, BirthError>;

    /// The same, of a host that misbehaves.
    fn corrupt(_birth: Birth, _mischief: Mischief) -> Result<Self, BirthError> {
        Err(BirthError::Honest)
    }
}

impl Core for Node<QuicTransport> {
    fn restore(birth: Birth) -> Result<Self, BirthError> {
        raise(birth, |quic| quic)
    }
}

/// The product's core on QUIC, or on what is around it.
pub fn raise<T: Transport>(
    birth: Birth,
    around: impl FnOnce(QuicTransport) -> T,
) -> Result<Node<T>, BirthError> {
    let transport = around(QuicTransport::new(birth.quic()?));
    let Birth { config, journal, seed, wall, .. } = birth;
    Ok(Node::restore(config, transport, seed, Instant::ZERO, wall, journal)?)
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
    /// Its misbehaviour, if it is malicious.
    pub mischief: Option<Mischief>,
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
    /// Where its life is recorded, if it is.
    pub tape: Option<Tape<Box<dyn Write + Send>>>,
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
            mischief: None,
            inbox: None,
            dht_ops: BTreeSet::new(),
            blob_ops: BTreeSet::new(),
            commands: BTreeSet::new(),
            tls_rng: None,
            tape: None,
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

    /// Brings a core up.
    pub fn rise(&mut self, birth: Birth) -> Result<(), BirthError> {
        self.tls_rng = birth.tls_rng();
        let mischief = self.mischief.clone();
        self.core = Some(seeded_tls::lend(&mut self.tls_rng, || match mischief {
            Some(mischief) => C::corrupt(birth, mischief),
            None => C::restore(birth),
        })?);
        Ok(())
    }

    /// Tells the core of an event.
    pub fn handle(&mut self, world_ns: u64, event: Event) {
        let (now, wall) = self.clocks(world_ns, |()| Call::Event(&event));
        if let Some(core) = &mut self.core {
            seeded_tls::lend(&mut self.tls_rng, || core.handle(now, wall, event));
        }
    }

    /// Tells the core that time has passed.
    pub fn handle_timeout(&mut self, world_ns: u64) {
        let (now, wall) = self.clocks(world_ns, |()| Call::Timeout);
        if let Some(core) = &mut self.core {
            seeded_tls::lend(&mut self.tls_rng, || core.handle_timeout(now, wall));
        }
    }

    /// Asks the core for datagrams.
    pub fn poll_transmit(
        &mut self,
        world_ns: u64,
        max_datagrams: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let (now, _) = self.clocks(world_ns, |()| Call::Transmit { max_datagrams });
        let core = self.core.as_mut()?;
        seeded_tls::lend(&mut self.tls_rng, || core.poll_transmit(now, max_datagrams, buf))
    }

    /// Asks the core what it wants.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.core.as_mut()?.poll_action()?;
        if let Some(tape) = &self.tape {
            tape.action(&action);
        }
        Some(action)
    }

    /// The core's clocks, and the call noted if somebody records.
    fn clocks<'a>(&self, world_ns: u64, call: impl FnOnce(()) -> Call<'a>) -> (Instant, UnixTime) {
        let (now, wall) = (self.now(world_ns), self.clock.wall(world_ns));
        if let Some(tape) = &self.tape {
            tape.call(now, wall, call(()));
        }
        (now, wall)
    }

    /// The core is gone, with everything that was under way.
    pub fn fall(&mut self) {
        self.core = None;
        self.tape = None;
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
