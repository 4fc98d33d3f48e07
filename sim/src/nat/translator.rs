//! An address translator at work: the table of RFC 4787.
//!
//! A mapping joins an inner endpoint, and as much of the remote one as the mapping depends on, with an outer endpoint.
//! Through each mapping those are let in whom insiders sent something through this very mapping, as connection tracking
//! does it. A mapping is forgotten when it was not used for its lifetime, and so is each of its permissions.

use super::{Allocation, Dependence, Head, NatSpec, PORT_MIN, Refresh, SWEEP_EVERY_NS, Way};
use crate::draw::{Draw, scramble};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Random ports that are tried before the next free one is taken.
const RANDOM_TRIES: u32 = 16;

const PORTS: u32 = u16::MAX as u32 - PORT_MIN as u32 + 1;

#[derive(Clone, Debug)]
struct Mapping {
    inner: SocketAddr,
    /// The part of the remote endpoint that it is for.
    part: SocketAddr,
    used_ns: u64,
    /// Who is let in, and when that was last asked for. Empty when everybody is.
    permits: BTreeMap<SocketAddr, u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Translator {
    spec: NatSpec,
    outside: Vec<IpAddr>,
    draw: Draw,
    last_port: u16,
    by_inner: BTreeMap<(SocketAddr, SocketAddr), SocketAddr>,
    by_outer: BTreeMap<SocketAddr, Mapping>,
    permits: usize,
    swept_ns: u64,
}

impl Translator {
    pub(super) fn new(spec: NatSpec, outside: Vec<IpAddr>, mut draw: Draw) -> Self {
        let last_port = first_port(&mut draw);
        let (by_inner, by_outer) = Default::default();
        Self { spec, outside, draw, last_port, by_inner, by_outer, permits: 0, swept_ns: 0 }
    }

    pub(super) fn outside(&self) -> &[IpAddr] {
        &self.outside
    }

    pub(super) fn entries(&self) -> usize {
        self.by_outer.len() + self.permits
    }

    pub(super) fn reboot(&mut self) {
        self.by_inner.clear();
        self.by_outer.clear();
        self.permits = 0;
        self.last_port = first_port(&mut self.draw);
    }

    pub(super) fn readdress(&mut self, outside: Vec<IpAddr>) {
        self.outside = outside;
        self.reboot();
    }

    fn lifetime_ns(&self) -> u64 {
        u64::from(self.spec.lifetime_ms) * 1_000_000
    }

    pub(super) fn outside_of(&self, inside: IpAddr) -> Option<IpAddr> {
        let key = match inside {
            IpAddr::V4(ip) => u64::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip) as u64,
        };
        let nth = (scramble(key, 0) as usize).checked_rem(self.outside.len())?;
        self.outside.get(nth).copied()
    }

    pub(super) fn outbound(&mut self, now_ns: u64, head: &mut Head) -> Way {
        let turned = self.outside.contains(&head.to.ip());
        if turned && !self.spec.hairpin {
            return Way::Lost;
        }
        let Some(outer) = self.map(now_ns, head.from, head.to) else { return Way::Lost };
        head.from = outer;
        match (turned, turned && self.inbound(now_ns, head)) {
            (false, _) => Way::Out,
            (true, true) => Way::Back,
            (true, false) => Way::Lost,
        }
    }

    pub(super) fn inbound(&mut self, now_ns: u64, head: &mut Head) -> bool {
        let lifetime_ns = self.lifetime_ns();
        let stale = |used_ns: u64| now_ns.saturating_sub(used_ns) > lifetime_ns;
        let (filtering, refresh) = (self.spec.filtering, self.spec.refresh);
        let Some(mapping) = self.by_outer.get_mut(&head.to) else { return false };
        if stale(mapping.used_ns) {
            self.forget(head.to);
            return false;
        }
        if filtering != Dependence::Independent {
            match mapping.permits.get_mut(&filtering.part_of(head.from)) {
                Some(used_ns) if !stale(*used_ns) => {
                    if refresh == Refresh::Both {
                        *used_ns = now_ns;
                    }
                }
                Some(_) | None => return false,
            }
        }
        if refresh == Refresh::Both {
            mapping.used_ns = now_ns;
        }
        head.to = mapping.inner;
        true
    }

    /// The outer endpoint for what `inner` sends to `remote`, which may answer from now on. `None` when there is no room.
    fn map(&mut self, now_ns: u64, inner: SocketAddr, remote: SocketAddr) -> Option<SocketAddr> {
        let part = self.spec.mapping.part_of(remote);
        let outer = match self.by_inner.get(&(inner, part)).copied() {
            Some(outer) if !self.is_stale(now_ns, outer) => outer,
            gone => {
                if let Some(outer) = gone {
                    self.forget(outer);
                }
                let outer = self.has_room(now_ns).then(|| self.allocate(now_ns, inner)).flatten()?;
                self.by_inner.insert((inner, part), outer);
                let mapping = Mapping { inner, part, used_ns: now_ns, permits: BTreeMap::new() };
                self.by_outer.insert(outer, mapping);
                outer
            }
        };
        let permit = self.spec.filtering.part_of(remote);
        let wanted = self.spec.filtering != Dependence::Independent;
        let known = self.by_outer.get(&outer).is_some_and(|m| m.permits.contains_key(&permit));
        if wanted && !known && !self.has_room(now_ns) {
            return None;
        }
        let mapping = self.by_outer.get_mut(&outer)?;
        mapping.used_ns = now_ns;
        if wanted && mapping.permits.insert(permit, now_ns).is_none() {
            self.permits += 1;
        }
        Some(outer)
    }

    fn is_stale(&self, now_ns: u64, outer: SocketAddr) -> bool {
        self.by_outer.get(&outer).is_none_or(|m| now_ns.saturating_sub(m.used_ns) > self.lifetime_ns())
    }

    fn forget(&mut self, outer: SocketAddr) {
        if let Some(mapping) = self.by_outer.remove(&outer) {
            self.permits -= mapping.permits.len();
            self.by_inner.remove(&(mapping.inner, mapping.part));
        }
    }

    fn has_room(&mut self, now_ns: u64) -> bool {
        let most = self.spec.entries_max as usize;
        if self.entries() >= most && now_ns >= self.swept_ns {
            self.swept_ns = now_ns.saturating_add(SWEEP_EVERY_NS);
            self.sweep(now_ns);
        }
        self.entries() < most
    }

    fn sweep(&mut self, now_ns: u64) {
        let lifetime_ns = self.lifetime_ns();
        let fresh = |used_ns: u64| now_ns.saturating_sub(used_ns) <= lifetime_ns;
        let by_inner = &mut self.by_inner;
        self.by_outer.retain(|_, mapping| {
            mapping.permits.retain(|_, used_ns| fresh(*used_ns));
            let kept = fresh(mapping.used_ns);
            if !kept {
                by_inner.remove(&(mapping.inner, mapping.part));
            }
            kept
        });
        self.permits = self.by_outer.values().map(|m| m.permits.len()).sum();
    }

    /// An outer endpoint that nobody has.
    fn allocate(&mut self, now_ns: u64, inner: SocketAddr) -> Option<SocketAddr> {
        let ip = self.outside_of(inner.ip())?;
        let mut port = match self.spec.allocation {
            Allocation::Preserving => {
                let own = inner.port().max(PORT_MIN);
                let taken = !self.is_stale(now_ns, SocketAddr::new(ip, own));
                if taken { above(self.last_port, 1) } else { own }
            }
            Allocation::Sequential(step) => above(self.last_port, step.max(1)),
            Allocation::Random => self.random_port(now_ns, ip),
        };
        let mut step = match self.spec.allocation {
            Allocation::Sequential(step) => step.max(1),
            Allocation::Preserving | Allocation::Random => 1,
        };
        let first = port;
        for _ in 0..2 * PORTS {
            let outer = SocketAddr::new(ip, port);
            if self.is_stale(now_ns, outer) {
                self.forget(outer);
                self.last_port = port;
                return Some(outer);
            }
            port = above(port, step);
            if port == first {
                // A step that divides the range comes around early; then every port in between is looked at as well.
                step = 1;
            }
        }
        None
    }

    fn random_port(&mut self, now_ns: u64, ip: IpAddr) -> u16 {
        let mut port = first_port(&mut self.draw);
        for _ in 0..RANDOM_TRIES {
            if self.is_stale(now_ns, SocketAddr::new(ip, port)) {
                break;
            }
            port = first_port(&mut self.draw);
        }
        port
    }
}

fn first_port(draw: &mut Draw) -> u16 {
    draw.between(u64::from(PORT_MIN), u64::from(u16::MAX)) as u16
}

/// `step` ports further up, around within those that are given out.
fn above(port: u16, step: u16) -> u16 {
    let from = u32::from(port.max(PORT_MIN) - PORT_MIN);
    PORT_MIN + ((from + u32::from(step)) % PORTS) as u16
}
