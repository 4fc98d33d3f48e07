//! The node: owns the machines, routes between them, and is what a driver or the simulator calls.

mod config;
pub mod gate;
mod links;
mod streams;

use crate::action::Action;
use crate::event::Event;
use crate::time::{Deadline, Instant, UnixTime};
use crate::transport::{Transmit, Transport};
pub use config::{Journal, NodeConfig, RecoverError};

/// A node over some transport.
pub struct Node<T: Transport> {
    transport: T,
}

impl<T: Transport> Node<T> {
    /// Builds a node from what is durable. `seed` feeds its only generator; equal seeds and events give equal actions.
    pub fn restore(
        _config: NodeConfig,
        transport: T,
        _seed: [u8; 32],
        _now: Instant,
        _wall: UnixTime,
        _journal: Journal,
    ) -> Result<Self, RecoverError> {
        Ok(Self { transport })
    }

    /// Something happened.
    pub fn handle(&mut self, _now: Instant, _wall: UnixTime, _event: Event) {}

    /// Time passed. Harmless before the deadline.
    pub fn handle_timeout(&mut self, _now: Instant, _wall: UnixTime) {}

    /// Appends up to `max_datagrams` datagrams for one destination to `buf`; call until `None`.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_datagrams: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.transport.poll_transmit(now, max_datagrams, buf)
    }

    /// The next thing to do; call until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        None
    }

    /// When to call [`Node::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        None
    }
}
