//! The conformance suite on the simulator's own host, with both of its cryptographies; and on benches with a planted
//! fault, which it must not pass.

use bytes::Bytes;
use remote_network_core::command::Command;
use remote_network_core::id::{CommandId, Digest};
use remote_network_core::node::NodeConfig;
use remote_network_core::time::Duration;
use remote_network_sim::conformance::{Bench, SimulatedBench, Stage, cases};
use remote_network_sim::conformance_suite;
use remote_network_sim::net::HostId;
use remote_network_sim::world::Said;
use std::net::SocketAddr;

conformance_suite!(null_session, SimulatedBench<false>);
conformance_suite!(real_tls, SimulatedBench<true>);

/// The last answer is said again.
const DOUBLES: u8 = 0;
/// What a node sends after a shutdown is lost.
const LOSES_GOODBYES: u8 = 1;
/// A crash loses what was durable.
const FORGETS: u8 = 2;
/// Every call into a node counts a thousandfold, as of a driver that spins.
const SPINS: u8 = 3;

/// A simulated bench with one fault.
struct Faulty<const FAULT: u8> {
    bench: SimulatedBench<false>,
    doubled: Option<Said>,
}

impl<const FAULT: u8> Bench for Faulty<FAULT> {
    const PATIENCE: Duration = Duration::from_secs(120);
    const QUIET: Duration = Duration::from_secs(60);

    fn new() -> Self {
        Self { bench: Bench::new(), doubled: None }
    }
    fn add(&mut self, config: NodeConfig) -> HostId {
        self.bench.add(config)
    }
    fn start(&mut self, host: HostId) {
        self.bench.start(host);
    }
    fn crash(&mut self, host: HostId) {
        self.bench.crash(host);
        if FAULT == FORGETS {
            self.bench.world.forget(host);
        }
    }
    fn addr(&self, host: HostId) -> SocketAddr {
        self.bench.addr(host)
    }
    fn command(&mut self, host: HostId, command: Command) -> Option<CommandId> {
        if FAULT == LOSES_GOODBYES && command == Command::Shutdown {
            self.bench.world.net.set_down(host, true);
        }
        self.bench.command(host, command)
    }
    fn next(&mut self, within: Duration) -> Option<Said> {
        if let Some(said) = self.doubled.take() {
            return Some(said);
        }
        let said = self.bench.next(within);
        if FAULT == DOUBLES && matches!(said, Some(Said::Reply(..))) {
            self.doubled = said.clone();
        }
        said
    }
    fn elapsed(&self) -> Duration {
        self.bench.elapsed()
    }
    fn calls(&self) -> u64 {
        self.bench.calls() * if FAULT == SPINS { 1_000 } else { 1 }
    }
    fn inject(&mut self, host: HostId, payload: &[u8]) {
        self.bench.inject(host, payload);
    }
    fn put(&mut self, host: HostId, bytes: Bytes) -> Digest {
        self.bench.put(host, bytes)
    }
    fn get(&self, host: HostId, digest: &Digest) -> Option<Bytes> {
        self.bench.get(host, digest)
    }
    fn hold_jobs(&mut self, host: HostId, held: bool) {
        self.bench.hold_jobs(host, held);
    }
    fn close(self) {
        self.bench.close();
    }
}

#[test]
#[should_panic(expected = "an answer that nobody waits for")]
fn an_answer_said_twice_is_caught() {
    cases::two_nodes_meet_and_identify_each_other(&mut Stage::<Faulty<DOUBLES>>::new());
}

#[test]
#[should_panic(expected = "a time-out, not a goodbye")]
fn a_goodbye_that_is_lost_is_caught() {
    cases::an_orderly_shutdown_is_answered_and_says_goodbye(&mut Stage::<Faulty<LOSES_GOODBYES>>::new());
}

#[test]
#[should_panic(expected = "the run is not known")]
fn a_run_that_a_restart_forgets_is_caught() {
    cases::a_restart_resumes_an_unfinished_run(&mut Stage::<Faulty<FORGETS>>::new());
}

#[test]
#[should_panic(expected = "without anything to do")]
fn a_spinning_driver_is_caught() {
    cases::an_idle_pair_keeps_quiet(&mut Stage::<Faulty<SPINS>>::new());
}
