//! One service: looking at it, changing it, setting it aside, taking it along.
//!
//! What `export` gives is what `POST /services` takes, with the id it had: who imports it can see whether it became the same
//! service. A module, executable or directory travels beside it, by its digest.

use super::super::dto::{DetailsDto, LimitsDto, MountDto, ServiceDto, VisibilityDto};
use super::super::error::ApiError;
use super::super::node::Done;
use super::super::objects::download;
use super::super::routes::{Json, Segments, parse_id};
use super::super::state::ApiState;
use super::{DIGEST_HINT, visibility};
use axum::Json as Answer;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response};
use remote_network_core::command::{Command, CommandError, Reply, ServiceCommand, ServiceView};
use remote_network_core::id::Digest;
use remote_network_core::port::Program;
use remote_network_core::service::Service;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A service, and everybody who offers it.
#[derive(Serialize)]
pub struct Shown {
    #[serde(flatten)]
    service: ServiceDto,
    owners: Vec<String>,
}

/// `GET /services/{id}`: this node's own view of it first.
pub async fn show(
    State(state): State<ApiState>,
    Segments(id): Segments<String>,
) -> Result<Answer<Shown>, ApiError> {
    let views = views(&state, &id).await?;
    let owners = views.iter().map(|v| v.owner.to_string()).collect();
    let Some(first) = views.first() else { return Err(unknown(&id)) };
    Ok(Answer(Shown { service: ServiceDto::from(first), owners }))
}

/// `GET /services/{id}/export`
pub async fn export(
    State(state): State<ApiState>,
    Segments(id): Segments<String>,
) -> Result<Answer<Value>, ApiError> {
    let views = views(&state, &id).await?;
    let Some(first) = views.first() else { return Err(unknown(&id)) };
    exported(first).map(Answer)
}

/// The fields that `POST /services` takes, and the id.
fn exported(view: &ServiceView) -> Result<Value, ApiError> {
    let Ok(Value::Object(mut shown)) = serde_json::to_value(ServiceDto::from(view)) else {
        return Err(ApiError::bad_request("path", "the service cannot be written", "please report this"));
    };
    let mut document = Map::new();
    for key in ["id", "name", "description", "version", "module", "stdin", "mounts", "limits", "details"] {
        if let Some(value) = shown.remove(key) {
            document.insert(key.to_owned(), value);
        }
    }
    if view.local {
        document.extend(shown.remove("visibility").map(|v| ("visibility".to_owned(), v)));
    }
    if let Program::Image(image) = &view.service.program {
        document.insert("image".to_owned(), json!(image.name));
        document.insert("entrypoint".to_owned(), json!(image.entrypoint));
        document.extend(image.workdir.as_ref().map(|w| ("workdir".to_owned(), json!(w))));
    }
    if let Program::Native(executable) = &view.service.program {
        document.insert("program".to_owned(), json!(executable.object.to_string()));
    }
    if let Some(dataset) = view.service.program.dataset() {
        document.insert("data".to_owned(), json!(dataset.manifest.to_string()));
    }
    Ok(Value::Object(document))
}

/// `GET /services/{id}/module`: the module or executable of a service of this node.
pub async fn module(
    State(state): State<ApiState>,
    Segments(id): Segments<String>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let service = own(&state, &id).await?;
    match &service.program {
        Program::Wasm(module) => download(&state, *module, &format!("{}.wasm", service.name), &headers).await,
        Program::Native(executable) => download(&state, executable.object, &service.name, &headers).await,
        Program::Image(_) => {
            Err(ApiError::bad_request("path", "this service has no module", "it runs an image"))
        }
        Program::Data(dataset) => {
            let hint = format!("it gives a directory: `data get {}` writes that", dataset.manifest);
            Err(ApiError::bad_request("path", "this service has no module", hint))
        }
    }
}

/// `POST /services/{id}/activate`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activate {
    active: bool,
}

/// `POST /services/{id}/activate`: offers it again, or no more, and keeps it.
pub async fn activate(
    State(state): State<ApiState>,
    Segments(id): Segments<String>,
    Json(Activate { active }): Json<Activate>,
) -> Result<Answer<Done>, ApiError> {
    let service: Digest = parse_id("path", &id, DIGEST_HINT)?;
    Done::of(&state.ask(Command::Service(ServiceCommand::Activate { service, active })).await?)
}

/// What is to be different; what is absent stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    name: Option<String>,
    description: Option<String>,
    version: Option<String>,
    stdin: Option<bool>,
    mounts: Option<Vec<MountDto>>,
    limits: Option<LimitsDto>,
    visibility: Option<VisibilityDto>,
    details: Option<DetailsDto>,
}

/// What a change led to.
#[derive(Serialize)]
pub struct Changed {
    id: String,
    /// What it replaced, when that was something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    withdrawn: Option<String>,
}

/// `PATCH /services/{id}`: a service of this node becomes another one; who planned with the old one must plan again.
pub async fn edit(
    State(state): State<ApiState>,
    Segments(id): Segments<String>,
    Json(change): Json<Change>,
) -> Result<Answer<Changed>, ApiError> {
    let mut service = own(&state, &id).await?;
    let old = service.id();
    service.name = change.name.unwrap_or(service.name);
    service.description = change.description.unwrap_or(service.description);
    service.version = change.version.unwrap_or(service.version);
    service.stdin = change.stdin.unwrap_or(service.stdin);
    if let Some(mounts) = change.mounts {
        service.mounts = mounts.into_iter().map(Into::into).collect();
    }
    if let Some(limits) = change.limits {
        service.limits = limits.into();
    }
    if let Some(dto) = &change.visibility {
        service.visibility = visibility(dto)?;
    }
    if let Some(details) = change.details {
        service.details = details.into();
    }
    let new = service.id();
    let command = ServiceCommand::Edit { old, service: Box::new(service) };
    let Answer(_done) = Done::of(&state.ask(Command::Service(command)).await?)?;
    let withdrawn = (new != old).then(|| old.to_string());
    Ok(Answer(Changed { id: new.to_string(), withdrawn }))
}

/// Everybody's view of a service, this node's first.
async fn views(state: &ApiState, id: &str) -> Result<Vec<ServiceView>, ApiError> {
    let id: Digest = parse_id("path", id, DIGEST_HINT)?;
    match state.ask(Command::Services).await? {
        Reply::Services(views) => {
            let found: Vec<ServiceView> = views.into_iter().filter(|v| v.service.id() == id).collect();
            if found.is_empty() { Err(CommandError::UnknownService(id).into()) } else { Ok(found) }
        }
        other => Err(ApiError::unexpected(&other)),
    }
}

async fn own(state: &ApiState, id: &str) -> Result<Service, ApiError> {
    let own = views(state, id).await?.into_iter().find(|v| v.local);
    own.map(|v| v.service).ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> ApiError {
    match id.parse() {
        Ok(id) => CommandError::UnknownService(id).into(),
        Err(_) => ApiError::bad_request("path", "no service is named so", DIGEST_HINT),
    }
}
