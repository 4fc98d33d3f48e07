//! Beneath the connections: which addresses a peer may be at, and which way its packets take.

pub mod behaviour;
pub mod punch;
pub mod stun;
