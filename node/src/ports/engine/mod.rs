//! The wasm engine.
