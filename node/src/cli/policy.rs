//! `policy show|set|check`.

use super::args::PolicyCommand;
use super::output::{plain, short, table, text};
use super::remote::{Shown, items};
use super::{Client, Failure};
use crate::api::dto::PolicyDto;
use serde_json::Value;
use std::io::Read as _;
use std::path::Path;

/// Longest file that is read, in bytes: more than any policy has.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Runs what needs the node.
pub async fn run(client: &Client, shown: Shown, command: PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Show => {
            let answer = client.get("/policy").await?;
            shown.value(&answer, words);
        }
        PolicyCommand::Set { file } => {
            let policy = read(&file)?;
            let body = serde_json::to_value(&policy).map_err(|e| Failure::work(e.to_string()))?;
            let answer = client.put("/policy", &body).await?;
            shown.value(&answer, |_| println!("in force from now on; jobs that were admitted go on"));
        }
        PolicyCommand::Check { file } => check(&file)?,
    }
    Ok(())
}

/// `policy check FILE`: needs no node.
pub fn check(file: &Path) -> Result<(), Failure> {
    let rules = read(file)?.into_policy().map_err(|problems| said(file, &problems))?.rules.len();
    println!("{} is a policy of {rules} rule(s)", file.display());
    Ok(())
}

fn said(file: &Path, problems: &[remote_network_core::problem::Problem]) -> Failure {
    let lines: Vec<String> = problems.iter().map(|p| format!("{}: {p}", file.display())).collect();
    Failure::usage(lines.join("\n"))
}

/// A policy in TOML (beneath `[policy]` or bare), YAML or JSON, by its name's ending.
fn read(file: &Path) -> Result<PolicyDto, Failure> {
    let broken = |e: &dyn std::fmt::Display| Failure::usage(format!("{}: {e}", file.display()));
    let mut written = String::new();
    let opened = std::fs::File::open(file).map_err(|e| broken(&e))?;
    opened.take(FILE_BYTES_MAX).read_to_string(&mut written).map_err(|e| broken(&e))?;
    let policy = match file.extension().and_then(|e| e.to_str()) {
        Some("toml") => crate::config::policy_in(&written)
            .and_then(|found| found.map_or_else(|| toml::from_str(&written), Ok))
            .map_err(|e| broken(&e))?,
        Some("json") => serde_json::from_str(&written).map_err(|e| broken(&e))?,
        _ => serde_saphyr::from_str(&written).map_err(|e| broken(&e))?,
    };
    // Checked here as well: the file's name belongs to what is said of it.
    match policy {
        good if PolicyDto::into_policy(PolicyDto::clone(&good)).is_ok() => Ok(good),
        bad => Err(said(file, &PolicyDto::into_policy(bad).err().unwrap_or_default())),
    }
}

fn words(answer: &Value) {
    let policy = &answer["policy"];
    let rows: Vec<Vec<String>> = items(policy, "rules")
        .map(|r| {
            let who = match &r["who"] {
                Value::String(word) => word.clone(),
                other => {
                    other["group"].as_str().map_or_else(|| "some peers".to_owned(), |g| format!("group {g}"))
                }
            };
            let list = |key: &str| {
                let all: Vec<&str> = items(r, key).filter_map(Value::as_str).collect();
                if all.is_empty() { "all".to_owned() } else { all.join(" ") }
            };
            let effect = match r["deny"].as_str() {
                Some(words) => format!("deny: {}", plain(words)),
                None => format!("allow {}", r["allow"]),
            };
            vec![text(r, "name"), who, list("kinds"), list("services"), effect]
        })
        .collect();
    if rows.is_empty() {
        println!("no rule: services say who may run them, and `accept_jobs` whether anybody may");
    } else {
        table(&["RULE", "WHO", "KINDS", "SERVICES", "SAYS"], &rows);
    }
    let today: Vec<Vec<String>> = items(answer, "today")
        .map(|s| {
            vec![
                short(&text(s, "peer")),
                s["jobs"].to_string(),
                s["cpu_ms"].to_string(),
                s["bytes"].to_string(),
            ]
        })
        .collect();
    if !today.is_empty() {
        println!();
        table(&["TODAY", "JOBS", "CPU MS", "BYTES"], &today);
    }
}
