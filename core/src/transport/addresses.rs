//! Stable, synthetic addresses beneath QUIC.
//!
//! quinn-proto identifies the other end of a connection by its address and follows or drops packets by it. It must
//! never see a path change, so it is shown one synthetic IPv6 address (ULA `fd51::/16`) for each connection's life. This
//! table says which synthetic address a packet gets that names no connection of ours: one per place, the same for all
//! that comes from there, so that a stateless reset or a retried handshake meets the address that its connection has.
//! Places that nobody uses any more are kept a while for that, and then evicted: after a minute, or sooner when there are
//! too many.

use crate::place::Place;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};

/// Unused mappings kept: enough for the handshakes and resets of a busy minute.
const IDLE_MAX: usize = 1_024;
/// Unused mappings are kept for this long: a handshake is retried, and a reset answered, within seconds.
const IDLE_KEPT: Duration = Duration::from_secs(60);
/// Places behind one synthetic address: where its connection is, and was a moment ago.
const PLACES_MAX: usize = 4;

#[derive(Clone, Debug)]
struct Entry {
    /// The newest last.
    places: Vec<Place>,
    users: u32,
    idle_since: Instant,
}

/// The table of synthetic addresses.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    by_place: BTreeMap<Place, u64>,
    entries: BTreeMap<u64, Entry>,
    /// Since when, and which.
    idle: BTreeSet<(Instant, u64)>,
    next: u64,
}

impl Addresses {
    /// The synthetic address for what comes from `place`; a new one if there is none.
    pub fn synthetic(&mut self, now: Instant, place: Place) -> SocketAddr {
        let number = match self.by_place.get(&place) {
            Some(&number) => number,
            None => self.insert(now, place),
        };
        to_synthetic(number)
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

    /// A connection moves to another place. What comes from there and names no connection (a stateless reset) gets its
    /// synthetic address from now on, unless another connection's packets already do.
    pub fn moved(&mut self, synthetic: SocketAddr, place: Place) {
        let Some(number) = number_of(synthetic).filter(|n| self.entries.contains_key(n)) else { return };
        if let Some(&other) = self.by_place.get(&place)
            && let Some(entry) = self.entries.get_mut(&other)
        {
            if other == number || entry.users > 0 {
                return;
            }
            entry.places.retain(|p| *p != place);
        }
        self.by_place.insert(place, number);
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.places.push(place);
            if entry.places.len() > PLACES_MAX {
                let oldest = entry.places.remove(0);
                self.by_place.remove(&oldest);
            }
        }
    }

    fn insert(&mut self, now: Instant, place: Place) -> u64 {
        self.next += 1;
        let number = self.next;
        self.by_place.insert(place, number);
        self.entries.insert(number, Entry { places: vec![place], users: 0, idle_since: now });
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
                for place in entry.places {
                    self.by_place.remove(&place);
                }
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

    fn place(n: u16) -> Place {
        Place::direct(SocketAddr::from(([198, 51, 100, 1], n)))
    }

    #[test]
    fn one_place_has_one_synthetic_address_as_long_as_it_is_known() {
        let mut table = Addresses::default();
        let now = Instant::ZERO;
        let a = table.synthetic(now, place(1));
        assert_eq!(table.synthetic(now, place(1)), a);
        assert_ne!(table.synthetic(now, place(2)), a);
    }

    #[test]
    fn a_connection_that_moves_takes_its_synthetic_address_with_it() {
        let mut table = Addresses::default();
        let now = Instant::ZERO;
        let [a, b] = [1, 2].map(|n| {
            let synthetic = table.synthetic(now, place(n));
            table.acquire(synthetic);
            synthetic
        });
        table.moved(a, place(3));
        assert_eq!(table.synthetic(now, place(3)), a);
        assert_eq!(table.synthetic(now, place(1)), a, "the place it left is still its");
        table.moved(a, place(2));
        assert_eq!(table.synthetic(now, place(2)), b, "another connection is there");
        // Only the last places are remembered, and all go with the entry.
        for n in 4..10 {
            table.moved(a, place(n));
        }
        assert_eq!(table.by_place.len(), PLACES_MAX + 1);
        table.release(now, a);
        table.synthetic(now + IDLE_KEPT + Duration::from_millis(1), place(99));
        assert_eq!(table.by_place.len(), 2);
    }

    #[test]
    fn a_flood_of_sources_evicts_unused_mappings_but_never_used_ones() {
        let mut table = Addresses::default();
        let now = Instant::ZERO;
        let used = table.synthetic(now, place(1));
        table.acquire(used);
        for port in 2..5_000 {
            table.synthetic(now, place(port));
        }
        assert_eq!(table.entries.len(), IDLE_MAX + 1);
        assert_eq!(table.synthetic(now, place(1)), used);
        table.release(now, used);
        assert_eq!((table.entries.len(), table.by_place.len()), (IDLE_MAX, IDLE_MAX));
    }

    #[test]
    fn what_nobody_used_for_a_minute_is_forgotten() {
        let mut table = Addresses::default();
        let used = table.synthetic(Instant::ZERO, place(1));
        table.acquire(used);
        table.synthetic(Instant::ZERO, place(2));
        table.synthetic(Instant::ZERO + IDLE_KEPT, place(3));
        assert_eq!(table.entries.len(), 3);
        table.synthetic(Instant::ZERO + IDLE_KEPT + Duration::from_millis(1), place(4));
        assert_eq!(table.entries.len(), 3);
        assert_eq!(table.synthetic(Instant::ZERO + IDLE_KEPT, place(1)), used);
    }
}
