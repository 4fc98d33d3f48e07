//! What a machine may be connected through, and what should be observable of it.
//!
//! The kernel's connection tracking is the translator. What it is like decides how each kind is made:
//! - `masquerade` keeps the port as long as the resulting tuple is free, so its mapping is endpoint-independent, and it
//!   lets in exactly those endpoints that were sent to: *port-restricted*.
//! - `masquerade fully-random` takes a new port for each destination: *symmetric*.
//! - Wider filtering needs a memory beside connection tracking: a map from outer ports to inner endpoints, and a set of
//!   addresses that were sent to, both kept by rules behind the translation, where the outer port is known. Packets of
//!   strangers are then translated (`dnat`) by the map: all of them (*full cone*), or those of the set (*restricted*).
//! - A packet of a stranger that is *not* let in must be dropped before it is confirmed as a connection: otherwise the
//!   tuple counts as taken, and the insider's own packet to that stranger gets another port, which makes hole punching
//!   impossible. Routers that drop on their outer side, as home routers do, do not have this problem; so do these here.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// For whom something counts, as RFC 4787 has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependence {
    /// The same for every remote endpoint.
    Independent,
    /// By the remote address.
    Address,
    /// By the remote address and port.
    AddressAndPort,
}

/// A kind of connection to the internet. Names as in the simulator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A public address.
    Open,
    /// Endpoint-independent mapping, lets everybody in.
    FullCone,
    /// Endpoint-independent mapping, lets in addresses that were sent to.
    RestrictedCone,
    /// Endpoint-independent mapping, lets in endpoints that were sent to.
    PortRestricted,
    /// A random port for each destination.
    SymmetricRandom,
    /// A port-restricted home behind a port-restricted carrier.
    DoubleNat,
    /// No UDP gets out; TCP does.
    UdpBlocked,
    /// A public address behind a firewall that lets in answers only.
    OutboundOnly,
    /// A public IPv6 address behind such a firewall, beside IPv4 behind a symmetric translator.
    Ipv6,
    /// A port-restricted home behind a full-cone carrier that turns around what its customers send to each other.
    CarrierHairpin,
    /// A port-restricted home behind a port-restricted carrier that does not.
    CarrierPlain,
}

impl Kind {
    /// All that can stand anywhere; the two carriers are met in pairs.
    pub const ALONE: [Kind; 9] = [
        Kind::Open,
        Kind::FullCone,
        Kind::RestrictedCone,
        Kind::PortRestricted,
        Kind::SymmetricRandom,
        Kind::DoubleNat,
        Kind::UdpBlocked,
        Kind::OutboundOnly,
        Kind::Ipv6,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Open => "open",
            Kind::FullCone => "full-cone",
            Kind::RestrictedCone => "restricted-cone",
            Kind::PortRestricted => "port-restricted",
            Kind::SymmetricRandom => "symmetric-random",
            Kind::DoubleNat => "double-nat",
            Kind::UdpBlocked => "udp-blocked",
            Kind::OutboundOnly => "outbound-only",
            Kind::Ipv6 => "ipv6",
            Kind::CarrierHairpin => "carrier-hairpin",
            Kind::CarrierPlain => "carrier-plain",
        }
    }

    /// Its translators on IPv4, from the host outwards.
    pub fn chain(self) -> Vec<Nat> {
        let restricted = Nat::default();
        let cone = |filtering| Nat { filtering, ..Nat::default() };
        match self {
            Kind::Open | Kind::OutboundOnly => Vec::new(),
            Kind::FullCone => vec![Nat { hairpin: true, ..cone(Dependence::Independent) }],
            Kind::RestrictedCone => vec![cone(Dependence::Address)],
            Kind::PortRestricted => vec![restricted],
            Kind::SymmetricRandom | Kind::Ipv6 => vec![Nat { random: true, ..restricted }],
            Kind::DoubleNat | Kind::CarrierPlain => vec![restricted; 2],
            Kind::UdpBlocked => vec![Nat { udp: false, ..restricted }],
            Kind::CarrierHairpin => {
                vec![restricted, Nat { hairpin: true, ..cone(Dependence::Independent) }]
            }
        }
    }
}

/// One translator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nat {
    /// A random port for each destination, instead of the inner port for all of them.
    pub random: bool,
    /// Who is let in. Wider than by address and port only with a mapping that is not random.
    pub filtering: Dependence,
    /// What insiders send to its outer address is turned around; only without filtering.
    pub hairpin: bool,
    /// UDP is let through.
    pub udp: bool,
}

impl Default for Nat {
    fn default() -> Self {
        Self { random: false, filtering: Dependence::AddressAndPort, hairpin: false, udp: true }
    }
}

/// Where a translator stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stand {
    /// Its outer address, on the interface `wan`.
    pub outer: Ipv4Addr,
    /// Those inside: an address and the bits of its prefix. Everything that is not `wan` is inside.
    pub inner: (Ipv4Addr, u8),
}

impl Nat {
    /// The rules for `nft -f`, replacing those that are there.
    pub fn rules(&self, stand: Stand) -> String {
        let Stand { outer, inner: (inner, bits) } = stand;
        let mut rules = String::from("table ip nat\ndelete table ip nat\ntable ip nat {\n");
        let mut line = |text: &str| {
            let _never = writeln!(rules, "  {text}");
        };
        line(
            "map mapped { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 3m; size 65535; }",
        );
        line(
            "set contacted { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 3m; size 65535; }",
        );
        line("chain prerouting { type nat hook prerouting priority dstnat; policy accept;");
        let strangers = match self.filtering {
            Dependence::Independent => Some(""),
            Dependence::Address => Some("ip saddr . udp dport @contacted"),
            Dependence::AddressAndPort => None,
        };
        if let Some(strangers) = strangers {
            let from = if self.hairpin { "" } else { "iifname wan" };
            line(&format!(
                "{from} ip daddr {outer} meta l4proto udp {strangers} dnat ip to udp dport map @mapped"
            ));
        }
        line("}");
        line("chain postrouting { type nat hook postrouting priority srcnat; policy accept;");
        if self.hairpin {
            line(&format!("ip saddr {inner}/{bits} oifname != wan ct status dnat snat to {outer}"));
        }
        line(if self.random { "oifname wan masquerade fully-random" } else { "oifname wan masquerade" });
        line("}");
        if strangers.is_some() {
            line("chain translated { type filter hook postrouting priority 300; policy accept;");
            for (direction, tuple) in [("original", "original"), ("reply", "reply")] {
                line(&format!(
                    "oifname wan meta l4proto udp ct direction {direction} update @contacted {{ ip daddr . udp sport }} \
                     update @mapped {{ udp sport : ct {tuple} ip saddr . ct {tuple} proto-src }}"
                ));
            }
            line("}");
        }
        line("chain input { type filter hook input priority filter; policy accept;");
        line("iifname wan ct state new drop");
        line("}");
        line("chain forward { type filter hook forward priority filter; policy drop;");
        if !self.udp {
            line("meta l4proto udp drop");
        }
        line("ct state established,related accept");
        line("ct status dnat accept");
        line("oifname wan accept");
        line("}");
        rules.push_str("}\n");
        rules
    }
}

/// Rules of a firewall that lets in answers only, for what comes through interface `from`: to the machine itself, or
/// beyond it.
pub fn firewall(from: &str) -> String {
    let mut rules = String::from("table inet firewall\ndelete table inet firewall\ntable inet firewall {\n");
    for hook in ["input", "forward"] {
        let _never = writeln!(
            rules,
            "  chain {hook} {{ type filter hook {hook} priority filter; policy accept;\n    \
             icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert, packet-too-big }} accept\n    \
             iifname {from} ct state new drop\n  }}"
        );
    }
    rules.push_str("}\n");
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filtering_decides_what_becomes_of_strangers() {
        let stand = Stand { outer: Ipv4Addr::new(198, 18, 1, 2), inner: (Ipv4Addr::new(192, 168, 1, 0), 24) };
        let rules = |filtering| Nat { filtering, ..Nat::default() }.rules(stand);
        assert!(!rules(Dependence::AddressAndPort).contains("dnat ip to"));
        assert!(rules(Dependence::Address).contains("@contacted dnat ip to udp dport map @mapped"));
        assert!(
            rules(Dependence::Independent).contains("meta l4proto udp  dnat ip to udp dport map @mapped")
        );
        assert!(!rules(Dependence::Independent).contains("snat to"));
        let hairpin =
            Nat { filtering: Dependence::Independent, hairpin: true, ..Nat::default() }.rules(stand);
        assert!(hairpin.contains("ip saddr 192.168.1.0/24 oifname != wan ct status dnat snat to 198.18.1.2"));
    }
}
