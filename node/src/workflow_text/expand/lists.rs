//! What is mapped over what.

use super::super::keys;
use super::super::params::{self, ITEM, Value};
use super::super::read::{cut, suggestion};
use super::super::tree::{Raw, Tree};
use super::fill::{Filler, Scope, reference};
use super::item_id;
use remote_network_core::job::workflow::MAP_ITEMS_MAX;
use std::collections::{BTreeMap, BTreeSet};

/// Most fields of an item.
const FIELDS_MAX: usize = 32;

/// An item of a list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Item {
    /// `${item}`.
    One(String),
    /// `${item.field}`, for each.
    Fields(Vec<(String, String)>),
}

/// Which list it is: what has the same can be joined item by item.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Identity {
    Source(String),
    Items(Vec<Item>),
}

/// A list that a node is written out over.
pub(super) struct List {
    /// The same number: the same list.
    pub same: usize,
    /// Its items.
    pub items: Vec<Item>,
    /// What the item is called.
    pub called: String,
    /// Of a source: what each of its parts hands out.
    pub source: Option<Vec<Tree>>,
}

/// The lists of all nodes that are written out.
#[derive(Default)]
pub(super) struct Lists {
    of: BTreeMap<String, List>,
}

impl Lists {
    pub(super) fn find(filler: &mut Filler<'_>, nodes: &Tree, scope: &Scope<'_>) -> Self {
        let mut lists = Self::default();
        let Raw::Map(entries) = nodes.raw() else { return lists };
        let mut known: BTreeMap<Identity, usize> = BTreeMap::new();
        for (key, node) in entries {
            let Some(map) = map_of(node) else { continue };
            let place = format!("nodes.{}.task.map", cut(&key.value));
            let Some((called, found)) = read_map(filler, &place, map, entries, scope) else { continue };
            let (identity, items, parts) = match found {
                Found::Items(items) => (Identity::Items(items.clone()), items, None),
                Found::Source(id, items, parts) => (Identity::Source(id.clone()), items, Some((id, parts))),
            };
            let next = known.len();
            let same = *known.entry(identity).or_insert(next);
            if let Some((id, parts)) = parts {
                let list = List { same, items: items.clone(), called: String::new(), source: Some(parts) };
                lists.of.insert(id, list);
            }
            lists.of.insert(key.value.clone(), List { same, items, called, source: None });
        }
        lists
    }

    pub(super) fn of(&self, node: &str) -> Option<&List> {
        self.of.get(node)
    }

    /// How many nodes it becomes.
    pub(super) fn len_of(&self, node: &str) -> usize {
        self.of(node).map_or(1, |list| list.items.len())
    }

    pub(super) fn names(&self) -> BTreeSet<String> {
        self.of.keys().cloned().collect()
    }

    /// Conditions that ask about mapped tasks: item by item when the one who asks is mapped over the same list.
    pub(super) fn conditions(
        &self,
        filler: &mut Filler<'_>,
        place: &str,
        node: Tree,
        asker: Option<(&List, usize)>,
    ) -> Tree {
        if self.of.is_empty() {
            return node;
        }
        edit(&node, &["task", "when"], &mut |when| {
            let Raw::Seq(questions) = when.raw() else { return when.clone() };
            let questions = questions.iter().enumerate().map(|(n, question)| {
                edit(question, &["task"], &mut |task| {
                    let Raw::Text(id) = task.raw() else { return task.clone() };
                    match (self.of(id), asker) {
                        (None, _) => task.clone(),
                        (Some(about), Some((own, i))) if about.same == own.same => {
                            task.with(Raw::Text(item_id(id, i)))
                        }
                        (Some(_), _) => {
                            let at = format!("{place}.task.when[{n}].task");
                            let reason = format!(
                                "`{id}` is mapped over another list: ask about one of its items, `{id}[0]`"
                            );
                            filler.reader.say(&at, task.location(), reason);
                            task.clone()
                        }
                    }
                })
            });
            when.with(Raw::Seq(questions.collect()))
        })
    }
}

enum Found {
    Items(Vec<Item>),
    Source(String, Vec<Item>, Vec<Tree>),
}

type Entries = [(super::super::tree::Key, Tree)];

fn read_map(
    filler: &mut Filler<'_>,
    place: &str,
    map: &Tree,
    nodes: &Entries,
    scope: &Scope<'_>,
) -> Option<(String, Found)> {
    let fields = filler.reader.fields(place, map, keys::MAP)?;
    let called = match fields.get("as") {
        None => ITEM.to_owned(),
        Some(t) => {
            let at = format!("{place}.as");
            let name = filler.reader.text(&at, t)?;
            if !params::valid_name(&name) || name == params::INDEX || scope.has(&name) {
                let reason = "is no name for an item: letters, digits, `-`, `_`, and neither `index` nor a parameter's name";
                filler.reader.say(&at, t.location(), reason);
                return None;
            }
            name
        }
    };
    let at = format!("{place}.over");
    let Some(over) = fields.get("over") else {
        let reason = "needs `over`: a list, `${parameter}` that is a list, or the name of a source";
        filler.reader.say(place, map.location(), reason);
        return None;
    };
    let found = match over.raw() {
        Raw::Seq(_) => {
            let filled = filler.fill(&at, over, false, scope);
            Found::Items(items(filler, &at, &filled)?)
        }
        Raw::Text(text) => match reference(text) {
            Some(name) => match scope.get(name) {
                Ok(Value::Many(items)) => {
                    if !filler.room(&at, over, items.iter().map(String::len).sum()) {
                        return None;
                    }
                    Found::Items(items.iter().cloned().map(Item::One).collect())
                }
                Ok(Value::One(_)) => {
                    let reason = format!("`{}` is no list: declare it with `type: list`", cut(name));
                    filler.reader.say(&at, over.location(), reason);
                    return None;
                }
                Err(reason) => {
                    filler.reader.say(&at, over.location(), reason);
                    return None;
                }
            },
            None => source(filler, &at, over, text, nodes, scope)?,
        },
        Raw::Null | Raw::Bool(_) | Raw::Int(_) | Raw::Float(_) | Raw::Map(_) => {
            filler.reader.wrong(&at, over, "a list, `${parameter}` or the name of a source");
            return None;
        }
    };
    let n = match &found {
        Found::Items(items) | Found::Source(_, items, _) => items.len(),
    };
    if n == 0 || n > MAP_ITEMS_MAX {
        let reason = format!("has {n} items; a task is mapped over 1 to {MAP_ITEMS_MAX}");
        filler.reader.say(&at, over.location(), reason);
        return None;
    }
    Some((called, found))
}

fn items(filler: &mut Filler<'_>, place: &str, list: &Tree) -> Option<Vec<Item>> {
    let trees = filler.reader.items(place, list)?;
    let mut items = Vec::with_capacity(trees.len().min(MAP_ITEMS_MAX));
    for (at, tree) in trees {
        let item = match tree.raw() {
            Raw::Map(entries) if !entries.is_empty() && entries.len() <= FIELDS_MAX => {
                let mut fields = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    fields.push((
                        key.value.clone(),
                        filler.reader.scalar(&format!("{at}.{}", cut(&key.value)), value)?,
                    ));
                }
                fields.sort();
                Item::Fields(fields)
            }
            _ => Item::One(filler.reader.scalar(&at, tree)?),
        };
        // All alike, so that what fits one item fits each.
        if items.first().is_some_and(|first| !alike(first, &item)) {
            filler.reader.say(
                &at,
                tree.location(),
                "is not like the first item: all are texts, or mappings with the same keys",
            );
            return None;
        }
        items.push(item);
    }
    Some(items)
}

fn alike(a: &Item, b: &Item) -> bool {
    match (a, b) {
        (Item::One(_), Item::One(_)) => true,
        (Item::Fields(a), Item::Fields(b)) => a.iter().map(|(k, _)| k).eq(b.iter().map(|(k, _)| k)),
        (Item::One(_), Item::Fields(_)) | (Item::Fields(_), Item::One(_)) => false,
    }
}

fn source(
    filler: &mut Filler<'_>,
    place: &str,
    over: &Tree,
    id: &str,
    nodes: &Entries,
    scope: &Scope<'_>,
) -> Option<Found> {
    let sources = || nodes.iter().filter_map(|(k, n)| child(n, "source").map(|s| (k.value.as_str(), s)));
    let Some((_, source)) = sources().find(|(name, _)| *name == id) else {
        let hint = suggestion(id, sources().map(|(name, _)| name));
        let reason = format!("there is no source `{}`{hint}; a list is written `[…]`", cut(id));
        filler.reader.say(place, over.location(), reason);
        return None;
    };
    let only = match source.raw() {
        Raw::Map(entries) => match entries.as_slice() {
            [(k, parts)] if matches!(k.value.as_str(), "files" | "objects") => {
                Some((k.value.as_str(), parts))
            }
            _ => None,
        },
        Raw::Null | Raw::Bool(_) | Raw::Int(_) | Raw::Float(_) | Raw::Text(_) | Raw::Seq(_) => None,
    };
    let Some((kind, parts)) = only else {
        let reason = format!("the source `{}` has no `files` and no `objects` to go over", cut(id));
        filler.reader.say(place, over.location(), reason);
        return None;
    };
    let at = format!("nodes.{}.source.{kind}", cut(id));
    let filled = filler.fill(&at, parts, false, scope);
    let mut items = Vec::new();
    let mut one = Vec::new();
    for (at, part) in filler.reader.items(&at, &filled)? {
        let word = match kind {
            "files" => part,
            _ => child(part, "digest").unwrap_or(part),
        };
        items.push(Item::One(filler.reader.scalar(&at, word)?));
        one.push(
            filled.with(Raw::Map(vec![(key_like(source, kind)?, filled.with(Raw::Seq(vec![part.clone()])))])),
        );
    }
    Some(Found::Source(id.to_owned(), items, one))
}

fn key_like(tree: &Tree, name: &str) -> Option<super::super::tree::Key> {
    let Raw::Map(entries) = tree.raw() else { return None };
    entries.iter().find(|(k, _)| k.value == name).map(|(k, _)| k.clone())
}

/// The value at a key of a mapping.
fn child<'t>(tree: &'t Tree, name: &str) -> Option<&'t Tree> {
    let Raw::Map(entries) = tree.raw() else { return None };
    entries.iter().find(|(k, _)| k.value == name).map(|(_, t)| t)
}

fn map_of(node: &Tree) -> Option<&Tree> {
    child(child(node, "task")?, "map")
}

/// Whether the node says that it is mapped.
pub(super) fn is_mapped(node: &Tree) -> bool {
    map_of(node).is_some()
}

/// The node as it is written for one item: without saying that it is one of many.
pub(super) fn without_map(node: &Tree) -> Tree {
    edit(node, &["task"], &mut |task| {
        let Raw::Map(entries) = task.raw() else { return task.clone() };
        let mut first = true;
        let others = entries.iter().filter(|(k, _)| k.value != "map" || !std::mem::take(&mut first));
        task.with(Raw::Map(others.cloned().collect()))
    })
}

/// The source with one of its parts. Only the first keeps what else is written in the node, for the reader to refuse.
pub(super) fn source_of_one(node: &Tree, part: &Tree, index: usize) -> Tree {
    match (index, key_like(node, "source")) {
        (1.., Some(key)) => node.with(Raw::Map(vec![(key, part.clone())])),
        _ => edit(node, &["source"], &mut |_| part.clone()),
    }
}

/// The tree with what stands at these keys made anew.
fn edit(tree: &Tree, keys: &[&str], make: &mut dyn FnMut(&Tree) -> Tree) -> Tree {
    let (Some((name, rest)), Raw::Map(entries)) = (keys.split_first(), tree.raw()) else {
        return if keys.is_empty() { make(tree) } else { tree.clone() };
    };
    let entries = entries.iter().map(|(key, value)| {
        let value = if key.value == *name { edit(value, rest, make) } else { value.clone() };
        (key.clone(), value)
    });
    tree.with(Raw::Map(entries.collect()))
}
