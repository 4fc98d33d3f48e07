//! What every box keeps to, whatever comes.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SECOND_NS: u64 = 1_000_000_000;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn inside(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 168, 1, host], port))
}

fn remote(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([45, 0, 0, host], port))
}

fn nat(spec: NatSpec) -> Gate {
    let outside = (0..spec.addresses).map(|n| IpAddr::from([46, 0, 0, 1 + n])).collect();
    Gate::new(BoxSpec::Nat(spec), outside, Draw::new(5))
}

/// Where a packet comes out.
fn out(gate: &mut Gate, now_ns: u64, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
    let mut head = Head { from, to };
    (gate.outbound(now_ns, &mut head) == Way::Out).then_some(head.from)
}

/// Whom a packet reaches.
fn into(gate: &mut Gate, now_ns: u64, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
    let mut head = Head { from, to };
    gate.inbound(now_ns, &mut head).then_some(head.to)
}

fn dependence() -> impl Strategy<Value = Dependence> {
    prop_oneof![Just(Dependence::Independent), Just(Dependence::Address), Just(Dependence::AddressAndPort)]
}

fn specs() -> impl Strategy<Value = NatSpec> {
    let allocation = prop_oneof![
        Just(Allocation::Preserving),
        (1..300u16).prop_map(Allocation::Sequential),
        Just(Allocation::Random)
    ];
    let refresh = prop_oneof![Just(Refresh::Outbound), Just(Refresh::Both)];
    (dependence(), dependence(), allocation, any::<bool>(), 1..200_000u32, refresh, 1..4u8, 1..200u32)
        .prop_map(
            |(mapping, filtering, allocation, hairpin, lifetime_ms, refresh, addresses, entries_max)| {
                NatSpec {
                    mapping,
                    filtering,
                    allocation,
                    hairpin,
                    lifetime_ms,
                    refresh,
                    addresses,
                    entries_max,
                }
            },
        )
}

/// A small world, so that the same endpoints come again and again.
fn steps() -> impl Strategy<Value = Vec<(bool, u8, u16, u8, u16, u64)>> {
    proptest::collection::vec((any::<bool>(), 1..4u8, 5_000..5_003u16, 1..4u8, 1..4u16, 0..90u64), 1..200)
}

/// The outer endpoint of a mapping, when it was used last, and whom insiders sent to through it, when.
type Open = BTreeMap<SocketAddr, (SocketAddr, u64, BTreeMap<SocketAddr, u64>)>;

proptest! {
    /// Against a naive book of all that went out: what is let in was asked for and is young enough, and reaches whoever
    /// asked; what was asked for a moment ago is let in; the mapping depends on what the specification says, and on
    /// nothing else; two insiders never share an outer endpoint; the table never outgrows its bound.
    #[test]
    fn a_translator_lets_in_what_was_asked_for_and_nothing_else(spec in specs(), steps in steps()) {
        let mut gate = nat(spec);
        let mut open = Open::new();
        let mut now_ns = 0;
        let lifetime_ns = u64::from(spec.lifetime_ms) * 1_000_000;
        for (outward, host, port, far, far_port, seconds) in steps {
            now_ns += seconds * SECOND_NS;
            let (inner, far) = (inside(host, port), remote(far, far_port));
            let fresh = |used_ns: u64| now_ns - used_ns <= lifetime_ns;
            if outward {
                let Some(outer) = out(&mut gate, now_ns, inner, far) else {
                    prop_assert!(gate.entries() + 1 >= spec.entries_max as usize, "refused with room");
                    continue;
                };
                if let Some((owner, used_ns, _)) = open.get(&outer).filter(|(_, used_ns, _)| fresh(*used_ns)) {
                    prop_assert!(*owner == inner, "{outer} is {owner}'s since {used_ns}");
                } else {
                    open.remove(&outer);
                }
                let entry = open.entry(outer).or_insert((inner, now_ns, BTreeMap::new()));
                entry.1 = now_ns;
                entry.2.insert(spec.filtering.part_of(far), now_ns);
                prop_assert_eq!(into(&mut gate, now_ns, far, outer), Some(inner), "an answer at once");
            } else if let Some((outer, (owner, used_ns, asked))) = open.iter_mut().next() {
                let got = into(&mut gate, now_ns, far, *outer);
                let permit = asked.get_mut(&spec.filtering.part_of(far));
                let wanted = match (&permit, spec.filtering) {
                    (_, Dependence::Independent) => fresh(*used_ns),
                    (Some(at_ns), _) => fresh(*used_ns) && fresh(**at_ns),
                    (None, _) => false,
                };
                prop_assert_eq!(got, wanted.then_some(*owner));
                if wanted && spec.refresh == Refresh::Both {
                    *used_ns = now_ns;
                    if let Some(at_ns) = permit {
                        *at_ns = now_ns;
                    }
                }
            }
            prop_assert!(gate.entries() <= spec.entries_max as usize);
        }
    }

    #[test]
    fn a_mapping_depends_on_what_it_says_and_on_nothing_else(
        spec in specs(),
        far in proptest::collection::vec((1..6u8, 1..6u16), 2..20),
    ) {
        let spec = NatSpec { entries_max: 1_000, ..spec };
        let mut gate = nat(spec);
        let mut by_part: BTreeMap<SocketAddr, SocketAddr> = BTreeMap::new();
        for (host, port) in far {
            let far = remote(host, port);
            let outer = out(&mut gate, 0, inside(2, 5_000), far).unwrap();
            let before = by_part.insert(spec.mapping.part_of(far), outer);
            prop_assert!(before.is_none_or(|before| before == outer));
        }
        let distinct: BTreeSet<_> = by_part.values().collect();
        prop_assert_eq!(distinct.len(), by_part.len(), "different parts, different ports");
        let ips: BTreeSet<_> = by_part.values().map(SocketAddr::ip).collect();
        prop_assert_eq!(ips.len(), 1, "one insider, one outer address");
        prop_assert!(by_part.values().all(|outer| outer.port() >= PORT_MIN));
    }

    #[test]
    fn a_firewall_lets_in_answers_while_they_are_young(
        filtering in dependence(),
        far in (1..4u8, 1..4u16),
        other in (1..4u8, 1..4u16),
        later_s in 0..240u64,
    ) {
        let spec = FirewallSpec { filtering, refresh: Refresh::Outbound, ..FirewallSpec::default() };
        let mut gate = Gate::new(BoxSpec::Firewall(spec), Vec::new(), Draw::new(1));
        let (host, far, other) = (inside(2, 5_000), remote(far.0, far.1), remote(other.0, other.1));
        prop_assert_eq!(into(&mut gate, 0, far, host), None);
        prop_assert_eq!(out(&mut gate, 0, host, far), Some(host), "nothing is translated");
        let answers = filtering.part_of(far) == filtering.part_of(other) && later_s <= 120;
        prop_assert_eq!(into(&mut gate, later_s * SECOND_NS, other, host).is_some(), answers);
    }
}

#[test]
fn ports_are_given_out_as_the_box_does_it() {
    let hard = |allocation| {
        let mut gate = nat(NatSpec { mapping: Dependence::AddressAndPort, allocation, ..NatSpec::default() });
        let mut port = |n| out(&mut gate, 0, inside(2, 5_000), remote(1, n)).unwrap().port();
        [port(1), port(2), port(3)]
    };
    assert_eq!(hard(Allocation::Preserving), [5_000, 5_001, 5_002], "its own, then the next free ones");
    let [one, two, three] = hard(Allocation::Sequential(7));
    assert_eq!((two, three), (one + 7, two + 7));
    let [one, two, three] = hard(Allocation::Random);
    assert!(one.abs_diff(two) > 100 && two.abs_diff(three) > 100, "{one} {two} {three}");
}

#[test]
fn two_insiders_with_one_port_get_two() {
    let mut gate = nat(NatSpec::default());
    let far = remote(1, 1);
    assert_eq!(out(&mut gate, 0, inside(2, 5_000), far), Some(at("46.0.0.1:5000")));
    assert_eq!(out(&mut gate, 0, inside(3, 5_000), far), Some(at("46.0.0.1:5001")));
    assert_eq!(into(&mut gate, 0, far, at("46.0.0.1:5001")), Some(inside(3, 5_000)));
}

#[test]
fn insiders_meet_by_outer_addresses_only_with_hairpin() {
    for hairpin in [false, true] {
        let mut gate = nat(NatSpec { hairpin, filtering: Dependence::AddressAndPort, ..NatSpec::default() });
        let one = out(&mut gate, 0, inside(2, 5_000), remote(1, 1)).unwrap();
        let two = out(&mut gate, 0, inside(3, 6_000), remote(1, 1)).unwrap();
        let mut first = Head { from: inside(2, 5_000), to: two };
        assert_eq!(gate.outbound(0, &mut first), Way::Lost, "the filter holds for insiders, too");
        let mut second = Head { from: inside(3, 6_000), to: one };
        let way = gate.outbound(0, &mut second);
        assert_eq!(way, if hairpin { Way::Back } else { Way::Lost });
        if hairpin {
            assert_eq!(second, Head { from: two, to: inside(2, 5_000) }, "seen from outside (REQ-9)");
        }
    }
}

#[test]
fn a_full_table_refuses_until_something_expires() {
    let mut gate = nat(NatSpec { entries_max: 4, ..NatSpec::default() });
    let far = remote(1, 1);
    assert!(out(&mut gate, 0, inside(2, 5_000), far).is_some());
    assert!(out(&mut gate, 60 * SECOND_NS, inside(3, 5_000), far).is_some());
    assert_eq!(out(&mut gate, 61 * SECOND_NS, inside(4, 5_000), far), None);
    assert!(out(&mut gate, 61 * SECOND_NS, inside(3, 5_000), far).is_some(), "who has one keeps it");
    assert!(out(&mut gate, 121 * SECOND_NS, inside(4, 5_000), far).is_some());
    assert_eq!(gate.entries(), 4);
}

#[test]
fn a_table_with_every_port_taken_ends_its_search() {
    let gate = |step| {
        nat(NatSpec {
            mapping: Dependence::AddressAndPort,
            filtering: Dependence::Independent,
            allocation: Allocation::Sequential(step),
            entries_max: u32::MAX,
            ..NatSpec::default()
        })
    };
    let mut full = gate(1);
    for port in PORT_MIN..=u16::MAX {
        assert!(out(&mut full, 0, inside(2, 5_000), remote(1, port)).is_some(), "{port}");
    }
    assert_eq!(out(&mut full, 0, inside(2, 5_000), remote(2, 1)), None);
    let mut round = gate(1_024);
    let ports: BTreeSet<_> =
        (1..=200).filter_map(|port| out(&mut round, 0, inside(2, 5_000), remote(1, port))).collect();
    assert_eq!(ports.len(), 200, "63 steps lead around, and there is more room than that");
}

#[test]
fn a_reboot_and_a_new_address_forget_everything() {
    let mut gate = nat(NatSpec { filtering: Dependence::Independent, ..NatSpec::default() });
    let outer = out(&mut gate, 0, inside(2, 5_000), remote(1, 1)).unwrap();
    gate.reboot();
    assert_eq!((into(&mut gate, 0, remote(1, 1), outer), gate.entries()), (None, 0));
    gate.readdress(vec![IpAddr::from([46, 0, 9, 9])]);
    assert_eq!(out(&mut gate, 0, inside(2, 5_000), remote(1, 1)), Some(at("46.0.9.9:5000")));
}

#[test]
fn what_blocks_udp_blocks_it_both_ways_and_for_as_long() {
    let mut gate = nat(NatSpec::default());
    let outer = out(&mut gate, 0, inside(2, 5_000), remote(1, 1)).unwrap();
    gate.block_udp(true);
    assert_eq!(out(&mut gate, 0, inside(2, 5_000), remote(1, 1)), None);
    assert_eq!(into(&mut gate, 0, remote(1, 1), outer), None);
    gate.block_udp(false);
    assert_eq!(into(&mut gate, 0, remote(1, 1), outer), Some(inside(2, 5_000)));
    let mut always = Gate::new(BoxSpec::UdpBlocked, Vec::new(), Draw::new(1));
    always.block_udp(false);
    assert_eq!(out(&mut always, 0, inside(2, 5_000), remote(1, 1)), None);
}

#[test]
fn boxes_survive_their_text_form() {
    for kind in Kind::ALL {
        let text = serde_json::to_string(&(kind, kind.chain(), kind.chain6())).unwrap();
        let back: (Kind, Vec<BoxSpec>, Option<Vec<BoxSpec>>) = serde_json::from_str(&text).unwrap();
        assert_eq!(back, (kind, kind.chain(), kind.chain6()));
    }
    assert_eq!(serde_json::from_str::<BoxSpec>(r#"{"nat":{}}"#).unwrap(), BoxSpec::Nat(NatSpec::default()));
}

#[test]
fn the_population_is_drawn_by_its_weights() {
    let mut draw = Draw::new(4);
    let usual = (0..10_000).filter(|_| Kind::draw(&mut draw) == Kind::PortRestricted).count();
    assert!((5_400..5_800).contains(&usual), "{usual}");
    assert_eq!(POPULATION.iter().map(|(_, weight)| weight).sum::<u32>(), 1_000);
}
