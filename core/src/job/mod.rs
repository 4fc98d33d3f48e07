//! Jobs.
pub mod workflow;
