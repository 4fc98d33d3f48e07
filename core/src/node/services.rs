//! What is asked of the node about services, and who of its machines answers.

use super::Node;
use super::wiring::{Inside, drive};
use crate::command::{CommandError, Notice, PolicyView, Reply, ServiceCommand};
use crate::id::{CommandId, PublicKey};
use crate::job::executor;
use crate::machine::{Cx, Machine};
use crate::service::offers::Offers as _;
use crate::service::search::{self, Query, Searches};
use crate::service::{Service, catalogue};
use crate::time::Deadline;
use crate::transport::Transport;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Known peers that a search looks at for some worth a visit, the most recently seen ones: each costs reading a record.
const PROSPECTS_AMONG: usize = 1_024;

/// Searches, and what those who wait for them call them.
#[derive(Debug, Default)]
pub(super) struct Searching {
    machine: Searches,
    tags: BTreeMap<CommandId, u64>,
}

impl Searching {
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        self.machine.poll_timeout()
    }
}

impl<T: Transport> Node<T> {
    pub(super) fn service_command(&mut self, id: CommandId, command: ServiceCommand) {
        match command {
            ServiceCommand::Edit { old, service } => {
                let dataset = service.program.dataset();
                self.offer(id, dataset, catalogue::Input::Edit { id, old, service });
            }
            ServiceCommand::Activate { service, active } => {
                let input = catalogue::Input::Activate { id, service, active };
                self.inbox.push_back(Inside::Catalogue(input));
            }
            ServiceCommand::Search { tag, query } => self.begin_search(id, tag, query),
            ServiceCommand::Policy => {
                let (policy, today) = (self.executor.policy().clone(), self.executor.used_today(self.wall));
                self.reply(id, Reply::Policy(Box::new(PolicyView { policy, today })));
            }
            ServiceCommand::SetPolicy(policy) => {
                let faults = policy.faults();
                if !faults.is_empty() {
                    return self.reply(id, Reply::Error(CommandError::Invalid(faults)));
                }
                self.inbox.push_back(Inside::Executor(executor::Input::Policy(policy)));
                // Recorded before anything else is settled: the reply waits for it in the gate.
                self.settle_inside();
                self.reply(id, Reply::Done);
            }
        }
    }

    fn begin_search(&mut self, id: CommandId, tag: u64, query: Query) {
        let offers = self.catalogue.offers();
        let known = offers.all().into_iter().map(|(owner, service)| (owner, service.clone())).collect();
        let apart =
            self.book.most_recent(PROSPECTS_AMONG, |key| !self.links.is_up(key) && !offers.knows(key));
        // Those whose record says so first, then those of whom nothing is known; not those who say that they offer nothing.
        let (mut prospects, mut unknown) = (Vec::new(), Vec::new());
        for (key, _) in apart {
            match self.dht.peek(&key) {
                Some(record) if record.content.services > 0 => prospects.push(key),
                Some(_) => {}
                None => unknown.push(key),
            }
        }
        prospects.append(&mut unknown);
        self.searching.tags.insert(id, tag);
        self.inbox.push_back(Inside::Search(search::Input::Start { id, query, known, prospects }));
    }

    /// A catalogue came.
    pub(super) fn search_hears(&mut self, peer: PublicKey, services: Option<&Arc<[Service]>>) {
        if let (Some(services), false) = (services, self.searching.tags.is_empty()) {
            let services = services.clone();
            self.inbox.push_back(Inside::Search(search::Input::Offers { peer, services }));
        }
    }

    /// A peer cannot be reached.
    pub(super) fn search_missed(&mut self, peer: PublicKey) {
        if !self.searching.tags.is_empty() {
            self.inbox.push_back(Inside::Search(search::Input::Unreachable(peer)));
        }
    }

    /// Lets the machine handle one thing and does what follows.
    pub(super) fn search(&mut self, f: impl FnOnce(&mut Searches, &mut Cx<'_, search::Output>)) {
        let machine = &mut self.searching.machine;
        for o in drive(machine, &mut self.rngs.search, self.now, self.wall, f) {
            match o {
                search::Output::Visit(peer) => self.need_peer(peer),
                search::Output::Hits { id, hits } => {
                    if let Some(tag) = self.searching.tags.get(&id).copied() {
                        self.notify(Notice::Found { tag, hits });
                    }
                }
                search::Output::Done { id, found } => {
                    self.searching.tags.remove(&id);
                    self.reply(id, Reply::Found(Box::new(found)));
                }
                search::Output::TooMany(id) => {
                    self.searching.tags.remove(&id);
                    self.reply(id, Reply::Error(CommandError::Limit("searches at once")));
                }
            }
        }
    }
}
