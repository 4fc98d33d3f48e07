//! (room)
pub mod endpoint;
pub mod item;
pub mod record;
