//! Who offers what to this node: the view of all catalogues that planning needs.

use super::Service;
use crate::dht::record::MachineSummary;
use crate::few::Few;
use crate::id::PublicKey;
use std::sync::Arc;

/// A look at the catalogues of this node and its peers.
pub trait Offers {
    /// Whether the catalogue of `peer` is here; an empty one counts.
    fn knows(&self, peer: &PublicKey) -> bool;
    /// Everything that this node may run, with who offers it, in the order of keys.
    fn all(&self) -> Vec<(PublicKey, &Service)>;
    /// What `peer` said of its machine, if it did.
    fn machine(&self, peer: &PublicKey) -> Option<&MachineSummary>;
}

/// Catalogues by peer, shared with whoever else looks at them. Bounded by who fills it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Offerings {
    services: Few<PublicKey, Arc<[Service]>>,
    machines: Few<PublicKey, Box<MachineSummary>>,
}

impl Offerings {
    /// Replaces what `peer` offers; `None` forgets its catalogue.
    pub fn set(&mut self, peer: PublicKey, services: Option<Arc<[Service]>>) {
        match services {
            Some(services) => {
                self.services.insert(peer, services);
            }
            None => {
                self.services.remove(&peer);
                self.machines.remove(&peer);
            }
        }
    }

    /// What `peer` says of its machine. Forgotten with its catalogue.
    pub fn set_machine(&mut self, peer: PublicKey, machine: Option<Box<MachineSummary>>) {
        match machine {
            Some(machine) => self.machines.insert(peer, machine),
            None => self.machines.remove(&peer),
        };
    }

    /// What `peer` offers, in its order.
    pub fn of(&self, peer: &PublicKey) -> &[Service] {
        self.services.get(peer).map_or(&[], |services| services)
    }

    /// The catalogue of somebody who offers the very same, to be shared: nodes that are set up alike are many.
    pub fn same(&self, services: &[Service]) -> Option<Arc<[Service]>> {
        self.services.values().find(|s| ***s == *services).cloned()
    }

    /// Catalogues here.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether no catalogue is here.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }
}

impl Offers for Offerings {
    fn knows(&self, peer: &PublicKey) -> bool {
        self.services.contains_key(peer)
    }

    fn all(&self) -> Vec<(PublicKey, &Service)> {
        self.services.iter().flat_map(|(peer, services)| services.iter().map(|s| (*peer, s))).collect()
    }

    fn machine(&self, peer: &PublicKey) -> Option<&MachineSummary> {
        self.machines.get(peer).map(|m| &**m)
    }
}
