//! Tasks that several executors do: what may be asked for, and of which services.

use super::{Choice, Findings, Offers};
use crate::job::rules::{AUDIT_PPM_MAX, QUORUM_MAX};
use crate::job::workflow::TaskSpec;
use crate::service::details::Determinism;

/// What can be said without knowing the service.
pub(super) fn check_numbers(id: &str, t: &TaskSpec, f: &mut Findings) {
    if let Some(q) = t.rules.quorum.filter(|q| !q.is_sound()) {
        let reason = match (q.agree, q.of) {
            (0 | 1, _) => {
                "one executor agrees with itself; let at least two agree, or leave it out".to_owned()
            }
            (_, of) if of > QUORUM_MAX => {
                format!("asks {of} executors, at most {QUORUM_MAX} are asked at once")
            }
            (agree, of) => format!("{agree} of {of} executors can never agree"),
        };
        f.add(format!("nodes.{id}.quorum"), reason);
    }
    if t.rules.audit_ppm.is_some_and(|ppm| ppm == 0 || ppm > AUDIT_PPM_MAX) {
        f.add(format!("nodes.{id}.audit"), "a chance is above 0 % and at most 100 %");
    }
}

/// Whether results of this service can be compared, and by enough executors.
pub(super) fn check_service(
    id: &str,
    t: &TaskSpec,
    choice: &Choice<'_>,
    offers: &dyn Offers,
    f: &mut Findings,
) {
    let rules = &t.rules;
    for (what, asked) in [("quorum", rules.quorum.is_some()), ("audit", rules.audit_ppm.is_some())] {
        let determinism = choice.service.determinism();
        if asked && determinism != Determinism::Strict {
            let name = &choice.service.name;
            let kind = determinism.as_str();
            let reason = format!("results of `{name}` cannot be compared: it is {kind}, not strict");
            f.add(format!("nodes.{id}.{what}"), reason);
        }
    }
    let needed = match (rules.quorum.filter(|q| q.is_sound()), rules.audit_ppm) {
        (Some(q), _) => Some(("quorum", q.of as usize)),
        (None, Some(_)) => Some(("audit", 2)),
        (None, None) => None,
    };
    if let Some((what, needed)) = needed {
        let here = choice.candidates.len();
        if here < needed {
            let name = &choice.service.name;
            let reason =
                format!("{needed} executors are needed, and {here} of those that may run it offer `{name}`");
            let absent: Vec<_> = t.peers.iter().filter(|p| !offers.knows(p)).copied().collect();
            if absent.is_empty() {
                f.incurable = true;
            }
            // Whoever is named may turn out to offer it as well.
            f.absent.extend(absent);
            f.tell(format!("nodes.{id}.{what}"), reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{offers, peer, service};
    use super::super::{Plan, check, validate};
    use super::*;
    use crate::id::PublicKey;
    use crate::job::rules::Quorum;
    use crate::job::workflow::{NodeKind, Workflow};
    use crate::service::details::Details;

    fn asked(
        service: &str,
        peers: &[PublicKey],
        quorum: Option<(u32, u32)>,
        audit_ppm: Option<u32>,
    ) -> Workflow {
        let mut spec = TaskSpec { service: service.into(), peers: peers.to_vec(), ..TaskSpec::default() };
        spec.rules.quorum = quorum.map(|(agree, of)| Quorum { agree, of });
        spec.rules.audit_ppm = audit_ppm;
        Workflow { name: "w".into(), nodes: vec![("a".into(), NodeKind::Task(spec))], ..Workflow::default() }
    }

    fn problem(w: &Workflow) -> String {
        let problems = validate(w, &offers()).unwrap_err();
        problems.iter().find(|p| !p.place.ends_with("stdin")).map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn what_cannot_be_agreed_on_is_refused_with_the_reason() {
        for (quorum, reason) in [
            ((1, 2), "one executor agrees with itself"),
            ((3, 2), "can never agree"),
            ((2, 8), "at most 7"),
            ((2, 3), "3 executors are needed, and 2 of those that may run it offer `word-count`"),
        ] {
            let said = problem(&asked("word-count", &[], Some(quorum), None));
            assert!(said.starts_with("nodes.a.quorum") && said.contains(reason), "{quorum:?}: {said}");
        }
        let said = problem(&asked("fill", &[], None, Some(50_000)));
        assert!(said.contains("2 executors are needed, and 1"), "{said}");
        let said = problem(&asked("word-count", &[], None, Some(0)));
        assert!(said.starts_with("nodes.a.audit"), "{said}");
    }

    #[test]
    fn only_strict_services_can_be_compared() {
        let mut o = offers();
        let details = Details { determinism: Some(Determinism::Pure), ..Details::default() };
        let dice = crate::service::Service { details, ..service("dice", false, &[]) };
        o.set(peer(1), Some(vec![dice.clone()].into()));
        o.set(peer(2), Some(vec![dice].into()));
        let problems = validate(&asked("dice", &[], Some((2, 2)), None), &o).unwrap_err();
        assert!(problems[0].to_string().contains("it is pure, not strict"), "{problems:?}");
    }

    #[test]
    fn a_named_peer_that_is_not_here_yet_is_waited_for() {
        let mut o = offers();
        let roll = service("roll", false, &[]);
        o.set(peer(1), Some(vec![roll.clone()].into()));
        o.set(peer(2), Some(vec![roll.clone()].into()));
        let w = asked("roll", &[peer(1), peer(2), peer(3)], Some((2, 3)), None);
        assert!(check(&w, &o).unwrap_err().curable());
        o.set(peer(3), Some(vec![roll].into()));
        let plan: Plan = check(&w, &o).unwrap();
        assert_eq!(plan.tasks[0].rules.quorum, Some(Quorum { agree: 2, of: 3 }));
    }
}
