//! Queries under way, by transaction id.
//!
//! An answer counts only if its transaction id is one of ours and it comes from the very address that was asked; ids are
//! four random bytes, so that who does not see our traffic cannot answer for others. A query has two deadlines: after
//! [`SHORT`] whoever waits goes on without it (and may send it once more: puts and announcements are idempotent), after
//! [`LONG`] it is lost. Both are the same for all, so the queues are in order by themselves.

use crate::id::OpId;
use crate::rng::Rng;
use crate::time::{Deadline, Duration, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// After this the asker goes on without the answer.
pub const SHORT: Duration = Duration::from_secs(1);
/// After this the query is lost.
pub const LONG: Duration = Duration::from_secs(4);
/// Queries under way.
pub const CALLS_MAX: usize = 1_024;
/// Pings under way; whoever asks us is pinged only while there are fewer.
pub const PINGS_MAX: usize = 16;

/// Who began an operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// The core, which is answered.
    Core(OpId),
    /// We ourselves, for a value that we hold and closer nodes may lack.
    Handover,
}

/// What a query is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// To see whether somebody is there.
    Ping,
    /// A step of a walk.
    Walk(u32),
    /// To store something for an operation.
    Store(Origin),
}

/// A query under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// Whom we asked.
    pub to: SocketAddr,
    /// What for.
    pub why: Why,
    /// Times sent.
    pub tries: u8,
    slow_at: Instant,
    lost_at: Instant,
}

/// A deadline that passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// No answer yet; it is still waited for. It may be sent again under this id.
    Slow(u32, Call),
    /// No answer: it is forgotten. Whoever is woken late hears this of a query that was never slow twice.
    Lost(u32, Call),
}

/// The queries under way.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    calls: BTreeMap<u32, Call>,
    slow: VecDeque<(Instant, u32)>,
    lost: VecDeque<(Instant, u32)>,
    pings: usize,
}

impl Calls {
    /// Begins a query and returns its transaction id; `None` when too many are under way.
    pub fn begin(&mut self, now: Instant, rng: &mut Rng, to: SocketAddr, why: Why) -> Option<u32> {
        if self.calls.len() >= CALLS_MAX {
            return None;
        }
        let tid = rng.next_u64() as u32;
        if self.calls.contains_key(&tid) {
            return None;
        }
        let (slow_at, lost_at) = (now + SHORT, now + LONG);
        self.calls.insert(tid, Call { to, why, tries: 1, slow_at, lost_at });
        self.slow.push_back((slow_at, tid));
        self.lost.push_back((lost_at, tid));
        self.pings += usize::from(why == Why::Ping);
        Some(tid)
    }

    /// The same query is sent once more, under the same id.
    pub fn again(&mut self, now: Instant, tid: u32) {
        let Some(call) = self.calls.get_mut(&tid) else { return };
        call.tries = call.tries.saturating_add(1);
        call.slow_at = now + SHORT;
        if call.slow_at < call.lost_at {
            self.slow.push_back((call.slow_at, tid));
        }
    }

    /// An answer came: the query it belongs to, which ends.
    pub fn answered(&mut self, from: SocketAddr, tid: &[u8]) -> Option<Call> {
        let tid = u32::from_be_bytes(tid.try_into().ok()?);
        self.calls.get(&tid).filter(|c| c.to == from)?;
        self.remove(tid)
    }

    /// Gives a query up.
    pub fn remove(&mut self, tid: u32) -> Option<Call> {
        let call = self.calls.remove(&tid)?;
        self.pings -= usize::from(call.why == Why::Ping);
        self.tidy();
        Some(call)
    }

    /// The next deadline that has passed.
    pub fn due(&mut self, now: Instant) -> Option<Due> {
        self.tidy();
        if let Some((at, tid)) = self.lost.front().copied().filter(|(at, _)| *at <= now) {
            // A call that is lost was slow before; both may have passed at once.
            if self.slow.front().is_none_or(|(slow, _)| *slow > at) {
                return self.remove(tid).map(|call| Due::Lost(tid, call));
            }
        }
        let (_, tid) = self.slow.front().copied().filter(|(at, _)| *at <= now)?;
        self.slow.pop_front();
        self.calls.get(&tid).map(|c| Due::Slow(tid, *c))
    }

    /// When the next deadline passes.
    pub fn deadline(&self) -> Option<Deadline> {
        let slow = self.slow.front().map(|(at, _)| Deadline::new(*at, "krpc-slow"));
        Deadline::earlier(slow, self.lost.front().map(|(at, _)| Deadline::new(*at, "krpc-lost")))
    }

    /// Whether somebody at `addr` is being asked.
    pub fn asks(&self, addr: SocketAddr) -> bool {
        self.calls.values().any(|c| c.to == addr)
    }

    /// Pings under way.
    pub fn pings(&self) -> usize {
        self.pings
    }

    /// Queries under way.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Bytes on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        let queues = (self.slow.capacity() + self.lost.capacity()) * size_of::<(Instant, u32)>();
        queues + self.calls.len() * (size_of::<(u32, Call)>() + 8)
    }

    /// Queue entries of queries that have ended must wake nobody; nor must empty queues hold memory.
    fn tidy(&mut self) {
        let gone = |calls: &BTreeMap<u32, Call>, at: Instant, tid: u32, slow: bool| {
            calls.get(&tid).is_none_or(|c| if slow { c.slow_at != at } else { c.lost_at != at })
        };
        while let Some((at, tid)) = self.slow.front().copied()
            && gone(&self.calls, at, tid, true)
        {
            self.slow.pop_front();
        }
        while let Some((at, tid)) = self.lost.front().copied()
            && gone(&self.calls, at, tid, false)
        {
            self.lost.pop_front();
        }
        if self.calls.is_empty() && self.lost.capacity() > 8 {
            (self.slow, self.lost) = (VecDeque::new(), VecDeque::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn addr(port: u16) -> SocketAddr {
        ([203, 0, 113, 1], port).into()
    }

    #[test]
    fn only_who_was_asked_may_answer_and_only_once() {
        let (mut c, mut rng) = (Calls::default(), Rng::from_seed([1; 32]));
        let tid = c.begin(at(0), &mut rng, addr(1), Why::Ping).unwrap().to_be_bytes();
        assert_eq!(c.answered(addr(2), &tid), None);
        assert_eq!(c.answered(addr(1), &tid[..3]), None);
        assert_eq!(c.answered(addr(1), b"abcde"), None);
        assert!(c.answered(addr(1), &tid).is_some());
        assert_eq!(c.answered(addr(1), &tid), None);
        assert_eq!((c.deadline(), c.pings()), (None, 0));
    }

    #[test]
    fn a_query_is_slow_then_slow_again_and_then_lost() {
        let (mut c, mut rng) = (Calls::default(), Rng::from_seed([1; 32]));
        let tid = c.begin(at(0), &mut rng, addr(1), Why::Walk(7)).unwrap();
        assert_eq!(c.due(at(999)), None);
        assert!(matches!(c.due(at(1_000)), Some(Due::Slow(t, Call { tries: 1, .. })) if t == tid));
        c.again(at(1_000), tid);
        assert_eq!(c.deadline().map(|d| d.at), Some(at(2_000)));
        assert!(matches!(c.due(at(2_000)), Some(Due::Slow(t, Call { tries: 2, .. })) if t == tid));
        assert_eq!(c.due(at(3_999)), None);
        assert!(matches!(c.due(at(4_000)), Some(Due::Lost(t, call)) if t == tid && call.to == addr(1)));
        assert_eq!((c.due(at(9_000)), c.deadline(), c.len()), (None, None, 0));
    }

    #[test]
    fn queries_under_way_are_bounded() {
        let (mut c, mut rng) = (Calls::default(), Rng::from_seed([1; 32]));
        let begun = (0..3_000).filter(|_| c.begin(at(0), &mut rng, addr(1), Why::Ping).is_some()).count();
        assert_eq!((begun, c.len(), c.pings()), (CALLS_MAX, CALLS_MAX, CALLS_MAX));
        while c.due(at(10_000)).is_some() {}
        assert_eq!((c.len(), c.pings()), (0, 0));
    }
}
