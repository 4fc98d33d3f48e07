//! The way to the Docker engine: where it is, which version of its API is spoken, and what it says of an image.
//!
//! bollard asks for paths without a version, which means the newest dialect the daemon knows: fields would come and go with
//! its updates. So the version is settled once, between the oldest that has all that is used here and the newest that was
//! tried, and put before every path.

use super::inspect::{Suggestion, suggest};
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ImageInspect;
use remote_network_core::service::program::{IMAGE_NAME_MAX, valid_image_name};
use std::time::Duration;
use thiserror::Error;

/// Oldest API that is spoken: Docker 20.10's.
const API_MIN: (u32, u32) = (1, 41);
/// Newest API that bollard's types were made from.
const API_MAX: (u32, u32) = (1, 53);
/// An engine that does not answer a question about itself within this time is no engine.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Longest word for the engine in a receipt.
const ENGINE_CHARS_MAX: usize = 60;

/// Why there is no engine, or no image.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DockerError {
    /// Nobody answers.
    #[error("no Docker engine answers ({0}): start it, or set `docker_host` to where it is")]
    Away(String),
    /// Too old, or too new.
    #[error(
        "the Docker engine speaks API {0}; this node speaks {min}.{min2} to {max}.{max2}",
        min = API_MIN.0, min2 = API_MIN.1, max = API_MAX.0, max2 = API_MAX.1
    )]
    Version(String),
    /// It has no such image.
    #[error("the Docker engine has no image {0}: pull or build it first")]
    NoImage(String),
    /// A registry does not have an image, cannot be reached, or broke off.
    #[error("the image {0} cannot be pulled: {1}")]
    Registry(String, String),
    /// It refused.
    #[error("the Docker engine says: {0}")]
    Said(String),
}

impl From<Error> for DockerError {
    fn from(e: Error) -> Self {
        match e {
            Error::DockerResponseServerError { message, .. } => Self::Said(message),
            Error::RequestTimeoutError => Self::Away("it does not answer in time".to_owned()),
            other => Self::Away(chain(&other)),
        }
    }
}

/// An error with its causes: bollard's own words stop where the reason begins.
fn chain(e: &dyn std::error::Error) -> String {
    let mut words = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = e.source();
    }
    words
}

/// An engine that has answered.
#[derive(Clone, Debug)]
pub struct Client {
    /// bollard's client, with the version before every path.
    pub docker: Docker,
    /// What it is, for people: `Docker 20.10.24, API 1.41`.
    pub about: String,
    /// The same for receipts: `docker 20.10.24`.
    pub engine: String,
    /// Whether it takes a list of system calls with a container.
    pub takes_seccomp: bool,
}

/// An image, as the engine has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// SHA-256 that the engine calls it by.
    pub id: [u8; 32],
    /// Whether it says what to run.
    pub runs: bool,
    /// What its metadata say of how it wants to be used.
    pub suggestion: Suggestion,
}

impl Client {
    /// Finds the engine at `host`, or when that is empty by `DOCKER_HOST` or at its usual place, and settles the version.
    pub async fn connect(host: &str) -> Result<Self, DockerError> {
        let docker =
            if host.is_empty() { Docker::connect_with_defaults() } else { Docker::connect_with_host(host) }?;
        let version = tokio::time::timeout(ANSWER_WITHIN, docker.version())
            .await
            .map_err(|_| DockerError::Away("it does not answer in time".to_owned()))??;
        let said = version.api_version.unwrap_or_default();
        let least = version.min_api_version.as_deref().and_then(number).unwrap_or(API_MIN);
        let newest = number(&said).filter(|v| *v >= API_MIN && least <= API_MAX);
        let spoken = newest.ok_or(DockerError::Version(said))?.min(API_MAX);
        let parts = version.components.unwrap_or_default();
        let podman = parts.iter().any(|c| c.name.contains("Podman"));
        let release = version.version.unwrap_or_default();
        let (kind, name) = if podman { ("Podman", "podman") } else { ("Docker", "docker") };
        let docker = docker.with_request_modifier(move |mut request| {
            let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
            let mut parts = request.uri().clone().into_parts();
            parts.path_and_query = format!("/v{}.{}{path}", spoken.0, spoken.1).parse().ok();
            if let Ok(uri) = hyper::Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
            request
        });
        let asked = tokio::time::timeout(ANSWER_WITHIN, docker.info()).await;
        let info = asked.map_err(|_| DockerError::Away("it does not answer in time".to_owned()))??;
        let walls = info.security_options.unwrap_or_default();
        let seccomp = walls.iter().any(|wall| wall.starts_with("name=seccomp"));
        let without = if seccomp { "" } else { ", without seccomp: containers may call all of the kernel" };
        Ok(Self {
            docker,
            about: format!("{kind} {release}, API {}.{}{without}", spoken.0, spoken.1),
            engine: format!("{name} {release}")
                .chars()
                .filter(char::is_ascii)
                .take(ENGINE_CHARS_MAX)
                .collect(),
            // Podman takes the path of a file instead, and its own list is young enough.
            takes_seccomp: seccomp && !podman,
        })
    }

    /// Whether it still answers.
    pub async fn is_there(&self) -> bool {
        tokio::time::timeout(ANSWER_WITHIN, self.docker.ping()).await.is_ok_and(|pong| pong.is_ok())
    }

    /// What the engine knows of an image.
    pub async fn image(&self, name: &str) -> Result<Found, DockerError> {
        if !valid_image_name(name) {
            return Err(DockerError::Said(format!(
                "an image's name has 1 to {IMAGE_NAME_MAX} plain characters"
            )));
        }
        let asked = tokio::time::timeout(ANSWER_WITHIN, self.docker.inspect_image(name)).await;
        match asked.map_err(|_| DockerError::Away("it does not answer in time".to_owned()))? {
            Ok(image) => {
                let id = image.id.as_deref().and_then(sha256);
                let id = id.ok_or_else(|| DockerError::Said("an image without a SHA-256 id".to_owned()))?;
                Ok(Found { id, runs: runs(&image), suggestion: suggest(&image) })
            }
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => {
                Err(DockerError::NoImage(name.to_owned()))
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// `1.41` as numbers.
fn number(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `sha256:…` as bytes.
pub(super) fn sha256(id: &str) -> Option<[u8; 32]> {
    let hex = id.strip_prefix("sha256:").filter(|h| h.len() == 64 && h.is_ascii())?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Whether an image has an entry point or a command.
fn runs(image: &ImageInspect) -> bool {
    let said = |words: &Option<Vec<String>>| words.as_ref().is_some_and(|w| !w.is_empty());
    image.config.as_ref().is_some_and(|c| said(&c.entrypoint) || said(&c.cmd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ImageConfig;

    #[test]
    fn versions_and_ids_are_read_strictly() {
        assert_eq!(number("1.41"), Some((1, 41)));
        assert_eq!((number("1"), number("1.x"), number("")), (None, None, None));
        let id = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(sha256(&id), Some([15; 32]));
        for bad in ["", "sha256:", "sha256:0f", &"0f".repeat(32), &format!("sha256:{}", "zz".repeat(32))] {
            assert_eq!(sha256(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_image_runs_when_it_says_what() {
        let with = |config| runs(&ImageInspect { config: Some(config), ..ImageInspect::default() });
        let words = Some(vec!["serve".to_owned()]);
        assert!(with(ImageConfig { cmd: words.clone(), ..ImageConfig::default() }));
        assert!(with(ImageConfig { entrypoint: words, ..ImageConfig::default() }));
        assert!(!with(ImageConfig { cmd: Some(Vec::new()), ..ImageConfig::default() }));
        assert!(!runs(&ImageInspect::default()));
    }
}
