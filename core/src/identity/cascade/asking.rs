//! Asking connected peers where a wanted peer is, when the DHT does not tell.
//!
//! Every connected peer is asked once in an attempt, and answers count for two seconds. Each is a dial at most, one
//! after the other and within the budget, however wanted the peer is: a crowd of liars must not make us knock at a
//! victim's door. At most [`TOLD_MAX`] addresses of an attempt are tried, one from each peer, so that one liar can
//! take one place.

use super::effort::{Asking, Stage};
use super::{Cascade, Output};
use crate::dht::endpoint::usable;
use crate::id::PublicKey;
use crate::machine::Cx;
use crate::time::{Duration, Instant};
use std::net::SocketAddr;

/// Answers are waited for this long.
pub const ASK_FOR: Duration = Duration::from_secs(2);
/// Addresses taken from the answers of an attempt.
pub const TOLD_MAX: usize = 8;
/// Peers sought at once; for more, nobody is asked.
pub const ASKING_MAX: usize = 64;

impl Cascade {
    /// Asks for a peer that has no address left, or waits on for answers; false when there is nothing to wait for.
    pub(super) fn ask(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey) -> bool {
        let Some(e) = self.efforts.get(&key) else { return false };
        if let Some(until) = e.awaits_answers(cx.now) {
            self.change(&key, |e| e.stage = Stage::Asking { until });
            return true;
        }
        if !e.may_ask() || self.connected.is_empty() || self.asked_for(cx.now) >= ASKING_MAX {
            return false;
        }
        let (silent, until) = (self.connected.keys().copied().collect::<Vec<_>>(), cx.now + ASK_FOR);
        for of in &silent {
            cx.emit(Output::Seek { of: *of, key });
        }
        let asking = Asking { asked: silent.len(), silent, until, told: Vec::new() };
        self.change(&key, |e| {
            e.asking = Some(Box::new(asking));
            e.stage = Stage::Asking { until };
        });
        true
    }

    /// Peers that are being asked for.
    fn asked_for(&self, now: Instant) -> usize {
        self.efforts.values().filter(|e| e.awaits_answers(now).is_some()).count()
    }

    /// A peer answers.
    pub(super) fn seen(&mut self, cx: &mut Cx<'_, Output>, by: PublicKey, key: PublicKey, addr: SocketAddr) {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let asked = self.efforts.get_mut(&key).and_then(|e| e.asking.as_mut());
        let Some(asking) = asked.filter(|a| a.until > cx.now && a.silent.contains(&by)) else {
            return cx.emit(Output::Refused("seen-unasked"));
        };
        asking.silent.retain(|k| *k != by);
        let room = asking.told.len() < TOLD_MAX;
        if !usable(addr, self.config.private_networks) {
            cx.emit(Output::Refused("seen-address"));
        } else if self.may_dial(addr) && room {
            self.change(&key, |e| e.told(addr));
        }
        if self.efforts.get(&key).is_some_and(|e| matches!(e.stage, Stage::Asking { .. })) {
            self.next_step(cx, key);
        }
    }
}
