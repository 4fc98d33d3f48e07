//! What is said at the end, and on the way there to people.

use crate::continuity::Transfer;
use crate::foreign::Meeting;
use crate::nats::Finding;
use crate::pairs::Pair;
use serde::Serialize;
use std::time::Instant;

/// Everything that was found.
#[derive(Serialize)]
pub struct Report {
    #[serde(skip)]
    json: bool,
    #[serde(skip)]
    started: Instant,
    nats: Vec<Finding>,
    pairs: Vec<Pair>,
    continuity: Vec<Transfer>,
    foreign: Vec<Meeting>,
    skipped: Vec<Skipped>,
    /// Of all transfers.
    longest_stall_ms: Option<u64>,
    seconds: u64,
    ok: bool,
}

#[derive(Serialize)]
struct Skipped {
    name: String,
    why: String,
}

impl Report {
    /// An empty one; `json`: people read standard error, programs the one line on standard output.
    pub fn new(json: bool) -> Self {
        Self {
            json,
            started: Instant::now(),
            nats: Vec::new(),
            pairs: Vec::new(),
            continuity: Vec::new(),
            foreign: Vec::new(),
            skipped: Vec::new(),
            longest_stall_ms: None,
            seconds: 0,
            ok: true,
        }
    }

    fn say(&self, ok: bool, name: &str, what: &str) {
        let line = format!("{} {name:<42} {what}", if ok { "ok  " } else { "FAIL" });
        if self.json { eprintln!("{line}") } else { println!("{line}") }
    }

    /// Names of experiments.
    pub fn list<T: std::fmt::Display>(&self, names: impl Iterator<Item = T>) {
        names.for_each(|name| println!("{name}"));
    }

    /// The self-check.
    pub fn nats(&mut self, findings: Vec<Finding>) {
        for f in &findings {
            let what = if f.ok {
                "as it should be".to_owned()
            } else {
                format!("{:?}, not {:?}", f.observed, f.expected)
            };
            self.say(f.ok, &format!("nats/{}", f.kind), &what);
        }
        self.nats = findings;
    }

    /// One pair, as soon as it was tried.
    pub fn pair(&self, pair: &Pair) {
        let way = match (pair.connected, pair.direct) {
            (false, _) => "not connected",
            (true, false) => "relayed",
            (true, true) => "direct",
        };
        let after = |ms: Option<u64>| ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
        let what = format!(
            "{way} (expected: {}) after {}, connected after {} {}",
            match (pair.expected, pair.guess) {
                (true, false) => "direct",
                (true, true) => "direct by guessing",
                (false, _) => "relayed",
            },
            after(pair.ms),
            after(pair.connected_ms),
            pair.why.as_deref().unwrap_or_default()
        );
        self.say(pair.ok, &format!("pair/{}+{}", pair.a, pair.b), &what);
    }

    /// All pairs.
    pub fn pairs(&mut self, pairs: Vec<Pair>) {
        self.pairs = pairs;
    }

    /// A transfer.
    pub fn transfer(&mut self, transfer: Transfer) {
        let what = format!(
            "{} MiB in {:.1} s, {} then {}, longest stall {}{}, {}, {} {}",
            transfer.mib,
            transfer.seconds,
            transfer.way_before,
            transfer.way_after,
            match (transfer.longest_stall_ms, transfer.stall_began_ms) {
                (Some(ms), Some(began)) => format!("{ms} ms from {began} ms after the trouble"),
                (Some(ms), None) => format!("{ms} ms"),
                (None, _) => "-".to_owned(),
            },
            match (transfer.switched_ms, transfer.stall_at_switch_ms) {
                (Some(ms), Some(stall)) => format!(" (the change after {ms} ms: {stall} ms)"),
                _ => String::new(),
            },
            if transfer.intact { "intact" } else { "not intact" },
            if transfer.same_connection { "the same connection" } else { "not the same connection" },
            transfer.why.as_deref().unwrap_or_default()
        );
        self.say(transfer.ok, transfer.name, &what);
        self.longest_stall_ms = self.longest_stall_ms.max(transfer.longest_stall_ms);
        self.continuity.push(transfer);
    }

    /// A meeting with something foreign.
    pub fn meeting(&mut self, meeting: Meeting) {
        self.say(meeting.ok, meeting.name, &meeting.seen);
        self.foreign.push(meeting);
    }

    /// What could not be tried.
    pub fn skipped(&mut self, name: &str, why: &str) {
        eprintln!("SKIPPED {name}: {why}");
        self.skipped.push(Skipped { name: name.to_owned(), why: why.to_owned() });
    }

    /// The last word: whether all was well.
    pub fn finish(mut self) -> bool {
        self.seconds = self.started.elapsed().as_secs();
        self.ok = self.nats.iter().all(|f| f.ok)
            && self.pairs.iter().all(|p| p.ok)
            && self.continuity.iter().all(|t| t.ok)
            && self.foreign.iter().all(|m| m.ok);
        if self.json {
            println!(
                "{}",
                serde_json::to_string(&self).unwrap_or_else(|e| format!("{{\"ok\":false,\"why\":\"{e}\"}}"))
            );
        }
        self.ok
    }
}
