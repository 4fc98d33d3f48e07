//! Time, retries, failure and choice in the text form: what is usual is not written.

use super::{duration_text, port_text};
use remote_network_core::job::rules::{Join, OnFailure, Retry, Test, When};
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct RetryText {
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    infra: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_max: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_max: Option<String>,
}

impl RetryText {
    pub(super) fn of(retry: &Retry) -> Option<Self> {
        let memory = |bytes| if bytes == 0 { "service".to_owned() } else { size_text(bytes) };
        (*retry != Retry::default()).then(|| Self {
            resource: retry.resource,
            infra: retry.infra,
            pause: retry.pause_ms.map(duration_text),
            pause_max: retry.pause_max_ms.map(duration_text),
            memory_max: retry.memory_max.map(memory),
        })
    }
}

/// Millionths as a percentage, exactly.
pub(super) fn share_text(ppm: u32) -> String {
    let (whole, rest) = (ppm / 10_000, format!("{:04}", ppm % 10_000));
    match rest.trim_end_matches('0') {
        "" => format!("{whole}%"),
        rest => format!("{whole}.{rest}%"),
    }
}

#[derive(Serialize)]
pub(super) struct WhenText<'a> {
    task: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    is: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    empty: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

impl<'a> WhenText<'a> {
    pub(super) fn of(when: &'a When<String>) -> Self {
        let about =
            WhenText { task: &when.task, is: None, code: None, empty: None, port: None, digest: None };
        match &when.test {
            Test::Succeeded => Self { is: Some("succeeded"), ..about },
            Test::Failed => Self { is: Some("failed"), ..about },
            Test::Code(code) => Self { code: Some(*code), ..about },
            Test::Empty(port) => Self { empty: Some(port_text(port)), ..about },
            Test::Is(port, digest) => {
                Self { port: Some(port_text(port)), digest: Some(digest.to_string()), ..about }
            }
        }
    }
}

pub(super) fn join_text(join: Join) -> Option<&'static str> {
    match join {
        Join::All => None,
        Join::Any => Some("any"),
        Join::Always => Some("always"),
    }
}

pub(super) fn on_failure_text(rule: OnFailure) -> Option<&'static str> {
    match rule {
        OnFailure::Stop => None,
        OnFailure::Continue => Some("continue"),
    }
}

/// The shortest exact spelling.
pub(super) fn size_text(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}
