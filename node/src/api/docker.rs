//! Container images: what they say of themselves, and how they come.
//!
//! A pull is one request that takes as long as it takes. Meanwhile `GET /docker/pulls` and the event `docker.pull.progress` say how
//! far it is; a client that leaves, and a node that stops, end it.

use super::core_handle::Told;
use super::dto::{MountDto, PullDto};
use super::error::ApiError;
use super::routes::Json;
use super::state::ApiState;
use crate::ports::docker::Progress;
use crate::ports::docker::client::Found;
use crate::ports::docker::inspect::{Confidence, Interface, Suggested, Suggestion};
use axum::Json as Answer;
use axum::extract::State;
use remote_network_core::id::Digest;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// News of one pull for all subscribers, at most every so often.
const NEWS_EVERY: Duration = Duration::from_millis(250);

/// Names an image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageName {
    image: String,
}

/// What an image says of itself.
#[derive(Serialize)]
pub struct ImageDto {
    image: String,
    id: String,
    /// Whether it says what to run.
    runs: bool,
    ports: Vec<SuggestedDto>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    notes: Vec<String>,
}

/// A suggested port.
#[derive(Serialize)]
struct SuggestedDto {
    port: String,
    direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    confidence: &'static str,
    reason: String,
}

impl From<Suggested> for SuggestedDto {
    fn from(s: Suggested) -> Self {
        let (port, direction, path) = match s.interface {
            Interface::Stream("stdin") => ("stdin".to_owned(), "in", None),
            Interface::Stream(name) => (name.to_owned(), "out", None),
            Interface::Mount { name, path, written } => {
                (name, if written { "out" } else { "in" }, Some(path))
            }
        };
        let confidence = match s.confidence {
            Confidence::Low => "low",
            Confidence::Medium => "medium",
            Confidence::High => "high",
        };
        Self { port, direction, path, confidence, reason: s.reason }
    }
}

impl ImageDto {
    fn of(image: String, found: Found) -> Self {
        let Suggestion { ports, name, description, version, notes } = found.suggestion;
        Self {
            image,
            id: Digest(found.id).to_string(),
            runs: found.runs,
            ports: ports.into_iter().map(SuggestedDto::from).collect(),
            name,
            description,
            version,
            notes,
        }
    }
}

impl From<&Progress> for PullDto {
    fn from(p: &Progress) -> Self {
        let Progress { image, layers, bytes } = p.clone();
        Self { image, layers_done: layers.0, layers: layers.1, done: bytes.0, len: bytes.1 }
    }
}

/// All pulls.
#[derive(Serialize)]
pub struct Pulls {
    pulls: Vec<PullDto>,
}

/// An image that has come.
#[derive(Serialize)]
pub struct Pulled {
    /// Its name, with the digest that the tag meant.
    image: String,
}

/// `POST /docker/inspect`
pub async fn inspect(
    State(state): State<ApiState>,
    Json(asked): Json<ImageName>,
) -> Result<Answer<ImageDto>, ApiError> {
    let found = state.docker.image(asked.image.clone()).await.map_err(|e| ApiError::from(e).at("image"))?;
    Ok(Answer(ImageDto::of(asked.image, found)))
}

/// `POST /docker/pull`
pub async fn pull(
    State(state): State<ApiState>,
    Json(asked): Json<ImageName>,
) -> Result<Answer<Pulled>, ApiError> {
    let (mut told, mut latest) = (None::<Instant>, None);
    let tell = |progress: Progress| {
        if told.is_none_or(|at| at.elapsed() >= NEWS_EVERY) {
            state.core.publish(Told::Pull(progress.clone()));
            told = Some(Instant::now());
        }
        latest = Some(progress);
    };
    let mut ending = state.ending.clone();
    let pulled = tokio::select! {
        pulled = state.docker.pull(asked.image, tell) => pulled,
        () = ending.come() => return Err(super::core_handle::HandleError::Stopped.into()),
    };
    let image = pulled.map_err(|e| ApiError::from(e).at("image"))?;
    if let Some(last) = latest {
        state.core.publish(Told::Pull(last));
    }
    Ok(Answer(Pulled { image }))
}

/// `GET /docker/pulls`
pub async fn pulls(State(state): State<ApiState>) -> Answer<Pulls> {
    Answer(Pulls { pulls: state.docker.pulls().iter().map(PullDto::from).collect() })
}

/// Mounts that an image suggests and a service of it does not have, in words for its owner.
pub fn unmet(suggestion: &Suggestion, mounts: &[MountDto]) -> Vec<String> {
    let words = |s: &Suggested| match &s.interface {
        Interface::Mount { name, path, written }
            if !mounts
                .iter()
                .any(|m| m.path().map_or_else(|| format!("/{}", m.name()), str::to_owned) == *path) =>
        {
            let flag = if *written { "--mount-out" } else { "--mount-in" };
            Some(format!("{path} may be meant as a mount ({}): {flag} {name}={path}", s.reason))
        }
        Interface::Mount { .. } | Interface::Stream(_) => None,
    };
    suggestion.ports.iter().filter_map(words).collect()
}
