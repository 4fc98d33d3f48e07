//! driver-smol
