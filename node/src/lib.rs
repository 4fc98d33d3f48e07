//! The product: ports, API server, configuration and command line around the core.
//!
//! The binary is thin; everything is here, so that tests and benchmarks use what users use.

pub mod api;
pub mod cli;
pub mod config;
pub mod keystore;
pub mod ports;
pub mod workflow_text;
