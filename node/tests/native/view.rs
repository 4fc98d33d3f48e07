//! What a program gets, what it leaves, and what it sees.

use super::rig::{Rig, compile, until};
use remote_network_core::port::{
    EngineEvent, EngineJob, EngineRequest, Executable, ExitClass, Port, Program, Target,
};
use std::time::Duration;

#[test]
fn input_arguments_and_environment_go_in_and_both_streams_come_out() {
    let Some(rig) = Rig::new() else { return };
    let mut order = rig.order(
        "cat; echo \"$0 $1 $A $(tr '\\0' '\\n' < /proc/$$/environ | grep -c .)\" >&2; printf '\\377\\0'",
    );
    order.args.extend(["zero".into(), "one two".into()]);
    order.env.push(("A".into(), "b=c".into()));
    order.inputs = vec![rig.input(Port::Stdin, b"first "), rig.input(Port::Stdin, b"\xfesecond")];
    let exit = rig.run(order);
    assert_eq!((exit.class, exit.code, exit.detail.as_str()), (ExitClass::Success, 0, ""), "{exit:?}");
    assert_eq!(rig.output(&exit, &Port::Stdout), b"first \xfesecond\xff\0", "byte for byte");
    assert_eq!(rig.stderr(&exit), "zero one two b=c 2\n");
    assert!(exit.usage.cpu_ns > 0 && exit.usage.memory_bytes > 0, "{:?}", exit.usage);
    assert_eq!(rig.left(), 0, "nothing is left");
}

#[test]
fn output_and_input_can_be_opened_again_by_their_usual_names() {
    let Some(rig) = Rig::new() else { return };
    let mut order =
        rig.order("cat /dev/stdin > /dev/stdout; echo e > /dev/stderr; echo x > /dev/null; echo end");
    order.inputs = vec![rig.input(Port::Stdin, b"in ")];
    let exit = rig.run(order);
    assert_eq!((rig.stdout(&exit).as_str(), rig.stderr(&exit).as_str()), ("in end\n", "e\n"), "{exit:?}");
}

#[test]
fn a_program_that_is_linked_statically_runs_as_one_that_is_not() {
    let Some(rig) = Rig::new() else { return };
    let source = rig.dir.path().join("hello.c");
    std::fs::write(
        &source,
        "#include <stdio.h>\nint main(int n, char **a) { printf(\"%s %d\\n\", a[0], n); return 7; }\n",
    )
    .unwrap();
    for is_static in [true, false] {
        let Some(program) = compile(&source, is_static) else { return };
        let order = rig.order("");
        let program = rig.program(&program);
        let exit = rig.run(EngineJob { program, args: vec!["a".into()], ..order });
        assert_eq!((exit.class, exit.code), (ExitClass::User, 7), "{exit:?}");
        assert_eq!(rig.stdout(&exit), "service 2\n");
    }
}

#[test]
fn mounts_lie_at_their_names_and_their_output_is_taken() {
    let Some(rig) = Rig::new() else { return };
    let mut order =
        rig.order("cat /in/0000 /in/0001 > /result/out; echo x > /in/0000; echo x > /in/more; true");
    order.inputs = vec![rig.input(Port::Mount("in".into()), b"a"), rig.input(Port::Mount("in".into()), b"b")];
    order.outputs.push(Port::Mount("result".into()));
    let exit = rig.run(order.clone());
    assert_eq!(exit.class, ExitClass::Success, "{exit:?}");
    assert_eq!(rig.output(&exit, &Port::Mount("result".into())), b"ab");
    assert_eq!(rig.stderr(&exit).lines().count(), 2, "what is read cannot be written: {}", rig.stderr(&exit));
    for hostile in ["ln -s /etc/passwd /result/out", "mkfifo /result/out", "mkdir -m 0 /result/out"] {
        order.args = vec!["-c".into(), hostile.into()];
        let exit = rig.run(order.clone());
        assert_eq!(exit.class, ExitClass::User, "{hostile}: {exit:?}");
        assert!(exit.detail.contains("no regular file"), "{hostile}: {}", exit.detail);
    }
    let mut taken = rig.order("true");
    taken.outputs.push(Port::Mount("usr".into()));
    let exit = rig.run(taken);
    assert_eq!((exit.class, exit.detail.as_str()), (ExitClass::Permanent, "`/usr` is there already"));
    assert_eq!(rig.left(), 0);
}

#[test]
fn it_is_nobody_sees_itself_only_and_can_write_to_its_own_places() {
    let Some(rig) = Rig::new() else { return };
    let script = "id -u; ls / | tr '\\n' ' '; echo; ls /dev | tr '\\n' ' '; echo; ls /proc | tr '\\n' ' '; echo; \
        touch /x 2>/dev/null || echo ro; touch /tmp/x && echo tmp; pwd; \
        grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; ls -A /etc | tr '\\n' ' '; echo; \
        readlink /proc/self/exe; ls /sys /home /root /var 2>&1 | grep -c 'No such file'";
    let said = rig.stdout(&rig.run(rig.order(script)));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "65534", "{said}");
    let root: Vec<&str> = lines[1].split(' ').filter(|n| !n.is_empty()).collect();
    let known = ["bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr"];
    assert!(root.iter().all(|n| known.contains(n)), "{said}");
    assert_eq!(lines[2].trim(), "fd full null random shm stderr stdin stdout urandom zero", "{said}");
    let seen: Vec<&str> = lines[3].split(' ').filter(|n| n.parse::<u32>().is_ok()).collect();
    assert!(seen.len() <= 4, "process 1, the shell, `ls` and `tr` at most: {said}");
    assert_eq!(&lines[4..7], ["ro", "tmp", "/tmp"], "{said}");
    let wanted = ["CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"];
    for word in wanted {
        assert!(lines.contains(&word), "{word} in {said}");
    }
    assert!(!lines[11].contains("shadow") && lines[11].contains("passwd"), "{said}");
    assert_eq!(lines.last(), Some(&"4"), "{said}");
}

#[test]
fn the_machines_name_is_not_told_and_what_it_needs_can_be_read() {
    let Some(rig) = Rig::new() else { return };
    let exit = rig.run(rig.order("uname -n; umask; stat -c %a /etc /etc/passwd /dev /tmp | tr '\\n' ' '"));
    assert_eq!(rig.stdout(&exit), "service\n0022\n755 644 755 1777 ", "{exit:?}");
}

#[test]
fn two_jobs_at_once_share_nothing() {
    let Some(rig) = Rig::new() else { return };
    let script = "echo $$ > /tmp/mine; ls /proc | grep -c '^[0-9]' ; ls /tmp; head -c1 >/dev/null; sleep 1; \
        ls /proc | grep -c '^[0-9]'; kill -0 -- -1; echo end";
    let (a, b) = (rig.start(rig.order(script)), rig.start(rig.order(script)));
    let (mut ends, mut started) = (Vec::new(), 0);
    while ends.len() < 2 {
        match rig.next() {
            (job, EngineEvent::Exited(exit)) => ends.push((job, exit)),
            (_, EngineEvent::Started) => started += 1,
        }
    }
    assert!(started == 2 && ends.iter().any(|e| e.0 == a) && ends.iter().any(|e| e.0 == b));
    for (_, exit) in ends {
        let said = rig.stdout(&exit);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!((lines[1], lines.last()), ("mine", Some(&"end")), "{said}");
        // Process 1, the shell, `ls` and `grep`.
        assert!(lines[0].parse::<u32>().unwrap() <= 4 && lines[2].parse::<u32>().unwrap() <= 4, "{said}");
    }
}

#[test]
fn what_is_no_program_or_for_another_machine_never_starts() {
    let Some(rig) = Rig::new() else { return };
    let order = rig.order("echo hello");
    let refused = |program: Program| {
        let exit = rig.run(EngineJob { program, ..order.clone() });
        assert!(exit.outputs.is_empty(), "{exit:?}");
        (exit.class, exit.detail)
    };
    let (class, detail) = refused(rig.program(b"#!/bin/sh\necho hello\n"));
    assert!(class == ExitClass::Permanent && detail.contains("script"), "{detail}");
    let (class, detail) = refused(rig.program(b"hello"));
    assert!(class == ExitClass::Permanent && detail.contains("ELF"), "{detail}");
    let Program::Native(shell) = order.program.clone() else { unreachable!() };
    let elsewhere = Target { arch: "mips".into(), os: "linux".into() };
    let (class, detail) =
        refused(Program::Native(Box::new(Executable { target: elsewhere, ..*shell.clone() })));
    assert!(class == ExitClass::Permanent && detail.contains("linux on mips"), "{detail}");
    let (class, detail) = refused(Program::Wasm(shell.object));
    assert!(class == ExitClass::Permanent && detail.contains("no native program"), "{detail}");
    // Its loader is not here: the kernel finds no such file.
    let mut strange = std::fs::read("/bin/sh").unwrap();
    let at = strange.windows(7).position(|w| w == b"/ld-lin").unwrap();
    strange[at + 1..at + 3].copy_from_slice(b"no");
    let (class, detail) = refused(rig.program(&strange));
    assert!(class == ExitClass::Permanent && detail.contains("cannot be started"), "{detail}");
    let path = rig.dir.path().join("objects").join(shell.object.to_string());
    std::fs::write(path, b"\x7fELF damaged").unwrap();
    let (class, detail) = refused(Program::Native(shell));
    assert!(class == ExitClass::Infra && detail.contains("damaged"), "{detail}");
    assert_eq!(rig.left(), 0);
}

#[test]
fn those_beyond_the_limit_wait_their_turn_and_can_be_stopped_before_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("objects")).unwrap();
    let Some(rig) = Rig::at(dir, 1) else { return };
    let first = rig.start(rig.order("sleep 600"));
    rig.started(first);
    let (second, third) = (rig.start(rig.order("echo 2")), rig.start(rig.order("echo 3")));
    rig.submit(second, EngineRequest::Stop { grace: Duration::ZERO });
    let exit = rig.exit(second);
    assert_eq!((exit.class, exit.detail.as_str()), (ExitClass::Cancelled, "stopped before it started"));
    rig.submit(first, EngineRequest::Start(rig.order("echo a start of one that runs is ignored")));
    rig.submit(first, EngineRequest::Stop { grace: Duration::ZERO });
    assert_eq!(rig.exit(first).class, ExitClass::Cancelled);
    assert_eq!(rig.stdout(&rig.exit(third)), "3\n");
    until("nothing is left", || rig.left() == 0);
}
