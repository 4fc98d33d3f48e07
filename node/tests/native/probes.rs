//! The attempts to get out, of `../probes/native.c`: all of them in the sandbox, and most of them succeed without it.

use super::rig::{Rig, compile};
use remote_network_core::port::EngineJob;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

/// As many as must be tried, and as many as must succeed where nothing holds them: a list of which most are refused anyway proves nothing.
const PROBES_MIN: usize = 45;
const OPEN_MIN: usize = 20;

/// Lines of `name contained|OPEN detail`.
fn read(said: &str) -> BTreeMap<String, (bool, String)> {
    let line = |l: &str| {
        let mut words = l.splitn(3, ' ');
        let (name, verdict, detail) = (words.next()?, words.next()?, words.next().unwrap_or_default());
        assert!(["OPEN", "contained"].contains(&verdict), "{l}");
        Some((name.to_owned(), (verdict == "OPEN", detail.to_owned())))
    };
    said.lines().filter_map(line).collect()
}

#[test]
fn every_attempt_to_get_out_is_contained_and_most_succeed_without_the_sandbox() {
    let Some(rig) = Rig::new() else { return };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probes/native.c");
    let Some(program) = compile(&source, true) else { return };
    // What a job must not see or reach, and everybody else on this machine can.
    let secret = rig.dir.path().join("secret");
    std::fs::write(&secret, b"secret").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let name = rustix::net::SocketAddrUnix::new_abstract_name(b"remote-network-probe").unwrap();
    let local =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    // Another run of this test on this machine may have the name: then it is there all the same.
    let _ = rustix::net::bind(local.as_fd(), &name).and_then(|()| rustix::net::listen(local.as_fd(), 8));
    let args = vec![secret.to_str().unwrap().to_owned(), port];

    let mut order = EngineJob { program: rig.program(&program), args: args.clone(), ..rig.order("") };
    order.env = Vec::new();
    // Thousands of processes, on a machine that others use too.
    order.limits.time_ms = 280_000;
    let exit = rig.run(order);
    let inside = read(&rig.stdout(&exit));
    println!("inside:\n{}", rig.stdout(&exit));
    assert!(inside.len() >= PROBES_MIN, "{} of {PROBES_MIN}: {exit:?}", inside.len());
    let open: Vec<_> = inside.iter().filter(|(_, (open, _))| *open).collect();
    assert!(open.is_empty(), "not contained: {open:#?}");

    let path = rig.dir.path().join("probes");
    std::fs::write(&path, &program).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let outside = Command::new(&path).args(&args).output().unwrap();
    let outside = read(&String::from_utf8_lossy(&outside.stdout));
    assert_eq!(outside.keys().collect::<Vec<_>>(), inside.keys().collect::<Vec<_>>(), "the same list");
    let open = outside.values().filter(|(open, _)| *open).count();
    println!("without the sandbox {open} of {} are open", outside.len());
    assert!(open >= OPEN_MIN, "only {open} succeed without the sandbox: {outside:#?}");
}
