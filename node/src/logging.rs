//! Logs: structured, to standard error, never with secrets; `log` chooses what.

use crate::cli::Failure;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Starts logging with this filter.
pub fn init(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|e| {
        Failure::usage(format!("`log = \"{filter}\"` is no filter: {e}"))
            .with_hint("for example `info` or `warn,remote_network_core=debug`")
    })?;
    // `mainline` reports every unreachable bootstrap as an error every two seconds; its port reports health instead.
    let filter = match "mainline=off".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true)
        .try_init()
        .map_err(|e| Failure::work(format!("logging cannot be started: {e}")))
}
