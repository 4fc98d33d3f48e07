//! What a simulation says at its end, to people and to machines.

use crate::dht::DhtTally;
use crate::evil::Mischief;
use crate::evil::cast::Cast;
use crate::host::Core;
use crate::net::Tally;
use crate::plan::{Class, Plan};
use crate::scenario::Scenario;
use remote_network_core::node::Node;
use remote_network_core::transport::quic::QuicTransport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

const MS_NS: u64 = 1_000_000;

/// Every kind of fault that reports count. The suite fails when one of them never happens. `engine lie` is not among
/// them: no plan makes an honest world's engine lie, only the canary does.
pub const FAULTS: [&str; 30] = [
    "crash",
    "amnesia",
    "pause",
    "unplug",
    "cut",
    "one-way cut",
    "weather",
    "bad link",
    "move",
    "clock jump",
    "dht offline",
    "bad dht",
    "disk fails",
    "disk full",
    "blob rots",
    "bad engine",
    "garbage",
    "datagram lost",
    "datagram lost in a burst",
    "datagram reordered",
    "datagram duplicated",
    "datagram corrupted",
    "datagram too large",
    "buffer overflow",
    "dht operation failed",
    "dht lie",
    "dht fake peer",
    "engine failure",
    "engine hang",
    "journal batch lost",
];

/// What to simulate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimOptions {
    /// Machines.
    pub peers: u32,
    /// Virtual time of faults and work; the liveness phase comes after.
    pub duration_ms: u64,
    /// The seed.
    pub seed: u64,
    /// The family of scenarios.
    pub class: Class,
}

/// A violation as it is reported.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ViolationReport {
    /// Virtual time.
    pub at_ms: u64,
    /// The host.
    pub host: u32,
    /// What.
    pub what: String,
}

/// What became of the runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RunCounts {
    /// Acknowledged by their requesters.
    pub acknowledged: u64,
    /// Come to their end.
    pub ended: u64,
    /// Succeeded.
    pub succeeded: u64,
}

/// The report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The family of scenarios.
    pub class: Class,
    /// The seed.
    pub seed: u64,
    /// Machines.
    pub peers: u32,
    /// One number for the whole run: equal for equal runs, in 32 hex digits.
    pub trace_hash: String,
    /// What must never be, and was.
    pub violations: Vec<ViolationReport>,
    /// Virtual time that passed.
    pub virtual_ms: u64,
    /// Processor time it took; 0 where the system does not tell.
    pub cpu_ms: u64,
    /// Most memory the process ever had; 0 where the system does not tell.
    pub peak_rss_bytes: u64,
    /// The same for each machine, without what the process had before there was any; 0 where the system does not tell.
    pub bytes_per_peer: u64,
    /// Things that happened in the world.
    pub events: u64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// What became of the runs.
    pub runs: RunCounts,
    /// Receipts of committed tasks that were verified offline.
    pub receipts: u64,
    /// Connections of all machines when the plan's time was up, each counted at both ends.
    pub connections: u64,
    /// Commands given to cores.
    pub commands: u64,
    /// What the network did.
    pub net: Tally,
    /// What the DHT did.
    pub dht: DhtTally,
    /// Most requests to ports any core had outstanding.
    pub outstanding_most: u64,
    /// How to see it again.
    pub replay: String,
}

/// Simulates the plan of a class and a seed on the real core.
pub fn simulate(options: &SimOptions) -> Report {
    let plan = Plan::from_seed(options.class, options.seed, options.peers, options.duration_ms);
    simulate_plan::<Node<QuicTransport>>(plan)
}

/// Simulates a plan on the real core; its malicious hosts are what the plan says.
pub fn play(plan: Plan) -> Report {
    match plan.is_malicious() {
        true => simulate_plan::<Cast>(plan),
        false => simulate_plan::<Node<QuicTransport>>(plan),
    }
}

/// Simulates a plan.
pub fn simulate_plan<C: Core>(plan: Plan) -> Report {
    let (cpu_before_ms, rss_before) = (cpu_ms(), rss_bytes("VmRSS:"));
    let mut scenario: Scenario<C> = Scenario::new(plan);
    scenario.run();
    let plan = scenario.plan();
    let world = &scenario.world;
    let (acknowledged, ended, succeeded) = world.checks.run_counts();
    let violations = world.checks.violations().iter().map(|f| ViolationReport {
        at_ms: f.at_ns / MS_NS,
        host: f.host,
        what: f.violation.to_string(),
    });
    let mut faults: BTreeMap<String, u64> =
        scenario.faults().iter().map(|(k, n)| ((*k).to_owned(), *n)).collect();
    let net = *world.net.tally();
    let dht = *world.dht.tally();
    for (kind, count) in [
        ("datagram lost", net.lost),
        ("datagram lost in a burst", net.lost_in_burst),
        ("datagram reordered", net.reordered),
        ("datagram duplicated", net.duplicated),
        ("datagram corrupted", net.corrupted),
        ("datagram too large", net.too_large),
        ("buffer overflow", net.overflowed),
        ("dht operation failed", dht.failed),
        ("dht lie", dht.lies),
        ("dht fake peer", dht.fake_peers),
        ("engine failure", world.hosts.iter().map(|h| h.engine.tally().failed).sum()),
        ("engine hang", world.hosts.iter().map(|h| h.engine.tally().hung).sum()),
        ("engine lie", world.hosts.iter().map(|h| h.engine.tally().lied).sum()),
        ("journal batch lost", world.hosts.iter().map(|h| h.disk.batches_lost()).sum()),
    ] {
        if count > 0 {
            faults.insert(kind.to_owned(), count);
        }
    }
    for deeds in world.hosts.iter().filter_map(|h| h.mischief.as_ref()).map(Mischief::deeds) {
        for (kind, count) in deeds.named().into_iter().filter(|(_, count)| *count > 0) {
            *faults.entry(kind.to_owned()).or_default() += count;
        }
    }
    let peers = plan.hosts.len() as u32;
    Report {
        class: plan.class,
        seed: plan.seed,
        peers,
        trace_hash: world.trace().hash().to_string(),
        violations: violations.collect(),
        virtual_ms: world.now_ns() / MS_NS,
        cpu_ms: cpu_ms().saturating_sub(cpu_before_ms),
        peak_rss_bytes: peak_rss_bytes(),
        bytes_per_peer: peak_rss_bytes().saturating_sub(rss_before) / u64::from(peers.max(1)),
        events: world.steps(),
        faults,
        runs: RunCounts { acknowledged, ended, succeeded },
        receipts: world.checks.receipts(),
        connections: scenario.connections(),
        commands: scenario.work().commands,
        net,
        dht,
        outstanding_most: world.checks.outstanding_most() as u64,
        replay: replay_command(peers, plan.duration_ms, plan.seed, plan.class),
    }
}

/// The one line that shows a run again.
pub fn replay_command(peers: u32, duration_ms: u64, seed: u64, class: Class) -> String {
    let duration = match duration_ms % 1000 {
        0 => format!("{}s", duration_ms / 1000),
        _ => format!("{duration_ms}ms"),
    };
    format!("remote-network simulate --peers {peers} --duration {duration} --seed {seed} --class {class}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| format!("{}.{:03} s", ms / 1000, ms % 1000);
        writeln!(f, "{} peers, class {}, seed {}", self.peers, self.class, self.seed)?;
        writeln!(f, "  virtual time   {}", seconds(self.virtual_ms))?;
        writeln!(f, "  processor time {}", seconds(self.cpu_ms))?;
        let kb_per_peer = self.bytes_per_peer / 1000;
        writeln!(f, "  peak memory    {} MiB ({kb_per_peer} kB a peer)", self.peak_rss_bytes >> 20)?;
        writeln!(f, "  events         {}", self.events)?;
        writeln!(
            f,
            "  datagrams      {} sent, {} delivered ({} MiB)",
            self.net.sent,
            self.net.delivered,
            self.net.delivered_bytes >> 20
        )?;
        let per_peer = self.connections * 10 / u64::from(self.peers.max(1));
        writeln!(f, "  connections    {}.{} per peer", per_peer / 10, per_peer % 10)?;
        let RunCounts { acknowledged, ended, succeeded } = self.runs;
        writeln!(f, "  runs           {acknowledged} acknowledged, {ended} ended, {succeeded} succeeded")?;
        writeln!(f, "  receipts       {} verified offline", self.receipts)?;
        writeln!(f, "  trace          {}", self.trace_hash)?;
        writeln!(f, "  faults")?;
        for (kind, count) in &self.faults {
            writeln!(f, "    {count:>9} × {kind}")?;
        }
        if self.violations.is_empty() {
            return write!(f, "  no violations");
        }
        writeln!(f, "  {} VIOLATION(S)", self.violations.len())?;
        for v in self.violations.iter().take(20) {
            writeln!(f, "    at {} on host {}: {}", seconds(v.at_ms), v.host, v.what)?;
        }
        write!(f, "  again: {}", self.replay)
    }
}

/// Processor time of this process so far, from the kernel's books (ticks of 10 ms); 0 where there are none.
pub fn cpu_ms() -> u64 {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return 0 };
    // Fields 14 and 15 (user and system ticks), counted after the name, which may hold anything but ends with `)`.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    (ticks(11) + ticks(12)) * 10
}

/// Most memory this process ever had; 0 where the kernel does not tell.
pub fn peak_rss_bytes() -> u64 {
    rss_bytes("VmHWM:")
}

fn rss_bytes(field: &str) -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap_or("");
    let kib = line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::Toy;

    fn report(class: Class, seed: u64) -> Report {
        simulate_plan::<Toy>(Plan::from_seed(class, seed, 6, 60_000))
    }

    #[test]
    fn a_report_is_the_same_for_the_same_seed_and_survives_json() {
        let one = report(Class::Swarm, 3);
        let other = report(Class::Swarm, 3);
        assert_eq!(one.trace_hash, other.trace_hash);
        assert_eq!((one.events, &one.faults), (other.events, &other.faults));
        assert_ne!(one.trace_hash, report(Class::Swarm, 4).trace_hash);
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), one);
        assert!(one.to_string().contains(&one.trace_hash));
    }

    #[test]
    fn the_kernels_books_are_read() {
        assert!(cfg!(not(target_os = "linux")) || peak_rss_bytes() > 1 << 20);
        assert_eq!(
            replay_command(8, 90_500, 7, Class::Disk),
            "remote-network simulate --peers 8 --duration 90500ms --seed 7 --class disk"
        );
    }
}
