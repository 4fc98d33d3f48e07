//! Commands that ask the running node through its API.

use super::args::{
    Command, DataCommand, Global, PeersCommand, RunsCommand, ServiceAdd, ServiceAddWasm, ServiceCommand,
    ServiceOptions, WorkflowCommand, WorkflowFile,
};
use super::output::{ago, bytes, duration, plain, short, table, text};
use super::{Client, Failure, configuration, directories, relay, service as services, standalone};
use crate::workflow_text::{self, Format, Params, ParsedNode, ParsedWorkflow, SourceItem};
use indicatif::{ProgressBar, ProgressStyle};
use remote_network_core::id::{Digest, RunId};
use remote_network_core::job::workflow::{ObjectRef, Problem};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};

/// How often a run that is waited for is looked at. The page gets events; a terminal is served well enough by this.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs one command.
pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let config = configuration(global, &[])?;
    let client = Client::of(&config.settings.data_dir)?;
    runtime.block_on(async {
        let shown = Shown { json: global.json };
        match command {
            Command::Stop => stop(&client, shown).await,
            Command::Status => status(&client, shown).await,
            Command::Dht(c) => super::dht::run(&client, shown, c).await,
            Command::Relay(c) => relay::run(&client, shown, c).await,
            Command::Peers(c) => peers(&client, shown, c).await,
            Command::Data(DataCommand::Add { files }) => data_add(&client, shown, &files).await,
            Command::Data(DataCommand::Files { digest }) => directories::list(&client, shown, &digest).await,
            Command::Data(DataCommand::Get { digest, dir }) => {
                let written = directories::get(&client, &digest.to_string(), &dir).await?;
                shown.value(&json!({"files": written}), |_| {
                    written.iter().for_each(|f| println!("{}", plain(f)))
                });
                Ok(())
            }
            Command::Data(DataCommand::Remove { digests }) => data_remove(&client, shown, &digests).await,
            Command::Service(c) => service(&client, shown, c).await,
            Command::Policy(c) => super::policy::run(&client, shown, c).await,
            Command::Workflow(c) => workflow(&client, shown, c).await,
            Command::Runs(c) => runs(&client, shown, c).await,
            Command::Start(_)
            | Command::Key(_)
            | Command::Config(_)
            | Command::Receipt(_)
            | Command::Demo(_)
            | Command::Simulate(_)
            | Command::Doctor
            | Command::Completions { .. }
            | Command::Bench(_)
            | Command::Worker => Err(Failure::usage("this command does not ask a running node")),
        }
    })
}

/// How answers are shown: JSON as it came, or words.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    json: bool,
}

impl Shown {
    pub(super) fn json(self) -> bool {
        self.json
    }

    pub(super) fn value(self, value: &Value, words: impl FnOnce(&Value)) {
        if self.json {
            println!("{value}");
        } else {
            words(value);
        }
    }
}

async fn stop(client: &Client, shown: Shown) -> Result<(), Failure> {
    let answer = client.post("/shutdown", &json!({})).await?;
    shown.value(&answer, |_| println!("stopping"));
    Ok(())
}

async fn status(client: &Client, shown: Shown) -> Result<(), Failure> {
    let status = client.get("/status").await?;
    let api = client.addr();
    shown.value(&status, |s| {
        println!("{}", text(s, "key"));
        println!("  peer id    {}", text(s, "peer_id"));
        println!("  version    {}", text(s, "version"));
        println!("  up         {}", duration(Duration::from_millis(s["uptime_ms"].as_u64().unwrap_or(0))));
        println!("  page       http://localhost:{}", api.port());
        let list = |v: &Value| -> Vec<String> {
            v.as_array().into_iter().flatten().filter_map(|a| a.as_str().map(str::to_owned)).collect()
        };
        println!("  listens    {}", list(&s["local_addrs"]).join(", "));
        for o in s["observed_addrs"].as_array().into_iter().flatten() {
            println!("  seen as    {} by {} peer(s)", text(o, "addr"), text(o, "peers"));
        }
        for (label, words) in relay::reach_words(&s["reach"]) {
            println!("  {label:<9}  {words}");
        }
        println!("  peers      {} connected, {} known", text(s, "connected"), text(s, "known"));
        let reachable =
            if s["dht_reachable"].as_bool() == Some(true) { "reachable" } else { "not reachable" };
        println!("  DHT        {reachable}, {} nodes", text(s, "dht_nodes"));
        match &s["record"] {
            Value::Null => println!("  record     not published: waiting for {}", text(s, "record_waiting")),
            r => println!("  record     seq {}, stored {}", text(r, "seq"), ago(r["stored_at"].as_u64())),
        }
        println!(
            "  work       {} services, {} runs, {} jobs",
            text(s, "services"),
            text(s, "runs_active"),
            text(s, "jobs_active")
        );
        for (reason, n) in s["refused"].as_object().into_iter().flatten() {
            println!("  refused    {n} × {}", plain(reason));
        }
    });
    Ok(())
}

async fn peers(client: &Client, shown: Shown, command: PeersCommand) -> Result<(), Failure> {
    match command {
        PeersCommand::List => {
            let answer = client.get("/peers").await?;
            shown.value(&answer, |a| {
                let rows: Vec<Vec<String>> = items(a, "peers")
                    .map(|p| {
                        let rtt = p["rtt_us"]
                            .as_u64()
                            .map_or("-".into(), |us| format!("{:.1} ms", us as f64 / 1000.0));
                        vec![
                            text(p, "key"),
                            text(p, "state"),
                            relay::path_cell(p),
                            rtt,
                            text(p, "services"),
                            ago(p["last_seen"].as_u64()),
                            text(p, "trouble"),
                        ]
                    })
                    .collect();
                table(&["PEER", "STATE", "ADDRESS", "RTT", "SERVICES", "SEEN", "TROUBLE"], &rows);
            });
        }
        PeersCommand::Show { peer } => {
            let answer = client.get(&format!("/peers/{peer}")).await?;
            shown.value(&answer, show_peer);
        }
        PeersCommand::Block { peer } => block(client, shown, &peer.to_string(), true).await?,
        PeersCommand::Unblock { peer } => block(client, shown, &peer.to_string(), false).await?,
        PeersCommand::Connect { peer, addr } => {
            let answer =
                client.post("/peers/connect", &json!({"peer": peer.to_string(), "addr": addr})).await?;
            shown.value(&answer, show_peer);
        }
    }
    Ok(())
}

pub(super) async fn block(client: &Client, shown: Shown, peer: &str, blocked: bool) -> Result<(), Failure> {
    client.post("/peers/block", &json!({"peer": peer, "blocked": blocked})).await?;
    shown.value(&json!({"peer": peer, "blocked": blocked}), |_| {
        println!("{} {peer}", if blocked { "blocked" } else { "no longer blocked:" });
    });
    Ok(())
}

fn show_peer(p: &Value) {
    println!("{}", text(p, "key"));
    println!("  peer id    {}", text(p, "peer_id"));
    println!("  state      {} since {}", text(p, "state"), ago(p["since"].as_u64()));
    for (n, line) in relay::path_words(p).iter().enumerate() {
        println!("  {:<9}  {line}", if n == 0 { "path" } else { "" });
    }
    if let Some(us) = p["rtt_us"].as_u64() {
        println!("  rtt        {:.1} ms", us as f64 / 1000.0);
    }
    let sum = |k: &str| bytes(p[k].as_u64().unwrap_or(0));
    println!("  traffic    {} sent, {} received", sum("bytes_sent"), sum("bytes_received"));
    println!("  seen       first {}, last {}", ago(p["first_seen"].as_u64()), ago(p["last_seen"].as_u64()));
    println!("  learnt     {}", text(p, "source"));
    if p["blocked"].as_bool() == Some(true) {
        println!("  blocked    yes");
    }
    println!("  services   {}", text(p, "services"));
    if !p["trouble"].is_null() {
        println!("  trouble    {}", text(p, "trouble"));
    }
}

/// The list in an answer: the answer itself, or its field.
pub(super) fn items<'a>(answer: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    let list = if answer.is_array() { answer } else { &answer[field] };
    list.as_array().into_iter().flatten()
}

async fn data_add(client: &Client, shown: Shown, files: &[PathBuf]) -> Result<(), Failure> {
    for file in files {
        if file.is_dir() {
            let answer = directories::put(client, file).await?;
            let name = plain(&file.display().to_string());
            shown.value(&answer, |a| {
                let all = bytes(a["bytes"].as_u64().unwrap_or(0));
                println!("{}  len {}  {all}  {name}/", text(a, "digest"), text(a, "len"));
            });
            continue;
        }
        let object = upload(client, file).await?;
        let name = file.display().to_string();
        let answer = json!({"file": name, "digest": object.digest.to_string(), "len": object.len});
        shown.value(&answer, |a| println!("{}  {}  {}", text(a, "digest"), bytes(object.len), plain(&name)));
    }
    Ok(())
}

async fn data_remove(client: &Client, shown: Shown, digests: &[Digest]) -> Result<(), Failure> {
    for digest in digests {
        client.delete(&format!("/objects/{digest}")).await?;
        shown
            .value(&json!({"digest": digest.to_string(), "kept": false}), |_| println!("let go of {digest}"));
    }
    Ok(())
}

pub(super) async fn upload(client: &Client, file: &Path) -> Result<ObjectRef, Failure> {
    let answer = if file.as_os_str() == "-" {
        client.upload(tokio::io::stdin()).await?
    } else {
        let opened = tokio::fs::File::open(file)
            .await
            .map_err(|e| Failure::usage(format!("cannot read {}: {e}", file.display())))?;
        let len = opened.metadata().await.map(|m| m.len()).unwrap_or(0);
        let bar = ProgressBar::new(len).with_message(file.display().to_string());
        bar.set_style(bar_style("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}"));
        let answer = client.upload(Watched { inner: opened, bar: bar.clone() }).await;
        bar.finish_and_clear();
        answer?
    };
    object_ref(&answer)
}

/// A reader that moves a progress bar.
struct Watched<R> {
    inner: R,
    bar: ProgressBar,
}

impl<R: AsyncRead + Unpin> AsyncRead for Watched<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.bar.inc((buf.filled().len() - before) as u64);
        polled
    }
}

fn object_ref(answer: &Value) -> Result<ObjectRef, Failure> {
    let digest: Option<Digest> = answer["digest"].as_str().and_then(|d| d.parse().ok());
    match (digest, answer["len"].as_u64()) {
        (Some(digest), Some(len)) => Ok(ObjectRef { digest, len }),
        _ => Err(Failure::node("the node did not name the object it stored")),
    }
}

fn bar_style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

async fn service(client: &Client, shown: Shown, command: ServiceCommand) -> Result<(), Failure> {
    match command {
        ServiceCommand::List => {
            let answer = client.get("/services").await?;
            shown.value(&answer, |a| {
                let rows: Vec<Vec<String>> = items(a, "services")
                    .map(|s| {
                        let owner = if s["local"] == json!(true) {
                            "this node".into()
                        } else {
                            short(&text(s, "owner"))
                        };
                        let set_aside = s["details"]["status"] == json!("inactive");
                        vec![
                            text(s, "name"),
                            text(s, "version"),
                            text(s, "kind"),
                            if set_aside { format!("{owner}, set aside") } else { owner },
                            short(&text(s, "id")),
                            text(s, "description"),
                        ]
                    })
                    .collect();
                table(&["NAME", "VERSION", "KIND", "OWNER", "ID", "DESCRIPTION"], &rows);
            });
        }
        ServiceCommand::Add(add) => {
            let answer = match add {
                ServiceAdd::Wasm(args) => add_wasm(client, &args).await?,
                ServiceAdd::Docker(args) => match super::docker::add(client, shown, &args).await? {
                    Value::Null => return Ok(()),
                    answer => answer,
                },
                ServiceAdd::Standalone(args) => standalone::add(client, &args).await?,
                ServiceAdd::Data(args) => super::dataset::add(client, &args).await?,
            };
            shown.value(&answer, |a| {
                println!("offering {} as {}", text(a, "name"), text(a, "id"));
                for hint in a["hints"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    println!("note: {}", plain(hint));
                }
            });
        }
        ServiceCommand::Search(args) => {
            super::search::run(client, shown, &args.words, args.kind.as_deref()).await?;
        }
        ServiceCommand::Show { id } => services::show(client, shown, &id).await?,
        ServiceCommand::Activate { id } => services::activate(client, shown, &id, true).await?,
        ServiceCommand::Deactivate { id } => services::activate(client, shown, &id, false).await?,
        ServiceCommand::Edit(args) => services::edit(client, shown, &args).await?,
        ServiceCommand::Export(args) => services::export(client, &args).await?,
        ServiceCommand::Import(args) => services::import(client, shown, &args).await?,
        ServiceCommand::Remove { id } => {
            let answer = client.delete(&format!("/services/{id}")).await?;
            shown.value(&answer, |_| println!("removed {id}"));
        }
    }
    Ok(())
}

async fn add_wasm(client: &Client, args: &ServiceAddWasm) -> Result<Value, Failure> {
    let read = std::fs::read(&args.module)
        .map_err(|e| Failure::usage(format!("cannot read {}: {e}", args.module.display())))?;
    let module = wat::parse_bytes(&read)
        .map_err(|e| Failure::usage(format!("{} is no WebAssembly module: {e}", args.module.display())))?
        .into_owned();
    let stem = args.module.file_stem().map(|s| s.to_string_lossy().to_lowercase()).unwrap_or_default();
    let object = object_ref(&client.upload(std::io::Cursor::new(module)).await?)?;
    let mounts = mounts(&args.mount_in, &args.mount_out);
    add_service(client, &args.common, stem, mounts, json!({"module": object.digest.to_string()})).await
}

/// Mounts as `NAME` or `NAME=PATH`.
pub(super) fn mounts(reads: &[String], writes: &[String]) -> Vec<Value> {
    let mount = |direction: &'static str| {
        move |given: &String| match given.split_once('=') {
            Some((name, path)) => json!({"name": name, "direction": direction, "path": path}),
            None => json!({"name": given, "direction": direction}),
        }
    };
    reads.iter().map(mount("in")).chain(writes.iter().map(mount("out"))).collect()
}

pub(super) async fn add_service(
    client: &Client,
    options: &ServiceOptions,
    usual_name: String,
    mounts: Vec<Value>,
    program: Value,
) -> Result<Value, Failure> {
    let name = options.name.clone().unwrap_or(usual_name);
    let mut mounts = mounts;
    for (names, layout) in [(&options.tree, "tree"), (&options.trees, "trees")] {
        for name in names {
            let named: Vec<&mut Value> = mounts.iter_mut().filter(|m| m["name"] == json!(name)).collect();
            if named.is_empty() {
                return Err(Failure::usage(format!(
                    "there is no mount `{name}`; name it with --mount-in or --mount-out"
                )));
            }
            named.into_iter().for_each(|m| m["layout"] = json!(layout));
        }
    }
    let mut details = Value::Null;
    services::apply(&mut details, &options.details)?;
    let mut service = json!({
        "name": name,
        "description": options.description,
        "version": options.version,
        "stdin": !options.no_stdin,
        "mounts": mounts,
        "limits": {
            "memory_bytes": options.memory_mib << 20,
            "time_ms": options.time_s * 1_000,
            "output_bytes": options.output_mib << 20,
        },
        "visibility": services::visibility(options.private, &options.allow),
        "details": details,
    });
    if let (Some(service), Value::Object(program)) = (service.as_object_mut(), program) {
        service.extend(program);
    }
    let mut answer = client.post("/services", &service).await?;
    if let Some(object) = answer.as_object_mut() {
        object.entry("name").or_insert(json!(name));
    }
    Ok(answer)
}

fn problems(file: &Path, found: &[workflow_text::Problem]) -> Failure {
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    Failure::usage(format!("{} has {} problem(s):\n  {}", file.display(), found.len(), lines.join("\n  ")))
}

fn parse(workflow: WorkflowFile) -> Result<(PathBuf, ParsedWorkflow), Failure> {
    let WorkflowFile { file, params } = workflow;
    let written = std::fs::read_to_string(&file)
        .map_err(|e| Failure::usage(format!("cannot read {}: {e}", file.display())))?;
    let params = Params::typed(params, std::env::current_dir().ok()).map_err(Failure::usage)?;
    let parsed = workflow_text::parse_with(&written, Format::of_file_name(&file.to_string_lossy()), &params)
        .map_err(|p| problems(&file, &p))?;
    Ok((file, parsed))
}

/// What the node says of the workflow that it got, in the places of the file that people have.
fn located(file: &Path, parsed: &ParsedWorkflow, mut failure: Failure) -> Failure {
    if !failure.problems.is_empty() {
        let lines: Vec<String> = failure.problems.iter().map(|p| parsed.locate(p).to_string()).collect();
        failure.message =
            format!("{} has {} problem(s):\n  {}", file.display(), lines.len(), lines.join("\n  "));
    }
    failure
}

/// Brings every file and text of the workflow into the node's store, and writes the workflow with objects instead.
async fn with_objects(client: &Client, file: &Path, parsed: &ParsedWorkflow) -> Result<String, Failure> {
    let base = file.parent().unwrap_or(Path::new(""));
    let mut objects: BTreeMap<String, Result<ObjectRef, String>> = BTreeMap::new();
    for (_, node) in &parsed.nodes {
        let ParsedNode::Source(sources) = node else { continue };
        for item in sources {
            let (id, stored) = match item {
                SourceItem::File(name) => {
                    let stored = match upload(client, &base.join(name)).await {
                        Ok(object) => Ok(object),
                        // A file that cannot be read is the workflow's problem; a node that is gone is not.
                        Err(f) if f.is_usage() => Err(f.message),
                        Err(f) => return Err(f),
                    };
                    (format!("file {name}"), stored)
                }
                SourceItem::Text(content) => {
                    let answer = client.upload(std::io::Cursor::new(content.clone().into_bytes())).await?;
                    (format!("text {content}"), object_ref(&answer).map_err(|f| f.message))
                }
                SourceItem::Object(_) => continue,
            };
            objects.insert(id, stored);
        }
    }
    let compiled = parsed
        .compile(|item| {
            let id = match item {
                SourceItem::Object(o) => return Ok(o.clone()),
                SourceItem::File(name) => format!("file {name}"),
                SourceItem::Text(content) => format!("text {content}"),
            };
            objects.get(&id).cloned().unwrap_or_else(|| Err("was not stored".into()))
        })
        .map_err(|p| problems(file, &p))?;
    workflow_text::to_json(&compiled).map_err(Failure::usage)
}

async fn workflow(client: &Client, shown: Shown, command: WorkflowCommand) -> Result<(), Failure> {
    match command {
        WorkflowCommand::Validate { workflow } => {
            let (file, parsed) = parse(workflow)?;
            let written = with_objects(client, &file, &parsed).await?;
            let answer =
                client.post_text("/workflows/validate", format!("{{\"workflow\":{written}}}")).await?;
            if answer["valid"] != json!(true) {
                if shown.json {
                    println!("{answer}");
                }
                // The node saw the workflow as the client wrote it; people want the line of their file.
                let lines: Vec<String> = items(&answer, "problems")
                    .map(|p| Problem { place: text(p, "place"), reason: text(p, "reason") })
                    .map(|p| parsed.locate(&p).to_string())
                    .collect();
                return Err(Failure::work(format!(
                    "{} is not valid:\n  {}",
                    file.display(),
                    lines.join("\n  ")
                )));
            }
            shown.value(&answer, |_| println!("{} is valid", file.display()));
        }
        WorkflowCommand::Plan { workflow } => {
            let (file, parsed) = parse(workflow)?;
            let written = with_objects(client, &file, &parsed).await?;
            let answer = client
                .post_text("/workflows/plan", format!("{{\"workflow\":{written}}}"))
                .await
                .map_err(|f| located(&file, &parsed, f))?;
            shown.value(&answer, |a| {
                let rows: Vec<Vec<String>> = items(a, "placements")
                    .map(|p| {
                        let peers: Vec<String> = p["peers"]
                            .as_array()
                            .into_iter()
                            .flatten()
                            .filter_map(Value::as_str)
                            .map(short)
                            .collect();
                        vec![text(p, "task"), text(p, "service_name"), peers.join(", "), text(p, "why")]
                    })
                    .collect();
                table(&["TASK", "SERVICE", "PEERS", "WHY"], &rows);
            });
        }
        WorkflowCommand::Run { workflow, detach, run_id, output } => {
            let (file, parsed) = parse(workflow)?;
            let written = with_objects(client, &file, &parsed).await?;
            let run = match run_id {
                Some(run) => run,
                None => random_run_id()?,
            };
            client
                .post_text("/runs", format!("{{\"run\":\"{run}\",\"workflow\":{written}}}"))
                .await
                .map_err(|f| located(&file, &parsed, f))?;
            if detach {
                let answer = json!({"run": run.to_string()});
                shown.value(&answer, |_| println!("{run}"));
                return Ok(());
            }
            let view = follow(client, &run, !shown.json).await?;
            if let Some(dir) = &output {
                fetch(client, &view, dir).await?;
            }
            shown.value(&view, show_run);
            ended_well(&view)?;
        }
        WorkflowCommand::Schema => {
            return Err(Failure::usage("this command does not ask a running node"));
        }
        WorkflowCommand::List => {
            let answer = client.get("/runs").await?;
            let mut latest: BTreeMap<String, (u64, Value)> = BTreeMap::new();
            for run in items(&answer, "runs") {
                let entry = latest.entry(text(run, "name")).or_insert((0, run.clone()));
                entry.0 += 1;
            }
            let list: Vec<Value> = latest
                .iter()
                .map(|(name, (n, run))| json!({"name": name, "runs": n, "last_run": run["run"], "last_state": run["state"], "last_submitted": run["submitted"]}))
                .collect();
            shown.value(&json!({"workflows": list}), |a| {
                let rows: Vec<Vec<String>> = items(a, "workflows")
                    .map(|w| {
                        vec![
                            text(w, "name"),
                            text(w, "runs"),
                            text(w, "last_run"),
                            text(w, "last_state"),
                            ago(w["last_submitted"].as_u64()),
                        ]
                    })
                    .collect();
                table(&["WORKFLOW", "RUNS", "LAST RUN", "STATE", "SUBMITTED"], &rows);
            });
        }
    }
    Ok(())
}

/// A run id nobody has used.
pub fn random_run_id() -> Result<RunId, Failure> {
    use ring::rand::SecureRandom as _;
    let mut id = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut id).map_err(|_| Failure::work("no random bytes to be had"))?;
    Ok(RunId(id))
}

/// Waits for the end of a run; shows its progress.
pub async fn follow(client: &Client, run: &RunId, show: bool) -> Result<Value, Failure> {
    let bar = if show { ProgressBar::new(0) } else { ProgressBar::hidden() };
    bar.set_style(bar_style("{spinner} {pos}/{len} tasks {wide_bar} {msg}"));
    loop {
        let view = client.get(&format!("/runs/{run}")).await?;
        bar.set_length(view["tasks_total"].as_u64().unwrap_or(0));
        bar.set_position(view["tasks_committed"].as_u64().unwrap_or(0));
        let why = view["why"].as_str().map(|w| format!(": {}", plain(w))).unwrap_or_default();
        bar.set_message(format!("{}{why}", text(&view, "state")));
        if view["terminal"] == json!(true) {
            bar.finish_and_clear();
            return Ok(view);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn ended_well(view: &Value) -> Result<(), Failure> {
    match view["state"].as_str() {
        Some("succeeded") => Ok(()),
        _ => Err(Failure::work(format!("the run has {}: {}", text(view, "state"), text(view, "why")))),
    }
}

fn show_run(view: &Value) {
    println!("run {}  {}  {}", text(view, "run"), text(view, "name"), text(view, "state"));
    if !view["why"].is_null() {
        println!("  {}", text(view, "why"));
    }
    if let Some(since) = view["paused"].as_u64() {
        println!("  paused {}", ago(Some(since)));
    }
    let rows: Vec<Vec<String>> = items(view, "tasks")
        .map(|t| {
            let wall = t["usage"]["wall_ms"].as_u64().map_or("-".into(), |ms| format!("{ms} ms"));
            vec![
                text(t, "id"),
                text(t, "state"),
                text(t, "service"),
                t["peer"].as_str().map_or("-".into(), short),
                text(t, "attempt"),
                wall,
                text(t, "why"),
            ]
        })
        .collect();
    table(&["TASK", "STATE", "SERVICE", "PEER", "ATTEMPT", "TIME", "WHY"], &rows);
    super::agreement::lines(view).iter().for_each(|line| println!("{line}"));
    for r in items(view, "results") {
        let (len, fetched) = (r["len"].as_u64().unwrap_or(0), r["fetched"].as_u64().unwrap_or(0));
        println!(
            "result {}[{}]: {} of {}, {}",
            text(r, "sink"),
            text(r, "n"),
            bytes(fetched),
            bytes(len),
            text(r, "digest")
        );
    }
}

async fn runs(client: &Client, shown: Shown, command: RunsCommand) -> Result<(), Failure> {
    match command {
        RunsCommand::List => {
            let answer = client.get("/runs").await?;
            shown.value(&answer, |a| {
                let rows: Vec<Vec<String>> = items(a, "runs")
                    .map(|r| {
                        let progress = format!("{}/{}", text(r, "tasks_committed"), text(r, "tasks_total"));
                        vec![
                            text(r, "run"),
                            text(r, "name"),
                            text(r, "state"),
                            progress,
                            ago(r["submitted"].as_u64()),
                            text(r, "why"),
                        ]
                    })
                    .collect();
                table(&["RUN", "WORKFLOW", "STATE", "TASKS", "SUBMITTED", "WHY"], &rows);
            });
        }
        RunsCommand::Show { run } => {
            let view = client.get(&format!("/runs/{run}")).await?;
            shown.value(&view, show_run);
        }
        RunsCommand::Logs { run, task } => logs(client, shown, &run, task).await?,
        RunsCommand::Fetch { run, output } => {
            let view = client.get(&format!("/runs/{run}")).await?;
            let written = fetch(client, &view, &output).await?;
            shown.value(&json!({"files": written}), |_| written.iter().for_each(|f| println!("{f}")));
        }
        RunsCommand::Pause { run } => {
            let answer = client.post(&format!("/runs/{run}/pause"), &json!({})).await?;
            shown.value(&answer, |_| println!("{run} is paused"));
        }
        RunsCommand::Resume { run } => {
            let answer = client.post(&format!("/runs/{run}/resume"), &json!({})).await?;
            shown.value(&answer, |_| println!("{run} goes on"));
        }
        RunsCommand::Cancel { run } => {
            let answer = client.post(&format!("/runs/{run}/cancel"), &json!({})).await?;
            shown.value(&answer, |_| println!("cancelling {run}"));
        }
    }
    Ok(())
}

async fn logs(client: &Client, shown: Shown, run: &RunId, task: Option<String>) -> Result<(), Failure> {
    let view = client.get(&format!("/runs/{run}")).await?;
    let mut found = false;
    for t in items(&view, "tasks") {
        let id = text(t, "id");
        if task.as_ref().is_some_and(|wanted| *wanted != id) {
            continue;
        }
        found = true;
        let mut log = Vec::new();
        match client.download(&format!("/runs/{run}/tasks/{id}/logs"), &mut log).await {
            Ok(_) => {}
            Err(f) if task.is_none() => {
                eprintln!("{id}: {}", f.message);
                continue;
            }
            Err(f) => return Err(f),
        }
        let written = String::from_utf8_lossy(&log);
        if shown.json {
            println!("{}", json!({"task": id, "log": written}));
        } else {
            written.lines().for_each(|line| println!("{id}: {}", plain(line)));
        }
    }
    if found {
        Ok(())
    } else {
        Err(Failure::usage(format!("run {run} has no task {}", task.unwrap_or_default())))
    }
}

/// Writes results and receipts of a run to `dir`; returns the files.
async fn fetch(client: &Client, view: &Value, dir: &Path) -> Result<Vec<String>, Failure> {
    tokio::fs::create_dir_all(dir).await?;
    let run = text(view, "run");
    let mut written = Vec::new();
    for r in items(view, "results") {
        let (sink, n) = (text(r, "sink"), text(r, "n"));
        let file = dir.join(format!("{sink}-{n}"));
        if r["tree"] == json!(true) {
            written.extend(directories::get(client, &text(r, "digest"), &file).await?);
            continue;
        }
        save(client, &format!("/runs/{run}/results/{sink}/{n}"), &file).await?;
        written.push(file.display().to_string());
    }
    for t in items(view, "tasks").filter(|t| t["has_receipt"] == json!(true)) {
        let id = text(t, "id");
        let file = dir.join(format!("{id}.receipt"));
        save(client, &format!("/runs/{run}/tasks/{id}/receipt"), &file).await?;
        written.push(file.display().to_string());
    }
    for t in items(view, "tasks").filter(|t| t["agreement"]["has_evidence"] == json!(true)) {
        let id = text(t, "id");
        let file = dir.join(format!("{id}.evidence"));
        save(client, &format!("/runs/{run}/tasks/{id}/evidence"), &file).await?;
        written.push(file.display().to_string());
    }
    Ok(written)
}

/// Downloads into a temporary file beside the target, then renames: a broken download leaves no half result.
async fn save(client: &Client, path: &str, file: &Path) -> Result<(), Failure> {
    let part = file.with_extension("part");
    let mut out = tokio::fs::File::create(&part).await?;
    client.download(path, &mut out).await?;
    out.sync_all().await?;
    tokio::fs::rename(&part, file).await?;
    Ok(())
}
