//! What honest guests get: streams, arguments, mounts, exits, limits, reproducible worlds.

use crate::rig::{Rig, config, tenant};
use remote_network_core::id::Digest;
use remote_network_core::port::{EngineEvent, EngineJob, EngineRequest, ExitClass, Port};
use remote_network_node::ports::engine::EnginePort;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Copies stdin to stdout.
pub const ECHO: &[u8] = br#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (loop $more
      (i32.store (i32.const 0) (i32.const 1024))
      (i32.store (i32.const 4) (i32.const 65536))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (if (i32.load (i32.const 8)) (then
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
        (br $more))))))"#;

/// Never ends.
pub const LOOP: &[u8] =
    br#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;

/// Ends with this code.
fn exits(code: i32) -> Vec<u8> {
    format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"#
    )
    .into_bytes()
}

/// A module that calls imports `calls` (name and parameters), in a body that leaves what it wants told at 1024, `len` bytes.
pub fn telling(imports: &[(&str, &str)], body: &str, len: u32) -> Vec<u8> {
    let imports: String = imports
        .iter()
        .map(|(name, params)| {
            format!(
                r#"(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {params}) (result i32)))"#
            )
        })
        .collect();
    format!(
        r#"(module {imports}
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 2)
          (data (i32.const 512) "out")
          (data (i32.const 528) "0000")
          (data (i32.const 544) "/etc/passwd")
          (data (i32.const 560) "../../../../../../../../etc/passwd")
          (data (i32.const 600) "link")
          (func (export "_start") {body}
            (i32.store (i32.const 0) (i32.const 1024))
            (i32.store (i32.const 4) (i32.const {len}))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))"#
    )
    .into_bytes()
}

#[test]
fn stdin_comes_out_and_several_inputs_are_one_in_declared_order() {
    let rig = Rig::new();
    let mut job = rig.order(ECHO);
    job.inputs =
        vec![rig.input(Port::Stdin, b"one "), rig.input(Port::Stdin, b""), rig.input(Port::Stdin, b"two")];
    let id = rig.start(job);
    rig.started(id);
    let exit = rig.exit(id);
    assert_eq!((exit.class, exit.code, exit.detail.as_str()), (ExitClass::Success, 0, ""));
    assert_eq!(rig.stdout(&exit), b"one two");
    assert_eq!(rig.output(&exit, &Port::Stderr), b"");
    assert!(exit.usage.fuel > 0 && exit.usage.cpu_ns > 0, "{:?}", exit.usage);
    assert_eq!(exit.usage.memory_bytes, 2 * 65536);
    assert_eq!(rig.left_behind(), Vec::<String>::new(), "nothing is left");
    assert!(rig.workers().is_empty());
}

#[test]
fn exit_codes_are_told_as_they_are_and_traps_are_the_guests_fault() {
    let rig = Rig::new();
    for code in [1, 3, 125, 126, 255, -1] {
        let exit = rig.run(rig.order(&exits(code)));
        assert_eq!((exit.class, exit.code), (ExitClass::User, code), "{exit:?}");
        assert_eq!(exit.detail, format!("exit code {code}"));
    }
    assert_eq!(rig.run(rig.order(&exits(0))).class, ExitClass::Success);
    let trap = rig.run(rig.order(br#"(module (func (export "_start") unreachable))"#));
    assert_eq!((trap.class, trap.code), (ExitClass::User, 0));
    assert!(trap.detail.contains("unreachable"), "{}", trap.detail);
    let deep = rig.run(rig.order(br#"(module (func $f (export "_start") (call $f) (call $f)))"#));
    assert_eq!(deep.class, ExitClass::User);
    assert!(deep.detail.contains("stack"), "{}", deep.detail);
}

#[test]
fn an_endless_loop_ends_at_its_deadline() {
    let rig = Rig::new();
    let mut job = rig.order(LOOP);
    job.limits.time_ms = 300;
    let exit = rig.run(job);
    assert_eq!(exit.class, ExitClass::Resource, "{exit:?}");
    assert!(exit.detail.contains("300 ms"), "{}", exit.detail);
    assert!(exit.usage.wall_ms >= 300, "no time was taken from it: {:?}", exit.usage);
    assert_eq!(exit.outputs.len(), 2);
}

#[test]
fn a_stop_interrupts_a_running_guest_and_drops_a_waiting_one() {
    let rig = Rig::new();
    let running = [rig.start(rig.order(LOOP)), rig.start(rig.order(LOOP))];
    for _ in running {
        assert!(matches!(rig.next(), (_, EngineEvent::Started)));
    }
    let waiting = rig.start(rig.order(LOOP));
    rig.engine.submit(waiting, EngineRequest::Start(rig.order(ECHO)));
    rig.stop(waiting, Duration::ZERO);
    let exit = rig.exit(waiting);
    assert_eq!(exit.class, ExitClass::Cancelled);
    rig.stop(waiting, Duration::ZERO);
    for id in running {
        rig.stop(id, Duration::from_secs(60));
        let exit = rig.exit(id);
        assert_eq!(exit.class, ExitClass::Cancelled, "{exit:?}");
        assert!(exit.usage.cpu_ns > 0, "it was interrupted and told so, not killed");
    }
    assert!(rig.events.is_empty(), "everything was answered once");
}

#[test]
fn more_jobs_than_slots_all_end_once_and_a_second_start_is_ignored() {
    let rig = Rig::new();
    let mut open: BTreeMap<_, _> = (0u8..12)
        .map(|n| {
            let mut job = rig.order(ECHO);
            job.inputs = vec![rig.input(Port::Stdin, &[n])];
            let id = rig.start(job.clone());
            rig.engine.submit(id, EngineRequest::Start(job));
            (id, n)
        })
        .collect();
    while !open.is_empty() {
        if let (id, EngineEvent::Exited(exit)) = rig.next() {
            assert_eq!(exit.class, ExitClass::Success, "{exit:?}");
            assert_eq!(rig.stdout(&exit), [open.remove(&id).unwrap()]);
        }
    }
    assert!(rig.events.is_empty());
}

#[test]
fn asking_for_more_memory_than_allowed_is_a_limit_unless_the_guest_copes() {
    let rig = Rig::new();
    let bomb = br#"(module (memory (export "memory") 1)
        (func (export "_start") (loop $l
          (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable)) (br $l))))"#;
    let exit = rig.run(rig.order(bomb));
    assert_eq!(exit.class, ExitClass::Resource, "{exit:?}");
    assert!(exit.detail.contains("memory"), "{}", exit.detail);
    assert!(exit.usage.memory_bytes <= 64 << 20 && exit.usage.memory_bytes > 60 << 20);
    let copes = br#"(module (memory (export "memory") 1)
        (func (export "_start") (drop (memory.grow (i32.const 60000)))))"#;
    assert_eq!(rig.run(rig.order(copes)).class, ExitClass::Success);
    let large = br#"(module (memory (export "memory") 2000) (func (export "_start")))"#;
    assert_eq!(rig.run(rig.order(large)).class, ExitClass::Resource);
}

#[test]
fn an_output_flood_is_cut_at_the_limit() {
    let rig = Rig::new();
    let flood = br#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start")
          (i32.store (i32.const 4) (i32.const 5000))
          (loop $l (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12))) (br $l))))"#;
    let mut job = rig.order(flood);
    job.limits.output_bytes = 123_456;
    let exit = rig.run(job);
    assert_eq!(exit.class, ExitClass::Resource, "{exit:?}");
    assert_eq!(rig.stdout(&exit).len(), 123_456);
    let cut: Vec<_> = exit.outputs.iter().map(|o| o.truncated).collect();
    assert_eq!(cut, [true, false]);
    let mut exact = rig.order(ECHO);
    exact.limits.output_bytes = 5;
    exact.inputs = vec![rig.input(Port::Stdin, b"12345")];
    let exit = rig.run(exact);
    assert_eq!((exit.class, exit.outputs[0].truncated), (ExitClass::Success, false));
}

#[test]
fn a_stream_larger_than_all_memory_allowed_passes_through() {
    let rig = Rig::new();
    let mut job = rig.order(ECHO);
    let bytes: Vec<u8> = (0u32..12 << 20).flat_map(u32::to_le_bytes).collect();
    job.limits.memory_bytes = 256 << 10;
    job.limits.output_bytes = 64 << 20;
    job.limits.time_ms = 60_000;
    job.inputs = vec![rig.input(Port::Stdin, &bytes)];
    let exit = rig.run(job);
    assert_eq!(exit.class, ExitClass::Success, "{exit:?}");
    assert_eq!(exit.outputs[0].digest, Digest::of(&bytes));
    assert_eq!(exit.usage.memory_bytes, 2 * 65536);
}

#[test]
fn arguments_and_environment_are_those_of_the_order_and_no_others() {
    let rig = Rig::new();
    let imports = [
        ("args_sizes_get", "i32 i32"),
        ("args_get", "i32 i32"),
        ("environ_sizes_get", "i32 i32"),
        ("environ_get", "i32 i32"),
    ];
    let body = "(drop (call $args_get (i32.const 100) (i32.const 1024)))
        (drop (call $environ_get (i32.const 200) (i32.const 1056)))
        (drop (call $args_sizes_get (i32.const 1088) (i32.const 1092)))
        (drop (call $environ_sizes_get (i32.const 1096) (i32.const 1100)))";
    let mut job = rig.order(&telling(&imports, body, 80));
    job.args = vec!["-x".into(), "ä b".into()];
    job.env = vec![("K".into(), "v".into())];
    let exit = rig.run(job);
    let out = rig.stdout(&exit);
    assert!(out.starts_with("service\0-x\0ä b\0".as_bytes()), "{out:?}");
    assert!(out[32..].starts_with(b"K=v\0\0"), "{out:?}");
    assert_eq!((out[64], out[72], out[76]), (3, 1, 4));
}

#[test]
fn clocks_and_randomness_are_the_same_in_every_run_and_follow_the_seed() {
    let rig = Rig::new();
    // A look at both clocks, 24 random bytes, a sleep of an hour, another look: 48 bytes.
    let imports =
        [("clock_time_get", "i32 i64 i32"), ("random_get", "i32 i32"), ("poll_oneoff", "i32 i32 i32 i32")];
    let body = "(drop (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 1024)))
        (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 1032)))
        (drop (call $random_get (i32.const 1040) (i32.const 24)))
        (i32.store (i32.const 216) (i32.const 1))
        (i64.store (i32.const 224) (i64.const 3600000000000))
        (if (call $poll_oneoff (i32.const 200) (i32.const 300) (i32.const 1) (i32.const 400)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 400)) (i32.const 1)) (then unreachable))
        (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 1064)))";
    let module = telling(&imports, body, 48);
    let runs: Vec<_> = (0..2).map(|_| rig.run(rig.order(&module))).collect();
    assert_eq!(runs[0].class, ExitClass::Success, "{:?}", runs[0]);
    assert_eq!(runs[0].outputs, runs[1].outputs);
    assert_eq!(runs[0].usage.fuel, runs[1].usage.fuel);
    let out = rig.stdout(&runs[0]);
    let word = |at: usize| u64::from_le_bytes(out[at..at + 8].try_into().unwrap());
    assert_eq!(word(0) / 1_000_000_000, 946_684_800, "2000-01-01");
    assert!(word(40) - word(8) >= 3_600_000_000_000);
    let mut other = rig.order(&module);
    other.seed = [8; 32];
    let other = rig.run(other);
    assert_ne!(rig.stdout(&other)[16..40], out[16..40]);
}

#[test]
fn mounts_are_numbered_files_in_and_one_file_out() {
    let rig = Rig::new();
    // Reads /in/0000 (fd 3) and /in/0001, writes both to /out/out (fd 4).
    let imports = [
        ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32"),
        ("fd_read", "i32 i32 i32 i32"),
        ("path_create_directory", "i32 i32 i32"),
    ];
    let copy =
        "(drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 528) (i32.const 4) (i32.const 0)
          (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 400)))
        (i32.store (i32.const 0) (i32.const 2048)) (i32.store (i32.const 4) (i32.const 1000))
        (drop (call $fd_read (i32.load (i32.const 400)) (i32.const 0) (i32.const 1) (i32.const 4)))
        (drop (call $write (i32.load (i32.const 404)) (i32.const 0) (i32.const 1) (i32.const 12)))";
    let body = format!(
        "(if (call $path_open (i32.const 4) (i32.const 0) (i32.const 512) (i32.const 3) (i32.const 1)
          (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 404)) (then unreachable))
        {copy} (i32.store8 (i32.const 531) (i32.const 49)) {copy}
        (i32.store8 (i32.const 1024) (call $path_create_directory (i32.const 3) (i32.const 600) (i32.const 4)))"
    );
    let mut job = rig.order(&telling(&imports, &body, 1));
    let (input, output) = (Port::Mount("in".into()), Port::Mount("out".into()));
    job.inputs = vec![rig.input(input.clone(), b"first "), rig.input(input, b"second")];
    job.outputs = vec![output.clone(), Port::Stdout];
    let exit = rig.run(job);
    assert_eq!(exit.class, ExitClass::Success, "{exit:?}");
    assert_eq!(rig.output(&exit, &output), b"first second");
    assert_ne!(rig.stdout(&exit), [0], "inputs are read-only");
}

#[test]
fn compiled_code_is_kept_and_damage_to_it_only_costs_time() {
    let rig = Rig::new();
    assert_eq!(rig.run(rig.order(ECHO)).class, ExitClass::Success);
    let code = || -> Vec<_> {
        let entries = fs::read_dir(rig.dir.path().join("code")).unwrap();
        entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "cwasm")).collect()
    };
    assert_eq!(code().len(), 1);
    let written = fs::metadata(&code()[0]).unwrap().len();
    // A worker of another requester loads it, and one that finds it damaged does not.
    let of = |n| EngineJob { tenant: tenant(n), ..rig.order(ECHO) };
    assert_eq!(rig.run(of(2)).class, ExitClass::Success);
    fs::write(&code()[0], b"\x7fELF damaged").unwrap();
    assert_eq!(rig.run(of(3)).class, ExitClass::Success);
    assert_eq!(fs::metadata(&code()[0]).unwrap().len(), written, "compiled anew");
}

#[test]
fn what_a_crash_has_left_is_swept_and_a_wrong_worker_is_refused() {
    let rig = Rig::new();
    fs::create_dir_all(rig.dir.path().join("scratch/job-00/w")).unwrap();
    fs::create_dir_all(rig.dir.path().join("scratch/worker-00/w")).unwrap();
    let (to_core, _events) = async_channel::bounded(1);
    let again = EnginePort::start(config(rig.dir.path()), rig.blobs.clone(), to_core.clone()).unwrap();
    assert!(!rig.dir.path().join("scratch/job-00").exists());
    assert!(!rig.dir.path().join("scratch/worker-00").exists());
    assert!(again.confinement().len() >= 3, "{:?}", again.confinement());
    println!("in force here: {:#?}", again.confinement());
    for wrong in ["/bin/true", "/nonexistent"] {
        let mut config = config(rig.dir.path());
        config.worker = wrong.into();
        assert!(EnginePort::start(config, rig.blobs.clone(), to_core.clone()).is_err());
    }
}
