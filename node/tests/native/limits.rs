//! Memory, time, processes, files, output: each limit ends what passes it, and is told as what it is.

use super::rig::Rig;
use remote_network_core::port::{EngineLimits, ExitClass, Port};

fn limits(rig: &Rig, change: impl FnOnce(&mut EngineLimits)) -> EngineLimits {
    let mut limits = rig.order("").limits;
    change(&mut limits);
    limits
}

#[test]
fn time_is_limited() {
    let Some(rig) = Rig::new() else { return };
    let mut order = rig.order("echo before; while :; do :; done");
    order.limits = limits(&rig, |l| l.time_ms = 300);
    let exit = rig.run(order);
    assert_eq!(
        (exit.class, exit.detail.as_str()),
        (ExitClass::Resource, "it ran longer than its limit of 300 ms")
    );
    assert_eq!(rig.stdout(&exit), "before\n", "what it has said is kept");
    assert!(exit.usage.wall_ms >= 300, "{:?}", exit.usage);
    // Who is killed before its end is counted only by who counts all the time.
    if rig.walls().contains("control group: one processor") {
        assert!(exit.usage.cpu_ns > 0, "{:?}", exit.usage);
    }
}

#[test]
fn each_output_is_limited_and_what_fits_is_kept() {
    let Some(rig) = Rig::new() else { return };
    let at = |script: &str, bytes| {
        let mut order = rig.order(script);
        order.limits = limits(&rig, |l| l.output_bytes = bytes);
        rig.run(order)
    };
    let exit = at("printf 12345678", 8);
    assert_eq!(
        (exit.class, rig.stdout(&exit).as_str()),
        (ExitClass::Success, "12345678"),
        "exactly the limit"
    );
    for script in ["printf 123456789", "yes", "yes >&2", "trap '' XFSZ PIPE; while :; do yes; done"] {
        let exit = at(script, 8);
        assert_eq!(exit.class, ExitClass::Resource, "{script}: {exit:?}");
        assert!(exit.detail.contains("output passed its limit of 8 bytes"), "{}", exit.detail);
        let loud = exit.outputs.iter().find(|o| o.truncated).unwrap();
        assert_eq!(loud.len, 8);
    }
}

#[test]
fn output_directories_are_limited_in_bytes_and_in_files() {
    let Some(rig) = Rig::new() else { return };
    let scripts = [
        "head -c 3000000 /dev/zero > /result/out",
        "i=0; while :; do : > /result/$i; i=$((i+1)); done",
        "trap '' XFSZ; i=0; while :; do head -c 1000000 /dev/zero > /result/$i; i=$((i+1)); done",
    ];
    for script in scripts {
        let mut order = rig.order(script);
        order.outputs.push(Port::Mount("result".into()));
        let exit = rig.run(order);
        // A shell turns the death of its child by SIGXFSZ into an exit code.
        let by_signal = exit.class == ExitClass::User && exit.code == 128 + 25;
        assert!(by_signal || exit.class == ExitClass::Resource, "{script}: {exit:?}");
    }
    assert_eq!(rig.left(), 0);
}

#[test]
fn memory_is_limited_together_where_that_can_be_and_else_by_process() {
    let Some(rig) = Rig::new() else { return };
    let exit = rig.run(rig.order("dd if=/dev/zero of=/dev/null bs=200M count=1 && echo had it"));
    if rig.walls().contains("control group: memory") {
        assert_eq!(exit.class, ExitClass::Resource, "{exit:?}");
        assert!(exit.detail.contains("limit of 67108864 bytes of memory"), "{}", exit.detail);
        let many = "for i in 1 2 3 4 5 6; do dd if=/dev/zero of=/dev/null bs=30M count=1000 & done; wait; echo had it";
        let exit = rig.run(rig.order(&format!("{many}; exit 1")));
        assert_eq!(exit.class, ExitClass::Resource, "many small ones are one large one: {exit:?}");
    } else {
        assert_eq!(exit.class, ExitClass::User, "{exit:?}");
    }
    assert_eq!(rig.stdout(&exit), "");
    let mut order = rig.order("head -c 100000000 /dev/zero > /tmp/large");
    order.limits = limits(&rig, |l| l.output_bytes = 1 << 30);
    let exit = rig.run(order);
    assert_ne!(exit.class, ExitClass::Success, "`/tmp` is memory: {exit:?}");
}

#[test]
fn processes_are_limited() {
    let Some(rig) = Rig::new() else { return };
    let script = "i=0; while [ $i -lt 600 ]; do sleep 60 & i=$((i+1)); done; echo all of them";
    let exit = rig.run(rig.order(script));
    assert_eq!(exit.class, ExitClass::User, "{exit:?}");
    assert_eq!(rig.stdout(&exit), "");
    assert!(rig.stderr(&exit).to_lowercase().contains("fork"), "{}", rig.stderr(&exit));
}

#[test]
fn open_files_and_core_dumps_are_limited() {
    let Some(rig) = Rig::new() else { return };
    let exit = rig.run(rig.order("ulimit -n; ulimit -c; ulimit -n 100000 || echo no more"));
    assert_eq!(rig.stdout(&exit), "1024\n0\nno more\n", "{exit:?}");
    let exit = rig.run(rig.order("ulimit -Hn"));
    assert_eq!(rig.stdout(&exit), "1024\n");
}
