//! The sans-IO core of Remote Network.
//!
//! Everything a node decides is decided here, by pure state machines that consume [`event::Event`]s and emit
//! [`action::Action`]s. No socket, clock, thread, file, environment or random source is touched; a driver
//! (`remote-network-driver-tokio`, `remote-network-driver-smol`) or the simulator (`remote-network-sim`) does that.
//!
//! The rooms stand on floors: the vocabulary on the ground ([`time`], [`id`], [`rng`], [`machine`], [`port`],
//! [`place`], [`store`], [`limits`], [`few`], [`meter`], [`problem`]), [`codec`] above it, one floor of protocol machines that do not know each other, and [`node`] on top,
//! which owns them and routes between them.
#![warn(missing_docs)]

pub mod action;
pub mod codec;
pub mod command;
pub mod dht;
pub mod drive;
pub mod event;
pub mod few;
pub mod id;
pub mod identity;
pub mod job;
#[cfg(test)]
pub mod laws;
pub mod limits;
pub mod machine;
pub mod manifest;
pub mod meter;
pub mod node;
pub mod path;
pub mod place;
pub mod port;
pub mod problem;
pub mod relay;
pub mod rng;
pub mod service;
pub mod store;
pub mod ticket;
pub mod time;
pub mod transfer;
pub mod transport;
