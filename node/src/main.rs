//! The binary: a worker for guests, the confinement of a program, or the command line.

use remote_network_node::ports::{engine, native};
use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all, before any thread or file: these lock themselves in before they see a byte of a guest.
    match std::env::args_os().nth(1).as_deref().and_then(|argument| argument.to_str()) {
        Some(engine::WORKER_ARGUMENT) => engine::worker::main(),
        Some(native::CONFINE_ARGUMENT) => native::confine_main(),
        Some(native::INIT_ARGUMENT) => native::init_main(),
        _ => remote_network_node::cli::main(),
    }
}
