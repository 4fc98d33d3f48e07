//! Named points at which the node ends itself as `kill -9` would, so that a test meets exactly the moment it means.
//!
//! `REMOTE_NETWORK_FAILPOINT=NAME[:N]` in the environment of `start` arms one point: the N-th time it is passed (the first, if
//! nothing is said) the process kills itself with SIGKILL, so that nothing is flushed, closed or told. Every other node has one
//! load of an atomic at each point. Whoever can set a process's environment can kill it anyway.
//!
//! Points of the journal are named after the record that is written, [`before`] its batch is committed and [`after`]: durable,
//! but nobody has heard of it. Those of the store and the engines stand where the work is done. `bench kill` dies at each of
//! them ([`POINTS`]) and looks whether the network brings the work to its right end all the same.

use crate::cli::Failure;
use remote_network_core::codec::Dict;
use remote_network_core::store::{Room, StoreOp};
use rustix::process::{Signal, getpid, kill_process};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The variable that arms a point.
pub const VARIABLE: &str = "REMOTE_NETWORK_FAILPOINT";
/// Largest record that is looked into for its name.
const RECORD_BYTES_MAX: usize = 32 << 20;

/// Which node of a workflow passes a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// Who wants the work done.
    Requester,
    /// Who runs WebAssembly.
    Wasm,
    /// Who runs containers.
    Docker,
}

/// In what course of a workflow it is passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Course {
    /// Undisturbed.
    Plain,
    /// Cancelled on the way.
    Cancelled,
}

/// A point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// Its name.
    pub name: &'static str,
    /// Who passes it.
    pub whose: Whose,
    /// When.
    pub course: Course,
}

const fn point(name: &'static str, whose: Whose, course: Course) -> Point {
    Point { name, whose, course }
}

/// All points that a workflow passes, undisturbed or cancelled.
pub const POINTS: &[Point] = {
    use Course::{Cancelled, Plain};
    use Whose::{Docker, Requester, Wasm};
    &[
        point("run.planned.before", Requester, Plain),
        point("run.planned.after", Requester, Plain),
        point("run.attempt.before", Requester, Plain),
        point("run.attempt.after", Requester, Plain),
        point("run.accepted.before", Requester, Plain),
        point("run.accepted.after", Requester, Plain),
        point("run.committed.before", Requester, Plain),
        point("run.committed.after", Requester, Plain),
        point("run.ended.before", Requester, Plain),
        point("run.ended.after", Requester, Plain),
        point("run.cancel.before", Requester, Cancelled),
        point("run.cancel.after", Requester, Cancelled),
        point("fetch.created", Wasm, Plain),
        point("fetch.written", Wasm, Plain),
        point("fetch.synced", Wasm, Plain),
        point("fetch.named", Wasm, Plain),
        point("import.written", Wasm, Plain),
        point("import.synced", Wasm, Plain),
        point("import.named", Wasm, Plain),
        point("object.removed", Wasm, Plain),
        point("job.admitted.before", Wasm, Plain),
        point("job.admitted.after", Wasm, Plain),
        point("job.starting.before", Wasm, Plain),
        point("job.starting.after", Wasm, Plain),
        point("job.sealed.before", Wasm, Plain),
        point("job.sealed.after", Wasm, Plain),
        point("job.acked.before", Wasm, Plain),
        point("job.acked.after", Wasm, Plain),
        point("job.tombstone.before", Wasm, Plain),
        point("job.tombstone.after", Wasm, Plain),
        point("job.stopping.before", Wasm, Cancelled),
        point("job.stopping.after", Wasm, Cancelled),
        point("grant.append.before", Wasm, Plain),
        point("grant.append.after", Wasm, Plain),
        point("wasm.staged", Wasm, Plain),
        point("wasm.started", Wasm, Plain),
        point("wasm.ended", Wasm, Plain),
        point("wasm.collected", Wasm, Plain),
        point("docker.laid-out", Docker, Plain),
        point("docker.created", Docker, Plain),
        point("docker.attached", Docker, Plain),
        point("docker.started", Docker, Plain),
        point("docker.input-written", Docker, Plain),
        point("docker.exited", Docker, Plain),
        point("docker.drained", Docker, Plain),
        point("docker.removed", Docker, Plain),
        point("docker.collected", Docker, Plain),
    ]
};

struct Armed {
    name: String,
    /// How often it is passed before it kills.
    left: AtomicU32,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Arms the point that the environment names. Once, before the node starts.
pub fn arm() -> Result<(), Failure> {
    let armed = match std::env::var(VARIABLE) {
        Ok(text) => {
            let armed = parse(&text)?;
            tracing::warn!(point = %armed.name, "this node will kill itself: {VARIABLE} is set");
            Some(armed)
        }
        Err(_) => None,
    };
    // A second node of one process, as tests have, is armed as the first.
    let _first = ARMED.set(armed);
    Ok(())
}

fn parse(text: &str) -> Result<Armed, Failure> {
    let (name, times) = text.split_once(':').unwrap_or((text, "1"));
    let known = POINTS.iter().any(|p| p.name == name);
    let times = times.parse::<u32>().ok().filter(|n| *n > 0);
    match (known, times) {
        (true, Some(times)) => Ok(Armed { name: name.to_owned(), left: AtomicU32::new(times) }),
        (true, None) => Err(Failure::usage(format!("{VARIABLE}: `{text}` does not say how often, from 1"))),
        (false, _) => {
            let names: Vec<&str> = POINTS.iter().map(|p| p.name).collect();
            Err(Failure::usage(format!("{VARIABLE}: there is no point `{name}`"))
                .with_hint(format!("the points are {}", names.join(", "))))
        }
    }
}

fn armed() -> Option<&'static Armed> {
    ARMED.get().and_then(Option::as_ref)
}

/// Passes a point: ends the process if it is the armed one.
pub fn pass(name: &str) {
    if let Some(armed) = armed()
        && armed.name == name
    {
        armed.pass();
    }
}

impl Armed {
    fn pass(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        if kill_process(getpid(), Signal::KILL).is_err() {
            std::process::abort();
        }
        // The signal ends every thread; this one must not go a step further until it does.
        loop {
            std::thread::park();
        }
    }
}

/// Before these operations are committed.
pub fn before<'a>(ops: impl IntoIterator<Item = &'a StoreOp>) {
    journal(ops, ".before");
}

/// After they were, before anybody is told.
pub fn after<'a>(ops: impl IntoIterator<Item = &'a StoreOp>) {
    journal(ops, ".after");
}

fn journal<'a>(ops: impl IntoIterator<Item = &'a StoreOp>, when: &str) {
    let Some(armed) = armed() else { return };
    let Some(wanted) = armed.name.strip_suffix(when) else { return };
    for op in ops {
        if record(op) == Some(wanted) {
            armed.pass();
        }
    }
}

/// The name of what an operation writes, if points have one for it.
fn record(op: &StoreOp) -> Option<&'static str> {
    let kind = |record: &[u8]| Dict::decode(record, RECORD_BYTES_MAX).and_then(|d| d.u64("k")).ok();
    match op {
        StoreOp::Append { subject, record } | StoreOp::Replace { subject, record } => match subject.room {
            Room::Run => Some(match kind(record)? {
                1 => "run.planned",
                2 => "run.attempt",
                3 => "run.accepted",
                5 => "run.committed",
                7 => "run.cancel",
                8 => "run.ended",
                _ => return None,
            }),
            Room::Job => Some(match kind(record)? {
                0 => "job.admitted",
                1 => "job.starting",
                2 => "job.stopping",
                3 => "job.sealed",
                4 => "job.acked",
                5 => "job.tombstone",
                _ => return None,
            }),
            Room::Grant => Some("grant.append"),
            Room::Node
            | Room::Publisher
            | Room::KnownPeer
            | Room::CachedRecord
            | Room::Service
            | Room::Policy => None,
        },
        StoreOp::Forget { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use remote_network_core::id::Keypair;
    use remote_network_core::job::held::JobRecord;
    use remote_network_core::job::run::RunRecord;
    use remote_network_core::store::Subject;
    use remote_network_core::time::UnixTime;
    use std::collections::BTreeSet;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = POINTS.iter().map(|p| p.name).collect();
        assert_eq!(names.len(), POINTS.len());
        assert!(names.len() >= 40, "{}", names.len());
    }

    #[test]
    fn a_point_is_armed_by_its_name_and_how_often_it_is_passed() {
        let armed = parse("run.ended.after").ok().unwrap();
        assert_eq!((armed.name.as_str(), armed.left.into_inner()), ("run.ended.after", 1));
        let armed = parse("wasm.staged:7").ok().unwrap();
        assert_eq!((armed.name.as_str(), armed.left.into_inner()), ("wasm.staged", 7));
        for wrong in ["", "run", "wasm.staged:0", "wasm.staged:x", "wasm.staged:-1", "no.such:1"] {
            assert!(parse(wrong).is_err_and(|e| e.is_usage()), "{wrong}");
        }
    }

    #[test]
    fn records_are_named_as_the_rooms_that_write_them_number_them() {
        let at = UnixTime::from_secs(1);
        let op = |room, bytes: Vec<u8>| StoreOp::Append {
            subject: Subject::new(room, b"x"),
            record: Bytes::from(bytes),
        };
        let run = |r: RunRecord| record(&op(Room::Run, r.encode(at)));
        let job = |r: JobRecord| record(&op(Room::Job, r.encode(at)));
        assert_eq!(run(RunRecord::CancelRequested), Some("run.cancel"));
        assert_eq!(run(RunRecord::Accepted { task: 0, fence: 1, incarnation: 1 }), Some("run.accepted"));
        assert_eq!(job(JobRecord::Starting { fetched: Vec::new() }), Some("job.starting"));
        assert_eq!(job(JobRecord::Stopping), Some("job.stopping"));
        assert_eq!(job(JobRecord::Acked), Some("job.acked"));
        let requester = Keypair::from_seed(&[1; 32]).public();
        assert_eq!(job(JobRecord::Tombstone { requester }), Some("job.tombstone"));
        assert_eq!(record(&op(Room::Run, b"garbage".to_vec())), None);
        assert_eq!(record(&StoreOp::Forget { subject: Subject::new(Room::Run, b"x") }), None);
    }
}
