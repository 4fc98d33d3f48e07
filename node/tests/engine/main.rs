//! The engine as the core sees it, with real worker processes.

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

mod behaviour;
mod directories;
mod examples;
mod hostile;
mod light;
mod rig;
mod services;
mod warm;
