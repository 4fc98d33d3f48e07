//! What a dataset looks like in the API.

use remote_network_core::port::Dataset;
use serde::Serialize;

/// The directory that a service gives.
#[derive(Serialize)]
pub struct DatasetDto {
    digest: String,
    /// Length of its list of files.
    len: u64,
}

impl From<Dataset> for DatasetDto {
    fn from(d: Dataset) -> Self {
        Self { digest: d.manifest.to_string(), len: d.len }
    }
}
