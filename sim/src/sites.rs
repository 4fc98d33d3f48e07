//! Planned networks, and where in them planned machines are.
//!
//! A plan names networks by their position; each is a row of boxes that stands on the Internet or in a network named
//! before. Whatever it names that does not exist is the Internet, so that a plan with a network less is still a plan.

use crate::nat::{BoxSpec, Kind};
use crate::net::{INTERNET, Net, NetworkId, Site};
use serde::{Deserialize, Serialize};

/// A planned network behind boxes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkPlan {
    /// The planned network in which its outermost box stands, one of those before it; `None`: the Internet.
    pub outer: Option<u32>,
    /// Where its boxes are.
    pub region: u8,
    /// Its boxes, the outermost first.
    pub boxes: Vec<BoxSpec>,
}

/// Where a machine is connected, by positions in the plan's networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Attachment {
    /// With its IPv4 address; `None`: on the Internet itself.
    pub v4: Option<u32>,
    /// With its IPv6 address, if it has one.
    pub v6: Option<Six>,
}

/// Where a machine has its IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Six {
    /// On the Internet itself.
    Internet,
    /// In a planned network.
    Network(u32),
}

/// The networks of a plan, built.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sites {
    /// The network behind each box, the outermost first.
    networks: Vec<Vec<NetworkId>>,
}

impl Sites {
    /// Builds them.
    pub fn build(net: &mut Net, plans: &[NetworkPlan]) -> Self {
        let mut sites = Self::default();
        for plan in plans {
            let mut outer = plan.outer.map_or(INTERNET, |nth| sites.innermost(nth));
            let add = |spec: &BoxSpec| {
                outer = net.add_network(outer, plan.region, *spec);
                outer
            };
            sites.networks.push(plan.boxes.iter().map(add).collect());
        }
        sites
    }

    fn innermost(&self, nth: u32) -> NetworkId {
        self.boxes(nth).last().copied().unwrap_or(INTERNET)
    }

    /// The network behind each box of a planned one, the outermost first.
    pub fn boxes(&self, nth: u32) -> &[NetworkId] {
        self.networks.get(nth as usize).map_or(&[], Vec::as_slice)
    }

    /// Where a machine is.
    pub fn site(&self, at: Attachment) -> Site {
        let v6 = at.v6.map(|six| match six {
            Six::Internet => INTERNET,
            Six::Network(nth) => self.innermost(nth),
        });
        Site { v4: at.v4.map_or(INTERNET, |nth| self.innermost(nth)), v6 }
    }
}

/// Plans networks for a machine of a kind, with its outermost box in `outer`; where the machine is then.
pub fn plan_kind(networks: &mut Vec<NetworkPlan>, kind: Kind, outer: Option<u32>, region: u8) -> Attachment {
    let mut add = |outer, boxes: Vec<BoxSpec>| {
        let nth = networks.len() as u32;
        networks.push(NetworkPlan { outer, region, boxes });
        nth
    };
    let boxes = kind.chain();
    let v4 = if boxes.is_empty() { outer } else { Some(add(outer, boxes)) };
    let v6 = kind.chain6().map(|boxes| Six::Network(add(None, boxes)));
    Attachment { v4, v6 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Quality;
    use crate::plan::{Class, Fault, FaultKind, HostPlan, Plan};
    use crate::scenario::Scenario;
    use crate::toy::Toy;

    #[test]
    fn kinds_stand_where_they_are_planned() {
        let mut plans = vec![NetworkPlan { boxes: vec![Kind::carrier(true)], ..NetworkPlan::default() }];
        let at: Vec<Attachment> =
            Kind::ALL.iter().map(|kind| plan_kind(&mut plans, *kind, Some(0), 1)).collect();
        let mut net = Net::new(1);
        let sites = Sites::build(&mut net, &plans);
        for (kind, at) in Kind::ALL.into_iter().zip(at) {
            let host = net.add_at(0, Quality::default(), sites.site(at));
            let stand = net.stand(host).unwrap();
            let mut boxes: Vec<BoxSpec> = stand.v4.iter().rev().map(|level| level.spec).collect();
            assert_eq!(boxes.remove(0), Kind::carrier(true), "{kind:?}");
            assert_eq!(boxes, kind.chain());
            assert_eq!(stand.v6.is_some(), kind == Kind::Ipv6);
        }
        let gone = Attachment { v4: Some(99), v6: Some(Six::Network(98)) };
        assert_eq!(sites.site(gone), Site { v4: INTERNET, v6: Some(INTERNET) });
    }

    #[test]
    fn boxes_restart_move_and_block_and_machines_roam() {
        let mut plan = Plan::from_seed(Class::Calm, 1, 2, 60_000);
        plan.work.clear();
        let home = plan_kind(&mut plan.networks, Kind::DoubleNat, None, 0);
        let cafe = plan_kind(&mut plan.networks, Kind::Ipv6, None, 0);
        plan.hosts = vec![HostPlan { nat: Some(home), ..HostPlan::default() }, HostPlan::default()];
        let fault = |at_ms, for_ms, what| Fault { at_ms, for_ms, what };
        plan.faults = vec![
            fault(1_000, 0, FaultKind::NatReboot { network: 0 }),
            fault(2_000, 0, FaultKind::NatReaddress { network: 0 }),
            fault(3_000, 2_000, FaultKind::UdpBlocked { network: 0 }),
            fault(6_000, 0, FaultKind::Move { host: 0, to: Some(cafe) }),
            fault(7_000, 0, FaultKind::UdpBlocked { network: 77 }),
        ];
        let plan: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        let mut scenario = Scenario::<Toy>::new(plan);
        let mut until = |ms: u64| {
            scenario.run_until(ms * 1_000_000);
            let net = &scenario.world.net;
            (net.seen_as(0).unwrap(), net.passes_udp(0), net.addresses(0).len(), scenario.world.hosts[0].life)
        };
        let (first, ..) = until(1_500);
        let (second, passes, ..) = until(2_500);
        assert!(first != second && passes);
        assert_eq!(until(3_500), (second, false, 1, 1));
        assert_eq!(until(5_500), (second, true, 1, 1), "mended");
        let (third, passes, addresses, life) = until(6_500);
        assert!(third != second && passes);
        assert_eq!((addresses, life), (2, 1), "with IPv6, and without a new start");
        let faults = scenario.faults();
        for name in ["nat reboot", "nat readdress", "udp blocked", "roam"] {
            assert_eq!(faults.get(name), Some(&1), "{name}");
        }
        assert!(!scenario.world.hosts[0].config.public && scenario.world.hosts[1].config.public);
    }
}
