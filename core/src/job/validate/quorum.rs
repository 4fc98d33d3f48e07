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
