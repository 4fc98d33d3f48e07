//! `policy …`.

use clap::{Subcommand, ValueHint};
use std::path::PathBuf;

/// `policy …`
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// The policy in force, and what was used of it today.
    Show,
    /// Put another policy in force. One in the configuration file comes back with the next start.
    Set {
        /// TOML, YAML or JSON, by the ending of its name.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Check a policy without putting it in force.
    Check {
        /// TOML, YAML or JSON, by the ending of its name.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
}
