//! Guests, modules and orders that mean harm, and machines that fail.

use crate::behaviour::{ECHO, LOOP, telling};
use crate::rig::{Rig, workers};
use remote_network_core::id::Digest;
use remote_network_core::port::{EngineInput, ExitClass, Port, Program};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn what_is_no_module_is_refused_for_good_and_what_is_missing_for_now() {
    let rig = Rig::new();
    for (bytes, word) in [
        (&b""[..], "no WebAssembly"),
        (b"#!/bin/sh\necho hi", "no WebAssembly"),
        (b"\x7fELF\x02\x01\x01\xc8 precompiled", "machine code"),
        (b"\0asm\x0d\0\x01\0", "component"),
        (b"\0asm\x01\0\0\0\xff\xff\xff", "not valid"),
        (br#"(module (func (export "main")))"#, "_start"),
        (br#"(module (func (export "_start") (param i32)))"#, "_start"),
        (br#"(module (import "env" "system" (func)) (func (export "_start")))"#, "env"),
        (br#"(module (memory i64 1) (func (export "_start")))"#, "not valid"),
    ] {
        let exit = rig.run(rig.order(bytes));
        assert_eq!(exit.class, ExitClass::Permanent, "{exit:?}");
        assert!(exit.detail.contains(word), "{}", exit.detail);
    }
    let mut missing = rig.order(ECHO);
    missing.program = Program::Wasm(Digest::of(b"never stored"));
    assert_eq!(rig.run(missing).class, ExitClass::Infra);
    let mut missing = rig.order(ECHO);
    missing.inputs = vec![EngineInput { port: Port::Stdin, digest: Digest::of(b"nor this"), len: 8 }];
    assert_eq!(rig.run(missing).class, ExitClass::Infra);
    let mut short = rig.order(ECHO);
    short.inputs = vec![EngineInput { len: 9, ..rig.input(Port::Stdin, b"12345678") }];
    assert_eq!(rig.run(short).class, ExitClass::Infra);
}

#[test]
fn orders_that_reach_for_the_file_system_are_refused() {
    let rig = Rig::new();
    for name in ["", "..", "a/b", "../../x", ".hidden", "a\0b", "\x1b[2J"] {
        let mut job = rig.order(ECHO);
        job.outputs = vec![Port::Mount(name.into())];
        assert_eq!(rig.run(job).class, ExitClass::Permanent, "{name:?}");
        let mut job = rig.order(ECHO);
        job.inputs = vec![rig.input(Port::Mount(name.into()), b"x")];
        assert_eq!(rig.run(job).class, ExitClass::Permanent, "{name:?}");
    }
    let mut job = rig.order(ECHO);
    job.outputs = vec![Port::Stdin];
    assert_eq!(rig.run(job).class, ExitClass::Permanent);
    let mut job = rig.order(ECHO);
    job.inputs = vec![rig.input(Port::Stdout, b"x")];
    assert_eq!(rig.run(job).class, ExitClass::Permanent);
    let mut job = rig.order(ECHO);
    job.env = vec![("A=B".into(), "c".into())];
    assert_eq!(rig.run(job).class, ExitClass::Permanent);
}

#[test]
fn a_guest_without_mounts_has_no_files_and_no_sockets() {
    let rig = Rig::new();
    // Tries every descriptor as a directory to open two host paths from, and as a socket: no call may succeed.
    let imports = [
        ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32"),
        ("sock_accept", "i32 i32 i32"),
        ("sock_send", "i32 i32 i32 i32 i32"),
        ("fd_prestat_get", "i32 i32"),
    ];
    let open = |path: u32, len: u32| {
        format!(
            "(if (i32.eqz (call $path_open (local.get $fd) (i32.const 1) (i32.const {path}) (i32.const {len})
              (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 400))) (then unreachable))"
        )
    };
    let body = format!(
        "(local $fd i32) (loop $l {} {}
          (if (i32.eqz (call $sock_accept (local.get $fd) (i32.const 0) (i32.const 400))) (then unreachable))
          (if (i32.eqz (call $sock_send (local.get $fd) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 400))) (then unreachable))
          (if (i32.eqz (call $fd_prestat_get (local.get $fd) (i32.const 400))) (then unreachable))
          (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
          (br_if $l (i32.lt_u (local.get $fd) (i32.const 64))))",
        open(544, 11),
        open(560, 34),
    );
    let exit = rig.run(rig.order(&telling(&imports, &body, 0)));
    assert_eq!(exit.class, ExitClass::Success, "{exit:?}");
}

#[test]
fn a_mount_is_no_way_out() {
    let rig = Rig::new();
    let imports =
        [("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32"), ("path_symlink", "i32 i32 i32 i32 i32")];
    let open = |path: u32, len: u32| {
        format!(
            "(if (i32.eqz (call $path_open (i32.const 3) (i32.const 1) (i32.const {path}) (i32.const {len})
              (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 400))) (then unreachable))"
        )
    };
    let body = format!(
        "(drop (call $path_symlink (i32.const 560) (i32.const 34) (i32.const 3) (i32.const 600) (i32.const 4)))
         {} {} {}",
        open(544, 11),
        open(560, 34),
        open(600, 4),
    );
    let mut job = rig.order(&telling(&imports, &body, 0));
    job.outputs = vec![Port::Mount("m".into())];
    let exit = rig.run(job);
    // It came to its end, and the output is simply missing.
    assert_eq!(exit.class, ExitClass::User, "{exit:?}");
    assert!(exit.detail.contains("was not written"), "{}", exit.detail);
}

#[test]
fn an_output_that_is_a_link_or_a_directory_is_refused() {
    let rig = Rig::new();
    for (import, params, call) in [
        (
            "path_symlink",
            "i32 i32 i32 i32 i32",
            "(call $path_symlink (i32.const 560) (i32.const 34) (i32.const 3) (i32.const 512) (i32.const 3))",
        ),
        (
            "path_create_directory",
            "i32 i32 i32",
            "(call $path_create_directory (i32.const 3) (i32.const 512) (i32.const 3))",
        ),
    ] {
        let mut job = rig.order(&telling(&[(import, params)], &format!("(drop {call})"), 0));
        job.outputs = vec![Port::Mount("m".into()), Port::Stdout];
        let exit = rig.run(job);
        assert_eq!(exit.class, ExitClass::User, "{exit:?}");
        assert_eq!(exit.outputs.len(), 1, "only stdout: {exit:?}");
    }
}

#[test]
fn a_file_or_a_crowd_of_files_in_a_mount_cannot_outgrow_the_limit() {
    let rig = Rig::new();
    let imports =
        [("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32"), ("path_create_directory", "i32 i32 i32")];
    let endless =
        "(drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 3) (i32.const 1)
          (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 400)))
        (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 60000))
        (loop $l (drop (call $write (i32.load (i32.const 400)) (i32.const 0) (i32.const 1) (i32.const 12)))
          (br $l))";
    let mut job = rig.order(&telling(&imports, endless, 0));
    job.outputs = vec![Port::Mount("m".into())];
    job.limits.output_bytes = 100_000;
    let exit = rig.run(job);
    assert_eq!(exit.class, ExitClass::Resource, "{exit:?}");
    assert_eq!((exit.outputs[0].len, exit.outputs[0].truncated), (100_000, true));

    // Directories named by a counter in four letters, until it is ended.
    let letters: String = (0..4)
        .map(|i| {
            format!(
                "(i32.store8 (i32.const {}) (i32.add (i32.const 65)
                  (i32.and (i32.const 15) (i32.shr_u (local.get $n) (i32.const {})))))",
                600 + i,
                4 * i
            )
        })
        .collect();
    let crowd = format!(
        "(local $n i32) (loop $l (local.set $n (i32.add (local.get $n) (i32.const 1))) {letters}
          (drop (call $path_create_directory (i32.const 3) (i32.const 600) (i32.const 4))) (br $l))"
    );
    let mut job = rig.order(&telling(&imports, &crowd, 0));
    job.outputs = vec![Port::Mount("m".into())];
    let exit = rig.run(job);
    assert_eq!(exit.class, ExitClass::Resource, "{exit:?}");
}

#[test]
fn words_of_a_module_reach_the_detail_without_escapes() {
    let rig = Rig::new();
    let module = format!(
        "(module (import \"e\\1b[31m\\0d\\0a\\07\" \"x{}\" (func)) (func (export \"_start\")))",
        "y".repeat(90_000)
    );
    let exit = rig.run(rig.order(module.as_bytes()));
    assert_eq!(exit.class, ExitClass::Permanent, "{exit:?}");
    assert!(exit.detail.len() <= 500 && exit.detail.contains("[31m"), "{}", exit.detail);
    assert!(!exit.detail.chars().any(char::is_control), "{:?}", exit.detail);
}

#[test]
fn a_killed_worker_is_the_machines_trouble_and_the_next_job_gets_a_new_one() {
    let rig = Rig::new();
    let id = rig.start(rig.order(LOOP));
    rig.started(id);
    let mine = worker_of(rig.dir.path());
    assert!(Command::new("kill").args(["-9", &mine.to_string()]).status().unwrap().success());
    let exit = rig.exit(id);
    assert_eq!(exit.class, ExitClass::Infra, "{exit:?}");
    assert!(exit.detail.contains("signal 9"), "{}", exit.detail);
    assert_eq!(rig.run(rig.order(ECHO)).class, ExitClass::Success);
}

#[test]
fn a_worker_is_confined_while_it_runs_and_dies_with_whoever_started_it() {
    let rig = Rig::new();
    let id = rig.start(rig.order(LOOP));
    rig.started(id);
    let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let worker = worker_of(rig.dir.path());
    assert!(status(worker).contains("NoNewPrivs:\t1"));
    assert!(status(worker).contains("Seccomp:\t2"));
    assert_eq!(fs::read(format!("/proc/{worker}/environ")).unwrap(), b"");
    let limits = fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
    assert!(limits.lines().any(|l| l.starts_with("Max core file size") && l.contains(" 0 ")), "{limits}");
    assert!(limits.lines().any(|l| l.starts_with("Max file size") && l.contains("1048577")), "{limits}");
    rig.stop(id, Duration::ZERO);
    rig.exit(id);

    // The parent's end by the kernel's signal (a thread here, since it is the thread that counts), with stdin still open.
    let mut orphan = std::thread::spawn(move || {
        let worker = Command::new(env!("CARGO_BIN_EXE_remote-network"))
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !status(worker.id()).contains("Seccomp:\t2") {
            std::thread::sleep(Duration::from_millis(1));
        }
        worker
    })
    .join()
    .unwrap();
    assert_eq!(orphan.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_dropped_engine_leaves_no_worker() {
    let rig = Rig::new();
    let id = rig.start(rig.order(LOOP));
    rig.started(id);
    let Rig { engine, dir, .. } = rig;
    worker_of(dir.path());
    drop(engine);
    let until = Instant::now() + Duration::from_secs(90);
    while !workers(dir.path()).is_empty() {
        assert!(Instant::now() < until, "the worker lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The one worker of a rig, once it has opened its files.
fn worker_of(dir: &std::path::Path) -> u32 {
    let until = Instant::now() + Duration::from_secs(90);
    loop {
        match workers(dir)[..] {
            [worker] => return worker,
            _ => assert!(Instant::now() < until, "no worker"),
        }
    }
}
