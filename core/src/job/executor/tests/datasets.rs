//! Jobs that give a dataset: without an engine, but with everything else that a job has.

use super::*;
use crate::job::receipt::Receipt;
use crate::service::dataset::tests::observations;
use crate::service::policy::{Effect, Policy, Rule, Who};

fn alice() -> PublicKey {
    keypair(2).public()
}

/// Alice wants the directory.
fn wanted(fence: u32) -> Order {
    let s = observations();
    Order {
        service: s.id(),
        program: s.program.clone(),
        paths: s.paths(),
        inputs: Vec::new(),
        outputs: vec![Port::Mount("data".into())],
        limits: s.limits,
        ..order(2, fence)
    }
}

/// A node with one slot that offers a program to everyone and the dataset to Alice.
fn owner(records: &[StoredRecord]) -> (Rig<Executor>, Vec<Output>) {
    let config = executor(1).config;
    let mut r = Rig::new(Executor::restore(config, records).unwrap(), [0; 32]);
    let given = Service { visibility: Visibility::Listed(vec![alice()]), ..observations() };
    r.tell(Input::Services(vec![count(), given]));
    let out = r.tell(Input::Started);
    r.tell(Input::PeerUp(alice()));
    (r, out)
}

/// The end that the node is to look at before the executor hears of it.
fn ended(out: &[Output]) -> Option<EngineReport> {
    out.iter().find_map(|o| match o {
        Output::Ended(report) => Some(report.clone()),
        _ => None,
    })
}

fn records(out: &[Output]) -> Vec<StoredRecord> {
    let ops = out.iter().filter_map(|o| match o {
        Output::Persist(StoreOp::Append { subject, record } | StoreOp::Replace { subject, record }) => {
            Some(StoredRecord { lsn: Lsn(1), subject: subject.clone(), record: record.clone() })
        }
        _ => None,
    });
    ops.collect()
}

fn offered(out: &[Output]) -> Option<Signed<Receipt>> {
    said(out).into_iter().find_map(|m| match m {
        Message::SealedOffer { receipt, .. } => Some(*receipt),
        _ => None,
    })
}

#[test]
fn a_dataset_is_given_without_an_engine_and_without_a_slot() {
    let (mut r, _) = owner(&[]);
    r.tell(dispatch(order(2, 9), 2));
    input_is_here(&mut r);
    let dataset = observations().program.dataset().unwrap();
    let out = r.tell(dispatch(wanted(1), 2));
    assert_eq!(starts(&out), 0);
    let started = out.iter().rposition(|o| matches!(o, Output::Persist(_))).unwrap();
    let end = out.iter().position(|o| matches!(o, Output::Ended(_))).unwrap();
    assert!(started < end, "that it started is journaled first");
    assert_eq!(offered(&out), None, "nothing is promised before the files are seen");

    let out = r.tell(Input::Engine(ended(&out).unwrap()));
    let receipt = offered(&out).expect("a result");
    assert_eq!(receipt.answers(&Signed::sign(wanted(1), &keypair(2))), Ok(()));
    assert_eq!((receipt.engine.as_str(), receipt.class), ("data", ExitClass::Success));
    assert_eq!(receipt.outputs, [dataset.output()]);
    let grant = Output::Grant { digest: dataset.manifest, requester: alice(), tree: true };
    assert!(out.contains(&grant), "its files may be fetched: {out:?}");
    let other = EngineOutput { digest: Digest::of(b"another"), ..dataset.output() };
    let lie = Signed::sign(Receipt { outputs: vec![other], ..(*receipt).clone() }, &keypair(1));
    assert!(lie.answers(&Signed::sign(wanted(1), &keypair(2))).is_err(), "it gives what it says it gives");
}

#[test]
fn only_so_many_wait_for_the_store_at_once() {
    let (mut r, _) = owner(&[]);
    let all = u32::try_from(GIVING_MAX).unwrap() + 2;
    let outs: Vec<_> = (1..=all).map(|fence| r.tell(dispatch(wanted(fence), 2))).collect();
    assert_eq!(outs.iter().filter(|out| ended(out).is_some()).count(), GIVING_MAX);
    let out = r.tell(Input::Engine(ended(&outs[0]).unwrap()));
    assert_eq!(ended(&out).map(|report| report.job), Some(wanted(all - 1).job()), "the next in turn");
    let out = r.tell(Input::OutputsGone(wanted(2).job()));
    assert_eq!(ended(&out).map(|report| report.job), Some(wanted(all).job()));
}

#[test]
fn a_restart_at_any_record_ends_in_the_same_result() {
    let (mut r, _) = owner(&[]);
    let mut out = r.tell(dispatch(wanted(1), 2));
    out.extend(r.tell(Input::Engine(ended(&out).unwrap())));
    let all = records(&out);
    let first = offered(&out).unwrap();
    assert!(all.len() >= 4, "admitted, started, the chain, sealed");
    let mut again = 0;
    for known in 1..=all.len() {
        let (mut r, out) = owner(&all[..known]);
        let whole = r.machine.trees(true).contains(&observations().program.object().unwrap());
        assert!(whole, "its files are held before anything else happens");
        let receipt = match ended(&out) {
            Some(report) => {
                again += 1;
                offered(&r.tell(Input::Engine(report)))
            }
            None => offered(&r.tell(Input::PeerUp(alice()))),
        };
        let receipt = receipt.expect("a result");
        assert_eq!((receipt.result, &receipt.outputs), (first.result, &first.outputs), "{known} records");
    }
    assert_eq!(again, all.len() - 1, "once it is sealed it is over");
}

#[test]
fn a_dataset_whose_files_are_gone_fails_once_with_the_reason() {
    let (mut r, _) = owner(&[]);
    r.tell(dispatch(wanted(1), 2));
    let out = r.tell(Input::OutputsGone(wanted(1).job()));
    assert_eq!(ended(&out), None, "trying again makes no files");
    let receipt = offered(&out).expect("a result");
    assert_eq!(receipt.class, ExitClass::Permanent);
    assert!(receipt.detail.contains("not all here"), "{}", receipt.detail);
    assert!(receipt.outputs.is_empty());
    assert!(!out.iter().any(|o| matches!(o, Output::Grant { .. })));
}

#[test]
fn a_dataset_is_for_those_who_may_have_it_and_does_nothing_else() {
    let (mut r, _) = owner(&[]);
    r.tell(Input::PeerUp(keypair(3).public()));
    let carol = Order { requester: keypair(3).public(), ..wanted(1) };
    assert_eq!(refusal(&r.tell(dispatch(carol, 3))), Some(Refusal::UnknownService));
    let arguments = Order { args: vec!["-v".into()], ..wanted(1) };
    let words = Order { outputs: vec![Port::Stderr], ..wanted(2) };
    let input = Order { inputs: order(2, 1).inputs, ..wanted(3) };
    for odd in [arguments, words, input] {
        assert_eq!(refusal(&r.tell(dispatch(odd.clone(), 2))), Some(Refusal::BadOrder), "{odd:?}");
    }
    let light = Message::Dispatch {
        order: Box::new(Signed::sign(Order { light: true, ..wanted(4) }, &keypair(2))),
        sources: Vec::new(),
        carried: Some(Vec::new()),
    };
    assert_eq!(refusal(&r.tell(from(2, light))), Some(Refusal::BadOrder), "it is for the journal");

    let rule = Rule {
        name: "data".into(),
        who: Who::Anyone,
        kinds: BTreeSet::from(["data".to_owned()]),
        services: BTreeSet::new(),
        effect: Effect::Deny("not today".into()),
    };
    r.tell(Input::Policy(Box::new(Policy { rules: vec![rule], ..Policy::default() })));
    assert_eq!(refusal(&r.tell(dispatch(wanted(5), 2))), Some(Refusal::NotAllowed));
}

#[test]
fn a_withdrawn_dataset_goes_when_the_last_job_that_gave_it_is_over() {
    let (mut r, _) = owner(&[]);
    let manifest = observations().program.object().unwrap();
    let out = r.tell(dispatch(wanted(1), 2));
    r.tell(Input::Services(Vec::new()));
    assert!(r.machine.holds(&manifest));
    r.tell(Input::Engine(ended(&out).unwrap()));
    let out = r.tell(from(2, Message::Release { job: wanted(1).job() }));
    assert!(out.contains(&Output::Remove { digest: manifest }), "the node sees who else needs it");
}
