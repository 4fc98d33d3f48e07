//! The binary: a worker for guests, or the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all, before any thread or file: a worker locks itself in before it sees a byte of a guest.
    if std::env::args_os().nth(1).is_some_and(|a| a == remote_network_node::ports::engine::WORKER_ARGUMENT) {
        return remote_network_node::ports::engine::worker::main();
    }
    remote_network_node::cli::main()
}
