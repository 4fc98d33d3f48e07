//! Directories into the node's store and out of it: `data add DIR`, `data files`, `data get`, and results of runs.
//!
//! A directory goes file by file, each streamed, and then its manifest, which keeps them all. What comes out is written below a
//! directory that is made for it: the paths of a manifest are checked here once more, for whoever made it is a stranger.

use super::output::{bytes, plain};
use super::remote::Shown;
use super::{Client, Failure};
use remote_network_core::id::Digest;
use remote_network_core::manifest::{Entry, Manifest, PATH_DEPTH_MAX, is_plain_path};
use serde_json::{Value, json};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Lists the files of a directory of the node's store.
pub async fn list(client: &Client, shown: Shown, digest: &Digest) -> Result<(), Failure> {
    let answer = client.get(&format!("/trees/{digest}")).await?;
    shown.value(&answer, |a| {
        for f in a["files"].as_array().into_iter().flatten() {
            let size = bytes(f["len"].as_u64().unwrap_or(0));
            println!("{size:>12}  {}", plain(f["path"].as_str().unwrap_or("")));
        }
    });
    Ok(())
}

/// The files below a directory, with their paths relative to it. Links and what is neither file nor directory are refused.
fn files_below(dir: &Path) -> Result<Vec<(PathBuf, String)>, Failure> {
    let mut found = Vec::new();
    let mut left = vec![(dir.to_owned(), String::new(), 1)];
    while let Some((dir, below, depth)) = left.pop() {
        let bad = |path: &str, why: &str| Failure::usage(format!("{}: {why}", path.escape_debug()));
        let failed = |e: std::io::Error| Failure::usage(format!("cannot read {}: {e}", dir.display()));
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { return Err(bad(&name.to_string_lossy(), "not UTF-8")) };
            let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            if !is_plain_path(&path) {
                return Err(bad(&path, "this name cannot be part of a directory"));
            }
            let kind = entry.file_type().map_err(failed)?;
            match () {
                () if kind.is_file() => found.push((entry.path(), path)),
                () if kind.is_dir() && depth < PATH_DEPTH_MAX => left.push((entry.path(), path, depth + 1)),
                () if kind.is_dir() => return Err(bad(&path, "too many levels")),
                () => return Err(bad(&path, "neither a file nor a directory")),
            }
        }
    }
    Ok(found)
}

async fn upload(client: &Client, path: &Path) -> Result<(Digest, u64), Failure> {
    let file = tokio::fs::File::open(path).await;
    let file = file.map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
    let answer = client.upload_to("/objects?kept=false", file).await?;
    let digest = answer["digest"].as_str().and_then(|d| d.parse().ok());
    match (digest, answer["len"].as_u64()) {
        (Some(digest), Some(len)) => Ok((digest, len)),
        _ => Err(Failure::node("the node answered something else than an object")),
    }
}

/// Brings a directory into the node's store, where it is kept with all its files until it is let go.
pub async fn put(client: &Client, path: &Path) -> Result<Value, Failure> {
    let mut entries = Vec::new();
    for (file, path) in files_below(path)? {
        let (digest, len) = upload(client, &file).await?;
        let mode = std::fs::metadata(&file).map_or(0, |m| m.permissions().mode());
        entries.push(Entry { path, digest, len, executable: mode & 0o111 != 0 });
    }
    let manifest = Manifest::new(entries).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    // It keeps its files: none of them is kept by itself.
    client.upload_to("/trees", std::io::Cursor::new(manifest.encode())).await
}

/// Writes the files of a directory below `dir`, which must not exist. Returns what was written.
pub async fn get(client: &Client, digest: &str, dir: &Path) -> Result<Vec<String>, Failure> {
    let tree = client.get(&format!("/trees/{digest}")).await?;
    tokio::fs::create_dir(dir).await.map_err(|e| {
        Failure::usage(format!("{}: {e}; a directory is written to a new one", dir.display()))
    })?;
    let mut written = Vec::new();
    for f in tree["files"].as_array().into_iter().flatten() {
        let path = f["path"].as_str().unwrap_or("");
        if !is_plain_path(path) {
            return Err(Failure::node(format!("`{}` is no plain path", path.escape_debug())));
        }
        let file = dir.join(path);
        if let Some(parent) = file.parent() {
            tokio::fs::create_dir_all(parent).await?;
        }
        let mode = if f["executable"] == json!(true) { 0o755 } else { 0o644 };
        let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&file)?;
        let mut out = tokio::fs::File::from_std(opened);
        let len = client.download(&format!("/trees/{digest}/files/{}", escaped(path)), &mut out).await?;
        if f["len"].as_u64() != Some(len) {
            return Err(Failure::node(format!("{} came short", file.display())));
        }
        written.push(file.display().to_string());
    }
    Ok(written)
}

/// A path as a part of an address.
fn escaped(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_links_is_not_taken_and_paths_are_escaped() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), b"1").unwrap();
        let found = files_below(dir.path()).map_err(|f| f.message).unwrap();
        assert_eq!(found.iter().map(|(_, p)| p.as_str()).collect::<Vec<_>>(), ["a/b"]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("a/link")).unwrap();
        assert!(files_below(dir.path()).is_err());
        assert_eq!(escaped("a b/%ä?"), "a%20b/%25%C3%A4%3F");
    }
}
