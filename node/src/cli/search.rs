//! `service search`: what is found is printed as it is found.

use super::output::{plain, short, text};
use super::remote::{Shown, items};
use super::{Client, Failure};
use serde_json::{Value, json};

/// `service search WORDS`
pub async fn run(client: &Client, shown: Shown, words: &[String], kind: Option<&str>) -> Result<(), Failure> {
    let body = json!({"query": words.join(" "), "kind": kind});
    let mut last = Value::Null;
    client
        .post_lines("/search", &body, |line| {
            if line["event"] == "found" && !shown.json() {
                items(&line, "hits").for_each(print);
            }
            last = line;
        })
        .await?;
    match last["event"].as_str() {
        Some("done") => {
            shown.value(&last, summary);
            Ok(())
        }
        Some("failed") => Err(Failure::node(format!("the search failed: {}", text(&last, "why")))),
        _ => {
            Err(Failure::node("the search broke off")
                .with_hint("search again: what was found is known by now"))
        }
    }
}

fn print(hit: &Value) {
    let price = match hit["details"]["price"]["per_job"].as_u64() {
        Some(micro) if micro > 0 => format!("  {micro} a job"),
        _ => String::new(),
    };
    println!(
        "{} {}  {}  {}  {}{price}  {}",
        text(hit, "name"),
        text(hit, "version"),
        text(hit, "kind"),
        short(&text(hit, "owner")),
        short(&text(hit, "id")),
        plain(hit["description"].as_str().unwrap_or_default()),
    );
}

fn summary(done: &Value) {
    let n = |key: &str| done[key].as_u64().unwrap_or(0);
    println!("{} found; {} of {} visited peers answered", n("total"), n("answered"), n("visited"));
    if n("unvisited") > 0 {
        println!("{} more might have something: search again", n("unvisited"));
    }
}
