//! What the core asks of its ports (store, DHT, engine), and what they answer.
//!
//! A port is a thread or a runtime of its own behind bounded channels; in the simulator it is a few lines that run in
//! virtual time. Every request carries an id issued by the core and is answered exactly once (a stream of partial
//! results may come before). Ports are not trusted with decisions: what comes back from the DHT is verified here, what
//! comes back from a peer's store is verified here.

use crate::id::{DhtId, Digest, JobId, OpId, PublicKey, Signature};
use bytes::Bytes;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

// ---------------------------------------------------------------------------------------------- DHT

/// A BEP 44 mutable item. The signature is over `[4:salt…]3:seqi<seq>e1:v<len>:<v>`, where `v` is a bencoded byte string.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MutableItem {
    /// The owner's key.
    pub key: PublicKey,
    /// At most 64 bytes; empty means none.
    pub salt: Bytes,
    /// Version, in 0..2^63.
    pub seq: u64,
    /// The value: the *content* of the bencoded byte string.
    pub value: Bytes,
    /// By the owner.
    pub signature: Signature,
}

/// How many answers a `GetMutable` wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GetMode {
    /// The first valid value ends the operation.
    First,
    /// The whole lookup, to learn the highest `seq`.
    MostRecent,
}

/// The port of an announced peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnnouncePort {
    /// The UDP source port (BEP 5 `implied_port`).
    Implied,
    /// This port.
    Explicit(u16),
}

/// A request to the DHT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DhtRequest {
    /// Announce ourselves under an info-hash.
    Announce {
        /// SHA-1 of the topic.
        topic: DhtId,
        /// Where we listen.
        port: AnnouncePort,
    },
    /// Find who announced under an info-hash.
    GetPeers {
        /// SHA-1 of the topic.
        topic: DhtId,
    },
    /// Store a mutable item, signed by the core.
    PutMutable {
        /// The item.
        item: MutableItem,
        /// Expected `seq` of the stored item (BEP 44 `cas`).
        cas: Option<u64>,
    },
    /// Fetch a mutable item.
    GetMutable {
        /// Whose.
        key: PublicKey,
        /// Salt.
        salt: Bytes,
        /// When to end.
        mode: GetMode,
    },
    /// Store an immutable item (BEP 44): a byte string under its own hash.
    PutImmutable {
        /// The content of the bencoded byte string.
        value: Bytes,
    },
    /// Fetch an immutable item; the first value that has this hash ends the operation.
    GetImmutable {
        /// SHA-1 of the bencoded byte string (see [`crate::dht::item::immutable_target`]).
        target: DhtId,
    },
    /// Stop an operation; answered by the operation's own end.
    Cancel,
}

/// Why a DHT operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DhtFailed {
    /// No node answered.
    #[error("no DHT node answered")]
    NoNodes,
    /// It took too long.
    #[error("timed out")]
    Timeout,
    /// The stored `seq` is not the expected one (BEP 44 error 301).
    #[error("another sequence number is stored than expected (CAS)")]
    Cas,
    /// The stored `seq` is higher (BEP 44 error 302).
    #[error("a more recent item is stored")]
    SeqTooOld,
    /// The value is too large (BEP 44 error 205).
    #[error("the value is too large")]
    TooBig,
    /// The signature was refused (BEP 44 error 206).
    #[error("the signature was refused")]
    BadSignature,
    /// The port is not running.
    #[error("the DHT is offline")]
    Offline,
    /// The core cancelled it.
    #[error("cancelled")]
    Cancelled,
}

/// What a finished DHT operation did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DhtDone {
    /// Nodes that stored the item or announcement.
    pub stored: u32,
    /// Nodes that answered.
    pub responded: u32,
    /// Highest `seq` seen.
    pub newest_seq: Option<u64>,
}

/// What the DHT tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DhtEvent {
    /// Partial result of `GetPeers`.
    Peers {
        /// The operation.
        op: OpId,
        /// Hints: hostile until a handshake proves a key.
        addrs: Vec<SocketAddr>,
    },
    /// Partial result of `GetMutable`.
    Value {
        /// The operation.
        op: OpId,
        /// The item, not yet believed.
        item: MutableItem,
    },
    /// Result of `GetImmutable`.
    Immutable {
        /// The operation.
        op: OpId,
        /// The content of the byte string, not yet believed.
        value: Bytes,
    },
    /// The end of an operation, exactly once.
    Done {
        /// The operation.
        op: OpId,
        /// Its result.
        result: Result<DhtDone, DhtFailed>,
    },
    /// The backend's health changed. `reachable = false` also when its thread died.
    Health {
        /// Nodes in the routing table.
        table_len: u32,
        /// Whether it can work.
        reachable: bool,
    },
}

// ---------------------------------------------------------------------------------------------- blobs

/// What the store knows of a whole object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlobInfo {
    /// Length in bytes.
    pub len: u64,
    /// Chaining values of the pieces (see [`crate::transfer::tree`]), 32 bytes each.
    pub pieces: Bytes,
}

/// A request to the content-addressed store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BlobRequest {
    /// Is the whole object here? Answered by [`BlobAnswer::Info`].
    Open {
        /// Which.
        digest: Digest,
    },
    /// Bytes of a whole object. Answered by [`BlobAnswer::Bytes`] with exactly `len` bytes.
    Read {
        /// Which.
        digest: Digest,
        /// From here.
        offset: u64,
        /// So many; at most one piece, or a whole manifest.
        len: u32,
    },
    /// Start or resume a partial object. Pieces found on disk are verified against `pieces` by the store; answered by
    /// [`BlobAnswer::Partial`] (or `Info` when the object is whole already).
    Create {
        /// Which.
        digest: Digest,
        /// Its length and pieces, already verified against the digest by the core.
        info: BlobInfo,
    },
    /// Write one piece, verified by the core, to a partial object. Answered by [`BlobAnswer::Written`].
    Write {
        /// Which.
        digest: Digest,
        /// Index of the piece.
        piece: u32,
        /// Its bytes.
        bytes: Bytes,
    },
    /// All pieces are written: make it durable and whole. Answered by [`BlobAnswer::Sealed`].
    Seal {
        /// Which.
        digest: Digest,
    },
    /// Keep a small object, all of it at once. Answered by [`BlobAnswer::Sealed`], or by [`BlobFailed::Corrupt`] when it is another.
    Put {
        /// Which.
        digest: Digest,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Remove it (idempotent). Answered by [`BlobAnswer::Removed`].
    Remove {
        /// Which.
        digest: Digest,
    },
    /// Which of these objects are not here, whole and of this length? Answered by [`BlobAnswer::Missing`]. Their bytes are not
    /// looked at.
    Missing {
        /// Objects and their lengths.
        objects: Arc<[(Digest, u64)]>,
    },
}

/// An answer of the content-addressed store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BlobAnswer {
    /// The whole object is here.
    Info(BlobInfo),
    /// The bytes asked for.
    Bytes(Bytes),
    /// The partial object is open; these pieces are already there and verified.
    Partial {
        /// One bit a piece, least significant bit first.
        have: Vec<u8>,
    },
    /// The piece is written (not yet durable).
    Written,
    /// The object is whole and durable.
    Sealed,
    /// The object is gone.
    Removed,
    /// Those that are not here, in the order in which they were asked for.
    Missing(Vec<Digest>),
}

/// Why the store could not.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BlobFailed {
    /// No such object.
    #[error("no such object")]
    NotFound,
    /// The quota or the disk is full.
    #[error("no space left for objects")]
    Full,
    /// The bytes on disk are not what they were.
    #[error("the stored object is damaged")]
    Corrupt,
    /// The operating system's words.
    #[error("store: {0}")]
    Io(String),
}

// ---------------------------------------------------------------------------------------------- engine

/// A port of a service. In a workflow's text: `stdin`, `stdout`, `stderr`, or a mount by its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Port {
    /// Standard input. Several inputs are concatenated in declared order.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A named mount: a file at `/<name>` inside the job (a directory of numbered files when several edges meet).
    Mount(String),
}

/// One input of a job, already in the local store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineInput {
    /// Where it goes.
    pub port: Port,
    /// What.
    pub digest: Digest,
    /// How long.
    pub len: u64,
}

/// Limits of one execution; every one is enforced by the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineLimits {
    /// Linear memory.
    pub memory_bytes: u64,
    /// Wall time.
    pub time_ms: u64,
    /// Bytes of one output port.
    pub output_bytes: u64,
}

/// A container image.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Image {
    /// What its owner calls it, for people: a reference such as `alpine:3.20`.
    pub name: String,
    /// What the engine calls it: SHA-256 of its configuration, which names all its layers.
    pub id: [u8; 32],
    /// Replaces its entry point, unless empty.
    pub entrypoint: Vec<String>,
    /// Replaces its working directory.
    pub workdir: Option<String>,
}

impl Image {
    /// Its id as engines write it: `sha256:` and 64 hex digits.
    pub fn id_text(&self) -> String {
        format!("sha256:{}", Digest(self.id))
    }
}

/// What machine code is made for, in the words of Rust's `std::env::consts`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Target {
    /// The processor, such as `x86_64` or `aarch64`.
    pub arch: String,
    /// The system, such as `linux`.
    pub os: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.os, self.arch)
    }
}

/// A native executable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Executable {
    /// The file, in the local store.
    pub object: Digest,
    /// Where it runs.
    pub target: Target,
}

/// A directory that is given as it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Dataset {
    /// Its list of files (see [`crate::manifest`]), in the local store with all of them.
    pub manifest: Digest,
    /// Length of the list in bytes.
    pub len: u64,
}

/// What is run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Program {
    /// A WebAssembly module with WASI preview 1, in the local store.
    Wasm(Digest),
    /// A container image that the engine of this machine has.
    Image(Box<Image>),
    /// Machine code, in a sandbox of its own.
    Native(Box<Executable>),
    /// Nothing: a directory is the output. No engine is asked.
    Data(Dataset),
}

impl Program {
    /// What kind of service it makes, in a word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Wasm(_) => "wasm",
            Self::Image(_) => "docker",
            Self::Native(_) => "standalone",
            Self::Data(_) => "data",
        }
    }

    /// The object of the local store that it needs.
    pub fn object(&self) -> Option<Digest> {
        match self {
            Self::Wasm(module) => Some(*module),
            Self::Image(_) => None,
            Self::Native(executable) => Some(executable.object),
            Self::Data(dataset) => Some(dataset.manifest),
        }
    }

    /// Names it, whatever it is: a module, an executable or a directory by its own digest.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Wasm(module) => *module,
            Self::Image(image) => Digest::in_domain("rn/image/v1", &[&image.id]),
            Self::Native(executable) => executable.object,
            Self::Data(dataset) => dataset.manifest,
        }
    }

    /// The directory that it gives, if that is all it does.
    pub const fn dataset(&self) -> Option<Dataset> {
        match self {
            Self::Data(dataset) => Some(*dataset),
            Self::Wasm(_) | Self::Image(_) | Self::Native(_) => None,
        }
    }
}

/// What a mount holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Layout {
    /// Files: an input is the file `0000`, the next one `0001`; the output is the file `out`.
    #[default]
    Files,
    /// One directory (see [`crate::manifest`]): all inputs in one, which must not disagree; the output is whatever lies there.
    Tree,
    /// Directories, each in one of its own: `0000`, `0001`. For inputs only.
    Trees,
}

impl Layout {
    /// Whether its objects are manifests.
    pub const fn is_tree(self) -> bool {
        match self {
            Self::Files => false,
            Self::Tree | Self::Trees => true,
        }
    }
}

/// A mount that is not as mounts usually are: files that lie at `/` and its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MountPath {
    /// The mount.
    pub name: String,
    /// Where it lies in the guest: an absolute path.
    pub path: Option<String>,
    /// What it holds.
    pub layout: Layout,
}

/// What the objects at a port are: [`Layout::Files`] but for the mounts that `mounts` says something else of.
pub fn layout_of(mounts: &[MountPath], port: &Port) -> Layout {
    match port {
        Port::Stdin | Port::Stdout | Port::Stderr => Layout::Files,
        Port::Mount(name) => mounts.iter().find(|m| m.name == *name).map_or(Layout::Files, |m| m.layout),
    }
}

/// One execution.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineJob {
    /// Whose it is. What is kept of one execution for the next, a process above all, never serves another's.
    pub tenant: PublicKey,
    /// What runs.
    pub program: Program,
    /// Mounts that are not as usual.
    pub paths: Vec<MountPath>,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// Environment, complete: nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Inputs, in declared order.
    pub inputs: Vec<EngineInput>,
    /// Ports to keep.
    pub outputs: Vec<Port>,
    /// Limits.
    pub limits: EngineLimits,
    /// The inputs themselves, one for each, of a light job: they are not in the store. Its outputs come back the same way.
    pub carried: Option<Vec<Bytes>>,
    /// Seed of the guest's randomness; strict runs are reproducible bit for bit (SPEC 6.4).
    pub seed: [u8; 32],
}

/// What took longer than this is worth a place in the store.
pub const CARRIED_TIME_MAX: Duration = Duration::from_secs(10);

/// How an execution ended. The class decides about retries (docs/PROTOCOL.md, failure classes).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ExitClass {
    /// Exit code 0.
    Success,
    /// Exit code ≠ 0 or a trap of the guest's own making.
    User,
    /// A limit was hit (memory, time, output).
    Resource,
    /// The module or the order cannot run here at all.
    Permanent,
    /// This machine's trouble: worker died, disk, input missing.
    Infra,
    /// Stopped on request.
    Cancelled,
}

/// What an execution used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Processor time in nanoseconds (0 when unknown).
    pub cpu_ns: u64,
    /// Fuel units (wasm instructions, roughly); 0 when not metered.
    pub fuel: u64,
    /// Peak memory in bytes.
    pub memory_bytes: u64,
    /// Wall time in milliseconds.
    pub wall_ms: u64,
}

/// A sealed output in the local store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineOutput {
    /// Which port.
    pub port: Port,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its length.
    pub len: u64,
    /// Whether it was cut at the limit.
    pub truncated: bool,
}

/// The end of an execution. Outputs that are not carried are durable in the local store before this is said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineExit {
    /// How.
    pub class: ExitClass,
    /// The guest's exit code; 0 unless `class` is `User` or `Success`.
    pub code: i32,
    /// Words for people: the trap, the limit, the missing input. At most 500 bytes.
    pub detail: String,
    /// What it used.
    pub usage: Usage,
    /// Its outputs, also after a failure.
    pub outputs: Vec<EngineOutput>,
    /// The outputs themselves, one for each, instead of in the store. Only of a light job, and only if they are small and came
    /// soon (see [`CARRIED_TIME_MAX`]).
    pub carried: Option<Vec<Bytes>>,
}

/// A request to the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EngineRequest {
    /// Start a job. A second start of the same job while it runs is ignored.
    Start(EngineJob),
    /// Stop a job: a polite signal, then after `grace` an end. Answered by its `Exited` (or none when unknown).
    Stop {
        /// Time to end by itself.
        grace: Duration,
    },
}

/// What the engine tells of a job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EngineEvent {
    /// The guest runs.
    Started,
    /// It ended, exactly once per start.
    Exited(EngineExit),
}

/// An engine's word about one job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineReport {
    /// The job.
    pub job: JobId,
    /// What happened.
    pub event: EngineEvent,
}
