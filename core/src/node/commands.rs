//! What the application asks, and what it gets.
//!
//! A command is answered exactly once: at once, when its records are durable, when a peer was reached, or when its time
//! is over. Views are made from the machines' state when they are asked for; nothing is kept twice.

use super::wiring::{Inside, command_waiter};
use super::{Life, Node};
use crate::action::Action;
use crate::command::{Command, CommandError, PeerView, Placement, Reply, ServiceView, StatusView};
use crate::dht::record::{NodeType, RecordContent};
use crate::id::{CommandId, Digest, OpId, OpIds, PeerName, PublicKey};
use crate::identity::cascade::ConnectFailed;
use crate::identity::{book, cascade};
use crate::job::plan::Plan;
use crate::job::requester;
use crate::job::validate;
use crate::job::workflow::Workflow;
use crate::port::BlobRequest;
use crate::service::catalogue;
use crate::ticket::Ticket;
use crate::time::{Deadline, Duration, Instant, UnixTime};
use crate::transfer::{fetch, serve};
use crate::transport::Transport;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// How long a plan waits for the catalogues of named peers.
const PLAN_WITHIN: Duration = Duration::from_secs(10);
/// Plans and fetches waiting at once.
const WAITING_MAX: usize = 64;

/// Commands that are not answered yet, beyond those the machines hold.
#[derive(Debug)]
pub(super) struct Commands {
    ops: OpIds,
    plans: BTreeMap<CommandId, (Workflow, Instant)>,
    fetches: BTreeMap<CommandId, Digest>,
    /// Directories to keep that are looked for, and whether they were not kept before.
    trees: BTreeMap<CommandId, (Digest, bool)>,
    /// Objects to keep that the store is asked for.
    keeps: BTreeMap<OpId, (CommandId, Digest)>,
}

impl Commands {
    pub(super) fn new(room: u8) -> Self {
        Self {
            ops: OpIds::new(room),
            plans: BTreeMap::new(),
            fetches: BTreeMap::new(),
            trees: BTreeMap::new(),
            keeps: BTreeMap::new(),
        }
    }

    pub(super) fn issue_op(&mut self) -> OpId {
        self.ops.issue()
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        self.plans.values().map(|(_, until)| *until).min().map(|at| Deadline::new(at, "plan"))
    }
}

impl<T: Transport> Node<T> {
    pub(super) fn command(&mut self, id: CommandId, command: Command) {
        if !matches!(self.life, Life::Running) && command != Command::Shutdown {
            return self.reply(id, Reply::Error(CommandError::ShuttingDown));
        }
        match command {
            Command::Status => self.reply(id, Reply::Status(Box::new(self.status()))),
            Command::Peers => self.reply(id, Reply::Peers(self.peers())),
            Command::Peer(name) => {
                let view = self.resolve(&name).and_then(|key| self.peer_view(&key));
                self.reply(
                    id,
                    view.map_or(Reply::Error(CommandError::UnknownPeer(name)), |v| Reply::Peer(Box::new(v))),
                );
            }
            Command::Connect { peer, addr } => self.connect(id, peer, addr),
            Command::Block { key, blocked } => self.block(id, key, blocked),
            Command::AddService(service) => {
                let dataset = service.program.dataset();
                self.offer(id, dataset, catalogue::Input::Add { id, service });
            }
            Command::RemoveService(service) => {
                self.inbox.push_back(Inside::Catalogue(catalogue::Input::Remove { id, service }));
            }
            Command::Services => {
                let services: Vec<ServiceView> = self.catalogue.views();
                self.reply(id, Reply::Services(services));
            }
            Command::Service(command) => self.service_command(id, command),
            Command::Plan(workflow) => self.plan(id, *workflow, self.now + PLAN_WITHIN),
            Command::Submit { run, workflow } => {
                self.inbox.push_back(Inside::Requester(requester::Input::Submit { id, run, workflow }));
            }
            Command::Runs => self.reply(id, Reply::Runs(self.requester.views())),
            Command::Run(run) => {
                let view = self.requester.view(&run);
                self.reply(
                    id,
                    view.map_or(Reply::Error(CommandError::UnknownRun(run)), |v| Reply::Run(Box::new(v))),
                );
            }
            Command::Cancel(run) => {
                self.inbox.push_back(Inside::Requester(requester::Input::Cancel { id, run }));
            }
            Command::Pause { run, paused } => {
                self.inbox.push_back(Inside::Requester(requester::Input::Pause { id, run, paused }));
            }
            Command::Keep { digest, kept: true } => self.keep(id, digest),
            Command::Keep { digest, kept: false } => self.let_go(id, digest),
            Command::KeepTree { digest, len } => self.keep_tree(id, digest, len),
            Command::Share { digest, consumer, valid } => self.share(id, digest, consumer, valid),
            Command::Fetch { digest, len, from, ticket } => self.fetch(id, digest, len, from, &ticket),
            Command::Relay => self.reply(id, Reply::Relay(Box::new(self.relay_view()))),
            Command::RelayDisconnect(peer) => self.relay_disconnect(id, peer),
            Command::Shutdown => self.begin_stop(id),
        }
    }

    fn resolve(&self, name: &PeerName) -> Option<PublicKey> {
        match name {
            PeerName::Key(key) => Some(*key),
            PeerName::Id(_) => self.book.resolve(name),
        }
    }

    // ------------------------------------------------------------------------------------ connect

    fn connect(&mut self, id: CommandId, peer: PeerName, addr: Option<SocketAddr>) {
        match self.resolve(&peer) {
            Some(key) if self.book.is_blocked(&key) => {
                self.connect_command_done(id, key, Err(ConnectFailed::Blocked));
            }
            Some(key) => {
                self.inbox.push_back(Inside::Book(book::Input::Named(key)));
                self.inbox.push_back(Inside::Cascade(cascade::Input::Connect { id, key, addr }));
            }
            None => self.reply(id, Reply::Error(CommandError::UnknownPeer(peer))),
        }
    }

    fn block(&mut self, id: CommandId, key: PublicKey, blocked: bool) {
        if key == self.me {
            return self.reply(id, Reply::Error(CommandError::BlockSelf));
        }
        self.inbox.push_back(Inside::Book(book::Input::Block(key, blocked)));
        // The word is recorded before anything else is settled, and the reply waits for it in the gate.
        self.settle_inside();
        if self.book.is_blocked(&key) != blocked {
            return self.reply(id, Reply::Error(CommandError::Limit("peers that are known")));
        }
        self.relay_blocks(key, blocked);
        if blocked {
            self.cut(&key);
        }
        self.reply(id, Reply::Done);
    }

    pub(super) fn connect_command_done(
        &mut self,
        id: CommandId,
        key: PublicKey,
        result: Result<(), ConnectFailed>,
    ) {
        let reply = match (result, self.peer_view(&key)) {
            (Ok(()), Some(view)) => Reply::Peer(Box::new(view)),
            (Ok(()), None) => Reply::Done,
            (Err(e), _) => Reply::Error(CommandError::Unreachable { peer: key, why: e.to_string() }),
        };
        self.reply(id, reply);
    }

    // ------------------------------------------------------------------------------------ plans

    /// Plans a workflow; waits until `until` for the catalogues of peers it names.
    fn plan(&mut self, id: CommandId, workflow: Workflow, until: Instant) {
        match validate::check(&workflow, self.catalogue.offers()) {
            Ok(plan) => self.reply(id, Reply::Planned(Ok(placements(&plan)))),
            Err(findings)
                if findings.curable() && self.now < until && self.commands.plans.len() < WAITING_MAX =>
            {
                for peer in &findings.absent {
                    self.need_peer(*peer);
                }
                self.commands.plans.insert(id, (workflow, until));
            }
            Err(findings) => self.reply(id, Reply::Planned(Err(findings.problems))),
        }
    }

    /// A catalogue came: waiting plans may be complete now.
    pub(super) fn catalogues_changed(&mut self) {
        for (id, (workflow, until)) in std::mem::take(&mut self.commands.plans) {
            self.plan(id, workflow, until);
        }
    }

    pub(super) fn commands_timeout(&mut self) {
        if self.commands.poll_timeout().is_some_and(|d| d.at <= self.now) {
            self.catalogues_changed();
        }
    }

    // ------------------------------------------------------------------------------------ objects

    /// Makes an object the user's own, and then sees whether it is there: from now on nothing here removes it.
    fn keep(&mut self, id: CommandId, digest: Digest) {
        if self.sealing.is_removing(&digest) {
            // Decided before, and perhaps carried out after.
            return self.reply(id, Reply::Error(CommandError::UnknownObject(digest)));
        }
        if self.commands.keeps.len() >= WAITING_MAX {
            return self.reply(id, Reply::Error(CommandError::Limit("objects to keep")));
        }
        if !self.grant_to_user(digest) {
            return self.reply(id, Reply::Error(CommandError::Limit("objects that are kept")));
        }
        let op = self.commands.issue_op();
        self.commands.keeps.insert(op, (id, digest));
        self.actions.push_back(Action::Blob { op, request: BlobRequest::Open { digest } });
    }

    fn grant_to_user(&mut self, digest: Digest) -> bool {
        self.grant(digest, serve::Reason::User)
    }

    fn grant(&mut self, digest: Digest, reason: serve::Reason) -> bool {
        let requester = self.me;
        self.inbox.push_back(Inside::Serve(serve::Input::Grant { digest, requester, reason }));
        // Recorded before anything else is settled: replies wait for it in the gate.
        self.settle_inside();
        self.server.is_granted_for(&digest, &requester, reason)
    }

    /// The store was asked for an object that is to be kept.
    pub(super) fn keep_answered(&mut self, op: OpId, there: bool) {
        let Some((id, digest)) = self.commands.keeps.remove(&op) else { return };
        if there {
            return self.reply(id, Reply::Done);
        }
        self.take_from_user(digest);
        self.reply(id, Reply::Error(CommandError::UnknownObject(digest)));
    }

    fn take_from_user(&mut self, digest: Digest) {
        self.revoke(digest, serve::Reason::User);
    }

    fn revoke(&mut self, digest: Digest, reason: serve::Reason) {
        let requester = self.me;
        self.inbox.push_back(Inside::Serve(serve::Input::Revoke { digest, requester, reason }));
        self.settle_inside();
    }

    /// Makes a directory the user's own, once it is known that all its files are here.
    fn keep_tree(&mut self, id: CommandId, digest: Digest, len: u64) {
        if self.sealing.is_removing(&digest) {
            return self.reply(id, Reply::Error(CommandError::UnknownObject(digest)));
        }
        if self.commands.trees.len() >= WAITING_MAX {
            return self.reply(id, Reply::Error(CommandError::Limit("directories to keep")));
        }
        let fresh = !self.server.is_granted_for(&digest, &self.me, serve::Reason::UserTree);
        if !self.grant(digest, serve::Reason::UserTree) {
            return self.reply(id, Reply::Error(CommandError::Limit("objects that are kept")));
        }
        self.commands.trees.insert(id, (digest, fresh));
        self.bring((digest, len, None), true, Vec::new(), command_waiter(id));
    }

    /// A directory that is to be kept was looked for.
    pub(super) fn tree_command_done(&mut self, id: CommandId, digest: Digest, result: Result<(), String>) {
        if self.dataset_seen(id, &result) {
            return;
        }
        let Some((_, fresh)) = self.commands.trees.remove(&id) else { return };
        let mut others = self.commands.trees.values_mut().filter(|(d, _)| *d == digest);
        match result {
            Ok(()) => {
                // From here on it is kept, whatever comes of other questions after it.
                others.for_each(|(_, fresh)| *fresh = false);
                self.reply(id, Reply::Done);
            }
            Err(why) => {
                // What was kept before stays kept.
                match others.next() {
                    Some((_, other)) => *other |= fresh,
                    None if fresh => {
                        self.revoke(digest, serve::Reason::UserTree);
                        self.remove_object(digest);
                    }
                    None => {}
                }
                self.reply(id, Reply::Error(CommandError::Fetch { digest, why }));
            }
        }
    }

    fn let_go(&mut self, id: CommandId, digest: Digest) {
        self.revoke(digest, serve::Reason::UserTree);
        self.take_from_user(digest);
        self.remove_object(digest);
        self.reply(id, Reply::Done);
    }

    fn share(&mut self, id: CommandId, digest: Digest, consumer: PublicKey, valid: Duration) {
        let ticket = Ticket::sign(&self.config.keypair, digest, consumer, self.wall.plus(valid));
        self.grant_to_user(digest);
        self.reply(id, Reply::Ticket(ticket.encode().into()));
    }

    fn fetch(&mut self, id: CommandId, digest: Digest, len: u64, from: PublicKey, ticket: &Bytes) {
        if self.commands.fetches.len() >= WAITING_MAX {
            return self.reply(id, Reply::Error(CommandError::Limit("fetches waiting")));
        }
        let ticket = match Ticket::decode(ticket) {
            Ok(ticket) => ticket,
            Err(e) => {
                let why = format!("not a ticket: {e}");
                return self.reply(id, Reply::Error(CommandError::Fetch { digest, why }));
            }
        };
        self.commands.fetches.insert(id, digest);
        let sources = vec![(from, Some(ticket))];
        self.inbox.push_back(Inside::Fetch(fetch::Input::Want {
            digest,
            len,
            claim: None,
            under: None,
            sources,
            waiter: command_waiter(id),
        }));
    }

    pub(super) fn fetch_command_done(&mut self, id: CommandId, digest: Digest, result: Result<(), String>) {
        if self.commands.fetches.remove(&id).is_some() {
            if result.is_ok() {
                self.grant_to_user(digest);
            }
            self.reply(
                id,
                match result {
                    Ok(()) => Reply::Done,
                    Err(why) => Reply::Error(CommandError::Fetch { digest, why }),
                },
            );
        }
    }

    // ------------------------------------------------------------------------------------ views

    fn status(&self) -> StatusView {
        let (dht_nodes, dht_reachable) = self.dht.health();
        let mut refused: Vec<(&'static str, u64)> = self.refused.iter().map(|(k, v)| (*k, *v)).collect();
        let jobs = self.requester.refused() + self.executor.refused();
        if jobs > 0 {
            refused.push(("job-message", jobs));
        }
        StatusView {
            key: self.me,
            peer_id: self.me.peer_id(),
            uptime: self.now.since(self.born),
            local_addrs: self.local_addrs.clone(),
            observed_addrs: self.dht.observed(),
            connected: count(self.links.up()),
            known: count(self.book.len()),
            dht_nodes,
            dht_reachable,
            record: self.dht.published(),
            record_waiting: self.dht.waiting(),
            services: count(self.catalogue.own().count()),
            runs_active: count(self.requester.active()),
            jobs_active: count(self.executor.held().len()),
            reach: self.reach_view(),
            refused,
        }
    }

    /// All known peers, connected ones first, then the most recently seen.
    fn peers(&self) -> Vec<PeerView> {
        let mut keys: Vec<PublicKey> = self.book.iter().map(|(k, _)| *k).collect();
        keys.extend(self.links.iter().map(|(_, l)| l.peer));
        keys.sort_unstable();
        keys.dedup();
        let mut views: Vec<PeerView> = keys.iter().filter_map(|k| self.peer_view(k)).collect();
        views.sort_by_key(|v| (v.state, std::cmp::Reverse(v.seen.1), v.key));
        views
    }

    pub(super) fn peer_view(&self, key: &PublicKey) -> Option<PeerView> {
        let known = self.book.get(key);
        let link = self.links.of(key);
        if known.is_none() && link.is_none() {
            return None;
        }
        let stats = link.and_then(|(conn, _)| self.transport.stats(conn));
        let seen = known.map_or((self.wall, self.wall), |p| (p.first_seen, p.last_seen));
        let since: UnixTime = link.map_or(seen.1, |(_, l)| l.since_wall);
        Some(PeerView {
            key: *key,
            peer_id: key.peer_id(),
            state: self.peer_state(key),
            since,
            addr: link.and_then(|(conn, _)| self.addr_of(conn)),
            rtt_us: stats.map(|s| s.rtt_us),
            bytes: stats.map_or((0, 0), |s| (s.bytes_tx, s.bytes_rx)),
            seen,
            source: known.map_or("met", |p| p.source.as_str()),
            trouble: if link.is_some() { None } else { self.cascade.trouble(key) },
            services: count(self.catalogue.offers().of(key).len()),
            blocked: known.is_some_and(|p| p.blocked),
            path: link.and_then(|(conn, _)| self.reach.paths.view(conn)),
        })
    }

    /// What our record says; its endpoints are filled in by the DHT room.
    pub(super) fn record_content(&self) -> RecordContent {
        let (services, catalogue) = self.catalogue.summary();
        RecordContent {
            node_type: if self.config.public { NodeType::Public } else { NodeType::Private },
            services,
            catalogue: (services > 0).then_some(catalogue),
            relay_offer: self.relay_offer(),
            attachments: self.reserving.attachments().to_vec(),
            nat: self.nat_type(),
            machine: self.config.machine.clone(),
            ..RecordContent::default()
        }
    }
}

fn placements(plan: &Plan) -> Vec<Placement> {
    plan.tasks
        .iter()
        .map(|t| Placement {
            task: t.id.clone(),
            service: t.service,
            service_name: t.service_name.clone(),
            peers: t.candidates.clone(),
            why: match (t.spread, t.candidates.len()) {
                (_, 1) => "the only peer that offers it and was asked for".to_owned(),
                (true, n) => format!("{n} peers offer it; the least busy is taken"),
                (false, n) => format!("the first of {n} named peers that is there"),
            },
        })
        .collect()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
