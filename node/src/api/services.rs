//! Services of this node and of connected peers.

mod edit;

use super::dto::{NewServiceDto, ServiceDto, VisibilityDto};
use super::error::ApiError;
use super::node::Done;
use super::objects::on_store_thread;
use super::programs;
use super::routes::{Json, Segments, parse_id};
use super::state::ApiState;
use super::trees;
use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use remote_network_core::command::{Command, Reply};
use remote_network_core::id::Digest;
use remote_network_core::port::{Image, Program};
use remote_network_core::service::{
    DESCRIPTION_MAX, LISTED_MAX, MOUNTS_MAX, NAME_MAX, Visibility, valid_name,
};
use serde::Serialize;

pub use edit::{activate, edit, export, module, show};

const DIGEST_HINT: &str = "a digest is written as 64 hex digits";

/// All services.
#[derive(Serialize)]
pub struct Services {
    services: Vec<ServiceDto>,
}

/// `GET /services`
pub async fn list(State(state): State<ApiState>) -> Result<Answer<Services>, ApiError> {
    match state.ask(Command::Services).await? {
        Reply::Services(views) => {
            Ok(Answer(Services { services: views.iter().map(ServiceDto::from).collect() }))
        }
        other => Err(ApiError::unexpected(&other)),
    }
}

/// The id of a new service.
#[derive(Serialize)]
pub struct Added {
    id: String,
    /// What its owner should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hints: Vec<String>,
}

/// `POST /services`: offers a module or a program that `POST /objects` has brought into the store, or an image that the Docker engine has.
pub async fn add(
    State(state): State<ApiState>,
    Json(new): Json<NewServiceDto>,
) -> Result<(StatusCode, Answer<Added>), ApiError> {
    check(&new)?;
    let visibility = visibility(&new.visibility)?;
    let (program, len, hints) = program(&state, &new).await?;
    let service = new.into_service(program, len, visibility);
    let id = service.id().to_string();
    let Answer(_done) = Done::of(&state.ask(Command::AddService(Box::new(service))).await?)?;
    Ok((StatusCode::CREATED, Answer(Added { id, hints })))
}

/// What the service runs, the length of its module, and what its owner should know of it.
async fn program(state: &ApiState, new: &NewServiceDto) -> Result<(Program, u64, Vec<String>), ApiError> {
    if let (Some(digest), None, None, None) = (&new.data, &new.module, &new.image, &new.program) {
        return trees::dataset(state, digest).await;
    }
    match (&new.module, &new.image, &new.program) {
        _ if new.data.is_some() => Err(one_of()),
        (Some(module), None, None) => {
            let module: Digest = parse_id("module", module, DIGEST_HINT)?;
            let blobs = state.blobs.clone();
            let len = on_store_thread(state, move || blobs.open(&module).map(|open| open.len))
                .await?
                .map_err(|e| ApiError::from(e).at("module"))?;
            Ok((Program::Wasm(module), len, Vec::new()))
        }
        (None, None, Some(digest)) => programs::program(state, digest).await,
        (None, Some(name), None) => {
            let found = state.docker.image(name.clone()).await.map_err(|e| ApiError::from(e).at("image"))?;
            if !found.runs && new.entrypoint.is_empty() {
                let why = "the image has no entry point and no command";
                return Err(ApiError::bad_request("entrypoint", why, "say what to run with `entrypoint`"));
            }
            let (entrypoint, workdir) = (new.entrypoint.clone(), new.workdir.clone());
            let image = Image { name: name.clone(), id: found.id, entrypoint, workdir };
            let mut hints = super::docker::unmet(&found.suggestion, &new.mounts);
            hints.extend(found.suggestion.notes);
            Ok((Program::Image(Box::new(image)), 0, hints))
        }
        _ => Err(one_of()),
    }
}

fn one_of() -> ApiError {
    ApiError::bad_request(
        "module",
        "a service runs a module, an image or a program, or gives a directory",
        "give one of `module`, `image`, `program` and `data`",
    )
}

/// `DELETE /services/{id}`
pub async fn remove(
    State(state): State<ApiState>,
    Segments(id): Segments<String>,
) -> Result<Answer<Done>, ApiError> {
    let id: Digest = parse_id("path", &id, DIGEST_HINT)?;
    Done::of(&state.ask(Command::RemoveService(id)).await?)
}

/// The bounds every service keeps, told by field rather than as one refusal of the core.
fn check(new: &NewServiceDto) -> Result<(), ApiError> {
    let name_rule = "1 to 64 of a-z, 0-9, `-`, `_` and `.`";
    if !valid_name(&new.name) {
        return Err(ApiError::bad_request("name", "this cannot be the name of a service", name_rule));
    }
    if new.description.len() > DESCRIPTION_MAX {
        return Err(ApiError::bad_request(
            "description",
            "too long",
            format!("at most {DESCRIPTION_MAX} bytes"),
        ));
    }
    if new.version.len() > NAME_MAX {
        return Err(ApiError::bad_request("version", "too long", format!("at most {NAME_MAX} bytes")));
    }
    if new.mounts.len() > MOUNTS_MAX {
        return Err(ApiError::bad_request("mounts", "too many", format!("at most {MOUNTS_MAX}")));
    }
    match new.mounts.iter().position(|m| !valid_name(m.name()) || m.name().starts_with('.')) {
        Some(i) => Err(ApiError::bad_request(
            &format!("mounts[{i}].name"),
            "this cannot be the name of a mount",
            name_rule,
        )),
        None => Ok(()),
    }
}

fn visibility(dto: &VisibilityDto) -> Result<Visibility, ApiError> {
    match dto {
        VisibilityDto::Everyone => Ok(Visibility::Everyone),
        VisibilityDto::OnlyMe => Ok(Visibility::OnlyMe),
        VisibilityDto::Listed(keys) if keys.len() > LISTED_MAX => {
            Err(ApiError::bad_request("visibility.listed", "too many peers", format!("at most {LISTED_MAX}")))
        }
        VisibilityDto::Listed(keys) => {
            let keys = keys.iter().enumerate().map(|(i, key)| {
                parse_id(&format!("visibility.listed[{i}]"), key, "a public key is written key_…")
            });
            keys.collect::<Result<_, _>>().map(Visibility::Listed)
        }
    }
}
