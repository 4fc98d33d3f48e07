//! The product: ports, API server, configuration and command line around the core.
//!
//! The binary is thin; everything is here, so that tests and benchmarks use what users use.

pub mod api;
pub mod bench;
pub mod cli;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod failpoints;
pub mod keystore;
pub mod logging;
pub mod machine;
pub mod ports;
pub mod processes;
pub mod recording;
pub mod services;
pub mod simulate;
pub mod start;
pub mod workflow_text;
