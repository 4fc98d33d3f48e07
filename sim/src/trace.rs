//! The trace: one number that says whether two runs were the same run.
//!
//! Everything that crosses the border of a core (datagrams in and out, events, actions, restarts) is folded
//! ([`crate::fold`]) into 128 bits as (time, host, kind, bytes).

use crate::fold::Fold;
use remote_network_core::action::Action;
use remote_network_core::event::Event;
use remote_network_core::place::{TunnelEvent, TunnelRequest};
use remote_network_core::port::{BlobAnswer, BlobRequest};
use std::fmt;

/// What is folded into the trace. The numbers are part of the hash: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A datagram left a host.
    Sent = 1,
    /// A datagram reached a host.
    Received = 2,
    /// A core was woken by its timer.
    Timer = 3,
    /// A port answered.
    Answer = 4,
    /// A core asked for something.
    Action = 5,
    /// A host started, with what its disk gave back.
    Started = 6,
    /// A host went down.
    Down = 7,
    /// A command was given.
    Command = 8,
}

/// The running hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    fold: Fold,
    steps: u64,
}

/// A finished hash, shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceHash(pub u128);

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Trace {
    /// Folds in one step.
    pub fn step(&mut self, now_ns: u64, host: u32, kind: Kind, bytes: &[u8]) {
        self.steps += 1;
        self.fold.words(now_ns, u64::from(host) << 8 | kind as u64);
        self.fold.bytes(bytes);
    }

    /// Folds in one step that is written rather than held as bytes.
    pub fn step_fmt(&mut self, now_ns: u64, host: u32, kind: Kind, what: fmt::Arguments<'_>) {
        self.step(now_ns, host, kind, b"");
        // Writing into the folding cannot fail.
        let _ = fmt::Write::write_fmt(self, what);
    }

    /// Steps folded in.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The hash so far.
    pub fn hash(&self) -> TraceHash {
        let mut end = self.fold;
        end.words(self.steps, 0);
        TraceHash(end.value())
    }
}

impl Trace {
    /// Folds an action in by what identifies it, without writing out large payloads.
    pub fn action(&mut self, now_ns: u64, id: u32, action: &Action) {
        match action {
            Action::Persist { lsn, ops } => {
                self.step(now_ns, id, Kind::Action, &lsn.0.to_le_bytes());
                for op in ops {
                    self.step_fmt(now_ns, id, Kind::Action, format_args!("{op:?}"));
                }
            }
            Action::Blob { op, request: BlobRequest::Write { digest, piece, bytes } } => {
                self.step_fmt(now_ns, id, Kind::Action, format_args!("{op:?} {digest:?} {piece}"));
                self.step(now_ns, id, Kind::Action, bytes);
            }
            Action::Tunnel(TunnelRequest::Send { tunnel, packets }) => {
                self.step(now_ns, id, Kind::Action, &tunnel.0.to_le_bytes());
                packets.iter().for_each(|packet| self.step(now_ns, id, Kind::Action, packet));
            }
            Action::Blob { .. }
            | Action::Dht { .. }
            | Action::Engine { .. }
            | Action::Sweep { .. }
            | Action::Socket(_)
            | Action::Tunnel(_)
            | Action::Account(_)
            | Action::Reply { .. }
            | Action::Notify(_)
            | Action::Stopped { .. } => {
                self.step_fmt(now_ns, id, Kind::Action, format_args!("{action:?}"));
            }
        }
    }

    /// Folds an answer in; bytes read from the store are folded as they are, not written out.
    pub fn answer(&mut self, now_ns: u64, id: u32, event: &Event) {
        match event {
            Event::Blob { op, result: Ok(BlobAnswer::Bytes(bytes)) } => {
                self.step(now_ns, id, Kind::Answer, &op.0.to_le_bytes());
                self.step(now_ns, id, Kind::Answer, bytes);
            }
            Event::Tunnel(TunnelEvent::Received { tunnel, packets }) => {
                self.step(now_ns, id, Kind::Answer, &tunnel.0.to_le_bytes());
                packets.iter().for_each(|packet| self.step(now_ns, id, Kind::Answer, packet));
            }
            Event::Datagram(_)
            | Event::Datagrams(_)
            | Event::LocalAddrs(_)
            | Event::Persisted { .. }
            | Event::PersistFailed { .. }
            | Event::Dht(_)
            | Event::Blob { .. }
            | Event::Engine(_)
            | Event::Socket(_)
            | Event::Tunnel(_)
            | Event::Mapped(_)
            | Event::Nearby { .. }
            | Event::Command { .. } => {
                self.step_fmt(now_ns, id, Kind::Answer, format_args!("{event:?}"));
            }
        }
    }
}

/// Lets anything that can be written be folded in without building a string.
impl fmt::Write for Trace {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.fold.bytes(s.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(time_ns: u64, host: u32, kind: Kind) -> TraceHash {
        let mut t = Trace::default();
        t.step(1_000, 7, Kind::Sent, b"a datagram of some length");
        t.step(time_ns, host, kind, b"");
        t.hash()
    }

    #[test]
    fn the_hash_is_the_same_in_every_process() {
        // A change of this number makes all recorded traces useless: it must be meant.
        assert_eq!(sample(2_000, 8, Kind::Received).to_string(), "c75e87130e29cbe5c7ba81c884ee859e");
    }

    #[test]
    fn time_host_and_kind_matter() {
        let one = sample(2_000, 8, Kind::Received);
        assert_ne!(one, sample(2_001, 8, Kind::Received));
        assert_ne!(one, sample(2_000, 9, Kind::Received));
        assert_ne!(one, sample(2_000, 8, Kind::Sent));
    }
}
