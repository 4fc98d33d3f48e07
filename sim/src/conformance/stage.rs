//! What the cases speak: machines by number, commands with their answers, and waiting with a limit.

use super::Bench;
use crate::net::HostId;
use crate::world::Said;
use remote_network_core::command::{Command, Notice, Reply, StatusView};
use remote_network_core::id::{CommandId, Keypair, PublicKey};
use remote_network_core::node::NodeConfig;
use remote_network_core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

/// Notices kept until somebody waits for one; the oldest go first.
const NOTICES_MAX: usize = 10_000;

/// A bench, and what its nodes have said that no case has heard yet.
pub struct Stage<B> {
    /// Where the nodes run.
    pub bench: B,
    keys: Vec<PublicKey>,
    outstanding: BTreeMap<CommandId, HostId>,
    replies: BTreeMap<CommandId, Reply>,
    notices: VecDeque<(HostId, Notice)>,
    stopped: BTreeMap<HostId, Option<String>>,
}

/// All of these panic when a law of the suite is broken, as assertions of a test do.
impl<B: Bench> Stage<B> {
    /// An empty stage.
    #[allow(clippy::new_without_default, reason = "a bench may open sockets and start runtimes")]
    pub fn new() -> Self {
        Self {
            bench: B::new(),
            keys: Vec::new(),
            outstanding: BTreeMap::new(),
            replies: BTreeMap::new(),
            notices: VecDeque::new(),
            stopped: BTreeMap::new(),
        }
    }

    /// Adds a machine and starts its node.
    pub fn node(&mut self) -> HostId {
        let keypair = keypair(self.keys.len() as u8);
        self.keys.push(keypair.public());
        let host = self.bench.add(NodeConfig::new(keypair));
        self.bench.start(host);
        host
    }

    /// Who lives there.
    pub fn key(&self, host: HostId) -> PublicKey {
        self.keys[host as usize]
    }

    /// Gives a command without waiting.
    pub fn give(&mut self, host: HostId, command: Command) -> CommandId {
        let text = format!("{command:?}");
        let id = self.bench.command(host, command).unwrap_or_else(|| panic!("{host} is down: {text}"));
        self.outstanding.insert(id, host);
        id
    }

    /// Waits for the answer to a command.
    pub fn reply(&mut self, id: CommandId) -> Reply {
        self.until(&format!("the answer to {id:?}"), |stage| stage.replies.remove(&id))
    }

    /// Gives a command and waits for its answer.
    pub fn ask(&mut self, host: HostId, command: Command) -> Reply {
        let id = self.give(host, command);
        self.reply(id)
    }

    /// How a node says it is.
    pub fn status(&mut self, host: HostId) -> StatusView {
        match self.ask(host, Command::Status) {
            Reply::Status(status) => *status,
            other => panic!("status was answered with {other:?}"),
        }
    }

    /// Waits for a notice of `host` that `wanted` takes; those before it are forgotten.
    pub fn notice<T>(&mut self, host: HostId, what: &str, wanted: impl Fn(Notice) -> Option<T>) -> T {
        self.until(what, |stage| {
            while let Some((from, notice)) = stage.notices.pop_front() {
                let found = if from == host { wanted(notice) } else { None };
                if found.is_some() {
                    return found;
                }
            }
            None
        })
    }

    /// Waits for the end of a node that was told to stop.
    pub fn ended(&mut self, host: HostId) {
        let fault = self.until("the end of a node", |stage| stage.stopped.remove(&host));
        assert_eq!(fault, None, "node {host} stopped with a fault");
    }

    /// Waits until `wanted` gives something.
    pub fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&mut Self) -> Option<T>) -> T {
        let begun = self.bench.elapsed();
        loop {
            if let Some(found) = wanted(self) {
                return found;
            }
            let left = B::PATIENCE.saturating_sub(self.bench.elapsed().saturating_sub(begun));
            if !self.hear(left) {
                panic!("waited for {what} in vain; the last notices: {:#?}", self.notices);
            }
        }
    }

    /// Listens for so long, whatever is said.
    pub fn listen(&mut self, time: Duration) {
        let begun = self.bench.elapsed();
        while self.hear(time.saturating_sub(self.bench.elapsed().saturating_sub(begun))) {}
    }

    /// The next thing a node says goes to where it is waited for; `false` when the time is over first.
    fn hear(&mut self, within: Duration) -> bool {
        match self.bench.next(within) {
            Some(Said::Reply(host, id, reply)) => {
                let asked = self.outstanding.remove(&id);
                assert_eq!(asked, Some(host), "an answer that nobody waits for: {id:?} {reply:?}");
                self.replies.insert(id, reply);
            }
            Some(Said::Notice(host, notice)) => {
                if self.notices.len() == NOTICES_MAX {
                    self.notices.pop_front();
                }
                self.notices.push_back((host, notice));
            }
            Some(Said::Stopped(host, fault)) => {
                let unanswered = self.outstanding.values().filter(|h| **h == host).count();
                assert_eq!(unanswered, 0, "node {host} stopped with commands unanswered");
                assert_eq!(self.stopped.insert(host, fault), None, "node {host} stopped twice");
            }
            None => return false,
        }
        true
    }

    /// Crashes a node; what it was asked will not be answered.
    pub fn crash(&mut self, host: HostId) {
        self.bench.crash(host);
        self.outstanding.retain(|_, h| *h != host);
    }

    /// Ends the case: nothing may be left over.
    pub fn close(self) {
        assert!(self.outstanding.is_empty(), "unanswered: {:?}", self.outstanding);
        assert!(self.stopped.is_empty(), "stopped by themselves: {:?}", self.stopped);
        self.bench.close();
    }
}

/// The identity of the `nth` node.
pub(super) fn keypair(nth: u8) -> Keypair {
    Keypair::from_seed(&[nth + 1; 32])
}
