//! Searches by the clock: what is told when, who is visited, and what a peer that is silent, floods or is many can do.

use super::*;
use crate::id::Keypair;
use crate::job::validate::tests::service;
use crate::laws::{Rig, check_within};
use proptest::prelude::*;

fn key(n: u16) -> PublicKey {
    let mut seed = [3; 32];
    seed[..2].copy_from_slice(&n.to_be_bytes());
    Keypair::from_seed(&seed).public()
}

fn query(words: &str) -> Query {
    Query::new(words, None).unwrap()
}

fn rig() -> Rig<Searches> {
    Rig::new(Searches::default(), [0; 32])
}

fn start(id: u64, words: &str, known: Vec<(PublicKey, Service)>, prospects: Vec<PublicKey>) -> Input {
    Input::Start { id: CommandId(id), query: query(words), known, prospects }
}

fn offers(peer: PublicKey, names: &[&str]) -> Input {
    let services: Vec<Service> = names.iter().map(|n| service(n, false, &[])).collect();
    Input::Offers { peer, services: services.into() }
}

fn visits(out: &[Output]) -> usize {
    out.iter().filter(|o| matches!(o, Output::Visit(_))).count()
}

fn done(out: &[Output]) -> Option<&Found> {
    out.iter().find_map(|o| match o {
        Output::Done { found, .. } => Some(found),
        _ => None,
    })
}

fn names(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|h| h.service.name.as_str()).collect()
}

#[test]
fn what_is_known_is_told_at_once_and_without_prospects_that_is_all() {
    let mut r = rig();
    let known = vec![(key(1), service("ocr", false, &[])), (key(1), service("count", false, &[]))];
    let out = r.tell(start(1, "ocr, pdf", known, Vec::new()));
    let [Output::Hits { hits, .. }, Output::Done { found, .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!((names(hits), found.total, found.visited), (vec!["ocr"], 1, 0));
    assert_eq!(r.machine.sizes().0, 0);
}

#[test]
fn words_find_names_labels_and_descriptions_and_the_kind_is_obeyed() {
    let mut s = service("ocr-fast", false, &[]);
    s.description = "Reads PDF pages".into();
    s.details.labels = ["eu".to_owned()].into();
    let score = |words: &str| query(words).score(&s);
    assert_eq!(
        (score("ocr"), score("OCR-fast"), score("pdf"), score("eu")),
        (Some(4), Some(8), Some(2), Some(6))
    );
    assert_eq!((score("pdf ocr,eu"), score(""), score("count")), (Some(12), Some(0), None));
    assert_eq!(Query::new("ocr", Some("docker")).unwrap().score(&s), None);
    assert_eq!(Query::new("ocr", Some("wasm")).unwrap().score(&s), Some(4));
    assert!(Query::new(&"x".repeat(QUERY_MAX + 1), None).is_err());
    let many: Vec<String> = (0..=TERMS_MAX).map(|n| n.to_string()).collect();
    assert!(Query::new(&many.join(" "), None).is_err());
}

#[test]
fn a_peer_that_answers_is_told_of_as_it_answers_and_one_that_cannot_be_reached_is_not_waited_for() {
    let mut r = rig();
    let out = r.tell(start(1, "ocr", Vec::new(), vec![key(1), key(2)]));
    assert_eq!(out, vec![Output::Visit(key(1)), Output::Visit(key(2))]);
    let out = r.tell(offers(key(1), &["ocr", "count"]));
    let [Output::Hits { hits, .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!((names(hits), hits[0].owner), (vec!["ocr"], key(1)), "nobody speaks for another");
    let out = r.tell(Input::Unreachable(key(2)));
    let found = done(&out).unwrap();
    assert_eq!((found.visited, found.answered, found.total), (2, 1, 1));
}

#[test]
fn a_silent_peer_is_given_up_after_fifteen_seconds_to_the_millisecond() {
    let mut r = rig();
    r.tell(start(1, "ocr", Vec::new(), vec![key(1)]));
    assert!(r.wait(VISIT_WITHIN - Duration::from_millis(1)).is_empty());
    let out = r.wait(Duration::from_millis(1));
    assert_eq!((done(&out).unwrap().visited, done(&out).unwrap().answered), (1, 0));
    assert!(r.tell(offers(key(1), &["ocr"])).is_empty(), "too late for this search");
}

#[test]
fn a_search_ends_after_forty_five_seconds_to_the_millisecond_whoever_is_silent() {
    let mut r = rig();
    let many: Vec<PublicKey> = (0..100).map(key).collect();
    let out = r.tell(start(1, "ocr", Vec::new(), many));
    assert_eq!(visits(&out), VISITS_AT_ONCE);
    let out = r.wait(SEARCH_WITHIN - Duration::from_millis(1));
    assert_eq!((visits(&out), done(&out)), (2 * VISITS_AT_ONCE, None));
    let out = r.wait(Duration::from_millis(1));
    let found = done(&out).unwrap();
    assert_eq!(visits(&out), 0, "nobody is visited for a search that is over");
    assert_eq!(found.visited as usize, 3 * VISITS_AT_ONCE);
    assert_eq!(found.unvisited as usize, VISITS_MAX - 3 * VISITS_AT_ONCE);
}

#[test]
fn two_searches_share_their_visits_and_nobody_is_visited_twice_in_five_minutes() {
    let mut r = rig();
    r.tell(start(1, "ocr", Vec::new(), vec![key(1)]));
    assert_eq!(visits(&r.tell(start(2, "count", Vec::new(), vec![key(1)]))), 0, "it is on its way");
    let out = r.tell(offers(key(1), &["ocr", "count"]));
    assert_eq!(out.iter().filter(|o| matches!(o, Output::Done { .. })).count(), 2);
    let out = r.tell(start(3, "ocr", Vec::new(), vec![key(1)]));
    assert_eq!((visits(&out), done(&out).unwrap().visited), (0, 0));
    r.wait(VISITED_FOR);
    assert_eq!(visits(&r.tell(start(4, "ocr", Vec::new(), vec![key(1)]))), 1);
}

#[test]
fn a_peer_that_floods_gets_no_more_than_its_place() {
    let mut r = rig();
    r.tell(start(1, "s", Vec::new(), vec![key(1)]));
    for round in 0..200 {
        let names: Vec<String> = (0..64).map(|n| format!("s{round}-{n}")).collect();
        r.tell(offers(key(2), &names.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    let out = r.tell(offers(key(1), &["s"]));
    let found = done(&out).unwrap();
    assert_eq!(
        (found.hits.len(), found.hits[0].owner),
        (SERVICES_MAX + 1, key(1)),
        "the better one is on top"
    );
    let again = r.tell(start(2, "s", vec![(key(1), service("s", false, &[])); 9], Vec::new()));
    assert_eq!(done(&again).unwrap().total, 1, "one service of one owner is one hit");
}

#[test]
fn the_ranking_is_total_and_does_not_depend_on_the_order_of_answers() {
    let mut all = Vec::new();
    for (n, version, price) in [(1, "1", 0), (2, "1", 0), (1, "2", 0), (3, "3", 5)] {
        let mut s = service("ocr", false, &[]);
        s.version = version.into();
        s.details.price.per_job = price;
        all.push((key(n), s));
    }
    let ranked = |all: Vec<(PublicKey, Service)>| {
        let out = rig().tell(start(1, "ocr", all, Vec::new()));
        done(&out).unwrap().hits.iter().map(|h| (h.owner, h.service.version.clone())).collect::<Vec<_>>()
    };
    let first = ranked(all.clone());
    assert_eq!((first[0].1.as_str(), first[3].1.as_str()), ("2", "3"), "newer first, dearer last");
    for _ in 0..3 {
        all.rotate_left(1);
        assert_eq!(ranked(all.clone()), first);
    }
    all.reverse();
    assert_eq!(ranked(all), first);
}

#[test]
fn searches_are_bounded() {
    let mut r = rig();
    for id in 0..SEARCHES_MAX as u64 {
        r.tell(start(id, "", Vec::new(), vec![key(id as u16)]));
    }
    assert_eq!(r.tell(start(99, "", Vec::new(), Vec::new())), vec![Output::TooMany(CommandId(99))]);
    assert_eq!(r.tell(start(0, "", Vec::new(), Vec::new())), vec![Output::TooMany(CommandId(0))]);
}

#[test]
fn searches_obey_the_laws_and_their_bounds() {
    let peer = || (0u16..12).prop_map(key);
    let name = || prop::sample::select(vec!["ocr", "count", "pdf"]);
    let input = prop_oneof![
        (0u64..10, name(), prop::collection::vec(peer(), 0..12), peer()).prop_map(
            |(id, n, prospects, owner)| { start(id, n, vec![(owner, service(n, false, &[]))], prospects) }
        ),
        (peer(), name()).prop_map(|(p, n)| offers(p, &[n])),
        peer().prop_map(Input::Unreachable),
    ];
    check_within(Searches::default, input, |m| {
        let (searches, visits, visited) = m.sizes();
        assert!(searches <= SEARCHES_MAX && visits <= VISITS_AT_ONCE && visited <= VISITED_MAX);
    });
}
