//! The demo's work: the words of every file, counted on three peers.

use crate::cli::{Failure, random_run_id};
use crate::processes::{Network, NodeProcess};
use crate::services::BUNDLED;
use crate::workflow_text;
use remote_network_core::id::{PublicKey, RunId};
use remote_network_core::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use remote_network_core::port::Port;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Files the demo takes: two tasks each, well below a workflow's limit.
pub const FILES_MAX: usize = 200;

/// Publishes every bundled service on a peer of its own, never on the first node.
pub async fn publish(network: &Network) -> Result<Vec<(&'static str, &NodeProcess)>, Failure> {
    let peers = network.nodes().get(1..).unwrap_or_default();
    let mut published = Vec::new();
    for (service, node) in BUNDLED.iter().zip(peers.iter().cycle()) {
        let object = node.client.upload(std::io::Cursor::new(service.wasm)).await?;
        node.client
            .post(
                "/services",
                &json!({
                    "name": service.name,
                    "description": service.description,
                    "version": service.version,
                    "module": object["digest"],
                    "stdin": true,
                }),
            )
            .await?;
        published.push((service.name, node));
    }
    Ok(published)
}

/// Stores the files at `node` and submits the workflow; returns the run and the workflow's text.
pub async fn submit(
    node: &NodeProcess,
    files: &[PathBuf],
    executors: &[(&'static str, &NodeProcess)],
) -> Result<(RunId, String), Failure> {
    let mut sources = Vec::new();
    for file in files {
        let opened = tokio::fs::File::open(file).await?;
        let stored = node.client.upload(opened).await?;
        let digest = stored["digest"].as_str().and_then(|d| d.parse().ok());
        let (Some(digest), Some(len)) = (digest, stored["len"].as_u64()) else {
            return Err(Failure::node("the node did not name the object it stored"));
        };
        sources.push((source_id(file, sources.len()), ObjectRef { digest, len }));
    }
    let workflow = word_count(&sources, executors)?;
    let text = workflow_text::to_json(&workflow).map_err(Failure::work)?;
    let run = random_run_id()?;
    node.client.post_text("/runs", format!("{{\"run\":\"{run}\",\"workflow\":{text}}}")).await?;
    Ok((run, text))
}

/// A node id made of a file's name: letters, digits and dashes, unique by its number.
fn source_id(file: &Path, number: usize) -> String {
    let stem = file.file_stem().map(|s| s.to_string_lossy().to_lowercase()).unwrap_or_default();
    let safe: String = stem.chars().filter(char::is_ascii_alphanumeric).take(24).collect();
    format!("{}-{}", if safe.is_empty() { "file" } else { &safe }, number + 1)
}

fn word_count(
    sources: &[(String, ObjectRef)],
    executors: &[(&'static str, &NodeProcess)],
) -> Result<Workflow, Failure> {
    let at = |service: &str| -> Result<TaskSpec, Failure> {
        let key: Option<PublicKey> =
            executors.iter().find(|(s, _)| *s == service).and_then(|(_, n)| n.key.parse().ok());
        let peer = key.ok_or_else(|| Failure::work(format!("nobody offers {service}")))?;
        Ok(TaskSpec { service: service.to_owned(), peers: vec![peer], ..TaskSpec::default() })
    };
    let edge = |from: (&str, Port), to: (&str, Port)| Edge {
        from: End { node: from.0.to_owned(), port: from.1 },
        to: End { node: to.0.to_owned(), port: to.1 },
    };
    let mut workflow = Workflow { name: "top-words".to_owned(), ..Workflow::default() };
    for (id, object) in sources {
        let (tokenize, count) = (format!("tokenize-{id}"), format!("count-{id}"));
        workflow.nodes.push((id.clone(), NodeKind::Source(vec![object.clone()])));
        workflow.nodes.push((tokenize.clone(), NodeKind::Task(at("tokenize")?)));
        workflow.nodes.push((count.clone(), NodeKind::Task(at("count")?)));
        workflow.edges.push(edge((id, Port::Stdout), (&tokenize, Port::Stdin)));
        workflow.edges.push(edge((&tokenize, Port::Stdout), (&count, Port::Stdin)));
        workflow.edges.push(edge((&count, Port::Stdout), ("rank", Port::Stdin)));
    }
    workflow.nodes.push(("rank".to_owned(), NodeKind::Task(at("merge-rank")?)));
    workflow.nodes.push(("top".to_owned(), NodeKind::Sink));
    workflow.edges.push(edge(("rank", Port::Stdout), ("top", Port::Stdin)));
    Ok(workflow)
}
