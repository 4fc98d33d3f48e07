//! Tickets: a requester's leave for one executor to fetch one object from another.
//!
//! Executors of a run need not know each other. The holder of an object serves it to whoever shows a ticket signed by the
//! requester it sealed the object for.

use super::signed::{Signed, Statement};
use crate::codec::{DecodeError, Dict};
use crate::id::{Digest, Keypair, PublicKey};
use crate::time::{Duration, UnixTime};
use bytes::Bytes;

/// How long a ticket is good for: a day, renewed whenever an order is sent again.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A requester's leave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Who gives it, and signs.
    pub requester: PublicKey,
    /// Who may fetch.
    pub consumer: PublicKey,
    /// What.
    pub object: Digest,
    /// Until when.
    pub expires: UnixTime,
}

impl Statement for Ticket {
    const DOMAIN: &'static str = "rn/ticket/v1";
    const BODY_BYTES_MAX: usize = 256;

    fn signer(&self) -> &PublicKey {
        &self.requester
    }

    fn to_dict(&self) -> Dict {
        Dict::new()
            .with("exp", self.expires.as_millis())
            .with("for", &self.consumer)
            .with("obj", &self.object)
            .with("req", &self.requester)
    }

    fn from_dict(d: &Dict) -> Result<Self, DecodeError> {
        Ok(Ticket {
            requester: d.key("req")?,
            consumer: d.key("for")?,
            object: d.digest("obj")?,
            expires: UnixTime::from_millis(d.u64("exp")?),
        })
    }
}

/// A ticket for `consumer` to fetch `object`, good from `now` for [`TICKET_LIFETIME`].
pub fn ticket_for(requester: &Keypair, object: &Digest, consumer: &PublicKey, now: UnixTime) -> Bytes {
    let ticket = Ticket {
        requester: requester.public(),
        consumer: *consumer,
        object: *object,
        expires: now.plus(TICKET_LIFETIME),
    };
    Signed::sign(ticket, requester).encode().into()
}
