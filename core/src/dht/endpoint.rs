//! Which addresses of others may be published, believed and dialled.
//!
//! Addresses in records, topics and hints are written by strangers. Whoever dials whatever they are told becomes a
//! weapon against the told address, so: never port 0, never multicast, broadcast or unspecified; loopback and private
//! ranges only where the node's own configuration says that it lives in a private network.

use std::net::{IpAddr, SocketAddr};

/// Where an address means something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// Everywhere.
    Public,
    /// Within one site: RFC 1918, RFC 6598 (carrier NAT), RFC 3927/4291 link-local, RFC 4193.
    Private,
    /// Within one machine.
    Loopback,
    /// Nowhere: no unicast address, or port 0.
    Never,
}

/// The scope of an address.
pub fn scope(addr: SocketAddr) -> Scope {
    if addr.port() == 0 {
        return Scope::Never;
    }
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            if ip.is_loopback() {
                Scope::Loopback
            } else if a == 0 || a >= 224 {
                Scope::Never
            } else if ip.is_private() || ip.is_link_local() || (a == 100 && b & 0xc0 == 64) {
                Scope::Private
            } else {
                Scope::Public
            }
        }
        IpAddr::V6(ip) => {
            if ip.is_loopback() {
                Scope::Loopback
            } else if ip.is_unspecified() || ip.is_multicast() {
                Scope::Never
            } else if ip.is_unique_local() || ip.is_unicast_link_local() {
                Scope::Private
            } else {
                Scope::Public
            }
        }
    }
}

/// Whether an address told by others may be used at all; `private_networks` is the node's own configuration.
pub fn usable(addr: SocketAddr, private_networks: bool) -> bool {
    match scope(addr) {
        Scope::Public => true,
        Scope::Private | Scope::Loopback => private_networks,
        Scope::Never => false,
    }
}

/// An address in 18 bytes, IPv4 as IPv6: for tables that remember many. Scope and flow of IPv6 are not kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Packed([u8; 18]);

impl From<SocketAddr> for Packed {
    fn from(addr: SocketAddr) -> Self {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&ip.octets());
        bytes[16..].copy_from_slice(&addr.port().to_be_bytes());
        Self(bytes)
    }
}

impl From<Packed> for SocketAddr {
    /// In canonical form.
    fn from(Packed(bytes): Packed) -> Self {
        let [ip @ .., high, low] = bytes;
        SocketAddr::new(IpAddr::from(ip).to_canonical(), u16::from_be_bytes([high, low]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_address_is_the_address_in_canonical_form() {
        for text in ["8.8.8.8:1", "[2001:db8::1]:65535", "[::1]:9", "0.0.0.0:0"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Packed::from(addr)), addr);
        }
        let dressed: SocketAddr = "[::ffff:127.0.0.1]:9".parse().unwrap();
        assert_eq!(SocketAddr::from(Packed::from(dressed)), "127.0.0.1:9".parse().unwrap());
    }

    #[test]
    fn every_range_has_its_scope() {
        let cases = [
            ("8.8.8.8:1", Scope::Public),
            ("8.8.8.8:0", Scope::Never),
            ("10.1.2.3:9", Scope::Private),
            ("172.31.0.1:9", Scope::Private),
            ("192.168.0.1:9", Scope::Private),
            ("100.64.0.1:9", Scope::Private),
            ("100.128.0.1:9", Scope::Public),
            ("169.254.1.1:9", Scope::Private),
            ("127.3.2.1:9", Scope::Loopback),
            ("0.0.0.0:9", Scope::Never),
            ("224.0.0.1:9", Scope::Never),
            ("255.255.255.255:9", Scope::Never),
            ("[2001:db8::1]:9", Scope::Public),
            ("[::1]:9", Scope::Loopback),
            ("[::]:9", Scope::Never),
            ("[ff02::1]:9", Scope::Never),
            ("[fe80::1]:9", Scope::Private),
            ("[fd00::1]:9", Scope::Private),
            ("[::ffff:127.0.0.1]:9", Scope::Loopback),
            ("[::ffff:224.0.0.1]:9", Scope::Never),
        ];
        for (text, expected) in cases {
            assert_eq!(scope(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn only_our_own_configuration_opens_private_ranges() {
        assert!(!usable("10.0.0.1:9".parse().unwrap(), false));
        assert!(usable("10.0.0.1:9".parse().unwrap(), true));
        assert!(!usable("[::1]:9".parse().unwrap(), false));
        assert!(!usable("224.0.0.1:9".parse().unwrap(), true));
    }
}
