//! Who offers what to this node: the view of all catalogues that planning needs.

use super::Service;
use crate::few::Few;
use crate::id::PublicKey;
use std::sync::Arc;

/// A look at the catalogues of this node and its peers.
pub trait Offers {
    /// Whether the catalogue of `peer` is here; an empty one counts.
    fn knows(&self, peer: &PublicKey) -> bool;
    /// Everything that this node may run, with who offers it, in the order of keys.
    fn all(&self) -> Vec<(PublicKey, &Service)>;
}

/// Catalogues by peer, shared with whoever else looks at them. Bounded by who fills it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Offerings(Few<PublicKey, Arc<[Service]>>);

impl Offerings {
    /// Replaces what `peer` offers; `None` forgets its catalogue.
    pub fn set(&mut self, peer: PublicKey, services: Option<Arc<[Service]>>) {
        match services {
            Some(services) => self.0.insert(peer, services),
            None => self.0.remove(&peer),
        };
    }

    /// What `peer` offers, in its order.
    pub fn of(&self, peer: &PublicKey) -> &[Service] {
        self.0.get(peer).map_or(&[], |services| services)
    }

    /// The catalogue of somebody who offers the very same, to be shared: nodes that are set up alike are many.
    pub fn same(&self, services: &[Service]) -> Option<Arc<[Service]>> {
        self.0.values().find(|s| ***s == *services).cloned()
    }

    /// Catalogues here.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no catalogue is here.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Offers for Offerings {
    fn knows(&self, peer: &PublicKey) -> bool {
        self.0.contains_key(peer)
    }

    fn all(&self) -> Vec<(PublicKey, &Service)> {
        self.0.iter().flat_map(|(peer, services)| services.iter().map(|s| (*peer, s))).collect()
    }
}
