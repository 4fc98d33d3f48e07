//! Tickets for executors: a requester's leave to fetch one object from another executor of the run. To orders they are
//! opaque bytes; the holder verifies them.

use crate::id::{Digest, Keypair, PublicKey};
use crate::ticket::Ticket;
use crate::time::{Duration, UnixTime};
use bytes::Bytes;

/// How long a ticket is good for: a day, renewed whenever an order is sent again.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A ticket for `consumer` to fetch `object`, good from `now` for [`TICKET_LIFETIME`].
pub fn ticket_for(requester: &Keypair, object: &Digest, consumer: &PublicKey, now: UnixTime) -> Bytes {
    Ticket::sign(requester, *object, *consumer, now.plus(TICKET_LIFETIME)).encode().into()
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
        let read = Ticket::decode(&ticket).expect("our own ticket");
        assert!(read.allows(&Digest::of(b"x"), &consumer, UnixTime::from_secs(0)));
    }
}
