//! `demo --once --json` is what scripts build on: one JSON object in the last line, or an error they can act on.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

mod network;

use network::run;
use network::words::ranking;
use serde_json::{Value, json};

#[test]
fn the_demo_ends_in_one_json_object_with_the_right_result() {
    let dir = tempfile::tempdir().unwrap();
    let texts = ["One fish, two fish.\n", "Red fish — blue FISH", ""];
    let files: Vec<String> = (0..texts.len())
        .map(|i| {
            let file = dir.path().join(format!("text {i}.txt"));
            std::fs::write(&file, texts[i]).unwrap();
            file.display().to_string()
        })
        .collect();
    let mut args = vec!["demo", "--once", "--json"];
    args.extend(files.iter().map(String::as_str));
    let said = run(&args).ok();
    let last: Value = serde_json::from_str(said.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["state"], "succeeded");
    assert!(last["nodes"].as_u64().unwrap() >= 4);
    assert_eq!(last["tasks"], 7);
    assert_eq!(last["receipts_verified"], last["tasks"]);
    assert!(last["elapsed_ms"].as_u64().unwrap() > 0);
    // The dash of the second text is a byte sequence from 0x80 on, which is a word.
    let expected: Vec<Value> = ranking(&texts.join("\n").replace('—', " zzz "))
        .lines()
        .map(|l| l.split_once('\t').unwrap())
        .map(|(n, w)| json!({"count": n.parse::<u64>().unwrap(), "word": if w == "zzz" { "—" } else { w }}))
        .collect();
    assert_eq!(last["result"], json!(expected));
}

#[test]
fn a_file_that_is_not_there_is_named_before_anything_starts() {
    run(&["demo", "--once", "no-such-text.txt"]).fails(2, &["cannot read no-such-text.txt", "No such file"]);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().display().to_string();
    run(&["demo", "--once", &dir]).fails(2, &[&dir, "is not a file", "help:", "*.txt"]);
    let said = run(&["demo", "--once", "--json", "no-such-text.txt"]);
    assert_eq!(said.code, 2);
    assert!(said.json()["error"]["message"].as_str().unwrap().contains("no-such-text.txt"));
    run(&["demo", "--once", "--nodes", "3"]).fails(2, &["--nodes", "4..=32"]);
}
