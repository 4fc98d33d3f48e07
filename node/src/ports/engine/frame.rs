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
//! A frame is a big-endian `u32` length and that many bytes of JSON: both ends are the same binary, so nothing here is a
//! protocol of the network. What comes from a worker is still not believed: it may have been taken over by its guest.
//! Lengths are bounded, texts are cleaned, and outputs are looked at by the node itself.

use crate::ports::workdir::Staged;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Largest frame to a worker: 512 arguments and environment values of 16 KiB each, escaped by JSON at worst sixfold.
pub(super) const TO_WORKER_BYTES_MAX: u32 = 64 << 20;
/// Largest frame from a worker: one detail text and a few numbers.
pub(super) const FROM_WORKER_BYTES_MAX: u32 = 64 << 10;
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

/// Writes one frame and flushes it.
pub(super) fn write(to: &mut impl Write, frame: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(frame)?;
    let len = u32::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    to.write_all(&len.to_be_bytes())?;
    to.write_all(&body)?;
    to.flush()
}

/// Reads one frame of at most `bytes_max`; `None` at a clean end.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read, bytes_max: u32) -> io::Result<Option<T>> {
    let mut head = [0; 4];
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
    let len = u32::from_be_bytes(head);
    if len > bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut body = Vec::new();
    from.take(u64::from(len)).read_to_end(&mut body)?;
    if body.len() != len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_slice(&body)?))
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
        assert!(read::<FromWorker>(&mut [0u8, 0, 0, 9, b'{'].as_slice(), 100).is_err());
        assert!(read::<FromWorker>(&mut [0u8, 0, 0, 1, 0xff].as_slice(), 100).is_err());
    }
}
