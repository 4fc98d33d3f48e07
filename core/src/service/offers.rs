//! Who offers what to this node: the view of all catalogues that planning needs.

use super::Service;
use crate::dht::record::MachineSummary;
use crate::few::Few;
use crate::id::PublicKey;
use crate::port::{Program, Target};
use std::sync::Arc;

/// A look at the catalogues of this node and its peers.
pub trait Offers {
    /// Whether the catalogue of `peer` is here; an empty one counts.
    fn knows(&self, peer: &PublicKey) -> bool;
    /// Everything that this node may run, with who offers it, in the order of keys.
    fn all(&self) -> Vec<(PublicKey, &Service)>;
    /// Why `peer` cannot run a service that is among its own. Of others only what they can run is here.
    fn misfit(&self, peer: &PublicKey, service: &Service) -> Option<String>;
    /// What `peer` said of its machine, if it did.
    fn machine(&self, peer: &PublicKey) -> Option<&MachineSummary>;
}

/// What this node is, as far as its own services depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Home {
    /// Who.
    pub me: PublicKey,
    /// The machine code that runs here; none at all where it could not be confined.
    pub native: Option<Target>,
}

impl Home {
    /// Why this node cannot run what it would offer.
    pub fn misfit(&self, service: &Service) -> Option<String> {
        let Program::Native(exe) = &service.program else { return None };
        match &self.native {
            Some(here) if *here == exe.target => None,
            Some(here) => Some(format!("it is a program for {}, and this machine is {here}", exe.target)),
            None => Some("native programs are not run on this machine; `doctor` says why".to_owned()),
        }
    }
}

/// Catalogues by peer, shared with whoever else looks at them. Bounded by who fills it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Offerings {
    services: Few<PublicKey, Arc<[Service]>>,
    machines: Few<PublicKey, Box<MachineSummary>>,
    home: Option<Home>,
}

impl Offerings {
    /// None yet, at this node.
    pub fn at(home: Home) -> Self {
        Self { home: Some(home), ..Self::default() }
    }

    /// Says what this node is, beside what is here.
    pub fn set_home(&mut self, home: Home) {
        self.home = Some(home);
    }

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

    fn misfit(&self, peer: &PublicKey, service: &Service) -> Option<String> {
        self.home.as_ref().filter(|home| home.me == *peer)?.misfit(service)
    }
}
