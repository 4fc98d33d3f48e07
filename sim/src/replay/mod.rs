//! Recordings: what a core was told in the field, and telling it again at the desk.
//!
//! A core is a function of its seed, its journal and the calls made into it. A recording holds all three, so the very
//! run of a node that misbehaved on somebody's machine happens again under a debugger. It also holds a hash of every
//! action, so that the replay says at which call the two part, if they do.
//!
//! **A recording holds the node's private key** (without it not one packet would be the same) and everything that was
//! said in clear to the node. It is a secret of the machine's owner.
//!
//! Format: the eight bytes `RNREPLAY`, a version (`u16`), then entries, each a `u32` length and that many bytes: first
//! one [`Birth`], then calls and hashes of actions in the order in which they happened. A file that breaks off in the
//! middle of an entry (the machine went down) is a recording up to there. All numbers are big-endian; [`codec`] has the
//! rest.
//!
//! QUIC's randomness comes from the core's own seed. TLS's does not: a node that records must run on a seeded provider
//! ([`crate::crypto::seeded_tls`], seeded from the operating system) and note that seed in its [`Birth`].

pub mod codec;

use crate::crypto::seeded_tls;
use crate::fold::Fold;
use crate::host::{Birth, BirthError, Core, Cryptography};
use codec::{Field, Reader};
use remote_network_core::action::{Action, ActionSink};
use remote_network_core::drive::{Call, Recorder};
use remote_network_core::event::Event;
use remote_network_core::time::{Instant, UnixTime};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;

/// The first bytes of a recording.
pub const MAGIC: &[u8; 8] = b"RNREPLAY";
/// The version of the format.
pub const VERSION: u16 = 7;
/// Longest entry: a blob's piece and its head.
pub const ENTRY_BYTES_MAX: usize = 32 << 20;

/// Why a recording cannot be read or replayed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ReplayError {
    /// Not a recording.
    #[error("this is not a recording")]
    Magic,
    /// Made by another version.
    #[error("a recording of version {0}; this program reads version {VERSION}")]
    Version(u16),
    /// Bytes are missing inside an entry.
    #[error("an entry ends too early")]
    Short,
    /// An entry longer than any can be.
    #[error("an entry of {0} bytes")]
    TooLong(usize),
    /// A number that means nothing here.
    #[error("unknown {what} {number}")]
    Unknown {
        /// Of what.
        what: &'static str,
        /// The number.
        number: u8,
    },
    /// A value that cannot be.
    #[error("an invalid {0}")]
    Invalid(&'static str),
    /// Not even the first entry is whole.
    #[error("the recording is empty")]
    Start,
    /// The core does not come up from the recorded journal.
    #[error("the core does not start: {0}")]
    Birth(#[from] BirthError),
}

impl Field for Birth {
    fn put(&self, out: &mut Vec<u8>) {
        self.config.put(out);
        self.journal.put(out);
        self.seed.put(out);
        self.wall.put(out);
        match &self.cryptography {
            Cryptography::Tls(seed) => (1u8, *seed).put(out),
            Cryptography::Null { realm, seed, reset_secret } => {
                (2u8, *realm).put(out);
                (*seed, *reset_secret).put(out);
            }
        }
        self.quic_seed.put(out);
        (self.keep_alive, self.idle_timeout).put(out);
        (self.mtu_discovery, self.connections_max).put(out);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        let (config, journal) = Field::take(r)?;
        let (seed, wall) = Field::take(r)?;
        let cryptography = match u8::take(r)? {
            1 => Cryptography::Tls(Field::take(r)?),
            2 => Cryptography::Null {
                realm: Field::take(r)?,
                seed: Field::take(r)?,
                reset_secret: Field::take(r)?,
            },
            number => return Err(ReplayError::Unknown { what: "cryptography", number }),
        };
        let quic_seed = Field::take(r)?;
        let (keep_alive, idle_timeout) = Field::take(r)?;
        let (mtu_discovery, connections_max) = Field::take(r)?;
        Ok(Self {
            config,
            journal,
            seed,
            wall,
            cryptography,
            quic_seed,
            keep_alive,
            idle_timeout,
            mtu_discovery,
            connections_max,
        })
    }
}

/// One entry after the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// The core was told of an event.
    Event(Instant, UnixTime, Event),
    /// The core was told that time has passed.
    Timeout(Instant, UnixTime),
    /// The core was asked for so many datagrams.
    Transmit(Instant, UnixTime, usize),
    /// The core asked for an action with this hash.
    Action(u64),
}

impl Field for Entry {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Entry::Event(now, wall, event) => put_call(*now, *wall, Call::Event(event), out),
            Entry::Timeout(now, wall) => put_call(*now, *wall, Call::Timeout, out),
            Entry::Transmit(now, wall, n) => {
                put_call(*now, *wall, Call::Transmit { max_datagrams: *n }, out);
            }
            Entry::Action(hash) => (4u8, *hash).put(out),
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        match u8::take(r)? {
            1 => Ok(Entry::Event(Field::take(r)?, Field::take(r)?, Field::take(r)?)),
            2 => Ok(Entry::Timeout(Field::take(r)?, Field::take(r)?)),
            3 => Ok(Entry::Transmit(Field::take(r)?, Field::take(r)?, Field::take(r)?)),
            4 => Ok(Entry::Action(Field::take(r)?)),
            number => Err(ReplayError::Unknown { what: "entry", number }),
        }
    }
}

fn put_call(now: Instant, wall: UnixTime, call: Call<'_>, out: &mut Vec<u8>) {
    let number = match call {
        Call::Event(_) => 1u8,
        Call::Timeout => 2,
        Call::Transmit { .. } => 3,
    };
    (number, (now, wall)).put(out);
    match call {
        Call::Event(event) => event.put(out),
        Call::Timeout => {}
        Call::Transmit { max_datagrams } => max_datagrams.put(out),
    }
}

/// The hash of an action, as recordings hold it.
pub fn action_hash(action: &Action) -> u64 {
    struct Folding(Fold);
    impl std::fmt::Write for Folding {
        fn write_str(&mut self, s: &str) -> std::fmt::Result {
            self.0.bytes(s.as_bytes());
            Ok(())
        }
    }
    let mut folding = Folding(Fold::default());
    // Writing into the folding cannot fail.
    let _ = std::fmt::Write::write_fmt(&mut folding, format_args!("{action:?}"));
    folding.0.value() as u64
}

// ------------------------------------------------------------------------------------ recording

/// Writes a recording. Clones write to the same one.
pub struct Tape<W> {
    shared: Arc<Mutex<Inner<W>>>,
}

impl<W> Clone for Tape<W> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Inner<W> {
    out: W,
    scratch: Vec<u8>,
    /// A recording that could not be written ends there; the node goes on.
    failed: Option<io::Error>,
}

impl<W: Write> Tape<W> {
    /// Begins a recording.
    pub fn begin(mut out: W, birth: &Birth) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_be_bytes())?;
        let tape = Self { shared: Arc::new(Mutex::new(Inner { out, scratch: Vec::new(), failed: None })) };
        tape.write(|buf| birth.put(buf));
        let failed = tape.lock().failed.take();
        match failed {
            Some(error) => Err(error),
            None => Ok(tape),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<W>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, put: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.lock();
        if inner.failed.is_some() {
            return;
        }
        let mut entry = std::mem::take(&mut inner.scratch);
        entry.clear();
        entry.extend_from_slice(&[0; 4]);
        put(&mut entry);
        let len = (entry.len() - 4) as u32;
        entry[..4].copy_from_slice(&len.to_be_bytes());
        if let Err(error) = inner.out.write_all(&entry) {
            inner.failed = Some(error);
        }
        inner.scratch = entry;
    }

    /// Notes a call into the core.
    pub fn call(&self, now: Instant, wall: UnixTime, call: Call<'_>) {
        self.write(|buf| put_call(now, wall, call, buf));
    }

    /// Notes an action of the core.
    pub fn action(&self, action: &Action) {
        let hash = action_hash(action);
        self.write(|buf| Entry::Action(hash).put(buf));
    }

    /// Ends the recording; what went wrong with it, if anything did.
    pub fn finish(&self) -> io::Result<()> {
        let mut inner = self.lock();
        match inner.failed.take() {
            Some(error) => Err(error),
            None => inner.out.flush(),
        }
    }
}

impl<W: Write + Send + 'static> Tape<W> {
    /// What a driver is given to note every call.
    pub fn recorder(&self) -> Recorder {
        let tape = self.clone();
        Box::new(move |now, wall, call| tape.call(now, wall, call))
    }
}

/// Notes every action on its way to the ports.
pub struct RecordedSink<S, W> {
    sink: S,
    tape: Tape<W>,
}

impl<S, W> RecordedSink<S, W> {
    /// A sink that notes and passes on.
    pub fn new(sink: S, tape: Tape<W>) -> Self {
        Self { sink, tape }
    }
}

impl<S: ActionSink, W: Write> ActionSink for RecordedSink<S, W> {
    fn submit(&mut self, action: Action) {
        self.tape.action(&action);
        self.sink.submit(action);
    }
}

// ------------------------------------------------------------------------------------ replaying

/// A recording, read.
#[derive(Clone, Debug)]
pub struct Recording {
    /// How it begins.
    pub birth: Birth,
    /// What happened.
    pub entries: Vec<Entry>,
}

impl Recording {
    /// Reads a recording; one that breaks off is read up to there.
    pub fn read(bytes: &[u8]) -> Result<Self, ReplayError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(ReplayError::Magic)?;
        let mut r = Reader(rest);
        match u16::take(&mut r)? {
            VERSION => {}
            other => return Err(ReplayError::Version(other)),
        }
        let mut start = None;
        let mut entries = Vec::new();
        while let Some(mut entry) = next_entry(&mut r)? {
            if start.is_none() {
                start = Some(Birth::take(&mut entry)?);
            } else {
                entries.push(Entry::take(&mut entry)?);
            }
            if !entry.0.is_empty() {
                return Err(ReplayError::Invalid("entry: bytes after its end"));
            }
        }
        Ok(Self { birth: start.ok_or(ReplayError::Start)?, entries })
    }
}

fn next_entry<'a>(r: &mut Reader<'a>) -> Result<Option<Reader<'a>>, ReplayError> {
    let Some((head, rest)) = r.0.split_first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*head) as usize;
    if len > ENTRY_BYTES_MAX {
        return Err(ReplayError::TooLong(len));
    }
    let Some((entry, rest)) = rest.split_at_checked(len) else { return Ok(None) };
    r.0 = rest;
    Ok(Some(Reader(entry)))
}

/// What a replay came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replayed {
    /// Calls made.
    pub calls: u64,
    /// Actions that were the recorded ones.
    pub actions: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// A hash over all actions and datagrams with their times.
    pub hash: u128,
    /// Where the replay parts from the recording, if it does.
    pub divergence: Option<Divergence>,
}

/// Where a replay parts from its recording.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Divergence {
    /// Position of the entry.
    pub entry: usize,
    /// What the core asked for in the replay; `None`: for nothing.
    pub action: Option<String>,
}

/// Tells a core again what it was told. Stops where it parts from the recording.
pub fn replay<C: Core>(recording: &Recording) -> Result<Replayed, ReplayError> {
    let birth = recording.birth.clone();
    let mut rng = birth.tls_rng();
    let mut core = seeded_tls::lend(&mut rng, || C::restore(birth))?;
    let mut done = Replayed { calls: 0, actions: 0, datagrams: 0, hash: 0, divergence: None };
    let mut fold = Fold::default();
    let mut buf = Vec::new();
    let mut asked: std::collections::VecDeque<Action> = std::collections::VecDeque::new();
    for (position, entry) in recording.entries.iter().enumerate() {
        match entry {
            Entry::Event(now, wall, event) => {
                seeded_tls::lend(&mut rng, || core.handle(*now, *wall, event.clone()));
            }
            Entry::Timeout(now, wall) => seeded_tls::lend(&mut rng, || core.handle_timeout(*now, *wall)),
            Entry::Transmit(now, _, max_datagrams) => {
                buf.clear();
                let sent = seeded_tls::lend(&mut rng, || core.poll_transmit(*now, *max_datagrams, &mut buf));
                if let Some(transmit) = sent {
                    let size = transmit.size.min(buf.len());
                    fold.words(now.as_nanos(), size as u64);
                    fold.bytes(&buf[..size]);
                    let segment = transmit.segment_size.unwrap_or(size).max(1);
                    done.datagrams += size.div_ceil(segment) as u64;
                }
            }
            Entry::Action(recorded) => {
                let action = asked.pop_front();
                if action.as_ref().map(action_hash) != Some(*recorded) {
                    let action = action.map(|a| format!("{a:?}"));
                    done.divergence = Some(Divergence { entry: position, action });
                    break;
                }
                done.actions += 1;
                fold.words(*recorded, done.actions);
                continue;
            }
        }
        done.calls += 1;
        while let Some(action) = core.poll_action() {
            asked.push_back(action);
        }
    }
    done.hash = fold.value();
    Ok(done)
}

#[cfg(test)]
mod tests;
