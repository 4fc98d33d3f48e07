//! Meeting peers: who is on a connection, who is known, and whom to reach for next.
//!
//! | file | decides |
//! |---|---|
//! | [`exchange`] | whether the other side of a connection is who it must be; what each tells the other |
//! | [`book`] | which peers are remembered, and for how long |
//! | [`cascade`] | whom to look up and dial, when, at which address, and when to leave it |
//! | [`seek`] | how connected peers are asked where somebody is |

pub mod book;
pub mod budget;
pub mod cascade;
pub mod exchange;
pub mod seek;
