//! The work that tests give to a network: the words of many texts, counted on three peers. What must come out is worked
//! out here, without the product.

use super::{Node, wait_for};
use remote_network_core::job::receipt::{Verdict, verify_file};
use remote_network_core::rng::Rng;
use remote_network_node::services::BUNDLED;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Texts as files, and what they come to.
pub struct Texts {
    pub files: Vec<PathBuf>,
    pub expected: String,
}

impl Texts {
    /// `count` files of about `words` words below `dir`.
    pub fn write(dir: &Path, count: usize, words: usize, rng: &mut Rng) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let mut files = Vec::new();
        let mut all = String::new();
        for i in 0..count {
            let text: Vec<String> =
                (0..words).map(|_| format!("w{}", rng.below(97) * rng.below(7))).collect();
            let text = text.join(if i % 2 == 0 { " " } else { ",\n" });
            let file = dir.join(format!("text-{i}.txt"));
            std::fs::write(&file, &text).unwrap();
            all.push_str(&text);
            all.push('\n');
            files.push(file);
        }
        Self { files, expected: ranking(&all) }
    }

    /// Tasks of the workflow over them.
    pub fn tasks(&self) -> usize {
        2 * self.files.len() + 1
    }

    /// The workflow over these texts, written as a file that `workflow run` reads.
    pub fn workflow(&self, file: &Path, executors: &[String; 3]) {
        let [tokenize, count, merge] = executors;
        let (mut nodes, mut edges) = (String::new(), String::new());
        for (i, text) in self.files.iter().enumerate() {
            let name = json!(text.display().to_string());
            write!(
                nodes,
                "  text-{i}: {{ source: {{ files: [{name}] }} }}\n  \
                   tokenize-{i}: {{ task: {{ service: tokenize, peer: {tokenize} }} }}\n  \
                   count-{i}: {{ task: {{ service: count, peer: {count} }} }}\n"
            )
            .unwrap();
            write!(
                edges,
                "  - text-{i}.out -> tokenize-{i}.stdin\n  \
                   - tokenize-{i}.stdout -> count-{i}.stdin\n  \
                   - count-{i}.stdout -> rank.stdin\n"
            )
            .unwrap();
        }
        let written = format!(
            "name: top-words\nnodes:\n{nodes}  rank: {{ task: {{ service: merge-rank, peer: {merge} }} }}\n  \
             top: {{ sink: {{}} }}\nedges:\n{edges}  - rank.stdout -> top.in\n"
        );
        std::fs::write(file, written).unwrap();
    }
}

/// The words of a text, most frequent first, as `merge-rank` writes them.
pub fn ranking(text: &str) -> String {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()) {
        *counts.entry(word.to_lowercase()).or_default() += 1;
    }
    let mut ranked: Vec<(String, u64)> = counts.into_iter().collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    ranked.iter().fold(String::new(), |mut out, (word, n)| {
        writeln!(out, "{n}\t{word}").unwrap();
        out
    })
}

/// Offers the three bundled services on three nodes.
pub fn offer_all(nodes: [&Node; 3]) {
    for (service, node) in BUNDLED.iter().zip(nodes) {
        node.api.offer(service.name, service.wasm).unwrap();
    }
}

/// Waits for the end of a run at the node that submitted it.
pub fn finished(node: &Node, run: &str, within: Duration) -> Value {
    wait_for("end of the run", within, || {
        let view = node.api.get(&format!("/runs/{run}")).map_err(|e| e.to_string())?;
        if view["terminal"] == true { Ok(view) } else { Err(summary(&view)) }
    })
}

/// A run in few words: what it still waits for.
pub fn summary(view: &Value) -> String {
    let open: Vec<String> = view["tasks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|t| t["state"] != "committed")
        .map(|t| format!("{} {} attempt {} ({})", t["id"], t["state"], t["attempt"], t["why"]))
        .collect();
    format!("{} {}/{}: {}", view["state"], view["tasks_committed"], view["tasks_total"], open.join("; "))
}

/// Asserts that a run came out right: state, result, one valid receipt for every task, each from who was asked.
/// Returns the receipts by task.
pub fn judge(node: &Node, view: &Value, texts: &Texts) -> BTreeMap<String, Vec<u8>> {
    let run = view["run"].as_str().unwrap();
    assert_eq!(view["state"], "succeeded", "{}", summary(view));
    assert_eq!(view["tasks"].as_array().unwrap().len(), texts.tasks());
    assert_eq!(view["tasks_committed"], texts.tasks());
    let result = node.api.bytes(&format!("/runs/{run}/results/top/0")).unwrap();
    assert_eq!(String::from_utf8(result).unwrap(), texts.expected, "run {run}");
    let mut receipts = BTreeMap::new();
    for task in view["tasks"].as_array().unwrap() {
        let id = task["id"].as_str().unwrap();
        assert_eq!((&task["state"], &task["has_receipt"]), (&json!("committed"), &json!(true)), "{task}");
        let bundle = node.api.bytes(&format!("/runs/{run}/tasks/{id}/receipt")).unwrap();
        let report = verify_file(&bundle).unwrap_or_else(|e| panic!("the receipt of {id} in run {run}: {e}"));
        assert_eq!(report.task, id);
        assert_eq!(report.run.to_string(), run);
        assert_eq!(report.requester.to_string(), node.key);
        assert_eq!(task["peer"], report.executor.to_string());
        assert_eq!(task["attempt"], report.fence);
        assert_eq!(report.verdict.0, Verdict::Won, "{id}");
        receipts.insert(id.to_owned(), bundle);
    }
    receipts
}
