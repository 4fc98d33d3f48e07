//! How many executors must agree, and how often a task is done again to be compared, as people write it.

use super::{Fields, Reader, keys};
use crate::workflow_text::tree::{Raw, Tree};
use remote_network_core::job::rules::{AUDIT_PPM_MAX, QUORUM_MAX, Quorum};
use remote_network_core::job::workflow::TaskSpec;

const QUORUM_FORMS: &str = "must be `2 of 3` or `{agree: 2, of: 3}`";
const AUDIT_FORMS: &str = "must be a share of all times, above `0%` and at most `100%`: `5%`, `0.25%`";

impl Reader {
    pub(super) fn agreement(&mut self, place: &str, fields: &Fields<'_>, task: &mut TaskSpec) {
        if let Some(t) = fields.get("quorum") {
            task.rules.quorum = self.quorum(&format!("{place}.quorum"), t);
        }
        if let Some(t) = fields.get("audit") {
            let found = match t.raw() {
                Raw::Text(text) => ppm_of(text),
                Raw::Null | Raw::Bool(_) | Raw::Int(_) | Raw::Float(_) | Raw::Seq(_) | Raw::Map(_) => None,
            };
            if found.is_none() {
                self.say(&format!("{place}.audit"), t.location(), AUDIT_FORMS);
            }
            task.rules.audit_ppm = found;
        }
    }

    fn quorum(&mut self, place: &str, tree: &Tree) -> Option<Quorum> {
        let most = u64::from(QUORUM_MAX);
        match tree.raw() {
            Raw::Text(text) => {
                let found = quorum_of(text);
                if found.is_none() {
                    self.say(place, tree.location(), QUORUM_FORMS);
                }
                found
            }
            Raw::Map(_) => {
                let fields = self.fields(place, tree, keys::QUORUM)?;
                let (Some(agree), Some(of)) = (fields.get("agree"), fields.get("of")) else {
                    self.say(place, tree.location(), QUORUM_FORMS);
                    return None;
                };
                let agree = self.number(&format!("{place}.agree"), agree, most)?;
                let of = self.number(&format!("{place}.of"), of, most)?;
                Some(Quorum { agree: u32::try_from(agree).ok()?, of: u32::try_from(of).ok()? })
            }
            Raw::Null | Raw::Bool(_) | Raw::Int(_) | Raw::Float(_) | Raw::Seq(_) => {
                self.say(place, tree.location(), QUORUM_FORMS);
                None
            }
        }
    }
}

fn quorum_of(text: &str) -> Option<Quorum> {
    let (agree, of) = text.split_once(" of ")?;
    Some(Quorum { agree: agree.trim().parse().ok()?, of: of.trim().parse().ok()? })
}

/// Millionths of `5%` or `0.25%`, exactly.
fn ppm_of(text: &str) -> Option<u32> {
    let percent = text.strip_suffix('%')?.trim();
    let (whole, rest) = percent.split_once('.').unwrap_or((percent, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(rest) || rest.len() > 4 {
        return None;
    }
    let whole: u32 = whole.parse().ok().filter(|n| *n <= 100)?;
    let rest: u32 = format!("{rest:0<4}").parse().ok()?;
    Some(whole * 10_000 + rest).filter(|ppm| (1..=AUDIT_PPM_MAX).contains(ppm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_exactly_and_nothing_else_passes_for_one() {
        let read: Vec<Option<u32>> =
            ["5%", "0.25%", "100%", "0.0001 %", "12.5%"].into_iter().map(ppm_of).collect();
        assert_eq!(read, [Some(50_000), Some(2_500), Some(1_000_000), Some(1), Some(125_000)]);
        for wrong in ["5", "0%", "100.1%", "101%", "-5%", "%", ".5%", "1e1%", "0.00001%", "+5%"] {
            assert_eq!(ppm_of(wrong), None, "{wrong}");
        }
    }
}
