//! The world for thousands of Remote Network cores.
//!
//! A core does no I/O: it is told what happened and asks for what it wants. So a whole network of cores runs in one thread
//! and in virtual time, and a machine that is struck by lightning between a write and its acknowledgement is one call of
//! a method. This crate is that thread. It runs the very cores the product runs; only what surrounds them is modelled.
//!
//! The story of one run, from its beginning:
//!
//! 1. A [`plan::Plan`] says what there is (machines, links, disks, clocks), what goes wrong and when, and what applications
//!    want. It is plain data and comes from a class and a seed. All dice ([`draw`]) derive from the seed by name, so that
//!    leaving something out changes nothing else.
//! 2. A [`scenario::Scenario`] plays the plan: starts machines, does the harm, gives commands as well-meaning users would,
//!    and restarts what stopped as a service manager would.
//! 3. A [`world::World`] holds the machines ([`host`]) and one [`queue`] of everything that will happen. A step takes the
//!    next thing out, tells the one core it concerns, and drains that core. Datagrams cross the [`net`]; requests go to the
//!    [`dht`], the [`disk`] and the [`engine`], whose answers fall due later.
//! 4. [`check`] watches everything that crosses the border of a core and compares it with what must be ([`expect`]). A
//!    violation is data; it stops nothing.
//! 5. When the plan's time is up, all faults end. Whatever is pending must come to rest: the liveness phase. Then every core
//!    must shut down in order.
//! 6. A [`report::Report`] says what happened, and a [`trace`] hash whether it was the same run.
//!
//! Hosts may sit behind boxes that translate and filter ([`nat`]); an [`oracle`] says which of them can meet, and a [`matrix`]
//! of all kinds shows which do.
//!
//! Hosts may be malicious ([`evil`]): relays that harm what they carry, liars about addresses.
//!
//! Beside worlds there are recordings of real nodes ([`replay`]), told to a core again at the desk. Cryptography is a null
//! session in most worlds and real TLS with a seeded provider in a share of them ([`crypto`]).
//!
//! Rules of the house: no randomness, clock or map order of the process may reach a core; integers only (floating point is
//! not the same everywhere); memory grows with machines, never with pairs of them; models share no code with the rooms of the
//! core that they judge.
#![warn(missing_docs)]

pub mod blobs;
pub mod check;
pub mod conformance;
pub mod crypto;
pub mod depot;
pub mod dht;
pub mod dht_packets;
pub mod disk;
pub mod draw;
pub mod engine;
pub mod evil;
pub mod expect;
pub mod fold;
pub mod host;
pub mod matrix;
pub mod nat;
pub mod net;
pub mod oracle;
pub mod plan;
pub mod ports;
pub mod queue;
pub mod replay;
pub mod report;
pub mod scenario;
pub mod sites;
pub mod trace;
pub mod tunnel;
pub mod world;

#[cfg(test)]
mod toy;
