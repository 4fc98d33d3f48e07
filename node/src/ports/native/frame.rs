//! What the node and a job's confinement say to each other, over one socket.
//!
//! ```text
//! node                      confine (its child)              init (process 1 inside)
//!   Enter ───────────────────▶ leaves the name spaces, starts ──▶
//!             ◀── Inside(pid) ──────── (process 1 is there)
//!   Job(spec) ────────────────────────────────────────────────▶ builds the walls
//!             ◀──────────────────────────────────────────────── Confined
//!             ◀──────────────────────────────────────────────── Started
//!   Stop ─────────────────────────────────────────────────────▶ SIGTERM to the program
//!   (hangs up) ───────────────────────────────────────────────▶ ends, and all inside with it
//!             ◀──────────────────────────────────────────────── Ended
//! ```
//! A frame is a big-endian `u32` length and that many bytes of JSON. It is read byte for byte, without a buffer: two processes read from
//! one socket in turn, and write to it in turn. No program of a job ever holds the socket; lengths are bounded all the same.

use crate::ports::workdir::Staged;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Largest frame to a confinement: 512 arguments and environment values of 16 KiB each, escaped by JSON at worst sixfold.
pub(super) const TO_INSIDE_BYTES_MAX: u32 = 64 << 20;
/// Largest frame from one: a sentence and a few numbers.
pub(super) const FROM_INSIDE_BYTES_MAX: u32 = 64 << 10;
/// Frames of one in its life; an honest one sends four.
pub(super) const FROM_INSIDE_FRAMES_MAX: usize = 8;

/// From the node.
#[derive(Serialize, Deserialize, Debug)]
pub(super) enum ToInside {
    /// The limits around the process are set: go on.
    Enter,
    /// The job.
    Job(Box<Spec>),
    /// Ask the program to end.
    Stop,
}

/// A job as its confinement sees it.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Spec {
    /// The job's directory.
    pub dir: PathBuf,
    /// Arguments after the program's name; none at all to try the walls out and run nothing.
    pub args: Option<Vec<String>>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Directories the program sees.
    pub mounts: Vec<Staged>,
    /// Memory of one process, where no control group limits that of all.
    pub data_bytes: Option<u64>,
    /// Processes, where no control group limits them.
    pub processes: Option<u64>,
    /// Bytes of one file.
    pub file_bytes: u64,
}

/// From the confinement.
#[derive(Serialize, Deserialize, Debug)]
pub(super) enum FromInside {
    /// Process 1 has this number outside. Said by `confine`, before process 1 can say anything.
    Inside(u32),
    /// All walls stand: these.
    Confined(Vec<String>),
    /// The program runs.
    Started,
    /// The program has ended, and what it left running ends with this word.
    Ended(Ended),
    /// It could not be run.
    Failed {
        /// By its own fault, wherever it is tried.
        permanent: bool,
        /// Words for people.
        why: String,
    },
}

/// How a program ended.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Ended {
    /// Its exit code, unless it was killed.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Processor time of all its processes that were waited for.
    pub cpu_ns: u64,
    /// Memory of the largest of them.
    pub memory_bytes: u64,
}

/// Writes one frame.
pub(super) fn write(to: &mut impl Write, frame: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(frame)?;
    let len = u32::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    to.write_all(&[&len.to_be_bytes()[..], &body].concat())
}

/// Reads one frame of at most `bytes_max`; an end before or within it is an error.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read, bytes_max: u32) -> io::Result<T> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    let len = u32::from_be_bytes(head);
    if len > bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut body = Vec::new();
    from.take(u64::from(len)).read_to_end(&mut body)?;
    if body.len() != len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_one_by_one_and_nothing_of_the_next_is_read() {
        let mut wire = Vec::new();
        write(&mut wire, &ToInside::Enter).unwrap();
        write(&mut wire, &ToInside::Stop).unwrap();
        let mut from = wire.as_slice();
        assert!(matches!(read(&mut from, 100).unwrap(), ToInside::Enter));
        assert_eq!(from.len(), 4 + "\"Stop\"".len());
        assert!(matches!(read(&mut from, 100).unwrap(), ToInside::Stop));
        assert!(read::<ToInside>(&mut from, 100).is_err());
    }

    #[test]
    fn a_frame_that_is_too_long_cut_or_no_json_is_an_error() {
        for bad in [&[255u8; 8][..], &[0, 0], &[0, 0, 0, 9, b'{'], &[0, 0, 0, 1, 0xff]] {
            assert!(read::<FromInside>(&mut &*bad, 100).is_err());
        }
    }
}
