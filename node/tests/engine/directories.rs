//! Directories that guests read and leave.

use crate::rig::Rig;
use remote_network_core::id::Digest;
use remote_network_core::manifest::{Entry, Manifest};
use remote_network_core::port::{EngineExit, EngineInput, EngineJob, ExitClass, Layout, MountPath, Port};

const COPY: &[u8] = include_bytes!("../programs/copy-tree.wat");

/// What `copy-tree` adds.
const NOTE: (&str, &str) = ("made/note", "left by the job\n");

fn input(rig: &Rig, files: &[(&str, &str)]) -> EngineInput {
    let entry = |(path, bytes): &(&str, &str)| {
        let EngineInput { digest, len, .. } = rig.blobs.put(bytes.as_bytes());
        Entry { path: (*path).to_owned(), digest, len, executable: false }
    };
    let manifest = Manifest::new(files.iter().map(entry).collect()).unwrap();
    rig.input(Port::Mount("in".into()), &manifest.encode())
}

fn order(rig: &Rig, layout: Layout, inputs: Vec<EngineInput>) -> EngineJob {
    let mount = |name: &str, layout| MountPath { name: name.into(), path: None, layout };
    let text = std::str::from_utf8(COPY).unwrap();
    EngineJob {
        paths: vec![mount("in", layout), mount("out", Layout::Tree)],
        inputs,
        outputs: vec![Port::Mount("out".into())],
        ..rig.order(&wat::parse_str(text).unwrap())
    }
}

/// Paths and bytes of the directory a job left.
fn left(rig: &Rig, exit: &EngineExit) -> Vec<(String, String)> {
    assert_eq!((exit.class, exit.detail.as_str()), (ExitClass::Success, ""), "{exit:?}");
    let manifest = Manifest::decode(&rig.output(exit, &Port::Mount("out".into()))).unwrap();
    let text = |digest: &Digest| String::from_utf8(rig.blobs.get(digest)).unwrap();
    manifest.entries().iter().map(|e| (e.path.clone(), text(&e.digest))).collect()
}

fn with_note(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut all: Vec<_> = files.iter().chain([&NOTE]).map(|(p, b)| (p.to_string(), b.to_string())).collect();
    all.sort();
    all
}

#[test]
fn a_directory_is_read_and_another_is_left() {
    let rig = Rig::new();
    let files = [("a/b/c", "deep"), ("a/empty", ""), ("ä ö", "umlauts"), ("top", "deep")];
    let exit = rig.run(order(&rig, Layout::Tree, vec![input(&rig, &files)]));
    assert_eq!(left(&rig, &exit), with_note(&files));
    let empty = rig.run(order(&rig, Layout::Tree, vec![input(&rig, &[])]));
    assert_eq!(left(&rig, &empty), with_note(&[]));
    assert_eq!(rig.left_behind(), Vec::<String>::new(), "nothing is left");
}

#[test]
fn a_directory_has_room_for_more_files_than_other_outputs() {
    let rig = Rig::new();
    let paths: Vec<String> = (0..1_500).map(|i| format!("{}/{i}", i % 10)).collect();
    let files: Vec<(&str, &str)> = paths.iter().map(|p| (p.as_str(), "one of many")).collect();
    let exit = rig.run(order(&rig, Layout::Tree, vec![input(&rig, &files)]));
    assert_eq!(left(&rig, &exit), with_note(&files));
}

#[test]
fn several_directories_are_joined_or_numbered_and_those_that_disagree_are_the_orders_fault() {
    let rig = Rig::new();
    let (a, b) = ([("x/1", "one"), ("both", "same")], [("x/2", "two"), ("both", "same")]);
    let inputs = || vec![input(&rig, &a), input(&rig, &b)];
    let joined = rig.run(order(&rig, Layout::Tree, inputs()));
    assert_eq!(left(&rig, &joined), with_note(&[("both", "same"), ("x/1", "one"), ("x/2", "two")]));
    let numbered = rig.run(order(&rig, Layout::Trees, inputs()));
    let expected = [("0000/both", "same"), ("0000/x/1", "one"), ("0001/both", "same"), ("0001/x/2", "two")];
    assert_eq!(left(&rig, &numbered), with_note(&expected));
    let other = input(&rig, &[("both", "another")]);
    let exit = rig.run(order(&rig, Layout::Tree, vec![input(&rig, &a), other]));
    assert_eq!(exit.class, ExitClass::Permanent, "{exit:?}");
    assert!(exit.detail.contains("`in`") && exit.detail.contains("`both`"), "{}", exit.detail);
}

#[test]
fn what_is_no_directory_and_what_is_too_large_a_one_are_told_apart() {
    let rig = Rig::new();
    let file = rig.input(Port::Mount("in".into()), b"just a file");
    let exit = rig.run(order(&rig, Layout::Tree, vec![file]));
    assert_eq!(exit.class, ExitClass::Permanent, "{exit:?}");
    assert!(exit.detail.contains("no directory"), "{}", exit.detail);
    let half = "x".repeat(600);
    let mut large = order(&rig, Layout::Tree, vec![input(&rig, &[("a", &half), ("b", &half)])]);
    large.limits.output_bytes = 1_000;
    let exit = rig.run(large);
    assert_eq!(exit.class, ExitClass::Resource, "both files together are one output: {exit:?}");
    let mut lost = order(&rig, Layout::Tree, vec![input(&rig, &[("a", "here")])]);
    let missing = Entry { path: "b".into(), digest: Digest::of(b"absent"), len: 6, executable: false };
    lost.inputs.push(rig.input(Port::Mount("in".into()), &Manifest::new(vec![missing]).unwrap().encode()));
    let exit = rig.run(lost);
    assert_eq!(exit.class, ExitClass::Infra, "a file that is not in the store: {exit:?}");
}
