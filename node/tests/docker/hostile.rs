//! Guests that want out, and guests that want everything: the list of probes, hostile outputs, bombs and hogs.

use crate::probes;
use crate::rig::{self, Rig, docker};
use remote_network_core::port::{EngineJob, EngineLimits, EngineRequest, ExitClass, Image, Port, Program};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::OnceLock;
use std::time::Duration;

/// The list of probes names at least so many ways.
const PROBES_MIN: usize = 45;
/// So many of them must be found where nothing is held.
const FOUND_MIN: usize = 20;
const PROBES: &str = "rn-test-probes";

/// The image of the probes: the program, and again as a setuid program of root.
fn probes_image() -> Option<Image> {
    static ID: OnceLock<Option<[u8; 32]>> = OnceLock::new();
    rig::image()?;
    let id = ID.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("probes");
        if let Err(why) = probes::build(&program) {
            assert!(std::env::var_os("REQUIRE_DOCKER").is_none(), "{why}");
            println!("SKIPPED: {why}");
            return None;
        }
        std::fs::copy(&program, dir.path().join("probes-setuid")).unwrap();
        let setuid = std::fs::Permissions::from_mode(0o4755);
        std::fs::set_permissions(dir.path().join("probes-setuid"), setuid).unwrap();
        Some(rig::import(dir.path(), PROBES, &[]))
    });
    let entrypoint = vec!["/probes".to_owned()];
    id.map(|id| Image { name: PROBES.to_owned(), id, entrypoint, workdir: None })
}

fn probing(rig: &Rig, image: Image) -> EngineJob {
    let limits = EngineLimits { memory_bytes: 256 << 20, time_ms: 60_000, output_bytes: 1 << 20 };
    let mut order = EngineJob { program: Program::Image(Box::new(image)), limits, ..rig.order("") };
    order.args = vec!["/tmp".into(), "/result".into()];
    order
}

#[test]
fn every_probe_is_contained() {
    let (Some(rig), Some(image)) = (Rig::new(), probes_image()) else { return };
    let exit = rig.run(probing(&rig, image));
    assert_eq!(exit.class, ExitClass::Success, "{exit:?}");
    let found = probes::findings(&rig.stdout(&exit));
    assert!(found.len() >= PROBES_MIN, "{} probes", found.len());
    assert_eq!(probes::open(&found), Vec::<String>::new());
}

/// Capabilities that a container may be given to show what the probes see. Not all there are: a machine may itself lack some.
const RIGHTS: [&str; 11] = [
    "SYS_ADMIN",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_PTRACE",
    "SYS_BOOT",
    "SYS_TIME",
    "SYSLOG",
    "NET_ADMIN",
    "DAC_READ_SEARCH",
    "SYS_NICE",
    "SYS_PACCT",
];

#[test]
fn the_same_probes_find_their_way_where_nothing_is_held() {
    let Some(image) = probes_image() else { return };
    let mut args = vec!["run", "--rm", "--pid=host", "--ipc=host", "--uts=host", "--network=host"];
    for right in RIGHTS {
        args.extend(["--cap-add", right]);
    }
    args.extend(["--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"]);
    args.extend(["-v", "/etc:/etc", "-v", "/dev:/dev", "-v", "/sys:/sys", "-v", "/var/run:/var/run"]);
    let id = image.id_text();
    args.extend(["-e", "CANARY=1", &id, "/probes", "/tmp"]);
    let out = docker(&args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let found = probes::findings(&String::from_utf8(out.stdout).unwrap());
    let open = probes::open(&found);
    assert!(open.len() >= FOUND_MIN, "only {open:?}");
}

#[test]
fn a_working_directory_is_never_a_way_to_the_host() {
    let (Some(rig), Some(image)) = (Rig::new(), probes_image()) else { return };
    // The runtime's own descriptors (CVE-2024-21626), asked for by the order, and by the image itself.
    for fd in [7, 8, 9] {
        let path = format!("/proc/self/fd/{fd}");
        let exit = rig.run(probing(&rig, Image { workdir: Some(path), ..image.clone() }));
        assert_eq!(exit.class, ExitClass::Permanent, "{exit:?}");
        assert!(exit.detail.contains("no place to work in"), "{}", exit.detail);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let id = rig::import(dir.path(), "rn-test-workdir", &["WORKDIR /proc/self/fd/8"]);
    let exit = rig.run(probing(&rig, Image { id, ..image }));
    assert_eq!(exit.class, ExitClass::Permanent, "{exit:?}");
}

/// What a guest may leave where an output is looked for, as a shell makes it below `/result`.
const LEFT_BEHIND: [(&str, &str); 12] = [
    ("a link to a file of the host", "ln -s CANARY /result/out"),
    ("a link that climbs", "ln -s ../../../../../../../../CANARY /result/out"),
    ("a link to whoever reads", "ln -s /proc/self/environ /result/out"),
    ("a link to itself", "ln -s out /result/out"),
    ("a directory", "mkdir -p /result/out/out"),
    ("a pipe", "mkfifo /result/out"),
    ("a directory that nobody may enter", "mkdir /result/out && chmod 0 /result/out"),
    ("a device", "mknod /result/out c 1 5"),
    ("a link to a device that never ends", "ln -s /dev/zero /result/out"),
    (
        "a deep tree",
        "cd /result; i=0; while [ $i -lt 500 ]; do mkdir d; cd d; i=$((i+1)); done; ln -s CANARY out",
    ),
    (
        "names that are not names",
        "echo > \"/result/$(printf 'a\\nb\\033[31m')\"; ln -s CANARY \"/result/out \"",
    ),
    ("nothing", "true"),
];

#[test]
fn what_a_guest_leaves_behind_is_never_followed_and_never_stays() {
    let Some(rig) = Rig::new() else { return };
    let canary = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(canary.path(), "canary 8c1f").unwrap();
    let at = canary.path().display().to_string();
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let _one_before = rig.run(rig.order("true"));
    let before = files();
    for (what, how) in LEFT_BEHIND {
        let how = how.replace("CANARY", &at);
        let script = format!(
            "for p in ln mkdir mkfifo chmod mknod dd; do alias $p=\"/bin/busybox $p\"; done; eval '{how}'; true"
        );
        let mut order = rig.order(&script);
        order.outputs.push(Port::Mount("result".into()));
        let exit = rig.run(order);
        assert_ne!(exit.class, ExitClass::Success, "{what}: {exit:?}");
        assert!(matches!(exit.class, ExitClass::User | ExitClass::Resource), "{what}: {exit:?}");
        assert!(exit.outputs.iter().all(|o| !matches!(o.port, Port::Mount(_))), "{what}: {exit:?}");
        let scratch = rig.dir.path().join("scratch");
        assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "{what} stays behind");
    }
    // A hole of a terabyte is refused by the kernel: what was made of the file stays within its limit.
    let mut order =
        rig.order("/bin/busybox dd if=/dev/zero of=/result/out bs=1 count=1 seek=1000000000000; true");
    order.outputs.push(Port::Mount("result".into()));
    let exit = rig.run(order);
    assert!(rig.output(&exit, &Port::Mount("result".into())).is_empty(), "{exit:?}");
    // A file that is one, but has no rights for anybody and a foreign look, is an output like any other.
    let mut order = rig.order("echo whole > /result/out; /bin/busybox chmod 4000 /result/out");
    order.outputs.push(Port::Mount("result".into()));
    let exit = rig.run(order);
    assert_eq!(rig.output(&exit, &Port::Mount("result".into())), b"whole\n", "{exit:?}");
    for object in std::fs::read_dir(rig.dir.path().join("objects")).unwrap() {
        let bytes = std::fs::read(object.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"canary"), "the host's file was published");
    }
    // The connection to the engine may come and go, nothing else.
    assert!(files() <= before + 2, "{before} descriptors have become {}", files());
}

#[test]
fn a_mount_never_lies_on_what_an_image_has_made_a_link_of() {
    let Some(rig) = Rig::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    std::fs::copy("/bin/busybox", dir.path().join("bin/busybox")).unwrap();
    let outside = tempfile::tempdir().unwrap();
    for (name, to) in
        [("up", "../../../../../../.."), ("host", outside.path().to_str().unwrap()), ("sys", "/proc/sys")]
    {
        std::os::unix::fs::symlink(to, dir.path().join(name)).unwrap();
    }
    let id = rig::import(dir.path(), "rn-test-links", &[]);
    for path in ["/up/tmp/x", "/host/x", "/sys/kernel"] {
        let mut order = rig.order("echo here; echo kept > /sys/kernel/core_pattern; true");
        order.program = Program::Image(Box::new(Image { id, ..rig.image.clone() }));
        order.paths = vec![rig.at("result", path)];
        order.outputs.push(Port::Mount("result".into()));
        let exit = rig.run(order);
        assert_ne!(exit.class, ExitClass::Success, "{path}: {exit:?}");
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "nothing of the host was touched");
}

#[test]
fn bombs_end_at_their_limits() {
    let Some(rig) = Rig::new() else { return };
    let bombs = [
        ("many files", "i=0; while :; do echo > /result/$((i=i+1)); done"),
        ("many directories", "i=0; while :; do /bin/busybox mkdir /result/$((i=i+1)); done"),
        ("a flood of words", "while :; do echo 0123456789012345678901234567890123456789; done"),
        ("a flood on both", "/bin/busybox yes & while :; do /bin/busybox yes >&2; done"),
        (
            "one large file",
            "/bin/busybox dd if=/dev/zero of=/result/out bs=1M count=100000; /bin/busybox sleep 1; kill -9 $$",
        ),
        (
            "many large files",
            "i=0; while :; do /bin/busybox dd if=/dev/zero of=/result/$((i=i+1)) bs=512k count=1; done",
        ),
    ];
    for (what, script) in bombs {
        let mut order = rig.order(script);
        order.outputs.push(Port::Mount("result".into()));
        let limit = order.limits.output_bytes;
        let exit = rig.run(order);
        assert!(matches!(exit.class, ExitClass::Resource | ExitClass::User), "{what}: {exit:?}");
        assert!(exit.outputs.iter().all(|o| o.len <= limit), "{what}: {exit:?}");
    }
    assert!(rig.containers().is_empty());
    assert_eq!(std::fs::read_dir(rig.dir.path().join("scratch")).unwrap().count(), 0);
}

#[test]
fn hogs_hurt_nobody_else() {
    let Some(rig) = Rig::new() else { return };
    let hogs = [
        "while :; do :; done & while :; do :; done & while :; do :; done & wait",
        "/bin/busybox tail /dev/zero",
        "f() { f | f & }; f; /bin/busybox sleep 600",
        "i=3; while [ $i -lt 100000 ]; do eval \"exec $i</\" || break; i=$((i+1)); done; /bin/busybox sleep 600",
        "/bin/busybox dd if=/dev/zero of=/tmp/x bs=1M; /bin/busybox sleep 600",
        "while :; do /bin/busybox dd if=/dev/zero of=/result/x bs=64k count=16 2>/dev/null; done",
        "/bin/busybox yes 2>&1",
        "trap '' TERM INT HUP; while :; do /bin/busybox sleep 1; done",
    ];
    // Two at a time, beside a neighbour who must not notice.
    for pair in hogs.chunks(2) {
        let started: Vec<_> = pair
            .iter()
            .map(|script| {
                let mut order = rig.order(script);
                order.limits.time_ms = 20_000;
                order.outputs.push(Port::Mount("result".into()));
                rig.start(order)
            })
            .collect();
        let mut neighbour =
            rig.order("/bin/busybox cat; i=0; while [ $i -lt 5 ]; do i=$((i+1)); echo $i; done");
        neighbour.inputs = vec![rig.input(Port::Stdin, b"in\n")];
        let neighbour = rig.start(neighbour);
        let handle = rig.port.as_ref().unwrap().handle();
        let mut ended = std::collections::BTreeMap::new();
        while ended.len() < started.len() + 1 {
            let (job, event) = rig.next();
            if let remote_network_core::port::EngineEvent::Exited(exit) = event {
                ended.insert(job, exit);
                // The port answers while the others go on, and so does the engine.
                assert!(smol::block_on(handle.about()).is_ok());
                for job in &started {
                    rig.submit(*job, EngineRequest::Stop { grace: Duration::ZERO });
                }
            }
        }
        let exit = &ended[&neighbour];
        assert_eq!((exit.class, rig.stdout(exit).as_str()), (ExitClass::Success, "in\n1\n2\n3\n4\n5\n"));
        for job in started {
            assert_ne!(ended[&job].class, ExitClass::Success, "{:?}", ended[&job]);
        }
    }
    assert!(rig.containers().is_empty());
}
