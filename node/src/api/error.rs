//! Every failure of the API in one shape: what, where, and how to mend it.
//!
//! `{"error": {"code": "…", "message": "…", "hint": "…", "where"?: "…", "problems"?: […]}}`. The code is for programs and
//! never changes its meaning; the words are for people.

use super::blobs::BlobError;
use super::core_handle::HandleError;
use crate::ports::docker::client::DockerError;
use crate::workflow_text::Problem;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use remote_network_core::command::{CommandError, Reply};
use serde::Serialize;

/// A failure, ready to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    body: Body,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Envelope<'a> {
    error: &'a Body,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Body {
    code: &'static str,
    message: String,
    hint: String,
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<ProblemDto>,
}

/// One problem of a workflow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ProblemDto {
    place: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u32>,
}

impl From<&Problem> for ProblemDto {
    fn from(p: &Problem) -> Self {
        Self {
            place: p.place.clone(),
            reason: p.reason.clone(),
            line: p.location.map(|l| l.line),
            column: p.location.map(|l| l.column),
        }
    }
}

impl ApiError {
    /// A failure.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let body =
            Body { code, message: message.into(), hint: hint.into(), place: None, problems: Vec::new() };
        Self { status, body }
    }

    /// The request is wrong at `place`.
    pub fn bad_request(place: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message, hint).at(place)
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message, hint)
    }

    /// Where in the request.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.body.place = Some(place.into());
        self
    }

    /// The workflow is wrong in these places.
    pub fn invalid_workflow(problems: &[Problem]) -> Self {
        let message = match problems {
            [one] => one.to_string(),
            many => format!("the workflow has {} problems", many.len()),
        };
        let mut error = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_workflow",
            message,
            "mend the places listed under `problems`",
        )
        .at("workflow");
        error.body.problems = problems.iter().map(ProblemDto::from).collect();
        error
    }

    /// The core answered something that does not belong to the question: our bug, said as such.
    pub fn unexpected(reply: &Reply) -> Self {
        match reply {
            Reply::Error(e) => e.clone().into(),
            Reply::Done
            | Reply::Status(_)
            | Reply::Peers(_)
            | Reply::Peer(_)
            | Reply::Services(_)
            | Reply::Planned(_)
            | Reply::Submitted(_)
            | Reply::Runs(_)
            | Reply::Run(_)
            | Reply::Policy(_)
            | Reply::Found(_)
            | Reply::Relay(_)
            | Reply::Ticket(_) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the node gave an answer to another question",
                "this is a bug of the node; please report it with the node's log",
            ),
        }
    }
}

impl From<CommandError> for ApiError {
    fn from(e: CommandError) -> Self {
        let message = e.to_string();
        let (status, code, hint) = match &e {
            CommandError::UnknownPeer(_) => {
                (StatusCode::NOT_FOUND, "unknown_peer", "GET /api/v1/peers lists the peers that are known")
            }
            CommandError::Unreachable { .. } => (
                StatusCode::BAD_GATEWAY,
                "unreachable",
                "check that the peer runs and that UDP is not blocked, or give its address as `addr`",
            ),
            CommandError::UnknownRun(_) => {
                (StatusCode::NOT_FOUND, "unknown_run", "GET /api/v1/runs lists the runs that are kept")
            }
            CommandError::RunOver(_) => {
                (StatusCode::CONFLICT, "run_over", "GET /api/v1/runs/{run} says how it ended")
            }
            CommandError::RunConflict(_) => {
                (StatusCode::CONFLICT, "run_conflict", "choose a new random run id for another workflow")
            }
            CommandError::UnknownService(_) => {
                (StatusCode::NOT_FOUND, "unknown_service", "GET /api/v1/services lists the services")
            }
            CommandError::UnknownObject(_) => (StatusCode::NOT_FOUND, "unknown_object", "send it (again)"),
            CommandError::NoSession(_) => {
                (StatusCode::NOT_FOUND, "no_session", "GET /api/v1/relay lists the sessions at this relay")
            }
            CommandError::BlockSelf => (StatusCode::BAD_REQUEST, "block_self", "name another peer"),
            CommandError::Invalid(problems) => {
                let located: Vec<Problem> = problems
                    .iter()
                    .map(|p| Problem { place: p.place.clone(), location: None, reason: p.reason.clone() })
                    .collect();
                return Self::invalid_workflow(&located);
            }
            CommandError::Fetch { .. } => {
                (StatusCode::BAD_GATEWAY, "fetch_failed", "ask the peer for a new ticket, or another peer")
            }
            CommandError::Limit(_) => {
                (StatusCode::TOO_MANY_REQUESTS, "limit", "wait until something ends, or remove something")
            }
            CommandError::ShuttingDown => {
                (StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "start the node again")
            }
        };
        Self::new(status, code, message, hint)
    }
}

impl From<HandleError> for ApiError {
    fn from(e: HandleError) -> Self {
        let message = e.to_string();
        match e {
            HandleError::Stopped => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopped", message, "start the node again")
            }
            HandleError::Busy => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message, "try again in a moment")
            }
            HandleError::Timeout(_) => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                message,
                "what was asked for may still happen: look before asking again",
            ),
        }
    }
}

impl From<DockerError> for ApiError {
    fn from(e: DockerError) -> Self {
        let (status, code, hint) = match &e {
            DockerError::Away(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "docker_away", "`remote-network doctor` says what is found")
            }
            DockerError::Version(_) => {
                (StatusCode::BAD_GATEWAY, "docker_version", "update the Docker engine")
            }
            DockerError::NoImage(_) => (
                StatusCode::NOT_FOUND,
                "unknown_image",
                "`docker images` lists what there is; POST /api/v1/docker/pull brings what is not",
            ),
            DockerError::Registry(_, _) => (
                StatusCode::BAD_GATEWAY,
                "registry",
                "look at the name and the way to the registry; without a network, `docker load` an image and use `--no-pull`",
            ),
            DockerError::Said(_) => (StatusCode::BAD_GATEWAY, "docker", "the engine's own log may say more"),
        };
        Self::new(status, code, e.to_string(), hint)
    }
}

impl From<BlobError> for ApiError {
    fn from(e: BlobError) -> Self {
        let message = e.to_string();
        match e {
            BlobError::NotFound => Self::not_found(message, "wait until it has been fetched"),
            BlobError::Full => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "store_full",
                message,
                "free disk space or raise the store's quota",
            ),
            BlobError::Io(_) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "store_failed",
                message,
                "check the disk and the node's log",
            ),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let json = serde_json::to_vec(&Envelope { error: &self.body }).unwrap_or_default();
        let mut response = (self.status, json).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}
