//! Signing in and out.

use super::error::ApiError;
use super::node::Nothing;
use super::routes::{Json, bearer, refused};
use super::state::ApiState;
use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Instant;

/// A one-time code out of a sign-in link.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    code: String,
}

/// A session token, told once.
#[derive(Serialize)]
pub struct SessionDto {
    token: String,
    idle_ms: u64,
}

/// `POST /session`: a code becomes a session.
pub async fn sign_in(
    State(state): State<ApiState>,
    Json(request): Json<SignIn>,
) -> Result<(StatusCode, Answer<SessionDto>), ApiError> {
    let session = state.gatekeeper.sign_in(&request.code, Instant::now()).map_err(|e| no_random(&e))?;
    let token = session.map_err(refused)?;
    let idle_ms = u64::try_from(super::auth::SESSION_IDLE.as_millis()).unwrap_or(u64::MAX);
    Ok((StatusCode::CREATED, Answer(SessionDto { token: token.reveal().to_owned(), idle_ms })))
}

/// `DELETE /session`: the session ends.
pub async fn sign_out(State(state): State<ApiState>, headers: HeaderMap) -> StatusCode {
    if let Some(token) = bearer(&headers) {
        state.gatekeeper.sign_out(token);
    }
    StatusCode::NO_CONTENT
}

/// A link that signs a browser in, once.
#[derive(Serialize)]
pub struct LinkDto {
    link: String,
}

/// `POST /sign-in-links`: for the command line, to open a browser.
pub async fn link(
    State(state): State<ApiState>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<(StatusCode, Answer<LinkDto>), ApiError> {
    let link = sign_in_link(&state).map_err(|e| no_random(&e))?;
    Ok((StatusCode::CREATED, Answer(LinkDto { link })))
}

/// A fresh sign-in link. The code is in the fragment, which browsers send to nobody.
pub fn sign_in_link(state: &ApiState) -> io::Result<String> {
    let code = state.gatekeeper.issue_sign_in(Instant::now())?;
    Ok(format!("http://localhost:{}/#signin={}", state.addr.port(), code.reveal()))
}

/// The system has no random bytes: nothing can be issued.
pub fn no_random(e: &io::Error) -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "no_random",
        e.to_string(),
        "the operating system must provide randomness",
    )
}
