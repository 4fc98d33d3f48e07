//! Finding peers through the DHT: our own record, others' records, topics.
//!
//! [`Dht`] is the one machine the node sees. Inside, small machines decide one thing each and do not know each other:
//!
//! | machine | decides |
//! |---|---|
//! | [`scheduler`] | which request may go to the port now, and that each is answered exactly once |
//! | [`publisher`] | when our record is put, and with which version |
//! | [`lookup`] | which record of another node is believed, and for how long |
//! | [`topic`] | when topics are announced and searched, and which hints are told |
//! | [`observed`] | which of the addresses that peers see us at is ours |
//!
//! [`krpc`] stands beside them: a DHT node of our own, one of the backends behind the port.
//!
//! The room is one machine with one drain: an input goes to its child, what children ask of each other is carried on in
//! a bounded loop, and only what concerns the node comes out. The port behind it (`mainline`, our own DHT node, or the
//! simulator's) is not trusted: everything it brings is verified in here.

pub mod endpoint;
pub mod item;
pub mod krpc;
pub mod lookup;
pub mod observed;
pub mod publisher;
pub mod record;
pub mod scheduler;
pub mod topic;

use crate::codec::DecodeError;
use crate::id::{DhtId, Keypair, OpId, PublicKey};
use crate::limits::SETTLE_ROUNDS_MAX;
use crate::machine::{Cx, Machine};
use crate::port::{AnnouncePort, DhtEvent, DhtRequest};
use crate::store::{Room, StoreOp, StoredRecord};
use crate::time::{Deadline, Duration, UnixTime};
use bytes::Bytes;
use lookup::{LookupFailed, Lookups};
use observed::Observed;
use publisher::Publisher;
use record::{NodeRecord, RecordContent};
use scheduler::{Class, Scheduler};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use topic::{Errand, Topics};

/// What the room is told at its start.
#[derive(Clone, Debug)]
pub struct DhtConfig {
    /// Who we are.
    pub keypair: Keypair,
    /// SHA-1 of each topic's name.
    pub topics: Vec<DhtId>,
    /// Which port the announcements carry. `Implied` only when the DHT shares the socket with QUIC.
    pub announce_port: AnnouncePort,
    /// Addresses to publish; empty: those peers observe.
    pub public_addrs: Vec<SocketAddr>,
    /// Private nodes publish without a relay session (private, offline and demonstration networks).
    pub publish_private: bool,
    /// Loopback and private ranges of others count, and our own are published.
    pub private_networks: bool,
    /// How often the record is stored again, ± 10 %.
    pub republish_every: Duration,
    /// How often topics are searched.
    pub search_every: Duration,
    /// Records of other nodes remembered.
    pub cached_records_max: usize,
    /// Room number in the operations' ids (see [`crate::id::OpIds`]).
    pub ops_room: u8,
}

/// What can happen to the room.
#[derive(Clone, Debug)]
pub enum Input {
    /// The node is up: begin with topics and record.
    Start,
    /// The port tells.
    Dht(DhtEvent),
    /// Somebody wants this key's record. Followed by one `Found` for the key.
    Lookup(PublicKey),
    /// Something failed in a way that shows this key's record stale.
    Invalidate(PublicKey),
    /// What our record should say from now on. Its endpoints are filled in here.
    Content(Box<RecordContent>),
    /// A peer sees us at this address.
    Observed {
        /// Who says so.
        by: PublicKey,
        /// Where it is itself; nowhere when we say it ourselves.
        from: Option<IpAddr>,
        /// Where.
        addr: SocketAddr,
    },
    /// Our own network changed: what peers observed before counts no more.
    NetworkChanged,
}

/// What the room asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Journal; what follows depends on it.
    Persist(StoreOp),
    /// Ask the port.
    Dht {
        /// The operation.
        op: OpId,
        /// What.
        request: DhtRequest,
    },
    /// The answer to a lookup (one for all who asked while it was under way).
    Found {
        /// Whose.
        key: PublicKey,
        /// The record, believed, or why there is none.
        result: Result<Box<NodeRecord>, LookupFailed>,
    },
    /// Somebody of our topic may be there.
    Hint(SocketAddr),
    /// Our record is stored.
    Published {
        /// Its version.
        seq: u64,
        /// By so many nodes.
        stored: u32,
    },
    /// Something was not believed, by its reason.
    Refused(&'static str),
}

/// How the children know their requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tag {
    Publisher,
    Lookup(PublicKey),
    Topic(DhtId, Errand),
}

/// An input on its way to a child.
enum Inside {
    Scheduler(scheduler::Input<Tag>),
    Publisher(publisher::Input),
    Lookups(lookup::Input),
    Topics(topic::Input),
}

/// The room.
#[derive(Debug)]
pub struct Dht {
    config: DhtConfig,
    content: Option<RecordContent>,
    observed: Observed,
    scheduler: Scheduler<Tag>,
    publisher: Publisher,
    lookups: Lookups,
    topics: Topics,
    started: bool,
    health: (u32, bool),
}

impl Dht {
    /// The room before its start, with nothing restored.
    pub fn new(config: DhtConfig) -> Self {
        Self {
            content: None,
            observed: Observed::default(),
            scheduler: Scheduler::new(config.ops_room),
            publisher: Publisher::new(config.keypair.clone(), config.publish_private)
                .every(config.republish_every),
            lookups: Lookups::new(config.cached_records_max),
            topics: Topics::new(&config.topics, config.private_networks).searching_every(config.search_every),
            started: false,
            health: (0, false),
            config,
        }
    }

    /// Takes back the records of [`Room::Publisher`] and [`Room::CachedRecord`]; others are passed over.
    pub fn restore(&mut self, records: &[StoredRecord]) -> Result<(), (StoredRecord, DecodeError)> {
        for r in records {
            let result = match r.subject.room {
                Room::Publisher => self.publisher.restore(&r.record),
                Room::CachedRecord => self.lookups.restore(&r.subject.key, &r.record),
                Room::Node
                | Room::KnownPeer
                | Room::Service
                | Room::Run
                | Room::Job
                | Room::Grant
                | Room::Policy => Ok(()),
            };
            result.map_err(|e| (r.clone(), e))?;
        }
        Ok(())
    }

    /// The socket is bound: which port announcements carry from now on.
    pub fn set_announce_port(&mut self, port: AnnouncePort) {
        self.config.announce_port = port;
    }

    /// Nodes in the backend's table, and whether it can work.
    pub fn health(&self) -> (u32, bool) {
        self.health
    }

    /// `seq` of our record as last stored, and when.
    pub fn published(&self) -> Option<(u64, UnixTime)> {
        self.publisher.stored()
    }

    /// What our record waits for while it is not stored: words for people.
    pub fn waiting(&self) -> Option<&'static str> {
        self.publisher.waiting()
    }

    /// Our addresses as peers see them, with how many say so, most first.
    pub fn observed(&self) -> Vec<(SocketAddr, u32)> {
        self.observed.counted_without(Some(&self.config.keypair.public()))
    }

    /// The addresses that are ours: configured, else believed from what peers observe.
    pub fn own_addrs(&self) -> Vec<SocketAddr> {
        if self.config.public_addrs.is_empty() {
            self.observed.believed()
        } else {
            self.config.public_addrs.clone()
        }
    }

    /// The newest version seen of a key's record, fresh or not.
    pub fn peek(&self, key: &PublicKey) -> Option<Box<NodeRecord>> {
        self.lookups.peek(key)
    }

    /// The content with our endpoints, once there is something to say.
    fn content_now(&self) -> Option<Inside> {
        let mut content = self.content.clone().filter(|_| self.started)?;
        content.set_endpoints(&self.own_addrs(), self.config.private_networks);
        Some(Inside::Publisher(publisher::Input::Content(Box::new(content))))
    }

    fn route(&mut self, input: Input, queue: &mut VecDeque<Inside>) {
        match input {
            Input::Start => {
                self.started = true;
                queue.push_back(Inside::Topics(topic::Input::Start));
                queue.extend(self.content_now());
            }
            Input::Dht(event) => {
                if let DhtEvent::Health { table_len, reachable } = event {
                    self.health = (table_len, reachable);
                }
                queue.push_back(Inside::Scheduler(scheduler::Input::Event(event)));
            }
            Input::Lookup(key) => queue.push_back(Inside::Lookups(lookup::Input::Lookup(key))),
            Input::Invalidate(key) => queue.push_back(Inside::Lookups(lookup::Input::Invalidate(key))),
            Input::Content(content) => {
                self.content = Some(*content);
                queue.extend(self.content_now());
            }
            Input::Observed { by, from, addr } => {
                self.observed.vote(by, from, addr);
                queue.extend(self.content_now());
            }
            // Until peers speak again the last record stands: an empty one would help nobody.
            Input::NetworkChanged => self.observed.clear(),
        }
    }

    /// Carries on what children ask of each other until only the node's outputs are left.
    fn settle(&mut self, cx: &mut Cx<'_, Output>, mut queue: VecDeque<Inside>) {
        for _ in 0..SETTLE_ROUNDS_MAX {
            let Some(next) = queue.pop_front() else { return };
            match next {
                Inside::Scheduler(i) => {
                    let out = drive(&mut self.scheduler, cx, |m, cx| m.handle(cx, i));
                    after_scheduler(cx, out, &mut queue);
                }
                Inside::Publisher(i) => {
                    let out = drive(&mut self.publisher, cx, |m, cx| m.handle(cx, i));
                    after_publisher(cx, out, &mut queue);
                }
                Inside::Lookups(i) => {
                    let out = drive(&mut self.lookups, cx, |m, cx| m.handle(cx, i));
                    after_lookups(cx, out, &mut queue);
                }
                Inside::Topics(i) => {
                    let out = drive(&mut self.topics, cx, |m, cx| m.handle(cx, i));
                    self.after_topics(cx, out, &mut queue);
                }
            }
        }
        debug_assert!(false, "the DHT room does not come to rest");
    }

    fn after_topics(&self, cx: &mut Cx<'_, Output>, out: Vec<topic::Output>, queue: &mut VecDeque<Inside>) {
        for o in out {
            match o {
                topic::Output::Request(topic, errand) => {
                    let request = match errand {
                        Errand::Announce => DhtRequest::Announce { topic, port: self.config.announce_port },
                        Errand::Search => DhtRequest::GetPeers { topic },
                    };
                    queue.push_back(ask(Tag::Topic(topic, errand), Class::Own, request));
                }
                topic::Output::Hint(addr) => cx.emit(Output::Hint(addr)),
                topic::Output::Refused(why) => cx.emit(Output::Refused(why)),
            }
        }
    }
}

/// Runs a child with the room's time and generator, and returns what it emitted.
fn drive<M: Machine>(
    machine: &mut M,
    cx: &mut Cx<'_, Output>,
    f: impl FnOnce(&mut M, &mut Cx<'_, M::Output>),
) -> Vec<M::Output> {
    let mut out = Vec::new();
    f(machine, &mut Cx::new(cx.now, cx.wall, &mut *cx.rng, &mut out));
    out
}

fn ask(tag: Tag, class: Class, request: DhtRequest) -> Inside {
    Inside::Scheduler(scheduler::Input::Request { tag, class, request })
}

fn after_scheduler(cx: &mut Cx<'_, Output>, out: Vec<scheduler::Output<Tag>>, queue: &mut VecDeque<Inside>) {
    for o in out {
        match o {
            scheduler::Output::Dht { op, request } => cx.emit(Output::Dht { op, request }),
            scheduler::Output::Peers { tag, addrs } => match tag {
                Tag::Topic(topic, _) => queue.push_back(Inside::Topics(topic::Input::Peers(topic, addrs))),
                Tag::Publisher | Tag::Lookup(_) => cx.emit(Output::Refused("dht-unasked-peers")),
            },
            scheduler::Output::Value { tag, item } => match tag {
                Tag::Publisher => queue.push_back(Inside::Publisher(publisher::Input::Value(item))),
                Tag::Lookup(key) => queue.push_back(Inside::Lookups(lookup::Input::Value(key, item))),
                Tag::Topic(..) => cx.emit(Output::Refused("dht-unasked-value")),
            },
            scheduler::Output::Done { tag, result } => queue.push_back(match tag {
                Tag::Publisher => Inside::Publisher(publisher::Input::Done(result)),
                Tag::Lookup(key) => Inside::Lookups(lookup::Input::Done(key, result)),
                Tag::Topic(topic, errand) => Inside::Topics(topic::Input::Done(topic, errand, result)),
            }),
        }
    }
}

fn after_publisher(cx: &mut Cx<'_, Output>, out: Vec<publisher::Output>, queue: &mut VecDeque<Inside>) {
    for o in out {
        match o {
            publisher::Output::Persist(op) => cx.emit(Output::Persist(op)),
            publisher::Output::Request(request) => queue.push_back(ask(Tag::Publisher, Class::Own, request)),
            publisher::Output::Published { seq, stored } => cx.emit(Output::Published { seq, stored }),
            publisher::Output::Refused(why) => cx.emit(Output::Refused(why)),
        }
    }
}

fn after_lookups(cx: &mut Cx<'_, Output>, out: Vec<lookup::Output>, queue: &mut VecDeque<Inside>) {
    for o in out {
        match o {
            lookup::Output::Persist(op) => cx.emit(Output::Persist(op)),
            lookup::Output::Request(key, mode) => {
                let request = DhtRequest::GetMutable { key, salt: Bytes::new(), mode };
                queue.push_back(ask(Tag::Lookup(key), Class::Lookup, request));
            }
            lookup::Output::Found(key, result) => cx.emit(Output::Found { key, result }),
            lookup::Output::Refused(why) => cx.emit(Output::Refused(why)),
        }
    }
}

impl Machine for Dht {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        let mut queue = VecDeque::new();
        self.route(input, &mut queue);
        self.settle(cx, queue);
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        let mut queue = VecDeque::new();
        let out = drive(&mut self.scheduler, cx, |m, cx| m.handle_timeout(cx));
        after_scheduler(cx, out, &mut queue);
        let out = drive(&mut self.publisher, cx, |m, cx| m.handle_timeout(cx));
        after_publisher(cx, out, &mut queue);
        let out = drive(&mut self.topics, cx, |m, cx| m.handle_timeout(cx));
        self.after_topics(cx, out, &mut queue);
        self.settle(cx, queue);
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let first = Deadline::earlier(self.scheduler.poll_timeout(), self.publisher.poll_timeout());
        Deadline::earlier(first, self.topics.poll_timeout())
    }
}

#[cfg(test)]
mod tests;
