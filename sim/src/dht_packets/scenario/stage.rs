//! What scenarios are made of: a grown network, values, lookups, figures.

use super::super::world::{Ended, Guest, Reach, World};
use super::{Bound, Finding, Outcome, Scenario};
use remote_network_core::dht::item;
use remote_network_core::dht::krpc::Presence;
use remote_network_core::id::{DhtId, Keypair};
use remote_network_core::port::{DhtRequest, GetMode, MutableItem};
use std::time::Duration;

/// Datagrams lost, in a million.
const LOSS_PPM: u32 = 10_000;
/// An operation not ended by then has failed, and the product has a defect.
const OPERATION_MAX: Duration = Duration::from_secs(60);
/// How far apart nodes join.
const JOIN_EVERY: Duration = Duration::from_millis(100);

/// A network under trial.
pub struct Stage {
    /// The network.
    pub world: World,
    seed: u64,
    nodes: u32,
    findings: Vec<Finding>,
}

impl Stage {
    /// Nobody is there.
    pub fn empty(nodes: u32, seed: u64) -> Self {
        Self { world: World::new(seed, LOSS_PPM), seed, nodes, findings: Vec::new() }
    }

    /// Reachable IPv4 nodes that joined one after the other and had time to fill their tables.
    pub fn grown(nodes: u32, seed: u64) -> Self {
        let mut stage = Self::empty(nodes, seed);
        for n in 0..nodes {
            let guest = stage.guest(n, Presence::Open);
            stage.world.settle(JOIN_EVERY * n, Reach::V4, false, guest);
        }
        stage.pass(JOIN_EVERY * nodes + Duration::from_secs(90));
        stage
    }

    /// A node of the product that joins by two of the hosts before `n`.
    pub fn guest(&mut self, n: u32, presence: Presence) -> Guest {
        let bootstrap = (0..2.min(n)).map(|_| self.world.draw_below(u64::from(n)) as u32).collect();
        Guest::Node { presence, bootstrap }
    }

    /// Lets time pass.
    pub fn pass(&mut self, by: Duration) {
        let now = Duration::from_millis(self.world.now_ms());
        self.world.run_until(now + by);
    }

    fn pair(&self, value: u32) -> Keypair {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"dht scenario").update(&self.seed.to_be_bytes()).update(&value.to_be_bytes());
        Keypair::from_seed(hasher.finalize().as_bytes())
    }

    /// Where a value lies.
    pub fn target(&self, value: u32) -> DhtId {
        item::target(&self.pair(value).public(), b"")
    }

    /// A version of a value.
    pub fn item(&self, value: u32, seq: u64) -> Option<MutableItem> {
        let text = format!("value {value}, version {seq}");
        item::sign(&self.pair(value), b"", seq, text.into_bytes().into()).ok()
    }

    /// The request that stores it.
    pub fn put(&self, value: u32, seq: u64) -> Option<DhtRequest> {
        Some(DhtRequest::PutMutable { item: self.item(value, seq)?, cas: None })
    }

    /// The request that looks for it.
    pub fn get(&self, value: u32, mode: GetMode) -> DhtRequest {
        DhtRequest::GetMutable { key: self.pair(value).public(), salt: Default::default(), mode }
    }

    /// Stores a version of each value from the host named with it; the share that was stored.
    pub fn publish(&mut self, values: &[(u32, u32)], seq: u64) -> f64 {
        let mut stored = 0;
        for (value, host) in values {
            let Some(put) = self.put(*value, seq) else { continue };
            let ended = self.world.operate(*host, put, OPERATION_MAX);
            let done = ended.and_then(|e| e.done).and_then(Result::ok);
            stored += usize::from(done.is_some_and(|d| d.stored > 0));
        }
        rate(stored, values.len())
    }

    /// Everybody named looks for all values, one lookup each at a time; the share that ended with this version.
    pub fn look(&mut self, hosts: &[u32], values: &[u32], seq: u64) -> f64 {
        let mut found = 0;
        for round in 0..values.len() {
            let of = |at: usize| values.get((at + round) % values.len()).copied();
            let asked: Vec<(u32, u32)> =
                hosts.iter().enumerate().filter_map(|(at, h)| Some((*h, of(at)?))).collect();
            let ops: Vec<_> = asked
                .iter()
                .map(|(host, value)| {
                    let get = self.get(*value, GetMode::MostRecent);
                    self.world.ask_at(Duration::ZERO, *host, get)
                })
                .collect();
            let ended = self.world.finish(&ops, OPERATION_MAX);
            let is_right = |(ended, (_, value)): (&Ended, &(u32, u32))| {
                ended.values.iter().max_by_key(|i| i.seq) == self.item(*value, seq).as_ref()
            };
            found += ended.iter().zip(&asked).filter(|pair| is_right(*pair)).count();
        }
        rate(found, hosts.len() * values.len())
    }

    /// Some of the nodes that are there.
    pub fn some(&mut self, count: usize) -> Vec<u32> {
        let mut nodes = self.world.nodes();
        while nodes.len() > count {
            let at = self.world.draw_below(nodes.len() as u64) as usize;
            nodes.swap_remove(at);
        }
        nodes
    }

    /// One more figure.
    pub fn finds(&mut self, name: &'static str, value: f64, bound: Bound) {
        self.findings.push(Finding { name, value, bound });
    }

    /// What it found.
    pub fn outcome(self, scenario: Scenario) -> Outcome {
        Outcome {
            scenario: scenario.as_str(),
            nodes: self.nodes,
            seed: self.seed,
            trace_hash: self.world.trace_hash(),
            packets: self.world.packets(),
            virtual_ms: self.world.now_ms(),
            findings: self.findings,
        }
    }
}

/// A share of a whole.
pub fn rate(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}
