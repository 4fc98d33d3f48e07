//! The owner's policy as people write it, in JSON, YAML and the configuration file.
//!
//! ```toml
//! [policy]
//! utc_offset_min = 60
//! groups.friends = ["key_…"]
//!
//! [[policy.rules]]
//! name = "friends"
//! who = { group = "friends" }
//! allow = { at_once = 8 }
//!
//! [[policy.rules]]
//! name = "everybody-by-night"
//! kinds = ["wasm"]
//! allow = { hours = "22:00-06:00", memory_bytes = 268435456, jobs_a_day = 100 }
//!
//! [[policy.rules]]
//! name = "nobody-else"
//! deny = "ask me first"
//! ```

use remote_network_core::command::PolicyView;
use remote_network_core::id::PublicKey;
use remote_network_core::problem::Problem;
use remote_network_core::service::policy::{Allowance, Effect, Hours, Policy, Rule, Who};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDto {
    #[serde(default)]
    utc_offset_min: i32,
    #[serde(default)]
    groups: BTreeMap<String, BTreeSet<String>>,
    rules: Vec<RuleDto>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleDto {
    name: String,
    #[serde(default)]
    who: WhoDto,
    #[serde(default)]
    kinds: BTreeSet<String>,
    #[serde(default)]
    services: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    allow: Option<AllowanceDto>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deny: Option<String>,
}

#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WhoDto {
    #[default]
    Anyone,
    Peers(BTreeSet<String>),
    Group(String),
}

#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AllowanceDto {
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_once: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs_a_day: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_s_a_day: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_a_day: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hours: Option<String>,
}

/// The policy in force, and what was used of it today.
#[derive(Serialize)]
pub struct PolicyViewDto {
    policy: PolicyDto,
    today: Vec<SpentDto>,
}

#[derive(Serialize)]
struct SpentDto {
    peer: String,
    jobs: u64,
    cpu_ms: u64,
    bytes: u64,
}

impl From<&PolicyView> for PolicyViewDto {
    fn from(v: &PolicyView) -> Self {
        let spent = |(peer, s): &(PublicKey, remote_network_core::service::policy::Spent)| SpentDto {
            peer: peer.to_string(),
            jobs: s.jobs,
            cpu_ms: s.cpu_ms,
            bytes: s.bytes,
        };
        Self { policy: PolicyDto::from(&v.policy), today: v.today.iter().map(spent).collect() }
    }
}

impl From<&Policy> for PolicyDto {
    fn from(p: &Policy) -> Self {
        let names = |keys: &BTreeSet<PublicKey>| keys.iter().map(ToString::to_string).collect();
        let rule = |r: &Rule| {
            let (allow, deny) = match &r.effect {
                Effect::Allow(a) => (Some(AllowanceDto::from(a)), None),
                Effect::Deny(words) => (None, Some(words.clone())),
            };
            let who = match &r.who {
                Who::Anyone => WhoDto::Anyone,
                Who::Peers(keys) => WhoDto::Peers(names(keys)),
                Who::Group(name) => WhoDto::Group(name.clone()),
            };
            let (kinds, services) = (r.kinds.clone(), r.services.clone());
            RuleDto { name: r.name.clone(), who, kinds, services, allow, deny }
        };
        Self {
            utc_offset_min: p.utc_offset_min,
            groups: p.groups.iter().map(|(name, keys)| (name.clone(), names(keys))).collect(),
            rules: p.rules.iter().map(rule).collect(),
        }
    }
}

impl From<&Allowance> for AllowanceDto {
    fn from(a: &Allowance) -> Self {
        let clock = |min: u16| format!("{:02}:{:02}", min / 60, min % 60);
        Self {
            memory_bytes: a.memory_bytes,
            time_ms: a.time_ms,
            output_bytes: a.output_bytes,
            at_once: a.at_once,
            jobs_a_day: a.jobs_a_day,
            cpu_s_a_day: a.cpu_s_a_day,
            bytes_a_day: a.bytes_a_day,
            hours: a.hours.map(|h| format!("{}-{}", clock(h.from_min), clock(h.until_min))),
        }
    }
}

impl PolicyDto {
    /// The policy, or everything that is wrong with it, each with its place.
    pub fn into_policy(self) -> Result<Policy, Vec<Problem>> {
        let mut problems = Vec::new();
        let groups = self
            .groups
            .into_iter()
            .map(|(name, keys)| {
                let keys = self::keys(&keys, &format!("groups.{name}"), &mut problems);
                (name, keys)
            })
            .collect();
        let mut rules = Vec::with_capacity(self.rules.len());
        for (i, rule) in self.rules.into_iter().enumerate() {
            rules.extend(rule.into_rule(&format!("rules[{i}]"), &mut problems));
        }
        let policy = Policy { groups, rules, utc_offset_min: self.utc_offset_min };
        if problems.is_empty() {
            problems = policy.faults();
        }
        if problems.is_empty() { Ok(policy) } else { Err(problems) }
    }
}

impl RuleDto {
    fn into_rule(self, place: &str, problems: &mut Vec<Problem>) -> Option<Rule> {
        let who = match self.who {
            WhoDto::Anyone => Who::Anyone,
            WhoDto::Peers(names) => Who::Peers(keys(&names, &format!("{place}.who.peers"), problems)),
            WhoDto::Group(name) => Who::Group(name),
        };
        let effect = match (self.allow, self.deny) {
            (Some(allow), None) => Effect::Allow(allow.into_allowance(place, problems)?),
            (None, Some(words)) => Effect::Deny(words),
            (Some(_), Some(_)) | (None, None) => {
                say(problems, place.to_owned(), "a rule has either `allow` or `deny`");
                return None;
            }
        };
        Some(Rule { name: self.name, who, kinds: self.kinds, services: self.services, effect })
    }
}

impl AllowanceDto {
    fn into_allowance(self, place: &str, problems: &mut Vec<Problem>) -> Option<Allowance> {
        let hours = match self.hours.as_deref().map(hours_of) {
            None => None,
            Some(Some(hours)) => Some(hours),
            Some(None) => {
                say(problems, format!("{place}.allow.hours"), "hours are written like 22:00-06:00");
                return None;
            }
        };
        Some(Allowance {
            memory_bytes: self.memory_bytes,
            time_ms: self.time_ms,
            output_bytes: self.output_bytes,
            at_once: self.at_once,
            jobs_a_day: self.jobs_a_day,
            cpu_s_a_day: self.cpu_s_a_day,
            bytes_a_day: self.bytes_a_day,
            hours,
        })
    }
}

fn say(problems: &mut Vec<Problem>, place: String, reason: &str) {
    problems.push(Problem { place, reason: reason.to_owned() });
}

fn keys(names: &BTreeSet<String>, place: &str, problems: &mut Vec<Problem>) -> BTreeSet<PublicKey> {
    let mut keys = BTreeSet::new();
    for name in names {
        match name.parse() {
            Ok(key) => {
                keys.insert(key);
            }
            Err(e) => {
                let short: String = name.chars().take(60).collect();
                say(problems, place.to_owned(), &format!("`{}`: {e}", short.escape_debug()));
            }
        }
    }
    keys
}

/// `HH:MM-HH:MM`.
fn hours_of(text: &str) -> Option<Hours> {
    let minute = |text: &str| {
        let (h, m) = text.trim().split_once(':')?;
        let digits = |t: &str| t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
        if !digits(h) || !digits(m) {
            return None;
        }
        let (h, m): (u16, u16) = (h.parse().ok()?, m.parse().ok()?);
        (h < 24 && m < 60).then_some(h * 60 + m)
    };
    let (from, until) = text.split_once('-')?;
    Some(Hours { from_min: minute(from)?, until_min: minute(until)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use remote_network_core::id::Keypair;

    fn read(text: &str) -> Result<Policy, Vec<Problem>> {
        serde_json::from_str::<PolicyDto>(text).expect("JSON").into_policy()
    }

    #[test]
    fn a_policy_is_written_as_it_was_read() {
        let key = Keypair::from_seed(&[1; 32]).public();
        let text = format!(
            r#"{{"utc_offset_min": -90, "groups": {{"friends": ["{key}"]}}, "rules": [
                {{"name": "a", "who": {{"group": "friends"}}, "allow": {{"hours": "22:00-06:30", "at_once": 2}}}},
                {{"name": "b", "who": {{"peers": ["{key}"]}}, "kinds": ["wasm"], "deny": "no"}},
                {{"name": "c", "allow": {{}}}}]}}"#
        );
        let policy = read(&text).expect("good");
        let written = serde_json::to_string(&PolicyDto::from(&policy)).expect("written");
        assert_eq!(read(&written), Ok(policy.clone()));
        let Effect::Allow(a) = policy.rules[0].effect else { panic!("allows") };
        assert_eq!(a.hours, Some(Hours { from_min: 1_320, until_min: 390 }));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let places = |text: &str| read(text).unwrap_err().into_iter().map(|p| p.place).collect::<Vec<_>>();
        assert_eq!(places(r#"{"rules": [{"name": "a"}]}"#), ["rules[0]"]);
        assert_eq!(places(r#"{"rules": [{"name": "a", "allow": {}, "deny": ""}]}"#), ["rules[0]"]);
        for hours in ["22-6", "24:00-01:00", "1:00-02:00", "+1:00-02:00", "x"] {
            let text = format!(r#"{{"rules": [{{"name": "a", "allow": {{"hours": "{hours}"}}}}]}}"#);
            assert_eq!(places(&text), ["rules[0].allow.hours"], "{hours}");
        }
        let text =
            r#"{"groups": {"g": ["key_1"]}, "rules": [{"name": "a", "who": {"peers": ["x"]}, "deny": ""}]}"#;
        assert_eq!(places(text), ["groups.g", "rules[0].who.peers"]);
        assert_eq!(
            places(r#"{"rules": [{"name": "a", "who": {"group": "g"}, "deny": ""}]}"#),
            ["rules[0].who"]
        );
    }
}
