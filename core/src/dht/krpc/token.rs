//! Tokens: proof that whoever stores here was asked at the address it claims.
//!
//! A token is a keyed hash of the asker's address, port and the target, under a secret that changes every five minutes
//! (BEP 5); the secret before is still believed, so a token lives five to ten minutes. The hash is BLAKE3: with a linear
//! checksum, as some use, one's own token yields everybody else's. The secrets follow from one seed and the clock, so
//! that rotating them needs no timer and no state.

use crate::id::DhtId;
use crate::time::{Duration, Instant};
use std::net::SocketAddr;

/// How often the secret changes.
pub const ROTATE_EVERY: Duration = Duration::from_secs(300);

/// Makes and checks tokens.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    seed: [u8; 32],
}

impl Tokens {
    /// Tokens under secrets that follow from `seed`.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed }
    }

    /// A token for `addr` to store at `target`.
    pub fn issue(&self, now: Instant, addr: SocketAddr, target: &DhtId) -> [u8; 8] {
        self.of_epoch(epoch(now), addr, target)
    }

    /// Whether `token` was issued to `addr` for `target` within the last ten minutes.
    pub fn check(&self, now: Instant, addr: SocketAddr, target: &DhtId, token: &[u8]) -> bool {
        let epoch = epoch(now);
        let before = epoch.checked_sub(1);
        [Some(epoch), before].into_iter().flatten().any(|e| self.of_epoch(e, addr, target) == token)
    }

    fn of_epoch(&self, epoch: u64, addr: SocketAddr, target: &DhtId) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new_keyed(&self.seed);
        hasher.update(b"krpc token").update(&epoch.to_be_bytes()).update(&target.0);
        hasher.update(&crate::codec::compact_addr(addr));
        let mut token = [0; 8];
        hasher.finalize_xof().fill(&mut token);
        token
    }
}

fn epoch(now: Instant) -> u64 {
    u64::try_from(u128::from(now.as_nanos()) / ROTATE_EVERY.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_for_its_address_its_port_and_its_target() {
        let tokens = Tokens::new([7; 32]);
        let (a, target) = ("203.0.113.5:6881".parse().unwrap(), DhtId([1; 20]));
        let token = tokens.issue(Instant::ZERO, a, &target);
        assert!(tokens.check(Instant::ZERO, a, &target, &token));
        for other in ["203.0.113.6:6881", "203.0.113.5:6882", "[2001:db8::1]:6881"] {
            assert!(!tokens.check(Instant::ZERO, other.parse().unwrap(), &target, &token));
        }
        assert!(!tokens.check(Instant::ZERO, a, &DhtId([2; 20]), &token));
        assert!(!Tokens::new([8; 32]).check(Instant::ZERO, a, &target, &token));
        assert!(
            !tokens.check(Instant::ZERO, a, &target, &token[..7])
                && !tokens.check(Instant::ZERO, a, &target, b"")
        );
    }

    #[test]
    fn a_token_lives_five_to_ten_minutes() {
        let tokens = Tokens::new([7; 32]);
        let (a, target) = ("203.0.113.5:6881".parse().unwrap(), DhtId([1; 20]));
        let at = |s: u64| Instant::from_millis(s * 1_000);
        let early = tokens.issue(at(300), a, &target);
        let late = tokens.issue(at(599), a, &target);
        for token in [early, late] {
            assert!(tokens.check(at(899), a, &target, &token));
            assert!(!tokens.check(at(900), a, &target, &token));
        }
    }
}
