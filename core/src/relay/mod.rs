//! Relays: how two peers whose packets cannot reach each other talk through a third.
//!
//! A relay is an ordinary peer with a public address. Private nodes hold a *reservation* with it, so that others can
//! reach them there, and tell so in their records; whoever wants one of them connects to the relay and writes. The peers'
//! connection is QUIC from end to end: its packets travel as DATAGRAM frames of the two connections to the relay, which
//! can neither read nor forge them and learns nothing but the two ids next to it. A datagram may be lost, as on any path;
//! what a relay cannot pass on at once it drops rather than keeps, since an old packet is worth nothing to QUIC.
//!
//! | file | decides |
//! |---|---|
//! | [`wire`] | the header of a relayed packet; packets that are too large for one datagram |
//! | [`message`] | control frames between a relay and those it serves |
//! | [`server`] | who may be served, and whose packet is next |
//! | [`client`] | which relays a private node holds reservations with |
//! | [`errand`] | what a relay asks the DHT for a client |
//! | [`tunnels`] | when a relay is called over TCP, where UDP does not get through |

mod bucket;

pub mod client;
pub mod errand;
pub mod message;
pub mod server;
pub mod tunnels;
pub mod whereabouts;
pub mod wire;
