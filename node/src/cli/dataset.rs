//! `service add data`: a directory becomes a service that gives it.

use super::args::ServiceAddData;
use super::{Client, Failure, directories, service};
use remote_network_core::id::Digest;
use remote_network_core::manifest::MANIFEST_BYTES_MAX;
use serde_json::{Value, json};
use std::path::Path;

/// Offers a directory of the node's store, or one of this machine, which is brought there first.
pub(super) async fn add(client: &Client, args: &ServiceAddData) -> Result<Value, Failure> {
    let path = Path::new(&args.data);
    let (digest, usual_name) = match args.data.parse::<Digest>() {
        Ok(digest) if !path.exists() => (json!(digest.to_string()), None),
        Ok(_) | Err(_) if path.is_dir() => {
            let name = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_owned()));
            let tree = directories::put(client, path).await?;
            (tree["digest"].clone(), name.map(|name| name.to_string_lossy().to_lowercase()))
        }
        Ok(_) | Err(_) => {
            let words = "neither a directory nor the digest of one (64 hex digits)";
            return Err(Failure::usage(format!("{}: {words}", args.data.escape_debug())));
        }
    };
    let Some(name) = args.name.clone().or(usual_name) else {
        return Err(Failure::usage("a digest has no name; give one with --name"));
    };
    let mut details = Value::Null;
    service::apply(&mut details, &args.details)?;
    let offered = json!({
        "name": name,
        "description": args.description,
        "version": args.version,
        "data": digest,
        // Nothing is executed: what is asked for is the list of files, at most.
        "limits": {"memory_bytes": 1 << 20, "time_ms": 60_000, "output_bytes": MANIFEST_BYTES_MAX},
        "visibility": service::visibility(args.private, &args.allow),
        "details": details,
    });
    let mut answer = client.post("/services", &offered).await?;
    if let Some(object) = answer.as_object_mut() {
        object.entry("name").or_insert(json!(name));
        object.insert("data".to_owned(), digest);
    }
    Ok(answer)
}
