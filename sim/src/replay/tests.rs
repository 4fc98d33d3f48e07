use super::*;
use crate::plan::{Class, Plan};
use crate::scenario::Scenario;
use crate::toy::Toy;
use proptest::prelude::*;
use remote_network_core::node::Node;
use remote_network_core::transport::quic::QuicTransport;
use std::sync::mpsc;

/// A file in memory that survives the tape.
struct Kept(mpsc::Sender<Vec<u8>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What host 1 of a scenario was told in its first life.
fn recorded<C: Core>(seed: u64, real_tls: bool) -> Vec<u8> {
    let mut plan = Plan::from_seed(Class::Lossy, seed, 4, 40_000);
    plan.hosts.iter_mut().for_each(|h| h.real_tls = real_tls);
    let (keep, kept) = mpsc::channel();
    let mut scenario: Scenario<C> = Scenario::new(plan);
    scenario.world.record(1, Box::new(Kept(keep)));
    scenario.run_until(40_000_000_000);
    drop(scenario);
    kept.iter().flatten().collect()
}

fn replays<C: Core>(bytes: &[u8]) -> Replayed {
    let recording = Recording::read(bytes).unwrap();
    let one = replay::<C>(&recording).unwrap();
    assert_eq!(one, replay::<C>(&recording).unwrap(), "a replay is the same every time");
    one
}

#[test]
fn a_recorded_life_happens_again_action_by_action() {
    let done = replays::<Toy>(&recorded::<Toy>(1, false));
    assert_eq!(done.divergence, None);
    assert!(done.actions > 50 && done.datagrams > 50 && done.calls > 100, "{done:?}");
}

#[test]
fn the_real_core_replays_under_both_kinds_of_cryptography() {
    for real_tls in [false, true] {
        let bytes = recorded::<Node<QuicTransport>>(2, real_tls);
        let done = replays::<Node<QuicTransport>>(&bytes);
        assert_eq!(done.divergence, None, "real TLS: {real_tls}");
        assert!(done.calls > 0);
    }
}

#[test]
fn a_changed_recording_is_seen_to_part() {
    let bytes = recorded::<Toy>(1, false);
    let mut recording = Recording::read(&bytes).unwrap();
    let at = recording.entries.iter().rposition(|e| matches!(e, Entry::Timeout(..))).unwrap();
    recording.entries.remove(at);
    let done = replay::<Toy>(&recording).unwrap();
    assert!(done.divergence.is_some_and(|d| d.entry >= at));
}

/// How a recording of this version begins.
fn head() -> Vec<u8> {
    [&b"RNREPLAY"[..], &VERSION.to_be_bytes()].concat()
}

#[test]
fn a_recording_that_breaks_off_is_read_up_to_there() {
    let bytes = recorded::<Toy>(1, false);
    let whole = Recording::read(&bytes).unwrap();
    let cut = Recording::read(&bytes[..bytes.len() - 3]).unwrap();
    assert_eq!(cut.entries, whole.entries[..whole.entries.len() - 1]);
    assert_eq!(Recording::read(b"something else").unwrap_err(), ReplayError::Magic);
    assert_eq!(Recording::read(b"RNREPLAY\x00\x09").unwrap_err(), ReplayError::Version(9));
    assert_eq!(Recording::read(&head()).unwrap_err(), ReplayError::Start);
}

proptest! {
    #[test]
    fn hostile_recordings_are_refused_not_obeyed(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Recording::read(&[&head()[..], &tail].concat());
        let mut r = Reader(&tail);
        if let Ok(entry) = Entry::take(&mut r) {
            let mut out = Vec::new();
            entry.put(&mut out);
            prop_assert_eq!(Entry::take(&mut Reader(&out)), Ok(entry));
        }
    }
}
