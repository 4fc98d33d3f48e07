//! Which addresses of this machine others may try.
//!
//! All of all interfaces, but for those that lead nowhere from elsewhere: link-local ones of IPv6 need the name of the
//! other side's interface, loopback ones mean the other machine itself. In a private network that may all be on one
//! machine, loopback counts; and it is better than nothing where there is nothing else.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Addresses told to the core at the most. Machines with hundreds of containers have hundreds of bridges.
pub const LOCAL_ADDRS_MAX: usize = 32;

/// How good an address is: the best come first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Public,
    Private,
    LinkLocal,
    Loopback,
}

fn class(ip: IpAddr) -> Option<Class> {
    let (private, link_local) = match ip {
        IpAddr::V4(ip) if ip.is_broadcast() => return None,
        // 100.64.0.0/10 are the addresses between a carrier's NAT and its customers (RFC 6598).
        IpAddr::V4(ip) => (ip.is_private() || is_shared(ip.octets()), ip.is_link_local()),
        IpAddr::V6(ip) if ip.is_unicast_link_local() => return None,
        IpAddr::V6(ip) => (ip.is_unique_local(), false),
    };
    if ip.is_unspecified() || ip.is_multicast() {
        None
    } else if ip.is_loopback() {
        Some(Class::Loopback)
    } else if link_local {
        Some(Class::LinkLocal)
    } else if private {
        Some(Class::Private)
    } else {
        Some(Class::Public)
    }
}

fn is_shared([first, second, ..]: [u8; 4]) -> bool {
    first == 100 && (64..128).contains(&second)
}

/// Where a socket that is bound to `socket` can be reached, out of the addresses of all interfaces.
pub(super) fn choose(
    found: impl IntoIterator<Item = IpAddr>,
    socket: SocketAddr,
    private_network: bool,
) -> Vec<SocketAddr> {
    let port = socket.port();
    let bound = socket.ip().to_canonical();
    if !bound.is_unspecified() {
        return vec![SocketAddr::new(bound, port)];
    }
    let ranked: BTreeSet<(Class, IpAddr)> = found
        .into_iter()
        .map(|ip| ip.to_canonical())
        // A socket of IPv6 carries IPv4 too.
        .filter(|ip| bound.is_ipv6() || ip.is_ipv4())
        .filter_map(|ip| Some((class(ip)?, ip)))
        .collect();
    let lonely = ranked.first().is_none_or(|(best, _)| *best == Class::Loopback);
    ranked
        .into_iter()
        .filter(|(class, _)| *class != Class::Loopback || lonely || private_network)
        .map(|(_, ip)| SocketAddr::new(ip, port))
        .take(LOCAL_ADDRS_MAX)
        .collect()
}

/// The addresses of all interfaces that are up.
pub(super) fn list() -> io::Result<Vec<IpAddr>> {
    let all = if_addrs::get_if_addrs()?;
    Ok(all.iter().filter(|interface| interface.is_oper_up()).map(if_addrs::Interface::ip).collect())
}

/// Where a socket bound to `socket` can be reached now.
pub fn usable_here(socket: SocketAddr, private_network: bool) -> io::Result<Vec<SocketAddr>> {
    Ok(choose(list()?, socket, private_network))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(found: &[&str], socket: &str, private_network: bool) -> Vec<String> {
        let found: Vec<IpAddr> = found.iter().map(|ip| ip.parse().unwrap()).collect();
        choose(found, socket.parse().unwrap(), private_network).iter().map(ToString::to_string).collect()
    }

    const HOST: &[&str] = &[
        "127.0.0.1",
        "::1",
        "192.168.1.7",
        "fe80::1",
        "2001:db8::7",
        "fd00::7",
        "169.254.3.3",
        "198.51.100.4",
    ];

    #[test]
    fn all_that_lead_here_from_elsewhere_the_best_first() {
        let all = ["198.51.100.4:9", "[2001:db8::7]:9", "192.168.1.7:9", "[fd00::7]:9", "169.254.3.3:9"];
        assert_eq!(chosen(HOST, "[::]:9", false), all);
        let own: Vec<&str> = all.into_iter().filter(|a| !a.contains('[')).collect();
        assert_eq!(chosen(HOST, "0.0.0.0:9", false), own);
    }

    #[test]
    fn loopback_counts_in_a_private_network_and_where_there_is_nothing_else() {
        assert_eq!(chosen(&["127.0.0.1", "10.0.0.1"], "0.0.0.0:9", true), ["10.0.0.1:9", "127.0.0.1:9"]);
        assert_eq!(chosen(&["127.0.0.1", "::1", "fe80::1"], "[::]:9", false), ["127.0.0.1:9", "[::1]:9"]);
        assert_eq!(chosen(&[], "[::]:9", false), [""; 0]);
    }

    #[test]
    fn a_socket_bound_to_one_address_is_there_and_nowhere_else() {
        assert_eq!(chosen(HOST, "192.168.1.7:9", false), ["192.168.1.7:9"]);
        assert_eq!(chosen(HOST, "[::ffff:192.168.1.7]:9", false), ["192.168.1.7:9"]);
        assert_eq!(chosen(&[], "127.0.0.1:9", false), ["127.0.0.1:9"]);
    }

    #[test]
    fn what_is_told_is_bounded_and_names_nothing_twice() {
        let many: Vec<IpAddr> = (0..500u16).map(|i| IpAddr::from([10, 0, (i >> 8) as u8, i as u8])).collect();
        let socket = "0.0.0.0:9".parse().unwrap();
        assert_eq!(choose(many, socket, false).len(), LOCAL_ADDRS_MAX);
        assert_eq!(chosen(&["10.0.0.1", "::ffff:10.0.0.1"], "[::]:9", false), ["10.0.0.1:9"]);
        assert_eq!(
            chosen(&["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"], "[::]:9", true),
            [""; 0]
        );
    }

    #[test]
    fn this_machine_has_addresses() {
        let socket = "[::]:9".parse().unwrap();
        let here = usable_here(socket, true).unwrap();
        assert!(!here.is_empty() && here.iter().all(|a| a.port() == 9), "{here:?}");
    }
}
