//! The directory of a job, for every engine: what it reads and what it leaves behind.
//!
//! ```text
//! <scratch>/job-<id>/
//!   r/  stdin  mnt/<name>/0000 0001 …      read by the guest
//!   w/  stdout  stderr  mnt/<name>/out     written by it
//! ```
//! A mount that holds directories has their files in it instead, all in one or each in `0000`, `0001`, …; and its output is all
//! that lies there.
//!
//! The rooms: `stage` an order becomes files; `seal` files become objects; `tree` both for directories; here what they and the
//! engines share.

pub(in crate::ports) mod seal;
pub(in crate::ports) mod stage;
mod tree;

use remote_network_core::id::Digest;
use remote_network_core::port::{EngineExit, EngineJob, EngineOutput, ExitClass, Port, Usage, layout_of};
use seal::SealError;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Read by the guest.
pub(in crate::ports) const READ: &str = "r";
/// Written by the guest.
pub(in crate::ports) const WRITTEN: &str = "w";
/// Mounts, in either.
const MOUNTS: &str = "mnt";
/// The file in an output mount that is its output.
const OUT: &str = "out";
/// Bytes of the words for people (core's `EngineExit::detail`).
const DETAIL_BYTES_MAX: usize = 500;
/// Files and directories in an output mount whose output is one file.
const DIRECTORY_ENTRIES_MAX: usize = 1_024;
/// What directories themselves and temporary files may take beside the output.
const DIRECTORY_SLACK: u64 = 16 << 20;

/// The engines' view of the object store. Called from the threads of jobs; may block.
pub trait EngineBlobs: Send + Sync + 'static {
    /// A whole object, positioned at its start. `NotFound` when it is not here.
    fn open(&self, digest: &Digest) -> io::Result<File>;
    /// Reads to the end and keeps it as an object, durable on return.
    fn import(&self, from: &mut dyn Read) -> io::Result<(Digest, u64)>;
}

/// A mount, laid out.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(in crate::ports) struct Staged {
    /// Its name.
    pub name: String,
    /// Whether the guest may write there.
    pub writable: bool,
    /// Whether it holds directories.
    pub tree: bool,
}

impl Staged {
    /// A mount of this job.
    pub fn new(job: &EngineJob, name: String, writable: bool) -> Self {
        let tree = layout_of(&job.paths, &Port::Mount(name.clone())).is_tree();
        Self { name, writable, tree }
    }

    /// Where it lies in the directory of its job.
    pub fn dir(&self, job: &Path) -> PathBuf {
        self.within(&job.join(READ), &job.join(WRITTEN))
    }

    /// Files and directories that the guest may leave there: of directories, as many as are looked at when they are collected.
    pub fn entries_max(&self) -> usize {
        if self.tree { tree::ENTRIES_MAX } else { DIRECTORY_ENTRIES_MAX }
    }

    /// Where it lies when the two halves of that directory are elsewhere.
    pub fn within(&self, read: &Path, written: &Path) -> PathBuf {
        let half = if self.writable { written } else { read };
        half.join(MOUNTS).join(&self.name)
    }
}

/// Why a job does not start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::ports) struct Refused {
    /// Whose fault it is.
    pub class: ExitClass,
    /// Words for people.
    pub detail: String,
}

impl Refused {
    /// It could not run here at all.
    pub fn permanent(detail: impl Into<String>) -> Self {
        Self { class: ExitClass::Permanent, detail: detail.into() }
    }

    /// Somebody asked it to stop.
    pub fn cancelled() -> Self {
        Self { class: ExitClass::Cancelled, detail: "stopped before it started".into() }
    }

    /// This machine's trouble.
    pub fn infra(detail: impl Into<String>) -> Self {
        Self { class: ExitClass::Infra, detail: detail.into() }
    }
}

/// An end with nothing used and nothing put out.
pub(in crate::ports) fn exit_of(class: ExitClass, detail: &str) -> EngineExit {
    EngineExit {
        class,
        code: 0,
        detail: printable(detail),
        usage: Usage::default(),
        outputs: Vec::new(),
        carried: None,
    }
}

/// Imports the outputs of a job that ran. After a failure of the guest, a mount it left empty is no further news.
pub(in crate::ports) fn collect(dir: &Path, job: &EngineJob, blobs: &dyn EngineBlobs, exit: &mut EngineExit) {
    for port in &job.outputs {
        match seal::seal(dir, port, layout_of(&job.paths, port), job.limits.output_bytes, blobs) {
            Ok(output) => exit.outputs.push(output),
            Err(SealError::Io(name, e)) => {
                fail(exit, ExitClass::Infra, &format!("output {name}: {e}"));
                return;
            }
            Err(e) => {
                if exit.class == ExitClass::Success {
                    fail(exit, ExitClass::User, &e.to_string());
                }
            }
        }
    }
    refuse_cut(job, exit);
}

/// A success whose output had to be cut is none.
pub(in crate::ports) fn refuse_cut(job: &EngineJob, exit: &mut EngineExit) {
    let cut = |o: &EngineOutput| o.truncated;
    if exit.class == ExitClass::Success && exit.outputs.iter().any(cut) {
        let limit = job.limits.output_bytes;
        fail(exit, ExitClass::Resource, &format!("an output passed its limit of {limit} bytes"));
    }
}

pub(in crate::ports) fn fail(exit: &mut EngineExit, class: ExitClass, why: &str) {
    exit.class = class;
    exit.code = 0;
    exit.detail = printable(why);
}

/// One line without control characters and without what turns the direction of text: guests choose parts of it (names of
/// imports, for one), and it ends up in terminals and logs.
pub(in crate::ports) fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if c == '\n' || c == '\t' { ' ' } else { c };
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            continue;
        }
        if out.len() + c.len_utf8() > DETAIL_BYTES_MAX {
            break;
        }
        out.push(c);
    }
    out
}

/// Whether an output directory has no more bytes and entries than it may. Looked at while the guest writes, so things may vanish.
pub(in crate::ports) fn directory_fits(dir: &Path, entries_max: usize, bytes_max: u64) -> bool {
    let (mut bytes, mut entries) = (0u64, 0usize);
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            entries += 1;
            if let Ok(meta) = entry.metadata() {
                bytes = bytes.saturating_add(meta.len());
                if meta.is_dir() {
                    left.push(entry.path());
                }
            }
            if entries > entries_max || bytes > bytes_max.saturating_add(DIRECTORY_SLACK) {
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_is_one_short_line_without_escapes() {
        assert_eq!(printable("a\x1b[31mred\x07\r\nb\u{202e}c\u{9b}2J"), "a[31mred bc2J");
        let long = printable(&"ä".repeat(400));
        assert_eq!(long.len(), 500);
        assert_eq!(printable(&"x".repeat(501)).len(), 500);
    }
}
