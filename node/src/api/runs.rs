//! Runs: submit, watch, cancel, take home.

use super::dto::RunDto;
use super::error::ApiError;
use super::guard::OBJECT_CSP;
use super::node::{Done, Nothing};
use super::objects::{attachment, download};
use super::routes::{Json, Segments, parse_id};
use super::state::ApiState;
use super::workflows::{WorkflowBody, import};
use crate::workflow_text::Embedded;
use axum::Json as Answer;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{self, HeaderMap};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use remote_network_core::command::{Command, Reply, RunView, TaskView};
use remote_network_core::id::RunId;
use remote_network_core::port::Port;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

const RUN_HINT: &str = "a run is named by 32 hex digits, chosen at random by the client that submits it";

/// All runs, newest first, without tasks.
#[derive(Serialize)]
pub struct Runs {
    runs: Vec<RunDto>,
}

/// `GET /runs`
pub async fn list(State(state): State<ApiState>) -> Result<Answer<Runs>, ApiError> {
    match state.ask(Command::Runs).await? {
        Reply::Runs(views) => Ok(Answer(Runs { runs: views.iter().map(RunDto::from).collect() })),
        other => Err(ApiError::unexpected(&other)),
    }
}

/// A workflow to run, under an id that makes repeating the request harmless.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    run: String,
    workflow: Option<Embedded>,
    yaml: Option<String>,
    #[serde(default)]
    params: BTreeMap<String, Value>,
}

/// The run is journaled.
#[derive(Serialize)]
pub struct Submitted {
    run: String,
}

/// `POST /runs`: answered once the run is durable. The same id with the same workflow is the same run.
pub async fn submit(
    State(state): State<ApiState>,
    Json(body): Json<Submit>,
) -> Result<(StatusCode, Answer<Submitted>), ApiError> {
    let run: RunId = parse_id("run", &body.run, RUN_HINT)?;
    let parsed = WorkflowBody::new(body.workflow, body.yaml, body.params)
        .read()?
        .map_err(|problems| ApiError::invalid_workflow(&problems))?;
    let (parsed, workflow) = import(&state, parsed).await?;
    match state.core.command(Command::Submit { run, workflow: Box::new(workflow) }).await? {
        Reply::Submitted(run) => Ok((StatusCode::ACCEPTED, Answer(Submitted { run: run.to_string() }))),
        Reply::Error(e) => Err(match parsed.locate_error(&e) {
            Some(problems) => ApiError::invalid_workflow(&problems),
            None => e.into(),
        }),
        other => Err(ApiError::unexpected(&other)),
    }
}

/// `GET /runs/{run}`
pub async fn show(
    State(state): State<ApiState>,
    Segments(run): Segments<String>,
) -> Result<Answer<RunDto>, ApiError> {
    Ok(Answer(RunDto::from(&find(&state, &run).await?)))
}

/// `POST /runs/{run}/cancel`
pub async fn cancel(
    State(state): State<ApiState>,
    Segments(run): Segments<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Answer<Done>, ApiError> {
    let run = parse_id("path", &run, RUN_HINT)?;
    Done::of(&state.ask(Command::Cancel(run)).await?)
}

/// `POST /runs/{run}/pause`: nothing more is dispatched; what runs goes on.
pub async fn pause(
    State(state): State<ApiState>,
    Segments(run): Segments<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Answer<Done>, ApiError> {
    let run = parse_id("path", &run, RUN_HINT)?;
    Done::of(&state.ask(Command::Pause { run, paused: true }).await?)
}

/// `POST /runs/{run}/resume`
pub async fn resume(
    State(state): State<ApiState>,
    Segments(run): Segments<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Answer<Done>, ApiError> {
    let run = parse_id("path", &run, RUN_HINT)?;
    Done::of(&state.ask(Command::Pause { run, paused: false }).await?)
}

/// `GET /runs/{run}/results/{sink}/{n}`: the n-th result that reached a sink, as a download.
pub async fn result(
    State(state): State<ApiState>,
    Segments((run, sink, n)): Segments<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let n: usize = parse_id("path", &n, "results of a sink are counted from 0")?;
    let view = find(&state, &run).await?;
    let found = view.results.iter().filter(|r| r.sink == sink).nth(n);
    let Some(found) = found else {
        let message = format!("run {} has no result {n} at sink `{sink}`", view.run);
        return Err(ApiError::not_found(message, "GET /api/v1/runs/{run} lists its results"));
    };
    if found.fetched < found.len {
        let message = format!("{} of {} bytes are here", found.fetched, found.len);
        let hint = "wait until it has been fetched and verified";
        return Err(ApiError::new(StatusCode::CONFLICT, "not_ready", message, hint));
    }
    download(&state, found.digest, &format!("{}-{sink}-{n}", view.name), &headers).await
}

/// `GET /runs/{run}/tasks/{task}/logs`: what the task wrote to standard error.
pub async fn logs(
    State(state): State<ApiState>,
    Segments((run, task)): Segments<(String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let view = find(&state, &run).await?;
    let found = find_task(&view, &task)?;
    match found.outputs.iter().find(|(port, _, _)| *port == Port::Stderr) {
        // Most tasks say nothing, and nothing is not worth an object in the store.
        Some((_, _, 0)) => Ok(Response::new(Body::empty())),
        Some((_, digest, _)) => {
            download(&state, *digest, &format!("{}-{task}.log", view.name), &headers).await
        }
        None => Err(ApiError::not_found(
            format!("task `{task}` has left no log"),
            "a task's log is there once an attempt has ended",
        )),
    }
}

/// `GET /runs/{run}/tasks/{task}/receipt`: the file that `receipt verify` reads.
pub async fn receipt(
    State(state): State<ApiState>,
    Segments((run, task)): Segments<(String, String)>,
) -> Result<Response<Body>, ApiError> {
    let view = find(&state, &run).await?;
    let Some(bundle) = find_task(&view, &task)?.receipt.clone() else {
        return Err(ApiError::not_found(
            format!("task `{task}` has no receipt yet"),
            "a receipt is there once the task is committed",
        ));
    };
    let mut response = bundle.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_DISPOSITION, attachment(&format!("{}-{task}.receipt", view.name)));
    headers.insert(header::CONTENT_SECURITY_POLICY, header::HeaderValue::from_static(OBJECT_CSP));
    Ok(response)
}

/// `GET /runs/{run}/tasks/{task}/evidence`: what executors of a task signed that contradicts; `receipt verify` reads it.
pub async fn evidence(
    State(state): State<ApiState>,
    Segments((run, task)): Segments<(String, String)>,
) -> Result<Response<Body>, ApiError> {
    let view = find(&state, &run).await?;
    let Some(bytes) = find_task(&view, &task)?.agreement.as_ref().and_then(|a| a.evidence.clone()) else {
        return Err(ApiError::not_found(
            format!("nobody disagrees about task `{task}`"),
            "evidence is there once two executors of a task have signed different results",
        ));
    };
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_DISPOSITION, attachment(&format!("{}-{task}.evidence", view.name)));
    headers.insert(header::CONTENT_SECURITY_POLICY, header::HeaderValue::from_static(OBJECT_CSP));
    Ok(response)
}

async fn find(state: &ApiState, run: &str) -> Result<RunView, ApiError> {
    let run: RunId = parse_id("path", run, RUN_HINT)?;
    match state.ask(Command::Run(run)).await? {
        Reply::Run(view) => Ok(*view),
        other => Err(ApiError::unexpected(&other)),
    }
}

fn find_task<'v>(view: &'v RunView, task: &str) -> Result<&'v TaskView, ApiError> {
    view.tasks.iter().find(|t| t.id == task).ok_or_else(|| {
        let ids: Vec<&str> = view.tasks.iter().map(|t| t.id.as_str()).take(20).collect();
        ApiError::not_found(
            format!("run {} has no task `{task}`", view.run),
            format!("its tasks are: {}", ids.join(", ")),
        )
    })
}
