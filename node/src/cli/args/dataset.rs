//! `service add data …`

use super::service::DetailOptions;
use clap::Args;
use remote_network_core::id::PublicKey;

/// `service add data …`
#[derive(Args, Debug)]
pub struct ServiceAddData {
    /// A directory of this machine, which is added as `data add` does; or the digest of one that the node has.
    #[arg(value_name = "DIR|DIGEST", value_hint = clap::ValueHint::DirPath)]
    pub data: String,
    /// Name for workflows: a-z, 0-9, `-`, `_`, `.` (default: the directory's name).
    #[arg(long)]
    pub name: Option<String>,
    /// For people.
    #[arg(long, default_value = "")]
    pub description: String,
    /// For people.
    #[arg(id = "service-version", long = "service-version", value_name = "VERSION", default_value = "1.0.0")]
    pub version: String,
    /// Only this node may have it.
    #[arg(long, conflicts_with = "allow")]
    pub private: bool,
    /// Only this node and these peers may have it (repeatable).
    #[arg(long, value_name = "KEY")]
    pub allow: Vec<PublicKey>,
    /// What else it says of itself.
    #[command(flatten)]
    pub details: DetailOptions,
}
