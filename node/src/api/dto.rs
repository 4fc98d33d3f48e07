//! The core's views as JSON: `snake_case`, keys as `key_…`, digests and run ids as hex, times as milliseconds since 1970.
//!
//! The core does not know JSON; these are its plain values in other clothes, with nothing decided here.

mod agreement;
mod dataset;
mod details;
mod policy;
mod program;
mod search;

use super::reach::{PathDto, ReachDto};
use crate::workflow_text::port_text;
use remote_network_core::command::{
    Notice, PeerState, PeerView, Placement, ResultView, RunView, ServiceView, StatusView, TaskView,
};
use remote_network_core::id::{PublicKey, RunId};
use remote_network_core::port::{EngineLimits, ExitClass, Image, Layout, Program, Usage};
use remote_network_core::service::{Mount, MountDirection, Service, Visibility};
use remote_network_core::time::UnixTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use agreement::AgreementDto;
pub use dataset::DatasetDto;
pub use details::{DetailsDto, NeedsDto};
pub use policy::{PolicyDto, PolicyViewDto};
pub use program::ProgramDto;
pub use search::{HitDto, SearchLine};

/// How the node is.
#[derive(Serialize)]
pub struct StatusDto {
    key: String,
    peer_id: String,
    version: &'static str,
    uptime_ms: u64,
    local_addrs: Vec<String>,
    observed_addrs: Vec<ObservedDto>,
    connected: u32,
    known: u32,
    dht_nodes: u32,
    dht_reachable: bool,
    record: Option<RecordDto>,
    record_waiting: Option<&'static str>,
    services: u32,
    runs_active: u32,
    jobs_active: u32,
    reach: ReachDto,
    refused: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct ObservedDto {
    addr: String,
    peers: u32,
}

#[derive(Serialize)]
struct RecordDto {
    seq: u64,
    stored_at: u64,
}

impl From<&StatusView> for StatusDto {
    fn from(v: &StatusView) -> Self {
        let observed =
            v.observed_addrs.iter().map(|(a, n)| ObservedDto { addr: a.to_string(), peers: *n }).collect();
        Self {
            key: v.key.to_string(),
            peer_id: v.peer_id.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_ms: u64::try_from(v.uptime.as_millis()).unwrap_or(u64::MAX),
            local_addrs: v.local_addrs.iter().map(ToString::to_string).collect(),
            observed_addrs: observed,
            connected: v.connected,
            known: v.known,
            dht_nodes: v.dht_nodes,
            dht_reachable: v.dht_reachable,
            record: v.record.map(|(seq, at)| RecordDto { seq, stored_at: at.as_millis() }),
            record_waiting: v.record_waiting,
            services: v.services,
            runs_active: v.runs_active,
            jobs_active: v.jobs_active,
            reach: ReachDto::from(&v.reach),
            refused: v.refused.iter().copied().collect(),
        }
    }
}

/// A peer.
#[derive(Serialize)]
pub struct PeerDto {
    key: String,
    peer_id: String,
    state: &'static str,
    since: u64,
    addr: Option<String>,
    rtt_us: Option<u64>,
    bytes_sent: u64,
    bytes_received: u64,
    first_seen: u64,
    last_seen: u64,
    source: &'static str,
    trouble: Option<String>,
    services: u32,
    blocked: bool,
    path: Option<PathDto>,
}

impl From<&PeerView> for PeerDto {
    fn from(v: &PeerView) -> Self {
        Self {
            key: v.key.to_string(),
            peer_id: v.peer_id.to_string(),
            state: peer_state(v.state),
            since: v.since.as_millis(),
            addr: v.addr.map(|a| a.to_string()),
            rtt_us: v.rtt_us,
            bytes_sent: v.bytes.0,
            bytes_received: v.bytes.1,
            first_seen: v.seen.0.as_millis(),
            last_seen: v.seen.1.as_millis(),
            source: v.source,
            trouble: v.trouble.clone(),
            services: v.services,
            blocked: v.blocked,
            path: v.path.as_ref().map(PathDto::from),
        }
    }
}

const fn peer_state(state: PeerState) -> &'static str {
    match state {
        PeerState::Connecting => "connecting",
        PeerState::Connected => "connected",
        PeerState::Idle => "idle",
        PeerState::Stale => "stale",
        PeerState::Closed => "closed",
    }
}

/// A service and who offers it.
#[derive(Serialize)]
pub struct ServiceDto {
    id: String,
    owner: String,
    local: bool,
    kind: &'static str,
    name: String,
    description: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<String>,
    module_len: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageDto>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<ProgramDto>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<DatasetDto>,
    stdin: bool,
    mounts: Vec<MountDto>,
    limits: LimitsDto,
    visibility: VisibilityDto,
    details: DetailsDto,
}

impl From<&ServiceView> for ServiceDto {
    fn from(v: &ServiceView) -> Self {
        let s = &v.service;
        Self {
            id: s.id().to_string(),
            owner: v.owner.to_string(),
            local: v.local,
            kind: s.program.kind(),
            name: s.name.clone(),
            description: s.description.clone(),
            version: s.version.clone(),
            module: match &s.program {
                Program::Wasm(module) => Some(module.to_string()),
                Program::Image(_) | Program::Native(_) | Program::Data(_) => None,
            },
            module_len: s.module_len,
            image: match &s.program {
                Program::Wasm(_) | Program::Native(_) | Program::Data(_) => None,
                Program::Image(image) => Some(ImageDto::from(&**image)),
            },
            program: match &s.program {
                Program::Wasm(_) | Program::Image(_) | Program::Data(_) => None,
                Program::Native(exe) => Some(ProgramDto::from(&**exe)),
            },
            data: s.program.dataset().map(DatasetDto::from),
            stdin: s.stdin,
            mounts: s.mounts.iter().map(MountDto::from).collect(),
            limits: LimitsDto::from(&s.limits),
            visibility: VisibilityDto::from(&s.visibility),
            details: DetailsDto::from(&s.details),
        }
    }
}

/// A container image of a service.
#[derive(Serialize)]
pub struct ImageDto {
    name: String,
    id: String,
    entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workdir: Option<String>,
}

impl From<&Image> for ImageDto {
    fn from(i: &Image) -> Self {
        Self {
            name: i.name.clone(),
            id: i.id_text(),
            entrypoint: i.entrypoint.clone(),
            workdir: i.workdir.clone(),
        }
    }
}

/// A named mount of a service.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountDto {
    name: String,
    direction: DirectionDto,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "LayoutDto::is_usual")]
    layout: LayoutDto,
}

impl MountDto {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it lies, if that is said.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DirectionDto {
    In,
    Out,
}

/// What a mount holds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayoutDto {
    #[default]
    Files,
    Tree,
    Trees,
}

impl LayoutDto {
    fn is_usual(&self) -> bool {
        *self == Self::Files
    }
}

impl From<Layout> for LayoutDto {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Files => Self::Files,
            Layout::Tree => Self::Tree,
            Layout::Trees => Self::Trees,
        }
    }
}

impl From<LayoutDto> for Layout {
    fn from(layout: LayoutDto) -> Self {
        match layout {
            LayoutDto::Files => Self::Files,
            LayoutDto::Tree => Self::Tree,
            LayoutDto::Trees => Self::Trees,
        }
    }
}

impl From<&Mount> for MountDto {
    fn from(m: &Mount) -> Self {
        let direction = match m.direction {
            MountDirection::In => DirectionDto::In,
            MountDirection::Out => DirectionDto::Out,
        };
        Self { name: m.name.clone(), direction, path: m.path.clone(), layout: m.layout.into() }
    }
}

impl From<MountDto> for Mount {
    fn from(m: MountDto) -> Self {
        let direction = match m.direction {
            DirectionDto::In => MountDirection::In,
            DirectionDto::Out => MountDirection::Out,
        };
        Self { name: m.name, direction, path: m.path, layout: m.layout.into() }
    }
}

/// Limits of one execution.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsDto {
    memory_bytes: u64,
    time_ms: u64,
    output_bytes: u64,
}

impl Default for LimitsDto {
    /// What a small tool needs: 256 MiB of memory, a minute, 1 GiB of output.
    fn default() -> Self {
        Self { memory_bytes: 256 << 20, time_ms: 60_000, output_bytes: 1 << 30 }
    }
}

impl From<&EngineLimits> for LimitsDto {
    fn from(l: &EngineLimits) -> Self {
        Self { memory_bytes: l.memory_bytes, time_ms: l.time_ms, output_bytes: l.output_bytes }
    }
}

impl From<LimitsDto> for EngineLimits {
    fn from(l: LimitsDto) -> Self {
        Self { memory_bytes: l.memory_bytes, time_ms: l.time_ms, output_bytes: l.output_bytes }
    }
}

/// Who may see and run a service: `"everyone"`, `"only_me"` or `{"listed": ["key_…"]}`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisibilityDto {
    /// Every peer.
    #[default]
    Everyone,
    /// These peers.
    Listed(Vec<String>),
    /// Only this node.
    OnlyMe,
}

impl From<&Visibility> for VisibilityDto {
    fn from(v: &Visibility) -> Self {
        match v {
            Visibility::Everyone => Self::Everyone,
            Visibility::Listed(keys) => Self::Listed(keys.iter().map(ToString::to_string).collect()),
            Visibility::OnlyMe => Self::OnlyMe,
        }
    }
}

/// A service to offer. Its module is in the store already.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewServiceDto {
    /// For people and workflows.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// For people.
    #[serde(default)]
    pub version: String,
    /// Digest of the module, as `POST /api/v1/objects` told it. Either this, a program or an image.
    #[serde(default)]
    pub module: Option<String>,
    /// Digest of a native executable, likewise.
    #[serde(default)]
    pub program: Option<String>,
    /// Name or id of a container image that this machine's Docker engine has.
    #[serde(default)]
    pub image: Option<String>,
    /// Digest of a directory, as `POST /api/v1/trees` told it: a service that gives it, without a program.
    #[serde(default)]
    pub data: Option<String>,
    /// Replaces the image's entry point, unless empty.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Replaces the image's working directory.
    #[serde(default)]
    pub workdir: Option<String>,
    /// Whether it reads standard input.
    #[serde(default = "yes")]
    pub stdin: bool,
    /// Its mounts.
    #[serde(default)]
    pub mounts: Vec<MountDto>,
    /// Limits of one execution.
    #[serde(default)]
    pub limits: LimitsDto,
    /// Who may run it.
    #[serde(default)]
    pub visibility: VisibilityDto,
    /// What else it says of itself.
    #[serde(default)]
    pub details: DetailsDto,
}

const fn yes() -> bool {
    true
}

impl NewServiceDto {
    /// The service, given what it runs. Whether its values make sense is for the core to say; the
    /// keys in `visibility` are read by the caller.
    pub fn into_service(self, program: Program, module_len: u64, visibility: Visibility) -> Service {
        let gives = program.dataset().is_some();
        let mounts = self.mounts.into_iter().map(Mount::from).collect();
        Service {
            name: self.name,
            description: self.description,
            version: self.version,
            program,
            module_len,
            stdin: self.stdin && !gives,
            mounts: if gives { remote_network_core::service::dataset::mounts() } else { mounts },
            limits: self.limits.into(),
            visibility,
            details: self.details.into(),
        }
    }
}

/// Where a task would run, and why there.
#[derive(Serialize)]
pub struct PlacementDto {
    task: String,
    service: String,
    service_name: String,
    peers: Vec<String>,
    why: String,
}

impl From<&Placement> for PlacementDto {
    fn from(p: &Placement) -> Self {
        Self {
            task: p.task.clone(),
            service: p.service.to_string(),
            service_name: p.service_name.clone(),
            peers: p.peers.iter().map(PublicKey::to_string).collect(),
            why: p.why.clone(),
        }
    }
}

/// A run.
#[derive(Serialize)]
pub struct RunDto {
    run: String,
    name: String,
    state: &'static str,
    terminal: bool,
    submitted: u64,
    ended: Option<u64>,
    why: Option<String>,
    tasks: Vec<TaskDto>,
    results: Vec<ResultDto>,
    tasks_committed: u32,
    tasks_total: u32,
    tasks_failed: u32,
    tasks_skipped: u32,
    paused: Option<u64>,
    deadline: Option<u64>,
}

impl From<&RunView> for RunDto {
    fn from(v: &RunView) -> Self {
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        let results = v
            .results
            .iter()
            .map(|r| {
                let n = seen.entry(r.sink.as_str()).or_default();
                let dto = ResultDto::of(&v.run, r, *n);
                *n += 1;
                dto
            })
            .collect();
        Self {
            run: v.run.to_string(),
            name: v.name.clone(),
            state: v.state.as_str(),
            terminal: v.state.is_terminal(),
            submitted: v.submitted.as_millis(),
            ended: v.ended.map(UnixTime::as_millis),
            why: v.why.clone(),
            tasks: v.tasks.iter().map(TaskDto::from).collect(),
            results,
            tasks_committed: v.progress.0,
            tasks_total: v.progress.1,
            tasks_failed: v.failed,
            tasks_skipped: v.skipped,
            paused: v.paused.map(UnixTime::as_millis),
            deadline: v.deadline.map(UnixTime::as_millis),
        }
    }
}

/// A task of a run.
#[derive(Serialize)]
pub struct TaskDto {
    id: String,
    state: &'static str,
    why: Option<String>,
    since: u64,
    service: String,
    peer: Option<String>,
    job: Option<&'static str>,
    attempt: u32,
    exit: Option<ExitDto>,
    usage: Option<UsageDto>,
    outputs: Vec<OutputDto>,
    has_receipt: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<AgreementDto>,
}

#[derive(Serialize)]
struct ExitDto {
    class: &'static str,
    code: i32,
}

#[derive(Serialize)]
struct UsageDto {
    cpu_ns: u64,
    fuel: u64,
    memory_bytes: u64,
    wall_ms: u64,
}

impl From<&Usage> for UsageDto {
    fn from(u: &Usage) -> Self {
        Self { cpu_ns: u.cpu_ns, fuel: u.fuel, memory_bytes: u.memory_bytes, wall_ms: u.wall_ms }
    }
}

#[derive(Serialize)]
struct OutputDto {
    port: String,
    digest: String,
    len: u64,
}

impl From<&TaskView> for TaskDto {
    fn from(v: &TaskView) -> Self {
        let outputs = v.outputs.iter().map(|(port, digest, len)| OutputDto {
            port: port_text(port).to_owned(),
            digest: digest.to_string(),
            len: *len,
        });
        Self {
            id: v.id.clone(),
            state: v.state.as_str(),
            why: v.why.clone(),
            since: v.since.as_millis(),
            service: v.service.clone(),
            peer: v.peer.map(|p| p.to_string()),
            job: v.job,
            attempt: v.fence,
            exit: v.exit.map(|(class, code)| ExitDto { class: exit_class(class), code }),
            usage: v.usage.as_ref().map(UsageDto::from),
            outputs: outputs.collect(),
            has_receipt: v.receipt.is_some() && v.commit.is_some(),
            agreement: v.agreement.as_deref().map(AgreementDto::from),
        }
    }
}

const fn exit_class(class: ExitClass) -> &'static str {
    match class {
        ExitClass::Success => "success",
        ExitClass::User => "user",
        ExitClass::Resource => "resource",
        ExitClass::Permanent => "permanent",
        ExitClass::Infra => "infra",
        ExitClass::Cancelled => "cancelled",
    }
}

/// A kept output of a run, and where to download it.
#[derive(Serialize)]
pub struct ResultDto {
    sink: String,
    n: u32,
    task: String,
    port: String,
    digest: String,
    len: u64,
    fetched: u64,
    /// Whether it is a directory, whose files `GET /trees/{digest}` lists.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tree: bool,
    href: String,
}

impl ResultDto {
    fn of(run: &RunId, r: &ResultView, n: u32) -> Self {
        Self {
            sink: r.sink.clone(),
            n,
            task: r.from.0.clone(),
            port: port_text(&r.from.1).to_owned(),
            digest: r.digest.to_string(),
            len: r.len,
            fetched: r.fetched,
            tree: r.tree,
            href: format!("/api/v1/runs/{run}/results/{}/{n}", r.sink),
        }
    }
}

/// What a notice is about; subscriptions choose among these.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// Connections to peers.
    Peers,
    /// Runs and their tasks.
    Runs,
    /// The node's record in the DHT.
    Record,
    /// Objects on their way.
    Transfers,
    /// Container images on their way.
    Docker,
    /// Searches that go on.
    Searches,
}

impl Topic {
    /// The topic of a notice.
    pub const fn of(notice: &Notice) -> Self {
        match notice {
            Notice::Peer(_) => Topic::Peers,
            Notice::Run(_) | Notice::Task { .. } | Notice::Disagreement { .. } => Topic::Runs,
            Notice::Published { .. } => Topic::Record,
            Notice::Transfer { .. } => Topic::Transfers,
            Notice::Found { .. } => Topic::Searches,
        }
    }
}

/// How far a pull of an image is.
#[derive(Serialize)]
pub struct PullDto {
    /// Its name.
    pub image: String,
    /// Layers that are here.
    pub layers_done: usize,
    /// All that are known of.
    pub layers: usize,
    /// Bytes that have come.
    pub done: u64,
    /// Bytes in all, as far as they are known.
    pub len: u64,
}

/// A notice.
#[derive(Serialize)]
#[serde(tag = "event")]
pub enum NoticeDto {
    /// A peer's connection changed.
    #[serde(rename = "peer.changed")]
    Peer {
        /// How it is now.
        peer: Box<PeerDto>,
    },
    /// A run goes on.
    #[serde(rename = "workflow.changed")]
    RunChanged {
        /// How it is now, without tasks.
        run: Box<RunDto>,
    },
    /// A run succeeded.
    #[serde(rename = "workflow.completed")]
    RunCompleted {
        /// How it ended.
        run: Box<RunDto>,
    },
    /// A run failed or was cancelled.
    #[serde(rename = "workflow.failed")]
    RunFailed {
        /// How it ended.
        run: Box<RunDto>,
    },
    /// A task changed.
    #[serde(rename = "job.status.changed")]
    Task {
        /// Of this run.
        run: String,
        /// How it is now.
        task: Box<TaskDto>,
    },
    /// Executors of a task say different things.
    #[serde(rename = "job.disagreement")]
    Disagreement {
        /// Of this run.
        run: String,
        /// How it is now.
        task: Box<TaskDto>,
    },
    /// The record was stored in the DHT.
    #[serde(rename = "record.published")]
    Published {
        /// Its version. Not `seq`: that is the notice's number.
        record_seq: u64,
        /// By so many nodes.
        stored: u32,
    },
    /// An image is being pulled.
    #[serde(rename = "docker.pull.progress")]
    Pull(PullDto),
    /// A search goes on.
    #[serde(rename = "search.found")]
    Found {
        /// Which, within this life of the node.
        search: u64,
        /// What is new, best first.
        hits: Vec<HitDto>,
    },
    /// An object is being fetched.
    #[serde(rename = "transfer.progress")]
    Transfer {
        /// Which.
        digest: String,
        /// Bytes verified.
        done: u64,
        /// Bytes in all.
        len: u64,
    },
}

impl From<&Notice> for NoticeDto {
    fn from(n: &Notice) -> Self {
        use remote_network_core::command::RunState as S;
        match n {
            Notice::Peer(v) => Self::Peer { peer: Box::new(PeerDto::from(v.as_ref())) },
            Notice::Run(v) => {
                let run = Box::new(RunDto::from(v.as_ref()));
                match v.state {
                    S::Succeeded => Self::RunCompleted { run },
                    S::Failed | S::Cancelled => Self::RunFailed { run },
                    S::Validating | S::Running | S::Paused | S::Cancelling | S::Finalizing => {
                        Self::RunChanged { run }
                    }
                }
            }
            Notice::Task { run, task } => {
                Self::Task { run: run.to_string(), task: Box::new(TaskDto::from(task.as_ref())) }
            }
            Notice::Disagreement { run, task } => {
                Self::Disagreement { run: run.to_string(), task: Box::new(TaskDto::from(task.as_ref())) }
            }
            Notice::Published { seq, stored } => Self::Published { record_seq: *seq, stored: *stored },
            Notice::Found { tag, hits } => {
                Self::Found { search: *tag, hits: hits.iter().map(HitDto::from).collect() }
            }
            Notice::Transfer { digest, done, len } => {
                Self::Transfer { digest: digest.to_string(), done: *done, len: *len }
            }
        }
    }
}
