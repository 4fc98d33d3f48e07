//! Any YAML or JSON as a tree that knows where its parts are written.
//!
//! One tree for both formats lets [`super::read`] tell every problem at once. Bounds against hostile text: length here,
//! depth, nodes and alias expansion in the parsers (serde-saphyr's budget, serde_json's recursion limit).

use super::{Format, Location, PROBLEMS_MAX, Problem, TEXT_BYTES_MAX};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;
use std::marker::PhantomData;

/// A value as written. `K` is what a mapping's keys are read as: JSON's keys cannot carry their location.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum RawOf<K> {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number. Never wanted; kept so that the error can say so.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    Seq(Vec<TreeOf<K>>),
    /// A mapping in written order, duplicates included.
    Map(Vec<(K, TreeOf<K>)>),
}

/// A value with located keys.
pub(super) type Raw = RawOf<Spanned<String>>;
/// A key and where it is written.
pub(super) type Key = Spanned<String>;
/// A value with located keys and where it is written.
pub(super) type Tree = TreeOf<Spanned<String>>;

impl Raw {
    /// What it is, for "expected …, found …".
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Raw::Null => "nothing",
            Raw::Bool(_) => "true or false",
            Raw::Int(_) => "a number",
            Raw::Float(_) => "a fractional number",
            Raw::Text(_) => "text",
            Raw::Seq(_) => "a list",
            Raw::Map(_) => "a mapping",
        }
    }
}

/// A value and where it is written.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct TreeOf<K>(Spanned<RawOf<K>>);

impl Tree {
    /// The value.
    pub(super) const fn raw(&self) -> &Raw {
        &self.0.value
    }

    /// Another value in its place.
    pub(super) fn with(&self, raw: Raw) -> Self {
        TreeOf(Spanned::new(raw, self.0.referenced, self.0.defined))
    }

    /// Where, when the format tells.
    pub(super) fn location(&self) -> Option<Location> {
        location(self.0.referenced)
    }
}

/// Where `at` is, unless unknown.
pub(super) fn location(at: serde_saphyr::Location) -> Option<Location> {
    let (line, column) = (u32::try_from(at.line()).ok()?, u32::try_from(at.column()).ok()?);
    (line > 0).then_some(Location { line, column })
}

/// Reads `text`.
pub(super) fn parse(text: &str, format: Format) -> Result<Tree, Problem> {
    if text.len() > TEXT_BYTES_MAX {
        let reason = format!("longer than {TEXT_BYTES_MAX} bytes; put large texts in files");
        return Err(Problem { place: String::new(), location: None, reason });
    }
    match format {
        Format::Yaml => {
            // YAML 1.2: `n`, `no` and `off` are words.
            let options = serde_saphyr::options! { strict_booleans: true };
            serde_saphyr::from_str_with_options(text, options).map_err(|e| {
                let at = e.location().and_then(location);
                syntax_problem(at, &e.without_snippet().to_string())
            })
        }
        Format::Json => {
            serde_json::from_str::<TreeOf<String>>(text).map(located).map_err(|e| json_problem(&e))
        }
    }
}

/// A tree whose keys have no location, for who expects one.
pub(super) fn located(tree: TreeOf<String>) -> Tree {
    let Spanned { value, referenced, defined } = tree.0;
    let value = match value {
        RawOf::Null => Raw::Null,
        RawOf::Bool(b) => Raw::Bool(b),
        RawOf::Int(n) => Raw::Int(n),
        RawOf::Float(f) => Raw::Float(f),
        RawOf::Text(text) => Raw::Text(text),
        RawOf::Seq(items) => Raw::Seq(items.into_iter().map(located).collect()),
        RawOf::Map(entries) => {
            let unknown = serde_saphyr::Location::UNKNOWN;
            let key = |key| Spanned::new(key, unknown, unknown);
            Raw::Map(entries.into_iter().map(|(k, v)| (key(k), located(v))).collect())
        }
    };
    TreeOf(Spanned::new(value, referenced, defined))
}

fn json_problem(e: &serde_json::Error) -> Problem {
    let at = match (u32::try_from(e.line()), u32::try_from(e.column())) {
        (Ok(line), Ok(column)) if line > 0 => Some(Location { line, column }),
        _ => None,
    };
    syntax_problem(at, &e.to_string())
}

/// The parser's words end in the position, which is told apart; multi-line words keep their first line.
fn syntax_problem(location: Option<Location>, words: &str) -> Problem {
    let first = words.lines().next().unwrap_or_default();
    let end = first.rfind(" at line ").unwrap_or(first.len());
    let first = first.get(..end).unwrap_or(first).chars().take(8 * PROBLEMS_MAX).collect::<String>();
    Problem { place: String::new(), location, reason: format!("not readable: {first}") }
}

impl<'de, K: Deserialize<'de>> Deserialize<'de> for TreeOf<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(TreeOf)
    }
}

impl<'de, K: Deserialize<'de>> Deserialize<'de> for RawOf<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor(PhantomData))
    }
}

struct RawVisitor<K>(PhantomData<K>);

impl<'de, K: Deserialize<'de>> Visitor<'de> for RawVisitor<K> {
    type Value = RawOf<K>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, true or false, a list or a mapping")
    }

    fn visit_unit<E: Error>(self) -> Result<RawOf<K>, E> {
        Ok(RawOf::Null)
    }

    fn visit_none<E: Error>(self) -> Result<RawOf<K>, E> {
        Ok(RawOf::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawOf<K>, D::Error> {
        RawOf::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<RawOf<K>, E> {
        Ok(RawOf::Bool(v))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<RawOf<K>, E> {
        Ok(RawOf::Int(v.into()))
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<RawOf<K>, E> {
        Ok(RawOf::Int(v.into()))
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<RawOf<K>, E> {
        Ok(RawOf::Float(v))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<RawOf<K>, E> {
        Ok(RawOf::Text(v.to_owned()))
    }

    fn visit_string<E: Error>(self, v: String) -> Result<RawOf<K>, E> {
        Ok(RawOf::Text(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawOf<K>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(RawOf::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawOf<K>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(RawOf::Map(entries))
    }
}
