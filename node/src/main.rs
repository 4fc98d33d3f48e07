//! The binary: a worker of the engine when started as one, else the command line.

use remote_network_node::ports::engine;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else is opened or started: a worker has one thread and nothing of the node's.
    if std::env::args_os().nth(1).is_some_and(|a| a == engine::WORKER_ARGUMENT) {
        return engine::worker::main();
    }
    ExitCode::SUCCESS
}
