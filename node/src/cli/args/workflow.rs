//! `workflow …`

use clap::{Args, Subcommand, ValueHint};
use remote_network_core::id::RunId;
use std::path::PathBuf;

/// A workflow and what it leaves open.
#[derive(Args, Debug)]
pub struct WorkflowFile {
    /// YAML or JSON.
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Value of a parameter that the workflow declares. Can be repeated; a list is `a,b,c` or JSON.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = pair)]
    pub params: Vec<(String, String)>,
}

fn pair(written: &str) -> Result<(String, String), String> {
    match written.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("a parameter is given as `name=value`".to_owned()),
    }
}

/// `workflow …`
#[derive(Subcommand, Debug)]
pub enum WorkflowCommand {
    /// Check a workflow file without running it.
    #[command(visible_alias = "check")]
    Validate {
        /// What.
        #[command(flatten)]
        workflow: WorkflowFile,
    },
    /// Show what would run where, and why.
    Plan {
        /// What.
        #[command(flatten)]
        workflow: WorkflowFile,
    },
    /// Run a workflow.
    Run {
        /// What.
        #[command(flatten)]
        workflow: WorkflowFile,
        /// Return as soon as the run is journaled.
        #[arg(long)]
        detach: bool,
        /// Run id to use (32 hex digits): the same id and workflow again is the same run.
        #[arg(long, value_name = "ID")]
        run_id: Option<RunId>,
        /// Write the results to this directory.
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        output: Option<PathBuf>,
    },
    /// Print the JSON Schema of workflow files, for editors and programs.
    Schema,
    /// Workflows that were run, with their last run.
    List,
}
