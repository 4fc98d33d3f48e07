//! What a scenario found, and whether that is good enough.

use serde::Serialize;

/// What a figure must be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
    /// It is only told.
    Any,
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(least) => value >= least,
            Bound::AtMost(most) => value <= most,
            Bound::Any => true,
        }
    }
}

/// A figure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Finding {
    /// What it counts; rates are fractions.
    pub name: &'static str,
    /// How much.
    pub value: f64,
    /// What it must be.
    pub bound: Bound,
}

/// What a run found. Everything in it follows from scenario, size and seed.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// Which scenario.
    pub scenario: &'static str,
    /// How many hosts.
    pub nodes: u32,
    /// From which everything random followed.
    pub seed: u64,
    /// BLAKE3 over every datagram, its time, source and destination.
    pub trace_hash: String,
    /// Datagrams in all.
    pub packets: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// The figures.
    pub findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Shown {
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_least: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<f64>,
}

impl Outcome {
    /// Whether every bound holds.
    pub fn passed(&self) -> bool {
        self.findings.iter().all(|f| f.bound.holds(f.value))
    }

    /// As JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let shown = |f: &Finding| {
            let (at_least, at_most) = match f.bound {
                Bound::AtLeast(b) => (Some(b), None),
                Bound::AtMost(b) => (None, Some(b)),
                Bound::Any => (None, None),
            };
            let shown = Shown { value: f.value, at_least, at_most };
            (f.name.to_string(), serde_json::to_value(shown).unwrap_or_default())
        };
        let figures: serde_json::Map<_, _> = self.findings.iter().map(shown).collect();
        serde_json::json!({
            "scenario": self.scenario,
            "nodes": self.nodes,
            "seed": self.seed,
            "trace_hash": self.trace_hash,
            "packets": self.packets,
            "virtual_ms": self.virtual_ms,
            "figures": figures,
            "passed": self.passed(),
        })
    }
}
