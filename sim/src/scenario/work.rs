//! What the applications of a plan do.

use super::{Mark, Purpose, RETRY_MS, SERVICES, Scenario, TICKET_VALID, module, object, run_id};
use crate::check::Violation;
use crate::expect::{Expected, evaluate};
use crate::host::Core;
use crate::net::HostId;
use crate::plan::{Shape, WorkKind};
use bytes::Bytes;
use remote_network_core::command::Command;
use remote_network_core::id::{Digest, PeerName};
use remote_network_core::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use remote_network_core::port::Port;
use std::collections::BTreeMap;

impl<C: Core> Scenario<C> {
    pub(super) fn try_work(&mut self, nth: usize) {
        let Some(work) = self.plan.work.get(nth).cloned().filter(|_| !self.done.contains(&nth)) else {
            return;
        };
        if let WorkKind::Transfer { from, bytes } = work.what {
            return self.share(nth, work.host, from, bytes);
        }
        let command = match &work.what {
            WorkKind::Transfer { .. } => return,
            WorkKind::Connect { to, by_address } => match self.world.hosts.get(*to as usize) {
                Some(target) => Command::Connect {
                    peer: PeerName::Key(target.config.keypair.public()),
                    addr: self.world.net.public_address(*to).filter(|_| *by_address),
                },
                None => return,
            },
            WorkKind::Status => Command::Status,
            WorkKind::Run { .. } => match self.submission(nth, work.host, &work.what) {
                Some(command) => command,
                None => return,
            },
            WorkKind::Cancel { nth } => Command::Cancel(run_id(self.plan.seed, *nth)),
        };
        if !self.give(work.host, command, Purpose::Work(nth)) {
            self.after(RETRY_MS, Mark::Work(nth));
        }
    }

    /// A transfer begins where the object is: its owner permits it.
    pub(super) fn share(&mut self, nth: usize, to: HostId, from: HostId, bytes: u64) {
        let object = object(self.plan.seed, nth, bytes);
        let (digest, _) = self.world.depot().learn(object);
        let Some(consumer) = self.world.hosts.get(to as usize).map(|h| h.config.keypair.public()) else {
            return;
        };
        let stored =
            self.world.hosts.get_mut(from as usize).is_some_and(|h| h.disk.blobs.put_formula(object).is_ok());
        let share = Command::Share { digest, consumer, valid: TICKET_VALID };
        if !stored || !self.give(from, share, Purpose::Share(nth)) {
            self.after(RETRY_MS, Mark::Work(nth));
        }
    }

    /// The permission is here: the other side fetches.
    pub(super) fn fetch(&mut self, nth: usize, ticket: Bytes) {
        let Some(work) = self.plan.work.get(nth).cloned() else { return };
        let WorkKind::Transfer { from, bytes: len } = work.what else { return };
        let Some(owner) = self.world.hosts.get(from as usize).map(|h| h.config.keypair.public()) else {
            return;
        };
        let (digest, _) = self.world.depot().learn(object(self.plan.seed, nth, len));
        let fetch = Command::Fetch { digest, len, from: owner, ticket };
        if !self.give(work.host, fetch, Purpose::Work(nth)) {
            self.after(RETRY_MS, Mark::Work(nth));
        }
    }

    /// Whatever was fetched must be there. The store has hashed what it holds under a digest, so that it is the object.
    pub(super) fn judge_transfer(&mut self, nth: usize, host: HostId) {
        let Some(WorkKind::Transfer { bytes, .. }) = self.plan.work.get(nth).map(|w| w.what.clone()) else {
            return;
        };
        let (digest, _) = self.world.depot().learn(object(self.plan.seed, nth, bytes));
        let there = self.world.hosts.get(host as usize).is_some_and(|h| h.disk.blobs.holds(&digest));
        if !there {
            let at_ns = self.world.now_ns();
            self.world.checks.found(at_ns, host, Violation::WrongTransfer(digest));
        }
    }

    /// The command that submits a run; its object is in the store and the checkers know what must come of it.
    pub(super) fn submission(&mut self, nth: usize, at: HostId, what: &WorkKind) -> Option<Command> {
        let WorkKind::Run { bytes_in, .. } = what else { return None };
        let object = object(self.plan.seed, nth, *bytes_in);
        let (digest, info) = self.world.depot().learn(object);
        let source = ObjectRef { digest, len: info.len };
        let host = self.world.hosts.get_mut(at as usize)?;
        if host.disk.blobs.put_formula(object).is_err() {
            self.after(RETRY_MS, Mark::Work(nth));
            return None;
        }
        let workflow = self.workflow(nth, what, source)?;
        let modules =
            (0..SERVICES).map(|n| (format!("s{n}"), Digest::of(&module(n)))).collect::<BTreeMap<_, _>>();
        let expected: Expected = evaluate(&workflow, &modules);
        let run = run_id(self.plan.seed, nth);
        self.world.checks.expects(run, at, expected);
        Some(Command::Submit { run, workflow: Box::new(workflow) })
    }

    pub(super) fn workflow(&self, nth: usize, what: &WorkKind, source: ObjectRef) -> Option<Workflow> {
        let WorkKind::Run { shape, executors, bytes_out, task_ms, .. } = what else { return None };
        let task = |name: &str, executor: HostId| -> Option<NodeKind> {
            let service = *self.plan.hosts.get(executor as usize)?.services.first()?;
            let peer = self.world.hosts.get(executor as usize)?.config.keypair.public();
            Some(NodeKind::Task(TaskSpec {
                service: format!("s{service}"),
                peers: vec![peer],
                args: vec![name.into(), format!("bytes={bytes_out}"), format!("ms={task_ms}")],
                retries: 3,
                ..TaskSpec::default()
            }))
        };
        let edge = |from: &str, to: &str| Edge {
            from: End { node: from.into(), port: Port::Stdout },
            to: End { node: to.into(), port: Port::Stdin },
        };
        let mut w = Workflow { name: format!("run {nth}"), ..Workflow::default() };
        w.nodes.push(("in".into(), NodeKind::Source(vec![source])));
        let mut last = "in".to_owned();
        for (i, executor) in executors.iter().enumerate() {
            let name = format!("t{i}");
            w.nodes.push((name.clone(), task(&name, *executor)?));
            match shape {
                Shape::Chain => w.edges.push(edge(&last, &name)),
                Shape::Fan | Shape::Join => w.edges.push(edge("in", &name)),
            }
            if *shape == Shape::Fan {
                w.nodes.push((format!("out{i}"), NodeKind::Sink));
                w.edges.push(edge(&name, &format!("out{i}")));
            }
            last = name;
        }
        if *shape == Shape::Join {
            w.nodes.push(("join".into(), task("join", *executors.first()?)?));
            (0..executors.len()).for_each(|i| w.edges.push(edge(&format!("t{i}"), "join")));
            last = "join".into();
        }
        if *shape != Shape::Fan {
            w.nodes.push(("out".into(), NodeKind::Sink));
            w.edges.push(edge(&last, "out"));
        }
        Some(w)
    }
}
