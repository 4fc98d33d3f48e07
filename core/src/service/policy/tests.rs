//! The policy against a naive evaluator, at its edges, and through its stored form.

use super::*;
use crate::id::Keypair;
use crate::job::validate::tests::service;
use proptest::prelude::*;

/// 2023-11-14 22:13:20 UTC.
const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);

fn key(n: u8) -> PublicKey {
    Keypair::from_seed(&[n; 32]).public()
}

fn rule(name: &str, effect: Effect) -> Rule {
    Rule { name: name.into(), who: Who::Anyone, kinds: BTreeSet::new(), services: BTreeSet::new(), effect }
}

fn allow(within: Allowance) -> Policy {
    Policy { rules: vec![rule("r", Effect::Allow(within))], ..Policy::default() }
}

struct Case {
    who: PublicKey,
    service: Service,
    id: Digest,
}

impl Case {
    fn new() -> Self {
        let service = service("ocr", true, &[]);
        Self { who: key(1), id: service.id(), service }
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            requester: &self.who,
            service: &self.service,
            id: &self.id,
            limits: self.service.limits,
            input_bytes: 10,
            unfinished: 0,
            spent: Spent::default(),
            now: NOW,
        }
    }
}

fn why(policy: &Policy, asked: &Asked<'_>) -> Option<(String, bool)> {
    match policy.decide(asked) {
        Decision::Usual | Decision::Allowed(_) => None,
        Decision::Refused { why, soon, .. } => Some((why, soon)),
    }
}

#[test]
fn without_a_rule_everything_is_as_usual() {
    assert_eq!(Policy::default().decide(&Case::new().asked()), Decision::Usual);
    assert!(!Policy::default().counts_days());
}

#[test]
fn the_first_rule_that_fits_decides_and_a_refusal_names_it() {
    let case = Case::new();
    let friends: BTreeSet<PublicKey> = [key(1), key(2)].into();
    let mut policy = Policy {
        groups: [("friends".to_owned(), friends)].into(),
        rules: vec![
            Rule { who: Who::Peers([key(3)].into()), ..rule("three", Effect::Deny("not you".into())) },
            Rule {
                who: Who::Group("friends".into()),
                ..rule("friends", Effect::Allow(Allowance::default()))
            },
            rule("others", Effect::Deny(String::new())),
        ],
        utc_offset_min: 0,
    };
    assert_eq!(policy.faults(), Vec::new());
    assert_eq!(policy.decide(&case.asked()), Decision::Allowed(&policy.rules[1]));
    let (three, four) = (key(3), key(4));
    let words = |who| why(&policy, &Asked { requester: who, ..case.asked() }).unwrap().0;
    assert_eq!(words(&three), "rule `three`: not you");
    assert_eq!(words(&four), "rule `others`: not allowed here");
    policy.rules[1].kinds = ["docker".to_owned()].into();
    assert!(why(&policy, &case.asked()).is_some(), "it is a module, so the next rule is asked");
    policy.rules[2].services = ["translate".to_owned()].into();
    assert_eq!(policy.decide(&case.asked()), Decision::Usual);
    policy.rules[2].services = [case.id.to_string()].into();
    assert!(why(&policy, &case.asked()).is_some(), "a service may be named by its id");
}

#[test]
fn every_amount_is_exact_and_what_passes_soon_is_said_to() {
    let case = Case::new();
    let limits = case.service.limits;
    let spent = Spent { jobs: 4, cpu_ms: 9_999, bytes: 90 };
    let asked = Asked { spent, unfinished: 2, ..case.asked() };
    let cases: [(Allowance, Allowance, bool); 7] = [
        (
            Allowance { memory_bytes: Some(limits.memory_bytes), ..Allowance::default() },
            Allowance { memory_bytes: Some(limits.memory_bytes - 1), ..Allowance::default() },
            false,
        ),
        (
            Allowance { time_ms: Some(limits.time_ms), ..Allowance::default() },
            Allowance { time_ms: Some(limits.time_ms - 1), ..Allowance::default() },
            false,
        ),
        (
            Allowance { output_bytes: Some(limits.output_bytes), ..Allowance::default() },
            Allowance { output_bytes: Some(limits.output_bytes - 1), ..Allowance::default() },
            false,
        ),
        (
            Allowance { jobs_a_day: Some(5), ..Allowance::default() },
            Allowance { jobs_a_day: Some(4), ..Allowance::default() },
            false,
        ),
        (
            Allowance { cpu_s_a_day: Some(10), ..Allowance::default() },
            Allowance { cpu_s_a_day: Some(9), ..Allowance::default() },
            false,
        ),
        (
            Allowance { bytes_a_day: Some(100), ..Allowance::default() },
            Allowance { bytes_a_day: Some(99), ..Allowance::default() },
            false,
        ),
        (
            Allowance { at_once: Some(3), ..Allowance::default() },
            Allowance { at_once: Some(2), ..Allowance::default() },
            true,
        ),
    ];
    for (enough, short, soon) in cases {
        assert_eq!(why(&allow(enough), &asked), None, "{enough:?}");
        assert_eq!(why(&allow(short), &asked).map(|(_, s)| s), Some(soon), "{short:?}");
    }
}

#[test]
fn hours_are_those_of_the_owners_clock_and_may_pass_midnight() {
    let case = Case::new();
    let at = |secs: u64| Asked { now: UnixTime::from_secs(secs), ..case.asked() };
    let midnight = 1_700_006_400;
    let night = Hours { from_min: 22 * 60, until_min: 6 * 60 };
    let policy = |hours, utc_offset_min| Policy {
        utc_offset_min,
        ..allow(Allowance { hours: Some(hours), ..Allowance::default() })
    };
    for (secs, open) in [
        (midnight - 2 * 3_600, true),
        (midnight - 2 * 3_600 - 1, false),
        (midnight, true),
        (midnight + 6 * 3_600 - 1, true),
        (midnight + 6 * 3_600, false),
    ] {
        assert_eq!(why(&policy(night, 0), &at(secs)).is_none(), open, "{secs}");
        assert_eq!(why(&policy(night, 90), &at(secs - 90 * 60)).is_none(), open, "{secs} further east");
    }
    let noon = Hours { from_min: 720, until_min: 780 };
    assert!(why(&policy(noon, 0), &at(midnight + 720 * 60)).is_none());
    let (words, soon) = why(&policy(noon, -90), &at(midnight)).unwrap();
    assert_eq!(
        (words.as_str(), soon),
        ("rule `r`: jobs are taken from 12:00 until 13:00 (UTC-01:30) only", false)
    );
    let whole = Hours { from_min: 5, until_min: 5 };
    assert!(why(&policy(whole, 0), &at(midnight)).is_none());
    assert_eq!(
        Policy { utc_offset_min: -1, ..Policy::default() }.day(UnixTime::from_secs(midnight)),
        midnight / 86_400 - 1
    );
}

#[test]
fn everything_that_is_wrong_is_said_with_its_place() {
    let bad = Policy {
        groups: [("No".to_owned(), BTreeSet::new())].into(),
        rules: vec![
            Rule { who: Who::Group("none".into()), ..rule("a", Effect::Deny("\n".into())) },
            Rule { who: Who::Peers(BTreeSet::new()), ..rule("a", Effect::Allow(Allowance::default())) },
            Rule {
                kinds: ["No".to_owned()].into(),
                ..rule(
                    "",
                    Effect::Allow(Allowance {
                        hours: Some(Hours { from_min: 1_440, until_min: 0 }),
                        ..Allowance::default()
                    }),
                )
            },
        ],
        utc_offset_min: 841,
    };
    let places: Vec<String> = bad.faults().into_iter().map(|p| p.place).collect();
    assert_eq!(
        places,
        [
            "utc_offset_min",
            "groups.No",
            "rules[0].who",
            "rules[0].deny",
            "rules[1].name",
            "rules[1].who",
            "rules[2].name",
            "rules[2].kinds",
            "rules[2].allow.hours"
        ]
    );
}

#[test]
fn the_book_of_a_day_forgets_yesterday_and_survives_a_restart() {
    let mut book = Ledger::default();
    let one = Spent { jobs: 1, cpu_ms: 5, bytes: 7 };
    book.add(key(1), 10, one);
    let (line, gone) = book.add(key(1), 10, one);
    assert_eq!((book.of(&key(1), 10).jobs, gone), (2, Vec::new()));
    let mut again = Ledger::default();
    again.restore(key(1), &line).unwrap();
    assert_eq!(again, book);
    assert_eq!(again.of(&key(1), 11), Spent::default(), "a new day");
    again.add(key(1), 11, one);
    assert_eq!(again.of(&key(1), 11), one);
    assert_eq!((again.len(), again.of(&key(2), 11)), (1, Spent::default()));
    assert!(Ledger::default().restore(key(1), b"d1:vi2ee").is_err());
}

#[test]
fn the_book_is_bounded_and_makes_room_by_what_is_of_yesterday() {
    let mut book = Ledger::default();
    let one = Spent { jobs: 1, ..Spent::default() };
    let keys: Vec<PublicKey> = (0..u16::try_from(LEDGER_MAX).unwrap())
        .map(|n| {
            let mut seed = [9; 32];
            seed[..2].copy_from_slice(&n.to_be_bytes());
            Keypair::from_seed(&seed).public()
        })
        .collect();
    for (i, k) in keys.iter().enumerate() {
        book.add(*k, if i == 0 { 1 } else { 2 }, one);
    }
    assert!(book.has_room(&key(1), 2) && book.has_room(&keys[5], 2));
    let (_, gone) = book.add(key(1), 2, one);
    assert_eq!((gone, book.len()), (vec![keys[0]], LEDGER_MAX));
    assert!(!book.has_room(&key(2), 2));
}

/// What the rules mean, written as they are told to people: one rule after another, no helper shared with the policy.
fn naive(policy: &Policy, asked: &Asked<'_>) -> Option<usize> {
    let mut at = 0;
    while at < policy.rules.len() {
        let r = &policy.rules[at];
        let mut fits = match &r.who {
            Who::Anyone => true,
            Who::Peers(p) => p.iter().any(|k| k == asked.requester),
            Who::Group(g) => {
                policy.groups.iter().any(|(n, p)| n == g && p.iter().any(|k| k == asked.requester))
            }
        };
        if !r.kinds.is_empty() && !r.kinds.iter().any(|k| k == "wasm") {
            fits = false;
        }
        if !r.services.is_empty() && !r.services.iter().any(|s| s == "ocr") {
            fits = false;
        }
        if fits {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn naively_within(a: &Allowance, asked: &Asked<'_>, offset: i32) -> bool {
    let minute = ((asked.now.as_secs() as i64 / 60 + i64::from(offset)).rem_euclid(1_440)) as u16;
    let open = match a.hours {
        None => true,
        Some(h) if h.from_min == h.until_min => true,
        Some(h) => {
            // Walk the clock from the first minute on until the hour ends.
            let mut m = h.from_min;
            let mut found = false;
            while m != h.until_min {
                found |= m == minute;
                m = (m + 1) % 1_440;
            }
            found
        }
    };
    open && a.memory_bytes.is_none_or(|m| asked.limits.memory_bytes <= m)
        && a.jobs_a_day.is_none_or(|m| asked.spent.jobs < m)
        && a.cpu_s_a_day.is_none_or(|m| asked.spent.cpu_ms < m * 1_000)
        && a.bytes_a_day.is_none_or(|m| asked.spent.bytes + asked.input_bytes <= m)
        && a.at_once.is_none_or(|m| asked.unfinished < m)
}

prop_compose! {
    fn arb_rule(n: usize)(
        who in 0u8..4, peer in 1u8..4, kind in prop::option::of(prop::sample::select(vec!["wasm", "docker"])),
        service in prop::option::of(prop::sample::select(vec!["ocr", "count"])),
        deny in prop::bool::weighted(0.3),
        memory in prop::option::of((1u64 << 20) - 1..(1 << 20) + 2), jobs in prop::option::of(0u64..4),
        cpu in prop::option::of(0u64..4), bytes in prop::option::of(8u64..14), at_once in prop::option::of(0u64..4),
        hours in prop::option::of((0u16..1_440, 0u16..1_440)),
    ) -> Rule {
        let within = Allowance {
            memory_bytes: memory, jobs_a_day: jobs, cpu_s_a_day: cpu, bytes_a_day: bytes, at_once,
            hours: hours.map(|(from_min, until_min)| Hours { from_min, until_min }),
            ..Allowance::default()
        };
        Rule {
            name: format!("r{n}"),
            who: match who { 0 | 1 => Who::Anyone, 2 => Who::Peers([key(peer)].into()), _ => Who::Group("g".into()) },
            kinds: kind.into_iter().map(str::to_owned).collect(),
            services: service.into_iter().map(str::to_owned).collect(),
            effect: if deny { Effect::Deny("no".into()) } else { Effect::Allow(within) },
        }
    }
}

prop_compose! {
    fn arb_policy()(
        a in arb_rule(0), b in arb_rule(1), c in arb_rule(2), keep in 0usize..4, offset in -OFFSET_MAX_MIN..=OFFSET_MAX_MIN,
        members in prop::collection::btree_set((1u8..4).prop_map(key), 0..3),
    ) -> Policy {
        let rules = vec![a, b, c].into_iter().take(keep).collect();
        Policy { groups: [("g".to_owned(), members)].into(), rules, utc_offset_min: offset }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn it_decides_as_the_naive_reading_of_its_rules(
        policy in arb_policy(), who in 1u8..4, jobs in 0u64..4, cpu_ms in 0u64..4_000, bytes in 0u64..4,
        unfinished in 0u64..4, secs in 0u64..200_000,
    ) {
        prop_assert_eq!(policy.faults(), Vec::new());
        prop_assert_eq!(Policy::decode(&policy.encode()), Ok(policy.clone()));
        let case = Case { who: key(who), ..Case::new() };
        let spent = Spent { jobs, cpu_ms, bytes };
        let asked = Asked { spent, unfinished, now: UnixTime::from_secs(1_700_000_000 + secs), ..case.asked() };
        let decided = policy.decide(&asked);
        match naive(&policy, &asked).map(|at| &policy.rules[at]) {
            None => prop_assert_eq!(decided, Decision::Usual),
            Some(r) => {
                let good = match &r.effect {
                    Effect::Deny(_) => false,
                    Effect::Allow(a) => naively_within(a, &asked, policy.utc_offset_min),
                };
                match decided {
                    Decision::Usual => prop_assert!(false, "a rule fits"),
                    Decision::Allowed(by) => prop_assert!(good && by == r),
                    Decision::Refused { rule, why, .. } => {
                        prop_assert!(!good && rule == r);
                        let named = why.contains(&format!("`{}`", r.name));
                        prop_assert!(named);
                    }
                }
            }
        }
    }

    #[test]
    fn hostile_policies_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Policy::decode(&bytes);
    }
}
