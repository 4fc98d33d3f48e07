//! Light jobs: what they carry comes and goes without a file, and the guest cannot tell.

use crate::behaviour::{ECHO, LOOP, telling};
use crate::rig::{Rig, tenant};
use bytes::Bytes;
use remote_network_core::id::Digest;
use remote_network_core::job::carried::CARRIED_BYTES_MAX;
use remote_network_core::port::{EngineExit, EngineInput, EngineJob, ExitClass, Port};
use std::time::Duration;

/// Makes a job light: its inputs come with it, and are not in the store.
fn light(job: EngineJob, inputs: &[(Port, &[u8])]) -> EngineJob {
    let named = |(port, bytes): &(Port, &[u8])| EngineInput {
        port: port.clone(),
        digest: Digest::of(bytes),
        len: bytes.len() as u64,
    };
    EngineJob {
        inputs: inputs.iter().map(named).collect(),
        carried: Some(inputs.iter().map(|(_, bytes)| Bytes::copy_from_slice(bytes)).collect()),
        ..job
    }
}

fn run(rig: &Rig, job: EngineJob) -> EngineExit {
    let id = rig.start(job);
    rig.started(id);
    rig.exit(id)
}

/// What it left at a port, whichever way.
fn left(rig: &Rig, exit: &EngineExit, port: &Port) -> Vec<u8> {
    let at = exit.outputs.iter().position(|o| o.port == *port).unwrap();
    let bytes = match &exit.carried {
        Some(all) => all[at].to_vec(),
        None => rig.blobs.get(&exit.outputs[at].digest),
    };
    assert_eq!((exit.outputs[at].digest, exit.outputs[at].len), (Digest::of(&bytes), bytes.len() as u64));
    bytes
}

#[test]
fn a_light_job_computes_what_any_job_computes_and_leaves_no_object() {
    let rig = Rig::new();
    // Reads an odd number of bytes at a time; tells clock and randomness as well.
    let tells = telling(
        &[("random_get", "i32 i32"), ("clock_time_get", "i32 i64 i32"), ("fd_read", "i32 i32 i32 i32")],
        "(drop (call $random_get (i32.const 1024) (i32.const 8)))
         (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 1032)))
         (i32.store (i32.const 0) (i32.const 1040)) (i32.store (i32.const 4) (i32.const 7))
         (i32.store (i32.const 1060) (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1052)))
         (i32.store (i32.const 0) (i32.const 1047)) (i32.store (i32.const 4) (i32.const 3))
         (i32.store (i32.const 1064) (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1056)))",
        48,
    );
    for module in [ECHO, &tells[..]] {
        for inputs in [&[][..], &[(Port::Stdin, &b"one "[..]), (Port::Stdin, b""), (Port::Stdin, b"two")]] {
            let order = rig.order(module);
            let mut usual = order.clone();
            usual.inputs = inputs.iter().map(|(port, bytes)| rig.input(port.clone(), bytes)).collect();
            let usual = run(&rig, usual);
            let before = rig.objects();
            let exit = run(&rig, light(order, inputs));
            assert_eq!(rig.objects(), before, "nothing came into the store");
            assert_eq!((exit.class, usual.class), (ExitClass::Success, ExitClass::Success), "{exit:?}");
            assert!(exit.carried.is_some() && usual.carried.is_none());
            assert_eq!(exit.outputs, usual.outputs, "bit for bit");
            left(&rig, &exit, &Port::Stdout);
        }
    }
    assert_eq!(rig.left_behind(), Vec::<String>::new());
}

#[test]
fn what_is_too_much_for_memory_is_kept_in_the_store_as_of_any_job() {
    let rig = Rig::new();
    let most = vec![b'x'; CARRIED_BYTES_MAX];
    let exit = run(&rig, light(rig.order(ECHO), &[(Port::Stdin, &most)]));
    assert!(exit.carried.is_some(), "just enough");
    assert_eq!(left(&rig, &exit, &Port::Stdout), most);
    // Twice what may be carried, written in one piece and then in two.
    let twice = |first: u32, second: u32| {
        telling(
            &[],
            &format!(
                "(i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const {first}))
                 (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))"
            ),
            second,
        )
    };
    for (first, second) in [(60_000, 0), (20_000, 20_000), (32_768, 1), (1, 32_768)] {
        let exit = run(&rig, light(rig.order(&twice(first, second)), &[]));
        assert_eq!((exit.class, exit.carried.is_none()), (ExitClass::Success, true), "{first} and {second}");
        assert_eq!(left(&rig, &exit, &Port::Stdout).len() as u32, first + second);
        assert_eq!(left(&rig, &exit, &Port::Stderr), b"");
    }
    assert_eq!(rig.left_behind(), Vec::<String>::new());
}

#[test]
fn an_output_beyond_its_limit_ends_a_light_job_as_any_other() {
    let rig = Rig::new();
    let mut order = rig.order(ECHO);
    order.limits.output_bytes = 3;
    let mut usual = order.clone();
    usual.inputs = vec![rig.input(Port::Stdin, b"four")];
    let (usual, exit) = (run(&rig, usual), run(&rig, light(order, &[(Port::Stdin, b"four")])));
    assert_eq!((exit.class, &exit.detail), (ExitClass::Resource, &usual.detail));
    assert_eq!(exit.outputs, usual.outputs);
    assert_eq!(left(&rig, &exit, &Port::Stdout), b"fou");
}

#[test]
fn a_light_job_with_mounts_has_files_and_carries_them_back() {
    let rig = Rig::new();
    // Copies the first input of mount `in` to the output of mount `to`: opened by name below the directories 3 and 4.
    let copies = br#"(module
      (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 2)
      (data (i32.const 512) "0000out")
      (func (export "_start")
        (if (call $open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 4) (i32.const 0) (i64.const 2) (i64.const 0)
          (i32.const 0) (i32.const 600)) (then (call $exit (i32.const 1))))
        (if (call $open (i32.const 4) (i32.const 0) (i32.const 516) (i32.const 3) (i32.const 1) (i64.const 64) (i64.const 0)
          (i32.const 0) (i32.const 604)) (then (call $exit (i32.const 2))))
        (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 65536))
        (drop (call $read (i32.load (i32.const 600)) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $write (i32.load (i32.const 604)) (i32.const 0) (i32.const 1) (i32.const 12)))))"#;
    let mut order = rig.order(copies);
    order.outputs = vec![Port::Mount("to".into()), Port::Stderr];
    let before = rig.objects();
    let exit = run(&rig, light(order, &[(Port::Mount("in".into()), b"through files")]));
    assert_eq!(exit.class, ExitClass::Success, "{exit:?}");
    assert!(exit.carried.is_some());
    assert_eq!(left(&rig, &exit, &Port::Mount("to".into())), b"through files");
    assert_eq!(rig.objects(), before, "nothing came into the store");
    assert_eq!(rig.left_behind(), Vec::<String>::new());
}

#[test]
fn a_light_job_is_stopped_and_limited_as_any_other() {
    let rig = Rig::new();
    let id = rig.start(light(rig.order(LOOP), &[]));
    rig.started(id);
    rig.stop(id, Duration::from_secs(5));
    assert_eq!(rig.exit(id).class, ExitClass::Cancelled);
    let mut short = rig.order(LOOP);
    short.limits.time_ms = 50;
    let exit = run(&rig, light(short, &[]));
    assert_eq!(exit.class, ExitClass::Resource);
    let exit =
        run(&rig, EngineJob { tenant: tenant(2), ..light(rig.order(ECHO), &[(Port::Stdin, b"again")]) });
    assert_eq!(left(&rig, &exit, &Port::Stdout), b"again", "the next one is not held up");
    assert_eq!(rig.left_behind(), Vec::<String>::new());
}
