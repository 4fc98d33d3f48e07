//! From the tree as written to the tree that is read: parameters are put in, and what is mapped over a list is written
//! out. A pure function from a tree to a tree, before anything is understood: so all that comes later (reader, core,
//! plans, digests, records) sees a workflow that somebody could have written by hand, and every part of it still knows
//! where it stands in the text.
//!
//! | Edge | becomes |
//! |---|---|
//! | mapped → ordinary | one from each item, in order |
//! | ordinary → mapped | one to each item |
//! | mapped → mapped over the same list | item to item |
//! | source → task that is mapped over it | each task gets its own file |
//!
//! Lists are the same when their items are; a list that is a source's files only if the source is. Two mapped tasks over
//! different lists have no edge: what would that be? A text of some bytes can ask for very much, so the bytes, nodes and
//! edges of what is written out are counted before they are made.

mod edges;
mod fill;
mod lists;

use super::params::{self, Params};
use super::read::Reader;
use super::tree::{Key, Raw, Tree, location};
use super::{Problem, keys};
use fill::{Filler, Scope};
use lists::Lists;
use remote_network_core::job::plan::PLAN_BYTES_MAX;
use remote_network_core::limits::WORKFLOW_NODES_MAX;
use std::collections::BTreeSet;

/// Bytes of a workflow that is written out. The core refuses plans of more.
const WRITTEN_OUT_BYTES_MAX: usize = PLAN_BYTES_MAX;

/// A tree without parameters and maps.
pub(super) struct Expanded {
    /// The tree.
    pub tree: Tree,
    /// For each edge the place that it has in the list as written.
    pub edges: Vec<usize>,
    /// The nodes that were written out.
    pub mapped: BTreeSet<String>,
}

/// Writes everything out, or says what is wrong.
pub(super) fn expand(tree: &Tree, given: &Params) -> Result<Expanded, Vec<Problem>> {
    let mut reader = Reader::default();
    let written_out = whole(&mut reader, tree, given);
    let problems = reader.problems();
    if problems.is_empty() { Ok(written_out) } else { Err(problems) }
}

fn whole(reader: &mut Reader, tree: &Tree, given: &Params) -> Expanded {
    let mut out = Expanded { tree: tree.clone(), edges: Vec::new(), mapped: BTreeSet::new() };
    let Raw::Map(entries) = tree.raw() else { return out };
    let declared = entries.iter().find(|(k, _)| k.value == "params").map(|(_, t)| t);
    let values = params::resolve(reader, declared, given);
    if reader.has_problems() {
        // Each use of what has no value would be told as well, and says nothing new.
        return out;
    }
    let scope = Scope::new(&values);
    let mut filler = Filler::new(reader, WRITTEN_OUT_BYTES_MAX);
    // Nodes first: edges have to know what is mapped, wherever they stand in the text.
    let mut lists = Lists::default();
    let mut nodes = None;
    if let Some((_, tree)) = entries.iter().find(|(k, _)| k.value == "nodes") {
        lists = Lists::find(&mut filler, tree, &scope);
        nodes = Some(all_nodes(&mut filler, tree, &scope, &lists));
        out.mapped = lists.names();
    }
    let mut kept = Vec::with_capacity(entries.len());
    let mut seen_params = false;
    for (key, value) in entries {
        let name = key.value.as_str();
        let value = match name {
            // A second one is left for the reader, who refuses what is written twice.
            "params" if !std::mem::replace(&mut seen_params, true) => continue,
            "nodes" => nodes.take().unwrap_or_else(|| value.clone()),
            "edges" if out.edges.is_empty() => {
                let (edges, origins) = edges::all(&mut filler, value, &lists);
                out.edges = origins;
                edges
            }
            _ => filler.fill(name, value, keys::is_number(name), &scope),
        };
        kept.push((key.clone(), value));
    }
    out.tree = tree.with(Raw::Map(kept));
    out
}

fn all_nodes(filler: &mut Filler<'_>, tree: &Tree, scope: &Scope<'_>, lists: &Lists) -> Tree {
    let Raw::Map(entries) = tree.raw() else { return tree.clone() };
    let mut nodes: Vec<(Key, Tree)> = Vec::with_capacity(entries.len());
    let written: usize = entries.iter().map(|(key, _)| lists.len_of(&key.value)).sum();
    if written > WORKFLOW_NODES_MAX && written > entries.len() {
        let reason =
            format!("{written} nodes when lists are written out, at most {WORKFLOW_NODES_MAX} are allowed");
        filler.reader.say("nodes", tree.location(), reason);
        return tree.clone();
    }
    for (key, node) in entries {
        let id = key.value.as_str();
        let place = format!("nodes.{id}");
        filler.reader.note(&place, location(key.referenced));
        let Some(list) = lists.of(id) else {
            if lists::is_mapped(node) {
                // Its map was refused: what its item would have been called is not known.
                nodes.push((key.clone(), node.clone()));
                continue;
            }
            let filled = filler.fill(&place, node, false, scope);
            nodes.push((key.clone(), lists.conditions(filler, &place, filled, None)));
            continue;
        };
        let plain = lists::without_map(node);
        for (i, item) in list.items.iter().enumerate() {
            let mut item_key = key.clone();
            item_key.value = item_id(id, i);
            let made = match &list.source {
                Some(values) => match values.get(i) {
                    Some(one) => lists::source_of_one(node, one, i),
                    None => continue,
                },
                None => {
                    let scope = scope.with_item(&list.called, item, i);
                    let filled = filler.fill(&place, &plain, false, &scope);
                    lists.conditions(filler, &place, filled, Some((list, i)))
                }
            };
            nodes.push((item_key, made));
            // What is wrong with one item is wrong with all; once is enough.
            if filler.reader.has_problems() {
                break;
            }
        }
    }
    tree.with(Raw::Map(nodes))
}

/// What an item's node is called.
fn item_id(node: &str, index: usize) -> String {
    format!("{node}[{index}]")
}

#[cfg(test)]
mod tests;
