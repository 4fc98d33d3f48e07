//! One session, and what it has cost.

use crate::few::Few;
use crate::id::PublicKey;
use crate::relay::bucket::Bucket;
use crate::relay::message::SessionId;
use crate::time::{Duration, Instant, UnixTime};
use std::net::SocketAddr;

/// How long a visitor may be reached by whom it wrote to: the reverse of RFC 8656's permissions, shorter than their five minutes
/// because QUIC keeps its paths alive every few seconds.
pub const PERMIT_TIME: Duration = Duration::from_secs(60);
/// Peers that may reach a visitor; the one it has not written to for longest goes first.
pub const PERMITS_MAX: usize = 64;
/// A visitor that neither sends nor is sent anything for this long is forgotten; its next packet makes it one again.
pub const VISITOR_IDLE: Duration = Duration::from_secs(120);

/// What a session allows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A reservation: everybody may reach it.
    Reserved,
    /// Who dials through the relay: only those it wrote to lately may reach it.
    Visitor,
}

impl Kind {
    /// The word for people and for the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Reserved => "reserved",
            Kind::Visitor => "visitor",
        }
    }
}

/// Why a packet was dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DropReason {
    /// No relayed packet, or one of the wrong direction.
    Malformed,
    /// To its sender.
    ToSelf,
    /// To a peer without a session here.
    NoSession,
    /// To a visitor who has not written to the sender.
    NotPermitted,
    /// From a peer that may have no session.
    Refused,
    /// Over the session's rate.
    SessionRate,
    /// Over the rate of the sender's address.
    AddressRate,
    /// The sender's queue was full.
    QueueFull,
    /// Waited too long.
    TooOld,
    /// Does not fit the receiver's path.
    TooLong,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [DropReason; 10] = [
        DropReason::Malformed,
        DropReason::ToSelf,
        DropReason::NoSession,
        DropReason::NotPermitted,
        DropReason::Refused,
        DropReason::SessionRate,
        DropReason::AddressRate,
        DropReason::QueueFull,
        DropReason::TooOld,
        DropReason::TooLong,
    ];

    /// The word for people and for the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            DropReason::Malformed => "malformed",
            DropReason::ToSelf => "to self",
            DropReason::NoSession => "no session",
            DropReason::NotPermitted => "not permitted",
            DropReason::Refused => "refused",
            DropReason::SessionRate => "session rate",
            DropReason::AddressRate => "address rate",
            DropReason::QueueFull => "queue full",
            DropReason::TooOld => "too old",
            DropReason::TooLong => "too long",
        }
    }
}

/// What was passed on and what was not. Bytes are those of datagrams, with the relay's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Packets that the session sent and that were passed on.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets passed on to the session.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets that the session sent and that were dropped, in the order of [`DropReason::ALL`].
    pub dropped: [u64; DropReason::ALL.len()],
}

impl Usage {
    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Packets dropped for this reason.
    pub fn drops(&self, why: DropReason) -> u64 {
        self.dropped[why as usize]
    }

    /// Packets dropped for any reason.
    pub fn drops_in_all(&self) -> u64 {
        self.dropped.iter().sum()
    }

    pub(super) fn lose(&mut self, why: DropReason, packets: u64) {
        self.dropped[why as usize] += packets;
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        self.packets_in += 1;
        self.bytes_in += bytes;
    }

    pub(super) fn got(&mut self, bytes: u64) {
        self.packets_out += 1;
        self.bytes_out += bytes;
    }
}

/// What a session cost since its last account: a row for the operator's books. The sum of a session's accounts is what it
/// cost in all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// Whose session.
    pub peer: PublicKey,
    /// Which.
    pub session: SessionId,
    /// What it allowed.
    pub kind: Kind,
    /// Where its holder was.
    pub addr: SocketAddr,
    /// Since when it exists.
    pub since: UnixTime,
    /// When this account begins.
    pub from: UnixTime,
    /// When it ends.
    pub to: UnixTime,
    /// What it cost in between.
    pub usage: Usage,
    /// Whether the session has ended.
    pub ended: bool,
}

/// A session as its operator sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionView {
    /// Whose.
    pub peer: PublicKey,
    /// Which.
    pub session: SessionId,
    /// What it allows.
    pub kind: Kind,
    /// Where its holder is.
    pub addr: SocketAddr,
    /// Since when.
    pub since: UnixTime,
    /// What it cost since then.
    pub usage: Usage,
    /// Bytes it has waiting.
    pub waiting: usize,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) kind: Kind,
    pub(super) since: UnixTime,
    /// When a reservation ends unless it is renewed.
    pub(super) expires: Instant,
    /// When something was last sent or got.
    pub(super) active: Instant,
    pub(super) bucket: Bucket,
    /// Whom a visitor wrote to, and when last.
    permits: Few<PublicKey, Instant>,
    /// Before `from`.
    accounted: Usage,
    from: UnixTime,
    pub(super) usage: Usage,
}

impl Session {
    pub(super) fn new(
        id: SessionId,
        kind: Kind,
        bucket: Bucket,
        now: Instant,
        wall: UnixTime,
        lifetime: Duration,
    ) -> Self {
        Self {
            id,
            kind,
            since: wall,
            expires: now + lifetime,
            active: now,
            bucket,
            permits: Few::new(),
            accounted: Usage::default(),
            from: wall,
            usage: Usage::default(),
        }
    }

    /// When it ends if nothing more happens.
    pub(super) fn ends(&self) -> Instant {
        match self.kind {
            Kind::Reserved => self.expires,
            Kind::Visitor => self.active + VISITOR_IDLE,
        }
    }

    pub(super) fn reserve(&mut self, expires: Instant) {
        self.kind = Kind::Reserved;
        self.expires = expires;
        self.permits = Few::new();
    }

    /// It writes to `peer`.
    pub(super) fn wrote_to(&mut self, now: Instant, peer: &PublicKey) {
        match self.kind {
            Kind::Reserved => {}
            Kind::Visitor => {
                if self.permits.len() >= PERMITS_MAX
                    && !self.permits.contains_key(peer)
                    && let Some(oldest) = self.permits.iter().min_by_key(|(_, at)| **at).map(|(k, _)| *k)
                {
                    self.permits.remove(&oldest);
                }
                self.permits.insert(*peer, now);
            }
        }
    }

    /// Whether `peer` may reach it.
    pub(super) fn lets_in(&self, now: Instant, peer: &PublicKey) -> bool {
        match self.kind {
            Kind::Reserved => true,
            Kind::Visitor => self.permits.get(peer).is_some_and(|at| *at + PERMIT_TIME > now),
        }
    }

    /// What it cost since the last account; the next one begins here.
    pub(super) fn account(&mut self, wall: UnixTime) -> (UnixTime, Usage) {
        let usage = std::mem::take(&mut self.usage);
        let sums = [
            (&mut self.accounted.packets_in, usage.packets_in),
            (&mut self.accounted.bytes_in, usage.bytes_in),
            (&mut self.accounted.packets_out, usage.packets_out),
            (&mut self.accounted.bytes_out, usage.bytes_out),
        ];
        sums.into_iter().for_each(|(sum, n)| *sum += n);
        self.accounted.dropped.iter_mut().zip(usage.dropped).for_each(|(sum, n)| *sum += n);
        (std::mem::replace(&mut self.from, wall), usage)
    }

    /// What it cost since it began.
    pub(super) fn in_all(&self) -> Usage {
        let (a, b) = (&self.accounted, &self.usage);
        Usage {
            packets_in: a.packets_in + b.packets_in,
            bytes_in: a.bytes_in + b.bytes_in,
            packets_out: a.packets_out + b.packets_out,
            bytes_out: a.bytes_out + b.bytes_out,
            dropped: std::array::from_fn(|i| a.dropped[i] + b.dropped[i]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::server::QUEUE_BYTES_MAX;

    #[test]
    fn a_full_session_costs_less_than_64_kib() {
        let permits = PERMITS_MAX * size_of::<(PublicKey, Instant)>() * 5 / 4;
        assert!(size_of::<Session>() + permits + QUEUE_BYTES_MAX + 4_096 <= 64 * 1024);
    }

    #[test]
    fn every_reason_has_its_place() {
        for (n, why) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, n);
        }
    }
}
