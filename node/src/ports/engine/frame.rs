//! What the node and a worker say to each other, and how it is framed on the worker's stdin and stdout.
//!
//! ```text
//! node                                worker
//!   Job(spec) ────────────────────────▶  the first: confines itself to its directories
//!             ◀──────────────────────── Ready           the first time only
//!             ◀──────────────────────── Compiled        only when no compiled code was given
//!   Run ──────────────────────────────▶  (the node has put the code in its cache)
//!             ◀──────────────────────── Started
//!   Stop ─────────────────────────────▶  only when asked for
//!             ◀──────────────────────── Ended           and the next Job may come
//! ```
//! A frame is two big-endian `u32` lengths, as many bytes of JSON as the first says, and as many plain bytes as the second: what a
//! light job carries, its stdin or its outputs. Both ends are the same binary, so nothing here is a
//! protocol of the network. What comes from a worker is still not believed: it may have been taken over by its guest.
//! Lengths are bounded, texts are cleaned, and outputs are looked at by the node itself.

use crate::ports::workdir::Staged;
use bytes::Bytes;
use remote_network_core::job::carried::CARRIED_BYTES_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Largest frame to a worker: 512 arguments and environment values of 16 KiB each, escaped by JSON at worst sixfold.
pub(super) const TO_WORKER_BYTES_MAX: u32 = 64 << 20;
/// Largest frame from a worker: one detail text and a few numbers.
pub(super) const FROM_WORKER_BYTES_MAX: u32 = 64 << 10;
/// Most plain bytes behind either.
pub(super) const CARRIED_MAX: u32 = CARRIED_BYTES_MAX as u32;
/// Compiled code that a worker hands over, beside what it writes for its job.
pub(super) const CODE: &str = "code.cwasm";
/// The module, in what a worker reads.
pub(super) const MODULE: &str = "module.wasm";
/// Frames a worker may send about one job; an honest one sends four.
pub(super) const FROM_WORKER_FRAMES_MAX: usize = 8;

/// From the node to a worker.
#[derive(Serialize, Deserialize, Debug)]
pub(super) enum ToWorker {
    /// Confine yourself to this directory, answer `Ready` and end: how the node learns what the kernel supports.
    Probe {
        /// An existing directory.
        dir: PathBuf,
    },
    /// A job. All jobs of a worker have one module and the same limits of memory and output.
    Job(Box<Spec>),
    /// The code is safe in the cache (or the cache failed): go on.
    Run,
    /// Interrupt the guest.
    Stop,
}

/// A job as a worker sees it: no digests, only files in directories of its own.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Spec {
    /// The worker's own directory, which it confines itself to.
    pub root: PathBuf,
    /// Beneath it, what the job reads.
    pub read: PathBuf,
    /// Beneath it, what the job writes.
    pub written: PathBuf,
    /// Compiled code, verified by the node; a worker's first job needs it.
    pub code: Option<PathBuf>,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Directories the guest sees.
    pub mounts: Vec<Staged>,
    /// Linear memory.
    pub memory_bytes: u64,
    /// Wall time of the guest.
    pub time_ms: u64,
    /// Bytes of one output.
    pub output_bytes: u64,
    /// Seed of the guest's randomness.
    pub seed: [u8; 32],
    /// Whether the job is light: its stdin is what follows the frame, its two outputs stay in memory as long as they fit there, and
    /// the two directories need not be.
    pub light: bool,
    /// The stdin of a light job.
    #[serde(skip)]
    pub stdin: Bytes,
}

/// From a worker to the node.
#[derive(Serialize, Deserialize, Debug)]
pub(super) enum FromWorker {
    /// The worker is confined.
    Ready {
        /// What is in force.
        confinement: Vec<String>,
        /// Tells compiled code of this build apart from that of any other.
        code_version: String,
    },
    /// The module is compiled and its code lies in the job's directory; the worker waits for `Run`.
    Compiled,
    /// The guest starts.
    Started,
    /// The guest ended, or never could start.
    Ended(Ended),
}

/// How a guest ended.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Ended {
    /// The class.
    pub class: Class,
    /// Exit code, for `Success` and `User`.
    pub code: i32,
    /// Whether the guest trapped.
    pub trapped: bool,
    /// Words for people, not yet cleaned.
    pub detail: String,
    /// Processor time of the guest's thread.
    pub cpu_ns: u64,
    /// Fuel burnt.
    pub fuel: u64,
    /// Highest size of the linear memory.
    pub memory_bytes: u64,
    /// Wall time of the guest.
    pub wall_ms: u64,
    /// Of a light job whose outputs follow the frame: how many of those bytes are stdout. The rest is stderr.
    pub stdout_len: Option<u32>,
    /// They themselves.
    #[serde(skip)]
    pub carried: Vec<u8>,
}

impl Ended {
    /// An end before any guest instruction.
    pub(super) fn unstarted(class: Class, detail: impl Into<String>) -> Self {
        Self {
            class,
            code: 0,
            trapped: false,
            detail: detail.into(),
            cpu_ns: 0,
            fuel: 0,
            memory_bytes: 0,
            wall_ms: 0,
            stdout_len: None,
            carried: Vec::new(),
        }
    }
}

/// The classes a worker can tell; the others are the node's to decide.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// Exit code 0.
    Success,
    /// Another exit code, or a trap.
    User,
    /// A limit.
    Resource,
    /// Cannot run here at all.
    Permanent,
    /// The machine's trouble.
    Infra,
    /// Stopped on request.
    Cancelled,
}

/// What may have plain bytes behind it.
pub(super) trait Carries: Serialize + DeserializeOwned {
    /// The bytes.
    fn carried(&self) -> &[u8];
    /// Puts them where they belong; there are none but for a frame that has room for them.
    fn carry(&mut self, bytes: Vec<u8>) -> io::Result<()>;
}

fn unasked() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "bytes behind a frame that carries none")
}

impl Carries for ToWorker {
    fn carried(&self) -> &[u8] {
        match self {
            Self::Job(spec) => &spec.stdin,
            Self::Probe { .. } | Self::Run | Self::Stop => &[],
        }
    }

    fn carry(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Job(spec) if spec.light => spec.stdin = bytes.into(),
            _ if bytes.is_empty() => {}
            Self::Job(_) | Self::Probe { .. } | Self::Run | Self::Stop => return Err(unasked()),
        }
        Ok(())
    }
}

impl Carries for FromWorker {
    fn carried(&self) -> &[u8] {
        match self {
            Self::Ended(ended) => &ended.carried,
            Self::Ready { .. } | Self::Compiled | Self::Started => &[],
        }
    }

    fn carry(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Ended(ended) if ended.stdout_len.is_some_and(|n| n as usize <= bytes.len()) => {
                ended.carried = bytes;
            }
            Self::Ended(ended) if ended.stdout_len.is_some() => return Err(unasked()),
            _ if bytes.is_empty() => {}
            Self::Ended(_) | Self::Ready { .. } | Self::Compiled | Self::Started => return Err(unasked()),
        }
        Ok(())
    }
}

/// Writes one frame, at once, and flushes it.
pub(super) fn write(to: &mut impl Write, frame: &impl Carries) -> io::Result<()> {
    let mut out = vec![0; 8];
    serde_json::to_writer(&mut out, frame)?;
    let len = |n: usize| u32::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge));
    let body = len(out.len() - 8)?.to_be_bytes();
    let carried = len(frame.carried().len())?.to_be_bytes();
    for (to, from) in out.iter_mut().zip(body.into_iter().chain(carried)) {
        *to = from;
    }
    out.extend_from_slice(frame.carried());
    to.write_all(&out)?;
    to.flush()
}

/// Reads one frame of at most `bytes_max` and what it carries; `None` at a clean end.
pub(super) fn read<T: Carries>(from: &mut impl Read, bytes_max: u32) -> io::Result<Option<T>> {
    let mut head = [0; 8];
    let mut got = 0;
    while got < head.len() {
        match from.read(&mut head[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let [a, b, c, d, e, f, g, h] = head;
    let (len, carried) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    if len > bytes_max || carried > CARRIED_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut frame: T = serde_json::from_slice(&exactly(from, len)?)?;
    frame.carry(exactly(from, carried)?)?;
    Ok(Some(frame))
}

/// So many bytes; what is not there takes no memory.
fn exactly(from: &mut impl Read, len: u32) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(u64::from(len)).read_to_end(&mut bytes)?;
    if bytes.len() != len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_and_a_clean_end_is_none() {
        let mut wire = Vec::new();
        write(&mut wire, &FromWorker::Compiled).unwrap();
        write(&mut wire, &FromWorker::Ended(Ended::unstarted(Class::Permanent, "no"))).unwrap();
        let mut from = wire.as_slice();
        assert!(matches!(read(&mut from, 100).unwrap(), Some(FromWorker::Compiled)));
        let Some(FromWorker::Ended(e)) = read(&mut from, 200).unwrap() else { panic!("an end") };
        assert_eq!((e.class, e.detail.as_str()), (Class::Permanent, "no"));
        assert!(read::<FromWorker>(&mut from, 100).unwrap().is_none());
    }

    #[test]
    fn a_frame_that_is_too_long_cut_or_no_json_is_an_error_and_allocates_nothing_ahead() {
        assert!(read::<FromWorker>(&mut [255u8; 8].as_slice(), 100).is_err());
        assert!(read::<FromWorker>(&mut [0u8, 0].as_slice(), 100).is_err());
        assert!(read::<FromWorker>(&mut [0u8, 0, 0, 9, 0, 0, 0, 0, b'{'].as_slice(), 100).is_err());
        assert!(read::<FromWorker>(&mut [0u8, 0, 0, 1, 0, 0, 0, 0, 0xff].as_slice(), 100).is_err());
        let mut long = vec![0, 0, 0, 9, 0, 1, 0, 0];
        long.extend_from_slice(br#""Started""#);
        assert!(read::<FromWorker>(&mut long.as_slice(), 100).is_err(), "more than may be carried");
    }

    #[test]
    fn bytes_follow_only_a_frame_that_has_room_for_them() {
        let ended = |stdout_len, carried: &[u8]| {
            let none = Ended::unstarted(Class::Success, "");
            FromWorker::Ended(Ended { stdout_len, carried: carried.to_vec(), ..none })
        };
        let wire = |frame: &FromWorker| {
            let mut wire = Vec::new();
            write(&mut wire, frame).unwrap();
            read::<FromWorker>(&mut wire.as_slice(), 500)
        };
        let Ok(Some(FromWorker::Ended(e))) = wire(&ended(Some(2), b"outerr")) else { panic!("an end") };
        assert_eq!((e.stdout_len, e.carried.as_slice()), (Some(2), &b"outerr"[..]));
        assert!(wire(&ended(None, b"x")).is_err());
        assert!(wire(&ended(Some(2), b"x")).is_err(), "more stdout than there is");
        let mut wire = Vec::new();
        write(&mut wire, &FromWorker::Started).unwrap();
        wire[7] = 1;
        wire.push(b'x');
        assert!(read::<FromWorker>(&mut wire.as_slice(), 100).is_err());
    }
}
