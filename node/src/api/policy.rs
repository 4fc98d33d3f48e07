//! The owner's policy: what it says, what was used of it today, and another one.

use super::dto::{PolicyDto, PolicyViewDto};
use super::error::ApiError;
use super::node::Done;
use super::routes::Json;
use super::state::ApiState;
use axum::Json as Answer;
use axum::extract::State;
use remote_network_core::command::{Command, CommandError, Reply, ServiceCommand};

/// `GET /policy`
pub async fn show(State(state): State<ApiState>) -> Result<Answer<PolicyViewDto>, ApiError> {
    match state.ask(Command::Service(ServiceCommand::Policy)).await? {
        Reply::Policy(view) => Ok(Answer(PolicyViewDto::from(&*view))),
        other => Err(ApiError::unexpected(&other)),
    }
}

/// `PUT /policy`: takes effect with the next job that a peer asks for; those that were admitted go on.
pub async fn set(
    State(state): State<ApiState>,
    Json(policy): Json<PolicyDto>,
) -> Result<Answer<Done>, ApiError> {
    let policy = policy.into_policy().map_err(|problems| ApiError::from(CommandError::Invalid(problems)))?;
    Done::of(&state.ask(Command::Service(ServiceCommand::SetPolicy(Box::new(policy)))).await?)
}
