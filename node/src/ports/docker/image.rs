//! Images that are not here: a name becomes a digest, and the digest is pulled.
//!
//! A tag is whatever its registry says at the moment, so it is asked once, and what is pulled is the digest it named: what is
//! shown, what the service is made of and what comes are one thing, even when the tag moves in between. The engine checks every layer
//! against the digest.
//!
//! Progress is what the engine says of each layer, added up. A stream of news that ends well may have had an error in it: that is
//! a failure. So is silence for [`SILENCE_MAX`], and more than [`PULLED_WITHIN`] in all. Whoever asked may go away: the
//! pull ends then, and what has come stays with the engine for the next try.

use super::client::{Client, DockerError};
use bollard::errors::Error;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt as _;
use remote_network_core::service::program::valid_image_name;
use std::collections::BTreeMap;
use std::time::Duration;

/// A registry answers what a tag means within this time.
const RESOLVED_WITHIN: Duration = Duration::from_secs(60);
/// A pull of which nothing is heard for this long has broken.
const SILENCE_MAX: Duration = Duration::from_secs(180);
/// A pull that takes longer is given up: 40 GB at 100 Mbit/s.
const PULLED_WITHIN: Duration = Duration::from_secs(3_600);
/// Layers that are counted; images have at most 127.
const LAYERS_MAX: usize = 512;

/// How far a pull is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// What is pulled: as it was asked for, then with its digest.
    pub image: String,
    /// Layers that are here, and layers in all, as far as they are known.
    pub layers: (usize, usize),
    /// Bytes that are here, and bytes in all, as far as they are known: layers tell their size when they begin.
    pub bytes: (u64, u64),
}

/// A name, taken apart as registries mean it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Reference {
    /// Registry and repository.
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// `None` when no registry can have it.
    fn parse(name: &str) -> Option<Self> {
        if !valid_image_name(name) {
            return None;
        }
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (name, None),
        };
        if digest.is_some_and(|d| super::client::sha256(d).is_none()) {
            return None;
        }
        // A colon before the last slash belongs to a registry's port.
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            Some(_) | None => (rest, None),
        };
        let path = repository.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        let tag_fits = tag.is_none_or(|t| (1..=128).contains(&t.len()) && !t.starts_with(['.', '-']));
        // `sha256:…` is an image's own id, which no registry knows.
        (path && tag_fits && repository != "sha256").then(|| Self {
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// With a tag in any case, as the engine takes it for a question.
    fn asked(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.repository),
            (None, tag) => format!("{}:{}", self.repository, tag.as_deref().unwrap_or("latest")),
        }
    }
}

/// Adds up what the engine says of layers.
#[derive(Default)]
struct Layers(BTreeMap<String, (u64, u64, bool)>);

impl Layers {
    /// Whether anything changed.
    fn hear(&mut self, said: &CreateImageInfo) -> bool {
        let (Some(id), Some(status)) = (&said.id, said.status.as_deref()) else { return false };
        // The first line names the tag or digest where the others name their layer.
        if status.starts_with("Pulling from") || (self.0.len() >= LAYERS_MAX && !self.0.contains_key(id)) {
            return false;
        }
        let layer = self.0.entry(id.clone()).or_default();
        let before = *layer;
        let bytes = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
        match status {
            "Downloading" => {
                let detail = said.progress_detail.clone().unwrap_or_default();
                *layer = (bytes(detail.current), bytes(detail.total).max(layer.1), false);
            }
            "Already exists" | "Pull complete" => *layer = (layer.1, layer.1, true),
            "Verifying Checksum" | "Download complete" | "Extracting" => layer.0 = layer.1,
            _ => {}
        }
        *layer != before || self.0.len() == 1
    }

    fn progress(&self, image: &str) -> Progress {
        let sum = |of: fn(&(u64, u64, bool)) -> u64| self.0.values().map(of).fold(0u64, u64::saturating_add);
        let done = self.0.values().filter(|layer| layer.2).count();
        Progress {
            image: image.to_owned(),
            layers: (done, self.0.len()),
            bytes: (sum(|l| l.0.min(l.1)), sum(|l| l.1)),
        }
    }
}

/// Resolves and pulls; returns the name with its digest. `tell` hears of every change.
pub(super) async fn pull(
    client: &Client,
    name: &str,
    mut tell: impl FnMut(Progress),
) -> Result<String, DockerError> {
    let reference = Reference::parse(name).ok_or_else(|| {
        DockerError::Registry(name.to_owned(), "no registry has an image of such a name".to_owned())
    })?;
    let failed = |e: Error| failure(name, e);
    tell(Progress { image: name.to_owned(), ..Progress::default() });
    let question = reference.asked();
    let asked = client.docker.inspect_registry_image(&question, None);
    let answered = tokio::time::timeout(RESOLVED_WITHIN, asked).await;
    let silent = || DockerError::Registry(name.to_owned(), "it does not answer in time".to_owned());
    let resolved = answered.map_err(|_| silent())?.map_err(failed)?;
    let digest = resolved.descriptor.digest.unwrap_or_default();
    if super::client::sha256(&digest).is_none() || reference.digest.as_ref().is_some_and(|d| *d != digest) {
        return Err(DockerError::Registry(
            name.to_owned(),
            "it names another digest than it should".to_owned(),
        ));
    }
    let exact = format!("{}@{digest}", reference.repository);
    let full = match &reference.tag {
        Some(tag) => format!("{}:{tag}@{digest}", reference.repository),
        None => exact.clone(),
    };
    tell(Progress { image: full.clone(), ..Progress::default() });
    let options = CreateImageOptionsBuilder::new().from_image(&exact).build();
    let mut news = client.docker.create_image(Some(options), None, None);
    let mut layers = Layers::default();
    let all = async {
        loop {
            match tokio::time::timeout(SILENCE_MAX, news.next()).await {
                Err(_) => return Err(silent()),
                Ok(None) => return Ok(()),
                Ok(Some(Err(e))) => return Err(failed(e)),
                Ok(Some(Ok(said))) => {
                    if layers.hear(&said) {
                        tell(layers.progress(&full));
                    }
                }
            }
        }
    };
    let within = tokio::time::timeout(PULLED_WITHIN, all).await;
    within.map_err(|_| {
        DockerError::Registry(
            name.to_owned(),
            format!("more than {} minutes are too long", PULLED_WITHIN.as_secs() / 60),
        )
    })??;
    // What the engine has now is looked at by the digest: a stream that only looked complete is found out here.
    client.image(&exact).await?;
    Ok(if valid_image_name(&full) { full } else { exact })
}

/// What a registry, or the engine for it, says.
fn failure(name: &str, e: Error) -> DockerError {
    let words = match e {
        Error::DockerResponseServerError { message, .. } => message,
        Error::DockerStreamError { error } => error,
        other => return other.into(),
    };
    let words: String = words.chars().filter(|c| !c.is_control()).take(400).collect();
    DockerError::Registry(name.to_owned(), words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ProgressDetail;

    #[test]
    fn names_are_taken_apart_as_registries_mean_them() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        let asked = |name: &str| Reference::parse(name).map(|r| r.asked());
        for (name, wanted) in [
            ("alpine", "alpine:latest"),
            ("alpine:3.20", "alpine:3.20"),
            ("127.0.0.1:5000/tools/count", "127.0.0.1:5000/tools/count:latest"),
            ("127.0.0.1:5000/tools/count:1", "127.0.0.1:5000/tools/count:1"),
        ] {
            assert_eq!(asked(name).as_deref(), Some(wanted), "{name}");
        }
        assert_eq!(asked(&format!("a/b:1@{digest}")), Some(format!("a/b@{digest}")));
        for bad in
            ["", "a//b", "a/../b", "a:", "a@sha256:00", "a@md5:0f", "-a", "a:.x", &digest, "a/b/", "./a"]
        {
            assert_eq!(asked(bad), None, "{bad}");
        }
    }

    fn says(id: &str, status: &str, progress: Option<(i64, i64)>) -> CreateImageInfo {
        let progress_detail =
            progress.map(|(current, total)| ProgressDetail { current: Some(current), total: Some(total) });
        CreateImageInfo {
            id: Some(id.into()),
            status: Some(status.into()),
            progress_detail,
            ..Default::default()
        }
    }

    #[test]
    fn layers_are_added_up_and_nothing_they_say_overflows() {
        let mut layers = Layers::default();
        for (id, status, progress) in [
            ("latest", "Pulling from tools/count", None),
            ("a", "Pulling fs layer", None),
            ("b", "Already exists", None),
            ("a", "Downloading", Some((10, 100))),
            ("c", "Downloading", Some((-5, 7))),
        ] {
            layers.hear(&says(id, status, progress));
        }
        assert_eq!(layers.progress("x"), Progress { image: "x".into(), layers: (1, 3), bytes: (10, 107) });
        layers.hear(&says("a", "Download complete", None));
        layers.hear(&says("a", "Extracting", Some((1, 900))));
        layers.hear(&says("a", "Pull complete", None));
        assert_eq!(layers.progress("x").bytes, (100, 107));
        assert_eq!(layers.progress("x").layers, (2, 3));
        layers.hear(&says("c", "Downloading", Some((i64::MAX, i64::MAX))));
        layers.hear(&says("d", "Downloading", Some((i64::MAX, i64::MAX))));
        layers.hear(&says("e", "Downloading", Some((i64::MAX, i64::MAX))));
        assert_eq!(layers.progress("x").bytes.1, u64::MAX);
        for n in 0..2_000 {
            layers.hear(&says(&n.to_string(), "Downloading", Some((1, 2))));
        }
        assert_eq!(layers.progress("x").layers.1, LAYERS_MAX);
    }
}
