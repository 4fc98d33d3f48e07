//! A policy in the journal, and what is wrong with one.
//!
//! | key | value |
//! |---|---|
//! | `g` | groups, `{n, p}` each: name and keys |
//! | `o` | minutes east of UTC, and [`OFFSET_MAX_MIN`]; absent when UTC |
//! | `r` | rules, `{a \| x, k?, n, p? \| g?, s?}` each: allowance or words, kinds, name, keys or group, services |
//!
//! An allowance has `m`, `t`, `b` (most memory, time, output), `o` (at once), `j`, `c`, `y` (jobs, seconds, bytes a day) and
//! `h` (two minutes of the day), each absent when not limited.

use super::{
    Allowance, DENY_WORDS_MAX, Effect, GROUPS_MAX, Hours, NAMED_MAX, OFFSET_MAX_MIN, PEERS_MAX, Policy,
    RULES_MAX, Rule, Who,
};
use crate::codec::{DecodeError, Dict, Value};
use crate::id::PublicKey;
use crate::problem::Problem;
use crate::service::{NAME_MAX, valid_name};
use std::collections::{BTreeMap, BTreeSet};

/// Largest policy in its stored form: what 64 rules of the usual size and some groups need many times.
pub const POLICY_BYTES_MAX: usize = 64 << 10;

impl Policy {
    /// Canonical bytes, for the journal.
    pub fn encode(&self) -> Vec<u8> {
        let keys = |keys: &BTreeSet<PublicKey>| keys.iter().map(Value::from).collect::<Vec<_>>();
        let group = |(name, peers): (&String, &BTreeSet<PublicKey>)| {
            Value::from(Dict::new().with("n", name.as_str()).with("p", keys(peers)))
        };
        let rule = |r: &Rule| {
            let d = Dict::new().with("n", r.name.as_str());
            let d = match &r.who {
                Who::Anyone => d,
                Who::Peers(peers) => d.with("p", keys(peers)),
                Who::Group(name) => d.with("g", name.as_str()),
            };
            let d = match &r.effect {
                Effect::Allow(a) => d.with("a", allowance(a)),
                Effect::Deny(words) => d.with("x", words.as_str()),
            };
            Value::from(d.with_some("k", words(&r.kinds)).with_some("s", words(&r.services)))
        };
        let offset = u64::try_from(self.utc_offset_min + OFFSET_MAX_MIN).unwrap_or_default();
        Dict::new()
            .with("g", self.groups.iter().map(group).collect::<Vec<_>>())
            .with_some("o", (self.utc_offset_min != 0).then_some(offset))
            .with("r", self.rules.iter().map(rule).collect::<Vec<_>>())
            .with("v", 1u64)
            .encode()
    }

    /// Reads what [`Policy::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Policy, DecodeError> {
        let d = Dict::decode(bytes, POLICY_BYTES_MAX)?;
        match d.u64("v")? {
            1 => {}
            number => return Err(DecodeError::Unknown { what: "policy version", number }),
        }
        let mut groups = BTreeMap::new();
        for g in d.list("g", GROUPS_MAX)? {
            let g = dict(g, "g")?;
            groups.insert(g.text("n", NAME_MAX)?, keys(g)?);
        }
        let rules = d.list("r", RULES_MAX)?.iter().map(|r| rule_of(dict(r, "r")?));
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        let utc_offset_min = match d.get("o") {
            None => 0,
            Some(_) => i32::try_from(d.u32("o")?).unwrap_or(i32::MAX).saturating_sub(OFFSET_MAX_MIN),
        };
        Ok(Policy { groups, rules, utc_offset_min })
    }

    /// Everything that is wrong with it, each with its place; empty when it can be used.
    pub fn faults(&self) -> Vec<Problem> {
        let mut faults = Vec::new();
        let mut say = |place: String, reason: String| faults.push(Problem { place, reason });
        if self.utc_offset_min.abs() > OFFSET_MAX_MIN {
            say(
                "utc_offset_min".into(),
                format!("no clock is further from UTC than {OFFSET_MAX_MIN} minutes"),
            );
        }
        if self.groups.len() > GROUPS_MAX {
            say("groups".into(), format!("{} groups, at most {GROUPS_MAX}", self.groups.len()));
        }
        for (name, peers) in &self.groups {
            if !valid_name(name) {
                say(format!("groups.{name}"), "a group's name has 1 to 64 of a-z, 0-9, `-`, `_`, `.`".into());
            }
            if peers.len() > PEERS_MAX {
                say(format!("groups.{name}"), format!("{} peers, at most {PEERS_MAX}", peers.len()));
            }
        }
        if self.rules.len() > RULES_MAX {
            say("rules".into(), format!("{} rules, at most {RULES_MAX}", self.rules.len()));
        }
        let mut names = BTreeSet::new();
        for (i, rule) in self.rules.iter().enumerate() {
            let place = format!("rules[{i}]");
            if !names.insert(rule.name.as_str()) {
                say(
                    format!("{place}.name"),
                    format!("`{}` is the name of another rule; refusals name rules", rule.name),
                );
            }
            for (field, reason) in self.rule_faults(rule) {
                say(format!("{place}.{field}"), reason);
            }
        }
        if faults.is_empty() && self.encode().len() > POLICY_BYTES_MAX {
            faults.push(Problem {
                place: "policy".into(),
                reason: format!("larger than {POLICY_BYTES_MAX} bytes; use groups instead of long lists"),
            });
        }
        faults
    }

    fn rule_faults(&self, rule: &Rule) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !valid_name(&rule.name) {
            faults.push(("name", "a rule's name has 1 to 64 of a-z, 0-9, `-`, `_`, `.`".to_owned()));
        }
        match &rule.who {
            Who::Anyone => {}
            Who::Peers(peers) if peers.is_empty() || peers.len() > PEERS_MAX => {
                faults.push(("who", format!("1 to {PEERS_MAX} peers")));
            }
            Who::Peers(_) => {}
            Who::Group(name) if self.groups.contains_key(name) => {}
            Who::Group(name) => {
                let known: Vec<&str> = self.groups.keys().map(String::as_str).collect();
                faults.push(("who", format!("there is no group `{name}`; groups: {}", known.join(", "))));
            }
        }
        for (field, named) in [("kinds", &rule.kinds), ("services", &rule.services)] {
            if named.len() > NAMED_MAX || named.iter().any(|n| !valid_name(n)) {
                faults.push((
                    field,
                    format!("at most {NAMED_MAX}, each of 1 to 64 of a-z, 0-9, `-`, `_`, `.`"),
                ));
            }
        }
        match &rule.effect {
            Effect::Deny(words) if words.len() > DENY_WORDS_MAX || words.chars().any(char::is_control) => {
                faults.push(("deny", format!("at most {DENY_WORDS_MAX} bytes without control characters")));
            }
            Effect::Deny(_) => {}
            Effect::Allow(a) => {
                if a.hours.is_some_and(|h| h.from_min >= 1_440 || h.until_min >= 1_440) {
                    faults.push(("allow.hours", "minutes of a day are 0 to 1439".to_owned()));
                }
            }
        }
        faults
    }
}

fn words(named: &BTreeSet<String>) -> Option<Vec<Value>> {
    (!named.is_empty()).then(|| named.iter().map(|n| Value::from(n.as_str())).collect())
}

fn allowance(a: &Allowance) -> Dict {
    let minutes = |h: Hours| vec![Value::from(u32::from(h.from_min)), Value::from(u32::from(h.until_min))];
    Dict::new()
        .with_some("b", a.output_bytes)
        .with_some("c", a.cpu_s_a_day)
        .with_some("h", a.hours.map(minutes))
        .with_some("j", a.jobs_a_day)
        .with_some("m", a.memory_bytes)
        .with_some("o", a.at_once)
        .with_some("t", a.time_ms)
        .with_some("y", a.bytes_a_day)
}

fn dict<'a>(v: &'a Value, key: &'static str) -> Result<&'a Dict, DecodeError> {
    match v {
        Value::Dict(d) => Ok(d),
        Value::Int(_) | Value::Bytes(_) | Value::List(_) => {
            Err(DecodeError::invalid(key, "not a dictionary"))
        }
    }
}

fn keys(d: &Dict) -> Result<BTreeSet<PublicKey>, DecodeError> {
    let key = |v: &Value| {
        PublicKey::from_slice(v.as_bytes().unwrap_or_default())
            .map_err(|e| DecodeError::invalid("p", e.to_string()))
    };
    d.list("p", PEERS_MAX)?.iter().map(key).collect()
}

fn named(d: &Dict, key: &'static str) -> Result<BTreeSet<String>, DecodeError> {
    if d.get(key).is_none() {
        return Ok(BTreeSet::new());
    }
    let text = |v: &Value| {
        let text = v.as_bytes().and_then(|b| std::str::from_utf8(b).ok()).filter(|t| valid_name(t));
        text.map(str::to_owned).ok_or_else(|| DecodeError::invalid(key, "not a name"))
    };
    d.list(key, NAMED_MAX)?.iter().map(text).collect()
}

fn rule_of(d: &Dict) -> Result<Rule, DecodeError> {
    let who = match (d.get("p"), d.get("g")) {
        (None, None) => Who::Anyone,
        (Some(_), None) => Who::Peers(keys(d)?),
        (None, Some(_)) => Who::Group(d.text("g", NAME_MAX)?),
        (Some(_), Some(_)) => return Err(DecodeError::invalid("g", "beside keys")),
    };
    let effect = match (d.get("a"), d.get("x")) {
        (Some(_), None) => Effect::Allow(allowance_of(d.dict("a")?)?),
        (None, Some(_)) => Effect::Deny(d.text("x", DENY_WORDS_MAX)?),
        (None, None) => return Err(DecodeError::Missing("a")),
        (Some(_), Some(_)) => return Err(DecodeError::invalid("x", "beside an allowance")),
    };
    Ok(Rule { name: d.text("n", NAME_MAX)?, who, kinds: named(d, "k")?, services: named(d, "s")?, effect })
}

fn allowance_of(d: &Dict) -> Result<Allowance, DecodeError> {
    let hours = match d.get("h") {
        None => None,
        Some(_) => {
            let minute = |v: &Value| v.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n < 1_440);
            match d.list("h", 2)? {
                [from, until] => match (minute(from), minute(until)) {
                    (Some(from_min), Some(until_min)) => Some(Hours { from_min, until_min }),
                    _ => return Err(DecodeError::invalid("h", "minutes of a day are 0 to 1439")),
                },
                _ => return Err(DecodeError::invalid("h", "two minutes expected")),
            }
        }
    };
    Ok(Allowance {
        memory_bytes: d.u64_opt("m")?,
        time_ms: d.u64_opt("t")?,
        output_bytes: d.u64_opt("b")?,
        at_once: d.u64_opt("o")?,
        jobs_a_day: d.u64_opt("j")?,
        cpu_s_a_day: d.u64_opt("c")?,
        bytes_a_day: d.u64_opt("y")?,
        hours,
    })
}
