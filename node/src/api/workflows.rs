//! Workflows before they run: read, check, place.

use super::dto::PlacementDto;
use super::error::{ApiError, ProblemDto};
use super::objects::on_store_thread;
use super::routes::Json;
use super::state::ApiState;
use crate::workflow_text::{
    Embedded, Format, Params, ParsedWorkflow, Problem, SourceItem, parse_with, schema,
};
use axum::Json as Answer;
use axum::extract::State;
use remote_network_core::command::{Command, CommandError, Placement, Reply};
use remote_network_core::id::Digest;
use remote_network_core::job::workflow::{ObjectRef, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A workflow: JSON in `workflow`, or YAML text in `yaml`, whose problems then have lines. `params` fills in its parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkflowBody {
    workflow: Option<Embedded>,
    yaml: Option<String>,
    #[serde(default)]
    params: BTreeMap<String, Value>,
}

impl WorkflowBody {
    /// From the fields of a bigger body.
    pub const fn new(
        workflow: Option<Embedded>,
        yaml: Option<String>,
        params: BTreeMap<String, Value>,
    ) -> Self {
        Self { workflow, yaml, params }
    }

    /// Reads the text form.
    pub fn read(self) -> Result<Result<ParsedWorkflow, Vec<Problem>>, ApiError> {
        let params = Params::of_json(self.params);
        match (self.workflow, self.yaml) {
            (Some(embedded), None) => Ok(embedded.read_with(&params)),
            (None, Some(yaml)) => Ok(parse_with(&yaml, Format::Yaml, &params)),
            (None, None) | (Some(_), Some(_)) => Err(ApiError::bad_request(
                "workflow",
                "exactly one of `workflow` and `yaml` is needed",
                "send the workflow as JSON in `workflow` or as YAML text in `yaml`",
            )),
        }
    }
}

/// `GET /workflows/schema`: JSON Schema of the text form.
pub async fn text_schema() -> Answer<Value> {
    Answer(schema())
}

/// Whether a workflow could run.
#[derive(Serialize)]
pub struct Validation {
    valid: bool,
    problems: Vec<ProblemDto>,
}

/// `POST /workflows/validate`: the problems are the answer, so a workflow full of them is no error. Nothing is stored.
pub async fn validate(
    State(state): State<ApiState>,
    Json(body): Json<WorkflowBody>,
) -> Result<Answer<Validation>, ApiError> {
    let problems = match placements(&state, body).await? {
        Ok(_) => Vec::new(),
        Err(problems) => problems,
    };
    let problems: Vec<ProblemDto> = problems.iter().map(ProblemDto::from).collect();
    Ok(Answer(Validation { valid: problems.is_empty(), problems }))
}

/// What would run where.
#[derive(Serialize)]
pub struct Plan {
    placements: Vec<PlacementDto>,
}

/// `POST /workflows/plan`. Nothing is stored.
pub async fn plan(
    State(state): State<ApiState>,
    Json(body): Json<WorkflowBody>,
) -> Result<Answer<Plan>, ApiError> {
    let placements = placements(&state, body).await?.map_err(|p| ApiError::invalid_workflow(&p))?;
    Ok(Answer(Plan { placements: placements.iter().map(PlacementDto::from).collect() }))
}

async fn placements(
    state: &ApiState,
    body: WorkflowBody,
) -> Result<Result<Vec<Placement>, Vec<Problem>>, ApiError> {
    let parsed = match body.read()? {
        Ok(parsed) => parsed,
        Err(problems) => return Ok(Err(problems)),
    };
    let compiled = parsed.compile(|item| match item {
        SourceItem::Text(text) => {
            Ok(ObjectRef { digest: Digest::of(text.as_bytes()), len: text.len() as u64 })
        }
        SourceItem::Object(object) => Ok(object.clone()),
        SourceItem::File(_) => Err(NO_FILES.to_owned()),
    });
    let workflow = match compiled {
        Ok(workflow) => workflow,
        Err(problems) => return Ok(Err(problems)),
    };
    let locate = |problems: &[_]| problems.iter().map(|p| parsed.locate(p)).collect();
    match state.core.command(Command::Plan(Box::new(workflow))).await? {
        Reply::Planned(Ok(placements)) => Ok(Ok(placements)),
        Reply::Planned(Err(problems)) | Reply::Error(CommandError::Invalid(problems)) => {
            Ok(Err(locate(&problems)))
        }
        other => Err(ApiError::unexpected(&other)),
    }
}

const NO_FILES: &str = "the node does not read files for its clients; upload the file with POST /api/v1/objects and \
     name it under `objects`";

/// Brings the workflow's texts into the store; files are their client's to upload.
pub async fn import(
    state: &ApiState,
    parsed: ParsedWorkflow,
) -> Result<(ParsedWorkflow, Workflow), ApiError> {
    let blobs = state.blobs.clone();
    let compiled = on_store_thread(state, move || {
        let compiled = parsed.compile(|item| match item {
            SourceItem::Text(text) => blobs.import(&mut text.as_bytes()).map_err(|e| e.to_string()),
            SourceItem::Object(object) => match blobs.open(&object.digest) {
                Ok(open) if open.len == object.len => Ok(object.clone()),
                Ok(open) => Err(format!("this object has {} bytes, not {}", open.len, object.len)),
                Err(e) => Err(e.to_string()),
            },
            SourceItem::File(_) => Err(NO_FILES.to_owned()),
        });
        compiled.map(|workflow| (parsed, workflow))
    });
    compiled.await?.map_err(|problems| ApiError::invalid_workflow(&problems))
}
