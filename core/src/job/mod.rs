//! Jobs: workflows, their runs, and the jobs of others.
//!
//! Two machines share this room and never a variable. The [`requester::Requester`] turns a [`workflow::Workflow`] into an
//! immutable [`plan::Plan`], sends signed [`order`]s to executors, and commits each task exactly once when a signed
//! [`receipt`] answers its order. The [`executor::Executor`] admits orders, gathers inputs, drives an engine, seals the
//! result and keeps it until it is released. They speak by [`message`]s, also when both are the same node.
//!
//! What makes it safe, in the order of importance:
//! - **One commit point.** A task is done when `Committed{task, fence, receipt}` is in the requester's journal, and
//!   nothing else makes it so. Everything before it may be lost, doubled or late.
//! - **Journal before effect.** Both machines emit records before the messages that rely on them.
//! - **Fences.** Each attempt has a number of its own, journaled before the order leaves, and with it a job id of its own. A
//!   repeated order is the same job, so messages may be sent again at will.
//! - **Silence is not failure.** A silent executor is first suspect, then lost; its task may be ordered elsewhere, and if the
//!   lost one comes back first, it wins.
//! - **What is small is carried.** A light job travels whole in its messages, and only its requester remembers it ([`carried`]).
//! - **Who computed it is not whether it is right.** Where that matters, several executors must say the same ([`quorum`]).
//! - **The heartbeat is the inventory.** Executors list their jobs every five seconds and on every connect; the requester
//!   answers whatever does not match. So no message needs to be kept for a peer that is away.
//!
//! Safety never depends on a clock; only wasted work does.

pub mod carried;
pub mod encoding;
pub mod executor;
pub mod held;
pub mod message;
pub mod order;
pub mod outcome;
pub mod placement;
pub mod plan;
pub mod quorum;
pub mod receipt;
pub mod requester;
pub mod rules;
pub mod run;
pub mod signed;
pub mod ticket;
pub mod validate;
pub mod workflow;

#[cfg(test)]
mod model;
