//! Malicious hosts in the world of real cores: relays that harm what they carry, liars about addresses, forgers of sources.

mod flood;
mod hearsay;
mod relays;
mod stage;
mod tunnels;
