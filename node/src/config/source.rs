//! Where values come from: each source gives pairs of key and raw value with their place.

use super::keys::KEYS;
use super::{ENV_PREFIX, RESERVED};
use std::fmt;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Variables with our prefix that are no keys: read elsewhere.
const NOT_KEYS: &[&str] = &["config", "passphrase", "token"];

/// Keys with a flag of their own; the others are set with `--set KEY=VALUE`.
const FLAGS_OF_THEIR_OWN: &[&str] = &["data_dir", "log", "driver", "listen", "quic_port", "api_port"];

/// Where something was said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a file, at a line (from 1; 0: the file as a whole).
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// In an environment variable.
    Env(String),
    /// By a flag.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line: 0 } => write!(f, "{}", path.display()),
            Place::File { path, line } => write!(f, "{}:{line}", path.display()),
            Place::Env(name) => write!(f, "environment variable {name}"),
            Place::Flag(name) => f.write_str(name),
        }
    }
}

/// What is wrong with the configuration, where, and how to mend it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigProblem {
    /// Where.
    pub place: Place,
    /// What.
    pub what: String,
    /// The mend.
    pub mend: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.what, self.mend)
    }
}

impl std::error::Error for ConfigProblem {}

/// A value before its key has read it. Text from environment and flags is not yet anything in particular.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Raw {
    Text(String),
    String(String),
    Integer(i128),
    Boolean(bool),
    List(Vec<String>),
    Other(&'static str),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Raw::Text(t) | Raw::String(t) => write!(f, "{t:?}"),
            Raw::Integer(i) => write!(f, "{i}"),
            Raw::Boolean(b) => write!(f, "{b}"),
            Raw::List(l) => write!(f, "{l:?}"),
            Raw::Other(what) => f.write_str(what),
        }
    }
}

/// Somebody set a key.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) raw: Raw,
}

pub(super) fn from_toml(path: &Path, text: &str, given: &mut Vec<Given>, problems: &mut Vec<ConfigProblem>) {
    let place = |at: usize| {
        let line = text.get(..at).map_or(0, |before| before.matches('\n').count() + 1);
        Place::File { path: path.to_owned(), line }
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(e) => {
            return problems.push(ConfigProblem {
                place: place(e.span().map_or(0, |s| s.start)),
                what: format!("not TOML: {}", e.message()),
                mend: "write `key = value`, with text in \"quotes\"".into(),
            });
        }
    };
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let place = place(key.span().start);
        if key.get_ref() == super::policy::SECTION && matches!(value.get_ref(), DeValue::Table(_)) {
            continue;
        }
        given.push(Given { key: key.into_inner().into_owned(), place, raw: raw(value.into_inner()) });
    }
}

fn raw(value: DeValue<'_>) -> Raw {
    match value {
        DeValue::String(s) => Raw::String(s.into_owned()),
        DeValue::Integer(i) => i128::from_str_radix(i.as_str(), i.radix())
            .map_or(Raw::Other("a number too large to read"), Raw::Integer),
        DeValue::Boolean(b) => Raw::Boolean(b),
        DeValue::Float(_) => Raw::Other("a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
        DeValue::Array(items) => items
            .into_iter()
            .map(|item| match item.into_inner() {
                DeValue::String(s) => Some(s.into_owned()),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map_or(Raw::Other("a list with something else than text in it"), Raw::List),
    }
}

/// Variables that are keys, and those that nearly are: a misspelt one must not be silently without effect. Others with
/// the prefix belong to somebody else (orchestrators set `<SERVICE>_SERVICE_HOST` and the like on their own).
pub(super) fn from_env(env: impl IntoIterator<Item = (String, String)>, given: &mut Vec<Given>) {
    for (name, value) in env {
        let Some(key) = name.strip_prefix(ENV_PREFIX).map(str::to_lowercase) else { continue };
        let reserved = RESERVED.iter().any(|(reserved, _)| *reserved == key);
        if !NOT_KEYS.contains(&key.as_str()) && (reserved || suggestion(&key).is_some()) {
            given.push(Given { key, place: Place::Env(name), raw: Raw::Text(value) });
        }
    }
}

pub(super) fn from_flags(flags: impl IntoIterator<Item = (String, String)>, given: &mut Vec<Given>) {
    for (name, value) in flags {
        let key = name.trim_start_matches('-').replace('-', "_");
        let place = Place::Flag(if FLAGS_OF_THEIR_OWN.contains(&key.as_str()) {
            format!("--{}", key.replace('_', "-"))
        } else {
            format!("--set {key}")
        });
        given.push(Given { key, place, raw: Raw::Text(value) });
    }
}

/// The key somebody may have meant.
pub(super) fn suggestion(name: &str) -> Option<&'static str> {
    KEYS.iter()
        .map(|key| (strsim::damerau_levenshtein(name, key.name), key.name))
        .filter(|(distance, key)| *distance <= 1 + key.len() / 6)
        .min()
        .map(|(_, key)| key)
}
