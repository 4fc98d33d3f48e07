//! Tickets for executors: a requester's leave to fetch one object from another executor of the run.
//!
//! The form is that of the transfer room (`rn/ticket/v1`): `{c: consumer, d: digest, e: expiry in unix seconds, r: requester,
//! s: signature}`, signed over the domain, a zero byte and the dictionary without `s`. The holder verifies it; to orders it
//! is opaque.

use crate::codec::Dict;
use crate::id::{Digest, Keypair, PublicKey};
use crate::time::{Duration, UnixTime};
use bytes::Bytes;

/// How long a ticket is good for: a day, renewed whenever an order is sent again.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A ticket for `consumer` to fetch `object`, good from `now` for [`TICKET_LIFETIME`].
pub fn ticket_for(requester: &Keypair, object: &Digest, consumer: &PublicKey, now: UnixTime) -> Bytes {
    let body = Dict::new()
        .with("c", consumer)
        .with("d", object)
        .with("e", now.plus(TICKET_LIFETIME).as_secs())
        .with("r", &requester.public());
    let signature = requester.sign(&[b"rn/ticket/v1", &[0][..], &body.encode()].concat());
    body.with("s", &signature).encode().into()
}

#[cfg(test)]
mod tests {
    use super::super::message::TICKET_BYTES_MAX;
    use super::*;

    #[test]
    fn a_ticket_fits_its_place_in_a_dispatch() {
        let consumer = Keypair::from_seed(&[2; 32]).public();
        let far = UnixTime::from_millis(u64::MAX);
        let ticket = ticket_for(&Keypair::from_seed(&[1; 32]), &Digest::of(b"x"), &consumer, far);
        assert!(ticket.len() <= TICKET_BYTES_MAX, "{}", ticket.len());
        assert!(Dict::decode(&ticket, TICKET_BYTES_MAX).is_ok());
    }
}
