//! The lab's internet: one namespace that routes, machines with public addresses on it, and homes behind translators.
//!
//! Everybody hangs on a network of their own (`198.18.n.0/24`, the range of RFC 2544, and `2001:db8:n::/64`); the public
//! machines have addresses of the three documentation networks, so that they observe from different ones. Inside, homes
//! use `192.168.1.0/24`, all of them the same, as homes do; carriers use `100.64.0.0/10`.

use crate::kind::{Kind, Nat, Stand, firewall};
use crate::netns::{LabError, Netns, World};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The internet and all that hangs on it.
pub struct Internet {
    /// The namespaces.
    pub world: World,
    core: Netns,
    networks: u8,
}

/// A machine that nodes run on.
#[derive(Clone, Debug)]
pub struct Host {
    /// For people.
    pub name: String,
    /// Where it is.
    pub netns: Netns,
    /// Its own IPv4 address.
    pub own: Ipv4Addr,
    /// Its own public IPv6 address.
    pub own6: Option<Ipv6Addr>,
}

/// A place in the internet with its boxes, into which hosts are plugged.
#[derive(Clone, Debug)]
pub struct Home {
    /// What it is.
    pub kind: Kind,
    /// The address under which the world sees those inside.
    pub outer: Ipv4Addr,
    /// From the inside outwards. Whoever is plugged into the first is on its interface `lan`: a cable and no bridge,
    /// because the kernel may let bridged packets through translation halfway (`br_netfilter`).
    boxes: Vec<Router>,
    own6: Option<Ipv6Addr>,
}

#[derive(Clone, Debug)]
struct Router {
    netns: Netns,
    nat: Nat,
    stand: Stand,
}

/// A carrier's translator that several homes share.
#[derive(Clone, Debug)]
pub struct Carrier {
    router: Router,
    kind: Kind,
    homes: u8,
}

impl Internet {
    /// An empty one.
    pub fn new() -> Result<Self, LabError> {
        let mut world = World::new()?;
        let core = world.namespace("internet")?;
        forward(&core)?;
        core.nft(
            "table inet core {\n set cut4 { type ipv4_addr . ipv4_addr; }\n set cut6 { type ipv6_addr . ipv6_addr; }\n \
             set big4 { type ipv4_addr . ipv4_addr; flags dynamic; size 65535; }\n \
             set big6 { type ipv6_addr . ipv6_addr; flags dynamic; size 65535; }\n \
             chain forward { type filter hook forward priority filter; policy accept;\n \
             ip saddr . ip daddr @cut4 drop\n ip6 saddr . ip6 daddr @cut6 drop\n \
             meta l4proto udp meta length > 1000 add @big4 { ip saddr . ip daddr }\n \
             meta l4proto udp meta length > 1000 add @big6 { ip6 saddr . ip6 daddr }\n }\n}\n",
        )?;
        Ok(Self { world, core, networks: 0 })
    }

    /// A machine with a public address in a /24 of its own.
    pub fn public(&mut self, name: &str, own: Ipv4Addr) -> Result<Host, LabError> {
        let netns = self.world.namespace(name)?;
        let own6 = self.hang(&netns, "eth0", own)?;
        Ok(Host { name: name.to_owned(), netns, own, own6: Some(own6) })
    }

    /// The three public machines that every experiment has: two relays and one more, in three networks.
    pub fn publics(&mut self) -> Result<[Host; 3], LabError> {
        Ok([
            self.public("relay-1", Ipv4Addr::new(203, 0, 113, 10))?,
            self.public("relay-2", Ipv4Addr::new(198, 51, 100, 10))?,
            self.public("seed-3", Ipv4Addr::new(192, 0, 2, 10))?,
        ])
    }

    /// A home of its own.
    pub fn home(&mut self, name: &str, kind: Kind) -> Result<Home, LabError> {
        self.networks += 1;
        self.home_at(name, kind, Ipv4Addr::new(198, 18, self.networks, 2))
    }

    /// A home of its own with the given address outside, in a /24 of its own.
    pub fn home_at(&mut self, name: &str, kind: Kind, outer: Ipv4Addr) -> Result<Home, LabError> {
        match kind {
            Kind::Open | Kind::OutboundOnly => Ok(Home { kind, outer, boxes: Vec::new(), own6: None }),
            Kind::DoubleNat | Kind::CarrierHairpin | Kind::CarrierPlain => {
                let mut carrier = self.carrier_at(name, kind, outer)?;
                self.home_of(name, &mut carrier)
            }
            Kind::FullCone
            | Kind::RestrictedCone
            | Kind::PortRestricted
            | Kind::SymmetricRandom
            | Kind::UdpBlocked
            | Kind::Ipv6 => {
                let nat = kind.chain().first().copied().unwrap_or_default();
                let netns = self.world.namespace(&format!("{name}-router"))?;
                let wan6 = self.hang(&netns, "wan", outer)?;
                let router = lan(&netns, nat, outer)?;
                let own6 = match kind {
                    Kind::Ipv6 => Some(self.lan6(&netns, wan6)?),
                    _ => None,
                };
                Ok(Home { kind, outer, boxes: vec![router], own6 })
            }
        }
    }

    /// A carrier's translator.
    pub fn carrier(&mut self, name: &str, kind: Kind) -> Result<Carrier, LabError> {
        self.networks += 1;
        self.carrier_at(name, kind, Ipv4Addr::new(198, 18, self.networks, 2))
    }

    fn carrier_at(&mut self, name: &str, kind: Kind, outer: Ipv4Addr) -> Result<Carrier, LabError> {
        let nat = kind.chain().last().copied().unwrap_or_default();
        let netns = self.world.namespace(&format!("{name}-carrier"))?;
        self.hang(&netns, "wan", outer)?;
        forward(&netns)?;
        let stand = Stand { outer, inner: (Ipv4Addr::new(100, 64, 0, 0), 10) };
        let router = Router { netns, nat, stand };
        router.apply()?;
        Ok(Carrier { router, kind, homes: 0 })
    }

    /// A home behind a carrier.
    pub fn home_of(&mut self, name: &str, carrier: &mut Carrier) -> Result<Home, LabError> {
        carrier.homes += 1;
        let n = carrier.homes;
        let netns = self.world.namespace(&format!("{name}-router"))?;
        let inside = format!("customer{n}");
        self.world.cable((&netns, "wan"), (&carrier.router.netns, &inside))?;
        let (theirs, ours) = (Ipv4Addr::new(100, 64, n, 1), Ipv4Addr::new(100, 64, n, 2));
        carrier.router.netns.ip(&[format!("address add {theirs}/24 dev {inside}")])?;
        netns.ip(&[format!("address add {ours}/24 dev wan"), format!("route add default via {theirs}")])?;
        let nat = carrier.kind.chain().first().copied().unwrap_or_default();
        let router = lan(&netns, nat, ours)?;
        let boxes = vec![router, carrier.router.clone()];
        Ok(Home { kind: carrier.kind, outer: carrier.router.stand.outer, boxes, own6: None })
    }

    /// The machine of a home: one at a time.
    pub fn host(&mut self, name: &str, home: &Home, octet: u8) -> Result<Host, LabError> {
        let netns = self.world.namespace(name)?;
        self.plug(name, netns, home, octet)
    }

    /// Pulls a machine's cable and plugs it in at another home.
    pub fn roam(&mut self, host: &Host, home: &Home, octet: u8) -> Result<Host, LabError> {
        host.netns.ip(&["link delete eth0".into()])?;
        self.plug(&host.name, host.netns.clone(), home, octet)
    }

    fn plug(&mut self, name: &str, netns: Netns, home: &Home, octet: u8) -> Result<Host, LabError> {
        let Some(router) = home.boxes.first() else {
            let own6 = self.hang(&netns, "eth0", home.outer)?;
            if home.kind == Kind::OutboundOnly {
                netns.nft(&firewall("eth0"))?;
            }
            // The place is about IPv4.
            netns.ip(&[format!("address delete {own6}/64 dev eth0")])?;
            return Ok(Host { name: name.to_owned(), netns, own: home.outer, own6: None });
        };
        self.world.cable((&netns, "eth0"), (&router.netns, "lan"))?;
        let mut lines = vec!["address add 192.168.1.1/24 dev lan".to_owned()];
        lines.extend(home.own6.map(|gateway| format!("address add {gateway}/64 dev lan nodad")));
        router.netns.ip(&lines)?;
        let own = Ipv4Addr::new(192, 168, 1, octet);
        let mut lines =
            vec![format!("address add {own}/24 dev eth0"), "route add default via 192.168.1.1".to_owned()];
        let own6 = home.own6.map(|net| {
            let mut segments = net.segments();
            segments[7] = octet.into();
            Ipv6Addr::from(segments)
        });
        if let (Some(own6), Some(gateway)) = (own6, home.own6) {
            lines.push(format!("address add {own6}/64 dev eth0 nodad"));
            lines.push(format!("route add default via {gateway}"));
        }
        netns.ip(&lines)?;
        Ok(Host { name: name.to_owned(), netns, own, own6 })
    }

    /// Hangs a namespace on the internet with an IPv4 address, and an IPv6 address that follows from the network's
    /// number; returns the latter.
    fn hang(&mut self, netns: &Netns, device: &str, own: Ipv4Addr) -> Result<Ipv6Addr, LabError> {
        let n = self.world.next_cable();
        let here = format!("net{n}");
        self.world.cable((netns, device), (&self.core, &here))?;
        let [a, b, c, _] = own.octets();
        let gateway = Ipv4Addr::new(a, b, c, 1);
        let number = u16::from_be_bytes([b, c]);
        let net6 = |host: u16| Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, host);
        self.core.ip(&[
            format!("address add {gateway}/24 dev {here}"),
            format!("address add {}/64 dev {here} nodad", net6(1)),
        ])?;
        netns.ip(&[
            format!("address add {own}/24 dev {device}"),
            format!("route add default via {gateway}"),
            format!("address add {}/64 dev {device} nodad", net6(2)),
            format!("route add default via {}", net6(1)),
        ])?;
        Ok(net6(2))
    }

    /// Gives a router an IPv6 network for its LAN, behind a firewall; its own address in it.
    fn lan6(&mut self, netns: &Netns, wan6: Ipv6Addr) -> Result<Ipv6Addr, LabError> {
        let [a, b, number, ..] = wan6.segments();
        let net = Ipv6Addr::new(a, b, number, 1, 0, 0, 0, 0);
        let gateway = Ipv6Addr::new(a, b, number, 1, 0, 0, 0, 1);
        netns.nft(&firewall("wan"))?;
        self.core.ip(&[format!("route add {net}/64 via {wan6}")])?;
        Ok(gateway)
    }

    /// Cuts or mends the way between two public addresses, in both directions.
    pub fn cut(&self, a: IpAddr, b: IpAddr, cut: bool) -> Result<(), LabError> {
        let verb = if cut { "add" } else { "delete" };
        let set = match (a, b) {
            (IpAddr::V4(_), IpAddr::V4(_)) => "cut4",
            (IpAddr::V6(_), IpAddr::V6(_)) => "cut6",
            _ => return Err(LabError::strange("nothing goes between IPv4 and IPv6")),
        };
        self.core.nft(&format!("{verb} element inet core {set} {{ {a} . {b}, {b} . {a} }}\n"))
    }

    /// Whether it has carried a datagram of more than a thousand bytes from one of these to one of those.
    pub fn has_carried(&self, from: &[IpAddr], to: &[IpAddr]) -> bool {
        let carried = |from: &IpAddr, to: &IpAddr| {
            let set = match (from, to) {
                (IpAddr::V4(_), IpAddr::V4(_)) => "big4",
                (IpAddr::V6(_), IpAddr::V6(_)) => "big6",
                _ => return false,
            };
            let element = format!("{{ {from} . {to} }}");
            // What is not in the set is an error.
            self.core.tool("nft", &["get", "element", "inet", "core", set, &element], None).is_ok()
        };
        from.iter().any(|from| to.iter().any(|to| carried(from, to)))
    }

    /// Limits what the internet sends to the network of a public address.
    pub fn limit(&self, to: Ipv4Addr, mbit: u32) -> Result<(), LabError> {
        let route = self.core.tool("ip", &["-o", "route", "get", &to.to_string()], None)?;
        let device = route.split_whitespace().skip_while(|w| *w != "dev").nth(1);
        let device = device.ok_or_else(|| LabError::strange(format!("no route to {to}")))?;
        // Twenty milliseconds of queue at 100 Mbit/s; netem, which would add delay, is not in every kernel.
        let rate = format!("{mbit}mbit");
        self.core
            .tool(
                "tc",
                &[
                    "qdisc", "replace", "dev", device, "root", "tbf", "rate", &rate, "burst", "128k",
                    "limit", "384k",
                ],
                None,
            )
            .map(|_| ())
    }
}

impl Home {
    /// All its translators forget everything, as after a power cut.
    pub fn reboot(&self) -> Result<(), LabError> {
        for router in &self.boxes {
            router.apply()?;
            router.netns.tool("conntrack", &["-F"], None)?;
        }
        Ok(())
    }

    /// The namespace of the router that hosts are plugged into.
    pub fn router(&self) -> Option<&Netns> {
        self.boxes.first().map(|r| &r.netns)
    }
}

impl Router {
    fn apply(&self) -> Result<(), LabError> {
        self.netns.nft(&self.nat.rules(self.stand))
    }
}

/// Makes a namespace with a `wan` into a home router; its `lan` comes with the cable of whoever is plugged in.
fn lan(netns: &Netns, nat: Nat, outer: Ipv4Addr) -> Result<Router, LabError> {
    forward(netns)?;
    let router = Router {
        netns: netns.clone(),
        nat,
        stand: Stand { outer, inner: (Ipv4Addr::new(192, 168, 1, 0), 24) },
    };
    router.apply()?;
    Ok(router)
}

fn forward(netns: &Netns) -> Result<(), LabError> {
    netns.sysctl("ipv4/ip_forward", "1")?;
    netns.sysctl("ipv4/conf/all/send_redirects", "0")?;
    netns.sysctl("ipv6/conf/all/forwarding", "1")
}
