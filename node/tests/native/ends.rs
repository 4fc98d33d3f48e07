//! How programs end, by themselves and otherwise, and that nothing is left of them.

use super::rig::{Rig, all_with, arguments, compile, confinement_of, processes_with, until, word};
use remote_network_core::port::{EngineRequest, ExitClass};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn exit_codes_and_signals_are_told_as_they_are() {
    let Some(rig) = Rig::new() else { return };
    for code in [1, 3, 125, 137, 255] {
        let exit = rig.run(rig.order(&format!("exit {code}")));
        assert_eq!((exit.class, exit.code), (ExitClass::User, code), "{exit:?}");
    }
    for signal in [6, 9, 11, 15] {
        let exit = rig.run(rig.order(&format!("kill -{signal} $$")));
        assert_eq!((exit.class, exit.code), (ExitClass::User, 128 + signal), "{exit:?}");
        assert_eq!(exit.detail, format!("killed by signal {signal}"));
    }
}

#[test]
fn a_stopped_program_hears_of_it_and_may_end_by_itself() {
    let Some(rig) = Rig::new() else { return };
    let job = rig.start(rig.order("trap 'echo heard; exit 0' TERM; echo ready; while :; do sleep 0.1; done"));
    rig.started(job);
    // The trap is set a moment after the start.
    std::thread::sleep(Duration::from_millis(500));
    rig.submit(job, EngineRequest::Stop { grace: Duration::from_secs(60) });
    let exit = rig.exit(job);
    assert_eq!((exit.class, exit.detail.as_str()), (ExitClass::Cancelled, "stopped on request"));
    assert_eq!(rig.stdout(&exit), "ready\nheard\n");
    assert_eq!(rig.left(), 0);
}

#[test]
fn one_that_will_not_hear_is_killed_with_all_that_it_started() {
    let Some(rig) = Rig::new() else { return };
    let word = word();
    // A child that has left the session, and one that ignores what it can.
    let script = format!(
        "trap '' TERM HUP INT; (trap '' TERM; sh -c 'sleep 600; : {word}') & setsid sh -c 'sleep 600; : {word}' & \
         while :; do sleep 0.1; done # {word}"
    );
    let job = rig.start(rig.order(&script));
    rig.started(job);
    until("all of them run", || processes_with(&word) >= 3);
    rig.submit(job, EngineRequest::Stop { grace: Duration::from_millis(600) });
    let exit = rig.exit(job);
    assert_eq!(exit.class, ExitClass::Cancelled, "{exit:?}");
    assert_eq!(processes_with(&word), 0, "at once: before the end was told");
    assert_eq!(rig.left(), 0);
}

#[test]
fn what_a_program_leaves_running_ends_with_it() {
    let Some(rig) = Rig::new() else { return };
    let word = word();
    let script = format!("setsid sh -c 'sleep 600; : {word}' >/dev/null 2>&1 & sleep 0.3; echo done");
    let exit = rig.run(rig.order(&script));
    assert_eq!((exit.class, rig.stdout(&exit).as_str()), (ExitClass::Success, "done\n"));
    assert_eq!(processes_with(&word), 0);
}

#[test]
fn orphans_are_reaped_while_the_program_runs() {
    let Some(rig) = Rig::new() else { return };
    // Each leaves a child to process 1, which ends later.
    let script = "i=0; while [ $i -lt 50 ]; do sh -c '(sleep 0.05 &)'; i=$((i+1)); done; sleep 0.5; \
        cat /proc/[0-9]*/stat | grep -c ' Z '";
    let exit = rig.run(rig.order(script));
    assert_eq!(rig.stdout(&exit), "0\n", "{exit:?}");
}

#[test]
fn a_confinement_that_is_killed_takes_all_inside_with_it_before_that_is_told() {
    let Some(rig) = Rig::new() else { return };
    let word = word();
    let job = rig.start(rig.order(&format!("setsid sh -c 'sleep 600; : {word}' & sleep 600; : {word}")));
    rig.started(job);
    until("both run", || processes_with(&word) >= 2);
    rustix::process::kill_process(confinement_of(&word), rustix::process::Signal::KILL).unwrap();
    let exit = rig.exit(job);
    assert_eq!((exit.class, exit.detail.as_str()), (ExitClass::Infra, "the sandbox ended without a word"));
    assert_eq!(processes_with(&word), 0);
    assert_eq!(rig.left(), 0);
}

/// Holds a process as a debugger does that does not look: it can be killed, but it is not gone before this program is.
const DEBUGGER: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
int main(int n, char **args) {
    if (n < 2 || ptrace(PTRACE_SEIZE, atoi(args[1]), 0, 0)) { perror("ptrace"); return 1; }
    puts("held");
    fflush(stdout);
    return getchar() < 0;
}
"#;

#[test]
fn what_the_kernel_does_not_let_go_of_is_told_and_keeps_its_place_and_its_files_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("objects")).unwrap();
    let Some(rig) = Rig::at(dir, 1) else { return };
    let source = rig.dir.path().join("debugger.c");
    std::fs::write(&source, DEBUGGER).unwrap();
    let Some(debugger) = compile(&source, false) else { return };
    let path = rig.dir.path().join("debugger");
    std::fs::write(&path, debugger).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();

    let word = word();
    let job = rig.start(rig.order(&format!("echo said; sh -c 'sleep 600; : {word}' child; : {word}")));
    rig.started(job);
    let child = || all_with(&word).into_iter().find(|p| arguments(p).iter().any(|w| w == "child"));
    until("its child runs", || child().is_some());
    let held = child().unwrap();
    let mut debugger = Command::new(&path)
        .arg(held.file_name().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(debugger.stdout.take().unwrap()).read_line(&mut said).unwrap();
    if said != "held\n" {
        let why = debugger.wait_with_output().unwrap().stderr;
        println!("SKIPPED: no process can be held here: {}", String::from_utf8_lossy(&why));
        return;
    }
    rig.submit(job, EngineRequest::Stop { grace: Duration::ZERO });
    let waits = rig.start(rig.order("echo never"));
    let exit = rig.exit(job);
    assert_eq!(exit.class, ExitClass::Infra, "{exit:?}");
    assert!(exit.detail.contains("is not gone") && exit.outputs.is_empty(), "{exit:?}");
    assert_eq!(rig.left(), 1, "its directory stays");
    for job in [waits, rig.start(rig.order("echo never"))] {
        let exit = rig.exit(job);
        assert_eq!(exit.class, ExitClass::Infra, "{exit:?}");
        assert!(exit.detail.contains("the kernel keeps the processes of earlier jobs"), "{}", exit.detail);
    }
    debugger.kill().unwrap();
    debugger.wait().unwrap();
    until("its directory is removed", || rig.left() == 0);
    until("jobs run again", || rig.run(rig.order("true")).class == ExitClass::Success);
}

#[test]
fn a_port_that_is_dropped_takes_its_jobs_with_it() {
    let Some(mut rig) = Rig::new() else { return };
    let word = word();
    let job = rig.start(rig.order(&format!("sleep 600; : {word}")));
    rig.started(job);
    assert!(processes_with(&word) > 0);
    rig.port = None;
    until("its processes are gone", || processes_with(&word) == 0);
}

/// The other half of the next test, in a process of its own.
#[test]
fn a_node_that_will_be_killed() {
    let Some(word) = std::env::var_os("NATIVE_TEST_WORD") else { return };
    let Some(rig) = Rig::new() else { return };
    let script = format!("setsid sh -c 'sleep 600; : {0}' & sleep 600; : {0}", word.to_string_lossy());
    let job = rig.start(rig.order(&script));
    rig.started(job);
    println!("running in {}", rig.dir.path().display());
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn kill_9_of_the_node_leaves_no_process_no_mount_and_no_file_after_its_next_start() {
    if Rig::new().is_none() {
        return;
    }
    let word = word();
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ends::a_node_that_will_be_killed", "--nocapture"])
        .env("NATIVE_TEST_WORD", &word)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let dir =
        lines.map(Result::unwrap).find_map(|l| l.split_once("running in ").map(|(_, dir)| dir.to_owned()));
    let dir = std::path::PathBuf::from(dir.expect("it runs a job"));
    until("its job runs", || processes_with(&word) >= 2);
    node.kill().unwrap();
    node.wait().unwrap();
    until("its processes are gone", || processes_with(&word) == 0);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
    let scratch = dir.join("scratch");
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 1, "a job's directory");
    let again = tempfile::TempDir::with_prefix("again").unwrap();
    std::fs::rename(&dir, again.path().join("node")).unwrap();
    std::fs::create_dir(again.path().join("objects")).unwrap();
    std::fs::rename(again.path().join("node/scratch"), again.path().join("scratch")).unwrap();
    let rig = Rig::at(again, 4).unwrap();
    assert_eq!(rig.left(), 0, "what was left is removed");
    assert_eq!(rig.run(rig.order("true")).class, ExitClass::Success, "and jobs run again");
}
