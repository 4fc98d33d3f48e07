//! Time, retries, failure and choice, as people write them.

use super::{Fields, Reader, keys};
use crate::workflow_text::tree::{Raw, Tree};
use remote_network_core::id::Digest;
use remote_network_core::job::plan::RETRIES_MAX;
use remote_network_core::job::rules::{Join, OnFailure, Retry, RunRules, Test, When};
use remote_network_core::job::workflow::TaskSpec;
use remote_network_core::port::Port;

const WHEN_FORMS: &str = "a condition is `{task: T, is: succeeded}`, `{task: T, is: failed}`, `{task: T, code: N}`, \
     `{task: T, empty: PORT}` or `{task: T, port: PORT, equals: TEXT}`";

impl Reader {
    pub(super) fn run_rules(&mut self, fields: &Fields<'_>) -> RunRules {
        let mut rules = RunRules::default();
        if let Some(t) = fields.get("timeout") {
            rules.timeout_ms = self.duration_ms("timeout", t);
        }
        if let Some(t) = fields.get("on_failure") {
            let words = [("stop", OnFailure::Stop), ("continue", OnFailure::Continue)];
            rules.on_failure = self.one_of("on_failure", t, &words).unwrap_or_default();
        }
        rules
    }

    pub(super) fn task_rules(&mut self, place: &str, fields: &Fields<'_>, task: &mut TaskSpec) {
        if let Some(t) = fields.get("memory") {
            task.memory_bytes = self.size(&format!("{place}.memory"), t);
        }
        if let Some(t) = fields.get("retry") {
            task.rules.retry = self.retry(&format!("{place}.retry"), t).unwrap_or_default();
        }
        if let Some(t) = fields.get("queue") {
            task.rules.queue_ms = self.duration_ms(&format!("{place}.queue"), t);
        }
        if let Some(t) = fields.get("join") {
            let words = [("all", Join::All), ("any", Join::Any), ("always", Join::Always)];
            task.rules.join = self.one_of(&format!("{place}.join"), t, &words).unwrap_or_default();
        }
        if let Some(t) = fields.get("when") {
            let items = self.items(&format!("{place}.when"), t).unwrap_or_default();
            task.rules.when = items.into_iter().filter_map(|(at, t)| self.when(&at, t)).collect();
        }
    }

    fn retry(&mut self, place: &str, tree: &Tree) -> Option<Retry> {
        let fields = self.fields(place, tree, keys::RETRY)?;
        let at = |key: &str| format!("{place}.{key}");
        let mut retry = Retry::default();
        if let Some(t) = fields.get("resource") {
            retry.resource = self.attempts(&at("resource"), t);
        }
        if let Some(t) = fields.get("infra") {
            retry.infra = self.attempts(&at("infra"), t);
        }
        if let Some(t) = fields.get("pause") {
            retry.pause_ms = self.duration_ms(&at("pause"), t);
        }
        if let Some(t) = fields.get("pause_max") {
            retry.pause_max_ms = self.duration_ms(&at("pause_max"), t);
        }
        if let Some(t) = fields.get("memory_max") {
            let service = matches!(t.raw(), Raw::Text(text) if text == "service");
            retry.memory_max = if service { Some(0) } else { self.size(&at("memory_max"), t) };
        }
        Some(retry)
    }

    fn attempts(&mut self, place: &str, tree: &Tree) -> Option<u32> {
        let n = self.number(place, tree, u64::from(RETRIES_MAX))?;
        u32::try_from(n).ok()
    }

    fn when(&mut self, place: &str, tree: &Tree) -> Option<When<String>> {
        let fields = self.fields(place, tree, keys::WHEN)?;
        let Some(task) = fields.get("task") else {
            self.say(place, tree.location(), format!("names no task; {WHEN_FORMS}"));
            return None;
        };
        let task = self.text(&format!("{place}.task"), task)?;
        let keys: Vec<&str> = fields.keys().copied().filter(|k| *k != "task").collect();
        let test = match keys.as_slice() {
            ["is"] => {
                let words = [("succeeded", Test::Succeeded), ("failed", Test::Failed)];
                self.one_of(&format!("{place}.is"), fields["is"], &words)?
            }
            ["code"] => Test::Code(self.exit_code(&format!("{place}.code"), fields["code"])?),
            ["empty"] => Test::Empty(self.output(&format!("{place}.empty"), fields["empty"])?),
            ["equals", "port"] => {
                let port = self.output(&format!("{place}.port"), fields["port"])?;
                let text = self.scalar(&format!("{place}.equals"), fields["equals"])?;
                Test::Is(port, Digest::of(text.as_bytes()))
            }
            ["digest", "port"] => {
                let port = self.output(&format!("{place}.port"), fields["port"])?;
                let at = format!("{place}.digest");
                match self.text(&at, fields["digest"])?.parse() {
                    Ok(digest) => Test::Is(port, digest),
                    Err(e) => {
                        self.say(&at, fields["digest"].location(), format!("is no digest: {e}"));
                        return None;
                    }
                }
            }
            _ => {
                self.say(place, tree.location(), format!("is not one question; {WHEN_FORMS}"));
                return None;
            }
        };
        Some(When { task, test })
    }

    fn exit_code(&mut self, place: &str, tree: &Tree) -> Option<i32> {
        let found = match tree.raw() {
            Raw::Int(n) => i32::try_from(*n).ok(),
            Raw::Null | Raw::Bool(_) | Raw::Float(_) | Raw::Text(_) | Raw::Seq(_) | Raw::Map(_) => None,
        };
        if found.is_none() {
            self.say(place, tree.location(), "must be an exit code: a whole number of 32 bits");
        }
        found
    }

    fn output(&mut self, place: &str, tree: &Tree) -> Option<Port> {
        let text = self.text(place, tree)?;
        let port = match text.as_str() {
            "stdout" => Ok(Port::Stdout),
            "stderr" => Ok(Port::Stderr),
            "stdin" => Err("`stdin` takes data; did you mean `stdout`?".to_owned()),
            mount => super::mount_port(mount),
        };
        port.map_err(|reason| self.say(place, tree.location(), reason)).ok()
    }

    fn one_of<T: Clone>(&mut self, place: &str, tree: &Tree, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(place, tree)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| value.clone());
        if found.is_none() {
            let all: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let reason = format!("must be {}, found `{}`", all.join(" or "), super::cut(&text));
            self.say(place, tree.location(), reason);
        }
        found
    }

    fn size(&mut self, place: &str, tree: &Tree) -> Option<u64> {
        let found = match tree.raw() {
            Raw::Text(text) => parse_bytes(text),
            Raw::Null | Raw::Bool(_) | Raw::Int(_) | Raw::Float(_) | Raw::Seq(_) | Raw::Map(_) => None,
        };
        if found.is_none() {
            self.say(place, tree.location(), "must be a size with its unit: `512KiB`, `64MiB` or `2GiB`");
        }
        found
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(unit_at)?;
    let shift = match unit.trim() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|n| *n > 0 && i64::try_from(*n).is_ok())
}
