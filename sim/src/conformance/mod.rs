//! What whole nodes must do, whatever runs them: one suite for every driver, and for the simulator itself.
//!
//! The simulator checks the core under thousands of faults, but on its own host; a driver checks sockets and clocks,
//! but with a toy for a node. Between the two a driver could still break the product: lose an answer, keep a deadline
//! to itself, forget the last datagram. So the same cases ([`cases`]) run on the simulator's host in virtual time and
//! on each driver with real sockets, real TLS and real time. A case that fails everywhere is the core's fault; one that
//! fails on a single bench is that bench's.
//!
//! # What a further driver must do
//!
//! 1. Implement [`Bench`]: a machine is a disk, an engine and an address, all of which outlive the node on it. On
//!    anything real, [`crate::ports::MemoryPorts`] are the node's ports and [`crate::ports::MemoryDisk`] its disk;
//!    `driver-tokio/tests/nodes/bench.rs` is such a bench, and needs of a runtime no more than to spawn a future, to
//!    drop one, and to wait with a limit.
//! 2. Keep the bench's promises. [`Bench::command`] only queues, so that commands given in a row reach the node in a
//!    row. [`Bench::crash`] drops the node and its driver between two turns, and not a byte is sent for it. A machine
//!    keeps its address. Nothing that a core says is lost or reordered, but for notices to a slow observer.
//! 3. Instantiate every case as a test of its own: `remote_network_sim::conformance_suite!(name, TheBench);`.
//!
//! Passing means: every case ends with what it asserts, within [`Bench::PATIENCE`] a wait; every command was answered
//! exactly once (or its node crashed); no node stopped without being asked to; and whatever the bench itself knows to
//! be wrong ([`Bench::close`]) has not happened. No case sleeps: a limit only turns a hang into a failure.

pub mod cases;
mod simulated;
mod stage;

pub use simulated::SimulatedBench;
pub use stage::Stage;

use crate::net::HostId;
use crate::world::Said;
use bytes::Bytes;
use remote_network_core::command::Command;
use remote_network_core::id::{CommandId, Digest};
use remote_network_core::node::NodeConfig;
use remote_network_core::time::Duration;
use std::net::SocketAddr;

/// Where nodes run. See the module for what is promised; machines are numbered from 0 in the order of [`Bench::add`].
pub trait Bench {
    /// The longest that anything a case waits for may take.
    const PATIENCE: Duration;
    /// How long an idle pair is listened to.
    const QUIET: Duration;

    /// A bench without machines.
    fn new() -> Self;
    /// Adds a machine with an empty disk, not yet started. What `config` says of reachability is the bench's to set:
    /// its nodes publish where they are and dial each other wherever that is.
    fn add(&mut self, config: NodeConfig) -> HostId;
    /// Starts a node on whatever the machine's disk holds.
    fn start(&mut self, host: HostId);
    /// Ends a node without goodbye.
    fn crash(&mut self, host: HostId);
    /// Where the machine is reached; the same for all its lives.
    fn addr(&self, host: HostId) -> SocketAddr;
    /// Queues a command; `None` when no node runs there.
    fn command(&mut self, host: HostId, command: Command) -> Option<CommandId>;
    /// Lets the nodes work until one of them says something; `None` when they say nothing for so long.
    fn next(&mut self, within: Duration) -> Option<Said>;
    /// Time since the bench was made.
    fn elapsed(&self) -> Duration;
    /// How often the nodes have been called so far, all together: what work costs.
    fn calls(&self) -> u64;
    /// Sends the machine a datagram from a stranger.
    fn inject(&mut self, host: HostId, payload: &[u8]);
    /// Puts an object into the machine's store.
    fn put(&mut self, host: HostId, bytes: Bytes) -> Digest;
    /// The bytes of a whole object in the machine's store.
    fn get(&self, host: HostId, digest: &Digest) -> Option<Bytes>;
    /// Whether jobs that start from now on run until they are stopped, instead of ending by themselves.
    fn hold_jobs(&mut self, host: HostId, held: bool);
    /// Ends the bench.
    ///
    /// # Panics
    /// When something was wrong that no case asks about.
    fn close(self);
}

/// Instantiates every case of [`cases`] as a test of its own, in a module of this name, on this bench.
#[macro_export]
macro_rules! conformance_suite {
    ($name:ident, $bench:ty) => {
        $crate::conformance_suite!(@each $name, $bench,
            two_nodes_meet_and_identify_each_other
            a_key_alone_is_enough_to_connect
            a_dial_that_finds_another_peer_is_refused_and_counted
            a_workflow_across_two_nodes_gives_the_right_result_and_receipts
            a_shared_object_of_several_pieces_is_fetched_and_verified
            a_restart_resumes_an_unfinished_run
            an_orderly_shutdown_is_answered_and_says_goodbye
            commands_after_a_shutdown_are_refused
            garbage_harms_nothing
            an_idle_pair_keeps_quiet
        );
    };
    (@each $name:ident, $bench:ty, $($case:ident)*) => {
        mod $name {
            #[allow(unused_imports, reason = "the bench may be named by a path of its own")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    let mut stage = $crate::conformance::Stage::<$bench>::new();
                    $crate::conformance::cases::$case(&mut stage);
                    stage.close();
                }
            )*
        }
    };
}
