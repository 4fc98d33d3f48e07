//! The world for thousands of Remote Network cores.
#![warn(missing_docs)]

pub mod crypto;
pub mod dht;
pub mod disk;
pub mod draw;
pub mod fold;
pub mod net;
pub mod queue;
pub mod trace;
