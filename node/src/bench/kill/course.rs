//! The work: twenty tasks over the words of four texts, on three peers.
//!
//! `tokenize → pass → tokenize → count` for each text; the counts are ranked in pairs, all together, and once for the ten most
//! frequent words. Half of the texts are small, so that WebAssembly jobs over them are light; the others are journaled by their executors. A run that is to be cancelled has one more task, which never ends. `pass` copies its input, in a container or, without one, by tokenizing words that are words already.

use crate::cli::Failure;
use crate::processes::NodeProcess;
use crate::services::BUNDLED;
use crate::workflow_text;
use remote_network_core::id::PublicKey;
use remote_network_core::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use remote_network_core::port::Port;
use serde_json::{Value, json};

/// Tasks of the workflow.
pub const TASKS: usize = 4 * TEXTS + 4;
/// Results it keeps.
pub const RESULTS: usize = 4;
const TEXTS: usize = 4;
/// Words of a text: enough for tasks that take a moment, and for no light job.
const WORDS: u64 = 20_000;
/// Words of the others.
const FEW_WORDS: u64 = 5_000;
/// The service that never ends, and its module.
const SPIN: &str = "spin";
const SPIN_WAT: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") (loop $again (br $again))))"#;
/// The service that runs in a container.
const COPY: &str = "copy";

/// Offers the services: WebAssembly on two peers, containers on the third, if there is an image.
pub async fn offer(peers: &[NodeProcess], image: Option<&str>) -> Result<(), Failure> {
    for node in peers {
        for service in &BUNDLED {
            let object = node.client.upload(std::io::Cursor::new(service.wasm)).await?;
            let new = json!({"name": service.name, "version": service.version, "module": object["digest"], "stdin": true});
            node.client.post("/services", &new).await?;
        }
    }
    if let Some(node) = peers.first() {
        let module = wat::parse_str(SPIN_WAT).map_err(|e| Failure::work(e.to_string()))?;
        let object = node.client.upload(std::io::Cursor::new(module)).await?;
        node.client
            .post("/services", &json!({"name": SPIN, "module": object["digest"], "stdin": true}))
            .await?;
    }
    if let (Some(image), Some(node)) = (image, peers.last()) {
        let new = json!({"name": COPY, "image": image, "entrypoint": ["/bin/busybox"], "stdin": true});
        node.client.post("/services", &new).await?;
    }
    Ok(())
}

/// The texts of the workflow, over texts that are stored at `node`: as it is, and with a task that never ends.
pub async fn workflows(
    node: &NodeProcess,
    peers: &[NodeProcess],
    docker: bool,
) -> Result<[String; 2], Failure> {
    let keys: Vec<PublicKey> = peers.iter().filter_map(|p| p.key.parse().ok()).collect();
    let [first, second, third] = keys[..] else {
        return Err(Failure::work("the work is for three peers"));
    };
    let task = |service: &str, peer: PublicKey, args: &[&str]| {
        NodeKind::Task(TaskSpec {
            service: service.to_owned(),
            peers: vec![peer],
            args: args.iter().map(|&a| a.to_owned()).collect(),
            ..TaskSpec::default()
        })
    };
    let mut w = Workflow { name: "under-fire".to_owned(), ..Workflow::default() };
    for i in 0..TEXTS {
        let words = if i < TEXTS / 2 { WORDS } else { FEW_WORDS };
        let text = std::io::Cursor::new(text(i as u64, words));
        let source = object(&node.client.upload(text).await?)?;
        let pass = if docker { task(COPY, third, &["cat"]) } else { task("tokenize", third, &[]) };
        w.nodes.push((format!("text-{i}"), NodeKind::Source(vec![source])));
        w.nodes.push((format!("tokenize-{i}"), task("tokenize", first, &[])));
        w.nodes.push((format!("pass-{i}"), pass));
        w.nodes.push((format!("again-{i}"), task("tokenize", second, &[])));
        w.nodes.push((format!("count-{i}"), task("count", first, &[])));
        let chain = ["text", "tokenize", "pass", "again", "count"];
        for pair in chain.windows(2) {
            w.edges.push(edge(&format!("{}-{i}", pair[0]), &format!("{}-{i}", pair[1])));
        }
    }
    w.nodes.push(("kept".to_owned(), NodeKind::Sink));
    let ranks: [(&str, std::ops::Range<usize>, PublicKey, &[&str]); RESULTS] = [
        ("rank-a", 0..2, second, &[]),
        ("rank-b", 2..4, third, &[]),
        ("rank-all", 0..4, first, &[]),
        ("rank-ten", 0..4, second, &["--top", "10"]),
    ];
    for (id, texts, peer, args) in ranks {
        w.nodes.push((id.to_owned(), task("merge-rank", peer, args)));
        w.edges.extend(texts.map(|i| edge(&format!("count-{i}"), id)));
        w.edges.push(edge(id, "kept"));
    }
    let whole = workflow_text::to_json(&w).map_err(Failure::work)?;
    w.nodes.push((SPIN.to_owned(), task(SPIN, first, &[])));
    // With an input of its own size it is no light job: it is journaled that it is to be stopped.
    w.edges.push(edge("text-0", SPIN));
    w.edges.push(edge(SPIN, "kept"));
    Ok([whole, workflow_text::to_json(&w).map_err(Failure::work)?])
}

fn edge(from: &str, to: &str) -> Edge {
    Edge {
        from: End { node: from.to_owned(), port: Port::Stdout },
        to: End { node: to.to_owned(), port: Port::Stdin },
    }
}

fn object(stored: &Value) -> Result<ObjectRef, Failure> {
    let digest = stored["digest"].as_str().and_then(|d| d.parse().ok());
    match (digest, stored["len"].as_u64()) {
        (Some(digest), Some(len)) => Ok(ObjectRef { digest, len }),
        _ => Err(Failure::node("the node did not name the object it stored")),
    }
}

/// A text of its own for every number.
fn text(number: u64, words: u64) -> Vec<u8> {
    let word = |i: u64| format!("w{} ", (i * i + 31 * number * i) % (97 + number));
    (0..words).map(word).collect::<String>().into_bytes()
}
