//! One place of a connection and what is known of it.
//!
//! ```text
//! Candidate ──pong──▶ Answering ──pong to 1,200 bytes──▶ Proven ──silent──▶ Failing ──two pongs──▶ Proven
//!     │ no answer         │ no answer                      │ unused              │ ten minutes
//!     ▼                   ▼                                ▼                     ▼
//!  forgotten           forgotten                        forgotten             forgotten
//! ```
//!
//! A relayed place or a tunnel is proven as long as it is there; silence only makes others better for a while.

use crate::place::Place;
use crate::time::{Duration, Instant};
use std::net::SocketAddr;

/// Pings of a candidate of which only the peer's own ping told us: enough for a third to be lost each way.
pub(super) const CANDIDATE_PINGS: u8 = 3;
/// Time between them.
pub(super) const CANDIDATE_EVERY: Duration = Duration::from_millis(300);
/// A pong may take so long; satellites and full buffers are slow, more is no way to use.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Pings of 1,200 bytes before an address that answers small ones is given up.
pub(super) const FULL_PINGS: u8 = 5;
/// Least time between them; it doubles.
pub(super) const FULL_EVERY: Duration = Duration::from_millis(200);
/// Least time between two probes of one place because of what the peer does.
pub(super) const TRIGGER_EVERY: Duration = Duration::from_millis(200);
/// First pause before a place that failed is probed again. It doubles.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest pause.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(60);
/// Longest pause in the first [`ANXIOUS_FOR`] when there is no other way: every second counts.
pub(super) const RETRY_MAX_ANXIOUS: Duration = Duration::from_secs(1);
/// QUIC gives up after half a minute; twice that.
pub(super) const ANXIOUS_FOR: Duration = Duration::from_secs(60);
/// A place that failed is forgotten after this long: the peer is elsewhere.
pub(super) const FAILING_KEPT: Duration = Duration::from_secs(600);
/// First and longest pause between probes of an address that the node names and that does not answer.
pub(super) const NAMED_RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// A proven place that is neither used nor the spare one is forgotten after this long without a pong.
pub(super) const UNUSED_KEPT: Duration = Duration::from_secs(60);
/// A relayed place that was silent counts again after this long.
pub(super) const SILENT_KEPT: Duration = Duration::from_secs(10);
/// One that was silent is not gone back to within this time, when the other one is silent too.
pub(super) const SILENT_REST: Duration = Duration::from_secs(3);
/// A place that failed is not returned to for this long; it doubles with each failure within [`FAILURES_KEPT`] …
pub(super) const HOLD_MIN: Duration = Duration::from_secs(3);
/// … up to this.
pub(super) const HOLD_MAX: Duration = Duration::from_secs(60);
/// After this long without one, failures are forgotten.
pub(super) const FAILURES_KEPT: Duration = Duration::from_secs(300);

/// How far a place is proven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// It never answered.
    Candidate {
        /// Pings yet to be sent.
        left: u8,
    },
    /// It answers small pings.
    Answering,
    /// It carries packets.
    Proven,
    /// It did, and is silent.
    Failing {
        /// Since when.
        since: Instant,
        /// Pongs in a row.
        pongs: u8,
    },
}

/// What is known of one place.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) place: Place,
    pub(super) state: State,
    /// Where in the list of the node, if it is there.
    pub(super) named: Option<u8>,
    /// The peer's own packets came from there, so that it matters more than what is only guessed.
    pub(super) heard: bool,
    /// Smoothed, from pongs.
    pub(super) rtt: Option<Duration>,
    /// Pongs that made it, at most 255.
    pub(super) samples: u8,
    pub(super) proven_at: Instant,
    pub(super) pinged_at: Option<Instant>,
    /// Pings since the last pong.
    pub(super) unanswered: u8,
    /// When something is due.
    pub(super) at: Option<Instant>,
    /// Since when a relayed place is silent.
    pub(super) silent_at: Option<Instant>,
    pub(super) failures: u8,
    pub(super) held_until: Instant,
    pub(super) observed: Option<SocketAddr>,
}

impl Known {
    pub(super) fn new(place: Place, state: State, now: Instant) -> Self {
        Self {
            place,
            state,
            named: None,
            heard: false,
            rtt: None,
            samples: 0,
            proven_at: now,
            pinged_at: None,
            unanswered: 0,
            at: None,
            silent_at: None,
            failures: 0,
            held_until: Instant::ZERO,
            observed: None,
        }
    }

    /// Whether packets may go there.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        match self.place {
            Place::Direct { .. } => self.state == State::Proven,
            Place::Relayed { .. } | Place::Tunnel(_) => {
                self.silent_at.is_none_or(|at| now >= at + SILENT_KEPT)
            }
        }
    }

    pub(super) fn is_proven_direct(&self) -> bool {
        self.place.is_direct() && self.state == State::Proven
    }

    /// Whether it is new or answers no more, so that it does not matter if it goes.
    pub(super) fn is_unproven(&self) -> bool {
        self.place.is_direct() && self.state != State::Proven
    }

    /// Whether the peer is known to be there, or was.
    pub(super) fn matters(&self) -> bool {
        self.heard || !matches!(self.state, State::Candidate { .. })
    }

    /// A pong came after so long.
    pub(super) fn measured(&mut self, now: Instant, rtt: Duration) {
        // RFC 6298 with its gain of 1/8 reaches a new level after minutes at our pace; 1/4 after four pongs.
        self.rtt = Some(self.rtt.filter(|_| self.samples > 0).map_or(rtt, |old| (old * 3 + rtt) / 4));
        self.samples = self.samples.saturating_add(1);
        self.unanswered = 0;
        self.proven_at = now;
    }

    /// It is silent.
    pub(super) fn fail(&mut self, now: Instant) {
        if now > self.held_until + FAILURES_KEPT {
            self.failures = 0;
        }
        self.state = State::Failing { since: now, pongs: 0 };
        self.unanswered = 0;
        self.held_until = now + doubled(HOLD_MIN, self.failures, HOLD_MAX);
        self.failures = self.failures.saturating_add(1);
        self.at = Some(now + RETRY_MIN);
    }
}

/// `first`, doubled so many times, at most `most`.
pub(super) fn doubled(first: Duration, times: u8, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(20)).min(most)
}

/// An address that was tried, for people.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    pub(super) place: Place,
    /// Ports of this address to which the same happened.
    pub(super) ports: u32,
    pub(super) outcome: &'static str,
    pub(super) at: crate::time::UnixTime,
}

impl Tried {
    /// Many ports of one address are one line.
    pub(super) fn is_like(&self, place: &Place, outcome: &'static str) -> bool {
        let ip = |p: &Place| p.addr().map(|a| a.ip());
        self.outcome == outcome
            && if ip(place).is_some() { ip(&self.place) == ip(place) } else { self.place == *place }
    }
}
