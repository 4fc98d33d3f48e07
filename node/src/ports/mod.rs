//! The ports of a real node: SQLite journal, object store, DHT, engine.

pub mod blobs;
pub mod dht;
pub mod engine;
pub mod store;
