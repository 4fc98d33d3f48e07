//! Our own nodes and libtorrent, which a large part of the public DHT consists of.
//!
//! The Python package is installed by `.ci/run` into `libtorrent-venv` in the target directory; `LIBTORRENT_PYTHON` names
//! another interpreter that has it. Without either the test says so and does nothing.

use super::*;
use remote_network_core::dht::item::immutable_target;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ports/dht/tests/libtorrent_node.py");

/// An interpreter that has libtorrent.
fn python() -> Option<PathBuf> {
    let beside = || {
        let exe = std::env::current_exe().ok()?;
        exe.ancestors().map(|dir| dir.join("libtorrent-venv/bin/python3")).find(|python| python.exists())
    };
    let python = std::env::var_os("LIBTORRENT_PYTHON").map(PathBuf::from).or_else(beside)?;
    let has_it = Command::new(&python).args(["-c", "import libtorrent"]).output().ok()?.status.success();
    has_it.then_some(python)
}

struct Libtorrent {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Libtorrent {
    fn start(python: &PathBuf, first: SocketAddr) -> Self {
        let free = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut child = Command::new(python)
            .args([SCRIPT, &port.to_string(), &first.port().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { ask: child.stdin.take().unwrap(), answers, child }
    }

    fn ask(&mut self, ask: Value) -> Value {
        writeln!(self.ask, "{ask}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer["error"].is_null(), "{ask}: {answer}");
        answer
    }
}

impl Drop for Libtorrent {
    fn drop(&mut self) {
        let _over_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn libtorrent_fills_its_table_from_our_nodes_and_shares_items_and_peers_with_them() {
    let Some(python) = python() else {
        eprintln!("SKIPPED: there is no Python with libtorrent (see the head of this test's file)");
        return;
    };
    let seed = host_of(Native, DhtMode::Private { seed: true }, None, &[]);
    let at = seed.addr();
    let mut hosts: Vec<Host> =
        (0..9).map(|_| host_of(Native, DhtMode::Private { seed: false }, None, &[at])).collect();
    hosts.iter_mut().for_each(|h| h.wait_for_health(|len, _| len >= 8));
    let mut theirs = Libtorrent::start(&python, at);
    let until = Instant::now() + LONG;
    while theirs.ask(json!({"ask": "table"}))["nodes"].as_u64().unwrap() < 8 {
        assert!(Instant::now() < until, "its table stays empty");
        std::thread::sleep(Duration::from_millis(100));
    }

    for salt in ["", "a salt"] {
        let (our_key, their_key) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
        let ours = item(&our_key, salt, 7, "ours");
        assert!(hosts[1].run(put(&ours, None)).result.unwrap().stored >= 8);
        let found =
            theirs.ask(json!({"ask": "get", "public": hex(our_key.public().as_bytes()), "salt": salt}));
        assert_eq!((found["value"].as_str(), found["seq"].as_u64()), (Some("ours"), Some(7)), "{found}");

        let stored = theirs.ask(json!({
            "ask": "put", "seed": hex(&[2; 32]), "public": hex(their_key.public().as_bytes()),
            "salt": salt, "value": "theirs",
        }));
        assert!(stored["stored"].as_u64() >= Some(8), "{stored}");
        let found = hosts[2].run(get(&item(&their_key, salt, 1, ""), GetMode::MostRecent));
        assert_eq!(found.values.last().map(|i| &i.value[..]), Some(&b"theirs"[..]), "{:?}", found.result);
    }

    let value = Bytes::from_static(b"immutable of ours");
    hosts[3].run(DhtRequest::PutImmutable { value: value.clone() }).result.unwrap();
    let target = immutable_target(&value);
    let found = theirs.ask(json!({"ask": "get_immutable", "target": target.to_string()}));
    assert_eq!(found["value"], "immutable of ours");
    let stored = theirs.ask(json!({"ask": "put_immutable", "value": "immutable of theirs"}));
    assert!(stored["stored"].as_u64() >= Some(8), "{stored}");
    let target = immutable_target(b"immutable of theirs");
    let found = hosts[4].run(DhtRequest::GetImmutable { target });
    assert_eq!(found.immutable.as_deref(), Some(&b"immutable of theirs"[..]), "{:?}", found.result);

    let (topic, other) = (DhtId([3; 20]), DhtId([4; 20]));
    hosts[5].run(DhtRequest::Announce { topic, port: AnnouncePort::Explicit(4_001) }).result.unwrap();
    let found = theirs.ask(json!({"ask": "peers", "topic": topic.to_string()}));
    assert_eq!(found["peers"], json!(["127.0.0.1:4001"]));
    theirs.ask(json!({"ask": "announce", "topic": other.to_string(), "port": 4_002}));
    let until = Instant::now() + LONG;
    while hosts[6].run(DhtRequest::GetPeers { topic: other }).peers
        != ["127.0.0.1:4002".parse::<SocketAddr>().unwrap()]
    {
        assert!(Instant::now() < until, "its announcement is not found");
        std::thread::sleep(Duration::from_millis(100));
    }
}
