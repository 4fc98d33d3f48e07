//! Directories: what files one has, one file of it, and a new one made of objects that are here.
//!
//! A directory is its manifest (`remote_network_core::manifest`); this is where people and programs meet it as JSON.

use super::blobs::OpenBlob;
use super::error::ApiError;
use super::node::Done;
use super::objects::{download, on_store_thread};
use super::routes::{Segments, parse_id};
use super::state::ApiState;
use axum::Json as Answer;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::HeaderMap;
use axum::http::{Response, StatusCode};
use remote_network_core::command::Command;
use remote_network_core::id::Digest;
use remote_network_core::manifest::{MANIFEST_BYTES_MAX, Manifest};
use remote_network_core::port::{Dataset, Program};
use serde::Serialize;
use std::io::Read as _;

const DIGEST_HINT: &str = "a digest is 64 hex digits";

/// A directory.
#[derive(Serialize)]
pub struct TreeDto {
    digest: String,
    /// Length of its manifest, which is what orders and receipts name.
    len: u64,
    /// Bytes of all files together.
    bytes: u64,
    files: Vec<FileDto>,
}

/// A file of a directory.
#[derive(Serialize)]
struct FileDto {
    path: String,
    digest: String,
    len: u64,
    executable: bool,
}

impl TreeDto {
    fn of(digest: &Digest, len: u64, manifest: &Manifest) -> Self {
        let file = |e: &remote_network_core::manifest::Entry| FileDto {
            path: e.path.clone(),
            digest: e.digest.to_string(),
            len: e.len,
            executable: e.executable,
        };
        let files = manifest.entries().iter().map(file).collect();
        Self { digest: digest.to_string(), len, bytes: manifest.total_len(), files }
    }
}

/// The manifest under a digest, and its length.
async fn find(state: &ApiState, digest: Digest) -> Result<(Manifest, u64), ApiError> {
    let blobs = state.blobs.clone();
    let read = move || {
        let OpenBlob { len, reader } = blobs.open(&digest)?;
        let mut bytes = Vec::new();
        reader.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok::<_, super::blobs::BlobError>((bytes, len))
    };
    let (bytes, len) = on_store_thread(state, read).await??;
    match Manifest::decode(&bytes) {
        Ok(manifest) => Ok((manifest, len)),
        Err(e) => Err(ApiError::new(
            StatusCode::CONFLICT,
            "no_directory",
            format!("this object is no directory: {e}"),
            "a directory is the output of a mount with the layout `tree`, or comes from `POST /trees`",
        )),
    }
}

/// What a service gives whose field `data` is this digest.
pub(super) async fn dataset(state: &ApiState, digest: &str) -> Result<(Program, u64, Vec<String>), ApiError> {
    let manifest: Digest = parse_id("data", digest, DIGEST_HINT)?;
    let (_, len) = find(state, manifest).await.map_err(|e| e.at("data"))?;
    Ok((Program::Data(Dataset { manifest, len }), 0, Vec::new()))
}

/// `GET /trees/{digest}`: its files.
pub async fn show(
    State(state): State<ApiState>,
    Segments(digest): Segments<String>,
) -> Result<Answer<TreeDto>, ApiError> {
    let digest: Digest = parse_id("path", &digest, DIGEST_HINT)?;
    let (manifest, len) = find(&state, digest).await?;
    Ok(Answer(TreeDto::of(&digest, len, &manifest)))
}

/// `GET /trees/{digest}/files/{path}`: one file, or a range of it.
pub async fn file(
    State(state): State<ApiState>,
    Segments((digest, path)): Segments<(String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let digest: Digest = parse_id("path", &digest, DIGEST_HINT)?;
    let (manifest, _) = find(&state, digest).await?;
    let Some(entry) = manifest.entry(&path) else {
        let message = format!("the directory has no file `{}`", path.escape_debug());
        return Err(ApiError::not_found(message, "GET /api/v1/trees/{digest} lists its files"));
    };
    let name = path.rsplit('/').next().unwrap_or("file");
    download(&state, entry.digest, name, &headers).await
}

/// `POST /trees`: the body is a manifest, of files that `POST /objects` has brought here. It is kept with all of them.
pub async fn make(
    State(state): State<ApiState>,
    body: Bytes,
) -> Result<(StatusCode, Answer<TreeDto>), ApiError> {
    let manifest = Manifest::decode(&body)
        .map_err(|e| ApiError::bad_request("body", format!("no manifest: {e}"), "see docs/PROTOCOL.md"))?;
    let (blobs, bytes) = (state.blobs.clone(), body.clone());
    let object = on_store_thread(&state, move || blobs.import(&mut &bytes[..])).await??;
    let keep = Command::KeepTree { digest: object.digest, len: object.len };
    let Answer(_kept) = Done::of(&state.ask(keep).await?)?;
    Ok((StatusCode::CREATED, Answer(TreeDto::of(&object.digest, object.len, &manifest))))
}
