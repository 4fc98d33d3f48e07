//! driver-tokio
