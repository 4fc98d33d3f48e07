//! Images that come from a registry.

use crate::registry::{Fault, Registry};
use crate::rig::{Rig, docker};
use remote_network_core::port::{ExitClass, Image, Program};
use remote_network_node::ports::docker::Progress;
use remote_network_node::ports::docker::client::DockerError;
use std::process::Command;

/// A layer with busybox in it, and something that no other test's layer has: engines remember layers by their content.
fn layer(rig: &Rig) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    std::fs::copy("/bin/busybox", dir.path().join("bin/busybox")).unwrap();
    std::fs::write(dir.path().join("unique"), rig.id().to_string()).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--owner=0", "--group=0", "-c", "bin", "unique"]).current_dir(dir.path());
    tar.output().unwrap().stdout
}

const CONFIG: &str = r#"{"Entrypoint":["/bin/busybox"],"Volumes":{"/data/in":{}},"User":"65534"}"#;

fn pull(rig: &Rig, name: &str) -> (Result<String, DockerError>, Vec<Progress>) {
    let handle = rig.port.as_ref().unwrap().handle();
    let mut told = Vec::new();
    let pulled = smol::block_on(handle.pull(name.to_owned(), |progress| told.push(progress)));
    assert!(handle.pulls().is_empty(), "it is off the list");
    (pulled, told)
}

/// Takes what a test pulled away again.
struct Gone(String);

impl Drop for Gone {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.0]);
    }
}

#[test]
fn a_tag_becomes_a_digest_and_the_digest_is_pulled_with_progress() {
    let Some(rig) = Rig::new() else { return };
    let layer = layer(&rig);
    let len = layer.len() as u64;
    let registry = Registry::start(layer, CONFIG, Fault::None);
    let (name, digest) = (registry.name(), registry.digest());
    let (pulled, told) = pull(&rig, &format!("{name}:1"));
    let full = pulled.unwrap();
    let _gone = Gone(format!("{name}@{digest}"));
    assert_eq!(full, format!("{name}:1@{digest}"));
    let last = told.last().unwrap();
    assert_eq!((last.image.as_str(), last.layers, last.bytes), (full.as_str(), (1, 1), (len, len)));
    assert_eq!(told[0].image, format!("{name}:1"));
    // By its full name it is known from now on, and what it says of itself, and that it runs.
    let found = smol::block_on(rig.port.as_ref().unwrap().handle().image(full.clone())).unwrap();
    assert!(found.runs);
    assert!(format!("{:?}", found.suggestion).contains("/data/in"));
    let mut order = rig.order("echo pulled");
    let image = Image { name: full.clone(), id: found.id, entrypoint: Vec::new(), workdir: None };
    order.program = Program::Image(Box::new(image));
    let exit = rig.run(order);
    assert_eq!((exit.class, rig.stdout(&exit).as_str()), (ExitClass::Success, "pulled\n"), "{exit:?}");
    // The tag moves on; what the name with its digest means does not.
    registry.move_tag();
    assert_ne!(registry.digest(), digest);
    let again = smol::block_on(rig.port.as_ref().unwrap().handle().image(full)).unwrap();
    assert_eq!(again.id, found.id);
}

#[test]
fn a_registry_that_lies_or_breaks_off_is_found_out() {
    let Some(rig) = Rig::new() else { return };
    for fault in [Fault::Truncated, Fault::WrongLayer, Fault::WrongManifest, Fault::NoLayer] {
        let registry = Registry::start(layer(&rig), CONFIG, fault);
        let (pulled, _) = pull(&rig, &format!("{}:1", registry.name()));
        let _gone = Gone(format!("{}@{}", registry.name(), registry.digest()));
        let error = pulled.expect_err(&format!("{fault:?}"));
        assert!(matches!(error, DockerError::Registry(_, _)), "{fault:?}: {error:?}");
        let here =
            smol::block_on(rig.port.as_ref().unwrap().handle().image(format!("{}:1", registry.name())));
        assert!(matches!(here, Err(DockerError::NoImage(_))), "{fault:?}: {here:?}");
    }
}

#[test]
fn what_no_registry_has_is_told_in_words() {
    let Some(rig) = Rig::new() else { return };
    let registry = Registry::start(layer(&rig), CONFIG, Fault::None);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let other = format!("{}@sha256:{}", registry.name(), "0f".repeat(32));
    for (name, words) in [
        (format!("{}:2", registry.name()), "manifest unknown"),
        (format!("127.0.0.1:{nobody}/test/tool:1"), "refused"),
        (other, "manifest unknown"),
        (format!("sha256:{}", "0f".repeat(32)), "no registry has"),
        ("../etc/passwd".into(), "no registry has"),
    ] {
        let (pulled, _) = pull(&rig, &name);
        let error = pulled.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(&name), "{name}: {error}");
    }
}

#[test]
fn a_caller_that_goes_away_ends_the_pull() {
    let Some(rig) = Rig::new() else { return };
    let registry = Registry::start(layer(&rig), CONFIG, Fault::Endless);
    let handle = rig.port.as_ref().unwrap().handle();
    let mut pulling = Box::pin(handle.pull(format!("{}:1", registry.name()), |_| {}));
    rig.until("the layer to be sent", |_| {
        assert!(smol::block_on(smol::future::poll_once(&mut pulling)).is_none());
        registry.sending() == 1
    });
    assert_eq!(handle.pulls().len(), 1);
    drop(pulling);
    assert!(handle.pulls().is_empty());
    rig.until("the engine to have given it up", |_| registry.sending() == 0);
    // And the next may come.
    assert!(smol::block_on(handle.about()).is_ok());
}
