//! Workflows as people and programs write them: the first byte says YAML or JSON. Every text is either a workflow, which
//! survives being written in both formats and in the journal's, or told to be wrong in bounded words; and JSON inside a
//! request's body is understood exactly as JSON in a file is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remote_network_core::id::Digest;
use remote_network_core::job::plan::{Plan, decode_workflow, encode_workflow};
use remote_network_core::job::validate;
use remote_network_core::job::workflow::{ObjectRef, Workflow};
use remote_network_core::port::{EngineLimits, Program};
use remote_network_core::service::details::Details;
use remote_network_core::service::offers::Offerings;
use remote_network_core::service::{Mount, MountDirection, Service, Visibility};
use remote_network_fuzz::keys::keypair;
use remote_network_fuzz::workflow_text::{
    Embedded, Format, PROBLEMS_MAX, ParsedWorkflow, Problem, SourceItem, parse, to_json, to_yaml,
};

fn resolve(item: &SourceItem) -> Result<ObjectRef, String> {
    match item {
        SourceItem::File(name) if name.is_empty() => Err("no name".to_owned()),
        SourceItem::File(text) | SourceItem::Text(text) => {
            Ok(ObjectRef { digest: Digest::of(text.as_bytes()), len: text.len() as u64 })
        }
        SourceItem::Object(object) => Ok(object.clone()),
    }
}

fn told(problems: &[Problem]) {
    assert!(!problems.is_empty() && problems.len() <= PROBLEMS_MAX);
    assert!(problems.iter().all(|p| !p.reason.is_empty() && !p.to_string().contains("__serde")));
}

fn workflow(parsed: &ParsedWorkflow) -> Option<Workflow> {
    match parsed.compile(resolve) {
        Ok(workflow) => Some(workflow),
        Err(problems) => {
            told(&problems);
            None
        }
    }
}

fn again(text: &str, format: Format) -> Workflow {
    let parsed = parse(text, format).unwrap_or_else(|e| panic!("our own text is refused: {e:?}\n{text}"));
    parsed.compile(resolve).unwrap_or_else(|e| panic!("our own text does not compile: {e:?}\n{text}"))
}

fn written_again(workflow: &Workflow) {
    assert_eq!(&again(&to_yaml(workflow).expect("writes"), Format::Yaml), workflow);
    assert_eq!(&again(&to_json(workflow).expect("writes"), Format::Json), workflow);
    // What passes the core's checks is journaled, as it is and as a plan, and must come back from there.
    let mut offers = Offerings::default();
    offers.set(keypair(0).public(), Some(vec![tokenize()].into()));
    match validate::validate(workflow, &offers) {
        Err(problems) => assert!(!problems.is_empty() && problems.iter().all(|p| !p.reason.is_empty())),
        Ok(plan) => {
            assert_eq!(decode_workflow(&encode_workflow(workflow)).as_ref(), Ok(workflow));
            assert_eq!(Plan::decode(&plan.encode()).as_ref(), Ok(&plan));
        }
    }
}

fn tokenize() -> Service {
    let mount = |name: &str, direction| Mount { name: name.to_owned(), direction, path: None };
    Service {
        name: "tokenize".to_owned(),
        description: String::new(),
        version: String::new(),
        program: Program::Wasm(Digest::of(b"module")),
        module_len: 6,
        stdin: true,
        mounts: vec![mount("in", MountDirection::In), mount("out", MountDirection::Out)],
        limits: EngineLimits { memory_bytes: 1, time_ms: 1 << 40, output_bytes: 1 },
        visibility: Visibility::Everyone,
        details: Details::default(),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let format = if kind % 2 == 0 { Format::Yaml } else { Format::Json };
    let parsed = parse(text, format);
    if format == Format::Json
        && let Ok(embedded) = serde_json::from_str::<Embedded>(text)
    {
        let places = |problems: &[Problem]| problems.iter().map(|p| p.place.clone()).collect::<Vec<_>>();
        match (&parsed, embedded.read()) {
            (Ok(a), Ok(b)) => assert_eq!((&a.name, &a.nodes, &a.edges), (&b.name, &b.nodes, &b.edges)),
            (Err(a), Err(b)) => assert_eq!(places(a), places(&b)),
            (a, b) => panic!("a file says {a:?}, a body {b:?}"),
        }
    }
    match parsed {
        Err(problems) => told(&problems),
        Ok(parsed) => {
            if let Some(workflow) = workflow(&parsed) {
                written_again(&workflow);
            }
        }
    }
});
