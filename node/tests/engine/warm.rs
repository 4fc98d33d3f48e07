//! Workers that serve several jobs: for one requester only, and without a trace of one job in the next.

use crate::behaviour::{ECHO, LOOP, telling};
use crate::rig::{Rig, tenant};
use remote_network_core::port::{EngineExit, EngineJob, ExitClass, Port};
use std::process::Command;
use std::time::{Duration, Instant};

/// Counts for a while, long enough to be looked at, and ends well.
const SPIN: &[u8] = br#"(module (memory (export "memory") 1) (func (export "_start") (local $n i32)
    (local.set $n (i32.const 400000000))
    (loop $l (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br_if $l (local.get $n)))))"#;

/// Longer than any test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs a job that can be looked at; the process it ran in.
fn pid_of(rig: &Rig, job: EngineJob) -> u32 {
    let id = rig.start(job);
    rig.started(id);
    let pid = running(rig);
    assert_eq!(rig.exit(id).class, ExitClass::Success);
    pid
}

fn running(rig: &Rig) -> u32 {
    let until = Instant::now() + PATIENCE;
    loop {
        match rig.workers()[..] {
            [worker] => return worker,
            _ => assert!(Instant::now() < until, "no worker"),
        }
    }
}

fn ended_well(exit: &EngineExit) {
    assert_eq!(exit.class, ExitClass::Success, "{exit:?}");
}

#[test]
fn jobs_of_one_requester_share_a_process_and_those_of_two_never_do() {
    let rig = Rig::new();
    let of = |n| EngineJob { tenant: tenant(n), ..rig.order(SPIN) };
    let first = pid_of(&rig, of(1));
    let again = pid_of(&rig, of(1));
    let other = pid_of(&rig, of(2));
    assert_ne!(first, other, "another requester");
    assert_eq!(first, again, "the same worker: {:?}", rig.engine.confinement());
    assert_eq!(pid_of(&rig, of(1)), first, "each comes back to its own");
    assert_eq!(pid_of(&rig, of(2)), other);
    let mut more = of(1);
    more.limits.memory_bytes += 65_536;
    assert_ne!(pid_of(&rig, more), first, "limits of the process are those of the job");
    assert_eq!(rig.left_behind(), Vec::<String>::new());
}

#[test]
fn what_a_guest_leaves_is_not_there_for_the_next() {
    let rig = Rig::new();
    // Tells whether memory was as it is at the start, and whether a directory could be made: both only if nobody was here before.
    let imports =
        [("path_create_directory", "i32 i32 i32"), ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32")];
    let body = "(i32.store8 (i32.const 1024) (i32.load8_u (i32.const 70000)))
        (i32.store8 (i32.const 70000) (i32.const 77))
        (i32.store8 (i32.const 1025) (call $path_create_directory (i32.const 3) (i32.const 600) (i32.const 4)))
        (i32.store8 (i32.const 1026) (call $path_open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 3)
          (i32.const 5) (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 400)))";
    let mut job = rig.order(&telling(&imports, body, 3));
    let mount = Port::Mount("m".into());
    job.outputs = vec![mount.clone(), Port::Stdout];
    for n in 0..3 {
        let exit = rig.run(job.clone());
        ended_well(&exit);
        assert_eq!(rig.stdout(&exit), [0, 0, 0], "run {n}");
        assert_eq!(rig.output(&exit, &mount), b"");
    }
    assert_eq!(rig.left_behind(), Vec::<String>::new());
}

#[test]
fn inputs_arguments_and_seeds_are_those_of_each_job() {
    let rig = Rig::new();
    for n in 0u8..5 {
        let mut job = rig.order(ECHO);
        job.inputs = vec![rig.input(Port::Stdin, &[n; 3])];
        let exit = rig.run(job);
        ended_well(&exit);
        assert_eq!(rig.stdout(&exit), [n; 3]);
    }
    let arguments =
        telling(&[("args_get", "i32 i32")], "(drop (call $args_get (i32.const 100) (i32.const 1024)))", 12);
    for word in ["abc", "xyz"] {
        let mut job = rig.order(&arguments);
        job.args = vec![word.into()];
        assert_eq!(rig.stdout(&rig.run(job)), format!("service\0{word}\0").into_bytes());
    }
    let random =
        telling(&[("random_get", "i32 i32")], "(drop (call $random_get (i32.const 1024) (i32.const 8)))", 8);
    let drawn = |seed: u8| {
        let exit = rig.run(EngineJob { seed: [seed; 32], ..rig.order(&random) });
        (rig.stdout(&exit), exit.usage.fuel)
    };
    let first = drawn(1);
    assert_ne!(drawn(2).0, first.0);
    assert_eq!(drawn(1), first, "the third in a worker is as the first");
}

#[test]
fn a_worker_ends_with_a_job_that_was_stopped_hit_a_limit_or_the_third_that_trapped() {
    let rig = Rig::new();
    // Does what its first byte of input says: 0 ends well, 1 traps, 2 never ends; counts first, so that it can be looked at.
    let module = br#"(module
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start") (local $n i32)
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (local.set $n (i32.const 400000000))
        (loop $l (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br_if $l (local.get $n)))
        (if (i32.eq (i32.load8_u (i32.const 64)) (i32.const 1)) (then unreachable))
        (if (i32.eq (i32.load8_u (i32.const 64)) (i32.const 2)) (then (loop $e (br $e))))))"#;
    let run = |what: u8, expected: ExitClass| {
        let mut job = rig.order(module);
        job.inputs = vec![rig.input(Port::Stdin, &[what])];
        if expected == ExitClass::Resource {
            job.limits.time_ms = 3_000;
        }
        let id = rig.start(job);
        rig.started(id);
        let pid = running(&rig);
        if expected == ExitClass::Cancelled {
            rig.stop(id, Duration::from_secs(60));
        }
        assert_eq!(rig.exit(id).class, expected);
        pid
    };
    let first = run(0, ExitClass::Success);
    assert_eq!(run(2, ExitClass::Cancelled), first);
    let second = run(0, ExitClass::Success);
    assert_ne!(second, first, "stopped");
    assert_eq!(run(2, ExitClass::Resource), second);
    let third = run(1, ExitClass::User);
    assert_ne!(third, second, "out of time");
    assert_eq!(run(1, ExitClass::User), third, "a trap by itself is an end like others");
    assert_eq!(run(1, ExitClass::User), third);
    assert_ne!(run(0, ExitClass::Success), third, "three traps");
}

#[test]
fn a_worker_killed_between_two_jobs_costs_neither() {
    let rig = Rig::new();
    let first = pid_of(&rig, rig.order(SPIN));
    assert!(Command::new("kill").args(["-9", &first.to_string()]).status().unwrap().success());
    // Reaped only when it is looked for again; dead it is at once.
    let until = Instant::now() + PATIENCE;
    let is_dead = || {
        let stat = std::fs::read_to_string(format!("/proc/{first}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
    };
    while !is_dead() {
        assert!(Instant::now() < until, "it lives");
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_ne!(pid_of(&rig, rig.order(SPIN)), first);
}

#[test]
fn a_killed_worker_costs_only_its_own_job() {
    let rig = Rig::new();
    let doomed = rig.start(EngineJob { tenant: tenant(1), ..rig.order(LOOP) });
    rig.started(doomed);
    let pid = running(&rig);
    let other = rig.start(EngineJob { tenant: tenant(2), ..rig.order(LOOP) });
    rig.started(other);
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let exit = rig.exit(doomed);
    assert_eq!(exit.class, ExitClass::Infra, "{exit:?}");
    rig.stop(other, Duration::from_secs(60));
    let exit = rig.exit(other);
    assert_eq!(exit.class, ExitClass::Cancelled, "{exit:?}");
    assert!(exit.usage.cpu_ns > 0, "it was interrupted and told so, not killed");
}
