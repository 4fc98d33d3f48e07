//! A stateful firewall: sessions, no translation. With IPv6 this is what stands where a NAT would.

use super::{FirewallSpec, Head, Refresh, SWEEP_EVERY_NS, Way};
use std::collections::BTreeMap;
use std::net::SocketAddr;

#[derive(Clone, Debug)]
pub(super) struct Firewall {
    spec: FirewallSpec,
    /// By insider and the part of the remote endpoint that counts: when it was used last.
    sessions: BTreeMap<(SocketAddr, SocketAddr), u64>,
    swept_ns: u64,
}

impl Firewall {
    pub(super) fn new(spec: FirewallSpec) -> Self {
        Self { spec, sessions: BTreeMap::new(), swept_ns: 0 }
    }

    pub(super) fn entries(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn reboot(&mut self) {
        self.sessions.clear();
    }

    fn lifetime_ns(&self) -> u64 {
        u64::from(self.spec.lifetime_ms) * 1_000_000
    }

    pub(super) fn outbound(&mut self, now_ns: u64, head: &Head) -> Way {
        let key = (head.from, self.spec.filtering.part_of(head.to));
        if let Some(used_ns) = self.sessions.get_mut(&key) {
            *used_ns = now_ns;
            return Way::Out;
        }
        if !self.has_room(now_ns) {
            return Way::Lost;
        }
        self.sessions.insert(key, now_ns);
        Way::Out
    }

    pub(super) fn inbound(&mut self, now_ns: u64, head: &Head) -> bool {
        let lifetime_ns = self.lifetime_ns();
        let key = (head.to, self.spec.filtering.part_of(head.from));
        let Some(used_ns) = self.sessions.get_mut(&key) else { return false };
        if now_ns.saturating_sub(*used_ns) > lifetime_ns {
            self.sessions.remove(&key);
            return false;
        }
        if self.spec.refresh == Refresh::Both {
            *used_ns = now_ns;
        }
        true
    }

    fn has_room(&mut self, now_ns: u64) -> bool {
        let full = |sessions: &BTreeMap<_, _>| sessions.len() >= self.spec.entries_max as usize;
        if full(&self.sessions) && now_ns >= self.swept_ns {
            let lifetime_ns = self.lifetime_ns();
            self.swept_ns = now_ns.saturating_add(SWEEP_EVERY_NS);
            self.sessions.retain(|_, used_ns| now_ns.saturating_sub(*used_ns) <= lifetime_ns);
        }
        !full(&self.sessions)
    }
}
