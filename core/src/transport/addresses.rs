//! Stable, synthetic addresses beneath QUIC.
//!
//! quinn-proto identifies the other end of a connection by its address and follows or drops packets by it. It must
//! never see a path change, so it is shown one synthetic IPv6 address (ULA `fd51::/16`) per path set; this table says
//! which real address stands behind it. Addresses that nobody uses any more are kept a while, so that a stateless
//! reset or a retried handshake from the same place meets the same synthetic address, and then evicted: after a minute,
//! or sooner when there are too many.

use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};

/// Unused mappings kept: enough for the handshakes and resets of a busy minute.
const IDLE_MAX: usize = 1_024;
/// Unused mappings are kept for this long: a handshake is retried, and a reset answered, within seconds.
const IDLE_KEPT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
struct Entry {
    real: SocketAddr,
    users: u32,
    idle_since: Instant,
}

/// The table of synthetic addresses.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    by_real: BTreeMap<SocketAddr, u64>,
    entries: BTreeMap<u64, Entry>,
    /// Since when, and which.
    idle: BTreeSet<(Instant, u64)>,
    next: u64,
}

impl Addresses {
    /// The synthetic address behind which `real` stands; a new one if there is none.
    pub fn synthetic(&mut self, now: Instant, real: SocketAddr) -> SocketAddr {
        let number = match self.by_real.get(&real) {
            Some(&number) => number,
            None => self.insert(now, real),
        };
        to_synthetic(number)
    }

    /// The real address behind a synthetic one.
    pub fn real(&self, synthetic: SocketAddr) -> Option<SocketAddr> {
        self.entries.get(&number_of(synthetic)?).map(|e| e.real)
    }

    /// A connection uses this synthetic address.
    pub fn acquire(&mut self, synthetic: SocketAddr) {
        if let Some(number) = number_of(synthetic)
            && let Some(entry) = self.entries.get_mut(&number)
        {
            if entry.users == 0 {
                self.idle.remove(&(entry.idle_since, number));
            }
            entry.users += 1;
        }
    }

    /// A connection uses this synthetic address no more.
    pub fn release(&mut self, now: Instant, synthetic: SocketAddr) {
        if let Some(number) = number_of(synthetic)
            && let Some(entry) = self.entries.get_mut(&number)
        {
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0 {
                entry.idle_since = now;
                self.idle.insert((now, number));
                self.evict(now);
            }
        }
    }

    fn insert(&mut self, now: Instant, real: SocketAddr) -> u64 {
        self.next += 1;
        let number = self.next;
        self.by_real.insert(real, number);
        self.entries.insert(number, Entry { real, users: 0, idle_since: now });
        self.idle.insert((now, number));
        self.evict(now);
        number
    }

    fn evict(&mut self, now: Instant) {
        let old =
            |first: Option<&(Instant, u64)>| first.is_some_and(|(since, _)| now.since(*since) > IDLE_KEPT);
        while self.idle.len() > IDLE_MAX || old(self.idle.first()) {
            if let Some((_, number)) = self.idle.pop_first()
                && let Some(entry) = self.entries.remove(&number)
            {
                self.by_real.remove(&entry.real);
            }
        }
    }
}

fn to_synthetic(number: u64) -> SocketAddr {
    let ip = Ipv6Addr::from((0xfd51_u128 << 112) | u128::from(number));
    SocketAddr::new(ip.into(), 1)
}

fn number_of(synthetic: SocketAddr) -> Option<u64> {
    match synthetic {
        SocketAddr::V6(v6) if v6.ip().octets()[..2] == [0xfd, 0x51] => {
            let raw: u128 = (*v6.ip()).into();
            Some(raw as u64)
        }
        SocketAddr::V6(_) | SocketAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, 1], n))
    }

    #[test]
    fn one_real_address_has_one_synthetic_address_as_long_as_it_is_known() {
        let mut table = Addresses::default();
        let now = Instant::ZERO;
        let a = table.synthetic(now, addr(1));
        assert_eq!(table.synthetic(now, addr(1)), a);
        assert_ne!(table.synthetic(now, addr(2)), a);
        assert_eq!(table.real(a), Some(addr(1)));
        assert_eq!(table.real(addr(1)), None);
    }

    #[test]
    fn a_flood_of_sources_evicts_unused_mappings_but_never_used_ones() {
        let mut table = Addresses::default();
        let now = Instant::ZERO;
        let used = table.synthetic(now, addr(1));
        table.acquire(used);
        for port in 2..5_000 {
            table.synthetic(now, addr(port));
        }
        assert_eq!(table.entries.len(), IDLE_MAX + 1);
        assert_eq!(table.real(used), Some(addr(1)));
        table.release(now, used);
        assert_eq!(table.entries.len(), IDLE_MAX);
    }

    #[test]
    fn what_nobody_used_for_a_minute_is_forgotten() {
        let mut table = Addresses::default();
        let used = table.synthetic(Instant::ZERO, addr(1));
        table.acquire(used);
        table.synthetic(Instant::ZERO, addr(2));
        table.synthetic(Instant::ZERO + IDLE_KEPT, addr(3));
        assert_eq!(table.entries.len(), 3);
        table.synthetic(Instant::ZERO + IDLE_KEPT + Duration::from_millis(1), addr(4));
        assert_eq!(table.entries.len(), 3);
        assert_eq!(table.real(used), Some(addr(1)));
    }
}
