//! What each requester used today.
//!
//! One line for each requester, of the last day on which it used anything: yesterday's line is as good as none. Lines are
//! journaled as they change, so that a restart forgets nothing, and only while some rule counts by the day.

use crate::codec::{DecodeError, Dict};
use crate::id::PublicKey;
use std::collections::BTreeMap;

/// Most requesters in the book of a day. One more is refused: who makes keys to begin anew has to make jobs with each.
pub const LEDGER_MAX: usize = 4_096;

/// What one requester used in a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spent {
    /// Jobs admitted.
    pub jobs: u64,
    /// Milliseconds of processor time, of jobs that ended.
    pub cpu_ms: u64,
    /// Bytes of inputs of jobs admitted, and of outputs of jobs that ended.
    pub bytes: u64,
}

/// The book.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ledger(BTreeMap<PublicKey, (u64, Spent)>);

impl Ledger {
    /// What `requester` used on `day`.
    pub fn of(&self, requester: &PublicKey, day: u64) -> Spent {
        self.0.get(requester).filter(|(of, _)| *of == day).map_or(Spent::default(), |(_, spent)| *spent)
    }

    /// Whether there is a line for `requester`, or room for one.
    pub fn has_room(&self, requester: &PublicKey, day: u64) -> bool {
        self.0.len() < LEDGER_MAX
            || self.0.contains_key(requester)
            || self.0.values().any(|(of, _)| *of < day)
    }

    /// Adds to what `requester` used on `day`; returns its line for the journal, and whose old lines go to make room.
    pub fn add(&mut self, requester: PublicKey, day: u64, more: Spent) -> (Vec<u8>, Vec<PublicKey>) {
        let before = self.of(&requester, day);
        let spent = Spent {
            jobs: before.jobs.saturating_add(more.jobs),
            cpu_ms: before.cpu_ms.saturating_add(more.cpu_ms),
            bytes: before.bytes.saturating_add(more.bytes),
        };
        let mut gone = Vec::new();
        if self.0.len() >= LEDGER_MAX && !self.0.contains_key(&requester) {
            gone = self.0.iter().filter(|(_, (of, _))| *of < day).map(|(k, _)| *k).collect();
            self.0.retain(|_, (of, _)| *of >= day);
        }
        self.0.insert(requester, (day, spent));
        let line = Dict::new()
            .with("b", spent.bytes)
            .with("c", spent.cpu_ms)
            .with("d", day)
            .with("j", spent.jobs)
            .with("v", 1u64);
        (line.encode(), gone)
    }

    /// Reads a line that [`Ledger::add`] gave.
    pub fn restore(&mut self, requester: PublicKey, line: &[u8]) -> Result<(), DecodeError> {
        let d = Dict::decode(line, 256)?;
        match d.u64("v")? {
            1 => {}
            number => return Err(DecodeError::Unknown { what: "version of a line of use", number }),
        }
        let spent = Spent { jobs: d.u64("j")?, cpu_ms: d.u64("c")?, bytes: d.u64("b")? };
        self.0.insert(requester, (d.u64("d")?, spent));
        Ok(())
    }

    /// Lines of `day`.
    pub fn lines(&self, day: u64) -> impl Iterator<Item = (&PublicKey, &Spent)> {
        self.0.iter().filter(move |(_, (of, _))| *of == day).map(|(k, (_, spent))| (k, spent))
    }

    /// Requesters in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
