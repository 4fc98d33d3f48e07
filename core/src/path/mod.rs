//! Which way the packets of a connection take.
//!
//! A connection belongs to a peer and lives as long as both want it. Beneath it the way changes: two peers meet through
//! a relay and find a direct address a moment later, a router forgets a mapping, a laptop moves to another network. QUIC is
//! shown one stable address and never learns of any of it ([`crate::place`]), so everything that QUIC would do about a new
//! address is done here: proving that the peer really receives there, noticing that a way is dead, choosing.
//!
//! | file | decides |
//! |---|---|
//! | [`probe`] | the small authenticated datagrams by which an address is proven |
//! | [`budget`] | how many datagrams an address gets that nobody has proven yet |
//! | [`choice`] | which of several proven ways is the best |
//! | [`paths`] | the machine for all connections of a node |
//! | [`behaviour`], [`stun`] | what this node knows of its own NAT, and how it learns it |
//! | [`dialback`] | how others help to learn what our NAT lets in, and how long its mappings live |
//! | [`punch`] | which addresses two peers tell each other, when holes are punched, and where to |

pub mod behaviour;
pub mod budget;
pub mod choice;
pub mod dialback;
pub mod paths;
pub mod probe;
pub mod punch;
pub mod stun;
