//! What an application asks about services beyond offering and withdrawing them.

use crate::id::Digest;
use crate::id::PublicKey;
use crate::service::Service;
use crate::service::policy::{Policy, Spent};
use crate::service::search::Query;

/// A request about services.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServiceCommand {
    /// Change a service of this node: the old one is withdrawn and the new one offered, in one step. → `Reply::Done` once
    /// journaled
    Edit {
        /// Which.
        old: Digest,
        /// What it is from now on.
        service: Box<Service>,
    },
    /// Offer a service of this node again, or no more; it is kept either way. → `Reply::Done` once journaled
    Activate {
        /// Which.
        service: Digest,
        /// Whether it is offered from now on.
        active: bool,
    },
    /// Look for services, here and elsewhere, for at most 45 s. What is found is told as it is found (`Notice::Found`), and again
    /// at the end. → `Reply::Found`
    Search {
        /// Chosen by who searches: notices carry it.
        tag: u64,
        /// What for.
        query: Query,
    },
    /// The owner's policy, and what was used of it today. → `Reply::Policy`
    Policy,
    /// Another policy from now on; jobs that were admitted go on. → `Reply::Done` once journaled
    SetPolicy(Box<Policy>),
}

/// The owner's policy, and what was used of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyView {
    /// The policy in force.
    pub policy: Policy,
    /// What each requester used today, by the owner's clock; kept only while some rule counts by the day.
    pub today: Vec<(PublicKey, Spent)>,
}
