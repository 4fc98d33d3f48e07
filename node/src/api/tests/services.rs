//! Services that are looked at, changed, set aside and taken along; and the owner's policy.

use super::*;
use remote_network_core::port::{EngineLimits, Program};
use remote_network_core::service::details::{Details, Needs, Param};
use remote_network_core::service::policy::{Effect, Policy, Rule, Spent, Who};
use remote_network_core::service::search::{Found, Hit};
use remote_network_core::service::{Service, Visibility};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The service of the scripted core.
pub fn view() -> ServiceView {
    let needs = Needs { gpus: 1, os: "linux".into(), ..Needs::default() };
    let param = Param { name: "LANG_TO".into(), default: Some("en".into()), ..Param::default() };
    let service = Service {
        name: "ocr".into(),
        description: "reads pictures".into(),
        version: "1.0.0".into(),
        program: Program::Wasm(Digest::of(RESULT)),
        module_len: RESULT.len() as u64,
        stdin: true,
        mounts: Vec::new(),
        limits: EngineLimits { memory_bytes: 1 << 20, time_ms: 1_000, output_bytes: 1 << 20 },
        visibility: Visibility::OnlyMe,
        details: Details {
            needs,
            labels: ["eu".to_owned()].into(),
            params: vec![param],
            ..Details::default()
        },
    };
    ServiceView { owner: key(1), local: true, service }
}

fn policy() -> Policy {
    let rule = Rule {
        name: "nobody".into(),
        who: Who::Anyone,
        kinds: BTreeSet::new(),
        services: BTreeSet::new(),
        effect: Effect::Deny("ask me first".into()),
    };
    Policy { rules: vec![rule], ..Policy::default() }
}

pub fn answer(command: &ServiceCommand) -> Reply {
    match command {
        ServiceCommand::Edit { .. } | ServiceCommand::Activate { .. } | ServiceCommand::SetPolicy(_) => {
            Reply::Done
        }
        ServiceCommand::Policy => {
            let today = vec![(key(2), Spent { jobs: 3, cpu_ms: 4, bytes: 5 })];
            Reply::Policy(Box::new(PolicyView { policy: policy(), today }))
        }
        ServiceCommand::Search { query, .. } if query.words() == "busy" => {
            Reply::Error(CommandError::Limit("searches at once"))
        }
        ServiceCommand::Search { query, .. } => {
            let service = view().service;
            let hit =
                query.score(&service).map(|score| Hit { owner: key(2), id: service.id(), service, score });
            let hits: Vec<Hit> = hit.into_iter().collect();
            let total = u32::try_from(hits.len()).unwrap();
            Reply::Found(Box::new(Found { hits, total, visited: 3, answered: 2, unvisited: 0 }))
        }
    }
}

fn last(rig: &Rig) -> ServiceCommand {
    match rig.seen.lock().unwrap().last() {
        Some(Command::Service(command)) => command.clone(),
        other => panic!("{other:?}"),
    }
}

fn path(rest: &str) -> String {
    format!("/api/v1/services/{}{rest}", view().service.id())
}

#[test]
fn a_service_is_shown_with_everything_it_says_of_itself() {
    let rig = Rig::start();
    let shown = rig.get(&path("")).json();
    assert_eq!(shown["owners"], json!([key(1).to_string()]));
    let details = &shown["details"];
    assert_eq!((&details["labels"], &details["needs"]["gpus"]), (&json!(["eu"]), &json!(1)));
    assert_eq!((&details["status"], &details["params"][0]["default"]), (&json!("active"), &json!("en")));
    let other = format!("/api/v1/services/{}", Digest::of(b"other"));
    assert_eq!((rig.get(&other).status, rig.get(&other).code().as_str()), (404, "unknown_service"));
    assert_eq!(rig.get("/api/v1/services/12").status, 400);
}

#[test]
fn what_is_exported_can_be_imported_and_is_the_same_service() {
    let rig = Rig::start();
    let mut document = rig.get(&path("/export")).json();
    let id = document.as_object_mut().unwrap().remove("id").unwrap();
    let added = rig.post("/api/v1/services", &document.to_string());
    assert_eq!((added.status, &added.json()["id"]), (201, &id));
    let module = rig.get(&path("/module"));
    assert_eq!((module.status, module.body.as_slice()), (200, RESULT));
}

#[test]
fn a_change_keeps_what_it_does_not_name() {
    let rig = Rig::start();
    let changed = rig.with_json("PATCH", &path(""), r#"{"description": "better"}"#);
    let ServiceCommand::Edit { old, service } = last(&rig) else { panic!("an edit") };
    assert_eq!(old, view().service.id());
    assert_eq!(*service, Service { description: "better".into(), ..view().service });
    assert_eq!(changed.json(), json!({"id": service.id().to_string(), "withdrawn": old.to_string()}));
    let same = rig.with_json("PATCH", &path(""), r#"{"visibility": "everyone"}"#);
    assert_eq!(same.json(), json!({"id": old.to_string()}), "who may see it is not part of the id");
    let before = rig.commands();
    for bad in
        [r#"{"module": "x"}"#, r#"{"details": {"needs": {"cpu": 1}}}"#, r#"{"details": {"status": "on"}}"#]
    {
        assert_eq!(rig.with_json("PATCH", &path(""), bad).status, 400, "{bad}");
    }
    assert_eq!(rig.commands(), before);
}

#[test]
fn a_service_is_set_aside_and_offered_again() {
    let rig = Rig::start();
    for active in [false, true] {
        let done = rig.post(&path("/activate"), &json!({"active": active}).to_string());
        assert_eq!(done.status, 200);
        assert_eq!(last(&rig), ServiceCommand::Activate { service: view().service.id(), active });
    }
}

#[test]
fn the_policy_is_told_and_replaced_and_what_is_wrong_with_one_is_said() {
    let rig = Rig::start();
    let shown: Value = rig.get("/api/v1/policy").json();
    assert_eq!(shown["policy"]["rules"][0]["deny"], "ask me first");
    assert_eq!(shown["today"], json!([{"peer": key(2).to_string(), "jobs": 3, "cpu_ms": 4, "bytes": 5}]));
    assert_eq!(rig.with_json("PUT", "/api/v1/policy", &shown["policy"].to_string()).status, 200);
    assert_eq!(last(&rig), ServiceCommand::SetPolicy(Box::new(policy())));
    let before = rig.commands();
    let refused =
        rig.with_json("PUT", "/api/v1/policy", r#"{"rules": [{"name": "a", "allow": {"hours": "9-17"}}]}"#);
    assert!(
        (400..500).contains(&refused.status) && refused.body.windows(5).any(|w| w == b"hours"),
        "{refused:?}"
    );
    assert_eq!(rig.with_json("PUT", "/api/v1/policy", "{}").status, 400, "nothing is not a policy");
    assert_eq!(rig.commands(), before);
}

#[test]
fn a_search_is_answered_by_lines_and_what_is_refused_at_once_is_no_stream() {
    let rig = Rig::start();
    let answer = rig.post("/api/v1/search", r#"{"query": "OCR, pdf", "kind": "wasm"}"#);
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
    let body = String::from_utf8(answer.body.clone()).unwrap();
    let lines: Vec<Value> =
        body.lines().filter(|l| l.starts_with('{')).map(|l| serde_json::from_str(l).unwrap()).collect();
    let done = lines.last().unwrap();
    assert_eq!((&done["event"], &done["total"], &done["visited"]), (&json!("done"), &json!(1), &json!(3)));
    assert_eq!((&done["hits"][0]["name"], &done["hits"][0]["score"]), (&json!("ocr"), &json!(8)));
    let before = rig.commands();
    for bad in [r#"{}"#, r#"{"query": 1}"#, r#"{"query": "", "kind": "No Kind"}"#] {
        assert_eq!(rig.post("/api/v1/search", bad).status, 400, "{bad}");
    }
    assert_eq!(rig.commands(), before);
    assert!((400..600).contains(&rig.post("/api/v1/search", r#"{"query": "busy"}"#).status));
}
