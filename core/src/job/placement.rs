//! Where a task may run: what a workflow asks of a service and its machine, and what a service asks of a task.
//!
//! Pure matching. A service says what it needs and under which labels it is offered; a peer says what its machine has; a task
//! may ask for more of both. What a service needs is held against a machine only when its owner says what that has: he offers
//! it, so he is believed. What a *task* asks for must be known to be there.

use crate::codec::{DecodeError, Dict, Value};
use crate::dht::record::MachineSummary;
use crate::service::Service;
use crate::service::details::{Needs, labels_at, valid_label};
use std::collections::{BTreeMap, BTreeSet};

/// What a task asks of whoever runs it, beside the service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Place {
    /// Labels that the service must have, all of them.
    pub labels: BTreeSet<String>,
    /// What the machine must have.
    pub needs: Needs,
}

impl Place {
    /// The dictionary of what is asked for; `None` when nothing is.
    pub fn to_dict(&self) -> Option<Dict> {
        let labels: Vec<Value> = self.labels.iter().map(|l| Value::from(l.as_str())).collect();
        let d = Dict::new()
            .with_some("lab", (!labels.is_empty()).then_some(labels))
            .with_some("need", self.needs.to_dict());
        (!d.0.is_empty()).then_some(d)
    }

    /// Reads what [`Place::to_dict`] wrote.
    pub fn from_dict(d: &Dict) -> Result<Place, DecodeError> {
        let needs = d.get("need").map(|_| Needs::from_dict(d.dict("need")?)).transpose()?;
        let place = Place { labels: labels_at(d, "lab")?, needs: needs.unwrap_or_default() };
        if place == Place::default() {
            Err(DecodeError::invalid("place", "asks for nothing"))
        } else {
            Ok(place)
        }
    }

    /// What is wrong with it in itself: words for people.
    pub fn fault(&self) -> Option<String> {
        let odd = self.labels.iter().find(|l| !valid_label(l));
        if let Some(odd) = odd {
            return Some(format!(
                "`{}` is no label: 1 to 32 of a-z, 0-9, `-`, `_`, `.`, `=`, `:`",
                odd.escape_debug()
            ));
        }
        self.to_dict().and_then(|d| Place::from_dict(&d).err()).map(|e| e.to_string())
    }
}

/// Why `service` on `machine` is not what `place` asks for, each reason in words for people; empty when it is.
pub fn lacks(place: &Place, service: &Service, machine: Option<&MachineSummary>) -> Vec<String> {
    let missing = place.labels.difference(&service.details.labels);
    let mut lacks: Vec<String> = missing.map(|l| format!("not labelled `{l}`")).collect();
    match machine {
        Some(machine) => {
            lacks.extend(service.details.needs.unmet_by(machine));
            lacks.extend(place.needs.unmet_by(machine));
            lacks.dedup();
        }
        None if place.needs.is_empty() => {}
        None => lacks.push("says nothing of its machine".to_owned()),
    }
    lacks
}

/// The environment of a task: what it says, and the service's defaults for the rest.
pub fn environment(service: &Service, env: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut all = env.clone();
    for param in &service.details.params {
        if let Some(default) = &param.default {
            all.entry(param.name.clone()).or_insert_with(|| default.clone());
        }
    }
    all.into_iter().collect()
}

/// Parameters of the service that have no value, with words on what they are.
pub fn unfilled<'a>(
    service: &'a Service,
    env: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let open = service.details.params.iter().filter(|p| p.default.is_none() && !env.contains_key(&p.name));
    open.map(|p| (p.name.as_str(), p.description.as_str()))
}

#[cfg(test)]
mod tests {
    use super::super::validate::tests::{offers, peer, service, task};
    use super::super::validate::{check, validate};
    use super::super::workflow::{NodeKind, TaskSpec, Workflow};
    use super::*;
    use crate::service::details::Param;
    use crate::service::offers::Offerings;

    fn machine(gpus: u32) -> MachineSummary {
        MachineSummary {
            cpus: 4,
            ram_mib: 8_192,
            gpus,
            gpu_vendor: "nvidia".into(),
            ..MachineSummary::default()
        }
    }

    fn labelled(labels: &[&str]) -> Service {
        let mut s = service("ocr", false, &[]);
        s.details.labels = labels.iter().map(|l| (*l).to_owned()).collect();
        s
    }

    fn gpu(n: u32) -> Place {
        Place { needs: Needs { gpus: n, ..Needs::default() }, ..Place::default() }
    }

    fn flow(spec: TaskSpec) -> Workflow {
        Workflow {
            name: "w".into(),
            nodes: vec![("a".into(), NodeKind::Task(spec))],
            edges: Vec::new(),
            ..Workflow::default()
        }
    }

    fn asking(place: Place) -> Workflow {
        flow(TaskSpec { service: "ocr".into(), place, ..TaskSpec::default() })
    }

    fn two() -> Offerings {
        let mut o = Offerings::default();
        for (n, gpus) in [(1, 0), (2, 2)] {
            o.set(peer(n), Some(vec![labelled(&["eu"])].into()));
            o.set_machine(peer(n), Some(Box::new(machine(gpus))));
        }
        o.set(peer(3), Some(vec![labelled(&["eu"])].into()));
        o
    }

    #[test]
    fn a_rule_chooses_among_those_who_offer_it() {
        assert_eq!(validate(&asking(Place::default()), &two()).unwrap().tasks[0].candidates.len(), 3);
        assert_eq!(validate(&asking(gpu(1)), &two()).unwrap().tasks[0].candidates, [peer(2)]);
        let eu = Place { labels: ["eu".to_owned()].into(), ..Place::default() };
        assert_eq!(validate(&asking(eu), &two()).unwrap().tasks[0].candidates.len(), 3);
    }

    #[test]
    fn what_nobody_meets_is_a_reason_for_each_who_offers_it() {
        let problems = validate(&asking(gpu(3)), &two()).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].place, "nodes.a.place");
        for words in ["needs 3 GPU(s), has 0", "needs 3 GPU(s), has 2", "says nothing of its machine"] {
            assert!(problems[0].reason.contains(words), "{}", problems[0].reason);
        }
        let us = Place { labels: ["us".to_owned()].into(), ..Place::default() };
        assert!(validate(&asking(us), &two()).unwrap_err()[0].reason.contains("not labelled `us`"));
    }

    #[test]
    fn a_service_is_not_planned_where_its_own_needs_are_not_met() {
        let mut s = labelled(&[]);
        s.details.needs.memory_bytes = 16 << 30;
        let mut o = Offerings::default();
        o.set(peer(1), Some(vec![s.clone()].into()));
        assert!(validate(&asking(Place::default()), &o).is_ok(), "its owner says nothing and is believed");
        o.set_machine(peer(1), Some(Box::new(machine(0))));
        let problems = validate(&asking(Place::default()), &o).unwrap_err();
        assert!(problems[0].reason.contains("needs 16384 MiB of memory, has 8192"), "{problems:?}");
    }

    #[test]
    fn a_peer_that_is_named_and_absent_is_waited_for_before_anything_is_said_of_machines() {
        let mut w = asking(gpu(1));
        let NodeKind::Task(spec) = &mut w.nodes[0].1 else { unreachable!() };
        spec.peers = vec![peer(9)];
        assert!(check(&w, &two()).unwrap_err().curable());
    }

    #[test]
    fn parameters_have_their_defaults_and_those_without_must_be_given() {
        let mut s = labelled(&[]);
        let with = |name: &str, default: Option<&str>| Param {
            name: name.into(),
            default: default.map(str::to_owned),
            description: "two letters".into(),
            ..Param::default()
        };
        s.details.params = vec![with("FROM", None), with("TO", Some("en"))];
        let mut o = Offerings::default();
        o.set(peer(1), Some(vec![s].into()));
        let problems = validate(&asking(Place::default()), &o).unwrap_err();
        assert_eq!(problems[0].place, "nodes.a.env.FROM");
        assert!(problems[0].reason.contains("two letters"));
        let env: BTreeMap<String, String> = [("FROM".to_owned(), "de".to_owned())].into();
        let plan =
            validate(&flow(TaskSpec { service: "ocr".into(), env, ..TaskSpec::default() }), &o).unwrap();
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(plan.tasks[0].env, [pair("FROM", "de"), pair("TO", "en")]);
    }

    #[test]
    fn a_rule_is_part_of_the_workflow_and_no_rule_changes_nothing() {
        use super::super::plan::{decode_workflow, encode_workflow};
        let w = asking(Place { labels: ["eu".to_owned()].into(), ..gpu(2) });
        assert_eq!(decode_workflow(&encode_workflow(&w)), Ok(w.clone()));
        let NodeKind::Task(spec) = task("ocr") else { unreachable!() };
        assert!(!encode_workflow(&flow(spec)).windows(5).any(|b| b == b"place"));
        let odd = Place { labels: ["No".to_owned()].into(), ..Place::default() };
        assert!(validate(&asking(odd), &offers()).unwrap_err()[0].place.ends_with("place"));
        assert!(Place::from_dict(&Dict::new()).is_err());
    }
}
