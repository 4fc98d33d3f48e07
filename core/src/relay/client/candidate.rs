//! One relay as its client knows it, and what it is worth.

use crate::id::{ConnId, PublicKey};
use crate::relay::message::{Load, SessionId};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use std::net::SocketAddr;

/// Shortest pause after a failure; it doubles with each further one.
pub const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest pause after a failure.
pub const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// Reliability of a relay that nobody has tried, in parts per million.
pub const RELIABILITY_AT_FIRST: u32 = 800_000;
/// Below this a relay is not healthy: being preferred does not help it.
pub const RELIABILITY_HEALTHY: u32 = 500_000;
/// A round-trip time says nothing any more after this long.
pub const RTT_FRESH: Duration = Duration::from_secs(1_200);

const ALL: u64 = 1_000_000;
/// Below this a relay's reliability makes no more difference.
const RELIABILITY_MIN: u32 = 50_000;
/// What passing through a relay takes beside the way there: keeps a loopback relay from being infinitely good.
const COST_BASE_US: u64 = 5_000;
/// The weight of one more trial: 1/8, as in the smoothing of round-trip times (RFC 6298).
const WEIGHT: u32 = 8;
const JITTER_PERCENT: u32 = 25;

/// What is going on with a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nothing.
    Idle,
    /// The node was asked to connect.
    Connecting {
        until: Instant,
    },
    /// Connected; it was asked for its load.
    Measuring {
        until: Instant,
    },
    /// It was asked for a reservation.
    Registering {
        until: Instant,
    },
    Held(Held),
}

/// A reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) session: SessionId,
    pub(super) observed: SocketAddr,
    pub(super) renew_at: Instant,
    /// It was asked for again, and must answer by then.
    pub(super) renewing: Option<Instant>,
    /// Its path is silent; it must answer by then.
    pub(super) suspect: Option<Instant>,
}

impl Phase {
    /// When something must have happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Phase::Idle => None,
            Phase::Connecting { until } | Phase::Measuring { until } | Phase::Registering { until } => {
                Some(*until)
            }
            Phase::Held(held) => {
                let answer = [held.renewing.or(Some(held.renew_at)), held.suspect];
                answer.into_iter().flatten().min()
            }
        }
    }

    /// The word for people.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Connecting { .. } => "connecting",
            Phase::Measuring { .. } => "measuring",
            Phase::Registering { .. } => "registering",
            Phase::Held(Held { suspect: Some(_), .. }) => "suspect",
            Phase::Held(_) => "reserved",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Relay {
    pub(super) addr: SocketAddr,
    pub(super) price: u32,
    /// Nobody offers it any more: it is forgotten when nothing is going on.
    pub(super) gone: bool,
    /// Drawn once: nodes that know the same relays try them in different orders.
    pub(super) order: u64,
    pub(super) conn: Option<ConnId>,
    pub(super) rtt: Option<Duration>,
    pub(super) rtt_at: Instant,
    pub(super) load: Option<Load>,
    pub(super) reliability: u32,
    pub(super) failures: u32,
    /// Left alone until then.
    pub(super) not_before: Instant,
    /// When the last connection was asked for.
    pub(super) tried_at: Option<Instant>,
    /// It forgot the reservation then.
    pub(super) forgot_at: Option<Instant>,
    /// Since when it has been better than the active one, at every look.
    pub(super) better_since: Option<Instant>,
    pub(super) phase: Phase,
}

impl Relay {
    pub(super) fn new(addr: SocketAddr, price: u32, order: u64, now: Instant) -> Self {
        Self {
            addr,
            price,
            gone: false,
            order,
            conn: None,
            rtt: None,
            rtt_at: now,
            load: None,
            reliability: RELIABILITY_AT_FIRST,
            failures: 0,
            not_before: now,
            tried_at: None,
            forgot_at: None,
            better_since: None,
            phase: Phase::Idle,
        }
    }

    /// What it costs to use it, in microseconds: the way there, longer for what often fails, and its price, 1,000
    /// micro-units per GiB being worth a millisecond. A relay that is nearly full costs a quarter more. `None` until it
    /// was measured.
    pub(super) fn cost_us(&self) -> Option<u64> {
        let rtt_us = u64::try_from(self.rtt?.as_micros()).unwrap_or(u64::MAX);
        let way = rtt_us.saturating_add(COST_BASE_US).saturating_mul(ALL);
        let cost = way / u64::from(self.reliability.max(RELIABILITY_MIN));
        let full = self.load.is_some_and(|l| u64::from(l.used) * 10 >= u64::from(l.max) * 9);
        let cost = if full { cost.saturating_add(cost / 4) } else { cost };
        Some(cost.saturating_add(self.price.into()))
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.reliability >= RELIABILITY_HEALTHY
    }

    pub(super) fn sample(&mut self, now: Instant, rtt: Duration) {
        self.rtt = Some(match self.rtt.filter(|_| self.rtt_at + RTT_FRESH > now) {
            Some(old) => old.saturating_mul(WEIGHT - 1).saturating_add(rtt) / WEIGHT,
            None => rtt,
        });
        self.rtt_at = now;
    }

    pub(super) fn succeed(&mut self) {
        self.failures = 0;
        self.reliability += (ALL as u32 - self.reliability) / WEIGHT;
    }

    pub(super) fn fail(&mut self, now: Instant, rng: &mut Rng) {
        self.reliability -= self.reliability / WEIGHT;
        let doubled = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.pause(now, rng, doubled.min(BACKOFF_MAX));
    }

    /// Leaves it alone for about so long.
    pub(super) fn pause(&mut self, now: Instant, rng: &mut Rng, time: Duration) {
        self.not_before = self.not_before.max(now + rng.jitter(time, JITTER_PERCENT));
    }

    pub(super) fn held(&self) -> Option<&Held> {
        match &self.phase {
            Phase::Held(held) => Some(held),
            Phase::Idle | Phase::Connecting { .. } | Phase::Measuring { .. } | Phase::Registering { .. } => {
                None
            }
        }
    }

    pub(super) fn held_mut(&mut self) -> Option<&mut Held> {
        match &mut self.phase {
            Phase::Held(held) => Some(held),
            Phase::Idle | Phase::Connecting { .. } | Phase::Measuring { .. } | Phase::Registering { .. } => {
                None
            }
        }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.held().is_some_and(|held| held.suspect.is_some())
    }
}

/// A relay for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayView {
    /// Which.
    pub key: PublicKey,
    /// Where.
    pub addr: SocketAddr,
    /// `active`, `standby`, or nothing.
    pub role: Option<&'static str>,
    /// What is going on with it.
    pub state: &'static str,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Successes of trials, as an exponential average in parts per million.
    pub reliability_ppm: u32,
    /// Micro-units per GiB.
    pub price: u32,
    /// How full it said it is.
    pub load: Option<Load>,
    /// What it costs in all, in microseconds; the lowest is the best.
    pub cost_us: Option<u64>,
}
