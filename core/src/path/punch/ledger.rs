//! What punching may cost, and what came of it.
//!
//! - **Per peer** at most [`ATTEMPTS_PER_MINUTE`] attempts, whoever asks for them; rounds that failed are repeated after
//!   [`BACKOFF_MIN`] doubling to [`BACKOFF_MAX`], and anew when either side's addresses or NAT changed.
//! - **Per address** that only the peer itself vouches for, [`UNCONFIRMED_PER_MINUTE`] probes from all peers together: many
//!   keys of one liar cannot point us at a victim.
//! - **Birthday probing** is [`BIRTHDAYS_PER_HOUR`]: 1,800 packets to one address are a scan to who watches the network.

use crate::dht::record::NatType;
use crate::id::PublicKey;
use crate::path::punch::message::Offer;
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// Attempts with one peer in any minute.
pub const ATTEMPTS_PER_MINUTE: usize = 6;
/// Rest after the first round that failed.
pub const BACKOFF_MIN: Duration = Duration::from_secs(30);
/// Longest rest.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1_800);
/// Birthday rounds in any hour.
pub const BIRTHDAYS_PER_HOUR: usize = 6;
/// Probes in a minute to an IP address that nobody but peers themselves named: a whole attempt of one, or of two.
pub const UNCONFIRMED_PER_MINUTE: u32 = 320;
/// Peers remembered. Those long silent go first; if there are none, further ones wait.
pub const PEERS_MAX: usize = 512;
/// Unconfirmed addresses watched at once.
pub const UNCONFIRMED_MAX: usize = 1_024;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// A peer's account.
#[derive(Clone, Debug, Default)]
struct Account {
    attempts: VecDeque<Instant>,
    /// Attempts and failed rounds since either side changed.
    tries: u32,
    failures: u32,
    theirs: Option<Offer>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    tried: u32,
    punched: u32,
    first_try: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    peers: BTreeMap<PublicKey, Account>,
    unconfirmed: BTreeMap<IpAddr, (Instant, u32)>,
    birthdays: VecDeque<Instant>,
    counts: BTreeMap<(NatType, NatType), Count>,
}

impl Ledger {
    /// Takes one attempt with a peer; else says when there is one again.
    pub fn spend(&mut self, now: Instant, peer: &PublicKey) -> Result<(), Instant> {
        if !self.peers.contains_key(peer) && self.peers.len() >= PEERS_MAX {
            self.peers.retain(|_, a| a.attempts.back().is_some_and(|at| *at + MINUTE > now));
            if self.peers.len() >= PEERS_MAX {
                return Err(now + MINUTE);
            }
        }
        let account = self.peers.entry(*peer).or_default();
        while account.attempts.front().is_some_and(|at| *at + MINUTE <= now) {
            account.attempts.pop_front();
        }
        match account.attempts.front() {
            Some(oldest) if account.attempts.len() >= ATTEMPTS_PER_MINUTE => Err(*oldest + MINUTE),
            Some(_) | None => {
                account.attempts.push_back(now);
                account.tries = account.tries.saturating_add(1);
                Ok(())
            }
        }
    }

    /// Attempts with a peer since something changed.
    pub fn tries(&self, peer: &PublicKey) -> u32 {
        self.peers.get(peer).map_or(0, |a| a.tries)
    }

    /// What the peer offers: something new is worth a new try.
    pub fn offered(&mut self, peer: &PublicKey, offer: &Offer) {
        let Some(account) = self.peers.get_mut(peer) else { return };
        let same = account.theirs.as_ref().is_some_and(|known| known.is_like(offer));
        if same {
            return;
        }
        if account.theirs.is_some() {
            account.failures = 0;
        }
        account.theirs = Some(offer.clone());
    }

    /// Our own side changed: everybody is worth a new try.
    pub fn own_changed(&mut self) {
        for account in self.peers.values_mut() {
            (account.tries, account.failures) = (0, 0);
        }
    }

    /// A round ended well: nothing is held against the peer.
    pub fn punched(&mut self, peer: &PublicKey) {
        if let Some(account) = self.peers.get_mut(peer) {
            (account.tries, account.failures) = (0, 0);
        }
    }

    /// A round failed: how long to rest.
    pub fn failed(&mut self, peer: &PublicKey) -> Duration {
        let Some(account) = self.peers.get_mut(peer) else { return BACKOFF_MIN };
        let rest = BACKOFF_MIN.saturating_mul(1 << account.failures.min(6)).min(BACKOFF_MAX);
        account.failures = account.failures.saturating_add(1);
        rest
    }

    /// Whether a probe may go to an address nobody confirms.
    pub fn may_probe(&mut self, now: Instant, ip: IpAddr) -> bool {
        if !self.unconfirmed.contains_key(&ip) && self.unconfirmed.len() >= UNCONFIRMED_MAX {
            self.unconfirmed.retain(|_, (since, _)| *since + MINUTE > now);
            if self.unconfirmed.len() >= UNCONFIRMED_MAX {
                return false;
            }
        }
        let (since, probes) = self.unconfirmed.entry(ip).or_insert((now, 0));
        if *since + MINUTE <= now {
            (*since, *probes) = (now, 0);
        }
        *probes += 1;
        *probes <= UNCONFIRMED_PER_MINUTE
    }

    /// Whether the hour has room for birthday probing.
    pub fn has_birthday(&self, now: Instant) -> bool {
        self.birthdays.iter().filter(|at| **at + HOUR > now).count() < BIRTHDAYS_PER_HOUR
    }

    /// Birthday probing begins, if there is room for it.
    pub fn spend_birthday(&mut self, now: Instant) -> bool {
        let room = self.has_birthday(now);
        if room {
            self.birthdays.retain(|at| *at + HOUR > now);
            self.birthdays.push_back(now);
        }
        room
    }

    /// A round ended: `punched_at` is the attempt that worked.
    pub fn count(&mut self, pair: (NatType, NatType), punched_at: Option<u32>) {
        let count = self.counts.entry(pair).or_default();
        count.tried = count.tried.saturating_add(1);
        count.punched = count.punched.saturating_add(u32::from(punched_at.is_some()));
        count.first_try = count.first_try.saturating_add(u32::from(punched_at == Some(1)));
    }

    /// Rounds tried, punched, and punched at the first attempt, for each pair of our NAT and theirs.
    pub fn counts(&self) -> Vec<(NatType, NatType, u32, u32, u32)> {
        let rows = self.counts.iter();
        rows.map(|((ours, theirs), c)| (*ours, *theirs, c.tried, c.punched, c.first_try)).collect()
    }

    #[cfg(test)]
    pub fn sizes(&self) -> [usize; 3] {
        [self.peers.len(), self.unconfirmed.len(), self.birthdays.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Keypair;

    fn key(n: u32) -> PublicKey {
        Keypair::from_seed(&crate::rng::derive_seed(&[0; 32], &n.to_string())).public()
    }

    fn at(secs: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(secs)
    }

    #[test]
    fn a_peer_gets_six_attempts_in_any_minute() {
        let mut ledger = Ledger::default();
        for n in 0..6 {
            assert_eq!(ledger.spend(at(n * 5), &key(1)), Ok(()));
        }
        assert_eq!(ledger.spend(at(30), &key(1)), Err(at(60)));
        assert_eq!(ledger.spend(at(30), &key(2)), Ok(()), "another has its own");
        assert_eq!(ledger.spend(at(60), &key(1)), Ok(()));
        assert_eq!(ledger.spend(at(60), &key(1)), Err(at(65)));
    }

    #[test]
    fn rests_double_to_half_an_hour_and_begin_anew_when_something_changed() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.spend(at(0), &key(1)), Ok(()));
        let rests: Vec<u64> = (0..8).map(|_| ledger.failed(&key(1)).as_secs()).collect();
        assert_eq!(rests, [30, 60, 120, 240, 480, 960, 1800, 1800]);
        ledger.own_changed();
        assert_eq!((ledger.failed(&key(1)), ledger.tries(&key(1))), (BACKOFF_MIN, 0));
        let mut offer = Offer::default();
        ledger.offered(&key(1), &offer);
        assert_eq!(ledger.failed(&key(1)), BACKOFF_MIN.saturating_mul(2), "nothing was known to differ from");
        offer.candidates.push(([203, 0, 113, 7], 9).into());
        ledger.offered(&key(1), &offer);
        assert_eq!(ledger.failed(&key(1)), BACKOFF_MIN);
    }

    #[test]
    fn an_unconfirmed_address_gets_few_probes_however_many_peers_name_it() {
        let mut ledger = Ledger::default();
        let victim = IpAddr::from([192, 0, 2, 1]);
        let probes = |ledger: &mut Ledger, now| (0..1_000).filter(|_| ledger.may_probe(now, victim)).count();
        assert_eq!(probes(&mut ledger, at(0)), 320);
        assert_eq!(probes(&mut ledger, at(59)), 0);
        assert_eq!(probes(&mut ledger, at(60)), 320);
        for n in 0..2_000u32 {
            ledger.may_probe(at(61), IpAddr::from(n.to_be_bytes()));
        }
        assert_eq!(ledger.sizes()[1], UNCONFIRMED_MAX);
    }

    #[test]
    fn birthdays_and_accounts_are_bounded() {
        let mut ledger = Ledger::default();
        assert_eq!((0..10).filter(|n| ledger.spend_birthday(at(*n))).count(), BIRTHDAYS_PER_HOUR);
        assert!(!ledger.has_birthday(at(3_599)) && ledger.spend_birthday(at(3_600)));
        for n in 0..PEERS_MAX as u32 {
            assert!(ledger.spend(at(0), &key(n)).is_ok());
        }
        assert_eq!(ledger.spend(at(0), &key(9_999)), Err(at(60)));
        assert!(ledger.spend(at(60), &key(9_999)).is_ok());
    }

    #[test]
    fn outcomes_are_counted_by_pair() {
        let mut ledger = Ledger::default();
        let pair = (NatType::FullCone, NatType::Symmetric);
        [Some(1), Some(2), None].into_iter().for_each(|punched| ledger.count(pair, punched));
        assert_eq!(ledger.counts(), [(NatType::FullCone, NatType::Symmetric, 3, 2, 1)]);
    }
}
