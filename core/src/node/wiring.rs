//! Which machine's output is which machine's input, and what waits for the journal.
//!
//! Everything that leaves a journaling machine (frames, port requests, answers) goes through the gate. What only moves
//! inside the node does not: it changes nothing that others could rely on, and after a crash the machines derive it anew.

use super::gate::Effect;
use super::sealing::Verdict;
use super::{Node, rng};
use crate::action::Action;
use crate::command::{Notice, Reply};
use crate::dht;
use crate::dht::lookup::LookupFailed;
use crate::id::{CommandId, Digest, OpId, PublicKey};
use crate::identity::seek::Seek;
use crate::identity::{book, cascade};
use crate::job::{executor, message::Addressee, message::Message, requester};
use crate::machine::{Cx, Machine};
use crate::path::behaviour::observer;
use crate::path::{paths, punch, stun};
use crate::port::{BlobAnswer, BlobFailed, BlobRequest, DhtEvent, EngineReport};
use crate::relay::errand::Told;
use crate::rng::Rng;
use crate::service::{catalogue, search};
use crate::store::StoreOp;
use crate::ticket::Ticket;
use crate::time::{Instant, UnixTime};
use crate::transfer::fetch::{Claim, Waiter};
use crate::transfer::serve::Reason;
use crate::transfer::{StreamKey, StreamOp, fetch, serve, trees};
use crate::transport::Transport;
use std::net::SocketAddr;

/// Who waits for an object: the requester's results, the executor's inputs, or a command.
pub(super) const REQUESTER: Waiter = Waiter([1; 16]);
pub(super) const EXECUTOR: Waiter = Waiter([2; 16]);
/// The parts of directories.
pub(super) const TREES: Waiter = Waiter([3; 16]);
/// Ends of executions whose outputs are directories. Not the jobs themselves: their names are chosen by others.
pub(super) const OUTPUTS: Waiter = Waiter([4; 16]);

/// The waiter of a command's fetch. Its first byte keeps it apart from those above.
pub(super) fn command_waiter(id: CommandId) -> Waiter {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&id.0.to_be_bytes());
    Waiter(bytes)
}

pub(super) fn waiting_command(waiter: &Waiter) -> Option<CommandId> {
    let (zeros, id) = waiter.0.split_at(8);
    (zeros == [0; 8]).then(|| CommandId(u64::from_be_bytes(id.try_into().unwrap_or_default())))
}

/// Sources as the fetcher takes them. A ticket that does not decode is none: the holder refuses, and the failure names it.
fn tickets(sources: Vec<(PublicKey, Option<bytes::Bytes>)>) -> Vec<(PublicKey, Option<Ticket>)> {
    let ticket = |t: Option<bytes::Bytes>| t.and_then(|t| Ticket::decode(&t).ok());
    sources.into_iter().map(|(s, t)| (s, ticket(t))).collect()
}

/// One generator per machine.
pub(super) struct Rngs {
    pub(super) node: Rng,
    pub(super) exchange: Rng,
    dht: Rng,
    book: Rng,
    cascade: Rng,
    fetch: Rng,
    serve: Rng,
    trees: Rng,
    catalogue: Rng,
    requester: Rng,
    executor: Rng,
    pub(super) search: Rng,
    pub(super) passing: Rng,
    pub(super) reserving: Rng,
    pub(super) paths: Rng,
    pub(super) punch: Rng,
    pub(super) observer: Rng,
    pub(super) stun: Rng,
    pub(super) dialback: Rng,
    pub(super) tunnels: Rng,
}

impl Rngs {
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        Self {
            node: rng(seed, "node"),
            exchange: rng(seed, "exchange"),
            dht: rng(seed, "dht"),
            book: rng(seed, "book"),
            cascade: rng(seed, "cascade"),
            fetch: rng(seed, "fetch"),
            serve: rng(seed, "serve"),
            trees: rng(seed, "trees"),
            catalogue: rng(seed, "catalogue"),
            requester: rng(seed, "requester"),
            executor: rng(seed, "executor"),
            search: rng(seed, "search"),
            passing: rng(seed, "relay server"),
            reserving: rng(seed, "relay client"),
            paths: rng(seed, "paths"),
            punch: rng(seed, "punch"),
            observer: rng(seed, "observer"),
            stun: rng(seed, "stun"),
            dialback: rng(seed, "dial-back"),
            tunnels: rng(seed, "tunnels"),
        }
    }
}

/// An input on its way to a machine.
#[derive(Debug)]
pub(super) enum Inside {
    Dht(dht::Input),
    Book(book::Input),
    Cascade(cascade::Input),
    Fetch(fetch::Input),
    Serve(serve::Input),
    Trees(trees::Input),
    /// What is no longer needed, or waits for removals, is looked at again; after everything that came before.
    Removals(Option<Digest>),
    Catalogue(catalogue::Input),
    Requester(requester::Input),
    Executor(executor::Input),
    Search(search::Input),
    Paths(paths::Input),
    Punch(punch::Input),
    Observer(observer::Input),
    Stun(stun::Input),
}

/// Lets a machine handle one thing and returns what it emitted.
pub(super) fn drive<M: Machine>(
    machine: &mut M,
    rng: &mut Rng,
    now: Instant,
    wall: UnixTime,
    f: impl FnOnce(&mut M, &mut Cx<'_, M::Output>),
) -> Vec<M::Output> {
    let mut out = Vec::new();
    f(machine, &mut Cx::new(now, wall, rng, &mut out));
    out
}

/// `drive` on a machine of the node, by the name of its field and of its generator.
macro_rules! drive {
    ($node:ident, $machine:ident, $rng:ident, $f:expr) => {
        drive(&mut $node.$machine, &mut $node.rngs.$rng, $node.now, $node.wall, $f)
    };
}

impl<T: Transport> Node<T> {
    /// Hands one input to its machine and routes what follows.
    pub(super) fn step(&mut self, input: Inside) {
        match input {
            Inside::Dht(i) => {
                let about_us = matches!(i, dht::Input::Observed { .. } | dht::Input::NetworkChanged);
                let out = drive!(self, dht, dht, |m, cx| m.handle(cx, i));
                self.after_dht(out);
                if about_us {
                    self.tell_own_addrs();
                }
            }
            Inside::Book(i) => {
                let out = drive!(self, book, book, |m, cx| m.handle(cx, i));
                self.after_book(out);
            }
            Inside::Cascade(i) => {
                let out = drive!(self, cascade, cascade, |m, cx| m.handle(cx, i));
                self.after_cascade(out);
            }
            Inside::Fetch(i) => {
                let out = drive!(self, fetcher, fetch, |m, cx| m.handle(cx, i));
                self.after_fetch(out);
            }
            Inside::Serve(i) => {
                let out = drive!(self, server, serve, |m, cx| m.handle(cx, i));
                self.after_serve(out);
            }
            Inside::Trees(i) => {
                let out = drive!(self, trees, trees, |m, cx| m.handle(cx, i));
                self.after_trees(out);
            }
            Inside::Removals(unneeded) => {
                if let Some(digest) = unneeded {
                    self.remove_object(digest);
                }
                self.removals_moved();
            }
            Inside::Catalogue(i) => {
                let out = drive!(self, catalogue, catalogue, |m, cx| m.handle(cx, i));
                self.after_catalogue(out);
            }
            Inside::Requester(i) => {
                let out = drive!(self, requester, requester, |m, cx| m.handle(cx, i));
                self.after_requester(out);
            }
            Inside::Executor(i) => {
                let out = drive!(self, executor, executor, |m, cx| m.handle(cx, i));
                self.after_executor(out);
            }
            Inside::Search(i) => self.search(|m, cx| m.handle(cx, i)),
            Inside::Paths(i) => {
                let (now, wall) = (self.now, self.wall);
                let out =
                    drive(&mut self.reach.paths, &mut self.rngs.paths, now, wall, |m, cx| m.handle(cx, i));
                self.after_paths(out);
            }
            Inside::Punch(i) => {
                let (now, wall) = (self.now, self.wall);
                let out =
                    drive(&mut self.reach.puncher, &mut self.rngs.punch, now, wall, |m, cx| m.handle(cx, i));
                self.after_punch(out);
            }
            Inside::Observer(i) => {
                let (now, wall) = (self.now, self.wall);
                let observer = &mut self.reach.observer;
                let out = drive(observer, &mut self.rngs.observer, now, wall, |m, cx| m.handle(cx, i));
                self.after_observer(out);
            }
            Inside::Stun(i) => {
                let (now, wall) = (self.now, self.wall);
                let out =
                    drive(&mut self.reach.stun, &mut self.rngs.stun, now, wall, |m, cx| m.handle(cx, i));
                self.after_stun(out);
            }
        }
    }

    /// Wakes every machine whose deadline has come.
    pub(super) fn machines_timeout(&mut self) {
        let now = self.now;
        let due = |d: Option<crate::time::Deadline>| d.is_some_and(|d| d.at <= now);
        if due(self.dht.poll_timeout()) {
            let out = drive!(self, dht, dht, Machine::handle_timeout);
            self.after_dht(out);
        }
        if due(self.book.poll_timeout()) {
            let out = drive!(self, book, book, Machine::handle_timeout);
            self.after_book(out);
        }
        if due(self.cascade.poll_timeout()) {
            let out = drive!(self, cascade, cascade, Machine::handle_timeout);
            self.after_cascade(out);
        }
        if due(self.fetcher.poll_timeout()) {
            let out = drive!(self, fetcher, fetch, Machine::handle_timeout);
            self.after_fetch(out);
        }
        if due(self.server.poll_timeout()) {
            let out = drive!(self, server, serve, Machine::handle_timeout);
            self.after_serve(out);
        }
        if due(self.catalogue.poll_timeout()) {
            let out = drive!(self, catalogue, catalogue, Machine::handle_timeout);
            self.after_catalogue(out);
        }
        if due(self.requester.poll_timeout()) {
            let out = drive!(self, requester, requester, Machine::handle_timeout);
            self.after_requester(out);
        }
        if due(self.searching.poll_timeout()) {
            self.search(Machine::handle_timeout);
        }
        if due(self.executor.poll_timeout()) {
            let out = drive!(self, executor, executor, Machine::handle_timeout);
            self.after_executor(out);
        }
    }

    /// Where we are, as far as known: nothing there is dialled, and neighbours are told by it.
    fn tell_own_addrs(&mut self) {
        let mut own = self.dht.own_addrs();
        own.extend(self.local_addrs.iter().filter(|a| !a.ip().is_unspecified()));
        own.sort_unstable();
        own.dedup();
        if self.own_addrs != own {
            self.own_addrs.clone_from(&own);
            if self.passing.is_some() {
                self.content_changed();
            }
            self.inbox.push_back(Inside::Cascade(cascade::Input::OwnAddrs(own)));
        }
    }

    /// A peer worth reaching for, unless the user blocks it.
    pub(super) fn learnt(&mut self, key: PublicKey, addr: Option<SocketAddr>) {
        if !self.book.is_blocked(&key) {
            self.inbox.push_back(Inside::Cascade(cascade::Input::Learnt { key, addr }));
        }
    }

    fn persist(&mut self, op: StoreOp) {
        self.gate.persist(op);
    }

    pub(super) fn hold(&mut self, action: Action) {
        self.gate.hold(Effect::Action(action));
    }

    /// Answers a command once everything recorded so far is durable.
    pub(super) fn reply(&mut self, id: CommandId, reply: Reply) {
        self.hold(Action::Reply { id, reply });
    }

    /// Tells of something that no journal holds. What is journaled (runs, tasks) is told through the gate: a run that was
    /// said to be over must not be found running after a crash.
    pub(super) fn notify(&mut self, notice: Notice) {
        self.actions.push_back(Action::Notify(notice));
    }

    fn after_dht(&mut self, out: Vec<dht::Output>) {
        for o in out {
            match o {
                dht::Output::Persist(op) => self.persist(op),
                dht::Output::Dht { op, request } => self.hold(Action::Dht { op, request }),
                dht::Output::Found { key, result } => {
                    let presence = match &result {
                        Ok(_) => book::Presence::Record,
                        Err(LookupFailed::NotFound) => book::Presence::NoRecord,
                        Err(LookupFailed::Refused | LookupFailed::Request(_)) => book::Presence::Unknown,
                    };
                    if result.is_ok() {
                        self.record_found(&key);
                    }
                    self.inbox.push_back(Inside::Book(book::Input::Looked(key, presence)));
                    self.inbox.push_back(Inside::Cascade(cascade::Input::Found { key, result }));
                }
                dht::Output::Hint(addr) => self.inbox.push_back(Inside::Cascade(cascade::Input::Hint(addr))),
                dht::Output::Published { seq, stored } => self.notify(Notice::Published { seq, stored }),
                dht::Output::Refused(why) => self.refuse(why),
            }
        }
    }

    fn after_book(&mut self, out: Vec<book::Output>) {
        for o in out {
            match o {
                book::Output::Persist(op) => self.persist(op),
                book::Output::New { key, addr } => self.learnt(key, addr),
                book::Output::Lookup(key) => self.inbox.push_back(Inside::Dht(dht::Input::Lookup(key))),
                // Nothing is under way for a peer nobody has seen for a day.
                book::Output::Forgotten(_) => {}
                book::Output::Refused(why) => self.refuse(why),
            }
        }
    }

    fn after_cascade(&mut self, out: Vec<cascade::Output>) {
        for o in out {
            match o {
                cascade::Output::Lookup(key) => self.inbox.push_back(Inside::Dht(dht::Input::Lookup(key))),
                cascade::Output::Invalidate(key) => {
                    self.inbox.push_back(Inside::Dht(dht::Input::Invalidate(key)))
                }
                cascade::Output::Dial { dial, peer, way } => self.dial(dial, peer, way),
                cascade::Output::Seek { of, key } => self.send_frame(of, &Seek { key }.to_frame()),
                cascade::Output::ConnectDone { id, key, result } => self.connect_done(id, key, result),
                cascade::Output::WantPeers(n) => {
                    let apart = self.book.most_recent(n, |k| !self.links.is_up(k));
                    for (key, addr) in apart {
                        self.learnt(key, addr);
                    }
                }
                cascade::Output::Refused(why) => self.refuse(why),
            }
        }
    }

    fn after_fetch(&mut self, out: Vec<fetch::Output>) {
        for o in out {
            match o {
                fetch::Output::Open { op, peer } => self.open_transfer(op, peer),
                fetch::Output::Stream { stream, op } => self.stream_op(stream, op),
                // Content-addressed writes commit nothing: they need not wait for the journal.
                fetch::Output::Blob { op, request } => self.actions.push_back(Action::Blob { op, request }),
                fetch::Output::Progress { digest, len, done } => {
                    self.arrived.insert(digest);
                    self.inbox.push_back(Inside::Requester(requester::Input::Progress { digest, done }));
                    self.notify(Notice::Transfer { digest, done, len });
                }
                fetch::Output::Fetched { digest, claim, waiters, .. } => {
                    let new = self.arrived.remove(&digest);
                    self.fetched(digest, claim, &waiters, new);
                }
                fetch::Output::FetchFailed { digest, claim, waiters, why, .. } => {
                    self.arrived.remove(&digest);
                    let hopeless = why.is_final();
                    self.fetch_failed(digest, claim, &waiters, &why.to_string(), hopeless);
                }
                fetch::Output::Lied { .. } => self.refuse("transfer-lie"),
            }
        }
    }

    fn fetched(&mut self, digest: Digest, claim: Claim, waiters: &[Waiter], new: bool) {
        for w in waiters {
            match *w {
                // What has become a directory meanwhile is asked for as one, and this is not the answer.
                REQUESTER if self.requester.wants_tree(&digest) => {}
                REQUESTER => self.inbox.push_back(Inside::Requester(requester::Input::Fetched(digest))),
                EXECUTOR => {
                    let fetched = executor::Input::Fetched { digest, claim, tree: false, new };
                    self.inbox.push_back(Inside::Executor(fetched));
                }
                TREES => self.inbox.push_back(Inside::Trees(trees::Input::Fetched { digest, claim, new })),
                _ => {
                    if let Some(id) = waiting_command(w) {
                        self.fetch_command_done(id, digest, Ok(()));
                    }
                }
            }
        }
    }

    fn fetch_failed(&mut self, digest: Digest, claim: Claim, waiters: &[Waiter], why: &str, hopeless: bool) {
        for w in waiters {
            let why = why.to_owned();
            match *w {
                REQUESTER if self.requester.wants_tree(&digest) => {}
                REQUESTER => {
                    self.inbox.push_back(Inside::Requester(requester::Input::FetchFailed { digest, why }));
                }
                EXECUTOR => {
                    let failed = executor::Input::FetchFailed { digest, claim, tree: false, why, hopeless };
                    self.inbox.push_back(Inside::Executor(failed));
                }
                TREES => {
                    let failed = trees::Input::FetchFailed { digest, claim, why, hopeless };
                    self.inbox.push_back(Inside::Trees(failed));
                }
                _ => {
                    if let Some(id) = waiting_command(w) {
                        self.fetch_command_done(id, digest, Err(why));
                    }
                }
            }
        }
    }

    fn after_serve(&mut self, out: Vec<serve::Output>) {
        for o in out {
            match o {
                serve::Output::Persist(op) => self.persist(op),
                serve::Output::Stream { stream, op } => self.stream_op(stream, op),
                serve::Output::Blob { op, request } => self.actions.push_back(Action::Blob { op, request }),
                serve::Output::GrantFull { .. } => self.refuse("transfer-grants-full"),
                serve::Output::Served { .. } => {}
                serve::Output::Fault { .. } => self.refuse("transfer-malformed"),
            }
        }
    }

    pub(super) fn stream_op(&mut self, stream: StreamKey, op: StreamOp) {
        let (streams, transport) = (&mut self.streams, &mut self.transport);
        match op {
            StreamOp::Read { max } => streams.want(transport, stream, max),
            StreamOp::Send { bytes } => streams.send(transport, stream, bytes),
            StreamOp::Finish => streams.finish(transport, stream),
            StreamOp::Release => streams.release(transport, stream),
            StreamOp::Reset => streams.abandon(transport, stream),
        }
    }

    fn after_catalogue(&mut self, out: Vec<catalogue::Output>) {
        for o in out {
            match o {
                catalogue::Output::Persist(op) => self.persist(op),
                catalogue::Output::Send { peer, frame } => self.gate.hold(Effect::Frame { peer, frame }),
                catalogue::Output::Own(services) => {
                    self.inbox.push_back(Inside::Executor(executor::Input::Services(services)));
                    self.content_changed();
                }
                catalogue::Output::Offers { peer, services } => {
                    self.search_hears(peer, services.as_ref());
                    self.inbox.push_back(Inside::Requester(requester::Input::Offers { peer, services }));
                    self.catalogues_changed();
                }
                catalogue::Output::Machine { peer, machine } => {
                    self.inbox.push_back(Inside::Requester(requester::Input::Machine { peer, machine }));
                }
                catalogue::Output::Withdrawn(dataset) => self.remove_object(dataset),
                catalogue::Output::Reply { id, reply } => self.reply(id, reply),
            }
        }
    }

    fn after_requester(&mut self, out: Vec<requester::Output>) {
        for o in out {
            match o {
                requester::Output::Persist(op) => self.persist(op),
                requester::Output::Send { peer, frame } => self.gate.hold(Effect::Frame { peer, frame }),
                requester::Output::NeedPeer(peer) => self.need_peer(peer),
                requester::Output::Want { digest, len, tree, sources } => {
                    self.bring((digest, len, None), tree, tickets(sources), REQUESTER);
                }
                requester::Output::Keep { digest, bytes } => self.keep_small(digest, bytes),
                requester::Output::Read { digest, len } => self.read_small(digest, len),
                requester::Output::Remove { digest } => self.remove_object(digest),
                requester::Output::Grant { digest, requester } => {
                    let reason = Reason::Run;
                    self.inbox.push_back(Inside::Serve(serve::Input::Grant { digest, requester, reason }));
                }
                requester::Output::Revoke { digest, requester } => {
                    let reason = Reason::Run;
                    self.inbox.push_back(Inside::Serve(serve::Input::Revoke { digest, requester, reason }));
                }
                requester::Output::RunChanged(run) => {
                    if let Some(view) = self.requester.summary_of(&run) {
                        self.hold(Action::Notify(Notice::Run(Box::new(view))));
                    }
                }
                requester::Output::Disagreement { run, task } => {
                    if let Some(view) = self.requester.task_view(&run, task) {
                        self.hold(Action::Notify(Notice::Disagreement { run, task: Box::new(view) }));
                    }
                }
                requester::Output::TaskChanged { run, task } => {
                    if let Some(view) = self.requester.task_view(&run, task) {
                        self.hold(Action::Notify(Notice::Task { run, task: Box::new(view) }));
                    }
                }
                requester::Output::Reply { id, reply } => self.reply(id, *reply),
            }
        }
    }

    fn after_executor(&mut self, out: Vec<executor::Output>) {
        for o in out {
            match o {
                executor::Output::Persist(op) => self.persist(op),
                executor::Output::Send { peer, frame } => self.gate.hold(Effect::Frame { peer, frame }),
                executor::Output::Want { digest, len, claim, tree, sources } => {
                    self.bring((digest, len, claim), tree, tickets(sources), EXECUTOR);
                }
                executor::Output::Engine { job, request } => self.hold(Action::Engine { job, request }),
                executor::Output::Ended(report) => self.engine_report(report),
                executor::Output::Sweep { keep } => self.hold(Action::Sweep { keep }),
                executor::Output::Grant { digest, requester, tree } => {
                    let reason = if tree { Reason::JobTree } else { Reason::Job };
                    self.inbox.push_back(Inside::Serve(serve::Input::Grant { digest, requester, reason }));
                }
                executor::Output::Revoke { digest, requester } => {
                    for reason in [Reason::Job, Reason::JobTree] {
                        let revoke = serve::Input::Revoke { digest, requester, reason };
                        self.inbox.push_back(Inside::Serve(revoke));
                    }
                }
                executor::Output::Remove { digest } => self.remove_object(digest),
            }
        }
    }

    /// Removes an object that no job needs any more, unless a service or a run of this node does, or its user keeps it.
    pub(super) fn remove_object(&mut self, digest: Digest) {
        let held = self.catalogue.holds(&digest)
            || self.requester.holds(&digest)
            || self.executor.holds(&digest)
            || self.sealing.holds(&digest)
            || self.treeing.holds(&digest)
            || self.offering.holds(&digest)
            || self.trees.holds(&digest)
            || self.server.is_granted_for(&digest, &self.me, Reason::User)
            || self.server.is_granted_for(&digest, &self.me, Reason::UserTree);
        if held || self.is_too_early(digest) {
            return;
        }
        // If it is a directory, its files follow it.
        self.inbox.push_back(Inside::Trees(trees::Input::Forget(digest)));
        let op = self.commands.issue_op();
        self.sealing.removing(op, digest);
        self.hold(Action::Blob { op, request: BlobRequest::Remove { digest } });
    }

    /// The engine reports; the end of an execution waits until its outputs are known to be there.
    pub(super) fn engine_report(&mut self, report: EngineReport) {
        if let Some(report) = self.sealing.reported(report) {
            self.inbox.push_back(Inside::Executor(executor::Input::Engine(report)));
        }
        self.ask_for_outputs();
    }

    fn ask_for_outputs(&mut self) {
        for (job, digest) in self.sealing.next_questions() {
            let op = self.sealing.asked(job);
            self.actions.push_back(Action::Blob { op, request: BlobRequest::Open { digest } });
        }
    }

    /// The store answers a removal or a question after an output.
    fn own_blob_answer(&mut self, op: OpId, result: Result<BlobAnswer, BlobFailed>) {
        // What cannot be read now may be read later; only what is not there, or not what it was, is made again.
        let there = !matches!(result, Err(BlobFailed::NotFound | BlobFailed::Corrupt));
        if result.is_err() && there {
            self.refuse("store-failed");
        }
        self.keep_answered(op, there);
        // In front of everything else, so that the outputs are held by the executor before anything can be given up.
        match self.sealing.answered(op, there) {
            Some(Verdict::There(report)) => self.outputs_there(report),
            Some(Verdict::Gone(job)) => {
                self.inbox.push_front(Inside::Executor(executor::Input::OutputsGone(job)));
            }
            None => {}
        }
        self.ask_for_outputs();
        self.look_at_removals();
    }

    /// What the DHT tells goes to who asked.
    pub(super) fn dht_event(&mut self, event: DhtEvent) {
        match event {
            DhtEvent::Value { op, item } if op.room() == super::op_room::ERRANDS => {
                self.errand_event(op, Told::Value(item));
            }
            DhtEvent::Done { op, result } if op.room() == super::op_room::ERRANDS => {
                self.errand_event(op, Told::Done(result));
            }
            event => self.inbox.push_back(Inside::Dht(dht::Input::Dht(event))),
        }
    }

    /// An answer of the store goes to who asked.
    pub(super) fn blob_answer(&mut self, op: OpId, result: Result<BlobAnswer, BlobFailed>) {
        match op.room() {
            super::op_room::FETCH => self.inbox.push_back(Inside::Fetch(fetch::Input::Blob { op, result })),
            super::op_room::SERVE => self.inbox.push_back(Inside::Serve(serve::Input::Blob { op, result })),
            super::op_room::TREES => self.inbox.push_back(Inside::Trees(trees::Input::Blob { op, result })),
            super::op_room::KEEPING => self.small_answered(op, result),
            super::op_room::NODE | super::op_room::SEALING => self.own_blob_answer(op, result),
            _ => self.refuse("store-answer-unknown"),
        }
    }

    /// A job message of a peer, or of this node to itself.
    pub(super) fn job_message(&mut self, peer: PublicKey, message: Message) {
        let message = Box::new(message);
        self.inbox.push_back(match message.addressee() {
            Addressee::Requester => Inside::Requester(requester::Input::Message { peer, message }),
            Addressee::Executor => Inside::Executor(executor::Input::Message { peer, message }),
        });
    }
}
