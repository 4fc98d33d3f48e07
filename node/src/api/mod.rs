//! The local API: REST under `/api/v1`, an event socket, and the page, for this machine's user only.
//!
//! It is the one place where a browser, which runs programs of strangers all day, can reach the node. So the API trusts
//! nothing a browser sends by itself: every request passes [`guard`] (names, origins, headers), every line of the table
//! in [`routes`] says who may call it and what body it takes, and secrets are issued and checked in [`auth`] only.
//!
//! It decides nothing about the network. Requests become `Command`s through [`core_handle`], answers become JSON in
//! [`dto`], bytes come from and go to the object store through [`blobs`]. It runs on a thread and a runtime of its own
//! ([`server`]), so the node may run on any.

pub mod auth;
pub mod blobs;
pub mod core_handle;
mod dht;
mod docker;
pub mod dto;
pub mod error;
mod events;
pub mod guard;
mod node;
mod objects;
mod page;
mod policy;
mod programs;
mod reach;
mod relay;
pub mod routes;
mod runs;
mod search;
pub mod server;
mod services;
mod sessions;
mod state;
mod trees;
mod workflows;

#[cfg(test)]
mod tests;

pub use blobs::{ApiBlobs, BlobError, OpenBlob};
pub use core_handle::{CoreHandle, HandleError, NoticeItem, Notices};
pub use dht::ApiDht;
pub use server::{ApiConfig, ApiServer, ApiStartError, TOKEN_FILE};
