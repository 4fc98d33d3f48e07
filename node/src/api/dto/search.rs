//! What a search finds, as JSON.

use super::details::DetailsDto;
use super::{LimitsDto, MountDto};
use remote_network_core::service::search::{Found, Hit};
use serde::Serialize;

/// A service that was found.
#[derive(Serialize)]
pub struct HitDto {
    owner: String,
    id: String,
    score: u32,
    kind: &'static str,
    name: String,
    description: String,
    version: String,
    stdin: bool,
    mounts: Vec<MountDto>,
    limits: LimitsDto,
    details: DetailsDto,
}

impl From<&Hit> for HitDto {
    fn from(h: &Hit) -> Self {
        let s = &h.service;
        Self {
            owner: h.owner.to_string(),
            id: h.id.to_string(),
            score: h.score,
            kind: s.program.kind(),
            name: s.name.clone(),
            description: s.description.clone(),
            version: s.version.clone(),
            stdin: s.stdin,
            mounts: s.mounts.iter().map(MountDto::from).collect(),
            limits: LimitsDto::from(&s.limits),
            details: DetailsDto::from(&s.details),
        }
    }
}

/// One line of the answer to a search.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SearchLine {
    /// What is new, best first.
    Found {
        /// It.
        hits: Vec<HitDto>,
    },
    /// The end: everything that was found, best first.
    Done {
        /// It.
        hits: Vec<HitDto>,
        /// Hits in all, those that are not told included.
        total: u32,
        /// Peers that were visited for it.
        visited: u32,
        /// Those that answered.
        answered: u32,
        /// Those that would have been worth a visit.
        unvisited: u32,
    },
    /// The end, for another reason.
    Failed {
        /// Why.
        why: String,
    },
}

impl From<&Found> for SearchLine {
    fn from(f: &Found) -> Self {
        Self::Done {
            hits: f.hits.iter().map(HitDto::from).collect(),
            total: f.total,
            visited: f.visited,
            answered: f.answered,
            unvisited: f.unvisited,
        }
    }
}
