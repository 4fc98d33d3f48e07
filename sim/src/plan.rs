//! A scenario as plain data: hosts, faults with their times, and work.
//!
//! A plan comes from a class and a seed ([`Plan::from_seed`]), from a file (JSON), or from a fuzzer; it can be printed,
//! kept as a regression test, and made smaller ([`Plan::smaller`]): dropping a fault, a piece of work or a host leaves
//! the dice of all others as they were.

mod draw;

use crate::dht::DhtSpec;
use crate::disk::DiskSpec;
use crate::engine::EngineSpec;
use crate::evil::Malice;
use crate::host::Clock;
use crate::net::{HostId, Quality};
use crate::sites::{Attachment, NetworkPlan};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A family of scenarios.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Nothing goes wrong.
    Calm,
    /// The network is bad: loss, bursts, reordering, duplication, flipped bits, small datagrams.
    Lossy,
    /// Machines come and go, pause, move, forget.
    Churn,
    /// Parts of the network cannot reach each other for a while, in one direction or both.
    Partition,
    /// Disks fail, fill and rot; power goes at the worst moment.
    Disk,
    /// The DHT lies, forgets, fails and vanishes.
    Dht,
    /// Engines fail and hang.
    Engine,
    /// A random choice of everything above.
    Swarm,
    /// Many peers that publish, look up and transfer with 2 % loss and churn.
    Scale,
}

impl Class {
    /// All classes.
    pub const ALL: [Class; 9] = [
        Class::Calm,
        Class::Lossy,
        Class::Churn,
        Class::Partition,
        Class::Disk,
        Class::Dht,
        Class::Engine,
        Class::Swarm,
        Class::Scale,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Calm => "calm",
            Class::Lossy => "lossy",
            Class::Churn => "churn",
            Class::Partition => "partition",
            Class::Disk => "disk",
            Class::Dht => "dht",
            Class::Engine => "engine",
            Class::Swarm => "swarm",
            Class::Scale => "scale",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not the name of a class.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("no class `{0}`; there are calm, lossy, churn, partition, disk, dht, engine, swarm, scale")]
pub struct UnknownClass(pub String);

impl FromStr for Class {
    type Err = UnknownClass;
    fn from_str(s: &str) -> Result<Self, UnknownClass> {
        Class::ALL.into_iter().find(|c| c.as_str() == s).ok_or_else(|| UnknownClass(s.to_owned()))
    }
}

/// A planned machine.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostPlan {
    /// When it is first started.
    pub start_ms: u64,
    /// Where it is.
    pub region: u8,
    /// Its link.
    pub link: Quality,
    /// Its clocks.
    pub clock: Clock,
    /// Its disk.
    pub disk: DiskSpec,
    /// Its engine.
    pub engine: EngineSpec,
    /// Real TLS instead of the null session. All hosts of a plan or none.
    pub real_tls: bool,
    /// Services it offers: `s<n>` with a module of its own.
    pub services: Vec<u8>,
    /// Connections it wants; 0: the product's own bounds.
    pub peers: u16,
    /// Behind what it is; `None`: a public machine on the Internet itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat: Option<Attachment>,
    /// Whether it relays for others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub relay: bool,
    /// What it does that it should not, until the plan's time is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub malice: Option<Malice>,
}

/// Something that goes wrong for a while.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When it begins.
    pub at_ms: u64,
    /// How long it lasts, where that means anything.
    #[serde(default)]
    pub for_ms: u64,
    /// What.
    pub what: FaultKind,
}

/// What goes wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// The power of a machine goes; it comes back at the end.
    Crash {
        /// Which.
        host: HostId,
        /// Whether it comes back with an empty disk.
        forget: bool,
    },
    /// A machine's processor stops.
    Pause {
        /// Which.
        host: HostId,
    },
    /// A machine's cable is pulled.
    Unplug {
        /// Which.
        host: HostId,
    },
    /// Some machines cannot reach the others.
    Cut {
        /// Which.
        hosts: Vec<HostId>,
        /// Whether they hear the others meanwhile.
        deaf: bool,
    },
    /// Loss and latency everywhere.
    Weather {
        /// Loss on top.
        loss_ppm: u32,
        /// Latency on top.
        surge_us: u32,
    },
    /// A machine's link is bad.
    Link {
        /// Whose.
        host: HostId,
        /// What it is like meanwhile.
        quality: Quality,
    },
    /// A machine gets another address, for good: one that is set up again elsewhere, with its disk; or, with a place to
    /// go, one that roams there while it runs.
    Move {
        /// Which.
        host: HostId,
        /// Where to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Attachment>,
    },
    /// The boxes of a network restart and have forgotten everything.
    NatReboot {
        /// Whose, by its position in the plan.
        network: u32,
    },
    /// The boxes of a network get other outer addresses, for good.
    NatReaddress {
        /// Whose, by its position in the plan.
        network: u32,
    },
    /// The boxes of a network let no UDP through.
    UdpBlocked {
        /// Whose, by its position in the plan.
        network: u32,
    },
    /// A machine's wall clock is set, for good.
    ClockJump {
        /// Whose.
        host: HostId,
        /// By so much.
        by_ms: i64,
    },
    /// The DHT is gone.
    DhtOffline,
    /// The DHT is bad.
    DhtBad {
        /// What it is like meanwhile.
        spec: DhtSpec,
    },
    /// A machine's commits fail.
    DiskFails {
        /// Whose.
        host: HostId,
    },
    /// A machine's disk has no room for objects.
    DiskFull {
        /// Whose.
        host: HostId,
    },
    /// An object rots, for good.
    BlobRots {
        /// Whose.
        host: HostId,
        /// Which of those it has, counted around.
        nth: u64,
    },
    /// A machine's engine is bad.
    EngineBad {
        /// Whose.
        host: HostId,
        /// What it is like meanwhile.
        spec: EngineSpec,
    },
    /// Datagrams of nonsense reach a machine.
    Garbage {
        /// Which.
        host: HostId,
        /// How many.
        datagrams: u32,
    },
}

impl FaultKind {
    /// Its name in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            FaultKind::Crash { forget: false, .. } => "crash",
            FaultKind::Crash { forget: true, .. } => "amnesia",
            FaultKind::Pause { .. } => "pause",
            FaultKind::Unplug { .. } => "unplug",
            FaultKind::Cut { deaf: true, .. } => "cut",
            FaultKind::Cut { deaf: false, .. } => "one-way cut",
            FaultKind::Weather { .. } => "weather",
            FaultKind::Link { .. } => "bad link",
            FaultKind::Move { to: None, .. } => "move",
            FaultKind::Move { to: Some(_), .. } => "roam",
            FaultKind::NatReboot { .. } => "nat reboot",
            FaultKind::NatReaddress { .. } => "nat readdress",
            FaultKind::UdpBlocked { .. } => "udp blocked",
            FaultKind::ClockJump { .. } => "clock jump",
            FaultKind::DhtOffline => "dht offline",
            FaultKind::DhtBad { .. } => "bad dht",
            FaultKind::DiskFails { .. } => "disk fails",
            FaultKind::DiskFull { .. } => "disk full",
            FaultKind::BlobRots { .. } => "blob rots",
            FaultKind::EngineBad { .. } => "bad engine",
            FaultKind::Garbage { .. } => "garbage",
        }
    }

    /// The one host it is about.
    const fn host(&self) -> Option<HostId> {
        match self {
            FaultKind::Crash { host, .. }
            | FaultKind::Pause { host }
            | FaultKind::Unplug { host }
            | FaultKind::Link { host, .. }
            | FaultKind::Move { host, .. }
            | FaultKind::ClockJump { host, .. }
            | FaultKind::DiskFails { host }
            | FaultKind::DiskFull { host }
            | FaultKind::BlobRots { host, .. }
            | FaultKind::EngineBad { host, .. }
            | FaultKind::Garbage { host, .. } => Some(*host),
            FaultKind::Cut { .. }
            | FaultKind::Weather { .. }
            | FaultKind::NatReboot { .. }
            | FaultKind::NatReaddress { .. }
            | FaultKind::UdpBlocked { .. }
            | FaultKind::DhtOffline
            | FaultKind::DhtBad { .. } => None,
        }
    }
}

/// Something an application wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// When.
    pub at_ms: u64,
    /// Where.
    pub host: HostId,
    /// What.
    pub what: WorkKind,
}

/// How the tasks of a workflow hang together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// One after the other.
    Chain,
    /// All side by side, each to a sink of its own.
    Fan,
    /// All side by side, joined by one more.
    Join,
}

/// What an application wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum WorkKind {
    /// Be connected to somebody.
    Connect {
        /// Whom.
        to: HostId,
        /// At its address; else wherever the DHT says.
        by_address: bool,
    },
    /// See how the node is.
    Status,
    /// Bring an object of another machine here: it gives a permission, and this one fetches.
    Transfer {
        /// Who has it.
        from: HostId,
        /// How long it is.
        bytes: u64,
    },
    /// Run a workflow of these executors' services; an object goes there and the results come back.
    Run {
        /// How its tasks hang together.
        shape: Shape,
        /// Who runs each task, in order.
        executors: Vec<HostId>,
        /// Length of the object that goes in.
        bytes_in: u64,
        /// Length of every task's output.
        bytes_out: u64,
        /// How long every task takes.
        task_ms: u64,
    },
    /// Cancel the run of the `nth` piece of work.
    Cancel {
        /// Position of the run in the plan's work.
        nth: usize,
    },
}

/// A scenario.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Its family.
    pub class: Class,
    /// Its seed.
    pub seed: u64,
    /// How long faults and work go on.
    pub duration_ms: u64,
    /// How long everything has to come to rest after the last fault.
    pub liveness_ms: u64,
    /// The DHT.
    pub dht: DhtSpec,
    /// Networks behind boxes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkPlan>,
    /// The machines.
    pub hosts: Vec<HostPlan>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What is wanted.
    pub work: Vec<Work>,
    /// Whether every run must succeed: nothing in the plan gives it a reason to fail.
    pub all_succeed: bool,
}

/// Peers that machines of class [`Class::Scale`] remember: their memory is bounded, however large the world is.
pub const SCALE_KNOWN_PEERS: usize = 48;
/// Connections that machines of class [`Class::Scale`] want.
pub const SCALE_PEERS: u16 = 10;

/// Virtual time everything has to settle once all faults are over: more than the longest chain of the product's own
/// patience. A task whose input is gone for good is tried `INFRA_RETRIES` times with back-offs that double up to 300 s
/// (about 1,000 s with jitter), each time staging its inputs for minutes; a task may wait `QUEUE_TIMEOUT` (600 s) for an
/// executor, and a result whose only copy has rotted is asked for `FETCH_TRIES_MAX` times (about 380 s). A world at rest
/// ends at once, so patience costs nothing where none is needed.
pub const LIVENESS_MS: u64 = 3_600_000;

impl Plan {
    /// Whether any machine is malicious: then cores are needed that know how to be ([`crate::evil::cast::Cast`]).
    pub fn is_malicious(&self) -> bool {
        self.hosts.iter().any(|h| h.malice.is_some())
    }

    /// Plans that are a little smaller than this one: for finding the least that still fails.
    pub fn smaller(&self) -> Vec<Plan> {
        let mut out = Vec::new();
        // Halves first, then single pieces: a delta debugger's steps.
        let mut chunk = self.faults.len();
        while chunk > 0 {
            for from in (0..self.faults.len()).step_by(chunk) {
                let mut plan = self.clone();
                plan.faults.drain(from..(from + chunk).min(plan.faults.len()));
                out.push(plan);
            }
            chunk /= 2;
        }
        for nth in (0..self.hosts.len()).filter(|nth| self.hosts[*nth].malice.is_some()) {
            let mut plan = self.clone();
            plan.hosts[nth].malice = None;
            out.push(plan);
        }
        for nth in (0..self.work.len()).rev() {
            out.push(self.without_work(nth));
        }
        if self.hosts.len() > 2 {
            out.push(self.without_last_host());
        }
        out
    }

    /// Without a piece of work, and without what cancels it.
    fn without_work(&self, nth: usize) -> Plan {
        let mut plan = self.clone();
        plan.work = Vec::new();
        for (at, work) in self.work.iter().enumerate() {
            match &work.what {
                _ if at == nth => {}
                WorkKind::Cancel { nth: run } if *run == nth => {}
                WorkKind::Cancel { nth: run } if *run > nth => {
                    let what = WorkKind::Cancel { nth: run - 1 };
                    plan.work.push(Work { what, ..work.clone() });
                }
                WorkKind::Cancel { .. }
                | WorkKind::Connect { .. }
                | WorkKind::Status
                | WorkKind::Transfer { .. }
                | WorkKind::Run { .. } => plan.work.push(work.clone()),
            }
        }
        plan
    }

    /// Without the last machine, and without whatever is about it.
    fn without_last_host(&self) -> Plan {
        let gone = self.hosts.len() as HostId - 1;
        let mut plan = self.clone();
        plan.hosts.pop();
        plan.faults.retain_mut(|fault| {
            if let FaultKind::Cut { hosts, .. } = &mut fault.what {
                hosts.retain(|h| *h != gone);
                return !hosts.is_empty();
            }
            fault.what.host() != Some(gone)
        });
        let about = |work: &Work| {
            work.host == gone
                || match &work.what {
                    WorkKind::Connect { to, .. } => *to == gone,
                    WorkKind::Transfer { from, .. } => *from == gone,
                    WorkKind::Run { executors, .. } => executors.contains(&gone),
                    WorkKind::Status | WorkKind::Cancel { .. } => false,
                }
        };
        while let Some(nth) = plan.work.iter().position(about) {
            plan = plan.without_work(nth);
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_its_text_form_and_comes_the_same_from_its_seed() {
        for class in Class::ALL {
            assert_eq!(class.as_str().parse(), Ok(class));
            let plan = Plan::from_seed(class, 42, 12, 120_000);
            assert_eq!(plan, Plan::from_seed(class, 42, 12, 120_000));
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        }
        assert_ne!(
            Plan::from_seed(Class::Swarm, 1, 12, 120_000).faults,
            Plan::from_seed(Class::Swarm, 2, 12, 120_000).faults
        );
    }

    #[test]
    fn a_plan_from_before_there_were_boxes_is_still_one() {
        let plan = Plan::from_seed(Class::Churn, 3, 4, 60_000);
        let text = serde_json::to_string(&plan).unwrap();
        for newer in ["networks", "\"nat\"", "\"relay\"", "malice"] {
            assert!(!text.contains(newer), "{newer} in {text}");
        }
        let old = r#"{"at_ms":1,"what":{"kind":"move","host":3}}"#;
        let fault: Fault = serde_json::from_str(old).unwrap();
        assert_eq!(fault.what, FaultKind::Move { host: 3, to: None });
    }

    fn is_sound(plan: &Plan) -> bool {
        let known = |h: &HostId| (*h as usize) < plan.hosts.len();
        plan.faults.iter().all(|f| f.what.host().iter().all(known))
            && plan.work.iter().all(|w| {
                known(&w.host)
                    && match &w.what {
                        WorkKind::Connect { to, .. } => known(to),
                        WorkKind::Transfer { from, .. } => known(from),
                        WorkKind::Run { executors, .. } => executors.iter().all(known),
                        WorkKind::Cancel { nth } => {
                            matches!(plan.work.get(*nth), Some(Work { what: WorkKind::Run { .. }, .. }))
                        }
                        WorkKind::Status => true,
                    }
            })
    }

    #[test]
    fn smaller_plans_are_smaller_and_sound() {
        let plan = Plan::from_seed(Class::Swarm, 5, 8, 120_000);
        assert!(is_sound(&plan));
        let size = |p: &Plan| p.faults.len() + p.work.len() + p.hosts.len();
        let mut smallest = plan.clone();
        let mut rounds = 0;
        while let Some(next) = smallest.smaller().into_iter().next_back() {
            assert!(is_sound(&next), "{next:?}");
            assert!(size(&next) < size(&smallest));
            smallest = next;
            rounds += 1;
            assert!(rounds < 1_000);
        }
        assert_eq!(smallest.hosts.len(), 2);
        for next in plan.smaller() {
            assert!(is_sound(&next) && size(&next) < size(&plan));
        }
    }

    #[test]
    fn all_faults_of_its_class_come_up_in_some_seeds() {
        let mut names = std::collections::BTreeSet::new();
        for seed in 0..40 {
            for fault in Plan::from_seed(Class::Swarm, seed, 10, 300_000).faults {
                names.insert(fault.what.name());
            }
        }
        assert_eq!(names.len(), 17, "{names:?}");
        assert!(Plan::from_seed(Class::Calm, 1, 10, 300_000).faults.is_empty());
    }
}
