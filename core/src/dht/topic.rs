//! Meeting others under a topic: announce ourselves, search for those who did the same.
//!
//! Each topic (info-hash = SHA-1 of its name) is announced every 60 s and searched every 30 s, both ± 10 % so that nodes
//! started together do not stay together. While searches find nobody they repeat sooner, from 2 s on, doubling: two
//! nodes started at the same moment would else miss each other's first announcement and wait for half a minute. One
//! address alone is nobody, since it may be our own announcement. Failed requests repeat in the same rhythm.
//!
//! What comes back are **hints**: addresses anybody may have written there, a victim's among them. So they are filtered
//! by scope, told once in five minutes, at most [`HINTS_PER_SEARCH_MAX`] per search, and whoever dials them has a budget
//! per network. The topic is for first contact only; known peers and exchange carry on from there.

use super::endpoint::{Packed, usable};
use super::scheduler::RequestFailed;
use crate::few::Few;
use crate::id::DhtId;
use crate::machine::{Cx, Machine};
use crate::port::DhtDone;
use crate::time::{Deadline, Duration, Instant};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Announcing a topic (SPEC 2.1), ± 10 %.
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(60);
/// Searching a topic (SPEC 2.1 `discovery_interval`), ± 10 %.
pub const SEARCH_EVERY: Duration = Duration::from_secs(30);
/// First repetition of a search that found nobody, or of a request that failed.
pub const AGAIN_MIN: Duration = Duration::from_secs(2);
/// A hint is told again after this long.
pub const HINT_AGAIN_AFTER: Duration = Duration::from_secs(300);
/// Hints remembered as told.
pub const HINTS_MAX: usize = 128;
/// Hints told per search; a hot topic's others come with later searches.
pub const HINTS_PER_SEARCH_MAX: usize = 32;
/// Topics of a node.
pub const TOPICS_MAX: usize = 8;

/// The two things done with a topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Errand {
    /// Say that we are here.
    Announce,
    /// Ask who is.
    Search,
}

/// What can happen to the topics.
#[derive(Clone, Debug)]
pub enum Input {
    /// The node is up: begin.
    Start,
    /// A search found these.
    Peers(DhtId, Vec<SocketAddr>),
    /// The request for this topic ended.
    Done(DhtId, Errand, Result<DhtDone, RequestFailed>),
}

/// What the topics ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Announce or search; answered by `Done`. At most one of each is under way per topic.
    Request(DhtId, Errand),
    /// Somebody may be there.
    Hint(SocketAddr),
    /// Something was not believed.
    Refused(&'static str),
}

/// When an errand runs next: `None` while it is under way, or before the start.
#[derive(Clone, Copy, Debug, Default)]
struct Rhythm {
    next: Option<Instant>,
    under_way: bool,
    /// Failed or fruitless in a row.
    in_vain: u32,
}

#[derive(Clone, Debug, Default)]
struct Topic {
    announce: Rhythm,
    search: Rhythm,
    told: usize,
    /// The first address of this search, and whether another one came.
    found: Option<SocketAddr>,
    found_others: bool,
}

/// The node's topics.
#[derive(Debug)]
pub struct Topics {
    private_networks: bool,
    search_every: Duration,
    topics: Few<DhtId, Topic>,
    /// Hints told within [`HINT_AGAIN_AFTER`], the oldest first, and in which second. Few enough to look through.
    told: VecDeque<(Packed, u32)>,
}

impl Topics {
    /// The first [`TOPICS_MAX`] of `topics`; hints of private ranges count only with `private_networks`.
    pub fn new(topics: &[DhtId], private_networks: bool) -> Self {
        let topics = topics.iter().take(TOPICS_MAX).map(|t| (*t, Topic::default())).collect();
        Self { private_networks, search_every: SEARCH_EVERY, topics, told: VecDeque::new() }
    }

    /// Searches this often instead of every [`SEARCH_EVERY`].
    #[must_use]
    pub fn searching_every(mut self, every: Duration) -> Self {
        self.search_every = every;
        self
    }

    fn run_due(&mut self, cx: &mut Cx<'_, Output>) {
        for (id, topic) in self.topics.iter_mut() {
            for (rhythm, errand) in
                [(&mut topic.announce, Errand::Announce), (&mut topic.search, Errand::Search)]
            {
                if rhythm.next.is_some_and(|at| at <= cx.now) {
                    rhythm.next = None;
                    rhythm.under_way = true;
                    cx.emit(Output::Request(*id, errand));
                    if errand == Errand::Search {
                        topic.told = 0;
                        topic.found = None;
                        topic.found_others = false;
                    }
                }
            }
        }
    }

    fn peers(&mut self, cx: &mut Cx<'_, Output>, id: DhtId, addrs: Vec<SocketAddr>) {
        let Some(topic) = self.topics.get_mut(&id).filter(|t| t.search.under_way) else { return };
        let second = u32::try_from(cx.now.as_millis() / 1_000).unwrap_or(u32::MAX);
        let over =
            |told: &(Packed, u32)| u64::from(second - told.1.min(second)) >= HINT_AGAIN_AFTER.as_secs();
        while self.told.front().is_some_and(over) {
            self.told.pop_front();
        }
        for addr in addrs {
            let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
            if !usable(addr, self.private_networks) {
                cx.emit(Output::Refused("hint-address"));
                continue;
            }
            topic.found_others |= *topic.found.get_or_insert(addr) != addr;
            if topic.told >= HINTS_PER_SEARCH_MAX {
                return;
            }
            let packed = Packed::from(addr);
            if self.told.iter().any(|(told, _)| *told == packed) {
                continue;
            }
            if self.told.len() >= HINTS_MAX {
                return;
            }
            self.told.push_back((packed, second));
            topic.told += 1;
            cx.emit(Output::Hint(addr));
        }
    }

    fn done(&mut self, cx: &mut Cx<'_, Output>, id: DhtId, errand: Errand, ok: bool) {
        let Some(topic) = self.topics.get_mut(&id) else { return };
        let (rhythm, every, fruitful) = match errand {
            Errand::Announce => (&mut topic.announce, ANNOUNCE_EVERY, ok),
            Errand::Search => (&mut topic.search, self.search_every, ok && topic.found_others),
        };
        if !rhythm.under_way {
            return;
        }
        rhythm.under_way = false;
        let delay = if fruitful {
            rhythm.in_vain = 0;
            every
        } else {
            rhythm.in_vain = rhythm.in_vain.saturating_add(1);
            AGAIN_MIN.saturating_mul(1 << rhythm.in_vain.saturating_sub(1).min(10)).min(every)
        };
        rhythm.next = Some(cx.now + cx.rng.jitter(delay, 10));
    }
}

impl Machine for Topics {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Start => {
                for topic in self.topics.values_mut() {
                    for rhythm in [&mut topic.announce, &mut topic.search] {
                        if !rhythm.under_way {
                            rhythm.next = Some(cx.now);
                        }
                    }
                }
                self.run_due(cx);
            }
            Input::Peers(id, addrs) => self.peers(cx, id, addrs),
            Input::Done(id, errand, result) => self.done(cx, id, errand, result.is_ok()),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        self.run_due(cx);
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let next = |at: Option<Instant>, why| at.map(|at| Deadline::new(at, why));
        self.topics.values().fold(None, |first, t| {
            let first = Deadline::earlier(first, next(t.announce.next, "announce topic"));
            Deadline::earlier(first, next(t.search.next, "search topic"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{self, Rig};
    use crate::port::DhtFailed;
    use proptest::prelude::*;

    const TOPIC: DhtId = DhtId([1; 20]);
    const OK: Result<DhtDone, RequestFailed> = Ok(DhtDone { stored: 8, responded: 8, newest_seq: None });
    const ANNOUNCE: Output = Output::Request(TOPIC, Errand::Announce);
    const SEARCH: Output = Output::Request(TOPIC, Errand::Search);

    fn addr(a: u8, b: u8) -> SocketAddr {
        ([203, 0, a, b], 30_906).into()
    }

    fn rig(private: bool) -> Rig<Topics> {
        let mut rig = Rig::new(Topics::new(&[TOPIC], private), [0; 32]);
        assert_eq!(rig.tell(Input::Start), [ANNOUNCE, SEARCH]);
        rig
    }

    fn found(rig: &mut Rig<Topics>, addrs: Vec<SocketAddr>) -> Vec<Output> {
        let mut out = rig.tell(Input::Peers(TOPIC, addrs));
        out.extend(rig.tell(Input::Done(TOPIC, Errand::Search, OK)));
        out
    }

    #[test]
    fn a_topic_is_announced_every_minute_and_searched_every_half() {
        let mut rig = rig(false);
        rig.handle(Input::Done(TOPIC, Errand::Announce, OK));
        let (mut announced, mut searched) = (0, 0);
        found(&mut rig, vec![addr(1, 1), addr(1, 2)]);
        for _ in 0..3_600 {
            for o in rig.wait(Duration::from_secs(1)) {
                if o == ANNOUNCE {
                    announced += 1;
                    rig.handle(Input::Done(TOPIC, Errand::Announce, OK));
                } else if o == SEARCH {
                    searched += 1;
                    found(&mut rig, vec![addr(1, 1), addr(1, 2)]);
                }
            }
        }
        assert!((54..=67).contains(&announced), "{announced}");
        assert!((108..=134).contains(&searched), "{searched}");
    }

    #[test]
    fn a_search_that_finds_nobody_repeats_soon_and_then_less_often() {
        let mut rig = rig(false);
        for secs in [2u64, 4, 8, 16, 30, 30] {
            found(&mut rig, vec![addr(9, 9), addr(9, 9)]);
            let delay = rig.machine.poll_timeout().unwrap().at.since(rig.now);
            let base = Duration::from_secs(secs);
            assert!(delay >= base * 9 / 10 && delay <= base * 11 / 10, "{delay:?}");
            assert_eq!(rig.wait(delay), [SEARCH]);
        }
        assert_eq!(found(&mut rig, vec![addr(9, 9), addr(1, 1)]), [Output::Hint(addr(1, 1))]);
        assert!(rig.machine.poll_timeout().unwrap().at.since(rig.now) >= SEARCH_EVERY * 9 / 10);
    }

    #[test]
    fn a_failed_announcement_is_repeated() {
        let mut rig = rig(false);
        let offline = Err(RequestFailed::Dht(DhtFailed::Offline));
        rig.handle(Input::Done(TOPIC, Errand::Announce, offline));
        assert_eq!(rig.wait(Duration::from_secs(3)), [ANNOUNCE]);
    }

    #[test]
    fn a_hint_is_told_once_in_five_minutes() {
        let mut rig = rig(false);
        assert_eq!(found(&mut rig, vec![addr(1, 1), addr(1, 1)]), [Output::Hint(addr(1, 1))]);
        rig.wait(Duration::from_secs(40));
        assert!(found(&mut rig, vec![addr(1, 1)]).is_empty());
        rig.wait(HINT_AGAIN_AFTER);
        assert_eq!(found(&mut rig, vec![addr(1, 1)]), [Output::Hint(addr(1, 1))]);
    }

    #[test]
    fn hints_to_where_nobody_lives_are_refused() {
        let bad = ["127.0.0.1:1", "10.0.0.1:1", "224.0.0.1:1", "203.0.113.1:0"].map(|a| a.parse().unwrap());
        let refused = Output::Refused("hint-address");
        assert_eq!(found(&mut rig(false), bad.to_vec()), vec![refused.clone(); 4]);
        let out = found(&mut rig(true), bad.to_vec());
        assert_eq!(out.iter().filter(|o| **o == refused).count(), 2, "private networks open two of them");
    }

    #[test]
    fn a_flood_of_hints_is_cut() {
        let mut rig = rig(false);
        let flood: Vec<_> = (0..5_000u32).map(|n| addr((n / 250) as u8, (n % 250) as u8)).collect();
        assert_eq!(found(&mut rig, flood).len(), HINTS_PER_SEARCH_MAX);
    }

    fn arb_input() -> impl Strategy<Value = Input> {
        let result = prop_oneof![Just(OK), Just(Err(RequestFailed::Busy))];
        let errand = prop_oneof![Just(Errand::Announce), Just(Errand::Search)];
        let topic = (0u8..3).prop_map(|n| DhtId([n; 20]));
        prop_oneof![
            1 => Just(Input::Start),
            3 => (topic.clone(), prop::collection::vec((0u8..9, any::<u8>()), 0..60))
                .prop_map(|(t, a)| Input::Peers(t, a.into_iter().map(|(a, b)| addr(a, b)).collect())),
            4 => (topic, errand, result).prop_map(|(t, e, r)| Input::Done(t, e, r)),
        ]
    }

    #[test]
    fn topics_are_a_lawful_machine() {
        let make = || Topics::new(&[TOPIC, DhtId([2; 20])], false);
        laws::check_within(make, arb_input(), |m| assert!(m.told.len() <= HINTS_MAX));
    }
}
