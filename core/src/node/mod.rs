//! The node: owns the machines, routes between them, and is what a driver or the simulator calls.

pub mod gate;
mod links;
mod streams;

use crate::action::Action;
use crate::event::Event;
use crate::id::{DhtId, Keypair};
use crate::store::StoredRecord;
use crate::time::{Deadline, Instant, UnixTime};
use crate::transport::{Transmit, Transport};
use std::net::SocketAddr;
use thiserror::Error;

/// What a node is told at its start and keeps for its life.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Who it is.
    pub keypair: Keypair,
    /// Topics it meets others under (SHA-1 of their names).
    pub topics: Vec<DhtId>,
    /// Connected peers wanted at the most.
    pub max_peers: usize,
    /// Whether the node is reachable from everywhere at the addresses it publishes.
    pub public: bool,
    /// Addresses to publish; empty: those peers observe.
    pub public_addrs: Vec<SocketAddr>,
    /// Jobs running at once.
    pub jobs_running_max: usize,
    /// Whether jobs of other peers are accepted.
    pub accept_jobs: bool,
}

/// Why a node cannot start from what the store gave back.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RecoverError {
    /// A record does not decode. The operator decides; nothing is guessed.
    #[error("journal record {lsn} of {room} does not decode: {why}")]
    Record {
        /// Its position.
        lsn: u64,
        /// Its room.
        room: &'static str,
        /// What is wrong.
        why: String,
    },
}

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
        _records: Vec<StoredRecord>,
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
