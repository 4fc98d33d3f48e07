//! The bundled services, on odd inputs.

use crate::rig::Rig;
use remote_network_core::port::{EngineExit, ExitClass, Port};
use remote_network_node::services::bundled;

fn run(rig: &Rig, name: &str, args: &[&str], inputs: &[&[u8]]) -> EngineExit {
    let service = bundled(name).unwrap();
    let mut job = rig.order(service.wasm);
    job.args = args.iter().map(|a| (*a).to_owned()).collect();
    job.inputs = inputs.iter().map(|i| rig.input(Port::Stdin, i)).collect();
    job.limits.memory_bytes = service.memory_bytes;
    job.limits.output_bytes = 64 << 20;
    rig.run(job)
}

fn output(rig: &Rig, name: &str, args: &[&str], inputs: &[&[u8]]) -> Vec<u8> {
    let exit = run(rig, name, args, inputs);
    assert_eq!(exit.class, ExitClass::Success, "{name}: {exit:?}");
    rig.stdout(&exit)
}

#[test]
fn tokenize_gives_one_lower_case_word_per_line() {
    let rig = Rig::new();
    for (text, words) in [
        (&b""[..], &b""[..]),
        (b"  \n\t--", b""),
        (b"One", b"one\n"),
        (b"Don't panic, it's 42!\r\nEND", b"don\nt\npanic\nit\ns\n42\nend\n"),
        ("Äpfel, Müller-Straße 日本".as_bytes(), "Äpfel\nmüller\nstraße\n日本\n".as_bytes()),
        (b"a\0b\x7fc\xffd", b"a\nb\nc\xffd\n"),
    ] {
        assert_eq!(output(&rig, "tokenize", &[], &[text]), words, "{text:?}");
    }
    let huge = vec![b'X'; 8 << 20];
    let out = output(&rig, "tokenize", &[], &[&huge]);
    assert_eq!(out.len(), huge.len() + 1, "a word larger than all its memory");
    assert!(out[..huge.len()].iter().all(|b| *b == b'x'));
}

#[test]
fn count_sorts_by_bytes_and_ignores_line_ends_of_any_kind() {
    let rig = Rig::new();
    for (words, counts) in [
        (&b""[..], &b""[..]),
        (b"\n\r\n\n", b""),
        (b"b\na\nb", b"1\ta\n2\tb\n"),
        (b"a\r\na\nab\naa", b"2\ta\n1\taa\n1\tab\n"),
        (b"\xff\n\x00\n\x00\xff\na b\t\n", b"1\t\x00\n1\t\x00\xff\n1\ta b\t\n1\t\xff\n"),
    ] {
        assert_eq!(output(&rig, "count", &[], &[words]), counts, "{words:?}");
    }
    let line = vec![b'w'; 5 << 20];
    let out = output(&rig, "count", &[], &[&line, b"\n", &line]);
    assert_eq!((out.len(), &out[..3]), (line.len() + 3, &b"2\tw"[..]));
}

#[test]
fn merge_rank_adds_up_and_ranks() {
    let rig = Rig::new();
    let inputs: [&[u8]; 3] = [b"2\tb\n1\tc\n", b"1\ta\n1\tb\n", b"1\td\twith tab\r\n18446744073709551614\tc"];
    let all = b"18446744073709551615\tc\n3\tb\n1\ta\n1\td\twith tab\n";
    assert_eq!(output(&rig, "merge-rank", &[], &inputs), all);
    assert_eq!(output(&rig, "merge-rank", &["--top", "2"], &inputs), b"18446744073709551615\tc\n3\tb\n");
    assert_eq!(output(&rig, "merge-rank", &["--top", "0"], &inputs), b"");
    assert_eq!(output(&rig, "merge-rank", &[], &[b""]), b"");
}

#[test]
fn merge_rank_refuses_what_is_no_count_and_says_why() {
    let rig = Rig::new();
    for bad in [
        &b"word\n"[..],
        b"1\n",
        b"1\t\n",
        b"\tword",
        b"-1\tw",
        b"1 w",
        b"18446744073709551616\tw",
        b"\xff\xfe",
    ] {
        let exit = run(&rig, "merge-rank", &[], &[b"1\ta\n", bad]);
        assert_eq!((exit.class, exit.code), (ExitClass::User, 2), "{bad:?}: {exit:?}");
        assert!(rig.output(&exit, &Port::Stderr).ends_with(b"\n"));
        assert_eq!(rig.stdout(&exit), b"", "no half result");
    }
    let over = run(&rig, "merge-rank", &[], &[b"18446744073709551615\ta\n1\ta\n"]);
    assert_eq!((over.class, over.code), (ExitClass::User, 2));
    for args in
        [&["--top"][..], &["--top", "x"], &["--top", "1x"], &["--top", ""], &["1"], &["--top", "1", "2"]]
    {
        assert_eq!(run(&rig, "merge-rank", args, &[]).code, 2, "{args:?}");
    }
}

#[test]
fn a_table_that_outgrows_its_memory_is_a_limit_hit() {
    let rig = Rig::new();
    let words: String = (0..200_000).map(|n| format!("word{n}\n")).collect();
    let mut job = rig.order(bundled("count").unwrap().wasm);
    job.inputs = vec![rig.input(Port::Stdin, words.as_bytes())];
    job.limits.memory_bytes = 2 << 20;
    let exit = rig.run(job);
    assert_eq!(exit.class, ExitClass::Resource, "{exit:?}");
    assert!(exit.detail.contains("memory") && exit.detail.contains("exit code 3"), "{}", exit.detail);
}

#[test]
fn the_pipeline_ranks_the_words_of_two_texts() {
    let rig = Rig::new();
    let counted: Vec<_> = ["The cat and the dog.", "A dog, the END"]
        .iter()
        .map(|text| {
            let words = output(&rig, "tokenize", &[], &[text.as_bytes()]);
            output(&rig, "count", &[], &[&words])
        })
        .collect();
    let ranked = output(&rig, "merge-rank", &["--top", "3"], &[&counted[0], &counted[1]]);
    assert_eq!(ranked, b"3\tthe\n2\tdog\n1\ta\n");
}
