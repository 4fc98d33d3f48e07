//! Hosts that misbehave on purpose: relays that harm what they carry, and whoever lies about addresses.
//!
//! A malicious host runs the very core of the product; what is wrong with it sits around that core, so that the product has
//! no second way through its code for the simulator's sake. [`transport::Evil`] stands between the core and QUIC: relayed
//! packets that the core passes on are harmed there by the dice of the plan ([`Malice`]), and frames that name addresses
//! are rewritten ([`lies`]). [`cast::Villain`] stands around the core: it answers STUN and pings with a lie, and keeps mappings
//! alive that are to be left alone. [`tunnels::Saboteur`] stands at the ends of a host's tunnels. [`cast::Cast`] is a core
//! of either kind, so that a world holds both; those that are honest run what the product runs, and nothing more.
//!
//! A [`Mischief`] is the string by which the world holds such a host: what it does, what it has done, when it must stop
//! (every plan ends with a phase in which nothing is done to the world any more), and what it has overheard. A checker
//! gives it the objects that nobody in the middle may see; whatever the host decrypts is searched for their bytes.

pub mod cast;
pub mod lies;
mod mischief;
pub mod transport;
pub mod tunnels;

pub use mischief::{Deaf, Deeds, Malice, Mischief, TunnelDeeds, TunnelMalice};

#[cfg(test)]
mod tests;
