//! `service add docker …`: an image becomes a service. What flags do not say, its metadata may; an image that is not here is pulled.

use super::args::ServiceAddDocker;
use super::output::{bytes, plain, table, text};
use super::remote::{Shown, add_service, mounts};
use super::{Client, Failure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::time::Duration;

/// How often a pull that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What is found out, and with `--suggest` nothing else.
pub(super) async fn add(client: &Client, shown: Shown, args: &ServiceAddDocker) -> Result<Value, Failure> {
    let found = find(client, args).await?;
    // A pull has a name with a digest for it.
    let image = found["image"].as_str().unwrap_or(&args.image).to_owned();
    if args.suggest {
        shown.value(&found, |found| {
            println!("{}", plain(&image));
            table(&["PORT", "DIRECTION", "PATH", "CONFIDENCE", "REASON"], &rows(found));
            for note in notes(found) {
                println!("note: {}", plain(note));
            }
        });
        return Ok(Value::Null);
    }
    // `registry:5000/tools/count:1.2@sha256:…` is called `count`.
    let last = args.image.split('@').next().and_then(|name| name.rsplit('/').next()).unwrap_or_default();
    let mut name = last.split(':').next().unwrap_or_default().to_lowercase();
    let mut options = args.common.clone();
    let mut all = mounts(&args.mount_in, &args.mount_out);
    let mut used = Vec::new();
    if !args.no_suggestions {
        if let Some(title) = found["name"].as_str() {
            name = title.to_owned();
        }
        if let (true, Some(words)) = (options.description.is_empty(), found["description"].as_str()) {
            options.description = words.to_owned();
        }
        let sure = |p: &&Value| !p["path"].is_null() && p["confidence"] != json!("low");
        if all.is_empty() {
            for port in ports(&found).iter().filter(sure) {
                all.push(json!({"name": port["port"], "direction": port["direction"], "path": port["path"]}));
                used.push(format!(
                    "mount {} at {}: {}",
                    text(port, "port"),
                    text(port, "path"),
                    text(port, "reason")
                ));
            }
        }
        if !options.no_stdin && !ports(&found).iter().any(|p| p["port"] == json!("stdin")) {
            options.no_stdin = true;
            used.push("it reads no standard input, as far as its metadata say".to_owned());
        }
    }
    let program = json!({"image": image, "entrypoint": args.entrypoint, "workdir": args.workdir});
    let mut answer = add_service(client, &options, name, all, program).await?;
    if let Some(object) = answer.as_object_mut() {
        let hints = object.entry("hints").or_insert(json!([]));
        if let Some(hints) = hints.as_array_mut() {
            hints.splice(0..0, used.into_iter().map(Value::from));
        }
    }
    Ok(answer)
}

fn ports(found: &Value) -> &[Value] {
    found["ports"].as_array().map_or(&[], Vec::as_slice)
}

fn notes(found: &Value) -> impl Iterator<Item = &str> {
    found["notes"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn rows(found: &Value) -> Vec<Vec<String>> {
    let row =
        |p: &Value| ["port", "direction", "path", "confidence", "reason"].map(|key| text(p, key)).to_vec();
    ports(found).iter().map(row).collect()
}

/// What the engine knows of the image, which is pulled when it is not here.
async fn find(client: &Client, args: &ServiceAddDocker) -> Result<Value, Failure> {
    let mut name = args.image.clone();
    if !args.pull {
        if args.no_pull {
            return client.post("/docker/inspect", &json!({"image": name})).await;
        }
        if let Some(found) = client.find("/docker/inspect", &json!({"image": name})).await? {
            return Ok(found);
        }
    }
    let pulled = pull(client, &name).await?;
    if let Some(exact) = pulled["image"].as_str() {
        exact.clone_into(&mut name);
    }
    client.post("/docker/inspect", &json!({"image": name})).await
}

async fn pull(client: &Client, name: &str) -> Result<Value, Failure> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(format!("pulling {}", plain(name)));
    let body = json!({"image": name});
    let mut pulled = std::pin::pin!(client.post("/docker/pull", &body));
    let mut look = tokio::time::interval(LOOK_EVERY);
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut pulled => break answer,
            _ = look.tick() => {}
        }
        let all = client.get("/docker/pulls").await.unwrap_or_default();
        let mine =
            |p: &&Value| p["image"].as_str().is_some_and(|i| i == name || i.starts_with(&format!("{name}@")));
        if let Some(now) = all["pulls"].as_array().into_iter().flatten().find(mine) {
            let number = |key: &str| now[key].as_u64().unwrap_or_default();
            bar.set_length(number("len"));
            bar.set_position(number("done"));
            bar.set_message(format!(
                "pulling {}, layer {} of {}",
                plain(name),
                number("layers_done"),
                number("layers")
            ));
        }
    };
    let size = bytes(bar.position());
    bar.finish_and_clear();
    if answer.is_ok() && bar.position() > 0 {
        eprintln!("pulled {}: {size}", plain(name));
    }
    answer
}
