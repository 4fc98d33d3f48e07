//! What a native executable looks like in the API.

use remote_network_core::port::Executable;
use serde::Serialize;

/// A native executable of a service.
#[derive(Serialize)]
pub struct ProgramDto {
    digest: String,
    arch: String,
    os: String,
}

impl From<&Executable> for ProgramDto {
    fn from(e: &Executable) -> Self {
        Self { digest: e.object.to_string(), arch: e.target.arch.clone(), os: e.target.os.clone() }
    }
}
