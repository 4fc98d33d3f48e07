//! The world for thousands of Remote Network cores.
#![warn(missing_docs)]

pub mod check;
pub mod conformance;
pub mod crypto;
pub mod dht;
pub mod disk;
pub mod draw;
pub mod engine;
pub mod expect;
pub mod fold;
pub mod host;
pub mod net;
pub mod plan;
pub mod ports;
pub mod queue;
pub mod replay;
pub mod report;
pub mod scenario;
pub mod trace;
pub mod world;

#[cfg(test)]
mod toy;
