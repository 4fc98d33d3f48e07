//! How many datagrams an address gets that nobody has proven.
//!
//! A candidate is a claim: the address may be somebody else's, named so that many nodes send there. What goes to an address
//! without a pong from it is therefore counted by target, over all connections together, because a hundred peers may name the
//! same victim. IPv6 is counted by its /64, which is what one customer gets.
//!
//! Each allowance is a pair of leaky buckets: at most [`PER_SECOND_MAX`] in any second and [`PER_MINUTE_MAX`] in any
//! minute, exactly: a burst and what drips in meanwhile are together no more. That is half of what a ping flood is in any
//! operator's tables, and enough for four rounds of sixteen candidates.
//!
//! The ports of a hard NAT can only be found by trying many (the birthday paradox). Such a burst has its own, larger allowance,
//! which the punch room may ask for by [`Class::Burst`]: only where the target itself is known to be the peer's, since its
//! packets or a relay's word about them came from that IP address.

use crate::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Datagrams to one unproven target in any second.
pub const PER_SECOND_MAX: u32 = 20;
/// Datagrams to one unproven target in any minute.
pub const PER_MINUTE_MAX: u32 = 200;
/// Datagrams of an agreed burst to one target in any second: a hit is likely within seconds, and no router mistakes it for an attack.
pub const BURST_PER_SECOND_MAX: u32 = 250;
/// Datagrams of agreed bursts to one target in any minute: against 256 ports open at the other side 1,715 tries hit with 99.9 %
/// (hypergeometric, ports 1,024 to 65,535).
pub const BURST_PER_MINUTE_MAX: u32 = 2_500;
/// Datagrams to all unproven targets together in any second.
pub const TOTAL_PER_SECOND_MAX: u32 = 500;
/// Targets counted at once; when all are in use, further ones get nothing. 60 bytes each.
pub const TARGETS_MAX: usize = 1_024;

/// What a datagram is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// A probe of a candidate, or the answer to somebody unproven.
    Ordinary,
    /// One of many ports that both sides agreed to try.
    Burst,
}

/// At most `burst` at once and one more per `every`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    burst: u32,
    every: Duration,
}

impl Rate {
    /// At most `max` in any `span`: half of it at once, the other half spread over the span.
    pub const fn within(max: u32, span: Duration) -> Self {
        let burst = max - max / 2;
        Self { burst, every: Duration::from_nanos(span.as_nanos() as u64 / (max / 2) as u64) }
    }
}

/// A leaky bucket (the generic cell rate algorithm): one moment, when it will be empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    empty_at: Instant,
}

impl Bucket {
    /// Whether one more fits.
    pub fn has_room(&self, now: Instant, rate: Rate) -> bool {
        self.empty_at.since(now) <= rate.every * (rate.burst - 1)
    }

    /// Puts one more in.
    pub fn fill(&mut self, now: Instant, rate: Rate) {
        self.empty_at = self.empty_at.max(now) + rate.every;
    }

    /// Puts one more in if it fits.
    pub fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let fits = self.has_room(now, rate);
        if fits {
            self.fill(now, rate);
        }
        fits
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const ORDINARY: [Rate; 2] = [Rate::within(PER_SECOND_MAX, SECOND), Rate::within(PER_MINUTE_MAX, MINUTE)];
const BURST: [Rate; 2] =
    [Rate::within(BURST_PER_SECOND_MAX, SECOND), Rate::within(BURST_PER_MINUTE_MAX, MINUTE)];
const TOTAL: Rate = Rate::within(TOTAL_PER_SECOND_MAX, SECOND);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Target {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => Target::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Target::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    ordinary: [Bucket; 2],
    burst: [Bucket; 2],
}

impl Spent {
    fn is_over(&self, now: Instant) -> bool {
        self.ordinary.iter().chain(&self.burst).all(|b| b.empty_at <= now)
    }
}

/// The allowances of all targets.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    targets: BTreeMap<Target, Spent>,
    total: Bucket,
}

impl Budget {
    /// Whether a datagram may go to `addr` now. If so it counts.
    pub fn take(&mut self, now: Instant, addr: SocketAddr, class: Class) -> bool {
        let target = Target::from(addr);
        if !self.total.has_room(now, TOTAL) || !self.knows(now, target) {
            return false;
        }
        let spent = self.targets.entry(target).or_default();
        let (buckets, rates) = match class {
            Class::Ordinary => (&mut spent.ordinary, ORDINARY),
            Class::Burst => (&mut spent.burst, BURST),
        };
        let fits = buckets.iter().zip(rates).all(|(bucket, rate)| bucket.has_room(now, rate));
        if fits {
            buckets.iter_mut().zip(rates).for_each(|(bucket, rate)| bucket.fill(now, rate));
            self.total.fill(now, TOTAL);
        }
        fits
    }

    /// Makes room for a target that is not counted yet.
    fn knows(&mut self, now: Instant, target: Target) -> bool {
        if !self.targets.contains_key(&target) && self.targets.len() >= TARGETS_MAX {
            self.targets.retain(|_, spent| !spent.is_over(now));
        }
        self.targets.contains_key(&target) || self.targets.len() < TARGETS_MAX
    }

    /// Targets counted.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr(ip: u8, port: u16) -> SocketAddr {
        ([203, 0, 113, ip], port).into()
    }

    /// The most of `sent` within any `span`.
    fn most(sent: &[Instant], span: Duration) -> usize {
        sent.iter()
            .map(|from| sent.iter().filter(|at| **at >= *from && at.since(*from) < span).count())
            .max()
            .unwrap_or(0)
    }

    #[test]
    fn a_target_gets_no_more_than_its_allowance_in_any_second_and_minute() {
        for (class, second, minute) in [
            (Class::Ordinary, 20, 200),
            (Class::Burst, BURST_PER_SECOND_MAX as usize, BURST_PER_MINUTE_MAX as usize),
        ] {
            let mut budget = Budget::default();
            let sent: Vec<Instant> = (0..90_000u64)
                .map(Instant::from_millis)
                .filter(|now| budget.take(*now, addr(1, (now.as_millis() % 60_000) as u16), class))
                .collect();
            assert!(most(&sent, SECOND) <= second, "{class:?}: {} in a second", most(&sent, SECOND));
            assert!(most(&sent, MINUTE) <= minute, "{class:?}: {} in a minute", most(&sent, MINUTE));
            assert!(most(&sent, MINUTE) >= minute * 9 / 10, "{class:?}: the allowance can be used");
        }
    }

    #[test]
    fn ports_of_one_address_and_addresses_of_one_customer_are_one_target() {
        let mut budget = Budget::default();
        let now = Instant::ZERO;
        let passed = (0..100).filter(|n| budget.take(now, addr(1, 1 + n), Class::Ordinary)).count();
        assert_eq!(passed, 10);
        assert!(budget.take(now, addr(2, 1), Class::Ordinary), "another target has its own");
        let v6 = |host: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 1, 0, 0, 0, host], 9));
        assert_eq!((0..100).filter(|n| budget.take(now, v6(*n), Class::Ordinary)).count(), 10);
        let dressed: SocketAddr = "[::ffff:203.0.113.1]:9".parse().unwrap();
        assert!(!budget.take(now, dressed, Class::Ordinary), "IPv4 dressed as IPv6 is the same target");
    }

    #[test]
    fn an_agreed_burst_leaves_the_ordinary_allowance_alone() {
        let mut budget = Budget::default();
        let now = Instant::ZERO;
        while budget.take(now, addr(1, 1), Class::Burst) {}
        assert!(budget.take(now, addr(1, 1), Class::Ordinary));
    }

    #[test]
    fn all_targets_together_are_bounded_in_rate_and_number() {
        let mut budget = Budget::default();
        let v4 = |n: u64| SocketAddr::from(([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 9));
        let sent: Vec<Instant> = (0..20_000u64)
            .map(|n| (n, Instant::from_nanos(n * 100_000)))
            .filter(|(n, now)| budget.take(*now, v4(*n), Class::Ordinary))
            .map(|(_, now)| now)
            .collect();
        assert!(most(&sent, SECOND) <= TOTAL_PER_SECOND_MAX as usize);
        assert!(budget.targets() <= TARGETS_MAX);
    }

    #[test]
    fn a_full_table_forgets_who_has_not_been_sent_to_for_long_and_nobody_else() {
        let mut budget = Budget::default();
        let v4 = |n: u64| SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 9));
        for n in 0..TARGETS_MAX as u64 {
            budget.targets.insert(v4(n).into(), Spent::default());
        }
        let now = Instant::from_millis(1);
        budget.targets.values_mut().skip(1).for_each(|s| s.ordinary[0].empty_at = now + SECOND);
        assert!(budget.take(now, v4(5_000), Class::Ordinary), "one was over");
        assert!(!budget.take(now, v4(5_001), Class::Ordinary));
    }

    proptest! {
        #[test]
        fn no_order_of_events_passes_more_than_the_allowance(
            steps in prop::collection::vec((0..400u64, 0..3u8), 0..400),
        ) {
            let mut budget = Budget::default();
            let mut now = Instant::ZERO;
            let mut sent = [vec![], vec![], vec![]];
            for (wait, ip) in steps {
                now = now + Duration::from_millis(wait);
                if budget.take(now, addr(ip, 9), Class::Ordinary) {
                    sent[usize::from(ip)].push(now);
                }
            }
            for sent in sent {
                prop_assert!(most(&sent, SECOND) <= PER_SECOND_MAX as usize);
                prop_assert!(most(&sent, MINUTE) <= PER_MINUTE_MAX as usize);
            }
        }
    }
}
