//! What a service says of itself beyond ports and limits, as JSON.

use remote_network_core::service::details::{Details, Determinism, Needs, Param, Price, Status};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Requirements, labels, determinism, price, parameters and status. What is absent says nothing.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DetailsDto {
    needs: NeedsDto,
    labels: BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    determinism: Option<DeterminismDto>,
    price: PriceDto,
    params: Vec<ParamDto>,
    status: StatusDto,
}

/// What a machine must have; zero and empty do not matter.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NeedsDto {
    arch: BTreeSet<String>,
    os: String,
    cpu_milli: u32,
    memory_bytes: u64,
    disk_bytes: u64,
    gpus: u32,
    gpu_vendor: String,
}

/// Whether executing it twice is the same as once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DeterminismDto {
    Strict,
    Pure,
    External,
}

/// What it costs, in millionths.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PriceDto {
    per_job: u64,
    per_cpu_s: u64,
    per_gib: u64,
}

/// An environment variable that its user fills in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParamDto {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    #[serde(default)]
    secret: bool,
    #[serde(default)]
    description: String,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StatusDto {
    #[default]
    Active,
    Inactive,
}

impl From<&Needs> for NeedsDto {
    fn from(n: &Needs) -> Self {
        Self {
            arch: n.arch.clone(),
            os: n.os.clone(),
            cpu_milli: n.cpu_milli,
            memory_bytes: n.memory_bytes,
            disk_bytes: n.disk_bytes,
            gpus: n.gpus,
            gpu_vendor: n.gpu_vendor.clone(),
        }
    }
}

impl From<NeedsDto> for Needs {
    fn from(n: NeedsDto) -> Self {
        Self {
            arch: n.arch,
            os: n.os,
            cpu_milli: n.cpu_milli,
            memory_bytes: n.memory_bytes,
            disk_bytes: n.disk_bytes,
            gpus: n.gpus,
            gpu_vendor: n.gpu_vendor,
        }
    }
}

impl From<&Details> for DetailsDto {
    fn from(d: &Details) -> Self {
        let param = |p: &Param| ParamDto {
            name: p.name.clone(),
            default: p.default.clone(),
            secret: p.secret,
            description: p.description.clone(),
        };
        Self {
            needs: NeedsDto::from(&d.needs),
            labels: d.labels.clone(),
            determinism: d.determinism.map(|d| match d {
                Determinism::Strict => DeterminismDto::Strict,
                Determinism::Pure => DeterminismDto::Pure,
                Determinism::External => DeterminismDto::External,
            }),
            price: PriceDto {
                per_job: d.price.per_job,
                per_cpu_s: d.price.per_cpu_s,
                per_gib: d.price.per_gib,
            },
            params: d.params.iter().map(param).collect(),
            status: match d.status {
                Status::Active => StatusDto::Active,
                Status::Inactive => StatusDto::Inactive,
            },
        }
    }
}

impl From<DetailsDto> for Details {
    fn from(d: DetailsDto) -> Self {
        let param = |p: ParamDto| Param {
            name: p.name,
            default: p.default,
            secret: p.secret,
            description: p.description,
        };
        Self {
            needs: d.needs.into(),
            labels: d.labels,
            determinism: d.determinism.map(|d| match d {
                DeterminismDto::Strict => Determinism::Strict,
                DeterminismDto::Pure => Determinism::Pure,
                DeterminismDto::External => Determinism::External,
            }),
            price: Price { per_job: d.price.per_job, per_cpu_s: d.price.per_cpu_s, per_gib: d.price.per_gib },
            params: d.params.into_iter().map(param).collect(),
            status: match d.status {
                StatusDto::Active => Status::Active,
                StatusDto::Inactive => Status::Inactive,
            },
        }
    }
}
