//! Builds the web application with npm and turns it into a table of files for the binary.
//!
//! The checkout stays clean: sources are copied to `OUT_DIR` and built there. Where Node.js (20.19 or newer) or npm is
//! missing, or npm fails (no network), the build goes on with a plain page that says what is missing, because a node
//! without its page is still a whole node.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the web application is made of, relative to this package.
const SOURCES: &[&str] = &[
    "package.json",
    "package-lock.json",
    ".npmrc",
    "index.html",
    "vite.config.ts",
    "tsconfig.json",
    "env.d.ts",
    "src",
    "public",
];
/// The oldest Node.js that the bundler runs on.
const NODE_AT_LEAST: (u32, u32) = (20, 19);

fn main() {
    for source in SOURCES.iter().chain(&["plain"]) {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=REMOTE_NETWORK_WEB");
    if let Err(e) = build() {
        println!("cargo::error=the web assets could not be put together: {e}");
    }
}

fn build() -> io::Result<()> {
    let package = PathBuf::from(env("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env("OUT_DIR")?);
    let bundle = match bundle(&package, &out.join("web")) {
        Ok(dist) => Some(dist),
        Err(why) => {
            println!("cargo::warning=the binary gets a plain page instead of the web application: {why}");
            None
        }
    };
    let root = bundle.clone().unwrap_or_else(|| package.join("plain"));
    fs::write(out.join("assets.rs"), table(&root, bundle.is_some())?)
}

fn env(name: &str) -> io::Result<String> {
    std::env::var(name).map_err(|e| io::Error::other(format!("{name}: {e}")))
}

/// Builds the application in `work`; the directory with its files, or why there is none.
fn bundle(package: &Path, work: &Path) -> Result<PathBuf, String> {
    if std::env::var("REMOTE_NETWORK_WEB").as_deref() == Ok("plain") {
        return Err("REMOTE_NETWORK_WEB=plain asks for that".into());
    }
    node_is_new_enough()?;
    for source in SOURCES {
        let (from, to) = (package.join(source), work.join(source));
        remove(&to).and_then(|()| copy(&from, &to)).map_err(|e| format!("{}: {e}", from.display()))?;
    }
    remove(&work.join("dist")).map_err(|e| format!("dist: {e}"))?;
    let lock = fs::read(package.join("package-lock.json")).map_err(|e| format!("package-lock.json: {e}"))?;
    let stamp = work.join("installed-lock");
    if fs::read(&stamp).ok().as_deref() != Some(&lock[..]) {
        npm(work, &["ci", "--no-audit", "--no-fund", "--ignore-scripts"])?;
        fs::write(&stamp, &lock).map_err(|e| format!("{}: {e}", stamp.display()))?;
    }
    npm(work, &["run", "bundle"])?;
    let dist = work.join("dist");
    if dist.join("index.html").is_file() {
        Ok(dist)
    } else {
        Err("`npm run bundle` left no index.html".into())
    }
}

fn node_is_new_enough() -> Result<(), String> {
    let wanted = format!("{}.{}", NODE_AT_LEAST.0, NODE_AT_LEAST.1);
    let output = Command::new("node")
        .arg("--version")
        .output()
        .map_err(|e| format!("Node.js {wanted} or newer is needed and `node` does not run ({e})"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let mut numbers = text.trim_start_matches('v').split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= NODE_AT_LEAST { Ok(()) } else { Err(format!("Node.js {wanted} is needed, found {text}")) }
}

fn npm(dir: &Path, args: &[&str]) -> Result<(), String> {
    let output = Command::new("npm")
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("`npm` does not run ({e})"))?;
    if output.status.success() {
        return Ok(());
    }
    let mut words = String::from_utf8_lossy(&output.stderr).into_owned();
    words.push_str(&String::from_utf8_lossy(&output.stdout));
    let last: Vec<&str> = words.lines().rev().filter(|l| !l.trim().is_empty()).take(5).collect();
    Err(format!(
        "`npm {}` failed: {}",
        args.join(" "),
        last.into_iter().rev().collect::<Vec<_>>().join(" | ")
    ))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Rust source of the table of all files below `root`.
fn table(root: &Path, full: bool) -> io::Result<String> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    files.sort();
    let mut source = format!("const FULL: bool = {full};\nstatic ASSETS: &[(&str, Asset)] = &[\n");
    for (name, path) in files {
        let etag = blake3::hash(&fs::read(&path)?).to_hex();
        let etag = format!("\"{}\"", etag.get(..32).unwrap_or_default());
        let mime = mime(&name);
        let _ = writeln!(
            source,
            "    ({name:?}, Asset {{ bytes: include_bytes!({path:?}), mime: {mime:?}, etag: {etag:?} }}),"
        );
    }
    source.push_str("];\n");
    Ok(source)
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            let parts: Vec<_> = name.components().map(|c| c.as_os_str().to_string_lossy()).collect();
            files.push((parts.join("/"), path.clone()));
        }
    }
    Ok(())
}

fn mime(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        "json" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
