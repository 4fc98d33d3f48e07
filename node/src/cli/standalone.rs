//! `service add standalone`: a native executable becomes a service.

use super::args::ServiceAddStandalone;
use super::remote::{add_service, mounts, upload};
use super::{Client, Failure};
use crate::ports::native::elf;
use serde_json::{Value, json};
use std::io::Read as _;

/// Looks at the file, brings it into the node's store, and offers it.
pub(super) async fn add(client: &Client, args: &ServiceAddStandalone) -> Result<Value, Failure> {
    let cannot = |e: std::io::Error| Failure::usage(format!("cannot read {}: {e}", args.program.display()));
    let file = std::fs::File::open(&args.program).map_err(cannot)?;
    let mut head = Vec::new();
    file.take(elf::HEAD_BYTES as u64).read_to_end(&mut head).map_err(cannot)?;
    // What is no program at all need not travel; whether it is one for the node's machine, the node says.
    elf::look(&head).map_err(|e| Failure::usage(format!("{}: {e}", args.program.display())))?;
    let name = args.program.file_name().map(|s| s.to_string_lossy().to_lowercase()).unwrap_or_default();
    let object = upload(client, &args.program).await?;
    let mounts = mounts(&args.mount_in, &args.mount_out);
    add_service(client, &args.common, name, mounts, json!({"program": object.digest.to_string()})).await
}
