//! Boxes between networks: address translators and firewalls, as the field describes and measures them.
//!
//! A translator (NAT) is described in the terms of RFC 4787: how long a *mapping* from an inner address to an outer one
//! holds for different destinations, whom its *filtering* lets in, how outer ports are *allocated*, whether it turns
//! around what insiders send to its outer addresses (*hairpin*), when a mapping that is not used is forgotten and what
//! counts as use. A firewall translates nothing and lets in only answers. A box may also let no UDP through at all.
//!
//! The model is the behaviour, not any vendor's code: integers only, random choices from the world's own dice, every
//! table bounded. A full table refuses newcomers as real ones do; it never forgets the living.
//!
//! What follows from these properties for two hosts who want to meet is judged elsewhere, without this code.

mod firewall;
mod kinds;
mod translator;

#[cfg(test)]
mod laws;

use crate::draw::Draw;
use firewall::Firewall;
pub use kinds::{Kind, POPULATION};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use translator::Translator;

/// Entries a box keeps unless told otherwise: the usual size of a home router's connection table. Mappings and those
/// let in through them count alike.
pub const ENTRIES_MAX: u32 = 16_384;

/// Expired entries of a full table are looked for once in so long: a flood must not make every packet a search.
const SWEEP_EVERY_NS: u64 = 1_000_000_000;

/// Ports that translators give out: the unprivileged ones.
pub const PORT_MIN: u16 = 1_024;

/// For whom something counts: everybody, an address, or an address with its port (RFC 4787, sections 4.1 and 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependence {
    /// The same for every remote endpoint (EIM, EIF).
    #[default]
    Independent,
    /// By the remote address (ADM, ADF).
    Address,
    /// By the remote address and port (APDM, APDF).
    AddressAndPort,
}

impl Dependence {
    /// All of them.
    pub const ALL: [Dependence; 3] =
        [Dependence::Independent, Dependence::Address, Dependence::AddressAndPort];

    /// What of a remote endpoint counts; the rest is blanked.
    const fn part_of(self, remote: SocketAddr) -> SocketAddr {
        match self {
            Dependence::Independent => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            Dependence::Address => SocketAddr::new(remote.ip(), 0),
            Dependence::AddressAndPort => remote,
        }
    }
}

/// How outer ports are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allocation {
    /// The inner port, and when that is taken the next free one above the last given out.
    #[default]
    Preserving,
    /// The last one given out plus this, and when that is taken the next after it.
    Sequential(u16),
    /// Any free one.
    Random,
}

/// What keeps a mapping alive (RFC 4787, REQ-6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refresh {
    /// What insiders send.
    #[default]
    Outbound,
    /// That, and what is let in.
    Both,
}

/// A translator's properties.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatSpec {
    /// What an outer port depends on.
    pub mapping: Dependence,
    /// Who is let in.
    pub filtering: Dependence,
    /// How outer ports are chosen.
    pub allocation: Allocation,
    /// Whether insiders reach each other by outer addresses.
    pub hairpin: bool,
    /// A mapping unused for longer is forgotten.
    pub lifetime_ms: u32,
    /// What counts as use.
    pub refresh: Refresh,
    /// Outer addresses; an insider always has the same one (paired pooling, REQ-2).
    pub addresses: u8,
    /// Mappings and permissions at once.
    pub entries_max: u32,
}

impl Default for NatSpec {
    /// What most homes have: endpoint-independent mapping, strict filtering, two minutes.
    fn default() -> Self {
        Self {
            mapping: Dependence::Independent,
            filtering: Dependence::AddressAndPort,
            allocation: Allocation::Preserving,
            hairpin: false,
            lifetime_ms: 120_000,
            refresh: Refresh::Outbound,
            addresses: 1,
            entries_max: ENTRIES_MAX,
        }
    }
}

/// A firewall's properties: what insiders did not ask for stays out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FirewallSpec {
    /// Who may answer what an insider sent.
    pub filtering: Dependence,
    /// A session unused for longer is forgotten.
    pub lifetime_ms: u32,
    /// What counts as use.
    pub refresh: Refresh,
    /// Sessions at once.
    pub entries_max: u32,
}

impl Default for FirewallSpec {
    /// The stateful firewall of RFC 6092: only the endpoint that was asked may answer.
    fn default() -> Self {
        Self {
            filtering: Dependence::AddressAndPort,
            lifetime_ms: 120_000,
            refresh: Refresh::Both,
            entries_max: ENTRIES_MAX,
        }
    }
}

/// What kind of box, with its properties.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxSpec {
    /// Translates addresses.
    Nat(NatSpec),
    /// Translates nothing, lets in answers only.
    Firewall(FirewallSpec),
    /// Translates nothing, lets no UDP through. TCP goes out.
    UdpBlocked,
}

impl BoxSpec {
    /// Whether those behind it have addresses of their own kind, unknown outside.
    pub const fn translates(&self) -> bool {
        match self {
            BoxSpec::Nat(_) => true,
            BoxSpec::Firewall(_) | BoxSpec::UdpBlocked => false,
        }
    }

    /// Outer addresses it has.
    pub const fn addresses(&self) -> u8 {
        match self {
            BoxSpec::Nat(spec) => {
                if spec.addresses == 0 {
                    1
                } else {
                    spec.addresses
                }
            }
            BoxSpec::Firewall(_) | BoxSpec::UdpBlocked => 0,
        }
    }
}

/// The head of a packet, as a box sees and changes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
}

/// What becomes of a packet that wants out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// It goes on outside.
    Out,
    /// It goes on inside: the box turned it around.
    Back,
    /// It ends here.
    Lost,
}

#[derive(Clone, Debug)]
enum Works {
    Translator(Translator),
    Firewall(Firewall),
    Nothing,
}

/// A box at work.
#[derive(Clone, Debug)]
pub struct Gate {
    spec: BoxSpec,
    works: Works,
    udp_blocked: bool,
}

impl Gate {
    /// A box with these outer addresses. A translator without any is one that lets nothing through.
    pub fn new(spec: BoxSpec, outside: Vec<IpAddr>, draw: Draw) -> Self {
        let works = match spec {
            BoxSpec::Nat(nat) => Works::Translator(Translator::new(nat, outside, draw)),
            BoxSpec::Firewall(firewall) => Works::Firewall(Firewall::new(firewall)),
            BoxSpec::UdpBlocked => Works::Nothing,
        };
        Self { spec, works, udp_blocked: spec == BoxSpec::UdpBlocked }
    }

    /// Its properties.
    pub fn spec(&self) -> &BoxSpec {
        &self.spec
    }

    /// Its outer addresses.
    pub fn outside(&self) -> &[IpAddr] {
        match &self.works {
            Works::Translator(nat) => nat.outside(),
            Works::Firewall(_) | Works::Nothing => &[],
        }
    }

    /// The outer address of an insider.
    pub fn outside_of(&self, inside: IpAddr) -> Option<IpAddr> {
        match &self.works {
            Works::Translator(nat) => nat.outside_of(inside),
            Works::Firewall(_) | Works::Nothing => None,
        }
    }

    /// Lets no UDP through from now on, or does again; one that never does is not changed.
    pub fn block_udp(&mut self, blocked: bool) {
        self.udp_blocked = blocked || self.spec == BoxSpec::UdpBlocked;
    }

    /// Whether it lets no UDP through.
    pub fn blocks_udp(&self) -> bool {
        self.udp_blocked
    }

    /// A packet wants out.
    pub fn outbound(&mut self, now_ns: u64, head: &mut Head) -> Way {
        match &mut self.works {
            _ if self.udp_blocked => Way::Lost,
            Works::Translator(nat) => nat.outbound(now_ns, head),
            Works::Firewall(firewall) => firewall.outbound(now_ns, head),
            Works::Nothing => Way::Lost,
        }
    }

    /// A packet wants in: whether it may, with its destination as insiders know it.
    pub fn inbound(&mut self, now_ns: u64, head: &mut Head) -> bool {
        match &mut self.works {
            _ if self.udp_blocked => false,
            Works::Translator(nat) => nat.inbound(now_ns, head),
            Works::Firewall(firewall) => firewall.inbound(now_ns, head),
            Works::Nothing => false,
        }
    }

    /// Power goes and comes: everything it remembered is gone.
    pub fn reboot(&mut self) {
        match &mut self.works {
            Works::Translator(nat) => nat.reboot(),
            Works::Firewall(firewall) => firewall.reboot(),
            Works::Nothing => {}
        }
    }

    /// Other outer addresses, and so a fresh start.
    pub fn readdress(&mut self, outside: Vec<IpAddr>) {
        if let Works::Translator(nat) = &mut self.works {
            nat.readdress(outside);
        }
    }

    /// Entries in its tables.
    pub fn entries(&self) -> usize {
        match &self.works {
            Works::Translator(nat) => nat.entries(),
            Works::Firewall(firewall) => firewall.entries(),
            Works::Nothing => 0,
        }
    }
}
