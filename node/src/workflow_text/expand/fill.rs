//! Values in place of `${name}`. What was put in is not looked at again, so a value may hold anything.

use super::super::keys;
use super::super::params::{INDEX, Value};
use super::super::read::{Reader, cut, suggestion};
use super::super::tree::{Raw, Tree};
use super::lists::Item;
use std::collections::BTreeMap;

/// What each value costs beside its text: its place in lists and mappings.
const VALUE_BYTES: usize = 16;

/// The names that may stand in `${…}`.
#[derive(Clone)]
pub(super) struct Scope<'v> {
    params: &'v BTreeMap<String, Value>,
    item: BTreeMap<String, Value>,
}

impl<'v> Scope<'v> {
    pub(super) const fn new(params: &'v BTreeMap<String, Value>) -> Self {
        Self { params, item: BTreeMap::new() }
    }

    /// The same names, and those of an item.
    pub(super) fn with_item(&self, called: &str, item: &Item, index: usize) -> Self {
        let mut names = BTreeMap::from([(INDEX.to_owned(), Value::One(index.to_string()))]);
        match item {
            Item::One(text) => {
                names.insert(called.to_owned(), Value::One(text.clone()));
            }
            Item::Fields(fields) => {
                names.extend(fields.iter().map(|(k, v)| (format!("{called}.{k}"), Value::One(v.clone()))));
            }
        }
        Self { params: self.params, item: names }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.params.contains_key(name)
    }

    pub(super) fn get(&self, name: &str) -> Result<&Value, String> {
        self.item.get(name).or_else(|| self.params.get(name)).ok_or_else(|| {
            let known = self.item.keys().chain(self.params.keys()).map(String::as_str);
            let hint = suggestion(name, known);
            let none =
                if self.item.is_empty() && self.params.is_empty() { "; `params:` declares them" } else { "" };
            format!("there is no parameter `{}`{hint}{none}; for the text itself write `$${{`", cut(name))
        })
    }
}

/// Puts values in, and counts what that makes.
pub(super) struct Filler<'r> {
    /// Takes the problems.
    pub reader: &'r mut Reader,
    bytes_left: usize,
    full: bool,
}

impl<'r> Filler<'r> {
    pub(super) const fn new(reader: &'r mut Reader, bytes_max: usize) -> Self {
        Self { reader, bytes_left: bytes_max, full: false }
    }

    /// Whether so much more fits; says once that it does not.
    pub(super) fn room(&mut self, place: &str, tree: &Tree, bytes: usize) -> bool {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => self.bytes_left = left,
            None if !self.full => {
                self.full = true;
                self.bytes_left = 0;
                let max = super::WRITTEN_OUT_BYTES_MAX;
                let reason =
                    format!("with parameters and lists written out, the workflow is larger than {max} bytes");
                self.reader.say(place, tree.location(), reason);
            }
            None => {}
        }
        !self.full
    }

    /// The same tree with values in all its texts. `number`: a number is wanted here.
    pub(super) fn fill(&mut self, place: &str, tree: &Tree, number: bool, scope: &Scope<'_>) -> Tree {
        if !self.room(place, tree, VALUE_BYTES) {
            return tree.clone();
        }
        match tree.raw() {
            Raw::Null | Raw::Bool(_) | Raw::Int(_) | Raw::Float(_) => tree.clone(),
            Raw::Text(text) => self.text(place, tree, text, number, scope),
            Raw::Seq(items) => {
                let filled = items.iter().enumerate();
                let filled = filled.map(|(i, t)| self.fill(&format!("{place}[{i}]"), t, false, scope));
                tree.with(Raw::Seq(filled.collect()))
            }
            Raw::Map(entries) => {
                if !self.room(place, tree, entries.iter().map(|(key, _)| key.value.len()).sum()) {
                    return tree.clone();
                }
                let filled = entries.iter().map(|(key, value)| {
                    let at = format!("{place}.{}", cut(&key.value));
                    (key.clone(), self.fill(&at, value, keys::is_number(&key.value), scope))
                });
                tree.with(Raw::Map(filled.collect()))
            }
        }
    }

    fn text(&mut self, place: &str, tree: &Tree, text: &str, number: bool, scope: &Scope<'_>) -> Tree {
        let filled = match reference(text) {
            Some(name) => scope.get(name).cloned(),
            None => self.mixed(place, tree, text, scope).map(Value::One),
        };
        let value = match filled {
            Ok(value) => value,
            Err(reason) => {
                if !self.full {
                    self.reader.say(place, tree.location(), reason);
                }
                return tree.clone();
            }
        };
        match value {
            Value::Many(items) => {
                let bytes = items.iter().map(|i| i.len() + VALUE_BYTES).sum();
                if !self.room(place, tree, bytes) {
                    return tree.clone();
                }
                tree.with(Raw::Seq(items.into_iter().map(|i| tree.with(Raw::Text(i))).collect()))
            }
            Value::One(one) => {
                if !self.room(place, tree, one.len()) {
                    return tree.clone();
                }
                let int = one
                    .parse::<i128>()
                    .ok()
                    .filter(|n| number && reference(text).is_some() && n.to_string() == one);
                tree.with(int.map_or(Raw::Text(one), Raw::Int))
            }
        }
    }

    /// Text with references within. A list has no spelling within a text.
    fn mixed(&mut self, place: &str, tree: &Tree, text: &str, scope: &Scope<'_>) -> Result<String, String> {
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(at) = rest.find("${") {
            let (before, behind) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = behind.get(2..).unwrap_or_default();
                continue;
            }
            let Some((name, after)) = behind.get(2..).and_then(|b| b.split_once('}')) else {
                return Err("`${` has no `}`; for the text itself write `$${`".to_owned());
            };
            let value = match scope.get(name)? {
                Value::One(value) => value,
                Value::Many(_) => {
                    return Err(format!(
                        "`{name}` is a list: it stands alone where a list is wanted, or a task is mapped over it"
                    ));
                }
            };
            out.push_str(before);
            if !self.room(place, tree, value.len()) {
                return Err(String::new());
            }
            out.push_str(value);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// The name, when the whole text is one reference.
pub(super) fn reference(text: &str) -> Option<&str> {
    let name = text.strip_prefix("${")?.strip_suffix('}')?;
    (!name.contains(['{', '}', '$'])).then_some(name)
}
