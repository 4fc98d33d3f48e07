//! Who may have an object, what has become of each of them, and whom to ask next.
//!
//! A source that **lied** (sent what cannot belong to the object) is never asked again for it, nor is one that **refused**
//! for good with the same ticket. One that **failed** (lost, stalled, busy) gets its turn again in the next round, after a pause that doubles from round to round. A piece
//! gained starts the count of rounds anew, so a bad line is endured as long as it brings something.

use super::SourceFault;
use crate::id::{Digest, PublicKey};
use crate::limits::{FETCH_BACKOFF_MAX, FETCH_BACKOFF_MIN, FETCH_ROUNDS_MAX, FETCH_SOURCES_MAX};
use crate::rng::Rng;
use crate::ticket::Ticket;
use crate::time::Duration;

#[derive(Debug)]
struct Source {
    peer: PublicKey,
    ticket: Option<Ticket>,
    under: Option<Digest>,
    tried: bool,
    banned: bool,
    /// It takes no further stream beside the one it has.
    narrow: bool,
    fault: Option<SourceFault>,
}

/// Whom to ask next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Choice {
    /// This one.
    Ask(usize),
    /// All of them, again, after a pause.
    Pause(Duration),
    /// Nobody is left.
    Nobody,
}

/// The sources of one object.
#[derive(Debug, Default)]
pub(super) struct Sources {
    list: Vec<Source>,
    rounds: u32,
}

impl Sources {
    /// Adds a source; the same peer with another ticket, or for another directory, is another one, since either may be
    /// worthless. True when it is new.
    pub(super) fn add(&mut self, peer: PublicKey, ticket: Option<Ticket>, under: Option<Digest>) -> bool {
        let known = |s: &Source| s.peer == peer && s.ticket == ticket && s.under == under;
        if self.list.len() >= FETCH_SOURCES_MAX || self.list.iter().any(known) {
            return false;
        }
        let banned = self.list.iter().any(|s| s.peer == peer && s.banned);
        self.list.push(Source { peer, ticket, under, tried: false, banned, narrow: false, fault: None });
        !banned
    }

    /// Chooses at random among those whose turn it is, so that many consumers spread over the holders.
    pub(super) fn choose(&mut self, rng: &mut Rng) -> Choice {
        if let Some(index) = self.choose_untried(rng, |_| true) {
            return Choice::Ask(index);
        }
        self.rounds += 1;
        if self.rounds >= FETCH_ROUNDS_MAX || self.list.iter().all(|s| s.banned) {
            return Choice::Nobody;
        }
        self.list.iter_mut().for_each(|s| s.tried = false);
        let pause = FETCH_BACKOFF_MIN * (1 << (self.rounds - 1).min(16));
        Choice::Pause(rng.jitter(pause.min(FETCH_BACKOFF_MAX), 25))
    }

    /// One whose turn it is and whom `may` allows, if there is one.
    pub(super) fn choose_untried(
        &mut self,
        rng: &mut Rng,
        may: impl Fn(&PublicKey) -> bool,
    ) -> Option<usize> {
        let ready = |s: &Source| !s.banned && !s.tried && may(&s.peer);
        let count = self.list.iter().filter(|s| ready(s)).count();
        if count == 0 {
            return None;
        }
        let nth = usize::try_from(rng.below(count as u64)).unwrap_or(0);
        let (index, source) = self.list.iter_mut().enumerate().filter(|(_, s)| ready(s)).nth(nth)?;
        source.tried = true;
        Some(index)
    }

    /// It takes no further stream beside the one it has.
    pub(super) fn narrow(&mut self, index: usize) {
        if let Some(source) = self.list.get_mut(index) {
            source.narrow = true;
        }
    }

    /// Whether it is never asked again.
    pub(super) fn is_banned(&self, index: usize) -> bool {
        self.list.get(index).is_some_and(|s| s.banned)
    }

    /// Whether it may be asked over one more stream beside the one it has.
    pub(super) fn is_wide(&self, index: usize) -> bool {
        self.list.get(index).is_some_and(|s| !s.narrow && !s.banned)
    }

    /// The source failed; true when it lied.
    pub(super) fn failed(&mut self, index: usize, fault: SourceFault) -> bool {
        let (lied, banned) = (fault.is_lie(), fault.is_final());
        let Some(peer) = self.list.get(index).map(|s| s.peer) else { return false };
        for (i, source) in self.list.iter_mut().enumerate() {
            if i == index {
                source.fault = Some(fault.clone());
                // It was the source, and not the number of its streams.
                source.narrow = false;
                source.banned |= fault.is_final_for_ticket();
            }
            source.banned |= banned && source.peer == peer;
        }
        lied
    }

    /// A piece was gained.
    pub(super) fn progressed(&mut self) {
        self.rounds = 0;
    }

    /// Who it is.
    pub(super) fn peer(&self, index: usize) -> Option<PublicKey> {
        self.list.get(index).map(|s| s.peer)
    }

    /// What to show it.
    pub(super) fn ticket(&self, index: usize) -> Option<Ticket> {
        self.list.get(index).and_then(|s| s.ticket.clone())
    }

    /// The directory it has the object under.
    pub(super) fn under(&self, index: usize) -> Option<Digest> {
        self.list.get(index).and_then(|s| s.under)
    }

    /// The last fault of each source that had one.
    pub(super) fn faults(self) -> Vec<(PublicKey, SourceFault)> {
        self.list.into_iter().filter_map(|s| s.fault.map(|f| (s.peer, f))).collect()
    }
}
