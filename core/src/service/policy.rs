//! The owner's policy: who may run what here, with how much, how often, and when.
//!
//! A list of rules. The first whose *who*, *kinds* and *services* all fit a job decides; where none does, everything is as if
//! there were no policy: a service's visibility and `accept_jobs` say who may run it. Whether a rule fits depends only on who
//! asks for what, never on amounts or hours: a rule that fits and whose amounts are used up refuses, and later rules are not
//! asked. So one can read from the list who gets what, and a refusal can name the one rule to talk about.
//!
//! This node's own jobs pass no policy. What a service itself allows stays its upper bound; a policy only takes away.
//!
//! Pure: the use of the day comes in with the question. Days and hours are those of the owner's clock, which is UTC and
//! [`Policy::utc_offset_min`] minutes.

mod encoding;
mod ledger;

pub use encoding::POLICY_BYTES_MAX;
pub use ledger::{LEDGER_MAX, Ledger, Spent};

use super::Service;
use crate::id::{Digest, PublicKey};
use crate::port::EngineLimits;
use crate::time::UnixTime;
use std::collections::{BTreeMap, BTreeSet};

/// Most rules of a policy.
pub const RULES_MAX: usize = 64;
/// Most groups of peers of a policy.
pub const GROUPS_MAX: usize = 16;
/// Most peers of a group or of a rule.
pub const PEERS_MAX: usize = 256;
/// Most kinds or services that a rule names.
pub const NAMED_MAX: usize = 64;
/// Longest words of a rule that denies, in bytes.
pub const DENY_WORDS_MAX: usize = 160;
/// Furthest from UTC that a clock is, in minutes.
pub const OFFSET_MAX_MIN: i32 = 14 * 60;

const DAY_MIN: u64 = 24 * 60;

/// A policy. The default one has no rule.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// Peers by the label that the owner gave them.
    pub groups: BTreeMap<String, BTreeSet<PublicKey>>,
    /// Rules, in the order in which they are asked.
    pub rules: Vec<Rule>,
    /// The owner's clock, in minutes east of UTC.
    pub utc_offset_min: i32,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// What refusals call it; unique.
    pub name: String,
    /// Whose jobs it is about.
    pub who: Who,
    /// Kinds of services it is about, e.g. `wasm`; empty: all.
    pub kinds: BTreeSet<String>,
    /// Services it is about, by name or by id (64 hex digits); empty: all.
    pub services: BTreeSet<String>,
    /// What it says.
    pub effect: Effect,
}

/// Whose jobs a rule is about.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Who {
    /// Everybody's.
    #[default]
    Anyone,
    /// Those of these peers.
    Peers(BTreeSet<PublicKey>),
    /// Those of the peers of a group.
    Group(String),
}

/// What a rule says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Within this.
    Allow(Allowance),
    /// No, in these words.
    Deny(String),
}

/// Within what a job is allowed. What is absent is not limited by the rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Allowance {
    /// Most memory a job may ask for, in bytes.
    pub memory_bytes: Option<u64>,
    /// Most time a job may ask for, in milliseconds.
    pub time_ms: Option<u64>,
    /// Largest output a job may ask for, in bytes.
    pub output_bytes: Option<u64>,
    /// Unfinished jobs of one requester, whichever rule let them in.
    pub at_once: Option<u64>,
    /// Jobs of one requester in a day.
    pub jobs_a_day: Option<u64>,
    /// Seconds of processor time of one requester in a day. Told when a job ends, so that what runs may go beyond.
    pub cpu_s_a_day: Option<u64>,
    /// Bytes into and out of jobs of one requester in a day; those out of one are told when it ends.
    pub bytes_a_day: Option<u64>,
    /// Hours of the day.
    pub hours: Option<Hours>,
}

/// From one minute of the day to another, exclusive; over midnight when the second is smaller. Equal ones mean the whole day.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Hours {
    /// First minute, 0 to 1439.
    pub from_min: u16,
    /// The minute after the last, 0 to 1439.
    pub until_min: u16,
}

impl Hours {
    fn contain(self, minute: u64) -> bool {
        let (from, until) = (u64::from(self.from_min), u64::from(self.until_min));
        if from < until { (from..until).contains(&minute) } else { minute >= from || minute < until }
    }
}

/// A job that a peer asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Who.
    pub requester: &'a PublicKey,
    /// What.
    pub service: &'a Service,
    /// Its id.
    pub id: &'a Digest,
    /// Within what.
    pub limits: EngineLimits,
    /// Bytes of its inputs.
    pub input_bytes: u64,
    /// Unfinished jobs that the requester has here.
    pub unfinished: u64,
    /// What it has used today.
    pub spent: Spent,
    /// When.
    pub now: UnixTime,
}

/// What the policy says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision<'a> {
    /// No rule is about it.
    Usual,
    /// This rule lets it in.
    Allowed(&'a Rule),
    /// This rule does not.
    Refused {
        /// Which.
        rule: &'a Rule,
        /// Why: words for people, which name the rule.
        why: String,
        /// Whether the same may be tried again in a moment.
        soon: bool,
    },
}

impl Policy {
    /// What it says to a job.
    pub fn decide(&self, asked: &Asked<'_>) -> Decision<'_> {
        let Some(rule) = self.rules.iter().find(|r| self.fits(r, asked)) else { return Decision::Usual };
        let refused = |why: String, soon: bool| Decision::Refused {
            rule,
            why: format!("rule `{}`: {why}", rule.name),
            soon,
        };
        match &rule.effect {
            Effect::Deny(words) if words.is_empty() => refused("not allowed here".to_owned(), false),
            Effect::Deny(words) => refused(words.clone(), false),
            Effect::Allow(within) => match self.exceeded(within, asked) {
                Some((why, soon)) => refused(why, soon),
                None => Decision::Allowed(rule),
            },
        }
    }

    /// Whether any rule counts by the day: else no book need be kept.
    pub fn counts_days(&self) -> bool {
        self.rules.iter().any(|r| match &r.effect {
            Effect::Allow(a) => a.jobs_a_day.or(a.cpu_s_a_day).or(a.bytes_a_day).is_some(),
            Effect::Deny(_) => false,
        })
    }

    /// The day on the owner's clock, counted from 1970.
    pub fn day(&self, now: UnixTime) -> u64 {
        self.minutes(now) / DAY_MIN
    }

    fn minutes(&self, now: UnixTime) -> u64 {
        (now.as_secs() / 60).saturating_add_signed(i64::from(self.utc_offset_min))
    }

    fn fits(&self, rule: &Rule, asked: &Asked<'_>) -> bool {
        let whose = match &rule.who {
            Who::Anyone => true,
            Who::Peers(peers) => peers.contains(asked.requester),
            Who::Group(name) => self.groups.get(name).is_some_and(|g| g.contains(asked.requester)),
        };
        let names = |s: &String| *s == asked.service.name || *s == asked.id.to_string();
        whose
            && (rule.kinds.is_empty() || rule.kinds.contains(asked.service.program.kind()))
            && (rule.services.is_empty() || rule.services.iter().any(names))
    }

    /// The first amount that a job goes beyond, and whether that passes soon.
    fn exceeded(&self, a: &Allowance, asked: &Asked<'_>) -> Option<(String, bool)> {
        let over = |max: Option<u64>, n: u64| max.filter(|max| n > *max);
        if let Some(hours) = a.hours
            && !hours.contain(self.minutes(asked.now) % DAY_MIN)
        {
            return Some((format!("jobs are taken {} only", self.hours_text(hours)), false));
        }
        if let Some(max) = over(a.memory_bytes, asked.limits.memory_bytes) {
            return Some((
                format!("at most {max} bytes of memory, {} asked for", asked.limits.memory_bytes),
                false,
            ));
        }
        if let Some(max) = over(a.time_ms, asked.limits.time_ms) {
            return Some((format!("at most {max} ms, {} asked for", asked.limits.time_ms), false));
        }
        if let Some(max) = over(a.output_bytes, asked.limits.output_bytes) {
            return Some((
                format!("at most {max} bytes of an output, {} asked for", asked.limits.output_bytes),
                false,
            ));
        }
        if let Some(max) = over(a.jobs_a_day, asked.spent.jobs.saturating_add(1)) {
            return Some((format!("{max} jobs a day, and they are used up"), false));
        }
        if let Some(max) = a.cpu_s_a_day.filter(|max| asked.spent.cpu_ms >= max.saturating_mul(1_000)) {
            return Some((format!("{max} seconds of processor time a day, and they are used up"), false));
        }
        if let Some(max) = over(a.bytes_a_day, asked.spent.bytes.saturating_add(asked.input_bytes)) {
            return Some((format!("{max} bytes a day, and this would be more"), false));
        }
        let max = over(a.at_once, asked.unfinished.saturating_add(1))?;
        Some((format!("{max} at once, and as many are not finished"), true))
    }

    fn hours_text(&self, h: Hours) -> String {
        let clock = |min: u16| format!("{:02}:{:02}", min / 60, min % 60);
        let east = self.utc_offset_min;
        let sign = if east < 0 { '-' } else { '+' };
        let zone = if east == 0 {
            String::new()
        } else {
            format!("{sign}{:02}:{:02}", east.abs() / 60, east.abs() % 60)
        };
        format!("from {} until {} (UTC{zone})", clock(h.from_min), clock(h.until_min))
    }
}

#[cfg(test)]
mod tests;
