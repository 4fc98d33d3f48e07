//! The clocks of the machine, as the core counts them.

use remote_network_core::time::{Instant, UnixTime};
use std::time::SystemTime;

/// Maps the machine's monotonic clock to nanoseconds since the node started.
///
/// QUIC inside the core calculates with `std::time::Instant`s of its own; it must be given the same [`Clock::base`], or
/// its timers and the node's would drift apart.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: std::time::Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { base: std::time::Instant::now() }
    }

    /// The machine's moment that is the core's zero.
    pub fn base(&self) -> std::time::Instant {
        self.base
    }

    /// Now, since the start.
    pub fn now(&self) -> Instant {
        let nanos = self.base.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The wall clock; zero when it is set to before 1970.
    pub fn wall(&self) -> UnixTime {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The machine's moment for one of the core's; `None`: beyond what the machine can count, which is never.
    pub fn machine(&self, at: Instant) -> Option<std::time::Instant> {
        self.base.checked_add(at.since(Instant::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_clock_counts_from_its_base_and_never_back() {
        let clock = Clock::start();
        let (first, second) = (clock.now(), clock.now());
        assert!(first <= second);
        assert!(clock.machine(second).is_some_and(|at| at <= std::time::Instant::now()));
        assert_eq!(clock.machine(Instant::ZERO), Some(clock.base()));
        assert_eq!(clock.machine(Instant::from_millis(7)), Some(clock.base() + Duration::from_millis(7)));
    }

    #[test]
    fn the_wall_clock_is_in_this_century() {
        assert!(Clock::start().wall() > UnixTime::from_secs(1_700_000_000));
    }
}
