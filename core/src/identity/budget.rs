//! How often strangers' addresses may be dialled.
//!
//! Records, topics and exchanges are written by anybody, so a crowd of nodes could be made to knock at a victim's door.
//! Whoever tells however many addresses of one network (a /24 of IPv4, a /64 of IPv6), this node sends at most eight
//! first packets a minute there. Local networks are exempt: they are dialled only where the node's own configuration
//! says so, and there the neighbours *are* the network.

use crate::dht::endpoint::{Scope, scope};
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// Dials into one network per [`WINDOW`].
pub const DIALS_PER_NETWORK: usize = 8;
/// The window.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Networks remembered; when all are within their window, further networks wait.
pub const NETWORKS_MAX: usize = 1_024;

/// The first 24 bits of an IPv4 address or 64 of an IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Network {
    V4([u8; 3]),
    V6([u16; 4]),
}

fn network(addr: SocketAddr) -> Option<Network> {
    if scope(addr) != Scope::Public {
        return None;
    }
    Some(match addr.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            Network::V4([a, b, c])
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Network::V6([a, b, c, d])
        }
    })
}

/// The dials of the last minute.
#[derive(Clone, Debug, Default)]
pub struct DialBudget {
    dials: BTreeMap<Network, VecDeque<Instant>>,
}

impl DialBudget {
    /// Until when `addr` has to wait; `None`: it may be dialled now.
    pub fn waits_until(&self, now: Instant, addr: SocketAddr) -> Option<Instant> {
        let network = network(addr)?;
        let free_at = match self.dials.get(&network) {
            Some(dials) if dials.len() >= DIALS_PER_NETWORK => *dials.front()? + WINDOW,
            Some(_) => return None,
            None if self.dials.len() < NETWORKS_MAX => return None,
            None => self.dials.values().filter_map(VecDeque::back).min().copied()? + WINDOW,
        };
        (free_at > now).then_some(free_at)
    }

    /// `addr` is dialled now.
    pub fn spend(&mut self, now: Instant, addr: SocketAddr) {
        let Some(network) = network(addr) else { return };
        if self.dials.len() >= NETWORKS_MAX {
            self.dials.retain(|_, dials| dials.back().is_some_and(|at| *at + WINDOW > now));
        }
        let dials = self.dials.entry(network).or_default();
        dials.push_back(now);
        while dials.len() > DIALS_PER_NETWORK {
            dials.pop_front();
        }
    }

    /// Networks remembered.
    pub fn len(&self) -> usize {
        self.dials.len()
    }

    /// Whether nothing was dialled lately.
    pub fn is_empty(&self) -> bool {
        self.dials.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_millis(1_000_000);

    fn v4(c: u8, d: u8) -> SocketAddr {
        ([203, 0, c, d], 9).into()
    }

    #[test]
    fn eight_dials_a_minute_go_into_one_network() {
        let mut b = DialBudget::default();
        for n in 0..8u8 {
            assert_eq!(b.waits_until(NOW, v4(1, n)), None);
            b.spend(NOW + Duration::from_secs(u64::from(n)), v4(1, n));
        }
        let now = NOW + Duration::from_secs(8);
        assert_eq!(b.waits_until(now, v4(1, 99)), Some(NOW + WINDOW));
        assert_eq!(b.waits_until(now, v4(2, 99)), None, "another network");
        assert_eq!(b.waits_until(NOW + WINDOW, v4(1, 99)), None);
        b.spend(NOW + WINDOW, v4(1, 99));
        assert_eq!(b.waits_until(NOW + WINDOW, v4(1, 98)), Some(NOW + WINDOW + Duration::from_secs(1)));
    }

    #[test]
    fn a_64_of_ipv6_is_one_network_and_a_mapped_address_is_ipv4() {
        let mut b = DialBudget::default();
        for n in 0..8u16 {
            b.spend(NOW, SocketAddr::from(([0x2001, 0xdb8, 0, 1, n, n, n, n], 9)));
            b.spend(NOW, "[::ffff:203.0.1.1]:9".parse().unwrap());
        }
        assert!(b.waits_until(NOW, "[2001:db8:0:1::77]:9".parse().unwrap()).is_some());
        assert!(b.waits_until(NOW, "[2001:db8:0:2::77]:9".parse().unwrap()).is_none());
        assert!(b.waits_until(NOW, v4(1, 7)).is_some());
    }

    #[test]
    fn local_networks_have_no_budget() {
        let mut b = DialBudget::default();
        let local: SocketAddr = "127.0.0.1:9".parse().unwrap();
        for _ in 0..100 {
            b.spend(NOW, local);
        }
        assert_eq!((b.waits_until(NOW, local), b.len()), (None, 0));
    }

    #[test]
    fn networks_are_bounded_and_a_new_one_waits_for_the_first_to_leave() {
        let mut b = DialBudget::default();
        for n in 0..NETWORKS_MAX as u32 {
            let [_, _, c, d] = n.to_be_bytes();
            b.spend(NOW + Duration::from_millis(u64::from(n)), SocketAddr::from(([11, c, d, 1], 9)));
        }
        let now = NOW + Duration::from_secs(10);
        assert_eq!(b.waits_until(now, v4(1, 1)), Some(NOW + WINDOW));
        b.spend(NOW + WINDOW, v4(1, 1));
        assert_eq!(b.len(), NETWORKS_MAX);
    }
}
