//! What an image's metadata say about how it wants to be used: ports, each with a confidence and its reason.
//!
//! Metadata were written for people who type `docker run`, so most of it is a guess; an image that was made for this network can
//! say it outright with labels: `network.remote.iface.NAME.type` is `stdin` or `mount`, and of a mount `.path` says where it
//! lies, `.mode` is `in` or `out`, `.doc` is for people. Where labels name ports, nothing is guessed.
//!
//! | found | suggested |
//! |---|---|
//! | a volume named like an input or an output | a mount in that direction |
//! | another volume | a mount that is read, with little confidence |
//! | no volume, a working directory named like one | the same, with little confidence |
//! | exposed ports, or a program known as a server | no standard input, and a note that there is no network |
//! | a shell or an interpreter, or nothing that speaks against it | standard input |
//!
//! A pure function: engines of all ages leave out what is empty, so everything may be missing.

use bollard::models::{ImageConfig, ImageInspect};
use remote_network_core::service::program::valid_mount_path;
use remote_network_core::service::{DESCRIPTION_MAX, MOUNTS_MAX, NAME_MAX, valid_name};
use std::collections::{BTreeMap, BTreeSet};

/// Labels of this network begin so.
const OURS: &str = "network.remote.iface.";
/// Notes and reasons are for people, who read only so many.
const NOTES_MAX: usize = 16;
/// Programs that serve until they are stopped.
const SERVERS: [&str; 18] = [
    "nginx",
    "httpd",
    "apache2",
    "caddy",
    "haproxy",
    "traefik",
    "envoy",
    "redis-server",
    "mysqld",
    "mariadbd",
    "postgres",
    "mongod",
    "memcached",
    "rabbitmq-server",
    "sshd",
    "gunicorn",
    "uvicorn",
    "dockerd",
];
/// Programs that do what standard input says.
const INTERPRETERS: [&str; 12] =
    ["sh", "bash", "ash", "dash", "zsh", "busybox", "python", "python3", "node", "perl", "ruby", "Rscript"];
const READ: [&str; 9] = ["in", "input", "inputs", "source", "sources", "src", "import", "models", "model"];
const WRITTEN: [&str; 9] =
    ["out", "output", "outputs", "result", "results", "export", "exports", "target", "dist"];
/// Directories that are worked on, which says nothing of a direction.
const WORKED_ON: [&str; 5] = ["data", "work", "workspace", "files", "mnt"];

/// How sure a suggestion is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Confidence {
    /// A guess that its owner should look at.
    Low,
    /// What such images usually mean.
    Medium,
    /// The image says so itself, or it is always so.
    High,
}

/// A port that a service of this image may have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Interface {
    /// Standard input, output or error: `stdin`, `stdout`, `stderr`.
    Stream(&'static str),
    /// A directory.
    Mount {
        /// Its name as a port.
        name: String,
        /// Where it lies.
        path: String,
        /// Whether it is an output.
        written: bool,
    },
}

/// A suggested port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suggested {
    /// Which.
    pub interface: Interface,
    /// How sure that is.
    pub confidence: Confidence,
    /// Why, in words for people.
    pub reason: String,
}

/// All that the metadata say.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Suggestion {
    /// Ports. Standard input is in it when it is suggested.
    pub ports: Vec<Suggested>,
    /// A name for the service, when the image has one that may be.
    pub name: Option<String>,
    /// A description, when the image has one.
    pub description: Option<String>,
    /// Its version, when it says so.
    pub version: Option<String>,
    /// What the image asks for that a job does not have, in words for people.
    pub notes: Vec<String>,
}

impl Suggestion {
    /// Whether standard input is suggested.
    pub fn stdin(&self) -> bool {
        self.ports.iter().any(|p| p.interface == Interface::Stream("stdin"))
    }
}

/// Reads an image's metadata.
pub fn suggest(image: &ImageInspect) -> Suggestion {
    let none = ImageConfig::default();
    let config = image.config.as_ref().unwrap_or(&none);
    let labels: BTreeMap<&str, &str> =
        config.labels.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut out = Suggestion::default();
    let declared = declared(&labels, &mut out.notes);
    let server = server(config);
    match (&declared, &server) {
        (Some(ports), _) => out.ports.extend(ports.iter().cloned()),
        (None, server) => {
            if server.is_none() {
                out.ports.push(stdin(config));
            }
            out.ports.extend(mounts(config, &mut out.notes));
        }
    }
    for stream in ["stdout", "stderr"] {
        let reason = "every container has it".to_owned();
        out.ports.push(Suggested {
            interface: Interface::Stream(stream),
            confidence: Confidence::High,
            reason,
        });
    }
    if let Some(why) = server {
        out.notes.push(format!("{why}: jobs run to their end and have no network"));
    }
    user_and_environment(config, &mut out.notes);
    let oci = |key: &str| {
        let text = labels.get(format!("org.opencontainers.image.{key}").as_str())?;
        let plain: String = text.chars().filter(|c| !c.is_control()).collect();
        (!plain.trim().is_empty()).then(|| plain.trim().to_owned())
    };
    out.name = oci("title").map(|t| t.to_lowercase().replace(' ', "-")).filter(|n| valid_name(n));
    out.description = oci("description").filter(|d| d.len() <= DESCRIPTION_MAX);
    out.version = oci("version").filter(|v| v.len() <= NAME_MAX);
    out.notes.truncate(NOTES_MAX);
    out
}

/// Ports that labels name; `None` where there are none of ours.
fn declared(labels: &BTreeMap<&str, &str>, notes: &mut Vec<String>) -> Option<Vec<Suggested>> {
    let ours = labels.iter().filter_map(|(k, v)| Some((k.strip_prefix(OURS)?.rsplit_once('.')?, *v)));
    let mut found: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for ((name, key), value) in ours {
        found.entry(name).or_default().insert(key, value);
    }
    if found.is_empty() {
        return None;
    }
    let mut ports: Vec<Suggested> = Vec::new();
    for (name, said) in found {
        let get = |key: &str| said.get(key).copied();
        let doc = get("doc").map(|d| format!(": {d}")).unwrap_or_default();
        let reason =
            format!("the image's labels say so{doc}").chars().filter(|c| !c.is_control()).take(200).collect();
        let interface = match (get("type"), get("mode")) {
            (Some("stdin"), _) => Some(Interface::Stream("stdin")),
            // They are there in any case.
            (Some("stdout" | "stderr" | "logs"), _) => continue,
            (Some("mount"), Some(mode @ ("in" | "out"))) => {
                let path = get("path").map_or_else(|| format!("/{name}"), str::to_owned);
                (valid_name(name) && !name.starts_with('.') && valid_mount_path(&path))
                    .then(|| Interface::Mount { name: name.to_owned(), path, written: mode == "out" })
            }
            (_, _) => None,
        };
        match interface {
            Some(interface) if ports.len() <= MOUNTS_MAX => {
                ports.push(Suggested { interface, confidence: Confidence::High, reason });
            }
            Some(_) | None => {
                notes.push(format!("the labels of `{}` name no port that can be", printable(name)))
            }
        }
    }
    Some(ports)
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// The words of entry point and command, programs without their directories.
fn program(config: &ImageConfig) -> Option<String> {
    let words = config.entrypoint.iter().flatten().chain(config.cmd.iter().flatten());
    let base = |word: &String| word.rsplit('/').next().unwrap_or_default().to_owned();
    // Wrappers that say nothing of what is run.
    words
        .map(base)
        .find(|w| !["tini", "dumb-init", "--", "env", "exec", "docker-entrypoint.sh"].contains(&w.as_str()))
}

/// Why it looks like a server.
fn server(config: &ImageConfig) -> Option<String> {
    let ports: BTreeSet<&str> = config.exposed_ports.iter().flatten().map(String::as_str).collect();
    if !ports.is_empty() {
        let list: Vec<String> = ports.into_iter().take(4).map(printable).collect();
        return Some(format!("it exposes {}", list.join(", ")));
    }
    let program = program(config)?;
    SERVERS.contains(&program.as_str()).then(|| format!("it runs the server {program}"))
}

fn stdin(config: &ImageConfig) -> Suggested {
    let interpreter = program(config).filter(|p| INTERPRETERS.contains(&p.as_str()));
    let (confidence, reason) = match interpreter {
        Some(program) => (Confidence::Medium, format!("{program} reads it")),
        None => (Confidence::Low, "nothing speaks against it".to_owned()),
    };
    Suggested { interface: Interface::Stream("stdin"), confidence, reason }
}

/// What the name of a directory says: whether it is written, and how sure that is.
fn direction(name: &str) -> Option<(bool, Confidence)> {
    match name.to_lowercase().as_str() {
        name if READ.contains(&name) => Some((false, Confidence::Medium)),
        name if WRITTEN.contains(&name) => Some((true, Confidence::Medium)),
        name if WORKED_ON.contains(&name) => Some((false, Confidence::Low)),
        _ => None,
    }
}

fn mounts(config: &ImageConfig, notes: &mut Vec<String>) -> Vec<Suggested> {
    let volumes: BTreeSet<&str> = config.volumes.iter().flatten().map(|v| v.trim_end_matches('/')).collect();
    let mut names = BTreeSet::new();
    let mut found = Vec::new();
    for path in &volumes {
        let name: String = path
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
            .collect();
        let usable = valid_mount_path(path) && valid_name(&name) && !name.starts_with('.');
        if !usable || found.len() == MOUNTS_MAX || !names.insert(name.clone()) {
            notes.push(format!("the volume {} cannot be a mount by itself: name it", printable(path)));
            continue;
        }
        let (written, confidence) = direction(&name).unwrap_or((false, Confidence::Low));
        let way = if written { "written" } else { "read" };
        let reason = match confidence {
            Confidence::Low => format!("it declares the volume; whether it is {way} is a guess"),
            Confidence::Medium | Confidence::High => {
                format!("it declares the volume, and its name says it is {way}")
            }
        };
        let interface = Interface::Mount { name, path: (*path).to_owned(), written };
        found.push(Suggested { interface, confidence, reason });
    }
    if volumes.is_empty()
        && let Some(path) = config.working_dir.as_deref().map(|w| w.trim_end_matches('/'))
        && let Some(name) = path.rsplit('/').next()
        && let Some((written, _)) = direction(name)
        && valid_mount_path(path)
    {
        let interface = Interface::Mount { name: name.to_lowercase(), path: path.to_owned(), written };
        let reason = "it works in this directory".to_owned();
        found.push(Suggested { interface, confidence: Confidence::Low, reason });
    }
    found
}

fn user_and_environment(config: &ImageConfig, notes: &mut Vec<String>) {
    let user = config.user.as_deref().unwrap_or_default().split(':').next().unwrap_or_default();
    match user {
        "" | "0" | "root" => notes.push(
            "it expects to be root; jobs run as user 65534 and write to their mounts and /tmp only"
                .to_owned(),
        ),
        "65534" | "nobody" => {}
        other => notes.push(format!("it expects to be user {}; jobs run as user 65534", printable(other))),
    }
    for entry in config.env.iter().flatten() {
        if let Some(name) = entry.strip_suffix('=').filter(|n| !n.is_empty()) {
            notes.push(format!("it leaves {} open: a workflow may set it with `env`", printable(name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an image says, in one word a thing: `vol:/in`, `port:80/tcp`, `cmd:sh`, `entry:/bin/x`, `dir:/data`, `user:0`,
    /// `env:A=`, `KEY=VALUE` for a label.
    fn image(says: &[&str]) -> ImageInspect {
        let all = |prefix: &str| {
            let found: Vec<String> =
                says.iter().filter_map(|s| s.strip_prefix(prefix)).map(str::to_owned).collect();
            (!found.is_empty()).then_some(found)
        };
        let one = |prefix: &str| all(prefix).map(|mut found| found.remove(0));
        let label = |s: &&&str| s.starts_with("network.") || s.starts_with("org.");
        let labels = says.iter().filter(label).filter_map(|s| s.split_once('='));
        let labels: std::collections::HashMap<String, String> =
            labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let config = ImageConfig {
            volumes: all("vol:"),
            exposed_ports: all("port:"),
            cmd: all("cmd:"),
            entrypoint: all("entry:"),
            env: all("env:"),
            working_dir: one("dir:"),
            user: one("user:"),
            labels: (!labels.is_empty()).then_some(labels),
            ..ImageConfig::default()
        };
        ImageInspect { config: Some(config), ..ImageInspect::default() }
    }

    /// The ports but stdout and stderr, in one word each: `stdin?`, `<in@/data`, `>out@/out!` with the confidence as last mark.
    fn shown(says: &[&str]) -> String {
        let mark = |c| match c {
            Confidence::Low => "?",
            Confidence::Medium => "",
            Confidence::High => "!",
        };
        let suggestion = suggest(&image(says));
        let words = suggestion.ports.iter().filter_map(|p| match &p.interface {
            Interface::Stream("stdout" | "stderr") => None,
            Interface::Stream(name) => Some(format!("{name}{}", mark(p.confidence))),
            Interface::Mount { name, path, written } => {
                Some(format!("{}{name}@{path}{}", if *written { '>' } else { '<' }, mark(p.confidence)))
            }
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn metadata_become_ports() {
        let label = "network.remote.iface.";
        let l = |rest: &str| format!("{label}{rest}");
        let rows: Vec<(Vec<String>, &str)> = [
            (vec![], "stdin?"),
            (vec!["cmd:/bin/sh".into()], "stdin"),
            (vec!["entry:/usr/bin/tini".into(), "entry:--".into(), "cmd:python3".into()], "stdin"),
            (vec!["entry:/usr/local/bin/convert".into()], "stdin?"),
            (vec!["cmd:nginx".into(), "cmd:-g".into()], ""),
            (vec!["entry:docker-entrypoint.sh".into(), "cmd:postgres".into()], ""),
            (vec!["cmd:serve".into(), "port:8080/tcp".into()], ""),
            (vec!["vol:/in".into()], "stdin? <in@/in"),
            (vec!["vol:/data/input/".into()], "stdin? <input@/data/input"),
            (vec!["vol:/results".into(), "vol:/input".into()], "stdin? <input@/input >results@/results"),
            (vec!["vol:/Out".into()], "stdin? >out@/Out"),
            (vec!["vol:/data".into()], "stdin? <data@/data?"),
            (vec!["vol:/var/lib/thing".into()], "stdin? <thing@/var/lib/thing?"),
            (vec!["vol:/var/my files".into()], "stdin? <my-files@/var/my files?"),
            (vec!["vol:/proc/x".into()], "stdin?"),
            (vec!["vol:relative".into()], "stdin?"),
            (vec!["vol:/a/in".into(), "vol:/b/in".into()], "stdin? <in@/a/in"),
            (vec!["dir:/data".into()], "stdin? <data@/data?"),
            (vec!["dir:/out".into()], "stdin? >out@/out?"),
            (vec!["dir:/app".into()], "stdin?"),
            (vec!["dir:/data".into(), "vol:/in".into()], "stdin? <in@/in"),
            (vec!["vol:/in".into(), "port:80/tcp".into()], "<in@/in"),
            (vec![l("text.type=stdin"), "vol:/in".into()], "stdin!"),
            (vec![l("pics.type=mount"), l("pics.mode=in"), l("pics.path=/data/pics")], "<pics@/data/pics!"),
            (vec![l("done.type=mount"), l("done.mode=out")], ">done@/done!"),
            (vec![l("done.type=mount"), l("done.mode=sideways")], ""),
            (vec![l("up.type=mount"), l("up.mode=in"), l("up.path=/../etc")], ""),
            (vec![l("dev.type=mount"), l("dev.mode=in"), l("dev.path=/dev/x")], ""),
            (vec![l("log.type=stdout"), "port:80/tcp".into()], ""),
        ]
        .into();
        assert!(rows.len() >= 20);
        for (says, wanted) in rows {
            let says: Vec<&str> = says.iter().map(String::as_str).collect();
            assert_eq!(shown(&says), wanted, "{says:?}");
        }
        // Fields that engines leave out altogether.
        assert_eq!(suggest(&ImageInspect::default()).ports.len(), 3);
    }

    #[test]
    fn what_a_job_does_not_have_is_noted() {
        let notes = |says: &[&str]| suggest(&image(says)).notes.join("; ");
        assert!(notes(&[]).contains("root"));
        assert!(notes(&["user:0:0"]).contains("root"));
        assert_eq!(notes(&["user:65534:65534"]), "");
        assert!(notes(&["user:app"]).contains("user app"));
        assert!(notes(&["user:1000", "port:80/tcp"]).contains("exposes 80/tcp: jobs run to their end"));
        assert!(notes(&["user:nobody", "env:KEY=", "env:PATH=/bin"]).contains("leaves KEY open"));
        assert!(notes(&["user:nobody", "vol:/proc/x"]).contains("/proc/x cannot be a mount"));
        assert!(notes(&["user:nobody", "network.remote.iface.x.type=socket"]).contains("`x` name no port"));
        let many: Vec<String> = (0..100).map(|n| format!("env:A{n}=")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(suggest(&image(&many)).notes.len(), NOTES_MAX);
    }

    #[test]
    fn mounts_are_bounded_and_names_come_from_the_usual_labels() {
        let many: Vec<String> = (0..20).map(|n| format!("vol:/v{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mounts = |s: &Suggestion| {
            s.ports.iter().filter(|p| matches!(p.interface, Interface::Mount { .. })).count()
        };
        assert_eq!(mounts(&suggest(&image(&many))), MOUNTS_MAX);
        let named = suggest(&image(&[
            "org.opencontainers.image.title=Word Count",
            "org.opencontainers.image.description=counts \u{1b}[31mwords",
            "org.opencontainers.image.version=2.1",
        ]));
        assert_eq!(named.name.as_deref(), Some("word-count"));
        assert_eq!(named.description.as_deref(), Some("counts [31mwords"));
        assert_eq!(named.version.as_deref(), Some("2.1"));
        assert_eq!(suggest(&image(&["org.opencontainers.image.title=\u{e4}"])).name, None);
    }
}
