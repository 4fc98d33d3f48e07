//! What a run of the packet-level DHT says of itself.

use super::Spec;
use serde::Serialize;
use std::time::Duration;

/// Milliseconds of a number of operations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Latency(Vec<u64>);

impl Latency {
    /// One more operation.
    pub fn add(&mut self, took: Duration) {
        self.0.push(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    }

    /// The value below which `percent` of all lie; 0 when there are none.
    pub fn percentile(&self, percent: usize) -> u64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent.min(100)).div_ceil(100).saturating_sub(1);
        sorted.get(at).copied().unwrap_or(0)
    }
}

/// What a run found out. Everything in it follows from the [`Spec`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// What was simulated.
    pub spec: Spec,
    /// BLAKE3 over every datagram, its time, source and destination.
    pub trace_hash: String,
    /// Datagrams until everybody had joined.
    pub joined_packets: u64,
    /// Datagrams in all.
    pub packets: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Memory of a node after joining, counted from what it holds.
    pub bytes_per_node: u64,
    /// Fewest entries in a table after joining.
    pub table_min: u64,
    /// Entries of a table after joining, on average.
    pub table_mean: u64,
    /// Values that were stored.
    pub published: u32,
    /// Fewest nodes that stored one.
    pub stored_min: u32,
    /// Values found again.
    pub found: u32,
    /// Values found when nodes had vanished.
    pub found_after_vanish: u32,
    /// Time of a put.
    pub put_ms: Latency,
    /// Time to the first value.
    pub get_ms: Latency,
    /// The same, when nodes had vanished.
    pub get_after_vanish_ms: Latency,
}

/// A report as JSON shows it.
#[derive(Serialize)]
struct Shown<'a> {
    nodes: u32,
    seed: u64,
    loss_ppm: u32,
    values: u32,
    vanish_per_mille: u32,
    trace_hash: &'a str,
    joined_packets: u64,
    packets: u64,
    virtual_ms: u64,
    bytes_per_node: u64,
    table_min: u64,
    table_mean: u64,
    published: u32,
    stored_min: u32,
    found_rate: f64,
    found_rate_after_vanish: f64,
    put_ms: [u64; 2],
    get_ms: [u64; 2],
    get_after_vanish_ms: [u64; 2],
}

impl Report {
    /// A report of which only the question is known.
    pub fn new(spec: Spec) -> Self {
        Self {
            spec,
            trace_hash: String::new(),
            joined_packets: 0,
            packets: 0,
            virtual_ms: 0,
            bytes_per_node: 0,
            table_min: 0,
            table_mean: 0,
            published: 0,
            stored_min: 0,
            found: 0,
            found_after_vanish: 0,
            put_ms: Latency::default(),
            get_ms: Latency::default(),
            get_after_vanish_ms: Latency::default(),
        }
    }

    /// Found, of all that were looked up.
    pub fn found_rate(&self) -> f64 {
        f64::from(self.found) / f64::from(self.spec.values.max(1))
    }

    /// Found when nodes had vanished, of all that were looked up.
    pub fn found_rate_after_vanish(&self) -> f64 {
        f64::from(self.found_after_vanish) / f64::from(self.spec.values.max(1))
    }

    /// The report as a JSON value: rates as fractions, times as `[median, 99th percentile]` in milliseconds.
    pub fn to_json(&self) -> serde_json::Value {
        let times = |l: &Latency| [l.percentile(50), l.percentile(99)];
        let shown = Shown {
            nodes: self.spec.nodes,
            seed: self.spec.seed,
            loss_ppm: self.spec.loss_ppm,
            values: self.spec.values,
            vanish_per_mille: self.spec.vanish_per_mille,
            trace_hash: &self.trace_hash,
            joined_packets: self.joined_packets,
            packets: self.packets,
            virtual_ms: self.virtual_ms,
            bytes_per_node: self.bytes_per_node,
            table_min: self.table_min,
            table_mean: self.table_mean,
            published: self.published,
            stored_min: self.stored_min,
            found_rate: self.found_rate(),
            found_rate_after_vanish: self.found_rate_after_vanish(),
            put_ms: times(&self.put_ms),
            get_ms: times(&self.get_ms),
            get_after_vanish_ms: times(&self.get_after_vanish_ms),
        };
        serde_json::to_value(shown).unwrap_or_default()
    }
}
