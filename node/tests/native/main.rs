//! Native programs in their sandbox, on this machine's kernel. Skipped, with the reason, where programs cannot be confined; with
//! `REQUIRE_NATIVE` set that is a failure.

#![allow(clippy::unwrap_used)]

mod ends;
mod limits;
#[path = "../network/mod.rs"]
mod network;
mod probes;
mod rig;
mod service;
mod view;
mod without_root;
