//! The same for a node that is not root: in a name space of users.

use super::rig::{CONFINE, Rig, binary};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// Somebody who has nothing on this machine.
const USER: u32 = 54_321;

/// What must hold for everybody.
const TESTS: [&str; 11] = [
    "ends::a_confinement_that_is_killed_takes_all_inside_with_it_before_that_is_told",
    "ends::exit_codes_and_signals_are_told_as_they_are",
    "ends::one_that_will_not_hear_is_killed_with_all_that_it_started",
    "limits::each_output_is_limited_and_what_fits_is_kept",
    "limits::memory_is_limited_together_where_that_can_be_and_else_by_process",
    "limits::time_is_limited",
    "probes::every_attempt_to_get_out_is_contained_and_most_succeed_without_the_sandbox",
    "view::input_arguments_and_environment_go_in_and_both_streams_come_out",
    "view::it_is_nobody_sees_itself_only_and_can_write_to_its_own_places",
    "view::mounts_lie_at_their_names_and_their_output_is_taken",
    "view::the_machines_name_is_not_told_and_what_it_needs_can_be_read",
];

#[test]
fn the_same_holds_for_a_node_that_is_not_root() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: this is not root, so the other tests have shown it");
        return;
    }
    if Rig::new().is_none() {
        return;
    }
    // Where this is built may be closed to others.
    let dir = tempfile::tempdir().unwrap();
    let (tests, confine) = (dir.path().join("tests"), dir.path().join("remote-network"));
    fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    fs::copy(binary(), &confine).unwrap();
    let theirs = dir.path().join("tmp");
    fs::create_dir(&theirs).unwrap();
    for (path, mode) in [(dir.path(), 0o755), (&tests, 0o755), (&confine, 0o755)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::chown(&theirs, Some(USER), Some(USER)).unwrap();
    // A system that gives name spaces to root only is no fault of ours.
    let spaces = ["--user", "--map-root-user", "--mount", "--pid", "--net", "--fork", "true"];
    let given = Command::new("unshare").args(spaces).uid(USER).gid(USER).stderr(Stdio::null()).status();
    let mut command = Command::new(&tests);
    if !given.is_ok_and(|status| status.success()) {
        command.env_remove("REQUIRE_NATIVE");
    }
    let out = command
        .args(TESTS)
        .args(["--exact", "--nocapture", "--test-threads=2"])
        .env(CONFINE, &confine)
        .env("TMPDIR", &theirs)
        .uid(USER)
        .gid(USER)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}\n{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.contains(&format!("{} passed", TESTS.len())), "{said}");
    said.lines().filter(|l| l.starts_with("without the sandbox")).for_each(|l| println!("without root: {l}"));
    match said.lines().find(|l| l.contains("SKIPPED")) {
        Some(why) => println!("without root: {why}"),
        None => println!("without root: {} tests hold", TESTS.len()),
    }
}
