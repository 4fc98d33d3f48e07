//! `start --record`: a node whose every input is written down, for `simulate --replay`.
//!
//! Replaying needs the same randomness again, so a recording node takes TLS's from a seed (drawn from the operating
//! system) instead of from the operating system itself. The file holds that seed, the private key and the journal: it
//! is created with mode 0600 and belongs to the machine's owner alone.

use remote_network_core::action::Action;
use remote_network_core::drive::Driven;
use remote_network_core::event::Event;
use remote_network_core::rng::Rng;
use remote_network_core::time::{Deadline, Instant, UnixTime};
use remote_network_core::transport::Transmit;
use remote_network_sim::crypto::seeded_tls;
use remote_network_sim::host::Birth;
use remote_network_sim::replay::Tape;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The file of a recording.
pub type RecordingTape = Tape<BufWriter<File>>;

/// Begins a recording; an existing file is not touched.
pub fn begin(path: &Path, birth: &Birth) -> io::Result<RecordingTape> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Tape::begin(BufWriter::new(file), birth)
}

/// A node that TLS's seeded generator is lent to during every call.
pub struct Seeded<N> {
    node: N,
    rng: Option<Rng>,
}

impl<N> Seeded<N> {
    /// Builds the node with the generator lent already.
    pub fn build<E>(birth: Birth, build: impl FnOnce(Birth) -> Result<N, E>) -> Result<Self, E> {
        let mut rng = birth.tls_rng();
        let node = seeded_tls::lend(&mut rng, || build(birth))?;
        Ok(Self { node, rng })
    }
}

impl<N: Driven> Driven for Seeded<N> {
    fn handle(&mut self, now: Instant, wall: UnixTime, event: Event) {
        let node = &mut self.node;
        seeded_tls::lend(&mut self.rng, || node.handle(now, wall, event));
    }

    fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        let node = &mut self.node;
        seeded_tls::lend(&mut self.rng, || node.handle_timeout(now, wall));
    }

    fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Transmit> {
        let node = &mut self.node;
        seeded_tls::lend(&mut self.rng, || node.poll_transmit(now, max_datagrams, buf))
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.node.poll_action()
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        self.node.poll_timeout()
    }
}
