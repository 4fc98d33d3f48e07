//! (room)
pub mod endpoint;
pub mod item;
pub mod lookup;
pub mod publisher;
pub mod record;
pub mod scheduler;
