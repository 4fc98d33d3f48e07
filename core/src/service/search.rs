//! Search: services by words, here, at known peers, and at peers that are worth a visit.
//!
//! What is known is told at once: own services and the catalogues of peers. Then peers are visited whose catalogue is not here,
//! those first whose *record* says that they offer services, then those whose record is not known: connecting to one is asking it, because every peer tells what we may run as
//! soon as it is met. So an answer cannot speak for anybody but its owner, and what was found can be planned with: a catalogue stays
//! for five minutes after its peer has gone, which is also the cache of a search.
//!
//! Bounds: [`VISITS_AT_ONCE`] visits at once and [`VISITS_MAX`] in all for one search, [`VISIT_WITHIN`] for each,
//! [`SEARCH_WITHIN`] for the whole (SPEC 6.7), and nobody is visited twice within [`VISITED_FOR`]. Hits beyond [`HITS_MAX`] are
//! counted, and only the best are kept.
//!
//! **Ranking** is total and the same everywhere: how well the words fit, then the lower price (of a job, of a second, of a
//! GiB), then the name, then the version from new to old, then the owner's key, then the id.

use super::Service;
use super::catalogue::CATALOGUES_MAX;
use crate::few::Few;
use crate::id::{CommandId, Digest, PublicKey};
use crate::limits::SERVICES_MAX;
use crate::machine::{Cx, Machine};
use crate::time::{Deadline, Duration, Instant};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A visited peer answers within this or not at all (SPEC 6.7).
pub const VISIT_WITHIN: Duration = Duration::from_secs(15);
/// The whole search (SPEC 6.7).
pub const SEARCH_WITHIN: Duration = Duration::from_secs(45);
/// Visits of all searches at once: half of what the discovery of peers may dial for those who ask.
pub const VISITS_AT_ONCE: usize = 8;
/// Visits of one search: what 45 s and 15 s leave room for when nobody answers, and as many again.
pub const VISITS_MAX: usize = 48;
/// For so long a visited peer is not visited again: as long as its catalogue would be kept.
pub const VISITED_FOR: Duration = Duration::from_secs(300);
/// Visited peers remembered.
pub const VISITED_MAX: usize = 1_024;
/// Searches at once.
pub const SEARCHES_MAX: usize = 8;
/// Hits of a search that are kept and told.
pub const HITS_MAX: usize = 256;
/// Owners whose services one search takes: all whose catalogues there may be, and those it visits.
pub const OWNERS_MAX: usize = CATALOGUES_MAX + 1 + VISITS_MAX;
/// Most words of a query.
pub const TERMS_MAX: usize = 16;
/// Longest query in bytes.
pub const QUERY_MAX: usize = 256;

/// What is looked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query {
    terms: BTreeSet<String>,
    kind: Option<String>,
}

impl Query {
    /// Words between commas and spaces, any of which may fit; none means everything. `kind` is one of services.
    pub fn new(words: &str, kind: Option<&str>) -> Result<Self, &'static str> {
        if words.len() > QUERY_MAX {
            return Err("a query has at most 256 bytes");
        }
        let terms: BTreeSet<String> = words
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|w| !w.is_empty())
            .map(str::to_lowercase)
            .collect();
        if terms.len() > TERMS_MAX {
            return Err("a query has at most 16 words");
        }
        Ok(Self { terms, kind: kind.map(str::to_owned) })
    }

    /// Its words, each once.
    pub fn words(&self) -> String {
        self.terms.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// The kind that it is restricted to.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// How well a service fits; `None`: not at all. For each word the name counts 8 when it is the word and 4 when it has it,
    /// a label 6 and 3, the description 2.
    pub fn score(&self, service: &Service) -> Option<u32> {
        if self.kind.as_deref().is_some_and(|kind| kind != service.program.kind()) {
            return None;
        }
        if self.terms.is_empty() {
            return Some(0);
        }
        let description = service.description.to_lowercase();
        let worth = |whole: u32, part: u32, term: &str, text: &str| {
            if text == term {
                whole
            } else if text.contains(term) {
                part
            } else {
                0
            }
        };
        let of = |term: &String| {
            let labels = service.details.labels.iter().map(|l| worth(6, 3, term, l)).max().unwrap_or(0);
            worth(8, 4, term, &service.name) + labels + worth(2, 2, term, &description)
        };
        let score: u32 = self.terms.iter().map(of).sum();
        (score > 0).then_some(score)
    }
}

/// A service that fits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hit {
    /// Who offers it.
    pub owner: PublicKey,
    /// What.
    pub service: Service,
    /// Its id.
    pub id: Digest,
    /// How well it fits.
    pub score: u32,
}

impl Hit {
    /// The order of hits, best first.
    fn rank(&self) -> impl Ord + '_ {
        let price = self.service.details.price;
        (
            Reverse(self.score),
            (price.per_job, price.per_cpu_s, price.per_gib),
            self.service.name.as_str(),
            Reverse(self.service.version.as_str()),
            self.owner,
            self.id,
        )
    }
}

/// What a search came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Hits, best first.
    pub hits: Vec<Hit>,
    /// Hits in all, those that are not kept included.
    pub total: u32,
    /// Peers visited.
    pub visited: u32,
    /// Those of them that answered.
    pub answered: u32,
    /// Peers that would have been worth a visit and got none in time.
    pub unvisited: u32,
}

/// What can happen to searches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// The user searches.
    Start {
        /// Answered with this id.
        id: CommandId,
        /// What for.
        query: Query,
        /// What is known: this node's services and the catalogues of peers.
        known: Vec<(PublicKey, Service)>,
        /// Peers whose catalogue is not known and who may offer something, those worth most first.
        prospects: Vec<PublicKey>,
    },
    /// A catalogue came.
    Offers {
        /// Whose.
        peer: PublicKey,
        /// What it offers us.
        services: Arc<[Service]>,
    },
    /// A peer cannot be reached.
    Unreachable(PublicKey),
}

/// What searches can ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Connect to this peer.
    Visit(PublicKey),
    /// Hits of a search as they come, best first.
    Hits {
        /// Which.
        id: CommandId,
        /// What.
        hits: Vec<Hit>,
    },
    /// The end of a search.
    Done {
        /// Which.
        id: CommandId,
        /// All of it.
        found: Found,
    },
    /// There are too many searches already.
    TooMany(CommandId),
}

#[derive(Clone, Debug)]
struct Search {
    query: Query,
    found: Found,
    seen: BTreeMap<PublicKey, BTreeSet<Digest>>,
    queue: VecDeque<PublicKey>,
    waiting: BTreeSet<PublicKey>,
    until: Instant,
}

/// Searches under way.
#[derive(Clone, Debug, Default)]
pub struct Searches {
    all: BTreeMap<CommandId, Search>,
    /// Visits under way, and until when.
    visits: Few<PublicKey, Instant>,
    /// Who was visited, and until when nobody visits it again.
    visited: Few<PublicKey, Instant>,
}

impl Searches {
    /// Searches, visits, and visited peers that are remembered; for checkers.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.all.len(), self.visits.len(), self.visited.len())
    }

    fn start(
        &mut self,
        cx: &mut Cx<'_, Output>,
        id: CommandId,
        query: Query,
        known: Vec<(PublicKey, Service)>,
        prospects: Vec<PublicKey>,
    ) {
        if self.all.len() >= SEARCHES_MAX || self.all.contains_key(&id) {
            return cx.emit(Output::TooMany(id));
        }
        let mut queue: VecDeque<PublicKey> = VecDeque::new();
        for peer in prospects {
            // One that another search visits right now answers both.
            let recently = self.visited.get(&peer).is_some_and(|until| *until > cx.now);
            let now = self.visits.contains_key(&peer);
            if queue.len() < VISITS_MAX && (now || !recently) && !queue.contains(&peer) {
                queue.push_back(peer);
            }
        }
        let mut search = Search {
            query,
            found: Found::default(),
            seen: BTreeMap::new(),
            queue,
            waiting: BTreeSet::new(),
            until: cx.now + SEARCH_WITHIN,
        };
        let hits = search.take(known.iter().map(|(owner, service)| (*owner, service)));
        if !hits.is_empty() {
            cx.emit(Output::Hits { id, hits });
        }
        self.all.insert(id, search);
        self.visit(cx);
    }

    /// Visits whom there is room to visit, one of each search in turn, and ends searches that have nothing to wait for.
    fn visit(&mut self, cx: &mut Cx<'_, Output>) {
        loop {
            let mut moved = false;
            for search in self.all.values_mut() {
                let Some(peer) = search.queue.front().copied().filter(|_| search.until > cx.now) else {
                    continue;
                };
                let under_way = self.visits.contains_key(&peer);
                if !under_way && self.visits.len() >= VISITS_AT_ONCE {
                    continue;
                }
                search.queue.pop_front();
                search.waiting.insert(peer);
                search.found.visited += 1;
                moved = true;
                if !under_way {
                    self.visits.insert(peer, cx.now + VISIT_WITHIN);
                    remember(&mut self.visited, peer, cx.now);
                    cx.emit(Output::Visit(peer));
                }
            }
            if !moved {
                break;
            }
        }
        let over = |s: &Search| (s.queue.is_empty() && s.waiting.is_empty()) || s.until <= cx.now;
        let done: Vec<CommandId> = self.all.iter().filter(|(_, s)| over(s)).map(|(id, _)| *id).collect();
        for id in done {
            let Some(mut search) = self.all.remove(&id) else { continue };
            search.found.unvisited = u32::try_from(search.queue.len()).unwrap_or(u32::MAX);
            cx.emit(Output::Done { id, found: search.found });
        }
    }

    fn over(&mut self, peer: &PublicKey) {
        self.visits.remove(peer);
        for search in self.all.values_mut() {
            search.waiting.remove(peer);
        }
    }
}

fn remember(visited: &mut Few<PublicKey, Instant>, peer: PublicKey, now: Instant) {
    if visited.len() >= VISITED_MAX && !visited.contains_key(&peer) {
        let oldest = visited.iter().min_by_key(|(_, until)| **until).map(|(k, _)| *k);
        if let Some(oldest) = oldest {
            visited.remove(&oldest);
        }
    }
    visited.insert(peer, now + VISITED_FOR);
}

impl Search {
    /// Each owner has room for as many as it may offer, so that one who offers ever other services takes nobody else's place.
    fn is_new(&mut self, owner: PublicKey, id: Digest) -> bool {
        if self.seen.len() >= OWNERS_MAX && !self.seen.contains_key(&owner) {
            return false;
        }
        let of_owner = self.seen.entry(owner).or_default();
        of_owner.len() < SERVICES_MAX && of_owner.insert(id)
    }

    /// What is new and fits, best first; all of it is kept as far as there is room for the best.
    fn take<'a>(&mut self, offered: impl Iterator<Item = (PublicKey, &'a Service)>) -> Vec<Hit> {
        let mut new = Vec::new();
        for (owner, service) in offered {
            let Some(score) = self.query.score(service) else { continue };
            let id = service.id();
            if self.is_new(owner, id) {
                new.push(Hit { owner, service: service.clone(), id, score });
            }
        }
        new.sort_by(|a, b| a.rank().cmp(&b.rank()));
        self.found.total = self.found.total.saturating_add(u32::try_from(new.len()).unwrap_or(u32::MAX));
        new.truncate(HITS_MAX);
        self.found.hits.extend(new.iter().cloned());
        self.found.hits.sort_by(|a, b| a.rank().cmp(&b.rank()));
        self.found.hits.truncate(HITS_MAX);
        new
    }
}

impl Machine for Searches {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Start { id, query, known, prospects } => self.start(cx, id, query, known, prospects),
            Input::Offers { peer, services } => {
                for (id, search) in &mut self.all {
                    if search.waiting.remove(&peer) {
                        search.found.answered += 1;
                    }
                    // Whoever else turns up meanwhile is as welcome as those who were asked.
                    let hits = search.take(services.iter().map(|s| (peer, s)));
                    if !hits.is_empty() {
                        cx.emit(Output::Hits { id: *id, hits });
                    }
                }
                self.over(&peer);
                self.visit(cx);
            }
            Input::Unreachable(peer) => {
                self.over(&peer);
                self.visit(cx);
            }
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        let late: Vec<PublicKey> =
            self.visits.iter().filter(|(_, at)| **at <= cx.now).map(|(k, _)| *k).collect();
        let due = !late.is_empty() || self.all.values().any(|s| s.until <= cx.now);
        for peer in late {
            self.over(&peer);
        }
        if due {
            self.visit(cx);
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        let visits = self.visits.values().min().map(|at| Deadline::new(*at, "a visited peer is silent"));
        let searches =
            self.all.values().map(|s| s.until).min().map(|at| Deadline::new(at, "end of a search"));
        Deadline::earlier(visits, searches)
    }
}

#[cfg(test)]
mod tests;
