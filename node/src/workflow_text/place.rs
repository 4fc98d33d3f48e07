//! `place:` of a task: labels that the service must have, and what the machine must have, in the words of the API.
//!
//! ```yaml
//! place:
//!   labels: [gpu, region=eu]
//!   needs: { arch: [x86_64], os: linux, cpu_milli: 2000, memory_bytes: 8589934592, disk_bytes: 0, gpus: 1, gpu_vendor: nvidia }
//! ```

use super::keys::{self, AMOUNT_MAX};
use super::read::Reader;
use super::tree::Tree;
use remote_network_core::job::workflow::Place;
use remote_network_core::service::details::{Needs, valid_label};
use serde::Serialize;
use std::collections::BTreeSet;

/// Reads it.
pub(super) fn read(reader: &mut Reader, place: &str, tree: &Tree) -> Option<Place> {
    let fields = reader.fields(place, tree, keys::PLACE)?;
    let mut rule = Place::default();
    if let Some(t) = fields.get("labels") {
        rule.labels = labels(reader, &format!("{place}.labels"), t)?;
    }
    if let Some(t) = fields.get("needs") {
        rule.needs = needs(reader, &format!("{place}.needs"), t)?;
    }
    Some(rule)
}

fn needs(reader: &mut Reader, place: &str, tree: &Tree) -> Option<Needs> {
    let fields = reader.fields(place, tree, keys::NEEDS)?;
    let mut number = |key: &str, max: u64| match fields.get(key) {
        None => Some(0),
        Some(t) => reader.number(&format!("{place}.{key}"), t, max),
    };
    let (small, large) = (u64::from(u32::MAX), AMOUNT_MAX);
    let (cpu, gpus) = (number("cpu_milli", small)?, number("gpus", small)?);
    let (memory_bytes, disk_bytes) = (number("memory_bytes", large)?, number("disk_bytes", large)?);
    let mut word = |key: &str| match fields.get(key) {
        None => Some(String::new()),
        Some(t) => {
            let at = format!("{place}.{key}");
            let word = reader.text(&at, t)?;
            check(reader, &at, t, &word);
            Some(word)
        }
    };
    let (os, gpu_vendor) = (word("os")?, word("gpu_vendor")?);
    let arch = match fields.get("arch") {
        None => BTreeSet::new(),
        Some(t) => labels(reader, &format!("{place}.arch"), t)?,
    };
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let (cpu_milli, gpus) = (narrow(cpu), narrow(gpus));
    Some(Needs { arch, os, cpu_milli, memory_bytes, disk_bytes, gpus, gpu_vendor })
}

fn labels(reader: &mut Reader, place: &str, tree: &Tree) -> Option<BTreeSet<String>> {
    let labels = reader.texts(place, tree)?;
    for label in &labels {
        check(reader, place, tree, label);
    }
    Some(labels.into_iter().collect())
}

fn check(reader: &mut Reader, place: &str, tree: &Tree, word: &str) {
    if !valid_label(word) {
        reader.say(place, tree.location(), "has 1 to 32 of a-z, 0-9, `-`, `_`, `.`, `=`, `:`");
    }
}

/// As it is written: what says nothing is left out.
#[derive(Serialize)]
pub(super) struct PlaceText<'a> {
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    labels: &'a BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    needs: Option<NeedsText<'a>>,
}

#[derive(Serialize)]
struct NeedsText<'a> {
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    arch: &'a BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    os: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_milli: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_vendor: Option<&'a str>,
}

impl<'a> PlaceText<'a> {
    /// `None` when nothing is asked for.
    pub(super) fn of(place: &'a Place) -> Option<Self> {
        let word = |w: &'a str| (!w.is_empty()).then_some(w);
        let n = &place.needs;
        let needs = (!n.is_empty()).then(|| NeedsText {
            arch: &n.arch,
            os: word(&n.os),
            cpu_milli: (n.cpu_milli > 0).then_some(n.cpu_milli),
            memory_bytes: (n.memory_bytes > 0).then_some(n.memory_bytes),
            disk_bytes: (n.disk_bytes > 0).then_some(n.disk_bytes),
            gpus: (n.gpus > 0).then_some(n.gpus),
            gpu_vendor: word(&n.gpu_vendor),
        });
        (*place != Place::default()).then_some(Self { labels: &place.labels, needs })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, ParsedNode, parse};

    const FLOW: &str = "name: n\nnodes:\n  a: { task: { service: ocr, place: { labels: [eu], needs: { gpus: 1, os: linux } } } }\n  \
         out: { sink: {} }\nedges: [a.stdout -> out.in]\n";

    #[test]
    fn a_placement_rule_is_read_and_what_is_wrong_is_said_with_its_place() {
        let parsed = parse(FLOW, Format::Yaml).expect("read");
        let Some((_, ParsedNode::Task(task))) = parsed.nodes.first() else { panic!("a task") };
        assert_eq!(task.place.labels, ["eu".to_owned()].into());
        assert_eq!((task.place.needs.gpus, task.place.needs.os.as_str()), (1, "linux"));
        let odd = FLOW.replace("[eu]", "[EU]").replace("gpus: 1", "gpu: 1");
        let problems = parse(&odd, Format::Yaml).expect_err("wrong");
        assert!(problems.iter().any(|p| p.place == "nodes.a.task.place.labels"), "{problems:?}");
        assert!(problems.iter().any(|p| p.place == "nodes.a.task.place.needs.gpu"), "{problems:?}");
    }
}
