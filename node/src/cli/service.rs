//! `service show|activate|deactivate|edit|export|import`.

use super::args::{DetailOptions, DeterminismWord, ServiceEdit, ServiceExport, ServiceImport};
use super::output::{plain, text};
use super::remote::{Shown, upload};
use super::{Client, Failure};
use remote_network_core::id::Digest;
use serde_json::{Map, Value, json};
use std::io::Read as _;

/// Longest document that is imported, in bytes: many times what a service can be.
const DOCUMENT_BYTES_MAX: u64 = 64 << 10;

/// `service show ID`
pub async fn show(client: &Client, shown: Shown, id: &Digest) -> Result<(), Failure> {
    let answer = client.get(&format!("/services/{id}")).await?;
    shown.value(&answer, words);
    Ok(())
}

fn words(s: &Value) {
    println!("{} {} ({})", text(s, "name"), text(s, "version"), text(s, "kind"));
    if !text(s, "description").is_empty() {
        println!("{}", text(s, "description"));
    }
    println!("id        {}", text(s, "id"));
    for owner in s["owners"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        println!("offered   {}", plain(owner));
    }
    if s["local"] == json!(true) {
        println!("status    {}", text(&s["details"], "status"));
    }
    let line = |name: &str, value: &Value| {
        let said = match value {
            Value::Array(items) if items.is_empty() => return,
            Value::Object(fields) => {
                let said = |v: &&Value| {
                    !matches!(v, Value::Null) && **v != json!(0) && **v != json!("") && **v != json!([])
                };
                let said: Vec<String> =
                    fields.iter().filter(|(_, v)| said(v)).map(|(k, v)| format!("{k} {}", bare(v))).collect();
                said.join(", ")
            }
            other => bare(other),
        };
        if !said.is_empty() {
            println!("{name:<9} {}", plain(&said));
        }
    };
    line("data", s.get("data").map_or(&json!(""), |data| &data["digest"]));
    line("limits", &s["limits"]);
    let d = &s["details"];
    line("needs", &d["needs"]);
    line("labels", &d["labels"]);
    line("repeats", d.get("determinism").unwrap_or(&json!("")));
    line("price", &d["price"]);
    for p in d["params"].as_array().into_iter().flatten() {
        let kind = if p["secret"] == json!(true) { ", secret" } else { "" };
        let default = p["default"].as_str().map(|d| format!("={d}")).unwrap_or_default();
        println!(
            "param     {}",
            plain(&format!("{}{default}{kind}  {}", text(p, "name"), text(p, "description")))
        );
    }
}

/// A value without the quotes of JSON.
fn bare(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Array(items) => items.iter().map(bare).collect::<Vec<_>>().join(" "),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// `service activate ID` and `service deactivate ID`
pub async fn activate(client: &Client, shown: Shown, id: &Digest, active: bool) -> Result<(), Failure> {
    let answer = client.post(&format!("/services/{id}/activate"), &json!({"active": active})).await?;
    let word = if active { "offered again" } else { "set aside; jobs that run go on" };
    shown.value(&answer, |_| println!("{id} is {word}"));
    Ok(())
}

/// `service edit ID …`
pub async fn edit(client: &Client, shown: Shown, args: &ServiceEdit) -> Result<(), Failure> {
    let path = format!("/services/{}", args.id);
    let before = client.get(&path).await?;
    let mut change = Map::new();
    for (key, value) in [("name", &args.name), ("description", &args.description), ("version", &args.version)]
    {
        change.extend(value.as_ref().map(|v| (key.to_owned(), json!(v))));
    }
    let mut limits = before["limits"].clone();
    for (key, value) in [
        ("memory_bytes", args.memory_mib.map(|n| n << 20)),
        ("time_ms", args.time_s.map(|n| n * 1_000)),
        ("output_bytes", args.output_mib.map(|n| n << 20)),
    ] {
        if let Some(value) = value {
            limits[key] = json!(value);
        }
    }
    change.insert("limits".to_owned(), limits);
    if args.public || args.private || !args.allow.is_empty() {
        change.insert("visibility".to_owned(), visibility(args.private, &args.allow));
    }
    let mut details = before["details"].clone();
    if args.no_labels {
        details["labels"] = json!([]);
    }
    if args.no_params {
        details["params"] = json!([]);
    }
    apply(&mut details, &args.details)?;
    change.insert("details".to_owned(), details);
    let answer = client.patch(&path, &Value::Object(change)).await?;
    shown.value(&answer, |a| {
        println!("offering it as {}", text(a, "id"));
        if a.get("withdrawn").is_some() {
            println!("withdrawn {}", text(a, "withdrawn"));
        }
    });
    Ok(())
}

/// Who may run a service, in the API's words.
pub fn visibility(private: bool, allow: &[remote_network_core::id::PublicKey]) -> Value {
    if private {
        json!("only_me")
    } else if allow.is_empty() {
        json!("everyone")
    } else {
        json!({"listed": allow.iter().map(ToString::to_string).collect::<Vec<_>>()})
    }
}

/// Puts what was given on the command line over `details`.
pub fn apply(details: &mut Value, o: &DetailOptions) -> Result<(), Failure> {
    if details.is_null() {
        *details = json!({});
    }
    for (section, key, value) in [
        ("needs", "os", o.needs_os.as_ref().map(|v| json!(v))),
        ("needs", "arch", (!o.needs_arch.is_empty()).then(|| json!(o.needs_arch))),
        ("needs", "cpu_milli", o.needs_cpu_milli.map(|v| json!(v))),
        ("needs", "memory_bytes", o.needs_memory_mib.map(|v| json!(v << 20))),
        ("needs", "disk_bytes", o.needs_disk_mib.map(|v| json!(v << 20))),
        ("needs", "gpus", o.needs_gpus.map(|v| json!(v))),
        ("needs", "gpu_vendor", o.needs_gpu_vendor.as_ref().map(|v| json!(v))),
        ("price", "per_job", o.price_per_job.map(|v| json!(v))),
        ("price", "per_cpu_s", o.price_per_cpu_s.map(|v| json!(v))),
        ("price", "per_gib", o.price_per_gib.map(|v| json!(v))),
    ] {
        if let Some(value) = value {
            details[section][key] = value;
        }
    }
    if !o.label.is_empty() {
        details["labels"] = json!(o.label);
    }
    if let Some(word) = o.determinism {
        details["determinism"] = json!(match word {
            DeterminismWord::Strict => "strict",
            DeterminismWord::Pure => "pure",
            DeterminismWord::External => "external",
        });
    }
    if !o.param.is_empty() || !o.secret_param.is_empty() {
        details["params"] = Value::Array(params(o));
    }
    describe(details, &o.param_help)
}

fn params(o: &DetailOptions) -> Vec<Value> {
    let open = o.param.iter().map(|given| match given.split_once('=') {
        Some((name, default)) => json!({"name": name, "default": default}),
        None => json!({"name": given}),
    });
    open.chain(o.secret_param.iter().map(|name| json!({"name": name, "secret": true}))).collect()
}

fn describe(details: &mut Value, help: &[String]) -> Result<(), Failure> {
    for given in help {
        let Some((name, words)) = given.split_once('=') else {
            return Err(Failure::usage(format!("`--param-help {given}` is not NAME=WORDS")));
        };
        let params = details["params"].as_array_mut().into_iter().flatten();
        match params.into_iter().find(|p| p["name"] == json!(name)) {
            Some(param) => param["description"] = json!(words),
            None => return Err(Failure::usage(format!("there is no parameter `{name}` to describe"))),
        }
    }
    Ok(())
}

/// `service export ID`
pub async fn export(client: &Client, args: &ServiceExport) -> Result<(), Failure> {
    let document = client.get(&format!("/services/{}/export", args.id)).await?;
    if let (Some(dir), Some(digest)) = (&args.module, document["data"].as_str()) {
        super::directories::get(client, digest, dir).await?;
    } else if let Some(file) = &args.module {
        let mut out = tokio::fs::File::create(file).await?;
        client.download(&format!("/services/{}/module", args.id), &mut out).await?;
        out.sync_all().await?;
    }
    let written = serde_json::to_string_pretty(&document)
        .map_err(|e| Failure::node(format!("the node's answer cannot be written: {e}")))?;
    println!("{written}");
    Ok(())
}

/// `service import FILE`
pub async fn import(client: &Client, shown: Shown, args: &ServiceImport) -> Result<(), Failure> {
    let mut document = read(args)?;
    let Some(fields) = document.as_object_mut() else {
        return Err(Failure::usage("a service is written as a mapping; use what `service export` wrote"));
    };
    let was = fields.remove("id");
    if let Some(file) = &args.module {
        let kind =
            ["program", "data"].into_iter().find(|kind| fields.contains_key(*kind)).unwrap_or("module");
        let digest = match kind {
            "data" => super::directories::put(client, file).await?["digest"].clone(),
            _ => json!(upload(client, file).await?.digest.to_string()),
        };
        if fields.get(kind).is_some_and(|named| *named != digest) {
            return Err(Failure::usage(format!("{} is not the {kind} of this service", file.display())));
        }
        fields.insert(kind.to_owned(), digest);
    }
    let mut answer = client.post("/services", &document).await?;
    let same = was.as_ref().is_none_or(|was| *was == answer["id"]);
    answer["same"] = json!(same);
    shown.value(&answer, |a| {
        println!("offering {} as {}", text(&document, "name"), text(a, "id"));
        if !same {
            println!("note: it is not the service that was exported: what it runs here is something else");
        }
    });
    Ok(())
}

fn read(args: &ServiceImport) -> Result<Value, Failure> {
    let mut document = String::new();
    let broken = |e: &dyn std::fmt::Display| Failure::usage(format!("{}: {e}", args.file.display()));
    if args.file.as_os_str() == "-" {
        std::io::stdin().take(DOCUMENT_BYTES_MAX).read_to_string(&mut document)?;
    } else {
        let file = std::fs::File::open(&args.file).map_err(|e| broken(&e))?;
        file.take(DOCUMENT_BYTES_MAX).read_to_string(&mut document).map_err(|e| broken(&e))?;
    }
    // JSON is YAML, but its own parser says better what is wrong with it.
    if document.trim_start().starts_with('{') {
        serde_json::from_str(&document).map_err(|e| broken(&e))
    } else {
        serde_saphyr::from_str(&document).map_err(|e| broken(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_put_over_what_was_there_and_the_rest_stays() {
        let mut details =
            json!({"needs": {"os": "linux", "gpus": 1}, "labels": ["a"], "params": [{"name": "P"}]});
        let options = DetailOptions {
            needs_gpus: Some(2),
            needs_memory_mib: Some(3),
            price_per_job: Some(7),
            param_help: vec!["P=a parameter".into()],
            ..DetailOptions::default()
        };
        apply(&mut details, &options).expect("applied");
        assert_eq!(details["needs"], json!({"os": "linux", "gpus": 2, "memory_bytes": 3 << 20}));
        assert_eq!((&details["labels"], &details["price"]), (&json!(["a"]), &json!({"per_job": 7})));
        assert_eq!(details["params"], json!([{"name": "P", "description": "a parameter"}]));
        let odd = DetailOptions { param_help: vec!["Q=x".into()], ..DetailOptions::default() };
        assert!(apply(&mut details, &odd).is_err());
        let mut none = Value::Null;
        let new = DetailOptions {
            param: vec!["A=1=2".into(), "B".into()],
            secret_param: vec!["S".into()],
            determinism: Some(DeterminismWord::Pure),
            ..DetailOptions::default()
        };
        apply(&mut none, &new).expect("applied");
        let params = json!([{"name": "A", "default": "1=2"}, {"name": "B"}, {"name": "S", "secret": true}]);
        assert_eq!((&none["params"], &none["determinism"]), (&params, &json!("pure")));
    }
}
