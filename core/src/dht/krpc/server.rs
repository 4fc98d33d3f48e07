//! Answering others.
//!
//! Every answer passes three gates: the source's account of queries, its account of bytes (see [`super::source`]) and the
//! size of a datagram. Replies keep to 1,024 bytes (BEP 32) by naming fewer nodes; only a stored value that does not fit
//! even without them goes beyond, alone, within what every IPv6 path carries.

use super::message::{Answer, Ask, ErrorCode, NodeAddr, Put, Query, write_error};
use super::source::{Source, Sources};
use super::stored::{Laid, Peers, VALUES_MAX, Values};
use super::table::{K, Table};
use super::token::Tokens;
use crate::id::DhtId;
use crate::rng::Rng;
use crate::time::Instant;
use std::net::SocketAddr;

/// Largest reply (BEP 32).
pub const REPLY_MAX: usize = 1_024;
/// Largest reply that carries a value too large for [`REPLY_MAX`]: 1,280 bytes less the headers of IPv6 and UDP.
pub const VALUE_REPLY_MAX: usize = 1_232;
/// A value beyond this does not fit into [`REPLY_MAX`] with its key, signature and token.
const VALUE_ALONE_FROM: usize = 760;

/// How much more a neighbour in a private network may ask than a stranger.
const PRIVATE_GENEROSITY: u32 = 40;

/// A query and where it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// From there.
    pub from: SocketAddr,
    /// Its transaction id.
    pub tid: &'a [u8],
    /// What.
    pub query: Query<'a>,
}

/// What comes of a query.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The answer.
    pub reply: Option<Vec<u8>>,
    /// What was refused.
    pub refused: Option<&'static str>,
    /// Where a version lies that was not here before.
    pub laid: Option<DhtId>,
    /// The answer was cut short because the source has not shown itself: it should be pinged.
    pub unproven: bool,
}

/// What we keep for others and whom we serve.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// Who may store.
    pub tokens: Tokens,
    /// Stored values.
    pub values: Values,
    /// Announced peers.
    pub peers: Peers,
    /// Accounts of those who ask.
    pub sources: Sources,
}

impl Server {
    /// Nothing stored yet. A private network has few nodes, so each is the closest to many keys: one of them may store and
    /// ask more than a stranger among millions may.
    pub fn new(private: bool) -> Self {
        let mut server = Self::default();
        if private {
            server.values.per_source_max = VALUES_MAX / 2;
            server.sources.generosity = PRIVATE_GENEROSITY;
        }
        server
    }

    /// Answers a query. `tables` are those of IPv4 and IPv6.
    pub fn answer(&mut self, now: Instant, rng: &mut Rng, asked: &Asked<'_>, tables: [&Table; 2]) -> Outcome {
        let ipv6 = asked.from.is_ipv6();
        let own = tables[usize::from(ipv6)];
        let mut laid = None;
        let stored = match &asked.query.ask {
            Ask::Announce { topic, port, token } => {
                let addr = SocketAddr::new(asked.from.ip(), port.unwrap_or(asked.from.port()));
                self.with_token(now, asked.from, topic, token, |s| s.peers.announce(now, topic, addr))
            }
            Ask::Put(put) => self.put(now, asked.from, own.own(), put).map(|how| {
                laid = (how == Laid::New).then(|| put.target());
            }),
            Ask::Ping | Ask::FindNode(_) | Ask::GetPeers(_) | Ask::Get { .. } => Ok(()),
        };
        if let Err(code) = stored {
            return self.error(now, asked.from, asked.tid, code);
        }
        let mut answer = Answer::new(*own.own(), asked.from, asked.tid);
        match &asked.query.ask {
            Ask::Ping | Ask::Announce { .. } | Ask::Put(_) => {}
            Ask::FindNode(target) => nodes(&mut answer, &asked.query, ipv6, tables, target),
            Ask::GetPeers(topic) => {
                nodes(&mut answer, &asked.query, ipv6, tables, topic);
                answer.token = Some(self.tokens.issue(now, asked.from, topic));
                answer.peers = self.peers.sample(now, topic, ipv6, rng);
            }
            Ask::Get { target, newer_than } => {
                nodes(&mut answer, &asked.query, ipv6, tables, target);
                answer.token = Some(self.tokens.issue(now, asked.from, target));
                answer.held = self.values.get(now, target, *newer_than);
            }
        }
        let proven = own.knows(now, &asked.query.id, asked.from);
        let budget = if proven { None } else { self.sources.budget(now, Source::of(asked.from)) };
        let most = match answer.held.v {
            Some(v) if v.len() > VALUE_ALONE_FROM => VALUE_REPLY_MAX,
            Some(_) | None => REPLY_MAX,
        };
        if most == VALUE_REPLY_MAX {
            (answer.nodes4, answer.nodes6) = (Vec::new(), Vec::new());
        }
        let budget = budget.unwrap_or(most).min(most);
        let reply = answer.fit(budget);
        let unproven = !proven && budget < most;
        if let Some(bytes) = &reply {
            self.sources.sent(Source::of(asked.from), bytes.len());
        }
        let refused = reply.is_none().then_some("krpc-source-unproven");
        Outcome { reply, refused, laid, unproven }
    }

    /// Answers with an error, if the source may have that much.
    pub fn error(&mut self, now: Instant, to: SocketAddr, tid: &[u8], code: ErrorCode) -> Outcome {
        let bytes = write_error(tid, code);
        let source = Source::of(to);
        let refused = Some(code.words());
        if self.sources.budget(now, source).is_some_and(|b| b < bytes.len()) {
            return Outcome { refused, ..Outcome::default() };
        }
        self.sources.sent(source, bytes.len());
        Outcome { reply: Some(bytes), refused, ..Outcome::default() }
    }

    fn put(&mut self, now: Instant, from: SocketAddr, own: &DhtId, put: &Put<'_>) -> Result<Laid, ErrorCode> {
        let by = Source::of(from);
        self.with_token(now, from, &put.target(), put.token, |s| s.values.put(now, own, by, put))
    }

    fn with_token<T>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        target: &DhtId,
        token: &[u8],
        then: impl FnOnce(&mut Self) -> Result<T, ErrorCode>,
    ) -> Result<T, ErrorCode> {
        if !self.tokens.check(now, from, target, token) {
            return Err(ErrorCode::Protocol);
        }
        self.sources.verified(now, Source::of(from));
        then(self)
    }

    /// Forgets what is expired.
    pub fn expire(&mut self, now: Instant) {
        self.values.expire(now);
        self.peers.expire(now);
        self.sources.prune(now);
    }

    /// Bytes on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        self.values.heap_bytes() + self.peers.heap_bytes() + self.sources.len() * 96
    }
}

/// Close nodes of the families that are wanted (BEP 32); by default of the one it came by.
fn nodes(answer: &mut Answer<'_>, query: &Query<'_>, ipv6: bool, tables: [&Table; 2], target: &DhtId) {
    let (want4, want6) = query.want.filter(|w| w.0 || w.1).unwrap_or((!ipv6, ipv6));
    let close = |wanted: bool, table: &Table| -> Vec<NodeAddr> {
        if wanted { table.closest(target, K) } else { Vec::new() }
    };
    answer.nodes4 = close(want4, tables[0]);
    answer.nodes6 = close(want6, tables[1]);
}
