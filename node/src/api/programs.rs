//! Native executables as services: what is looked at before one is offered.

use super::error::ApiError;
use super::objects::on_store_thread;
use super::routes::parse_id;
use super::state::ApiState;
use crate::ports::native::elf;
use axum::http::StatusCode;
use remote_network_core::id::Digest;
use remote_network_core::port::{Executable, Program};
use std::io::Read as _;
use std::path::Path;

/// The program that an object of the store is, its length, and what its owner should know of it. What machine it is for is read from
/// the file itself.
pub(super) async fn program(state: &ApiState, digest: &str) -> Result<(Program, u64, Vec<String>), ApiError> {
    if let Err(why) = state.native.offered() {
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_sandbox",
            format!("native programs are not run on this machine: {why}"),
            "`remote-network doctor` says what is found",
        )
        .at("program"));
    }
    let object: Digest = parse_id("program", digest, "a digest is written as 64 hex digits")?;
    let blobs = state.blobs.clone();
    let read = move || {
        let open = blobs.open(&object)?;
        let mut head = Vec::new();
        open.reader.take(elf::HEAD_BYTES as u64).read_to_end(&mut head)?;
        Ok((head, open.len))
    };
    let (head, len) =
        on_store_thread(state, read).await?.map_err(|e: super::BlobError| ApiError::from(e).at("program"))?;
    let found = elf::look_for_here(&head).map_err(|e| {
        let hint = "offer a program that was built for this machine";
        ApiError::bad_request("program", e.to_string(), hint)
    })?;
    let missing = found.interpreter.filter(|loader| !Path::new(loader).exists());
    let hints = missing
        .map(|loader| format!("it asks for the loader {loader}, which is not here: it will not start"));
    let executable = Executable { object, target: found.target };
    Ok((Program::Native(Box::new(executable)), len, hints.into_iter().collect()))
}
