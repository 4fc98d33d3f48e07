//! Containers of a real Docker engine, made of this machine's static busybox. Skipped, with the reason, where there is no
//! engine; with `REQUIRE_DOCKER` set that is a failure.

#![allow(clippy::unwrap_used)]

mod busybox;
mod hostile;
#[path = "../probes/mod.rs"]
mod probes;
mod pull;
mod registry;
mod rig;

use remote_network_core::manifest::{Entry, Manifest};
use remote_network_core::port::{
    EngineInput, EngineLimits, EngineRequest, ExitClass, Image, Layout, MountPath, Port, Program,
};
use rig::{Rig, docker};
use std::time::Duration;

#[test]
fn input_arguments_and_environment_go_in_and_both_streams_come_out() {
    let Some(rig) = Rig::new() else { return };
    let mut order = rig.order("cat; echo \"$1 $A\" >&2; printf '\\377\\0'");
    order.args.extend(["sh".into(), "one two".into()]);
    order.env = vec![("A".into(), "b=c".into())];
    order.inputs = vec![rig.input(Port::Stdin, b"first "), rig.input(Port::Stdin, b"\xfesecond")];
    let exit = rig.run(order);
    assert_eq!((exit.class, exit.code, exit.detail.as_str()), (ExitClass::Success, 0, ""), "{exit:?}");
    assert_eq!(rig.output(&exit, &Port::Stdout), b"first \xfesecond\xff\0", "byte for byte");
    assert_eq!(rig.output(&exit, &Port::Stderr), b"one two b=c\n");
    assert!(rig.containers().is_empty(), "nothing is left");
    assert_eq!(std::fs::read_dir(rig.dir.path().join("scratch")).unwrap().count(), 0);
}

#[test]
fn exit_codes_are_told_as_they_are() {
    let Some(rig) = Rig::new() else { return };
    for code in [1, 3, 125, 137, 255] {
        let exit = rig.run(rig.order(&format!("exit {code}")));
        assert_eq!((exit.class, exit.code), (ExitClass::User, code), "{exit:?}");
    }
    let mut order = rig.order("");
    order.program =
        Program::Image(Box::new(Image { entrypoint: vec!["/no/such".into()], ..rig.image.clone() }));
    let exit = rig.run(order.clone());
    assert_eq!((exit.class, exit.code), (ExitClass::User, 127), "as a shell says it: {exit:?}");
    assert!(String::from_utf8_lossy(&rig.output(&exit, &Port::Stderr)).contains("/no/such"));
    order.program = Program::Image(Box::new(Image { id: [9; 32], ..rig.image.clone() }));
    let exit = rig.run(order);
    assert_eq!(exit.class, ExitClass::Permanent);
    assert!(exit.detail.contains("not here any more"), "{}", exit.detail);
    assert!(rig.containers().is_empty());
}

#[test]
fn mounts_lie_where_the_order_says_and_their_output_is_taken() {
    let Some(rig) = Rig::new() else { return };
    let mut order =
        rig.order("cat /data/in/0000 /data/in/0001 > /result/out && echo x > /data/in/more; true");
    order.paths = vec![rig.at("in", "/data/in")];
    order.inputs = vec![rig.input(Port::Mount("in".into()), b"a"), rig.input(Port::Mount("in".into()), b"b")];
    order.outputs.push(Port::Mount("result".into()));
    let exit = rig.run(order);
    assert_eq!(exit.class, ExitClass::Success, "{exit:?}");
    assert_eq!(rig.output(&exit, &Port::Mount("result".into())), b"ab");
    assert!(!rig.output(&exit, &Port::Stderr).is_empty(), "what is read cannot be written");
    let mut order =
        rig.order("busybox ln -s /etc/passwd /result/out || /bin/busybox ln -s /etc/passwd /result/out");
    order.outputs.push(Port::Mount("result".into()));
    let exit = rig.run(order);
    assert_eq!(exit.class, ExitClass::User);
    assert!(exit.detail.contains("no regular file"), "{}", exit.detail);
}

#[test]
fn a_directory_is_read_and_another_is_left_with_what_can_be_executed() {
    let Some(rig) = Rig::new() else { return };
    let entry = |path: &str, bytes: &str, executable| {
        let EngineInput { digest, len, .. } = rig.input(Port::Stdin, bytes.as_bytes());
        Entry { path: path.into(), digest, len, executable }
    };
    let hello = "#!/bin/busybox sh\necho \"$1 from below\"\n";
    let files = vec![entry("deep/er/hello", hello, true), entry("ä b", "", false)];
    let given = Manifest::new(files).unwrap();
    let script = "B=/bin/busybox; $B find /data/in -type f | $B sort; /data/in/deep/er/hello here; \
        $B cp -r /data/in/deep /data/in/ä* /result/ && echo new > /result/deep/new && $B mkdir /result/nothing; \
        echo x > /data/in/deep/x 2>/dev/null || echo only to be read";
    let mut order = rig.order(script);
    let at = |name, path| MountPath { layout: Layout::Tree, ..rig.at(name, path) };
    order.paths = vec![at("in", "/data/in"), at("result", "/result")];
    order.inputs = vec![rig.input(Port::Mount("in".into()), &given.encode())];
    order.outputs.push(Port::Mount("result".into()));
    let exit = rig.run(order);
    assert_eq!((exit.class, exit.detail.as_str()), (ExitClass::Success, ""), "{exit:?}");
    let said = rig.stdout(&exit);
    assert_eq!(said, "/data/in/deep/er/hello\n/data/in/ä b\nhere from below\nonly to be read\n");
    let left = Manifest::decode(&rig.output(&exit, &Port::Mount("result".into()))).unwrap();
    let mut expected = given.entries().to_vec();
    expected.push(entry("deep/new", "new\n", false));
    assert_eq!(left, Manifest::new(expected).unwrap());

    let mut order = rig.order("/bin/busybox ln -s /etc/passwd /result/inside");
    order.paths = vec![at("result", "/result")];
    order.outputs.push(Port::Mount("result".into()));
    let exit = rig.run(order);
    assert_eq!(exit.class, ExitClass::User, "{exit:?}");
    assert!(exit.detail.contains("/result/inside"), "{}", exit.detail);
}

#[test]
fn a_guest_is_nobody_has_no_network_and_cannot_write_elsewhere() {
    let Some(rig) = Rig::new() else { return };
    let script = "B=/bin/busybox; $B id -u; $B ls /sys/class/net | $B tr '\\n' ' '; $B grep -c . /proc/net/route; \
        $B touch /x 2>/dev/null || echo ro; $B touch /tmp/x && echo tmp; \
        $B grep CapEff /proc/self/status; $B grep NoNewPrivs /proc/self/status; $B grep Seccomp: /proc/self/status; \
        $B mount -t tmpfs t /mnt 2>/dev/null || echo nomount; $B mknod /tmp/d b 8 0 2>/dev/null || echo nodev";
    let exit = rig.run(rig.order(script));
    let said = rig.stdout(&exit);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "65534", "{said}");
    assert!(lines[1].starts_with("lo "), "{said}");
    for word in
        ["ro", "tmp", "nomount", "nodev", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(lines.contains(&word), "{word} in {said}");
    }
}

#[test]
fn time_output_memory_and_processes_are_limited() {
    let Some(rig) = Rig::new() else { return };
    let limits = |f: fn(&mut EngineLimits)| {
        let mut limits = rig.order("").limits;
        f(&mut limits);
        limits
    };
    let mut order = rig.order("echo begun; sleep 600");
    order.limits = limits(|l| l.time_ms = 700);
    let exit = rig.run(order);
    assert_eq!(exit.class, ExitClass::Resource, "{exit:?}");
    assert!(exit.detail.contains("700 ms") && exit.usage.wall_ms >= 700, "{exit:?}");
    assert_eq!(rig.stdout(&exit), "begun\n", "what it said before is kept");
    let mut order = rig.order("yes");
    order.limits = limits(|l| l.output_bytes = 100_000);
    let exit = rig.run(order);
    assert_eq!(exit.class, ExitClass::Resource, "{exit:?}");
    assert_eq!((exit.outputs[0].len, exit.outputs[0].truncated), (100_000, true));
    let mut order = rig.order(
        "dd if=/dev/zero of=/tmp/x bs=1M count=60; head -c 60000000 /dev/zero | tail -c 59999999 | wc -c",
    );
    order.limits = limits(|l| l.memory_bytes = 16 << 20);
    let exit = rig.run(order);
    assert_ne!(exit.class, ExitClass::Success, "{exit:?}");
    let mut order = rig.order("while true; do head -c 1000000 /dev/zero > /result/$((n=n+1)); done");
    order.outputs.push(Port::Mount("result".into()));
    let exit = rig.run(order);
    assert_eq!(exit.class, ExitClass::Resource, "{exit:?}");
    assert!(exit.detail.contains("output directory"), "{}", exit.detail);
    let exit = rig.run(rig.order("i=0; while [ $i -lt 400 ]; do sleep 30 & i=$((i+1)); done"));
    assert_ne!((exit.class, exit.code), (ExitClass::Success, 0), "a fork bomb ends at its limit");
    assert!(rig.containers().is_empty());
}

#[test]
fn what_a_job_used_is_told_as_it_was_last_seen() {
    let Some(rig) = Rig::new() else { return };
    let fill = "x=$(/bin/busybox head -c 20000000 /dev/zero | /bin/busybox tr '\\0' x)";
    let exit =
        rig.run(rig.order(&format!(
            "{fill}; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; /bin/busybox sleep 1"
        )));
    assert_eq!(exit.class, ExitClass::Success, "{exit:?}");
    assert!(exit.usage.memory_bytes > 20_000_000 && exit.usage.memory_bytes <= 64 << 20, "{exit:?}");
    assert!(exit.usage.cpu_ns > 10_000_000 && exit.usage.wall_ms >= 1_000, "{exit:?}");
}

#[test]
fn a_stop_ends_a_running_guest_and_nothing_is_left() {
    let Some(rig) = Rig::new() else { return };
    // One that ends when it is asked to, and one that does not.
    for (script, grace) in [
        ("trap 'exit 0' TERM; echo up; while :; do sleep 1; done", 60),
        ("trap '' TERM; while :; do sleep 1; done", 0),
    ] {
        let job = rig.start(rig.order(script));
        rig.started(job);
        rig.submit(job, EngineRequest::Stop { grace: Duration::from_secs(grace) });
        let exit = rig.exit(job);
        assert_eq!(exit.class, ExitClass::Cancelled, "{exit:?}");
        assert!(rig.containers().is_empty());
    }
    // Stops of jobs that are not there, and a second start, are nothing.
    let job = rig.id();
    rig.submit(job, EngineRequest::Stop { grace: Duration::ZERO });
    rig.submit(job, EngineRequest::Start(rig.order("sleep 1; echo once")));
    rig.submit(job, EngineRequest::Start(rig.order("echo twice")));
    assert_eq!(rig.stdout(&rig.exit(job)), "once\n");
}

#[test]
fn a_container_is_found_again_and_its_output_is_whole() {
    let Some(mut rig) = Rig::new() else { return };
    let mut order = rig.order("cat; for i in 1 2 3 4 5 6; do sleep 0.5; echo line $i; done; printf end");
    order.inputs = vec![rig.input(Port::Stdin, b"input\n")];
    let job = rig.start(order.clone());
    rig.started(job);
    let dir = rig.dir.path().join(format!("scratch/job-{job}"));
    rig.until("the input to be written", |_| dir.join("stdin.written").exists());
    let before = rig.containers();
    rig.restart();
    rig.submit(job, EngineRequest::Start(order.clone()));
    rig.started(job);
    assert_eq!(rig.containers(), before, "no second container");
    let whole = "input\nline 1\nline 2\nline 3\nline 4\nline 5\nline 6\nend";
    let exit = rig.exit(job);
    assert_eq!((exit.class, rig.stdout(&exit).as_str()), (ExitClass::Success, whole));
    // One that ends while nobody is there.
    let job = rig.start(order.clone());
    rig.started(job);
    let dir = rig.dir.path().join(format!("scratch/job-{job}"));
    rig.until("the input to be written", |_| dir.join("stdin.written").exists());
    let id = rig.containers().remove(0);
    rig.port = None;
    docker(&["wait", &id]);
    rig.restart();
    rig.submit(job, EngineRequest::Start(order));
    let exit = rig.exit(job);
    assert_eq!((exit.class, rig.stdout(&exit).as_str()), (ExitClass::Success, whole));
    assert!(rig.containers().is_empty());
}

#[test]
fn a_container_whose_input_was_cut_short_is_made_anew() {
    let Some(mut rig) = Rig::new() else { return };
    // It reads nothing for a while, so that a megabyte cannot be written before the node is gone.
    let mut order = rig.order("sleep 2; wc -c");
    order.inputs = vec![rig.input(Port::Stdin, &vec![7; 4 << 20])];
    let job = rig.start(order.clone());
    rig.started(job);
    let before = rig.containers();
    rig.restart();
    rig.submit(job, EngineRequest::Start(order));
    let exit = rig.exit(job);
    assert_eq!((exit.class, rig.stdout(&exit).trim()), (ExitClass::Success, "4194304"), "{exit:?}");
    assert!(rig.containers().iter().all(|id| !before.contains(id)));
}

#[test]
fn what_goes_on_is_kept_and_everything_else_of_this_node_is_swept_away() {
    let Some(mut rig) = Rig::new() else { return };
    let order = rig.order("sleep 5; echo kept");
    let [kept, gone] = [rig.start(order.clone()), rig.start(rig.order("sleep 600"))];
    rig.next();
    rig.next();
    assert_eq!(rig.containers().len(), 2);
    rig.restart();
    rig.submit(kept, EngineRequest::Start(order));
    rig.port.as_ref().unwrap().sweep(vec![kept]);
    rig.until("the other to be gone", |rig| rig.containers().len() == 1);
    let exit = rig.exit(kept);
    assert_eq!(rig.stdout(&exit), "kept\n");
    rig.until("its files to be gone", |rig| !rig.dir.path().join(format!("scratch/job-{gone}")).exists());
}

#[test]
fn an_engine_that_is_away_is_told_and_nothing_hangs() {
    use remote_network_core::event::Event;
    use remote_network_core::id::JobId;
    use remote_network_core::port::EngineEvent;
    use remote_network_node::ports::docker::{DockerConfig, DockerPort};
    let dir = tempfile::tempdir().unwrap();
    struct Nothing;
    impl remote_network_node::ports::engine::EngineBlobs for Nothing {
        fn open(&self, _: &remote_network_core::id::Digest) -> std::io::Result<std::fs::File> {
            Err(std::io::ErrorKind::NotFound.into())
        }
        fn import(
            &self,
            _: &mut dyn std::io::Read,
        ) -> std::io::Result<(remote_network_core::id::Digest, u64)> {
            Err(std::io::ErrorKind::Unsupported.into())
        }
    }
    let (to_core, events) = async_channel::bounded(4);
    let config = DockerConfig {
        node: "test-away".into(),
        host: format!("unix://{}/docker.sock", dir.path().display()),
        scratch_dir: dir.path().join("scratch"),
        running_max: 1,
    };
    let port = DockerPort::start(config, std::sync::Arc::new(Nothing), to_core).unwrap();
    port.sweep(Vec::new());
    let order = remote_network_core::port::EngineJob {
        tenant: remote_network_core::id::Keypair::from_seed(&[1; 32]).public(),
        program: Program::Image(Box::new(Image {
            name: "x".into(),
            id: [0; 32],
            entrypoint: vec![],
            workdir: None,
        })),
        paths: vec![],
        args: vec![],
        env: vec![],
        inputs: vec![],
        outputs: vec![],
        limits: EngineLimits { memory_bytes: 1, time_ms: 1, output_bytes: 1 },
        carried: None,
        seed: [0; 32],
    };
    port.submit(JobId([1; 16]), EngineRequest::Start(order));
    let Event::Engine(report) = events.recv_blocking().unwrap() else { panic!("another event") };
    let EngineEvent::Exited(exit) = report.event else { panic!("{report:?}") };
    assert_eq!(exit.class, ExitClass::Infra);
    assert!(exit.detail.contains("no Docker engine answers"), "{}", exit.detail);
}
