//! The one shape of every protocol: a machine that is told what happened and says what should happen.
//!
//! Laws that every machine obeys (checked by `crate::laws` for each of them):
//! 1. a spurious [`Machine::handle_timeout`] (before the deadline) changes nothing;
//! 2. after `handle_timeout(now)` the next deadline is later than `now`;
//! 3. the same seed and inputs give the same outputs;
//! 4. arbitrary inputs never panic and never push a machine over its limits;
//! 5. answers with unknown ids are ignored;
//! 6. splitting time differently ends in the same state;
//! 7. shutdown comes to rest: a machine without work has no deadline, or only periodic ones.
//!
//! **Durability convention.** A machine whose state others may rely on emits its journal records (`StoreOp`s) among
//! its outputs *before* the effects that depend on them. The [`crate::node::gate`] holds every later effect of that
//! machine back until those records are durable. Effects must be idempotent, and be re-emitted after a restart.

use crate::rng::Rng;
use crate::time::{Deadline, Instant, UnixTime};

/// What a machine may know of the world while it handles one input, and where its outputs go.
pub struct Cx<'a, O> {
    /// The monotonic clock.
    pub now: Instant,
    /// The wall clock: only for what is signed and for expiry.
    pub wall: UnixTime,
    /// The machine's own generator.
    pub rng: &'a mut Rng,
    out: &'a mut Vec<O>,
}

impl<'a, O> Cx<'a, O> {
    /// A context whose outputs are appended to `out`.
    pub fn new(now: Instant, wall: UnixTime, rng: &'a mut Rng, out: &'a mut Vec<O>) -> Self {
        Self { now, wall, rng, out }
    }

    /// Asks for `output`. Outputs take effect in the order in which they are emitted.
    pub fn emit(&mut self, output: O) {
        self.out.push(output);
    }
}

/// A pure state machine. It owns no clock, socket, thread, file or random source.
pub trait Machine {
    /// What can happen to it.
    type Input;
    /// What it can ask for.
    type Output;

    /// Something happened.
    fn handle(&mut self, cx: &mut Cx<'_, Self::Output>, input: Self::Input);

    /// `cx.now` may have reached the deadline. Harmless when it has not.
    fn handle_timeout(&mut self, cx: &mut Cx<'_, Self::Output>);

    /// When it wants to be woken, and why.
    fn poll_timeout(&self) -> Option<Deadline>;
}
