//! Stable, synthetic addresses beneath QUIC.
//!
//! quinn-proto identifies the other end of a connection by its address and follows or drops packets by it. It must
//! never see a path change, so it is shown one synthetic IPv6 address (ULA `fd51::/16`) per path set; this table says
//! which real address stands behind it. Addresses that nobody uses any more are kept a while, so that a stateless
//! reset or a retried handshake from the same place meets the same synthetic address, and then evicted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};

/// Unused mappings kept: enough for the handshakes and resets of a busy minute.
const IDLE_MAX: usize = 1_024;

#[derive(Clone, Debug)]
struct Entry {
    real: SocketAddr,
    users: u32,
    idle_stamp: u64,
}

/// The table of synthetic addresses.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    by_real: BTreeMap<SocketAddr, u64>,
    entries: BTreeMap<u64, Entry>,
    idle: BTreeSet<(u64, u64)>,
    next: u64,
    stamp: u64,
}

impl Addresses {
    /// The synthetic address behind which `real` stands; a new one if there is none.
    pub fn synthetic(&mut self, real: SocketAddr) -> SocketAddr {
        let number = match self.by_real.get(&real) {
            Some(&number) => number,
            None => self.insert(real),
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
                self.idle.remove(&(entry.idle_stamp, number));
            }
            entry.users += 1;
        }
    }

    /// A connection uses this synthetic address no more.
    pub fn release(&mut self, synthetic: SocketAddr) {
        if let Some(number) = number_of(synthetic)
            && let Some(entry) = self.entries.get_mut(&number)
        {
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0 {
                self.stamp += 1;
                entry.idle_stamp = self.stamp;
                self.idle.insert((self.stamp, number));
                self.evict();
            }
        }
    }

    fn insert(&mut self, real: SocketAddr) -> u64 {
        self.next += 1;
        self.stamp += 1;
        let number = self.next;
        self.by_real.insert(real, number);
        self.entries.insert(number, Entry { real, users: 0, idle_stamp: self.stamp });
        self.idle.insert((self.stamp, number));
        self.evict();
        number
    }

    fn evict(&mut self) {
        while self.idle.len() > IDLE_MAX {
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
        let a = table.synthetic(addr(1));
        assert_eq!(table.synthetic(addr(1)), a);
        assert_ne!(table.synthetic(addr(2)), a);
        assert_eq!(table.real(a), Some(addr(1)));
        assert_eq!(table.real(addr(1)), None);
    }

    #[test]
    fn a_flood_of_sources_evicts_unused_mappings_but_never_used_ones() {
        let mut table = Addresses::default();
        let used = table.synthetic(addr(1));
        table.acquire(used);
        for port in 2..5_000 {
            table.synthetic(addr(port));
        }
        assert_eq!(table.entries.len(), IDLE_MAX + 1);
        assert_eq!(table.real(used), Some(addr(1)));
        table.release(used);
        assert_eq!(table.entries.len(), IDLE_MAX);
    }
}
