//! Our place in the DHT of one address family: when to join, to refresh, to ping, and when to change the id.
//!
//! IPv4 and IPv6 are two DHTs (BEP 32), so there are two of these, each with an id, a table and votes of its own.
//!
//! Joining is a walk to our own id, then one into every bucket between us and the farthest that is not half full. While
//! nobody answers it is tried again soon, at most every [`JOIN_EVERY_MAX`], so a node recovers within seconds of its
//! bootstrap. Afterwards: our neighbourhood every ten minutes (every minute while it is small), a bucket when nobody
//! walked there for a quarter of an hour, a ping for those who have not answered for nearly as long.

use super::message::NodeAddr;
use super::node_id::{fits, for_address, random, random_in_bucket};
use super::table::{K, Table};
use super::votes::Votes;
use super::walk::Purpose;
use crate::id::DhtId;
use crate::rng::Rng;
use crate::time::{Deadline, Duration, Instant};
use std::net::SocketAddr;

/// First pause before joining is tried again; it doubles.
pub const JOIN_EVERY_MIN: Duration = Duration::from_secs(2);
/// Longest pause before joining is tried again.
pub const JOIN_EVERY_MAX: Duration = Duration::from_secs(15);
/// How often a small neighbourhood is visited.
pub const OWN_EVERY_SMALL: Duration = Duration::from_secs(60);
/// How often our neighbourhood is visited.
pub const OWN_EVERY: Duration = Duration::from_secs(600);
/// A bucket nobody walked to for so long is visited (BEP 5).
pub const BUCKET_EVERY: Duration = Duration::from_secs(15 * 60);
/// Who has not answered for so long is pinged, before it stops to be good.
pub const PING_AFTER: Duration = Duration::from_secs(12 * 60);
/// Nodes pinged at a time.
const PINGS_AT_ONCE: usize = 4;
/// How often all this is looked at.
const TICK_EVERY: Duration = Duration::from_secs(30);
/// An id is kept for so long, whatever others say of our address.
pub const ID_KEPT_FOR: Duration = Duration::from_secs(600);

/// What should be done now.
#[derive(Debug, Default)]
pub struct Chores {
    /// A walk.
    pub walk: Option<(DhtId, Purpose)>,
    /// Nodes to ping.
    pub pings: Vec<NodeAddr>,
}

/// Our place in one DHT.
#[derive(Clone, Debug)]
pub struct Family {
    /// Whom we know.
    pub table: Table,
    /// Whom the last run knew.
    pub remembered: Vec<NodeAddr>,
    ipv6: bool,
    votes: Votes,
    observed: Option<SocketAddr>,
    restored: bool,
    walking: bool,
    own_at: Instant,
    join_every: Duration,
    id_until: Instant,
    tick_at: Option<Instant>,
}

impl Family {
    /// A place before its start.
    pub fn new(ipv6: bool) -> Self {
        Self {
            table: Table::new(DhtId([0; 20])),
            remembered: Vec::new(),
            ipv6,
            votes: Votes::default(),
            observed: None,
            restored: false,
            walking: false,
            own_at: Instant::ZERO,
            join_every: JOIN_EVERY_MIN,
            id_until: Instant::ZERO,
            tick_at: None,
        }
    }

    /// Takes back who we were and whom we knew.
    pub fn restore(&mut self, id: DhtId, nodes: Vec<NodeAddr>) {
        self.table = Table::new(id);
        self.remembered = nodes.into_iter().filter(|n| n.addr.is_ipv6() == self.ipv6).collect();
        self.restored = true;
    }

    /// The socket is bound.
    pub fn begin(&mut self, now: Instant, rng: &mut Rng) {
        let fresh = random(rng);
        if !self.restored {
            self.table = Table::new(fresh);
        }
        self.own_at = now;
        self.tick_at = Some(now);
    }

    /// When it wants to be looked at.
    pub fn deadline(&self) -> Option<Deadline> {
        self.tick_at.map(|at| Deadline::new(at, "krpc-upkeep"))
    }

    /// Whether that is now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.tick_at.is_some_and(|at| at <= now)
    }

    /// What should be done now; `seeds` says whether there are addresses to join by.
    pub fn chores(&mut self, now: Instant, rng: &mut Rng, seeds: bool) -> Chores {
        let mut chores = Chores::default();
        let due = self.is_due(now);
        if due {
            self.tick_at = Some(now + rng.jitter(TICK_EVERY, 20));
            chores.pings = self.table.stalest(now, PING_AFTER, PINGS_AT_ONCE);
        }
        if !self.walking {
            chores.walk = self.next_walk(now, rng, due, seeds);
            self.walking = chores.walk.is_some();
        }
        if !self.walking && self.own_at > now {
            self.tick_at = self.tick_at.map(|at| at.min(self.own_at));
        }
        chores
    }

    fn next_walk(&mut self, now: Instant, rng: &mut Rng, due: bool, seeds: bool) -> Option<(DhtId, Purpose)> {
        let own = *self.table.own();
        let known = self.table.len();
        if self.own_at <= now {
            let every = match known {
                0 => self.join_every,
                1..K => OWN_EVERY_SMALL,
                _ => OWN_EVERY,
            };
            self.own_at = now + rng.jitter(every, 10);
            if known == 0 {
                self.join_every = (self.join_every * 2).min(JOIN_EVERY_MAX);
            }
            return (known > 0 || seeds || !self.remembered.is_empty()).then_some((own, Purpose::Own));
        }
        let bucket = self.table.unvisited().or_else(|| {
            let stale = || self.table.bucket_to_refresh(now, BUCKET_EVERY);
            if due { stale() } else { None }
        })?;
        self.table.walked(now, bucket);
        Some((random_in_bucket(&own, bucket, rng), Purpose::Bucket))
    }

    /// A walk of ours has ended.
    pub fn walked(&mut self, now: Instant, purpose: Purpose) {
        self.walking = false;
        if purpose != Purpose::Own {
            return;
        }
        if self.table.is_empty() {
            self.own_at = now + self.join_every;
            return;
        }
        self.join_every = JOIN_EVERY_MIN;
        self.table.neighbourhood_walked(now);
        if self.table.len() >= K {
            self.remembered = Vec::new();
        }
    }

    /// `by` sees us at `addr`. True: our id does not fit there and has been changed (BEP 42).
    pub fn seen_at(&mut self, now: Instant, rng: &mut Rng, by: SocketAddr, addr: SocketAddr) -> bool {
        if !self.votes.vote(by, addr) {
            return false;
        }
        let Some(ip) = self.votes.ip() else { return false };
        if self.id_until > now || fits(self.table.own(), SocketAddr::new(ip, addr.port())) {
            return false;
        }
        self.table = self.table.around(for_address(ip, rng));
        self.id_until = now + ID_KEPT_FOR;
        self.own_at = now;
        self.walking = false;
        true
    }

    /// The address most see us at, and how many they are.
    pub fn observed(&self) -> Option<(SocketAddr, u32)> {
        self.votes.addr()
    }

    /// The address most see us at, when it is another one than told before.
    pub fn newly_observed(&mut self) -> Option<(SocketAddr, u32)> {
        let now = self.votes.addr()?;
        (self.observed != Some(now.0)).then(|| {
            self.observed = Some(now.0);
            now
        })
    }

    /// There may be new ways in; of interest while we know few.
    pub fn look_around(&mut self, now: Instant) {
        if self.table.len() < K {
            self.own_at = now;
            self.join_every = JOIN_EVERY_MIN;
        }
    }

    /// The network changed: others see us elsewhere now.
    pub fn network_changed(&mut self, now: Instant) {
        self.votes.clear();
        self.observed = None;
        self.id_until = now;
        self.own_at = now;
        self.join_every = JOIN_EVERY_MIN;
    }

    /// Bytes on the heap, by capacity.
    pub fn heap_bytes(&self) -> usize {
        self.table.heap_bytes() + self.votes.heap_bytes() + self.remembered.capacity() * size_of::<NodeAddr>()
    }
}
